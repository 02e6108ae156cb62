/* kserve_read.c - a V2 inference request from its bytes, in one pass.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Members may come in any order. Tensor data is read where it stands when its shape and datatype
 * came before it, as every client writes it; otherwise its place is kept and it is read when the
 * input is complete. Binary inputs follow the JSON in the order in which `inputs` names them, so
 * their places are a running sum.
 *
 * Memory follows what is really in the body: a shape that promises more elements than the text
 * could hold is refused before anything is allocated for it.
 */
#include <stdio.h>

#include "api/kserve.h"
#include "base/arena.h"
#include "codec/tensor_json.h"
#include "contract/tensor_memory.h"
#include "model/dtype.h"

enum { SMALL_TEXT = 2048 };

struct reader {
    struct kserve_request *request;
    struct kserve_inputs inputs;
    const struct kserve_plan *plan;
    struct kserve_memory memory;
    struct slice binary; /* what of the binary part is not given out yet */
    bool has_length;     /* an Inference-Header-Content-Length said where it begins */
    struct json_cursor c;
    uint32_t parameters_count;
    bool binary_default;
};

/* Paths of the first few inputs are constants: they are needed only for errors. */
enum {
    MEMBER_SELF,
    MEMBER_NAME,
    MEMBER_SHAPE,
    MEMBER_DATATYPE,
    MEMBER_DATA,
    MEMBER_PARAMETERS,
    MEMBER_BINARY_SIZE,
    MEMBER_BINARY,
    MEMBER_CLASSES,
    MEMBERS
};

#define PATHS(list, i)                                                                           \
    {                                                                                            \
        list "[" #i "]", list "[" #i "].name", list "[" #i "].shape", list "[" #i "].datatype",  \
            list "[" #i "].data", list "[" #i "].parameters",                                    \
            list "[" #i "].parameters.binary_data_size", list "[" #i "].parameters.binary_data", \
            list "[" #i "].parameters.classification"                                            \
    }
static const char *const input_paths[][MEMBERS] = {
    PATHS("inputs", 0), PATHS("inputs", 1), PATHS("inputs", 2), PATHS("inputs", 3),
    PATHS("inputs", 4), PATHS("inputs", 5), PATHS("inputs", 6), PATHS("inputs", 7),
};
static const char *const output_paths[][MEMBERS] = {
    PATHS("outputs", 0),
    PATHS("outputs", 1),
    PATHS("outputs", 2),
    PATHS("outputs", 3),
};

static const char *path_of(struct reader *r, bool is_output, uint32_t at, unsigned member)
{
    static const char *const ends[MEMBERS] = {
        [MEMBER_SELF] = "",
        [MEMBER_NAME] = ".name",
        [MEMBER_SHAPE] = ".shape",
        [MEMBER_DATATYPE] = ".datatype",
        [MEMBER_DATA] = ".data",
        [MEMBER_PARAMETERS] = ".parameters",
        [MEMBER_BINARY_SIZE] = ".parameters.binary_data_size",
        [MEMBER_BINARY] = ".parameters.binary_data",
        [MEMBER_CLASSES] = ".parameters.classification",
    };

    if (is_output && LIKELY(at < COUNT(output_paths)))
        return output_paths[at][member];
    if (!is_output && LIKELY(at < COUNT(input_paths)))
        return input_paths[at][member];
    char *path = arena_printf(r->memory.arena, "%s[%u]%s", is_output ? "outputs" : "inputs", at,
                              ends[member]);
    return path != NULL ? path : is_output ? "outputs[..]" : "inputs[..]";
}

static COLD enum err_code twice(const char *path, const char *key, struct err *err)
{
    return err_set(err, E_INVALID, "%s%s'%s' is given twice", path, path[0] != '\0' ? ": " : "",
                   key);
}

/* Marks a member as seen. */
static enum err_code see(unsigned *seen, unsigned bit, const char *path, const char *key,
                         struct err *err)
{
    if (UNLIKELY((*seen & bit) != 0))
        return twice(path, key, err);
    *seen |= bit;
    return OK;
}

