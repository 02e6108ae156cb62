"""Every reference answer beside the shared models: over REST as JSON and by the binary tensor extension, and over gRPC with raw
tensors and with typed contents. What gRPC answers is what REST answers, bit for bit.

`X.ref.json` says what a reference runtime gave; large inputs are formulas there, large outputs samples, sums and norms. The
odd models behave as their README says. Skipped, by name, where the shared models are not here.
"""
import json
import os
import re
import wave

from harness import Server, case, cases, check, equal, main, models, near, need, shared, skip

numpy = None        # set by the first case that needs it


def np():
    global numpy
    numpy = numpy or need("numpy")
    return numpy


DTYPES = {"BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
          "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
FORMULA = re.compile(r"value\[i\] = ([i0-9+*/%(). -]+?)(?: for .*)?$")


def values(tensor):
    """What a reference says an input is, flat."""
    if "data" in tensor:
        return tensor["data"]
    match = FORMULA.match(tensor["generator"])
    check(match is not None, "a generator of another form: %s", tensor["generator"])
    i = np().arange(int(np().prod(tensor["shape"])), dtype=np().int64)
    return np().asarray(eval(match.group(1), {"__builtins__": {}}, {"i": i}), dtype=np().float32).tolist()


def to_bytes(datatype, data):
    if datatype == "BYTES":
        encoded = [text.encode() if isinstance(text, str) else text for text in data]
        return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
    return np().array(data, dtype=DTYPES[datatype]).tobytes()


def from_bytes(datatype, data):
    if datatype != "BYTES":
        return np().frombuffer(data, dtype=DTYPES[datatype]).tolist()
    found = []
    while data:
        size = int.from_bytes(data[:4], "little")
        found.append(data[4:4 + size].decode())
        data = data[4 + size:]
    return found


def infer_json(server, model, inputs):
    document = {"inputs": [{"name": t["name"], "datatype": t["datatype"], "shape": t["shape"], "data": values(t)}
                           for t in inputs]}
    status, reply = server.post("/v2/models/%s/infer" % model, document)
    check(status == 200, "%s as JSON: %s", model, reply)
    return {t["name"]: t for t in reply["outputs"]}


def infer_binary(server, model, inputs):
    blobs = [to_bytes(t["datatype"], values(t)) if "raw" not in t else t["raw"] for t in inputs]
    document = {"inputs": [{"name": t["name"], "datatype": t["datatype"], "shape": t["shape"],
                            "parameters": {"binary_data_size": len(blob)}} for t, blob in zip(inputs, blobs)],
                "parameters": {"binary_data_output": True}}
    text = json.dumps(document).encode()
    status, headers, body = server.call("POST", "/v2/models/%s/infer" % model, text + b"".join(blobs),
                                        {"Inference-Header-Content-Length": str(len(text))})
    check(status == 200, "%s in binary: %r", model, body[:500])
    size = int(headers.get("inference-header-content-length", len(body)))
    outputs = {}
    rest = body[size:]
    for tensor in json.loads(body[:size])["outputs"]:
        if "data" not in tensor:
            count = tensor["parameters"]["binary_data_size"]
            tensor["data"], rest = from_bytes(tensor["datatype"], rest[:count]), rest[count:]
        outputs[tensor["name"]] = tensor
    equal(rest, b"", "bytes behind the last output")
    return outputs


CONTENTS = {"BOOL": "bool", "UINT8": "uint", "UINT16": "uint", "UINT32": "uint", "UINT64": "uint64", "INT8": "int", "INT16": "int",
            "INT32": "int", "INT64": "int64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes"}


def infer_grpc(server, model, inputs, is_raw=True):
    pb, grpc = need("tritonclient.grpc.service_pb2"), need("grpc")
    request = pb.ModelInferRequest(model_name=model)
    for tensor in inputs:
        asked = request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        if is_raw or tensor["datatype"] not in CONTENTS:
            request.raw_input_contents.append(
                to_bytes(tensor["datatype"], values(tensor)) if "raw" not in tensor else tensor["raw"])
        else:
            data = [text.encode() if isinstance(text, str) else text for text in values(tensor)]
            getattr(asked.contents, CONTENTS[tensor["datatype"]] + "_contents").extend(data)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        answer = need("tritonclient.grpc.service_pb2_grpc").GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    equal((answer.model_name, len(answer.raw_output_contents)), (model, len(answer.outputs)))
    return {tensor.name: {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape),
                          "data": from_bytes(tensor.datatype, raw), "raw": raw}
            for tensor, raw in zip(answer.outputs, answer.raw_output_contents)}


