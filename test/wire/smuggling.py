"""Requests about whose end two readers could disagree: each is refused, and its connection closed (RFC 9112, 6.3 and 11.2).

Behind every one of them comes a complete request. Had the server gone on reading the connection, that would be answered too:
a second answer fails the case.
"""
from harness import case, cases, check, equal, main
from _wire import INFER, IRIS_BODY, Wire, serving, still_serves

BEHIND = "GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
N = "%d" % len(IRIS_BODY)
BODY = IRIS_BODY.decode()
CHUNKED = "%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


def post(*headers, host="Host: 127.0.0.1", line="POST %s HTTP/1.1" % INFER, body=BODY, end="\r\n"):
    return end.join([line, *([host] if host else []), *headers]) + end + end + body


def chunks(body):
    return post("Transfer-Encoding: chunked", body=body)


REFUSED = {
    # both a length and chunked: the classic
    "length_and_chunked": post("Content-Length: " + N, "Transfer-Encoding: chunked", body=CHUNKED),
    "chunked_and_length": post("Transfer-Encoding: chunked", "Content-Length: 5", body=CHUNKED),
    # lengths
    "two_lengths": post("Content-Length: " + N, "Content-Length: 3"),
    "two_equal_lengths": post("Content-Length: " + N, "Content-Length: " + N),
    "length_list": post("Content-Length: %s, %s" % (N, N)),
    "length_plus": post("Content-Length: +" + N),
    "length_minus": post("Content-Length: -1"),
    "length_hex": post("Content-Length: 0x10"),
    "length_space": post("Content-Length: 1 2"),
    "length_empty": post("Content-Length:"),
    "length_letters": post("Content-Length: %sabc" % N),
    "length_too_large": post("Content-Length: 99999999999999999999"),
    "length_wraps": post("Content-Length: 18446744073709551617"),
    "length_vertical_tab": post("Content-Length: \x0b" + N),
    # transfer codings
    "coding_unknown": post("Transfer-Encoding: xchunked", body=CHUNKED),
    "coding_after_chunked": post("Transfer-Encoding: chunked, identity", body=CHUNKED),
    "coding_identity": post("Transfer-Encoding: identity", body=CHUNKED),
    "coding_gzip": post("Transfer-Encoding: gzip", body=CHUNKED),
    "coding_chunked_twice": post("Transfer-Encoding: chunked, chunked", body=CHUNKED),
    "coding_two_headers": post("Transfer-Encoding: chunked", "Transfer-Encoding: cow", body=CHUNKED),
    "coding_empty": post("Transfer-Encoding:", body=CHUNKED),
    "coding_quoted": post('Transfer-Encoding: "chunked"', body=CHUNKED),
    "coding_vertical_tab": post("Transfer-Encoding:\x0bchunked", body=CHUNKED),
    "coding_with_length_twice": post("Transfer-Encoding: x", "Content-Length: " + N),
    "chunked_in_http_1_0": post("Transfer-Encoding: chunked", line="POST %s HTTP/1.0" % INFER, body=CHUNKED),
    # chunks
    "chunk_size_hex_prefix": chunks("0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk_size_minus": chunks("-5\r\nhello\r\n0\r\n\r\n"),
    "chunk_size_plus": chunks("+5\r\nhello\r\n0\r\n\r\n"),
    "chunk_size_space_before": chunks(" 5\r\nhello\r\n0\r\n\r\n"),
    "chunk_size_empty": chunks("\r\nhello\r\n0\r\n\r\n"),
    "chunk_size_wraps": chunks("10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "chunk_size_letters": chunks("g\r\nhello\r\n0\r\n\r\n"),
    "chunk_line_bare_lf": chunks("5\nhello\r\n0\r\n\r\n"),
    "chunk_data_too_long": chunks("5\r\nhello!!\r\n0\r\n\r\n"),
    "chunk_data_bare_lf": chunks("5\r\nhello\n0\r\n\r\n"),
    "chunk_end_bare_cr": chunks("5\r\nhello\r0\r\n\r\n"),
    "chunk_extension_bare_lf": chunks("5;a=b\nhello\r\n0\r\n\r\n"),
    "trailer_bare_lf": chunks("5\r\nhello\r\n0\r\nX: y\n\r\n"),
    # header lines
    "space_before_colon": post("Content-Length : " + N),
    "space_before_coding_colon": post("Transfer-Encoding : chunked", body=CHUNKED),
    "folded_header": post("X-A: b\r\n c", "Content-Length: " + N),
    "folded_coding": post("Transfer-Encoding:\r\n chunked", body=CHUNKED),
    "line_begins_with_space": post(" Content-Length: " + N),
    "no_colon": post("Content-Length " + N),
    "no_name": post(": x", "Content-Length: " + N),
    "space_in_name": post("Content Length: " + N),
    "nul_in_name": post("Content-\0Length: " + N),
    "bracket_in_name": post("X(y): z", "Content-Length: " + N),
    "nul_in_value": post("X-A: b\0c", "Content-Length: " + N),
    "cr_in_value": post("X-A: b\rX-B: c", "Content-Length: " + N),
    "control_in_value": post("X-A: b\x01c", "Content-Length: " + N),
    "bare_lf_everywhere": post("Content-Length: " + N, end="\n"),
    "bare_lf_once": "POST %s HTTP/1.1\r\nHost: 127.0.0.1\nContent-Length: %s\r\n\r\n%s" % (INFER, N, BODY),
    "bare_lf_ends_head": "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %s\r\n\n%s" % (INFER, N, BODY),
    # the host
    "no_host": post("Content-Length: " + N, host=None),
    "two_hosts": post("Host: evil.example", "Content-Length: " + N),
    "two_equal_hosts": post("Host: 127.0.0.1", "Content-Length: " + N),
    "host_with_space": post("Content-Length: " + N, host="Host: a b"),
    "host_with_user": post("Content-Length: " + N, host="Host: a@127.0.0.1"),
    "host_with_path": post("Content-Length: " + N, host="Host: 127.0.0.1/x"),
    "host_port_letters": post("Content-Length: " + N, host="Host: 127.0.0.1:abc"),
    "host_list": post("Content-Length: " + N, host="Host: 127.0.0.1, evil.example"),
    # the request line
    "two_spaces": post("Content-Length: " + N, line="POST  %s HTTP/1.1" % INFER),
    "tab": post("Content-Length: " + N, line="POST\t%s HTTP/1.1" % INFER),
    "space_in_path": post("Content-Length: " + N, line="POST /v2/a b HTTP/1.1"),
    "version_lower_case": post("Content-Length: " + N, line="POST %s http/1.1" % INFER),
    "version_2_0": post("Content-Length: " + N, line="POST %s HTTP/2.0" % INFER),
    "version_long": post("Content-Length: " + N, line="POST %s HTTP/1.10" % INFER),
    "no_version": post("Content-Length: " + N, line="POST %s" % INFER),
    "nul_in_path": post("Content-Length: " + N, line="POST /v2\0 HTTP/1.1"),
    "not_http": "\x13BitTorrent protocol\0\0\0\0\r\n\r\n",     # a ClientHello is told so in TLS: test/client/tls.py
    "response_as_request": "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "method_with_control": post("Content-Length: " + N, line="PO\x01ST %s HTTP/1.1" % INFER),
}
STATUSES = (400, 413, 417, 501, 505)


def refuse(text):
    with serving() as server:
        with Wire(server) as wire:
            wire.send(text + BEHIND)
            reply = wire.reply()
            check(reply.status in STATUSES, "expected a refusal, got %r", reply)
            equal((reply.header("connection") or "").lower(), "close", "header connection")
            check(len(reply.body) > 0, "a refusal without a word of why")
            wire.closed("a refused connection")
        still_serves(server)


# One server for all of them would be faster, but then the first crash fails every case behind it.
refused = cases({name: (text,) for name, text in REFUSED.items()})(refuse)


@case
def refused_in_single_bytes():
    """The same refusals when every byte comes alone: what is in one read must not matter."""
    with serving() as server:
        for name, text in REFUSED.items():
            with Wire(server) as wire:
                for i in range(len(text)):
                    wire.send(text[i])
                wire.send(BEHIND)
                reply = wire.reply()
                check(reply.status in STATUSES, "%s in single bytes: expected a refusal, got %r", name, reply)
                wire.closed("%s: the connection" % name)
        still_serves(server)


ACCEPTED = {
    "plain": post("Content-Length: " + N),
    "chunked": post("Transfer-Encoding: chunked", body=CHUNKED),
    "chunked_capitals": post("tRANSFER-eNCODING: Chunked", body=CHUNKED),
    "chunk_extension": chunks("%x;name=value\r\n%s\r\n0;last\r\n\r\n" % (len(BODY), BODY)),
    "chunk_size_zeros": chunks("0000%x\r\n%s\r\n000\r\n\r\n" % (len(BODY), BODY)),
    "trailers": chunks("%x\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(BODY), BODY)),
    "space_around_value": post("Content-Length: \t %s \t" % N),
    "length_leading_zeros": post("Content-Length: 000" + N),
    "empty_value": post("X-Empty:", "Content-Length: " + N),
    "high_bytes_in_value": post("X-Name: \xe9\xff", "Content-Length: " + N),
    "absolute_form": post("Content-Length: " + N, line="POST http://127.0.0.1%s HTTP/1.1" % INFER),
    "query": post("Content-Length: " + N, line="POST %s?a=b&c HTTP/1.1" % INFER),
    "empty_lines_before": "\r\n" + post("Content-Length: " + N),
}


def accept(text):
    """What only looks odd is served, and the connection with it."""
    with serving() as server:
        with Wire(server) as wire:
            wire.send(text + BEHIND)
            reply = wire.reply()
            equal(reply.status, 200, repr(reply))
            equal(wire.reply().status, 200, "the request behind it")


accepted = cases({name: (text,) for name, text in ACCEPTED.items()})(accept)

if __name__ == "__main__":
    main()
