/* call_grpc.c - penstock call --grpc: a model's Predict with the arguments that it has over REST, or
 * any method of a server with reflection; those of many messages are call_stream.c's to talk to.
 *
 * What the messages are is asked of the server (reflect.h), so nothing is compiled in and any gRPC
 * server will do. A model's inputs are read by the types of its message's fields, and its answer is
 * printed as over REST (twin.h).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/mem.h"
#include "cli/ask.h"
#include "cli/call_grpc.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/reflect.h"
#include "cli/twin.h"
#include "cli/wire_view.h"
#include "codec/proto.h"
#include "model/nearest.h"
#include "model/service.h"

enum { ARENA_BYTES_MAX = 64 << 20, NAMES_SHOWN = 8, PATH_BYTES_MAX = 1024 };

static const char package[] = "penstock.models.";

/* -- what REST tells of the model --------------------------------------------------------------- */

static void free_doc(struct yyjson_doc **doc)
{
    yyjson_doc_free(*doc);
}

/* JSON of the same server over REST; NULL: it gives none, as another's server. */
static struct yyjson_doc *ask_rest(const struct grpc_call *g, const char *method,
                                   const char *target, struct slice body)
{
    CLEANUP(client_free) struct client *client = NULL;
    struct yyjson_doc *doc = NULL;
    struct err ignored = { 0 };

    if (ask_open(&client, g->o, &ignored) != OK ||
        ask_json(client, method, target, body, &doc, &ignored) != OK)
        return NULL;
    return doc;
}

/* The model's description, asked for once and only when it is needed; NULL: there is none. */
static yyjson_val *describe(struct grpc_call *g)
{
    char bytes[PATH_BYTES_MAX];
    struct text target;

    if (!g->has_asked) {
        g->has_asked = true;
        text_init_fixed(&target, bytes, sizeof bytes - 1);
        text_str(&target, "/models/");
        print_percent(&target, slice_of(g->call->model));
        bytes[target.size] = '\0';
        if (!text_failed(&target))
            g->call->about = ask_rest(g, "GET", bytes, slice_of(""));
    }
    return yyjson_doc_get_root(g->call->about);
}

/* -- which method ------------------------------------------------------------------------------ */

/* Letters and digits alike, whatever their case and what stands between them. */
static bool is_alike(struct slice a, struct slice b)
{
    size_t i = 0, j = 0;

    for (;;) {
        while (i < a.size && !((a.data[i] | 32) >= 'a' && (a.data[i] | 32) <= 'z') &&
               !(a.data[i] >= '0' && a.data[i] <= '9'))
            i++;
        while (j < b.size && !((b.data[j] | 32) >= 'a' && (b.data[j] | 32) <= 'z') &&
               !(b.data[j] >= '0' && b.data[j] <= '9'))
            j++;
        if (i == a.size || j == b.size)
            return i == a.size && j == b.size;
        if ((a.data[i] | 32) != (b.data[j] | 32))
            return false;
        i++, j++;
    }
}

static const struct slice *find_name(const struct slice *names, uint32_t count, const char *wanted)
{
    for (uint32_t i = 0; wanted != NULL && i < count; i++) {
        if (slice_starts(names[i], package) &&
            slice_is(slice_skip(names[i], sizeof package - 1), wanted))
            return &names[i];
    }
    return NULL;
}

/* Two models can want one name; the second then has a hash of its own behind it, so that one is
 * looked for first. */
static const struct slice *find_service(struct grpc_call *g, const struct slice *names,
                                        uint32_t count)
{
    const char *model = g->call->model;
    const struct slice *found;

    if ((found = find_name(names, count, service_of_model_apart(g->arena, model))) != NULL ||
        (found = find_name(names, count, service_of_model(g->arena, model))) != NULL ||
        (found = find_name(names, count, model)) != NULL)
        return found;
    for (uint32_t i = 0; i < count; i++) {
        if (slice_starts(names[i], package) &&
            is_alike(slice_skip(names[i], sizeof package - 1), slice_of(model)))
            return &names[i];
    }
    return NULL;
}

/* Models as they are typed, which are held by the JSON that is returned; where the server does not tell
 * them, their services. */