/* Takes `"key":` of the next member; *ret_more false at the closing brace. */
static enum err_code next_key(struct reader *r, bool is_first, bool *ret_more, struct slice *ret,
                              const char *path, struct err *err)
{
    TRY(json_more(&r->c, '}', is_first, ret_more, path, err));
    if (!*ret_more)
        return OK;
    TRY(json_string(&r->c, r->memory.arena, ret, path, err));
    return json_take(&r->c, ':', path, err);
}

/* -- parameters ----------------------------------------------------------------------------- */

static bool is_number_byte(uint8_t c)
{
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

static COLD enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
}

static enum err_code read_number(struct parameter *p, struct json_cursor *c, struct arena *arena,
                                 const char *path, struct err *err)
{
    const uint8_t *at = c->at, *end = at;
    bool is_whole = true;

    while (end < c->end && is_number_byte(*end)) {
        is_whole &= *end != '.' && *end != 'e' && *end != 'E';
        end++;
    }
    size_t digits = (size_t)(end - at);
    if (is_whole && *at == '-' && digits <= 20) {
        p->kind = PARAMETER_INT;
        TRY(json_i64(c, &p->value.i, path, err));
    } else if (is_whole && digits <= 20) {
        TRY(json_u64(c, &p->value.u, path, err));
        p->kind = p->value.u <= INT64_MAX ? PARAMETER_INT : PARAMETER_UINT;
    } else {
        p->kind = PARAMETER_DOUBLE;
        TRY(json_f64(c, &p->value.d, path, err));
    }
    p->text = arena_strndup(arena, at, digits);
    return p->text == NULL ? no_memory(err) : OK;
}

enum err_code kserve_read_parameter(struct parameter *p, struct json_cursor *c, struct arena *arena,
                                    const char *path, struct err *err)
{
    uint8_t first = json_peek(c);

    if (first == '"') {
        struct slice text;
        p->kind = PARAMETER_STRING;
        TRY(json_string(c, arena, &text, path, err));
        p->text = arena_strndup(arena, text.data, text.size);
        if (p->text == NULL)
            return no_memory(err);
        if (strlen(p->text) != text.size)
            return err_set(err, E_INVALID, "%s: parameter '%s' holds a NUL byte", path, p->key);
        return OK;
    }
    if (first == 't' || first == 'f') {
        p->kind = PARAMETER_BOOL;
        TRY(json_bool(c, &p->value.b, path, err));
        p->text = p->value.b ? "true" : "false";
        return OK;
    }
    if (first == '-' || (first >= '0' && first <= '9'))
        return read_number(p, c, arena, path, err);
    return err_set(err, E_INVALID,
                   "%s: parameter '%s' has invalid type. It should be either 'int', 'bool', "
                   "'string' or 'double'",
                   path, p->key);
}

/* Reserved keys are taken; *ret_is_custom says that it is the model's. */
static enum err_code take_parameter(struct reader *r, const struct parameter *p,
                                    bool *ret_is_custom, struct err *err)
{
    *ret_is_custom = false;
    if (strcmp(p->key, "binary_data_output") == 0)
        return kserve_parameter_bool(p, &r->binary_default, err);
    return kserve_take_parameter(r->request, p, ret_is_custom, err);
}

static enum err_code read_parameters(struct reader *r, struct err *err)
{
    struct parameter *all = NULL; /* reserved ones too: a key may come once */

    TRY(json_take(&r->c, '{', "parameters", err));
    for (bool is_first = true;; is_first = false) {
        bool more, is_custom;
        struct slice key;
        TRY(next_key(r, is_first, &more, &key, "parameters", err));
        if (!more)
            break;
        if (++r->parameters_count > KSERVE_PARAMETERS_MAX)
            return err_set(err, E_INVALID, "parameters: more than %d of them",
                           KSERVE_PARAMETERS_MAX);
        struct parameter *p = arena_zalloc(r->memory.arena, 2 * sizeof *p);
        char *name = arena_strndup(r->memory.arena, key.data, key.size);
        if (p == NULL || name == NULL)
            return no_memory(err);
        if (strlen(name) != key.size)
            return err_set(err, E_INVALID, "parameters: a key holds a NUL byte");
        p->key = name;
        for (const struct parameter *q = all; q != NULL; q = q->next)
            if (strcmp(q->key, name) == 0)
                return twice("parameters", name, err);
        TRY(kserve_read_parameter(p, &r->c, r->memory.arena, "parameters", err));
        TRY(take_parameter(r, p, &is_custom, err));
        if (is_custom) {
            p[1] = p[0];
            p[1].next = r->request->parameters;
            r->request->parameters = &p[1];
        }
        p->next = all;
        all = p;
    }
    return OK;
}

