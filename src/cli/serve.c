/* serve.c - the verb serve: joins the rooms, starts them in order, stops them in the other.
 *
 *   start   options, budget, engine, what there is to serve, listeners - a failure up to here ends
 *           it before the port opens - loops, loading, what is printed
 *   stop    SIGTERM, or SIGUSR2 and a new program that serves: connections finish (life.h), loops end,
 *           models close, loops are freed; while models still load: requests of those that are there
 *           finish, and that is all (stop.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "access/access.h"
#include "api/grpc.h"
#include "api/node.h"
#include "api/push.h"
#include "api/resume.h"
#include "api/session_call.h"
#include "api/upload.h"
#include "base/block.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "call/grpc.h"
#include "cli/confine.h"
#include "cli/example.h"
#include "cli/explain.h"
#include "cli/guard.h"
#include "cli/life.h"
#include "cli/notify.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/seeing.h"
#include "cli/sockets.h"
#include "cli/stack.h"
#include "cli/stop.h"
#include "cli/upgrade.h"
#include "cli/verbs.h"
#include "engine/engine.h"
#include "engine/model.h"
#include "io/aside.h"
#include "io/cpu.h"
#include "io/socket.h"
#include "io/tls.h"
#include "repository/repository.h"
#include "serve/origin.h"
#include "serve/serve.h"
#include "telemetry/metrics.h"
#include "telemetry/process.h"

enum {
    TRY_LINES_MAX = 4,
    TRY_MODELS_MAX = 64, /* the shortest are looked for among these */
    SHOWN_MODELS_MAX = 200,
    PRINT_BYTES_MAX = 4 << 20,
    DESCRIPTORS_KEPT = 128,
    DESCRIPTORS_OF_LOOP = 4,
};

struct server {
    struct stack stack;
    struct metrics *metrics;
    struct access *access;
    struct guard *guard; /* keeps it new; NULL: no rules */
    _Atomic bool has_models; /* all that were found when it started have been tried */
    struct process *process;
    struct grpc_stats *grpc_stats;
    struct websocket_stats *websocket_stats;
    struct grpc_watchers watchers;
    struct push *push;
    struct resumables *resumables;
    struct aside *aside;
    struct uploads *uploads;
    char node[NODE_NAME_MAX + 1];
    struct kserve_streams streams;
    struct seeing seeing;
    struct tls_server *tls;
    struct serve *serve;
    struct api api;
    bool is_misused; /* what failed is the command line */
    bool is_started; /* its loops run; under stop_hold */
    _Atomic bool is_draining, is_replaced;
    struct sockets sockets;
    struct life life;
};

/* -- opening ----------------------------------------------------------------------------------- */

/* As many connections as there are descriptors for: some are kept back for files that are read again, logs, an
 * upgrade, so that no number of strangers stops those. The soft limit is for programs that use select(); this
 * one takes what it may have. */
static uint32_t connections_of(const struct options *o, uint32_t loops_count)
{
    uint32_t most = options_u32(o, OPT_CONNECTIONS_MAX);
    uint64_t kept = DESCRIPTORS_KEPT + (uint64_t)loops_count * DESCRIPTORS_OF_LOOP;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return most;
    if (limit.rlim_cur < limit.rlim_max) {
        struct rlimit all = { limit.rlim_max, limit.rlim_max };
        if (setrlimit(RLIMIT_NOFILE, &all) == 0)
            limit = all;
    }
    if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= most + kept)
        return most;
    /* Where there are few, a third. */
    uint64_t above = limit.rlim_cur > kept ? limit.rlim_cur - kept : 1;
    uint32_t fits = (uint32_t)MAX(above, limit.rlim_cur / 3);
    log_warn("%u connections are taken at most, not %u (--connections-max): there are %llu "
             "descriptors (ulimit -n, LimitNOFILE=)",
             fits, most, (unsigned long long)limit.rlim_cur);
    return fits;
}

