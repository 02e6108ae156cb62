/* trace_test.c - traceparent and tracestate, clause by clause of W3C Trace Context.
 * SPDX-License-Identifier: Apache-2.0 */
#include "telemetry/trace.h"

#include <stdio.h>

#include "test/harness.h"

#define TRACE "0af7651916cd43dd8448eb211c80319c"
#define SPAN "b7ad6b7169203331"
#define ZEROS "00000000000000000000000000000000"

static const struct {
    const char *text;
    bool is_good, is_sampled;
    const char *why;
} parents[] = {
    { "00-" TRACE "-" SPAN "-01", true, true, "the example of the specification" },
    { "00-" TRACE "-" SPAN "-00", true, false, "not sampled" },
    { "00-" TRACE "-" SPAN "-ff", true, true, "flags that are not known yet" },
    { "00-" TRACE "-" SPAN "-02", true, false, "another flag (level 2: random)" },
    { "01-" TRACE "-" SPAN "-01", true, true, "a later version" },
    { "cc-" TRACE "-" SPAN "-01-what-comes", true, true, "a later version with more" },
    { "cc-" TRACE "-" SPAN "-01-", true, true, "... which is empty" },
    { "cc-" TRACE "-" SPAN "-01what", false, false, "more without a dash" },
    { "ff-" TRACE "-" SPAN "-01", false, false, "ff is no version" },
    { "00-" TRACE "-" SPAN "-01-", false, false, "00 has nothing behind it" },
    { "00-" TRACE "-" SPAN "-01 ", false, false, "nor a blank" },
    { "00-" TRACE "-" SPAN "-0", false, false, "too short" },
    { "00-" TRACE "-" SPAN, false, false, "no flags" },
    { "", false, false, "empty" },
    { "00-" ZEROS "-" SPAN "-01", false, false, "a trace of zeros" },
    { "00-" TRACE "-0000000000000000-01", false, false, "a parent of zeros" },
    { "00-0AF7651916CD43DD8448EB211C80319C-" SPAN "-01", false, false, "upper case" },
    { "00-" TRACE "-B7AD6B7169203331-01", false, false, "upper case in the parent" },
    { "0X-" TRACE "-" SPAN "-01", false, false, "no digit in the version" },
    { "00-" TRACE "-" SPAN "-0g", false, false, "no digit in the flags" },
    { "00_" TRACE "-" SPAN "-01", false, false, "no dash" },
    { "00-0af7651916cd43dd8448eb211c80319 -" SPAN "-01", false, false, "a blank for a digit" },
    { "00-" TRACE "-" SPAN "-01,00-" TRACE "-" SPAN "-01", false, false, "two in one field" },
};

TEST(traceparent_clause_by_clause)
{
    for (size_t i = 0; i < COUNT(parents); i++) {
        struct trace_context trace = { .span_id = { 42 } };
        bool is_good = trace_parse(&trace, slice_of(parents[i].text));
        check(is_good == parents[i].is_good, "'%s': %s", parents[i].text, parents[i].why);
        if (!is_good) {
            check(trace.span_id[0] == 42 && !trace_is_set(&trace), "'%s' touched nothing",
                  parents[i].text);
            continue;
        }
        check(trace.is_sampled == parents[i].is_sampled, "'%s': %s", parents[i].text,
              parents[i].why);
        check(trace.trace_id[0] == 0x0a && trace.trace_id[15] == 0x9c &&
                  trace.parent_id[0] == 0xb7 && trace.parent_id[7] == 0x31,
              "'%s'", parents[i].text);
        check(span_is_zero(trace.span_id) && trace_is_set(&trace), "'%s'", parents[i].text);
    }
}

