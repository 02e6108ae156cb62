"""The four patterns of penstock.models.<Model> by grpcio: stubs made from what reflection says, sync and aio."""
import asyncio
import os
import queue
import threading
import time

from harness import Server, case, cases, check, equal, main, models, need, raises
from _client import EXAMPLES, echo, serving
from _grpc import UNLIMITED, Reflected, as_dict, channel, status
from _typed import Stub

FIELDS = ("sepal_length", "sepal_width", "petal_length", "petal_width")
ROWS = [(5.1, 3.5, 1.4, 0.2), (6.7, 3.1, 4.7, 1.5), (6.3, 3.3, 6.0, 2.5)]
LABELS = ["setosa", "versicolor", "virginica"]
RUNS = {"Session": ("PredictSession",), "Stream": ("PredictStream",)}


def iris_row(i):
    return dict(zip(FIELDS, ROWS[i % 3]))


def iris(over):
    return Stub(Reflected(over), over, "penstock.models.Iris")


def ticks(count, **more):
    """A model that answers `count` times, each with its input."""
    return echo("ticks", "INT32", mode="repeat", count=count, **more) + b"model_transaction_policy { decoupled: true }\n"


def metric(server, name):
    text = server.get("/metrics")[1]
    text = text if isinstance(text, str) else text.decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name)


# --- what there is ----------------------------------------------------------------------------------------------

@case
def reflection_says_what_streams():
    with serving() as server, channel(server) as over:
        found = Reflected(over).service("penstock.models.Iris")
        equal([(m.name, m.client_streaming, m.server_streaming) for m in found.methods],
              [("Predict", False, False), ("PredictStream", False, True), ("PredictCollect", True, False),
               ("PredictSession", True, True)])
        status_, text = server.get("/models/iris/contract.proto")
        text = text if isinstance(text, str) else text.decode()
        equal(status_, 200)
        check("rpc PredictSession(stream IrisPredictRequest) returns (stream IrisPredictResponse);" in text, "%s", text)
        _, model = server.get("/models/iris")
        equal(model["grpc"]["streams"], {"PredictStream": "answers", "PredictCollect": "requests", "PredictSession": "both"})


# --- the patterns ------------------------------------------------------------------------------------------------

@case
def predict_is_what_it_was():
    with serving() as server, channel(server) as over:
        stub = iris(over)
        for i in range(3):
            answer = stub.Predict(iris_row(i))
            equal(answer.label, LABELS[i])
            check(not answer.HasField("stream"), "Predict says nothing of streams: %s", answer)
            kept = stub.PredictCollect([iris_row(0), iris_row(i)], metadata=[("penstock-reduce", "each")])
            equal(kept, answer, "the last of two")


@case
def predict_stream():
    with serving(ticks=ticks(5), none=ticks(0).replace(b'"ticks"', b'"none"')) as server, channel(server) as over:
        found = Reflected(over)
        answers = list(Stub(found, over, "penstock.models.Ticks").PredictStream({"IN": 7}))
        equal([as_dict(a) for a in answers], [{"OUT": 7, "stream": {"sequence": str(i + 1)}} for i in range(5)])
        equal(list(Stub(found, over, "penstock.models.None").PredictStream({"IN": 7})), [], "a model without answers")
        one, = iris(over).PredictStream(iris_row(2))
        equal((one.label, one.stream.sequence), ("virginica", 1))
        rows = iris(over).PredictStream({"rows": [iris_row(0), iris_row(1)], "options": {"outputs": ["label"]}})
        equal([as_dict(row) for row in rows], [{"label": "setosa", "stream": {"sequence": "1"}},
                                               {"label": "versicolor", "stream": {"sequence": "2"}}], "row by row")


@case
def predict_session():
    with serving() as server, channel(server) as over:
        stub = iris(over)
        answers = list(stub.PredictSession(dict(iris_row(i), stream={"sequence": i + 1}) for i in range(300)))
        equal([a.label for a in answers], [LABELS[i % 3] for i in range(300)])
        equal([(a.stream.sequence, a.stream.input, a.stream.is_last) for a in answers], [(i + 1, i + 1, True) for i in range(300)])
        equal(list(stub.PredictSession([])), [], "nothing was asked")


