"""Requests that do not fit: each is told what was wrong, where, and what was expected; none harms the next."""
import json
import struct

from harness import case, cases, check, equal, main
from _wire import INFER, IRIS, IRIS_BODY, ask, echo_config, post, serving, still_serves

TYPED = "/models/iris:predict"


def with_input(**changes):
    tensor = dict(IRIS["inputs"][0], **changes)
    return {"inputs": [{key: value for key, value in tensor.items() if value is not None}]}


TWO = {"inputs": [IRIS["inputs"][0], IRIS["inputs"][0]]}
DEEP = b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":' + b"[" * 5000 + b"]" * 5000 + b"}]}"

# name: (document or bytes, words that the answer must have: what was wrong, what was expected)
WRONG = {
    "input_name": (with_input(name="inputs"), ("inputs", "input")),
    "input_missing": ({"inputs": []}, ("input",)),
    "no_inputs": ({"id": "x"}, ("inputs",)),
    "inputs_not_a_list": ({"inputs": {"name": "input"}}, ("inputs",)),
    "input_twice": (TWO, ("input",)),
    "input_too_many": ({"inputs": IRIS["inputs"] + [dict(IRIS["inputs"][0], name="other")]}, ("other",)),
    "dtype": (with_input(datatype="INT64"), ("INT64", "FP32")),
    "dtype_unknown": (with_input(datatype="FLOAT"), ("FLOAT",)),
    "dtype_missing": (with_input(datatype=None), ("datatype",)),
    "shape_rank": (with_input(shape=[4]), ("[4]", "[-1,4]")),
    "shape_dim": (with_input(shape=[1, 5], data=[1, 2, 3, 4, 5]), ("[1,5]", "[-1,4]")),
    "shape_negative": (with_input(shape=[-1, 4]), ("shape",)),
    "shape_float": (with_input(shape=[1.5, 4]), ("shape",)),
    "shape_missing": (with_input(shape=None), ("shape",)),
    "shape_overflows": (with_input(shape=[1 << 62, 4]), ("shape",)),
    "shape_too_large": (with_input(shape=[1 << 40, 4]), ()),
    "too_few_values": (with_input(data=[1, 2, 3]), ("3", "4")),
    "too_many_values": (with_input(data=[1, 2, 3, 4, 5]), ("4",)),
    "no_data": (with_input(data=None), ("data",)),
    "value_text": (with_input(data=[1, 2, "x", 4]), ("data",)),
    "value_object": (with_input(data=[1, 2, {}, 4]), ("data",)),
    "value_true": (with_input(data=[1, 2, True, 4]), ("data",)),
    "value_too_large": (IRIS_BODY.replace(b"5.1", b"1e39"), ("FP32",)),
    "output_unknown": (dict(IRIS, outputs=[{"name": "labels"}]), ("labels", "label")),
    "output_twice": (dict(IRIS, outputs=[{"name": "label"}, {"name": "label"}]), ("label",)),
    "binary_and_data": (with_input(parameters={"binary_data_size": 16}), ("binary_data_size",)),
    "binary_without_length": (with_input(data=None, parameters={"binary_data_size": 16}), ("inference-header-content-length",)),
    "shared_memory": (with_input(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 16}),
                      ("shared",)),
    "parameter_reserved": (dict(IRIS, parameters={"triton_x": 1}), ("triton_",)),
    "parameter_object": (dict(IRIS, parameters={"a": {}}), ("a",)),
    "id_number": (dict(IRIS, id=5), ("id",)),
    "not_an_object": (b"[1,2]", ()),
    "empty": (b"", ()),
    "only_space": (b"   ", ()),
    "json_cut": (IRIS_BODY[:-5], ()),
    "json_trailing_comma": (b'{"inputs":[],}', ("byte 12",)),
    "json_spare": (IRIS_BODY + b"x", ("byte %d" % len(IRIS_BODY),)),
    "json_single_quotes": (b"{'inputs':[]}", ("byte 1",)),
    "json_control": (b'{"id":"a\nb"}', ("byte 8",)),
    "json_bad_escape": (b'{"id":"\\x"}', ("byte",)),
    "json_lone_surrogate": (b'{"id":"\\ud800"}', ("byte",)),
    "json_not_utf8": (b'{"id":"\xff"}', ("byte",)),
    "json_leading_zero": (IRIS_BODY.replace(b"5.1", b"05.1"), ("byte",)),
    "json_number_cut": (IRIS_BODY.replace(b"5.1", b"5."), ("byte",)),
    "json_plus": (IRIS_BODY.replace(b"5.1", b"+5.1"), ("byte",)),
    "json_bare_word": (IRIS_BODY.replace(b"5.1", b"five"), ("byte",)),
    "json_byte_order_mark": (b"\xef\xbb\xbf" + IRIS_BODY, ()),
    "json_utf16": (IRIS_BODY.decode().encode("utf-16-le"), ()),
    "too_deep": (DEEP, ("deep",)),
    "key_twice": (b'{"inputs":[],"inputs":[]}', ("inputs",)),
}


