"""Trains examples/models/spam: is a text message spam?

    script/bootstrap examples && . ~/.cache/penstock/env.sh
    $PENSTOCK_EXAMPLES_PYTHON examples/models/spam/train.py SMSSpamCollection           # writes 1/model.onnx
    $PENSTOCK_EXAMPLES_PYTHON examples/models/spam/train.py SMSSpamCollection --check   # compares with it

The data is the SMS Spam Collection v.1 of T. A. Almeida and J. M. Gomez Hidalgo (CC BY 4.0), the file `SMSSpamCollection`
of https://archive.ics.uci.edu/dataset/228/sms+spam+collection: one message a line, `ham` or `spam`, a tab, the text. It is
read plain or gzipped.

Words and pairs of words, weighted by tf-idf, go into a logistic regression. The served model is trained on all messages;
the figures printed are of the same pipeline on a fifth that it did not see, copies of training messages left out. The
pinned packages (script/requirements/examples.txt) give the same file byte for byte on the same kind of CPU.
"""
import argparse
import gzip
import hashlib
import os
import sys

import numpy
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from common import finish, onnx_model  # noqa: E402

DATA_SHA256 = "edc1f2ca36319ca36c6f80fede2f6ae5f81335289352485f3924df077ec20266"


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if hashlib.sha256(data).hexdigest() != DATA_SHA256:
        print("note: this is not the file that the committed model was trained on")
    rows = [line.split("\t", 1) for line in data.decode("utf-8").split("\n") if line]
    return [text for _, text in rows], numpy.array([int(label == "spam") for label, _ in rows])


def pipeline():
    return Pipeline([
        # the pattern is one that ONNX Runtime's Tokenizer reads the same way
        ("tfidf", TfidfVectorizer(lowercase=True, token_pattern="[a-zA-Z0-9]+", ngram_range=(1, 2), min_df=2,
                                  max_features=6000)),
        ("regression", LogisticRegression(C=10, class_weight="balanced", max_iter=2000)),
    ])


def held_out(texts, labels):
    """Accuracy, precision and recall on a fifth of the messages."""
    order = numpy.random.RandomState(0).permutation(len(texts))
    cut = len(order) * 4 // 5
    known = {texts[i].lower() for i in order[:cut]}
    rest = [i for i in order[cut:] if texts[i].lower() not in known]
    model = pipeline().fit([texts[i] for i in order[:cut]], labels[order[:cut]])
    said, truth = model.predict([texts[i] for i in rest]), labels[rest]
    return len(rest), (said == truth).mean(), truth[said == 1].mean(), said[truth == 1].mean()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", help="SMSSpamCollection, plain or gzipped")
    parser.add_argument("--check", action="store_true", help="compare with the committed model instead of writing it")
    options = parser.parse_args()
    texts, labels = read(options.data)
    print("held out %d messages: accuracy %.4f, spam precision %.3f, recall %.3f" % held_out(texts, labels))

    trained = pipeline().fit(texts, labels)
    graph = convert_sklearn(
        trained, "spam", initial_types=[("text", StringTensorType([None, 1]))],
        final_types=[("label", Int64TensorType([None])), ("probabilities", FloatTensorType([None, 2]))],
        options={id(trained): {"zipmap": False}}, target_opset={"": 15, "ai.onnx.ml": 3})
    sample = ["You won a prize, call now", "Are we still meeting for lunch?", *texts]
    finish(__file__, onnx_model(graph, "Is a text message spam?"), options.check, {"text": numpy.array(sample)[:, None]},
           trained.predict(sample), trained.predict_proba(sample), atol=1e-3)


if __name__ == "__main__":
    main()
