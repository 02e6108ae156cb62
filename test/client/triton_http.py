"""tritonclient.http, the stock client of Triton, unchanged: every call it has, and every style of infer."""
import gzip

from harness import case, cases, check, equal, main, near, need, raises
from _client import DTYPES, IRIS_INPUT, IRIS_LABELS, echo, serving


def client(server, **others):
    return need("tritonclient.http").InferenceServerClient(server.address, **others)


def iris_input(is_binary=True, rows=3):
    numpy, http = need("numpy"), need("tritonclient.http")
    tensor = http.InferInput("input", [rows, 4], "FP32")
    tensor.set_data_from_numpy(numpy.array(IRIS_INPUT[:rows], dtype=numpy.float32), binary_data=is_binary)
    return tensor


def output(name, **others):
    return need("tritonclient.http").InferRequestedOutput(name, **others)


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
        found = c.get_server_metadata()
        equal(found["name"], "penstock")
        for extension in ("binary_tensor_data", "classification", "model_configuration", "statistics"):
            check(extension in found["extensions"], "%s lacks %s", found, extension)


@case
def model_metadata():
    with serving() as server, client(server) as c:
        found = c.get_model_metadata("iris")
        equal((found["name"], found["versions"], found["platform"]), ("iris", ["1"], "onnxruntime_onnx"))
        equal(found["inputs"], [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}])
        equal({t["name"]: (t["datatype"], t["shape"]) for t in found["outputs"]},
              {"label": ("INT64", [-1]), "probabilities": ("FP32", [-1, 3])})
        equal(c.get_model_metadata("iris", "1"), found)
        with raises(need("tritonclient.utils").InferenceServerException, "none") as caught:
            c.get_model_metadata("none")
        equal(caught.error.status(), "404")


@case
def model_config():
    with serving() as server, client(server) as c:
        found = c.get_model_config("iris")
        equal((found["name"], found["backend"]), ("iris", "onnxruntime"))
        equal(found["input"][0]["data_type"], "TYPE_FP32")
        equal(found["version_policy"], {"latest": {"num_versions": 1}})
        check(found["instance_group"], "no instance_group: %s", found)
        equal(c.get_model_config("echo_FP32")["input"][0]["dims"], [-1, -1])


@case
def repository_index():
    with serving() as server, client(server) as c:
        rows = {row["name"]: row for row in c.get_model_repository_index()}
        equal((rows["iris"]["state"], rows["iris"]["version"]), ("READY", "1"))
        check(set(rows) >= {"iris", "spam", "digits"} | {"echo_" + dtype for dtype in DTYPES}, "%s", sorted(rows))


@case
def statistics():
    with serving() as server, client(server) as c:
        for _ in range(3):
            c.infer("iris", [iris_input()])
        found = c.get_inference_statistics("iris")["model_stats"]
        equal(len(found), 1)
        equal((found[0]["name"], found[0]["version"], found[0]["inference_stats"]["success"]["count"]), ("iris", "1", 3))
        check(found[0]["inference_stats"]["success"]["ns"] > 0 and found[0]["execution_count"] == 3, "%s", found)
        check(len(c.get_inference_statistics()["model_stats"]) >= 3, "statistics of all")


# --- what is off until asked for, or not built: refused in words -------------------------------------------------

@cases({"load": (lambda c: c.load_model("iris"),), "unload": (lambda c: c.unload_model("iris"),),
        "shm_register": (lambda c: c.register_system_shared_memory("r", "/key", 64),),
        "shm_status": (lambda c: c.get_system_shared_memory_status(),),
        "shm_unregister": (lambda c: c.unregister_system_shared_memory("r"),),
        "cuda_register": (lambda c: c.register_cuda_shared_memory("r", b"\0" * 64, 0, 64),),
        "trace": (lambda c: c.get_trace_settings(),), "log_set": (lambda c: c.update_log_settings({"log_info": True}),)})
def refused(call):
    with serving() as server, client(server) as c:
        with raises(need("tritonclient.utils").InferenceServerException) as caught:
            call(c)
        check(caught.error.status() in ("400", "403", "404", "405", "501", "503"), "%s", caught.error)
        check(len(caught.error.message()) > 8, "refused without a word: %s", caught.error)
        check(c.is_server_live(), "not live")


@case
def shared_memory_tensor_refused():
    with serving() as server, client(server) as c:
        tensor = need("tritonclient.http").InferInput("input", [1, 4], "FP32")
        tensor.set_shared_memory("region", 16)
        with raises(need("tritonclient.utils").InferenceServerException, "shared") as caught:
            c.infer("iris", [tensor])
        check(caught.error.status() in ("400", "501"), "%s", caught.error)


# --- infer, in every style ------------------------------------------------------------------------------------

def good(result, rows=3):
    equal(result.as_numpy("label").tolist(), IRIS_LABELS[:rows])
    probabilities = result.as_numpy("probabilities")
    equal(probabilities.shape, (rows, 3))
    near(probabilities.sum(axis=1).tolist(), [1] * rows)


@cases({"binary_in_binary_out": (True, True), "binary_in_json_out": (True, False), "json_in_binary_out": (False, True),
        "json_in_json_out": (False, False)})
