#!/usr/bin/env python3
"""test.py - the steps of script/test, one row each in STEPS below.

Every test program, in C or Python, speaks the same lines on stdout and exits non-zero if a case failed:

    ok NAME
    not ok NAME: reason
    skip NAME: reason

A program that dies, hangs or says nothing counts as one failed case under its own name. What a failure printed is shown,
followed by the one command that repeats it. The last line is `N passed, N failed`, with `, N skipped` if any were.
"""
import argparse
import concurrent.futures
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
JOBS = len(os.sched_getaffinity(0))
UNIT_SECONDS, CLIENT_SECONDS, FUZZ_SECONDS = 180, 600, 3
CASE = re.compile(r"^(ok|not ok|skip) ([^\s:]+)(?::[ \t]*(.*))?$")
TAIL_LINES = 40
MOSTLY_WAITING = ("client",)        # steps whose programs leave a processor free now and then: one more at a time
SLOW_SECONDS = 60                   # a step above it says what took longest
SYMBOLIZER = "/usr/lib/llvm-14/bin/llvm-symbolizer"
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}

for kind in ("LSAN", "TSAN", "UBSAN"):      # what libraries not compiled here do wrong, by name
    file = os.path.join(ROOT, "test", kind.lower() + ".supp")
    if os.path.exists(file):
        SANITIZERS[kind + "_OPTIONS"] = ":".join(filter(None, [SANITIZERS.get(kind + "_OPTIONS"), "suppressions=" + file]))


class Totals:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.skips, self.repeats = [], []

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.skips += other.skips
        self.repeats += other.repeats

    def text(self):
        text = "%d passed, %d failed" % (self.passed, self.failed)
        return text + (", %d skipped" % self.skipped if self.skipped else "")


