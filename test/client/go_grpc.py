"""grpc-go with stubs generated from what the server says by reflection: descriptors, protoc, go build, calls."""
import os
import tempfile

from harness import ROOT, case, check, equal, main, need_program, need
from _client import echo, serving
from _grpc import Reflected, channel, go_environment, go_folder, run

MODULE = "penstock/test/clients"
CHECKS = ["metadata", "infer", "gzip", "large", "many", "errors", "typed", "streams", "health"]


def generate(over, where, folder):
    """Stubs of everything that reflection lists, one Go package for each of protobuf."""
    reflected = Reflected(over)
    path = os.path.join(where, "descriptors")
    with open(path, "wb") as file:
        file.write(reflected.descriptor_set())
    files = [f for f in reflected.everything() if not f.name.startswith("google/protobuf/")]
    # what grpc-go has inside itself must not be registered twice: reflection's own messages are left out
    files = [f for f in files if not f.package.startswith("grpc.reflection")]
    options = ["M%s=%s/stubs/%s" % (f.name, MODULE, f.package.replace(".", "_")) for f in files]
    options.append("Mgoogle/protobuf/struct.proto=google.golang.org/protobuf/types/known/structpb")
    command = [need_program("protoc"), "--descriptor_set_in=" + path]
    for kind in ("go", "go-grpc"):
        command.append("--plugin=protoc-gen-%s=%s" % (kind, os.path.join(folder, "bin", "protoc-gen-" + kind)))
        command.append("--%s_out=%s" % (kind, where))
        command += ["--%s_opt=module=%s" % (kind, MODULE)] + ["--%s_opt=%s" % (kind, option) for option in options]
    run(command + [f.name for f in files], "protoc")


@case
def stubs_from_reflection():
    folder = go_folder()
    need_program("protoc")
    need("grpc")
    with serving(slow=echo("slow", "FP32", "-1, -1", mode="delay", delay_ms=20000)) as server, channel(server) as over, \
            tempfile.TemporaryDirectory(prefix="penstock-go-") as where:
        generate(over, where, folder)
        for name in ("go.mod", "go.sum"):
            with open(os.path.join(ROOT, "script", "requirements", "go", name)) as file, open(os.path.join(where, name), "w") as to:
                to.write(file.read())
        with open(os.path.join(ROOT, "test", "client", "go", "main.go")) as file, open(os.path.join(where, "main.go"), "w") as to:
            to.write(file.read())
        program = os.path.join(where, "client")
        run([os.path.join(folder, "go"), "build", "-o", program, "."], "go build", cwd=where, env=go_environment(folder))
        printed = run([program, server.address], "the client in Go", 150)
        equal([line.split()[1] for line in printed.splitlines() if line.startswith("ok ")], CHECKS)


if __name__ == "__main__":
    main()
