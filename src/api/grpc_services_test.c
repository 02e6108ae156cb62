/* grpc_services_test.c - grpc.health.v1 and reflection over calls of memory, with the real repository.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <sys/stat.h>

#include "api/fake_stage.h"
#include "api/grpc.h"
#include "api/grpc_answer_test.h"
#include "api/pb_build.h"
#include "api/push.h"
#include "base/clock.h"
#include "base/mem.h"
#include "call/grpc_wire.h"
#include "codec/proto.h"
#include "telemetry/metrics.h"
#include "test/harness.h"

#define HEALTH     "/grpc.health.v1.Health/"
#define INFO       "/ServerReflectionInfo"
#define REFLECTION "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

static const char *const reflections[] = { "grpc.reflection.v1", "grpc.reflection.v1alpha" };

/* -- calls ----------------------------------------------------------------------------------------- */

static struct text framed[STAGE_CALLS_MAX];
static struct grpc_watchers watchers;

static void put_frame(struct text *out, struct slice message)
{
    uint8_t prefix[GRPC_PREFIX_BYTES];

    grpc_prefix_put(prefix, false, (uint32_t)message.size);
    text_put(out, prefix, sizeof prefix);
    text_slice_put(out, message);
}

/* The body is what was put into framed[stage.count]. */
static struct fake *make_framed(const char *path)
{
    struct fake *fake = stage_make(METHOD_POST, path, text_slice(&framed[stage.count]));

    fake_header(fake, "content-type", "application/grpc");
    fake_header(fake, "te", "trailers");
    return fake;
}

static struct text *body_of_next(void)
{
    struct text *body = &framed[stage.count];

    text_deinit(body);
    text_init(body, 1 << 24);
    return body;
}

static struct fake *make(const char *path, struct slice message)
{
    put_frame(body_of_next(), message);
    return make_framed(path);
}

/* A HealthCheckRequest. */
static struct fake *make_health(const char *method, const char *service)
{
    char path[64];
    struct text message;

    snprintf(path, sizeof path, HEALTH "%s", method);
    text_init(&message, 1 << 16);
    build_str(&message, 1, service);
    static char kept[STAGE_CALLS_MAX][64];
    char *own = memcpy(kept[stage.count], path, sizeof path);
    struct fake *fake = make(own, text_slice(&message));
    text_deinit(&message);
    return fake;
}

static struct fake *ask_health(const char *method, const char *service)
{
    stage_drop_calls();
    struct fake *fake = make_health(method, service);
    stage_run();
    return fake;
}

static const char *const broken_config =
    "backend: \"echo\"\ninput [" TENSOR("x", "TYPE_FP32", "-1") "]\noutput [" TENSOR(
        "y", "TYPE_FP32", "-1") "]\ninstance_group [{ kind: KIND_GPU }]\n";

static bool open_stage(bool has_broken)
{
    if (has_broken)
        stage_put_file("broken", "config.pbtxt", broken_config);
    if (!stage_open())
        return false;
    watchers = (struct grpc_watchers){ .max = 10 };
    stage.api.watchers = &watchers;
    stage.api.has_reflection = true;
    return true;
}

static bool begin(bool has_broken)
{
    return stage_up() && open_stage(has_broken);
}

static void end(void)
{
    stage_down();
    check(atomic_load(&watchers.now) == 0, "%llu still watch",
          (unsigned long long)atomic_load(&watchers.now));
    for (size_t i = 0; i < COUNT(framed); i++)
        text_deinit(&framed[i]);
}

/* The message of that index in the answer; data NULL: there are fewer. */
static struct slice message_at(const struct fake *fake, unsigned index)
{
    struct slice rest = text_slice(&fake->answer);

    while (rest.size >= GRPC_PREFIX_BYTES) {
        struct grpc_prefix prefix = grpc_prefix_get(rest.data);
        rest = slice_skip(rest, GRPC_PREFIX_BYTES);
        check(prefix.flag == 0 && prefix.size <= rest.size, "framing");
        if (index-- == 0)
            return slice_first(rest, prefix.size);
        rest = slice_skip(rest, MIN(prefix.size, rest.size));
    }
    check(rest.size == 0, "%zu bytes behind", rest.size);
    return slice_make(NULL, 0);
}

