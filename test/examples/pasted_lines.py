"""What `penstock serve` prints to be pasted works when pasted: into a shell, as it stands."""
import os
import re
import shutil
import subprocess
import tempfile
import time

from harness import BINARY, ROOT, Server, case, check, equal, main, need_program

EXAMPLES = os.path.join(ROOT, "examples", "models")


def printed(server):
    """The lines that begin with a program's name, two spaces in; they come behind `listening on`."""
    start = re.compile(r"  (curl|(\S*/)?penstock call) ")
    end = time.monotonic() + 10
    while time.monotonic() < end:
        lines = [line.strip() for line in server.log.splitlines() if start.match(line)]
        if lines and server.log.endswith("\n") and time.monotonic() > end - 9.7:
            return lines
        time.sleep(0.02)
    check(False, "nothing to paste is printed: %s", server.log)


def paste(line, folder):
    """Runs a line in a shell whose PATH has penstock, from a folder that has nothing."""
    env = dict(os.environ, PATH=os.path.dirname(os.path.abspath(BINARY)) + ":" + os.environ["PATH"])
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    check(done.returncode == 0, "%s: ended with %d: %s %s", line, done.returncode, done.stdout, done.stderr)
    check('"error"' not in done.stdout, "%s: %s", line, done.stdout)
    return done.stdout


def paste_all(server, words, folder):
    """Each line works; between them they say every one of `words`."""
    need_program("curl")
    lines = printed(server)
    said = "".join(paste(line, folder) for line in lines)
    for word in words:
        check(word in said, "%r is in none of the answers: %s", word, said)
    return lines


@case
def examples():
    with tempfile.TemporaryDirectory() as folder, Server(EXAMPLES) as server:
        lines = paste_all(server, ["spam", "setosa"], folder)
        for name in ("spam", "iris", "digits"):
            check(any(name in line for line in lines), "nothing to paste for %s: %s", name, lines)
            check(name in server.log, "%s is not listed", name)
        check(any("penstock call " in line for line in lines), "no penstock call among %s", lines)


@case
def one_model():
    with tempfile.TemporaryDirectory() as folder, Server(EXAMPLES + "/spam") as server:
        paste_all(server, ["spam"], folder)


@case
def a_bare_file_without_a_card():
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(EXAMPLES + "/iris/1/model.onnx", os.path.join(folder, "flowers.onnx"))
        with Server(os.path.join(folder, "flowers.onnx")) as server:
            lines = paste_all(server, [], folder)
            check(all("flowers" in line for line in lines), "%s", lines)


@case
def over_a_unix_socket():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        with Server(EXAMPLES + "/spam", options=["--listen", "unix:" + path]) as server:
            paste_all(server, ["spam"], folder)


@case
def awkward_names():
    """Names with quotes and spaces are quoted so that the shell takes them whole, and nothing in them is run."""
    name = "it's $(touch ran) a `touch ran` \"model\""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(EXAMPLES + "/spam", os.path.join(folder, "m", name))
        with Server(os.path.join(folder, "m")) as server:
            paste_all(server, ["spam"], folder)
        check(not os.path.exists(os.path.join(folder, "ran")), "a name was run")


@case
def readme_of_the_examples():
    """The curl lines in the examples' own pages."""
    need_program("curl")
    with Server(EXAMPLES) as server, tempfile.TemporaryDirectory() as folder:
        count = 0
        for name, word in (("spam", "spam"), ("iris", "setosa")):
            with open("%s/%s/README.md" % (EXAMPLES, name)) as file:
                for line in file:
                    if line.startswith("    curl "):
                        check("localhost:8000/" in line, "another address: %s", line)
                        said = paste(line.strip().replace("localhost:8000", server.address), folder)
                        check(word in said, "%s: %s", line, said)
                        count += 1
        equal(count, 2)


@case
def examples_of_the_cards():
    """model.yaml's examples get the answers that their words promise."""
    with Server(EXAMPLES) as server:
        with open(EXAMPLES + "/digits/model.yaml") as file:
            text = file.read()
        pixels = re.search(r"example: \[([^\]]*)\]", text).group(1)
        status, reply = server.post("/models/digits:predict", {"pixels": [float(value) for value in pixels.split(",")]})
        equal((status, reply.get("label")), (200, "3"))
        check(reply["probability"] > 0.9, "%s", reply)
        status, reply = server.post("/models/spam:predict", {"text": "You won a prize, call now"})
        equal((status, reply.get("label")), (200, "spam"))
        check(reply["probability"] > 0.9, "%s", reply)


if __name__ == "__main__":
    main()
