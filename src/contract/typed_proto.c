/* typed_proto.c - which messages a model's typed gRPC call has, and their FileDescriptorProto.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The bytes are those that protoc makes of typed_proto_text: fields in the order of their numbers,
 * json_name always there. A test compares them.
 *
 * Everything is made at the first question about it and put into the plan by one exchange: of two
 * threads that ask at once, one throws its own away.
 */
#include "contract/typed_proto.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/map.h"
#include "base/pb_text.h"
#include "base/utf8.h"
#include "codec/tensor_json.h"
#include "contract/typed_message.h"
#include "model/dtype.h"
#include "model/numbers.h"
#include "model/service.h"

enum { PROTO_BYTES_MAX = 64 << 20, FILE_BYTES_MAX = 16 << 20 };

/* -- names ------------------------------------------------------------------------------------- */

static bool is_letter(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static bool is_identifier(const char *name)
{
    if (!is_letter((uint8_t)name[0]))
        return false;
    for (; *name != '\0'; name++)
        if (!is_letter((uint8_t)*name) && !is_digit((uint8_t)*name) && *name != '_')
            return false;
    return true;
}

const char *message_camel(struct arena *arena, const char *name)
{
    char *out = arena_alloc(arena, strlen(name) + 1);
    size_t size = 0;
    bool is_capital = false;

    if (out == NULL)
        return NULL;
    for (; *name != '\0'; name++) {
        if (*name == '_') {
            is_capital = true;
            continue;
        }
        bool raises = is_capital && *name >= 'a' && *name <= 'z';
        out[size++] = (char)(raises ? *name - 'a' + 'A' : *name);
        is_capital = false;
    }
    out[size] = '\0';
    return out;
}

/* The names of one message. Generators of some languages drop underscores or capitals, and protobuf
 * itself compares the camel case that JSON has: names that are the same without either are too
 * near. */
struct names {
    struct arena *arena;
    struct map *near;  /* of names without underscores and capitals */
    struct map *types; /* nested ones: they lie in the same scope */
    struct map *json;  /* keys */
    struct map *scope; /* fields and their oneofs */
};

static enum err_code names_init(struct names *names, struct arena *arena, struct err *err)
{
    *names = (struct names){
        .arena = arena, .near = map_new(), .types = map_new(), .json = map_new(), .scope = map_new()
    };
    if (names->near != NULL && names->types != NULL && names->json != NULL && names->scope != NULL)
        return OK;
    return err_set(err, E_EXHAUSTED, "no memory for names");
}

static void names_deinit(struct names *names)
{
    map_free(&names->near);
    map_free(&names->types);
    map_free(&names->json);
    map_free(&names->scope);
}

/* Takes the name when it is free. */
static enum err_code take_name(struct names *names, const char *name, bool *ret_taken,
                               struct err *err)
{
    struct text key;

    text_init_arena(&key, names->arena, strlen(name) + 1);
    for (const char *c = name; *c != '\0'; c++)
        if (*c != '_')
            text_byte(&key, (uint8_t)(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c));
    if (text_failed(&key))
        return err_set(err, E_EXHAUSTED, "no memory for names");
    *ret_taken = map_get(names->near, text_slice(&key)) == NULL &&
                 map_get(names->types, slice_of(name)) == NULL;
    return *ret_taken ? map_put(names->near, text_slice(&key), names, err) : OK;
}

/* The name, or with a number behind it. */
static enum err_code find_name(struct names *names, const char *name, const char **ret,
                               struct err *err)
{
    bool is_taken;

    TRY(take_name(names, name, &is_taken, err));
    *ret = name;
    for (unsigned i = 2; !is_taken; i++) {
        const char *next = arena_printf(names->arena, "%s_%u", name, i);
        if (next == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for names");
        TRY(take_name(names, next, &is_taken, err));
        *ret = next;
    }
    return OK;
}

/* Letters, digits and underscores of a title, with a letter in front. */
static const char *identifier_of(struct arena *arena, const char *title, uint32_t number)
{
    struct text out;
    bool has_gap = false;

    text_init_arena(&out, arena, strlen(title) + 24);
    for (const char *c = title; *c != '\0'; c++) {
        if (!is_letter((uint8_t)*c) && !is_digit((uint8_t)*c)) {
            has_gap = true;
            continue;
        }
        if (out.size == 0 && is_digit((uint8_t)*c))
            text_str(&out, "field_");
        else if (has_gap && out.size != 0)
            text_byte(&out, '_');
        has_gap = false;
        text_byte(&out, (uint8_t)*c);
    }
    if (out.size == 0)
        text_printf(&out, "field_%u", number);
    const char *name = text_cstr(&out);
    return text_failed(&out) ? NULL : name;
}

/* What protobuf takes as a key: text that does not look like an extension's. */
static bool can_be_json(const char *title)
{
    struct slice text = slice_of(title);

    if (text.size == 0 || title[0] == '[' || utf8_valid_prefix(text) != text.size)
        return false;
    for (size_t i = 0; i < text.size; i++)
        if (text.data[i] < 0x20 || text.data[i] == 0x7f)
            return false;
    return true;
}

static enum err_code name_field(struct names *names, struct message_field *f, bool exact_only,
                                struct err *err)
{
    const char *want = f->title;
    bool is_taken = false;

    if (f->name != NULL)
        return OK;
    if (is_identifier(want))
        TRY(take_name(names, want, &is_taken, err));
    if (is_taken)
        f->name = want;
    if (f->name != NULL || exact_only)
        return OK;
    want = is_identifier(want) ? want : identifier_of(names->arena, want, f->number);
    return want == NULL ? err_set(err, E_EXHAUSTED, "no memory for names")
                        : find_name(names, want, &f->name, err);
}

/* Titles that are identifiers have their names first; what is left over makes do. */
static enum err_code name_fields(struct names *names, struct message *message, struct err *err)
{
    for (unsigned pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < message->count; i++)
            TRY(name_field(names, &message->fields[i], pass == 0, err));
    /* upb looks for names and keys in one table, and a field with presence has a oneof there. */
    for (uint32_t i = 0; i < message->count; i++) {
        struct message_field *f = &message->fields[i];
        const char *oneof = arena_printf(names->arena, "_%s", f->name);
        if (oneof == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for names");
        TRY(map_put(names->scope, slice_of(f->name), f, err));
        TRY(map_put(names->scope, slice_of(oneof), names, err));
    }
    for (uint32_t i = 0; i < message->count; i++) {
        struct message_field *f = &message->fields[i];
        const void *other = map_get(names->scope, slice_of(f->title));
        if (can_be_json(f->title) && (other == NULL || other == f) &&
            map_get(names->json, slice_of(f->title)) == NULL) {
            f->json = f->title;
            TRY(map_put(names->json, slice_of(f->json), f, err));
        }
    }
    for (uint32_t i = 0; i < message->count; i++) {
        struct message_field *f = &message->fields[i];
        if (f->json != NULL)
            continue;
        f->json = message_camel(names->arena, f->name);
        if (f->json == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for names");
        /* Somebody's title may be just that; names are near to no other. */
        if (map_get(names->json, slice_of(f->json)) != NULL)
            f->json = f->name;
        TRY(map_put(names->json, slice_of(f->json), f, err));
    }
    return OK;
}

static enum err_code reserve(struct names *names, const char *type, struct err *err)
{
    return map_put(names->types, slice_of(type), names, err);
}

/* Our own fields make way for the model's. */
static enum err_code name_ours(struct names *names, const char *name, const char **ret,
                               struct err *err)
{
    TRY(find_name(names, name, ret, err));
    return map_put(names->json, slice_of(*ret), names, err);
}

/* -- kinds and forms --------------------------------------------------------------------------- */

static enum message_kind kind_of(enum penstock_dtype dtype)
{
    switch (dtype) {
    case PENSTOCK_BOOL: return KIND_BOOL;
    case PENSTOCK_UINT8:
    case PENSTOCK_UINT16:
    case PENSTOCK_UINT32: return KIND_UINT32;
    case PENSTOCK_UINT64: return KIND_UINT64;
    case PENSTOCK_INT8:
    case PENSTOCK_INT16:
    case PENSTOCK_INT32: return KIND_INT32;
    case PENSTOCK_INT64: return KIND_INT64;
    case PENSTOCK_FP64: return KIND_DOUBLE;
    case PENSTOCK_BYTES: return KIND_STRING;
    default: return KIND_FLOAT;
    }
}

static const char *const kind_names[KINDS] = {
    [KIND_DOUBLE] = "double", [KIND_FLOAT] = "float", [KIND_INT64] = "int64",
    [KIND_UINT64] = "uint64", [KIND_INT32] = "int32", [KIND_BOOL] = "bool",
    [KIND_STRING] = "string", [KIND_BYTES] = "bytes", [KIND_UINT32] = "uint32",
};

static const char *const tensor_names[KINDS] = {
    [KIND_DOUBLE] = "DoubleTensor", [KIND_FLOAT] = "FloatTensor", [KIND_INT64] = "Int64Tensor",
    [KIND_UINT64] = "Uint64Tensor", [KIND_INT32] = "Int32Tensor", [KIND_BOOL] = "BoolTensor",
    [KIND_STRING] = "StringTensor", [KIND_BYTES] = "BytesTensor", [KIND_UINT32] = "Uint32Tensor",
};

const char *message_kind_name(enum message_kind kind)
{
    return kind_names[kind];
}

const char *message_tensor_name(enum message_kind kind)
{
    return tensor_names[kind];
}

void message_tensors(const struct message *message, bool needs[KINDS])
{
    for (unsigned kind = 0; kind < KINDS; kind++)
        needs[kind] = false;
    for (uint32_t i = 0; i < message->count; i++)
        if (message->fields[i].form == FORM_TENSOR)
            needs[message->fields[i].kind] = true;
}

/* A protobuf string is UTF-8; an image is not. */
static bool is_text_type(const char *content_type)
{
    struct slice type = slice_of(content_type);

    return slice_starts(type, "text/") || slice_ends(type, "/json") || slice_ends(type, "+json") ||
           slice_ends(type, "/xml") || slice_ends(type, "+xml");
}

/* With one free dimension the number of elements says which size it has. */
static enum message_form form_of(uint32_t rank, const int64_t *dims)
{
    uint32_t free_count = 0;
    bool has_zero = false, is_single = true;

    for (uint32_t i = 0; i < rank; i++) {
        free_count += dims[i] == -1;
        has_zero |= dims[i] == 0;
        is_single &= dims[i] == 1;
    }
    return is_single ? FORM_ONE : free_count > 1 || has_zero ? FORM_TENSOR : FORM_MANY;
}

static bool fit_int32(const int64_t *numbers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (numbers[i] < INT32_MIN || numbers[i] > INT32_MAX)
            return false;
    return true;
}

/* Of class numbers: protobuf's JSON has quotes around every int64. */
static enum message_kind label_kind(const struct typed_plan *plan, const struct typed_item *item)
{
    bool has_numbers = item->class_numbers != NULL && item->classes_count != 0;

    if (item->labels_count != 0)
        return KIND_STRING;
    if (item->label == -1 && !has_numbers)
        return KIND_UINT32; /* the column */
    enum message_kind kind =
        item->label == -1 ? KIND_INT64 : kind_of(plan->signature->outputs[item->label].dtype);
    return kind == KIND_INT64 && has_numbers && fit_int32(item->class_numbers, item->classes_count)
               ? KIND_INT32
               : kind;
}

/* -- the messages ------------------------------------------------------------------------------ */

static int by_number(const void *a, const void *b)
{
    const struct message_field *left = a, *right = b;

    return (left->number > right->number) - (left->number < right->number);
}

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for a model's gRPC contract; retry later");
}

static enum err_code too_many(const char *what, uint32_t count, struct err *err)
{
    return err_set(err, E_UNIMPLEMENTED,
                   "the model has %u %s, and a typed message at most %d; call it by "
                   "inference.GRPCInferenceService/ModelInfer",
                   count, what, MESSAGE_FIELDS_MAX);
}

static struct message_field request_field(const struct typed_plan *plan,
                                          const struct numbered *numbered)
{
    const struct typed_input *in = &plan->inputs[numbered->tensor];
    bool is_bytes = in->tensor->dtype == PENSTOCK_BYTES && in->tensor->content_type != NULL &&
                    !is_text_type(in->tensor->content_type);
    struct message_field f = {
        .number = numbered->number,
        .kind = is_bytes ? KIND_BYTES : kind_of(in->tensor->dtype),
        .form = in->has_axis ? form_of(in->row_rank - in->axis, in->row_dims + in->axis)
                             : form_of(in->row_rank, in->row_dims),
        .title = in->title,
        .input = numbered->tensor,
        .feature = numbered->feature,
    };

    if (numbered->feature != NUMBERED_WHOLE) {
        f.form = FORM_ONE;
        f.title = in->tensor->features[numbered->feature].name;
    } else if (numbered->is_extra) {
        f.form = FORM_MANY; /* also of a single feature: it is a list */
    }
    return f;
}

static enum err_code make_number_table(struct typed_proto *proto, const struct typed_plan *plan,
                                       struct err *err)
{
    size_t room = 1;

    proto->input_first =
        arena_alloc(proto->arena, MAX(plan->inputs_count, 1u) * sizeof *proto->input_first);
    if (proto->input_first == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < plan->inputs_count; i++) {
        proto->input_first[i] = (uint32_t)room;
        room += 1 + (size_t)plan->inputs[i].tensor->features_count;
    }
    proto->input_numbers = arena_zalloc(proto->arena, room * sizeof *proto->input_numbers);
    proto->item_numbers =
        arena_zalloc(proto->arena, MAX(plan->items_count, 1u) * sizeof *proto->item_numbers);
    return proto->input_numbers != NULL && proto->item_numbers != NULL ? OK : no_memory(err);
}

static enum err_code make_request(struct typed_proto *proto, const struct typed_plan *plan,
                                  struct err *err)
{
    uint32_t count;
    struct numbered *numbered = numbers_of_inputs(plan->signature, proto->arena, &count);

    if (numbered == NULL)
        return no_memory(err);
    if (count > MESSAGE_FIELDS_MAX)
        return too_many("inputs and features", count, err);
    proto->request.fields =
        arena_alloc(proto->arena, MAX(count, 1u) * sizeof(struct message_field));
    if (proto->request.fields == NULL)
        return no_memory(err);
    proto->input_forms =
        arena_zalloc(proto->arena, MAX(plan->inputs_count, 1u) * sizeof *proto->input_forms);
    if (proto->input_forms == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < count; i++) {
        struct message_field *f = &proto->request.fields[i];
        *f = request_field(plan, &numbered[i]);
        proto->input_numbers[proto->input_first[f->input] + (uint32_t)(f->feature + 1)] = f->number;
        if (f->feature == TYPED_WHOLE)
            proto->input_forms[f->input] = f->form;
    }
    proto->request.count = count;
    return OK;
}

static struct message_field response_field(const struct typed_plan *plan, uint32_t index,
                                           uint32_t number)
{
    const struct typed_item *item = &plan->items[index];
    const struct signature_tensor *t = &plan->signature->outputs[item->output];
    uint32_t skip = plan->has_batch && t->rank != 0 ? 1 : 0;
    struct message_field f = {
        .number = number,
        .kind = item->kind == ITEM_LABEL ? label_kind(plan, item) : kind_of(t->dtype),
        .form = form_of(t->rank - skip, t->dims + skip),
        .title = item->name,
        .item = index,
    };

    if (item->kind == ITEM_PROBABILITY || (item->kind == ITEM_LABEL && item->label == -1))
        f.form = FORM_ONE;
    return f;
}

/* Items are made in the order in which numbers are given: outputs, and scores as two. */
static enum err_code make_response(struct typed_proto *proto, const struct typed_plan *plan,
                                   struct err *err)
{
    uint32_t count;
    struct numbered *numbered = numbers_of_outputs(plan->signature, proto->arena, &count);

    if (numbered == NULL)
        return no_memory(err);
    require(count == plan->items_count);
    if (count > MESSAGE_FIELDS_MAX)
        return too_many("outputs", count, err);
    proto->response.fields =
        arena_alloc(proto->arena, MAX(count, 1u) * sizeof(struct message_field));
    if (proto->response.fields == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < count; i++) {
        require(plan->items[i].output == numbered[i].tensor);
        proto->response.fields[i] = response_field(plan, i, numbered[i].number);
        proto->item_numbers[i] = numbered[i].number;
    }
    proto->response.count = count;
    return OK;
}

static enum err_code make_tops(struct typed_proto *proto, const struct typed_plan *plan,
                               struct err *err)
{
    proto->tops = arena_alloc(proto->arena, MAX(plan->items_count, 1u) * sizeof *proto->tops);
    if (proto->tops == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < plan->items_count; i++) {
        int64_t scores = plan->items[i].probabilities;
        bool is_known = scores == -1;
        for (uint32_t k = 0; k < proto->tops_count; k++)
            is_known |= proto->tops[k].probabilities == scores;
        if (is_known)
            continue;
        if (proto->tops_count == MESSAGE_TOPS_MAX)
            return too_many("classifiers", MESSAGE_TOPS_MAX + 1, err);
        proto->tops[proto->tops_count] = (struct message_top){
            .number = NUMBER_TOP + proto->tops_count, .item = i, .probabilities = scores
        };
        proto->tops_count++;
    }
    return OK;
}

static enum err_code name_top(struct names *names, const struct typed_proto *proto,
                              const struct typed_plan *plan, struct message_top *top,
                              struct err *err)
{
    const char *name = "top";

    if (proto->tops_count > 1) {
        const char *output = plan->signature->outputs[top->probabilities].name;
        output = identifier_of(names->arena, output, top->number);
        name = output == NULL ? NULL : arena_printf(names->arena, "%s_top", output);
        if (name == NULL)
            return no_memory(err);
    }
    return name_ours(names, name, &top->name, err);
}

static enum err_code name_request(struct typed_proto *proto, const struct typed_plan *plan,
                                  struct names *names, struct err *err)
{
    bool needs[KINDS];

    message_tensors(&proto->request, needs);
    TRY(reserve(names, "Row", err));
    TRY(reserve(names, "Options", err));
    TRY(reserve(names, "Stream", err));
    for (unsigned kind = 0; kind < KINDS; kind++)
        if (needs[kind])
            TRY(reserve(names, tensor_names[kind], err));
    TRY(name_fields(names, &proto->request, err));
    TRY(name_ours(names, "options", &proto->options_name, err));
    if (plan->has_rows)
        TRY(name_ours(names, "rows", &proto->rows_name, err));
    return name_ours(names, "stream", &proto->asked_name, err);
}

static enum err_code name_response(struct typed_proto *proto, const struct typed_plan *plan,
                                   struct names *names, struct err *err)
{
    bool needs[KINDS];

    message_tensors(&proto->response, needs);
    TRY(reserve(names, "Row", err));
    TRY(reserve(names, "Class", err));
    TRY(reserve(names, "Stream", err));
    for (unsigned kind = 0; kind < KINDS; kind++)
        if (needs[kind])
            TRY(reserve(names, tensor_names[kind], err));
    TRY(name_fields(names, &proto->response, err));
    if (plan->has_batch)
        TRY(name_ours(names, "rows", &proto->answers_name, err));
    for (uint32_t i = 0; i < proto->tops_count; i++)
        TRY(name_top(names, proto, plan, &proto->tops[i], err));
    return name_ours(names, "stream", &proto->said_name, err);
}

static void sort_fields(struct message *message)
{
    if (message->count > 1)
        qsort(message->fields, message->count, sizeof *message->fields, by_number);
}

/* -- the descriptor ---------------------------------------------------------------------------- */

enum { LABEL_OPTIONAL = 1, LABEL_REPEATED = 3 };

/* One text for each depth: what is inside is written first. */
struct writer {
    const struct typed_proto *proto;
    struct text file, message, nested, field;
};

static void put_string(struct text *out, uint32_t number, const char *text)
{
    pb_text_bytes(out, number, slice_of(text));
}

/* A FieldDescriptorProto. json NULL: the name; oneof -1: it has no presence of its own. */
static void put_field(struct writer *w, struct text *out, const char *name, const char *json,
                      uint32_t number, int label, enum message_kind kind, const char *type,
                      int64_t oneof)
{
    struct text *f = &w->field;

    f->size = 0;
    put_string(f, 1, name);
    pb_text_uint(f, 3, number);
    pb_text_uint(f, 4, (uint64_t)label);
    pb_text_uint(f, 5, kind);
    if (type != NULL)
        put_string(f, 6, type);
    if (oneof >= 0)
        pb_text_uint(f, 9, (uint64_t)oneof);
    put_string(f, 10, json != NULL ? json : name);
    if (oneof >= 0)
        pb_text_uint(f, 17, 1);
    pb_text_bytes(out, 2, text_slice(f));
}

static const char *type_name(struct writer *w, const char *message, const char *nested)
{
    const char *name = arena_printf(w->proto->arena, "." TYPED_PROTO_PACKAGE ".%s%s.%s",
                                    w->proto->service, message, nested);

    if (name == NULL)
        w->file.has_failed = true;
    return name != NULL ? name : "";
}

/* The fields of a row, into the message itself or into its Row. */
static uint32_t put_row_fields(struct writer *w, struct text *out, const struct message *message,
                               const char *suffix)
{
    uint32_t oneofs = 0;

    for (uint32_t i = 0; i < message->count; i++) {
        const struct message_field *f = &message->fields[i];
        if (f->form == FORM_TENSOR)
            put_field(w, out, f->name, f->json, f->number, LABEL_OPTIONAL, KIND_MESSAGE,
                      type_name(w, suffix, tensor_names[f->kind]), -1);
        else
            put_field(w, out, f->name, f->json, f->number,
                      f->form == FORM_ONE ? LABEL_OPTIONAL : LABEL_REPEATED, f->kind, NULL,
                      f->form == FORM_ONE ? (int64_t)oneofs++ : -1);
    }
    return oneofs;
}

/* proto3's optional: a oneof of one, named for it. */
static void put_oneof(struct writer *w, struct text *out, const char *field)
{
    w->field.size = 0;
    pb_text_varint(&w->field, 1 << 3 | PB_LEN);
    pb_text_varint(&w->field, strlen(field) + 1);
    text_byte(&w->field, '_');
    text_str(&w->field, field);
    pb_text_bytes(out, 8, text_slice(&w->field));
}

static void put_row_oneofs(struct writer *w, struct text *out, const struct message *message)
{
    for (uint32_t i = 0; i < message->count; i++)
        if (message->fields[i].form == FORM_ONE)
            put_oneof(w, out, message->fields[i].name);
}

static void begin_nested(struct writer *w, const char *name)
{
    w->nested.size = 0;
    put_string(&w->nested, 1, name);
}

static void end_nested(struct writer *w)
{
    pb_text_bytes(&w->message, 3, text_slice(&w->nested));
}

static void put_tensors(struct writer *w, const struct message *message)
{
    bool needs[KINDS];

    message_tensors(message, needs);
    for (unsigned kind = 0; kind < KINDS; kind++) {
        if (!needs[kind])
            continue;
        begin_nested(w, tensor_names[kind]);
        put_field(w, &w->nested, "shape", NULL, TENSOR_SHAPE, LABEL_REPEATED, KIND_INT64, NULL, -1);
        put_field(w, &w->nested, "values", NULL, TENSOR_VALUES, LABEL_REPEATED,
                  (enum message_kind)kind, NULL, -1);
        end_nested(w);
    }
}

static void put_row(struct writer *w, const struct message *message, const char *suffix)
{
    begin_nested(w, "Row");
    put_row_fields(w, &w->nested, message, suffix);
    put_row_oneofs(w, &w->nested, message);
    end_nested(w);
}

static void begin_message(struct writer *w, const char *suffix)
{
    const char *name = arena_printf(w->proto->arena, "%s%s", w->proto->service, suffix);

    w->message.size = 0;
    if (name == NULL)
        w->file.has_failed = true;
    else
        put_string(&w->message, 1, name);
}

/* A field of ours in a nested message: no presence, zero is not there. */
static void put_plain(struct writer *w, const char *name, uint32_t number, enum message_kind kind)
{
    put_field(w, &w->nested, name, NULL, number, LABEL_OPTIONAL, kind, NULL, -1);
}

static void put_request(struct writer *w)
{
    const struct typed_proto *p = w->proto;

    begin_message(w, "PredictRequest");
    put_row_fields(w, &w->message, &p->request, "PredictRequest");
    put_field(w, &w->message, p->options_name, NULL, NUMBER_OPTIONS, LABEL_OPTIONAL, KIND_MESSAGE,
              type_name(w, "PredictRequest", "Options"), -1);
    if (p->rows_name != NULL)
        put_field(w, &w->message, p->rows_name, NULL, NUMBER_ROWS, LABEL_REPEATED, KIND_MESSAGE,
                  type_name(w, "PredictRequest", "Row"), -1);
    put_field(w, &w->message, p->asked_name, NULL, NUMBER_STREAM, LABEL_OPTIONAL, KIND_MESSAGE,
              type_name(w, "PredictRequest", "Stream"), -1);
    begin_nested(w, "Options");
    put_field(w, &w->nested, "top", NULL, OPTION_TOP, LABEL_OPTIONAL, KIND_UINT32, NULL, -1);
    put_field(w, &w->nested, "outputs", NULL, OPTION_OUTPUTS, LABEL_REPEATED, KIND_STRING, NULL,
              -1);
    put_field(w, &w->nested, "precision", NULL, OPTION_PRECISION, LABEL_OPTIONAL, KIND_UINT32, NULL,
              -1);
    put_field(w, &w->nested, "full_precision", NULL, OPTION_FULL, LABEL_OPTIONAL, KIND_BOOL, NULL,
              -1);
    end_nested(w);
    if (p->rows_name != NULL)
        put_row(w, &p->request, "PredictRequest");
    begin_nested(w, "Stream");
    put_plain(w, "sequence", ASK_SEQUENCE, KIND_UINT64);
    put_plain(w, "interrupt", ASK_INTERRUPT, KIND_BOOL);
    end_nested(w);
    put_tensors(w, &p->request);
    put_row_oneofs(w, &w->message, &p->request);
    pb_text_bytes(&w->file, 4, text_slice(&w->message));
}

static void put_class(struct writer *w)
{
    begin_nested(w, "Class");
    put_field(w, &w->nested, "label", NULL, CLASS_LABEL, LABEL_OPTIONAL, KIND_STRING, NULL, 0);
    put_field(w, &w->nested, "probability", NULL, CLASS_PROBABILITY, LABEL_OPTIONAL,
              w->proto->class_kind, NULL, 1);
    put_field(w, &w->nested, "class_index", NULL, CLASS_INDEX, LABEL_OPTIONAL, KIND_UINT32, NULL,
              2);
    put_oneof(w, &w->nested, "label");
    put_oneof(w, &w->nested, "probability");
    put_oneof(w, &w->nested, "class_index");
    end_nested(w);
}

static void put_tops(struct writer *w, struct text *out)
{
    for (uint32_t i = 0; i < w->proto->tops_count; i++)
        put_field(w, out, w->proto->tops[i].name, NULL, w->proto->tops[i].number, LABEL_REPEATED,
                  KIND_MESSAGE, type_name(w, "PredictResponse", "Class"), -1);
}

static void put_response(struct writer *w)
{
    const struct typed_proto *p = w->proto;

    begin_message(w, "PredictResponse");
    put_row_fields(w, &w->message, &p->response, "PredictResponse");
    if (p->answers_name != NULL)
        put_field(w, &w->message, p->answers_name, NULL, NUMBER_ROWS, LABEL_REPEATED, KIND_MESSAGE,
                  type_name(w, "PredictResponse", "Row"), -1);
    put_tops(w, &w->message);
    put_field(w, &w->message, p->said_name, NULL, NUMBER_STREAM, LABEL_OPTIONAL, KIND_MESSAGE,
              type_name(w, "PredictResponse", "Stream"), -1);
    if (p->tops_count != 0)
        put_class(w);
    if (p->answers_name != NULL) {
        begin_nested(w, "Row");
        put_row_fields(w, &w->nested, &p->response, "PredictResponse");
        put_tops(w, &w->nested);
        put_row_oneofs(w, &w->nested, &p->response);
        end_nested(w);
    }
    begin_nested(w, "Stream");
    put_plain(w, "sequence", SAY_SEQUENCE, KIND_UINT64);
    put_plain(w, "input", SAY_INPUT, KIND_UINT64);
    put_plain(w, "merged", SAY_MERGED, KIND_UINT64);
    put_plain(w, "is_last", SAY_LAST, KIND_BOOL);
    put_plain(w, "interrupted", SAY_INTERRUPTED, KIND_UINT64);
    end_nested(w);
    put_tensors(w, &p->response);
    put_row_oneofs(w, &w->message, &p->response);
    pb_text_bytes(&w->file, 4, text_slice(&w->message));
}

const struct typed_proto_method typed_proto_methods[TYPED_METHODS] = {
    [TYPED_PREDICT] = { "Predict", "One question, one answer.", false, false },
    [TYPED_PREDICT_STREAM] = { "PredictStream",
                               "One question, the answers as the model makes them; rows are answered one by one.",
                               false, true },
    [TYPED_PREDICT_COLLECT] = { "PredictCollect",
                                "A question in pieces, one answer to the whole of it.", true,
                                false },
    [TYPED_PREDICT_SESSION] = { "PredictSession",
                                "A conversation: each message is answered, and what the model has to remember lives as long "
                                "as the call.",
                                true, true },
};

static void put_method(struct writer *w, const struct typed_proto_method *method)
{
    const char *service = w->proto->service;
    struct text *out = &w->field;

    out->size = 0;
    put_string(out, 1, method->name);
    w->nested.size = 0;
    text_printf(&w->nested, "." TYPED_PROTO_PACKAGE ".%sPredictRequest", service);
    pb_text_bytes(out, 2, text_slice(&w->nested));
    w->nested.size = 0;
    text_printf(&w->nested, "." TYPED_PROTO_PACKAGE ".%sPredictResponse", service);
    pb_text_bytes(out, 3, text_slice(&w->nested));
    if (method->client_streams)
        pb_text_uint(out, 5, 1);
    if (method->server_streams)
        pb_text_uint(out, 6, 1);
    pb_text_bytes(&w->message, 2, text_slice(out));
}

static void put_service(struct writer *w)
{
    w->message.size = 0;
    put_string(&w->message, 1, w->proto->service);
    for (size_t i = 0; i < TYPED_METHODS; i++)
        put_method(w, &typed_proto_methods[i]);
    pb_text_bytes(&w->file, 6, text_slice(&w->message));
    /* FileOptions: java_multiple_files, go_package */
    w->message.size = 0;
    pb_text_uint(&w->message, 10, 1);
    put_string(&w->message, 11, "penstock/models;models");
    pb_text_bytes(&w->file, 8, text_slice(&w->message));
}

static enum err_code make_file(struct typed_proto *proto, struct err *err)
{
    struct writer w = { .proto = proto };
    struct text *const texts[] = { &w.file, &w.message, &w.nested, &w.field };
    bool has_failed = false;
    uint8_t *copy = NULL;

    for (size_t i = 0; i < COUNT(texts); i++)
        text_init(texts[i], FILE_BYTES_MAX);
    put_string(&w.file, 1, proto->file_name);
    put_string(&w.file, 2, TYPED_PROTO_PACKAGE);
    put_request(&w);
    put_response(&w);
    put_service(&w);
    put_string(&w.file, 12, "proto3");
    for (size_t i = 0; i < COUNT(texts); i++)
        has_failed |= text_failed(texts[i]);
    if (!has_failed)
        copy = arena_alloc(proto->arena, w.file.size);
    if (copy != NULL) {
        memcpy(copy, w.file.data, w.file.size);
        proto->file = slice_make(copy, w.file.size);
    }
    for (size_t i = 0; i < COUNT(texts); i++)
        text_deinit(texts[i]);
    return copy != NULL ? OK : no_memory(err);
}

/* -- made once --------------------------------------------------------------------------------- */

static enum err_code name_service(struct typed_proto *proto, const struct typed_plan *plan,
                                  struct err *err)
{
    const char *service = plan->signature->service;

    if (service != NULL && service[0] == '\0')
        return err_set(err, E_UNIMPLEMENTED,
                       "the names that model '%s' could have are other models': give it one in "
                       "model.yaml, service: MyName",
                       plan->model);
    if (service == NULL)
        service = service_of_model(proto->arena, plan->model);
    const char *stem = service == NULL ? NULL : service_file_stem(proto->arena, service);
    if (stem == NULL)
        return no_memory(err);
    proto->full_name = arena_printf(proto->arena, TYPED_PROTO_PACKAGE ".%s", service);
    proto->file_name = arena_printf(proto->arena, "penstock/models/%s.proto", stem);
    if (proto->full_name == NULL || proto->file_name == NULL)
        return no_memory(err);
    proto->service = service;
    return OK;
}

/* Scores of several dtypes are told in the widest. */
static enum message_kind class_kind(const struct typed_proto *proto, const struct typed_plan *plan)
{
    enum message_kind kind = KIND_FLOAT;

    for (uint32_t i = 0; i < proto->tops_count; i++) {
        enum message_kind own =
            kind_of(plan->signature->outputs[proto->tops[i].probabilities].dtype);
        kind = i == 0 || own == kind ? own : KIND_DOUBLE;
    }
    return kind;
}

static enum err_code name_all(struct typed_proto *proto, const struct typed_plan *plan,
                              struct err *err)
{
    struct names names;
    enum err_code code = names_init(&names, proto->arena, err);

    if (code == OK)
        code = name_request(proto, plan, &names, err);
    names_deinit(&names);
    if (code != OK)
        return code;
    code = names_init(&names, proto->arena, err);
    if (code == OK)
        code = name_response(proto, plan, &names, err);
    names_deinit(&names);
    return code;
}

static enum err_code make(struct typed_proto *proto, const struct typed_plan *plan, struct err *err)
{
    TRY(name_service(proto, plan, err));
    TRY(make_number_table(proto, plan, err));
    TRY(make_request(proto, plan, err));
    TRY(make_response(proto, plan, err));
    TRY(make_tops(proto, plan, err));
    proto->class_kind = class_kind(proto, plan);
    TRY(name_all(proto, plan, err));
    sort_fields(&proto->request);
    sort_fields(&proto->response);
    return make_file(proto, err);
}

void typed_proto_free(struct typed_proto *proto)
{
    if (proto == NULL)
        return;
    struct arena *arena = proto->arena;
    arena_free(&arena);
}

const struct typed_proto *typed_proto_of(const struct typed_plan *plan)
{
    /* The plan is read-only but for this: what is made of it, once. */
    struct typed_plan *owner = (struct typed_plan *)(uintptr_t)plan;
    struct typed_proto *there = atomic_load_explicit(&owner->proto, memory_order_acquire);
    struct err err = { 0 };

    if (LIKELY(there != NULL))
        return there;
    struct arena *arena = arena_new(4096, PROTO_BYTES_MAX);
    struct typed_proto *proto = arena == NULL ? NULL : arena_zalloc(arena, sizeof *proto);
    if (proto == NULL) {
        arena_free(&arena);
        return NULL;
    }
    proto->arena = arena;
    enum err_code code = make(proto, plan, &err);
    if (code == E_UNIMPLEMENTED) {
        proto->service = NULL;
        snprintf(proto->why, sizeof proto->why, "%s", err.text);
    } else if (code != OK) {
        typed_proto_free(proto);
        return NULL;
    }
    if (atomic_compare_exchange_strong_explicit(&owner->proto, &there, proto, memory_order_acq_rel,
                                                memory_order_acquire))
        return proto;
    typed_proto_free(proto);
    return there;
}

/* -- questions --------------------------------------------------------------------------------- */

const char *typed_proto_service(const struct typed_plan *plan)
{
    const struct typed_proto *proto = typed_proto_of(plan);

    return proto != NULL && proto->service != NULL ? proto->full_name : "";
}

const char *typed_proto_why(const struct typed_plan *plan)
{
    const struct typed_proto *proto = typed_proto_of(plan);

    return proto == NULL ? "no memory for it now; retry later" : proto->why;
}

const char *typed_proto_file_name(const struct typed_plan *plan)
{
    const struct typed_proto *proto = typed_proto_of(plan);

    return proto != NULL && proto->service != NULL ? proto->file_name : "";
}

struct slice typed_proto_file(const struct typed_plan *plan)
{
    const struct typed_proto *proto = typed_proto_of(plan);

    return proto != NULL && proto->service != NULL ? proto->file : slice_make(NULL, 0);
}

uint32_t typed_proto_input_number(const struct typed_plan *plan, uint32_t input, int64_t feature)
{
    const struct typed_proto *proto = typed_proto_of(plan);

    if (proto == NULL || proto->service == NULL)
        return 0;
    return proto->input_numbers[proto->input_first[input] + (uint32_t)(feature + 1)];
}

uint32_t typed_proto_item_number(const struct typed_plan *plan, uint32_t item)
{
    const struct typed_proto *proto = typed_proto_of(plan);

    return proto == NULL || proto->service == NULL ? 0 : proto->item_numbers[item];
}

const char *typed_proto_asked_name(const struct typed_plan *plan)
{
    const struct typed_proto *proto = typed_proto_of(plan);

    return proto != NULL && proto->service != NULL ? proto->asked_name : "stream";
}

static bool value_fits(struct json_cursor *at, const struct message_field *f)
{
    struct err err;
    bool more, is_list = json_peek(at) == '[';

    if (is_list != (f->form == FORM_MANY) || f->form == FORM_TENSOR || f->kind == KIND_BYTES)
        return false;
    if (!is_list)
        return json_skip(at, NULL, "", &err) == OK;
    if (json_take(at, '[', "", &err) != OK)
        return false;
    for (bool is_first = true;; is_first = false) {
        if (json_more(at, ']', is_first, &more, "", &err) != OK)
            return false;
        if (!more)
            return true;
        uint8_t c = json_peek(at);
        if (c == '[' || c == '{' || json_skip(at, NULL, "", &err) != OK)
            return false;
    }
}

bool typed_proto_takes_example(const struct typed_plan *plan)
{
    const struct typed_proto *proto = typed_proto_of(plan);
    struct err err;
    uint32_t next = 0;
    bool more;

    if (plan->example == NULL || proto == NULL || proto->service == NULL)
        return false;
    struct slice text = slice_of(plan->example);
    struct json_cursor at = { text.data, text.data, text.data + text.size };
    CLEANUP(arena_free) struct arena *arena = arena_new(1024, PROTO_BYTES_MAX);
    if (arena == NULL || json_take(&at, '{', "", &err) != OK)
        return false;
    for (bool is_first = true;; is_first = false) {
        const struct message_field *f = NULL;
        struct slice name;
        if (json_more(&at, '}', is_first, &more, "", &err) != OK)
            return false;
        if (!more)
            return true;
        if (json_string(&at, arena, &name, "", &err) != OK || json_take(&at, ':', "", &err) != OK)
            return false;
        /* Examples have the fields in their order, as a rule. */
        for (uint32_t i = 0; f == NULL && i < proto->request.count; i++, next++)
            if (slice_is(name, proto->request.fields[next % proto->request.count].json))
                f = &proto->request.fields[next % proto->request.count];
        if (f == NULL || !value_fits(&at, f))
            return false;
    }
}
