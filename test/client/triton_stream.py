"""tritonclient.grpc's streams, unchanged: start_stream, async_stream_infer, stop_stream, for every kind of model."""
import contextlib
import queue
import time

from harness import case, cases, check, equal, main, need, raises
from _client import IRIS_LABELS, echo, serving
from _grpc import channel, iris_input, output, tensor
from _triton_stream import MODELS, SECONDS, is_final, numbers, repeat


class Stream:
    """One stream of the stock client; `next()` is (result, error) of the next answer."""

    def __init__(self, server, **others):
        self.client = need("tritonclient.grpc").InferenceServerClient(server.address)
        self.answers = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)), **others)

    def send(self, model, *values, **others):
        self.client.async_stream_infer(model, [numbers(*values)], **others)

    def next(self, seconds=SECONDS):
        return self.answers.get(timeout=seconds)

    def good(self, seconds=SECONDS):
        result, error = self.next(seconds)
        check(error is None, "%s", error)
        return result

    def bad(self, text):
        result, error = self.next()
        check(error is not None, "answered %s", result and result.get_response())
        check(text in error.message(), "%r lacks %r", error.message(), text)
        return error


@contextlib.contextmanager
def stream(server, **others):
    found = Stream(server, **others)
    try:
        yield found
    finally:
        found.client.stop_stream()
        found.client.close()


def metric(server, name):
    text = server.call("GET", "/metrics")[2].decode()
    return float(next(line for line in text.splitlines() if line.startswith(name + " ") or line.startswith(name + "{")).split()[-1])


# --- models that answer once ----------------------------------------------------------------------------------

@case
def one_answer_each_in_order():
    """Of different models and different speed: answers come in the order of the requests."""
    with serving(tiny=echo("tiny", "FP32"), **MODELS) as server, stream(server) as s:
        order = ["slow", "tiny", "slow", "tiny", "tiny", "slow"]
        for i, name in enumerate(order):
            s.send(name, i, i + 0.5, request_id="r%d" % i)
        for i, name in enumerate(order):
            result = s.good()
            equal((result.get_response().id, result.get_response().model_name), ("r%d" % i, name))
            equal(result.as_numpy("OUT").tolist(), [i, i + 0.5])
            check(is_final(result), "the only answer is the final one")


@case
def hundreds_of_requests():
    with serving(tiny=echo("tiny", "FP32")) as server, stream(server) as s:
        for i in range(500):
            s.send("tiny", i, request_id=str(i))
        found = [s.good() for _ in range(500)]
        equal([r.get_response().id for r in found], [str(i) for i in range(500)])
        equal([r.as_numpy("OUT")[0] for r in found], list(range(500)))
        equal(metric(server, "penstock_kserve_stream_requests_total"), 500)


@case
def outputs_classes_and_large_tensors():
    numpy = need("numpy")
    with serving() as server, stream(server) as s:
        s.client.async_stream_infer("iris", [iris_input()], outputs=[output("label")], request_id="a")
        s.client.async_stream_infer("iris", [iris_input()], outputs=[output("probabilities", class_count=1)])
        found = s.good()
        equal(found.as_numpy("label").tolist(), IRIS_LABELS)
        equal(len(found.get_response().outputs), 1)
        equal([row[0].decode().split(":")[1] for row in s.good().as_numpy("probabilities")], [str(i) for i in IRIS_LABELS])
        for rows in (1, 300, 70000, 3):     # in the message's own block, behind it, in memory of its own, and small again
            data = numpy.arange(rows * 4, dtype="float32").reshape(rows, 4)
            s.client.async_stream_infer("echo_FP32", [tensor("IN", data, "FP32")])
            equal(s.good().as_numpy("OUT").tobytes(), data.tobytes())
        words = numpy.array([["a", "ü" * 3000]], dtype=object)
        s.client.async_stream_infer("echo_BYTES", [tensor("IN", words, "BYTES")])
        equal([w.decode() for w in s.good().as_numpy("OUT")[0]], list(words[0]))


