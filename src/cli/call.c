/* call.c - the verb call: inputs as options, sent as a form, so that the server's typed route reads
 * numbers, lists and texts by the model's own types.
 *
 * The model's description is asked for first, on the same connection: it tells a slip of the finger
 * before anything is sent, lets --sepal-length stand for sepal_length, and whether 1,2 is a list or
 * a text.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cli/ask.h"
#include "cli/call.h"
#include "cli/example.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/verbs.h"
#include "cli/wire_view.h"
#include "model/nearest.h"

enum { TARGET_BYTES_MAX = 4096, COLUMNS_MAX = 6, PRINT_BYTES_MAX = 1 << 30 };

static void free_doc(struct yyjson_doc **doc)
{
    yyjson_doc_free(*doc);
}

/* -- what the model takes ---------------------------------------------------------------------- */

/* One name that the typed route takes. */
struct field {
    struct slice name;
    bool is_text, is_whole;
};

/* `on_field` is called with every name; stops at true. */
static bool each_field(const struct call *call, bool (*on_field)(void *context, struct field field),
                       void *context)
{
    yyjson_val *inputs = yyjson_obj_get(yyjson_doc_get_root(call->about), "inputs");
    size_t at, count, f, features_count;
    yyjson_val *input, *feature;

    yyjson_arr_foreach(inputs, at, count, input)
    {
        const char *type = yyjson_get_str(yyjson_obj_get(input, "type"));
        bool is_text = type != NULL && strcmp(type, "string") == 0;
        static const char *const keys[] = { "name", "tensor" };
        for (size_t k = 0; k < COUNT(keys); k++) {
            const char *name = yyjson_get_str(yyjson_obj_get(input, keys[k]));
            if (name != NULL && on_field(context, (struct field){ slice_of(name), is_text, true }))
                return true;
        }
        yyjson_arr_foreach(yyjson_obj_get(input, "features"), f, features_count, feature)
        {
            const char *name = yyjson_get_str(yyjson_obj_get(feature, "name"));
            if (name != NULL && on_field(context, (struct field){ slice_of(name), is_text, false }))
                return true;
        }
    }
    return false;
}

struct search {
    struct slice wanted;
    bool ignores_dashes;
    struct field found;
    struct nearest nearest;
};

static bool is_alike(struct slice a, struct slice b)
{
    if (a.size != b.size)
        return false;
    for (size_t i = 0; i < a.size; i++) {
        if ((a.data[i] == '-' ? '_' : a.data[i]) != (b.data[i] == '-' ? '_' : b.data[i]))
            return false;
    }
    return true;
}

static bool is_wanted(void *context, struct field field)
{
    struct search *search = context;

    nearest_offer(&search->nearest, (const char *)field.name.data);
    if (search->ignores_dashes ? !is_alike(search->wanted, field.name)
                               : !slice_eq(search->wanted, field.name))
        return false;
    search->found = field;
    return true;
}

struct listing {
    char *out;
    size_t size, at;
};

static bool add_name(void *context, struct field field)
{
    struct listing *list = context;

    list->at += (size_t)snprintf(list->out + list->at, list->size - list->at, "%s--%.*s",
                                 list->at == 0 ? "" : ", ", SLICE_ARG(slice_first(field.name, 60)));
    return list->at + 70 > list->size;
}

static enum err_code find_field(const struct call *call, const char *name, struct field *ret,
                                struct err *err)
{
    struct search search = { .wanted = slice_of(name), .nearest = nearest_to(slice_of(name)) };
    char names[400] = "";
    struct listing list = { names, sizeof names, 0 };

    bool is_found = each_field(call, is_wanted, &search);
    search.ignores_dashes = true;
    is_found = is_found || each_field(call, is_wanted, &search);
    if (is_found) {
        *ret = search.found;
        return OK;
    }
    for (uint32_t i = 0; i < OPT_IDS; i++) {
        if (option_rows[i].verbs & VERB_CALL)
            nearest_offer(&search.nearest, option_rows[i].name);
    }
    each_field(call, add_name, &list);
    const char *best = nearest_best(&search.nearest);
    return err_set(err, E_INVALID, "model '%s' has no input '%s'%s%s%s; its inputs are %s",
                   call->model, name, best != NULL ? "; did you mean --" : "",
                   best != NULL ? best : "", best != NULL ? "?" : "",
                   names[0] != '\0' ? names : "none");
}

