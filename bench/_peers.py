"""The servers that Penstock is measured beside: nginx, nghttpd and grpc-go with a fixed answer, FastAPI with ONNX Runtime plain and
tuned, grpcio with ONNX Runtime."""
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile

from _lib import IRIS_GEMM, ROOT, Peer, die, free_port, program

NGINX = """\
worker_processes 1;
daemon off;
pid %(folder)s/pid;
error_log %(folder)s/error.log;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_body_temp_path %(folder)s/body;
    proxy_temp_path %(folder)s/proxy;
    fastcgi_temp_path %(folder)s/fastcgi;
    uwsgi_temp_path %(folder)s/uwsgi;
    scgi_temp_path %(folder)s/scgi;
    server {
        listen 127.0.0.1:%(port)d%(listen)s;
%(tls)s        location = %(path)s {
            default_type application/json;
            return 200 '%(body)s';
        }
    }
}
"""


# Tickets as ours: its own keys, no cache of sessions.
NGINX_TLS = """\
        ssl_certificate %s;
        ssl_certificate_key %s;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_tickets on;
        ssl_session_cache none;
"""


@contextlib.contextmanager
def nginx(path, body, certificate=None):
    """nginx that answers every request to `path` with `body`: one worker, no log, connections without an end. `certificate`:
    (file of the chain, file of the key), and it speaks TLS."""
    found = shutil.which("nginx") or shutil.which("/usr/sbin/nginx") or die("no nginx (script/bootstrap bench)")
    text = body.decode()
    if "'" in text or "$" in text or "\\" in text:
        die("nginx cannot be given this body")
    with tempfile.TemporaryDirectory(prefix="penstock-nginx-") as folder:
        os.chmod(folder, 0o755)
        port = free_port()
        config = os.path.join(folder, "nginx.conf")
        with open(config, "w") as file:
            file.write(NGINX % {"folder": folder, "port": port, "path": path, "body": text,
                                "listen": " ssl" if certificate else "", "tls": NGINX_TLS % certificate if certificate else ""})
        with Peer("nginx", [found, "-p", folder, "-e", os.path.join(folder, "error.log"), "-c", config], port) as server:
            yield server


def fastapi(is_tuned, model=IRIS_GEMM):
    """bench/_fastapi_app.py. Plain: `uvicorn app:app` and FastAPI's own ways. Tuned: uvloop, httptools, orjson, no validation
    library, one thread in ONNX Runtime."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "_fastapi_app:%s" % ("tuned" if is_tuned else "plain"),
               "--host", "127.0.0.1", "--port", str(port)]
    if is_tuned:
        command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    else:
        command += ["--loop", "asyncio", "--http", "h11"]
    return Peer("FastAPI tuned" if is_tuned else "FastAPI plain", command, port, cwd=os.path.dirname(os.path.abspath(__file__)),
                env={"BENCH_MODEL": model, "PYTHONDONTWRITEBYTECODE": "1"})


@contextlib.contextmanager
def nghttpd(answers):
    """nghttpd: one thread, HTTP/2, that answers each path with a fixed file and, behind it, the trailer of gRPC."""
    found = shutil.which("nghttpd") or die("no nghttpd (script/bootstrap bench)")
    with tempfile.TemporaryDirectory(prefix="penstock-nghttpd-") as folder:
        for path, body in answers.items():
            target = folder + path
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(body)
        port = free_port()
        # windows of 1 GiB, so that an upload does not wait for it
        command = [found, "--no-tls", "-d", folder, "--trailer", "grpc-status: 0", "-w", "30", "-W", "30", str(port)]
        with Peer("nghttpd", command, port) as server:
            yield server


def grpcio(model=IRIS_GEMM):
    """bench/_grpcio_app.py."""
    port = free_port()
    here = os.path.dirname(os.path.abspath(__file__))
    return Peer("grpcio", [sys.executable, os.path.join(here, "_grpcio_app.py"), str(port), model], port, cwd=here,
                env={"PYTHONDONTWRITEBYTECODE": "1"})


@contextlib.contextmanager
def grpc_go(message, *arguments):
    """bench/_go: grpc-go that answers a fixed message, on one core, or with `arguments` (OFFSET COUNT PERIOD_MS) a stream of it;
    yields None where there is no Go (script/bootstrap clients)."""
    folder = os.environ.get("PENSTOCK_GO_DIR")
    if not folder or not os.path.exists(folder):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="penstock-go-") as where:
        sources = [("script/requirements/go", "go.mod"), ("script/requirements/go", "go.sum"), ("bench/_go", "main.go")]
        for at, name in sources:
            shutil.copyfile(os.path.join(ROOT, at, name), os.path.join(where, name))
        env = dict(os.environ, GOTOOLCHAIN="local", GOWORK="off", GOENV="off", GO111MODULE="on", CGO_ENABLED="0", GOPROXY="off",
                   GOSUMDB="off", GOFLAGS="-mod=readonly -trimpath -modcacherw", GOMODCACHE=os.path.join(folder, "mod"),
                   GOCACHE=os.path.join(folder, "build"), GOPATH=os.path.join(folder, "path"))
        subprocess.run([os.path.join(folder, "go"), "build", "-o", "server", "."], cwd=where, env=env, check=True)
        with open(where + "/answer", "wb") as file:
            file.write(message)
        port = free_port()
        with Peer("grpc-go", [where + "/server", str(port), where + "/answer", *map(str, arguments)], port, env={"GOMAXPROCS": "1"}) as server:
            yield server


@contextlib.contextmanager
def fastapi_stream(token):
    """bench/_fastapi_stream.py with uvloop and httptools; `token` as bench/_token_file.py takes it, with bytes for FILE."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "_fastapi_stream:app", "--host", "127.0.0.1", "--port", str(port), "--loop",
               "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning", "--backlog", "4096"]
    with _token_file(token) as arguments:
        env = {"BENCH_TOKEN": " ".join(arguments), "PYTHONDONTWRITEBYTECODE": "1"}
        with Peer("FastAPI", command, port, cwd=os.path.dirname(os.path.abspath(__file__)), env=env) as server:
            yield server


