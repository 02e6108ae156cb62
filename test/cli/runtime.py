"""The program finds its runtime beside itself: no variable, no option, whatever the working directory."""
import os
import subprocess

from harness import BINARY, ROOT, case, check, equal, main, skip

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


if __name__ == "__main__":
    main()
