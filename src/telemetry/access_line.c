/* access_line.c - SPDX-License-Identifier: Apache-2.0
 *
 * Written by hand and not with printf: a line is most of what the log costs, and it is paid by whoever
 * serves. Room is not asked for: texts are bounded (record.h), and no byte becomes more than six.
 */
#include "telemetry/access_line.h"

#include <stdio.h>
#include <time.h>

#include "base/err.h"
#include "base/utf8.h"

/* Of the texts that are written: the state of a trace is not. */
enum { TEXTS_SUM_MAX = 2200, BYTE_MAX = 6, ELSE_MAX = 2048 };
_Static_assert(TEXTS_SUM_MAX * BYTE_MAX + ELSE_MAX <= ACCESS_LINE_MAX, "the longest line has room");

#define NS_PER_S UINT64_C(1000000000)

void access_line_init(struct access_line *line, enum access_form form,
                      const char *const *stage_names)
{
    *line = (struct access_line){ .form = form, .stage_names = stage_names, .second = UINT64_MAX };
}

/* -- pieces ------------------------------------------------------------------------------------ */

/* Inline, so that the size of a literal is known and it is stored as what it is: a few words. */
static inline __attribute__((always_inline)) uint8_t *put(uint8_t *at, const char *text)
{
    size_t size = strlen(text);

    memcpy(at, text, size);
    return at + size;
}

static uint8_t *put_u64(uint8_t *at, uint64_t value)
{
    uint8_t digits[20];
    size_t count = 0;

    do
        digits[count++] = (uint8_t)('0' + value % 10);
    while ((value /= 10) != 0);
    while (count != 0)
        *at++ = digits[--count];
    return at;
}

/* Microseconds with one place behind the point. */
static uint8_t *put_us(uint8_t *at, uint64_t ns)
{
    uint64_t tenths = ns / 100 + (ns % 100 >= 50);

    at = put_u64(at, tenths / 10);
    *at++ = '.';
    *at++ = (uint8_t)('0' + tenths % 10);
    return at;
}

static uint8_t *put_hex(uint8_t *at, const uint8_t *bytes, size_t count)
{
    return (uint8_t *)trace_write_hex((char *)at, bytes, count);
}

/* Printable ASCII that means nothing in quotes: stands for itself in both forms. */
static inline bool is_plain(uint8_t c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

static uint8_t *put_u16(uint8_t *at, uint32_t unit)
{
    static const char digits[] = "0123456789abcdef";

    *at++ = '\\';
    *at++ = 'u';
    for (int shift = 12; shift >= 0; shift -= 4)
        *at++ = (uint8_t)digits[unit >> shift & 15];
    return at;
}

/* The first character of valid UTF-8. */
static uint32_t code_point(const uint8_t *c, size_t size)
{
    switch (size) {
    case 2: return (uint32_t)(c[0] & 0x1f) << 6 | (c[1] & 0x3f);
    case 3: return (uint32_t)(c[0] & 0xf) << 12 | (uint32_t)(c[1] & 0x3f) << 6 | (c[2] & 0x3f);
    default:
        return (uint32_t)(c[0] & 7) << 18 | (uint32_t)(c[1] & 0x3f) << 12 |
               (uint32_t)(c[2] & 0x3f) << 6 | (c[3] & 0x3f);
    }
}

COLD static uint8_t *put_json_odd(uint8_t *at, struct slice *rest)
{
    uint8_t c = rest->data[0];
    size_t step = c < 0x80 ? 1 : utf8_step(*rest);

    if (c == '"' || c == '\\') {
        *at++ = '\\';
        *at++ = c;
    } else if (c < 0x80) {
        at = put_u16(at, c);
    } else if (step == 0) {
        at = put_u16(at, 0xfffd);
    } else {
        uint32_t point = code_point(rest->data, step);
        if (point >= 0x10000) {
            at = put_u16(at, 0xd800 + ((point - 0x10000) >> 10));
            point = 0xdc00 + ((point - 0x10000) & 0x3ff);
        }
        at = put_u16(at, point);
    }
    *rest = slice_skip(*rest, MAX(step, (size_t)1));
    return at;
}

/* Copies what is plain; *rest is what is left, at whose front stands a byte that is not. Eight at a time: a
 * byte is below 0x20, or is the one looked for, when taking that from it borrows into its top bit. */
static inline uint8_t *put_plain(uint8_t *at, struct slice *rest)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    const uint8_t *from = rest->data, *end = from + rest->size;

    while (end - from >= 8) {
        uint64_t w, quote, slash, del;
        memcpy(&w, from, sizeof w);
        quote = w ^ ones * '"';
        slash = w ^ ones * '\\';
        del = w ^ ones * 0x7f;
        if (UNLIKELY(((w | (w - ones * 0x20) | (quote - ones) | (slash - ones) | (del - ones)) &
                      tops) != 0))
            break; /* perhaps for nothing: a borrow goes on into the next byte */
        memcpy(at, &w, sizeof w);
        at += sizeof w;
        from += sizeof w;
    }
    while (from < end && is_plain(*from))
        *at++ = *from++;
    *rest = slice_make(from, (size_t)(end - from));
    return at;
}

