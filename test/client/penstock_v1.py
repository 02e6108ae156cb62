"""penstock.v1.Inference by grpcio: the four calls, from what reflection says; each promise of docs/streams.md."""
import queue
import threading
import time

from harness import case, cases, check, equal, main, near, need, raises
from _client import IRIS_INPUT, IRIS_LABELS, echo, serving
from _grpc import channel, status
from _penstock_v1 import (V1, a_input, decoupled, expected_marks, kinds, numbers, resident, serving_voice, values, voice_chunks,
                          voice_reference)

IRIS = {"model": "iris", "inputs": [numbers("input", *IRIS_INPUT)]}
LISTS = {"BOOL": ("bools", [True, False]), "INT8": ("int32s", [-128, 127]), "INT16": ("int32s", [-32768, 5]),
         "INT32": ("int32s", [-1, 2]), "INT64": ("int64s", [-(1 << 62), 3]), "UINT8": ("uint32s", [0, 255]),
         "UINT16": ("uint32s", [65535, 1]), "UINT32": ("uint32s", [1 << 31, 1]), "UINT64": ("uint64s", [1 << 63, 1]),
         "FP16": ("floats", [1.5, -2]), "BF16": ("floats", [1.5, -2]), "FP32": ("floats", [0.25, -2]),
         "FP64": ("doubles", [0.1, -2]), "BYTES": ("strings", ["a", "\u00e9"])}


def error_of(call):
    """(status, text, path of the field) of a call that fails, whichever kind it is."""
    rpc = need("grpc").RpcError
    with raises(rpc) as caught:
        found = call()
        if hasattr(found, "__iter__"):
            list(found)
    error = caught.error
    field = ""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            field = value
    return status(error), error.details(), field


def about(found, code, text, field=""):
    equal(found[0], code, found[1])
    check(text in found[1], "%r lacks %r", found[1], text)
    check(field.encode() in (found[2] or b""), "the details lack the field %r: %r", field, found[2])


# --- Infer ------------------------------------------------------------------------------------------------

@case
def one_question_one_answer():
    with serving() as server, channel(server) as over:
        answer = V1(over).infer(dict(IRIS, id="q", outputs=["label"]))
        equal((answer.model, answer.version, answer.id, answer.sequence, answer.is_final), ("iris", "1", "q", 1, True))
        equal([(t.name, t.datatype, list(t.shape)) for t in answer.outputs], [("label", "INT64", [3])])
        equal(values(answer.outputs[0]), IRIS_LABELS)


@cases({dtype: (dtype,) for dtype in LISTS})
def lists_of_each_dtype(dtype):
    """As its own list, as JSON, as raw of what came back: always the same."""
    name, data = LISTS[dtype]
    with serving() as server, channel(server) as over:
        v1 = V1(over)
        first = v1.infer({"model": "echo_" + dtype, "inputs": [{"name": "IN", "shape": [1, 2], name: {"values": data}}]})
        raw = first.outputs[0].raw
        equal(list(first.outputs[0].shape), [1, 2])
        if dtype not in ("UINT64", "INT64"):        # beyond 2^53 a list of JSON has no such number
            equal(v1.infer({"model": "echo_" + dtype, "inputs": [numbers("IN", data)]}).outputs[0].raw, raw)
        asked = v1.request({"model": "echo_" + dtype}, "Infer")
        asked.inputs.add(name="IN", datatype=dtype, shape=[1, 2], raw=raw)
        equal(v1.infer(asked).outputs[0].raw, raw)


@case
def large_tensors_are_not_changed():
    numpy = need("numpy")
    data = numpy.random.default_rng(1).random((300, 1000), dtype=numpy.float32)
    with serving() as server, channel(server) as over:
        v1 = V1(over)
        asked = v1.request({"model": "echo_FP32"}, "Infer")
        asked.inputs.add(name="IN", shape=data.shape, raw=data.tobytes())
        equal(v1.infer(asked).outputs[0].raw, data.tobytes())
        asked = v1.request({"model": "echo_FP32"}, "Infer")
        asked.inputs.add(name="IN", shape=data.shape).floats.values.extend(data.ravel())
        equal(v1.infer(asked).outputs[0].raw, data.tobytes())


