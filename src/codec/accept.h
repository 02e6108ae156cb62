/* accept.h - lists of what a peer takes: Accept, Accept-Encoding (RFC 9110 12.4.2, 12.5). Pure. */
#ifndef CODEC_ACCEPT_H
#define CODEC_ACCEPT_H

#include "base/slice.h"

enum { ACCEPT_WEIGHT_ONE = 1000 };

struct accept_range {
    struct slice name;       /* "text/html", "gzip", "*" */
    struct slice parameters; /* what stands behind its first ';' */
    int weight;              /* in thousandths; -1: what stands there is none */
};

/* The next member of the list; false at its end. Empty members have an empty name. */
bool accept_next(struct slice *list, struct accept_range *ret);
/* The value of a parameter, without quotes around it; data NULL: it is not there. */
struct slice accept_parameter(struct slice parameters, const char *name);

#endif
