"""GET /metrics: which form is answered to which Accept, compressed or not; how large it is; which labels callers can make."""
import gzip
import os
import re
import zlib

from harness import Server, case, cases, check, equal, main, models, need

ECHO = b"""backend: "echo"
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
"""
PLAIN, OPEN = "text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


def layout(count):
    return {"m%d/%s" % (i, name): content for i in range(count) for name, content in (("config.pbtxt", ECHO), ("1/keep", b""))}


def page(server, **headers):
    status, found, body = server.call("GET", "/metrics", headers={name.replace("_", "-"): value for name, value in headers.items()})
    equal(status, 200)
    return found, body


@cases({
    "none": (None, PLAIN),
    "anything": ("*/*", PLAIN),
    "plain": ("text/plain", PLAIN),
    "openmetrics": ("application/openmetrics-text", OPEN),
    "openmetrics_quoted": ('application/openmetrics-text; version="1.0.0"', OPEN),
    "openmetrics_of_before": ("application/openmetrics-text; version=0.0.1", PLAIN),
    "prometheus_2": (PROMETHEUS, OPEN),
    "prometheus_3": ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4,*/*;q=0.2", OPEN),
    "plain_is_liked_better": ("application/openmetrics-text;q=0.3, text/plain;q=0.5", PLAIN),
    "openmetrics_is_refused": ("application/openmetrics-text;q=0, */*", PLAIN),
    "json": ("application/json", PLAIN),
    "nonsense": (";;,=,q=1,application/openmetrics-text;q=x", PLAIN),
})
def is_answered_in_the_form_that_is_asked_for(accept, wanted):
    with models(layout(1)) as folder, Server(folder) as server:
        found, body = page(server, **({"accept": accept} if accept else {}))
    equal(found["content-type"], wanted)
    check("accept" in found["vary"], "%s", found)
    equal(body.endswith(b"# EOF\n"), wanted == OPEN, "its end")


@case
def both_forms_say_the_same():
    """By the parsers of Prometheus' own client for Python, which are strict about OpenMetrics."""
    need("prometheus_client")
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
    from prometheus_client.parser import text_string_to_metric_families as read_plain
    with models(layout(2)) as folder, Server(folder) as server:
        server.wait_ready()
        equal(server.post("/models/m0:predict", [1, 2, 3, 4])[0], 200)
        server.get('/no"thing\\')
        page(server)                            # which counts itself from the next one on
        plain = page(server)[1].decode()
        opened = page(server, accept=PROMETHEUS)[1].decode()

    def samples(families):
        """Their reader of the plain form puts _total behind counters that have none: those are Triton's."""
        return {(re.sub("^(nv_.*)_total$", r"\1", sample.name), tuple(sorted(sample.labels.items()))) for family in families
                for sample in family.samples}
    first, second = samples(read_plain(plain)), samples(read_open(opened))
    check(len(first) > 200, "%d samples", len(first))

    def float_bounds(of):
        return {(name, tuple((label, "%g" % float(value) if label == "le" else value) for label, value in labels)) for name, labels in of}
    equal(float_bounds(first) ^ float_bounds(second), set(), "what only one of them has")


@cases({"gzip": ("gzip", lambda body: gzip.decompress(body)), "deflate": ("deflate", lambda body: zlib.decompress(body)),
        "none": ("identity", lambda body: body), "gzip_refused": ("gzip;q=0", lambda body: body)})
def is_compressed_for_who_takes_it(encoding, opened):
    with models(layout(4)) as folder, Server(folder) as server:
        server.wait_ready()
        whole = page(server)[1]
        found, body = page(server, accept_encoding=encoding)
    equal(found.get("content-encoding", "identity"), encoding if "q=0" not in encoding else "identity")
    names = re.findall(rb"^# TYPE (\S+)", opened(body), re.M)
    equal(names, re.findall(rb"^# TYPE (\S+)", whole, re.M))
    if encoding == "gzip":
        check(len(body) < len(whole) / 5, "%d of %d bytes", len(body), len(whole))


