/* http1.h - HTTP/1.0 and 1.1 requests: bytes in, events out; no socket, no clock.
 *
 * A message is a head and then, unless body_size is 0, a body:
 *
 *   http1_scan   is given all bytes of the message so far, again and again, until it says
 *                HTTP1_HEAD: the head is complete. It looks at each byte once.
 *   http1_parse  reads the complete head; the members below are then set. Names are made lower case
 *                in place; every slice points into the head's bytes.
 *   http1_body   gives the body's data in pieces, in place, until HTTP1_END. Where data_left says
 *                that nothing but data comes next, they may also be received elsewhere and only be
 *                counted with http1_data_taken.
 *   http1_next   makes it ready for the next message.
 *
 * What is refused, and with which status, does not depend on how the bytes were split. It is as
 * strict as RFC 9112 allows, so that no proxy in front can read the same bytes differently:
 * refused are Content-Length beside Transfer-Encoding, repeated or signed Content-Length, any
 * Transfer-Encoding but one `chunked`, folded lines, bare CR or LF, blanks before a colon, repeated
 * or missing Host, control bytes, more than one empty line before a request. HTTP1_BAD is final.
 *
 * Trailers are checked and dropped. Upgrade is reported and not acted upon.
 */
#ifndef WIRE_HTTP1_H
#define WIRE_HTTP1_H

#include "base/err.h"
#include "base/slice.h"

enum http1_step {
    HTTP1_MORE, /* all bytes are used and more are needed */
    HTTP1_HEAD, /* the head is complete */
    HTTP1_DATA, /* a piece of the body */
    HTTP1_END,  /* the message is complete */
    HTTP1_BAD   /* `status` and the err's text say what was wrong */
};

enum http1_method {
    HTTP1_OTHER,
    HTTP1_GET,
    HTTP1_HEAD_METHOD,
    HTTP1_POST,
    HTTP1_PUT,
    HTTP1_DELETE,
    HTTP1_OPTIONS,
    HTTP1_PATCH
};

struct http1_limits {
    uint32_t head_bytes_max;   /* request line and fields: 431 */
    uint32_t target_bytes_max; /* 414 */
    uint32_t fields_max;       /* 431; the same again for trailers */
};

struct http1_field {
    struct slice name, value; /* name in lower case; value without blanks around it */
};

struct http1 {
    const struct http1_limits *limits; /* borrowed */

    /* -- the head, from HTTP1_HEAD and http1_parse on -- */
    enum http1_method method;
    struct slice method_text;
    struct slice target;    /* as sent */
    struct slice path;      /* "/x", or "*"; without the query */
    struct slice query;     /* behind the first '?' */
    struct slice authority; /* of an absolute target, else Host; empty only in HTTP/1.0 */
    uint32_t fields_count;
    int64_t body_size; /* -1: chunked */
    uint8_t minor;     /* of HTTP/1.x */
    bool is_keep_alive;
    bool expects_continue; /* Expect: 100-continue, and there is a body to wait for */
    bool has_upgrade;
    bool is_http2; /* with HTTP1_BAD: the bytes are HTTP/2's preface, not a bad request */

    uint16_t status; /* with HTTP1_BAD: what to answer */

    /* -- its own -- */
    uint32_t scanned, line_at, begin; /* offsets in the message */
    bool has_line, has_skipped, is_bad;
    uint8_t state; /* of a chunked body */
    uint8_t digits;
    uint32_t trailer_bytes, trailers_count, extension_bytes, extensions_bytes;
    uint64_t left; /* bytes of data before something else comes */
};

void http1_init(struct http1 *h, const struct http1_limits *limits);
void http1_next(struct http1 *h);

/* `bytes` from the message's first byte on; they may lie elsewhere each time. HTTP1_MORE,
 * HTTP1_BAD, or HTTP1_HEAD: the head is the first *ret_head bytes. */
enum http1_step http1_scan(struct http1 *h, const uint8_t *bytes, size_t size, size_t *ret_head,
                           struct err *err);
/* The target as far as http1_scan has understood it, in `bytes` as given to it; else empty. For
 * answers to what is bad. */
struct slice http1_target(const struct http1 *h, const uint8_t *bytes);
/* `head` as http1_scan found it; fields has room for limits->fields_max. HTTP1_HEAD or HTTP1_BAD.*/
enum http1_step http1_parse(struct http1 *h, uint8_t *head, size_t size, struct http1_field *fields,
                            struct err *err);
/* HTTP1_MORE, HTTP1_DATA (*ret_data is not empty and lies in bytes), HTTP1_END or HTTP1_BAD; the
 * first *ret_used bytes are done with. */
enum http1_step http1_body(struct http1 *h, const uint8_t *bytes, size_t size, size_t *ret_used,
                           struct slice *ret_data, struct err *err);

/* Bytes of data that are certain to come next; 0: framing, or the end. */
uint64_t http1_data_left(const struct http1 *h);
void http1_data_taken(struct http1 *h, uint64_t size); /* at most data_left */
bool http1_is_over(const struct http1 *h);             /* http1_body would say HTTP1_END */

/* A Host or authority as RFC 9110 7.2 wants it, and stricter: letters, digits, '-', '.', '_' or an
 * address in brackets, then an optional port. */
bool http1_host_is_valid(struct slice host);

#endif
