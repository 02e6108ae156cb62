"""HTTP/2 as RFC 9113 has it: what is served, and what each breach of the rules is answered with."""
import struct

from harness import case, cases, check, equal, main
from _wire import IRIS_BODY, Wire, echo_config, metric, serving, still_serves, until
from _frames import *       # noqa: the names of the RFC


# --- what is served ------------------------------------------------------------------------------------------

@case
def rest_over_http2():
    with serving() as server, H2(server) as h2:
        answer = h2.answer(h2.request("/v2/health/ready"))
        equal((answer.status, answer.trailers), (200, None))
        answer = h2.answer(h2.request("/v2/models/iris/infer", "POST", [("content-type", "application/json")], IRIS_BODY))
        check(answer.status == 200 and b'"label"' in answer.body, "%s", answer)
        equal(int(dict(answer.headers)["content-length"]), len(answer.body))
        equal(h2.answer(h2.request("/nothing")).status, 404)
        check(not {"connection", "keep-alive", "transfer-encoding"} & set(dict(answer.headers)), "%s", answer.headers)
        head = h2.answer(h2.request("/v2", "HEAD"))
        equal((head.status, head.body), (200, b""))


@case
def both_on_one_port():
    with serving() as server, H2(server) as h2, Wire(server) as wire:
        h2.is_open()
        wire.request("GET", "/healthz")
        equal(wire.reply().status, 200)
        h2.is_open()


@case
def the_preface_in_pieces():
    with serving() as server, H2(server, preface=False) as h2:
        for byte in PREFACE + frame(SETTINGS):
            h2.send(bytes([byte]))
        h2.is_open()
        out = []
        h2.send, kept = out.append, h2.send
        stream = h2.grpc()
        h2.send = kept
        for byte in b"".join(out):
            h2.send(bytes([byte]))
        equal(h2.answer(stream).grpc[0], 0)


@cases({"another_version": b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n", "cut": PREFACE[:10] + b"GET / HTTP/1.1\r\n\r\n",
        "changed_late": PREFACE[:-1] + b"x" + frame(SETTINGS), "nothing_but_pri": b"PRI /\r\n\r\n"}.items())
def a_preface_that_is_none(text):
    """Answered as HTTP/1.1 or ended; never taken for HTTP/2."""
    with serving() as server:
        with Wire(server) as wire:
            wire.send(text)
            wire.socket.shutdown(1)
            while wire.more():
                pass
            check(not wire.data or wire.data.startswith(b"HTTP/1.1 4") or b"HTTP/1.1 505" in wire.data or wire.data[3:4] in b"\x04\x07",
                  "%r", wire.data)
        still_serves(server)


@case
def http1_cannot_upgrade_to_h2c():
    """The upgrade of RFC 7540 is gone from RFC 9113: the request is answered as HTTP/1.1."""
    with serving() as server, Wire(server) as wire:
        wire.request("GET", "/healthz", headers=[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"),
                                                 ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA")])
        equal(wire.reply().status, 200)


@case
def settings_are_acknowledged_and_told():
    with serving() as server, H2(server) as h2:
        h2.is_open()
        check((("SETTINGS", 1, 0, 0) in h2.seen), "no acknowledgement: %s", h2.seen)
        check(MAX_CONCURRENT_STREAMS in h2.peer, "no limit of streams is told: %s", h2.peer)
        check(16384 <= h2.peer.get(MAX_FRAME_SIZE, 16384) < 1 << 24, "%s", h2.peer)
        check(MAX_HEADER_LIST_SIZE in h2.peer, "no limit of headers is told: %s", h2.peer)


@case
def padding_priority_continuation_and_what_is_unknown():
    with serving() as server, H2(server) as h2:
        stream = h2.open()
        block = h2.encoder.encode(h2.head(LIVE_PATH, more=[("te", "trailers"), ("content-type", "application/grpc")]))
        padded = bytes([7]) + struct.pack(">IB", 0, 15) + block[:10] + bytes(7)
        h2.send(frame(HEADERS, PADDED | PRIORITY_FLAG, stream, padded) + frame(CONTINUATION, 0, stream, block[10:20]) +
                frame(CONTINUATION, END_HEADERS, stream, block[20:]) + frame(0x77, 0xFF, stream, b"unknown") +
                frame(PRIORITY, 0, stream, struct.pack(">IB", 0, 1)) +
                frame(DATA, PADDED, stream, bytes([200]) + message(b"")[:2] + bytes(200)) +
                frame(DATA, END_STREAM, stream, message(b"")[2:]) + frame(SETTINGS, 0, 0, settings({0x99: 7})))
        equal(h2.answer(stream).grpc[0], 0)
        h2.is_open()


@case
def trailers_of_a_request():
    with serving() as server, H2(server) as h2:
        stream = h2.grpc(is_end=False)
        h2.send_frame(HEADERS, END_HEADERS | END_STREAM, stream, h2.encoder.encode([("x-late", "yes")]))
        equal(h2.answer(stream).grpc[0], 0)


@case
def windows_of_both_kinds():
    """A reader grants as it likes, and nothing is sent beyond it."""
    data = b"abcd" * 50000
    with serving({"echo/config.pbtxt": echo_config("echo")}) as server:
        with H2(server, is_granting=False, values={INITIAL_WINDOW_SIZE: 1000}) as h2:
            stream = h2.grpc(INFER_PATH, infer_message("echo", data))
            answer = h2.answers[stream]

            def sent():
                """Bytes of body, once nothing more comes: behind the answers of calls that need no window."""
                while not answer.body:
                    h2.read()
                for _ in range(3):
                    equal(h2.answer(h2.grpc("/no.such/Method")).grpc[0], 12)
                return len(answer.body)
            equal(sent(), 1000, "bytes sent without credit")
            h2.send_frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 500))
            equal(sent(), 1500)
            h2.send_frame(SETTINGS, 0, 0, settings({INITIAL_WINDOW_SIZE: 0}))      # now the window is -1000
            h2.send_frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 900))
            equal(sent(), 1500, "a window below zero")
            h2.send_frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 200))
            equal(sent(), 1600)
            h2.send_frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 1 << 20))
            equal(sent(), 65535, "the connection's window")
            h2.send_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20))
            h2.answer(stream)
            equal(answer.grpc[0], 0)
            check(answer.body.endswith(data), "the answer differs")


