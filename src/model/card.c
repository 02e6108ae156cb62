/* card.c - SPDX-License-Identifier: Apache-2.0
 *
 * libyaml gives events one at a time, so nothing is kept but what the card keeps. Each kind of
 * mapping is a table of keys; a value is read by the function of its row. Aliases are refused: a
 * card has no use for them, and a few of them can mean gigabytes.
 *
 * Where a text is expected, a plain scalar is that text whatever YAML would make of it: labels
 * [no, 1, null] are "no", "1" and "null". Example values follow YAML's core schema.
 */
#include "model/card.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <yaml.h>

#include "base/arena.h"
#include "base/map.h"
#include "base/text.h"
#include "base/utf8.h"
#include "model/dtype.h"
#include "model/nearest.h"
#include "model/numbers.h"
#include "model/service.h"

enum {
    TENSORS_MAX = 4096, /* each name is compared with each */
    FEATURES_MAX = 4096,
    NUMBER_BYTES_MAX = 400
};

struct reader {
    yaml_parser_t yaml;
    yaml_event_t event; /* the current one; owned when has_event */
    bool has_event;
    unsigned depth;
    struct arena *arena;
    struct err *err;
    bool is_output; /* of the tensor being read */
};

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for model.yaml; retry later");
}

static enum err_code fail_at(struct reader *r, yaml_mark_t mark, const char *format, ...)
    PRINTF_LIKE(3, 4);

static enum err_code fail_at(struct reader *r, yaml_mark_t mark, const char *format, ...)
{
    char words[600];
    va_list args;

    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    return err_set(r->err, E_INVALID, "line %zu, column %zu: %s", mark.line + 1, mark.column + 1,
                   words);
}

#define fail_here(r, ...) fail_at(r, (r)->event.start_mark, __VA_ARGS__)

/* -- events ------------------------------------------------------------------------------------ */

/* Moves to the next event. */
static enum err_code next(struct reader *r)
{
    if (r->has_event)
        yaml_event_delete(&r->event);
    r->has_event = false;
    if (!yaml_parser_parse(&r->yaml, &r->event)) {
        yaml_mark_t mark = r->yaml.problem_mark;
        if (r->yaml.error == YAML_MEMORY_ERROR)
            return no_memory(r->err);
        const char *problem = r->yaml.problem != NULL ? r->yaml.problem : "not readable";
        if (r->yaml.error == YAML_READER_ERROR)
            return err_set(r->err, E_INVALID, "byte %zu: not YAML: %s", r->yaml.problem_offset + 1,
                           problem);
        return fail_at(r, mark, "not YAML: %s%s%s", problem, r->yaml.context != NULL ? ", " : "",
                       r->yaml.context != NULL ? r->yaml.context : "");
    }
    r->has_event = true;
    if (r->event.type == YAML_ALIAS_EVENT)
        return fail_here(r, "aliases (*%.40s) are not taken: write the value out",
                         (const char *)r->event.data.alias.anchor);
    return OK;
}

static bool is_end(const struct reader *r)
{
    return r->event.type == YAML_MAPPING_END_EVENT || r->event.type == YAML_SEQUENCE_END_EVENT;
}

static bool is_scalar(const struct reader *r)
{
    return r->event.type == YAML_SCALAR_EVENT;
}

static struct slice scalar(const struct reader *r)
{
    return slice_make(r->event.data.scalar.value, r->event.data.scalar.length);
}

/* A plain scalar of the core schema's null; a quoted one never is. */
static bool is_null(const struct reader *r)
{
    static const char *const nulls[] = { "", "~", "null", "Null", "NULL" };

    for (unsigned i = 0; is_scalar(r) && i < COUNT(nulls); i++)
        if (r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE && slice_is(scalar(r), nulls[i]))
            return true;
    return false;
}

/* Tags change what a value is; only the one that says "a text" is taken. */
static enum err_code check_tag(struct reader *r)
{
    const yaml_char_t *tag =
        r->event.type == YAML_SCALAR_EVENT           ? r->event.data.scalar.tag
        : r->event.type == YAML_SEQUENCE_START_EVENT ? r->event.data.sequence_start.tag
        : r->event.type == YAML_MAPPING_START_EVENT  ? r->event.data.mapping_start.tag
                                                     : NULL;

    if (tag == NULL || (is_scalar(r) && strcmp((const char *)tag, "!") == 0) ||
        (is_scalar(r) && strcmp((const char *)tag, YAML_STR_TAG) == 0))
        return OK;
    return fail_here(r, "the tag %.80s is not taken", (const char *)tag);
}

static bool is_text_by_tag(const struct reader *r)
{
    return r->event.data.scalar.tag != NULL ||
           r->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
}

/* Enters the mapping or list that the current event opens; the caller then stands on its first
 * event. `what` is named in the error when it is something else. */
static enum err_code enter(struct reader *r, yaml_event_type_t type, const char *what)
{
    if (r->event.type != type)
        return fail_here(r, "%s is expected to be %s", what,
                         type == YAML_MAPPING_START_EVENT ? "a mapping (key: value)" : "a list");
    TRY(check_tag(r));
    if (r->depth == CARD_DEPTH_MAX)
        return fail_here(r, "values lie within values more than %d deep", CARD_DEPTH_MAX);
    r->depth++;
    return next(r);
}

static enum err_code leave(struct reader *r)
{
    r->depth--;
    return next(r);
}

/* -- scalars ----------------------------------------------------------------------------------- */

/* The text of the current scalar; moves on. `key` is what it is the value of. */
static enum err_code read_text(struct reader *r, const char *key, const char **ret)
{
    struct slice text = scalar(r);

    if (!is_scalar(r))
        return fail_here(r, "'%s' is expected to be a text", key);
    TRY(check_tag(r));
    if (text.size == 0)
        return fail_here(r, "'%s' is empty: give it a text or remove it", key);
    if (slice_find(text, 0) != text.size)
        return fail_here(r, "'%s' holds a zero byte", key);
    *ret = arena_strndup(r->arena, text.data, text.size);
    return *ret == NULL ? no_memory(r->err) : next(r);
}

