"""REST over HTTP/2 without TLS: curl and httpx, as people use them."""
import asyncio
import json
import subprocess

from harness import case, check, equal, main, need, need_program
from _client import IRIS_INPUT, serving

BODY = {"inputs": [{"name": "input", "shape": [3, 4], "datatype": "FP32", "data": IRIS_INPUT}]}


def curl(*arguments):
    need_program("curl")
    done = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", "--max-time", "30", *arguments], capture_output=True)
    check(done.returncode == 0, "curl %s: %s", " ".join(arguments), done.stderr.decode(errors="replace"))
    return done.stdout


@case
def curl_with_prior_knowledge():
    with serving() as server:
        out = curl(server.url + "/models/spam:predict", "-d", '{"text": "You won a prize, call now"}', "-w", "\n%{http_version}")
        body, version = out.decode().rsplit("\n", 1)
        equal((json.loads(body)["label"], version), ("spam", "2"))
        out = curl(server.url + "/v2/models/iris/infer", "--json", json.dumps(BODY))
        plain = subprocess.run(["curl", "-sS", "--http1.1", server.url + "/v2/models/iris/infer", "--json", json.dumps(BODY)],
                               capture_output=True).stdout
        equal(json.loads(out), json.loads(plain), "HTTP/2 and HTTP/1.1")


@case
def curl_uploads_and_downloads():
    """Eight megabytes each way, larger than any window."""
    values = bytes(range(256)) * (8 << 12)
    head = json.dumps({"inputs": [{"name": "IN", "shape": [1, len(values) // 4], "datatype": "FP32",
                                   "parameters": {"binary_data_size": len(values)}}],
                       "parameters": {"binary_data_output": True}}).encode()
    with serving() as server:
        need_program("curl")
        done = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", "--max-time", "60", "--data-binary", "@-", "-H",
                               "Inference-Header-Content-Length: %d" % len(head), server.url + "/v2/models/echo_FP32/infer"],
                              input=head + values, capture_output=True)
        check(done.returncode == 0 and done.stdout.endswith(values), "%s", done.stderr)


@case
def curl_upgrades_from_http1_or_stays():
    """--http2 without TLS asks for the upgrade that RFC 9113 took away: the answer comes over HTTP/1.1."""
    with serving() as server:
        need_program("curl")
        done = subprocess.run(["curl", "-sS", "--http2", "--max-time", "30", server.url + "/v2", "-w", "\n%{http_version}"],
                              capture_output=True, text=True)
        body, version = done.stdout.rsplit("\n", 1)
        equal((json.loads(body)["name"], version), ("penstock", "1.1"))


@case
def curl_gets_compressed_answers():
    with serving() as server:
        out = curl("--compressed", server.url + "/v2/models/iris")
        equal(json.loads(out)["name"], "iris")


@case
def httpx_many_at_once():
    httpx = need("httpx")
    need("h2")

    async def work(server):
        async with httpx.AsyncClient(http1=False, http2=True, timeout=60) as client:
            async def one(i):
                reply = await client.post(server.url + "/models/iris:predict", json=dict(zip(
                    ("sepal_length", "sepal_width", "petal_length", "petal_width"), IRIS_INPUT[i % 3])))
                equal((reply.http_version, reply.status_code), ("HTTP/2", 200))
                equal(reply.json()["label"], ("setosa", "versicolor", "virginica")[i % 3])
            await asyncio.gather(*(one(i) for i in range(300)))
            missing = await client.get(server.url + "/nothing")
            equal(missing.status_code, 404)
            wrong = await client.post(server.url + "/v2/models/iris/infer", content=b"{")
            check(wrong.status_code == 400 and wrong.json()["error"], "%s", wrong.text)
    with serving() as server:
        asyncio.run(work(server))


if __name__ == "__main__":
    main()
