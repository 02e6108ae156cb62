/* seeing.c - SPDX-License-Identifier: Apache-2.0
 *
 * Traces listen to OpenTelemetry's own variables where no option of ours says otherwise: who runs a
 * collector has set them for everything on the machine (OpenTelemetry specification, "Environment Variable
 * Specification" and "OTLP Exporter Configuration"). Of them those are read that mean something here.
 */
#include "cli/seeing.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/log.h"
#include "cli/stop.h"
#include "io/env.h"
#include "serve/access_log.h"
#include "serve/otlp.h"
#include "serve/serve.h"

enum { WHEN_AUTO, WHEN_ALWAYS, WHEN_NEVER };
enum { ARENA_FIRST = 1024, ARENA_MAX = 256 * 1024, UUID_SIZE = 36 };

static const char traces_path[] = "/v1/traces";
enum { AUDIT_RING_BYTES = 256 << 10 };

static enum err_code open_access_log(struct seeing *seeing, const struct options *o,
                                     struct env *env, uint32_t loops_count, struct err *err)
{
    const struct option_value *query = &o->values[OPT_ACCESS_LOG_QUERY];
    char where[ERR_TEXT_MAX];
    struct access_log_settings settings = {
        .path = options_text(o, OPT_ACCESS_LOG),
        .form = (enum access_form)options_number(o, OPT_ACCESS_LOG_FORMAT),
        .sample = options_ratio(o, OPT_ACCESS_LOG_SAMPLE),
        .slow_ns = options_number(o, OPT_ACCESS_LOG_SLOW),
        .ring_bytes = options_number(o, OPT_ACCESS_LOG_BUFFER),
        .query = { query->items, query->items_count },
        .loops_count = loops_count,
    };

    if (settings.path[0] == '\0')
        return OK;
    if (access_log_open(&seeing->access_log, env, &settings, err) != OK)
        return err_wrap(err, "%s", options_origin(o, OPT_ACCESS_LOG, where, sizeof where));
    return OK;
}

static enum err_code open_audit_log(struct seeing *seeing, const struct options *o,
                                    struct env *env, uint32_t loops_count, struct err *err)
{
    char where[ERR_TEXT_MAX];
    struct access_log_settings settings = {
        .path = options_text(o, OPT_AUDIT_LOG),
        .form = ACCESS_JSON,
        .ring_bytes = AUDIT_RING_BYTES,
        .loops_count = loops_count,
        .is_audit = true,
    };

    if (settings.path[0] == '\0')
        return OK;
    if (access_log_open(&seeing->audit_log, env, &settings, err) != OK)
        return err_wrap(err, "%s", options_origin(o, OPT_AUDIT_LOG, where, sizeof where));
    return OK;
}

/* -- OpenTelemetry's environment ------------------------------------------------------------------ */

/* Empty is as not set. */
static const char *variable(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && value[0] != '\0' ? value : NULL;
}

/* That of traces wins over that of all signals. */
static const char *variable_of_traces(const char *end)
{
    char name[64];

    snprintf(name, sizeof name, "OTEL_EXPORTER_OTLP_TRACES_%s", end);
    if (variable(name) != NULL)
        return variable(name);
    snprintf(name, sizeof name, "OTEL_EXPORTER_OTLP_%s", end);
    return variable(name);
}

const char *seeing_certificate(void)
{
    return variable_of_traces("CERTIFICATE");
}

static bool is_off(void)
{
    const char *disabled = variable("OTEL_SDK_DISABLED"), *which = variable("OTEL_TRACES_EXPORTER");

    return (disabled != NULL && slice_is_nocase(slice_of(disabled), "true")) ||
           (which != NULL && strcmp(which, "none") == 0);
}

/* %20 and its like, in place. */
static struct slice decode(char *text)
{
    char *to = text;

    for (const char *at = text; *at != '\0'; at++) {
        int high = *at == '%' ? slice_hex((uint8_t)at[1]) : -1;
        int low = high >= 0 ? slice_hex((uint8_t)at[2]) : -1;
        if (low >= 0) {
            *to++ = (char)(high << 4 | low);
            at += 2;
        } else {
            *to++ = *at;
        }
    }
    *to = '\0';
    return slice_make(text, (size_t)(to - text));
}

