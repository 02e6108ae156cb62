"""tritonclient.grpc, the stock client of Triton, unchanged: every call it has, and every style of infer."""
import functools
import threading
import time

from harness import case, cases, check, equal, main, near, need, raises
from _client import DTYPES, IRIS_INPUT, IRIS_LABELS, echo, serving
from _grpc import iris_input, output, tensor


def client(server, **others):
    return need("tritonclient.grpc").InferenceServerClient(server.address, **others)


def check_refused(call, code, *words):
    with raises(need("tritonclient.utils").InferenceServerException) as caught:
        call()
    equal(caught.error.status(), "StatusCode." + code, str(caught.error))
    for word in words:
        check(word in caught.error.message(), "%r lacks %r", caught.error.message(), word)
    check(len(caught.error.message()) > 15, "refused without a sentence: %s", caught.error)


# --- what is there ------------------------------------------------------------------------------------------

@case
def health():
    with serving() as server, client(server) as c:
        check(c.is_server_live() and c.is_server_ready() and c.is_model_ready("iris"), "not ready")
        check(c.is_model_ready("iris", "1"), "version 1 is not ready")
        check(not c.is_model_ready("iris", "2") and not c.is_model_ready("none"), "ready without being there")


@case
def server_metadata():
    with serving() as server, client(server) as c:
        found = c.get_server_metadata(as_json=True)
        _, rest = server.get("/v2")
        equal((found["name"], found["version"], found["extensions"]), (rest["name"], rest["version"], rest["extensions"]))


