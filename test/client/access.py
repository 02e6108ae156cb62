"""Who may do what, on every transport: keys, tokens of others, rules, listings, streams that go on while rules change.

Keys are made by `penstock key`; tokens are signed here by the program openssl, so nothing of the server makes what it judges.
"""
import base64
import contextlib
import hashlib
import http.server
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "wire"))
from harness import BINARY, ROOT, Server, case, cases, check, equal, main, models, need, need_program, skip
from _client import echo
from _tls import folder as tls_folder
from _ws import Refused, Socket
from _wire import Wire

STREAMS = os.path.join(ROOT, "examples", "streams", "models")
BODY = {"inputs": [{"name": "IN", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}
TYPED = {"IN": [1, 2]}
INPUT = json.dumps({"inputs": BODY["inputs"]})      # of penstock.v1's session
SECRETS = []                    # every key and token made here: none may be in what a server prints


def make_key(name, *more):
    made = json.loads(subprocess.run([BINARY, "key", name, "--json", *more], check=True, capture_output=True).stdout)
    equal(hashlib.sha256(made["key"].encode()).hexdigest(), made["sha256"])
    SECRETS.append(made["key"])
    return made["key"], made["line"]


class Site:
    """A server of the models red, blue, hidden and repeat, with a file of rules that may be written anew."""

    mode = 0o600

    def __init__(self, rules, *options, keys=(), more=""):
        self.rules, self.options, self.lines, self.more = rules, options, "".join("  %s\n" % line for line in keys), more

    def write(self, rules, keys=None, more=None):
        lines = self.lines if keys is None else "".join("  %s\n" % line for line in keys)
        text = ("keys:\n" + lines if lines else "") + (self.more if more is None else more) + "rules:\n" + rules
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(self.path + ".new", self.mode)
        os.rename(self.path + ".new", self.path)

    def rewrite(self, rules, **changes):
        """The same, and the server has taken it."""
        seen = self.server.log.count("taken anew")
        self.write(rules, **changes)
        until = time.monotonic() + 20
        while self.server.log.count("taken anew") == seen:
            check(time.monotonic() < until, "the new rules were not taken")
            time.sleep(0.02)

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-access-"))
        self.path = os.path.join(self.folder, "access.yaml")
        self.access_log, self.audit_log = os.path.join(self.folder, "access.log"), os.path.join(self.folder, "audit.log")
        self.write(self.rules)
        layout = {name + "/config.pbtxt": echo(name, "FP32") for name in ("red", "blue", "hidden")}
        layout.update({name + "/1/.keep": b"" for name in ("red", "blue", "hidden")})
        layout["repeat"] = os.path.join(STREAMS, "repeat")
        where = self.stack.enter_context(models(layout))
        self.server = self.stack.enter_context(Server(where, options=[
            "--access", self.path, "--access-log", self.access_log, "--audit-log", self.audit_log, "--log-level", "debug",
            *self.options]))
        return self

    def __exit__(self, kind, error, trace):
        self.stack.__exit__(kind, error, trace) if kind is not None else self.finish()

    def finish(self):
        status, _, page = self.server.call("GET", "/metrics")       # nobody's, or everybody's: whatever it says
        self.server.stop()
        said = self.server.log + page.decode()
        for path in (self.access_log, self.audit_log):
            with open(path, encoding="utf-8") as file:
                said += file.read()
        for secret in SECRETS:
            check(secret not in said and secret[-12:] not in said, "a secret stands in what the server printed")
        self.server.__exit__ = lambda *_: None
        self.stack.pop_all()

    def audited(self, **wanted):
        """There is a line with those members, soon."""
        def is_there():
            with open(self.audit_log, encoding="utf-8") as file:
                lines = [json.loads(line) for line in file if line.endswith("\n")]
            return any(all(line.get(name) == value for name, value in wanted.items()) for line in lines)
        until(is_there, "the audit log lacks %s" % wanted)


def bearer(key):
    return {"authorization": "Bearer " + key}


# --- every transport asks the same ------------------------------------------------------------------------

RULES = ("  - {who: alice, may: [read, infer], models: [red, repeat]}\n"
         "  - {who: boss, may: [read, infer, admin]}\n")
ALICES = RULES.splitlines(True)[0]


def names_of(document):
    return sorted(set(re.findall(r"\b(red|blue|hidden|repeat)\b", json.dumps(document))))


@case
def rest_dialects_and_listings():
    alice, line = make_key("alice")
    boss, boss_line = make_key("boss")
    with Site(RULES, keys=(line, boss_line)) as site:
        s = site.server
        for headers, who in ((None, None), (bearer(alice), "alice"), ({"x-api-key": boss}, "boss")):
            for model in ("red", "hidden", "nosuch"):
                status = {None: 401, "alice": 200 if model == "red" else 403, "boss": 404 if model == "nosuch" else 200}[who]
                for path, body in (("/v2/models/%s/infer", BODY), ("/models/%s:predict", TYPED)):
                    found, reply = s.post(path % model, body, headers)
                    equal(found, status, "%s %s" % (who, path % model))
                    check(status != 403 or "nosuch" not in json.dumps(reply).replace("'nosuch'", ""), "%s", reply)
                for path in ("/v2/models/%s", "/v2/models/%s/config", "/v2/models/%s/stats", "/models/%s",
                             "/models/%s/explain", "/models/%s/contract.proto", "/models/%s/events?after=0", "/v2/models/%s/ready",
                             "/v2/models/%s/versions/1", "/models/%s/versions/1"):
                    if "events" in path and status == 200:
                        continue                            # a stream
                    found = s.call("GET", path % model, headers=headers)[0]
                    wanted = status if not (status == 404 and path.endswith("/ready")) else 400
                    equal(found, wanted, "%s GET %s" % (who, path % model))
            if who is None:
                for path in ("/", "/models", "/v2", "/v2/models", "/v2/models/stats", "/metrics", "/events"):
                    status, found, body = s.call("GET", path)
                    equal(status, 401, path)
                    equal(found["www-authenticate"], 'Bearer realm="penstock"', path)
                equal(s.post("/v2/repository/index", {})[0], 401)
                for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
                    status, body = s.get(path)
                    equal((status, names_of(repr(body))), (200, []), path)
            else:
                wanted = ["red", "repeat"] if who == "alice" else ["blue", "hidden", "red", "repeat"]
                for path in ("/models", "/v2/models", "/v2/models/stats", "/"):
                    status, body = s.get(path, headers)
                    text = body.decode() if isinstance(body, bytes) else json.dumps(body)
                    found = sorted(set(re.findall(r"\b(red|blue|hidden|repeat)\b", text)))
                    equal((status, found), (200, wanted), "%s %s" % (who, path))
                equal(names_of(s.post("/v2/repository/index", {}, headers)[1]), wanted)
        status, found, body = s.call("POST", "/v2/repository/models/red/load", b"{}", bearer(alice))
        equal(status, 403)
        check(s.call("POST", "/v2/repository/models/red/load", b"{}", bearer(boss))[0] not in (401, 403), "boss may ask")
        equal(s.post("/v2/logging", {"log_verbose_level": 1}, bearer(alice))[0], 403)
        equal(s.post("/v2/logging", {"log_verbose_level": 1}, bearer(boss))[0], 200)
        site.audited(audit="admin", caller="boss", path="/v2/logging", status=200)
        site.audited(audit="refused", caller="alice", path="/v2/models/hidden/infer", status=403)
        site.audited(audit="refused", path="/models", status=401)


@case
def grpc_asks_the_same():
    grpc = need("grpc")
    from _grpc import Reflected, channel, status as status_of
    alice, line = make_key("alice")
    boss, boss_line = make_key("boss")
    with Site(RULES, keys=(line, boss_line)) as site, channel(site.server) as over:
        def code(path, message=b"", key=None, **metadata):
            call = over.unary_unary(path, request_serializer=None, response_deserializer=None)
            pairs = [("authorization", "Bearer " + key)] if key else []
            try:
                call(message, timeout=20, metadata=pairs + list(metadata.items()))
                return "OK"
            except grpc.RpcError as error:
                return status_of(error)

        def field(number, data):
            return bytes([number << 3 | 2, len(data)]) + data
        tensor = field(1, b"IN") + field(2, b"FP32") + b"\x1a\x01\x02" + field(5, b"\x32\x08" + struct.pack("<2f", 1, 2))
        for model, wanted in (("red", "OK"), ("hidden", "PERMISSION_DENIED"), ("nosuch", "PERMISSION_DENIED")):
            infer = field(1, model.encode()) + field(5, tensor)
            equal(code("/inference.GRPCInferenceService/ModelInfer", infer), "UNAUTHENTICATED", model)
            equal(code("/inference.GRPCInferenceService/ModelInfer", infer, alice), wanted, model)
            for method in ("ModelMetadata", "ModelConfig", "ModelStatistics", "ModelReady"):
                path = "/inference.GRPCInferenceService/" + method
                equal(code(path, field(1, model.encode())), "UNAUTHENTICATED", method)
                equal(code(path, field(1, model.encode()), alice), wanted, method)
        equal(code("/inference.GRPCInferenceService/ServerLive"), "OK")
        equal(code("/inference.GRPCInferenceService/ServerLive", key="an old one"), "OK", "a probe with an old key")
        equal(code("/inference.GRPCInferenceService/ServerMetadata"), "UNAUTHENTICATED")
        equal(code("/inference.GRPCInferenceService/ServerMetadata", key="an old one"), "UNAUTHENTICATED")
        equal(code("/inference.GRPCInferenceService/RepositoryModelLoad", field(2, b"red"), alice), "PERMISSION_DENIED")
        equal(code("/inference.GRPCInferenceService/RepositoryModelLoad", field(2, b"red"), boss), "UNIMPLEMENTED")
        equal(code("/penstock.models.Red/Predict", b"", alice), "INVALID_ARGUMENT")         # let in: it lacks its input
        equal(code("/penstock.models.Hidden/Predict", b"", alice), "PERMISSION_DENIED")
        equal(code("/penstock.models.Hidden/Predict"), "UNAUTHENTICATED")
        equal(code("/penstock.models.Nosuch/Predict", b"", alice), "PERMISSION_DENIED")
        equal(code("/penstock.models.Nosuch/Predict", b"", boss), "UNIMPLEMENTED")
        equal(code("/grpc.health.v1.Health/Check"), "OK")
        equal(code("/grpc.health.v1.Health/Check", field(1, b"red")), "NOT_FOUND", "strangers know of no model")
        equal(code("/grpc.health.v1.Health/Check", field(1, b"red"), alice), "OK")
        equal(code("/grpc.health.v1.Health/Check", field(1, b"hidden"), alice), "NOT_FOUND")
        equal(code("/inference.GRPCInferenceService/ServerMetadata", key=None, **{"x-api-key": alice}), "OK")
        # Reflection lists what its caller may read.
        intercepted = grpc.intercept_channel(over, AddMetadata(grpc, bearer(alice)))
        found = Reflected(intercepted).services()
        check("penstock.models.Red" in found and "penstock.models.Hidden" not in found, "%s", found)


def AddMetadata(grpc, headers):
    class Add(grpc.StreamStreamClientInterceptor):
        def intercept_stream_stream(self, continuation, details, requests):
            details = details._replace(metadata=list(details.metadata or []) + list(headers.items()))
            return continuation(details, requests)
    return Add()


@case
def grpc_web_and_websocket():
    alice, line = make_key("alice")
    with Site(ALICES, keys=(line,)) as site:
        s = site.server
        for headers, code in ((None, b"16"), (bearer(alice), b"3"), ({"x-api-key": alice}, b"3")):
            sent = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", **(headers or {})}
            status, found, body = s.call("POST", "/penstock.models.Red/Predict", b"\0\0\0\0\0", sent)
            said = found.get("grpc-status", "").encode() or re.search(rb"grpc-status: ?(\d+)", body).group(1)
            equal((status, said), (200, code))
        for model, key, status in (("red", None, 401), ("red", alice, 101), ("hidden", alice, 403), ("nosuch", alice, 403)):
            headers = [("authorization", "Bearer " + key)] if key else []
            equal(handshake(s, "/models/%s/stream" % model, headers)[0], status, model)
        # Pages cannot set headers: the key is one more subprotocol, which is never chosen and never shown.
        protocol = "sec-websocket-protocol"
        status, head = handshake(s, "/models/red/stream", [(protocol, "penstock.v1.json, penstock.bearer." + alice)])
        equal(status, 101)
        check(alice not in head and "penstock.v1.json" in head, "%s", head)
        equal(handshake(s, "/models/red/stream", [(protocol, "penstock.bearer." + alice)])[0], 101)
        equal(handshake(s, "/models/red/stream", [(protocol, "penstock.bearer." + alice[:-1])])[0], 401)
        equal(handshake(s, "/models/red/stream", [(protocol, "penstock.bearer.%s, penstock.bearer.%s" % (alice, alice))])[0], 401)
        status, head = handshake(s, "/models/red/stream", [(protocol, "nonsense, penstock.bearer." + alice)])
        check(status == 400 and alice not in head, "%d %s", status, head)
        # It is a credential of WebSockets only.
        equal(s.call("GET", "/models/red", headers={protocol: "penstock.bearer." + alice})[0], 401)
        equal(s.call("GET", "/models/red?key=%s&access_token=%s" % ("x", "y"))[0], 401)


def handshake(server, path, headers):
    """(status, all that was answered)"""
    try:
        with Socket(server, path, headers) as found:
            return 101, repr(found.__dict__) + "penstock.v1.json"
    except Refused as refused:
        return refused.status, repr(refused.body)


# --- what does not get around rules -------------------------------------------------------------------------

@case
def headers_that_are_not_credentials():
    alice, line = make_key("alice")
    rows = [("authorization", alice), ("authorization", "Basic " + base64.b64encode(alice.encode()).decode()),
            ("authorization", "Bearer"), ("authorization", "Bearer " + alice + " x"), ("authorization", "Token " + alice),
            ("x-api-key", "Bearer " + alice), ("x-api-key", alice + "," + alice), ("x-api-key", ""), ("api-key", alice),
            ("cookie", "key=" + alice), ("proxy-authorization", "Bearer " + alice), ("x-forwarded-user", "alice"),
            ("authorization", "Bearer " + alice.upper()), ("authorization", "Bearer " + alice[:-1]),
            ("authorization", "Bearer \t" + alice + "\x00") if False else ("authorization", "Bearer a.b.c")]
    with Site(ALICES, keys=(line,)) as site:
        s = site.server
        for name, value in rows:
            status, found, body = s.call("GET", "/models/red", headers={name: value})
            equal(status, 401, "%s: %s" % (name, value.replace(alice, "KEY")))
            check(alice.encode() not in body, "the answer repeats the key")
        # Two of them, in every pair of places; HTTP/1.1 and HTTP/2 alike.
        for headers in ([("authorization", "Bearer " + alice)] * 2, [("x-api-key", alice)] * 2,
                        [("authorization", "Bearer " + alice), ("x-api-key", alice)],
                        [("authorization", "Bearer wrong"), ("authorization", "Bearer " + alice)]):
            with Wire(s) as wire:
                wire.send("GET /models/red HTTP/1.1\r\nhost: x.localhost\r\n" + "".join("%s: %s\r\n" % pair for pair in headers) + "\r\n")
                equal(wire.reply().status, 401, str(len(headers)))
            equal(h2_get(s, "/models/red", headers), 401)
        equal(h2_get(s, "/models/red", [("authorization", "Bearer " + alice)]), 200)
        equal(h2_get(s, "/models/red", [("x-api-key", alice)]), 200)


def h2_get(server, path, headers=(), method="GET"):
    from _frames import H2
    with H2(server) as peer:
        return int(peer.answer(peer.request(path, method, more=list(headers))).status)


PATHS = ["/models/hidden", "/models/%68idden", "/models/%68%69%64%64%65%6e", "/v2/models/hidden", "/v2/models/hidden/config",
         "/v2/models/hidden/versions/1", "/models/hidden/versions/1", "//models/hidden", "/models//hidden", "/models/./hidden",
         "/models/red/../hidden", "/models/%2e/hidden", "/models/red/%2e%2e/hidden", "/models/red%2f..%2fhidden", "/MODELS/hidden",
         "/models/HIDDEN", "/models/hidden/", "/models/hidden%00", "/models/hidden%20", "/models/hidden;x", "/models/hidden?x=/models/red",
         "/models/red%2fhidden", "/models/hidden/explain", "/models/hidden/contract.proto", "/v2/models/hidden/ready",
         "/v2/models/hidden/stats", "/./models/hidden", "/v2/../models/hidden", "/v2%2fmodels%2fhidden", "/models/red:hidden",
         "/models/hidden:predict", "/models/hidden:upload", "/models/hidden%3apredict", "/v2/models/hidden/infer",
         "/v2/models/hidden/versions/1/infer", "/v2/models/hidden/generate", "/v2/models/hidden/infer_stream", "/models/hidden/stream",
         "/models/hidden/versions/1:predict", "/models/hidden/events", "/models/red/versions/../../hidden", "/models/\xe2\x80\xaehidden"]


@case
def paths_that_lead_around_rules():
    """None of them shows a stranger, or a caller of another model, anything but a refusal - by whatever method."""
    alice, line = make_key("alice")
    rules = "  - {who: alice, may: [read, infer], models: [red]}\n"
    with Site(rules, keys=(line,)) as site:
        s = site.server
        for path in PATHS:
            for method in ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "get"):
                for headers in ({}, bearer(alice)):
                    with Wire(s) as wire:
                        head = "".join("%s: %s\r\n" % pair for pair in headers.items())
                        wire.send("%s %s HTTP/1.1\r\nhost: x.localhost\r\nconnection: close\r\ncontent-length: 0\r\n%s\r\n"
                                  % (method, path, head))
                        answer = wire.rest() if hasattr(wire, "rest") else read_all(wire.socket)
                        status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
                        check(status in (400, 401, 403, 404, 405, 421, 501), "%s %s: %d %r", method, path, status, answer[:300])
                        check(b"datatype" not in answer and b"platform" not in answer, "%s %s: %r", method, path, answer[:300])
            for headers in ([], [("authorization", "Bearer " + alice)]):
                if all(ord(c) < 128 for c in path):
                    check(h2_get(s, path, headers) in (400, 401, 403, 404, 405), "HTTP/2 %s", path)
        # Names that only look alike, in bodies.
        for name in ("hidden", "red ", "Red", "red\0", "./red", "red/../hidden"):
            status = s.post("/v2/models/%s/infer" % "red", {**BODY, "model_name": name}, bearer(alice))[0]
            check(status in (200, 400), "a body names no model")


def read_all(connection):
    data = b""
    with contextlib.suppress(OSError):
        while piece := connection.recv(1 << 16):
            data += piece
    return data


OTHER_TARGETS = {           # what alice, who may only know of red, sends in the request line: and what she gets
    "http://x.localhost/models/hidden": 403, "http://x.localhost/models/red": 200, "http://a:b@x.localhost/models/red": 400,
    "http://evil.example/models/red": 400, "x.localhost:80": 400, "models/red": 400, "*": 400, "/models/red#/../hidden": 400,
    "/models\\hidden": 404, "/models/red\\..\\hidden": 403, "/models/red;/hidden": 404, "/models/hidden;v=1": 403,
    "/models/red%252f..%252fhidden": 403, "/models/%2568idden": 403, "/models/h%C0%A9dden": 400, "/models/hidden%0d%0a": 400,
    "/models/red%00": 400, "/models/hidden%3fx": 403, "/%76%32/models/hidden": 403, "/models/hidden%2Fexplain": 403, "/models/*": 403,
    "/models/r*d": 403, "/models/red/versions/%2e%2e%2f%2e%2e%2fhidden": 400, "/models//hidden/explain": 404}
NOT_SHOWN = [               # a stranger brings alice's key where nobody looks for one
    "x_api_key: KEY", "authorization-bin: KEY", "authorization : Bearer KEY", "x: y\r\n authorization: Bearer KEY", "cookie: authorization=KEY",
    "authorization: Bearer\tKEY", "authorization:\r\nauthorization: Bearer KEY", "x-forwarded-authorization: Bearer KEY",
    "upgrade: websocket\r\nsec-websocket-protocol: penstock.bearer.KEY",
    "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA"]
LEADING = ["x-original-url", "x-rewrite-url", "x-forwarded-uri", "x-original-uri", "x-forwarded-prefix", "forwarded"]


@case
def request_lines_and_headers_that_lead_around_rules():
    alice, line = make_key("alice")
    with Site("  - {who: alice, may: [read, infer], models: [red]}\n", keys=(line,)) as site:
        def ask(start, *headers, body="", closes=True):
            with Wire(site.server) as wire:
                wire.send("%s HTTP/1.1\r\nhost: x.localhost\r\n%s%s\r\n%s" % (
                    start, "connection: close\r\n" if closes else "", "".join(header + "\r\n" for header in headers), body))
                answer = wire.reply()
            check(b'"name":"hidden"' not in answer.body, "%s: %r", start, answer.body[:200])
            return answer.status
        shown = "authorization: Bearer " + alice
        for target, status in OTHER_TARGETS.items():
            equal(ask("GET " + target, shown), status, target)
        equal([ask("CONNECT " + target, shown) for target in ("x.localhost:80", "/models/red")], [501, 501])
        for header in NOT_SHOWN:
            status = ask("GET /models/red", header.replace("KEY", alice), closes="connection" not in header)
            check(status in (400, 401), "%s: %d", header, status)
        for name in ("key", "api_key", "access_token", "token", "authorization", "x-api-key"):
            for value in (alice, "Bearer%20" + alice):
                equal(ask("GET /models/red?%s=%s" % (name, value)), 401, "in the query")
        for name in LEADING:
            equal(ask("GET /healthz", name + ": /models/red"), 200)
            equal(ask("GET /models/hidden", shown, name + ": /models/red"), 403, name)
        for name in ("x-http-method-override", "x-http-method", "x-method-override"):
            equal(ask("GET /models/red:predict", shown, name + ": POST"), 405, name)
            equal(ask("OPTIONS /models/red", name + ": GET"), 204, name)
        body = json.dumps(TYPED)
        chunked = "%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(body), body, shown)
        equal(ask("POST /models/red:predict", "transfer-encoding: chunked", "trailer: authorization", body=chunked), 401, "in the trailers")
        with Wire(site.server) as wire:
            wire.send("GET /models/red HTTP/1.1\r\nhost: x.localhost\r\n%s\r\n\r\nGET /models/red HTTP/1.1\r\nhost: x.localhost\r\n\r\n" % shown)
            equal((wire.reply().status, wire.reply().status), (200, 401), "a connection has no caller, requests have")


@case
def frames_that_lead_around_rules():
    from _frames import H2
    alice, line = make_key("alice")
    shown = ("authorization", "Bearer " + alice)
    with Site("  - {who: alice, may: [read, infer], models: [red], groups: [models, v2]}\n", keys=(line,)) as site:
        s = site.server

        def ask(*fields, body=None, trailers=None):
            """The status; 0: the stream was reset."""
            with H2(s) as peer:
                stream = peer.open()
                peer.send_frame(1, 4 if body is not None else 5, stream, peer.encoder.encode(fields))
                if body is not None:
                    peer.send_frame(0, 0 if trailers else 1, stream, body)
                if trailers:
                    peer.send_frame(1, 5, stream, peer.encoder.encode(trailers))
                answer = peer.answer(stream)
                check(b'"name":"hidden"' not in answer.body, "%s: %r", fields, answer.body[:200])
                return answer.status if answer.reset is None else 0, dict(answer.headers or {}).get("grpc-status")

        def head(path, method="GET", authority=s.address):
            return [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)]
        wanted = {"shown": ([*head("/models/red"), shown], 200), "another": ([*head("/models/hidden"), shown], 403),
                  "no slash": ([*head("models/red"), shown], 0), "absolute": ([*head("http://x.localhost/models/red"), shown], 0),
                  "two paths": ([*head("/models/red")[:3], (":path", "/models/hidden"), (":authority", s.address), shown], 0),
                  "a path behind fields": ([*head("/models/red"), shown, (":path", "/models/hidden")], 0),
                  "another host": ([*head("/models/red"), shown, ("host", "evil.example")], 400),
                  "upper case": ([*head("/models/red"), ("Authorization", "Bearer " + alice)], 0),
                  "a line feed": ([*head("/models/red"), ("x", "y\r\nauthorization: Bearer " + alice)], 0),
                  "a zero": ([*head("/models/red"), ("authorization", "Bearer " + alice + "\0")], 0),
                  "hop by hop": ([*head("/models/red"), shown, ("connection", "authorization")], 0),
                  "a cookie": ([*head("/models/red"), ("cookie", "authorization=Bearer " + alice)], 401),
                  "two credentials": ([*head("/models/red"), shown, ("x-api-key", alice)], 401),
                  "a protocol of no WebSocket": ([*head("/models/red"), (":protocol", "websocket")], 0),
                  "another protocol": ([(":method", "CONNECT"), (":protocol", "x"), *head("/models/red")[1:],
                                        ("sec-websocket-protocol", "penstock.bearer." + alice)], 501),
                  "a WebSocket of nobody": ([(":method", "CONNECT"), (":protocol", "websocket"), *head("/models/red/stream")[1:],
                                             ("sec-websocket-version", "13")], 401)}
        for what, (fields, status) in wanted.items():
            equal(ask(*fields)[0], status, what)
        equal(ask(*head("/models/red:predict", "POST"), body=json.dumps(TYPED).encode(), trailers=[shown])[0], 401, "in the trailers")
        # gRPC: no spelling of a service is another's right; what rules do not open (here reflection and events) is closed.
        grpc, empty = [("te", "trailers"), ("content-type", "application/grpc")], b"\0\0\0\0\0"
        for path in ("/penstock.models.Hidden/Predict", "/penstock.models.hidden/Predict", "/penstock.models.%48idden/Predict",
                     "/penstock.models.Hidden/Predict?model=red", "/penstock.models.Hidden/predict", "/penstock.models.Hidden%00/Predict",
                     "/penstock.models.Red/../penstock.models.Hidden/Predict", "/penstock.models.Hidden/PredictSession",
                     "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/penstock.v1.Events/Watch",
                     "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/inference.GRPCInferenceService/RepositoryModelLoad"):
            equal(ask(*head(path, "POST"), *grpc, shown, body=empty), (200, "7"), path)
            equal(ask(*head(path, "POST"), *grpc, body=empty), (200, "16"), path)
        for kind in ("grpc+proto", "grpc;x", "GRPC", "grpc-web", "grpc-web-text"):
            equal(ask(*head("/penstock.models.Hidden/Predict", "POST"), ("content-type", "application/" + kind), shown, body=empty),
                  (200, "7"), kind)
        for kind in ("grpc+json", "grpcx", "connect+proto", "json"):
            equal(ask(*head("/penstock.models.Hidden/Predict", "POST"), ("content-type", "application/" + kind), shown, body=empty)[0], 415, kind)
        for method in ("GET", "PUT", "OPTIONS", "HEAD"):
            equal(ask(*head("/penstock.models.Hidden/Predict", method), *grpc, body=empty)[0], 405, method)


