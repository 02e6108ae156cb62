"""Streams that are taken up again: over REST and WebSocket, cut at any byte, by raw sockets that say exactly what they got."""
import json
import os
import random
import re
import socket
import struct
import sys
import threading
import time

from harness import ROOT, Server, case, cases, check, equal, main, models, raises
from _client import echo
from _ws import Refused, Socket

sys.path.append(os.path.join(ROOT, "test", "wire"))
from _wire import metric, until  # noqa: E402

SSE, NDJSON = "text/event-stream", "application/x-ndjson"
ID = re.compile(r"^n1\.[0-9a-f]{32}$")
INFER = {"inputs": [{"name": "IN", "shape": [1], "datatype": "FP32", "data": [7]}]}


def repeat(name="repeat", **parameters):
    """`count` answers of one number each, and when each was due: which is another in each."""
    text = echo(name, "FP32", mode="repeat", **parameters).decode()
    return text.replace('output [{ name: "OUT"', 'output [{ name: "due_ns" data_type: TYPE_INT64 dims: [ 1 ] }, '
                        '{ name: "OUT"').encode()


def serving(*options, node="n1", **configs):
    class Both:
        def __enter__(self):
            layout = {"repeat/config.pbtxt": repeat(count="400", delay_us="300"),
                      "endless/config.pbtxt": repeat("endless", count="100000000", delay_us="200"),
                      "chat/config.pbtxt": echo("chat", "BYTES", mode="chat")}
            layout.update({name + "/config.pbtxt": config for name, config in configs.items()})
            layout.update({name.split("/")[0] + "/1/.keep": b"" for name in list(layout)})
            self.folder = models(layout)
            self.server = Server(self.folder.__enter__(), options=["--node-name", node, *options])
            return self.server.__enter__()

        def __exit__(self, *why):
            self.server.__exit__(*why)
            self.folder.__exit__(*why)
    return Both()