static uint8_t *put_json(uint8_t *at, struct slice text)
{
    for (;;) {
        at = put_plain(at, &text);
        if (LIKELY(text.size == 0))
            return at;
        at = put_json_odd(at, &text);
    }
}

/* `is_bare`: it stands without quotes, so a blank ends it. */
static uint8_t *put_text(uint8_t *at, struct slice text, bool is_bare)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        if (LIKELY(is_plain(c) && (c != ' ' || !is_bare))) {
            *at++ = c;
        } else if (c == '"' || c == '\\') {
            *at++ = '\\';
            *at++ = c;
        } else {
            *at++ = '\\';
            *at++ = 'x';
            *at++ = (uint8_t)digits[c >> 4];
            *at++ = (uint8_t)digits[c & 15];
        }
    }
    return at;
}

/* The whole second as text, made once a second. Returns the nanoseconds behind it. */
static uint64_t set_second(struct access_line *line, uint64_t wall_ns)
{
    static const char months[][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
    uint64_t second = wall_ns / NS_PER_S;

    if (UNLIKELY(second != line->second)) {
        time_t seconds = (time_t)second;
        struct tm utc;
        int size;
        gmtime_r(&seconds, &utc);
        if (line->form == ACCESS_JSON)
            size = (int)strftime(line->second_text, sizeof line->second_text, "%Y-%m-%dT%H:%M:%S",
                                 &utc);
        else /* the names of months are English, whatever the locale */
            size = snprintf(line->second_text, sizeof line->second_text,
                            "%02d/%s/%04d:%02d:%02d:%02d", utc.tm_mday, months[utc.tm_mon],
                            (utc.tm_year + 1900) % 10000, utc.tm_hour, utc.tm_min, utc.tm_sec);
        line->second_size = (uint8_t)size;
        line->second = second;
    }
    return wall_ns % NS_PER_S;
}

static const char *end_of(const struct record *record)
{
    return record->end == RECORD_LEFT ? "left" : record->end == RECORD_ABORTED ? "aborted" : NULL;
}

static uint64_t total_ns(const struct record *record)
{
    return record->ended_ns > record->begun_ns ? record->ended_ns - record->begun_ns : 0;
}

/* Without its port. */
static struct slice host_of(struct slice peer)
{
    size_t size = peer.size;

    while (size > 0 && peer.data[size - 1] != ':')
        size--;
    if (size < 2 || slice_starts(peer, "unix:"))
        return peer;
    return slice_first(peer, size - 1);
}

/* -- JSON -------------------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) uint8_t *json_text(uint8_t *at, const char *key, const struct record_view *v,
                                                                enum record_text which)
{
    if (v->texts[which].size == 0)
        return at;
    at = put(at, key);
    at = put_json(at, v->texts[which]);
    if (UNLIKELY(v->record->cut & 1u << which))
        at = put(at, "...");
    *at++ = '"';
    return at;
}

static inline uint8_t *json_u64(uint8_t *at, const char *key, uint64_t value)
{
    return put_u64(put(at, key), value);
}

static uint8_t *json_stages(uint8_t *at, const struct access_line *line, const struct record *r)
{
    const char *before = ",\"stages\":{\"";
    bool has_any = false;

    for (size_t i = 0; i < RECORD_STAGES; i++) {
        if (r->stage_ns[i] == 0)
            continue;
        at = put(put(put(at, before), line->stage_names[i]), "\":");
        at = put_us(at, r->stage_ns[i]);
        before = ",\"";
        has_any = true;
    }
    if (has_any)
        *at++ = '}';
    return at;
}

static uint8_t *write_json(struct access_line *line, uint8_t *at, const struct record_view *v,
                           uint64_t fraction_ns)
{
    const struct record *r = v->record;
    const char *end = end_of(r);
    uint64_t us = fraction_ns / 1000;

    at = put(at, "{\"time\":\"");
    memcpy(at, line->second_text, line->second_size);
    at += line->second_size;
    *at++ = '.';
    for (int i = 5; i >= 0; i--, us /= 10)
        at[i] = (uint8_t)('0' + us % 10);
    at += 6;
    *at++ = 'Z';
    *at++ = '"';
    if (UNLIKELY(r->audit != RECORD_PLAIN))
        at = put(at, r->audit == RECORD_ADMIN ? ",\"audit\":\"admin\"" : ",\"audit\":\"refused\"");
    at = json_text(at, ",\"peer\":\"", v, RECORD_PEER);
    at = json_text(at, ",\"caller\":\"", v, RECORD_CALLER);
    at = json_text(at, ",\"tenant\":\"", v, RECORD_TENANT);
    at = json_text(at, ",\"method\":\"", v, RECORD_METHOD);
    at = json_text(at, ",\"path\":\"", v, RECORD_PATH);
    at = json_text(at, ",\"query\":\"", v, RECORD_QUERY);
    at = json_text(at, ",\"route\":\"", v, RECORD_ROUTE);
    at = json_text(at, ",\"protocol\":\"", v, RECORD_PROTOCOL);
    at = json_text(at, ",\"tls\":\"", v, RECORD_TLS);
    at = json_u64(at, ",\"status\":", r->status);
    if (r->is_call)
        at = put(put(put(at, ",\"code\":\""), err_name((enum err_code)r->code)), "\"");
    if (end != NULL)
        at = put(put(put(at, ",\"end\":\""), end), "\"");
    at = json_u64(at, ",\"bytes_in\":", r->body_in);
    at = json_u64(at, ",\"bytes_out\":", r->body_out);
    at = put_us(put(at, ",\"us\":"), total_ns(r));
    at = json_stages(at, line, r);
    at = json_text(at, ",\"model\":\"", v, RECORD_MODEL);
    at = json_text(at, ",\"version\":\"", v, RECORD_VERSION);
    if (r->requests != 0 || r->responses != 0) {
        at = json_u64(at, ",\"requests\":", r->requests);
        at = json_u64(at, ",\"responses\":", r->responses);
    }
    if (r->has_trace) {
        at = put_hex(put(at, ",\"trace\":\""), r->trace_id, TRACE_ID_BYTES);
        if (r->has_span)
            at = put_hex(put(at, "\",\"span\":\""), r->span_id, SPAN_ID_BYTES);
        *at++ = '"';
    }
    at = json_text(at, ",\"request_id\":\"", v, RECORD_REQUEST_ID);
    at = json_text(at, ",\"agent\":\"", v, RECORD_AGENT);
    if (UNLIKELY(v->texts[RECORD_WHY].size != 0))
        at = json_text(at, ",\"why\":\"", v, RECORD_WHY);
    *at++ = '}';
    *at++ = '\n';
    return at;
}

/* -- text -------------------------------------------------------------------------------------- */

static uint8_t *text_or_dash(uint8_t *at, const struct record_view *v, enum record_text which,
                             bool is_bare)
{
    if (v->texts[which].size == 0) {
        *at++ = '-';
        return at;
    }
    at = put_text(at, v->texts[which], is_bare);
    return UNLIKELY(v->record->cut & 1u << which) ? put(at, "...") : at;
}

static uint8_t *text_pair(uint8_t *at, const char *key, const struct record_view *v,
                          enum record_text which)
{
    return v->texts[which].size == 0 ? at : text_or_dash(put(at, key), v, which, true);
}

static uint8_t *write_text(struct access_line *line, uint8_t *at, const struct record_view *v)
{
    const struct record *r = v->record;
    struct slice host = host_of(v->texts[RECORD_PEER]);
    const char *before = " stages=", *end = end_of(r);

    at = host.size == 0 ? put(at, "-") : put_text(at, host, true);
    at = put(at, " - ");
    at = text_or_dash(at, v, RECORD_CALLER, true);
    at = put(at, " [");
    memcpy(at, line->second_text, line->second_size);
    at = put(at + line->second_size, " +0000] \"");
    at = text_or_dash(at, v, RECORD_METHOD, true);
    *at++ = ' ';
    at = text_or_dash(at, v, RECORD_PATH, true);
    if (v->texts[RECORD_QUERY].size != 0) {
        *at++ = '?';
        at = text_or_dash(at, v, RECORD_QUERY, true);
    }
    *at++ = ' ';
    at = text_or_dash(at, v, RECORD_PROTOCOL, true);
    at = put_u64(put(at, "\" "), r->status);
    *at++ = ' ';
    at = put_u64(at, r->body_out);
    at = put(at, " \"-\" \"");
    at = text_or_dash(at, v, RECORD_AGENT, false);
    at = put_us(put(at, "\" us="), total_ns(r));
    at = put_u64(put(at, " in="), r->body_in);
    if (r->is_call)
        at = put(put(at, " code="), err_name((enum err_code)r->code));
    if (end != NULL)
        at = put(put(at, " end="), end);
    at = text_pair(at, " tenant=", v, RECORD_TENANT);
    at = text_pair(at, " tls=", v, RECORD_TLS);
    at = text_pair(at, " model=", v, RECORD_MODEL);
    at = text_pair(at, " version=", v, RECORD_VERSION);
    if (r->requests > 1 || r->responses > 1) {
        at = put_u64(put(at, " requests="), r->requests);
        at = put_u64(put(at, " responses="), r->responses);
    }
    for (size_t i = 0; i < RECORD_STAGES; i++) {
        if (r->stage_ns[i] == 0)
            continue;
        at = put(put(put(at, before), line->stage_names[i]), ":");
        at = put_us(at, r->stage_ns[i]);
        before = ",";
    }
    if (r->has_trace)
        at = put_hex(put(at, " trace="), r->trace_id, TRACE_ID_BYTES);
    at = text_pair(at, " id=", v, RECORD_REQUEST_ID);
    if (UNLIKELY(v->texts[RECORD_WHY].size != 0)) {
        at = text_or_dash(put(at, " why=\""), v, RECORD_WHY, false);
        *at++ = '"';
    }
    *at++ = '\n';
    return at;
}

uint8_t *access_line_write(struct access_line *line, uint8_t *out, const struct record *record)
{
    struct record_view view;
    uint64_t fraction_ns = set_second(line, record->begun_ns + line->wall_offset_ns);

    record_read(&view, record);
    return line->form == ACCESS_JSON ? write_json(line, out, &view, fraction_ns)
                                     : write_text(line, out, &view);
}
