/* http2.c - people who speak HTTP/2: REST, gRPC, cancelled calls, deadlines, slow readers.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Frames are nghttp2's, which is a client of its own here; messages are written and read by
 * hand. */
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/sim/people.h"

enum { CALLS_MAX = 16, MESSAGES_MAX = 40 };

enum form {
    FORM_REST,
    FORM_INFER,
    FORM_STREAM,
    FORM_CHAT,
    FORM_DEADLINE,
    FORM_HEALTH,
    FORM_WEB,
    FORMS
};
static const char *const form_names[] = { "h2-rest",      "grpc",          "grpc-stream",
                                          "grpc-session", "grpc-deadline", "grpc-health",
                                          "grpc-web" };

struct h2;

struct stream {
    struct h2 *h2;
    enum form form;
    int32_t id;
    struct ask ask; /* FORM_REST */
    struct bytes out;
    size_t out_at;
    bool is_begun, is_ended, is_cancelled, has_more_to_say, is_early;
    int status, grpc_status;
    struct bytes in, words;
    struct bytes expected[MESSAGES_MAX];
    uint32_t expected_count;
    uint64_t begun_ns;
    uint32_t inputs, inputs_said;
};

struct h2 {
    struct line line; /* first */
    nghttp2_session *session;
    struct stream streams[CALLS_MAX];
    uint32_t count, begun, ended, at_once;
    bool is_done, is_leaver, is_alone, got_goaway, is_failing;
    uint64_t think_ns, take_ns; /* take_ns: windows are given back so much later */
    uint32_t owed;              /* bytes of the connection's window */
};

/* -- protobuf by hand -------------------------------------------------------------------------- */

static void put_varint(struct bytes *out, uint64_t value)
{
    uint8_t byte;

    do {
        byte = (uint8_t)((value & 127) | (value > 127 ? 128 : 0));
        sim_bytes_put(out, &byte, 1);
        value >>= 7;
    } while (value > 0);
}

static void put_field(struct bytes *out, unsigned number, const void *data, size_t size)
{
    put_varint(out, number << 3 | 2);
    put_varint(out, size);
    sim_bytes_put(out, data, size);
}

static void put_text(struct bytes *out, unsigned number, const char *text)
{
    put_field(out, number, text, strlen(text));
}

static bool take_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret)
{
    uint64_t value = 0;

    for (unsigned shift = 0; *at < end && shift < 64; shift += 7) {
        uint8_t byte = *(*at)++;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            *ret = value;
            return true;
        }
    }
    return false;
}

/* The first field of this number with a length; false: there is none, or it is no message. */
static bool find_field(const uint8_t *at, size_t size, unsigned number, const uint8_t **ret,
                       size_t *ret_size)
{
    const uint8_t *end = at + size;
    uint64_t tag, value;

    while (at < end && take_varint(&at, end, &tag)) {
        if ((tag & 7) == 0) {
            if (!take_varint(&at, end, &value))
                return false;
            continue;
        }
        if ((tag & 7) == 2 && take_varint(&at, end, &value) && value <= (uint64_t)(end - at)) {
            if (tag >> 3 == number) {
                *ret = at;
                *ret_size = (size_t)value;
                return true;
            }
            at += value;
        } else if ((tag & 7) == 1 && end - at >= 8) {
            at += 8;
        } else if ((tag & 7) == 5 && end - at >= 4) {
            at += 4;
        } else {
            return false;
        }
    }
    return false;
}

static void put_message(struct bytes *out, const struct bytes *message)
{
    uint8_t head[5] = { 0, (uint8_t)(message->size >> 24), (uint8_t)(message->size >> 16),
                        (uint8_t)(message->size >> 8), (uint8_t)message->size };

    sim_bytes_put(out, head, sizeof head);
    sim_bytes_put(out, message->data, message->size);
}

/* -- what is asked ----------------------------------------------------------------------------- */

