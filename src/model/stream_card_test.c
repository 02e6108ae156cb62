/* stream_card_test.c - `stream:` of model.yaml, and the state of config.pbtxt.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>

#include "base/arena.h"
#include "model/card.h"
#include "model/config.h"
#include "test/harness.h"

struct fixture {
    struct signature_tensor inputs[4], outputs[2];
    struct signature signature;
    struct arena *arena;
    struct model_config *config;
};

/* A voice detector's tensors. */
static bool begin(struct fixture *f, const char *config)
{
    struct err err = { 0 };

    *f = (struct fixture){
        .inputs = { { .name = "input", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 576 } },
                    { .name = "state", .dtype = PENSTOCK_FP32, .rank = 3, .dims = { 2, -1, 128 } },
                    { .name = "sr", .dtype = PENSTOCK_INT64 },
                    { .name = "word", .dtype = PENSTOCK_BYTES, .rank = 2, .dims = { 2, -1 } } },
        .outputs = { { .name = "output", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 1 } },
                     { .name = "stateN",
                       .dtype = PENSTOCK_FP32,
                       .rank = 3,
                       .dims = { 2, -1, 128 } } },
        .arena = arena_new(4096, 1 << 20),
    };
    f->signature = (struct signature){
        .inputs_count = 4, .inputs = f->inputs, .outputs_count = 2, .outputs = f->outputs
    };
    bool ok = f->arena != NULL && config_parse(&f->config, slice_of(config), &err) == OK;
    check(ok, "%s", err.text);
    return ok;
}

static void end(struct fixture *f)
{
    config_free(&f->config);
    arena_free(&f->arena);
}

static enum err_code apply(struct fixture *f, const char *yaml, struct err *err)
{
    struct card *card = NULL;

    TRY(card_parse(&card, f->arena, slice_of(yaml), err));
    return stream_apply(card, f->config, &f->signature, f->arena, err);
}

static bool is_zeros(const struct penstock_tensor *t, size_t size)
{
    bool is = t->size == size;

    for (size_t i = 0; is && i < size; i++)
        is = ((const uint8_t *)t->data)[i] == 0;
    return is;
}

TEST(stream_of_a_voice_detector)
{
    static const char yaml[] = "stream:\n"
                               "  reduce: window\n"
                               "  window: 576\n"
                               "  step: 512\n"
                               "  pad: 64\n"
                               "  state: {state: stateN}\n"
                               "  constants: {sr: 16000, word: [[a, bc], ['', d]]}\n"
                               "  marks:\n"
                               "    - {name: speech, output: output, on: 0.5, off: 0.35, hold: 8}\n"
                               "    - {name: shout, output: output, on: 0.9}\n";
    struct fixture f;
    struct err err = { 0 };

    if (!begin(&f, ""))
        return;
    check(apply(&f, yaml, &err) == OK, "%s", err.text);
    const struct stream_card *s = f.signature.stream;
    check_or_stop(s != NULL, "none");
    check(s->has_reduce && s->reduce == SESSION_WINDOW && s->window == 576 && s->step == 512 &&
              s->pad == 64 && s->axis == -1,
          "numbers");
    check_or_stop(s->states_count == 1 && s->constants_count == 2 && s->marks_count == 2, "lists");
    check(s->states[0].input == 1 && s->states[0].output == 1 && f.inputs[1].is_state &&
              f.outputs[1].is_state && !f.inputs[0].is_state,
          "the state");
    check(s->states[0].initial.rank == 3 && s->states[0].initial.shape[1] == 1 &&
              is_zeros(&s->states[0].initial, 1024),
          "begins as zeros");
    int64_t rate = 16000;
    check(s->constants[0].input == 2 && f.inputs[2].is_constant &&
              s->constants[0].value.size == 8 && memcmp(s->constants[0].value.data, &rate, 8) == 0,
          "a scalar");
    static const uint8_t words[] = { 1,   0, 0, 0, 'a', 2, 0, 0, 0, 'b',
                                     'c', 0, 0, 0, 0,   1, 0, 0, 0, 'd' };
    const struct penstock_tensor *word = &s->constants[1].value;
    check(word->size == sizeof words && memcmp(word->data, words, sizeof words) == 0 &&
              word->shape[0] == 2 && word->shape[1] == 2,
          "texts");
    check(strcmp(s->marks[0].name, "speech") == 0 && s->marks[0].hold == 8 &&
              fabs(s->marks[0].off - 0.35) < 1e-9 && fabs(s->marks[1].off - 0.9) < 1e-9 &&
              s->marks[1].hold == 1,
          "marks");
    end(&f);
}

