/* wire_view.c - SPDX-License-Identifier: Apache-2.0
 *
 * Two readers, one for each direction, cut bytes into frames as they pass, and write one row for
 * each when it is whole. Nothing of it trusts the peer: what is kept is bounded, what is shown is
 * escaped, and bytes that are no frames are counted and no more.
 *
 * Header blocks have state (RFC 7541 2.2), so that there is one inflater for each direction and the
 * view has to see a connection from its first byte.
 */
#include "cli/wire_view.h"

#include <inttypes.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/pb.h"
#include "base/utf8.h"
#include "call/grpc_wire.h"
#include "cli/print.h"
#include "codec/number.h"
#include "codec/proto.h"
#include "wire/http2.h"

enum {
    FRAME_HEAD_BYTES = 9,
    SAME_WRITE_NS = 5000, /* less than a write takes */
    PREFACE_BYTES = HTTP2_PREFACE_BYTES,
    KEPT_BYTES_MAX = 256 << 10,  /* of a control frame or a header block */
    MESSAGE_BYTES_MAX = 1 << 20, /* of a message, to be shown field by field */
    MESSAGES_MAX = 20,           /* each way */
    MESSAGES_A_ROW = 4,
    RUN_SHOWN = 3,
    OUT_BYTES_MAX = 16 << 20,
    HEAD_BYTES_MAX = 64 << 10, /* HTTP/1.1 */
    BODY_BYTES_MAX = 4096,     /* of REST, to be shown */
    DEPTH_MAX = 12,
    FIELDS_MAX = 120,
    VALUES_MAX = 12,
    JSON_LINES_MAX = 6,
    INDENT = 39, /* where the words of a row begin */
    NAME_INDENT = 14,
    VALUE_LINES_MAX = 4,
    COLUMNS_USUAL = 100,
    COLUMNS_MIN = 72,
    COLUMNS_MAX = 160
};

struct message {
    bool is_compressed, is_whole;
    uint32_t size;     /* as the prefix says */
    struct text bytes; /* owned: the first of them */
};

struct side {
    bool is_sent;
    uint64_t bytes; /* all of them */
    /* HTTP/2 */
    uint32_t preface_left;
    uint8_t head[FRAME_HEAD_BYTES];
    uint32_t head_size, length, got;
    uint8_t type, flags;
    uint32_t stream;
    struct text payload; /* owned: of what is no DATA */
    struct text block;   /* owned: the header block being gathered */
    uint8_t block_flags;
    nghttp2_hd_inflater *inflater; /* owned */
    bool has_data;
    bool is_broken; /* what follows is no HTTP/2 */
    uint32_t padding;
    uint32_t messages_before; /* when the frame began */
    bool was_within;          /* a message had begun then and was not over */
    /* gRPC */
    uint8_t prefix[GRPC_PREFIX_BYTES];
    uint32_t prefix_size;
    uint64_t message_got;
    uint32_t messages_count;
    struct message messages[MESSAGES_MAX];
    enum encoding encoding;
    /* HTTP/1.1 */
    struct text http1_head; /* owned */
    bool has_head;
    struct text body; /* owned: of REST, the first of it */
    uint64_t body_bytes;
    /* What it weighs. */
    uint64_t frame_heads, header_blocks, headers_plain, data, prefixes, message_bytes, control;
    uint32_t frames;
};

/* Rows that are alike, one behind the other. */
struct run {
    bool is_sent;
    uint32_t count, hidden;
    uint64_t bytes, at_ns; /* of the hidden ones */
    const char *kind;
    char stream[16];
};

/* Where in `rows` a time goes: it is put there at the end, when it is known what it counts from. */
struct stamp {
    size_t at;
    uint64_t at_ns;
};

struct wire_view {
    struct client_tap tap;
    struct run run;
    struct wire_view_settings settings;
    char *title, *server; /* owned */
    struct side sides[2]; /* received, sent */
    struct text rows;     /* owned */
    struct text stamps;   /* owned: of struct stamp, in the order of `rows` */
    uint64_t begun_ns;
    uint64_t write_ns, fed_ns; /* of the bytes of the tap: when they passed, when they were read */
    bool has_begun, was_sent;
};

/* -- words ------------------------------------------------------------------------------------- */

static const char *const styles[] = {
    "", "\033[1m", "\033[2m", "\033[36m", "\033[32m", "\033[33m"
};
enum style { PLAIN, BOLD, FAINT, CYAN, GREEN, YELLOW };

static void put_style(struct text *out, const struct wire_view *view, enum style style)
{
    if (view->settings.has_colour)
        text_str(out, style == PLAIN ? "\033[0m" : styles[style]);
}

static void put_styled(struct text *out, const struct wire_view *view, enum style style,
                       const char *words)
{
    put_style(out, view, style);
    text_str(out, words);
    put_style(out, view, PLAIN);
}

/* Escaped, at most `columns` of them; "..." stands for the rest. */
static void put_cut(struct text *out, struct slice words, uint32_t columns)
{
    struct text escaped;
    struct slice shown;

    text_init(&escaped, 4 * (size_t)KEPT_BYTES_MAX);
    print_escaped(&escaped, slice_first(words, 4 * (size_t)columns), false);
    shown = text_slice(&escaped);
    bool is_cut = words.size > 4 * (size_t)columns || print_width(shown) > columns;
    if (is_cut) {
        uint32_t width = 0;
        size_t at = 0;
        while (at < shown.size && width + 4 <= columns) {
            size_t step = utf8_step(slice_skip(shown, at));
            at += step > 0 ? step : 1;
            width++;
        }
        shown = slice_first(shown, at);
    }
    text_slice_put(out, shown);
    text_str(out, is_cut ? "..." : "");
    text_deinit(&escaped);
}

