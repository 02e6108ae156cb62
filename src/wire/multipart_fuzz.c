/* multipart_fuzz.c - SPDX-License-Identifier: Apache-2.0
 * The first byte says how much of the input is a Content-Type; the rest is the body. */
#include "wire/multipart.h"

#include <stdlib.h>

#include "base/arena.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct multipart_limits limits = { 16, 512 };
    static const char usual[] = "multipart/form-data; boundary=B";
    struct multipart m;
    struct multipart_part part;
    struct slice boundary;
    struct err err = { 0 };
    bool has = true;
    size_t split;

    if (size == 0)
        return 0;
    split = MIN((size_t)data[0], size - 1);
    struct slice type = split == 0 ? slice_of(usual) : slice_make(data + 1, split);
    struct slice body = slice_make(data + 1 + split, size - 1 - split);
    if (multipart_boundary(&boundary, type, &err) != OK) {
        require(err.text[0] != '\0');
        return 0;
    }
    struct arena *arena = arena_new(1024, 1 << 20);
    if (arena == NULL)
        abort();
    enum err_code code = multipart_init(&m, body, boundary, &limits, arena, &err);
    const uint8_t *last = body.data;
    while (code == OK && (code = multipart_next(&m, &part, &has, &err)) == OK && has) {
        require(part.name.data != NULL);
        require(part.body.data >= last && part.body.data + part.body.size <= body.data + body.size);
        last = part.body.data + part.body.size;
    }
    require((code == OK) == (err.text[0] == '\0'));
    arena_free(&arena);
    return 0;
}