static struct serve_settings settings_of(const struct options *o, struct server *server,
                                         uint32_t loops_count,
                                         const struct route_table *const *tables,
                                         uint32_t tables_count)
{
    return (struct serve_settings){
        .loops_count = loops_count,
        .connections_max = connections_of(o, loops_count),
        .header_bytes_max = options_u32(o, OPT_HEADER_BYTES_MAX),
        .headers_max = options_u32(o, OPT_HEADERS_MAX),
        .body_bytes_max = options_number(o, OPT_MAX_BODY),
        .pipeline_max = options_u32(o, OPT_PIPELINE_MAX),
        .output_bytes_max = options_number(o, OPT_OUTPUT_BYTES_MAX),
        .header_timeout_ms = options_ms(o, OPT_HEADER_TIMEOUT),
        .body_timeout_ms = options_ms(o, OPT_BODY_TIMEOUT),
        .idle_timeout_ms = options_ms(o, OPT_IDLE_TIMEOUT),
        .write_timeout_ms = options_ms(o, OPT_WRITE_TIMEOUT),
        .body_rate_min = options_number(o, OPT_BODY_RATE_MIN),
        .drain_idle_ms = options_ms(o, OPT_DRAIN_IDLE),
        .requests_per_connection_max = options_u32(o, OPT_REQUESTS_PER_CONNECTION_MAX),
        .streams_max = options_u32(o, OPT_STREAMS_MAX),
        .control_frames_max = options_u32(o, OPT_CONTROL_FRAMES_MAX),
        .resets_max = options_u32(o, OPT_RESETS_MAX),
        .connection_age_ms = options_ms(o, OPT_CONNECTION_AGE),
        .connection_age_grace_ms = options_ms(o, OPT_CONNECTION_AGE_GRACE),
        .keepalive_time_ms = options_ms(o, OPT_KEEPALIVE_TIME),
        .keepalive_timeout_ms = options_ms(o, OPT_KEEPALIVE_TIMEOUT),
        .ping_interval_min_ms = options_ms(o, OPT_PING_INTERVAL_MIN),
        .ping_strikes_max = options_u32(o, OPT_PING_STRIKES_MAX),
        .hosts_allowed = o->values[OPT_ALLOW_HOST].items,
        .hosts_allowed_count = o->values[OPT_ALLOW_HOST].items_count,
        .origins_allowed = o->values[OPT_CORS_ORIGIN].items,
        .origins_allowed_count = o->values[OPT_CORS_ORIGIN].items_count,
        .hsts_s = options_number(o, OPT_HSTS) / NS_PER_S,
        .access = server->access,
        .tls = server->tls,
        .tls_plain = (enum serve_plain)options_number(o, OPT_TLS_PLAIN),
        .tls_handshake_timeout_ms = options_ms(o, OPT_TLS_HANDSHAKE_TIMEOUT),
        .tls_handshakes_max = options_u32(o, OPT_TLS_HANDSHAKES_MAX),
        .budget = &server->stack.budget,
        .metrics = server->metrics,
        .metrics_series_max = options_u32(o, OPT_METRICS_SERIES_MAX),
        .api = &server->api,
        .tables = tables,
        .tables_count = tables_count,
    };
}

/* The sockets are serve's from here on; who starts another program still looks up their numbers. */
static enum err_code listen_all(struct server *server, const struct options *o, struct err *err)
{
    struct sockets *sockets = &server->sockets;

    server->life = (struct life){
        .options = o,
        .serve = server->serve,
        .stack = &server->stack,
        .push = server->push,
        .resumables = server->resumables,
        .uploads = server->uploads,
        .watchers = &server->watchers,
        .sockets = sockets,
        .is_draining = &server->is_draining,
        .is_replaced = &server->is_replaced,
    };
    sockets->is_given = true;
    serve_keep_files(server->serve, upgrade_is_new()); /* the program before still has them */
    for (uint32_t i = 0; i < sockets->count; i++) {
        const struct socket_entry *entry = &sockets->entries[i];
        int fd = entry->fd;
        TRY(serve_adopt(server->serve, &fd, &entry->address, entry->text, entry->is_activated,
                        err));
    }
    return OK;
}

static enum err_code reload_tls(void *context, struct err *err)
{
    struct tls_server *tls = context;

    if (tls_server_reload(tls, err) != OK)
        return err_wrap(err, "TLS: the former certificates stay");
    log_info("TLS: certificates and keys were read anew");
    return OK;
}

/* Who wrote these options believes that callers are asked for a certificate. */
static enum err_code check_callers(struct server *server, const struct options *o, struct err *err)
{
    bool has_authorities = options_text(o, OPT_TLS_CLIENT_CA)[0] != '\0';
    uint64_t auth = options_number(o, OPT_TLS_CLIENT_AUTH);
    char where[ERR_TEXT_MAX];

    if (!has_authorities && auth != TLS_CLIENT_NONE && options_is_set(o, OPT_TLS_CLIENT_AUTH)) {
        server->is_misused = o->values[OPT_TLS_CLIENT_AUTH].source == SOURCE_ARGV;
        return err_set(err, E_INVALID,
                       "%s needs the authorities whose certificates count: "
                       "--tls-client-ca FILE",
                       options_origin(o, OPT_TLS_CLIENT_AUTH, where, sizeof where));
    }
    if (has_authorities && auth == TLS_CLIENT_REQUIRED &&
        options_number(o, OPT_TLS_PLAIN) == SERVE_PLAIN_SERVE) {
        server->is_misused = o->values[OPT_TLS_PLAIN].source == SOURCE_ARGV;
        return err_set(err, E_INVALID,
                       "%s: by plain HTTP on the same port everybody would come in "
                       "without the certificate that --tls-client-ca requires: say refuse or "
                       "redirect, or --tls-client-auth optional",
                       options_origin(o, OPT_TLS_PLAIN, where, sizeof where));
    }
    return OK;
}

/* Certificates and keys are read before the port opens. */
static enum err_code open_tls(struct server *server, const struct options *o, struct err *err)
{
    const struct option_value *pairs = &o->values[OPT_TLS];
    struct address addresses[SOCKETS_MAX];
    struct tls_server_settings settings = {
        .pairs = pairs->items,
        .pairs_count = pairs->items_count,
        .directory = options_text(o, OPT_TLS_DIR),
        .addresses = addresses,
        .client_ca = options_text(o, OPT_TLS_CLIENT_CA),
        .client_crl = options_text(o, OPT_TLS_CLIENT_CRL),
        .client_auth = (enum tls_client_auth)options_number(o, OPT_TLS_CLIENT_AUTH),
        .ticket_keys = options_text(o, OPT_TLS_TICKET_KEYS),
        .ticket_ns = options_number(o, OPT_TLS_TICKET_TIME),
        .watch_ns = options_number(o, OPT_TLS_WATCH),
    };
    char where[ERR_TEXT_MAX];

