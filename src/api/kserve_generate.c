/* kserve_generate.c - Triton's generate extension: POST /v2/models/{model}[/versions/{version}]/generate
 * and /generate_stream. SPDX-License-Identifier: Apache-2.0
 *
 * One is the other with exactly one response. A stream is server-sent events without names or
 * numbers, as Triton sends it, and has no last event; who prefers NDJSON says so by Accept.
 */
#include "api/infer.h"
#include "api/kserve.h"
#include "base/buf.h"

struct generate {
    struct infer infer;
    const struct kserve_plan *plan;
    struct kserve_request request;
};

enum { ARENA_ANSWER_MAX = 3072 };

static enum err_code begin(struct infer *infer, struct err *err)
{
    struct generate *g = (struct generate *)infer;

    return kserve_plan_of(infer->model, &g->plan, err);
}

static enum err_code begin_stream(struct infer *infer, struct err *err)
{
    enum events_form form = EVENTS_SSE;

    (void)events_wanted(infer->headers.accept, &form);
    TRY(infer_stream(infer, form, err));
    TRY(infer_stream_query(infer, NULL, err));
    return begin(infer, err);
}

static HOT enum err_code decode(struct infer *infer, struct slice body, struct err *err)
{
    struct generate *g = (struct generate *)infer;
    struct request *request = infer->request;

    TRY(kserve_read_generate(&g->request,
                             (struct kserve_inputs){ request->inputs, request->has_input }, g->plan,
                             body, (struct kserve_memory){ infer->x->arena, infer->x->budget },
                             err));
    kserve_fill(request, &g->request, g->plan);
    return OK;
}

static size_t bound(struct infer *infer, const struct response *response, bool is_most)
{
    struct generate *g = (struct generate *)infer;

    return kserve_generate_bound(g->plan, &g->request, response->outputs, is_most);
}

static HOT enum err_code write(struct infer *infer, const struct response *response,
                               struct text *out, struct err *err)
{
    struct generate *g = (struct generate *)infer;

    return kserve_generate_write(out, g->plan, &g->request, response->outputs, err);
}

static enum err_code encode(struct infer *infer, struct err *err)
{
    struct exchange *x = infer->x;
    struct header headers[INFER_HEADERS_MAX];

    for (int is_most = 0; is_most <= 1; is_most++) {
        CLEANUP(buf_unref) struct buf *buf = NULL;
        size_t room = bound(infer, infer->response, is_most != 0);
        struct text out;
        if (room <= ARENA_ANSWER_MAX) {
            text_init_arena(&out, x->arena, room);
        } else {
            TRY(buf_new(&buf, x->budget, room, err));
            text_init_fixed(&out, buf_fill(buf), room);
        }
        TRY(write(infer, infer->response, &out, err));
        if (text_failed(&out))
            continue;
        if (buf != NULL)
            buf_trim(buf, out.size);
        infer_timing(infer);
        uint32_t count = infer_answer_headers(infer, headers, "application/json", NULL);
        exchange_respond(x, 200, headers, count, (int64_t)out.size);
        exchange_send(x, text_slice(&out), buf);
        exchange_end(x);
        return OK;
    }
    return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
}

static const struct infer_dialect one = {
    .dialect = DIALECT_KSERVE,
    .group = "v2",
    .size = sizeof(struct generate),
    .begin = begin,
    .decode = decode,
    .encode = encode,
    .one_only = "generate expects model to produce exactly 1 response, use generate stream for "
                "model that generates various number of responses",
};

static const struct infer_dialect stream = {
    .dialect = DIALECT_KSERVE,
    .group = "v2",
    .size = sizeof(struct generate),
    .begin = begin_stream,
    .decode = decode,
    .event_bound = bound,
    .event_write = write,
};

static void generate(struct exchange *x, const struct route_match *match,
                     const struct infer_dialect *table)
{
    infer_begin(x, match, table, match->params[0],
                match->params_count > 1 ? match->params[1] : slice_make("", 0));
}

void kserve_generate(struct exchange *x, const struct route_match *match)
{
    generate(x, match, &one);
}

void kserve_generate_stream(struct exchange *x, const struct route_match *match)
{
    generate(x, match, &stream);
}