/* -- inputs ------------------------------------------------------------------------------------- */

struct input {
    const char *path;
    uint32_t at; /* in the request */
    unsigned seen;
    struct slice name;
    enum penstock_dtype dtype;
    uint32_t rank;
    int64_t shape[PENSTOCK_RANK_MAX];
    uint64_t count;
    struct json_cursor later; /* data that came before its shape or datatype */
    bool has_data, has_later, has_binary, has_region;
    uint64_t binary_size;
    const void *data;
    size_t size;
};

enum { SEEN_NAME = 1, SEEN_SHAPE = 2, SEEN_DATATYPE = 4, SEEN_DATA = 8, SEEN_PARAMETERS = 16 };

/* Elements of a JSON value, for an error's text: scalars at any depth. */
static COLD uint64_t count_scalars(struct slice value)
{
    uint64_t count = 0;
    bool in_scalar = false;

    for (size_t i = 0; i < value.size; i++) {
        uint8_t c = value.data[i];
        if (c == '"') {
            for (i++; i < value.size && value.data[i] != '"'; i++)
                i += value.data[i] == '\\';
            count++;
        } else if (c == '[' || c == ']' || c == ',' || c == ' ' || c == '\n' || c == '\t' ||
                   c == '\r') {
            in_scalar = false;
        } else {
            count += !in_scalar;
            in_scalar = true;
        }
    }
    return count;
}

static COLD enum err_code too_few(struct reader *r, const struct input *in, struct err *err)
{
    const char *path = path_of(r, false, in->at, MEMBER_DATA);
    struct slice value;
    char shape[160];

    TRY(json_skip(&r->c, &value, path, err));
    return err_set(err, E_INVALID, "%s: %llu elements; shape %s takes %llu", path,
                   (unsigned long long)count_scalars(value),
                   shape_text(shape, sizeof shape, in->rank, in->shape),
                   (unsigned long long)in->count);
}

static enum err_code read_strings(const void **ret, size_t *ret_size, uint64_t count,
                                  struct json_cursor *c, const char *path,
                                  struct kserve_memory memory, struct err *err)
{
    size_t left = (size_t)(c->end - c->at);
    struct text out;
    void *bytes;

    if (left > SMALL_TEXT) {
        struct json_cursor ahead = *c;
        struct slice value;
        TRY(json_skip(&ahead, &value, path, err));
        left = value.size;
    }
    /* A string of n bytes needs n + 2 of text, and its element n + 4. */
    if (UNLIKELY(count > (left + 1) / 3 + 1))
        return E_RANGE;
    size_t room = count * 4 + left;
    TRY(tensor_memory(&bytes, memory.arena, memory.budget, room, err));
    text_init_fixed(&out, bytes, room);
    TRY(tensor_json_read_bytes(&out, count, c, path, err));
    if (text_failed(&out))
        return no_memory(err);
    *ret = bytes;
    *ret_size = out.size;
    return OK;
}

HOT enum err_code kserve_read_elements(const void **ret, size_t *ret_size,
                                       enum penstock_dtype dtype, uint64_t count,
                                       struct json_cursor *c, const char *path,
                                       struct kserve_memory memory, struct err *err)
{
    size_t left = (size_t)(c->end - c->at), size;
    void *bytes;

    if (dtype == PENSTOCK_BYTES)
        return read_strings(ret, ret_size, count, c, path, memory, err);
    if (UNLIKELY(count > (left + 1) / 2 + 1))
        return E_RANGE;
    size = count * dtype_size(dtype);
    TRY(tensor_memory(&bytes, memory.arena, memory.budget, size, err));
    TRY(tensor_json_read(bytes, dtype, count, c, path, err));
    *ret = bytes;
    *ret_size = size;
    return OK;
}

