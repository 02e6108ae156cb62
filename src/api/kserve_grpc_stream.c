/* kserve_grpc_stream.c - ModelStreamInfer: one call carries many requests, for any models, and their
 * answers. SPDX-License-Identifier: Apache-2.0
 *
 * Each request in flight is an entry with an arena of its own, from the loop's pool, in which the
 * engine's request, its inputs and what is kept of its answer lie; it goes back when the answer is
 * sent. So a stream of a million requests takes what those in flight take (--stream-requests-max):
 * with all of them taken, or while the caller does not read, no further message is received.
 *
 * Order, as Triton has it: models that answer once are answered in the order of their requests, so an
 * answer that is ready too soon waits in its entry (`ordered`); decoupled models answer when they do.
 * What fails before its model is known counts as answered once.
 *
 * A decoupled model may make CREDIT_FIRST responses, and from then on as many as CREDIT_BYTES hold;
 * what it used is granted again at the end of a turn, if the caller has room, or else from on_room.
 *
 * Nothing is cancelled from within a sink: a stream that ends with requests in flight (an error under
 * triton_grpc_error) puts that off to the end of the turn.
 *
 * MLServer's form is the same call with bare ModelInferResponse messages, and failures as the call's
 * status. The two cannot be told apart on the wire: metadata or an option says so.
 */
#include "api/grpc.h"
#include "api/kserve.h"
#include "api/note.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/list.h"
#include "base/pb.h"
#include "base/text.h"
#include "codec/kserve_pb.h"
#include "engine/engine.h"
#include "io/loop.h"
#include "telemetry/metrics.h"

enum {
    REQUESTS_MAX = 16, /* where no option says */
    CREDIT_FIRST = 8,
    CREDIT_MAX = 64,
    CREDIT_BYTES = 256 << 10,
    PIECES_MORE = 2, /* before and behind those of a ModelInferResponse */
    HEAD_BYTES = 16,
};

struct stream {
    struct call *call;
    struct exchange *x; /* a reference until the call is over and nothing is in flight */
    const struct api *api;
    struct kserve_streams *counts;
    struct list all;       /* entries, in the order in which they came */
    struct list ordered;   /* of them those that answer once and have not been answered */
    struct arena *scratch; /* owned, from the pool; of one response of a decoupled model */
    struct loop_task task; /* grants, or cancels what a call that is over left */
    uint32_t in_flight, requests_max;
    bool is_bare;     /* MLServer's form */
    bool ends_at_err; /* triton_grpc_error, or MLServer's form */
    bool is_reading;  /* credit for a message is given */
    bool is_paused;   /* it would be, but for requests_max */
    bool is_half_closed, is_draining, is_over, is_let_go;
};

struct entry {
    struct stream *stream;
    struct list_node in_all, in_ordered;
    struct arena *arena; /* owned: all of the entry lies in it */
    struct kserve_pb_request pb;
    struct kserve_request asked;
    struct model *model;            /* owned; NULL: not found */
    const struct kserve_plan *plan; /* the model's */
    struct request *request;        /* NULL: none was submitted, or it was freed */
    struct response *response;
    bool is_decoupled, wants_end;
    bool has_too_many; /* responses, of a model that answers once */
    bool is_answered;  /* nothing more is sent for it */
    bool must_cancel;  /* its model is to be told so, by the task */
    bool is_ready;     /* its answer waits for its turn */
    uint32_t credit;   /* decoupled: responses that it may make still */
    uint64_t count, bytes;
    struct call_piece *pieces; /* the answer that waits; or */
    uint32_t pieces_count;
    const struct err *failure; /* in the arena; NULL: none */
};

static struct kserve_memory memory_of(const struct stream *s, struct arena *arena)
{
    return (struct kserve_memory){ arena, s->x->budget };
}

