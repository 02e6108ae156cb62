"""Triton's generate extension, by requests and curl: the behaviour that its own tests of generate ask for, and what they do not."""
import json
import subprocess
import threading

from harness import case, check, equal, main, need, need_program
from _client import IRIS_INPUT, echo, serving as serving_examples
from _streams import events_of, serving

# What Triton's tests call mock_llm: PROMPT and STREAM in, TEXT out, repeated by a parameter.
MOCK = (b'backend: "echo"\nmax_batch_size: 0\nmodel_transaction_policy { decoupled: true }\n'
        b'input [{ name: "PROMPT" data_type: TYPE_STRING dims: [ 1 ] }, { name: "STREAM" data_type: TYPE_BOOL dims: [ 1 ] }]\n'
        b'output [{ name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }]\n'
        b'parameters { key: "mode" value { string_value: "repeat" } }\n')


def post(server, route, body, model="mock_llm", **more):
    requests = need("requests")
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return requests.post("%s/v2/models/%s/%s" % (server.url, model, route), data=data, timeout=60, **more)


def fails(server, body, words, model="mock_llm", status=400):
    for route in ("generate", "generate_stream"):
        reply = post(server, route, body, model)
        check(reply.status_code == status and words in reply.json()["error"], "%s %s: %d %s", route, body, reply.status_code,
              reply.text)
        equal(reply.headers["content-type"], "application/json")


@case
def one_answer():
    with serving(mock_llm=MOCK) as server:
        reply = post(server, "generate", {"PROMPT": "hello world", "STREAM": False})
        equal((reply.status_code, reply.headers["content-type"]), (200, "application/json"))
        equal(reply.json(), {"model_name": "mock_llm", "model_version": "1", "TEXT": "hello world"})
        reply = post(server, "generate", {"PROMPT": ["héllo"], "STREAM": True, "id": "a\"7"})
        equal(reply.json(), {"id": "a\"7", "model_name": "mock_llm", "model_version": "1", "TEXT": "héllo"})


@case
def a_stream():
    with serving(mock_llm=MOCK) as server:
        for inner in (False, True):
            body = {"PROMPT": ["hello world"], "STREAM": True}
            (body.setdefault("parameters", {}) if inner else body)["count"] = 3
            reply = post(server, "generate_stream", body, headers={"Accept": "text/event-stream"})
            check("text/event-stream" in reply.headers["content-type"], "%s", reply.headers)
            equal([event["TEXT"] for event in events_of(reply.content)], ["hello world"] * 3)
            check("[DONE]" not in reply.text, "%s", reply.text)


@case
def other_numbers_of_responses():
    words = "generate expects model to produce exactly 1 response, use generate stream for model that generates various number " \
            "of responses"
    with serving(mock_llm=MOCK) as server:
        for count in (0, 2, 1000):
            body = {"PROMPT": "hello world", "STREAM": True, "count": count}
            reply = post(server, "generate", body)
            equal((reply.status_code, reply.json()), (500, {"error": words}), "count %d" % count)
            reply = post(server, "generate_stream", body)
            equal((reply.status_code, len(events_of(reply.content))), (200, count))
        # it does not wait for what nobody will read
        reply = post(server, "generate", {"PROMPT": "x", "STREAM": True, "count": 10 ** 9, "delay_ms": 1})
        equal(reply.status_code, 500)
        equal(post(server, "generate", {"PROMPT": "x", "STREAM": True}).status_code, 200, "the instance is free")


@case
def missing_inputs():
    with serving(mock_llm=MOCK) as server:
        for body in ({}, {"abc": 123}):
            fails(server, body, "expected 2 inputs but got 0")
        for body in ({"PROMPT": "hello"}, {"STREAM": False}, {"STREAM": False, "other": "param"}):
            fails(server, body, "expected 2 inputs but got 1")


@case
def invalid_types():
    with serving(mock_llm=MOCK) as server:
        fails(server, {"PROMPT": 123, "STREAM": False}, "attempt to access JSON non-string as string")
        fails(server, {"PROMPT": "hello", "STREAM": "false"}, "attempt to access JSON non-boolean as boolean")
        fails(server, {"PROMPT": True, "STREAM": 123}, "attempt to access JSON non-string as string")
        fails(server, {"STREAM": 123, "PROMPT": True}, "attempt to access JSON non-boolean as boolean")
        fails(server, {"PROMPT": {"USER": "a", "BOT": "b"}, "STREAM": True}, "attempt to access JSON non-string as string")
        fails(server, {"PROMPT": "a", "STREAM": True, "PARAMS": {"PARAM_0": 0}}, "parameter 'PARAMS' has invalid type")


