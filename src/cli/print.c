/* print.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/print.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/utf8.h"
#include "model/dtype.h"

bool print_has_colour(int fd)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(fd) && (no == NULL || no[0] == '\0') &&
           (term == NULL || strcmp(term, "dumb") != 0);
}

uint32_t print_columns(int fd)
{
    struct winsize size;

    return ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

bool print_out(int fd, struct text *text)
{
    struct slice left = text_slice(text);
    bool was_whole = !text_failed(text);

    while (was_whole && left.size > 0) {
        ssize_t wrote = write(fd, left.data, left.size);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            was_whole = false;
        else
            left = slice_skip(left, (size_t)wrote);
    }
    text->size = 0;
    return was_whole;
}

int print_failure(int status, const char *sentence)
{
    char bytes[4096];
    struct text line;

    text_init_fixed(&line, bytes, sizeof bytes);
    text_str(&line, "penstock: ");
    print_escaped(&line, slice_first(slice_of(sentence), 3000), false);
    text_byte(&line, '\n');
    line.has_failed = false;
    (void)print_out(STDERR_FILENO, &line);
    return status;
}

static bool is_control(struct slice text, size_t step)
{
    if (step == 1)
        return text.data[0] < 0x20 || text.data[0] == 0x7f;
    /* U+0080 to U+009F: terminals take some of them for the beginning of a command. U+2028 to
     * U+202E and U+2066 to U+2069 break lines and turn them about. */
    if (step == 2)
        return text.data[0] == 0xc2 && text.data[1] < 0xa0;
    return step == 3 && text.data[0] == 0xe2 &&
           ((text.data[1] == 0x80 && text.data[2] >= 0xa8 && text.data[2] <= 0xae) ||
            (text.data[1] == 0x81 && text.data[2] >= 0xa6 && text.data[2] <= 0xa9));
}

void print_escaped(struct text *out, struct slice text, bool keeps_lines)
{
    while (text.size > 0) {
        size_t step = utf8_step(text);
        bool is_kept = keeps_lines && (text.data[0] == '\n' || text.data[0] == '\t');
        if (step != 0 && (is_kept || !is_control(text, step))) {
            text_put(out, text.data, step);
        } else {
            step = MAX(step, (size_t)1);
            for (size_t i = 0; i < step; i++)
                text_printf(out, "\\x%02x", text.data[i]);
        }
        text = slice_skip(text, step);
    }
}

void print_shell(struct text *out, struct slice word)
{
    bool is_plain = word.size > 0;

    for (size_t i = 0; i < word.size && is_plain; i++) {
        uint8_t c = word.data[i];
        is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                   (c != '\0' && strchr("_-./:,@%+=", c) != NULL);
    }
    if (is_plain) {
        text_slice_put(out, word);
        return;
    }
    text_byte(out, '\'');
    for (size_t i = 0; i < word.size; i++) {
        if (word.data[i] == '\'')
            text_str(out, "'\\''");
        else
            text_byte(out, word.data[i]);
    }
    text_byte(out, '\'');
}

void print_percent(struct text *out, struct slice segment)
{
    for (size_t i = 0; i < segment.size; i++) {
        uint8_t c = segment.data[i];
        /* RFC 3986 2.3, unreserved; everything else is escaped, which is always right. */
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            (c != '\0' && strchr("-._~", c) != NULL))
            text_byte(out, c);
        else
            text_printf(out, "%%%02X", c);
    }
}

uint32_t print_width(struct slice text)
{
    uint32_t width = 0;

    for (size_t i = 0; i < text.size; i++)
        width += (text.data[i] & 0xc0u) != 0x80u;
    return width;
}

void print_padded(struct text *out, struct slice text, uint32_t width)
{
    uint32_t has = print_width(text);

    text_slice_put(out, text);
    if (has < width)
        text_printf(out, "%*s", (int)(width - has), "");
}

static void print_tensors(struct text *out, const struct signature_tensor *list, uint32_t count)
{
    char shape[256];

    for (uint32_t i = 0; i < count; i++) {
        text_str(out, i == 0 ? "" : ", ");
        print_escaped(out, slice_of(list[i].name), false);
        text_printf(out, " %s %s%s", dtype_name(list[i].dtype),
                    shape_text(shape, sizeof shape, list[i].rank, list[i].dims),
                    list[i].is_optional ? "?" : "");
    }
}

void print_signature(struct text *out, const struct signature *signature)
{
    print_tensors(out, signature->inputs, signature->inputs_count);
    text_str(out, " -> ");
    print_tensors(out, signature->outputs, signature->outputs_count);
}