@case
def a_large_answer_waits_for_its_turn():
    """Its outputs stay while a slower request before it runs."""
    numpy = need("numpy")
    with serving(tiny=echo("tiny", "FP32"), **MODELS) as server, stream(server) as s:
        data = numpy.arange(200000, dtype="float32")
        s.send("slow", 1)
        for _ in range(3):
            s.client.async_stream_infer("tiny", [tensor("IN", data, "FP32")])
            s.send("tiny", 7)
        equal(s.good().as_numpy("OUT").tolist(), [1])
        for _ in range(3):
            equal(s.good().as_numpy("OUT").tobytes(), data.tobytes())
            equal(s.good().as_numpy("OUT").tolist(), [7])


# --- decoupled models -------------------------------------------------------------------------------------------

@case
def many_answers_for_one_request():
    with serving(**MODELS) as server, stream(server) as s:
        s.send("tokens", 1, 2, request_id="many", parameters={"count": "20"}, enable_empty_final_response=True)
        for _ in range(20):
            result = s.good()
            equal((result.get_response().id, result.as_numpy("OUT").tolist(), is_final(result)), ("many", [1, 2], False))
        result = s.good()
        response = result.get_response()
        equal((response.id, response.model_name, response.model_version, len(response.outputs)), ("many", "tokens", "1", 0))
        check(is_final(result), "the empty one is final")


@case
def no_empty_answer_unless_asked_for():
    with serving(**MODELS) as server, stream(server) as s:
        s.send("tokens", 1, parameters={"count": "2"})
        s.send("tokens", 2, parameters={"count": "0"})
        s.send("tokens", 3, parameters={"count": "1"}, enable_empty_final_response=True)
        found = [s.good() for _ in range(4)]
        equal([r.as_numpy("OUT").tolist() for r in found[:3]], [[1], [1], [3]])
        equal([is_final(r) for r in found], [False, False, False, True])
        with raises(queue.Empty):
            s.next(0.3)


@case
def answers_mix():
    """Decoupled models answer when they do; those that answer once keep their order among themselves."""
    with serving(tiny=echo("tiny", "FP32"), **MODELS) as server, stream(server) as s:
        s.send("paced", 1, request_id="a", parameters={"count": "10"}, enable_empty_final_response=True)
        s.send("paced", 2, request_id="b", parameters={"count": "10"}, enable_empty_final_response=True)
        for i in range(5):
            s.send("tiny", i, request_id="once")
        found = [s.good() for _ in range(27)]
        by = {key: [r for r in found if r.get_response().id == key] for key in "a b once".split()}
        equal({key: len(rows) for key, rows in by.items()}, {"a": 11, "b": 11, "once": 5})
        for key in "ab":
            equal([is_final(r) for r in by[key]], [False] * 10 + [True])
        equal([r.as_numpy("OUT")[0] for r in by["once"]], list(range(5)))


@case
def a_reader_that_stops_pauses_the_model():
    """A million answers to one that does not read: few are made, others are served, and leaving frees all."""
    grpc = need("grpc")
    pb = need("tritonclient.grpc.service_pb2")
    with serving(flood=repeat("flood", count=100000000), tiny=echo("tiny", "FP32")) as server, channel(server) as over:
        request = pb.ModelInferRequest(model_name="flood", id="x", raw_input_contents=[bytes(4096)])
        request.inputs.add(name="IN", datatype="FP32", shape=[1024])
        call = over.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer",
                                  request_serializer=pb.ModelInferRequest.SerializeToString,
                                  response_deserializer=pb.ModelStreamInferResponse.FromString)(iter([request]), timeout=60)
        next(call)

        def sent():
            return metric(server, 'penstock_grpc_messages_total{direction="out"}')
        until, last = time.monotonic() + 10, -1
        while sent() != last and time.monotonic() < until:
            last = sent()
            time.sleep(0.3)
        check(sent() == last and last < 20000, "%d answers were made for nobody", last)
        with stream(server) as s:
            s.send("tiny", 1)
            s.good()
        call.cancel()
        until = time.monotonic() + 5
        while metric(server, "penstock_kserve_streams_open") and time.monotonic() < until:
            time.sleep(0.02)
        equal(metric(server, "penstock_kserve_streams_open"), 0)


# --- ends ------------------------------------------------------------------------------------------------------