enum number_kind { NUMBER_NONE, NUMBER_INT, NUMBER_FLOAT, NUMBER_NOT_FINITE };

/* YAML 1.2 core schema, 10.3.2. */
static enum number_kind parse_number(struct slice text, double *ret)
{
    char copy[NUMBER_BYTES_MAX];
    const char *rest = copy;
    size_t digits, more = 0;
    char *end;

    if (text.size == 0 || text.size >= sizeof copy || slice_find(text, 0) != text.size)
        return NUMBER_NONE;
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    if (copy[0] == '0' && (copy[1] == 'x' || copy[1] == 'o')) {
        const char *allowed = copy[1] == 'x' ? "0123456789abcdefABCDEF" : "01234567";
        if (copy[2] == '\0' || strspn(copy + 2, allowed) != text.size - 2 || text.size > 17)
            return NUMBER_NONE;
        *ret = (double)strtoull(copy + 2, NULL, copy[1] == 'x' ? 16 : 8);
        return NUMBER_INT;
    }
    rest += *rest == '-' || *rest == '+';
    if (strcmp(rest, ".inf") == 0 || strcmp(rest, ".Inf") == 0 || strcmp(rest, ".INF") == 0 ||
        strcmp(copy, ".nan") == 0 || strcmp(copy, ".NaN") == 0 || strcmp(copy, ".NAN") == 0)
        return NUMBER_NOT_FINITE;
    digits = strspn(rest, "0123456789");
    rest += digits;
    bool is_int = *rest == '\0';
    if (*rest == '.') {
        more = strspn(++rest, "0123456789");
        rest += more;
    }
    if (digits + more == 0)
        return NUMBER_NONE;
    if (*rest == 'e' || *rest == 'E') {
        rest++;
        rest += *rest == '-' || *rest == '+';
        size_t exponent = strspn(rest, "0123456789");
        if (exponent == 0)
            return NUMBER_NONE;
        rest += exponent;
    }
    if (*rest != '\0')
        return NUMBER_NONE;
    *ret = strtod(copy, &end);
    if (isinf(*ret))
        return NUMBER_NOT_FINITE;
    return is_int ? NUMBER_INT : NUMBER_FLOAT;
}

static enum err_code read_number(struct reader *r, const char *key, double *ret)
{
    double number = 0;

    if (is_scalar(r))
        TRY(check_tag(r));
    enum number_kind kind =
        is_scalar(r) && !is_text_by_tag(r) ? parse_number(scalar(r), &number) : NUMBER_NONE;
    if (kind == NUMBER_NONE || kind == NUMBER_NOT_FINITE)
        return fail_here(r, "'%s' is expected to be a number", key);
    *ret = number;
    return next(r);
}

static enum err_code read_field_number(struct reader *r, const char *key, uint32_t *ret)
{
    yaml_mark_t mark = r->event.start_mark;
    double number = 0;

    TRY(read_number(r, key, &number));
    if (!numbers_is_allowed(number))
        return fail_at(r, mark,
                       "'%s' is %g; the number of a protobuf field is a whole number from 1 to %d, "
                       "but not %d to %d and not %d to %d",
                       key, number, NUMBERS_MAX, NUMBERS_OURS_FIRST, NUMBERS_OURS_LAST,
                       NUMBERS_PROTOBUF_FIRST, NUMBERS_PROTOBUF_LAST);
    *ret = (uint32_t)number;
    return OK;
}

/* -- example values to JSON -------------------------------------------------------------------- */

/* -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?, given that it is a YAML number. */
static bool is_json_number(struct slice text)
{
    size_t at = text.data[0] == '-';

    if (text.data[0] == '+' || at == text.size || text.data[at] < '0' || text.data[at] > '9')
        return false;
    if (text.data[at] == '0' && at + 1 < text.size && text.data[at + 1] != '.' &&
        (text.data[at + 1] | 0x20) != 'e')
        return false;
    size_t dot = slice_find(text, '.');
    return dot >= text.size ||
           (dot + 1 < text.size && text.data[dot + 1] >= '0' && text.data[dot + 1] <= '9');
}

static enum err_code scalar_to_json(struct reader *r, const char *key, struct text *out)
{
    struct slice text = scalar(r);
    double number = 0;

    TRY(check_tag(r));
    if (is_text_by_tag(r)) {
        text_json(out, text);
        return next(r);
    }
    if (is_null(r)) {
        text_str(out, "null");
        return next(r);
    }
    if (slice_is(text, "true") || slice_is(text, "True") || slice_is(text, "TRUE")) {
        text_str(out, "true");
        return next(r);
    }
    if (slice_is(text, "false") || slice_is(text, "False") || slice_is(text, "FALSE")) {
        text_str(out, "false");
        return next(r);
    }
    switch (parse_number(text, &number)) {
    case NUMBER_NONE: text_json(out, text); break;
    case NUMBER_NOT_FINITE:
        return fail_here(r, "'%s' holds %.20s, which JSON has no number for", key,
                         (const char *)text.data);
    case NUMBER_INT:
    case NUMBER_FLOAT:
        if (is_json_number(text))
            text_slice_put(out, text);
        else
            text_printf(out, "%.17g", number);
    }
    return next(r);
}

static enum err_code value_to_json(struct reader *r, const char *key, struct text *out)
{
    bool is_first = true;

    if (is_scalar(r))
        return scalar_to_json(r, key, out);
    if (r->event.type == YAML_SEQUENCE_START_EVENT) {
        TRY(enter(r, YAML_SEQUENCE_START_EVENT, key));
        text_byte(out, '[');
        for (; !is_end(r); is_first = false) {
            text_str(out, is_first ? "" : ",");
            TRY(value_to_json(r, key, out));
        }
        text_byte(out, ']');
        return leave(r);
    }
    TRY(enter(r, YAML_MAPPING_START_EVENT, key));
    CLEANUP(map_free) struct map *seen = map_new();
    if (seen == NULL)
        return no_memory(r->err);
    text_byte(out, '{');
    for (; !is_end(r); is_first = false) {
        if (!is_scalar(r))
            return fail_here(r, "a key is expected to be a text");
        TRY(check_tag(r));
        if (map_get(seen, scalar(r)) != NULL)
            return fail_here(r, "the key '%.60s' is given twice",
                             (const char *)r->event.data.scalar.value);
        TRY(map_put(seen, scalar(r), r, r->err));
        text_str(out, is_first ? "" : ",");
        text_json(out, scalar(r));
        text_byte(out, ':');
        TRY(next(r));
        TRY(value_to_json(r, key, out));
    }
    text_byte(out, '}');
    return leave(r);
}