@case
def each_message_is_answered_before_the_next_is_sent():
    """A conversation, not a batch: nothing waits for the end."""
    waiting = queue.Queue()

    def ask():
        while True:
            request = waiting.get()
            if request is None:
                return
            yield request
    with serving() as server, channel(server) as over:
        answers = iris(over).PredictSession(ask())
        for i in range(20):
            waiting.put(iris_row(i))
            equal(next(answers).label, LABELS[i % 3])
        waiting.put(None)
        equal(list(answers), [])


@case
def a_session_of_a_model_that_answers_many_times():
    with serving(ticks=ticks(2)) as server, channel(server) as over:
        answers = Stub(Reflected(over), over, "penstock.models.Ticks").PredictSession([{"IN": 7}, {"IN": 8}])
        equal([as_dict(a) for a in answers], [
            {"OUT": 7, "stream": {"sequence": "1", "input": "1"}}, {"OUT": 7, "stream": {"sequence": "2", "input": "1"}},
            {"stream": {"sequence": "3", "input": "1", "is_last": True}},
            {"OUT": 8, "stream": {"sequence": "4", "input": "2"}}, {"OUT": 8, "stream": {"sequence": "5", "input": "2"}},
            {"stream": {"sequence": "6", "input": "2", "is_last": True}}])


@case
def aio():
    grpc = need("grpc")

    async def work(server, found):
        async with grpc.aio.insecure_channel(server.address, options=UNLIMITED) as over:
            stub = Stub(found, over, "penstock.models.Iris")
            make = stub.classes["Predict"][0]
            equal((await stub.Predict(iris_row(1))).label, "versicolor")
            equal([a.label async for a in stub.PredictStream(iris_row(2))], ["virginica"])
            equal((await stub.PredictCollect([iris_row(0), iris_row(1)], metadata=[("penstock-reduce", "each")])).label, "versicolor")

            async def one(first):
                call = stub.PredictSession()
                for i in range(first, first + 20):
                    await call.write(make(**iris_row(i)))
                    answer = await call.read()
                    equal((answer.label, answer.stream.input), (LABELS[i % 3], i - first + 1))
                await call.done_writing()
                equal(await call.read(), grpc.aio.EOF)
                equal((await call.code()).name, "OK")
            await asyncio.gather(*(one(i) for i in range(50)))
    with serving() as server, channel(server) as over:
        found = Reflected(over)
        found.service("penstock.models.Iris")
        asyncio.run(work(server, found))
        until = time.monotonic() + 10
        while metric(server, "penstock_sessions_open") != 0 and time.monotonic() < until:
            time.sleep(0.02)
        equal(metric(server, "penstock_sessions_open"), 0, "sessions are left")


@case
def compressed():
    grpc = need("grpc")
    numpy = need("numpy")
    values = numpy.zeros(20000, dtype=numpy.float32)
    values[::100] = 1
    with serving() as server, channel(server) as over:
        stub = Stub(Reflected(over), over, "penstock.models.EchoFP32")
        request = {"IN": values.tolist()}
        answers = list(stub.PredictSession([request] * 3, compression=grpc.Compression.Gzip))
        equal([list(a.OUT) == values.tolist() for a in answers], [True] * 3)
        answers = list(stub.PredictStream(request, compression=grpc.Compression.Deflate))
        equal([list(a.OUT) == values.tolist() for a in answers], [True])


# --- interruptions, leaving, time ----------------------------------------------------------------------------------

@case
def interruptions():
    """What runs for half a minute is stopped, what waits is dropped, and the stream goes on."""
    with serving(slow=echo("slow", "INT32", mode="delay", delay_ms=30000)) as server, channel(server) as over:
        stub = Stub(Reflected(over), over, "penstock.models.Slow")
        waiting = queue.Queue()
        answers = stub.PredictSession(iter(waiting.get, None))
        began = time.monotonic()
        waiting.put({"IN": 1})
        waiting.put({"IN": 2})
        waiting.put({"stream": {"interrupt": True}})
        equal(as_dict(next(answers)), {"stream": {"sequence": "1", "interrupted": "3"}})
        waiting.put({"IN": 3, "stream": {"sequence": 4}})
        waiting.put({"IN": 4, "stream": {"interrupt": True, "sequence": 5}})
        equal(as_dict(next(answers)), {"stream": {"sequence": "2", "interrupted": "5"}})
        waiting.put({"stream": {"interrupt": True}})
        equal(as_dict(next(answers)), {"stream": {"sequence": "3", "interrupted": "6"}})
        waiting.put(None)
        equal(list(answers), [])
        check(time.monotonic() - began < 10, "%.1f s", time.monotonic() - began)