static struct yyjson_doc *offer_models(const struct grpc_call *g, const struct slice *names,
                                       uint32_t count, struct nearest *nearest)
{
    struct yyjson_doc *index = ask_rest(g, "POST", "/v2/repository/index", slice_of("{}"));
    yyjson_val *row;
    size_t at, rows_count;

    yyjson_arr_foreach(yyjson_doc_get_root(index), at, rows_count, row)
    {
        const char *name = yyjson_get_str(yyjson_obj_get(row, "name"));
        if (name != NULL && strcmp(name, g->call->model) != 0)
            nearest_offer(nearest, name);
    }
    for (uint32_t i = 0; index == NULL && i < count; i++) {
        if (slice_starts(names[i], package))
            nearest_offer(nearest, (const char *)names[i].data + sizeof package - 1);
    }
    return index;
}

/* why: the server's reason that this model has no service, or empty. */
static enum err_code refuse_service(struct grpc_call *g, const struct slice *names, uint32_t count,
                                    const char *why, struct err *err)
{
    CLEANUP(free_doc) struct yyjson_doc *index = NULL;
    struct nearest nearest = nearest_to(slice_of(g->call->model));
    char list[500] = "";
    size_t at = 0;
    uint32_t shown = 0, models = 0;

    for (uint32_t i = 0; i < count; i++) {
        models += slice_starts(names[i], package);
        if (shown < NAMES_SHOWN && at + 80 < sizeof list) {
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%.*s", shown == 0 ? "" : ", ",
                                   SLICE_ARG(slice_first(names[i], 70)));
            shown++;
        }
    }
    if (why[0] == '\0' && models > 0)
        index = offer_models(g, names, count, &nearest);
    const char *best = nearest_best(&nearest);
    if (why[0] != '\0')
        return err_set(err, E_NOT_FOUND, "model '%s' has no gRPC service: %s", g->call->model, why);
    if (models == 0)
        return err_set(
            err, E_NOT_FOUND,
            "%s has no services of models (penstock.models.*), so name a method: penstock "
            "call --grpc package.Service/Method; its services are %s%s",
            client_url(g->call->client)->shown, count > 0 ? list : "none",
            shown < count ? ", ..." : "");
    return err_set(err, E_NOT_FOUND, "%s has no gRPC service for a model '%s'%s%s%s",
                   client_url(g->call->client)->shown, g->call->model,
                   best != NULL ? "; did you mean " : "", best != NULL ? best : "",
                   best != NULL ? "?" : " (penstock models lists what there is)");
}

/* The service as the model's description over REST has it: model.yaml may give any name. *ret_why, in
 * the arena, is why there is none. */
static const struct slice *find_described(struct grpc_call *g, const struct slice *names,
                                          uint32_t count, const char **ret_why)
{
    yyjson_val *grpc = yyjson_obj_get(describe(g), "grpc");
    const char *service = yyjson_get_str(yyjson_obj_get(grpc, "service"));
    const char *why = yyjson_get_str(yyjson_obj_get(grpc, "why"));

    if (why != NULL)
        why = arena_strndup(g->arena, why, MIN(strlen(why), (size_t)400));
    *ret_why = why != NULL ? why : "";
    for (uint32_t i = 0; service != NULL && i < count; i++) {
        if (slice_is(names[i], service))
            return &names[i];
    }
    return NULL;
}

/* One question has many answers; without one, each line of standard input is one. */
static const char *method_of_model(const struct grpc_call *g)
{
    if (!g->is_stream)
        return "Predict";
    return options_is_set(g->o, OPT_DATA) || g->o->fields_count > 0 ? "PredictStream"
                                                                   : "PredictSession";
}

static enum err_code choose_model(struct grpc_call *g, struct err *err)
{
    const struct slice *names, *found;
    const char *why = "";
    uint32_t count;

    TRY(reflect_services(g->reflect, &names, &count, err));
    found = find_service(g, names, count);
    if (found == NULL)
        found = find_described(g, names, count, &why);
    if (found == NULL)
        return refuse_service(g, names, count, why, err);
    g->is_model = true;
    g->service = (const char *)found->data;
    g->path = arena_printf(g->arena, "/%s/%s", g->service, method_of_model(g));
    return g->path == NULL ? err_set(err, E_EXHAUSTED, "no memory for a call") : OK;
}

/* "package.Service/Method", also with a slash in front, or with a point in place of the slash. */
static enum err_code choose_method(struct grpc_call *g, struct err *err)
{
    const char *word = g->call->model + (g->call->model[0] == '/');
    const char *cut = strrchr(word, '/');

