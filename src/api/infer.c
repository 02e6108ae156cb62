/* infer.c - SPDX-License-Identifier: Apache-2.0
 *
 * Three things may end it: the engine (on_end, then on_free), the caller (on_gone), and a failure
 * before the request was submitted. The exchange is referenced once for the whole of it; the
 * reference goes in on_free, or with the failure, or in on_gone when nothing was submitted.
 *
 * on_gone may also come after on_free (an answer that could not be sent whole): the struct lies in
 * the exchange's arena, which the transport still holds, and has_ended tells. A call says nothing
 * more once it was ended.
 */
#include "api/infer_internal.h"

#include "api/grpc.h"
#include "api/note.h"
#include "io/aside.h"

static const struct exchange_user infer_user;

/* A body that is read beside the loop. Meanwhile the arena is the job's, and who leaves is only noted. */
struct infer_aside {
    struct aside_job job;
    struct infer *infer;
    struct arena_store *store; /* the arena's, on its loop */
    struct slice body;
    bool has_left;
    enum err_code code;
    struct err err;
};

static uint64_t now_ns(const struct infer *infer)
{
    struct env *env = loop_env(infer->x->loop);

    return env->mono_ns(env);
}

/* -- failures ------------------------------------------------------------------------------ */

void infer_fail(struct infer *infer, const struct err *err)
{
    infer->has_ended = true;
    if (infer_is_gone(infer))
        return;
    if (infer->table->fail != NULL)
        infer->table->fail(infer, err);
    else if (infer->call != NULL)
        grpc_end(infer->call, err, infer->field);
    else
        api_fail(infer->x, infer->table->dialect, 0, err);
}

/* Before the request was submitted. */
static void drop(struct infer *infer)
{
    struct exchange *x = infer->x;

    infer->has_ended = true;
    engine_unwait(infer->api->engine, x->loop, &infer->waiter);
    infer_stream_deinit(infer);
    request_discard(&infer->request);
    model_unref(&infer->model);
    exchange_unref(&x);
}

static void fail(struct infer *infer, const struct err *err)
{
    infer_fail(infer, err);
    drop(infer);
}

/* -- the engine's side ----------------------------------------------------------------------- */

void infer_cancel_later(struct infer *infer)
{
    infer->must_cancel = true;
    loop_defer_early(infer->x->loop, &infer->task);
}

/* None, or more than one, where one is what is wanted. */
static COLD void fail_count(struct infer *infer, const char *what)
{
    struct err err;

    infer_err_clear(&err);
    if (infer->table->one_only != NULL) /* Triton's generate says 500 */
        err_set(&err, infer->call != NULL ? E_PRECONDITION : E_INTERNAL, "%s",
                infer->table->one_only);
    else
        err_set(&err, E_INTERNAL, "model '%s' gave %s; this call takes exactly one response",
                model_name(infer->request->model), what);
    infer_fail(infer, &err);
}

static void on_response(struct request *request, struct response *response)
{
    struct infer *infer = request->user;

    if (UNLIKELY(infer->has_ended))
        return; /* it was answered already, and the model is being told */
    infer->x->note.responses++;
    if (infer->stream != NULL) {
        infer_stream_response(infer, response);
    } else if (LIKELY(infer->response == NULL)) {
        infer->response = response;
    } else {
        fail_count(infer, "more than one response");
        infer_cancel_later(infer);
    }
}

static COLD void end_badly(struct infer *infer, const struct err *err)
{
    if (err->code != OK)
        infer_fail(infer, err);
    else
        fail_count(infer, "no response");
}

static HOT void answer(struct infer *infer, const struct err *err)
{
    struct err failed;

    if (UNLIKELY(infer->has_ended))
        return;
    if (infer->stream != NULL) {
        infer_stream_end(infer, err);
        return;
    }
    if (UNLIKELY(err->code != OK || infer->response == NULL)) {
        end_badly(infer, err);
        return;
    }
    infer->has_ended = true;
    if (infer_is_gone(infer))
        return;
    infer->encode_ns = infer->request->inline_ended_ns;
    if (infer->encode_ns == 0)
        infer->encode_ns = now_ns(infer);
    infer_err_clear(&failed);
    if (UNLIKELY(infer->table->encode(infer, &failed) != OK))
        infer_fail(infer, &failed);
}

