"""The program finds its runtime beside itself: no variable, no option, whatever the working directory."""
import os
import re
import shutil
import subprocess
import tempfile
import time

from harness import BINARY, ROOT, Server, case, check, equal, main, skip

MODEL = os.path.join(ROOT, "examples", "models", "iris")


def without_variable(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "PENSTOCK_RUNTIME_DIR"}
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, env=environment, cwd="/", timeout=60)


@case
def found_beside_the_program():
    if not os.path.exists(os.path.join(os.path.dirname(BINARY), "lib", "penstock")):
        skip("this binary was not made by script/build")
    done = without_variable("explain", MODEL)
    equal(done.returncode, 0, done.stderr)
    check("onnxruntime" in without_variable("version").stdout, "version names it")


@case
def a_place_that_lacks_it_is_named():
    """By option and by variable; another library is not taken instead, and it is said once."""
    with tempfile.TemporaryDirectory() as empty:
        for place in ("/nonexistent", empty):
            for options, variable in ((["--runtime-dir", place], {}), ([], {"PENSTOCK_RUNTIME_DIR": place})):
                env = dict(os.environ, **variable)
                done = subprocess.run([BINARY, "version", *options], capture_output=True, text=True, env=env, timeout=60)
                equal(done.returncode, 0, done.stderr)
                check("onnxruntime  %s: there is no libonnxruntime.so there" % place in done.stdout, "%s", done.stdout)
                done = subprocess.run([BINARY, "explain", MODEL, *options], capture_output=True, text=True, env=env, timeout=60)
                equal(done.returncode, 1)
                check(place in done.stdout and "libonnxruntime.so" in done.stdout, "%s", done.stdout)
        with Server(os.path.dirname(MODEL), options=["--runtime-dir", "/nonexistent"]) as server:
            until = time.monotonic() + 20
            while "spam " not in server.log and time.monotonic() < until:
                time.sleep(0.01)
            equal(server.log.count("/nonexistent"), 1, server.log)
            check("NOT READY  as digits" in server.log, "%s", server.log)


@case
def a_place_that_may_not_be_read_is_named():
    if os.geteuid() != 0:
        skip("becoming another user needs root")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        os.makedirs(folder + "/lib/penstock", mode=0o700)
        with open(folder + "/lib/penstock/libonnxruntime.so", "wb"):
            pass
        os.makedirs(folder + "/bin")
        shutil.copytree(MODEL, folder + "/models/iris")
        shutil.copy(BINARY, folder + "/bin/penstock")
        with Server(folder + "/models", options=["--user", "nobody"], binary=folder + "/bin/penstock", env={"PENSTOCK_RUNTIME_DIR": ""}) as server:
            until = time.monotonic() + 20
            while "NOT READY" not in server.log and time.monotonic() < until:
                time.sleep(0.01)
            check(re.search(r"may not look into: %s/lib/penstock/libonnxruntime\.so" % re.escape(folder), server.log), "%s", server.log)


if __name__ == "__main__":
    main()
