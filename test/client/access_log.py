"""The access log: every transport, both forms, what must not be in it, and places that take nothing or go away."""
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from harness import ROOT, Server, case, cases, check, equal, main, need_program, skip
from _seeing import TRANSPORTS
from _streams import SSE, serving

sys.path.append(os.path.join(ROOT, "test", "wire"))
from _wire import Wire, head, metric, until  # noqa: E402

LINES = "penstock_access_log_lines_total"
COMBINED = re.compile(r'(\S+) - (\S+) \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000)\] "(\S+) (\S+) (\S+)" (\d{3}) (\d+) "-" '
                      r'"((?:[^"\\]|\\.)*)" us=([0-9.]+) in=(\d+)(.*)')


@contextlib.contextmanager
def logging(*options, name="access.log"):
    """(server, path of its log, read): `read(count)` waits for so many lines and gives all there are."""
    with tempfile.TemporaryDirectory(prefix="penstock-log-") as folder:
        path = os.path.join(folder, name)
        with serving(options=["--access-log", path, *options]) as server:
            def read(count=1, of=path):
                until(lambda: os.path.exists(of) and len(lines_of(of)) >= count, "%d lines" % count)
                return lines_of(of)
            yield server, path, read


def lines_of(path):
    with open(path, "rb") as file:
        return file.read().decode("ascii").split("\n")[:-1]     # nothing but ASCII, and each line has its end


def last(read, count):
    return json.loads(read(count)[count - 1])


# --- what is told --------------------------------------------------------------------------------------------

@cases({name: (name,) for name in TRANSPORTS})
def each_transport_is_told_once(name):
    ask, protocol, method, route, status, code, model, responses = TRANSPORTS[name]
    with logging() as (server, path, read):
        ask(server, {"x-request-id": "mine-%s" % name, "user-agent" if "grpc" not in name else "x-agent": "tester/1"})
        line = last(read, 1)
        told = [line.get(key) for key in ("protocol", "method", "route", "status", "code", "model", "request_id", "tenant")]
        equal(told, [protocol, method, route, status, code, model or "one", "mine-" + name, "default"])
        equal(line.get("responses"), responses)
        check(re.fullmatch(r"127\.0\.0\.1:\d+", line["peer"]), "%s", line)
        check(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["time"]), "%s", line)
        check("end" not in line and line["us"] > 0, "%s", line)
        time.sleep(0.2)
        equal(len(lines_of(path)), 1, "lines")


@case
def the_numbers_are_right():
    with logging() as (server, _, read):
        body = b'{"x": 2.5}'
        found = server.call("POST", "/models/one:predict", body, {"user-agent": "curl/7"})[2]
        line = last(read, 1)
        equal((line["bytes_in"], line["bytes_out"], line["path"], line["agent"], line["version"]),
              (len(body), len(found), "/models/one:predict", "curl/7", "1"))
        check(line["us"] >= line["stages"]["run"], "%s", line)


@case
def the_text_is_what_web_servers_write():
    with logging("--access-log-format", "text") as (server, _, read):
        found = server.call("POST", "/models/one:predict", b'{"x": 2.5}', {"user-agent": 'say "hi" \\ there'})[2]
        match = COMBINED.fullmatch(read(1)[0])
        check(match is not None, "%s", read(1)[0])
        equal(match.group(1, 2, 4, 5, 6, 7, 8, 9), ("127.0.0.1", "-", "POST", "/models/one:predict", "HTTP/1.1", "200",
                                                    str(len(found)), 'say \\"hi\\" \\\\ there'))
        check(" model=one version=1" in match.group(12), "%s", match.group(12))


