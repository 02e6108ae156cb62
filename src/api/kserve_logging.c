/* kserve_logging.c - Triton's logging extension: what the server's log says, read and changed while it runs
 * (/v2/logging and LogSettings). SPDX-License-Identifier: Apache-2.0
 *
 * Both transports have the same settings; over gRPC they pass through protobuf's JSON mapping, in which each
 * value stands under the name of its kind. All of a change holds or none.
 */
#include "api/grpc.h"
#include "api/kserve.h"
#include "api/reply.h"
#include "base/log.h"
#include "codec/proto.h"
#include "codec/tensor_json.h"
#include "exchange/collect.h"

enum { BODY_MAX = 64 << 10, LEVELS = LOG_DEBUG };

/* By enum log_level; debug is what Triton calls verbose. */
static const char *const switches[LEVELS] = { "log_error", "log_warning", "log_info" };

struct change {
    bool has[LEVELS], is_on[LEVELS];
    bool has_verbose, has_format;
    uint64_t verbose;
    bool is_json;
};

/* -- reading ------------------------------------------------------------------------------------------ */

static enum err_code read_format(struct change *to, struct json_cursor *c, struct arena *arena,
                                 struct err *err)
{
    struct slice value;

    TRY(json_string(c, arena, &value, "log_format", err));
    to->is_json = slice_is(value, "JSON");
    to->has_format = true;
    if (!to->is_json && !slice_is(value, "ISO8601"))
        return err_set(err, E_INVALID,
                       "log_format is '%.*s'; this server has ISO8601 (lines for people) and JSON",
                       SLICE_ARG(slice_first(value, 40)));
    return OK;
}

static enum err_code read_value(struct change *to, struct json_cursor *c, struct slice key,
                                struct arena *arena, struct err *err)
{
    for (unsigned i = 0; i < LEVELS; i++)
        if (slice_is(key, switches[i])) {
            to->has[i] = true;
            return json_bool(c, &to->is_on[i], switches[i], err);
        }
    if (slice_is(key, "log_verbose_level")) {
        to->has_verbose = true;
        return json_u64(c, &to->verbose, "log_verbose_level", err);
    }
    if (slice_is(key, "log_format"))
        return read_format(to, c, arena, err);
    if (slice_is(key, "log_file"))
        return err_set(err, E_UNIMPLEMENTED,
                       "log_file can not be changed over the network: the log is standard error");
    return err_set(err, E_INVALID,
                   "there is no log setting '%.*s'; there are log_info, log_warning, log_error, "
                   "log_verbose_level and log_format",
                   SLICE_ARG(slice_first(key, 80)));
}

/* {"boolParam":true}: the one member is the value. */
static enum err_code read_wrapped(struct change *to, struct json_cursor *c, struct slice key,
                                  struct arena *arena, struct err *err)
{
    struct slice kind;
    bool more;

    TRY(json_take(c, '{', "", err));
    TRY(json_more(c, '}', true, &more, "", err));
    if (!more)
        return err_set(err, E_INVALID,
                       "log setting '%.*s' has no value; it takes one of bool_param, uint32_param "
                       "and string_param",
                       SLICE_ARG(slice_first(key, 80)));
    TRY(json_string(c, arena, &kind, "", err));
    TRY(json_take(c, ':', "", err));
    TRY(read_value(to, c, key, arena, err));
    return json_take(c, '}', "", err);
}

static enum err_code read_settings(struct change *to, struct json_cursor *c, bool is_wrapped,
                                   struct arena *arena, struct err *err)
{
    TRY(json_take(c, '{', "", err));
    for (bool is_first = true, more;; is_first = false) {
        struct slice key;
        TRY(json_more(c, '}', is_first, &more, "", err));
        if (!more)
            return OK;
        TRY(json_string(c, arena, &key, "", err));
        TRY(json_take(c, ':', "", err));
        TRY((is_wrapped ? read_wrapped : read_value)(to, c, key, arena, err));
    }
}

static void apply(const struct change *change)
{
    for (unsigned i = 0; i < LEVELS; i++)
        if (change->has[i])
            log_set_on((enum log_level)i, change->is_on[i]);
    if (change->has_verbose)
        log_set_on(LOG_DEBUG, change->verbose > 0);
    if (change->has_format)
        log_set_json(change->is_json);
    if (log_is_on(LOG_INFO))
        log_info("the log's settings were changed over the wire");
}

/* -- writing ------------------------------------------------------------------------------------------ */