static void draw_numbers(struct bytes *raw, size_t most)
{
    for (size_t i = sim_draw_between(CHANCE_PEOPLE, 1, most); i > 0; i--) {
        int32_t number = (int32_t)sim_draw(CHANCE_PEOPLE);
        sim_bytes_put(raw, &number, sizeof number);
    }
}

static void put_shape(struct bytes *tensor, size_t count)
{
    struct bytes dims = { 0 };

    put_varint(&dims, count);
    put_field(tensor, 3, dims.data, dims.size);
}

/* inference.ModelInferRequest, raw */
static void ask_infer(struct stream *s, const char *model)
{
    struct bytes message = { 0 }, tensor = { 0 }, raw = { 0 };

    draw_numbers(&raw,
                 sim_draw_below(CHANCE_PEOPLE, 4) == 0 && sim_weather.piece_bytes > 50 ? 3000 : 10);
    put_text(&message, 1, model);
    put_text(&message, 3, "an-id");
    put_text(&tensor, 1, "IN");
    put_text(&tensor, 2, "INT32");
    put_shape(&tensor, raw.size / 4);
    put_field(&message, 5, tensor.data, tensor.size);
    put_field(&message, 7, raw.data, raw.size);
    put_message(&s->out, &message);
    s->expected[s->expected_count++] = raw;
}

/* penstock.v1.InferRequest to ticks */
static void ask_ticks(struct stream *s)
{
    struct bytes message = { 0 }, tensor = { 0 }, raw = { 0 };

    draw_numbers(&raw, 20);
    put_text(&tensor, 1, "IN");
    put_shape(&tensor, raw.size / 4);
    put_field(&tensor, 4, raw.data, raw.size);
    put_text(&message, 1, "ticks");
    put_field(&message, 4, tensor.data, tensor.size);
    put_message(&s->out, &message);
    for (int i = 0; i < 5; i++)
        sim_bytes_put(&s->expected[s->expected_count++], raw.data, raw.size);
}

/* penstock.v1.SessionRequest to chat: begin, then inputs, as it goes */
static void ask_chat(struct stream *s)
{
    struct bytes message = { 0 }, begin = { 0 };

    put_text(&begin, 1, "chat");
    put_field(&message, 2, begin.data, begin.size);
    put_message(&s->out, &message);
    s->inputs = (uint32_t)sim_draw_between(CHANCE_PEOPLE, 1, 10);
    s->has_more_to_say = true;
}

static void say_more(struct stream *s)
{
    struct bytes message = { 0 }, input = { 0 }, tensor = { 0 }, strings = { 0 }, raw = { 0 };
    char text[24];

    snprintf(text, sizeof text, "s%u", (unsigned)sim_draw_below(CHANCE_PEOPLE, 100000));
    uint32_t size = (uint32_t)strlen(text);
    put_text(&strings, 1, text);
    put_text(&tensor, 1, "IN");
    put_field(&tensor, 12, strings.data, strings.size);
    put_field(&input, 2, tensor.data, tensor.size);
    put_field(&message, 3, input.data, input.size);
    put_message(&s->out, &message);
    sim_bytes_put(&raw, &size, sizeof size);
    sim_bytes_text(&raw, text);
    for (int i = 0; i < 2; i++)
        sim_bytes_put(&s->expected[s->expected_count++], raw.data, raw.size);
    s->has_more_to_say = ++s->inputs_said < s->inputs;
}

static ssize_t give_data(nghttp2_session *session, int32_t id, uint8_t *buf, size_t length,
                         uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct stream *s = source->ptr;
    size_t size = MIN(length, s->out.size - s->out_at);

    (void)session, (void)id, (void)user;
    if (size > 1 && sim_draw_below(CHANCE_PEOPLE, 4) == 0)
        size = sim_draw_between(CHANCE_PEOPLE, 1, size);
    if (size > 0)
        memcpy(buf, s->out.data + s->out_at, size);
    s->out_at += size;
    if (s->out_at == s->out.size && s->has_more_to_say)
        return size > 0 ? (ssize_t)size : NGHTTP2_ERR_DEFERRED;
    if (s->out_at == s->out.size)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)size;
}

