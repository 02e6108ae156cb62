#!/usr/bin/env python3
"""devices.py - a model that asks for a GPU: refused by name, or run on the processor and said to be (--gpu-to-cpu)."""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from harness import BINARY, Server, case, check, equal, main, models

TENSORS = b"""backend: "echo"
input { name: "x" data_type: TYPE_FP32 dims: [ 2 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }
"""
GPU = TENSORS + b'instance_group [{ kind: KIND_CPU }, { name: "fast" kind: KIND_GPU count: 2 gpus: [ 0 ] }]\n'
LAYOUT = {"gpu/config.pbtxt": GPU, "cpu/config.pbtxt": TENSORS, "auto/config.pbtxt": TENSORS + b"instance_group { gpus: [ 0, 1 ] }\n"}
REFUSED = "instance_group[1] 'fast' asks for KIND_GPU, and this server has no GPU"
MOVED = "instance_group[1] 'fast' asks for KIND_GPU and runs on the processor, as --gpu-to-cpu says"


def explain(*arguments):
    done = subprocess.run([BINARY, "explain", *arguments, "--json"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@case
def a_gpu_that_is_not_there_is_named():
    with models(LAYOUT) as folder, Server(folder) as server:
        index = {model["name"]: model for model in server.post("/v2/repository/index", {})[1]}
        equal({name: model["state"] for name, model in index.items()}, {"gpu": "UNAVAILABLE", "cpu": "READY", "auto": "READY"})
        check(REFUSED in index["gpu"]["reason"] and "--gpu-to-cpu" in index["gpu"]["reason"], "%s", index["gpu"]["reason"])
        check(REFUSED in server.log, "%s", server.log)
        request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}
        status, reply = server.post("/v2/models/gpu/infer", request)
        check(status == 503 and REFUSED in reply["error"], "%d %s", status, reply)
        equal(server.post("/v2/models/auto/infer", request)[0], 200)


@case
def gpu_to_cpu_runs_it_on_the_processor():
    with models(LAYOUT) as folder, Server(folder, options=["--gpu-to-cpu"]) as server:
        status, reply = server.post("/v2/models/gpu/infer",
                                    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]})
        equal((status, reply["outputs"][0]["data"]), (200, [1, 2]))
        groups = server.get("/v2/models/gpu/config")[1]["instance_group"]
        equal([(group["name"], group["kind"], group["count"], group["gpus"]) for group in groups],
              [("gpu_0", "KIND_CPU", 1, []), ("fast", "KIND_CPU", 2, [])])
        check(MOVED in server.log, "%s", server.log)
        status, out, err = explain("gpu", "--server", server.url)
        equal(status, 0, err)
        check(MOVED in json.loads(out)["notices"], "%s", out)


@case
def explain_says_it_of_a_path():
    with models(LAYOUT) as folder:
        status, out, err = explain(os.path.join(folder, "gpu"))
        check(status == 1 and REFUSED in out + err, "%d %s %s", status, out, err)
        status, out, err = explain(os.path.join(folder, "gpu"), "--gpu-to-cpu")
        equal(status, 0, err)
        check(MOVED in out, "%s", out)


if __name__ == "__main__":
    main()
