"""script/analyze finds what is planted, with each of its analyzers, and takes no reason that is none."""
import importlib.util
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "test", "lib"))
from harness import ROOT, case, check, equal, main, need_program, raises      # noqa: E402

spec = importlib.util.spec_from_file_location("analyze", os.path.join(ROOT, "script", "lib", "analyze.py"))
analyze = importlib.util.module_from_spec(spec)
spec.loader.exec_module(analyze)

FAULT = """#include <stdlib.h>
int twice(int n);
int twice(int n)
{
    char *p = malloc(10);
    if (p == NULL)
        return 1;
    free(p);
    if (n > 0)
        free(p);
    return 0;
}
"""


def found(kind, text):
    """What an analyzer says of a file that lies in the tree for the while."""
    flags = ["-std=gnu17", "-D_GNU_SOURCE", "-I" + os.path.join(ROOT, "src"), "-I" + ROOT, "-I" + os.path.join(ROOT, "include")]
    with tempfile.TemporaryDirectory() as kept, tempfile.NamedTemporaryFile("w", suffix=".c", dir=os.path.join(ROOT, "tools")) as file:
        analyze.CACHE = kept
        file.write(text)
        file.flush()
        first = analyze.look(kind, file.name, flags, ROOT)
        again = analyze.look(kind, file.name, flags, ROOT)
        equal((again[0], again[1]), (first[0], 0.0), "the second look")
        return {check_ for _, _, names, _ in first[0] for check_ in names.split(",")}


@case
def gcc_finds_a_double_free():
    need_program("gcc")
    check("-Wanalyzer-double-free" in found(analyze.Gcc(), FAULT), "not found")
    equal(found(analyze.Gcc(), FAULT.replace("if (n > 0)\n        free(p);", "(void)n;")), set())


@case
def clang_tidy_finds_a_double_free():
    need_program("clang-tidy-14")
    check("clang-analyzer-unix.Malloc" in found(analyze.Tidy(), FAULT), "not found")
    equal(found(analyze.Tidy(), FAULT.replace("if (n > 0)\n        free(p);", "(void)n;")), set())


@case
def failures_are_known_to_fail():
    """analyze.h: who failed by err_set has not answered OK, so that what was made is there."""
    need_program("clang-tidy-14")
    text = """#include "base/err.h"
enum err_code make(int **ret, int n, struct err *err);
int use(int n, struct err *err);
static int one;
enum err_code make(int **ret, int n, struct err *err)
{
    if (n == 0)
        return err_set(err, E_INVALID, "none");
    *ret = &one;
    return OK;
}
int use(int n, struct err *err)
{
    int *made = NULL;
    if (make(&made, n, err) != OK)
        return 0;
    return *made;
}
"""
    equal(found(analyze.Tidy(), text), set())


@case
def reasons_are_sentences():
    rows = analyze.known_read()
    check(len(rows) > 10, "%d rows", len(rows))
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("src/x.c | a-check | text | no\n")
        file.flush()
        with raises(SystemExit):
            analyze.known_read(file.name)


@case
def a_reason_fits_its_finding_only():
    finding = [("src/base/arena.c", 1, "some-check", "words")]
    line = analyze.line_of("src/base/arena.c", 1)
    known = [("src/base/arena.c", "some-check", line[:20], "It is so for good reason.")]
    equal(analyze.sort_out(finding, known, {"src/base/arena.c"}), ([], []))
    other = [("src/base/arena.c", "other-check", line[:20], "It is so for good reason.")]
    left, stale = analyze.sort_out(finding, other, {"src/base/arena.c"})
    equal((len(left), stale), (1, other))


if __name__ == "__main__":
    main()
