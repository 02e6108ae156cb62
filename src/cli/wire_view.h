/* wire_view.h - what passes on one connection, for people: penstock call --wire.
 *
 * It is given the bytes themselves, both ways, and finds frames, header fields and messages in them
 * again: what is shown is what was on the wire, not what somebody meant to send. Of HTTP/1.1 it shows
 * heads and pieces of bodies; of HTTP/2 each frame; of gRPC the messages field by field beside their
 * JSON, and what all of it weighs.
 *
 * Life     wire_view_new, bytes by its tap (or wire_view_feed), wire_view_end, wire_view_write or
 *          _say, _free.
 * Threads  one at a time.
 */
#ifndef CLI_WIRE_VIEW_H
#define CLI_WIRE_VIEW_H

#include <stdbool.h>

#include "base/err.h"
#include "base/slice.h"
#include "base/text.h"
#include "client/pool.h"

struct proto_schema;
struct proto_type;
struct wire_view;

struct wire_view_settings {
    bool http2, is_grpc, has_colour;
    uint32_t columns;   /* of the terminal; 0: 100 */
    const char *title;  /* "penstock.models.Iris/Predict", "POST /models/iris:predict" */
    const char *server; /* "127.0.0.1:8000" */
    /* Of gRPC; borrowed. */
    const struct proto_schema *schema;
    const struct proto_type *request, *response;
};

MUST_USE enum err_code wire_view_new(struct wire_view **ret,
                                     const struct wire_view_settings *settings, struct err *err);
void wire_view_free(struct wire_view **view);

struct client_tap *wire_view_tap(struct wire_view *view); /* by the clock */
void wire_view_feed(struct wire_view *view, bool is_sent, struct slice bytes, uint64_t at_ns);

/* The one call that passed is over, just now: times count from when its connection was there. Without
 * it they count from the first bytes. */
void wire_view_end(struct wire_view *view, struct client_times times);

/* All of it. The JSON of the two messages, for gRPC; empty: there is none. */
void wire_view_write(struct wire_view *view, struct text *out, struct slice request_json,
                     struct slice answer_json);
void wire_view_say(struct wire_view *view, struct slice request_json, struct slice answer_json);

#endif
