/* interop.c - grpc.testing.TestService and UnimplementedService, under --test-services: what gRPC's
 * interop clients call (grpc/grpc doc/interop-test-descriptions.md, proto/grpc/testing).
 * SPDX-License-Identifier: Apache-2.0
 *
 * Messages are read and written by hand: bodies are zeros of any size, sent from one block of zeros
 * without being made. A stream of answers stops where its reader does (call_room) and goes on from
 * on_room; the requests of FullDuplexCall are read one at a time, so that who sends and does not read
 * stands still as well. All of it lies in the exchange's arena but for what HalfDuplexCall collects,
 * which is bounded.
 */
#include "api/grpc.h"
#include "base/arena.h"
#include "base/mem.h"
#include "base/pb.h"
#include "base/text.h"
#include "base/utf8.h"
#include "io/loop.h"

enum {
    ZEROS_BYTES = 1 << 20,
    PIECES_FEW = 64,
    COLLECT_BYTES_MAX = 4 << 20, /* HalfDuplexCall's requests together */
    TURN_STEPS = 64,             /* then others have their turn */
};

enum kind { KIND_EMPTY, KIND_UNARY, KIND_OUTPUT, KIND_INPUT, KIND_FULL, KIND_HALF };

struct interop {
    struct call *call;
    const struct api *api;
    enum kind kind;
    bool has_message, was_compressed; /* the first */
    bool is_half_closed, is_answering, is_waiting, has_waited;
    struct slice message;           /* the first; then the one that is answered */
    struct pb_reader answers;       /* of it: those that are left */
    struct slice collected_rest;    /* HALF: requests behind it */
    struct text collected;          /* HALF: each with its size before it */
    uint64_t sum;                   /* INPUT */
    uint64_t type;                  /* the PayloadType that was asked for */
    struct timer timer;
    struct loop_task task;
};

static uint8_t zeros[ZEROS_BYTES]; /* never written to */

/* -- reading -------------------------------------------------------------------------------------- */

static enum err_code damaged(const struct pb_reader *r, const char *what, struct err *err)
{
    return err_set(err, E_INVALID, "%s, byte %zu: %s", what, pb_at(r), r->fault);
}

static enum err_code wrong_wire(const struct pb_field *field, const char *what, struct err *err)
{
    return err_set(err, E_INVALID, "%s: field %u has wire type %d; was the message made for another "
                                   "type?", what, field->number, (int)field->wire);
}

/* BoolValue and other messages of which one varint counts: field 1 or, of Payload, the type. */
static enum err_code read_number(struct slice bytes, const char *what, uint64_t *ret,
                                 struct err *err)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        if (field.number != 1)
            continue;
        if (field.wire != PB_VARINT)
            return wrong_wire(&field, what, err);
        *ret = field.value;
    }
    return pb_failed(&r) ? damaged(&r, what, err) : OK;
}

struct status {
    uint64_t code;
    struct slice message;
};

static enum err_code read_status(struct slice bytes, struct status *ret, struct err *err)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        if (field.number == 1 && field.wire == PB_VARINT)
            ret->code = field.value;
        else if (field.number == 2 && field.wire == PB_LEN)
            ret->message = field.bytes;
        else if (field.number <= 2)
            return wrong_wire(&field, "response_status", err);
    }
    if (pb_failed(&r))
        return damaged(&r, "response_status", err);
    if (ret->code >= ERR_CODE_END)
        return err_set(err, E_INVALID, "response_status.code is %lld; statuses are 0 to %d",
                       (long long)ret->code, ERR_CODE_END - 1);
    if (utf8_valid_prefix(ret->message) != ret->message.size)
        return err_set(err, E_INVALID, "response_status.message is not UTF-8");
    return OK;
}

/* The size of Payload.body. */
static enum err_code read_payload(struct slice bytes, uint64_t *ret_size, struct err *err)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        if (field.number != 2)
            continue;
        if (field.wire != PB_LEN)
            return wrong_wire(&field, "payload", err);
        *ret_size = field.bytes.size;
    }
    return pb_failed(&r) ? damaged(&r, "payload", err) : OK;
}

static enum err_code check_size(const struct interop *i, uint64_t size, struct err *err)
{
    size_t most = i->api->grpc.message_bytes_max;

    if ((int64_t)size < 0)
        return err_set(err, E_INVALID, "an answer of %lld bytes was asked for; it takes 0 or more",
                       (long long)size);
    if (size > most)
        return err_set(err, E_EXHAUSTED,
                       "an answer of %llu bytes was asked for; the most is %zu (%s)",
                       (unsigned long long)size, most, i->api->grpc.option);
    return OK;
}