@case
def a_stream_that_turns_to_another_model():
    """A stream that began with a model its caller may run is asked again where it names another."""
    from _frames import H2, message
    alice, line = make_key("alice")

    def field(number, data):
        return bytes([number << 3 | 2, len(data)]) + data
    tensor = field(1, b"IN") + field(2, b"FP32") + b"\x1a\x01\x02" + field(5, b"\x32\x08" + struct.pack("<2f", 1, 2))
    with Site("  - {who: alice, may: [read, infer], models: [red]}\n", keys=(line,)) as site:
        with H2(site.server) as peer:
            both = b"".join(message(field(1, model) + field(5, tensor)) for model in (b"red", b"hidden"))
            answer = peer.answer(peer.grpc("/inference.GRPCInferenceService/ModelStreamInfer", both,
                                           [("authorization", "Bearer " + alice)]))
            check(b"have not the right 'infer' of model 'hidden'" in answer.body + repr(answer.trailers).encode(), "%s", answer)
            equal(answer.body.count(b"OUT"), 1, "one of the two ran")
        site.audited(audit="refused", path="/inference.GRPCInferenceService/ModelStreamInfer",
                     why="you have not the right 'infer' of model 'hidden' in the group 'v2'")
        for path, begin in (("/models/red/stream", {"begin": {"model": "hidden"}}), ("/models/red/stream?model=hidden", {"begin": {}})):
            with Socket(site.server, path, [("authorization", "Bearer " + alice)]) as talk:
                talk.send(json.dumps(begin))
                said = talk.recv()
                check('"model":"hidden"' not in said and ("hidden" in begin["begin"].get("model", "") or '"model":"red"' in said), "%r", said)