WRONG = {
    "no model": ({}, "INVALID_ARGUMENT", "model: it is empty", "model"),
    "unknown model": ({"model": "irs"}, "NOT_FOUND", "did you mean 'iris'?", ""),
    "unknown version": ({"model": "iris", "version": "7"}, "NOT_FOUND", "", ""),
    "version that is no number": (dict(IRIS, version="new"), "INVALID_ARGUMENT", "", "version"),
    "unknown input": ({"model": "iris", "inputs": [numbers("inputs", 1)]}, "INVALID_ARGUMENT", "takes no 'inputs'; it takes 'input'",
                      "inputs[0].name"),
    "input twice": ({"model": "iris", "inputs": IRIS["inputs"] * 2}, "INVALID_ARGUMENT", "given twice", "inputs[1].name"),
    "no inputs": ({"model": "iris"}, "INVALID_ARGUMENT", "input", ""),
    "wrong dtype": ({"model": "iris", "inputs": [dict(IRIS["inputs"][0], datatype="FP64")]}, "INVALID_ARGUMENT",
                    "it says FP64; the model takes FP32", "inputs[0].datatype"),
    "wrong list": ({"model": "iris", "inputs": [{"name": "input", "doubles": {"values": [1, 2, 3, 4]}}]}, "INVALID_ARGUMENT",
                   "use 'floats' or 'raw'", "inputs[0]"),
    "no values": ({"model": "iris", "inputs": [{"name": "input"}]}, "INVALID_ARGUMENT", "it has no values", "inputs[0]"),
    "wrong number": ({"model": "iris", "inputs": [numbers("input", 1, 2, 3)]}, "INVALID_ARGUMENT", "a multiple of 4", "inputs[0]"),
    "wrong shape": ({"model": "iris", "inputs": [numbers("input", 1, 2, shape=[1, 2])]}, "INVALID_ARGUMENT", "[1,2]",
                    "inputs[0].shape"),
    "shape that lies": ({"model": "iris", "inputs": [numbers("input", 1, 2, shape=[1 << 40, 4])]}, "INVALID_ARGUMENT",
                        "it holds 2 elements", "inputs[0]"),
    "negative shape": ({"model": "iris", "inputs": [numbers("input", 1, shape=[-1, 4])]}, "INVALID_ARGUMENT",
                       "it must be 0 or more", "inputs[0].shape"),
    "value that does not fit": ({"model": "echo_UINT8", "inputs": [numbers("IN", 300)]}, "INVALID_ARGUMENT", "300", "inputs[0]"),
    "unknown output": (dict(IRIS, outputs=["lable"]), "INVALID_ARGUMENT", "it gives 'label'", "outputs[0]"),
    "output twice": (dict(IRIS, outputs=["label", "label"]), "INVALID_ARGUMENT", "asked for twice", "outputs[1]"),
    "parameter without a value": (dict(IRIS, parameters={"k": {}}), "INVALID_ARGUMENT", "'k' has no value", "parameters.k"),
    "reduce of one message": (dict(IRIS, reduce={"kind": "STACK"}), "INVALID_ARGUMENT", "InferCollect or Session", "reduce"),
    "sequence": (dict(IRIS, sequence=2), "INVALID_ARGUMENT", "first message", "sequence"),
    "unknown when_slow": (dict(IRIS, when_slow=7), "INVALID_ARGUMENT", "PAUSE (0)", "when_slow"),
}


@cases({name: row for name, row in WRONG.items()})
def infer_says_what_is_wrong(document, code, text, field):
    with serving() as server, channel(server) as over:
        about(error_of(lambda: V1(over).infer(document)), code, text, field)


@case
def another_number_of_answers():
    with serving(many=decoupled("many", mode="repeat", count=3), none=decoupled("none", mode="repeat", count=0)) as server, \
            channel(server) as over:
        v1 = V1(over)
        for model in ("many", "none"):
            about(error_of(lambda: v1.infer({"model": model, "inputs": [numbers("IN", 1)]})), "FAILED_PRECONDITION", "InferStream")


