"""What every benchmark here shares: servers pinned to one core, the load generator on the other, medians, a table.

A benchmark is a module with `TITLE` and `run(options)`, which returns rows; `main(module)` makes it a program. Servers run on
CPU 0 and the generator on CPU 1, so that neither takes time from the other. A server's CPU time is the sum of
/proc/PID/task/*/schedstat (nanoseconds, user and system) over its processes, read before and after the measured part. Runs of
the servers compared alternate in one session, and the median of all runs of one server is what is told.
"""
import argparse
import datetime
import json
import os
import platform
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from harness import BINARY, ROOT, Server, models

SERVER_CPU, LOAD_CPU = 0, 1
EXAMPLES = os.path.join(ROOT, "examples", "models")
IRIS_GEMM = os.path.join(ROOT, "bench", "models", "iris_gemm.onnx")     # Gemm and Softmax: what a server costs beside them
OTHERS_MANY = 0.1         # of the machine: from here on a run is not to be trusted
_programs = {}            # C programs of this folder that were compiled in this run, by name
others_seen = []          # share of the machine that neither server nor generator used, of each run


def say(text=""):
    print(text, flush=True)


def die(text):
    sys.exit("bench: " + text)


# --- rows ---------------------------------------------------------------------------------------------

class Row:
    """One figure: what was measured, in which unit, what it was compared with, and the limit it is to keep (`is_floor`: the
    least it is to be). A value of None: it could not be measured, and `note` says why."""

    def __init__(self, what, value, unit, limit=None, limit_text="", beside="", note="", is_floor=False):
        self.what, self.value, self.unit, self.limit, self.is_floor = what, value, unit, limit, is_floor
        self.limit_text = limit_text
        if not limit_text and limit is not None:
            self.limit_text = "%s %s" % ("at least" if is_floor else "at most", figure(limit, unit))
        self.beside, self.note = beside, note

    @property
    def verdict(self):
        if self.limit is None:
            return ""
        is_kept = self.value is not None and (self.value >= self.limit if self.is_floor else self.value <= self.limit)
        return "pass" if is_kept else "short"

    def line(self):
        parts = ["%-62s %12s" % (self.what, figure(self.value, self.unit))]
        if self.limit is not None:
            parts.append("target: %-14s %s" % (self.limit_text, self.verdict))
        if self.beside:
            parts.append("(%s)" % self.beside)
        return "  ".join(parts)

    def document(self):
        return {"what": self.what, "value": self.value, "unit": self.unit, "limit": self.limit, "beside": self.beside,
                "limit_text": self.limit_text, "verdict": self.verdict, "note": self.note}


def figure(value, unit):
    if value is None:
        return "failed"
    if unit == "x":
        return "%.2fx" % value
    text = "%.0f" % value if value >= 1000 else "%.1f" % value if value >= 10 else "%.2f" % value
    return "%s %s" % (text, unit)


