"""A small model over 16 connections kept open: CPU time of the server a request, beside nginx and FastAPI."""
import contextlib
import json
import sys

import _lib
import _peers
from _lib import IRIS_GEMM, IRIS_V2, Load, Penstock, Row, alternate, iris_gemm_validate, median, median_ratio, post

TITLE = "iris_gemm (Gemm and Softmax, 4 floats to 3) over 16 keep-alive connections, closed loop"
PATH = "/v2/models/iris_gemm/infer"
TYPED = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}


def typed_validate(headers, body):
    document = json.loads(body)
    if document.get("label") != "setosa" or not 0.95 < document.get("probability", 0) <= 1:
        _lib.die("not the typed answer of iris: %s" % body[:300])


def run(options):
    rounds, seconds = _lib.rounds_of(options), _lib.seconds_of(options, 4, 1)
    with contextlib.ExitStack() as stack:
        penstock = stack.enter_context(Penstock(IRIS_GEMM))
        request = post(PATH, IRIS_V2)
        v2 = Load(penstock, request, iris_gemm_validate)
        loads = {"penstock V2": v2,
                 "penstock typed": Load(penstock, post("/models/iris_gemm:predict", TYPED), typed_validate)}
        nginx = stack.enter_context(_peers.nginx(PATH, v2.expect))
        loads["nginx, fixed answer"] = Load(nginx, request, iris_gemm_validate)
        for is_tuned in (True, False):
            peer = stack.enter_context(_peers.fastapi(is_tuned))
            loads[peer.name] = Load(peer, request, iris_gemm_validate)
        found = alternate(loads, rounds, seconds=seconds, connections=16)
    cpu = {name: median(runs, "cpu_us") for name, runs in found.items()}
    ours, fixed = cpu["penstock V2"], cpu["nginx, fixed answer"]
    share = "generator %.0f%% of its core" % (100 * median(found["penstock V2"], "cpu_share"))
    beside = ["nginx %.2f us" % fixed]
    beside += ["%s %.0f us, %.0fx" % (name, cpu[name], cpu[name] / ours) for name in ("FastAPI tuned", "FastAPI plain")]
    return [
        Row("`iris_gemm`, V2 JSON: server CPU a request", ours, "us", 9, beside="; ".join(beside), note=share),
        Row("... of nginx that answers a fixed body",
            median_ratio(found["penstock V2"], found["nginx, fixed answer"], "cpu_us"), "x", 1.8,
            beside="nginx %.2f us" % fixed),
        Row("`iris_gemm`, typed route, of V2", median_ratio(found["penstock typed"], found["penstock V2"], "cpu_us"), "x", 1.2,
            beside="%.2f us" % cpu["penstock typed"]),
        Row("`iris_gemm`, V2 JSON: requests a second on one core, in thousands", median(found["penstock V2"], "per_second") / 1e3,
            "k/s", beside="nginx %.1f; FastAPI tuned %.1f; plain %.2f" % tuple(
                median(found[name], "per_second") / 1e3 for name in ("nginx, fixed answer", "FastAPI tuned", "FastAPI plain")),
            note=share),
    ]


if __name__ == "__main__":
    _lib.main(sys.modules[__name__])