static uint32_t columns_of(const struct wire_view *view)
{
    uint32_t columns =
        view->settings.columns == 0 ? (uint32_t)COLUMNS_USUAL : view->settings.columns;

    return MIN(MAX(columns, (uint32_t)COLUMNS_MIN), (uint32_t)COLUMNS_MAX);
}

static void begin_row(struct wire_view *view, bool is_sent, uint64_t at_ns, const char *kind,
                      const char *stream, uint64_t length)
{
    struct text *out = &view->rows;

    text_put(&view->stamps, &(struct stamp){ out->size, at_ns }, sizeof(struct stamp));
    put_styled(out, view, is_sent ? CYAN : GREEN, is_sent ? "->" : "<-");
    text_str(out, "  ");
    put_style(out, view, BOLD);
    text_printf(out, "%-13s", kind);
    put_style(out, view, PLAIN);
    text_printf(out, " %2s %7" PRIu64 "  ", stream, length);
}

/* Pieces of a large body are alike: after the first few they become one row. */
static void end_run(struct wire_view *view)
{
    struct run *run = &view->run;

    if (run->hidden > 0) {
        begin_row(view, run->is_sent, run->at_ns, run->kind, run->stream, run->bytes);
        text_printf(&view->rows, "%u more of these together\n", run->hidden);
    }
    *run = (struct run){ .count = 0 };
}

/* True: this one was added to a run, and gets no row of its own. */
static bool hide_row(struct wire_view *view, bool is_sent, uint64_t at_ns, const char *kind,
                     const char *stream, uint64_t length)
{
    struct run *run = &view->run;

    if (run->count > 0 && (run->is_sent != is_sent || strcmp(run->stream, stream) != 0))
        end_run(view);
    run->is_sent = is_sent;
    run->kind = kind;
    snprintf(run->stream, sizeof run->stream, "%s", stream);
    if (++run->count <= RUN_SHOWN)
        return false;
    run->hidden++;
    run->bytes += length;
    run->at_ns = at_ns;
    return true;
}

/* "   0.412  ->  HEADERS           1     118  " */
static void put_row(struct wire_view *view, const struct side *side, uint64_t at_ns,
                    const char *kind, const char *stream, uint64_t length)
{
    end_run(view);
    begin_row(view, side->is_sent, at_ns, kind, stream, length);
}

/* Escaped words from column `indent` on, where the cursor stands, in lines of the terminal's width
 * and no more than `lines_max` of them. */
static void put_lines(struct text *out, const struct wire_view *view, struct slice words,
                      uint32_t indent, uint32_t lines_max)
{
    uint32_t columns = columns_of(view) - indent;
    struct text whole;

    text_init(&whole, OUT_BYTES_MAX);
    put_cut(&whole, words, columns * lines_max);
    struct slice left = text_slice(&whole);
    for (bool is_first = true; left.size > 0 || is_first; is_first = false) {
        size_t at = 0;
        for (uint32_t width = 0; at < left.size && width < columns; width++) {
            size_t step = utf8_step(slice_skip(left, at));
            at += step > 0 ? step : 1;
        }
        at = MIN(at, left.size);
        size_t blank = at < left.size ? at : 0;
        while (blank > 0 && left.data[blank] != ' ')
            blank--;
        at = blank > at / 2 ? blank : at;
        if (!is_first)
            text_printf(out, "%*s", (int)indent, "");
        text_slice_put(out, slice_first(left, at));
        text_byte(out, '\n');
        left = slice_skip(left, at);
        left = slice_skip(left, left.size > 0 && left.data[0] == ' ' ? 1 : 0);
    }
    text_deinit(&whole);
}

/* What proves who somebody is, is not shown: what --wire prints is pasted into issues. */
static bool is_secret(struct slice name)
{
    static const char *const names[] = { "authorization", "proxy-authorization", "x-api-key", "cookie",
                                         "set-cookie" };

    for (size_t i = 0; i < COUNT(names); i++)
        if (slice_is_nocase(name, names[i]))
            return true;
    return false;
}

static void put_field_line(struct wire_view *view, struct slice name, struct slice value)
{
    struct text *out = &view->rows;
    char bytes[128];
    struct text shown;

    text_init_fixed(&shown, bytes, sizeof bytes);
    print_escaped(&shown, slice_first(name, 30), false);
    text_printf(out, "%*s", NAME_INDENT, "");
    put_style(out, view, FAINT);
    print_padded(out, text_slice(&shown), INDENT - NAME_INDENT - 1);
    put_style(out, view, PLAIN);
    text_byte(out, ' ');
    if (text_slice(&shown).size >= INDENT - NAME_INDENT)
        text_printf(out, "\n%*s", INDENT, "");
    put_lines(out, view, is_secret(name) ? slice_of("(not shown)") : value, INDENT, VALUE_LINES_MAX);
}

/* -- gRPC messages in DATA ----------------------------------------------------------------------- */

static struct message *current_message(struct side *side)
{
    uint32_t index = side->messages_count - 1;

    return side->messages_count == 0 || index >= MESSAGES_MAX ? NULL : &side->messages[index];
}

static void begin_message(struct side *side)
{
    struct grpc_prefix prefix = grpc_prefix_get(side->prefix);
    uint32_t index = side->messages_count++;

    side->message_got = 0;
    if (index < MESSAGES_MAX) {
        side->messages[index] =
            (struct message){ .is_compressed = prefix.flag != 0, .size = prefix.size };
        text_init(&side->messages[index].bytes, MESSAGE_BYTES_MAX + 1);
    }
}