# --- pages ----------------------------------------------------------------------------------------------------

@case
def preflights_show_no_credentials():
    alice, line = make_key("alice")
    page = "https://app.example"
    with Site(ALICES, "--cors-origin", page, keys=(line,)) as site:
        s = site.server
        asked = {"origin": page, "access-control-request-method": "POST",
                 "access-control-request-headers": "authorization, content-type"}
        for path in ("/models/red:predict", "/v2/models/red/infer", "/penstock.models.Red/Predict"):
            status, found, _ = s.call("OPTIONS", path, headers=asked)
            equal(status, 204, path)
            equal(found["access-control-allow-origin"], page)
            check("authorization" in found["access-control-allow-headers"] and "origin" in found["vary"], "%s", found)
            check("access-control-allow-credentials" not in found, "%s", found)
        equal(s.call("OPTIONS", "/models/red:predict", headers={**asked, "origin": "https://evil.example"})[0], 403)
        # Nobody is let in by the method of preflights.
        for path in ("/penstock.models.Red/Predict", "/inference.GRPCInferenceService/ServerMetadata"):
            for kind in ("application/grpc-web+proto", "application/grpc"):
                status, found, body = s.call("OPTIONS", path, b"\0\0\0\0\0", {"content-type": kind})
                check(b"penstock" not in body and found.get("grpc-status") != "0" and found.get("grpc-status") != "3",
                      "%d %s %r", status, found, body)
        status, found, _ = s.call("POST", "/models/red:predict", json.dumps(TYPED).encode(), {"origin": page, **bearer(alice)})
        equal((status, found["access-control-allow-origin"], found["cache-control"]), (200, page, "no-store"))
        equal(found["x-content-type-options"], "nosniff")
        status, found, _ = s.call("POST", "/models/red:predict", b"{}", {"origin": page})
        equal((status, found["access-control-allow-origin"]), (401, page), "a page may read why")
        equal(s.call("POST", "/models/red:predict", b"{}", {"origin": "https://evil.example", **bearer(alice)})[0], 403)


