"""Attacks that HTTP/2 makes cheap: each ends its own connection by a limit that has a metric, costs no memory, and nobody else
waits meanwhile."""
import contextlib
import struct
import time

from harness import case, cases, check, equal, main
from _wire import echo_config, metric, resident, serving, still_serves, until
from _frames import *       # noqa: the names of the RFC

MEMORY = 16 << 20       # what resident memory may grow by, meanwhile: buffers of two loops, heaps of two threads
SLOW = {"slow/config.pbtxt": echo_config("slow", mode="delay", delay_ms=30000)}
GRPC = [("te", "trailers"), ("content-type", "application/grpc")]


def head_of(h2, path=LIVE_PATH, more=()):
    return h2.encoder.encode(h2.head(path, more=[*GRPC, *more]))


@contextlib.contextmanager
def attacked(server, *limits, hits=1):
    """Around an attack: another client is served, memory stays, and the metric of the limit (of one of these) counts it."""
    ask(server, infer_message())
    still_serves(server)
    before_memory = resident(server) if memory_tells(server) else None

    def counted():
        found = [metric(server, "penstock_limit_hits_total", limit=limit) for limit in limits]
        check(None not in found, "no metric of a limit: %s %s", limits, found)
        return sum(found)
    before = counted()
    with bystander(server):
        yield
        if before_memory is not None:
            until(lambda: resident(server) - before_memory < MEMORY, "memory grew by %d MB" %
                  ((resident(server) - before_memory) >> 20))
    until(lambda: counted() >= before + hits, "no hit is counted of %s" % (limits,))
    still_serves(server)


def memory_tells(server):
    """Not with a sanitizer, which keeps what was freed."""
    with open("/proc/%d/maps" % server.process.pid) as file:
        maps = file.read()
    return "/libasan.so" not in maps and "/libtsan.so" not in maps


def pour(h2, pieces, code=ENHANCE_YOUR_CALM):
    """Sends until the server has had enough, which must come before the pieces end; what it says meanwhile is read."""
    h2.is_acking = h2.is_granting = False
    count = 0
    for piece in pieces:
        count += 1
        if not h2.send(piece):
            break
        h2.socket.setblocking(False)
        try:
            while not (h2.away and h2.away[0]):
                if not take_one(h2):
                    break
        finally:
            h2.socket.settimeout(h2.seconds)
        if h2.away and h2.away[0]:
            break
    while h2.read() is not None:
        pass
    check(h2.away is not None or count > 3, "cut off at once")
    if h2.away is not None:     # None: TCP dropped it, as bytes were under way that nobody read
        equal(h2.away[0], code, "GOAWAY, %r" % h2.away[2])
        check(len(h2.away[2]) > 5, "no word of why: %r", h2.away)
    return count


def take_one(h2):
    """One frame, if a whole one is there."""
    try:
        while True:
            size = int.from_bytes(h2.data[:3], "big") if len(h2.data) >= 9 else 0
            if len(h2.data) >= 9 + size and len(h2.data) >= 9:
                h2.socket.settimeout(h2.seconds)
                return h2.read() is not None
            if not h2.more():
                return False
    except BlockingIOError:
        return False
    finally:
        h2.socket.setblocking(False)


FLOODS = {
    "ping": lambda h2: frame(PING, 0, 0, bytes(8)),
    "settings": lambda h2: frame(SETTINGS, 0, 0, settings({INITIAL_WINDOW_SIZE: 65535})),
    "settings_empty": lambda h2: frame(SETTINGS),
    "priority": lambda h2: frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 1)),
    "window_updates_of_one": lambda h2: frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
    "ping_acks": lambda h2: frame(PING, ACK, 0, bytes(8)),
}


@cases(FLOODS.items())
def control_frames(build):
    """Frames that cost an answer or a look and bring nothing."""
    with serving() as server, attacked(server, "control-frames-max", "ping-strikes-max"):
        with H2(server) as h2:
            h2.ping()
            one = build(h2) * 500
            pour(h2, (one for _ in range(2000)))


@case
def unknown_frames():
    """Of types nobody knows, which have to be read past: they are charged by their bytes."""
    with serving() as server, attacked(server, "control-frames-max"), H2(server) as h2:
        h2.ping()
        pour(h2, (frame(0x55, 0, 0, bytes(8192)) * 50 for _ in range(2000)))


