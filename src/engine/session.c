/* session.c - one caller's stream through a model. SPDX-License-Identifier: Apache-2.0
 *
 * EACH is a row of engine requests: a piece is its request's inputs (in the piece's own arena), one
 * runs at a time, in order. Everything that happens is decided in one place, step(), which pump()
 * calls until there is nothing left to do: calls from the sink and callbacks of inline runs only note
 * what they want, and the pump that is under way sees it. What a call may not do at once (grant,
 * finish, interrupt, cancel: none calls the sink from within) is put off to the end of the turn.
 *
 * A piece lives until it is both told (on_piece_end) and free (its request let go of it): a run whose
 * caller interrupted it is told at once, and its memory follows when the backend has stopped.
 */
#include "engine/session.h"

#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/list.h"
#include "base/mem.h"
#include "engine/internal.h"

struct piece {
    struct session_piece pub;
    struct session *session;
    struct list_node node;   /* in waiting or answered */
    struct request *request; /* its inputs are the piece's */
    enum err_code code;      /* how it was answered, with text in the arena */
    uint32_t retry_after_ms;
    const char *text;
    bool is_running;         /* submitted and not freed */
    bool is_told;
};

struct session {
    struct engine *engine;
    struct model *model; /* one reference */
    struct loop *loop;
    const struct session_sink *sink;
    struct session_settings settings; /* pointers in it are copies of ours */
    struct list waiting;              /* pieces pushed, in order */
    struct list answered;             /* pieces to be told, in order */
    struct piece *running;
    uint64_t pieces;                  /* pushed */
    uint64_t responses;               /* given */
    uint64_t interrupted_to;          /* pieces up to this one are interrupted */
    uint64_t interrupts_done;
    uint32_t pieces_left;             /* that may be taken */
    uint32_t pieces_freed;            /* to be told as credit */
    uint32_t credit;                  /* of responses */
    struct timer timer;               /* the session's deadline */
    struct loop_task task;
    bool is_started, is_finished, is_cancelled, is_late;
    bool has_ended;                   /* on_end was called, or never will be */
    bool is_pumping;
    bool is_over; /* nothing is left of it: the task frees it */
    uint8_t memory[];                 /* wants, parameters */
};

static const char interrupted[] = "interrupted by the caller";

static void pump(struct session *session);
static void session_free(struct session *session);

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

enum err_code session_new(struct session **ret, struct engine *engine, struct model *model,
                          const struct session_settings *settings,
                          const struct session_sink *sink, struct err *err)
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
    if (settings->reduce != SESSION_EACH)
        return err_set(err, E_UNIMPLEMENTED, "only `each` is built so far");
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
    struct session *s =
        mem_zalloc(sizeof *s + wants + parameters_size(settings->parameters) + 16);
    if (s == NULL) {
        atomic_fetch_sub_explicit(&engine->sessions_open, 1, memory_order_relaxed);
        return err_set(err, E_EXHAUSTED, "no memory for a stream; retry later");
    }
    s->engine = engine;
    s->loop = settings->loop;
    s->sink = sink;
    s->settings = *settings;
    list_init(&s->waiting);
    list_init(&s->answered);
    s->task.run = on_task;
    s->timer.on_due = on_deadline;
    if (s->settings.pieces_max == 0)
        s->settings.pieces_max = engine->settings.pieces_max;
    s->pieces_left = s->settings.pieces_max;
    s->credit = settings->credit;
    uint8_t *memory = (uint8_t *)(((uintptr_t)s->memory + 15) & ~(uintptr_t)15);
    if (settings->wants != NULL)
        s->settings.wants = memcpy(memory, settings->wants, signature->outputs_count);
    s->settings.parameters = copy_parameters(memory + wants, settings->parameters);
    if (settings->deadline_ns != UINT64_MAX &&
        timer_start(s->loop, &s->timer, settings->deadline_ns, err) != OK) {
        mem_free(s);
        atomic_fetch_sub_explicit(&engine->sessions_open, 1, memory_order_relaxed);
        return E_EXHAUSTED;
    }
    s->model = model_ref(model);
    model_stat_add(&l->sessions_total, 1);
    atomic_fetch_add_explicit(&engine->in_flight, 1, memory_order_relaxed);
    *ret = s;
    return OK;
}

