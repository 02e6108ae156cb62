"""More than the server can do: what is refused, how that is said in each dialect, and that a quiet tenant does not feel it. Counts, not times:
the machine may be busy."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import socket
import struct
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "wire"))
from harness import case, check, equal, main, models, need, Server
from _wire import echo_config, metric, resident, until
import _frames

RUN_MS = 20


def slow_config(**more):
    return echo_config("slow", mode="delay", delay_ms=RUN_MS, **more)


def serving(*options, config=None, **others):
    stack = contextlib.ExitStack()
    folder = stack.enter_context(models({"slow/config.pbtxt": config or slow_config(), "slow/1/.keep": b""}))
    server = stack.enter_context(Server(folder, options=list(options), **others))
    server.wait_ready()
    return stack, server


BODY = json.dumps({"inputs": [{"name": "IN", "shape": [1], "datatype": "FP32", "data": [0.5]}]}).encode()


class Caller:
    """One connection that asks again and again."""

    def __init__(self, server, path="/v2/models/slow/infer", body=BODY):
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        self.path, self.body = path, body

    def ask(self, **headers):
        headers = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        self.connection.request("POST", self.path, self.body, {"content-type": "application/json", **headers})
        answer = self.connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def warm(server, times=12):
    caller = Caller(server)
    for _ in range(times):
        equal(caller.ask()[0], 200)


def burst(server, count, **headers):
    """So many at once; their answers."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: Caller(server).ask(**headers), range(count)))


def refused(server, reason):
    return metric(server, "penstock_refused_total", model="slow", reason=reason)


@case
def a_deadline_that_cannot_be_met_is_refused_at_once():
    stack, server = serving()
    with stack:
        warm(server)
        found = burst(server, 60, x_request_timeout_ms=10 * RUN_MS)
        answers = [one for one in found if one[0] == 200]
        no = [one for one in found if one[0] in (503, 504)]
        equal(len(answers) + len(no), 60)
        check(3 <= len(answers) <= 14, "%d were answered", len(answers))
        hints = [one for one in no if "retry-after-ms" in one[1]]
        check(len(hints) >= 30, "%d of %d say when to ask again", len(hints), len(no))
        for _, headers, body in hints:
            check(1 <= int(headers["retry-after-ms"]) <= 60 * RUN_MS and headers["retry-after"] in ("1", "2"), "%s", headers)
            check(b"deadline cannot be met" in body or b"overloaded" in body, "%s", body)
        check(refused(server, "deadline") >= 30, "%s", refused(server, "deadline"))
        runs = metric(server, "penstock_model_runs_queued_total", model="slow")
        check(runs - 12 <= len(answers) + 3, "%d ran for %d answers: those behind did not", runs - 12, len(answers))
        until(lambda: metric(server, "nv_inference_pending_request_count", model="slow") == 0, "the queue is empty")
        equal(Caller(server).ask(x_request_timeout_ms=10 * RUN_MS)[0], 200, "and takes requests again")


@case
def callers_who_wait_are_not_refused():
    """However many they are: each asks again when it was answered."""
    stack, server = serving()
    with stack:
        def ask_on(_):
            caller = Caller(server)
            return [caller.ask()[0] for _ in range(3)]
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            found = sum(pool.map(ask_on, range(32)), [])
        equal(found, [200] * 96)
        equal(metric(server, "penstock_queue_overloaded", model="slow"), 0)


@case
def a_wait_that_is_too_long_is_refused():
    stack, server = serving("--queue-delay", "100ms")
    with stack:
        warm(server)
        found = [status for status, _, _ in burst(server, 64)]
        equal(found.count(200) + found.count(503), 64)
        check(12 <= found.count(200) <= 40, "16 runs' time may be waited, %d were answered", found.count(200))
        equal(refused(server, "delay"), found.count(503))
        check(0.4 > metric(server, "penstock_queue_wait_max_seconds", model="slow") > 0.05, "the limit now")
        check(0.1 > metric(server, "penstock_queue_run_seconds", model="slow") > 0.01, "what a run takes")
    stack, server = serving("--queue-delay", "0")
    with stack:
        warm(server)
        equal([status for status, _, _ in burst(server, 64)], [200] * 64)
        equal(metric(server, "penstock_queue_wait_max_seconds", model="slow"), 0)


