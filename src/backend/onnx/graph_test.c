/* graph_test.c - the walk over a model's bytes. SPDX-License-Identifier: Apache-2.0
 *
 * What a scan finds in whole models is tested where they are run (onnx_test.c); here are bytes.
 */
#include "backend/onnx/graph.h"

#include <stdio.h>

#include "backend/onnx/zipmap.h"
#include "base/buf.h"
#include "base/pb_text.h"
#include "test/harness.h"

/* Wraps `text` as field `number` of a new message, whose other bytes are `before`. */
static void wrap(struct text *text, uint32_t number, const char *before)
{
    struct text outer;

    text_init(&outer, 1 << 24);
    text_str(&outer, before);
    pb_text_bytes(&outer, number, text_slice(text));
    text_deinit(text);
    *text = outer;
}

static enum err_code scan(struct slice bytes, struct onnx_facts *facts, struct err *err)
{
    return onnx_graph_scan(facts, bytes, NULL, NULL, err);
}

TEST(graph_of_a_few_bytes)
{
    static const struct {
        const char *bytes;
        size_t size;
        enum err_code code;
        const char *says;
    } cases[] = {
        { "\x08\x08\x3a\x00", 4, OK, "" },
        { "\x3a\x00", 2, OK, "" },
        { "\x08\x08", 2, E_INVALID, "no graph" },
        { "", 0, E_INVALID, "empty" },
        { "\x08\x08\x3a\x05", 4, E_INVALID, "cut short" },
        { "\x3a\x05", 2, E_INVALID, "does not begin like one" },
        { "\x08\x08\x3a\x02\x0a\x05", 6, E_INVALID, "damaged" },
        { "\x08\x08\x3a\x04\x0a\x02\x2a\x07", 8, E_INVALID, "its nodes" },
        { "\x08\x08\x3a\x04\x2a\x02\x6a\x07", 8, E_INVALID, "its tensors" },
        { "\x08\x00\x00\x00ORTM....", 12, OK, "" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct onnx_facts facts = { 0 };
        struct err err = { .code = OK };
        enum err_code code = scan(slice_make(cases[i].bytes, cases[i].size), &facts, &err);
        check(code == cases[i].code && strstr(err.text, cases[i].says) != NULL,
              "case %zu: code %d, says %s", i, (int)code, err.text);
        check(facts.is_ort_format == (i == 9), "case %zu", i);
    }
}

/* A graph in an attribute of a node of a graph ... */
TEST(graph_depth_is_bounded)
{
    static const int depths[] = { 1, 60, 66, 5000 };

    for (size_t i = 0; i < COUNT(depths); i++) {
        struct onnx_facts facts = { 0 };
        struct err err = { .code = OK };
        struct text text;
        text_init(&text, 1 << 24);
        text_str(&text, "\x12\x01g"); /* a name, so that no message is empty */
        for (int d = 0; d < depths[i]; d++) {
            wrap(&text, 6, "");
            wrap(&text, 5, "\x22\x02If");
            wrap(&text, 1, "");
        }
        wrap(&text, 7, "\x08\x08");
        enum err_code code = scan(text_slice(&text), &facts, &err);
        check((code == OK) == (depths[i] < 64), "depth %d: %s", depths[i], err.text);
        check(code != OK ||
                  (facts.nodes_count == (uint64_t)depths[i] && strcmp(facts.value_op, "If") == 0),
              "depth %d", depths[i]);
        text_deinit(&text);
    }
}

struct seen {
    unsigned count;
    char last[32];
};

static enum err_code on_external(void *context, struct slice location, struct err *err)
{
    struct seen *seen = context;

    seen->count++;
    snprintf(seen->last, sizeof seen->last, "%.*s", SLICE_ARG(location));
    return seen->count > 1 ? err_set(err, E_PERMISSION, "twice") : OK;
}

/* Every place in which a tensor may hide: weights, sparse weights, attributes, subgraphs,
 * functions. */
TEST(graph_finds_external_weights_everywhere)
{
    static const uint8_t paths[][6] = {
        /* fields from the tensor outwards, to the model */
        { 5, 7 },           /* initializer */
        { 1, 15, 7 },       /* sparse initializer: values */
        { 2, 15, 7 },       /* sparse initializer: indices */
        { 5, 5, 1, 7 },     /* attribute t */
        { 10, 5, 1, 7 },    /* attribute tensors */
        { 5, 6, 5, 1, 7 },  /* initializer of a subgraph */
        { 5, 11, 5, 1, 7 }, /* ... of graphs */
        { 5, 5, 7, 0 },     /* attribute of a function's node; the function is added below */
    };

    for (size_t i = 0; i < COUNT(paths); i++) {
        struct onnx_facts facts = { 0 };
        struct seen seen = { 0, "" };
        struct err err = { .code = OK };
        struct text text;
        bool is_function = i + 1 == COUNT(paths);
        text_init(&text, 1 << 16);
        text_str(&text, "\x0a\x08location\x12\x05w.bin");
        wrap(&text, 13, "");
        for (size_t d = 0; paths[i][d] != 0; d++)
            wrap(&text, paths[i][d], "");
        struct text whole;
        text_init(&whole, 1 << 16);
        text_str(&whole, "\x08\x08");
        if (is_function) {
            text_put(&whole, "\x3a\x00", 2); /* an empty graph */
            text_byte(&whole, 0xca);         /* field 25, bytes */
            text_byte(&whole, 0x01);
            text_byte(&whole, (uint8_t)text.size);
        }
        text_slice_put(&whole, text_slice(&text));
        enum err_code code = onnx_graph_scan(&facts, text_slice(&whole), on_external, &seen, &err);
        check(code == OK && seen.count == 1 && strcmp(seen.last, "w.bin") == 0 &&
                  facts.externals_count == 1,
              "path %zu: %u found, %s", i, seen.count, err.text);
        /* the answer of the callback ends the scan */
        seen.count = 1;
        check(onnx_graph_scan(&facts, text_slice(&whole), on_external, &seen, &err) == E_PERMISSION,
              "path %zu", i);
        text_deinit(&whole);
        text_deinit(&text);
    }
}

/* Bytes that are changed at random: no crash, an answer with words, and the rewriting agrees. */
TEST(graph_of_random_bytes)
{
    static const uint8_t seed[] = "\x08\x08\x3a\x60"
                                  "\x0a\x2c\x0a\x01x\x12\x01m\x22\x06ZipMap\x3a\x0a"
                                  "ai.onnx.ml\x2a\x0c\x0a\x03"
                                  "abc\x4a\x01p\x4a\x02qq"
                                  "\x0a\x0c\x0a\x01x\x12\x01y\x22\x04Tile"
                                  "\x2a\x0c\x08\x01\x10\x01\x42\x01w\x4a\x03zzz"
                                  "\x5a\x05\x0a\x01x\x12\x00\x62\x05\x0a\x01m\x12\x00"
                                  "\x42\x04\x0a\x00\x10\x11";

    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[sizeof seed];
        struct onnx_facts facts, again;
        struct err err = { .code = OK };
        memcpy(bytes, seed, sizeof seed);
        for (uint64_t i = test_random_below(4); i > 0; i--)
            bytes[test_random_below(sizeof bytes)] = (uint8_t)test_random();
        struct slice model = slice_make(bytes, 1 + test_random_below(sizeof bytes));
        enum err_code code = scan(model, &facts, &err);
        check(code == OK || err.text[0] != '\0', "silent");
        CLEANUP(buf_unref) struct buf *stripped = NULL;
        struct text classes;
        text_init(&classes, 4096);
        if (zipmap_strip(&stripped, model, &classes, &err) == OK && code == OK &&
            !facts.is_ort_format) {
            check(scan(buf_bytes(stripped), &again, &err) == OK, "%s", err.text);
            check(again.nodes_count == facts.nodes_count, "nodes");
        }
        text_deinit(&classes);
    }
}
