"""tritonclient.grpc.aio: the stock client's asyncio side."""
import asyncio

from harness import case, cases, check, equal, main, near, need, raises
from _client import IRIS_LABELS, echo, serving
from _grpc import iris_input, output, tensor


def run(work, **more):
    """One server, one client, one coroutine."""
    aio = need("tritonclient.grpc.aio")
    with serving(**more) as server:
        async def inner():
            async with aio.InferenceServerClient(server.address) as client:
                await work(client)
        asyncio.run(inner())


@case
def what_is_there():
    async def work(c):
        check(await c.is_server_live() and await c.is_server_ready() and await c.is_model_ready("iris"), "not ready")
        check(not await c.is_model_ready("none"), "ready without being there")
        equal((await c.get_server_metadata()).name, "penstock")
        equal(list((await c.get_model_metadata("iris")).inputs[0].shape), [-1, 4])
        equal((await c.get_model_config("iris")).config.backend, "onnxruntime")
        check("iris" in [row.name for row in (await c.get_model_repository_index()).models], "no iris")
        equal((await c.get_inference_statistics("iris")).model_stats[0].name, "iris")
    run(work)


@case
def infer():
    async def work(c):
        result = await c.infer("iris", [iris_input()], request_id="a", outputs=[output("label"), output("probabilities")])
        equal(result.as_numpy("label").tolist(), IRIS_LABELS)
        near(result.as_numpy("probabilities").sum(axis=1).tolist(), [1, 1, 1])
        equal(result.get_response().id, "a")
    run(work)


@cases({"gzip": ("gzip",), "deflate": ("deflate",)})
def compression(algorithm):
    async def work(c):
        result = await c.infer("iris", [iris_input()], compression_algorithm=algorithm)
        equal(result.as_numpy("label").tolist(), IRIS_LABELS)
    run(work)


@case
def many_at_once():
    async def work(c):
        results = await asyncio.gather(*(c.infer("iris", [iris_input(rows=1 + i % 3)]) for i in range(500)))
        for i, result in enumerate(results):
            equal(result.as_numpy("label").tolist(), IRIS_LABELS[:1 + i % 3])
    run(work)


@case
def cancelled_tasks():
    """Calls that are cancelled leave; those that are not, go on, on the same connection."""
    numpy = need("numpy")

    async def work(c):
        slow = [asyncio.ensure_future(c.infer("slow", [tensor("IN", numpy.zeros(1, dtype=numpy.float32), "FP32")]))
                for _ in range(20)]
        tasks = [asyncio.ensure_future(c.infer("iris", [iris_input()])) for _ in range(50)]
        await asyncio.sleep(0.05)
        for task in slow:
            task.cancel()
        for result in await asyncio.gather(*tasks):
            equal(result.as_numpy("label").tolist(), IRIS_LABELS)
        found = await asyncio.gather(*slow, return_exceptions=True)
        check(all(isinstance(error, asyncio.CancelledError) for error in found), "%s", found[:3])
        equal((await c.infer("iris", [iris_input()])).as_numpy("label").tolist(), IRIS_LABELS)
    run(work, slow=echo("slow", "FP32", mode="delay", delay_ms=60000))


@case
def errors_are_exceptions():
    utils = need("tritonclient.utils")

    async def work(c):
        with raises(utils.InferenceServerException, "none") as caught:
            await c.infer("none", [iris_input()])
        equal(caught.error.status(), "StatusCode.NOT_FOUND")
        for call, code in ((c.load_model("iris"), "UNIMPLEMENTED"),
                           (c.register_system_shared_memory("r", "/k", 64), "UNIMPLEMENTED"),
                           (c.infer("slow", [tensor("IN", need("numpy").zeros(1, dtype="float32"), "FP32")],
                                    client_timeout=0.2), "DEADLINE_EXCEEDED")):
            with raises(utils.InferenceServerException) as caught:
                await call
            equal(caught.error.status(), "StatusCode." + code)
        check(await c.is_server_live(), "not live")
    run(work, slow=echo("slow", "FP32", mode="delay", delay_ms=3000))


if __name__ == "__main__":
    main()
