"""gRPC-Web byte by byte: both forms, over HTTP/1.1 and HTTP/2, what a page is told, and each mistake."""
import base64
import gzip
import http.client
import socket
import struct
import time
import urllib.parse

from harness import case, cases, check, equal, main
from _wire import echo_config, metric, serving, still_serves
from _frames import H2, message

LIVE = "/inference.GRPCInferenceService/ServerLive"
INTEROP = "/grpc.testing.TestService/"
ORIGIN = "https://app.example"
TYPES = {"binary": ("application/grpc-web", False), "binary_proto": ("application/grpc-web+proto", False),
         "text": ("application/grpc-web-text", True), "text_proto": ("application/grpc-web-text+proto", True)}
OVER = ("HTTP/1.1", "HTTP/2")
EACH = {"%s_%s" % (name, over.replace("/", "")): (over, *rest) for name, rest in TYPES.items() for over in OVER}


def decode(text):
    """Base64 that may be padded between any two groups."""
    check(len(text) % 4 == 0, "%d characters are no whole groups", len(text))
    return b"".join(base64.b64decode(text[i:i + 4], validate=True) for i in range(0, len(text), 4))


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, dict(headers), body
        is_text = "text" in self.headers.get("content-type", "") and "grpc" in self.headers["content-type"]
        data = decode(body) if is_text else body
        self.messages, self.trailers = [], None
        while data and "grpc" in self.headers.get("content-type", ""):
            flag, size = struct.unpack(">BI", data[:5])
            check(len(data) >= 5 + size and self.trailers is None, "a frame that is cut off, or behind the trailers")
            if flag & 0x80:
                lines = data[5:5 + size].decode().split("\r\n")
                equal(lines.pop(), "", "the last line has no end")
                self.trailers = dict(line.split(": ", 1) for line in lines)
            else:
                self.messages.append((flag, data[5:5 + size]))
            data = data[5 + size:]

    @property
    def grpc(self):
        found = self.trailers or self.headers
        check("grpc-status" in found, "no grpc-status: %s %s %r", self.status, self.headers, self.body[:200])
        return int(found["grpc-status"]), urllib.parse.unquote(found.get("grpc-message", ""))


def post(server, over, path, kind, body, more=()):
    headers = [("content-type", kind), ("x-grpc-web", "1"), *more]
    if over == "HTTP/1.1":
        return Reply(*server.call("POST", path, body, dict(headers)))
    with H2(server) as h2:
        answer = h2.answer(h2.request(path, "POST", headers, body))
        check(answer.trailers is None, "HTTP/2 trailers: %s", answer.trailers)
        return Reply(answer.status, answer.headers, answer.body)


def body_of(data, is_text, flag=0):
    return base64.b64encode(message(data, flag)) if is_text else message(data, flag)


def interop():
    return serving(options=["--test-services"])


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def sizes(*all_sizes, interval_us=0):
    """A StreamingOutputCallRequest."""
    out = b""
    for size in all_sizes:
        one = b"\x08" + varint(size) + (b"\x10" + varint(interval_us) if interval_us else b"")
        out += b"\x12" + varint(len(one)) + one
    return out


# --- calls -----------------------------------------------------------------------------------------------------

@cases(EACH)
def unary(over, kind, is_text):
    with serving() as server:
        reply = post(server, over, LIVE, kind, body_of(b"", is_text))
        equal((reply.status, reply.headers["content-type"], reply.messages), (200, kind, [(0, b"\x08\x01")]))
        equal(reply.trailers, {"grpc-status": "0"})
        equal(metric(server, "penstock_grpc_web_calls_total", form="text" if is_text else "binary"), 1)


@cases(EACH)
def failures_before_a_message_are_in_the_headers(over, kind, is_text):
    with serving() as server:
        reply = post(server, over, "/inference.GRPCInferenceService/ModelMetadata", kind, body_of(b"\x0a\x04none", is_text))
        equal((reply.status, reply.headers["content-type"], reply.body), (200, kind, b""))
        check(reply.grpc[0] == 5 and "none" in reply.grpc[1], "%s", reply.grpc)


@cases(EACH)
def large_messages(over, kind, is_text):
    """1 MiB up, 3 MiB down: base64 is decoded where it is received, whatever the pieces."""
    with interop() as server:
        payload = bytes(range(256)) * 4096
        inner = b"\x12" + varint(len(payload)) + payload
        request = b"\x10" + varint(3 << 20) + b"\x1a" + varint(len(inner)) + inner
        reply = post(server, over, INTEROP + "UnaryCall", kind, body_of(request, is_text))
        equal(reply.grpc[0], 0)
        equal(len(reply.messages[0][1]), (3 << 20) + 10)


