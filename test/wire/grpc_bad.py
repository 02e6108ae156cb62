"""gRPC that is wrong: each mistake gets a status and a sentence, and costs nobody else anything."""
import gzip
import struct
import time
import zlib

from harness import case, cases, check, equal, main, need
from _wire import echo_config, metric, resident, serving, still_serves, until
from _frames import *       # noqa: the names of the RFC

OK, CANCELLED, UNKNOWN, INVALID, DEADLINE, NOT_FOUND = 0, 1, 2, 3, 4, 5
EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 8, 12, 13, 14


def check_refused(answer, codes, *words):
    number, text = answer.grpc
    codes = codes if isinstance(codes, tuple) else (codes,)
    check(answer.status == 200 and number in codes, "%s", answer)
    check(len(text) > 15, "refused without a sentence: %s", answer)
    for word in words:
        check(word in text, "%r lacks %r", text, word)


# --- protobuf ------------------------------------------------------------------------------------------------

def varint(n):
    out = b""
    while True:
        out, n = out + bytes([n & 127 | (128 if n > 127 else 0)]), n >> 7
        if not n:
            return out


def field(number, wire, value):
    key = varint(number << 3 | wire)
    if wire == 0:
        return key + varint(value)
    if wire == 2:
        return key + varint(len(value)) + value
    return key + value


def tensor(name=b"input", datatype=b"FP32", shape=(1, 4), more=b""):
    return field(5, 2, field(1, 2, name) + field(2, 2, datatype) + field(3, 2, b"".join(map(varint, shape))) + more)


IRIS_RAW = struct.pack("<4f", 5.1, 3.5, 1.4, 0.2)
NAME, RAW = field(1, 2, b"iris"), field(7, 2, IRIS_RAW)
GOOD = NAME + tensor() + RAW
MINUS = 1 << 64

HOSTILE = {
    "cut_in_a_field": GOOD[:-3], "cut_in_a_length": NAME + b"\x2a\xff", "cut_in_a_key": NAME + b"\xff\xff",
    "length_past_the_end": NAME + b"\x3a\x80\x80\x80\x80\x08" + IRIS_RAW,
    "length_of_2_63": NAME + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    "varint_of_eleven_bytes": NAME + b"\x18" + b"\xff" * 10 + b"\x01",
    "field_0": b"\x02\x00" + GOOD, "wire_type_6": NAME + b"\x0e" + GOOD, "wire_type_7": NAME + b"\x0f" + GOOD,
    "group_without_end": NAME + b"\x5b\x08\x01", "group_end_alone": NAME + b"\x5c",
    "groups_within_groups": NAME + b"\x5b" * 10000 + b"\x5c" * 10000 + tensor() + RAW * 0,
    "name_as_a_number": field(1, 0, 7) + tensor() + RAW, "inputs_as_a_number": NAME + field(5, 0, 1) + RAW,
    "raw_as_fixed64": NAME + tensor() + field(7, 1, bytes(8)), "id_as_fixed32": GOOD + field(3, 5, bytes(4)),
    "shape_as_a_string_of_junk": NAME + field(5, 2, field(1, 2, b"input") + field(3, 2, b"\xff")) + RAW,
    "shape_as_fixed64": NAME + field(5, 2, field(1, 2, b"input") + field(3, 1, bytes(8))) + RAW,
    "name_not_utf8": field(1, 2, b"ir\xffs") + tensor() + RAW, "tensor_name_not_utf8": NAME + tensor(b"\xc3\x28") + RAW,
    "key_not_utf8": GOOD + field(4, 2, field(1, 2, b"\xff") + field(2, 2, field(1, 0, 1))),
    "text_is_no_protobuf": b'{"model_name":"iris"}', "zeros": bytes(100), "ones": b"\xff" * 100,
}


