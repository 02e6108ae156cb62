"""seam_test.py - tools/seam finds what goes round io/ and what the simulator does not know."""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))

# name, room -> source, the beginning of each line expected on stderr
CASES = [
    ("io_may_ask_the_system", {"io": "int recv(); int f(void) { return recv(); }"}, []),
    ("others_may_compute", {"serve": "int strlen(); int f(void) { return strlen(\"a\" + f()); }"}, []),
    ("nobody_else_receives", {"serve": "int recv(); int f(void) { return recv(); }"}, ["serve calls recv itself"]),
    ("a_new_name_is_asked_about", {"api": "int flockfile(); int f(void) { return flockfile(); }"},
     ["api calls flockfile, which the simulator neither replaces"]),
    ("two_rules_two_lines", {"engine": "int usleep(); int f(void) { return usleep(1); }"},
     ["engine calls usleep itself", "engine calls usleep, which"]),
    ("a_checked_call_is_the_same_call", {"io": "int __read_chk(); int f(void) { return __read_chk(); }"}, []),
    ("nobody_else_receives_checked", {"serve": "int __recv_chk(); int f(void) { return __recv_chk(); }"}, ["serve calls recv itself"]),
    ("what_is_replaced_is_in_both_forms", {"base": "int __open64_2(); int f(void) { return __open64_2(); }"}, ["base calls __open64_2, which"]),
    ("a_new_checked_name_is_asked_about", {"base": "int __recvfrom_chk(); int f(void) { return __recvfrom_chk(); }"},
     ["base calls __recvfrom_chk, which the simulator neither replaces"]),
    ("checked_text_is_pure", {"api": "int __snprintf_chk(); int f(void) { return __snprintf_chk(); }"}, []),
    ("no_rooms_are_no_success", {}, ["seam: "]),
]


def build(folder, rooms):
    os.mkdir(os.path.join(folder, "src"))
    for room, source in rooms.items():
        path = os.path.join(folder, "src", "libroom_%s" % room)
        with open(path + ".c", "w", encoding="utf-8") as file:
            file.write(source)
        subprocess.run(["gcc", "-w", "-c", path + ".c", "-o", path + ".o"], check=True)
        subprocess.run(["ar", "rcs", path + ".a", path + ".o"], check=True)


def main():
    failed = 0
    for name, rooms, expected in CASES:
        with tempfile.TemporaryDirectory() as folder:
            build(folder, rooms)
            done = subprocess.run([sys.executable, os.path.join(HERE, "seam"), folder], capture_output=True, text=True)
        lines = done.stderr.splitlines()
        good = (len(lines) == len(expected) and all(line.startswith(begin) for line, begin in zip(lines, expected))
                and done.returncode == (1 if expected else 0))
        print("ok %s" % name if good else "not ok %s: %d, %r" % (name, done.returncode, done.stderr))
        failed += not good
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
