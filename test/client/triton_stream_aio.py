"""tritonclient.grpc.aio's streams: stream_infer with an iterator of requests, answers as they come."""
import asyncio

from harness import case, check, equal, main, need
from _client import echo, serving
from _triton_stream import MODELS, is_final, numbers


def run(work, **more):
    aio = need("tritonclient.grpc.aio")
    with serving(tiny=echo("tiny", "FP32"), **MODELS, **more) as server:
        async def inner():
            async with aio.InferenceServerClient(server.address) as client:
                await asyncio.wait_for(work(client), 60)
        asyncio.run(inner())


def request(model, *values, **others):
    return {"model_name": model, "inputs": [numbers(*values)], **others}


@case
def in_order_with_an_error_between():
    async def work(client):
        async def requests():
            for i in range(10):
                yield request("tiny" if i != 4 else "none", i, request_id=str(i))
        found = []
        async for result, error in client.stream_infer(requests()):
            found.append(None if error else (result.get_response().id, float(result.as_numpy("OUT")[0])))
            check((error is not None) == (len(found) == 5), "answer %d: %s", len(found), error)
        equal(found, [None if i == 4 else (str(i), float(i)) for i in range(10)])
    run(work)


@case
def each_question_follows_an_answer():
    """A conversation: the next request is made of the answer before it."""
    async def work(client):
        queue = asyncio.Queue()

        async def requests():
            while True:
                value = await queue.get()
                if value is None:
                    return
                yield request("tiny", value)
        await queue.put(1)
        seen = []
        async for result, error in client.stream_infer(requests()):
            check(error is None, "%s", error)
            seen.append(float(result.as_numpy("OUT")[0]))
            await queue.put(seen[-1] * 2 if len(seen) < 12 else None)
        equal(seen, [2.0 ** i for i in range(12)])
    run(work)


@case
def decoupled():
    async def work(client):
        async def requests():
            for name in "ab":
                yield request("paced", 1, request_id=name, parameters={"count": "6"})
        found = {"a": [], "b": []}
        async for result, error in client.stream_infer(requests()):
            check(error is None, "%s", error)
            found[result.get_response().id].append(is_final(result))
        # this side of the client has no way to ask for the empty one behind them
        equal(found, {name: [False] * 6 for name in "ab"})
    run(work)


@case
def cancelled_in_the_middle():
    async def work(client):
        async def requests():
            yield request("endless", 1)
            await asyncio.sleep(60)
        stream = client.stream_infer(requests())
        async for result, error in stream:
            check(error is None, "%s", error)
            break
        stream.cancel()
        async def one():
            yield request("tiny", 3)
        async for result, error in client.stream_infer(one()):
            equal(result.as_numpy("OUT").tolist(), [3])
    run(work)


if __name__ == "__main__":
    main()
