"""build_test.py - script/build says how far it is: on a terminal in one line, elsewhere by a line now and then."""
import contextlib
import os
import pty
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "test", "lib"))
from harness import ROOT, case, check, equal, main      # noqa: E402

# `every` 0: a line whenever there is news, so that nothing here waits for a clock
SHELL = '. "%s/script/lib/common.sh"; SCRIPT=build; progress ninja %d'
LINES = b"ninja: Entering directory\n[1/4] Compiling a\n[2/4] Compiling b\nb.c:1: warning: odd [7/7]\n[4/4] Linking\n"


def said(every, stderr=subprocess.PIPE):
    return subprocess.run(["bash", "-c", SHELL % (ROOT, every)], input=LINES, stdout=subprocess.PIPE, stderr=stderr, timeout=60, check=True)


@case
def lines_elsewhere():
    done = said(0)
    equal(done.stdout, b"")
    equal(done.stderr.decode().splitlines(), ["build: ninja: " + at for at in ("begun", "25 % (1 of 4)", "50 % (2 of 4)", "50 % (2 of 4)", "100 % (4 of 4)")])


@case
def nothing_of_a_quick_one():
    equal(said(3600).stderr, b"")


@case
def one_line_on_a_terminal():
    ours, theirs = pty.openpty()
    said(3600, stderr=theirs)
    os.close(theirs)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as file, contextlib.suppress(OSError):     # its end is EIO
        while piece := file.read(4096):
            shown += piece
    shown = shown.decode()
    check("\n" not in shown, "%r", shown)
    parts = shown.split("\r")
    equal((parts[-1], parts[-2]), ("\033[K", "build: ninja: 100 % (4 of 4)\033[K"))
    check("build: ninja: 25 % (1 of 4)\033[K" in parts, "%r", parts)


@case
def what_failed_fails():
    """The end of ninja is the end of the pipe: its status is not lost behind what shows its progress."""
    done = subprocess.run(["bash", "-c", '. "%s/script/lib/common.sh"; { echo "[1/1] x"; exit 3; } | cat | progress ninja 3600' % ROOT], check=False)
    equal(done.returncode, 3)


if __name__ == "__main__":
    main()
