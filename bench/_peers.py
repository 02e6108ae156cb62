"""The servers that Penstock is measured beside: nginx with a fixed answer, FastAPI with ONNX Runtime plain and tuned."""
import contextlib
import os
import shutil
import sys
import tempfile

from _lib import IRIS_GEMM, Peer, die, free_port

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
        listen 127.0.0.1:%(port)d;
        location = %(path)s {
            default_type application/json;
            return 200 '%(body)s';
        }
    }
}
"""


@contextlib.contextmanager
def nginx(path, body):
    """nginx that answers every request to `path` with `body`: one worker, no log, connections without an end."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx") or die("no nginx (script/bootstrap bench)")
    text = body.decode()
    if "'" in text or "$" in text or "\\" in text:
        die("nginx cannot be given this body")
    with tempfile.TemporaryDirectory(prefix="penstock-nginx-") as folder:
        os.chmod(folder, 0o755)
        port = free_port()
        config = os.path.join(folder, "nginx.conf")
        with open(config, "w") as file:
            file.write(NGINX % {"folder": folder, "port": port, "path": path, "body": text})
        with Peer("nginx", [program, "-p", folder, "-e", os.path.join(folder, "error.log"), "-c", config], port) as server:
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
