/* penstock_pb.c - reads penstock.v1's InferRequest and SessionRequest. SPDX-License-Identifier: Apache-2.0
 *
 * In the manner of kserve_pb.c: lists are counted before they are filled, so that each is one piece of
 * the arena; what comes again is merged as protobuf has it. Of a tensor's values only the list that
 * came last counts (they are a oneof), and the parts of one list follow one another.
 */
#include "codec/penstock_pb.h"

#include "base/arena.h"
#include "base/utf8.h"
#include "codec/pb.h"
#include "codec/penstock_pb_internal.h"

struct decoder {
    struct slice message;
    struct arena *arena;
    const char **ret_field;
    struct err *err;
    const char *type;   /* "InferRequest" */
    const char *prefix; /* "input." */
    const char *list;   /* "inputs" while inside one of these, else NULL */
    uint32_t index;
};

/* -- what was wrong, and where ------------------------------------------------------------------ */

static COLD const char *path(const struct decoder *d, const char *leaf)
{
    size_t prefix_size = strlen(d->prefix);

    if (d->list == NULL && leaf[0] == '\0') /* without the dot */
        return arena_strndup(d->arena, d->prefix, prefix_size == 0 ? 0 : prefix_size - 1);
    if (d->list == NULL)
        return prefix_size == 0 ? leaf : arena_printf(d->arena, "%s%s", d->prefix, leaf);
    if (leaf[0] == '\0')
        return arena_printf(d->arena, "%s%s[%u]", d->prefix, d->list, d->index);
    return arena_printf(d->arena, "%s%s[%u].%s", d->prefix, d->list, d->index, leaf);
}

/* Says where; the sentence is there already. */
static COLD enum err_code at_field(const struct decoder *d, const char *leaf)
{
    const char *field = path(d, leaf);

    if (d->ret_field != NULL)
        *d->ret_field = field;
    err_wrap(d->err, "%s", field != NULL ? field : leaf);
    return E_INVALID;
}

static COLD enum err_code broken(const struct decoder *d, const struct pb_reader *r,
                                 const char *leaf)
{
    size_t at = (size_t)(r->at - d->message.data);

    if (leaf[0] == '\0' && d->list == NULL && d->prefix[0] == '\0')
        return err_set(d->err, E_INVALID,
                       "the message is no valid penstock.v1.%s: %s at byte %zu of its %zu", d->type,
                       r->fault, at, d->message.size);
    err_set(d->err, E_INVALID,
            "%s at byte %zu of the message's %zu; it is no valid protobuf message", r->fault, at,
            d->message.size);
    return at_field(d, leaf);
}

static COLD enum err_code wrong_wire(const struct decoder *d, const char *leaf,
                                     const struct pb_field *field, enum pb_wire expected)
{
    static const char *const kinds[] = { "a varint", "8 bytes",       "a string or message",
                                         "a group",  "a group's end", "4 bytes" };

    err_set(d->err, E_INVALID,
            "field %u comes as %s (wire type %u), expected %s (wire type %u); was the message "
            "made with another .proto?",
            field->number, kinds[field->wire], (unsigned)field->wire, kinds[expected],
            (unsigned)expected);
    return at_field(d, leaf);
}

static COLD enum err_code too_many(const struct decoder *d, const char *leaf, uint64_t count,
                                   uint64_t count_max)
{
    err_set(d->err, E_INVALID, "there are %llu of them, the most is %llu",
            (unsigned long long)count, (unsigned long long)count_max);
    return at_field(d, leaf);
}

static COLD enum err_code no_memory(const struct decoder *d, size_t size)
{
    return err_set(d->err, E_EXHAUSTED,
                   "no memory for the %zu bytes that reading the message takes; retry later", size);
}

/* -- fields of one kind ------------------------------------------------------------------------- */

static inline enum err_code take_number(const struct decoder *d, const struct pb_field *field,
                                        const char *leaf, uint64_t *ret)
{
    if (UNLIKELY(field->wire != PB_VARINT))
        return wrong_wire(d, leaf, field, PB_VARINT);
    *ret = field->value;
    return OK;
}

static inline enum err_code take_enum(const struct decoder *d, const struct pb_field *field,
                                      const char *leaf, int32_t *ret)
{
    uint64_t value = 0;

    TRY(take_number(d, field, leaf, &value));
    *ret = (int32_t)(uint32_t)value;
    return OK;
}

