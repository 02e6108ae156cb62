"""script/soak in its short form, and with a load that leaks on purpose: what is flat is called flat, what is not is not."""
import json
import os
import subprocess
import sys
import tempfile

from harness import BINARY, ROOT, case, check, equal, main, need


def soak(*options):
    for name in ("aiohttp", "httpx", "grpc", "tritonclient.grpc", "websockets"):
        need(name)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, os.path.join(ROOT, "script", "lib", "soak.py"), "--binary", BINARY, "--json", folder + "/report", *options],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280, check=False)
        print(done.stdout, done.stderr, file=sys.stderr)
        check(os.path.exists(folder + "/report"), "no report: %s", done.stderr[-1000:])
        with open(folder + "/report") as file:
            return done.returncode, json.load(file)


@case
def fifty_seconds_are_flat():
    status, report = soak("--minutes", "0.85")
    equal([row["what"] for row in report["checks"] if not row["ok"]], [], "not flat")
    equal((status, report["ok"], report["failures"]), (0, True, {}))
    check(report["upgrades"] >= 1 and report["reloads"] >= 3 and sum(report["calls"].values()) > 2000, "%s", report["calls"])


@case
def connections_that_leak_are_found():
    status, report = soak("--minutes", "0.5", "--upgrades", "0", "--leak")
    equal(status, 1)
    wrong = [row["what"] for row in report["checks"] if not row["ok"]]
    check("descriptors under load" in wrong, "%s", wrong)


if __name__ == "__main__":
    main()
