"""typed_stream.py - the four patterns of penstock.models.<Model>: stubs by reflection, sync and aio."""
import asyncio
import sys

from harness import case, check, equal, main, need, raises
from _client import echo, serving
from _grpc import Reflected, as_dict, channel, status

SECONDS = 30


class Stub:
    """What protoc's generator makes of a typed service: a method for each, which takes dicts."""

    def __init__(self, found, over, service):
        parse = need("google.protobuf.json_format").ParseDict
        self.classes = {}
        for method in found.service(service).methods:
            asked, answered = found.classes(service, method.name)
            kind = "%s_%s" % ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
            call = getattr(over, kind)("/%s/%s" % (service, method.name), request_serializer=asked.SerializeToString,
                                       response_deserializer=answered.FromString)
            self.classes[method.name] = (asked, answered)
            setattr(self, method.name, self._method(call, asked, parse, method.client_streaming))

    @staticmethod
    def _method(call, asked, parse, is_stream):
        def make(request):
            return parse(request, asked()) if isinstance(request, dict) else request

        def one(request, timeout=SECONDS, **others):
            return call(make(request), timeout=timeout, **others)

        def many(requests=None, timeout=SECONDS, **others):
            if requests is None or hasattr(requests, "__aiter__"):
                return call(requests, timeout=timeout, **others)
            return call((make(request) for request in requests), timeout=timeout, **others)
        return many if is_stream else one


def row(n=0):
    return dict(zip(("sepal_length", "sepal_width", "petal_length", "petal_width"), (5.1 + n, 3.5, 1.4, 0.2)))


