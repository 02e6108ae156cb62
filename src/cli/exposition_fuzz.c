/* exposition_fuzz.c - any bytes as metrics: samples that lie in them, or a sentence; and what two of them
 * give is shown. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/text.h"
#include "cli/exposition.h"
#include "cli/top_count.h"
#include "cli/top_show.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(struct slice bytes)
{
    struct exposition at = { .rest = bytes };
    struct exposition_sample sample;
    struct err err;
    uint32_t before = 0;

    while (exposition_next(&at, &sample, &err)) {
        struct slice labels = sample.labels, name, value;
        struct text out;
        uint8_t room[256];
        require(at.line > before && sample.name.size > 0);
        require(sample.series.data >= bytes.data &&
                sample.series.data + sample.series.size <= bytes.data + bytes.size);
        before = at.line;
        while (exposition_next_label(&labels, &name, &value)) {
            text_init_fixed(&out, room, sizeof room);
            exposition_unescape(&out, slice_first(value, sizeof room));
            require(!text_failed(&out) && out.size <= value.size);
        }
        require(labels.size == 0);
    }
    require(err.code != OK || at.rest.size == 0);
}

/* The first half is what was counted before, the second what is now. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice all = slice_make(data, size);
    struct top_count *before = NULL, *now = NULL;
    struct top_shown how = { .url = "http://fuzz", .columns = 80, .lines = 24, .now = 2e9 };
    struct text out;
    struct err err;

    read_all(all);
    if (top_count_new(&before, slice_first(all, size / 2), NULL, 0, &err) != OK)
        require(err.code != OK && before == NULL);
    if (top_count_new(&now, slice_skip(all, size / 2), before, 1.0, &err) != OK)
        require(err.code != OK && now == NULL);
    if (now != NULL) {
        how.sort = (enum top_sort)(size % TOP_SORTS);
        text_init(&out, 64 << 20);
        top_show(&out, now, &how);
        for (size_t i = 0; i < out.size; i++)
            require(out.data[i] == '\n' || (out.data[i] >= 0x20 && out.data[i] != 0x7f));
        out.size = 0;
        top_show_json(&out, now, &how);
        require(out.size > 0 && slice_find(text_slice(&out), '\n') == out.size - 1);
        text_deinit(&out);
    }
    top_count_free(&before);
    top_count_free(&now);
    return 0;
}
