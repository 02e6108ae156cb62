/* grpc_web.c - SPDX-License-Identifier: Apache-2.0
 *
 * Decoding in place works because a byte is written only when the characters that make it were read:
 * of a group the first character gives none, each of the others one.
 */
#include "call/grpc_web.h"

#include <string.h>

#include "call/grpc_wire.h"
#include "exchange/exchange.h"

/* -- content types ------------------------------------------------------------------------------- */

static bool take(struct slice *rest, const char *word)
{
    size_t size = strlen(word);

    if (rest->size < size || (memcmp(rest->data, word, size) != 0 &&
                              !slice_is_nocase(slice_first(*rest, size), word)))
        return false;
    *rest = slice_skip(*rest, size);
    return true;
}

HOT struct grpc_type grpc_type_of(struct slice content_type)
{
    struct slice rest = slice_trim(content_type);
    struct grpc_type type = { 0 };

    /* Most are application/json: told by one byte. */
    if (rest.size < 16 || (rest.data[12] | 0x20) != 'g')
        return type;
    rest = slice_trim(slice_first(rest, slice_find(rest, ';')));
    if (!take(&rest, "application/grpc"))
        return type;
    if (LIKELY(rest.size == 0)) {
        type.is_grpc = true;
        return type;
    }
    type.is_web = take(&rest, "-web");
    type.is_text = type.is_web && take(&rest, "-text");
    if (rest.size != 0 && rest.data[0] != '+') /* application/grpcurl is something else */
        return (struct grpc_type){ 0 };
    type.is_grpc = true;
    type.is_proto = slice_is_nocase(rest, "+proto");
    type.is_unknown = rest.size != 0 && !type.is_proto;
    return type;
}

struct slice grpc_type_name(struct grpc_type type)
{
    static const struct slice names[] = {
        SLICE_LIT("application/grpc"),          SLICE_LIT("application/grpc+proto"),
        SLICE_LIT("application/grpc-web"),      SLICE_LIT("application/grpc-web+proto"),
        SLICE_LIT("application/grpc-web-text"), SLICE_LIT("application/grpc-web-text+proto"),
    };

    return names[(type.is_web ? 2 : 0) + (type.is_text ? 2 : 0) + (type.is_proto ? 1 : 0)];
}

struct grpc_type grpc_web_type_of_answer(struct grpc_type of_request, struct slice accept)
{
    while (accept.size != 0) {
        size_t comma = slice_find(accept, ',');
        struct grpc_type type = grpc_type_of(slice_first(accept, comma));
        accept = slice_skip(accept, MIN(comma + 1, accept.size));
        if (type.is_web && !type.is_unknown)
            return type;
    }
    return of_request;
}

