"""Streams as lines of JSON: what a program reads with one call a line, whatever the dialect."""
import json
import subprocess

from harness import case, cases, check, equal, main, need, need_program
from _streams import NDJSON, generate, infer, lines_of, number_of, serving

WAYS = {"predict": ("/models/numbers:predict", {"SEED": 7}), "infer": ("/v2/models/numbers/infer", infer()),
        "infer_stream": ("/v2/models/numbers/infer_stream", infer()),
        "generate_stream": ("/v2/models/numbers/generate_stream", generate())}


@cases({name: (name,) for name in WAYS})
def a_line_is_a_document(way):
    with serving() as server:
        path, body = WAYS[way]
        for accept in (NDJSON, "application/jsonl", "application/x-ndjson, text/event-stream;q=0.5, */*;q=0.1"):
            status, headers, answer = server.call("POST", path, json.dumps(body).encode(), {"accept": accept})
            equal((status, headers["content-type"]), (200, NDJSON))
            equal([number_of(line) for line in lines_of(answer)], [0, 1, 2])


@case
def httpx_reads_lines_as_they_come():
    httpx = need("httpx")
    with serving() as server:
        for version in (False, True):
            with httpx.Client(http1=not version, http2=version, timeout=60) as client:
                with client.stream("POST", server.url + "/v2/models/numbers/generate_stream", headers={"accept": NDJSON},
                                   json=generate(count=5, delay_ms=30)) as reply:
                    equal([number_of(json.loads(line)) for line in reply.iter_lines()], list(range(5)))


@case
def jq_reads_curl():
    need_program("curl")
    need_program("jq")
    with serving() as server:
        curl = subprocess.Popen(["curl", "-sSN", server.url + "/models/numbers:predict", "-H", "accept: " + NDJSON, "-d",
                                 '{"SEED": 1}'], stdout=subprocess.PIPE)
        done = subprocess.run(["jq", ".NUMBER"], stdin=curl.stdout, capture_output=True, text=True)
        equal((curl.wait(), done.stdout.split()), (0, ["0", "1", "2"]))


@case
def an_error_is_the_last_line():
    with serving() as server:
        body = json.dumps(generate(fail_at=2)).encode()
        status, _, answer = server.call("POST", "/v2/models/numbers/generate_stream", body, {"accept": NDJSON})
        found = lines_of(answer)
        equal((status, len(found), found[2]), (200, 3, {"error": 'it failed "on" purpose'}))


@case
def a_question_for_json_gets_json():
    with serving() as server:
        for accept in ("application/json", "*/*", "application/json, application/x-ndjson", "text/html"):
            status, headers, answer = server.call("POST", "/models/one:predict", b'{"x": 1}', {"accept": accept})
            equal((status, headers["content-type"], json.loads(answer)), (200, "application/json", {"y": 1.0}), accept)


if __name__ == "__main__":
    main()
