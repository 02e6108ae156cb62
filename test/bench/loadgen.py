"""The load generator says what happened: stalls are charged to all who waited, and wrong answers end the run."""
import contextlib
import json
import os
import socket
import socketserver
import subprocess
import tempfile
import threading
import time

from harness import ROOT, case, cases, check, equal, main, need, need_program

REQUEST = b"POST /x HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\n\r\nhi"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@contextlib.contextmanager
def answering(answer):
    """A server that gives `answer(number)` to each request, counted over all connections."""
    lock, count = threading.Lock(), [0]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            data = b""
            with contextlib.suppress(OSError):
                while True:
                    piece = self.request.recv(65536)
                    if not piece:
                        return
                    data += piece
                    while len(data) >= len(REQUEST):
                        check(data.startswith(REQUEST), "not the request: %r", data)
                        data = data[len(REQUEST):]
                        with lock:          # one at a time: a stall holds everybody up
                            count[0] += 1
                            said = answer(count[0])
                        self.request.sendall(said)

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address, request_queue_size = True, True, 128

    with Listener(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        yield listener.server_address[1]
        listener.shutdown()


@contextlib.contextmanager
def answering_http2(answer):
    """The same over HTTP/2, one connection after the other: `answer(number)` is (status, body, trailers, code of a reset)."""
    need("h2")
    import h2.config
    import h2.connection
    import h2.events
    lock, count = threading.Lock(), [0]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            connection.initiate_connection()
            self.request.sendall(connection.data_to_send())
            sizes = {}
            with contextlib.suppress(OSError):
                while True:
                    data = self.request.recv(65536)
                    if not data:
                        return
                    for event in connection.receive_data(data):
                        if isinstance(event, h2.events.DataReceived):
                            sizes[event.stream_id] = sizes.get(event.stream_id, 0) + len(event.data)
                            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        elif isinstance(event, h2.events.StreamEnded):
                            check(sizes.pop(event.stream_id, 0) == len(REQUEST), "not the request")
                            with lock:
                                count[0] += 1
                                status, body, trailers, code = answer(count[0])
                            if code is not None:
                                connection.reset_stream(event.stream_id, code)
                                continue
                            connection.send_headers(event.stream_id, [(":status", str(status)), ("content-type", "application/grpc")])
                            connection.send_data(event.stream_id, body, end_stream=trailers is None)
                            if trailers is not None:
                                connection.send_headers(event.stream_id, trailers, end_stream=True)
                    self.request.sendall(connection.data_to_send())

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address, request_queue_size = True, True, 128

    with Listener(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        yield listener.server_address[1]
        listener.shutdown()


def loadgen(port, *arguments, expect=b"hello"):
    """(exit status, figures or None, what stderr says)"""
    compiler = need_program("cc")
    with tempfile.TemporaryDirectory() as folder:
        program = folder + "/loadgen"
        subprocess.run([compiler, "-std=gnu17", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror",
                        os.path.join(ROOT, "bench", "loadgen.c"), "-o", program, "-lnghttp2"], check=True)
        for name, data in (("request", REQUEST), ("expect", expect)):
            with open("%s/%s" % (folder, name), "wb") as file:
                file.write(data)
        done = subprocess.run([program, "--port", str(port), "--request", folder + "/request", "--expect", folder + "/expect",
                               "--warmup", "0", *arguments], capture_output=True, text=True, timeout=60)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, lines[-1] if lines and lines[-1]["mark"] == "end" else None, done.stderr


@case
def closed_loop_counts():
    with answering(lambda number: GOOD) as port:
        status, found, _ = loadgen(port, "--connections", "4", "--requests", "500")
    equal((status, found["answers"], found["latency"][0]["count"]), (0, 500, 500))
    latency = found["latency"][0]
    check(0 < latency["p50_us"] <= latency["p99_us"] <= latency["p999_us"] <= latency["max_us"], "%s", latency)


@case
def closed_loop_measures_a_known_time():
    def answer(number):
        time.sleep(0.01)
        return GOOD
    with answering(answer) as port:
        status, found, _ = loadgen(port, "--connections", "1", "--requests", "50")
    equal(status, 0)
    check(10000 <= found["latency"][0]["p50_us"] < 20000, "%s", found)


@case
def open_loop_charges_a_stall_to_all_who_were_due():
    """500 a second for 2 s, and one stall of 400 ms: one request was slow, two hundred were due meanwhile."""
    def answer(number):
        if number == 300:
            time.sleep(0.4)
        return GOOD
    with answering(answer) as port:
        status, found, _ = loadgen(port, "--connections", "8", "--seconds", "2", "--rate", "500")
    equal((status, found["answers"]), (0, 1000))
    latency = found["latency"][0]
    check(latency["p99_us"] > 300000, "p99 does not know of the stall: %s", latency)
    check(latency["p90_us"] > 100000, "p90 does not know of the stall: %s", latency)
    check(latency["p50_us"] < 100000, "%s", latency)
    check(found["backlog_max"] > 100, "%s", found)


@case
def it_drips_beside_what_it_measures():
    """Forty connections that send a byte a second for two seconds: none of what they send is a request, and all of it is counted."""
    with answering(lambda number: GOOD) as port:
        status, found, text = loadgen(port, "--connections", "2", "--seconds", "2", "--rate", "50", "--drip", "40")
    equal((status, text, found["answers"]), (0, "", 100))
    check(0 < found["drip_bytes"] == found["drip_send"]["count"], "%s", found)
    equal(found["drips_ended"], 0)


@case
def connections_that_drip_and_are_ended_are_counted():
    """A server that closes what sends anything but a whole request at once."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        def serve(connection):
            with connection, contextlib.suppress(OSError):
                while connection.recv(65536) == REQUEST:
                    connection.sendall(GOOD)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
        threading.Thread(target=accept, daemon=True).start()
        status, found, text = loadgen(listener.getsockname()[1], "--connections", "2", "--seconds", "3", "--rate", "50",
                                      "--drip", "5")
        equal((status, text, found["answers"]), (0, "", 150))
        check(found["drips_ended"] > 0, "%s", found)


@cases({"another_body": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhullo", "differs"),
        "another_size": (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell", "4 bytes"),
        "an_error": (b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nhello", "503"),
        "closing": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", "keep-alive"),
        "two_answers": (GOOD + GOOD, ""), "no_length": (b"HTTP/1.1 200 OK\r\n\r\nhello", "content-length")})
def wrong_answers_end_the_run(wrong, word):
    with answering(lambda number: wrong if number == 50 else GOOD) as port:
        status, found, text = loadgen(port, "--connections", "2", "--requests", "200")
    equal((status, found), (1, None))
    check(word in text and text.startswith("loadgen: "), "%r", text)


# --- HTTP/2 and gRPC --------------------------------------------------------------------------------------------

GRPC_GOOD = (200, b"hello", [("grpc-status", "0")], None)
GRPC = ("--path", "/a.B/C", "--grpc")


@cases({"one_stream_each": ("4", "1"), "many_streams": ("1", "16"), "both": ("3", "5")})
def grpc_closed_loop_counts(connections, streams):
    with answering_http2(lambda number: GRPC_GOOD) as port:
        status, found, text = loadgen(port, *GRPC, "--connections", connections, "--streams", streams, "--requests", "300")
    equal((status, text), (0, ""))
    equal((found["answers"], found["latency"][0]["count"]), (300, 300))


@case
def grpc_streams_are_under_way_together():
    """Sixteen streams of a server that takes 20 ms for whatever has come: sixteen answers in that time, not one."""
    def answer(number):
        if number % 16 == 1:
            time.sleep(0.02)
        return GRPC_GOOD
    with answering_http2(answer) as port:
        status, found, _ = loadgen(port, *GRPC, "--connections", "1", "--streams", "16", "--requests", "320")
    equal(status, 0)
    check(found["seconds"] < 320 * 0.02 / 2, "the streams waited for each other: %s", found)


@case
def grpc_open_loop_charges_a_stall_to_all_who_were_due():
    def answer(number):
        if number == 300:
            time.sleep(0.4)
        return GRPC_GOOD
    with answering_http2(answer) as port:
        status, found, _ = loadgen(port, *GRPC, "--connections", "1", "--streams", "100", "--seconds", "2", "--rate", "400")
    equal((status, found["answers"]), (0, 800))
    latency = found["latency"][0]
    check(latency["p90_us"] > 100000 and latency["p50_us"] < 100000, "%s", latency)


@cases({"another_body": ((200, b"hullo", [("grpc-status", "0")], None), "differs"),
        "another_size": ((200, b"hell", [("grpc-status", "0")], None), "4 bytes"),
        "longer": ((200, b"hello!", [("grpc-status", "0")], None), "longer"),
        "an_error": ((503, b"hello", [("grpc-status", "0")], None), "503"),
        "a_status": ((200, b"hello", [("grpc-status", "13")], None), "13"),
        "no_trailers": ((200, b"hello", None, None), "without grpc-status"),
        "a_reset": ((200, b"hello", None, 7), "REFUSED_STREAM")})
def wrong_grpc_answers_end_the_run(wrong, word):
    with answering_http2(lambda number: wrong if number == 50 else GRPC_GOOD) as port:
        status, found, text = loadgen(port, *GRPC, "--connections", "2", "--streams", "3", "--requests", "200")
    equal((status, found), (1, None))
    check(word in text and text.startswith("loadgen: "), "%r", text)


@case
def http2_without_grpc_needs_no_status():
    with answering_http2(lambda number: (200, b"hello", None, None)) as port:
        status, found, _ = loadgen(port, "--path", "/x", "--http2", "--connections", "1", "--streams", "4", "--requests", "100")
    equal((status, found["answers"]), (0, 100))


if __name__ == "__main__":
    main()