@case
def a_model_says_its_own_limit():
    config = slow_config().rstrip() + b'\nparameters { key: "queue_delay_us" value { string_value: "0" } }\n'
    stack, server = serving("--queue-delay", "1us", config=config)
    with stack:
        warm(server)
        equal([status for status, _, _ in burst(server, 40)], [200] * 40)


@case
def what_loses_its_place_is_told():
    """The queue is full: one of higher priority takes the place of the newest of lower."""
    stack, server = serving("--queue-max", "8", "--queue-delay", "0")
    with stack:
        warm(server, 2)
        usual = json.loads(BODY)
        urgent = dict(usual, parameters={"priority": 1})

        def ask(document):
            return Caller(server, body=json.dumps(document).encode()).ask()
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            long = pool.submit(ask, dict(usual, parameters={"delay_ms": 2000}))
            until(lambda: metric(server, "nv_inference_pending_request_count", model="slow") >= 1, "one runs")
            first = [pool.submit(ask, usual) for _ in range(8)]
            until(lambda: metric(server, "nv_inference_pending_request_count", model="slow") >= 9, "the queue is full")
            then = [pool.submit(ask, urgent) for _ in range(4)]
            first, then = ([one.result()[0] for one in some] for some in (first, then))
            equal(long.result()[0], 200)
        equal(then, [200] * 4)
        equal((first.count(503), refused(server, "displaced")), (4, 4))


# --- models that run on the loop ---------------------------------------------------------------------------

NUMBERS, SENDERS, AHEAD = 30000, 24, 6      # a request is about a millisecond of JSON; so many lie in sockets at once


def inline_serving(*options):
    stack = contextlib.ExitStack()
    folder = stack.enter_context(models({"wide/config.pbtxt": echo_config("wide"), "wide/1/.keep": b""}))
    server = stack.enter_context(Server(folder, options=["--execution", "inline", "--loops", "1", *options]))
    server.wait_ready()
    return stack, server