/* Its share of the loop's time was charged with what is usual. */
static void settle(struct infer *infer)
{
    const uint64_t *ns = infer->request->stage_ns;

    if (UNLIKELY(infer->waiter.waited_ns != 0))
        engine_settle(infer->api->engine, infer->x->loop, &infer->waiter,
                      ns[STAGE_DECODE] + ns[STAGE_INPUT] + ns[STAGE_RUN] + ns[STAGE_OUTPUT] +
                          ns[STAGE_ENCODE]);
}

static HOT void on_end(struct request *request, const struct err *err)
{
    struct infer *infer = request->user;

    answer(infer, err);
    note_request(infer->x, request, infer->body_ns, err->code);
    settle(infer);
}

void infer_free(struct infer *infer)
{
    struct exchange *x = infer->x;

    infer->request = NULL;
    infer->rows = NULL;
    infer->has_ended = true;
    loop_undefer(&infer->task);
    infer_stream_deinit(infer);
    exchange_unref(&x);
}

static void on_free(struct request *request)
{
    infer_free(request->user);
}

static const struct request_sink infer_sink = {
    .on_response = on_response,
    .on_end = on_end,
    .on_free = on_free,
};

/* -- the exchange's side --------------------------------------------------------------------- */

static void cancel(struct infer *infer)
{
    if (infer->rows != NULL)
        infer_rows_cancel(infer);
    else
        request_cancel(infer->request);
}

/* At the end of a turn, when the engine has returned. */
static void on_task(struct loop_task *task)
{
    struct infer *infer = CONTAINER_OF(task, struct infer, task);

    if (infer->must_cancel)
        cancel(infer);
    else
        infer_stream_grant(infer);
}

void infer_leave(struct infer *infer)
{
    if (UNLIKELY(infer->aside != NULL)) {
        infer->aside->has_left = true;
        return;
    }
    infer_stream_stop(infer);
    if (infer->has_ended)
        return;
    if (infer->is_submitted)
        cancel(infer);
    else
        drop(infer);
}

static void on_gone(struct exchange *x)
{
    infer_leave(x->user_data);
}

static void on_room(struct exchange *x)
{
    struct infer *infer = x->user_data;

    if (infer->aside == NULL)
        infer_stream_grant(infer);
}

/* What was asked is in the request. */
static HOT void submit_decoded(struct infer *infer)
{
    struct request *request = infer->request;
    struct err err;

    if (infer->stream != NULL) {
        infer_err_clear(&err);
        if (UNLIKELY(infer_stream_submit(infer, &err) != OK)) {
            fail(infer, &err);
            return;
        }
    } else if (UNLIKELY(model_is_decoupled(infer->model))) {
        request_limit_credit(request, 2); /* one more than is wanted tells all there is to know */
    }
    if (UNLIKELY(infer->rows != NULL))
        request->stage_ns[STAGE_DECODE] = now_ns(infer) - infer->body_ns;
    else
        request->decode_from_ns = infer->body_ns;
    infer->is_submitted = true;
    /* From here the request's own reference keeps the model until on_free. */
    struct model *model = infer->model;
    model_unref(&model);
    /* Everything may be over when this returns: nothing of ours is touched behind it. */
    if (UNLIKELY(infer->rows != NULL))
        infer_rows_start(infer);
    else
        engine_submit(request);
}

static void decode_aside(struct aside_job *job)
{
    struct infer_aside *a = CONTAINER_OF(job, struct infer_aside, job);

    a->code = a->infer->table->decode(a->infer, a->body, &a->err);
}

/* The loop again. */
static void decoded_aside(struct aside_job *job)
{
    struct infer_aside *a = CONTAINER_OF(job, struct infer_aside, job);
    struct infer *infer = a->infer;

    infer->aside = NULL;
    arena_join(infer->x->arena, a->store);
    if (a->has_left)
        drop(infer);
    else if (a->code != OK)
        fail(infer, &a->err);
    else
        submit_decoded(infer);
}

/* False: there is nobody beside the loop. */
static COLD bool put_aside(struct infer *infer, struct slice body)
{
    struct infer_aside *a =
        infer->api->aside == NULL ? NULL : arena_zalloc(infer->x->arena, sizeof *a);

    if (a == NULL)
        return false;
    a->job.work = decode_aside;
    a->job.done = decoded_aside;
    a->infer = infer;
    a->body = body;
    a->store = arena_leave(infer->x->arena);
    infer->aside = a;
    aside_put(infer->api->aside, &a->job, infer->x->loop);
    return true;
}