@case
def who_is_refused_or_leaves_is_told():
    with logging() as (server, _, read):
        equal(server.call("GET", "/nothing")[0], 404)
        equal(server.call("BREW", "/v2")[0], 501)
        with Wire(server) as wire:
            wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n")
            equal(wire.reply().status, 400)
        with Wire(server) as wire:
            wire.send(head("POST", "/v2/models/one/infer", headers=[("Content-Length", str(1 << 40))]))
            equal(wire.reply().status, 413)
        with Wire(server) as wire:
            wire.send(head("POST", "/models/crowd:predict", b'{"SEED": 7}', [("Accept", SSE)]) [:-2] + b"\r\n" + b'{"SEED": 7}')
            wire.socket.recv(10)
        lines = sorted((json.loads(line) for line in read(5)), key=lambda line: line["status"])     # loops have no order
        equal([line["status"] for line in lines], [200, 400, 404, 413, 501])
        check("route" not in lines[2] and lines[1].get("path", "/") == "/", "%s", lines)
        equal(lines[3]["path"], "/v2/models/one/infer")


@case
def who_leaves_a_stream_is_told():
    with logging() as (server, _, read):
        with Wire(server) as wire:
            body = b'{"SEED": 7, "count": 1000000}'
            wire.send(head("POST", "/v2/models/crowd/generate_stream", body) + body)
            wire.socket.recv(100)
        line = last(read, 1)
        equal((line["status"], line["end"], line["model"]), (200, "left", "crowd"))
        check(line["responses"] >= 1, "%s", line)


# --- request ids ---------------------------------------------------------------------------------------------

@case
def request_ids_are_taken_or_made():
    with logging() as (server, _, read):
        for number, (sent, is_taken) in enumerate({
                "abc-123_X.~:/+=@,#": True, "a" * 128: True, "a" * 129: False, "has blank": False, 'quote"': False, "": False,
                "<script>": False, "a\\b": False}.items()):
            found = server.call("GET", "/healthz", headers={"x-request-id": sent})[1]["x-request-id"]
            equal(found == sent, is_taken, repr(sent))
            check(is_taken or re.fullmatch("[0-9a-f]{32}", found), "%r", found)
            equal(last(read, number + 1)["request_id"], found)
        ids = {server.call("GET", "/healthz")[1]["x-request-id"] for _ in range(200)}
        equal(len(ids), 200, "different ids")


@cases({"auto": ("auto", True, False), "always": ("always", True, True), "never": ("never", False, False)})
def request_ids_by_option(when, is_echoed, is_made):
    with serving(options=["--request-id", when]) as server:
        equal("x-request-id" in server.call("GET", "/healthz", headers={"x-request-id": "a"})[1], is_echoed)
        equal("x-request-id" in server.call("GET", "/healthz")[1], is_made)


# --- what must not be in it ------------------------------------------------------------------------------------

@case
def secrets_stay_out():
    with logging("--access-log-query", "top", "--access-log-query", "raw") as (server, path, read):
        server.call("POST", "/models/one:predict?token=s3cret&top=1&raw=&key=s3cret", b'{"x": 2.5}',
                    {"authorization": "Bearer s3cret", "x-api-key": "s3cret", "cookie": "a=s3cret"})
        equal(last(read, 1).get("query"), "top=1&raw=")
        server.call("GET", "/healthz?" + "top=1&" * 200)
        check(len(last(read, 2)["query"]) <= 256, "%s", last(read, 2))
        server.call("GET", "/streams/s3cret")
        server.call("GET", "/uploads/s3cret?top=3")
        equal(sorted(json.loads(line)["path"] for line in read(4)[2:]), ["/streams/{id}", "/uploads/{id}"])     # of two loops
        check("s3cret" not in "".join(lines_of(path)), "a secret")


@case
def without_a_list_the_query_is_left_out():
    with logging() as (server, _, read):
        server.call("GET", "/healthz?top=1&a=b")
        check("query" not in last(read, 1) and "?" not in read(1)[0], "%s", read(1))


ODD = {"cr_lf": b"a\r\n b", "escape": b"\x1b[31mred", "quotes": b'say "hi" \\', "del": b"\x7f", "latin": b"\xe4", "cut": b"\xe2\x80",
       "line_separator": b"\xe2\x80\xa8x", "csi": b"\xc2\x9b31m", "right_to_left": b"\xe2\x80\xaex", "nul": b"a\0b", "tab": b"a\tb"}