static enum err_code read_json(struct reader *r, const char *key, const char **ret)
{
    struct text text;

    if (is_null(r))
        return fail_here(r, "'%s' is empty: give it a value or remove it", key);
    text_init_arena(&text, r->arena, 64);
    TRY(value_to_json(r, key, &text));
    *ret = text_cstr(&text);
    return text_failed(&text) ? no_memory(r->err) : OK;
}

/* -- mappings ---------------------------------------------------------------------------------- */

/* A key of a mapping: `read` reads its value (the current event) into `into` and moves on. */
struct key {
    const char *name;
    enum err_code (*read)(struct reader *r, const char *key, void *into);
};

enum { KEYS_MAX = 32 };

static enum err_code read_mapping(struct reader *r, const char *what, const struct key *keys,
                                  size_t keys_count, void *into)
{
    bool seen[KEYS_MAX] = { false };

    require(keys_count <= KEYS_MAX);
    TRY(enter(r, YAML_MAPPING_START_EVENT, what));
    while (!is_end(r)) {
        size_t i = 0;
        if (!is_scalar(r))
            return fail_here(r, "a key of %s is expected to be a name", what);
        struct slice name = scalar(r);
        while (i < keys_count && !slice_is(name, keys[i].name))
            i++;
        if (i == keys_count) {
            struct nearest nearest = nearest_to(name);
            for (i = 0; i < keys_count; i++)
                nearest_offer(&nearest, keys[i].name);
            const char *best = nearest_best(&nearest);
            return fail_here(r, "unknown key '%.*s' of %s%s%s%s", (int)MIN(name.size, 60u),
                             (const char *)name.data, what,
                             best != NULL ? "; the nearest is '" : "", best != NULL ? best : "",
                             best != NULL ? "'" : "");
        }
        if (seen[i])
            return fail_here(r, "'%s' is given twice", keys[i].name);
        seen[i] = true;
        TRY(next(r));
        TRY(keys[i].read(r, keys[i].name, into));
    }
    return leave(r);
}

/* -- features ---------------------------------------------------------------------------------- */

static enum err_code feature_name(struct reader *r, const char *key, void *into)
{
    return read_text(r, key, &((struct feature *)into)->name);
}
static enum err_code feature_unit(struct reader *r, const char *key, void *into)
{
    return read_text(r, key, &((struct feature *)into)->unit);
}
static enum err_code feature_description(struct reader *r, const char *key, void *into)
{
    return read_text(r, key, &((struct feature *)into)->description);
}
static enum err_code feature_min(struct reader *r, const char *key, void *into)
{
    return read_number(r, key, &((struct feature *)into)->min);
}
static enum err_code feature_max(struct reader *r, const char *key, void *into)
{
    return read_number(r, key, &((struct feature *)into)->max);
}
static enum err_code feature_example(struct reader *r, const char *key, void *into)
{
    return read_number(r, key, &((struct feature *)into)->example);
}
static enum err_code feature_number(struct reader *r, const char *key, void *into)
{
    return read_field_number(r, key, &((struct feature *)into)->number);
}

static const struct key feature_keys[] = {
    { "name", feature_name },     { "unit", feature_unit }, { "description", feature_description },
    { "min", feature_min },       { "max", feature_max },   { "example", feature_example },
    { "number", feature_number },
};

static enum err_code check_range(struct reader *r, yaml_mark_t mark, double min, double max)
{
    if (min > max) /* NaN, which is none, is never greater */
        return fail_at(r, mark, "min %g is greater than max %g", min, max);
    return OK;
}

static enum err_code read_feature(struct reader *r, struct feature *f)
{
    yaml_mark_t mark = r->event.start_mark;

    f->min = f->max = f->example = (double)NAN;
    if (is_scalar(r))
        return read_text(r, "a feature's name", &f->name);
    TRY(read_mapping(r, "a feature", feature_keys, COUNT(feature_keys), f));
    if (f->name == NULL)
        return fail_at(r, mark, "the feature has no name");
    TRY(check_range(r, mark, f->min, f->max));
    if (f->example < f->min || f->example > f->max)
        return fail_at(r, mark, "the example %g of '%s' is outside of min and max", f->example,
                       f->name);
    return OK;
}

static enum err_code tensor_features(struct reader *r, const char *key, void *into)
{
    struct signature_tensor *t = &((struct card_tensor *)into)->human;
    CLEANUP(map_free) struct map *seen = map_new();
    struct feature *list = NULL;
    uint32_t room = 0;

    if (seen == NULL)
        return no_memory(r->err);
    TRY(enter(r, YAML_SEQUENCE_START_EVENT, key));
    while (!is_end(r)) {
        yaml_mark_t mark = r->event.start_mark;
        if (t->features_count == FEATURES_MAX)
            return fail_at(r, mark, "there are more than %d features", FEATURES_MAX);
        if (t->features_count == room) {
            uint32_t more = MAX(16u, room * 2);
            list = arena_resize(r->arena, list, room * sizeof *list, more * sizeof *list);
            if (list == NULL)
                return no_memory(r->err);
            memset(list + room, 0, (more - room) * sizeof *list);
            room = more;
        }
        struct feature *f = &list[t->features_count];
        TRY(read_feature(r, f));
        if (map_get(seen, slice_of(f->name)) != NULL)
            return fail_at(r, mark, "the feature '%.60s' is listed twice", f->name);
        TRY(map_put(seen, slice_of(f->name), f, r->err));
        t->features_count++;
        t->features = list;
    }
    return leave(r);
}

