"""Streams over REST as people read them: requests, httpx over HTTP/1.1 and HTTP/2, curl, and sockets that stop or leave."""
import json
import os
import socket
import subprocess
import sys
import threading
import time

from harness import ROOT, case, cases, check, equal, main, need, need_program
from _streams import NDJSON, SSE, ended, events_of, generate, infer, lines_of, number_of, serving, ways

sys.path.append(os.path.join(ROOT, "test", "wire"))
from _wire import Wire, head, metric, resident, until  # noqa: E402

VERSIONS = {"http1": (True, False, "HTTP/1.1"), "http2": (False, True, "HTTP/2")}


def ask(server, http, path, accept, body, **more):
    """One whole answer by httpx."""
    httpx = need("httpx")
    http1, http2, version = VERSIONS[http]
    with httpx.Client(http1=http1, http2=http2, timeout=60) as client:
        headers = {"accept": accept, **more.pop("headers", {})} if accept else more.pop("headers", {})
        reply = client.post(server.url + path, json=body, headers=headers, **more)
        equal(reply.http_version, version)
        return reply


def data_of(reply):
    kind = reply.headers["content-type"]
    if kind.startswith(SSE):
        equal(kind, "text/event-stream; charset=utf-8")
        return events_of(reply.content)
    equal(kind, NDJSON)
    return lines_of(reply.content)


# --- what comes, and in which order ----------------------------------------------------------------------

@cases({"%s_%s" % (way, http): (way, http) for way in ways() for http in VERSIONS})
def in_order(way, http):
    with serving() as server:
        for count in (0, 1, 2, 65, 3000):
            path, accept, body = ways(count=count)[way]
            reply = ask(server, http, path, accept, body)
            equal(reply.status_code, 200)
            equal([number_of(event) for event in data_of(reply)], list(range(count)), "numbers of %d" % count)
            check("content-encoding" not in reply.headers and "content-length" not in reply.headers, "%s", reply.headers)
            equal((reply.headers["cache-control"], reply.headers["x-accel-buffering"]), ("no-cache", "no"))
        equal({how for _, how in ended(server)}, {"ended"})


@case
def typed_predictions_have_their_own_form():
    with serving() as server:
        for accept, read in ((SSE, events_of), (NDJSON, lines_of)):
            status, headers, body = server.call("POST", "/models/numbers:predict", b'{"SEED": 7}', {"accept": accept})
            equal((status, read(body)), (200, [{"NUMBER": i, "TEXT": "xxxx"} for i in range(3)]), accept)
            status, headers, body = server.call("POST", "/models/one:predict", b'{"x": 2.5}', {"accept": accept})
            equal((status, read(body)), (200, [{"y": 2.5}]), "a model of one answer")
            status, headers, body = server.call("POST", "/models/numbers:predict?outputs=NUMBER&when_slow=pause",
                                                b'{"SEED": 7}', {"accept": accept})
            equal((status, read(body)[1]), (200, {"NUMBER": 1}))
        status, _, body = server.call("POST", "/models/numbers:predict", b'{"SEED": 7}')
        equal(status, 501)
        check(b"accept: text/event-stream" in body, "%s", body)


@cases(VERSIONS)
def tokens_come_when_they_are_made(http1, http2, version):
    """None waits for another: each is read before the next is due."""
    httpx = need("httpx")
    with serving() as server, httpx.Client(http1=http1, http2=http2, timeout=60) as client:
        at = []
        with client.stream("POST", server.url + "/v2/models/numbers/generate_stream",
                           json=generate(count=6, delay_ms=150)) as reply:
            equal(reply.status_code, 200)
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    at.append(time.monotonic())
        gaps = [b - a for a, b in zip(at, at[1:])]
        check(len(at) == 6 and min(gaps) > 0.03, "gaps of %s", ["%.3f" % gap for gap in gaps])


