/* typed_proto_read.c - a PredictRequest into the columns of a request, in one pass.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Rules are typed_read.c's: the same limits, the same fields that must be there, the same words.
 * What is protobuf's own: of a field that comes twice the last one counts, repeated numbers come
 * packed or one by one and in any number of pieces, and fields that nobody knows are skipped.
 *
 * The row being read lies in its column behind the rows that are complete, and counts when all of
 * it has been checked.
 */
#include <stdio.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "codec/pb_elements.h"
#include "contract/choose.h"
#include "contract/typed_columns.h"
#include "contract/typed_message.h"
#include "contract/typed_proto.h"
#include "model/dtype.h"

/* An input of the row being read, where the column has no member for it. */
struct pending {
    uint64_t count; /* elements */
    size_t bytes;
    struct slice text;   /* of one string */
    struct slice *texts; /* of string features; NULL until there was one */
    uint32_t rank;       /* of a tensor message */
    int64_t shape[PENSTOCK_RANK_MAX];
};

struct rows {
    struct typed_reader *r;
    const struct typed_plan *plan;
    const struct typed_proto *proto;
    struct pending *pending; /* by input */
    uint32_t unknown;        /* the first number that nobody knows, or 0 */
    bool has_fields;         /* in the row */
    bool has_any;            /* in the message */
    struct err *err;
};

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
}

/* -- what is wrong ----------------------------------------------------------------------------- */

static const uint8_t wire_of[KINDS] = {
    [KIND_DOUBLE] = PB_I64,    [KIND_FLOAT] = PB_I32,    [KIND_INT64] = PB_VARINT,
    [KIND_UINT64] = PB_VARINT, [KIND_INT32] = PB_VARINT, [KIND_BOOL] = PB_VARINT,
    [KIND_STRING] = PB_LEN,    [KIND_BYTES] = PB_LEN,    [KIND_UINT32] = PB_VARINT,
};

static COLD enum err_code wrong_wire(const struct rows *w, const char *name, const char *takes,
                                     const struct pb_field *got)
{
    static const char *const wires[] = {
        [PB_VARINT] = "VARINT", [PB_I64] = "I64", [PB_LEN] = "LEN", [PB_I32] = "I32"
    };

    return err_set(w->err, E_INVALID,
                   "%s: field %u has wire type %s, which is no %s; is the caller's .proto that of "
                   "this version? It is at /models/%s/contract.proto",
                   name, got->number, wires[got->wire % 6], takes, w->plan->model);
}

static COLD enum err_code out_of_range(const struct rows *w, const char *name,
                                       enum penstock_dtype dtype, bool is_signed, uint64_t value)
{
    unsigned bits = 8 * (unsigned)dtype_size(dtype);
    long long most = is_signed ? (1LL << (bits - 1)) - 1 : (1LL << bits) - 1;

    return err_set(w->err, E_INVALID, "%s: %lld is out of range for %s (%lld to %lld)", name,
                   (long long)value, dtype_name(dtype), is_signed ? -most - 1 : 0, most);
}

static COLD enum err_code faulty(const struct rows *w, const char *what,
                                 const struct pb_reader *reader)
{
    return err_set(w->err, E_INVALID, "%s is no protobuf message: byte %zu: %s", what,
                   (size_t)(reader->at - reader->begin), reader->fault);
}

/* -- elements ---------------------------------------------------------------------------------- */

static enum err_code check_text(const struct rows *w, const char *name, enum message_kind kind,
                                struct slice bytes)
{
    size_t valid;

    if (kind != KIND_STRING || (valid = utf8_valid_prefix(bytes)) == bytes.size)
        return OK;
    return err_set(w->err, E_INVALID, "%s: byte %zu of the string is not UTF-8", name, valid);
}

/* Element `index` of a list is wrong: says which, behind the field's name. */
static COLD enum err_code element_failed(const struct rows *w, const char *title,
                                         enum message_form form, uint64_t index, enum err_code code)
{
    static const char *const within[] = { [FORM_MANY] = "", [FORM_TENSOR] = ".values" };
    struct typed_reader *r = w->r;
    size_t size = strlen(title);
    char rest[ERR_TEXT_MAX];