@cases({"chunks_of_%d" % size: (size,) for size in (1, 2, 3, 5, 1000)})
def text_padded_anywhere(size):
    with interop() as server:
        data = message(b"\x10\x05\x1a\x42\x12\x40" + bytes(64))
        body = b"".join(base64.b64encode(data[i:i + size]) for i in range(0, len(data), size))
        reply = post(server, "HTTP/1.1", INTEROP + "UnaryCall", "application/grpc-web-text", body)
        equal((reply.grpc[0], len(reply.messages[0][1])), (0, 9))


@cases({"text": ("application/grpc-web", False, "application/grpc-web-text", "application/grpc-web-text"),
        "binary": ("application/grpc-web-text", True, "application/grpc-web+proto", "application/grpc-web+proto"),
        "anything": ("application/grpc-web", False, "*/*", "application/grpc-web")})
def accept_names_the_form_of_the_answer(kind, is_text, accept, expected):
    with serving() as server:
        reply = post(server, "HTTP/1.1", LIVE, kind, body_of(b"", is_text), [("accept", accept)])
        equal((reply.headers["content-type"], reply.messages), (expected, [(0, b"\x08\x01")]))


@cases({"%s_%s" % (name, over.replace("/", "")): (over, *TYPES[name]) for name in ("binary", "text") for over in OVER})
def each_message_comes_when_it_is_made(over, kind, is_text):
    """A stream of answers with pauses between: what has come can be read, in the text form too."""
    with interop() as server:
        body = body_of(sizes(1, 2, 3, interval_us=150000), is_text)
        times, data, begun = [], b"", time.monotonic()
        if over == "HTTP/1.1":
            connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
            connection.request("POST", INTEROP + "StreamingOutputCall", body, {"content-type": kind})
            reply = connection.getresponse()
            piece = reply.read1(65536)
            while piece:
                times.append(time.monotonic() - begun)
                data += piece
                Reply(200, {"content-type": kind}, data)        # whole frames, whole groups
                piece = reply.read1(65536)
            connection.close()
        else:
            with H2(server) as h2:
                stream = h2.request(INTEROP + "StreamingOutputCall", "POST", [("content-type", kind)], body)
                while not h2.answers[stream].is_over:
                    before = len(h2.answers[stream].body)
                    h2.read()
                    if len(h2.answers[stream].body) > before:
                        times.append(time.monotonic() - begun)
                        Reply(200, {"content-type": kind}, h2.answers[stream].body)
                data = h2.answers[stream].body
        found = Reply(200, {"content-type": kind}, data)
        equal((len(found.messages), found.trailers), (3, {"grpc-status": "0"}))
        check(len(times) >= 3 and times[0] < 0.28 and times[1] >= 0.28, "they came at %s", times)


@case
def metadata_both_ways():
    with interop() as server:
        sent = [("x-grpc-test-echo-initial", "first"), ("x-grpc-test-echo-trailing-bin", "q6ur")]
        reply = post(server, "HTTP/1.1", INTEROP + "UnaryCall", "application/grpc-web-text", body_of(b"\x10\x01", True), sent)
        equal((reply.headers["x-grpc-test-echo-initial"], reply.trailers["x-grpc-test-echo-trailing-bin"]), ("first", "q6ur"))
        check("server-timing" not in reply.headers, "that is a trailer, when there is one")


@cases({"gzip": ("gzip",), "deflate": ("deflate",)})
def messages_are_compressed_as_in_grpc(how):
    import zlib
    with interop() as server:
        data = b"\x10" + varint(20000) + b"\x42\x02\x08\x01\x1a" + varint(5006) + b"\x12" + varint(5003) + bytes(5003)
        packed = gzip.compress(data) if how == "gzip" else zlib.compress(data)
        more = [("grpc-encoding", how), ("grpc-accept-encoding", "identity," + how)]
        for kind, is_text in (TYPES["binary"], TYPES["text"]):
            reply = post(server, "HTTP/1.1", INTEROP + "UnaryCall", kind, body_of(packed, is_text, 1), more)
            equal((reply.grpc[0], reply.headers.get("grpc-encoding"), reply.messages[0][0]), (0, how, 1))
            plain = gzip.decompress(reply.messages[0][1]) if how == "gzip" else zlib.decompress(reply.messages[0][1])
            equal(len(plain), 20008)


