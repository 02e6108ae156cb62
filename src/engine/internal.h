/* engine/internal.h - what the files of engine/ share: the model's, the instance's and the
 * request's insides. Nobody outside engine/ includes it. */
#ifndef ENGINE_INTERNAL_H
#define ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "engine/admission.h"
#include "engine/engine.h"
#include "engine/line.h"
#include "engine/policy.h"
#include "engine/queue.h"
#include "io/env.h"
#include "io/loop.h"

enum {
    SCRATCH_BYTES = 1024,
    INSTANCES_MAX = 256,
    SESSIONS_MAX = 10000,
    PIECES_MAX = 16,
    PIECE_ARENA_FIRST = 4096,          /* a piece with its request and small inputs */
    PIECE_ARENA_CAP = 64 * 1024 * 1024,
    ARENAS_KEPT = 64,                  /* by each loop, for the next pieces */
    RETRY_MS_MAX = 60000               /* the longest hint: what is further off nobody knows */
};

/* What one loop keeps for its sessions; its own but for the counters. */
struct engine_loop {
    _Alignas(64) struct arena *arenas[ARENAS_KEPT]; /* owned */
    uint32_t arenas_count;
    _Atomic uint64_t sessions_total, pieces_refused; /* one writer: model_stat_add */
    struct line line;                /* who waits for this loop: engine_waiter.place */
    struct list displaced;           /* of those that lost their places in it, and are told at the end of the turn */
    struct loop_task line_task;      /* lets in, as long as somebody waits */
    struct engine *engine;
    _Atomic uint64_t waiting;        /* for metrics */
    _Atomic bool is_overloaded;
};

struct engine {
    struct env *env;
    struct engine_settings settings;
    struct engine_directory directory;
    struct engine_watch watch;
    struct penstock_host host;
    atomic_bool is_draining;
    _Atomic int64_t in_flight;
    _Atomic int64_t sessions_open;
    _Atomic uint64_t sessions_refused;
    struct engine_loop *loops;  /* owned array */
    uint32_t loops_count;
    /* closes models whose last reference was dropped on a loop */
    struct worker *reaper;
    struct mpsc reaper_queue;
    atomic_bool reaper_stops;
};

struct engine_loop *engine_loop_of(struct engine *engine, struct loop *loop);
void loop_line_init(struct engine *engine, struct engine_loop *l);

/* -- requests ---------------------------------------------------------------------------------- */

struct instance;
struct kept;
struct open_batch;
struct stream;

enum request_state { REQUEST_NEW, REQUEST_QUEUED, REQUEST_RUNNING, REQUEST_ENDED };

/* A response beyond the first, with memory for its small outputs: kept by its instance for the next
 * one. On the loop it lives while the sink looks at it; else it is on its way to the loop. */
struct emission {
    struct loop_msg msg; /* its node also links the instance's pool */
    struct request *request;
    struct instance *home; /* whose pool it goes back to; NULL: to the heap */
    struct response response;
    uint64_t piece;        /* see request_private.now_piece */
    uint32_t interrupts;
    uint32_t scratch_used;
    uint8_t *scratch;
    struct response_output outputs[];
};

