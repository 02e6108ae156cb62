"""10,000 requests a second, open loop: how long answers take from when they were due, beside nginx; then with one in a hundred
to a model that takes 50 ms."""
import contextlib
import statistics
import sys

import _lib
import _peers
from _lib import IRIS_GEMM, IRIS_V2, Load, Penstock, Row, identity_config, iris_gemm_validate, measure, post, say

TITLE = "10,000 requests a second, open loop, latency from when each was due"
PATH = "/v2/models/iris_gemm/infer"
RATE = 10000
SLOW_MS, SLOW_SHARE = 50, 0.01
PERCENTILES = (("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us"))


def add_options(parser):
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second (default %d)" % RATE)


def run(options):
    rounds, seconds = options.rounds or (1 if options.quick else 3), _lib.seconds_of(options, 60, 5)
    rate = getattr(options, "rate", RATE)
    slow_config = identity_config("slow", [1], mode="delay", delay_ms=SLOW_MS, instances=16)
    request = post(PATH, IRIS_V2)
    slow_request = post("/v2/models/slow/infer",
                        {"inputs": [{"name": "IN", "shape": [1], "datatype": "FP32", "data": [0.5]}]})

    def slow_validate(headers, body):
        if b"0.5" not in body:
            _lib.die("not the answer of slow: %s" % body[:300])

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_lib.models({"iris_gemm/1/model.onnx": IRIS_GEMM, "slow/config.pbtxt": slow_config,
                                                  "slow/1/.keep": b""}))
        penstock = stack.enter_context(Penstock(folder))
        alone = Load(penstock, request, iris_gemm_validate, share=1 - SLOW_SHARE)
        slow = Load(penstock, slow_request, slow_validate, share=SLOW_SHARE)
        nginx = stack.enter_context(_peers.nginx(PATH, alone.expect))
        runs = {"nginx": [Load(nginx, request, iris_gemm_validate)], "penstock": [alone], "penstock with slow": [alone, slow]}
        found = {name: [] for name in runs}
        for number in range(rounds):
            for name, loads in runs.items():
                one = measure(loads, connections=64, seconds=seconds, rate=rate)
                found[name].append(one)
                say("   round %d  %-20s %6.0f/s  p50 %6.1f us  p99 %6.1f us  p99.9 %7.1f us  max %7.0f us; sent late p99 "
                    "%.1f us, most in line %d; server %.0f%% of its core, others %.0f%%" %
                    (number + 1, name, one["per_second"], *(one["latency"][0][key] for _, key in PERCENTILES),
                     one["latency"][0]["max_us"], one["send_lag"]["p99_us"], one["backlog_max"],
                     100 * one["server_share"], 100 * one["others_share"]))

    def of(name, key):
        return statistics.median(one["latency"][0][key] for one in found[name])

    def ratio(name, other, key):
        return statistics.median(one["latency"][0][key] / two["latency"][0][key]
                                 for one, two in zip(found[name], found[other]))

    rows = []
    for name, key in PERCENTILES:
        rows.append(Row("`iris_gemm`, %d requests/s for %.0f s: %s, of nginx's" % (rate, seconds, name),
                        ratio("penstock", "nginx", key), "x", 1.5,
                        beside="%.0f us; nginx %.0f us" % (of("penstock", key), of("nginx", key))))
    rows.append(Row("... while 1 % of the calls go to a model that takes 50 ms: p99 of `iris_gemm`, of that without",
                    ratio("penstock with slow", "penstock", "p99_us"), "x", 1.3,
                    beside="%.0f us; without %.0f us" % (of("penstock with slow", "p99_us"), of("penstock", "p99_us"))))
    return rows


if __name__ == "__main__":
    _lib.main(sys.modules[__name__])
