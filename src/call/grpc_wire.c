/* grpc_wire.c - SPDX-License-Identifier: Apache-2.0
 *
 * Percent-encoding and UTF-8 are undone in one step, a character at a time: what the escapes spell
 * is looked at as if it stood there, so that no buffer in between is needed and nothing broken gets
 * out.
 */
#include "call/grpc_wire.h"

#include <stdio.h>

#include "base/base64.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/pb.h"
#include "base/text.h"
#include "base/utf8.h"

enum { QUOTE_MAX = 64 /* of what was sent, in an error's text */ };

/* -- grpc-timeout ------------------------------------------------------------------------------ */

enum { TIMEOUT_DIGITS = 8, TIMEOUT_MAX = 99999999 };

static const struct unit {
    char letter;
    uint64_t ns;
} units[] = {
    { 'n', 1 },        { 'u', NS_PER_US },     { 'm', NS_PER_MS },
    { 'S', NS_PER_S }, { 'M', 60 * NS_PER_S }, { 'H', 3600 * NS_PER_S },
};

static uint64_t unit_ns(uint8_t letter)
{
    for (size_t i = 0; i < COUNT(units); i++)
        if ((uint8_t)units[i].letter == letter)
            return units[i].ns;
    return 0;
}

enum err_code grpc_timeout_parse(uint64_t *ret_ns, struct slice text, struct err *err)
{
    uint64_t value = 0, scale = text.size > 0 ? unit_ns(text.data[text.size - 1]) : 0;

    if (LIKELY(scale != 0 && text.size >= 2 && text.size <= TIMEOUT_DIGITS + 1 &&
               slice_to_u64(slice_first(text, text.size - 1), &value))) {
        *ret_ns = value > UINT64_MAX / scale ? UINT64_MAX : value * scale;
        return OK;
    }
    return err_set(err, E_INVALID,
                   "grpc-timeout is '%.*s'; it takes 1 to 8 digits and one of H M S m u n, as in "
                   "'500m' for half a second",
                   SLICE_ARG(slice_first(text, QUOTE_MAX)));
}

size_t grpc_timeout_format(char out[GRPC_TIMEOUT_ROOM], uint64_t ns)
{
    size_t i = 0;

    while (i < COUNT(units) - 1 && ns > TIMEOUT_MAX * units[i].ns)
        i++;
    uint64_t value = ns / units[i].ns + (ns % units[i].ns != 0);
    return (size_t)snprintf(out, GRPC_TIMEOUT_ROOM, "%u%c",
                            (unsigned)MIN(value, (uint64_t)TIMEOUT_MAX), units[i].letter);
}

/* -- status ------------------------------------------------------------------------------------ */

enum err_code grpc_status_parse(struct slice text)
{
    uint64_t value;

    return slice_to_u64(text, &value) && value < ERR_CODE_END ? (enum err_code)value : E_UNKNOWN;
}

struct slice grpc_status_digits(enum err_code code)
{
    static const char digits[ERR_CODE_END][3] = { "0", "1",  "2",  "3",  "4",  "5",  "6",  "7", "8",
                                                  "9", "10", "11", "12", "13", "14", "15", "16" };

    require((unsigned)code < ERR_CODE_END);
    return slice_make(digits[code], code < 10 ? 1 : 2);
}

enum err_code grpc_status_of_http(uint16_t status)
{
    switch (status) {
    case 400:
    case 431: return E_INTERNAL;
    case 401: return E_UNAUTHENTICATED;
    case 403: return E_PERMISSION;
    case 404: return E_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504: return E_UNAVAILABLE;
    default: return E_UNKNOWN; /* 200 too: where all is well a grpc-status says so */
    }
}

enum err_code grpc_status_of_reset(uint32_t h2_error)
{
    enum { REFUSED_STREAM = 7, CANCEL = 8, ENHANCE_YOUR_CALM = 11, INADEQUATE_SECURITY = 12 };

    switch (h2_error) {
    case REFUSED_STREAM: return E_UNAVAILABLE;
    case CANCEL: return E_CANCELLED;
    case ENHANCE_YOUR_CALM: return E_EXHAUSTED;
    case INADEQUATE_SECURITY: return E_PERMISSION;
    default: return E_INTERNAL;
    }
}

