/* otlp.c - SPDX-License-Identifier: Apache-2.0
 *
 * Spans are written one behind the other. What stands before them (resource, scope, and the lengths that
 * are known only at the end) is put in front of them when the batch is sealed, for which room is kept. A
 * span's own length is written behind the fact too: two bytes are left for it, and its content is moved by
 * one where that was too many.
 */
#include "codec/otlp.h"

#include "base/mem.h"
#include "base/pb.h"
#include "base/utf8.h"

enum { SERVER = 2, INTERNAL = 1 };              /* SpanKind */
enum { STATUS_ERROR = 2 };                      /* Status.StatusCode */
enum { HAS_REMOTE = 0x100, IS_REMOTE = 0x200 }; /* SpanFlags */
enum { SPAN_MAX = 16383 };                      /* two bytes of length */
enum { STAGE_QUEUE_AT = 1, STAGE_RUN_AT = 3 };  /* enum stage of engine/stats.h */

/* -- strings ----------------------------------------------------------------------------------- */

static bool is_ascii(struct slice text)
{
    uint8_t all = 0;

    for (size_t i = 0; i < text.size; i++)
        all |= text.data[i];
    return all < 0x80;
}

/* In place: what is no UTF-8 becomes ?. */
COLD static void make_utf8(uint8_t *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        size_t step = utf8_step(slice_make(text + at, size - at));
        if (step == 0)
            text[at] = '?';
        at += MAX(step, (size_t)1);
    }
}

static uint8_t *put_string(uint8_t *at, uint32_t number, struct slice text)
{
    uint8_t *end = pb_put_bytes(at, number, text);

    if (UNLIKELY(!is_ascii(text)))
        make_utf8(end - text.size, text.size);
    return end;
}

/* -- attributes: KeyValue { 1: key, 2: AnyValue } ------------------------------------------------ */

static uint8_t *put_key(uint8_t *at, uint32_t number, struct slice key, size_t any_size)
{
    at = pb_put_head(at, number, pb_size_len(1, key.size) + pb_size_len(2, any_size));
    at = pb_put_bytes(at, 1, key);
    return pb_put_head(at, 2, any_size);
}

static uint8_t *put_text(uint8_t *at, uint32_t number, struct slice key, struct slice value)
{
    at = put_key(at, number, key, pb_size_len(1, value.size));
    return put_string(at, 1, value);
}

static uint8_t *put_int(uint8_t *at, uint32_t number, struct slice key, uint64_t value)
{
    at = put_key(at, number, key, 1 + pb_size_varint(value));
    return pb_put_uint(at, 3, value);
}

enum { SPAN_ATTRIBUTES = 9 };
#define TEXT(at, key, value) put_text(at, SPAN_ATTRIBUTES, (struct slice)SLICE_LIT(key), value)
#define INT(at, key, value) put_int(at, SPAN_ATTRIBUTES, (struct slice)SLICE_LIT(key), value)

/* -- the batch --------------------------------------------------------------------------------- */

enum err_code otlp_batch_init(struct otlp_batch *batch, size_t bytes,
                              const struct otlp_attribute *resource, uint32_t count,
                              struct slice version, const char *const *stage_names,
                              uint64_t chance, struct err *err)
{
    static const struct slice scope_name = SLICE_LIT("penstock");
    size_t size = 0;
    uint8_t *at;

    *batch = (struct otlp_batch){ .at = OTLP_RESOURCE_MAX,
                                  .room = OTLP_RESOURCE_MAX + MAX(bytes, (size_t)OTLP_RECORD_MAX),
                                  .chance = chance,
                                  .stage_names = stage_names };
    for (uint32_t i = 0; i < count; i++)
        size += 24 + resource[i].key.size + resource[i].value.size;
    if (size + 16 > sizeof batch->resource || version.size > 100)
        return err_set(err, E_RANGE,
                       "the resource's attributes (service name and the like) are larger than %zu "
                       "bytes",
                       sizeof batch->resource - 16);
    uint8_t attributes[sizeof batch->resource];
    at = attributes;
    for (uint32_t i = 0; i < count; i++)
        at = put_text(at, 1, resource[i].key, resource[i].value);
    at = pb_put_bytes(batch->resource, 1, slice_make(attributes, (size_t)(at - attributes)));
    batch->resource_size = (size_t)(at - batch->resource);
    at = pb_put_bytes(attributes, 1, scope_name);
    at = put_string(at, 2, version);
    at = pb_put_bytes(batch->scope, 1, slice_make(attributes, (size_t)(at - attributes)));
    batch->scope_size = (size_t)(at - batch->scope);
    batch->memory = mem_alloc(batch->room);
    return batch->memory != NULL ? OK : err_set(err, E_EXHAUSTED, "no memory for spans");
}

