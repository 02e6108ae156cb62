/* penstock_pb_list.c - Tensor.data in protobuf: lists of google.protobuf.Value, as JSON text.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Who sends it has JSON and a program that makes protobuf of it; turned back into JSON it is read by
 * the same code as that of WebSockets. A Value is a oneof: the last of its kinds counts, and the parts
 * of a list that come one after the other are one list.
 */
#include <math.h>

#include "base/arena.h"
#include "base/base64.h"
#include "base/pb.h"
#include "base/utf8.h"
#include "codec/number.h"
#include "codec/penstock_pb_internal.h"

enum { NULL_VALUE = 1, NUMBER, STRING, BOOLEAN, STRUCT, LIST };

const char *const penstock_pb_list_names[PENSTOCK_PB_DATA + 1] = {
    [PENSTOCK_PB_NO_VALUES] = "no values",
    [PENSTOCK_PB_RAW] = "raw",
    [PENSTOCK_PB_BOOLS] = "bools",
    [PENSTOCK_PB_INT32S] = "int32s",
    [PENSTOCK_PB_INT64S] = "int64s",
    [PENSTOCK_PB_UINT32S] = "uint32s",
    [PENSTOCK_PB_UINT64S] = "uint64s",
    [PENSTOCK_PB_FLOATS] = "floats",
    [PENSTOCK_PB_DOUBLES] = "doubles",
    [PENSTOCK_PB_STRINGS] = "strings",
    [PENSTOCK_PB_BYTES_LIST] = "bytes_list",
    [PENSTOCK_PB_DATA] = "data",
};

struct list {
    struct text *out;
    struct err *err;
    uint32_t depth;
};

static enum err_code put_values(struct list *l, struct slice list, bool *is_first);

static enum err_code broken(const struct list *l, const char *fault)
{
    return err_set(l->err, E_INVALID, "it is no valid protobuf message: %s", fault);
}

static void put_number(struct text *out, uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof value);
    if (isnan(value)) {
        text_str(out, "NaN");
    } else if (isinf(value)) {
        text_str(out, value < 0 ? "-Infinity" : "Infinity");
    } else {
        uint8_t *at = text_room(out, NUMBER_TEXT_MAX);
        if (at != NULL)
            out->size += number_write_f64((char *)at, value);
    }
}

/* What a Value holds in the end: the last field, and where the run of lists that it ends begins. */
struct held {
    uint32_t number;
    struct pb_field last;
    struct pb_reader run;
};

static enum err_code look(const struct list *l, struct slice value, struct held *ret)
{
    static const enum pb_wire wires[] = { PB_LEN,    PB_VARINT, PB_I64, PB_LEN,
                                          PB_VARINT, PB_LEN,    PB_LEN };
    struct pb_reader r, before;
    struct pb_field field;

    ret->number = 0;
    pb_begin(&r, value);
    for (before = r; pb_next(&r, &field); before = r) {
        if (field.number < NULL_VALUE || field.number > LIST)
            continue;
        if (field.wire != wires[field.number])
            return err_set(l->err, E_INVALID, "a value has wire type %u, expected %u",
                           (unsigned)field.wire, (unsigned)wires[field.number]);
        if (field.number != LIST || ret->number != LIST)
            ret->run = before;
        ret->number = field.number;
        ret->last = field;
    }
    return pb_failed(&r) ? broken(l, r.fault) : OK;
}

static enum err_code put_list(struct list *l, struct pb_reader run)
{
    struct pb_field field;
    bool is_first = true;

    if (l->depth == PENSTOCK_PB_NESTED_MAX)
        return err_set(l->err, E_INVALID, "lists are nested more than %d deep",
                       PENSTOCK_PB_NESTED_MAX);
    l->depth++;
    text_byte(l->out, '[');
    while (pb_next(&run, &field))
        if (field.number == LIST)
            TRY(put_values(l, field.bytes, &is_first));
    text_byte(l->out, ']');
    l->depth--;
    return OK;
}

static enum err_code put_value(struct list *l, struct slice value)
{
    struct held held;

    TRY(look(l, value, &held));
    switch (held.number) {
    case NULL_VALUE: text_str(l->out, "null"); return OK;
    case NUMBER: put_number(l->out, held.last.value); return OK;
    case STRING:
        if (utf8_valid_prefix(held.last.bytes) != held.last.bytes.size)
            return err_set(l->err, E_INVALID, "a string that is not UTF-8");
        text_json(l->out, held.last.bytes);
        return OK;
    case BOOLEAN: text_str(l->out, held.last.value != 0 ? "true" : "false"); return OK;
    case STRUCT: return err_set(l->err, E_INVALID, "an object stands where an element is");
    case LIST: return put_list(l, held.run);
    default: return err_set(l->err, E_INVALID, "a value that holds nothing");
    }
}

static enum err_code put_values(struct list *l, struct slice list, bool *is_first)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, list);
    while (pb_next(&r, &field)) {
        if (field.number != 1)
            continue;
        if (field.wire != PB_LEN)
            return err_set(l->err, E_INVALID, "a value has wire type %u, expected 2",
                           (unsigned)field.wire);
        if (!*is_first)
            text_byte(l->out, ',');
        *is_first = false;
        TRY(put_value(l, field.bytes));
    }
    return pb_failed(&r) ? broken(l, r.fault) : OK;
}

enum err_code penstock_pb_list_text(struct slice list, struct arena *arena, struct slice *ret,
                                    struct err *err)
{
    struct text out;
    struct list l = { &out, err, 1 };
    bool is_first = true;

    text_init_arena(&out, arena, list.size + 2);
    text_byte(&out, '[');
    TRY(put_values(&l, list, &is_first));
    text_byte(&out, ']');
    if (text_failed(&out))
        return err_set(err, E_EXHAUSTED, "no memory to read it; retry later");
    *ret = text_slice(&out);
    return OK;
}

bool penstock_pb_base64(struct slice text, uint8_t *out, size_t *ret_size)
{
    text = base64_unpadded(text);
    *ret_size = base64_decoded(text.size);
    return base64_decode(out, text, BASE64_ANY) == text.size && text.size % 4 != 1;
}