@cases(HOSTILE.items())
def hostile_protobuf(data):
    """Truncated, mis-typed, nested without an end: INVALID_ARGUMENT, at once, and the connection lives."""
    with serving() as server, H2(server) as h2:
        begun = time.monotonic()
        answer = h2.answer(h2.grpc(INFER_PATH, message(data)))
        check_refused(answer, INVALID)
        check(time.monotonic() - begun < 2, "it took %.1f s", time.monotonic() - begun)
        equal(h2.answer(h2.grpc(INFER_PATH, message(GOOD))).grpc[0], OK)


@case
def every_cut_of_a_good_message():
    """No prefix of it crashes; each that is not whole is refused, or a smaller request."""
    with serving() as server, H2(server) as h2:
        for size in range(len(GOOD)):
            answer = h2.answer(h2.grpc(INFER_PATH, message(GOOD[:size])))
            check(answer.grpc[0] in (INVALID, NOT_FOUND) and len(answer.grpc[1]) > 10, "cut at %d: %s", size, answer)
        equal(h2.answer(h2.grpc(INFER_PATH, message(GOOD))).grpc[0], OK)


@cases({
    "no_model": (tensor() + RAW, NOT_FOUND, "there are"), "another_model": (field(1, 2, b"none") + tensor() + RAW, NOT_FOUND, "none"),
    "negative_dimension": (NAME + tensor(shape=(MINUS - 1, 4)) + RAW, INVALID, "-1"),
    "dimensions_that_overflow": (NAME + tensor(shape=(1 << 62, 4)) + RAW, INVALID, "input"),
    "product_that_overflows": (NAME + tensor(shape=(1 << 33, 1 << 33)) + RAW, INVALID, "input"),
    "a_petabyte": (NAME + tensor(shape=(1 << 46, 4)) + RAW, INVALID, "input"),
    "rank_of_a_thousand": (NAME + tensor(shape=(1,) * 1000) + RAW, INVALID, "shape"),
    "raw_too_short": (NAME + tensor() + field(7, 2, IRIS_RAW[:-1]), INVALID, "15"),
    "raw_too_long": (NAME + tensor() + field(7, 2, IRIS_RAW + b"x"), INVALID, "17"),
    "raw_missing": (NAME + tensor(), INVALID, "input"), "raw_one_too_many": (GOOD + RAW, INVALID, "raw_input_contents"),
    "datatype_unknown": (NAME + tensor(datatype=b"FP99") + RAW, INVALID, "FP99"),
    "contents_of_another_type": (NAME + tensor(more=field(5, 2, field(2, 2, bytes(4)))), INVALID, "contents"),
    "contents_too_few": (NAME + tensor(more=field(5, 2, field(6, 2, bytes(12)))), INVALID, "3"),
    "contents_not_whole": (NAME + tensor(more=field(5, 2, field(6, 2, bytes(15)))), INVALID, "contents"),
    "an_input_twice": (NAME + tensor() + tensor() + RAW + RAW, INVALID, "input"),
    "five_thousand_inputs": (NAME + tensor(b"x", shape=()) * 5000, INVALID, "inputs"),
    "reserved_parameter": (GOOD + field(4, 2, field(1, 2, b"triton_x") + field(2, 2, field(1, 0, 1))), INVALID, "triton_"),
    "version_of_words": (GOOD + field(2, 2, b"latest"), INVALID, "latest"),
    "bytes_that_lie": (field(1, 2, b"spam") + tensor(b"text", b"BYTES", (1, 1)) + field(7, 2, b"\xff\xff\xff\x7fx"), INVALID, "text"),
})
def right_protobuf_wrong_request(data, code, word):
    with serving(examples=("iris", "spam")) as server, H2(server) as h2:
        check_refused(h2.answer(h2.grpc(INFER_PATH, message(data))), code, word)
        equal(h2.answer(h2.grpc(INFER_PATH, message(GOOD))).grpc[0], OK)


@case
def what_is_unknown_is_skipped():
    """Fields of a newer version are no error."""
    more = field(99, 2, b"later") + field(98, 0, 1) + field(97, 1, bytes(8)) + field(96, 5, bytes(4)) + b"\xa3\x06\x08\x01\xa4\x06"
    with serving() as server, H2(server) as h2:
        equal(h2.answer(h2.grpc(INFER_PATH, message(more + GOOD + more))).grpc[0], OK)
        equal(h2.answer(h2.grpc(LIVE_PATH, message(more))).grpc[0], OK)