#define HEADER(name, value)                                                                       \
    (nghttp2_nv)                                                                                  \
    {                                                                                             \
        (uint8_t *)(uintptr_t)(name), (uint8_t *)(uintptr_t)(value), strlen(name), strlen(value), \
            0                                                                                     \
    }

static void begin(struct stream *s)
{
    nghttp2_data_provider body = { .source.ptr = s, .read_callback = give_data };
    nghttp2_nv headers[10];
    char authority[32], timeout[16];
    size_t count = 0;
    bool is_rest = s->form == FORM_REST, has_body = true;
    const char *path = "/inference.GRPCInferenceService/ModelInfer";

    snprintf(authority, sizeof authority, "127.0.0.1:%d", PORT);
    switch (s->form) {
    case FORM_REST:
        sim_ask_draw(&s->ask, MIN((size_t)sim_weather.piece_bytes * 200, (size_t)100000));
        sim_bytes_put(&s->out, s->ask.body.data, s->ask.body.size);
        path = s->ask.target;
        has_body = s->ask.has_body;
        break;
    case FORM_INFER:
    case FORM_WEB: ask_infer(s, "ident"); break;
    case FORM_DEADLINE: ask_infer(s, "slow"); break;
    case FORM_STREAM:
        ask_ticks(s);
        path = "/penstock.v1.Inference/InferStream";
        break;
    case FORM_CHAT:
        ask_chat(s);
        path = "/penstock.v1.Inference/Session";
        break;
    default:
        put_message(&s->out, &(struct bytes){ 0 });
        path = "/grpc.health.v1.Health/Check";
        break;
    }
    headers[count++] = HEADER(":method", is_rest ? s->ask.method : "POST");
    headers[count++] = HEADER(":scheme", "http");
    headers[count++] = HEADER(":path", path);
    headers[count++] = HEADER(":authority", authority);
    if (is_rest) {
        if (strstr(s->ask.headers, "event-stream") != NULL)
            headers[count++] = HEADER("accept", "text/event-stream");
        if (strstr(s->ask.headers, "ndjson") != NULL)
            headers[count++] = HEADER("accept", "application/x-ndjson");
    } else {
        headers[count++] = HEADER("content-type", s->form == FORM_WEB ? "application/grpc-web+proto"
                                                                      : "application/grpc");
        headers[count++] = HEADER("te", "trailers");
    }
    if (s->form == FORM_DEADLINE) {
        snprintf(timeout, sizeof timeout, "%uu",
                 (unsigned)sim_draw_between(CHANCE_PEOPLE, 1, 6000));
        headers[count++] = HEADER("grpc-timeout", timeout);
    }
    s->is_begun = true;
    s->is_early = s->ask.is_early = !sim_world.is_ready;
    s->status = 0;
    s->grpc_status = -1;
    s->begun_ns = sim_now();
    s->id =
        nghttp2_submit_request(s->h2->session, NULL, headers, count, has_body ? &body : NULL, s);
    sim_note("connection %u: stream %d asks %s", sim_line_id(&s->h2->line), s->id,
             is_rest ? s->ask.kind : form_names[s->form]);
    if (s->id < 0)
        sim_fail("nghttp2 takes no request: %s", nghttp2_strerror(s->id));
}

/* -- what is answered -------------------------------------------------------------------------- */

