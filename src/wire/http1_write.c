/* http1_write.c - SPDX-License-Identifier: Apache-2.0
 *
 * Everything is copied once, forwards, into memory whose size was asked for before.
 */
#include "wire/http1_write.h"

#include <stdio.h>
#include <time.h>

#include "base/clock.h"

enum { FIXED_BYTES = 256 }; /* status line, date, length, connection and the last line */

static const struct {
    uint16_t status;
    struct slice line;
} lines[] = {
#define LINE(code, reason)                                   \
    {                                                        \
        code, SLICE_LIT("HTTP/1.1 " #code " " reason "\r\n") \
    }
    LINE(200, "OK"),
    LINE(400, "Bad Request"),
    LINE(404, "Not Found"),
    LINE(429, "Too Many Requests"),
    LINE(500, "Internal Server Error"),
    LINE(503, "Service Unavailable"),
    LINE(100, "Continue"),
    LINE(101, "Switching Protocols"),
    LINE(201, "Created"),
    LINE(202, "Accepted"),
    LINE(204, "No Content"),
    LINE(206, "Partial Content"),
    LINE(301, "Moved Permanently"),
    LINE(302, "Found"),
    LINE(303, "See Other"),
    LINE(304, "Not Modified"),
    LINE(307, "Temporary Redirect"),
    LINE(308, "Permanent Redirect"),
    LINE(401, "Unauthorized"),
    LINE(403, "Forbidden"),
    LINE(405, "Method Not Allowed"),
    LINE(406, "Not Acceptable"),
    LINE(408, "Request Timeout"),
    LINE(409, "Conflict"),
    LINE(410, "Gone"),
    LINE(411, "Length Required"),
    LINE(412, "Precondition Failed"),
    LINE(413, "Content Too Large"),
    LINE(414, "URI Too Long"),
    LINE(415, "Unsupported Media Type"),
    LINE(416, "Range Not Satisfiable"),
    LINE(417, "Expectation Failed"),
    LINE(421, "Misdirected Request"),
    LINE(422, "Unprocessable Content"),
    LINE(424, "Failed Dependency"),
    LINE(425, "Too Early"),
    LINE(426, "Upgrade Required"),
    LINE(428, "Precondition Required"),
    LINE(431, "Request Header Fields Too Large"),
    LINE(499, "Client Closed Request"),
    LINE(501, "Not Implemented"),
    LINE(502, "Bad Gateway"),
    LINE(504, "Gateway Timeout"),
    LINE(505, "HTTP Version Not Supported"),
    LINE(507, "Insufficient Storage"),
#undef LINE
};

void http1_date(char out[HTTP1_DATE_BYTES], uint64_t wall_ns)
{
    static const char days[7][4] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
    static const char months[12][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
    time_t seconds = (time_t)(wall_ns / NS_PER_S);
    char text[128];
    struct tm tm;

    /* RFC 9110 5.6.7, without asking the locale. */
    gmtime_r(&seconds, &tm);
    int size = snprintf(text, sizeof text, "date: %s, %02d %s %04d %02d:%02d:%02d GMT\r\n",
                        days[tm.tm_wday], tm.tm_mday, months[tm.tm_mon], tm.tm_year + 1900,
                        tm.tm_hour, tm.tm_min, tm.tm_sec);
    require(size == HTTP1_DATE_BYTES);
    memcpy(out, text, HTTP1_DATE_BYTES);
}

static size_t fields_bytes(const struct http1_field *fields, uint32_t count)
{
    size_t size = 0;

    for (uint32_t i = 0; i < count; i++)
        size += fields[i].name.size + fields[i].value.size + 4;
    return size;
}

size_t http1_answer_bytes_max(const struct http1_answer *answer)
{
    return FIXED_BYTES + fields_bytes(answer->fields, answer->fields_count) +
           fields_bytes(answer->more, answer->more_count);
}

#define PUT_LIT(at, text) (memcpy((at), text, sizeof text - 1), (at) + sizeof text - 1)

static uint8_t *put_u64(uint8_t *at, uint64_t value)
{
    uint8_t digits[20];
    size_t count = sizeof digits;

    do
        digits[--count] = (uint8_t)('0' + value % 10);
    while ((value /= 10) != 0);
    memcpy(at, digits + count, sizeof digits - count);
    return at + sizeof digits - count;
}

/* Copies eight bytes. Not 0: one of them may be below 0x20 or 0x7f. */
static inline uint64_t put_eight(uint8_t *at, const uint8_t *from)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = 0x80 * ones;
    uint64_t x;

    memcpy(&x, from, 8);
    memcpy(at, &x, 8);
    uint64_t del = x ^ 0x7f * ones;
    return (((x - 0x20 * ones) & ~x) | ((del - ones) & ~del)) & highs;
}

/* Bytes from a handler may come from a peer: none of them may end the line. Looked at eight at a
 * time, the last eight of them once more where they do not come out even; the odd one that must not pass is
 * then found bytewise. */
static inline uint8_t *put_safe(uint8_t *at, struct slice bytes)
{
    uint64_t odd = 0;
    size_t i = 0;

    for (; i + 8 <= bytes.size; i += 8)
        odd |= put_eight(at + i, bytes.data + i);
    if (LIKELY(bytes.size >= 8)) {
        odd |= put_eight(at + bytes.size - 8, bytes.data + bytes.size - 8);
    } else {
        for (; i < bytes.size; i++) {
            at[i] = bytes.data[i];
            odd |= at[i] < 0x20 || at[i] == 0x7f;
        }
    }
    for (i = 0; UNLIKELY(odd != 0) && i < bytes.size; i++)
        if ((at[i] < 0x20 && at[i] != '\t') || at[i] == 0x7f)
            at[i] = ' ';
    return at + bytes.size;
}

static bool is_ours(struct slice name)
{
    switch (name.size) {
    case 4: return memcmp(name.data, "date", 4) == 0;
    case 10: return memcmp(name.data, "connection", 10) == 0;
    case 14: return memcmp(name.data, "content-length", 14) == 0;
    case 17: return memcmp(name.data, "transfer-encoding", 17) == 0;
    default: return name.size == 0;
    }
}

uint8_t *http1_field_write(const struct http1_field *field, uint8_t *at)
{
    if (UNLIKELY(is_ours(field->name)))
        return at;
    at = put_safe(at, field->name);
    *at++ = ':';
    *at++ = ' ';
    at = put_safe(at, field->value);
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

static uint8_t *put_fields(uint8_t *at, const struct http1_field *fields, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        at = http1_field_write(&fields[i], at);
    return at;
}

static uint8_t *put_status(uint8_t *at, uint16_t status)
{
    for (size_t i = 0; i < COUNT(lines); i++)
        if (lines[i].status == status) {
            memcpy(at, lines[i].line.data, lines[i].line.size);
            return at + lines[i].line.size;
        }
    /* RFC 9112 4: the reason may be empty, the blank before it may not. */
    require(status >= 100 && status <= 999);
    at = PUT_LIT(at, "HTTP/1.1 ");
    at = put_u64(at, status);
    return PUT_LIT(at, " \r\n");
}

uint8_t *http1_answer_write(const struct http1_answer *answer, uint8_t *at)
{
    at = put_status(at, answer->status);
    memcpy(at, answer->date, HTTP1_DATE_BYTES);
    at = put_fields(at + HTTP1_DATE_BYTES, answer->fields, answer->fields_count);
    at = put_fields(at, answer->more, answer->more_count);
    if (LIKELY(answer->framing == HTTP1_LENGTH)) {
        at = PUT_LIT(at, "content-length: ");
        at = put_u64(at, answer->length);
        at = PUT_LIT(at, "\r\n");
    } else if (answer->framing == HTTP1_CHUNKED) {
        at = PUT_LIT(at, "transfer-encoding: chunked\r\n");
    }
    if (answer->connection == HTTP1_CLOSE)
        at = PUT_LIT(at, "connection: close\r\n");
    else if (answer->connection == HTTP1_KEEP_SAID)
        at = PUT_LIT(at, "connection: keep-alive\r\n");
    else if (answer->connection == HTTP1_UPGRADE)
        at = PUT_LIT(at, "connection: upgrade\r\nupgrade: websocket\r\n");
    return PUT_LIT(at, "\r\n");
}

uint8_t *http1_chunk_write(size_t size, uint8_t *at)
{
    char digits[16];
    size_t count = sizeof digits;

    do
        digits[--count] = "0123456789abcdef"[size & 15];
    while ((size >>= 4) != 0);
    memcpy(at, digits + count, sizeof digits - count);
    at += sizeof digits - count;
    *at++ = '\r';
    *at++ = '\n';
    return at;
}
