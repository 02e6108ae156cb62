/* models.c - the verb models: what a server has, by the index every KServe server answers, and each
 * model's tensors. SPDX-License-Identifier: Apache-2.0 */
#include <unistd.h>
#include <yyjson.h>

#include "base/mem.h"
#include "cli/ask.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/verbs.h"
#include "model/nearest.h"

enum { PRINT_BYTES_MAX = 16 << 20, TARGET_BYTES_MAX = 2048 };

static void free_doc(struct yyjson_doc **doc)
{
    yyjson_doc_free(*doc);
}

static struct slice str_of(yyjson_val *object, const char *key)
{
    yyjson_val *value = yyjson_obj_get(object, key);
    const char *text = yyjson_get_str(value);

    return text == NULL ? slice_of("") : slice_make(text, yyjson_get_len(value));
}

static bool is_ready(yyjson_val *row)
{
    return slice_is(str_of(row, "state"), "READY");
}

static bool is_asked_for(const struct options *o, struct slice name)
{
    for (uint32_t i = 0; i < o->arguments_count; i++) {
        if (slice_is(name, o->arguments[i]))
            return true;
    }
    return o->arguments_count == 0;
}

/* A name on the command line that the server does not have. */
static enum err_code check_names(const struct options *o, yyjson_val *index, struct err *err)
{
    for (uint32_t i = 0; i < o->arguments_count; i++) {
        struct nearest nearest = nearest_to(slice_of(o->arguments[i]));
        bool is_there = false;
        size_t at, count;
        yyjson_val *row;
        yyjson_arr_foreach(index, at, count, row)
        {
            is_there |= slice_is(str_of(row, "name"), o->arguments[i]);
            nearest_offer(&nearest, (const char *)str_of(row, "name").data);
        }
        const char *best = nearest_best(&nearest);
        if (!is_there)
            return err_set(err, E_NOT_FOUND, "the server has no model '%s'%s%s%s", o->arguments[i],
                           best != NULL ? "; did you mean '" : "", best != NULL ? best : "",
                           best != NULL ? "'?" : "");
    }
    return OK;
}

static void put_tensors(struct text *out, yyjson_val *list)
{
    size_t at, count;
    yyjson_val *tensor;

    yyjson_arr_foreach(list, at, count, tensor)
    {
        text_str(out, at == 0 ? "" : ", ");
        print_escaped(out, str_of(tensor, "name"), false);
        text_byte(out, ' ');
        print_escaped(out, str_of(tensor, "datatype"), false);
        char *shape = yyjson_val_write(yyjson_obj_get(tensor, "shape"), 0, NULL);
        text_printf(out, " %s", shape == NULL ? "" : shape);
        mem_free(shape);
    }
}

/* "input FP32 [-1,4] -> label INT64 [-1]", from the model's metadata. */
static void put_signature(struct text *out, struct client *client, yyjson_val *row)
{
    CLEANUP(free_doc) struct yyjson_doc *doc = NULL;
    char bytes[TARGET_BYTES_MAX];
    struct text target;
    struct err err;

    text_init_fixed(&target, bytes, sizeof bytes);
    text_str(&target, "/v2/models/");
    print_percent(&target, str_of(row, "name"));
    text_str(&target, "/versions/");
    print_percent(&target, str_of(row, "version"));
    if (ask_json(client, "GET", text_cstr(&target), slice_of(""), &doc, &err) != OK) {
        print_escaped(out, slice_of(err.text), false);
        return;
    }
    put_tensors(out, yyjson_obj_get(yyjson_doc_get_root(doc), "inputs"));
    text_str(out, " -> ");
    put_tensors(out, yyjson_obj_get(yyjson_doc_get_root(doc), "outputs"));
}

static void put_row(struct text *out, struct client *client, yyjson_val *row, uint32_t width,
                    bool has_colour)
{
    struct slice version = str_of(row, "version"), state = str_of(row, "state");
    char bytes[1024];
    struct text name;

    text_init_fixed(&name, bytes, sizeof bytes);
    print_escaped(&name, str_of(row, "name"), false);
    print_padded(out, text_slice(&name), width);
    text_str(out, "  ");
    char number[64];
    struct text shown_version;
    text_init_fixed(&shown_version, number, sizeof number);
    print_escaped(&shown_version, version.size > 0 ? slice_first(version, 12) : slice_of("-"), false);
    print_padded(out, text_slice(&shown_version), 3);
    text_str(out, !has_colour ? "  " : is_ready(row) ? "  \033[32m" : "  \033[31m");
    char shown[32];
    struct text word;
    text_init_fixed(&word, shown, sizeof shown);
    print_escaped(&word, slice_first(state, 20), false);
    print_padded(out, text_slice(&word), 11);
    text_str(out, has_colour ? "\033[0m  " : "  ");
    if (is_ready(row))
        put_signature(out, client, row);
    else
        print_escaped(out, str_of(row, "reason"), false);
    text_byte(out, '\n');
}