static void judge_messages(struct stream *s)
{
    const uint8_t *at = s->in.data, *end = at + s->in.size, *part;
    uint32_t heard = 0;
    size_t size, part_size;

    while (end - at >= 5) {
        if (s->form == FORM_WEB && (at[0] & 0x80) != 0) { /* trailers, in the body */
            const char *status = strstr((const char *)at + 5, "grpc-status:");
            s->grpc_status = status == NULL ? -1 : atoi(status + 12);
            at = end;
            break;
        }
        size = (size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | at[4];
        if (at[0] != 0 || size > (size_t)(end - at - 5))
            sim_fail("connection %u, stream %d (%s): a message that is not whole",
                     sim_line_id(&s->h2->line), s->id, form_names[s->form]);
        at += 5;
        if (s->form != FORM_HEALTH) {
            const uint8_t *message = at, *tensor;
            size_t message_size = size, tensor_size;
            bool is_there;
            if (s->form == FORM_CHAT) { /* Output; Begun and Answered stand between */
                is_there = find_field(message, message_size, 3, &part, &part_size);
                if (!is_there) {
                    at += size;
                    continue;
                }
                message = part;
                message_size = part_size;
            }
            if (s->form == FORM_STREAM || s->form == FORM_CHAT)
                is_there = find_field(message, message_size, s->form == FORM_CHAT ? 3 : 4, &tensor,
                                      &tensor_size) &&
                           find_field(tensor, tensor_size, 4, &part, &part_size);
            else
                is_there = find_field(message, message_size, 6, &part, &part_size);
            if (!is_there || heard >= s->expected_count ||
                !sim_bytes_is(&s->expected[heard], (const char *)part, part_size))
                sim_fail(
                    "connection %u, stream %d (%s): message %u of %u has other values than sent",
                    sim_line_id(&s->h2->line), s->id, form_names[s->form], heard + 1,
                    s->expected_count);
        }
        heard++;
        at += size;
    }
    if (at != end)
        sim_fail("connection %u, stream %d: %d bytes behind the last message",
                 sim_line_id(&s->h2->line), s->id, (int)(end - at));
    if (s->grpc_status == 0 && heard != s->expected_count && s->form != FORM_HEALTH)
        sim_fail("connection %u, stream %d (%s): OK after %u of %u messages",
                 sim_line_id(&s->h2->line), s->id, form_names[s->form], heard, s->expected_count);
}

static void judge(struct stream *s, uint32_t reset)
{
    bool may_refuse = sim_world_may_refuse() || s->is_early || s->h2->got_goaway;

    if (s->is_cancelled || s->h2->is_failing)
        return;
    if (reset != 0) {
        if (!may_refuse)
            sim_fail("connection %u, stream %d (%s): reset with %u", sim_line_id(&s->h2->line),
                     s->id, form_names[s->form], reset);
        sim_world.answers_lost++;
        return;
    }
    if (s->form == FORM_REST) {
        struct answer answer = { .status = s->status, .body = s->in };
        sim_ask_judge(&s->ask, &answer, sim_line_id(&s->h2->line));
        return;
    }
    if (s->status != 200)
        sim_fail("connection %u, stream %d (%s): a call was answered with status %d",
                 sim_line_id(&s->h2->line), s->id, form_names[s->form], s->status);
    judge_messages(s);
    if (s->form == FORM_DEADLINE) {
        /* 10 s is far beyond any stall of the weather. */
        if (s->grpc_status == 4 && sim_now() - s->begun_ns > 10 * SIM_S)
            sim_fail("a deadline of milliseconds was kept after %.3f s",
                     (double)(sim_now() - s->begun_ns) / 1e9);
        may_refuse |=
            s->grpc_status == 4 || s->grpc_status == 14; /* it passed, or cannot be kept */
    }
    if (s->grpc_status == 0) {
        sim_world_count(form_names[s->form]);
    } else if (s->grpc_status < 0 || !may_refuse) {
        sim_fail("connection %u, stream %d (%s): status %d %.*s", sim_line_id(&s->h2->line), s->id,
                 form_names[s->form], s->grpc_status, (int)s->words.size,
                 s->words.size > 0 ? (const char *)s->words.data : "");
    } else {
        sim_world.answers_refused++;
    }
}

static void end(struct h2 *h2)
{
    if (h2->is_done)
        return;
    h2->is_done = true;
    sim_person_ends();
}

static void go_on(struct h2 *h2);

static void on_thought(void *arg)
{
    struct h2 *h2 = arg;

    if (!h2->line.is_over)
        go_on(h2);
}

static void on_said(void *arg)
{
    struct stream *s = arg;

    if (s->h2->line.is_over || s->is_ended || !s->has_more_to_say)
        return;
    say_more(s);
    nghttp2_session_resume_data(s->h2->session, s->id);
    if (s->has_more_to_say)
        sim_after(sim_draw_below(CHANCE_PEOPLE, 4 * SIM_MS), on_said, s);
    go_on(s->h2);
}

static void on_cancel(void *arg)
{
    struct stream *s = arg;

    if (s->h2->line.is_over || s->is_ended)
        return;
    s->is_cancelled = true;
    nghttp2_submit_rst_stream(s->h2->session, 0, s->id, NGHTTP2_CANCEL);
    go_on(s->h2);
}

/* Everything that can be said now is said. */
static void go_on(struct h2 *h2)
{
    const uint8_t *data;
    ssize_t size;

    while (h2->begun < h2->count && h2->begun - h2->ended < h2->at_once && !h2->got_goaway) {
        struct stream *s = &h2->streams[h2->begun++];
        begin(s);
        if (s->has_more_to_say)
            sim_after(sim_draw_below(CHANCE_PEOPLE, 4 * SIM_MS), on_said, s);
        if (!h2->is_alone && sim_draw_below(CHANCE_PEOPLE, 8) == 0)
            sim_after(sim_draw_below(CHANCE_PEOPLE, 10 * SIM_MS), on_cancel, s);
    }
    while ((size = nghttp2_session_mem_send(h2->session, &data)) > 0)
        sim_bytes_put(&h2->line.out, data, (size_t)size);
    sim_line_say(&h2->line);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags,
                     void *user)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

    (void)flags, (void)user;
    if (s == NULL)
        return 0;
    if (name_size == 7 && memcmp(name, ":status", 7) == 0)
        s->status = atoi((const char *)value);
    if (name_size == 11 && memcmp(name, "grpc-status", 11) == 0)
        s->grpc_status = atoi((const char *)value);
    if (name_size == 12 && memcmp(name, "grpc-message", 12) == 0)
        sim_bytes_put(&s->words, value, value_size);
    return 0;
}