@contextlib.contextmanager
def grpcio_stream(token):
    """bench/_grpcio_stream.py: grpcio's asyncio server."""
    port = free_port()
    here = os.path.dirname(os.path.abspath(__file__))
    with _token_file(token) as arguments:
        command = [sys.executable, os.path.join(here, "_grpcio_stream.py"), str(port), *arguments]
        with Peer("grpcio", command, port, cwd=here, env={"PYTHONDONTWRITEBYTECODE": "1"}) as server:
            yield server


@contextlib.contextmanager
def _token_file(token):
    with tempfile.NamedTemporaryFile(prefix="penstock-token-") as file:
        file.write(token[0])
        file.flush()
        yield [file.name, *map(str, token[1:])]


@contextlib.contextmanager
def bare_write(head, chunk, end, offset, digits, count, period_ms):
    """bench/bare_write.c: a loop of timers and writes, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="penstock-bare-") as folder:
        for name, data in (("head", head), ("chunk", chunk), ("end", end)):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)
        port = free_port()
        command = [program("bare_write"), str(port), "head", "chunk", "end", *map(str, (offset, digits, count, period_ms))]
        with Peer("bare write loop", command, port, cwd=folder) as server:
            yield server


def reflected_messages(port, service, method):
    """(class of requests, class of answers) of a method, as the server's reflection tells."""
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    # ServerReflectionRequest { file_containing_symbol = 4 }, by hand: a name of less than 128 bytes
    request = b"\x22" + bytes([len(service)]) + service.encode()
    with grpc.insecure_channel("127.0.0.1:%d" % port) as channel:
        ask = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        answer = next(ask(iter([request]), timeout=30))
    pool = descriptor_pool.DescriptorPool()
    for data in _fields(_fields(answer, 4)[0], 1):        # file_descriptor_response, file_descriptor_proto
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
    found = pool.FindServiceByName(service).methods_by_name[method]
    return message_factory.GetMessageClass(found.input_type), message_factory.GetMessageClass(found.output_type)


def _fields(data, number):
    """The values of a field of bytes, of a message of nothing but such fields and numbers."""
    def varint(at):
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if data[at - 1] < 128:
                return value, at
    found, at = [], 0
    while at < len(data):
        key, at = varint(at)
        size, at = varint(at)
        if key & 7 == 2:
            if key >> 3 == number:
                found.append(data[at:at + size])
            at += size
    return found