/* -- tensors ----------------------------------------------------------------------------------- */

static enum err_code tensor_title(struct reader *r, const char *key, void *into)
{
    return read_text(r, key, &((struct card_tensor *)into)->human.title);
}
static enum err_code tensor_description(struct reader *r, const char *key, void *into)
{
    return read_text(r, key, &((struct card_tensor *)into)->human.description);
}
static enum err_code tensor_unit(struct reader *r, const char *key, void *into)
{
    return read_text(r, key, &((struct card_tensor *)into)->human.unit);
}
static enum err_code tensor_min(struct reader *r, const char *key, void *into)
{
    return read_number(r, key, &((struct card_tensor *)into)->human.min);
}
static enum err_code tensor_max(struct reader *r, const char *key, void *into)
{
    return read_number(r, key, &((struct card_tensor *)into)->human.max);
}
static enum err_code tensor_example(struct reader *r, const char *key, void *into)
{
    return read_json(r, key, &((struct card_tensor *)into)->human.example_json);
}
static enum err_code tensor_number(struct reader *r, const char *key, void *into)
{
    return read_field_number(r, key, &((struct card_tensor *)into)->human.number);
}

static enum err_code tensor_content_type(struct reader *r, const char *key, void *into)
{
    struct card_tensor *t = into;
    yaml_mark_t mark = r->event.start_mark;
    bool is_fine = true;

    TRY(read_text(r, key, &t->human.content_type));
    for (const char *c = t->human.content_type; *c != '\0'; c++)
        is_fine = is_fine && *c > ' ' && *c < 0x7f && strchr("()<>@,;:\\\"[]?={}", *c) == NULL;
    const char *slash = strchr(t->human.content_type, '/');
    if (!is_fine || slash == NULL || slash == t->human.content_type || slash[1] == '\0' ||
        strchr(slash + 1, '/') != NULL)
        return fail_at(r, mark, "'%s' is expected to be a type such as image/png", key);
    return OK;
}

static enum err_code tensor_role(struct reader *r, const char *key, void *into)
{
    static const char *const names[] = {
        [ROLE_AUTO] = "auto",
        [ROLE_VALUE] = "value",
        [ROLE_LABEL] = "label",
        [ROLE_PROBABILITIES] = "probabilities",
    };

    for (unsigned i = 0; is_scalar(r) && i < COUNT(names); i++)
        if (slice_is(scalar(r), names[i])) {
            ((struct card_tensor *)into)->human.role = (enum output_role)i;
            return next(r);
        }
    return fail_here(r, "'%s' is expected to be auto, value, label or probabilities", key);
}

static enum err_code tensor_labels(struct reader *r, const char *key, void *into)
{
    struct card_tensor *t = into;
    const char **list = NULL;
    uint32_t room = 0, count = 0;

    if (t->labels_file != NULL)
        return fail_here(r, "'labels' and 'labels_file' exclude each other");
    TRY(enter(r, YAML_SEQUENCE_START_EVENT, key));
    for (; !is_end(r); count++) {
        if (count == CARD_LABELS_MAX)
            return fail_here(r, "there are more than %d labels", CARD_LABELS_MAX);
        if (count == room) {
            uint32_t more = MAX(64u, room * 2);
            list = arena_resize(r->arena, list, room * sizeof *list, more * sizeof *list);
            if (list == NULL)
                return no_memory(r->err);
            room = more;
        }
        TRY(read_text(r, "a label", &list[count]));
    }
    if (count == 0)
        return fail_here(r, "'%s' is empty: list the labels or remove it", key);
    t->human.labels = list;
    t->human.labels_count = count;
    return leave(r);
}

static enum err_code tensor_labels_file(struct reader *r, const char *key, void *into)
{
    struct card_tensor *t = into;

    if (t->human.labels_count != 0)
        return fail_here(r, "'labels' and 'labels_file' exclude each other");
    return read_text(r, key, &t->labels_file);
}

static const struct key input_keys[] = {
    { "title", tensor_title },       { "description", tensor_description },
    { "unit", tensor_unit },         { "min", tensor_min },
    { "max", tensor_max },           { "example", tensor_example },
    { "features", tensor_features }, { "content_type", tensor_content_type },
    { "number", tensor_number },
};

static const struct key output_keys[] = {
    { "title", tensor_title },
    { "description", tensor_description },
    { "unit", tensor_unit },
    { "role", tensor_role },
    { "features", tensor_features },
    { "labels", tensor_labels },
    { "labels_file", tensor_labels_file },
    { "number", tensor_number },
};

static enum err_code read_tensor(struct reader *r, bool is_output, struct card_tensor *t)
{
    char what[120];
    yaml_mark_t mark;

    t->human.min = t->human.max = (double)NAN;
    t->line = (int)r->event.start_mark.line + 1;
    TRY(read_text(r, "a tensor's name", &t->name));
    t->human.name = t->name;
    snprintf(what, sizeof what, "%s '%.80s'", is_output ? "output" : "input", t->name);
    mark = r->event.start_mark;
    if (is_output)
        TRY(read_mapping(r, what, output_keys, COUNT(output_keys), t));
    else
        TRY(read_mapping(r, what, input_keys, COUNT(input_keys), t));
    return check_range(r, mark, t->human.min, t->human.max);
}

static enum err_code read_tensors(struct reader *r, const char *key, bool is_output,
                                  struct card_tensor **ret, uint32_t *ret_count)
{
    struct card_tensor *list = NULL;
    uint32_t room = 0, count = 0;

