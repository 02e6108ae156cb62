/* trace.c - W3C Trace Context, level 1 and what of level 2 is read. SPDX-License-Identifier: Apache-2.0
 *
 * What is malformed is as good as not there (W3C Trace Context 3.2, 4.3): a trace must never cost an
 * answer. So nothing here has words for what is wrong.
 */
#include "telemetry/trace.h"

#include "base/def.h"

enum {
    VERSION_00_SIZE = 55, /* "00-" 32 "-" 16 "-" 2 */
    STATE_MEMBERS_MAX = 32,
    STATE_KEY_MAX = 256,
    STATE_VALUE_MAX = 256,
};

/* Lower case only: upper case is malformed (3.2.2.1). 0xff: not one. */
static uint8_t nibble(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return (uint8_t)(c - '0');
    if (c >= 'a' && c <= 'f')
        return (uint8_t)(c - 'a' + 10);
    return 0xff;
}

/* `count` bytes from twice as many digits; false: one is none. */
static bool read_hex(uint8_t *to, const uint8_t *from, size_t count)
{
    uint8_t bad = 0;

    for (size_t i = 0; i < count; i++) {
        uint8_t high = nibble(from[2 * i]), low = nibble(from[2 * i + 1]);
        bad |= (uint8_t)((high | low) & 0xf0);
        to[i] = (uint8_t)(high << 4 | (low & 0xf));
    }
    return bad == 0;
}

static bool is_zero(const uint8_t *bytes, size_t count)
{
    uint8_t any = 0;

    for (size_t i = 0; i < count; i++)
        any |= bytes[i];
    return any == 0;
}

bool trace_parse(struct trace_context *ret, struct slice text)
{
    const uint8_t *at = text.data;
    struct trace_context trace = { .is_sampled = false };
    uint8_t version, flags;

    if (text.size < VERSION_00_SIZE || at[2] != '-' || at[35] != '-' || at[52] != '-')
        return false;
    if (!read_hex(&version, at, 1) || version == 0xff || !read_hex(&flags, at + 53, 1))
        return false;
    /* Of a later version only as much is read as 00 has, and what follows begins with a dash (4.3). */
    if (version == 0 ? text.size != VERSION_00_SIZE
                     : text.size > VERSION_00_SIZE && at[VERSION_00_SIZE] != '-')
        return false;
    if (!read_hex(trace.trace_id, at + 3, TRACE_ID_BYTES) ||
        is_zero(trace.trace_id, TRACE_ID_BYTES) ||
        !read_hex(trace.parent_id, at + 36, SPAN_ID_BYTES) ||
        is_zero(trace.parent_id, SPAN_ID_BYTES))
        return false;
    trace.is_sampled = (flags & 1) != 0;
    *ret = trace;
    return true;
}

char *trace_write_hex(char *to, const uint8_t *bytes, size_t count)
{
    /* Eight digits at a time: each half byte in a byte of its own, and 39 more where it is above 9. */
    const uint64_t ones = UINT64_C(0x0101010101010101);

    for (; count >= 4; count -= 4, bytes += 4, to += 8) {
        uint32_t four;
        memcpy(&four, bytes, sizeof four);
        uint64_t w = __builtin_bswap32(four);
        w = (w | w << 16) & UINT64_C(0x0000ffff0000ffff);
        w = (w | w << 8) & UINT64_C(0x00ff00ff00ff00ff);
        w = (w | w << 4) & UINT64_C(0x0f0f0f0f0f0f0f0f);
        w += ones * '0' + ((w + ones * 6) >> 4 & ones) * ('a' - '9' - 1);
        w = __builtin_bswap64(w);
        memcpy(to, &w, sizeof w);
    }
    for (; count > 0; count--, bytes++) {
        *to++ = (char)(bytes[0] / 16 + (bytes[0] / 16 > 9 ? 'a' - 10 : '0'));
        *to++ = (char)(bytes[0] % 16 + (bytes[0] % 16 > 9 ? 'a' - 10 : '0'));
    }
    return to;
}

void trace_write(const struct trace_context *trace, char out[TRACEPARENT_MAX])
{
    /* Who records no span of its own passes on whose child it would have been. */
    const uint8_t *parent =
        is_zero(trace->span_id, SPAN_ID_BYTES) ? trace->parent_id : trace->span_id;
    char *at = out;

    memcpy(at, "00-", 3);
    at = trace_write_hex(at + 3, trace->trace_id, TRACE_ID_BYTES);
    *at++ = '-';
    at = trace_write_hex(at, parent, SPAN_ID_BYTES);
    memcpy(at, trace->is_sampled ? "-01" : "-00", 4);
}

/* -- tracestate --------------------------------------------------------------------------------- */

static bool is_key_first(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_key_byte(uint8_t c)
{
    return is_key_first(c) || c == '_' || c == '-' || c == '*' || c == '/' || c == '@';
}

/* chr of the specification: printable ASCII without "," and "=". */
static bool is_value_byte(uint8_t c)
{
    return c >= 0x20 && c <= 0x7e && c != ',' && c != '=';
}

static bool is_member(struct slice member)
{
    size_t equals = slice_find(member, '='), at_signs = 0;
    struct slice value;

    if (equals == member.size || equals == 0 || equals > STATE_KEY_MAX ||
        !is_key_first(member.data[0]))
        return false;
    for (size_t i = 0; i < equals; i++) {
        at_signs += member.data[i] == '@';
        if (!is_key_byte(member.data[i]))
            return false;
    }
    value = slice_skip(member, equals + 1);
    if (value.size == 0 || value.size > STATE_VALUE_MAX || at_signs > 1 ||
        value.data[value.size - 1] == ' ')
        return false;
    for (size_t i = 0; i < value.size; i++)
        if (!is_value_byte(value.data[i]))
            return false;
    return true;
}

bool trace_state_is_good(struct slice state)
{
    uint32_t members = 0;

    if (state.size > TRACE_STATE_MAX)
        return false;
    while (state.size > 0) {
        size_t comma = slice_find(state, ',');
        struct slice member = slice_trim(slice_first(state, comma));
        /* Empty members are allowed between commas (3.3.1.1). */
        if (member.size > 0 && (++members > STATE_MEMBERS_MAX || !is_member(member)))
            return false;
        state = slice_skip(state, MIN(comma + 1, state.size));
    }
    return members > 0;
}
