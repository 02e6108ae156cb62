/* observe_record.c - SPDX-License-Identifier: Apache-2.0
 *
 * What may not be written down is left out here, before it is anywhere but in the request: of the query
 * all but what the operator lists, and of streams and uploads the id in the path, which is what their
 * reader proves himself with.
 */
#include "serve/observe_record.h"

#include "access/access.h"
#include "engine/stats.h"
#include "telemetry/record.h"

enum { PLAIN_BYTES_MAX = RECORD_BYTES_MAX - RECORD_INFERENCES_MAX * (int)sizeof(struct record_inference) };

_Static_assert((int)STAGES == (int)RECORD_STAGES, "a record has room for every stage");
_Static_assert((int)OBSERVE_LEFT == (int)RECORD_LEFT && (int)OBSERVE_ABORTED == (int)RECORD_ABORTED,
               "ends are alike");
_Static_assert((int)NOTE_REFUSED == (int)RECORD_REFUSED && (int)NOTE_ADMIN == (int)RECORD_ADMIN,
               "reasons are alike");

static struct slice text_of(const char *text)
{
    return text == NULL ? slice_make(NULL, 0) : slice_of(text);
}

COLD static bool is_listed(const struct observe_query *query, struct slice name)
{
    for (uint32_t i = 0; i < query->count; i++)
        if (slice_is(name, query->names[i]))
            return true;
    return false;
}

/* The pairs that are listed, joined again; as many as there is room for. */
COLD static struct slice shown_of(const struct observe_query *query, struct slice text, uint8_t *out,
                                  size_t room)
{
    size_t size = 0;

    while (text.size > 0) {
        size_t end = slice_find(text, '&');
        struct slice pair = slice_first(text, end);
        text = slice_skip(text, MIN(end + 1, text.size));
        if (pair.size == 0 || !is_listed(query, slice_first(pair, slice_find(pair, '='))))
            continue;
        if (size + pair.size + 1 > room)
            break;
        if (size != 0)
            out[size++] = '&';
        memcpy(out + size, pair.data, pair.size);
        size += pair.size;
    }
    return slice_make(out, size);
}

/* Does the path begin so, once it is decoded? */
static bool begins(struct slice path, const char *words)
{
    size_t at = 0;

    for (; *words != '\0'; words++) {
        if (at == path.size)
            return false;
        uint8_t c = path.data[at++];
        if (c == '%' && path.size - at >= 2) {
            c = (uint8_t)(slice_hex(path.data[at]) * 16 + slice_hex(path.data[at + 1]));
            at += 2;
        }
        if (c != (uint8_t)*words)
            return false;
    }
    return true;
}

/* Some path without its secret, also where no route was found for it (a method that is not taken, an
 * origin that is refused). What does not begin with a slash has an authority, and that may have a key. */
static struct slice path_of(const struct exchange *x)
{
    struct slice route = x->note.route;

    if (UNLIKELY(route.size > 4 && slice_ends(route, "/{id}")))
        return route;
    if (LIKELY(route.size != 0))
        return x->path;
    if (begins(x->path, "/streams/"))
        return slice_of("/streams/{id}");
    if (begins(x->path, "/uploads/"))
        return slice_of("/uploads/{id}");
    bool is_path = x->path.size == 0 || x->path.data[0] == '/' || slice_is(x->path, "*");
    return is_path ? x->path : slice_of("");
}

static void put_texts(struct record *r, const struct observed *seen,
                      const struct observe_query *query)
{
    const struct exchange *x = seen->x;
    uint8_t shown[256];

    record_put(r, RECORD_PEER, x->peer);
    if (LIKELY(x->caller != NULL)) {
        record_put(r, RECORD_CALLER, slice_of(caller_known_as(x->caller)));
        record_put(r, RECORD_TENANT, slice_of(tenant_name(caller_tenant(x->caller))));
    }
    record_put(r, RECORD_METHOD, x->method_text);
    record_put(r, RECORD_PATH, path_of(x));
    if (UNLIKELY(query != NULL && query->count != 0 && x->query.size != 0))
        record_put(r, RECORD_QUERY, shown_of(query, x->query, shown, sizeof shown));
    record_put(r, RECORD_ROUTE, x->note.route);
    record_put(r, RECORD_PROTOCOL, text_of(x->protocol));
    record_put(r, RECORD_TLS, text_of(x->tls));
    record_put(r, RECORD_MODEL, x->note.model);
    record_put(r, RECORD_VERSION, x->note.version);
    record_put(r, RECORD_REQUEST_ID, x->request_id);
    record_put(r, RECORD_AGENT, seen->agent);
    record_put(r, RECORD_WHY, x->note.why);
    record_put(r, RECORD_TRACE_STATE, x->trace.state);
}

static void put_inferences(struct record *r, const struct exchange *x)
{
    for (const struct note_inference *one = x->note.kept; one != NULL; one = one->next) {
        struct record_inference copy = { .begun_ns = one->begun_ns, .code = one->code };
        memcpy(copy.stage_ns, one->stage_ns, sizeof copy.stage_ns);
        record_add_inference(r, &copy);
    }
}

HOT void observe_record(struct rings *rings, const struct observed *seen,
                        const struct observe_query *query, bool has_inferences)
{
    const struct exchange *x = seen->x;
    struct ring *ring = &rings->rings[seen->loop];
    struct record *r = ring_begin(ring, has_inferences ? RECORD_BYTES_MAX : PLAIN_BYTES_MAX);

    if (UNLIKELY(r == NULL))
        return;
    record_begin(r);
    r->begun_ns = x->begun_ns;
    r->ended_ns = seen->ended_ns;
    r->body_in = seen->body_in;
    r->body_out = seen->body_out;
    memcpy(r->stage_ns, x->note.stage_ns, sizeof r->stage_ns);
    r->requests = x->note.requests;
    r->responses = x->note.responses;
    r->status = seen->status;
    r->is_call = seen->is_call;
    r->code = seen->is_call ? x->note.code : 0;
    r->end = (uint8_t)seen->end;
    r->audit = x->note.audit;
    r->has_trace = trace_is_set(&x->trace);
    r->has_span = !span_is_zero(x->trace.span_id);
    r->is_sampled = x->trace.is_sampled;
    memcpy(r->trace_id, x->trace.trace_id, sizeof r->trace_id);
    memcpy(r->span_id, x->trace.span_id, sizeof r->span_id);
    memcpy(r->parent_id, x->trace.parent_id, sizeof r->parent_id);
    put_texts(r, seen, query);
    if (has_inferences)
        put_inferences(r, x);
    ring_commit(rings, ring, record_size(r));
}