    if (cut == NULL || cut == word || cut[1] == '\0' || strchr(word, '/') != cut)
        return err_set(err, E_INVALID,
                       "'%.200s' is no method: package.Service/Method would be one, such as "
                       "inference.GRPCInferenceService/ServerLive",
                       g->call->model);
    g->service = arena_strndup(g->arena, word, (size_t)(cut - word));
    g->path = arena_printf(g->arena, "/%s", word);
    if (g->service == NULL || g->path == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a call");
    g->is_model = strncmp(g->service, package, sizeof package - 1) == 0;
    return OK;
}

static enum err_code refuse_method(const struct proto_service *service, const char *name,
                                   struct err *err)
{
    struct nearest nearest = nearest_to(slice_of(name));
    char list[500] = "";
    size_t at = 0;

    for (uint32_t i = 0; i < proto_service_methods(service); i++) {
        const char *other = proto_service_method(service, i).name;
        nearest_offer(&nearest, other);
        if (at + 80 < sizeof list)
            at +=
                (size_t)snprintf(list + at, sizeof list - at, "%s%.60s", i == 0 ? "" : ", ", other);
    }
    const char *best = nearest_best(&nearest);
    return err_set(err, E_NOT_FOUND, "the service has no method '%.100s'%s%s%s; it has %s", name,
                   best != NULL ? "; did you mean " : "", best != NULL ? best : "",
                   best != NULL ? "?" : "", list[0] != '\0' ? list : "none");
}

static enum err_code find_method(struct grpc_call *g, struct err *err)
{
    const char *name = strrchr(g->path, '/') + 1;

    if (reflect_schema(g->reflect, g->service, &g->schema, err) != OK) {
        err->code = err->code == E_INVALID ? E_DATA_LOSS : err->code; /* the server's, not ours */
        return err->code;
    }
    const struct proto_service *service = proto_service_find(g->schema, g->service);
    if (service == NULL)
        return err_set(err, E_NOT_FOUND, "'%s' is no service", g->service);
    bool is_found = false;
    for (uint32_t i = 0; i < proto_service_methods(service) && !is_found; i++) {
        g->method = proto_service_method(service, i);
        is_found = strcmp(g->method.name, name) == 0;
    }
    if (!is_found)
        return refuse_method(service, name, err);
    if (!g->is_stream && (g->method.client_streams || g->method.server_streams))
        return err_set(err, E_INVALID,
                       "%s/%s is a stream (%s): add --stream%s", g->service, name,
                       g->method.client_streams && g->method.server_streams ? "both ways"
                       : g->method.client_streams                           ? "of requests"
                                                                            : "of answers",
                       g->method.client_streams ? ", and write one request a line" : "");
    return OK;
}

/* -- what is sent ------------------------------------------------------------------------------ */

/* name NULL: nothing was given at all. */
static enum err_code refuse_field(struct grpc_call *g, const char *name, struct err *err)
{
    struct nearest nearest = nearest_to(slice_of(name == NULL ? "" : name));
    char list[400] = "";
    size_t at = 0;
    bool is_first = true;

    for (uint32_t i = 0; i < proto_type_fields(g->method.input); i++) {
        struct proto_field f = proto_type_field(g->method.input, i);
        if (g->is_model && f.number >= 1000)
            continue;
        nearest_offer(&nearest, f.name);
        if (at + 80 < sizeof list)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s--%.60s", is_first ? "" : ", ",
                                   f.name);
        is_first = false;
    }
    for (uint32_t i = 0; i < OPT_IDS; i++) {
        if (option_rows[i].verbs & VERB_CALL)
            nearest_offer(&nearest, option_rows[i].name);
    }
    if (name == NULL) {
        err_set(err, E_INVALID, "no input is given; %s takes %s", g->call->model, list);
        (void)describe(g);
        call_add_example(g->call, err);
        return E_INVALID;
    }
    const char *best = nearest_best(&nearest);
    return err_set(err, E_INVALID, "%s has no field '%s'%s%s%s; its fields are %s",
                   proto_type_name(g->method.input), name, best != NULL ? "; did you mean --" : "",
                   best != NULL ? best : "", best != NULL ? "?" : "",
                   list[0] != '\0' ? list : "none");
}

static bool is_text(const struct proto_field *f)
{
    return f->kind == PROTO_STRING;
}

