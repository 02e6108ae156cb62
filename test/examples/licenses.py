"""What the program consists of is what packaging/components.json and docs/licenses.md say: no library comes in unnoticed."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from harness import BINARY, ROOT, Server, case, check, equal, main, need_program, skip

sys.path.insert(0, os.path.join(ROOT, "packaging"))
import linked       # noqa: E402


def inspectable():
    """Skips where the program lies in no build folder, or no dpkg can say whose a library is."""
    for program in ("readelf", "ninja", "dpkg-query"):
        need_program(program)
    try:
        linked.build_folder(BINARY)
    except linked.Problem as problem:
        skip(str(problem))


@case
def docs_say_what_the_program_says():
    inspectable()
    with open(os.path.join(ROOT, "docs", "licenses.md"), encoding="utf-8") as file:
        equal(file.read().splitlines(), linked.docs(BINARY).splitlines(), "docs/licenses.md (make it anew: packaging/linked.py docs build/penstock)")


@case
def what_a_server_has_loaded_is_named():
    """Every shared library in the memory of a server that has answered has its row."""
    inspectable()
    known = {name for row in linked.table() for name in row.get("files", [])}
    with Server(os.path.join(ROOT, "examples", "models")) as server:
        server.wait_ready()
        equal(server.post("/models/spam:predict", {"text": "You won a prize"})[0], 200)
        with open("/proc/%d/maps" % server.process.pid) as file:
            paths = {line.split()[-1] for line in file if re.search(r"\.so(\.|$)", line.split()[-1])}
    names = {linked.soname(path) for path in paths}
    check("libonnxruntime.so.1" in names and "libc.so.6" in names, "%s", names)
    equal(sorted(names - known), [], "libraries without a row in packaging/components.json")


@case
def a_library_without_a_row_is_refused():
    """The check itself: each row taken away is missed, and one too many is told."""
    inspectable()
    rows = linked.table()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("linked.py",):
            shutil.copy(os.path.join(ROOT, "packaging", name), folder)
        for i, gone in enumerate(rows + [None]):
            others = [row for row in rows if row is not gone] + ([] if gone else [{"name": "libnone", "how": "linked", "files": ["libnone.so.1"], "license": "MIT", "why": ""}])
            with open(folder + "/components.json", "w") as file:
                json.dump(others, file)
            done = subprocess.run([sys.executable, folder + "/linked.py", "check", BINARY], capture_output=True, text=True, check=False)
            equal(done.returncode, 1, gone and gone["name"])
            told = gone.get("archive") or gone["files"][0].split(".so")[0] if gone else "libnone"
            check(told in done.stderr and "components.json" in done.stderr, "%s: %s", told, done.stderr)


@case
def licences_are_those_of_the_packages():
    """Debian's own statement of each linked package has the words that our table says."""
    inspectable()
    words = {"MIT": r"Expat|MIT|permissive", "Zlib": r"Zlib|zlib", "LGPL-2.1-or-later": r"LGPL-2\.1\+?|Lesser General Public", "Apache-2.0": r"Apache-2\.0",
             "LGPL-3.0-or-later OR GPL-2.0-or-later": r"LGPL-3\+ or GPL-2\+", "GPL-3.0-or-later WITH GCC-exception-3.1": r"GCC Runtime Library Exception"}
    for row, files in linked.inventory(BINARY):
        if "debian" in row:
            with open(linked.copyright_of(row, files)[0], encoding="utf-8", errors="replace") as file:
                text = file.read()
            check(row["license"] in words, "%s: the licence %s is new here: say how Debian writes it", row["name"], row["license"])
            check(re.search(words[row["license"]], text), "%s: Debian's copyright file does not say %s", row["name"], row["license"])


if __name__ == "__main__":
    main()