@case
def requests_reads_lines():
    requests = need("requests")
    with serving() as server:
        reply = requests.post(server.url + "/v2/models/numbers/infer_stream", json=infer(count=500), stream=True, timeout=60)
        found = [json.loads(line[6:]) for line in reply.iter_lines() if line]
        equal([number_of(event) for event in found], list(range(500)))
        reply = requests.post(server.url + "/models/numbers:predict", json={"SEED": 1}, headers={"accept": NDJSON}, timeout=60)
        equal([number_of(json.loads(line)) for line in reply.text.splitlines()], [0, 1, 2])


@case
def curl_prints_events():
    need_program("curl")
    with serving() as server:
        for protocol in ("--http1.1", "--http2-prior-knowledge", "--http1.0"):
            done = subprocess.run(["curl", "-sSN", protocol, "--max-time", "30", server.url + "/v2/models/numbers/generate_stream",
                                   "-d", json.dumps(generate(count=70))], capture_output=True)
            check(done.returncode == 0, "%s", done.stderr)
            equal([number_of(event) for event in events_of(done.stdout)], list(range(70)), protocol)


@case
def compression_is_not_for_streams():
    import gzip
    with serving() as server:
        body = gzip.compress(json.dumps(infer(count=2000)).encode())
        status, headers, answer = server.call("POST", "/v2/models/numbers/infer", body, {
            "accept": SSE, "accept-encoding": "gzip", "content-encoding": "gzip", "content-type": "application/json"})
        equal((status, headers.get("content-encoding"), len(events_of(answer))), (200, None, 2000))


@case
def one_write_is_one_chunk():
    """Sixty-four tokens that are ready together are one chunk, or a few where the machine was busy."""
    with serving() as server, Wire(server) as wire:
        body = json.dumps(generate(count=2)).encode()
        wire.request("POST", "/v2/models/numbers/generate_stream", body)
        equal(len(events_of(wire.reply().body)), 2)
        wire.request("POST", "/v2/models/one/generate_stream", b'{"x": 1}')
        while b"\r\n\r\n" not in wire.data:
            wire.more()
        text, wire.data = wire.data.split(b"\r\n\r\n", 1)
        check(b"transfer-encoding: chunked" in text.lower(), "%r", text)
        while not wire.data.endswith(b"0\r\n\r\n"):
            check(wire.more(), "the end")
        equal(wire.data.count(b"\r\n"), 4, "chunks of %r" % wire.data)


@case
def methods_are_told():
    with serving() as server:
        for path in ("/v2/models/numbers/generate_stream", "/v2/models/numbers/generate", "/v2/models/numbers/infer_stream"):
            for method in ("GET", "HEAD", "PUT", "DELETE"):
                status, headers, _ = server.call(method, path)
                check(status == 405 and "POST" in headers.get("allow", ""), "%s %s: %d %s", method, path, status, headers)


# --- failures ----------------------------------------------------------------------------------------------

@cases({"%s_%s" % (way, http): (way, http) for way in ways() for http in VERSIONS})
def fails(way, http):
    text = 'it failed "on" purpose'
    with serving() as server:
        for code, status in ((13, 500), (14, 503), (3, 400)):
            path, accept, body = ways(count=5, fail_at=0, code=code)[way]
            reply = ask(server, http, path, accept, body)
            equal((reply.status_code, reply.json()), (status, {"error": text}), "before the first")
            equal(reply.headers["content-type"], "application/json")
            path, accept, body = ways(count=500, fail_at=100, code=code)[way]
            reply = ask(server, http, path, accept, body)
            found = data_of(reply)
            equal((reply.status_code, [number_of(event) for event in found[:-1]]), (200, list(range(100))))
            again = {"retry_after_ms": 1000} if code == 14 else {}      # UNAVAILABLE says when to ask again
            equal(found[-1], {"error": text, **again}, "in flight")


