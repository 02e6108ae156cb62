#!/usr/bin/env python3
"""call_grpc.py - penstock call --grpc and --wire: models, methods, any server with reflection; what they print and how they end."""
import concurrent.futures
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from harness import BINARY, ROOT, Server, case, cases, check, equal, main, models, need

EXAMPLES = os.path.join(ROOT, "examples", "models")
ECHO = b"""backend: "echo"
input { name: "x" data_type: TYPE_INT64 dims: [ 2 ] }
output { name: "y" data_type: TYPE_INT64 dims: [ 2 ] }
"""


def run(*arguments, stdin=None, seconds=60, env=None):
    done = subprocess.run([BINARY, *map(str, arguments)], input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
                          capture_output=True, timeout=seconds, env=dict(os.environ, **(env or {})))
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def call(server, *arguments, **more):
    return run("call", *arguments, "--server", server.url, **more)


# --- the same answers as over REST -------------------------------------------------------------------------

IRIS = ["--sepal_length", "6.7", "--sepal-width=3", "--petal_length", "5.2", "--petal_width", "2.3"]


@cases({
    "fields": ["iris", *IRIS],
    "whole_input": ["iris", "--measurements", "6.7,3.0,5.2,2.3"],
    "tensor": ["iris", "--input", "6.7,3.0,5.2,2.3"],
    "json": ["iris", "-d", '{"measurements": [6.7, 3.0, 5.2, 2.3]}'],
    "rows_of_lists": ["iris", "-d", '{"measurements": [[6.7, 3.0, 5.2, 2.3], [5.1, 3.5, 1.4, 0.2]]}'],
    "rows_of_objects": ["spam", "-d", '[{"text": "a prize"}, {"text": "See you at lunch"}]'],
    "columns": ["spam", "-d", '{"text": ["a prize", "See you at lunch"]}'],
    "bare_list": ["iris", "-d", "[6.7, 3.0, 5.2, 2.3]"],
    "text": ["spam", "--text", "You won a prize, \"call\" now \u00fc"],
    "text_that_looks_like_json": ["spam", "--text", "[1,2]"],
    "top": ["iris", *IRIS, "--top", "2"],
    "outputs": ["iris", *IRIS, "--outputs", "label"],
    "precision": ["iris", *IRIS, "--precision", "3"],
    "full": ["iris", *IRIS, "--precision", "full"],
    "version": ["spam", "--text", "x", "--model-version", "1"],
})
def says_what_rest_says(*arguments):
    with Server(EXAMPLES) as server:
        rest = call(server, *arguments)
        equal(rest[0], 0, rest[2])
        for more in (["--grpc"], ["--grpc", "--compress", "gzip"], ["--grpc", "--compress=deflate"], ["--http2"]):
            found = call(server, *arguments, *more)
            equal(found, rest, " ".join(more))


@case
def values_from_files_and_standard_input():
    with Server(EXAMPLES) as server, tempfile.NamedTemporaryFile() as file:
        file.write(b"You won a prize")
        file.flush()
        rest = call(server, "spam", "--text", "You won a prize")
        equal(call(server, "spam", "--grpc", "--text", "@" + file.name), rest)
        equal(call(server, "spam", "--grpc", "--text", "-", stdin=b"You won a prize"), rest)
        equal(call(server, "spam", "--grpc", "-d", "-", stdin=b'{"text": "You won a prize"}'), rest)


@cases({"list": ("1,2", '[{"OUT":1.0},{"OUT":2.0}]'), "spaces": (" 1 , -2.5e3 ", '[{"OUT":1.0},{"OUT":-2500.0}]'), "json": ("[1,2]", '[{"OUT":1.0},{"OUT":2.0}]'), "one": ("1", '{"OUT":1.0}')})
def rows_of_one_value(value, expected):
    """A model without a description of its own, of rows of a number: 1,2 is two of them, over both."""
    config = b"""backend: "echo"
input { name: "IN" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }
"""
    with models({"m/config.pbtxt": config}) as folder, Server(folder) as server:
        for how in ([], ["--grpc"]):
            status, out, err = call(server, *how, "m", "--IN", value, "--json")
            equal((status, out.strip()), (0, expected), "%s: %s" % (how, err))