/* The next of "a=b,c=d" (W3C Baggage, as these variables have it); false: there is none. */
static bool next_pair(struct arena *arena, struct slice *rest, char **ret_key, char **ret_value)
{
    while (rest->size > 0) {
        size_t comma = slice_find(*rest, ',');
        struct slice pair = slice_trim(slice_first(*rest, comma));
        size_t equals = slice_find(pair, '=');
        *rest = slice_skip(*rest, MIN(comma + 1, rest->size));
        if (equals == 0 || equals == pair.size)
            continue;
        struct slice key = slice_trim(slice_first(pair, equals));
        struct slice value = slice_trim(slice_skip(pair, equals + 1));
        *ret_key = arena_strndup(arena, key.data, key.size);
        *ret_value = arena_strndup(arena, value.data, value.size);
        if (*ret_key == NULL || *ret_value == NULL)
            return false;
        (void)decode(*ret_value);
        return true;
    }
    return false;
}

/* -- the exporter ----------------------------------------------------------------------------------- */

struct resource {
    struct otlp_attribute attributes[OTLP_ATTRIBUTES_MAX];
    uint32_t count;
};

/* The first of a name counts. */
static void add_attribute(struct resource *resource, const char *key, const char *value)
{
    for (uint32_t i = 0; i < resource->count; i++)
        if (slice_is(resource->attributes[i].key, key))
            return;
    if (resource->count < OTLP_ATTRIBUTES_MAX && value[0] != '\0')
        resource->attributes[resource->count++] =
            (struct otlp_attribute){ slice_of(key), slice_of(value) };
}

/* A name for this run of the program: a random UUID (RFC 9562, version 4), as the conventions advise. */
static void write_uuid(struct env *env, char out[UUID_SIZE + 1])
{
    uint8_t b[16];

    env->random(env, b, sizeof b);
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    snprintf(out, UUID_SIZE + 1, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
             b[14], b[15]);
}

static void make_resource(struct resource *resource, struct arena *arena, struct env *env)
{
    const char *name = variable("OTEL_SERVICE_NAME"), *more = variable("OTEL_RESOURCE_ATTRIBUTES");
    struct slice rest = more == NULL ? slice_make(NULL, 0) : slice_of(more);
    char *key, *value, *uuid = arena_alloc(arena, UUID_SIZE + 1);
    char *host = arena_zalloc(arena, 256);

    if (name != NULL)
        add_attribute(resource, "service.name", name);
    while (next_pair(arena, &rest, &key, &value))
        add_attribute(resource, key, value);
    add_attribute(resource, "service.name", "penstock");
    add_attribute(resource, "service.version", PENSTOCK_VERSION);
    if (uuid != NULL) {
        write_uuid(env, uuid);
        add_attribute(resource, "service.instance.id", uuid);
    }
    if (host != NULL && gethostname(host, 255) == 0)
        add_attribute(resource, "host.name", host);
}

/* "http://host:4318/base" is an origin and a target. `is_whole`: the path is all that is asked for. */
static enum err_code split_url(struct arena *arena, const char *url, bool is_whole,
                               const char **ret_origin, const char **ret_target, struct err *err)
{
    struct slice text = slice_of(url), path = slice_make(NULL, 0);
    const char *scheme = strstr(url, "://");
    size_t at = scheme == NULL ? 0 : (size_t)(scheme - url) + 3;

    if (!slice_starts(text, "unix:")) {
        path = slice_skip(text, at);
        path = slice_skip(path, slice_find(path, '/'));
    }
    *ret_origin = arena_strndup(arena, url, text.size - path.size);
    while (!is_whole && path.size > 0 && path.data[path.size - 1] == '/')
        path.size--;
    bool has_end = is_whole || slice_ends(path, traces_path);
    *ret_target = is_whole && path.size == 0
                      ? "/"
                      : arena_printf(arena, "%.*s%s", SLICE_ARG(path), has_end ? "" : traces_path);
    return *ret_origin != NULL && *ret_target != NULL
               ? OK
               : err_set(err, E_EXHAUSTED, "no memory for the URL of the collector");
}

