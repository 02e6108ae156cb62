/* text.c - SPDX-License-Identifier: Apache-2.0 */
#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/utf8.h"

enum { ROOM_MIN = 256 };

void text_init(struct text *text, size_t cap_bytes)
{
    *text = (struct text){ .cap = cap_bytes };
}

void text_init_arena(struct text *text, struct arena *arena, size_t first_bytes)
{
    *text = (struct text){ .cap = SIZE_MAX, .arena = arena };
    if (first_bytes == 0)
        return;
    text->data = arena_alloc(arena, first_bytes);
    text->room = text->data == NULL ? 0 : first_bytes;
    text->has_failed = text->data == NULL;
}

void text_init_fixed(struct text *text, void *memory, size_t size)
{
    *text = (struct text){ .data = memory, .room = size, .cap = size, .is_fixed = true };
}

void text_deinit(struct text *text)
{
    if (text->arena == NULL && !text->is_fixed)
        mem_free(text->data);
    *text = (struct text){ .cap = 0, .has_failed = true };
}

static void release_heap(void *context UNUSED, void *data)
{
    mem_free(data);
}

enum err_code text_to_buf(struct text *text, struct buf **ret, struct err *err)
{
    require(text->arena == NULL && !text->is_fixed);
    if (text->has_failed)
        return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    TRY(buf_adopt(ret, text->data, text->size, release_heap, NULL, err));
    *text = (struct text){ .cap = text->cap };
    return OK;
}

static COLD bool grow(struct text *text, size_t size)
{
    if (text->has_failed)
        return false;
    text->has_failed = true;
    if (text->is_fixed || size > text->cap || text->size > text->cap - size)
        return false;
    size_t room = MAX(text->room + text->room / 2, MAX(text->size + size, (size_t)ROOM_MIN));
    room = MIN(room, text->cap);
    uint8_t *data = text->arena != NULL
                        ? arena_resize(text->arena, text->data, text->room, room)
                        : mem_resize(text->data, room);
    if (data == NULL)
        return false;
    text->data = data;
    text->room = room;
    text->has_failed = false;
    return true;
}

uint8_t *text_room(struct text *text, size_t size)
{
    if (UNLIKELY(text->has_failed || text->room - text->size < size) && !grow(text, size))
        return NULL;
    return text->data + text->size;
}

void text_put(struct text *text, const void *data, size_t size)
{
    uint8_t *at = size == 0 ? NULL : text_room(text, size);

    if (LIKELY(at != NULL)) {
        memcpy(at, data, size);
        text->size += size;
    }
}

void text_byte(struct text *text, uint8_t byte)
{
    uint8_t *at = text_room(text, 1);

    if (LIKELY(at != NULL)) {
        *at = byte;
        text->size++;
    }
}

void text_str(struct text *text, const char *str)
{
    text_put(text, str, strlen(str));
}

void text_slice_put(struct text *text, struct slice slice)
{
    text_put(text, slice.data, slice.size);
}

void text_u64(struct text *text, uint64_t value)
{
    char digits[20];
    size_t at = sizeof digits;

    do
        digits[--at] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    text_put(text, digits + at, sizeof digits - at);
}

void text_i64(struct text *text, int64_t value)
{
    if (value < 0)
        text_byte(text, '-');
    text_u64(text, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

void text_printf(struct text *text, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    uint8_t *at = size < 0 ? NULL : text_room(text, (size_t)size + 1);
    if (at == NULL)
        return;
    va_start(args, format);
    vsnprintf((char *)at, (size_t)size + 1, format, args);
    va_end(args);
    text->size += (size_t)size;
}

void text_json(struct text *text, struct slice str)
{
    static const char hex[] = "0123456789abcdef";
    size_t plain = 0, at = 0;

    text_byte(text, '"');
    while (at < str.size) {
        uint8_t c = str.data[at];
        if (LIKELY(c >= 0x20 && c < 0x80 && c != '"' && c != '\\')) {
            at++;
            continue;
        }
        size_t step = c >= 0x80 ? utf8_step(slice_skip(str, at)) : 1;
        if (c >= 0x80 && step != 0) {
            at += step;
            continue;
        }
        text_put(text, str.data + plain, at - plain);
        if (c >= 0x80) {
            text_str(text, "\xef\xbf\xbd");
        } else if (c == '"' || c == '\\') {
            text_byte(text, '\\');
            text_byte(text, c);
        } else if (c == '\n') {
            text_str(text, "\\n");
        } else if (c == '\r') {
            text_str(text, "\\r");
        } else if (c == '\t') {
            text_str(text, "\\t");
        } else {
            char escape[6] = { '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] };
            text_put(text, escape, sizeof escape);
        }
        plain = ++at;
    }
    text_slice_put(text, slice_skip(str, plain));
    text_byte(text, '"');
}

void text_html(struct text *text, struct slice str)
{
    for (size_t i = 0; i < str.size; i++) {
        switch (str.data[i]) {
        case '&': text_str(text, "&amp;"); break;
        case '<': text_str(text, "&lt;"); break;
        case '>': text_str(text, "&gt;"); break;
        case '"': text_str(text, "&quot;"); break;
        case '\'': text_str(text, "&#39;"); break;
        default: text_byte(text, str.data[i]);
        }
    }
}

const char *text_cstr(struct text *text)
{
    uint8_t *at = text_room(text, 1);

    if (at == NULL)
        return "";
    *at = '\0';
    return (const char *)text->data;
}
