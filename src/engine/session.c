/* session.c - one caller's stream through a model. SPDX-License-Identifier: Apache-2.0
 *
 * EACH is a row of engine requests: a piece is its request's inputs (in the piece's own arena), one
 * runs at a time, in order. STACK and WINDOW collect rows (session_rows.c) and run requests of their
 * own; LAST keeps the newest piece. Where the backend takes streams there is one request for the
 * whole session, and pieces go to it (stream.c).
 *
 * Everything that happens is decided in one place, step(), which pump() calls until there is nothing
 * left to do: calls from the sink and callbacks of inline runs only note what they want, and the pump
 * that is under way sees it. What a call may not do at once (grant, finish, interrupt, cancel: none
 * calls the sink from within) is put off to the end of the turn, as is on_free.
 *
 * A piece lives until it is both told (on_piece_end) and free (its request let go of it): a run whose
 * caller interrupted it is told at once, and its memory follows when the backend has stopped. Pieces
 * are told in the order in which they were pushed.
 */
#include "engine/session.h"

#include <stdio.h>
#include <string.h>

#include "access/access.h"
#include "base/arena.h"
#include "base/list.h"
#include "base/mem.h"
#include "engine/session_internal.h"

static const char interrupted[] = "interrupted by the caller";

enum { SESSION_BYTES_MAX = 64 << 20 };

static void pump(struct session *session);
static void session_free(struct session *session);
static void submit(struct session *session, struct piece *piece);
static void free_run(struct piece *piece);
static void on_given_back(struct stream *stream, struct stream_piece *of_stream);
static bool may_tell(struct session *session, const struct piece *piece);
static void tell_piece(struct session *session, struct piece *piece);

/* -- life ---------------------------------------------------------------------------------------- */

static size_t parameters_size(const struct parameter *list)
{
    size_t size = 0;

    for (; list != NULL; list = list->next)
        size += sizeof *list + ((strlen(list->key) + strlen(list->text) + 2 + 15) & ~(size_t)15);
    return size;
}

/* One behind the other at `at`, each with its texts behind it. */
static const struct parameter *copy_parameters(uint8_t *at, const struct parameter *list)
{
    struct parameter *first = NULL, **link = &first;

    for (; list != NULL; list = list->next) {
        struct parameter *copy = (struct parameter *)(void *)at;
        size_t key = strlen(list->key) + 1, text = strlen(list->text) + 1;
        char *words = (char *)(at + sizeof *copy);
        *copy = *list;
        copy->next = NULL;
        copy->key = memcpy(words, list->key, key);
        copy->text = memcpy(words + key, list->text, text);
        at += sizeof *copy + ((key + text + 15) & ~(size_t)15);
        *link = copy;
        link = &copy->next;
    }
    return first;
}

static void on_task(struct loop_task *task)
{
    struct session *s = CONTAINER_OF(task, struct session, task);

    if (s->is_over)
        session_free(s);
    else
        pump(s);
}

static void on_deadline(struct timer *timer)
{
    struct session *s = CONTAINER_OF(timer, struct session, timer);

    s->is_late = true;
    pump(s);
}

/* Everything but on_free. */
static void dispose(struct session *s)
{
    struct engine *engine = s->engine;
    struct model *model = s->model;

    timer_stop(s->loop, &s->timer);
    loop_undefer(&s->task);
    fed_free(s);
    rows_free(&s->rows);
    kept_free(&s->kept);
    caller_unref(&s->settings.caller);
    mem_free(s->fatal);
    mem_free(s);
    model_unref(&model);
    atomic_fetch_sub_explicit(&engine->sessions_open, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&engine->in_flight, 1, memory_order_release);
}

/* What it needs beside itself: state, rows, the run of a backend that takes streams. */
static enum err_code prepare(struct session *s, struct err *err)
{
    enum session_reduce reduce = s->settings.reduce;

