/* typed.c - POST /models/{model}:predict, and what there is to call: GET /models.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Fields, rows and roles are contract/typed.h; here are the bodies they come in. curl -d says
 * application/x-www-form-urlencoded whatever it sends, so a body of that type which begins as JSON
 * is JSON.
 */
#include "api/typed.h"

#include <stdio.h>

#include "api/infer.h"
#include "api/reply.h"
#include "base/buf.h"
#include "base/mem.h"
#include "contract/typed_proto.h"
#include "repository/repository.h"
#include "wire/multipart.h"

enum { ARENA_ANSWER_MAX = 3072, USUAL_BYTES = 1024, FORM_FIELDS_MAX = 4096, MEDIA_UNSUPPORTED = 415 };

static const char json_type[] = "application/json";

struct typed_call {
    struct infer infer;
    const struct typed_plan *plan;
    struct typed_query query;
    struct typed_reader reader;
    uint16_t status; /* of a failure, where the code does not say it */
};

static void release_plan(void *plan)
{
    typed_plan_free(plan);
}

enum err_code typed_plan_of(struct model *model, const struct typed_plan **ret, struct err *err)
{
    struct typed_plan *plan = model_attached(model, ATTACHMENT_TYPED);

    if (UNLIKELY(plan == NULL)) {
        TRY(typed_plan_new(&plan, model_name(model), model_signature(model), err));
        plan->takes_stream = model_takes_stream(model);
        plan->answers_many = plan->takes_stream || model_is_decoupled(model);
        plan = model_attach(model, ATTACHMENT_TYPED, plan, release_plan);
    }
    *ret = plan;
    return OK;
}

/* -- bodies ------------------------------------------------------------------------------------ */

static struct slice media_type(struct slice content_type)
{
    return slice_trim(slice_first(content_type, slice_find(content_type, ';')));
}

static bool is_json_type(struct slice type)
{
    if (type.size == 0 || slice_is_nocase(type, "application/json") ||
        slice_is_nocase(type, "text/json"))
        return true;
    return type.size > 5 && slice_is_nocase(slice_skip(type, type.size - 5), "+json");
}

static bool begins_as_json(struct slice body)
{
    size_t at = 0;

    while (at < body.size && (body.data[at] == ' ' || body.data[at] == '\t' ||
                              body.data[at] == '\r' || body.data[at] == '\n'))
        at++;
    return at < body.size && (body.data[at] == '{' || body.data[at] == '[' || body.data[at] == '"');
}

static enum err_code read_form(struct typed_call *call, struct slice body, struct err *err)
{
    for (unsigned count = 0;; count++) {
        struct slice name, value;
        bool more;
        TRY(typed_pair_next(&body, call->infer.x->arena, &more, &name, &value, err));
        if (!more)
            return OK;
        if (count == FORM_FIELDS_MAX)
            return err_set(err, E_INVALID, "a form of more than %d fields", FORM_FIELDS_MAX);
        TRY(typed_read_text(&call->reader, name, value, err));
    }
}

static bool is_npy(struct slice bytes)
{
    return slice_starts(bytes, "\x93NUMPY");
}

static bool is_npy_type(struct slice type)
{
    return slice_is_nocase(type, "application/x-npy") || slice_is_nocase(type, "application/npy") ||
           slice_is_nocase(type, "application/x-numpy");
}

static bool is_file_type(struct slice type)
{
    return type.size != 0 && !slice_is_nocase(type, "text/plain");
}

static enum err_code read_part(struct typed_call *call, const struct multipart_part *part,
                               struct err *err)
{
    struct typed_reader *r = &call->reader;
    struct slice type = media_type(part->content_type);

    if (is_npy_type(type) || (is_npy(part->body) && part->filename.data != NULL))
        return typed_read_npy(r, part->name, part->body, err);
    if (type.size != 0 && is_json_type(type))
        return typed_read_value(r, part->name, part->body, err);
    if (is_file_type(type))
        return typed_read_bytes(r, part->name, part->body, err);
    return typed_read_text(r, part->name, part->body, err);
}

