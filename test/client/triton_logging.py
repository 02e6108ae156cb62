"""Triton's logging extension: what the log says, read and changed while the server runs, over REST and gRPC, by those who may."""
import json
import os
import tempfile

from harness import ROOT, Server, case, check, equal, main, need

IRIS = os.path.join(ROOT, "examples", "models", "iris")
USUAL = {"log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0, "log_format": "ISO8601"}


def refused(call, *words):
    from tritonclient.utils import InferenceServerException
    try:
        call()
    except InferenceServerException as error:
        for word in words:
            check(word in str(error), "%r lacks %r", str(error), word)
        return
    check(False, "it was not refused")


@case
def read_and_changed_over_rest():
    http = need("tritonclient.http")
    with Server(IRIS, options=["--admin"]) as server:
        client = http.InferenceServerClient(server.address)
        check("logging" in client.get_server_metadata()["extensions"], "the extension is not named")
        equal(client.get_log_settings(), USUAL)
        equal(client.update_log_settings({"log_info": False, "log_verbose_level": 1}),
              dict(USUAL, log_info=False, log_verbose_level=1))
        equal(client.get_log_settings(), dict(USUAL, log_info=False, log_verbose_level=1))
        client.update_log_settings({"log_format": "JSON", "log_info": True})
    line = next(line for line in server.log.splitlines() if "changed over the wire" in line)
    equal(json.loads(line)["level"], "info")


@case
def wrong_ones_change_nothing():
    http = need("tritonclient.http")
    with Server(IRIS, options=["--admin"]) as server:
        client = http.InferenceServerClient(server.address)
        for wrong, words in (({"log_info": False, "log_colour": True}, ("log_colour", "log_verbose_level")),
                             ({"log_info": False, "log_file": "/tmp/x"}, ("log_file", "standard error")),
                             ({"log_info": "no"}, ("log_info",)), ({"log_verbose_level": -1}, ("log_verbose_level",)),
                             ({"log_format": "default"}, ("ISO8601", "JSON"))):
            refused(lambda: client.update_log_settings(wrong), *words)
            equal(client.get_log_settings(), USUAL)
        for body in (b"", b"[]", b"{", b'{"log_info":true} x', b"x" * 70000):
            status = server.call("POST", "/v2/logging", body, {})[0]
            check(status in (400, 413), "%r: status %d", body[:20], status)


@case
def read_and_changed_over_grpc():
    grpc = need("tritonclient.grpc")
    with Server(IRIS, options=["--admin"]) as server:
        client = grpc.InferenceServerClient(server.address)
        found = client.get_log_settings(as_json=True)["settings"]
        equal((found["log_info"], found["log_format"]), ({"bool_param": True}, {"string_param": "ISO8601"}))
        client.update_log_settings({"log_info": False, "log_verbose_level": 1, "log_format": "JSON"})
        found = client.get_log_settings(as_json=True)["settings"]
        equal(found["log_verbose_level"], {"uint32_param": 1})
        equal(found["log_format"], {"string_param": "JSON"})
        refused(lambda: client.update_log_settings({"log_colour": True}), "log_colour")


@case
def only_who_administers_may_change_it():
    http, grpc = need("tritonclient.http"), need("tritonclient.grpc")
    with Server(IRIS) as server:
        client, other = http.InferenceServerClient(server.address), grpc.InferenceServerClient(server.address)
        equal(client.get_log_settings(), USUAL)
        refused(lambda: client.update_log_settings({"log_info": False}), "admin")
        refused(lambda: other.update_log_settings({"log_info": False}), "admin")
        equal(client.get_log_settings(), USUAL)


if __name__ == "__main__":
    main()
