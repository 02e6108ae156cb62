"""packaging/grafana and packaging/prometheus: every metric and label that they name is one of a running server, promtool takes the
rules and the metrics, and a real Prometheus scrapes the server and answers every expression of the dashboard."""
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from harness import ROOT, Server, case, check, equal, main, skip

EXAMPLES = os.path.join(ROOT, "examples", "models")
DASHBOARD = os.path.join(ROOT, "packaging", "grafana", "penstock.json")
RULES = os.path.join(ROOT, "packaging", "prometheus", "penstock-rules.yml")
OF_PROMETHEUS = {"job", "instance", "le"}       # labels that it adds, and that histograms have
WORDS = {"sum", "by", "rate", "histogram_quantile", "ignoring", "group_left", "or", "vector", "time", "min", "max", "changes", "on",
         "and", "unless", "without", "label_values"}


def program(name):
    return shutil.which(name) or skip("no %s (script/bootstrap clients)" % name)


def dashboard():
    with open(DASHBOARD, encoding="utf-8") as file:
        return json.load(file)


def expressions():
    """(where, expression) of every panel and variable, and of every rule."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield "$" + variable["name"], variable["query"]["query"]
    for expression in rules():
        yield "rule", expression


def rules():
    """The `expr` of each rule: of one line, or folded (>)."""
    with open(RULES, encoding="utf-8") as file:
        found = re.findall(r"^ +expr: (?:>\n((?:          .*\n)+)|(.+)\n)", file.read(), re.M)
    return [" ".join((folded or plain).split()) for folded, plain in found]


def filled(expression):
    for name, value in (("$__rate_interval", "10s"), ("$job", ".*"), ("$instance", ".*"), ("$model", ".*")):
        expression = expression.replace(name, value)
    return expression


KEY = "a-key-of-this-test"
ACCESS = """
keys:
  - {name: alice, sha256: %s, tenant: research}
tenants:
  research: {rate: 1000}
rules:
  - {who: '*', may: [read, infer]}
  - {who: anonymous, may: [read, infer]}
""" % hashlib.sha256(KEY.encode()).hexdigest()


@contextlib.contextmanager
def busy_server():
    """With examples, tenants, a log and traces that nobody collects, and everything in its metrics that a model's first request brings."""
    with tempfile.TemporaryDirectory(prefix="penstock-access-") as folder:
        path = os.path.join(folder, "access.yaml")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
            file.write(ACCESS)
        options = ["--access", path, "--access-log", os.path.join(folder, "log"), "--otlp", "http://127.0.0.1:1"]
        with Server(EXAMPLES, options=options) as server:
            server.wait_ready()
            work(server)
            yield server


def work(server):
    for _ in range(20):
        equal(server.post("/models/iris:predict", [5.1, 3.5, 1.4, 0.2], {"x-api-key": KEY})[0], 200)
        equal(server.post("/models/iris:predict", [5.1, 3.5, 1.4, 0.2])[0], 200)
    equal(server.get("/nothing")[0], 404)
    equal(server.get("/v2", {"x-api-key": "somebody's"})[0], 401)


def series_of(server):
    """{name: {label: values}} of all samples."""
    found = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", server.call("GET", "/metrics")[2].decode(), re.M):
        for label, value in [("", "")] + re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels):
            found.setdefault(name, {}).setdefault(label, set()).add(value)
    return found


def names_in(expression):
    """(metric, label matchers, labels that the expression groups by)"""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    grouped = set()
    for inside in re.findall(r"\b(?:by|ignoring|on|without)\s*\(([^)]*)\)", bare):
        grouped |= {word.strip() for word in inside.split(",") if word.strip()}
    without = re.sub(r"\b(?:by|ignoring|on|without)\s*\([^)]*\)", " ", bare)
    without = re.sub(r"\[[^]]*\]", " ", without)
    matched = re.sub(r"\{([^}]*)\}", " ", without)
    for metric in re.findall(r"(?<![\w.$])[a-zA-Z_]\w*", matched):
        if metric in WORDS or metric in ("job", "instance", "model"):
            continue
        labels = set()
        for inside in re.findall(r"\b%s\{([^}]*)\}" % metric, without):
            labels |= set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)', inside))
        yield metric, labels, grouped


@case
def the_dashboard_is_what_its_tool_makes():
    done = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "dashboard"), "--check"], capture_output=True, text=True)
    equal(done.returncode, 0, done.stderr)


@case
def the_dashboard_is_of_grafanas_form():
    """What Grafana 10 needs to load it: ids of their own, places that do not overlap, a data source that is asked for."""
    board = dashboard()
    check(board["schemaVersion"] >= 36 and board["uid"] == "penstock" and "id" not in board, "%s", board["schemaVersion"])
    names = [variable["name"] for variable in board["templating"]["list"]]
    equal(names[0], "datasource")
    taken, ids = set(), set()
    titles = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    for wanted in ("Traffic", "Latency", "Errors", "Models", "Queues", "Streams", "Tenants", "Loops and process", "Limits hit"):
        check(wanted in titles, "no row %s", wanted)
    for panel in board["panels"]:
        check(panel["id"] not in ids, "%s: id %s twice", panel["title"], panel["id"])
        ids.add(panel["id"])
        place = panel["gridPos"]
        check(place["x"] + place["w"] <= 24, "%s: %s", panel["title"], place)
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        check(not cells & taken, "%s lies on another", panel["title"])
        taken |= cells
        if panel["type"] == "row":
            continue
        equal(panel["datasource"]["uid"], "${datasource}", panel["title"])
        refs = [target["refId"] for target in panel["targets"]]
        check(refs and len(set(refs)) == len(refs), "%s: %s", panel["title"], refs)
        for target in panel["targets"]:
            for used in re.findall(r"\$(?!__)(\w+)", target["expr"]):
                check(used in names, "%s: $%s is no variable", panel["title"], used)
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                check(re.search(r"\bby \([^)]*\b%s\b" % label, target["expr"]) or "sum" not in target["expr"],
                      "%s: its legend names %s, which the sum has dropped", panel["title"], label)


