/* answer.h - one answer, put together from what comes: HTTP/1.1 bytes, or parts that HTTP/2 found.
 * No socket, no clock.
 *
 * Life     answer_new, then answer_feed until is_complete (and answer_finish when the peer closes),
 *          or answer_add_* and answer_end; read it; answer_free. One thread.
 * Body     Gathered, unless a sink takes it piece by piece.
 */
#ifndef CLIENT_ANSWER_H
#define CLIENT_ANSWER_H

#include "base/err.h"
#include "base/slice.h"

struct answer;
struct answer_private;

struct answer_limits {
    size_t header_bytes_max; /* all names and values, of trailers too; 0: 64 KiB */
    size_t body_bytes_max;   /* 0: 1 GiB */
};

struct answer_header {
    struct slice name; /* lower case */
    struct slice value;
};

/* Who takes an answer as it comes. Called from answer_feed and answer_add_*; must not free it. */
struct answer_sink {
    void (*on_head)(struct answer *answer); /* status and headers are whole; once */
    void (*on_body)(struct answer *answer, struct slice piece);
};

struct answer {
    uint16_t status;
    uint32_t headers_count, trailers_count;
    struct answer_header *headers, *trailers;
    struct slice body; /* empty with a sink */
    uint64_t body_bytes;
    bool is_complete;
    bool has_head;                  /* status and headers are whole */
    bool keeps_alive;               /* the connection may carry one more (HTTP/1.1) */
    const struct answer_sink *sink; /* NULL: the body is gathered; set it before the first byte */
    void *sink_data;
    struct answer_private *private;
};

/* is_head: no body comes, whatever the headers say. */
MUST_USE enum err_code answer_new(struct answer **ret, struct answer_limits limits, bool is_head,
                                  struct err *err);
void answer_free(struct answer **answer);

/* -- HTTP/1.1 ---------------------------------------------------------------------------------- */

/* Takes bytes until the answer is complete. Bytes behind it are dropped, and the connection is then
 * not kept. E_DATA_LOSS: not HTTP/1.1. E_RANGE: larger than the limits. */
MUST_USE enum err_code answer_feed(struct answer *answer, struct slice bytes, struct err *err);
/* The peer closed: completes an answer that ends with the connection, else E_UNAVAILABLE. */
MUST_USE enum err_code answer_finish(struct answer *answer, struct err *err);

/* -- part by part ------------------------------------------------------------------------------ */

/* A header, or a trailer once the head is whole. E_RANGE: past the limits. */
MUST_USE enum err_code answer_add_header(struct answer *answer, struct slice name,
                                         struct slice value, struct err *err);
void answer_end_head(struct answer *answer, uint16_t status);
MUST_USE enum err_code answer_add_body(struct answer *answer, struct slice piece, struct err *err);
void answer_end(struct answer *answer);

/* The first of that name; data NULL when there is none. */
struct slice answer_header(const struct answer *answer, const char *lower_name);
struct slice answer_trailer(const struct answer *answer, const char *lower_name);

#endif
