/* compress_fuzz.c - any bytes as a compressed body, as an Accept-Encoding, and as what to compress.
 * SPDX-License-Identifier: Apache-2.0 */
#include "codec/compress.h"

#include <zlib.h>

#include "base/budget.h"
#include "base/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OUT_MAX = 1 << 16 };

static void inflate_any(enum encoding encoding, struct slice in, size_t out_max, size_t align_at)
{
    CLEANUP(buf_unref) struct buf *out = NULL;
    struct budget budget;
    struct err err = { 0 };
    size_t offset;

    budget_init(&budget, 1 << 20);
    enum err_code code =
        compress_inflate(&out, &offset, &budget, encoding, in, out_max, align_at, &err);
    require(code == OK || code == E_INVALID || code == E_EXHAUSTED || code == E_RANGE);
    require((code == OK) == (out != NULL) && (code == OK) == (err.text[0] == '\0'));
    if (code == OK) {
        struct slice content = slice_skip(buf_bytes(out), offset);
        require(content.size <= out_max);
        require(((uintptr_t)content.data + align_at) % BUF_ALIGN == 0);
        static uint8_t twin[OUT_MAX + 1];
        uLongf twin_size = sizeof twin;
        if (encoding == ENCODING_DEFLATE)
            require(uncompress(twin, &twin_size, in.data, in.size) == Z_OK &&
                    slice_eq(content, slice_make(twin, twin_size)));
    }
    buf_unref(&out);
    require(budget_used(&budget) == 0);
}

static void round_trip(enum encoding encoding, struct slice content, size_t cut)
{
    CLEANUP(buf_unref) struct buf *packed = NULL, *back = NULL;
    struct slice pieces[2] = { slice_first(content, cut), slice_skip(content, cut) };
    size_t offset;

    require(compress_deflate(&packed, NULL, encoding, pieces, 2, NULL) == OK);
    require(compress_inflate(&back, &offset, NULL, encoding, buf_bytes(packed), content.size, 0,
                             NULL) == OK);
    require(slice_eq(slice_skip(buf_bytes(back), offset), content));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    enum encoding encoding = data[0] % 2 == 0 ? ENCODING_GZIP : ENCODING_DEFLATE;
    struct slice rest = { data + 3, size - 3 };

    require(encoding_choose(rest) < ENCODING_UNKNOWN);
    (void)encoding_of(rest);
    inflate_any(encoding, rest, data[0] < 128 ? OUT_MAX : data[1], data[2]);
    round_trip(encoding, rest, MIN(rest.size, (size_t)data[1]));
    return 0;
}