@case
def compressed_only_where_it_was_asked_for():
    """server_compressed_streaming of gRPC's interop tests, over gRPC itself: flags of each message."""
    with interop() as server, H2(server) as h2:
        one = lambda size, is_packed: b"\x08" + varint(size) + b"\x1a\x02\x08" + bytes([is_packed])     # noqa: E731
        request = b"".join(b"\x12" + varint(len(p)) + p for p in (one(31415, 1), one(92653, 0), one(3, 1)))
        stream = h2.request(INTEROP + "StreamingOutputCall", "POST", [("content-type", "application/grpc"), ("te", "trailers"),
                                                                      ("grpc-accept-encoding", "gzip")], message(request))
        answer = h2.answer(stream)
        equal([flag for flag, _ in answer.messages], [1, 0, 1])
        equal(dict(answer.headers)["grpc-encoding"], "gzip")
        equal(len(gzip.decompress(answer.messages[0][1])), 31415 + 8)


@case
def deadlines():
    with interop() as server:
        begun = time.monotonic()
        reply = post(server, "HTTP/1.1", INTEROP + "StreamingOutputCall", "application/grpc-web",
                     body_of(sizes(1, 1, interval_us=30000000), False), [("grpc-timeout", "200m")])
        equal((reply.grpc[0], reply.messages), (4, []))
        check(time.monotonic() - begun < 3, "it took %.1f s", time.monotonic() - begun)


# --- streams to the server ------------------------------------------------------------------------------------------

@cases({"%s_%s" % (method, form): (method, *TYPES[form]) for form in ("binary", "text")
        for method in ("StreamingInputCall", "FullDuplexCall", "UnaryCall", "HalfDuplexCall")})
def a_second_message_is_refused(method, kind, is_text):
    with interop() as server:
        one = message(b"")
        good = post(server, "HTTP/1.1", INTEROP + method, kind, base64.b64encode(one) if is_text else one)
        equal(good.grpc[0], 0)
        two = post(server, "HTTP/1.1", INTEROP + method, kind, base64.b64encode(one) * 2 if is_text else one * 2)
        equal(two.grpc[0], 12)
        check("one only" in two.grpc[1] and "WebSocket" in two.grpc[1], "%s", two.grpc)


@case
def a_stream_of_models_answers_one_request():
    """ModelStreamInfer with one request: its answers, then the end."""
    config = echo_config("many", "FP32", mode="repeat", count="5") + b"model_transaction_policy { decoupled: true }\n"
    with serving({"many/config.pbtxt": config}) as server:
        tensor = b"\x0a\x02IN\x12\x04FP32\x1a\x01\x01"
        request = b"\x0a\x04many\x1a\x01x\x2a" + varint(len(tensor)) + tensor + b"\x3a\x04" + bytes(4)
        for kind, is_text in (TYPES["binary"], TYPES["text"]):
            reply = post(server, "HTTP/1.1", "/inference.GRPCInferenceService/ModelStreamInfer", kind, body_of(request, is_text))
            equal((reply.grpc[0], len(reply.messages)), (0, 5), reply.grpc[1])


# --- mistakes ---------------------------------------------------------------------------------------------------------

WRONG = {
    "no_base64": ("text", b"AAAA!AAA", 13, "byte 4 of the body is 0x21"),
    "newline": ("text", b"AAAAAAA=\n", 13, "byte 8 of the body is 0x0a"),
    "urls_alphabet": ("text", b"AAAAAA-_", 13, "0x2d"),
    "one_digit_at_the_end": ("text", b"AAAAAAA=A", 13, "in the middle of a group"),
    "half_a_message_as_text": ("text", base64.b64encode(b"\0\0\0\0\5ab"), 13, "in the middle of a message"),
    "half_a_message": ("binary", b"\0\0\0\0\5ab", 13, "in the middle of a message"),
    "half_a_prefix": ("binary", b"\0\0\0", 13, "in the middle of a message"),
    "trailers_of_a_caller": ("binary", b"\x80\0\0\0\2ab", 13, "compressed-flag"),
    "bits_set": ("binary", b"\x7e\0\0\0\0", 13, "compressed-flag"),
    "compressed_without_saying_how": ("binary", message(b"x", 1), 13, "grpc-encoding"),
    "nothing": ("binary", b"", 13, "without a message"),
    "too_large": ("binary", b"\0\x7f\xff\xff\xff", 8, "--max-message"),
    "too_large_as_text": ("text", base64.b64encode(b"\0\x7f\xff\xff\xff"), 8, "--max-message"),
    "no_protobuf": ("binary", message(b"\xff\xff"), 3, "byte"),
}


@cases({name: (name,) for name in WRONG})
def wrong(name):
    form, body, code, words = WRONG[name]
    with serving() as server:
        for over in OVER:
            reply = post(server, over, "/inference.GRPCInferenceService/ModelReady", TYPES[form][0], body)
            check(reply.grpc[0] == code and words in reply.grpc[1], "%s: %s", over, reply.grpc)
        still_serves(server)