@cases(VERSIONS)
def typed_failures_have_their_own_form(http1, http2, version):
    httpx = need("httpx")
    bad = b'backend: "stream_model"\n'
    with serving(bad=bad) as server, httpx.Client(http1=http1, http2=http2, timeout=60) as client:
        # a deadline is what a typed caller can set
        reply = client.post(server.url + "/v2/models/numbers/generate_stream", json=generate(count=1000, delay_ms=20),
                            headers={"x-request-timeout-ms": "300"})
        found = events_of(reply.content)
        check(reply.status_code == 200 and len(found) > 2, "%d: %s", reply.status_code, reply.text)
        check("Request timeout expired" in found[-1]["error"], "%s", found[-1])
        reply = client.post(server.url + "/v2/models/numbers/generate_stream", json=generate(first_ms=5000),
                            headers={"x-request-timeout-ms": "100"})
        equal(reply.status_code, 504)
        until(lambda: [how for _, how in ended(server)] == ["cancelled", "cancelled"], "both runs are told")


@cases({http: (http,) for http in VERSIONS})
def a_response_that_cannot_be_told(http):
    """Text that is not UTF-8, in the middle: an error in the stream, and the model stops."""
    with serving() as server:
        path, accept, body = ways(count=10 ** 9, bad_at=10)["generate_stream"]
        reply = ask(server, http, path, accept, body)
        found = events_of(reply.content)
        equal([number_of(event) for event in found[:-1]], list(range(10)))
        check("UTF-8" in found[-1]["error"], "%s", found[-1])
        until(lambda: ended(server) and ended(server)[0][1] == "cancelled", "the model is told")


@case
def bad_questions_are_no_streams():
    with serving() as server:
        for path, accept, body, status, words in (
                ("/v2/models/numbers/generate_stream", None, b"{", 400, "the request"),
                ("/v2/models/numbers/generate_stream", None, b"", 400, "The document is empty"),
                ("/v2/models/numbers/generate_stream", None, b'{"SEED": "x"}', 400, "attempt to access JSON non-number as number"),
                ("/v2/models/numbers/generate_stream", None, b'{"SEED": 1, "a": {"b": 1}}', 400, "parameter 'a' has invalid type"),
                ("/v2/models/numbers/generate_stream?when_slow=drop", None, b'{"SEED": 1}', 400, "when_slow is 'drop'"),
                ("/v2/models/nobody/generate_stream", None, b"{}", 404, "unknown model"),
                ("/v2/models/numbers/versions/7/infer_stream", None, b"{}", 404, "version 7"),
                ("/v2/models/numbers/infer", SSE, b'{"inputs": []}', 400, "input 'SEED' is missing"),
                ("/v2/models/numbers/infer", SSE + ";q=0", b'{"inputs": []}', 501, "accept: text/event-stream"),
                ("/models/numbers:predict", NDJSON, b'{"SED": 1}', 400, "SEED"),
        ):
            found = server.call("POST", path, body, {"accept": accept} if accept else {})
            check(found[0] == status and words in found[2].decode(), "%s %s: %s", path, body, found)
            equal(found[1]["content-type"], "application/json")
        equal(ended(server), [], "the model was asked")


# --- slow readers ------------------------------------------------------------------------------------------

def small_wire(server):
    wire = Wire.__new__(Wire)
    wire.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    wire.socket.settimeout(30)
    wire.socket.connect((server.host, server.port))
    wire.seconds, wire.data, wire.host = 30, b"", server.address
    return wire


@case
def who_does_not_read_pauses_the_model():
    """A reader takes nothing for a second, then all: nothing is lost, and no more was made than may wait."""
    body = json.dumps(generate(count=20000, size=1000)).encode()
    with serving() as server, small_wire(server) as wire:
        before = resident(server)
        wire.request("POST", "/v2/models/numbers/generate_stream", body)
        time.sleep(1)
        equal(ended(server), [], "20 MB were made for nobody")
        check(resident(server) - before < 4 << 20, "%d bytes more", resident(server) - before)
        equal([number_of(event) for event in events_of(wire.reply().body)], list(range(20000)))
        until(lambda: ended(server) == [(20000, "ended")], "the run ends")


