/* typed_columns.h - the columns that rows are read into, whatever a row is read from. Only for
 * contract/. See typed_read.c.
 */
#ifndef CONTRACT_TYPED_COLUMNS_H
#define CONTRACT_TYPED_COLUMNS_H

#include "codec/tensor_json.h"
#include "contract/typed.h"

struct typed_column {
    uint8_t *data;
    size_t size, room;
    uint64_t rows;  /* complete ones */
    bool has_shape; /* of a row, once the first was read */
    uint32_t rank;
    int64_t shape[PENSTOCK_RANK_MAX];
    uint64_t count; /* elements of a row */
    /* -- the row being read -- */
    bool is_given;             /* as a whole tensor */
    uint32_t seen_count;       /* features */
    bool *seen;                /* by feature; NULL until one was */
    struct json_cursor *texts; /* of string features, until all are there */
};

/* More room behind what is there; all of the old room is copied. */
MUST_USE enum err_code typed_column_grow(struct typed_reader *r, struct typed_column *c,
                                         size_t more, struct err *err);

/* Room for `more` bytes behind what is there. */
MUST_USE static inline enum err_code typed_column_room(struct typed_reader *r,
                                                       struct typed_column *c, size_t more,
                                                       struct err *err)
{
    if (LIKELY(c->data != NULL && c->room - c->size >= more))
        return OK;
    return typed_column_grow(r, c, more, err);
}

/* Notes which field a failure is about, unless something has; returns code. */
enum err_code typed_field_failed(struct typed_reader *r, const char *field, enum err_code code);
/* Rows of one column must be of one shape: they become one tensor. */
MUST_USE enum err_code typed_set_shape(struct typed_reader *r, const struct typed_input *in,
                                       struct typed_column *c, const int64_t *row_shape,
                                       struct err *err);
MUST_USE enum err_code typed_check_limit(struct typed_reader *r, const char *name, const char *unit,
                                         double min, double max, double value, struct err *err);
/* On failure r->element says which. */
MUST_USE enum err_code typed_check_limits(struct typed_reader *r, const struct typed_input *in,
                                          const uint8_t *data, uint64_t count, struct err *err);
/* E_INVALID: field '...' is missing. */
enum err_code typed_missing(struct typed_reader *r, const char *field, struct err *err);
/* One more element of a BYTES column. */
MUST_USE enum err_code typed_append_bytes(struct typed_reader *r, struct typed_column *c,
                                          struct slice value, struct err *err);

#endif