@cases(WRONG)
def kserve(document, words):
    with serving() as server:
        reply = post(server, INFER, document)
        check(reply.status in (400, 501), "%r", reply)
        text = reply.json()["error"]
        for word in words:
            check(word.lower() in text.lower().replace(", ", ","), "%r is not in: %s", word, text)
        check(len(text) > 10, "an error without a word of why: %r", text)
        still_serves(server)


NAMED = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
WRONG_TYPED = {
    "name": (dict(NAMED, sepal_lenght=1), ("sepal_lenght", "sepal_length")),
    "missing": ({key: value for key, value in NAMED.items() if key != "petal_width"}, ("petal_width",)),
    "text": (dict(NAMED, petal_width="x"), ("petal_width",)),
    "null": (dict(NAMED, petal_width=None), ("petal_width",)),
    "list": (dict(NAMED, petal_width=[1, 2]), ("petal_width",)),
    "below": (dict(NAMED, petal_width=-1), ("petal_width", "0")),
    "above": (dict(NAMED, petal_width=31), ("petal_width", "30")),
    "empty": ({}, ("sepal_length",)),
    "not_an_object": (b"[1]", ()),
    "not_json": (b"sepal_length=5", ()),
    "twice": (b'{"sepal_length":1,"sepal_length":2,"sepal_width":3,"petal_length":1,"petal_width":0.2}', ("sepal_length",)),
    "deep": (b'{"sepal_length":' + b"[" * 5000 + b"]" * 5000 + b"}", ()),
}


@cases(WRONG_TYPED)
def typed(document, words):
    with serving() as server:
        reply = post(server, TYPED, document)
        equal(reply.status, 400)
        error = reply.json()["error"]
        equal(error["code"], "INVALID_ARGUMENT")
        for word in words:
            check(word in json.dumps(error), "%r is not in: %s", word, error)
        still_serves(server)


@case
def typed_content_type():
    with serving() as server:
        reply = ask(server, "POST", TYPED, b"<xml/>", [("Content-Type", "application/xml")])
        equal(reply.status, 415)


# --- models that are not there, names that are not names --------------------------------------------------

@case
def unknown_model():
    with serving() as server:
        reply = post(server, "/v2/models/irris/infer", IRIS)
        equal(reply.status, 404)
        check("irris" in reply.json()["error"] and "iris" in reply.json()["error"], "%r", reply.body)
        reply = post(server, "/models/irris:predict", NAMED)
        equal((reply.status, reply.json()["error"]["code"]), (404, "NOT_FOUND"))
        equal(ask(server, "GET", "/v2/models/irris").status, 404)
        check(ask(server, "GET", "/v2/models/irris/ready").status in (400, 404), "ready of a model that is not there")


@case
def unknown_version():
    with serving() as server:
        for version in ("2", "99999999999999999999", "0"):
            reply = post(server, "/v2/models/iris/versions/%s/infer" % version, IRIS)
            check(reply.status in (400, 404), "version %s: %r", version, reply)
            check(version in reply.json()["error"], "%r", reply.body)
        for version in ("x", "-1", "1.0", "1x", ""):
            reply = post(server, "/v2/models/iris/versions/%s/infer" % version, IRIS)
            check(reply.status in (400, 404), "version %r: %r", version, reply)
        equal(post(server, "/v2/models/iris/versions/1/infer", IRIS).status, 200)


