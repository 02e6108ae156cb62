#!/usr/bin/env python3
"""serve.py - starting, what is printed, failing before the port opens, draining and stopping."""
import contextlib
import http.client
import json
import os
import random
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from harness import BINARY, ROOT, Server, case, cases, check, equal, main, models, need_program

EXAMPLES = os.path.join(ROOT, "examples", "models")
TENSORS = b"""input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
"""
ECHO = b'backend: "echo"\n' + TENSORS
SLOW = ECHO + b"""parameters { key: "mode" value { string_value: "delay" } }
parameters { key: "delay_ms" value { string_value: "%d" } }
"""
BODY = json.dumps({"x": [1, 2, 3, 4]})


def run(*arguments, env=None, cwd=None, stdin=None, seconds=60):
    """(exit status, stdout, stderr) of one call of the program"""
    done = subprocess.run([BINARY, *map(str, arguments)], env=dict(os.environ, **(env or {})), cwd=cwd,
                          input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, text=True,
                          capture_output=True, timeout=seconds, errors="replace")
    return done.returncode, done.stdout, done.stderr


def call_in_thread(server, path="/models/slow:predict", body=BODY):
    """Starts a request; the list gets (status, headers, body) or the exception."""
    result = []

    def work():
        try:
            result.append(server.call("POST", path, body))
        except Exception as error:      # noqa: the test looks at it
            result.append(error)
    thread = threading.Thread(target=work)
    thread.start()
    return thread, result


def wait_for(condition, what, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < until, "%s did not happen within %d s", what, seconds)
        time.sleep(0.005)


@contextlib.contextmanager
def stubborn(**parameters):
    """(folder of the model `m`, options that load its backend): a model that lets nobody hurry it"""
    compiler = need_program("cc")
    text = b'backend: "stubborn"\n'
    for key, value in parameters.items():
        text += b'parameters { key: "%s" value { string_value: "%d" } }\n' % (key.encode(), value)
    with models({"models/m/config.pbtxt": text, "models/fast/config.pbtxt": ECHO}) as folder:
        plugin = os.path.join(folder, "stubborn.so")
        subprocess.run([compiler, "-shared", "-fPIC", "-fvisibility=hidden", "-I", os.path.join(ROOT, "include"), "-o", plugin,
                        os.path.join(ROOT, "test", "cli", "stubborn.c")], check=True)
        yield os.path.join(folder, "models"), ["--backend-plugin", plugin]


# --- starting ----------------------------------------------------------------------------------------

@case
def says_where_it_listens_and_what_it_found():
    with models({"good/config.pbtxt": ECHO, "bad/config.pbtxt": b'backend: "echo"\nmax_batch_siz: 3\n'}) as folder:
        with Server(folder) as server:
            first = server.lines[0].rstrip("\n")
            check(re.fullmatch(r"listening on http://127\.0\.0\.1:\d+", first), "%r", first)
            wait_for(lambda: "try:" in server.log, "the lines to try")
            check(re.search(r"^  good +1 +ready +x FP32 \[4\] -> y FP32 \[4\]$", server.log, re.M), "%s", server.log)
            check(re.search(r"^  bad +- +NOT READY +config\.pbtxt: line 2", server.log, re.M), "%s", server.log)
            check("max_batch_size" in server.log, "%s", server.log)
            equal(server.post("/models/good:predict", {"x": [1, 2, 3, 4]})[0], 200, "a bad model stops no good one")


@case
def listens_on_several_addresses_and_a_unix_socket():
    with models({"m/config.pbtxt": ECHO}) as folder, tempfile.TemporaryDirectory() as where:
        path = os.path.join(where, "x.sock")
        with Server(folder, options=["--listen", "localhost:0", "--listen", "unix:" + path]) as server:
            wait_for(lambda: "models:" in server.log, "the list")
            listening = [line.split(" on ")[1].strip() for line in server.lines if line.startswith("listening on ")]
            equal(len(listening), 3)
            check("unix:" + path in listening, "%s", listening)
            for url in listening:
                status, out, err = run("call", "m", "--server", url, "--x", "1,2,3,4", "--json")
                equal((status, json.loads(out or "null")), (0, {"y": [1, 2, 3, 4]}), url + ": " + err)
        check(not os.path.exists(path), "the socket's file is gone")


