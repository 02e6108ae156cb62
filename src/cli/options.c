/* options.c - SPDX-License-Identifier: Apache-2.0
 *
 * Values are set from the weakest source that is read last: argv first, then the environment, then
 * the file, and a value is kept only where nothing stronger stands. That order lets --config and
 * PENSTOCK_CONFIG name the file. What is overridden is still checked: a mistake in a file should
 * not wait for the day when the flag is gone.
 */
#include "cli/options.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <yaml.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/nearest.h"

enum {
    ITEMS_MAX = 1024,
    FIELDS_MAX = 1024,
    CONFIG_FILE_BYTES_MAX = 1 << 20,
    OPTIONS_BYTES_MAX = 16 << 20,
    LONGEST_VARIABLE = 96
};

/* clang-format off */
#define S VERB_SERVE
#define C VERB_CALL
#define M VERB_MODELS
#define E VERB_EXPLAIN
#define V VERB_VERSION
#define T VERB_TOP
#define K VERB_KEY
const struct option option_rows[OPT_IDS] = {
#define OPTION(id, verbs_, name_, short_, kind_, fallback_, values_, metavar_, group_, help_)      \
    [OPT_##id] = { .name = name_, .short_name = short_, .kind = kind_, .fallback = fallback_,      \
                   .values = values_, .metavar = metavar_, .group = GROUP_##group_, .help = help_, \
                   .verbs = (verbs_) },
#define ALIAS(alias, name)
#include "tables/options.def"
#undef OPTION
#undef ALIAS
};
const struct option_alias option_aliases[] = {
#define OPTION(id, verbs_, name_, short_, kind_, fallback_, values_, metavar_, group_, help_)
#define ALIAS(alias_, name_) { alias_, name_ },
#include "tables/options.def"
#undef OPTION
#undef ALIAS
    { NULL, NULL },
};
#undef S
#undef C
#undef M
#undef E
#undef T
#undef K
#undef V
/* clang-format on */

enum option_id option_find(struct slice name)
{
    for (const struct option_alias *a = option_aliases; a->alias != NULL; a++) {
        if (slice_is(name, a->alias))
            name = slice_of(a->name);
    }
    for (uint32_t i = 0; i < OPT_IDS; i++) {
        if (slice_is(name, option_rows[i].name))
            return (enum option_id)i;
    }
    return OPT_IDS;
}

const char *option_variable(char *out, size_t size, const char *name)
{
    int at = snprintf(out, size, "PENSTOCK_");

    for (; *name != '\0' && (size_t)at + 1 < size; name++)
        out[at++] = *name == '-' ? '_' : (char)(*name >= 'a' && *name <= 'z' ? *name - 32 : *name);
    out[at] = '\0';
    return out;
}

/* -- values ------------------------------------------------------------------------------------ */

struct unit {
    const char *name;
    uint64_t scale;
};

/* A decimal number, with a fraction of at most six digits, and one of the units behind it. */
static bool parse_scaled(struct slice text, const struct unit *units, size_t units_count,
                         uint64_t *ret)
{
    size_t digits = 0, fraction = 0;
    uint64_t whole = 0, part = 0, scale_of_part = 1;

    while (digits < text.size && text.data[digits] >= '0' && text.data[digits] <= '9') {
        if (__builtin_mul_overflow(whole, UINT64_C(10), &whole) ||
            __builtin_add_overflow(whole, (uint64_t)(text.data[digits] - '0'), &whole))
            return false;
        digits++;
    }
    struct slice rest = slice_skip(text, digits);
    if (rest.size > 1 && rest.data[0] == '.') {
        for (fraction = 1; fraction < rest.size && fraction <= 6; fraction++) {
            if (rest.data[fraction] < '0' || rest.data[fraction] > '9')
                break;
            part = part * 10 + (uint64_t)(rest.data[fraction] - '0');
            scale_of_part *= 10;
        }
        if (fraction == 1)
            return false;
        rest = slice_skip(rest, fraction);
    }
    if (digits == 0)
        return false;
    for (size_t i = 0; i < units_count; i++) {
        if (!slice_is(rest, units[i].name))
            continue;
        uint64_t value;
        if (__builtin_mul_overflow(whole, units[i].scale, &value))
            return false;
        /* At most 10^6 times an hour in nanoseconds: fits, and loses no digit as a double would. */
        uint64_t of_part = part * units[i].scale / scale_of_part;
        return !__builtin_add_overflow(value, of_part, ret);
    }
    return false;
}