# --- rules that change -------------------------------------------------------------------------------------------

@case
def a_stream_is_judged_by_the_newest_rules():
    alice, line = make_key("alice")
    bob = make_key("bob")[1]
    with Site(ALICES, keys=(line,)) as site:
        for model, rules, keys, words in (
                ("red", "  - {who: alice, may: [read, infer], models: [blue]}\n", None, "have not the right 'infer' of model 'red'"),
                ("blue", "  - {who: '*', may: [read, infer]}\n", (bob,), "mistyped or withdrawn")):
            with Socket(site.server, "/models/%s/stream" % model, [("authorization", "Bearer " + alice)]) as talk:
                talk.send(INPUT)
                while '"output":' not in talk.recv():
                    pass
                site.rewrite(rules, keys=keys)
                talk.send(INPUT)
                said = [talk.recv()]
                while not isinstance(said[-1], tuple):
                    said.append(talk.recv())
                check(words in repr(said) and '"output":' not in repr(said), "%r", said)
        equal(site.server.get("/models", bearer(alice))[0], 401)


@case
def a_stream_is_resumed_by_who_began_it():
    """With any key of the same name in the same tenant, judged by the rules of that moment; by nobody else, and with no key that is gone."""
    from resume import Stream
    first, first_line = make_key("alice")
    second, second_line = make_key("alice")
    elsewhere, elsewhere_line = make_key("alice", "--tenant", "other")
    bob, bob_line = make_key("bob")
    rules, more = "  - {who: [alice, bob], may: [read, infer], models: [red, repeat]}\n", "tenants:\n  other: {}\n"
    with Site(rules, keys=(first_line, second_line, elsewhere_line, bob_line), more=more) as site:
        s = site.server

        def begin():
            stream = Stream(s, "POST", "/models/repeat:predict?resume=60", {"text": "a"},
                            {"accept": "text/event-stream", **bearer(first)})
            equal(stream.status, 200)
            got = next(stream.events())
            stream.cut()
            return stream.headers["location"], got[0]

        def status(path, key, last):
            stream = Stream(s, "GET", path, None, {"last-event-id": last, **(bearer(key) if key else {})})
            stream.cut()
            return stream.status
        path, last = begin()
        equal([status(path, key, last) for key in (None, bob, elsewhere, first, second)], [401, 404, 404, 200, 200])
        for key, wanted in ((elsewhere, 404), (second, 101), (first, 101)):
            equal(handshake(s, path, [("authorization", "Bearer " + key)])[0], wanted)
        equal(s.call("DELETE", path, headers=bearer(elsewhere))[0], 404, "nobody else ends it")
        site.rewrite(rules, keys=(second_line, elsewhere_line, bob_line))
        equal([status(path, key, last) for key in (first, second)], [401, 200], "a key that was replaced")
        site.audited(audit="refused", route="/streams/{id}", status=401,
                     why="the key is not one this server knows; it may be mistyped or withdrawn")
        stream = Stream(s, "GET", path, None, {"last-event-id": last, **bearer(second)})
        equal([found for found, _, _ in stream.events()], ["%s.%d" % (path[9:], n) for n in range(2, 11)])
        site.rewrite("  - {who: alice, may: [read, infer], models: red}\n  - {who: bob, may: read}\n")
        equal([status(path, key, last) for key in (second, elsewhere)], [403, 404], "the right for its model is gone")
        site.audited(audit="refused", caller="alice", route="/streams/{id}", status=403,
                     why="you have not the right 'infer' of model 'repeat' in the group 'models'")
        equal(s.call("DELETE", path, headers=bearer(second))[0], 204, "its owner may still end it")


