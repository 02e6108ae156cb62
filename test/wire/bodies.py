"""Request bodies: whole, in chunks, announced, compressed, too large."""
import gzip
import json
import re
import time
import zlib

from harness import case, cases, check, equal, main
from _wire import INFER, IRIS, IRIS_BODY, Wire, ask, echo_config, head, in_tensor, post, resident, serving, still_serves

JSON = ("Content-Type", "application/json")
TYPED = "/models/iris:predict"
TYPED_BODY = b'{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}'


def chunked(pieces):
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def chunked_head(path, *headers):
    return head("POST", path, None, [("Transfer-Encoding", "chunked"), *headers])


@case
def chunks_of_every_size():
    with serving() as server, Wire(server) as wire:
        for size in (1, 2, 3, 7, 16, 100, len(IRIS_BODY)):
            wire.send(chunked_head(INFER) + chunked(IRIS_BODY[i:i + size] for i in range(0, len(IRIS_BODY), size)))
            equal(wire.reply().json()["outputs"][0]["data"], [0], "chunks of %d" % size)


@case
def chunks_in_single_bytes():
    with serving() as server, Wire(server) as wire:
        text = chunked_head(INFER) + chunked([IRIS_BODY[:20], IRIS_BODY[20:]])
        for i in range(len(text)):
            wire.send(text[i:i + 1])
        equal(wire.reply().json()["outputs"][0]["data"], [0])


@case
def large_body_in_chunks():
    """As many bytes as the image benchmark moves, cut at odd places."""
    with serving({"echo/config.pbtxt": echo_config("echo")}) as server, Wire(server) as wire:
        values = [i % 4096 / 64 for i in range(150528)]        # exact in FP32, short as text
        body = json.dumps({"inputs": [{"name": "IN", "shape": [len(values)], "datatype": "FP32", "data": values}]}).encode()
        wire.send(chunked_head("/v2/models/echo/infer") + chunked(body[i:i + 8191] for i in range(0, len(body), 8191)))
        check(wire.reply().json()["outputs"][0]["data"] == values, "other numbers came back")


# --- 100-continue (RFC 9110, 10.1.1) ----------------------------------------------------------------------

@case
def continue_is_said_before_the_body():
    with serving() as server, Wire(server) as wire:
        wire.send(head("POST", INFER, IRIS_BODY, [("Expect", "100-continue")]))
        equal(wire.reply().status, 100)
        wire.send(IRIS_BODY)
        equal(wire.reply().status, 200)
        wire.request("GET", "/v2/health/live")
        equal(wire.reply().status, 200, "the next request")


@case
def continue_in_chunks():
    with serving() as server, Wire(server) as wire:
        wire.send(chunked_head(INFER, ("Expect", "100-continue")))
        equal(wire.reply().status, 100)
        wire.send(chunked([IRIS_BODY]))
        equal(wire.reply().status, 200)


@case
def refused_without_continue():
    """A body that will not be read is not asked for: the answer comes at once."""
    with serving(options=["--max-body", "1MiB"]) as server:
        for path, length, status in ((INFER, 2 << 20, 413), ("/nothing", 10, 404), ("/v2/models/none/infer", 10, 404)):
            with Wire(server) as wire:
                wire.send(head("POST", path, None, [("Content-Length", length), ("Expect", "100-continue")]))
                reply = wire.reply()
                equal(reply.status, status, path)
        still_serves(server)


@case
def unknown_expectation():
    with serving() as server, Wire(server) as wire:
        wire.send(head("POST", INFER, IRIS_BODY, [("Expect", "200-ok")]))
        equal(wire.reply().status, 417)
    # whether the connection stays is the server's choice; that it cannot be confused is what counts


@case
def continue_not_waited_for():
    """A client may send the body without waiting."""
    with serving() as server, Wire(server) as wire:
        wire.send(head("POST", INFER, IRIS_BODY, [("Expect", "100-continue")]) + IRIS_BODY)
        reply = wire.reply()
        if reply.status == 100:
            reply = wire.reply()
        equal(reply.status, 200)


# --- sizes ------------------------------------------------------------------------------------------------

