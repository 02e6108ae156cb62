"""What the tests of clients share: a server of the examples and of an echo model for each type."""
import contextlib
import os

from harness import ROOT, Server, models

EXAMPLES = os.path.join(ROOT, "examples", "models")
DTYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES",
          "BF16"]
IRIS_INPUT = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.1, 4.7, 1.5], [6.3, 3.3, 6.0, 2.5]]
IRIS_LABELS = [0, 1, 2]


def echo(name, dtype, dims="-1", **parameters):
    kind = "STRING" if dtype == "BYTES" else dtype
    lines = ['name: "%s"' % name, 'backend: "echo"', "max_batch_size: 0",
             'input [{ name: "IN" data_type: TYPE_%s dims: [ %s ] }]' % (kind, dims),
             'output [{ name: "OUT" data_type: TYPE_%s dims: [ %s ] }]' % (kind, dims)]
    lines += ['parameters { key: "%s" value { string_value: "%s" } }' % pair for pair in parameters.items()]
    return "\n".join(lines).encode() + b"\n"


@contextlib.contextmanager
def serving(options=(), **more):
    """spam, iris, digits, echo_FP32 and so on, and `more`: name=config.pbtxt."""
    layout = {name: os.path.join(EXAMPLES, name) for name in ("iris", "spam", "digits")}
    configs = {"echo_" + dtype: echo("echo_" + dtype, dtype, "-1, -1") for dtype in DTYPES}
    configs.update(more)
    for name, config in configs.items():
        layout[name + "/config.pbtxt"] = config
        layout[name + "/1/.keep"] = b""
    with models(layout) as folder, Server(folder, options=options) as server:
        yield server