bool size_parse(struct slice text, uint64_t *ret)
{
    static const struct unit units[] = {
        { "", 1 },
        { "B", 1 },
        { "kB", 1000 },
        { "KB", 1000 },
        { "MB", 1000000 },
        { "GB", 1000000000 },
        { "TB", UINT64_C(1000000000000) },
        { "K", UINT64_C(1) << 10 },
        { "KiB", UINT64_C(1) << 10 },
        { "M", UINT64_C(1) << 20 },
        { "MiB", UINT64_C(1) << 20 },
        { "G", UINT64_C(1) << 30 },
        { "GiB", UINT64_C(1) << 30 },
        { "T", UINT64_C(1) << 40 },
        { "TiB", UINT64_C(1) << 40 },
    };

    return parse_scaled(text, units, COUNT(units), ret);
}

bool duration_parse(struct slice text, uint64_t *ret)
{
    static const struct unit units[] = {
        { "ns", 1 },
        { "us", UINT64_C(1000) },
        { "ms", UINT64_C(1000000) },
        { "s", UINT64_C(1000000000) },
        { "m", UINT64_C(60000000000) },
        { "h", UINT64_C(3600000000000) },
    };

    if (slice_is(text, "0")) {
        *ret = 0;
        return true;
    }
    return parse_scaled(text, units, COUNT(units), ret);
}

bool ratio_parse(struct slice text, uint64_t *ret)
{
    static const struct unit units[] = { { "", RATIO_ONE } };
    uint64_t most;

    if (slice_starts(text, "1/")) {
        if (!slice_to_u64(slice_skip(text, 2), &most) || most == 0)
            return false;
        *ret = RATIO_ONE / most;
        return true;
    }
    return parse_scaled(text, units, COUNT(units), ret) && *ret <= RATIO_ONE;
}

static bool parse_flag(struct slice text, uint64_t *ret)
{
    static const char *const words[] = { "false", "true", "no", "yes", "off", "on", "0", "1" };

    for (size_t i = 0; i < COUNT(words); i++) {
        if (slice_is_nocase(text, words[i])) {
            *ret = i & 1;
            return true;
        }
    }
    return false;
}

static bool parse_number(enum option_kind kind, struct slice text, uint64_t *ret)
{
    return kind == KIND_SIZE       ? size_parse(text, ret)
           : kind == KIND_DURATION ? duration_parse(text, ret)
           : kind == KIND_RATIO    ? ratio_parse(text, ret)
                                   : slice_to_u64(text, ret);
}

/* Where a value came from, for texts and for the code to answer with. */
struct origin {
    enum option_source source;
    uint32_t line;
    const char *name;   /* "--listen", "PENSTOCK_LISTEN", "/etc/p.yaml, line 3: listen" */
    const char *folder; /* for relative paths of a file; NULL: the working directory */
};

static enum err_code code_of(const struct origin *origin)
{
    return origin->source == SOURCE_ARGV ? E_INVALID : E_PRECONDITION;
}

static enum err_code refuse_number(const struct option *row, const struct origin *origin,
                                   struct slice text, struct err *err)
{
    const char *want = row->kind == KIND_SIZE ? "a size, such as 64MiB or 1000"
                       : row->kind == KIND_DURATION
                           ? "a time with its unit, such as 5s, 250ms or 1.5m"
                       : row->kind == KIND_RATIO ? "a part of all, such as 0.01 or 1/100"
                                                 : "a whole number";

    return err_set(err, code_of(origin), "%s: '%.*s' is not %s", origin->name, SLICE_ARG(text),
                   want);
}

static enum err_code read_number(const struct option *row, const struct origin *origin,
                                 struct slice text, uint64_t *ret, struct err *err)
{
    if (!parse_number(row->kind, text, ret))
        return refuse_number(row, origin, text, err);
    struct slice range = slice_of(row->values);
    size_t dots = slice_find(range, '.');
    uint64_t least = 0, most = 0;
    require(parse_number(row->kind, slice_first(range, dots), &least));
    require(parse_number(row->kind, slice_skip(range, dots + 2), &most));
    if (*ret < least || *ret > most)
        return err_set(err, code_of(origin), "%s: '%.*s' is out of range: from %.*s to %s",
                       origin->name, SLICE_ARG(text), (int)dots, row->values,
                       row->values + dots + 2);
    return OK;
}

static enum err_code read_choice(const struct option *row, const struct origin *origin,
                                 struct slice text, uint64_t *ret, struct err *err)
{
    struct slice rest = slice_of(row->values);
    struct nearest nearest = nearest_to(text);
    char words[8][24];

