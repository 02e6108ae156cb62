/* grpc_wire_fuzz.c - any bytes as each thing that a peer writes into gRPC's headers, and as what is
 * written there. SPDX-License-Identifier: Apache-2.0 */
#include "call/grpc_wire.h"

#include "base/budget.h"
#include "base/buf.h"
#include "base/text.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OUT_MAX = 1 << 16 };

static void timeout(struct slice in)
{
    char out[GRPC_TIMEOUT_ROOM];
    uint64_t ns, back;
    struct err err = { 0 };

    enum err_code code = grpc_timeout_parse(&ns, in, &err);
    require((code == OK) == (err.text[0] == '\0') && (code == OK || code == E_INVALID));
    if (code == OK) {
        size_t size = grpc_timeout_format(out, ns);
        require(grpc_timeout_parse(&back, slice_make(out, size), NULL) == OK && back >= ns);
    }
}

static void message(struct slice in)
{
    struct text plain, again, back;

    text_init(&plain, 8 * OUT_MAX);
    text_init(&again, 32 * OUT_MAX);
    text_init(&back, 8 * OUT_MAX);
    grpc_message_decode(&plain, in);
    require(utf8_valid_prefix(text_slice(&plain)) == plain.size);
    grpc_message_encode(&again, text_slice(&plain));
    require(grpc_message_is_plain(text_slice(&plain)) ==
            slice_eq(text_slice(&plain), text_slice(&again)));
    grpc_message_decode(&back, text_slice(&again));
    require(slice_eq(text_slice(&plain), text_slice(&back)));
    text_deinit(&plain);
    text_deinit(&again);
    text_deinit(&back);
}

static void binary(struct slice in)
{
    struct text bytes, again;

    text_init(&bytes, 8 * OUT_MAX);
    text_init(&again, 8 * OUT_MAX);
    grpc_bin_encode(&again, in);
    require(grpc_bin_decode(&bytes, text_slice(&again)) && slice_eq(text_slice(&bytes), in));
    while (in.size > 0) {
        bytes.size = 0;
        struct slice value = grpc_bin_cut(&in);
        if (!grpc_bin_decode(&bytes, value))
            require(bytes.size == 0);
        else
            require(bytes.size <= value.size);
    }
    text_deinit(&bytes);
    text_deinit(&again);
}

static void details(struct slice in)
{
    struct grpc_details d, back;
    struct text out;
    struct err err = { 0 };

    if (grpc_details_decode(&d, in, &err) != OK) {
        require(err.code == E_INVALID && err.text[0] != '\0');
        return;
    }
    if (d.retry_after_ms > UINT64_MAX / 2)
        return;
    text_init(&out, 8 * OUT_MAX);
    grpc_details_encode(&out, &d);
    require(grpc_details_decode(&back, text_slice(&out), NULL) == OK);
    require(back.code == d.code && slice_eq(back.message, d.message) &&
            slice_eq(back.field, d.field) && slice_eq(back.description, d.description) &&
            back.has_retry == d.has_retry && back.retry_after_ms == d.retry_after_ms);
    text_deinit(&out);
}

static void inflate(enum encoding encoding, struct slice in)
{
    struct buf *plain = NULL;
    struct budget budget;
    struct err err = { 0 };
    bool is_too_large = false;
    size_t offset = 0;

    budget_init(&budget, 1 << 20);
    enum err_code code = grpc_message_inflate(&plain, &offset, &is_too_large, &budget, encoding, in,
                                              OUT_MAX, "--max-message", &err);
    require(code == OK || code == E_INTERNAL || code == E_EXHAUSTED);
    require(code == OK || (plain == NULL && err.code == code && err.text[0] != '\0'));
    require(plain == NULL || buf_bytes(plain).size - offset <= OUT_MAX);
    buf_unref(&plain);
    require(budget_used(&budget) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > OUT_MAX)
        return 0;
    struct slice in = { data + 1, size - 1 };
    switch (data[0] % 6) {
    case 0: timeout(in); break;
    case 1: message(in); break;
    case 2: binary(in); break;
    case 3: details(in); break;
    case 4: inflate(size % 2 == 0 ? ENCODING_GZIP : ENCODING_DEFLATE, in); break;
    default:
        (void)grpc_status_parse(in);
        (void)grpc_encoding_of(in);
        (void)grpc_encoding_is_accepted(in, ENCODING_GZIP);
        (void)grpc_metadata_key_is_custom(in);
        (void)grpc_metadata_value_is_ascii(in);
    }
    return 0;
}
