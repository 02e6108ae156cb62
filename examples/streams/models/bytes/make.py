"""Makes examples/streams/models/bytes: what is in a file?

    script/bootstrap examples && . ~/.cache/penstock/env.sh
    $PENSTOCK_EXAMPLES_PYTHON examples/streams/models/bytes/make.py           # writes 1/model.onnx
    $PENSTOCK_EXAMPLES_PYTHON examples/streams/models/bytes/make.py --check   # compares with it

Nothing is trained: the model counts. `counts` is its state, so that a file of any length passes through in parts, each of
which is counted on top of those before.
"""
import argparse
import os
import sys

import numpy
from onnx import TensorProto, helper, numpy_helper

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", ".."))
from common import keep, onnx_model, run_all  # noqa: E402


def graph():
    def constant(name, values, dtype):
        return numpy_helper.from_array(numpy.asarray(values, dtype), name)

    printable = numpy.array([chr(b).isprintable() and b < 128 or b in (9, 10, 13) for b in range(256)], numpy.int64)
    nodes = [
        helper.make_node("Cast", ["bytes"], ["index"], to=TensorProto.INT64),
        helper.make_node("Shape", ["index"], ["shape"]),
        helper.make_node("Expand", ["one"], ["ones"]),
        helper.make_node("ScatterElements", ["counts", "index", "ones"], ["counts_next"], axis=0, reduction="add"),
        helper.make_node("ReduceSum", ["counts_next", "axis"], ["total"], keepdims=1),
        helper.make_node("Cast", ["counts_next"], ["counts_float"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["total"], ["total_float"], to=TensorProto.DOUBLE),
        helper.make_node("Max", ["total_float", "one_float"], ["divisor"]),
        helper.make_node("Div", ["counts_float", "divisor"], ["shares"]),
        helper.make_node("Max", ["shares", "tiny"], ["shares_safe"]),
        helper.make_node("Log", ["shares_safe"], ["logs"]),
        helper.make_node("Mul", ["shares", "logs"], ["terms"]),
        helper.make_node("ReduceSum", ["terms", "axis"], ["nats"], keepdims=1),
        helper.make_node("Div", ["nats", "minus_ln2"], ["signed_bits"]),
        helper.make_node("Abs", ["signed_bits"], ["bits"]),           # no -0
        helper.make_node("Cast", ["bits"], ["entropy"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["counts_next", "printable"], ["printed"]),
        helper.make_node("ReduceSum", ["printed", "axis"], ["printed_total"], keepdims=1),
        helper.make_node("Cast", ["printed_total"], ["printed_float"], to=TensorProto.DOUBLE),
        helper.make_node("Div", ["printed_float", "divisor"], ["printed_share"]),
        helper.make_node("Greater", ["printed_share", "text_above"], ["is_text"]),
        helper.make_node("Greater", ["bits", "packed_above"], ["is_packed"]),
        helper.make_node("Where", ["is_packed", "two", "zero"], ["packed_kind"]),
        helper.make_node("Where", ["is_text", "one", "packed_kind"], ["kind"]),
    ]
    nodes[2].input.append("shape")
    info = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            nodes, "bytes", [info("bytes", TensorProto.UINT8, ["bytes"]), info("counts", TensorProto.INT64, [256])],
            [info("kind", TensorProto.INT64, [1]), info("total", TensorProto.INT64, [1]),
             info("entropy", TensorProto.FLOAT, [1]), info("counts_next", TensorProto.INT64, [256])],
            [constant("one", [1], numpy.int64), constant("zero", [0], numpy.int64), constant("two", [2], numpy.int64),
             constant("axis", [0], numpy.int64), constant("one_float", [1], numpy.float64),
             constant("tiny", [1e-300], numpy.float64), constant("minus_ln2", [-numpy.log(2)], numpy.float64),
             constant("printable", printable, numpy.int64), constant("text_above", [0.95], numpy.float64),
             constant("packed_above", [7.9], numpy.float64)]),
        ir_version=8, opset_imports=[helper.make_opsetid("", 16)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="compare with the committed model instead of writing it")
    options = parser.parse_args()
    model = onnx_model(graph(), "What is in this file?")
    random = numpy.random.RandomState(0)
    cases = [(2, random.randint(0, 256, 100000)), (0, numpy.arange(10)), (0, numpy.zeros(0)),
             (1, numpy.frombuffer(open(__file__, "rb").read(), numpy.uint8))]
    for kind, data in cases:
        data = data.astype(numpy.uint8)
        half = len(data) // 2
        state = numpy.zeros(256, numpy.int64)
        for part in (data[:half], data[half:]):
            found = run_all(model.SerializeToString(), {"bytes": part, "counts": state})
            state = found[3]
        counts = numpy.bincount(data, minlength=256)
        shares = counts[counts > 0] / max(1, len(data))
        entropy = float(-(shares * numpy.log2(shares)).sum())
        print("%6d bytes: kind %d, entropy %.4f" % (found[1][0], found[0][0], found[2][0]))
        if found[0][0] != kind or not numpy.array_equal(state, counts) or abs(found[2][0] - entropy) > 1e-5:
            sys.exit("the model says kind %s, entropy %s; it is %d, %s" % (found[0], found[2], kind, entropy))
    keep(__file__, model, options.check,
         {"bytes": cases[0][1].astype(numpy.uint8), "counts": numpy.zeros(256, numpy.int64)})


if __name__ == "__main__":
    main()
