"""SECURITY.md names every limit that there is, by options and metrics that exist: none is added without its reason."""
import os
import re
import subprocess

from harness import BINARY, ROOT, Server, case, check, equal, main

GROUP = "Limits"
ELSEWHERE = {"load-threads"}        # options whose bound is no defence


def page():
    with open(os.path.join(ROOT, "SECURITY.md"), encoding="utf-8") as file:
        return file.read()


def table():
    """Rows of the table of limits: (options, metrics)."""
    rows = re.findall(r"^\| (`--[^|]*) \|[^|]*\|[^|]*\| ([^|]*) \|$", page(), re.M)
    check(len(rows) > 20, "%d rows", len(rows))
    return [(re.findall(r"`--([a-z0-9-]+)`", options), re.findall(r"`([^`]+)`", metrics)) for options, metrics in rows]


def groups():
    text = subprocess.run([BINARY, "--help=markdown"], capture_output=True, text=True, check=True).stdout
    found = {}
    for title, body in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.M | re.S):
        found[title] = set(re.findall(r"^\| `--([a-z0-9-]+)", body, re.M))
    return found


@case
def every_limit_has_its_reason():
    found, named = groups(), {name for options, _ in table() for name in options}
    check(len(found[GROUP]) > 30, "%s", sorted(found))
    equal(sorted(found[GROUP] - named - ELSEWHERE), [], "limits that SECURITY.md does not explain")
    equal(sorted(named - set().union(*found.values())), [], "options of SECURITY.md that there are not")


@case
def every_metric_is_there():
    with Server(os.path.join(ROOT, "examples", "models"), options=["--access-log", os.devnull, "--otlp", "http://127.0.0.1:9"]) as server:
        server.wait_ready()
        text = server.call("GET", "/metrics")[2].decode()
    labels = set(re.findall(r'^penstock_limit_hits_total\{limit="([^"]+)"\}', text, re.M))
    families = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    check(len(labels) > 15, "%s", labels)
    for options, metrics in table():
        check(metrics, "%s: no metric", options)
        for metric in metrics:
            match = re.fullmatch(r'limit="([^"]+)"', metric)
            check(match.group(1) in labels if match else metric in families or metric.removesuffix("_total") in families, "%s: there is no %s", options, metric)
    told = {match for _, metrics in table() for metric in metrics for match in re.findall(r'limit="([^"]+)"', metric)}
    equal(sorted(labels - told), [], "counters of limits that the table does not name")


if __name__ == "__main__":
    main()
