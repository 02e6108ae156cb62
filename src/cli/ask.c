/* ask.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/ask.h"

#include <yyjson.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/options.h"
#include "io/env.h"
#include "telemetry/trace.h"

enum { JSON_BYTES_MAX = 256 << 20, KEY_BYTES_MAX = 65536 };

/* The key goes where everybody on the way can read it. */
static void warn_of_plain(const struct options *options)
{
    struct url url;
    struct err err;

    if (url_parse(&url, slice_of(options_text(options, OPT_SERVER)), &err) != OK || url.is_unix ||
        strncmp(options_text(options, OPT_SERVER), "https:", 6) == 0 ||
        strcmp(url.host, "localhost") == 0 || strcmp(url.host, "::1") == 0 ||
        strncmp(url.host, "127.", 4) == 0)
        return;
    log_warn("the key crosses the network to %s unencrypted: https hides it", url.shown);
}

/* What a file or the environment has wrong is not the command line's: print.h, EXIT_USAGE. */
static enum err_code blame(const struct options *options, enum option_id id, struct err *err)
{
    if (err->code == E_INVALID && options->values[id].source != SOURCE_ARGV)
        err->code = E_PRECONDITION;
    return err->code;
}

static enum err_code blame_file(struct err *err)
{
    if (err->code == E_INVALID)
        err->code = E_PRECONDITION;
    return err->code;
}

enum err_code ask_authorization(const char **ret, const struct options *options, struct err *err)
{
    static char value[KEY_BYTES_MAX + sizeof "Bearer "];
    const char *given = options_text(options, OPT_KEY);
    CLEANUP(buf_unref) struct buf *file = NULL;
    struct slice key = slice_of(given);
    enum err_code code = OK;
    char where[ERR_TEXT_MAX];

    *ret = NULL;
    if (given[0] == '\0')
        return OK;
    options_origin(options, OPT_KEY, where, sizeof where);
    if (given[0] == '@') {
        if (file_read(&file, NULL, given + 1, KEY_BYTES_MAX, err) != OK)
            return err_wrap(err, "%s", where);
        key = buf_bytes(file);
    }
    while (key.size > 0 && key.data[key.size - 1] <= ' ')
        key.size--;
    /* What is wrong with it is said without showing it. */
    if (key.size == 0 || key.size > KEY_BYTES_MAX)
        code = err_set(err, E_INVALID, "%s: a key has 1 to %d bytes", where, KEY_BYTES_MAX);
    for (size_t i = 0; i < key.size && code == OK; i++)
        if (key.data[i] <= ' ' || key.data[i] >= 0x7f)
            code = err_set(err, E_INVALID,
                           "%s: the key holds a blank or something else that no key holds", where);
    if (code != OK)
        return given[0] == '@' ? blame_file(err) : blame(options, OPT_KEY, err);
    snprintf(value, sizeof value, "Bearer %.*s", SLICE_ARG(key));
    *ret = value;
    warn_of_plain(options);
    return OK;
}

enum err_code ask_tls(struct tls_client_settings *ret, const struct options *options,
                      struct err *err)
{
    static char cert[PATH_MAX], key[PATH_MAX];
    struct slice both = slice_of(options_text(options, OPT_CERT));
    struct slice first = slice_first(both, slice_find(both, ','));
    struct slice second = slice_skip(both, MIN(first.size + 1, both.size));
    char where[ERR_TEXT_MAX];

    if (first.size >= sizeof cert || second.size >= sizeof key) {
        err_set(err, E_INVALID, "%s: a path of more than %d bytes",
                options_origin(options, OPT_CERT, where, sizeof where), PATH_MAX - 1);
        return blame(options, OPT_CERT, err);
    }
    snprintf(cert, sizeof cert, "%.*s", SLICE_ARG(first));
    snprintf(key, sizeof key, "%.*s", SLICE_ARG(second));
    *ret = (struct tls_client_settings){
        .ca = options_text(options, OPT_CACERT),
        .cert = cert,
        .key = key,
        .is_insecure = options_flag(options, OPT_INSECURE),
    };
    if (ret->is_insecure)
        log_warn("--insecure: whoever is on the way to %s may read and change everything",
                 options_text(options, OPT_SERVER));
    return OK;
}

enum err_code ask_server(const struct options *options, struct err *err)
{
    char where[ERR_TEXT_MAX];
    struct url url;

    if (url_parse(&url, slice_of(options_text(options, OPT_SERVER)), err) == OK)
        return OK;
    err_wrap(err, "%s", options_origin(options, OPT_SERVER, where, sizeof where));
    return blame(options, OPT_SERVER, err);
}

enum err_code ask_open_as(struct client **ret, const struct options *options, bool http2,
                          struct client_tap *tap, struct err *err)
{
    struct client_settings settings = { .url = options_text(options, OPT_SERVER),
                                        .timeout_ns = options_number(options, OPT_TIMEOUT),
                                        .http2 = http2,
                                        .tap = tap };

    TRY(ask_server(options, err));
    TRY(ask_authorization(&settings.authorization, options, err));
    TRY(ask_tls(&settings.tls, options, err));
    if (client_new(ret, &settings, err) != OK)
        return blame_file(err); /* certificates: they say which */
    return OK;
}