/* -- grpc-message ------------------------------------------------------------------------------ */

static bool travels_as_it_is(uint8_t byte)
{
    return byte >= 0x20 && byte <= 0x7e && byte != '%';
}

/* RFC 9113 8.2.1: a field's value neither begins nor ends with a space. */
static bool is_edge_space(struct slice text, size_t at)
{
    return text.data[at] == ' ' && (at == 0 || at == text.size - 1);
}

bool grpc_message_is_plain(struct slice text)
{
    for (size_t i = 0; i < text.size; i++)
        if (!travels_as_it_is(text.data[i]) || is_edge_space(text, i))
            return false;
    return true;
}

void grpc_message_encode(struct text *out, struct slice text)
{
    static const char hex[] = "0123456789ABCDEF";

    for (size_t i = 0; i < text.size; i++) {
        uint8_t byte = text.data[i];
        if (travels_as_it_is(byte) && !is_edge_space(text, i)) {
            text_byte(out, byte);
            continue;
        }
        text_byte(out, '%');
        text_byte(out, (uint8_t)hex[byte >> 4]);
        text_byte(out, (uint8_t)hex[byte & 15]);
    }
}

/* The byte that stands or is spelled at the beginning, and how much spells it. */
static uint8_t spelled(struct slice value, size_t *ret_size)
{
    if (value.data[0] == '%' && value.size >= 3 && slice_hex(value.data[1]) >= 0 &&
        slice_hex(value.data[2]) >= 0) {
        *ret_size = 3;
        return (uint8_t)(slice_hex(value.data[1]) << 4 | slice_hex(value.data[2]));
    }
    *ret_size = 1;
    return value.data[0];
}

void grpc_message_decode(struct text *out, struct slice value)
{
    enum { CHARACTER_MAX = 4 };

    while (value.size > 0) {
        uint8_t bytes[CHARACTER_MAX];
        size_t ends[CHARACTER_MAX + 1] = { 0 }, count = 0;
        while (count < CHARACTER_MAX && ends[count] < value.size) {
            size_t size;
            bytes[count] = spelled(slice_skip(value, ends[count]), &size);
            ends[count + 1] = ends[count] + size;
            count++;
        }
        size_t step = utf8_step(slice_make(bytes, count));
        if (step > 0)
            text_put(out, bytes, step);
        else
            text_str(out, "\xef\xbf\xbd");
        value = slice_skip(value, ends[MAX(step, (size_t)1)]);
    }
}

/* -- binary metadata --------------------------------------------------------------------------- */

struct slice grpc_bin_cut(struct slice *rest)
{
    size_t at = slice_find(*rest, ',');
    struct slice value = slice_first(*rest, at);

    *rest = slice_skip(*rest, MIN(at + 1, rest->size));
    return slice_trim(value);
}

void grpc_bin_encode(struct text *out, struct slice bytes)
{
    size_t size = base64_size(bytes.size, false);
    uint8_t *at = size == 0 ? NULL : text_room(out, size);

    if (at == NULL)
        return;
    base64_encode(at, bytes, false);
    out->size += size;
}

/* Padding, where there is some, is as RFC 4648 4 has it. */
bool grpc_bin_decode(struct text *out, struct slice value)
{
    struct slice digits = base64_unpadded(value);
    size_t size = base64_decoded(digits.size);

    if ((digits.size != value.size && value.size % 4 != 0) || digits.size % 4 == 1)
        return false;
    uint8_t *at = size == 0 ? NULL : text_room(out, size);
    if (at == NULL)
        return true; /* nothing to do, or the text says that it failed */
    if (base64_decode(at, digits, BASE64_STANDARD) != digits.size)
        return false;
    out->size += size;
    return true;
}

