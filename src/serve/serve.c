/* serve.c - the life of the server: listeners, loops and their threads, start and end.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The starting thread never touches what belongs to a loop: it posts a message and waits until
 * each loop has answered. When all loops have stopped, what is left is its own again.
 */
#include "serve/internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/cpu.h"

enum {
    TARGET_BYTES_MAX = 8192, /* as most servers: longer ones belong into a body */
    LOOPS_MAX = 256,
};

enum err_code serve_new(struct serve **ret, struct env *env, const struct serve_settings *settings,
                        struct err *err)
{
    struct serve *serve = mem_zalloc(sizeof *serve);

    if (serve == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the server");
    pthread_mutex_init(&serve->mutex, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&serve->changed, &attr);
    pthread_condattr_destroy(&attr);
    serve->env = env;
    serve->settings = *settings;
    serve->settings.pipeline_max = MAX(settings->pipeline_max, 1u);
    serve->settings.streams_max = MAX(settings->streams_max, 1u);
    serve->limits.head_bytes_max = settings->header_bytes_max;
    serve->limits.target_bytes_max = MIN((uint32_t)TARGET_BYTES_MAX, settings->header_bytes_max);
    serve->limits.fields_max = settings->headers_max;
    http2_limits_init(&serve->http2_limits, &serve->settings);
    if (settings->hsts_s != 0)
        snprintf(serve->hsts, sizeof serve->hsts, "max-age=%llu",
                 (unsigned long long)settings->hsts_s);
    origin_rules_init(&serve->origins, settings->hosts_allowed, settings->hosts_allowed_count,
                      settings->origins_allowed, settings->origins_allowed_count);
    serve->loops_count = settings->loops_count != 0 ? settings->loops_count : cpu_usable();
    serve->loops_count = MIN(serve->loops_count, (uint32_t)LOOPS_MAX);
    if (router_new(&serve->router, settings->tables, settings->tables_count, err) != OK ||
        serve_stats_register(serve, settings->metrics, err) != OK) {
        enum err_code code = err->code;
        serve_free(&serve);
        return code;
    }
    *ret = serve;
    return OK;
}

const char *serve_address_of(const char *text)
{
    return strncmp(text, "https://", 8) == 0  ? text + 8
           : strncmp(text, "http://", 7) == 0 ? text + 7
                                              : text;
}

enum err_code serve_adopt(struct serve *serve, int *fd, const struct address *address,
                          const char *text, bool keeps_file, struct err *err)
{
    struct listener *listener = &serve->listeners[serve->listeners_count];
    char bound[ADDRESS_TEXT_MAX];

    require(!serve->is_started);
    if (serve->listeners_count == LISTENERS_MAX) {
        socket_close(fd);
        return err_set(err, E_INVALID, "at most %d addresses to listen on", LISTENERS_MAX);
    }
    bool is_https = strncmp(text, "https://", 8) == 0;
    bool is_plain = strncmp(text, "http://", 7) == 0;
    if (is_https && serve->settings.tls == NULL) {
        socket_close(fd);
        return err_set(err, E_INVALID, "%s needs a certificate: --tls CERT,KEY or --tls auto",
                       text);
    }
    listener->fd = *fd;
    *fd = -1;
    listener->address = *address;
    listener->is_local = address_is_loopback(address);
    listener->is_unix = address->any.sa_family == AF_UNIX;
    listener->keeps_file = keeps_file;
    listener->is_tls = is_https || (serve->settings.tls != NULL && !is_plain && !listener->is_unix);
    address_text(address, bound);
    snprintf(listener->url, sizeof listener->url, "%s%s",
             listener->is_tls    ? "https://"
             : listener->is_unix ? ""
                                 : "http://",
             bound);
    serve->listeners_count++;
    return OK;
}

enum err_code serve_listen(struct serve *serve, const char *address, struct err *err)
{
    struct address bound;
    int fd = -1;

