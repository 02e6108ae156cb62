"""Methods, forms of the target, hosts, origins and pages of other sites."""
from harness import case, cases, check, equal, main
from _wire import INFER, IRIS_BODY, Wire, ask, head, serving, still_serves

JSON = ("Content-Type", "application/json")


@case
def head_is_get_without_the_body():
    with serving() as server:
        for path in ("/v2", "/v2/models/iris", "/v2/health/live", "/healthz", "/nothing"):
            with Wire(server) as wire:
                wire.request("GET", path)
                get = wire.reply()
                wire.request("HEAD", path)
                found = wire.reply(is_head=True)
                equal((found.status, found.header("content-type"), found.header("content-length")),
                      (get.status, get.header("content-type"), get.header("content-length")), path)
                wire.request("GET", "/v2/health/live")
                equal(wire.reply().status, 200, "nothing came behind the head of %s" % path)


@case
def wrong_method_says_which_are_right():
    with serving() as server:
        for method, path, allowed in (("GET", INFER, "POST"), ("DELETE", "/v2/models/iris", "GET"), ("PUT", "/v2", "GET"),
                                      ("POST", "/healthz", "GET"), ("GET", "/models/iris:predict", "POST"),
                                      ("PATCH", "/metrics", "GET")):
            reply = ask(server, method, path)
            equal(reply.status, 405, "%s %s" % (method, path))
            check(allowed in reply.header("allow").replace(" ", "").split(","), "allow of %s: %r", path, reply.header("allow"))


@case
def errors_have_the_form_of_their_dialect():
    with serving() as server:
        reply = ask(server, "GET", "/v2/nothing")
        equal((reply.status, list(reply.json())), (404, ["error"]))
        check(isinstance(reply.json()["error"], str), "%r", reply.body)
        reply = ask(server, "GET", "/models/iris/nothing")
        equal(reply.status, 404)
        check({"code", "message"} <= set(reply.json()["error"]), "%r", reply.body)
        equal(reply.json()["error"]["code"], "NOT_FOUND")
        reply = ask(server, "GET", "/nothing")
        equal((reply.status, reply.header("content-type").split(";")[0]), (404, "text/plain"))


@cases({"lower_case": ("get",), "unknown": ("BREW",), "connect": ("CONNECT",), "trace": ("TRACE",), "long": ("A" * 60,)})
def odd_method(method):
    with serving() as server:
        with Wire(server) as wire:
            wire.send(head(method, "/v2" if method != "CONNECT" else "127.0.0.1:80"))
            reply = wire.reply()
            check(reply.status in (400, 405, 501), "%r", reply)
        still_serves(server)