static unsigned messages_of(const struct fake *fake)
{
    unsigned count = 0;

    while (message_at(fake, count).data != NULL)
        count++;
    return count;
}

/* As JSON, by the schema; valid until the next. */
static const char *json_of(const char *type, struct slice message)
{
    static struct text json;
    struct proto_arena *arena = proto_arena_new();
    struct proto_message *m = NULL;
    struct err err = { 0 };

    text_deinit(&json);
    text_init(&json, 1 << 20);
    if (proto_decode(&m, arena, proto_type_find(proto_builtin(), type), message, &err) != OK ||
        proto_to_json(m, proto_builtin(), &json, &err) != OK)
        check(false, "%s: %s", type, err.text);
    proto_arena_free(&arena);
    return text_cstr(&json);
}

static const char *health_at(const struct fake *fake, unsigned index)
{
    return json_of("grpc.health.v1.HealthCheckResponse", message_at(fake, index));
}

#define SERVING         "{\"status\":\"SERVING\"}"
#define NOT_SERVING     "{\"status\":\"NOT_SERVING\"}"
#define SERVICE_UNKNOWN "{\"status\":\"SERVICE_UNKNOWN\"}"

#define check_status(made, code_wanted, words)                                                     \
    do {                                                                                           \
        struct fake *fake_ = (made);                                                               \
        check(code_of(fake_) == (code_wanted), "%s: %s", err_name(code_of(fake_)),                 \
              words_of(fake_));                                                                    \
        check(strstr(words_of(fake_), (words)) != NULL, "%s\n  lacks %s", words_of(fake_), words); \
    } while (0)

/* -- Check ------------------------------------------------------------------------------------------ */

TEST(health_check)
{
    /* what is asked; then: all is well, one model is broken, that does not count, draining */
    static const struct {
        const char *service, *well, *broken, *lenient, *draining;
    } cases[] = {
        { "", SERVING, NOT_SERVING, SERVING, NOT_SERVING },
        { "inference.GRPCInferenceService", SERVING, NOT_SERVING, SERVING, NOT_SERVING },
        { "grpc.health.v1.Health", SERVING, NOT_SERVING, SERVING, NOT_SERVING },
        { "grpc.reflection.v1alpha.ServerReflection", SERVING, NOT_SERVING, SERVING, NOT_SERVING },
        { "iris", SERVING, SERVING, SERVING, NOT_SERVING },
        { "penstock.models.Iris", SERVING, SERVING, SERVING, NOT_SERVING },
        { "broken", NULL, NOT_SERVING, NOT_SERVING, NOT_SERVING },
        { "penstock.models.Broken", NULL, NOT_SERVING, NOT_SERVING, NOT_SERVING },
        { "iri", NULL, NULL, NULL, NULL },
        { "iriss", NULL, NULL, NULL, NULL },
        { "zzz", NULL, NULL, NULL, NULL },
        { "Iris", NULL, NULL, NULL, NULL },
        { "penstock.models.", NULL, NULL, NULL, NULL },
        { "penstock.models.iris", NULL, NULL, NULL, NULL },
        { "inference", NULL, NULL, NULL, NULL },
    };

    for (unsigned state = 0; state < 4; state++) {
        if (!begin(state > 0))
            return;
        stage.api.is_strict_ready = state < 2;
        atomic_store(&stage.is_draining, state == 3);
        for (size_t i = 0; i < COUNT(cases); i++) {
            const char *const wanted[] = { cases[i].well, cases[i].broken, cases[i].lenient,
                                           cases[i].draining };
            struct fake *fake = ask_health("Check", cases[i].service);
            if (wanted[state] == NULL) {
                check_status(fake, E_NOT_FOUND, "no service '");
                check(strstr(words_of(fake), cases[i].service) != NULL, "%s", words_of(fake));
                continue;
            }
            check(code_of(fake) == OK, "'%s': %s", cases[i].service, words_of(fake));
            check(messages_of(fake) == 1 && strcmp(health_at(fake, 0), wanted[state]) == 0,
                  "'%s' in state %u: %s", cases[i].service, state, health_at(fake, 0));
        }
        end();
    }
}