@case
def empty_data_frames():
    with serving() as server, attacked(server, "control-frames-max"), H2(server) as h2:
        stream = h2.open()
        h2.send_frame(HEADERS, END_HEADERS, stream, head_of(h2))
        pour(h2, (frame(DATA, 0, stream) * 500 for _ in range(2000)))


@case
def empty_data_frames_that_are_padded():
    """Padding counts as bytes and is none."""
    with serving() as server, attacked(server, "control-frames-max"), H2(server) as h2:
        stream = h2.open()
        h2.send_frame(HEADERS, END_HEADERS, stream, head_of(h2))
        h2.ping()
        pour(h2, (frame(DATA, PADDED, stream, b"\x00") * 500 for _ in range(2000)))


@case
def continuation_frames_without_end():
    """CVE-2024-27316 and its kin: a header block that never ends is neither kept nor read for ever."""
    with serving() as server, attacked(server, "header-bytes-max"), H2(server) as h2:
        block = b"\x00\x01a\x7f\x81\x10" + b"v" * 272      # a literal that is not indexed
        pour(h2, [frame(HEADERS, 0, 1, head_of(h2))] + [frame(CONTINUATION, 0, 1, block * 50)] * 5000)


@case
def continuation_frames_that_are_empty():
    with serving() as server, attacked(server, "header-bytes-max"), H2(server) as h2:
        pour(h2, [frame(HEADERS, 0, 1, head_of(h2))] + [frame(CONTINUATION, 0, 1) * 500] * 2000)


@case
def hpack_bomb():
    """One large entry of the table, named four thousand times in a few kilobytes."""
    with serving() as server, attacked(server, "header-bytes-max"):
        with H2(server) as h2:
            for _ in range(5):
                stream = h2.open()
                block = h2.encoder.encode(h2.head("/v2/health/ready", "GET"))
                first = h2.encoder.encode([("x-big", "v" * 3900)])
                again = h2.encoder.encode([("x-big", "v" * 3900)])
                h2.send_frame(HEADERS, END_HEADERS | END_STREAM, stream, block + first + again * 4000)
                answer_or_end(h2, stream, 431)
                if h2.away:
                    break


def answer_or_end(h2, stream, status):
    """Either the stream is answered with this status, or the connection ends with ENHANCE_YOUR_CALM."""
    answer = h2.answers[stream]
    while not answer.is_over and h2.read() is not None:
        pass
    if h2.away is not None and h2.away[0]:
        equal(h2.away[0], ENHANCE_YOUR_CALM, "%r" % h2.away[2])
    else:
        check(answer.status == status, "%s", answer)


@case
def too_many_headers():
    with serving() as server, attacked(server, "headers-max"), H2(server) as h2:
        answer = h2.answer(h2.request("/v2/health/ready", more=[("x-%d" % i, "y") for i in range(500)]))
        equal(answer.status, 431)
        h2.is_open()


@case
def headers_too_large():
    with serving() as server, attacked(server, "header-bytes-max"), H2(server) as h2:
        answer = h2.answer(h2.request("/v2/health/ready", more=[("x-a", "y" * 12000), ("x-b", "z" * 12000), ("x-c", "w" * 12000)]))
        equal(answer.status, 431)
        h2.is_open()


# --- resets --------------------------------------------------------------------------------------------------------

@case
def rapid_reset():
    """CVE-2023-44487: streams that are opened and reset at once, thousands of them."""
    with serving(SLOW) as server, attacked(server, "resets-max", "control-frames-max"), H2(server) as h2:
        body = infer_message("slow", bytes(4))
        def pieces():
            stream = 1
            yield frame(HEADERS, END_HEADERS, stream, head_of(h2, INFER_PATH)) + frame(DATA, END_STREAM, stream, body)
            again = head_of(h2, INFER_PATH)
            for _ in range(2000):
                out = b""
                for _ in range(50):
                    stream += 2
                    out += frame(HEADERS, END_HEADERS, stream, again) + frame(DATA, END_STREAM, stream, body)
                    out += frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
                yield out
        check(pour(h2, pieces()) < 2001, "a hundred thousand resets were taken")
        until(lambda: metric(server, "penstock_model_running", model="slow") == 0, "work goes on for streams that were reset")


@cases({"window_overflow": (lambda stream: frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 0x7FFFFFFF)),),
        "headers_again": (lambda stream: b"",)})
