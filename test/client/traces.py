"""Traces: spans as a collector reads them, from every transport; who samples; a collector that hangs, refuses, or is away."""
import collections
import contextlib
import gzip
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
import time

from harness import BINARY, ROOT, case, cases, check, equal, main, need
from _seeing import INFER, STREAM, TRANSPORTS
from _streams import serving
from _tls import folder as tls_folder

sys.path.append(os.path.join(ROOT, "test", "wire"))
from _wire import metric, until  # noqa: E402

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = "00-%s-%s-01" % (TRACE, PARENT)
EXCHANGES, BATCHES = "penstock_otlp_exchanges_total", "penstock_otlp_batches_total"
Span = collections.namedtuple("Span", "name kind trace id parent state attributes begin end status flags")


class Collector:
    """Takes OTLP over HTTP and reads it by opentelemetry-proto. `answers`: (status, headers, body) of the next requests, or
    "hang"; then 200. `.spans`, `.resources`, `.requests` (path and headers of each)."""

    def __init__(self, answers=(), port=0):
        self.service = need("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
        self.spans, self.resources, self.requests, self.answers = [], [], [], list(answers)
        self.release = threading.Event()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                answer = collector.answers.pop(0) if collector.answers else (200, {}, b"")
                if answer == "hang":
                    collector.release.wait(60)
                    return
                if answer[0] == 200:
                    collector.read(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
                self.send_response(answer[0])
                for name, value in answer[1].items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer[2])))
                self.end_headers()
                self.wfile.write(answer[2])

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = "http://127.0.0.1:%d" % self.port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

    def read(self, body):
        message = self.service.ExportTraceServiceRequest()
        message.ParseFromString(body)
        for resource in message.resource_spans:
            self.resources.append({pair.key: value_of(pair.value) for pair in resource.resource.attributes})
            for scope in resource.scope_spans:
                equal(scope.scope.name, "penstock")
                for span in scope.spans:
                    equal(len(need("google.protobuf.unknown_fields").UnknownFieldSet(span)), 0, "fields that nobody knows")
                    self.spans.append(Span(span.name, span.kind, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
                                           span.trace_state, {pair.key: value_of(pair.value) for pair in span.attributes},
                                           span.start_time_unix_nano, span.end_time_unix_nano, span.status.code, span.flags))

    def servers(self):
        return [span for span in self.spans if span.kind == 2]

    def below(self, parent):
        return [span for span in self.spans if span.parent == parent.id]


def value_of(value):
    return getattr(value, value.WhichOneof("value"))


@contextlib.contextmanager
def tracing(*options, answers=(), env=None, **more):
    with Collector(answers) as collector:
        with serving(options=["--otlp", collector.url, *options], **more) as server:
            yield server, collector


def wait_spans(collector, count, seconds=10):
    until(lambda: len(collector.servers()) >= count, "%d spans" % count, seconds)
    return collector.servers()


# --- what a span says ------------------------------------------------------------------------------------------

@cases({name: (name,) for name in TRANSPORTS})
def each_transport_has_a_span(name):
    ask, protocol, method, route, status, code, model, responses = TRANSPORTS[name]
    with tracing() as (server, collector):
        ask(server, {"traceparent": TRACEPARENT, "tracestate": "rojo=1,congo=t61rcWkgMzE"})
        span = wait_spans(collector, 1)[0]
        is_rpc = "grpc" in name
        equal((span.trace, span.parent, span.state, span.flags), (TRACE, PARENT, "rojo=1,congo=t61rcWkgMzE", 0x301))
        equal(span.name, route[1:] if is_rpc else "%s %s" % (method, route))
        found = span.attributes
        if is_rpc:
            equal((found["rpc.system"], "/%s/%s" % (found["rpc.service"], found["rpc.method"]), found["rpc.grpc.status_code"]),
                  ("grpc", route, 0))
        else:
            equal((found["http.request.method"], found["http.route"]), (method, route))
        equal((found["http.response.status_code"], found["network.protocol.version"], found["penstock.model"],
               found["client.address"], found["url.scheme"]), (status, protocol[5:], model or "one", "127.0.0.1", "http"))
        equal(found.get("penstock.responses", 1), responses)
        check(0 < span.end - span.begin < 60e9 and abs(span.begin / 1e9 - time.time()) < 60, "%s", span)
        equal(span.status, 0)
        children = collector.below(span)
        if name == "grpc_stream":
            equal([child.name for child in children], ["inference"] * 3)
            children = [stage for child in children for stage in collector.below(child)]
            equal([child.name for child in children].count("run"), 3)
        else:
            check("run" in [child.name for child in children], "%s", [child.name for child in children])
        for child in children:
            check(child.trace == TRACE and child.kind == 1 and span.begin <= child.begin <= child.end, "%s in %s", child, span)
        equal(len({each.id for each in collector.spans}), len(collector.spans), "ids")


