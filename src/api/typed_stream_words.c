/* typed_stream_words.c - what callers say of a typed stream beside its rows: two words of metadata, and
 * the messages' own `stream`. SPDX-License-Identifier: Apache-2.0 */
#include "api/typed_stream.h"

#include "base/arena.h"

static enum err_code wrong_reduce(struct slice text, struct err *err)
{
    return err_set(err, E_INVALID,
                   "metadata penstock-reduce is '%.*s'; it takes stack, last, each, or "
                   "window(rows,step,pad), such as window(512) or window(512,256,64)",
                   SLICE_ARG(slice_first(text, 60)));
}

static struct slice trim(struct slice text)
{
    while (text.size != 0 && text.data[0] == ' ')
        text = slice_skip(text, 1);
    while (text.size != 0 && text.data[text.size - 1] == ' ')
        text.size--;
    return text;
}

/* "n", "n,step" or "n,step,pad" */
static bool read_window(struct slice list, uint64_t values[3])
{
    for (size_t i = 0; i < 3; i++) {
        size_t comma = slice_find(list, ',');
        if (!slice_to_u64(trim(slice_first(list, comma)), &values[i]))
            return false;
        if (comma == list.size)
            return true;
        list = slice_skip(list, comma + 1);
    }
    return false;
}

enum err_code typed_read_reduce(struct session_settings *to, struct slice text, struct err *err)
{
    static const struct {
        const char *word;
        enum session_reduce reduce;
    } words[] = { { "each", SESSION_EACH }, { "stack", SESSION_STACK }, { "last", SESSION_LAST } };
    uint64_t values[3] = { 0, 0, 0 };

    if (text.data == NULL)
        return OK;
    struct slice said = trim(text);
    for (size_t i = 0; i < COUNT(words); i++) {
        if (!slice_is(said, words[i].word))
            continue;
        to->reduce = words[i].reduce;
        to->window = to->step = to->pad = 0;
        return OK;
    }
    if (!slice_starts(said, "window(") || !slice_ends(said, ")"))
        return wrong_reduce(text, err);
    said = slice_skip(said, strlen("window("));
    said.size--;
    if (!read_window(said, values) || values[0] == 0)
        return wrong_reduce(text, err);
    to->reduce = SESSION_WINDOW;
    to->window = values[0];
    to->step = values[1];
    to->pad = values[2];
    return OK;
}

enum err_code typed_read_when_slow(enum session_merge *to, struct slice text, struct err *err)
{
    static const struct {
        const char *word;
        enum session_merge merge;
    } words[] = { { "pause", SESSION_PAUSE },
                  { "latest", SESSION_LATEST },
                  { "concat", SESSION_CONCAT } };

    if (text.data == NULL)
        return OK;
    for (size_t i = 0; i < COUNT(words); i++) {
        if (!slice_is(trim(text), words[i].word))
            continue;
        *to = words[i].merge;
        return OK;
    }
    return err_set(
        err, E_INVALID,
        "metadata penstock-when-slow is '%.*s'; it takes pause (the model waits), latest "
        "(only the newest answer waits) or concat (texts are joined)",
        SLICE_ARG(slice_first(text, 60)));
}

enum err_code typed_check_asked(const struct typed_plan *plan, enum typed_method method,
                                const struct typed_asked *asked, struct arena *arena,
                                const char **ret_field, struct err *err)
{
    if (LIKELY(!asked->interrupts || method == TYPED_PREDICT_SESSION))
        return OK;
    const char *name = typed_proto_asked_name(plan);
    *ret_field = arena_printf(arena, "%s.interrupt", name);
    return err_set(err, E_INVALID,
                   "%s.interrupt is for PredictSession; a call of %s is stopped by cancelling it",
                   name, typed_proto_methods[method].name);
}
