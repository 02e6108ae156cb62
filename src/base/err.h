/* err.h - how a failure travels: a code to act on and a text for a person.
 *
 * The place that detects a failure writes the text; places above may prefix what they were doing
 * (err_wrap). No layer logs what it also returns. `struct err` is the caller's and of fixed size:
 * failing allocates nothing. Text longer than fits is cut at a UTF-8 boundary.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "base/def.h"

enum err_code {
    OK = 0,
#define ERR(id, number, grpc, http, when) id = number,
#include "tables/errors.def"
#undef ERR
    ERR_CODE_END = 17
};

enum { ERR_TEXT_MAX = 768 };

struct err {
    enum err_code code;
    uint32_t retry_after_ms; /* 0: whoever found it knows no better than err_retry_ms */
    char text[ERR_TEXT_MAX];
};

/* Sets code and text; returns code. err may be NULL. */
enum err_code err_set(struct err *err, enum err_code code, const char *format, ...)
    PRINTF_LIKE(3, 4);
/* Puts "<prefix>: " before the text that is there; returns the code that is there. */
enum err_code err_wrap(struct err *err, const char *format, ...) PRINTF_LIKE(2, 3);

/* E_EXHAUSTED of what will never fit (a message over the limit): asking again does not help. */
#define ERR_RETRY_NEVER UINT32_MAX
/* When to ask again: every E_EXHAUSTED and E_UNAVAILABLE says so, in the words of each dialect. What is full
 * now is less so in a second, where nobody knows better. 0: nothing is to be said of it. */
static inline uint32_t err_retry_ms(const struct err *err)
{
    if (err->retry_after_ms != 0)
        return err->retry_after_ms;
    return err->code == E_EXHAUSTED || err->code == E_UNAVAILABLE ? 1000 : 0;
}

const char *err_name(enum err_code code);     /* "INVALID_ARGUMENT"; "OK" for OK */
uint16_t err_http_status(enum err_code code); /* 200 for OK */

#endif