@case
def every_printed_line_works_when_pasted():
    need_program("curl")
    with Server(EXAMPLES) as server:
        wait_for(lambda: "try:" in server.log and server.log.endswith("\n"), "the lines to try")
        time.sleep(0.05)
        lines = [line.strip() for line in server.log[server.log.index("try:"):].splitlines()[1:] if line.startswith("  ")]
        check(len(lines) >= 6, "%s", lines)
        answers = {}
        for line in lines:
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
            equal(done.returncode, 0, "%s: %s" % (line, done.stderr))
            answer = json.loads(done.stdout)
            check("error" not in answer, "%s: %s", line, answer)
            name = re.search(r"/models/(\w+):predict" if line.startswith("curl") else r" call (?:--grpc )?(\w+)", line).group(1)
            answers.setdefault(name, []).append(answer)
        for name, all_ways in answers.items():
            check(len(all_ways) >= 2, "%s by one way only", name)
            for answer in all_ways:
                equal(answer, all_ways[0], name + " by curl and by penstock call")
        check(any(" call --grpc " in line for line in lines), "no line for gRPC: %s", lines)
        equal(answers["iris"][0]["label"], "setosa")


@case
def says_how_many_more_there_are_to_try():
    layout = {"m%d/config.pbtxt" % i: ECHO for i in range(6)}
    layout["a-very-long-name-that-stands-first-in-the-list/config.pbtxt"] = ECHO
    layout["broken/config.pbtxt"] = b'backend: "nothing"\n'
    with models(layout) as folder, Server(folder) as server:
        wait_for(lambda: "more: " in server.log, "the line of the others")
        check("  and 3 more: %s/\n" % server.url in server.log, "%s", server.log)
        equal(server.log.count("curl "), 4)
        check("a-very-long-name" not in server.log[server.log.index("try:"):], "the shortest come first")
        equal(server.call("GET", "/", headers={"accept": "text/html"})[0], 200)


@case
def an_open_port_is_said_with_what_it_means():
    with models({"m/config.pbtxt": ECHO}) as folder:
        for listen in (":0", "0.0.0.0:0", "[::]:0"):
            with Server(folder, listen=listen) as server:
                wait_for(lambda: "there is no authentication" in server.log, "the warning for " + listen)
                check("warn" in server.log and "SECURITY.md" in server.log, "%s", server.log)
                check("(every address: http://%s:%d)" % (socket.gethostname(), server.port) in server.log, "%s", server.log)
                check("curl http://127.0.0.1:%d/" % server.port in server.log, "%s", server.log)
        for listen in ("127.0.0.1:0", "[::1]:0"):
            try:
                with Server(folder, listen=listen) as server:
                    wait_for(lambda: "try:" in server.log, "the lines to try")
                    check("authentication" not in server.log, "%s", server.log)
            except AssertionError as error:
                check("::1" in listen and "did not start" in str(error), "%s", error)


@case
def a_screen_ends_with_where_it_serves():
    """The first line may have scrolled away; a pipe gets none of it."""
    import pty
    with models({"m/config.pbtxt": ECHO}) as folder:
        head, tail = pty.openpty()
        process = subprocess.Popen([BINARY, "serve", folder, "--listen", "127.0.0.1:0"], stdout=tail, stderr=subprocess.DEVNULL,
                                   stdin=subprocess.DEVNULL)
        os.close(tail)
        text = b""
        while b"Ctrl-C" not in text and select.select([head], [], [], 30)[0]:
            text += os.read(head, 65536)
        process.send_signal(signal.SIGINT)
        equal(process.wait(30), 0)
        os.close(head)
        last = text.decode().strip().splitlines()[-1]
        check(re.fullmatch(r"serving on http://127\.0\.0\.1:\d+; Ctrl-C stops it", last), "%r", last)


@case
def a_script_in_a_name_is_words_everywhere():
    name = "<img src=x onerror=alert(1)> $(touch was-here) 'q'"
    with models({name + "/config.pbtxt": ECHO}) as folder, tempfile.TemporaryDirectory() as where:
        with Server(folder) as server:
            wait_for(lambda: "try:" in server.log and server.log.count(":predict") >= 1, "the lines to try")
            time.sleep(0.05)
            line = next(line.strip() for line in server.lines if line.startswith("  ") and " call " in line)
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, cwd=where)
            equal(done.returncode, 0, done.stderr)
            equal(os.listdir(where), [], "a name was run")
            page = server.call("GET", "/", headers={"accept": "text/html"})[2].decode()
            check("<img src=x" not in page, "the page shows the name as markup")
            status, out, _ = run("models", "--server", server.url)
            equal(status, 0)
            check(name in out, "%s", out)


