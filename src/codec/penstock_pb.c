/* penstock_pb.c - reads penstock.v1's InferRequest and SessionRequest. SPDX-License-Identifier: Apache-2.0
 *
 * In the manner of kserve_pb.c: lists are counted before they are filled, so that each is one piece of
 * the arena; what comes again is merged as protobuf has it. Of a tensor's values only the list that
 * came last counts (they are a oneof), and the parts of one list follow one another.
 */
#include "codec/penstock_pb.h"

#include "base/arena.h"
#include "codec/infer_pb.h"
#include "codec/penstock_pb_internal.h"

/* -- fields of one kind ------------------------------------------------------------------------- */

static inline enum err_code take_number(const struct infer_pb *d, const struct pb_field *field,
                                        const char *leaf, uint64_t *ret)
{
    if (UNLIKELY(field->wire != PB_VARINT))
        return infer_pb_wrong_wire(d, leaf, field, PB_VARINT);
    *ret = field->value;
    return OK;
}

static inline enum err_code take_enum(const struct infer_pb *d, const struct pb_field *field,
                                      const char *leaf, int32_t *ret)
{
    uint64_t value = 0;

    TRY(take_number(d, field, leaf, &value));
    *ret = (int32_t)(uint32_t)value;
    return OK;
}

/* -- parameters --------------------------------------------------------------------------------- */

static const struct infer_pb_kinds kinds = {
    { [1] = KSERVE_PB_BOOL, KSERVE_PB_INT64, KSERVE_PB_DOUBLE, KSERVE_PB_STRING }
};

/* One more entry; of a key that was there the later stays, in the earlier's place. */
static enum err_code take_parameter(const struct infer_pb *d, const struct pb_reader *r,
                                    const struct pb_field *field,
                                    struct kserve_pb_parameters *params)
{
    TRY(infer_pb_parameter(d, r, field, &kinds, PENSTOCK_PB_PARAMETERS_MAX, params));
    const struct kserve_pb_parameter *newest = &params->items[params->count - 1];
    for (struct kserve_pb_parameter *p = params->items; p != newest; p++) {
        if (slice_eq(p->key, newest->key)) {
            *p = *newest;
            params->count--;
            break;
        }
    }
    return OK;
}

/* -- tensors ------------------------------------------------------------------------------------ */

/* Parts of one list: joined in memory that doubles, as there may be a great many. */
static COLD enum err_code join(const struct infer_pb *d, struct slice part, const char *leaf,
                               struct penstock_pb_tensor *t, size_t *room)
{
    size_t size = t->values.size + part.size;

