"""Writes bench/models/iris_gemm.onnx: iris as two nodes, Gemm and Softmax, that every runtime has and runs in no time.

    script/bootstrap examples && . ~/.cache/penstock/env.sh
    $PENSTOCK_EXAMPLES_PYTHON bench/models/make_iris_gemm.py           # writes the model
    $PENSTOCK_EXAMPLES_PYTHON bench/models/make_iris_gemm.py --check   # compares with it

The weights are those that examples/models/iris was trained to, with its scaling folded in: softmax(x @ w + b), where
x is scaled by (x - offset) * scale there.
"""
import argparse
import os
import sys

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HERE = os.path.dirname(os.path.abspath(__file__))
TRAINED = os.path.join(HERE, "..", "..", "examples", "models", "iris", "1", "model.onnx")
WRITTEN = os.path.join(HERE, "iris_gemm.onnx")


def attributes(model, op_type):
    node, = (node for node in model.graph.node if node.op_type == op_type)
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def fold(trained):
    """Weights [4,3] and biases [3] of the trained model as one product, reckoned in FP64."""
    scaler, linear = attributes(trained, "Scaler"), attributes(trained, "LinearClassifier")
    scale, offset = numpy.array(scaler["scale"], "d"), numpy.array(scaler["offset"], "d")
    coefficients = numpy.array(linear["coefficients"], "d").reshape(3, 4).T
    weights = coefficients * scale[:, None]
    return weights.astype("f"), (numpy.array(linear["intercepts"], "d") - offset @ weights).astype("f")


def make(trained):
    weights, biases = fold(trained)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["input", "w", "b"], ["scores"]),
         helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1)],
        "iris_gemm", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(biases, "b")])
    model = helper.make_model(graph, producer_name="penstock bench", ir_version=8,
                              opset_imports=[helper.make_opsetid("", 13)])
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def run(data, inputs):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"input": inputs})[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="compare with the committed model instead of writing it")
    options = parser.parse_args()
    trained = onnx.load(TRAINED)
    data = make(trained)
    flowers = numpy.random.default_rng(1).uniform([4, 2, 1, 0], [8, 4.5, 7, 2.5], (1000, 4)).astype("f")
    apart = float(numpy.abs(run(data, flowers) - run(trained.SerializeToString(), flowers)).max())
    print("apart from examples/models/iris by at most %.2g on 1000 flowers; %d bytes" % (apart, len(data)))
    if apart > 1e-5:
        sys.exit("it does not say what the trained model says")
    if options.check:
        with open(WRITTEN, "rb") as file:
            if file.read() != data:
                sys.exit("%s is another: run this without --check" % os.path.relpath(WRITTEN))
        return
    with open(WRITTEN, "wb") as file:
        file.write(data)


if __name__ == "__main__":
    main()
