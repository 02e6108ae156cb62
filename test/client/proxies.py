"""nginx and HAProxy in front of us, as docs/deploy/ has them: those very files, with other ports and a certificate of today."""
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time

from harness import ROOT, case, cases, check, equal, main, need, need_program, raises, skip
from _client import IRIS_INPUT, echo, serving
from _grpc import UNLIMITED, Reflected, status

DEPLOY = os.path.join(ROOT, "docs", "deploy")
KSERVE = "inference.GRPCInferenceService"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def program(name):
    return shutil.which(name) or shutil.which("/usr/sbin/" + name) or skip("no %s (script/bootstrap clients)" % name)


def certificate(where):
    run = [need_program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
           "-keyout", where + "/tls.key", "-out", where + "/tls.crt", "-days", "2", "-subj", "/CN=localhost", "-addext",
           "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    done = subprocess.run(run, capture_output=True, text=True)
    check(done.returncode == 0, "openssl: %s", done.stderr)
    with open(where + "/tls.pem", "w") as file:
        file.write(open(where + "/tls.crt").read() + open(where + "/tls.key").read())


def replaced(text, rows):
    """Each row of text must be there: a page that changed is seen here."""
    for before, after in rows:
        check(before in text, "docs/deploy has no %r any more", before)
        text = text.replace(before, after)
    return text


class Proxy:
    def __init__(self, kind, tls, plain, where):
        self.kind, self.tls, self.plain, self.where = kind, tls, plain, where
        with open(where + "/tls.crt", "rb") as file:
            self.root = file.read()

    @contextlib.contextmanager
    def channel(self, is_plain=False):
        grpc = need("grpc")
        if is_plain:
            made = grpc.insecure_channel("localhost:%d" % self.plain, options=UNLIMITED)
        else:
            made = grpc.secure_channel("localhost:%d" % self.tls, grpc.ssl_channel_credentials(self.root), options=UNLIMITED)
        with made as over:
            yield over

    def rest(self, method, path, document=None):
        context = ssl.create_default_context(cafile=self.where + "/tls.crt")
        connection = http.client.HTTPSConnection("localhost", self.tls, timeout=30, context=context)
        try:
            connection.request(method, path, json.dumps(document) if document else None, {"content-type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()


def nginx(server, where, tls):
    with open(os.path.join(DEPLOY, "nginx.conf")) as file:
        text = replaced(file.read(), [("127.0.0.1:8000", server.address), ("listen 443 ", "listen 127.0.0.1:%d " % tls),
                                      ("/etc/penstock/", where + "/"), ("models.example.com", "localhost")])
    with open(where + "/penstock.conf", "w") as file:
        file.write(text)
    paths = "".join("    %s_temp_path %s/%s;\n" % (kind, where, kind)
                    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    with open(where + "/nginx.conf", "w") as file:
        file.write("daemon off;\npid %s/pid;\nerror_log %s/log warn;\nevents { worker_connections 4096; }\nhttp {\n    access_log off;\n%s"
                   "    include %s/penstock.conf;\n}\n" % (where, where, paths, where))
    os.chmod(where, 0o755)
    return [program("nginx"), "-e", where + "/log", "-p", where, "-c", where + "/nginx.conf"]


def haproxy(server, where, tls, plain):
    with open(os.path.join(DEPLOY, "haproxy.cfg")) as file:
        text = replaced(file.read(), [("127.0.0.1:8000", server.address), ("bind :443 ", "bind 127.0.0.1:%d " % tls),
                                      ("/etc/penstock/", where + "/"), ("127.0.0.1:8080", "127.0.0.1:%d" % plain)])
    with open(where + "/haproxy.cfg", "w") as file:
        file.write(text)
    return [program("haproxy"), "-db", "-f", where + "/haproxy.cfg"]


@contextlib.contextmanager
def behind(kind, **more):
    """A server and a proxy in front of it."""
    with serving(**more) as server, tempfile.TemporaryDirectory(prefix="penstock-proxy-") as where:
        tls, plain = free_port(), free_port()
        certificate(where)
        command = nginx(server, where, tls) if kind == "nginx" else haproxy(server, where, tls, plain)
        with open(where + "/out", "wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        proxy = Proxy(kind, tls, plain, where)
        try:
            until = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    if proxy.rest("GET", "/v2/health/ready")[0] == 200:
                        break
                check(time.monotonic() < until and process.poll() is None, "%s does not serve: %s", kind,
                      open(where + "/out").read()[-800:] + (open(where + "/log").read() if os.path.exists(where + "/log") else ""))
                time.sleep(0.05)
            yield server, proxy
        finally:
            process.terminate()
            process.wait(20)


KINDS = {"nginx": ("nginx",), "haproxy": ("haproxy",)}
IRIS = {"model_name": "iris", "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4],
                                          "contents": {"fp32_contents": IRIS_INPUT[2]}}]}


@cases(KINDS)
def rest_and_grpc_through_one_port(kind):
    with behind(kind) as (server, proxy):
        fields = dict(zip(("sepal_length", "sepal_width", "petal_length", "petal_width"), IRIS_INPUT[2]))
        found, body = proxy.rest("POST", "/models/iris:predict", fields)
        equal((found, json.loads(body)["label"]), (200, "virginica"))
        with proxy.channel() as over:
            reflected = Reflected(over)
            equal(reflected.unary("penstock.models.Iris", "Predict")(fields).label, "virginica")
            answer = reflected.unary(KSERVE, "ModelInfer")(IRIS)
            equal(answer.model_name, "iris")
        equal(proxy.rest("GET", "/metrics")[0], 403)


@cases(KINDS)
def rest_over_http2(kind):
    httpx = need("httpx")
    need("h2")
    with behind(kind) as (server, proxy):
        context = ssl.create_default_context(cafile=proxy.where + "/tls.crt")
        with httpx.Client(http2=True, verify=context) as client:
            reply = client.get("https://localhost:%d/v2/models/iris" % proxy.tls)
            equal((reply.http_version, reply.status_code, reply.json()["name"]), ("HTTP/2", 200, "iris"))


@cases(KINDS)
def a_large_message(kind):
    """16 MiB both ways."""
    pb, stubs = need("tritonclient.grpc.service_pb2"), need("tritonclient.grpc.service_pb2_grpc")
    data = need("numpy").random.RandomState(4).bytes(16 << 20)
    request = pb.ModelInferRequest(model_name="echo_FP32", raw_input_contents=[data])
    request.inputs.add(name="IN", datatype="FP32", shape=[1, len(data) // 4])
    with behind(kind) as (server, proxy), proxy.channel() as over:
        answer = stubs.GRPCInferenceServiceStub(over).ModelInfer(request, timeout=60)
        check(answer.raw_output_contents[0] == data, "16 MiB came back changed")


@cases(KINDS)
def errors_come_through(kind):
    """The status, its sentence, its details and a deadline are the server's; what is the proxy's own is a gRPC status too."""
    grpc = need("grpc")
    with behind(kind, slow=echo("slow", "FP32", mode="delay", delay_ms=20000)) as (server, proxy), proxy.channel() as over:
        reflected = Reflected(over)
        with raises(grpc.RpcError, "none") as caught:
            reflected.unary(KSERVE, "ModelMetadata")({"name": "none"})
        equal(status(caught.error), "NOT_FOUND")
        with raises(grpc.RpcError, "sepal_length") as caught:
            reflected.unary("penstock.models.Iris", "Predict")({"sepal_length": 510})
        check(b"sepal_length" in dict(caught.error.trailing_metadata()).get("grpc-status-details-bin", b""), "no details")
        with raises(grpc.RpcError) as caught:
            reflected.unary(KSERVE, "ModelInfer")({"model_name": "slow", "inputs": [
                {"name": "IN", "datatype": "FP32", "shape": [1], "contents": {"fp32_contents": [1]}}]}, timeout=0.5)
        equal(status(caught.error), "DEADLINE_EXCEEDED")
        infer = reflected.unary(KSERVE, "ModelInfer")
        server.kill()
        time.sleep(2.5)         # HAProxy's checks: twice, once a second
        with raises(grpc.RpcError) as caught:
            infer(IRIS)
        equal(status(caught.error), "UNAVAILABLE", caught.error.details())
        server.process.poll = lambda: None
        server.stop = lambda: 0


@cases(KINDS)
def a_watch_stays_open(kind):
    """health's Watch: the first answer at once, then nothing, and what changes when it does."""
    pb, stubs = need("grpc_health.v1.health_pb2"), need("grpc_health.v1.health_pb2_grpc")
    with behind(kind) as (server, proxy), proxy.channel() as over:
        begun = time.monotonic()
        watch = stubs.HealthStub(over).Watch(pb.HealthCheckRequest(), timeout=30)
        equal(next(watch).status, pb.HealthCheckResponse.SERVING)
        check(time.monotonic() - begun < 5, "the first answer came after %.1f s", time.monotonic() - begun)
        time.sleep(1.5)
        check(watch.is_active(), "the watch was ended")
        reflected = Reflected(over)
        equal(reflected.unary(KSERVE, "ServerLive")().live, True)
        watch.cancel()


@cases(KINDS)
def many_calls(kind):
    stubs, pb = need("tritonclient.grpc.service_pb2_grpc"), need("tritonclient.grpc.service_pb2")
    numpy = need("numpy")
    with behind(kind, options=["--queue-delay", "0"]) as (server, proxy), proxy.channel() as over:      # a machine may be busy
        infer = stubs.GRPCInferenceServiceStub(over).ModelInfer
        calls = []
        for i in range(1500):       # more than nginx lets one connection have, by its own default
            request = pb.ModelInferRequest(model_name="iris", id=str(i))
            request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
            request.raw_input_contents.append(numpy.array(IRIS_INPUT[i % 3], dtype=numpy.float32).tobytes())
            calls.append(infer.future(request, timeout=60))
        for i, call in enumerate(calls):
            answer = call.result()
            at = [tensor.name for tensor in answer.outputs].index("label")
            equal((answer.id, answer.raw_output_contents[at][0]), (str(i), i % 3))


@case
def haproxy_without_tls():
    """One port for HTTP/1.1 and h2c, told apart by the first bytes, as ours is."""
    with behind("haproxy") as (server, proxy), proxy.channel(is_plain=True) as over:
        equal(Reflected(over).unary(KSERVE, "ServerLive")().live, True)
        connection = http.client.HTTPConnection("localhost", proxy.plain, timeout=30)
        connection.request("GET", "/v2/health/ready")
        equal(connection.getresponse().status, 200)
        connection.close()


@case
def the_page_names_what_the_files_say():
    """Options and figures that README.md explains are those of the files."""
    with open(os.path.join(DEPLOY, "README.md")) as file:
        page = file.read()
    said = set(re.findall(r"^\| `([a-z0-9_.-]+)", page, re.M))
    have = ""
    for name in ("nginx.conf", "haproxy.cfg"):
        with open(os.path.join(DEPLOY, name)) as file:
            have += file.read()
    check(len(said) > 8, "the page explains %d settings", len(said))
    for name in said:
        check(name.replace(".", " ").split()[0] in have or name in have, "README.md explains %s, which no file has", name)


if __name__ == "__main__":
    main()