/* Bytes of DATA frames: where messages begin and end is seen from what is there so far. */
static void read_data(struct side *side, struct slice data)
{
    while (data.size > 0) {
        if (side->prefix_size < GRPC_PREFIX_BYTES) {
            size_t size = MIN(GRPC_PREFIX_BYTES - side->prefix_size, data.size);
            memcpy(side->prefix + side->prefix_size, data.data, size);
            side->prefix_size += (uint32_t)size;
            side->prefixes += size;
            data = slice_skip(data, size);
            if (side->prefix_size < GRPC_PREFIX_BYTES)
                return;
            begin_message(side);
        }
        struct grpc_prefix prefix = grpc_prefix_get(side->prefix);
        struct message *message = current_message(side);
        size_t size = (size_t)MIN(prefix.size - side->message_got, (uint64_t)data.size);
        if (message != NULL && message->bytes.size < MESSAGE_BYTES_MAX)
            text_put(&message->bytes, data.data,
                     MIN(size, MESSAGE_BYTES_MAX - message->bytes.size));
        side->message_got += size;
        side->message_bytes += size;
        data = slice_skip(data, size);
        if (side->message_got == prefix.size) {
            side->prefix_size = 0;
            if (message != NULL)
                message->is_whole = true;
        }
    }
}

/* "message 1: 17 bytes", "message 2: 602112 bytes, begins here", "message 2 goes on": what of
 * messages is in the DATA frame that ends now. */
static void put_data_words(struct text *out, const struct side *side)
{
    uint32_t first = side->messages_before, shown = 0;
    bool is_within = side->prefix_size == GRPC_PREFIX_BYTES;
    const char *gap = "";

    if (side->was_within) {
        bool goes_on = is_within && side->messages_count == first;
        text_printf(out, "message %u %s", first, goes_on ? "goes on" : "ends");
        gap = "; ";
    }
    for (uint32_t i = first; i < side->messages_count; i++, gap = "; ") {
        if (shown++ == MESSAGES_A_ROW || i >= MESSAGES_MAX) {
            text_printf(out, "%sand %u messages more", gap, side->messages_count - i);
            break;
        }
        const struct message *m = &side->messages[i];
        text_printf(out, "%smessage %u: %u bytes%s%s", gap, i + 1, m->size,
                    m->is_compressed ? ", compressed" : "", m->is_whole ? "" : ", begins here");
    }
    if (side->prefix_size > 0 && !is_within)
        text_printf(out, "%spart of a message's prefix", gap);
}

/* -- frames ------------------------------------------------------------------------------------ */

static const char *const frame_names[] = { "DATA",        "HEADERS",  "PRIORITY",
                                           "RST_STREAM",  "SETTINGS", "PUSH_PROMISE",
                                           "PING",        "GOAWAY",   "WINDOW_UPDATE",
                                           "CONTINUATION" };

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void put_settings(struct text *out, const struct wire_view *view, struct slice payload)
{
    static const char *const names[] = { "HEADER_TABLE_SIZE",
                                         "ENABLE_PUSH",
                                         "MAX_CONCURRENT_STREAMS",
                                         "INITIAL_WINDOW_SIZE",
                                         "MAX_FRAME_SIZE",
                                         "MAX_HEADER_LIST_SIZE",
                                         NULL,
                                         "ENABLE_CONNECT_PROTOCOL",
                                         "NO_RFC7540_PRIORITIES" };
    uint32_t column = INDENT;

    for (size_t at = 0; at + 6 <= payload.size; at += 6) {
        uint32_t id = (uint32_t)payload.data[at] << 8 | payload.data[at + 1];
        uint32_t value = get_u32(payload.data + at + 2);
        char word[64];
        int size = id >= 1 && id <= COUNT(names) && names[id - 1] != NULL
                       ? snprintf(word, sizeof word, "%s=%u", names[id - 1], value)
                       : snprintf(word, sizeof word, "setting %u=%u", id, value);
        if (column > INDENT && column + 1 + (uint32_t)size > columns_of(view)) {
            text_printf(out, "\n%*s", INDENT, "");
            column = INDENT;
        } else if (column > INDENT) {
            text_byte(out, ' ');
            column++;
        }
        text_str(out, word);
        column += (uint32_t)size;
    }
}

static void put_flags(struct text *out, const struct side *side)
{
    bool has_streams_end = side->type == NGHTTP2_DATA || side->type == NGHTTP2_HEADERS;
    bool has_headers_end = side->type == NGHTTP2_HEADERS || side->type == NGHTTP2_CONTINUATION;

    if (side->type == NGHTTP2_HEADERS && !side->is_sent && side->has_data)
        text_str(out, "trailers ");
    if (has_streams_end && (side->flags & 0x1))
        text_str(out, "END_STREAM ");
    if ((side->type == NGHTTP2_SETTINGS || side->type == NGHTTP2_PING) && (side->flags & 0x1))
        text_str(out, "ACK ");
    if (has_headers_end && (side->flags & 0x4))
        text_str(out, "END_HEADERS ");
    if (has_streams_end && (side->flags & 0x8))
        text_str(out, "PADDED ");
    if (side->type == NGHTTP2_HEADERS && (side->flags & 0x20))
        text_str(out, "PRIORITY ");
}

/* What was gathered; where nothing was, it has an address all the same. */
static struct slice gathered(const struct text *text)
{
    return text->size == 0 ? slice_of("") : text_slice(text);
}

static void put_control(struct wire_view *view, struct side *side)
{
    struct slice payload = gathered(&side->payload);
    struct text *out = &view->rows;

    switch (side->type) {
    case NGHTTP2_SETTINGS: put_settings(out, view, payload); break;
    case NGHTTP2_WINDOW_UPDATE:
        if (payload.size >= 4)
            text_printf(out, "+%u bytes", get_u32(payload.data) & 0x7fffffff);
        break;
    case NGHTTP2_RST_STREAM:
        if (payload.size >= 4)
            text_str(out, http2_code_name(get_u32(payload.data)));
        break;
    case NGHTTP2_GOAWAY:
        if (payload.size < 8)
            break;
        text_printf(out, "last stream %u, %s", get_u32(payload.data) & 0x7fffffff,
                    http2_code_name(get_u32(payload.data + 4)));
        if (payload.size > 8) {
            text_str(out, ", \"");
            put_cut(out, slice_skip(payload, 8), 40);
            text_str(out, "\"");
        }
        break;
    default: break;
    }
}