/* The bytes are there and the model is known. */
static HOT void submit(struct infer *infer, struct slice body, uint64_t deadline_ns)
{
    struct exchange *x = infer->x;
    struct err err;

    infer_err_clear(&err);
    if (UNLIKELY(request_new(&infer->request, infer->api->engine, infer->model, x->arena, x->loop,
                             &infer_sink, &err) != OK)) {
        fail(infer, &err);
        return;
    }
    struct request *request = infer->request;
    request->user = infer;
    request->deadline_ns = deadline_ns;
    request->caller = x->caller;
    request->trace = &x->trace;
    request->waited_ns = infer->waiter.waited_ns;
    if (UNLIKELY(body.size >= infer->api->aside_bytes) && infer->call == NULL &&
        put_aside(infer, body))
        return;
    if (UNLIKELY(infer->table->decode(infer, body, &err) != OK)) {
        fail(infer, &err);
        return;
    }
    submit_decoded(infer);
}

static uint64_t header_deadline(const struct infer *infer)
{
    uint64_t ms = 0, begun_ns = infer->x->begun_ns;

    if (LIKELY(infer->headers.timeout_ms.data == NULL))
        return UINT64_MAX;
    bool is_number = slice_to_u64(infer->headers.timeout_ms, &ms);
    require(is_number); /* looked at in infer_begin */
    return ms > (UINT64_MAX - begun_ns) / 1000000 ? UINT64_MAX : begun_ns + ms * 1000000;
}

static HOT void on_body(struct exchange *x, const struct collect_result *body,
                        const struct err *failed)
{
    struct infer *infer = x->user_data;

    if (UNLIKELY(failed != NULL)) {
        infer->has_ended = true;
        api_fail_body(x, infer->table->dialect, failed);
        drop(infer);
        return;
    }
    infer->body_ns = now_ns(infer);
    submit(infer, body->body, header_deadline(infer));
}

static const struct exchange_user infer_user = { .on_room = on_room, .on_gone = on_gone };

static void read_headers(struct infer *infer)
{
    const struct exchange *x = infer->x;
    struct infer_headers *h = &infer->headers;

    for (uint32_t i = 0; i < x->headers_count; i++) {
        const struct header *header = &x->headers[i];
        struct slice *slot = NULL;
        switch (header->name.size) {
        case 6:
            if (slice_is(header->name, "accept"))
                slot = &h->accept;
            break;
        case 12:
            if (slice_is(header->name, "content-type"))
                slot = &h->content_type;
            break;
        case 15:
            if (slice_is(header->name, "accept-encoding"))
                slot = &h->accept_encoding;
            break;
        case 16:
            if (slice_is(header->name, "content-encoding"))
                slot = &h->content_encoding;
            break;
        case 20:
            if (slice_is(header->name, "x-request-timeout-ms"))
                slot = &h->timeout_ms;
            break;
        case 31:
            if (slice_is(header->name, "inference-header-content-length"))
                slot = &h->inference_length;
            break;
        default: break;
        }
        if (slot != NULL && slot->data == NULL)
            *slot =
                slice_make(header->value.data != NULL ? header->value.data : (const uint8_t *)"",
                           header->value.size);
    }
}

static enum err_code check_timeout(const struct infer *infer, struct err *err)
{
    struct slice value = infer->headers.timeout_ms;
    uint64_t ms;

    if (value.data == NULL || (slice_to_u64(value, &ms) && ms != 0))
        return OK;
    return err_set(err, E_INVALID,
                   "header x-request-timeout-ms is '%.*s'; it takes a whole number of "
                   "milliseconds, 1 or more",
                   SLICE_ARG(slice_first(value, 40)));
}

/* Before what is costly: is it worth going on? With infer->waiter.is_waiting not now. */
static enum err_code ask(struct infer *infer, uint64_t deadline_ns, uint64_t body_bytes,
                         struct err *err)
{
    struct engine_question question = { .model = infer->model,
                                        .loop = infer->x->loop,
                                        .caller = infer->x->caller,
                                        .deadline_ns = deadline_ns,
                                        .body_bytes = body_bytes };

    return engine_ask(infer->api->engine, &question, &infer->waiter, err);
}