def infer_grpc_contents(server, model, inputs):
    """Typed contents for what has them; FP16 and BF16 have none, and all tensors of one request are given alike."""
    if any(tensor["datatype"] not in CONTENTS for tensor in inputs):
        return infer_grpc(server, model, inputs)
    return infer_grpc(server, model, inputs, is_raw=False)


def same_bits(rest, over_grpc, text):
    equal(list(over_grpc), list(rest), "outputs of " + text)
    for name, tensor in rest.items():
        mine = over_grpc[name]
        equal((mine["datatype"], mine["shape"]), (tensor["datatype"], tensor["shape"]), "%s of %s" % (name, text))
        raw = to_bytes(tensor["datatype"], tensor["data"])
        check(mine["raw"] == raw, "%s of %s differs between REST and gRPC", name, text)


ASKING = (infer_json, infer_binary, infer_grpc, infer_grpc_contents)


def compare_all(server, model, inputs, outputs, atol):
    """Every way of asking gives the reference's answer, and gRPC what the binary extension gives."""
    found = {}
    for ask in ASKING:
        found[ask] = ask(server, model, inputs)
        compare(found[ask], outputs, atol, "%s by %s" % (model, ask.__name__))
    for ask in (infer_grpc, infer_grpc_contents):
        same_bits(found[infer_binary], found[ask], "%s by %s" % (model, ask.__name__))


def compare(found, expected, atol, text):
    for tensor in expected:
        name = "%s of %s" % (tensor["name"], text)
        check(tensor["name"] in found, "no output %s", name)
        mine = found[tensor["name"]]
        equal((mine["datatype"], mine["shape"]), (tensor["datatype"], tensor["shape"]), name)
        data = mine["data"]
        if tensor["datatype"] in ("FP16", "FP32"):      # the shortest text of one is another number as a double
            data = np().array(data, dtype=DTYPES[tensor["datatype"]]).tolist()
        if "data" in tensor and tensor["datatype"].startswith("FP"):
            near(data, tensor["data"], atol, name)
        elif "data" in tensor:
            equal(data, tensor["data"], name)
        else:
            array = np().asarray(data, dtype=np().float64)
            near([data[i] for i in tensor["sample_index"]], tensor["sample_value"], atol, name)
            limit = max(atol * array.size ** 0.5, 1e-4 * abs(tensor["l2"]))
            check(abs(array.sum() - tensor["sum"]) <= max(1e-4 * abs(tensor["sum"]), limit), "sum of %s", name)
            check(abs(float(np().sqrt((array ** 2).sum())) - tensor["l2"]) <= limit, "norm of %s", name)


REFERENCES = ["tabular/iris", "tabular/digits_mlp", "tabular/cancer_xgb", "spam/spam", "image/efficientnet_lite0_int8",
              "detect/yolox_nano", "detect/ultraface_rfb320", "text/all_minilm_l6_v2_int8"]


def reference(path):
    """A bare file, served and asked both ways."""
    with open(shared("models/%s.ref.json" % path)) as file:
        document = json.load(file)
    np()
    with Server(shared("models/%s.onnx" % path)) as server:
        model = document["model"]
        compare_all(server, model, document["inputs"], document["outputs"], document["atol"])


references = cases({path.split("/")[1]: (path,) for path in REFERENCES})(reference)


@case
def no_reference_is_forgotten():
    """Each *.ref.json is checked by a case here, or named as what cannot be asked over this server."""
    found = set()
    for folder, _, files in os.walk(shared("models")):
        found |= {os.path.relpath(os.path.join(folder, name), shared("models")) for name in files if name.endswith(".ref.json")
                  or name == "ref.json"}
    known = {path + ".ref.json" for path in REFERENCES}
    known |= {"odd/odd.ref.json", "voice/silero_vad.ref.json", "image/photos.ref.json", "detect/photos.ref.json"}
    known |= {"llm/ref.json", "text/tokenizer.ref.json", "voice/moonshine_tiny_en.ref.json"}     # see below
    equal(found - known, set(), "references that nothing checks")


@case
def llm():
    skip("no backend for GGUF files yet")