    if (form == FORM_ONE || code != E_INVALID || strncmp(w->err->text, title, size) != 0)
        return code;
    snprintf(rest, sizeof rest, "%s", w->err->text + size);
    snprintf(w->err->text + size, ERR_TEXT_MAX - size, "[%llu]%.*s", (unsigned long long)index,
             ERR_TEXT_MAX - 32, rest);
    if (r->field != NULL && strcmp(r->field, title) != 0)
        return code;
    const char *path =
        arena_printf(r->arena, "%s%s[%llu]", title, within[form], (unsigned long long)index);
    r->field = path != NULL ? path : title;
    return code;
}

/* Not inlined, so that the numbers that are common need no frame. */
static __attribute__((noinline)) enum err_code put_half(const struct rows *w, const char *name,
                                                        enum penstock_dtype dtype, uint8_t *to,
                                                        uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    if (LIKELY(pb_put_half(to, value, dtype)))
        return OK;
    return err_set(w->err, E_INVALID, "%s: %g is out of range for %s", name, (double)value,
                   dtype_name(dtype));
}

/* One number; `value` as the wire has it. */
static HOT enum err_code put_number(const struct rows *w, const char *name,
                                    enum penstock_dtype dtype, uint8_t *to, uint64_t value)
{
    uint32_t low = (uint32_t)value;
    int32_t number = (int32_t)low; /* int32 travels with its sign in 64 bits */

    switch (dtype) {
    case PENSTOCK_FP32:
    case PENSTOCK_INT32:
    case PENSTOCK_UINT32: memcpy(to, &low, 4); return OK;
    case PENSTOCK_FP64:
    case PENSTOCK_INT64:
    case PENSTOCK_UINT64: memcpy(to, &value, 8); return OK;
    case PENSTOCK_FP16:
    case PENSTOCK_BF16: return put_half(w, name, dtype, to, low);
    case PENSTOCK_BOOL: *to = value != 0; return OK;
    case PENSTOCK_UINT8:
        if (UNLIKELY(low > UINT8_MAX))
            return out_of_range(w, name, dtype, false, low);
        *to = (uint8_t)low;
        return OK;
    case PENSTOCK_UINT16:
        if (UNLIKELY(low > UINT16_MAX))
            return out_of_range(w, name, dtype, false, low);
        memcpy(to, &low, 2);
        return OK;
    case PENSTOCK_INT8:
        if (UNLIKELY(number < INT8_MIN || number > INT8_MAX))
            return out_of_range(w, name, dtype, true, (uint64_t)(int64_t)number);
        *to = (uint8_t)low;
        return OK;
    case PENSTOCK_INT16:
        if (UNLIKELY(number < INT16_MIN || number > INT16_MAX))
            return out_of_range(w, name, dtype, true, (uint64_t)(int64_t)number);
        memcpy(to, &low, 2);
        return OK;
    default: return err_set(w->err, E_INTERNAL, "%s: no number of %s", name, dtype_name(dtype));
    }
}

/* Where all rows are one question, one list may hold many. */
static bool is_flat_rows(const struct typed_plan *plan, const struct typed_input *in)
{
    return in->is_of_rows && !plan->has_batch && in->is_fixed && in->row_count != 0;
}

/* Room for `count` more elements of the row being read; a row of a fixed size has no more. */
static enum err_code room_for(struct rows *w, uint32_t input, uint64_t count, size_t bytes)
{
    const struct typed_input *in = &w->plan->inputs[input];
    struct pending *p = &w->pending[input];

    if (UNLIKELY(in->is_fixed && !in->has_axis && !is_flat_rows(w->plan, in) &&
                 count > in->row_count - p->count))
        return err_set(w->err, E_INVALID, "%s: one row takes %llu values, and there are more",
                       in->title, (unsigned long long)in->row_count);
    return typed_column_room(w->r, &w->r->columns[input], p->bytes + bytes, w->err);
}

static enum err_code add_text(struct rows *w, const struct message_field *f, struct slice bytes)
{
    struct pending *p = &w->pending[f->input];
    struct typed_column *c = &w->r->columns[f->input];
    uint32_t size = (uint32_t)bytes.size;