def infer(is_in, is_out):
    with serving() as server, client(server) as c:
        result = c.infer("iris", [iris_input(is_in)], request_id="r7",
                         outputs=[output("probabilities", binary_data=is_out), output("label", binary_data=is_out)])
        good(result)
        document = result.get_response()
        equal((document["id"], document["model_name"], document["model_version"]), ("r7", "iris", "1"))
        for tensor in document["outputs"]:
            equal("data" in tensor, not is_out, "data of %s in JSON" % tensor["name"])


@case
def infer_without_naming_outputs():
    """The client's default asks for everything in binary."""
    with serving() as server, client(server) as c:
        result = c.infer("iris", [iris_input()])
        good(result)
        check(all("data" not in tensor for tensor in result.get_response()["outputs"]), "%s", result.get_response())


@case
def infer_one_output():
    with serving() as server, client(server) as c:
        result = c.infer("iris", [iris_input()], outputs=[output("label")])
        equal([tensor["name"] for tensor in result.get_response()["outputs"]], ["label"])
        equal(result.as_numpy("probabilities"), None)


@case
def infer_mixed_outputs():
    with serving() as server, client(server) as c:
        good(c.infer("iris", [iris_input()], outputs=[output("label", binary_data=False), output("probabilities")]))


@case
def infer_of_a_version():
    with serving() as server, client(server) as c:
        good(c.infer("iris", [iris_input()], model_version="1"))
        with raises(need("tritonclient.utils").InferenceServerException, "7"):
            c.infer("iris", [iris_input()], model_version="7")


@case
def infer_strings():
    numpy, http = need("numpy"), need("tritonclient.http")
    with serving() as server, client(server) as c:
        texts = numpy.array([["You won a prize, call now"], ["See you at lunch"], ["Ünïcödé 日本"]], dtype=object)
        for is_binary in (True, False):
            tensor = http.InferInput("text", [3, 1], "BYTES")
            tensor.set_data_from_numpy(texts, binary_data=is_binary)
            equal(c.infer("spam", [tensor]).as_numpy("label").tolist(), [1, 0, 0])


@case
def strings_that_are_no_text():
    """ONNX's strings are UTF-8. What is none is the caller's mistake, told with its place, and the model does not see it."""
    numpy, http = need("numpy"), need("tritonclient.http")
    with serving() as server, client(server) as c:
        for bad, element, at in ((b"\xff", 0, 0), (b"ok \xc3", 1, 3), (b"\xed\xa0\x80", 2, 0), (b"caf\xe9!", 1, 3)):
            texts = [b"See you at lunch"] * 3
            texts[element] = bad
            tensor = http.InferInput("text", [3, 1], "BYTES")
            tensor.set_data_from_numpy(numpy.array(texts, dtype=object).reshape(3, 1), binary_data=True)
            said = "input 'text', element %d: byte %d (0x%02x) is not UTF-8" % (element, at, bad[at])
            with raises(need("tritonclient.utils").InferenceServerException, said) as caught:
                c.infer("spam", [tensor])
            equal(caught.error.status(), "400")
        tensor = http.InferInput("IN", [1, 1], "BYTES")      # other backends take any bytes
        tensor.set_data_from_numpy(numpy.array([[b"\xff"]], dtype=object), binary_data=True)
        equal(c.infer("echo_BYTES", [tensor]).as_numpy("OUT").tolist(), [[b"\xff"]])


EXTREMES = {"BOOL": [[True, False]], "UINT8": [[0, 255]], "UINT16": [[0, 65535]], "UINT32": [[0, 2**32 - 1]],
            "UINT64": [[0, 2**64 - 1]], "INT8": [[-128, 127]], "INT16": [[-2**15, 2**15 - 1]], "INT32": [[-2**31, 2**31 - 1]],
            "INT64": [[-2**63, 2**63 - 1]], "FP16": [[-65504.0, 0.333251953125]], "FP32": [[-3.4028234663852886e38, 0.1]],
            "FP64": [[-1.7976931348623157e308, 0.1]], "BYTES": [["naïve \"quoted\"\n\0", ""]], "BF16": [[1.0, -2.5]]}


@cases({dtype: (dtype,) for dtype in DTYPES})
def every_type(dtype):
    numpy, http, utils = need("numpy"), need("tritonclient.http"), need("tritonclient.utils")
    with serving() as server, client(server) as c:
        if dtype == "BYTES":
            data = numpy.array([[text.encode() for text in EXTREMES[dtype][0]]], dtype=object)
        else:
            data = numpy.array(EXTREMES[dtype], dtype=utils.triton_to_np_dtype(dtype))
        for is_binary in (True, False):
            if not is_binary and dtype in ("FP16", "BF16"):
                continue        # the client itself refuses these in JSON
            tensor = http.InferInput("IN", [1, 2], dtype)
            tensor.set_data_from_numpy(data, binary_data=is_binary)
            result = c.infer("echo_" + dtype, [tensor], outputs=[output("OUT", binary_data=is_binary)])
            found = result.as_numpy("OUT")
            if dtype == "BYTES":        # in JSON they come back as text
                found = [[item if isinstance(item, bytes) else item.encode() for item in found.ravel().tolist()]]
                equal(found, data.tolist(), dtype)
            else:
                equal(found.tolist(), data.tolist(), "%s, binary %s" % (dtype, is_binary))