@case
def what_is_no_number_is_named():
    with models({"m/config.pbtxt": ECHO}) as folder, Server(folder) as server:
        status, _, err = call(server, "--grpc", "m", "--x", "1,2x")
        equal(status, 1, err)
        check("2x is no" in err, "%s", err)


@case
def whole_numbers_of_64_bits_stay_numbers():
    with models({"m/config.pbtxt": ECHO}) as folder, Server(folder) as server:
        status, out, err = call(server, "m", "--grpc", "--x", "9007199254740993,-1", "--json")
        equal((status, out), (0, '{"y":[9007199254740993,-1]}\n'), err)


@cases({"as_it_is": ["my-model_v2"], "as_the_service": ["MyModelV2"], "in_capitals": ["MY_MODEL-V2"],
        "method": ["penstock.models.MyModelV2/Predict"], "with_slash": ["/penstock.models.MyModelV2/Predict"]})
def finds_the_service_of_a_name(name):
    with models({"my-model_v2/config.pbtxt": ECHO}) as folder, Server(folder) as server:
        status, out, err = call(server, "--grpc", name, "--x", "1,2")
        equal((status, json.loads(out or "null")), (0, {"y": [1, 2]}), err)


@case
def finds_a_service_that_model_yaml_names():
    with models({"m/config.pbtxt": ECHO, "m/model.yaml": b"service: Quite\n"}) as folder, Server(folder) as server:
        status, out, err = call(server, "--grpc", "m", "--x", "1,2")
        equal((status, json.loads(out or "null")), (0, {"y": [1, 2]}), err)


@case
def two_models_that_would_have_one_name():
    other = ECHO.replace(b'"y"', b'"z"')
    with models({"a-b/config.pbtxt": ECHO, "a_b/config.pbtxt": other}) as folder, Server(folder) as server:
        for name, key in (("a-b", "y"), ("a_b", "z")):
            status, out, err = call(server, "--grpc", name, "--x", "1,2")
            equal((status, json.loads(out or "null")), (0, {key: [1, 2]}), err)


# --- any method ---------------------------------------------------------------------------------------------

@cases({
    "live": (["inference.GRPCInferenceService/ServerLive", "-d", "{}"], {"live": True}),
    "without_data": (["inference.GRPCInferenceService/ServerReady"], {"ready": True}),
    "fields": (["inference.GRPCInferenceService/ModelReady", "--name", "spam"], {"ready": True}),
    "health": (["grpc.health.v1.Health/Check", "--service", ""], {"status": "SERVING"}),
    "list_of_messages": (["inference.GRPCInferenceService/ModelInfer", "--model_name", "iris", "--inputs",
                          '[{"name":"input","datatype":"FP32","shape":[1,4],"contents":{"fp32_contents":[6.7,3,5.2,2.3]}}]',
                          "--outputs", '[{"name":"label"}]'], None),
})
def calls_a_method(arguments, expected):
    arguments = [a if a != "--outputs" else "--field" for a in arguments]
    if "--field" in arguments:
        at = arguments.index("--field")
        arguments[at + 1] = "outputs=" + arguments[at + 1]
    with Server(EXAMPLES) as server:
        status, out, err = call(server, "--grpc", *arguments)
        equal(status, 0, err)
        found = json.loads(out)
        if expected is not None:
            equal(found, expected)
        else:
            equal((found["modelName"] if "modelName" in found else found["model_name"], len(found["outputs"])), ("iris", 1))


# --- how it ends ----------------------------------------------------------------------------------------------

