"""grpcio with nothing but the address: messages and methods come from the server's reflection."""
import json
import os
import threading
import time

from harness import ROOT, case, cases, check, equal, main, need, raises
from _client import EXAMPLES, IRIS_INPUT, echo, serving
from _grpc import Reflected, as_dict, channel, status

HEALTH = "grpc.health.v1.Health"
KSERVE = "inference.GRPCInferenceService"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
VERSIONS = {"v1": ("v1",), "v1alpha": ("v1alpha",)}


# --- reflection ---------------------------------------------------------------------------------------------

@cases(VERSIONS)
def reflection_lists_all(version):
    with serving() as server, channel(server) as over:
        found = Reflected(over, version).services()
        equal(len(found), len(set(found)), "services listed twice")
        for name in (KSERVE, HEALTH, *REFLECTION, "penstock.models.Iris", "penstock.models.Spam", "penstock.models.Digits"):
            check(name in found, "%s lacks %s", found, name)


@cases(VERSIONS)
def reflection_tells_every_file(version):
    """Everything that is listed can be loaded, and every method of it has its messages."""
    with serving() as server, channel(server) as over:
        found = Reflected(over, version)
        names = found.services()
        found.everything()
        for name in names:
            service = found.service(name)
            check(service.methods, "%s has no methods", name)
            for method in service.methods:
                found.classes(name, method.name)


@cases(VERSIONS)
def reflection_of_files_symbols_and_what_is_not(version):
    with serving() as server, channel(server) as over:
        found = Reflected(over, version)
        file = found.ask({"file_containing_symbol": KSERVE})[0]
        for symbol in ("inference.ModelInferRequest", KSERVE + ".ModelInfer", "inference.ModelInferRequest.InferInputTensor",
                       "grpc.health.v1.HealthCheckResponse.ServingStatus", "penstock.models.Iris"):
            answer = found.ask({"file_containing_symbol": symbol})[0]
            check(answer.WhichOneof("message_response") == "file_descriptor_response", "%s: %s", symbol, answer)
        first = need("google.protobuf.descriptor_pb2").FileDescriptorProto.FromString(
            file.file_descriptor_response.file_descriptor_proto[0])
        by_name = found.ask({"file_by_filename": first.name})[0]
        equal(by_name.file_descriptor_response.file_descriptor_proto[0],
              file.file_descriptor_response.file_descriptor_proto[0], "by its name and by a symbol")
        # several on one stream, answered in order; a wrong one does not end it
        answers = found.ask({"file_by_filename": "none.proto"}, {"file_containing_symbol": "no.such.Thing"},
                            {"all_extension_numbers_of_type": "inference.ModelInferRequest"}, {"list_services": ""}, {})
        equal([answer.error_response.error_code for answer in answers[:2]], [5, 5])
        check("none.proto" in answers[0].error_response.error_message, "%s", answers[0])
        equal(answers[0].original_request.file_by_filename, "none.proto")
        equal(list(answers[2].all_extension_numbers_response.extension_number), [])
        check(answers[3].list_services_response.service, "%s", answers[3])
        check(answers[4].error_response.error_code != 0, "a request that asks nothing: %s", answers[4])


@case
def both_versions_tell_the_same():
    with serving() as server, channel(server) as over:
        one, other = Reflected(over, "v1"), Reflected(over, "v1alpha")
        equal(one.services(), other.services())
        equal({f.name: f for f in one.everything()}, {f.name: f for f in other.everything()})