def main(module):
    parser = argparse.ArgumentParser(description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    if hasattr(module, "add_options"):
        module.add_options(parser)
    options = parser.parse_args()
    rows = measure_module(module, options)
    if options.json:
        with open(options.json, "w") as file:
            json.dump([row.document() for row in rows], file, indent=1)
    short = [row for row in rows if row.verdict == "short"]
    if short and options.strict:
        die("%d of %d targets are not reached" % (len(short), sum(row.limit is not None for row in rows)))


def add_options(parser):
    parser.add_argument("--quick", action="store_true", help="shorter and fewer runs: for trying out, not for telling")
    parser.add_argument("--rounds", type=int, help="runs of each server (default 5; 3 with --quick)")
    parser.add_argument("--seconds", type=float, help="of each run")
    parser.add_argument("--json", metavar="FILE", help="also write the rows here")
    parser.add_argument("--strict", action="store_true", help="end with 1 when a target is not reached")


def measure_module(module, options):
    if len(os.sched_getaffinity(0)) < 2:
        die("needs two CPUs: one for the server, one for the load generator")
    say("== %s" % module.TITLE)
    rows = module.run(options)
    for row in rows:
        say(row.line())
    return rows


# --- the machine ----------------------------------------------------------------------------------------

def cpu_model():
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def output_of(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def where():
    """Date, machine, versions: what a figure means nothing without."""
    commit = output_of("git", "-C", ROOT, "rev-parse", "--short=12", "HEAD")
    changed = output_of("git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no")
    versions = [output_of(BINARY, "version").splitlines()[0], output_of("nginx", "-v").replace("nginx version: ", "")]
    versions.append(output_of("nghttpd", "--version").splitlines()[0])
    for module in ("fastapi", "uvicorn", "uvloop", "httptools", "orjson", "grpcio", "onnxruntime"):
        try:
            import importlib.metadata
            versions.append("%s %s" % (module, importlib.metadata.version(module)))
        except importlib.metadata.PackageNotFoundError:
            pass
    return {"date": datetime.date.today().isoformat(), "cpu": cpu_model(), "cpus": os.cpu_count(),
            "kernel": platform.release(), "commit": commit + (" and changes" if changed else ""), "versions": versions}


def processes(pid):
    """pid and everything below it."""
    found = [pid]
    for one in found:
        try:
            for task in os.listdir("/proc/%d/task" % one):
                with open("/proc/%d/task/%s/children" % (one, task)) as file:
                    found += map(int, file.read().split())
        except OSError:
            pass
    return found


def cpu_ns(pid):
    total = 0
    for one in processes(pid):
        try:
            for task in os.listdir("/proc/%d/task" % one):
                with open("/proc/%d/task/%s/schedstat" % (one, task)) as file:
                    total += int(file.read().split()[0])
        except OSError:
            pass
    return total


def busy_ns():
    """CPU time that everybody together has used, from /proc/stat."""
    with open("/proc/stat") as file:
        fields = list(map(int, file.readline().split()[1:]))
    return (sum(fields[:8]) - fields[3] - fields[4]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def rss_bytes(pid):
    total = 0
    for one in processes(pid):
        with open("/proc/%d/statm" % one) as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# --- servers --------------------------------------------------------------------------------------------

class Penstock(Server):
    """harness.Server on SERVER_CPU. `.pid`, `.port`."""
    name = "penstock"

    def __init__(self, *folders, **others):
        super().__init__(*folders, **others)
        self.command = [shutil.which("taskset") or "taskset", "-c", str(SERVER_CPU), *self.command]

    @property
    def pid(self):
        return self.process.pid


class Peer:
    """Another server on SERVER_CPU: a command that listens on `port`."""

    def __init__(self, name, command, port, env=None, cwd=None):
        self.name, self.port, self.cwd = name, port, cwd
        self.command = ["taskset", "-c", str(SERVER_CPU), *command]
        self.env = dict(os.environ, **(env or {}))

    @property
    def pid(self):
        return self.process.pid

    def __enter__(self):
        self.output = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, env=self.env, cwd=self.cwd, stdin=subprocess.DEVNULL,
                                        stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True)
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.02)
        self.__exit__(None, None, None)
        self.output.seek(0)
        die("%s did not start:\n%s" % (self.name, self.output.read().decode(errors="replace")[-2000:]))

    def __exit__(self, kind, error, trace):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


# --- requests -------------------------------------------------------------------------------------------

def post(path, body, headers=()):
    """The bytes of one HTTP/1.1 request."""
    if not isinstance(body, bytes):
        body = json.dumps(body, separators=(",", ":")).encode()
    head = ["POST %s HTTP/1.1" % path, "host: 127.0.0.1", "content-length: %d" % len(body)]
    if not any(name.lower() == "content-type" for name, _ in headers):
        head.append("content-type: application/json")
    head += ["%s: %s" % pair for pair in headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def ask(port, request, seconds=60):
    """(status, headers with lower-case names, body) of one answer with content-length."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        connection.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                die("the server on port %d closed the connection" % port)
            data += piece
        head, body = data.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
        body = bytearray(body)
        while len(body) < int(headers["content-length"]):
            piece = connection.recv(1 << 20)
            if not piece:
                die("the server on port %d closed the connection within an answer" % port)
            body += piece
        return int(lines[0].split()[1]), headers, bytes(body)


class Load:
    """One request to one server, checked: `validate(headers, body)` looks at the first answer, and the generator makes sure
    that every other has the same body."""

    def __init__(self, server, request, validate, share=1.0):
        status, headers, body = ask(server.port, request)
        if status != 200:
            die("%s answered %d: %s" % (server.name, status, body[:300]))
        validate(headers, body)
        self.server, self.request, self.expect, self.share = server, request, body, share


class GrpcLoad:
    """One gRPC call: as Load, with `validate(message)`. Of a server that cannot be asked (nghttpd) `expect` is what it answers,
    DATA and prefix."""
    is_grpc = True

    def __init__(self, server, path, message, validate=None, expect=None, share=1.0):
        if expect is None:
            import grpc
            unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
            with grpc.insecure_channel("127.0.0.1:%d" % server.port, options=unlimited) as channel:
                answer = channel.unary_unary(path)(message, timeout=60, wait_for_ready=True)
            validate(answer)
            expect = struct.pack(">BI", 0, len(answer)) + answer
        self.server, self.path, self.share = server, path, share
        self.request, self.expect = struct.pack(">BI", 0, len(message)) + message, expect


# --- the load generator -----------------------------------------------------------------------------------

def program(name):
    """bench/NAME.c, compiled for this run."""
    if name not in _programs:
        folder = os.path.join(ROOT, "build", "bench")
        os.makedirs(folder, exist_ok=True)
        target = os.path.join(folder, name)
        sources = [os.path.join(ROOT, "bench", one) for one in (name + ".c", "gen.h")]
        if not os.path.exists(target) or os.path.getmtime(target) < max(map(os.path.getmtime, sources)):
            subprocess.run(["cc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function",
                            sources[0], "-o", target, "-lnghttp2", "-lssl", "-lcrypto", "-lm"], check=True)
        _programs[name] = target
    return _programs[name]


def measure_tls(server, mode, request, expect=None, ca=None, connections=16, seconds=4.0, warmup=1.0, is_resumed=False,
                version=None):
    """One run of bench/tlsgen.c, `mode` requests or handshakes: its figures, and those of the server as `measure` has them.
    ca None: plain."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        command = [program("tlsgen"), "--port", str(server.port), "--mode", mode, "--connections", str(connections), "--cpu",
                   str(LOAD_CPU), "--seconds", str(seconds), "--warmup", str(warmup)]
        command += ["--tls", "--ca", ca] if ca else []
        command += ["--version", version] if version else []
        command += ["--resume"] if is_resumed else []
        for kind, data in (("request", request), ("expect", expect)):
            if data is not None:
                path = os.path.join(folder, kind)
                with open(path, "wb") as file:
                    file.write(data)
                command += ["--" + kind, path]
        return _run(server, command)


def _run(server, command):
    """Runs a generator that says when it is warm and waits for a line; its figures and the server's."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if not process.stdout.readline():
        die("the load generator ended early against %s" % server.name)
    server_from, busy_from, self_from = cpu_ns(server.pid), busy_ns(), time.monotonic()
    process.stdin.write("\n")
    process.stdin.flush()
    line = process.stdout.readline()
    server_used, busy = cpu_ns(server.pid) - server_from, busy_ns() - busy_from
    wall = time.monotonic() - self_from
    process.communicate()
    if not line:
        die("the load generator ended early against %s" % server.name)
    found = json.loads(line)
    found["cpu_us"] = server_used / 1e3 / found["answers"]
    found["server_share"] = server_used / 1e9 / wall
    used = server_used / 1e9 + found["cpu_share"] * found["seconds"]
    found["others_share"] = max(0.0, (busy / 1e9 - used) / wall / os.cpu_count())
    others_seen.append(found["others_share"])
    return found


def measure(loads, connections=16, seconds=4.0, warmup=1.0, rate=None, requests=None, streams=None, drip=None):
    """One run against one server. Returns loadgen's figures and `cpu_us` (of the server, a request), `server_share` (of its
    core), `others_share` (of all cores, by processes that are neither). `drip`: beside so many connections that send a byte a
    second."""
    loads = loads if isinstance(loads, list) else [loads]
    server = loads[0].server
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        command = [program("loadgen"), "--port", str(server.port), "--connections", str(connections), "--cpu", str(LOAD_CPU),
                   "--warmup", str(warmup)]
        command += ["--rate", str(rate)] if rate else []
        command += ["--streams", str(streams)] if streams else []
        command += ["--drip", str(drip)] if drip else []
        command += ["--grpc"] if hasattr(loads[0], "is_grpc") else []
        command += ["--requests", str(requests)] if requests else ["--seconds", str(seconds)]
        for i, load in enumerate(loads):
            for kind, data in (("request", load.request), ("expect", load.expect)):
                path = os.path.join(folder, "%s%d" % (kind, i))
                with open(path, "wb") as file:
                    file.write(data)
                command += ["--" + kind, path]
            command += ["--path", load.path] if hasattr(load, "path") else []
            command += ["--share", str(load.share)]
        return _run(server, command)


def alternate(loads, rounds, **how):
    """{name: [figures of each run]} of several servers' loads, each round one run of each."""
    found = {name: [] for name in loads}
    for number in range(rounds):
        for name, load in loads.items():
            one = measure(load, **how)
            found[name].append(one)
            latency = one["latency"][0]
            say("   round %d  %-24s %8.0f/s  server %8.2f us CPU a request, %3.0f%% of its core; generator %3.0f%% of its; "
                "others %3.0f%%; p50 %.0f us, p99 %.0f us" %
                (number + 1, name, one["per_second"], one["cpu_us"], 100 * one["server_share"], 100 * one["cpu_share"],
                 100 * one["others_share"], latency["p50_us"], latency["p99_us"]))
            if one["others_share"] > OTHERS_MANY:
                say("            (others used a tenth of the machine or more: read this round with care)")
    return found


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def median_ratio(runs, others, key):
    """Round by round, as a machine that is slow for a while is slow for both."""
    return statistics.median(run[key] / other[key] for run, other in zip(runs, others))