void otlp_batch_deinit(struct otlp_batch *batch)
{
    mem_free(TAKE(batch->memory));
}

void otlp_batch_reset(struct otlp_batch *batch)
{
    batch->at = OTLP_RESOURCE_MAX;
    batch->spans = batch->records = 0;
}

struct slice otlp_batch_seal(struct otlp_batch *batch)
{
    /* ExportTraceServiceRequest { 1: ResourceSpans { 1: resource, 2: ScopeSpans { 1: scope, 2: span ... } } } */
    size_t spans = batch->at - OTLP_RESOURCE_MAX, scope = batch->scope_size + spans;
    size_t inner = batch->resource_size + pb_size_len(2, scope);
    size_t size = pb_size_len(1, inner);
    uint8_t *begin = batch->memory + batch->at - size, *at = begin;

    require(size - spans <= OTLP_RESOURCE_MAX);
    at = pb_put_head(at, 1, inner);
    memcpy(at, batch->resource, batch->resource_size);
    at = pb_put_head(at + batch->resource_size, 2, scope);
    memcpy(at, batch->scope, batch->scope_size);
    require(at + batch->scope_size == batch->memory + OTLP_RESOURCE_MAX);
    return slice_make(begin, size);
}

/* -- spans ------------------------------------------------------------------------------------- */

static uint8_t *span_begin(uint8_t *at)
{
    return at + 3;
}

/* From span_begin's place to `end`: tag 2 of ScopeSpans, and the length. */
static uint8_t *span_end(struct otlp_batch *batch, uint8_t *begin, uint8_t *end)
{
    size_t size = (size_t)(end - begin);
    uint8_t *at = begin - 3;

    require(size <= SPAN_MAX);
    if (size < 128) {
        memmove(begin - 1, begin, size);
        end--;
    }
    (void)pb_put_head(at, 2, size);
    batch->spans++;
    return end;
}

static void new_id(struct otlp_batch *batch, uint8_t id[SPAN_ID_BYTES])
{
    uint64_t z;

    do {
        z = batch->chance += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        z ^= z >> 31;
    } while (UNLIKELY(z == 0));
    memcpy(id, &z, sizeof z);
}

static uint8_t *put_ids(uint8_t *at, const struct record *r, const uint8_t *id, const uint8_t *parent)
{
    at = pb_put_bytes(at, 1, slice_make(r->trace_id, TRACE_ID_BYTES));
    at = pb_put_bytes(at, 2, slice_make(id, SPAN_ID_BYTES));
    return parent == NULL ? at : pb_put_bytes(at, 4, slice_make(parent, SPAN_ID_BYTES));
}

static uint8_t *put_times(const struct otlp_batch *batch, uint8_t *at, uint64_t begun_ns,
                          uint64_t ended_ns)
{
    at = pb_put_i64(at, 7, begun_ns + batch->wall_offset_ns);
    return pb_put_i64(at, 8, MAX(begun_ns, ended_ns) + batch->wall_offset_ns);
}

/* One of ours below another: name, time, nothing else. */
static uint8_t *put_child(struct otlp_batch *batch, uint8_t *at, const struct record *r,
                          const uint8_t *parent, uint8_t id[SPAN_ID_BYTES], const char *name,
                          uint64_t begun_ns, uint64_t ended_ns)
{
    uint8_t *begin = at = span_begin(at);

    new_id(batch, id);
    at = put_ids(at, r, id, parent);
    at = pb_put_bytes(at, 5, slice_of(name));
    at = pb_put_uint(at, 6, INTERNAL);
    at = put_times(batch, at, begun_ns, ended_ns);
    at = pb_put_i32(at, 16, HAS_REMOTE | (uint32_t)r->is_sampled);
    return span_end(batch, begin, at);
}

/* Stages follow each other from where decoding began. */
static uint8_t *put_stages(struct otlp_batch *batch, uint8_t *at, const struct record *r,
                           const struct record_inference *one, const uint8_t *parent, bool has_all)
{
    uint64_t now = one->begun_ns;
    uint8_t id[SPAN_ID_BYTES];

    for (size_t i = 0; i < RECORD_STAGES; i++) {
        uint64_t end = now + one->stage_ns[i];
        if (one->stage_ns[i] != 0 && (has_all || i == STAGE_QUEUE_AT || i == STAGE_RUN_AT))
            at = put_child(batch, at, r, parent, id, batch->stage_names[i], now, end);
        now = end;
    }
    return at;
}

static uint64_t end_of(const struct record_inference *one)
{
    uint64_t end = one->begun_ns;

    for (size_t i = 0; i < RECORD_STAGES; i++)
        end += one->stage_ns[i];
    return end;
}

