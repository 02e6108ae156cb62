"""TLS on the port: clients that people own, and what goes wrong with certificates, names, tickets and handshakes."""
import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time

from harness import BINARY, Failed, Server, case, cases, check, equal, main, need, need_program
from _client import EXAMPLES, IRIS_INPUT, serving
from _tls import folder, openssl

PREDICT = '{"text": "You won a prize, call now"}'
INFER = {"inputs": [{"name": "input", "shape": [3, 4], "datatype": "FP32", "data": sum(IRIS_INPUT, [])}]}
ASK = b"GET /v2/health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


@contextlib.contextmanager
def serving_tls(made, *options, pairs=("server",), **more):
    tls = [part for name in pairs for part in ("--tls", made.pair(name))]
    with serving(options=[*tls, "--tls-watch", "100ms", *options], **more) as server:
        check(server.url.startswith("https://"), "%s", server.url)
        yield server


def curl(*arguments, fails=False):
    need_program("curl")
    done = subprocess.run(["curl", "-sS", "--max-time", "30", *arguments], capture_output=True)
    check(fails or done.returncode == 0, "curl %s: %s", " ".join(arguments), done.stderr.decode(errors="replace"))
    return (done.stdout + done.stderr).decode(errors="replace")


def connect(server, context, name="localhost", alpn=("http/1.1",)):
    if alpn:
        context.set_alpn_protocols(list(alpn))
    plain = socket.create_connection((server.host, server.port), 20)
    return context.wrap_socket(plain, server_hostname=name)


def ask(stream, path="/v2/health/ready"):
    """One request on a connection that stays."""
    stream.sendall(("GET %s HTTP/1.1\r\nhost: localhost\r\n\r\n" % path).encode())
    reply = http.client.HTTPResponse(stream)
    reply.begin()
    return reply.status, reply.read()


def s_client(server, made, *arguments, input=b""):
    return openssl("s_client", "-connect", server.address, "-CAfile", made("ca.pem"), *arguments, input=input, fails=True)


def metric(made, server, name, *how):
    text = curl("--cacert", made("ca.pem"), *how, "https://localhost:%d/metrics" % server.port)
    found = re.search("^" + re.escape("penstock_" + name) + r" (\S+)$", text, re.M)
    check(found, "no metric %s", name)
    return float(found[1])


def wait_for(what, condition, seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return
        time.sleep(0.05)
    raise Failed("%s: not within %g s" % (what, seconds))


def kserve(channel):
    return need("tritonclient.grpc.service_pb2"), need("tritonclient.grpc.service_pb2_grpc").GRPCInferenceServiceStub(channel)


# --- clients -------------------------------------------------------------------------------------------

@cases({"http1": ("--http1.1",), "http2": ("--http2",), "tls12": ("--tls-max", "1.2"), "tls12_http1": ("--tls-max", "1.2", "--http1.1")})
def by_curl(*options):
    with folder() as made, serving_tls(made) as server:
        trust = ["--cacert", made("ca.pem"), *options]
        url = "https://localhost:%d" % server.port
        reply = json.loads(curl(*trust, url + "/models/spam:predict", "-d", PREDICT))
        equal(reply["label"], "spam")
        # two on one connection, more than a megabyte each way
        values = [i / 7 for i in range(100000)]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"inputs": [{"name": "IN", "shape": [1, len(values)], "datatype": "FP64", "data": values}]}, file)
            file.flush()
            one = [*trust, url + "/v2/models/echo_FP64/infer", "-d", "@" + file.name]
            for line in curl(*one, "-w", "\n", "--next", *one).split("\n"):
                equal(json.loads(line)["outputs"][0]["data"], values)
        check("200" in curl(*trust, "-o", "/dev/null", "-w", "%{http_code}", url + "/"), "the first page")


