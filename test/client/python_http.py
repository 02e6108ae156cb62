"""requests, httpx (sync and asyncio), urllib and http.client: general HTTP clients with their own ideas of connections."""
import asyncio
import gzip
import http.client
import json
import urllib.error
import urllib.request

from harness import case, check, equal, main, need
from _client import IRIS_INPUT, IRIS_LABELS, serving

DOCUMENT = {"inputs": [{"name": "input", "shape": [3, 4], "datatype": "FP32", "data": IRIS_INPUT}]}
PATH = "/v2/models/iris/infer"


def labels(document):
    return {tensor["name"]: tensor["data"] for tensor in document["outputs"]}["label"]


@case
def requests_session():
    requests = need("requests")
    with serving() as server, requests.Session() as session:
        for _ in range(20):
            reply = session.post(server.url + PATH, json=DOCUMENT, timeout=30)
            equal((reply.status_code, labels(reply.json())), (200, IRIS_LABELS))
        reply = session.post(server.url + "/models/spam:predict", json={"text": "You won a prize, call now"}, timeout=30)
        equal(reply.json()["label"], "spam")
        reply = session.post(server.url + PATH, data=(piece for piece in [json.dumps(DOCUMENT).encode()]), timeout=30)
        equal((reply.status_code, labels(reply.json())), (200, IRIS_LABELS), "a generator, which is sent in chunks")
        reply = session.post(server.url + PATH, data=gzip.compress(json.dumps(DOCUMENT).encode()),
                             headers={"Content-Encoding": "gzip", "Accept-Encoding": "gzip, deflate, br"}, timeout=30)
        equal((reply.status_code, labels(reply.json())), (200, IRIS_LABELS), "gzip both ways")
        equal(session.get(server.url + "/nothing", timeout=30).status_code, 404)


@case
def httpx_client():
    httpx = need("httpx")
    with serving() as server, httpx.Client(base_url=server.url, timeout=30) as client:
        for _ in range(20):
            equal(labels(client.post(PATH, json=DOCUMENT).json()), IRIS_LABELS)
        with client.stream("POST", PATH, json=DOCUMENT) as reply:
            equal(labels(json.loads(b"".join(reply.iter_bytes()))), IRIS_LABELS)
        equal(client.head("/v2").status_code, 200)


@case
def httpx_many_at_once():
    httpx = need("httpx")
    with serving() as server:
        async def work():
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
                replies = await asyncio.gather(*(client.post(PATH, json=DOCUMENT) for _ in range(200)))
            equal([labels(reply.json()) for reply in replies], [IRIS_LABELS] * 200)
        asyncio.run(work())


@case
def aiohttp_client():
    aiohttp = need("aiohttp")
    with serving() as server:
        async def work():
            async with aiohttp.ClientSession() as session:
                for _ in range(10):
                    async with session.post(server.url + PATH, json=DOCUMENT) as reply:
                        equal(labels(await reply.json()), IRIS_LABELS)
        asyncio.run(work())


@case
def urllib_request():
    with serving() as server:
        request = urllib.request.Request(server.url + PATH, json.dumps(DOCUMENT).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            equal(labels(json.load(reply)), IRIS_LABELS)
        try:
            urllib.request.urlopen(server.url + "/v2/models/none", timeout=30)
            check(False, "no error")
        except urllib.error.HTTPError as error:
            equal(error.code, 404)
            check("none" in json.load(error)["error"], "the model is not named")


@case
def http_client_keeps_its_connection():
    with serving() as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        for _ in range(20):
            connection.request("POST", PATH, json.dumps(DOCUMENT))
            reply = connection.getresponse()
            equal(labels(json.loads(reply.read())), IRIS_LABELS)
            check(not reply.will_close, "the connection was to be closed")
        connection.close()


@case
def numpy_array_by_npy():
    """A .npy file is a body, and an answer."""
    numpy, requests = need("numpy"), need("requests")
    import io
    with serving() as server:
        file = io.BytesIO()
        numpy.save(file, numpy.array(IRIS_INPUT, dtype=numpy.float32))
        reply = requests.post(server.url + "/models/iris:predict", data=file.getvalue(), timeout=30,
                              headers={"Content-Type": "application/x-npy"})
        equal(reply.status_code, 200, reply.text[:200])
        check("virginica" in reply.text, "%s", reply.text[:300])


if __name__ == "__main__":
    main()