class Program:
    """One thing to run: its name, its command, the command that repeats it."""
    def __init__(self, name, command, repeat, seconds, env=None, whole=False):
        self.name, self.command, self.repeat, self.seconds = name, command, repeat, seconds
        self.env = env or {}
        self.whole = whole          # one case, judged by the exit status alone
        self.took = 0.0             # seconds, once it has run

    def run(self):
        started = time.monotonic()
        env = dict(os.environ, **SANITIZERS)
        env.update(self.env)
        process = subprocess.Popen(self.command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, errors="replace",
                                   start_new_session=True)
        timed_out = False
        try:
            out, err = process.communicate(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        self.took = time.monotonic() - started
        return self.judge(out, err, process.returncode, timed_out)

    def judge(self, out, err, status, timed_out):
        totals, shown = Totals(), []
        for line in ("" if self.whole else out).splitlines():
            match = CASE.match(line)
            if match is None:
                continue
            kind, name, reason = match.groups()
            if kind == "ok":
                totals.passed += 1
            elif kind == "skip":
                totals.skipped += 1
                totals.skips.append("skip %s: %s" % (name, reason or "no reason given"))
            else:
                totals.failed += 1
                shown.append("not ok %s: %s" % (name, reason or "no reason given"))
        if self.whole and status == 0:
            totals.passed += 1
        elif timed_out:
            totals.failed += 1
            shown.append("not ok %s: still running after %d s" % (self.name, self.seconds))
        elif status != 0 and totals.failed == 0:
            totals.failed += 1
            how = "died of %s" % signal.Signals(-status).name if status < 0 else "ended with %d" % status
            shown.append("not ok %s: %s" % (self.name, how))
        elif status == 0 and totals.failed > 0:
            shown.append("(%s ended with 0 in spite of that)" % self.name)
        elif totals.passed + totals.skipped + totals.failed == 0:
            totals.failed += 1
            shown.append("not ok %s: printed no case" % self.name)
        if totals.failed:
            artifact = re.search(r"Test unit written to (\S+)", err)      # libFuzzer's
            repeat = "%s %s" % (shlex.join(self.command[:1]), artifact.group(1)) if artifact else self.repeat
            said = [line for line in (out + "\n" + err).splitlines() if line.strip() and not CASE.match(line)]
            shown = ["    " + line for line in said[-TAIL_LINES:]] + shown + ["repeat: " + repeat]
            totals.repeats.append(repeat)
        return totals, shown


# --- finding what to run ---------------------------------------------------------------------------

def wanted(path, paths):
    """Whether a file is named by the command line: itself, a folder above it, or the source it tests."""
    path = os.path.relpath(path, ROOT)
    stem = re.sub(r"_(test|fuzz)$", "", os.path.splitext(path)[0])
    return not paths or any(path == p or path.startswith(p + "/") or os.path.splitext(p)[0] == stem for p in paths)


def introspect(folder, what):
    done = subprocess.run(["meson", "introspect", folder, "--" + what], cwd=ROOT, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else []


def sources_of_targets(folder):
    """Executable -> its *_test.c, *_fuzz.c, or all its sources if it has none of these."""
    found = {}
    for target in introspect(folder, "targets"):
        sources = [source for group in target.get("target_sources", []) for source in group.get("sources", [])]
        named = [source for source in sources if re.search(r"_(test|fuzz)\.c$", source)]
        for filename in target["filename"]:
            found[filename] = named or sources
    return found


def has_sources(ending, paths):
    """Whether there is anything to build for these paths: a folder of Python tests needs no C."""
    return not paths or any(name.endswith(ending) and wanted(os.path.join(folder, name), paths)
                            for top in ("src", "test") for folder, _, files in os.walk(os.path.join(ROOT, top))
                            for name in files)


def repeat_of(step, path):
    return "script/test --step %s %s" % (step, os.path.relpath(path, ROOT)) if path else "script/test --step " + step


@functools.lru_cache
def unspread():
    """A prefix that keeps addresses where sanitizers can map their shadows, where the system lets us."""
    prefix = ["setarch", os.uname().machine, "-R"]
    done = subprocess.run(prefix + ["true"], capture_output=True)
    return prefix if done.returncode == 0 else []


def unit_programs(step, folder, paths, suite=None):
    sources = sources_of_targets(folder)
    programs = []
    for test in introspect(folder, "tests"):
        if suite and not any(name.split(":")[-1] == suite for name in test["suite"]):
            continue
        own = sources.get(test["cmd"][0], [])
        if paths and not any(wanted(source, paths) for source in own):
            continue
        env = {name: value for name, value in test.get("env", {}).items() if isinstance(value, str)}
        fixed = unspread() if step in ("asan", "tsan") else []
        seconds = max(UNIT_SECONDS, test.get("timeout") or 0)
        programs.append(Program(test["name"], fixed + test["cmd"], repeat_of(step, own[0] if own else None), seconds, env))
    return programs


def fuzz_programs(step, folder, paths):
    programs = []
    for target, own in sorted(sources_of_targets(folder).items()):
        name = os.path.basename(target)
        if not name.endswith("_fuzz") or not os.path.exists(target) or (paths and not any(wanted(s, paths) for s in own)):
            continue
        found = os.path.join(folder, "corpus", name)
        os.makedirs(os.path.join(ROOT, found), exist_ok=True)
        beside = [os.path.join(os.path.dirname(source), "corpus", name) for source in own]
        seeds = [path for path in beside if os.path.isdir(os.path.join(ROOT, path))]
        command = [target, "-max_total_time=%d" % FUZZ_SECONDS, "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1",
                   "-artifact_prefix=%s/%s-" % (folder, name), found, *seeds]
        env = {"ASAN_SYMBOLIZER_PATH": SYMBOLIZER} if os.path.exists(SYMBOLIZER) else {}
        programs.append(Program(name, command, repeat_of(step, own[0] if own else None), FUZZ_SECONDS + 60, env,
                                whole=True))
    return programs


def seconds_of(path):
    """How long a test may take: CLIENT_SECONDS, or what its line `# seconds: N` says."""
    with open(path, encoding="utf-8") as file:
        match = re.search(r"^# seconds: (\d+)$", file.read(4096), re.M)
    return int(match.group(1)) if match else CLIENT_SECONDS


def python_programs(step, tops, paths, binary="build/penstock"):
    programs = []
    python = os.environ.get("PENSTOCK_TEST_PYTHON", sys.executable)
    env = {"PENSTOCK_BINARY": os.environ.get("PENSTOCK_BINARY", os.path.join(ROOT, binary)),
           "PYTHONPATH": os.path.join(ROOT, "test", "lib"), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    for top in tops:
        for folder, folders, files in os.walk(os.path.join(ROOT, top)):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "_")) and name != "lib")
            for name in sorted(files):
                path = os.path.join(folder, name)
                is_test = name.endswith("_test.py") if top != "test" else name.endswith(".py") and name[0] != "_"
                if is_test and wanted(path, paths):
                    programs.append(Program(os.path.relpath(path, ROOT), [python, path], repeat_of(step, path),
                                            seconds_of(path), env))
    return programs