static void put_settings(struct text *out, bool is_wrapped)
{
    static const char *const kinds[] = { "bool_param", "uint32_param", "string_param" };
    const char *verbose = log_is_on(LOG_DEBUG) ? "1" : "0";
    const struct {
        const char *name;
        unsigned kind;
        const char *value;
    } settings[] = {
        { "log_file", 2, "\"\"" },
        { "log_info", 0, log_is_on(LOG_INFO) ? "true" : "false" },
        { "log_warning", 0, log_is_on(LOG_WARN) ? "true" : "false" },
        { "log_error", 0, log_is_on(LOG_ERROR) ? "true" : "false" },
        { "log_verbose_level", 1, verbose },
        { "log_format", 2, log_is_json() ? "\"JSON\"" : "\"ISO8601\"" },
    };

    for (size_t i = 0; i < COUNT(settings); i++) {
        text_printf(out, "%s\"%s\":", i == 0 ? "{" : ",", settings[i].name);
        if (is_wrapped)
            text_printf(out, "{\"%s\":%s}", kinds[settings[i].kind], settings[i].value);
        else
            text_str(out, settings[i].value);
    }
    text_byte(out, '}');
}

/* -- REST --------------------------------------------------------------------------------------------- */

void kserve_logging(struct exchange *x, const struct route_match *match UNUSED)
{
    struct text out;

    text_init(&out, BODY_MAX);
    put_settings(&out, false);
    api_answer_text(x, DIALECT_KSERVE, 200, "application/json", NULL, 0, &out);
}

static void on_body(struct exchange *x, const struct collect_result *body, const struct err *failed)
{
    struct change change = { 0 };
    struct err err = { 0 };

    if (failed != NULL) {
        api_fail_body(x, DIALECT_KSERVE, failed);
        return;
    }
    struct json_cursor c = { body->body.data, body->body.data, body->body.data };
    if (body->body.size != 0)
        c.end += body->body.size;
    if (read_settings(&change, &c, false, x->arena, &err) != OK || json_end(&c, &err) != OK) {
        api_fail(x, DIALECT_KSERVE, 0, &err);
        return;
    }
    apply(&change);
    kserve_logging(x, NULL);
}

void kserve_set_logging(struct exchange *x, const struct route_match *match UNUSED)
{
    static const struct exchange_user user;

    x->user = &user;
    exchange_collect(
        x, (struct collect_limits){ .bytes_max = BODY_MAX, .option = "the limit of log settings" },
        on_body);
}

/* -- gRPC --------------------------------------------------------------------------------------------- */

/* {"settings":{...}} of a LogSettingsRequest; nothing of an empty one. */
static enum err_code read_message(struct change *to, bool *ret_is_change, struct slice message,
                                  struct text *json, struct arena *arena, struct err *err)
{
    CLEANUP(proto_arena_free) struct proto_arena *memory = proto_arena_new();
    const struct proto_schema *schema = proto_builtin();
    struct proto_message *decoded;
    struct slice key;
    bool more;

    if (memory == NULL || schema == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the request; retry later");
    TRY(proto_decode(&decoded, memory, proto_type_find(schema, "inference.LogSettingsRequest"),
                     message, err));
    TRY(proto_to_json(decoded, schema, json, err));
    struct slice text = text_slice(json);
    struct json_cursor c = { text.data, text.data, text.data + text.size };
    TRY(json_take(&c, '{', "", err));
    TRY(json_more(&c, '}', true, &more, "", err));
    *ret_is_change = more;
    if (!more)
        return OK;
    TRY(json_string(&c, arena, &key, "", err));
    TRY(json_take(&c, ':', "", err));
    return read_settings(to, &c, true, arena, err);
}

static void log_settings(struct call *call, const struct api *api UNUSED, struct slice message)
{
    struct change change = { 0 };
    struct err err = { 0 };
    struct text text;
    bool is_change = false;

    text_init(&text, BODY_MAX);
    enum err_code code =
        message.size > BODY_MAX / 4
            ? err_set(&err, E_RANGE, "log settings have at most %d bytes", BODY_MAX / 4)
            : read_message(&change, &is_change, message, &text, call->x->arena, &err);
    text_deinit(&text);
    if (code == OK && is_change)
        code = api_may(call->x, ACCESS_ADMIN, slice_of("v2"), slice_make("", 0), &err);
    if (code != OK) {
        grpc_end(call, &err, is_change ? NULL : "settings");
        return;
    }
    if (is_change)
        apply(&change);
    text_init(&text, BODY_MAX);
    text_str(&text, "{\"settings\":");
    put_settings(&text, true);
    text_byte(&text, '}');
    kserve_grpc_answer_json(call, "inference.LogSettingsResponse", &text);
}

void kserve_grpc_log_settings(struct call *call, const struct api *api)
{
    grpc_unary(call, api, log_settings);
}