@case
def closing_finishes_what_is_under_way():
    with serving(**MODELS) as server:
        with stream(server) as s:
            s.send("slow", 1)
            s.send("paced", 2, parameters={"count": "5"})
        # stop_stream has half-closed and waited
        equal(s.answers.qsize(), 6)
        equal(metric(server, 'penstock_grpc_calls_total{code="OK"}'), 1)


@case
def cancelling_stops_the_models():
    with serving(**MODELS) as server:
        s = Stream(server)
        for i in range(3):
            s.send("endless", i)
        s.good()
        s.client.stop_stream(cancel_requests=True)
        begun = time.monotonic()
        while metric(server, 'penstock_kserve_streams_open') and time.monotonic() < begun + 5:
            time.sleep(0.01)
        equal(metric(server, "penstock_kserve_streams_open"), 0)
        check(time.monotonic() - begun < 2, "it took %.1f s", time.monotonic() - begun)
        s.client.close()
        with stream(server) as again:           # the model is free
            again.send("endless", 1)
            again.good()
            again.client.stop_stream(cancel_requests=True)


@case
def a_deadline_ends_the_stream():
    with serving(**MODELS) as server:
        s = Stream(server, stream_timeout=0.5)
        s.send("endless", 1)
        begun, seen = time.monotonic(), None
        while seen is None:
            _, seen = s.next()
        check("Deadline" in str(seen) or "deadline" in str(seen), "%s", seen)
        check(time.monotonic() - begun < 3, "it took %.1f s", time.monotonic() - begun)
        s.client.close()


@case
def a_server_that_stops_answers_what_came():
    """An idle stream does not keep it; one with work gets its answers first."""
    with serving(**MODELS) as server:
        idle, busy = Stream(server), Stream(server)
        busy.send("slow", 1)
        deadline = time.monotonic() + 5
        while metric(server, "penstock_kserve_stream_requests_total") < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        begun = time.monotonic()
        server.process.terminate()
        idle.bad("the server stops")
        equal(busy.good().as_numpy("OUT").tolist(), [1])
        busy.bad("the server stops")
        equal(server.process.wait(20), 0)
        check(time.monotonic() - begun < 5, "it took %.1f s", time.monotonic() - begun)
        idle.client.close()
        busy.client.close()
        server.start()      # as the block ends with stopping it


# --- errors ------------------------------------------------------------------------------------------------------

@case
def errors_leave_the_stream_open():
    with serving(tiny=echo("tiny", "FP32"), **MODELS) as server, stream(server) as s:
        s.send("none", 1, request_id="a")
        s.bad("none")
        s.send("failing", 1, request_id="b")
        s.bad("bad luck")
        s.client.async_stream_infer("iris", [numbers(1)], request_id="c")
        s.bad("unexpected inference input 'IN'")
        s.send("tiny", 1, model_version="7")
        s.bad("7")
        s.send("tiny", 1, sequence_id=5, sequence_start=True)
        s.bad("sequence")
        s.send("tiny", 5)
        equal(s.good().as_numpy("OUT").tolist(), [5])


@case
def errors_say_whose_they_are():
    pb = need("tritonclient.grpc.service_pb2")
    with serving(**MODELS) as server, channel(server) as over:
        call = over.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer",
                                  request_serializer=pb.ModelInferRequest.SerializeToString,
                                  response_deserializer=pb.ModelStreamInferResponse.FromString)
        requests = [pb.ModelInferRequest(model_name="none", model_version="3", id="x"), pb.ModelInferRequest(model_name="iris", id="y")]
        found = list(call(iter(requests), timeout=SECONDS))
        equal([(r.infer_response.id, r.infer_response.model_name) for r in found], [("x", "none"), ("y", "iris")])
        equal(found[0].infer_response.model_version, "3")
        for r in found:
            check(len(r.error_message) > 15 and not r.infer_response.outputs, "%s", r)
            check(r.infer_response.parameters["triton_final_response"].bool_param, "an error is the last")


@case
def errors_keep_their_place():
    with serving(tiny=echo("tiny", "FP32"), **MODELS) as server, stream(server) as s:
        s.send("slow", 1)
        s.send("none", 2)
        s.send("tiny", 3)
        equal(s.good().as_numpy("OUT").tolist(), [1])
        s.bad("none")
        equal(s.good().as_numpy("OUT").tolist(), [3])


