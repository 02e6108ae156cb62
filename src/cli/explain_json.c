/* explain_json.c - SPDX-License-Identifier: Apache-2.0 */
#include <yyjson.h>

#include "api/reply.h"
#include "api/route.h"
#include "base/mem.h"
#include "cli/explain.h"
#include "engine/engine.h"
#include "engine/model.h"
#include "model/config.h"
#include "model/dtype.h"
#include "repository/repository.h"

static void put_member(struct text *out, const char *name, const char *value)
{
    text_str(out, ",");
    text_json(out, slice_of(name));
    text_str(out, ":");
    if (value == NULL)
        text_str(out, "null");
    else
        text_json(out, slice_of(value));
}

static void put_tensors(struct text *out, const char *name, const struct signature_tensor *list,
                        uint32_t count)
{
    char shape[256];

    text_printf(out, ",\"%s\":[", name);
    for (uint32_t i = 0; i < count; i++) {
        text_str(out, i == 0 ? "{\"name\":" : ",{\"name\":");
        text_json(out, slice_of(list[i].name));
        text_printf(out, ",\"datatype\":\"%s\",\"shape\":%s%s", dtype_name(list[i].dtype),
                    shape_text(shape, sizeof shape, list[i].rank, list[i].dims),
                    list[i].is_optional ? ",\"optional\":true" : "");
        if (list[i].labels_count > 0)
            text_printf(out, ",\"labels\":%u", list[i].labels_count);
        text_byte(out, '}');
    }
    text_byte(out, ']');
}

static bool has_key(const char *keys, struct slice key)
{
    struct slice rest = slice_of(keys == NULL ? "" : keys);

    while (rest.size > 0) {
        size_t end = slice_find(rest, ' ');
        if (slice_eq(slice_first(rest, end), key))
            return true;
        rest = slice_skip(rest, MIN(end + 1, rest.size));
    }
    return false;
}

static const char *source_of(const struct repository_entry *entry, struct slice key)
{
    if (has_key(entry->config_keys, key))
        return entry->config_file;
    if (slice_is(key, "name"))
        return "the folder or file";
    if (slice_is(key, "backend"))
        return entry->backend_why != NULL ? entry->backend_why : "the backend";
    if (slice_is(key, "platform") || slice_is(key, "default_model_filename"))
        return "the backend";
    if (slice_is(key, "input") || slice_is(key, "output") || slice_is(key, "max_batch_size"))
        return "the model";
    return "default";
}

static void put_sources(struct text *out, const struct repository_entry *entry,
                        const struct model_config *config)
{
    yyjson_mut_obj_iter at = yyjson_mut_obj_iter_with(yyjson_mut_doc_get_root(config->doc));
    yyjson_mut_val *key;
    bool is_first = true;

    text_str(out, ",\"sources\":{");
    while ((key = yyjson_mut_obj_iter_next(&at)) != NULL) {
        struct slice name = slice_make(yyjson_mut_get_str(key), yyjson_mut_get_len(key));
        text_str(out, is_first ? "" : ",");
        is_first = false;
        text_json(out, name);
        text_byte(out, ':');
        text_json(out, slice_of(source_of(entry, name)));
    }
    text_byte(out, '}');
}

static void put_notices(struct text *out, const struct model_config *config)
{
    text_str(out, ",\"notices\":[");
    for (uint32_t i = 0; i < config->notices_count; i++) {
        text_str(out, i == 0 ? "" : ",");
        text_json(out, slice_of(config->notices[i].text));
    }
    text_byte(out, ']');
}

static void put_execution(struct text *out, struct model *model)
{
    static const char *const asked[] = {
        [EXECUTION_AUTO] = "auto", [EXECUTION_INLINE] = "inline", [EXECUTION_QUEUED] = "queued"
    };
    struct model_execution e;

    model_execution(model, &e);
    text_printf(out, ",\"execution\":{\"asked\":\"%s\",\"now\":\"%s\",\"reason\":", asked[e.asked],
                e.is_inline_now ? "inline" : "queued");
    text_json(out, slice_of(e.reason));
    text_printf(out,
                ",\"typical_us\":%.3f,\"worst_us\":%.3f,\"runs\":%llu,\"measured_bytes_max\":%llu,"
                "\"queued\":%u,\"queue_max\":%u,\"running\":%u,\"instances\":%u}",
                (double)e.typical_ns / 1e3, (double)e.worst_ns / 1e3, (unsigned long long)e.runs,
                (unsigned long long)e.measured_bytes_max, e.queued, e.queue_max, e.running,
                model_instances(model));
}

