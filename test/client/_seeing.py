"""What the tests of logs and traces share: the same small inference by every transport, each with headers of its own."""
import json
import struct

from harness import check, equal, need
from _streams import SSE
from _ws import Socket

V2 = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [2.5]}]}
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def infer_message(model="one"):
    """A ModelInferRequest for it, by hand: no generated code is needed for four fields."""
    def field(number, data):
        return bytes([number << 3 | 2, len(data)]) + data

    tensor = field(1, b"x") + field(2, b"FP32") + b"\x18\x01"
    return field(1, model.encode()) + field(5, tensor) + field(7, struct.pack("<f", 2.5))


def rest(server, headers):
    status, _, body = server.call("POST", "/models/one:predict", b'{"x": 2.5}', headers)
    equal((status, json.loads(body)), (200, {"y": 2.5}))


def rest_http2(server, headers):
    httpx = need("httpx")
    with httpx.Client(http1=False, http2=True, timeout=30) as client:
        reply = client.post(server.url + "/v2/models/one/infer", json=V2, headers=headers)
        equal((reply.http_version, reply.status_code), ("HTTP/2", 200))


def sse(server, headers):
    status, _, body = server.call("POST", "/models/numbers:predict", b'{"SEED": 7}', {"accept": SSE, **headers})
    equal((status, body.count(b"data: ")), (200, 3))


def grpc(server, headers):
    grpc_ = need("grpc")
    with grpc_.insecure_channel(server.address) as channel:
        answer = channel.unary_unary(INFER)(infer_message(), metadata=tuple(headers.items()), timeout=30)
        check(struct.pack("<f", 2.5) in answer, "%r", answer)


def grpc_stream(server, headers):
    grpc_ = need("grpc")
    with grpc_.insecure_channel(server.address) as channel:
        answers = channel.stream_stream(STREAM)(iter([infer_message()] * 3), metadata=tuple(headers.items()), timeout=30)
        equal(len(list(answers)), 3)


def grpc_web(server, headers):
    message = infer_message()
    status, _, body = server.call("POST", INFER, b"\0" + struct.pack(">I", len(message)) + message,
                                  {"content-type": "application/grpc-web+proto", **headers})
    check(status == 200 and b"grpc-status: 0" in body, "%s %r", status, body)


def websocket(server, headers):
    with Socket(server, "/models/one/stream", headers.items()) as ws:
        ws.send('{"inputs": {"x": [2.5]}}')
        answer = ws.recv()
        while "output" not in json.loads(answer):     # what it begins with
            answer = ws.recv()
        check("2.5" in answer, "%r", answer)
        ws.close()
        ws.recv()


# how, what it is told as: (protocol, method, route, status, code or None, model, responses)
TRANSPORTS = {
    "rest": (rest, "HTTP/1.1", "POST", "/models/{model}:predict", 200, None, "one", 1),
    "rest_http2": (rest_http2, "HTTP/2", "POST", "/v2/models/{model}/infer", 200, None, "one", 1),
    "sse": (sse, "HTTP/1.1", "POST", "/models/{model}:predict", 200, None, "numbers", 3),
    "grpc": (grpc, "HTTP/2", "POST", INFER, 200, "OK", "one", 1),
    "grpc_stream": (grpc_stream, "HTTP/2", "POST", STREAM, 200, "OK", None, 3),
    "grpc_web": (grpc_web, "HTTP/1.1", "POST", INFER, 200, "OK", "one", 1),
    "websocket": (websocket, "HTTP/1.1", "GET", "/models/{model}/stream", 101, "OK", "one", 1),
}