bool grpc_metadata_key_is_custom(struct slice key)
{
    static const char *const taken[] = {
        "connection",     "content-encoding",
        "content-length", "content-type",
        "date",           "host",
        "keep-alive",     "te",
        "trailer",        "proxy-connection",
        "upgrade",        "transfer-encoding",
    };

    if (key.size == 0 || slice_starts(key, "grpc-"))
        return false;
    for (size_t i = 0; i < key.size; i++) {
        uint8_t c = key.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.'))
            return false;
    }
    for (size_t i = 0; i < COUNT(taken); i++)
        if (slice_is(key, taken[i]))
            return false;
    return true;
}

bool grpc_metadata_value_is_ascii(struct slice value)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = 0x80 * ones;
    size_t i = 0;

    if (value.size > 0 && (is_edge_space(value, 0) || is_edge_space(value, value.size - 1)))
        return false;
    /* Eight that surely are, while there are; what is left is looked at byte by byte. */
    for (; i + 8 <= value.size; i += 8) {
        uint64_t x;
        memcpy(&x, value.data + i, 8);
        if (((x | (x - 0x20 * ones) | (x + ones)) & highs) != 0)
            break;
    }
    for (; i < value.size; i++)
        if (value.data[i] < 0x20 || value.data[i] > 0x7e)
            return false;
    return true;
}

/* -- details ----------------------------------------------------------------------------------- */

/* Field numbers of google/rpc/status.proto, error_details.proto, google/protobuf/any.proto and
 * duration.proto. */
enum {
    STATUS_CODE = 1,
    STATUS_MESSAGE = 2,
    STATUS_DETAILS = 3,
    ANY_TYPE_URL = 1,
    ANY_VALUE = 2,
    BAD_REQUEST_VIOLATIONS = 1,
    VIOLATION_FIELD = 1,
    VIOLATION_DESCRIPTION = 2,
    RETRY_INFO_DELAY = 1,
    DURATION_SECONDS = 1,
    DURATION_NANOS = 2,
    MS_PER_S = 1000,
};

static const struct slice bad_request_url = SLICE_LIT("type.googleapis.com/google.rpc.BadRequest");
static const struct slice retry_info_url = SLICE_LIT("type.googleapis.com/google.rpc.RetryInfo");

/* Status.details[i]: an Any whose value, of so many bytes, follows. */
static size_t size_of_any(struct slice url, size_t value)
{
    return pb_size_len(ANY_TYPE_URL, url.size) + pb_size_len(ANY_VALUE, value);
}

static uint8_t *put_any(uint8_t *at, struct slice url, size_t value)
{
    at = pb_put_head(at, STATUS_DETAILS, size_of_any(url, value));
    at = pb_put_bytes(at, ANY_TYPE_URL, url);
    return pb_put_head(at, ANY_VALUE, value);
}

void grpc_details_encode(struct text *out, const struct grpc_details *d)
{
    bool has_violation = d->field.data != NULL || d->description.data != NULL;
    size_t violation = pb3_size_bytes(VIOLATION_FIELD, d->field) +
                       pb3_size_bytes(VIOLATION_DESCRIPTION, d->description);
    size_t bad_request = pb_size_len(BAD_REQUEST_VIOLATIONS, violation);
    uint64_t seconds = d->retry_after_ms / MS_PER_S;
    uint64_t nanos = d->retry_after_ms % MS_PER_S * NS_PER_MS;
    size_t duration =
        pb3_size_uint(DURATION_SECONDS, seconds) + pb3_size_uint(DURATION_NANOS, nanos);
    size_t retry_info = pb_size_len(RETRY_INFO_DELAY, duration);
    size_t size = pb3_size_uint(STATUS_CODE, d->code) + pb3_size_bytes(STATUS_MESSAGE, d->message);

    if (has_violation)
        size += pb_size_len(STATUS_DETAILS, size_of_any(bad_request_url, bad_request));
    if (d->has_retry)
        size += pb_size_len(STATUS_DETAILS, size_of_any(retry_info_url, retry_info));
    uint8_t *at = size == 0 ? NULL : text_room(out, size);
    if (at == NULL)
        return;
    uint8_t *end = at + size;
    at = pb3_put_uint(at, STATUS_CODE, d->code);
    at = pb3_put_bytes(at, STATUS_MESSAGE, d->message);
    if (has_violation) {
        at = put_any(at, bad_request_url, bad_request);
        at = pb_put_head(at, BAD_REQUEST_VIOLATIONS, violation);
        at = pb3_put_bytes(at, VIOLATION_FIELD, d->field);
        at = pb3_put_bytes(at, VIOLATION_DESCRIPTION, d->description);
    }
    if (d->has_retry) {
        at = put_any(at, retry_info_url, retry_info);
        at = pb_put_head(at, RETRY_INFO_DELAY, duration);
        at = pb3_put_uint(at, DURATION_SECONDS, seconds);
        at = pb3_put_uint(at, DURATION_NANOS, nanos);
    }
    require(at == end);
    out->size += size;
}

