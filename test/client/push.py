"""The server's own events, as people follow them: httpx (SSE, NDJSON), WebSocket, grpcio, and sockets that do not read."""
import json
import os
import socket
import sys
import threading
import time

from harness import ROOT, Server, case, cases, check, equal, main, models, need, raises
from _client import echo
from _ws import Refused, Socket

sys.path.append(os.path.join(ROOT, "test", "wire"))
from _wire import metric, until  # noqa: E402

SLOW = echo("slow", "FP32", "-1", mode="delay", delay_ms="100")
BROKEN = echo("broken", "FP32", "-1", mode="fail_load", text="it is not a good day")
INFER = {"inputs": [{"name": "IN", "shape": [1], "datatype": "FP32", "data": [1]}]}
LAYOUT = {"slow/config.pbtxt": SLOW, "slow/1/.keep": b"", "broken/config.pbtxt": BROKEN, "broken/1/.keep": b"",
          "fine/config.pbtxt": echo("fine", "FP32"), "fine/1/.keep": b""}


def serving(*options):
    class Both:
        def __enter__(self):
            self.folder = models(LAYOUT)
            self.server = Server(self.folder.__enter__(), options=["--node-name", "n1", *options])
            return self.server.__enter__()

        def __exit__(self, *why):
            self.server.__exit__(*why)
            self.folder.__exit__(*why)
    return Both()


def again(server):
    """The same server once more, on a port of its own."""
    server.urls.clear()
    server.start()


class Follower(threading.Thread):
    """Reads in a thread until the stream ends; .events so far."""

    def __init__(self, read):
        super().__init__(daemon=True)
        self.read, self.events, self.error, self.opened = read, [], None, threading.Event()
        self.start()
        check(self.opened.wait(20), "nothing was told: %s", self.error)

    def run(self):
        try:
            for event in self.read():
                self.events.append(event)
                self.opened.set()
        except Exception as error:      # noqa: the case looks at it
            self.error = error
            self.opened.set()

    def kinds(self):
        return [event["kind"] for event in list(self.events)]

    def wait(self, kind, count=1, seconds=20):
        until(lambda: self.kinds().count(kind) >= count, "%s %d times: %s" % (kind, count, self.kinds()), seconds)

    def ended(self):
        self.join(20)
        check(not self.is_alive(), "the stream did not end")
        check(self.error is None, "%r", self.error)


def by_sse(server, path="/events", headers=None):
    def read():
        with need("httpx").Client(timeout=60) as client, client.stream(
                "GET", server.url + path, headers={"accept": "text/event-stream", **(headers or {})}) as reply:
            equal((reply.status_code, reply.headers["content-type"]), (200, "text/event-stream; charset=utf-8"))
            fields = {}
            for line in reply.iter_lines():
                if line.startswith(":"):
                    continue
                if line:
                    name, value = line.split(": ", 1)
                    fields[name] = value
                    continue
                event = json.loads(fields["data"])
                equal(fields["event"], event["kind"].lower())
                equal(fields.get("id"), "n1.%d" % event["sequence"] if "sequence" in event else None)
                fields = {}
                yield event
    return read


def by_lines(server, path="/events"):
    def read():
        with need("httpx").Client(timeout=60, http1=False, http2=True) as client, client.stream(
                "GET", server.url + path, headers={"accept": "application/x-ndjson"}) as reply:
            equal((reply.status_code, reply.http_version), (200, "HTTP/2"))
            for line in reply.iter_lines():
                if line:
                    yield json.loads(line)
    return read


def by_websocket(server, path="/events"):
    def read():
        with Socket(server, path, [("sec-websocket-protocol", "penstock.v1")]) as ws:
            while True:
                message = ws.recv()
                if isinstance(message, tuple):
                    check(message[0] in (1001, 1013), "closed with %r", message)
                    ws.close(message[0])
                    return
                yield json.loads(message)
    return read


def watch_stub(over):
    from _grpc import Reflected
    reflected = Reflected(over)
    check("penstock.v1.Events" in reflected.services(), "%s", reflected.services())
    reflected._add(reflected.ask({"file_containing_symbol": "penstock.v1.Events"})[0])
    pool, factory = reflected.pool, need("google.protobuf.message_factory")
    request, event = (factory.GetMessageClass(pool.FindMessageTypeByName("penstock.v1." + name)) for name in (
        "WatchRequest", "Event"))
    call = over.unary_stream("/penstock.v1.Events/Watch", request_serializer=request.SerializeToString,
                             response_deserializer=event.FromString)
    return request, call