@case
def models_that_nobody_calls_are_few_lines():
    with models(layout(31)) as folder, Server(folder) as server:
        server.wait_ready()
        before = page(server)[1]
        check(len(before) < 120 << 10, "%d bytes of 31 models", len(before))
        print("31 models: %d bytes, %d compressed" % (len(before), len(page(server, accept_encoding="gzip")[1])))
        equal(len(re.findall(rb"^nv_inference_request_success\{", before, re.M)), 31, "Triton's are there from the start")
        check(b"penstock_request_seconds_bucket{" not in before, "a histogram that has counted nothing")
        equal(server.post("/models/m7:predict", [1, 2, 3, 4])[0], 200)
        after = page(server)[1].decode()
        equal(set(re.findall(r'^penstock_request_seconds_bucket\{model="(\w+)"', after, re.M)), {"m7"})
        bounds = re.findall(r'^penstock_request_seconds_bucket\{model="m7",version="1",le="(\S+)"\} (\d+)$', after, re.M)
        check(len(bounds) == 22 and bounds[-1] == ("+Inf", "1"), "all of its buckets: %s", bounds)
    with models(layout(2)) as folder, Server(folder, options=["--metrics-unused"]) as server:
        server.wait_ready()
        equal(len(re.findall(rb"^penstock_stage_seconds_count\{", page(server)[1], re.M)), 12, "--metrics-unused")


@case
def callers_cannot_make_labels():
    """Whatever is asked for, its words are in no label: paths, models, methods, versions, keys."""
    with models(layout(1)) as folder, Server(folder) as server:
        server.wait_ready()
        before = set(re.findall(r"^(penstock_requests_total\{.*\}) ", page(server)[1].decode(), re.M))
        for i in range(200):
            name = "mark%d" % i
            server.call("GET", "/" + name)
            server.call("GET", "/models/" + name)
            server.call("POST", "/models/%s:predict" % name, b"[1]", {"x-api-key": name, "x-tenant": name})
            server.call("POST", "/v2/models/%s/versions/%s/infer" % (name, name), b"{}")
            server.call("MARK%d" % i, "/v2")
        text = page(server)[1].decode()
        check("mark" not in text and "MARK" not in text, "%s", re.findall(r".*mark.*", text, re.I)[:3])
        series = set(re.findall(r"^(penstock_requests_total\{.*\}) ", text, re.M)) - before
        check(len(series) <= 8, "%s", series)
        equal(text.count("penstock_model_requests_total{"), 0, "models that there are not")


@case
def series_past_the_limit_are_one():
    with models(layout(3)) as folder, Server(folder, options=["--metrics-series-max", "10"]) as server:
        server.wait_ready()
        for i in range(3):
            equal(server.post("/models/m%d:predict" % i, [1, 2, 3, 4])[0], 200)
        server.get("/models"), server.get("/v2"), server.get("/nothing"), server.get("/models/none")
        text = page(server)[1].decode()
        equal(int(re.search(r"^penstock_metrics_series (\d+)$", text, re.M).group(1)), 10)
        check(int(re.search(r'^penstock_limit_hits_total\{limit="metrics-series-max"\} (\d+)$', text, re.M).group(1)) > 0, "hits")
        check(re.search(r'^penstock_requests_total\{route="other",method="other",code="other"\} [1-9]', text, re.M), "%s", text)
        counted = sum(map(int, re.findall(r"^penstock_requests_total\{.*\} (\d+)$", text, re.M)))
        check(counted >= 8, "%d were counted", counted)


@case
def the_process_tells_of_itself():
    with models(layout(1)) as folder, Server(folder) as server:
        text = page(server)[1].decode()
        values = {name: float(value) for name, value in re.findall(r"^(process_\w+) (\S+)$", text, re.M)}
        with open("/proc/%d/statm" % server.process.pid) as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
        files = len(os.listdir("/proc/%d/fd" % server.process.pid))
    check(abs(values["process_resident_memory_bytes"] - resident) < 4 << 20, "%s, %d", values, resident)
    check(abs(values["process_open_fds"] - files) <= 2, "%s, %d", values, files)
    check(values["process_cpu_seconds_total"] > 0 and values["process_max_fds"] >= files, "%s", values)
    check(abs(values["process_start_time_seconds"] - __import__("time").time()) < 60, "%s", values)
    check(re.search(r'^penstock_build_info\{version="\d+\.\d+\.\d+",compiler="\w', text, re.M), "build")


if __name__ == "__main__":
    main()