struct request_private {
    struct request pub;
    struct engine *engine;
    enum request_state state;     /* QUEUED and RUNNING change under the model's mutex */
    struct queue_entry entry;     /* in model.queue */
    struct list_node queue_node;  /* in an instance's list of those who wait, or begin */
    struct timer timer;           /* deadline of a queued or running request */
    bool has_timer;
    bool was_queued;              /* the loop's: counted as pending */
    bool was_behind;              /* under the model's mutex: others were in front of it */
    bool has_entered;             /* the loop's: its tenant's limits count it */
    enum refusal refusal;         /* why it was not run; who ends it sets that */
    bool is_detached;             /* the loop's: the sink hears only on_free */
    bool has_ended;               /* the loop's: on_end was called */
    bool row_over;                /* the runner's: failed or done, nothing may be filled */
    bool has_filled;              /* the runner's: an output is set and not emitted */
    bool first_used;              /* the runner's: `response` was emitted */
    bool first_posted;            /* and is on its way, or was delivered, before the end */
    bool failed_in_backend;       /* the runner's: fail_row, done with a code, a missing output */
    bool was_late;                /* the loop's: its deadline passed while it ran */
    bool is_of_session;           /* admitted with its session: draining does not refuse it */
    bool is_over;                 /* the loop's: the run has ended, and its responses wait */
    bool is_giving;               /* the loop's: the sink looks at one of those */
    bool has_window, is_paused;   /* the loop's: see request_pause */
    uint32_t owed;                /* the loop's: credit of the window, kept back by the pause */
    enum err_code overran;        /* the loop's: why it was stopped; OK: it was not */
    enum session_merge merge;
    uint32_t reader_credit;       /* the loop's: responses that may be given to the sink */
    uint64_t given;               /* the loop's: responses that were */
    uint64_t dry_ns;              /* the loop's: when the reader's credit was used up; 0: it is not */
    struct kept *kept, **kept_end; /* the loop's: responses that wait for credit */
    uint32_t kept_count;
    struct loop_task task;        /* gives them when there is */
    struct stream *stream;        /* its inputs come in pieces; NULL: they are its own */
    uint32_t own_taken;           /* next_input of one whose inputs are its own: 1 taken, 2 over */
    /* of the response that the sink is just given: the piece that it answers, and how many
     * interruptions the backend had seen */
    uint64_t now_piece, first_piece;
    uint32_t now_interrupts, first_interrupts;
    struct open_batch *open;      /* of a CONCURRENT backend */
    uint64_t left_ns;             /* when nobody waited for it any more; 0: somebody does */
    atomic_bool is_cancelled;
    atomic_uint credit;
    struct instance *instance;    /* while RUNNING, under the model's mutex */
    struct response response;     /* the first: outputs lie in the arena */
    struct emission *filling;     /* the runner's: a later response being filled */
    uint8_t *scratch;             /* memory for small outputs of the first response */
    uint32_t scratch_used;
    uint64_t submitted_ns, begun_ns, input_end_ns, run_end_ns, ended_ns;
    uint64_t queue_due_ns;        /* until when it may wait; UINT64_MAX: any time */
    uint64_t batch_size;          /* rows along the first dim, for the statistics */
    struct penstock_tensor *backend_inputs; /* reshaped copies, or the public inputs */
    struct loop_msg end_msg, first_msg;
    struct err err;               /* how it ended */
};

static inline struct request_private *private_of(struct request *request)
{
    return request->private;
}

/* Whose share of a queue it takes. */
struct queue_tenant tenant_of(const struct caller *caller);
/* Loop thread. Ends the request: on_end unless detached, the account, on_free. */
void request_finish(struct request_private *p);
/* Loop thread: a response to the sink, now or when it has credit, unless detached. `piece` and
 * `interrupts`: see now_piece. */
void request_deliver(struct request_private *p, struct response *response, uint64_t piece,
                     uint32_t interrupts);
/* Loop thread. Where the reader's credit does not bound the backend (responses are merged), a window
 * does: so many responses may be on their way to the loop. Pausing keeps it shut. Before submit. */
void request_use_window(struct request *request);
void request_pause(struct request *request, bool is_paused);
/* The caller's own thread: the instance's, or the loop when it runs there. NULL: no memory. */
struct emission *emission_take(struct instance *instance, struct request_private *p);
/* Whoever was the last to look at it. */
void emission_give(struct emission *e, bool is_on_loop);
void emissions_free(struct instance *instance); /* the pool */
/* Inputs by index of the signature. */
struct inputs {
    struct penstock_tensor *tensors;
    bool *is_there;
    /* -- set by inputs_check -- */
    struct penstock_tensor *for_backend; /* the same, or reshaped copies in the arena */
    uint64_t bytes, batch_size;
};

/* Checks them against the signature and fills in the card's constants. is_partial: the state is a
 * session's to add. */
enum err_code inputs_check(const struct model *model, struct arena *arena, struct inputs *inputs,
                           bool is_partial, struct err *err);
/* One of them: datatype, shape, size. */
enum err_code input_check(const struct signature_tensor *want, const struct penstock_tensor *got,
                          struct err *err);
/* inputs_check of a request's. */
enum err_code request_check(struct request_private *p, bool is_partial, struct err *err);
void response_drop(struct response *response); /* lets go of the outputs' memory */
/* Any thread, under the model's mutex: one that was taken out of the queue and will not be run ends on
 * its loop, which is told so here. */
void request_drop_late(struct request_private *p);
void request_displace(struct request_private *p, uint64_t retry_after_ns);
/* For the warm-up, which runs before there are loops: checks the inputs; gives back what a run left. */
enum err_code request_prepare_warm(struct request_private *p);
void request_drop_warm(struct request_private *p);

/* -- instances --------------------------------------------------------------------------------- */

struct penstock_batch {
    struct instance *instance;
    struct request_private *row; /* the direct scheduler runs one at a time */
    struct open_batch *open;     /* that it is in; NULL: the instance's own */
    atomic_bool is_done;
    bool marked_input, marked_end;
};

/* A batch that stays open while others run, one a request (open.c). It belongs to the thread that
 * calls the backend, but for what is marked. */
