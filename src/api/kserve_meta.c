/* kserve_meta.c - what the V2 dialect says about the server and its models.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each document is one function (kserve_put_*) that writes JSON with the names of Triton's messages:
 * REST sends the text, gRPC makes the message of it (kserve_grpc.c), so that both say the same.
 * Documents are written into heap texts and leave as bufs. Health answers carry the small bodies
 * that KServe's clients show; every client looks at the status alone (contract B1.2).
 */
#include <stdatomic.h>

#include "api/kserve.h"
#include "api/reply.h"
#include "base/mem.h"
#include "codec/tensor_json.h"
#include "engine/engine.h"
#include "exchange/collect.h"
#include "model/dtype.h"
#include "repository/repository.h"

static const char json_type[] = "application/json";

static void answer(struct exchange *x, struct text *text)
{
    api_answer_text(x, DIALECT_KSERVE, 200, json_type, NULL, 0, text);
}

static void answer_constant(struct exchange *x, uint16_t status, const char *body)
{
    exchange_answer(x, status, json_type, NULL, 0, slice_of(body), NULL);
}

static void fail(struct exchange *x, const struct err *err)
{
    api_fail(x, DIALECT_KSERVE, 0, err);
}

/* -- the server -------------------------------------------------------------------------------- */

void kserve_put_server(struct text *out, const struct api *api)
{
    text_str(out, "{\"name\":");
    text_json(out, slice_of(api->server_name));
    text_str(out, ",\"version\":");
    text_json(out, slice_of(api->server_version));
    /* What is built, and nothing else. */
    text_str(out, ",\"extensions\":[\"classification\",\"model_configuration\","
                  "\"binary_tensor_data\",\"parameters\",\"statistics\",\"logging\"]}");
}

void kserve_server(struct exchange *x, const struct route_match *match)
{
    struct text out;

    text_init(&out, REPLY_BYTES_MAX);
    kserve_put_server(&out, match->api);
    answer(x, &out);
}

void kserve_live(struct exchange *x, const struct route_match *match UNUSED)
{
    answer_constant(x, 200, "{\"live\":true}");
}

bool kserve_is_ready(const struct api *api)
{
    return !api_is_stopping(api) &&
           (!api->is_strict_ready || repository_is_ready(api->repository));
}

void kserve_ready(struct exchange *x, const struct route_match *match)
{
    if (kserve_is_ready(match->api))
        answer_constant(x, 200, "{\"ready\":true}");
    else
        answer_constant(x, 400, "{\"ready\":false}");
}

/* -- models ------------------------------------------------------------------------------------- */

static struct slice version_param(const struct route_match *match)
{
    return match->params_count > 1 ? match->params[1] : slice_make("", 0);
}

/* The model of the path, or NULL when the exchange is answered. */
static struct model *want(struct exchange *x, const struct route_match *match)
{
    struct model *model = NULL;
    struct err err = { 0 };

    if (api_want_model(x, match->api, ACCESS_READ, slice_of("v2"), &model, match->params[0],
                       version_param(match), &err) != OK)
        fail(x, &err);
    return model;
}

void kserve_models(struct exchange *x, const struct route_match *match)
{
    struct repository_snapshot snapshot;
    struct text out;
    const char *before = NULL;

    repository_snapshot_take(match->api->repository, &snapshot);
    text_init(&out, REPLY_BYTES_MAX);
    text_str(&out, "{\"models\":[");
    for (uint32_t i = 0; i < snapshot.count; i++) {
        const struct repository_entry *entry = &snapshot.entries[i];
        if (entry->state != MODEL_READY || (before != NULL && strcmp(before, entry->name) == 0) ||
            !api_shows_model(x, slice_of("v2"), slice_of(entry->name)))
            continue;
        if (before != NULL)
            text_byte(&out, ',');
        text_json(&out, slice_of(entry->name));
        before = entry->name;
    }
    text_str(&out, "]}");
    repository_snapshot_give(&snapshot);
    answer(x, &out);
}

static void put_tensors(struct text *out, const struct signature_tensor *list, uint32_t count)
{
    bool is_first = true;

    for (uint32_t i = 0; i < count; i++) {
        const struct signature_tensor *t = &list[i];
        if (t->is_hidden)
            continue;
        text_str(out, is_first ? "{\"name\":" : ",{\"name\":");
        is_first = false;
        text_json(out, slice_of(t->name));
        text_printf(out, ",\"datatype\":\"%s\",\"shape\":[", dtype_name(t->dtype));
        for (uint32_t d = 0; d < t->rank; d++) {
            if (d != 0)
                text_byte(out, ',');
            text_i64(out, t->dims[d]);
        }
        text_str(out, "]}");
    }
}

static void put_versions(struct text *out, struct repository *repository, const char *name)
{
    struct repository_snapshot snapshot;
    bool is_first = true;

    repository_snapshot_take(repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        const struct repository_entry *entry = &snapshot.entries[i];
        if (entry->state != MODEL_READY || strcmp(entry->name, name) != 0)
            continue;
        if (!is_first)
            text_byte(out, ',');
        is_first = false;
        text_json(out, slice_of(entry->version));
    }
    repository_snapshot_give(&snapshot);
}