    if (*room == 0)
        TRY(infer_pb_whole(d, t->values, leaf));
    TRY(infer_pb_whole(d, part, leaf));
    if (size > *room) {
        uint8_t *joined = arena_alloc(d->arena, MAX(2 * size, 64));
        if (joined == NULL)
            return infer_pb_no_memory(d, 2 * size);
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

static HOT enum err_code take_tensor(struct infer_pb *d, struct slice bytes,
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
        case 1: TRY(infer_pb_string(d, &field, "name", &t->name)); break;
        case 2: TRY(infer_pb_string(d, &field, "datatype", &t->datatype)); break;
        case 3: TRY(infer_pb_shape(d, &field, t->shape, &t->rank)); break;
        default:
            if (field.number < PENSTOCK_PB_RAW || field.number > PENSTOCK_PB_DATA)
                break;
            TRY(infer_pb_part(d, &field, penstock_pb_list_names[field.number]));
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
        return infer_pb_broken(d, &r, "");
    if (LIKELY(t->list != PENSTOCK_PB_DATA))
        return OK;
    t->is_json = true;
    enum err_code code = penstock_pb_list_text(t->values, d->arena, &t->values, d->err);
    return code == E_INVALID ? infer_pb_at_field(d, "data") : code;
}

static HOT enum err_code take_input(struct infer_pb *d, const struct pb_reader *r,
                                    const struct pb_field *field,
                                    struct penstock_pb_request *request)
{
    void *items;

    TRY(infer_pb_part(d, field, "inputs"));
    if (request->inputs == NULL) {
        TRY(infer_pb_list(d, r, field, "inputs", PENSTOCK_PB_TENSORS_MAX, sizeof *request->inputs,
                          &items));
        request->inputs = items;
    }
    d->list = "inputs";
    d->index = request->inputs_count++;
    TRY(take_tensor(d, field->bytes, &request->inputs[d->index]));
    d->list = NULL;
    return OK;
}

static enum err_code take_output(struct infer_pb *d, const struct pb_reader *r,
                                 const struct pb_field *field, struct penstock_pb_request *request)
{
    void *items;

    if (request->outputs == NULL) {
        TRY(infer_pb_part(d, field, "outputs"));
        TRY(infer_pb_list(d, r, field, "outputs", PENSTOCK_PB_NAMES_MAX, sizeof *request->outputs,
                          &items));
        request->outputs = items;
    }
    d->list = "outputs";
    d->index = request->outputs_count;
    TRY(infer_pb_string(d, field, "", &request->outputs[request->outputs_count]));
    request->outputs_count++;
    d->list = NULL;
    return OK;
}

/* Reduce: adds to what is there. */
static enum err_code take_reduce(const struct infer_pb *d, const struct pb_field *part,
                                 struct penstock_pb_request *request)
{
    struct pb_reader r;
    struct pb_field field;

    TRY(infer_pb_part(d, part, "reduce"));
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
    return UNLIKELY(pb_failed(&r)) ? infer_pb_broken(d, &r, "reduce") : OK;
}

/* -- InferRequest ------------------------------------------------------------------------------- */

HOT enum err_code penstock_pb_decode_infer(struct penstock_pb_request *ret, struct slice bytes,
                                           struct arena *arena, const char **ret_field,
                                           struct err *err)
{
    struct infer_pb d = { bytes, arena, ret_field, err, "penstock.v1.InferRequest", "", NULL, 0 };
    struct penstock_pb_request request = { .kind = PENSTOCK_PB_INFER };
    struct pb_reader r;
    struct pb_field field;

    if (ret_field != NULL)
        *ret_field = NULL;
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        switch (field.number) {
        case 1: TRY(infer_pb_string(&d, &field, "model", &request.model)); break;
        case 2: TRY(infer_pb_string(&d, &field, "version", &request.version)); break;
        case 3: TRY(infer_pb_string(&d, &field, "id", &request.id)); break;
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
        return infer_pb_broken(&d, &r, "");
    *ret = request;
    return OK;
}

/* -- SessionRequest ----------------------------------------------------------------------------- */

static enum err_code take_begin(struct infer_pb *d, struct slice bytes,
                                struct penstock_pb_request *request)
{
    struct pb_reader r;
    struct pb_field field;
    uint64_t number = 0;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        switch (field.number) {
        case 1: TRY(infer_pb_string(d, &field, "model", &request->model)); break;
        case 2: TRY(infer_pb_string(d, &field, "version", &request->version)); break;
        case 3: TRY(take_output(d, &r, &field, request)); break;
        case 4: TRY(take_parameter(d, &r, &field, &request->parameters)); break;
        case 5: TRY(take_reduce(d, &field, request)); break;
        case 6: TRY(take_enum(d, &field, "when_slow", &request->when_slow)); break;
        case 7: TRY(take_number(d, &field, "credit", &request->credit)); break;
        case 8: TRY(infer_pb_string(d, &field, "binary_input", &request->binary_input)); break;
        case 9:
            TRY(take_number(d, &field, "binary_outputs", &number));
            request->has_binary_outputs = number != 0;
            break;
        case 10:
            if (field.wire != PB_I64)
                return infer_pb_wrong_wire(d, "resume_seconds", &field, PB_I64);
            memcpy(&request->resume_seconds, &field.value, sizeof request->resume_seconds);
            break;
        default: break;
        }
    }
    return UNLIKELY(pb_failed(&r)) ? infer_pb_broken(d, &r, "") : OK;
}

static HOT enum err_code take_input_message(struct infer_pb *d, struct slice bytes,
                                            struct penstock_pb_request *request)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        switch (field.number) {
        case 1: TRY(infer_pb_string(d, &field, "id", &request->id)); break;
        case 2: TRY(take_input(d, &r, &field, request)); break;
        case 3: TRY(take_parameter(d, &r, &field, &request->parameters)); break;
        default: break;
        }
    }
    return UNLIKELY(pb_failed(&r)) ? infer_pb_broken(d, &r, "") : OK;
}

static enum err_code take_grant(struct infer_pb *d, struct slice bytes,
                                struct penstock_pb_request *request)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field))
        if (field.number == 1)
            TRY(take_number(d, &field, "responses", &request->responses));
    return UNLIKELY(pb_failed(&r)) ? infer_pb_broken(d, &r, "") : OK;
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
static COLD enum err_code second_message(const struct infer_pb *d, enum penstock_pb_kind first,
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
    struct infer_pb d = { bytes, arena, ret_field, err, "penstock.v1.SessionRequest", "", NULL, 0 };
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
        TRY(infer_pb_part(&d, &field, "message"));
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
                return infer_pb_broken(&d, &inner, "");
            break;
        }
        d.prefix = "";
    }
    if (UNLIKELY(pb_failed(&r)))
        return infer_pb_broken(&d, &r, "");
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
