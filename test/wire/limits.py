"""Full queues, deadlines, models that fail: what the caller is told, in the form of each dialect."""
import json
import signal
import time

from harness import Server, case, cases, check, equal, main, models
from _wire import Wire, ask, echo_config, head, in_tensor, metric, post, serving, still_serves, until

BODY = json.dumps(in_tensor()).encode()
TYPED_BODY = b'{"IN": [0.5]}'
KSERVE, TYPED = "/v2/models/slow/infer", "/models/slow:predict"


def slow(delay_ms, instances=1, **more):
    return {"slow/config.pbtxt": echo_config("slow", dims="1", instances=instances, mode="delay", delay_ms=delay_ms, **more)}


def pending(server):
    return metric(server, "nv_inference_pending_request_count", model="slow") or 0


@case
def full_queue():
    with serving(slow(3000), options=["--queue-max", "2"]) as server:
        wires = []
        for i in range(3):      # one runs, two wait
            wire = Wire(server)
            wire.send(head("POST", KSERVE, BODY) + BODY)
            wires.append(wire)
            if i == 0:
                time.sleep(0.2)
        until(lambda: pending(server) >= 2, "the queue is full")
        reply = post(server, KSERVE, BODY)
        equal(reply.status, 503)
        check(int(reply.header("retry-after")) >= 1, "%r", reply)
        check("queue" in reply.json()["error"], "%r", reply.body)
        reply = post(server, TYPED, TYPED_BODY)
        equal((reply.status, reply.json()["error"]["code"]), (429, "RESOURCE_EXHAUSTED"))
        check(int(reply.header("retry-after")) >= 1, "%r", reply)
        still_serves(server)    # another model's queue is its own
        check((metric(server, "nv_inference_request_failure", model="slow", reason="REJECTED") or 0) >= 2, "REJECTED is not counted")
        for wire in wires:
            equal(wire.reply().status, 200, "one who was admitted")


@case
def queue_bound_of_the_model():
    """config.pbtxt's max_queue_size counts for its model."""
    extra = "dynamic_batching { default_queue_policy { max_queue_size: 1 } }"
    config = echo_config("slow", dims="1", batch=1, extra=extra, mode="delay", delay_ms=2000)
    body = json.dumps(in_tensor(shape=[1, 1])).encode()
    with serving({"slow/config.pbtxt": config}) as server:
        wires = []
        for i in range(2):
            wire = Wire(server)
            wire.send(head("POST", KSERVE, body) + body)
            wires.append(wire)
            time.sleep(0.2)
        equal(post(server, KSERVE, body).status, 503)
        for wire in wires:
            equal(wire.reply().status, 200)


@cases({"kserve": (KSERVE, BODY), "typed": (TYPED, TYPED_BODY)})
def deadline_while_it_runs(path, body):
    with serving(slow(3600000)) as server:
        begin = time.monotonic()
        reply = ask(server, "POST", path, body, [("Content-Type", "application/json"), ("X-Request-Timeout-Ms", "150")])
        took = time.monotonic() - begin
        equal(reply.status, 504)
        check(0.1 < took < 3, "took %.2f s", took)
        text = reply.body.decode()
        check("run" in text, "the stage is not named: %s", text)
        if path == TYPED:
            equal(reply.json()["error"]["code"], "DEADLINE_EXCEEDED")
        # and the model is free again
        equal(ask(server, "POST", KSERVE, json.dumps(dict(in_tensor(), parameters={"delay_ms": 1})).encode()).status, 200)


@case
def deadline_while_it_waits():
    with serving(slow(1500)) as server, Wire(server) as wire:
        wire.send(head("POST", KSERVE, BODY) + BODY)
        time.sleep(0.2)
        begin = time.monotonic()
        reply = ask(server, "POST", KSERVE, BODY, [("X-Request-Timeout-Ms", "150")])
        check(time.monotonic() - begin < 1, "waited longer than the deadline")
        equal(reply.status, 504)
        check("queue" in reply.json()["error"], "the stage is not named: %r", reply.body)
        equal(wire.reply().status, 200)


@case
def deadline_of_the_server():
    with serving(slow(3600000), options=["--request-timeout", "200ms"]) as server:
        equal(post(server, KSERVE, BODY).status, 504)
        # a caller's own is looked at first
        document = dict(in_tensor(), parameters={"delay_ms": 500})
        equal(post(server, KSERVE, document, [("X-Request-Timeout-Ms", "5000")]).status, 200)


@case
def deadline_that_is_none():
    with serving() as server:
        for value in ("-1", "soon", "1.5", "99999999999999999999", ""):
            reply = ask(server, "POST", "/v2/models/iris/infer", b"{}", [("X-Request-Timeout-Ms", value)])
            equal(reply.status, 400, "timeout %r" % value)
            check("x-request-timeout-ms" in reply.json()["error"].lower() or value == "", "%r", reply.body)


