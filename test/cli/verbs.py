#!/usr/bin/env python3
"""verbs.py - call, models, explain, version and --help: what they print and how they end."""
import json
import os
import pty
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from harness import BINARY, ROOT, Server, case, cases, check, equal, main, models, shared

EXAMPLES = os.path.join(ROOT, "examples", "models")
ECHO = b"""backend: "echo"
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
"""
TEXT = b"""backend: "echo"
input { name: "text" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "said" data_type: TYPE_STRING dims: [ 1 ] }
"""


def run(*arguments, env=None, stdin=None, seconds=60, cwd=None):
    done = subprocess.run([BINARY, *map(str, arguments)], env=dict(os.environ, **(env or {})), input=stdin, cwd=cwd,
                          stdin=None if stdin is not None else subprocess.DEVNULL, capture_output=True, timeout=seconds)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


# --- exit statuses and help ------------------------------------------------------------------------------

@cases({
    "help": (["--help"], 0, "Exit status", ""),
    "help_of_verb": (["serve", "--help"], 0, "--max-body SIZE", ""),
    "help_verb": (["help", "call"], 0, "--timing", ""),
    "short_help": (["models", "-h"], 0, "--ready", ""),
    "markdown": (["--help=markdown"], 0, "# Options", ""),
    "version": (["--version"], 0, "penstock ", ""),
    "version_v": (["-v"], 0, "penstock ", ""),
    "version_V": (["-V"], 0, "penstock ", ""),
    "explain_missing_file": (["explain", "wine.onnx"], 1, "", "there is no file wine.onnx here"),
    "unknown_verb": (["sreve"], 2, "", "did you mean 'serve'?"),
    "unknown_option": (["models", "--jsn"], 2, "", "did you mean --json?"),
    "wrong_verb_for_option": (["models", "--listen", "x"], 2, "", "not an option of `penstock models`"),
    "call_without_model": (["call"], 2, "", "call takes one model"),
    "explain_without_model": (["explain"], 2, "", "explain takes one model or path"),
    "version_with_argument": (["version", "x"], 2, "", "version takes no argument"),
    "no_server": (["models", "--server", "http://127.0.0.1:1"], 1, "", "nobody listens on 127.0.0.1:1: start `penstock serve`"),
    "no_socket": (["models", "--server", "unix:/nowhere/x"], 1, "", "nobody listens on unix:/nowhere/x"),
    "bad_server": (["models", "--server", "ftp//x y"], 2, "", "--server: "),
    "https": (["models", "--server", "https://127.0.0.1:1"], 1, "", "nobody listens"),
})
def ends_as_it_should(arguments, expected, out_part, err_part):
    status, out, err = run(*arguments)
    equal(status, expected, err)
    check(out_part in out, "%r", out)
    check(err_part in err, "%r", err)
    check(expected == 0 or (err.startswith("penstock: ") and len(err.splitlines()) == 1), "%r", err)
    check("\x1b" not in out + err, "no colours into a pipe")