    enum err_code code = check_text(w, f->title, f->kind, bytes);
    if (UNLIKELY(code != OK))
        return element_failed(w, f->title, f->form, p->count, code);
    if (bytes.size > UINT32_MAX)
        return err_set(w->err, E_INVALID, "%s: more than 4 GiB in one string", f->title);
    TRY(room_for(w, f->input, 1, bytes.size + 4));
    uint8_t *to = c->data + c->size + p->bytes;
    memcpy(to, &size, 4);
    if (size != 0)
        memcpy(to + 4, bytes.data, size);
    p->bytes += bytes.size + 4;
    p->count++;
    return OK;
}

static enum err_code add_number(struct rows *w, const struct message_field *f, uint64_t value)
{
    const struct typed_input *in = &w->plan->inputs[f->input];
    struct pending *p = &w->pending[f->input];
    struct typed_column *c = &w->r->columns[f->input];

    TRY(room_for(w, f->input, 1, in->element));
    enum err_code code =
        put_number(w, f->title, in->tensor->dtype, c->data + c->size + p->bytes, value);
    if (UNLIKELY(code != OK))
        return element_failed(w, f->title, f->form, p->count, code);
    p->bytes += in->element;
    p->count++;
    return OK;
}

static enum err_code add_packed_varints(struct rows *w, const struct message_field *f,
                                        struct slice bytes)
{
    const struct typed_input *in = &w->plan->inputs[f->input];
    struct pending *p = &w->pending[f->input];
    struct typed_column *c = &w->r->columns[f->input];
    struct pb_reader reader;
    uint64_t value, count = 0;

    for (size_t i = 0; i < bytes.size; i++) /* a number's last byte is below 0x80 */
        count += bytes.data[i] < 0x80;
    TRY(room_for(w, f->input, count, (size_t)count * in->element));
    pb_begin(&reader, bytes);
    while (pb_varint(&reader, &value)) {
        enum err_code code =
            put_number(w, f->title, in->tensor->dtype, c->data + c->size + p->bytes, value);
        if (UNLIKELY(code != OK))
            return element_failed(w, f->title, f->form, p->count, code);
        p->bytes += in->element;
        p->count++;
    }
    return pb_failed(&reader) ? faulty(w, f->title, &reader) : OK;
}

/* Little-endian numbers of `width` bytes. */
static enum err_code add_packed_fixed(struct rows *w, const struct message_field *f,
                                      struct slice bytes, size_t width)
{
    const struct typed_input *in = &w->plan->inputs[f->input];
    struct pending *p = &w->pending[f->input];
    struct typed_column *c = &w->r->columns[f->input];
    uint64_t count = bytes.size / width;

    if (bytes.size % width != 0)
        return err_set(w->err, E_INVALID, "%s: %zu bytes are no whole number of %s values",
                       f->title, bytes.size, message_kind_name(f->kind));
    if (count == 0)
        return OK;
    TRY(room_for(w, f->input, count, (size_t)count * in->element));
    uint8_t *to = c->data + c->size + p->bytes;
    if (in->element == width) {
        memcpy(to, bytes.data, bytes.size);
    } else {
        for (uint64_t i = 0; i < count; i++) {
            uint32_t bits;
            memcpy(&bits, bytes.data + i * width, sizeof bits);
            enum err_code code =
                put_half(w, f->title, in->tensor->dtype, to + i * in->element, bits);
            if (UNLIKELY(code != OK))
                return element_failed(w, f->title, f->form, p->count + i, code);
        }
    }
    p->bytes += (size_t)count * in->element;
    p->count += count;
    return OK;
}

/* A piece of a repeated field. */
static enum err_code add_values(struct rows *w, const struct message_field *f,
                                const struct pb_field *got)
{
    uint8_t wire = wire_of[f->kind];

    if (wire == PB_LEN && got->wire == PB_LEN)
        return add_text(w, f, got->bytes);
    if (got->wire == PB_LEN)
        return wire == PB_VARINT ? add_packed_varints(w, f, got->bytes)
                                 : add_packed_fixed(w, f, got->bytes, wire == PB_I32 ? 4 : 8);
    if (got->wire != wire)
        return wrong_wire(w, f->title, message_kind_name(f->kind), got);
    return add_number(w, f, got->value);
}

