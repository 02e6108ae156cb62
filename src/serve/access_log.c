/* access_log.c - SPDX-License-Identifier: Apache-2.0
 *
 * The thread takes records until its block of lines is full, writes the block, and sleeps when there is
 * nothing left (ring.h says how). A place that takes nothing now (a pipe whose reader rests) keeps its
 * block, and the records wait in their rings, which then drop what comes: what is held is bounded. A place
 * that fails (a full disk, a reader that left) loses its block, and the next is tried a moment later: lines
 * that are told late are worth less than those of now.
 *
 * Nothing is written to a pipe but what it surely takes: standard output may be shared with others, so it
 * cannot be made non-blocking, and poll promises PIPE_BUF bytes.
 */
#include "serve/access_log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/stats.h"
#include "io/env.h"
#include "io/socket.h"
#include "telemetry/metrics.h"

enum {
    BLOCK_BYTES = 128 * 1024,
    FILE_MODE = 0640, /* addresses and names of people */
    RETRY_MS = 100,   /* after a failure, and while a pipe is full */
    LOOK_MS = 1000,   /* how often it is asked whether the file was moved, and a lost place tried again */
    STOP_MS = 1000
};

enum place { PLACE_FILE, PLACE_STREAM, PLACE_SOCKET };

/* One for each loop; its own. */
struct chooser {
    alignas(64) uint64_t state;
    uint64_t due_ns; /* of an audit: when all refusals that were told would be worked off at AUDIT_RATE */
};

struct access_log {
    struct env *env;
    struct access_log_settings settings;
    struct rings rings;
    struct chooser *choosers; /* owned */
    uint64_t threshold;       /* of 2^53: those below it are told */
    struct worker *worker;
    _Atomic bool must_stop, must_reopen;
    _Atomic uint64_t written, lost; /* lines; the thread's */
    _Atomic uint64_t left_out;      /* of an audit: refusals past their rate; any loop's */
    /* -- the thread's own -- */
    enum place place;
    int fd; /* -1: it is not open */
    bool is_ours; /* to close */
    bool is_torn; /* what was written last ends within a line */
    bool is_failing;
    uint64_t lost_told;
    uint64_t retry_ns, look_ns;
    struct access_line line;
    uint8_t *block; /* owned: BLOCK_BYTES */
    size_t from, to;
    uint64_t lines; /* in it, begun or not */
};

static uint64_t now_of(const struct access_log *log)
{
    return log->env->mono_ns(log->env);
}

/* -- on the loops ------------------------------------------------------------------------------ */

static bool is_chosen(struct chooser *chooser, uint64_t threshold)
{
    uint64_t z = chooser->state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) >> 11 < threshold;
}

static bool is_audited(struct access_log *log, const struct observed *seen)
{
    struct chooser *chooser = &log->choosers[seen->loop];
    uint64_t now = seen->ended_ns, step = NS_PER_S / AUDIT_RATE;

    if (LIKELY(seen->x->note.audit != NOTE_REFUSED))
        return seen->x->note.audit != NOTE_NOTHING;
    uint64_t from = MAX(chooser->due_ns, now);
    if (from - now > step * (AUDIT_BURST - 1)) {
        atomic_fetch_add_explicit(&log->left_out, 1, memory_order_relaxed);
        return false;
    }
    chooser->due_ns = from + step;
    return true;
}

static void on_exchange_audited(void *context, const struct observed *seen)
{
    struct access_log *log = context;

    if (is_audited(log, seen))
        observe_record(&log->rings, seen, NULL, false);
}

static HOT void on_exchange(void *context, const struct observed *seen)
{
    struct access_log *log = context;
    uint64_t slow_ns = log->settings.slow_ns;
    bool is_told = seen->status >= 400 || seen->end != OBSERVE_ANSWERED ||
                   (seen->is_call && seen->x->note.code != OK) ||
                   (slow_ns != 0 && seen->ended_ns - seen->x->begun_ns >= slow_ns) ||
                   is_chosen(&log->choosers[seen->loop], log->threshold);

    if (is_told)
        observe_record(&log->rings, seen, &log->settings.query, false);
}

struct observer access_log_observer(struct access_log *log)
{
    return (struct observer){ .on_exchange = log->settings.is_audit ? on_exchange_audited : on_exchange,
                              .context = log };
}

/* -- the place ----------------------------------------------------------------------------------- */