    if (serve->listeners_count == LISTENERS_MAX)
        return err_set(err, E_INVALID, "at most %d addresses to listen on", LISTENERS_MAX);
    TRY(address_parse(&bound, serve_address_of(address), err));
    TRY(socket_listen(&fd, &bound, SERVE_BACKLOG, err));
    return serve_adopt(serve, &fd, &bound, address, false, err);
}

void serve_keep_files(struct serve *serve, bool keeps)
{
    serve->keeps_files = keeps;
}

uint32_t serve_listeners(const struct serve *serve)
{
    return serve->listeners_count;
}

const char *serve_listener_url(const struct serve *serve, uint32_t index)
{
    require(index < serve->listeners_count);
    return serve->listeners[index].url;
}

uint32_t serve_loops(const struct serve *serve)
{
    return serve->loops_count;
}

const char *serve_loop_date(struct serve_loop *l)
{
    uint64_t now = loop_now_ns(l->loop);

    if (UNLIKELY(now >= l->date_due_ns)) {
        uint64_t wall = l->serve->env->wall_ns(l->serve->env);
        http1_date(l->date, wall);
        l->date_due_ns = now + NS_PER_S - wall % NS_PER_S;
    }
    return l->date;
}

/* -- between the starting thread and the loops ------------------------------------------------- */

static void say_done(struct serve *serve)
{
    pthread_mutex_lock(&serve->mutex);
    serve->answered++;
    pthread_cond_broadcast(&serve->changed);
    pthread_mutex_unlock(&serve->mutex);
}

/* Posts each loop its message and waits until all have done it. */
static void ask_all(struct serve *serve, size_t msg_offset, void (*run)(struct loop_msg *msg))
{
    serve->answered = 0;
    for (uint32_t i = 0; i < serve->loops_count; i++) {
        struct loop_msg *msg = (struct loop_msg *)(void *)((char *)&serve->loops[i] + msg_offset);
        msg->run = run;
        loop_post(serve->loops[i].loop, msg);
    }
    pthread_mutex_lock(&serve->mutex);
    while (serve->answered < serve->loops_count)
        pthread_cond_wait(&serve->changed, &serve->mutex);
    pthread_mutex_unlock(&serve->mutex);
}

void serve_connection_gone(struct serve_loop *l)
{
    struct serve *serve = l->serve;

    atomic_fetch_sub(&l->open, 1);
    if (atomic_fetch_sub(&serve->connections, 1) == 1 && atomic_load(&serve->is_draining)) {
        pthread_mutex_lock(&serve->mutex);
        pthread_cond_broadcast(&serve->changed);
        pthread_mutex_unlock(&serve->mutex);
    }
}

static void loop_thread(void *arg)
{
    struct serve_loop *l = arg;

    loop_run(l->loop);
}

static void on_start(struct loop_msg *msg)
{
    struct serve_loop *l = CONTAINER_OF(msg, struct serve_loop, start_msg);

    listener_watch_all(l);
    say_done(l->serve);
}

static enum err_code loops_make(struct serve *serve, struct err *err)
{
    serve->loops = mem_aligned(64, serve->loops_count * sizeof *serve->loops);
    if (serve->loops == NULL) {
        serve->loops_count = 0;
        return err_set(err, E_EXHAUSTED, "no memory for the loops");
    }
    memset(serve->loops, 0, serve->loops_count * sizeof *serve->loops);
    for (uint32_t i = 0; i < serve->loops_count; i++) {
        struct serve_loop *l = &serve->loops[i];
        l->serve = serve;
        observe_init(l);
        serve_loop_pools_init(l);
    }
    for (uint32_t i = 0; i < serve->loops_count; i++)
        TRY(loop_new(&serve->loops[i].loop, serve->env, i, err));
    return OK;
}

enum err_code serve_start(struct serve *serve, struct err *err)
{
    struct env *env = serve->env;
    enum err_code code;
    char name[16];