static enum err_code read_multipart(struct typed_call *call, struct slice body, struct err *err)
{
    static const struct multipart_limits limits = { .parts_max = FORM_FIELDS_MAX,
                                                    .header_bytes_max = 8192 };
    struct multipart_part part;
    struct multipart parts;
    struct slice boundary;
    bool more;

    TRY(multipart_boundary(&boundary, call->infer.headers.content_type, err));
    TRY(multipart_init(&parts, body, boundary, &limits, call->infer.x->arena, err));
    for (;;) {
        TRY(multipart_next(&parts, &part, &more, err));
        if (!more)
            return OK;
        TRY(read_part(call, &part, err));
    }
}

/* The input that declares this content type, or NULL. */
static const struct signature_tensor *input_of_type(const struct typed_plan *plan,
                                                    struct slice type)
{
    for (uint32_t i = 0; i < plan->inputs_count; i++) {
        const struct signature_tensor *t = plan->inputs[i].tensor;
        if (t->content_type != NULL && slice_is_nocase(type, t->content_type))
            return t;
    }
    return NULL;
}

static COLD enum err_code unsupported(struct typed_call *call, struct slice type, struct err *err)
{
    const struct typed_plan *plan = call->plan;
    char more[160] = "";

    if (plan->only_input >= 0) {
        const struct signature_tensor *t = plan->inputs[plan->only_input].tensor;
        snprintf(more, sizeof more, ", application/x-npy, application/octet-stream%s%s%s",
                 t->dtype == PENSTOCK_BYTES ? ", text/plain" : "",
                 t->content_type != NULL ? ", " : "",
                 t->content_type != NULL ? t->content_type : "");
    }
    call->status = MEDIA_UNSUPPORTED;
    return err_set(err, E_INVALID,
                   "content type '%.*s' is not taken by model '%s'; it takes application/json, "
                   "forms (urlencoded or multipart)%s",
                   SLICE_ARG(slice_first(type, 80)), plan->model, more);
}

/* A body that is the one input's value. */
static enum err_code read_raw(struct typed_call *call, struct slice type, struct slice body,
                              struct err *err)
{
    const struct typed_plan *plan = call->plan;
    const struct signature_tensor *t = input_of_type(plan, type);

    if (t == NULL && plan->only_input >= 0)
        t = plan->inputs[plan->only_input].tensor;
    if (t == NULL)
        return unsupported(call, type, err);
    struct slice name = slice_of(t->name);
    if (is_npy_type(type) || (slice_is_nocase(type, "application/octet-stream") && is_npy(body)))
        return typed_read_npy(&call->reader, name, body, err);
    if (t->content_type != NULL && slice_is_nocase(type, t->content_type))
        return typed_read_bytes(&call->reader, name, body, err);
    if (slice_is_nocase(type, "application/octet-stream"))
        return typed_read_bytes(&call->reader, name, body, err);
    if (slice_is_nocase(type, "text/plain") && t->dtype == PENSTOCK_BYTES)
        return typed_read_bytes(&call->reader, name, body, err);
    return unsupported(call, type, err);
}

static HOT enum err_code read_body(struct typed_call *call, struct slice body, struct err *err)
{
    struct slice type = media_type(call->infer.headers.content_type);

    if (LIKELY(is_json_type(type)))
        return typed_read_json(&call->reader, body, err);
    if (slice_is_nocase(type, "application/x-www-form-urlencoded"))
        return begins_as_json(body) ? typed_read_json(&call->reader, body, err)
                                    : read_form(call, body, err);
    if (slice_is_nocase(type, "multipart/form-data"))
        return read_multipart(call, body, err);
    return read_raw(call, type, body, err);
}

/* -- the call ---------------------------------------------------------------------------------- */

static COLD enum err_code one_response_only(const struct infer *infer, struct err *err)
{
    return err_set(err, E_UNIMPLEMENTED,
                   "model '%s' answers with any number of responses: ask for a stream of them with "
                   "the header 'accept: text/event-stream' or 'accept: application/x-ndjson' (curl "
                   "-N -H ...; penstock call %s --stream)",
                   model_name(infer->model), model_name(infer->model));
}

