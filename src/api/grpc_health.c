/* grpc_health.c - grpc.health.v1.Health: Check, Watch, List (proto/grpc/health/v1/health.proto).
 * SPDX-License-Identifier: Apache-2.0
 *
 * The status of a service is looked up, never kept: "" and the services that every server has are as
 * ready as /readyz says, a model is as ready as its default version. A watcher follows the server's
 * events (push.h), looks again at each and speaks when the answer is another.
 *
 * The messages are two bytes, so they are written by hand; nothing here waits for a schema.
 */
#include <stdatomic.h>

#include "api/grpc.h"
#include "api/push.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/pb.h"
#include "base/text.h"
#include "base/utf8.h"
#include "contract/typed_proto.h"
#include "engine/engine.h"
#include "io/loop.h"
#include "repository/repository.h"
#include "telemetry/metrics.h"

enum { LIST_BYTES_MAX = 4 << 20 }; /* the largest message that a gRPC client takes unless told */

/* HealthCheckResponse.ServingStatus */
enum status { STATUS_UNKNOWN, STATUS_SERVING, STATUS_NOT_SERVING, STATUS_SERVICE_UNKNOWN };

static const char models_prefix[] = TYPED_PROTO_PACKAGE ".";

/* -- what is how --------------------------------------------------------------------------------- */

static bool is_draining(const struct api *api)
{
    return atomic_load_explicit(api->is_draining, memory_order_relaxed);
}

static enum status server_status(const struct api *api)
{
    bool is_ready =
        !is_draining(api) && (!api->is_strict_ready || repository_is_ready(api->repository));

    return is_ready ? STATUS_SERVING : STATUS_NOT_SERVING;
}

static bool is_static(const struct api *api, struct slice service)
{
    for (size_t i = 0; grpc_services[i] != NULL; i++)
        if (slice_is(service, grpc_services[i]->name))
            return grpc_service_is_on(grpc_services[i], api);
    return false;
}

static int compare(struct slice name, const char *entry)
{
    size_t size = strlen(entry), common = MIN(name.size, size);
    int order = common == 0 ? 0 : memcmp(name.data, entry, common);

    return order != 0 ? order : (name.size > size) - (name.size < size);
}

/* A model of the snapshot, whose entries stand by name. */
static enum status model_status(const struct repository_snapshot *snapshot, struct slice name)
{
    uint32_t low = 0, high = snapshot->count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (compare(name, snapshot->entries[middle].name) > 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == snapshot->count || compare(name, snapshot->entries[low].name) != 0)
        return STATUS_SERVICE_UNKNOWN;
    for (; low < snapshot->count && compare(name, snapshot->entries[low].name) == 0; low++)
        if (snapshot->entries[low].is_default && snapshot->entries[low].state == MODEL_READY)
            return STATUS_SERVING;
    return STATUS_NOT_SERVING;
}

/* A model that the caller may not read of is one that nobody knows. */
static enum status status_of(const struct exchange *x, const struct api *api, struct slice service)
{
    struct repository_snapshot snapshot;
    struct slice model = service;
    enum status status;

    if (service.size == 0 || is_static(api, service))
        return server_status(api);
    if (slice_starts(service, models_prefix)) {
        struct slice name = slice_skip(service, sizeof models_prefix - 1);
        const char *of = repository_service_model(api->repository, name);
        if (of == NULL)
            return STATUS_SERVICE_UNKNOWN;
        model = slice_of(of);
    }
    if (!api_shows_model(x, slice_of("models"), model))
        return STATUS_SERVICE_UNKNOWN;
    repository_snapshot_take(api->repository, &snapshot);
    status = model_status(&snapshot, model);
    repository_snapshot_give(&snapshot);
    return status == STATUS_SERVING && is_draining(api) ? STATUS_NOT_SERVING : status;
}

/* -- messages ------------------------------------------------------------------------------------- */

/* HealthCheckRequest.service; false: ended with what is wrong. */
static bool read_service(struct call *call, struct slice message, struct slice *ret)
{
    struct slice service = slice_make("", 0);
    struct err err = { 0 };
    struct pb_reader reader;
    struct pb_field field;

    pb_begin(&reader, message);
    while (pb_next(&reader, &field))
        if (field.number == 1 && field.wire == PB_LEN)
            service = field.bytes;
    if (pb_failed(&reader))
        err_set(&err, E_INVALID, "this is no grpc.health.v1.HealthCheckRequest: byte %zu: %s",
                (size_t)(reader.at - reader.begin), reader.fault);
    else if (utf8_valid_prefix(service) != service.size)
        err_set(&err, E_INVALID, "service: byte %zu is not UTF-8", utf8_valid_prefix(service));
    if (err.code != OK) {
        grpc_end(call, &err, utf8_valid_prefix(service) != service.size ? "service" : NULL);
        return false;
    }
    *ret = service;
    return true;
}

/* A HealthCheckResponse, constant. */
static struct slice answer_of(enum status status)
{
    static const uint8_t answers[][2] = { { 0x08, STATUS_UNKNOWN },
                                          { 0x08, STATUS_SERVING },
                                          { 0x08, STATUS_NOT_SERVING },
                                          { 0x08, STATUS_SERVICE_UNKNOWN } };