struct simple_request {
    uint64_t type, size, compressed, expects_compressed;
    bool has_compressed, wants_server;
    struct status status;
};

static enum err_code read_simple(const struct interop *i, struct simple_request *ret,
                                 struct err *err)
{
    struct pb_reader r;
    struct pb_field field;
    uint64_t unused;

    *ret = (struct simple_request){ 0 };
    pb_begin(&r, i->message);
    while (pb_next(&r, &field)) {
        bool is_number = field.number <= 2 || field.number == 4 || field.number == 5 ||
                         field.number == 9;
        if (field.number > 9)
            continue;
        if (field.wire != (is_number ? PB_VARINT : PB_LEN))
            return wrong_wire(&field, "SimpleRequest", err);
        switch (field.number) {
        case 1: ret->type = field.value; break;
        case 2: ret->size = field.value; break;
        case 3: TRY(read_payload(field.bytes, &unused, err)); break;
        case 6:
            ret->has_compressed = true;
            TRY(read_number(field.bytes, "response_compressed", &ret->compressed, err));
            break;
        case 7: TRY(read_status(field.bytes, &ret->status, err)); break;
        case 8:
            TRY(read_number(field.bytes, "expect_compressed", &ret->expects_compressed, err));
            break;
        case 9: ret->wants_server = field.value != 0; break;
        default: break;
        }
    }
    if (pb_failed(&r))
        return damaged(&r, "SimpleRequest", err);
    return check_size(i, ret->size, err);
}

struct answer_parameters {
    uint64_t size, interval_us, compressed;
    bool has_compressed;
};

static enum err_code read_parameters(const struct interop *i, struct slice bytes,
                                     struct answer_parameters *ret, struct err *err)
{
    static const char what[] = "response_parameters";
    struct pb_reader r;
    struct pb_field field;

    *ret = (struct answer_parameters){ 0 };
    pb_begin(&r, bytes);
    while (pb_next(&r, &field)) {
        if (field.number > 3)
            continue;
        if (field.wire != (field.number == 3 ? PB_LEN : PB_VARINT))
            return wrong_wire(&field, what, err);
        if (field.number == 1) {
            ret->size = field.value;
        } else if (field.number == 2) {
            ret->interval_us = field.value;
        } else {
            ret->has_compressed = true;
            TRY(read_number(field.bytes, "compressed", &ret->compressed, err));
        }
    }
    if (pb_failed(&r))
        return damaged(&r, what, err);
    if ((int64_t)ret->interval_us < 0)
        return err_set(err, E_INVALID, "interval_us is %lld; it takes 0 or more",
                       (long long)ret->interval_us);
    return check_size(i, ret->size, err);
}

/* Checks the whole of a StreamingOutputCallRequest, so that what is answered later holds no surprise. */
static enum err_code read_output(struct interop *i, struct status *ret_status, struct err *err)
{
    struct answer_parameters parameters;
    struct pb_reader r;
    struct pb_field field;
    uint64_t unused;

    *ret_status = (struct status){ 0 };
    i->type = 0;
    pb_begin(&r, i->message);
    while (pb_next(&r, &field)) {
        if (field.number > 7 || (field.number > 3 && field.number < 7))
            continue;
        if (field.wire != (field.number == 1 ? PB_VARINT : PB_LEN))
            return wrong_wire(&field, "StreamingOutputCallRequest", err);
        switch (field.number) {
        case 1: i->type = field.value; break;
        case 2: TRY(read_parameters(i, field.bytes, &parameters, err)); break;
        case 3: TRY(read_payload(field.bytes, &unused, err)); break;
        default: TRY(read_status(field.bytes, ret_status, err)); break;
        }
    }
    return pb_failed(&r) ? damaged(&r, "StreamingOutputCallRequest", err) : OK;
}

/* -- answering ------------------------------------------------------------------------------------ */

/* The end of the call in each of its ways: nothing of it may be touched behind this. */
static void stop(struct interop *i)
{
    if (i->timer.slot != 0)
        timer_stop(i->call->x->loop, &i->timer);
    loop_undefer(&i->task);
    text_deinit(&i->collected);
}

static void end(struct interop *i, const struct err *err)
{
    stop(i);
    grpc_end(i->call, err, NULL);
}

static void end_ok(struct interop *i)
{
    struct err ok = { 0 };

    end(i, &ok);
}

static void end_as_asked(struct interop *i, const struct status *status)
{
    struct err err = { 0 };

    err_set(&err, (enum err_code)status->code, "%.*s",
            SLICE_ARG(slice_first(status->message, ERR_TEXT_MAX)));
    stop(i);
    call_end(i->call, &err, NULL);
}

