"""Three times what a model can do, one that is queued and one that runs on the loop, deadlines of 100 ms: goodput, how long those that are
let in take, how fast the others are refused; then one of five tenants at 50 times its share."""
import hashlib
import json
import os
import subprocess
import sys
import tempfile

import _lib
from _lib import LOAD_CPU, Penstock, Row, identity_config, models, post, say

TITLE = "More than the server can do"
RUN_MS, DEADLINE_MS, CONNECTIONS = 3, 100, 512
ZEROS = 60000       # in an answer of the model that runs on the loop: writing them is its run; what is refused was a small request
IN = {"inputs": [{"name": "IN", "shape": [1], "datatype": "FP32", "data": [0.5]}]}
TENANTS = ("loud", "quiet1", "quiet2", "quiet3", "quiet4")
QUIET = 0.15        # of what the model can do, each


def flood(server, classes, seconds, warmup=3.0, patience_ms=DEADLINE_MS):
    """bench/floodgen.c with classes of (rate, connections, request): what it found of each."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        command = [_lib.program("floodgen"), "--port", str(server.port), "--seconds", str(seconds), "--warmup", str(warmup),
                   "--patience", str(patience_ms), "--cpu", str(LOAD_CPU)]
        for number, (rate, connections, request) in enumerate(classes):
            path = os.path.join(folder, "request-%d" % number)
            with open(path, "wb") as file:
                file.write(request)
            command += ["--class", "%f,%d,%s" % (rate, connections, path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        _lib.die("floodgen: %s" % done.stderr)
    found = json.loads(done.stdout)["classes"]
    for one in found:
        if one["other"]:
            _lib.die("answers that are neither 200 nor a refusal: %s" % one["statuses"])
    return found


def tell(name, one):
    say("   %-22s asked %6d  good %7.1f/s  late %d  refused %6d  p50 %6.1f  p99 %6.1f ms; refusal p50 %5.0f  p99 %6.0f us" %
        (name, one["asked"], one["good_per_second"], one["late"], one["refused"], one["latency"]["p50_us"] / 1e3,
         one["latency"]["p99_us"] / 1e3, one["refusal"]["p50_us"], one["refusal"]["p99_us"]))


def capacity(server, request, guess, seconds):
    """Good answers a second while more are asked than it can do, which nobody gives up."""
    while True:
        found = flood(server, [(1.5 * guess, CONNECTIONS, request)], seconds, patience_ms=10000)[0]
        if found["served_per_second"] < 0.95 * 1.5 * guess:
            return found["served_per_second"]
        guess *= 1.5


def loads(name, server, request, plain, guess, seconds):
    most = capacity(server, plain, guess, seconds)
    calm = flood(server, [(0.9 * most, CONNECTIONS, request)], seconds)[0]
    much = flood(server, [(3 * most, CONNECTIONS, request)], seconds)[0]
    tell("%s, 0.9 x" % name, calm)
    tell("%s, 3 x" % name, much)
    beside = "it can do %.0f/s" % most
    return [Row("%s: goodput at 3 x, of what it can do" % name, much["good_per_second"] / most, "x", 0.95, is_floor=True, beside=beside),
            Row("%s: p99 of those let in at 3 x, of that at 0.9 x" % name, much["latency"]["p99_us"] / calm["latency"]["p99_us"], "x", 2,
                beside="%.1f ms" % (calm["latency"]["p99_us"] / 1e3)),
            Row("%s: a refusal, p99" % name, much["refusal"]["p99_us"], "us", 1000,
                beside="p50 %.0f us" % much["refusal"]["p50_us"], note="" if much["refused"] else "none was refused")]


def access_file(folder):
    lines = ["tenants:", *("  %s: {}" % name for name in TENANTS), "keys:"]
    lines += ["  - {name: %s, sha256: %s, tenant: %s}" % (name, hashlib.sha256(key_of(name).encode()).hexdigest(), name) for name in TENANTS]
    lines += ["rules:", "  - {who: '*', may: [read, infer]}", "  - {who: anonymous, may: [read, infer]}"]
    path = os.path.join(folder, "access.yaml")
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write("\n".join(lines) + "\n")
    return path


def key_of(name):
    return name + "-0123456789abcdef0123456789abcdef"


def tenants(name, folder, options, path, body, most, seconds):
    """One tenant asks for its share, then for 50 times that; four others for QUIET of what there is each."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as more, \
            Penstock(folder, options=["--access", access_file(more), *options]) as server:
        def request(tenant):
            return post(path, body, [("x-api-key", key_of(tenant)), ("x-request-timeout-ms", str(DEADLINE_MS))])
        quiet = [(QUIET * most, 64, request(tenant)) for tenant in TENANTS[1:]]
        found = {}
        for times in (1, 50):
            all_of = flood(server, [(times * most / len(TENANTS), CONNECTIONS, request("loud")), *quiet], seconds)
            for tenant, one in zip(TENANTS, all_of):
                tell("%s, loud at %d x" % (tenant, times), one)
            found[times] = all_of[1:]

    def worst(times):
        return max(one["latency"]["p99_us"] for one in found[times])
    refused = sum(one["refused"] for one in found[50]) / sum(one["asked"] for one in found[50])
    return [Row("%s: one tenant at 50 x its share: p99 of the others, of that at its share" % name, worst(50) / worst(1), "x", 1.3,
                beside="%.1f ms" % (worst(1) / 1e3)),
            Row("%s: one tenant at 50 x its share: refused of the others" % name, 100 * refused, "%")]


