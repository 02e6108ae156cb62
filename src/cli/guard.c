/* guard.c - SPDX-License-Identifier: Apache-2.0
 *
 * Files are looked at every half second, by stat: a notification would miss what is mounted over or
 * swapped by links, as configuration maps are.
 *
 * An URL is asked when there are no keys yet, when a token came that none of them fits (not more often
 * than every WANTED_S: strangers can send such tokens), and every REFRESH_S, so that a key that was
 * withdrawn does not stay for ever. What fails is tried again later and later. Redirects are not followed.
 */
#include "cli/guard.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "access/access.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/stop.h"
#include "client/client.h"
#include "io/env.h"

enum {
    URLS_MAX = 16, /* as issuers */
    LOOK_MS = 500,
    TIMEOUT_S = 5,
    WANTED_S = 30,
    REFRESH_S = 600,
    BACKOFF_MIN_S = 1,
    BACKOFF_MAX_S = 300,
    HOST_BYTES_MAX = 512,
};

struct source {
    struct access_key_url asked;
    uint64_t due_ns;     /* when it is asked in any case */
    uint64_t allowed_ns; /* ... and when a token may make it be asked */
    uint64_t backoff_s;  /* 0: it did not fail */
    bool is_wanted;      /* a token did, and it was not asked since */
};

struct guard {
    struct env *env;
    struct access *access; /* borrowed */
    const char *cacert;    /* borrowed */
    void (*on_taken)(void *context);
    void *context;
    struct worker *worker, *fetcher;
    _Atomic bool must_stop;
    /* -- the worker's own -- */
    char failed[ERR_TEXT_MAX]; /* why the file could not be read when it was tried last; "": it could */
    /* -- the fetcher's own -- */
    struct source sources[URLS_MAX];
    uint32_t sources_count;
};

/* -- the file ------------------------------------------------------------------------------------ */

static enum err_code reload(struct guard *guard, struct err *err)
{
    TRY(access_reload(guard->access, guard->env->wall_ns(guard->env), err));
    log_info("the rules of --access are taken anew");
    guard->on_taken(guard->context);
    return OK;
}

static enum err_code on_sighup(void *context, struct err *err)
{
    struct err why = { 0 };

    if (reload(context, &why) == OK)
        return OK;
    return err_set(err, why.code, "%s; the former rules stay", why.text);
}

static void look_at_file(struct guard *guard)
{
    struct err err = { 0 };

    if (!access_has_changed(guard->access))
        return;
    enum err_code code = reload(guard, &err);
    if (code == E_INVALID)
        log_error("%s; the former rules stay", err.text);
    else if (code != OK && strcmp(err.text, guard->failed) != 0)
        log_error("%s; the former rules stay, and it is tried again each second", err.text);
    snprintf(guard->failed, sizeof guard->failed, "%s", code == E_INVALID ? "" : err.text);
}

/* -- the keys of issuers ----------------------------------------------------------------------------- */

static enum err_code ask(struct guard *guard, const char *url, struct err *err)
{
    CLEANUP(client_free) struct client *client = NULL;
    CLEANUP(answer_free) struct answer *answer = NULL;
    struct client_header headers[] = { { "accept", "application/jwk-set+json, application/json" } };
    const char *host = strstr(url, "://");
    char base[HOST_BYTES_MAX];

    host = host == NULL ? url : host + 3;
    const char *target = host + strcspn(host, "/?");
    if ((size_t)(target - url) >= sizeof base)
        return err_set(err, E_INVALID, "the host's name is too long");
    memcpy(base, url, (size_t)(target - url));
    base[target - url] = '\0';
    struct client_settings settings = {
        .url = base,
        .timeout_ns = TIMEOUT_S * NS_PER_S,
        .limits = { .body_bytes_max = ACCESS_KEY_SET_BYTES_MAX },
        .tls = { .ca = guard->cacert },
    };
    struct client_request request = { .method = "GET",
                                      .target = target[0] == '\0' ? "/" : target,
                                      .headers = headers,
                                      .headers_count = COUNT(headers) };
    TRY(client_new(&client, &settings, err));
    TRY(client_call(client, &request, &answer, err));
    if (answer->status != 200)
        return err_set(err, E_UNAVAILABLE, "it answered with status %u", answer->status);
    return access_set_keys(guard->access, url, answer->body, guard->env->wall_ns(guard->env), err);
}