    for (uint64_t i = 0; i < COUNT(words) && rest.size > 0; i++) {
        struct slice word = slice_first(rest, slice_find(rest, '|'));
        if (slice_eq(word, text)) {
            *ret = i;
            return OK;
        }
        snprintf(words[i], sizeof words[i], "%.*s", SLICE_ARG(word));
        nearest_offer(&nearest, words[i]);
        rest = slice_skip(rest, MIN(word.size + 1, rest.size));
    }
    const char *best = nearest_best(&nearest);
    return err_set(err, code_of(origin), "%s: '%.*s' is none of %s%s%s%s", origin->name,
                   SLICE_ARG(text), row->values, best != NULL ? "; did you mean '" : "",
                   best != NULL ? best : "", best != NULL ? "'?" : "");
}

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the options");
}

static enum err_code read_path(struct arena *arena, const struct option *row,
                               const struct origin *origin, struct slice text, const char **ret,
                               struct err *err)
{
    if (text.size == 0)
        return err_set(err, code_of(origin), "%s: an empty path", origin->name);
    if (text.data[0] != '/' && origin->folder != NULL)
        *ret = arena_printf(arena, "%s/%.*s", origin->folder, SLICE_ARG(text));
    else if (text.data[0] != '/' && row->kind == KIND_FIXED_PATHS)
        return err_set(err, code_of(origin),
                       "%s: '%.*s' is not an absolute path; code is not loaded from the directory "
                       "one happens to stand in",
                       origin->name, SLICE_ARG(text));
    else
        *ret = arena_strndup(arena, text.data, text.size);
    return *ret == NULL ? no_memory(err) : OK;
}

/* Paths behind each other with commas; a word alone is no path. */
static enum err_code read_path_set(struct arena *arena, const struct option *row,
                                   const struct origin *origin, struct slice text,
                                   const char **ret, struct err *err)
{
    const char *path, *set = "";

    if (slice_find(text, ',') == text.size) {
        *ret = arena_strndup(arena, text.data, text.size);
        return *ret == NULL ? no_memory(err) : OK;
    }
    while (text.size > 0) {
        struct slice part = slice_first(text, slice_find(text, ','));
        text = slice_skip(text, MIN(part.size + 1, text.size));
        TRY(read_path(arena, row, origin, slice_trim(part), &path, err));
        set = arena_printf(arena, "%s%s%s", set, set[0] == '\0' ? "" : ",", path);
        if (set == NULL)
            return no_memory(err);
    }
    *ret = set;
    return OK;
}

static bool is_list(enum option_kind kind)
{
    return kind == KIND_LIST || kind == KIND_PATHS || kind == KIND_FIXED_PATHS ||
           kind == KIND_PATH_SETS;
}

static enum err_code add_item(struct options *o, struct option_value *value, const char *item,
                              const struct origin *origin, struct err *err)
{
    if (value->items_count == ITEMS_MAX)
        return err_set(err, code_of(origin), "%s: more than %d values", origin->name, ITEMS_MAX);
    /* Grown by doubling in the arena: what is left behind is at most as much again. */
    if ((value->items_count & (value->items_count - 1)) == 0) {
        size_t room = value->items_count == 0 ? 1 : value->items_count * 2u;
        const char **items = arena_alloc(o->arena, room * sizeof *items);
        if (items == NULL)
            return no_memory(err);
        if (value->items_count > 0)
            memcpy(items, value->items, value->items_count * sizeof *items);
        value->items = items;
    }
    value->items[value->items_count++] = item;
    return OK;
}

/* Sets one value, or one more of a list, unless something stronger stands there. */
static enum err_code set_value(struct options *o, enum option_id id, const struct origin *origin,
                               struct slice text, struct err *err)
{
    const struct option *row = &option_rows[id];
    struct option_value *value = &o->values[id];
    struct option_value fresh = { .source = origin->source, .line = origin->line };

    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < 0x20 && text.data[i] != '\n' && text.data[i] != '\t')
            return err_set(err, code_of(origin), "%s: control characters in the value",
                           origin->name);
    }
    fresh.text = arena_strndup(o->arena, text.data, text.size);
    if (fresh.text == NULL)
        return no_memory(err);
    switch (row->kind) {
    case KIND_FLAG:
        if (!parse_flag(text, &fresh.number))
            return err_set(err, code_of(origin), "%s: '%.*s' is neither true nor false",
                           origin->name, SLICE_ARG(text));
        break;
    case KIND_COUNT:
    case KIND_SIZE:
    case KIND_RATIO:
    case KIND_DURATION: TRY(read_number(row, origin, text, &fresh.number, err)); break;
    case KIND_CHOICE: TRY(read_choice(row, origin, text, &fresh.number, err)); break;
    case KIND_PATHS:
    case KIND_FIXED_PATHS: TRY(read_path(o->arena, row, origin, text, &fresh.text, err)); break;
    case KIND_PATH_SETS: TRY(read_path_set(o->arena, row, origin, text, &fresh.text, err)); break;
    case KIND_TEXT:
    case KIND_LIST:
    case KIND_HELP: break;
    }
    if (origin->source < value->source)
        return OK;
    if (!is_list(row->kind)) {
        *value = fresh;
        return OK;
    }
    if (origin->source > value->source)
        *value = (struct option_value){ .source = origin->source };
    value->line = origin->line;
    value->text = fresh.text;
    return add_item(o, value, fresh.text, origin, err);
}