def rounds_of(options):
    return options.rounds or (3 if options.quick else 5)


def seconds_of(options, full, quick):
    return options.seconds or (quick if options.quick else full)


# --- models and tensors -----------------------------------------------------------------------------------

def identity_config(name, shape, **parameters):
    """config.pbtxt of an echo model that answers its FP32 input of this shape."""
    dims = ", ".join(map(str, shape))
    text = ['name: "%s"' % name, 'backend: "echo"', "max_batch_size: 0"]
    for kind, tensor in (("input", "IN"), ("output", "OUT")):
        text.append('%s [{ name: "%s" data_type: TYPE_FP32 dims: [ %s ] }]' % (kind, tensor, dims))
    count = parameters.pop("instances", None)
    if count:
        text.append("instance_group [{ count: %d kind: KIND_CPU }]" % count)
    for key, value in parameters.items():
        text.append('parameters { key: "%s" value { string_value: "%s" } }' % (key, value))
    return "\n".join(text).encode() + b"\n"


IRIS_INPUT = [5.1, 3.5, 1.4, 0.2]
IRIS_V2 = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": IRIS_INPUT}]}


def iris_validate(headers, body):
    """label 0, and three probabilities that say so."""
    outputs = iris_gemm_validate(headers, body)
    if outputs["label"]["data"] != [0] or outputs["label"]["datatype"] != "INT64" or outputs["label"]["shape"] != [1]:
        die("not the label of iris: %s" % body[:300])


def iris_gemm_validate(headers, body):
    """Three probabilities that say the first; the outputs by name."""
    outputs = {tensor["name"]: tensor for tensor in json.loads(body)["outputs"]}
    found = outputs["probabilities"]["data"]
    if len(found) != 3 or abs(found[0] - 0.9847) > 0.0005 or abs(sum(found) - 1) > 1e-4:
        die("not the probabilities of iris: %s" % body[:300])
    return outputs


def floats(count, seed=1):
    """Numbers between 0 and 1 that are exact in FP32, from a generator of ours: the same everywhere."""
    state, found = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        found.append((state >> 40) / (1 << 24))
    return found


def packed(numbers):
    return struct.pack("<%df" % len(numbers), *numbers)