static void put_table(struct text *out, struct client *client, const struct options *o,
                      yyjson_val *index)
{
    bool has_colour = print_has_colour(STDOUT_FILENO);
    uint32_t width = 5;
    size_t at, count;
    yyjson_val *row;

    yyjson_arr_foreach(index, at, count, row)
    {
        width = MIN(MAX(width, print_width(str_of(row, "name"))), 40u);
    }
    print_padded(out, slice_of("model"), width);
    text_str(out, "  ver  state        inputs -> outputs, or why not\n");
    yyjson_arr_foreach(index, at, count, row)
    {
        if (is_asked_for(o, str_of(row, "name")))
            put_row(out, client, row, width, has_colour);
    }
}

static void put_json(struct text *out, const struct options *o, yyjson_val *index)
{
    bool is_first = true;
    size_t at, count;
    yyjson_val *row;

    text_byte(out, '[');
    yyjson_arr_foreach(index, at, count, row)
    {
        if (!is_asked_for(o, str_of(row, "name")))
            continue;
        char *json = yyjson_val_write(row, 0, NULL);
        text_str(out, is_first ? "" : ",");
        text_str(out, json == NULL ? "null" : json);
        mem_free(json);
        is_first = false;
    }
    text_str(out, "]\n");
}

/* Yes when a version of every model asked for is ready; with no names, when each row is. */
static bool answer_ready(struct text *out, const struct options *o, yyjson_val *index)
{
    bool all = true;
    size_t at, count;
    yyjson_val *row;

    for (uint32_t i = 0; i < o->arguments_count; i++) {
        bool one = false;
        yyjson_arr_foreach(index, at, count, row)
        {
            one |= slice_is(str_of(row, "name"), o->arguments[i]) && is_ready(row);
        }
        text_printf(out, "%s: ", o->arguments[i]);
        text_str(out, one ? "ready\n" : "not ready\n");
        all &= one;
    }
    if (o->arguments_count > 0)
        return all;
    yyjson_arr_foreach(index, at, count, row)
    {
        if (is_ready(row))
            continue;
        print_escaped(out, str_of(row, "name"), false);
        text_str(out, ": not ready\n");
        all = false;
    }
    if (all)
        text_str(out, "ready\n");
    return all;
}

/* Who may not see models may still ask whether the server is ready: what a probe in a container does, which
 * has no key. */
static enum err_code ask_ready(struct client *client, struct text *out, bool *ret_yes,
                               struct err *err)
{
    CLEANUP(answer_free) struct answer *answer = NULL;

    TRY(ask(client, "GET", "/readyz", NULL, slice_of(""), &answer, err));
    if (answer->status != 200 && answer->status != 503)
        return ask_refusal(answer, err);
    *ret_yes = answer->status == 200;
    text_str(out, *ret_yes ? "ready\n" : "not ready\n");
    return OK;
}

/* The server's index of models, or OK without one where only who is ready was asked and is answered. */
static enum err_code ask_index(struct client *client, const struct options *o, struct text *out,
                               struct yyjson_doc **ret, bool *ret_yes, struct err *err)
{
    CLEANUP(answer_free) struct answer *answer = NULL;

    if (options_flag(o, OPT_READY) && o->arguments_count == 0) {
        TRY(ask(client, "POST", "/v2/repository/index", "application/json", slice_of("{}"), &answer,
                err));
        if (answer->status == 401 || answer->status == 403)
            return ask_ready(client, out, ret_yes, err);
    }
    return ask_json(client, "POST", "/v2/repository/index", slice_of("{}"), ret, err);
}

static enum err_code list(const struct options *o, struct text *out, bool *ret_yes, struct err *err)
{
    CLEANUP(client_free) struct client *client = NULL;
    CLEANUP(free_doc) struct yyjson_doc *doc = NULL;

    TRY(ask_open(&client, o, err));
    TRY(ask_index(client, o, out, &doc, ret_yes, err));
    if (doc == NULL)
        return OK;
    yyjson_val *index = yyjson_doc_get_root(doc);
    if (!yyjson_is_arr(index))
        return err_set(err, E_DATA_LOSS, "the index of models is no list; is %s a penstock?",
                       client_url(client)->shown);
    enum err_code code = check_names(o, index, err);
    if (code != OK && options_flag(o, OPT_READY)) {
        print_failure(EXIT_NO,
                      err->text); /* what is not there is not ready: *ret_yes stays false */
        return OK;
    }
    if (code != OK)
        return code;
    *ret_yes = true;
    if (options_flag(o, OPT_READY))
        *ret_yes = answer_ready(out, o, index);
    else if (options_flag(o, OPT_JSON))
        put_json(out, o, index);
    else
        put_table(out, client, o, index);
    return OK;
}

int verb_models(const struct options *options)
{
    struct err err = { 0 };
    bool is_yes = false;
    struct text out;

    text_init(&out, PRINT_BYTES_MAX);
    enum err_code code = list(options, &out, &is_yes, &err);
    bool was_whole = print_out(STDOUT_FILENO, &out);
    text_deinit(&out);
    if (code != OK)
        return print_failure(code == E_INVALID ? EXIT_USAGE : EXIT_FAILED, err.text);
    return !is_yes ? EXIT_NO : was_whole ? EXIT_OK : EXIT_FAILED;
}