@case
def empty_tensor():
    numpy, http = need("numpy"), need("tritonclient.http")
    with serving() as server, client(server) as c:
        tensor = http.InferInput("IN", [0, 3], "FP32")
        tensor.set_data_from_numpy(numpy.zeros((0, 3), dtype=numpy.float32))
        equal(c.infer("echo_FP32", [tensor]).as_numpy("OUT").shape, (0, 3))


@case
def classification():
    """"value:index:label", best first."""
    with serving() as server, client(server) as c:
        for is_binary in (True, False):
            result = c.infer("iris", [iris_input()], outputs=[output("probabilities", binary_data=is_binary, class_count=2)])
            found = result.as_numpy("probabilities")
            equal(found.shape, (3, 2))
            best = [str(row[0], "utf8") if isinstance(row[0], bytes) else row[0] for row in found]
            equal([text.split(":")[1:] for text in best], [["0", "setosa"], ["1", "versicolor"], ["2", "virginica"]])
            check(all(0.4 < float(text.split(":")[0]) <= 1 for text in best), "%s", best)
        result = c.infer("iris", [iris_input()], outputs=[output("probabilities", class_count=99)])
        equal(result.as_numpy("probabilities").shape, (3, 3), "more classes than there are")


@cases({"gzip": ("gzip", "gzip"), "deflate": ("deflate", "deflate"), "gzip_in": ("gzip", None), "deflate_out": (None, "deflate")})
def compression(request, response):
    numpy, http = need("numpy"), need("tritonclient.http")
    data = numpy.tile(numpy.arange(100, dtype=numpy.float32), (50, 1))
    with serving() as server, client(server) as c:
        for is_binary in (True, False):
            tensor = http.InferInput("IN", data.shape, "FP32")
            tensor.set_data_from_numpy(data, binary_data=is_binary)
            result = c.infer("echo_FP32", [tensor], outputs=[output("OUT", binary_data=is_binary)],
                             request_compression_algorithm=request, response_compression_algorithm=response)
            equal(result.as_numpy("OUT").tolist(), data.tolist())


@case
def many_at_once():
    with serving() as server, client(server, concurrency=8) as c:
        requests = [c.async_infer("iris", [iris_input(rows=1 + i % 3)]) for i in range(200)]
        for i, request in enumerate(requests):
            good(request.get_result(), 1 + i % 3)


@case
def parameters_and_timeouts():
    with serving(slow=echo("slow", "FP32", mode="delay", delay_ms=1)) as server, client(server) as c:
        result = c.infer("iris", [iris_input()], priority=1, timeout=5000000, parameters={"note": "x", "n": 3, "yes": True})
        good(result)
        good(c.infer("iris", [iris_input()], headers={"X-Request-Timeout-Ms": "5000"}, query_params={"a": "b"}))
        with raises(need("tritonclient.utils").InferenceServerException):
            c.infer("iris", [iris_input()], parameters={"triton_x": 1})


@case
def offline_bodies():
    """Bodies made and read without the client's connection."""
    http = need("tritonclient.http").InferenceServerClient
    body, size = http.generate_request_body([iris_input()], outputs=[output("label"), output("probabilities")])
    with serving() as server:
        status, headers, reply = server.call("POST", "/v2/models/iris/infer", body,
                                             {"Inference-Header-Content-Length": str(size)})
        equal(status, 200)
        good(http.parse_response_body(reply, header_length=int(headers["inference-header-content-length"])))
        status, headers, reply = server.call("POST", "/v2/models/iris/infer", gzip.compress(body),
                                             {"Inference-Header-Content-Length": str(size), "Content-Encoding": "gzip"})
        equal(status, 200, "the length counts what is inside the gzip")


@case
def errors_are_exceptions():
    numpy, http, utils = need("numpy"), need("tritonclient.http"), need("tritonclient.utils")
    with serving() as server, client(server) as c:
        wrong = http.InferInput("inpt", [1, 4], "FP32")
        wrong.set_data_from_numpy(numpy.zeros((1, 4), dtype=numpy.float32))
        for call, status, word in ((lambda: c.infer("none", [iris_input()]), "404", "none"),
                                   (lambda: c.infer("iris", [wrong]), "400", "inpt"),
                                   (lambda: c.infer("iris", [iris_input()], outputs=[output("x")]), "400", "x")):
            with raises(utils.InferenceServerException, word) as caught:
                call()
            equal(caught.error.status(), status)


@case
def base_path_of_a_proxy_is_not_ours():
    """tritonclient can put a path in front; then nothing is found, in words."""
    http = need("tritonclient.http")
    with serving() as server, http.InferenceServerClient(server.address + "/prefix") as c:
        with raises(need("tritonclient.utils").InferenceServerException):
            c.get_server_metadata()


if __name__ == "__main__":
    main()