/* -- values ------------------------------------------------------------------------------------ */

static enum err_code read_input(struct call *call, struct err *err)
{
    while (!call->has_read_input) {
        uint8_t *room = text_room(&call->input, 65536);
        ssize_t got = room == NULL ? -1 : read(STDIN_FILENO, room, 65536);
        if (got < 0 && room != NULL && errno == EINTR)
            continue;
        if (got < 0)
            return err_set(err, E_RANGE, "cannot read standard input: %s",
                           room == NULL ? "it is too large" : strerror(errno));
        call->input.size += (size_t)got;
        call->has_read_input = got == 0;
    }
    return OK;
}

enum err_code call_read_value(struct call *call, const char *value, struct slice *ret,
                              struct err *err)
{
    *ret = slice_of(value);
    if (strcmp(value, "-") == 0) {
        if (call->has_read_input)
            return err_set(err, E_INVALID, "standard input (-) is there for one value only");
        TRY(read_input(call, err));
        *ret = text_slice(&call->input);
        return OK;
    }
    if (value[0] != '@')
        return OK;
    if (value[1] == '@') {
        *ret = slice_of(value + 1);
        return OK;
    }
    buf_unref(&call->file);
    TRY(file_read(&call->file, NULL, value + 1, CALL_BODY_BYTES_MAX, err));
    *ret = buf_bytes(call->file);
    return OK;
}

/* 5.1,3.5 for a tensor of numbers is the list [5.1,3.5]. */
static bool is_bare_list(struct field field, struct slice value)
{
    struct slice text = slice_trim(value);

    return !field.is_text && field.is_whole && text.size > 0 && text.data[0] != '[' &&
           text.data[0] != '{' && slice_find(text, ',') < text.size;
}

static bool is_npy(struct slice bytes)
{
    return slice_starts(bytes, "\x93NUMPY");
}

static enum err_code put_field(struct call *call, const struct option_field *given, uint32_t index,
                               struct err *err)
{
    const struct options *o = call->options;
    struct slice value;
    struct field field = { .is_text = true };

    TRY(find_field(call, given->name, &field, err));
    for (uint32_t i = 0; i < index; i++) {
        if (is_alike(slice_of(o->fields[i].name), slice_of(given->name)))
            return err_set(err, E_INVALID, "--%s is given twice", given->name);
    }
    TRY(call_read_value(call, given->value, &value, err));
    if (is_npy(value) && o->fields_count == 1) {
        text_slice_put(&call->body, value);
        call->content_type = "application/x-npy";
        return OK;
    }
    bool is_list = is_bare_list(field, value);
    text_str(&call->body, index == 0 ? "" : "&");
    print_percent(&call->body, field.name);
    text_str(&call->body, is_list ? "=%5B" : "=");
    print_percent(&call->body, value);
    text_str(&call->body, is_list ? "%5D" : "");
    return OK;
}

/* What -d sends, going by how it begins. */
static const char *type_of(struct slice body)
{
    static const struct {
        const char *begins, *type;
    } kinds[] = { { "\x93NUMPY", "application/x-npy" },
                  { "\x89PNG", "image/png" },
                  { "\xff\xd8\xff", "image/jpeg" },
                  { "RIFF", "audio/wav" } };

    for (size_t i = 0; i < COUNT(kinds); i++) {
        if (slice_starts(body, kinds[i].begins))
            return kinds[i].type;
    }
    return "application/json";
}

static enum err_code make_body(struct call *call, struct err *err)
{
    const struct options *o = call->options;
    const char *data = options_text(o, OPT_DATA);
    struct slice value;

