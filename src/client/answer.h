/* answer.h - one HTTP/1.1 answer, put together from bytes as they come. No socket, no clock.
 *
 * Life     answer_new, answer_feed until is_complete (and answer_finish when the peer closes), then
 *          read it; answer_free. One thread.
 */
#ifndef CLIENT_ANSWER_H
#define CLIENT_ANSWER_H

#include "base/err.h"
#include "base/slice.h"

struct answer_private;

struct answer_limits {
    size_t header_bytes_max; /* all names and values; 0: 64 KiB */
    size_t body_bytes_max;   /* 0: 1 GiB */
};

struct answer_header {
    struct slice name; /* lower case */
    struct slice value;
};

struct answer {
    uint16_t status;
    uint32_t headers_count;
    struct answer_header *headers;
    struct slice body;
    bool is_complete;
    bool keeps_alive; /* the connection may carry one more */
    struct answer_private *private;
};

/* is_head: no body comes, whatever the headers say. */
MUST_USE enum err_code answer_new(struct answer **ret, struct answer_limits limits, bool is_head,
                                  struct err *err);
/* Takes bytes until the answer is complete. Bytes behind it are dropped, and the connection is then
 * not kept. E_DATA_LOSS: not HTTP/1.1. E_RANGE: larger than the limits. */
MUST_USE enum err_code answer_feed(struct answer *answer, struct slice bytes, struct err *err);
/* The peer closed: completes an answer that ends with the connection, else E_UNAVAILABLE. */
MUST_USE enum err_code answer_finish(struct answer *answer, struct err *err);
void answer_free(struct answer **answer);

/* data NULL when there is none. */
struct slice answer_header(const struct answer *answer, const char *lower_name);

#endif