/* -- base64, in pieces --------------------------------------------------------------------------- */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Value of a digit plus one; 0: it is none. */
static const uint8_t values[256] = {
    ['A'] = 1,  ['B'] = 2,  ['C'] = 3,  ['D'] = 4,  ['E'] = 5,  ['F'] = 6,  ['G'] = 7,  ['H'] = 8,
    ['I'] = 9,  ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16,
    ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22, ['W'] = 23, ['X'] = 24,
    ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32,
    ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40,
    ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48,
    ['w'] = 49, ['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56,
    ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['+'] = 63, ['/'] = 64,
};

/* One character; false: it is not possible here. */
static bool decode_one(struct grpc_web_decoder *d, uint8_t c, uint8_t **at)
{
    uint32_t value = values[c];

    if (c == '=') {
        if (d->pads == 0 && d->digits < 2)
            return false;
        d->pads = d->pads != 0 ? d->pads - 1 : 3 - d->digits;
        if (d->pads == 0)
            d->digits = 0;
        return true;
    }
    if (value == 0 || d->pads != 0)
        return false;
    d->bits = d->bits << 6 | (value - 1);
    if (d->digits != 0)
        *(*at)++ = (uint8_t)(d->bits >> (6 - 2 * d->digits));
    d->digits = (d->digits + 1) & 3;
    return true;
}

size_t grpc_web_decode(struct grpc_web_decoder *decoder, uint8_t *bytes, size_t size)
{
    uint8_t *at = bytes;
    size_t i = 0;

    while (i < size) {
        if (decoder->digits == 0 && decoder->pads == 0) {
            for (; size - i >= 4; i += 4, at += 3) {
                uint32_t a = values[bytes[i]], b = values[bytes[i + 1]], c = values[bytes[i + 2]],
                         e = values[bytes[i + 3]];
                if (a == 0 || b == 0 || c == 0 || e == 0)
                    break;
                uint32_t group = (a - 1) << 18 | (b - 1) << 12 | (c - 1) << 6 | (e - 1);
                at[0] = (uint8_t)(group >> 16);
                at[1] = (uint8_t)(group >> 8);
                at[2] = (uint8_t)group;
            }
            if (i == size)
                break;
        }
        if (!decode_one(decoder, bytes[i], &at)) {
            decoder->offset += i;
            decoder->unexpected = bytes[i];
            return SIZE_MAX;
        }
        i++;
    }
    decoder->offset += size;
    return (size_t)(at - bytes);
}

bool grpc_web_decode_is_whole(const struct grpc_web_decoder *decoder)
{
    return decoder->pads == 0 && decoder->digits != 1;
}

static uint8_t *encode_group(uint8_t *at, uint8_t a, uint8_t b, uint8_t c)
{
    uint32_t group = (uint32_t)a << 16 | (uint32_t)b << 8 | c;

    at[0] = (uint8_t)digits[group >> 18];
    at[1] = (uint8_t)digits[group >> 12 & 63];
    at[2] = (uint8_t)digits[group >> 6 & 63];
    at[3] = (uint8_t)digits[group & 63];
    return at + 4;
}

uint8_t *grpc_web_encode(struct grpc_web_encoder *e, uint8_t *at, struct slice bytes)
{
    const uint8_t *in = bytes.data;
    size_t left = bytes.size;

    if (e->rest_count + left < 3) {
        while (left-- > 0)
            e->rest[e->rest_count++] = *in++;
        return at;
    }
    if (e->rest_count == 1)
        at = encode_group(at, e->rest[0], in[0], in[1]);
    else if (e->rest_count == 2)
        at = encode_group(at, e->rest[0], e->rest[1], in[0]);
    size_t used = (3 - e->rest_count) % 3;
    for (in += used, left -= used; left >= 3; in += 3, left -= 3)
        at = encode_group(at, in[0], in[1], in[2]);
    for (e->rest_count = 0; left > 0; left--)
        e->rest[e->rest_count++] = *in++;
    return at;
}

uint8_t *grpc_web_encode_end(struct grpc_web_encoder *e, uint8_t *at)
{
    if (e->rest_count != 0) {
        at = encode_group(at, e->rest[0], e->rest_count == 2 ? e->rest[1] : 0, 0);
        at[-1] = '=';
        if (e->rest_count == 1)
            at[-2] = '=';
    }
    e->rest_count = 0;
    return at;
}

/* -- trailers -------------------------------------------------------------------------------------- */

size_t grpc_web_trailers_size(const struct header *fields, uint32_t count)
{
    size_t size = GRPC_PREFIX_BYTES;

    for (uint32_t i = 0; i < count; i++)
        size += fields[i].name.size + 2 + fields[i].value.size + 2;
    return size;
}

void grpc_web_trailers_put(uint8_t *at, const struct header *fields, uint32_t count)
{
    size_t size = grpc_web_trailers_size(fields, count) - GRPC_PREFIX_BYTES;

    grpc_prefix_put(at, false, (uint32_t)size);
    at[0] = GRPC_WEB_TRAILERS;
    at += GRPC_PREFIX_BYTES;
    for (uint32_t i = 0; i < count; i++) {
        struct slice parts[] = { fields[i].name, SLICE_LIT(": "), fields[i].value,
                                 SLICE_LIT("\r\n") };
        for (size_t part = 0; part < COUNT(parts); part++) {
            if (parts[part].size != 0)
                memcpy(at, parts[part].data, parts[part].size);
            at += parts[part].size;
        }
    }
}