/* The header block in side->block, field by field. */
static void put_block(struct wire_view *view, struct side *side)
{
    const uint8_t *at = gathered(&side->block).data;
    size_t left = side->block.size;

    for (;;) {
        nghttp2_nv nv;
        int flags = 0;
        ssize_t used = nghttp2_hd_inflate_hd2(side->inflater, &nv, &flags, at, left, 1);
        if (used < 0) {
            text_printf(&view->rows, "%*sthe header block cannot be read: %s\n", NAME_INDENT, "",
                        nghttp2_strerror((int)used));
            side->is_broken = true;
            break;
        }
        at += used;
        left -= (size_t)used;
        if (flags & NGHTTP2_HD_INFLATE_EMIT) {
            struct slice name = slice_make(nv.name, nv.namelen);
            struct slice value = slice_make(nv.value, nv.valuelen);
            side->headers_plain += name.size + value.size;
            if (slice_is(name, "grpc-encoding"))
                side->encoding = grpc_encoding_of(value);
            put_field_line(view, name, value);
        }
        if (flags & NGHTTP2_HD_INFLATE_FINAL) {
            nghttp2_hd_inflate_end_headers(side->inflater);
            break;
        }
        if ((flags & NGHTTP2_HD_INFLATE_EMIT) == 0 && left == 0)
            break;
    }
    side->block.size = 0;
}

/* RFC 9113 6.2: padding's length in front, a priority behind it, padding at the end. */
static struct slice block_fragment(const struct side *side)
{
    struct slice block = gathered(&side->payload);
    size_t padding = 0;

    if (side->type == NGHTTP2_HEADERS && (side->flags & 0x8) && block.size > 0) {
        padding = block.data[0];
        block = slice_skip(block, 1);
    }
    if (side->type == NGHTTP2_HEADERS && (side->flags & 0x20))
        block = slice_skip(block, MIN((size_t)5, block.size));
    return slice_first(block, block.size - MIN(padding, block.size));
}

static void end_line(struct wire_view *view)
{
    while (view->rows.size > 0 && view->rows.data[view->rows.size - 1] == ' ')
        view->rows.size--;
    text_byte(&view->rows, '\n');
}

/* DATA that only goes on with what has begun. */
static bool is_quiet(const struct wire_view *view, const struct side *side)
{
    if (side->type != NGHTTP2_DATA || side->flags != 0)
        return false;
    return !view->settings.is_grpc || (side->was_within && side->prefix_size == GRPC_PREFIX_BYTES &&
                                       side->messages_count == side->messages_before);
}

static void end_frame(struct wire_view *view, struct side *side, uint64_t at_ns)
{
    bool is_block = side->type == NGHTTP2_HEADERS || side->type == NGHTTP2_CONTINUATION;
    char name[16], stream[16];

    if (side->type < COUNT(frame_names))
        snprintf(name, sizeof name, "%s", frame_names[side->type]);
    else
        snprintf(name, sizeof name, "type 0x%02x", side->type);
    snprintf(stream, sizeof stream, "%u", side->stream);
    side->frames++;
    side->frame_heads += FRAME_HEAD_BYTES;
    if (is_quiet(view, side)) {
        side->data += side->length;
        side->has_data = true;
        side->head_size = side->got = 0;
        if (hide_row(view, side->is_sent, at_ns, "DATA", stream, side->length))
            return;
        begin_row(view, side->is_sent, at_ns, name, stream, side->length);
        if (view->settings.is_grpc)
            put_data_words(&view->rows, side);
        end_line(view);
        return;
    }
    put_row(view, side, at_ns, name, stream, side->length);
    put_flags(&view->rows, side);
    if (side->type == NGHTTP2_DATA) {
        side->data += side->length;
        side->has_data = true;
        if (side->flags != 0)
            text_byte(&view->rows, ' ');
        if (view->settings.is_grpc)
            put_data_words(&view->rows, side);
    } else if (is_block) {
        side->header_blocks += side->length;
    } else {
        side->control += side->length;
        put_control(view, side);
    }
    end_line(view);
    if (is_block) {
        text_slice_put(&side->block, block_fragment(side));
        if (text_failed(&side->payload) || text_failed(&side->block))
            side->is_broken = true;
        else if (side->flags & 0x4)
            put_block(view, side);
    }
    side->payload.size = 0;
    side->head_size = side->got = 0;
}

static void begin_frame(struct side *side)
{
    const uint8_t *h = side->head;

    side->length = (uint32_t)h[0] << 16 | (uint32_t)h[1] << 8 | h[2];
    side->type = h[3];
    side->flags = h[4];
    side->stream = get_u32(h + 5) & 0x7fffffff;
    side->padding = 0;
    side->messages_before = side->messages_count;
    side->was_within = side->prefix_size == GRPC_PREFIX_BYTES;
}

static void keep_body(struct side *side, struct slice bytes)
{
    side->body_bytes += bytes.size;
    text_slice_put(&side->body, slice_first(bytes, BODY_BYTES_MAX - side->body.size));
}

/* Bytes of a DATA frame's payload, without padding. */
static void take_data(const struct wire_view *view, struct side *side, struct slice bytes)
{
    uint32_t at = side->got; /* in the payload */
    bool is_padded = (side->flags & 0x8) != 0;

    if (is_padded && at == 0 && bytes.size > 0) {
        side->padding = bytes.data[0];
        bytes = slice_skip(bytes, 1);
        at++;
    }
    uint32_t end = side->length - MIN(side->padding, side->length);
    bytes = slice_first(bytes, end - MIN(at, end));
    if (view->settings.is_grpc)
        read_data(side, bytes);
    else
        keep_body(side, bytes);
}