class Stream:
    """One HTTP/1.1 answer of events, read by hand: .status, .headers, and events as they are whole."""

    def __init__(self, server, method, path, body=None, headers=None, seconds=20):
        self.socket = socket.create_connection((server.host, server.port), seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = json.dumps(body).encode() if body is not None else b""
        lines = ["%s %s HTTP/1.1" % (method, path), "host: " + server.address]
        lines += ["%s: %s" % pair for pair in (headers or {}).items()]
        if body is not None:
            lines += ["content-type: application/json", "content-length: %d" % len(data)]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + data)
        self.raw, self.text, self.is_over, self.got = b"", b"", False, 0
        while b"\r\n\r\n" not in self.raw:
            check(self._more(), "the connection ended within the head: %r", self.raw)
        head, self.raw = self.raw.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = dict(line.split(": ", 1) for line in lines[1:])
        self.is_chunked = self.headers.get("transfer-encoding") == "chunked"

    def _more(self, most=1 << 16):
        piece = self.socket.recv(most)
        self.raw += piece
        self.got += len(piece)
        return bool(piece)

    def _unchunk(self):
        while not self.is_over:
            line, found, rest = self.raw.partition(b"\r\n")
            if not found:
                return
            size = int(line, 16)
            if len(rest) < size + 2:
                return
            self.text += rest[:size]
            self.raw = rest[size + 2:]
            self.is_over = size == 0

    def body(self):
        """All of a short answer."""
        length = int(self.headers.get("content-length", 0))
        while len(self.raw) < length:
            check(self._more(), "cut")
        return json.loads(self.raw) if self.raw else None

    def events(self, stop_at=None):
        """(id, name, data) until the end, or until `stop_at` bytes of the socket have come."""
        while True:
            self._unchunk()
            while b"\n\n" in self.text:
                block, self.text = self.text.split(b"\n\n", 1)
                fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
                if fields:
                    yield fields.get("id"), fields.get("event"), json.loads(fields["data"])
            if self.is_over or (stop_at is not None and self.got >= stop_at):
                return
            check(self._more(64 if stop_at is not None else 1 << 16), "the stream was cut off by the server")

    def cut(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def begin(server, model="repeat", seconds="60", accept=SSE, headers=None, how="query"):
    path = "/v2/models/%s/infer" % model
    more = {"accept": accept, **(headers or {})}
    if how == "query":
        path += "?resume=" + seconds
    else:
        more["x-resume"] = seconds
    stream = Stream(server, "POST", path, INFER, more)
    if stream.status == 200:
        check(stream.headers["location"].startswith("/streams/n1."), "%s", stream.headers)
        check(ID.match(stream.headers["location"][9:]), "%s", stream.headers)
    return stream


def due_of(event):
    return next(output["data"][0] for output in event["outputs"] if output["name"] == "due_ns")


def check_whole(events, stream_id, count):
    """Every number once, in order, and no event twice: each has a time of its own."""
    equal([found for found, _, _ in events], ["%s.%d" % (stream_id, i + 1) for i in range(count)])
    dues = [due_of(data) for _, _, data in events]
    check(all(a < b for a, b in zip(dues, dues[1:])), "times go back")


# --- REST ---------------------------------------------------------------------------------------------------

@cases({"query": ("query",), "header": ("header",)})
def events_have_ids_and_the_stream_a_place(how):
    with serving() as server:
        stream = begin(server, how=how)
        events = list(stream.events())
        check_whole(events, stream.headers["location"][9:], 400)
        equal(stream.headers["x-node"], "n1")
        # It is over, and may be read again, whole or from anywhere.
        again = Stream(server, "GET", stream.headers["location"], headers={"accept": SSE})
        equal(list(again.events()), events)
        lines = Stream(server, "GET", stream.headers["location"] + "?after=395", headers={"accept": NDJSON})
        while not lines.is_over:
            lines._unchunk()
            lines.is_over or check(lines._more(), "cut")
        equal([json.loads(line) for line in lines.text.split(b"\n") if line], [data for _, _, data in events[395:]])
        end = Stream(server, "GET", stream.headers["location"], headers={"last-event-id": events[-1][0]})
        equal(end.status, 204)


@case
def who_does_not_ask_gets_no_ids():
    with serving() as server:
        stream = Stream(server, "POST", "/v2/models/repeat/infer", INFER, {"accept": SSE})
        check("location" not in stream.headers, "%s", stream.headers)
        equal({found for found, _, _ in stream.events()}, {None})
        equal(metric(server, "penstock_resume_streams_total"), 0)


@case
def cut_at_200_places_nothing_is_lost_and_nothing_comes_twice():
    seed = int(os.environ.get("PENSTOCK_TEST_SEED", time.time_ns() % 100000))
    chance, cuts, streams = random.Random(seed), 0, 0
    with serving() as server:
        while cuts < 200:
            stream = begin(server)
            stream_id, events, streams = stream.headers["location"][9:], [], streams + 1
            while True:
                # Some bytes of the head are past already; a cut may come within a chunk's size, an id, a number.
                for event in stream.events(stop_at=stream.got + chance.randrange(1, 9000)):
                    events.append(event)
                if stream.is_over:
                    break
                stream.cut()
                cuts += 1
                last = {"last-event-id": events[-1][0]} if events else {}
                stream = Stream(server, "GET", "/streams/" + stream_id, headers={"accept": SSE, **last})
                equal(stream.status, 200, "seed %d" % seed)
            check_whole(events, stream_id, 400)
        check(metric(server, "penstock_resume_returns_total") >= 200, "returns")
        until(lambda: metric(server, "penstock_resume_readers") == 0, "readers are gone")
        equal(metric(server, "penstock_resume_streams"), streams)


@case
def several_read_one_stream_and_the_slowest_does_not_lose():
    with serving("--loops", "2", "--resume-events-max", "100") as server:
        first = begin(server)
        place = first.headers["location"]
        readers = [Stream(server, "GET", place, headers={"accept": SSE}) for _ in range(4)]
        found = {}

        def read(index, stream, delay):
            events = []
            for event in stream.events():
                events.append(event)
                if delay and len(events) % 20 == 0:
                    time.sleep(delay)
            found[index] = events

        threads = [threading.Thread(target=read, args=(i, stream, 0.02 if i == 2 else 0))
                   for i, stream in enumerate([first, *readers])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        equal(sorted(found), [0, 1, 2, 3, 4])
        for events in found.values():
            check_whole(events, place[9:], 400)


@case
def a_model_waits_for_who_is_away_and_goes_on_when_he_is_back():
    with serving("--resume-events-max", "200", "--resume-time", "20s") as server:
        stream = begin(server, "endless")
        events = stream.events()
        read = [next(events) for _ in range(5)]
        stream.cut()
        until(lambda: metric(server, "penstock_resume_waits_total") > 0, "the model waits")
        before = metric(server, "penstock_model_running", model="endless")
        equal(before, 1)
        stream = Stream(server, "GET", stream.headers["location"], headers={"last-event-id": read[-1][0]})
        events = stream.events()
        read += [next(events) for _ in range(1000)]
        check_whole(read, stream.headers["location"][9:], 1005)
        # Somebody who was away while others read on is told what there is.
        late = Stream(server, "GET", stream.headers["location"] + "?after=3", headers={"accept": SSE})
        equal(late.status, 410)
        body = late.body()["error"]
        check(re.search(r"event 4 is not kept any more: there are \d+ to \d+", body["message"]), "%s", body)
        equal(body["code"], "OUT_OF_RANGE")
        gone = Stream(server, "DELETE", stream.headers["location"])
        equal(gone.status, 204)
        last = [event for event in events][-1]
        equal((last[1], last[2]["error"]["code"]), ("error", "CANCELLED"))
        until(lambda: metric(server, "penstock_model_running", model="endless") == 0, "the model stops")


@case
def nobody_comes_back():
    with serving() as server:
        stream = begin(server, "endless", seconds="0.3")
        stream.cut()
        until(lambda: metric(server, "penstock_model_running", model="endless") == 0, "the model stops")
        equal(metric(server, "penstock_resume_expired_total"), 1)
        equal(metric(server, "penstock_resume_streams"), 0)
        gone = Stream(server, "GET", stream.headers["location"])
        equal(gone.status, 410)
        body = gone.body()["error"]
        check("is gone" in body["message"], "%s", body)
        equal(body["code"], "FAILED_PRECONDITION")


@case
def ids_that_are_not_right():
    with serving() as server:
        stream = begin(server, headers={"authorization": "Bearer a"})
        list(stream.events())
        place, own = stream.headers["location"], {"authorization": "Bearer a"}
        secret = place.split(".")[1]
        rows = [
            (place, {}, 404, "NOT_FOUND", "there is no stream"),
            (place, {"authorization": "Bearer b"}, 404, "NOT_FOUND", "there is no stream"),
            ("/streams/n1." + "0" * 32, own, 404, "NOT_FOUND", "there is no stream"),
            ("/streams/n2." + secret, own, 421, "FAILED_PRECONDITION", "is with node 'n2', and this is 'n1'"),
            ("/streams/" + secret, own, 400, "INVALID_ARGUMENT", "is no id of a stream"),
            ("/streams/n1.A" + secret[1:], own, 400, "INVALID_ARGUMENT", "is no id of a stream"),
            (place + "?after=401", own, 400, "OUT_OF_RANGE", "has not been yet: the newest is 400"),
            (place + "?after=x", own, 400, "INVALID_ARGUMENT", "it takes the number"),
            (place, {**own, "last-event-id": "n1.%s.7" % ("0" * 32)}, 400, "INVALID_ARGUMENT", "is no event of stream"),
        ]
        for path, headers, status, code, words in rows:
            found = Stream(server, "GET", path, headers=headers)
            equal(found.status, status, path)
            body = found.body()["error"]
            equal(body["code"], code, path)
            check(words in body["message"], "%s: %s", path, words)
            with raises(Refused) as caught:
                Socket(server, path, headers.items())
            equal(caught.error.status, status, "WebSocket " + path)
            if status == 421:
                equal((found.headers["x-stream-node"], found.headers["x-node"]), ("n2", "n1"))
        equal(Stream(server, "DELETE", place).status, 404)
        equal(Stream(server, "DELETE", place, headers=own).status, 204)
        equal(Stream(server, "GET", place, headers=own).status, 410)
        for bad in ("x", "-1", "1h"):
            refused = begin(server, seconds=bad)
            equal(refused.status, 400)
            text = json.dumps(refused.body())
            check("seconds" in text, "%s: %s", bad, text)


@case
def streams_are_bounded():
    with serving("--resume-streams-max", "2") as server:
        held = [begin(server, "endless") for _ in range(2)]
        third = begin(server, "endless")
        check(third.status in (429, 503), "%d", third.status)
        check("--resume-streams-max" in json.dumps(third.body()), "%s", third.raw)
        equal(metric(server, "penstock_resume_refused_total"), 1)
        for stream in held:
            equal(Stream(server, "DELETE", stream.headers["location"]).status, 204)
    with serving("--resume-streams-max", "0") as server:
        refused = begin(server)
        equal(refused.status, 501)


@case
def a_server_that_stops_does_not_wait_for_who_is_away():
    with serving("--drain-timeout", "20s") as server:
        stream = begin(server, "endless")
        stream.cut()
        until(lambda: metric(server, "penstock_resume_readers") == 0, "he is away")
        begun = time.monotonic()
        equal(server.stop(), 0)
        check(time.monotonic() - begun < 5, "it took %.1f s", time.monotonic() - begun)
        server.urls.clear()
        server.start()


@case
def a_websocket_reads_a_stream_too():
    with serving() as server:
        stream = begin(server)
        reading = stream.events()
        events = [next(reading) for _ in range(20)]
        with Socket(server, stream.headers["location"] + "?after=10") as ws:
            events += list(reading)
            messages = []
            while True:
                message = ws.recv()
                if isinstance(message, tuple):
                    equal(message[0], 1000)
                    break
                messages.append(json.loads(message))
        equal(messages, [data for _, _, data in events[10:]])


if __name__ == "__main__":
    main()
