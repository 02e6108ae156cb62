"""Callers who leave: what they asked for stops, is counted as cancelled, and nothing of it stays."""
import json
import socket
import struct
import time

from harness import case, check, equal, main
from _wire import INFER, IRIS_BODY, Wire, echo_config, head, in_tensor, metric, post, resident, serving, still_serves, until

SLOW = {"slow/config.pbtxt": echo_config("slow", dims="1", mode="delay", delay_ms=20000)}
PATH = "/v2/models/slow/infer"
BODY = json.dumps(in_tensor()).encode()


def reset(wire):
    """Closes with RST rather than FIN."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.socket.close()


def cancelled(server):
    return metric(server, "nv_inference_request_failure", model="slow", reason="CANCELED") or 0


def pending(server):
    return metric(server, "nv_inference_pending_request_count", model="slow") or 0


def leave(server, close, count=1):
    wires = []
    for _ in range(count):
        wire = Wire(server)
        wire.send(head("POST", PATH, BODY) + BODY)
        wires.append(wire)
    # the first runs on the only instance, the others wait
    until(lambda: pending(server) >= count - 1, "requests arrive")
    time.sleep(0.1)
    for wire in wires:
        close(wire)
    return wires


def stats(server):
    return server.get("/v2/models/slow/stats")[1]["model_stats"][0]["inference_stats"]


@case
def while_it_runs():
    with serving(SLOW) as server:
        leave(server, lambda wire: wire.socket.close())
        until(lambda: cancelled(server) == 1, "the run is cancelled")
        equal((stats(server)["success"]["count"], stats(server)["fail"]["count"]), (0, 1))
        still_serves(server)


@case
def while_it_waits():
    with serving(SLOW) as server:
        leave(server, lambda wire: wire.socket.close(), 5)
        until(lambda: cancelled(server) == 5, "all five are cancelled")
        equal(pending(server), 0)
        still_serves(server)


@case
def by_reset():
    with serving(SLOW) as server:
        leave(server, reset, 3)
        until(lambda: cancelled(server) == 3, "all three are cancelled")
        still_serves(server)


@case
def the_instance_is_free_at_once():
    """Twenty seconds of somebody who left are not waited for."""
    slow = {"slow/config.pbtxt": echo_config("slow", dims="1", mode="delay", delay_ms=20000)}
    with serving(slow) as server:
        leave(server, lambda wire: wire.socket.close())
        begin = time.monotonic()
        document = dict(in_tensor(), parameters={"delay_ms": 1})
        equal(post(server, PATH, document).status, 200)
        check(time.monotonic() - begin < 3, "the next call waited %.1f s", time.monotonic() - begin)


@case
def in_the_middle_of_a_body():
    with serving(SLOW) as server:
        for cut in (0, 1, len(BODY) // 2, len(BODY) - 1):
            with Wire(server) as wire:
                wire.send(head("POST", PATH, BODY) + BODY[:cut])
                time.sleep(0.02)
        with Wire(server) as wire:
            wire.send(head("POST", PATH, None, [("Transfer-Encoding", "chunked")]) + b"5\r\n{\"in")
        still_serves(server)
        equal(stats(server)["success"]["count"] + stats(server)["fail"]["count"], 0, "requests that were never whole")


@case
def in_the_middle_of_a_head():
    with serving() as server:
        text = head("POST", INFER, IRIS_BODY)
        for cut in range(0, len(text), 7):
            wire = Wire(server)
            wire.send(text[:cut])
            (reset if cut % 2 else (lambda w: w.socket.close()))(wire)
        still_serves(server)


@case
def in_the_middle_of_an_answer():
    size = 1 << 20
    text = json.dumps({"inputs": [{"name": "IN", "shape": [size], "datatype": "FP32",
                                   "parameters": {"binary_data_size": size * 4}}],
                       "parameters": {"binary_data_output": True}}).encode()
    body = text + bytes(size * 4)
    with serving({"echo/config.pbtxt": echo_config("echo")}) as server:
        before = resident(server)
        for i in range(12):
            wire = Wire(server)
            wire.send(head("POST", "/v2/models/echo/infer", body, [("Inference-Header-Content-Length", len(text))]) + body)
            wire.socket.recv(1000)
            (reset if i % 2 else (lambda w: w.socket.close()))(wire)
        until(lambda: resident(server) - before < 24 << 20, "memory of answers nobody reads goes back")
        still_serves(server)


@case
def with_requests_behind_it():
    """Leaves with a slow call under way and three more read ahead behind it."""
    with serving(SLOW) as server:
        wire = Wire(server)
        wire.send((head("POST", PATH, BODY) + BODY) * 4)
        time.sleep(0.2)
        wire.socket.close()
        until(lambda: cancelled(server) >= 1, "the call under way is cancelled")
        until(lambda: pending(server) == 0, "nothing waits")
        begin = time.monotonic()
        equal(post(server, PATH, dict(in_tensor(), parameters={"delay_ms": 1})).status, 200)
        check(time.monotonic() - begin < 3, "calls of somebody who left were run")
        still_serves(server)


@case
def a_thousand_of_them():
    """Memory after a thousand who left is memory before, and none is forgotten."""
    slow = {"slow/config.pbtxt": echo_config("slow", dims="1", mode="delay", delay_ms=20000, instances=4)}
    with serving(slow) as server:
        def round_of(count):
            before = cancelled(server)
            wires = []
            for _ in range(count):
                wire = Wire(server)
                wire.send(head("POST", PATH, BODY) + BODY)
                wires.append(wire)
            until(lambda: pending(server) >= count - 4, "requests arrive")
            for wire in wires:
                wire.socket.close()
            until(lambda: cancelled(server) == before + count, "%d are cancelled" % count)
        round_of(200)
        early = resident(server)
        for _ in range(4):
            round_of(200)
        check(resident(server) - early < 2 << 20, "%.1f MB more after 800 who left", (resident(server) - early) / 1e6)
        still_serves(server)


if __name__ == "__main__":
    main()