    TRY(enter(r, YAML_MAPPING_START_EVENT, key));
    for (; !is_end(r); count++) {
        yaml_mark_t mark = r->event.start_mark;
        if (!is_scalar(r))
            return fail_here(r, "a key of '%s' is expected to be a tensor's name", key);
        if (count == TENSORS_MAX)
            return fail_here(r, "there are more than %d %s", TENSORS_MAX, key);
        if (count == room) {
            uint32_t more = MAX(4u, room * 2);
            list = arena_resize(r->arena, list, room * sizeof *list, more * sizeof *list);
            if (list == NULL)
                return no_memory(r->err);
            memset(list + room, 0, (more - room) * sizeof *list);
            room = more;
        }
        TRY(read_tensor(r, is_output, &list[count]));
        for (uint32_t i = 0; i < count; i++)
            if (strcmp(list[i].name, list[count].name) == 0)
                return fail_at(r, mark, "'%.60s' is given twice", list[i].name);
    }
    *ret = list;
    *ret_count = count;
    return leave(r);
}

/* -- the card ---------------------------------------------------------------------------------- */

static enum err_code card_title(struct reader *r, const char *key, void *into)
{
    return read_text(r, key, &((struct card *)into)->title);
}
static enum err_code card_description(struct reader *r, const char *key, void *into)
{
    return read_text(r, key, &((struct card *)into)->description);
}
static enum err_code card_license(struct reader *r, const char *key, void *into)
{
    return read_text(r, key, &((struct card *)into)->license);
}
static enum err_code card_example(struct reader *r, const char *key, void *into)
{
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return fail_here(r, "'%s' is expected to be a mapping (key: value)", key);
    return read_json(r, key, &((struct card *)into)->example_json);
}
static enum err_code card_service(struct reader *r, const char *key, void *into)
{
    struct card *card = into;
    yaml_mark_t mark = r->event.start_mark;

    TRY(read_text(r, key, &card->service));
    if (!service_is_name(slice_of(card->service)))
        return fail_at(r, mark,
                       "'%s' is expected to be a name such as MyModel: a capital letter, then "
                       "letters and digits, %d at most, and no PredictRequest or PredictResponse "
                       "at its end",
                       key, SERVICE_BYTES_MAX);
    return OK;
}
static enum err_code card_inputs(struct reader *r, const char *key, void *into)
{
    struct card *card = into;

    return read_tensors(r, key, false, &card->inputs, &card->inputs_count);
}
static enum err_code card_outputs(struct reader *r, const char *key, void *into)
{
    struct card *card = into;

    return read_tensors(r, key, true, &card->outputs, &card->outputs_count);
}

/* -- streams ----------------------------------------------------------------------------------- */

/* A whole number from `least` to 2^53. */
static enum err_code read_count(struct reader *r, const char *key, uint64_t least, uint64_t *ret)
{
    yaml_mark_t mark = r->event.start_mark;
    double number = 0;

    TRY(read_number(r, key, &number));
    if (number < (double)least || number > 0x1p53 || number != floor(number))
        return fail_at(r, mark, "'%s' is expected to be a whole number from %llu on", key,
                       (unsigned long long)least);
    *ret = (uint64_t)number;
    return OK;
}

static enum err_code stream_reduce(struct reader *r, const char *key, void *into)
{
    static const char *const names[] = { [SESSION_EACH] = "each",
                                         [SESSION_STACK] = "stack",
                                         [SESSION_LAST] = "last",
                                         [SESSION_WINDOW] = "window" };
    struct card_stream *stream = into;

    for (unsigned i = 0; is_scalar(r) && i < COUNT(names); i++)
        if (slice_is(scalar(r), names[i])) {
            stream->reduce = (enum session_reduce)i;
            stream->has_reduce = true;
            return next(r);
        }
    return fail_here(r, "'%s' is expected to be each, stack, last or window", key);
}

static enum err_code stream_window(struct reader *r, const char *key, void *into)
{
    return read_count(r, key, 1, &((struct card_stream *)into)->window);
}
static enum err_code stream_step(struct reader *r, const char *key, void *into)
{
    return read_count(r, key, 1, &((struct card_stream *)into)->step);
}
static enum err_code stream_pad(struct reader *r, const char *key, void *into)
{
    return read_count(r, key, 0, &((struct card_stream *)into)->pad);
}
static enum err_code stream_axis(struct reader *r, const char *key, void *into)
{
    yaml_mark_t mark = r->event.start_mark;
    uint64_t axis = 0;

    TRY(read_count(r, key, 0, &axis));
    if (axis >= PENSTOCK_RANK_MAX)
        return fail_at(r, mark, "'%s' is %llu; dimensions are counted from 0 to %u", key,
                       (unsigned long long)axis, PENSTOCK_RANK_MAX - 1);
    ((struct card_stream *)into)->axis = (int32_t)axis;
    return OK;
}

/* One more of a list in the arena; NULL: the error is written. */
static struct card_pair *one_more(struct reader *r, const char *key, struct card_pair **list,
                                  uint32_t *count)
{
    size_t size = *count * sizeof **list;

    if (*count == CARD_PAIRS_MAX) {
        (void)fail_here(r, "there are more than %d of '%s'", CARD_PAIRS_MAX, key);
        return NULL;
    }
    struct card_pair *more = arena_resize(r->arena, *list, size, size + sizeof **list);
    if (more == NULL) {
        (void)no_memory(r->err);
        return NULL;
    }
    *list = more;
    struct card_pair *pair = &more[(*count)++];
    *pair = (struct card_pair){ .on = (double)NAN, .off = (double)NAN, .hold = 1 };
    pair->line = (int)r->event.start_mark.line + 1;
    return pair;
}

static enum err_code read_pairs(struct reader *r, const char *key, bool is_json,
                                struct card_pair **list, uint32_t *count)
{
    TRY(enter(r, YAML_MAPPING_START_EVENT, key));
    while (!is_end(r)) {
        yaml_mark_t mark = r->event.start_mark;
        struct card_pair *pair = one_more(r, key, list, count);
        if (pair == NULL)
            return r->err->code;
        TRY(read_text(r, "an input's name", &pair->input));
        for (uint32_t i = 0; i + 1 < *count; i++)
            if (strcmp((*list)[i].input, pair->input) == 0)
                return fail_at(r, mark, "'%.60s' is given twice", pair->input);
        if (is_json)
            TRY(read_json(r, pair->input, &pair->output));
        else
            TRY(read_text(r, pair->input, &pair->output));
    }
    return leave(r);
}