TEST(health_refuses_what_is_no_request)
{
    if (!begin(false))
        return;
    static const char *const methods[] = { HEALTH "Check", HEALTH "Watch" };
    for (size_t i = 0; i < COUNT(methods); i++) {
        stage_drop_calls();
        struct fake *fake = make(methods[i], slice_of("\x0a\x7fxx"));
        struct fake *text = make(methods[i], slice_of("\x0a\x02x\xff"));
        stage_run();
        check_status(fake, E_INVALID, "this is no grpc.health.v1.HealthCheckRequest: byte ");
        check_status(text, E_INVALID, "service: byte 1 is not UTF-8");
        check(fake_answer_header(text, "grpc-status-details-bin").size != 0, "names the field");
    }
    stage_drop_calls();
    struct fake *other = make(HEALTH "Nothing", slice_of(""));
    stage_run();
    check_status(other, E_UNIMPLEMENTED, "it has: Check, Watch, List");
    /* Without reflection nobody is told that it is well. */
    stage.api.has_reflection = false;
    check_status(ask_health("Check", "grpc.reflection.v1.ServerReflection"), E_NOT_FOUND, "");
    end();
}

TEST(health_list)
{
    if (!begin(true))
        return;
    struct fake *fake = ask_health("List", "");
    check(code_of(fake) == OK, "%s", words_of(fake));
    const char *json = json_of("grpc.health.v1.HealthListResponse", message_at(fake, 0));
    static const char *const wanted[] = {
        "{\"statuses\":{\"\":" NOT_SERVING ",\"broken\":" NOT_SERVING,
        ",\"grpc.health.v1.Health\":" NOT_SERVING,
        ",\"grpc.reflection.v1.ServerReflection\":" NOT_SERVING,
        ",\"identity\":" SERVING,
        ",\"inference.GRPCInferenceService\":" NOT_SERVING,
        ",\"iris\":" SERVING,
        ",\"penstock.models.Iris\":" SERVING,
        ",\"words\":" SERVING "}}",
    };
    check_or_stop(json != NULL, "no list");
    for (size_t i = 0; i < COUNT(wanted); i++)
        check(strstr(json, wanted[i]) != NULL, "%s\n  lacks %s", json, wanted[i]);
    atomic_store(&stage.is_draining, true);
    stage.api.has_reflection = false;
    fake = ask_health("List", "");
    json = json_of("grpc.health.v1.HealthListResponse", message_at(fake, 0));
    check_or_stop(json != NULL, "no list");
    check(strstr(json, "\""
                       "SERVING\"") == NULL &&
              strstr(json, NOT_SERVING) != NULL,
          "%s", json);
    check(strstr(json, "reflection") == NULL, "%s", json);
    end();
}

/* -- Watch ------------------------------------------------------------------------------------------ */

static struct timer alarm_timer;
static void (*alarm_do)(void);

static void on_alarm(struct timer *timer UNUSED)
{
    alarm_do();
}

/* Calls `what` on the loop so long after now. */
static void after_ms(uint64_t ms, void (*what)(void))
{
    struct err err;

    alarm_do = what;
    alarm_timer.on_due = on_alarm;
    require(timer_start(stage.loop, &alarm_timer, clock_mono_ns() + ms * NS_PER_MS, &err) == OK);
}

static unsigned drains;

static void begin_to_drain(void)
{
    atomic_store(&stage.is_draining, true);
    push_server(stage.push, PUSH_SERVER_DRAINING);
    /* Once it drains a server says no more; but tests drain it often. */
    push_model(stage.push, PUSH_UNAVAILABLE, slice_of("ghost"), slice_of("1"),
               slice_of(drains++ % 2 == 0 ? "even" : "odd"));
}

static void be_lenient(void)
{
    stage.api.is_strict_ready = false;
    push_server(stage.push, PUSH_SERVER_READY);
    after_ms(300, begin_to_drain);
}

TEST(health_watch_tells_each_change_once)
{
    if (!begin(true))
        return;
    struct fake *all = make_health("Watch", "");
    struct fake *model = make_health("Watch", "iris");
    struct fake *broken = make_health("Watch", "penstock.models.Broken");
    struct fake *none = make_health("Watch", "nobody");
    after_ms(300, be_lenient);
    stage_run();
    static const struct {
        const char *told[4];
    } wanted[] = { { { NOT_SERVING, SERVING, NOT_SERVING } },
                   { { SERVING, NOT_SERVING } },
                   { { NOT_SERVING } },
                   { { SERVICE_UNKNOWN } } };
    struct fake *fakes[] = { all, model, broken, none };
    for (size_t i = 0; i < COUNT(fakes); i++) {
        unsigned count = 0;
        check_status(fakes[i], E_UNAVAILABLE, "the server is stopping");
        for (; wanted[i].told[count] != NULL; count++)
            check(message_at(fakes[i], count).data != NULL &&
                      strcmp(health_at(fakes[i], count), wanted[i].told[count]) == 0,
                  "watcher %zu was told %s as number %u", i, health_at(fakes[i], count), count);
        check(messages_of(fakes[i]) == count, "watcher %zu was told %u times", i,
              messages_of(fakes[i]));
    }
    end();
}