static enum err_code set_parts(struct options *o, enum option_id id, const struct origin *origin,
                               struct slice text, struct err *err)
{
    enum option_kind kind = option_rows[id].kind;

    if (!is_list(kind))
        return set_value(o, id, origin, text, err);
    while (text.size > 0) {
        struct slice part = slice_first(text, slice_find(text, kind == KIND_LIST ? ',' : ':'));
        text = slice_skip(text, MIN(part.size + 1, text.size));
        part = slice_trim(part);
        if (part.size > 0)
            TRY(set_value(o, id, origin, part, err));
    }
    return OK;
}

enum err_code options_new(struct options **ret, struct err *err)
{
    static const struct origin origin = { .source = SOURCE_DEFAULT, .name = "default" };
    struct arena *arena = arena_new(8192, OPTIONS_BYTES_MAX);
    struct options *o = arena == NULL ? NULL : arena_zalloc(arena, sizeof *o);

    if (o == NULL) {
        arena_free(&arena);
        return no_memory(err);
    }
    o->arena = arena;
    o->help_form = "";
    o->program = "penstock";
    for (uint32_t i = 0; i < OPT_IDS; i++) {
        struct slice fallback = slice_of(option_rows[i].fallback);
        o->values[i].text = "";
        if (fallback.size == 0)
            continue;
        enum err_code code = set_value(o, (enum option_id)i, &origin, fallback, err);
        if (code != OK) {
            options_free(&o);
            return code;
        }
    }
    *ret = o;
    return OK;
}

void options_free(struct options **slot)
{
    struct options *o = TAKE(*slot);

    if (o == NULL)
        return;
    struct arena *arena = o->arena;
    arena_free(&arena);
}

const char *options_origin(const struct options *o, enum option_id id, char *out, size_t size)
{
    const struct option_value *value = &o->values[id];

    if (value->source == SOURCE_ENVIRONMENT)
        return option_variable(out, size, option_rows[id].name);
    if (value->source == SOURCE_FILE)
        snprintf(out, size, "%s, line %u: %s", o->config_path, value->line, option_rows[id].name);
    else
        snprintf(out, size, "--%s", option_rows[id].name);
    return out;
}

/* -- the command line -------------------------------------------------------------------------- */

struct arguments {
    struct options *o;
    const char *const *argv;
    int argc, at;
    bool is_over; /* behind "--" */
};

static const char *verb_name(enum verb verb)
{
    for (const struct verb_row *row = verb_rows; row->verb != VERB_NONE; row++) {
        if (row->verb == verb)
            return row->name;
    }
    return "";
}

static enum err_code find_verb(struct slice name, enum verb *ret, struct err *err)
{
    struct nearest nearest = nearest_to(name);
    char list[128];
    size_t at = 0;

    for (const struct verb_row *row = verb_rows; row->verb != VERB_NONE; row++) {
        if (slice_is(name, row->name)) {
            *ret = row->verb;
            return OK;
        }
        nearest_offer(&nearest, row->name);
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", at == 0 ? "" : ", ", row->name);
    }
    const char *best = nearest_best(&nearest);
    return err_set(err, E_INVALID, "no verb '%.*s'; %s%s%sthe verbs are %s (penstock --help)",
                   SLICE_ARG(name), best != NULL ? "did you mean '" : "", best != NULL ? best : "",
                   best != NULL ? "'? " : "", list);
}

static enum err_code add_field(struct options *o, struct slice name, struct slice value,
                               struct err *err)
{
    if (o->fields_count == FIELDS_MAX)
        return err_set(err, E_INVALID, "more than %d inputs", FIELDS_MAX);
    if (o->fields == NULL)
        o->fields = arena_alloc(o->arena, FIELDS_MAX * sizeof *o->fields);
    if (o->fields == NULL)
        return no_memory(err);
    struct option_field *field = &o->fields[o->fields_count];
    field->name = arena_strndup(o->arena, name.data, name.size);
    field->value = arena_strndup(o->arena, value.data, value.size);
    if (field->name == NULL || field->value == NULL)
        return no_memory(err);
    o->fields_count++;
    return OK;
}

