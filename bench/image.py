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

    as_json = post(PATH, {"inputs": [{"name": "IN", "shape": SHAPE, "datatype": "FP32", "data": numbers}]})
    head = json.dumps({"inputs": [{"name": "IN", "shape": SHAPE, "datatype": "FP32",
                                   "parameters": {"binary_data_size": len(data)}}],
                       "parameters": {"binary_data_output": True}}).encode()
    as_binary = post(PATH, head + data, [("content-type", "application/octet-stream"),
                                         ("inference-header-content-length", str(len(head)))])
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_lib.models({"image/config.pbtxt": identity_config("image", SHAPE), "image/1/.keep": b""}))
        penstock = stack.enter_context(Penstock(folder))
        fastapi = stack.enter_context(_peers.fastapi(True))
        text = alternate({"penstock JSON": Load(penstock, as_json, json_validate),
                          "FastAPI tuned JSON": Load(fastapi, as_json, json_validate)},
                         rounds, seconds=seconds, connections=4)
        binary = alternate({"penstock binary": Load(penstock, as_binary, binary_validate)}, rounds, seconds=seconds,
                           connections=4)
    ours, theirs = median(text["penstock JSON"], "cpu_us"), median(text["FastAPI tuned JSON"], "cpu_us")
    raw = median(binary["penstock binary"], "cpu_us")
    return [
        Row("602,112 bytes as JSON both ways: server CPU a request", ours, "us", 6000,
            beside="FastAPI with orjson %.0f us, %.1fx" % (theirs, theirs / ours),
            note="generator %.0f%% of its core; %.2f MB of JSON in" % (100 * median(text["penstock JSON"], "cpu_share"),
                                                                       len(as_json) / 1e6)),
        Row("602,112 bytes by the binary extension both ways: server CPU a request", raw, "us", 180,
            note="generator %.0f%% of its core" % (100 * median(binary["penstock binary"], "cpu_share"))),
    ]


if __name__ == "__main__":
    _lib.main(sys.modules[__name__])
