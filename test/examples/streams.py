"""The lines of examples/streams work: a digit stroke by stroke, readings to one verdict, a file in parts."""
import json
import os
import subprocess
import sys
import tempfile

from harness import BINARY, ROOT, Server, case, cases, equal, main, need, need_program

STREAMS = os.path.join(ROOT, "examples", "streams")
PYTHON = os.environ.get("PENSTOCK_TEST_PYTHON", sys.executable)


def shell(line, server):
    env = dict(os.environ, PATH="%s:%s" % (os.path.dirname(os.path.abspath(BINARY)), os.environ["PATH"]), PENSTOCK_SERVER=server.url)
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=120, env=env)
    equal(done.returncode, 0, "%s: %s" % (line, done.stderr))
    return done.stdout


@cases({str(digit): (digit,) for digit in (0, 1, 4, 7)})
def strokes(digit):
    """Each stroke has an answer of its own, and the last is the digit that was drawn."""
    need_program("curl")
    sys.path.insert(0, STREAMS)
    pictures = need("strokes").drawing(digit)
    with Server(os.path.join(ROOT, "examples", "models")) as server:
        server.wait_ready()
        draw = "%s %s/strokes.py %d | " % (PYTHON, STREAMS, digit)
        said = shell(draw + "curl -sN %s/models/digits:predict -H 'accept: text/event-stream' -d @-" % server.url, server)
        found = [json.loads(event[len("data: "):]) for event in said.strip().split("\n\n")]
        equal(len(found), len(pictures))
        equal(found[-1]["label"], str(digit))
        for picture, answer in zip(pictures, found):
            equal(server.post("/models/digits:predict", {"pixels": picture})[1], answer, "one by one")
        said = shell(draw + "penstock call digits --stream -d -", server)
        equal([json.loads(line)["label"] for line in said.splitlines()], [answer["label"] for answer in found])


@case
def readings():
    """100,000 lines through one stream are the verdict of the formula."""
    need("numpy")
    with Server(os.path.join(STREAMS, "models")) as server:
        server.wait_ready()
        make = "%s %s/readings.py " % (PYTHON, STREAMS)
        verdict = json.loads(shell(make + "--fault-at 60000 | penstock call anomaly --stream", server))
        equal((verdict["label"], verdict["odd_share"], verdict["worst_row"]), ("anomaly", 0.01643, 78612))
        verdict = json.loads(shell(make + "--rows 5000 | penstock call anomaly --stream", server))
        equal(verdict["label"], "normal")


@case
def a_file_in_parts():
    with Server(os.path.join(STREAMS, "models")) as server, tempfile.NamedTemporaryFile() as file:
        server.wait_ready()
        file.write(b"word " * 600000)
        file.flush()
        answer = json.loads(shell("penstock call bytes --upload %s" % file.name, server))
        equal((answer["label"], answer["total"]), ("text", 3000000))


if __name__ == "__main__":
    main()
