/* log.c - SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"

#define UP_TO(level) ((2u << (level)) - 1)

static atomic_uint levels_on = UP_TO(LOG_INFO); /* bits */
static atomic_bool as_json;

static const char *const level_names[] = { "error", "warning", "info", "debug" };

void log_set_level(enum log_level most)
{
    atomic_store_explicit(&levels_on, UP_TO(most), memory_order_relaxed);
}

void log_set_on(enum log_level level, bool is_on)
{
    if (is_on)
        atomic_fetch_or(&levels_on, 1u << level);
    else
        atomic_fetch_and(&levels_on, ~(1u << level));
}

bool log_is_on(enum log_level level)
{
    return (atomic_load_explicit(&levels_on, memory_order_relaxed) >> level & 1) != 0;
}

void log_set_json(bool is_json)
{
    atomic_store_explicit(&as_json, is_json, memory_order_relaxed);
}

bool log_is_json(void)
{
    return atomic_load_explicit(&as_json, memory_order_relaxed);
}

static void put_time(struct text *line)
{
    struct timespec now;
    struct tm utc;
    char stamp[32];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    text_printf(line, "%s.%03ldZ", stamp, now.tv_nsec / 1000000);
}

void log_write(enum log_level level, const char *format, ...)
{
    char words[2048], bytes[4096];
    struct text line;
    va_list args;

    if (!log_is_on(level))
        return;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    text_init_fixed(&line, bytes, sizeof bytes - 1);
    if (log_is_json()) {
        text_str(&line, "{\"time\":\"");
        put_time(&line);
        text_printf(&line, "\",\"level\":\"%s\",\"message\":", level_names[level]);
        text_json(&line, slice_of(words));
        text_byte(&line, '}');
    } else {
        put_time(&line);
        text_printf(&line, " %s: ", level_names[level]);
        for (const char *c = words; *c != '\0'; c++) {
            if ((unsigned char)*c >= 0x20 && *c != 0x7f)
                text_byte(&line, (uint8_t)*c);
            else
                text_printf(&line, "\\x%02x", (unsigned)(unsigned char)*c);
        }
    }
    bytes[line.size] = '\n';
    ssize_t ignored = write(STDERR_FILENO, bytes, line.size + 1);
    (void)ignored;
}