static enum err_code begin(struct infer *infer, struct err *err)
{
    struct typed_call *call = (struct typed_call *)infer;
    struct slice query = infer->x->query;
    enum events_form form;

    if (UNLIKELY(infer->headers.accept.data != NULL &&
                 events_wanted(infer->headers.accept, &form))) {
        TRY(infer_stream(infer, form, err));
        TRY(infer_stream_query(infer, &query, err));
    } else if (UNLIKELY(model_is_decoupled(infer->model))) {
        return one_response_only(infer, err);
    }
    TRY(typed_plan_of(infer->model, &call->plan, err));
    return typed_query_read(&call->query, call->plan, query, infer->x->arena, err);
}

static HOT enum err_code decode(struct infer *infer, struct slice body, struct err *err)
{
    struct typed_call *call = (struct typed_call *)infer;
    struct request *request = infer->request;

    TRY(typed_read_begin(&call->reader, call->plan, infer->x->arena, infer->x->budget, err));
    TRY(read_body(call, body, err));
    TRY(typed_read_end(&call->reader, request->inputs, request->has_input, err));
    typed_read_rest(call->plan, request->inputs, request->has_input);
    typed_query_wants(&call->query, call->plan, request->wants);
    if (UNLIKELY(infer->stream != NULL) && call->reader.is_list && call->plan->has_batch &&
        !model_is_decoupled(infer->model))
        infer->rows_apart = call->reader.rows;
    return OK;
}

static HOT enum err_code encode(struct infer *infer, struct err *err)
{
    struct typed_call *call = (struct typed_call *)infer;
    struct exchange *x = infer->x;
    CLEANUP(buf_unref) struct buf *buf = NULL;
    const struct response_output *outputs = infer->response->outputs;
    struct header headers[INFER_HEADERS_MAX];
    uint64_t rows = call->reader.rows;
    struct text out;
    size_t bound = typed_answer_bound(call->plan, &call->query, rows, outputs);

    bound += bound != SIZE_MAX; /* the line's end */

    if (LIKELY(bound <= ARENA_ANSWER_MAX)) {
        text_init_arena(&out, x->arena, bound);
    } else {
        TRY(buf_new(&buf, x->budget, bound, err));
        text_init_fixed(&out, buf_fill(buf), bound);
    }
    TRY(typed_write(&out, call->plan, &call->query, rows, call->reader.is_list, outputs, x->arena,
                    err));
    text_byte(&out, '\n'); /* for who reads it in a terminal */
    if (text_failed(&out))
        return err_set(err, E_EXHAUSTED, "no memory for the answer; retry later");
    if (buf != NULL)
        buf_trim(buf, out.size);
    infer_timing(infer);
    uint32_t count = infer_answer_headers(infer, headers, json_type, NULL);
    exchange_respond(x, 200, headers, count, (int64_t)out.size);
    exchange_send(x, text_slice(&out), buf);
    exchange_end(x);
    return OK;
}

/* -- events ------------------------------------------------------------------------------------- */

/* A model that answers with any number of responses need not keep to the rows of the question: what
 * has several is a list. */
static uint64_t rows_of(const struct infer *infer, const struct response *response,
                        bool *ret_is_list)
{
    const struct typed_call *call = (const struct typed_call *)infer;
    const struct typed_plan *plan = call->plan;

    *ret_is_list = call->reader.is_list && infer->rows_apart == 0;
    if (infer->rows_apart != 0)
        return 1;
    if (!plan->has_batch || !model_is_decoupled(infer->request->model))
        return call->reader.rows;
    for (uint32_t i = 0; i < response->outputs_count; i++) {
        const struct penstock_tensor *t = &response->outputs[i].tensor;
        if (!response->outputs[i].is_set || t->rank == 0)
            continue;
        *ret_is_list |= t->shape[0] != 1;
        return (uint64_t)t->shape[0];
    }
    return call->reader.rows;
}