static const char *name_of(const struct access_log *log)
{
    return log->settings.is_audit ? "audit" : "access";
}

static enum err_code cannot(const struct access_log *log, const char *what, int error,
                            struct err *err)
{
    return err_set(err, error == EACCES || error == EPERM ? E_PERMISSION : E_PRECONDITION,
                   "the %s log cannot %s %s: %s", name_of(log), what, log->settings.path,
                   strerror(error));
}

static int connect_unix(const char *path)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    int fd;

    if (strlen(path) >= sizeof to.sun_path)
        return -ENAMETOOLONG;
    memcpy(to.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)(const void *)&to, sizeof to) == 0)
        return fd;
    int error = errno;
    close(fd);
    return -error;
}

static void place_close(struct access_log *log)
{
    if (log->fd >= 0 && log->is_ours)
        close(log->fd);
    log->fd = -1;
}

bool access_log_is_file(const char *path)
{
    return path[0] != '\0' && strcmp(path, "-") != 0 && strcmp(path, "stdout") != 0 &&
           strcmp(path, "stderr") != 0 && strncmp(path, "unix:", 5) != 0;
}

static enum err_code place_open(struct access_log *log, struct err *err)
{
    const char *path = log->settings.path;
    struct stat st;
    int fd;

    log->is_ours = true;
    if (fault_hit()) {
        fd = -EMFILE;
    } else if (strncmp(path, "unix:", 5) == 0) {
        log->place = PLACE_SOCKET;
        fd = connect_unix(path + 5);
    } else if (strcmp(path, "-") == 0 || strcmp(path, "stdout") == 0) {
        log->is_ours = false;
        fd = STDOUT_FILENO;
    } else if (strcmp(path, "stderr") == 0) {
        log->is_ours = false;
        fd = STDERR_FILENO;
    } else {
        /* Not blocking: a pipe without a reader is an error here, and not a wait. */
        fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
                  FILE_MODE);
        fd = fd < 0 ? -errno : fd;
    }
    if (fd < 0)
        return cannot(log, log->place == PLACE_SOCKET ? "connect to" : "open", -fd, err);
    log->fd = fd;
    if (log->place != PLACE_SOCKET)
        log->place = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? PLACE_FILE : PLACE_STREAM;
    return OK;
}

/* -- told once ------------------------------------------------------------------------------------ */

static void lose_block(struct access_log *log)
{
    stat_add(&log->lost, log->lines);
    log->from = log->to = 0;
    log->lines = 0;
}

static void tell_failure(struct access_log *log, const struct err *err)
{
    if (!log->is_failing)
        log_warn("%s; its lines are lost until that works again, and counted "
                 "(penstock_%s_log_lines_total)",
                 err->text, name_of(log));
    log->is_failing = true;
    log->retry_ns = now_of(log) + RETRY_MS * NS_PER_MS;
}

static void tell_success(struct access_log *log)
{
    uint64_t lost = stat_read(&log->lost);

    if (log->is_failing)
        log_info("the %s log is written to %s again; %llu lines were lost", name_of(log),
                 log->settings.path,
                 (unsigned long long)(lost - log->lost_told));
    log->is_failing = false;
    log->lost_told = lost;
}

/* -- writing -------------------------------------------------------------------------------------- */

/* How much to write at once: whole lines, where they fit what a pipe promises to take. */
static size_t portion(const struct access_log *log)
{
    const uint8_t *at = log->block + log->from;
    size_t size = log->to - log->from;

    if (log->place == PLACE_FILE)
        return size;
    if (log->place == PLACE_SOCKET)
        return (size_t)((const uint8_t *)memchr(at, '\n', size) - at) + 1;
    if (size <= PIPE_BUF)
        return size;
    const uint8_t *end = memrchr(at, '\n', PIPE_BUF);
    return end == NULL ? PIPE_BUF : (size_t)(end - at) + 1;
}

static ssize_t write_some(struct access_log *log, const uint8_t *at, size_t size)
{
    struct pollfd poll_fd = { .fd = log->fd, .events = POLLOUT };
    ssize_t done;

    if (fault_hit())
        return -EIO;
    if (log->place == PLACE_SOCKET) /* the datagram is the line: its end needs no mark */
        return (done = socket_send(log->fd, at, size - 1)) < 0 ? done : (ssize_t)size;
    if (log->place == PLACE_STREAM && !log->is_ours && poll(&poll_fd, 1, 0) == 0)
        return -EAGAIN;
    do
        done = write(log->fd, at, size);
    while (done < 0 && errno == EINTR);
    return done < 0 ? -errno : done;
}

