/* websocket_handshake.c - the opening handshake, a server's side (RFC 6455 4.2; over HTTP/2 RFC 8441
 * 5, where key and answer to it are not there). SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "call/websocket_internal.h"

enum { QUOTE_MAX = 80, HEADERS_MAX = 4, OFFERS_MAX = 4096 };

static const struct header version_13 = { SLICE_LIT("sec-websocket-version"), SLICE_LIT("13") };

static bool is_http1(const struct exchange *x)
{
    return strncmp(x->protocol, "HTTP/1", 6) == 0;
}

PRINTF_LIKE(3, 4)
COLD static bool refuse(struct exchange *x, uint16_t status, const char *format, ...)
{
    static const struct header upgrade = { SLICE_LIT("upgrade"), SLICE_LIT("websocket") };
    struct header headers[2] = { version_13, upgrade };
    char text[512];
    va_list args;

    va_start(args, format);
    int size = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size = MIN(MAX(size, 0), (int)sizeof text - 1);
    char *copy = arena_strndup(x->arena, text, (size_t)size);
    exchange_answer(x, status, "text/plain; charset=utf-8", headers, status == 426 ? 2 : 1,
                    slice_make(copy, copy == NULL ? 0 : (size_t)size), NULL);
    return false;
}

/* The values of all headers of that name, with commas between; data NULL: there is none, or too much
 * of it. */
static struct slice joined(const struct exchange *x, const char *name)
{
    struct slice one = { NULL, 0 };
    struct text all;
    uint32_t count = 0;

    for (uint32_t i = 0; i < x->headers_count; i++) {
        if (!slice_is(x->headers[i].name, name))
            continue;
        if (count++ == 0) {
            one = x->headers[i].value;
            continue;
        }
        if (count == 2) {
            text_init_arena(&all, x->arena, 0);
            text_slice_put(&all, one);
        }
        text_byte(&all, ',');
        text_slice_put(&all, x->headers[i].value);
    }
    if (count > 1)
        one = text_failed(&all) ? slice_make(NULL, 0) : text_slice(&all);
    return one.size > OFFERS_MAX ? slice_make(NULL, 0) : one;
}

static uint32_t count_of(const struct exchange *x, const char *name)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < x->headers_count; i++)
        count += slice_is(x->headers[i].name, name);
    return count;
}

static bool is_bearer(struct slice token)
{
    return slice_starts(token, WEBSOCKET_BEARER);
}

/* A credential among them is no subprotocol. */
static bool names_any(struct slice list)
{
    struct slice token;

    while ((token = websocket_token_next(&list)).data != NULL)
        if (!is_bearer(token))
            return true;
    return list.size > 0; /* what is no list names something that is not ours */
}

/* The first of ours that the peer names. False: it names others only. */
static bool choose_protocol(const struct exchange *x, const char *const *ours, const char **ret)
{
    struct slice named = joined(x, "sec-websocket-protocol");

    *ret = NULL;
    if (ours == NULL || named.data == NULL || !names_any(named))
        return true;
    for (; *ours != NULL; ours++) {
        struct slice list = named, token;
        while ((token = websocket_token_next(&list)).data != NULL)
            if (slice_is(token, *ours)) {
                *ret = *ours;
                return true;
            }
    }
    return false;
}

COLD static bool refuse_protocol(struct exchange *x, const char *const *ours)
{
    struct slice all = joined(x, "sec-websocket-protocol"), named = { 0 }, token;
    char list[160];
    size_t size = 0;

    /* One is enough to see the mistake, and no credential is repeated. */
    while (named.data == NULL && (token = websocket_token_next(&all)).data != NULL)
        if (!is_bearer(token))
            named = slice_first(token, QUOTE_MAX);

    list[0] = '\0';
    for (; *ours != NULL && size < sizeof list; ours++)
        size +=
            (size_t)snprintf(list + size, sizeof list - size, "%s%s", size > 0 ? ", " : "", *ours);
    return refuse(x, 400,
                  "the subprotocol '%.*s' is not spoken here; those that are: %s (or leave "
                  "Sec-WebSocket-Protocol out)\n",
                  SLICE_ARG(named), list);
}

static bool check(struct exchange *x)
{
    struct slice version = exchange_header(x, "sec-websocket-version");

    if (!websocket_is_asked(x)) {
        if (is_http1(x))
            return refuse(x, 426,
                          "%.*s is a WebSocket: it takes GET with `Connection: Upgrade` and "
                          "`Upgrade: websocket` (ws://, for WebSocket clients)\n",
                          SLICE_ARG(slice_first(x->path, QUOTE_MAX)));
        return refuse(x, 400,
                      "%.*s is a WebSocket: over HTTP/2 it takes CONNECT with `:protocol: "
                      "websocket` (RFC 8441)\n",
                      SLICE_ARG(slice_first(x->path, QUOTE_MAX)));
    }
    if (!slice_is(version, "13"))
        return refuse(
            x, 426,
            "the version of WebSocket that is spoken here is 13, and Sec-WebSocket-Version "
            "is '%.*s'\n",
            SLICE_ARG(slice_first(version, QUOTE_MAX)));
    if (!is_http1(x))
        return true;
    if (count_of(x, "sec-websocket-key") != 1 ||
        !websocket_key_is_valid(exchange_header(x, "sec-websocket-key")))
        return refuse(x, 400,
                      "Sec-WebSocket-Key must be there once, and be the base64 of 16 bytes\n");
    return true;
}

bool websocket_handshake(struct websocket_call *w, const char *const *protocols,
                         const char **ret_protocol)
{
    struct exchange *x = w->call.x;
    struct header headers[HEADERS_MAX];
    uint32_t count = 0;
    char accept[WEBSOCKET_ACCEPT_BYTES], agreed[WEBSOCKET_AGREED_BYTES];

    if (!check(x))
        return false;
    if (!choose_protocol(x, protocols, ret_protocol))
        return refuse_protocol(x, protocols);
    if (is_http1(x)) {
        websocket_accept_of(exchange_header(x, "sec-websocket-key"), accept);
        headers[count++] =
            (struct header){ SLICE_LIT("sec-websocket-accept"), slice_make(accept, sizeof accept) };
    }
    if (*ret_protocol != NULL)
        headers[count++] =
            (struct header){ SLICE_LIT("sec-websocket-protocol"), slice_of(*ret_protocol) };
    if (w->settings->has_deflate &&
        websocket_deflate_choose(joined(x, "sec-websocket-extensions"), &w->deflate, agreed))
        headers[count++] =
            (struct header){ SLICE_LIT("sec-websocket-extensions"), slice_of(agreed) };
    exchange_respond(x, 101, headers, count, -1);
    return true;
}