/* Elements in few bytes, as nearly all are; else what can be. */
static size_t event_bound(struct infer *infer, const struct response *response, bool is_most)
{
    const struct typed_call *call = (const struct typed_call *)infer;
    bool is_list;
    uint64_t rows = rows_of(infer, response, &is_list);
    size_t most = typed_answer_bound(call->plan, &call->query, rows, response->outputs);
    size_t usual = USUAL_BYTES;

    if (is_most || most <= USUAL_BYTES)
        return most;
    for (uint32_t i = 0; i < response->outputs_count; i++)
        if (response->outputs[i].is_set)
            usual += 4 * MIN(response->outputs[i].tensor.size, (size_t)SIZE_MAX / 64);
    return MIN(usual, most);
}

static HOT enum err_code event_write(struct infer *infer, const struct response *response,
                                     struct text *out, struct err *err)
{
    const struct typed_call *call = (const struct typed_call *)infer;
    struct arena *scratch = infer_scratch(infer);
    bool is_list;
    uint64_t rows = rows_of(infer, response, &is_list);

    if (scratch == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for one more response; retry later");
    return typed_write(out, call->plan, &call->query, rows, is_list, response->outputs, scratch,
                       err);
}

static void event_error(struct infer *infer UNUSED, const struct err *err, struct text *out)
{
    text_str(out, "{\"error\":{\"code\":\"");
    text_str(out, err_name(err->code));
    text_str(out, "\",\"message\":");
    text_json(out, slice_of(err->text));
    api_put_retry(out, err);
    text_str(out, "}}");
}

static void fail_call(struct infer *infer, const struct err *err)
{
    struct typed_call *call = (struct typed_call *)infer;
    const struct typed_reader *r = &call->reader;

    api_fail_field(infer->x, call->status, err, r->field,
                   r->shows_example && call->plan != NULL ? call->plan->example : NULL);
}

static const struct infer_dialect typed_dialect = {
    .dialect = DIALECT_TYPED,
    .group = "models",
    .size = sizeof(struct typed_call),
    .begin = begin,
    .decode = decode,
    .encode = encode,
    .fail = fail_call,
    .event_bound = event_bound,
    .event_write = event_write,
    .event_error = event_error,
};

static void predict(struct exchange *x, const struct route_match *match)
{
    infer_begin(x, match, &typed_dialect, match->params[0],
                match->params_count > 1 ? match->params[1] : slice_make("", 0));
}

/* -- what there is to call --------------------------------------------------------------------- */

void typed_put_segment(struct text *out, struct slice name)
{
    static const char hex[] = "0123456789ABCDEF";

    for (size_t i = 0; i < name.size; i++) {
        uint8_t c = name.data[i];
        bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                        (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~';
        if (is_plain) {
            text_byte(out, c);
        } else {
            uint8_t escape[3] = { '%', (uint8_t)hex[c >> 4], (uint8_t)hex[c & 15] };
            text_put(out, escape, sizeof escape);
        }
    }
}

/* Whether the Host a caller sent can stand in a line for a shell. */
static bool is_plain_authority(struct slice authority)
{
    for (size_t i = 0; i < authority.size; i++) {
        uint8_t c = authority.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '-' || c == '.' || c == ':' || c == '[' || c == ']'))
            return false;
    }
    return authority.size != 0;
}

/* A text as one argument of a POSIX shell. */
static void put_argument(struct text *out, const char *argument)
{
    text_byte(out, '\'');
    for (const char *c = argument; *c != '\0'; c++) {
        if (*c == '\'')
            text_str(out, "'\\''");
        else
            text_byte(out, (uint8_t)*c);
    }
    text_byte(out, '\'');
}

/* Who is known by a key or a token is so in the examples too: the shell has it in a variable. */
static void put_key(struct text *out, const struct exchange *x)
{
    if (x->caller != NULL && !caller_is_anonymous(x->caller) && !caller_is_ambient(x->caller))
        text_str(out, "-H \"authorization: Bearer $PENSTOCK_KEY\" ");
}

