/* exposition.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/exposition.h"

#include <stdlib.h>

#include "base/text.h"

enum { NUMBER_BYTES_MAX = 64 };

static bool is_name_byte(uint8_t c, bool is_first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == ':' ||
           (!is_first && c >= '0' && c <= '9');
}

static struct slice take_name(struct slice *rest)
{
    size_t size = 0;

    while (size < rest->size && is_name_byte(rest->data[size], size == 0))
        size++;
    struct slice name = slice_first(*rest, size);
    *rest = slice_skip(*rest, size);
    return name;
}

static void skip_blanks(struct slice *rest)
{
    while (rest->size > 0 && (rest->data[0] == ' ' || rest->data[0] == '\t'))
        *rest = slice_skip(*rest, 1);
}

static bool take_byte(struct slice *rest, uint8_t byte)
{
    if (rest->size == 0 || rest->data[0] != byte)
        return false;
    *rest = slice_skip(*rest, 1);
    return true;
}

/* Up to the closing quote, which is taken; false: there is none. */
static bool take_quoted(struct slice *rest, struct slice *ret)
{
    size_t size = 0;

    while (size < rest->size && rest->data[size] != '"')
        size += rest->data[size] == '\\' ? 2 : 1;
    if (size >= rest->size)
        return false;
    *ret = slice_first(*rest, size);
    *rest = slice_skip(*rest, size + 1);
    return true;
}

bool exposition_next_label(struct slice *labels, struct slice *ret_name, struct slice *ret_value)
{
    skip_blanks(labels);
    *ret_name = take_name(labels);
    if (ret_name->size == 0)
        return false;
    skip_blanks(labels);
    if (!take_byte(labels, '='))
        return false;
    skip_blanks(labels);
    if (!take_byte(labels, '"') || !take_quoted(labels, ret_value))
        return false;
    skip_blanks(labels);
    return take_byte(labels, ',') || labels->size == 0 || labels->data[0] == '}';
}

struct slice exposition_label(struct slice labels, const char *name)
{
    struct slice found, value;

    while (exposition_next_label(&labels, &found, &value))
        if (slice_is(found, name))
            return value;
    return slice_make(NULL, 0);
}

void exposition_unescape(struct text *out, struct slice value)
{
    for (size_t i = 0; i < value.size; i++) {
        uint8_t c = value.data[i];
        if (c == '\\' && i + 1 < value.size) {
            c = value.data[++i];
            c = c == 'n' ? '\n' : c;
        }
        text_byte(out, c);
    }
}

static bool take_number(struct slice *rest, double *ret)
{
    char text[NUMBER_BYTES_MAX];
    char *end;
    size_t size = 0;

    while (size < rest->size && rest->data[size] != ' ' && rest->data[size] != '\t')
        size++;
    if (size == 0 || size >= sizeof text)
        return false;
    memcpy(text, rest->data, size);
    text[size] = '\0';
    *rest = slice_skip(*rest, size);
    *ret = strtod(text, &end);
    return end == text + size;
}

static const char *read_sample(struct slice line, struct exposition_sample *ret)
{
    struct slice rest = line;

    ret->name = take_name(&rest);
    if (ret->name.size == 0)
        return "the name of a metric";
    ret->labels = slice_make(rest.data, 0);
    if (take_byte(&rest, '{')) {
        static const char wanted[] =
            "labels: name=\"value\", with a comma between, and a closing brace";
        struct slice inside = rest, name, value;
        for (skip_blanks(&rest); rest.size > 0 && rest.data[0] != '}'; skip_blanks(&rest))
            if (!exposition_next_label(&rest, &name, &value))
                return wanted;
        if (rest.size == 0)
            return wanted;
        ret->labels = slice_first(inside, inside.size - rest.size);
        rest = slice_skip(rest, 1);
    }
    ret->series = slice_first(line, line.size - rest.size);
    skip_blanks(&rest);
    if (!take_number(&rest, &ret->value))
        return "a number";
    return NULL; /* a time and an exemplar may follow: they say nothing here */
}

bool exposition_next(struct exposition *at, struct exposition_sample *ret, struct err *err)
{
    err->code = OK;
    while (at->rest.size > 0) {
        struct slice line = slice_first(at->rest, slice_find(at->rest, '\n'));
        at->rest = slice_skip(at->rest, MIN(line.size + 1, at->rest.size));
        at->line++;
        line = slice_trim(line);
        if (line.size == 0 || line.data[0] == '#')
            continue;
        const char *wanted = read_sample(line, ret);
        if (wanted == NULL)
            return true;
        struct slice shown = slice_first(line, 60);
        err_set(err, E_DATA_LOSS, "line %u of the metrics is '%.*s'; expected %s", at->line,
                SLICE_ARG(shown), wanted);
        return false;
    }
    return false;
}