    s->takes_stream = (s->model->traits & PENSTOCK_BACKEND_TAKES_STREAM) != 0;
    if (s->takes_stream && reduce != SESSION_EACH)
        return err_set(err, E_INVALID,
                       "model '%s' takes its input in pieces itself: only `reduce: each` is "
                       "possible",
                       s->model->host.name);
    TRY(fed_new(s, err));
    if (reduce == SESSION_STACK || reduce == SESSION_WINDOW)
        TRY(rows_new(s, err));
    if (s->takes_stream) {
        s->running = session_run_new(s);
        if (s->running == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for a stream; retry later");
        stream_init(&s->stream, private_of(s->running->request), on_given_back);
    }
    if (s->settings.deadline_ns == UINT64_MAX)
        return OK;
    enum err_code code = timer_start(s->loop, &s->timer, s->settings.deadline_ns, err);
    if (code != OK && s->running != NULL)
        free_run(TAKE(s->running));
    return code;
}

enum err_code session_new(struct session **ret, struct engine *engine, struct model *model,
                          const struct session_settings *settings, const struct session_sink *sink,
                          struct err *err)
{
    struct engine_loop *l = engine_loop_of(engine, settings->loop);
    const struct signature *signature = model->signature;
    size_t wants = settings->wants == NULL ? 0 : (signature->outputs_count + 15u) & ~15u;

    require(loop_is_mine(settings->loop) || loop_current() == NULL);
    if (atomic_load_explicit(&engine->is_draining, memory_order_relaxed)) {
        err_set(err, E_UNAVAILABLE, "the server is draining and takes no new streams");
        err->retry_after_ms = 1000;
        return E_UNAVAILABLE;
    }
    int64_t open = atomic_fetch_add_explicit(&engine->sessions_open, 1, memory_order_relaxed);
    if (open >= (int64_t)engine->settings.sessions_max) {
        atomic_fetch_sub_explicit(&engine->sessions_open, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&engine->sessions_refused, 1, memory_order_relaxed);
        err_set(err, E_EXHAUSTED,
                "%lld streams are open, as many as the server takes (--sessions-max). Retry later",
                (long long)open);
        err->retry_after_ms = 1000;
        return E_EXHAUSTED;
    }
    struct session *s = mem_zalloc(sizeof *s + wants + parameters_size(settings->parameters) + 16);
    if (s == NULL) {
        atomic_fetch_sub_explicit(&engine->sessions_open, 1, memory_order_relaxed);
        return err_set(err, E_EXHAUSTED, "no memory for a stream; retry later");
    }
    s->engine = engine;
    s->loop = settings->loop;
    s->sink = sink;
    s->settings = *settings;
    s->settings.caller = caller_ref(settings->caller);
    list_init(&s->waiting);
    list_init(&s->out);
    list_init(&s->answered);
    s->task.run = on_task;
    s->timer.on_due = on_deadline;
    if (s->settings.pieces_max == 0)
        s->settings.pieces_max = engine->settings.pieces_max;
    if (s->settings.bytes_max == 0)
        s->settings.bytes_max = SESSION_BYTES_MAX;
    s->pieces_left = s->settings.pieces_max;
    s->credit = settings->credit;
    uint8_t *memory = (uint8_t *)(((uintptr_t)s->memory + 15) & ~(uintptr_t)15);
    if (settings->wants != NULL)
        s->settings.wants = memcpy(memory, settings->wants, signature->outputs_count);
    s->settings.parameters = copy_parameters(memory + wants, settings->parameters);
    s->model = model_ref(model);
    atomic_fetch_add_explicit(&engine->in_flight, 1, memory_order_relaxed);
    enum err_code code = prepare(s, err);
    if (code != OK) {
        dispose(s);
        return code;
    }
    model_stat_add(&l->sessions_total, 1);
    *ret = s;
    return OK;
}

static void session_free(struct session *s)
{
    s->sink->on_free(s);
    dispose(s);
}

void session_start(struct session *s)
{
    require(loop_is_mine(s->loop) && !s->is_started);
    s->is_started = true;
    if (s->takes_stream)
        submit(s, s->running);
    pump(s);
}

void *session_user(const struct session *s)
{
    return s->settings.user;
}

struct caller *session_caller(const struct session *s)
{
    return s->settings.caller;
}

struct model *session_model(const struct session *s)
{
    return s->model;
}

uint32_t session_pieces_left(const struct session *s)
{
    return s->pieces_left;
}

uint32_t session_pieces_max(const struct session *s)
{
    return s->settings.pieces_max;
}

bool session_wants(const struct session *s, uint32_t output)
{
    const struct signature_tensor *t = &s->model->signature->outputs[output];

    return s->settings.wants != NULL ? s->settings.wants[output] : !t->is_hidden && !t->is_state;
}

/* -- pieces ---------------------------------------------------------------------------------------- */

/* The memory only: what it is in must have let go of it. */
static void free_piece(struct piece *piece)
{
    struct session *s = piece->session;
    struct arena *arena = piece->pub.arena; /* it holds the piece */

    engine_arena_give(s->engine, s->loop, &arena);
}

/* A run that was never submitted. */
static void free_run(struct piece *piece)
{
    request_discard(&piece->request);
    free_piece(piece);
}

/* Back to the caller as credit, once nobody needs it any more. */
static void release_piece(struct piece *piece)
{
    if (!piece->is_told || piece->is_running)
        return;
    if (!piece->is_run_only)
        piece->session->pieces_freed++;
    free_piece(piece);
}

static bool is_interrupted(const struct session *s, const struct piece *piece)
{
    return piece->pub.number <= s->interrupted_to;
}

static void answer_piece(struct piece *piece, enum err_code code, const char *text,
                         uint32_t retry_after_ms)
{
    piece->code = code;
    piece->retry_after_ms = retry_after_ms;
    piece->text = text;
    /* By its number: an interruption ends pieces that wait before the one that the backend has. */
    struct list *list = &piece->session->answered;
    struct list_node *after = list->head.prev;
    while (after != &list->head &&
           CONTAINER_OF(after, struct piece, node)->pub.number > piece->pub.number)
        after = after->prev;
    piece->node.prev = after;
    piece->node.next = after->next;
    after->next->prev = &piece->node;
    after->next = &piece->node;
}

/* A piece that was dropped before it ran, or whose rows are collected: only EACH tells. */
static void drop_piece(struct piece *piece, enum err_code code, const char *text)
{
    if (piece->request != NULL)
        request_discard(&piece->request);
    if (piece->session->settings.reduce == SESSION_EACH) {
        answer_piece(piece, code, text, 0);
        return;
    }
    piece->is_told = true;
    release_piece(piece);
}

/* -- responses ------------------------------------------------------------------------------------- */

static struct session_piece *piece_of(struct session *s, uint64_t number)
{
    struct list *const lists[] = { &s->out, &s->answered };

