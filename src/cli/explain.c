/* explain.c - the verb explain: the server's word for a model's name, a load of our own for a path.
 * Both give the same JSON (explain.h), and what people read is made from that.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/explain.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/ask.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/stack.h"
#include "cli/verbs.h"
#include "repository/repository.h"

enum { PRINT_BYTES_MAX = 64 << 20, TARGET_BYTES_MAX = 2048 };

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

/* -- in words ---------------------------------------------------------------------------------- */

struct page {
    struct text *out;
    bool has_colour;
};

static void put_title(struct page *page, const char *title)
{
    text_printf(page->out, page->has_colour ? "\n\033[1m%s\033[0m\n" : "\n%s\n", title);
}

/* "  backend     onnxruntime"; nothing for an empty value. */
static void put_fact(struct page *page, const char *name, struct slice value)
{
    if (value.size == 0)
        return;
    text_printf(page->out, "  %-11s ", name);
    print_escaped(page->out, value, false);
    text_byte(page->out, '\n');
}

static void put_head(struct page *page, yyjson_val *root)
{
    struct slice version = str_of(root, "version"), why = str_of(root, "backend_why");
    char load[64] = "";

    text_str(page->out, page->has_colour ? "\033[1m" : "");
    print_escaped(page->out, str_of(root, "name"), false);
    text_str(page->out, page->has_colour ? "\033[0m" : "");
    if (version.size > 0) {
        text_str(page->out, ", version ");
        print_escaped(page->out, version, false);
    }
    text_str(page->out, ": ");
    print_escaped(page->out, str_of(root, "state"), false);
    text_byte(page->out, '\n');
    put_fact(page, "reason", str_of(root, "reason"));
    put_fact(page, "folder", str_of(root, "folder"));
    put_fact(page, "file", str_of(root, "path"));
    put_fact(page, "backend", str_of(root, "backend"));
    put_fact(page, "", why);
    put_fact(page, "platform", str_of(root, "platform"));
    put_fact(page, "config", str_of(root, "config_file"));
    put_fact(page, "described", str_of(root, "card_file"));
    if (yyjson_get_num(yyjson_obj_get(root, "load_ms")) > 0)
        snprintf(load, sizeof load, "%.1f ms", yyjson_get_num(yyjson_obj_get(root, "load_ms")));
    put_fact(page, "loaded in", slice_of(load));
}

static void put_tensors(struct page *page, yyjson_val *root, const char *key, const char *word)
{
    size_t at, count;
    yyjson_val *tensor;

    yyjson_arr_foreach(yyjson_obj_get(root, key), at, count, tensor)
    {
        char *shape = yyjson_val_write(yyjson_obj_get(tensor, "shape"), 0, NULL);
        uint64_t labels = yyjson_get_uint(yyjson_obj_get(tensor, "labels"));
        text_printf(page->out, "  %-7s ", word);
        print_escaped(page->out, str_of(tensor, "name"), false);
        text_byte(page->out, ' ');
        print_escaped(page->out, str_of(tensor, "datatype"), false);
        text_printf(page->out, " %s", shape == NULL ? "" : shape);
        if (yyjson_get_bool(yyjson_obj_get(tensor, "optional")))
            text_str(page->out, ", optional");
        if (labels > 0)
            text_printf(page->out, ", %llu labels", (unsigned long long)labels);
        text_byte(page->out, '\n');
        mem_free(shape);
    }
}

static void put_execution(struct page *page, yyjson_val *e)
{
    unsigned long long runs = (unsigned long long)yyjson_get_uint(yyjson_obj_get(e, "runs"));

    put_title(page, "How it runs");
    put_fact(page, "asked for", str_of(e, "asked"));
    put_fact(page, "now", str_of(e, "now"));
    put_fact(page, "because", str_of(e, "reason"));
    if (runs > 0)
        text_printf(page->out, "  %-11s typical %.1f us, worst %.1f us, over %llu runs\n",
                    "measured", yyjson_get_num(yyjson_obj_get(e, "typical_us")),
                    yyjson_get_num(yyjson_obj_get(e, "worst_us")), runs);
    text_printf(page->out, "  %-11s %llu; queue: %llu of %llu\n", "instances",
                (unsigned long long)yyjson_get_uint(yyjson_obj_get(e, "instances")),
                (unsigned long long)yyjson_get_uint(yyjson_obj_get(e, "queued")),
                (unsigned long long)yyjson_get_uint(yyjson_obj_get(e, "queue_max")));
}