TEST(health_watch_ends_with_its_caller)
{
    if (!begin(false))
        return;
    struct fake *leaves = make_health("Watch", "nobody");
    struct fake *late = make_health("Watch", "iris");
    leaves->gone_ms = 250;
    fake_header(late, "grpc-timeout", "250m");
    stage_run();
    check(messages_of(leaves) == 1 && fake_answer_header(leaves, "grpc-status").size == 0,
          "it was open until its caller left");
    check_status(late, E_DEADLINE, "");
    check(messages_of(late) == 1, "%u", messages_of(late));
    end();
}

TEST(health_watchers_are_bounded)
{
    struct text out;
    struct err err;

    if (!begin(false))
        return;
    check_or_stop(grpc_watchers_register(&watchers, stage.metrics, &err) == OK, "%s", err.text);
    watchers.max = 2;
    struct fake *fakes[3];
    for (size_t i = 0; i < COUNT(fakes); i++)
        fakes[i] = make_health("Watch", "iris");
    after_ms(50, begin_to_drain);
    stage_run();
    unsigned refused = 0;
    for (size_t i = 0; i < COUNT(fakes); i++) {
        if (code_of(fakes[i]) != E_EXHAUSTED)
            continue;
        refused++;
        check_status(fakes[i], E_EXHAUSTED, "2 watch already, which is the most (--watchers-max)");
    }
    check(refused == 1 && grpc_watchers_refused(&watchers) == 1, "%u were refused", refused);
    text_init(&out, 1 << 16);
    metrics_render(stage.metrics, &out);
    check(strstr(text_cstr(&out), "\npenstock_health_watchers 0\n") != NULL, "%s", text_cstr(&out));
    text_deinit(&out);
    end();
}

/* -- reflection ------------------------------------------------------------------------------------- */

/* One request into the body of the next call: field `what` (0: none) of that value. */
static void put_request(struct text *body, uint32_t what, const char *value)
{
    struct text message;

    text_init(&message, 1 << 16);
    build_str(&message, 1, "host.example");
    if (what != 0)
        build_str(&message, what, value);
    put_frame(body, text_slice(&message));
    text_deinit(&message);
}

enum { FILE_NAME = 3, SYMBOL = 4, EXTENSION = 5, NUMBERS = 6, SERVICES = 7 };

struct answered {
    struct proto_arena *arena;
    struct proto_message *m;
};

static void read_answer(struct answered *ret, const struct fake *fake, unsigned index,
                        const char *package)
{
    char type[100];
    struct err err = { 0 };

    snprintf(type, sizeof type, "%s.ServerReflectionResponse", package);
    ret->arena = proto_arena_new();
    ret->m = NULL;
    struct slice message = message_at(fake, index);
    if (message.data == NULL)
        check(false, "no answer %u", index);
    else if (proto_decode(&ret->m, ret->arena, proto_type_find(proto_builtin(), type), message,
                          &err) != OK)
        check(false, "answer %u: %s", index, err.text);
}