    if (s->running != NULL && s->running->pub.number == number && !s->running->is_run_only)
        return &s->running->pub;
    for (size_t i = 0; i < COUNT(lists); i++)
        for (struct list_node *node = list_first(lists[i]); node != NULL;
             node = list_next(lists[i], node)) {
            struct piece *piece = CONTAINER_OF(node, struct piece, node);
            if (piece->pub.number == number)
                return &piece->pub;
        }
    return NULL;
}

/* The caller's look at one, for which it has credit. */
static void give(struct session *s, struct response *response, uint64_t piece)
{
    struct session_response given = { .response = response,
                                      .piece = piece,
                                      .merged = response->merged,
                                      .of = piece == 0 ? NULL : piece_of(s, piece) };

    if (s->credit != UINT32_MAX && s->credit != 0 && --s->credit == 0)
        s->dry_ns = loop_now_ns(s->loop);
    given.number = response->number = ++s->responses;
    if (s->sink->on_response != NULL)
        s->sink->on_response(s, &given);
}

static void fail(struct session *s, const struct err *err)
{
    static const struct err unsaid = { .code = E_EXHAUSTED,
                                       .text = "the stream failed, and there is no memory to say "
                                               "why" };

    if (s->fatal != NULL || s->is_failed)
        return;
    s->is_failed = true;
    s->fatal = mem_alloc(sizeof *s->fatal);
    if (s->fatal != NULL)
        *s->fatal = err->code != OK ? *err : unsaid;
}

/* The reader has no credit, and newer responses take the place of older ones. */
static void keep(struct session *s, struct response *response, uint64_t piece)
{
    struct model_stats *shard = &s->model->shards[loop_index(s->loop)];

    if (s->kept == NULL) {
        s->kept = keep_response(response, s->settings.budget);
        if (s->kept == NULL) {
            struct err err;
            err_set(&err, E_EXHAUSTED, "no memory for an answer that waits; retry later");
            fail(s, &err);
            return;
        }
        s->kept->piece = piece;
        return;
    }
    if (keep_merged(&s->kept, response, s->settings.merge, s->settings.budget) == OK)
        s->kept->piece = piece;
    model_stat_add(&shard->merged_total, 1);
    if (s->kept->bytes >= MERGED_BYTES_MAX && s->running != NULL)
        request_pause(s->running->request, true);
}

static void give_kept(struct session *s)
{
    struct kept *kept = TAKE(s->kept);

    if (s->running != NULL)
        request_pause(s->running->request, false);
    give(s, &kept->response, kept->piece);
    kept_free(&kept);
}

/* -- what a run tells ------------------------------------------------------------------------------ */

/* Was this response made before the backend knew of an interruption? */
static bool is_stale(const struct session *s, const struct piece *piece,
                     const struct request_private *p)
{
    return s->takes_stream ? p->now_interrupts != s->interrupts_asked : is_interrupted(s, piece);
}

static void on_run_response(struct request *request, struct response *response)
{
    struct piece *piece = request->user;
    struct session *s = piece->session;
    struct request_private *p = private_of(request);
    uint64_t number = s->takes_stream ? p->now_piece : piece->pub.number;
    struct err err = { .code = OK };

    if (s->has_ended || s->is_cancelled)
        return;
    /* The ends of the pieces before it come first. */
    for (struct list_node *node; s->takes_stream && (node = list_first(&s->answered)) != NULL;) {
        struct piece *before = CONTAINER_OF(node, struct piece, node);
        if (before->pub.number >= number || !may_tell(s, before))
            break;
        list_remove(node);
        tell_piece(s, before);
    }
    if (is_stale(s, piece, p)) {
        if (s->settings.merge == SESSION_PAUSE && s->credit != UINT32_MAX)
            request_grant(request, 1); /* it did not reach the reader */
        return;
    }
    response->merged = 0;
    if (fed_keep(s, response, &err) != OK)
        fail(s, &err);
    else if (s->settings.merge != SESSION_PAUSE && (s->credit == 0 || s->kept != NULL))
        keep(s, response, number);
    else
        give(s, response, number);
}

static void on_run_end(struct request *request, const struct err *err)
{
    struct piece *piece = request->user;
    struct session *s = piece->session;
    const char *text = "";

    if (s->settings.on_run != NULL && !s->is_cancelled && !s->has_ended)
        s->settings.on_run(s, request, err->code);
    if (err->code == OK && !is_interrupted(s, piece))
        fed_commit(s);
    else
        fed_forget(s);
    if (s->settings.reduce != SESSION_EACH || s->takes_stream) {
        if (err->code != OK && !(is_interrupted(s, piece) && !s->takes_stream))
            fail(s, err);
        s->has_stream_ended = s->takes_stream;
        pump(s);
        return;
    }
    if (is_interrupted(s, piece)) {
        answer_piece(piece, E_CANCELLED, interrupted, 0);
        pump(s);
        return;
    }
    if (err->code != OK) {
        text = arena_strndup(piece->pub.arena, err->text, strlen(err->text));
        if (text == NULL)
            text = "the run failed, and there is no memory to say why";
    }
    answer_piece(piece, err->code, text, err->retry_after_ms);
    pump(s);
}

/* Pieces that the backend had, or left where they were. */
static void take_back(struct session *s)
{
    struct list_node *node;

    while ((node = list_pop(&s->stream.pieces)) != NULL) {
        struct piece *piece = CONTAINER_OF(node, struct piece, of_stream.node);
        piece->is_running = false;
    }
    if (s->stream.taken != NULL)
        CONTAINER_OF(TAKE(s->stream.taken), struct piece, of_stream)->is_running = false;
    while ((node = list_pop(&s->out)) != NULL) {
        struct piece *piece = CONTAINER_OF(node, struct piece, node);
        piece->is_told = true;
        release_piece(piece);
    }
}

static void on_run_free(struct request *request)
{
    struct piece *piece = request->user;
    struct session *s = piece->session;

    piece->is_running = false;
    piece->request = NULL;
    require(s->running == piece);
    s->running = NULL;
    fed_forget(s);
    if (s->takes_stream)
        take_back(s);
    if (s->has_ended)
        piece->is_told = true;
    release_piece(piece);
    pump(s);
}

static const struct request_sink run_sink = { on_run_response, on_run_end, on_run_free };

/* The backend has taken the next piece, or has none any more. */
static void on_given_back(struct stream *stream, struct stream_piece *of_stream)
{
    struct piece *piece = CONTAINER_OF(of_stream, struct piece, of_stream);
    struct session *s = CONTAINER_OF(stream, struct session, stream);

    piece->is_running = false;
    list_remove(&piece->node);
    if (s->has_ended) {
        piece->is_told = true;
        release_piece(piece);
        return;
    }
    if (is_interrupted(s, piece))
        answer_piece(piece, E_CANCELLED, interrupted, 0);
    else
        answer_piece(piece, OK, "", 0);
    pump(s);
}

/* -- pieces in ------------------------------------------------------------------------------------- */

static struct piece *piece_new(struct session *s, bool with_request)
{
    uint32_t inputs = s->model->signature->inputs_count;
    struct arena *arena = engine_arena_take(s->engine, s->loop);
    struct err err;

