"""A thousand calls at once on one connection, beside a message of 16 MiB; and a server that stops under load."""
import asyncio
import threading
import time

from harness import Server, case, check, equal, main, models, need
from _client import EXAMPLES, echo, serving
from _grpc import UNLIMITED

IRIS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.1, 4.7, 1.5], [6.3, 3.3, 6.0, 2.5]]


def messages():
    return need("tritonclient.grpc.service_pb2"), need("tritonclient.grpc.service_pb2_grpc").GRPCInferenceServiceStub


def iris_request(i):
    """Which flower depends on i, so that answers given to the wrong call are seen."""
    numpy, pb = need("numpy"), messages()[0]
    request = pb.ModelInferRequest(model_name="iris", id=str(i))
    request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(numpy.array(IRIS[i % 3], dtype=numpy.float32).tobytes())
    return request


def iris_check(i, answer):
    equal((answer.id, answer.model_name), (str(i), "iris"))
    at = [tensor.name for tensor in answer.outputs].index("label")
    equal(answer.raw_output_contents[at], (i % 3).to_bytes(8, "little"), "label of call %d" % i)


def echo_request(model, data):
    request = messages()[0].ModelInferRequest(model_name=model, id="big")
    request.inputs.add(name="IN", datatype="FP32", shape=[1, len(data) // 4])
    request.raw_input_contents.append(data)
    return request


@case
def a_thousand_in_flight_beside_a_large_one():
    """Models that take 300 ms, so that all are in flight; the large one passes between the small ones."""
    grpc, (pb, stub) = need("grpc"), messages()
    big = need("numpy").random.RandomState(1).bytes(16 << 20)
    layout = {"slow": echo("slow", "FP32", "-1, -1", mode="delay", delay_ms=300)}

    async def work(server):
        async with grpc.aio.insecure_channel(server.address, options=UNLIMITED) as over:
            infer = stub(over).ModelInfer
            large = asyncio.ensure_future(infer(echo_request("echo_FP32", big), timeout=120))
            small = [asyncio.ensure_future(infer(iris_request(i), timeout=120)) for i in range(1000)]
            again = asyncio.ensure_future(infer(echo_request("echo_FP32", big), timeout=120))
            for i, answer in enumerate(await asyncio.gather(*small)):
                iris_check(i, answer)
            for one in (large, again):
                answer = await one
                check(answer.raw_output_contents[0] == big and answer.id == "big", "16 MiB came back changed")
    with serving(**layout) as server:
        asyncio.run(work(server))


@case
def a_thousand_that_wait():
    """More than the streams one connection may have: the client holds the rest back, and each is answered."""
    grpc, (pb, stub) = need("grpc"), messages()

    async def work(server):
        async with grpc.aio.insecure_channel(server.address, options=UNLIMITED) as over:
            infer = stub(over).ModelInfer
            data = [i.to_bytes(4, "little") for i in range(1000)]
            answers = await asyncio.gather(*(infer(echo_request("slow", one), timeout=120) for one in data))
            for one, answer in zip(data, answers):
                equal(answer.raw_output_contents[0], one)
    config = echo("slow", "FP32", "-1, -1", mode="delay", delay_ms=50).replace(
        b"max_batch_size: 0", b"max_batch_size: 0\ninstance_group [{ count: 64 kind: KIND_CPU }]")
    with serving(slow=config) as server:
        asyncio.run(work(server))


def under_load(stop, options=(), workers=4):
    """Calls without a pause while `stop(server)` is done. Returns the answers, and the errors after the first."""
    grpc, (pb, stub) = need("grpc"), messages()
    lock, count, errors, ended = threading.Lock(), [0, 0], [], threading.Event()
    layout = {"iris": EXAMPLES + "/iris", "slow/config.pbtxt": echo("slow", "FP32", "-1, -1", mode="delay", delay_ms=30),
              "slow/1/.keep": b""}

    def work(server, number):
        with grpc.insecure_channel(server.address, options=UNLIMITED + [("grpc.enable_retries", 1)]) as over:
            infer = stub(over).ModelInfer
            i = number
            while not ended.is_set():
                try:
                    if i % 2:
                        iris_check(i, infer(iris_request(i), timeout=30))
                    else:
                        data = i.to_bytes(4, "little")
                        equal(infer(echo_request("slow", data), timeout=30).raw_output_contents[0], data)
                    with lock:
                        count[0] += 1
                except grpc.RpcError as error:
                    with lock:
                        errors.append((error.code().name, error.details()))
                    return
                i += workers
    with models(layout) as folder:
        server = Server(folder, options=options).start()
        threads = [threading.Thread(target=work, args=(server, i)) for i in range(workers)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        before = count[0]
        status = stop(server)
        ended.set()
        for thread in threads:
            thread.join(60)
        equal(status, 0)
        check(before > 50, "only %d calls before it stopped", before)
        return count[0], errors


@case
def drain_loses_no_call():
    """After SIGTERM every call that the server took is answered, and the rest are refused so that a client may try again
    elsewhere: as there is no elsewhere, they end as UNAVAILABLE because nobody listens, never in the middle of a call."""
    count, errors = under_load(lambda server: server.stop())
    for code, text in errors:
        check(code == "UNAVAILABLE", "a call was lost: %s %s", code, text)
        check("refused" in text.lower() or "goaway" in text.lower() or "connect" in text.lower(), "a call was lost: %s", text)


@case
def connections_that_are_told_to_leave_lose_no_call():
    """--connection-age in the middle of everything: clients connect again, and no call fails."""
    def wait(server):
        time.sleep(3)
        return server.process.poll() or 0
    count, errors = under_load(wait, options=["--connection-age", "300ms"])
    equal(errors, [])
    check(count > 100, "only %d calls", count)


@case
def sigterm_while_calls_are_in_flight():
    grpc, (pb, stub) = need("grpc"), messages()
    layout = {"slow/config.pbtxt": echo("slow", "FP32", "-1, -1", mode="delay", delay_ms=800), "slow/1/.keep": b""}
    layout["slow/config.pbtxt"] += b"instance_group [{ count: 8 kind: KIND_CPU }]\n"
    with models(layout) as folder:
        server = Server(folder).start()
        with grpc.insecure_channel(server.address) as over:
            infer = stub(over).ModelInfer
            calls = [infer.future(echo_request("slow", i.to_bytes(4, "little")), timeout=30) for i in range(8)]
            time.sleep(0.3)
            begun = time.monotonic()
            equal(server.stop(), 0)
            check(time.monotonic() - begun < 10, "it took %.1f s", time.monotonic() - begun)
            for i, call in enumerate(calls):
                equal(call.result(30).raw_output_contents[0], i.to_bytes(4, "little"))


@case
def a_drain_has_an_end():
    """--drain-timeout passes: what is left is answered UNAVAILABLE or cut, and the server ends."""
    grpc, (pb, stub) = need("grpc"), messages()
    layout = {"slow/config.pbtxt": echo("slow", "FP32", "-1, -1", mode="delay", delay_ms=60000), "slow/1/.keep": b""}
    with models(layout) as folder:
        server = Server(folder, options=["--drain-timeout", "300ms"]).start()
        with grpc.insecure_channel(server.address, options=[("grpc.enable_retries", 0)]) as over:
            call = stub(over).ModelInfer.future(echo_request("slow", b"\0" * 4), timeout=60)
            time.sleep(0.3)
            begun = time.monotonic()
            equal(server.stop(), 0)
            check(time.monotonic() - begun < 10, "it took %.1f s", time.monotonic() - begun)
            check(call.exception(30).code().name in ("UNAVAILABLE", "CANCELLED"), "%s", call.exception())


if __name__ == "__main__":
    main()