# --- InferStream --------------------------------------------------------------------------------------------

@case
def answers_as_they_are_made():
    with serving(ticks=decoupled("ticks", mode="repeat", count=5, delay_ms=50)) as server, channel(server) as over:
        v1 = V1(over)
        begun, seen = time.monotonic(), []
        for answer in v1.stream({"model": "ticks", "id": "s", "inputs": [numbers("IN", 7)]}):
            seen.append((answer.sequence, answer.id, values(answer.outputs[0]), answer.is_final))
            if len(seen) == 1:
                check(time.monotonic() - begun < 0.15, "the first came after %g s", time.monotonic() - begun)
        equal(seen, [(i + 1, "s", [7], False) for i in range(5)])
        one, = v1.stream(IRIS)
        equal((one.sequence, one.is_final), (1, True))
        about(error_of(lambda: v1.stream({"model": "no"})), "NOT_FOUND", "no")


@case
def a_reader_that_rests_pauses_its_model():
    """A million answers cost no more memory than a few when nobody takes them."""
    with serving(many=decoupled("many", mode="repeat", count=1000000)) as server, channel(server) as over:
        v1 = V1(over)
        call = v1.stream({"model": "many", "inputs": [numbers("IN", *range(200))]})
        next(call)
        time.sleep(0.3)
        before = resident(server)
        time.sleep(1)
        check(resident(server) - before < 4 << 20, "memory grew by %g MB", (resident(server) - before) / 1e6)
        call.cancel()


# --- InferCollect -------------------------------------------------------------------------------------------

@case
def rows_become_one_question():
    with serving() as server, channel(server) as over:
        v1 = V1(over)
        requests = [{"model": "iris", "id": "c", "sequence": 1, "inputs": [numbers("input", *IRIS_INPUT[0])]}]
        requests += [{"sequence": i + 2, "inputs": [numbers("input", *row)]} for i, row in enumerate(IRIS_INPUT[1:])]
        answer = v1.collect(requests)
        equal((answer.id, answer.model, values(answer.outputs[0])), ("c", "iris", IRIS_LABELS))
        # the first message may say what is asked only
        equal(values(v1.collect([{"model": "iris"}] + [{"inputs": r["inputs"]} for r in requests]).outputs[0]), IRIS_LABELS)
        last = v1.collect([dict(requests[0], reduce={"kind": "LAST"})] + requests[1:])
        equal(values(last.outputs[0]), IRIS_LABELS[-1:])
        each = v1.collect([dict(requests[0], reduce={"kind": "EACH"})] + requests[1:])
        equal(values(each.outputs[0]), IRIS_LABELS[-1:], "the answer is what the last run gave")


@case
def collect_says_what_is_wrong():
    good = {"inputs": [numbers("input", *IRIS_INPUT[0])]}
    with serving() as server, channel(server) as over:
        v1 = V1(over)
        about(error_of(lambda: v1.collect([])), "INVALID_ARGUMENT", "before its first message")
        about(error_of(lambda: v1.collect([good])), "INVALID_ARGUMENT", "model: it is empty", "model")
        about(error_of(lambda: v1.collect([{"model": "iris"}, dict(good, sequence=3)])), "INVALID_ARGUMENT", "missing", "sequence")
        about(error_of(lambda: v1.collect([dict(good, model="iris"), dict(good, model="spam")])), "INVALID_ARGUMENT",
              "the stream began with 'iris'", "model")
        about(error_of(lambda: v1.collect([dict(good, model="iris"), {"inputs": [numbers("inptu", 1)]}])), "INVALID_ARGUMENT",
              "it takes 'input'", "inputs[0].name")
        about(error_of(lambda: v1.collect([{"model": "iris", "reduce": {"kind": "WINDOW"}}])), "INVALID_ARGUMENT",
              "how many rows", "reduce.window")
        about(error_of(lambda: v1.collect([{"model": "iris", "reduce": {"kind": "STACK", "window": 3}}])), "INVALID_ARGUMENT",
              "belong to WINDOW", "reduce.kind")
        code, text, _ = error_of(lambda: v1.collect([{"model": "iris"}]))
        check(code in ("FAILED_PRECONDITION", "INVALID_ARGUMENT"), "%s %s", code, text)


