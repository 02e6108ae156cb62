"""What README.md and docs/http.md show is what one gets: their shell and Python blocks are run against the examples."""
import os
import pty
import re
import shlex
import shutil
import subprocess
import tempfile

from harness import BINARY, ROOT, Server, case, cases, check, equal, main, need, need_program, skip

EXAMPLES = os.path.join(ROOT, "examples", "models")


def blocks(name):
    """The indented blocks of a page, without their indent."""
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        lines = file.read().splitlines()
    found = [[]]
    for line in lines + [""]:
        if line.startswith("    "):
            found[-1].append(line[4:])
        elif found[-1]:
            found.append([])
    return [block for block in found if block]


def commands(name, program):
    """(command, lines that are shown below it) of every `$ program ...` of a page."""
    found = []
    for block in blocks(name):
        text = "\n".join(block).replace("\\\n", " ")
        for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
            command, _, shown = part.partition("\n")
            if shlex.split(command.split("#")[0])[0].split("/")[-1] == program:
                found.append((command, shown.strip()))
    return found


def shell(command, server):
    """What a shell prints on a terminal; the server that the page means is ours."""
    here = command.replace("localhost:8000", server.address)
    env = dict(os.environ, PENSTOCK_SERVER=server.url, PATH="%s:%s" % (os.path.dirname(os.path.abspath(BINARY)), os.environ["PATH"]))
    head, tail = pty.openpty()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(["sh", "-c", here], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=tail, stderr=subprocess.PIPE)
        os.close(tail)
        said = b""
        while True:
            try:
                piece = os.read(head, 65536)
            except OSError:     # how Linux says that nobody holds the other end any more
                break
            said += piece
        error = process.communicate(timeout=60)[1].decode()
        os.close(head)
    equal(process.returncode, 0, "%s: %s" % (command, error))
    return said.decode().replace("\r\n", "\n").strip()


@cases({"README": ("README.md", 2), "http": ("docs/http.md", 14)})
def curl_lines_answer_what_is_shown(name, least):
    need_program("curl")
    found = commands(name, "curl")
    check(len(found) >= least, "%d commands in %s", len(found), name)
    with Server(EXAMPLES) as server:
        server.wait_ready()
        for command, shown in found:
            said = shell(command, server)
            check(shown, "%s shows no answer of: %s (it is %s)", name, command, said)
            equal(said, shown, command)


@case
def grpcurl_answers_what_is_shown():
    found = commands("README.md", "grpcurl")
    check(found, "there is none in README.md")
    folder = os.path.join(os.environ.get("PENSTOCK_GO_DIR", ""), "bin")
    if not shutil.which("grpcurl", path=folder):
        skip("grpcurl: script/bootstrap clients installs it")
    with Server(EXAMPLES) as server:
        server.wait_ready()
        for command, shown in found:
            equal(shell("PATH=%s:$PATH; %s" % (shlex.quote(folder), command), server), shown, command)


@case
def penstock_call_answers_what_is_shown():
    found = [(command, shown) for command, shown in commands("README.md", "penstock") if command.split()[1] == "call"]
    check(found, "there is none in README.md")
    with Server(EXAMPLES) as server:
        server.wait_ready()
        for command, shown in found:
            equal(shell(command, server), shown, command)


@case
def the_triton_client_prints_what_is_shown():
    need("tritonclient.http")
    block = next(block for block in blocks("README.md") if any("tritonclient" in line for line in block))
    shown = [line[2:] for line in block if line.startswith("# ")]
    check(shown, "what it prints is not shown")
    with Server(EXAMPLES) as server:
        server.wait_ready()
        code = "\n".join(block).replace("localhost:8000", server.address)
        done = subprocess.run([os.environ.get("PENSTOCK_TEST_PYTHON", "python3"), "-c", code], capture_output=True, text=True, timeout=120)
        equal(done.returncode, 0, done.stderr)
        equal(done.stdout.splitlines(), shown)


@case
def its_model_yaml_loads_and_answers_the_same():
    block = next(block for block in blocks("README.md") if any("features:" in line for line in block))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(os.path.join(EXAMPLES, "iris", "1", "model.onnx"), os.path.join(folder, "iris.onnx"))
        with open(os.path.join(folder, "iris.yaml"), "w", encoding="utf-8") as file:
            file.write("\n".join(block) + "\n")
        with Server(folder) as server:
            server.wait_ready()
            for command, shown in commands("README.md", "curl"):
                if "/iris:predict" in command:
                    equal(shell(command, server), shown)


@case
def links_lead_somewhere():
    """Of every page in the root and in docs/: relative links, and files of this repository that are named in code."""
    pages = [name for name in os.listdir(ROOT) if name.endswith(".md")]
    for folder, _, names in os.walk(os.path.join(ROOT, "docs")):
        pages += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names if name.endswith(".md")]
    check(len(pages) > 8, "%s", pages)
    for name in pages:
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            text = file.read()
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                check(os.path.exists(os.path.join(ROOT, os.path.dirname(name), target)), "%s: no %s", name, target)


if __name__ == "__main__":
    main()