@cases({"metadata": ("/inference.GRPCInferenceService/ModelMetadata", b"\x0a\x05ab"),
        "metadata_utf8": ("/inference.GRPCInferenceService/ModelMetadata", b"\x0a\x01\xff"),
        "health": ("/grpc.health.v1.Health/Check", b"\x0a\x7f"), "typed": ("/penstock.models.Iris/Predict", b"\x0a\x7f"),
        "reflection": ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"\x3a\x7f")}.items())
def hostile_protobuf_elsewhere(row):
    path, data = row
    with serving() as server, H2(server) as h2:
        check_refused(h2.answer(h2.grpc(path, message(data))), INVALID)
        h2.is_open()


# --- framing ---------------------------------------------------------------------------------------------------

@cases({"no_message": b"", "cut_in_the_prefix": message(GOOD)[:3], "length_says_more": message(GOOD, length=len(GOOD) + 5),
        "two_messages": message(GOOD) * 2, "junk_behind": message(GOOD) + b"x", "half_a_second": message(GOOD) + message(GOOD)[:9],
        }.items())
def a_prefix_that_lies(data):
    """A unary call has one whole message, then its end."""
    with serving() as server, H2(server) as h2:
        check_refused(h2.answer(h2.grpc(INFER_PATH, data)), (INVALID, UNIMPLEMENTED, INTERNAL))
        equal(h2.answer(h2.grpc(INFER_PATH, message(GOOD))).grpc[0], OK)


@case
def a_length_of_four_gigabytes():
    """Refused by the five bytes of the prefix: nothing of the rest is waited for, and no memory taken."""
    with serving() as server, H2(server) as h2:
        h2.is_open()
        before = resident(server)
        answer = h2.answer(h2.grpc(INFER_PATH, message(b"", length=0xFFFFFFFF), is_end=False))
        check_refused(answer, EXHAUSTED, "--max-")
        check(resident(server) - before < 8 << 20, "it took memory")
        h2.is_open()


@case
def a_large_message_announced_a_thousand_times():
    """Who only says that a large message comes, a thousand times, is not believed with memory that others need."""
    with serving(options=["--memory-limit", "64MiB"]) as server:
        with H2(server) as h2:
            h2.ping()
            allowed = h2.peer.get(MAX_CONCURRENT_STREAMS, 100)
            for _ in range(min(allowed, 1000)):
                h2.grpc(INFER_PATH, message(b"x" * 10, length=60 << 20), is_end=False)
            h2.ping()
            with H2(server) as other:
                until(lambda: other.answer(other.grpc(INFER_PATH, message(GOOD))).grpc[0] in (OK, EXHAUSTED), "no answer")
        until(lambda: ask(server, message(GOOD)).grpc[0] == OK, "memory comes back when they have gone")