static inline enum err_code take_string(const struct decoder *d, const struct pb_field *field,
                                        const char *leaf, struct slice *ret)
{
    if (UNLIKELY(field->wire != PB_LEN))
        return wrong_wire(d, leaf, field, PB_LEN);
    size_t valid = utf8_valid_prefix(field->bytes);
    if (UNLIKELY(valid != field->bytes.size)) {
        err_set(d->err, E_INVALID,
                "it is not UTF-8 from its byte %zu on (0x%02x), as strings must be", valid,
                field->bytes.data[valid]);
        return at_field(d, leaf);
    }
    *ret = field->bytes;
    return OK;
}

/* Is it a message (or bytes)? */
static inline enum err_code take_part(const struct decoder *d, const struct pb_field *field,
                                      const char *leaf)
{
    return LIKELY(field->wire == PB_LEN) ? OK : wrong_wire(d, leaf, field, PB_LEN);
}

/* How many fields of that number follow, this one included. */
static uint32_t count_rest(struct pb_reader r, uint32_t number)
{
    struct pb_field field;
    uint32_t count = 1;

    while (pb_next(&r, &field))
        count += field.number == number && field.wire == PB_LEN;
    return count;
}

/* -- parameters --------------------------------------------------------------------------------- */

/* Parameter: adds to what is there, as the value of an entry may come in parts. */
static enum err_code take_value(const struct decoder *d, struct slice bytes,
                                struct kserve_pb_parameter *p)
{
    static const char leaf[] = "parameters.value";
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        enum pb_wire expected = PB_VARINT;
        switch (field.number) {
        case 1: p->kind = KSERVE_PB_BOOL, p->value.b = field.value != 0; break;
        case 2: p->kind = KSERVE_PB_INT64, p->value.i = (int64_t)field.value; break;
        case 3:
            p->kind = KSERVE_PB_DOUBLE;
            memcpy(&p->value.d, &field.value, sizeof p->value.d);
            expected = PB_I64;
            break;
        case 4:
            TRY(take_string(d, &field, leaf, &p->text));
            p->kind = KSERVE_PB_STRING;
            continue;
        default: continue;
        }
        if (UNLIKELY(field.wire != expected))
            return wrong_wire(d, leaf, &field, expected);
    }
    return UNLIKELY(pb_failed(&r)) ? broken(d, &r, leaf) : OK;
}

static enum err_code take_entry(const struct decoder *d, struct slice bytes,
                                struct kserve_pb_parameter *p)
{
    struct pb_reader r;
    struct pb_field field;

    *p = (struct kserve_pb_parameter){ .kind = KSERVE_PB_NONE };
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        if (field.number == 1) {
            TRY(take_string(d, &field, "parameters.key", &p->key));
        } else if (field.number == 2) {
            TRY(take_part(d, &field, "parameters.value"));
            TRY(take_value(d, field.bytes, p));
        }
    }
    return UNLIKELY(pb_failed(&r)) ? broken(d, &r, "parameters") : OK;
}

/* One more entry; of a key that was there the later stays, in the earlier's place. */
static enum err_code take_parameter(const struct decoder *d, const struct pb_reader *r,
                                    const struct pb_field *field,
                                    struct kserve_pb_parameters *params)
{
    struct kserve_pb_parameter entry;

    TRY(take_part(d, field, "parameters"));
    if (params->items == NULL) {
        uint32_t count = count_rest(*r, field->number);
        if (UNLIKELY(count > PENSTOCK_PB_PARAMETERS_MAX))
            return too_many(d, "parameters", count, PENSTOCK_PB_PARAMETERS_MAX);
        params->items = arena_alloc(d->arena, count * sizeof *params->items);
        if (UNLIKELY(params->items == NULL))
            return no_memory(d, count * sizeof *params->items);
    }
    TRY(take_entry(d, field->bytes, &entry));
    for (uint32_t i = 0; i < params->count; i++) {
        if (slice_eq(params->items[i].key, entry.key)) {
            params->items[i] = entry;
            return OK;
        }
    }
    params->items[params->count++] = entry;
    return OK;
}

/* -- tensors ------------------------------------------------------------------------------------ */

