/* log.h - sentences for the operator, on stderr, one line each.
 *
 * Any thread; a line is one write. Control bytes that came from peers or files are escaped, so that
 * nobody can forge a line. A layer that returns an error does not also log it.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

#include "base/def.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level most); /* this one and all that are graver, and no others */
void log_set_on(enum log_level level, bool is_on);
bool log_is_on(enum log_level level);
/* JSON lines instead of text. */
void log_set_json(bool is_json);
bool log_is_json(void);
void log_write(enum log_level level, const char *format, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                         \
    do {                                       \
        if (UNLIKELY(log_is_on(LOG_DEBUG)))    \
            log_write(LOG_DEBUG, __VA_ARGS__); \
    } while (0)

#endif