/* What other servers have a port of its own for. */
static bool is_port(struct slice name)
{
    static const char *const ports[] = { "port", "http-port", "grpc-port" };

    for (size_t i = 0; i < COUNT(ports); i++) {
        if (slice_is(name, ports[i]))
            return true;
    }
    return false;
}

static enum err_code refuse_unknown(const struct options *o, struct slice name, struct err *err)
{
    struct nearest nearest = nearest_to(name);

    for (uint32_t i = 0; i < OPT_IDS; i++) {
        if (option_rows[i].verbs & o->verb)
            nearest_offer(&nearest, option_rows[i].name);
    }
    if (o->verb == VERB_SERVE && is_port(name))
        return err_set(err, E_INVALID,
                       "no option --%.*s: HTTP and gRPC share one port, and --listen "
                       "127.0.0.1:8000 gives it (penstock serve --help lists them)",
                       SLICE_ARG(name));
    const char *best = nearest_best(&nearest);
    return err_set(err, E_INVALID, "no option --%.*s%s%s%s (penstock %s --help lists them)",
                   SLICE_ARG(name), best != NULL ? "; did you mean --" : "",
                   best != NULL ? best : "", best != NULL ? "?" : "", verb_name(o->verb));
}

static enum err_code refuse_elsewhere(const struct options *o, enum option_id id, struct err *err)
{
    char verbs[96];
    size_t at = 0;

    for (const struct verb_row *row = verb_rows; row->verb != VERB_NONE; row++) {
        if (option_rows[id].verbs & row->verb)
            at += (size_t)snprintf(verbs + at, sizeof verbs - at, "%s%s", at == 0 ? "" : ", ",
                                   row->name);
    }
    return err_set(err, E_INVALID, "--%s is not an option of `penstock %s`, but of: %s",
                   option_rows[id].name, verb_name(o->verb), verbs);
}

/* The word behind an option that needs one. A known option standing there was surely not meant as
 * the value; --name=VALUE can still say it. */
static enum err_code take_value(struct arguments *a, const char *name, const char *metavar,
                                struct slice *ret, struct err *err)
{
    const char *next = a->at + 1 < a->argc ? a->argv[a->at + 1] : NULL;

    if (next != NULL && strncmp(next, "--", 2) == 0) {
        struct slice word = slice_of(next + 2);
        word = slice_first(word, slice_find(word, '='));
        if (word.size == 0 || option_find(word) != OPT_IDS)
            next = NULL;
    }
    if (next == NULL)
        return err_set(err, E_INVALID, "%s needs a value: %s %s", name, name,
                       metavar != NULL ? metavar : "VALUE");
    a->at++;
    *ret = slice_of(next);
    return OK;
}

static enum err_code take_option(struct arguments *a, enum option_id id, const char *shown,
                                 bool has_value, struct slice value, struct err *err)
{
    const struct option *row = &option_rows[id];
    struct origin origin = { .source = SOURCE_ARGV, .name = shown };

    if (!(row->verbs & a->o->verb))
        return refuse_elsewhere(a->o, id, err);
    if (row->kind == KIND_HELP) {
        a->o->wants_help = true;
        return OK;
    }
    if (row->kind == KIND_FLAG && !has_value)
        value = slice_of("true");
    else if (!has_value)
        TRY(take_value(a, shown, row->metavar, &value, err));
    if (id == OPT_FIELD) {
        size_t equals = slice_find(value, '=');
        if (equals == 0 || equals == value.size)
            return err_set(err, E_INVALID, "%s: '%.*s' is not NAME=VALUE", shown, SLICE_ARG(value));
        return add_field(a->o, slice_first(value, equals), slice_skip(value, equals + 1), err);
    }
    return set_value(a->o, id, &origin, value, err);
}

static enum err_code take_long(struct arguments *a, struct slice word, struct err *err)
{
    size_t equals = slice_find(word, '=');
    bool has_value = equals < word.size;
    struct slice name = slice_first(word, equals);
    struct slice value = has_value ? slice_skip(word, equals + 1) : slice_of("");
    enum option_id id = option_find(name);
    char shown[LONGEST_VARIABLE];

