/* http1.c - SPDX-License-Identifier: Apache-2.0
 *
 * Two readers look at a head. Ours finds its lines: every LF must follow a CR, the request line
 * must have exactly its three parts, and the limits hold at each byte; so the end of the head is
 * known before anything else. Then llhttp (strict, no lenient flag) reads the complete head in one go,
 * which splits fields, checks their bytes and refuses what it knows as smuggling. Because llhttp
 * never sees half a head, no answer depends on how the bytes came.
 *
 * After that our own checks refuse what llhttp lets pass: a Transfer-Encoding other than one
 * `chunked`, fragments in targets, Host missing, repeated or strange.
 *
 * Chunked bodies are ours too: data may then be received straight into the memory of who reads it,
 * and the bytes spent on chunk extensions, sizes and trailers can be bounded.
 */
#include "wire/http1.h"

#include <llhttp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    CHUNK_DIGITS_MAX = 16,
    EXTENSION_BYTES_MAX = 256,        /* of one chunk */
    EXTENSIONS_BYTES_MAX = 16 * 1024, /* of one message */
    LINE_BYTES_EXTRA = 64             /* of a request line beside the target */
};

enum {
    BODY_NONE,
    BODY_SIZED,
    CHUNK_SIZE,
    CHUNK_EXTENSION,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    TRAILER_START,
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    LAST_LF,
    BODY_OVER
};

void http1_init(struct http1 *h, const struct http1_limits *limits)
{
    memset(h, 0, sizeof *h);
    h->limits = limits;
}

void http1_next(struct http1 *h)
{
    require(!h->is_bad);
    h->scanned = h->line_at = h->begin = 0;
    h->has_line = h->has_skipped = false;
    h->method_text = h->target = slice_make(NULL, 0);
    h->state = BODY_NONE;
    h->left = 0;
}

#define BAD(http_status, ...) (h->status = (http_status), bad(h, err, __VA_ARGS__))

PRINTF_LIKE(3, 4)
COLD static enum http1_step bad(struct http1 *h, struct err *err, const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    h->is_bad = true;
    h->left = 0;
    err_set(err, h->status == 501 ? E_UNIMPLEMENTED : E_INVALID, "%s", text);
    return HTTP1_BAD;
}

/* RFC 9110 5.6.2: what a method or a field name is made of. */
static bool is_token(uint8_t c)
{
    static const uint8_t table[256] = {
        ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1, ['\''] = 1, ['*'] = 1, ['+'] = 1,
        ['-'] = 1, ['.'] = 1, ['^'] = 1, ['_'] = 1, ['`'] = 1, ['|'] = 1,  ['~'] = 1, ['0'] = 1,
        ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1, ['5'] = 1, ['6'] = 1,  ['7'] = 1, ['8'] = 1,
        ['9'] = 1, ['A'] = 1, ['B'] = 1, ['C'] = 1, ['D'] = 1, ['E'] = 1,  ['F'] = 1, ['G'] = 1,
        ['H'] = 1, ['I'] = 1, ['J'] = 1, ['K'] = 1, ['L'] = 1, ['M'] = 1,  ['N'] = 1, ['O'] = 1,
        ['P'] = 1, ['Q'] = 1, ['R'] = 1, ['S'] = 1, ['T'] = 1, ['U'] = 1,  ['V'] = 1, ['W'] = 1,
        ['X'] = 1, ['Y'] = 1, ['Z'] = 1, ['a'] = 1, ['b'] = 1, ['c'] = 1,  ['d'] = 1, ['e'] = 1,
        ['f'] = 1, ['g'] = 1, ['h'] = 1, ['i'] = 1, ['j'] = 1, ['k'] = 1,  ['l'] = 1, ['m'] = 1,
        ['n'] = 1, ['o'] = 1, ['p'] = 1, ['q'] = 1, ['r'] = 1, ['s'] = 1,  ['t'] = 1, ['u'] = 1,
        ['v'] = 1, ['w'] = 1, ['x'] = 1, ['y'] = 1, ['z'] = 1,
    };

    return table[c] != 0;
}

static enum http1_method method_of(struct slice text)
{
    static const struct {
        struct slice text;
        enum http1_method method;
    } methods[] = {
        { SLICE_LIT("POST"), HTTP1_POST },        { SLICE_LIT("GET"), HTTP1_GET },
        { SLICE_LIT("HEAD"), HTTP1_HEAD_METHOD }, { SLICE_LIT("OPTIONS"), HTTP1_OPTIONS },
        { SLICE_LIT("PUT"), HTTP1_PUT },          { SLICE_LIT("DELETE"), HTTP1_DELETE },
        { SLICE_LIT("PATCH"), HTTP1_PATCH },
    };