/* The field of that name, or of the input whose tensor has that name: the model's description says
 * which it is. */
static bool find_input(struct grpc_call *g, const char *name, struct proto_field *ret)
{
    size_t at, count;
    yyjson_val *input;

    if (twin_field(g->method.input, slice_of(name), ret))
        return !g->is_model || ret->number < 1000;
    if (!g->is_model)
        return false;
    yyjson_arr_foreach(yyjson_obj_get(describe(g), "inputs"), at, count, input)
    {
        const char *tensor = yyjson_get_str(yyjson_obj_get(input, "tensor"));
        const char *own = yyjson_get_str(yyjson_obj_get(input, "name"));
        if (tensor != NULL && own != NULL && strcmp(tensor, name) == 0)
            return twin_field(g->method.input, slice_of(own), ret) && ret->number < 1000;
    }
    return false;
}

/* Enough of one that a reader of JSON says what is wrong with it; the rest is text, which it names. */
static bool looks_like_number(struct slice word)
{
    if (word.size == 0 || (word.data[0] != '-' && (word.data[0] < '0' || word.data[0] > '9')))
        return false;
    for (size_t i = 1; i < word.size; i++)
        if (memchr("0123456789.eE+-", word.data[i], 15) == NULL)
            return false;
    return true;
}

/* A word as JSON, by the type of its field. */
static void put_word(struct text *out, const struct proto_field *f, struct slice word)
{
    static const char *const plain[] = { "true", "false", "null" };
    struct slice trimmed = slice_trim(word);
    bool is_number = looks_like_number(trimmed), is_plain = false;

    for (size_t i = 0; i < COUNT(plain); i++)
        is_plain |= slice_is(trimmed, plain[i]);
    if (!is_text(f) && f->kind != PROTO_BYTES && (is_number || is_plain))
        text_slice_put(out, trimmed);
    else
        text_json(out, is_text(f) ? word : trimmed);
}

/* Items between commas: 5.1,3.5,1.4. */
static void put_list(struct text *out, const struct proto_field *f, struct slice words)
{
    text_byte(out, '[');
    for (bool is_first = true; words.size > 0 || is_first; is_first = false) {
        size_t size = slice_find(words, ',');
        text_str(out, is_first ? "" : ",");
        put_word(out, f, slice_first(words, size));
        words = slice_skip(words, MIN(size + 1, words.size));
    }
    text_byte(out, ']');
}

/* Of a model one value of each row is a field without `repeated`: 1,2 for it is of two rows, as over REST. */
static void put_value(struct text *out, const struct grpc_call *g, const struct proto_field *f,
                      struct slice value)
{
    struct slice trimmed = slice_trim(value);
    bool is_json = trimmed.size > 0 && (trimmed.data[0] == '[' || trimmed.data[0] == '{');
    bool is_rows = g->is_model && f->kind != PROTO_BYTES && slice_find(trimmed, ',') < trimmed.size;

    if (is_json && (!is_text(f) || f->is_repeated))
        text_slice_put(out, trimmed);
    else if ((f->is_repeated || f->message != NULL || is_rows) && !is_text(f))
        put_list(out, f, trimmed);
    else
        put_word(out, f, value);
}

static enum err_code put_fields(struct grpc_call *g, struct err *err)
{
    text_byte(&g->rest, '{');
    for (uint32_t i = 0; i < g->o->fields_count; i++) {
        const struct option_field *given = &g->o->fields[i];
        struct proto_field f;
        struct slice value;
        if (!find_input(g, given->name, &f))
            return refuse_field(g, given->name, err);
        for (uint32_t j = 0; j < i; j++) {
            struct proto_field other;
            if (find_input(g, g->o->fields[j].name, &other) && other.number == f.number)
                return err_set(err, E_INVALID, "--%s is given twice", given->name);
        }
        TRY(call_read_value(g->call, given->value, &value, err));
        text_str(&g->rest, i == 0 ? "" : ",");
        text_json(&g->rest, slice_of(f.json_name));
        text_byte(&g->rest, ':');
        put_value(&g->rest, g, &f, value);
    }
    text_byte(&g->rest, '}');
    return OK;
}

/* {"top":3,"outputs":["a"],"precision":4}: what the query says over REST. */
static enum err_code make_options(const struct grpc_call *g, struct text *out, struct err *err)
{
    const struct options *o = g->o;