    TRY(check_callers(server, o, err));
    if (settings.client_crl[0] != '\0' && settings.client_ca[0] == '\0') {
        server->is_misused = o->values[OPT_TLS_CLIENT_CRL].source == SOURCE_ARGV;
        return err_set(err, E_INVALID, "%s needs the authorities it is of: --tls-client-ca FILE",
                       options_origin(o, OPT_TLS_CLIENT_CRL, where, sizeof where));
    }
    if (pairs->items_count == 0) {
        if (settings.client_ca[0] == '\0')
            return OK;
        server->is_misused = o->values[OPT_TLS_CLIENT_CA].source == SOURCE_ARGV;
        return err_set(err, E_INVALID, "%s needs a certificate of the server: --tls CERT,KEY",
                       options_origin(o, OPT_TLS_CLIENT_CA, where, sizeof where));
    }
    for (uint32_t i = 0; i < server->sockets.count; i++)
        addresses[settings.addresses_count++] = server->sockets.entries[i].address;
    if (tls_server_new(&server->tls, server->stack.env, &settings, err) != OK) {
        /* E_INVALID is how the value is written; what is wrong with a file is E_PRECONDITION. */
        server->is_misused = err->code == E_INVALID && pairs->source == SOURCE_ARGV;
        if (strncmp(err->text, "--", 2) == 0) /* another option's file */
            return err->code;
        return err_wrap(err, "%s", options_origin(o, OPT_TLS, where, sizeof where));
    }
    stop_on_reload(reload_tls, server->tls);
    return tls_server_register(server->tls, server->metrics, err);
}

/* Whom to believe is read when somebody is asked by https; that it can be is known before. */
static enum err_code check_authorities(const struct options *o, struct err *err)
{
    struct tls_client_settings settings = { .ca = options_text(o, OPT_CACERT) };
    struct tls_client *client = NULL;
    char where[ERR_TEXT_MAX];

    if (settings.ca[0] == '\0')
        return OK;
    if (tls_client_new(&client, &settings, err) != OK)
        return err_wrap(err, "%s", options_origin(o, OPT_CACERT, where, sizeof where));
    tls_client_free(&client);
    return OK;
}

static struct grpc_settings grpc_settings_of(const struct options *o, const struct server *server)
{
    uint64_t most = options_number(o, OPT_MAX_MESSAGE);

    return (struct grpc_settings){
        .message_bytes_max = most != 0 ? most : options_number(o, OPT_MAX_BODY),
        .option = "--max-message",
        .compression = (enum grpc_compression)options_number(o, OPT_GRPC_COMPRESSION),
        .stats = server->grpc_stats,
    };
}

static struct websocket_settings websocket_settings_of(const struct options *o,
                                                       const struct server *server)
{
    uint64_t most = options_number(o, OPT_MAX_MESSAGE);

    return (struct websocket_settings){
        .message_bytes_max = most != 0 ? most : options_number(o, OPT_MAX_BODY),
        .option = "--max-message",
        .ping_ns = options_number(o, OPT_WEBSOCKET_PING),
        .pong_ns = options_number(o, OPT_WEBSOCKET_PONG_TIMEOUT),
        .close_ns = options_number(o, OPT_WEBSOCKET_CLOSE_TIMEOUT),
        .stall_ns = options_number(o, OPT_BODY_TIMEOUT),
        .rate_min = options_number(o, OPT_BODY_RATE_MIN),
        .ahead_bytes = (size_t)options_number(o, OPT_WEBSOCKET_AHEAD),
        .has_deflate = options_flag(o, OPT_WEBSOCKET_DEFLATE),
        .stats = server->websocket_stats,
    };
}

static enum err_code name_node(struct server *server, const struct options *o, struct err *err)
{
    const char *name = options_text(o, OPT_NODE_NAME);
    char where[ERR_TEXT_MAX];

    if (name[0] == '\0') {
        node_name_default(server->node);
        return OK;
    }
    if (node_name_is_good(slice_of(name))) {
        snprintf(server->node, sizeof server->node, "%s", name);
        return OK;
    }
    server->is_misused = o->values[OPT_NODE_NAME].source == SOURCE_ARGV;
    return err_set(err, E_INVALID,
                   "%s: '%.100s' is no name of a node: 1 to %d letters, digits, '-', '_' and '.'",
                   options_origin(o, OPT_NODE_NAME, where, sizeof where), name, NODE_NAME_MAX);
}

/* What happens is told from here on: before there are loops, and before anything is loaded. */
static enum err_code open_push(struct server *server, const struct options *o, struct err *err)
{
    struct push_settings settings = { .env = server->stack.env,
                                      .node = server->node,
                                      .events_max = options_number(o, OPT_EVENTS_KEPT),
                                      .budget = &server->stack.budget };