static void feed_frames(struct wire_view *view, struct side *side, struct slice bytes,
                        uint64_t at_ns)
{
    while (bytes.size > 0 && !side->is_broken) {
        if (side->preface_left > 0) {
            uint32_t size = (uint32_t)MIN((size_t)side->preface_left, bytes.size);
            side->preface_left -= size;
            bytes = slice_skip(bytes, size);
            if (side->preface_left > 0)
                continue;
            put_row(view, side, at_ns, "(preface)", "", PREFACE_BYTES);
            text_str(&view->rows, "\"PRI * HTTP/2.0\": this is HTTP/2\n");
            continue;
        }
        if (side->head_size < FRAME_HEAD_BYTES) {
            size_t size = MIN(FRAME_HEAD_BYTES - side->head_size, bytes.size);
            memcpy(side->head + side->head_size, bytes.data, size);
            side->head_size += (uint32_t)size;
            bytes = slice_skip(bytes, size);
            if (side->head_size < FRAME_HEAD_BYTES)
                continue;
            begin_frame(side);
        }
        size_t size = MIN((size_t)(side->length - side->got), bytes.size);
        if (side->type == NGHTTP2_DATA)
            take_data(view, side, slice_first(bytes, size));
        else if (side->payload.size + size <= KEPT_BYTES_MAX)
            text_slice_put(&side->payload, slice_first(bytes, size));
        side->got += (uint32_t)size;
        bytes = slice_skip(bytes, size);
        if (side->got == side->length)
            end_frame(view, side, at_ns);
    }
}

/* -- HTTP/1.1 ---------------------------------------------------------------------------------- */

static void put_http1_head(struct wire_view *view, struct side *side, uint64_t at_ns)
{
    struct slice head = text_slice(&side->http1_head);
    size_t end = slice_find(head, '\n');
    struct slice line = slice_trim(slice_first(head, end));

    if (line.size > 0 && line.data[line.size - 1] == '\r')
        line.size--;
    put_row(view, side, at_ns, side->is_sent ? "request" : "response", "", head.size);
    put_cut(&view->rows, line, columns_of(view) - INDENT);
    text_byte(&view->rows, '\n');
    side->header_blocks += head.size;
    side->headers_plain += head.size;
    while (end < head.size) {
        head = slice_skip(head, end + 1);
        end = slice_find(head, '\n');
        line = slice_first(head, end);
        if (line.size > 0 && line.data[line.size - 1] == '\r')
            line.size--;
        size_t colon = slice_find(line, ':');
        if (colon < line.size)
            put_field_line(view, slice_first(line, colon), slice_trim(slice_skip(line, colon + 1)));
    }
}

static void feed_http1(struct wire_view *view, struct side *side, struct slice bytes,
                       uint64_t at_ns)
{
    while (!side->has_head && bytes.size > 0) {
        size_t end = slice_find(bytes, '\n');
        struct slice line = slice_first(bytes, end + 1);
        bool is_last = end < bytes.size && side->http1_head.size > 0 &&
                       side->http1_head.data[side->http1_head.size - 1] == '\n' &&
                       (slice_is(line, "\r\n") || slice_is(line, "\n"));
        text_slice_put(&side->http1_head, line);
        bytes = slice_skip(bytes, line.size);
        /* A line's end may come in two pieces. */
        struct slice all = text_slice(&side->http1_head);
        side->has_head = is_last || slice_ends(all, "\r\n\r\n") || text_failed(&side->http1_head);
        if (side->has_head)
            put_http1_head(view, side, at_ns);
    }
    if (bytes.size > 0) {
        if (!hide_row(view, side->is_sent, at_ns, "body", "", bytes.size)) {
            begin_row(view, side->is_sent, at_ns, "body", "", bytes.size);
            end_line(view);
        }
        keep_body(side, bytes);
        side->data += bytes.size;
        side->frames++;
    }
}

/* -- life -------------------------------------------------------------------------------------- */

static void on_bytes(struct client_tap *tap, bool is_sent, struct slice bytes)
{
    struct wire_view *view = CONTAINER_OF(tap, struct wire_view, tap);
    uint64_t now = clock_mono_ns();

    /* Pieces of one write are told of right after each other, and left together. */
    bool is_same_write = is_sent && view->was_sent && now - view->fed_ns < SAME_WRITE_NS;
    bool is_first = !view->has_begun;
    if (!is_same_write)
        view->write_ns = now;
    wire_view_feed(view, is_sent, bytes, view->write_ns);
    if (is_first)
        view->write_ns = 0;
    view->was_sent = is_sent;
    view->fed_ns = clock_mono_ns();
}

enum err_code wire_view_new(struct wire_view **ret, const struct wire_view_settings *settings,
                            struct err *err)
{
    CLEANUP(wire_view_free) struct wire_view *view = mem_zalloc(sizeof *view);

    if (view == NULL)
        return err_set(err, E_EXHAUSTED, "no memory to show the wire");
    view->settings = *settings;
    view->title = mem_strdup(settings->title);
    view->server = mem_strdup(settings->server);
    if (view->title == NULL || view->server == NULL)
        return err_set(err, E_EXHAUSTED, "no memory to show the wire");
    view->tap.on_bytes = on_bytes;
    text_init(&view->rows, OUT_BYTES_MAX);
    text_init(&view->stamps, OUT_BYTES_MAX);
    for (int i = 0; i < 2; i++) {
        struct side *side = &view->sides[i];
        side->is_sent = i == 1;
        side->preface_left = i == 1 && settings->http2 ? (uint32_t)PREFACE_BYTES : 0;
        text_init(&side->payload, KEPT_BYTES_MAX);
        text_init(&side->block, KEPT_BYTES_MAX);
        text_init(&side->http1_head, HEAD_BYTES_MAX);
        text_init(&side->body, BODY_BYTES_MAX);
        if (nghttp2_hd_inflate_new(&side->inflater) != 0)
            return err_set(err, E_EXHAUSTED, "no memory to show the wire");
    }
    *ret = TAKE(view);
    return OK;
}