static enum err_code add_header(struct otlp_settings *settings, struct client_header *headers,
                                char *name, const char *value, const char *where, struct err *err)
{
    if (settings->headers_count == OTLP_HEADERS_MAX)
        return err_set(err, E_INVALID, "%s: more than %d headers", where, OTLP_HEADERS_MAX);
    for (char *c = name; *c != '\0'; c++) {
        *c = *c >= 'A' && *c <= 'Z' ? (char)(*c | 0x20) : *c;
        if (!((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || strchr("-_.", *c) != NULL))
            return err_set(err, E_INVALID, "%s: '%.60s' is no name of a header", where, name);
    }
    for (const char *c = value; *c != '\0'; c++)
        if ((uint8_t)*c < 0x20 || *c == 0x7f) /* the value may be a secret: it is not shown */
            return err_set(err, E_INVALID, "%s: the value of '%.60s' has a control byte", where,
                           name);
    headers[settings->headers_count++] = (struct client_header){ name, value };
    return OK;
}

static enum err_code read_headers(struct arena *arena, const struct options *o,
                                  struct otlp_settings *settings, struct err *err)
{
    const struct option_value *given = &o->values[OPT_OTLP_HEADER];
    const char *variables = variable_of_traces("HEADERS");
    struct slice rest = variables == NULL ? slice_make(NULL, 0) : slice_of(variables);
    struct client_header *headers =
        arena_alloc(arena, OTLP_HEADERS_MAX * sizeof(struct client_header));
    char where[ERR_TEXT_MAX], *key, *value;

    if (headers == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the headers of the collector");
    options_origin(o, OPT_OTLP_HEADER, where, sizeof where);
    for (uint32_t i = 0; i < given->items_count; i++) {
        struct slice pair = slice_of(given->items[i]);
        size_t equals = slice_find(pair, '=');
        if (equals == 0 || equals == pair.size)
            return err_set(err, E_INVALID, "%s: it is NAME=VALUE", where);
        key = arena_strndup(arena, pair.data, equals);
        value = arena_strndup(arena, pair.data + equals + 1, pair.size - equals - 1);
        if (key == NULL || value == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for the headers of the collector");
        TRY(add_header(settings, headers, key, value, where, err));
    }
    while (given->items_count == 0 && next_pair(arena, &rest, &key, &value))
        TRY(add_header(settings, headers, key, value, "OTEL_EXPORTER_OTLP_HEADERS", err));
    settings->headers = headers;
    return OK;
}

/* What no option says and a variable does. */
static void read_variables(const struct options *o, struct otlp_settings *settings)
{
    const char *timeout = variable_of_traces("TIMEOUT"), *how = variable_of_traces("COMPRESSION");
    const char *protocol = variable_of_traces("PROTOCOL");
    uint64_t ms;

    if (!options_is_set(o, OPT_OTLP_TIMEOUT) && timeout != NULL &&
        slice_to_u64(slice_of(timeout), &ms) && ms > 0 && ms <= 300000)
        settings->timeout_ns = ms * 1000000;
    if (!options_is_set(o, OPT_OTLP_COMPRESSION) && how != NULL)
        settings->has_gzip = strcmp(how, "gzip") == 0;
    if (settings->tls.ca[0] == '\0' && seeing_certificate() != NULL)
        settings->tls.ca = seeing_certificate();
    if (protocol != NULL && strcmp(protocol, "http/protobuf") != 0)
        log_warn("OTEL_EXPORTER_OTLP_PROTOCOL is '%.40s': spans are sent as http/protobuf, which "
                 "is all that is spoken here",
                 protocol);
}

static enum err_code open_otlp(struct seeing *seeing, const struct options *o, struct env *env,
                               uint32_t loops_count, struct err *err)
{
    const char *url = options_text(o, OPT_OTLP);
    const char *whole = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    const char *base = variable("OTEL_EXPORTER_OTLP_ENDPOINT");
    char where[ERR_TEXT_MAX] = "OTEL_EXPORTER_OTLP_ENDPOINT";
    struct resource resource = { .count = 0 };
    struct otlp_settings settings = {
        .version = PENSTOCK_VERSION,
        .timeout_ns = options_number(o, OPT_OTLP_TIMEOUT),
        .ring_bytes = options_number(o, OPT_OTLP_BUFFER),
        .has_gzip = options_number(o, OPT_OTLP_COMPRESSION) != 0,
        .loops_count = loops_count,
        .tls = { .ca = options_text(o, OPT_CACERT) },
    };
    bool is_ours = url[0] != '\0';

    if (!is_ours && (is_off() || (whole == NULL && base == NULL)))
        return OK;
    seeing->arena = arena_new(ARENA_FIRST, ARENA_MAX);
    if (seeing->arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the exporter of spans");
    if (is_ours)
        options_origin(o, OPT_OTLP, where, sizeof where);
    TRY(split_url(seeing->arena, is_ours ? url : whole != NULL ? whole : base,
                  !is_ours && whole != NULL, &settings.url, &settings.target, err));
    TRY(read_headers(seeing->arena, o, &settings, err));
    read_variables(o, &settings);
    make_resource(&resource, seeing->arena, env);
    settings.resource = resource.attributes;
    settings.resource_count = resource.count;
    if (otlp_open(&seeing->otlp, env, &settings, err) != OK)
        return err_wrap(err, "%s", where);
    log_info("spans are sent to %s%s", settings.url, settings.target);
    return OK;
}

/* --trace-sample, or what OTEL_TRACES_SAMPLER says; a caller's own decision stands in any case. */
static double ratio_of(const struct options *o)
{
    const char *sampler = variable("OTEL_TRACES_SAMPLER"), *arg = variable("OTEL_TRACES_SAMPLER_ARG");
    uint64_t parts;

    if (options_is_set(o, OPT_TRACE_SAMPLE) || sampler == NULL)
        return options_ratio(o, OPT_TRACE_SAMPLE);
    if (strstr(sampler, "always_off") != NULL)
        return 0;
    if (strstr(sampler, "traceidratio") != NULL && arg != NULL &&
        ratio_parse(slice_of(arg), &parts))
        return (double)parts / (double)RATIO_ONE;
    return 1;
}

/* -- all of it --------------------------------------------------------------------------------------- */

enum err_code seeing_open(struct seeing *seeing, const struct options *o, struct env *env,
                          struct metrics *metrics, uint32_t loops_count,
                          struct observe_rules *ret_rules, struct err *err)
{
    uint64_t ids = options_number(o, OPT_REQUEST_ID);

    TRY(open_access_log(seeing, o, env, loops_count, err));
    if (seeing->access_log != NULL)
        TRY(access_log_register(seeing->access_log, metrics, err));
    TRY(open_otlp(seeing, o, env, loops_count, err));
    if (seeing->otlp != NULL)
        TRY(otlp_register(seeing->otlp, metrics, err));
    TRY(open_audit_log(seeing, o, env, loops_count, err));
    if (seeing->audit_log != NULL)
        TRY(access_log_register(seeing->audit_log, metrics, err));
    *ret_rules = (struct observe_rules){
        .has_traces = seeing->otlp != NULL,
        .trace_ratio = ratio_of(o),
        .makes_request_ids = ids == WHEN_ALWAYS || (ids == WHEN_AUTO && seeing->access_log != NULL),
        .ignores_request_ids = ids == WHEN_NEVER,
        .answers_traces = options_flag(o, OPT_TRACE_RESPONSE),
    };
    return OK;
}

static enum err_code reopen(void *context, struct err *err UNUSED)
{
    access_log_reopen(context);
    return OK;
}

enum err_code seeing_watch(struct seeing *seeing, struct serve *serve, struct err *err)
{
    if (seeing->access_log != NULL) {
        struct observer observer = access_log_observer(seeing->access_log);
        TRY(observer_add(serve, &observer, err));
        stop_on_reload(reopen, seeing->access_log);
    }
    if (seeing->otlp != NULL) {
        struct observer observer = otlp_observer(seeing->otlp);
        TRY(observer_add(serve, &observer, err));
    }
    if (seeing->audit_log != NULL) {
        struct observer observer = access_log_observer(seeing->audit_log);
        TRY(observer_add(serve, &observer, err));
        stop_on_reload(reopen, seeing->audit_log);
    }
    return OK;
}

void seeing_close(struct seeing *seeing)
{
    access_log_close(&seeing->access_log);
    otlp_close(&seeing->otlp);
    arena_free(&seeing->arena);
    access_log_close(&seeing->audit_log);
}
