"""The models of examples/streams by their typed services: readings to one verdict, a file in parts, speech with a state."""
import json
import os
import sys

from harness import ROOT, Server, case, check, equal, main, models, near, need, shared
from _grpc import Reflected, channel
from _typed import Stub

STREAMS = os.path.join(ROOT, "examples", "streams")
FIELDS = ("temperature", "vibration", "current")


def readings(rows, **others):
    sys.path.insert(0, STREAMS)
    return need("readings").readings(rows, 3, **others)


@case
def readings_to_one_verdict():
    """100,000 readings, however they are cut and said, are one verdict: that of one call."""
    numpy = need("numpy")
    table = readings(100000, fault_at=60000)
    with Server(os.path.join(STREAMS, "models")) as server, channel(server) as over:
        server.wait_ready()
        stub = Stub(Reflected(over), over, "penstock.models.Anomaly")
        make = stub.classes["Predict"][0]
        whole = stub.Predict(make(readings=table.ravel()))
        equal(whole.label, "anomaly")
        parts = stub.PredictCollect(make(readings=part.ravel()) for part in numpy.array_split(table, 777))
        equal(parts, whole, "in 777 parts")
        few = table[:500]
        want = stub.Predict(make(readings=few.ravel()))
        equal(stub.PredictCollect(dict(zip(FIELDS, map(float, row))) for row in few), want, "one by one, by features")
        Row = make.Row
        rows = [Row(**dict(zip(FIELDS, map(float, row)))) for row in few]
        equal(stub.PredictCollect(make(rows=rows[i:i + 70]) for i in range(0, 500, 70)), want, "as rows")
        answer, = stub.PredictSession(make(readings=part.ravel()) for part in numpy.array_split(few, 9))
        equal((answer.label, answer.odd_share, answer.worst_row), (want.label, want.odd_share, want.worst_row), "in a session")


@case
def a_file_in_parts():
    """Each part is a run, what was counted goes from run to run, and the last answer is the file's."""
    data = os.urandom(3000) + b"text " * 1000
    with Server(os.path.join(STREAMS, "models")) as server, channel(server) as over:
        server.wait_ready()
        stub = Stub(Reflected(over), over, "penstock.models.Bytes")
        make = stub.classes["Predict"][0]
        parts = [make(bytes=data[i:i + 1000]) for i in range(0, len(data), 1000)]
        kept = stub.PredictCollect(iter(parts))
        equal(kept.total, len(data))
        answers = list(stub.PredictSession(iter(parts)))
        equal([a.total for a in answers], list(range(1000, len(data) + 1, 1000)))
        equal(kept.entropy, answers[-1].entropy)
        check(not answers[0].counts_next, "the state is nobody's business")
        asked = make(bytes=data[:1000])
        asked.options.outputs.append("counts_next")
        answer, = stub.PredictSession(iter([asked]))
        equal(sum(answer.counts_next), 1000, "but who asks for it")
        equal(stub.Predict(make(bytes=b"abc")).total, 3)


@case
def speech():
    """silero VAD, fed with 32 ms at a time, or 10, or all at once: its reference's probabilities."""
    numpy = need("numpy")
    with open(shared("models/voice/silero_vad.ref.json")) as file:
        reference = json.load(file)
    wave = need("wave").open(shared("data/speech/jfk.wav"), "rb")
    sound = numpy.frombuffer(wave.readframes(wave.getnframes()), dtype=numpy.int16).astype(numpy.float32) / 32768
    with open(os.path.join(STREAMS, "voice", "model.yaml")) as file:
        card = file.read()
    if "axis" not in card:
        card = card.replace("  window:", "  axis: 1\n  window:")
    layout = {"voice/1/model.onnx": shared("models/voice/silero_vad_16k_op15.onnx"), "voice/model.yaml": card.encode()}
    with models(layout) as folder, Server(folder) as server, channel(server) as over:
        server.wait_ready()
        stub = Stub(Reflected(over), over, "penstock.models.Voice")
        make = stub.classes["Predict"][0]
        for size in (512, 160, 10000, len(sound)):
            answers = list(stub.PredictSession(make(samples=sound[i:i + size]) for i in range(0, len(sound), size)))
            found = [answer.speech[0] for answer in answers]
            equal(len(found), len(reference["probabilities"]), "windows of pieces of %d" % size)
            near(found, reference["probabilities"], atol=reference["atol"])
            equal([a.stream.sequence for a in answers], list(range(1, len(answers) + 1)))
        last = stub.PredictCollect(make(samples=sound[i:i + 512]) for i in range(0, len(sound), 512))
        near([last.speech[0]], reference["probabilities"][-1:], atol=reference["atol"])


if __name__ == "__main__":
    main()