static void echo_metadata(struct call *call)
{
    static const char initial[] = "x-grpc-test-echo-initial";
    static const char trailing[] = "x-grpc-test-echo-trailing-bin";
    struct slice value = call_metadata(call, initial);

    if (value.data != NULL)
        (void)call_metadata_initial(call, initial, value);
    value = call_metadata(call, trailing);
    if (value.data != NULL)
        (void)call_metadata_trailing(call, trailing, value);
}

/* SimpleResponse and StreamingOutputCallResponse: payload = 1; SimpleResponse: server_id = 4. */
static void send_payload(struct interop *i, uint64_t type, size_t size, const char *server,
                         struct call_form form)
{
    struct call_piece few[PIECES_FEW], *pieces = few;
    uint32_t count = 1, wanted = (uint32_t)(size / ZEROS_BYTES) + 3;
    uint8_t head[48], inner[24], tail[80], *at = inner;
    struct err err = { 0 };

    if (type != 0)
        at = pb_put_uint(at, 1, type);
    if (size != 0)
        at = pb_put_head(at, 2, size);
    size_t inner_size = (size_t)(at - inner);
    at = pb_put_head(head, 1, inner_size + size);
    memcpy(at, inner, inner_size);
    if (wanted > PIECES_FEW && (pieces = mem_alloc(wanted * sizeof *pieces)) == NULL) {
        err_set(&err, E_EXHAUSTED, "no memory for the answer; retry later");
        end(i, &err);
        return;
    }
    pieces[0] =
        (struct call_piece){ slice_make(head, (size_t)(at - head) + inner_size), NULL };
    while (size != 0) {
        size_t piece = MIN(size, (size_t)ZEROS_BYTES);
        pieces[count++] = (struct call_piece){ slice_make(zeros, piece), NULL };
        size -= piece;
    }
    if (server[0] != '\0') {
        at = pb_put_bytes(tail, 4, slice_first(slice_of(server), 64));
        pieces[count++] = (struct call_piece){ slice_make(tail, (size_t)(at - tail)), NULL };
    }
    call_send_as(i->call, pieces, count, form);
    if (pieces != few)
        mem_free(pieces);
}

static struct call_form form_of(bool is_asked, uint64_t compressed)
{
    return (struct call_form){ .compress = !is_asked          ? CALL_COMPRESS_AUTO
                                           : compressed != 0 ? CALL_COMPRESS_ALWAYS
                                                             : CALL_COMPRESS_NEVER };
}

static enum err_code expect(uint64_t expects, bool was_compressed, struct err *err)
{
    return expects == 0 || was_compressed
               ? OK
               : err_set(err, E_INVALID, "expect_compressed is true, and the message was not "
                                         "compressed");
}

static void answer_unary(struct interop *i)
{
    struct simple_request request;
    struct err err = { 0 };

    if (read_simple(i, &request, &err) != OK ||
        expect(request.expects_compressed, i->was_compressed, &err) != OK) {
        end(i, &err);
        return;
    }
    echo_metadata(i->call);
    if (slice_is(i->call->method, "CacheableUnaryCall"))
        (void)call_metadata_initial(i->call, "cache-control", slice_of("max-age=60, public"));
    if (request.status.code != 0) {
        end_as_asked(i, &request.status);
        return;
    }
    send_payload(i, request.type, (size_t)request.size,
                 request.wants_server ? i->api->server_name : "",
                 form_of(request.has_compressed, request.compressed));
    if (!i->call->is_over)
        end_ok(i);
}

/* -- streams of answers ----------------------------------------------------------------------------- */

static void go_on(struct interop *i);

static void on_due(struct timer *timer)
{
    struct interop *i = CONTAINER_OF(timer, struct interop, timer);

    i->is_waiting = false;
    i->has_waited = true;
    go_on(i);
}

static void on_turn(struct loop_task *task)
{
    go_on(CONTAINER_OF(task, struct interop, task));
}

/* False: it waits, for the time that was asked for. */
static bool wait_for(struct interop *i, const struct answer_parameters *parameters)
{
    struct loop *loop = i->call->x->loop;
    struct err err = { 0 };

    if (parameters->interval_us == 0 || i->has_waited || loop == NULL) {
        i->has_waited = false;
        return true;
    }
    i->is_waiting = true;
    i->timer.on_due = on_due;
    uint64_t ns = MIN(parameters->interval_us, (uint64_t)INT32_MAX) * 1000;
    if (timer_start(loop, &i->timer, loop_now_ns(loop) + ns, &err) != OK)
        end(i, &err);
    return false;
}

