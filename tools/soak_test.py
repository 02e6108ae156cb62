"""The judgement of script/soak: what grows is found, what breathes is not."""
import importlib.util
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "test", "lib"))
from harness import ROOT, case, cases, check, equal, main, near      # noqa: E402

spec = importlib.util.spec_from_file_location("soak", os.path.join(ROOT, "script", "lib", "soak.py"))
soak = importlib.util.module_from_spec(spec)
spec.loader.exec_module(soak)

MIB = 1048576
REST = {"memory": 30 * MIB, "descriptors": 20, "threads": 8}


def series(seconds, value, growth=0.0, noise=0.0, bursts=0.0):
    """Samples of `seconds` that grow by `growth` in all."""
    chance = random.Random(7)
    count = int(seconds / soak.SAMPLE_SECONDS)
    return [(i * soak.SAMPLE_SECONDS, value + growth * i / count + chance.uniform(-noise, noise) + (bursts if chance.random() < 0.2 else 0)) for i in range(count)]


def verdict(memory, descriptors=None, threads=None, rests=(REST, REST, REST)):
    rows = soak.judge({"memory": memory, "descriptors": descriptors or series(60, 40), "threads": threads or series(60, 8)}, list(rests))
    return sorted(row["what"] for row in rows if not row["ok"])


@case
def a_slope_is_found_through_bursts():
    near(soak.slope(series(100, 50, growth=10)), 0.1, atol=0.001)
    near(soak.slope(series(100, 50, growth=10, bursts=30, noise=1)), 0.1, atol=0.02)
    equal(soak.slope([(0, 5)]), 0.0)


@cases({
    "flat": (series(60, 30 * MIB), []),
    "breathes": (series(60, 30 * MIB, noise=MIB), []),
    "bursts": (series(60, 30 * MIB, bursts=8 * MIB), []),
    "shrinks": (series(60, 30 * MIB, growth=-9 * MIB), []),
    "leaks": (series(60, 30 * MIB, growth=3 * MIB), ["memory under load"]),
    "leaks_in_bursts": (series(60, 30 * MIB, growth=4 * MIB, bursts=8 * MIB), ["memory under load"]),
    "no_samples": (series(2, 30 * MIB), ["memory under load"]),
})
def memory(samples, wrong):
    equal(verdict(samples), wrong)


@case
def descriptors_and_threads():
    equal(verdict(series(60, MIB), descriptors=series(60, 40, growth=6)), ["descriptors under load"])
    equal(verdict(series(60, MIB), descriptors=series(60, 40, noise=12)), [])
    equal(verdict(series(60, MIB), threads=series(60, 8, growth=1)), ["threads under load"])


@case
def each_rest_is_held_against_the_one_before():
    more = dict(REST, descriptors=21)
    equal(verdict(series(60, MIB), rests=(REST, more, more)), ["descriptors at rest, after the load"])
    equal(verdict(series(60, MIB), rests=(REST, REST, dict(REST, threads=9))), ["threads at rest, after the upgrades"])
    equal(verdict(series(60, MIB), rests=(REST, dict(REST, memory=34 * MIB), REST)), ["memory at rest, after the load"])
    equal(verdict(series(60, MIB), rests=(REST, dict(REST, memory=32 * MIB), dict(REST, memory=20 * MIB))), [])


@case
def the_table_says_which():
    rows = soak.judge({"memory": series(60, MIB, growth=9 * MIB), "descriptors": series(60, 40), "threads": series(60, 8)}, [REST, REST])
    text = soak.table({"checks": rows, "calls": {"rest": 2}, "seconds": 1, "reloads": 0, "upgrades": 0, "failures": {"x": 1}, "silent": []})
    check("NOT FLAT" in text and text.count("NOT FLAT") == 1 and "failed 1 times: x" in text, "%s", text)


if __name__ == "__main__":
    main()
