"""Makes examples/streams/models/anomaly: does a machine run as it should?

    script/bootstrap examples && . ~/.cache/penstock/env.sh
    $PENSTOCK_EXAMPLES_PYTHON examples/streams/models/anomaly/train.py           # writes 1/model.onnx
    $PENSTOCK_EXAMPLES_PYTHON examples/streams/models/anomaly/train.py --check   # compares with it

The model is the usual statistical one: mean and covariance of readings of a machine that runs well; a reading is odd when
its squared Mahalanobis distance is above what one in a thousand good readings has (chi squared, three degrees of freedom),
and the verdict is `anomaly` when more than one reading in a hundred is odd. The readings are made here (readings.py): no
data of anybody's.
"""
import argparse
import os
import sys

import numpy
from onnx import TensorProto, helper, numpy_helper

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", ".."))
sys.path.insert(0, os.path.join(HERE, "..", ".."))
from common import keep, onnx_model, run_all  # noqa: E402
from readings import offline, readings  # noqa: E402

ODD_ABOVE, SHARE_ABOVE = 16.266, 0.01       # chi squared's 0.999 quantile for three degrees of freedom


def graph(mean, whitening):
    def constant(name, values):
        return numpy_helper.from_array(numpy.asarray(values, numpy.float32), name)

    nodes = [
        helper.make_node("Sub", ["readings", "mean"], ["apart"]),
        helper.make_node("MatMul", ["apart", "whitening"], ["white"]),
        helper.make_node("ReduceSumSquare", ["white"], ["scores"], axes=[1], keepdims=0),
        helper.make_node("Greater", ["scores", "odd_above"], ["is_odd"]),
        helper.make_node("Cast", ["is_odd"], ["odd"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["odd"], ["odd_share"], axes=[0], keepdims=1),
        helper.make_node("Greater", ["odd_share", "share_above"], ["is_anomaly"]),
        helper.make_node("Cast", ["is_anomaly"], ["verdict"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["scores"], ["worst_score"], axes=[0], keepdims=1),
        helper.make_node("ArgMax", ["scores"], ["worst_row"], axis=0, keepdims=1),
    ]
    info = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            nodes, "anomaly", [info("readings", TensorProto.FLOAT, ["readings", 3])],
            [info("verdict", TensorProto.INT64, [1]), info("odd_share", TensorProto.FLOAT, [1]),
             info("worst_score", TensorProto.FLOAT, [1]), info("worst_row", TensorProto.INT64, [1])],
            [constant("mean", mean), constant("whitening", whitening), constant("odd_above", ODD_ABOVE),
             constant("share_above", [SHARE_ABOVE])]),
        ir_version=8, opset_imports=[helper.make_opsetid("", 15)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="compare with the committed model instead of writing it")
    options = parser.parse_args()
    good = readings(20000, seed=1).astype(numpy.float64)
    mean, covariance = good.mean(axis=0), numpy.cov(good.T)
    whitening = numpy.linalg.cholesky(numpy.linalg.inv(covariance))
    model = onnx_model(graph(mean, whitening), "Does this machine run as it should?")
    cases = [("good", readings(100000, seed=2)), ("bad", readings(100000, seed=3, fault_at=60000))]
    for name, rows in cases:
        found = run_all(model.SerializeToString(), {"readings": rows})
        expected = offline(rows, mean, whitening, ODD_ABOVE, SHARE_ABOVE)
        print("%s: %s" % (name, dict(zip(expected, (value.item() for value in found)))))
        for value, wanted in zip(found, expected.values()):
            if abs(value.item() - wanted) > 1e-4 * max(1, abs(wanted)):
                sys.exit("the model says %s where the formula says %s" % (value.item(), wanted))
    keep(__file__, model, options.check, {"readings": cases[1][1]})


if __name__ == "__main__":
    main()