    for (size_t i = 0; i < COUNT(methods); i++)
        if (slice_eq(text, methods[i].text))
            return methods[i].method;
    return HTTP1_OTHER;
}

/* -- the head -------------------------------------------------------------------------------- */

/* How many bytes in front, eight by eight, surely belong to a target: none is a blank or a control byte, '#', 0x7f
 * or beyond ASCII. */
static size_t plain_target(struct slice text)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = 0x80 * ones;
    size_t at = 0;

    for (; at + 8 <= text.size; at += 8) {
        uint64_t x;
        memcpy(&x, text.data + at, 8);
        uint64_t del = x ^ 0x7f * ones, hash = x ^ '#' * ones;
        if (((x | (x - 0x21 * ones) | (del - ones) | (hash - ones)) & highs) != 0)
            break;
    }
    return at;
}

/* RFC 9112 3: method SP target SP version, one blank each. */
static enum http1_step request_line(struct http1 *h, struct slice line, struct err *err)
{
    size_t at = 0;

    while (at < line.size && is_token(line.data[at]))
        at++;
    if (at == 0 || at == line.size || line.data[at] != ' ')
        return BAD(400, "the first line is not an HTTP request: expected METHOD /path HTTP/1.1");
    h->method_text = slice_first(line, at);
    struct slice rest = slice_skip(line, at + 1);

    at = plain_target(rest);
    while (at < rest.size && rest.data[at] > 0x20 && rest.data[at] < 0x7f && rest.data[at] != '#')
        at++;
    h->target = slice_first(rest, at);
    if (at < rest.size && rest.data[at] != ' ')
        return BAD(400, "the request target holds the byte 0x%02x, which must be percent-encoded",
                   rest.data[at]);
    if (at == rest.size)
        return BAD(400, "the request line has no version: expected METHOD /path HTTP/1.1 "
                        "(HTTP/0.9 is not spoken here)");
    if (at == 0)
        return BAD(400, "the request line has two blanks where one belongs");
    if (at > h->limits->target_bytes_max)
        return BAD(414, "the request target has %zu bytes; the most is %u", at,
                   h->limits->target_bytes_max);
    rest = slice_skip(rest, at + 1);

    if (rest.size == 8 && memcmp(rest.data, "HTTP/1.", 7) == 0 &&
        (rest.data[7] == '1' || rest.data[7] == '0')) {
        h->minor = rest.data[7] == '1';
        return HTTP1_MORE;
    }
    h->is_http2 = slice_is(line, "PRI * HTTP/2.0");
    if (h->is_http2)
        return BAD(505, "HTTP/2 is not spoken here; use HTTP/1.1");
    if (rest.size == 8 && memcmp(rest.data, "HTTP/", 5) == 0 && rest.data[5] >= '0' &&
        rest.data[5] <= '9' && rest.data[6] == '.' && rest.data[7] >= '0' && rest.data[7] <= '9')
        return BAD(505, "%.*s is not spoken here; use HTTP/1.1", SLICE_ARG(rest));
    return BAD(400, "the request line does not end in HTTP/1.1");
}

/* The very first byte tells what is no HTTP at all. */
static enum http1_step sniff(struct http1 *h, uint8_t first, struct err *err)
{
    if (LIKELY(is_token(first) || first == '\r' || first == '\n'))
        return HTTP1_MORE;
    if (first == 0x16)
        return BAD(400, "this is a TLS handshake, and the port speaks plain HTTP: use http://");
    return BAD(400, "the first byte, 0x%02x, does not begin an HTTP request", first);
}

enum http1_step http1_scan(struct http1 *h, const uint8_t *bytes, size_t size, size_t *ret_head,
                           struct err *err)
{
    const struct http1_limits *limits = h->limits;
    size_t line = h->line_at, at = h->scanned;

