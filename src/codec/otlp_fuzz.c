/* otlp_fuzz.c - any bytes as a collector's answer, and as the texts of a record.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/pb.h"
#include "base/utf8.h"
#include "codec/otlp.h"
#include "telemetry/access_line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[RECORD_STAGES] = { "decode", "queue", "input",
                                                  "run",    "output", "encode" };

static void write_record(const struct record *r)
{
    static uint8_t out[ACCESS_LINE_MAX];
    struct otlp_batch batch;
    struct pb_reader reader;
    struct pb_field field;
    struct access_line line;

    for (unsigned form = 0; form < 2; form++) {
        access_line_init(&line, (enum access_form)form, names);
        uint8_t *end = access_line_write(&line, out, r);
        require(end <= out + sizeof out && end[-1] == '\n');
        for (uint8_t *at = out; at < end - 1; at++)
            require(*at >= 0x20 && *at < 0x7f);
    }
    require(otlp_batch_init(&batch, 0, NULL, 0, slice_of("1"), names, 1, NULL) == OK);
    require(otlp_batch_add(&batch, r));
    pb_begin(&reader, otlp_batch_seal(&batch));
    while (pb_next(&reader, &field)) {
    }
    require(!pb_failed(&reader));
    otlp_batch_deinit(&batch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t memory[RECORD_BYTES_MAX / 8];
    struct record *r = (struct record *)(void *)memory;
    struct slice rest = slice_make(data, size), why;
    uint64_t rejected;

    if (otlp_answer_read(rest, &rejected, &why))
        require(why.size == 0 || (why.data >= data && why.data + why.size <= data + size));
    record_begin(r);
    for (unsigned i = 0; i < RECORD_TEXTS && rest.size > 0; i++) {
        size_t end = slice_find(rest, '|');
        record_put(r, (enum record_text)i, slice_first(rest, end));
        rest = slice_skip(rest, MIN(end + 1, rest.size));
    }
    if (rest.size > 0) {
        r->is_call = (rest.data[0] & 1) != 0;
        r->end = rest.data[0] % 3;
        r->status = (uint16_t)(200 + rest.data[0]);
        for (unsigned i = 0; i < rest.data[0] % (RECORD_INFERENCES_MAX + 1u); i++)
            record_add_inference(r, &(struct record_inference){ .stage_ns = { i, i, 0, 1 } });
    }
    write_record(r);
    return 0;
}