/* The cursor stands at the value of `data`; shape and datatype are known. */
static HOT enum err_code read_data(struct reader *r, struct input *in, struct err *err)
{
    if (!shape_count(in->rank, in->shape, &in->count))
        return err_set(err, E_INVALID, "%s: too many elements",
                       path_of(r, false, in->at, MEMBER_SHAPE));
    enum err_code code =
        kserve_read_elements(&in->data, &in->size, in->dtype, in->count, &r->c,
                             path_of(r, false, in->at, MEMBER_DATA), r->memory, err);
    return UNLIKELY(code == E_RANGE && err->code == OK) ? too_few(r, in, err) : code;
}

/* Elements that cannot be read because the datatype is the wrong one for this model: that is what
 * the caller needs to hear. */
static COLD enum err_code data_failed(struct reader *r, const struct input *in, struct err *err)
{
    const struct signature_tensor *t =
        (in->seen & SEEN_NAME) == 0 ? NULL : signature_input(r->plan->signature, in->name, NULL);

    if (err->code != E_INVALID || t == NULL || t->dtype == in->dtype)
        return err->code;
    return kserve_wrong_datatype(t, in->dtype, err);
}

static enum err_code read_shape(struct reader *r, struct input *in, struct err *err)
{
    const char *path = path_of(r, false, in->at, MEMBER_SHAPE);

    TRY(json_take(&r->c, '[', path, err));
    for (bool is_first = true;; is_first = false) {
        bool more;
        TRY(json_more(&r->c, ']', is_first, &more, path, err));
        if (!more)
            return OK;
        if (in->rank == PENSTOCK_RANK_MAX)
            return err_set(err, E_INVALID, "%s: more than %u dimensions", path, PENSTOCK_RANK_MAX);
        int64_t dim;
        TRY(json_i64(&r->c, &dim, path, err));
        if (dim < 0)
            return err_set(err, E_INVALID, "%s: dimension %u is %lld; it must be 0 or more", path,
                           in->rank, (long long)dim);
        in->shape[in->rank++] = dim;
    }
}

static enum err_code read_input_parameters(struct reader *r, struct input *in, struct err *err)
{
    const char *path = path_of(r, false, in->at, MEMBER_PARAMETERS);
    unsigned seen = 0;

    TRY(json_take(&r->c, '{', path, err));
    for (bool is_first = true;; is_first = false) {
        bool more;
        struct slice key;
        TRY(next_key(r, is_first, &more, &key, path, err));
        if (!more)
            return OK;
        if (slice_is(key, "binary_data_size")) {
            TRY(see(&seen, 1, path, "binary_data_size", err));
            TRY(json_u64(&r->c, &in->binary_size, path_of(r, false, in->at, MEMBER_BINARY_SIZE),
                         err));
            in->has_binary = true;
        } else {
            /* Others (content_type of MLServer's clients ...) do not concern us. */
            in->has_region |= slice_is(key, "shared_memory_region");
            TRY(json_skip(&r->c, NULL, path, err));
        }
    }
}

static COLD enum err_code no_shared_memory(const char *path, struct err *err)
{
    return err_set(err, E_UNIMPLEMENTED,
                   "%s: shared memory regions are not built yet; send the tensor in the body "
                   "(binary_data_size)",
                   path);
}

static COLD enum err_code not_one_source(const struct input *in, struct err *err)
{
    const char *names[3];
    unsigned count = 0;

    if (in->has_data)
        names[count++] = "'data'";
    if (in->has_binary)
        names[count++] = "'binary_data_size' in 'parameters'";
    if (in->has_region)
        names[count++] = "'shared_memory_region' in 'parameters'";
    return err_set(err, E_INVALID,
                   "input '%.*s' must set exactly one of 'data', 'binary_data_size' in "
                   "'parameters' and 'shared_memory_region' in 'parameters'; %s%s%s%s%s%s",
                   SLICE_ARG(slice_first(in->name, 80)), count == 0 ? "none is set" : "set are ",
                   count > 0 ? names[0] : "", count > 1 ? ", " : "", count > 1 ? names[1] : "",
                   count > 2 ? ", " : "", count > 2 ? names[2] : "");
}