static uint8_t *put_inferences(struct otlp_batch *batch, uint8_t *at, const struct record_view *v)
{
    const struct record *r = v->record;
    uint8_t id[SPAN_ID_BYTES];

    if (r->inferences == 1 && r->requests <= 1)
        return put_stages(batch, at, r, &v->inferences[0], r->span_id, true);
    for (uint32_t i = 0; i < r->inferences; i++) {
        const struct record_inference *one = &v->inferences[i];
        at = put_child(batch, at, r, r->span_id, id, "inference", one->begun_ns, end_of(one));
        at = put_stages(batch, at, r, one, id, false);
    }
    return at;
}

/* -- the server's span -------------------------------------------------------------------------- */

static bool is_known_method(struct slice method)
{
    static const char *const known[] = { "POST",  "GET",     "HEAD",    "PUT",
                                         "PATCH", "OPTIONS", "DELETE", "CONNECT" };

    for (size_t i = 0; i < COUNT(known); i++)
        if (slice_is(method, known[i]))
            return true;
    return false;
}

/* HTTP: "POST /models/{model}:predict"; RPC: "package.Service/Method". Never what a peer made up. */
static uint8_t *put_name(uint8_t *at, const struct record_view *v, struct slice method, bool is_rpc)
{
    struct slice route = v->texts[RECORD_ROUTE];
    uint8_t *text;

    if (is_rpc && route.size > 1)
        return put_string(at, 5, slice_skip(route, 1));
    if (is_rpc)
        return put_string(at, 5, slice_of("grpc"));
    if (route.size == 0)
        return put_string(at, 5, method);
    text = pb_put_head(at, 5, method.size + 1 + route.size);
    memcpy(text, method.data, method.size);
    text[method.size] = ' ';
    memcpy(text + method.size + 1, route.data, route.size);
    return text + method.size + 1 + route.size;
}

static uint8_t *put_rpc(uint8_t *at, const struct record_view *v)
{
    struct slice path = v->texts[RECORD_ROUTE];
    size_t slash;

    at = TEXT(at, "rpc.system", slice_of("grpc"));
    at = INT(at, "rpc.grpc.status_code", v->record->code);
    if (path.size < 2)
        return at;
    path = slice_skip(path, 1);
    slash = slice_find(path, '/');
    at = TEXT(at, "rpc.service", slice_first(path, slash));
    return TEXT(at, "rpc.method", slice_skip(path, MIN(slash + 1, path.size)));
}

static uint8_t *put_client(uint8_t *at, struct slice peer)
{
    size_t colon = peer.size;
    uint64_t port;

    if (peer.size == 0 || slice_starts(peer, "unix:"))
        return at;
    while (colon > 0 && peer.data[colon - 1] != ':')
        colon--;
    if (colon < 2 || !slice_to_u64(slice_skip(peer, colon), &port))
        return TEXT(at, "client.address", peer);
    struct slice host = slice_first(peer, colon - 1);
    if (host.size > 2 && host.data[0] == '[')
        host = slice_make(host.data + 1, host.size - 2);
    at = TEXT(at, "client.address", host);
    return INT(at, "client.port", port);
}

/* The conventions' word for the version: "1.1", "2". */
static struct slice version_of(struct slice protocol)
{
    size_t slash = slice_find(protocol, '/');

    return slice_skip(protocol, MIN(slash + 1, protocol.size));
}

static uint8_t *put_text_if(uint8_t *at, struct slice key, struct slice value)
{
    return value.size == 0 ? at : put_text(at, SPAN_ATTRIBUTES, key, value);
}
#define TEXT_IF(at, key, value) put_text_if(at, (struct slice)SLICE_LIT(key), value)

static uint8_t *put_attributes(uint8_t *at, const struct record_view *v, struct slice method,
                               bool is_rpc)
{
    const struct record *r = v->record;
    const struct slice *texts = v->texts;

    if (is_rpc) {
        at = put_rpc(at, v);
    } else {
        at = TEXT(at, "http.request.method", method);
        if (UNLIKELY(!slice_eq(method, texts[RECORD_METHOD])))
            at = TEXT_IF(at, "http.request.method_original", texts[RECORD_METHOD]);
        at = TEXT_IF(at, "http.route", texts[RECORD_ROUTE]);
    }
    if (LIKELY(r->status != 499)) /* nothing was answered, so nothing is said */
        at = INT(at, "http.response.status_code", r->status);
    at = TEXT_IF(at, "url.path", texts[RECORD_PATH]);
    at = TEXT(at, "url.scheme", slice_of(texts[RECORD_TLS].size != 0 ? "https" : "http"));
    at = TEXT_IF(at, "network.protocol.version", version_of(texts[RECORD_PROTOCOL]));
    at = TEXT_IF(at, "tls.protocol.version", texts[RECORD_TLS]);
    at = put_client(at, texts[RECORD_PEER]);
    at = TEXT_IF(at, "user_agent.original", texts[RECORD_AGENT]);
    at = INT(at, "http.request.body.size", r->body_in);
    at = INT(at, "http.response.body.size", r->body_out);
    at = TEXT_IF(at, "penstock.model", texts[RECORD_MODEL]);
    at = TEXT_IF(at, "penstock.model.version", texts[RECORD_VERSION]);
    at = TEXT_IF(at, "penstock.caller", texts[RECORD_CALLER]);
    at = TEXT_IF(at, "penstock.tenant", texts[RECORD_TENANT]);
    at = TEXT_IF(at, "penstock.request_id", texts[RECORD_REQUEST_ID]);
    if (r->requests > 1 || r->responses > 1) {
        at = INT(at, "penstock.requests", r->requests);
        at = INT(at, "penstock.responses", r->responses);
    }
    if (r->requests > r->inferences)
        at = INT(at, "penstock.inferences.dropped", r->requests - r->inferences);
    if (r->end != RECORD_ANSWERED)
        at = TEXT(at, "penstock.end", slice_of(r->end == RECORD_LEFT ? "left" : "aborted"));
    return at;
}

