/* exposition.h - reads the text form of metrics (Prometheus 0.0.4, and what OpenMetrics shares with it),
 * sample by sample. Pure: bytes of somebody else in, samples or a sentence out. Any thread.
 */
#ifndef CLI_EXPOSITION_H
#define CLI_EXPOSITION_H

#include "base/err.h"
#include "base/slice.h"

struct text;

struct exposition {
    struct slice rest;
    uint32_t line; /* of what was read last; 0: nothing yet */
};

struct exposition_sample {
    struct slice name;
    struct slice labels; /* as written, without the braces: whole and well formed */
    struct slice
        series; /* name and labels with the braces: the same for the same series of a server */
    double value;
};

/* False at the end, or when what comes is no sample: then err->code is not OK, and err names the line. */
bool exposition_next(struct exposition *at, struct exposition_sample *ret, struct err *err);
/* Walks the labels of a sample; the value is as written, see exposition_unescape. */
bool exposition_next_label(struct slice *labels, struct slice *ret_name, struct slice *ret_value);
/* The value of one label as written; data NULL: it has none of that name. */
struct slice exposition_label(struct slice labels, const char *name);
void exposition_unescape(struct text *out, struct slice value);

#endif
