/* fake_exchange.h - a transport made of memory, for tests of handlers: the body is delivered in
 * pieces from the loop's turns, the answer is kept. Test only.
 */
#ifndef API_FAKE_EXCHANGE_H
#define API_FAKE_EXCHANGE_H

#include "api/route.h"
#include "base/text.h"
#include "io/loop.h"

enum { FAKE_HEADERS_MAX = 12, FAKE_NEVER = -1 };

struct fake {
    struct exchange x;
    /* -- set before fake_start -- */
    struct slice body;
    size_t piece;       /* bytes delivered at once; 0: all */
    int64_t gone_at;    /* the peer leaves when so many body bytes were delivered */
    uint32_t gone_ms;   /* the peer leaves so long after the start; 0: it stays */
    bool is_open_ended; /* the body's end is never said */
    /* A reader who takes its time: of what was sent it takes so many bytes each millisecond, and
     * exchange_room is `room` less what waits. 0: one who takes all at once. */
    size_t room, takes;
    void (*on_release)(struct fake *fake);
    void *user;
    /* -- what came of it -- */
    uint16_t status;
    struct text headers; /* "name: value\n" ...; trailers behind */
    struct text answer;  /* the body */
    uint32_t sends;
    bool is_aborted, is_released;
    size_t waiting, waiting_most; /* bytes sent and not taken, where there is a room */
    int64_t answer_size;          /* as announced */
    /* -- inside -- */
    struct header request_headers[FAKE_HEADERS_MAX];
    struct route_match match;
    size_t delivered;
    struct loop_task deliver, finish, cut;
    struct timer leave, take;
    bool is_finished, wants_room;
};

/* path may have a query. Strings are borrowed. */
void fake_init(struct fake *fake, struct loop *loop, struct arena *arena, struct budget *budget,
               enum exchange_method method, const char *path, struct slice body);
void fake_header(struct fake *fake, const char *name, const char *value);
/* Finds the handler in the tables and calls it, or grpc_dispatch when the content-type says gRPC (then
 * over HTTP/2); false when no route matches. On the loop. */
bool fake_start(struct fake *fake, const struct api *api, const struct route_table *const *tables,
                uint32_t tables_count);
/* Value of an answer's header, or an empty slice. */
struct slice fake_answer_header(const struct fake *fake, const char *name);
void fake_deinit(struct fake *fake);

#endif
