/* record.c - SPDX-License-Identifier: Apache-2.0 */
#include "telemetry/record.h"

#include <stddef.h>

const uint16_t record_text_max[RECORD_TEXTS] = {
    [RECORD_PEER] = 64,          [RECORD_CALLER] = 64,  [RECORD_TENANT] = 64,
    [RECORD_METHOD] = 32,        [RECORD_PATH] = 512,   [RECORD_QUERY] = 256,
    [RECORD_ROUTE] = 160,        [RECORD_PROTOCOL] = 16, [RECORD_TLS] = 16,
    [RECORD_MODEL] = 128,        [RECORD_VERSION] = 24, [RECORD_REQUEST_ID] = 128,
    [RECORD_AGENT] = 160,        [RECORD_WHY] = 256,    [RECORD_TRACE_STATE] = TRACE_STATE_MAX,
};

_Static_assert(sizeof(struct record) + 64 * 3 + 32 + 512 + 256 + 160 + 16 * 2 + 128 + 24 + 128 +
                       160 + 256 + TRACE_STATE_MAX + 8 +
                       RECORD_INFERENCES_MAX * sizeof(struct record_inference) <=
                   RECORD_BYTES_MAX,
               "the largest record fits");

void record_begin(struct record *record)
{
    memset(record, 0, offsetof(struct record, bytes));
}

void record_put(struct record *record, enum record_text which, struct slice text)
{
    size_t size = text.size;

    if (UNLIKELY(size > record_text_max[which])) {
        size = record_text_max[which];
        record->cut |= (uint16_t)(1u << which);
    }
    if (size != 0)
        memcpy(record->bytes + record->texts_size, text.data, size);
    record->sizes[which] = (uint16_t)size;
    record->texts_size = (uint16_t)(record->texts_size + size);
}

/* From the record's beginning, which is a multiple of 8. */
static size_t inferences_at(const struct record *record)
{
    return (offsetof(struct record, bytes) + record->texts_size + 7) & ~(size_t)7;
}

void record_add_inference(struct record *record, const struct record_inference *one)
{
    if (record->inferences == RECORD_INFERENCES_MAX)
        return;
    memcpy((uint8_t *)record + inferences_at(record) + record->inferences * sizeof *one, one,
           sizeof *one);
    record->inferences++;
}

size_t record_size(const struct record *record)
{
    return inferences_at(record) + record->inferences * sizeof(struct record_inference);
}

void record_read(struct record_view *view, const struct record *record)
{
    const uint8_t *at = record->bytes;

    view->record = record;
    for (size_t i = 0; i < RECORD_TEXTS; i++) {
        view->texts[i] = slice_make(at, record->sizes[i]);
        at += record->sizes[i];
    }
    view->inferences = (const struct record_inference *)(const void *)((const uint8_t *)record +
                                                                       inferences_at(record));
}