static void on_taken(void *arg)
{
    struct h2 *h2 = arg;

    if (h2->line.is_over)
        return;
    nghttp2_session_consume_connection(h2->session, h2->owed);
    h2->owed = 0;
    go_on(h2);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
                   size_t size, void *user)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, id);
    struct h2 *h2 = user;

    (void)flags;
    if (s != NULL)
        sim_bytes_put(&s->in, data, size);
    if (h2->take_ns == 0) {
        nghttp2_session_consume(session, id, size);
        return 0;
    }
    if (h2->owed == 0)
        sim_after(sim_draw_below(CHANCE_PEOPLE, h2->take_ns), on_taken, h2);
    h2->owed += (uint32_t)size;
    nghttp2_session_consume_stream(session, id, size);
    return 0;
}

static int on_stream_end(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, id);
    struct h2 *h2 = user;

    if (s == NULL || s->is_ended)
        return 0;
    s->is_ended = true;
    h2->ended++;
    sim_note("connection %u: stream %d ends (%u), status %d, gRPC %d %.*s", sim_line_id(&h2->line),
             id, code, s->status, s->grpc_status, (int)s->words.size,
             s->words.size > 0 ? (const char *)s->words.data : "");
    judge(s, code);
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2 *h2 = user;

    (void)session;
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        h2->got_goaway = true;
        if (frame->goaway.error_code != 0 && !sim_world_may_refuse())
            sim_fail("connection %u: GOAWAY with %u: %.*s", sim_line_id(&h2->line),
                     frame->goaway.error_code, (int)frame->goaway.opaque_data_len,
                     (const char *)frame->goaway.opaque_data);
    }
    return 0;
}