/* -- fields ------------------------------------------------------------------------------------ */

static enum err_code add_dim(struct rows *w, const struct message_field *f, uint64_t value)
{
    struct pending *p = &w->pending[f->input];

    if (p->rank == PENSTOCK_RANK_MAX)
        return err_set(w->err, E_INVALID, "%s: a shape of more than %d dimensions", f->title,
                       PENSTOCK_RANK_MAX);
    p->shape[p->rank++] = (int64_t)value;
    return OK;
}

static enum err_code read_tensor(struct rows *w, const struct message_field *f,
                                 const struct pb_field *got)
{
    struct pb_reader reader, dims;
    struct pb_field field;
    uint64_t value;

    if (got->wire != PB_LEN)
        return wrong_wire(w, f->title, message_tensor_name(f->kind), got);
    pb_begin(&reader, got->bytes);
    while (pb_next(&reader, &field)) {
        if (field.number == TENSOR_VALUES) {
            TRY(add_values(w, f, &field));
        } else if (field.number == TENSOR_SHAPE && field.wire == PB_VARINT) {
            TRY(add_dim(w, f, field.value));
        } else if (field.number == TENSOR_SHAPE && field.wire == PB_LEN) {
            pb_begin(&dims, field.bytes);
            while (pb_varint(&dims, &value))
                TRY(add_dim(w, f, value));
            if (pb_failed(&dims))
                return faulty(w, f->title, &dims);
        } else if (field.number == TENSOR_SHAPE) {
            return wrong_wire(w, f->title, "int64", &field);
        }
    }
    return pb_failed(&reader) ? faulty(w, f->title, &reader) : OK;
}

/* A field of one value: the last one counts. */
static enum err_code read_one(struct rows *w, const struct message_field *f,
                              const struct pb_field *got)
{
    struct pending *p = &w->pending[f->input];

    if (UNLIKELY(got->wire != wire_of[f->kind]))
        return wrong_wire(w, f->title, message_kind_name(f->kind), got);
    p->count = 0;
    p->bytes = 0;
    if (got->wire != PB_LEN)
        return add_number(w, f, got->value);
    TRY(check_text(w, f->title, f->kind, got->bytes));
    p->text = got->bytes;
    p->count = 1;
    return OK;
}

static enum err_code begin_features(struct rows *w, uint32_t input)
{
    const struct typed_input *in = &w->plan->inputs[input];
    struct typed_column *c = &w->r->columns[input];
    uint32_t count = in->tensor->features_count;

    if (c->seen == NULL) {
        c->seen = arena_zalloc(w->r->arena, count);
        if (c->seen == NULL)
            return no_memory(w->err);
    }
    if (in->element != 0)
        return typed_column_room(w->r, c, count * in->element, w->err);
    struct pending *p = &w->pending[input];
    if (p->texts == NULL)
        p->texts = arena_alloc(w->r->arena, count * sizeof *p->texts);
    return p->texts == NULL ? no_memory(w->err) : OK;
}

static HOT enum err_code read_feature(struct rows *w, const struct message_field *f,
                                      const struct pb_field *got)
{
    const struct typed_input *in = &w->plan->inputs[f->input];
    struct typed_column *c = &w->r->columns[f->input];

    if (UNLIKELY(got->wire != wire_of[f->kind]))
        return wrong_wire(w, f->title, message_kind_name(f->kind), got);
    if (c->seen_count == 0) {
        if (UNLIKELY(c->is_given))
            return err_set(w->err, E_INVALID, "%s is given, and features of it as well", in->title);
        TRY(begin_features(w, f->input));
    }
    c->seen_count += !c->seen[f->feature];
    c->seen[f->feature] = true;
    if (in->element == 0) {
        TRY(check_text(w, f->title, f->kind, got->bytes));
        w->pending[f->input].texts[f->feature] = got->bytes;
        return OK;
    }
    uint8_t *to = c->data + c->size + (size_t)f->feature * in->element;
    TRY(put_number(w, f->title, in->tensor->dtype, to, got->value));
    if (LIKELY(!in->has_limits))
        return OK;
    const struct feature *feature = &in->tensor->features[f->feature];
    double value = element_f64(in->tensor->dtype, to, 0);
    TRY(typed_check_limit(w->r, f->title, feature->unit, feature->min, feature->max, value,
                          w->err));
    return typed_check_limit(w->r, f->title, in->tensor->unit, in->tensor->min, in->tensor->max,
                             value, w->err);
}

