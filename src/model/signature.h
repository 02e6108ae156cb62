/* signature.h - what a model takes and gives: names, dtypes, shapes, and what people call them.
 *
 * Plain data, owned by the model version, read-only once it is loaded; any thread.
 * Shapes here are full shapes: of a batching model the first dim is the batch, -1.
 * The human part (labels, units, fields ...) comes from `model.yaml` and label files.
 */
#ifndef MODEL_SIGNATURE_H
#define MODEL_SIGNATURE_H

#include "base/err.h"
#include "base/slice.h"
#include "penstock/tensor.h"

/* One named element of a tensor's last dimension: "sepal_length" of an input [N,4]. */
struct feature {
    const char *name;
    const char *unit, *description; /* or NULL */
    double min, max;                /* NaN: none. A value outside is refused by the typed route */
    double example;                 /* NaN: none */
    uint32_t number;                /* of its protobuf field, from model.yaml; 0: see numbers.h */
};

/* What an output means to a person. */
enum output_role {
    ROLE_AUTO,          /* decided from name, dtype and labels when the model is loaded */
    ROLE_VALUE,         /* as it is */
    ROLE_LABEL,         /* class index: shown as the label */
    ROLE_PROBABILITIES  /* one score a class along the last dim: shown as the best one, or top k */
};

struct signature_tensor {
    const char *name;
    enum penstock_dtype dtype;
    uint32_t rank;
    int64_t dims[PENSTOCK_RANK_MAX];
    bool is_optional;
    bool is_hidden;                /* the configuration does not list it: clients neither see it nor
                                      name it. It is here so that indexes are the backend's */
    bool is_reshaped;              /* configuration's reshape: `dims` is what clients see */
    uint32_t reshape_rank;         /* what the backend sees when is_reshaped, batch dim included */
    int64_t reshape[PENSTOCK_RANK_MAX];
    /* from model.yaml and label files; NULL or 0 when absent */
    const char *title;             /* the name people use in the typed route; NULL: `name` */
    const char *unit, *description;
    const char *example_json;      /* an example value, as JSON text */
    const char *content_type;      /* raw body type beside the defaults ("image/png"), or NULL */
    double min, max;               /* NaN: none */
    uint32_t labels_count;
    const char *const *labels;
    bool labels_may_differ;        /* in number from the classes: they are config.pbtxt's */
    /* What the model itself calls the classes, by column of the scores: what a label output gives.
     * One of names and numbers is NULL; 0: not known. Labels are people's words for them. */
    uint32_t classes_count;
    const char *const *class_names;
    const int64_t *class_numbers;
    uint32_t features_count;       /* equals the last dim when not 0 */
    const struct feature *features;
    enum output_role role;
    uint32_t number;               /* of its protobuf field, from model.yaml; 0: see numbers.h */
    bool is_state;                 /* input: a session keeps it and feeds it; its callers may begin
                                      with one of their own. Output: it is what is fed next */
    bool is_constant;              /* input: model.yaml has its value; nobody needs to send it */
};

/* What the pieces of a stream become: see engine/session.h. */
enum session_reduce { SESSION_EACH, SESSION_STACK, SESSION_LAST, SESSION_WINDOW };

struct stream_state {
    uint32_t input, output;        /* the output of a run is this input of the next */
    struct penstock_tensor initial; /* what the first run is fed; its bytes live as long */
};

struct stream_constant {
    uint32_t input;
    struct penstock_tensor value;
};

/* Told when a score begins and ceases to hold: it begins when the score is `on` or more, and ends
 * when it was below `off` for `hold` windows one after another. */
struct stream_mark {
    const char *name;              /* "speech" */
    uint32_t output;               /* of floats; its first element is the score */
    double on, off;
    uint32_t hold;
};

/* How a model takes streams: model.yaml's `stream`, config.pbtxt's sequence_batching { state }. */
struct stream_card {
    bool has_reduce;               /* else whoever asks has a default of their own */
    enum session_reduce reduce;
    uint64_t window, step, pad;    /* rows; step is never 0 when window is not */
    int32_t axis;                  /* along which rows are counted; -1: see session.h */
    uint32_t states_count, constants_count, marks_count;
    const struct stream_state *states;
    const struct stream_constant *constants;
    const struct stream_mark *marks;
};

struct signature {
    uint32_t inputs_count, outputs_count;
    struct signature_tensor *inputs, *outputs; /* in the order the backend declared them */
    uint32_t batch_max;            /* max_batch_size of the configuration; 0: no batch dimension */
    bool is_batchable;             /* every tensor's first dim is -1 and may be a batch, whatever
                                      batch_max says: one typed call may carry many rows */
    const char *title, *description, *license; /* of the model; NULL when absent */
    const char *example_json;      /* a whole typed request, as JSON text, or NULL */
    const char *service;           /* gRPC: penstock.models.<service>. NULL: by the model's name
                                      (service.h); "": it has none, all its names are taken */
    const struct stream_card *stream; /* NULL: nothing is said of streams */
};

/* The dimension along which rows of this input are counted where pieces become one tensor (STACK,
 * WINDOW): what the card says (NULL: nothing), else as docs/model-yaml.md has it. False: none. */
bool signature_rows_axis(const struct stream_card *card, enum session_reduce reduce,
                         uint64_t window, const struct signature_tensor *t, uint32_t *ret);
/* Is the model fed with rows that its card makes into one question, so that its answer has none?
 * [-1,3] of `reduce: stack`. */
bool signature_takes_rows(const struct signature *s);

/* NULL when there is none of that name, or it is hidden. */
const struct signature_tensor *signature_input(const struct signature *s, struct slice name,
                                               uint32_t *ret_index);
const struct signature_tensor *signature_output(const struct signature *s, struct slice name,
                                                uint32_t *ret_index);
/* Does a value of this shape fit? err says both shapes. Shapes are client shapes. */
MUST_USE enum err_code signature_check_shape(const struct signature_tensor *t, uint32_t rank,
                                             const int64_t *shape, struct err *err);

struct arena;
struct declared;
struct model_config;

/* Builds the signature from a completed configuration and what the model declared (NULL or empty:
 * it did not say; then in the configuration's order). What was declared and is not listed is hidden.
 * Dims are what clients see: the batch first when batch_max > 0. Everything lies in `arena`; human
 * members are empty. E_EXHAUSTED is the only failure. */
MUST_USE enum err_code signature_from_config(const struct model_config *config,
                                             const struct declared *declared,
                                             struct arena *arena, struct signature **ret,
                                             struct err *err);

#endif
