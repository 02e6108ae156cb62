#!/usr/bin/env python3
"""corpus.py - what script/corpus runs: lets fuzzers find inputs, and keeps the few of them that reach the most.

An input stays for what it reaches and no other does. libFuzzer's merge tells the features of each input; of these the
smallest set that is found by taking the best again and again is kept, up to FILES and BYTES, with what was there by a name
that a person gave (one that is not a hash) first.
"""
import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILES, BYTES, INPUT_BYTES = 50, 200 * 1024, 16 * 1024


def fuzzers(folder):
    """{name: (program, corpus in the tree)}"""
    done = subprocess.run(["meson", "introspect", folder, "--targets"], capture_output=True, text=True, check=True)
    found = {}
    for target in json.loads(done.stdout):
        name = target["name"]
        sources = [source for group in target.get("target_sources", []) for source in group.get("sources", []) if source.endswith("_fuzz.c")]
        if name.endswith("_fuzz") and sources:
            found[name] = (target["filename"][0], os.path.join(os.path.dirname(sources[0]), "corpus", name))
    return found


def features(program, folder, work):
    """{file: its features}, by libFuzzer's own account of a merge into nothing."""
    control, empty = os.path.join(work, "control"), os.path.join(work, "none")
    os.makedirs(empty, exist_ok=True)
    subprocess.run([program, "-merge=1", "-merge_control_file=" + control, "-max_len=%d" % INPUT_BYTES, "-rss_limit_mb=2048", "-timeout=10", empty, folder],
                   cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", check=True)
    with open(control) as file:
        lines = file.read().splitlines()
    count = int(lines[0])
    names, found = lines[2:2 + count], collections.defaultdict(set)
    for line in lines[2 + count:]:
        match = re.match(r"FT (\d+) ?(.*)", line)
        if match:
            found[names[int(match.group(1))]] |= set(match.group(2).split())
    return found


def is_named(path):
    return not re.fullmatch(r"[0-9a-f]{40}", os.path.basename(path))


def choose(found, size=os.path.getsize):
    """The inputs to keep, best first."""
    kept, reached, room = [], set(), BYTES
    for path in sorted((path for path in found if is_named(path)), key=lambda path: (size(path), path)):
        if len(kept) < FILES and size(path) <= room and (found[path] - reached or not found[path]):
            kept.append(path)
            reached |= found[path]
            room -= size(path)
    rest = {path: features - reached for path, features in found.items() if path not in kept and not is_named(path)}
    while rest and len(kept) < FILES:
        best = max(rest, key=lambda path: (len(rest[path]), -size(path), path))
        gain = rest.pop(best)
        if not gain:
            break
        if size(best) > room:
            continue
        kept.append(best)
        room -= size(best)
        rest = {path: features - gain for path, features in rest.items()}
    return kept


def grow(name, program, corpus, seconds):
    with tempfile.TemporaryDirectory(prefix="penstock-corpus-") as work:
        all_inputs = os.path.join(work, "all")
        os.makedirs(all_inputs)
        for path in [os.path.join(corpus, one) for one in os.listdir(corpus)] if os.path.isdir(corpus) else []:
            shutil.copy(path, all_inputs)
        if seconds:
            done = subprocess.run([program, "-max_total_time=%d" % seconds, "-timeout=10", "-rss_limit_mb=2048", "-max_len=%d" % INPUT_BYTES,
                                   "-artifact_prefix=%s/%s-" % (os.getcwd(), name), all_inputs], cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                  text=True, errors="replace", check=False)
            if done.returncode != 0:
                raise SystemExit("corpus: %s found a fault: %s" % (name, done.stderr[-1500:]))
        found = features(program, all_inputs, work)
        kept = choose(found)
        before = len(os.listdir(corpus)) if os.path.isdir(corpus) else 0
        os.makedirs(corpus, exist_ok=True)
        for one in os.listdir(corpus):
            if not any(os.path.basename(path) == one for path in kept):
                os.unlink(os.path.join(corpus, one))
        for path in kept:
            if not os.path.exists(os.path.join(corpus, os.path.basename(path))):
                shutil.copy(path, corpus)
        reached = len(set().union(*[found[path] for path in kept])) if kept else 0
        print("%-28s %4d inputs -> %3d, %6.1f KB, %5d of %5d features" % (name, before, len(kept), sum(os.path.getsize(path) for path in kept) / 1024,
                                                                        reached, len(set().union(*found.values())) if found else 0), flush=True)


def main():
    parser = argparse.ArgumentParser(prog="script/corpus", description="Lets fuzzers find inputs and keeps, in the tree, the few that reach the most.")
    parser.add_argument("--build", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=10, help="how long each fuzzer searches (default 10; 0 only minimises)")
    parser.add_argument("names", nargs="*", help="fuzzers; all without")
    options = parser.parse_args()
    known = fuzzers(options.build)
    for name in options.names or sorted(known):
        if name not in known:
            raise SystemExit("corpus: no fuzzer is called %s; there are: %s" % (name, " ".join(sorted(known))))
        if os.path.exists(known[name][0]):
            grow(name, *known[name], options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
