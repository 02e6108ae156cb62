/* fake_stage.h - a server without sockets, for tests of handlers: models in a folder of its own, the
 * real engine and repository, exchanges of memory on one loop. Test only.
 *
 * A stage that goes down checks that nothing is left: no request in flight, no byte charged, every
 * exchange released.
 */
#ifndef API_FAKE_STAGE_H
#define API_FAKE_STAGE_H

#include <stdatomic.h>

#include "api/fake_exchange.h"
#include "base/budget.h"

struct engine;

enum { STAGE_CALLS_MAX = 8 };

/* One a process, as in the server: backends keep the host they were given first. */
extern struct budget stage_budget;
extern struct engine *stage_engine;

struct fake_stage {
    char root[64];
    struct repository *repository;
    struct metrics *metrics;
    struct push *push;
    struct loop *loop;
    atomic_bool is_draining;
    struct api api;
    size_t block_bytes; /* of an exchange's arena, before it asks the heap */
    struct fake calls[STAGE_CALLS_MAX];
    struct arena *arenas[STAGE_CALLS_MAX];
    unsigned count, open;
};
extern struct fake_stage stage;

#define TENSOR(name, type, dims) "{ name: \"" name "\" data_type: " type " dims: [" dims "] }"
#define MODE(words)              "parameters { key: \"mode\" value { string_value: \"" words "\" } }\n"
#define DELAY(ms) \
    MODE("delay") "parameters { key: \"delay_ms\" value { string_value: \"" ms "\" } }\n"

extern const char stage_identity_config[]; /* x FP32 [-1] -> y */

/* A folder with iris (with a card), identity and words, all of the echo backend: labels are zeros,
 * probabilities are the four measures. */
bool stage_up(void);
void stage_put_file(const char *folder, const char *name,
                    const char *text); /* folder/1 is made too */
bool stage_open(void);                 /* loads the folder */
void stage_down(void);

/* One more exchange for stage_run; a path that begins with a route's is looked up in the tables of
 * routes, and one whose content-type says gRPC goes to grpc_dispatch. */
struct fake *stage_make(enum exchange_method method, const char *path, struct slice body);
void stage_run(void); /* runs everything made until all of it is over */
/* Due so long after stage_run began. */
void stage_later(struct timer *timer, uint32_t ms);
void stage_drop_calls(void);

#endif