@case
def readers_that_stop_cost_little_and_hold_up_nobody():
    body = json.dumps(generate(count=10 ** 9, size=1000)).encode()
    with serving() as server:
        def once():
            begin = time.monotonic()
            equal(server.call("POST", "/v2/models/one/generate_stream", b'{"x": 1}')[0], 200)
            return time.monotonic() - begin
        alone = sorted(once() for _ in range(100))[90]
        before = resident(server)
        wires = [small_wire(server) for _ in range(30)]
        for wire in wires:
            wire.request("POST", "/v2/models/crowd/generate_stream", body)
        time.sleep(1)
        # each: the transport's room, one credit's worth, and what sendmsg took
        check(resident(server) - before < 30 * (1 << 20), "%d bytes more", resident(server) - before)
        beside = sorted(once() for _ in range(100))[90]
        check(beside < alone * 5 + 0.02, "%.4f s beside them, %.4f s alone", beside, alone)
        for wire in wires:
            wire.socket.close()
        until(lambda: len(ended(server)) == 30, "all are told")
        check(all(how == "cancelled" and made < 20000 for made, how in ended(server)), "%s", ended(server))


@cases({"query": ("?when_slow=latest", {}), "parameter": ("", {"when_slow": "latest"})})
def who_wants_the_latest_gets_the_last(query, more):
    """Ten thousand are made while nobody reads: some are given, in order, and the last one is."""
    body = json.dumps(generate(count=10000, size=1000, **more)).encode()
    with serving() as server, small_wire(server) as wire:
        wire.request("POST", "/v2/models/numbers/generate_stream" + query, body)
        until(lambda: ended(server) == [(10000, "ended")], "the model does not wait", 20)
        found = [number_of(event) for event in events_of(wire.reply().body)]
        check(found == sorted(set(found)) and len(found) < 9000 and found[-1] == 9999, "%d numbers, the last %s", len(found),
              found[-3:])
        check((metric(server, "penstock_stream_merged_total", model="numbers") or 0) == 10000 - len(found), "counted: %s",
              metric(server, "penstock_stream_merged_total", model="numbers"))


@case
def slow_readers_share_a_connection_with_others():
    """Streams of one HTTP/2 connection whose windows stay shut, and one that is read."""
    need("hpack")
    import _frames
    path = "/v2/models/crowd/generate_stream"
    with serving() as server, _frames.H2(server, values={_frames.INITIAL_WINDOW_SIZE: 3000}, window=1 << 24,
                                         is_granting=False) as h2:
        stuck = [h2.request(path, "POST", body=json.dumps(generate(count=10 ** 9, size=1000)).encode()) for _ in range(10)]
        until(lambda: h2.read() and all(len(h2.answers[stream].body) == 3000 for stream in stuck), "windows are full")
        reading = h2.request(path, "POST", body=json.dumps(generate(count=1000)).encode())
        h2.send_frame(_frames.WINDOW_UPDATE, stream=reading, payload=(1 << 24).to_bytes(4, "big"))
        answer = h2.answer(reading)
        equal([number_of(event) for event in events_of(answer.body)], list(range(1000)))
        for stream in stuck:
            equal(len(h2.answers[stream].body), 3000)
            h2.send_frame(_frames.RST_STREAM, stream=stream, payload=_frames.CANCEL.to_bytes(4, "big"))
        until(lambda: len(ended(server)) == 11, "all are told")
        # the transport's room and a credit of 1 KB each
        check(sorted(how for _, how in ended(server)) == ["cancelled"] * 10 + ["ended"], "%s", ended(server))
        check(all(made < 700 for made, how in ended(server) if how == "cancelled"), "%s", ended(server))


# --- leaving -------------------------------------------------------------------------------------------------

def begin(server, wire, **parameters):
    wire.request("POST", "/v2/models/numbers/generate_stream", json.dumps(generate(**parameters)).encode())