    if (options_is_set(o, OPT_DATA)) {
        if (o->fields_count > 0)
            return err_set(err, E_INVALID, "-d is the whole body; --%s has no place beside it",
                           o->fields[0].name);
        TRY(call_read_value(call, data, &value, err));
        text_slice_put(&call->body, value);
        call->content_type = type_of(value);
    } else {
        call->content_type = "application/x-www-form-urlencoded";
        for (uint32_t i = 0; i < o->fields_count; i++)
            TRY(put_field(call, &o->fields[i], i, err));
    }
    return text_failed(&call->body)
               ? err_set(err, E_RANGE, "the inputs are larger than %d bytes", CALL_BODY_BYTES_MAX)
               : OK;
}

/* -- the answer in words ----------------------------------------------------------------------- */

static void put_value(struct text *out, yyjson_val *value)
{
    if (yyjson_is_str(value)) {
        print_escaped(out, slice_make(yyjson_get_str(value), yyjson_get_len(value)), true);
        return;
    }
    char *json = yyjson_val_write(value, 0, NULL);
    print_escaped(out, slice_of(json == NULL ? "" : json), false);
    mem_free(json);
}

static void put_object(struct text *out, yyjson_val *object)
{
    size_t at, count;
    yyjson_val *key, *value;
    uint32_t width = 0;

    yyjson_obj_foreach(object, at, count, key, value)
    {
        width = MIN(MAX(width, print_width(slice_of(yyjson_get_str(key)))), 40u);
    }
    yyjson_obj_foreach(object, at, count, key, value)
    {
        char bytes[512];
        struct text name;
        text_init_fixed(&name, bytes, sizeof bytes);
        print_escaped(&name, slice_first(slice_of(yyjson_get_str(key)), 100), false);
        print_padded(out, text_slice(&name), width);
        text_str(out, "  ");
        put_value(out, value);
        text_byte(out, '\n');
    }
}

static bool is_table(yyjson_val *value)
{
    return yyjson_is_arr(value) && yyjson_is_obj(yyjson_arr_get_first(value));
}

/* The columns of objects that have much the same members, in the order in which they come. */
static uint32_t find_columns(yyjson_val *table, const char **ret)
{
    size_t at, count, m, members_count;
    yyjson_val *row, *key, *value;
    uint32_t found = 0;

    yyjson_arr_foreach(table, at, count, row)
    {
        yyjson_obj_foreach(row, m, members_count, key, value)
        {
            bool is_known = false;
            for (uint32_t c = 0; c < found && !is_known; c++)
                is_known = strcmp(ret[c], yyjson_get_str(key)) == 0;
            if (!is_known && found < COLUMNS_MAX)
                ret[found++] = yyjson_get_str(key);
        }
    }
    return found;
}

/* Row NULL: the column's own name. */
static void put_cell(struct text *out, const char *column, yyjson_val *row)
{
    yyjson_val *value = yyjson_obj_get(row, column);

    if (row == NULL)
        print_escaped(out, slice_of(column), false);
    else if (yyjson_is_str(value))
        print_escaped(out, slice_make(yyjson_get_str(value), yyjson_get_len(value)), false);
    else if (value != NULL)
        put_value(out, value);
}

/* The most likely classes: a line for each under the names of its members. */
static void put_table(struct text *out, yyjson_val *table)
{
    const char *columns[COLUMNS_MAX];
    uint32_t columns_count = find_columns(table, columns), widths[COLUMNS_MAX] = { 0 };
    CLEANUP(text_deinit) struct text cell;

    text_init(&cell, PRINT_BYTES_MAX);
    for (int is_put = 0; is_put < 2; is_put++) {
        yyjson_arr_iter rows = yyjson_arr_iter_with(table);
        yyjson_val *row = NULL; /* the names come first */
        do {
            for (uint32_t c = 0; c < columns_count; c++) {
                cell.size = 0;
                put_cell(&cell, columns[c], row);
                if (!is_put)
                    widths[c] = MIN(MAX(widths[c], print_width(text_slice(&cell))), 40u);
                else if (c + 1 < columns_count)
                    print_padded(out, text_slice(&cell), widths[c] + 2);
                else
                    text_slice_put(out, text_slice(&cell));
            }
            text_str(out, is_put ? "\n" : "");
            row = yyjson_arr_iter_next(&rows);
        } while (row != NULL);
    }
}