static enum err_code take_dim(const struct decoder *d, uint64_t dim, struct penstock_pb_tensor *t)
{
    if (UNLIKELY(t->rank == PENSTOCK_RANK_MAX)) {
        err_set(d->err, E_INVALID, "it has more than %u dimensions, the most a tensor may have",
                PENSTOCK_RANK_MAX);
        return at_field(d, "shape");
    }
    t->shape[t->rank++] = (int64_t)dim;
    return OK;
}

static enum err_code take_shape(const struct decoder *d, const struct pb_field *field,
                                struct penstock_pb_tensor *t)
{
    struct pb_reader packed;
    uint64_t dim;

    if (field->wire == PB_VARINT)
        return take_dim(d, field->value, t);
    TRY(take_part(d, field, "shape"));
    pb_begin(&packed, field->bytes);
    while (pb_varint(&packed, &dim))
        TRY(take_dim(d, dim, t));
    return UNLIKELY(pb_failed(&packed)) ? broken(d, &packed, "shape") : OK;
}

/* Is it whole in itself? Else its last field would go on in the part behind it. */
static enum err_code check_whole(const struct decoder *d, struct slice part, const char *leaf)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, part);
    while (pb_next(&r, &field))
        continue;
    return pb_failed(&r) ? broken(d, &r, leaf) : OK;
}

/* Parts of one list: joined in memory that doubles, as there may be a great many. */
static COLD enum err_code join(const struct decoder *d, struct slice part, const char *leaf,
                               struct penstock_pb_tensor *t, size_t *room)
{
    size_t size = t->values.size + part.size;

    if (*room == 0)
        TRY(check_whole(d, t->values, leaf));
    TRY(check_whole(d, part, leaf));
    if (size > *room) {
        uint8_t *joined = arena_alloc(d->arena, MAX(2 * size, 64));
        if (joined == NULL)
            return no_memory(d, 2 * size);
        if (t->values.size != 0)
            memcpy(joined, t->values.data, t->values.size);
        *room = MAX(2 * size, 64);
        t->values.data = joined;
    }
    if (part.size != 0)
        memcpy((uint8_t *)(uintptr_t)t->values.data + t->values.size, part.data, part.size);
    t->values.size = size;
    return OK;
}

static HOT enum err_code take_tensor(struct decoder *d, struct slice bytes,
                                     struct penstock_pb_tensor *t)
{
    struct pb_reader r;
    struct pb_field field;
    size_t room = 0; /* of what was joined */

    t->name = t->datatype = t->values = (struct slice){ NULL, 0 };
    t->rank = 0;
    t->list = PENSTOCK_PB_NO_VALUES;
    t->is_json = false;
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        switch (field.number) {
        case 1: TRY(take_string(d, &field, "name", &t->name)); break;
        case 2: TRY(take_string(d, &field, "datatype", &t->datatype)); break;
        case 3: TRY(take_shape(d, &field, t)); break;
        default:
            if (field.number < PENSTOCK_PB_RAW || field.number > PENSTOCK_PB_DATA)
                break;
            TRY(take_part(d, &field, penstock_pb_list_names[field.number]));
            if (UNLIKELY(t->list == (enum penstock_pb_list)field.number &&
                         t->list != PENSTOCK_PB_RAW)) {
                TRY(join(d, field.bytes, penstock_pb_list_names[field.number], t, &room));
                break;
            }
            t->list = (enum penstock_pb_list)field.number;
            t->values = field.bytes;
            room = 0;
            break;
        }
    }
    if (UNLIKELY(pb_failed(&r)))
        return broken(d, &r, "");
    if (LIKELY(t->list != PENSTOCK_PB_DATA))
        return OK;
    t->is_json = true;
    enum err_code code = penstock_pb_list_text(t->values, d->arena, &t->values, d->err);
    return code == E_INVALID ? at_field(d, "data") : code;
}

static HOT enum err_code take_input(struct decoder *d, const struct pb_reader *r,
                                    const struct pb_field *field,
                                    struct penstock_pb_request *request)
{
    TRY(take_part(d, field, "inputs"));
    if (request->inputs == NULL) {
        uint32_t count = count_rest(*r, field->number);
        if (UNLIKELY(count > PENSTOCK_PB_TENSORS_MAX))
            return too_many(d, "inputs", count, PENSTOCK_PB_TENSORS_MAX);
        request->inputs = arena_alloc(d->arena, count * sizeof *request->inputs);
        if (UNLIKELY(request->inputs == NULL))
            return no_memory(d, count * sizeof *request->inputs);
    }
    d->list = "inputs";
    d->index = request->inputs_count++;
    TRY(take_tensor(d, field->bytes, &request->inputs[d->index]));
    d->list = NULL;
    return OK;
}