@case
def absolute_form_takes_the_host_of_the_target():
    """RFC 9112, 3.2.2: the host of an absolute target counts. A client must send the same in Host, and one that does not could
    be understood in two ways: it is refused."""
    with serving() as server:
        for target, host, status in (("127.0.0.1:%d" % server.port, "127.0.0.1:%d" % server.port, 200),
                                     ("127.0.0.1:%d" % server.port, "localhost", 400), ("evil.example", "127.0.0.1", 400),
                                     ("evil.example", "evil.example", 403)):
            with Wire(server) as wire:
                wire.send("GET http://%s/v2/health/live HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, host))
                equal(wire.reply().status, status, "target %s, Host %s" % (target, host))


@case
def options_star():
    with serving() as server, Wire(server) as wire:
        wire.send(head("OPTIONS", "*"))
        check(wire.reply().status in (200, 204), "OPTIONS *")


@case
def options_of_a_path():
    with serving() as server:
        reply = ask(server, "OPTIONS", INFER)
        check(reply.status in (200, 204), "%r", reply)
        check("POST" in reply.header("allow"), "%r", reply)


# --- hosts: what stops a name of a page's own from reaching a server on this machine ----------------------

@cases({"ip": ("127.0.0.1", 200), "ip_port": ("127.0.0.1:8000", 200), "localhost": ("localhost", 200),
        "localhost_port": ("localhost:1234", 200), "ipv6": ("[::1]:8000", 200), "capitals": ("LocalHost", 200),
        "other_ip": ("10.1.2.3", 200), "name": ("evil.example", 403), "name_port": ("evil.example:8000", 403),
        "localhost_suffix": ("localhost.evil.example", 403), "ip_suffix": ("127.0.0.1.evil.example", 403),
        "localhost_dot_evil": ("evil.localhost.example", 403), "number_name": ("127.0.0.1x", 403)})
def host(name, status):
    with serving() as server:
        reply = ask(server, "POST", INFER, IRIS_BODY, [JSON], host=name)
        check(reply.status == status or (status == 403 and reply.status == 421), "Host %s: %r", name, reply)
        if status != 200:
            check("--allow-host" in reply.body.decode(), "the option is not named: %r", reply.body)


@case
def host_allowed_by_option():
    with serving(options=["--allow-host", "models.example"]) as server:
        equal(ask(server, "GET", "/v2", host="models.example").status, 200)
        equal(ask(server, "GET", "/v2", host="MODELS.example:99").status, 200)
        check(ask(server, "GET", "/v2", host="other.example").status in (403, 421), "another name")


# --- origins ----------------------------------------------------------------------------------------------

@case
def origin_of_another_page_is_refused():
    with serving() as server:
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://%s.evil.example" % server.host,
                       "file://", "http://evil.example:%d" % server.port):
            reply = ask(server, "POST", INFER, IRIS_BODY, [JSON, ("Origin", origin)])
            equal(reply.status, 403, origin)
            equal(reply.header("access-control-allow-origin"), None)


@case
def own_origin_is_served():
    with serving() as server:
        reply = ask(server, "POST", INFER, IRIS_BODY, [JSON, ("Origin", "http://" + server.address)])
        equal(reply.status, 200)


@case
def origin_allowed_by_option():
    with serving(options=["--cors-origin", "https://app.example"]) as server:
        reply = ask(server, "POST", INFER, IRIS_BODY, [JSON, ("Origin", "https://app.example")])
        equal((reply.status, reply.header("access-control-allow-origin")), (200, "https://app.example"))
        check("origin" in (reply.header("vary") or "").lower(), "vary: %r", reply.header("vary"))
        equal(ask(server, "POST", INFER, IRIS_BODY, [JSON, ("Origin", "https://evil.example")]).status, 403)


@case
def preflight():
    wanted = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "POST"),
              ("Access-Control-Request-Headers", "content-type, inference-header-content-length")]
    with serving(options=["--cors-origin", "https://app.example"]) as server:
        reply = ask(server, "OPTIONS", INFER, None, wanted)
        check(reply.status in (200, 204), "%r", reply)
        equal(reply.header("access-control-allow-origin"), "https://app.example")
        check("POST" in reply.header("access-control-allow-methods"), "%r", reply)
        allowed = reply.header("access-control-allow-headers").lower()
        check("content-type" in allowed and "inference-header-content-length" in allowed, "%r", reply)
    with serving() as server:
        reply = ask(server, "OPTIONS", INFER, None, wanted)
        equal(reply.header("access-control-allow-origin"), None, "CORS is off until asked for")


@case
def errors_can_be_read_by_an_allowed_page():
    with serving(options=["--cors-origin", "https://app.example"]) as server:
        reply = ask(server, "POST", "/v2/models/none/infer", IRIS_BODY, [JSON, ("Origin", "https://app.example")])
        equal((reply.status, reply.header("access-control-allow-origin")), (404, "https://app.example"))


@case
def json_answers_cannot_be_sniffed():
    """A browser must not take an answer for a page."""
    with serving() as server:
        for path in ("/v2", "/v2/nothing", "/models", "/nothing", "/healthz"):
            reply = ask(server, "GET", path)
            check("html" not in reply.header("content-type") or reply.header("x-content-type-options") == "nosniff",
                  "%s: %r", path, reply)


if __name__ == "__main__":
    main()