@case
def errors_as_status_when_asked_for():
    """triton_grpc_error: the first error ends the stream with its own code; what was before it is answered."""
    grpc = need("grpc")
    pb = need("tritonclient.grpc.service_pb2")
    with serving(tiny=echo("tiny", "FP32"), **MODELS) as server, channel(server) as over:
        call = over.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer",
                                  request_serializer=pb.ModelInferRequest.SerializeToString,
                                  response_deserializer=pb.ModelStreamInferResponse.FromString)

        def request(model):
            made = pb.ModelInferRequest(model_name=model, raw_input_contents=[bytes(4)])
            made.inputs.add(name="IN", datatype="FP32", shape=[1])
            return made
        for model, code in (("none", "NOT_FOUND"), ("failing", "DATA_LOSS")):
            found = []
            with raises(grpc.RpcError) as caught:
                for answer in call(iter([request("slow"), request(model), request("endless"), request("slow")]),
                                   metadata=(("triton_grpc_error", "true"),), timeout=SECONDS):
                    if answer.infer_response.model_name == "slow":
                        found.append(answer)
            equal((caught.error.code().name, len(found)), (code, 1))
        until = time.monotonic() + 5
        while metric(server, "penstock_kserve_streams_open") and time.monotonic() < until:
            time.sleep(0.02)
        equal(metric(server, "penstock_kserve_streams_open"), 0, "the endless one was stopped")


# --- the other form --------------------------------------------------------------------------------------------

MLSERVER = {"by_metadata": ((), (("penstock-stream-form", "mlserver"),)), "by_option": (("--stream-form", "mlserver"), ())}


@cases(MLSERVER)
def mlserver(options, metadata):
    grpc = need("grpc")
    pb = need("tritonclient.grpc.service_pb2")
    with serving(options=options, tiny=echo("tiny", "FP32"), **MODELS) as server, channel(server) as over:
        call = over.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer",
                                  request_serializer=pb.ModelInferRequest.SerializeToString,
                                  response_deserializer=pb.ModelInferResponse.FromString)

        def request(model, value):
            made = pb.ModelInferRequest(model_name=model, id=str(value))
            made.inputs.add(name="IN", datatype="FP32", shape=[1]).contents.fp32_contents.append(value)
            return made
        found = list(call(iter([request("tiny", i) for i in range(5)]), metadata=metadata, timeout=SECONDS))
        equal([(r.id, r.model_name, len(r.raw_output_contents)) for r in found], [(str(i), "tiny", 1) for i in range(5)])
        with raises(grpc.RpcError, "bad luck") as caught:
            list(call(iter([request("failing", 1)]), metadata=metadata, timeout=SECONDS))
        equal(caught.error.code().name, "DATA_LOSS")
        if options:     # who asks for Triton's gets it
            other = over.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer",
                                       request_serializer=pb.ModelInferRequest.SerializeToString,
                                       response_deserializer=pb.ModelStreamInferResponse.FromString)
            found = list(other(iter([request("tiny", 3)]), metadata=(("penstock-stream-form", "triton"),), timeout=SECONDS))
            equal(found[0].infer_response.id, "3")
        with raises(grpc.RpcError, "it takes triton") as caught:
            list(call(iter([]), metadata=(("penstock-stream-form", "other"),), timeout=SECONDS))
        equal(caught.error.code().name, "INVALID_ARGUMENT")


@case
def requests_in_flight_are_bounded():
    with serving(options=["--stream-requests-max", "4"], **MODELS) as server, stream(server) as s:
        for i in range(10):
            s.send("paced", i, request_id=str(i), parameters={"count": "3"}, enable_empty_final_response=True)
        open_, most = set(), 0
        for _ in range(40):
            result = s.good()
            (open_.discard if is_final(result) else open_.add)(result.get_response().id)
            most = max(most, len(open_))
        check(most <= 4, "%d at once", most)
        check(metric(server, "penstock_kserve_stream_pauses_total") >= 1, "no pause was counted")


if __name__ == "__main__":
    main()
