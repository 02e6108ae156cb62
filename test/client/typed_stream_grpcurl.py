"""grpcurl and the typed streams: requests on standard input, one after the other."""
import contextlib
import io
import json
import os
import re
import subprocess
import types

from harness import ROOT, case, check, equal, main
from _client import echo, serving
from _grpc import Reflected, channel, go_folder
from _typed import Stub

ROWS = [(5.1, 3.5, 1.4, 0.2), (6.7, 3.1, 4.7, 1.5), (6.3, 3.3, 6.0, 2.5)]


def grpcurl(server, method, requests, *options):
    """(exit status, the answers, what it said); the requests go to standard input."""
    program = os.path.join(go_folder(), "bin", "grpcurl")
    done = subprocess.run([program, "-plaintext", "-max-time", "30", "-d", "@", *options, server.address, method],
                          capture_output=True, text=True, timeout=60, input="\n".join(json.dumps(r) for r in requests))
    return done.returncode, messages(done.stdout), done.stderr


def iris(i):
    return {"measurements": ROWS[i % 3]}


@case
def describes_the_four():
    with serving() as server:
        program = os.path.join(go_folder(), "bin", "grpcurl")
        text = subprocess.run([program, "-plaintext", server.address, "describe", "penstock.models.Iris"], capture_output=True,
                              text=True, timeout=60).stdout
        for line in ("rpc Predict ( .penstock.models.IrisPredictRequest ) returns ( .penstock.models.IrisPredictResponse );",
                     "rpc PredictStream ( .penstock.models.IrisPredictRequest ) returns ( stream .penstock.models.IrisPredictResponse );",
                     "rpc PredictCollect ( stream .penstock.models.IrisPredictRequest ) returns ( .penstock.models.IrisPredictResponse );",
                     "rpc PredictSession ( stream .penstock.models.IrisPredictRequest ) returns ( stream .penstock.models.IrisPredictResponse );"):
            check(line in text, "%s lacks %s", text, line)


@case
def many_answers():
    ticks = echo("ticks", "INT32", mode="repeat", count=3) + b"model_transaction_policy { decoupled: true }\n"
    with serving(ticks=ticks) as server:
        equal(grpcurl(server, "penstock.models.Ticks/PredictStream", [{"IN": 7}])[:2],
              (0, [{"OUT": 7, "stream": {"sequence": str(i)}} for i in (1, 2, 3)]))


@case
def many_requests():
    with serving() as server:
        status, answers, said = grpcurl(server, "penstock.models.Iris/PredictCollect", [iris(0), {"rows": [iris(1), iris(2)]}])
        equal(status, 0, said)
        equal([row["label"] for row in answers[0]["rows"]], ["setosa", "versicolor", "virginica"])
        status, answers, said = grpcurl(server, "penstock.models.Iris/PredictCollect", [iris(0), iris(1), iris(2)], "-H",
                                        "penstock-reduce: last")
        equal((status, answers[0]["label"]), (0, "virginica"), said)


@case
def both_ways():
    with serving() as server:
        status, answers, said = grpcurl(server, "penstock.models.Iris/PredictSession", [iris(i) for i in range(50)])
        equal(status, 0, said)
        equal([(a["label"], a["stream"]["input"]) for a in answers],
              [(("setosa", "versicolor", "virginica")[i % 3], str(i + 1)) for i in range(50)])
        status, answers, said = grpcurl(server, "penstock.models.Iris/PredictSession", [iris(0), {"measurements": [1, 2]}])
        check(status != 0 and len(answers) == 1 and "message 2: measurements: 2 values" in said, "%d %s %s", status, answers, said)
        check('"field": "measurements"' in said, "%s", said)


def section():
    """What docs/grpc.md says of typed streams."""
    with open(os.path.join(ROOT, "docs", "grpc.md"), encoding="utf-8") as file:
        return re.search(r"^### Typed streams$(.*?)^## ", file.read(), re.M | re.S).group(1)


def messages(text):
    answers, decoder = [], json.JSONDecoder()
    text = text.strip()
    while text:
        answer, size = decoder.raw_decode(text)
        answers.append(answer)
        text = text[size:].strip()
    return answers


@case
def the_lines_of_the_page_work_when_pasted():
    path = os.path.join(go_folder(), "bin") + ":" + os.environ["PATH"]
    lines = re.findall(r"^    \$ (echo .*?\|\n +grpcurl .*?)$", section(), re.M)
    equal(len(lines), 3, lines)
    found = []
    with serving() as server:
        for line in lines:
            done = subprocess.run(["sh", "-c", line.replace("localhost:8000", server.address)], capture_output=True, text=True,
                                  timeout=60, env=dict(os.environ, PATH=path))
            equal(done.returncode, 0, done.stderr)
            found.append(messages(done.stdout))
    shown = json.JSONDecoder().raw_decode(re.search(r"^    \{$.*?^    \}$", section(), re.M | re.S).group(0).strip())[0]
    equal(found[0][0], shown, "the first answer is not what the page shows")
    equal([a["label"] for a in found[0]], ["virginica", "setosa"])
    equal([row["label"] for row in found[1][0]["rows"]], ["virginica", "setosa"])
    equal(found[2][0]["label"], "setosa")


@case
def the_pages_python_works():
    code = re.search(r"^    rows = \[5\.1.*?(?=^\S)", section(), re.M | re.S).group(0)
    code = "\n".join(line[4:] for line in code.splitlines())
    told = re.findall(r"# (.*)$", code, re.M)
    printed = io.StringIO()
    with serving() as server, channel(server) as over:
        iris = Stub(Reflected(over), over, "penstock.models.Iris")
        pb = types.SimpleNamespace(IrisPredictRequest=iris.classes["Predict"][0])
        with contextlib.redirect_stdout(printed):
            exec(code, {"iris": iris, "iris_pb2": pb})
    first, second, whole = printed.getvalue().splitlines()
    equal("%s, then %s" % (first, second), told[0])
    equal(whole, told[1])


if __name__ == "__main__":
    main()
