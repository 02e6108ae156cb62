/* url.c - SPDX-License-Identifier: Apache-2.0 */
#include "client/url.h"

#include <stdio.h>
#include <sys/un.h>

static enum err_code refuse(struct err *err, struct slice url, const char *why)
{
    return err_set(
        err, E_INVALID,
        "'%.*s' is no address of a server: %s; http://127.0.0.1:8000 or unix:/run/x.sock "
        "would be one",
        SLICE_ARG(slice_first(url, 200)), why);
}

static bool has_control(struct slice text)
{
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] <= ' ' || text.data[i] == 0x7f)
            return true;
    }
    return false;
}

static enum err_code parse_unix(struct url *ret, struct slice url, struct slice path,
                                struct err *err)
{
    /* unix:///run/x has an empty host, as in a URL; unix://run/x has one, which means nothing. */
    if (slice_starts(path, "///")) {
        while (slice_starts(path, "//"))
            path = slice_skip(path, 1);
    }
    if (path.size == 0 || path.data[0] != '/' || slice_starts(path, "//"))
        return refuse(err, url, "the path of a unix socket begins with /");
    if (path.size >= sizeof((struct sockaddr_un *)0)->sun_path)
        return refuse(err, url, "the path of a unix socket has at most 107 bytes");
    ret->is_unix = true;
    snprintf(ret->host, sizeof ret->host, "%.*s", SLICE_ARG(path));
    snprintf(ret->shown, sizeof ret->shown, "unix:%s", ret->host);
    snprintf(ret->authority, sizeof ret->authority, "localhost");
    return OK;
}

/* What a host name or an address may hold: RFC 3986 3.2.2 without escapes. */
static bool is_host(struct slice host, bool is_v6)
{
    for (size_t i = 0; i < host.size; i++) {
        uint8_t c = host.data[i];
        bool is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '.' || c == '-' || c == '_';
        if (!is_word && !(is_v6 && (c == ':' || c == '%')))
            return false;
    }
    return host.size > 0 && (!is_v6 || slice_find(host, ':') < host.size);
}

/* Takes host and port off the front of "host:port"; `rest` is what stands behind the host. */
static enum err_code parse_port(struct url *ret, struct slice url, struct slice rest,
                                struct err *err)
{
    uint64_t port = ret->is_tls ? 443 : 80;

    if (rest.size > 0 && rest.data[0] != ':')
        return refuse(err, url, "behind the host only :PORT may follow");
    if (rest.size > 0 &&
        (!slice_to_u64(slice_skip(rest, 1), &port) || port == 0 || port > UINT16_MAX))
        return refuse(err, url, "a port is a number from 1 to 65535");
    ret->port = (uint16_t)port;
    return OK;
}

enum err_code url_parse(struct url *ret, struct slice url, struct err *err)
{
    struct slice left = url, host, rest;

    *ret = (struct url){ .port = 80 };
    if (has_control(url))
        return refuse(err, url, "it has blanks or control characters");
    if (slice_starts(left, "unix:"))
        return parse_unix(ret, url, slice_skip(left, 5), err);
    ret->is_tls = slice_starts(left, "https://");
    if (ret->is_tls)
        left = slice_skip(left, 8);
    else if (slice_starts(left, "http://"))
        left = slice_skip(left, 7);
    struct slice base = slice_skip(left, slice_find(left, '/'));
    left = slice_first(left, left.size - base.size);
    if (slice_find(base, '?') < base.size || slice_find(base, '#') < base.size ||
        slice_find(left, '?') < left.size || slice_find(left, '#') < left.size)
        return refuse(err, url, "a query or fragment has no place in it");
    if (slice_find(left, '@') < left.size)
        return refuse(err, url, "names and passwords have no place in it");
    while (base.size > 0 && base.data[base.size - 1] == '/')
        base.size--;
    if (base.size >= sizeof ret->base)
        return refuse(err, url, "its path is too long");
    if (left.size > 0 && left.data[0] == '[') {
        size_t end = slice_find(left, ']');
        if (end == left.size)
            return refuse(err, url, "the bracket of an IPv6 address is not closed");
        host = slice_skip(slice_first(left, end), 1);
        rest = slice_skip(left, end + 1);
    } else {
        host = slice_first(left, slice_find(left, ':'));
        rest = slice_skip(left, host.size);
    }
    if (host.size == 0 || host.size >= sizeof ret->host)
        return refuse(err, url, "it names no host");
    if (!is_host(host, rest.data != host.data + host.size))
        return refuse(err, url, "its host is neither a name nor an address");
    TRY(parse_port(ret, url, rest, err));
    snprintf(ret->host, sizeof ret->host, "%.*s", SLICE_ARG(host));
    snprintf(ret->base, sizeof ret->base, "%.*s", SLICE_ARG(base));
    bool is_v6 = strchr(ret->host, ':') != NULL;
    snprintf(ret->shown, sizeof ret->shown, "%s%s%s:%u", is_v6 ? "[" : "", ret->host,
             is_v6 ? "]" : "", ret->port);
    snprintf(ret->authority, sizeof ret->authority, "%s", ret->shown);
    return OK;
}
