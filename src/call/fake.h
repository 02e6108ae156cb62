/* fake.h - a transport made of memory, for tests of calls: the body is delivered in pieces when the
 * test says so, what is sent is kept by reference until fake_flush, as a socket would. Test only.
 */
#ifndef CALL_FAKE_H
#define CALL_FAKE_H

#include "base/budget.h"
#include "base/text.h"
#include "exchange/exchange.h"

enum { FAKE_HEADERS_MAX = 16, FAKE_PIECES_MAX = 64 };

struct fake {
    struct exchange x;
    struct budget budget;
    struct header request[FAKE_HEADERS_MAX];
    struct slice body;
    size_t delivered;
    bool is_open_ended; /* the body's end comes in a delivery of its own */
    /* -- what came of it -- */
    struct text head;     /* "name: value\n" ... */
    struct text answer;   /* what was flushed */
    struct text trailers; /* as head; of Trailers-Only they stand in head */
    int64_t announced;
    bool is_aborted, is_released;
    /* -- inside -- */
    struct {
        struct slice bytes;
        struct buf *holder; /* owned */
    } pieces[FAKE_PIECES_MAX];
    uint32_t pieces_count;
};

/* POST /test.Echo/Say over HTTP/2, application/grpc. loop NULL: none. The arena is made here. */
void fake_init(struct fake *fake, struct loop *loop, struct slice body);
void fake_header(struct fake *fake, const char *name, const char *value); /* borrowed */
/* Delivers at most `size` bytes into the offer that stands; false when there is none, or nothing is
 * left to deliver. */
bool fake_deliver(struct fake *fake, size_t size);
void fake_deliver_all(struct fake *fake, size_t piece);
void fake_leave(struct fake *fake); /* the peer is gone */
void fake_flush(struct fake *fake); /* "sends": copies, lets holders go */
/* Of head or trailers; data NULL: not there. */
struct slice fake_field(const struct text *fields, const char *name);
/* The transport's own reference goes; then all memory, whose budget must be whole again. */
void fake_deinit(struct fake *fake);

#endif