static void on_look(struct line *line)
{
    struct h2 *h2 = (struct h2 *)(void *)line;
    size_t size;
    const uint8_t *data = sim_line_bytes(line, &size);
    struct bytes copy = { 0 };

    if (size == 0 || h2->is_done)
        return;
    sim_bytes_put(&copy, data, size);
    sim_line_take(line, size);
    ssize_t used = nghttp2_session_mem_recv(h2->session, copy.data, copy.size);
    if (used < 0)
        sim_fail("connection %u: frames that are wrong: %s", sim_line_id(line),
                 nghttp2_strerror((int)used));
    if (h2->ended == h2->count || (h2->got_goaway && h2->ended == h2->begun)) {
        nghttp2_session_terminate_session(h2->session, 0);
        go_on(h2);
        sim_line_close(line);
        end(h2);
        return;
    }
    if (h2->is_leaver && h2->ended > h2->count / 2) {
        h2->is_failing = true;
        sim_line_reset(line);
        end(h2);
        return;
    }
    if (h2->think_ns > 0)
        sim_after(sim_draw_below(CHANCE_PEOPLE, h2->think_ns), on_thought, h2);
    else
        go_on(h2);
}

static void on_over(struct line *line, bool is_reset)
{
    struct h2 *h2 = (struct h2 *)(void *)line;

    if (h2->is_done)
        return;
    if (!sim_world_may_refuse() && !h2->got_goaway)
        sim_fail("connection %u: %s after %u of %u streams", sim_line_id(line),
                 is_reset ? "reset" : "ends", h2->ended, h2->count);
    sim_world.answers_lost += h2->begun - h2->ended;
    end(h2);
}

static struct h2 *h2_new(bool has_small_windows)
{
    struct h2 *h2 = sim_real_alloc(sizeof *h2);
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    nghttp2_settings_entry settings[] = {
        { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
          has_small_windows ? (uint32_t)sim_draw_between(CHANCE_PEOPLE, 1, 5000) : 65535 },
        { NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
    };

    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_end);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_option_new(&option);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_session_client_new2(&h2->session, callbacks, h2, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(h2->session, 0, settings, COUNT(settings));
    h2->line.on_look = on_look;
    h2->line.on_over = on_over;
    h2->line.is_http2 = true;
    return h2;
}

void sim_http2_one(const char *form)
{
    struct h2 *h2 = h2_new(false);

    h2->count = h2->at_once = 1;
    h2->is_alone = true;
    h2->streams[0].h2 = h2;
    while (strcmp(form_names[h2->streams[0].form], form) != 0)
        h2->streams[0].form++;
    sim_person_begins();
    sim_line_open(&h2->line);
    go_on(h2);
}

void sim_http2_person(void)
{
    struct h2 *h2 = h2_new(sim_draw_below(CHANCE_PEOPLE, 3) == 0);

    h2->count = (uint32_t)sim_draw_between(CHANCE_PEOPLE, 1, CALLS_MAX);
    h2->at_once = (uint32_t)sim_draw_between(CHANCE_PEOPLE, 1, h2->count);
    for (uint32_t i = 0; i < h2->count; i++) {
        h2->streams[i].h2 = h2;
        h2->streams[i].form = (enum form)sim_draw_below(CHANCE_PEOPLE, FORMS);
    }
    h2->is_leaver = sim_draw_below(CHANCE_PEOPLE, 8) == 0;
    if (sim_draw_below(CHANCE_PEOPLE, 4) == 0)
        h2->think_ns = 1 + sim_draw_below(CHANCE_PEOPLE, 5 * SIM_MS);
    if (sim_draw_below(CHANCE_PEOPLE, 4) == 0)
        h2->take_ns = 1 + sim_draw_below(CHANCE_PEOPLE, 20 * SIM_MS);
    if (sim_draw_below(CHANCE_PEOPLE, 4) == 0)
        h2->line.read_pause_ns = sim_draw_between(CHANCE_PEOPLE, SIM_US, 20 * SIM_MS);
    if (sim_draw_below(CHANCE_PEOPLE, 4) == 0) {
        h2->line.burst = sim_draw_between(CHANCE_PEOPLE, 1, 300);
        h2->line.pause_ns = sim_draw_below(CHANCE_PEOPLE, SIM_MS);
    }
    sim_person_begins();
    sim_line_open(&h2->line);
    go_on(h2);
}