@cases({"%s_%s" % (name, form): (odd, form) for name, odd in ODD.items() for form in ("json", "text")})
def nobody_forges_a_line(odd, form):
    """In the path, the query, the agent and the id; what HTTP/1.1 does not allow is refused, and that is told as well."""
    with logging("--access-log-format", form, "--access-log-query", "q") as (server, path, read):
        for place in (b"GET /%s?q=%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (odd, odd),
                      b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: %s\r\n\r\n" % odd,
                      b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %s\r\n\r\n" % odd):
            with Wire(server) as wire:
                wire.send(place)
                with contextlib.suppress(Exception):
                    wire.reply()
        time.sleep(0.3)
        lines = read(3)
        with open(path, "rb") as file:
            data = file.read()
        check(all(0x20 <= byte < 0x7f or byte == 10 for byte in data), "%r", data)
        for line in lines:
            check(json.loads(line)["status"] if form == "json" else COMBINED.fullmatch(line), "%s", line)
        check(len(lines) <= 4, "%d lines of 3 requests", len(lines))


# --- which ones are told ---------------------------------------------------------------------------------------

@case
def a_sample_and_every_failure():
    with logging("--access-log-sample", "1/20") as (server, path, read):
        with Wire(server) as wire:
            for _ in range(2000):
                wire.request("GET", "/healthz")
                equal(wire.reply().status, 200)
        for _ in range(30):
            server.call("GET", "/nothing")
        until(lambda: sum('"status":404' in line for line in lines_of(path)) == 30, "all failures")
        good = sum('"status":200' in line for line in lines_of(path))
        check(40 <= good <= 180, "%d of 2000, for 100", good)


@case
def slow_ones_are_always_told():
    slow = (b'backend: "echo"\nmax_batch_size: 0\ninput [{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }]\n'
            b'output [{ name: "y" data_type: TYPE_FP32 dims: [ 1 ] }]\nparameters { key: "mode" value { string_value: "delay" } }\n'
            b'parameters { key: "delay_ms" value { string_value: "80" } }\n')
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "log")
        options = ["--access-log", path, "--access-log-sample", "0", "--access-log-slow", "50ms"]
        with serving(options=options, slow=slow) as server:
            for model in ("one", "slow", "one"):
                equal(server.call("POST", "/models/%s:predict" % model, b'{"x": 2.5}')[0], 200)
            until(lambda: lines_of(path), "a line")
        equal([json.loads(line)["model"] for line in lines_of(path)], ["slow"])


# --- places ----------------------------------------------------------------------------------------------------

@case
def a_file_that_is_moved_is_opened_again():
    with logging() as (server, path, read):
        server.call("GET", "/healthz")
        read(1)
        os.rename(path, path + ".1")
        time.sleep(1.2)
        server.call("GET", "/v2")
        equal(last(read, 1)["path"], "/v2", "by itself")
        os.rename(path, path + ".2")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: os.path.exists(path), "SIGHUP opens it at once", 1)
        server.call("GET", "/readyz")
        equal(last(read, 1)["path"], "/readyz")
        equal((len(lines_of(path + ".1")), len(lines_of(path + ".2"))), (1, 1))
        equal(os.stat(path).st_mode & 0o777, 0o640)


@case
def standard_output_is_a_place():
    with serving(options=["--access-log", "-"]) as server:
        for _ in range(50):
            server.call("GET", "/healthz")
        until(lambda: server.log.count('"path":"/healthz"') == 50, "all of them")


@case
def a_socket_takes_datagrams():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            log.bind(path)
            log.settimeout(10)
            with serving(options=["--access-log", "unix:" + path]) as server:
                server.call("GET", "/healthz")
                equal(json.loads(log.recv(65536))["path"], "/healthz")
                log.close()
                os.unlink(path)
                server.call("GET", "/healthz")
                until(lambda: metric(server, LINES, result="lost"), "it is lost, and counted")
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
                    again.bind(path)
                    again.settimeout(0.2)

                    def hears():
                        server.call("GET", "/readyz")
                        with contextlib.suppress(socket.timeout):
                            return again.recv(65536)
                    until(hears, "it is found again")
                equal(server.log.count("access log cannot"), 1, "told once")


@cases({"folder": ("/nonexistent/log", "No such file"), "directory": ("/tmp", "Is a directory"),
        "socket": ("unix:/nonexistent/s", "No such file")})
