/* top_show.h - what top_count found, as lines for people or as one line of JSON. Pure. */
#ifndef CLI_TOP_SHOW_H
#define CLI_TOP_SHOW_H

#include "cli/top_count.h"

struct text;

enum top_sort { TOP_BY_RATE, TOP_BY_TIME, TOP_BY_ERRORS, TOP_BY_NAME, TOP_SORTS };
extern const char *const top_sort_names[TOP_SORTS];

struct top_shown {
    const char *url;
    enum top_sort sort;
    uint32_t columns, lines;  /* of the terminal; 0: no limit */
    bool has_colour, is_live; /* live: each line ends what was there, and the keys are named */
    const char *note; /* NULL, or what stands at the top: "paused", why there is nothing new */
    double interval;  /* seconds; of live ones */
    double now;       /* seconds since 1970 */
};

/* Sorts the rows of `count`. */
void top_show(struct text *out, struct top_count *count, const struct top_shown *how);
void top_show_json(struct text *out, struct top_count *count, const struct top_shown *how);
void top_show_help(struct text *out, const struct top_shown *how);

#endif