def leave_and_wait(server, leave):
    """How long the model took to see it."""
    begun = time.monotonic()
    leave()
    until(lambda: ended(server) and ended(server)[-1][1] == "cancelled", "the model is told", 5)
    return time.monotonic() - begun


@cases({name: (name,) for name in ("close", "half_close", "reset")})
def leaving_in_the_middle(how):
    leave = {"close": lambda wire: wire.socket.close(),
             "half_close": lambda wire: wire.socket.shutdown(socket.SHUT_WR),
             "reset": lambda wire: (wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"),
                                    wire.socket.close())}[how]
    with serving() as server:
        wire = Wire(server)
        begin(server, wire, count=10 ** 9, delay_ms=20)
        while wire.data.count(b"data: ") < 3:
            wire.more()
        took = leave_and_wait(server, lambda: leave(wire))
        check(took < 1, "it took %.3f s", took)
        until(lambda: metric(server, "nv_inference_request_failure", model="numbers", reason="CANCELED") == 1, "counted")


@case
def leaving_before_the_first_token():
    with serving() as server:
        wire = Wire(server)
        begin(server, wire, first_ms=20000)
        time.sleep(0.2)
        check(leave_and_wait(server, wire.socket.close) < 1, "too late")


@case
def leaving_the_queue():
    """The second waits for the only instance, and leaves."""
    with serving() as server:
        first, second = Wire(server), Wire(server)
        begin(server, first, count=10 ** 9, delay_ms=20)
        while b"data: " not in first.data:
            first.more()
        begin(server, second, count=1)
        until(lambda: metric(server, "nv_inference_pending_request_count", model="numbers") >= 1, "it waits")
        second.socket.close()
        until(lambda: metric(server, "nv_inference_request_failure", model="numbers", reason="CANCELED") == 1, "it is gone")
        equal(ended(server), [], "the first goes on")
        first.socket.close()
        until(lambda: len(ended(server)) == 1, "and ends")


@case
def leaving_one_stream_of_http2():
    """RST_STREAM: the model stops, and the connection goes on."""
    need("hpack")
    import _frames
    path = "/v2/models/crowd/generate_stream"
    with serving() as server, _frames.H2(server, window=1 << 20) as h2:
        stream = h2.request(path, "POST", body=json.dumps(generate(count=10 ** 9, delay_ms=10)).encode())
        until(lambda: h2.read() and h2.answers[stream].body.count(b"data: ") >= 3, "three tokens")
        took = leave_and_wait(server, lambda: h2.send_frame(_frames.RST_STREAM, stream=stream,
                                                            payload=_frames.CANCEL.to_bytes(4, "big")))
        check(took < 1, "it took %.3f s", took)
        answer = h2.answer(h2.request(path, "POST", body=json.dumps(generate(count=2)).encode()))
        equal(len(events_of(answer.body)), 2, "the connection goes on")


@case
def a_thousand_who_leave_leave_nothing():
    with serving() as server:
        def act():
            for _ in range(100):
                with Wire(server) as wire:
                    wire.request("POST", "/v2/models/crowd/generate_stream", json.dumps(generate(count=10 ** 9)).encode())
                    while b"data: " not in wire.data:
                        wire.more()
        for _ in range(3):
            act()
        before = resident(server)
        for _ in range(7):
            act()
        until(lambda: len(ended(server)) == 1000, "all are told", 30)
        until(lambda: resident(server) - before < 4 << 20, "memory is what it was")
        equal(metric(server, "nv_inference_pending_request_count", model="crowd"), 0)


# --- resuming ---------------------------------------------------------------------------------------------------

def read_events(wire, count):
    """The first `count` (id, number) of an answer on this connection, which goes on."""
    while wire.data.count(b"\n\n") < count:
        check(wire.more(), "the connection ended: %r", wire.data[-200:])
    blocks = [block.split(b"\r\n")[-1] if block.startswith(b"\r\n") else block for block in wire.data.split(b"\n\n")[:count]]
    return [event_of(block.decode()) for block in blocks]