    if (UNLIKELY(h->is_bad))
        return HTTP1_BAD;
    require(size >= at);
    if (at == 0 && size > 0 && sniff(h, bytes[0], err) == HTTP1_BAD)
        return HTTP1_BAD;
    for (;;) {
        const uint8_t *lf = at == size ? NULL : memchr(bytes + at, '\n', size - at);
        size_t end = lf == NULL ? size : (size_t)(lf - bytes);
        if (UNLIKELY(!h->has_line && (end - line > limits->target_bytes_max + LINE_BYTES_EXTRA ||
                                      end >= limits->head_bytes_max)))
            return BAD(414, "the request line is too long: the target may have %u bytes",
                       limits->target_bytes_max);
        if (UNLIKELY(end >= limits->head_bytes_max))
            return BAD(431, "the request's headers are too long: the most is %u bytes",
                       limits->head_bytes_max);
        if (lf == NULL) {
            h->scanned = (uint32_t)size;
            h->line_at = (uint32_t)line;
            return HTTP1_MORE;
        }
        if (UNLIKELY(end == line || bytes[end - 1] != '\r'))
            return BAD(400, "a line of the request's head ends in LF without CR");
        if (end == line + 1) {
            if (h->has_line) {
                *ret_head = end + 1;
                return HTTP1_HEAD;
            }
            /* RFC 9112 2.2: one empty line before a request is forgiven. */
            if (h->has_skipped)
                return BAD(400, "there is more than one empty line before the request");
            h->has_skipped = true;
            h->begin = (uint32_t)end + 1;
        } else if (!h->has_line) {
            struct slice text = slice_make(bytes + line, end - 1 - line);
            if (request_line(h, text, err) == HTTP1_BAD)
                return HTTP1_BAD;
            h->has_line = true;
        }
        line = at = end + 1;
    }
}

struct slice http1_target(const struct http1 *h, const uint8_t *bytes)
{
    if (h->target.size == 0)
        return slice_make(NULL, 0);
    return slice_make(bytes + h->begin + h->method_text.size + 1, h->target.size);
}

struct reader {
    struct http1_field *fields;
    uint32_t count, most;
    uint16_t flags; /* llhttp's, at the end of the head: it forgets them with the message */
    bool is_over;   /* too many */
    bool is_complete;
};

static int on_field(llhttp_t *parser, const char *at, size_t size)
{
    struct reader *reader = parser->data;

    if (reader->count == reader->most) {
        reader->is_over = true;
        return -1;
    }
    reader->fields[reader->count++] = (struct http1_field){ slice_make(at, size), { NULL, 0 } };
    return 0;
}

/* May come in pieces that lie one behind the other. */
static int on_value(llhttp_t *parser, const char *at, size_t size)
{
    struct reader *reader = parser->data;
    struct slice *value = &reader->fields[reader->count - 1].value;

    if (value->data == NULL)
        value->data = (const uint8_t *)at;
    value->size = (size_t)((const uint8_t *)at + size - value->data);
    return 0;
}

static int on_complete(llhttp_t *parser)
{
    struct reader *reader = parser->data;

    reader->is_complete = true;
    reader->flags = parser->flags;
    parser->upgrade = 0; /* else it would stop, as if another protocol began */
    return 0;
}

static void lower(uint8_t *at, size_t size)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);

    for (; size >= 8; at += 8, size -= 8) {
        uint64_t x;
        memcpy(&x, at, 8);
        uint64_t low = x & 0x7f * ones;
        uint64_t from_a = low + (0x80 - 'A') * ones, past_z = low + (0x80 - 'Z' - 1) * ones;
        x |= (from_a & ~past_z & ~x & 0x80 * ones) >> 2;
        memcpy(at, &x, 8);
    }
    for (; size > 0; at++, size--)
        *at |= (uint8_t)((*at >= 'A' && *at <= 'Z') << 5);
}