    if (options_flag(o, OPT_RAW))
        return err_set(
            err, E_INVALID,
            "--raw has no form over gRPC; inference.GRPCInferenceService/ModelInfer gives "
            "tensors as they are");
    text_byte(out, '{');
    if (options_number(o, OPT_TOP) > 0)
        text_printf(out, "\"top\":%llu,", (unsigned long long)options_number(o, OPT_TOP));
    if (options_is_set(o, OPT_OUTPUTS)) {
        struct slice left = slice_of(options_text(o, OPT_OUTPUTS));
        text_str(out, "\"outputs\":[");
        for (bool is_first = true; left.size > 0; is_first = false) {
            size_t size = slice_find(left, ',');
            text_str(out, is_first ? "" : ",");
            text_json(out, slice_trim(slice_first(left, size)));
            left = slice_skip(left, MIN(size + 1, left.size));
        }
        text_str(out, "],");
    }
    if (options_is_set(o, OPT_PRECISION)) {
        const char *precision = options_text(o, OPT_PRECISION);
        if (strcmp(precision, "full") == 0)
            text_str(out, "\"full_precision\":true,");
        else
            text_printf(out, "\"precision\":%.20s,", precision);
    }
    if (out->size == 1) {
        out->size = 0;
        return OK;
    }
    out->data[out->size - 1] = '}';
    return OK;
}

static enum err_code refuse_options(const struct grpc_call *g, struct err *err)
{
    static const enum option_id ids[] = { OPT_TOP, OPT_OUTPUTS, OPT_PRECISION, OPT_RAW,
                                          OPT_MODEL_VERSION };

    for (size_t i = 0; i < COUNT(ids) && !g->is_model; i++) {
        if (options_is_set(g->o, ids[i]))
            return err_set(err, E_INVALID, "--%s is for models, and %s is a method",
                           option_rows[ids[i]].name, g->call->model);
    }
    return OK;
}

static enum err_code make_request(struct grpc_call *g, struct slice *ret, struct err *err)
{
    struct slice value;

    TRY(refuse_options(g, err));
    if (options_is_set(g->o, OPT_DATA)) {
        if (g->o->fields_count > 0)
            return err_set(err, E_INVALID, "-d is the whole body; --%s has no place beside it",
                           g->o->fields[0].name);
        TRY(call_read_value(g->call, options_text(g->o, OPT_DATA), &value, err));
        text_slice_put(&g->rest, slice_trim(value).size > 0 ? slice_trim(value) : slice_of("{}"));
    } else {
        if (g->is_model && g->o->fields_count == 0)
            return refuse_field(g, NULL, err);
        TRY(put_fields(g, err));
    }
    if (text_failed(&g->rest))
        return err_set(err, E_RANGE, "the inputs are larger than %d bytes", CALL_BODY_BYTES_MAX);
    return grpc_call_message(g, text_slice(&g->rest), ret, err);
}

enum err_code grpc_call_message(struct grpc_call *g, struct slice rest, struct slice *ret,
                                struct err *err)
{
    struct proto_message *message;
    char bytes[2048];
    struct text options;

    text_init_fixed(&options, bytes, sizeof bytes);
    if (g->is_model)
        TRY(make_options(g, &options, err));
    enum err_code code = OK;
    if (g->is_model)
        code = twin_request(&g->proto, g->method.input, rest, text_slice(&options), err);
    else
        text_slice_put(&g->proto, rest);
    if (code == OK && proto_from_json(&message, g->messages, g->method.input, g->schema,
                                      text_slice(&g->proto), err) != OK)
        code = err_wrap(err, "%s", proto_type_name(g->method.input));
    if (code == OK)
        code = proto_encode(message, ret, err);
    /* A value that the message does not take is what a server refuses over REST: no matter of the command line. */
    if (code == E_INVALID)
        code = err->code = E_PRECONDITION;
    return code;
}

/* -- metadata ---------------------------------------------------------------------------------- */

static enum err_code make_metadata(struct grpc_call *g, struct err *err)
{
    const struct option_value *given = &g->o->values[OPT_METADATA];