def by_grpc(server, **asked):
    def read():
        grpc, to_dict = need("grpc"), need("google.protobuf.json_format").MessageToDict
        with grpc.insecure_channel(server.address) as over:
            request, call = watch_stub(over)
            try:
                for event in call(request(**asked), timeout=60):
                    found = to_dict(event, preserving_proto_field_name=True)
                    yield {name: int(value) if name in ("sequence", "time_ms", "queued", "queue_max", "lost") else value
                           for name, value in found.items()}
            except grpc.RpcError as error:
                equal(error.code().name, "UNAVAILABLE")
    return read


WAYS = {"sse": by_sse, "lines_http2": by_lines, "websocket": by_websocket, "grpc": by_grpc}


def crowd(server, count):
    """Calls the slow model `count` times at once; how many were refused."""
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(server.post("/v2/models/slow/infer", INFER)[0]))
               for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(status != 200 for status in statuses)


# --- what is told ------------------------------------------------------------------------------------------

@cases(WAYS.items())
def what_is_now_then_each_change(way):
    with serving("--queue-max", "5") as server:
        follower = Follower(way(server))
        follower.wait("SERVER_READY")
        now = [(event["kind"], event.get("model")) for event in follower.events]
        equal(sorted(now[:3]), [("READY", "fine"), ("READY", "slow"), ("UNAVAILABLE", "broken")])
        equal(now[3:], [("SERVER_READY", None)])
        broken = next(event for event in follower.events if event.get("model") == "broken")
        check("it is not a good day" in broken["reason"], "%s", broken)
        check(all(event["is_snapshot"] and event["node"] == "n1" and abs(event["time_ms"] / 1000 - time.time()) < 60
                  for event in follower.events), "%s", follower.events)
        check(all(("sequence" in event) == (event is follower.events[3]) for event in follower.events), "%s", follower.events)
        equal(crowd(server, 6), 0, "refused")
        follower.wait("QUEUE_NORMAL")
        high, normal = follower.events[4:6]
        equal((high["kind"], high["model"], high["version"], high["queue_max"]), ("QUEUE_HIGH", "slow", "1", 5))
        check(high["queued"] in (4, 5) and normal["queued"] <= 2, "%s %s", high, normal)
        equal([event["sequence"] for event in follower.events[3:]],
              list(range(follower.events[3]["sequence"], follower.events[3]["sequence"] + len(follower.events) - 3)))
        equal(server.stop(), 0)
        follower.ended()
        equal(follower.kinds()[-1], "SERVER_DRAINING")
        again(server)


@case
def one_model_alone():
    with serving("--queue-max", "5") as server:
        slow, fine = Follower(by_sse(server, "/models/slow/events")), Follower(by_grpc(server, model="fine"))
        crowd(server, 6)
        slow.wait("QUEUE_NORMAL")
        time.sleep(0.1)
        equal(slow.kinds(), ["READY", "SERVER_READY", "QUEUE_HIGH", "QUEUE_NORMAL"])
        equal(fine.kinds(), ["READY", "SERVER_READY"])
        status, body = server.get("/models/nobody/events")
        equal((status, body["error"]["code"]), (404, "NOT_FOUND"))
        check("fine" in body["error"]["message"], "%s", body)
        with raises(Refused) as caught:
            Socket(server, "/models/nobody/events")
        equal(caught.error.status, 404)


@case
def what_loads_is_told_while_it_loads():
    """Many models on one thread: its readers are there before they are."""
    many = {"m%03d/config.pbtxt" % i: echo("m%03d" % i, "FP32") for i in range(300)}
    many.update({"m%03d/1/.keep" % i: b"" for i in range(300)})
    with models(many) as folder, Server(folder, options=["--node-name", "n1", "--load-threads", "1"]) as server:
        follower = Follower(by_sse(server))
        follower.wait("SERVER_READY")
        state, seen = {}, 0
        for event in follower.events:
            if "model" in event:
                check(not (state.get(event["model"]) == "READY" and event["kind"] == "LOADING"), "went back: %s", event)
                state[event["model"]] = event["kind"]
            seen += not event.get("is_snapshot")
        equal(sorted(state), ["m%03d" % i for i in range(300)])
        equal(set(state.values()), {"READY"})


# --- coming back --------------------------------------------------------------------------------------------