# --- the steps --------------------------------------------------------------------------------------
# A step makes programs; building is part of it, and a build that fails is one failed case.

class BuildFailed(Exception):
    pass


def build(*options):
    done = subprocess.run([os.path.join(ROOT, "script", "build"), *options], cwd=ROOT, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        raise BuildFailed(done.stdout, "script/build " + " ".join(options))


def check_layers(step, paths):
    return [Program("layers", [sys.executable, "tools/layers"], "tools/layers", 60, whole=True)]


def check_tools(step, paths):
    return python_programs(step, ["tools"], paths)


def check_headers(step, paths):
    return [Program("headers", [sys.executable, "tools/headers", *paths], "tools/headers " + " ".join(paths), 600)]


def unit(option, folder, suite=None):
    def make(step, paths):
        if not has_sources("_test.c", paths):
            return []
        build(option)
        return unit_programs(step, folder, paths, suite)
    return make


def compile_clang(step, paths):
    return [Program("clang", ["script/build", "--clang"], "script/build --clang", 1800, whole=True)]


def fuzz(step, paths):
    if not has_sources("_fuzz.c", paths):
        return []
    build("--fuzz")
    return fuzz_programs(step, "build-fuzz", paths)


def simulate(step, paths):
    """The whole server by seeds (docs/simulator.md); of paths: fewer, under sanitizers only."""
    if paths and not any(wanted(os.path.join(ROOT, "test", "sim", name), paths) for name in os.listdir(os.path.join(ROOT, "test", "sim"))):
        return []
    build("--sanitize")
    runs = [("build-asan", "--seeds", "1..250"), ("build-asan", "--sweep", "all")]
    if not paths:
        build("--release")
        runs += [("build", "--seeds", "1001..4000"), ("build", "--same", "1..100"), ("build", "--sweep", "all")]
    programs = [Program(" ".join(run), [os.path.join(run[0], "test", "sim", "penstock-sim"), *run[1:]],
                        "%s/test/sim/penstock-sim %s" % (run[0], " ".join(run[1:])), 600) for run in runs]
    # Fortified, the release calls libc by other names (__read_chk): both are looked at.
    seams = ["build-asan"] + ([] if paths else ["build"])
    return programs + [Program("seam " + folder, [sys.executable, "tools/seam", folder], "tools/seam " + folder, 60, whole=True) for folder in seams]


def against_binary(option, folder, tops, pick=lambda path: True):
    def make(step, paths):
        programs = [program for program in python_programs(step, tops, paths, folder + "/penstock") if pick(program.name)]
        if programs and "PENSTOCK_BINARY" not in os.environ:
            build(option)
        return programs
    return make


STEPS = [
    # name        what it makes sure of                               in --quick  with paths  how
    ("layers",    "no include goes up the list of rooms",             True,       False, check_layers),
    ("tools",     "the checkers refuse what they are for",            True,       True,  check_tools),
    ("headers",   "each header compiles alone",                       True,       False, check_headers),
    ("asan",      "unit tests, address and undefined behaviour",      True,       True,  unit("--sanitize", "build-asan")),
    ("unit",      "unit tests, gcc, as released",                     False,      True,  unit("--release", "build")),
    ("tsan",      "unit tests of suite `threads`, thread sanitizer",  False,      True,  unit("--tsan", "build-tsan", "threads")),
    ("sim",       "the whole server by seeds, fault sweeps",          False,      True,  simulate),
    ("clang",     "clang builds it without a warning",                False,      False, compile_clang),
    ("client",    "real clients, against the released binary",        False,      True,  against_binary("--release", "build", ["test"])),
    ("example",   "the examples do what their pages say",             False,      True,  against_binary("--release", "build", ["examples"])),
    ("fuzz",      "%d s of each fuzzer" % FUZZ_SECONDS,               False,      True,  fuzz),
]


def run_step(name, why, make, paths):
    started = time.monotonic()
    totals, lines = Totals(), []
    try:
        programs = make(name, paths)
    except BuildFailed as failure:
        output, repeat = failure.args
        totals.failed = 1
        totals.repeats.append(repeat)
        lines = ["    " + line for line in output.splitlines()[-80:]] + ["not ok build_%s: does not build" % name, "repeat: " + repeat]
        programs = []
    programs.sort(key=lambda program: -program.seconds)     # what may take long begins first, or the end waits for it alone
    with concurrent.futures.ThreadPoolExecutor(JOBS + (name in MOSTLY_WAITING)) as pool:
        for found, shown in pool.map(Program.run, programs):
            totals.add(found)
            lines += shown
    for line in lines + totals.skips:
        print(line)
    if time.monotonic() - started > SLOW_SECONDS:
        slowest = sorted(programs, key=lambda program: -program.took)[:4]
        print("   the longest: " + ", ".join("%s %.0f s" % (program.name, program.took) for program in slowest))
    count = totals.text() if programs or totals.failed else "nothing to run"
    print("== %-8s %6.1f s  %-40s %s" % (name, time.monotonic() - started, count, why), flush=True)
    return totals


def main():
    parser = argparse.ArgumentParser(prog="script/test", description="Runs the tests; ends with `N passed, N failed`.")
    parser.add_argument("--quick", action="store_true", help="what takes less than a minute once built")
    parser.add_argument("--step", action="append", choices=[step[0] for step in STEPS], help="only this row of the table")
    parser.add_argument("--list", action="store_true", help="print the table of steps")
    parser.add_argument("paths", nargs="*", help="a folder or file: only its tests")
    options = parser.parse_args()
    if options.list:
        for name, why, quick, _, _ in STEPS:
            print("%-8s %s  %s" % (name, "quick" if quick else "     ", why))
        return 0
    paths = [os.path.relpath(os.path.abspath(path), ROOT) for path in options.paths]
    for path in paths:
        if not os.path.exists(os.path.join(ROOT, path)):
            print("script/test: nothing is at %s" % path, file=sys.stderr)
            print("0 passed, 1 failed")
            return 1

    started, totals = time.monotonic(), Totals()
    for name, why, quick, with_paths, make in STEPS:
        if options.step:
            chosen = name in options.step
        elif options.quick:
            chosen = quick
        elif paths:         # a folder's tests: each C test once, under sanitizers
            chosen = with_paths and name not in ("unit", "tsan", "fuzz")
        else:
            chosen = True
        if chosen:
            totals.add(run_step(name, why, make, paths))
    if totals.repeats:
        print("== failed; each line repeats one of them")
        for repeat in dict.fromkeys(totals.repeats):
            print("   " + repeat)
    if totals.passed + totals.failed == 0:
        print("== nothing was run%s" % (" for " + shlex.join(paths) if paths else ""))
    print("== %.0f s" % (time.monotonic() - started))
    print(totals.text())
    return 1 if totals.failed else 0


if __name__ == "__main__":
    sys.exit(main())
