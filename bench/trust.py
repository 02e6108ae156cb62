"""What trust costs: TLS on kept connections and in handshakes, idle and slow connections, keys, rules, logs and traces.

    script/bench trust [--only tls,handshakes,idle,drip,on] [--quick] [--rounds N] [--json FILE]

Beside it runs nginx with the same certificate (ECDSA P-256), tickets and no cache of sessions.
"""
import contextlib
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading

import _lib
import _peers
from _lib import IRIS_GEMM, IRIS_V2, LOAD_CPU, Load, Penstock, Row, alternate, die, iris_gemm_validate, measure, measure_tls
from _lib import median, median_ratio, post, program, rss_bytes, say

TITLE = "Trust: TLS, handshakes, idle and slow connections, keys, rules, logs and traces"
WORKLOADS = ("tls", "handshakes", "idle", "drip", "on")
PATH = "/v2/models/iris_gemm/infer"
LIVE_PATH = "/v2/health/live"
LIVE = b"GET %s HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % LIVE_PATH.encode()
IDLE, SLOW = 10000, 1000
DRIP_RATE = 5000        # requests a second beside the slow connections
KEY = "penstock_" + "k" * 43            # of this benchmark alone; the server has its SHA-256


def add_options(parser):
    parser.add_argument("--only", default="", metavar="WORKLOADS", help="of %s, commas between" % ", ".join(WORKLOADS))


@contextlib.contextmanager
def certificate():
    """(file of a certificate for localhost that is its own authority, file of its key)"""
    openssl = shutil.which("openssl") or die("no openssl (script/bootstrap bench)")
    with tempfile.TemporaryDirectory(prefix="penstock-tls-") as folder:
        os.chmod(folder, 0o755)
        cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
        subprocess.run([openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out",
                        cert], check=True, capture_output=True)
        yield cert, key


def tell(number, name, one):
    say("   round %d  %-24s %8.0f/s  server %8.2f us CPU each, %3.0f%% of its core; generator %3.0f%% of its; others %3.0f%%" %
        (number + 1, name, one["per_second"], one["cpu_us"], 100 * one["server_share"], 100 * one["cpu_share"],
         100 * one["others_share"]))
    return one


def rounds_of_all(runs, rounds):
    """{name: [figures]} of functions that make one run each, taking turns."""
    found = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            found[name].append(tell(number, name, run()))
    return found


def request(seconds_header=()):
    return post(PATH, IRIS_V2, seconds_header)


def run_tls(options, stack, files):
    rounds, seconds = _lib.rounds_of(options), _lib.seconds_of(options, 4, 1)
    plain, ours = stack.enter_context(Penstock(IRIS_GEMM)), tls_server(stack, files)
    load = Load(plain, request(), iris_gemm_validate)
    nginx, nginx_tls = (stack.enter_context(_peers.nginx(PATH, load.expect, each)) for each in (None, files))

    def one(server, ca):
        return lambda: measure_tls(server, "requests", load.request, load.expect, ca, seconds=seconds)

    found = rounds_of_all({"penstock": one(plain, None), "penstock TLS": one(ours, files[0]), "nginx": one(nginx, None),
                           "nginx TLS": one(nginx_tls, files[0])}, rounds)
    cpu = {name: median(runs, "cpu_us") for name, runs in found.items()}
    more = statistics.median(a["cpu_us"] - b["cpu_us"] for a, b in zip(found["penstock TLS"], found["penstock"]))
    return [Row("`iris_gemm` over TLS 1.3, kept alive: server CPU a request more than plain", more, "us", 4,
                beside="%.2f us, plain %.2f; nginx %.2f, plain %.2f" %
                (cpu["penstock TLS"], cpu["penstock"], cpu["nginx TLS"], cpu["nginx"]))]


def tls_server(stack, files):
    return stack.enter_context(Penstock(IRIS_GEMM, options=["--tls", "%s,%s" % files]))