void wire_view_free(struct wire_view **slot)
{
    struct wire_view *view = TAKE(*slot);

    if (view == NULL)
        return;
    for (int i = 0; i < 2; i++) {
        struct side *side = &view->sides[i];
        text_deinit(&side->payload);
        text_deinit(&side->block);
        text_deinit(&side->http1_head);
        text_deinit(&side->body);
        for (uint32_t j = 0; j < MIN(side->messages_count, (uint32_t)MESSAGES_MAX); j++)
            text_deinit(&side->messages[j].bytes);
        if (side->inflater != NULL)
            nghttp2_hd_inflate_del(side->inflater);
    }
    text_deinit(&view->rows);
    text_deinit(&view->stamps);
    mem_free(view->title);
    mem_free(view->server);
    mem_free(view);
}

struct client_tap *wire_view_tap(struct wire_view *view)
{
    return &view->tap;
}

/* Bytes are told of after they were written, and on one machine the server may have read them and
 * worked before the writer runs again: zero is when the call was given to its connection. */
void wire_view_end(struct wire_view *view, struct client_times times)
{
    uint64_t ns = times.send_ns + times.wait_ns + times.receive_ns;

    view->begun_ns = MIN(view->begun_ns, clock_mono_ns() - ns);
}

void wire_view_feed(struct wire_view *view, bool is_sent, struct slice bytes, uint64_t at_ns)
{
    struct side *side = &view->sides[is_sent ? 1 : 0];

    if (!view->has_begun) {
        view->has_begun = true;
        view->begun_ns = at_ns;
        at_ns = 0;
    }
    side->bytes += bytes.size;
    if (view->settings.http2)
        feed_frames(view, side, bytes, at_ns);
    else
        feed_http1(view, side, bytes, at_ns);
}

/* -- messages, field by field ------------------------------------------------------------------ */

struct walk {
    const struct wire_view *view;
    struct text *out;
    uint32_t rows, dropped;
};

static const char *kind_word(enum proto_kind kind)
{
    static const char *const words[] = { "?",        "double",   "float",   "int64",  "uint64",
                                         "int32",    "fixed64",  "fixed32", "bool",   "string",
                                         "group",    "message",  "bytes",   "uint32", "enum",
                                         "sfixed32", "sfixed64", "sint32",  "sint64" };

    return (size_t)kind < COUNT(words) ? words[kind] : "?";
}

static const char *wire_word(enum pb_wire wire)
{
    static const char *const words[] = { "VARINT", "I64", "LEN", "SGROUP", "EGROUP", "I32" };

    return (size_t)wire < COUNT(words) ? words[wire] : "?";
}

static void put_number(struct text *out, double value, bool is_float)
{
    char digits[NUMBER_TEXT_MAX];

    if (value != value)
        text_str(out, "NaN");
    else if (value - value != 0)
        text_str(out, value > 0 ? "Infinity" : "-Infinity");
    else
        text_put(out, digits,
                 is_float ? number_write_f32(digits, (float)value)
                          : number_write_f64(digits, value));
}

/* A number of any kind but LEN. */
static void put_scalar(struct text *out, const struct proto_field *f, enum pb_wire wire,
                       uint64_t value)
{
    uint32_t low = (uint32_t)value;
    const char *name;
    double d;
    float s;

    switch (f == NULL ? (enum proto_kind)0 : f->kind) {
    case PROTO_DOUBLE:
        memcpy(&d, &value, sizeof d);
        put_number(out, d, false);
        return;
    case PROTO_FLOAT:
        memcpy(&s, &low, sizeof s);
        put_number(out, (double)s, true);
        return;
    case PROTO_BOOL: text_str(out, value != 0 ? "true" : "false"); return;
    case PROTO_ENUM:
        name = proto_enum_value(f->enumeration, (int32_t)value);
        text_i64(out, (int32_t)value);
        if (name != NULL)
            text_printf(out, " %.60s", name);
        return;
    case PROTO_SINT32:
    case PROTO_SINT64: text_i64(out, pb_zigzag(value)); return;
    case PROTO_INT32: text_i64(out, (int32_t)value); return;
    case PROTO_SFIXED32: text_i64(out, (int32_t)low); return;
    case PROTO_INT64:
    case PROTO_SFIXED64: text_i64(out, (int64_t)value); return;
    default: (void)wire; text_u64(out, value);
    }
}

static size_t packed_width(enum proto_kind kind)
{
    switch (kind) {
    case PROTO_DOUBLE:
    case PROTO_FIXED64:
    case PROTO_SFIXED64: return 8;
    case PROTO_FLOAT:
    case PROTO_FIXED32:
    case PROTO_SFIXED32: return 4;
    default: return 0;
    }
}

static size_t count_packed(const struct proto_field *f, struct slice bytes)
{
    size_t width = packed_width(f->kind), count = 0;
    struct pb_reader r;
    uint64_t value;

    if (width != 0)
        return bytes.size / width;
    pb_begin(&r, bytes);
    while (pb_varint(&r, &value))
        count++;
    return count;
}