@cases({
    "unknown_model": (["spma", "--text", "x"], 1, "no gRPC service for a model 'spma'; did you mean spam?"),
    "unknown_field": (["spam", "--txt", "x"], 2, "no field 'txt'; did you mean --text?"),
    "no_input": (["spam"], 2, "no input is given; spam takes --text; for example: penstock call --grpc spam --text '"),
    "missing_field": (["iris", "--sepal_length", "5"], 1, "'sepal_width' is missing; for example: penstock call --grpc iris --sepal_length 5.1"),
    "unknown_beside_a_tensor": (["iris", "--inputt", "1"], 2, "no field 'inputt'"),
    "given_twice_by_two_names": (["iris", "--input", "1,2,3,4", "--measurements", "1,2,3,4"], 2, "is given twice"),
    "given_twice": (["iris", "--sepal_length", "1", "--sepal-length", "2"], 2, "is given twice"),
    "out_of_range": (["iris", "--sepal_length", "510", "--sepal_width", "1", "--petal_length", "1", "--petal_width", "1"], 1,
                     "INVALID_ARGUMENT: sepal_length is 510; it must be between 0 and 30 cm"),
    "wrong_type": (["spam", "-d", '{"text": 5}'], 1, "text (byte"),
    "no_json": (["spam", "-d", "nope"], 1, "the body is not JSON (byte 0"),
    "unknown_version": (["spam", "--text", "x", "--model-version", "9"], 1, "NOT_FOUND"),
    "unknown_method": (["inference.GRPCInferenceService/ServerLiv"], 1, "did you mean ServerLive?"),
    "unknown_service": (["inference.Nope/ServerLive"], 1, "no symbol 'inference.Nope'"),
    "no_method": (["a/b/c"], 2, "'a/b/c' is no method"),
    "stream_both_ways": (["inference.GRPCInferenceService/ModelStreamInfer"], 2, "is a stream (both ways): add --stream, and write one request a line"),
    "stream_of_answers": (["grpc.health.v1.Health/Watch"], 2, "is a stream (of answers): add --stream"),
    "raw": (["spam", "--text", "x", "--raw"], 2, "--raw has no form over gRPC"),
    "top_of_a_method": (["inference.GRPCInferenceService/ServerLive", "--top", "2"], 2, "--top is for models"),
    "metadata": (["spam", "--text", "x", "--metadata", "novalue"], 2, "--metadata takes KEY=VALUE"),
    "metadata_of_grpc": (["spam", "--text", "x", "--metadata", "grpc-timeout=1S"], 2, "cannot be the key of metadata"),
    "compress": (["spam", "--text", "x", "--compress", "zip"], 2, "--compress"),
    "data_and_field": (["spam", "-d", "{}", "--text", "x"], 2, "-d is the whole body"),
})
def ends_as_it_should(arguments, expected, words):
    with Server(EXAMPLES) as server:
        status, out, err = call(server, "--grpc", *arguments)
        equal((status, out), (expected, ""), err)
        check(words in err and err.startswith("penstock: ") and len(err.splitlines()) == 1, "%r", err)


@case
def options_of_grpc_want_grpc():
    for options in (["--metadata", "a=b"], ["--compress", "gzip"]):
        status, _, err = run("call", "spam", "--text", "x", *options)
        equal(status, 2)
        check(options[0] + " goes with --grpc" in err, "%s", err)


@case
def nobody_there_and_nobody_who_answers():
    status, _, err = run("call", "--grpc", "spam", "--text", "x", "--server", "http://127.0.0.1:1")
    equal(status, 1)
    check("nobody listens on 127.0.0.1:1: start `penstock serve`" in err, "%s", err)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        status, _, err = run("call", "--grpc", "spam", "--text", "x", "--timeout", "200ms",
                             "--server", "http://127.0.0.1:%d" % mute.getsockname()[1])
        equal(status, 1)
        check("did not answer within 0.2 s (--timeout)" in err, "%s", err)


@case
def a_server_without_reflection():
    with Server(EXAMPLES, options=["--no-reflection"]) as server:
        status, _, err = call(server, "--grpc", "spam", "--text", "x")
        equal(status, 1)
        check("has no reflection" in err, "%s", err)