SLOW_PATH, INLINE_PATH = "/v2/models/slow/infer", "/v2/models/wide/infer"
INLINE = ["--execution", "inline"]
WIDE = b"""name: "wide" backend: "echo" max_batch_size: 0
input [{ name: "IN" data_type: TYPE_FP32 dims: [ 1 ] }]
output [{ name: "OUT" data_type: TYPE_INT32 dims: [ %d ] }]
""" % ZEROS
DEADLINE = [("x-request-timeout-ms", str(DEADLINE_MS))]
GUESS = 1000 / (RUN_MS + 0.1)


def run_queued(folder, seconds):
    with Penstock(folder) as server:
        return loads("queued, %d ms" % RUN_MS, server, post(SLOW_PATH, IN, DEADLINE), post(SLOW_PATH, IN), GUESS, seconds)


def run_inline(folder, seconds):
    with Penstock(folder, options=INLINE) as server:
        return loads("inline", server, post(INLINE_PATH, IN, DEADLINE), post(INLINE_PATH, IN), 3000, seconds)


def run_tenants(folder, seconds):
    return tenants("queued", folder, [], SLOW_PATH, IN, GUESS, seconds)


def run_inline_tenants(folder, seconds):
    with Penstock(folder, options=INLINE) as server:
        most = capacity(server, post(INLINE_PATH, IN), 3000, seconds)
    return tenants("inline", folder, INLINE, INLINE_PATH, IN, most, seconds)


WORKLOADS = ("queued", "inline", "tenants", "inline_tenants")


def add_options(parser):
    parser.add_argument("--only", default="", metavar="WORKLOADS", help="of %s, commas between" % ", ".join(WORKLOADS))


def run(options):
    seconds = _lib.seconds_of(options, 15, 5)
    chosen = [name for name in options.only.split(",") if name] or WORKLOADS
    for name in chosen:
        if name not in WORKLOADS:
            _lib.die("no workload '%s'; there are: %s" % (name, ", ".join(WORKLOADS)))
    with models({"slow/config.pbtxt": identity_config("slow", [1], mode="delay", delay_ms=RUN_MS), "slow/1/.keep": b"",
                 "wide/config.pbtxt": WIDE, "wide/1/.keep": b""}) as folder:
        return [row for name in chosen for row in globals()["run_" + name](folder, seconds)]


if __name__ == "__main__":
    sys.exit(_lib.main(sys.modules[__name__]))
