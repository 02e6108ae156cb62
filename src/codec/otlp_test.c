/* otlp_test.c - spans from records, read back field by field; test/client/traces.py reads them with the
 * collector's own definitions. SPDX-License-Identifier: Apache-2.0 */
#include "codec/otlp.h"

#include <stdalign.h>
#include <stdio.h>

#include "base/err.h"
#include "base/pb.h"
#include "base/utf8.h"
#include "test/harness.h"

static const char *const names[RECORD_STAGES] = { "decode", "queue", "input",
                                                  "run",    "output", "encode" };
static const struct otlp_attribute resource[] = { { SLICE_LIT("service.name"),
                                                    SLICE_LIT("penstock") } };
static alignas(8) uint8_t memory[RECORD_BYTES_MAX];

static struct record *begin(const char *method, const char *route)
{
    struct record *r = (struct record *)(void *)memory;

    record_begin(r);
    r->begun_ns = 1000;
    r->ended_ns = 9000;
    r->status = 200;
    r->has_trace = r->has_span = r->is_sampled = true;
    memset(r->trace_id, 1, sizeof r->trace_id);
    memset(r->span_id, 2, sizeof r->span_id);
    record_put(r, RECORD_PEER, slice_of("[::1]:99"));
    record_put(r, RECORD_METHOD, slice_of(method));
    record_put(r, RECORD_PATH, slice_of("/models/iris:predict"));
    record_put(r, RECORD_ROUTE, slice_of(route));
    record_put(r, RECORD_PROTOCOL, slice_of("HTTP/1.1"));
    return r;
}

static void batch_up(struct otlp_batch *batch, size_t bytes)
{
    require(otlp_batch_init(batch, bytes, resource, COUNT(resource), slice_of("1.2"), names, 7,
                            NULL) == OK);
    batch->wall_offset_ns = 5000000;
}

/* The first field of that number within a message; data NULL: there is none. */
static struct slice within(struct slice message, uint32_t number)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, message);
    while (pb_next(&r, &field))
        if (field.number == number && field.wire == PB_LEN)
            return field.bytes;
    check(!pb_failed(&r), "%s", r.fault);
    return slice_make(NULL, 0);
}

static uint64_t number_in(struct slice message, uint32_t number)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, message);
    while (pb_next(&r, &field))
        if (field.number == number && field.wire != PB_LEN)
            return field.value;
    return UINT64_MAX;
}

/* The span of that index, of all. */
static struct slice span_at(struct slice message, uint32_t index, uint32_t *ret_count)
{
    struct slice scope = within(within(message, 1), 2), found = slice_make(NULL, 0);
    struct pb_reader r;
    struct pb_field field;
    uint32_t count = 0;

    pb_begin(&r, scope);
    while (pb_next(&r, &field))
        if (field.number == 2 && count++ == index)
            found = field.bytes;
    check(!pb_failed(&r), "%s at %zu", r.fault, pb_at(&r));
    *ret_count = count;
    return found;
}

/* An attribute's AnyValue. */
static struct slice attribute(struct slice span, const char *key)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, span);
    while (pb_next(&r, &field))
        if (field.number == 9 && slice_is(within(field.bytes, 1), key))
            return within(field.bytes, 2);
    return slice_make(NULL, 0);
}

static bool has_text(struct slice span, const char *key, const char *value)
{
    return slice_is(within(attribute(span, key), 1), value);
}

static bool has_int(struct slice span, const char *key, uint64_t value)
{
    return number_in(attribute(span, key), 3) == value;
}

TEST(a_request_is_a_server_span_with_its_stages)
{
    struct otlp_batch batch;
    struct record *r = begin("POST", "/models/{model}:predict");
    struct record_inference one = { .begun_ns = 2000, .stage_ns = { 100, 0, 0, 3000, 50, 0 } };
    uint32_t count;

    record_add_inference(r, &one);
    r->requests = r->responses = 1;
    memset(r->parent_id, 3, sizeof r->parent_id);
    batch_up(&batch, 0);
    check(otlp_batch_add(&batch, r) && batch.records == 1 && batch.spans == 4, "%u", batch.spans);
    struct slice message = otlp_batch_seal(&batch);
    check(slice_is(within(within(within(within(message, 1), 1), 1), 1), "service.name"),
          "the resource");
    check(slice_is(within(within(within(within(message, 1), 2), 1), 2), "1.2"), "the scope");
    struct slice span = span_at(message, 0, &count);
    check(count == 4, "%u", count);
    check(slice_eq(within(span, 1), slice_make(r->trace_id, 16)) &&
              slice_eq(within(span, 2), slice_make(r->span_id, 8)) &&
              slice_eq(within(span, 4), slice_make(r->parent_id, 8)),
          "ids");
    check(slice_is(within(span, 5), "POST /models/{model}:predict"), "%.*s",
          SLICE_ARG(within(span, 5)));
    check(number_in(span, 6) == 2 && number_in(span, 7) == 5001000 && number_in(span, 8) == 5009000,
          "kind and times");
    check(number_in(span, 16) == 0x301, "flags: sampled, its parent is remote");
    check(within(span, 15).data == NULL, "no status");
    check(has_text(span, "http.request.method", "POST") &&
              has_text(span, "http.route", "/models/{model}:predict") &&
              has_int(span, "http.response.status_code", 200) &&
              has_text(span, "network.protocol.version", "1.1") &&
              has_text(span, "client.address", "::1") && has_int(span, "client.port", 99) &&
              has_text(span, "url.scheme", "http"),
          "attributes");
    static const struct {
        const char *name;
        uint64_t from, to;
    } stages[] = { { "decode", 2000, 2100 }, { "run", 2100, 5100 }, { "output", 5100, 5150 } };
    for (uint32_t i = 0; i < 3; i++) {
        struct slice child = span_at(message, i + 1, &count);
        check(slice_is(within(child, 5), stages[i].name) && number_in(child, 6) == 1 &&
                  number_in(child, 7) == 5000000 + stages[i].from &&
                  number_in(child, 8) == 5000000 + stages[i].to,
              "%s", stages[i].name);
        check(slice_eq(within(child, 4), slice_make(r->span_id, 8)) &&
                  !slice_eq(within(child, 2), slice_make(r->span_id, 8)),
              "its parent");
    }
    otlp_batch_deinit(&batch);
}