/* "5.1, 3.5, 1.4, 0.2"; of many their number and the first. */
static void put_packed(struct text *out, const struct proto_field *f, struct slice bytes)
{
    size_t width = packed_width(f->kind), count = count_packed(f, bytes);
    struct pb_reader r;

    if (count > VALUES_MAX)
        text_printf(out, "%zu values: ", count);
    pb_begin(&r, bytes);
    for (size_t i = 0; i < MIN(count, (size_t)VALUES_MAX); i++) {
        uint64_t value = 0;
        if (width != 0)
            memcpy(&value, bytes.data + i * width, width);
        else if (!pb_varint(&r, &value))
            break;
        text_str(out, i == 0 ? "" : ", ");
        put_scalar(out, f, width == 8 ? PB_I64 : width == 4 ? PB_I32 : PB_VARINT, value);
    }
    text_str(out, count > VALUES_MAX ? ", ..." : "");
}

static void put_bytes(struct text *out, struct slice bytes)
{
    if (bytes.size > 16)
        text_printf(out, "%zu bytes: ", bytes.size);
    for (size_t i = 0; i < MIN(bytes.size, (size_t)16); i++)
        text_printf(out, "%s%02x", i == 0 ? "" : " ", bytes.data[i]);
    text_str(out, bytes.size > 16 ? " ..." : "");
}

static bool is_packed(const struct proto_field *f, enum pb_wire wire)
{
    return f != NULL && wire == PB_LEN && f->is_repeated && f->kind != PROTO_STRING &&
           f->kind != PROTO_BYTES && f->message == NULL;
}

static void put_value(struct text *out, const struct proto_field *f, const struct pb_field *field)
{
    if (field->wire != PB_LEN) {
        put_scalar(out, f, field->wire, field->value);
        return;
    }
    if (is_packed(f, field->wire)) {
        put_packed(out, f, field->bytes);
    } else if (f != NULL && f->kind == PROTO_STRING) {
        text_byte(out, '"');
        text_slice_put(out, slice_first(field->bytes, 1000));
        text_byte(out, '"');
    } else if (f == NULL || f->message == NULL) {
        put_bytes(out, field->bytes);
    }
}

static void put_field(struct walk *w, const struct proto_field *f, const struct pb_field *field,
                      size_t size, unsigned depth)
{
    char bytes[4096], kind[64], name[80];
    struct text value;
    uint32_t columns = columns_of(w->view);

    text_init_fixed(&value, bytes, sizeof bytes);
    put_value(&value, f, field);
    if (f == NULL)
        snprintf(kind, sizeof kind, "unknown");
    else
        snprintf(kind, sizeof kind, "%s%s", kind_word(f->kind),
                 is_packed(f, field->wire) ? "s, packed" : "");
    snprintf(name, sizeof name, "%*s%.40s", (int)(2 * depth), "", f == NULL ? "?" : f->name);
    text_printf(w->out, "  %4u  ", field->number);
    put_style(w->out, w->view, BOLD);
    print_padded(w->out, slice_of(name), 22);
    put_style(w->out, w->view, PLAIN);
    text_printf(w->out, "  %-16s %-6s %7zu  ", kind, wire_word(field->wire), size);
    put_cut(w->out, text_slice(&value), columns - 64);
    while (w->out->size > 0 && w->out->data[w->out->size - 1] == ' ')
        w->out->size--;
    text_byte(w->out, '\n');
}

static void walk_message(struct walk *w, const struct proto_type *type, struct slice bytes,
                         unsigned depth)
{
    struct pb_reader r;
    struct pb_field field;

    pb_begin(&r, bytes);
    for (;;) {
        const uint8_t *before = r.at;
        struct proto_field f;
        if (!pb_next(&r, &field))
            break;
        bool is_known = type != NULL && proto_type_field_by_number(type, field.number, &f);
        if (w->rows++ >= FIELDS_MAX) {
            w->dropped++;
            continue;
        }
        put_field(w, is_known ? &f : NULL, &field, (size_t)(r.at - before), depth);
        if (is_known && f.message != NULL && field.wire == PB_LEN && depth < DEPTH_MAX)
            walk_message(w, f.message, field.bytes, depth + 1);
    }
    if (pb_failed(&r))
        text_printf(w->out, "  byte %zu: %s\n", (size_t)(r.at - r.begin), r.fault);
}

static void put_message(struct text *out, const struct wire_view *view, const struct side *side,
                        uint32_t index, struct slice json)
{
    const struct message *message = &side->messages[index];
    const struct proto_type *type =
        side->is_sent ? view->settings.request : view->settings.response;
    struct walk walk = { .view = view, .out = out };
    struct slice bytes = text_slice(&message->bytes);
    CLEANUP(buf_unref) struct buf *content = NULL;
    size_t offset = 0;
    struct err err = { 0 };
    bool is_cut = bytes.size < message->size;

    text_byte(out, '\n');
    put_style(out, view, side->is_sent ? CYAN : GREEN);
    text_printf(out, "%s message %u", side->is_sent ? "->" : "<-", index + 1);
    put_style(out, view, PLAIN);
    text_printf(out, "  %s, %u bytes", type == NULL ? "?" : proto_type_name(type), message->size);
    if (message->is_compressed && side->encoding != ENCODING_GZIP &&
        side->encoding != ENCODING_DEFLATE) {
        text_str(out, ", compressed, and nobody says how (grpc-encoding)\n");
        return;
    }
    if (message->is_compressed && !is_cut) {
        if (grpc_message_inflate(&content, &offset, NULL, NULL, side->encoding, bytes,
                                 MESSAGE_BYTES_MAX, NULL, &err) != OK) {
            text_printf(out, ", compressed: %.200s\n", err.text);
            return;
        }
        bytes = content == NULL ? slice_of("") : slice_skip(buf_bytes(content), offset);
        text_printf(out, " compressed by %s, %zu without", encoding_name(side->encoding),
                    bytes.size);
    }
    text_byte(out, '\n');
    if (is_cut && (message->is_compressed || bytes.size < MESSAGE_BYTES_MAX)) {
        text_str(out,
                 message->is_whole ? "  too large to be shown\n" : "  it did not come whole\n");
        return;
    }
    if (bytes.size > 0) {
        put_style(out, view, FAINT);
        text_str(out, "    no  field                   type             wire     bytes  value\n");
        put_style(out, view, PLAIN);
    }
    walk_message(&walk, type, bytes, 0);
    if (walk.dropped > 0)
        text_printf(out, "  and %u fields more\n", walk.dropped);
    if (json.size > 0) {
        put_style(out, view, FAINT);
        text_printf(out, "  as JSON, %zu bytes:\n", json.size);
        put_style(out, view, PLAIN);
        text_str(out, "  ");
        put_lines(out, view, json, 2, JSON_LINES_MAX);
    }
}