def a_place_that_cannot_be_is_said_at_once(place, words):
    result = subprocess.run([Server("/tmp").command[0], "serve", "/tmp", "--listen", "127.0.0.1:0", "--access-log", place],
                            capture_output=True, text=True, timeout=30)
    equal(result.returncode, 1)
    check("--access-log" in result.stderr and words in result.stderr, "%s", result.stderr)


@case
def a_full_disk_costs_lines_and_nothing_else():
    if os.geteuid() != 0:
        skip("a small file system needs root")
    with tempfile.TemporaryDirectory() as folder:
        mount = subprocess.run([need_program("mount"), "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
        if mount.returncode != 0:
            skip("no mount: %s" % mount.stderr.decode().strip())
        try:
            path = os.path.join(folder, "log")
            with serving(options=["--access-log", path]) as server:
                with open(os.path.join(folder, "ballast"), "wb", buffering=0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * 4096)

                def fill():
                    for _ in range(50):
                        equal(server.call("GET", "/healthz")[0], 200)
                    return metric(server, LINES, result="lost")
                until(fill, "lines are lost")
                equal(server.log.count("No space left"), 1, "told once")
                os.unlink(os.path.join(folder, "ballast"))
                until(lambda: server.call("GET", "/readyz") and "is written to" in server.log, "it goes on")
                server.call("GET", "/v2")
                until(lambda: '"path":"/v2"' in "".join(lines_of(path)), "with the next line")
                for line in lines_of(path):
                    with contextlib.suppress(json.JSONDecodeError):     # one may be cut off; no two are one
                        check(json.loads(line)["status"], "%s", line)
                    check(line.count('{"time"') <= 1, "%s", line)
                until(lambda: 0 < metric(server, LINES, result="lost") < 1000000, "counted")
        finally:
            subprocess.run(["umount", folder], check=False)


@case
def dev_full_is_told_once():
    with serving(options=["--access-log", "/dev/full"]) as server:
        for _ in range(5):
            server.call("GET", "/healthz")
            time.sleep(0.15)
        until(lambda: metric(server, LINES, result="lost") >= 5, "counted")
        equal(server.log.count("No space left"), 1, "told once")
        equal(metric(server, LINES, result="written"), 0)


@case
def a_pipe_that_nobody_reads_costs_lines():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pipe")
        os.mkfifo(path)
        result = subprocess.run([Server("/tmp").command[0], "serve", "/tmp", "--listen", "127.0.0.1:0", "--access-log", path],
                                capture_output=True, text=True, timeout=30)
        equal(result.returncode, 1, "a pipe without a reader")
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with serving(options=["--access-log", path, "--access-log-buffer", "64KiB", "--loops", "1"]) as server:
            with Wire(server) as wire:
                begun = time.monotonic()
                for _ in range(4000):
                    wire.request("GET", "/healthz")
                    equal(wire.reply().status, 200)
                slowest = time.monotonic() - begun
            until(lambda: metric(server, LINES, result="dropped"), "the ring is full")
            check(slowest < 20, "4,000 answers took %g s", slowest)
            text = b""
            while b'"path":"/v2"' not in text:          # it rests no more: what comes is written again
                with contextlib.suppress(BlockingIOError):
                    text += os.read(reader, 1 << 16)
                server.call("GET", "/v2")
            for line in text.split(b"\n")[:-1]:
                check(json.loads(line)["status"] == 200, "%r", line)
            os.close(reader)
            server.call("GET", "/readyz")
            until(lambda: server.call("GET", "/readyz") and metric(server, LINES, result="lost"), "its reader left")
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

            def hears():
                server.call("GET", "/readyz")
                with contextlib.suppress(BlockingIOError):
                    return os.read(reader, 1 << 16)
            until(hears, "another reader is found")
            os.close(reader)


@case
def what_is_told_last_is_written_before_the_end():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "log")
        with serving(options=["--access-log", path]) as server:
            threads = [threading.Thread(target=lambda: [server.call("GET", "/healthz") for _ in range(100)]) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        equal(sum("/healthz" in line for line in lines_of(path)), 400)


if __name__ == "__main__":
    main()