@case
def kserve_messages_are_those_of_triton():
    """Field by field: what tritonclient was generated from."""
    theirs = need("tritonclient.grpc.service_pb2").DESCRIPTOR
    with serving() as server, channel(server) as over:
        found = Reflected(over)
        ours = found.service(KSERVE)
        equal({m.name: (m.input_type.name, m.output_type.name, m.client_streaming, m.server_streaming) for m in ours.methods},
              {m.name: (m.input_type.name, m.output_type.name, m.client_streaming, m.server_streaming)
               for m in theirs.services_by_name["GRPCInferenceService"].methods})

        def fields(message):
            return {f.number: (f.name, f.type, f.is_repeated, f.message_type.full_name if f.message_type else None)
                    for f in message.fields}

        def compare(mine, their):
            equal(fields(mine), fields(their), their.full_name)
            for nested in their.nested_types:
                check(nested.name in mine.nested_types_by_name, "%s is missing", nested.full_name)
                compare(mine.nested_types_by_name[nested.name], nested)
        for name, their in theirs.message_types_by_name.items():
            compare(found.pool.FindMessageTypeByName("inference." + name), their)


# --- typed services: the twins of POST /models/M:predict -----------------------------------------------------------

def example_of(name):
    """The example of a model's model.yaml, as fields."""
    return {"iris": dict(zip(("sepal_length", "sepal_width", "petal_length", "petal_width"), IRIS_INPUT[2])),
            "spam": {"text": "You won a prize, call now"},
            "digits": {"pixels": [0, 0, 0.4375, 0.9375, 0.8125, 0.0625, 0, 0] * 8}}[name]


def same(answer, rest, text):
    """A typed message and the REST answer: same names, same values, floats as FP32. `top` is a list of its own in both."""
    found = as_dict(answer) if not isinstance(answer, dict) else answer
    if isinstance(rest, list):
        equal(len(found.get("top", [])), len(rest), text)
        for mine, theirs in zip(found["top"], rest):
            same(mine, theirs, text)
        return
    equal(set(found), set(rest), text)
    for name, value in rest.items():
        if isinstance(value, float):
            numpy = need("numpy")
            equal(numpy.float32(found[name]), numpy.float32(value), "%s of %s" % (name, text))
        else:
            equal(found[name], value, "%s of %s" % (name, text))


@cases({name: (name,) for name in sorted(os.listdir(EXAMPLES)) if os.path.isdir(os.path.join(EXAMPLES, name))})
def typed(name):
    with serving() as server, channel(server) as over:
        predict = Reflected(over).unary("penstock.models." + name.capitalize(), "Predict")
        fields = example_of(name)
        for query, options in (("", {}), ("?precision=full", {"full_precision": True}), ("?top=2", {"top": 2}),
                               ("?outputs=label", {"outputs": ["label"]})):
            http, rest = server.post("/models/%s:predict%s" % (name, query), fields)
            equal(http, 200, "%s %s" % (name, rest))
            answer = predict(dict(fields, options=options))
            same(answer, rest, name + query)


@case
def typed_rows():
    """Many rows in one call: as many answers, in order, as REST gives for a list."""
    rows = [dict(zip(("sepal_length", "sepal_width", "petal_length", "petal_width"), row)) for row in IRIS_INPUT]
    with serving() as server, channel(server) as over:
        _, rest = server.post("/models/iris:predict", rows)
        answer = Reflected(over).unary("penstock.models.Iris", "Predict")({"rows": rows})
        equal(len(answer.rows), 3)
        for mine, theirs in zip(answer.rows, rest):
            same(mine, theirs, "iris")


@case
def typed_errors_name_the_field():
    grpc = need("grpc")
    with serving() as server, channel(server) as over:
        predict = Reflected(over).unary("penstock.models.Iris", "Predict")
        wrong = dict(example_of("iris"), sepal_length=510)
        http, rest = server.post("/models/iris:predict", wrong)
        equal(http, 400)
        with raises(grpc.RpcError) as caught:
            predict(wrong)
        equal((status(caught.error), caught.error.details()), (rest["error"]["code"], rest["error"]["message"]))
        details = dict(caught.error.trailing_metadata()).get("grpc-status-details-bin")
        check(details is not None and b"google.rpc.BadRequest" in details and b"sepal_length" in details,
              "no field in the details: %r", details)


