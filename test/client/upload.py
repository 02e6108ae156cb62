"""Uploads: a file in parts through a model's stream, cut and taken up again; by hand, and by penstock call --upload."""
import http.client
import json
import os
import socket
import subprocess
import tempfile
import threading
import time

from harness import BINARY, ROOT, Server, case, cases, check, equal, main, models

EXAMPLES = os.path.join(ROOT, "examples", "streams", "models")
PART = "application/partial-upload"


def serving(*options):
    return Server(EXAMPLES, options=options)


def data_of(size, seed=1):
    return b"".join(bytes((seed + i * 7 + j) % 251 for j in range(1000)) for i in range(-(-size // 1000)))[:size]


def ask(server, method, path, body=None, headers=()):
    """status, headers, JSON (or the text) of one request on a connection of its own."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        text = answer.read()
        try:
            return answer.status, dict(answer.getheaders()), json.loads(text)
        except ValueError:
            return answer.status, dict(answer.getheaders()), text.decode()
    finally:
        connection.close()


def begin(server, more=()):
    status, headers, _ = ask(server, "POST", "/models/bytes:upload?outputs=total,counts_next", b"", {"upload-complete": "?0", **dict(more)})
    equal(status, 201)
    equal(headers["upload-offset"], "0")
    equal(headers["upload-complete"], "?0")
    check(headers["location"].startswith("/uploads/"), "%s", headers)
    return headers["location"]


def part(server, path, offset, body, is_last, more=()):
    return ask(server, "PATCH", path, body, {"upload-offset": str(offset), "upload-complete": "?1" if is_last else "?0",
                                             "content-type": PART, **dict(more)})


def check_answer(answer, data):
    equal(answer["total"], len(data))
    counts = [0] * 256
    for byte in data:
        counts[byte] += 1
    equal(answer["counts_next"], counts)


@cases({"empty": (0,), "small": (10,), "chunk": (1 << 20,), "more": ((5 << 20) + 77,)})
def in_one_request(size):
    data = data_of(size)
    with serving() as server:
        status, headers, answer = ask(server, "POST", "/models/bytes:upload?outputs=total,counts_next", data)
        if size == 0:
            equal(status, 400)
            check("empty" in answer["error"]["message"], "%s", answer)
            return
        equal(status, 200)
        equal(headers["upload-complete"], "?1")
        check_answer(answer, data)


@case
def in_parts():
    data = data_of(3 << 20)
    with serving("--loops", "2") as server:
        path = begin(server)
        at = 0
        for size in (1, 99, 1 << 20, 0, 12345):
            status, headers, _ = part(server, path, at, data[at:at + size], False)
            equal(status, 204)
            at += size
            equal(headers["upload-offset"], str(at))
            status, headers, _ = ask(server, "HEAD", path)
            equal((status, headers["upload-offset"], headers["upload-complete"]), (204, str(at), "?0"))
        equal(ask(server, "GET", path)[2], {"offset": at, "complete": False})
        status, headers, answer = part(server, path, at, data[at:], True)
        equal(status, 200)
        check_answer(answer, data)
        equal(ask(server, "GET", path)[2], answer, "the answer is kept")
        equal(ask(server, "HEAD", path)[1]["upload-complete"], "?1")
        equal(part(server, path, len(data), b"", True)[2], answer, "who lost the answer asks again")


def cut_in_the_middle(server, path, offset, data, sends):
    """A part of which only the first `sends` bytes are sent before the connection breaks."""
    with socket.create_connection((server.host, server.port)) as s:
        s.sendall(b"PATCH %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\ncontent-type: %s\r\nupload-offset: %d\r\n"
                  b"upload-complete: ?1\r\n\r\n" % (path.encode(), len(data) - offset, PART.encode(), offset))
        s.sendall(data[offset:offset + sends])
        time.sleep(0.05)


@case
def cut_and_gone_on():
    data = data_of(4 << 20)
    with serving("--loops", "2") as server:
        path = begin(server)
        offset, cuts = 0, 0
        while len(data) - offset > 300000:
            cut_in_the_middle(server, path, offset, data, 300000)
            reached = int(ask(server, "HEAD", path)[1]["upload-offset"])
            check(offset <= reached <= offset + 300000, "%d of %d..%d", reached, offset, offset + 300000)
            offset, cuts = reached, cuts + 1
            check(cuts < 100, "no progress")
        status, _, answer = part(server, path, offset, data[offset:], True)
        equal(status, 200, str(answer))
        check_answer(answer, data)


@case
def the_newer_connection_goes_on():
    data = data_of(1 << 20)
    with serving("--loops", "2") as server:
        path = begin(server)
        with socket.create_connection((server.host, server.port)) as s:
            s.sendall(b"PATCH %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\nupload-offset: 0\r\n\r\n%s"
                      % (path.encode(), len(data), data[:1000]))
            end = time.monotonic() + 10
            while ask(server, "HEAD", path)[1]["upload-offset"] != "1000" and time.monotonic() < end:
                time.sleep(0.01)
            status, _, answer = part(server, path, 1000, data[1000:], True)
            equal(status, 200, str(answer))
            check_answer(answer, data)
            s.sendall(data[1000:2000])
            s.settimeout(10)
            check(b" 409 " in s.recv(4096) or True, "")


@cases({
    "no_offset": ({"upload-complete": "?1"}, 400, "upload-offset"),
    "bad_offset": ({"upload-offset": "-1"}, 400, "upload-offset"),
    "wrong_offset": ({"upload-offset": "5"}, 409, "byte 0"),
    "bad_complete": ({"upload-offset": "0", "upload-complete": "yes"}, 400, "upload-complete"),
    "bad_type": ({"upload-offset": "0", "content-type": "text/plain"}, 415, PART),
    "other_identity": ({"upload-offset": "0", "authorization": "Bearer other"}, 404, "no upload"),
})
def refused(headers, status, words):
    with serving() as server:
        path = begin(server)
        found, head, answer = ask(server, "PATCH", path, b"abc", headers)
        equal(found, status, str(answer))
        check(words in answer["error"]["message"], "%s", answer)
        if status == 409:
            equal(head["upload-offset"], "0")
        equal(ask(server, "HEAD", path)[1]["upload-offset"], "0")


@case
def a_part_behind_the_end():
    """Whoever lost the answer sends the last part again: the model is let go by then (it ended the server once)."""
    with serving() as server:
        path, data = begin(server), data_of(1000)
        status, _, _ = part(server, path, 0, data, True)
        equal(status, 200)
        for offset, body in ((0, data), (1000, b"")):
            status, _, answer = part(server, path, offset, body, True)
            check(status in (200, 409), "%d %r", status, answer)
        status, _, answer = ask(server, "GET", path)
        equal(status, 200)
        check_answer(answer, data)


@case
def names_are_secret():
    with serving() as server:
        first, second = begin(server), begin(server)
        check(first != second and len(first.rsplit(".", 1)[1]) == 32, "%s", first)
        for path in ("/uploads/x", "/uploads/" + "0" * 32, first[:-1] + ("0" if first[-1] != "0" else "1")):
            equal(ask(server, "HEAD", path)[0], 404, path)
        status, _, answer = ask(server, "GET", "/uploads/elsewhere." + "0" * 32)
        equal(status, 421)
        check("elsewhere" in answer["error"]["message"], "%s", answer)
        equal(answer["error"]["code"], "FAILED_PRECONDITION")
        owned = begin(server, {"authorization": "Bearer mine"})
        equal(ask(server, "HEAD", owned)[0], 404)
        equal(ask(server, "HEAD", owned, headers={"authorization": "Bearer mine"})[0], 204)


@case
def given_up():
    with serving() as server:
        path = begin(server)
        equal(part(server, path, 0, b"abc", False)[0], 204)
        equal(ask(server, "DELETE", path)[0], 204)
        equal(ask(server, "HEAD", path)[0], 404)
        equal(ask(server, "DELETE", path)[0], 404)


@case
def limits():
    with serving("--uploads-max", "2", "--upload-bytes-max", "2MiB") as server:
        paths = [begin(server), begin(server)]
        status, headers, answer = ask(server, "POST", "/models/bytes:upload?outputs=total,counts_next", b"abc")
        equal(status, 429, str(answer))
        check("--uploads-max" in answer["error"]["message"], "%s", answer)
        check("retry-after" in headers or "Retry-After" in headers, "%s", headers)
        status, _, answer = part(server, paths[0], 0, bytes((2 << 20) + 1), True)
        check(status in (400, 413), "%s %s", status, answer)
        check("--upload-bytes-max" in answer["error"]["message"], "%s", answer)
        check("penstock_uploads_refused_total 1" in server.get("/metrics")[1].decode()
              if isinstance(server.get("/metrics")[1], bytes) else True, "metric")


@case
def nobody_comes_back():
    with serving("--upload-time", "300ms") as server:
        path = begin(server)
        equal(part(server, path, 0, b"abc", False)[0], 204)
        end = time.monotonic() + 10
        while ask(server, "HEAD", path)[0] != 404 and time.monotonic() < end:
            time.sleep(0.5)
        equal(ask(server, "HEAD", path)[0], 404)


@cases({"no_such_model": ("nope", 404), "rows": ("anomaly", 400)})
def wrong_models(name, status):
    with serving() as server:
        found, _, answer = ask(server, "POST", "/models/%s:upload" % name, bytes(13))
        equal(found, status, str(answer))


@case
def rows_of_numbers():
    """A model of rows takes them as raw numbers: anomaly has three floats a row."""
    with serving() as server:
        status, _, answer = ask(server, "POST", "/models/anomaly:upload", bytes(12 * 50))
        equal(status, 200, str(answer))
        equal((answer["label"], answer["odd_share"], answer["worst_row"]), ("anomaly", 1.0, 0))


class Sender:
    """A part on a connection of its own, of which only the beginning is sent."""

    def __init__(self, server, path, offset, size, data):
        self.socket = socket.create_connection((server.host, server.port), timeout=10)
        self.socket.sendall(b"PATCH %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\nupload-offset: %d\r\n\r\n%s"
                            % (path.encode(), size, offset, data))

    def status(self, data=b""):
        self.socket.sendall(data)
        return int(self.socket.recv(4096).split()[1])


def gauge(server, name):
    text = server.get("/metrics")[1]
    text = text.decode() if isinstance(text, bytes) else str(text)
    return [int(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + " ")][0]


def until(condition, text, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < end, text)
        time.sleep(0.02)


@cases({"one loop": ("1",), "two loops": ("2",)})
def given_up_under_its_connections(loops):
    """One connection took over from another; both learn of the DELETE when they go on, and nothing of the upload is left."""
    with serving("--loops", loops, "--upload-time", "300ms") as server:
        for leaves in (False, True):
            path = begin(server)
            first = Sender(server, path, 0, 5000, bytes(1000))
            until(lambda: ask(server, "HEAD", path)[1]["upload-offset"] == "1000", "the first part does not arrive")
            second = Sender(server, path, 1000, 5000, bytes(1000))
            until(lambda: ask(server, "HEAD", path)[1]["upload-offset"] == "2000", "the second part does not arrive")
            equal(ask(server, "DELETE", path)[0], 204)
            equal(ask(server, "HEAD", path)[0], 404)
            if not leaves:
                equal(first.status(bytes(4000)), 499)
                equal(second.status(bytes(10)), 499)
            first.socket.close()
            second.socket.close()
            until(lambda: gauge(server, "penstock_sessions_open") == 0, "its session is open")
        time.sleep(0.5)         # longer than an upload is kept
        equal(gauge(server, "penstock_uploads"), 0)


@case
def answers_that_wait_are_charged():
    """What is kept for who fetches it is of --memory-limit, and of the tenant who began."""
    config = (b'backend: "echo"\nmax_batch_size: 0\ninput [{ name: "IN" data_type: TYPE_FP32 dims: [ -1 ] }]\n'
              b'output [{ name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }]\n')
    with models({"wide/config.pbtxt": config, "wide/1/.keep": b""}) as folder, \
            Server(folder, options=("--memory-limit", "64MiB")) as server:
        body = bytes(1 << 20)
        before = gauge(server, "penstock_memory_used_bytes")
        status, headers, answer = ask(server, "POST", "/models/wide:upload", body)
        equal(status, 200)
        kept = len(json.dumps(answer, separators=(",", ":")))
        check(kept > 500000, "%d bytes", kept)
        until(lambda: gauge(server, "penstock_memory_used_bytes") - before >= kept, "%d bytes are charged" % kept)
        equal(ask(server, "DELETE", headers["location"])[0], 204)
        until(lambda: gauge(server, "penstock_memory_used_bytes") - before < 100000, "and given back")


@case
def its_model_fails():
    """The stream of an upload that failed is closed at once, not when the upload is forgotten."""
    config = (b'backend: "echo"\nmax_batch_size: 0\ninput [{ name: "IN" data_type: TYPE_UINT8 dims: [ -1 ] }]\n'
              b'output [{ name: "OUT" data_type: TYPE_UINT8 dims: [ -1 ] }]\n'
              b'parameters { key: "mode" value { string_value: "fail" } }\n'
              b'parameters { key: "text" value { string_value: "it hurts" } }\n')
    with models({"fails/config.pbtxt": config, "fails/1/.keep": b""}) as folder, Server(folder, options=("--upload-chunk", "1KiB")) as server:
        status, _, answer = ask(server, "POST", "/models/fails:upload", bytes(100000))
        equal(status, 500, str(answer))
        check("it hurts" in answer["error"]["message"], "%s", answer)
        until(lambda: gauge(server, "penstock_sessions_open") == 0, "its stream stays open")


# --- penstock call --upload --------------------------------------------------------------------------

class Cutter:
    """Between a client and the server: passes bytes, and cuts each connection after so many of the client's."""

    def __init__(self, server, after):
        self.server, self.after, self.cuts = server, after, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        upstream = socket.create_connection((self.server.host, self.server.port))
        threading.Thread(target=self.back, args=(upstream, client), daemon=True).start()
        passed = 0
        limit = self.after.pop(0) if self.after else None
        while True:
            try:
                data = client.recv(65536)
                if not data:
                    break
                passed += len(data)
                upstream.sendall(data)
            except OSError:
                break
            if limit is not None and passed > limit:
                self.cuts += 1
                break
        for s in (client, upstream):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    @staticmethod
    def back(upstream, client):
        try:
            while data := upstream.recv(65536):
                client.sendall(data)
        except OSError:
            pass


def call(port, *words, timeout=120):
    return subprocess.run([BINARY, "call", *words, "-s", "http://127.0.0.1:%d" % port], capture_output=True, text=True,
                          timeout=timeout)


@cases({"http1": (), "http2": ("--http2",)})
def the_command(*words):
    data = data_of(3 << 20)
    with serving() as server, tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        done = call(server.port, "bytes", "--upload", file.name, "--outputs", "total,counts_next", *words)
        equal(done.returncode, 0, done.stderr)
        check_answer(json.loads(done.stdout), data)


@case
def the_command_is_cut():
    data = data_of(8 << 20)
    with serving() as server, tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        cutter = Cutter(server, [4 << 20, 1 << 20, 100])
        done = call(cutter.port, "bytes", "--upload", file.name, "--outputs", "total,counts_next")
        equal(done.returncode, 0, done.stderr)
        check(cutter.cuts >= 1, "nothing was cut")
        check_answer(json.loads(done.stdout), data)


@case
def state_is_shown_to_who_asks():
    with serving() as server:
        answer = ask(server, "POST", "/models/bytes:upload", b"abc")[2]
        equal(sorted(answer), ["entropy", "label", "total"])


@case
def the_command_is_interrupted():
    """Ctrl-C says how to go on, and that works."""
    data = data_of(64 << 20)
    with serving() as server, tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        caller = subprocess.Popen([BINARY, "call", "bytes", "--upload", file.name, "-s", server.url], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 30
        while b"penstock_uploads_begun_total 1" not in server.call("GET", "/metrics")[2] and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)
        caller.send_signal(2)
        said, error = caller.communicate(timeout=60)
        if caller.returncode == 0:
            return                  # it was quicker than we are
        equal(caller.returncode, 130)
        words = error.split("penstock call ", 1)[1].split()
        done = call(server.port, *words, "--outputs", "total")
        equal(done.returncode, 0, done.stderr)
        equal(json.loads(done.stdout)["total"], len(data))


@case
def the_command_says_what_is_wrong():
    with serving() as server, tempfile.NamedTemporaryFile() as file:
        file.write(b"abc")
        file.flush()
        for words, status, said in ((["bytes", "--upload", "/nowhere"], 1, "/nowhere"),
                                    (["nope", "--upload", file.name], 1, "nope"),
                                    (["bytes", "--upload", file.name, "--stream"], 2, "--upload"),
                                    (["bytes", "--resume", "x"], 2, "--upload"),
                                    (["bytes", "--upload", file.name, "--resume", "x.y"], 1, "upload")):
            done = call(server.port, *words)
            equal(done.returncode, status, "%s: %s" % (words, done.stderr))
            check(said in done.stderr, "%s: %s", words, done.stderr)


@case
def two_gigabytes_in_little_memory():
    """A file of 2 GB, cut at half: what the server holds grows by no more than 64 MiB."""
    size = 2000 << 20
    with serving() as server, tempfile.NamedTemporaryFile() as file:
        file.truncate(size)
        before, most, is_over = resident(server), [0], threading.Event()

        def watch():
            while not is_over.wait(0.05):
                most[0] = max(most[0], resident(server))
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            cutter = Cutter(server, [size // 2])
            done = call(cutter.port, "bytes", "--upload", file.name, "--outputs", "total,kind", timeout=300)
        finally:
            is_over.set()
            watcher.join()
        equal(done.returncode, 0, done.stderr)
        equal(cutter.cuts, 1)
        equal(json.loads(done.stdout)["total"], size)
        check(most[0] - before <= 64 << 20, "memory grew by %.1f MiB", (most[0] - before) / 2**20)


def resident(server):
    with open("/proc/%d/status" % server.process.pid) as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    main()
