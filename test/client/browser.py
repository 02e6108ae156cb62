"""A page in headless Chromium reads streams: server-sent events, WebSocket, gRPC-Web; each is cancelled too.

The page (browser/page.html) comes from another origin than the server, so that CORS is part of it.
"""
import functools
import http.server
import json
import os
import queue
import subprocess
import tempfile
import threading

from harness import Server, case, cases, check, models, main, need_program

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "browser")
NAMES = ["sse", "sse_cancel", "event_source", "websocket_session", "websocket_binary", "websocket_cancel", "grpc_web",
         "grpc_web_text", "grpc_web_error", "grpc_web_cancel"]
SECONDS = 120


def echo(name, parameters, dtype="TYPE_STRING", dims="[ 1 ]", names=("text", "token")):
    more = "".join('parameters { key: "%s" value { string_value: "%s" } }\n' % item for item in parameters.items())
    return ('name: "%s"\nbackend: "echo"\ninput { name: "%s" data_type: %s dims: %s }\n'
            'output { name: "%s" data_type: %s dims: %s }\n%s' % (name, names[0], dtype, dims, names[1], dtype, dims, more)
            ).encode()


MODELS = {
    "tokens/config.pbtxt": echo("tokens", {"mode": "repeat", "count": "20", "delay_ms": "5"}),
    "endless/config.pbtxt": echo("endless", {"mode": "repeat", "count": "1000000000", "delay_ms": "10"}),
    "chat/config.pbtxt": echo("chat", {"mode": "chat", "greeting": "welcome"}),
    "double/config.pbtxt": echo("double", {}, "TYPE_FP32", "[ -1 ]", ("x", "y")),
}


class Page(http.server.SimpleHTTPRequestHandler):
    results = None

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.results.put((self.path, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *words):
        pass


@functools.lru_cache(maxsize=1)
def run():
    """{case: error or ""}: the page is run once, for all of them."""
    chromium = need_program("chromium")
    results, found = queue.Queue(), {}
    handler = type("Handler", (Page,), {"results": results})
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=HERE))
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    origin = "http://127.0.0.1:%d" % pages.server_port
    with models(MODELS) as folder, Server(folder, options=["--cors-origin", origin]) as server, \
            tempfile.TemporaryDirectory(prefix="penstock-chromium-", ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--user-data-dir=" + profile, "%s/page.html?server=%s" % (origin, server.url)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        try:
            while True:
                path, body = results.get(timeout=SECONDS)
                if path == "/done":
                    break
                row = json.loads(body)
                found[row["name"]] = row["error"]
        except queue.Empty:
            pass
        finally:
            try:
                os.killpg(browser.pid, 15)
                browser.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(browser.pid, 9)
            pages.shutdown()
    return found


@cases({name: (name,) for name in NAMES})
def page(name):
    found = run()
    check(name in found, "the page did not come to it; it did %s", sorted(found))
    check(found[name] == "", "%s", found[name])


@case
def every_case_of_the_page_is_here():
    found = run()
    check(sorted(found) == sorted(NAMES), "the page has %s", sorted(found))


if __name__ == "__main__":
    main()