@case
def every_name_is_one_of_a_running_server():
    with busy_server() as server:
        there = series_of(server)
    count = 0
    for where, expression in expressions():
        found = list(names_in(expression))
        check(found, "%s: no metric in %s", where, expression)
        for metric, labels, grouped in found:
            if metric == "up":
                continue
            count += 1
            check(metric in there, "%s: the server has no %s", where, metric)
            for label in labels:
                check(label in OF_PROMETHEUS or label in there[metric], "%s: %s has no label %s", where, metric, label)
            for label in grouped:
                check(label in OF_PROMETHEUS or any(label in there.get(other, ()) for other, _, _ in found),
                      "%s: nothing in it has a label %s", where, label)
            for values in re.findall(r'\b%s\{[^}]*?(?:limit|stage|reason)="([^"]*)"' % metric, expression):
                check(any(values in known for known in there[metric].values()), "%s: %s has no value %s", where, metric, values)
    check(count > 60, "%d names", count)


@case
def what_is_not_there_would_be_seen():
    """The reading of expressions itself: what it takes for a metric and for labels."""
    found = dict((metric, (labels, grouped)) for metric, labels, grouped in names_in(
        'histogram_quantile(0.9, sum by (le, a) (rate(b_bucket{c=~"d{e}", f!="g"}[5m]))) / ignoring (h) group_left sum(i) > 1'))
    equal(found, {"b_bucket": ({"c", "f"}, {"le", "a", "h"}), "i": (set(), {"le", "a", "h"})})


@case
def promtool_takes_the_rules():
    done = subprocess.run([program("promtool"), "check", "rules", RULES], capture_output=True, text=True)
    equal(done.returncode, 0, done.stdout + done.stderr)
    check("%d rules found" % len(rules()) in done.stdout, "%s, and this test finds %d", done.stdout, len(rules()))


@case
def promtool_takes_every_expression_of_the_dashboard():
    program("promtool")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rules.yml")
        made = [{"record": "x:%d" % i, "expr": filled(expression)} for i, (where, expression) in enumerate(expressions())
                if not expression.startswith("label_values")]
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"groups": [{"name": "panels", "rules": made}]}, file)
        done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True)
        equal(done.returncode, 0, done.stdout + done.stderr)


@case
def promtool_takes_the_metrics():
    """It finds nothing but the names that are Triton's."""
    with busy_server() as server:
        page = server.call("GET", "/metrics")[2]
    done = subprocess.run([program("promtool"), "check", "metrics"], input=page, capture_output=True)
    for line in (done.stdout + done.stderr).decode().splitlines():
        check(line.startswith("nv_"), "%s", line)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def prometheus(server):
    """One that scrapes the server twice a second, with our rules; its url."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="penstock-prometheus-") as folder:
        path = os.path.join(folder, "prometheus.yml")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"}, "rule_files": [RULES],
                       "scrape_configs": [{"job_name": "penstock", "static_configs": [{"targets": [server.address]}]}]}, file)
        with open(os.path.join(folder, "log"), "wb") as log:
            process = subprocess.Popen([program("prometheus"), "--config.file", path, "--storage.tsdb.path", os.path.join(folder, "data"),
                                        "--web.listen-address", "127.0.0.1:%d" % port, "--log.level", "warn"], stdout=log, stderr=log)
        try:
            yield "http://127.0.0.1:%d" % port, os.path.join(folder, "log")
        finally:
            process.terminate()
            process.wait(20)


def query(url, path, **parameters):
    try:
        with urllib.request.urlopen("%s/api/v1/%s?%s" % (url, path, urllib.parse.urlencode(parameters)), timeout=20) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return json.load(error)


@case
def a_real_prometheus_scrapes_it_and_answers_every_panel():
    program("prometheus")
    with busy_server() as server, prometheus(server) as (url, log):
        until, target = time.monotonic() + 60, {}
        while target.get("health") != "up" and time.monotonic() < until:
            time.sleep(0.2)
            with contextlib.suppress(OSError, ValueError):       # it is starting
                target = (query(url, "targets")["data"]["activeTargets"] or [{}])[0]
        with open(log, encoding="utf-8") as file:
            equal(target.get("health"), "up", "%s %s" % (target.get("lastError"), file.read()))
        for _ in range(8):                      # rates need samples, and something between them
            work(server)
            time.sleep(0.5)
        shown = {}
        for where, expression in expressions():
            if expression.startswith("label_values"):
                continue
            answer = query(url, "query", query=filled(expression))
            equal(answer["status"], "success", "%s: %s" % (where, answer.get("error")))
            if where != "rule" and not expression.endswith("> 0"):      # those show what should not be
                shown.setdefault(where, []).append(len(answer["data"]["result"]))
        empty = sorted(where for where, counts in shown.items() if not all(counts))
        equal(empty, [], "panels that show nothing of a server at work")
        kinds = {name: rows[0]["type"] for name, rows in query(url, "metadata")["data"].items()}
        equal([kinds.get(name) for name in ("penstock_requests", "nv_inference_count", "penstock_route_seconds", "process_open_fds")],
              ["counter", "unknown", "histogram", "gauge"], "as OpenMetrics tells them")
        groups = query(url, "rules")["data"]["groups"]
        equal([rule["health"] for rule in groups[0]["rules"]], ["ok"] * len(rules()), "%s" % groups)


if __name__ == "__main__":
    main()
