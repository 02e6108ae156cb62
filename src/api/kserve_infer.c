/* kserve_infer.c - POST /v2/models/{model}[/versions/{version}]/infer, and MLServer's /infer_stream.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The second is the first as events, which the first gives too to who asks by Accept. An event is
 * an inference response in JSON; tensors in binary have no place in it.
 */
#include <stdio.h>

#include "api/infer.h"
#include "api/kserve.h"
#include "base/buf.h"
#include "codec/compress.h"

/* A small answer is compressed only for who asks for exactly one coding: HTTP libraries offer a
 * list with every request, and deflating 200 bytes costs more time than it saves. */
enum { COMPRESS_FROM_BYTES = 1024, COPY_BINARY_MAX = 512 };

struct kserve_infer {
    struct infer infer;
    const struct kserve_plan *plan;
    struct kserve_request request;
    bool has_length;
    uint64_t length; /* Inference-Header-Content-Length */
};

static struct kserve_memory memory_of(const struct infer *infer)
{
    return (struct kserve_memory){ infer->x->arena, infer->x->budget };
}

static COLD enum err_code one_response_only(struct err *err)
{
    return err_set(err, E_UNIMPLEMENTED,
                   "HTTP end point doesn't support models with decoupled transaction policy: they "
                   "give any number of responses. Ask for a stream of them with the header "
                   "'accept: text/event-stream', or call .../infer_stream or .../generate_stream");
}

static enum err_code begin_events(struct infer *infer, enum events_form form, struct err *err)
{
    TRY(infer_stream(infer, form, err));
    return infer_stream_query(infer, NULL, err);
}

static enum err_code begin(struct infer *infer, struct err *err)
{
    struct kserve_infer *k = (struct kserve_infer *)infer;
    enum events_form form;

    if (UNLIKELY(infer->headers.accept.data != NULL && events_wanted(infer->headers.accept, &form)))
        TRY(begin_events(infer, form, err));
    else if (UNLIKELY(infer->stream == NULL && model_is_decoupled(infer->model)))
        return one_response_only(err);
    TRY(kserve_plan_of(infer->model, &k->plan, err));
    if (infer->headers.inference_length.data == NULL)
        return OK;
    k->has_length = true;
    TRY(kserve_header_length(infer->headers.inference_length, &k->length, err));
    infer->body_align = (size_t)k->length;
    return OK;
}

static enum err_code begin_stream(struct infer *infer, struct err *err)
{
    TRY(begin_events(infer, EVENTS_SSE, err));
    return begin(infer, err);
}

static COLD enum err_code check_json(const struct kserve_infer *k, struct err *err)
{
    for (uint32_t i = 0; i < k->request.order_count; i++)
        if (k->request.outputs[k->request.order[i]].is_binary)
            return err_set(err, E_INVALID,
                           "output '%.*s' is asked for in binary, but the events of a stream are "
                           "JSON: leave out binary_data and binary_data_output",
                           SLICE_ARG(k->plan->outputs[k->request.order[i]]));
    return OK;
}

static HOT enum err_code decode(struct infer *infer, struct slice body, struct err *err)
{
    struct kserve_infer *k = (struct kserve_infer *)infer;
    struct request *request = infer->request;
    struct kserve_inputs inputs = { request->inputs, request->has_input };

    if (UNLIKELY(k->has_length && k->length == 0))
        TRY(kserve_read_raw(&k->request, inputs, k->plan, body, memory_of(infer), err));
    else
        TRY(kserve_read(&k->request, inputs, k->plan, body, k->has_length, k->length,
                        memory_of(infer), err));
    if (UNLIKELY(infer->stream != NULL))
        TRY(check_json(k, err));
    kserve_fill(request, &k->request, k->plan);
    return OK;
}

static enum encoding encoding_for(const struct infer *infer, size_t size)
{
    struct slice accept = infer->headers.accept_encoding;

    if (accept.data == NULL)
        return ENCODING_IDENTITY;
    if (size < COMPRESS_FROM_BYTES && slice_find(accept, ',') != accept.size)
        return ENCODING_IDENTITY;
    return encoding_choose(accept);
}

