/* call_stream.c - penstock call --stream: one question and its answers as they come, or a line of
 * standard input for each message. SPDX-License-Identifier: Apache-2.0
 *
 * Answers are JSON, one on each line, so that what comes out of one stream can go into the next.
 */
#include <stdio.h>

#include "cli/ask.h"
#include "cli/call_grpc.h"
#include "cli/live.h"
#include "cli/options.h"

struct stream {
    struct grpc_call *g;
    uint64_t answers;
};

/* Schemas stay, messages go: one arena for each, so that a stream of any length fits. */
static enum err_code fresh_messages(struct grpc_call *g, struct err *err)
{
    proto_arena_free(&g->messages);
    g->messages = proto_arena_new();
    g->proto.size = 0;
    return g->messages != NULL ? OK : err_set(err, E_EXHAUSTED, "no memory for a message");
}

static enum err_code on_line(struct live *live, struct slice line, uint64_t number, struct err *err)
{
    struct grpc_call *g = ((struct stream *)live->context)->g;
    struct slice bytes;

    if (slice_trim(line).size == 0)
        return OK;
    TRY(fresh_messages(g, err));
    if (grpc_call_message(g, line, &bytes, err) != OK)
        return err_wrap(err, "line %llu of standard input", (unsigned long long)number);
    return live_send(live, bytes, err);
}

static enum err_code on_message(struct live *live, struct slice bytes, struct err *err)
{
    struct stream *stream = live->context;

    stream->answers++;
    TRY(fresh_messages(stream->g, err));
    if (grpc_call_answer(stream->g, bytes, &live->out, err) != OK) {
        err->code = E_DATA_LOSS;
        return err_wrap(err, "answer %llu cannot be read", (unsigned long long)stream->answers);
    }
    text_byte(&live->out, '\n');
    return OK;
}

static void on_refused(struct live *live, const struct grpc_client_status *status, struct err *err)
{
    struct stream *stream = live->context;
    struct err first;

    err->code = grpc_call_refusal(status, err);
    if (stream->answers == 0)
        return;
    first = *err;
    err_set(err, first.code, "%s (after %llu answer%s)", first.text,
            (unsigned long long)stream->answers, stream->answers == 1 ? "" : "s");
}

enum err_code call_stream(struct grpc_call *g, const struct slice *message, struct err *err)
{
    static const struct live_user user = { .on_line = on_line,
                                           .on_message = on_message,
                                           .on_refused = on_refused };
    struct stream stream = { .g = g };
    struct live live = { .o = g->o,
                         .user = &user,
                         .context = &stream,
                         .path = g->path,
                         .metadata = g->metadata,
                         .metadata_count = g->metadata_count,
                         .sends = grpc_call_sends(g->o),
                         .reads_input = message == NULL };

    enum err_code code = live_open(&live, err);
    if (code == OK && message != NULL) {
        code = live_send(&live, *message, err);
        live_finish(&live);
    }
    if (code == OK)
        code = live_run(&live, err);
    live_close(&live);
    return code;
}
