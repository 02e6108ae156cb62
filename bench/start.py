"""From exec to the first right answer, and memory: then, after ten thousand requests, after a million."""
import statistics
import subprocess
import sys
import time

import _lib
from _lib import BINARY, EXAMPLES, IRIS_V2, Load, Penstock, Row, free_port, iris_validate, measure, post, rss_bytes, say
import socket

TITLE = "start and memory"
REQUEST = post("/v2/models/iris/infer", IRIS_V2)


def first_answer(folder):
    """Milliseconds from exec to the first answer that is 200 and right, and bytes resident then."""
    port = free_port()
    command = ["taskset", "-c", str(_lib.SERVER_CPU), BINARY, "serve", folder, "--listen", "127.0.0.1:%d" % port]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 10) as connection:
                    connection.sendall(REQUEST)
                    answer = connection.recv(65536)
                if answer.startswith(b"HTTP/1.1 200"):
                    break
            except ConnectionError:
                pass
            if process.poll() is not None or time.monotonic() - begin > 30:
                _lib.die("penstock did not answer in 30 s")
            time.sleep(0.0002)
        took = (time.monotonic() - begin) * 1e3
        iris_validate({}, answer.split(b"\r\n\r\n", 1)[1])
        return took, rss_bytes(process.pid)
    finally:
        process.terminate()
        process.wait()


def run(options):
    count = 5 if options.quick else 15
    first_answer(EXAMPLES + "/iris")        # warms the page cache
    one = [first_answer(EXAMPLES + "/iris") for _ in range(count)]
    all_of_them = [first_answer(EXAMPLES) for _ in range(count)]
    milliseconds = statistics.median(took for took, _ in one)
    resident = statistics.median(size for _, size in one) / 1e6
    say("   %d starts: %.1f to %.1f ms" % (count, min(one)[0], max(one)[0]))

    requests = 100_000 if options.quick else 1_000_000
    with Penstock(EXAMPLES + "/iris") as server:
        load = Load(server, REQUEST, iris_validate)
        measure(load, connections=16, requests=10_000, warmup=0.001)
        early = rss_bytes(server.pid)
        measure(load, connections=16, requests=requests, warmup=0.001)
        late = rss_bytes(server.pid)
    return [
        Row("exec to the first right answer, `iris`, warm page cache", milliseconds, "ms", 50,
            beside="all of examples/models: %.1f ms" % statistics.median(took for took, _ in all_of_them)),
        Row("resident memory then", resident, "MB", 45,
            beside="all of examples/models: %.1f MB" % (statistics.median(size for _, size in all_of_them) / 1e6)),
        Row("resident memory after {:,} requests, above that after 10,000".format(requests), (late - early) / (1 << 20),
            "MiB", 1, beside="%.1f MB; before %.1f MB" % (late / 1e6, early / 1e6)),
    ]


if __name__ == "__main__":
    _lib.main(sys.modules[__name__])
