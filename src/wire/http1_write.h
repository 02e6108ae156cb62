/* http1_write.h - the head of an HTTP/1.1 answer, and chunk framing. Pure; any thread. */
#ifndef WIRE_HTTP1_WRITE_H
#define WIRE_HTTP1_WRITE_H

#include "base/slice.h"
#include "wire/http1.h"

enum {
    HTTP1_DATE_BYTES = 37,     /* "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" */
    HTTP1_CHUNK_BYTES_MAX = 18 /* a chunk's size and CR LF */
};

enum http1_framing {
    HTTP1_NO_LENGTH, /* no body, or one that ends with the connection */
    HTTP1_LENGTH,    /* content-length */
    HTTP1_CHUNKED
};

/* HTTP1_UPGRADE: with 101, to websocket, the one protocol that is changed to. */
enum http1_connection { HTTP1_KEEP, HTTP1_KEEP_SAID, HTTP1_CLOSE, HTTP1_UPGRADE };

struct http1_answer {
    uint16_t status;
    enum http1_framing framing;
    enum http1_connection connection;
    uint64_t length;
    const char *date; /* as http1_date writes it */
    /* Names and values are written as they are, but for bytes that would end a line: those become
     * blanks. Fields that the connection itself writes are left out. */
    const struct http1_field *fields, *more;
    uint32_t fields_count, more_count;
};

void http1_date(char out[HTTP1_DATE_BYTES], uint64_t wall_ns);
size_t http1_answer_bytes_max(const struct http1_answer *answer);
uint8_t *http1_answer_write(const struct http1_answer *answer, uint8_t *out); /* the end of it */
/* "name: value\r\n", size of both and 4; for trailers. */
uint8_t *http1_field_write(const struct http1_field *field, uint8_t *out);
uint8_t *http1_chunk_write(size_t size, uint8_t *out); /* the line before `size` bytes of data */

#endif
