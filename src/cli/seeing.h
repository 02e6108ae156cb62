/* seeing.h - the options of logs and traces, and what they open. The starting thread's. */
#ifndef CLI_SEEING_H
#define CLI_SEEING_H

#include "cli/options.h"
#include "serve/observe.h"

struct access_log;
struct arena;
struct env;
struct metrics;
struct otlp;
struct serve;

struct seeing {
    struct access_log *access_log, *audit_log; /* owned; NULL: none */
    struct otlp *otlp;             /* owned; NULL: none */
    struct arena *arena;           /* owned: what the exporter was told; NULL: none */
};

/* What OTEL_EXPORTER_OTLP_CERTIFICATE says: a file of authorities for the collector; NULL: nothing. */
const char *seeing_certificate(void);
/* Before the server is made; what cannot be opened is an error here. */
MUST_USE enum err_code seeing_open(struct seeing *seeing, const struct options *options,
                                   struct env *env, struct metrics *metrics, uint32_t loops_count,
                                   struct observe_rules *ret_rules, struct err *err);
/* Once the server is made: they observe it from its start. Files are opened again at SIGHUP. */
MUST_USE enum err_code seeing_watch(struct seeing *seeing, struct serve *serve, struct err *err);
/* Once the server's loops have ended: writes and sends what there still is, for a bounded time. */
void seeing_close(struct seeing *seeing);

#endif
