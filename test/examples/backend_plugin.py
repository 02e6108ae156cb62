"""The backend of examples/backend: built against the installed header alone, served, called, and refused where it must be."""
import contextlib
import os
import re
import shutil
import subprocess
import tempfile

from harness import BINARY, ROOT, Server, case, check, equal, main, near, need_program

EXAMPLE = os.path.join(ROOT, "examples", "backend")


def run(*command, **others):
    done = subprocess.run(command, capture_output=True, text=True, **others)
    check(done.returncode == 0, "%s: %s%s", " ".join(command), done.stdout[-1000:], done.stderr[-1000:])
    return done


def installed_headers(folder):
    """`meson install` into a folder, and where the headers went; the build is the one the binary lies in."""
    need_program("meson")
    build = os.path.dirname(os.path.realpath(BINARY))
    while not os.path.exists(os.path.join(build, "build.ninja")):
        check(len(build) > 1, "%s lies in no build folder", BINARY)
        build = os.path.dirname(build)
    run("meson", "install", "-C", build, "--no-rebuild", "--destdir", folder, "--quiet")
    for found, _, files in os.walk(folder):
        if "backend.h" in files:
            equal(sorted(files), ["backend.h", "tensor.h"], "installed headers")
            return os.path.dirname(found)
    check(False, "no backend.h was installed")


@contextlib.contextmanager
def plugin(change=lambda source: source):
    """scale.so, built by the command of the README: as it stands in a checkout, then with the installed headers."""
    need_program("cc")
    with tempfile.TemporaryDirectory(prefix="penstock-plugin-") as folder:
        include = installed_headers(os.path.join(folder, "dest"))
        with open(EXAMPLE + "/scale.c") as file:
            source = change(file.read())
        with open(folder + "/scale.c", "w") as file:
            file.write(source)
        with open(EXAMPLE + "/README.md") as file:
            command = re.search(r"^    (cc .*)$", file.read(), re.M).group(1)
        check("-I../../include " in command, "the README's command is another: %s", command)
        run("bash", "-c", command.replace("-o scale.so", "-o %s/checkout.so" % folder), cwd=EXAMPLE)
        command = command.replace("../../include", include) + " -Wall -Wextra -Werror"
        run("bash", "-c", command, cwd=folder)
        yield folder + "/scale.so"


@case
def tutorial_is_the_example():
    """The blocks of CONTRIBUTING.md, one after the other, are scale.c; so is its build line the README's."""
    with open(os.path.join(ROOT, "CONTRIBUTING.md")) as file:
        tutorial = file.read()
    blocks = re.findall(r"```c\n(.*?)```", tutorial, re.S)
    with open(EXAMPLE + "/scale.c") as file:
        source = file.read()
    equal("\n".join(blocks), source[source.index("#include <stdlib.h>"):], "code of the tutorial")
    with open(EXAMPLE + "/README.md") as file:
        command = re.search(r"^    (cc .*)$", file.read(), re.M).group(1)
    check(command in tutorial, "the tutorial builds it otherwise")


def predict(server, model, numbers):
    return server.post("/models/%s:predict" % model, {"IN": numbers})


@case
def built_and_called():
    with plugin() as library, Server(EXAMPLE + "/models", options=["--backend-plugin", library]) as server:
        status, document = server.get("/v2/models/double")
        equal((status, document["inputs"]), (200, [{"name": "IN", "datatype": "FP32", "shape": [-1, -1]}]))
        status, reply = server.post("/v2/models/double/infer", {"inputs": [
            {"name": "IN", "shape": [2, 3], "datatype": "FP32", "data": [1, 2.5, -3, 4, 5, 6]}]})
        equal((status, reply["outputs"]), (200, [{"name": "OUT", "datatype": "FP32", "shape": [2, 3],
                                                  "data": [2.0, 5.0, -6.0, 8.0, 10.0, 12.0]}]))
        status, reply = predict(server, "double", [1, 2.5])
        equal(status, 200)
        near(reply["OUT"] if not isinstance(reply["OUT"][0], list) else reply["OUT"][0], [2, 5])
        for count in (0, 100000):       # nothing, and more than fits anywhere small
            status, reply = server.post("/v2/models/double/infer", {"inputs": [
                {"name": "IN", "shape": [1, count], "datatype": "FP32", "data": [0.5] * count}]})
            equal((status, reply["outputs"][0]["data"]), (200, [1.0] * count))