static void collect(struct infer *infer)
{
    exchange_collect(infer->x,
                     (struct collect_limits){ .bytes_max = infer->api->body_bytes_max,
                                              .option = "--max-body",
                                              .align_at = infer->body_align,
                                              .aside = infer->api->aside },
                     on_body);
}

/* The loop has time for its body now, or never. */
static void on_turn(struct engine_waiter *waiter, const struct err *err)
{
    struct infer *infer = CONTAINER_OF(waiter, struct infer, waiter);

    if (UNLIKELY(err != NULL))
        fail(infer, err);
    else
        collect(infer);
}

void infer_begin(struct exchange *x, const struct route_match *match,
                 const struct infer_dialect *table, struct slice name, struct slice version)
{
    struct infer *infer = arena_zalloc(x->arena, table->size);
    struct err err;

    infer_err_clear(&err);
    if (infer == NULL) {
        err_set(&err, E_EXHAUSTED, "no memory for the request; retry later");
        api_fail(x, table->dialect, 0, &err);
        return;
    }
    infer->x = exchange_ref(x);
    infer->api = match->api;
    infer->match = match;
    infer->table = table;
    infer->task.run = on_task;
    infer->waiter.on_turn = on_turn;
    x->user = &infer_user;
    x->user_data = infer;
    read_headers(infer);
    if (api_want_model(x, infer->api, ACCESS_INFER, slice_of(table->group), &infer->model, name,
                       version, &err) != OK ||
        check_timeout(infer, &err) != OK ||
        ask(infer, header_deadline(infer), x->body_size > 0 ? (uint64_t)x->body_size : 0, &err) !=
            OK ||
        (table->begin != NULL && table->begin(infer, &err) != OK)) {
        fail(infer, &err);
        return;
    }
    infer->match = NULL;
    if (LIKELY(!infer->waiter.is_waiting))
        collect(infer);
}

/* -- the call's side -------------------------------------------------------------------------- */

static void on_call_gone(struct call *call, enum err_code why UNUSED)
{
    infer_leave(call->user_data);
}

static void on_call_room(struct call *call)
{
    infer_stream_grant(call->user_data);
}

static HOT void on_message(struct call *call, const struct call_message *message)
{
    struct infer *infer = call->user_data;

    if (UNLIKELY(infer->has_message)) {
        grpc_end_second_message(call);
        drop(infer);
        return;
    }
    infer->has_message = true;
    infer->message = message->bytes;
    call_read(call); /* so that a second one is seen */
}

/* Model, then what the dialect has to know of it. */
static enum err_code find_model(struct infer *infer, struct slice name, struct slice version,
                                struct err *err)
{
    TRY(api_want_model(infer->x, infer->api, ACCESS_INFER, slice_of(infer->table->group),
                       &infer->model, name, version, err));
    return infer->table->begin != NULL ? infer->table->begin(infer, err) : OK;
}

/* The same for a message that lies here whole. */
static void on_turn_of_call(struct engine_waiter *waiter, const struct err *err)
{
    struct infer *infer = CONTAINER_OF(waiter, struct infer, waiter);

    infer->body_ns = now_ns(infer);
    if (UNLIKELY(err != NULL))
        fail(infer, err);
    else
        submit(infer, infer->message, infer->call->deadline_ns);
}

static HOT void on_half_close(struct call *call)
{
    struct infer *infer = call->user_data;
    struct slice name, version;
    struct err err;

    if (UNLIKELY(!infer->has_message)) {
        grpc_end_without_message(call);
        drop(infer);
        return;
    }
    infer->body_ns = now_ns(infer);
    if (infer->model == NULL) {
        infer_err_clear(&err);
        if (UNLIKELY(infer->table->locate(infer, infer->message, &name, &version, &err) != OK ||
                     find_model(infer, name, version, &err) != OK)) {
            fail(infer, &err);
            return;
        }
    }
    infer_err_clear(&err);
    if (UNLIKELY(ask(infer, call->deadline_ns, infer->message.size, &err) != OK)) {
        fail(infer, &err);
        return;
    }
    if (LIKELY(!infer->waiter.is_waiting))
        submit(infer, infer->message, call->deadline_ns);
}

static const struct call_user infer_call_user = {
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_room = on_call_room,
    .on_gone = on_call_gone,
};

void infer_begin_call(struct call *call, const struct api *api, const struct infer_dialect *table,
                      struct slice name, struct slice version)
{
    struct infer *infer = arena_zalloc(call->x->arena, table->size);
    struct err err;