static bool is_alnum(uint8_t c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

bool http1_host_is_valid(struct slice host)
{
    size_t at = 0, start;

    if (host.size > 0 && host.data[0] == '[') {
        at = slice_find(host, ']');
        if (at == host.size || at < 3)
            return false;
        for (size_t i = 1; i < at; i++)
            if (host.data[i] != ':' && host.data[i] != '.' &&
                (host.data[i] > 'f' || !is_alnum(host.data[i]) ||
                 (host.data[i] > 'F' && host.data[i] < 'a')))
                return false;
        at++;
    } else {
        while (at < host.size && (is_alnum(host.data[at]) || host.data[at] == '-' ||
                                  host.data[at] == '.' || host.data[at] == '_'))
            at++;
        if (at == 0 || at > 255)
            return false;
    }
    if (at == host.size)
        return true;
    if (host.data[at++] != ':')
        return false;
    for (start = at; at < host.size && host.data[at] >= '0' && host.data[at] <= '9';)
        at++;
    return at == host.size && at - start <= 5;
}

/* RFC 9112 3.2: origin-form, absolute-form, and * for OPTIONS. */
static enum http1_step split_target(struct http1 *h, struct slice host, struct err *err)
{
    struct slice target = h->target;

    h->authority = host;
    if (UNLIKELY(target.data[0] != '/')) {
        size_t scheme = slice_is_nocase(slice_first(target, 7), "http://")    ? 7
                        : slice_is_nocase(slice_first(target, 8), "https://") ? 8
                                                                              : 0;
        if (slice_is(target, "*") && h->method == HTTP1_OPTIONS) {
            h->path = target;
            h->query = slice_make(NULL, 0);
            return HTTP1_HEAD;
        }
        if (scheme == 0)
            return BAD(400, "the request target does not begin with '/' or http://");
        target = slice_skip(target, scheme);
        size_t end = MIN(slice_find(target, '/'), slice_find(target, '?'));
        h->authority = slice_first(target, end);
        target = slice_skip(target, end);
        if (!http1_host_is_valid(h->authority))
            return BAD(400, "the request target's host is not a valid one");
        /* RFC 9112 3.2.2 lets the target win; a client sends the same, and who doesn't is up to
         * something. */
        if (host.data != NULL && !slice_eq(host, h->authority))
            return BAD(400, "the Host header differs from the host in the request target");
        if (target.size == 0 || target.data[0] != '/') {
            static const uint8_t slash[] = "/";
            h->path = slice_make(slash, 1);
            h->query = target.size == 0 ? slice_make(NULL, 0) : slice_skip(target, 1);
            return HTTP1_HEAD;
        }
    }
    const uint8_t *question = memchr(target.data, '?', target.size);
    size_t at = question == NULL ? target.size : (size_t)(question - target.data);
    h->path = slice_first(target, at);
    h->query = at == target.size ? slice_make(NULL, 0) : slice_skip(target, at + 1);
    return HTTP1_HEAD;
}

COLD static enum http1_step refuse(struct http1 *h, const llhttp_t *parser, enum llhttp_errno error,
                                   const struct reader *reader, struct err *err)
{
    const char *after = "the request line", *reason = llhttp_get_error_reason(parser);
    int size = (int)strlen(after);

    if (reader->is_over)
        return BAD(431, "the request has more than %u header fields", h->limits->fields_max);
    if (error == HPE_INVALID_METHOD || error == HPE_INVALID_CONSTANT)
        return BAD(501, "the method '%.*s' is not known here",
                   (int)MIN(h->method_text.size, (size_t)32), (const char *)h->method_text.data);
    if (error == HPE_INVALID_TRANSFER_ENCODING && strstr(reason, "Content-Length") == NULL)
        return BAD(501, "the only Transfer-Encoding understood is a single 'chunked'");
    if (reader->count > 0) {
        after = (const char *)reader->fields[reader->count - 1].name.data;
        size = (int)MIN(reader->fields[reader->count - 1].name.size, (size_t)64);
    }
    return BAD(400, "the request's head is malformed at or behind '%.*s': %s", size, after,
               reason != NULL && reason[0] != '\0' ? reason : llhttp_errno_name(error));
}

static enum http1_step framing(struct http1 *h, struct slice length, struct slice coding,
                               struct err *err)
{
    uint64_t size = 0;

    h->left = 0;
    if (coding.data != NULL) {
        if (length.data != NULL)
            return BAD(400, "Content-Length stands beside Transfer-Encoding");
        if (!slice_is_nocase(coding, "chunked"))
            return BAD(501, "the only Transfer-Encoding understood is a single 'chunked'");
        if (h->minor == 0)
            return BAD(400, "HTTP/1.0 has no Transfer-Encoding");
        h->body_size = -1;
        h->state = CHUNK_SIZE;
        h->digits = 0;
        h->trailer_bytes = h->trailers_count = h->extension_bytes = h->extensions_bytes = 0;
        return HTTP1_HEAD;
    }
    if (length.data != NULL && (!slice_to_u64(length, &size) || size > INT64_MAX))
        return BAD(400, "Content-Length is not a number of bytes");
    h->body_size = (int64_t)size;
    h->left = size;
    h->state = size == 0 ? BODY_OVER : BODY_SIZED;
    return HTTP1_HEAD;
}

enum http1_step http1_parse(struct http1 *h, uint8_t *head, size_t size, struct http1_field *fields,
                            struct err *err)
{
    static const llhttp_settings_t settings = {
        .on_header_field = on_field,
        .on_header_value = on_value,
        .on_headers_complete = on_complete,
    };
    struct reader reader = { .fields = fields, .most = h->limits->fields_max };
    struct slice host = { NULL, 0 }, length = host, coding = host, expect = host;
    llhttp_t parser;

    require(h->has_line && !h->is_bad && size > h->begin);
    h->target = http1_target(h, head); /* where the bytes lie now */
    h->method_text.data = head + h->begin;
    h->method = method_of(h->method_text);
    if (h->method == HTTP1_OTHER && slice_is(h->method_text, "CONNECT"))
        return BAD(501, "CONNECT is for proxies, and this is none");

    llhttp_init(&parser, HTTP_REQUEST, &settings);
    parser.data = &reader;
    enum llhttp_errno error =
        llhttp_execute(&parser, (const char *)head + h->begin, size - h->begin);
    if (UNLIKELY(error != HPE_OK || !reader.is_complete))
        return refuse(h, &parser, error, &reader, err);

    h->fields_count = reader.count;
    h->is_keep_alive = (reader.flags & F_CONNECTION_CLOSE) == 0 &&
                       (h->minor == 1 || (reader.flags & F_CONNECTION_KEEP_ALIVE) != 0);
    h->has_upgrade =
        (reader.flags & (F_UPGRADE | F_CONNECTION_UPGRADE)) == (F_UPGRADE | F_CONNECTION_UPGRADE);
    for (uint32_t i = 0; i < reader.count; i++) {
        struct http1_field *field = &fields[i];
        struct slice *single = NULL;
        lower(head + (field->name.data - head), field->name.size);
        while (field->value.size > 0 && (field->value.data[field->value.size - 1] == ' ' ||
                                         field->value.data[field->value.size - 1] == '\t'))
            field->value.size--;
        if (field->value.data == NULL)
            field->value.data = field->name.data + field->name.size;
        switch (field->name.size) {
        case 4:
            if (memcmp(field->name.data, "host", 4) == 0)
                single = &host;
            break;
        case 6:
            if (memcmp(field->name.data, "expect", 6) == 0)
                single = &expect;
            break;
        case 14:
            if (memcmp(field->name.data, "content-length", 14) == 0)
                single = &length;
            break;
        case 17:
            if (memcmp(field->name.data, "transfer-encoding", 17) == 0)
                single = &coding;
            break;
        default: break;
        }
        if (single == NULL)
            continue;
        if (single->data != NULL)
            return BAD(400, "the header '%.*s' is there twice", SLICE_ARG(field->name));
        *single = field->value;
    }
    if (framing(h, length, coding, err) == HTTP1_BAD)
        return HTTP1_BAD;
    if (host.data == NULL && h->minor == 1)
        return BAD(400, "the request has no Host header, which HTTP/1.1 requires");
    if (host.data != NULL && !http1_host_is_valid(host))
        return BAD(400, "the Host header is not a name or address with an optional port");
    if (split_target(h, host, err) == HTTP1_BAD)
        return HTTP1_BAD;
    h->expects_continue = false;
    if (UNLIKELY(expect.data != NULL)) {
        if (!slice_is_nocase(expect, "100-continue"))
            return BAD(417, "the only expectation met is '100-continue'");
        h->expects_continue = h->minor == 1 && h->body_size != 0;
    }
    return HTTP1_HEAD;
}

/* -- the body -------------------------------------------------------------------------------- */

uint64_t http1_data_left(const struct http1 *h)
{
    /* While a chunk's size is being read, `left` is only its beginning. */
    return h->state == BODY_SIZED || h->state == CHUNK_DATA ? h->left : 0;
}

void http1_data_taken(struct http1 *h, uint64_t size)
{
    require(size <= http1_data_left(h));
    h->left -= size;
    if (h->left == 0 && size > 0)
        h->state = h->state == BODY_SIZED ? BODY_OVER : CHUNK_DATA_CR;
}

bool http1_is_over(const struct http1 *h)
{
    return h->state == BODY_OVER;
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Field values, trailers' and extensions' bytes: HTAB, visible, obs-text. */
static bool is_text(uint8_t c)
{
    return c == '\t' || (c >= 0x20 && c != 0x7f);
}

/* One byte of chunk framing (RFC 9112 7.1); data is not its business. HTTP1_MORE: go on. */
static enum http1_step frame_byte(struct http1 *h, uint8_t c, struct err *err)
{
    int digit;

    switch (h->state) {
    case CHUNK_SIZE:
        digit = hex_digit(c);
        if (digit >= 0) {
            /* Also bounds leading zeros. */
            if (++h->digits > CHUNK_DIGITS_MAX || h->left > INT64_MAX >> 4)
                return BAD(400, "a chunk's size is too large");
            h->left = h->left << 4 | (unsigned)digit;
            return HTTP1_MORE;
        }
        if (h->digits == 0 || (c != '\r' && c != ';'))
            return BAD(400, "a chunk's size is not a hexadecimal number");
        h->extension_bytes = 0;
        h->state = c == '\r' ? CHUNK_SIZE_LF : CHUNK_EXTENSION;
        return HTTP1_MORE;
    case CHUNK_EXTENSION:
        if (c == '\r') {
            h->state = CHUNK_SIZE_LF;
            return HTTP1_MORE;
        }
        if (!is_text(c))
            return BAD(400, "a chunk's extension holds the byte 0x%02x", c);
        if (++h->extension_bytes > EXTENSION_BYTES_MAX ||
            ++h->extensions_bytes > EXTENSIONS_BYTES_MAX)
            return BAD(400, "the chunks' extensions are too long");
        return HTTP1_MORE;
    case CHUNK_SIZE_LF:
        if (c != '\n')
            return BAD(400, "a chunk's size does not end in CR LF");
        h->state = h->left == 0 ? TRAILER_START : CHUNK_DATA;
        return HTTP1_MORE;
    case CHUNK_DATA_CR:
    case CHUNK_DATA_LF:
        if (c != (h->state == CHUNK_DATA_CR ? '\r' : '\n'))
            return BAD(400, "a chunk's data does not end in CR LF where its size says");
        h->digits = 0;
        h->state = h->state == CHUNK_DATA_CR ? CHUNK_DATA_LF : CHUNK_SIZE;
        return HTTP1_MORE;
    default: break;
    }

    if (++h->trailer_bytes > h->limits->head_bytes_max)
        return BAD(431, "the request's trailers are too long: the most is %u bytes",
                   h->limits->head_bytes_max);
    switch (h->state) {
    case TRAILER_START:
        if (c == '\r') {
            h->state = LAST_LF;
            return HTTP1_MORE;
        }
        if (!is_token(c))
            return BAD(400, "a trailer begins with the byte 0x%02x", c);
        if (++h->trailers_count > h->limits->fields_max)
            return BAD(431, "the request has more than %u trailer fields", h->limits->fields_max);
        h->state = TRAILER_NAME;
        return HTTP1_MORE;
    case TRAILER_NAME:
        if (c == ':')
            h->state = TRAILER_VALUE;
        else if (!is_token(c))
            return BAD(400, "a trailer's name holds the byte 0x%02x", c);
        return HTTP1_MORE;
    case TRAILER_VALUE:
        if (c == '\r')
            h->state = TRAILER_LF;
        else if (!is_text(c))
            return BAD(400, "a trailer's value holds the byte 0x%02x", c);
        return HTTP1_MORE;
    case TRAILER_LF:
    case LAST_LF:
        if (c != '\n')
            return BAD(400, "a trailer line does not end in CR LF");
        h->state = h->state == LAST_LF ? BODY_OVER : TRAILER_START;
        return HTTP1_MORE;
    default: require(false); abort();
    }
}

enum http1_step http1_body(struct http1 *h, const uint8_t *bytes, size_t size, size_t *ret_used,
                           struct slice *ret_data, struct err *err)
{
    size_t at = 0;

    *ret_used = 0;
    if (UNLIKELY(h->is_bad))
        return HTTP1_BAD;
    for (;;) {
        if (h->state == BODY_OVER) {
            *ret_used = at;
            return HTTP1_END;
        }
        if (at == size) {
            *ret_used = at;
            return HTTP1_MORE;
        }
        if (h->state == BODY_SIZED || h->state == CHUNK_DATA) {
            size_t data = (size_t)MIN((uint64_t)(size - at), h->left);
            *ret_data = slice_make(bytes + at, data);
            *ret_used = at + data;
            http1_data_taken(h, data);
            return HTTP1_DATA;
        }
        require(h->state != BODY_NONE);
        if (frame_byte(h, bytes[at++], err) == HTTP1_BAD)
            return HTTP1_BAD;
    }
}
