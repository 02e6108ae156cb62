"""What `penstock serve` prints works when pasted also where callers need a key: the lines send $PENSTOCK_KEY."""
import json
import os
import subprocess
import tempfile

from harness import BINARY, ROOT, Server, case, check, equal, main, need_program

IRIS = os.path.join(ROOT, "examples", "models", "iris")


@case
def the_lines_send_the_key():
    need_program("curl")
    made = json.loads(subprocess.run([BINARY, "key", "alice", "--json"], capture_output=True, text=True, check=True).stdout)
    with tempfile.TemporaryDirectory(prefix="penstock-key-") as folder:
        rules = os.path.join(folder, "access.yaml")
        with open(os.open(rules, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write("keys:\n  - {name: alice, sha256: %s}\nrules:\n  - {who: [alice], may: [infer, read]}\n" % made["sha256"])
        with Server(IRIS, options=["--access", rules]) as server:
            server.wait_ready()
            log = server.log
            check("export PENSTOCK_KEY=" in log, "it does not say that a key is needed: %s", log)
            lines = [line.strip() for line in log.splitlines() if line.startswith("  ") and "iris" in line and "ready" not in line]
            check(len(lines) >= 3, "it printed %r", lines)
            for line in lines:
                if "grpcurl" in line:
                    continue
                for key, status in ((made["key"], 0), (None, 1)):
                    env = dict(os.environ, **({"PENSTOCK_KEY": key} if key else {}))
                    if key is None:
                        env.pop("PENSTOCK_KEY", None)
                        line = line.replace("curl ", "curl --fail ", 1) if line.startswith("curl ") else line
                    done = subprocess.run(line, shell=True, env=env, capture_output=True, text=True)
                    equal(done.returncode != 0, status != 0, "%s: %s%s: " % (line, done.stdout, done.stderr))
                    check("setosa" in done.stdout or key is None, "%s: %s", line, done.stdout)


@case
def without_rules_no_key_is_spoken_of():
    with Server(IRIS) as server:
        server.wait_ready()
        check("PENSTOCK_KEY" not in server.log, "it printed %s", server.log)


if __name__ == "__main__":
    main()
