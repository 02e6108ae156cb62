"""gRPC-Web by Connect's client for Go (connectrpc.com/connect), over HTTP/1.1 and HTTP/2."""
import os
import shutil
import tempfile

from harness import ROOT, Server, case, equal, main
from _client import EXAMPLES
from _grpc import go_environment, go_folder, run

CHECKS = ["unary", "metadata", "status", "stream", "deadline", "one_message", "gzip"]


@case
def connect():
    folder = go_folder()
    with Server(EXAMPLES, options=["--test-services"]) as server, tempfile.TemporaryDirectory(prefix="penstock-go-") as where:
        for name in ("go.mod", "go.sum"):
            shutil.copy(os.path.join(ROOT, "script", "requirements", "go", name), where)
        shutil.copy(os.path.join(ROOT, "test", "client", "go_web", "main.go"), where)
        program = os.path.join(where, "client")
        run([os.path.join(folder, "go"), "build", "-o", program, "."], "go build", cwd=where, env=go_environment(folder))
        printed = run([program, server.url], "Connect's client", 100)
        equal(sorted(line.split()[1] for line in printed.splitlines() if line.startswith("ok ")),
              sorted("%s_%s" % (over, name) for over in ("http1", "http2") for name in CHECKS))


if __name__ == "__main__":
    main()