enum err_code ask_open(struct client **ret, const struct options *options, struct err *err)
{
    return ask_open_as(ret, options, false, NULL, err);
}

enum err_code ask_advise(enum err_code code, struct err *err)
{
    struct err first = *err;

    if (code == E_UNAVAILABLE && strncmp(first.text, "nobody listens", 14) == 0)
        return err_set(err, code, "%s: start `penstock serve`, or name the server with --server",
                       first.text);
    if (code == E_DEADLINE)
        return err_set(err, code, "%s (--timeout)", first.text);
    if (code == E_UNAVAILABLE && strstr(first.text, "is not accepted") != NULL)
        return err_set(err, code,
                       "%s: --cacert FILE says whom to trust (a server with --tls auto prints the "
                       "file when it starts)",
                       first.text);
    if (code == E_UNAVAILABLE && strstr(first.text, "a certificate of its callers") != NULL)
        return err_set(err, code, "%s: --cert CERT,KEY shows one", first.text);
    if (code == E_UNAVAILABLE && strstr(first.text, "our certificate") != NULL)
        return err_set(err, code, "%s: it is the one of --cert", first.text);
    return code;
}

/* -- the trace --------------------------------------------------------------------------------- */

static char traceparent[TRACEPARENT_MAX]; /* empty: none; set by verb_call before it asks */

void ask_begin_trace(bool says)
{
    struct trace_context trace = { .is_sampled = false };
    const char *given = getenv("TRACEPARENT");
    struct env *env = env_real();

    if (given == NULL || !trace_parse(&trace, slice_of(given))) {
        trace.is_sampled = true;
        do
            env->random(env, trace.trace_id, sizeof trace.trace_id);
        while (!trace_is_set(&trace));
    }
    do
        env->random(env, trace.span_id, sizeof trace.span_id);
    while (span_is_zero(trace.span_id));
    trace_write(&trace, traceparent);
    if (says)
        fprintf(stderr, "trace %.*s\n", 2 * TRACE_ID_BYTES, traceparent + 3);
}

const char *ask_traceparent(void)
{
    return traceparent[0] != '\0' ? traceparent : NULL;
}

/* -- asking ------------------------------------------------------------------------------------ */

enum err_code ask(struct client *client, const char *method, const char *target,
                  const char *content_type, struct slice body, struct answer **ret, struct err *err)
{
    struct client_header headers[3] = { { "accept", "application/json" } };
    uint32_t count = 1;

    if (content_type != NULL)
        headers[count++] = (struct client_header){ "content-type", content_type };
    if (ask_traceparent() != NULL)
        headers[count++] = (struct client_header){ "traceparent", ask_traceparent() };
    struct client_request request = { .method = method,
                                      .target = target,
                                      .headers = headers,
                                      .headers_count = count,
                                      .body = body };
    return ask_advise(client_call(client, &request, ret, err) == OK ? OK : blame_file(err), err);
}

/* The text of the error in a document, or NULL. */
static const char *error_text(yyjson_val *root)
{
    yyjson_val *error = yyjson_obj_get(root, "error");

    if (yyjson_is_obj(error))
        error = yyjson_obj_get(error, "message");
    return yyjson_get_str(error);
}

enum err_code ask_refusal(const struct answer *answer, struct err *err)
{
    yyjson_doc *doc = yyjson_read((const char *)answer->body.data, answer->body.size, 0);
    const char *text = error_text(yyjson_doc_get_root(doc));
    struct slice line = slice_trim(answer->body); /* of a text; a page is for browsers */
    enum err_code code = answer->status == 404 ? E_NOT_FOUND : E_UNKNOWN;

    if (text != NULL && text[0] != '\0')
        err_set(err, code, "%s", text);
    else if (doc == NULL && slice_starts(line, "<"))
        err_set(err, code, "the server answered with status %u and a page: is it a penstock?",
                answer->status);
    else if (doc == NULL && line.size > 0)
        err_set(err, code, "status %u: %.*s", answer->status,
                SLICE_ARG(slice_first(slice_trim(slice_first(line, slice_find(line, '\n'))), 500)));
    else
        err_set(err, code, "the server answered with status %u", answer->status);
    yyjson_doc_free(doc);
    return code;
}

enum err_code ask_json(struct client *client, const char *method, const char *target,
                       struct slice body, struct yyjson_doc **ret, struct err *err)
{
    CLEANUP(answer_free) struct answer *answer = NULL;
    yyjson_read_err problem;

    TRY(ask(client, method, target, body.size > 0 ? "application/json" : NULL, body, &answer, err));
    if (answer->status != 200)
        return ask_refusal(answer, err);
    if (answer->body.size > JSON_BYTES_MAX)
        return err_set(err, E_RANGE, "%s: the answer is larger than %d bytes", target,
                       JSON_BYTES_MAX);
    *ret = yyjson_read_opts((char *)(uintptr_t)answer->body.data, answer->body.size, 0, NULL,
                            &problem);
    if (*ret == NULL)
        return err_set(err, E_DATA_LOSS,
                       "%s: the answer is not JSON (byte %zu: %s); is %s a penstock?", target,
                       problem.pos, problem.msg, client_url(client)->shown);
    return OK;
}
