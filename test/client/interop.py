"""gRPC's interop service by grpcio, for what the client in Go does not do: compression that is expected, large messages,
collected requests, who reads slowly, and that nobody sees the service who did not ask for it."""
import threading
import time

from harness import Server, case, check, equal, main, need, raises
from _client import EXAMPLES
from _grpc import Reflected, channel, status

SERVICE = "grpc.testing.TestService"
MIB = 1 << 20


def serving(*options):
    return Server(EXAMPLES, options=["--test-services", *options])


class Service:
    """Methods by name, of the kind that reflection says."""

    def __init__(self, over):
        self.over, self.reflected = over, Reflected(over)
        self.kinds = {m.name: (m.client_streaming, m.server_streaming) for m in self.reflected.service(SERVICE).methods}

    def request(self, method, **fields):
        return self.reflected.classes(SERVICE, method)[0](**fields)

    def __getattr__(self, method):
        asked, answered = self.reflected.classes(SERVICE, method)
        one, other = ("stream" if is_stream else "unary" for is_stream in self.kinds[method])
        return getattr(self.over, "%s_%s" % (one, other))("/%s/%s" % (SERVICE, method),
                                                          request_serializer=asked.SerializeToString,
                                                          response_deserializer=answered.FromString)


@case
def seen_only_when_asked_for():
    grpc = need("grpc")
    with serving() as server, channel(server) as over:
        names = Reflected(over).services()
        check(SERVICE in names and "grpc.testing.UnimplementedService" in names, "%s", names)
    with Server(EXAMPLES) as server, channel(server) as over:
        reflected = Reflected(over)
        check(not [name for name in reflected.services() if "testing" in name], "%s", reflected.services())
        for request in ({"file_containing_symbol": SERVICE}, {"file_by_filename": "grpc/testing/test.proto"}):
            equal(reflected.ask(request)[0].WhichOneof("message_response"), "error_response")
        with raises(grpc.RpcError, "--test-services") as caught:
            over.unary_unary("/%s/EmptyCall" % SERVICE)(b"", timeout=10)
        equal(status(caught.error), "UNIMPLEMENTED")


@case
def large_messages_both_ways():
    with serving() as server, channel(server) as over:
        service = Service(over)
        size = 10 * MIB
        found = service.UnaryCall(service.request("UnaryCall", response_size=size, payload={"body": bytes(size)}), timeout=30)
        equal(len(found.payload.body), size)
        check(found.payload.body.count(0) == size, "zeros")
        request = service.request("StreamingOutputCall", response_parameters=[{"size": size}] * 3)
        equal([len(answer.payload.body) for answer in service.StreamingOutputCall(request, timeout=60)], [size] * 3)


@case
def compression_that_is_expected():
    """client_compressed_unary and client_compressed_streaming."""
    grpc = need("grpc")
    with serving() as server, channel(server) as over:
        service = Service(over)
        request = service.request("UnaryCall", expect_compressed={"value": True}, response_size=314159, payload={"body": bytes(271828)})
        with raises(grpc.RpcError, "not compressed") as caught:
            service.UnaryCall(request, timeout=10)
        equal(status(caught.error), "INVALID_ARGUMENT")
        for how in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            equal(len(service.UnaryCall(request, timeout=10, compression=how).payload.body), 314159)
        request = service.request("StreamingInputCall", expect_compressed={"value": True}, payload={"body": bytes(27182)})
        with raises(grpc.RpcError, "not compressed"):
            service.StreamingInputCall(iter([request]), timeout=10)
        others = service.request("StreamingInputCall", expect_compressed={"value": False}, payload={"body": bytes(45904)})
        found = service.StreamingInputCall(iter([request, others]), timeout=10, compression=grpc.Compression.Gzip)
        equal(found.aggregated_payload_size, 73086)


@case
def half_duplex_answers_at_the_end():
    with serving() as server, channel(server) as over:
        service = Service(over)
        sizes, gate, first = [31415, 9, 2653, 58979], threading.Event(), threading.Event()

        def requests():
            for size in sizes[:3]:
                yield service.request("HalfDuplexCall", response_parameters=[{"size": size}])
            gate.wait(10)
            yield service.request("HalfDuplexCall", response_parameters=[{"size": sizes[3]}])

        call, found = service.HalfDuplexCall(requests(), timeout=30), []

        def read():
            for answer in call:
                found.append(len(answer.payload.body))
                first.set()
        reader = threading.Thread(target=read)
        reader.start()
        check(not first.wait(0.2), "an answer before the end of the requests")
        gate.set()
        reader.join(30)
        equal(found, sizes)


@case
def metadata_of_a_stream_comes_back():
    with serving() as server, channel(server) as over:
        service = Service(over)
        sent = (("x-grpc-test-echo-initial", "test_initial_metadata_value"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"))
        call = service.FullDuplexCall(iter([service.request("FullDuplexCall", response_parameters=[{"size": 1}])]),
                                      metadata=sent, timeout=10)
        equal(len(list(call)), 1)
        equal(dict(call.initial_metadata()).get(sent[0][0]), sent[0][1])
        equal(dict(call.trailing_metadata()).get(sent[1][0]), sent[1][1])


@case
def a_reader_that_stops_stops_the_answers():
    """10,000 answers of 64 KiB to one that reads none: what the server holds is bounded, and others are served."""
    with serving() as server, channel(server, ("grpc.use_local_subchannel_pool", 1)) as over:
        service = Service(over)
        request = service.request("StreamingOutputCall", response_parameters=[{"size": 65536}] * 10000)

        def sent():
            text = server.call("GET", "/metrics")[2].decode()
            return next(float(line.split()[-1]) for line in text.splitlines()
                        if line.startswith('penstock_grpc_messages_total{direction="out"}'))
        call = service.StreamingOutputCall(request, timeout=30)
        next(call)
        until, last = time.monotonic() + 10, -1
        while sent() != last and time.monotonic() < until:
            last = sent()
            time.sleep(0.3)
        check(last < 3000, "%d of 10,000 answers were made for nobody", last)
        call.cancel()
        equal(len(service.UnaryCall(service.request("UnaryCall", response_size=7), timeout=10).payload.body), 7)


@case
def intervals_are_kept():
    with serving() as server, channel(server) as over:
        service = Service(over)
        request = service.request("StreamingOutputCall", response_parameters=[{"size": 1, "interval_us": 30000}] * 5)
        begun, times = time.monotonic(), []
        for _ in service.StreamingOutputCall(request, timeout=10):
            times.append(time.monotonic() - begun)
        equal(len(times), 5)
        for i, at in enumerate(times):
            check(at >= 0.03 * (i + 1) - 0.002, "answer %d came after %.3f s", i, at)


if __name__ == "__main__":
    main()
