"""Classifiers as converters write them, without configuration: labels are the classes' names, wherever they are shown."""
import os
import struct

from harness import ROOT, case, check, equal, main
from _wire import ask, post, serving

ZIPMAP = os.path.join(ROOT, "src", "backend", "onnx", "corpus", "onnx_graph_fuzz", "iris_zipmap.onnx")
ROW = [6, 3, 4, 1]


def serving_flowers(card=None):
    """scikit-learn's logistic regression with classes of text, as skl2onnx exports it: a ZipMap at its end."""
    with open(ZIPMAP, "rb") as file:
        layout = {"flowers/1/model.onnx": file.read()}
    if card is not None:
        layout["flowers/model.yaml"] = card
    return serving(layout)


@case
def names_without_configuration():
    with serving_flowers() as server:
        reply = post(server, "/models/flowers:predict", ROW)
        equal((reply.status, reply.json()), (200, {"label": "versicolor", "probability": 0.96}))
        check(reply.body.endswith(b"}\n"), "the line does not end: %r", reply.body)
        reply = post(server, "/models/flowers:predict?top=3", ROW)
        equal([item["label"] for item in reply.json()], ["versicolor", "setosa", "virginica"])
        outputs = ask(server, "GET", "/models/flowers").json()["outputs"]
        equal(outputs[0]["labels"], ["setosa", "versicolor", "virginica"])


@case
def words_of_people_go_by_the_order_of_the_classes():
    with serving_flowers(b"outputs: {output_label: {role: label, labels: [S, VE, VI]}}\n") as server:
        equal(post(server, "/models/flowers:predict", ROW).json(), {"label": "VE", "probability": 0.96})
        equal(post(server, "/models/flowers:predict?top=1", ROW).json(), [{"label": "VE", "probability": 0.96}])


@case
def a_label_for_each_class_or_the_model_does_not_load():
    with serving_flowers(b"outputs: {output_label: {labels: [S, VE]}}\n") as server:
        reply = post(server, "/models/flowers:predict", ROW)
        equal(reply.status, 503)
        text = reply.json()["error"]["message"]
        for word in ("model 'flowers'", "not at ready state", "has 2 labels", "3 classes"):
            check(word in text, "%r is not in: %s", word, text)
        check("unknown" not in text, "%s", text)
        reply = post(server, "/models/flower:predict", ROW)
        equal(reply.status, 404)
        check("unknown model" in reply.json()["error"]["message"], "%r", reply.body)


@case
def a_missing_value_is_no_number():
    with serving_flowers() as server:
        reply = post(server, "/models/flowers:predict", [6, 3, None, 1])
        equal(reply.status, 400)
        equal(reply.json()["error"]["message"], "X: element 2 is null; it takes a number")
        check(reply.body.endswith(b"}\n"), "the line does not end: %r", reply.body)


@case
def numpy_arrays_of_its_own_default_dtype():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 4), }"
    header += b" " * (117 - len(header)) + b"\n"
    file = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + struct.pack("<4d", *ROW)
    with serving_flowers() as server:
        reply = ask(server, "POST", "/models/flowers:predict", file, [("Content-Type", "application/x-npy")])
        equal((reply.status, reply.json()), (200, [{"label": "versicolor", "probability": 0.96}]))


if __name__ == "__main__":
    main()