    if (given->items_count > CALL_METADATA_ITEMS_MAX)
        return err_set(err, E_INVALID, "--metadata: more than %d", CALL_METADATA_ITEMS_MAX);
    for (uint32_t i = 0; i < given->items_count; i++) {
        struct slice item = slice_of(given->items[i]);
        size_t cut = slice_find(item, '=');
        char *key = arena_strndup(g->arena, item.data, cut);
        if (key == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for metadata");
        if (cut == 0 || cut == item.size)
            return err_set(err, E_INVALID, "--metadata takes KEY=VALUE; '%.100s' is none",
                           given->items[i]);
        for (char *c = key; *c != '\0'; c++)
            *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
        g->metadata[g->metadata_count++] =
            (struct client_header){ key, (const char *)item.data + cut + 1 };
    }
    if (ask_traceparent() != NULL)
        g->metadata[g->metadata_count++] =
            (struct client_header){ "traceparent", ask_traceparent() };
    if (g->is_model && options_number(g->o, OPT_MODEL_VERSION) > 0) {
        char *version = arena_printf(g->arena, "%llu",
                                     (unsigned long long)options_number(g->o, OPT_MODEL_VERSION));
        if (version == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for metadata");
        g->metadata[g->metadata_count++] = (struct client_header){ "model-version", version };
    }
    return OK;
}

/* -- the answer -------------------------------------------------------------------------------- */

/* The message as JSON: the typed route's own form, else protobuf's. */
enum err_code grpc_call_answer(struct grpc_call *g, struct slice bytes, struct text *out,
                               struct err *err)
{
    struct proto_message *message;
    struct text json;

    TRY(proto_decode(&message, g->messages, g->method.output, bytes, err));
    if (!g->is_model)
        return proto_to_json(message, g->schema, out, err);
    text_init(&json, CALL_BODY_BYTES_MAX);
    enum err_code code = proto_to_json(message, g->schema, &json, err);
    if (code == OK)
        code = twin_answer(out, g->method.output, text_slice(&json), err);
    text_deinit(&json);
    return code;
}

enum err_code grpc_call_refusal(const struct grpc_client_status *reply, struct err *err)
{
    struct err status = *err;
    const struct grpc_details *details = &reply->details;

    if (!reply->is_servers)
        return ask_advise(status.code, err);
    err_set(err, status.code, "%s: %s", err_name(status.code),
            status.text[0] != '\0' ? status.text : "(the server gives no reason)");
    bool names_field =
        reply->has_details && details->field.size > 0 &&
        memmem(status.text, strlen(status.text), details->field.data, details->field.size) == NULL;
    if (names_field) {
        size_t at = strlen(err->text);
        snprintf(err->text + at, sizeof err->text - at, " (field %.*s)",
                 SLICE_ARG(slice_first(details->field, 100)));
    }
    if (reply->has_details && details->has_retry) {
        size_t at = strlen(err->text);
        snprintf(err->text + at, sizeof err->text - at, "; try again in %.3g s",
                 (double)details->retry_after_ms / 1e3);
    }
    /* The server's INVALID_ARGUMENT is an answer; the command line was one that could be sent. */
    return status.code == E_INVALID ? E_UNKNOWN : status.code;
}

/* A request that a model refuses has the same help as over REST. */
static enum err_code refuse_reply(struct grpc_call *g, const struct client_reply *reply,
                                  struct err *err)
{
    bool is_input = reply->status.is_servers && err->code == E_INVALID;
    enum err_code code = grpc_call_refusal(&reply->status, err);

    if (g->is_model && is_input && !options_is_set(g->o, OPT_DATA)) {
        (void)describe(g);
        call_add_example(g->call, err);
    }
    return code;
}

static struct slice server_timing(const struct client_reply *reply)
{
    struct slice value = { NULL, 0 };

    if (reply->answer != NULL)
        value = answer_trailer(reply->answer, "server-timing");
    if (reply->answer != NULL && value.data == NULL)
        value = answer_header(reply->answer, "server-timing");
    return value;
}

enum encoding grpc_call_sends(const struct options *o)
{
    /* In the order of the option's words. */
    static const enum encoding encodings[] = { ENCODING_IDENTITY, ENCODING_GZIP, ENCODING_DEFLATE };

    return encodings[options_number(o, OPT_COMPRESS)];
}

static enum err_code exchange(struct grpc_call *g, struct slice message, struct text *answer,
                              struct err *err)
{
    CLEANUP(client_reply_free) struct client_reply *reply = NULL;
    struct client *client = g->call->view != NULL ? g->caller : g->call->client;
    struct client_grpc_request request = { .path = g->path,
                                           .metadata = g->metadata,
                                           .metadata_count = g->metadata_count,
                                           .messages = &message,
                                           .messages_count = 1,
                                           .sends = grpc_call_sends(g->o) };

    enum err_code code = client_grpc(client, &request, &reply, err);
    if (g->call->view != NULL)
        wire_view_end(g->call->view, client_times(client));
    if (options_flag(g->o, OPT_TIMING) && reply != NULL)
        call_say_timing(client, server_timing(reply));
    if (code != OK)
        return reply == NULL ? ask_advise(code, err) : refuse_reply(g, reply, err);
    if (reply->messages_count != 1)
        return err_set(err, E_DATA_LOSS, "%u messages came back, where one was to come",
                       reply->messages_count);
    code = grpc_call_answer(g, buf_bytes(reply->messages[0]), answer, err);
    if (code == E_INVALID) {
        err->code = E_DATA_LOSS;
        return err_wrap(err, "the answer cannot be read");
    }
    return code;
}

/* -- --wire ------------------------------------------------------------------------------------ */

static enum err_code open_view(struct grpc_call *g, struct err *err)
{
    if (!options_flag(g->o, OPT_WIRE))
        return OK;
    struct wire_view_settings settings = { .http2 = true,
                                           .is_grpc = true,
                                           .has_colour = print_has_colour(STDERR_FILENO),
                                           .columns = print_columns(STDERR_FILENO),
                                           .title = g->path + 1,
                                           .server = client_url(g->call->client)->shown,
                                           .schema = g->schema,
                                           .request = g->method.input,
                                           .response = g->method.output };
    TRY(wire_view_new(&g->call->view, &settings, err));
    return ask_open_as(&g->caller, g->o, true, wire_view_tap(g->call->view), err);
}

static void say_view(struct grpc_call *g, struct slice answer)
{
    if (g->call->view == NULL)
        return;
    client_free(&g->caller); /* what it says when it leaves is on the wire as well */
    wire_view_say(g->call->view, text_slice(g->is_model ? &g->rest : &g->proto), answer);
}

/* -- all of it --------------------------------------------------------------------------------- */

static enum err_code run(struct grpc_call *g, struct text *answer, struct err *err)
{
    struct slice message;
    enum err_code code;

    TRY(ask_open_as(&g->call->client, g->o, true, NULL, err));
    TRY(reflect_new(&g->reflect, g->call->client, err));
    code = strchr(g->call->model, '/') != NULL ? choose_method(g, err) : choose_model(g, err);
    if (code == OK)
        code = find_method(g, err);
    if (code != OK)
        return ask_advise(code, err);
    bool has_lines = g->method.client_streams && !options_is_set(g->o, OPT_DATA) &&
                     g->o->fields_count == 0;
    message = slice_of("");
    if (!has_lines)
        TRY(make_request(g, &message, err));
    else
        TRY(refuse_options(g, err));
    TRY(make_metadata(g, err));
    if (g->is_stream)
        return call_stream(g, has_lines ? NULL : &message, err);
    TRY(open_view(g, err));
    code = exchange(g, message, answer, err);
    say_view(g, text_slice(answer));
    return code;
}

enum err_code call_run_grpc(struct call *call, struct err *err)
{
    struct grpc_call g = { .call = call,
                           .o = call->options,
                           .is_stream = options_flag(call->options, OPT_STREAM) };
    struct text answer;

    g.arena = arena_new(4096, ARENA_BYTES_MAX);
    g.messages = proto_arena_new();
    text_init(&g.rest, CALL_BODY_BYTES_MAX);
    text_init(&g.proto, CALL_BODY_BYTES_MAX);
    text_init(&answer, CALL_BODY_BYTES_MAX);
    enum err_code code = g.arena == NULL || g.messages == NULL
                             ? err_set(err, E_EXHAUSTED, "no memory for a call")
                             : run(&g, &answer, err);
    if (code == OK && !g.is_stream && !call_say_answer(call->options, text_slice(&answer)))
        code = err_set(err, E_UNKNOWN, "cannot write the answer");
    client_free(&g.caller);
    reflect_free(&g.reflect);
    proto_arena_free(&g.messages);
    arena_free(&g.arena);
    text_deinit(&g.rest);
    text_deinit(&g.proto);
    text_deinit(&answer);
    return code;
}