    require(!serve->is_started);
    if (serve->listeners_count == 0)
        return err_set(err, E_INVALID, "there is no address to listen on");
    serve->is_started = true;
    code = loops_make(serve, err);
    for (uint32_t i = 0; code == OK && i < serve->loops_count; i++) {
        snprintf(name, sizeof name, "loop-%u", i);
        code = env->worker_start(env, &serve->loops[i].worker, name, loop_thread, &serve->loops[i],
                                 err);
    }
    if (code == OK) {
        ask_all(serve, offsetof(struct serve_loop, start_msg), on_start);
        for (uint32_t i = 0; code == OK && i < serve->loops_count; i++)
            if ((code = serve->loops[i].start_code) != OK)
                *err = serve->loops[i].start_err;
    }
    if (code != OK)
        serve_stop(serve);
    return code;
}

static void on_drain(struct loop_msg *msg)
{
    struct serve_loop *l = CONTAINER_OF(msg, struct serve_loop, drain_msg);
    struct list_node *next;

    listener_drain(l);
    l->is_draining = true;
    for (struct list_node *node = list_first(&l->conns); node != NULL; node = next) {
        next = list_next(&l->conns, node);
        struct conn *conn = conn_of_node(node);
        conn->kind->drain(conn);
    }
    say_done(l->serve);
}

static void on_cut(struct loop_msg *msg)
{
    struct serve_loop *l = CONTAINER_OF(msg, struct serve_loop, cut_msg);
    struct list_node *node;

    l->left = (struct serve_left){ 0 };
    for (node = list_first(&l->conns); node != NULL; node = list_next(&l->conns, node)) {
        const struct conn *conn = conn_of_node(node);
        uint32_t under_way = conn->kind->under_way(conn);
        l->left.connections++;
        l->left.idle += under_way == 0;
        l->left.requests += under_way;
    }

    listener_unwatch_all(l);
    l->is_draining = l->is_cut = true;
    while ((node = list_first(&l->conns)) != NULL) {
        struct conn *conn = conn_of_node(node);
        conn->kind->cut(conn);
    }
    say_done(l->serve);
}

static void listeners_close(struct serve *serve)
{
    for (uint32_t i = 0; i < serve->listeners_count; i++) {
        struct listener *listener = &serve->listeners[i];
        if (listener->keeps_file || serve->keeps_files)
            socket_close(&listener->fd);
        else
            socket_unlisten(&listener->fd, &listener->address);
    }
}

void serve_drain_begin(struct serve *serve, uint64_t idle_ms)
{
    if (!serve->is_started || serve->loops_count == 0 || atomic_load(&serve->is_draining))
        return;
    serve->idle_ns = idle_ms * NS_PER_MS;
    atomic_store(&serve->is_draining, true);
    ask_all(serve, offsetof(struct serve_loop, drain_msg), on_drain);
    listeners_close(serve);
}

bool serve_drain_wait(struct serve *serve, uint64_t due_ns)
{
    struct timespec until = { (time_t)(due_ns / NS_PER_S), (long)(due_ns % NS_PER_S) };
    int error = 0;

    if (!serve->is_started || serve->loops_count == 0)
        return true;
    pthread_mutex_lock(&serve->mutex);
    while (error == 0 && atomic_load(&serve->connections) > 0)
        error = pthread_cond_timedwait(&serve->changed, &serve->mutex, &until);
    pthread_mutex_unlock(&serve->mutex);
    return error == 0;
}

void serve_cut(struct serve *serve, struct serve_left *ret)
{
    *ret = (struct serve_left){ 0 };
    if (!serve->is_started || serve->loops_count == 0)
        return;
    ask_all(serve, offsetof(struct serve_loop, cut_msg), on_cut);
    for (uint32_t i = 0; i < serve->loops_count; i++) {
        const struct serve_left *left = &serve->loops[i].left;
        ret->connections += left->connections;
        ret->idle += left->idle;
        ret->requests += left->requests;
    }
}

void serve_drain(struct serve *serve, uint64_t grace_ms)
{
    uint64_t due_ns = clock_mono_ns() + grace_ms * NS_PER_MS;
    struct serve_left left;

    if (serve->settings.api != NULL && serve->settings.api->is_draining != NULL)
        atomic_store(serve->settings.api->is_draining, true);
    serve_drain_begin(serve, serve->settings.drain_idle_ms);
    if (serve_drain_wait(serve, due_ns))
        return;
    serve_cut(serve, &left);
    log_warn("cut after %llu ms (--drain-timeout): %u connections with %u requests that had not "
             "ended, %u of the connections had none",
             (unsigned long long)grace_ms, left.connections, left.requests, left.idle);
}

static void on_beat(struct loop_msg *msg)
{
    struct serve_loop *l = CONTAINER_OF(msg, struct serve_loop, beat_msg);

    atomic_store(&l->beat_ns, 0);
}

uint64_t serve_beat(struct serve *serve)
{
    uint64_t now_ns = clock_mono_ns(), longest_ns = 0;

    for (uint32_t i = 0; serve->loops != NULL && i < serve->loops_count; i++) {
        struct serve_loop *l = &serve->loops[i];
        uint64_t since_ns = atomic_load(&l->beat_ns);
        if (since_ns != 0) {
            longest_ns = MAX(longest_ns, now_ns - MIN(since_ns, now_ns));
            continue;
        }
        atomic_store(&l->beat_ns, now_ns);
        l->beat_msg.run = on_beat;
        loop_post(l->loop, &l->beat_msg);
    }
    return longest_ns;
}

void serve_stop(struct serve *serve)
{
    struct env *env = serve->env;
    bool all_run = serve->is_started && serve->loops != NULL;

    for (uint32_t i = 0; all_run && i < serve->loops_count; i++)
        all_run = serve->loops[i].worker != NULL;
    if (all_run)
        ask_all(serve, offsetof(struct serve_loop, cut_msg), on_cut);
    for (uint32_t i = 0; serve->loops != NULL && i < serve->loops_count; i++) {
        if (serve->loops[i].worker == NULL)
            continue;
        loop_stop(serve->loops[i].loop);
        env->worker_join(env, &serve->loops[i].worker);
    }
    listeners_close(serve);
}

void serve_free(struct serve **slot)
{
    struct serve *serve = TAKE(*slot);

    if (serve == NULL)
        return;
    if (serve->is_started)
        serve_stop(serve);
    listeners_close(serve);
    for (uint32_t i = 0; serve->loops != NULL && i < serve->loops_count; i++) {
        loop_free(&serve->loops[i].loop);
        serve_loop_pools_deinit(&serve->loops[i]);
    }
    mem_free(serve->loops);
    traffic_free(&serve->traffic);
    router_free(&serve->router);
    pthread_cond_destroy(&serve->changed);
    pthread_mutex_destroy(&serve->mutex);
    mem_free(serve);
}