# Words that none can mean are 2. What a file, a variable, a server or this machine has wrong is 1: the same words may do another time.
SERVE = ["serve", "m", "--listen", "127.0.0.1:0"]
CALL = ["call", "fast", "--x", "1,2,3,4"]
TLS = ["--server", "https://127.0.0.1:1"]
STATUSES = {
    2: [["serve"], [*SERVE, "--max-body", "lots"], ["serve", "m", "--listen", "x:y:z"], [*SERVE, "--tls", "wrong"], [*SERVE, "--tls-client-ca", "wrong"],
        [*SERVE, "--node-name", "a b"], [*SERVE, "--user", ":x"], [*SERVE, "--admin", "--access", "wrong"], [*SERVE, "--backend-plugin", "x.so"],
        ["call", "a", "b"], [*CALL, "--metadata", "a=b"], [*CALL, "--server", "no://"], [*CALL, "--nothing", "1", "--server", "URL"],
        [*CALL, "--grpc", "--nothing", "1", "--server", "URL"], ["call", "fast", "--server", "URL"], ["call", "fast", "-d", "-", "--x", "1", "--server", "URL"],
        [*CALL, "--key", "a b"], ["models", "--server", "no://"], ["models", "--key", "a b"], ["models", "--nothing"],
        ["explain", "fast", "--server", "no://"], ["explain", "a", "b"], ["top", "--once", "--server", "no://"], ["top", "x"], ["key"], ["version", "--json", "x"]],
    1: [[*SERVE, "--config", "missing"], [*SERVE, "--config", "wrong"], [*SERVE, "--config", "key.yaml"], [*SERVE, "--config", "value.yaml"], ["serve", "missing"],
        [*SERVE, "--tls", "missing,missing"], [*SERVE, "--tls", "wrong,wrong"], [*SERVE, "--access", "missing"], [*SERVE, "--access", "wrong"],
        [*SERVE, "--access-log", "missing/log"], [*SERVE, "--user", "no-such-user"], [*SERVE, "--exit-on-error", "wrong.onnx"], ["serve", "m", "--listen", "TAKEN"],
        ["PENSTOCK_MAX_BODY=lots", *SERVE], ["PENSTOCK_NODE_NAME=a b", *SERVE], ["PENSTOCK_TLS=wrong", *SERVE],
        ["PENSTOCK_SERVER=no://", *CALL], ["PENSTOCK_KEY=a b", *CALL], [*CALL, "--key", "@missing"], [*CALL, "--key", "@wrong"],
        [*CALL, *TLS, "--cacert", "missing"], [*CALL, *TLS, "--cacert", "wrong"], [*CALL, *TLS, "--cert", "missing"], [*CALL, *TLS, "--cert", "wrong,wrong"],
        [*CALL, "--server", "http://127.0.0.1:1"], ["call", "fast", "--x", "@missing", "--server", "URL"], ["call", "fast", "-d", "@missing", "--server", "URL"],
        ["call", "fast", "-d", "@wrong", "--server", "URL"], ["call", "fast", "-d", "{", "--server", "URL"], ["call", "fast", "--x", "a", "--server", "URL"],
        ["call", "none", "--x", "1", "--server", "URL"], ["call", "fast", "--upload", "missing", "--server", "URL"],
        ["call", "--grpc", "fast", "--x", "@missing", "--server", "URL"], ["call", "--grpc", "fast", "-d", "@missing", "--server", "URL"],
        ["call", "--grpc", "fast", "-d", "@wrong", "--server", "URL"], ["call", "--grpc", "fast", "-d", "{", "--server", "URL"],
        ["call", "--grpc", "fast", "--x", "a", "--server", "URL"], ["call", "--grpc", "none", "--x", "1", "--server", "URL"],
        *([*verb, *TLS, "--cacert", file] for verb in (["models"], ["explain", "fast"], ["top", "--once"]) for file in ("missing", "wrong")),
        *(["PENSTOCK_SERVER=no://", *verb] for verb in (["models"], ["explain", "fast"], ["top", "--once"])),
        *([*verb, "--server", "http://127.0.0.1:1"] for verb in (["models"], ["models", "--ready"], ["explain", "fast"], ["top", "--once"])),
        *([*verb, "--config", "missing"] for verb in (["models"], ["explain", "fast"], ["top", "--once"], ["key", "a"], ["version"])),
        ["models", "none", "--server", "URL"], ["explain", "none", "--server", "URL"], ["explain", "./missing"], ["explain", "./wrong.onnx"]],
    3: [["models", "--ready", "none", "--server", "URL"]],
    0: [["models", "--ready", "--server", "URL"], [*CALL, "--server", "URL"], [*CALL, "--grpc", "--server", "URL"], ["explain", "fast", "--server", "URL"],
        ["top", "--once", "--server", "URL"]],
}