@case
def a_session_is_resumed_by_who_began_it():
    """Each message counts by the key of the connection that brings it: the one that began may be gone."""
    first, first_line = make_key("alice")
    second, second_line = make_key("alice")
    bob, bob_line = make_key("bob")
    rules = "  - {who: [alice, bob], may: [read, infer], models: red}\n"

    def join(path, key):
        return Socket(site.server, path, [("authorization", "Bearer " + key)])

    def answered(talk, number):
        talk.send(INPUT)
        while '"output":{"input":%d,' % number not in (said := talk.recv()):
            check(not isinstance(said, tuple), "%r", said)

    def refused(talk, number):
        talk.send(INPUT)
        while not isinstance(said := talk.recv(), tuple):
            check('"input":%d' % number not in said, "%r", said)
        return said
    with Site(rules, keys=(first_line, second_line, bob_line)) as site:
        with join("/models/red/stream", first) as talk:
            talk.send(json.dumps({"begin": {"resumeSeconds": 60}}))
            path = "/streams/" + json.loads(talk.recv())["begun"]["session"]
            answered(talk, 1)
            site.rewrite(rules, keys=(second_line, bob_line))
            check("withdrawn" in refused(talk, 2)[1], "the key is gone")
        site.audited(audit="refused", route="/models/{model}/stream",
                     why="the key is not one this server knows; it may be mistyped or withdrawn")
        for key, status in ((first, 401), (bob, 404)):
            equal(handshake(site.server, path + "?after=0", [("authorization", "Bearer " + key)])[0], status)
        with join(path + "?after=1", second) as talk:
            answered(talk, 2)
            answered(talk, 3)
            site.rewrite("  - {who: [alice, bob], may: [read, infer], models: blue}\n")
            check("have not the right 'infer' of model 'red'" in refused(talk, 4)[1], "the right is gone")
        equal(handshake(site.server, path + "?after=0", [("authorization", "Bearer " + second)])[0], 403)
        site.rewrite(rules)
        with join(path + "?after=1", second) as talk:
            answered(talk, 4)