static void fetch(struct guard *guard, struct source *source)
{
    struct err err = { 0 };
    enum err_code code = ask(guard, source->asked.url, &err);
    uint64_t now = guard->env->mono_ns(guard->env);

    source->is_wanted = false;
    source->allowed_ns = now + WANTED_S * NS_PER_S;
    if (code == OK) {
        if (source->backoff_s != 0)
            log_info("keys of tokens from %s: there again", source->asked.url);
        source->backoff_s = 0;
        source->due_ns = now + REFRESH_S * NS_PER_S;
        return;
    }
    if (source->backoff_s == 0)
        log_warn("keys of tokens from %s: %s; %s, and it is tried again", source->asked.url, err.text,
                 source->asked.has_keys ? "the former keys stay"
                                        : "its tokens are refused meanwhile");
    source->backoff_s = MIN(MAX(source->backoff_s * 2, (uint64_t)BACKOFF_MIN_S),
                            (uint64_t)BACKOFF_MAX_S);
    source->due_ns = now + source->backoff_s * NS_PER_S;
}

/* What is known of that URL; made when it is new, in place of one that is named no more. */
static struct source *source_of(struct guard *guard, uint32_t index,
                                const struct access_key_url *asked)
{
    struct source *source = &guard->sources[index];

    if (index >= guard->sources_count || strcmp(source->asked.url, asked->url) != 0)
        *source = (struct source){ 0 };
    source->asked = *asked;
    source->is_wanted |= asked->is_wanted;
    guard->sources_count = MAX(guard->sources_count, index + 1);
    return source;
}

static void look_at_urls(struct guard *guard)
{
    struct access_key_url asked;

    for (uint32_t i = 0; i < URLS_MAX && access_key_url(guard->access, i, &asked); i++) {
        struct source *source = source_of(guard, i, &asked);
        uint64_t now = guard->env->mono_ns(guard->env);
        if (now >= source->due_ns || (source->is_wanted && now >= source->allowed_ns))
            fetch(guard, source);
        if (atomic_load(&guard->must_stop))
            return;
    }
}

/* -- life -------------------------------------------------------------------------------------------- */

static void look(void *arg)
{
    struct guard *guard = arg;
    struct env *env = guard->env;

    while (!atomic_load(&guard->must_stop)) {
        look_at_file(guard);
        env->worker_sleep(env, guard->worker, env->mono_ns(env) + LOOK_MS * NS_PER_MS);
    }
}

static void fetch_all(void *arg)
{
    struct guard *guard = arg;
    struct env *env = guard->env;

    while (!atomic_load(&guard->must_stop)) {
        look_at_urls(guard);
        env->worker_sleep(env, guard->fetcher, env->mono_ns(env) + LOOK_MS * NS_PER_MS);
    }
}

static void join(struct guard *guard, struct worker **worker)
{
    if (*worker == NULL)
        return;
    guard->env->worker_wake(guard->env, *worker);
    guard->env->worker_join(guard->env, worker);
}

enum err_code guard_start(struct guard **ret, struct env *env, struct access *access,
                          const char *cacert, void (*on_taken)(void *context), void *context,
                          struct err *err)
{
    if (!access_has_rules(access))
        return OK;
    struct guard *guard = mem_zalloc(sizeof *guard);
    if (guard == NULL)
        return err_set(err, E_EXHAUSTED, "no memory to watch the rules");
    guard->env = env;
    guard->access = access;
    guard->cacert = cacert;
    guard->on_taken = on_taken;
    guard->context = context;
    if (env->worker_start(env, &guard->worker, "access", look, guard, err) != OK ||
        env->worker_start(env, &guard->fetcher, "access-keys", fetch_all, guard, err) != OK) {
        atomic_store(&guard->must_stop, true);
        join(guard, &guard->worker);
        mem_free(guard);
        return err->code;
    }
    stop_on_reload(on_sighup, guard);
    *ret = guard;
    return OK;
}

void guard_stop(struct guard **slot)
{
    struct guard *guard = TAKE(*slot);

    if (guard == NULL)
        return;
    atomic_store(&guard->must_stop, true);
    join(guard, &guard->worker);
    join(guard, &guard->fetcher);
    mem_free(guard);
}