/* What one row gave: members, or with --top its classes, which gRPC puts under `top`. */
static void put_row(struct text *out, yyjson_val *row)
{
    yyjson_val *top = yyjson_obj_size(row) == 1 ? yyjson_obj_get(row, "top") : NULL;

    if (is_table(row) || is_table(top)) {
        put_table(out, is_table(row) ? row : top);
    } else if (yyjson_is_obj(row)) {
        put_object(out, row);
    } else {
        put_value(out, row);
        text_byte(out, '\n');
    }
}

static void put_words(struct text *out, yyjson_val *root, bool has_top)
{
    size_t at, count;
    yyjson_val *row, *first = yyjson_arr_get_first(root);
    bool is_rows = yyjson_is_obj(first) || (has_top && is_table(first));

    /* With --top a list of classes is what one row gave. */
    if (!is_rows || (has_top && is_table(root) && !is_table(yyjson_obj_get(first, "top")))) {
        put_row(out, root);
        return;
    }
    yyjson_arr_foreach(root, at, count, row)
    {
        text_printf(out, at == 0 ? "row %zu\n" : "\nrow %zu\n", at + 1);
        put_row(out, row);
    }
}

/* server-timing: decode;dur=0.012, queue;dur=0, ... in ms. */
static void put_stages(struct text *out, struct slice timing)
{
    while (timing.size > 0) {
        struct slice part = slice_trim(slice_first(timing, slice_find(timing, ',')));
        timing = slice_skip(timing, MIN(slice_find(timing, ',') + 1, timing.size));
        struct slice name = slice_trim(slice_first(part, slice_find(part, ';')));
        const uint8_t *dur = part.size == 0 ? NULL : memmem(part.data, part.size, "dur=", 4);
        if (dur == NULL)
            continue;
        struct slice ms = slice_skip(part, (size_t)(dur - part.data) + 4);
        text_str(out, "  server, ");
        print_padded(out, slice_first(name, 16), 8);
        text_str(out, " ");
        print_escaped(out, slice_first(ms, slice_find(ms, ';')), false);
        text_str(out, " ms\n");
    }
}

void call_say_timing(const struct client *client, struct slice server_timing)
{
    struct client_times t = client_times(client);
    struct text out;

    text_init(&out, 1 << 16);
    text_printf(&out, "  connect          %.3f ms%s\n", (double)t.connect_ns / 1e6,
                t.was_kept ? " (kept from before)" : "");
    text_printf(&out, "  send             %.3f ms\n", (double)t.send_ns / 1e6);
    text_printf(&out, "  wait for answer  %.3f ms\n", (double)t.wait_ns / 1e6);
    text_printf(&out, "  receive          %.3f ms\n", (double)t.receive_ns / 1e6);
    put_stages(&out, server_timing);
    (void)print_out(STDERR_FILENO, &out);
    text_deinit(&out);
}

bool call_say_answer(const struct options *options, struct slice body)
{
    bool is_raw = options_flag(options, OPT_JSON) || !isatty(STDOUT_FILENO);
    CLEANUP(free_doc) struct yyjson_doc *doc = NULL;
    struct text out;

    text_init(&out, PRINT_BYTES_MAX);
    if (!is_raw)
        doc = yyjson_read((const char *)body.data, body.size, 0);
    if (doc != NULL) {
        put_words(&out, yyjson_doc_get_root(doc), options_number(options, OPT_TOP) > 0);
    } else {
        text_slice_put(&out, body);
        if (body.size > 0 && body.data[body.size - 1] != '\n')
            text_byte(&out, '\n');
    }
    bool was_whole = print_out(STDOUT_FILENO, &out);
    text_deinit(&out);
    return was_whole;
}

/* -- the verb ---------------------------------------------------------------------------------- */