    TRY(push_new(&server->push, &settings, err));
    TRY(push_register(server->push, server->metrics, err));
    repository_watch(server->stack.repository,
                     (struct repository_watch){ push_on_change, server->push });
    engine_watch_queues(server->stack.engine, (struct engine_watch){ push_on_queue, server->push });
    return OK;
}

static enum err_code open_uploads(struct server *server, const struct options *o, struct err *err)
{
    struct uploads_settings settings = { .env = server->stack.env,
                                         .node = server->node,
                                         .time_ns = options_number(o, OPT_UPLOAD_TIME),
                                         .uploads_max = options_number(o, OPT_UPLOADS_MAX),
                                         .bytes_max = options_number(o, OPT_UPLOAD_BYTES_MAX),
                                         .chunk_bytes = options_number(o, OPT_UPLOAD_CHUNK) };

    TRY(uploads_new(&server->uploads, &settings, err));
    return uploads_register(server->uploads, server->metrics, err);
}

static enum err_code open_resumables(struct server *server, const struct options *o,
                                     struct err *err)
{
    struct resumables_settings settings = {
        .env = server->stack.env,
        .node = server->node,
        .time_ns = options_number(o, OPT_RESUME_TIME),
        .streams_max = options_number(o, OPT_RESUME_STREAMS_MAX),
        .events_max = options_number(o, OPT_RESUME_EVENTS_MAX),
        .bytes_max = options_number(o, OPT_RESUME_BYTES_MAX),
        .budget = &server->stack.budget,
    };

    TRY(resumables_new(&server->resumables, &settings, err));
    return resumables_register(server->resumables, server->metrics, err);
}

/* Rules that speak of models which are not there. Any thread. */
static void warn_of_rules(void *context)
{
    struct server *server = context;
    struct repository_snapshot snapshot;

    if (!access_has_rules(server->access) || !atomic_load(&server->has_models))
        return;
    repository_snapshot_take(server->stack.repository, &snapshot);
    const char **names = mem_alloc((snapshot.count + 1) * sizeof *names);
    for (uint32_t i = 0; names != NULL && i < snapshot.count; i++)
        names[i] = snapshot.entries[i].name;
    if (names != NULL)
        access_warn_of_models(server->access, names, snapshot.count);
    mem_free(names);
    repository_snapshot_give(&snapshot);
}

static enum err_code open_aside(struct server *server, const struct options *o, uint32_t loops,
                                struct err *err)
{
    uint32_t threads = options_u32(o, OPT_ASIDE_THREADS);

    if (options_number(o, OPT_ASIDE_FROM) == 0)
        return OK;
    TRY(aside_new(&server->aside, server->stack.env, threads != 0 ? threads : loops, err));
    return aside_register(server->aside, server->metrics, err);
}

/* Before anything else, so that a mistake in it is said at once. */
static enum err_code open_access(struct server *server, const struct options *o, struct err *err)
{
    const char *path = options_text(o, OPT_ACCESS);
    struct env *env = server->stack.env;
    char where[ERR_TEXT_MAX];

    if (path[0] != '\0' && options_flag(o, OPT_ADMIN)) {
        server->is_misused = o->values[OPT_ADMIN].source == SOURCE_ARGV;
        return err_set(err, E_INVALID,
                       "--admin lets everybody administer; with --access a rule says who may: "
                       "`may: [admin]`");
    }
    if (access_new(&server->access, path, env->wall_ns(env), err) != OK)
        return err_wrap(err, "%s", options_origin(o, OPT_ACCESS, where, sizeof where));
    if (options_flag(o, OPT_ADMIN))
        access_allow_admin(server->access);
    access_set_budget(server->access, &server->stack.budget);
    if (options_text(o, OPT_TLS_CLIENT_CA)[0] == '\0' && access_wants_certificates(server->access))
        log_warn("%s: its `certificates` name nobody: callers are asked for one only with --tls and "
                 "--tls-client-ca FILE",
                 path);
    return access_register(server->access, server->metrics, err);
}

/* What every program tells of itself. */
static enum err_code register_program(struct server *server, struct err *err)
{
    static const _Atomic uint64_t one = 1;
    struct env *env = env_real();
    char bytes[256];
    struct text labels;

    text_init_fixed(&labels, bytes, sizeof bytes);
    metrics_label(&labels, "version", slice_of(PENSTOCK_VERSION), true);
    metrics_label(&labels, "compiler", slice_of(version_compiler), false);
    TRY(process_new(&server->process, server->metrics, env->wall_ns(env), err));
    return metrics_add(server->metrics, METRIC_GAUGE, "penstock_build_info",
                       "1: the version that runs, and what it was compiled with",
                       text_cstr(&labels), &one, 1, err);
}

/* What could never match would refuse for ever, in silence, what was to be allowed. */
static enum err_code check_words(struct server *server, const struct options *o,
                                 enum option_id id, bool (*can_match)(const char *text),
                                 const char *expected, struct err *err)
{
    const struct option_value *list = &o->values[id];
    char where[ERR_TEXT_MAX];

    for (uint32_t i = 0; i < list->items_count; i++) {
        if (can_match(list->items[i]))
            continue;
        server->is_misused = list->source == SOURCE_ARGV;
        return err_set(err, E_INVALID, "%s: '%.100s' can never match; expected is %s",
                       options_origin(o, id, where, sizeof where), list->items[i], expected);
    }
    return OK;
}