    if (arena == NULL)
        return NULL;
    struct piece *piece = arena_zalloc(arena, sizeof *piece);
    bool ok = piece != NULL;
    if (ok && with_request) {
        ok = request_new(&piece->request, s->engine, s->model, arena, s->loop, &run_sink, &err) ==
             OK;
    } else if (ok) {
        piece->pub.inputs = arena_alloc(arena, inputs * sizeof *piece->pub.inputs);
        piece->pub.has_input = arena_zalloc(arena, inputs * sizeof(bool));
        ok = piece->pub.inputs != NULL && piece->pub.has_input != NULL;
    }
    if (!ok) {
        engine_arena_give(s->engine, s->loop, &arena);
        return NULL;
    }
    if (with_request) {
        piece->pub.inputs = piece->request->inputs;
        piece->pub.has_input = piece->request->has_input;
        piece->request->user = piece;
        private_of(piece->request)->is_of_session = true;
    }
    piece->session = s;
    piece->pub.arena = arena;
    piece->pub.id = "";
    return piece;
}

struct piece *session_run_new(struct session *s)
{
    struct piece *run = piece_new(s, true);

    if (run != NULL)
        run->is_run_only = run->is_told = true;
    return run;
}

enum err_code session_piece_new(struct session *s, struct session_piece **ret, struct err *err)
{
    require(loop_is_mine(s->loop));
    if (s->pieces_left == 0) {
        model_stat_add(&engine_loop_of(s->engine, s->loop)->pieces_refused, 1);
        return err_set(err, E_EXHAUSTED,
                       "%u inputs wait for an answer in this stream, as many as it takes "
                       "(--stream-pieces-max). Send more when answers have come",
                       s->settings.pieces_max);
    }
    struct piece *piece = piece_new(s, s->rows == NULL && !s->takes_stream);
    if (piece == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for one more input; retry later");
    s->pieces_left--;
    *ret = &piece->pub;
    return OK;
}

void session_piece_discard(struct session *s, struct session_piece **slot)
{
    struct session_piece *pub = TAKE(*slot);

    if (pub == NULL)
        return;
    free_run(CONTAINER_OF(pub, struct piece, pub));
    s->pieces_left++;
}

static enum err_code check_piece(struct session *s, struct piece *piece, struct err *err)
{
    struct inputs in = { .tensors = piece->pub.inputs, .is_there = piece->pub.has_input };