static enum err_code stream_state(struct reader *r, const char *key, void *into)
{
    struct card_stream *stream = into;

    return read_pairs(r, key, false, &stream->states, &stream->states_count);
}
static enum err_code stream_constants(struct reader *r, const char *key, void *into)
{
    struct card_stream *stream = into;

    return read_pairs(r, key, true, &stream->constants, &stream->constants_count);
}

static enum err_code mark_name(struct reader *r, const char *key, void *into)
{
    return read_text(r, key, &((struct card_pair *)into)->input);
}
static enum err_code mark_output(struct reader *r, const char *key, void *into)
{
    return read_text(r, key, &((struct card_pair *)into)->output);
}
static enum err_code mark_on(struct reader *r, const char *key, void *into)
{
    return read_number(r, key, &((struct card_pair *)into)->on);
}
static enum err_code mark_off(struct reader *r, const char *key, void *into)
{
    return read_number(r, key, &((struct card_pair *)into)->off);
}
static enum err_code mark_hold(struct reader *r, const char *key, void *into)
{
    yaml_mark_t mark = r->event.start_mark;
    struct card_pair *pair = into;

    TRY(read_count(r, key, 1, &pair->hold));
    if (pair->hold > UINT32_MAX)
        return fail_at(r, mark, "'%s' is expected to be %u at most", key, UINT32_MAX);
    return OK;
}

static const struct key mark_keys[] = {
    { "name", mark_name }, { "output", mark_output }, { "on", mark_on },
    { "off", mark_off },   { "hold", mark_hold },
};

static enum err_code stream_marks(struct reader *r, const char *key, void *into)
{
    struct card_stream *stream = into;

    TRY(enter(r, YAML_SEQUENCE_START_EVENT, key));
    while (!is_end(r)) {
        yaml_mark_t at = r->event.start_mark;
        struct card_pair *mark = one_more(r, key, &stream->marks, &stream->marks_count);
        if (mark == NULL)
            return r->err->code;
        TRY(read_mapping(r, "a mark", mark_keys, COUNT(mark_keys), mark));
        if (mark->input == NULL || mark->output == NULL || isnan(mark->on))
            return fail_at(r, at, "a mark needs name, output and on");
        if (isnan(mark->off))
            mark->off = mark->on;
        if (mark->off > mark->on)
            return fail_at(r, at, "off %g is greater than on %g", mark->off, mark->on);
        for (uint32_t i = 0; i + 1 < stream->marks_count; i++)
            if (strcmp(stream->marks[i].input, mark->input) == 0)
                return fail_at(r, at, "the mark '%.60s' is listed twice", mark->input);
    }
    return leave(r);
}

static const struct key stream_keys[] = {
    { "reduce", stream_reduce }, { "window", stream_window },       { "step", stream_step },
    { "pad", stream_pad },       { "axis", stream_axis },           { "state", stream_state },
    { "marks", stream_marks },   { "constants", stream_constants },
};

static enum err_code card_stream(struct reader *r, const char *key, void *into)
{
    struct card_stream *stream = &((struct card *)into)->stream;
    yaml_mark_t mark = r->event.start_mark;

    stream->is_there = true;
    stream->axis = -1;
    stream->line = (int)mark.line + 1;
    TRY(read_mapping(r, key, stream_keys, COUNT(stream_keys), stream));
    bool is_window = stream->has_reduce && stream->reduce == SESSION_WINDOW;
    if (is_window && stream->window == 0)
        return fail_at(r, mark, "reduce: window needs `window`, the rows of a run");
    if (!is_window && (stream->window != 0 || stream->step != 0 || stream->pad != 0))
        return fail_at(r, mark, "window, step and pad are for reduce: window");
    return OK;
}

static const struct key card_keys[] = {
    { "title", card_title },     { "description", card_description }, { "license", card_license },
    { "inputs", card_inputs },   { "outputs", card_outputs },         { "example", card_example },
    { "service", card_service }, { "stream", card_stream },
};

static enum err_code read_card(struct reader *r, struct card *card)
{
    TRY(next(r)); /* the stream's start */
    TRY(next(r));
    if (r->event.type == YAML_STREAM_END_EVENT)
        return OK;
    TRY(next(r)); /* the document's start was current */
    if (is_null(r))
        TRY(next(r));
    else
        TRY(read_mapping(r, "model.yaml", card_keys, COUNT(card_keys), card));
    TRY(next(r)); /* the document's end was current */
    if (r->event.type != YAML_STREAM_END_EVENT)
        return fail_here(r, "a second document begins: only one is taken");
    return OK;
}

enum err_code card_parse(struct card **ret, struct arena *arena, struct slice yaml, struct err *err)
{
    struct reader r = { .arena = arena, .err = err };
    struct card *card = arena_zalloc(arena, sizeof *card);

    if (yaml.size > CARD_BYTES_MAX)
        return err_set(err, E_INVALID, "the file has %zu bytes, the most is %d", yaml.size,
                       CARD_BYTES_MAX);
    if (card == NULL || !yaml_parser_initialize(&r.yaml))
        return no_memory(err);
    yaml_parser_set_input_string(&r.yaml, yaml.size == 0 ? (const uint8_t *)"" : yaml.data,
                                 yaml.size);
    enum err_code code = read_card(&r, card);
    if (r.has_event)
        yaml_event_delete(&r.event);
    yaml_parser_delete(&r.yaml);
    if (code == OK)
        *ret = card;
    return code;
}

/* -- into the signature ------------------------------------------------------------------------ */

static bool is_float(enum penstock_dtype dtype)
{
    return dtype == PENSTOCK_FP16 || dtype == PENSTOCK_FP32 || dtype == PENSTOCK_FP64 ||
           dtype == PENSTOCK_BF16;
}

static bool is_int(enum penstock_dtype dtype)
{
    return dtype >= PENSTOCK_UINT8 && dtype <= PENSTOCK_INT64;
}

static bool is_number(enum penstock_dtype dtype)
{
    return is_float(dtype) || is_int(dtype);
}

static struct signature_tensor *find_tensor(struct signature_tensor *list, uint32_t count,
                                            const char *name)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    return NULL;
}