@case
def model_metadata_is_that_of_rest():
    with serving() as server, client(server) as c:
        for name in ("iris", "spam", "digits", "echo_BYTES"):
            found = c.get_model_metadata(name)
            _, rest = server.get("/v2/models/" + name)
            equal((found.name, list(found.versions), found.platform), (rest["name"], rest["versions"], rest["platform"]))
            for kind in ("inputs", "outputs"):
                equal([{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in getattr(found, kind)],
                      rest[kind])
        equal(c.get_model_metadata("iris", "1"), c.get_model_metadata("iris"))
        check_refused(lambda: c.get_model_metadata("none"), "NOT_FOUND", "none")
        check_refused(lambda: c.get_model_metadata("iris", "9"), "NOT_FOUND", "9")


@case
def model_config():
    with serving() as server, client(server) as c:
        found = c.get_model_config("iris").config
        equal((found.name, found.backend), ("iris", "onnxruntime"))
        equal([(t.name, t.data_type) for t in found.input], [("input", 11)])      # TYPE_FP32
        equal(found.version_policy.latest.num_versions, 1)
        check(found.instance_group, "no instance_group: %s", found)
        equal(list(c.get_model_config("echo_FP32").config.input[0].dims), [-1, -1])
        check_refused(lambda: c.get_model_config("none"), "NOT_FOUND", "none")


@case
def repository_index():
    with serving() as server, client(server) as c:
        rows = {row.name: row for row in c.get_model_repository_index().models}
        equal((rows["iris"].state, rows["iris"].version), ("READY", "1"))
        check(set(rows) >= {"iris", "spam", "digits"} | {"echo_" + dtype for dtype in DTYPES}, "%s", sorted(rows))
    with serving(options=["--no-strict-readiness"], bad=b'backend: "nothing"\n') as server, client(server) as c:
        rows = {row.name: row for row in c.get_model_repository_index().models}
        check(rows["bad"].state == "UNAVAILABLE" and "nothing" in rows["bad"].reason, "%s", rows["bad"])


@case
def statistics():
    with serving() as server, client(server) as c:
        for _ in range(3):
            c.infer("iris", [iris_input()])
        found = c.get_inference_statistics("iris").model_stats
        equal(len(found), 1)
        equal((found[0].name, found[0].version, found[0].inference_stats.success.count), ("iris", "1", 3))
        check(found[0].inference_stats.success.ns > 0 and found[0].execution_count == 3, "%s", found)
        check(len(c.get_inference_statistics().model_stats) >= 3, "statistics of all")
        _, rest = server.get("/v2/models/iris/stats")
        equal(rest["model_stats"][0]["inference_stats"]["success"]["count"], 3, "the same counter over REST")


# --- what is off until asked for, or not built: refused in words -------------------------------------------------

@cases({"load": (lambda c: c.load_model("iris"),), "unload": (lambda c: c.unload_model("iris"),),
        "shm_register": (lambda c: c.register_system_shared_memory("r", "/key", 64), "shared memory"),
        "shm_status": (lambda c: c.get_system_shared_memory_status(), "shared memory"),
        "shm_unregister": (lambda c: c.unregister_system_shared_memory("r"), "shared memory"),
        "cuda_register": (lambda c: c.register_cuda_shared_memory("r", b"\0" * 64, 0, 64), "shared memory"),
        "cuda_status": (lambda c: c.get_cuda_shared_memory_status(), "shared memory"),
        "cuda_unregister": (lambda c: c.unregister_cuda_shared_memory("r"), "shared memory"),
        "trace": (lambda c: c.get_trace_settings(),), "trace_set": (lambda c: c.update_trace_settings("iris", {}),)})
def unimplemented(call, *words):
    with serving() as server, client(server) as c:
        check_refused(lambda: call(c), "UNIMPLEMENTED", *words)
        check(c.is_server_live(), "not live")


@case
def log_settings_are_changed_where_admin_was_asked_for():
    with serving() as server, client(server) as c:
        check("log_verbose_level" in str(c.get_log_settings()), "they are read by everybody")
        check_refused(lambda: c.update_log_settings({"log_verbose_level": 1}), "PERMISSION_DENIED", "--admin")
    with serving(["--admin"]) as server, client(server) as c:
        c.update_log_settings({"log_verbose_level": 1})
        equal(c.get_log_settings().settings["log_verbose_level"].uint32_param, 1)


@cases({"input": (True,), "output": (False,)})
def shared_memory_tensor_refused(is_input):
    with serving() as server, client(server) as c:
        asked, outputs = iris_input(1), []
        if is_input:
            asked.set_shared_memory("region", 16)
        else:
            outputs = [output("label")]
            outputs[0].set_shared_memory("region", 16)
        check_refused(lambda: c.infer("iris", [asked], outputs=outputs), "UNIMPLEMENTED", "shared memory")


# --- infer, in every style ------------------------------------------------------------------------------------

def good(result, rows=3):
    equal(result.as_numpy("label").tolist(), IRIS_LABELS[:rows])
    probabilities = result.as_numpy("probabilities")
    equal(probabilities.shape, (rows, 3))
    near(probabilities.sum(axis=1).tolist(), [1] * rows)


@case
def infer():
    with serving() as server, client(server) as c:
        result = c.infer("iris", [iris_input()], request_id="r7")
        good(result)
        found = result.get_response()
        equal((found.id, found.model_name, found.model_version), ("r7", "iris", "1"))
        equal(len(found.raw_output_contents), len(found.outputs))
        check(not any(t.HasField("contents") for t in found.outputs), "contents beside raw_output_contents")
        equal(c.infer("iris", [iris_input()]).get_response().id, "")


@case
def infer_chosen_outputs():
    with serving() as server, client(server) as c:
        result = c.infer("iris", [iris_input()], outputs=[output("label")])
        equal([t.name for t in result.get_response().outputs], ["label"])
        equal(result.as_numpy("probabilities"), None)
        good(c.infer("iris", [iris_input()], outputs=[output("probabilities"), output("label")]))


@case
def infer_of_a_version():
    with serving() as server, client(server) as c:
        good(c.infer("iris", [iris_input()], model_version="1"))
        check_refused(lambda: c.infer("iris", [iris_input()], model_version="7"), "NOT_FOUND", "7")
        check_refused(lambda: c.infer("iris", [iris_input()], model_version="one"), "INVALID_ARGUMENT", "one")


@case
def infer_strings():
    numpy = need("numpy")
    with serving() as server, client(server) as c:
        texts = numpy.array([["You won a prize, call now"], ["See you at lunch"], ["Ünïcödé 日本"]], dtype=object)
        equal(c.infer("spam", [tensor("text", texts, "BYTES")]).as_numpy("label").tolist(), [1, 0, 0])


EXTREMES = {"BOOL": [[True, False]], "UINT8": [[0, 255]], "UINT16": [[0, 65535]], "UINT32": [[0, 2**32 - 1]],
            "UINT64": [[0, 2**64 - 1]], "INT8": [[-128, 127]], "INT16": [[-2**15, 2**15 - 1]], "INT32": [[-2**31, 2**31 - 1]],
            "INT64": [[-2**63, 2**63 - 1]], "FP16": [[-65504.0, 0.333251953125]], "FP32": [[-3.4028234663852886e38, 0.1]],
            "FP64": [[-1.7976931348623157e308, 0.1]], "BF16": [[1.0, -2.5]]}
CONTENTS = {"BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
            "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
            "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}


@cases({dtype: (dtype,) for dtype in DTYPES})
def every_type_raw(dtype):
    numpy, utils = need("numpy"), need("tritonclient.utils")
    with serving() as server, client(server) as c:
        if dtype == "BYTES":
            data = numpy.array([["naïve \"quoted\"\n\0".encode(), b"", b"\xff\xfe not UTF-8"]], dtype=object)
        else:
            data = numpy.array(EXTREMES[dtype], dtype=utils.triton_to_np_dtype(dtype))
        result = c.infer("echo_" + dtype, [tensor("IN", data, dtype)])
        equal(result.as_numpy("OUT").tolist(), data.tolist(), dtype)
        equal(result.get_output("OUT").datatype, dtype)


@cases({dtype: (dtype,) for dtype in DTYPES})
def every_type_in_contents(dtype):
    """What tritonclient never sends and other stubs do: values in the typed field of their dtype."""
    pb, utils, grpc = need("tritonclient.grpc.service_pb2"), need("tritonclient.utils"), need("grpc")
    stubs = need("tritonclient.grpc.service_pb2_grpc")
    request = pb.ModelInferRequest(model_name="echo_" + dtype)
    asked = request.inputs.add(name="IN", datatype=dtype, shape=[1, 2])
    with serving() as server, grpc.insecure_channel(server.address) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        if dtype not in CONTENTS:
            asked.contents.fp32_contents.extend([1, 2])
            with raises(grpc.RpcError) as caught:
                stub.ModelInfer(request, timeout=30)
            equal(caught.error.code().name, "INVALID_ARGUMENT")
            check(dtype in caught.error.details() and "raw" in caught.error.details(), "%r", caught.error.details())
            return
        data = [b"a", b"\0b"] if dtype == "BYTES" else EXTREMES[dtype][0]
        getattr(asked.contents, CONTENTS[dtype]).extend(data)
        found = stub.ModelInfer(request, timeout=30)
        if dtype == "BYTES":
            equal(found.raw_output_contents[0], b"\1\0\0\0a\2\0\0\0\0b")
        else:
            numpy = need("numpy")
            equal(found.raw_output_contents[0], numpy.array(data, dtype=utils.triton_to_np_dtype(dtype)).tobytes())
            # and the wrong field is refused, by both names
            asked.contents.Clear()
            wrong = "fp64_contents" if dtype != "FP64" else "fp32_contents"
            getattr(asked.contents, wrong).extend([1, 2])
            with raises(grpc.RpcError) as caught:
                stub.ModelInfer(request, timeout=30)
            equal(caught.error.code().name, "INVALID_ARGUMENT")
            for word in (CONTENTS[dtype], wrong):
                check(word in caught.error.details(), "%r lacks %r", caught.error.details(), word)


@case
def narrow_values_are_refused():
    """300 as UINT8 is a mistake, not 44."""
    pb, grpc = need("tritonclient.grpc.service_pb2"), need("grpc")
    stubs = need("tritonclient.grpc.service_pb2_grpc")
    with serving() as server, grpc.insecure_channel(server.address) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        for dtype, field, value in (("UINT8", "uint_contents", 300), ("INT8", "int_contents", -129),
                                    ("UINT16", "uint_contents", 65536), ("INT16", "int_contents", 32768)):
            request = pb.ModelInferRequest(model_name="echo_" + dtype)
            getattr(request.inputs.add(name="IN", datatype=dtype, shape=[1, 1]).contents, field).append(value)
            with raises(grpc.RpcError) as caught:
                stub.ModelInfer(request, timeout=30)
            equal(caught.error.code().name, "INVALID_ARGUMENT")
            check(str(value) in caught.error.details(), "%r", caught.error.details())


@case
def raw_and_contents_do_not_mix():
    pb, grpc = need("tritonclient.grpc.service_pb2"), need("grpc")
    stubs = need("tritonclient.grpc.service_pb2_grpc")

    def request(*kinds):
        found = pb.ModelInferRequest(model_name="iris")
        asked = found.inputs.add(name="input", datatype="FP32", shape=[1, 4])
        if "contents" in kinds:
            asked.contents.fp32_contents.extend(IRIS_INPUT[0])
        if "raw" in kinds:
            found.raw_input_contents.append(b"\0" * 16)
        if "two" in kinds:
            found.raw_input_contents.append(b"\0" * 16)
        return found
    with serving() as server, grpc.insecure_channel(server.address) as channel:
        infer_of = stubs.GRPCInferenceServiceStub(channel).ModelInfer
        infer_of(request("contents"), timeout=30)
        infer_of(request("raw"), timeout=30)
        for kinds in (("contents", "raw"), (), ("raw", "two")):
            with raises(grpc.RpcError) as caught:
                infer_of(request(*kinds), timeout=30)
            equal(caught.error.code().name, "INVALID_ARGUMENT", "%s: %s" % (kinds, caught.error.details()))
            check("input" in caught.error.details(), "%s: %r", kinds, caught.error.details())


@case
def empty_tensor():
    numpy = need("numpy")
    with serving() as server, client(server) as c:
        equal(c.infer("echo_FP32", [tensor("IN", numpy.zeros((0, 3), dtype=numpy.float32), "FP32")]).as_numpy("OUT").shape,
              (0, 3))


@case
def large_tensor():
    numpy = need("numpy")
    data = numpy.random.RandomState(3).standard_normal((4, 1 << 20)).astype(numpy.float32)      # 16 MiB
    with serving() as server, client(server) as c:
        check((c.infer("echo_FP32", [tensor("IN", data, "FP32")]).as_numpy("OUT") == data).all(), "16 MiB came back changed")


@case
def classification():
    """"value:index:label", best first."""
    with serving() as server, client(server) as c:
        found = c.infer("iris", [iris_input()], outputs=[output("probabilities", class_count=2)]).as_numpy("probabilities")
        equal(found.shape, (3, 2))
        best = [row[0].decode() for row in found]
        equal([text.split(":")[1:] for text in best], [["0", "setosa"], ["1", "versicolor"], ["2", "virginica"]])
        check(all(0.4 < float(text.split(":")[0]) <= 1 for text in best), "%s", best)
        result = c.infer("iris", [iris_input()], outputs=[output("probabilities", class_count=99)])
        equal(result.as_numpy("probabilities").shape, (3, 3), "more classes than there are")


@cases({"gzip": ("gzip",), "deflate": ("deflate",)})
def compression(algorithm):
    numpy = need("numpy")
    data = numpy.tile(numpy.arange(100, dtype=numpy.float32), (50, 1))
    with serving() as server, client(server) as c:
        result = c.infer("echo_FP32", [tensor("IN", data, "FP32")], compression_algorithm=algorithm)
        equal(result.as_numpy("OUT").tolist(), data.tolist())
        good(c.infer("iris", [iris_input()], compression_algorithm=algorithm))


@case
def many_at_once():
    with serving() as server, client(server) as c:
        lock, left, found = threading.Lock(), threading.Event(), {}

        def answer(i, result, error):
            with lock:
                found[i] = result or error
                if len(found) == 400:
                    left.set()
        for i in range(400):
            c.async_infer("iris", [iris_input(rows=1 + i % 3)], functools.partial(answer, i))
        check(left.wait(60), "%d of 400 answers", len(found))
        for i, result in found.items():
            check(not isinstance(result, Exception), "%s", result)
            good(result, 1 + i % 3)


@case
def cancelled():
    with serving(slow=echo("slow", "FP32", mode="delay", delay_ms=60000)) as server, client(server) as c:
        numpy = need("numpy")
        told, found = threading.Event(), []

        def answer(result, error):
            found.append(error)
            told.set()
        call = c.async_infer("slow", [tensor("IN", numpy.zeros(1, dtype=numpy.float32), "FP32")], answer)
        time.sleep(0.2)
        begun = time.monotonic()
        call.cancel()
        check(told.wait(20), "a cancelled call did not end")
        check("CANCELLED" in str(found[0].status()) and time.monotonic() - begun < 5, "%s", found[0])
        good(c.infer("iris", [iris_input()]))


@case
def timeouts():
    """The caller's deadline, and the request parameter `timeout`."""
    numpy = need("numpy")
    with serving(slow=echo("slow", "FP32", mode="delay", delay_ms=3000)) as server, client(server) as c:
        asked = [tensor("IN", numpy.zeros(1, dtype=numpy.float32), "FP32")]
        begun = time.monotonic()
        check_refused(lambda: c.infer("slow", asked, client_timeout=0.2), "DEADLINE_EXCEEDED")
        check(time.monotonic() - begun < 2, "%.1f s", time.monotonic() - begun)
        good(c.infer("iris", [iris_input()], client_timeout=20, timeout=5000000))


@case
def parameters():
    with serving() as server, client(server) as c:
        good(c.infer("iris", [iris_input()], priority=1, parameters={"note": "x", "n": 3, "yes": True, "half": 0.5}))
        good(c.infer("iris", [iris_input()], headers={"x-anything": "yes", "more-bin": b"\0\1\xff"}))
        utils = need("tritonclient.utils")
        with raises(utils.InferenceServerException):
            c.infer("iris", [iris_input()], parameters={"triton_x": 1})


@case
def sequences_are_refused_or_served_alike():
    """As over REST: whatever the server does with a sequence there, it does here."""
    with serving() as server, client(server) as c:
        status, reply = server.post("/v2/models/iris/infer", {
            "parameters": {"sequence_id": 5, "sequence_start": True, "sequence_end": True},
            "inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": IRIS_INPUT[0]}]})
        try:
            good(c.infer("iris", [iris_input(1)], sequence_id=5, sequence_start=True, sequence_end=True), 1)
            found = 200
        except need("tritonclient.utils").InferenceServerException as error:
            found = {"StatusCode.UNIMPLEMENTED": 501, "StatusCode.INVALID_ARGUMENT": 400}.get(error.status(), error.status())
        equal(found, status, str(reply))