def run_handshakes(options, stack, files):
    rounds, seconds = _lib.rounds_of(options), _lib.seconds_of(options, 4, 1)
    ours = tls_server(stack, files)
    # Handshakes are compared, so what is asked behind each costs next to nothing: neither runs a model.
    with Penstock(IRIS_GEMM) as plain:
        load = Load(plain, LIVE, lambda headers, body: None)
    nginx = stack.enter_context(_peers.nginx(LIVE_PATH, load.expect, files))

    def one(server, is_resumed):
        return lambda: measure_tls(server, "handshakes", load.request, load.expect, files[0], seconds=seconds,
                                   is_resumed=is_resumed)

    rows = []
    for what, is_resumed in (("full", False), ("resumed", True)):
        found = rounds_of_all({"penstock, " + what: one(ours, is_resumed), "nginx, " + what: one(nginx, is_resumed)}, rounds)
        mine, other = found.values()
        spoken = {run["spoken"] for runs in found.values() for run in runs}
        if len(spoken) != 1:
            die("not the same was spoken: %s" % ", ".join(sorted(spoken)))
        # the generator shakes hands as often as the server: what the server could do is 1 / its CPU time
        rows.append(Row("TLS 1.3, %s handshake and one small GET, per second of server CPU, of nginx" % what,
                        median_ratio(other, mine, "cpu_us"), "x", 1, is_floor=True,
                        beside="%.0f/s, nginx %.0f/s" % tuple(1e6 / median(runs, "cpu_us") for runs in (mine, other)),
                        note="both %s; measured at %.0f/s and %.0f/s, the generator used %.0f%% of its core" %
                        (spoken.pop(), median(mine, "per_second"), median(other, "per_second"), 100 * median(mine, "cpu_share"))))
    return rows


@contextlib.contextmanager
def generator(*arguments, request=None):
    """tlsgen that runs until the block ends; `.found` then has what it told."""
    with tempfile.NamedTemporaryFile(prefix="penstock-bench-") as file:
        file.write(request or b"")
        file.flush()
        command = [program("tlsgen"), "--cpu", str(LOAD_CPU), *map(str, arguments)]
        command += ["--request", file.name] if request else []
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            if not process.stdout.readline():
                die("tlsgen ended early")
            yield process
            process.stdin.close()
            process.found = json.loads(process.stdout.readline())
        finally:
            process.kill()
            process.wait()


def run_idle(options, stack, files):
    count = 1000 if options.quick else IDLE
    limits = ["--tls", "%s,%s" % files, "--connections-max", count + 100, "--idle-timeout", "10m"]
    ours = stack.enter_context(Penstock(IRIS_GEMM, options=limits))
    before = rss_bytes(ours.pid)
    with generator("--port", ours.port, "--mode", "idle", "--connections", count, "--tls", "--ca", files[0], request=request()):
        each = (rss_bytes(ours.pid) - before) / count / 1024
    return [Row("%s idle TLS connections: memory of each" % "{:,}".format(count), each, "KiB", 40)]