TEST(reflection_answers_each_request)
{
    static const struct {
        uint32_t what;
        const char *value, *which, *says;
        unsigned files;
    } cases[] = {
        { SERVICES, "", "list_services_response", NULL, 0 },
        { FILE_NAME, "grpc/health/v1/health.proto", "file_descriptor_response", NULL, 1 },
        { FILE_NAME, "grpc_service.proto", "file_descriptor_response", NULL, 2 },
        { FILE_NAME, "penstock/models/iris.proto", "file_descriptor_response", NULL, 1 },
        { SYMBOL, "inference.GRPCInferenceService", "file_descriptor_response", NULL, 2 },
        { SYMBOL, "inference.DataType", "file_descriptor_response", NULL, 1 },
        { SYMBOL, "penstock.models.Iris", "file_descriptor_response", NULL, 1 },
        { SYMBOL, "penstock.models.Iris.Predict", "file_descriptor_response", NULL, 1 },
        { SYMBOL, "org.pytorch.serve.grpc.openinference.GRPCInferenceService",
          "file_descriptor_response", NULL, 3 },
        { SYMBOL, "inference.Nothing", "error_response", "no symbol 'inference.Nothing' here", 0 },
        { SYMBOL, "penstock.models.Broken", "error_response", "no symbol", 0 },
        { SYMBOL, "", "error_response", "no symbol ''", 0 },
        { FILE_NAME, "nothing.proto", "error_response", "no file 'nothing.proto' here", 0 },
        { NUMBERS, "inference.ModelConfig", "error_response", "has no extensions", 0 },
        { 0, "", "error_response", "the request asks for nothing", 0 },
    };

    for (size_t way = 0; way < 2 * COUNT(reflections); way++) {
        const char *package = reflections[way / 2];
        char path[100];
        if (!begin(true))
            return;
        struct text *body = body_of_next();
        for (size_t i = 0; i < COUNT(cases); i++)
            put_request(body, cases[i].what, cases[i].value);
        snprintf(path, sizeof path, "/%s.ServerReflection" INFO, package);
        struct fake *fake = make_framed(path);
        fake->piece = way % 2 == 0 ? 0 : 1;
        stage_run();
        check(code_of(fake) == OK, "%s", words_of(fake));
        check(messages_of(fake) == COUNT(cases), "%u answers", messages_of(fake));
        for (unsigned i = 0; i < COUNT(cases); i++) {
            struct answered answer;
            read_answer(&answer, fake, i, package);
            if (answer.m == NULL)
                continue;
            const char *which = proto_which(answer.m, "message_response");
            check(slice_is(proto_get_str(answer.m, "valid_host"), "host.example"), "host");
            const struct proto_message *asked = proto_get_message(answer.m, "original_request");
            const char *what = proto_which(asked, "message_request");
            check((what == NULL) == (cases[i].what == 0) &&
                      (what == NULL || slice_is(proto_get_str(asked, what), cases[i].value)),
                  "%s: the request comes back", cases[i].value);
            check(which != NULL && strcmp(which, cases[i].which) == 0, "%s: %s", cases[i].value,
                  which == NULL ? "nothing" : which);
            if (which == NULL || strcmp(which, cases[i].which) != 0) {
                proto_arena_free(&answer.arena);
                continue;
            }
            const struct proto_message *part = proto_get_message(answer.m, which);
            if (cases[i].files != 0)
                check(proto_count(part, "file_descriptor_proto") == cases[i].files, "%s: %zu files",
                      cases[i].value, proto_count(part, "file_descriptor_proto"));
            if (cases[i].says != NULL) {
                struct slice words = proto_get_str(part, "error_message");
                check(proto_get_i64(part, "error_code") == (cases[i].what == 0 ? 3 : 5), "code");
                check(memmem(words.data, words.size, cases[i].says, strlen(cases[i].says)) != NULL,
                      "%.*s", SLICE_ARG(words));
            }
            proto_arena_free(&answer.arena);
        }
        end();
    }
}

