/* access_line.h - a record as a line of the access log: JSON or text (docs/seeing.md has both).
 *
 * Every byte that came from outside is escaped: what is written is printable ASCII and one line feed at
 * the end, whatever a peer sent. In JSON what is not UTF-8 becomes U+FFFD and what is not ASCII \uXXXX; in
 * text each byte that is not printable ASCII is \xXX, and \ and " have a \ before them.
 *
 * Pure: the clock is an argument. One thread.
 */
#ifndef TELEMETRY_ACCESS_LINE_H
#define TELEMETRY_ACCESS_LINE_H

#include "telemetry/record.h"

enum access_form { ACCESS_JSON, ACCESS_TEXT };

enum { ACCESS_LINE_MAX = 16 * 1024 };

struct access_line {
    enum access_form form;
    const char *const *stage_names; /* RECORD_STAGES of them */
    uint64_t wall_offset_ns;        /* wall clock minus monotonic clock, now */
    /* -- inside: the last second as text -- */
    uint64_t second;
    uint8_t second_size;
    char second_text[32];
};

void access_line_init(struct access_line *line, enum access_form form,
                      const char *const *stage_names);
/* Writes at most ACCESS_LINE_MAX bytes to `out`; returns behind the line feed. */
uint8_t *access_line_write(struct access_line *line, uint8_t *out, const struct record *record);

#endif
