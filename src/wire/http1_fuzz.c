/* http1_fuzz.c - any bytes, whole and split: the same events, and no byte read past the end.
 * SPDX-License-Identifier: Apache-2.0 */
#include "wire/http1.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FIELDS_MAX = 12 };

static const struct http1_limits limits = { 2048, 512, FIELDS_MAX };

struct trace {
    uint64_t hash;
    uint32_t heads, ends, status;
};

static void mix(struct trace *t, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;

    for (size_t i = 0; i < size; i++)
        t->hash = (t->hash ^ at[i]) * UINT64_C(0x100000001b3);
}

static void mix_slice(struct trace *t, struct slice slice)
{
    mix(t, &slice.size, sizeof slice.size);
    mix(t, slice.data, slice.size);
}

static void mix_head(struct trace *t, const struct http1 *h, const struct http1_field *fields)
{
    require(h->path.size > 0 && h->fields_count <= FIELDS_MAX && h->body_size >= -1);
    require(h->minor == 0 || h->authority.size > 0);
    mix_slice(t, h->method_text);
    mix_slice(t, h->path);
    mix_slice(t, h->query);
    mix_slice(t, h->authority);
    mix(t, &h->body_size, sizeof h->body_size);
    mix(t, &h->is_keep_alive, sizeof h->is_keep_alive);
    for (uint32_t i = 0; i < h->fields_count; i++) {
        mix_slice(t, fields[i].name);
        mix_slice(t, fields[i].value);
        for (size_t j = 0; j < fields[i].value.size; j++)
            require(fields[i].value.data[j] != '\r' && fields[i].value.data[j] != '\n' &&
                    fields[i].value.data[j] != '\0');
        for (size_t j = 0; j < fields[i].name.size; j++)
            require(fields[i].name.data[j] < 'A' || fields[i].name.data[j] > 'Z');
    }
}

/* `step` 0: all at once. Each piece lies in memory of its own size. */
static struct trace run(const uint8_t *data, size_t size, size_t step)
{
    struct trace t = { .hash = UINT64_C(0xcbf29ce484222325) };
    struct http1_field fields[FIELDS_MAX];
    struct http1 h;
    struct err err;
    size_t start = 0, at = step == 0 ? size : MIN(step, size);
    bool is_in_body = false;

    http1_init(&h, &limits);
    for (;;) {
        uint8_t *piece = malloc(at - start == 0 ? 1 : at - start);
        enum http1_step s;
        struct slice body;
        size_t used = 0;
        if (piece == NULL)
            abort();
        memcpy(piece, data + start, at - start);
        if (!is_in_body) {
            s = http1_scan(&h, piece, at - start, &used, &err);
            if (s == HTTP1_HEAD)
                s = http1_parse(&h, piece, used, fields, &err);
            if (s == HTTP1_HEAD) {
                mix_head(&t, &h, fields);
                t.heads++;
                is_in_body = true;
            }
        } else {
            s = http1_body(&h, piece, at - start, &used, &body, &err);
            if (s == HTTP1_DATA) {
                require(body.size > 0 && body.data >= piece && used <= at - start);
                mix(&t, body.data, body.size);
            } else if (s == HTTP1_END) {
                t.ends++;
                is_in_body = false;
                http1_next(&h);
            }
        }
        free(piece);
        if (s == HTTP1_BAD) {
            require(h.status >= 400 && h.status <= 505 && err.text[0] != '\0');
            t.status = h.status;
            return t;
        }
        start += used;
        if (s == HTTP1_MORE) {
            if (at == size)
                return t;
            at = MIN(at + step, size);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 8192)
        return 0;
    struct trace whole = run(data, size, 0);
    size_t step = size > 0 ? 1 + data[size - 1] % 61 : 1;
    struct trace bytes = run(data, size, 1), parts = run(data, size, step);
    require(whole.hash == bytes.hash && whole.heads == bytes.heads && whole.ends == bytes.ends &&
            whole.status == bytes.status);
    require(whole.hash == parts.hash && whole.heads == parts.heads && whole.ends == parts.ends &&
            whole.status == parts.status);
    return 0;
}