@case
def who_begins_and_who_goes_on():
    with tracing("--trace-response") as (server, collector):
        answers = [server.call("GET", "/healthz")[1]["traceresponse"] for _ in range(50)]
        spans = wait_spans(collector, 50)
        equal({span.parent for span in spans}, {""})
        equal({"00-%s-%s-01" % (span.trace, span.id) for span in spans}, set(answers))
        equal(len({span.trace for span in spans}), 50)
        equal({span.flags for span in spans}, {0x101})
        resource = collector.resources[0]
        equal((resource["service.name"], resource["service.version"]),
              ("penstock", subprocess.run([BINARY, "version"], capture_output=True, text=True).stdout.split()[1]))
        check(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
                           resource["service.instance.id"]), "%s", resource)


@case
def who_says_no_is_not_sampled_and_goes_on():
    with tracing("--trace-response") as (server, collector):
        sent = TRACEPARENT[:-1] + "0"
        equal(server.call("GET", "/v2", headers={"traceparent": sent})[1]["traceresponse"], sent, "passed on as it came")
        server.call("GET", "/healthz", headers={"traceparent": TRACEPARENT})
        wait_spans(collector, 1)
        equal([span.attributes["url.path"] for span in collector.servers()], ["/healthz"])


@case
def what_is_malformed_is_as_not_there():
    bad = ["", "x", TRACEPARENT.upper(), TRACEPARENT + "-x", "ff" + TRACEPARENT[2:], "00-" + "0" * 32 + TRACEPARENT[35:],
           TRACEPARENT.replace(PARENT, "0" * 16)]
    with tracing() as (server, collector):
        for value in bad:
            equal(server.call("GET", "/healthz", headers={"traceparent": value, "tracestate": "a=b"})[0], 200, value)
        with socket.create_connection((server.host, server.port)) as wire:
            wire.sendall(("GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" +
                          ("traceparent: %s\r\n" % TRACEPARENT) * 2 + "\r\n").encode())
            check(b" 200 " in wire.recv(4096), "two of them")
        for span in wait_spans(collector, len(bad) + 1):
            check(span.trace != TRACE and span.parent == "" and span.state == "", "%s", span)


@cases({"good": ("a=1,b=2", "a=1,b=2"), "spaces": (" a=1 , b=2 ", "a=1 , b=2"), "bad": ("a=1,B=2", ""), "long": ("a=" + "x" * 300, "")})
def a_state_goes_on_if_it_is_one(sent, kept):
    with tracing() as (server, collector):
        server.call("GET", "/healthz", headers={"traceparent": TRACEPARENT, "tracestate": sent})
        span = wait_spans(collector, 1)[0]
        equal((span.trace, span.state), (TRACE, kept))


@case
def errors_are_the_servers_or_the_callers():
    grpc = need("grpc")
    with tracing() as (server, collector):
        server.call("GET", "/nothing")
        server.call("POST", "/v2/models/none/infer", b"{}")
        with grpc.insecure_channel(server.address) as channel:
            for path in (INFER, "/inference.GRPCInferenceService/None", "/none.None/None"):
                with contextlib.suppress(grpc.RpcError):
                    channel.unary_unary(path)(b"", timeout=30)
        spans = {span.name: span for span in wait_spans(collector, 5)}
        equal((spans["GET"].status, spans["GET"].attributes["http.response.status_code"]), (0, 404))
        equal(spans["POST /v2/models/{model}/infer"].status, 0)
        equal((spans[INFER[1:]].status, spans[INFER[1:]].attributes["rpc.grpc.status_code"]), (0, 5))
        unknown = [span for span in collector.servers() if span.name == "grpc"]
        equal({(span.attributes["rpc.grpc.status_code"], span.status, span.attributes["error.type"]) for span in unknown},
              {(12, 2, "UNIMPLEMENTED")}, "no names of a peer's own")


@case
def odd_bytes_do_not_cost_a_batch():
    with tracing() as (server, collector):
        with socket.create_connection((server.host, server.port)) as wire:
            wire.sendall(b"GET /a\xff\xe2\x80 HTTP/1.1\r\nhost: localhost\r\nuser-agent: \xe4\xff\r\nconnection: close\r\n\r\n")
            wire.recv(4096)
            with contextlib.suppress(OSError):
                while wire.recv(4096):
                    pass
        server.call("GET", "/healthz", headers={"user-agent": "x\u00e4".encode().decode("latin-1")})
        until(lambda: any(span.name == "GET /healthz" for span in collector.spans), "the next one")