@case
def models_of_any_path():
    with models({"a/iris/config.pbtxt": ECHO, "b/m/config.pbtxt": ECHO}) as folder:
        with Server(os.path.join(folder, "a"), os.path.join(folder, "b", "m")) as server:
            status, index = server.post("/v2/repository/index", {})
            equal(sorted(row["name"] for row in index), ["iris", "m"])
            equal(server.get("/v2/health/ready")[0], 200)


@case
def not_ready_when_one_model_is_not():
    layout = {"good/config.pbtxt": ECHO, "bad/config.pbtxt": b'backend: "nothing"\n'}
    with models(layout) as folder:
        with Server(folder) as server:
            check(server.call("GET", "/readyz")[0] != 200, "strict")
        with Server(folder, options=["--no-strict-readiness"]) as server:
            equal(server.call("GET", "/readyz")[0], 200)


@case
def options_by_variable_and_file():
    with models({"models/m/config.pbtxt": ECHO,
                 "p.yaml": b"models: models\nlisten: 127.0.0.1:0\nserver-timing: false\nmax-body: 100\n"}) as folder:
        config = os.path.join(folder, "p.yaml")
        with Server(env={"PENSTOCK_CONFIG": config}, listen=None) as server:
            status, headers, _ = server.call("POST", "/models/m:predict", BODY)
            equal(status, 200)
            check("server-timing" not in headers, "%s", headers)
            equal(server.call("POST", "/models/m:predict", BODY + " " * 100)[0], 413, "max-body of the file")
        with Server(options=["--config", config], listen=None, env={"PENSTOCK_MAX_BODY": "1MiB"}) as server:
            equal(server.call("POST", "/models/m:predict", BODY + " " * 100)[0], 200, "the variable wins")
        with Server(options=["--config", config, "--server-timing"], listen=None) as server:
            check("server-timing" in server.call("POST", "/models/m:predict", BODY)[1], "argv wins")


@case
def a_model_that_loads_slowly_delays_no_other():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    with stubborn(open_ms=1500) as (folder, options):
        server = Server(folder, options=options, listen="%s:%d" % address)
        server.host, server.port = address
        process = threading.Thread(target=server.start)
        begun = time.monotonic()
        process.start()
        try:
            def answers():
                try:
                    return server.call("POST", "/models/fast:predict", BODY)[0] == 200
                except OSError:
                    return False
            wait_for(answers, "an answer of the fast model", 10)
            check(time.monotonic() - begun < 1.4, "it waited for the slow one: %.1f s", time.monotonic() - begun)
            equal(server.call("GET", "/healthz")[0], 200)
            check(server.call("GET", "/readyz")[0] != 200, "ready before all is loaded")
            status, headers, body = server.call("POST", "/models/m:predict", '{"x": 1}')
            equal(status, 503, body)
            check(b"LOADING" in body and "retry-after" in headers, "%s %s", headers, body)
        finally:
            process.join(30)
        equal(server.call("GET", "/readyz")[0], 200)
        equal(server.call("POST", "/models/m:predict", '{"x": 1}')[0], 200)
        equal(server.stop(), 0)