def wide_request(*headers):
    body = json.dumps({"inputs": [{"name": "IN", "shape": [NUMBERS], "datatype": "FP32", "data": [0.5] * NUMBERS}]}).encode()
    head = ["POST /v2/models/wide/infer HTTP/1.1", "host: 127.0.0.1", "content-length: %d" % len(body), *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def send_ahead(server, request, leaves=False):
    """One connection that sends AHEAD requests before it reads: (status, headers) of each answer."""
    with socket.create_connection((server.host, server.port), 60) as connection:
        if leaves:
            connection.sendall(request)
            return []
        sender = threading.Thread(target=connection.sendall, args=(request * AHEAD,))
        sender.start()
        found, answers = [], connection.makefile("rb")
        for _ in range(AHEAD):
            status, headers = int(answers.readline().split()[1]), {}
            for line in iter(answers.readline, b"\r\n"):
                name, value = line.decode().split(":", 1)
                headers[name.lower()] = value.strip()
            answers.read(int(headers["content-length"]))
            found.append((status, headers))
        sender.join()
        return found


def send_at_once(server, request, leaves=False):
    with concurrent.futures.ThreadPoolExecutor(SENDERS) as pool:
        return sum(pool.map(lambda _: send_ahead(server, request, leaves), range(SENDERS)), [])


def queued_ms(headers):
    return max(float(part.split("dur=")[1]) for part in headers["server-timing"].split(", ") if part.startswith("queue"))


@case
def more_than_a_loop_can_run_at_once_waits_for_it():
    stack, server = inline_serving("--server-timing")
    with stack:
        found = send_at_once(server, wide_request())
        equal([status for status, _ in found], [200] * SENDERS * AHEAD)
        check(max(queued_ms(headers) for _, headers in found) > 1, "nobody waited")
        equal(metric(server, "nv_inference_request_success", model="wide"), SENDERS * AHEAD)
        equal(metric(server, "penstock_inline_waiting"), 0)
        equal(metric(server, "penstock_model_runs_queued_total", model="wide"), 0)


@case
def what_a_loop_cannot_run_in_time_is_refused():
    """Who leaves while it waits is forgotten; and the server is there for whoever comes then."""
    stack, server = inline_serving()
    with stack:
        found = send_at_once(server, wide_request("x-request-timeout-ms: 10"))
        statuses = [status for status, _ in found]
        no = [headers for status, headers in found if status in (503, 504)]
        equal(statuses.count(200) + len(no), SENDERS * AHEAD)
        check(len(no) > 0, "24 at once, a millisecond each, and 10 ms of time")
        check(all(int(headers.get("retry-after-ms", 1)) >= 1 for headers in no), "%s", no)
        # some were still decoded when their time was up: those are late too
        equal(sum(metric(server, "penstock_refused_total", model="wide", reason=reason)
                  for reason in ("late", "deadline", "behind", "full", "delay")), len(no))
        equal(send_at_once(server, wide_request(), leaves=True), [])
        until(lambda: metric(server, "penstock_inline_waiting") == 0, "nobody waits")
        equal([status for status, _ in send_ahead(server, wide_request())], [200] * AHEAD)


@case
def calls_wait_for_the_loop_too():
    grpc = need("grpc")
    service = need("tritonclient.grpc.service_pb2")
    stack, server = inline_serving("--server-timing")
    with stack, grpc.insecure_channel("%s:%d" % (server.host, server.port)) as channel:
        request = service.ModelInferRequest(model_name="wide")
        tensor = request.inputs.add(name="IN", datatype="FP32", shape=[1])
        tensor.contents.fp32_contents.append(0.5)
        text = request.SerializeToString()
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", response_deserializer=service.ModelInferResponse.FromString)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            beside = pool.submit(send_at_once, server, wide_request())
            waited = []
            while not beside.done():
                for one in [call.future(text, timeout=60) for _ in range(50)]:
                    equal(one.result().model_name, "wide")
                    waited.append(queued_ms(dict(one.trailing_metadata())))
            check(max(waited) > 0.5, "no call waited: %s", waited)
            equal([status for status, _ in beside.result()], [200] * SENDERS * AHEAD)
        gone = [call.future(text, timeout=60) for _ in range(50)]
        for one in gone:
            one.cancel()
        until(lambda: metric(server, "penstock_inline_waiting") == 0, "nobody waits")
        equal(call(text, timeout=60).model_name, "wide")


# --- words -----------------------------------------------------------------------------------------------

@contextlib.contextmanager
def full(server):
    """Around it one runs for long and one waits, and no more may."""
    long = json.dumps({**json.loads(BODY), "parameters": {"delay_ms": 60000}}).encode()
    callers = [Caller(server, body=long) for _ in range(2)]
    for number, caller in enumerate(callers):
        caller.connection.connect()
        caller.connection.request("POST", caller.path, long, {"content-type": "application/json"})
        until(lambda: metric(server, "nv_inference_pending_request_count", model="slow") == number + 1, "%d wait" % number)
    yield
    for caller in callers:
        caller.connection.close()


@case
def every_dialect_says_when_to_ask_again():
    stack, server = serving("--queue-max", "1", "--queue-delay", "0")
    with stack, full(server):
        status, headers, body = Caller(server).ask()
        equal((status, list(json.loads(body))), (503, ["error"]))
        check(int(headers["retry-after"]) >= 1 and int(headers["retry-after-ms"]) >= 1, "%s", headers)
        status, headers, body = Caller(server, "/models/slow:predict", b'{"IN": [0.5]}').ask()
        equal(status, 429)
        error = json.loads(body)["error"]
        equal((error["code"], str(error["retry_after_ms"])), ("RESOURCE_EXHAUSTED", headers["retry-after-ms"]))
        status, headers, body = Caller(server, "/models/slow:predict", b'{"IN": [0.5]}').ask(accept="text/event-stream")
        equal(status, 429)
        check("retry-after-ms" in headers and "retry_after_ms" in json.loads(body)["error"], "%s %s", headers, body)


@case
def grpc_says_when_to_ask_again():
    grpc = need("grpc")
    service = need("tritonclient.grpc.service_pb2")
    stack, server = serving("--queue-max", "1", "--queue-delay", "0")
    with stack, full(server), grpc.insecure_channel("%s:%d" % (server.host, server.port)) as channel:
        request = service.ModelInferRequest(model_name="slow")
        tensor = request.inputs.add(name="IN", datatype="FP32", shape=[1])
        tensor.contents.fp32_contents.append(0.5)
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        error = None
        try:
            call(request.SerializeToString(), timeout=60)
        except grpc.RpcError as failed:
            error = failed
        equal(error.code(), grpc.StatusCode.UNAVAILABLE)
        trailers = dict(error.trailing_metadata())
        check(int(trailers["grpc-retry-pushback-ms"]) >= 1, "%s", trailers)
        check(b"google.rpc.RetryInfo" in trailers["grpc-status-details-bin"], "%s", trailers)


@case
def a_stream_of_triton_says_when_to_ask_again():
    """An error within ModelStreamInfer has no status, so the response beside it has a parameter."""
    grpc = need("grpc")
    service = need("tritonclient.grpc.service_pb2")
    stack, server = serving("--queue-max", "1", "--queue-delay", "0")
    with stack, full(server), grpc.insecure_channel("%s:%d" % (server.host, server.port)) as channel:
        request = service.ModelInferRequest(model_name="slow", id="a")
        tensor = request.inputs.add(name="IN", datatype="FP32", shape=[1])
        tensor.contents.fp32_contents.append(0.5)
        wrong = service.ModelInferRequest(model_name="slow", id="b")
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", service.ModelInferRequest.SerializeToString,
                                     service.ModelStreamInferResponse.FromString)
        found, other = list(call(iter([request, wrong]), timeout=60))
        check(found.error_message and found.infer_response.id == "a", "%s", found)
        check(found.infer_response.parameters["retry_after_ms"].int64_param >= 1, "%s", found)
        check(found.infer_response.parameters["triton_final_response"].bool_param, "%s", found)
        check(other.error_message and "retry_after_ms" not in other.infer_response.parameters, "%s", other)


