/* print_test.c - what reaches terminals, shells and URLs. SPDX-License-Identifier: Apache-2.0 */
#include "cli/print.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "cli/example.h"
#include "test/harness.h"

static const struct {
    const char *text, *shown, *with_lines;
} escapes[] = {
    { "plain", "plain", "plain" },
    { "m\xc3\xbcller", "m\xc3\xbcller", "m\xc3\xbcller" },
    { "a\nb\tc", "a\\x0ab\\x09c", "a\nb\tc" },
    { "\x1b[31mred", "\\x1b[31mred", "\\x1b[31mred" },
    { "\x7f", "\\x7f", "\\x7f" },
    { "a\xff"
      "b",
      "a\\xffb", "a\\xffb" },
    { "\xc2\x9b"
      "31m",
      "\\xc2\\x9b31m", "\\xc2\\x9b31m" },
    { "\xe2\x80\xae"
      "abc",
      "\\xe2\\x80\\xaeabc", "\\xe2\\x80\\xaeabc" },
    { "\r\n", "\\x0d\\x0a", "\\x0d\n" },
};

TEST(escape_cases)
{
    for (size_t i = 0; i < COUNT(escapes); i++) {
        CLEANUP(text_deinit) struct text out;
        text_init(&out, 4096);
        print_escaped(&out, slice_of(escapes[i].text), false);
        check(strcmp(text_cstr(&out), escapes[i].shown) == 0, "%s", text_cstr(&out));
        out.size = 0;
        print_escaped(&out, slice_of(escapes[i].text), true);
        check(strcmp(text_cstr(&out), escapes[i].with_lines) == 0, "%s", text_cstr(&out));
    }
}

/* What `sh` makes of a line, at most `size` bytes. */
static size_t run_shell(const char *line, char *out, size_t size)
{
    FILE *pipe = popen(line, "r");
    size_t got = pipe == NULL ? 0 : fread(out, 1, size - 1, pipe);

    out[got] = '\0';
    check(pipe != NULL && pclose(pipe) == 0, "sh: %s", line);
    return got;
}

TEST(a_shell_reads_back_what_was_quoted)
{
    static const char *const words[] = { "plain",
                                         "two words",
                                         "$(touch /tmp/x)",
                                         "it's",
                                         "`id`",
                                         "a;b&c|d>e",
                                         "*",
                                         "~",
                                         "#no",
                                         "",
                                         "\"",
                                         "\\",
                                         "-n",
                                         "a\nb",
                                         "<script>alert('x')</script>",
                                         "{\"a\":[1,2]}",
                                         "!1",
                                         "=" };
    char got[4096];

    for (size_t i = 0; i < COUNT(words); i++) {
        CLEANUP(text_deinit) struct text line;
        text_init(&line, 8192);
        text_str(&line, "printf %s ");
        print_shell(&line, slice_of(words[i]));
        run_shell(text_cstr(&line), got, sizeof got);
        check(strcmp(got, words[i]) == 0, "'%s' became '%s'", words[i], got);
    }
    for (unsigned round = 0; round < 20; round++) {
        CLEANUP(text_deinit) struct text line;
        char word[64];
        size_t size = test_random_below(sizeof word - 1);
        for (size_t i = 0; i < size; i++)
            word[i] = (char)(1 + test_random_below(127));
        word[size] = '\0';
        text_init(&line, 8192);
        text_str(&line, "printf %s ");
        print_shell(&line, slice_of(word));
        size_t found = run_shell(text_cstr(&line), got, sizeof got);
        check(found == size && memcmp(got, word, size) == 0, "round %u", round);
    }
}

TEST(percent_cases)
{
    CLEANUP(text_deinit) struct text out;

    text_init(&out, 4096);
    print_percent(&out, slice_of("a b/c?d#e%\xc3\xbc~-._"));
    check(strcmp(text_cstr(&out), "a%20b%2Fc%3Fd%23e%25%C3%BC~-._") == 0, "%s", text_cstr(&out));
}

static const struct {
    const char *body, *flags;
} bodies[] = {
    { "{\"text\":\"You won\"}", " --text 'You won'" },
    { "{\"a\":5.1,\"b\":true}", " --a 5.1 --b true" },
    { "{\"input\":[[1,2],[3,4]]}", " --input '[[1,2],[3,4]]'" },
    { "{\"timeout\":1}", " -d '{\"timeout\":1}'" },
    { "{\"listen\":1}", " --listen 1" },
    { "{\"a b\":1}", " -d '{\"a b\":1}'" },
    { "{\"-a\":1}", " -d '{\"-a\":1}'" },
    { "{\"a\":\"@x\"}", " -d '{\"a\":\"@x\"}'" },
    { "{\"a\":\"-\"}", " -d '{\"a\":\"-\"}'" },
    { "{\"a\":null}", " -d '{\"a\":null}'" },
    { "{\"a\":{\"b\":1}}", " -d '{\"a\":{\"b\":1}}'" },
    { "[1,2]", " -d '[1,2]'" },
    { "{\"a\":\"it's\"}", " --a 'it'\\''s'" },
    { "{}", "" },
};

TEST(example_flag_cases)
{
    for (size_t i = 0; i < COUNT(bodies); i++) {
        CLEANUP(text_deinit) struct text out;
        text_init(&out, 4096);
        example_flags(&out, slice_of(bodies[i].body));
        check(strcmp(text_cstr(&out), bodies[i].flags) == 0, "%s: %s", bodies[i].body,
              text_cstr(&out));
    }
}
