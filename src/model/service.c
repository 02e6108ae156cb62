/* service.c - SPDX-License-Identifier: Apache-2.0
 *
 * Names are UpperCamelCase without underscores, so that the snake_case file of each is its own: an
 * underscore there always stands before what was a capital.
 */
#include "model/service.h"

#include <stdio.h>

#include "base/arena.h"
#include "base/text.h"
#include "base/utf8.h"

enum { HASH_BYTES = 9 }; /* "X" and eight digits */

static bool is_upper(uint8_t c)
{
    return c >= 'A' && c <= 'Z';
}

static bool is_lower(uint8_t c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

/* FNV-1a: the same in every process and version, as the name it ends up in must be. */
static uint32_t hash_of(const char *name)
{
    uint32_t hash = 2166136261u;

    for (; *name != '\0'; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return hash;
}

static uint32_t code_point(struct slice text, size_t step)
{
    static const uint8_t masks[] = { 0, 0x7f, 0x1f, 0x0f, 0x07 };
    uint32_t code = text.data[0] & masks[step];

    for (size_t i = 1; i < step; i++)
        code = code << 6 | (text.data[i] & 0x3fu);
    return code;
}

static void put_words(struct text *out, struct slice rest)
{
    bool begins_word = true;

    while (rest.size != 0) {
        uint8_t c = rest.data[0];
        size_t step = MAX(utf8_step(rest), (size_t)1);
        if (c >= 0x80) {
            text_printf(out, "U%04x", step == 1 ? (unsigned)c : (unsigned)code_point(rest, step));
            begins_word = true;
        } else if (is_upper(c) || is_lower(c) || is_digit(c)) {
            if (out->size == 0 && is_digit(c))
                text_str(out, "Model");
            text_byte(out, begins_word && is_lower(c) ? (uint8_t)(c - 'a' + 'A') : c);
            begins_word = false;
        } else {
            begins_word = true;
        }
        rest = slice_skip(rest, step);
    }
    if (out->size == 0)
        text_str(out, "Model");
}

/* penstock.models.SpamPredictRequest is a message of penstock.models.Spam. */
static bool is_message_name(struct slice name)
{
    return slice_ends(name, "PredictRequest") || slice_ends(name, "PredictResponse");
}

static const char *derive(struct arena *arena, const char *model, bool is_apart)
{
    struct text out;

    text_init_arena(&out, arena, 2 * strlen(model) + 32);
    put_words(&out, slice_of(model));
    if (is_message_name(text_slice(&out)))
        text_str(&out, "Model");
    if (out.size > SERVICE_BYTES_MAX - HASH_BYTES) {
        out.size = SERVICE_BYTES_MAX - HASH_BYTES;
        is_apart = true;
    }
    if (is_apart)
        text_printf(&out, "X%08x", hash_of(model));
    const char *name = text_cstr(&out);
    return text_failed(&out) ? NULL : name;
}

const char *service_of_model(struct arena *arena, const char *model)
{
    return derive(arena, model, false);
}

const char *service_of_model_apart(struct arena *arena, const char *model)
{
    return derive(arena, model, true);
}

bool service_is_name(struct slice name)
{
    if (name.size == 0 || name.size > SERVICE_BYTES_MAX || !is_upper(name.data[0]) ||
        is_message_name(name))
        return false;
    for (size_t i = 0; i < name.size; i++)
        if (!is_upper(name.data[i]) && !is_lower(name.data[i]) && !is_digit(name.data[i]))
            return false;
    return true;
}

const char *service_file_stem(struct arena *arena, const char *service)
{
    struct text out;

    text_init_arena(&out, arena, 2 * strlen(service) + 1);
    for (const char *c = service; *c != '\0'; c++) {
        bool is_capital = is_upper((uint8_t)*c);
        if (is_capital && c != service)
            text_byte(&out, '_');
        text_byte(&out, (uint8_t)(is_capital ? *c - 'A' + 'a' : *c));
    }
    const char *stem = text_cstr(&out);
    return text_failed(&out) ? NULL : stem;
}