/* Takes the input's bytes from the binary part; they are used in place when aligned. */
static enum err_code take_binary(struct reader *r, struct input *in, struct err *err)
{
    if (UNLIKELY(in->binary_size > r->binary.size))
        return err_set(err, E_INVALID,
                       "unexpected size for input '%.*s', expecting %llu additional bytes for "
                       "model '%.*s'%s",
                       SLICE_ARG(slice_first(in->name, 80)),
                       (unsigned long long)(in->binary_size - r->binary.size),
                       SLICE_ARG(r->plan->model_name),
                       r->has_length ? ""
                                     : "; without the header Inference-Header-Content-Length "
                                       "the whole body is JSON");
    in->size = (size_t)in->binary_size;
    struct slice bytes = slice_first(r->binary, in->size);
    r->binary = slice_skip(r->binary, in->size);
    return kserve_place(&in->data, in->name, in->dtype, bytes, r->memory, err);
}

static HOT enum err_code finish_input(struct reader *r, struct input *in, struct err *err)
{
    const struct kserve_plan *plan = r->plan;
    uint32_t index = 0;

    if ((in->seen & SEEN_NAME) == 0)
        return err_set(err, E_INVALID, "%s has no 'name'", in->path);
    TRY(kserve_find_input(plan, in->name, r->inputs.has, &index, err));
    const struct signature_tensor *t = &plan->signature->inputs[index];
    if (UNLIKELY((in->seen & SEEN_DATATYPE) == 0))
        return kserve_no_datatype(t, err);
    if (UNLIKELY((in->seen & SEEN_SHAPE) == 0)) {
        char shape[160];
        return err_set(err, E_INVALID, "input '%s' has no 'shape'; it takes %s (-1: any)", t->name,
                       shape_text(shape, sizeof shape, t->rank, t->dims));
    }
    if (UNLIKELY(in->has_data + in->has_binary + in->has_region != 1))
        return not_one_source(in, err);
    if (in->has_region)
        return no_shared_memory(in->path, err);
    if (in->has_binary)
        TRY(take_binary(r, in, err));
    if (UNLIKELY(in->has_later)) {
        struct json_cursor behind = r->c;
        r->c = in->later;
        if (read_data(r, in, err) != OK)
            return data_failed(r, in, err);
        r->c = behind;
    }
    kserve_set_input(r->inputs, plan, index, in->rank, in->shape, in->dtype,
                     slice_make(in->data, in->size));
    return OK;
}

static HOT enum err_code read_input(struct reader *r, uint32_t at, struct err *err)
{
    struct input in;

    in.path = path_of(r, false, at, MEMBER_SELF);
    in.at = at;
    in.seen = 0;
    in.rank = 0;
    in.dtype = PENSTOCK_INVALID;
    in.has_data = in.has_later = in.has_binary = in.has_region = false;
    TRY(json_take(&r->c, '{', in.path, err));
    for (bool is_first = true;; is_first = false) {
        bool more;
        struct slice key;
        TRY(next_key(r, is_first, &more, &key, in.path, err));
        if (!more)
            break;
        if (slice_is(key, "name")) {
            TRY(see(&in.seen, SEEN_NAME, in.path, "name", err));
            TRY(json_string(&r->c, r->memory.arena, &in.name, path_of(r, false, at, MEMBER_NAME),
                            err));
        } else if (slice_is(key, "shape")) {
            TRY(see(&in.seen, SEEN_SHAPE, in.path, "shape", err));
            TRY(read_shape(r, &in, err));
        } else if (slice_is(key, "datatype")) {
            struct slice name;
            TRY(see(&in.seen, SEEN_DATATYPE, in.path, "datatype", err));
            TRY(json_string(&r->c, r->memory.arena, &name, path_of(r, false, at, MEMBER_DATATYPE),
                            err));
            in.dtype = dtype_from_name(name);
            if (UNLIKELY(in.dtype == PENSTOCK_INVALID))
                return kserve_unknown_datatype(path_of(r, false, at, MEMBER_DATATYPE), name, err);
        } else if (slice_is(key, "data")) {
            TRY(see(&in.seen, SEEN_DATA, in.path, "data", err));
            in.has_data = true;
            if (LIKELY((in.seen & (SEEN_SHAPE | SEEN_DATATYPE)) == (SEEN_SHAPE | SEEN_DATATYPE))) {
                if (UNLIKELY(read_data(r, &in, err) != OK))
                    return data_failed(r, &in, err);
            } else {
                in.has_later = true;
                in.later = r->c;
                TRY(json_skip(&r->c, NULL, path_of(r, false, at, MEMBER_DATA), err));
            }
        } else if (slice_is(key, "parameters")) {
            TRY(see(&in.seen, SEEN_PARAMETERS, in.path, "parameters", err));
            TRY(read_input_parameters(r, &in, err));
        } else {
            TRY(json_skip(&r->c, NULL, in.path, err));
        }
    }
    return finish_input(r, &in, err);
}