static enum err_code finish(const struct pb_reader *r, const char *what, struct err *err)
{
    if (!pb_failed(r))
        return OK;
    return err_set(err, E_INVALID, "%s, byte %zu: %s", what, (size_t)(r->at - r->begin), r->fault);
}

static enum err_code read_violation(struct grpc_details *d, struct slice bytes, struct err *err)
{
    struct pb_reader r;
    struct pb_field f;
    struct slice field = { NULL, 0 }, description = { NULL, 0 };

    pb_begin(&r, bytes);
    while (pb_next(&r, &f)) {
        if (f.wire == PB_LEN && f.number == VIOLATION_FIELD)
            field = f.bytes;
        else if (f.wire == PB_LEN && f.number == VIOLATION_DESCRIPTION)
            description = f.bytes;
    }
    if (d->violations_count++ == 0) {
        d->field = field.data != NULL ? field : slice_make("", 0);
        d->description = description.data != NULL ? description : slice_make("", 0);
    }
    return finish(&r, "google.rpc.BadRequest.FieldViolation", err);
}

static enum err_code read_bad_request(struct grpc_details *d, struct slice bytes, struct err *err)
{
    struct pb_reader r;
    struct pb_field f;

    pb_begin(&r, bytes);
    while (pb_next(&r, &f))
        if (f.wire == PB_LEN && f.number == BAD_REQUEST_VIOLATIONS)
            TRY(read_violation(d, f.bytes, err));
    return finish(&r, "google.rpc.BadRequest", err);
}

/* What lies in the past is now. */
static uint64_t ms_of(int64_t seconds, int64_t nanos)
{
    if (seconds < 0 || nanos < 0 || nanos >= (int64_t)NS_PER_S)
        return 0;
    if ((uint64_t)seconds > UINT64_MAX / MS_PER_S - 1)
        return UINT64_MAX;
    return (uint64_t)seconds * MS_PER_S + ((uint64_t)nanos + NS_PER_MS - 1) / NS_PER_MS;
}

static enum err_code read_duration(struct grpc_details *d, struct slice bytes, struct err *err)
{
    struct pb_reader r;
    struct pb_field f;
    int64_t seconds = 0, nanos = 0;

    pb_begin(&r, bytes);
    while (pb_next(&r, &f)) {
        if (f.wire == PB_VARINT && f.number == DURATION_SECONDS)
            seconds = (int64_t)f.value;
        else if (f.wire == PB_VARINT && f.number == DURATION_NANOS)
            nanos = (int64_t)f.value;
    }
    d->retry_after_ms = ms_of(seconds, nanos);
    return finish(&r, "google.protobuf.Duration", err);
}

static enum err_code read_retry_info(struct grpc_details *d, struct slice bytes, struct err *err)
{
    struct pb_reader r;
    struct pb_field f;

    d->has_retry = true;
    pb_begin(&r, bytes);
    while (pb_next(&r, &f))
        if (f.wire == PB_LEN && f.number == RETRY_INFO_DELAY)
            TRY(read_duration(d, f.bytes, err));
    return finish(&r, "google.rpc.RetryInfo", err);
}

static enum err_code read_any(struct grpc_details *d, struct slice bytes, struct err *err)
{
    struct pb_reader r;
    struct pb_field f;
    struct slice url = { NULL, 0 }, value = { NULL, 0 };

