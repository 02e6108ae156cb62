/* keep.c - responses that wait for their reader. SPDX-License-Identifier: Apache-2.0
 *
 * Everything kept has an owner: outputs that had none are copied into bufs, so that what waits is
 * charged to the budget, and joined texts grow in place (a buf made twice as large as needed).
 */
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "engine/internal.h"

enum { LENGTH_BYTES = 4 };

void kept_free(struct kept **slot)
{
    struct kept *kept = TAKE(*slot);

    if (kept == NULL)
        return;
    response_drop(&kept->response);
    mem_free(kept);
}

struct kept *keep_response(const struct response *response, struct budget *budget)
{
    uint32_t count = response->outputs_count;
    struct kept *kept =
        mem_zalloc(sizeof *kept + count * (sizeof kept->outputs[0] + sizeof kept->rooms[0]));

    if (kept == NULL)
        return NULL;
    kept->response = *response;
    kept->response.outputs = kept->outputs;
    kept->response.merged = 0;
    kept->rooms = (size_t *)(void *)(kept->outputs + count);
    for (uint32_t i = 0; i < count; i++) {
        const struct penstock_tensor *from = &response->outputs[i].tensor;
        struct penstock_tensor *to = &kept->outputs[i].tensor;
        struct buf *copy = NULL;
        if (!response->outputs[i].is_set)
            continue;
        *to = *from;
        if (from->owner != NULL) {
            to->owner = buf_ref(from->owner);
        } else if (from->size != 0) {
            if (buf_new(&copy, budget, from->size, NULL) != OK) {
                kept_free(&kept);
                return NULL;
            }
            to->data = memcpy(buf_fill(copy), from->data, from->size);
            to->owner = copy;
        }
        kept->outputs[i].is_set = true;
    }
    return kept;
}

/* One text: its length, then its bytes. */
static bool is_text(const struct response_output *output)
{
    uint32_t length;

    if (!output->is_set || output->tensor.dtype != PENSTOCK_BYTES ||
        output->tensor.size < LENGTH_BYTES)
        return false;
    memcpy(&length, output->tensor.data, sizeof length);
    return length == output->tensor.size - LENGTH_BYTES;
}

/* Gives older's text a buf of its own with room for `more` bytes behind it. */
static bool grow(struct kept *older, uint32_t i, size_t more, struct budget *budget)
{
    struct penstock_tensor *t = &older->outputs[i].tensor;
    size_t size = t->size + more;
    struct buf *room = NULL, *old = t->owner;

    if (size - LENGTH_BYTES > UINT32_MAX)
        return false;
    if (older->rooms[i] >= size)
        return true;
    if (buf_new(&room, budget, MAX(2 * size, (size_t)256), NULL) != OK)
        return false;
    t->data = memcpy(buf_fill(room), t->data, t->size);
    t->owner = room;
    older->rooms[i] = MAX(2 * size, (size_t)256);
    buf_unref(&old);
    return true;
}

/* Older's text, then newer's, becomes newer's; cannot fail behind grow(). */
static void join(struct kept *newer, struct kept *older, uint32_t i)
{
    struct penstock_tensor *to = &newer->outputs[i].tensor, *from = &older->outputs[i].tensor;
    struct buf *room = from->owner, *old = to->owner;
    size_t more = to->size - LENGTH_BYTES;
    uint32_t length = (uint32_t)(from->size + more - LENGTH_BYTES);

    memcpy(buf_fill(room) + from->size, (const uint8_t *)to->data + LENGTH_BYTES, more);
    memcpy(buf_fill(room), &length, sizeof length);
    to->data = from->data;
    to->owner = room;
    to->size = from->size + more;
    newer->rooms[i] = older->rooms[i];
    newer->bytes += to->size;
    older->outputs[i].is_set = false;
    buf_unref(&old);
}

static bool joins(const struct kept *newer, const struct kept *older, uint32_t i)
{
    return is_text(&newer->outputs[i]) && is_text(&older->outputs[i]);
}

enum err_code keep_merged(struct kept **slot, const struct response *response,
                          enum session_merge merge, struct budget *budget)
{
    struct kept *older = *slot, *newer = keep_response(response, budget);
    uint32_t count = merge == SESSION_CONCAT ? response->outputs_count : 0;

    older->response.merged++;
    if (newer == NULL)
        return E_EXHAUSTED;
    for (uint32_t i = 0; i < count; i++)
        if (joins(newer, older, i) &&
            !grow(older, i, newer->outputs[i].tensor.size - LENGTH_BYTES, budget)) {
            kept_free(&newer);
            return E_EXHAUSTED;
        }
    for (uint32_t i = 0; i < count; i++)
        if (joins(newer, older, i))
            join(newer, older, i);
    newer->response.merged = older->response.merged;
    newer->next = older->next;
    kept_free(slot);
    *slot = newer;
    return OK;
}
