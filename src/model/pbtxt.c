/* pbtxt.c - SPDX-License-Identifier: Apache-2.0
 *
 * A recursive descent over one token of look-ahead. A token remembers where its line began, so that
 * columns are counted only when there is an error to place. Recursion is bounded by depth_max and
 * by the schema; memory by the text's size and SCHEMA_VALUES_MAX.
 *
 * "Text format" in the comments is protobuf.dev/reference/protobuf/textformat-spec.
 */
#include "model/pbtxt.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <yyjson.h>

#include "base/text.h"
#include "base/utf8.h"
#include "model/nearest.h"

enum token_kind {
    TOKEN_END,
    TOKEN_NAME,   /* letters, digits and _ */
    TOKEN_INT,    /* decimal, 0x or 0 octal: `number`, or `is_huge` */
    TOKEN_FLOAT,  /* the rest of what begins with a digit or a dot */
    TOKEN_STRING, /* with its quotes; not yet unescaped */
    TOKEN_MARK    /* one byte */
};

struct token {
    enum token_kind kind;
    struct slice text;
    uint32_t line;
    const uint8_t *line_start;
    uint64_t number;
    bool is_huge;    /* an integer past uint64 */
    bool is_decimal; /* an integer without 0x and leading 0 */
};

struct parser {
    const uint8_t *at, *end;
    uint32_t line;
    const uint8_t *line_start;
    struct token token; /* the next one */
    struct token last;  /* the one that was taken */
    struct yyjson_mut_doc *doc;
    uint32_t depth, depth_max, values_left;
    struct text string; /* the string being unescaped */
    struct err *err;
};

static enum err_code no_memory(struct parser *p)
{
    return err_set(p->err, E_EXHAUSTED, "no memory for the configuration; retry later");
}

static unsigned column_of(const uint8_t *line_start, const uint8_t *at)
{
    unsigned column = 1;

    for (; line_start < at; line_start++)
        column += (*line_start & 0xc0) != 0x80;
    return column;
}

/* The place goes before the words of err_set. */
static enum err_code at_place(struct parser *p, uint32_t line, const uint8_t *line_start,
                              const uint8_t *at)
{
    err_wrap(p->err, "line %u, column %u", line, column_of(line_start, at));
    return E_INVALID;
}

#define fail_token(p, token, ...)               \
    (err_set((p)->err, E_INVALID, __VA_ARGS__), \
     at_place(p, (token)->line, (token)->line_start, (token)->text.data))
#define fail_byte(p, byte, ...) \
    (err_set((p)->err, E_INVALID, __VA_ARGS__), at_place(p, (p)->line, (p)->line_start, byte))

/* What stands there, for "... but got ...". */
static const char *describe(const struct token *token, char *out, size_t size)
{
    uint8_t first = token->text.size != 0 ? token->text.data[0] : 0;

    if (token->kind == TOKEN_END)
        snprintf(out, size, "the end of the file");
    else if (token->kind == TOKEN_MARK && (first < 0x20 || first >= 0x7f))
        snprintf(out, size, "byte 0x%02x", first);
    else if (token->text.size > 40)
        snprintf(out, size, "%s", token->kind == TOKEN_STRING ? "a string" : "a long word");
    else
        snprintf(out, size, token->kind == TOKEN_STRING ? "%.*s" : "'%.*s'",
                 SLICE_ARG(token->text));
    return out;
}

enum { DESCRIPTION = 64 };

/* -- tokens ------------------------------------------------------------------------------------ */

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static unsigned hex_digit(uint8_t c) /* 16: none */
{
    if (is_digit(c))
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10u : 16u;
}

static uint8_t peek(const struct parser *p, size_t ahead) /* 0 past the end */
{
    return (size_t)(p->end - p->at) > ahead ? p->at[ahead] : 0;
}

