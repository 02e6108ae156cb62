#!/usr/bin/env python3
"""analyze.py - clang-tidy and gcc -fanalyzer over src, for script/analyze.

Each file's verdict is kept under the hash of all that it was made from (the text after the preprocessor, the flags, the
analyzer, .clang-tidy), so that only what changed is looked at again. A finding that is no fault is listed in analyze.known,
with a sentence that says why; a line there that matches nothing any more is a finding itself.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
KNOWN, PRELUDE = os.path.join(HERE, "analyze.known"), os.path.join(HERE, "analyze.h")
CACHE = os.path.join(os.environ.get("PENSTOCK_CACHE", os.path.expanduser("~/.cache/penstock")), "analyze")
FINDING = re.compile(r"^(?P<path>[^\s:][^:]*):(?P<line>\d+):\d+: (?P<kind>warning|error): (?P<text>.*?)(?: \[(?P<check>[^\]]+)\])?$")
SECONDS = 600
# Of gcc's analyzer, with its reason. It is young in gcc 12, and knows C only.
GCC_OFF = {
    "-Wno-analyzer-malloc-leak": "does not know that the cleanup attribute frees",
    "-Wno-analyzer-file-leak": "the same of fclose",
    "-Wno-analyzer-use-of-uninitialized-value": "loses what functions of other files wrote through a pointer (clang's does not)",
    "-Wno-analyzer-possible-null-argument": "an arena that is full hands out NULL and is asked once at the end",
    "-Wno-analyzer-possible-null-dereference": "the same",
}


def commands(folder):
    """{source: (arguments of the compiler, folder)} of what makes the program, not of tests and fuzzers."""
    with open(os.path.join(folder, "compile_commands.json")) as file:
        rows = json.load(file)
    found = {}
    for row in rows:
        path = os.path.normpath(os.path.join(row["directory"], row["file"]))
        if path.startswith(os.path.join(ROOT, "src") + os.sep) and not re.search(r"_(test|fuzz|bench)\.c$|/bench\.c$", path) and path not in found:
            found[path] = (shlex.split(row["command"]), row["directory"])
    return found


def flags_of(arguments):
    """Only what changes the meaning of the text: macros, folders, the language."""
    kept, take_next = [], False
    for word in arguments[1:]:
        if take_next:
            kept.append(word)
            take_next = False
        elif word in ("-I", "-isystem", "-D", "-include"):
            kept.append(word)
            take_next = True
        elif re.match(r"-(I|D|isystem|std=|pthread|f(no-)?strict-aliasing|fPIC)", word):
            kept.append(word)
    return kept


class Analyzer:
    def __init__(self, name, version, extra):
        self.name, self.version, self.extra = name, version, extra

    def prelude(self, path):
        # the file that is about errors is looked at as it is
        return [] if os.path.relpath(path, ROOT) in ("src/base/err.c", "src/base/def.c") else ["-include", PRELUDE]


class Tidy(Analyzer):
    def __init__(self):
        version = subprocess.run(["clang-tidy-14", "--version"], capture_output=True, text=True, check=True).stdout
        with open(os.path.join(ROOT, ".clang-tidy")) as file:
            super().__init__("clang-tidy", version, file.read())

    def command(self, path, flags):
        return ["clang-tidy-14", "--quiet", "--config-file=" + os.path.join(ROOT, ".clang-tidy"), path, "--", *self.prelude(path), *flags]


class Gcc(Analyzer):
    def __init__(self):
        version = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout
        super().__init__("gcc -fanalyzer", version, " ".join(self.command(ROOT + "/x.c", [])).replace(ROOT, "."))

    def command(self, path, flags):
        return ["gcc", "-O1", "-fanalyzer", "-fdiagnostics-plain-output", "-fdiagnostics-path-format=none",
                *GCC_OFF, *self.prelude(path), *flags, "-c", path, "-o", os.devnull]


def key_of(analyzer, path, flags, folder):
    done = subprocess.run(["gcc", "-E", "-P", *analyzer.prelude(path), *flags, path], cwd=folder, capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit("analyze: %s does not pass the preprocessor: %s" % (path, done.stderr.decode(errors="replace")[-800:]))
    whole = b"\0".join([done.stdout, analyzer.name.encode(), analyzer.version.encode(), analyzer.extra.encode(), " ".join(flags).replace(ROOT, ".").encode()])
    return hashlib.sha256(whole).hexdigest()[:32]


def look(analyzer, path, flags, folder):
    """(findings, seconds it took, or 0 when it was known): [(file, line, check, text)]."""
    kept = os.path.join(CACHE, key_of(analyzer, path, flags, folder))
    if os.path.exists(kept):
        os.utime(kept)
        with open(kept) as file:
            return [tuple(row) for row in json.load(file)], 0.0
    started = time.monotonic()
    try:
        done = subprocess.run(analyzer.command(path, flags), cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [(os.path.relpath(path, ROOT), 1, "analyze", "%s took more than %d s" % (analyzer.name, SECONDS))], SECONDS
    found = []
    for line in (done.stdout + "\n" + done.stderr).splitlines():
        match = FINDING.match(line)
        if match and (match.group("check") or match.group("kind") == "error"):
            where = os.path.normpath(os.path.join(folder, match.group("path")))
            if where.startswith(ROOT + os.sep):
                found.append((os.path.relpath(where, ROOT), int(match.group("line")), match.group("check") or "error", match.group("text")))
    if done.returncode != 0 and not found:
        raise SystemExit("analyze: %s failed on %s: %s" % (analyzer.name, path, done.stderr[-800:]))
    found = sorted(set(found))
    os.makedirs(CACHE, exist_ok=True)
    with open(kept + ".part%d" % os.getpid(), "w") as file:
        json.dump(found, file)
    os.rename(kept + ".part%d" % os.getpid(), kept)
    return found, time.monotonic() - started


# --- findings that are none ------------------------------------------------------------------------------

def known_read(path=KNOWN):
    """[(file, check, part of the line, reason)]; the form is four parts with ` | ` between."""
    rows = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or line.startswith("#"):
                continue
            parts = [part.strip() for part in re.split(r" \| ", line)]
            if len(parts) != 4 or len(parts[3].split()) < 4 or not parts[3].endswith("."):
                raise SystemExit("analyze.known, line %d: FILE | CHECK | PART OF THE LINE | A sentence that says why it is no fault." % number)
            rows.append(tuple(parts))
    return rows


def line_of(path, number):
    with open(os.path.join(ROOT, path), encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    return lines[number - 1] if 0 < number <= len(lines) else ""


def sort_out(findings, known, seen_files):
    """(findings that nobody explained, rows of the list that nothing matches)."""
    used, left = set(), []
    for path, number, check, text in findings:
        line = line_of(path, number)
        rows = [row for row in known if row[0] in (path, "*") and row[1] in check.split(",") and row[2] in line]
        used.update(rows)
        if not rows:
            left.append((path, number, check, text, line.strip()))
    return left, [row for row in known if row not in used and row[0] in seen_files]


def changed_files(base):
    done = subprocess.run(["git", "-C", ROOT, "diff", "--name-only", base, "--", "src"], capture_output=True, text=True, check=False)
    more = subprocess.run(["git", "-C", ROOT, "ls-files", "--others", "--exclude-standard", "--", "src"], capture_output=True, text=True, check=False)
    return {line for line in (done.stdout + more.stdout).split("\n") if line}


def trim_cache(days=30):
    for name in os.listdir(CACHE) if os.path.isdir(CACHE) else []:
        path = os.path.join(CACHE, name)
        if os.path.getmtime(path) < time.time() - days * 86400:
            os.unlink(path)


def main():
    parser = argparse.ArgumentParser(prog="script/analyze", description="clang-tidy and gcc -fanalyzer over src; ends with 1 when there is a finding without a reason.")
    parser.add_argument("--build", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--changed", metavar="COMMIT", help="only files that differ from this commit (and those not committed)")
    parser.add_argument("--only", choices=["clang-tidy", "gcc"], help="one of the two")
    parser.add_argument("--seconds", type=float, help="begin no more files after so long, and say how many are left: for a machine that looks at each change")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("paths", nargs="*", help="folders or files")
    options = parser.parse_args()
    files = commands(options.build)
    if options.paths:
        wanted = [os.path.abspath(path) for path in options.paths]
        files = {path: row for path, row in files.items() if any(path == one or path.startswith(one + os.sep) for one in wanted)}
    if options.changed:
        differ = changed_files(options.changed)
        files = {path: row for path, row in files.items() if os.path.relpath(path, ROOT) in differ}
    analyzers = [kind() for kind, name in ((Tidy, "clang-tidy"), (Gcc, "gcc")) if options.only in (None, name)]
    started, spent, fresh, skipped, findings = time.monotonic(), 0.0, 0, 0, []

    def one(job):
        analyzer, path = job
        if options.seconds and time.monotonic() - started > options.seconds:
            return None
        return look(analyzer, path, flags_of(files[path][0]), files[path][1])
    jobs = [(analyzer, path) for path in sorted(files) for analyzer in analyzers]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(one, jobs):
            if found is None:
                skipped += 1
                continue
            findings += found[0]
            spent += found[1]
            fresh += found[1] > 0
    known = [row for row in known_read() if options.only is None]
    seen = {os.path.relpath(path, ROOT) for path in files} if not (options.only or skipped) else set()
    if options.only:
        known = known_read()
    left, stale = sort_out(sorted(set(findings)), known, seen)
    for path, number, check, text, line in left:
        print("%s:%d: %s [%s]\n    %s" % (path, number, text, check, line))
    for row in stale:
        print("script/lib/analyze.known: nothing is found any more for: %s" % " | ".join(row[:3]))
    trim_cache()
    print("analyze: %d files, %d looked at anew in %.0f s (%.0f s of analyzers)%s: %d findings, %d explained, %d left" %
          (len(files), fresh, time.monotonic() - started, spent, ", %d not looked at for want of time" % skipped if skipped else "",
           len(set(findings)), len(set(findings)) - len(left), len(left)), file=sys.stderr)
    return 1 if left or stale else 0


if __name__ == "__main__":
    sys.exit(main())