/* Looks at i->message, or, of HALF, at the next that was collected. False: the call has been ended. */
static bool begin_request(struct interop *i)
{
    struct err err = { 0 };
    struct status status;

    if (i->kind == KIND_HALF) {
        uint32_t size;
        memcpy(&size, i->collected_rest.data, sizeof size);
        i->message = slice_first(slice_skip(i->collected_rest, sizeof size), size);
        i->collected_rest = slice_skip(i->collected_rest, sizeof size + size);
    }
    if (read_output(i, &status, &err) != OK) {
        end(i, &err);
        return false;
    }
    if (status.code != 0 && i->kind != KIND_OUTPUT) {
        end_as_asked(i, &status);
        return false;
    }
    i->is_answering = true;
    i->has_waited = false;
    pb_begin(&i->answers, i->message);
    return true;
}

/* All answers of a request are sent. True: there is another one here. */
static bool finish_request(struct interop *i)
{
    i->is_answering = false;
    if (i->kind == KIND_HALF && i->collected_rest.size != 0)
        return begin_request(i);
    if (i->is_half_closed || i->kind != KIND_FULL)
        end_ok(i);
    else
        call_read(i->call);
    return false;
}

/* As many answers as there is time and room for. */
static void go_on(struct interop *i)
{
    struct answer_parameters parameters;
    struct call *call = i->call;
    struct pb_field field;
    struct err err = { 0 };

    for (uint32_t steps = 0; !i->is_waiting; steps++) {
        struct pb_reader before = i->answers;
        if (steps == TURN_STEPS && call->x->loop != NULL) { /* NULL: a test's transport */
            i->task.run = on_turn;
            loop_defer(call->x->loop, &i->task);
            return;
        }
        if (!pb_next(&i->answers, &field)) {
            if (!finish_request(i))
                return;
            continue;
        }
        if (field.number != 2)
            continue;
        enum err_code code = read_parameters(i, field.bytes, &parameters, &err);
        require(code == OK); /* read_output has looked */
        if (call_room(call) == 0 || !wait_for(i, &parameters)) { /* on_room, on_due go on */
            i->answers = before;
            return;
        }
        send_payload(i, i->type, (size_t)parameters.size, "",
                     form_of(parameters.has_compressed, parameters.compressed));
        if (call->is_over)
            return;
    }
}

static void begin_answers(struct interop *i)
{
    if (begin_request(i))
        go_on(i);
}

/* -- streams of requests ---------------------------------------------------------------------------- */

static void add_up(struct interop *i, const struct call_message *message)
{
    uint64_t size = 0, expects = 0;
    struct pb_reader r;
    struct pb_field field;
    struct err err = { 0 };

    pb_begin(&r, message->bytes);
    while (err.code == OK && pb_next(&r, &field)) {
        if (field.number > 2)
            continue;
        if (field.wire != PB_LEN)
            (void)wrong_wire(&field, "StreamingInputCallRequest", &err);
        else if (field.number == 1)
            (void)read_payload(field.bytes, &size, &err);
        else
            (void)read_number(field.bytes, "expect_compressed", &expects, &err);
    }
    if (err.code == OK && pb_failed(&r))
        (void)damaged(&r, "StreamingInputCallRequest", &err);
    i->sum += size;
    if (err.code == OK && i->sum > INT32_MAX)
        err_set(&err, E_RANGE, "the bodies have more than 2 GiB together, more than the answer's "
                               "int32 can say");
    if (err.code != OK || expect(expects, message->was_compressed, &err) != OK)
        end(i, &err);
    else
        call_read(i->call);
}

static void answer_sum(struct interop *i)
{
    uint8_t bytes[16];
    uint8_t *to = i->sum == 0 ? bytes : pb_put_uint(bytes, 1, i->sum);
    struct call_piece piece = { slice_make(bytes, (size_t)(to - bytes)), NULL };

    call_send(i->call, &piece, 1);
    end_ok(i);
}

static void collect(struct interop *i, struct slice message)
{
    uint32_t size = (uint32_t)message.size;
    struct err err = { 0 };

    text_put(&i->collected, &size, sizeof size);
    text_slice_put(&i->collected, message);
    if (text_failed(&i->collected)) {
        err_set(&err, E_EXHAUSTED, "the requests have more than %d MiB together, the most that is "
                                   "kept", COLLECT_BYTES_MAX >> 20);
        end(i, &err);
        return;
    }
    call_read(i->call);
}

/* -- the call's side ------------------------------------------------------------------------------- */

