/* live.c - SPDX-License-Identifier: Apache-2.0
 *
 * A file on standard input cannot be watched (epoll refuses it) and is always ready: then a task of the
 * loop reads a piece a turn.
 */
#include "cli/live.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/ask.h"
#include "cli/options.h"
#include "cli/print.h"

enum { READ_BYTES = 64 << 10, LINE_BYTES_MAX = 256 << 20, UNSENT_MAX = 1 << 20 };

static void end_with(struct live *live, const struct err *err)
{
    if (live->is_over)
        return;
    live->is_over = true;
    live->err = *err;
    grpc_client_cancel(&live->call);
    loop_stop(live->loop);
}

/* -- what is printed ----------------------------------------------------------------------------- */

static void print_all(struct loop_task *task)
{
    struct live *live = CONTAINER_OF(task, struct live, printer);
    struct err err = { 0 };

    if (live->out.size == 0 || print_out(STDOUT_FILENO, &live->out))
        return;
    err_set(&err, E_UNKNOWN, "cannot write the answer");
    end_with(live, &err);
}

/* -- what is read -------------------------------------------------------------------------------- */

static bool is_full(const struct live *live)
{
    return live->call != NULL && grpc_client_unsent(live->call) > UNSENT_MAX;
}

/* Hands over the lines that are whole; at the end of the input also one without an end. */
static void take_lines(struct live *live)
{
    size_t at = 0;

    while (!live->is_over) {
        struct slice rest = slice_skip(text_slice(&live->line), at);
        size_t size = slice_find(rest, '\n');
        if (size == rest.size && !(live->input_is_over && size > 0))
            break;
        struct slice line = slice_first(rest, size);
        at += MIN(size + 1, rest.size);
        if (line.size > 0 && line.data[line.size - 1] == '\r')
            line.size--;
        struct err err = { 0 };
        if (live->user->on_line(live, line, ++live->lines, &err) != OK)
            end_with(live, &err);
    }
    if (at > 0 && at < live->line.size)
        memmove(live->line.data, live->line.data + at, live->line.size - at);
    live->line.size -= at;
}

static void stop_reading(struct live *live)
{
    if (live->is_watched)
        loop_unwatch(live->loop, &live->input);
    live->is_watched = false;
    loop_undefer(&live->reader);
}

static void go_on_reading(struct live *live)
{
    struct err err = { 0 };

    if (live->input_is_over || live->is_watched || live->is_over)
        return;
    if (!live->is_file && loop_watch(live->loop, &live->input, EPOLLIN, &err) == OK) {
        live->is_watched = true;
        return;
    }
    live->is_file = true;
    loop_defer(live->loop, &live->reader);
}

static void read_some(struct live *live)
{
    struct err err = { 0 };
    uint8_t *room = text_room(&live->line, READ_BYTES);
    ssize_t got = room == NULL ? -1 : read(STDIN_FILENO, room, READ_BYTES);

    if (got < 0 && room != NULL && (errno == EINTR || errno == EAGAIN))
        return;
    if (got < 0) {
        err_set(&err, E_INVALID, "cannot read standard input: %s",
                room == NULL ? "a line has more than 256 MiB" : strerror(errno));
        end_with(live, &err);
        return;
    }
    live->line.size += (size_t)got;
    live->input_is_over = got == 0;
    take_lines(live);
    if (live->is_over)
        return;
    if (live->input_is_over) {
        stop_reading(live);
        live_finish(live);
    } else if (is_full(live)) {
        stop_reading(live);
    }
}

static void on_input(struct loop_fd *watch, uint32_t events UNUSED)
{
    read_some(CONTAINER_OF(watch, struct live, input));
}

static void on_reader(struct loop_task *task)
{
    struct live *live = CONTAINER_OF(task, struct live, reader);

    read_some(live);
    if (!live->is_over && !live->input_is_over && !is_full(live))
        loop_defer(live->loop, &live->reader);
}

/* -- Ctrl-C -------------------------------------------------------------------------------------- */

static void on_signal(struct loop_fd *watch, uint32_t events UNUSED)
{
    struct live *live = CONTAINER_OF(watch, struct live, signals);
    struct signalfd_siginfo info;

    while (read(watch->fd, &info, sizeof info) == (ssize_t)sizeof info)
        live->user->on_interrupt(live);
}

