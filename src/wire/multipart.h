/* multipart.h - the parts of a multipart/form-data body (RFC 7578, RFC 2046). Pure; any thread.
 *
 * The body is complete and stays where it is: parts are slices of it. Only a name with an escape
 * in it is rewritten, in the arena.
 *
 * Refused, because readers differ about them: a body without its closing boundary, a boundary with
 * something else behind it on its line, parts without a name, folded headers, a header twice, and
 * a Content-Transfer-Encoding that would have to be undone.
 */
#ifndef WIRE_MULTIPART_H
#define WIRE_MULTIPART_H

#include "base/err.h"
#include "base/slice.h"

struct arena;

struct multipart_limits {
    uint32_t parts_max;
    uint32_t header_bytes_max; /* of one part */
};

struct multipart_part {
    struct slice name;
    struct slice filename; /* data NULL: there is none; as the client says it: no path to trust */
    struct slice content_type; /* as written; data NULL: there is none, which means text/plain */
    struct slice body;
};

struct multipart {
    struct slice rest; /* behind the last boundary line */
    struct slice boundary;
    struct multipart_limits limits;
    struct arena *arena; /* borrowed */
    uint32_t parts;
    bool is_over;
};

/* The boundary in a Content-Type. E_INVALID: not multipart/form-data, or none, or a bad one. */
MUST_USE enum err_code multipart_boundary(struct slice *ret, struct slice content_type,
                                          struct err *err);
/* Finds the first boundary line. body, boundary and arena outlive the reading. */
MUST_USE enum err_code multipart_init(struct multipart *m, struct slice body, struct slice boundary,
                                      const struct multipart_limits *limits, struct arena *arena,
                                      struct err *err);
/* The next part; *ret_has is false, and *ret untouched, when there is none. E_INVALID: malformed;
 * E_EXHAUSTED: too many parts, or no memory for a name. */
MUST_USE enum err_code multipart_next(struct multipart *m, struct multipart_part *ret,
                                      bool *ret_has, struct err *err);

#endif