/* "penstock call spam --text 'You won'": what the description offers as an example. */
void call_add_example(const struct call *call, struct err *err)
{
    yyjson_val *example = yyjson_obj_get(yyjson_doc_get_root(call->about), "example");
    char *json = example == NULL ? NULL : yyjson_val_write(example, 0, NULL);
    char bytes[400];
    struct text line;

    if (json == NULL)
        return;
    text_init_fixed(&line, bytes, sizeof bytes - 1);
    text_str(&line, "; for example: penstock call ");
    const char *answers = yyjson_get_str(yyjson_obj_get(
        yyjson_obj_get(yyjson_doc_get_root(call->about), "streams"), "answers"));
    bool is_stream = answers != NULL && strcmp(answers, "many") == 0;
    text_str(&line, is_stream ? "--stream " : options_flag(call->options, OPT_GRPC) ? "--grpc " : "");
    print_shell(&line, slice_of(call->model));
    example_flags(&line, slice_of(json));
    mem_free(json);
    if (text_failed(&line))
        return;
    bytes[line.size] = '\0';
    size_t at = strlen(err->text);
    snprintf(err->text + at, sizeof err->text - at, "%s", bytes);
}

void call_put_query(struct text *out, const struct options *o)
{
    size_t before = out->size;

    if (options_number(o, OPT_TOP) > 0)
        text_printf(out, "&top=%llu", (unsigned long long)options_number(o, OPT_TOP));
    if (options_is_set(o, OPT_OUTPUTS)) {
        text_str(out, "&outputs=");
        print_percent(out, slice_of(options_text(o, OPT_OUTPUTS)));
    }
    if (options_is_set(o, OPT_PRECISION)) {
        text_str(out, "&precision=");
        print_percent(out, slice_of(options_text(o, OPT_PRECISION)));
    }
    if (options_flag(o, OPT_RAW))
        text_str(out, "&raw=1");
    if (out->size > before)
        out->data[before] = '?';
}

/* "/models/iris", "/models/iris/versions/2"; `end` behind it. */
static enum err_code make_target(const struct call *call, char *ret, size_t size, const char *end,
                                 struct err *err)
{
    struct text target;

    text_init_fixed(&target, ret, size - 1);
    text_str(&target, "/models/");
    print_percent(&target, slice_of(call->model));
    if (options_number(call->options, OPT_MODEL_VERSION) > 0)
        text_printf(&target, "/versions/%llu",
                    (unsigned long long)options_number(call->options, OPT_MODEL_VERSION));
    text_str(&target, end);
    if (end[0] != '\0')
        call_put_query(&target, call->options);
    ret[target.size] = '\0';
    return text_failed(&target)
               ? err_set(err, E_INVALID,
                         "the name of the model, or what --outputs names, is too long")
               : OK;
}

/* The request itself; with --wire on a connection of its own, so that all of it is seen. */
static enum err_code post(struct call *call, const char *target, struct answer **ret,
                          struct err *err)
{
    const struct options *o = call->options;
    bool http2 = options_flag(o, OPT_HTTP2);
    char title[TARGET_BYTES_MAX + 8];

    if (options_flag(o, OPT_WIRE)) {
        snprintf(title, sizeof title, "POST %s", target);
        struct wire_view_settings settings = { .http2 = http2,
                                               .has_colour = print_has_colour(STDERR_FILENO),
                                               .columns = print_columns(STDERR_FILENO),
                                               .title = title,
                                               .server = client_url(call->client)->shown };
        TRY(wire_view_new(&call->view, &settings, err));
        client_free(&call->client);
        TRY(ask_open_as(&call->client, o, http2, wire_view_tap(call->view), err));
    }
    enum err_code code =
        ask(call->client, "POST", target, call->content_type, text_slice(&call->body), ret, err);
    if (call->view != NULL) {
        wire_view_end(call->view, client_times(call->client));
        wire_view_say(call->view, slice_of(""), slice_of(""));
    }
    return code;
}

static enum err_code run(struct call *call, struct err *err)
{
    const struct options *o = call->options;
    CLEANUP(answer_free) struct answer *answer = NULL;
    char target[TARGET_BYTES_MAX];

