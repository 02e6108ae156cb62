"""Our infer messages against protobuf's own Python: what either writes, the other reads as the same; what it refuses, we refuse.

The classes are made here, from the field numbers of the protocol, so that proto/ is judged as well as the codec. `kserve_pb_dump`
(built beside the server) says what the codec makes of a message. Random messages are written by protobuf and by hand: fields in
any order, packed, not packed and in parts, sub-messages in parts, fields nobody knows, then bytes changed, cut and put in.

Where we are stricter than protobuf, on purpose, each such answer is checked to be one of these:
  - a known field of another wire type (protobuf takes it for an unknown field and drops the value);
  - more than 16 dimensions, 4096 inputs, outputs or raw contents, 1024 parameters of one holder;
  - field 0 inside a group that nobody knows (protobuf's Python looked at it in 6 and does not in 7; its C++ does).
Contents are read when a tensor is made of them: a request whose contents alone are broken has all else, and no tensor.
And where protobuf's Python differs from protobuf's C++ and Java, we do as these: an entry of a map that holds unknown fields
is an entry all the same.
"""
import json
import math
import os
import random
import struct
import subprocess

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from harness import BINARY, case, check, equal, main, skip

FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
MESSAGES = {
    "InferParameter": "choice bool bool_param 1, choice int64 int64_param 2, choice string string_param 3, "
                      "choice double double_param 4, choice uint64 uint64_param 5",
    "InferTensorContents": "repeated bool bool_contents 1, repeated int32 int_contents 2, repeated int64 int64_contents 3, "
                           "repeated uint32 uint_contents 4, repeated uint64 uint64_contents 5, repeated float fp32_contents 6, "
                           "repeated double fp64_contents 7, repeated bytes bytes_contents 8",
    "InferInputTensor": "string name 1, string datatype 2, repeated int64 shape 3, map parameters 4, "
                        "InferTensorContents contents 5",
    "InferRequestedOutputTensor": "string name 1, map parameters 2",
    "InferOutputTensor": "string name 1, string datatype 2, repeated int64 shape 3, map parameters 4, "
                         "InferTensorContents contents 5",
    "ModelInferRequest": "string model_name 1, string model_version 2, string id 3, map parameters 4, "
                         "repeated InferInputTensor inputs 5, repeated InferRequestedOutputTensor outputs 6, "
                         "repeated bytes raw_input_contents 7",
    "ModelInferResponse": "string model_name 1, string model_version 2, string id 3, map parameters 4, "
                          "repeated InferOutputTensor outputs 5, repeated bytes raw_output_contents 6",
}


def classes():
    file = descriptor_pb2.FileDescriptorProto(name="infer.proto", package="t", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split(", "):
            *label, kind, field_name, number = ([""] + text.split())[-4:]
            if kind == "map":
                entry = message.nested_type.add(name="ParametersEntry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
                entry.field.add(name="value", number=2, type=FIELD.TYPE_MESSAGE, label=FIELD.LABEL_OPTIONAL,
                                type_name=".t.InferParameter")
                label, kind = ["repeated"], name + ".ParametersEntry"
            field = message.field.add(name=field_name, number=int(number), label=FIELD.LABEL_OPTIONAL)
            if label == ["repeated"]:
                field.label = FIELD.LABEL_REPEATED
            if label == ["choice"]:
                if not message.oneof_decl:
                    message.oneof_decl.add(name="parameter_choice")
                field.oneof_index = 0
            if kind in SCALARS:
                field.type = getattr(FIELD, "TYPE_" + kind.upper())
            else:
                field.type, field.type_name = FIELD.TYPE_MESSAGE, ".t." + kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName("t." + name))
            for name in ("ModelInferRequest", "ModelInferResponse")]