@cases({"session": ("session",), "collect": ("collect",)})
def a_grpc_stream_is_judged_by_the_newest_rules(kind):
    """And cannot be taken up again: a key that is gone ends it, and the logs say why."""
    grpc = need("grpc")
    import queue
    from _grpc import Reflected, channel, status as status_of
    from _penstock_v1 import V1, a_input, numbers
    rules = ("  - {who: '*', may: [read, infer], models: [red]}\n  - {who: '*', may: read, groups: [server, metrics]}\n")
    (first, first_line), (second, second_line) = make_key("alice"), make_key("alice")

    def failure(call):
        try:
            list(call) if kind == "session" else call.result(timeout=30)
        except grpc.RpcError as error:
            return status_of(error), error.details()
        return "OK", ""
    with Site(rules, keys=(first_line, second_line)) as site, channel(site.server) as over:
        v1 = V1(over, Reflected(grpc.intercept_channel(over, AddMetadata(grpc, bearer(first)))))
        shown, messages = [("authorization", "Bearer " + first)], queue.Queue()

        def put(document):
            messages.put(v1.request(document, "Session" if kind == "session" else "InferCollect"))
        if kind == "session":
            code, words = failure(v1.session([{"begin": {"model": "red", "resume_seconds": 60}}], metadata=shown))
            check(code == "UNIMPLEMENTED" and "WebSocket" in words, "%s %s", code, words)
            call = v1.raw_session(iter(messages.get, None), metadata=shown)
            put({"begin": {"model": "red"}})
            put(a_input(1))
        else:
            call = v1._collect.future(iter(messages.get, None), timeout=60, metadata=shown)
            put({"model": "red", "reduce": {"kind": "EACH"}, "inputs": [numbers("IN", 1)]})
        ran = re.compile(r'nv_inference_request_success\{model="red"[^\n]* 1\n')
        until(lambda: ran.search(site.server.call("GET", "/metrics", headers=bearer(second))[2].decode()), "the first has run")
        site.rewrite(rules, keys=(second_line,))
        put(a_input(2) if kind == "session" else {"inputs": [numbers("IN", 1)]})
        code, words = failure(call)
        messages.put(None)
        check(code == "UNAUTHENTICATED" and "withdrawn" in words, "%s %s", code, words)
        site.audited(audit="refused", path="/penstock.v1.Inference/" + ("Session" if kind == "session" else "InferCollect"),
                     code="UNAUTHENTICATED", why="the key is not one this server knows; it may be mistyped or withdrawn")


@case
def admin_calls_that_are_not_built_are_audited():
    with tempfile.TemporaryDirectory() as folder, models({"m/config.pbtxt": echo("m", "FP32"), "m/1/.keep": b""}) as where:
        path = os.path.join(folder, "audit.log")
        with Server(where, options=["--audit-log", path]) as s:
            equal(s.post("/v2/repository/models/m/load", {})[0], 503)
            equal(s.post("/v2/logging", {"log_verbose_level": 0})[0], 403)

            def said():
                with open(path, encoding="utf-8") as file:
                    return [json.loads(line) for line in file]
            until(lambda: len(said()) == 2, "two lines")
            equal([(line["audit"], line["status"], "why" in line) for line in said()], [("refused", 503, True), ("refused", 403, True)])


@case
def an_expired_key_is_refused_and_named_in_the_logs():
    alice, line = make_key("alice")
    old, old_line = make_key("old")
    with Site("  - {who: [alice, old], may: read}\n", keys=(line, old_line.replace("}", ", tenant: t, expires: 2020-01-01}")),
              more="tenants: {t: {}}\n") as site:
        status, reply = site.server.get("/models/red", bearer(old))
        check(status == 401 and "expired" in json.dumps(reply) and "'old'" not in json.dumps(reply), "%d %s", status, reply)
        site.audited(audit="refused", status=401, caller="old", tenant="t", why="the key has expired; ask for a new one")

        def logged():
            with open(site.access_log, encoding="utf-8") as file:
                return '"caller":"old"' in file.read()
        until(logged, "the access log has no caller")
        equal(site.server.get("/models/red", bearer(alice))[0], 200)


@case
def certificates_that_nobody_asks_for_are_warned_of():
    alice, line = make_key("alice")
    with Site(ALICES, keys=(line,), more="certificates: [{match: 'dns:*.example', name: c}]\n") as site:
        check("--tls-client-ca FILE" in site.server.log, "%s", site.server.log)
    with Site(ALICES, keys=(line,)) as site:
        check("--tls-client-ca" not in site.server.log, "%s", site.server.log)


@case
def a_bad_file_changes_nothing():
    alice, line = make_key("alice")
    with Site(ALICES, keys=(line,)) as site:
        s = site.server
        for text, words in (("  - {who: alice, may: reed}\n", "rules[0].may"), ("  - {who: al, may: read}\n", "nobody is called")):
            site.write(text)
            until = time.monotonic() + 20
            while words not in s.log:
                check(time.monotonic() < until, "nothing was said of %s", words)
                time.sleep(0.02)
            check("the former rules stay" in s.log, "%s", s.log)
            equal(s.get("/models/red", bearer(alice))[0], 200)
        os.unlink(site.path)
        time.sleep(1.5)
        equal(s.get("/models/red", bearer(alice))[0], 200, "a file that is gone changes nothing")
        site.rewrite("  - {who: alice, may: read}\n")
        equal(s.get("/models/hidden", bearer(alice))[0], 200)


@case
def a_file_that_others_may_read_is_warned_of_each_time():
    alice, line = make_key("alice")
    with Site(ALICES, keys=(line,)) as site:
        words = "may be read or written by everybody on this machine"
        check(words not in site.server.log, "%s", site.server.log)
        for count, mode in ((1, 0o644), (2, 0o666), (2, 0o600)):
            site.mode = mode
            site.rewrite(ALICES)
            equal(site.server.log.count(words), count, "mode %o" % mode)


@case
def rules_that_speak_of_no_model():
    """They may come before their models do: a warning each, once the models that are there are known, and when the file changes."""
    alice, line = make_key("alice")
    with Site("  - {who: alice, may: read, models: [red, rad, 'b*', 'c*', violet]}\n", keys=(line,)) as site:
        def said(words):
            return [text for text in site.server.log.splitlines() if words in text and "rules[" in text]
        until(lambda: len(said("rules[0].models")) == 3, "three warnings")
        check("line 4: rules[0].models: no model is called 'rad', did you mean 'red'?" in said("'rad'")[0], "%s", said("rad"))
        check("no model fits 'c*'" in said("'c*'")[0] and "did you mean" not in said("violet")[0], "%s", said("rules"))
        site.rewrite("  - {who: alice, may: read, models: [%s]}\n" % ", ".join("m%d" % i for i in range(25)))
        until(lambda: "15 more names" in site.server.log, "no more than ten")
        site.rewrite("  []\n")
        until(lambda: "has no rule, so that nobody may do anything" in site.server.log, "no rule")
        equal(site.server.get("/models/red", bearer(alice))[0], 403)