static void put_body(struct text *out, const struct wire_view *view, const struct side *side)
{
    if (side->body_bytes == 0)
        return;
    text_byte(out, '\n');
    put_style(out, view, side->is_sent ? CYAN : GREEN);
    text_str(out, side->is_sent ? "-> body" : "<- body");
    put_style(out, view, PLAIN);
    text_printf(out, ", %" PRIu64 " bytes%s:\n  ", side->body_bytes,
                side->body_bytes > side->body.size ? ", of which the first" : "");
    put_lines(out, view, slice_trim(text_slice(&side->body)), 2, JSON_LINES_MAX);
}

/* -- what it weighs ---------------------------------------------------------------------------- */

static void put_size(struct text *out, const char *what, uint64_t sent, uint64_t received)
{
    if (sent == 0 && received == 0)
        return;
    text_printf(out, "  %-38s %9" PRIu64 " %9" PRIu64 "\n", what, sent, received);
}

static void put_sizes(struct text *out, const struct wire_view *view, struct slice request_json,
                      struct slice answer_json)
{
    const struct side *in = &view->sides[0], *sent = &view->sides[1];
    bool is_grpc = view->settings.is_grpc, http2 = view->settings.http2;

    text_byte(out, '\n');
    put_style(out, view, BOLD);
    text_printf(out, "%-40s %9s %9s\n", "bytes", "sent", "received");
    put_style(out, view, PLAIN);
    if (is_grpc) {
        put_size(out, "messages", sent->message_bytes, in->message_bytes);
        put_size(out, "gRPC's prefixes", sent->prefixes, in->prefixes);
    } else {
        put_size(out, "bodies", sent->data, in->data);
    }
    put_size(out, http2 ? "header blocks (HPACK)" : "heads", sent->header_blocks,
             in->header_blocks);
    if (http2) {
        put_size(out, "frames' own heads, 9 each", sent->frame_heads, in->frame_heads);
        put_size(out, "SETTINGS and the like, the preface",
                 sent->control + PREFACE_BYTES - sent->preface_left, in->control);
    }
    put_style(out, view, BOLD);
    put_size(out, "all on the wire", sent->bytes, in->bytes);
    put_style(out, view, PLAIN);
    if (is_grpc)
        put_size(out, "the same messages as JSON", request_json.size, answer_json.size);
    if (http2)
        put_size(out, "the same header fields without HPACK", sent->headers_plain,
                 in->headers_plain);
}

static void put_rows(struct text *out, const struct wire_view *view)
{
    struct slice rows = text_slice(&view->rows), stamps = text_slice(&view->stamps);
    size_t at = 0;

    for (; stamps.size >= sizeof(struct stamp); stamps = slice_skip(stamps, sizeof(struct stamp))) {
        struct stamp stamp;
        memcpy(&stamp, stamps.data, sizeof stamp);
        if (stamp.at > rows.size)
            break;
        text_put(out, rows.data + at, stamp.at - at);
        uint64_t ns = stamp.at_ns > view->begun_ns ? stamp.at_ns - view->begun_ns : 0;
        text_printf(out, "%8.3f  ", (double)ns / 1e6);
        at = stamp.at;
    }
    text_slice_put(out, slice_skip(rows, at));
}

void wire_view_write(struct wire_view *view, struct text *out, struct slice request_json,
                     struct slice answer_json)
{
    end_run(view);
    put_style(out, view, BOLD);
    print_escaped(out, slice_of(view->title), false);
    put_style(out, view, PLAIN);
    text_printf(out, " on %s, %s, a new connection\n\n", view->server,
                view->settings.is_grpc ? "gRPC over HTTP/2"
                : view->settings.http2 ? "HTTP/2"
                                       : "HTTP/1.1");
    put_style(out, view, FAINT);
    text_printf(out, "%8s      %-13s %2s %7s\n", "ms", view->settings.http2 ? "frame" : "part",
                view->settings.http2 ? "on" : "", "bytes");
    put_style(out, view, PLAIN);
    put_rows(out, view);
    for (int i = 0; i < 2; i++) {
        struct side *side = &view->sides[i];
        if (side->is_broken)
            text_printf(out, "  what %s next is no HTTP/2\n", i == 1 ? "was sent" : "came");
    }
    for (int i = 1; i >= 0; i--) {
        const struct side *side = &view->sides[i];
        for (uint32_t m = 0; m < MIN(side->messages_count, (uint32_t)MESSAGES_MAX); m++)
            put_message(out, view, side, m,
                        m > 0    ? slice_of("")
                        : i == 1 ? request_json
                                 : answer_json);
    }
    put_body(out, view, &view->sides[1]);
    put_body(out, view, &view->sides[0]);
    put_sizes(out, view, request_json, answer_json);
}

void wire_view_say(struct wire_view *view, struct slice request_json, struct slice answer_json)
{
    struct text out;

    text_init(&out, 2 * (size_t)OUT_BYTES_MAX);
    wire_view_write(view, &out, request_json, answer_json);
    text_byte(&out, '\n');
    (void)print_out(STDERR_FILENO, &out);
    text_deinit(&out);
}