@case
def errors_are_named():
    numpy = need("numpy")
    zeros = numpy.zeros((1, 4), dtype=numpy.float32)
    with serving() as server, client(server) as c:
        for call, code, words in (
                (lambda: c.infer("none", [iris_input()]), "NOT_FOUND", ["none"]),
                (lambda: c.infer("iris", [tensor("inpt", zeros, "FP32")]), "INVALID_ARGUMENT", ["inpt"]),
                (lambda: c.infer("iris", [tensor("input", zeros[:, :3], "FP32")]), "INVALID_ARGUMENT", ["input", "3"]),
                (lambda: c.infer("iris", [tensor("input", zeros.astype(numpy.float64), "FP64")]), "INVALID_ARGUMENT",
                 ["FP64", "FP32"]),
                (lambda: c.infer("iris", [iris_input(), iris_input()]), "INVALID_ARGUMENT", ["input"]),
                (lambda: c.infer("iris", []), "INVALID_ARGUMENT", ["input"]),
                (lambda: c.infer("", [iris_input()]), "NOT_FOUND", ["there are"]),
                (lambda: c.infer("iris", [iris_input()], outputs=[output("x")]), "INVALID_ARGUMENT", ["x"])):
            check_refused(call, code, *words)
        good(c.infer("iris", [iris_input()]))


@case
def keepalive_of_the_client():
    """A client that pings as often as the policy allows is served on."""
    grpc_client = need("tritonclient.grpc")
    options = grpc_client.KeepAliveOptions(keepalive_time_ms=1000, keepalive_timeout_ms=5000,
                                           keepalive_permit_without_calls=False, http2_max_pings_without_data=0)
    with serving(slow=echo("slow", "FP32", mode="delay", delay_ms=2500)) as server, \
            client(server, keepalive_options=options) as c:
        numpy = need("numpy")
        c.infer("slow", [tensor("IN", numpy.zeros(1, dtype=numpy.float32), "FP32")])
        good(c.infer("iris", [iris_input()]))


if __name__ == "__main__":
    main()
