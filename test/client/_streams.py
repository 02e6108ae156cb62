"""What the tests of streams share: a server with a model that makes numbers, and readers of its events.

`numbers` makes 0, 1, 2 ... as its callers' parameters say (stream_model.c) and logs what it made and whether it was cancelled;
`crowd` is the same with instances for many callers at once. `one` answers once.
"""
import contextlib
import json
import os
import re
import subprocess

from harness import ROOT, Server, check, equal, models, need_program

ECHO = (b'backend: "echo"\nmax_batch_size: 0\ninput [{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }]\n'
        b'output [{ name: "y" data_type: TYPE_FP32 dims: [ 1 ] }]\n')
SSE, NDJSON = "text/event-stream", "application/x-ndjson"


@contextlib.contextmanager
def serving(options=(), **more):
    """`more`: name=config.pbtxt."""
    compiler = need_program("cc")
    numbers = b'backend: "stream_model"\ninstance_group [{ count: %d kind: KIND_CPU }]\n'
    layout = {"models/numbers/config.pbtxt": numbers % 1, "models/crowd/config.pbtxt": numbers % 32,
              "models/one/config.pbtxt": ECHO}
    for name, config in more.items():
        layout["models/%s/config.pbtxt" % name] = config
    with models(layout) as folder:
        plugin = os.path.join(folder, "stream_model.so")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-fvisibility=hidden", "-I", os.path.join(ROOT, "include"), "-o",
                        plugin, os.path.join(ROOT, "test", "client", "stream_model.c")], check=True)
        with Server(os.path.join(folder, "models"), options=["--backend-plugin", plugin, *options]) as server:
            yield server


# --- the same question in each dialect ---------------------------------------------------------------

def infer(**parameters):
    return {"inputs": [{"name": "SEED", "shape": [1], "datatype": "INT64", "data": [7]}], "parameters": parameters}


def generate(**parameters):
    return {"SEED": 7, **parameters}


def number_of(event):
    """The number in an event of any dialect."""
    if "outputs" in event:
        return event["outputs"][0]["data"][0]
    return event["NUMBER"]


# how to ask, and for what: (path, Accept, body)
def ways(model="numbers", **parameters):
    v2 = "/v2/models/%s/" % model
    return {
        "generate_stream": (v2 + "generate_stream", None, generate(**parameters)),
        "generate_lines": (v2 + "generate_stream", NDJSON, generate(**parameters)),
        "infer_events": (v2 + "infer", SSE, infer(**parameters)),
        "infer_lines": (v2 + "infer", NDJSON, infer(**parameters)),
        "infer_stream": (v2 + "infer_stream", None, infer(**parameters)),
    }


def events_of(body):
    """The data of a whole answer of server-sent events, which must be nothing but events and comments."""
    found = []
    text = body.decode() if isinstance(body, bytes) else body
    check(text == "" or text.endswith("\n\n"), "the last event has no end: %r", text[-80:])
    for block in text.split("\n\n"):
        if not block:
            continue
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        equal(len(lines), 1, "lines of %r" % block)
        match = re.fullmatch(r"data: (.*)", lines[0])
        check(match is not None, "not an event: %r", block)
        found.append(json.loads(match.group(1)))
    return found


def lines_of(body):
    text = body.decode() if isinstance(body, bytes) else body
    check(text == "" or text.endswith("\n"), "the last line has no end: %r", text[-80:])
    return [json.loads(line) for line in text.split("\n") if line]


def ended(server):
    """(made, how) of each run so far."""
    return [(int(made), how) for made, how in re.findall(r"stream_model: made (\d+), (\w+)", server.log)]
