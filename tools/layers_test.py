"""layers_test.py - tools/layers refuses each kind of edge it is for, and nothing else."""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))

# name, files, the beginning of each line expected on stderr
CASES = [
    ("down_is_fine", {"src/cli/a.c": '#include "serve/b.h"\n#include "base/err.h"\n'}, []),
    ("own_room_is_fine", {"src/wire/a.c": '#include "wire/a.h"\n#include "a.h"\n', "src/wire/a.h": ""}, []),
    ("up_is_named_with_its_line", {"src/base/a.c": '#include <stdio.h>\n\n#include "engine/b.h"\n'},
     ['src/base/a.c:3: must not include "engine/b.h": base is below engine']),
    ("up_by_a_relative_path", {"src/base/a.c": '#include "../engine/b.h"\n', "src/engine/b.h": ""},
     ['src/base/a.c:1: must not include "../engine/b.h"']),
    ("neighbours_do_not_know_each_other", {"src/wire/a.c": '#include "io/loop.h"\n'},
     ["src/wire/a.c:1: must not include \"io/loop.h\": wire and io do not know each other"]),
    ("every_neighbour", {"src/api/a.c": '#include "pipe/b.h"\n', "src/contract/a.c": '#include "repository/b.h"\n'},
     ["src/api/a.c:1", "src/contract/a.c:1"]),
    ("header_is_checked_too", {"src/model/a.h": '#include "codec/b.h"\n'}, ["src/model/a.h:1"]),
    ("space_in_the_directive", {"src/base/a.c": '  #  include "cli/b.h"\n'}, ["src/base/a.c:1"]),
    ("comment_is_no_include", {"src/base/a.c": '/*\n#include "cli/b.h"\n*/\n// x\n'}, []),
    ("comment_keeps_line_numbers", {"src/base/a.c": '/* a\n b */\n#include "cli/b.h"\n'}, ["src/base/a.c:3"]),
    ("comment_marker_in_a_string", {"src/base/a.c": 'const char *a = "/*";\n#include "cli/b.h"\n/* */\n'},
     ["src/base/a.c:2"]),
    ("tables_and_penstock_by_all",
     {"src/base/a.c": '#include "tables/errors.def"\n#include "penstock/tensor.h"\n'
                      '#include <penstock/backend.h>\n'}, []),
    ("table_includes_nothing", {"src/tables/errors.def": '#include "base/err.h"\n'}, ["src/tables/errors.def:1"]),
    ("penstock_sees_itself_only",
     {"include/penstock/a.h": '#include "penstock/b.h"\n#include "base/err.h"\n'}, ["include/penstock/a.h:2"]),
    ("runtime_sees_base_and_itself",
     {"src/backend/onnx/a.c": '#include "backend/onnx/b.h"\n#include "base/err.h"\n#include "penstock/backend.h"\n',
      "src/backend/onnx/b.h": ""}, []),
    ("runtime_sees_no_more",
     {"src/backend/onnx/a.c": '#include "model/dtype.h"\n#include "backend/builtin.h"\n#include "backend/echo/b.h"\n'},
     ["src/backend/onnx/a.c:1", "src/backend/onnx/a.c:2", "src/backend/onnx/a.c:3"]),
    ("backend_does_not_reach_into_a_runtime", {"src/backend/builtin.c": '#include "backend/onnx/a.h"\n'},
     ["src/backend/builtin.c:1"]),
    ("test_header_in_a_test", {"src/base/a_test.c": '#include "test/test.h"\n'}, []),
    ("test_header_in_a_header_of_tests", {"src/base/a_test.h": '#include "test/test.h"\n'}, []),
    ("header_of_tests_elsewhere", {"src/base/a.c": '#include "base/a_test.h"\n', "src/base/a_test.h": ""}, ["src/base/a.c:1"]),
    ("test_header_elsewhere", {"src/base/a.c": '#include "test/test.h"\n'}, ["src/base/a.c:1"]),
    ("test_follows_the_order", {"src/base/a_test.c": '#include "engine/b.h"\n'}, ["src/base/a_test.c:1"]),
    ("unknown_room", {"src/base/a.c": '#include "attic/b.h"\n'}, ["src/base/a.c:1"]),
    ("file_in_no_room", {"src/loose.c": "", "src/attic/a.c": ""}, ["src/attic/a.c:1", "src/loose.c:1"]),
]


def run(files, *options):
    with tempfile.TemporaryDirectory() as root:
        for path, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w") as file:
                file.write(text)
        return subprocess.run([sys.executable, os.path.join(HERE, "layers"), "--root", root, *options],
                              capture_output=True, text=True)


def main():
    failed = 0
    for name, files, expected in CASES:
        done = run(files)
        found = sorted(done.stderr.splitlines())
        fine = (done.returncode == (1 if expected else 0) and len(found) == len(expected)
                and all(line.startswith(start) for line, start in zip(found, sorted(expected))))
        print("ok layers_%s" % name if fine else "not ok layers_%s: got %s" % (name, found))
        failed += not fine
    done = run({"src/cli/a.c": '#include "base/b.h"\n#include "base/c.h"\n'}, "--draw", "mermaid")
    fine = done.stdout == "graph TD\n    cli -->|2| base\n"
    print("ok layers_draws" if fine else "not ok layers_draws: got %r" % done.stdout)
    return 1 if failed or not fine else 0


if __name__ == "__main__":
    sys.exit(main())