@cases({"dots": ("..",), "encoded_dots": ("%2e%2e",), "slash": ("..%2f..%2fetc%2fpasswd",), "backslash": ("..%5c..%5cetc",),
        "absolute": ("%2fetc%2fpasswd",), "nul": ("iris%00",), "double": ("%252e%252e%252f",), "newline": ("iris%0a",),
        "bad_percent": ("iris%zz",), "cut_percent": ("iris%2",), "not_utf8": ("%ff%fe",), "overlong": ("%c0%ae%c0%ae",),
        "long": ("a" * 5000,), "dot_folder": (".%2firis",), "empty": ("",), "semicolon": ("iris;x=y",)})
def odd_model_name(name):
    """No name reaches a file; each is an unknown model or no name at all."""
    with serving() as server:
        for path in ("/v2/models/%s/infer", "/v2/models/%s", "/v2/models/%s/config", "/models/%s:predict", "/models/%s"):
            reply = ask(server, "POST" if "infer" in path or "predict" in path else "GET", path % name,
                        IRIS_BODY if "infer" in path or "predict" in path else None)
            check(reply.status in (400, 404, 405, 414), "%s: %r", path % name[:50], reply)
            check(b"root:" not in reply.body, "a file came out")
        still_serves(server)


@case
def dot_segments_are_not_resolved():
    with serving() as server:
        for path in ("/v2/models/../models/iris", "/v2/./models/iris", "/v2//models/iris", "/v2/models/iris/", "//v2",
                     "/v2/models/iris/../../../../etc/passwd", "/V2", "/v2/Models/iris"):
            reply = ask(server, "GET", path)
            equal(reply.status, 404, path)


NAME = "<script>alert(1)</script>"


@case
def script_in_a_model_name():
    """A folder may be called so; no answer may make a page of it."""
    folder = NAME.replace("/", "\u2215")        # a file name has no slash: a sign that looks like one
    config = echo_config("x").replace(b'name: "x"\n', b"", 1)
    with serving({"%s/config.pbtxt" % folder: config, "%s/1/.keep" % folder: b""}) as server:
        for path in ("/v2/repository/index", "/v2/models", "/models", "/metrics", "/", "/v2/models/stats"):
            for accept in ("*/*", "text/html"):
                reply = ask(server, "POST" if path.endswith("index") else "GET", path, headers=[("Accept", accept)])
                kind = reply.header("content-type") or ""
                check("html" not in kind or b"<script>alert" not in reply.body, "%s says it in HTML: %r", path, reply)
                if "json" in kind:
                    reply.json()
        reply = ask(server, "GET", "/v2/models/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
        equal(reply.status, 404)
        check("json" in reply.header("content-type"), "%r", reply)
        still_serves(server)


@case
def quotes_in_a_model_name():
    """Names are escaped wherever they are said: JSON, metrics."""
    config = echo_config("x").replace(b'name: "x"\n', b"", 1)
    with serving({'a"b\\c/config.pbtxt': config, 'a"b\\c/1/.keep': b""}) as server:
        names = [row["name"] for row in ask(server, "POST", "/v2/repository/index").json()]
        check('a"b\\c' in names, "%r", names)
        reply = ask(server, "GET", "/v2/models/a%22b%5Cc")
        equal((reply.status, reply.json()["name"]), (200, 'a"b\\c'))
        text = ask(server, "GET", "/metrics").body.decode()
        check('model="a\\"b\\\\c"' in text, "metrics do not escape a label")


# --- the binary tensor extension --------------------------------------------------------------------------

def binary(document, data, length=None):
    text = json.dumps(document).encode()
    return text + data, [("Inference-Header-Content-Length", len(text) if length is None else length)]


SIXTEEN = struct.pack("<4f", 5.1, 3.5, 1.4, 0.2)
BINARY = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]}


def sized(size):
    return {"inputs": [dict(BINARY["inputs"][0], parameters={"binary_data_size": size})]}


