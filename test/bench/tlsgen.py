"""The generator of TLS says what happened: answers are checked, a wrong certificate or body ends the run, resumption that does not
happen ends it, and connections that the server ends are counted."""
import contextlib
import json
import os
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading

from harness import ROOT, case, check, equal, main, need_program

sys.path.insert(0, os.path.join(ROOT, "bench"))
BODY = b'{"ok":true}'
REQUEST = b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n"


@contextlib.contextmanager
def built():
    cc = need_program("cc")
    with tempfile.TemporaryDirectory(prefix="penstock-tlsgen-") as folder:
        target = os.path.join(folder, "tlsgen")
        source = os.path.join(ROOT, "bench", "tlsgen.c")
        subprocess.run([cc, "-std=gnu17", "-D_GNU_SOURCE", "-O1", "-Wno-unused-function", source, "-o", target, "-lssl",
                        "-lcrypto"], check=True)
        for name in ("good", "other"):
            subprocess.run([need_program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                            "-nodes", "-days", "2", "-subj", "/CN=" + name, "-addext", "subjectAltName=DNS:localhost", "-keyout",
                            folder + "/%s.key" % name, "-out", folder + "/%s.pem" % name], check=True, capture_output=True)
        for name, data in (("request", REQUEST), ("body", BODY)):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)
        yield folder


@contextlib.contextmanager
def serving(folder, is_tls=True, body=BODY, is_resuming=True, ends_at_once=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder + "/good.pem", folder + "/good.key")
    context.num_tickets = 2 if is_resuming else 0

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            if ends_at_once:
                return
            with contextlib.suppress(OSError):
                stream = context.wrap_socket(self.request, server_side=True) if is_tls else self.request
                data = b""
                while True:
                    piece = stream.recv(65536)
                    if not piece:
                        return
                    data += piece
                    while b"\r\n\r\n" in data:
                        data = data.split(b"\r\n\r\n", 1)[1]
                        stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address, request_queue_size = True, True, 128

    with Listener(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield listener.server_address[1]
        listener.shutdown()


def run(folder, port, mode, *options):
    """(status, what it told at the end, errors)"""
    done = subprocess.run([folder + "/tlsgen", "--port", str(port), "--mode", mode, "--connections", "4", "--seconds", "0.3",
                           "--warmup", "0.2", "--request", folder + "/request", "--expect", folder + "/body", *options],
                          input="\n" if mode in ("requests", "handshakes") else "", capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr


@case
def counts_requests_and_handshakes():
    with built() as folder, serving(folder) as port:
        for mode, more in (("requests", ()), ("handshakes", ()), ("handshakes", ("--version", "1.2"))):
            status, told, error = run(folder, port, mode, "--tls", "--ca", folder + "/good.pem", *more)
            equal((status, told.get("mark")), (0, "end"), error)
            check(told["answers"] > 0 and told["latency"][0]["count"] == told["answers"], "it told %r", told)
            equal(told["resumed"], 0)
        status, told, error = run(folder, port, "handshakes", "--tls", "--ca", folder + "/good.pem", "--resume", "--version", "1.2")
        equal(status, 0, error)
        check(told["resumed"] >= 0.9 * told["answers"] > 0, "it told %r", told)


@case
def counts_plain_ones():
    with built() as folder, serving(folder, is_tls=False) as port:
        status, told, error = run(folder, port, "requests")
        equal((status, told.get("mark")), (0, "end"), error)
        check(told["answers"] > 0, "it told %r", told)


@case
def a_wrong_body_ends_the_run():
    with built() as folder, serving(folder, body=b'{"ok":fals}') as port:
        status, _, error = run(folder, port, "requests", "--tls")
        check(status == 1 and "a body differs" in error, "status %d: %s", status, error)


@case
def a_certificate_of_another_authority_ends_the_run():
    with built() as folder, serving(folder) as port:
        status, _, error = run(folder, port, "requests", "--tls", "--ca", folder + "/other.pem")
        check(status == 1 and "certificate verify failed" in error, "status %d: %s", status, error)


@case
def connections_that_the_server_ends_are_counted():
    with built() as folder, serving(folder, is_tls=False, ends_at_once=True) as port:
        command = [folder + "/tlsgen", "--port", str(port), "--mode", "drip", "--connections", "4"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        process.stdin.close()
        told = json.loads(process.stdout.readline())
        process.wait(10)
        check(told["ended"] > 0 and told["opened"] == told["ended"] + 4, "it told %r", told)


if __name__ == "__main__":
    main()