static HOT enum err_code read_field(struct rows *w, const struct message_field *f,
                                    const struct pb_field *got)
{
    struct typed_column *c = &w->r->columns[f->input];
    enum err_code code;

    w->has_fields = w->has_any = true;
    if (LIKELY(f->feature != TYPED_WHOLE)) {
        code = read_feature(w, f, got);
    } else if (UNLIKELY(c->seen_count != 0)) {
        code = err_set(w->err, E_INVALID, "%s is given, and features of it as well", f->title);
    } else {
        c->is_given = true;
        code = f->form == FORM_ONE    ? read_one(w, f, got)
               : f->form == FORM_MANY ? add_values(w, f, got)
                                      : read_tensor(w, f, got);
    }
    return LIKELY(code == OK) ? OK : typed_field_failed(w->r, f->title, code);
}

/* -- rows -------------------------------------------------------------------------------------- */

/* Why a field that the caller thinks was sent may be missing. */
static COLD enum err_code missing(struct rows *w, uint32_t input)
{
    const struct typed_input *in = &w->plan->inputs[input];
    const struct typed_column *c = &w->r->columns[input];
    const char *field = in->title;
    uint32_t feature = 0;

    while (in->has_features && c->seen_count != 0 && c->seen[feature])
        feature++;
    if (in->has_features)
        field = in->tensor->features[feature].name;
    enum err_code code = typed_missing(w->r, field, w->err);
    size_t size = strlen(w->err->text);
    size_t room = ERR_TEXT_MAX - MIN(size, (size_t)ERR_TEXT_MAX);
    if (w->unknown != 0)
        snprintf(w->err->text + size, room,
                 "; field %u, which is given, is none of this version's: its .proto is at "
                 "/models/%s/contract.proto",
                 w->unknown, w->plan->model);
    else if (w->proto->input_forms[input] == FORM_MANY && !in->has_features)
        snprintf(w->err->text + size, room,
                 "; an empty list is not on the wire of protobuf: tensors without elements go to "
                 "inference.GRPCInferenceService/ModelInfer");
    else if (!w->has_any && w->proto->rows_name != NULL)
        snprintf(w->err->text + size, room,
                 "; the message has no fields at all (nor has it with '%s' empty: protobuf does "
                 "not tell an empty list from none)",
                 w->proto->rows_name);
    return code;
}

static HOT enum err_code close_features(struct rows *w, uint32_t input)
{
    const struct typed_input *in = &w->plan->inputs[input];
    struct typed_column *c = &w->r->columns[input];
    uint32_t count = in->tensor->features_count;

    if (UNLIKELY(c->seen_count != count))
        return missing(w, input);
    TRY(typed_set_shape(w->r, in, c, in->row_dims, w->err));
    for (uint32_t i = 0; in->element == 0 && i < count; i++)
        TRY(typed_append_bytes(w->r, c, w->pending[input].texts[i], w->err));
    c->size += count * in->element;
    memset(c->seen, 0, count);
    c->seen_count = 0;
    c->rows++;
    return OK;
}

static COLD enum err_code wrong_count(struct rows *w, const struct typed_input *in, uint64_t count)
{
    char row[160];

    return err_set(w->err, E_INVALID, "%s: %llu values; one row takes shape %s%s", in->title,
                   (unsigned long long)count,
                   shape_text(row, sizeof row, in->row_rank, in->row_dims),
                   in->is_fixed ? "" : " (-1: any)");
}

