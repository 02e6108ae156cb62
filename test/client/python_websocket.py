"""WebSocket clients that people own: websockets (asyncio, threads), aiohttp, and wsproto over h2 (RFC 8441)."""
import asyncio
import os
import socket
import threading

from harness import Failed, case, cases, check, equal, main, need
from _client import serving

OPTIONS = ("--test-services", "--max-message", "16MiB")
SIZES = [0, 1, 125, 126, 1000, 1024, 5000, 65535, 65536, 1 << 20, 10 << 20]


def messages():
    """Binary and text of every size; text gets smaller when it is compressed."""
    numbers = " ".join(map(str, range(1600000)))
    for size in SIZES:
        yield os.urandom(size)
        yield numbers[:size]
    yield "κόσμε 😀" * 1000


@cases({"plain": (None,), "deflate": ("deflate",)})
def websockets_asyncio(compression):
    websockets = need("websockets")

    async def talk(url):
        async with websockets.connect(url, compression=compression, max_size=None) as ws:
            agreed = ws.response.headers.get("Sec-WebSocket-Extensions", "")
            check(bool(agreed) == bool(compression), "extensions: %r", agreed)
            for message in messages():
                await ws.send(message)
                same(await ws.recv(), message)
            latency = await (await ws.ping(b"here?"))
            check(latency >= 0, "a pong")
            await ws.send(["in ", "three ", "fragments"])
            equal(await ws.recv(), "in three fragments")
            for i in range(2000):
                await ws.send("message %d" % i)
            for i in range(2000):
                equal(await ws.recv(), "message %d" % i)
            await ws.close(4000, "enough")
        equal((ws.close_code, ws.protocol.close_rcvd.code), (4000, 4000))

    async def many(url):
        async def one(number):
            async with websockets.connect(url, compression=compression) as ws:
                for i in range(50):
                    await ws.send("%d of %d" % (i, number))
                    equal(await ws.recv(), "%d of %d" % (i, number))
        await asyncio.gather(*(one(i) for i in range(50)))

    async def too_large(url):
        ws = await websockets.connect(url, compression=compression)     # which cannot leave a `with` once the server has left
        try:
            await ws.send(os.urandom(17 << 20))
            await ws.recv()
        except websockets.ConnectionClosedError as error:
            equal(error.rcvd.code, 1009)
            check("--max-message" in error.rcvd.reason, "%s", error.rcvd.reason)
            return
        raise Failed("17 MiB were taken")

    async def refused(url):
        try:
            async with websockets.connect(url, origin="https://evil.example"):
                raise Failed("a page of another site was let in")
        except websockets.InvalidStatus as error:
            equal(error.response.status_code, 403)

    with serving(OPTIONS) as server:
        url = "ws://%s/echo" % server.address
        for step in (talk, many, too_large, refused):
            asyncio.run(step(url))


@case
def websockets_threads():
    need("websockets")
    from websockets.sync.client import connect
    with serving(OPTIONS) as server, connect("ws://%s/echo" % server.address, max_size=None) as ws:
        for message in messages():
            ws.send(message)
            same(ws.recv(), message)
        done = []

        def read():
            for message in ws:
                done.append(message)
                if len(done) == 500:
                    break
        reader = threading.Thread(target=read)
        reader.start()
        for i in range(500):
            ws.send(str(i))
        reader.join(30)
        equal(done, [str(i) for i in range(500)])


@cases({"plain": (0,), "deflate": (15,)})
def aiohttp_client(compress):
    aiohttp = need("aiohttp")

    async def talk(url):
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(url, compress=compress, max_msg_size=0, heartbeat=5) as ws:
                for message in messages():
                    if isinstance(message, str):
                        await ws.send_str(message)
                        same(await ws.receive_str(), message)
                    else:
                        await ws.send_bytes(message)
                        same(await ws.receive_bytes(), message)
                await ws.close(code=1000)
                equal(ws.close_code, 1000)
    with serving(OPTIONS) as server:
        asyncio.run(talk("http://%s/echo" % server.address))


def same(found, sent):
    """Without printing 10 MiB when they are not."""
    check(found == sent, "%s of %d came back as %.200r", type(sent).__name__, len(sent), found)


class OverHttp2:
    """wsproto's frames on a stream of h2's connection."""

    def __init__(self, server, deflate):
        h2, wsproto = need("h2.connection"), need("wsproto.connection")
        config, extensions = need("h2.config"), need("wsproto.extensions")
        self.events = need("wsproto.events")
        self.h2_events = need("h2.events")
        self.socket = socket.create_connection((server.host, server.port), 20)
        self.h2 = h2.H2Connection(config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.socket.sendall(self.h2.data_to_send())
        while not self.h2.remote_settings.enable_connect_protocol:
            self.pump()
        self.stream = self.h2.get_next_available_stream_id()
        offered = extensions.PerMessageDeflate() if deflate else None
        headers = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/echo"),
                   (":authority", server.address), ("sec-websocket-version", "13")]
        if deflate:
            headers.append(("sec-websocket-extensions", "permessage-deflate; " + str(offered.offer())))
        self.answer, self.ended, self.found = None, False, []
        self.h2.send_headers(self.stream, headers)
        self.socket.sendall(self.h2.data_to_send())
        self.ws = None
        while self.answer is None:
            self.pump()
        equal(self.answer[":status"], "200")
        agreed = self.answer.get("sec-websocket-extensions", "")
        check(bool(agreed) == deflate, "extensions: %r", agreed)
        if agreed:
            offered.finalize(agreed)
        self.ws = wsproto.Connection(wsproto.ConnectionType.CLIENT, [offered] if agreed else [])

    def pump(self):
        data = self.socket.recv(1 << 16)
        check(data, "the connection ended")
        for event in self.h2.receive_data(data):
            if isinstance(event, self.h2_events.ResponseReceived):
                text = [(name.decode() if isinstance(name, bytes) else name, value.decode() if isinstance(value, bytes) else value)
                        for name, value in event.headers]
                self.answer = dict(text)
            elif isinstance(event, self.h2_events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.ws.receive_data(event.data)
                self.found += self.ws.events()
            elif isinstance(event, self.h2_events.StreamEnded):
                self.ended = True
        self.socket.sendall(self.h2.data_to_send())

    def send(self, event):
        data = self.ws.send(event)
        while data:
            room = min(self.h2.local_flow_control_window(self.stream), self.h2.max_outbound_frame_size, len(data))
            if room == 0:
                self.pump()
                continue
            self.h2.send_data(self.stream, data[:room])
            self.socket.sendall(self.h2.data_to_send())
            data = data[room:]

    def read(self):
        """A message, or another event."""
        parts = []
        while True:
            while not self.found:
                self.pump()
            event = self.found.pop(0)
            if not isinstance(event, self.events.Message):
                return event
            parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
            if event.message_finished:
                return parts[0][:0].join(parts)


@cases({"plain": (False,), "deflate": (True,)})
def wsproto_over_http2(deflate):
    with serving(OPTIONS) as server:
        one = OverHttp2(server, deflate)
        for message in messages():
            one.send(one.events.TextMessage(message) if isinstance(message, str) else one.events.BytesMessage(message))
            same(one.read(), message)
        one.send(one.events.Ping(b"here?"))
        equal(bytes(one.read().payload), b"here?")
        one.send(one.events.CloseConnection(1000, "enough"))
        equal(one.read().code, 1000)
        while not one.ended:
            one.pump()
        one.socket.close()


if __name__ == "__main__":
    main()
