"""A tensor of 602,112 bytes ([1,3,224,224] FP32) in and out: as JSON both ways, and by the binary tensor extension."""
import contextlib
import json
import sys

import _lib
import _peers
from _lib import Load, Penstock, Row, alternate, floats, identity_config, median, packed, post

TITLE = "a tensor of 602,112 bytes in and out"
SHAPE = [1, 3, 224, 224]
PATH = "/v2/models/image/infer"


def run(options):
    rounds, seconds = _lib.rounds_of(options), _lib.seconds_of(options, 4, 1)
    numbers = floats(3 * 224 * 224)
    data = packed(numbers)

    def json_validate(headers, body):
        tensor = json.loads(body)["outputs"][0]
        if tensor["shape"] != SHAPE or packed(tensor["data"]) != data:
            _lib.die("what came back as JSON is not what was sent")

    def binary_validate(headers, body):
        size = int(headers["inference-header-content-length"])
        tensor = json.loads(body[:size])["outputs"][0]
        if tensor["parameters"]["binary_data_size"] != len(data) or body[size:] != data:
            _lib.die("what came back in binary is not what was sent")

    def as_json(texts):
        return post(PATH, ('{"inputs":[{"name":"IN","shape":[1,3,224,224],"datatype":"FP32","data":[%s]}]}' %
                           ",".join(texts)).encode())

    # Python writes an FP32 as the double that it is, with up to 17 digits; a program that knows FP32, with up to 9
    as_python = as_json([repr(number) for number in numbers])
    as_short = as_json(["%.9g" % number for number in numbers])
    head = json.dumps({"inputs": [{"name": "IN", "shape": SHAPE, "datatype": "FP32",
                                   "parameters": {"binary_data_size": len(data)}}],
                       "parameters": {"binary_data_output": True}}).encode()
    as_binary = post(PATH, head + data, [("content-type", "application/octet-stream"),
                                         ("inference-header-content-length", str(len(head)))])
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_lib.models({"image/config.pbtxt": identity_config("image", SHAPE), "image/1/.keep": b""}))
        penstock = stack.enter_context(Penstock(folder))
        fastapi = stack.enter_context(_peers.fastapi(True))
        found = alternate({"penstock JSON": Load(penstock, as_python, json_validate),
                           "FastAPI tuned JSON": Load(fastapi, as_python, json_validate),
                           "penstock short JSON": Load(penstock, as_short, json_validate),
                           "FastAPI short JSON": Load(fastapi, as_short, json_validate),
                           "penstock binary": Load(penstock, as_binary, binary_validate)},
                          rounds, seconds=seconds, connections=4)
    cpu = {name: median(runs, "cpu_us") for name, runs in found.items()}
    share = {name: "generator %.0f%% of its core" % (100 * median(runs, "cpu_share")) for name, runs in found.items()}
    return [
        Row("602,112 bytes as JSON both ways, 9 digits a number: server CPU a request", cpu["penstock short JSON"], "us", 6000,
            beside="FastAPI with orjson %.0f us, %.1fx" % (cpu["FastAPI short JSON"],
                                                           cpu["FastAPI short JSON"] / cpu["penstock short JSON"]),
            note="%s; %.1f MB of JSON in" % (share["penstock short JSON"], len(as_short) / 1e6)),
        Row("... with up to 17 digits, as Python's tolist() writes them", cpu["penstock JSON"], "us",
            beside="FastAPI with orjson %.0f us, %.1fx" % (cpu["FastAPI tuned JSON"],
                                                           cpu["FastAPI tuned JSON"] / cpu["penstock JSON"]),
            note="%s; %.1f MB of JSON in" % (share["penstock JSON"], len(as_python) / 1e6)),
        Row("602,112 bytes by the binary extension both ways: server CPU a request", cpu["penstock binary"], "us", 180,
            note=share["penstock binary"]),
    ]


if __name__ == "__main__":
    _lib.main(sys.modules[__name__])