@case
def tokenizer():
    skip("no model: a table for a tokenizer, and no tokenizer is built")


@case
def moonshine_tiny_en():
    skip("the model is not among the shared ones")


# --- pictures -----------------------------------------------------------------------------------------------

PHOTOS = ["astronaut.jpg", "chelsea.jpg", "coffee.jpg", "flower.jpg", "rocket.jpg"]


def picture(name):
    """RGB UINT8 [1,H,W,3]."""
    image = need("PIL.Image").open(shared("data/photos/" + name)).convert("RGB")
    array = np().asarray(image, dtype=np().uint8)[None]
    return array


def tensor_of(name, array):
    datatype = {"uint8": "UINT8", "float32": "FP32", "int64": "INT64"}[array.dtype.name]
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "raw": array.tobytes(), "data": []}


def array_of(tensor):
    return np().asarray(tensor["data"], dtype=DTYPES[tensor["datatype"]]).reshape(tensor["shape"])


def step(server, model, **inputs):
    """One model of a chain: arrays in, arrays out, over REST and gRPC alike."""
    tensors = [tensor_of(name, array) for name, array in inputs.items()]
    found = infer_binary(server, model, tensors)
    same_bits(found, infer_grpc(server, model, tensors), model)
    return {name: array_of(tensor) for name, tensor in found.items()}


@case
def photos_classified():
    with open(shared("models/image/photos.ref.json")) as file:
        expected = json.load(file)["top5"]
    with Server(shared("models/image")) as server:
        for name in PHOTOS:
            images = step(server, "preprocess_224", image=picture(name))["images"]
            probabilities = step(server, "efficientnet_lite0_int8", images=images)["probabilities"]
            top = step(server, "top5", probabilities=probabilities)
            best, _, score = expected[name][0]
            equal(int(top["class_id"][0][0]), best, name)
            near(float(top["score"][0][0]), score, 0.05, name)


@case
def coffee_224():
    with open(shared("models/image/efficientnet_lite0_int8.ref.json")) as file:
        real = json.load(file)["real"]
    with open(shared("models/image/" + real["file"]), "rb") as file:
        pixels = np().frombuffer(file.read(), dtype=np().uint8).reshape(224, 224, 3)
    images = ((pixels.astype(np().float32) - 127) / 128).transpose(2, 0, 1)[None].copy()
    with Server(shared("models/image/efficientnet_lite0_int8.onnx")) as server:
        probabilities = step(server, "efficientnet_lite0_int8", images=images)["probabilities"][0]
    equal(int(probabilities.argmax()), real["top5"][0][0])
    for index, score in real["top5"]:
        near(float(probabilities[index]), score, real["atol"], "class %d" % index)


@case
def photos_detected():
    with open(shared("models/detect/photos.ref.json")) as file:
        expected = json.load(file)["photos"]
    with Server(shared("models/detect")) as server:
        for name in PHOTOS:
            image = picture(name)
            prepared = step(server, "yolox_preprocess", image=image)
            output = step(server, "yolox_nano", images=prepared["images"])["output"]
            found = step(server, "yolox_postprocess", output=output, scale=prepared["scale"])
            objects = expected[name]["objects"]
            equal(found["labels"].tolist(), [item["label"] for item in objects], name)
            near(found["scores"].tolist(), [item["score"] for item in objects], 0.05, name)
            near(found["boxes"].tolist(), [item["box"] for item in objects], 4, name)
            prepared = step(server, "ultraface_preprocess", image=image)
            raw = step(server, "ultraface_rfb320", input=prepared["input"])
            faces = step(server, "ultraface_postprocess", scores=raw["scores"], boxes=raw["boxes"])
            near(faces["confidence"].tolist(), [item["confidence"] for item in expected[name]["faces"]], 0.05, name)
            near(faces["faces"].tolist(), [item["box_relative"] for item in expected[name]["faces"]], 0.02, name)