def resets_that_the_server_is_made_to_send(build):
    """CVE-2025-8671, "MadeYouReset": the client breaks the rules of a stream, so that the server resets it."""
    with serving(SLOW) as server, attacked(server, "resets-max", "control-frames-max"), H2(server) as h2:
        body = infer_message("slow", bytes(4))

        def pieces():
            stream = 1
            yield frame(HEADERS, END_HEADERS, stream, head_of(h2, INFER_PATH)) + frame(DATA, END_STREAM, stream, body)
            again = head_of(h2, INFER_PATH)
            bad = need("hpack").Encoder().encode([(":method", "GET")])       # no path: malformed
            for _ in range(2000):
                out = b""
                for _ in range(50):
                    stream += 2
                    breach = build(stream)
                    if breach:
                        out += frame(HEADERS, END_HEADERS, stream, again) + frame(DATA, END_STREAM, stream, body) + breach
                    else:
                        out += frame(HEADERS, END_HEADERS | END_STREAM, stream, bad)
                yield out
        check(pour(h2, pieces()) < 2001, "a hundred thousand resets were made")
        until(lambda: metric(server, "penstock_model_running", model="slow") == 0, "work goes on for streams that were reset")


@case
def resets_now_and_then_are_fine():
    """A client that cancels a third of its calls is an ordinary one."""
    with serving(SLOW) as server, H2(server) as h2:
        for i in range(300):
            h2.answer(h2.grpc(INFER_PATH, infer_message()))
            h2.answer(h2.grpc(LIVE_PATH))
            stream = h2.grpc(INFER_PATH, infer_message("slow", bytes(4)))
            h2.send_frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
        h2.is_open()


@case
def pings_now_and_then_are_fine():
    with serving() as server, H2(server) as h2:
        for i in range(200):
            h2.ping()
            h2.is_open()


# --- slow readers, slow writers, too many ---------------------------------------------------------------------------

@case
def streams_that_nobody_reads():
    """A client that asks for much on many streams and reads nothing: bounded, and cut when it takes nothing for long."""
    large = {"echo/config.pbtxt": echo_config("echo")}
    body = infer_message("echo", bytes(60000))
    with serving(large, options=["--write-timeout", "1s", "--output-bytes-max", "1MiB"]) as server:
        ask(server, infer_message())
        before = resident(server) if memory_tells(server) else None
        with bystander(server):
            with H2(server, is_granting=False, values={INITIAL_WINDOW_SIZE: 0}) as h2:
                streams = [h2.grpc(INFER_PATH, body) for _ in range(90)]
                begun = time.monotonic()
                for stream in streams:          # each is given up, or answered by a limit; the connection may go as well
                    while not h2.answers[stream].is_over and h2.read() is not None:
                        pass
                check(time.monotonic() - begun < 14, "it was held for %.0f s", time.monotonic() - begun)
            with H2(server, is_granting=False, values={INITIAL_WINDOW_SIZE: 1 << 20}, window=1 << 24, receive=4096) as h2:
                streams = [h2.grpc(INFER_PATH, body) for _ in range(60)]       # windows enough, and a socket nobody reads
                time.sleep(3)
                open_now = metric(server, "penstock_http2_streams_open")
                check(open_now < 10, "%d streams of a reader that does not read are kept", open_now)
        hits = sum(metric(server, "penstock_limit_hits_total", limit=limit) or 0
                   for limit in ("write-timeout", "output-bytes-max"))
        check(hits >= 1, "no limit counts it")
        if before is not None:
            until(lambda: resident(server) - before < MEMORY + (16 << 20), "memory grew by %d MB" % ((resident(server) - before) >> 20))
        still_serves(server)


@case
def one_stream_unread_beside_others():
    """A reader that stops reading one answer does not stop the others of its connection."""
    with serving({"echo/config.pbtxt": echo_config("echo")}) as server, H2(server, is_granting=False, window=1 << 24) as h2:
        big = h2.grpc(INFER_PATH, infer_message("echo", bytes(1 << 20)))
        until(lambda: h2.ping() or len(h2.answers[big].body) >= 65535, "the first window of the large answer")
        for _ in range(50):
            h2.is_open()
        h2.send_frame(WINDOW_UPDATE, 0, big, struct.pack(">I", 1 << 24))
        equal(h2.answer(big).grpc[0], 0)


