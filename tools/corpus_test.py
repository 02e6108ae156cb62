"""Every fuzzer begins with inputs that are kept: few, small, and some that a person or a search found worth it."""
import importlib.util
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "test", "lib"))
from harness import ROOT, case, check, equal, main      # noqa: E402

spec = importlib.util.spec_from_file_location("corpus", os.path.join(ROOT, "script", "lib", "corpus.py"))
corpus = importlib.util.module_from_spec(spec)
spec.loader.exec_module(corpus)


def declared():
    """{name: folder of its corpus} of each row of room_fuzz."""
    found = {}
    for room in sorted(os.listdir(os.path.join(ROOT, "src"))):
        path = os.path.join(ROOT, "src", room, "meson.build")
        if os.path.isfile(path):
            with open(path) as file:
                for name, source in re.findall(r"'(\w+_fuzz)': files\('([^']+)'", file.read()):
                    found[name] = os.path.join(ROOT, "src", room, os.path.dirname(source), "corpus", name)
    return found


@case
def each_has_a_few_small_inputs():
    found = declared()
    check(len(found) > 30, "%d fuzzers", len(found))
    for name, folder in found.items():
        check(os.path.isdir(folder) and os.listdir(folder), "%s has no corpus in %s: script/corpus %s makes one", name, os.path.relpath(folder, ROOT), name)
        sizes = [os.path.getsize(os.path.join(folder, one)) for one in os.listdir(folder)]
        check(len(sizes) <= corpus.FILES and sum(sizes) <= corpus.BYTES, "%s: %d files, %d bytes: script/corpus --seconds 0 %s", name, len(sizes), sum(sizes), name)


@case
def each_folder_belongs_to_a_fuzzer():
    known = {os.path.realpath(folder) for folder in declared().values()}
    for folder, folders, _ in os.walk(os.path.join(ROOT, "src")):
        if os.path.basename(folder) == "corpus":
            for name in folders:
                check(os.path.realpath(os.path.join(folder, name)) in known, "%s belongs to no fuzzer", os.path.join(folder, name))


@case
def what_reaches_more_is_kept():
    a, b, c, d = (letter * 40 for letter in "abcd")
    sizes = {a: 10, b: 5, c: 7, d: 9, "by_hand": 100}
    found = {a: {"1", "2", "3"}, b: {"1"}, c: {"4"}, d: {"2", "3", "4"}, "by_hand": {"9"}}
    equal(corpus.choose(found, sizes.get), ["by_hand", d, b])
    many = {"%040x" % i: {str(i)} for i in range(200)}
    equal(len(corpus.choose(many, lambda path: 1)), corpus.FILES)
    equal(len(corpus.choose(many, lambda path: 90 * 1024)), 2)


if __name__ == "__main__":
    main()