static void put_config(struct text *out, const struct model_config *config)
{
    char *json = config_json(config, false);

    text_str(out, ",\"config\":");
    text_str(out, json == NULL ? "null" : json);
    mem_free(json);
}

static void put_loaded(struct text *out, const struct repository_entry *entry)
{
    struct model *model = entry->model;
    const struct signature *signature = model_signature(model);
    const struct model_config *config = model_config(model);
    const char *described = model_describe(model);

    put_member(out, "platform", model_platform(model));
    text_printf(out, ",\"load_ms\":%.3f", (double)model_load_ns(model) / 1e6);
    put_tensors(out, "inputs", signature->inputs, signature->inputs_count);
    put_tensors(out, "outputs", signature->outputs, signature->outputs_count);
    put_execution(out, model);
    put_config(out, config);
    put_sources(out, entry, config);
    put_notices(out, config);
    text_str(out, ",\"runtime\":");
    text_str(out, described == NULL || described[0] == '\0' ? "{}" : described);
}

void explain_put(struct text *out, const struct repository_entry *entry, bool has_paths)
{
    text_str(out, "{\"name\":");
    text_json(out, slice_of(entry->name));
    put_member(out, "version", entry->version);
    put_member(out, "state", model_state_name(entry->state));
    if (entry->reason[0] != '\0')
        put_member(out, "reason", entry->reason);
    if (has_paths) {
        put_member(out, "folder", entry->folder);
        put_member(out, "path", entry->path);
    }
    put_member(out, "backend", entry->backend);
    put_member(out, "backend_why", entry->backend_why);
    put_member(out, "config_file", entry->config_file);
    put_member(out, "card_file", entry->card_file);
    if (entry->model != NULL)
        put_loaded(out, entry);
    text_byte(out, '}');
}

/* -- the route --------------------------------------------------------------------------------- */

/* The entry asked for: without a version the one a request would get, else the last. */
static const struct repository_entry *find(const struct repository_snapshot *snapshot,
                                           struct slice name, struct slice version)
{
    const struct repository_entry *found = NULL;

    for (uint32_t i = 0; i < snapshot->count; i++) {
        const struct repository_entry *entry = &snapshot->entries[i];
        if (!slice_is(name, entry->name))
            continue;
        if (version.size > 0 ? slice_is(version, entry->version)
                             : found == NULL || !found->is_default)
            found = entry;
    }
    return found;
}

static void explain(struct exchange *x, const struct route_match *match)
{
    struct slice version = match->params_count > 1 ? match->params[1] : slice_of("");
    struct repository_snapshot snapshot;
    struct model *model = NULL;
    struct err err = { 0 };
    struct text out;

    if (api_may(x, ACCESS_READ, slice_of("models"), match->params[0], &err) != OK) {
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    repository_snapshot_take(match->api->repository, &snapshot);
    const struct repository_entry *entry = find(&snapshot, match->params[0], version);
    if (entry != NULL) {
        text_init(&out, REPLY_BYTES_MAX);
        explain_put(&out, entry, false);
        api_answer_text(x, DIALECT_TYPED, 200, "application/json", NULL, 0, &out);
        text_deinit(&out);
    } else if (api_want_model(x, match->api, ACCESS_READ, slice_of("models"), &model,
                              match->params[0], version, &err) != OK) {
        /* The repository knows best why not. */
        api_fail(x, DIALECT_TYPED, 0, &err);
    } else {
        model_unref(&model); /* it was loaded just now; who asks again is answered */
        err_set(&err, E_UNAVAILABLE, "the model is being loaded; ask again");
        api_fail(x, DIALECT_TYPED, 0, &err);
    }
    repository_snapshot_give(&snapshot);
}

static const struct route routes[] = {
    { 1u << METHOD_GET, "/models/{model}/explain", explain, DIALECT_TYPED, ACCESS_READ, "models" },
    { 1u << METHOD_GET, "/models/{model}/versions/{version}/explain", explain, DIALECT_TYPED, ACCESS_READ, "models" },
};
const struct route_table explain_routes = { routes, COUNT(routes) };