void typed_put_grpcurl(struct text *out, const struct exchange *x, const struct typed_plan *plan)
{
    if (!typed_proto_takes_example(plan))
        return;
    bool is_tls = exchange_is_https(x);
    text_str(out, is_tls ? "grpcurl " : "grpcurl -plaintext ");
    put_key(out, x);
    text_str(out, "-d ");
    put_argument(out, plan->example);
    text_byte(out, ' ');
    /* It wants a port, also where a browser leaves it out. */
    if (is_plain_authority(x->authority) && slice_find(x->authority, ':') != x->authority.size)
        text_slice_put(out, x->authority);
    else
        text_str(out, "127.0.0.1:8000");
    text_byte(out, ' ');
    text_str(out, typed_proto_service(plan));
    text_str(out, plan->answers_many ? "/PredictStream" : "/Predict");
}

void typed_put_curl(struct text *out, const struct exchange *x, const char *model,
                    const struct typed_plan *plan)
{
    if (plan->example == NULL)
        return;
    text_str(out, plan->answers_many ? "curl -N " : "curl ");
    put_key(out, x);
    if (is_plain_authority(x->authority)) {
        /* curl takes [..] for a range unless told otherwise. */
        if (x->authority.data[0] == '[')
            text_str(out, "-g ");
        text_str(out, x->scheme != NULL ? x->scheme : "http");
        text_str(out, "://");
        text_slice_put(out, x->authority);
    } else {
        text_str(out, "http://127.0.0.1:8000");
    }
    text_str(out, "/models/");
    typed_put_segment(out, slice_of(model));
    text_str(out, plan->answers_many ? ":predict -H 'accept: text/event-stream' -d "
                                     : ":predict -d ");
    put_argument(out, plan->example);
}

static void put_link(struct text *out, const char *before, const char *name, const char *after)
{
    struct text path;

    text_init(&path, 64 << 10);
    text_str(&path, before);
    typed_put_segment(&path, slice_of(name));
    text_str(&path, after);
    if (text_failed(&path))
        text_str(out, "null");
    else
        text_json(out, text_slice(&path));
    text_deinit(&path);
}

static void put_links(struct text *out, const char *name)
{
    text_str(out, ",\"links\":{\"self\":");
    put_link(out, "/models/", name, "");
    text_str(out, ",\"predict\":");
    put_link(out, "/models/", name, ":predict");
    text_str(out, ",\"infer\":");
    put_link(out, "/v2/models/", name, "/infer");
    text_str(out, ",\"contract\":");
    put_link(out, "/models/", name, "/contract.proto");
    text_byte(out, '}');
}

static void put_summary(struct text *out, const struct repository_entry *entry)
{
    const struct typed_plan *plan;
    struct err err = { 0 };

    text_str(out, "{\"name\":");
    text_json(out, slice_of(entry->name));
    text_str(out, ",\"version\":");
    text_json(out, slice_of(entry->version));
    text_str(out, ",\"state\":");
    text_json(out, slice_of(model_state_name(entry->state)));
    if (entry->reason[0] != '\0') {
        text_str(out, ",\"reason\":");
        text_json(out, slice_of(entry->reason));
    }
    if (entry->model != NULL) {
        put_links(out, entry->name);
        if (typed_plan_of(entry->model, &plan, &err) == OK) {
            text_byte(out, ',');
            typed_describe(out, plan);
        }
    }
    text_byte(out, '}');
}

static void list_models(struct exchange *x, const struct route_match *match)
{
    struct repository_snapshot snapshot;
    struct text out;
    bool is_first = true;

    repository_snapshot_take(match->api->repository, &snapshot);
    text_init(&out, REPLY_BYTES_MAX);
    text_str(&out, "{\"models\":[");
    for (uint32_t i = 0; i < snapshot.count; i++) {
        /* Older versions that are served beside the default one are at their own address. */
        if (snapshot.entries[i].model != NULL && !snapshot.entries[i].is_default)
            continue;
        if (!api_shows_model(x, slice_of("models"), slice_of(snapshot.entries[i].name)))
            continue;
        if (!is_first)
            text_byte(&out, ',');
        is_first = false;
        put_summary(&out, &snapshot.entries[i]);
    }
    text_str(&out, "]}\n");
    repository_snapshot_give(&snapshot);
    api_answer_text(x, DIALECT_TYPED, 200, json_type, NULL, 0, &out);
}

