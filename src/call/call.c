/* call.c - what is the same for every carrier of calls. SPDX-License-Identifier: Apache-2.0 */
#include "call/call.h"

#include "base/text.h"
#include "call/grpc_wire.h"

struct slice call_metadata(struct call *call, const char *key)
{
    struct slice value = exchange_header(call->x, key);
    struct text bytes;

    if (value.data == NULL || !slice_ends(slice_of(key), "-bin"))
        return value;
    value = grpc_bin_cut(&value);
    text_init_arena(&bytes, call->x->arena, value.size + 1); /* so that empty is not NULL */
    if (text_failed(&bytes) || !grpc_bin_decode(&bytes, value))
        return slice_make(NULL, 0);
    return text_slice(&bytes);
}

void call_read(struct call *call)
{
    require(call->user != NULL);
    if (!call->is_over)
        call->ops->read(call);
}

static bool add(struct call *call, struct call_fields **slot, const char *key, struct slice value)
{
    struct arena *arena = call->x->arena;
    struct text text;

    if (*slot == NULL)
        *slot = arena_zalloc(arena, sizeof **slot);
    struct call_fields *fields = *slot;
    if (fields == NULL || fields->count == CALL_METADATA_MAX ||
        !grpc_metadata_key_is_custom(slice_of(key)))
        return false;
    bool is_binary = slice_ends(slice_of(key), "-bin");
    if (value.size > CALL_METADATA_BYTES_MAX ||
        (!is_binary && !grpc_metadata_value_is_ascii(value)))
        return false;
    text_init_arena(&text, arena, strlen(key) + 2 * value.size + 2);
    text_str(&text, key);
    size_t key_size = text.size;
    if (is_binary)
        grpc_bin_encode(&text, value);
    else
        text_slice_put(&text, value);
    struct slice all = text_slice(&text);
    if (text_failed(&text) || fields->bytes + all.size > CALL_METADATA_BYTES_MAX)
        return false;
    fields->bytes += all.size;
    fields->fields[fields->count++] =
        (struct header){ slice_first(all, key_size), slice_skip(all, key_size) };
    return true;
}

bool call_metadata_initial(struct call *call, const char *key, struct slice value)
{
    return !call->is_over && call->x->status == 0 && add(call, &call->initial, key, value);
}

bool call_metadata_trailing(struct call *call, const char *key, struct slice value)
{
    return !call->is_over && add(call, &call->trailing, key, value);
}

void call_send(struct call *call, const struct call_piece *pieces, uint32_t pieces_count)
{
    call_send_as(call, pieces, pieces_count, (struct call_form){ 0 });
}

void call_send_as(struct call *call, const struct call_piece *pieces, uint32_t pieces_count,
                  struct call_form form)
{
    if (!call->is_over)
        call->ops->send(call, pieces, pieces_count, form);
}

size_t call_room(struct call *call)
{
    return call->is_over ? 0 : exchange_room(call->x);
}

void call_end(struct call *call, const struct err *status, const struct call_details *details)
{
    if (!call->is_over)
        call->ops->end(call, status, details);
}