TEST(what_is_written_is_read_again)
{
    for (unsigned i = 0; i < 2000; i++) {
        struct trace_context trace = { .is_sampled = i % 2 == 1 }, back;
        char text[TRACEPARENT_MAX];
        for (size_t j = 0; j < TRACE_ID_BYTES; j++)
            trace.trace_id[j] = (uint8_t)(test_random() | (j == 3));
        for (size_t j = 0; j < SPAN_ID_BYTES; j++) {
            trace.parent_id[j] = (uint8_t)(test_random() | 1);
            trace.span_id[j] = (uint8_t)(i % 3 == 0 ? 0 : test_random() | 1);
        }
        trace_write(&trace, text);
        check_or_stop(strlen(text) == TRACEPARENT_MAX - 1 && trace_parse(&back, slice_of(text)),
                      "%s", text);
        check(memcmp(back.trace_id, trace.trace_id, TRACE_ID_BYTES) == 0 &&
                  back.is_sampled == trace.is_sampled,
              "%s", text);
        check(memcmp(back.parent_id, i % 3 == 0 ? trace.parent_id : trace.span_id,
                     SPAN_ID_BYTES) == 0,
              "our span is the next one's parent; without one it is whose child we are: %s", text);
    }
}

TEST(hexadecimal_digits_against_printf)
{
    uint8_t bytes[64] = { 0 };
    char ours[128], theirs[129];

    for (size_t size = 0; size <= sizeof bytes; size++) {
        for (size_t i = 0; i < size; i++) {
            bytes[i] = (uint8_t)test_random();
            snprintf(theirs + 2 * i, 3, "%02x", bytes[i]);
        }
        check(trace_write_hex(ours, bytes, size) == ours + 2 * size, "%zu", size);
        check(memcmp(ours, theirs, 2 * size) == 0, "%zu bytes: %.*s", size, (int)(2 * size), ours);
    }
}

#define TEN "aaaaaaaaaa"
#define MEMBERS_8 "a=1,b=2,c=3,d=4,e=5,f=6,g=7,h=8,"

static const struct {
    const char *text;
    bool is_good;
    const char *why;
} states[] = {
    { "congo=t61rcWkgMzE", true, "one" },
    { "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", true, "two" },
    { "rojo=1 , congo=2\t,\tx=3", true, "blanks around commas" },
    { "a=1,,b=2", true, "an empty member" },
    { "fw529a3039@dt=FfAo;_!", true, "a tenant's key" },
    { "0a/b*c_d-e=v w", true, "every byte of a key, a blank within a value" },
    { MEMBERS_8 MEMBERS_8 MEMBERS_8 "a=1,b=2,c=3,d=4,e=5,f=6,g=7,h=8", true, "32 members" },
    { MEMBERS_8 MEMBERS_8 MEMBERS_8 MEMBERS_8 "i=9", false, "33 members" },
    { "", false, "empty" },
    { ",,", false, "no member" },
    { "a", false, "no value" },
    { "a=", false, "an empty value" },
    { "=1", false, "no key" },
    { "A=1", false, "upper case" },
    { "_a=1", false, "begins with what is no letter" },
    { "a b=1", false, "a blank in a key" },
    { "a@b@c=1", false, "two @" },
    { "a=1=2", false, "= in a value" },
    { "a=\x7f", false, "a control byte" },
    { "a=\xc3\xa4", false, "not ASCII" },
    { "a=1;b=2\n", false, "a line feed" },
};

TEST(tracestate_clause_by_clause)
{
    char text[TRACE_STATE_MAX + 2];

    for (size_t i = 0; i < COUNT(states); i++)
        check(trace_state_is_good(slice_of(states[i].text)) == states[i].is_good, "'%s': %s",
              states[i].text, states[i].why);
    memset(text, 'v', sizeof text);
    memcpy(text, "a=", 2);
    check(trace_state_is_good(slice_make(text, 2 + 256)), "the longest value");
    check(!trace_state_is_good(slice_make(text, 2 + 257)), "a value that is longer");
    text[250] = ',';
    memcpy(text + 251, "b=", 2);
    check(trace_state_is_good(slice_make(text, 509)), "two of them");
    check(!trace_state_is_good(slice_make(text, TRACE_STATE_MAX + 1)), "more than 512 bytes");
    memset(text, 'k', 300);
    text[256] = '=';
    check(trace_state_is_good(slice_make(text, 260)), "the longest key");
    text[256] = 'k';
    text[257] = '=';
    check(!trace_state_is_good(slice_make(text, 260)), "a key that is longer");
}