/* Nothing failed yet; the text is not worth zeroing for every request. */
static inline void err_clear(struct err *err)
{
    err->code = OK;
    err->retry_after_ms = 0;
    err->text[0] = '\0';
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* -- the life of a stream ------------------------------------------------------------------------- */

/* Once the call is over and nothing is in flight: `s` may be gone behind this. */
static void let_go(struct stream *s)
{
    struct exchange *x = s->x;

    if (!s->is_over || s->in_flight != 0 || s->is_let_go)
        return;
    s->is_let_go = true;
    loop_undefer(&s->task);
    engine_arena_give(s->api->engine, x->loop, &s->scratch);
    atomic_fetch_sub_explicit(&s->counts->open, 1, memory_order_relaxed);
    exchange_unref(&x);
}

/* What the caller is told is told. */
static void mark_over(struct stream *s)
{
    s->is_over = true;
    if (s->in_flight != 0)
        loop_defer(s->x->loop, &s->task);
    let_go(s);
}

static void end_ok(struct stream *s)
{
    struct err ok = { 0 };

    call_end(s->call, &ok, NULL);
    mark_over(s);
}

static COLD void end_drained(struct stream *s)
{
    struct err err = { 0 };

    err_set(&err, E_UNAVAILABLE,
            "the server stops, or this connection is old: what came is answered; open the stream "
            "again");
    call_end(s->call, &err, NULL);
    mark_over(s);
}

/* As in ModelInfer: a queue that is full is UNAVAILABLE, on which Triton's clients try again. */
static COLD void end_with(struct stream *s, const struct err *why, const char *field)
{
    struct err err = *why;

    if (err.code == E_EXHAUSTED && err.retry_after_ms != ERR_RETRY_NEVER)
        err.code = E_UNAVAILABLE;
    grpc_end(s->call, &err, field);
    mark_over(s);
}

static void read_next(struct stream *s)
{
    if (s->is_over || s->is_reading || s->is_half_closed || s->is_draining)
        return;
    if (s->in_flight >= s->requests_max) {
        if (!s->is_paused)
            count(&s->counts->pauses, 1);
        s->is_paused = true;
        return;
    }
    if (call_room(s->call) == 0)
        return; /* on_room tells */
    s->is_paused = false;
    s->is_reading = true;
    call_read(s->call);
}

/* -- entries --------------------------------------------------------------------------------------- */

static struct entry *entry_new(struct stream *s)
{
    struct arena *arena = engine_arena_take(s->api->engine, s->x->loop);
    struct entry *e = arena == NULL ? NULL : arena_zalloc(arena, sizeof *e);

    if (e == NULL) {
        engine_arena_give(s->api->engine, s->x->loop, &arena);
        return NULL;
    }
    e->stream = s;
    e->arena = arena;
    list_push(&s->all, &e->in_all);
    s->in_flight++;
    count(&s->counts->requests, 1);
    return e;
}

/* Once it is answered and the engine has done with it. True: it is gone. */
static bool entry_retire(struct entry *e)
{
    struct stream *s = e->stream;
    struct arena *arena = e->arena;

    if (!e->is_answered || e->request != NULL)
        return false;
    list_remove(&e->in_all);
    list_remove(&e->in_ordered);
    model_unref(&e->model);
    engine_arena_give(s->api->engine, s->x->loop, &arena);
    s->in_flight--;
    return true;
}

/* Something has left the stream: what that lets happen. */
static void go_on(struct stream *s)
{
    if (s->is_over)
        let_go(s);
    else if (s->is_half_closed && s->in_flight == 0)
        end_ok(s);
    else if (s->is_draining && s->in_flight == 0)
        end_drained(s);
    else
        read_next(s);
}

/* -- what is sent -------------------------------------------------------------------------------------- */

/* ModelInferResponse.parameters { key: "triton_final_response" value { bool_param: ... } } */
static const uint8_t parameter_of_end[2][29] = {
    "\x22\x1b\x0a\x15triton_final_response\x12\x02\x08\x00",
    "\x22\x1b\x0a\x15triton_final_response\x12\x02\x08\x01",
};

/* Bytes that must outlive `arena` get a holder, which the arena keeps until the message is sent. */
static enum err_code hold(struct call_piece *piece, struct stream *s, struct arena *arena,
                          struct err *err)
{
    struct buf *buf = NULL;

    if (piece->holder != NULL || piece->bytes.size < CALL_COPIED_BYTES)
        return OK;
    TRY(buf_new(&buf, s->x->budget, piece->bytes.size, err));
    memcpy(buf_fill(buf), piece->bytes.data, piece->bytes.size);
    *piece = (struct call_piece){ buf_bytes(buf), buf };
    if (arena_adopt(arena, &buf))
        return OK;
    buf_unref(&buf);
    return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
}

/* A ModelInferResponse, given as pieces, as a message of this stream's form; in that arena. */
static enum err_code wrap(struct stream *s, struct arena *arena, const struct kserve_pb_piece *made,
                          uint32_t made_count, bool is_final, struct call_piece **ret,
                          uint32_t *ret_count, struct err *err)
{
    struct call_piece *pieces = arena_alloc(arena, (made_count + PIECES_MORE) * sizeof *pieces);
    uint8_t *head = arena_alloc(arena, HEAD_BYTES);
    uint32_t size_of_end = s->is_bare ? 0 : sizeof parameter_of_end[0], at = 0;
    size_t total = size_of_end;

    if (pieces == NULL || head == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    if (!s->is_bare)
        at++;
    for (uint32_t i = 0; i < made_count; i++) {
        pieces[at] = (struct call_piece){ made[i].bytes, made[i].holder };
        total += made[i].bytes.size;
        TRY(hold(&pieces[at++], s, arena, err));
    }
    if (!s->is_bare) {
        uint8_t *end = pb_put_head(head, 2, total);
        pieces[0] = (struct call_piece){ slice_make(head, (size_t)(end - head)), NULL };
        pieces[at++] =
            (struct call_piece){ slice_make(parameter_of_end[is_final], size_of_end), NULL };
    }
    *ret = pieces;
    *ret_count = at;
    return OK;
}

static enum err_code make_answer(struct entry *e, const struct response *response,
                                 struct arena *arena, bool is_final, struct call_piece **ret,
                                 uint32_t *ret_count, struct err *err)
{
    struct stream *s = e->stream;
    struct kserve_pb_piece *made;
    uint32_t made_count;

    TRY(kserve_write_pb(&made, &made_count, e->plan, &e->asked, response->outputs,
                        memory_of(s, arena), err));
    return wrap(s, arena, made, made_count, is_final, ret, ret_count, err);
}

/* Model, version and id, and nothing else: what stands behind the last response of a decoupled model
 * whose caller asked for it, and beside an error. */
static enum err_code make_bare(struct text *out, const struct entry *e)
{
    static const uint32_t numbers[] = { 1, 2, 3 };
    struct slice values[] = { e->pb.model_name, e->pb.model_version, e->pb.id };
    uint8_t head[HEAD_BYTES];

    if (e->plan != NULL) /* the version that it was */
        values[1] = e->plan->model_version;
    for (size_t i = 0; i < COUNT(values); i++) {
        if (values[i].size == 0)
            continue;
        text_put(out, head, (size_t)(pb_put_head(head, numbers[i], values[i].size) - head));
        text_slice_put(out, values[i]);
    }
    return text_failed(out) ? E_EXHAUSTED : OK;
}

static void send(struct stream *s, const struct call_piece *pieces, uint32_t pieces_count)
{
    call_send(s->call, pieces, pieces_count);
}

/* When to ask again, as a parameter: a message within a stream has no status to say it by. */
static COLD void put_retry(struct text *out, const struct err *err)
{
    uint8_t value[16], entry[HEAD_BYTES + 32], head[HEAD_BYTES], *end;
    uint32_t wait_ms = err_retry_ms(err);

    if (wait_ms == 0 || wait_ms == ERR_RETRY_NEVER)
        return;
    end = pb_put_uint(value, 2, wait_ms); /* InferParameter.int64_param */
    struct slice number = slice_make(value, (size_t)(end - value));
    end = pb_put_bytes(pb_put_bytes(entry, 1, slice_of("retry_after_ms")), 2, number);
    size_t size = (size_t)(end - entry);
    text_put(out, head,
             (size_t)(pb_put_head(head, 4, size) - head)); /* ModelInferResponse.parameters */
    text_put(out, entry, size);
}

/* "<error_message>" and whose it is. False: no memory. */
static COLD bool send_failure(struct entry *e)
{
    struct stream *s = e->stream;
    struct slice words = slice_of(e->failure->text);
    struct kserve_pb_piece bare;
    struct call_piece *pieces, *all;
    struct text out, head;
    struct err err = { 0 };
    uint32_t pieces_count;

    text_init_arena(&out, e->arena, 128);
    text_init_arena(&head, e->arena, words.size + HEAD_BYTES);
    if (make_bare(&out, e) != OK)
        return false;
    put_retry(&out, e->failure);
    bare = (struct kserve_pb_piece){ text_slice(&out), NULL };
    uint8_t bytes[HEAD_BYTES];
    text_put(&head, bytes, (size_t)(pb_put_head(bytes, 1, words.size) - bytes));
    text_slice_put(&head, words);
    if (text_failed(&head) ||
        wrap(s, e->arena, &bare, 1, true, &pieces, &pieces_count, &err) != OK ||
        (all = arena_alloc(e->arena, (pieces_count + 1) * sizeof *all)) == NULL)
        return false;
    all[0] = (struct call_piece){ text_slice(&head), NULL };
    memcpy(all + 1, pieces, pieces_count * sizeof *all);
    send(s, all, pieces_count + 1);
    return true;
}

/* The entry's turn has come, and it has failed. */
static COLD void tell_failure(struct entry *e)
{
    struct stream *s = e->stream;

    e->is_answered = true;
    if (s->is_over)
        return;
    if (s->ends_at_err) {
        end_with(s, e->failure, NULL);
    } else if (!send_failure(e)) {
        struct err err = { 0 };
        err_set(&err, E_EXHAUSTED, "no memory to tell what is wrong with a request; retry later");
        end_with(s, &err, NULL);
    }
}

/* Answers that are ready, of those whose turn it is. */
static void flush_ordered(struct stream *s)
{
    struct list_node *node;

    while (!s->is_over && (node = list_first(&s->ordered)) != NULL) {
        struct entry *e = CONTAINER_OF(node, struct entry, in_ordered);
        if (!e->is_ready)
            return;
        list_remove(&e->in_ordered);
        if (e->failure != NULL) {
            tell_failure(e);
        } else {
            send(s, e->pieces, e->pieces_count);
            e->is_answered = true;
        }
        entry_retire(e);
    }
}

/* Kept, as its turn may come later. */
static COLD void keep_failure(struct entry *e, const struct err *why)
{
    static const struct err no_memory = { .code = E_EXHAUSTED,
                                          .text = "no memory for the request; retry later" };
    struct err *copy = arena_alloc(e->arena, sizeof *copy);

    if (copy != NULL)
        *copy = *why;
    e->failure = copy != NULL ? copy : &no_memory;
}

/* Fails an entry that has not been answered; `e` may be gone behind this. */
static COLD void fail_entry(struct entry *e, const struct err *why)
{
    struct stream *s = e->stream;

    keep_failure(e, why);
    if (e->is_decoupled) {
        tell_failure(e);
        entry_retire(e);
        return;
    }
    e->is_ready = true;
    flush_ordered(s);
}

/* -- the engine's side ------------------------------------------------------------------------------ */

/* Whether the decoupled request has room for more, at the end of a turn or in on_room. */
static void grant(struct entry *e)
{
    uint64_t each = e->count == 0 ? 0 : e->bytes / e->count;
    uint64_t wanted = each == 0 ? CREDIT_FIRST : MAX((uint64_t)CREDIT_BYTES / each, (uint64_t)1);

    wanted = MIN(wanted, (uint64_t)CREDIT_MAX);
    if (!e->is_decoupled || e->request == NULL || e->is_answered || e->credit > wanted / 2)
        return;
    uint32_t more = (uint32_t)wanted - e->credit;
    e->credit = (uint32_t)wanted;
    request_grant(e->request, more);
}

static void grant_all(struct stream *s)
{
    if (s->is_over || call_room(s->call) == 0)
        return;
    for (struct list_node *node = list_first(&s->all); node != NULL;
         node = list_next(&s->all, node))
        grant(CONTAINER_OF(node, struct entry, in_all));
}

static size_t size_of(const struct call_piece *pieces, uint32_t pieces_count)
{
    size_t size = 0;

    for (uint32_t i = 0; i < pieces_count; i++)
        size += pieces[i].bytes.size;
    return size;
}

static void send_response(struct entry *e, const struct response *response)
{
    struct stream *s = e->stream;
    struct call_piece *pieces;
    uint32_t pieces_count;
    struct err err;

    err_clear(&err);
    if (s->scratch == NULL)
        s->scratch = engine_arena_take(s->api->engine, s->x->loop);
    if (s->scratch == NULL)
        err_set(&err, E_EXHAUSTED, "no memory for an answer; retry later");
    else if (make_answer(e, response, s->scratch, false, &pieces, &pieces_count, &err) == OK) {
        e->bytes += size_of(pieces, pieces_count);
        send(s, pieces, pieces_count);
    }
    if (s->scratch != NULL)
        arena_reset(s->scratch);
    e->count++;
    e->credit -= e->credit != 0;
    loop_defer(s->x->loop, &s->task);
    if (err.code == OK)
        return;
    keep_failure(e, &err);
    e->must_cancel = true;
    tell_failure(e);
}

static void on_response(struct request *request, struct response *response)
{
    struct entry *e = request->user;

    if (e->is_answered || e->stream->is_over)
        return;
    e->stream->x->note.responses++;
    if (e->is_decoupled)
        send_response(e, response);
    else if (e->response == NULL)
        e->response = response;
    else
        e->has_too_many = true;
}

/* Behind the responses of a decoupled model. */
static void send_end(struct entry *e)
{
    struct stream *s = e->stream;
    struct kserve_pb_piece bare;
    struct call_piece *pieces;
    uint32_t pieces_count;
    struct text out;
    struct err err = { 0 };

    e->is_answered = true;
    if (!e->wants_end || s->is_bare)
        return;
    text_init_arena(&out, e->arena, 128);
    if (make_bare(&out, e) != OK) {
        err_set(&err, E_EXHAUSTED, "no memory for an answer; retry later");
    } else {
        bare = (struct kserve_pb_piece){ text_slice(&out), NULL };
        if (wrap(s, e->arena, &bare, 1, true, &pieces, &pieces_count, &err) == OK)
            send(s, pieces, pieces_count);
    }
    if (err.code != OK) {
        keep_failure(e, &err);
        tell_failure(e);
    }
}

static void answer_entry(struct entry *e, const struct err *err)
{
    struct stream *s = e->stream;
    struct request *request = e->request;
    struct err failed;

    err_clear(&failed);
    if (e->is_answered || s->is_over)
        return;
    if (err->code != OK) {
        fail_entry(e, err);
        return;
    }
    if (e->is_decoupled) {
        send_end(e);
        return;
    }
    if (e->response == NULL || e->has_too_many) {
        err_set(&failed, E_INTERNAL,
                "model '%.*s' gave %s, and is not declared decoupled: it is to give exactly one",
                SLICE_ARG(e->plan->model_name),
                e->response == NULL ? "no response" : "more than one response");
        fail_entry(e, &failed);
        return;
    }
    uint64_t begun_ns = loop_env(s->x->loop)->mono_ns(loop_env(s->x->loop));
    if (make_answer(e, e->response, e->arena, true, &e->pieces, &e->pieces_count, &failed) != OK) {
        fail_entry(e, &failed);
        return;
    }
    /* It may have to wait, and its outputs go with the request. */
    for (uint32_t i = 0; i < e->pieces_count && list_first(&s->ordered) != &e->in_ordered; i++) {
        struct buf *holder = buf_ref(e->pieces[i].holder);
        if (holder != NULL && !arena_adopt(e->arena, &holder)) {
            buf_unref(&holder);
            err_set(&failed, E_EXHAUSTED, "no memory to keep an answer; retry later");
            fail_entry(e, &failed);
            return;
        }
    }
    e->is_ready = true;
    flush_ordered(s);
    request_account_encode(request, loop_env(s->x->loop)->mono_ns(loop_env(s->x->loop)) - begun_ns);
}

static void on_end(struct request *request, const struct err *err)
{
    struct entry *e = request->user;

    answer_entry(e, err);
    note_request(e->stream->x, request, 0, err->code);
}

static void on_free(struct request *request)
{
    struct entry *e = request->user;
    struct stream *s = e->stream;

    e->request = NULL;
    if (s->is_over)
        e->is_answered = true;
    if (entry_retire(e))
        go_on(s);
}

static const struct request_sink sink = { on_response, on_end, on_free };

/* -- a request --------------------------------------------------------------------------------------- */

/* The message is there only until the next is read. */
static enum err_code keep_message(struct entry *e, const struct call_message *message,
                                  struct slice *ret, struct err *err)
{
    struct slice bytes = message->bytes;
    size_t room = (bytes.size + BUF_ALIGN) & ~(size_t)(BUF_ALIGN - 1);

    *ret = bytes;
    if (message->holder != NULL) {
        struct buf *holder = buf_ref(message->holder);
        if (arena_adopt(e->arena, &holder))
            return OK;
        buf_unref(&holder);
    } else {
        /* Its end lies on a line, as tensors come last in a message. */
        uint8_t *memory = arena_aligned(e->arena, BUF_ALIGN, room);
        if (memory != NULL) {
            *ret = slice_make(memory + room - bytes.size, bytes.size);
            if (bytes.size != 0)
                memcpy(memory + room - bytes.size, bytes.data, bytes.size);
            return OK;
        }
    }
    return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
}

static bool wants_end(const struct kserve_pb_request *pb)
{
    for (uint32_t i = 0; i < pb->parameters.count; i++) {
        const struct kserve_pb_parameter *p = &pb->parameters.items[i];
        if (slice_is(p->key, "triton_enable_empty_final_response"))
            return p->kind == KSERVE_PB_BOOL && p->value.b;
    }
    return false;
}

/* From the message taken apart to a request that can be submitted. */
static enum err_code prepare(struct entry *e, struct err *err)
{
    struct stream *s = e->stream;
    struct engine *engine = s->api->engine;
    struct request *request = NULL;
    const char *field = NULL;

    TRY(api_want_model(s->x, s->api, ACCESS_INFER, slice_of("v2"), &e->model, e->pb.model_name,
                       e->pb.model_version, err));
    TRY(kserve_plan_of(e->model, &e->plan, err));
    TRY(request_new(&request, engine, e->model, e->arena, s->x->loop, &sink, err));
    struct kserve_inputs inputs = { request->inputs, request->has_input };
    if (kserve_read_pb(&e->asked, inputs, e->plan, &e->pb, memory_of(s, e->arena), &field, err) !=
        OK) {
        request_discard(&request);
        return err->code;
    }
    kserve_fill(request, &e->asked, e->plan);
    request->user = e;
    request->caller = s->x->caller;
    request->trace = &s->x->trace;
    e->request = request;
    e->is_decoupled = model_is_decoupled(e->model);
    e->wants_end = wants_end(&e->pb);
    return OK;
}

static void begin_request(struct stream *s, struct entry *e, const struct call_message *message)
{
    const char *field = NULL;
    struct slice bytes;
    struct err err;
    struct env *env = loop_env(s->x->loop);
    uint64_t begun_ns = env->mono_ns(env);

    err_clear(&err);
    if (keep_message(e, message, &bytes, &err) != OK ||
        kserve_pb_decode(&e->pb, bytes, e->arena, &field, &err) != OK) {
        /* No request, so no id to tell it by. */
        e->is_answered = true;
        entry_retire(e);
        end_with(s, &err, err.code == E_INVALID ? field : NULL);
        return;
    }
    enum err_code code = prepare(e, &err);
    if (!e->is_decoupled)
        list_push(&s->ordered, &e->in_ordered);
    if (code != OK) {
        fail_entry(e, &err);
        return;
    }
    if (e->is_decoupled) {
        e->credit = CREDIT_FIRST;
        request_limit_credit(e->request, e->credit);
    }
    e->request->stage_ns[STAGE_DECODE] = env->mono_ns(env) - begun_ns;
    engine_submit(e->request); /* all of it may be over behind this */
}

/* -- the call's side ---------------------------------------------------------------------------------- */

static void on_message(struct call *call, const struct call_message *message)
{
    struct stream *s = call->user_data;
    struct exchange *x = exchange_ref(s->x); /* as `s` lies there */
    struct entry *e = entry_new(s);
    struct err err;

    err_clear(&err);
    s->is_reading = false;
    if (e == NULL) {
        err_set(&err, E_EXHAUSTED, "no memory for a request; retry later");
        end_with(s, &err, NULL);
    } else {
        begin_request(s, e, message);
        if (!s->is_let_go)
            go_on(s);
    }
    exchange_unref(&x);
}

static void on_half_close(struct call *call)
{
    struct stream *s = call->user_data;

    s->is_half_closed = true;
    go_on(s);
}

static void on_room(struct call *call)
{
    struct stream *s = call->user_data;

    grant_all(s);
    read_next(s);
}

/* What is in flight is answered, and then it is over. */
static void on_drain(struct call *call)
{
    struct stream *s = call->user_data;

    s->is_draining = true;
    go_on(s);
}

/* Nobody waits any more: what runs is told. */
static void cancel_all(struct stream *s)
{
    struct exchange *x = exchange_ref(s->x);
    struct list_node *node = list_first(&s->all), *next;

    for (; node != NULL; node = next) {
        struct entry *e = CONTAINER_OF(node, struct entry, in_all);
        next = list_next(&s->all, node);
        e->is_answered = true;
        if (e->request != NULL)
            request_cancel(e->request); /* on_free may come from within */
        else
            entry_retire(e);
    }
    if (!s->is_let_go)
        let_go(s);
    exchange_unref(&x);
}

static void on_task(struct loop_task *task)
{
    struct stream *s = CONTAINER_OF(task, struct stream, task);
    struct exchange *x = exchange_ref(s->x);
    struct list_node *node, *next;

    if (s->is_over) {
        cancel_all(s);
    } else {
        grant_all(s);
        for (node = list_first(&s->all); node != NULL && !s->is_let_go; node = next) {
            struct entry *e = CONTAINER_OF(node, struct entry, in_all);
            next = list_next(&s->all, node);
            if (e->must_cancel && e->request != NULL)
                request_cancel(e->request); /* on_free, of this one only, may come from within */
        }
    }
    exchange_unref(&x);
}

static void on_gone(struct call *call, enum err_code why UNUSED)
{
    struct stream *s = call->user_data;

    s->is_over = true;
    cancel_all(s);
}

static const struct call_user user = {
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_room = on_room,
    .on_gone = on_gone,
    .on_drain = on_drain,
};

/* -- the beginning ------------------------------------------------------------------------------------ */

static enum err_code read_form(struct call *call, bool *is_mlserver, struct err *err)
{
    struct slice form = call_metadata(call, "penstock-stream-form");

    if (form.data == NULL)
        return OK;
    *is_mlserver = slice_is(form, "mlserver");
    return *is_mlserver || slice_is(form, "triton")
               ? OK
               : err_set(err, E_INVALID,
                         "metadata penstock-stream-form is '%.*s'; it takes triton "
                         "(ModelStreamInferResponse) or mlserver (ModelInferResponse)",
                         SLICE_ARG(slice_first(form, 40)));
}

void kserve_grpc_stream(struct call *call, const struct api *api)
{
    static struct kserve_streams nobody = { .requests_max = REQUESTS_MAX };
    struct kserve_streams *counts = api->streams != NULL ? api->streams : &nobody;
    struct stream *s = arena_zalloc(call->x->arena, sizeof *s);
    bool is_mlserver = counts->is_mlserver;
    struct err err = { 0 };

    if (read_form(call, &is_mlserver, &err) == OK && s == NULL)
        err_set(&err, E_EXHAUSTED, "no memory for a stream; retry later");
    if (err.code != OK) {
        grpc_end(call, &err, NULL);
        return;
    }
    s->call = call;
    s->x = exchange_ref(call->x);
    s->api = api;
    s->counts = counts;
    s->requests_max = counts->requests_max;
    s->is_bare = is_mlserver;
    s->ends_at_err =
        is_mlserver || slice_is_nocase(call_metadata(call, "triton_grpc_error"), "true");
    s->task.run = on_task;
    list_init(&s->all);
    list_init(&s->ordered);
    count(&counts->open, 1);
    count(&counts->total, 1);
    call->user = &user;
    call->user_data = s;
    call->keeps_none = true;
    read_next(s);
}

enum err_code kserve_streams_register(struct kserve_streams *streams, struct metrics *metrics,
                                      struct err *err)
{
    TRY(metrics_add(metrics, METRIC_GAUGE, "penstock_kserve_streams_open",
                    "ModelStreamInfer calls under way", "", &streams->open, 1, err));
    TRY(metrics_add(metrics, METRIC_COUNTER, "penstock_kserve_streams_total",
                    "ModelStreamInfer calls", "", &streams->total, 1, err));
    TRY(metrics_add(metrics, METRIC_COUNTER, "penstock_kserve_stream_requests_total",
                    "Requests that came in them", "", &streams->requests, 1, err));
    return metrics_add(metrics, METRIC_COUNTER, "penstock_kserve_stream_pauses_total",
                       "Times that one was not read because --stream-requests-max were in flight",
                       "", &streams->pauses, 1, err);
}