# --- Session ------------------------------------------------------------------------------------------------

@case
def a_conversation():
    with serving() as server, channel(server) as over:
        v1 = V1(over)
        seen = list(v1.session([{"sequence": 1, "begin": {"model": "echo_FP32"}}, dict(a_input(1, 2, id="a"), sequence=2),
                                a_input(3, id="b"), {"finish": {}}]))
        equal(kinds(seen), ["begun", "output", "output"])
        equal([m.sequence for m in seen], [1, 2, 3])
        begun = seen[0].begun
        equal((begun.model, begun.version, begun.inputs_at_once > 0), ("echo_FP32", "1", True))
        equal([(t.name, t.datatype, list(t.shape)) for t in [*begun.inputs, *begun.outputs]],
              [("IN", "FP32", [-1, -1]), ("OUT", "FP32", [-1, -1])])
        equal([(m.output.input, m.output.id, values(m.output.outputs[0]), m.output.is_last) for m in seen[1:]],
              [(1, "a", [1, 2], True), (2, "b", [3], True)])


@case
def answers_wait_for_questions():
    """Each answer comes before the next question is sent, and the stream ends when the caller does."""
    with serving() as server, channel(server) as over:
        v1 = V1(over)
        out = queue.Queue()
        answers = v1.raw_session(iter(out.get, None))
        out.put(v1.request({"begin": {"model": "echo_FP32"}}))
        equal(kinds([next(answers)]), ["begun"])
        for i in range(20):
            out.put(v1.request(a_input(i)))
            equal(values(next(answers).output.outputs[0]), [i])
        out.put(None)
        equal(list(answers), [])


@case
def many_answers_to_each():
    with serving(ticks=decoupled("ticks", mode="repeat", count=3)) as server, channel(server) as over:
        seen = list(V1(over).session([{"begin": {"model": "ticks"}}, a_input(1, id="x"), a_input(2)]))
        equal(kinds(seen)[1:], (["output"] * 3 + ["answered"]) * 2)
        equal([(m.answered.input, m.answered.id, m.answered.code) for m in seen if m.WhichOneof("message") == "answered"],
              [(1, "x", 0), (2, "", 0)])
        check(not any(m.output.is_last for m in seen), "it cannot be known which is the last")


@case
def one_bad_input_is_no_bad_session():
    with serving() as server, channel(server) as over:
        seen = list(V1(over).session([{"begin": {"model": "echo_FP32"}}, a_input(1, name="INN", id="bad"), a_input(5),
                                      a_input(1, 2), {"input": {"inputs": [numbers("IN", 1, shape=[3])]}}]))
        equal(kinds(seen), ["begun", "answered", "output", "output", "answered"])
        equal((seen[1].answered.input, seen[1].answered.id, seen[1].answered.code, seen[1].answered.field),
              (1, "bad", 3, "input.inputs[0].name"))
        equal([m.output.input for m in seen[2:4]], [2, 3])
        equal(seen[4].answered.input, 4)


@case
def the_server_speaks_first():
    text = echo("chat", "BYTES", "1", mode="chat", greeting="hello")
    with serving(chat=text) as server, channel(server) as over:
        v1 = V1(over)
        out = queue.Queue()
        answers = v1.raw_session(iter(out.get, None))
        out.put(v1.request({"begin": {"model": "chat"}}))
        equal(kinds([next(answers)]), ["begun"])
        first = next(answers)
        equal((first.output.input, values(first.output.outputs[0])), (0, [b"hello"]))
        out.put(v1.request(a_input("you")))
        got = next(answers)
        equal(got.output.input, 1)
        check(b"you" in values(got.output.outputs[0])[0], "%s", got)
        out.put(None)
        for _ in answers:
            pass