static void on_message(struct call *call, const struct call_message *message)
{
    struct interop *i = call->user_data;

    switch (i->kind) {
    case KIND_INPUT: add_up(i, message); return;
    case KIND_HALF: collect(i, message->bytes); return;
    case KIND_FULL:
        if (!i->has_message)
            echo_metadata(call);
        i->has_message = true;
        i->message = message->bytes; /* stays until the next is asked for */
        begin_answers(i);
        return;
    default: break;
    }
    if (i->has_message) {
        stop(i);
        grpc_end_second_message(call);
        return;
    }
    i->has_message = true;
    i->was_compressed = message->was_compressed;
    i->message = message->bytes;
    call_read(call); /* so that a second one is seen */
}

static void on_half_close(struct call *call)
{
    static const struct slice empty = SLICE_LIT("");
    struct interop *i = call->user_data;

    i->is_half_closed = true;
    switch (i->kind) {
    case KIND_INPUT: answer_sum(i); return;
    case KIND_FULL:
        if (!i->is_answering)
            end_ok(i);
        return;
    case KIND_HALF:
        i->collected_rest = text_slice(&i->collected);
        if (i->collected_rest.size == 0)
            end_ok(i);
        else
            begin_answers(i);
        return;
    default: break;
    }
    if (!i->has_message) {
        stop(i);
        grpc_end_without_message(call);
    } else if (i->kind == KIND_EMPTY) {
        struct call_piece piece = { empty, NULL };
        call_send(call, &piece, 1);
        end_ok(i);
    } else if (i->kind == KIND_UNARY) {
        answer_unary(i);
    } else {
        begin_answers(i);
    }
}

static void on_room(struct call *call)
{
    struct interop *i = call->user_data;

    if (i->is_answering && !i->is_waiting)
        go_on(i);
}

static void on_gone(struct call *call, enum err_code why UNUSED)
{
    stop(call->user_data);
}

static const struct call_user user = {
    .on_message = on_message,
    .on_half_close = on_half_close,
    .on_room = on_room,
    .on_gone = on_gone,
};

static void handle(struct call *call, const struct api *api, enum kind kind)
{
    struct interop *i = arena_zalloc(call->x->arena, sizeof *i);
    struct err err = { 0 };

    if (!api->has_test_services)
        err_set(&err, E_UNIMPLEMENTED,
                "grpc.testing is for tests of clients: a server started with --test-services has "
                "it");
    else if (i == NULL)
        err_set(&err, E_EXHAUSTED, "no memory for the request; retry later");
    if (err.code != OK) {
        grpc_end(call, &err, NULL);
        return;
    }
    i->call = call;
    i->api = api;
    i->kind = kind;
    text_init(&i->collected, COLLECT_BYTES_MAX);
    call->user = &user;
    call->user_data = i;
    call->is_lone |= kind < KIND_INPUT;
    call_read(call);
}

#define METHOD(function, kind)                                      \
    static void function(struct call *call, const struct api *api) \
    {                                                               \
        handle(call, api, kind);                                    \
    }
METHOD(empty_call, KIND_EMPTY)
METHOD(unary_call, KIND_UNARY)
METHOD(streaming_output_call, KIND_OUTPUT)
METHOD(streaming_input_call, KIND_INPUT)
METHOD(full_duplex_call, KIND_FULL)
METHOD(half_duplex_call, KIND_HALF)

static const char never[] = "no server has it, so that clients can test what they make of that";

static const struct grpc_method methods[] = {
    { "EmptyCall", empty_call, NULL, ACCESS_OPEN },
    { "UnaryCall", unary_call, NULL, ACCESS_OPEN },
    { "CacheableUnaryCall", unary_call, NULL, ACCESS_OPEN },
    { "StreamingOutputCall", streaming_output_call, NULL, ACCESS_OPEN },
    { "StreamingInputCall", streaming_input_call, NULL, ACCESS_OPEN },
    { "FullDuplexCall", full_duplex_call, NULL, ACCESS_OPEN },
    { "HalfDuplexCall", half_duplex_call, NULL, ACCESS_OPEN },
    { "UnimplementedCall", NULL, never, ACCESS_OPEN },
};
static const struct grpc_method unimplemented_methods[] = { { "UnimplementedCall", NULL, never, ACCESS_OPEN } };

const struct grpc_service interop_service = {
    .name = "grpc.testing.TestService",
    .methods = methods,
    .methods_count = COUNT(methods),
    .group = "test",
};
const struct grpc_service interop_unimplemented_service = {
    .name = "grpc.testing.UnimplementedService",
    .methods = unimplemented_methods,
    .methods_count = COUNT(unimplemented_methods),
    .group = "test",
};