static HOT enum err_code read_inputs(struct reader *r, struct err *err)
{
    TRY(json_take(&r->c, '[', "inputs", err));
    for (uint32_t at = 0;; at++) {
        bool more;
        TRY(json_more(&r->c, ']', at == 0, &more, "inputs", err));
        if (!more)
            return OK;
        TRY(read_input(r, at, err));
    }
}

/* -- requested outputs -------------------------------------------------------------------------- */

struct wanted {
    bool has_binary, is_binary, has_region;
    uint64_t classes;
};

static enum err_code read_output_parameters(struct reader *r, uint32_t at, struct wanted *w,
                                            struct err *err)
{
    const char *path = path_of(r, true, at, MEMBER_PARAMETERS);
    unsigned seen = 0;

    TRY(json_take(&r->c, '{', path, err));
    for (bool is_first = true;; is_first = false) {
        bool more;
        struct slice key;
        TRY(next_key(r, is_first, &more, &key, path, err));
        if (!more)
            return OK;
        if (slice_is(key, "binary_data")) {
            TRY(see(&seen, 1, path, "binary_data", err));
            TRY(json_bool(&r->c, &w->is_binary, path_of(r, true, at, MEMBER_BINARY), err));
        } else if (slice_is(key, "classification")) {
            TRY(see(&seen, 2, path, "classification", err));
            TRY(json_u64(&r->c, &w->classes, path_of(r, true, at, MEMBER_CLASSES), err));
        } else {
            w->has_region |= slice_is(key, "shared_memory_region");
            TRY(json_skip(&r->c, NULL, path, err));
        }
    }
}

static enum err_code read_output(struct reader *r, uint32_t at, struct err *err)
{
    const char *path = path_of(r, true, at, MEMBER_SELF);
    struct slice name = { NULL, 0 };
    struct wanted w = { .classes = 0 };
    unsigned seen = 0;
    uint32_t index;

    TRY(json_take(&r->c, '{', path, err));
    for (bool is_first = true;; is_first = false) {
        bool more;
        struct slice key;
        TRY(next_key(r, is_first, &more, &key, path, err));
        if (!more)
            break;
        if (slice_is(key, "name")) {
            TRY(see(&seen, SEEN_NAME, path, "name", err));
            TRY(json_string(&r->c, r->memory.arena, &name, path_of(r, true, at, MEMBER_NAME), err));
        } else if (slice_is(key, "parameters")) {
            TRY(see(&seen, SEEN_PARAMETERS, path, "parameters", err));
            TRY(read_output_parameters(r, at, &w, err));
        } else {
            TRY(json_skip(&r->c, NULL, path, err));
        }
    }
    if ((seen & SEEN_NAME) == 0)
        return err_set(err, E_INVALID, "%s has no 'name'", path);
    TRY(kserve_find_output(r->plan, name, &index, err));
    if (w.has_region)
        return no_shared_memory(path, err);
    return kserve_want_output(r->request, r->plan, index, w.is_binary, w.classes, err);
}

static enum err_code read_outputs(struct reader *r, struct err *err)
{
    TRY(json_take(&r->c, '[', "outputs", err));
    for (uint32_t at = 0;; at++) {
        bool more;
        TRY(json_more(&r->c, ']', at == 0, &more, "outputs", err));
        if (!more)
            return OK;
        TRY(read_output(r, at, err));
    }
}

/* -- the whole ------------------------------------------------------------------------------------ */

static enum err_code read_id(struct reader *r, struct err *err)
{
    struct kserve_request *request = r->request;

