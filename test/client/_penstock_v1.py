"""What the tests of penstock.v1 share: its four calls as functions that take dicts, and models to ask."""
import contextlib
import json
import os
import re
import struct
import wave

from harness import ROOT, Server, models, need, shared, skip
from _client import echo
from _grpc import UNLIMITED, Reflected, channel

SERVICE = "penstock.v1.Inference"
SECONDS = 30
VOICE = "examples/streams/voice/model.yaml"

# A running sum: what a stream of its own keeps.
FOLD_CARD = b"stream:\n  reduce: each\n  state: {IN_SUM: OUT_SUM}\n"


def decoupled(name, dtype="FP32", **parameters):
    return echo(name, dtype, **parameters) + b"model_transaction_policy { decoupled: true }\n"


class V1:
    """infer, stream, collect and session over a channel, sync or aio, as the server's reflection describes them."""

    def __init__(self, over, found=None):
        self.parse = need("google.protobuf.json_format").ParseDict
        found = found or Reflected(over)
        self.classes = {name: found.classes(SERVICE, name) for name in ("Infer", "InferStream", "InferCollect", "Session")}

        def call(name, kind):
            asked, answered = self.classes[name]
            return getattr(over, kind)("/%s/%s" % (SERVICE, name), request_serializer=asked.SerializeToString,
                                       response_deserializer=answered.FromString)
        self._infer = call("Infer", "unary_unary")
        self._stream = call("InferStream", "unary_stream")
        self._collect = call("InferCollect", "stream_unary")
        self._session = call("Session", "stream_stream")

    def request(self, document, name="Session"):
        return self.parse(document, self.classes[name][0]()) if isinstance(document, dict) else document

    def infer(self, document, timeout=SECONDS, **others):
        return self._infer(self.request(document, "Infer"), timeout=timeout, **others)

    def stream(self, document, timeout=SECONDS, **others):
        return self._stream(self.request(document, "InferStream"), timeout=timeout, **others)

    def collect(self, documents, timeout=SECONDS, **others):
        return self._collect((self.request(d, "InferCollect") for d in documents), timeout=timeout, **others)

    def session(self, documents, timeout=SECONDS, **others):
        return self._session((self.request(d) for d in documents), timeout=timeout, **others)

    def raw_session(self, messages, timeout=SECONDS, **others):
        """Of an iterator of messages, also an asynchronous one, or None (aio: write and read)."""
        return self._session(messages, timeout=timeout, **others)


def reflected_v1(server, over):
    """Of an aio channel: the classes come by a channel of the other kind."""
    with channel(server) as plain:
        return V1(over, Reflected(plain))


FORMATS = {"FP32": "f", "FP64": "d", "INT64": "q", "INT32": "i", "UINT8": "B"}


def values(tensor):
    """The elements of a raw tensor."""
    if tensor.datatype != "BYTES":
        kind = FORMATS[tensor.datatype]
        return list(struct.unpack("<%d%s" % (len(tensor.raw) // struct.calcsize(kind), kind), tensor.raw))
    found, at = [], 0
    while at < len(tensor.raw):
        size, = struct.unpack_from("<I", tensor.raw, at)
        found.append(tensor.raw[at + 4:at + 4 + size])
        at += 4 + size
    return found


def numbers(name, *data, **others):
    return dict({"name": name, "data": list(data)}, **others)


def a_input(*data, name="IN", **others):
    return {"input": dict({"inputs": [numbers(name, *data)]}, **others)}


def kinds(messages):
    return [message.WhichOneof("message") for message in messages]


def resident(server):
    """Bytes of memory that the server holds; skips the case where a sanitizer keeps what was freed."""
    with open("/proc/%d/maps" % server.process.pid, encoding="utf-8") as file:
        if re.search(r"/lib(asan|tsan)\.so", file.read()):
            skip("memory of a binary with sanitizers says nothing")
    with open("/proc/%d/statm" % server.process.pid, encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- sound ------------------------------------------------------------------------------------------------

def voice_layout():
    """silero VAD with the example's card, which says how a stream of samples becomes its windows."""
    with open(os.path.join(ROOT, VOICE), "rb") as file:
        card = file.read()
    if b"axis:" not in card:
        card = card.replace(b"stream:\n", b"stream:\n  axis: 1\n")
    return {"voice/1/model.onnx": shared("models/voice/silero_vad_16k_op15.onnx"), "voice/model.yaml": card}


def voice_reference():
    """(probabilities, how far off they may be) of jfk.wav in 32 ms chunks."""
    with open(shared("models/voice/silero_vad.ref.json"), encoding="utf-8") as file:
        document = json.load(file)
    return document["probabilities"], document["atol"]


def voice_chunks(samples=512):
    """jfk.wav as FP32, `samples` at a time, the last one shorter."""
    with wave.open(shared("data/speech/jfk.wav")) as sound:
        found = struct.unpack("<%dh" % sound.getnframes(), sound.readframes(sound.getnframes()))
    return [struct.pack("<%df" % len(part), *(x / 32768 for x in part))
            for part in (found[i:i + samples] for i in range(0, len(found), samples))]


def expected_marks(probabilities, on=0.5, off=0.35, hold=8, step=512, pad=64):
    """The plain reading of the rule: [(is_start, row)]."""
    marks, is_on, low = [], False, []
    for i, score in enumerate(probabilities):
        row = max(i * step - pad, 0)
        if not is_on:
            if score >= on:
                is_on, low = True, []
                marks.append((True, row))
            continue
        low = low + [row] if score < off else []
        if len(low) == hold:
            is_on = False
            marks.append((False, low[0]))
    return marks


@contextlib.contextmanager
def serving_voice(options=()):
    with models(voice_layout()) as folder, Server(folder, options=options) as server:
        yield server
