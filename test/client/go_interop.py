"""gRPC's interop tests by the official client in Go (google.golang.org/grpc/interop/client): one case each."""
import os

from harness import Server, cases, check, main, skip
from _client import EXAMPLES
from _grpc import go_folder, run

CASES = ["empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
         "timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "status_code_and_message",
         "special_status_message", "custom_metadata", "unimplemented_method", "unimplemented_service", "pick_first_unary"]


@cases([(name, name) for name in CASES])
def interop(name):
    program = os.path.join(go_folder(), "bin", "client")
    if not os.path.exists(program):
        skip("no interop client in %s (script/bootstrap clients)" % go_folder())
    with Server(EXAMPLES, options=["--test-services"]) as server:
        run([program, "-server_host", server.host, "-server_port", str(server.port), "-test_case", name], name, 60)
        found = server.call("GET", "/metrics")[2].decode()
        check("penstock_grpc_calls_total" in found, "the server answers after it")


if __name__ == "__main__":
    main()
