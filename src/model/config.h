/* config.h - a model's configuration: config.pbtxt read whole, completed from the model itself.
 *
 * The file is protobuf text format of inference.ModelConfig. It is kept as a JSON document with
 * proto field names, enum names and 64-bit integers as numbers (as Triton's /config writes it); the
 * members below are what the server acts on. Plain data, one thread while it changes.
 */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include "base/err.h"
#include "base/slice.h"
#include "penstock/tensor.h"

struct yyjson_mut_doc;

enum { CONFIG_BYTES_MAX = 4 << 20, CONFIG_DEPTH_MAX = 32 };

struct config_tensor {
    const char *name;
    enum penstock_dtype dtype; /* PENSTOCK_INVALID: not said */
    bool has_dims;             /* said, if only as [] */
    uint32_t rank;             /* of dims as written: without the batch dim if batch_max > 0 */
    int64_t dims[PENSTOCK_RANK_MAX];
    bool has_reshape;
    uint32_t reshape_rank;
    int64_t reshape[PENSTOCK_RANK_MAX];
    bool is_optional;
    const char *label_filename; /* or NULL */
};

struct config_parameter {
    const char *key, *value;
};

enum config_instance_kind { INSTANCE_AUTO, INSTANCE_GPU, INSTANCE_CPU, INSTANCE_MODEL };

struct config_instance_group {
    enum config_instance_kind kind;
    uint32_t count; /* >= 1 */
    uint32_t gpus_count;
    int32_t gpus[16];
    uint32_t refusal; /* INSTANCE_GPU: which of the notices refuses it */
};

enum config_scheduling {
    SCHEDULING_NONE,
    SCHEDULING_DYNAMIC,
    SCHEDULING_SEQUENCE,
    SCHEDULING_ENSEMBLE
};

/* What config.pbtxt asks for that is not built, at most one for each field: config_schema.def says
 * which and why. Parsing fills them in; whoever loads the model logs or refuses. */
struct config_notice {
    bool is_refusal;   /* answers would change by it: the model must not load */
    const char *text;  /* "instance_group[1].rate_limiter is not built yet: ..." */
};

/* sequence_batching { state }: an output that a session feeds to the next run. */
struct config_state {
    const char *input, *output;
    enum penstock_dtype dtype; /* PENSTOCK_INVALID: not said */
    bool has_dims;
    uint32_t rank;             /* without the batch dim if batch_max > 0 */
    int64_t dims[PENSTOCK_RANK_MAX]; /* of initial_state, else of the state; -1: any */
};

struct model_config {
    struct yyjson_mut_doc *doc;   /* owned: the whole document, as /config writes it */
    const char *name, *platform, *backend; /* "" when not said */
    const char *default_model_filename;    /* "" when not said */
    bool has_batch_max;
    uint32_t batch_max;
    uint32_t inputs_count, outputs_count;
    struct config_tensor *inputs, *outputs;
    uint32_t parameters_count;
    struct config_parameter *parameters;
    uint32_t groups_count;
    struct config_instance_group *groups;
    enum config_scheduling scheduling;
    uint32_t states_count;
    struct config_state *states;
    bool is_decoupled;
    /* version_policy: latest n (default 1), all, or specific */
    bool versions_all;
    uint32_t versions_latest;
    uint32_t versions_count;
    int64_t *versions;
    /* dynamic_batching.default_queue_policy, as far as a direct scheduler uses it */
    uint32_t queue_size_max;               /* 0: the server's default */
    uint64_t queue_timeout_us;             /* 0: none */
    bool allow_timeout_override;
    uint32_t notices_count;
    struct config_notice *notices;
    struct arena *arena;                   /* owned: every string and list above */
};

/* Parses config.pbtxt. Errors carry line and column: "line 3, column 9: unknown field 'dimms' of
 * ModelInput; the nearest is 'dims'". On failure *ret is untouched. */
MUST_USE enum err_code config_parse(struct model_config **ret, struct slice pbtxt, struct err *err);
/* The same from the JSON form (repository load override): proto or lowerCamelCase names, integers
 * also as strings. Errors carry the path: "instance_group[0].count: ...". */
MUST_USE enum err_code config_parse_json(struct model_config **ret, struct slice json,
                                         struct err *err);
/* An empty one, for models without a file. */
MUST_USE enum err_code config_new(struct model_config **ret, struct err *err);
void config_free(struct model_config **config);

/* Groups of KIND_GPU become groups of KIND_CPU (--gpu-to-cpu), and the notices that refused them say
 * so instead. Before config_complete. */
MUST_USE enum err_code config_gpu_to_cpu(struct model_config *config, struct err *err);

/* What the model itself says, to complete or to contradict the configuration. Dims are full. */
struct declared_tensor {
    const char *name;
    enum penstock_dtype dtype;
    uint32_t rank;
    int64_t dims[PENSTOCK_RANK_MAX];
    bool is_optional;
    uint32_t classes_count; /* of an output, see struct signature_tensor */
    const char *const *class_names;
    const int64_t *class_numbers;
};
struct declared {
    uint32_t inputs_count, outputs_count;
    const struct declared_tensor *inputs, *outputs;
};

/* Fills in what the file left out (name, backend, platform, max_batch_size, input, output,
 * instance_group, version_policy), in the struct and in the document, and compares what it says
 * with what the model says: a name that the model lacks, another dtype, dims that cannot fit are
 * E_INVALID with both sides named. `can_batch`: first dims are free and the backend can batch;
 * `batch_max_default` is then used when the file says nothing (0: none). Inputs that the runtime
 * declares optional need not be listed, nor any output. `declared` NULL or empty: the model does
 * not say, and the file must. May be called again (for another version) with the same names. After a
 * failure the configuration is good for config_free only. */
MUST_USE enum err_code config_complete(struct model_config *config, const char *name,
                                       const char *backend, const char *platform,
                                       const struct declared *declared, bool can_batch,
                                       uint32_t batch_max_default, struct err *err);

/* The JSON text of the document; heap, NUL-terminated, freed with mem_free. NULL: no memory. */
char *config_json(const struct model_config *config, bool pretty);

#endif