@case
def a_stream_of_many_has_a_bounded_number():
    grpc = need("grpc")
    with tracing() as (server, collector):
        from _seeing import infer_message
        with grpc.insecure_channel(server.address) as channel:
            equal(len(list(channel.stream_stream(STREAM)(iter([infer_message()] * 500), timeout=60))), 500)
        span = wait_spans(collector, 1)[0]
        equal(len(collector.below(span)), 32)
        equal((span.attributes["penstock.requests"], span.attributes["penstock.inferences.dropped"]), (500, 468))


# --- who is sampled, and where it goes -------------------------------------------------------------------------

@case
def a_part_is_sampled():
    with tracing("--trace-sample", "0.1") as (server, collector):
        import http.client
        connection = http.client.HTTPConnection(server.host, server.port)
        for _ in range(3000):
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        connection.close()
        server.call("GET", "/v2", headers={"traceparent": TRACEPARENT})
        until(lambda: any(span.trace == TRACE for span in collector.spans), "a caller's own decision stands")
        count = len(collector.servers()) - 1
        check(200 < count < 420, "%d of 3000, for 300", count)


@case
def the_environment_says_where():
    with Collector() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url + "/base/", "OTEL_EXPORTER_OTLP_HEADERS": "x-key=s3%20cret, x-b = 2",
               "OTEL_SERVICE_NAME": "mine", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test,service.name=other",
               "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
        with environment(**env), serving() as server:
            server.call("GET", "/healthz")
            wait_spans(collector, 1)
            path, headers = collector.requests[0]
            equal((path, headers["x-key"], headers["x-b"], headers["content-encoding"], headers["content-type"]),
                  ("/base/v1/traces", "s3 cret", "2", "gzip", "application/x-protobuf"))
            resource = collector.resources[0]
            equal((resource["service.name"], resource["deployment.environment"]), ("mine", "test"))
            check("s3" not in server.log, "a secret in the log")
        for name, value, path in (("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url + "/exactly", "/exactly"),
                                  ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url, "/")):
            del collector.requests[:]
            with environment(**{name: value, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}), serving() as server:
                server.call("GET", "/healthz")
                until(lambda: collector.requests, "a batch")
            equal(collector.requests[0][0], path)
        for off in ({"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}):
            del collector.requests[:]
            with environment(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **off), serving() as server:
                server.call("GET", "/healthz")
            equal(collector.requests, [], str(off))
        with environment(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_TRACES_SAMPLER="parentbased_always_off"), \
                serving() as server:
            server.call("GET", "/healthz")
        equal(collector.requests, [], "always_off")


@contextlib.contextmanager
def environment(**values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@cases({"url": ("--otlp", "ftp://x", "x"), "header": ("--otlp-header", "novalue", "NAME=VALUE"),
        "control": ("--otlp-header", "a=s3cret\x01", "control")})
def what_is_wrong_is_said_at_once(option, value, words):
    result = subprocess.run([BINARY, "serve", "/tmp", "--listen", "127.0.0.1:0", *(("--otlp", "http://127.0.0.1:9")
                                                                                 if option != "--otlp" else ()), option, value],
                            capture_output=True, text=True, timeout=30)
    check(result.returncode in (1, 2) and option in result.stderr and words in result.stderr, "%s", result.stderr)
    check("s3cret" not in result.stderr, "a secret")


@cases({"rest": ((),), "grpc": (("--grpc",),)})
def penstock_call_sends_a_trace(options):
    with tracing() as (server, collector):
        def call(**env):
            return subprocess.run([BINARY, "call", "one", "--server", server.url, "--x", "2.5", "--trace", *options],
                                  capture_output=True, text=True, timeout=60, env=dict(os.environ, **env))
        result = call()
        equal(result.returncode, 0, result.stderr)
        trace = re.search(r"^trace ([0-9a-f]{32})$", result.stderr, re.M).group(1)
        until(lambda: any(span.attributes.get("penstock.requests", 1) and span.trace == trace for span in collector.spans), "it")
        equal(call(TRACEPARENT=TRACEPARENT).stderr.splitlines()[0], "trace " + TRACE)
        until(lambda: any(span.trace == TRACE for span in collector.spans), "the caller's")


# --- collectors ------------------------------------------------------------------------------------------------

@case
def a_collector_that_is_busy_is_asked_again():
    with tracing(answers=[(503, {"retry-after": "1"}, b""), (429, {}, b"")]) as (server, collector):
        server.call("GET", "/healthz")
        begun = time.monotonic()
        wait_spans(collector, 1)
        check(time.monotonic() - begun > 1.2, "it was asked for a second of patience, and for some more")
        equal(len(collector.requests), 3)
        equal(metric(server, BATCHES, result="retried"), 2)
        until(lambda: metric(server, EXCHANGES, result="exported") == 1, "counted")
        equal(metric(server, EXCHANGES, result="failed"), 0)
        until(lambda: "spans are sent to %s again" % collector.url in server.log, "told")
        equal(server.log.count("spans cannot be sent"), 1, "told once")


@case
def what_a_collector_refuses_is_not_sent_again():
    partial = b"\x0a\x07\x08\x01\x12\x03why"
    with tracing(answers=[(400, {}, b"no"), (200, {}, partial)]) as (server, collector):
        server.call("GET", "/healthz")
        until(lambda: metric(server, EXCHANGES, result="failed"), "given up")
        server.call("GET", "/v2")
        until(lambda: metric(server, "penstock_otlp_spans_rejected_total") == 1, "in part")
        check("rejected 1 spans: why" in server.log and "answers 400" in server.log, "%s", server.log)
        equal({span.attributes["url.path"] for span in collector.servers()} - {"/metrics"}, {"/v2"})


@case
def a_collector_that_is_away_and_comes():
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with serving(options=["--otlp", "http://127.0.0.1:%d" % port]) as server:
        equal(server.call("GET", "/v2")[0], 200)
        until(lambda: "spans cannot be sent" in server.log, "told")
        with Collector(port=port) as collector:
            until(lambda: any(span.attributes["url.path"] == "/v2" for span in collector.spans), "sent when it came", 30)


@case
def a_collector_that_hangs_costs_spans_only():
    with tracing("--otlp-buffer", "64KiB", "--otlp-timeout", "60s", "--loops", "1", answers=["hang"]) as (server, collector):
        import http.client
        connection = http.client.HTTPConnection(server.host, server.port)
        slowest = 0
        for number in range(6000):
            begun = time.monotonic()
            connection.request("GET", "/healthz")
            equal(connection.getresponse().read() is not None, True)
            slowest = max(slowest, time.monotonic() - begun)
        connection.close()
        until(lambda: metric(server, EXCHANGES, result="dropped"), "dropped, and counted")
        check(slowest < 2, "an answer took %g s", slowest)
        begun = time.monotonic()
        equal(server.stop(), 0)
        check(time.monotonic() - begun < 8, "the end took %g s", time.monotonic() - begun)
        check("were not sent" in server.log, "%s", server.log)
        server.process = server.start().process     # so that the block ends a server


@case
def the_end_sends_what_there_is():
    with Collector() as collector:
        with serving(options=["--otlp", collector.url]) as server:
            for _ in range(300):
                server.call("GET", "/healthz")
        equal(len([span for span in collector.servers() if span.name == "GET /healthz"]), 300)


@case
def a_collector_by_https():
    """It gets spans where it is who it says: by --cacert or the variable, its name and its dates; else the log says why, and no span goes."""
    with tls_folder() as made:
        def tracing_to(name, *options, **env):
            with Collector() as collector:
                made.serve(collector.server, name)
                url = "https://localhost:%d" % collector.port
                with environment(**env), serving(options=["--otlp", url, *options]) as server:
                    TRANSPORTS["rest"][0](server, {"traceparent": TRACEPARENT})
                    yield server, collector
        for options, env in ((["--cacert", made("ca.pem")], {}), ([], {"OTEL_EXPORTER_OTLP_CERTIFICATE": made("ca.pem")}),
                             ([], {"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": made("ca.pem"), "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere"})):
            for server, collector in tracing_to("server", *options, **env):
                equal(wait_spans(collector, 1)[0].trace, TRACE)
                check("cannot be sent" not in server.log, "%s", server.log)
        for name, why in made.strangers().items():
            for server, collector in tracing_to(name, "--cacert", made("ca.pem")):
                server.stop()       # what is left is sent now, or given up with a reason
                check("is not accepted: " + why in server.log, "%s: %s", name, server.log[-500:])
                equal((collector.requests, collector.spans), ([], []), name)
                server.process = server.start().process     # so that the block ends a server


if __name__ == "__main__":
    main()
