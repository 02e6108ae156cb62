"""What streams that rest cost in memory: WebSockets, server-sent events, connections and streams of HTTP/2.

Prints the bytes each; `PENSTOCK_IDLE=10000` opens as many (the files that a process may open allowing).
"""
import os
import resource
import time

from harness import cases, check, main
from _frames import H2, message
from _websocket import TEXT, Socket, frame
from _wire import Wire, metric, resident, serving, until

COUNT = int(os.environ.get("PENSTOCK_IDLE", "1000"))
OPTIONS = ("--test-services", "--loops", "1", "--connections-max", "30000", "--watchers-max", "30000", "--idle-timeout", "1h",
           "--websocket-ping", "0", "--keepalive-time", "0", "--stream-heartbeat", "0")


def websocket(server):
    ws = Socket(server, extensions="permessage-deflate", headers=[("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)"),
                                                                  ("Accept-Language", "en"), ("Cache-Control", "no-cache")])
    ws.send(frame(TEXT, b"hello"))
    ws.expect(TEXT, b"hello")
    return ws


def events_socket(server):
    return Socket(server, "/events")


def events(server):
    wire = Wire(server)
    wire.request("GET", "/events", headers=[("Accept", "text/event-stream")])
    while b"\r\n\r\n" not in wire.data:
        check(wire.more(), "the connection ended")
    check(wire.data.startswith(b"HTTP/1.1 200 "), "%r", wire.data[:100])
    return wire


def watches(streams):
    def open_all(server):
        h2 = H2(server)
        for _ in range(streams):
            h2.grpc("/grpc.health.v1.Health/Watch", message(b""), [("user-agent", "grpc-python/1.60 grpc-c/37 (linux; chttp2)")])
        for stream in list(h2.answers):
            while not h2.answers[stream].body:
                check(h2.read() is not None, "the connection ended")
        return h2
    return open_all


# opens, streams of each, most KiB of a stream
KINDS = {"websocket": (websocket, 1, 8), "websocket of events": (events_socket, 1, 8),
         "server-sent events": (events, 1, 8), "grpc, a stream a connection": (watches(1), 1, 24),
         "grpc, 100 streams a connection": (watches(100), 100, 6)}


@cases(KINDS)
def idle(open_one, streams, most):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(COUNT, (hard - 100) * streams)
    with serving(options=OPTIONS) as server:
        held = [open_one(server) for _ in range(20)]       # what is made once for all is made
        time.sleep(0.3)
        before = resident(server)
        held += [open_one(server) for _ in range(count // streams)]
        time.sleep(0.3)
        each = (resident(server) - before) / (count // streams * streams)
        print("# %.0f bytes each of %d" % (each, count))
        for one in held:
            (one.stop if hasattr(one, "stop") else one.socket.close)()
        until(lambda: metric(server, "penstock_connections_open") <= 1, "all are gone")
        check(each <= most * 1024, "%.0f bytes each, the most is %d KiB", each, most)


if __name__ == "__main__":
    main()