@case
def over_a_unix_socket():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        with Server(EXAMPLES + "/spam", options=["--listen", "unix:" + path]):
            status, out, err = run("call", "--grpc", "spam", "--text", "a prize", "--server", "unix:" + path)
            equal(status, 0, err)
            check(json.loads(out)["label"] in ("spam", "ham"), "%s", out)


@cases({"grpc": ["--grpc"], "http2": ["--http2"], "http1": []})
def no_answer_comes_before_the_run_that_made_it(*options):
    with Server(EXAMPLES) as server:
        for _ in range(20):
            status, _, err = call(server, "iris", *IRIS, "--wire", *options)
            equal(status, 0, err)
            came = [float(ms) for ms in re.findall(r"^ +([0-9.]+)  <-  (?:HEADERS|response) ", err, re.M)]
            ran = float(re.search(r"run;dur=([0-9.]+)", err).group(1))
            check(came[0] >= ran, "the answer after %s ms, the run took %s", came, ran)


# --- another's server -------------------------------------------------------------------------------------------

def calculator(grpc, with_reflection):
    """A grpcio server: test.Calc/Add adds two numbers and says which metadata it got; Fail fails."""
    descriptor = need("google.protobuf.descriptor_pb2")
    pool = need("google.protobuf.descriptor_pool").DescriptorPool()
    factory = need("google.protobuf.message_factory")
    file = descriptor.FileDescriptorProto(name="calc.proto", package="test", syntax="proto3")
    ask = file.message_type.add(name="Ask")
    ask.field.add(name="first_number", number=1, type=3, label=1)
    ask.field.add(name="second_number", number=2, type=3, label=1)
    reply = file.message_type.add(name="Reply")
    reply.field.add(name="sum", number=1, type=3, label=1)
    reply.field.add(name="said", number=2, type=9, label=1)
    service = file.service.add(name="Calc")
    for name in ("Add", "Fail"):
        service.method.add(name=name, input_type=".test.Ask", output_type=".test.Reply")
    pool.Add(file)
    ask_class, reply_class = (factory.GetMessageClass(pool.FindMessageTypeByName("test." + n)) for n in ("Ask", "Reply"))

    def add(request, context):
        metadata = dict(context.invocation_metadata())
        return reply_class(sum=request.first_number + request.second_number,
                           said=metadata.get("x-who", "") + metadata.get("x-raw-bin", b"").decode())

    def fail(request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "100% kaputt: \u00fc\x1b")

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    handlers = {name: grpc.unary_unary_rpc_method_handler(function, ask_class.FromString, reply_class.SerializeToString)
                for name, function in (("Add", add), ("Fail", fail))}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Calc", handlers),))
    if with_reflection:
        need("grpc_reflection.v1alpha.reflection").enable_server_reflection(["test.Calc"], server, pool=pool)
    return server


@contextlib.contextmanager
def running(with_reflection=True):
    server = calculator(need("grpc"), with_reflection)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield "http://127.0.0.1:%d" % port
    finally:
        server.stop(0)


@case
def any_server_with_reflection():
    with running() as url:
        status, out, err = run("call", "--grpc", "test.Calc/Add", "--first-number", "40", "--second_number", "2", "--server", url,
                               "--metadata", "X-Who=me", "--metadata", "x-raw-bin=eW91")
        equal((status, json.loads(out or "null")), (0, {"sum": "42", "said": "meyou"}), err)
        status, _, err = run("call", "--grpc", "test.Calc/Fail", "-d", "{}", "--server", url)
        equal(status, 1)
        check("FAILED_PRECONDITION: 100% kaputt: \u00fc" in err and "\x1b" not in err, "%r", err)
        status, _, err = run("call", "--grpc", "spam", "--text", "x", "--server", url)
        equal(status, 1)
        check("has no services of models" in err and "test.Calc" in err, "%s", err)


@case
def any_server_without_reflection():
    with running(with_reflection=False) as url:
        status, _, err = run("call", "--grpc", "test.Calc/Add", "-d", "{}", "--server", url)
        equal(status, 1)
        check("has no reflection (grpc.reflection.v1)" in err, "%s", err)