    TRY(json_string(&r->c, r->memory.arena, &request->id, "id", err));
    request->id_text = arena_strndup(r->memory.arena, request->id.data, request->id.size);
    return request->id_text == NULL ? no_memory(err) : OK;
}

enum { SEEN_ID = 1, SEEN_TOP_PARAMETERS = 2, SEEN_INPUTS = 4, SEEN_OUTPUTS = 8 };

static HOT enum err_code read_members(struct reader *r, struct err *err)
{
    unsigned seen = 0;

    TRY(json_take(&r->c, '{', "", err));
    for (bool is_first = true;; is_first = false) {
        bool more;
        struct slice key;
        TRY(next_key(r, is_first, &more, &key, "", err));
        if (!more)
            break;
        if (slice_is(key, "inputs")) {
            TRY(see(&seen, SEEN_INPUTS, "", "inputs", err));
            TRY(read_inputs(r, err));
        } else if (slice_is(key, "outputs")) {
            TRY(see(&seen, SEEN_OUTPUTS, "", "outputs", err));
            TRY(read_outputs(r, err));
        } else if (slice_is(key, "id")) {
            TRY(see(&seen, SEEN_ID, "", "id", err));
            TRY(read_id(r, err));
        } else if (slice_is(key, "parameters")) {
            TRY(see(&seen, SEEN_TOP_PARAMETERS, "", "parameters", err));
            TRY(read_parameters(r, err));
        } else {
            TRY(json_skip(&r->c, NULL, "", err));
        }
    }
    TRY(json_end(&r->c, err));
    if (UNLIKELY((seen & SEEN_INPUTS) == 0))
        return err_set(err, E_INVALID,
                       "Unable to parse 'inputs': the request has no such member; it is a list of "
                       "{\"name\",\"shape\",\"datatype\",\"data\"}");
    return OK;
}

enum err_code kserve_header_length(struct slice value, uint64_t *ret, struct err *err)
{
    if (slice_to_u64(value, ret) && *ret <= INT64_MAX)
        return OK;
    return err_set(err, E_INVALID, "Unable to parse Inference-Header-Content-Length, got: %.*s",
                   SLICE_ARG(slice_first(value, 40)));
}

enum err_code kserve_read(struct kserve_request *ret, struct kserve_inputs inputs,
                          const struct kserve_plan *plan, struct slice body, bool has_header_length,
                          uint64_t header_length, struct kserve_memory memory, struct err *err)
{
    struct reader r = { .request = ret,
                        .inputs = inputs,
                        .plan = plan,
                        .memory = memory,
                        .has_length = has_header_length };

    if (has_header_length && UNLIKELY(header_length > body.size))
        return err_set(err, E_INVALID,
                       "inference header size should be in range (0, %zu), got: %llu", body.size,
                       (unsigned long long)header_length);
    if (body.data == NULL)
        body = slice_make("", 0); /* so that it has an address */
    struct slice json = has_header_length ? slice_first(body, (size_t)header_length) : body;
    r.binary = slice_skip(body, json.size);
    r.c = (struct json_cursor){ json.data, json.data, json.data + json.size };
    TRY(kserve_request_begin(ret, plan, memory.arena, err));
    if (UNLIKELY(json_peek(&r.c) != '{'))
        return err_set(err, E_INVALID,
                       "failed to parse the request JSON buffer: %s. at 0 (a JSON object with "
                       "'inputs' is expected)",
                       json.size == 0 ? "The document is empty" : "Invalid value");
    TRY(read_members(&r, err));
    if (UNLIKELY(r.binary.size != 0))
        return err_set(err, E_INVALID,
                       "unexpected additional input data for model '%.*s': %zu bytes behind the "
                       "last input%s",
                       SLICE_ARG(plan->model_name), r.binary.size,
                       has_header_length ? "" : " (no Inference-Header-Content-Length)");
    kserve_request_end(ret, plan, r.binary_default);
    return OK;
}

/* -- raw binary requests ------------------------------------------------------------------------- */