@cases(RUNS)
def deadlines_and_leaving(method):
    grpc = need("grpc")
    with serving(slow=echo("slow", "INT32", mode="delay", delay_ms=30000)) as server, channel(server) as over:
        stub = getattr(Stub(Reflected(over), over, "penstock.models.Slow"), method)
        request = {"IN": 1} if method == "PredictStream" else [{"IN": 1}]
        began = time.monotonic()
        with raises(grpc.RpcError) as caught:
            list(stub(request, timeout=0.3))
        equal(status(caught.error), "DEADLINE_EXCEEDED")
        call = stub(request)
        until = time.monotonic() + 10
        while metric(server, "penstock_model_running") < 1 and time.monotonic() < until:
            time.sleep(0.02)
        call.cancel()
        while metric(server, "penstock_model_running") > 0 and time.monotonic() < until:
            time.sleep(0.02)
        equal(metric(server, "penstock_model_running"), 0, "the model is still busy")
        check(time.monotonic() - began < 10, "%.1f s", time.monotonic() - began)


@case
def slow_readers_pause_their_own_model():
    """A million answers are asked for, and nobody reads: others are answered, and what was read comes in order."""
    with serving(ticks=ticks(1000000)) as server, channel(server) as over:
        stub = Stub(Reflected(over), over, "penstock.models.Ticks")
        call = stub.PredictStream({"IN": 7})
        time.sleep(1)
        began = time.monotonic()
        equal(iris(over).Predict(iris_row(0)).label, "setosa")
        check(time.monotonic() - began < 5, "others wait: %.1f s", time.monotonic() - began)
        for i in range(20000):
            equal(next(call).stream.sequence, i + 1)
        call.cancel()


@case
def a_server_that_stops():
    """What came is answered, then the conversation ends: nobody waits for it to be cut."""
    grpc = need("grpc")
    waiting = queue.Queue()
    layout = {"iris": os.path.join(EXAMPLES, "iris")}
    with models(layout) as folder:
        server = Server(folder).start()
        try:
            with channel(server) as over:
                answers = iris(over).PredictSession(iter(waiting.get, None))
                waiting.put(iris_row(1))
                equal(next(answers).label, "versicolor")
                began, ends = time.monotonic(), []
                stopping = threading.Thread(target=lambda: ends.append(server.stop()))
                stopping.start()
                with raises(grpc.RpcError) as caught:
                    next(answers)
                equal(status(caught.error), "UNAVAILABLE")
                check("the server stops" in caught.error.details(), "%s", caught.error.details())
                waiting.put(None)
                stopping.join()
                equal(ends, [0])
                check(time.monotonic() - began < 10, "it took %.1f s to stop", time.monotonic() - began)
        finally:
            server.kill()


# --- what is wrong -------------------------------------------------------------------------------------------------