static enum err_code watch_signals(struct live *live, struct err *err)
{
    sigset_t set;

    if (live->user->on_interrupt == NULL)
        return OK;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    live->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (live->signals.fd < 0)
        return err_set(err, E_UNKNOWN, "cannot watch for Ctrl-C: %s", strerror(errno));
    live->signals.on_ready = on_signal;
    return loop_watch(live->loop, &live->signals, EPOLLIN, err);
}

/* -- the call ------------------------------------------------------------------------------------ */

static void on_message(struct grpc_client_call *call, const struct grpc_client_message *message)
{
    struct live *live = grpc_client_data(call);
    struct err err = { 0 };

    if (live->user->on_message(live, message->bytes, &err) != OK) {
        end_with(live, &err);
        return;
    }
    loop_defer(live->loop, &live->printer);
    grpc_client_read(call);
}

static void on_room(struct grpc_client_call *call)
{
    struct live *live = grpc_client_data(call);

    if (live->reads_input && !is_full(live))
        go_on_reading(live);
}

static void on_end(struct grpc_client_call *call, const struct grpc_client_status *status)
{
    struct live *live = grpc_client_data(call);

    live->call = NULL;
    live->is_over = true;
    live->err = status->err;
    if (status->err.code != OK)
        live->user->on_refused(live, status, &live->err);
    if (live->out.size > 0 && !print_out(STDOUT_FILENO, &live->out) && live->err.code == OK)
        err_set(&live->err, E_UNKNOWN, "cannot write the answer");
    loop_stop(live->loop);
}

enum err_code live_open(struct live *live, struct err *err)
{
    static const struct grpc_client_user user = { .on_message = on_message,
                                                  .on_room = on_room,
                                                  .on_end = on_end };
    struct client_pool_settings settings = {
        .url = options_text(live->o, OPT_SERVER),
        .protocol = CLIENT_HTTP2,
        .connections_max = 1,
        .connect_timeout_ns = options_number(live->o, OPT_TIMEOUT),
        .backoff_min_ns = 1,
        .backoff_max_ns = 1,
    };
    struct grpc_client_start start = { .path = live->path,
                                       .metadata = live->metadata,
                                       .metadata_count = live->metadata_count,
                                       .sends = live->sends,
                                       .user = &user,
                                       .user_data = live };

    text_init(&live->out, 1 << 30);
    text_init(&live->line, LINE_BYTES_MAX);
    live->signals.fd = -1;
    live->input = (struct loop_fd){ .fd = STDIN_FILENO, .on_ready = on_input };
    live->reader.run = on_reader;
    live->printer.run = print_all;
    TRY(ask_authorization(&settings.authorization, live->o, err));
    TRY(ask_tls(&settings.tls, live->o, err));
    TRY(loop_new(&live->loop, env_real(), 0, err));
    TRY(client_pool_new(&live->pool, live->loop, &settings, err));
    TRY(watch_signals(live, err));
    /* A stream lasts as long as it lasts, unless somebody says otherwise. */
    if (options_is_set(live->o, OPT_TIMEOUT))
        start.due_ns = loop_refresh_ns(live->loop) + options_number(live->o, OPT_TIMEOUT);
    TRY(grpc_client_start(live->pool, &start, &live->call, err));
    grpc_client_read(live->call);
    return OK;
}

enum err_code live_send(struct live *live, struct slice bytes, struct err *err)
{
    if (live->call == NULL || live->is_finished)
        return OK;
    return grpc_client_send(live->call, bytes, NULL, err);
}

void live_finish(struct live *live)
{
    if (live->call != NULL && !live->is_finished)
        grpc_client_finish(live->call);
    live->is_finished = true;
}

enum err_code live_run(struct live *live, struct err *err)
{
    if (live->reads_input)
        go_on_reading(live);
    if (!live->is_over)
        loop_run(live->loop);
    *err = live->err;
    return err->code;
}

void live_close(struct live *live)
{
    if (live->loop != NULL) {
        stop_reading(live);
        loop_undefer(&live->printer);
        if (live->signals.fd >= 0)
            loop_unwatch(live->loop, &live->signals);
    }
    if (live->signals.fd >= 0)
        (void)close(live->signals.fd);
    grpc_client_cancel(&live->call);
    client_pool_free(&live->pool);
    loop_free(&live->loop);
    text_deinit(&live->out);
    text_deinit(&live->line);
}