void kserve_put_model(struct text *out, const struct api *api, const struct model *model)
{
    const struct signature *s = model_signature(model);

    text_str(out, "{\"name\":");
    text_json(out, slice_of(model_name(model)));
    text_str(out, ",\"versions\":[");
    put_versions(out, api->repository, model_name(model));
    text_str(out, "],\"platform\":");
    text_json(out, slice_of(model_platform(model)));
    text_str(out, ",\"inputs\":[");
    put_tensors(out, s->inputs, s->inputs_count);
    text_str(out, "],\"outputs\":[");
    put_tensors(out, s->outputs, s->outputs_count);
    text_str(out, "]}");
}

void kserve_model(struct exchange *x, const struct route_match *match)
{
    CLEANUP(model_unref) struct model *model = want(x, match);
    struct text out;

    if (model == NULL)
        return;
    text_init(&out, REPLY_BYTES_MAX);
    kserve_put_model(&out, match->api, model);
    answer(x, &out);
}

void kserve_model_ready(struct exchange *x, const struct route_match *match)
{
    CLEANUP(model_unref) struct model *model = NULL;
    struct err err = { 0 };
    struct text out;

    if (api_want_model(x, match->api, ACCESS_READ, slice_of("v2"), &model, match->params[0],
                       version_param(match), &err) != OK) {
        if (err.code == E_PERMISSION || err.code == E_UNAUTHENTICATED) {
            fail(x, &err);
            return;
        }
        answer_constant(x, 400, "{\"error\":\"Model version not ready\"}");
        return;
    }
    text_init(&out, REPLY_BYTES_MAX);
    text_str(&out, "{\"name\":");
    text_json(&out, slice_of(model_name(model)));
    text_str(&out, ",\"ready\":true}");
    answer(x, &out);
}

void kserve_put_config(struct text *out, const struct model *model)
{
    CLEANUP(mem_free_slot) char *json = config_json(model_config(model), false);

    if (json != NULL)
        text_str(out, json);
    else
        out->has_failed = true;
}

void kserve_model_config(struct exchange *x, const struct route_match *match)
{
    CLEANUP(model_unref) struct model *model = want(x, match);
    struct text out;

    if (model == NULL)
        return;
    text_init(&out, REPLY_BYTES_MAX);
    kserve_put_config(&out, model);
    answer(x, &out);
}

/* -- statistics ---------------------------------------------------------------------------------- */