    snprintf(shown, sizeof shown, "--%.*s", SLICE_ARG(name));
    /* A name that this verb does not know may be an input of the model. */
    if (a->o->verb == VERB_CALL && (id == OPT_IDS || !(option_rows[id].verbs & VERB_CALL))) {
        if (name.size == 0)
            return err_set(err, E_INVALID, "'--=' names no input");
        if (!has_value)
            TRY(take_value(a, shown, NULL, &value, err));
        return add_field(a->o, name, value, err);
    }
    if (id == OPT_IDS && slice_starts(name, "no-") && !has_value) {
        id = option_find(slice_skip(name, 3));
        if (id == OPT_IDS || option_rows[id].kind != KIND_FLAG)
            return refuse_unknown(a->o, name, err);
        return take_option(a, id, shown, true, slice_of("false"), err);
    }
    if (id == OPT_IDS)
        return refuse_unknown(a->o, name, err);
    return take_option(a, id, shown, has_value, value, err);
}

static enum err_code take_short(struct arguments *a, struct slice word, struct err *err)
{
    char shown[3] = { '-', (char)word.data[0], '\0' };

    for (uint32_t i = 0; i < OPT_IDS; i++) {
        if (option_rows[i].short_name != (char)word.data[0] || !(option_rows[i].verbs & a->o->verb))
            continue;
        return take_option(a, (enum option_id)i, shown, word.size > 1, slice_skip(word, 1), err);
    }
    return err_set(err, E_INVALID, "no option %s (penstock %s --help lists them)", shown,
                   verb_name(a->o->verb));
}

static enum err_code take_arguments(struct arguments *a, struct err *err)
{
    struct options *o = a->o;

    o->arguments = arena_alloc(o->arena, (size_t)a->argc * sizeof *o->arguments);
    if (o->arguments == NULL)
        return no_memory(err);
    for (; a->at < a->argc; a->at++) {
        struct slice word = slice_of(a->argv[a->at]);
        if (!a->is_over && slice_is(word, "--"))
            a->is_over = true;
        else if (!a->is_over && slice_starts(word, "--"))
            TRY(take_long(a, slice_skip(word, 2), err));
        else if (!a->is_over && word.size > 1 && word.data[0] == '-')
            TRY(take_short(a, slice_skip(word, 1), err));
        else
            o->arguments[o->arguments_count++] = a->argv[a->at];
    }
    if (o->verb != VERB_SERVE)
        return OK;
    /* serve's arguments are the same as --models. */
    static const struct origin origin = { .source = SOURCE_ARGV, .name = "PATH" };
    for (uint32_t i = 0; i < o->arguments_count; i++)
        TRY(set_value(o, OPT_MODELS, &origin, slice_of(o->arguments[i]), err));
    return OK;
}

/* -- the environment --------------------------------------------------------------------------- */

static enum err_code read_variable(struct options *o, struct slice name, struct slice value,
                                   struct err *err)
{
    struct nearest nearest = nearest_to(name);
    char variables[OPT_IDS][LONGEST_VARIABLE], shown[LONGEST_VARIABLE];

    for (uint32_t i = 0; i < OPT_IDS; i++) {
        option_variable(variables[i], sizeof variables[i], option_rows[i].name);
        if (option_rows[i].kind == KIND_HELP)
            continue;
        if (!slice_is(name, variables[i])) {
            nearest_offer(&nearest, variables[i]);
            continue;
        }
        struct origin origin = { .source = SOURCE_ENVIRONMENT, .name = variables[i] };
        return value.size == 0 ? OK : set_parts(o, (enum option_id)i, &origin, value, err);
    }
    for (const struct option_alias *a = option_aliases; a->alias != NULL; a++) {
        option_variable(shown, sizeof shown, a->alias);
        if (!slice_is(name, shown))
            continue;
        struct origin origin = { .source = SOURCE_ENVIRONMENT, .name = shown };
        return value.size == 0 ? OK
                               : set_parts(o, option_find(slice_of(a->name)), &origin, value, err);
    }
    /* Other programs may have variables that begin like ours, so this is no error. */
    const char *best = nearest_best(&nearest);
    if (best == NULL || nearest.edits > 2 || o->notes_count == 8)
        return OK;
    if (o->notes == NULL)
        o->notes = arena_alloc(o->arena, 8 * sizeof *o->notes);
    const char *note =
        arena_printf(o->arena, "the variable %.*s is not known and not used; did you mean %s?",
                     SLICE_ARG(name), best);
    if (o->notes == NULL || note == NULL)
        return no_memory(err);
    o->notes[o->notes_count++] = note;
    return OK;
}

