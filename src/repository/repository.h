/* repository.h - the models the server was pointed at: found, inferred, loaded, listed.
 *
 * Paths may be: a folder in Triton's layout (model/config.pbtxt, model/1/model.onnx), a folder that
 * is one model, a folder of bare files (iris.onnx, beside it iris.yaml), or a bare file. A model's
 * `model.yaml` lies beside its config.pbtxt. Everything a model opens lies beneath its own folder.
 *
 * Threads  repository_open, _load_all and _close block and belong to the starting thread; every
 *          other function is for any thread and does not block (readers see an immutable table that
 *          is exchanged whole).
 */
#ifndef REPOSITORY_REPOSITORY_H
#define REPOSITORY_REPOSITORY_H

#include "base/err.h"
#include "base/slice.h"

struct engine;
struct env;
struct model;
struct penstock_backend;
struct repository;
struct repository_entry;

enum model_state { MODEL_UNKNOWN, MODEL_LOADING, MODEL_READY, MODEL_UNAVAILABLE, MODEL_UNLOADING };
const char *model_state_name(enum model_state state); /* "READY"; "" for MODEL_UNKNOWN */

struct repository_settings {
    struct engine *engine;
    struct env *env;                               /* where loading threads come from; borrowed */
    const struct penstock_backend *const *plugins; /* beside the built-in ones; borrowed */
    uint32_t plugins_count;
    const char *const *paths; /* as given on the command line; borrowed while it lives */
    uint32_t paths_count;
    uint32_t load_threads; /* 1 to 16 */
    uint32_t models_max;   /* limit on the table: --models-max */
    bool gpu_to_cpu;       /* groups of KIND_GPU run on the processor; else they are refused */
};

/* Finds everything: E_NOT_FOUND, E_INVALID ... when a path is missing or no model was found at all.
 * From then on every version is listed as LOADING, or with the reason why it cannot be loaded. */
MUST_USE enum err_code repository_open(struct repository **ret,
                                       const struct repository_settings *settings, struct err *err);
/* Who is told what changes, once a table that shows it is there. Called with every entry there is from
 * within, then for each version whose state is another, by the thread that loads. Before
 * repository_load_all; the entry is borrowed until it returns. */
struct repository_watch {
    void (*on_change)(void *context, const struct repository_entry *entry);
    void *context;
};
void repository_watch(struct repository *repository, struct repository_watch watch);
/* Loads what was found, small files first, and lists each as soon as it is ready. A model that
 * fails is an entry with its reason and no error here. Once. */
MUST_USE enum err_code repository_load_all(struct repository *repository, struct err *err);
void repository_close(struct repository **repository); /* lets go of every model */

/* engine_directory.want_model. "Request for unknown model: 'x' is not found" (E_NOT_FOUND, Triton's
 * words); "model 'x' version 2 is not at ready state (UNAVAILABLE: why)" (E_UNAVAILABLE) of one that
 * is known, which Triton calls unknown too. What exists is listed behind it when that helps. */
enum err_code repository_want_model(void *repository, struct model **ret, struct slice name,
                                    struct slice version, struct err *err);

/* The model that penstock.models.<service> is, loaded or not; NULL: none. As long as the repository. */
const char *repository_service_model(const struct repository *repository, struct slice service);

/* One version of one model. Strings are borrowed while the snapshot is held. */
struct repository_entry {
    const char *name;
    const char *version; /* "1"; "" when no version could be found */
    enum model_state state;
    const char *reason;  /* of MODEL_UNAVAILABLE; else "" */
    struct model *model; /* MODEL_READY: borrowed while the snapshot is held; else NULL */
    bool is_default;     /* what a request without a version gets */
    const char *folder;
    /* for explain; NULL: there is none */
    const char *path;                    /* what the backend opens */
    const char *backend;                 /* its name, also when it could not open the model */
    const char *backend_why;             /* "config.pbtxt: backend", "by the file that it opens" */
    const char *config_file, *card_file; /* relative to folder */
    const char *config_keys; /* top-level keys of config_file, blanks between: "name input" */
};
struct repository_snapshot {
    uint32_t count;
    const struct repository_entry *entries; /* by name, then version from low to high */
    void *private;
};
/* Any thread; give it back soon. */
void repository_snapshot_take(struct repository *repository, struct repository_snapshot *ret);
void repository_snapshot_give(struct repository_snapshot *snapshot);
/* Every entry is ready (and loading is over)? */
bool repository_is_ready(struct repository *repository);

/* Things worth saying of what was found ("models/iris: folder 'v1' is no version"); borrowed. */
uint32_t repository_notes(const struct repository *repository, const char *const **ret);

#endif