static uint64_t load(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void put_duration(struct text *out, const char *name, const struct stat_duration *d,
                         bool is_last)
{
    text_printf(out, "\"%s\":{\"count\":%llu,\"ns\":%llu}%s", name,
                (unsigned long long)load(&d->count), (unsigned long long)load(&d->ns),
                is_last ? "" : ",");
}

static void put_stats(struct text *out, struct model *model)
{
    static const struct stat_duration nothing;
    struct model_stats sum;
    const struct model_stats *s = model_stats(model, &sum);
    bool is_first = true;

    text_str(out, "{\"name\":");
    text_json(out, slice_of(model_name(model)));
    text_str(out, ",\"version\":");
    text_json(out, slice_of(model_version_text(model)));
    text_printf(out,
                ",\"last_inference\":%llu,\"inference_count\":%llu,\"execution_count\":%llu,"
                "\"inference_stats\":{",
                (unsigned long long)load(&s->last_inference_ms),
                (unsigned long long)load(&s->inference_count),
                (unsigned long long)load(&s->execution_count));
    put_duration(out, "success", &s->success, false);
    put_duration(out, "fail", &s->fail, false);
    put_duration(out, "queue", &s->queue, false);
    put_duration(out, "compute_input", &s->compute_input, false);
    put_duration(out, "compute_infer", &s->compute_infer, false);
    put_duration(out, "compute_output", &s->compute_output, false);
    put_duration(out, "cache_hit", &nothing, false);
    put_duration(out, "cache_miss", &nothing, true);
    text_str(out, "},\"response_stats\":{},\"batch_stats\":[");
    for (size_t i = 0; i < STAT_BATCH_SIZES; i++) {
        if (load(&s->batch_infer[i].count) == 0)
            continue;
        text_printf(out, "%s{\"batch_size\":%zu,", is_first ? "" : ",", i);
        is_first = false;
        put_duration(out, "compute_input", &s->batch_input[i], false);
        put_duration(out, "compute_infer", &s->batch_infer[i], false);
        put_duration(out, "compute_output", &s->batch_output[i], true);
        text_byte(out, '}');
    }
    text_str(out, "],\"memory_usage\":[]}");
}

enum err_code kserve_put_stats(struct text *out, struct exchange *x, const struct api *api,
                               struct slice name, struct slice version, struct err *err)
{
    struct repository_snapshot snapshot;
    bool is_known = name.size == 0, is_first = true;

    TRY(api_may(x, ACCESS_READ, slice_of("v2"), name, err));
    repository_snapshot_take(api->repository, &snapshot);
    text_str(out, "{\"model_stats\":[");
    for (uint32_t i = 0; i < snapshot.count; i++) {
        const struct repository_entry *entry = &snapshot.entries[i];
        if ((name.size != 0 && !slice_is(name, entry->name)) ||
            !api_shows_model(x, slice_of("v2"), slice_of(entry->name)))
            continue;
        is_known = true;
        if (entry->model == NULL || (version.size != 0 && !slice_is(version, entry->version)))
            continue;
        if (!is_first)
            text_byte(out, ',');
        is_first = false;
        put_stats(out, entry->model);
    }
    text_str(out, "]}");
    repository_snapshot_give(&snapshot);
    if (!is_known)
        return err_set(err, E_NOT_FOUND, "Request for unknown model: '%.*s' is not found",
                       SLICE_ARG(slice_first(name, 200)));
    if (is_first && name.size != 0)
        return err_set(err, E_INVALID, "requested model version is not available for model '%.*s'",
                       SLICE_ARG(slice_first(name, 200)));
    return OK;
}

static void answer_stats(struct exchange *x, const struct api *api, struct slice name,
                         struct slice version)
{
    struct err err = { 0 };
    struct text out;

    text_init(&out, REPLY_BYTES_MAX);
    if (kserve_put_stats(&out, x, api, name, version, &err) == OK) {
        answer(x, &out);
        return;
    }
    text_deinit(&out);
    fail(x, &err);
}

void kserve_model_stats(struct exchange *x, const struct route_match *match)
{
    answer_stats(x, match->api, match->params[0], version_param(match));
}

void kserve_all_stats(struct exchange *x, const struct route_match *match)
{
    answer_stats(x, match->api, slice_make("", 0), slice_make("", 0));
}

/* -- the repository's index ------------------------------------------------------------------------ */

static enum err_code read_ready(struct slice body, struct arena *arena, bool *ret, struct err *err)
{
    struct json_cursor c = { body.data, body.data, body.data };
    bool has_ready = false;

    *ret = false;
    if (body.size != 0)
        c.end += body.size; /* of no body there is no address to add to */
    if (json_peek(&c) == 0)
        return OK;
    TRY(json_take(&c, '{', "", err));
    for (bool is_first = true;; is_first = false) {
        bool more;
        struct slice key;
        TRY(json_more(&c, '}', is_first, &more, "", err));
        if (!more)
            break;
        TRY(json_string(&c, arena, &key, "", err));
        TRY(json_take(&c, ':', "", err));
        if (!slice_is(key, "ready")) {
            TRY(json_skip(&c, NULL, "", err));
            continue;
        }
        uint8_t first = json_peek(&c);
        if (has_ready || (first != 't' && first != 'f'))
            return err_set(err, E_INVALID, "Invalid value for 'ready': expected a boolean%s",
                           has_ready ? ", once" : "");
        TRY(json_bool(&c, ret, "ready", err));
        has_ready = true;
    }
    return json_end(&c, err);
}

void kserve_put_index(struct text *out, const struct exchange *x, const struct api *api,
                      bool ready_only)
{
    struct repository_snapshot snapshot;
    bool is_first = true;

    repository_snapshot_take(api->repository, &snapshot);
    text_byte(out, '[');
    for (uint32_t i = 0; i < snapshot.count; i++) {
        const struct repository_entry *entry = &snapshot.entries[i];
        const char *state = model_state_name(entry->state);
        if ((ready_only && entry->state != MODEL_READY) ||
            !api_shows_model(x, slice_of("v2"), slice_of(entry->name)))
            continue;
        if (!is_first)
            text_byte(out, ',');
        is_first = false;
        text_str(out, "{\"name\":");
        text_json(out, slice_of(entry->name));
        if (entry->version[0] != '\0') {
            text_str(out, ",\"version\":");
            text_json(out, slice_of(entry->version));
        }
        if (state[0] != '\0') {
            text_str(out, ",\"state\":");
            text_json(out, slice_of(state));
        }
        if (entry->reason[0] != '\0') {
            text_str(out, ",\"reason\":");
            text_json(out, slice_of(entry->reason));
        }
        text_byte(out, '}');
    }
    text_byte(out, ']');
    repository_snapshot_give(&snapshot);
}

static void on_index_body(struct exchange *x, const struct collect_result *body,
                          const struct err *failed)
{
    const struct api *api = x->user_data;
    struct err err = { 0 };
    struct text out;
    bool ready_only;

    if (failed != NULL) {
        api_fail_body(x, DIALECT_KSERVE, failed);
        return;
    }
    if (read_ready(body->body, x->arena, &ready_only, &err) != OK) {
        fail(x, &err);
        return;
    }
    text_init(&out, REPLY_BYTES_MAX);
    kserve_put_index(&out, x, api, ready_only);
    answer(x, &out);
}

void kserve_index(struct exchange *x, const struct route_match *match)
{
    static const struct exchange_user user;

    x->user = &user;
    x->user_data = (void *)(uintptr_t)match->api;
    exchange_collect(
        x, (struct collect_limits){ .bytes_max = 64 << 10, .option = "the index's limit" },
        on_index_body);
}