@case
def by_python():
    """ssl and http.client: 200 requests on one connection, and bodies around a record's size."""
    with folder() as made, serving_tls(made) as server:
        connection = http.client.HTTPSConnection("localhost", server.port, context=made.trusting(), timeout=30)
        for _ in range(200):
            connection.request("GET", "/v2/models/iris")
            reply = connection.getresponse()
            equal(reply.status, 200)
            reply.read()
        for size in (1, 100, 4000, 16384, 16385, 100000, 1 << 20, 8 << 20):
            body = os.urandom(size)
            head = json.dumps({"inputs": [{"name": "IN", "shape": [1, size], "datatype": "UINT8",
                                           "parameters": {"binary_data_size": size}}],
                               "parameters": {"binary_data_output": True}}).encode()
            connection.request("POST", "/v2/models/echo_UINT8/infer", head + body,
                               {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"})
            reply = connection.getresponse()
            answer = reply.read()
            equal(reply.status, 200, answer[:200])
            check(answer.endswith(body), "%d bytes back", size)
        connection.close()


@case
def by_httpx():
    httpx = need("httpx")
    with folder() as made, serving_tls(made) as server:
        url = "https://localhost:%d" % server.port
        with httpx.Client(http2=True, verify=made.trusting()) as client:
            reply = client.post(url + "/v2/models/iris/infer", json=INFER)
            equal((reply.http_version, reply.status_code), ("HTTP/2", 200))
            equal(reply.json()["outputs"][0]["data"], [0, 1, 2])

        async def many():
            async with httpx.AsyncClient(http2=True, verify=made.trusting(), timeout=30) as client:
                replies = await asyncio.gather(*(client.post(url + "/v2/models/iris/infer", json=INFER) for _ in range(100)))
                check(all(reply.status_code == 200 for reply in replies), "all of them")
        asyncio.run(many())
        with httpx.Client(http2=False, verify=made.trusting()) as client:
            equal(client.get(url + "/v2/health/ready").http_version, "HTTP/1.1")


@case
def by_aiohttp():
    aiohttp = need("aiohttp")

    async def run(port, context):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            async def one():
                async with session.post("https://localhost:%d/v2/models/iris/infer" % port, json=INFER) as reply:
                    equal(reply.status, 200)
                    return (await reply.json())["outputs"][0]["data"]
            for labels in await asyncio.gather(*(one() for _ in range(50))):
                equal(labels, [0, 1, 2])
            async with session.ws_connect("wss://localhost:%d/echo" % port) as ws:
                for size in (1, 1000, 100000, 3000000):
                    await ws.send_bytes(b"y" * size)
                    equal(len((await ws.receive()).data), size)

    with folder() as made, serving_tls(made, "--test-services") as server:
        asyncio.run(run(server.port, made.trusting()))


@case
def by_websockets():
    websockets = need("websockets")

    async def run(port, context):
        async with websockets.connect("wss://localhost:%d/echo" % port, ssl=context, max_size=None) as ws:
            for i in range(500):
                await ws.send("message %d" % i)
            for i in range(500):
                equal(await ws.recv(), "message %d" % i)

    with folder() as made, serving_tls(made, "--test-services") as server:
        asyncio.run(run(server.port, made.trusting()))


@case
def by_grpcio():
    grpc = need("grpc")
    from _grpc import UNLIMITED
    with folder() as made, serving_tls(made) as server:
        with open(made("ca.pem"), "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        with grpc.secure_channel("localhost:%d" % server.port, credentials, options=UNLIMITED) as channel:
            messages, stubs = kserve(channel)
            check(stubs.ServerReady(messages.ServerReadyRequest(), timeout=30).ready, "ready")
            request = messages.ModelInferRequest(model_name="echo_FP32")
            request.inputs.add(name="IN", datatype="FP32", shape=[1, 1 << 20])
            request.raw_input_contents.append(os.urandom(4 << 20).replace(b"\x7f", b"\x00").replace(b"\xff", b"\x01"))
            equal(stubs.ModelInfer(request, timeout=30).raw_output_contents[0], request.raw_input_contents[0])

            def asked():
                for i in range(100):
                    one = messages.ModelInferRequest(model_name="iris", id=str(i))
                    one.inputs.add(name="input", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend(IRIS_INPUT[0])
                    yield one
            replies = list(stubs.ModelStreamInfer(asked(), timeout=30))
            equal(len(replies), 100)
            check(all(not reply.error_message for reply in replies), "%s", replies[0].error_message)
        # who does not know the authority says nothing at all
        with grpc.secure_channel("localhost:%d" % server.port, grpc.ssl_channel_credentials()) as channel:
            messages, stubs = kserve(channel)
            try:
                stubs.ServerReady(messages.ServerReadyRequest(), timeout=5)
                raise Failed("it was believed")
            except grpc.RpcError as error:
                check(error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), "%s", error)


@case
def by_penstock_call():
    def call(*arguments):
        done = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    with folder() as made, serving_tls(made) as server:
        url = ["--server", "https://localhost:%d" % server.port]
        trust = ["--cacert", made("ca.pem")]
        for how in ([], ["--grpc"], ["--http2"]):
            status, out, err = call("call", *how, "spam", *url, *trust, "-d", PREDICT)
            equal(status, 0, err)
            equal(json.loads(out)["label"], "spam")
        status, out, err = call("models", *url, *trust)
        check(status == 0 and "iris" in out, "%s", err)
        status, out, err = call("call", "spam", *url, "-d", PREDICT)
        check(status == 1 and "not accepted" in err and "--cacert" in err, "%s", err)
        status, out, err = call("call", "spam", *url, "--insecure", "-d", PREDICT)
        check(status == 0 and "--insecure" in err, "%s", err)
        status, out, err = call("call", "spam", "--server", "http://localhost:%d" % server.port, "-d", PREDICT)
        check(status == 1 and "speaks TLS" in err, "%s", err)
        made.sign("ca", "elsewhere", "DNS:elsewhere.test")
        made.sign("ca", "late", "DNS:localhost", end="20210101000000Z")
        for name, why in (("elsewhere", "hostname mismatch"), ("late", "expired")):
            with serving_tls(made, pairs=(name,)) as other:
                status, out, err = call("call", "spam", "--server", "https://localhost:%d" % other.port, *trust, "-d", PREDICT)
                check(status == 1 and why in err, "%s: %s", name, err)
    with serving() as server:
        status, out, err = call("call", "spam", "--server", "https://localhost:%d" % server.port, "-d", PREDICT)
        check(status == 1 and "handshake" in err and "http:// may be meant" in err, "%s", err)


@case
def events_over_tls():
    """A stream of the server's own: what is sent arrives while the answer is open, and the reader may leave."""
    with folder() as made, serving_tls(made) as server:
        with connect(server, made.trusting()) as stream:
            stream.sendall(b"GET /events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n")
            data = b""
            while b"event:" not in data:
                piece = stream.recv(65536)
                check(piece, "it ended: %r", data)
                data += piece
            url = "https://localhost:%d" % server.port
            equal(json.loads(curl("--cacert", made("ca.pem"), url + "/models/spam:predict", "-d", PREDICT))["label"], "spam")


@case
def a_slow_reader_gets_it_all():
    """16 MB that the socket does not take at once: records wait, and the bytes are right."""
    with folder() as made, serving_tls(made) as server:
        size = 16 << 20
        body = os.urandom(size)
        head = json.dumps({"inputs": [{"name": "IN", "shape": [1, size], "datatype": "UINT8", "parameters": {"binary_data_size": size}}],
                           "parameters": {"binary_data_output": True}}).encode()
        with connect(server, made.trusting()) as stream:
            stream.sendall(("POST /v2/models/echo_UINT8/infer HTTP/1.1\r\nhost: localhost\r\ninference-header-content-length: %d\r\n"
                            "content-length: %d\r\n\r\n" % (len(head), len(head) + size)).encode() + head + body)
            reply = http.client.HTTPResponse(stream)
            reply.begin()
            parts = []
            for _ in range(20):
                parts.append(reply.read(100000))
                time.sleep(0.01)
            parts.append(reply.read())
            check(b"".join(parts).endswith(body), "%d bytes", sum(map(len, parts)))


# --- what is spoken --------------------------------------------------------------------------------------

@case
def versions_and_ciphers():
    with folder() as made, serving_tls(made) as server:
        check("Protocol version: TLSv1.3" in s_client(server, made, "-brief"), "1.3 by itself")
        check("Protocol version: TLSv1.2" in s_client(server, made, "-brief", "-tls1_2"), "1.2 when asked")
        for old in ("-tls1_1", "-tls1"):
            out = s_client(server, made, "-brief", old, "-cipher", "ALL:@SECLEVEL=0")
            check("CONNECTION ESTABLISHED" not in out and "protocol version" in out, "%s: %s", old, out[-400:])
        for cipher in ("AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-CCM"):
            out = s_client(server, made, "-brief", "-tls1_2", "-cipher", cipher)
            check("CONNECTION ESTABLISHED" not in out and "handshake failure" in out, "%s: %s", cipher, out[-400:])
        for cipher in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"):
            out = s_client(server, made, "-brief", "-tls1_2", "-cipher", cipher)
            check("CONNECTION ESTABLISHED" in out, "%s: %s", cipher, out[-400:])
        check("Compression: NONE" in s_client(server, made, "-tls1_2", "-comp"), "no compression")
        check(metric(made, server, 'tls_failures_total{reason="version"}') >= 2, "versions are counted")
        check(metric(made, server, 'tls_failures_total{reason="cipher"}') >= 3, "ciphers are counted")


@case
def downgrade():
    """TLS_FALLBACK_SCSV (RFC 7507): who comes back with less than both can is refused."""
    with folder() as made, serving_tls(made) as server:
        out = s_client(server, made, "-tls1_2", "-fallback_scsv")
        check("inappropriate fallback" in out, "%s", out[-400:])


@case
def renegotiation():
    with folder() as made, serving_tls(made) as server:
        process = subprocess.Popen(["openssl", "s_client", "-connect", server.address, "-tls1_2", "-CAfile", made("ca.pem")],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(1)
        process.stdin.write(b"R\n")
        process.stdin.flush()
        out, _ = process.communicate(timeout=20)
        check(b"RENEGOTIATING" in out and b"no renegotiation" in out, "%r", out[-300:])


@case
def alpn():
    with folder() as made, serving_tls(made) as server:
        for offered, chosen in ((["h2", "http/1.1"], "h2"), (["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), ([], None),
                                (["smtp", "http/1.1"], "http/1.1")):
            with connect(server, made.trusting(), alpn=offered) as stream:
                equal(stream.selected_alpn_protocol(), chosen)
        try:
            connect(server, made.trusting(), alpn=("smtp",)).close()
            raise Failed("smtp was agreed upon")
        except ssl.SSLError as error:
            check("APPLICATION_PROTOCOL" in str(error).upper().replace(" ", "_"), "%s", error)
        wait_for("the count", lambda: metric(made, server, 'tls_failures_total{reason="alpn"}') == 1)


@case
def names_choose_certificates():
    with folder() as made:
        made.sign("ca", "second", "DNS:second.test,DNS:*.wild.test")
        with serving_tls(made, pairs=("server", "second")) as server:
            for name, expected in (("localhost", "server"), ("second.test", "second"), ("a.wild.test", "second"), ("other.test", "server")):
                out = s_client(server, made, "-servername", name)
                check("CN = " + expected in out, "%s: %s", name, out[:500])
            check("CN = server" in s_client(server, made, "-noservername"), "the first is for who names nobody")


@case
def requests_are_https():
    """Origin: the server's own begins with https:// now; a page of the same name by http is another origin."""
    with folder() as made, serving_tls(made) as server:
        own = "https://localhost:%d" % server.port
        trust = ["--cacert", made("ca.pem"), own + "/v2/health/ready", "-o", "/dev/null", "-w", "%{http_code}"]
        equal(curl(*trust, "-H", "origin: " + own), "200")
        equal(curl(*trust, "--http1.1", "-H", "origin: " + own), "200")
        equal(curl(*trust, "-H", "origin: http://localhost:%d" % server.port), "403")
        equal(curl(*trust, "-H", "origin: https://evil.example"), "403")


# --- plain and TLS where the other is spoken ------------------------------------------------------------------

@case
def plain_on_a_port_of_tls():
    grpc = need("grpc")
    with folder() as made, serving_tls(made) as server:
        plain = "http://localhost:%d/v2/health/ready" % server.port
        for how in ("--http1.1", "--http2-prior-knowledge"):
            out = curl(how, plain, "-w", " %{http_code}")
            check(out.endswith(" 400") and "speaks TLS" in out and plain.replace("http:", "https:") in out, "%s", out)
        equal(metric(made, server, 'tls_failures_total{reason="plain"}'), 2)
        with grpc.insecure_channel(server.address) as channel:
            messages, stubs = kserve(channel)
            try:
                stubs.ServerReady(messages.ServerReadyRequest(), timeout=10)
                raise Failed("it was answered")
            except grpc.RpcError as error:
                check("speaks TLS" in error.details(), "%s", error.details())
    with folder() as made, serving_tls(made, "--tls-plain", "redirect") as server:
        out = curl("-i", "http://localhost:%d/v2/health/ready?x=1" % server.port)
        check("308" in out and "location: https://localhost:%d/v2/health/ready?x=1" % server.port in out.lower(), "%s", out)
        out = curl("-L", "--cacert", made("ca.pem"), "http://localhost:%d/models/spam:predict" % server.port, "-d", PREDICT)
        equal(json.loads(out)["label"], "spam")
    with folder() as made, serving_tls(made, "--tls-plain", "serve") as server:
        for scheme in ("http", "https"):
            url = "%s://localhost:%d/models/spam:predict" % (scheme, server.port)
            equal(json.loads(curl("--cacert", made("ca.pem"), url, "-d", PREDICT))["label"], "spam")


@case
def tls_on_a_plain_port():
    with serving() as server:
        for _ in range(3):
            try:
                ssl.create_default_context().wrap_socket(socket.create_connection((server.host, server.port), 10), server_hostname="localhost")
                raise Failed("a handshake")
            except ssl.SSLError as error:
                check("HANDSHAKE_FAILURE" in str(error).upper(), "an alert: %s", error)
        wait_for("the log", lambda: "somebody speaks TLS" in server.log)
        equal(server.log.count("somebody speaks TLS"), 1, "said once")


@case
def both_by_listener():
    with folder() as made, Server(os.path.join(EXAMPLES, "iris"), listen="http://127.0.0.1:0",
                                  options=["--listen", "https://127.0.0.1:0", "--tls", made.pair("server")]) as server:
        wait_for("both", lambda: len(server.urls) == 2)
        equal([url.split(":")[0] for url in server.urls], ["http", "https"])
        curl(server.urls[0] + "/v2/health/live", "-f")
        curl("--cacert", made("ca.pem"), server.urls[1] + "/v2/health/live", "-f")


# --- certificates of callers -----------------------------------------------------------------------------------

@case
def callers_certificates():
    grpc = need("grpc")
    with folder() as made:
        made.authority("other")
        made.sign("ca", "client", "DNS:client.test,URI:spiffe://test/one")
        made.sign("ca", "late", "DNS:client.test", end="20210101000000Z")
        made.sign("ca", "early", "DNS:client.test", start="20980101000000Z")
        made.sign("other", "stranger", "DNS:client.test")

        def by(server, name, *more, fails=True):
            shown = ["--cert", made(name + ".pem"), "--key", made(name + ".key")] if name else []
            return curl("--cacert", made("ca.pem"), *more, *shown, "https://localhost:%d/v2/health/ready" % server.port, "-w",
                        "%{http_code}", fails=fails)
        with serving_tls(made, "--tls-client-ca", made("ca.pem")) as server:
            for version in ("1.2", "1.3"):
                for http in ("--http1.1", "--http2"):
                    check(by(server, "client", "--tls-max", version, http).endswith("200"), "%s %s", version, http)
                    for name in ("late", "early", "stranger", None):
                        out = by(server, name, "--tls-max", version, http)
                        check("000curl: (" in out and "200" not in out, "%s %s: %s", name, version, out)
            done = subprocess.run([BINARY, "call", "spam", "--server", "https://localhost:%d" % server.port, "--cacert", made("ca.pem"),
                                   "--cert", made.pair("client"), "-d", PREDICT], capture_output=True, text=True, timeout=60)
            equal(done.returncode, 0, done.stderr)
            files = []
            for name in ("ca.pem", "client.key", "client.pem"):
                with open(made(name), "rb") as file:
                    files.append(file.read())
            with grpc.secure_channel("localhost:%d" % server.port, grpc.ssl_channel_credentials(*files)) as channel:
                messages, stubs = kserve(channel)
                check(stubs.ServerReady(messages.ServerReadyRequest(), timeout=30).ready, "ready")
            shown = ["--cert", made("client.pem"), "--key", made("client.key")]
            equal(metric(made, server, 'tls_failures_total{reason="certificate"}', *shown), 16)
        with serving_tls(made, "--tls-client-ca", made("ca.pem"), "--tls-client-auth", "optional") as server:
            for name in (None, "client"):
                check(by(server, name, fails=False).endswith("200"), "%s", name)
            check("000curl: (" in by(server, "stranger"), "one that is shown must be good")
            equal(metric(made, server, 'tls_failures_total{reason="certificate"}'), 1)


@cases({"rest": ([],), "grpc": (["--grpc"],)})
def a_caller_is_told_of_its_certificate(how):
    """What the server refused is in the sentence, and what to do: in TLS 1.3 its alert comes behind the handshake."""
    with folder() as made:
        made.authority("other")
        made.sign("ca", "late", "DNS:client.test", end="20210101000000Z")
        made.sign("ca", "early", "DNS:client.test", start="20980101000000Z")
        made.sign("other", "stranger", "DNS:client.test")
        with serving_tls(made, "--tls-client-ca", made("ca.pem")) as server:
            for name, why, advice in ((None, "wants a certificate of its callers", "--cert CERT,KEY"),
                                      ("late", "our certificate has expired", "--cert"), ("early", "bad certificate", "--cert"),
                                      ("stranger", "authority of our certificate (unknown ca)", "--cert")):
                shown = ["--cert", made.pair(name)] if name else []
                done = subprocess.run([BINARY, "call", *how, "spam", "--server", "https://localhost:%d" % server.port, "--cacert",
                                       made("ca.pem"), *shown, "-d", PREDICT], capture_output=True, text=True, timeout=60)
                check(done.returncode == 1 and why in done.stderr and advice in done.stderr, "%s: %d %s", name, done.returncode, done.stderr)


@case
def certificates_of_another_time_are_told_at_the_start():
    def told(made, name, client_ca, expected):
        with serving_tls(made, "--tls-client-ca", made(client_ca), pairs=(name,)) as server:
            wait_for(expected, lambda: expected in server.log)
    with folder() as made:
        made.sign("ca", "early", "DNS:localhost", start="20980101000000Z")
        made.sign("ca", "past", "DNS:past.test", end="20210101000000Z", more=["-extensions", "authority"])
        made.sign("ca", "future", "DNS:future.test", start="20980101000000Z", more=["-extensions", "authority"])
        made.sign("ca", "leaf", "DNS:leaf.test")
        told(made, "early", "ca.pem", "early.pem is not valid yet, but in ")
        told(made, "server", "past.pem", "past.pem: CN=past has expired: callers")
        told(made, "server", "future.pem", "future.pem: CN=future is not valid yet")
        told(made, "server", "leaf.pem", "leaf.pem: CN=leaf is no authority")
        with serving_tls(made, "--tls-client-ca", made("ca.pem")) as server:
            wait_for("the start", lambda: "serving as root" in server.log or "confine" in server.log)
            check("error" not in server.log, "%s", server.log)


@case
def printed_lines_show_a_certificate():
    """Where callers must show one, every line has a place for it, and works with the caller's files there."""
    with folder() as made:
        made.sign("ca", "client", "DNS:client.test")
        rules = made.write("access.yaml", b"certificates:\n  - {match: 'dns:client.test', name: bob}\nrules:\n  - {who: bob, may: [infer, read]}\n")
        os.chmod(rules, 0o600)
        env = {"SSL_CERT_FILE": made("ca.pem"), "CURL_CA_BUNDLE": made("ca.pem")}
        for options in ([], ["--access", rules]):
            with Server(os.path.join(EXAMPLES, "spam"), options=["--tls", made.pair("server"), "--tls-client-ca", made("ca.pem"), *options],
                        env=env) as server:
                wait_for("its lines", lambda: "call --grpc spam" in server.log)
                check("try (callers show a certificate: CERT and KEY are its files):" in server.log, "%s", server.log)
                lines = [line.strip() for line in server.log.splitlines() if line.startswith("  curl ") or " call " in line]
                check(len(lines) >= 3, "%s", server.log)
                for line in lines:
                    line = line.replace(" --cert CERT,KEY", " --cacert %s --cert %s" % (made("ca.pem"), made.pair("client")))
                    line = line.replace(" --cert CERT --key KEY", " --cert %s --key %s" % (made("client.pem"), made("client.key")))
                    out = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, env={**os.environ, **env})
                    check(out.returncode == 0 and '"label"' in out.stdout, "%s: %s%s", line, out.stdout, out.stderr)
        with serving_tls(made) as server:
            check("CERT" not in server.log, "%s", server.log)


def as_client(server, made, name, *more):
    """The code of an answer to who shows that certificate; 000 and what curl says: there was none."""
    return curl("--cacert", made("ca.pem"), "--cert", made(name + ".pem"), "--key", made(name + ".key"), *more,
                "https://localhost:%d/v2/health/ready" % server.port, "-o", "/dev/null", "-w", "%{http_code}", fails=True)


@cases({"tls12": ("1.2", "-tls1_2"), "tls13": ("1.3", "-tls1_3")})
def revoked_certificates(most, version):
    """A list that is replaced while the server runs: from then on who stands in it is refused, also by a ticket of before."""
    with folder() as made:
        saved = {name: made(name + ".session") for name in ("good", "bad")}

        def resumes(name, *how):
            out = s_client(server, made, version, "-cert", made(name + ".pem"), "-key", made(name + ".key"), "-ign_eof", *how, input=ASK)
            return "Reused, " in out, "HTTP/1.1 200" in out, out
        made.sign("ca", "good", "DNS:good.test")
        made.sign("ca", "bad", "DNS:bad.test")
        crl = made.write("ca.crl", made.crl("ca"))
        with serving_tls(made, "--tls-client-ca", made("ca.pem"), "--tls-client-crl", crl) as server:
            for name in ("good", "bad"):
                equal(as_client(server, made, name, "--tls-max", most), "200")
                equal(resumes(name, "-sess_out", saved[name])[:2], (False, True))
            made.revoke("ca", "bad")
            made.write("ca.crl", made.crl("ca"))
            wait_for("the list", lambda: "read anew" in server.log)
            equal(as_client(server, made, "good", "--tls-max", most), "200")
            out = as_client(server, made, "bad", "--tls-max", most)
            check(out.startswith("000") and "revoked" in out.lower(), "%s", out)
            is_reused, is_served, out = resumes("bad", "-sess_in", saved["bad"])
            check(not is_reused and not is_served and "certificate revoked" in out, "%s", out[-500:])
            is_reused, is_served, out = resumes("good", "-sess_in", saved["good"])
            check(is_reused and is_served, "%s", out[-500:])
            whole = made.crl("ca")
            made.write("ca.crl", whole[: len(whole) // 2])
            wait_for("half a list", lambda: "--tls-client-crl: %s: list 1 cannot be read" % crl in server.log)
            check(as_client(server, made, "bad", "--tls-max", most).startswith("000"), "the former list stays")
            equal(as_client(server, made, "good", "--tls-max", most), "200")
            made.write("ca.crl", made.crl("ca", "-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z"))
            wait_for("an old list", lambda: "has expired at 2020-02-01" in server.log)
            equal(as_client(server, made, "good", "--tls-max", most), "200")
            shown = ["--cert", made("good.pem"), "--key", made("good.key")]
            left = metric(made, server, "tls_client_crl_expires_in_seconds", *shown)
            check(29 * 86400 < left <= 30 * 86400, "%g s", left)
            check(metric(made, server, 'tls_failures_total{reason="certificate"}', *shown) >= 3, "refusals are counted")


@case
def revoked_authorities():
    """Each certificate of a chain is looked up: one below another, and then the one between is revoked."""
    with folder() as made:
        made.sign("ca", "mid", "DNS:mid.test", more=("-extensions", "authority"))
        made.become_authority("mid")
        made.sign("mid", "client", "DNS:client.test")
        both = made.write("both.pem", b"".join(open(made(name), "rb").read() for name in ("ca.pem", "mid.pem")))
        lists = made.write("both.crl", made.crl("ca") + made.crl("mid"))
        with serving_tls(made, "--tls-client-ca", both, "--tls-client-crl", lists) as server:
            equal(as_client(server, made, "client"), "200")
            made.revoke("mid", "client")
            made.write("both.crl", made.crl("ca") + made.crl("mid"))
            wait_for("the lists", lambda: server.log.count("read anew") == 1)
            check(as_client(server, made, "client").startswith("000"), "its own certificate")
            made.sign("mid", "client", "DNS:client.test")
            equal(as_client(server, made, "client"), "200")
            made.revoke("ca", "mid")
            made.write("both.crl", made.crl("mid") + made.crl("ca"))
            wait_for("the lists", lambda: server.log.count("read anew") == 2)
            check(as_client(server, made, "client").startswith("000"), "that of who signed it")
            made.write("both.crl", made.crl("ca"))
            wait_for("one is missing", lambda: "has no list of CN=mid" in server.log)


@cases({
    "expired": (lambda made: made.crl("ca", "-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z"),
                "the list of CN=ca has expired at 2020-02-01 00:00 UTC"),
    "early": (lambda made: made.crl("ca", "-crl_lastupdate", "20980101000000Z", "-crl_nextupdate", "20990101000000Z"),
              "begins to hold at 2098-01-01"),
    "of_another": (lambda made: made.authority("other") or made.crl("other"), "the list of CN=other is not signed by an authority"),
    "half": (lambda made: made.crl("ca")[:200], "list 1 cannot be read"),
    "der": (lambda made: made.crl("ca") and openssl("crl", "-in", made("ca.crl.new"), "-outform", "DER", "-out", made("der")) or
            open(made("der"), "rb").read(), "`openssl crl -inform DER -in "),
    "empty": (lambda made: b"", "is empty: it takes a list of revoked certificates"),
    "certificate": (lambda made: open(made("ca.pem"), "rb").read(), "is a certificate, and a list of revoked certificates is wanted"),
})
def lists_that_are_no_good(make, why):
    with folder() as made:
        crl = made.write("it.crl", make(made))
        status, err = starting(made.pair("server"), "--tls-client-ca", made("ca.pem"), "--tls-client-crl", crl)
        check(status == 1 and err.startswith("penstock: --tls-client-crl: %s" % crl) and why in err, "%d %s", status, err)


@case
def lists_need_authorities():
    with folder() as made:
        status, err = starting(made.pair("server"), "--tls-client-crl", made.write("it.crl", made.crl("ca")))
        check(status == 2 and "--tls-client-ca FILE" in err, "%d %s", status, err)


# --- tickets ------------------------------------------------------------------------------------------------------

@cases({"tls12": ("-tls1_2",), "tls13": ("-tls1_3",)})
def tickets(version):
    def visit(server, made, *how):
        # -ign_eof: until the answer's end, as the ticket of 1.3 comes behind the handshake
        out = s_client(server, made, version, *how, "-ign_eof", input=ASK)
        check("New, " in out or "Reused, " in out, "%s", out[-500:])
        return "Reused, " in out

    with folder() as made:
        saved = made("session")
        with serving_tls(made) as server:
            check(not visit(server, made, "-sess_out", saved), "the first is full")
            check(visit(server, made, "-sess_in", saved, "-sess_out", made("next")), "its own ticket")
            # RFC 8446 C.4: one of 1.3 is used once, and brings the next
            check(visit(server, made, "-sess_in", made("next") if version == "-tls1_3" else saved), "and the one that came with it")
            equal(metric(made, server, 'tls_handshakes_total{result="resumed"}'), 2)
        with serving_tls(made) as server:
            check(not visit(server, made, "-sess_in", saved), "another server's ticket: a full handshake")
        with open(made("tickets"), "wb") as file:
            file.write(os.urandom(80))
        os.chmod(made("tickets"), 0o600)
        with serving_tls(made, "--tls-ticket-keys", made("tickets")) as server:
            visit(server, made, "-sess_out", saved)
        with serving_tls(made, "--tls-ticket-keys", made("tickets")) as server:
            check(visit(server, made, "-sess_in", saved), "keys of a file are several servers'")
            with open(made("tickets"), "rb") as file:
                old = file.read()
            with open(made("tickets"), "wb") as file:
                file.write(os.urandom(80))
            wait_for("new keys", lambda: "read anew" in server.log)
            check(not visit(server, made, "-sess_in", saved), "its key has gone")
            with open(made("tickets"), "wb") as file:
                file.write(b"short")
            wait_for("the refusal", lambda: "5 bytes" in server.log)
            with open(made("tickets"), "wb") as file:
                file.write(os.urandom(80) + old)
            wait_for("both keys", lambda: server.log.count("read anew") == 2)
            check(visit(server, made, "-sess_in", saved), "the former key behind the new one")
        with serving_tls(made, "--tls-ticket-time", "0") as server:
            out = s_client(server, made, version, "-ign_eof", input=ASK)
            check("TLS session ticket:" not in out, "%s", out[-500:])


# --- OCSP -----------------------------------------------------------------------------------------------------------

@case
def ocsp_is_stapled():
    with folder() as made:
        with open(made("server.pem"), "a") as chain, open(made("ca.pem")) as ca:
            chain.write(ca.read())
        made.ocsp("ca", "server", "-ndays", "1")
        with serving_tls(made) as server:
            out = s_client(server, made, "-status")
            check("OCSP Response Status: successful" in out and "Cert Status: good" in out, "%s", out[:600])
            made.sign("ca", "second", "DNS:second.test")
            made.ocsp("ca", "second", "-ndays", "1")
            os.replace(made("second.pem.ocsp"), made("server.pem.ocsp"))
            wait_for("the log", lambda: "about another certificate" in server.log)
            wait_for("nothing stapled", lambda: "no response sent" in s_client(server, made, "-status"))
            made.ocsp("ca", "server", "-ndays", "1")
            wait_for("the next", lambda: "no response sent" not in s_client(server, made, "-status"))
            with open(made("server.pem.ocsp"), "wb") as file:
                file.write(b"not OCSP")
            wait_for("the log", lambda: "no OCSP answer in DER form" in server.log)


# --- files that change ------------------------------------------------------------------------------------------------

@case
def files_change_while_it_serves():
    with folder() as made, serving_tls(made) as server, connect(server, made.trusting()) as kept:
        equal(ask(kept)[0], 200)
        first = kept.getpeercert()["serialNumber"]
        with open(made("server.pem"), "rb") as file:
            cert = file.read()
        with open(made("server.pem"), "wb") as file:
            file.write(cert[: len(cert) // 2])
        wait_for("half written", lambda: "the former certificates stay" in server.log)
        check("server.pem is a certificate that cannot be read" in server.log, "%s", server.log[-500:])
        made.sign("ca", "next", "DNS:localhost,IP:127.0.0.1")
        os.replace(made("next.pem"), made("server.pem"))
        wait_for("a pair that does not fit", lambda: "is not that of the certificate" in server.log)
        with connect(server, made.trusting()) as other:
            equal(other.getpeercert()["serialNumber"], first, "the former is served")
            equal(ask(other)[0], 200)
        made.sign("ca", "late", "DNS:localhost", end="20210101000000Z")
        os.replace(made("late.key"), made("server.key"))
        os.replace(made("late.pem"), made("server.pem"))
        wait_for("one that is over", lambda: "has expired" in server.log)
        made.sign("ca", "good", "DNS:localhost,IP:127.0.0.1")
        os.replace(made("good.key"), made("server.key"))
        os.replace(made("good.pem"), made("server.pem"))
        wait_for("a good one", lambda: "read anew" in server.log)
        with connect(server, made.trusting()) as other:
            check(other.getpeercert()["serialNumber"] != first, "the new one is served")
            equal(ask(other)[0], 200)
        equal(ask(kept)[0], 200, "the connection of before goes on")
        equal(metric(made, server, 'tls_reloads_total{result="ok"}'), 1)
        check(metric(made, server, 'tls_reloads_total{result="refused"}') >= 3, "refusals are counted")
        check(metric(made, server, 'tls_certificate_expires_in_seconds{certificate="%s"}' % made("server.pem")) > 1e8, "72 years")


@case
def sighup_reads_again():
    with folder() as made, serving_tls(made, "--tls-watch", "0") as server:
        made.sign("ca", "next", "DNS:localhost,IP:127.0.0.1")
        os.replace(made("next.pem"), made("server.pem"))
        os.kill(server.process.pid, signal.SIGHUP)
        wait_for("the refusal", lambda: "the former certificates stay" in server.log)
        os.replace(made("next.key"), made("server.key"))
        os.kill(server.process.pid, signal.SIGHUP)
        wait_for("the new pair", lambda: "read anew" in server.log)
        check("CN = next" in s_client(server, made), "the new one is served")


@case
def reloads_lose_no_request():
    with folder() as made, serving_tls(made) as server:
        stop = threading.Event()
        failures, done = [], [0]

        def visit():
            context = made.trusting()
            while not stop.is_set():
                try:
                    with connect(server, context) as stream:
                        for _ in range(5):
                            equal(ask(stream)[0], 200)
                            done[0] += 1
                except Exception as error:      # noqa: any of them is a lost request
                    failures.append(repr(error))
        threads = [threading.Thread(target=visit) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number in range(4):
                made.sign("ca", "next%d" % number, "DNS:localhost,IP:127.0.0.1")
                os.replace(made("next%d.key" % number), made("server.key"))
                os.replace(made("next%d.pem" % number), made("server.pem"))
                wait_for("reload %d" % number, lambda: server.log.count("read anew") >= number + 1)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        check(not failures, "%s of %d", failures[:3], done[0])
        check(done[0] > 50, "%d requests", done[0])


def starting(tls, *options, env=None):
    """(exit status, what it said) of a server that is not to start."""
    done = subprocess.run([BINARY, "serve", os.path.join(EXAMPLES, "iris"), "--listen", "127.0.0.1:0", "--tls", tls, *options],
                          capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})})
    check("listening" not in done.stdout + done.stderr, "before the port opens: %s", done.stderr)
    equal(len(done.stderr.splitlines()), 1, "one sentence: %s" % done.stderr)
    return done.returncode, done.stderr


def forms(made):
    """What people have who were not told which form is meant."""
    openssl("x509", "-in", made("server.pem"), "-outform", "DER", "-out", made("server.der"))
    openssl("pkey", "-in", made("server.key"), "-outform", "DER", "-out", made("server.key.der"))
    openssl("pkcs12", "-export", "-in", made("server.pem"), "-inkey", made("server.key"), "-out", made("server.p12"), "-passout", "pass:x")
    openssl("pkey", "-in", made("server.key"), "-aes128", "-passout", "pass:x", "-out", made("sealed.key"))
    openssl("ec", "-in", made("server.key"), "-aes128", "-passout", "pass:x", "-out", made("sealed-old.key"))
    openssl("pkey", "-in", made("server.key"), "-pubout", "-out", made("public.pem"))
    made.write("empty.pem", b"")


# Files: 1, as for whatever keeps a server from starting; how the option is written: 2 (docs/options.md).
@cases({
    "no_file": ("nothing.pem", "server.key", 1, "nothing.pem"),
    "no_key_file": ("server.pem", "nothing.key", 1, "nothing.key"),
    "wrong_key": ("server.pem", "ca.key", 1, "is not that of the certificate"),
    "two_keys": ("server.key", "server.key", 1, "server.key is a private key, and a certificate is wanted: the order is CERT,KEY"),
    "two_certificates": ("server.pem", "server.pem", 1, "server.pem is a certificate, and a private key is wanted: the order is CERT,KEY"),
    "swapped": ("server.key", "server.pem", 1, "the two are swapped"),
    "sealed": ("server.pem", "sealed.key", 1, "`openssl pkey -in "),
    "sealed_as_of_old": ("server.pem", "sealed-old.key", 1, "`openssl pkey -in "),
    "der": ("server.der", "server.key", 1, "`openssl x509 -inform DER -in "),
    "der_key": ("server.pem", "server.key.der", 1, "`openssl pkey -inform DER -in "),
    "pkcs12": ("server.p12", "server.p12", 1, "is a PKCS#12 file"),
    "request": ("server.csr", "server.key", 1, "is a request for a certificate (CSR)"),
    "public_key": ("server.pem", "public.pem", 1, "is a public key"),
    "empty": ("empty.pem", "server.key", 1, "empty.pem is empty: it takes a certificate in PEM form"),
    "empty_key": ("server.pem", "empty.pem", 1, "empty.pem is empty: it takes a private key in PEM form"),
    "folder": ("ca.ca", "server.key", 1, "ca.ca is a folder, not a regular file"),
    "folder_of_keys": ("server.pem", "ca.ca", 1, "ca.ca is a folder, not a regular file"),
    "one_word": ("x", None, 2, "expected CERT.pem,KEY.pem"),
    "four_words": ("a,b,c,d", None, 2, "expected CERT.pem,KEY.pem"),
})
def does_not_start(cert, key, expected, why):
    with folder() as made:
        forms(made)
        status, err = starting("%s,%s" % (made(cert), made(key)) if key else cert)
        check(status == expected and err.startswith("penstock: --tls: ") and why in err, "%d %s", status, err)


@case
def what_is_advised_works():
    """The lines of openssl that an error gives, run as they stand: what they write is served."""
    with folder() as made:
        forms(made)
        for cert, key in (("server.der", "server.key"), ("server.pem", "server.key.der"), ("server.pem", "sealed.key"),
                          ("server.p12", "server.p12")):
            _, err = starting("%s,%s" % (made(cert), made(key)))
            lines = re.findall("`(openssl [^`]*)`", err)
            check(lines, "%s", err)
            for line in lines:
                line = line.replace("openssl pkey -in", "openssl pkey -passin pass:x -in").replace("pkcs12 -in", "pkcs12 -passin pass:x -in")
                subprocess.run(line, shell=True, check=True, cwd=made.path, capture_output=True, timeout=60)
            pair = [made(new) if any(new in line for line in lines) else made(old)
                    for old, new in ((cert, "NEW.pem"), (key, "NEW.key"))]
            with serving(options=["--tls", ",".join(pair)]) as server:
                check("CN = server" in s_client(server, made), "%s %s", cert, key)


@cases({
    "client_ca_missing": ("--tls-client-ca", "nothing.pem", "nothing.pem"),
    "client_ca_key": ("--tls-client-ca", "server.key", "is a private key, and a certificate is wanted"),
    "client_ca_empty": ("--tls-client-ca", "empty.pem", "is empty"),
    "client_crl_missing": ("--tls-client-crl", "nothing.crl", "nothing.crl"),
    "ticket_keys_missing": ("--tls-ticket-keys", "nothing.keys", "nothing.keys"),
    "ticket_keys_short": ("--tls-ticket-keys", "server.key", "bytes: ticket keys are"),
})
def other_files(option, name, why):
    with folder() as made:
        forms(made)
        more = ["--tls-client-ca", made("ca.pem")] if option == "--tls-client-crl" else []
        status, err = starting(made.pair("server"), *more, option, made(name))
        check(status == 1 and err.startswith("penstock: %s: " % option) and why in err, "%d %s", status, err)


# How the options stand to each other: 2 where the command line says it, 1 where the environment does.
@cases({
    "required_of_nobody": (["--tls-client-auth", "required"], "--tls-client-auth needs", "--tls-client-ca FILE"),
    "optional_of_nobody": (["--tls-client-auth", "optional"], "--tls-client-auth needs", "--tls-client-ca FILE"),
    "plain_beside_required": (["--tls-client-ca", "ca.pem", "--tls-plain", "serve"], "--tls-plain: by plain HTTP", "--tls-client-auth optional"),
})
def callers_are_let_in_by_no_side_door(options, begins, advice):
    with folder() as made:
        options = [made(word) if word.endswith(".pem") else word for word in options]
        status, err = starting(made.pair("server"), *options)
        check(status == 2 and err.startswith("penstock: " + begins) and advice in err, "%d %s", status, err)
        name = "PENSTOCK_" + options[-2][2:].upper().replace("-", "_")
        status, err = starting(made.pair("server"), *options[:-2], env={name: options[-1]})
        check(status == 1 and name in err and advice in err, "%d %s", status, err)


@case
def what_asks_for_no_certificate_starts():
    with folder() as made:
        for options in (["--tls-client-auth", "none"],
                        ["--tls-client-ca", made("ca.pem"), "--tls-client-auth", "optional", "--tls-plain", "serve"]):
            with serving_tls(made, *options) as server:
                curl("--cacert", made("ca.pem"), "-f", "https://localhost:%d/v2/health/live" % server.port)


@case
def https_needs_a_certificate():
    done = subprocess.run([BINARY, "serve", os.path.join(EXAMPLES, "iris"), "--listen", "https://127.0.0.1:0"], capture_output=True,
                          text=True, timeout=60)
    check(done.returncode != 0 and "--tls CERT,KEY" in done.stderr, "%s", done.stderr)


# --- a local authority ----------------------------------------------------------------------------------------------------

@case
def auto():
    with tempfile.TemporaryDirectory(prefix="penstock-auto-") as state:
        env = {"XDG_STATE_HOME": state}
        place = os.path.join(state, "penstock", "tls")
        authority = os.path.join(place, "authority.pem")
        with Server(os.path.join(EXAMPLES, "spam"), options=["--tls", "auto"], env=env) as server:
            equal(sorted(os.listdir(place)), ["authority.key", "authority.pem", "lock", "server.key", "server.pem"])
            equal({oct(os.stat(os.path.join(place, name)).st_mode & 0o777) for name in ("authority.key", "server.key")}, {"0o600"})
            equal(oct(os.stat(place).st_mode & 0o777), "0o700")
            wait_for("its lines", lambda: "trust: curl --cacert " + authority in server.log)
            lines = [line.strip() for line in server.log.splitlines()
                     if line.startswith("  ") and "--cacert" in line and ("curl" in line or " call " in line)]
            check(len(lines) >= 3, "%s", server.log)
            for line in lines:
                out = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60)
                check(out.returncode == 0 and '"label"' in out.stdout, "%s: %s%s", line, out.stdout, out.stderr)
            for name in ("localhost", "127.0.0.1", socket.gethostname()):
                connect(server, ssl.create_default_context(cafile=authority), name).close()
        with open(authority, "rb") as file:
            before = file.read()
        with Server(os.path.join(EXAMPLES, "spam"), options=["--tls", "auto"], env=env) as server:
            with open(authority, "rb") as file:
                equal(file.read(), before, "made once")


# --- who does not finish ---------------------------------------------------------------------------------------------------

@case
def handshakes_have_a_time():
    with folder() as made, serving_tls(made, "--tls-handshake-timeout", "300ms") as server:
        silent = socket.create_connection((server.host, server.port), 20)
        begun = socket.create_connection((server.host, server.port), 20)
        begun.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        for one in (silent, begun):
            equal(one.recv(100), b"", "closed")
            one.close()
        equal(metric(made, server, 'tls_failures_total{reason="timeout"}'), 2)
        equal(metric(made, server, 'limit_hits_total{limit="tls-handshake-timeout"}'), 2)


@case
def handshakes_have_a_number():
    with folder() as made, serving_tls(made, "--tls-handshakes-max", "8", "--loops", "1") as server, connect(server, made.trusting()) as kept:
        equal(ask(kept)[0], 200)
        idle = [socket.create_connection((server.host, server.port), 20) for _ in range(50)]
        with connect(server, made.trusting()) as other:
            equal(ask(other)[0], 200, "who finishes is served")
        equal(ask(kept)[0], 200)
        equal(idle[0].recv(100), b"", "the oldest made room")
        check(metric(made, server, 'limit_hits_total{limit="tls-handshakes-max"}') >= 40, "counted")
        for one in idle:
            one.close()


@case
def a_flood_of_handshakes_starves_nobody():
    """Served on one loop while others begin handshakes and leave: the served one's answers come all the same."""
    with folder() as made, serving_tls(made, "--loops", "1") as server, connect(server, made.trusting()) as kept:
        outgoing = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            made.trusting().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
        hello = outgoing.read()
        stop = threading.Event()

        def flood():
            while not stop.is_set():
                sockets = []
                for _ in range(50):
                    one = socket.create_connection((server.host, server.port), 20)
                    one.sendall(hello)
                    sockets.append(one)
                for one in sockets:
                    one.close()
        equal(ask(kept)[0], 200)
        threads = [threading.Thread(target=flood) for _ in range(2)]
        for thread in threads:
            thread.start()
        times = []
        try:
            for _ in range(200):
                begun = time.monotonic()
                equal(ask(kept)[0], 200)
                times.append(time.monotonic() - begun)
                time.sleep(0.005)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        times.sort()
        check(times[100] < 0.1, "half of the answers within %.1f ms", times[100] * 1e3)
        check(times[-1] < 2, "the slowest %.1f ms", times[-1] * 1e3)


@case
def bytes_of_nonsense():
    """Records that are none, handshakes that are cut, one byte at a time: the connection ends, the server does not."""
    with folder() as made, serving_tls(made) as server:
        for data in (b"\x16", b"\x16\x03\x01\xff\xff" + bytes(100), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x16\x03\x01\x00\x00" * 50,
                     b"\x16" + os.urandom(2000), b"\x80\x2e\x01\x00\x02"):
            with socket.create_connection((server.host, server.port), 20) as one, contextlib.suppress(OSError):
                one.sendall(data)
                one.shutdown(socket.SHUT_WR)
                while one.recv(4096):
                    pass
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = made.trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection((server.host, server.port), 20) as one:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def say():
                for byte in outgoing.read():
                    one.sendall(bytes([byte]))
            done = False
            while not done:
                try:
                    client.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    say()
                    incoming.write(one.recv(65536))
            client.write(b"GET /v2/health/ready HTTP/1.0\r\n\r\n")
            say()
            answer = b""
            while b"200" not in answer:
                piece = one.recv(65536)
                check(piece, "it ended: %r", answer)
                incoming.write(piece)
                with contextlib.suppress(ssl.SSLWantReadError):
                    answer += client.read(65536)


@case
def a_record_that_is_cut():
    """The peer leaves within a record, its end in the same packet: its connection goes at once."""
    with folder() as made, serving_tls(made) as server:
        stream = connect(server, made.trusting())
        equal(ask(stream)[0], 200)
        plain = socket.socket(fileno=stream.detach())
        wait_for("open", lambda: metric(made, server, "connections_open") == 2)
        plain.sendall(b"\x17\x03\x03\x00\x50 half of it")
        plain.shutdown(socket.SHUT_WR)
        wait_for("gone", lambda: metric(made, server, "connections_open") == 1, seconds=10)
        plain.close()


@case
def the_end_is_said():
    """close_notify: whoever reads until the end of a connection can tell an end from a cut."""
    with folder() as made, serving_tls(made) as server:
        with made.trusting().wrap_socket(socket.create_connection((server.host, server.port), 20), server_hostname="localhost",
                                         suppress_ragged_eofs=False) as stream:
            stream.sendall(b"GET /v2/health/ready HTTP/1.0\r\n\r\n")
            data = b""
            while piece := stream.recv(65536):      # raises SSLEOFError where nothing was said
                data += piece
            check(b" 200 " in data[:20], "%r", data[:50])


if __name__ == "__main__":
    main()