# --- --wire --------------------------------------------------------------------------------------------------------

def sizes(text):
    """{"messages": (17, 11), ...}"""
    lines = text[text.index("\nbytes "):].splitlines()[2:]
    return {m[1]: (int(m[2]), int(m[3])) for m in (re.fullmatch(r"  (.*?) +(\d+) +(\d+)", line) for line in lines) if m}


@case
def wire_of_a_grpc_call():
    with Server(EXAMPLES) as server:
        status, out, err = call(server, "--grpc", "spam", "--text", "You won a prize", "--wire")
        equal(status, 0, err)
        check(json.loads(out)["label"] == "spam", "%s", out)
        for words in ("(preface)", "->  SETTINGS", "<-  SETTINGS", ":path                    /penstock.models.Spam/Predict",
                      "END_STREAM  message 1: 17 bytes", "grpc-status              0", '"You won a prize"',
                      "-> message 1  penstock.models.SpamPredictRequest, 17 bytes", '{"text":"You won a prize"}'):
            check(words in err, "%r is not in: %s", words, err)
        check("\x1b" not in err, "no colours into a pipe")
        found = sizes(err)
        equal(found["messages"][0], 17)
        equal(found["the same messages as JSON"], (26, len(out.strip())))
        parts = [found[name] for name in ("messages", "gRPC's prefixes", "header blocks (HPACK)", "frames' own heads, 9 each",
                                          "SETTINGS and the like, the preface")]
        equal(tuple(map(sum, zip(*parts))), found["all on the wire"], "the parts are the whole")


@cases({"http1": [], "http2": ["--http2"]})
def wire_of_rest(*options):
    with Server(EXAMPLES) as server:
        status, out, err = call(server, "spam", "--text", "You won a prize", "--wire", *options)
        equal(status, 0, err)
        found = sizes(err)
        equal(found["bodies"][1], len(out))
        check("-> body, 22 bytes:\n  text=You%20won%20a%20prize" in err or "-> body" in err, "%s", err)
        check('<- body, %d bytes:\n  {"label":"spam"' % len(out) in err, "%s", err)
        parts = [v for k, v in found.items() if k != "all on the wire" and not k.startswith("the same")]
        equal(tuple(map(sum, zip(*parts))), found["all on the wire"], "the parts are the whole")


@case
def wire_of_a_large_message():
    with models({"m/config.pbtxt": ECHO.replace(b"dims: [ 2 ]", b"dims: [ 300000 ]")}) as folder, Server(folder) as server, \
            tempfile.NamedTemporaryFile("w") as file:
        json.dump({"x": list(range(300000))}, file)
        file.flush()
        status, out, err = call(server, "--grpc", "m", "-d", "@" + file.name, "--wire", "--json")
        equal(status, 0, err[-2000:])
        equal(len(json.loads(out)["y"]), 300000)
        check("begins here" in err and "message 1 goes on" in err and "message 1 ends" in err, "%s", err[:4000])
        check("300000 values: 0, 1, 2, " in err, "%s", err[-3000:])
        check("more of these together" in err, "rows that are alike are one")
        check(len(err) < 20000, "%d bytes are shown", len(err))


@case
def wire_of_a_failure():
    with Server(EXAMPLES) as server:
        status, _, err = call(server, "--grpc", "iris", "-d", '{"sepal_length": 1}', "--wire")
        equal(status, 1)
        check("grpc-status              3" in err and "grpc-message" in err, "%s", err)
        check(err.rstrip().splitlines()[-1].startswith("penstock: INVALID_ARGUMENT"), "%s", err)


@case
def timing_over_grpc():
    with Server(EXAMPLES) as server:
        status, _, err = call(server, "--grpc", "spam", "--text", "x", "--timing")
        equal(status, 0)
        check("server, run" in err and "wait for answer" in err, "%s", err)


if __name__ == "__main__":
    main()