struct open_batch {
    struct penstock_batch batch;
    void *context;               /* the backend's */
    uint64_t busy_ns;            /* that the backend was in execute() and resume() */
    struct list_node done_node;  /* in instance.done */
    bool is_started;
    /* on a loop */
    struct loop_task task;       /* execute or resume at the end of the turn */
    struct timer timer;          /* resume_after */
    /* on an instance's thread */
    struct list_node woken_node; /* in instance.woken, under the model's mutex */
    struct list_node again_node; /* in instance.again */
    uint64_t due_ns;             /* resume_after, in instance.dues */
    uint32_t slot;               /* 1 + place there; 0: none */
};

enum { EMISSIONS_KEPT = 64 };    /* by each instance */

struct instance {
    struct model *model;
    void *handle;               /* the backend's */
    uint32_t index;
    bool is_inline;             /* belongs to the loop of that index; else has a worker */
    struct worker *worker;      /* owned; NULL when inline or not started yet */
    struct list_node idle_node; /* in model.idle while the worker sleeps */
    bool is_woken;              /* under the model's mutex: on its way to the queue */
    bool is_running;            /* under the model's mutex: cancel() may be called */
    struct penstock_batch batch;
    /* emissions for the next responses: the running thread's; other threads give back to returned */
    struct emission *emissions;
    uint32_t emissions_count;   /* that were made for the pool and live */
    struct mpsc returned;
    /* -- of a CONCURRENT backend; the running thread's but for what is marked -- */
    uint32_t open_count;
    uint32_t waiting_count;
    bool is_entered;            /* the backend is being called */
    bool is_settling;
    struct list done;           /* of open_batch.done_node */
    struct list waiting;        /* on a loop: of request_private.queue_node, until there is room */
    struct list woken;          /* under the model's mutex: of open_batch.woken_node */
    struct list again;          /* of open_batch.again_node */
    struct open_batch **dues;   /* owned: a heap, the soonest first */
    uint32_t dues_count, dues_room;
};

/* Runs the request to its end of compute on the calling thread. p->err holds the outcome. */
void instance_run(struct instance *instance, struct request_private *p);
void instance_worker_main(void *arg);
void host_fill(struct penstock_host *host);
/* What an end of compute writes down: times, a missing output. */
void instance_account(struct instance *instance, struct request_private *p,
                      const struct penstock_batch *batch);

/* -- batches that stay open: open.c -------------------------------------------------------------- */

/* Loop thread: makes what a request to a CONCURRENT backend needs. */
enum err_code open_new(struct request_private *p, struct err *err);
/* Loop thread: runs it on the loop's instance, or lets it wait for room there. */
enum err_code open_begin(struct instance *instance, struct request_private *p, struct err *err);
/* Takes one that waits out again; false: it does not. */
bool open_give_up(struct request_private *p);
void open_worker_main(void *arg);
/* Loop thread: something that the batch may wait for is there. */
void open_wake(struct request_private *p);
/* The running side: resumes it soon, whatever it waits for. */
void open_again(struct open_batch *open);
void host_fill_open(struct penstock_host *host);
void open_close(struct instance *instance);
static inline bool model_is_concurrent(uint32_t traits)
{
    return (traits & PENSTOCK_BACKEND_CONCURRENT) != 0;
}

/* -- input in pieces, for backends that take them: stream.c --------------------------------------- */

struct stream_piece {
    struct list_node node;           /* in stream.pieces */
    struct loop_msg msg;             /* on its way back to the loop */
    struct stream *stream;
    uint64_t number;
    const struct penstock_tensor *inputs; /* as the backend sees them */
    const bool *has_input;
    const struct parameter *parameters;
    int64_t rows;                    /* that it has along the first dimension */
};

/* The session's; what the loop and the instance's thread share is under the model's mutex when it
 * runs on a thread. */
struct stream {
    struct request_private *p;
    struct list pieces;              /* shared: pushed and not taken */
    bool is_finished;                /* shared */
    uint32_t interrupts;             /* shared: asked for */
    struct stream_piece *taken;      /* the running side's */
    uint64_t taken_number;
    uint32_t interrupts_seen;
    bool was_held;                   /* next_input held a piece back for an interruption */
    /* Loop thread: the backend is done with that piece. */
    void (*on_given_back)(struct stream *stream, struct stream_piece *piece);
};

void stream_init(struct stream *stream, struct request_private *p,
                 void (*on_given_back)(struct stream *stream, struct stream_piece *piece));
void stream_push(struct stream *stream, struct stream_piece *piece);
void stream_finish(struct stream *stream);
/* Counts an interruption; the pieces that were not taken are the caller's again, in *ret. */
void stream_interrupt(struct stream *stream, struct list *ret);
void host_fill_stream(struct penstock_host *host);