/* The one free dimension is what is left over. */
static enum err_code shape_by_count(struct rows *w, const struct typed_input *in, uint64_t count,
                                    int64_t *shape)
{
    uint32_t free_at = UINT32_MAX;
    uint64_t fixed = 1;

    for (uint32_t i = 0; i < in->row_rank; i++) {
        shape[i] = in->row_dims[i];
        if (UNLIKELY(in->has_axis && i <= in->axis))
            shape[i] = i < in->axis ? 1 : -1;
        if (shape[i] == -1)
            free_at = i;
        else if (__builtin_mul_overflow(fixed, (uint64_t)shape[i], &fixed))
            return wrong_count(w, in, count);
    }
    if (free_at == UINT32_MAX)
        return count == fixed ? OK : wrong_count(w, in, count);
    if (fixed == 0 || count % fixed != 0)
        return wrong_count(w, in, count);
    shape[free_at] = (int64_t)(count / fixed);
    return OK;
}

static enum err_code shape_as_said(struct rows *w, const struct typed_input *in,
                                   const struct pending *p, int64_t *shape)
{
    char got[160], row[160];
    bool fits = p->rank == in->row_rank;
    uint64_t count = 0;

    for (uint32_t i = 0; fits && i < p->rank; i++) {
        fits = p->shape[i] >= 0 && (in->row_dims[i] == -1 || in->row_dims[i] == p->shape[i]);
        shape[i] = p->shape[i];
    }
    if (!fits)
        return err_set(w->err, E_INVALID, "%s: got shape %s; one row takes %s (-1: any)", in->title,
                       shape_text(got, sizeof got, p->rank, p->shape),
                       shape_text(row, sizeof row, in->row_rank, in->row_dims));
    if (!shape_count(p->rank, shape, &count) || count != p->count)
        return err_set(w->err, E_INVALID, "%s: shape %s takes %llu values; there are %llu",
                       in->title, shape_text(got, sizeof got, p->rank, p->shape),
                       (unsigned long long)count, (unsigned long long)p->count);
    return OK;
}

static enum err_code close_whole(struct rows *w, uint32_t input, enum message_form form)
{
    const struct typed_input *in = &w->plan->inputs[input];
    struct typed_column *c = &w->r->columns[input];
    struct pending *p = &w->pending[input];
    int64_t shape[PENSTOCK_RANK_MAX];
    enum err_code limits = OK;
    uint64_t rows = 1;

    if (form == FORM_MANY && is_flat_rows(w->plan, in) && p->count % in->row_count == 0)
        rows = p->count / in->row_count;
    TRY(form == FORM_TENSOR ? shape_as_said(w, in, p, shape)
                            : shape_by_count(w, in, p->count / MAX(rows, 1u), shape));
    TRY(typed_set_shape(w->r, in, c, shape, w->err));
    if (form == FORM_ONE && in->element == 0)
        TRY(typed_append_bytes(w->r, c, p->text, w->err));
    TRY(typed_column_room(w->r, c, p->bytes, w->err)); /* none for no elements yet */
    if (UNLIKELY(in->has_limits && in->element != 0))
        limits = typed_check_limits(w->r, in, c->data + c->size, p->count, w->err);
    if (UNLIKELY(limits != OK))
        return element_failed(w, in->title, form, w->r->element, limits);
    c->size += p->bytes;
    p->bytes = 0;
    p->count = 0;
    p->rank = 0;
    c->is_given = false;
    c->rows += rows;
    return OK;
}

static HOT enum err_code close_row(struct rows *w)
{
    for (uint32_t i = 0; i < w->plan->inputs_count; i++) {
        const struct typed_input *in = &w->plan->inputs[i];
        struct typed_column *c = &w->r->columns[i];
        if (c->seen_count != 0) {
            TRY(close_features(w, i));
        } else if (c->is_given) {
            enum err_code code = close_whole(w, i, w->proto->input_forms[i]);
            if (UNLIKELY(code != OK))
                return typed_field_failed(w->r, in->title, code);
        } else if (UNLIKELY(in->is_required)) {
            return missing(w, i);
        }
    }
    w->has_fields = false;
    return OK;
}

