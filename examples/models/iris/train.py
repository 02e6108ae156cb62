"""Trains examples/models/iris: which of three irises has these measurements?

    script/bootstrap examples && . ~/.cache/penstock/env.sh
    $PENSTOCK_EXAMPLES_PYTHON examples/models/iris/train.py           # writes 1/model.onnx
    $PENSTOCK_EXAMPLES_PYTHON examples/models/iris/train.py --check   # compares with it

The data is R. A. Fisher's, as it comes with scikit-learn.
"""
import argparse
import os
import sys

import numpy
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from common import finish, onnx_model  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="compare with the committed model instead of writing it")
    options = parser.parse_args()
    data = load_iris()
    measurements = data.data.astype(numpy.float32)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    print("5-fold accuracy: %.3f" % cross_val_score(model, measurements, data.target, cv=5).mean())

    model.fit(measurements, data.target)
    graph = convert_sklearn(
        model, "iris", initial_types=[("input", FloatTensorType([None, 4]))],
        final_types=[("label", Int64TensorType([None])), ("probabilities", FloatTensorType([None, 3]))],
        options={id(model): {"zipmap": False}}, target_opset={"": 15, "ai.onnx.ml": 3})
    finish(__file__, onnx_model(graph, "Which of three irises is it?"), options.check, {"input": measurements},
           model.predict(measurements), model.predict_proba(measurements), atol=1e-5)


if __name__ == "__main__":
    main()
