"""grpcurl, as people type it: it learns everything by reflection."""
import json
import os
import subprocess
import time

from harness import Server, case, check, equal, main
from _client import EXAMPLES, IRIS_INPUT, serving
from _grpc import go_folder


def grpcurl(server, *arguments, options=()):
    """(exit status, what it printed, what it said)"""
    program = os.path.join(go_folder(), "bin", "grpcurl")
    done = subprocess.run([program, "-plaintext", "-max-time", "30", *options, server.address, *arguments], capture_output=True,
                          text=True, timeout=60, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


def good(found):
    status, out, err = found
    check(status == 0, "grpcurl ended with %d: %s", status, err)
    return out


@case
def the_line_of_the_issue():
    with serving() as server:
        options = ["-d", '{"text":"You won a prize"}']
        found = json.loads(good(grpcurl(server, "penstock.models.Spam/Predict", options=options)))
        _, rest = server.post("/models/spam:predict", {"text": "You won a prize"})
        equal(found["label"], "spam")
        equal(found["label"], rest["label"])


@case
def lists_and_describes():
    with serving() as server:
        services = good(grpcurl(server, "list")).split()
        for name in ("inference.GRPCInferenceService", "grpc.health.v1.Health", "penstock.models.Iris"):
            check(name in services, "%s lacks %s", services, name)
        check("inference.GRPCInferenceService.ModelInfer" in good(grpcurl(server, "list", "inference.GRPCInferenceService")), "")
        for name in services:
            check("service " in good(grpcurl(server, "describe", name)), "%s is no service", name)
        text = good(grpcurl(server, "describe", "inference.ModelInferRequest"))
        check("raw_input_contents = 7" in text, "%s", text)
        text = good(grpcurl(server, "describe"))
        for name in services:
            check(name in text, "describing everything leaves out %s", name)


@case
def calls():
    with serving() as server:
        equal(json.loads(good(grpcurl(server, "inference.GRPCInferenceService/ServerLive"))), {"live": True})
        equal(json.loads(good(grpcurl(server, "grpc.health.v1.Health/Check"))), {"status": "SERVING"})
        request = {"model_name": "iris", "id": "7", "inputs": [
            {"name": "input", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32_contents": IRIS_INPUT[2]}}]}
        found = json.loads(good(grpcurl(server, "inference.GRPCInferenceService/ModelInfer",
                                        options=["-d", json.dumps(request), "-H", "x-note: hello"])))
        equal((found["modelName"], found["id"], len(found["rawOutputContents"])), ("iris", "7", 2))


@case
def errors_are_read():
    with serving() as server:
        status, _, err = grpcurl(server, "penstock.models.Iris/Predict", options=["-d", '{"sepal_length": 510}'])
        check(status != 0 and "InvalidArgument" in err and "sepal_length" in err, "%d %s", status, err)
        check("fieldViolations" in err and "is not recognized" not in err, "the details are not read: %s", err)
        status, _, err = grpcurl(server, "inference.GRPCInferenceService/ModelMetadata", options=["-d", '{"name": "none"}'])
        check(status != 0 and "NotFound" in err and "none" in err, "%d %s", status, err)


@case
def the_line_that_serve_prints_works_when_pasted():
    """Where grpcurl is installed, `penstock serve` says how to call by it."""
    path = os.path.join(go_folder(), "bin") + ":" + os.environ["PATH"]
    with Server(EXAMPLES, env={"PATH": path}) as server:
        until = time.monotonic() + 10
        while "grpcurl " not in server.log or not server.log.endswith("\n"):
            check(time.monotonic() < until, "no line for grpcurl: %s", server.log)
            time.sleep(0.02)
        line = next(line.strip() for line in server.lines if line.strip().startswith("grpcurl "))
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, env=dict(os.environ, PATH=path))
        check(done.returncode == 0 and json.loads(done.stdout)["label"], "%s: %s", line, done.stderr)


if __name__ == "__main__":
    main()