static enum err_code compress(struct buf **ret, const struct infer *infer, enum encoding encoding,
                              const struct kserve_answer *answer, struct err *err)
{
    uint32_t count = answer->binaries_count + 1;
    struct slice *pieces = arena_alloc(infer->x->arena, count * sizeof *pieces);

    if (pieces == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    pieces[0] = answer->json;
    for (uint32_t i = 1; i < count; i++)
        pieces[i] = answer->binaries[i - 1].bytes;
    return compress_deflate(ret, infer->x->budget, encoding, pieces, count, err);
}

static void send(struct exchange *x, const struct kserve_answer *answer)
{
    exchange_send(x, answer->json, answer->json_holder);
    for (uint32_t i = 0; i < answer->binaries_count; i++)
        exchange_send(x, answer->binaries[i].bytes, answer->binaries[i].holder);
    exchange_end(x);
}

/* Small binary outputs are cheaper copied behind the JSON than sent as pieces of their own. */
static void join_small(struct kserve_answer *answer, struct arena *arena)
{
    if (answer->binaries_count == 0 || answer->size - answer->json.size > COPY_BINARY_MAX ||
        answer->json_holder != NULL)
        return;
    uint8_t *whole = arena_alloc(arena, answer->size);
    if (whole == NULL)
        return;
    memcpy(whole, answer->json.data, answer->json.size);
    size_t at = answer->json.size;
    for (uint32_t i = 0; i < answer->binaries_count; i++) {
        memcpy(whole + at, answer->binaries[i].bytes.data, answer->binaries[i].bytes.size);
        at += answer->binaries[i].bytes.size;
    }
    answer->json = slice_make(whole, at);
    answer->binaries_count = 0;
}

static HOT enum err_code encode(struct infer *infer, struct err *err)
{
    struct kserve_infer *k = (struct kserve_infer *)infer;
    struct exchange *x = infer->x;
    CLEANUP(buf_unref) struct buf *compressed = NULL;
    CLEANUP(buf_unref) struct buf *json_holder = NULL;
    struct kserve_answer answer;
    struct header headers[INFER_HEADERS_MAX + 1];
    char length[24];

    TRY(kserve_write(&answer, k->plan, &k->request, infer->response->outputs, memory_of(infer),
                     err));
    json_holder = answer.json_holder;
    size_t json_size = answer.json.size;
    bool has_binary = answer.has_binary;
    enum encoding encoding = encoding_for(infer, answer.size);
    if (encoding != ENCODING_IDENTITY)
        TRY(compress(&compressed, infer, encoding, &answer, err));
    else
        join_small(&answer, x->arena);
    infer_timing(infer);

    uint32_t count =
        infer_answer_headers(infer, headers,
                             has_binary ? "application/octet-stream" : "application/json",
                             compressed != NULL ? encoding_name(encoding) : NULL);
    if (has_binary) {
        int size = snprintf(length, sizeof length, "%zu", json_size);
        headers[count++] = (struct header){ SLICE_LIT("inference-header-content-length"),
                                            slice_make(length, (size_t)size) };
    }
    if (compressed != NULL) {
        struct slice bytes = buf_bytes(compressed);
        exchange_respond(x, 200, headers, count, (int64_t)bytes.size);
        exchange_send(x, bytes, compressed);
        exchange_end(x);
        return OK;
    }
    exchange_respond(x, 200, headers, count, (int64_t)answer.size);
    send(x, &answer);
    return OK;
}

static size_t event_bound(struct infer *infer, const struct response *response, bool is_most)
{
    struct kserve_infer *k = (struct kserve_infer *)infer;

    return kserve_event_bound(k->plan, &k->request, response->outputs, is_most);
}

static HOT enum err_code event_write(struct infer *infer, const struct response *response,
                                     struct text *out, struct err *err)
{
    struct kserve_infer *k = (struct kserve_infer *)infer;
    struct kserve_memory memory = { NULL, infer->x->budget };

    if (UNLIKELY(k->request.order_count > KSERVE_FEW_OUTPUTS || k->request.has_classes) &&
        (memory.arena = infer_scratch(infer)) == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for one more response; retry later");
    return kserve_event_write(out, k->plan, &k->request, response->outputs, memory, err);
}

#define KSERVE_DIALECT(first)                                                                      \
    {                                                                                              \
        .dialect = DIALECT_KSERVE, .group = "v2", .size = sizeof(struct kserve_infer),             \
        .begin = (first),                                                                          \
        .decode = decode, .encode = encode, .event_bound = event_bound, .event_write = event_write \
    }

static const struct infer_dialect infer_dialect = KSERVE_DIALECT(begin);
static const struct infer_dialect stream_dialect = KSERVE_DIALECT(begin_stream);

static struct slice version_of(const struct route_match *match)
{
    return match->params_count > 1 ? match->params[1] : slice_make("", 0);
}

void kserve_infer(struct exchange *x, const struct route_match *match)
{
    infer_begin(x, match, &infer_dialect, match->params[0], version_of(match));
}

void kserve_infer_stream(struct exchange *x, const struct route_match *match)
{
    infer_begin(x, match, &stream_dialect, match->params[0], version_of(match));
}