@cases({"known": (True,), "chunked": (False,)})
def too_large(is_known):
    with serving(options=["--max-body", "64KiB"]) as server:
        before = resident(server)
        with Wire(server) as wire:
            if is_known:
                wire.send(head("POST", INFER, None, [("Content-Length", 1 << 40)]) + b"x" * 1000)
            else:
                wire.send(chunked_head(INFER) + chunked([b" " * 4096] * 20))
            reply = wire.reply()
            equal(reply.status, 413)
            check("--max-body" in reply.json()["error"], "the option is not named: %r", reply.body)
        still_serves(server)
        check(resident(server) - before < 16 << 20, "memory for a body that was refused")


@case
def as_large_as_allowed():
    with serving(options=["--max-body", "64KiB"]) as server:
        body = IRIS_BODY + b" " * ((64 << 10) - len(IRIS_BODY))
        equal(ask(server, "POST", INFER, body, [JSON]).status, 200)
        equal(ask(server, "POST", INFER, body + b" ", [JSON]).status, 413)


@case
def a_head_too_large():
    with serving(options=["--header-bytes-max", "4KiB", "--headers-max", "20"]) as server:
        for headers in ([("X-A", "b" * 5000)], [("X-%d" % i, "y") for i in range(30)]):
            with Wire(server) as wire:
                wire.send(head("GET", "/v2", None, headers))
                equal(wire.reply().status, 431)
                wire.closed()
        with Wire(server) as wire:
            wire.send("GET /" + "a" * 6000 + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            check(wire.reply().status in (414, 431), "a long path")
            wire.closed()
        still_serves(server)


@case
def a_head_that_never_ends_is_bounded():
    with serving() as server:
        before = resident(server)
        with Wire(server) as wire:
            wire.send("GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            for i in range(4000):
                wire.send("X-%d: %s\r\n" % (i, "y" * 100))
            equal(wire.reply().status, 431)
        check(resident(server) - before < 8 << 20, "memory for a head that was refused")
        still_serves(server)


@case
def no_length_is_no_body():
    with serving() as server, Wire(server) as wire:
        wire.request("POST", INFER)
        equal(wire.reply().status, 400)
        wire.request("GET", "/v2/health/live")
        equal(wire.reply().status, 200)


# --- compression ------------------------------------------------------------------------------------------


@cases({"gzip": ("gzip", gzip.compress), "deflate": ("deflate", zlib.compress),
        "gzip_two_members": ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
        "identity": ("identity", bytes)})
def compressed_request(encoding, pack):
    with serving() as server:
        for path, body in ((INFER, IRIS_BODY), (TYPED, TYPED_BODY)):
            reply = ask(server, "POST", path, pack(body), [JSON, ("Content-Encoding", encoding)])
            equal(reply.status, 200, path)


@cases({"truncated": (gzip.compress(IRIS_BODY)[:-9],), "damaged": (gzip.compress(IRIS_BODY)[:-8] + b"\0" * 8,),
        "not_gzip": (IRIS_BODY,), "spare_bytes": (gzip.compress(IRIS_BODY) + b"spare",), "empty": (b"",)})
def damaged_gzip(body):
    with serving() as server:
        for path in (INFER, TYPED):
            equal(ask(server, "POST", path, body, [JSON, ("Content-Encoding", "gzip")]).status, 400, path)
        still_serves(server)


ASIDE = ("--aside-from", "1", "--aside-threads", "2")       # every body is read beside the loops


def jobs(server):
    """(bodies that were read beside the loops, those that are being read)"""
    text = ask(server, "GET", "/metrics").body.decode()
    return tuple(int(float(re.search(r"^penstock_aside_jobs%s (\S+)$" % end, text, re.M).group(1))) for end in ("_total", ""))


@case
def beside_the_loop():
    """The same answers as on it, to what is right and to what is wrong, one behind the other on one connection."""
    bodies = [(INFER, IRIS_BODY), (TYPED, TYPED_BODY), (INFER, IRIS_BODY[:-1]), (TYPED, b"{"), (TYPED, b'{"sepal": 1}'), (INFER, b"[]"),
              (INFER, b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, "x"]}]}')]
    answers = []
    for options in ((), ASIDE):
        with serving(options=options) as server, Wire(server) as wire:
            wire.send(b"".join(head("POST", path, body, [JSON]) + body for path, body in bodies))
            answers.append([(reply.status, reply.body) for reply in (wire.reply() for _ in bodies)])
            equal([status for status, _ in answers[-1]], [200, 200] + [400] * 5)
            if options:
                equal(jobs(server), (len(bodies), 0))
    equal(answers[1], answers[0])


