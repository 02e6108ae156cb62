"""tritonclient.http.aio: the stock client's asyncio side."""
import asyncio

from harness import case, cases, check, equal, main, near, need, raises
from _client import IRIS_INPUT, IRIS_LABELS, serving


def run(work, options=()):
    """One server, one client, one coroutine."""
    aio = need("tritonclient.http.aio")
    with serving(options) as server:
        async def inner():
            client = aio.InferenceServerClient(server.address)
            try:
                await work(client)
            finally:
                await client.close()
        asyncio.run(inner())


def iris_input(is_binary=True, rows=3):
    numpy, http = need("numpy"), need("tritonclient.http")
    tensor = http.InferInput("input", [rows, 4], "FP32")
    tensor.set_data_from_numpy(numpy.array(IRIS_INPUT[:rows], dtype=numpy.float32), binary_data=is_binary)
    return tensor


def output(name, **others):
    return need("tritonclient.http").InferRequestedOutput(name, **others)


@case
def what_is_there():
    async def work(c):
        check(await c.is_server_live() and await c.is_server_ready() and await c.is_model_ready("iris"), "not ready")
        equal((await c.get_server_metadata())["name"], "penstock")
        equal((await c.get_model_metadata("iris"))["inputs"][0]["shape"], [-1, 4])
        equal((await c.get_model_config("iris"))["backend"], "onnxruntime")
        check("iris" in [row["name"] for row in await c.get_model_repository_index()], "no iris")
        equal((await c.get_inference_statistics("iris"))["model_stats"][0]["name"], "iris")
    run(work)


@cases({"binary": (True,), "json": (False,)})
def infer(is_binary):
    async def work(c):
        result = await c.infer("iris", [iris_input(is_binary)], request_id="a",
                               outputs=[output("label", binary_data=is_binary), output("probabilities", binary_data=is_binary)])
        equal(result.as_numpy("label").tolist(), IRIS_LABELS)
        near(result.as_numpy("probabilities").sum(axis=1).tolist(), [1, 1, 1])
        equal(result.get_response()["id"], "a")
    run(work)


@cases({"gzip": ("gzip",), "deflate": ("deflate",)})
def compression(algorithm):
    async def work(c):
        result = await c.infer("iris", [iris_input()], request_compression_algorithm=algorithm,
                               response_compression_algorithm=algorithm)
        equal(result.as_numpy("label").tolist(), IRIS_LABELS)
    run(work)


@case
def many_at_once():
    async def work(c):
        results = await asyncio.gather(*(c.infer("iris", [iris_input(rows=1 + i % 3)]) for i in range(300)))
        for i, result in enumerate(results):
            equal(result.as_numpy("label").tolist(), IRIS_LABELS[:1 + i % 3])
    run(work)


@case
def cancelled_tasks():
    """Tasks that are cancelled close their connections; those that are not, go on."""
    async def work(c):
        tasks = [asyncio.ensure_future(c.infer("iris", [iris_input()])) for _ in range(50)]
        await asyncio.sleep(0.001)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results[1::2]:
            equal(result.as_numpy("label").tolist(), IRIS_LABELS)
        equal((await c.infer("iris", [iris_input()])).as_numpy("label").tolist(), IRIS_LABELS)
    run(work)


@case
def errors():
    utils = need("tritonclient.utils")

    async def work(c):
        with raises(utils.InferenceServerException, "none") as caught:
            await c.infer("none", [iris_input()])
        equal(caught.error.status(), "404")
        with raises(utils.InferenceServerException):
            await c.load_model("iris")
        with raises(utils.InferenceServerException):
            await c.register_system_shared_memory("r", "/k", 64)
        check(await c.is_server_live(), "not live")
    run(work)


if __name__ == "__main__":
    main()