WRONG = {
    "gap": ("PredictSession", [iris_row(0), dict(iris_row(1), stream={"sequence": 3})], {}, "INVALID_ARGUMENT",
            "message 2: stream.sequence is 3", ["stream.sequence"]),
    "again": ("PredictSession", [iris_row(0), dict(iris_row(1), stream={"sequence": 1})], {}, "INVALID_ARGUMENT",
              "1 was there already", ["stream.sequence"]),
    "limit": ("PredictSession", [iris_row(0), dict(iris_row(1), sepal_width=510)], {}, "INVALID_ARGUMENT",
              "message 2: sepal_width is 510", ["sepal_width"]),
    "row": ("PredictSession", [{"rows": [iris_row(0), {"measurements": [1, 2]}]}], {}, "INVALID_ARGUMENT",
            "row 1: measurements: 2 values", ["rows[1].measurements"]),
    "collect": ("PredictCollect", [dict(iris_row(0), stream={"interrupt": True})], {"penstock-reduce": "each"}, "INVALID_ARGUMENT",
                "stream.interrupt is for PredictSession", ["stream.interrupt"]),
    "empty": ("PredictCollect", [], {"penstock-reduce": "each"}, "INVALID_ARGUMENT", "at least one", []),
    "reduce": ("PredictSession", [iris_row(0)], {"penstock-reduce": "window(0)"}, "INVALID_ARGUMENT",
               "metadata penstock-reduce is 'window(0)'", []),
    "slow": ("PredictSession", [iris_row(0)], {"penstock-when-slow": "run"}, "INVALID_ARGUMENT",
             "metadata penstock-when-slow is 'run'", []),
    "version": ("PredictSession", [iris_row(0)], {"model-version": "9"}, "NOT_FOUND", "version 9", []),
    "stream": ("PredictStream", dict(iris_row(0), stream={"sequence": 2}), {}, "INVALID_ARGUMENT",
               "PredictStream takes one message", ["stream.sequence"]),
}


@cases({name: (name,) for name in WRONG})
def refused(name):
    method, requests, metadata, code, words, fields = WRONG[name]
    grpc = need("grpc")
    with serving() as server, channel(server) as over:
        call = getattr(iris(over), method)
        with raises(grpc.RpcError) as caught:
            found = call(requests, metadata=list(metadata.items()))
            if method != "PredictCollect":
                list(found)
        equal(status(caught.error), code, caught.error.details())
        check(words in caught.error.details(), "%s", caught.error.details())
        details = dict(caught.error.trailing_metadata()).get("grpc-status-details-bin", b"")
        check((b"google.rpc.BadRequest" in details) == bool(fields), "%s", details)
        for field in fields:
            check(field.encode() in details, "%s lacks %s", details, field)
        equal(iris(over).Predict(iris_row(0)).label, "setosa", "the connection goes on")


@case
def answers_come_before_what_is_refused():
    grpc = need("grpc")
    with serving() as server, channel(server) as over:
        call = iris(over).PredictSession([iris_row(0), iris_row(1), {"sepal_length": 5.1}])
        equal([next(call).label, next(call).label], ["setosa", "versicolor"])
        with raises(grpc.RpcError) as caught:
            next(call)
        check("message 3: field 'sepal_width' is missing" in caught.error.details(), "%s", caught.error.details())


@case
def unknown_models_and_methods():
    grpc = need("grpc")
    with serving() as server, channel(server) as over:
        for path, words in (("/penstock.models.Iriss/PredictSession", "did you mean"),
                            ("/penstock.models.Iris/PredictMany", "PredictCollect")):
            with raises(grpc.RpcError) as caught:
                list(over.stream_stream(path)(iter([b""]), timeout=30))
            equal(status(caught.error), "UNIMPLEMENTED")
            check(words in caught.error.details(), "%s", caught.error.details())


@case
def one_answer_only():
    grpc = need("grpc")
    with serving(ticks=ticks(2)) as server, channel(server) as over:
        stub = Stub(Reflected(over), over, "penstock.models.Ticks")
        for call, words in ((lambda: stub.Predict({"IN": 1}), "call PredictStream"),
                            (lambda: stub.PredictCollect([{"IN": 1}], metadata=[("penstock-reduce", "each")]), "call PredictSession")):
            with raises(grpc.RpcError) as caught:
                call()
            equal(status(caught.error), "FAILED_PRECONDITION")
            check(words in caught.error.details(), "%s", caught.error.details())


@case
def a_message_that_is_too_large_in_a_stream():
    grpc = need("grpc")
    with serving(options=["--max-message", "10KiB"]) as server, channel(server) as over:
        stub = Stub(Reflected(over), over, "penstock.models.EchoFP32")
        call = stub.PredictSession({"IN": [0.5] * n} for n in (10, 10000))
        equal(len(next(call).OUT), 10)
        with raises(grpc.RpcError) as caught:
            next(call)
        equal(status(caught.error), "RESOURCE_EXHAUSTED")
        check("--max-message" in caught.error.details(), "%s", caught.error.details())


if __name__ == "__main__":
    main()