/* -- responses that wait: keep.c ------------------------------------------------------------------ */

enum { KEPT_MAX = 16, MERGED_BYTES_MAX = 1 << 20, WINDOW_RESPONSES = 256 };

struct kept {
    struct kept *next;
    uint64_t piece;
    uint32_t interrupts;
    size_t bytes;                    /* of joined text */
    struct response response;        /* merged: as the sink will see it */
    size_t *rooms;                   /* by output: of a buf that is ours alone; 0: it is not */
    struct response_output outputs[];
};

/* A copy that outlives the sink's look: references where outputs have owners, else copies. */
struct kept *keep_response(const struct response *response, struct budget *budget);
/* The newer takes the older's place; texts are joined when merge says so. On no memory the older is
 * as it was, and one response is lost in `merged`. */
enum err_code keep_merged(struct kept **older, const struct response *newer,
                          enum session_merge merge, struct budget *budget);
void kept_free(struct kept **kept);

/* -- models ------------------------------------------------------------------------------------ */

struct penstock_model {
    struct engine *engine;
    const char *name, *folder, *path;
    int64_t version;
    char version_text[24];
    struct model_config *config;   /* owned */
    char *config_text;             /* owned: JSON, remade when the configuration is completed */
    bool is_opening;               /* declare() is allowed */
    uint32_t inputs_count, outputs_count, inputs_room, outputs_room;
    struct declared_tensor *inputs, *outputs; /* heap, owned; names in the arena */
    struct arena *arena;           /* owned */
};

struct model_attachment {
    _Atomic(void *) made;
    void (*release)(void *made);
};

struct model {
    struct mpsc_node reaper_node;
    atomic_uint refs;
    struct engine *engine;
    struct penstock_model host;    /* what the backend sees */
    const struct penstock_backend *backend;
    void *handle;
    uint32_t traits;
    struct signature *signature;   /* in the arena */
    const char *platform;
    uint32_t inline_count, queued_count;
    struct instance *inline_instances, *queued_instances; /* owned arrays */
    struct policy policy;
    struct model_stats stats;      /* what any thread counts */
    struct model_stats *shards;    /* owned: one a loop */
    uint32_t shards_count;
    uint64_t load_ns;
    /* -- the one leaf mutex: queue, idle list, running marks -- */
    pthread_mutex_t lock;
    struct queue queue;            /* of request_private.entry */
    struct admission admission;
    struct list idle;              /* of instance.idle_node */
    uint32_t queue_max;
    bool is_queue_high;            /* as was told */
    uint64_t queue_changes;
    uint32_t woken;                /* instances on their way: so many requests do not wait */
    atomic_bool is_pressed;        /* somebody was refused lately: asks before a body is read are worth it */
    uint64_t queue_timeout_us;
    uint32_t level_usual;          /* of priority; 0: the engine's */
    bool ignores_timeout;          /* a queue policy without allow_timeout_override */
    bool is_stopping;
    struct model_attachment attachments[MODEL_ATTACHMENTS]; /* attach.c; any thread */
};

/* The closer's: nobody uses the model any more. */
void model_attachments_free(struct model *model);

/* Closes it for good; blocks: never on a loop. */
void model_close(struct model *model);
/* Hands it to the reaper. Any thread. */
void engine_reap(struct engine *engine, struct model *model);
void model_host_fill(struct penstock_host *host);

/* Puts the request into the queue and wakes an instance. E_EXHAUSTED: it is full, or the wait too long;
 * E_DEADLINE: runs take longer than it has. p->refusal says which. */
enum err_code model_enqueue(struct model *model, struct request_private *p, struct err *err);
/* The same question before there is a request: engine_ask. */
enum err_code model_ask(struct model *model, const struct engine_question *question,
                        enum refusal *ret_refusal, struct err *err);
/* Takes the next that is worth running, ends those that are not; NULL: nobody waits. Under the mutex. */
struct request_private *model_take(struct model *model, uint64_t now_ns);
/* Under the mutex: a run has taken so long; its tenant is charged with that. */
void model_ran(struct model *model, struct request_private *p, uint64_t run_ns);
/* Under the mutex, when the queue has changed: true when somebody has to be told, by model_tell_queue
 * and without it. */
struct queue_change {
    bool is_high;
    uint32_t waiting;
    uint64_t change;
};
bool model_queue_changed(struct model *model, bool was_refused, struct queue_change *ret);
void model_tell_queue(struct model *model, const struct queue_change *change);
/* Takes it out of the queue again; false when it is not there any more. */
bool model_dequeue(struct model *model, struct request_private *p);

static inline uint64_t env_now(struct engine *engine)
{
    return engine->env->mono_ns(engine->env);
}

#endif
