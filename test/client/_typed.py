"""What the tests of the typed services' streams share."""
from harness import need

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