static HOT enum err_code read_row(struct rows *w, struct slice bytes)
{
    struct pb_reader reader;
    struct pb_field got;
    uint32_t expected = 0;

    pb_begin(&reader, bytes);
    while (pb_next(&reader, &got)) {
        const struct message_field *f = message_find(&w->proto->request, got.number, &expected);
        if (UNLIKELY(f == NULL))
            w->unknown = w->unknown != 0 ? w->unknown : got.number;
        else
            TRY(read_field(w, f, &got));
    }
    if (UNLIKELY(pb_failed(&reader)))
        return faulty(w, "the row", &reader);
    return close_row(w);
}

/* As BadRequest has it: where in the message the field is. */
static COLD enum err_code row_failed(struct rows *w, uint64_t row, enum err_code code)
{
    struct typed_reader *r = w->r;

    if (r->field != NULL) {
        const char *path = arena_printf(r->arena, "%s[%llu].%s", w->proto->rows_name,
                                        (unsigned long long)row, r->field);
        r->field = path != NULL ? path : r->field;
    }
    err_wrap(w->err, "row %llu", (unsigned long long)row);
    return code;
}

static enum err_code read_rows(struct rows *w, const struct pb_field *got, uint64_t row)
{
    if (w->proto->rows_name == NULL)
        return err_set(w->err, E_INVALID,
                       "model '%s' takes one row at a time: it has no batch dimension",
                       w->plan->model);
    if (got->wire != PB_LEN)
        return wrong_wire(w, w->proto->rows_name, "Row", got);
    if (w->has_fields)
        return err_set(w->err, E_INVALID,
                       "fields of one row and '%s' exclude one another: put every row into '%s'",
                       w->proto->rows_name, w->proto->rows_name);
    w->r->is_list = w->r->is_list_body = w->has_any = true;
    enum err_code code = read_row(w, got->bytes);
    return LIKELY(code == OK) ? OK : row_failed(w, row, code);
}

/* -- options ----------------------------------------------------------------------------------- */

static enum err_code read_option(struct rows *w, struct typed_query *query,
                                 const struct pb_field *got)
{
    static const struct {
        const char *name, *kind;
        enum pb_wire wire;
    } options[] = {
        [OPTION_TOP] = { "options.top", "uint32", PB_VARINT },
        [OPTION_OUTPUTS] = { "options.outputs", "string", PB_LEN },
        [OPTION_PRECISION] = { "options.precision", "uint32", PB_VARINT },
        [OPTION_FULL] = { "options.full_precision", "bool", PB_VARINT },
    };

    if (got->number >= COUNT(options))
        return OK;
    w->r->field = options[got->number].name;
    if (got->wire != options[got->number].wire)
        return wrong_wire(w, options[got->number].name, options[got->number].kind, got);
    switch (got->number) {
    case OPTION_TOP:
        query->top = (uint32_t)got->value;
        query->has_top = query->top != 0;
        break;
    case OPTION_OUTPUTS:
        TRY(check_text(w, options[got->number].name, KIND_STRING, got->bytes));
        TRY(typed_query_pick(query, w->plan, got->bytes, w->r->arena, w->err));
        break;
    case OPTION_PRECISION:
        if ((uint32_t)got->value > 17)
            return err_set(w->err, E_INVALID,
                           "options.precision is %u; it takes 1 to 17 significant digits, and "
                           "full_precision has them all",
                           (uint32_t)got->value);
        query->precision = (int)(uint32_t)got->value;
        break;
    case OPTION_FULL:
        query->precision = got->value != 0 ? TYPED_PRECISION_FULL : query->precision;
        break;
    }
    w->r->field = NULL;
    return OK;
}

static enum err_code read_options(struct rows *w, struct typed_query *query,
                                  const struct pb_field *got)
{
    struct pb_reader reader;
    struct pb_field option;

    if (got->wire != PB_LEN)
        return wrong_wire(w, w->proto->options_name, "Options", got);
    pb_begin(&reader, got->bytes);
    while (pb_next(&reader, &option))
        TRY(read_option(w, query, &option));
    return pb_failed(&reader) ? faulty(w, w->proto->options_name, &reader) : OK;
}

/* -- of a stream ------------------------------------------------------------------------------- */

static enum err_code read_asked(const struct rows *w, const struct pb_field *got,
                                struct typed_asked *asked)
{
    const char *name = w->proto->asked_name;
    struct pb_reader reader;
    struct pb_field field;

