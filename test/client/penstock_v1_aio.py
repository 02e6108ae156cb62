"""penstock.v1.Inference by grpc.aio: many sessions at once, each in order; who cancels frees the model; thousands of them."""
import asyncio
import re
import time

from harness import case, check, equal, main, need
from _client import IRIS_INPUT, IRIS_LABELS, serving
from _grpc import UNLIMITED
from _penstock_v1 import a_input, decoupled, numbers, reflected_v1, resident, values


def run(server, work):
    aio = need("grpc.aio")

    async def whole():
        async with aio.insecure_channel(server.address, options=UNLIMITED) as over:
            await work(reflected_v1(server, over))
    asyncio.run(whole())


def open_sessions(server):
    _, _, body = server.call("GET", "/metrics")
    return int(re.search(r"^penstock_sessions_open (\d+)$", body.decode(), re.M).group(1))


def none_left(server):
    until = time.monotonic() + 10
    while open_sessions(server) != 0:
        check(time.monotonic() < until, "%d sessions are left", open_sessions(server))
        time.sleep(0.02)


@case
def the_four_patterns():
    async def work(v1):
        one = await v1.infer({"model": "iris", "inputs": [numbers("input", *IRIS_INPUT)]})
        equal(values(one.outputs[0]), IRIS_LABELS)
        equal([m.sequence async for m in v1.stream({"model": "ticks", "inputs": [numbers("IN", 1)]})], [1, 2, 3])
        rows = [{"model": "iris" if i == 0 else "", "inputs": [numbers("input", *row)]} for i, row in enumerate(IRIS_INPUT)]
        equal(values((await v1.collect(rows)).outputs[0]), IRIS_LABELS)
        seen = [m async for m in v1.session([{"begin": {"model": "echo_FP32"}}, a_input(1), a_input(2)])]
        equal([values(m.output.outputs[0]) for m in seen[1:]], [[1], [2]])
    with serving(ticks=decoupled("ticks", mode="repeat", count=3)) as server:
        run(server, work)


@case
def two_hundred_conversations_at_once():
    async def talk(v1, who):
        call = v1.raw_session(None)
        await call.write(v1.request({"begin": {"model": "echo_FP32"}}))
        await call.read()
        for i in range(10):
            await call.write(v1.request(a_input(who, i)))
            answer = await call.read()
            equal((answer.output.input, values(answer.output.outputs[0])), (i + 1, [who, i]))
        await call.done_writing()
        check(await call.read() is need("grpc").aio.EOF, "more came")

    async def work(v1):
        await asyncio.gather(*(talk(v1, who) for who in range(200)))
    with serving() as server:
        run(server, work)
        none_left(server)


@case
def thousands_that_cancel():
    """Streams begun and cancelled, some before and some behind the first answer, leave nothing behind."""
    async def one(v1, waits):
        call = v1.raw_session(None)
        await call.write(v1.request({"begin": {"model": "slow"}}))
        await call.write(v1.request(a_input(1)))
        for _ in range(waits):
            await call.read()
        call.cancel()

    async def work(v1):
        for round_ in range(rounds):
            await asyncio.gather(*(one(v1, i % 3) for i in range(50)), return_exceptions=True)
    with serving(slow=decoupled("slow", mode="repeat", count=1000000, delay_ms=5)) as server:
        rounds = 10
        run(server, work)
        none_left(server)
        before = resident(server)
        rounds = 40
        run(server, work)
        none_left(server)
        check(resident(server) - before < 4 << 20, "memory grew by %g MB", (resident(server) - before) / 1e6)


if __name__ == "__main__":
    main()
