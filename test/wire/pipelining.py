"""Many requests on one connection: answered in their order, however they arrive (RFC 9112, 9.3)."""
import json

from harness import case, check, equal, main
from _wire import INFER, IRIS, IRIS_BODY, Wire, echo_config, head, in_tensor, metric, serving, until

SLOW = {"slow/config.pbtxt": echo_config("slow", dims="1", mode="delay", delay_ms=150)}


def iris(sepal_length, id):
    document = {"id": id, "inputs": [dict(IRIS["inputs"][0], data=[sepal_length, 3.5, 1.4, 0.2])]}
    return json.dumps(document).encode()


@case
def answers_come_in_order():
    with serving() as server, Wire(server) as wire:
        bodies = [iris(4 + i / 10, "r%d" % i) for i in range(12)]
        wire.send(b"".join(head("POST", INFER, body) + body for body in bodies))
        for i in range(12):
            reply = wire.reply()
            equal((reply.status, reply.json()["id"]), (200, "r%d" % i))


@case
def a_slow_answer_holds_back_those_behind_it():
    with serving(SLOW) as server, Wire(server) as wire:
        slow = json.dumps({"id": "slow", **in_tensor()}).encode()
        wire.send(head("POST", "/v2/models/slow/infer", slow) + slow + head("POST", INFER, IRIS_BODY) + IRIS_BODY
                  + head("GET", "/v2/health/live"))
        first = wire.reply()
        equal((first.status, first.json().get("id")), (200, "slow"))
        equal(wire.reply().json()["model_name"], "iris")
        equal(wire.reply().status, 200)


@case
def more_than_are_read_ahead():
    """Four hundred at once with a read-ahead of four: all are answered, none is lost, memory stays bounded."""
    with serving(options=["--pipeline-max", "4"]) as server, Wire(server) as wire:
        one = head("POST", INFER, IRIS_BODY) + IRIS_BODY
        wire.send(one * 400)
        for _ in range(400):
            equal(wire.reply().status, 200)
        check(wire.is_open(), "the connection ended")


@case
def byte_by_byte():
    with serving() as server, Wire(server) as wire:
        text = (head("POST", INFER, IRIS_BODY) + IRIS_BODY) * 2
        for i in range(len(text)):
            wire.send(text[i:i + 1])
        for _ in range(2):
            equal(wire.reply().json()["outputs"][0]["data"], [0])


@case
def split_at_every_place():
    """A request cut in two anywhere, on one connection after the other request."""
    with serving() as server:
        text = head("POST", INFER, IRIS_BODY) + IRIS_BODY
        with Wire(server) as wire:
            for cut in range(1, len(text)):
                wire.send(text[:cut])
                check(not wire.data, "an answer before the request was whole")
                wire.send(text[cut:])
                equal(wire.reply().status, 200, "cut at %d" % cut)


@case
def connection_close_is_the_last():
    with serving() as server, Wire(server) as wire:
        wire.send(head("GET", "/v2/health/live", headers=[("Connection", "close")]) + head("GET", "/v2/health/ready"))
        reply = wire.reply()
        equal((reply.status, reply.header("connection")), (200, "close"))
        wire.closed()


@case
def http_1_0_ends_after_one():
    with serving() as server, Wire(server) as wire:
        wire.send("GET /v2/health/live HTTP/1.0\r\n\r\n")
        equal(wire.reply().status, 200)
        wire.closed()


@case
def http_1_0_is_told_what_becomes_of_the_connection():
    """A 1.0 client that asks to keep it open is told whether it stays, and it is so."""
    with serving() as server, Wire(server) as wire:
        wire.send("GET /v2/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        reply = wire.reply()
        equal(reply.status, 200)
        said = (reply.header("connection") or "").lower()
        check(said in ("keep-alive", "close"), "%r", reply)
        if said == "close":
            wire.closed()
        else:
            wire.request("GET", "/v2/health/live")
            equal(wire.reply().status, 200)


@case
def half_closed_gets_its_answer():
    """A client that has said everything and shuts its side down still hears the answer of a request that was whole."""
    import socket
    with serving() as server, Wire(server) as wire:
        wire.request("POST", INFER, IRIS_BODY, [("Connection", "close")])
        wire.socket.shutdown(socket.SHUT_WR)
        # the design lets half-close be departure on HTTP/1.1: then the connection ends, and nothing may be half said
        while wire.more():
            pass
        if wire.data:
            equal(wire.reply().status, 200)
        until(lambda: metric(server, "nv_inference_pending_request_count", model="iris") in (None, 0), "iris is idle")


@case
def requests_per_connection_end():
    with serving(options=["--requests-per-connection-max", "3"]) as server, Wire(server) as wire:
        for i in range(3):
            wire.request("GET", "/v2/health/live")
            reply = wire.reply()
            equal(reply.status, 200)
            equal(reply.header("connection") == "close", i == 2, "connection: close of request %d" % (i + 1))
        wire.closed()


if __name__ == "__main__":
    main()
