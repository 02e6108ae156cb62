"""The usual Python server of a model, twice: as a tutorial writes it (`plain`), and as fast as the same parts go (`tuned`).

Both speak the part of KServe V2 that the benchmarks use, so that all servers get the same bytes.
"""
import os

import numpy
import onnxruntime
import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

MODEL = os.environ["BENCH_MODEL"]
DTYPES = {"tensor(int64)": "INT64", "tensor(float)": "FP32"}


# --- plain --------------------------------------------------------------------------------------------

class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class InferRequest(BaseModel):
    inputs: list[Tensor]


plain = FastAPI()
plain_session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


@plain.post("/v2/models/iris_gemm/infer")
def plain_iris(request: InferRequest):
    feeds = {t.name: numpy.array(t.data, dtype=numpy.float32).reshape(t.shape) for t in request.inputs}
    results = plain_session.run(None, feeds)
    outputs = [{"name": o.name, "datatype": DTYPES[o.type], "shape": list(r.shape), "data": r.ravel().tolist()}
               for o, r in zip(plain_session.get_outputs(), results)]
    return {"model_name": "iris_gemm", "model_version": "1", "outputs": outputs}


# --- tuned --------------------------------------------------------------------------------------------

tuned = FastAPI()
_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = 1
_options.inter_op_num_threads = 1
tuned_session = onnxruntime.InferenceSession(MODEL, _options, providers=["CPUExecutionProvider"])
OUTPUTS = [(o.name, DTYPES[o.type]) for o in tuned_session.get_outputs()]
NAMES = [name for name, _ in OUTPUTS]


@tuned.post("/v2/models/iris_gemm/infer")
async def tuned_iris(request: Request):
    document = orjson.loads(await request.body())
    feeds = {t["name"]: numpy.array(t["data"], dtype=numpy.float32).reshape(t["shape"]) for t in document["inputs"]}
    results = tuned_session.run(NAMES, feeds)
    outputs = [{"name": name, "datatype": datatype, "shape": r.shape, "data": r.ravel()}
               for (name, datatype), r in zip(OUTPUTS, results)]
    return Response(orjson.dumps({"model_name": "iris_gemm", "model_version": "1", "outputs": outputs},
                                 option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@tuned.post("/v2/models/image/infer")
async def tuned_image(request: Request):
    """Answers its input: what moving a tensor through JSON costs."""
    tensor = orjson.loads(await request.body())["inputs"][0]
    array = numpy.array(tensor["data"], dtype=numpy.float32).reshape(tensor["shape"])
    outputs = [{"name": "OUT", "datatype": "FP32", "shape": array.shape, "data": array.ravel()}]
    return Response(orjson.dumps({"model_name": "image", "model_version": "1", "outputs": outputs},
                                 option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