static uint64_t lines_in(const uint8_t *at, size_t size)
{
    uint64_t lines = 0;
    const uint8_t *end;

    while (size > 0 && (end = memchr(at, '\n', size)) != NULL) {
        size -= (size_t)(end - at) + 1;
        at = end + 1;
        lines++;
    }
    return lines;
}

/* What failed may be gone for good: it is opened anew before the next try. */
static bool is_gone(int error)
{
    return error == EPIPE || error == EBADF || error == ENOTCONN || error == ECONNREFUSED ||
           error == ECONNRESET || error == ENXIO;
}

static void fail(struct access_log *log, int error)
{
    struct err err = { 0 };

    (void)cannot(log, "write to", error, &err);
    tell_failure(log, &err);
    lose_block(log);
    if (is_gone(error) && log->is_ours)
        place_close(log);
}

/* Writes what there is. False: it takes no more now. */
static bool flush(struct access_log *log)
{
    uint64_t all = log->lines;

    if (log->to > 0 && (log->fd < 0 || (log->is_failing && now_of(log) < log->retry_ns))) {
        lose_block(log);
        return true;
    }
    while (log->from < log->to) {
        if (log->is_torn && log->place != PLACE_SOCKET) {
            ssize_t ended = write_some(log, (const uint8_t *)"\n", 1);
            if (ended == -EAGAIN)
                return false;
            if (ended < 0) {
                fail(log, (int)-ended);
                return true;
            }
            log->is_torn = false;
        }
        const uint8_t *at = log->block + log->from;
        ssize_t done = write_some(log, at, portion(log));
        if (done == -EAGAIN || done == -EWOULDBLOCK)
            return false;
        if (done < 0) {
            /* What stands in the file of a line that was cut in the middle is ended first. */
            log->is_torn = log->from > 0 && log->block[log->from - 1] != '\n';
            fail(log, (int)-done);
            return true;
        }
        uint64_t lines = lines_in(at, (size_t)done);
        stat_add(&log->written, lines);
        log->lines -= lines;
        log->from += (size_t)done;
    }
    log->from = log->to = 0;
    if (all != 0)
        tell_success(log);
    return true;
}

/* Was the file moved or deleted, or is it to be opened anyway? */
static void look(struct access_log *log)
{
    bool is_asked = atomic_exchange(&log->must_reopen, false), is_moved = false;
    uint64_t now = now_of(log);
    struct stat mine, there;
    struct err err = { 0 };

    if (!is_asked && now < log->look_ns)
        return;
    log->look_ns = now + LOOK_MS * NS_PER_MS;
    if (!log->is_ours && log->fd >= 0)
        return;
    if (log->fd >= 0 && log->place == PLACE_FILE)
        is_moved = fstat(log->fd, &mine) != 0 || stat(log->settings.path, &there) != 0 ||
                   mine.st_ino != there.st_ino || mine.st_dev != there.st_dev;
    if (log->fd >= 0 && !is_asked && !is_moved)
        return;
    int before = log->fd;
    if (place_open(log, &err) != OK) {
        log->fd = before; /* the file that was moved is better than none */
        if (before < 0)
            tell_failure(log, &err);
        else if (is_asked)
            log_warn("%s; it goes on in the file that is open", err.text);
        return;
    }
    if (before >= 0)
        close(before);
    log->is_torn = false;
    log->retry_ns = 0;
}

/* Makes lines of what there is. False: the block is full and cannot be written now. */
static bool drain(struct access_log *log, bool *ret_worked)
{
    const void *record;
    size_t size;

    while ((record = rings_next(&log->rings, &size)) != NULL) {
        if (BLOCK_BYTES - log->to < ACCESS_LINE_MAX && !flush(log))
            return false;
        if (BLOCK_BYTES - log->to < ACCESS_LINE_MAX)
            return false;
        log->to = (size_t)(access_line_write(&log->line, log->block + log->to, record) - log->block);
        log->lines++;
        rings_done(&log->rings);
        *ret_worked = true;
    }
    return true;
}