static enum err_code fail_unknown(const struct card_tensor *c, const char *kind,
                                  const struct signature_tensor *list, uint32_t count,
                                  struct err *err)
{
    struct nearest nearest = nearest_to(slice_of(c->name));
    uint8_t room[600];
    struct text names;

    text_init_fixed(&names, room, sizeof room);
    for (uint32_t i = 0; i < count; i++) {
        nearest_offer(&nearest, list[i].name);
        if (i < 6)
            text_printf(&names, "%s'%.60s'", i == 0 ? "" : ", ", list[i].name);
    }
    if (count > 6)
        text_printf(&names, " and %u more", count - 6);
    if (nearest_best(&nearest) != NULL)
        return err_set(err, E_INVALID,
                       "line %d: the model has no %s '%s'; the nearest is '%s' (it has %s)",
                       c->line, kind, c->name, nearest_best(&nearest), text_cstr(&names));
    return err_set(err, E_INVALID, "line %d: the model has no %s '%s'; it has %s", c->line, kind,
                   c->name, count == 0 ? "none" : text_cstr(&names));
}

/* What the card says of one tensor against what the tensor is. */
static enum err_code check_tensor(const struct card_tensor *c, const char *kind,
                                  const struct signature_tensor *t, struct err *err)
{
    const struct signature_tensor *h = &c->human;
    int64_t last = t->rank == 0 ? 1 : t->dims[t->rank - 1];
    bool scores = h->role == ROLE_PROBABILITIES || (h->role == ROLE_AUTO && is_float(t->dtype));

    if (h->features_count != 0 && last != (int64_t)h->features_count)
        return err_set(err, E_INVALID,
                       "line %d: %s '%s' has %u features listed, but its last dimension is %lld%s",
                       c->line, kind, t->name, h->features_count, (long long)last,
                       last == -1 ? " (any size)" : "");
    if (h->labels_count != 0 && scores && last != -1 && last != (int64_t)h->labels_count)
        return err_set(err, E_INVALID,
                       "line %d: %s '%s' has %u labels listed, but its last dimension is %lld",
                       c->line, kind, t->name, h->labels_count, (long long)last);
    if ((!isnan(h->min) || !isnan(h->max)) && !is_number(t->dtype))
        return err_set(err, E_INVALID, "line %d: min and max are for numbers, and %s '%s' is %s",
                       c->line, kind, t->name, dtype_name(t->dtype));
    if (h->role == ROLE_PROBABILITIES && (!is_number(t->dtype) || t->rank == 0))
        return err_set(err, E_INVALID,
                       "line %d: the role probabilities is for one score a class along the last "
                       "dimension, and %s '%s' is %s of %u dimensions",
                       c->line, kind, t->name, dtype_name(t->dtype), t->rank);
    return OK;
}

static enum err_code apply_tensors(const struct card_tensor *cards, uint32_t cards_count,
                                   const char *kind, struct signature_tensor *list, uint32_t count,
                                   struct err *err)
{
    for (uint32_t i = 0; i < cards_count; i++) {
        const struct signature_tensor *h = &cards[i].human;
        struct signature_tensor *t = find_tensor(list, count, cards[i].name);
        if (t == NULL)
            return fail_unknown(&cards[i], kind, list, count, err);
        TRY(check_tensor(&cards[i], kind, t, err));
        t->title = h->title;
        t->unit = h->unit;
        t->description = h->description;
        t->example_json = h->example_json;
        t->content_type = h->content_type;
        t->min = h->min;
        t->max = h->max;
        t->role = h->role;
        t->number = h->number;
        t->features = h->features;
        t->features_count = h->features_count;
        if (h->labels_count != 0) {
            t->labels = h->labels;
            t->labels_count = h->labels_count;
            t->labels_may_differ = false;
        }
    }
    /* Typed routes call a tensor by its title: two of one name could not be told apart. */
    for (uint32_t i = 0; i < cards_count; i++) {
        const char *title = cards[i].human.title;
        for (uint32_t j = 0; title != NULL && j < count; j++) {
            const char *other = list[j].title != NULL ? list[j].title : list[j].name;
            if (strcmp(list[j].name, cards[i].name) != 0 && strcmp(other, title) == 0)
                return err_set(err, E_INVALID,
                               "line %d: two of the model's %ss would be called "
                               "'%s'",
                               cards[i].line, kind, title);
        }
    }
    return OK;
}

enum err_code card_apply(const struct card *card, struct signature *signature,
                         struct arena *arena UNUSED, struct err *err)
{
    TRY(apply_tensors(card->inputs, card->inputs_count, "input", signature->inputs,
                      signature->inputs_count, err));
    TRY(apply_tensors(card->outputs, card->outputs_count, "output", signature->outputs,
                      signature->outputs_count, err));
    signature->title = card->title;
    signature->description = card->description;
    signature->license = card->license;
    signature->example_json = card->example_json;
    return OK;
}

enum err_code signature_set_labels(struct signature_tensor *tensor, struct slice text,
                                   struct arena *arena, struct err *err)
{
    uint32_t count = 0;