@case
def duplicates():
    with serving(mock_llm=MOCK) as server:
        for again, name in (('"PROMPT": "again"', "PROMPT"), ('"STREAM": false', "STREAM"),
                            ('"PROMPT": "again", "STREAM": true', "PROMPT"), ('"STREAM": true, "PROMPT": "again"', "STREAM")):
            fails(server, '{"PROMPT": "hello", "STREAM": false, %s}' % again, "input '%s' already exists in request" % name)


@case
def nonsense():
    with serving(mock_llm=MOCK) as server:
        for body in ("", " ", "{", "[]", "null", "5", '"PROMPT"', "{}}", '{"PROMPT": "a" "STREAM": true}', b"\xff\xfe", "{" * 10000,
                     '{"a": ' + "[" * 10000, '{"PROMPT": "\\ud800", "STREAM": true}', b'{"PROMPT": "\xff", "STREAM": true}'):
            for route in ("generate", "generate_stream"):
                reply = post(server, route, body)
                check(reply.status_code == 400 and reply.json()["error"], "%r: %d %s", body[:40], reply.status_code, reply.text)
        reply = post(server, "generate", {"PROMPT": "x" * (65 << 20), "STREAM": True})
        check(reply.status_code == 413 and "--max-body" in reply.json()["error"], "%d %s", reply.status_code, reply.text)


@case
def a_failure_first_sets_the_status_and_one_in_flight_does_not():
    with serving() as server:
        for code, status in ((13, 500), (14, 503)):
            for route in ("generate", "generate_stream"):
                reply = post(server, route, {"SEED": 1, "fail_at": 0, "code": code}, "numbers")
                equal((reply.status_code, reply.json()), (status, {"error": 'it failed "on" purpose'}))
        reply = post(server, "generate_stream", {"SEED": 1, "fail_at": 1}, "numbers")
        found = events_of(reply.content)
        equal((reply.status_code, len(found), found[1]), (200, 2, {"error": 'it failed "on" purpose'}))


@case
def shapes_of_real_models():
    with serving_examples(free=echo("free", "FP32", "-1, 2, -1")) as server:
        reply = post(server, "generate", {"input": IRIS_INPUT[0]}, "iris").json()
        equal((reply["label"], len(reply["probabilities"])), (0, 3), "one row")
        flat = [number for row in IRIS_INPUT for number in row]
        for value in (flat, IRIS_INPUT):
            reply = post(server, "generate", {"input": value}, "iris").json()
            equal((reply["label"], len(reply["probabilities"])), ([0, 1, 2], 9), "three rows")
        reply = post(server, "generate", {"input": flat[:5]}, "iris")
        check(reply.status_code == 400 and "[-1,4]" in reply.json()["error"], "%s", reply.text)
        reply = post(server, "generate", {"text": "You won a prize, call now"}, "spam")
        equal((reply.status_code, reply.json()["label"]), (200, 1))
        reply = post(server, "generate", {"IN": [1, 2, 3, 4]}, "free").json()
        equal(reply["OUT"], [1.0, 2.0, 3.0, 4.0])
        reply = post(server, "generate", {"IN": []}, "free").json()
        equal(reply["OUT"], [])
        reply = post(server, "generate_stream", {"input": IRIS_INPUT[0]}, "iris")
        equal(len(events_of(reply.content)), 1, "a model of one answer streams that")


@case
def many_at_once():
    with serving(mock_llm=MOCK) as server:
        wrong = []

        def work(stream):
            reply = post(server, "generate_stream", {"PROMPT": "hello", "STREAM": stream, "count": 3 if stream else 1,
                                                     "param": "segfault"})
            if reply.status_code != 200 or len(events_of(reply.content)) != (3 if stream else 1):
                wrong.append(reply.text)
        threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        equal(wrong, [])


@case
def curl_by_version():
    need_program("curl")
    with serving(mock_llm=MOCK) as server:
        done = subprocess.run(["curl", "-sSf", server.url + "/v2/models/mock_llm/versions/1/generate", "-d",
                               '{"PROMPT": "hi", "STREAM": true}'], capture_output=True)
        equal(json.loads(done.stdout)["TEXT"], "hi")
        done = subprocess.run(["curl", "-sSN", server.url + "/v2/models/mock_llm/versions/1/generate_stream", "-d",
                               '{"PROMPT": "hi", "STREAM": true, "count": 2}'], capture_output=True)
        equal(len(events_of(done.stdout)), 2)


if __name__ == "__main__":
    main()