static void writer(void *arg)
{
    struct access_log *log = arg;
    struct env *env = log->env;
    uint64_t stop_ns = 0;

    for (;;) {
        bool is_stopping = atomic_load(&log->must_stop), has_worked = false, is_idle;
        uint64_t now = now_of(log);
        if (is_stopping && stop_ns == 0)
            stop_ns = now + STOP_MS * NS_PER_MS;
        log->line.wall_offset_ns = env->wall_ns(env) - now;
        look(log);
        bool is_free = drain(log, &has_worked) && flush(log);
        if (is_stopping && (log->fd < 0 || is_free || now >= stop_ns))
            break;
        if (!is_free) {
            env->worker_sleep(env, log->worker, now + RETRY_MS * NS_PER_MS);
            continue;
        }
        if (!rings_may_sleep(&log->rings, has_worked, &is_idle))
            continue;
        env->worker_sleep(env, log->worker, is_idle ? UINT64_MAX : now + RINGS_NAP_NS);
        rings_awake(&log->rings);
    }
    if (log->lines != 0 || rings_next(&log->rings, &(size_t){ 0 }) != NULL)
        log_warn("the %s log at %s took nothing for %d ms: its last lines are lost", name_of(log),
                 log->settings.path, STOP_MS);
}

/* -- life ----------------------------------------------------------------------------------------- */

static void wake(void *context)
{
    struct access_log *log = context;

    log->env->worker_wake(log->env, log->worker);
}

void access_log_reopen(struct access_log *log)
{
    atomic_store(&log->must_reopen, true);
    wake(log);
}

static enum err_code prepare(struct access_log *log, struct err *err)
{
    const struct access_log_settings *settings = &log->settings;

    TRY(rings_init(&log->rings, settings->loops_count, settings->ring_bytes, wake, log, err));
    log->choosers = mem_aligned(64, settings->loops_count * sizeof *log->choosers);
    log->block = mem_alloc(BLOCK_BYTES);
    if (log->choosers == NULL || log->block == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the access log");
    memset(log->choosers, 0, settings->loops_count * sizeof *log->choosers);
    for (uint32_t i = 0; i < settings->loops_count; i++)
        log->env->random(log->env, &log->choosers[i].state, sizeof log->choosers[i].state);
    TRY(place_open(log, err));
    return log->env->worker_start(log->env, &log->worker,
                                  settings->is_audit ? "audit-log" : "access-log", writer, log,
                                  err);
}

enum err_code access_log_open(struct access_log **ret, struct env *env,
                              const struct access_log_settings *settings, struct err *err)
{
    struct access_log *log = mem_aligned(64, sizeof *log);

    if (log == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the access log");
    memset(log, 0, sizeof *log);
    log->env = env;
    log->settings = *settings;
    log->fd = -1;
    log->threshold = (uint64_t)(settings->sample * 0x1p53);
    access_line_init(&log->line, settings->form, stage_names);
    if (prepare(log, err) != OK) {
        access_log_close(&log);
        return err->code;
    }
    *ret = log;
    return OK;
}

void access_log_close(struct access_log **slot)
{
    struct access_log *log = TAKE(*slot);

    if (log == NULL)
        return;
    if (log->worker != NULL) {
        atomic_store(&log->must_stop, true);
        wake(log);
        log->env->worker_join(log->env, &log->worker);
    }
    place_close(log);
    rings_deinit(&log->rings);
    mem_free(log->choosers);
    mem_free(log->block);
    mem_free(log);
}

static void render(void *context, struct text *out)
{
    const struct access_log *log = context;
    const char *name = log->settings.is_audit ? "penstock_audit_log_lines_total"
                                              : "penstock_access_log_lines_total";

    metrics_family(out, name, "counter",
                   log->settings.is_audit
                       ? "Lines of the audit log: written, dropped because its ring was full, lost "
                         "because they could not be written, refusals left out past their rate"
                       : "Lines of the access log: written, dropped because its ring was full "
                         "(--access-log-buffer), lost because they could not be written");
    if (log->settings.is_audit)
        metrics_sample_u64(out, name, "result=\"left_out\"", atomic_load(&log->left_out));
    metrics_sample_u64(out, name, "result=\"written\"", stat_read(&log->written));
    metrics_sample_u64(out, name, "result=\"dropped\"", rings_dropped(&log->rings));
    metrics_sample_u64(out, name, "result=\"lost\"", stat_read(&log->lost));
}

enum err_code access_log_register(struct access_log *log, struct metrics *metrics, struct err *err)
{
    return metrics == NULL ? OK : metrics_add_source(metrics, render, log, err);
}