@cases({str(status): (status, rows) for status, rows in STATUSES.items()})
def exit_status_of_every_verb(status, rows):
    with models({"fast/config.pbtxt": ECHO}) as folder, tempfile.TemporaryDirectory() as where, Server(folder) as server:
        for name, text in (("wrong", "no such thing\n"), ("wrong.onnx", "no such thing\n"), ("key.yaml", "no-such: 1\n"), ("value.yaml", "max-body: lots\n")):
            with open(os.path.join(where, name), "w") as file:
                file.write(text)
        os.symlink(folder, os.path.join(where, "m"))
        for row in rows:
            words = [{"URL": server.url, "TAKEN": server.address}.get(word, word) for word in row]
            env = dict([words.pop(0).split("=", 1)]) if words[0].startswith("PENSTOCK_") else {}
            found, out, err = run(*words, env=env, cwd=where)
            equal(found, status, "%s: %s" % (" ".join(row), err))
            if status in (1, 2) and "./wrong.onnx" not in row:
                last = err.splitlines()[-1]
                check(out == "" and last.startswith("penstock: ") and "\\x0a" not in last, "%s: %r %r", row, out, err)


@case
def a_page_is_not_shown():
    """What answers with HTML is no penstock: the page is not told, nor a line's end as it is escaped."""
    import http.server
    import threading
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        other.RequestHandlerClass.log_message = lambda *_: None
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = "http://127.0.0.1:%d" % other.server_port
        for words in (["top", "--once"], ["models"], ["explain", "fast"], ["call", "fast", "-d", "{}"]):
            status, out, err = run(*words, "--server", url)
            equal((status, out), (1, ""))
            check("and a page: is it a penstock?" in err and "<" not in err and "\\x0a" not in err, "%s: %s", words, err)
        other.shutdown()


@case
def no_word_at_all_is_help_and_no_success():
    status, out, err = run()
    equal((status, out), (2, ""))
    check("penstock serve iris.onnx" in err and "Exit status" in err, "%s", err)


@case
def docs_are_the_programs_own():
    with open(os.path.join(ROOT, "docs", "options.md"), encoding="utf-8") as file:
        equal(run("--help=markdown")[1], file.read(), "docs/options.md")


@case
def version_tells_what_there_is():
    status, out, _ = run("version", "--json")
    equal(status, 0)
    found = json.loads(out)
    check(re.fullmatch(r"\d+\.\d+\.\d+", found["version"]), "%s", found)
    check("echo" in found["backends"] and found["compiler"], "%s", found)
    status, out, _ = run("version", "--json", env={"PENSTOCK_RUNTIME_DIR": "/nowhere"})
    equal(status, 0)


def on_terminal(*arguments, env=None):
    """What the program writes to a terminal."""
    head, tail = pty.openpty()
    process = subprocess.Popen([BINARY, *arguments], stdout=tail, stderr=tail, stdin=subprocess.DEVNULL, env=env)
    os.close(tail)
    text = b""
    while True:
        try:
            piece = os.read(head, 65536)
        except OSError:     # how Linux says that nobody holds the other end any more
            break
        if not piece:
            break
        text += piece
    process.wait()
    os.close(head)
    return text.decode(errors="replace").replace("\r\n", "\n")


