/* session_send.c - SPDX-License-Identifier: Apache-2.0
 *
 * What is small is written on the stack: calls copy pieces below CALL_COPIED_BYTES. What is larger gets a
 * buf of its size, and outputs that the runtime keeps are sent from where they lie.
 */
#include "api/session_internal.h"

#include "api/resume.h"

#include "base/buf.h"
#include "base/mem.h"

enum { FEW = 9, SMALL_BYTES = CALL_COPIED_BYTES - 1, JSON_BYTES_MAX = 1 << 30 };

COLD enum err_code session_no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
}

static COLD enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
}

/* Bytes of an output that end with the response, in a buf of their own. */
static enum err_code copy_piece(struct call_piece *piece, struct budget *budget,
                                struct buf **ret_copy, struct err *err)
{
    TRY(buf_new(ret_copy, budget, piece->bytes.size, err));
    memcpy(buf_fill(*ret_copy), piece->bytes.data, piece->bytes.size);
    *piece = (struct call_piece){ buf_bytes(*ret_copy), *ret_copy };
    return OK;
}

HOT enum err_code session_send(struct call *call, const uint8_t *memory, size_t used,
                               struct buf *holder, const struct penstock_pb_piece *made,
                               uint32_t count, struct budget *budget, struct err *err)
{
    struct call_piece few[FEW], *pieces = few;
    struct buf *few_copies[FEW], **copies = few_copies;
    enum err_code code = OK;

    require(count != 0);
    if (UNLIKELY(count > FEW)) {
        pieces = mem_alloc(count * (sizeof *pieces + sizeof *copies));
        if (pieces == NULL)
            return no_memory(err);
        copies = (struct buf **)(pieces + count);
    }
    for (uint32_t i = 0; i < count; i++) {
        bool is_ours = made[i].bytes.data >= memory && made[i].bytes.data < memory + used;
        copies[i] = NULL;
        pieces[i] = (struct call_piece){ made[i].bytes, is_ours ? holder : made[i].holder };
        if (UNLIKELY(!is_ours && pieces[i].holder == NULL && code == OK))
            code = copy_piece(&pieces[i], budget, &copies[i], err);
    }
    if (LIKELY(code == OK))
        call_send(call, pieces, count);
    for (uint32_t i = 0; i < count; i++)
        buf_unref(&copies[i]);
    if (UNLIKELY(pieces != few))
        mem_free(pieces);
    return code;
}

/* -- protobuf ------------------------------------------------------------------------------------- */

static enum err_code log_is_full(struct err *err)
{
    return err_set(err, E_EXHAUSTED,
                   "the log of the stream is full, or there is no memory for it "
                   "(--resume-events-max, --resume-bytes-max)");
}

/* Into a log everything is copied, so it is written in one. */
static enum err_code log_proto(struct session_out *out, const struct penstock_pb_answer *answer,
                               struct err *err)
{
    uint8_t small[SMALL_BYTES], *memory = small;
    struct penstock_pb_piece piece;
    uint32_t count;
    size_t used, size = penstock_pb_bound(out->heads, answer, SIZE_MAX, &count);

    if (size > sizeof small && (memory = mem_alloc(size)) == NULL)
        return no_memory(err);
    (void)penstock_pb_write(out->heads, answer, SIZE_MAX, memory, &piece, &used);
    struct resumable_message message = { piece.bytes, false };
    bool is_put = answer->kind == PENSTOCK_PB_END
                      ? resumable_put_last_message(out->resumable, &message)
                      : resumable_put_messages(out->resumable, &message, 1);
    out->bytes += used;
    if (memory != small)
        mem_free(memory);
    return is_put ? OK : log_is_full(err);
}

static HOT enum err_code put_proto(struct session_out *out, const struct penstock_pb_answer *answer,
                                   struct err *err)
{
    CLEANUP(buf_unref) struct buf *holder = NULL;
    struct penstock_pb_piece few[FEW], *made = few;
    uint8_t small[SMALL_BYTES], *memory = small;
    uint32_t count;
    size_t used, size;