@case
def typed_service_of_no_model():
    grpc = need("grpc")
    with serving() as server, channel(server) as over:
        call = over.unary_unary("/penstock.models.Nobody/Predict")
        with raises(grpc.RpcError) as caught:
            call(b"", timeout=30)
        check(status(caught.error) in ("UNIMPLEMENTED", "NOT_FOUND") and "Nobody" in caught.error.details(), "%s",
              caught.error.details())
        call = over.unary_unary("/penstock.models.Iris/Guess")
        with raises(grpc.RpcError) as caught:
            call(b"", timeout=30)
        equal(status(caught.error), "UNIMPLEMENTED")
        check("Predict" in caught.error.details(), "what there is, is not said: %s", caught.error.details())


def contract(found, service):
    """{message: [[number, name, type], ...]} of a typed service."""
    messages = {}

    def add(descriptor):
        messages[descriptor.full_name] = [[f.number, f.name, f.message_type.full_name if f.message_type else f.type]
                                          for f in sorted(descriptor.fields, key=lambda f: f.number)]
        for nested in descriptor.nested_types:
            add(nested)
    for cls in found.classes(service, "Predict"):
        add(cls.DESCRIPTOR)
    return messages


@case
def names_and_numbers_are_stable():
    """The contract of the examples, as first published: who generated stubs from it is served for ever. New fields may come."""
    with open(os.path.join(ROOT, "test", "client", "typed_contract.json")) as file:
        expected = json.load(file)
    with serving() as server, channel(server) as over:
        found = Reflected(over)
        for service, messages in expected.items():
            have = contract(found, service)
            for name, fields in messages.items():
                missing = [field for field in fields if field not in have.get(name, [])]
                equal(missing, [], "fields of %s that are not what they were" % name)


# --- health ------------------------------------------------------------------------------------------------------

@case
def health_check():
    grpc, pb = need("grpc"), need("grpc_health.v1.health_pb2")
    with serving(slow=echo("slow", "FP32")) as server, channel(server) as over:
        stub = need("grpc_health.v1.health_pb2_grpc").HealthStub(over)
        for service in ("", KSERVE, "penstock.models.Iris"):
            equal(stub.Check(pb.HealthCheckRequest(service=service), timeout=30).status, pb.HealthCheckResponse.SERVING, service)
        with raises(grpc.RpcError) as caught:
            stub.Check(pb.HealthCheckRequest(service="none"), timeout=30)
        equal(status(caught.error), "NOT_FOUND")
        check("none" in caught.error.details(), "%s", caught.error.details())
        found = Reflected(over).unary(HEALTH, "List")()
        check(found.statuses[""].status == 1 and found.statuses["penstock.models.Iris"].status == 1, "%s", found)
    with serving(bad=b'backend: "nothing"\n') as server, channel(server) as over:
        stub = need("grpc_health.v1.health_pb2_grpc").HealthStub(over)
        equal(stub.Check(pb.HealthCheckRequest(), timeout=30).status, pb.HealthCheckResponse.NOT_SERVING,
              "one model cannot be loaded, and readiness is strict")