    infer_err_clear(&err);
    if (infer == NULL) {
        err_set(&err, E_EXHAUSTED, "no memory for the request; retry later");
        call_end(call, &err, NULL);
        return;
    }
    infer->x = exchange_ref(call->x);
    infer->call = call;
    infer->api = api;
    infer->table = table;
    infer->task.run = on_task;
    infer->waiter.on_turn = on_turn_of_call;
    call->user = &infer_call_user;
    call->user_data = infer;
    if (UNLIKELY(table->is_stream && infer_stream(infer, EVENTS_SSE, &err) != OK) ||
        (name.size != 0 && UNLIKELY(find_model(infer, name, version, &err) != OK))) {
        fail(infer, &err);
        return;
    }
    call->is_lone = true;
    call_read(call);
}

/* -- words about time ------------------------------------------------------------------------ */

enum { STAGE_TEXT_MAX = 48 }; /* ", ", a name, ";dur=", 17 digits, a point and three more */

static uint8_t *put_whole(uint8_t *at, uint64_t value)
{
    uint8_t digits[20];
    size_t count = 0;

    do {
        digits[count++] = (uint8_t)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    while (count != 0)
        *at++ = digits[--count];
    return at;
}

/* The names are those of stage_names, and what stands before and behind each. */
static uint8_t *put_stage(uint8_t *at, enum stage stage, uint64_t ns)
{
    enum { ROOM = 16 };
    static const struct {
        char text[ROOM]; /* copied whole: what is too much is written over */
        uint32_t size;
    } heads[STAGES] = {
#define HEAD(text)        \
    {                     \
        text,             \
        sizeof(text) - 1, \
    }
        [STAGE_DECODE] = HEAD("decode;dur="),   [STAGE_QUEUE] = HEAD(", queue;dur="),
        [STAGE_INPUT] = HEAD(", input;dur="),   [STAGE_RUN] = HEAD(", run;dur="),
        [STAGE_OUTPUT] = HEAD(", output;dur="), [STAGE_ENCODE] = HEAD(", encode;dur="),
#undef HEAD
    };
    uint64_t us = (ns + 500) / 1000;
    uint32_t fraction = (uint32_t)(us % 1000);

    memcpy(at, heads[stage].text, ROOM);
    at += heads[stage].size;
    if (LIKELY(us < 1000))
        *at++ = '0';
    else
        at = put_whole(at, us / 1000);
    *at++ = '.';
    *at++ = (uint8_t)('0' + fraction / 100);
    *at++ = (uint8_t)('0' + fraction / 10 % 10);
    *at++ = (uint8_t)('0' + fraction % 10);
    return at;
}

void infer_timing(struct infer *infer)
{
    uint64_t now = now_ns(infer);

    request_account_encode(infer->request, now - infer->encode_ns);
    infer->x->note.answered_ns = now;
    loop_tell_ns(infer->x->loop, now);
    infer_put_timing(infer);
}

void infer_put_timing(struct infer *infer)
{
    struct request *request = infer->request;
    uint8_t *text, *at;

    if (!infer->api->server_timing ||
        (text = at = arena_alloc(infer->x->arena, STAGES * STAGE_TEXT_MAX)) == NULL)
        return;
    for (enum stage i = 0; i < STAGES; i++)
        at = put_stage(at, i, request->stage_ns[i]);
    infer->timing = slice_make(text, (size_t)(at - text));
}

void infer_send(struct infer *infer, const struct call_piece *pieces, uint32_t pieces_count)
{
    struct err ok;

    infer_timing(infer);
    if (infer->timing.size != 0)
        (void)call_metadata_trailing(infer->call, "server-timing", infer->timing);
    call_send(infer->call, pieces, pieces_count);
    infer_err_clear(&ok);
    call_end(infer->call, &ok, NULL);
}

uint32_t infer_answer_headers(const struct infer *infer, struct header headers[INFER_HEADERS_MAX],
                              const char *content_type, const char *content_encoding)
{
    uint32_t count = 0;

    headers[count++] = (struct header){ SLICE_LIT("content-type"), slice_of(content_type) };
    if (content_encoding != NULL)
        headers[count++] =
            (struct header){ SLICE_LIT("content-encoding"), slice_of(content_encoding) };
    if (infer->timing.size != 0)
        headers[count++] = (struct header){ SLICE_LIT("server-timing"), infer->timing };
    return count;
}
