"""gRPC: CPU time of the server a call, beside nghttpd and grpc-go that answer a fixed message, and grpcio with ONNX Runtime."""
import contextlib
import struct
import sys

import _lib
import _peers
from _lib import IRIS_GEMM, IRIS_INPUT, GrpcLoad, Penstock, Row, alternate, floats, identity_config, median, median_ratio, packed

TITLE = "gRPC: iris_gemm, identities, the typed call, and 10,000 calls a second on one connection"
INFER = "/inference.GRPCInferenceService/ModelInfer"
IMAGE = 3 * 224 * 224       # FP32: 602,112 bytes
LARGE = 4 << 20             # FP32: 16 MiB


def messages():
    from tritonclient.grpc import service_pb2
    return service_pb2


def infer_request(model, tensor, shape, data):
    request = messages().ModelInferRequest(model_name=model, raw_input_contents=[data])
    request.inputs.add(name=tensor, datatype="FP32", shape=shape)
    return request.SerializeToString()


def iris_validate(body):
    answer = messages().ModelInferResponse.FromString(body)
    found = {tensor.name: raw for tensor, raw in zip(answer.outputs, answer.raw_output_contents)}
    numbers = struct.unpack("<3f", found["probabilities"])
    if abs(numbers[0] - 0.9847) > 0.0005 or abs(sum(numbers) - 1) > 1e-4:
        _lib.die("not the probabilities of iris: %s" % (numbers,))


def identity_validate(data):
    def validate(body):
        answer = messages().ModelInferResponse.FromString(body)
        if list(answer.raw_output_contents) != [data]:
            _lib.die("the identity changed its input")
    return validate


def typed_request(server):
    """PredictRequest of iris by the names that the server's reflection tells; (bytes, what looks at an answer)."""
    asked, answered = _peers.reflected_messages(server.port, "penstock.models.IrisGemm", "Predict")
    request = asked(sepal_length=5.1, sepal_width=3.5, petal_length=1.4, petal_width=0.2)

    def validate(body):
        answer = answered.FromString(body)
        if answer.label != "setosa" or not 0.95 < answer.probability <= 1:
            _lib.die("not the typed answer of iris: %s" % answer)
    return request.SerializeToString(), validate


def closed(title, loads, options, seconds, **how):
    _lib.say("-- " + title)
    return alternate(loads, _lib.rounds_of(options), seconds=_lib.seconds_of(options, seconds, 1), **how)


def beside_of(cpu, *names):
    return "; ".join("%s %s" % (name, _lib.figure(cpu[name], "us")) for name in names if name in cpu)


def small(options, stack, penstock, rows):
    request = infer_request("iris_gemm", "input", [1, 4], packed(IRIS_INPUT))
    ours = GrpcLoad(penstock, INFER, request, iris_validate)
    nghttpd = stack.enter_context(_peers.nghttpd({INFER: ours.expect}))
    loads = {"penstock": ours, "nghttpd": GrpcLoad(nghttpd, INFER, request, expect=ours.expect)}
    go = stack.enter_context(_peers.grpc_go(ours.expect[5:]))
    if go is not None:
        loads["grpc-go"] = GrpcLoad(go, INFER, request, iris_validate)
    peer = stack.enter_context(_peers.grpcio(IRIS_GEMM))
    loads["grpcio"] = GrpcLoad(peer, INFER, request, iris_validate)
    for what, limit, how in (("16 connections", 10, {"connections": 16}),
                             ("16 streams on 1 connection", 6, {"connections": 1, "streams": 16})):
        found = closed("iris_gemm, " + what, loads, options, 3, **how)
        cpu = {name: median(runs, "cpu_us") for name, runs in found.items()}
        note = "generator %.0f%% of its core" % (100 * median(found["penstock"], "cpu_share"))
        rows.append(Row("`iris_gemm`, gRPC, %s: server CPU a call" % what, cpu["penstock"], "us", limit,
                        beside=beside_of(cpu, "nghttpd", "grpc-go", "grpcio"), note=note))
        if how["connections"] == 16:
            rows.append(Row("... of nghttpd that answers a fixed file", median_ratio(found["penstock"], found["nghttpd"], "cpu_us"),
                            "x", 1.8, beside=beside_of(cpu, "nghttpd")))
    return loads


