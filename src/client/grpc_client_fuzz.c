/* grpc_client_fuzz.c - any answer to a gRPC call: its messages, whole and byte by byte, must be the
 * same, and its status must be one. SPDX-License-Identifier: Apache-2.0 */
#include "client/grpc_client.h"

#include "base/buf.h"
#include "base/text.h"
#include "client/answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    enum err_code code;
    uint32_t messages;
    uint64_t sum; /* of sizes and bytes */
    size_t missing;
};

static struct seen read_all(struct slice bytes, size_t step, enum encoding encoding)
{
    struct seen seen = { .code = OK };
    struct text in;

    text_init(&in, 1 << 20);
    struct grpc_reader r = { .in = &in, .encoding = encoding, .message_bytes_max = 4096 };
    do {
        struct slice piece = slice_first(bytes, step);
        struct grpc_read read = { .has_message = true };
        struct err err = { 0 };
        text_slice_put(&in, piece);
        bytes = slice_skip(bytes, piece.size);
        while (seen.code == OK && read.has_message) {
            seen.code = grpc_reader_next(&r, &read, &err);
            require(seen.code == OK || err.text[0] != '\0');
            if (seen.code != OK || !read.has_message)
                break;
            require(read.message.bytes.size <= 4096);
            seen.messages++;
            seen.sum = seen.sum * 31 + read.message.bytes.size;
            for (size_t i = 0; i < read.message.bytes.size; i++)
                seen.sum = seen.sum * 31 + read.message.bytes.data[i];
            buf_unref(&read.holder);
        }
        seen.missing = read.missing_bytes;
    } while (bytes.size > 0 && seen.code == OK);
    text_deinit(&in);
    return seen;
}

/* "name: value" lines as the trailers of an answer. */
static void read_status(struct slice lines)
{
    struct answer_limits limits = { .header_bytes_max = 8192, .body_bytes_max = 8192 };
    CLEANUP(answer_free) struct answer *answer = NULL;
    struct grpc_client_status status;
    struct text memory;
    struct err err = { 0 };

    require(answer_new(&answer, limits, false, &err) == OK);
    while (lines.size > 0) {
        size_t end = slice_find(lines, '\n');
        struct slice line = slice_first(lines, end);
        size_t colon = slice_find(line, ':');
        lines = slice_skip(lines, end < lines.size ? end + 1 : end);
        if (colon == line.size) {
            if (!answer->has_head)
                answer_end_head(answer, 200);
            continue;
        }
        if (answer_add_header(answer, slice_first(line, colon), slice_skip(line, colon + 1),
                              &err) != OK)
            break;
    }
    text_init(&memory, 64 << 10);
    grpc_status_read(&status, answer, lines, &memory);
    require(status.err.code <= E_UNAUTHENTICATED);
    require(status.err.code == OK || status.is_servers || status.err.text[0] != '\0');
    text_deinit(&memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    enum encoding encoding = data[0] % 3 == 0   ? ENCODING_IDENTITY
                             : data[0] % 3 == 1 ? ENCODING_GZIP
                                                : ENCODING_DEFLATE;
    struct slice bytes = slice_make(data + 1, size - 1);
    struct seen whole = read_all(bytes, bytes.size, encoding);
    struct seen pieces = read_all(bytes, 1, encoding);
    require(whole.code == pieces.code && whole.messages == pieces.messages);
    require(whole.sum == pieces.sum);
    require(whole.code != OK || whole.missing == pieces.missing);
    read_status(bytes);
    return 0;
}