@case
def more_streams_than_allowed():
    """The streams beyond are refused with REFUSED_STREAM, which a client may try again; those within are answered."""
    with serving({"slow/config.pbtxt": echo_config("slow", mode="delay", delay_ms=1500, instances=8)},
                 options=["--streams-max", "10"]) as server, attacked(server, "streams-max"):
        with H2(server, is_acking=False) as h2:         # a client that may not know of the limit yet
            streams = [h2.grpc(INFER_PATH, infer_message("slow", bytes(4))) for _ in range(13)]
            for stream in streams[10:]:
                equal(h2.answer(stream).reset, REFUSED_STREAM)
            equal(h2.peer[MAX_CONCURRENT_STREAMS], 10)
            for stream in streams[:2]:
                equal(h2.answer(stream).grpc[0], 0)
            h2.is_open()
        with H2(server) as h2:                          # one that does, as proxies do: what runs is not lost for it
            h2.is_open()
            streams = [h2.grpc(INFER_PATH, infer_message("slow", bytes(4))) for _ in range(13)]
            for stream in streams[10:]:
                equal(h2.answer(stream).reset, REFUSED_STREAM)
            equal(h2.answer(streams[0]).grpc[0], 0)
            h2.is_open()


@case
def slow_headers():
    """A header block whose end does not come: cut by the same option as on HTTP/1.1."""
    with serving(options=["--header-timeout", "500ms"]) as server, attacked(server, "header-timeout"), H2(server) as h2:
        h2.ping()
        h2.send_frame(HEADERS, 0, 1, head_of(h2)[:10])
        begun = time.monotonic()
        while h2.read() is not None:
            pass
        check(0.2 < time.monotonic() - begun < 8, "%.1f s", time.monotonic() - begun)


@case
def slow_preface():
    with serving(options=["--header-timeout", "500ms"]) as server, attacked(server, "header-timeout"), H2(server, preface=False) as h2:
        h2.is_acking = False
        h2.send(PREFACE[:20])
        begun = time.monotonic()
        while h2.read() is not None:
            pass
        check(0.2 < time.monotonic() - begun < 8, "%.1f s", time.monotonic() - begun)


@case
def slow_bodies():
    """One byte, and then nothing: the stream ends, the connection may go on."""
    with serving(options=["--body-timeout", "500ms"]) as server, attacked(server, "body-timeout"), H2(server) as h2:
        answer = h2.answer(h2.grpc(INFER_PATH, infer_message()[:9], is_end=False))
        check(answer.reset is not None or answer.grpc[0] not in (None, 0), "%s", answer)


@case
def idle_connections():
    with serving(options=["--idle-timeout", "500ms"]) as server, attacked(server, "idle-timeout"), H2(server) as h2:
        h2.is_open()
        h2.goaway(NO_ERROR)


@case
def connection_age():
    """GOAWAY in two steps, a grace for what runs, and then the end."""
    slow = {"slow/config.pbtxt": echo_config("slow", mode="delay", delay_ms=1200)}
    with serving(slow, options=["--connection-age", "600ms", "--connection-age-grace", "10s"]) as server, H2(server) as h2:
        stream = h2.grpc(INFER_PATH, infer_message("slow", bytes(4)))
        while h2.away is None:
            check(h2.read() is not None, "it ended without a GOAWAY")
        equal(h2.away[0], NO_ERROR)
        equal(h2.answer(stream).grpc[0], 0, "what ran when it was told")
        while h2.read() is not None:
            pass
    with serving({"slow/config.pbtxt": echo_config("slow", mode="delay", delay_ms=20000)},
                 options=["--connection-age", "300ms", "--connection-age-grace", "300ms"]) as server, H2(server) as h2:
        h2.grpc(INFER_PATH, infer_message("slow", bytes(4)))
        begun = time.monotonic()
        while h2.read() is not None:
            pass
        check(time.monotonic() - begun < 8, "the grace has no end: %.1f s", time.monotonic() - begun)


@case
def requests_per_connection():
    with serving(options=["--requests-per-connection-max", "5"]) as server, attacked(server, "requests-per-connection-max"), \
            H2(server) as h2:
        for _ in range(5):
            h2.is_open()
        h2.goaway(NO_ERROR)
        check(h2.away[1] >= 9, "the last call it took is not told: %s", h2.away)


@case
def thousands_of_connections_that_say_the_preface():
    with serving() as server:
        ask(server, infer_message())
        for _ in range(3):
            many = [H2(server) for _ in range(300)]
            for h2 in many:
                h2.socket.close()
        before = resident(server) if memory_tells(server) else None
        for _ in range(6):
            many = [H2(server) for _ in range(300)]
            for h2 in many:
                h2.socket.close()
        if before is not None:
            until(lambda: resident(server) - before < MEMORY, "memory grew by %d MB" % ((resident(server) - before) >> 20))
        still_serves(server)


if __name__ == "__main__":
    main()
