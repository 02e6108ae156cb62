"""penstock call --stream and --chat: many messages over one gRPC stream, as a shell uses them."""
import json
import os
import pty
import select
import signal
import subprocess
import time

from harness import BINARY, Server, case, cases, check, equal, main, models


def echo(name, mode, more="", dtype="TYPE_STRING", dims="[ 1 ]", names=("text", "said")):
    return ('name: "%s"\nbackend: "echo"\ninput { name: "%s" data_type: %s dims: %s }\noutput { name: "%s" data_type: %s dims: %s }\n'
            'parameters { key: "mode" value { string_value: "%s" } }\n%s' % (name, names[0], dtype, dims, names[1], dtype, dims, mode,
                                                                              more)).encode()


def parameter(key, value):
    return 'parameters { key: "%s" value { string_value: "%s" } }\n' % (key, value)


MODELS = {
    "tokens/config.pbtxt": echo("tokens", "repeat", parameter("count", 5)),
    "endless/config.pbtxt": echo("endless", "repeat", parameter("count", 1000000000) + parameter("delay_ms", 5)),
    "same/config.pbtxt": echo("same", "identity"),
    "chat/config.pbtxt": echo("chat", "chat", parameter("greeting", "welcome")),
    "slow/config.pbtxt": echo("slow", "chat", parameter("greeting", "welcome") + parameter("count", 1000) +
                              parameter("delay_ms", 20)),
    "fails/config.pbtxt": echo("fails", "fail", parameter("text", "this one fails")),
    "numbers/config.pbtxt": echo("numbers", "identity", "", "TYPE_FP32", "[ -1 ]", ("x", "y")),
}


def serving(*options):
    class Both:
        def __enter__(self):
            self.folder = models(MODELS)
            self.server = Server(self.folder.__enter__(), options=options)
            return self.server.__enter__()

        def __exit__(self, *what):
            try:
                return self.server.__exit__(*what)
            finally:
                self.folder.__exit__(*what)
    return Both()


def call(server, *words, lines=None, timeout=60):
    return subprocess.run([BINARY, "call", *words, "-s", server.url], input="" if lines is None else lines, capture_output=True,
                          text=True, timeout=timeout)


def rows(done):
    equal(done.returncode, 0, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


@case
def one_question_many_answers():
    with serving() as server:
        found = rows(call(server, "tokens", "--stream", "--text", "hi"))
        equal([row["said"] for row in found], ["hi"] * 5)
        equal([row["stream"]["sequence"] for row in found], [1, 2, 3, 4, 5])
        found = rows(call(server, "tokens", "--stream", "-d", '{"text": "ho"}'))
        equal([row["said"] for row in found], ["ho"] * 5)


@case
def lines_in_answers_out():
    with serving() as server:
        found = rows(call(server, "same", "--stream", lines='{"text": "a"}\n\n{"text": "b"}\r\n{"text": "c"}'))
        equal([row["said"] for row in found if "said" in row], ["a", "b", "c"])


@case
def many_lines():
    """More than pipes and windows hold, both ways: nothing is lost and the order stays."""
    count = 50000
    with serving() as server:
        found = rows(call(server, "same", "--stream", lines="".join('{"text": "%d"}\n' % i for i in range(count))))
        equal([row["said"] for row in found if "said" in row], [str(i) for i in range(count)])


@case
def a_file_on_standard_input():
    with serving() as server, open("/dev/null") as nothing:
        done = subprocess.run([BINARY, "call", "same", "--stream", "-s", server.url], stdin=nothing, capture_output=True, text=True,
                              timeout=60)
        equal((done.returncode, done.stdout), (0, ""), done.stderr)


@case
def any_method_that_streams():
    with serving() as server:
        found = rows(call(server, "grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "--stream",
                          lines='{"listServices": ""}\n{"fileByFilename": "nope"}\n'))
        check("listServicesResponse" in found[0] and found[1]["errorResponse"]["errorCode"] == 5, "%s", found)


@cases({
    "bad_line": (("same", "--stream"), '{"text": "a"}\n{"text": \n', 1, "line 2"),
    "no_such_model": (("nope", "--stream"), "{}\n", 1, "nope"),
    "no_such_field": (("same", "--stream"), '{"txt": "a"}\n', 1, "txt"),
    "model_fails": (("fails", "--stream", "--text", "a"), "", 1, "this one fails"),
    "with_chat": (("same", "--stream", "--chat"), "", 2, "--chat"),
    "with_wire": (("same", "--stream", "--wire"), "", 2, "--wire"),
    "unary_of_many": (("penstock.models.Tokens/PredictStream", "--grpc", "-d", "{}"), "", 2, "--stream"),
    "chat_of_numbers": (("numbers", "--chat"), "", 2, "text input"),
    "chat_with_input": (("chat", "--chat", "--text", "a"), "", 2, "--chat"),
})
def refused(words, lines, status, said):
    with serving() as server:
        done = call(server, *words, lines=lines)
        check(said in done.stderr, "%r lacks %r", done.stderr, said)
        equal(done.returncode, status, done.stderr)


@case
def nobody_is_there():
    done = subprocess.run([BINARY, "call", "same", "--stream", "-s", "http://127.0.0.1:1"], input="", capture_output=True,
                          text=True, timeout=60)
    equal(done.returncode, 1)
    check("nobody listens" in done.stderr, "%s", done.stderr)


@case
def a_reader_that_leaves():
    """`| head -n 3` ends the call, and the model's work."""
    with serving() as server:
        done = subprocess.run('"%s" call endless --stream --text x -s %s | head -n 3' % (BINARY, server.url), shell=True,
                              capture_output=True, text=True, timeout=60)
        equal(len(done.stdout.splitlines()), 3)
        end = time.monotonic() + 10
        while time.monotonic() < end and metric(server, "penstock_model_cancelled_total", "endless") == 0:
            time.sleep(0.05)
        equal(metric(server, "penstock_model_cancelled_total", "endless"), 1)


def metric(server, name, model):
    status, reply = server.get("/metrics")
    equal(status, 200)
    text = reply if isinstance(reply, str) else reply.decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name) and 'model="%s"' % model in line)


