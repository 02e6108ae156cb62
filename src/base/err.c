/* err.c - the texts and codes of failure.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint16_t http;
} rows[ERR_CODE_END] = {
    [OK] = { "OK", 200 },
#define ERR(id, number, grpc, http, when) [id] = { grpc, http },
#include "tables/errors.def"
#undef ERR
};

static _Thread_local const char *context_text;

void require_context(const char *text)
{
    context_text = text;
}

void require_failed(const char *cond, const char *file, int line, const char *func)
{
    fprintf(stderr, "penstock: broken invariant: %s (%s:%d, %s)%s%s\n", cond, file, line, func,
            context_text != NULL ? " while working on " : "",
            context_text != NULL ? context_text : "");
    abort();
}

/* Cuts a text that filled its room so that no UTF-8 sequence is left in half. */
static void trim_utf8(char *text, size_t size)
{
    size_t at = size;

    while (at > 0 && ((unsigned char)text[at - 1] & 0xc0u) == 0x80u)
        at--;
    if (at == 0)
        return;
    unsigned char lead = (unsigned char)text[at - 1];
    size_t want = lead >= 0xf0u ? 4 : lead >= 0xe0u ? 3 : lead >= 0xc0u ? 2 : 1;
    if (size - (at - 1) < want)
        text[at - 1] = '\0';
}

enum err_code err_set(struct err *err, enum err_code code, const char *format, ...)
{
    va_list args;

    if (err == NULL)
        return code;
    err->code = code;
    err->retry_after_ms = 0;
    va_start(args, format);
    int wrote = vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    if (wrote >= (int)sizeof err->text)
        trim_utf8(err->text, sizeof err->text - 1);
    return code;
}

enum err_code err_wrap(struct err *err, const char *format, ...)
{
    char old[ERR_TEXT_MAX];
    va_list args;

    if (err == NULL)
        return E_UNKNOWN;
    memcpy(old, err->text, sizeof old);
    va_start(args, format);
    int wrote = vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    size_t at = wrote < 0 ? 0 : MIN((size_t)wrote, sizeof err->text - 1);
    wrote = snprintf(err->text + at, sizeof err->text - at, ": %s", old);
    if (wrote < 0 || at + (size_t)wrote >= sizeof err->text)
        trim_utf8(err->text, strlen(err->text));
    return err->code;
}

const char *err_name(enum err_code code)
{
    return code < ERR_CODE_END && rows[code].name != NULL ? rows[code].name : "UNKNOWN";
}

uint16_t err_http_status(enum err_code code)
{
    return code < ERR_CODE_END && rows[code].http != 0 ? rows[code].http : 500;
}