@case
def symbols():
    """It exports one name and needs none of the server's."""
    need_program("nm")
    with plugin() as library:
        exported = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library).stdout.splitlines()]
        equal(exported, ["penstock_backend_entry"])
        needed = run("nm", "-D", "--undefined-only", library).stdout
        check("penstock" not in needed, "needs symbols of the server: %s", needed)


@case
def wrong_parameter():
    """What model_open says reaches whoever asks for the model."""
    with plugin() as library, tempfile.TemporaryDirectory() as folder:
        shutil.copytree(EXAMPLE + "/models", folder + "/models")
        path = folder + "/models/double/config.pbtxt"
        with open(path) as file:
            text = file.read().replace('"2"', '"two"')
        with open(path, "w") as file:
            file.write(text)
        with Server(folder + "/models", options=["--backend-plugin", library, "--no-strict-readiness"]) as server:
            row = server.post("/v2/repository/index", {})[1][0]
            equal(row["state"], "UNAVAILABLE")
            check("'factor' is 'two'" in row["reason"], "%s", row)


@case
def without_the_plugin():
    """A model whose backend is not there says which, and stops nobody else."""
    with Server(EXAMPLE + "/models", os.path.join(ROOT, "examples", "models"), options=["--no-strict-readiness"]) as server:
        rows = {row["name"]: row for row in server.post("/v2/repository/index", {})[1]}
        equal((rows["double"]["state"], rows["iris"]["state"]), ("UNAVAILABLE", "READY"))
        check("scale" in rows["double"]["reason"], "%s", rows["double"])


def does_not_start(library, *words):
    done = subprocess.run([BINARY, "serve", EXAMPLE + "/models", "--listen", "127.0.0.1:0", "--backend-plugin", library],
                          capture_output=True, text=True, timeout=30)
    check(done.returncode in (1, 2), "ended with %d: %s", done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    check(lines, "ended without a word")
    for word in words:
        check(word in lines[-1], "%r is not in %r", word, lines[-1])


@case
def another_version_of_the_contract():
    with plugin(lambda source: source.replace("given->abi == PENSTOCK_BACKEND_ABI", "given->abi == 77")) as library:
        does_not_start(library, "another version")


@case
def table_of_another_version():
    with plugin(lambda source: source.replace(".abi = PENSTOCK_BACKEND_ABI", ".abi = 77")) as library:
        does_not_start(library, "scale.so")


@case
def not_a_plugin():
    with tempfile.TemporaryDirectory() as folder:
        does_not_start(folder + "/none.so", "none.so")
        with open(folder + "/text.so", "w") as file:
            file.write("this is text\n")
        does_not_start(folder + "/text.so", "text.so")
        with open(folder + "/empty.c", "w") as file:
            file.write("int nothing_here;\n")
        need_program("cc")
        run("cc", "-shared", "-fPIC", folder + "/empty.c", "-o", folder + "/empty.so")
        does_not_start(folder + "/empty.so", "penstock_backend_entry")


@case
def relative_paths_are_refused():
    """Code is never loaded from the directory one happens to stand in."""
    with plugin() as library:
        done = subprocess.run([BINARY, "serve", EXAMPLE + "/models", "--listen", "127.0.0.1:0", "--backend-plugin", "scale.so"],
                              cwd=os.path.dirname(library), capture_output=True, text=True, timeout=30)
        check(done.returncode in (1, 2), "ended with %d", done.returncode)
        check("absolute" in done.stderr, "%s", done.stderr)


if __name__ == "__main__":
    main()