@case
def queue_timeout_of_triton():
    """The request parameter `timeout` (microseconds) counts while it waits, where the model allows it; 504 with the stage."""
    extra = "dynamic_batching { default_queue_policy { allow_timeout_override: true } }"
    config = echo_config("slow", dims="1", batch=1, extra=extra, mode="delay", delay_ms=1500)
    body = json.dumps(in_tensor(shape=[1, 1])).encode()
    late = json.dumps(dict(in_tensor(shape=[1, 1]), parameters={"timeout": 100000})).encode()
    with serving({"slow/config.pbtxt": config}) as server, Wire(server) as wire:
        wire.send(head("POST", KSERVE, body) + body)
        time.sleep(0.2)
        begin = time.monotonic()
        reply = post(server, KSERVE, late)
        equal(reply.status, 504)
        check("queue" in reply.json()["error"], "%r", reply.body)
        check(time.monotonic() - begin < 1, "the queue timeout was not kept")
        equal(wire.reply().status, 200)


@cases({"internal": ("INTERNAL", 500, "INTERNAL"), "invalid": ("INVALID_ARGUMENT", 400, "INVALID_ARGUMENT"),
        "unavailable": ("UNAVAILABLE", 503, "UNAVAILABLE"), "unimplemented": ("UNIMPLEMENTED", 501, "UNIMPLEMENTED")})
def model_that_fails(code, status, name):
    config = echo_config("slow", dims="1", mode="fail", code=code, text="the scales are broken")
    with serving({"slow/config.pbtxt": config}) as server:
        for _ in range(3):
            reply = post(server, KSERVE, BODY)
            equal(reply.status, status)
            check("the scales are broken" in reply.json()["error"], "%r", reply.body)
        reply = post(server, TYPED, TYPED_BODY)
        equal((reply.status, reply.json()["error"]["code"]), (status, name))
        check("the scales are broken" in reply.json()["error"]["message"], "%r", reply.body)
        stats = server.get("/v2/models/slow/stats")[1]["model_stats"][0]["inference_stats"]
        equal((stats["success"]["count"], stats["fail"]["count"]), (0, 4))
        check((metric(server, "nv_inference_request_failure", model="slow", reason="BACKEND") or 0) >= 1, "BACKEND is not counted")
        still_serves(server)


@case
def model_that_never_returns():
    """With a deadline its callers are answered; the other models do not notice it."""
    with serving(slow(3600000)) as server:
        for _ in range(5):
            equal(ask(server, "POST", KSERVE, BODY, [("X-Request-Timeout-Ms", "50")]).status, 504)
            still_serves(server)
        until(lambda: pending(server) == 0, "nothing waits")


@case
def memory_limit():
    """Bodies together take what the operator allows, and not more: 429 or 503 with a hint, then all is well again."""
    options = ["--memory-limit", "24MiB", "--max-body", "12MiB"]
    with serving({"slow/config.pbtxt": echo_config("slow", mode="delay", delay_ms=1500, instances=8)}, options=options) as server:
        server.wait_ready()
        idle = metric(server, "penstock_memory_used_bytes")     # what the log of events takes
        count = 2 << 20         # 8 MiB a body
        text = json.dumps({"inputs": [{"name": "IN", "shape": [count], "datatype": "FP32",
                                       "parameters": {"binary_data_size": count * 4}}],
                           "parameters": {"binary_data_output": True}}).encode()
        body = text + bytes(count * 4)
        request = head("POST", KSERVE, body, [("Inference-Header-Content-Length", len(text))]) + body
        wires = [Wire(server) for _ in range(4)]
        for wire in wires:
            wire.send(request)
        replies = [wire.reply() for wire in wires]
        refused = [reply for reply in replies if reply.status != 200]
        check(refused, "32 MiB of bodies fitted into 24")
        for reply in refused:
            check(reply.status in (429, 503) and reply.header("retry-after"), "%r", reply)
        check(metric(server, "penstock_limit_hits_total", limit="memory-limit") > 0, "the limit was hit and is not counted")
        for wire in wires:
            wire.socket.close()
        small = json.dumps(in_tensor()).encode()
        equal(post(server, KSERVE, small).status, 200)

        def one_alone():
            with Wire(server) as wire:
                wire.send(request)
                return wire.reply().status == 200
        until(one_alone, "one alone fits")      # once the others' memory is given back
        until(lambda: metric(server, "penstock_memory_used_bytes") == idle, "all memory of requests is given back")


@case
def draining():
    """After SIGTERM calls under way are finished, idle connections end, and the server ends by itself."""
    with models({"slow/config.pbtxt": slow(1200)["slow/config.pbtxt"], "slow/1/.keep": b""}) as folder:
        server = Server(folder).start()
        with Wire(server) as wire, Wire(server) as idle:
            idle.request("GET", "/v2/health/ready")
            equal(idle.reply().status, 200)
            wire.send(head("POST", KSERVE, BODY) + BODY)
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            idle.closed("an idle connection")
            reply = wire.reply()
            equal((reply.status, reply.header("connection")), (200, "close"))
            wire.closed()
        equal(server.process.wait(10), 0)


if __name__ == "__main__":
    main()
