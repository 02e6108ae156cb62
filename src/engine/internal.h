/* engine/internal.h - what the files of engine/ share: the model's, the instance's and the
 * request's insides. Nobody outside engine/ includes it. */
#ifndef ENGINE_INTERNAL_H
#define ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "engine/engine.h"
#include "engine/policy.h"
#include "io/env.h"
#include "io/loop.h"

enum {
    SCRATCH_BYTES = 1024,
    INSTANCES_MAX = 256,
    SESSIONS_MAX = 10000,
    PIECES_MAX = 16,
    PIECE_ARENA_FIRST = 4096,          /* a piece with its request and small inputs */
    PIECE_ARENA_CAP = 64 * 1024 * 1024,
    ARENAS_KEPT = 64                   /* by each loop, for the next pieces */
};

/* What one loop keeps for its sessions; its own but for the counters. */
struct engine_loop {
    _Alignas(64) struct arena *arenas[ARENAS_KEPT]; /* owned */
    uint32_t arenas_count;
    _Atomic uint64_t sessions_total, pieces_refused; /* one writer: model_stat_add */
};

struct engine {
    struct env *env;
    struct engine_settings settings;
    struct engine_directory directory;
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
/* Arenas of pieces and runs, kept by each loop for the next ones. NULL: no memory. */
struct arena *engine_arena_take(struct engine *engine, struct loop *loop);
void engine_arena_give(struct engine *engine, struct loop *loop, struct arena **arena);

/* -- requests ---------------------------------------------------------------------------------- */

enum request_state { REQUEST_NEW, REQUEST_QUEUED, REQUEST_RUNNING, REQUEST_ENDED };

/* A response on its way from an instance's thread to the loop, beyond the first. */
struct emission {
    struct loop_msg msg;
    struct request *request;
    struct response response;
    struct response_output outputs[];
};

struct request_private {
    struct request pub;
    struct engine *engine;
    enum request_state state;     /* QUEUED and RUNNING change under the model's mutex */
    struct list_node queue_node;  /* in model.queue */
    struct timer timer;           /* deadline of a queued or running request */
    bool has_timer;
    bool was_queued;              /* the loop's: counted as pending */
    bool is_detached;             /* the loop's: the sink hears only on_free */
    bool has_ended;               /* the loop's: on_end was called */
    bool row_over;                /* the runner's: failed or done, nothing may be filled */
    bool has_filled;              /* the runner's: an output is set and not emitted */
    bool first_used;              /* the runner's: `response` was emitted */
    bool first_posted;            /* and is on its way, or was delivered, before the end */
    bool failed_in_backend;       /* the runner's: fail_row, done with a code, a missing output */
    bool was_late;                /* the loop's: its deadline passed while it ran */
    enum session_merge merge;
    bool is_of_session;           /* admitted with its session: draining does not refuse it */
    atomic_bool is_cancelled;
    atomic_uint credit;
    struct instance *instance;    /* while RUNNING, under the model's mutex */
    struct response response;     /* the first: outputs lie in the arena */
    struct emission *filling;     /* the runner's: a later response being filled */
    uint8_t *scratch;             /* memory for small outputs of the first response */
    size_t scratch_used;
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

/* Loop thread. Ends the request: on_end unless detached, the account, on_free. */
void request_finish(struct request_private *p);
/* Loop thread: a response to the sink unless detached. */
void request_deliver(struct request_private *p, struct response *response);
void emission_free(struct emission *e);
/* Checks the inputs that are there against the signature; is_partial: others may be missing. */
enum err_code request_check(struct request_private *p, bool is_partial, struct err *err);
void response_drop(struct response *response); /* lets go of the outputs' memory */
/* For the warm-up, which runs before there are loops: checks the inputs; gives back what a run left. */
enum err_code request_prepare_warm(struct request_private *p);
void request_drop_warm(struct request_private *p);

/* -- instances --------------------------------------------------------------------------------- */

struct penstock_batch {
    struct instance *instance;
    struct request_private *row; /* the direct scheduler runs one at a time */
    atomic_bool is_done;
    bool marked_input, marked_end;
};

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
};

/* Runs the request to its end of compute on the calling thread. p->err holds the outcome. */
void instance_run(struct instance *instance, struct request_private *p);
void instance_worker_main(void *arg);
void host_fill(struct penstock_host *host);

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
    struct list queue;             /* of request_private.queue_node */
    struct list idle;              /* of instance.idle_node */
    uint32_t queued, queue_max;
    uint32_t woken;                /* instances on their way: so many requests do not wait */
    uint64_t queue_timeout_us;
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

/* Puts the request into the queue and wakes an instance; E_EXHAUSTED when it is full. */
enum err_code model_enqueue(struct model *model, struct request_private *p, struct err *err);
/* Takes it out of the queue again; false when it is not there any more. */
bool model_dequeue(struct model *model, struct request_private *p);

static inline uint64_t env_now(struct engine *engine)
{
    return engine->env->mono_ns(engine->env);
}

#endif