static enum err_code take_output(struct decoder *d, const struct pb_reader *r,
                                 const struct pb_field *field, struct penstock_pb_request *request)
{
    if (request->outputs == NULL) {
        TRY(take_part(d, field, "outputs"));
        uint32_t count = count_rest(*r, field->number);
        if (UNLIKELY(count > PENSTOCK_PB_NAMES_MAX))
            return too_many(d, "outputs", count, PENSTOCK_PB_NAMES_MAX);
        request->outputs = arena_alloc(d->arena, count * sizeof *request->outputs);
        if (UNLIKELY(request->outputs == NULL))
            return no_memory(d, count * sizeof *request->outputs);
    }
    d->list = "outputs";
    d->index = request->outputs_count;
    TRY(take_string(d, field, "", &request->outputs[request->outputs_count]));
    request->outputs_count++;
    d->list = NULL;
    return OK;
}

/* Reduce: adds to what is there. */
static enum err_code take_reduce(const struct decoder *d, const struct pb_field *part,
                                 struct penstock_pb_request *request)
{
    struct pb_reader r;
    struct pb_field field;

    TRY(take_part(d, part, "reduce"));
    request->has_reduce = true;
    pb_begin(&r, part->bytes);
    while (pb_next(&r, &field)) {
        switch (field.number) {
        case 1: TRY(take_enum(d, &field, "reduce.kind", &request->reduce)); break;
        case 2: TRY(take_number(d, &field, "reduce.window", &request->window)); break;
        case 3: TRY(take_number(d, &field, "reduce.step", &request->step)); break;
        case 4: TRY(take_number(d, &field, "reduce.pad", &request->pad)); break;
        default: break;
        }
    }
    return UNLIKELY(pb_failed(&r)) ? broken(d, &r, "reduce") : OK;
}

/* -- InferRequest ------------------------------------------------------------------------------- */

HOT enum err_code penstock_pb_decode_infer(struct penstock_pb_request *ret, struct slice bytes,
                                           struct arena *arena, const char **ret_field,
                                           struct err *err)
{
    struct decoder d = { bytes, arena, ret_field, err, "InferRequest", "", NULL, 0 };
    struct penstock_pb_request request = { .kind = PENSTOCK_PB_INFER };
    struct pb_reader r;
    struct pb_field field;

    if (ret_field != NULL)
        *ret_field = NULL;
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        switch (field.number) {
        case 1: TRY(take_string(&d, &field, "model", &request.model)); break;
        case 2: TRY(take_string(&d, &field, "version", &request.version)); break;
        case 3: TRY(take_string(&d, &field, "id", &request.id)); break;
        case 4: TRY(take_input(&d, &r, &field, &request)); break;
        case 5: TRY(take_output(&d, &r, &field, &request)); break;
        case 6: TRY(take_parameter(&d, &r, &field, &request.parameters)); break;
        case 7: TRY(take_reduce(&d, &field, &request)); break;
        case 8: TRY(take_enum(&d, &field, "when_slow", &request.when_slow)); break;
        case 9: TRY(take_number(&d, &field, "sequence", &request.sequence)); break;
        default: break;
        }
    }
    if (UNLIKELY(pb_failed(&r)))
        return broken(&d, &r, "");
    *ret = request;
    return OK;
}

/* -- SessionRequest ----------------------------------------------------------------------------- */

static enum err_code take_begin(struct decoder *d, struct slice bytes,
                                struct penstock_pb_request *request)
{
    struct pb_reader r;
    struct pb_field field;
    uint64_t number = 0;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        switch (field.number) {
        case 1: TRY(take_string(d, &field, "model", &request->model)); break;
        case 2: TRY(take_string(d, &field, "version", &request->version)); break;
        case 3: TRY(take_output(d, &r, &field, request)); break;
        case 4: TRY(take_parameter(d, &r, &field, &request->parameters)); break;
        case 5: TRY(take_reduce(d, &field, request)); break;
        case 6: TRY(take_enum(d, &field, "when_slow", &request->when_slow)); break;
        case 7: TRY(take_number(d, &field, "credit", &request->credit)); break;
        case 8: TRY(take_string(d, &field, "binary_input", &request->binary_input)); break;
        case 9:
            TRY(take_number(d, &field, "binary_outputs", &number));
            request->has_binary_outputs = number != 0;
            break;
        case 10:
            if (field.wire != PB_I64)
                return wrong_wire(d, "resume_seconds", &field, PB_I64);
            memcpy(&request->resume_seconds, &field.value, sizeof request->resume_seconds);
            break;
        default: break;
        }
    }
    return UNLIKELY(pb_failed(&r)) ? broken(d, &r, "") : OK;
}

