/* infer_pb.c - SPDX-License-Identifier: Apache-2.0 */
#include "codec/infer_pb.h"

#include "base/arena.h"

/* -- what was wrong, and where ------------------------------------------------------------------ */

/* "input.inputs[2].shape", in the arena; NULL when that has no room. */
static COLD const char *path(const struct infer_pb *d, const char *leaf)
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

enum err_code infer_pb_at_field(const struct infer_pb *d, const char *leaf)
{
    const char *field = path(d, leaf);

    if (d->ret_field != NULL)
        *d->ret_field = field;
    err_wrap(d->err, "%s", field != NULL ? field : leaf);
    return E_INVALID;
}

enum err_code infer_pb_broken(const struct infer_pb *d, const struct pb_reader *r, const char *leaf)
{
    size_t at = (size_t)(r->at - d->message.data);

    if (leaf[0] == '\0' && d->list == NULL && d->prefix[0] == '\0')
        return err_set(d->err, E_INVALID, "the message is no valid %s: %s at byte %zu of its %zu",
                       d->type, r->fault, at, d->message.size);
    err_set(d->err, E_INVALID,
            "%s at byte %zu of the message's %zu; it is no valid protobuf message", r->fault, at,
            d->message.size);
    return infer_pb_at_field(d, leaf);
}

enum err_code infer_pb_wrong_wire(const struct infer_pb *d, const char *leaf,
                                  const struct pb_field *field, enum pb_wire expected)
{
    static const char *const kinds[] = { "a varint", "8 bytes",       "a string or message",
                                         "a group",  "a group's end", "4 bytes" };

    err_set(d->err, E_INVALID,
            "field %u comes as %s (wire type %u), expected %s (wire type %u); was the message "
            "made with another .proto?",
            field->number, kinds[field->wire], (unsigned)field->wire, kinds[expected],
            (unsigned)expected);
    return infer_pb_at_field(d, leaf);
}

enum err_code infer_pb_too_many(const struct infer_pb *d, const char *leaf, uint64_t count,
                                uint64_t count_max)
{
    err_set(d->err, E_INVALID, "there are %llu of them, the most is %llu",
            (unsigned long long)count, (unsigned long long)count_max);
    return infer_pb_at_field(d, leaf);
}

enum err_code infer_pb_not_utf8(const struct infer_pb *d, const char *leaf, struct slice text)
{
    size_t at = utf8_valid_prefix(text);

    err_set(d->err, E_INVALID, "it is not UTF-8 from its byte %zu on (0x%02x), as strings must be",
            at, text.data[at]);
    return infer_pb_at_field(d, leaf);
}

enum err_code infer_pb_no_memory(const struct infer_pb *d, size_t size)
{
    return err_set(d->err, E_EXHAUSTED,
                   "no memory for the %zu bytes that reading the message takes; retry later", size);
}

enum err_code infer_pb_too_deep(const struct infer_pb *d)
{
    err_set(d->err, E_INVALID, "it has more than %u dimensions, the most a tensor may have",
            PENSTOCK_RANK_MAX);
    return infer_pb_at_field(d, "shape");
}

/* -- fields of one kind ------------------------------------------------------------------------- */

enum err_code infer_pb_whole(const struct infer_pb *d, struct slice part, const char *leaf)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, part);
    while (pb_next(&r, &field))
        continue;
    return pb_failed(&r) ? infer_pb_broken(d, &r, leaf) : OK;
}

/* -- parameters --------------------------------------------------------------------------------- */

/* Adds to what is there, as the value of an entry may come in parts. */
static enum err_code take_value(const struct infer_pb *d, struct slice bytes,
                                const struct infer_pb_kinds *kinds, struct kserve_pb_parameter *p)
{
    static const char leaf[] = "parameters.value";
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        enum kserve_pb_kind kind =
            field.number < COUNT(kinds->of) ? kinds->of[field.number] : KSERVE_PB_NONE;
        enum pb_wire expected = kind == KSERVE_PB_DOUBLE ? PB_I64 : PB_VARINT;
        if (kind == KSERVE_PB_NONE)
            continue;
        if (kind == KSERVE_PB_STRING)
            TRY(infer_pb_string(d, &field, leaf, &p->text));
        else if (UNLIKELY(field.wire != expected))
            return infer_pb_wrong_wire(d, leaf, &field, expected);
        else if (kind == KSERVE_PB_BOOL)
            p->value.b = field.value != 0;
        else
            memcpy(&p->value, &field.value, sizeof field.value);
        p->kind = kind;
    }
    return UNLIKELY(pb_failed(&r)) ? infer_pb_broken(d, &r, leaf) : OK;
}

/* A map's entry is a message of a key and a value, either of which may be missing. */
static enum err_code take_entry(const struct infer_pb *d, struct slice bytes,
                                const struct infer_pb_kinds *kinds, struct kserve_pb_parameter *p)
{
    struct pb_reader r;
    struct pb_field field;

    *p = (struct kserve_pb_parameter){ .kind = KSERVE_PB_NONE };
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        if (field.number == 1) {
            TRY(infer_pb_string(d, &field, "parameters.key", &p->key));
        } else if (field.number == 2) {
            TRY(infer_pb_part(d, &field, "parameters.value"));
            TRY(take_value(d, field.bytes, kinds, p));
        }
    }
    return UNLIKELY(pb_failed(&r)) ? infer_pb_broken(d, &r, "parameters") : OK;
}

enum err_code infer_pb_parameter(const struct infer_pb *d, const struct pb_reader *r,
                                 const struct pb_field *field, const struct infer_pb_kinds *kinds,
                                 uint32_t count_max, struct kserve_pb_parameters *params)
{
    void *items;

    TRY(infer_pb_part(d, field, "parameters"));
    if (params->items == NULL) {
        TRY(infer_pb_list(d, r, field, "parameters", count_max, sizeof *params->items, &items));
        params->items = items;
    }
    return take_entry(d, field->bytes, kinds, &params->items[params->count++]);
}