@case
def a_deadline_when_asked_for():
    with serving() as server:
        begun = time.monotonic()
        done = call(server, "endless", "--stream", "--text", "x", "--timeout", "300ms")
        equal(done.returncode, 1)
        check("DEADLINE_EXCEEDED" in done.stderr or "--timeout" in done.stderr, "%s", done.stderr)
        check("after " in done.stderr or len(done.stdout.splitlines()) == 0, "%s", done.stderr)
        check(time.monotonic() - begun < 20, "it took %.1f s", time.monotonic() - begun)


# --- chat --------------------------------------------------------------------------------------------

@case
def chat_through_pipes():
    with serving() as server:
        done = call(server, "chat", "--chat", lines="hello\nhow are you\n")
        equal(done.returncode, 0, done.stderr)
        equal(done.stdout, "welcome\nhello\nhow are you\n")


class Terminal:
    """A program that believes that somebody sits before it."""

    def __init__(self, *words):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(words[0], words)
        self.seen = ""

    def until(self, text, seconds=20):
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            check(ready, "never saw %r: %r", text, self.seen)
            try:
                self.seen += os.read(self.fd, 65536).decode()
            except OSError:
                check(False, "it ended without %r: %r", text, self.seen)
        self.seen = self.seen[self.seen.index(text) + len(text):]

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    os.read(self.fd, 65536)
                except OSError:
                    time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL)
        check(False, "it does not end")


@case
def chat_at_a_terminal():
    with serving() as server:
        terminal = Terminal(BINARY, "call", "chat", "--chat", "-s", server.url)
        terminal.until("welcome")
        terminal.until("> ")
        terminal.type("hello\n")
        terminal.until("hello\r\nhello")        # what was typed, and what came back
        terminal.until("> ")
        terminal.type("\x04")
        equal(terminal.end(), 0)


@case
def ctrl_c_stops_an_answer_and_not_the_talk():
    with serving() as server:
        terminal = Terminal(BINARY, "call", "slow", "--chat", "-s", server.url)
        terminal.until("> ")
        terminal.type("long\n")
        terminal.until("longlong")
        terminal.type("\x03")
        terminal.until("> ")
        terminal.type("\x03")                   # while nothing is answered: good-bye
        equal(terminal.end(), 0)


if __name__ == "__main__":
    main()