static enum err_code read_environment(struct options *o, const char *const *environment,
                                      struct err *err)
{
    for (; environment != NULL && *environment != NULL; environment++) {
        struct slice entry = slice_of(*environment);
        size_t equals = slice_find(entry, '=');
        if (!slice_starts(entry, "PENSTOCK_") || equals == entry.size)
            continue;
        TRY(read_variable(o, slice_first(entry, equals), slice_skip(entry, equals + 1), err));
    }
    return OK;
}

/* -- the file ---------------------------------------------------------------------------------- */

/* What the next event may be. */
enum place { BEFORE, TOP_KEY, TOP_VALUE, IN_LIST, AFTER };

struct reader {
    struct options *o;
    const char *path, *folder;
    enum place place;
    enum option_id id;
    char key[LONGEST_VARIABLE];
    uint32_t key_line;
    bool seen[OPT_IDS];
};

static uint32_t line_of(const yaml_event_t *event)
{
    return (uint32_t)MIN(event->start_mark.line + 1, (size_t)UINT32_MAX);
}

static enum err_code refuse_line(const struct reader *r, uint32_t line, const char *what,
                                 struct err *err)
{
    return err_set(err, E_PRECONDITION, "%s, line %u: %s", r->path, line, what);
}

static enum err_code read_key(struct reader *r, const yaml_event_t *event, struct err *err)
{
    struct slice key = slice_make(event->data.scalar.value, event->data.scalar.length);
    struct nearest nearest = nearest_to(key);

    r->key_line = line_of(event);
    r->id = option_find(key);
    if (r->id != OPT_IDS && (r->id == OPT_CONFIG || r->id == OPT_HELP || r->id == OPT_FIELD))
        return err_set(err, E_PRECONDITION, "%s, line %u: '%s' has no place in a file", r->path,
                       r->key_line, option_rows[r->id].name);
    if (r->id == OPT_IDS) {
        for (uint32_t i = 0; i < OPT_IDS; i++)
            nearest_offer(&nearest, option_rows[i].name);
        const char *best = nearest_best(&nearest);
        return err_set(err, E_PRECONDITION,
                       "%s, line %u: unknown key '%.*s'%s%s%s (penstock serve --help lists them)",
                       r->path, r->key_line, SLICE_ARG(slice_first(key, 80)),
                       best != NULL ? "; did you mean '" : "", best != NULL ? best : "",
                       best != NULL ? "'?" : "");
    }
    if (r->seen[r->id])
        return err_set(err, E_PRECONDITION, "%s, line %u: '%s' stands there twice", r->path,
                       r->key_line, option_rows[r->id].name);
    r->seen[r->id] = true;
    snprintf(r->key, sizeof r->key, "%.*s", SLICE_ARG(key));
    return OK;
}

static enum err_code read_scalar(struct reader *r, const yaml_event_t *event, struct err *err)
{
    struct slice text = slice_make(event->data.scalar.value, event->data.scalar.length);
    char name[PATH_MAX + LONGEST_VARIABLE];

    snprintf(name, sizeof name, "%s, line %u: %s", r->path, line_of(event), r->key);
    if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
        (text.size == 0 || slice_is(text, "~") || slice_is(text, "null")))
        return err_set(err, E_PRECONDITION, "%s has no value", name);
    struct origin origin = {
        .source = SOURCE_FILE, .line = line_of(event), .name = name, .folder = r->folder
    };
    return set_value(r->o, r->id, &origin, text, err);
}

static enum err_code read_event(struct reader *r, const yaml_event_t *event, struct err *err)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        if (r->place == TOP_KEY) {
            TRY(read_key(r, event, err));
            r->place = TOP_VALUE;
            return OK;
        }
        if (r->place == BEFORE) {
            /* An empty document is one empty scalar. */
            r->place = AFTER;
            return event->data.scalar.length == 0
                       ? OK
                       : refuse_line(r, line_of(event), "expected `name: value` lines", err);
        }
        TRY(read_scalar(r, event, err));
        if (r->place == TOP_VALUE)
            r->place = TOP_KEY;
        return OK;
    case YAML_MAPPING_START_EVENT:
        if (r->place == BEFORE) {
            r->place = TOP_KEY;
            return OK;
        }
        return refuse_line(r, line_of(event), "expected a value or a list, and a mapping is there",
                           err);
    case YAML_MAPPING_END_EVENT: r->place = AFTER; return OK;
    case YAML_SEQUENCE_START_EVENT:
        if (r->place == TOP_VALUE && is_list(option_rows[r->id].kind)) {
            r->place = IN_LIST;
            return OK;
        }
        if (r->place == TOP_VALUE)
            return err_set(err, E_PRECONDITION, "%s, line %u: '%s' takes one value, not a list",
                           r->path, line_of(event), r->key);
        return refuse_line(r, line_of(event), "a list is not expected here", err);
    case YAML_SEQUENCE_END_EVENT: r->place = TOP_KEY; return OK;
    case YAML_ALIAS_EVENT:
        return refuse_line(r, line_of(event), "anchors and aliases are not used here", err);
    case YAML_DOCUMENT_START_EVENT:
        return r->place == BEFORE ? OK
                                  : refuse_line(r, line_of(event), "a second document begins", err);
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_END_EVENT: return OK;
    }
    return OK;
}