SESSION_WRONG = {
    "nothing": ([], "INVALID_ARGUMENT", "before its first message", "begin"),
    "input first": ([a_input(1)], "INVALID_ARGUMENT", "says which model; this one is an input", "begin"),
    "empty first": ([{}], "INVALID_ARGUMENT", "this one is empty", "begin"),
    "unknown model": ([{"begin": {"model": "irs"}}], "NOT_FOUND", "did you mean 'iris'?", ""),
    "no model": ([{"begin": {}}], "INVALID_ARGUMENT", "it is empty", "begin.model"),
    "second begin": ([{"begin": {"model": "iris"}}, {"begin": {"model": "iris"}}], "INVALID_ARGUMENT", "has begun already", "begin"),
    "gap": ([{"sequence": 1, "begin": {"model": "iris"}}, {"sequence": 3, "finish": {}}], "INVALID_ARGUMENT",
            "it is 3, and this is message 2", "sequence"),
    "repetition": ([{"sequence": 1, "begin": {"model": "iris"}}, {"sequence": 1, "finish": {}}], "INVALID_ARGUMENT",
                   "it was there already", "sequence"),
    "empty message": ([{"begin": {"model": "iris"}}, {"sequence": 2}], "INVALID_ARGUMENT", "without a message", ""),
    "grant without credit": ([{"begin": {"model": "iris"}}, {"grant": {"responses": 1}}], "INVALID_ARGUMENT", "begin.credit", "grant"),
    "unknown output": ([{"begin": {"model": "iris", "outputs": ["lable"]}}], "INVALID_ARGUMENT", "it gives 'label'",
                       "begin.outputs[0]"),
    "unknown reduce": ([{"begin": {"model": "iris", "reduce": {"kind": 9}}}], "INVALID_ARGUMENT", "WINDOW (4)", "begin.reduce.kind"),
    "bad input of a stack": ([{"begin": {"model": "iris", "reduce": {"kind": "STACK"}}}, a_input(1, name="x")], "INVALID_ARGUMENT",
                             "it takes 'input'", "input.inputs[0].name"),
}


@cases({name: row for name, row in SESSION_WRONG.items()})
def session_says_what_is_wrong(documents, code, text, field):
    with serving() as server, channel(server) as over:
        about(error_of(lambda: V1(over).session(documents)), code, text, field)


@case
def nothing_comes_behind_finish():
    """While the last answers are given, as a session with none to give is over with the finish."""
    with serving(ticks=decoupled("ticks", mode="repeat", count=1000, delay_ms=10)) as server, channel(server) as over:
        documents = [{"begin": {"model": "ticks"}}, a_input(1), {"finish": {}}, {"interrupt": {}}]
        about(error_of(lambda: V1(over).session(documents)), "INVALID_ARGUMENT", "message 4 came after", "")


@case
def bytes_that_are_no_message():
    with serving() as server, channel(server) as over:
        call = over.stream_stream("/penstock.v1.Inference/Session")
        for message in (b"\x0a\xff", b"\x12\x02\x0a\x05", b"\xff" * 30):
            about(error_of(lambda: call(iter([message]), timeout=10)), "INVALID_ARGUMENT", "no valid")


@case
def credit_is_what_was_granted():
    with serving(ticks=decoupled("ticks", mode="repeat", count=1000)) as server, channel(server) as over:
        v1 = V1(over)
        out, seen = queue.Queue(), queue.Queue()
        answers = v1.raw_session(iter(out.get, None))
        threading.Thread(target=lambda: [seen.put(m) for m in answers], daemon=True).start()
        out.put(v1.request({"begin": {"model": "ticks", "credit": 3}}))
        out.put(v1.request(a_input(1)))
        equal(kinds([seen.get(timeout=5) for _ in range(4)]), ["begun"] + ["output"] * 3)
        time.sleep(0.2)
        check(seen.empty(), "more came than was granted")
        out.put(v1.request({"grant": {"responses": 5}}))
        equal([seen.get(timeout=5).sequence for _ in range(5)], [5, 6, 7, 8, 9])
        time.sleep(0.2)
        check(seen.empty(), "more came than was granted")
        answers.cancel()