TEST(a_call_is_named_by_its_method_and_judged_by_its_code)
{
    static const struct {
        enum err_code code;
        bool is_fault;
    } codes[] = { { OK, false },           { E_INVALID, false },  { E_UNKNOWN, true },
                  { E_DEADLINE, true },    { E_NOT_FOUND, false }, { E_UNIMPLEMENTED, true },
                  { E_INTERNAL, true },    { E_UNAVAILABLE, true }, { E_DATA_LOSS, true },
                  { E_EXHAUSTED, false },  { E_CANCELLED, false } };
    uint32_t count;

    for (size_t i = 0; i < COUNT(codes); i++) {
        struct otlp_batch batch;
        struct record *r = begin("POST", "/inference.GRPCInferenceService/ModelInfer");
        r->is_call = true;
        r->code = (uint8_t)codes[i].code;
        batch_up(&batch, 0);
        check(otlp_batch_add(&batch, r), "room");
        struct slice span = span_at(otlp_batch_seal(&batch), 0, &count);
        check(slice_is(within(span, 5), "inference.GRPCInferenceService/ModelInfer"), "its name");
        check(has_text(span, "rpc.system", "grpc") &&
                  has_text(span, "rpc.service", "inference.GRPCInferenceService") &&
                  has_text(span, "rpc.method", "ModelInfer") &&
                  has_int(span, "rpc.grpc.status_code", codes[i].code),
              "attributes");
        check((number_in(within(span, 15), 3) == 2) == codes[i].is_fault, "%s",
              err_name(codes[i].code));
        check(number_in(span, 16) == 0x101 && within(span, 4).data == NULL, "the first of a trace");
        otlp_batch_deinit(&batch);
    }
}

TEST(odd_requests_have_names_of_a_bounded_number)
{
    static const struct {
        const char *method, *route, *name;
        uint16_t status;
        bool is_fault;
    } rows[] = {
        { "GET", "", "GET", 404, false },
        { "BREW", "", "_OTHER", 405, false },
        { "", "", "_OTHER", 400, false },
        { "GET", "/metrics", "GET /metrics", 503, true },
        { "GET", "/metrics", "GET /metrics", 507, true },
        { "GET", "/metrics", "GET /metrics", 499, false },
    };
    uint32_t count;

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct otlp_batch batch;
        struct record *r = begin(rows[i].method, rows[i].route);
        r->status = rows[i].status;
        batch_up(&batch, 0);
        check(otlp_batch_add(&batch, r), "room");
        struct slice span = span_at(otlp_batch_seal(&batch), 0, &count);
        check(slice_is(within(span, 5), rows[i].name), "%.*s", SLICE_ARG(within(span, 5)));
        check((within(span, 15).data != NULL) == rows[i].is_fault, "%u", rows[i].status);
        check((attribute(span, "http.response.status_code").data == NULL) ==
                  (rows[i].status == 499),
              "what was not answered has no status");
        otlp_batch_deinit(&batch);
    }
}

TEST(inferences_of_a_stream_are_spans_of_their_own)
{
    struct otlp_batch batch;
    struct record *r = begin("POST", "/inference.GRPCInferenceService/ModelStreamInfer");
    uint32_t count;

    r->is_call = true;
    r->requests = 100;
    r->responses = 300;
    for (unsigned i = 0; i < RECORD_INFERENCES_MAX; i++) {
        struct record_inference one = { .begun_ns = i, .stage_ns = { 1, 2, 3, 4, 5, 6 } };
        record_add_inference(r, &one);
    }
    batch_up(&batch, 0);
    check(otlp_batch_add(&batch, r), "room");
    struct slice message = otlp_batch_seal(&batch);
    struct slice server = span_at(message, 0, &count);
    check(count == 1 + 3 * RECORD_INFERENCES_MAX, "%u", count);
    check(has_int(server, "penstock.requests", 100) && has_int(server, "penstock.responses", 300) &&
              has_int(server, "penstock.inferences.dropped", 100 - RECORD_INFERENCES_MAX),
          "what was left out is said");
    struct slice first = span_at(message, 1, &count), queue = span_at(message, 2, &count);
    check(slice_is(within(first, 5), "inference") && slice_is(within(queue, 5), "queue") &&
              slice_eq(within(queue, 4), within(first, 2)),
          "its wait lies below it");
    otlp_batch_deinit(&batch);
}