def run_drip(options, stack, files):
    """The generator drips itself, byte by byte between its requests: another process on its core is what would be measured."""
    rounds, seconds = _lib.rounds_of(options), _lib.seconds_of(options, 4, 1)
    ours = stack.enter_context(Penstock(IRIS_GEMM, options=["--connections-max", 4 * SLOW]))
    load = Load(ours, request(), iris_gemm_validate)
    alone, beside = [], []
    for number in range(rounds):
        alone.append(tell(number, "alone", measure(load, seconds=seconds, rate=DRIP_RATE)))
        beside.append(tell(number, "beside slow ones", measure(load, seconds=seconds, rate=DRIP_RATE, drip=SLOW)))
    ratio = statistics.median(b["latency"][0]["p99_us"] / a["latency"][0]["p99_us"] for a, b in zip(alone, beside))
    # What the server's processor did more, of each byte; what is idle alone is woken by them, so a byte pays its own turn.
    byte = statistics.median((b["cpu_us"] * b["answers"] - a["cpu_us"] * a["answers"]) / b["drip_bytes"]
                             for a, b in zip(alone, beside))
    ended = sum(one["drips_ended"] for one in beside)
    return [Row("1,000 connections that send a byte a second: p99 of 5,000 requests/s beside them", ratio, "x", 1.3,
                beside="%.0f us, alone %.0f us" % tuple(statistics.median(one["latency"][0]["p99_us"] for one in runs)
                                                        for runs in (beside, alone)),
                note="sending a byte took the generator %.1f us (p99), and what is due then waits as long; %d slow connections were "
                     "ended by --header-timeout" % (statistics.median(one["drip_send"]["p99_us"] for one in beside), ended)),
            Row("a byte of a slow connection: server CPU", byte, "us")]


class Collector:
    """Takes OTLP over HTTP and answers 200, on LOAD_CPU; `.requests`, `.bytes`."""

    def __enter__(self):
        self.requests = self.bytes = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, kind, error, trace):
        self.listener.close()

    def accept(self):
        os.sched_setaffinity(0, {LOAD_CPU})
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.listener.accept()[0],), daemon=True).start()

    def serve(self, connection):
        with connection, connection.makefile("rb") as stream:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = stream.readline()
                    if not line:
                        return
                    head += line
                size = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))[15:])
                self.bytes += len(stream.read(size))
                self.requests += 1
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")


ACCESS = """\
keys:
  - name: bench
    sha256: %s
    tenant: bench
tenants:
  bench: { rate: 10000000, concurrency: 100000, bytes: 1GiB }
rules:
  - who: [bench]
    may: [infer, read]
    models: ["iris*"]
"""


def run_on(options, stack, files):
    rounds, seconds = _lib.rounds_of(options), _lib.seconds_of(options, 4, 1)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-"))
    access = os.path.join(folder, "access.yaml")
    with open(os.open(access, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(ACCESS % hashlib.sha256(KEY.encode()).hexdigest())
    collector = stack.enter_context(Collector())
    log = ["--access-log", os.path.join(folder, "access.log")]
    traces = ["--otlp", "http://127.0.0.1:%d" % collector.port, "--trace-sample"]
    kinds = {"nothing on": [], "keys and rules": ["--access", access], "access log": log, "traces, 1 of 100": [*traces, "0.01"],
             "all of it": ["--access", access, *log, *traces, "0.01"], "every request a span": [*traces, "1"]}
    # Whoever sends a traceparent decides what is sampled: these callers send none.
    sent = request((("authorization", "Bearer " + KEY),))
    loads = {name: Load(stack.enter_context(Penstock(IRIS_GEMM, options=each)), sent, iris_gemm_validate)
             for name, each in kinds.items()}
    found = alternate(loads, rounds, seconds=seconds, connections=16)
    more = {name: statistics.median(a["cpu_us"] - b["cpu_us"] for a, b in zip(found[name], found["nothing on"])) for name in kinds}
    return [Row("keys, rules, log and traces on: server CPU a request more", more["all of it"], "us", 1.5,
                beside="; ".join("%s %.2f" % (name, more[name]) for name in list(kinds)[1:] if name != "all of it"),
                note="every request has its line in the log, 1 of 100 traces is sampled; threads that write and export are counted")]


def run(options):
    chosen = [name for name in options.only.split(",") if name] or WORKLOADS
    for name in chosen:
        if name not in WORKLOADS:
            die("no workload '%s'; there are: %s" % (name, ", ".join(WORKLOADS)))
    rows = []
    with certificate() as files:
        for name in chosen:
            say("-- " + name)
            with contextlib.ExitStack() as stack:
                rows += globals()["run_" + name](options, stack, files)
    return rows


if __name__ == "__main__":
    _lib.main(sys.modules[__name__])