@case
def silero_vad():
    """Eleven seconds of speech, chunk by chunk; the caller carries the state."""
    with open(shared("models/voice/silero_vad.ref.json")) as file:
        document = json.load(file)
    with wave.open(shared("data/speech/jfk.wav")) as file:
        equal((file.getframerate(), file.getnchannels()), (16000, 1))
        samples = np().frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np().float32) / 32768
    state = np().zeros((2, 1, 128), dtype=np().float32)
    before = np().zeros(64, dtype=np().float32)
    found = []
    with Server(shared("models/voice/silero_vad_16k_op15.onnx")) as server:
        for i in range(len(document["probabilities"])):
            chunk = samples[i * 512:(i + 1) * 512]
            chunk = np().pad(chunk, (0, 512 - len(chunk)))
            outputs = step(server, "silero_vad_16k_op15", input=np().concatenate([before, chunk])[None], state=state,
                           sr=np().array(16000, dtype=np().int64))
            found.append(float(outputs["output"][0][0]))
            state, before = outputs["stateN"], chunk[-64:]
    near(found, document["probabilities"], document["atol"])
    near(float(np().sqrt((state.astype(np().float64) ** 2).sum())), document["final_state_l2"], 0.05, "state")


# --- the odd ones -------------------------------------------------------------------------------------------

LOADS = ["simple", "simple_string", "simple_identity", "simple_sequence", "half_plus_two", "identity_all_types",
         "identity_fp32", "scale_fp16", "nonzero", "spin", "fails_on_bad_index", "external_data", "init_as_input"]
REFUSED = ["bad_truncated", "bad_not_onnx", "bad_unknown_op"]


def odd(name):
    """Alone in a folder in Triton's layout, with what it needs."""
    layout = {"%s/1/model.onnx" % name: shared("models/odd/%s.onnx" % name)}
    if name == "external_data":
        layout["%s/1/external_data.bin" % name] = shared("models/odd/external_data.bin")
    return models(layout)


def odd_references(name):
    with open(shared("models/odd/odd.ref.json")) as file:
        rows = [row for row in json.load(file) if row["model"] == name]
    check(rows, "no reference of %s", name)
    np()
    with odd(name) as folder, Server(folder) as server:
        for row in rows:
            compare_all(server, name, row["inputs"], row["outputs"], 1e-5)


# the other two have cases of their own below
odd_reference = cases({name: (name,) for name in LOADS if name not in ("identity_fp32", "external_data")})(odd_references)


@case
def odd_folder():
    """All of them as bare files in one folder: the bad ones say why, and stop nobody."""
    with Server(shared("models/odd"), options=["--no-strict-readiness"]) as server:
        status, index = server.post("/v2/repository/index", {})
        equal(status, 200)
        states = {row["name"]: row for row in index}
        for name in LOADS:
            equal(states[name].get("state"), "READY", name)
            equal(server.get("/v2/models/%s/ready" % name)[0], 200, name)
        for name in REFUSED:
            equal(states[name].get("state"), "UNAVAILABLE", name)
            check(len(states[name].get("reason", "")) > 20, "%s does not say why: %r", name, states[name])
            status, reply = server.post("/v2/models/%s/infer" % name, {"inputs": []})
            check(status in (404, 503), "%s: %d %s", name, status, reply)


@cases({name: (name,) for name in REFUSED})
def refused(name):
    with odd(name) as folder, Server(folder, options=["--no-strict-readiness"]) as server:
        row = [row for row in server.post("/v2/repository/index", {})[1] if row["name"] == name][0]
        equal(row["state"], "UNAVAILABLE")
        if name == "bad_unknown_op":
            check("NoSuchOp" in row["reason"], "%r", row)
        check(name in server.log, "nothing is printed about it: %s", server.log)


@case
def strict_readiness():
    """A model that cannot be loaded makes the server not ready, unless told otherwise; --exit-on-error ends it."""
    with odd("bad_not_onnx") as folder:
        with Server(folder) as server:
            check(server.get("/v2/health/ready")[0] in (400, 503), "ready with a model that is not")
            equal(server.get("/v2/health/live")[0], 200)
        with Server(folder, options=["--no-strict-readiness"]) as server:
            equal(server.get("/v2/health/ready")[0], 200)


@case
def identity_fp32_of_every_size():
    np()
    with odd("identity_fp32") as folder, Server(folder) as server:
        for shape in ([1, 1], [3, 5], [1, 150528], [0, 4], [64, 0]):
            count = shape[0] * shape[1]
            data = np().random.RandomState(1).standard_normal(count).astype(np().float32)
            inputs = [{"name": "INPUT0", "datatype": "FP32", "shape": shape, "data": data.tolist()}]
            for ask in ASKING:
                found = ask(server, "identity_fp32", inputs)["OUTPUT0"]
                equal(found["shape"], shape)
                check(np().asarray(found["data"], dtype=np().float32).tobytes() == data.tobytes(),
                      "%s by %s is not bit for bit what was sent", shape, ask.__name__)