enum err_code options_read_yaml(struct options *options, struct slice yaml, const char *path,
                                const char *folder, struct err *err)
{
    struct reader reader = { .o = options, .path = path, .folder = folder, .place = BEFORE };
    enum err_code code = OK;
    yaml_parser_t parser;

    if (!yaml_parser_initialize(&parser))
        return no_memory(err);
    yaml_parser_set_input_string(&parser, yaml.data, yaml.size);
    for (bool is_over = false; code == OK && !is_over;) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            code = err_set(err, E_PRECONDITION, "%s, line %zu, column %zu: %s", path,
                           parser.problem_mark.line + 1, parser.problem_mark.column + 1,
                           parser.problem != NULL ? parser.problem : "not YAML");
            break;
        }
        is_over = event.type == YAML_STREAM_END_EVENT;
        code = read_event(&reader, &event, err);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return code;
}

/* By its own absolute place, so that what it names does not depend on the working directory. */
static enum err_code read_file(struct options *o, const char *path, struct err *err)
{
    CLEANUP(buf_unref) struct buf *buf = NULL;
    char where[64];

    options_origin(o, OPT_CONFIG, where, sizeof where);
    char *real = realpath(path, NULL);
    if (real == NULL)
        return err_set(err, E_PRECONDITION, "%s: cannot open %s: %s", where, path, strerror(errno));
    enum err_code code = file_read(&buf, NULL, real, CONFIG_FILE_BYTES_MAX, err);
    if (code != OK) {
        free(real);
        err_wrap(err, "%s", where);
        return E_PRECONDITION;
    }
    o->config_path = arena_strndup(o->arena, path, strlen(path));
    *strrchr(real, '/') = '\0';
    char *folder = arena_strndup(o->arena, real, strlen(real));
    free(real);
    if (o->config_path == NULL || folder == NULL)
        return no_memory(err);
    return options_read_yaml(o, buf_bytes(buf), o->config_path, folder, err);
}

static enum err_code read_all(struct options *o, int argc, const char *const *argv,
                              const char *const *environment, struct err *err)
{
    struct arguments a = { .o = o, .argv = argv, .argc = argc, .at = 2 };
    struct slice first = slice_of(argc > 1 ? argv[1] : "--help");

    o->is_misused = argc <= 1;
    if (slice_is(first, "help") && argc > 2) {
        o->wants_help = true;
        return find_verb(slice_of(argv[2]), &o->verb, err);
    }
    if (slice_starts(first, "--help=")) {
        o->wants_help = true;
        o->help_form = argv[1] + strlen("--help=");
        return strcmp(o->help_form, "markdown") == 0
                   ? OK
                   : err_set(err, E_INVALID, "--help has the forms --help and --help=markdown");
    }
    if (slice_is(first, "--help") || slice_is(first, "-h") || slice_is(first, "help")) {
        o->wants_help = true;
        return OK;
    }
    if (slice_is(first, "--version") || slice_is(first, "-V") || slice_is(first, "-v"))
        first = slice_of("version");
    if (first.size > 0 && first.data[0] == '-')
        return err_set(err, E_INVALID,
                       "the verb comes first: penstock serve %.*s ... (penstock --help)",
                       SLICE_ARG(first));
    TRY(find_verb(first, &o->verb, err));
    TRY(take_arguments(&a, err));
    if (o->wants_help)
        return OK;
    TRY(read_environment(o, environment, err));
    return options_text(o, OPT_CONFIG)[0] == '\0' ? OK
                                                  : read_file(o, options_text(o, OPT_CONFIG), err);
}

enum err_code options_read(struct options **ret, int argc, const char *const *argv,
                           const char *const *environment, struct err *err)
{
    CLEANUP(options_free) struct options *o = NULL;

    TRY(options_new(&o, err));
    if (argc > 0)
        o->program = argv[0];
    TRY(read_all(o, argc, argv, environment, err));
    *ret = TAKE(o);
    return OK;
}