def event_of(block):
    lines = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
    return lines["id"], number_of(json.loads(lines["data"]))


def begin_kept(server, wire, query="?resume=30", **parameters):
    """The stream's place, its head being read."""
    wire.request("POST", "/v2/models/crowd/generate_stream" + query, json.dumps(generate(**parameters)).encode())
    while b"\r\n\r\n" not in wire.data:
        wire.more()
    text, wire.data = wire.data.split(b"\r\n\r\n", 1)
    check(text.startswith(b"HTTP/1.1 200"), "%r", text)
    return dict(line.lower().split(b": ", 1) for line in text.split(b"\r\n")[1:])[b"location"].decode()


@cases({http: (http,) for http in VERSIONS})
def resumes_where_it_broke(http):
    with serving() as server:
        with Wire(server) as wire:
            place = begin_kept(server, wire, count=60, delay_ms=10)
            check(place.startswith("/streams/"), "%s", place)
            found = read_events(wire, 5)
        equal([number for _, number in found], list(range(5)))
        httpx = need("httpx")
        http1, http2, _ = VERSIONS[http]
        with httpx.Client(http1=http1, http2=http2, timeout=60) as client:
            reply = client.get(server.url + place, headers={"accept": SSE, "last-event-id": found[4][0]})
            equal(reply.status_code, 200)
            rest = [event_of(block) for block in reply.text.split("\n\n") if "data: " in block]
            equal([number for _, number in rest], list(range(5, 60)), "behind the break")
            lines = client.get(server.url + place + "?after=58", headers={"accept": NDJSON})
            equal([number_of(line) for line in lines_of(lines.content)], [58, 59])
        until(lambda: [how for _, how in ended(server)] == ["ended"], "the model went on")


@case
def what_is_kept_ends_as_its_stream_did():
    with serving() as server:
        for parameters, numbers, error in (({"count": 0}, [], None), ({"count": 3}, [0, 1, 2], None),
                                           ({"count": 9, "fail_at": 2}, [0, 1], 'it failed "on" purpose')):
            with Wire(server) as wire:
                begin_kept(server, wire, **parameters)
                while not wire.data.endswith(b"0\r\n\r\n"):
                    check(wire.more(), "the end")
                data = [json.loads(line[6:]) for line in wire.data.split(b"\n") if line.startswith(b"data: ")]
            equal([number_of(event) for event in data if "error" not in event], numbers)
            equal([event["error"] for event in data if "error" in event], [error] if error else [])
        # the first event fixes the status here too
        status, headers, body = server.call("POST", "/v2/models/numbers/generate_stream?resume=30",
                                            json.dumps(generate(fail_at=0)).encode())
        equal((status, headers.get("location")), (500, None))


