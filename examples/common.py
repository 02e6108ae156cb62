"""What the train.py of each example ends with: make the file tidy, prove it, write it or compare it."""
import os
import sys

import numpy
import onnx
import onnxruntime


def onnx_model(graph, description):
    """The model with what should not vary made fixed."""
    graph.producer_name, graph.producer_version = "penstock examples", ""
    graph.doc_string = description
    graph.graph.doc_string = ""
    sets = sorted(graph.opset_import, key=lambda item: item.domain)     # the converter keeps them in a set
    del graph.opset_import[:]
    graph.opset_import.extend(sets)
    for node in graph.graph.node:
        if node.op_type == "StringNormalizer":      # its default, en_US.UTF-8, is not on every machine
            node.attribute.append(onnx.helper.make_attribute("locale", "C"))
    onnx.checker.check_model(graph)
    return graph


def run(data, inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(
        ["label", "probabilities"], inputs)


def finish(script, graph, is_check, inputs, labels, probabilities, atol):
    """Makes sure that ONNX Runtime says what scikit-learn says; then writes 1/model.onnx, or compares with it."""
    path = os.path.join(os.path.dirname(os.path.abspath(script)), "1", "model.onnx")
    data = graph.SerializeToString(deterministic=True)
    found = run(data, inputs)
    apart = float(numpy.abs(found[1] - probabilities).max())
    print("ONNX Runtime and scikit-learn: %d answers, probabilities at most %.2g apart" % (len(labels), apart))
    if not numpy.array_equal(found[0], labels) or apart > atol:
        sys.exit("the converted model does not say what the trained one says (at most %g apart is allowed)" % atol)
    print("the first: label %d, probability %.4f" % (found[0][0], found[1][0].max()))
    if not is_check:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        print("wrote %s, %d bytes" % (os.path.relpath(path), len(data)))
        return
    with open(path, "rb") as file:
        committed = file.read()
    if committed == data:
        print("the committed model is the same, byte for byte")
        return
    before = run(committed, inputs)
    if not numpy.array_equal(before[0], found[0]) or not numpy.allclose(before[1], found[1], atol=1e-4):
        sys.exit("the committed model answers otherwise")
    print("the committed model differs in bytes and gives the same answers")


def keep(script, graph, is_check, inputs):
    """For models that are not scikit-learn's: writes 1/model.onnx, or compares with it."""
    path = os.path.join(os.path.dirname(os.path.abspath(script)), "1", "model.onnx")
    data = graph.SerializeToString(deterministic=True)
    if not is_check:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        print("wrote %s, %d bytes" % (os.path.relpath(path), len(data)))
        return
    with open(path, "rb") as file:
        committed = file.read()
    if committed == data:
        print("the committed model is the same, byte for byte")
        return
    for before, now in zip(run_all(committed, inputs), run_all(data, inputs)):
        if not numpy.allclose(before, now, atol=1e-4):
            sys.exit("the committed model answers otherwise")
    print("the committed model differs in bytes and gives the same answers")


def run_all(data, inputs):
    """Every output, in the model's order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, inputs)
