/* http2_fuzz.c - bytes of any kind into either role, in pieces of any size, while the other side of
 * the interface does what servers and clients do. SPDX-License-Identifier: Apache-2.0
 *
 * The first byte says how: 1 client (else server), 2 the preface and SETTINGS come first, 4 answers
 * have bodies and trailers, 8 streams are reset, 16 no credit is given, 32 small windows of time.
 * The second is the seed of the pieces' sizes. */
#include "wire/http2.h"

#include <stdlib.h>

#include "base/clock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct http2_limits limits = {
    .streams_max = 8,
    .header_bytes_max = 2048,
    .fields_max = 12,
    .stream_window = 65535,
    .connection_window = 1 << 17,
    .frame_bytes_max = 16384,
    .control_frames_max = 200,
    .resets_max = 20,
};

static struct {
    struct http2 *h;
    unsigned how;
    uint64_t announced, closed, sum;
    size_t written;
} f;

/* Reads every byte of what it is given: that it may, is what sanitizers check. */
static void read_all(struct slice bytes)
{
    for (size_t i = 0; i < bytes.size; i++)
        f.sum += bytes.data[i];
}

static void answer(struct http2_stream *s)
{
    static uint8_t body[40000];
    static const struct http2_field head[] = { { SLICE_LIT("content-type"), SLICE_LIT("a/b") },
                                               { SLICE_LIT("x-bin"), SLICE_LIT("") } };

    if (http2_stream_user(s) != NULL)
        return;
    http2_stream_set_user(s, &f);
    if ((f.how & 8) != 0 && http2_stream_id(s) % 4 == 1) {
        http2_reset(f.h, s, HTTP2_CANCEL);
        return;
    }
    http2_respond(f.h, s, 100, NULL, 0, NULL, 0);
    http2_respond(f.h, s, 200, head, 2, head, 1);
    if ((f.how & 4) != 0) {
        http2_data(f.h, s, slice_make(body, sizeof body), NULL);
        http2_data(f.h, s, slice_of("tail"), NULL);
    }
    http2_end(f.h, s, head, (f.how & 4) != 0 ? 2 : 0);
}

static void on_head(void *owner, struct http2_stream *s, const struct http2_head *head)
{
    (void)owner;
    for (uint32_t i = 0; i < head->count; i++) {
        read_all(head->fields[i].name);
        read_all(head->fields[i].value);
    }
    require(head->count <= limits.fields_max + 8 || (f.how & 1) != 0);
    if (head->kind == HTTP2_REQUEST) {
        f.announced++;
        if (!head->is_end && (f.how & 4) == 0)
            answer(s); /* before the request is over */
    }
}

static void on_data(void *owner, struct http2_stream *s, struct slice data)
{
    (void)owner;
    require(data.size > 0);
    read_all(data);
    if ((f.how & 16) == 0)
        http2_allow(f.h, s, 100000);
}

static void on_end(void *owner, struct http2_stream *s)
{
    (void)owner;
    if ((f.how & 1) == 0)
        answer(s);
}

static void on_close(void *owner, struct http2_stream *s, uint32_t code)
{
    (void)owner, (void)code;
    f.sum += (uint64_t)http2_stream_id(s) + http2_stream_queued(s) + http2_stream_sent(s);
    f.closed++;
}

static void on_goaway(void *owner, int32_t last, uint32_t code, struct slice debug)
{
    (void)owner, (void)last;
    f.sum += *http2_code_name(code) != '\0';
    read_all(debug);
}

static void on_frame(void *owner, const struct http2_frame *frame)
{
    (void)owner;
    f.sum += frame->value + (uint64_t)*frame->name;
}

static bool on_copy(void *owner, const void *bytes, size_t size)
{
    (void)owner;
    read_all(slice_make(bytes, size));
    f.written += size;
    return true;
}

static bool on_refer(void *owner, struct http2_stream *s, struct slice bytes, struct buf *holder)
{
    (void)s, (void)holder;
    return on_copy(owner, bytes.data, bytes.size);
}

static void request(const char *path, bool has_body)
{
    struct http2_field fields[] = {
        { SLICE_LIT(":method"), SLICE_LIT("POST") },
        { SLICE_LIT(":scheme"), SLICE_LIT("http") },
        { SLICE_LIT(":path"), slice_of(path) },
        { SLICE_LIT(":authority"), SLICE_LIT("a") },
    };
    struct http2_stream *s = NULL;

    if (http2_request(f.h, fields, 4, !has_body, NULL, &s, NULL) != OK)
        return;
    f.announced++;
    if (has_body) {
        http2_data(f.h, s, slice_of("some body"), NULL);
        http2_end(f.h, s, NULL, 0);
    }
}

static bool feed(struct slice bytes, uint64_t now_ns)
{
    uint8_t *piece = malloc(bytes.size + (bytes.size == 0)); /* its own, so that its end is seen */
    struct err err = { 0 };

    if (bytes.size > 0)
        memcpy(piece, bytes.data, bytes.size);
    enum err_code code = http2_receive(f.h, slice_make(piece, bytes.size), now_ns, &err);
    free(piece);
    require(code == OK || (err.code == code && err.text[0] != '\0'));
    require((code == OK) || http2_failure(f.h) != HTTP2_FINE);
    while (http2_send(f.h, 50000))
        ;
    require(code == OK || http2_is_over(f.h));
    return code == OK && !http2_is_over(f.h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct http2_events events = {
        .on_head = on_head,
        .on_data = on_data,
        .on_end = on_end,
        .on_close = on_close,
        .on_goaway = on_goaway,
        .on_frame = on_frame,
        .copy = on_copy,
        .refer = on_refer,
    };
    static const char first[] =
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0\0\0\0\4\1\0\0\0\0";
    struct slice rest = { data, size };
    uint64_t now_ns = NS_PER_S;

    if (size < 2 || size > 1 << 17)
        return 0;
    memset(&f, 0, sizeof f);
    f.how = data[0];
    unsigned chance = data[1];
    rest = slice_skip(rest, 2);
    struct http2_heap *heap = http2_heap_new();
    bool is_client = (f.how & 1) != 0;
    require(http2_new(&f.h, is_client ? HTTP2_CLIENT : HTTP2_SERVER, &limits, &events, NULL, heap,
                      NULL) == OK);
    bool goes_on = true;
    if (is_client) {
        request("/a", false);
        request("/b", true);
        request("/c", true);
        while (http2_send(f.h, 50000))
            ;
    }
    if ((f.how & 2) != 0)
        goes_on = feed(is_client ? slice_make(first + HTTP2_PREFACE_BYTES, 9)
                                 : slice_make(first, sizeof first - 1),
                       now_ns);
    while (goes_on && rest.size > 0) {
        chance = chance * 1103515245 + 12345;
        size_t piece = MIN(rest.size, (size_t)1 + (chance >> 16) % (chance % 3 == 0 ? 5000 : 30));
        now_ns += (f.how & 32) != 0 ? NS_PER_S : NS_PER_US;
        goes_on = feed(slice_first(rest, piece), now_ns);
        rest = slice_skip(rest, piece);
        require(is_client || http2_streams_open(f.h) <= limits.streams_max + 1);
        if (chance % 64 == 7 && !is_client)
            http2_goaway_soon(f.h);
        if (chance % 64 == 9)
            http2_goaway(f.h, HTTP2_NO_ERROR, "bye");
    }
    http2_free(&f.h);
    require(f.closed == f.announced);
    http2_heap_free(&heap); /* requires that all is back */
    return 0;
}