@case
def external_data():
    np()
    with open(shared("models/odd/external_data.bin"), "rb") as file:
        weights = np().frombuffer(file.read(), dtype="<f4").reshape(256, 256)
    x = np().random.RandomState(2).standard_normal((3, 256)).astype(np().float32)
    with odd("external_data") as folder, Server(folder) as server:
        near(step(server, "external_data", x=x)["y"].tolist(), (x @ weights).tolist(), 1e-3)
    with models({"external_data/1/model.onnx": shared("models/odd/external_data.onnx")}) as folder, \
            Server(folder, options=["--no-strict-readiness"]) as server:
        row = server.post("/v2/repository/index", {})[1][0]
        equal(row["state"], "UNAVAILABLE")
        check("external_data.bin" in row["reason"], "the missing file is not named: %r", row)


@case
def identity_bf16():
    """Loads; its type is told; as the reference has no run of it, the answer is either right or a clear refusal."""
    np()
    with odd("identity_bf16") as folder, Server(folder) as server:
        status, document = server.get("/v2/models/identity_bf16")
        equal((status, document["inputs"]), (200, [{"name": "IN_BF16", "datatype": "BF16", "shape": [-1]}]))
        raw = bytes([0x80, 0x3F, 0x00, 0x40])           # 1, 2
        text = json.dumps({"inputs": [{"name": "IN_BF16", "datatype": "BF16", "shape": [2],
                                       "parameters": {"binary_data_size": 4}}],
                           "parameters": {"binary_data_output": True}}).encode()
        status, headers, body = server.call("POST", "/v2/models/identity_bf16/infer", text + raw,
                                            {"Inference-Header-Content-Length": str(len(text))})
        if status == 200:
            equal(body[int(headers["inference-header-content-length"]):], raw)
        else:
            check(len(json.loads(body)["error"]) > 20, "%d %r", status, body)


@case
def init_as_input():
    """An initialiser that is listed as an input is none for the caller."""
    with odd("init_as_input") as folder, Server(folder) as server:
        equal([tensor["name"] for tensor in server.get("/v2/models/init_as_input")[1]["inputs"]], ["x"])


@case
def fails_on_bad_index():
    """A model that fails at run time: the caller is told what the runtime said, and the next call works."""
    with odd("fails_on_bad_index") as folder, Server(folder) as server:
        for _ in range(3):
            status, reply = server.post("/v2/models/fails_on_bad_index/infer", {"inputs": [
                {"name": "index", "datatype": "INT64", "shape": [1], "data": [10]}]})
            check(status in (400, 500), "%d %s", status, reply)
            check("10" in reply["error"] and len(reply["error"]) > 20, "%s", reply)
            status, reply = server.post("/v2/models/fails_on_bad_index/infer", {"inputs": [
                {"name": "index", "datatype": "INT64", "shape": [1], "data": [9]}]})
            equal((status, reply["outputs"][0]["data"]), (200, [9.0]))


@case
def iris_zipmap():
    """Its second output is no tensor: converted, or refused in words that say what to do."""
    with odd("iris_zipmap") as folder, Server(folder, options=["--no-strict-readiness"]) as server:
        row = server.post("/v2/repository/index", {})[1][0]
        if row["state"] == "READY":
            status, reply = server.post("/v2/models/iris_zipmap/infer", {"inputs": [
                {"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}]})
            equal(status, 200)
            check(len(reply["outputs"]) >= 2, "%s", reply)
        else:
            check("zipmap" in row["reason"].lower(), "%r", row)


@case
def spin():
    """Run time depends on the input: calls of very different length beside each other, and a deadline within one."""
    with odd("spin") as folder, Server(folder) as server:
        def call(iterations, headers=None):
            return server.post("/v2/models/spin/infer", {"inputs": [
                {"name": "iterations", "datatype": "INT64", "shape": [1], "data": [iterations]}]}, headers)
        equal(call(1)[0], 200)
        status, reply = call(20000, {"X-Request-Timeout-Ms": "50"})
        equal(status, 504)
        equal(call(1)[0], 200)


if __name__ == "__main__":
    main()
