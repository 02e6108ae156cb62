"""Whatever is thrown at it over HTTP/2, memory returns to where it was."""
import gzip
import os
import struct

from harness import case, cases, check, equal, main
from _wire import echo_config, resident, serving, still_serves, until
from _frames import *       # noqa: the names of the RFC

SLOW = {"slow/config.pbtxt": echo_config("slow", mode="delay", delay_ms=30000)}


def rounds(server, act, early=3, more=6, allowed=4 << 20):
    """Resident memory after `more` further rounds is that after the first few, and a little."""
    for _ in range(early):
        act()
    before = resident(server)
    for _ in range(more):
        act()
    until(lambda: resident(server) - before <= allowed, "memory returns to what it was, and %g MB" % (allowed / 1e6))
    still_serves(server)
    equal(ask(server, infer_message()).grpc[0], 0)


@case
def small_calls():
    with serving() as server:
        body = infer_message()

        def act():
            with H2(server) as h2:
                for _ in range(20):
                    for stream in [h2.grpc(INFER_PATH, body) for _ in range(50)]:
                        equal(h2.answer(stream).grpc[0], 0)
        rounds(server, act, allowed=2 << 20)


@case
def large_calls_at_once():
    body = infer_message("echo", bytes(4 << 20))
    with serving({"echo/config.pbtxt": echo_config("echo")}, options=["--memory-kept", "0"]) as server:
        idle = resident(server)

        def act():
            many = [H2(server, window=1 << 27, values={INITIAL_WINDOW_SIZE: 1 << 24}) for _ in range(4)]
            streams = [h2.grpc(INFER_PATH, body) for h2 in many]
            for h2, stream in zip(many, streams):
                equal(h2.answer(stream).grpc[0], 0)
                h2.socket.close()
        rounds(server, act, allowed=12 << 20)
        until(lambda: resident(server) - idle < 48 << 20, "memory of large calls goes back to the system")


@cases({"gzip": ("gzip",), "deflate": ("deflate",)})
def compressed_calls(name):
    data = infer_message("echo", bytes(400000))[5:]
    packed = message(gzip.compress(data) if name == "gzip" else __import__("zlib").compress(data), 1)
    more = [("grpc-encoding", name), ("grpc-accept-encoding", name)]
    with serving({"echo/config.pbtxt": echo_config("echo")}) as server:
        def act():
            with H2(server) as h2:
                for _ in range(20):
                    equal(h2.answer(h2.grpc(INFER_PATH, packed, more)).grpc[0], 0)
        rounds(server, act)


@case
def refusals():
    wrong = [message(b"\xff" * 1000), message(infer_message()[5:-3]), b"", infer_message() * 2, message(b"x" * 100000),
             message(infer_message()[5:], 1), message(b"\x0a" + b"\xff\x7f" + b"n" * 16383)]
    with serving() as server:
        def act():
            with H2(server) as h2:
                for body in wrong * 20:
                    check(h2.answer(h2.grpc(INFER_PATH, body)).grpc[0] not in (None, 0), "not refused")
                for _ in range(50):
                    equal(h2.answer(h2.grpc("/none.Service/Method", infer_message())).grpc[0], 12)
        rounds(server, act, allowed=2 << 20)


@case
def calls_that_are_left():
    """Reset in every state: before a message, within one, while it runs, while its answer is on the way."""
    with serving({**SLOW, "echo/config.pbtxt": echo_config("echo")}, options=["--resets-max", "0"]) as server:
        large = infer_message("echo", bytes(1 << 20))

        def act():
            with H2(server) as h2:
                for i in range(40):
                    streams = [h2.grpc(INFER_PATH, infer_message()[:9], is_end=False), h2.grpc(INFER_PATH, message(b"", length=1 << 20),
                                                                                             is_end=False),
                               h2.grpc(INFER_PATH, infer_message("slow", bytes(4)))]
                    h2.is_open()
                    for stream in streams:
                        h2.send_frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
            with H2(server, is_granting=False) as h2:
                stream = h2.grpc(INFER_PATH, large)
                while len(h2.answers[stream].body) < 60000:
                    h2.read()
                h2.send_frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
        rounds(server, act, early=40, more=20)      # heaps of two loops fill first: flat from the 40th round on


@case
def connections_in_every_state():
    with serving(SLOW) as server:
        def act():
            for k in range(100):
                h2 = H2(server, preface=k % 4 != 0)
                if k % 4 == 1:
                    h2.send_frame(HEADERS, 0, 1, b"\x82")
                elif k % 4 == 2:
                    h2.grpc(INFER_PATH, infer_message("slow", bytes(4)))
                elif k % 4 == 3:
                    h2.grpc(INFER_PATH, infer_message()[:20], is_end=False)
                else:
                    h2.send(PREFACE[:k % 24])
                h2.socket.close()
        rounds(server, act, early=12, more=24, allowed=14 << 20)


@case
def descriptors():
    with serving(SLOW) as server:
        def count():
            return len(os.listdir("/proc/%d/fd" % server.process.pid))
        ask(server, infer_message())
        before = count()
        for i in range(100):
            with H2(server) as h2:
                h2.grpc(INFER_PATH, infer_message("slow", bytes(4))[:i % 40 + 1], is_end=False)
        until(lambda: count() <= before, "file descriptors are closed")


if __name__ == "__main__":
    main()
