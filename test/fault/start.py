"""What stops the server from starting is one sentence that names the option or the file, exit 1 (2: the command line)."""
import os
import signal
import socket
import subprocess
import tempfile

from harness import BINARY, ROOT, Server, case, cases, check, equal, main

EXAMPLES = os.path.join(ROOT, "examples", "models")


def start(*arguments, env=None, cwd=None):
    """(exit status, what stderr says)"""
    check(os.path.exists(BINARY), "%s is not built", BINARY)
    done = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=30, cwd=cwd,
                          env=dict(os.environ, **(env or {})))
    return done.returncode, done.stderr.strip()


@case
def taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        status, text = start("serve", EXAMPLES, "--listen", address)
        equal(status, 1)
        check(address in text.splitlines()[-1], "%s", text)


WRONG = {
    "folder_missing": (("serve", "/nonexistent/models"), 1, "/nonexistent/models"),
    "option_unknown": (("serve", EXAMPLES, "--lissten", "x"), 2, "--listen"),
    "option_without_value": (("serve", EXAMPLES, "--listen"), 2, "--listen"),
    "size_wrong": (("serve", EXAMPLES, "--max-body", "lots"), 2, "--max-body"),
    "size_out_of_range": (("serve", EXAMPLES, "--pipeline-max", "0"), 2, "--pipeline-max"),
    "choice_wrong": (("serve", EXAMPLES, "--execution", "sometimes"), 2, "inline"),
    "address_wrong": (("serve", EXAMPLES, "--listen", "127.0.0.1:99999"), 0, "99999"),
    "host_wrong": (("serve", EXAMPLES, "--listen", "no such host:1"), 0, "no such host"),
    "verb_unknown": (("sevre", EXAMPLES), 2, "serve"),
    "config_missing": (("serve", EXAMPLES, "--config", "/nonexistent.yaml"), 0, "/nonexistent.yaml"),
}


@cases(WRONG)
def refused(arguments, status, word):
    found, text = start(*arguments)
    check(found == status or (status == 0 and found in (1, 2)), "ended with %d: %s", found, text)
    check(word in text, "%r is not in: %s", word, text)
    check(len(text.splitlines()) <= 6, "more than a few lines: %s", text)


@case
def wrong_in_the_environment():
    status, text = start("serve", EXAMPLES, env={"PENSTOCK_MAX_BODY": "lots"})
    equal(status, 1)
    check("PENSTOCK_MAX_BODY" in text, "%s", text)


@case
def wrong_in_the_file():
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/p.yaml"
        with open(path, "w") as file:
            file.write("listen: 127.0.0.1:0\nmax-boddy: 1MiB\n")
        status, text = start("serve", EXAMPLES, "--config", path)
        equal(status, 1)
        check(path in text and "2" in text and "max-body" in text, "%s", text)


@case
def runtime_missing():
    """Without ONNX Runtime the server still starts where it must not be exact, and says what is missing and how to get it."""
    with tempfile.TemporaryDirectory() as folder:
        with Server(EXAMPLES, options=["--no-strict-readiness", "--runtime-dir", folder],
                    env={"PENSTOCK_RUNTIME_DIR": folder}) as server:
            rows = server.post("/v2/repository/index", {})[1]
            for row in rows:
                equal(row["state"], "UNAVAILABLE")
                check("onnxruntime" in row["reason"].lower(), "%s", row)


@case
def runtime_is_not_taken_from_here():
    """A libonnxruntime.so in the working directory is never loaded."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as empty:
        source = folder + "/x.c"
        with open(source, "w") as file:
            file.write('#include <stdio.h>\n__attribute__((constructor)) static void f(void) { '
                       'FILE *f = fopen("%s/loaded", "w"); if (f) fclose(f); }\n' % folder)
        for name in ("libonnxruntime.so", "libonnxruntime.so.1", "libonnxruntime.so.1.31.1"):
            subprocess.run(["cc", "-shared", "-fPIC", source, "-o", os.path.join(folder, name)], check=True)
        process = subprocess.Popen([BINARY, "serve", EXAMPLES, "--listen", "127.0.0.1:0"], cwd=folder,
                                   env=dict(os.environ, PENSTOCK_RUNTIME_DIR=empty), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        check(not os.path.exists(folder + "/loaded"), "a library of the working directory was loaded")


@case
def empty_folder():
    with tempfile.TemporaryDirectory() as folder:
        status, text = start("serve", folder, "--listen", "127.0.0.1:0")
        equal(status, 1)
        check(folder in text and "iris.onnx" in text, "it does not say what a model looks like: %s", text)


@case
def models_that_point_outside():
    """Links and label files that lead out of a model's folder are not followed."""
    with tempfile.TemporaryDirectory() as folder:
        secret = folder + "/secret.txt"
        with open(secret, "w") as file:
            file.write("top\nsecret\nwords\n")
        os.makedirs(folder + "/models/iris/1")
        os.symlink(EXAMPLES + "/iris/1/model.onnx", folder + "/models/iris/1/model.onnx")
        os.makedirs(folder + "/models/labels/1")
        with open(EXAMPLES + "/iris/1/model.onnx", "rb") as file, open(folder + "/models/labels/1/model.onnx", "wb") as out:
            out.write(file.read())
        with open(folder + "/models/labels/config.pbtxt", "w") as file:
            file.write('output [{ name: "probabilities" data_type: TYPE_FP32 dims: [ -1, 3 ] '
                       'label_filename: "../../secret.txt" }]\n')
        with Server(folder + "/models", options=["--no-strict-readiness"]) as server:
            rows = {row["name"]: row for row in server.post("/v2/repository/index", {})[1]}
            equal(rows["labels"]["state"], "UNAVAILABLE", "labels")
            check("secret" in rows["labels"]["reason"], "the file is not named: %s", rows["labels"])
            check("words" not in str(rows), "its content is told")
            equal(rows["iris"]["state"], "UNAVAILABLE", "a link out of the folder")


@case
def sigterm_twice_ends_at_once():
    """The first asks to end well, the second does not wait."""
    import time
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(folder + "/slow/1")
        with open(folder + "/slow/config.pbtxt", "w") as file:
            file.write('name: "slow" backend: "echo" max_batch_size: 0\n'
                       'input [{ name: "IN" data_type: TYPE_FP32 dims: [ 1 ] }]\n'
                       'output [{ name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] }]\n'
                       'parameters { key: "mode" value { string_value: "delay" } }\n'
                       'parameters { key: "delay_ms" value { string_value: "60000" } }\n')
        server = Server(folder).start()
        with socket.create_connection((server.host, server.port), 10) as connection:
            body = b'{"inputs":[{"name":"IN","shape":[1],"datatype":"FP32","data":[1]}]}'
            connection.sendall(b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" %
                               (len(body), body))
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            equal(server.process.poll(), None, "it did not wait for the call under way")
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(5)


if __name__ == "__main__":
    main()