/* Any bytes in every text, the most inferences: it fits, and what is text is UTF-8. */
TEST(random_records_fit_and_are_utf8)
{
    struct otlp_batch batch;

    batch_up(&batch, 0);
    for (unsigned round = 0; round < 2000; round++) {
        struct record *r = begin("POST", "/x");
        uint8_t bytes[600];
        uint32_t count, key = 0;
        record_begin(r);
        r->is_sampled = true;
        for (unsigned which = 0; which < RECORD_TEXTS; which++) {
            size_t size = (size_t)test_random_below(round % 2 == 0 ? 4 : sizeof bytes);
            for (size_t i = 0; i < size; i++)
                bytes[i] = (uint8_t)test_random();
            record_put(r, (enum record_text)which, slice_make(bytes, size));
        }
        for (unsigned i = 0; i < test_random_below(RECORD_INFERENCES_MAX + 1); i++) {
            struct record_inference one = { .begun_ns = test_random() };
            for (unsigned j = 0; j < RECORD_STAGES; j++)
                one.stage_ns[j] = test_random() >> 20;
            record_add_inference(r, &one);
        }
        r->requests = (uint32_t)test_random();
        r->body_in = r->body_out = test_random();
        r->is_call = round % 3 == 0;
        r->status = (uint16_t)test_random();
        r->code = (uint8_t)test_random_below(17);
        r->end = (uint8_t)test_random_below(3);
        otlp_batch_reset(&batch);
        check_or_stop(otlp_batch_add(&batch, r), "round %u", round);
        struct slice message = otlp_batch_seal(&batch), span = span_at(message, 0, &count);
        check_or_stop(count == batch.spans, "%u spans, not %u", count, batch.spans);
        struct pb_reader reader;
        struct pb_field field;
        pb_begin(&reader, span);
        while (pb_next(&reader, &field)) {
            if (field.number != 9)
                continue;
            struct slice text = within(within(field.bytes, 2), 1);
            check_or_stop(utf8_valid_prefix(text) == text.size, "attribute %u", key);
            key++;
        }
        check(!pb_failed(&reader) && key > 3, "%u attributes", key);
    }
    otlp_batch_deinit(&batch);
}

TEST(a_batch_is_full_and_empty_again)
{
    struct otlp_batch batch;
    struct record *r = begin("POST", "/x");
    uint32_t count;

    batch_up(&batch, 64 * 1024);
    for (unsigned round = 0; round < 3; round++) {
        unsigned added = 0;
        while (otlp_batch_add(&batch, r))
            added++;
        check(added > 30, "%u", added);
        (void)span_at(otlp_batch_seal(&batch), 0, &count);
        check(count == added && batch.records == added, "%u of %u", count, added);
        otlp_batch_reset(&batch);
        check(batch.records == 0, "empty");
    }
    otlp_batch_deinit(&batch);
    static char large[3000];
    memset(large, 'x', sizeof large);
    struct otlp_attribute too_large = { SLICE_LIT("k"), { (const uint8_t *)large, sizeof large } };
    struct err err = { 0 };
    check(otlp_batch_init(&batch, 0, &too_large, 1, slice_of("1"), names, 1, &err) == E_RANGE,
          "%s", err.text);
    for_each_fault(nth) {
        enum err_code code =
            otlp_batch_init(&batch, 0, resource, 1, slice_of("1"), names, 1, &err);
        if (code == OK)
            otlp_batch_deinit(&batch);
        if (!fault_fired())
            break;
        check(code == E_EXHAUSTED, "fault %u", nth);
    }
}

TEST(what_a_collector_answers)
{
    static const struct {
        const char *bytes;
        size_t size;
        bool is_read;
        uint64_t rejected;
        const char *why;
    } rows[] = {
#define SENT(text) text, sizeof(text) - 1
        { SENT(""), true, 0, "" },
        { SENT("\x0a\x00"), true, 0, "" },
        { SENT("\x0a\x07\x08\x05\x12\x03" "why"), true, 5, "why" },
        { SENT("\x12\x01x"), true, 0, "" },
        { SENT("\x0a\x07\x08\x05"), false, 0, "" },
        { SENT("\x0a\x02\x08\x80"), false, 0, "" },
        { SENT("<html>"), false, 0, "" },
#undef SENT
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        uint64_t rejected = 42;
        struct slice why;
        bool is_read = otlp_answer_read(slice_make(rows[i].bytes, rows[i].size), &rejected, &why);
        check(is_read == rows[i].is_read, "row %zu", i);
        check(!is_read || (rejected == rows[i].rejected && slice_is(why, rows[i].why)), "row %zu",
              i);
    }
}