@case
def a_key_that_cannot_be_made():
    for words, said in ((("alice", "--expires", "tomorrow"), "--expires is 'tomorrow'; it takes a day (2027-01-31"),
                        (("alice", "--expires", "2020-01-01"), "which is past"), (("al*",), "names with '*'"), (("",), "the name is empty"),
                        (("a\nb",), "control byte"), (("a", "--tenant", "anonymous"), "--tenant is 'anonymous'"),
                        (("a", "--expires", "2030-01-01, tenant: b"), "--expires is")):
        done = subprocess.run([BINARY, "key", *words], capture_output=True, text=True, timeout=60, check=False)
        check(done.returncode == 2 and said in done.stderr and not done.stdout, "%s: %s", words, done.stderr)
        check("line" not in done.stderr, "there is no file: %s", done.stderr)


@case
def a_file_that_is_wrong_at_the_start():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.yaml")
        for text, words in (("rules: [{who: x, may: read}]\n", "line 1: rules[0].who: nobody is called 'x'"), ("", "the file is empty")):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            done = subprocess.run([BINARY, "serve", STREAMS, "--listen", "127.0.0.1:0", "--access", path], capture_output=True,
                                  text=True, timeout=60)
            check(done.returncode == 1 and words in done.stderr and "--access" in done.stderr, "%d %s", done.returncode, done.stderr)
        done = subprocess.run([BINARY, "serve", STREAMS, "--listen", "127.0.0.1:0", "--access", path, "--admin"], capture_output=True,
                              text=True, timeout=60)
        check(done.returncode == 2 and "--admin" in done.stderr, "%d %s", done.returncode, done.stderr)


@case
def admin_only_where_asked_for():
    for options, status in (((), 403), (("--admin",), 200)):
        with models({"m/config.pbtxt": echo("m", "FP32"), "m/1/.keep": b""}) as where, Server(where, options=options) as s:
            equal(s.post("/v2/logging", {"log_verbose_level": 0})[0], status)
            equal(s.get("/models")[0], 200)


@case
def tenants_have_limits():
    alice, line = make_key("alice", "--tenant", "small")
    boss, boss_line = make_key("boss")
    more = "tenants:\n  small: {rate: 0.5, burst: 3, bytes: 64KiB}\n"
    with Site("  - {who: '*', may: [read, infer]}\n", keys=(line, boss_line), more=more) as site:
        s = site.server
        big = {"inputs": [{"name": "IN", "shape": [100000], "datatype": "FP32", "data": [1.5] * 100000}]}
        status, found, body = s.call("POST", "/v2/models/red/infer", json.dumps(big).encode(), bearer(alice))
        check(status in (429, 503) and b"tenant" in body, "more bytes than the tenant has: %d %r", status, body)
        equal(s.post("/v2/models/red/infer", big, bearer(boss))[0], 200, "others have them")
        said = [s.call("POST", "/models/red:predict", json.dumps(TYPED).encode(), bearer(alice)) for _ in range(6)]
        statuses = [status for status, _, _ in said]
        check(statuses.count(200) <= 3 and statuses[-1] == 429, "%s", statuses)
        check("retry-after" in said[-1][1] and b"small" in said[-1][2], "%r", said[-1])
        for _ in range(20):                     # a slow machine may have earned one more
            done = subprocess.run([BINARY, "call", "red", "--IN", "1,2", "--key", alice, "--server", s.url], capture_output=True, text=True,
                                  timeout=60, check=False)
            if done.returncode != 0:
                break
        check(done.returncode == 1 and "small" in done.stderr and "for example" not in done.stderr, "%d %s", done.returncode, done.stderr)
        equal(s.post("/models/red:predict", TYPED, bearer(boss))[0], 200, "others are not slowed")


# --- tokens -------------------------------------------------------------------------------------------------------

def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """An RSA key of the program openssl."""

    def __init__(self, folder, kid):
        self.kid, self.path = kid, os.path.join(folder, kid + ".pem")
        openssl = need_program("openssl")
        self.run = lambda *words, data=None: subprocess.run([openssl, *words], input=data, check=True, capture_output=True).stdout
        self.run("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", self.path)
        modulus = self.run("rsa", "-in", self.path, "-noout", "-modulus").decode().strip().split("=")[1]
        self.jwk = {"kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": b64(bytes.fromhex(modulus)), "e": "AQAB"}

    def token(self, head=None, **claims):
        now = int(time.time())
        body = {"iss": "https://issuer.test", "aud": "penstock", "sub": "carol", "exp": now + 300, **claims}
        body = {name: value for name, value in body.items() if value is not None}
        text = b64(json.dumps({"alg": "RS256", "kid": self.kid, **(head or {})}).encode()) + "." + b64(json.dumps(body).encode())
        made = text + "." + b64(self.run("dgst", "-sha256", "-sign", self.path, data=text.encode()))
        SECRETS.append(made)
        return made


class KeyServer:
    """Serves a key set, and counts who asks."""

    def __init__(self):
        site = self
        self.document, self.asked, self.status = b"{}", 0, 200

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked += 1
                self.send_response(site.status)
                self.send_header("content-length", str(len(site.document)))
                self.end_headers()
                self.wfile.write(site.document)

            def log_message(self, *words):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d/keys" % self.server.server_address[1]

    def set(self, *signers):
        self.document = json.dumps({"keys": [signer.jwk for signer in signers]}).encode()

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def until(condition, words, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < end, words)
        time.sleep(0.05)


@case
def tokens_and_rotation():
    with tempfile.TemporaryDirectory() as folder, KeyServer() as keys:
        first, second = Signer(folder, "one"), Signer(folder, "two")
        keys.set(first)
        more = "issuers:\n  - {issuer: 'https://issuer.test', audience: penstock, keys: '%s', skew: 5s}\n" % keys.url
        with Site("  - {who: carol, may: [read, infer], models: red}\n", more=more) as site:
            s, now = site.server, int(time.time())
            good = first.token()
            until(lambda: s.get("/models/red", bearer(good))[0] == 200, "the keys were not fetched")
            equal(s.get("/models/red", {"x-api-key": good})[0], 200)
            equal(s.get("/models/hidden", bearer(good))[0], 403)
            unsigned = good.split(".")
            unsigned[0] = b64(b'{"alg":"none"}')
            bad = {"alg none": ".".join(unsigned[:2]) + ".", "alg none, signed": ".".join(unsigned),
                   "HS256 with the public key": first.token({"alg": "HS256"}), "another audience": first.token(aud="other"),
                   "no audience": first.token(aud=None), "expired": first.token(exp=now - 6), "never expires": first.token(exp=None),
                   "not yet": first.token(nbf=now + 60), "from the future": first.token(iat=now + 60),
                   "another issuer": first.token(iss="https://other"), "crit": first.token({"crit": ["exp"]}),
                   "nobody": first.token(sub=None), "another's key": second.token({"kid": "one"}), "cut": good[:-4]}
            for why, token in bad.items():
                status, found, body = s.call("GET", "/models/red", headers=bearer(token))
                equal(status, 401, why)
                check('error="invalid_token"' in found["www-authenticate"], "%s", found)
            equal(s.get("/models/red", bearer(first.token(exp=now - 2)))[0], 200, "within the skew")
            equal(s.get("/models/red", bearer(first.token(sub="dave")))[0], 403, "a name without rules")
            # The next key: a token of it makes the keys be asked for again, but not for each such token.
            keys.set(first, second)
            asked = keys.asked
            new = second.token()
            for _ in range(20):
                s.get("/models/red", bearer(new))
            time.sleep(1.5)
            check(keys.asked - asked <= 1, "asked %d times", keys.asked - asked)


