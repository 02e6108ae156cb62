"""The pages in docs/ say what the program does: keys, fields and metrics are compared with it, and what is shown is run."""
import os
import re
import subprocess
import sys
import tempfile
import time

from harness import BINARY, ROOT, Server, case, check, equal, main, models

EXAMPLES = os.path.join(ROOT, "examples", "models")
IRIS = os.path.join(EXAMPLES, "iris", "1", "model.onnx")


def page(name):
    with open(os.path.join(ROOT, "docs", name), encoding="utf-8") as file:
        return file.read()


def rows(text, title=None):
    """The cells of each row of the tables (below a title)."""
    if title is not None:
        text = re.search(r"^## %s$(.*?)(?=^## |\Z)" % re.escape(title), text, re.M | re.S).group(1)
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@case
def config_pbtxt_is_of_the_schema():
    done = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "config_docs"), "--check"], capture_output=True, text=True)
    equal(done.returncode, 0, done.stderr)


@case
def config_pbtxts_example_loads():
    config = re.search(r"^    max_batch_size.*?^    \]$", page("config-pbtxt.md"), re.M | re.S).group(0)
    layout = {"iris/1/model.onnx": IRIS, "iris/config.pbtxt": config.encode(), "iris/labels.txt": b"a\nb\nc\n"}
    with models(layout) as folder, Server(folder) as server:
        server.wait_ready()
        status, answer = server.post("/models/iris:predict", [5.1, 3.5, 1.4, 0.2])
        equal((status, answer["label"]), (200, "a"), answer)


@case
def model_yamls_keys_are_those_that_are_read():
    text = page("model-yaml.md")
    with open(os.path.join(ROOT, "src", "model", "card.c"), encoding="utf-8") as file:
        source = file.read()
    for title, table in (("Of the model", "card_keys"), ("Of an input", "input_keys"), ("Of a feature", "feature_keys"),
                         ("Of an output", "output_keys")):
        read = re.search(r"struct key %s\[\] = \{(.*?)\};" % table, source, re.S).group(1)
        told = [key for row in rows(text, title) for key in re.findall(r"`(\w+)`", row[0])]
        equal(sorted(told), sorted(re.findall(r'\{ "(\w+)"', read)), "%s, %s" % (title, table))


@case
def model_yamls_example_loads():
    card = re.search(r"^    title: Iris.*?(?=^\S)", page("model-yaml.md"), re.M | re.S).group(0)
    card = "\n".join(line[4:] for line in card.splitlines()) + "\n"
    with models({"iris.onnx": IRIS, "iris.yaml": card.encode()}) as folder, Server(folder) as server:
        server.wait_ready()
        status, answer = server.post("/models/iris:predict",
                                     {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2})
        equal((status, answer["label"]), (200, "setosa"), answer)


INPUT = {"title": "t", "description": "d", "unit": "cm", "min": "0", "max": "9", "example": "[1, 2, 3, 4]",
         "features": "[a, b, c, {name: d, unit: m, description: x, min: 1, max: 8, example: 2}]", "content_type": "image/png",
         "number": "7"}
OUTPUT = {"title": "t", "description": "d", "unit": "cm", "role": "label", "labels": "[x, y, z]", "labels_file": "l.txt",
          "features": None, "number": "7"}
REFUSED = {"title": "[1]", "description": "{}", "unit": "[]", "min": "low", "max": "high", "features": "[a]", "content_type": "png",
           "role": "best", "labels": "[]", "labels_file": "none.txt", "number": "1000"}


@case
def model_yamls_keys_have_their_effect_alone():
    """Each key of an input and of an output: a model with it loads, and one with a wrong value does not."""
    text = page("model-yaml.md")
    layout, expected = {}, {}
    for kind, tensor, title in (("input", "input", "Of an input"), ("output", "label", "Of an output")):
        for key in (key for row in rows(text, title) for key in re.findall(r"`(\w+)`", row[0])):
            good = (INPUT if kind == "input" else OUTPUT).get(key, "true")
            for name, value in (("good", good), ("bad", REFUSED.get(key))):
                if value is None:
                    continue
                model = "%s_%s_%s" % (kind, key, name)
                layout[model + "/1/model.onnx"] = IRIS
                layout[model + "/l.txt"] = b"x\ny\nz\n"
                layout[model + "/model.yaml"] = ("%ss: {%s: {%s: %s}}\n" % (kind, tensor, key, value)).encode()
                expected[model] = name == "good"
    check(len(expected) >= 24, "%s", expected)
    with models(layout) as folder, Server(folder, options=["--no-strict-readiness"]) as server:
        until = time.monotonic() + 30
        while "models:" not in server.log and time.monotonic() < until:
            time.sleep(0.01)
        index = {row["name"]: row for row in server.post("/v2/repository/index", {})[1]}
        for model, is_good in expected.items():
            equal(index[model]["state"] == "READY", is_good, "%s: %s" % (model, index[model].get("reason")))
        fields = server.get("/models/input_title_good")[1]["inputs"][0]
        equal((fields["name"], fields["tensor"]), ("t", "input"))
        equal(server.post("/models/input_max_good:predict", [5.1, 3.5, 1.4, 10])[0], 400, "max")
        equal(server.post("/models/output_labels_file_good:predict", [5.1, 3.5, 1.4, 0.2])[1]["label"], "x")


def metrics_of(server):
    """Rows as the page has them, of the families that the server gives; "?" for the labels of one without a sample."""
    text = server.call("GET", "/metrics")[2].decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    out = []
    for name, words in re.findall(r"^# HELP (\S+) (.*)$", text, re.M):
        labels = []
        for inside in re.findall(r"^%s(?:_bucket)?\{(.*)\} " % name, text, re.M):
            labels += [label for label in re.findall(r'(\w+)="', inside) if label not in labels + ["le"]]
        has_sample = re.search(r"^%s(?:_count)?[{ ]" % name, text, re.M)
        out.append("| `%s` | %s | %s | %s |" % (name, types[name], ", ".join(labels) if has_sample else "?", words.rstrip(".")))
    return out


@case
def metrics_are_those_of_a_running_server():
    rules = tempfile.NamedTemporaryFile("w", suffix=".yaml")
    rules.write("rules: [{who: anonymous, may: [read, infer]}]\n")
    rules.flush()
    with rules, Server(EXAMPLES, options=["--access-log", os.devnull, "--otlp", "http://127.0.0.1:9", "--access", rules.name,
                                          "--audit-log", os.devnull]) as server:
        server.wait_ready()
        equal(server.post("/models/iris:predict", [5.1, 3.5, 1.4, 0.2])[0], 200)
        found = metrics_of(server)
    told = [line for line in page("metrics.md").splitlines() if line.startswith("| `")]
    check(len(found) > 20, "%s", found)
    # A histogram is not there before its first event: what its labels are is the page's word.
    unseen = [row for row in found if "| ? |" in row]
    equal(sorted(row.split("`")[1] for row in unseen), ["penstock_cancel_seconds", "penstock_queue_tenant_waiting"],
          "families without a sample")
    for i, row in enumerate(told):
        for other in unseen:
            if row.startswith(other.split("?")[0]) and row.endswith(other.split("?")[1]):
                told[i] = other
    for row in found:
        check(row in told, "docs/metrics.md lacks: %s", row)
    for row in told:
        check(row in found, "docs/metrics.md has what is not there: %s", row)


@case
def options_are_those_of_the_program():
    done = subprocess.run([BINARY, "--help=markdown"], capture_output=True, text=True)
    equal(done.stdout, page("options.md"), "docs/options.md (penstock --help=markdown)")


if __name__ == "__main__":
    main()