static bool is_empty(yyjson_val *value)
{
    return (yyjson_is_str(value) && yyjson_get_len(value) == 0) ||
           (yyjson_is_ctn(value) && yyjson_get_len(value) == 0);
}

/* Each top-level field that says something: name, source, value. */
static void put_config(struct page *page, yyjson_val *config, yyjson_val *sources)
{
    size_t at, count;
    yyjson_val *key, *value;

    put_title(page, "Configuration, and where each fact comes from");
    yyjson_obj_foreach(config, at, count, key, value)
    {
        if (is_empty(value))
            continue;
        char *json = yyjson_val_write(value, 0, NULL);
        char source[64];
        struct text shown;
        text_init_fixed(&shown, source, sizeof source);
        print_escaped(&shown, slice_first(str_of(sources, yyjson_get_str(key)), 40), false);
        text_str(page->out, "  ");
        print_padded(page->out, slice_of(yyjson_get_str(key)), 18);
        text_byte(page->out, ' ');
        print_padded(page->out, text_slice(&shown), 26);
        text_byte(page->out, ' ');
        print_escaped(page->out, slice_of(json == NULL ? "" : json), false);
        text_byte(page->out, '\n');
        mem_free(json);
    }
}

static void put_list(struct page *page, const char *title, yyjson_val *list)
{
    size_t at, count;
    yyjson_val *item;

    if (yyjson_arr_size(list) > 0)
        put_title(page, title);
    yyjson_arr_foreach(list, at, count, item)
    {
        text_str(page->out, "  ");
        print_escaped(page->out, slice_of(yyjson_get_str(item) == NULL ? "" : yyjson_get_str(item)),
                      false);
        text_byte(page->out, '\n');
    }
}

static void put_runtime(struct page *page, yyjson_val *runtime)
{
    size_t at, count;
    yyjson_val *key, *value;

    if (yyjson_obj_size(runtime) > 0)
        put_title(page, "The runtime's own words");
    yyjson_obj_foreach(runtime, at, count, key, value)
    {
        char *json = yyjson_is_str(value) ? NULL : yyjson_val_write(value, 0, NULL);
        text_str(page->out, "  ");
        print_padded(page->out, slice_of(yyjson_get_str(key)), 22);
        text_byte(page->out, ' ');
        print_escaped(page->out,
                      slice_of(json != NULL           ? json
                               : yyjson_is_str(value) ? yyjson_get_str(value)
                                                      : ""),
                      false);
        text_byte(page->out, '\n');
        mem_free(json);
    }
}

static void put_page(struct text *out, yyjson_val *root)
{
    struct page page = { out, print_has_colour(STDOUT_FILENO) };

    put_head(&page, root);
    if (yyjson_obj_get(root, "config") == NULL)
        return;
    put_title(&page, "What it takes and gives");
    put_tensors(&page, root, "inputs", "input");
    put_tensors(&page, root, "outputs", "output");
    put_execution(&page, yyjson_obj_get(root, "execution"));
    put_config(&page, yyjson_obj_get(root, "config"), yyjson_obj_get(root, "sources"));
    put_list(&page, "Notices", yyjson_obj_get(root, "notices"));
    put_runtime(&page, yyjson_obj_get(root, "runtime"));
}

/* -- from a path ------------------------------------------------------------------------------- */

static bool is_path(const char *text)
{
    struct stat st;

    return strchr(text, '/') != NULL || stat(text, &st) == 0;
}

/* "iris.onnx" is a file that is not there, rather than a model of that name. */
static bool is_missing_file(const char *text)
{
    static const char *const endings[] = { ".onnx", ".ort", ".pbtxt", ".yaml", ".gguf", ".pt" };
    const char *dot = strrchr(text, '.');

    for (size_t i = 0; dot != NULL && !is_path(text) && i < COUNT(endings); i++) {
        if (strcasecmp(dot, endings[i]) == 0)
            return true;
    }
    return false;
}