    pb_begin(&r, bytes);
    while (pb_next(&r, &f)) {
        if (f.wire == PB_LEN && f.number == ANY_TYPE_URL)
            url = f.bytes;
        else if (f.wire == PB_LEN && f.number == ANY_VALUE)
            value = f.bytes;
    }
    TRY(finish(&r, "google.protobuf.Any", err));
    if (slice_ends(url, "/google.rpc.BadRequest"))
        return read_bad_request(d, value, err);
    if (slice_ends(url, "/google.rpc.RetryInfo"))
        return read_retry_info(d, value, err);
    d->others_count++;
    return OK;
}

enum err_code grpc_details_decode(struct grpc_details *ret, struct slice bytes, struct err *err)
{
    struct grpc_details d = { .code = OK };
    struct pb_reader r;
    struct pb_field f;

    pb_begin(&r, bytes);
    while (pb_next(&r, &f)) {
        if (f.wire == PB_VARINT && f.number == STATUS_CODE)
            d.code = f.value < ERR_CODE_END ? (enum err_code)f.value : E_UNKNOWN;
        else if (f.wire == PB_LEN && f.number == STATUS_MESSAGE)
            d.message = f.bytes;
        else if (f.wire == PB_LEN && f.number == STATUS_DETAILS)
            TRY(read_any(&d, f.bytes, err));
    }
    TRY(finish(&r, "google.rpc.Status", err));
    *ret = d;
    return OK;
}

/* -- encodings --------------------------------------------------------------------------------- */

enum encoding grpc_encoding_of(struct slice value)
{
    if (value.size == 0 || slice_is(value, "identity"))
        return ENCODING_IDENTITY;
    if (slice_is(value, "gzip"))
        return ENCODING_GZIP;
    return slice_is(value, "deflate") ? ENCODING_DEFLATE : ENCODING_UNKNOWN;
}

bool grpc_encoding_is_accepted(struct slice accept, enum encoding encoding)
{
    if (encoding == ENCODING_IDENTITY)
        return true;
    while (accept.size > 0)
        if (slice_is(grpc_bin_cut(&accept), encoding_name(encoding)))
            return true;
    return false;
}

enum err_code grpc_message_too_large(struct err *err, uint64_t bytes, size_t bytes_max,
                                     const char *option)
{
    err_set(err, E_EXHAUSTED, "message of %llu bytes is larger than the most, %zu (%s)",
            (unsigned long long)bytes, bytes_max, option);
    if (err != NULL)
        err->retry_after_ms = ERR_RETRY_NEVER;
    return E_EXHAUSTED;
}

/* RFC 1952 2.3.1: the last four bytes of a member are its size, modulo 2^32. */
static size_t size_by_trailer(enum encoding encoding, struct slice in)
{
    uint32_t size = 0;

    if (encoding == ENCODING_GZIP && in.size >= sizeof size)
        memcpy(&size, in.data + in.size - sizeof size, sizeof size);
    return size;
}

enum err_code grpc_message_inflate(struct buf **ret, size_t *ret_offset, bool *ret_is_too_large,
                                   struct budget *budget, enum encoding encoding, struct slice in,
                                   size_t bytes_max, const char *option, struct err *err)
{
    if (in.size == 0) { /* as other implementations have it: no stream at all is an empty one */
        *ret = NULL;
        *ret_offset = 0;
        return OK;
    }
    size_t align_at = size_by_trailer(encoding, in);
    switch (compress_inflate(ret, ret_offset, budget, encoding, in, bytes_max, align_at, err)) {
    case OK: return OK;
    case E_RANGE:
        if (ret_is_too_large != NULL)
            *ret_is_too_large = true;
        err_set(err, E_EXHAUSTED,
                "message of %zu bytes (%s) inflates to more than the most, %zu (%s)", in.size,
                encoding_name(encoding), bytes_max, option);
        if (err != NULL)
            err->retry_after_ms = ERR_RETRY_NEVER;
        return E_EXHAUSTED;
    case E_EXHAUSTED: return E_EXHAUSTED;
    default:
        if (err != NULL)
            err->code = E_INTERNAL;
        err_wrap(err, "compressed message");
        return E_INTERNAL;
    }
}