@case
def a_reader_comes_back_where_it_was():
    with serving("--queue-max", "5") as server:
        first = Follower(by_sse(server))
        first.wait("SERVER_READY")
        newest = first.events[-1]["sequence"]
        crowd(server, 6)
        first.wait("QUEUE_NORMAL")
        for way in (by_sse(server, headers={"last-event-id": "n1.%d" % newest}), by_sse(server, "/events?after=%d" % newest),
                    by_sse(server, "/events?after=n1.%d" % newest), by_websocket(server, "/events?after=%d" % newest),
                    by_grpc(server, after=newest)):
            back = Follower(way)
            back.wait("QUEUE_NORMAL")
            equal(back.kinds(), ["QUEUE_HIGH", "QUEUE_NORMAL"])
        other = Follower(by_sse(server, headers={"last-event-id": "n2.%d" % newest}))
        other.wait("SERVER_READY")
        equal(other.kinds()[0], "LOST")
        check("is of server 'n2' and this is 'n1'" in other.events[0]["reason"], "%s", other.events[0])
        time.sleep(1.1)     # sequences say the second of the start
        equal(server.stop(), 0)
        again(server)
        earlier = Follower(by_sse(server, headers={"last-event-id": "n1.%d" % newest}))
        earlier.wait("SERVER_READY")
        equal(earlier.kinds()[0], "LOST")
        check("earlier run" in earlier.events[0]["reason"], "%s", earlier.events[0])
        check(earlier.events[-1]["sequence"] > newest, "%s", earlier.events[-1])
        grpc = need("grpc")
        with grpc.insecure_channel(server.address) as over:
            request, call = watch_stub(over)
            with raises(grpc.RpcError) as caught:
                list(call(request(after=newest), timeout=20))
            equal(caught.error.code().name, "OUT_OF_RANGE")
        for bad in ("x", "n1.", "1.2.3.x"):
            status, body = server.get("/events", {"last-event-id": bad})
            equal((status, body["error"]["code"]), (400, "INVALID_ARGUMENT"), bad)


# --- bounds ---------------------------------------------------------------------------------------------------

@case
def a_reader_that_does_not_read_costs_no_other():
    with serving("--queue-max", "5", "--events-kept", "4") as server:
        with socket.create_connection((server.host, server.port), 20) as still:
            still.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            still.sendall(b"GET /events HTTP/1.1\r\nhost: %s\r\n\r\n" % server.address.encode())
            follower = Follower(by_sse(server))
            for i in range(3):
                crowd(server, 6)
                follower.wait("QUEUE_NORMAL", i + 1)
            check("LOST" not in follower.kinds(), "%s", follower.kinds())
            equal(follower.kinds().count("QUEUE_HIGH"), 3)


@case
def watchers_are_bounded_and_counted():
    with serving("--watchers-max", "2") as server:
        held = [Follower(by_sse(server)), Follower(by_websocket(server))]
        equal(metric(server, "penstock_event_watchers"), 2)
        status, body = server.get("/events")
        equal((status, body["error"]["code"]), (429, "RESOURCE_EXHAUSTED"))
        check("--watchers-max" in body["error"]["message"], "%s", body)
        with raises(Refused) as caught:
            Socket(server, "/events")
        equal(caught.error.status, 429)
        equal([follower.error for follower in held], [None, None])


@case
def a_websocket_of_events_takes_no_messages():
    with serving() as server:
        with Socket(server, "/events") as ws:
            kinds = []
            while "SERVER_READY" not in kinds:
                kinds.append(json.loads(ws.recv())["kind"])
            ws.send("hello")
            code, reason = ws.recv()
            equal(code, 1008)
            check("takes no messages" in reason, reason)
        until(lambda: metric(server, "penstock_event_watchers") == 0, "it is gone")


@case
def a_head_and_a_post():
    with serving() as server:
        status, headers, body = server.call("HEAD", "/events")
        equal((status, headers["content-type"], headers["x-node"], body),
              (200, "text/event-stream; charset=utf-8", "n1", b""))
        equal(server.call("POST", "/events")[0], 405)
        equal(metric(server, "penstock_event_watchers"), 0)


@case
def names_of_nodes():
    with models(LAYOUT) as folder:
        for name in ("a b", "x" * 65, "é"):
            server = Server(folder, options=["--node-name", name])
            with raises(Exception, "is no name of a node"):
                again(server)


if __name__ == "__main__":
    main()