/* A line for a shell, where there is one; empties it. */
static void put_line(struct text *out, const char *key, struct text *line)
{
    if (line->size != 0 && !text_failed(line)) {
        text_str(out, key);
        text_json(out, text_slice(line));
    }
    line->size = 0;
}

/* The model that the path names, which *ret_model holds, and its plan; false: it is answered. */
static bool want_plan(struct exchange *x, const struct route_match *match,
                      struct model **ret_model, const struct typed_plan **ret)
{
    struct slice version = match->params_count > 1 ? match->params[1] : slice_make("", 0);
    struct err err = { 0 };

    if (api_want_model(x, match->api, ACCESS_READ, slice_of("models"), ret_model, match->params[0],
                       version, &err) == OK &&
        typed_plan_of(*ret_model, ret, &err) == OK)
        return true;
    api_fail(x, DIALECT_TYPED, 0, &err);
    return false;
}

static void describe_model(struct exchange *x, const struct route_match *match)
{
    CLEANUP(model_unref) struct model *model = NULL;
    const struct typed_plan *plan;
    struct text out, line;

    if (!want_plan(x, match, &model, &plan))
        return;
    text_init(&out, REPLY_BYTES_MAX);
    text_str(&out, "{\"name\":");
    text_json(&out, slice_of(model_name(model)));
    text_str(&out, ",\"version\":");
    text_json(&out, slice_of(model_version_text(model)));
    text_str(&out, ",\"platform\":");
    text_json(&out, slice_of(model_platform(model)));
    put_links(&out, model_name(model));
    text_byte(&out, ',');
    typed_describe(&out, plan);
    text_init(&line, REPLY_BYTES_MAX);
    typed_put_curl(&line, x, model_name(model), plan);
    put_line(&out, ",\"curl\":", &line);
    typed_put_grpcurl(&line, x, plan);
    put_line(&out, ",\"grpcurl\":", &line);
    text_deinit(&line);
    text_str(&out, "}\n");
    api_answer_text(x, DIALECT_TYPED, 200, json_type, NULL, 0, &out);
}

static void contract_of_model(struct exchange *x, const struct route_match *match)
{
    CLEANUP(model_unref) struct model *model = NULL;
    const struct typed_plan *plan;
    struct err err = { 0 };
    struct text out;

    if (!want_plan(x, match, &model, &plan))
        return;
    if (typed_proto_service(plan)[0] == '\0') {
        err_set(&err, E_UNIMPLEMENTED, "model '%s' has no typed gRPC contract: %s",
                model_name(model), typed_proto_why(plan));
        api_fail(x, DIALECT_TYPED, 0, &err);
        return;
    }
    text_init(&out, REPLY_BYTES_MAX);
    typed_proto_text(&out, plan);
    api_answer_text(x, DIALECT_TYPED, 200, "text/plain; charset=utf-8", NULL, 0, &out);
}

#define GET  (1u << METHOD_GET)
#define POST (1u << METHOD_POST)

static const struct route routes[] = {
    { GET, "/models", list_models, DIALECT_TYPED, ACCESS_READ, "models" },
    { GET, "/models/{model}", describe_model, DIALECT_TYPED, ACCESS_READ, "models" },
    { GET, "/models/{model}/versions/{version}", describe_model, DIALECT_TYPED, ACCESS_READ, "models" },
    { GET, "/models/{model}/contract.proto", contract_of_model, DIALECT_TYPED, ACCESS_READ, "models" },
    { GET, "/models/{model}/versions/{version}/contract.proto", contract_of_model, DIALECT_TYPED, ACCESS_READ, "models" },
    { POST, "/models/{model}:predict", predict, DIALECT_TYPED, ACCESS_INFER, "models" },
    { POST, "/models/{model}/versions/{version}:predict", predict, DIALECT_TYPED, ACCESS_INFER, "models" },
};

const struct route_table typed_routes = { routes, COUNT(routes) };
