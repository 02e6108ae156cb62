/* grpc_answer_test.h - what tests ask of a gRPC call that was answered on a fake exchange. Test only. */
#ifndef API_GRPC_ANSWER_TEST_H
#define API_GRPC_ANSWER_TEST_H

#include "api/fake_exchange.h"
#include "base/text.h"
#include "call/grpc_wire.h"
#include "test/harness.h"

static inline enum err_code code_of(const struct fake *fake)
{
    struct slice digits = fake_answer_header(fake, "grpc-status");

    check(fake->status == 200 && digits.size != 0, "HTTP %u, grpc-status '%.*s'", fake->status,
          SLICE_ARG(digits));
    return slice_is(digits, "0") ? OK : grpc_status_parse(digits);
}

/* grpc-message, decoded; valid until the next. */
static inline const char *words_of(const struct fake *fake)
{
    static struct text words;

    text_deinit(&words);
    text_init(&words, 1 << 16);
    grpc_message_decode(&words, fake_answer_header(fake, "grpc-message"));
    return text_cstr(&words);
}

static inline void check_status(const struct fake *fake, enum err_code code, const char *words)
{
    check(code_of(fake) == code, "%s: %s", err_name(code_of(fake)), words_of(fake));
    check(strstr(words_of(fake), words) != NULL, "%s\n  lacks %s", words_of(fake), words);
}

static inline void check_violation(const struct fake *fake, const char *field)
{
    struct grpc_details details = { .field = { NULL, 0 } };
    struct slice value = fake_answer_header(fake, "grpc-status-details-bin");
    struct text bytes;

    text_init(&bytes, 1 << 16);
    check(value.size != 0 && grpc_bin_decode(&bytes, value) &&
              grpc_details_decode(&details, text_slice(&bytes), NULL) == OK &&
              slice_is(details.field, field),
          "field '%.*s', not '%s'", SLICE_ARG(details.field), field);
    text_deinit(&bytes);
}

#endif
