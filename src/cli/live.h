/* live.h - a gRPC call whose messages go both ways while somebody types: standard input by the line,
 * messages out, messages in, one status.
 *
 * live_run blocks until the call has ended. Input is not read while what was sent still waits for the
 * server, and answers are not taken faster than they are printed.
 */
#ifndef CLI_LIVE_H
#define CLI_LIVE_H

#include "base/text.h"
#include "client/grpc_client.h"
#include "io/loop.h"

struct live;
struct options;

/* A failure of either ends the call with it. */
struct live_user {
    /* A line of standard input, without its end; `number` is 1 for the first. Empty ones too. */
    enum err_code (*on_line)(struct live *live, struct slice line, uint64_t number,
                             struct err *err);
    enum err_code (*on_message)(struct live *live, struct slice bytes, struct err *err);
    void (*on_interrupt)(struct live *live); /* Ctrl-C; NULL: the program ends, as ever */
    /* The status is not OK: err has its code and text, and may be made better. */
    void (*on_refused)(struct live *live, const struct grpc_client_status *status,
                       struct err *err);
};

struct live {
    const struct options *o;
    const struct live_user *user;
    void *context;
    const char *path;
    const struct client_header *metadata;
    uint32_t metadata_count;
    enum encoding sends;
    bool reads_input; /* standard input is read; its end is the end of what is sent */
    struct text out;  /* what is to be printed: written at the end of each turn of the loop */
    /* -- inside -- */
    struct loop *loop;
    struct client_pool *pool;
    struct grpc_client_call *call;
    struct loop_fd input, signals;
    struct loop_task reader, printer;
    struct text line;
    uint64_t lines;
    bool is_watched, is_file, input_is_over, is_finished, is_over;
    struct err err;
};

/* Fill o, user, context, path, metadata, sends, reads_input first. What is sent before live_run goes
 * first. */
MUST_USE enum err_code live_open(struct live *live, struct err *err);
MUST_USE enum err_code live_send(struct live *live, struct slice bytes, struct err *err);
void live_finish(struct live *live); /* nothing more is sent */
/* The call's own outcome. */
MUST_USE enum err_code live_run(struct live *live, struct err *err);
void live_close(struct live *live);

#endif