@case
def help_has_no_colour_without_a_terminal_and_none_with_no_color():
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    for env, expected in (({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        equal("\x1b[1m" in on_terminal("--help", env={**clean, **env}), expected, str(env))


# --- call --------------------------------------------------------------------------------------------------

CLASSES = "label       probability\nvirginica   0.96\nversicolor  0.04\n"


@cases({
    "one_row": (["--measurements", "6.7,3.0,5.2,2.3"], CLASSES),
    "two_rows": (["-d", "[[6.7,3.0,5.2,2.3],[5.1,3.5,1.4,0.2]]"],
                 "row 1\n" + CLASSES + "\nrow 2\nlabel       probability\nsetosa      0.98\nversicolor  0.02\n"),
})
def classes_are_no_rows(arguments, expected):
    with Server(EXAMPLES) as server:
        for options in ([], ["--grpc"], ["--http2"]):
            out = on_terminal("call", "iris", "--server", server.url, "--top", "2", *arguments, *options)
            equal(out, expected, str(options))


@case
def call_asks_for_more_or_less():
    with Server(EXAMPLES) as server:
        def ask(*options):
            status, out, err = run("call", "iris", "--server", server.url, "--measurements", "6.7,3.0,5.2,2.3", "--json", *options)
            return json.loads(out) if status == 0 else (status, err)
        equal([row["label"] for row in ask("--top", "2")], ["virginica", "versicolor"])
        equal(ask("--outputs", "label"), {"label": "virginica"})
        equal(sorted(ask("--outputs=label,probabilities")), ["label", "probability"])
        equal(ask("--precision", "3"), {"label": "virginica", "probability": 0.961})
        raw = ask("--raw", "--precision", "full")
        equal((raw["label"], len(raw["probabilities"][0])), ([2], 3))
        status, err = ask("--outputs", "labl")
        check(status == 1 and "labl" in err and "label" in err, "%d %s", status, err)
        status, err = ask("--precision", "18")
        check(status == 1 and "precision" in err, "%d %s", status, err)
    with models({"m/config.pbtxt": ECHO.replace(b'"x"', b'"top"')}) as folder, Server(folder) as server:
        status, out, err = run("call", "m", "--server", server.url, "--field", "top=1,2,3,4", "--json")
        equal((status, json.loads(out or "null")), (0, {"y": [1, 2, 3, 4]}), err)


@case
def call_says_an_answer():
    with Server(EXAMPLES) as server:
        features = ["--sepal_length", "5.1", "--sepal-width=3.5", "--petal_length", "1.4", "--petal_width", "0.2"]
        status, out, err = run("call", "iris", "--server", server.url, *features, "--json")
        equal(status, 0, err)
        equal(json.loads(out)["label"], "setosa")
        for data in ('{"input": [[5.1, 3.5, 1.4, 0.2]]}', "-", "@{file}"):
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                file.write('{"input": [[5.1, 3.5, 1.4, 0.2]]}')
                file.flush()
                status, again, err = run("call", "iris", "-s", server.url, "-d", data.format(file=file.name) if "@" in data else data,
                                         stdin=b'{"input": [[5.1, 3.5, 1.4, 0.2]]}')
                equal(status, 0, data + ": " + err)
                found = json.loads(again)
                equal((found[0] if isinstance(found, list) else found)["label"], "setosa", data)
        status, out, err = run("call", "iris", "--server", server.url, "--input", "5.1,3.5,1.4,0.2")
        equal((status, json.loads(out or "null")), (0, json.loads(again)[0] if isinstance(json.loads(again), list) else json.loads(again)), err)
        status, out, err = run("call", "iris", "--server", server.url, *features, "--timing")
        equal(status, 0)
        check("server, run" in err and "wait for answer" in err, "%s", err)
        check(json.loads(out), "the answer is alone on stdout")
        status, out, err = run("call", "iris", "--server", server.url, "--model-version", "1", *features)
        equal(status, 0, err)


@case
def call_sends_texts_as_they_are():
    with models({"m/config.pbtxt": TEXT}) as folder, Server(folder) as server:
        with tempfile.NamedTemporaryFile() as file:
            file.write("f\u00fcnf\nlines & 100% = +plus\n".encode())
            file.flush()
            rows = [("plain", "plain", None), ("1,2,3", "1,2,3", None), ("[1]", "[1]", None), ("a&b=c+d%41", "a&b=c+d%41", None),
                    ("@@name", "@name", None), ("@" + file.name, "f\u00fcnf\nlines & 100% = +plus\n", None),
                    ("-", "from stdin\n", b"from stdin\n"), ("--dashes", "--dashes", None), ("-1", "-1", None)]
            for given, expected, stdin in rows:
                status, out, err = run("call", "m", "-s", server.url, "--text=" + given, stdin=stdin)
                equal((status, json.loads(out or "null")), (0, {"said": expected}), "%r: %s" % (given, err))


@case
def call_is_words_on_a_terminal_and_none_of_them_a_command():
    with models({"m/config.pbtxt": TEXT}) as folder, Server(folder) as server:
        equal(on_terminal("call", "m", "-s", server.url, "--text", "two\nlines"), "said  two\nlines\n")
        shown = on_terminal("call", "m", "-s", server.url, "--text", "\x1b]0;title\x07 \x9b31m")
        check("\x1b" not in shown and "\x9b" not in shown and "\\x1b]0;title\\x07" in shown, "%r", shown)
        rows = on_terminal("call", "m", "-s", server.url, "-d", '[{"text": "a"}, {"text": "b"}]')
        check("a" in rows and "b" in rows, "%r", rows)


@cases({
    "unknown_model": (["iriss", "--x", "1"], 1, "did you mean 'iris'?"),
    "unknown_input": (["iris", "--sepal_lenth", "1"], 2, "did you mean --sepal_length?"),
    "no_input": (["iris"], 2, "no input is given; for example: penstock call iris --sepal_length 5.1"),
    "twice": (["iris", "--sepal_length", "1", "--sepal-length", "2"], 2, "is given twice"),
    "both": (["iris", "-d", "{{}}", "--x", "1"], 2, "-d is the whole body"),
    "missing_file": (["iris", "--sepal_length", "@/nowhere/x"], 1, "/nowhere/x: No such file"),
    "not_a_number": (["iris", "--sepal_length", "long", "--sepal_width", "1", "--petal_length", "1", "--petal_width", "1"],
                     1, "sepal_length"),
    "missing_input": (["iris", "--sepal_length", "1"], 1, "for example: penstock call iris"),
    "bad_json": (["iris", "-d", "{{"], 1, ""),
    "unknown_version": (["iris", "--model-version", "7", "--sepal_length", "1"], 1, "version 7"),
    "misspelt_option": (["iris", "--timout", "5s"], 2, "did you mean --timeout?"),
})
def call_refuses(arguments, expected, part):
    with Server(EXAMPLES) as server:
        status, out, err = run("call", *[argument.format() for argument in arguments], "--server", server.url)
        equal(status, expected, err)
        check(part in err, "%r", err)
        equal(out, "")
        check(err.startswith("penstock: ") and len(err.splitlines()) == 1, "%r", err)


@case
def call_gives_up_in_time():
    slow = ECHO + b'parameters { key: "mode" value { string_value: "delay" } }\n' \
                  b'parameters { key: "delay_ms" value { string_value: "20000" } }\n'
    with models({"m/config.pbtxt": slow}) as folder, Server(folder, options=["--drain-timeout", "1s"]) as server:
        status, _, err = run("call", "m", "-s", server.url, "--x", "1,2,3,4", "--timeout", "300ms")
        equal(status, 1)
        check("did not answer within 0.3 s (--timeout)" in err, "%r", err)


# --- models ------------------------------------------------------------------------------------------------

def path_of_no_rules(where):
    path = os.path.join(where, "access.yaml")
    with open(path, "w") as file:
        file.write("rules: []\n")
    os.chmod(path, 0o600)
    return path


@case
def whether_it_is_ready_may_be_asked_by_anybody():
    """What a container's HEALTHCHECK does, which has no key: the models are hidden, readiness is not."""
    with models({"fast/config.pbtxt": ECHO}) as folder, tempfile.TemporaryDirectory() as where:
        with Server(folder, options=["--access", path_of_no_rules(where)]) as server:
            server.wait_ready("/readyz")
            equal(run("models", "--ready", "--server", server.url)[:2], (0, "ready\n"))
            equal(run("models", "--server", server.url)[0], 1)
            equal(run("models", "--ready", "fast", "--server", server.url)[0], 1)
    with models({"bad/config.pbtxt": b'backend: "none such"'}) as folder, tempfile.TemporaryDirectory() as where, Server(folder, options=["--access", path_of_no_rules(where)]) as server:
        equal(run("models", "--ready", "--server", server.url)[:2], (3, "not ready\n"))


@case
def models_lists_and_answers_whether_ready():
    with models({"good/config.pbtxt": ECHO, "bad/config.pbtxt": b'backend: "none"\n'}) as folder, Server(folder) as server:
        status, out, _ = run("models", "--server", server.url)
        equal(status, 0)
        check(re.search(r"^good +1 +READY +x FP32 \[4\] -> y FP32 \[4\]$", out, re.M), "%s", out)
        check(re.search(r"^bad +- +UNAVAILABLE +config.pbtxt asks for backend 'none'", out, re.M), "%s", out)
        status, out, _ = run("models", "--server", server.url, "--json")
        equal({row["name"]: row["state"] for row in json.loads(out)}, {"good": "READY", "bad": "UNAVAILABLE"})
        status, out, _ = run("models", "good", "--server", server.url, "--json")
        equal([row["name"] for row in json.loads(out)], ["good"])
        equal(run("models", "gud", "--server", server.url)[0], 1)
        equal(run("models", "--ready", "good", "--server", server.url)[:2], (0, "good: ready\n"))
        equal(run("models", "--ready", "bad", "--server", server.url)[:2], (3, "bad: not ready\n"))
        equal(run("models", "--ready", "--server", server.url)[:2], (3, "bad: not ready\n"))
        status, out, err = run("models", "--ready", "goud", "--server", server.url)
        equal((status, out), (3, ""))
        check("did you mean 'good'?" in err, "%r", err)
        equal(run("models", env={"PENSTOCK_SERVER": server.url})[0], 0)


@case
def a_probe_needs_no_key():
    """`models --ready` asks /readyz, which is open, also where rules let strangers see nothing."""
    with models({"m/config.pbtxt": ECHO}) as folder, tempfile.NamedTemporaryFile("w", suffix=".yaml") as rules:
        rules.write("keys: []\nrules: []\n")
        rules.flush()
        with Server(folder, options=["--access", rules.name]) as server:
            equal(run("models", "--ready", "--server", server.url)[:2], (0, "ready\n"))
            status, _, err = run("models", "--server", server.url)
            equal(status, 1)
            check("the right 'read'" in err, "%r", err)


# --- explain -----------------------------------------------------------------------------------------------

@case
def explain_by_path_and_by_server_agree():
    config = ECHO + b"instance_group { count: 2 }\n"
    with models({"m/config.pbtxt": config, "m/model.yaml": b"title: M\n"}) as folder:
        status, out, err = run("explain", os.path.join(folder, "m"), "--json")
        equal(status, 0, err)
        by_path = json.loads(out)
        equal(by_path["folder"], os.path.realpath(os.path.join(folder, "m")))
        with Server(folder) as server:
            status, out, err = run("explain", "m", "--server", server.url, "--json")
            equal(status, 0, err)
            by_server = json.loads(out)
            status, words, err = run("explain", "m", "--server", server.url)
            equal(status, 0, err)
            status, _, err = run("explain", "mm", "--server", server.url)
            equal(status, 1)
            check("did you mean 'm'?" in err, "%r", err)
            equal(server.get("/models/m/versions/1/explain")[0], 200)
            equal(server.get("/models/m/versions/9/explain")[0], 404)
        for found in (by_path, by_server):
            equal(found["sources"]["instance_group"], "config.pbtxt")
            equal(found["sources"]["name"], "the folder or file")
            equal(found["sources"]["version_policy"], "default")
            equal((found["backend"], found["card_file"]), ("echo", "model.yaml"))
            equal(found["execution"]["instances"], 2)
            equal(found["inputs"], [{"name": "x", "datatype": "FP32", "shape": [4]}])
        equal(by_path["config"], by_server["config"])
        check("folder" not in by_server, "paths of the server stay there")
        check("input   x FP32 [4]" in words and "config.pbtxt" in words, "%s", words)


@case
def explain_of_a_bad_model_says_why():
    with models({"m/config.pbtxt": b'backend: "none"\n'}) as folder:
        status, out, _ = run("explain", os.path.join(folder, "m"))
        equal(status, 1)
        check("asks for backend 'none', which is not here" in out, "%s", out)
        status, _, err = run("explain", os.path.join(folder, "nothing"))
        equal(status, 1)
        check("No such file" in err, "%s", err)


@case
def explain_of_an_onnx_file():
    path = shared("models/tabular/iris.onnx")
    status, out, err = run("explain", path)
    equal(status, 0, err)
    check("input   input FP32 [-1,4]" in out, "%s", out)
    check(re.search(r"backend +by the file that it opens +\"onnxruntime\"", out), "%s", out)


if __name__ == "__main__":
    main()