@case
def events_beside_the_loop():
    with serving(options=ASIDE) as server:
        body = b"[" + b",".join([TYPED_BODY] * 100) + b"]"
        reply = ask(server, "POST", TYPED, body, [JSON, ("Accept", "application/x-ndjson")])
        equal((reply.status, reply.body.count(b"\n")), (200, 100))
        equal(jobs(server), (1, 0))


@case
def large_compressed_bodies_are_inflated_beside_the_loop():
    rows = 20000
    body = json.dumps({"inputs": [{"name": "input", "datatype": "FP32", "shape": [rows, 4],
                                   "data": [[i % 7, i % 5, i % 3, i % 11] for i in range(rows)]}]}).encode()
    packed = gzip.compress(body)
    check(len(packed) > 4096, "%d bytes", len(packed))
    with serving(options=ASIDE) as server:
        plain = ask(server, "POST", INFER, body, [JSON])
        before = jobs(server)[0]
        reply = ask(server, "POST", INFER, packed, [JSON, ("Content-Encoding", "gzip")])
        equal((reply.status, reply.body), (200, plain.body))
        equal(jobs(server), (before + 2, 0))        # inflated, then read
        equal(ask(server, "POST", INFER, packed[:-9], [JSON, ("Content-Encoding", "gzip")]).status, 400)


@case
def who_leaves_while_a_body_is_read_beside_the_loop():
    body = b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [500000, 4], "data": [' + b"1," * 1999999 + b"1]}]}"
    packed = gzip.compress(body, 1)
    with serving() as server:
        for sent, headers in ((body, [JSON]), (packed, [JSON, ("Content-Encoding", "gzip")])):
            for _ in range(5):
                with Wire(server) as wire:
                    wire.send(head("POST", INFER, sent, headers) + sent)
        until = time.monotonic() + 20
        while jobs(server)[1] != 0:
            check(time.monotonic() < until, "jobs go on: %s", jobs(server))
            time.sleep(0.02)
        still_serves(server)


@case
def gzip_bomb():
    """A gigabyte of zeros in a megabyte: refused at the limit, and the limit is what it cost."""
    packer = zlib.compressobj(9, wbits=31)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1024)) + packer.flush()
    with serving(options=["--max-body", "8MiB"]) as server:
        before = resident(server)
        reply = ask(server, "POST", INFER, body, [JSON, ("Content-Encoding", "gzip")])
        check(reply.status in (413, 400), "%r", reply)
        check(resident(server) - before < 48 << 20, "memory for a bomb")
        still_serves(server)


@case
def unknown_encoding():
    with serving() as server:
        reply = ask(server, "POST", INFER, IRIS_BODY, [JSON, ("Content-Encoding", "br")])
        equal(reply.status, 501)
        equal(reply.header("accept-encoding"), "gzip, deflate")
        equal(ask(server, "POST", TYPED, TYPED_BODY, [JSON, ("Content-Encoding", "br")]).status, 415)


@case
def compressed_answer():
    with serving({"echo/config.pbtxt": echo_config("echo")}) as server:
        body = json.dumps(in_tensor(1000)).encode()
        plain = ask(server, "POST", "/v2/models/echo/infer", body, [JSON])
        equal(plain.header("content-encoding"), None)
        for accept, expected in (("gzip", "gzip"), ("deflate", "deflate"), ("gzip;q=0.5, deflate;q=0.9", "deflate"),
                                 ("br", None), ("gzip;q=0", None), ("identity", None), ("br, gzip", "gzip")):
            reply = ask(server, "POST", "/v2/models/echo/infer", body, [JSON, ("Accept-Encoding", accept)])
            equal((reply.status, reply.header("content-encoding")), (200, expected), accept)
            unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress, None: bytes}[expected]
            equal(unpack(reply.body), plain.body, accept)


if __name__ == "__main__":
    main()
