"""Runs every benchmark and writes the table between `<!-- bench -->` and `<!-- /bench -->` of docs/benchmarks.md.

    script/bench --readme                  measures, rewrites docs/benchmarks.md
    script/bench --readme --print          measures, prints the table, leaves the page alone
    script/bench --readme --from FILE      the same from what an earlier run left with --json
"""
import argparse
import json
import os
import statistics
import sys

import _lib
import grpc_calls
import iris
import image
import restart
import start
import steady
import streams
import trust

MODULES = (iris, image, steady, grpc_calls, streams, trust, restart, start)
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


def table(found):
    where, rows, command = found["where"], found["rows"], found["command"]
    lines = ["| what | measured | beside it | target | |", "|---|---|---|---|---|"]
    for row in rows:
        lines.append("| %s | %s | %s | %s | %s |" % (
            row["what"], _lib.figure(row["value"], row["unit"]), row["beside"], row["limit_text"], row["verdict"]))
    lines += ["", "Measured %s by `%s` on %d CPUs of %s, Linux %s, commit %s: %s. The server has one core, the load generator "
              "the other; CPU time is the server's (user and system), medians of runs that alternate with the peers'. Other "
              "processes used %.0f %% of the machine in the middle run, %.0f %% in the worst." %
              (where["date"], command, where["cpus"], where["cpu"], where["kernel"], where["commit"],
               ", ".join(where["versions"]), 100 * found["others"][0], 100 * found["others"][1])]
    notes = ["%s: %s." % (row["what"], row["note"]) for row in rows if row["note"]]
    return "\n".join(lines + ["", *("- " + note for note in notes)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _lib.add_options(parser)
    parser.add_argument("--print", action="store_true", dest="is_print")
    parser.add_argument("--from", dest="source", metavar="FILE")
    options = parser.parse_args()
    if options.source:
        with open(options.source) as file:
            found = json.load(file)
    else:
        found = {"where": _lib.where(), "rows": [], "command": " ".join(["script/bench", "--readme"] + sys.argv[1:])}
        for module in MODULES:
            found["rows"] += [row.document() for row in _lib.measure_module(module, options)]
        found["others"] = statistics.median(_lib.others_seen), max(_lib.others_seen)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)
    text = table(found)
    if found["others"][0] > _lib.OTHERS_MANY:
        print("bench: other processes used %.0f %% of the machine: these are not figures to tell" % (100 * found["others"][0]),
              file=sys.stderr)
    path = os.path.join(_lib.ROOT, "docs", "benchmarks.md")
    if options.is_print:
        print(text)
        return
    with open(path) as file:
        page = file.read()
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        _lib.die("docs/benchmarks.md has no %s ... %s" % (BEGIN, END))
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    with open(path, "w") as file:
        file.write(head + BEGIN + "\n" + text + "\n" + END + tail)
    print("wrote docs/benchmarks.md")


if __name__ == "__main__":
    main()
