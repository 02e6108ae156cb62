/* session_state.c - what goes from run to run. SPDX-License-Identifier: Apache-2.0
 *
 * The state of a session begins as the card's (bytes of the model, without an owner); from the first
 * run on it is what an output gave: a reference where that has an owner, a copy where its bytes end
 * with the response. It becomes the next input only when the run has succeeded, so that one that
 * fails or is interrupted leaves the state as it was.
 */
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "engine/session_internal.h"

#define NO_OUTPUT UINT32_MAX

enum err_code fed_new(struct session *s, struct err *err)
{
    const struct stream_card *card = s->model->signature->stream;
    uint32_t count = card == NULL ? 0 : card->states_count + card->constants_count;

    if (count == 0 || s->takes_stream)
        return OK;
    s->fed = mem_zalloc(count * sizeof *s->fed);
    if (s->fed == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a stream's state; retry later");
    s->fed_count = count;
    for (uint32_t i = 0; i < card->states_count; i++) {
        s->fed[i].input = card->states[i].input;
        s->fed[i].output = card->states[i].output;
        s->fed[i].now = card->states[i].initial;
    }
    for (uint32_t i = 0; i < card->constants_count; i++) {
        struct fed *fed = &s->fed[card->states_count + i];
        fed->input = card->constants[i].input;
        fed->output = NO_OUTPUT;
        fed->now = card->constants[i].value;
    }
    return OK;
}

static void drop(struct penstock_tensor *tensor)
{
    struct buf *owner = tensor->owner;

    buf_unref(&owner);
    *tensor = (struct penstock_tensor){ 0 };
}

void fed_free(struct session *s)
{
    for (uint32_t i = 0; i < s->fed_count; i++) {
        drop(&s->fed[i].now);
        drop(&s->fed[i].next);
    }
    mem_free(s->fed);
    s->fed = NULL;
    s->fed_count = 0;
}

/* A reference, or a copy of what has no owner. */
static enum err_code keep(struct session *s, struct penstock_tensor *to,
                          const struct penstock_tensor *from, bool has_owner, struct err *err)
{
    struct buf *copy = NULL;

    if (has_owner && from->owner != NULL) {
        copy = buf_ref(from->owner);
    } else if (from->size != 0) {
        TRY(buf_new(&copy, s->settings.budget, from->size, err));
        memcpy(buf_fill(copy), from->data, from->size);
    }
    drop(to);
    *to = *from;
    to->owner = copy;
    if (!has_owner || from->owner == NULL)
        to->data = copy == NULL ? NULL : buf_fill(copy);
    return OK;
}

enum err_code fed_replace(struct session *s, const struct piece *piece, struct err *err)
{
    for (uint32_t i = 0; i < s->fed_count; i++) {
        struct fed *fed = &s->fed[i];
        if (piece->pub.has_input[fed->input])
            TRY(keep(s, &fed->now, &piece->pub.inputs[fed->input], false, err));
    }
    return OK;
}

void fed_give(struct session *s, struct request *request)
{
    for (uint32_t i = 0; i < s->fed_count; i++) {
        struct fed *fed = &s->fed[i];
        if (!request->has_input[fed->input]) {
            request->inputs[fed->input] = fed->now;
            request->inputs[fed->input].owner =
                NULL; /* the session holds it until the run is over */
            request->has_input[fed->input] = true;
        }
        if (fed->output != NO_OUTPUT)
            request->wants[fed->output] = true;
    }
}

enum err_code fed_keep(struct session *s, struct response *response, struct err *err)
{
    for (uint32_t i = 0; i < s->fed_count; i++) {
        struct fed *fed = &s->fed[i];
        if (fed->output == NO_OUTPUT || !response->outputs[fed->output].is_set)
            continue;
        struct response_output *output = &response->outputs[fed->output];
        TRY(keep(s, &fed->next, &output->tensor, true, err));
        fed->has_next = true;
        if (!session_wants(s, fed->output)) {
            struct buf *owner = output->tensor.owner;
            buf_unref(&owner);
            output->tensor.owner = NULL;
            output->is_set = false;
        }
    }
    return OK;
}

void fed_commit(struct session *s)
{
    for (uint32_t i = 0; i < s->fed_count; i++) {
        struct fed *fed = &s->fed[i];
        if (!fed->has_next)
            continue;
        drop(&fed->now);
        fed->now = fed->next;
        fed->next = (struct penstock_tensor){ 0 };
        fed->has_next = false;
    }
}

void fed_forget(struct session *s)
{
    for (uint32_t i = 0; i < s->fed_count; i++) {
        drop(&s->fed[i].next);
        s->fed[i].has_next = false;
    }
}