@case
def keys_that_cannot_be_fetched():
    with tempfile.TemporaryDirectory() as folder, KeyServer() as keys:
        signer = Signer(folder, "one")
        more = "issuers:\n  - {issuer: 'https://issuer.test', audience: penstock, keys: '%s'}\n" % keys.url
        keys.status = 500
        with Site("  - {who: '*', may: read}\n", more=more) as site:
            s, token = site.server, signer.token()
            until(lambda: "status 500" in s.log, "nothing was said")
            equal(s.get("/models/red", bearer(token))[0], 401)
            keys.status, keys.document = 200, b'{"keys": "x"}'
            until(lambda: keys.asked >= 2, "it is tried again")
            equal(s.get("/models/red", bearer(token))[0], 401)
            keys.document = b"x" * 400000
            until(lambda: keys.asked >= 3, "it is tried again")
            keys.set(signer)
            until(lambda: s.get("/models/red", bearer(token))[0] == 200, "the keys were not taken", 40)


@case
def token_keys_by_https():
    """A key set is believed where its server is: by --cacert, its name and its dates; else its tokens are refused, and the log says why."""
    with tempfile.TemporaryDirectory() as folder, tls_folder() as made:
        signer = Signer(folder, "one")

        def asking(name, *options):
            with KeyServer() as keys:
                made.serve(keys.server, name)
                keys.set(signer)
                url = "https://localhost:%d/keys" % keys.server.server_address[1]
                more = "issuers:\n  - {issuer: 'https://issuer.test', audience: penstock, keys: '%s'}\n" % url
                with Site("  - {who: '*', may: read}\n", *options, more=more) as site:
                    yield site.server, keys
        trust = ("--cacert", made("ca.pem"))
        for server, keys in asking("server", *trust):
            until(lambda: server.get("/models/red", bearer(signer.token()))[0] == 200, "the keys were not fetched")
            check(keys.asked >= 1 and "is not accepted" not in server.log, "%s", server.log)
        for name, why in made.strangers().items():
            for server, keys in asking(name, *trust):
                until(lambda: "is not accepted: " + why in server.log, "%s: nothing was said" % name)
                equal((server.get("/models/red", bearer(signer.token()))[0], keys.asked), (401, 0), name)
        for server, keys in asking("server"):
            until(lambda: "is not accepted: unable to get local issuer certificate" in server.log, "the system does not know it")
            equal((server.get("/models/red", bearer(signer.token()))[0], keys.asked), (401, 0))


@case
def servers_of_keys_that_hang_delay_no_withdrawal():
    """Keys of tokens are fetched on a thread of their own: four that never answer take 20 s in turn, and a key is gone before that."""
    alice, line = make_key("alice")
    with contextlib.ExitStack() as stack:
        more = "issuers:\n"
        for i in range(4):
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))         # never accepted, never answered
            more += "  - {issuer: 'https://%d.test', audience: a, keys: 'http://127.0.0.1:%d/k'}\n" % (i, listening.getsockname()[1])
        with Site("  - {who: alice, may: read}\n", keys=(line,), more=more) as site:
            equal(site.server.get("/models", bearer(alice))[0], 200)
            site.write("  - {who: alice, may: read}\n", keys=())
            until(lambda: site.server.get("/models", bearer(alice))[0] == 401, "the key is still good", 12)


@case
def strangers_leave_places_to_who_has_a_name():
    """Health is open to everybody; who shows nothing has half of the places to watch it."""
    from _frames import H2, message
    alice, line = make_key("alice")
    with Site("  - {who: alice, may: read}\n", "--watchers-max", "4", keys=(line,)) as site, H2(site.server) as peer:
        watches = [peer.grpc("/grpc.health.v1.Health/Watch", message(b"")) for _ in range(3)]
        until(lambda: peer.read() is None or any(peer.answers[w].is_over for w in watches), "one is refused")
        over = [w for w in watches if peer.answers[w].is_over]
        equal([peer.answers[w].grpc[0] for w in over], [8])
        check("2 watch without a key already" in peer.answers[over[0]].grpc[1], "%s", peer.answers[over[0]])
        with Wire(site.server) as wire:
            wire.send("GET /events HTTP/1.1\r\nhost: x.localhost\r\nauthorization: Bearer %s\r\n\r\n" % alice)
            while b"\r\n" not in (data := wire.socket.recv(4096)):
                pass
            check(data.startswith(b"HTTP/1.1 200"), "%r", data)


@case
def token_keys_in_a_file():
    with tempfile.TemporaryDirectory() as folder:
        first, second = Signer(folder, "one"), Signer(folder, "two")
        path = os.path.join(folder, "keys.json")

        def put(*signers):
            with open(path + ".new", "w", encoding="utf-8") as file:
                json.dump({"keys": [signer.jwk for signer in signers]}, file)
            os.rename(path + ".new", path)
        put(first)
        more = "issuers:\n  - {issuer: 'https://issuer.test', audience: penstock, keys: '%s'}\n" % path
        with Site("  - {who: '*', may: read}\n", more=more) as site:
            s, old, new = site.server, first.token(), second.token()
            equal((s.get("/models", bearer(old))[0], s.get("/models", bearer(new))[0]), (200, 401))
            put(second)
            until(lambda: s.get("/models", bearer(new))[0] == 200, "the new keys were not read")
            equal(s.get("/models", bearer(old))[0], 401, "what the former key signed")


# --- the command line ------------------------------------------------------------------------------------------------

@case
def penstock_call_sends_a_key_and_never_shows_it():
    alice, line = make_key("alice")
    with Site(ALICES, keys=(line,)) as site, tempfile.NamedTemporaryFile("w") as file:
        file.write(alice + "\n")
        file.flush()
        def run(*words, env=None):
            return subprocess.run([BINARY, *words, "--server", site.server.url], capture_output=True, text=True, timeout=60,
                                  env={**os.environ, **(env or {})})
        for env, more in (({"PENSTOCK_KEY": alice}, ()), ({}, ("--key", alice)), ({}, ("--key", "@" + file.name))):
            for words in (("models",), ("call", "red", "--IN", "1,2"), ("call", "--grpc", "red", "-d", '{"IN": [1, 2]}'), ("explain", "red"),
                          ("call", "red", "--IN", "1,2", "--wire"), ("call", "--grpc", "red", "-d", '{"IN": [1, 2]}', "--wire"),
                          ("call", "repeat", "--stream", "--text", "a b"), ("call", "red", "--IN", "1,2", "--http2", "--wire")):
                done = run(*words, *more, env=env)
                equal(done.returncode, 0, "%s: %s" % (words, done.stderr))
                check(alice not in done.stdout + done.stderr, "%s shows the key", words)
        done = run("models")
        check(done.returncode == 1 and "key or token" in done.stderr, "%d %s", done.returncode, done.stderr)
        done = run("models", "--key", alice + " x")
        check(done.returncode != 0 and alice not in done.stderr and "blank" in done.stderr, "%d %s", done.returncode, done.stderr)
        equal(names_of(run("models", "--json", env={"PENSTOCK_KEY": alice}).stdout), ["red", "repeat"])


@case
def keys_are_found_by_scanners():
    made = [make_key("x")[0] for _ in range(20)]
    for key in made:
        check(re.fullmatch(r"penstock_[0-9A-Za-z]{39}", key), "%s", key)
    equal(len(set(made)), 20)
    done = subprocess.run([BINARY, "key"], capture_output=True, text=True, check=False)
    equal(done.returncode, 2)


if __name__ == "__main__":
    main()
