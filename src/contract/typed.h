/* typed.h - a model's tensors as named fields of people's JSON, both ways.
 *
 * The signature says what the fields are: an input is a field by its title (or name), and where its
 * last dimension has named features, each of them is one; outputs are shown by their role, so that
 * a classifier answers {"label":"spam","probability":0.98}. README.md beside this has the rules.
 *
 * Life      typed_plan_new once a model version (read-only afterwards, any thread); then for each
 *           call typed_read_begin, what the body gives, typed_read_end; and typed_write.
 * Memory    What is read lies in the arena, or in bufs of the budget that the arena adopts.
 * Not here  HTTP, content types, percent-decoding of paths: api/typed.c.
 */
#ifndef CONTRACT_TYPED_H
#define CONTRACT_TYPED_H

#include <stdatomic.h>

#include "base/err.h"
#include "base/slice.h"
#include "base/text.h"
#include "engine/request.h"
#include "model/signature.h"

struct arena;
struct budget;
struct map;
struct typed_proto;

/* -- the plan ---------------------------------------------------------------------------------- */

enum { TYPED_WHOLE = -1 }; /* typed_field.feature: the whole tensor */

struct typed_field {
    const char *name;
    struct slice text; /* the same */
    uint32_t input;    /* of the signature */
    int64_t feature;   /* index in the last dimension, or TYPED_WHOLE */
};

struct typed_input {
    const struct signature_tensor *tensor;
    const char *title; /* title, or the name */
    uint32_t row_rank; /* dims of one row: without the batch */
    const int64_t *row_dims;
    bool is_fixed;      /* no free dim in a row */
    uint64_t row_count; /* elements of a row when is_fixed */
    size_t element;     /* bytes; 0: BYTES */
    bool has_limits;    /* min or max, of it or of a feature */
    bool has_features;  /* each of which is a field */
    bool is_required;   /* not optional, hidden, state or constant */
    bool is_of_rows;    /* its first dim counts rows */
    bool has_axis;      /* streams bring its rows along a later one ... */
    uint32_t axis;      /* ... this one of a row; those before it are 1 then */
};

enum typed_item_kind { ITEM_LABEL, ITEM_PROBABILITY, ITEM_VALUE };

/* One member of the answer. */
struct typed_item {
    enum typed_item_kind kind;
    const char *name;             /* "label" */
    struct slice key;             /* "label": with quotes and colon */
    uint32_t output;              /* whose value it shows */
    int64_t label, probabilities; /* outputs of the same classifier, or -1 */
    uint32_t labels_count, classes_count;
    const char *const *labels;      /* of the classes: people's words, else the model's; or NULL */
    const char *const *class_names; /* what a label output gives, by column: one of the two ... */
    const int64_t *class_numbers;   /* ... is not NULL when classes_count is not 0 */
    size_t label_bytes_max;         /* of one as JSON, at most */
};

struct typed_plan {
    const struct signature *signature; /* borrowed: as long as the model */
    const char *model;
    bool has_batch; /* the first dim of every tensor counts rows */
    bool has_rows;  /* that of the inputs does; without a batch they are one question in all */
    bool answers_many, takes_stream; /* set by who knows the model, before others see the plan */
    uint32_t inputs_count, fields_count, items_count;
    struct typed_input *inputs;
    struct typed_field *fields; /* the usual ones first: features, else titles; then other names */
    struct map *by_name;        /* of fields, when they are many */
    struct typed_item *items;
    int64_t only_input;                  /* the one required input, or -1 */
    const char *example;                 /* a right request as JSON text, or NULL */
    struct arena *arena;                 /* owned: all of the above */
    _Atomic(struct typed_proto *) proto; /* owned; NULL until it is asked for: typed_proto.h */
};

MUST_USE enum err_code typed_plan_new(struct typed_plan **ret, const char *model,
                                      const struct signature *signature, struct err *err);
void typed_plan_free(void *plan);
/* NULL when there is none of that name. */
const struct typed_field *typed_field_find(const struct typed_plan *plan, struct slice name);

/* -- the question's options: ?top=3&outputs=a,b&precision=full&raw=1 --------------------------- */

enum { TYPED_PRECISION_DEFAULT = 0, TYPED_PRECISION_FULL = -1 };

struct typed_query {
    bool has_top, is_raw;
    uint64_t top;
    int precision; /* significant digits of floats; or one of the above */
    bool *items;   /* by index of the plan: which are shown; NULL: all */
};

MUST_USE enum err_code typed_query_read(struct typed_query *ret, const struct typed_plan *plan,
                                        struct slice query, struct arena *arena, struct err *err);