static void skip_blanks(struct parser *p)
{
    for (; p->at < p->end; p->at++) {
        if (*p->at == '#')
            while (p->at < p->end && *p->at != '\n')
                p->at++;
        if (p->at == p->end)
            return;
        if (*p->at == '\n') {
            p->line++;
            p->line_start = p->at + 1;
        } else if (*p->at != ' ' && *p->at != '\t' && *p->at != '\r' && *p->at != '\v' &&
                   *p->at != '\f') {
            return;
        }
    }
}

static void add_digit(struct token *t, unsigned base, unsigned digit)
{
    uint64_t number;

    if (__builtin_mul_overflow(t->number, (uint64_t)base, &number) ||
        __builtin_add_overflow(number, (uint64_t)digit, &number))
        t->is_huge = true;
    else
        t->number = number;
}

static enum err_code scan_number(struct parser *p, struct token *t)
{
    const uint8_t *start = p->at;

    t->kind = TOKEN_INT;
    if (*p->at == '0' && (peek(p, 1) | 0x20) == 'x') {
        p->at += 2;
        if (hex_digit(peek(p, 0)) == 16)
            return fail_byte(p, start, "0x is not followed by a hexadecimal digit");
        for (; hex_digit(peek(p, 0)) < 16; p->at++)
            add_digit(t, 16, hex_digit(*p->at));
    } else if (*p->at == '0' && is_digit(peek(p, 1))) {
        for (p->at++; is_digit(peek(p, 0)); p->at++) {
            if (*p->at > '7')
                return fail_byte(p, start,
                                 "a number that begins with 0 is octal, and '%c' is no "
                                 "octal digit",
                                 *p->at);
            add_digit(t, 8, (unsigned)(*p->at - '0'));
        }
    } else {
        t->is_decimal = true;
        for (; is_digit(peek(p, 0)); p->at++)
            add_digit(t, 10, (unsigned)(*p->at - '0'));
        if (peek(p, 0) == '.') {
            t->kind = TOKEN_FLOAT;
            for (p->at++; is_digit(peek(p, 0)); p->at++)
                continue;
        }
        if ((peek(p, 0) | 0x20) == 'e') {
            t->kind = TOKEN_FLOAT;
            p->at++;
            if (peek(p, 0) == '+' || peek(p, 0) == '-')
                p->at++;
            if (!is_digit(peek(p, 0)))
                return fail_byte(p, start, "the exponent has no digits");
            for (; is_digit(peek(p, 0)); p->at++)
                continue;
        }
        if ((peek(p, 0) | 0x20) == 'f') {
            t->kind = TOKEN_FLOAT;
            p->at++;
        }
    }
    if (is_letter(peek(p, 0)) || is_digit(peek(p, 0)) || peek(p, 0) == '.')
        return fail_byte(p, p->at,
                         "'%c' directly after a number: put a blank between, or is the "
                         "number not what was meant?",
                         *p->at);
    return OK;
}

static enum err_code scan_string(struct parser *p, struct token *t)
{
    const uint8_t *start = p->at;
    uint8_t quote = *p->at++;

    t->kind = TOKEN_STRING;
    for (; p->at < p->end && *p->at != '\n'; p->at++) {
        if (*p->at == quote) {
            p->at++;
            return OK;
        }
        if (*p->at == '\\' && p->at + 1 < p->end && p->at[1] != '\n')
            p->at++;
    }
    return fail_byte(p, start, "the string is not closed: a %c is missing before the end of the %s",
                     quote, p->at < p->end ? "line" : "file");
}

/* Takes the token that is next and looks at the one after it. */
static enum err_code advance(struct parser *p)
{
    struct token *t = &p->token;

    p->last = *t;
    skip_blanks(p);
    *t = (struct token){ .kind = TOKEN_END, .line = p->line, .line_start = p->line_start };
    t->text.data = p->at;
    if (p->at == p->end)
        return OK;
    if (is_letter(*p->at)) {
        t->kind = TOKEN_NAME;
        while (is_letter(peek(p, 0)) || is_digit(peek(p, 0)))
            p->at++;
    } else if (is_digit(*p->at) || (*p->at == '.' && is_digit(peek(p, 1)))) {
        TRY(scan_number(p, t));
    } else if (*p->at == '"' || *p->at == '\'') {
        TRY(scan_string(p, t));
    } else {
        t->kind = TOKEN_MARK;
        p->at++;
    }
    t->text.size = (size_t)(p->at - t->text.data);
    return OK;
}