static HOT enum err_code take_input_message(struct decoder *d, struct slice bytes,
                                            struct penstock_pb_request *request)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        switch (field.number) {
        case 1: TRY(take_string(d, &field, "id", &request->id)); break;
        case 2: TRY(take_input(d, &r, &field, request)); break;
        case 3: TRY(take_parameter(d, &r, &field, &request->parameters)); break;
        default: break;
        }
    }
    return UNLIKELY(pb_failed(&r)) ? broken(d, &r, "") : OK;
}

static enum err_code take_grant(struct decoder *d, struct slice bytes,
                                struct penstock_pb_request *request)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field))
        if (field.number == 1)
            TRY(take_number(d, &field, "responses", &request->responses));
    return UNLIKELY(pb_failed(&r)) ? broken(d, &r, "") : OK;
}

static const char *const prefixes[] = {
    [PENSTOCK_PB_BEGIN] = "begin.",         [PENSTOCK_PB_INPUT] = "input.",
    [PENSTOCK_PB_INTERRUPT] = "interrupt.", [PENSTOCK_PB_GRANT] = "grant.",
    [PENSTOCK_PB_FINISH] = "finish.",
};

static bool is_kind(uint32_t number)
{
    return number >= PENSTOCK_PB_BEGIN && number <= PENSTOCK_PB_FINISH;
}

/* protobuf would take the last of several, and merge the parts of one. Nobody writes such messages,
 * and the half that is dropped would be missed in silence. */
static COLD enum err_code second_message(const struct decoder *d, enum penstock_pb_kind first,
                                         enum penstock_pb_kind second)
{
    return err_set(d->err, E_INVALID,
                   "a SessionRequest holds one message; this one has '%.*s' and '%.*s'",
                   (int)strlen(prefixes[first]) - 1, prefixes[first],
                   (int)strlen(prefixes[second]) - 1, prefixes[second]);
}

HOT enum err_code penstock_pb_decode_session(struct penstock_pb_request *ret, struct slice bytes,
                                             struct arena *arena, const char **ret_field,
                                             struct err *err)
{
    struct decoder d = { bytes, arena, ret_field, err, "SessionRequest", "", NULL, 0 };
    struct penstock_pb_request request = { .kind = PENSTOCK_PB_NOTHING };
    struct pb_reader r, inner;
    struct pb_field field;

    if (ret_field != NULL)
        *ret_field = NULL;
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        if (field.number == 1) {
            TRY(take_number(&d, &field, "sequence", &request.sequence));
            continue;
        }
        if (!is_kind(field.number))
            continue;
        enum penstock_pb_kind kind = (enum penstock_pb_kind)field.number;
        if (UNLIKELY(request.kind != PENSTOCK_PB_NOTHING))
            return second_message(&d, request.kind, kind);
        request.kind = kind;
        TRY(take_part(&d, &field, "message"));
        d.prefix = prefixes[kind];
        switch (kind) {
        case PENSTOCK_PB_BEGIN: TRY(take_begin(&d, field.bytes, &request)); break;
        case PENSTOCK_PB_INPUT: TRY(take_input_message(&d, field.bytes, &request)); break;
        case PENSTOCK_PB_GRANT: TRY(take_grant(&d, field.bytes, &request)); break;
        default: /* without fields, but it has to be a message */
            pb_begin(&inner, field.bytes);
            while (pb_next(&inner, &(struct pb_field){ 0 }))
                continue;
            if (pb_failed(&inner))
                return broken(&d, &inner, "");
            break;
        }
        d.prefix = "";
    }
    if (UNLIKELY(pb_failed(&r)))
        return broken(&d, &r, "");
    *ret = request;
    return OK;
}

enum penstock_pb_kind penstock_pb_peek(struct slice bytes)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field))
        if (is_kind(field.number))
            return (enum penstock_pb_kind)field.number;
    return PENSTOCK_PB_NOTHING;
}