static void session_free(struct session *s)
{
    struct engine *engine = s->engine;
    struct model *model = s->model;

    timer_stop(s->loop, &s->timer);
    loop_undefer(&s->task);
    s->sink->on_free(s);
    mem_free(s);
    model_unref(&model);
    atomic_fetch_sub_explicit(&engine->sessions_open, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&engine->in_flight, 1, memory_order_release);
}

void session_start(struct session *s)
{
    require(loop_is_mine(s->loop) && !s->is_started);
    s->is_started = true;
    pump(s);
}

void *session_user(const struct session *s)
{
    return s->settings.user;
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

/* -- what a run tells ----------------------------------------------------------------------------- */

static void free_piece(struct piece *piece)
{
    struct session *s = piece->session;
    struct arena *arena = piece->pub.arena; /* it holds the piece */

    engine_arena_give(s->engine, s->loop, &arena);
}

static void release_piece(struct piece *piece)
{
    struct session *s = piece->session;

    if (!piece->is_told || piece->is_running)
        return;
    s->pieces_freed++;
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
    list_push(&piece->session->answered, &piece->node);
}

static void on_run_response(struct request *request, struct response *response)
{
    struct piece *piece = request->user;
    struct session *s = piece->session;
    struct session_response given = { .response = response,
                                      .piece = piece->pub.number,
                                      .of = &piece->pub };

    if (s->has_ended || is_interrupted(s, piece))
        return;
    if (s->credit != UINT32_MAX && s->credit != 0)
        s->credit--;
    given.number = response->number = ++s->responses;
    given.merged = response->merged = 0;
    if (s->sink->on_response != NULL)
        s->sink->on_response(s, &given);
}

static void on_run_end(struct request *request, const struct err *err)
{
    struct piece *piece = request->user;
    const char *text = "";

    if (is_interrupted(piece->session, piece)) {
        answer_piece(piece, E_CANCELLED, interrupted, 0);
        return;
    }
    if (err->code != OK) {
        text = arena_strndup(piece->pub.arena, err->text, strlen(err->text));
        if (text == NULL)
            text = "the run failed, and there is no memory to say why";
    }
    answer_piece(piece, err->code, text, err->retry_after_ms);
    pump(piece->session);
}

static void on_run_free(struct request *request)
{
    struct piece *piece = request->user;
    struct session *s = piece->session;

    piece->is_running = false;
    piece->request = NULL;
    require(s->running == piece);
    s->running = NULL;
    if (s->has_ended)
        piece->is_told = true;
    release_piece(piece);
    pump(s);
}

static const struct request_sink run_sink = { on_run_response, on_run_end, on_run_free };

/* -- pieces --------------------------------------------------------------------------------------- */

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
    struct arena *arena = engine_arena_take(s->engine, s->loop);
    if (arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for one more input; retry later");
    struct piece *piece = arena_zalloc(arena, sizeof *piece);
    if (piece == NULL ||
        request_new(&piece->request, s->engine, s->model, arena, s->loop, &run_sink, err) != OK) {
        engine_arena_give(s->engine, s->loop, &arena);
        return err_set(err, E_EXHAUSTED, "no memory for one more input; retry later");
    }
    piece->session = s;
    piece->pub.arena = arena;
    piece->pub.inputs = piece->request->inputs;
    piece->pub.has_input = piece->request->has_input;
    piece->pub.id = "";
    piece->request->user = piece;
    private_of(piece->request)->is_of_session = true;
    s->pieces_left--;
    *ret = &piece->pub;
    return OK;
}

void session_piece_discard(struct session *s, struct session_piece **slot)
{
    struct session_piece *pub = TAKE(*slot);

    if (pub == NULL)
        return;
    struct piece *piece = CONTAINER_OF(pub, struct piece, pub);
    request_discard(&piece->request);
    free_piece(piece);
    s->pieces_left++;
}

enum err_code session_push(struct session *s, struct session_piece **slot, struct err *err)
{
    struct piece *piece = CONTAINER_OF(*slot, struct piece, pub);

    require(loop_is_mine(s->loop) && s->is_started);
    if (s->is_finished)
        return err_set(err, E_PRECONDITION,
                       "this stream's input has ended: begin another to send more");
    if (s->has_ended)
        return err_set(err, E_CANCELLED, "this stream has ended");
    TRY(request_check(private_of(piece->request), true, err));
    *slot = NULL;
    piece->pub.number = ++s->pieces;
    list_push(&s->waiting, &piece->node);
    pump(s);
    return OK;
}

/* -- the pump ------------------------------------------------------------------------------------- */

/* The piece's own parameters come first: they are found before the session's. */
static void give_parameters(struct session *s, struct piece *piece)
{
    struct parameter **link = &piece->pub.parameters;

    while (*link != NULL)
        link = &(*link)->next;
    *link = (struct parameter *)(uintptr_t)s->settings.parameters; /* read only */
    piece->request->parameters = piece->pub.parameters;
}

static void start_run(struct session *s, struct piece *piece)
{
    struct request *request = piece->request;

    request->id = piece->pub.id;
    request->deadline_ns = s->settings.deadline_ns;
    if (s->settings.wants != NULL)
        memcpy(request->wants, s->settings.wants, model_signature(s->model)->outputs_count);
    give_parameters(s, piece);
    request_limit_credit(request, s->credit);
    piece->is_running = true;
    s->running = piece;
    engine_submit(request);
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

    if (s->running != NULL && is_interrupted(s, s->running) && !list_has(&s->running->node) &&
        !s->running->is_told) {
        answer_piece(s->running, E_CANCELLED, interrupted, 0);
        request_cancel(s->running->request);
    }
    while ((node = list_first(&s->waiting)) != NULL) {
        struct piece *piece = CONTAINER_OF(node, struct piece, node);
        if (!is_interrupted(s, piece))
            break;
        list_remove(node);
        request_discard(&piece->request);
        answer_piece(piece, E_CANCELLED, interrupted, 0);
    }
    s->interrupts_done = s->interrupted_to;
}

static void end(struct session *s, const struct err *err)
{
    struct list_node *node;

    s->has_ended = true;
    if (!s->is_cancelled && s->sink->on_end != NULL)
        s->sink->on_end(s, err);
    while ((node = list_pop(&s->waiting)) != NULL) {
        struct piece *piece = CONTAINER_OF(node, struct piece, node);
        request_discard(&piece->request);
        free_piece(piece);
    }
    while ((node = list_pop(&s->answered)) != NULL)
        tell_piece(s, CONTAINER_OF(node, struct piece, node));
    if (s->running != NULL)
        request_cancel(s->running->request);
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
    if (s->interrupts_done < s->interrupted_to) {
        interrupt(s);
        return true;
    }
    if ((node = list_pop(&s->answered)) != NULL) {
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
    if (s->running != NULL)
        return false;
    node = list_first(&s->waiting);
    if (node != NULL && s->credit > 0) {
        list_remove(node);
        start_run(s, CONTAINER_OF(node, struct piece, node));
        return true;
    }
    if (node == NULL && s->is_finished) {
        end(s, &ok);
        return false;
    }
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
    s->is_finished = true;
    loop_defer(s->loop, &s->task);
}

void session_interrupt(struct session *s)
{
    require(loop_is_mine(s->loop));
    s->interrupted_to = s->pieces;
    loop_defer(s->loop, &s->task);
}

void session_grant(struct session *s, uint32_t responses)
{
    require(loop_is_mine(s->loop));
    s->credit = s->credit > UINT32_MAX - responses ? UINT32_MAX : s->credit + responses;
    if (s->running != NULL && !s->has_ended)
        request_grant(s->running->request, responses);
    loop_defer(s->loop, &s->task);
}

void session_cancel(struct session *s)
{
    require(loop_is_mine(s->loop));
    s->is_cancelled = true;
    loop_defer(s->loop, &s->task);
}