# --- what is not: the connection ends ----------------------------------------------------------------------------

def good_head(h2, more=()):
    return h2.encoder.encode(h2.head(LIVE_PATH, more=[("te", "trailers"), ("content-type", "application/grpc"), *more]))


BROKEN = {
    "data_on_stream_0": (lambda h2: frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    "headers_on_stream_0": (lambda h2: frame(HEADERS, END_HEADERS, 0, good_head(h2)), PROTOCOL_ERROR),
    "headers_on_an_even_stream": (lambda h2: frame(HEADERS, END_HEADERS, 2, good_head(h2)), PROTOCOL_ERROR),
    "data_on_an_idle_stream": (lambda h2: frame(DATA, 0, 9, b"x"), PROTOCOL_ERROR),
    "reset_of_an_idle_stream": (lambda h2: frame(RST_STREAM, 0, 9, bytes(4)), PROTOCOL_ERROR),
    "reset_on_stream_0": (lambda h2: frame(RST_STREAM, 0, 0, bytes(4)), PROTOCOL_ERROR),
    "reset_of_wrong_size": (lambda h2: frame(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
    "window_of_an_idle_stream": (lambda h2: frame(WINDOW_UPDATE, 0, 9, struct.pack(">I", 1)), PROTOCOL_ERROR),
    "window_of_wrong_size": (lambda h2: frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    "window_of_zero": (lambda h2: frame(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL_ERROR),
    "window_too_large": (lambda h2: frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFFFFFF)), FLOW_CONTROL_ERROR),
    "settings_on_a_stream": (lambda h2: frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    "settings_of_wrong_size": (lambda h2: frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    "settings_ack_with_more": (lambda h2: frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    "settings_window_too_large": (lambda h2: frame(SETTINGS, 0, 0, settings({INITIAL_WINDOW_SIZE: 1 << 31})), FLOW_CONTROL_ERROR),
    "settings_frame_size_too_small": (lambda h2: frame(SETTINGS, 0, 0, settings({MAX_FRAME_SIZE: 100})), PROTOCOL_ERROR),
    "settings_push_of_2": (lambda h2: frame(SETTINGS, 0, 0, settings({ENABLE_PUSH: 2})), PROTOCOL_ERROR),
    "ping_on_a_stream": (lambda h2: frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "ping_of_wrong_size": (lambda h2: frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "goaway_on_a_stream": (lambda h2: frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "push_from_a_client": (lambda h2: frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + good_head(h2)), PROTOCOL_ERROR),
    "continuation_without_headers": (lambda h2: frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL_ERROR),
    "continuation_of_another_stream": (lambda h2: frame(HEADERS, 0, 1, good_head(h2)) + frame(CONTINUATION, END_HEADERS, 3, b""),
                                       PROTOCOL_ERROR),
    "data_within_headers": (lambda h2: frame(HEADERS, 0, 1, good_head(h2)) + frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
    "padding_longer_than_the_frame": (lambda h2: frame(HEADERS, END_HEADERS, 1, good_head(h2)) +
                                      frame(DATA, PADDED, 1, bytes([9]) + b"x"), PROTOCOL_ERROR),
    "a_frame_larger_than_allowed": (lambda h2: frame(DATA, 0, 1, b"", 1 << 23), FRAME_SIZE_ERROR),
    "hpack_of_no_such_entry": (lambda h2: frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\x0f"), COMPRESSION_ERROR),
    "hpack_cut": (lambda h2: frame(HEADERS, END_HEADERS, 1, good_head(h2)[:-1]), COMPRESSION_ERROR),
    "hpack_table_too_large": (lambda h2: frame(HEADERS, END_HEADERS, 1, b"\x3f\xff\xff\x0f" + good_head(h2)), COMPRESSION_ERROR),
}


@cases(BROKEN)
def ends_the_connection(build, code):
    """With a GOAWAY that says why; whoever else is connected does not notice, and the metric counts it."""
    with serving() as server, H2(server) as other:
        other.is_open()
        before = metric(server, "penstock_http_malformed_total") or 0
        with H2(server) as h2:
            h2.ping()
            h2.send(build(h2))
            h2.goaway(code)
        other.is_open()
        still_serves(server)
        check((metric(server, "penstock_http_malformed_total") or 0) > before, "no metric counts it")


@case
def settings_must_come_first():
    with serving() as server:
        with H2(server, preface=False) as h2:
            h2.send(PREFACE + frame(PING, 0, 0, bytes(8)))
            h2.goaway(PROTOCOL_ERROR)
        still_serves(server)


# --- what is not: the stream ends, the connection goes on ---------------------------------------------------------

@cases({
    "upper_case": ([("X-Upper", "1")], None), "no_method": (None, [(":scheme", "http"), (":path", "/v2"), (":authority", "localhost")]),
    "no_path": (None, [(":method", "GET"), (":scheme", "http"), (":authority", "localhost")]),
    "no_scheme": (None, [(":method", "GET"), (":path", "/v2"), (":authority", "localhost")]),
    "empty_path": (None, [(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "localhost")]),
    "two_paths": (None, [(":method", "GET"), (":scheme", "http"), (":path", "/v2"), (":path", "/"), (":authority", "localhost")]),
    "pseudo_behind_others": (None, [(":method", "GET"), (":scheme", "http"), ("x", "y"), (":path", "/v2"), (":authority", "localhost")]),
    "unknown_pseudo": ([(":color", "red")], None), "status_of_a_request": ([(":status", "200")], None),
    "connection": ([("connection", "close")], None), "keep_alive": ([("keep-alive", "1")], None),
    "transfer_encoding": ([("transfer-encoding", "chunked")], None), "upgrade": ([("upgrade", "h2c")], None),
    "te_of_more": ([("te", "gzip")], None), "line_end_in_a_value": ([("x", "a\r\nb: c")], None),
    "nul_in_a_value": ([("x", "a\0b")], None), "blank_in_a_name": ([("x y", "1")], None), "empty_name": ([("", "1")], None),
})
def malformed_heads(more, whole):
    """RFC 9113 8.1.1: such a request is malformed. 400 or a reset of PROTOCOL_ERROR; never a handler."""
    with serving() as server, H2(server) as h2:
        stream = h2.open()
        fields = whole or [*h2.head("/v2/health/ready", "GET")[:4], *more]
        if whole is None and more[0][0].startswith(":"):
            fields = h2.head("/v2/health/ready", "GET")[:3] + more + h2.head("/", "GET")[3:]
        h2.send_frame(HEADERS, END_HEADERS | END_STREAM, stream, h2.encoder.encode(fields))
        answer = h2.answer(stream)
        check(answer.reset == PROTOCOL_ERROR or answer.status == 400, "%s", answer)
        h2.is_open()


@cases({"host_disagrees": ([("host", "other.example")], 400)})
def host_and_authority(more, status):
    with serving() as server, H2(server) as h2:
        answer = h2.answer(h2.request("/v2/health/ready", more=more))
        check(answer.status in (status, 403) or answer.reset == PROTOCOL_ERROR, "%s", answer)
        h2.is_open()


@cases({"too_short": (b"x" * 5, "10"), "too_long": (b"x" * 15, "10"), "none_at_all": (None, "10")})
def a_content_length_that_lies(body, length):
    """RFC 9113 8.1.1: malformed, when the DATA frames are not of that size."""
    with serving() as server, H2(server) as h2:
        more = [("content-length", length), ("content-type", "application/json")]
        answer = h2.answer(h2.request("/v2/models/iris/infer", "POST", more, body))
        check(answer.reset == PROTOCOL_ERROR or answer.status == 400, "%s", answer)
        answer = h2.answer(h2.grpc(body=message(b""), more=[("content-length", "9999")]))
        check(answer.reset == PROTOCOL_ERROR or answer.grpc[0] in (3, 13), "%s", answer)
        h2.is_open()


@cases({"words": "ten", "negative": "-5", "signed": "+5", "hex": "0x5", "huge": "99999999999999999999999"}.items())
def a_content_length_that_is_none(length):
    with serving() as server, H2(server) as h2:
        answer = h2.answer(h2.request("/v2/models/iris/infer", "POST", [("content-length", length)], b"x" * 5))
        check(answer.reset == PROTOCOL_ERROR or answer.status in (400, 413), "%s", answer)
        h2.is_open()


@case
def frames_behind_the_end():
    """DATA or HEADERS on a stream that its client has ended: STREAM_CLOSED, for the stream or the connection."""
    with serving() as server:
        for extra in (lambda h2: frame(DATA, 0, 1, b"late"), lambda h2: frame(HEADERS, END_HEADERS, 1, good_head(h2))):
            with H2(server) as h2:
                block = good_head(h2)
                h2.open()
                h2.send(frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, message(b"")) + extra(h2))
                while h2.away is None and h2.answers[1].reset is None:
                    if h2.read() is None:
                        break
                code = h2.away[0] if h2.away else h2.answers[1].reset
                check(code in (STREAM_CLOSED, PROTOCOL_ERROR), "%s %s", h2.away, h2.answers[1])
        still_serves(server)


@case
def stream_numbers_do_not_go_back():
    """A stream whose number was passed over is closed: what comes on it is ended or read past, never served."""
    with serving() as server, H2(server) as h2:
        block = good_head(h2)
        h2.answers[5] = Answer()
        h2.send(frame(HEADERS, END_HEADERS, 5, block) + frame(DATA, END_STREAM, 5, message(b"")))
        h2.answer(5)
        h2.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, good_head(h2)) + frame(PING, 0, 0, bytes(8)))
        while h2.away is None and not ("PING", 1, 0, 8) in h2.seen:
            if h2.read() is None:
                break
        check(3 not in h2.answers or h2.answers[3].headers is None, "%s", h2.answers.get(3))
        check(h2.away is None or h2.away[0] in (PROTOCOL_ERROR, STREAM_CLOSED), "%s", h2.away)


@case
def a_window_that_overflows_ends_its_stream():
    with serving({"slow/config.pbtxt": echo_config("slow", mode="delay", delay_ms=2000)}) as server, H2(server) as h2:
        stream = h2.grpc(INFER_PATH, infer_message("slow", bytes(4)))
        h2.send_frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 0x7FFFFFFF))
        equal(h2.answer(stream).reset, FLOW_CONTROL_ERROR)
        h2.is_open()


@case
def priorities_are_read_past():
    """They are deprecated and mean nothing here: whatever stream one depends on, also far away."""
    with serving() as server, H2(server) as h2:
        for depends in (0, 1, 0x7FFFFFFF):
            stream = h2.open()
            if depends == stream:
                stream = h2.open()
            h2.send(frame(PRIORITY, 0, stream + 100, struct.pack(">IB", depends, 255)) +
                    frame(HEADERS, END_HEADERS | PRIORITY_FLAG, stream, struct.pack(">IB", depends, 1) + good_head(h2)) +
                    frame(DATA, END_STREAM, stream, message(b"")))
            equal(h2.answer(stream).grpc[0], 0)
        h2.is_open()


@case
def more_data_than_the_window_allows():
    """The stream's window is the server's credit: who ignores it is cut off, and what came was never kept."""
    with serving() as server:
        def counted():
            return (metric(server, "penstock_http_malformed_total") or 0) + metric(server, "penstock_http2_resets_total", by="server")
        before = counted()
        with H2(server) as h2:
            stream = h2.open()
            h2.send_frame(HEADERS, END_HEADERS, stream, good_head(h2))
            h2.send_frame(DATA, 0, stream, message(b"", 0, 60 << 20))
            for _ in range(4000):
                if not h2.send_frame(DATA, 0, stream, bytes(16384)):
                    break
            while h2.away is None and h2.answers[stream].reset is None:
                if h2.read() is None:
                    break
            found = h2.away[0] if h2.away else h2.answers[stream].reset
            check(found is None or found == FLOW_CONTROL_ERROR, "%s", h2.away)     # None: TCP dropped it with the rest
        until(lambda: counted() > before, "no metric counts it")
        still_serves(server)


@case
def goaway_of_a_client_lets_its_calls_finish():
    with serving({"slow/config.pbtxt": echo_config("slow", mode="delay", delay_ms=400)}) as server, H2(server) as h2:
        stream = h2.grpc(INFER_PATH, infer_message("slow", bytes(4)))
        h2.send_frame(GOAWAY, 0, 0, bytes(8) + b"bye")
        equal(h2.answer(stream).grpc[0], 0)
        while h2.read() is not None:
            pass


if __name__ == "__main__":
    main()