def typed(options, penstock, rows):
    infer = GrpcLoad(penstock, INFER, infer_request("iris_gemm", "input", [1, 4], packed(IRIS_INPUT)), iris_validate)
    request, validate = typed_request(penstock)
    loads = {"typed Predict": GrpcLoad(penstock, "/penstock.models.IrisGemm/Predict", request, validate), "ModelInfer": infer}
    found = closed("typed Predict beside ModelInfer, 16 connections", loads, options, 3, connections=16)
    rows.append(Row("`iris_gemm`, typed `Predict`, of ModelInfer",
                    median_ratio(found["typed Predict"], found["ModelInfer"], "cpu_us"), "x", 1.3,
                    beside="%.2f us" % median(found["typed Predict"], "cpu_us")))


def identities(options, stack, rows):
    layout = {"image/config.pbtxt": identity_config("image", [1, 3, 224, 224]), "image/1/.keep": b"",
              "large/config.pbtxt": identity_config("large", [LARGE]), "large/1/.keep": b""}
    folder = stack.enter_context(_lib.models(layout))
    penstock = stack.enter_context(Penstock(folder))
    for name, shape, count, limit, text in (("image", [1, 3, 224, 224], IMAGE, 250, "602,112 bytes"),
                                            ("large", [LARGE], LARGE, 12000, "16 MiB")):
        data = packed(floats(min(count, 1 << 16))) * (count // min(count, 1 << 16) + 1)
        data = data[:count * 4]
        request = infer_request(name, "IN", shape, data)
        ours = GrpcLoad(penstock, INFER, request, identity_validate(data))
        nghttpd = stack.enter_context(_peers.nghttpd({INFER: ours.expect}))
        loads = {"penstock": ours, "nghttpd": GrpcLoad(nghttpd, INFER, request, expect=ours.expect)}
        go = stack.enter_context(_peers.grpc_go(ours.expect[5:]))
        if go is not None:
            loads["grpc-go"] = GrpcLoad(go, INFER, request, identity_validate(data))
        grpcio = stack.enter_context(_peers.grpcio(IRIS_GEMM))
        loads["grpcio"] = GrpcLoad(grpcio, INFER, request, identity_validate(data))
        found = closed("identity of " + text, loads, options, 3, connections=4 if name == "image" else 2)
        cpu = {key: median(runs, "cpu_us") for key, runs in found.items()}
        rows.append(Row("identity of %s, gRPC raw: server CPU a call" % text, cpu["penstock"], "us", limit,
                        beside=beside_of(cpu, "nghttpd", "grpc-go", "grpcio"),
                        note="generator %.0f%% of its core" % (100 * median(found["penstock"], "cpu_share"))))


def steady(options, loads, rows):
    rate = 10000
    found = closed("open loop, %d calls a second on 1 connection" % rate, {name: loads[name] for name in ("penstock", "nghttpd")},
                   options, 10, connections=1, streams=90, rate=rate)
    for runs in found.values():
        for run in runs:
            run["p999_us"] = run["latency"][0]["p999_us"]
    ours, theirs = median(found["penstock"], "p999_us"), median(found["nghttpd"], "p999_us")
    lag = max(run["send_lag"]["p99_us"] for runs in found.values() for run in runs)
    rows.append(Row("`iris_gemm`, gRPC, 10,000 calls a second on 1 connection: p99.9, of nghttpd's",
                    median_ratio(found["penstock"], found["nghttpd"], "p999_us"), "x", 1.5,
                    beside="%.0f us; nghttpd %.0f us" % (ours, theirs), note="calls were sent at most %.0f us late (p99)" % lag))


def run(options):
    rows = []
    with contextlib.ExitStack() as stack:
        penstock = stack.enter_context(Penstock(IRIS_GEMM))
        loads = small(options, stack, penstock, rows)
        typed(options, penstock, rows)
        steady(options, loads, rows)
    with contextlib.ExitStack() as stack:
        identities(options, stack, rows)
    return rows


if __name__ == "__main__":
    _lib.main(sys.modules[__name__])
