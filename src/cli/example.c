/* example.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/example.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "api/typed.h"
#include "cli/options.h"
#include "cli/print.h"
#include "contract/typed.h"
#include "contract/typed_proto.h"
#include "engine/model.h"

static bool is_plain_name(struct slice name)
{
    for (size_t i = 0; i < name.size; i++) {
        if (name.data[i] <= ' ' || name.data[i] == '=' || name.data[i] >= 0x7f)
            return false;
    }
    enum option_id id = option_find(name);
    return name.size > 0 && name.data[0] != '-' &&
           (id == OPT_IDS || !(option_rows[id].verbs & VERB_CALL));
}

/* False when this member cannot be said by an option. */
static bool put_flag(struct text *out, yyjson_val *key, yyjson_val *value)
{
    struct slice name = slice_make(yyjson_get_str(key), yyjson_get_len(key));
    char *json = yyjson_val_write(value, 0, NULL);
    struct slice words = slice_of(json == NULL ? "" : json);

    /* An object has no form as a word that the typed route would read. */
    bool fits =
        json != NULL && is_plain_name(name) && !yyjson_is_null(value) && !yyjson_is_obj(value);
    if (yyjson_is_str(value)) {
        words = slice_make(yyjson_get_str(value), yyjson_get_len(value));
        /* "@x" and "-" mean something else as a value of an option. */
        fits = fits && words.size > 0 && words.data[0] != '@' && words.data[0] != '-';
    }
    if (fits) {
        text_printf(out, " --%.*s ", SLICE_ARG(name));
        print_shell(out, words);
    }
    free(json);
    return fits;
}

void example_flags(struct text *out, struct slice body)
{
    yyjson_doc *doc = yyjson_read((const char *)body.data, body.size, 0);
    size_t before = out->size, index, count;
    bool fits = yyjson_is_obj(yyjson_doc_get_root(doc));
    yyjson_val *key, *value;

    yyjson_obj_foreach(yyjson_doc_get_root(doc), index, count, key, value)
    {
        fits = fits && put_flag(out, key, value);
    }
    yyjson_doc_free(doc);
    if (fits)
        return;
    out->size = before;
    text_str(out, " -d ");
    print_shell(out, body);
}

void example_url(struct text *out, const char *url)
{
    static const char v4[] = "://0.0.0.0:", v6[] = "://[::]:";
    struct slice all = slice_of(url), scheme = slice_first(all, slice_find(all, ':'));
    struct slice rest = slice_skip(all, scheme.size);

    if (slice_starts(rest, v4))
        text_printf(out, "%.*s://127.0.0.1:%s", SLICE_ARG(scheme), rest.data + strlen(v4));
    else if (slice_starts(rest, v6)) /* it takes IPv4 as well */
        text_printf(out, "%.*s://127.0.0.1:%s", SLICE_ARG(scheme), rest.data + strlen(v6));
    else
        text_str(out, url);
}

static void put_cacert(struct text *out, const char *option, const struct example_place *place)
{
    if (place->cacert[0] == '\0')
        return;
    text_printf(out, "%s ", option);
    print_shell(out, slice_of(place->cacert));
    text_byte(out, ' ');
}

static void put_cert(struct text *out, const char *dashes, const struct example_place *place)
{
    if (place->needs_cert)
        text_printf(out, "%scert CERT %skey KEY ", dashes, dashes);
}

/* As the shell reads it: double quotes, so that the variable is looked up. */
static void put_key(struct text *out, const struct example_place *place)
{
    if (place->needs_key)
        text_str(out, "-H \"authorization: Bearer $PENSTOCK_KEY\" ");
}

static void put_curl(struct text *out, struct slice name, struct slice body,
                     const struct example_place *place, bool is_stream)
{
    const char *url = place->url;
    char bytes[4096];
    struct text target;

    text_str(out, is_stream ? "  curl -N " : "  curl ");
    put_cacert(out, "--cacert", place);
    put_cert(out, "--", place);
    put_key(out, place);
    text_init_fixed(&target, bytes, sizeof bytes);
    if (slice_starts(slice_of(url), "unix:")) {
        text_str(out, "--unix-socket ");
        print_shell(out, slice_of(url + strlen("unix:")));
        text_byte(out, ' ');
        text_str(&target, "http://localhost");
    } else {
        example_url(&target, url);
    }
    text_str(&target, "/models/");
    print_percent(&target, name);
    text_str(&target, ":predict");
    /* Brackets of an IPv6 address are a range to curl unless it is told not to look for one. */
    if (slice_find(text_slice(&target), '[') < target.size)
        text_str(out, "-g ");
    print_shell(out, text_slice(&target));
    text_str(out, is_stream ? " -H 'accept: text/event-stream' -d " : " -d ");
    print_shell(out, body);
    text_byte(out, '\n');
}

