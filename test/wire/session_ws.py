"""penstock.v1's Session over a WebSocket, as a page or a script has it: JSON, binary tensors, protobuf, errors, taking it up again."""
import contextlib
import json
import os
import re
import socket
import struct
import sys
import time
import warnings

from harness import ROOT, case, cases, check, equal, main, near, need, raises

sys.path.insert(0, os.path.join(ROOT, "test", "client"))
from _client import echo, serving                                                       # noqa: it lies there
from _penstock_v1 import (decoupled, expected_marks, resident, serving_voice, voice_chunks, voice_reference)    # noqa

SECONDS = 10
warnings.simplefilter("ignore", DeprecationWarning)     # of `websockets`, about how it is used here


class Stream:
    """One WebSocket of the `websockets` package; messages as documents."""

    def __init__(self, server, path, protocol=None, **others):
        connect = need("websockets.sync.client").connect
        self.socket = connect("ws://%s%s" % (server.address, path), subprotocols=[protocol] if protocol else None,
                              open_timeout=SECONDS, close_timeout=SECONDS, max_size=None, **others)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.socket.close()

    def say(self, document):
        self.socket.send(document if isinstance(document, (bytes, str)) else json.dumps(document))

    def hear(self, timeout=SECONDS):
        found = self.socket.recv(timeout=timeout)
        return json.loads(found) if isinstance(found, str) else found

    def rest(self):
        """(all that still comes, code and reason of the close)"""
        closed = need("websockets.exceptions").ConnectionClosed
        found = []
        try:
            while True:
                found.append(self.hear())
        except closed as error:
            return found, error.rcvd.code if error.rcvd else None, error.rcvd.reason if error.rcvd else ""

    def break_off(self):
        """As a cable does."""
        self.socket.socket.shutdown(socket.SHUT_RDWR)
        self.socket.socket.close()


def stream(server, model, **others):
    return Stream(server, "/models/%s/stream" % model, **others)


