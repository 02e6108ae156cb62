"""Thousands of requests with something wrong in them, from a seed: each gets a well-formed answer or a closed connection, and the
server goes on. PENSTOCK_MUTATIONS sets how many (4000), PENSTOCK_SEED which; a failure prints the seed and the request."""
import gzip
import json
import os
import random
import socket
import struct
import sys

from harness import ROOT, Server, case, check, equal, main
sys.path.insert(0, os.path.join(ROOT, "test", "wire"))
from _wire import EXAMPLES, IRIS, Wire, head, still_serves  # noqa: E402

COUNT = int(os.environ.get("PENSTOCK_MUTATIONS", "4000"))
SEED = int(os.environ.get("PENSTOCK_SEED", "1"))


def request(method, path, body=None, headers=()):
    return head(method, path, body, headers) + (body or b"")


def seeds():
    """Right requests of every kind."""
    iris = json.dumps(dict(IRIS, id="x", parameters={"a": 1, "b": "c"}, outputs=[
        {"name": "label", "parameters": {"binary_data": True}}, {"name": "probabilities", "parameters": {"classification": 2}}
    ])).encode()
    text = json.dumps({"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32",
                                   "parameters": {"binary_data_size": 16}}]}).encode()
    binary = text + struct.pack("<4f", 5.1, 3.5, 1.4, 0.2)
    spam = json.dumps({"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES",
                                   "parameters": {"binary_data_size": 9}}]}).encode()
    typed = b'{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}'
    length = "Inference-Header-Content-Length"
    yield request("POST", "/v2/models/iris/infer", iris)
    yield request("POST", "/v2/models/iris/versions/1/infer", gzip.compress(iris), [("Content-Encoding", "gzip"),
                                                                                  ("Accept-Encoding", "gzip")])
    yield request("POST", "/v2/models/iris/infer", binary, [(length, len(text))])
    yield request("POST", "/v2/models/iris/infer", binary[len(text):], [(length, 0)])
    yield request("POST", "/v2/models/spam/infer", spam + b"\x05\0\0\0hello", [(length, len(spam))])
    yield request("POST", "/models/iris:predict", typed, [("Content-Type", "application/json")])
    yield request("POST", "/models/spam:predict", b'{"text": ["a", "\\u00e9\\ud83d\\ude00"]}')
    yield request("POST", "/v2/models/iris/infer", None, [("Transfer-Encoding", "chunked")]) + \
        b"%x;a=b\r\n%s\r\n5\r\n     \r\n0\r\nX: y\r\n\r\n" % (len(iris), iris)
    yield request("POST", "/v2/repository/index", b'{"ready": true}')
    for path in ("/v2", "/v2/models/iris/config", "/v2/models/stats", "/models/iris", "/metrics", "/healthz", "/"):
        yield request("GET", path, None, [("Accept", "text/html, */*;q=0.5"), ("Host", "x")][:1])
    yield request("OPTIONS", "/v2", None, [("Origin", "http://127.0.0.1"), ("Access-Control-Request-Method", "POST")])


WORDS = [b"\r\n", b"\n", b"\0", b" ", b":", b",", b"{", b"}", b"[", b"]", b'"', b"\\u0000", b"\\ud800", b"-1", b"0", b"1e999", b"NaN",
         b"9" * 30, b"null", b"true", b"\xff", b"\xe2\x80\xa8", b"%00", b"%2f", b"..", b"chunked", b"gzip", b"identity",
         b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n",
         b"[" * 300, b"a" * 5000, b"HTTP/1.0", b"HEAD", struct.pack("<I", 0xFFFFFFFF), b'"binary_data_size":1', b'"shape":[-1]']


def mutate(random_, data):
    data = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 3, 6))):
        at = random_.randrange(len(data) + 1)
        kind = random_.randrange(7)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << random_.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = random_.randrange(256)
        elif kind == 2:
            data[at:at] = random_.choice(WORDS)
        elif kind == 3:
            del data[at:at + random_.choice((1, 1, 2, 4, 16, 64))]
        elif kind == 4:
            piece = data[at:at + random_.choice((1, 4, 16, 64))]
            data[at:at] = piece * random_.choice((1, 1, 2, 50))
        elif kind == 5:
            word = random_.choice(WORDS)
            data[at:at + len(word)] = word
        else:
            del data[at:]
    return bytes(data)


def converse(server, data, random_):
    """Sends it, in one piece or several, says that nothing more comes, and reads all answers: each must be well-formed."""
    with Wire(server, seconds=20) as wire:
        step = random_.choice((len(data) or 1, len(data) or 1, 1 + len(data) // 3, 7 if len(data) < 600 else 400))
        for i in range(0, len(data), step):
            wire.send(data[i:i + step])
        try:
            wire.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        answers = 0
        while wire.data or wire.more():
            is_head = data.lstrip(b"\r\n").startswith(b"HEAD ")
            reply = wire.reply(is_head=is_head)
            answers += 1
            check(100 <= reply.status < 600 and reply.status != 500, "%r", reply)
            kind = reply.header("content-type") or ""
            if kind == "application/json" and reply.header("content-encoding") is None and not is_head:
                json.loads(reply.body)
        return answers


@case
def mutated_requests():
    random_ = random.Random(SEED)
    originals = list(seeds())
    with Server(EXAMPLES, options=["--header-timeout", "5s", "--body-timeout", "5s"]) as server:
        for data in originals:
            with Wire(server) as wire:
                wire.send(data)
                check(wire.reply().status < 300, "a request that should be right is not: %r", data)
        answers = 0
        for number in range(COUNT):
            data = mutate(random_, random_.choice(originals))
            try:
                answers += converse(server, data, random_)
            except Exception:
                print("PENSTOCK_SEED=%d, request %d: %r" % (SEED, number, data[:3000]), file=sys.stderr)
                raise
            if number % 500 == 0:
                still_serves(server)
        still_serves(server)
        check(answers > COUNT / 3, "only %d answers to %d requests", answers, COUNT)


if __name__ == "__main__":
    main()