    if (piece->request != NULL)
        return request_check(private_of(piece->request), true, err);
    if (s->rows != NULL)
        return rows_check(s, piece, err);
    TRY(inputs_check(s->model, piece->pub.arena, &in, false, err));
    piece->of_stream.inputs = in.for_backend;
    piece->of_stream.has_input = in.is_there;
    piece->of_stream.rows = (int64_t)in.batch_size;
    return OK;
}

/* To the backend that takes pieces itself. */
static void push_to_stream(struct session *s, struct piece *piece)
{
    piece->of_stream.number = piece->pub.number;
    piece->of_stream.parameters = piece->pub.parameters;
    piece->is_running = true;
    list_push(&s->out, &piece->node);
    stream_push(&s->stream, &piece->of_stream);
}

enum err_code session_push(struct session *s, struct session_piece **slot, struct err *err)
{
    struct piece *piece = CONTAINER_OF(*slot, struct piece, pub);

    require(loop_is_mine(s->loop) && s->is_started);
    if (s->is_finished)
        return err_set(err, E_PRECONDITION,
                       "this stream's input has ended: begin another to send more");
    if (s->has_ended || s->has_stream_ended)
        return err_set(err, E_CANCELLED, "this stream has ended");
    TRY(check_piece(s, piece, err));
    *slot = NULL;
    piece->pub.number = ++s->pieces;
    if (s->takes_stream)
        push_to_stream(s, piece);
    else
        list_push(&s->waiting, &piece->node);
    pump(s);
    return OK;
}

/* -- the pump -------------------------------------------------------------------------------------- */

/* The piece's own parameters come first: they are found before the session's. */
static void give_parameters(struct session *s, struct piece *piece)
{
    struct parameter **link = &piece->pub.parameters;

    while (*link != NULL)
        link = &(*link)->next;
    *link = (struct parameter *)(uintptr_t)s->settings.parameters; /* read only */
    piece->request->parameters = piece->pub.parameters;
}

static void submit(struct session *s, struct piece *piece)
{
    struct request *request = piece->request;

    request->id = piece->pub.id;
    request->caller = s->settings.caller;
    request->trace = s->settings.trace;
    request->deadline_ns = s->settings.deadline_ns;
    for (uint32_t i = 0; i < s->model->signature->outputs_count; i++)
        request->wants[i] = session_wants(s, i);
    fed_give(s, request);
    give_parameters(s, piece);
    if (s->settings.merge != SESSION_PAUSE)
        request_use_window(request);
    else
        request_limit_credit(request, s->credit);
    piece->is_running = true;
    s->running = piece;
    engine_submit(request);
}

/* A run of what was collected. */
static void run_rows(struct session *s)
{
    struct piece *run = session_run_new(s);
    struct err err = { .code = OK };

    if (run == NULL)
        err_set(&err, E_EXHAUSTED, "no memory for a run of the stream; retry later");
    else if (rows_fill(s, run->request, &err) != OK)
        free_run(TAKE(run));
    if (run == NULL) {
        fail(s, &err);
        return;
    }
    run->pub.number = s->pieces_taken;
    submit(s, run);
}

static void tell_piece(struct session *s, struct piece *piece)
{
    struct err err = { .code = piece->code, .retry_after_ms = piece->retry_after_ms };

    if (piece->text != NULL)
        snprintf(err.text, sizeof err.text, "%s", piece->text);
    piece->is_told = true;
    if (!s->has_ended && s->sink->on_piece_end != NULL)
        s->sink->on_piece_end(s, &piece->pub, &err);
    release_piece(piece);
}

/* What waits is dropped; what runs is told to stop. */
static void interrupt(struct session *s)
{
    struct list_node *node;

    s->interrupts_done = s->interrupts_asked;
    kept_free(&s->kept);
    if (s->takes_stream)
        return; /* session_interrupt told the backend */
    if (s->running != NULL && is_interrupted(s, s->running) && !list_has(&s->running->node)) {
        if (!s->running->is_told) /* LAST, rows: nothing to tell */
            answer_piece(s->running, E_CANCELLED, interrupted, 0);
        request_cancel(s->running->request);
    }
    if (s->last != NULL && is_interrupted(s, s->last))
        drop_piece(TAKE(s->last), E_CANCELLED, interrupted);
    if (s->rows != NULL)
        rows_drop(s);
    while ((node = list_first(&s->waiting)) != NULL) {
        struct piece *piece = CONTAINER_OF(node, struct piece, node);
        if (!is_interrupted(s, piece))
            break;
        list_remove(node);
        drop_piece(piece, E_CANCELLED, interrupted);
    }
}

static void end(struct session *s, const struct err *err)
{
    struct list_node *node;

    s->has_ended = true;
    timer_stop(s->loop, &s->timer);
    if (!s->is_cancelled && s->sink->on_end != NULL)
        s->sink->on_end(s, err);
    kept_free(&s->kept);
    if (s->last != NULL)
        free_run(TAKE(s->last));
    while ((node = list_pop(&s->waiting)) != NULL)
        free_run(CONTAINER_OF(node, struct piece, node));
    while ((node = list_pop(&s->answered)) != NULL)
        tell_piece(s, CONTAINER_OF(node, struct piece, node));
    if (s->running == NULL)
        return;
    if (s->is_started)
        request_cancel(s->running->request);
    else
        free_run(TAKE(s->running));
}

static void end_failed(struct session *s)
{
    struct err err;

    if (s->fatal != NULL)
        err = *s->fatal;
    else
        err_set(&err, E_EXHAUSTED, "the stream failed, and there is no memory to say why");
    end(s, &err);
}

/* May a run begin whose responses somebody will take? */
static bool has_room(const struct session *s)
{
    if (s->settings.merge == SESSION_PAUSE)
        return s->credit > 0;
    return s->kept == NULL || s->kept->bytes < MERGED_BYTES_MAX;
}

/* STACK and WINDOW: the rows of the next piece. */
static void take_rows(struct session *s, struct piece *piece)
{
    struct err err = { .code = OK };

    list_remove(&piece->node);
    s->pieces_taken = piece->pub.number;
    if (rows_check(s, piece, &err) != OK || rows_take(s, piece, &err) != OK)
        fail(s, &err);
    piece->is_told = true;
    release_piece(piece);
}

/* LAST: the newer takes the older's place. */
static void take_last(struct session *s, struct piece *piece)
{
    list_remove(&piece->node);
    if (s->last != NULL)
        drop_piece(TAKE(s->last), OK, "");
    s->last = piece;
}

/* Nothing runs: begins what can begin. False: nothing can. */
static bool start_next(struct session *s)
{
    struct list_node *node = list_first(&s->waiting);
    struct piece *piece = node == NULL ? NULL : CONTAINER_OF(node, struct piece, node);

    switch (s->settings.reduce) {
    case SESSION_EACH:
        if (piece == NULL || !has_room(s))
            return false;
        list_remove(node);
        submit(s, piece);
        return true;
    case SESSION_WINDOW:
        if (rows_has_window(s)) {
            if (!has_room(s))
                return false;
            run_rows(s);
            return true;
        }
        break;
    case SESSION_STACK:
    case SESSION_LAST: break;
    }
    if (piece != NULL && s->settings.reduce == SESSION_LAST) {
        take_last(s, piece);
        return true;
    }
    if (piece != NULL) {
        take_rows(s, piece);
        return true;
    }
    if (!s->is_finished || s->has_run_last || !has_room(s))
        return false;
    if (s->settings.reduce == SESSION_STACK && !rows_is_empty(s)) {
        s->has_run_last = true;
        run_rows(s);
        return true;
    }
    if (s->settings.reduce == SESSION_LAST && s->last != NULL) {
        s->has_run_last = true;
        s->last->is_told = true; /* only EACH tells */
        submit(s, TAKE(s->last));
        return true;
    }
    return false;
}

/* Finished, and nothing is left that could still be answered? */
static bool is_complete(const struct session *s)
{
    if (s->takes_stream)
        return s->has_stream_ended;
    if (!s->is_finished || !list_is_empty(&s->waiting) || s->last != NULL)
        return false;
    switch (s->settings.reduce) {
    case SESSION_WINDOW: return !rows_has_window(s);
    case SESSION_STACK: return s->has_run_last || rows_is_empty(s);
    case SESSION_EACH:
    case SESSION_LAST: break;
    }
    return true;
}

/* Not before its last answer is given, nor before the piece in front of it is told. */
static bool may_tell(struct session *s, const struct piece *piece)
{
    struct list_node *node = list_first(&s->out);

    if (s->kept != NULL && s->kept->piece <= piece->pub.number)
        return false;
    return node == NULL || CONTAINER_OF(node, struct piece, node)->pub.number > piece->pub.number;
}

/* One thing at a time; false: nothing is left to do now. */
static bool step(struct session *s)
{
    static const struct err ok = { .code = OK };
    struct list_node *node;

    if (s->has_ended)
        return false;
    if (s->is_cancelled) {
        end(s, &ok);
        return false;
    }
    if (s->is_late) {
        struct err err;
        err_set(&err, E_DEADLINE, "the stream's deadline has passed");
        end(s, &err);
        return false;
    }
    if (s->interrupts_done != s->interrupts_asked) {
        interrupt(s);
        return true;
    }
    if (s->kept != NULL && s->credit > 0) {
        give_kept(s);
        return true;
    }
    node = list_first(&s->answered);
    if (node != NULL && may_tell(s, CONTAINER_OF(node, struct piece, node))) {
        list_remove(node);
        tell_piece(s, CONTAINER_OF(node, struct piece, node));
        return true;
    }
    if (s->pieces_freed > 0) {
        uint32_t pieces = s->pieces_freed;
        s->pieces_freed = 0;
        s->pieces_left += pieces;
        if (s->sink->on_credit != NULL)
            s->sink->on_credit(s, pieces);
        return true;
    }
    if (s->is_failed && s->kept == NULL) {
        end_failed(s);
        return false;
    }
    if (s->is_failed || (s->running != NULL && !s->has_stream_ended))
        return false;
    if (!s->takes_stream && start_next(s))
        return true;
    if (is_complete(s) && s->kept == NULL && list_is_empty(&s->answered))
        end(s, &ok);
    return false;
}

static void pump(struct session *s)
{
    if (s->is_pumping || s->is_over || !(s->is_started || s->is_cancelled))
        return;
    s->is_pumping = true;
    while (step(s))
        ;
    s->is_pumping = false;
    if (s->has_ended && s->running == NULL) {
        s->is_over = true;
        loop_defer(s->loop, &s->task); /* not from within what the caller called */
    }
}

void session_finish(struct session *s)
{
    require(loop_is_mine(s->loop));
    if (s->is_finished || s->has_ended)
        return;
    s->is_finished = true;
    if (s->takes_stream && s->running != NULL)
        stream_finish(&s->stream);
    loop_defer(s->loop, &s->task);
}

void session_interrupt(struct session *s)
{
    struct list dropped;
    struct list_node *node;

    require(loop_is_mine(s->loop));
    if (s->has_ended || s->has_stream_ended)
        return;
    s->interrupted_to = s->pieces;
    s->interrupts_asked++;
    loop_defer(s->loop, &s->task);
    if (!s->takes_stream)
        return;
    list_init(&dropped);
    stream_interrupt(&s->stream, &dropped);
    while ((node = list_pop(&dropped)) != NULL) {
        struct piece *piece = CONTAINER_OF(node, struct piece, of_stream.node);
        piece->is_running = false;
        list_remove(&piece->node);
        answer_piece(piece, E_CANCELLED, interrupted, 0);
    }
}

void session_grant(struct session *s, uint32_t responses)
{
    struct model_stats *shard = &s->model->shards[loop_index(s->loop)];

    require(loop_is_mine(s->loop));
    if (s->has_ended || responses == 0)
        return;
    if (s->credit == 0 && s->dry_ns != 0 && s->running == NULL && !list_is_empty(&s->waiting)) {
        uint64_t now = loop_now_ns(s->loop);
        model_stat_add(&shard->paused_total, now > s->dry_ns);
        model_stat_add(&shard->paused_ns, now > s->dry_ns ? now - s->dry_ns : 0);
    }
    s->dry_ns = 0;
    s->credit = s->credit > UINT32_MAX - responses ? UINT32_MAX : s->credit + responses;
    if (s->running != NULL && s->settings.merge == SESSION_PAUSE)
        request_grant(s->running->request, responses);
    loop_defer(s->loop, &s->task);
}

void session_cancel(struct session *s)
{
    require(loop_is_mine(s->loop));
    if (s->is_over)
        return;
    s->is_cancelled = true;
    loop_defer(s->loop, &s->task);
}
