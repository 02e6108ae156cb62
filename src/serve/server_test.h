/* server_test.h - a server with a few routes of the tests' own, and plain blocking clients. */
#ifndef SERVE_SERVER_TEST_H
#define SERVE_SERVER_TEST_H

#include <stdatomic.h>

#include "base/budget.h"
#include "serve/serve.h"
#include "telemetry/metrics.h"

struct test_server {
    struct serve *serve;
    struct serve_settings settings; /* may be changed between prepare and start */
    struct observer observer;       /* likewise; without a function: none */
    struct budget budget;
    struct metrics *metrics;
    struct api api;
    _Atomic bool is_draining;
    uint16_t port;
};

/* What the handlers saw; any thread. */
extern _Atomic uint32_t seen_waiting, seen_gone, seen_produced, seen_bodies;
extern _Atomic bool seen_release; /* true: /wait answers */

void server_prepare(struct test_server *t);
bool server_start(struct test_server *t, const char *address); /* NULL: 127.0.0.1:0 */
void server_stop(struct test_server *t); /* also says when memory of the budget is not back */
uint64_t server_metric(struct test_server *t, const char *name_and_labels);
/* Waits until *value is `wanted`, at most 5 s. */
bool wait_for(_Atomic uint32_t *value, uint32_t wanted);
bool wait_metric(struct test_server *t, const char *name, uint64_t wanted);

int client_open(const struct test_server *t);
bool client_send(int fd, const void *bytes, size_t size);
bool client_say(int fd, const char *text);
void client_finish(int fd); /* half-close */
/* Has the server closed (after whatever bytes are left)? At most 5 s. */
bool client_at_end(int fd);
/* Nothing arrives for that long. */
bool client_is_quiet(int fd, unsigned ms);

struct answer {
    int status; /* 0: none came */
    char head[8192];
    char *body; /* owned; NUL-terminated */
    size_t body_size;
    bool is_cut; /* the connection ended before the answer did */
    bool is_chunked;
};
/* Reads one answer and no byte more. is_head: an answer to HEAD. */
void answer_read(int fd, struct answer *answer, bool is_head);
void answer_free(struct answer *answer);
bool answer_has(const struct answer *answer, const char *header_line); /* "allow: GET" */
/* One connection, these bytes, one answer. */
void ask(const struct test_server *t, const char *text, struct answer *answer);

#endif