@case
def a_message_of_the_limit_and_one_more():
    with serving({"echo/config.pbtxt": echo_config("echo")}, options=["--max-body", "64KiB"]) as server, H2(server) as h2:
        size = 65536 - 64
        fits = infer_message("echo", bytes(size // 4 * 4))
        check(len(fits) <= 65536 + 5, "the test is wrong: %d", len(fits))
        equal(h2.answer(h2.grpc(INFER_PATH, fits)).grpc[0], OK)
        check_refused(h2.answer(h2.grpc(INFER_PATH, infer_message("echo", bytes(65536)))), EXHAUSTED, "--max-")
        h2.is_open()


@case
def an_end_that_never_comes():
    """A message without END_STREAM: answered when the time for bodies is over, or as the call is complete."""
    with serving(options=["--body-timeout", "500ms"]) as server, H2(server) as h2:
        begun = time.monotonic()
        answer = h2.answer(h2.grpc(INFER_PATH, message(GOOD)[:20], is_end=False))
        check(0.3 < time.monotonic() - begun < 8, "%.1f s", time.monotonic() - begun)
        check(answer.reset is not None or answer.grpc[0] not in (None, OK), "%s", answer)
        h2.is_open()


# --- compression ------------------------------------------------------------------------------------------------

def deflate(data):
    return zlib.compress(data)


@cases({"gzip": ("gzip", gzip.compress), "deflate": ("deflate", deflate)})
def compressed(name, pack):
    with serving() as server, H2(server) as h2:
        answer = h2.answer(h2.grpc(INFER_PATH, message(pack(GOOD), 1), [("grpc-encoding", name)]))
        equal(answer.grpc[0], OK)
        answer = h2.answer(h2.grpc(INFER_PATH, message(GOOD, 0), [("grpc-encoding", name)]))
        equal(answer.grpc[0], OK, "the flag is each message's own")
        answer = h2.answer(h2.grpc(INFER_PATH, message(pack(GOOD), 1), [("grpc-encoding", name), ("grpc-accept-encoding", name)]))
        flag, data = answer.messages[0]
        if flag:
            encoding = dict(answer.headers).get("grpc-encoding")
            equal(encoding, name)
            data = gzip.decompress(data) if name == "gzip" else zlib.decompress(data)
        pb = need("tritonclient.grpc.service_pb2")
        equal(pb.ModelInferResponse.FromString(data).model_name, "iris")


@cases({"flag_without_encoding": (message(gzip.compress(GOOD), 1), (), (INTERNAL,), "grpc-encoding"),
        "flag_with_identity": (message(gzip.compress(GOOD), 1), [("grpc-encoding", "identity")], (INTERNAL, INVALID), "identity"),
        "unknown_encoding": (message(GOOD, 1), [("grpc-encoding", "snappy")], (UNIMPLEMENTED,), "snappy"),
        "flag_of_2": (message(GOOD, 2), (), (INTERNAL, INVALID), "compressed-flag"),
        "not_gzip": (message(GOOD, 1), [("grpc-encoding", "gzip")], (INTERNAL, INVALID), "gzip"),
        "gzip_cut": (message(gzip.compress(GOOD)[:-6], 1), [("grpc-encoding", "gzip")], (INTERNAL, INVALID), "gzip"),
        "gzip_sum_wrong": (message(gzip.compress(GOOD)[:-8] + bytes(8), 1), [("grpc-encoding", "gzip")], (INTERNAL, INVALID), "gzip"),
        "gzip_and_more": (message(gzip.compress(GOOD) + b"tail", 1), [("grpc-encoding", "gzip")], (INTERNAL, INVALID), "gzip")})
def compression_that_is_wrong(data, more, codes, word):
    with serving() as server, H2(server) as h2:
        answer = h2.answer(h2.grpc(INFER_PATH, data, more))
        check_refused(answer, codes, word)
        if word == "snappy":        # PROTOCOL-HTTP2: which there are, is said
            check("gzip" in dict(answer.headers).get("grpc-accept-encoding", ""), "%s", answer.headers)
        h2.is_open()


@cases({"gzip": ("gzip",), "deflate": ("deflate",)})
def a_bomb(name):
    """Sixty kilobytes that become a gigabyte: stopped at the limit of a message, not unpacked and then measured."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if name == "gzip" else 15)
    data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1024)) + packer.flush()
    check(len(data) < 2 << 20, "no bomb: %d bytes", len(data))
    with serving(options=["--max-body", "16MiB"]) as server, H2(server) as h2:
        h2.is_open()
        before = resident(server)
        for _ in range(3):
            check_refused(h2.answer(h2.grpc(INFER_PATH, message(data, 1), [("grpc-encoding", name)])), EXHAUSTED, "--max-")
        check(resident(server) - before < 48 << 20, "it was unpacked: %d MB", (resident(server) - before) >> 20)
        h2.is_open()


# --- headers -------------------------------------------------------------------------------------------------------

@cases({"no_such_service": ("/none.Service/Method", UNIMPLEMENTED, "none.Service"),
        "no_such_method": ("/inference.GRPCInferenceService/Nothing", UNIMPLEMENTED, "Nothing"),
        "no_method": ("/inference.GRPCInferenceService", UNIMPLEMENTED, ""), "no_path": ("/", UNIMPLEMENTED, ""),
        "deep": ("/a/b/c", UNIMPLEMENTED, ""), "percent": ("/inference.GRPCInferenceService/%53erverLive", UNIMPLEMENTED, ""),
        "no_such_model": ("/penstock.models.None/Predict", UNIMPLEMENTED, "None"),
        "method_of_a_model": ("/penstock.models.Iris/Nothing", UNIMPLEMENTED, "Predict"),
        "other_case": ("/inference.grpcinferenceservice/ServerLive", UNIMPLEMENTED, "")})
def unknown_methods(path, code, word):
    with serving() as server, H2(server) as h2:
        answer = h2.answer(h2.grpc(path, message(b"")))
        check_refused(answer, (code, NOT_FOUND) if "None" in path else code, word)
        check(answer.trailers is None, "not Trailers-Only")
        h2.is_open()


@cases({"get": ("GET", [("te", "trailers"), ("content-type", "application/grpc")]),
        "put": ("PUT", [("te", "trailers"), ("content-type", "application/grpc")])})
def only_post(method, more):
    with serving() as server, H2(server) as h2:
        answer = h2.answer(h2.request(LIVE_PATH, method, more, message(b"")))
        check(answer.status in (200, 405) and answer.grpc[0] not in (None, OK) or answer.status == 405, "%s", answer)
        h2.is_open()


@cases({"json": ("application/json", (415,)), "none": (None, (415,)), "grpcish": ("application/grpcx", (415,)),
        "web_json": ("application/grpc-web+json", (415,))})
def content_types_that_are_not_grpc(value, statuses):
    """A path of gRPC without its content type is told what it is."""
    more = [("content-type", value)] if value else []
    with serving() as server, H2(server) as h2:
        answer = h2.answer(h2.request(LIVE_PATH, "POST", more, message(b"")))
        check(answer.status in statuses, "%s", answer)
        h2.is_open()


@cases({"proto": "application/grpc+proto", "plain": "application/grpc", "parameter": "application/grpc;charset=utf-8",
        "upper": "Application/GRPC"}.items())
def content_types_of_grpc(value):
    with serving() as server, H2(server) as h2:
        answer = h2.answer(h2.request(LIVE_PATH, "POST", [("te", "trailers"), ("content-type", value)], message(b"")))
        equal(answer.grpc[0], OK)
        check(dict(answer.headers)["content-type"].startswith("application/grpc"), "%s", answer.headers)


@case
def grpc_over_http1_is_told():
    """A proxy that speaks HTTP/1.1 to its upstream is the usual cause: the sentence helps."""
    from _wire import Wire
    with serving() as server, Wire(server) as wire:
        wire.request("POST", LIVE_PATH, message(b""), [("Content-Type", "application/grpc"), ("TE", "trailers")])
        reply = wire.reply()
        check(reply.status in (400, 415, 426, 464, 501, 505) or reply.header("grpc-status") not in (None, "0"), "%s", reply)
        text = (reply.header("grpc-message") or "") + reply.body.decode()
        check("HTTP/2" in text or "HTTP%2F2" in text, "what is missing is not said: %s", reply)


@cases({"zero": ("0n", DEADLINE), "one_ns": ("1n", DEADLINE), "one_us": ("1u", DEADLINE)})
def a_deadline_already_past(value, code):
    """Not begun: no run of the model is counted."""
    with serving() as server, H2(server) as h2:
        answer = h2.answer(h2.grpc(INFER_PATH, message(GOOD), [("grpc-timeout", value)]))
        check_refused(answer, code)
        equal(metric(server, "nv_inference_exec_count", model="iris") or 0, 0)
        equal(h2.answer(h2.grpc(INFER_PATH, message(GOOD), [("grpc-timeout", "10S")])).grpc[0], OK)


@cases({"words": "soon", "no_unit": "100", "no_digits": "S", "nine_digits": "123456789S", "negative": "-1S", "unit": "1x", "empty": "",
        "fraction": "1.5S"}.items())
def a_timeout_that_is_none(value):
    with serving() as server, H2(server) as h2:
        check_refused(h2.answer(h2.grpc(INFER_PATH, message(GOOD), [("grpc-timeout", value)])), (INVALID, INTERNAL), "grpc-timeout")
        equal(h2.answer(h2.grpc(INFER_PATH, message(GOOD), [("grpc-timeout", "99999999H")])).grpc[0], OK)


@case
def a_deadline_within_the_run():
    with serving({"slow/config.pbtxt": echo_config("slow", mode="delay", delay_ms=5000)}) as server, H2(server) as h2:
        begun = time.monotonic()
        check_refused(h2.answer(h2.grpc(INFER_PATH, infer_message("slow", bytes(4)), [("grpc-timeout", "200m")])), DEADLINE)
        check(0.15 < time.monotonic() - begun < 2, "%.2f s", time.monotonic() - begun)
        until(lambda: (metric(server, "penstock_model_cancelled_total", model="slow") or 0) >= 1, "the work was not let go")


@case
def a_reset_frees_the_work():
    with serving({"slow/config.pbtxt": echo_config("slow", mode="delay", delay_ms=30000)}) as server, H2(server) as h2:
        stream = h2.grpc(INFER_PATH, infer_message("slow", bytes(4)))
        until(lambda: metric(server, "penstock_model_running", model="slow") == 1, "it does not run")
        h2.send_frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
        until(lambda: metric(server, "penstock_model_running", model="slow") == 0, "it runs on for nobody", 3)
        h2.is_open()
    with serving({"slow/config.pbtxt": echo_config("slow", mode="delay", delay_ms=30000)}) as server:
        with H2(server) as h2:
            h2.grpc(INFER_PATH, infer_message("slow", bytes(4)))
            until(lambda: metric(server, "penstock_model_running", model="slow") == 1, "it does not run")
        until(lambda: metric(server, "penstock_model_running", model="slow") == 0, "it runs on for a closed connection", 3)


@cases({"padded": "AAEC/w==", "unpadded": "AAEC/w", "empty": "", "two": "AAEC/w,AAE="}.items())
def binary_metadata(value):
    with serving() as server, H2(server) as h2:
        equal(h2.answer(h2.grpc(INFER_PATH, message(GOOD), [("x-bin", value)])).grpc[0], OK)


@case
def hosts_are_judged_as_over_http1():
    with serving() as server, H2(server) as h2:
        stream = h2.open()
        fields = h2.head(LIVE_PATH, more=[("te", "trailers"), ("content-type", "application/grpc")], host="evil.example")
        h2.send(frame(HEADERS, END_HEADERS, stream, h2.encoder.encode(fields)) + frame(DATA, END_STREAM, stream, message(b"")))
        answer = h2.answer(stream)
        check_refused(answer, 7, "evil.example")
        h2.is_open()
    with serving() as server, H2(server) as h2:
        check_refused(h2.answer(h2.grpc(more=[("origin", "https://evil.example")])), 7, "evil.example")


@case
def text_of_an_error_is_percent_encoded():
    """What is not printable ASCII never reaches a header as it is."""
    with serving() as server, H2(server) as h2:
        data = field(1, 2, "mödel\n%41".encode()) + tensor() + RAW
        answer = h2.answer(h2.grpc(INFER_PATH, message(data)))
        equal(answer.grpc[0], NOT_FOUND)
        raw = dict(answer.trailers or answer.headers)["grpc-message"]
        check(all(32 <= ord(c) < 127 for c in raw) and "%2541" in raw, "%r", raw)
        check("mödel" in answer.grpc[1], "%r", answer.grpc)


if __name__ == "__main__":
    main()