@case
def an_interruption():
    """What is answered stops, what waits is dropped, each is told so, and then the session goes on."""
    with serving(slow=decoupled("slow", mode="repeat", count=100000, delay_ms=20)) as server, channel(server) as over:
        v1 = V1(over)
        out = queue.Queue()
        answers = v1.raw_session(iter(out.get, None))
        for document in ({"begin": {"model": "slow"}}, a_input(1), a_input(2), a_input(3)):
            out.put(v1.request(document))
        equal(kinds([next(answers) for _ in range(3)]), ["begun", "output", "output"])
        out.put(v1.request({"interrupt": {}}))
        rest = []
        while not rest or rest[-1].WhichOneof("message") != "interrupted":
            rest.append(next(answers))
        equal(rest[-1].interrupted.request, 5)
        ended = [(m.answered.input, m.answered.code) for m in rest if m.WhichOneof("message") == "answered"]
        equal(ended, [(1, 1), (2, 1), (3, 1)], "each is CANCELLED")
        out.put(v1.request(a_input(4)))
        after = next(answers)
        equal((after.output.input, values(after.output.outputs[0])), (4, [4]))
        answers.cancel()


@case
def the_newest_answer_only():
    with serving(ticks=decoupled("ticks", mode="repeat", count=200)) as server, channel(server) as over:
        v1 = V1(over)
        out = queue.Queue()
        answers = v1.raw_session(iter(out.get, None))
        out.put(v1.request({"begin": {"model": "ticks", "credit": 1, "whenSlow": "LATEST"}}))
        out.put(v1.request(a_input(1)))
        equal(kinds([next(answers), next(answers)]), ["begun", "output"])
        time.sleep(0.3)
        out.put(v1.request({"grant": {"responses": 1}}))
        newest = next(answers)
        equal(newest.output.merged, 198)
        answers.cancel()


@case
def a_deadline():
    with serving(slow=decoupled("slow", mode="repeat", count=100000, delay_ms=10)) as server, channel(server) as over:
        v1 = V1(over)
        out = queue.Queue()
        for document in ({"begin": {"model": "slow"}}, a_input(1)):
            out.put(v1.request(document))
        begun = time.monotonic()
        equal(error_of(lambda: v1.raw_session(iter(out.get, None), timeout=0.5))[0], "DEADLINE_EXCEEDED")
        check(time.monotonic() - begun < 2, "it took %g s", time.monotonic() - begun)
        out.put(None)


@case
def ten_thousand_inputs():
    """All answered, in order, and memory is that of a few."""
    with serving() as server, channel(server) as over:
        v1 = V1(over)

        def documents(count):
            yield {"begin": {"model": "echo_FP32"}}
            for i in range(count):
                yield a_input(i)

        def run(count):
            seen = 0
            for message in v1.session(documents(count)):
                if message.WhichOneof("message") == "output":
                    equal((message.output.input, values(message.output.outputs[0])), (seen + 1, [seen]))
                    seen += 1
            equal(seen, count)
        run(2000)
        before = resident(server)
        run(10000)
        check(resident(server) - before < 2 << 20, "memory grew by %g MB", (resident(server) - before) / 1e6)


# --- speech -------------------------------------------------------------------------------------------------

@cases({"32ms": (512,), "1s": (16000,), "in_odd_pieces": (333,)})
def silero_hears_jfk(samples):
    """Sound in pieces of whatever size: the windows, their probabilities and the marks are the same."""
    reference, atol = voice_reference()
    with serving_voice() as server, channel(server) as over:
        v1 = V1(over)

        def requests():
            yield v1.request({"begin": {"model": "voice"}})
            for chunk in voice_chunks(samples):
                message = v1.request({"input": {}})
                message.input.inputs.add(name="input", raw=chunk)
                yield message
        seen = [m.output for m in v1.raw_session(requests()) if m.WhichOneof("message") == "output"]
    found = [values(output.outputs[0])[0] for output in seen]
    near(found, reference, atol)
    marks = [(mark.is_start, mark.row) for output in seen for mark in output.marks]
    equal(marks, expected_marks(found))
    check(len(marks) >= 8 and marks[0] == (True, 11 * 512 - 64), "%s", marks)


if __name__ == "__main__":
    main()