static enum err_code deduce_shape(int64_t shape[PENSTOCK_RANK_MAX], const struct kserve_plan *plan,
                                  const struct signature_tensor *t, size_t bytes, struct err *err)
{
    uint32_t free_at = UINT32_MAX, first = plan->has_batch ? 1 : 0;
    uint64_t fixed = 1;

    for (uint32_t i = 0; i < t->rank; i++) {
        shape[i] = t->dims[i];
        if (t->dims[i] >= 0) {
            if (__builtin_mul_overflow(fixed, (uint64_t)t->dims[i], &fixed))
                return err_set(err, E_INVALID, "input '%s' is too large", t->name);
        } else if (i < first) {
            shape[i] = 1;
        } else if (free_at != UINT32_MAX) {
            return err_set(err, E_INVALID,
                           "The shape of the raw input '%s' can not be deduced because there are "
                           "more than one variable-sized dimension",
                           t->name);
        } else {
            free_at = i;
        }
    }
    if (t->dtype == PENSTOCK_BYTES) {
        if (free_at == UINT32_MAX && fixed == 1)
            return OK;
        return err_set(err, E_INVALID,
                       "For BYTE datatype raw input '%s', the model must have input shape [1]",
                       t->name);
    }
    /* Rows are free when nothing else is. */
    if (free_at == UINT32_MAX && first == 1 && t->rank != 0 && t->dims[0] < 0)
        free_at = 0;
    if (__builtin_mul_overflow(fixed, dtype_size(t->dtype), &fixed))
        return err_set(err, E_INVALID, "input '%s' is too large", t->name);
    if (free_at == UINT32_MAX) {
        if (fixed == bytes)
            return OK;
        return err_set(err, E_INVALID, "the raw input '%s' takes %llu bytes, got %zu", t->name,
                       (unsigned long long)fixed, bytes);
    }
    if (fixed == 0 || bytes % fixed != 0)
        return err_set(err, E_INVALID, "the raw input '%s' takes a multiple of %llu bytes, got %zu",
                       t->name, (unsigned long long)fixed, bytes);
    shape[free_at] = (int64_t)(bytes / fixed);
    return OK;
}

/* Of the inputs that clients know: how many there are, and the index of the last. */
static uint32_t count_inputs(const struct signature *s, uint32_t *ret_index)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < s->inputs_count; i++) {
        if (s->inputs[i].is_hidden)
            continue;
        *ret_index = i;
        count++;
    }
    return count;
}

enum err_code kserve_read_raw(struct kserve_request *ret, struct kserve_inputs inputs,
                              const struct kserve_plan *plan, struct slice body,
                              struct kserve_memory memory, struct err *err)
{
    struct reader r = {
        .request = ret, .inputs = inputs, .plan = plan, .memory = memory, .binary_default = true
    };
    struct input in = { .binary_size = body.size };
    uint32_t index = 0, count = count_inputs(plan->signature, &index);

    TRY(kserve_request_begin(ret, plan, memory.arena, err));
    if (count != 1)
        return err_set(err, E_INVALID,
                       "Raw request must only have 1 input (found 1) to be deduced but got %u "
                       "inputs in '%.*s' model configuration",
                       count, SLICE_ARG(plan->model_name));
    const struct signature_tensor *t = &plan->signature->inputs[index];
    in.dtype = t->dtype;
    TRY(deduce_shape(in.shape, plan, t, body.size, err));
    if (in.dtype == PENSTOCK_BYTES) {
        uint32_t length = (uint32_t)body.size;
        uint8_t *memory_at;
        void *piece;
        if (body.size > UINT32_MAX)
            return err_set(err, E_INVALID, "the raw input '%s' is too large", t->name);
        TRY(tensor_memory(&piece, memory.arena, memory.budget, body.size + 4, err));
        memory_at = piece;
        memcpy(memory_at, &length, 4); /* little-endian hosts only, as everything here */
        if (body.size != 0)
            memcpy(memory_at + 4, body.data, body.size);
        in.data = piece;
        in.size = body.size + 4;
    } else {
        in.name = slice_of(t->name);
        r.binary = body;
        TRY(take_binary(&r, &in, err));
    }
    kserve_set_input(inputs, plan, index, t->rank, in.shape, in.dtype,
                     slice_make(in.data, in.size));
    kserve_request_end(ret, plan, r.binary_default);
    return OK;
}