def floats(data):
    return list(struct.unpack("<%df" % (len(data) // 4), data))


# --- JSON -------------------------------------------------------------------------------------------------

@case
def the_shortest_session():
    """The path says which model; an input says the rest."""
    with serving() as server, stream(server, "echo_FP32") as ws:
        ws.say({"inputs": {"IN": [1, 2]}})
        begun, answer = ws.hear(), ws.hear()
        equal(list(begun), ["sequence", "begun"])
        equal(begun["begun"]["outputs"], [{"name": "OUT", "datatype": "FP32", "shape": [-1, -1]}])
        equal(answer, {"sequence": 2, "output": {"input": 1, "isLast": True, "outputs": [
            {"name": "OUT", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}})
        ws.say({"finish": {}})
        equal(ws.rest(), ([{"sequence": 3, "end": {}}], 1000, ""))


FORMS = {
    "by name": {"inputs": {"IN": [1, 2]}},
    "bare value": {"inputs": {"IN": 1}},
    "nested": {"inputs": {"IN": [[1, 2], [3, 4]]}},
    "with a shape": {"inputs": {"IN": {"shape": [2, 1], "data": [1, 2]}}},
    "as protobuf has it": {"input": {"id": "a", "inputs": [{"name": "IN", "shape": ["1", "2"], "floats": {"values": [1, 2]}}]}},
    "words for what is no number": {"inputs": {"IN": ["NaN", "-Infinity"]}},
    "base64": {"inputs": {"IN": {"shape": [1, 1], "raw": "AACAPw=="}}},
    "id": {"id": "q7", "inputs": {"IN": [5]}},
}


@cases({name: (form,) for name, form in FORMS.items()})
def an_input(form):
    with serving() as server, stream(server, "echo_FP32") as ws:
        ws.say(form)
        begun, answer = ws.hear(), ws.hear()
        check("output" in answer, "%s", answer)
        equal(answer["output"].get("id"), form.get("id") or form.get("input", {}).get("id"))


@case
def the_json_is_that_of_the_messages():
    """What is sent is read by protobuf's own JSON of the messages that reflection tells, and what that writes is taken."""
    from _grpc import channel
    from _penstock_v1 import V1
    json_format = need("google.protobuf.json_format")
    with serving() as server, channel(server) as over, stream(server, "echo_FP32") as ws:
        asked, answered = V1(over).classes["Session"]
        message = asked()
        message.input.id = "m"
        message.input.inputs.add(name="IN", shape=[1, 2]).floats.values.extend([1, 2])
        ws.say(json_format.MessageToJson(message))
        for _ in range(2):
            found = json_format.Parse(ws.socket.recv(timeout=SECONDS), answered())
        equal((found.sequence, found.output.id, [v.number_value for v in found.output.outputs[0].data.values]), (2, "m", [1, 2]))


WRONG = {
    "no JSON": ("nonsense", 3, "a text message is a JSON object", 1008),
    "cut": ('{"inputs":', 3, "", 1008),
    "unknown member": ('{"inptu":{}}', 3, "no member 'inptu'", 1008),
    "two messages": ('{"input":{},"finish":{}}', 3, "one of begin, input", 1008),
    "finish first": ('{"finish":{}}', 3, "says which model; this one is the end", 1008),
    "another model": ('{"begin":{"model":"iris"}}', 3, "the path names 'echo_FP32'", 1008),
    "unknown binary input": ('{"begin":{"binaryInput":"INN"}}', 3, "takes no 'INN'", 1008),
    "sequence": ('{"sequence":4,"begin":{}}', 3, "one before it is missing", 1008),
    "resume of no time": ('{"begin":{"resumeSeconds":-1}}', 3, "more than 0", 1008),
}


@cases({name: row for name, row in WRONG.items()})
def says_what_is_wrong(text, code, words, close):
    with serving() as server, stream(server, "echo_FP32") as ws:
        ws.say(text)
        found, closed, reason = ws.rest()
        equal((list(found[-1]), found[-1]["end"]["code"], closed), (["sequence", "end"], code, close), "%s" % found)
        check(words in found[-1]["end"]["message"], "%s lacks %r", found[-1], words)
        check(reason and found[-1]["end"]["message"].startswith(reason[:40]), "the close says %r", reason)


@case
def one_bad_input_is_no_bad_session():
    with serving() as server, stream(server, "echo_UINT8") as ws:
        ws.say({"begin": {}})
        ws.hear()
        ws.say({"id": "x", "inputs": {"IN": [1, 300]}})
        bad = ws.hear()["answered"]
        equal((bad["input"], bad["id"], bad["code"], bad["field"]), (1, "x", 3, "input.inputs[0]"))
        check("300" in bad["message"], "%s", bad)
        ws.say(b"\1\2")
        equal(ws.hear()["output"]["outputs"][0]["data"], [1, 2])


@case
def a_model_that_is_not_there_is_said_in_http():
    with serving() as server:
        with raises(need("websockets.exceptions").InvalidStatus, "404"):
            stream(server, "irs")
        http, document = server.get("/models/irs/stream")
        equal(http, 404)
        check("did you mean 'iris'" in document["error"]["message"], "%s", document)


@case
def without_a_websocket_one_is_told_how():
    with serving() as server:
        http, headers, body = server.call("GET", "/models/echo_FP32/stream")
        equal((http, headers.get("upgrade")), (426, "websocket"))
        error = json.loads(body)["error"]
        address = "ws://%s/models/echo_FP32/stream" % server.address
        check(all(address in line for line in error["examples"]) and len(error["examples"]) == 3, "%s", error)
        check('{"inputs":{"IN":' in error["message"], "%s", error)
        # the example is one that works
        sent = re.search(r"\{.*\}", error["message"]).group(0)
        with stream(server, "echo_FP32") as ws:
            ws.say(sent)
            ws.hear()
            check("output" in ws.hear(), "the example is wrong: %s", sent)


@case
def versions_have_a_path_too():
    with serving() as server, Stream(server, "/models/echo_FP32/versions/1/stream") as ws:
        ws.say({"begin": {}})
        equal(ws.hear()["begun"]["version"], "1")


# --- binary -----------------------------------------------------------------------------------------------

@case
def tensors_as_binary_messages():
    with serving() as server, stream(server, "echo_FP32", protocol="penstock.v1.json") as ws:
        equal(ws.socket.subprotocol, "penstock.v1.json")
        ws.say({"begin": {"binaryOutputs": True}})
        ws.hear()
        data = struct.pack("<5000f", *range(5000))
        for size in (4, 40, 20000):
            ws.say(data[:size])
            head = ws.hear()["output"]
            equal(head["outputs"], [{"name": "OUT", "datatype": "FP32", "shape": [1, size // 4]}])
            equal(ws.hear(), data[:size])
        ws.say(b"\1\2\3")
        equal(ws.hear()["answered"]["code"], 3)


@case
def binary_of_two_inputs_needs_a_name():
    two = b"""name: "two" backend: "echo" max_batch_size: 0
input [{ name: "A" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "B" data_type: TYPE_FP32 dims: [ -1 ] optional: true }, { name: "C" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }]
"""
    with serving(two=two) as server, stream(server, "two") as ws:
        ws.say(b"\0\0\0\0")
        ws.hear()
        bad = ws.hear()["answered"]
        equal((bad["code"], bad["field"]), (3, "begin.binary_input"))
        check("the model takes 2" in bad["message"], "%s", bad)


@case
def protobuf_over_a_websocket():
    from _grpc import channel
    from _penstock_v1 import V1, a_input, values
    with serving() as server, channel(server) as over, stream(server, "echo_FP32", protocol="penstock.v1.proto") as ws:
        v1 = V1(over)
        answered = v1.classes["Session"][1]
        ws.say(v1.request({"begin": {}}).SerializeToString())
        equal(answered.FromString(ws.hear()).begun.model, "echo_FP32")
        ws.say(v1.request(a_input(1, 2)).SerializeToString())
        equal(values(answered.FromString(ws.hear()).output.outputs[0]), [1, 2])
        ws.say(b"\xff\xff")
        found, closed, _ = ws.rest()
        equal((answered.FromString(found[-1]).end.code, closed), (3, 1008))


# --- answers that come and go -------------------------------------------------------------------------------

@case
def the_server_speaks_first():
    with serving(chat=echo("chat", "BYTES", "1", mode="chat", greeting="hello")) as server, stream(server, "chat") as ws:
        ws.say({"begin": {}})
        ws.hear()
        greeting = ws.hear()["output"]
        equal((greeting.get("input", 0), greeting["outputs"][0]["data"]), (0, ["hello"]))
        ws.say({"inputs": {"IN": "you"}})
        check("you" in ws.hear()["output"]["outputs"][0]["data"][0], "no echo")


@case
def a_reader_with_credit():
    with serving(ticks=decoupled("ticks", mode="repeat", count=100)) as server, stream(server, "ticks") as ws:
        ws.say({"begin": {"credit": 2}})
        ws.say({"inputs": {"IN": [1]}})
        equal([list(ws.hear())[1] for _ in range(3)], ["begun", "output", "output"])
        with raises(TimeoutError):
            ws.hear(timeout=0.3)
        ws.say({"grant": {"responses": 3}})
        equal([ws.hear()["sequence"] for _ in range(3)], [4, 5, 6])


@case
def an_interruption():
    with serving(slow=decoupled("slow", mode="repeat", count=100000, delay_ms=20)) as server, stream(server, "slow") as ws:
        ws.say({"inputs": {"IN": [1]}})
        ws.say({"inputs": {"IN": [2]}})
        equal([list(ws.hear())[1] for _ in range(2)], ["begun", "output"])
        ws.say({"interrupt": {}})
        found = []
        while not found or "interrupted" not in found[-1]:
            found.append(ws.hear())
        equal([m["answered"]["code"] for m in found if "answered" in m], [1, 1])
        equal(found[-1]["interrupted"], {"request": 3})


@case
def who_leaves_frees_the_model():
    """A close, and a connection that just breaks."""
    with serving(slow=decoupled("slow", mode="repeat", count=1000000, delay_ms=10)) as server:
        for leave in (lambda ws: ws.socket.close(), lambda ws: ws.break_off()):
            with contextlib.suppress(Exception):
                with stream(server, "slow") as ws:
                    ws.say({"inputs": {"IN": [1]}})
                    ws.hear(), ws.hear()
                    leave(ws)
            until = time.monotonic() + 5
            while metric(server, "penstock_sessions_open") != 0:
                check(time.monotonic() < until, "the session goes on: %s", metric(server, "penstock_sessions_open"))
                time.sleep(0.02)


@cases({"text": ({"inputs": {"IN": [2]}},), "each larger than what a connection has at rest": ({"inputs": {"IN": list(range(500))}},)})
def who_sends_ahead_is_still_heard(message):
    """Inputs wait for a model that never ends its answer: a ping behind them is answered, a close frees the model at once."""
    slow = decoupled("slow", mode="repeat", count=1000000, delay_ms=50)
    with serving(options=["--stream-pieces-max", "1"], slow=slow) as server:
        with stream(server, "slow") as ws:
            ws.say({"inputs": {"IN": [1]}})
            ws.hear(), ws.hear()
            for _ in range(10):
                ws.say(message)
            check(ws.socket.ping().wait(SECONDS), "the ping behind them was not answered")
        equal(ws.socket.protocol.close_rcvd.code, 1000)     # it was answered, within close_timeout
        until = time.monotonic() + 5
        while metric(server, "penstock_sessions_open") != 0:
            check(time.monotonic() < until, "the session goes on")
            time.sleep(0.02)


@case
def what_is_received_ahead_has_a_limit():
    slow = decoupled("slow", mode="repeat", count=1000000, delay_ms=50)
    with serving(options=["--stream-pieces-max", "1", "--websocket-ahead", "4KiB"], slow=slow) as server:
        with stream(server, "slow") as ws:
            ws.say({"inputs": {"IN": [1]}})
            ws.hear(), ws.hear()
            for _ in range(10):
                ws.say({"inputs": {"IN": list(range(500))}})
            until = time.monotonic() + SECONDS
            while metric(server, "penstock_websocket_ahead_full_total") == 0:
                check(time.monotonic() < until, "10 messages of 2 KB are less than 4 KiB")
                time.sleep(0.02)
            ws.break_off()


def metric(server, name, labels=""):
    _, _, body = server.call("GET", "/metrics")
    found = re.search(r"^%s(?:\{%s\})? ([0-9.e+]+)$" % (name, labels), body.decode(), re.M)
    check(found is not None, "no metric %s", name)
    return float(found.group(1))


@case
def a_reader_that_rests():
    """Nobody takes a million answers: memory stays flat, the model waits, and others go on."""
    with serving(many=decoupled("many", mode="repeat", count=1000000)) as server:
        resting = [stream(server, "many") for _ in range(20)]
        for ws in resting:
            ws.say({"inputs": {"IN": list(range(500))}})
        time.sleep(1)
        before = resident(server)
        with stream(server, "echo_FP32") as other:
            for i in range(200):
                other.say({"inputs": {"IN": [i]}})
            for i in range(201):
                other.hear()
        time.sleep(1)
        check(resident(server) - before < 4 << 20, "memory grew by %g MB", (resident(server) - before) / 1e6)
        for ws in resting:
            ws.break_off()


# --- limits -----------------------------------------------------------------------------------------------

@case
def sessions_have_a_limit():
    with serving(options=["--sessions-max", "2"]) as server:
        with stream(server, "echo_FP32") as one, stream(server, "echo_FP32") as two, stream(server, "echo_FP32") as three:
            for ws in (one, two):
                ws.say({"begin": {}})
                check("begun" in ws.hear(), "not begun")
            three.say({"begin": {}})
            found, code, _ = three.rest()
            equal((found[-1]["end"]["code"], code), (8, 1013))
            check("--sessions-max" in found[-1]["end"]["message"], "%s", found)
        equal(metric(server, "penstock_limit_hits_total", 'limit="sessions-max"'), 1, "counted")


@case
def a_message_has_a_limit():
    with serving(options=["--max-message", "64KiB"]) as server, stream(server, "echo_FP32") as ws:
        ws.say({"begin": {}})
        ws.hear()
        ws.say(bytes(70000))
        found, code, reason = ws.rest()
        equal(code, 1009, reason)
        equal(metric(server, "penstock_limit_hits_total", 'limit="max-message"'), 1, "counted")


@case
def thousands_that_come_and_go():
    """Sessions that begin, ask and break off leave nothing behind."""
    with serving(slow=decoupled("slow", mode="repeat", count=100000, delay_ms=10)) as server:
        def go(count):
            for _ in range(count):
                raw = socket.create_connection((server.host, server.port), SECONDS)
                raw.sendall(b"GET /models/slow/stream HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
                            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
                text = b'{"inputs":{"IN":[1]}}'
                raw.sendall(b"\x81" + bytes([0x80 | len(text)]) + bytes(4) + text)
                raw.recv(64)
                raw.close()
        go(300)
        before = resident(server)
        go(2000)
        until = time.monotonic() + 10
        while metric(server, "penstock_sessions_open") != 0:
            check(time.monotonic() < until, "sessions are left")
            time.sleep(0.05)
        check(resident(server) - before < 4 << 20, "memory grew by %g MB", (resident(server) - before) / 1e6)


# --- taken up again -----------------------------------------------------------------------------------------

def again(server, session, after, **others):
    return Stream(server, "/streams/%s?after=%d" % (session, after), **others)


@cases({"json": ("penstock.v1.json",), "no_subprotocol": (None,)})
def a_broken_session_goes_on(protocol):
    """Nothing is missing and nothing comes twice; inputs go on, with their numbers."""
    with serving(ticks=decoupled("ticks", mode="repeat", count=30, delay_ms=20)) as server:
        ws = stream(server, "ticks")
        ws.say({"begin": {"resumeSeconds": 30}})
        session = ws.hear()["begun"]["session"]
        ws.say({"inputs": {"IN": [1]}})
        seen = [ws.hear() for _ in range(3)]
        ws.break_off()
        time.sleep(0.2)
        with again(server, session, seen[-1]["sequence"], protocol=protocol) as ws:
            while "answered" not in seen[-1]:
                seen.append(ws.hear())
            equal([m["sequence"] for m in seen], list(range(2, 2 + len(seen))))
            equal(sum("output" in m for m in seen), 30)
            begun = [m["begun"] for m in seen if "begun" in m]
            equal([(b["session"], b["received"]) for b in begun], [(session, 2)])
            ws.say({"sequence": 3, "inputs": {"IN": [2]}})
            equal(ws.hear()["output"]["input"], 2)


@case
def a_session_that_nobody_takes_up_is_gone():
    with serving(slow=decoupled("slow", mode="repeat", count=1000000, delay_ms=10)) as server:
        ws = stream(server, "slow")
        ws.say({"begin": {"resumeSeconds": 1}})
        session = ws.hear()["begun"]["session"]
        ws.say({"inputs": {"IN": [1]}})
        ws.hear()
        ws.break_off()
        equal(metric(server, "penstock_sessions_open"), 1)
        until = time.monotonic() + 5
        while metric(server, "penstock_sessions_open") != 0:
            check(time.monotonic() < until, "it is kept for ever")
            time.sleep(0.05)
        with raises(need("websockets.exceptions").InvalidStatus, "410"):
            again(server, session, 1)


@case
def a_session_that_was_closed_is_over():
    with serving() as server:
        with stream(server, "echo_FP32") as ws:
            ws.say({"begin": {"resumeSeconds": 30}})
            ws.hear()
        until = time.monotonic() + 5
        while metric(server, "penstock_sessions_open") != 0:
            check(time.monotonic() < until, "it goes on")
            time.sleep(0.02)


@case
def binary_outputs_are_kept_with_their_text():
    with serving() as server:
        ws = stream(server, "echo_FP32")
        ws.say({"begin": {"resumeSeconds": 30, "binaryOutputs": True}})
        session = ws.hear()["begun"]["session"]
        for i in range(3):
            ws.say(struct.pack("<f", i))
            ws.hear(), ws.hear()
        ws.break_off()
        with again(server, session, 2) as ws:
            for i in (1, 2):
                equal((ws.hear()["output"]["input"], floats(ws.hear())), (i + 1, [i]))


# --- speech -------------------------------------------------------------------------------------------------

@case
def silero_hears_jfk():
    """32 ms of sound a message, as bytes; the marks say where speech begins and ends."""
    reference, atol = voice_reference()
    with serving_voice() as server, stream(server, "voice") as ws:
        found, marks = [], []
        for chunk in voice_chunks():
            ws.say(chunk)
        ws.say({"finish": {}})
        messages, code, _ = ws.rest()
        for message in messages:
            if "output" in message:
                found += message["output"]["outputs"][0]["data"]
                marks += [(m["isStart"], m["row"]) for m in message["output"].get("marks", [])]
        equal(code, 1000)
        near(found, reference, atol)
        equal(marks, expected_marks(found))


if __name__ == "__main__":
    main()
