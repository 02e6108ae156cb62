/* engine/model.h - a model version that can run: backend, instances, queue, policy, statistics.
 *
 * Life     model_new on a repository thread (blocks: files, devices), then model_ref / model_unref
 *          from any thread; the last unref hands it to a worker that closes it (never on a loop).
 * Threads  what is read-only after model_new is marked; the rest is atomic or under its one leaf
 *          mutex (queue).
 */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "engine/stats.h"
#include "model/config.h"
#include "model/signature.h"
#include "penstock/backend.h"

struct arena;
struct engine;
struct model;

enum execution { EXECUTION_AUTO, EXECUTION_INLINE, EXECUTION_QUEUED };

struct model_spec {
    const char *name;
    int64_t version;
    const char *folder;             /* absolute */
    const char *path;               /* absolute: the version's file or folder */
    const struct penstock_backend *backend;
    struct model_config *config;    /* taken on success */
    struct arena *arena;            /* taken on success: holds card, labels, signature strings */
    const struct card *card;        /* or NULL; in the arena */
    const char *service;            /* signature.service; in the arena, or NULL */
    /* Reads a label file named by config or card, beneath the model's folder; called from
     * model_new. On success appends to nothing: returns text that lives in the arena. */
    enum err_code (*read_file)(void *context, const char *name, struct slice *ret,
                               struct err *err);
    void *read_file_context;
};

/* Opens the backend's model, completes the configuration, builds the signature, opens the
 * instances. On failure everything is closed again, nothing is taken, and err says why. */
MUST_USE enum err_code model_new(struct model **ret, struct engine *engine,
                                 struct model_spec *spec, struct err *err);
struct model *model_ref(struct model *model);
void model_unref(struct model **model);

const char *model_name(const struct model *model);
int64_t model_version(const struct model *model);
const char *model_version_text(const struct model *model); /* "1" */
const char *model_folder(const struct model *model);
const struct signature *model_signature(const struct model *model);
const struct model_config *model_config(const struct model *model);
/* The completed configuration as JSON, as `/config` shows it; borrowed while the model lives. */
const char *model_config_text(const struct model *model);
const struct penstock_backend *model_backend(const struct model *model);
/* "onnxruntime_onnx", or the backend's name when the configuration has no platform. */
const char *model_platform(const struct model *model);
/* The sum of what all loops counted, into *sum; returns sum. */
const struct model_stats *model_stats(struct model *model, struct model_stats *sum);
uint32_t model_instances(const struct model *model);
bool model_is_decoupled(const struct model *model);
/* Its backend takes a caller's input in pieces itself, and may speak first. */
bool model_takes_stream(const struct model *model);
uint64_t model_load_ns(const struct model *model); /* what loading took */

/* How it runs now, and why, for `explain` and metrics: any thread. */
struct model_execution {
    enum execution asked;
    bool is_inline_now;
    char reason[200];      /* "runs inline: no control flow, median 4 us over 128 runs" */
    uint64_t typical_ns, worst_ns, runs;
    uint64_t measured_bytes_max;
    uint32_t queued, queue_max, running;
    /* What admission goes by; 0: nothing measured yet. */
    uint64_t run_ns;       /* the middle of recent runs that were queued */
    uint64_t wait_ns;      /* what a newcomer of the default tenant would wait */
    uint64_t wait_max_ns;  /* the most that is let in now; UINT64_MAX: any */
    bool is_overloaded;    /* the queue is held short, as it would not become so by itself */
};
void model_execution(struct model *model, struct model_execution *ret);
/* Who waits: how many of each tenant. Returns how many tenants there are, of which `most` are told. */
struct model_tenant {
    const char *name; /* "" of the default one; as long as the model lives */
    uint32_t waiting;
};
uint32_t model_tenants(struct model *model, struct model_tenant *ret, uint32_t most);
/* JSON object of the backend's own words, or "{}". */
const char *model_describe(const struct model *model);

/* What dialects derive from the model once and use in every request (a transcoding plan): freed
 * with the model. Any thread. */
enum model_attachment_kind { ATTACHMENT_KSERVE, ATTACHMENT_TYPED, MODEL_ATTACHMENTS };
void *model_attached(const struct model *model, enum model_attachment_kind kind); /* or NULL */
/* Keeps `made` until the model goes, then calls release. When another thread was first, `made` is
 * released at once. Returns what is kept. */
void *model_attach(struct model *model, enum model_attachment_kind kind, void *made,
                   void (*release)(void *made));

#endif