static bool is_mark(const struct token *token, char mark)
{
    return token->kind == TOKEN_MARK && token->text.data[0] == (uint8_t)mark;
}

/* -- values ------------------------------------------------------------------------------------ */

/* Text format, "String Literals": simple escapes, octal, \x, \u, \U. */
static enum err_code unescape(struct parser *p, const struct token *t, const uint8_t **at,
                              const uint8_t *end)
{
    static const char plain[] = "abfnrtv?\\'\"", means[] = "\a\b\f\n\r\t\v?\\'\"";
    const uint8_t *start = *at - 1; /* the backslash */
    uint8_t c = *(*at)++, out[4];
    const char *found = c == '\0' ? NULL : strchr(plain, c);
    uint32_t code = 0;

#define fail_escape(...) \
    (err_set(p->err, E_INVALID, __VA_ARGS__), at_place(p, t->line, t->line_start, start))
    if (found != NULL) {
        text_byte(&p->string, (uint8_t)means[found - plain]);
        return OK;
    }
    if (c >= '0' && c <= '7') {
        code = c - '0';
        for (unsigned i = 0; i < 2 && *at < end && **at >= '0' && **at <= '7'; i++)
            code = code * 8 + *(*at)++ - '0';
        if (code > 255)
            return fail_escape("the octal escape is past \\377");
        text_byte(&p->string, (uint8_t)code);
        return OK;
    }
    if (c == 'x' || c == 'X') {
        unsigned digits = 0;
        for (; digits < 2 && *at < end && hex_digit(**at) < 16; digits++)
            code = code * 16 + hex_digit(*(*at)++);
        if (digits == 0)
            return fail_escape("\\x is not followed by a hexadecimal digit");
        text_byte(&p->string, (uint8_t)code);
        return OK;
    }
    if (c != 'u' && c != 'U')
        return fail_escape("unknown escape in a string: write \\\\ for a backslash");
    unsigned wanted = c == 'u' ? 4 : 8, digits = 0;
    for (; digits < wanted && *at < end && hex_digit(**at) < 16; digits++)
        code = code * 16 + hex_digit(*(*at)++);
    if (digits < wanted)
        return fail_escape("\\%c needs %u hexadecimal digits", c, wanted);
    if (code >= 0xd800 && code < 0xdc00 && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u') {
        uint32_t low = 0; /* a pair of surrogates, as the official parsers allow */
        digits = 0;
        for (; digits < 4 && hex_digit((*at)[2 + digits]) < 16; digits++)
            low = low * 16 + hex_digit((*at)[2 + digits]);
        if (digits == 4 && low >= 0xdc00 && low < 0xe000) {
            *at += 6;
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return fail_escape("the escape is no Unicode character");
    text_put(&p->string, out, utf8_put(out, code));
    return OK;
#undef fail_escape
}

/* One string after the other is one string. The answer is in p->string until the next one. */
static enum err_code parse_string(struct parser *p)
{
    struct token first = p->token;

    p->string.size = 0;
    while (p->token.kind == TOKEN_STRING) {
        const uint8_t *at = p->token.text.data + 1;
        const uint8_t *end = p->token.text.data + p->token.text.size - 1;
        while (at < end) {
            const uint8_t *plain = at;
            while (at < end && *at != '\\')
                at++;
            if (at != plain)
                text_put(&p->string, plain, (size_t)(at - plain));
            if (at == end)
                break;
            at++;
            TRY(unescape(p, &p->token, &at, end));
        }
        TRY(advance(p));
    }
    if (text_failed(&p->string))
        return no_memory(p);
    struct slice got = text_slice(&p->string);
    if (utf8_valid_prefix(got) != got.size)
        return fail_token(p, &first, "the string is not UTF-8 from its byte %zu on",
                          utf8_valid_prefix(got) + 1);
    if (got.size != 0 && slice_find(got, 0) != got.size)
        return fail_token(p, &first, "the string holds a zero byte");
    return OK;
}

static enum err_code fail_value(struct parser *p, const struct schema_field *field,
                                const char *expected)
{
    char got[DESCRIPTION];

    return fail_token(p, &p->token, "'%s' is %s: expected %s, got %s", field->name,
                      schema_type_name(field), expected, describe(&p->token, got, sizeof got));
}

static enum err_code parse_int(struct parser *p, const struct schema_field *field,
                               struct yyjson_mut_val **ret)
{
    struct token start = p->token;
    bool is_negative = is_mark(&p->token, '-');

    if (is_negative)
        TRY(advance(p));
    if (p->token.kind != TOKEN_INT)
        return fail_value(p, field, "a whole number");
    if (p->token.is_huge || !schema_int_fits(field->type, is_negative, p->token.number))
        return fail_token(p, &start, "%s%.*s is out of range: '%s' is %s, %s",
                          is_negative ? "-" : "", (int)MIN(p->token.text.size, 40u),
                          (const char *)p->token.text.data, field->name, schema_type_name(field),
                          schema_int_range(field->type));
    *ret = schema_int_value(p->doc, is_negative, p->token.number);
    return advance(p);
}

/* Text format, "Numeric Literals": decimals, inf, infinity and nan in any case; no hex or octal. */
static enum err_code parse_float(struct parser *p, const struct schema_field *field,
                                 struct yyjson_mut_val **ret)
{
    bool is_negative = is_mark(&p->token, '-');
    double value = 0;

    if (is_negative)
        TRY(advance(p));
    struct slice text = p->token.text;
    if (p->token.kind == TOKEN_NAME &&
        (slice_is_nocase(text, "inf") || slice_is_nocase(text, "infinity"))) {
        value = HUGE_VAL;
    } else if (p->token.kind == TOKEN_NAME && slice_is_nocase(text, "nan")) {
        value = (double)NAN;
    } else if (p->token.kind == TOKEN_FLOAT ||
               (p->token.kind == TOKEN_INT && p->token.is_decimal)) {
        /* strtod stops at the suffix f; the copy gives it an end. */
        p->string.size = 0;
        text_slice_put(&p->string, text);
        value = strtod(text_cstr(&p->string), NULL);
        if (text_failed(&p->string))
            return no_memory(p);
    } else {
        return fail_value(p, field, "a decimal number");
    }
    *ret = schema_float_value(p->doc, field->type, is_negative ? -value : value);
    return advance(p);
}

static enum err_code parse_bool(struct parser *p, const struct schema_field *field,
                                struct yyjson_mut_val **ret)
{
    static const char *const words[] = { "false", "False", "f", "true", "True", "t" };
    const struct token *t = &p->token;
    int is = -1;

    if (t->kind == TOKEN_INT && !t->is_huge && t->number <= 1)
        is = (int)t->number;
    for (unsigned i = 0; t->kind == TOKEN_NAME && i < COUNT(words); i++)
        if (slice_is(t->text, words[i]))
            is = i >= COUNT(words) / 2;
    if (is < 0)
        return fail_value(p, field, "true or false");
    *ret = yyjson_mut_bool(p->doc, is == 1);
    return advance(p);
}

static enum err_code parse_enum(struct parser *p, const struct schema_field *field,
                                struct yyjson_mut_val **ret)
{
    const struct schema_enum *values = field->values;
    const char *name = NULL;

    if (p->token.kind == TOKEN_NAME) {
        for (uint32_t i = 0; i < values->count; i++)
            if (slice_is(p->token.text, values->values[i].name))
                name = values->values[i].name;
        if (name == NULL) {
            schema_refuse_enum(values, p->token.text, p->err);
            return at_place(p, p->token.line, p->token.line_start, p->token.text.data);
        }
    } else {
        struct token start = p->token;
        bool is_negative = is_mark(&p->token, '-');
        if (is_negative)
            TRY(advance(p));
        if (p->token.kind != TOKEN_INT)
            return fail_value(p, field, "a name without quotes");
        if (!p->token.is_huge && p->token.number <= INT32_MAX &&
            (!is_negative || p->token.number == 0))
            name = schema_enum_name(values, (int64_t)p->token.number);
        if (name == NULL)
            return fail_token(p, &start, "%s%.*s is no value of %s", is_negative ? "-" : "",
                              (int)MIN(p->token.text.size, 40u), (const char *)p->token.text.data,
                              values->name);
    }
    *ret = yyjson_mut_str(p->doc, name);
    return advance(p);
}

static enum err_code parse_fields(struct parser *p, const struct schema_message *message,
                                  const struct token *open, struct yyjson_mut_val **ret);

static enum err_code parse_message(struct parser *p, const struct schema_message *message,
                                   const struct schema_field *field, struct yyjson_mut_val **ret)
{
    struct token open = p->token;

    if (!is_mark(&open, '{') && !is_mark(&open, '<'))
        return fail_value(p, field, "'{'");
    if (p->depth == p->depth_max)
        return fail_token(p, &open, "messages lie within messages more than %u deep", p->depth_max);
    p->depth++;
    TRY(advance(p));
    TRY(parse_fields(p, message, &open, ret));
    p->depth--;
    return OK;
}

static enum err_code charge(struct parser *p, const struct schema_field *field)
{
    uint32_t cost = schema_cost(field);

    if (p->values_left < cost)
        return fail_token(p, &p->token, "the configuration holds more than %d values",
                          SCHEMA_VALUES_MAX);
    p->values_left -= cost;
    return OK;
}

static enum err_code parse_value(struct parser *p, const struct schema_field *field,
                                 struct yyjson_mut_val **ret)
{
    struct yyjson_mut_val *made = NULL;
    const char *text;

    TRY(charge(p, field));
    switch (field->type) {
    case SCHEMA_BOOL: TRY(parse_bool(p, field, &made)); break;
    case SCHEMA_INT32:
    case SCHEMA_INT64:
    case SCHEMA_UINT32:
    case SCHEMA_UINT64: TRY(parse_int(p, field, &made)); break;
    case SCHEMA_FLOAT:
    case SCHEMA_DOUBLE: TRY(parse_float(p, field, &made)); break;
    case SCHEMA_ENUM: TRY(parse_enum(p, field, &made)); break;
    case SCHEMA_MESSAGE: TRY(parse_message(p, field->message, field, &made)); break;
    case SCHEMA_STRING:
        if (p->token.kind != TOKEN_STRING)
            return fail_value(p, field, "a string in quotes");
        TRY(parse_string(p));
        text = text_cstr(&p->string); /* "" when even the closing zero found no room */
        if (!text_failed(&p->string))
            made = yyjson_mut_strncpy(p->doc, text, p->string.size);
        break;
    }
    if (made == NULL)
        return no_memory(p);
    *ret = made;
    return OK;
}

/* A map is written as a list of messages with the fields `key` and `value`; either may be absent,
 * which means its default. */
static enum err_code parse_entry(struct parser *p, const struct schema_field *map,
                                 struct yyjson_mut_val *into)
{
    struct schema_field fields[2] = {
        { .name = "key", .label = SCHEMA_ONE, .type = map->key_type },
        { .name = "value",
          .label = SCHEMA_ONE,
          .type = map->type,
          .message = map->message,
          .values = map->values },
    };
    char name[80];
    struct schema_message entry = { .name = name, .count = COUNT(fields), .fields = fields };
    struct schema_field holder = { .name = map->name, .type = SCHEMA_MESSAGE, .message = &entry };
    struct token start = p->token;
    struct yyjson_mut_val *made = NULL, *key, *value;
    char number[24] = "0";

    snprintf(name, sizeof name, "an entry of %s", map->name);
    TRY(charge(p, &holder));
    TRY(parse_message(p, &entry, &holder, &made));
    key = yyjson_mut_obj_remove_key(made, "key");
    value = yyjson_mut_obj_remove_key(made, "value");
    if (map->key_type == SCHEMA_STRING) {
        if (key == NULL)
            key = yyjson_mut_str(p->doc, "");
    } else {
        if (key != NULL)
            snprintf(number, sizeof number, "%llu", (unsigned long long)yyjson_mut_get_uint(key));
        key = yyjson_mut_strcpy(p->doc, number);
    }
    if (value == NULL && map->type == SCHEMA_MESSAGE)
        value = yyjson_mut_obj(p->doc);
    else if (value == NULL)
        value = yyjson_mut_str(p->doc, "");
    if (key == NULL || value == NULL)
        return no_memory(p);
    yyjson_mut_obj_put(into, key, value);
    if (yyjson_mut_obj_size(into) > SCHEMA_MAP_MAX)
        return fail_token(p, &start, "'%s' has more than %d entries", map->name, SCHEMA_MAP_MAX);
    return OK;
}

/* -- fields ------------------------------------------------------------------------------------ */

static enum err_code fail_name(struct parser *p, const struct schema_message *message)
{
    struct nearest nearest = nearest_to(p->token.text);

    for (uint32_t i = 0; i < message->count; i++)
        nearest_offer(&nearest, message->fields[i].name);
    const char *best = nearest_best(&nearest);
    return fail_token(p, &p->token, "unknown field '%.*s' of %s%s%s%s",
                      (int)MIN(p->token.text.size, 64u), (const char *)p->token.text.data,
                      message->name, best != NULL ? "; the nearest is '" : "",
                      best != NULL ? best : "", best != NULL ? "'" : "");
}

static enum err_code check_presence(struct parser *p, const struct schema_message *message,
                                    const struct schema_field *field, struct yyjson_mut_val *object)
{
    if (field->label == SCHEMA_MANY || field->label == SCHEMA_MAP)
        return OK;
    if (yyjson_mut_obj_get(object, field->name) != NULL)
        return fail_token(p, &p->token, "'%s' is given twice and is not a list", field->name);
    for (uint32_t i = 0; field->label == SCHEMA_ONEOF && i < message->count; i++) {
        const struct schema_field *other = &message->fields[i];
        if (other->label == SCHEMA_ONEOF && strcmp(other->oneof, field->oneof) == 0 &&
            yyjson_mut_obj_get(object, other->name) != NULL)
            return fail_token(p, &p->token,
                              "'%s' cannot be given beside '%s': only one of %s may "
                              "be",
                              field->name, other->name, field->oneof);
    }
    return OK;
}

/* One value, or [a, b, ...], into the list or map that the object has for the field. */
static enum err_code parse_many(struct parser *p, const struct schema_field *field,
                                struct yyjson_mut_val *object)
{
    struct yyjson_mut_val *list = yyjson_mut_obj_get(object, field->name);
    bool is_list = is_mark(&p->token, '[');
    struct token open = p->token;
    char got[DESCRIPTION];

    if (list == NULL) {
        list = field->label == SCHEMA_MAP ? yyjson_mut_obj(p->doc) : yyjson_mut_arr(p->doc);
        if (!yyjson_mut_obj_add(object, yyjson_mut_str(p->doc, field->name), list))
            return no_memory(p);
    }
    if (is_list) {
        TRY(advance(p));
        if (is_mark(&p->token, ']'))
            return advance(p);
    }
    for (;;) {
        struct yyjson_mut_val *item = NULL;
        if (field->label == SCHEMA_MAP) {
            TRY(parse_entry(p, field, list));
        } else {
            TRY(parse_value(p, field, &item));
            yyjson_mut_arr_append(list, item);
        }
        if (!is_list)
            return OK;
        if (is_mark(&p->token, ']'))
            return advance(p);
        if (p->token.kind == TOKEN_END)
            return fail_token(p, &open, "the list of '%s' is not closed: a ']' is missing",
                              field->name);
        if (!is_mark(&p->token, ','))
            return fail_token(p, &p->token, "in the list of '%s': expected ',' or ']', got %s",
                              field->name, describe(&p->token, got, sizeof got));
        TRY(advance(p));
    }
}

static enum err_code parse_field(struct parser *p, const struct schema_message *message,
                                 struct yyjson_mut_val *object)
{
    const struct schema_field *field = schema_find(message, p->token.text);
    char got[DESCRIPTION];

    if (field == NULL)
        return fail_name(p, message);
    TRY(check_presence(p, message, field, object));
    TRY(advance(p));
    if (is_mark(&p->token, ':'))
        TRY(advance(p));
    else if (field->type != SCHEMA_MESSAGE && field->label != SCHEMA_MAP)
        return fail_token(p, &p->token, "expected ':' after '%s', got %s", field->name,
                          describe(&p->token, got, sizeof got));
    if (field->label == SCHEMA_MANY || field->label == SCHEMA_MAP) {
        TRY(parse_many(p, field, object));
    } else {
        struct yyjson_mut_val *value = NULL;
        if (is_mark(&p->token, '['))
            return fail_token(p, &p->token, "'%s' is one %s, not a list", field->name,
                              schema_type_name(field));
        TRY(parse_value(p, field, &value));
        if (!yyjson_mut_obj_add(object, yyjson_mut_str(p->doc, field->name), value))
            return no_memory(p);
    }
    if (is_mark(&p->token, ',') || is_mark(&p->token, ';'))
        TRY(advance(p));
    return OK;
}

/* Up to the mark that closes `open`, or to the end of the file when it is NULL. */
static enum err_code parse_fields(struct parser *p, const struct schema_message *message,
                                  const struct token *open, struct yyjson_mut_val **ret)
{
    struct yyjson_mut_val *object = yyjson_mut_obj(p->doc);
    char close = open == NULL ? '\0' : is_mark(open, '{') ? '}' : '>';
    char got[DESCRIPTION];

    if (object == NULL)
        return no_memory(p);
    for (;;) {
        if (p->token.kind == TOKEN_END && open == NULL)
            break;
        if (p->token.kind == TOKEN_END)
            return fail_token(p, open, "'%c' of %s is not closed: a '%c' is missing",
                              open->text.data[0], message->name, close);
        if (open != NULL && is_mark(&p->token, close)) {
            TRY(advance(p));
            break;
        }
        if (is_mark(&p->token, '['))
            return fail_token(p, &p->token, "extensions and Any are not part of %s", message->name);
        if (p->token.kind != TOKEN_NAME)
            return fail_token(p, &p->token, "expected a field of %s%s, got %s", message->name,
                              close == '}'   ? " or '}'"
                              : close == '>' ? " or '>'"
                                             : "",
                              describe(&p->token, got, sizeof got));
        TRY(parse_field(p, message, object));
    }
    *ret = object;
    return OK;
}

enum err_code pbtxt_parse(struct yyjson_mut_val **ret, struct yyjson_mut_doc *doc,
                          const struct schema_message *message, struct slice text,
                          uint32_t depth_max, struct err *err)
{
    CLEANUP(text_deinit) struct text string;
    struct parser p = {
        .at = text.data,
        .end = text.size == 0 ? text.data : text.data + text.size,
        .line = 1,
        .doc = doc,
        .depth_max = depth_max,
        .values_left = SCHEMA_VALUES_MAX,
        .err = err,
    };

    text_init(&string, text.size + 1);
    if (slice_starts(text, "\xef\xbb\xbf"))
        p.at += 3; /* a byte order mark, as some editors leave it */
    p.line_start = p.at;
    p.string = string;
    enum err_code code = advance(&p);
    if (code == OK)
        code = parse_fields(&p, message, NULL, ret);
    string = p.string;
    return code;
}
