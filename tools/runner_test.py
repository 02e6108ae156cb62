"""runner_test.py - script/test counts right, whatever a test program does; test/lib/harness.py says what happened."""
import importlib.util
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("runner", os.path.join(ROOT, "script", "lib", "test.py"))
runner = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(runner)

# name, shell program, seconds, judged whole, (passed, failed, skipped), words that must be shown
PROGRAMS = [
    ("all_pass", "echo ok a; echo ok b", 10, False, (2, 0, 0), []),
    ("one_fails", "echo ok a; echo detail >&2; echo 'not ok b: x is 1: y'; exit 1", 10, False, (1, 1, 0),
     ["detail", "not ok b: x is 1: y", "repeat: again"]),
    ("skip_has_its_name", "echo ok a; echo 'skip b: no file'", 10, False, (1, 0, 1), []),
    ("failure_with_status_0", "echo 'not ok a: x'", 10, False, (0, 1, 0), ["ended with 0"]),
    ("passes_but_ends_with_1", "echo ok a; exit 1", 10, False, (1, 1, 0), ["ended with 1"]),
    ("crash", "echo ok a; kill -SEGV $$", 10, False, (1, 1, 0), ["died of SIGSEGV"]),
    ("silence", "true", 10, False, (0, 1, 0), ["printed no case"]),
    ("hang", "echo ok a; sleep 60", 1, False, (1, 1, 0), ["still running after 1 s"]),
    ("hang_of_a_child", "echo ok a; sleep 60 & wait", 1, False, (1, 1, 0), ["still running"]),
    ("other_lines_are_no_cases", "echo okay then; echo 'ok a'; echo ' ok b'", 10, False, (1, 0, 0), []),
    ("whole_passes", "echo 'not ok a: not a case here'", 10, True, (1, 0, 0), []),
    ("whole_fails", "echo why; exit 2", 10, True, (0, 1, 0), ["why", "ended with 2"]),
    ("fuzzer_repeats_what_it_found", "echo 'Test unit written to /tmp/crash-1' >&2; exit 77", 10, True, (0, 1, 0),
     ["repeat: sh /tmp/crash-1"]),
    ("no_stdin", "read x && echo ok a || echo ok b", 10, False, (1, 0, 0), []),
]

FAKE_SERVER = r"""#!%s
import http.server, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"a": [1]}'
        self.send_response(200); self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
if "refuse" in sys.argv: sys.exit("penstock: no such folder")
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3 if "leak" in sys.argv else 0))
print("listening on http://127.0.0.1:%%d" %% server.server_port, flush=True)
server.serve_forever()
"""

CLIENT = """
from harness import *
@case
def passes():
    with Server("x") as server:
        equal(server.get("/"), (200, {"a": [1]}))
@case
def fails():
    with Server("x") as server:
        equal(1, 2, "number")
@case
def leaks():
    with Server("x", options=["leak"]) as server:
        pass
@case
def refuses():
    with Server("x", options=["refuse"]) as server:
        pass
@case
def skips():
    need("no_such_module")
@case
def shared_is_missing():
    shared("nothing/here")
@cases({"one": (1,), "2 + 3": (2,)})
def row(number):
    check(number == 1, "%d", number)
@case
def nearly():
    near([[1.0], [2.0]], [[1.0], [2.000001]])
@case
def not_nearly():
    near([1.0, 2.0], [1.0, 2.1])
main()
"""
EXPECTED = """ok passes
not ok fails: number: 1, expected 2
not ok leaks: exit status of penstock: 3, expected 0
not ok refuses: penstock did not start: penstock: no such folder
skip skips: no module no_such_module (No module named 'no_such_module')
skip shared_is_missing: shared/nothing/here is not here (PENSTOCK_TEST_SHARED names its folder)
ok row_one
not ok row_2_+_3: 2
ok nearly
not ok not_nearly: number 1 is 2.0, expected 2.1 within 1e-05
"""


def runner_cases():
    for name, shell, seconds, whole, expected, words in PROGRAMS:
        totals, shown = runner.Program(name, ["sh", "-c", shell], "again", seconds, whole=whole).run()
        counts = (totals.passed, totals.failed, totals.skipped)
        text = "\n".join(shown)
        fine = counts == expected and all(word in text for word in words)
        fine = fine and len(totals.repeats) == totals.failed
        yield "runner_" + name, fine, "%s %r" % (counts, text)


def harness_case():
    with tempfile.TemporaryDirectory() as folder:
        binary, client = os.path.join(folder, "penstock"), os.path.join(folder, "client.py")
        for path, text in ((binary, FAKE_SERVER % sys.executable), (client, CLIENT)):
            with open(path, "w") as file:
                file.write(text)
            os.chmod(path, 0o755)
        env = dict(os.environ, PENSTOCK_BINARY=binary, PENSTOCK_TEST_SHARED=folder,
                   PYTHONPATH=os.path.join(ROOT, "test", "lib"), PYTHONDONTWRITEBYTECODE="1")
        done = subprocess.run([sys.executable, client], env=env, capture_output=True, text=True, timeout=60)
        yield "harness_says_what_happened", done.stdout == EXPECTED and done.returncode == 1, repr(done.stdout)
        done = subprocess.run([sys.executable, client, "passes"], env=env, capture_output=True, text=True, timeout=60)
        yield "harness_runs_one_case", done.stdout == "ok passes\n" and done.returncode == 0, repr(done.stdout)


def main():
    failed = 0
    for name, fine, found in [*runner_cases(), *harness_case()]:
        print("ok %s" % name if fine else "not ok %s: %s" % (name, found.replace("\n", "\\n")))
        failed += not fine
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