@case
def a_signal_while_models_load_ends_it():
    with stubborn(open_ms=20000) as (folder, options):
        process = subprocess.Popen([BINARY, "serve", folder, "--listen", "127.0.0.1:0", *options], stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        time.sleep(0.7)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        equal(process.wait(20), 0)
        check(time.monotonic() - begun < 5, "at once")
        process.stdout.close()


def wait_blocked(process):
    """Until main has run its first line. Before it, in the dynamic linker, a program is any program."""
    bit = 1 << (signal.SIGTERM - 1)

    def is_blocked():
        with open("/proc/%d/status" % process.pid) as file:
            return int(re.search(r"SigBlk:\s*(\w+)", file.read()).group(1), 16) & bit
    wait_for(is_blocked, "SIGTERM to be blocked")


@case
def a_signal_at_any_moment_ends_it_well():
    """While options are read, runtimes start their threads, models load, and lines are printed."""
    chance = random.Random(14)
    for i in range(60):
        pause = chance.uniform(0, 0.15)
        options = ["--exit-on-error"] if i % 4 == 3 else []
        with tempfile.TemporaryDirectory() as where:
            path = os.path.join(where, "s")
            process = subprocess.Popen([BINARY, "serve", EXAMPLES, "--listen", "unix:" + path, *options],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            wait_blocked(process)
            time.sleep(pause)
            process.send_signal(signal.SIGTERM if i % 2 else signal.SIGINT)
            said = process.communicate(timeout=30)[1].decode()
            equal(process.returncode, 0, "after %.1f ms (round %d): %s" % (pause * 1e3, i, said))
            check(not os.path.exists(path), "after %.1f ms the socket's file is left", pause * 1e3)


@case
def a_request_under_way_finishes_though_models_load():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    with stubborn(open_ms=20000) as (folder, options):
        os.mkdir(os.path.join(folder, "slow"))
        with open(os.path.join(folder, "slow", "config.pbtxt"), "wb") as file:
            file.write(SLOW % 800)
        server = Server(folder, options=options, listen="%s:%d" % address)
        server.host, server.port = address
        process = subprocess.Popen(server.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        def answers():
            try:
                return server.call("POST", "/models/fast:predict", BODY)[0] == 200
            except OSError:
                return False
        wait_for(answers, "an answer of the fast model", 10)
        thread, result = call_in_thread(server)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        thread.join(30)
        equal(process.returncode, 0)
        equal(result[0][0], 200)


# --- failing before the port opens --------------------------------------------------------------------

@cases({
    "no_path": ([], 2, "no model to serve"),
    "missing_path": (["/nowhere/models"], 1, "cannot open /nowhere/models: No such file"),
    "empty_folder": (["{empty}"], 1, "no model was found in "),
    "no_model_file": (["{empty}/../p.txt"], 1, "is no model that can be opened here"),
    "unknown_option": (["{good}", "--lisen", "x"], 2, "no option --lisen; did you mean --listen?"),
    "bad_address": (["{good}", "--listen", "127.0.0.1:99999"], 2, "--listen"),
    "bad_value": (["{good}", "--max-body", "lots"], 2, "--max-body: 'lots' is not a size"),
    "bad_config": (["--config", "{empty}/../bad.yaml"], 1, "line 2: unknown key 'lisen'; did you mean 'listen'?"),
    "exit_on_error": (["{bad}", "--exit-on-error"], 1, "model 'b' cannot be loaded (--exit-on-error): "),
    "missing_plugin": (["{good}", "--backend-plugin", "/nowhere/x.so"], 1, "--backend-plugin"),
    "origin_without_scheme": (["{good}", "--cors-origin", "app.example"], 2,
                              "--cors-origin: 'app.example' can never match; expected is an origin"),
    "host_with_scheme": (["{good}", "--allow-host", "https://x"], 2, "--allow-host: 'https://x' can never match; expected is a name alone"),
    "relative_runtime": (["{good}", "--runtime-dir", "."], 2, "is not an absolute path"),
})
def refuses_to_start(arguments, expected, part):
    layout = {"good/m/config.pbtxt": ECHO, "bad/b/config.pbtxt": b'backend: "none"\n', "empty/README": b"x",
              "p.txt": b"x", "bad.yaml": b"loops: 1\nlisen: x\n"}
    with models(layout) as folder:
        places = {name: os.path.join(folder, name) for name in ("good", "bad", "empty")}
        found = [argument.format(**places) for argument in arguments]
        if not any(argument == "--listen" for argument in found):
            found += ["--listen", "127.0.0.1:0"]
        status, out, err = run("serve", *found)
        equal(status, expected, err)
        check(part in err, "%r", err)
        equal(out, "", "nothing on stdout")
        lines = [line for line in err.splitlines() if not re.match(r"\d{4}-.* info: ", line)]
        equal(len(lines), 1, err)
        check(lines[0].startswith("penstock: "), "%r", err)


@case
def a_taken_port_is_said_with_its_number():
    with models({"m/config.pbtxt": ECHO}) as folder, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        status, out, err = run("serve", folder, "--listen", address)
        equal((status, out), (1, ""), err)
        check("--listen" in err and address in err, "%r", err)
        equal(len(err.splitlines()), 1, err)


# --- stopping -------------------------------------------------------------------------------------------

@case
def sigterm_lets_a_request_finish():
    with models({"slow/config.pbtxt": SLOW % 700, "fast/config.pbtxt": ECHO}) as folder:
        server = Server(folder).start()
        idle = http.client.HTTPConnection(server.host, server.port, timeout=30)
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        thread, result = call_in_thread(server)
        time.sleep(0.2)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "for 1 request; SIGTERM again" in server.log, "the words of stopping")
        thread.join(30)
        equal(server.process.wait(30), 0)
        took = time.monotonic() - begun
        check(not isinstance(result[0], Exception), "%r", result)
        equal(result[0][0], 200, "%r" % (result[0],))
        equal(json.loads(result[0][2]), {"y": [1, 2, 3, 4]})
        check(took < 10, "an idle connection held it up: %.1f s", took)


@case
def a_drain_has_an_end():
    with models({"slow/config.pbtxt": SLOW % 30000}) as folder:
        server = Server(folder, options=["--drain-timeout", "300ms"]).start()
        thread, result = call_in_thread(server)
        time.sleep(0.2)
        begun = time.monotonic()
        equal(server.stop(), 0)
        took = time.monotonic() - begun
        thread.join(30)
        check(0.25 < took < 10, "%.1f s", took)
        check(isinstance(result[0], Exception) or result[0][0] != 200, "%r", result)


@case
def a_second_sigterm_stops_at_once():
    with models({"slow/config.pbtxt": SLOW % 30000}) as folder:
        server = Server(folder).start()
        thread, result = call_in_thread(server)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping:" in server.log, "the words of stopping")
        time.sleep(0.5)         # what comes within 0.3 s is taken for the first
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        equal(server.process.wait(20), 128 + signal.SIGTERM)
        check(time.monotonic() - begun < 5, "%.1f s", time.monotonic() - begun)
        thread.join(30)
        check("stopped at once" in server.log or server.reader.join(5) or "stopped at once" in server.log, "%s", server.log)
        check(isinstance(result[0], Exception), "%r", result)


@case
def two_at_the_same_time_are_one():
    """As `timeout` sends them, to the process and to its group: what is under way is finished."""
    with models({"slow/config.pbtxt": SLOW % 1000}) as folder:
        server = Server(folder).start()
        thread, result = call_in_thread(server)
        time.sleep(0.2)
        for _ in range(3):
            server.process.send_signal(signal.SIGTERM)
        equal(server.process.wait(20), 0)
        thread.join(30)
        check(not isinstance(result[0], Exception) and result[0][0] == 200, "%r", result)


@case
def a_model_that_never_lets_go_does_not_keep_it():
    with stubborn(run_ms=60000) as (folder, options):
        server = Server(folder, options=[*options, "--drain-timeout", "200ms"]).start()
        thread, result = call_in_thread(server, "/models/m:predict", '{"x": 1}')
        time.sleep(0.3)
        begun = time.monotonic()
        equal(server.stop(), 1)
        check(time.monotonic() - begun < 10, "%.1f s", time.monotonic() - begun)
        thread.join(30)
        check("1 request still running 2000 ms after being cancelled" in server.log, "%s", server.log)


@case
def ctrl_c_is_the_same():
    with models({"m/config.pbtxt": ECHO}) as folder:
        server = Server(folder).start()
        server.process.send_signal(signal.SIGINT)
        equal(server.process.wait(30), 0)
        server.reader.join(5)
        check("stopping: no request is with a model" in server.log, "%s", server.log)


@case
def readiness_is_gone_while_it_drains():
    with models({"slow/config.pbtxt": SLOW % 1500}) as folder:
        server = Server(folder).start()
        kept = http.client.HTTPConnection(server.host, server.port, timeout=30)
        kept.connect()
        # The head of a request is on its way when the drain begins, so that this connection is not idle.
        kept.sock.sendall(b"GET /v2/health/ready HTTP/1.1\r\nhost: localhost\r\n")
        thread, result = call_in_thread(server)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping:" in server.log, "the words of stopping")
        time.sleep(0.1)
        kept.sock.sendall(b"\r\n")
        answer = kept.sock.recv(4096)
        check(answer == b"" or b" 200 " not in answer.split(b"\r\n")[0], "%r", answer)
        with socket.socket() as fresh:
            fresh.settimeout(5)
            try:
                fresh.connect((server.host, server.port))
                fresh.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                equal(fresh.recv(100), b"", "a new connection is not served")
            except (ConnectionRefusedError, ConnectionResetError):
                pass
        thread.join(30)
        equal(result[0][0], 200)
        equal(server.process.wait(30), 0)


@case
def a_peer_that_reads_nothing_of_stdout_is_no_end():
    with models({"m/config.pbtxt": ECHO}) as folder:
        process = subprocess.Popen([BINARY, "serve", folder, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        line = process.stdout.readline()
        process.stdout.close()
        port = int(line.rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/healthz")
        equal(connection.getresponse().status, 200)
        process.send_signal(signal.SIGTERM)
        equal(process.wait(30), 0)


if __name__ == "__main__":
    main()