Request, Response = classes()
#            field of contents, how an element lies in a tensor, range where narrower than the field
DTYPES = {
    "BOOL": ("bool_contents", "?", None),
    "UINT8": ("uint_contents", "B", (0, 255)), "UINT16": ("uint_contents", "H", (0, 65535)),
    "UINT32": ("uint_contents", "I", None), "UINT64": ("uint64_contents", "Q", None),
    "INT8": ("int_contents", "b", (-128, 127)), "INT16": ("int_contents", "h", (-32768, 32767)),
    "INT32": ("int_contents", "i", None), "INT64": ("int64_contents", "q", None),
    "FP32": ("fp32_contents", "f", None), "FP64": ("fp64_contents", "d", None), "BYTES": ("bytes_contents", None, None),
}
RAW_ONLY = ("FP16", "BF16")
CONTENTS = [field.name for field in Request.DESCRIPTOR.fields_by_name["inputs"].message_type.fields_by_name["contents"]
            .message_type.fields]


def repeated(field):
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == FIELD.LABEL_REPEATED     # protobuf 7, 6


# --- the two sides ---------------------------------------------------------------------------------

def ours(messages):
    """What the codec makes of each."""
    program = os.path.join(os.path.dirname(os.path.realpath(BINARY)), "codec", "kserve_pb_dump")
    if not os.path.exists(program):
        skip("%s is not there: this binary was not built here" % program)
    given = b"".join(struct.pack("<I", len(message)) + message for message in messages)
    done = subprocess.run([program], input=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    equal(done.returncode, 0, done.stderr.decode(errors="replace")[-2000:])
    lines = done.stdout.splitlines()
    equal(len(lines), len(messages), "lines")
    return [json.loads(line) for line in lines]


def theirs(message):
    try:
        return Request.FromString(message)
    except DecodeError:
        return None


def value_of(parameter):
    """(kind, bits, text) as kserve_pb_dump has it."""
    kind = parameter.WhichOneof("parameter_choice")
    if kind is None:
        return "none", None, ""
    value = getattr(parameter, kind)
    kind = kind.removesuffix("_param")
    if kind == "string":
        return kind, None, value.encode().hex()
    if kind == "double":
        return kind, struct.unpack("<Q", struct.pack("<d", value))[0], ""
    return kind, int(value) & (1 << 64) - 1, ""


def our_parameters(items):
    found = {bytes.fromhex(item["key"]).decode(): (item["kind"], int(item["bits"]) if item["kind"] not in ("none", "string")
                                                   else None, item["text"]) for item in items}
    equal(len(found), len(items), "a key comes twice")
    return found


def has_unknown_entry(holder):
    """Is an entry of its map among the unknown fields? (upb moves those there that hold unknown fields themselves.)"""
    number = holder.DESCRIPTOR.fields_by_name["parameters"].number
    return any(field.field_number == number for field in UnknownFieldSet(holder))


def same_parameters(found, holder, where):
    if not has_unknown_entry(holder):
        equal(our_parameters(found), {key: value_of(value) for key, value in holder.parameters.items()}, where)


def mistyped(descriptor, data):
    """Has a known field another wire type than its own, anywhere in these bytes? (Groups are unknown, whatever their number.)"""
    known = {field.number: field for field in descriptor.fields}
    for number, wire, value, _ in fields_of(data):
        if number in known and wire != 3:
            field = known[number]
            own = {FIELD.TYPE_FLOAT: 5, FIELD.TYPE_DOUBLE: 1, FIELD.TYPE_STRING: 2, FIELD.TYPE_BYTES: 2, FIELD.TYPE_MESSAGE: 2}
            is_packed = repeated(field) and own.get(field.type) != 2
            if wire != own.get(field.type, 0) and not (wire == 2 and is_packed):
                return True
            if field.message_type is not None and mistyped(field.message_type, value):
                return True
    return False


def fields_of(data):
    """A plain reader of what is known to be well formed: (number, wire type, bytes of a string or None, the whole field)."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        begin = at
        tag = varint()
        number, wire, value = tag >> 3, tag & 7, None
        if wire == 0:
            varint()
        elif wire == 2:
            size = varint()
            value = data[at:at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 3:
            depth = 1
            while depth:        # to its end, whatever is in it
                inner = varint()
                if inner & 7 == 0:
                    varint()
                elif inner & 7 == 2:
                    size = varint()
                    at += size
                elif inner & 7 in (1, 5):
                    at += 8 if inner & 7 == 1 else 4
                else:
                    depth += 1 if inner & 7 == 3 else -1
        yield number, wire, value, data[begin:at]


def limited(message):
    """Which of our limits it is past, if any."""
    if max(len(message.inputs), len(message.outputs), len(message.raw_input_contents)) > 4096:
        return "the most is 4096"
    if any(len(tensor.shape) > 16 for tensor in message.inputs):
        return "more than 16 dimensions"
    return None


def tensor_of(tensor):
    """The bytes of an input's contents, or None where they are none of its datatype and shape."""
    if tensor.datatype not in DTYPES:
        return None
    field, form, bounds = DTYPES[tensor.datatype]
    if any(len(getattr(tensor.contents, other)) for other in CONTENTS if other != field):
        return None
    values = getattr(tensor.contents, field)
    if len(values) != math.prod(tensor.shape) or (bounds and any(not bounds[0] <= value <= bounds[1] for value in values)):
        return None
    if form is None:
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return struct.pack("<%d%s" % (len(values), form), *values)


def bits_of(data, datatype):
    """NaNs compare by being NaN: Python's floats lose their other bits on the way."""
    if datatype != "FP32":
        return data
    return [bits if bits & 0x7fffffff <= 0x7f800000 else "nan" for bits, in struct.iter_unpack("<I", data)]


def compare(raw, found, counts):
    """One message: what we made of it against what protobuf made of it."""
    message = theirs(raw)
    if message is None and found["code"] == "OK":
        message = without_broken_contents(raw, found)
        counts["broken contents"] += 1
    if found["code"] != "OK":
        equal(found["code"], "INVALID_ARGUMENT", found["text"])
        if message is None:
            counts["both refuse"] += 1
        elif "wire type" in found["text"]:
            check(mistyped(Request.DESCRIPTOR, raw), "refused for a wire type that is right: %s", found["text"])
            counts["wire type"] += 1
        elif "the most is 1024" in found["text"] or "a field number of 0" in found["text"]:
            counts["limit"] += 1        # a 0 outside of groups, protobuf refuses
        else:
            reason = limited(message)
            check(reason is not None and reason in found["text"], "protobuf takes what we refuse: %s", found["text"])
            counts["limit"] += 1
        return
    counts["both take"] += 1
    for name in ("model_name", "model_version", "id"):
        equal(found[name], getattr(message, name).encode().hex(), name)
    same_parameters(found["parameters"], message, "parameters")
    equal([item["data"] for item in found["raw"]], [item.hex() for item in message.raw_input_contents], "raw")
    equal(len(found["outputs"]), len(message.outputs), "outputs")
    for item, output in zip(found["outputs"], message.outputs):
        equal(item["name"], output.name.encode().hex(), "output's name")
        same_parameters(item["parameters"], output, "output's parameters")
    equal(len(found["inputs"]), len(message.inputs), "inputs")
    for item, tensor in zip(found["inputs"], message.inputs):
        equal(item["name"], tensor.name.encode().hex(), "input's name")
        equal(item["datatype"], tensor.datatype.encode().hex(), "input's datatype")
        equal(item["shape"], list(tensor.shape), "input's shape")
        same_parameters(item["parameters"], tensor, "input's parameters")
        if item.get("is_broken"):
            continue
        equal(item["has_contents"], tensor.HasField("contents"), "has contents")
        compare_tensor(item["tensor"], tensor, raw, counts)
    compare_answer(found, message, counts)


def without_broken_contents(raw, found):
    """The message, if protobuf refuses it for the contents of inputs alone; these are then marked, and must have no tensor."""
    out, index = b"", 0
    for number, wire, value, data in fields_of(raw):
        if number == 5 and wire == 2:
            kept = b"".join(field for inner, inner_wire, _, field in fields_of(value) if (inner, inner_wire) != (5, 2))
            if theirs(delimited(None, 5, value)) is None:
                item = found["inputs"][index]
                check(item["has_contents"] and "data" not in (item["tensor"] or {}), "a tensor of contents that protobuf refuses")
                item["is_broken"] = True
                data = delimited(None, 5, kept)
            index += 1
        out += data
    message = theirs(out)
    check(message is not None, "we take what protobuf refuses")
    return message


def compare_tensor(found, tensor, raw, counts):
    if found is None:       # a shape of no tensor
        check(any(dim < 0 for dim in tensor.shape) or math.prod(tensor.shape) >= 1 << 63, "a shape: %s", list(tensor.shape))
        return
    expected = tensor_of(tensor)
    if "data" in found:
        check(expected is not None, "contents that are no %s were read", tensor.datatype)
        equal(bits_of(bytes.fromhex(found["data"]), tensor.datatype), bits_of(expected, tensor.datatype), "tensor")
        counts["tensors"] += 1
    else:
        equal(found["code"], "INVALID_ARGUMENT", found["text"])
        check(expected is None or mistyped(Request.DESCRIPTOR, raw), "%s", found["text"])
        counts["no tensor"] += 1


def compare_answer(found, message, counts):
    """Our bytes, read by protobuf, and written by it again: the same values."""
    answer = Response.FromString(bytes.fromhex(found["answer"]))
    check(not len(UnknownFieldSet(answer)), "fields unknown to a client")
    for name in ("model_name", "model_version", "id"):
        equal(getattr(answer, name), getattr(message, name), name)
    same_parameters(found["parameters"], message, "parameters")
    equal({key: value_of(value) for key, value in answer.parameters.items()}, our_parameters(found["parameters"]), "parameters")
    equal(len(answer.outputs), len(message.inputs), "outputs")
    equal(len(answer.raw_output_contents), len(message.inputs), "raw_output_contents")
    for i, (output, tensor) in enumerate(zip(answer.outputs, message.inputs)):
        known = tensor.datatype in DTYPES or tensor.datatype in RAW_ONLY
        equal((output.name, output.datatype, list(output.shape)),
              (tensor.name, tensor.datatype if known else "INVALID", list(tensor.shape)), "output")
        if i < len(message.raw_input_contents):
            equal(answer.raw_output_contents[i], message.raw_input_contents[i], "raw")
        elif isinstance(found["inputs"][i]["tensor"], dict) and "data" in found["inputs"][i]["tensor"]:
            equal(answer.raw_output_contents[i].hex(), found["inputs"][i]["tensor"]["data"], "raw")
    counts["answers"] += 1


def judge(messages):
    counts = dict.fromkeys(("both take", "both refuse", "wire type", "limit", "tensors", "no tensor", "answers",
                            "broken contents"), 0)
    for message, found in zip(messages, ours(messages)):
        try:
            compare(message, found, counts)
        except Exception as error:
            raise type(error)("%s; the message: %s" % (error, message[:400].hex())) from error
    return counts


# --- random messages -------------------------------------------------------------------------------

WORDS = ["", "x", "iris", "größe", "a name of more than sixteen bytes", "日本", "\U0001f33c", "classification"]


def random_number(rng, low, high):
    if rng.random() < 0.3:
        return rng.choice([low, high, max(low, 0), max(low, min(high, 1)), max(low, -1)])
    return rng.randint(low >> (shift := rng.randrange(max(abs(low), high).bit_length())), high >> shift)


def random_values(rng, datatype, count):
    if datatype == "BOOL":
        return [rng.random() < 0.5 for _ in range(count)]
    if datatype == "BYTES":
        return [rng.randbytes(rng.choice([0, 1, 5, 200])) for _ in range(count)]
    if datatype == "FP32":
        return [struct.unpack("<f", struct.pack("<I", rng.getrandbits(32)))[0] for _ in range(count)]
    if datatype == "FP64":
        return [rng.choice([rng.gauss(0, 1), math.inf, -math.inf, 5e-324, -0.0, 1e308]) for _ in range(count)]
    bits = int(datatype.lstrip("UINT"))
    low, high = (0, (1 << bits) - 1) if datatype[0] == "U" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    return [random_number(rng, low, high) for _ in range(count)]


def random_parameters(rng, holder):
    for _ in range(rng.choice([0, 0, 1, 3, 20])):
        parameter = holder.parameters[rng.choice(WORDS) + str(rng.randrange(30))]
        kind = rng.randrange(6)
        if kind == 0:
            parameter.bool_param = rng.random() < 0.5
        elif kind == 1:
            parameter.int64_param = random_number(rng, -(1 << 63), (1 << 63) - 1)
        elif kind == 2:
            parameter.string_param = rng.choice(WORDS)
        elif kind == 3:
            parameter.double_param = rng.gauss(0, 1e10)
        elif kind == 4:
            parameter.uint64_param = random_number(rng, 0, (1 << 64) - 1)


def random_request(rng):
    message = Request(model_name=rng.choice(WORDS), model_version=rng.choice(["", "1", "12"]), id=rng.choice(WORDS))
    random_parameters(rng, message)
    is_raw = rng.random() < 0.3
    for _ in range(rng.choice([0, 1, 1, 1, 2, 5])):
        datatype = rng.choice(list(DTYPES) + list(RAW_ONLY) + ["WHAT"])
        tensor = message.inputs.add(name=rng.choice(WORDS), datatype=datatype)
        tensor.shape.extend(rng.choice([0, 1, 2, 3, 7, 150]) for _ in range(rng.choice([0, 1, 1, 2])))
        if rng.random() < 0.05:
            tensor.shape.extend(random_number(rng, -(1 << 63), (1 << 63) - 1) for _ in range(rng.randrange(18)))
        random_parameters(rng, tensor)
        count = math.prod(tensor.shape)
        if is_raw or datatype not in DTYPES or not 0 <= count < 1000:
            message.raw_input_contents.append(rng.randbytes(rng.choice([0, 1, 16, 24, 25, 300])))
            continue
        other = rng.choice(list(DTYPES)) if rng.random() < 0.03 else datatype
        count += rng.choice([-1, 1]) if rng.random() < 0.03 and count else 0
        getattr(tensor.contents, DTYPES[other][0]).extend(random_values(rng, other, count))
    for _ in range(rng.choice([0, 0, 1, 2])):
        random_parameters(rng, message.outputs.add(name=rng.choice(WORDS)))
    return message


# --- the same message, written by hand in all the ways there are ---------------------------------------

def varint(rng, value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    while rng is not None and rng.random() < 0.03 and len(out) < 10:        # longer than it need be
        out[-1] |= 128
        out.append(0)
    return bytes(out)


def tag(rng, number, wire):
    out = varint(rng, number << 3 | wire)
    return out if len(out) <= 5 else bytes([number << 3 | wire])


def length(rng, data):
    out = varint(rng, len(data))
    return out if len(out) <= 5 else varint(None, len(data))


def delimited(rng, number, data):
    return tag(rng, number, 2) + length(rng, data) + data


def unknown(rng):
    """A field that nobody knows, of any wire type."""
    number, wire = rng.randrange(9, 3000), rng.choice([0, 1, 2, 3, 5])
    head = varint(None, number << 3 | wire)
    if wire == 0:
        return head + varint(rng, rng.getrandbits(64))
    if wire == 2:
        return head + length(rng, data := rng.randbytes(rng.randrange(9))) + data
    if wire == 3:
        return head + b"".join(unknown(rng) for _ in range(rng.randrange(3))) + varint(None, number << 3 | 4)
    return head + rng.randbytes(8 if wire == 1 else 4)


def scalar(rng, field, value):
    """(wire type, bytes) of one value of a number's kind"""
    if field.type == FIELD.TYPE_FLOAT:
        return 5, struct.pack("<f", value)
    if field.type == FIELD.TYPE_DOUBLE:
        return 1, struct.pack("<d", value)
    return 0, varint(rng, int(value))


def written(rng, message, in_entry=False):
    """The message as bytes: parts in any order where order means nothing, lists cut in parts, unknown fields between."""
    lists = []
    for field, value in message.ListFields():
        parts = []
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in value:
                entry = [delimited(rng, 1, key.encode())] if key or rng.random() < 0.5 else []
                inner = written(rng, value[key], in_entry=True)
                if inner or rng.random() < 0.5:
                    entry.append(delimited(rng, 2, inner))
                if rng.random() < 0.1:
                    entry.append(delimited(rng, 2, b""))
                if rng.random() < 0.1:      # an earlier one of that key
                    parts.append(delimited(rng, field.number, delimited(rng, 1, key.encode()) + delimited(rng, 2, b"\x08\x01")))
                rng.shuffle(entry)
                parts.append(delimited(rng, field.number, b"".join(entry)))
        elif field.message_type is not None:
            if repeated(field):
                parts = [delimited(rng, field.number, written(rng, item)) for item in value]
            else:
                parts = [delimited(rng, field.number, piece) for piece in split(rng, written_parts(rng, value))]
        elif field.type in (FIELD.TYPE_STRING, FIELD.TYPE_BYTES):
            items = value if repeated(field) else [value]
            parts = [delimited(rng, field.number, item.encode() if isinstance(item, str) else item) for item in items]
            if not repeated(field) and rng.random() < 0.1:
                parts.insert(0, delimited(rng, field.number, b"before"))
        elif repeated(field):
            parts = numbers(rng, field, value)
        else:
            wire, data = scalar(rng, field, value)
            parts = [tag(rng, field.number, wire) + data]
        lists.append(parts)
    return b"".join(shuffled(rng, lists, 0 if in_entry else 0.1))


def written_parts(rng, message):
    """contents: fields of numbers, each in parts."""
    lists = []
    for field, value in message.ListFields():
        lists.append([delimited(rng, field.number, item) for item in value] if field.type == FIELD.TYPE_BYTES
                     else numbers(rng, field, value))
    return shuffled(rng, lists, 0.1)


def numbers(rng, field, values):
    values, parts = list(values), []
    while values:
        count = rng.choice([1, len(values), rng.randint(1, len(values))])
        items, values = [scalar(rng, field, value) for value in values[:count]], values[count:]
        if rng.random() < 0.3:
            parts += [tag(rng, field.number, wire) + data for wire, data in items]
        else:
            parts.append(delimited(rng, field.number, b"".join(data for _, data in items)))
        if rng.random() < 0.1:
            parts.append(delimited(rng, field.number, b""))
    return parts


def split(rng, parts):
    """Bytes of a sub-message, as one or as several of its parts."""
    if rng.random() < 0.6:
        return [b"".join(parts)]
    at = sorted(rng.randint(0, len(parts)) for _ in range(rng.randint(1, 3)))
    return [b"".join(parts[a:b]) for a, b in zip([0] + at, at + [len(parts)])]


def shuffled(rng, lists, unknowns):
    """All parts, each list in its own order, with unknown fields between."""
    lists, out = [list(parts) for parts in lists if parts], []
    while lists:
        chosen = rng.choice(lists)
        out.append(chosen.pop(0))
        lists = [parts for parts in lists if parts]
        while rng.random() < unknowns:
            out.append(unknown(rng))
    return out


def mutated(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        kind, at = rng.randrange(6), rng.randrange(len(data) + 1)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice([0, 1, 2, 3, 4, 7, 8, 0x0a, 0x0b, 0x0c, 0x2a, 0x7f, 0x80, 0xff])
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = rng.choice([b"\x00", b"\xff", b"\x80" * 9 + b"\x01", b"\x0b\x0c", b"\x0a\x02\xc3\x28", unknown(rng)])
        elif kind == 4:
            del data[at:at + rng.randint(1, 4)]
        else:
            end = min(len(data), at + rng.randint(1, 12))
            data[at:at] = data[at:end]
    return bytes(data)


# --- the cases ---------------------------------------------------------------------------------------

def rng_of(name):
    seed = os.environ.get("PENSTOCK_TEST_SEED") or str(random.SystemRandom().getrandbits(32))
    print("# %s: PENSTOCK_TEST_SEED=%s" % (name, seed), flush=True)
    return random.Random(name + seed)


@case
def what_protobuf_writes_we_read():
    rng = rng_of("canonical")
    requests = [random_request(rng) for _ in range(3000)]
    counts = judge([request.SerializeToString() for request in requests])
    equal(counts["both refuse"] + counts["wire type"], 0, "refused")
    check(counts["both take"] > 2900 and counts["tensors"] > 1500 and counts["answers"] > 2900, "%s", counts)


@case
def what_may_be_written_otherwise_we_read_as_well():
    rng = rng_of("by hand")
    requests = [random_request(rng) for _ in range(3000)]
    messages = [written(rng, request) for request in requests]
    for request, message in zip(requests, messages):    # the writer above writes what it means
        again = theirs(message)
        check(again is not None, "protobuf refuses what was written by hand: %s", message.hex())
        again.DiscardUnknownFields()
        if b"nan" not in str(request).encode():
            equal(again, request, message.hex())
    counts = judge(messages)
    equal(counts["both refuse"] + counts["wire type"], 0, "refused")
    check(counts["both take"] > 2900 and counts["tensors"] > 1500, "%s", counts)


@case
def what_protobuf_refuses_we_refuse():
    rng = rng_of("mutated")
    messages = [mutated(rng, written(rng, random_request(rng))) for _ in range(20000)]
    counts = judge(messages)
    check(min(counts["both take"], counts["both refuse"]) > 1000 and counts["wire type"] > 20 and
          counts["broken contents"] > 20, "%s", counts)


@case
def any_bytes():
    rng = rng_of("noise")
    alphabet = bytes([0x0a, 0x12, 0x1a, 0x22, 0x2a, 0x32, 0x3a, 0x08, 0x10, 0x0b, 0x0c, 0, 1, 2, 3, 4, 5, 0x80, 0xff, 0x78])
    counts = judge([bytes(rng.choice(alphabet) for _ in range(rng.randrange(30))) for _ in range(40000)])
    check(min(counts["both take"], counts["both refuse"]) > 1000 and counts["wire type"] > 50, "%s", counts)


@case
def every_cut_of_a_message():
    rng = rng_of("cuts")
    messages = []
    for _ in range(20):
        message = written(rng, random_request(rng))[:1000]
        messages += [message[:size] for size in range(len(message) + 1)]
    counts = judge(messages)
    check(min(counts["both take"], counts["both refuse"]) > 20, "%s", counts)


@case
def entries_with_unknown_fields_stay_entries():
    """protobuf's C++ and Java say so; its Python moves such an entry to the unknown fields."""
    entry = b"\x0a\x01k\x12\x02\x10\x07" + b"\x78\x01"
    found, = ours([b"\x22" + bytes([len(entry)]) + entry])
    equal(our_parameters(found["parameters"]), {"k": ("int64", 7, "")})


if __name__ == "__main__":
    main()