@case
def a_message_that_never_fits_has_no_time():
    grpc = need("grpc")
    stack, server = serving("--max-message", "1KiB")
    with stack, grpc.insecure_channel("%s:%d" % (server.host, server.port)) as channel:
        error = None
        try:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(bytes(4096), timeout=60)
        except grpc.RpcError as failed:
            error = failed
        equal(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        equal(dict(error.trailing_metadata()).get("grpc-retry-pushback-ms"), "-1")


@case
def a_connection_too_many_is_told_in_its_protocol():
    stack, server = serving("--connections-max", "6")
    with stack:
        held = []
        for _ in range(7): # as many as there is room for: the test's own are counted too
            one = socket.create_connection((server.host, server.port), 10)
            one.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            if b" 200 " not in one.recv(1000):
                one.close()
                break
            held.append(one)
        check(3 <= len(held) <= 6, "%d of 6", len(held))
        with socket.create_connection((server.host, server.port), 10) as third:
            third.sendall(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            answer = third.makefile("rb").read()
            check(b" 503 " in answer and b"\r\nretry-after: " in answer and b"--connections-max" in answer, "%s", answer)
        with socket.create_connection((server.host, server.port), 10) as third:
            third.sendall(_frames.PREFACE + _frames.frame(_frames.SETTINGS))
            answer = third.makefile("rb").read()
            size, kind = int.from_bytes(answer[:3], "big"), answer[3]
            equal((size, kind), (0, _frames.SETTINGS))
            rest = answer[9:]
            equal((rest[3], struct.unpack(">II", rest[9:17])), (_frames.GOAWAY, (0, _frames.ENHANCE_YOUR_CALM)))
            check(b"--connections-max" in rest[17:], "%s", rest)
        with socket.create_connection((server.host, server.port), 10) as third: # says nothing
            check(b" 503 " in third.makefile("rb").read(), "told all the same")
        for one in held:
            one.close()


# --- memory ----------------------------------------------------------------------------------------------

@case
def a_body_over_the_limit_is_refused_from_its_head():
    stack, server = serving()
    with stack:
        warm(server, 2)
        before, answer, sent = resident(server), b"", 0
        with socket.create_connection((server.host, server.port), 20) as big:
            big.sendall(b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n" % (256 << 20))
            big.settimeout(10)
            answer = big.recv(4096)
            try:
                while sent < 256 << 20:
                    sent += big.send(bytes(1 << 20))
            except OSError:
                pass
        check(b" 413 " in answer.split(b"\r\n")[0] and b"connection: close" in answer.lower(), "%s", answer)
        check(sent < 64 << 20, "%d MiB of it were taken", sent >> 20)
        check(resident(server) - before < 8 << 20, "%d KiB more memory", (resident(server) - before) >> 10)


if __name__ == "__main__":
    main()