@case
def health_watch():
    """The status at once, and a change when the server begins to stop; the stream of an unknown service stays open."""
    pb = need("grpc_health.v1.health_pb2")
    with serving(slow=echo("slow", "FP32", mode="delay", delay_ms=1500)) as server, channel(server) as over:
        stub = need("grpc_health.v1.health_pb2_grpc").HealthStub(over)
        unknown = stub.Watch(pb.HealthCheckRequest(service="none"), timeout=60)
        equal(next(unknown).status, pb.HealthCheckResponse.SERVICE_UNKNOWN)
        watch = stub.Watch(pb.HealthCheckRequest(), timeout=60)
        equal(next(watch).status, pb.HealthCheckResponse.SERVING)
        check(unknown.is_active(), "the stream of an unknown service was ended")
        unknown.cancel()
        found, began = [], threading.Event()

        def listen():
            began.set()
            try:
                for answer in watch:
                    found.append(answer.status)
            except need("grpc").RpcError as error:
                found.append(error.code().name)
        infer = Reflected(over).unary(KSERVE, "ModelInfer")
        call = threading.Thread(target=lambda: infer({"model_name": "slow", "inputs": [
            {"name": "IN", "datatype": "FP32", "shape": [1], "contents": {"fp32_contents": [1]}}]}))
        call.start()
        thread = threading.Thread(target=listen)
        thread.start()
        began.wait(10)
        time.sleep(0.3)
        server.process.terminate()
        call.join(30)
        thread.join(30)
        check(not thread.is_alive(), "a watch outlived the server")
        check(found and found[0] == pb.HealthCheckResponse.NOT_SERVING, "stopping was not told: %s", found)
        equal(server.process.wait(30), 0)
        server.process.poll = lambda: None          # it ended as it should: the block need not end it again
        server.stop = lambda: 0


# --- metadata, compression, sizes -----------------------------------------------------------------------------------

INFER = {"model_name": "iris", "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4],
                                           "contents": {"fp32_contents": IRIS_INPUT[0]}}]}


@cases({"gzip": ("Gzip",), "deflate": ("Deflate",)})
def compressed_calls(algorithm):
    grpc = need("grpc")
    with serving() as server, channel(server) as over:
        infer = Reflected(over).unary(KSERVE, "ModelInfer")
        answer = infer(INFER, compression=getattr(grpc.Compression, algorithm))
        equal(answer.outputs[0].name in ("label", "probabilities"), True)
        plain = infer(INFER)
        equal(answer.SerializeToString(), plain.SerializeToString())


@case
def wait_for_ready_and_metadata():
    with serving() as server, channel(server) as over:
        infer = Reflected(over).unary(KSERVE, "ModelInfer")
        _, call = infer.with_call(INFER, metadata=[("x-note", "hello"), ("x-data-bin", b"\0\xff")], wait_for_ready=True)
        equal(call.code().name, "OK")


@case
def a_message_too_large_names_the_option():
    grpc = need("grpc")
    with serving(options=["--max-body", "100KiB"]) as server, channel(server) as over:
        found = Reflected(over)
        infer = found.unary(KSERVE, "ModelInfer")
        with raises(grpc.RpcError) as caught:
            infer({"model_name": "echo_FP32", "inputs": [{"name": "IN", "datatype": "FP32", "shape": [1, 50000]}],
                   "raw_input_contents": ["AAAA" * 66667]})
        equal(status(caught.error), "RESOURCE_EXHAUSTED")
        check("--max-" in caught.error.details(), "no option is named: %s", caught.error.details())
        infer(INFER)


@case
def deadlines():
    grpc = need("grpc")
    with serving(slow=echo("slow", "FP32", mode="delay", delay_ms=5000)) as server, channel(server) as over:
        infer = Reflected(over).unary(KSERVE, "ModelInfer")
        request = {"model_name": "slow", "inputs": [{"name": "IN", "datatype": "FP32", "shape": [1],
                                                     "contents": {"fp32_contents": [1]}}]}
        begun = time.monotonic()
        with raises(grpc.RpcError) as caught:
            infer(request, timeout=0.3)
        equal(status(caught.error), "DEADLINE_EXCEEDED")
        check(time.monotonic() - begun < 2, "%.1f s", time.monotonic() - begun)
        infer(INFER, timeout=20)


@case
def unknown_methods_and_services():
    grpc = need("grpc")
    with serving() as server, channel(server) as over:
        for path, word in (("/no.such.Service/Method", "no.such.Service"), ("/%s/Nothing" % KSERVE, "Nothing")):
            with raises(grpc.RpcError) as caught:
                over.unary_unary(path)(b"", timeout=30)
            equal(status(caught.error), "UNIMPLEMENTED")
            check(word in caught.error.details(), "%s", caught.error.details())


if __name__ == "__main__":
    main()