static void put_call(struct text *out, struct slice name, struct slice body, const char *program,
                     const struct example_place *place, const char *how)
{
    const char *url = place->url;
    bool is_dashed = name.size > 0 && name.data[0] == '-';
    char bytes[4096];
    struct text server;

    text_str(out, "  ");
    print_shell(out, slice_of(program));
    text_printf(out, " call %s", how);
    if (!is_dashed)
        print_shell(out, name);
    text_init_fixed(&server, bytes, sizeof bytes);
    example_url(&server, url);
    if (!slice_is(text_slice(&server), option_rows[OPT_SERVER].fallback)) {
        text_str(out, " --server ");
        print_shell(out, text_slice(&server));
    }
    if (place->cacert[0] != '\0') {
        text_str(out, " --cacert ");
        print_shell(out, slice_of(place->cacert));
    }
    if (place->needs_cert)
        text_str(out, " --cert CERT,KEY");
    example_flags(out, body);
    if (is_dashed) {
        text_str(out, " -- ");
        print_shell(out, name);
    }
    text_byte(out, '\n');
}

void example_lines(struct text *out, struct model *model, const char *program,
                   const struct example_place *place)
{
    const struct typed_plan *plan = NULL;
    struct slice name = slice_of(model_name(model));
    struct err err;

    /* Kept with the model: its first caller finds it made. */
    if (typed_plan_of(model, &plan, &err) != OK || plan->example == NULL)
        return;
    bool is_stream = model_is_decoupled(model);
    put_curl(out, name, slice_of(plan->example), place, is_stream);
    if (!is_stream)
        put_call(out, name, slice_of(plan->example), program, place, "");
}

/* Somewhere in PATH. */
static bool is_installed(const char *program)
{
    const char *path = getenv("PATH");
    char file[4096];

    for (struct slice left = slice_of(path == NULL ? "" : path); left.size > 0;) {
        size_t size = slice_find(left, ':');
        int length = snprintf(file, sizeof file, "%.*s/%s", (int)MIN(size, (size_t)3000),
                              (const char *)left.data, program);
        if (size > 0 && length > 0 && (size_t)length < sizeof file && access(file, X_OK) == 0)
            return true;
        left = slice_skip(left, MIN(size + 1, left.size));
    }
    return false;
}

void example_grpc_lines(struct text *out, struct model *model, const char *program,
                        const struct example_place *place)
{
    const char *url = place->url;
    const struct typed_plan *plan = NULL;
    struct slice name = slice_of(model_name(model));
    struct err err;

    if (typed_plan_of(model, &plan, &err) != OK || plan->example == NULL ||
        !typed_proto_takes_example(plan))
        return;
    bool is_stream = model_is_decoupled(model);
    put_call(out, name, slice_of(plan->example), program, place,
             is_stream ? "--stream " : "--grpc ");
    bool is_tls = slice_starts(slice_of(url), "https://");
    if ((!is_tls && !slice_starts(slice_of(url), "http://")) || !is_installed("grpcurl"))
        return;
    char bytes[256];
    struct text server;
    text_init_fixed(&server, bytes, sizeof bytes);
    example_url(&server, url);
    if (text_failed(&server))
        return;
    text_str(out, is_tls ? "  grpcurl " : "  grpcurl -plaintext ");
    put_cacert(out, "-cacert", place);
    put_cert(out, "-", place);
    put_key(out, place);
    text_str(out, "-d ");
    print_shell(out, slice_of(plan->example));
    text_byte(out, ' ');
    print_shell(out, slice_skip(text_slice(&server), strlen(is_tls ? "https://" : "http://")));
    text_printf(out, " %s/%s\n", typed_proto_service(plan),
                is_stream ? "PredictStream" : "Predict");
}
