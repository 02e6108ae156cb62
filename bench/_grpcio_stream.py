"""The usual Python server of a stream: grpcio's asyncio server, one generic handler that answers every call with a stream.

    python _grpcio_stream.py PORT FILE OFFSET KIND COUNT PERIOD_MS
"""
import asyncio
import sys

import grpc

from _token_file import Token


class App(grpc.GenericRpcHandler):
    def __init__(self, token):
        self.token = token

    def service(self, call):
        return grpc.unary_stream_rpc_method_handler(self.answer)

    async def answer(self, request, context):
        async for message in self.token():
            yield message


async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((App(Token(*sys.argv[2:])),))
    server.add_insecure_port("127.0.0.1:" + sys.argv[1])
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