WRONG_BINARY = {
    "too_few_bytes": (BINARY, SIXTEEN[:-1], None, ("input",)),
    "too_many_bytes": (BINARY, SIXTEEN + b"x", None, ()),
    "no_bytes": (BINARY, b"", None, ("input",)),
    "size_not_of_the_shape": (sized(12), SIXTEEN[:12], None, ("12", "[1,4]")),
    "size_negative": (sized(-16), SIXTEEN, None, ("binary_data_size",)),
    "size_text": (sized("16"), SIXTEEN, None, ("binary_data_size",)),
    "size_huge": (sized(1 << 63), SIXTEEN, None, ()),
    "length_past_the_end": (BINARY, SIXTEEN, 100000, ("inference header size", "100000")),
    "length_negative": (BINARY, SIXTEEN, -1, ()),
    "length_text": (BINARY, SIXTEEN, "abc", ("Inference-Header-Content-Length", "abc")),
    "length_cuts_the_json": (BINARY, SIXTEEN, 20, ()),
}


@cases(WRONG_BINARY)
def binary_wrong(document, data, length, words):
    with serving() as server:
        body, headers = binary(document, data, length)
        reply = ask(server, "POST", INFER, body, headers)
        equal(reply.status, 400, repr(reply))
        for word in words:
            check(word.lower() in reply.json()["error"].lower(), "%r is not in: %r", word, reply.body)
        still_serves(server)


@case
def bytes_tensor_wrong():
    """Elements of BYTES whose lengths do not add up."""
    with serving(examples=("iris", "spam")) as server:
        for data in (b"\x05\0\0\0abc", b"\xff\xff\xff\xff", b"\x01\0\0", b"\x01\0\0\0a\x01\0\0\0b", b""):
            document = {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES",
                                    "parameters": {"binary_data_size": len(data)}}]}
            body, headers = binary(document, data)
            reply = ask(server, "POST", "/v2/models/spam/infer", body, headers)
            equal(reply.status, 400, "%r: %r" % (data, reply))
        still_serves(server)


@case
def raw_binary_request():
    """Length 0 is not `no header`: the whole body is the one input, and the answer is binary."""
    with serving() as server:
        reply = ask(server, "POST", INFER, SIXTEEN, [("Inference-Header-Content-Length", 0)])
        equal(reply.status, 200, repr(reply))
        size = int(reply.header("inference-header-content-length"))
        outputs = {tensor["name"]: tensor for tensor in json.loads(reply.body[:size])["outputs"]}
        equal(outputs["label"]["parameters"]["binary_data_size"], 8)
        equal(ask(server, "POST", INFER, SIXTEEN[:-1], [("Inference-Header-Content-Length", 0)]).status, 400)
        equal(ask(server, "POST", INFER, SIXTEEN * 2, [("Inference-Header-Content-Length", 0)]).status, 200)


@case
def bool_that_is_neither():
    with serving({"flags/config.pbtxt": echo_config("flags", dtype="BOOL", dims="2")}) as server:
        document = {"inputs": [{"name": "IN", "shape": [2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}}]}
        body, headers = binary(document, b"\x01\x07")
        equal(ask(server, "POST", "/v2/models/flags/infer", body, headers).status, 400)


@cases({"UINT8": ("UINT8", 256), "INT8": ("INT8", -129), "UINT16": ("UINT16", 65536), "INT16": ("INT16", 40000),
        "UINT32": ("UINT32", 1 << 32), "INT32": ("INT32", -(1 << 31) - 1), "INT64": ("INT64", 1 << 63),
        "UINT64": ("UINT64", 1 << 64), "UINT64_minus": ("UINT64", -1), "INT32_fraction": ("INT32", 1.5)})
def out_of_range(dtype, value):
    with serving({"n/config.pbtxt": echo_config("n", dtype=dtype, dims="2")}) as server:
        document = {"inputs": [{"name": "IN", "shape": [2], "datatype": dtype, "data": [1, value]}]}
        reply = post(server, "/v2/models/n/infer", document)
        equal(reply.status, 400, repr(reply))
        check("inputs[0].data[1]" in reply.json()["error"], "the place is not said: %r", reply.body)
        check(dtype in reply.json()["error"], "the type is not said: %r", reply.body)


if __name__ == "__main__":
    main()