@case
def nobody_comes_back():
    """Kept for half a second, then the model is stopped; DELETE does it at once."""
    with serving() as server:
        with Wire(server) as wire:
            place = begin_kept(server, wire, "?resume=0.5", count=10 ** 9, delay_ms=5)
            read_events(wire, 2)
        begun = time.monotonic()
        until(lambda: ended(server), "it expires", 10)
        check(0.3 < time.monotonic() - begun < 5 and ended(server)[0][1] == "cancelled", "%s", ended(server))
        equal(server.call("GET", place, headers={"accept": SSE})[0], 410)
        with Wire(server) as wire:
            place = begin_kept(server, wire, count=10 ** 9, delay_ms=5)
            read_events(wire, 2)
            equal(server.call("DELETE", place)[0] // 100, 2)
            until(lambda: len(ended(server)) == 2 and ended(server)[1][1] == "cancelled", "it is cancelled")


@case
def a_kept_stream_waits_for_its_reader():
    """What nobody has read is bounded, and the model waits."""
    with serving(options=["--resume-events-max", "100"]) as server:
        with small_wire(server) as wire:
            begin_kept(server, wire, count=20000, size=1000)
            time.sleep(0.5)
            equal(ended(server), [], "the model waits")
            found = [event_of(block)[1] for block in wire._chunked().decode().split("\n\n") if "data: " in block]
            equal(found, list(range(20000)))
        until(lambda: ended(server) == [(20000, "ended")], "the run ends")


@case
def resume_takes_a_number():
    with serving() as server:
        for value in ("x", "-1", "1e3", ""):
            status, _, body = server.call("POST", "/v2/models/numbers/generate_stream?resume=" + value, b'{"SEED": 1}')
            check(status == 400 and b"seconds" in body, "%s: %d %s", value, status, body)
        status, headers, body = server.call("POST", "/models/numbers:predict?resume=30&outputs=NUMBER", b'{"SEED": 1}',
                                            {"accept": NDJSON})
        equal((status, len(lines_of(body)), headers["location"][:9]), (200, 3, "/streams/"))
        status, headers, body = server.call("POST", "/v2/models/numbers/infer_stream", json.dumps(infer()).encode(),
                                            {"x-resume": "5"})
        equal((status, headers["location"][:9]), (200, "/streams/"))
    with serving(options=["--resume-streams-max", "0"]) as server:
        equal(server.call("POST", "/v2/models/numbers/generate_stream?resume=5", b'{"SEED": 1}')[0], 501)
    with serving(options=["--resume-streams-max", "1"]) as server:
        path = "/v2/models/numbers/generate_stream?resume=5"
        equal(server.call("POST", path, b'{"SEED": 1}')[0], 200)
        status, headers, body = server.call("POST", path, b'{"SEED": 1}')
        check(status in (429, 503) and b"--resume-streams-max" in body, "%d %s", status, body)
        status, headers, body = server.call("POST", path, b'{"SEED": 1, "count": 1000000000}')
        until(lambda: ended(server) and ended(server)[-1][1] == "cancelled", "the model of one that was refused is stopped")


# --- time -----------------------------------------------------------------------------------------------------

@case
def silence_has_a_heartbeat():
    with serving(options=["--stream-heartbeat", "100ms"]) as server:
        for accept, beat, read in ((SSE, b":\n\n", events_of), (NDJSON, b"\n\n", lines_of)):
            path = "/v2/models/numbers/generate_stream"
            status, headers, body = server.call("POST", path, json.dumps(generate(count=2, delay_ms=450)).encode(),
                                                {"accept": accept})
            equal((status, [number_of(event) for event in read(body)]), (200, [0, 1]))
            check(3 <= body.count(beat) <= 6 or (accept == NDJSON and body.count(b"\n") >= 5), "%r", body)
    with serving(options=["--stream-heartbeat", "0"]) as server:
        status, headers, body = server.call("POST", path, json.dumps(generate(count=2, delay_ms=450)).encode())
        equal(body.count(b"\n"), 4, "%r" % body)


@case
def a_server_that_stops_ends_its_streams():
    """Those that end in time end well; the rest are cut, not ended: nobody takes a part for all."""
    with serving(options=["--drain-timeout", "1500ms"]) as server:
        found = {}

        def read(name, **parameters):
            with Wire(server) as wire:
                wire.request("POST", "/v2/models/crowd/generate_stream", json.dumps(generate(**parameters)).encode())
                while wire.more():
                    pass
                found[name] = wire.data
        threads = [threading.Thread(target=read, args=("short",), kwargs={"count": 4, "delay_ms": 200}),
                   threading.Thread(target=read, args=("long",), kwargs={"count": 10 ** 9, "delay_ms": 50})]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        equal(server.stop(), 0)
        for thread in threads:
            thread.join()
        equal(found["short"].count(b"data: "), 4)
        check(found["short"].endswith(b"0\r\n\r\n"), "%r", found["short"][-80:])
        check(found["long"].count(b"data: ") > 5 and not found["long"].endswith(b"0\r\n\r\n"), "%r", found["long"][-80:])
        server.start()      # for the end of the block


if __name__ == "__main__":
    main()
