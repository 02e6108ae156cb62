"""What the tests of gRPC clients share: channels, and stubs made at run time from what the server says by reflection.

Nothing here knows the server's messages: `Reflected` asks for every file of every service, and makes classes of what it is told.
"""
import contextlib
import os
import subprocess

from harness import check, need, skip
from _client import IRIS_INPUT

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SECONDS = 30


@contextlib.contextmanager
def channel(server, *options):
    with need("grpc").insecure_channel(server.address, options=UNLIMITED + list(options)) as found:
        yield found


def status(error):
    """"NOT_FOUND" of an RpcError."""
    return error.code().name


class Reflected:
    """Everything that reflection tells: files, services, methods to call."""

    def __init__(self, over, version="v1"):
        self.over = over
        self.path = "/grpc.reflection.%s.ServerReflection/ServerReflectionInfo" % version
        self.pb = need("grpc_reflection.v1alpha.reflection_pb2")        # the messages of both versions are alike
        self.pool = need("google.protobuf.descriptor_pool").DescriptorPool()
        self.files = {}

    def ask(self, *requests):
        """The answers to requests of one stream: each given as its one field, {"list_services": "*"}."""
        call = self.over.stream_stream(self.path, request_serializer=self.pb.ServerReflectionRequest.SerializeToString,
                                       response_deserializer=self.pb.ServerReflectionResponse.FromString)
        return list(call(iter([self.pb.ServerReflectionRequest(**request) for request in requests]), timeout=SECONDS))

    def services(self):
        answer, = self.ask({"list_services": "*"})
        return [service.name for service in answer.list_services_response.service]

    def _add(self, answer):
        check(answer.WhichOneof("message_response") == "file_descriptor_response", "reflection: %s", answer)
        file_class = need("google.protobuf.descriptor_pb2").FileDescriptorProto
        new = [file_class.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]
        for file in new:
            for name in file.dependency:
                if name not in self.files and name not in [other.name for other in new]:
                    self._add(self.ask({"file_by_filename": name})[0])
        while new:
            file = next((f for f in new if all(name in self.files for name in f.dependency)), None)
            check(file is not None, "reflection: files that import each other, or one that is missing: %s",
                  [(f.name, list(f.dependency)) for f in new])
            new.remove(file)
            if file.name not in self.files:
                self.files[file.name] = file
                self.pool.Add(file)

    def service(self, name):
        """The descriptor of a service."""
        try:
            return self.pool.FindServiceByName(name)
        except KeyError:
            self._add(self.ask({"file_containing_symbol": name})[0])
            return self.pool.FindServiceByName(name)

    def classes(self, service, method):
        """(class of requests, class of answers)"""
        found = self.service(service).methods_by_name.get(method)
        check(found is not None, "%s has no method %s", service, method)
        factory = need("google.protobuf.message_factory")
        return factory.GetMessageClass(found.input_type), factory.GetMessageClass(found.output_type)

    def unary(self, service, method):
        """f(request as a dict) -> answer, a message; keywords as of grpcio's stubs."""
        asked, answered = self.classes(service, method)
        call = self.over.unary_unary("/%s/%s" % (service, method), request_serializer=asked.SerializeToString,
                                     response_deserializer=answered.FromString)
        parse = need("google.protobuf.json_format").ParseDict

        def ask(request=None, timeout=SECONDS, **others):
            return call(parse(request or {}, asked()), timeout=timeout, **others)
        ask.with_call = lambda request=None, **others: call.with_call(parse(request or {}, asked()), timeout=SECONDS, **others)
        return ask

    def everything(self):
        """Every file of every service, each behind those it imports."""
        for name in self.services():
            self.service(name)
        return list(self.files.values())

    def descriptor_set(self):
        files = need("google.protobuf.descriptor_pb2").FileDescriptorSet()
        files.file.extend(self.everything())
        return files.SerializeToString()


def as_dict(message):
    return need("google.protobuf.json_format").MessageToDict(message, preserving_proto_field_name=True)


# --- tensors of tritonclient --------------------------------------------------------------------------------

def iris_input(rows=3):
    numpy = need("numpy")
    return tensor("input", numpy.array(IRIS_INPUT[:rows], dtype=numpy.float32), "FP32")


def tensor(name, data, datatype):
    found = need("tritonclient.grpc").InferInput(name, list(data.shape), datatype)
    found.set_data_from_numpy(data)
    return found


def output(name, **others):
    return need("tritonclient.grpc").InferRequestedOutput(name, **others)


# --- programs of the tier `clients` ------------------------------------------------------------------------

def go_folder():
    """Where script/bootstrap clients put go, grpcurl and the modules, or a skip."""
    folder = os.environ.get("PENSTOCK_GO_DIR")
    if not folder or not os.path.exists(folder):
        skip("no Go modules (script/bootstrap clients)")
    return folder


def go_environment(folder):
    """As script/bootstrap built with, and no network."""
    return dict(os.environ, GOTOOLCHAIN="local", GOWORK="off", GOENV="off", GO111MODULE="on", CGO_ENABLED="0", GOPROXY="off",
                GOSUMDB="off", GOFLAGS="-mod=readonly -trimpath -modcacherw", GOMODCACHE=os.path.join(folder, "mod"),
                GOCACHE=os.path.join(folder, "build"), GOPATH=os.path.join(folder, "path"))


def run(command, what, seconds=300, **others):
    """What a program printed; a failure shows it."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, **others)
    check(done.returncode == 0, "%s ended with %d: %s", what, done.returncode, (done.stderr + done.stdout).strip()[-1500:])
    return done.stdout