/* Whoever has only the address can build every message: what is listed can be described. */
TEST(reflection_describes_all_it_lists)
{
    static const char twice[] = "backend: \"echo\"\nversion_policy { all {} }\ninput [" TENSOR(
        "x", "TYPE_FP32", "-1") "]\noutput [" TENSOR("y", "TYPE_FP32", "-1") "]\n";
    char folder[100];
    unsigned twices = 0;

    struct proto_schema *schema = NULL;
    struct answered list;
    struct err err = { 0 };
    static const char path[] = REFLECTION;

    if (!stage_up())
        return;
    stage_put_file("twice", "config.pbtxt", twice); /* two versions are one service */
    snprintf(folder, sizeof folder, "%s/twice/2", stage.root);
    check_or_stop(mkdir(folder, 0777) == 0, "%s", folder);
    if (!open_stage(true))
        return;
    put_request(body_of_next(), SERVICES, "*");
    struct fake *fake = make_framed(path);
    stage_run();
    read_answer(&list, fake, 0, "grpc.reflection.v1");
    const struct proto_message *services = proto_get_message(list.m, "list_services_response");
    size_t count = proto_count(services, "service");
    check(count >= 8, "%zu services", count);
    check(proto_schema_new(&schema, &err) == OK, "%s", err.text);
    bool has_iris = false;
    for (size_t i = 0; i < count; i++) {
        char name[200];
        struct answered answer;
        snprintf(name, sizeof name, "%.*s",
                 SLICE_ARG(proto_get_str(proto_message_at(services, "service", i), "name")));
        has_iris |= strcmp(name, "penstock.models.Iris") == 0;
        twices += strcmp(name, "penstock.models.Twice") == 0;
        check(strstr(name, "Broken") == NULL, "%s is not ready", name);
        stage_drop_calls();
        put_request(body_of_next(), SYMBOL, name);
        fake = make_framed(path);
        stage_run();
        read_answer(&answer, fake, 0, "grpc.reflection.v1");
        const struct proto_message *files = proto_get_message(answer.m, "file_descriptor_response");
        for (size_t k = proto_count(files, "file_descriptor_proto"); k > 0; k--)
            check(proto_schema_add(schema, proto_str_at(files, "file_descriptor_proto", k - 1),
                                   &err) == OK,
                  "%s: %s", name, err.text);
        const struct proto_service *service = proto_service_find(schema, name);
        check(service != NULL, "%s is not described", name);
        for (size_t k = 0; grpc_services[k] != NULL && service != NULL; k++)
            if (strcmp(grpc_services[k]->name, name) == 0)
                check(proto_service_methods(service) == grpc_services[k]->methods_count,
                      "%s: %u methods described, %u there", name, proto_service_methods(service),
                      grpc_services[k]->methods_count);
        proto_arena_free(&answer.arena);
    }
    check(has_iris && twices == 1, "models are among them, once (Twice %u times)", twices);
    proto_schema_free(&schema);
    proto_arena_free(&list.arena);
    end();
}

TEST(reflection_refuses_what_is_no_request)
{
    static const char path[] = REFLECTION;
    char large[17 << 10];

    if (!begin(false))
        return;
    memset(large, 'a', sizeof large);
    large[0] = 0x22;
    large[1] = (char)0xfd;
    large[2] = (char)0x87;
    large[3] = 0x01;
    struct fake *broken = make(path, slice_of("\x22\x7fxx"));
    struct fake *text = make(path, slice_of("\x22\x02x\xff"));
    struct fake *host = make(path, slice_of("\x0a\x02x\xff\x0a\x01x\x3a\x01x"));
    struct fake *nested = make(path, slice_of("\x2a\x03\x0a\x7fx"));
    struct fake *long_one = make(path, slice_make(large, sizeof large));
    body_of_next();
    struct fake *none = make_framed(path);
    stage_run();
    check_status(broken, E_INVALID, "this is no ServerReflectionRequest: byte ");
    check_status(text, E_INVALID, "file_containing_symbol: byte 1 of it is not UTF-8");
    check_status(host, E_INVALID, "host: byte 1 of it is not UTF-8");
    check_status(nested, E_INVALID, "file_containing_extension: ");
    check_status(long_one, E_EXHAUSTED, "at most 16384 bytes, this 17408");
    check(code_of(none) == OK && messages_of(none) == 0, "a stream without a request is fine");
    stage.api.has_reflection = false;
    stage_drop_calls();
    struct fake *off = make(path, slice_of("\x3a\x00"));
    stage_run();
    check_status(off, E_UNIMPLEMENTED, "reflection is switched off here (--no-reflection)");
    end();
}

static struct exchange_ops slow_ops;
static struct fake *slow_fake;
static size_t slow_room;
static uint32_t slow_sends;

static size_t room_of_slow(struct exchange *x UNUSED)
{
    return slow_room;
}

static void make_room(void)
{
    slow_sends = slow_fake->sends;
    slow_room = SIZE_MAX;
    slow_fake->x.user->on_room(&slow_fake->x);
}