static const struct {
    const char *yaml, *words;
} wrong[] = {
    { "stream: [a]", "line 1, column 9: stream is expected to be a mapping" },
    { "stream: {reduse: each}", "line 1, column 10: unknown key 'reduse' of stream; the nearest "
                                "is 'reduce'" },
    { "stream: {reduce: all}", "line 1, column 18: 'reduce' is expected to be each, stack, last" },
    { "stream: {reduce: window}", "line 1, column 9: reduce: window needs `window`" },
    { "stream: {reduce: stack, pad: 3}", "window, step and pad are for reduce: window" },
    { "stream: {window: 3}", "window, step and pad are for reduce: window" },
    { "stream: {reduce: window, window: 0}", "'window' is expected to be a whole number from 1" },
    { "stream: {reduce: window, window: 1.5}", "line 1, column 34: 'window' is expected to be a" },
    { "stream: {reduce: window, window: 4, step: 0}", "'step' is expected to be a whole number" },
    { "stream: {reduce: window, window: 4, pad: -1}", "'pad' is expected to be a whole number" },
    { "stream: {axis: 16}", "'axis' is 16; dimensions are counted from 0 to 15" },
    { "stream: {state: {a: b, a: c}}", "line 1, column 24: 'a' is given twice" },
    { "stream: {state: {a: [b]}}", "'a' is expected to be a text" },
    { "stream:\n  state: {stat: stateN}", "stream: line 2: the model has no input 'stat'" },
    { "stream: {state: {state: out}}", "line 1: the model has no output 'out'" },
    { "stream: {state: {sr: stateN}}", "input 'sr' is INT64 and output 'stateN' FP32" },
    { "stream: {state: {state: output}}", "input 'state' has shape [2,-1,128] and output" },
    { "stream: {state: {state: stateN}, constants: {state: 1}}", "cannot be constant too" },
    { "stream: {constants: {sr: 1.5}}", "the constant of 'sr' is not INT64" },
    { "stream: {constants: {sr: 99999999999999999999}}", "the constant of 'sr' is not INT64" },
    { "stream: {constants: {sr: [1, 2]}}", "has 2 elements, which its shape [] does not take" },
    { "stream: {constants: {sr: }}", "'sr' is empty" },
    { "stream: {constants: {word: [a, b, c]}}", "has 3 elements" },
    { "stream: {constants: {word: [1, 2]}}", "the constant of 'word' is not BYTES" },
    { "stream: {constants: {input: 1e39}}", "has 1 elements" },
    { "stream: {constants: {nothing: 1}}", "line 1: the model has no input 'nothing'" },
    { "stream: {marks: {a: b}}", "marks is expected to be a list" },
    { "stream: {marks: [{name: a, output: output}]}", "a mark needs name, output and on" },
    { "stream: {marks: [{name: a, output: output, on: 1, off: 2}]}", "off 2 is greater than on 1" },
    { "stream: {marks: [{name: a, output: output, on: 1, hold: 0}]}", "'hold' is expected to be" },
    { "stream: {marks: [{name: a, output: x, on: 1}]}", "the model has no output 'x'" },
    { "stream: {marks: [{name: a, output: output, on: 1}, {name: a, output: output, on: 1}]}",
      "the mark 'a' is listed twice" },
};

TEST(what_is_wrong_is_said_with_its_line)
{
    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct fixture f;
        struct err err = { 0 };
        if (!begin(&f, ""))
            return;
        enum err_code code = apply(&f, wrong[i].yaml, &err);
        check(code == E_INVALID && strstr(err.text, wrong[i].words) != NULL, "%s: %s",
              wrong[i].yaml, err.text);
        check(f.signature.stream == NULL, "%s", wrong[i].yaml);
        end(&f);
    }
}

TEST(state_of_the_configuration)
{
    struct fixture f;
    struct err err = { 0 };

    if (!begin(&f, "sequence_batching { state { input_name: 'state' output_name: 'stateN' "
                   "data_type: TYPE_FP32 dims: [2, -1, 128] initial_state { dims: [2, 3, 128] "
                   "zero_data: true } } }"))
        return;
    check(stream_apply(NULL, f.config, &f.signature, f.arena, &err) == OK, "%s", err.text);
    check_or_stop(f.signature.stream != NULL && f.signature.stream->states_count == 1, "one");
    check(!f.signature.stream->has_reduce && f.signature.stream->axis == -1, "no more is said");
    check(f.signature.stream->states[0].initial.shape[1] == 3 &&
              is_zeros(&f.signature.stream->states[0].initial, 3072),
          "as large as initial_state says");
    err = (struct err){ 0 };
    check(apply(&f, "stream: {state: {state: stateN}}", &err) == E_INVALID &&
              strstr(err.text, "is a state already") != NULL,
          "twice: %s", err.text);
    end(&f);
    if (!begin(&f, "sequence_batching { state { input_name: 'state' output_name: 'stateN' "
                   "data_type: TYPE_INT32 } }"))
        return;
    check(stream_apply(NULL, f.config, &f.signature, f.arena, &err) == E_INVALID &&
              strstr(err.text, "says TYPE_INT32, the model TYPE_FP32") != NULL,
          "%s", err.text);
    end(&f);
    if (!begin(&f, "sequence_batching { state { input_name: 'state' output_name: 'stateN' "
                   "dims: [2, 1, 64] } }"))
        return;
    check(stream_apply(NULL, f.config, &f.signature, f.arena, &err) == E_INVALID &&
              strstr(err.text, "[2,1,64]") != NULL,
          "%s", err.text);
    end(&f);
}

TEST(streams_survive_every_fault)
{
    static const char yaml[] = "stream: {state: {state: stateN}, constants: {sr: 16000}, "
                               "marks: [{name: a, output: output, on: 1}]}";

    for_each_fault(nth) {
        struct fixture f;
        struct err err = { 0 };
        fault_arm(0);
        if (!begin(&f, ""))
            return;
        fault_arm(nth);
        enum err_code code = apply(&f, yaml, &err);
        bool fired = fault_fired();
        fault_arm(0);
        end(&f);
        if (!fired) {
            check(code == OK, "%s", err.text);
            break;
        }
        /* libyaml and yyjson have the heap to themselves: what is left are our own arenas. */
        check(code == OK || (code == E_EXHAUSTED && err.text[0] != '\0'), "fault %u: %s", nth,
              err.text);
    }
}
