/* client_fuzz.c - any bytes as an answer: whole and one at a time they must come to the same, and
 * as an address. SPDX-License-Identifier: Apache-2.0 */
#include "client/answer.h"

#include <stdio.h>

#include "client/url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum err_code read_answer(struct answer **ret, struct slice bytes, size_t step, bool is_head)
{
    struct answer_limits limits = { .header_bytes_max = 2048, .body_bytes_max = 4096 };
    struct err err = { 0 };
    enum err_code code = answer_new(ret, limits, is_head, &err);

    while (code == OK && bytes.size > 0 && !(*ret)->is_complete) {
        size_t n = MIN(step, bytes.size);
        code = answer_feed(*ret, slice_first(bytes, n), &err);
        bytes = slice_skip(bytes, n);
    }
    if (code == OK)
        code = answer_finish(*ret, &err);
    require(code == OK || err.text[0] != '\0');
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(answer_free) struct answer *whole = NULL;
    CLEANUP(answer_free) struct answer *pieces = NULL;
    struct url address;
    struct err err = { 0 };

    if (size == 0)
        return 0;
    bool is_head = data[0] & 1;
    struct slice bytes = slice_make(data + 1, size - 1);
    enum err_code a = read_answer(&whole, bytes, bytes.size, is_head);
    enum err_code b = read_answer(&pieces, bytes, 1, is_head);
    /* Which of two faults is met first may depend on the pieces; whether there is one may not. */
    require((a == OK) == (b == OK));
    if (a == OK) {
        require(whole->status == pieces->status);
        require(whole->headers_count == pieces->headers_count);
        require(slice_eq(whole->body, pieces->body));
        for (uint32_t i = 0; i < whole->headers_count; i++)
            require(slice_eq(whole->headers[i].value, pieces->headers[i].value));
    }
    if (url_parse(&address, bytes, &err) == OK) {
        struct url again;
        char shown[URL_HOST_MAX + 32];
        /* What is shown is an address, and the same one. */
        snprintf(shown, sizeof shown, "%s%s", address.is_unix ? "" : "http://", address.shown);
        require(url_parse(&again, slice_of(shown), &err) == OK);
        require(strcmp(again.host, address.host) == 0 && again.port == address.port);
    }
    return 0;
}