    if (got->wire != PB_LEN)
        return wrong_wire(w, name, "Stream", got);
    pb_begin(&reader, got->bytes);
    while (pb_next(&reader, &field)) {
        if (field.number != ASK_SEQUENCE && field.number != ASK_INTERRUPT)
            continue;
        if (field.wire != PB_VARINT)
            return wrong_wire(w, name, field.number == ASK_SEQUENCE ? "uint64" : "bool", &field);
        if (field.number == ASK_SEQUENCE)
            asked->sequence = field.value;
        else
            asked->interrupts = field.value != 0;
    }
    return pb_failed(&reader) ? faulty(w, name, &reader) : OK;
}

enum err_code typed_look_proto(const struct typed_plan *plan, struct slice message,
                               struct typed_asked *ret, struct err *err)
{
    struct rows w = { .plan = plan, .proto = typed_proto_of(plan), .err = err };
    struct typed_asked asked = { .sequence = 0 };
    struct pb_reader reader;
    struct pb_field got;
    uint32_t expected = 0;

    if (w.proto == NULL)
        return no_memory(err);
    if (w.proto->service == NULL)
        return err_set(err, E_UNIMPLEMENTED, "%s", w.proto->why);
    pb_begin(&reader, message);
    while (pb_next(&reader, &got)) {
        if (got.number == NUMBER_STREAM)
            TRY(read_asked(&w, &got, &asked));
        else if (got.number == NUMBER_OPTIONS)
            asked.has_options = true;
        else
            asked.has_input |= got.number == NUMBER_ROWS ||
                               message_find(&w.proto->request, got.number, &expected) != NULL;
    }
    if (UNLIKELY(pb_failed(&reader)))
        return faulty(&w, "the request", &reader);
    asked.has_input |= !asked.interrupts;
    *ret = asked;
    return OK;
}

/* -- the message ------------------------------------------------------------------------------- */

static HOT enum err_code read_message(struct rows *w, struct slice message,
                                      struct typed_query *query)
{
    struct typed_asked asked; /* its user has looked at it */
    struct pb_reader reader;
    struct pb_field got;
    uint32_t expected = 0;
    uint64_t row = 0;

    pb_begin(&reader, message);
    while (pb_next(&reader, &got)) {
        const struct message_field *f = message_find(&w->proto->request, got.number, &expected);
        if (LIKELY(f != NULL)) {
            if (UNLIKELY(row != 0))
                return err_set(w->err, E_INVALID,
                               "fields of one row and '%s' exclude one another: put every row "
                               "into '%s'",
                               w->proto->rows_name, w->proto->rows_name);
            TRY(read_field(w, f, &got));
        } else if (got.number == NUMBER_ROWS) {
            TRY(read_rows(w, &got, row));
            row++;
        } else if (got.number == NUMBER_OPTIONS) {
            TRY(read_options(w, query, &got));
        } else if (got.number == NUMBER_STREAM) {
            TRY(read_asked(w, &got, &asked));
        } else if (w->unknown == 0) {
            w->unknown = got.number;
        }
    }
    if (UNLIKELY(pb_failed(&reader)))
        return faulty(w, "the request", &reader);
    return row != 0 ? OK : close_row(w);
}

HOT enum err_code typed_read_proto(struct typed_reader *r, struct slice message,
                                   struct typed_query *ret_query, struct err *err)
{
    struct typed_query query = { .precision = TYPED_PRECISION_DEFAULT };
    struct rows w = { .r = r, .plan = r->plan, .proto = typed_proto_of(r->plan), .err = err };

    if (w.proto == NULL)
        return no_memory(err);
    if (w.proto->service == NULL)
        return err_set(err, E_UNIMPLEMENTED, "%s", w.proto->why);
    w.pending = arena_zalloc(r->arena, MAX(r->plan->inputs_count, 1u) * sizeof *w.pending);
    if (w.pending == NULL)
        return no_memory(err);
    r->has_closed = true; /* by ourselves */
    TRY(read_message(&w, message, &query));
    TRY(typed_query_check(&query, r->plan, err));
    *ret_query = query;
    return OK;
}
