"""curl, as people type it."""
import json
import os
import subprocess
import tempfile

from harness import Server, case, check, equal, main, need_program
from _client import EXAMPLES, IRIS_INPUT, serving

PREDICT = '{"text": "You won a prize, call now"}'


def curl(*arguments, input=None):
    need_program("curl")
    done = subprocess.run(["curl", "-sS", "--max-time", "30", *arguments], capture_output=True, input=input)
    check(done.returncode == 0, "curl %s: %s", " ".join(arguments), done.stderr.decode(errors="replace"))
    return done.stdout


@case
def shortest_call():
    """The line of the first page: no content type given, so curl says it is a form."""
    with serving() as server:
        reply = json.loads(curl(server.url + "/models/spam:predict", "-d", PREDICT))
        equal(reply["label"], "spam")
        check(0.9 < reply["probability"] <= 1, "%s", reply)
        reply = json.loads(curl(server.url + "/models/spam:predict", "-d", '{"text": "Are we still meeting for lunch?"}'))
        equal(reply["label"], "ham")


@case
def typed_calls_of_the_others():
    with serving() as server:
        body = json.dumps(dict(zip(("sepal_length", "sepal_width", "petal_length", "petal_width"), IRIS_INPUT[2])))
        reply = json.loads(curl(server.url + "/models/iris:predict", "-d", body))
        equal(reply["label"], "virginica")
        # the example of model.yaml is a 3
        model = json.loads(curl(server.url + "/models/digits"))
        check("3" in json.dumps(model), "%s", model)


@case
def kserve_call():
    with serving() as server:
        body = json.dumps({"id": "42", "inputs": [{"name": "input", "shape": [3, 4], "datatype": "FP32", "data": IRIS_INPUT}]})
        reply = json.loads(curl(server.url + "/v2/models/iris/infer", "--json", body))
        equal((reply["id"], reply["model_name"], reply["model_version"]), ("42", "iris", "1"))
        outputs = {tensor["name"]: tensor for tensor in reply["outputs"]}
        equal(outputs["label"], {"name": "label", "datatype": "INT64", "shape": [3], "data": [0, 1, 2]})
        equal(outputs["probabilities"]["shape"], [3, 3])
        equal(len(outputs["probabilities"]["data"]), 9, "data is flat")


@case
def from_a_file_and_with_expect():
    """More than a megabyte: curl asks with 100-continue first."""
    values = [i / 7 for i in range(200000)]
    with serving() as server, tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"inputs": [{"name": "IN", "shape": [1, len(values)], "datatype": "FP64", "data": values}]}, file)
        file.flush()
        check(os.path.getsize(file.name) > 1 << 20, "too small for Expect")
        reply = json.loads(curl(server.url + "/v2/models/echo_FP64/infer", "--data-binary", "@" + file.name,
                                "-H", "Expect: 100-continue"))
        equal(reply["outputs"][0]["data"], values)
        reply = json.loads(curl(server.url + "/v2/models/echo_FP64/infer", "-T", file.name, "-X", "POST",
                                "-H", "Transfer-Encoding: chunked"))
        equal(reply["outputs"][0]["data"], values)
        reply = json.loads(curl(server.url + "/v2/models/echo_FP64/infer", "--data-binary", "@" + file.name, "--compressed"))
        equal(reply["outputs"][0]["data"], values)


@case
def one_connection_for_many():
    with serving() as server:
        text = curl("-v", server.url + "/v2/health/live", server.url + "/v2", server.url + "/v2/health/ready", "--stderr", "-")
        equal(text.count(b"Re-using existing connection"), 2, "connections used again")


@case
def head_only():
    with serving() as server:
        text = curl("-I", server.url + "/v2").decode()
        check(text.startswith("HTTP/1.1 200") and text.endswith("\r\n\r\n"), "%r", text)


@case
def upgrade_to_http_2_is_declined():
    """--http2 asks politely; a server that does not speak it goes on in HTTP/1.1."""
    with serving() as server:
        equal(json.loads(curl("--http2", server.url + "/v2"))["name"], "penstock")


@case
def over_a_unix_socket():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        with Server(EXAMPLES + "/spam", options=["--listen", "unix:" + path]):
            reply = json.loads(curl("--unix-socket", path, "http://localhost/models/spam:predict", "-d", PREDICT))
            equal(reply["label"], "spam")


@case
def over_ipv6():
    import socket
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            from harness import skip
            skip("no IPv6 here")
    with Server(EXAMPLES + "/spam", listen="[::1]:0") as server:
        equal(json.loads(curl("-g", server.url + "/models/spam:predict", "-d", PREDICT))["label"], "spam")


@case
def error_in_words():
    with serving() as server:
        text = curl("-w", "%{http_code}", server.url + "/models/spam:predict", "-d", '{"txt": "hello"}').decode()
        check(text.endswith("400"), "%r", text)
        check("txt" in text and "text" in text, "neither name is said: %r", text)


if __name__ == "__main__":
    main()
