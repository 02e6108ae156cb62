/* echo.c - GET /echo under --test-services: a WebSocket that says every message again, text as text
 * and binary as binary, as conformance suites and clients' own tests expect of a server.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A message is read only while the answers before it find room: who does not read is not read.
 */
#include "api/route.h"
#include "call/websocket.h"

static void on_room(struct call *call)
{
    if (call_room(call) > 0)
        call_read(call);
}

static void on_message(struct call *call, const struct call_message *message)
{
    struct call_piece piece = { message->bytes, message->holder };

    call_send_as(call, &piece, 1, (struct call_form){ .is_text = message->is_text });
    on_room(call);
}

static void on_gone(struct call *call UNUSED, enum err_code why UNUSED)
{
}

static const struct call_user user = {
    .on_message = on_message,
    .on_room = on_room,
    .on_gone = on_gone,
};

static void echo(struct exchange *x, const struct route_match *match)
{
    struct err err = { 0 };

    if (!match->api->has_test_services) {
        err_set(&err, E_NOT_FOUND, "there is nothing at /echo; GET / lists what there is");
        api_fail(x, DIALECT_PLAIN, 404, &err);
        return;
    }
    struct call *call = websocket_accept(x, &match->api->websocket, NULL, NULL);
    if (call == NULL)
        return;
    call->user = &user;
    call_read(call);
}

static const struct route routes[] = {
    { 1u << METHOD_GET, "/echo", echo, DIALECT_PLAIN, ACCESS_OPEN, "test" },
};

const struct route_table echo_routes = { routes, COUNT(routes) };