    TRY(ask_open_as(&call->client, o, options_flag(o, OPT_HTTP2), NULL, err));
    if (!options_is_set(o, OPT_DATA)) {
        TRY(make_target(call, target, sizeof target, "", err));
        TRY(ask_json(call->client, "GET", target, slice_of(""), &call->about, err));
        if (o->fields_count == 0) {
            err_set(err, E_INVALID, "no input is given");
            call_add_example(call, err);
            return E_INVALID;
        }
    }
    TRY(make_body(call, err));
    TRY(make_target(call, target, sizeof target, ":predict", err));
    TRY(post(call, target, &answer, err));
    if (options_flag(o, OPT_TIMING))
        call_say_timing(call->client, answer_header(answer, "server-timing"));
    if (answer->status != 200) {
        if (options_flag(o, OPT_JSON))
            (void)call_say_answer(o, answer->body);
        enum err_code code = ask_refusal(answer, err);
        /* What was sent may be wrong, which an example mends; a rate or a right that is missing is not. */
        if (answer->status == 400)
            call_add_example(call, err);
        return code == E_INVALID ? E_UNKNOWN : code;
    }
    return call_say_answer(o, answer->body) ? OK
                                            : err_set(err, E_UNKNOWN, "cannot write the answer");
}

static bool is_over_grpc(const struct options *o)
{
    return options_flag(o, OPT_GRPC) || options_flag(o, OPT_STREAM) || options_flag(o, OPT_CHAT);
}

/* Options that mean nothing together. */
static enum err_code check_options(const struct options *o, struct err *err)
{
    bool is_grpc = is_over_grpc(o);

    if (options_is_set(o, OPT_UPLOAD) &&
        (is_grpc || o->fields_count > 0 || options_is_set(o, OPT_DATA)))
        return err_set(err, E_INVALID, "--upload sends one file over HTTP; inputs, --stream, --chat "
                                       "and --grpc have no place beside it");
    if (options_is_set(o, OPT_RESUME) && !options_is_set(o, OPT_UPLOAD))
        return err_set(err, E_INVALID, "--resume goes with --upload");
    if (options_flag(o, OPT_CHAT) && options_flag(o, OPT_STREAM))
        return err_set(err, E_INVALID, "--chat and --stream: one of them");
    if (options_flag(o, OPT_CHAT) && (o->fields_count > 0 || options_is_set(o, OPT_DATA)))
        return err_set(err, E_INVALID, "--chat asks for what is to be sent as it goes; inputs have no "
                                       "place beside it");
    if ((options_flag(o, OPT_CHAT) || options_flag(o, OPT_STREAM) || options_is_set(o, OPT_UPLOAD)) &&
        (options_flag(o, OPT_WIRE) || options_flag(o, OPT_TIMING)))
        return err_set(err, E_INVALID, "--wire and --timing show one call; a stream or an "
                                       "upload has no place for them");
    if (!is_grpc && options_is_set(o, OPT_METADATA))
        return err_set(err, E_INVALID, "--metadata goes with --grpc");
    if (!is_grpc && options_is_set(o, OPT_COMPRESS))
        return err_set(err, E_INVALID, "--compress goes with --grpc");
    return OK;
}

int verb_call(const struct options *options)
{
    struct call call = { .options = options };
    struct err err = { 0 };

    if (options->arguments_count != 1 || options->arguments[0][0] == '\0')
        return print_failure(EXIT_USAGE, "call takes one model: penstock call MODEL --INPUT VALUE "
                                         "(penstock call --help)");
    call.model = options->arguments[0];
    text_init(&call.body, CALL_BODY_BYTES_MAX);
    text_init(&call.input, CALL_BODY_BYTES_MAX);
    enum err_code code = check_options(options, &err);
    if (code == OK)
        ask_begin_trace(options_flag(options, OPT_TRACE));
    if (code == OK)
        code = options_is_set(options, OPT_UPLOAD) ? call_upload(&call, &err)
               : options_flag(options, OPT_CHAT)   ? call_chat(&call, &err)
               : is_over_grpc(options)         ? call_run_grpc(&call, &err)
                                               : run(&call, &err);
    client_free(&call.client);
    wire_view_free(&call.view); /* the client's bytes pass it until the end */
    yyjson_doc_free(call.about);
    text_deinit(&call.body);
    text_deinit(&call.input);
    buf_unref(&call.file);
    if (code == OK)
        return EXIT_OK;
    return print_failure(code == E_INVALID ? EXIT_USAGE : EXIT_FAILED, err.text);
}
