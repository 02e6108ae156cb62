"""Trains examples/models/digits: which digit is drawn on 8 x 8 pixels?

    script/bootstrap examples && . ~/.cache/penstock/env.sh
    $PENSTOCK_EXAMPLES_PYTHON examples/models/digits/train.py           # writes 1/model.onnx
    $PENSTOCK_EXAMPLES_PYTHON examples/models/digits/train.py --check   # compares with it

The data is the test part of the UCI set of E. Alpaydin and C. Kaynak, as it comes with scikit-learn. A layer of 64 units
between pixels and digits; pixels are 0 (paper) to 1 (ink), row by row.
"""
import argparse
import os
import sys

import numpy
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from common import finish, onnx_model  # noqa: E402


def network():
    return MLPClassifier(hidden_layer_sizes=(64,), max_iter=400, random_state=0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="compare with the committed model instead of writing it")
    options = parser.parse_args()
    data = load_digits()
    pixels = (data.data / 16).astype(numpy.float32)
    with threadpool_limits(1):          # sums in the same order on every machine
        here, there, here_digits, there_digits = train_test_split(pixels, data.target, test_size=0.2, random_state=0)
        print("held out %d digits: accuracy %.3f" % (len(there), network().fit(here, here_digits).score(there, there_digits)))
        model = network().fit(pixels, data.target)
    graph = convert_sklearn(
        model, "digits", initial_types=[("pixels", FloatTensorType([None, 64]))],
        final_types=[("label", Int64TensorType([None])), ("probabilities", FloatTensorType([None, 10]))],
        options={id(model): {"zipmap": False}}, target_opset={"": 15, "ai.onnx.ml": 3})
    finish(__file__, onnx_model(graph, "Which digit is drawn here?"), options.check, {"pixels": pixels},
           model.predict(pixels), model.predict_proba(pixels), atol=1e-5)


if __name__ == "__main__":
    main()