    return slice_make(answers[status], sizeof answers[status]);
}

/* -- Check ---------------------------------------------------------------------------------------- */

static void end_unknown(struct call *call, struct slice service)
{
    struct err err = { 0 };

    err_set(&err, E_NOT_FOUND,
            "no service '%.*s' here: '' is the whole server; else name a gRPC service or a model "
            "(List tells all)",
            SLICE_ARG(slice_first(service, utf8_valid_prefix(slice_first(service, 200)))));
    grpc_end(call, &err, "service");
}

static void check_answer(struct call *call, const struct api *api, struct slice message)
{
    struct slice service;
    enum status status;

    if (!read_service(call, message, &service))
        return;
    status = status_of(call->x, api, service);
    if (status == STATUS_SERVICE_UNKNOWN)
        end_unknown(call, service);
    else
        grpc_answer(call, answer_of(status), NULL);
}

static void check_handle(struct call *call, const struct api *api)
{
    grpc_unary(call, api, check_answer);
}

/* -- List ----------------------------------------------------------------------------------------- */

/* An entry of HealthListResponse.statuses: the key may come in two parts. */
static void put_status(struct text *out, const char *first, const char *second, enum status status)
{
    struct slice answer = answer_of(status);
    size_t key = strlen(first) + strlen(second);
    size_t size = pb_size_len(1, key) + pb_size_len(2, answer.size);
    uint8_t *begin = text_room(out, pb_size_len(1, size)), *at = begin;

    if (begin == NULL)
        return;
    at = pb_put_head(at, 1, size);
    at = pb_put_head(at, 1, key);
    memcpy(at, first, strlen(first));
    at += strlen(first);
    memcpy(at, second, strlen(second));
    at += strlen(second);
    at = pb_put_bytes(at, 2, answer);
    out->size += (size_t)(at - begin);
}

static void put_models(struct text *out, const struct exchange *x, const struct api *api)
{
    struct repository_snapshot snapshot;
    const char *before = NULL;

    repository_snapshot_take(api->repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        const struct repository_entry *entry = &snapshot.entries[i];
        const char *service = NULL;
        if (!api_shows_model(x, slice_of("models"), slice_of(entry->name)))
            continue;
        if (entry->is_default && entry->model != NULL)
            service = model_signature(entry->model)->service;
        enum status status = model_status(&snapshot, slice_of(entry->name));
        if (status == STATUS_SERVING && is_draining(api))
            status = STATUS_NOT_SERVING;
        if (before == NULL || strcmp(before, entry->name) != 0)
            put_status(out, entry->name, "", status);
        if (service != NULL && service[0] != '\0')
            put_status(out, models_prefix, service, status);
        before = entry->name;
    }
    repository_snapshot_give(&snapshot);
}

static void list_answer(struct call *call, const struct api *api, struct slice message UNUSED)
{
    struct buf *holder = NULL;
    struct err err = { 0 };
    struct text out;

    text_init(&out, LIST_BYTES_MAX);
    put_status(&out, "", "", server_status(api));
    for (size_t i = 0; grpc_services[i] != NULL; i++)
        if (grpc_service_is_on(grpc_services[i], api))
            put_status(&out, grpc_services[i]->name, "", server_status(api));
    put_models(&out, call->x, api);
    if (text_failed(&out))
        err_set(&err, E_EXHAUSTED,
                "the list of all services is larger than %d MiB, or there is no memory for it: ask "
                "for one with Check",
                LIST_BYTES_MAX >> 20);
    if (err.code == OK && text_to_buf(&out, &holder, &err) == OK)
        grpc_answer(call, buf_bytes(holder), holder);
    else
        grpc_end(call, &err, NULL);
    buf_unref(&holder);
    text_deinit(&out);
}

static void list_handle(struct call *call, const struct api *api)
{
    grpc_unary(call, api, list_answer);
}

/* -- Watch ---------------------------------------------------------------------------------------- */

/* Lies in the exchange's arena; the call holds the exchange as long as it follows the events. */
struct watcher {
    struct event_reader reader;
    struct call *call;
    const struct api *api;
    struct slice service; /* in the request's message */
    enum status told;
    bool has_told;
};

static void forget(struct watcher *w)
{
    event_log_detach(&w->reader);
    watchers_leave(w->api->watchers, WATCHES_HEALTH, w->call->x);
}

static void end_watch(struct watcher *w, enum err_code code, const char *why)
{
    struct err err = { 0 };

    err_set(&err, code, "%s", why);
    forget(w);
    call_end(w->call, &err, NULL);
}

/* Tells what is, when it is something else than what was told; a reader who takes nothing is told
 * later, and then only what is by then. Watchers do not keep the server from ending: the last event is
 * that it drains. */