/* Loads what lies there and writes one object a line. */
static enum err_code load_path(const struct options *o, const char *path, struct text *json,
                               bool *ret_all_ready, struct err *err)
{
    struct stack stack;
    struct repository_snapshot snapshot;
    const char *const *notes;

    enum err_code code = stack_open(&stack, o, 1, &path, 1, err);
    if (code == OK)
        code = repository_load_all(stack.repository, err);
    if (code == OK) {
        uint32_t count = repository_notes(stack.repository, &notes);
        for (uint32_t i = 0; i < count; i++)
            log_info("%s", notes[i]);
        repository_snapshot_take(stack.repository, &snapshot);
        *ret_all_ready = true;
        for (uint32_t i = 0; i < snapshot.count; i++) {
            explain_put(json, &snapshot.entries[i], true);
            text_byte(json, '\n');
            *ret_all_ready &= snapshot.entries[i].model != NULL;
        }
        repository_snapshot_give(&snapshot);
    }
    stack_close(&stack);
    return code;
}

/* -- from a server ----------------------------------------------------------------------------- */

static enum err_code ask_for(const struct options *o, const char *name, struct text *json,
                                bool *ret_all_ready, struct err *err)
{
    CLEANUP(client_free) struct client *client = NULL;
    CLEANUP(free_doc) struct yyjson_doc *doc = NULL;
    char bytes[TARGET_BYTES_MAX];
    struct text target;

    text_init_fixed(&target, bytes, sizeof bytes - 1);
    text_str(&target, "/models/");
    print_percent(&target, slice_of(name));
    if (options_number(o, OPT_MODEL_VERSION) > 0)
        text_printf(&target, "/versions/%llu",
                    (unsigned long long)options_number(o, OPT_MODEL_VERSION));
    text_str(&target, "/explain");
    if (text_failed(&target))
        return err_set(err, E_INVALID, "the name is too long");
    bytes[target.size] = '\0';
    TRY(ask_open(&client, o, err));
    TRY(ask_json(client, "GET", bytes, slice_of(""), &doc, err));
    char *written = yyjson_write(doc, 0, NULL);
    if (written == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the answer");
    text_str(json, written);
    text_byte(json, '\n');
    mem_free(written);
    *ret_all_ready = slice_is(str_of(yyjson_doc_get_root(doc), "state"), "READY");
    return OK;
}

/* -- the verb ---------------------------------------------------------------------------------- */

static void put_pages(struct text *out, struct slice json)
{
    bool is_first = true;

    while (json.size > 0) {
        size_t size = slice_find(json, '\n');
        CLEANUP(free_doc) struct yyjson_doc *doc = yyjson_read((const char *)json.data, size, 0);
        text_str(out, is_first ? "" : "\n");
        put_page(out, yyjson_doc_get_root(doc));
        is_first = false;
        json = slice_skip(json, MIN(size + 1, json.size));
    }
}

int verb_explain(const struct options *options)
{
    const char *what = options->arguments_count == 1 ? options->arguments[0] : NULL;
    bool is_ready = false;
    struct text json, out;
    struct err err = { 0 };

    if (what == NULL || what[0] == '\0')
        return print_failure(EXIT_USAGE, "explain takes one model or path: penstock explain iris, "
                                         "penstock explain ./iris.onnx");
    verbs_start_log(options);
    if (is_missing_file(what) && !options_is_set(options, OPT_SERVER)) {
        err_set(&err, E_NOT_FOUND,
                "there is no file %s here (a model of a server that has this name: --server URL)",
                what);
        return print_failure(EXIT_FAILED, err.text);
    }
    text_init(&json, PRINT_BYTES_MAX);
    text_init(&out, PRINT_BYTES_MAX);
    enum err_code code = is_path(what) ? load_path(options, what, &json, &is_ready, &err)
                                       : ask_for(options, what, &json, &is_ready, &err);
    if (code == OK && options_flag(options, OPT_JSON))
        text_slice_put(&out, text_slice(&json));
    else if (code == OK)
        put_pages(&out, text_slice(&json));
    bool was_whole = print_out(STDOUT_FILENO, &out);
    text_deinit(&out);
    text_deinit(&json);
    if (code != OK)
        return print_failure(code == E_INVALID && !is_path(what) ? EXIT_USAGE : EXIT_FAILED,
                             err.text);
    return is_ready && was_whole ? EXIT_OK : EXIT_FAILED;
}