/* Whose fault was it? A server's span is an error where it was the server's: 5xx; of RPC as the
 * conventions list codes. NULL: none. */
static const char *fault_of(const struct record *r)
{
    if (r->is_call)
        switch (r->code) {
        case E_UNKNOWN:
        case E_DEADLINE:
        case E_UNIMPLEMENTED:
        case E_INTERNAL:
        case E_UNAVAILABLE:
        case E_DATA_LOSS: return err_name((enum err_code)r->code);
        default: return NULL;
        }
    switch (r->status) {
    case 500: return "500";
    case 501: return "501";
    case 502: return "502";
    case 503: return "503";
    case 504: return "504";
    default: return r->status >= 500 ? "5xx" : NULL;
    }
}

static uint8_t *put_server(struct otlp_batch *batch, uint8_t *at, const struct record_view *v)
{
    const struct record *r = v->record;
    bool has_parent = !span_is_zero(r->parent_id);
    bool is_rpc = r->is_call && !slice_starts(v->texts[RECORD_ROUTE], "/models/");
    struct slice method = v->texts[RECORD_METHOD];
    uint8_t *begin = at = span_begin(at);
    const char *fault = fault_of(r);

    if (UNLIKELY(!is_known_method(method)))
        method = slice_of("_OTHER");
    at = put_ids(at, r, r->span_id, has_parent ? r->parent_id : NULL);
    if (v->texts[RECORD_TRACE_STATE].size != 0)
        at = put_string(at, 3, v->texts[RECORD_TRACE_STATE]);
    at = put_name(at, v, method, is_rpc);
    at = pb_put_uint(at, 6, SERVER);
    at = put_times(batch, at, r->begun_ns, r->ended_ns);
    at = put_attributes(at, v, method, is_rpc);
    if (UNLIKELY(fault != NULL)) {
        at = TEXT(at, "error.type", slice_of(fault));
        at = pb_put_head(at, 15, 2);
        at = pb_put_uint(at, 3, STATUS_ERROR);
    }
    at = pb_put_i32(at, 16, (uint32_t)r->is_sampled | HAS_REMOTE | (has_parent ? IS_REMOTE : 0));
    return span_end(batch, begin, at);
}

bool otlp_batch_add(struct otlp_batch *batch, const struct record *record)
{
    struct record_view view;
    uint8_t *at = batch->memory + batch->at;

    if (batch->room - batch->at < OTLP_RECORD_MAX)
        return false;
    record_read(&view, record);
    at = put_server(batch, at, &view);
    at = put_inferences(batch, at, &view);
    batch->at = (size_t)(at - batch->memory);
    batch->records++;
    require(batch->at <= batch->room);
    return true;
}

/* -- the answer ---------------------------------------------------------------------------------- */

/* ExportTraceServiceResponse { 1: ExportTracePartialSuccess { 1: rejected_spans, 2: error_message } } */
bool otlp_answer_read(struct slice body, uint64_t *ret_rejected, struct slice *ret_why)
{
    struct pb_reader outer, inner;
    struct pb_field field, part;

    *ret_rejected = 0;
    *ret_why = slice_make(NULL, 0);
    pb_begin(&outer, body);
    while (pb_next(&outer, &field)) {
        if (field.number != 1 || field.wire != PB_LEN)
            continue;
        pb_begin(&inner, field.bytes);
        while (pb_next(&inner, &part)) {
            if (part.number == 1 && part.wire == PB_VARINT)
                *ret_rejected = part.value;
            else if (part.number == 2 && part.wire == PB_LEN)
                *ret_why = part.bytes;
        }
        if (pb_failed(&inner))
            return false;
    }
    return !pb_failed(&outer);
}