    if (UNLIKELY(out->resumable != NULL))
        return log_proto(out, answer, err);
    size = penstock_pb_bound(out->heads, answer, SESSION_COPY_MAX, &count);
    if (LIKELY(count == 1 && size <= sizeof small)) {
        (void)penstock_pb_write(out->heads, answer, SESSION_COPY_MAX, small, few, &used);
        struct call_piece piece = { few[0].bytes, NULL };
        out->bytes += used;
        call_send(out->call, &piece, 1);
        return OK;
    }
    TRY(buf_new(&holder, out->budget, size, err));
    memory = buf_fill(holder);
    if (UNLIKELY(count > FEW) && (made = mem_alloc(count * sizeof *made)) == NULL)
        return no_memory(err);
    count = penstock_pb_write(out->heads, answer, SESSION_COPY_MAX, memory, made, &used);
    for (uint32_t i = 0; i < count; i++)
        out->bytes += made[i].bytes.size;
    enum err_code code =
        session_send(out->call, memory, used, holder, made, count, out->budget, err);
    if (made != few)
        mem_free(made);
    return code;
}

/* -- JSON ----------------------------------------------------------------------------------------- */

static enum err_code log_json(struct session_out *out, const struct penstock_pb_answer *answer,
                              struct slice json, struct err *err)
{
    struct resumable_message few[FEW], *messages = few;
    uint32_t count = 1 + (out->has_binary ? answer->outputs_count : 0);

    if (count > FEW && (messages = mem_alloc(count * sizeof *messages)) == NULL)
        return no_memory(err);
    messages[0] = (struct resumable_message){ json, true };
    if (answer->kind == PENSTOCK_PB_END)
        return resumable_put_last_message(out->resumable, messages) ? OK : log_is_full(err);
    for (uint32_t i = 1; i < count; i++)
        messages[i] = (struct resumable_message){ answer->outputs[i - 1].bytes, false };
    bool is_put = resumable_put_messages(out->resumable, messages, count);
    if (messages != few)
        mem_free(messages);
    return is_put ? OK : log_is_full(err);
}

static enum err_code send_binary(struct session_out *out, const struct penstock_pb_output *output,
                                 struct err *err)
{
    CLEANUP(buf_unref) struct buf *copy = NULL;
    struct call_piece piece = { output->bytes, output->holder };

    if (piece.holder == NULL && piece.bytes.size >= CALL_COPIED_BYTES)
        TRY(copy_piece(&piece, out->budget, &copy, err));
    call_send_as(out->call, &piece, 1, (struct call_form){ .is_text = false });
    return OK;
}

static enum err_code send_json(struct session_out *out, const struct penstock_pb_answer *answer,
                               struct call_piece piece, struct err *err)
{
    out->bytes += piece.bytes.size;
    if (out->resumable != NULL)
        return log_json(out, answer, piece.bytes, err);
    call_send_as(out->call, &piece, 1, (struct call_form){ .is_text = true });
    for (uint32_t i = 0; out->has_binary && i < answer->outputs_count; i++) {
        out->bytes += answer->outputs[i].bytes.size;
        TRY(send_binary(out, &answer->outputs[i], err));
    }
    return OK;
}

static enum err_code put_json(struct session_out *out, const struct penstock_pb_answer *answer,
                              struct err *err)
{
    CLEANUP(buf_unref) struct buf *holder = NULL;
    uint8_t small[SMALL_BYTES];
    struct text text;

    text_init_fixed(&text, small, sizeof small);
    TRY(penstock_pb_write_json(&text, out->described, answer, out->has_binary, err));
    if (LIKELY(!text_failed(&text)))
        return send_json(out, answer, (struct call_piece){ text_slice(&text), NULL }, err);
    text_init(&text, JSON_BYTES_MAX);
    enum err_code code =
        penstock_pb_write_json(&text, out->described, answer, out->has_binary, err);
    if (code == OK)
        code = text_to_buf(&text, &holder, err);
    text_deinit(&text);
    if (code != OK)
        return code;
    return send_json(out, answer, (struct call_piece){ buf_bytes(holder), holder }, err);
}

HOT enum err_code session_put(struct session_out *out, struct penstock_pb_answer *answer,
                              struct err *err)
{
    answer->sequence = ++out->sequence;
    return out->is_json ? put_json(out, answer, err) : put_proto(out, answer, err);
}

bool session_has_room(struct session_out *out)
{
    if (UNLIKELY(out->resumable != NULL))
        return resumable_has_room(out->resumable);
    return out->call != NULL && call_room(out->call) != 0;
}