static enum err_code open_server(struct server *server, const struct options *o, struct err *err)
{
    static const struct route_table *const tables[] = {
        &kserve_rest_routes, &typed_routes, &session_routes, &health_routes, &explain_routes,
        &echo_routes,        &push_routes,  &resume_routes,  &upload_routes
    };
    const struct option_value *paths = &o->values[OPT_MODELS];
    uint32_t loops = options_u32(o, OPT_LOOPS);

    if (loops == 0)
        loops = cpu_usable();
    TRY(check_words(server, o, OPT_CORS_ORIGIN, origin_can_match,
                    "an origin as browsers send it, without a path or the usual port: "
                    "https://app.example",
                    err));
    TRY(check_words(server, o, OPT_ALLOW_HOST, origin_host_can_match,
                    "a name alone, without a scheme, port or path: models.example", err));
    server->metrics = metrics_new();
    if (server->metrics == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the metrics");
    TRY(name_node(server, o, err));
    TRY(register_program(server, err));
    TRY(stack_open(&server->stack, o, loops, paths->items, paths->items_count, err));
    TRY(open_access(server, o, err));
    TRY(open_push(server, o, err));
    TRY(open_resumables(server, o, err));
    TRY(open_uploads(server, o, err));
    TRY(open_aside(server, o, loops, err));
    TRY(grpc_stats_new(&server->grpc_stats, loops, err));
    TRY(grpc_stats_register(server->grpc_stats, server->metrics, err));
    TRY(websocket_stats_new(&server->websocket_stats, loops, err));
    TRY(websocket_stats_register(server->websocket_stats, server->metrics, err));
    server->watchers.max = options_number(o, OPT_WATCHERS_MAX);
    TRY(grpc_watchers_register(&server->watchers, server->metrics, err));
    server->streams.requests_max = options_u32(o, OPT_STREAM_REQUESTS_MAX);
    server->streams.is_mlserver = options_number(o, OPT_STREAM_FORM) != 0;
    TRY(kserve_streams_register(&server->streams, server->metrics, err));
    server->api = (struct api){
        .engine = server->stack.engine,
        .repository = server->stack.repository,
        .metrics = server->metrics,
        .aside = server->aside,
        .aside_bytes = server->aside == NULL ? SIZE_MAX : options_number(o, OPT_ASIDE_FROM),
        .body_bytes_max = options_number(o, OPT_MAX_BODY),
        .grpc = grpc_settings_of(o, server),
        .websocket = websocket_settings_of(o, server),
        .metrics_unused = options_flag(o, OPT_METRICS_UNUSED),
        .server_timing = options_flag(o, OPT_SERVER_TIMING),
        .stream_heartbeat_ns = options_number(o, OPT_STREAM_HEARTBEAT),
        .is_strict_ready = options_flag(o, OPT_STRICT_READINESS),
        .has_reflection = options_flag(o, OPT_REFLECTION),
        .has_test_services = options_flag(o, OPT_TEST_SERVICES),
        .watchers = &server->watchers,
        .push = server->push,
        .resumables = server->resumables,
        .uploads = server->uploads,
        .streams = &server->streams,
        .is_draining = &server->is_draining,
        .is_replaced = &server->is_replaced,
        .server_name = "penstock",
        .server_version = PENSTOCK_VERSION,
    };
    TRY(open_tls(server, o, err));
    TRY(check_authorities(o, err));
    struct serve_settings settings = settings_of(o, server, loops, tables, COUNT(tables));
    TRY(seeing_open(&server->seeing, o, server->stack.env, server->metrics, loops,
                    &settings.observe, err));
    TRY(serve_new(&server->serve, server->stack.env, &settings, err));
    TRY(guard_start(&server->guard, server->stack.env, server->access, options_text(o, OPT_CACERT),
                    warn_of_rules, server, err));
    TRY(seeing_watch(&server->seeing, server->serve, err));
    return listen_all(server, o, err);
}

static void close_server(struct server *server)
{
    if (server->serve != NULL)
        serve_stop(server->serve);
    aside_free(&server->aside);
    guard_stop(&server->guard); /* it looks at models when rules change */
    stack_close_models(&server->stack);
    seeing_close(&server->seeing);
    serve_free(&server->serve);
    tls_server_free(&server->tls);
    push_free(&server->push);
    resumables_free(&server->resumables);
    uploads_free(&server->uploads);
    stack_close(&server->stack);
    metrics_free(&server->metrics);
    access_free(&server->access);
    process_free(&server->process);
    grpc_stats_free(&server->grpc_stats);
    websocket_stats_free(&server->websocket_stats);
    sockets_close(&server->sockets);
}

/* -- what is printed --------------------------------------------------------------------------- */

static const char *state_word(const struct repository_entry *entry)
{
    return entry->state == MODEL_READY ? "ready" : "NOT READY";
}

/* The name of an earlier one that is not ready for the same reason, which is not said twice. */
static const char *same_reason(const struct repository_snapshot *snapshot, uint32_t index)
{
    const struct repository_entry *entries = snapshot->entries;

    for (uint32_t i = 0; i < index; i++) {
        if (entries[i].state != MODEL_READY &&
            strcmp(entries[i].reason, entries[index].reason) == 0)
            return entries[i].name;
    }
    return NULL;
}

static void put_reason(struct text *out, const struct repository_snapshot *snapshot, uint32_t index)
{
    const char *same = same_reason(snapshot, index);

    text_str(out, same != NULL ? "as " : "");
    print_escaped(out, slice_of(same != NULL ? same : snapshot->entries[index].reason), false);
}

static void put_entry(struct text *out, const struct repository_snapshot *snapshot, uint32_t index,
                      uint32_t width, bool has_colour)
{
    const struct repository_entry *entry = &snapshot->entries[index];
    bool is_ready = entry->state == MODEL_READY;

    text_str(out, "  ");
    print_padded(out, slice_of(entry->name), width);
    text_printf(out, "  %-3s %s%-9s%s  ", entry->version[0] == '\0' ? "-" : entry->version,
                !has_colour ? ""
                : is_ready  ? "\033[32m"
                            : "\033[31m",
                state_word(entry), has_colour ? "\033[0m" : "");
    if (is_ready)
        print_signature(out, model_signature(entry->model));
    else
        put_reason(out, snapshot, index);
    text_byte(out, '\n');
}

static void put_models(struct text *out, const struct repository_snapshot *snapshot,
                       bool has_colour)
{
    uint32_t width = 0, ready = 0, shown = MIN(snapshot->count, (uint32_t)SHOWN_MODELS_MAX);

    for (uint32_t i = 0; i < snapshot->count; i++)
        ready += snapshot->entries[i].state == MODEL_READY;
    for (uint32_t i = 0; i < shown; i++)
        width = MIN(MAX(width, print_width(slice_of(snapshot->entries[i].name))), 40u);
    text_printf(out, "\nmodels: %u ready", ready);
    if (ready < snapshot->count)
        text_printf(out, ", %u not", snapshot->count - ready);
    text_byte(out, '\n');
    for (uint32_t i = 0; i < shown; i++)
        put_entry(out, snapshot, i, width, has_colour);
    if (shown < snapshot->count)
        text_printf(out, "  and %u more (penstock models)\n", snapshot->count - shown);
}

/* The lines of one model, among those of all. */
struct
try {
    size_t at, size;
    struct model *model; /* borrowed from the snapshot */
};

static int by_size(const void *a, const void *b)
{
    const struct try *x = a, *y = b;

    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* What the lines below it want before they work. */
static void put_needs(struct text *out, const struct example_place *place)
{
    text_str(out, "\ntry");
    if (place->needs_cert)
        text_str(out, " (callers show a certificate: CERT and KEY are its files)");
    if (place->needs_key)
        text_str(out, " (callers need a key: export PENSTOCK_KEY=... first, `penstock key --help` "
                      "says how to make one)");
    text_str(out, ":\n");
}

/* The shortest first: sixty pixels of a digit teach less than a word. */
static void put_tries(struct text *out, const struct repository_snapshot *snapshot,
                      const char *program, const struct example_place *place)
{
    struct try tries[TRY_MODELS_MAX];
    uint32_t count = 0, callable = 0;
    struct text lines;

    text_init(&lines, PRINT_BYTES_MAX);
    for (uint32_t i = 0; i < snapshot->count; i++) {
        const struct repository_entry *entry = &snapshot->entries[i];
        if (!entry->is_default || entry->state != MODEL_READY)
            continue;
        callable++;
        if (count == TRY_MODELS_MAX)
            continue;
        tries[count].at = lines.size;
        example_lines(&lines, entry->model, program, place);
        tries[count].size = lines.size - tries[count].at;
        tries[count].model = entry->model;
        count += tries[count].size > 0;
    }
    qsort(tries, count, sizeof tries[0], by_size);
    uint32_t shown = MIN(count, (uint32_t)TRY_LINES_MAX);
    for (uint32_t i = 0; i < shown; i++) {
        if (i == 0)
            put_needs(out, place);
        text_put(out, lines.data + tries[i].at, tries[i].size);
        /* Over gRPC all are called alike: one shows it. */
        if (i == 0)
            example_grpc_lines(out, tries[i].model, program, place);
    }
    text_deinit(&lines);
    if (shown == callable)
        return;
    text_printf(out, shown > 0 ? "  and %u more: " : "\nhow to call them: ", callable - shown);
    example_url(out, place->url);
    text_str(out, "/\n");
}

/* -- to whom it is open ------------------------------------------------------------------------ */

static bool is_open_to_others(const char *url)
{
    struct address address;
    struct err err;

    if (serve_address_of(url) == url) /* a unix socket */
        return false;
    return address_parse(&address, serve_address_of(url), &err) == OK &&
           !address_is_loopback(&address);
}

/* "every address" is a place to listen and none to go to: other machines know this one by name. */
static void put_listener(struct text *out, const char *url)
{
    char name[256] = "";

    text_printf(out, "listening on %s", url);
    struct slice rest = slice_skip(slice_of(url), slice_find(slice_of(url), ':'));
    bool is_every = slice_starts(rest, "://[::]:") || slice_starts(rest, "://0.0.0.0:");
    if (is_every && gethostname(name, sizeof name - 1) == 0 && name[0] != '\0')
        text_printf(out, " (every address: %.*s://%s%s)", (int)slice_find(slice_of(url), ':'), url,
                    name, strrchr(url, ':'));
    text_byte(out, '\n');
}

static void warn_of_open_ports(const struct server *server)
{
    for (uint32_t i = 0; i < serve_listeners(server->serve); i++) {
        const char *url = serve_listener_url(server->serve, i);
        if (is_open_to_others(url) && slice_starts(slice_of(url), "http://"))
            log_warn("what is said on %s, keys and answers, crosses the network unencrypted: --tls "
                     "CERT,KEY or --tls auto (docs/tls.md)",
                     url);
        if (is_open_to_others(url) && !access_has_rules(server->access))
            log_warn("whoever reaches %s may call these models: there is no authentication; see "
                     "SECURITY.md before you open it to a network (--access, --tls)",
                     url);
    }
}

/* Does who shows no key get no answer of any model? */
static bool needs_key(const struct server *server)
{
    CLEANUP(caller_unref) struct caller *nobody = NULL;
    const struct access_credentials none = { 0 };
    struct env *env = server->stack.env;
    uint64_t now_ns = env->wall_ns(env);
    struct err err;

    return access_has_rules(server->access) &&
           access_identify(server->access, &none, now_ns, &nobody, &err) == OK &&
           caller_may(nobody, ACCESS_INFER, slice_of("models"), slice_make("", 0), now_ns, &err) !=
               OK;
}

/* Where lines go: by the certificate's name, where it does not stand for the address. */
static struct example_place place_of(const struct server *server, char *out, size_t size)
{
    const char *url = serve_listener_url(server->serve, 0);
    struct example_place place = { .url = url, .cacert = "", .needs_key = needs_key(server) };
    char bytes[ADDRESS_TEXT_MAX + 16];
    struct text shown;

    if (!slice_starts(slice_of(url), "https://"))
        return place;
    const struct options *o = server->life.options;
    place.cacert = tls_server_trusted_by(server->tls);
    place.needs_cert = options_text(o, OPT_TLS_CLIENT_CA)[0] != '\0' &&
                       options_number(o, OPT_TLS_CLIENT_AUTH) == TLS_CLIENT_REQUIRED;
    if (place.needs_cert && !access_has_keys(server->access))
        place.needs_key = false;
    text_init_fixed(&shown, bytes, sizeof bytes);
    example_url(&shown, url);
    const char *host = text_cstr(&shown) + strlen("https://"), *port = strrchr(host, ':');
    const char *name = port == NULL ? "" : tls_server_name(server->tls);
    if (name[0] == '\0' ||
        tls_server_has_name(server->tls, slice_make(host, (size_t)(port - host))))
        return place;
    snprintf(out, size, "https://%s%s", name, port);
    place.url = out;
    return place;
}

/* How browsers and other programs come to believe the certificate. */
static void put_trust(struct text *out, const struct server *server)
{
    const char *authority = server->tls == NULL ? "" : tls_server_authority(server->tls);

    if (authority[0] == '\0')
        return;
    text_str(out, "\ntrust: curl --cacert ");
    print_shell(out, slice_of(authority));
    text_str(out, " ...; browsers take the file in their settings, under certificate authorities; "
                  "for the whole machine\n  sudo cp ");
    print_shell(out, slice_of(authority));
    text_str(out,
             " /usr/local/share/ca-certificates/penstock.crt && sudo update-ca-certificates\n");
}

static void say_what_is_served(struct server *server, const char *program)
{
    struct repository_snapshot snapshot;
    char by_name[ADDRESS_TEXT_MAX + 300];
    struct example_place place = place_of(server, by_name, sizeof by_name);
    struct text out;

    text_init(&out, PRINT_BYTES_MAX);
    for (uint32_t i = 0; i < serve_listeners(server->serve); i++)
        put_listener(&out, serve_listener_url(server->serve, i));
    repository_snapshot_take(server->stack.repository, &snapshot);
    put_models(&out, &snapshot, print_has_colour(STDOUT_FILENO));
    put_tries(&out, &snapshot, program, &place);
    put_trust(&out, server);
    repository_snapshot_give(&snapshot);
    if (isatty(STDOUT_FILENO)) {
        /* On a screen the first line may be far up by now. */
        text_str(&out, "\nserving on ");
        example_url(&out, place.url);
        text_str(&out, "; Ctrl-C stops it\n");
    }
    (void)print_out(STDOUT_FILENO, &out);
    text_deinit(&out);
    warn_of_open_ports(server);
}

/* -- stopping ---------------------------------------------------------------------------------- */

/* A signal before all is loaded. Loading cannot be told to end, so nothing is closed or freed: what
 * answers already may finish, sockets' files go, and the process with them. */
static void end_early(void *context)
{
    struct server *server = context;

    if (server->serve == NULL) {
        sockets_close(&server->sockets);
        return;
    }
    log_info("stopping while models load");
    notify("STOPPING=1");
    if (server->is_started)
        life_drain(&server->life);
    else
        serve_stop(server->serve);
}

static enum err_code load_models(struct server *server, struct err *err)
{
    const char *const *notes;
    uint32_t count = repository_notes(server->stack.repository, &notes);

    for (uint32_t i = 0; i < count; i++)
        log_info("%s", notes[i]);
    return repository_load_all(server->stack.repository, err);
}

static enum err_code refuse_failed(struct server *server, struct err *err)
{
    struct repository_snapshot snapshot;
    enum err_code code = OK;

    repository_snapshot_take(server->stack.repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count && code == OK; i++) {
        const struct repository_entry *entry = &snapshot.entries[i];
        if (entry->state != MODEL_READY)
            code = err_set(err, E_PRECONDITION, "model '%s' cannot be loaded (--exit-on-error): %s",
                           entry->name, entry->reason);
    }
    repository_snapshot_give(&snapshot);
    return code;
}

/* Says what is not ready, and serves once the program before says so. */
static enum err_code ask_to_serve(struct server *server, struct err *err)
{
    struct repository_snapshot snapshot;

    repository_snapshot_take(server->stack.repository, &snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        const struct repository_entry *entry = &snapshot.entries[i];
        if (entry->state != MODEL_READY)
            upgrade_missing(entry->name, entry->version, entry->reason);
    }
    repository_snapshot_give(&snapshot);
    return upgrade_ask(err);
}

static enum err_code start_loops(struct server *server, struct err *err)
{
    stop_hold();
    sockets_close_unused(&server->sockets);
    serve_keep_files(server->serve, false);
    enum err_code code = serve_start(server->serve, err);
    if (code == OK && server->tls != NULL)
        code = tls_server_start(server->tls, err);
    server->is_started = code == OK;
    stop_release();
    return code;
}

static bool is_activated(const struct server *server)
{
    for (uint32_t i = 0; i < server->sockets.count; i++)
        if (server->sockets.entries[i].is_activated)
            return true;
    return false;
}

/* Loops run while models load, so that small ones answer before the large ones are there;
 * --exit-on-error wants to know first, and where another program still serves nothing is in a hurry.
 * Callers of a socket that systemd holds wait in it: they come for an answer, not for a 503. */
static enum err_code start_server(struct server *server, const struct options *o, struct err *err)
{
    bool loads_first =
        options_flag(o, OPT_EXIT_ON_ERROR) || upgrade_is_new() || is_activated(server);

    stop_hold();
    enum err_code code = open_server(server, o, err);
    stop_release();
    TRY(code);
    if (loads_first) {
        TRY(load_models(server, err));
        if (options_flag(o, OPT_EXIT_ON_ERROR))
            TRY(refuse_failed(server, err));
        if (upgrade_is_new())
            TRY(ask_to_serve(server, err));
    }
    TRY(start_loops(server, err));
    if (!loads_first)
        TRY(load_models(server, err));
    atomic_store(&server->has_models, true);
    warn_of_rules(server);
    return OK;
}

/* Before there are threads, and before root is given up. */
static enum err_code take_sockets(struct server *server, const struct options *o, struct err *err)
{
    const struct option_value *to = &o->values[OPT_UPGRADE_TO];
    const char *next = to->items_count > 0 ? to->items[to->items_count - 1] : "";
    bool keeps_rights = options_number(o, OPT_UPGRADE_RIGHTS) == UPGRADE_RIGHTS_START;
    struct handed handed;

    if (keeps_rights)
        TRY(upgrade_prepare(next, err));
    TRY(handed_take(&handed, err));
    TRY(sockets_open(&server->sockets, o, &handed, &server->is_misused, err));
    if (confine_user(o, err) != OK) {
        server->is_misused = err->code == E_INVALID && o->values[OPT_USER].source == SOURCE_ARGV;
        return err->code;
    }
    if (!keeps_rights) {
        TRY(upgrade_prepare(next, err));
        upgrade_warn(o);
    }
    return confine(o, &server->sockets, err);
}

int verb_serve(const struct options *options)
{
    struct err err = { 0 };

    if (options->values[OPT_MODELS].items_count == 0)
        return print_failure(
            EXIT_USAGE, "no model to serve: penstock serve PATH, where PATH is a model file or a "
                        "folder of models (penstock serve --help)");
    struct server *server = mem_aligned(64, sizeof *server);
    if (server == NULL)
        return print_failure(EXIT_FAILED, "no memory to start");
    memset(server, 0, sizeof *server);
    signal(SIGPIPE, SIG_IGN);
    verbs_start_log(options);
    notify_open();
    enum err_code code = take_sockets(server, options, &err);
    if (code == OK)
        code = stop_begin(end_early, server, &err);
    if (code == OK)
        code = start_server(server, options, &err);
    stop_take();
    if (code == OK) {
        push_server(server->push, PUSH_SERVER_READY);
        upgrade_serves();
        say_what_is_served(server, options->program);
        confine_tell(options);
        life_run(&server->life);
    } else {
        upgrade_failed(err.text);
        if (server->is_started)
            life_end_start(&server->life);
    }
    close_server(server);
    int status = code == OK ? EXIT_OK : server->is_misused ? EXIT_USAGE : EXIT_FAILED;
    mem_free(server);
    return code == OK ? status : print_failure(status, err.text);
}