static void look(struct watcher *w)
{
    bool is_last = is_draining(w->api);
    enum status status = status_of(w->call->x, w->api, w->service);
    struct call_piece piece = { answer_of(status), NULL };

    if ((!w->has_told || status != w->told) && (is_last || call_room(w->call) > 0)) {
        w->has_told = true;
        w->told = status;
        call_send(w->call, &piece, 1);
    }
    if (is_last)
        end_watch(w, E_UNAVAILABLE, "the server is stopping: watch again, elsewhere or later");
}

/* What happened does not matter, as the status is looked up anyway. */
static void on_more(struct event_reader *reader)
{
    struct watcher *w = CONTAINER_OF(reader, struct watcher, reader);

    push_skip(reader);
    look(w);
}

static void on_room(struct call *call)
{
    look(call->user_data);
}

/* The request's caller half-closed: nothing more can come. */
static void on_message(struct call *call UNUSED, const struct call_message *message UNUSED)
{
}

static void on_gone(struct call *call, enum err_code why UNUSED)
{
    forget(call->user_data);
}

static const struct call_user watch_user = { .on_message = on_message,
                                             .on_room = on_room,
                                             .on_gone = on_gone };

/* Health is open to everybody, and its watches stay: they must not use up the places of who has a name. */
static bool is_stranger(const struct exchange *x)
{
    return caller_has_rules(x->caller) && caller_is_anonymous(x->caller);
}

static uint64_t places_of(const struct grpc_watchers *watchers, const struct exchange *x)
{
    return is_stranger(x) ? (watchers->max + 1) / 2 : watchers->max;
}

static bool take_place(_Atomic uint64_t *taken, uint64_t max)
{
    if (atomic_fetch_add_explicit(taken, 1, memory_order_relaxed) < max)
        return true;
    atomic_fetch_sub_explicit(taken, 1, memory_order_relaxed);
    return false;
}

bool watchers_enter(struct grpc_watchers *watchers, enum watches kind, const struct exchange *x)
{
    bool is_in = !is_stranger(x) || take_place(&watchers->strangers, places_of(watchers, x));

    if (is_in && take_place(&watchers->now, watchers->max)) {
        atomic_fetch_add_explicit(&watchers->of[kind], 1, memory_order_relaxed);
        return true;
    }
    if (is_in && is_stranger(x))
        atomic_fetch_sub_explicit(&watchers->strangers, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&watchers->refused, 1, memory_order_relaxed);
    return false;
}

void watchers_leave(struct grpc_watchers *watchers, enum watches kind, const struct exchange *x)
{
    if (is_stranger(x))
        atomic_fetch_sub_explicit(&watchers->strangers, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&watchers->of[kind], 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&watchers->now, 1, memory_order_relaxed);
}

static void watch_answer(struct call *call, const struct api *api, struct slice message)
{
    struct watcher *w = arena_zalloc(call->x->arena, sizeof *w);
    struct err err = { .retry_after_ms = 1000 };
    struct slice service;

    if (!read_service(call, message, &service))
        return;
    if (w == NULL || !watchers_enter(api->watchers, WATCHES_HEALTH, call->x)) {
        if (w == NULL)
            err_set(&err, E_EXHAUSTED, "no memory to watch a service; retry later");
        else
            err_set(
                &err, E_EXHAUSTED,
                "%llu watch%s already, which is the most (%s--watchers-max): ask with Check now and "
                "then",
                (unsigned long long)places_of(api->watchers, call->x),
                is_stranger(call->x) ? " without a key" : "",
                is_stranger(call->x) ? "half of " : "");
        grpc_end(call, &err, NULL);
        return;
    }
    *w = (struct watcher){ .call = call, .api = api, .service = service };
    w->reader.loop = call->x->loop;
    w->reader.on_more = on_more;
    call->user = &watch_user;
    call->user_data = w;
    if (push_attend(api->push, &w->reader, &err) != OK) {
        end_watch(w, err.code, err.text);
        return;
    }
    push_skip(&w->reader);
    look(w); /* behind it: what changes from now on tells us */
}

static void watch_handle(struct call *call, const struct api *api)
{
    require(api->watchers != NULL && api->push != NULL);
    grpc_unary(call, api, watch_answer);
}

enum err_code grpc_watchers_register(struct grpc_watchers *watchers, struct metrics *metrics,
                                     struct err *err)
{
    TRY(metrics_add(metrics, METRIC_GAUGE, "penstock_health_watchers",
                    "gRPC health watches under way", "", &watchers->of[WATCHES_HEALTH], 1, err));
    return metrics_add(metrics, METRIC_GAUGE, "penstock_event_watchers",
                       "Readers of the server's events, on every transport", "",
                       &watchers->of[WATCHES_EVENTS], 1, err);
}

uint64_t grpc_watchers_refused(const struct grpc_watchers *watchers)
{
    return watchers == NULL ? 0 : atomic_load_explicit(&watchers->refused, memory_order_relaxed);
}

static const struct grpc_method methods[] = {
    { "Check", check_handle, NULL, ACCESS_OPEN },
    { "Watch", watch_handle, NULL, ACCESS_OPEN },
    { "List", list_handle, NULL, ACCESS_OPEN },
};

const struct grpc_service grpc_health_service = { "grpc.health.v1.Health", methods,
                                                  COUNT(methods), "server" };