/* What typed_query_read does with `outputs` (names, commas between), and what it looks at last. */
MUST_USE enum err_code typed_query_pick(struct typed_query *query, const struct typed_plan *plan,
                                        struct slice names, struct arena *arena, struct err *err);
MUST_USE enum err_code typed_query_check(const struct typed_query *query,
                                         const struct typed_plan *plan, struct err *err);
/* Marks the outputs that the answer needs. */
void typed_query_wants(const struct typed_query *query, const struct typed_plan *plan, bool *wants);
/* Decodes %41 and '+' of a query or form; false on a broken escape. In the arena when it has any. */
MUST_USE bool typed_unescape(struct slice text, struct arena *arena, struct slice *ret);
/* Takes the next `key=value` (both decoded) from *rest; false at the end. */
MUST_USE enum err_code typed_pair_next(struct slice *rest, struct arena *arena, bool *ret_more,
                                       struct slice *ret_key, struct slice *ret_value,
                                       struct err *err);

/* -- reading ----------------------------------------------------------------------------------- */

struct typed_column;

struct typed_reader {
    const struct typed_plan *plan;
    struct arena *arena;
    struct budget *budget;
    struct typed_column *columns; /* by index of the plan's inputs */
    uint64_t rows;
    bool is_list; /* the answer is a list: the body was one, or a field had many rows */
    bool is_list_body, has_closed;
    uint32_t expected;  /* the field that probably comes next */
    const char *field;  /* after a failure: which field it is about, or NULL */
    uint64_t element;   /* after a failure of typed_check_limits: which was outside */
    bool shows_example; /* after a failure: an example would help */
};

MUST_USE enum err_code typed_read_begin(struct typed_reader *ret, const struct typed_plan *plan,
                                        struct arena *arena, struct budget *budget,
                                        struct err *err);
/* The whole body as JSON: an object (one row, or lists of rows in its fields), a list of objects
 * (rows), or for a model with one input its bare value. */
MUST_USE enum err_code typed_read_json(struct typed_reader *r, struct slice body, struct err *err);
/* One field from its JSON value, from text ("5.1", "hello", "[1,2]"), from raw bytes or from a .npy
 * file. Several of them make one row. */
MUST_USE enum err_code typed_read_value(struct typed_reader *r, struct slice name,
                                        struct slice json, struct err *err);
MUST_USE enum err_code typed_read_text(struct typed_reader *r, struct slice name,
                                       struct slice value, struct err *err);
MUST_USE enum err_code typed_read_bytes(struct typed_reader *r, struct slice name,
                                        struct slice value, struct err *err);
MUST_USE enum err_code typed_read_npy(struct typed_reader *r, struct slice name, struct slice file,
                                      struct err *err);
/* Checks that nothing is missing and fills the request's inputs (by index of the signature). */
MUST_USE enum err_code typed_read_end(struct typed_reader *r, struct penstock_tensor *inputs,
                                      bool *has_input, struct err *err);

/* Of a call that is no stream: the state that a stream would begin with, where the caller left it
 * out. */
void typed_read_rest(const struct typed_plan *plan, struct penstock_tensor *inputs,
                     bool *has_input);

/* -- answering --------------------------------------------------------------------------------- */

/* Bytes that the answer can take at most; SIZE_MAX when that cannot be counted. */
size_t typed_answer_bound(const struct typed_plan *plan, const struct typed_query *query,
                          uint64_t rows, const struct response_output *outputs);
/* Appends the answer: an object, or a list of them. */
MUST_USE enum err_code typed_write(struct text *out, const struct typed_plan *plan,
                                   const struct typed_query *query, uint64_t rows, bool is_list,
                                   const struct response_output *outputs, struct arena *arena,
                                   struct err *err);
/* The shortest honest text of a probability (0 to 1): two digits behind the point, or as many as
 * keep it from being shown as 0 or 1 when it is neither. out has NUMBER_TEXT_MAX bytes; returns the
 * length. */
size_t typed_put_probability(char *out, double p);
/* A sum of many small floats may pass 1 by a little: that is 1. */
static inline double typed_probability(double p)
{
    return p > 1 && p < 1.00001 ? 1 : p;
}

/* -- describing -------------------------------------------------------------------------------- */

/* Appends members of a JSON object (no braces): title, description, inputs, outputs, example; and
 * `streams`, of models that answer many times, take their input in pieces, or say so of themselves. */
void typed_describe(struct text *out, const struct typed_plan *plan);

#endif