@case
def a_bomb_is_not_inflated():
    with serving(options=["--max-message", "1MiB"]) as server:
        bomb = gzip.compress(bytes(64 << 20))
        for kind, is_text in (TYPES["binary"], TYPES["text"]):
            reply = post(server, "HTTP/1.1", LIVE, kind, body_of(bomb, is_text, 1), [("grpc-encoding", "gzip")])
            check(reply.grpc[0] == 8 and "--max-message" in reply.grpc[1], "%s", reply.grpc)


@case
def what_is_no_call():
    with serving() as server:
        for method, kind, status, words in (("GET", "application/grpc-web", 405, "POST"),
                                            ("POST", "application/grpc-web+json", 415, "application/grpc-web-text"),
                                            ("POST", "application/grpc", 505, "gRPC-Web")):
            found, headers, body = server.call(method, LIVE, b"", {"content-type": kind})
            equal(found, status)
            check(words in body.decode(), "%s", body)
        reply = post(server, "HTTP/1.1", "/no.Such/Thing", "application/grpc-web", message(b""))
        check(reply.grpc[0] == 12 and "there are" in reply.grpc[1], "%s", reply.grpc)


@case
def a_caller_who_leaves_stops_the_answers():
    with interop() as server:
        connection = socket.create_connection((server.host, server.port))
        body = body_of(sizes(*[1] * 500, interval_us=100000), False)
        connection.sendall(b"POST %sStreamingOutputCall HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc-web\r\n"
                           b"content-length: %d\r\n\r\n" % (INTEROP.encode(), len(body)) + body)
        connection.recv(1)
        connection.close()
        until = time.monotonic() + 5
        while not metric(server, "penstock_grpc_calls_total", code="CANCELLED") and time.monotonic() < until:
            time.sleep(0.02)
        equal(metric(server, "penstock_grpc_calls_total", code="CANCELLED"), 1)


# --- pages of other origins ------------------------------------------------------------------------------------------

def preflight(server, path, origin=ORIGIN, asked="content-type,x-grpc-web,x-user-agent,grpc-timeout,my-key"):
    return server.call("OPTIONS", path, None, {"origin": origin, "access-control-request-method": "POST",
                                               "access-control-request-headers": asked})


@case
def preflights_allow_what_was_asked():
    with serving(options=["--cors-origin", ORIGIN]) as server:
        for path in (LIVE, "/penstock.models.Iris/Predict", "/grpc.health.v1.Health/Watch", "/no.such.Service/Method"):
            status, headers, _ = preflight(server, path)
            equal(status, 204, path)
            equal(headers["access-control-allow-origin"], ORIGIN)
            equal(headers["access-control-allow-headers"], "content-type,x-grpc-web,x-user-agent,grpc-timeout,my-key")
            check("POST" in headers["access-control-allow-methods"], "%s", headers)
            check("origin" in headers["vary"].lower(), "%s", headers)
        equal(preflight(server, LIVE, "https://evil.example")[0], 403)
        check(preflight(server, "/favicon.ico")[0] in (404, 405), "that is no method")
        with H2(server) as h2:
            answer = h2.answer(h2.request(LIVE, "OPTIONS", [("origin", ORIGIN), ("access-control-request-method", "POST")]))
            equal(answer.status, 204)


@case
def a_page_may_read_the_status():
    with serving(options=["--cors-origin", ORIGIN]) as server:
        reply = post(server, "HTTP/1.1", "/penstock.models.Iris/Predict", "application/grpc-web", message(b""), [("origin", ORIGIN)])
        equal(reply.headers["access-control-allow-origin"], ORIGIN)
        exposed = [name.strip() for name in reply.headers["access-control-expose-headers"].split(",")]
        for name in ("grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-encoding", "*"):
            check(name in exposed, "%s lacks %s", exposed, name)
        equal(reply.grpc[0], 3)
        check("grpc-status-details-bin" in reply.headers, "the details are there too: %s", reply.headers)


@case
def without_the_option_a_foreign_page_may_not_call():
    with serving() as server:
        reply = post(server, "HTTP/1.1", LIVE, "application/grpc-web", message(b""), [("origin", ORIGIN)])
        check(reply.headers.get("grpc-status") == "7" and "--cors-origin" in reply.headers["grpc-message"], "%s", reply.headers)
        own = post(server, "HTTP/1.1", LIVE, "application/grpc-web", message(b""), [("origin", server.url)])
        equal(own.grpc[0], 0)


@case
def a_forbidden_host_is_told_in_the_form_of_the_call():
    with serving() as server:
        reply = post(server, "HTTP/1.1", LIVE, "application/grpc-web-text", body_of(b"", True), [("host", "evil.example")])
        equal((reply.status, reply.headers["content-type"], reply.headers["grpc-status"]), (200, "application/grpc-web-text", "7"))


if __name__ == "__main__":
    main()