    if (slice_starts(text, "\xef\xbb\xbf"))
        text = slice_skip(text, 3);
    for (size_t at = 0; at < text.size && count <= CARD_LABELS_MAX; count++)
        at += slice_find(slice_skip(text, at), '\n') + 1;
    if (count > CARD_LABELS_MAX)
        return err_set(err, E_INVALID, "there are more than %d labels", CARD_LABELS_MAX);
    if (count == 0)
        return err_set(err, E_INVALID, "there are no labels: write one a line");
    const char **labels = arena_alloc(arena, count * sizeof *labels);
    if (labels == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the labels; retry later");
    for (uint32_t i = 0; i < count; i++) {
        struct slice line = slice_first(text, slice_find(text, '\n'));
        text = slice_skip(text, MIN(line.size + 1, text.size));
        if (line.size != 0 && line.data[line.size - 1] == '\r')
            line.size--;
        if (utf8_valid_prefix(line) != line.size || slice_find(line, 0) != line.size)
            return err_set(err, E_INVALID, "line %u: the label is not UTF-8 text", i + 1);
        labels[i] = arena_strndup(arena, line.data, line.size);
        if (labels[i] == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for the labels; retry later");
    }
    tensor->labels = labels;
    tensor->labels_count = count;
    return OK;
}

static bool name_has(const struct signature_tensor *t, const char *word)
{
    return strcasestr(t->name, word) != NULL;
}

static bool is_named_like_scores(const struct signature_tensor *t)
{
    return is_float(t->dtype) && (name_has(t, "prob") || name_has(t, "score"));
}

static int64_t last_dim(const struct signature_tensor *t)
{
    return t->rank == 0 ? 1 : t->dims[t->rank - 1];
}

static bool is_label(const struct signature_tensor *t, bool has_scores)
{
    return t->labels_count != 0 || t->classes_count != 0 ||
           (has_scores && (name_has(t, "label") || name_has(t, "class")));
}

static enum output_role decide_role(const struct signature *s, const struct signature_tensor *t)
{
    bool has_scores = false, has_number = false;

    for (uint32_t i = 0; i < s->outputs_count; i++)
        has_scores = has_scores || (&s->outputs[i] != t && is_named_like_scores(&s->outputs[i]));
    for (uint32_t i = 0; i < s->outputs_count; i++)
        has_number = has_number || s->outputs[i].role == ROLE_LABEL ||
                     (is_int(s->outputs[i].dtype) && is_label(&s->outputs[i], has_scores));
    if (is_int(t->dtype) && is_label(t, has_scores))
        return ROLE_LABEL;
    /* Words beside a class number are its name, or anything: they are shown as they are. */
    if (t->dtype == PENSTOCK_BYTES && !has_number && is_label(t, has_scores))
        return ROLE_LABEL;
    if (is_float(t->dtype) && t->rank != 0 &&
        (name_has(t, "prob") || (t->labels_count != 0 && last_dim(t) == (int64_t)t->labels_count)))
        return ROLE_PROBABILITIES;
    return ROLE_VALUE;
}

static struct signature_tensor *only_of_role(const struct signature *s, enum output_role role)
{
    struct signature_tensor *found = NULL;

    for (uint32_t i = 0; i < s->outputs_count; i++) {
        if (s->outputs[i].role != role)
            continue;
        if (found != NULL)
            return NULL;
        found = &s->outputs[i];
    }
    return found;
}

static void give_classes(struct signature_tensor *to, const struct signature_tensor *from)
{
    to->classes_count = from->classes_count;
    to->class_names = from->class_names;
    to->class_numbers = from->class_numbers;
}

/* The label and the scores of one classifier are of the same classes. */
static void share_classes(const struct signature *s)
{
    struct signature_tensor *label = only_of_role(s, ROLE_LABEL);
    struct signature_tensor *scores = only_of_role(s, ROLE_PROBABILITIES);

    if (label == NULL || scores == NULL)
        return;
    if (scores->classes_count == 0 && label->classes_count != 0 &&
        (last_dim(scores) == -1 || last_dim(scores) == (int64_t)label->classes_count))
        give_classes(scores, label);
    else if (label->classes_count == 0 &&
             (label->dtype == PENSTOCK_BYTES) == (scores->class_names != NULL))
        give_classes(label, scores);
}

/* Labels given once are the labels of both: of the class number and of the scores. */
static void share_labels(const struct signature *s)
{
    const struct signature_tensor *from = NULL;
    uint32_t labelled = 0;

    for (uint32_t i = 0; i < s->outputs_count; i++) {
        labelled += s->outputs[i].labels_count != 0;
        if (s->outputs[i].labels_count != 0)
            from = &s->outputs[i];
    }
    for (uint32_t i = 0; labelled == 1 && i < s->outputs_count; i++) {
        struct signature_tensor *t = &s->outputs[i];
        bool fits = last_dim(t) == -1 || last_dim(t) == (int64_t)from->labels_count;
        if (t->role == ROLE_LABEL || (t->role == ROLE_PROBABILITIES && fits)) {
            t->labels = from->labels;
            t->labels_count = from->labels_count;
            t->labels_may_differ = from->labels_may_differ;
        }
    }
}

void signature_decide_roles(struct signature *signature)
{
    for (uint32_t i = 0; i < signature->outputs_count; i++) {
        struct signature_tensor *t = &signature->outputs[i];
        if (t->role == ROLE_AUTO)
            t->role = decide_role(signature, t);
    }
    share_labels(signature);
    share_classes(signature);
}

/* How many classes the output tells apart; 0: not known before a run. `scores` are those beside a
 * label, or NULL. One score alone is the probability of one of two classes. */
static uint64_t count_classes(const struct signature_tensor *t,
                              const struct signature_tensor *scores)
{
    if (t->classes_count != 0)
        return t->classes_count;
    if (scores == NULL || scores->classes_count != 0)
        return scores == NULL ? 0 : scores->classes_count;
    return last_dim(scores) > 1 ? (uint64_t)last_dim(scores) : 0;
}

enum err_code signature_check_labels(const struct signature *s, struct err *err)
{
    const struct signature_tensor *label = only_of_role(s, ROLE_LABEL);
    const struct signature_tensor *scores = only_of_role(s, ROLE_PROBABILITIES);

    for (uint32_t i = 0; i < s->outputs_count; i++) {
        const struct signature_tensor *t = &s->outputs[i];
        if (t->labels_count == 0 || t->labels_may_differ ||
            (t->role != ROLE_LABEL && t->role != ROLE_PROBABILITIES))
            continue;
        uint64_t classes = count_classes(t, t->role == ROLE_PROBABILITIES ? t
                                            : t == label                  ? scores
                                                                          : NULL);
        if (classes != 0 && classes != t->labels_count)
            return err_set(err, E_INVALID,
                           "output '%s' has %u labels, and the model has %llu classes: write one "
                           "label for each, in the order of the classes",
                           t->name, t->labels_count, (unsigned long long)classes);
    }
    return OK;
}