/* A caller who asks and does not read holds one answer, not thousands. */
TEST(reflection_waits_for_a_slow_reader)
{
    enum { REQUESTS = 200 };

    if (!begin(false))
        return;
    struct text *body = body_of_next();
    for (int i = 0; i < REQUESTS; i++)
        put_request(body, SYMBOL, "inference.ModelConfig");
    slow_fake = make_framed(REFLECTION);
    slow_ops = *slow_fake->x.ops;
    slow_ops.room = room_of_slow;
    slow_fake->x.ops = &slow_ops;
    slow_room = 0;
    after_ms(100, make_room);
    stage_run();
    check(slow_sends > 0 && slow_sends <= 2, "%u pieces were queued with no room", slow_sends);
    check(code_of(slow_fake) == OK && messages_of(slow_fake) == REQUESTS, "then %u answers",
          messages_of(slow_fake));
    end();
}

/* -- any bytes ---------------------------------------------------------------------------------- */

/* Requests of every kind, with bytes changed, put in and taken out: each has one answer that is a
 * message, or a status. */
TEST(any_bytes_are_answered)
{
    enum { ROUNDS = 3000 };
    static const char *const paths[] = { HEALTH "Check", HEALTH "List", REFLECTION };
    static const char *const types[] = { "grpc.health.v1.HealthCheckResponse",
                                         "grpc.health.v1.HealthListResponse",
                                         "grpc.reflection.v1.ServerReflectionResponse" };
    static const char *const names[] = { "iris", "penstock.models.Iris", "grpc_service.proto",
                                         "inference.ModelConfig.input" };
    unsigned answered = 0;

    if (!begin(true))
        return;
    for (unsigned round = 0; round < ROUNDS; round++) {
        size_t kind = test_random_below(COUNT(paths));
        struct text message;
        text_init(&message, 1 << 16);
        build_str(&message, (uint32_t)(1 + test_random_below(8)), names[round % COUNT(names)]);
        build_str(&message, (uint32_t)(1 + test_random_below(8)), names[round / 7 % COUNT(names)]);
        for (uint64_t i = test_random_below(4); i > 0 && message.size > 1; i--) {
            size_t at = test_random_below(message.size);
            if (test_random_below(3) == 0) /* cut */
                message.size = at;
            else
                message.data[at] = (uint8_t)test_random();
        }
        stage_drop_calls();
        struct fake *fake = make(paths[kind], text_slice(&message));
        stage_run();
        text_deinit(&message);
        enum err_code code = code_of(fake);
        check(code == OK || code == E_INVALID || (kind == 0 && code == E_NOT_FOUND), "%s: %s",
              err_name(code), words_of(fake));
        check(messages_of(fake) == (code == OK), "%u answers", messages_of(fake));
        if (code == OK && messages_of(fake) == 1)
            check(json_of(types[kind], message_at(fake, 0))[0] == '{', "no message");
        answered += code == OK;
    }
    check(answered > ROUNDS / 10, "only %u of %u were answered", answered, ROUNDS);
    end();
}

/* -- faults ------------------------------------------------------------------------------------------ */

TEST(health_and_reflection_survive_every_fault)
{
    static const char reflection[] = REFLECTION;

    if (!begin(false))
        return;
    (void)proto_builtin(); /* made once, by whoever is first */
    stage.block_bytes = 1024;
    for (unsigned kind = 0; kind < 5; kind++) {
        for_each_fault(nth) {
            struct fake *fake;
            fault_arm(0);
            stage_drop_calls();
            atomic_store(&stage.is_draining, false);
            if (kind < 3) {
                fake = make_health(kind == 0 ? "Check" : kind == 1 ? "List" : "Watch", "iris");
            } else {
                struct text *body = body_of_next();
                put_request(body, kind == 3 ? SERVICES : SYMBOL, "penstock.models.Iris");
                fake = make_framed(reflection);
            }
            require(text_room(&fake->answer, 1 << 20) != NULL &&
                    text_room(&fake->headers, 4096) != NULL);
            if (kind == 2)
                after_ms(1, begin_to_drain);
            fault_arm(nth);
            stage_run();
            bool fired = fault_fired();
            fault_arm(0);
            timer_stop(stage.loop, &alarm_timer);
            check(fake->is_aborted || fake->status == 200, "kind %u, fault %u: %u", kind, nth,
                  fake->status);
            check(fired || code_of(fake) == (kind == 2 ? E_UNAVAILABLE : OK), "kind %u: %s", kind,
                  words_of(fake));
            check(atomic_load(&watchers.now) == 0, "kind %u, fault %u: still counted", kind, nth);
            if (!fired)
                break;
        }
    }
    end();
}
