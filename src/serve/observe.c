/* observe.c - an exchange's trace and id when it begins, and who is told when it has ended.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The head is gone through once, by the sizes of names: what is looked for has four of them, and most
 * fields of most requests have others.
 *
 * Ids come from a generator of each loop's own (xoshiro256++), seeded from env: 16 bytes of the kernel's
 * cost a system call of 0.3 us. They have to be different, not secret: nothing is granted to who knows
 * one.
 */
#include "serve/observe.h"

#include "access/access.h"
#include "base/mem.h"
#include "serve/internal.h"

enum { REQUEST_ID_MAX = 128 };

enum err_code observer_add(struct serve *serve, const struct observer *observer, struct err *err)
{
    require(!serve->is_started);
    if (serve->observers_count == OBSERVERS_MAX)
        return err_set(err, E_EXHAUSTED, "more than %d observers of exchanges", OBSERVERS_MAX);
    serve->observers[serve->observers_count++] = *observer;
    return OK;
}

/* -- chance ------------------------------------------------------------------------------------ */

void observe_init(struct serve_loop *l)
{
    struct env *env = l->serve->env;

    do /* all zero is the one state that stays what it is */
        env->random(env, l->chance, sizeof l->chance);
    while ((l->chance[0] | l->chance[1] | l->chance[2] | l->chance[3]) == 0);
}

static uint64_t rotate(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

static uint64_t chance(struct serve_loop *l)
{
    uint64_t *s = l->chance, result = rotate(s[0] + s[3], 23) + s[0], t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

static void fill_id(struct serve_loop *l, uint8_t *id, size_t size)
{
    do
        for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
            uint64_t value = chance(l);
            memcpy(id + i, &value, sizeof value);
        }
    while (UNLIKELY(id[0] == 0 && id[size - 1] == 0)); /* zero is no id; so is a little more */
}

/* -- the beginning ----------------------------------------------------------------------------- */

struct head_notes {
    struct slice parent, state, id, agent;
    uint32_t parents, states;
};

static void note_field(struct head_notes *notes, const struct header *field)
{
    const uint8_t *name = field->name.data;

    switch (field->name.size) {
    case 10:
        if (memcmp(name, "user-agent", 10) == 0) {
            notes->agent = field->value;
        } else if (memcmp(name, "tracestate", 10) == 0) {
            notes->state = field->value;
            notes->states++;
        }
        break;
    case 11:
        if (memcmp(name, "traceparent", 11) == 0) {
            notes->parent = field->value;
            notes->parents++;
        }
        break;
    case 12:
        if (notes->id.data == NULL && memcmp(name, "x-request-id", 12) == 0)
            notes->id = field->value;
        break;
    default: break;
    }
}

/* Several fields of one name are one list (RFC 9110 5.3). */
COLD static struct slice join_states(struct exchange *x)
{
    uint8_t *list = arena_alloc(x->arena, TRACE_STATE_MAX + 1);
    size_t size = 0;

    for (uint32_t i = 0; list != NULL && i < x->headers_count; i++) {
        struct slice value = x->headers[i].value;
        if (!slice_is(x->headers[i].name, "tracestate"))
            continue;
        if (size + value.size + 1 > TRACE_STATE_MAX)
            return slice_make(NULL, 0);
        if (size != 0)
            list[size++] = ',';
        if (value.size != 0)
            memcpy(list + size, value.data, value.size);
        size += value.size;
    }
    return slice_make(list, list == NULL ? 0 : size);
}

COLD static void take_trace(struct serve_exchange *e, const struct head_notes *notes)
{
    struct trace_context *trace = &e->x.trace;

    /* More than one parent is as none (W3C Trace Context 3.2.1), and a state without one says nothing. */
    if (notes->parents != 1 || !trace_parse(trace, slice_trim(notes->parent)) || notes->states == 0)
        return;
    struct slice state = notes->states == 1 ? slice_trim(notes->state) : join_states(&e->x);
    if (trace_state_is_good(state))
        trace->state = state;
}

/* Ours is a child of what came, or the first. Who was sampled stays so, and who was not (OpenTelemetry's
 * "parentbased"): a trace that has holes tells little. */
static void begin_span(struct serve_exchange *e, const struct observe_rules *rules)
{
    struct trace_context *trace = &e->x.trace;
    bool is_first = !trace_is_set(trace);

    if (is_first) {
        fill_id(e->l, trace->trace_id, TRACE_ID_BYTES);
        trace->is_sampled = (double)(chance(e->l) >> 11) * 0x1p-53 < rules->trace_ratio;
    }
    if (trace->is_sampled || is_first)
        fill_id(e->l, trace->span_id, SPAN_ID_BYTES);
    e->x.note.keeps_inferences = trace->is_sampled;
}

static bool is_id_byte(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != 0 && strchr("-_.~:/+=@,#", c) != NULL);
}

static bool is_sane(struct slice id)
{
    if (id.size == 0 || id.size > REQUEST_ID_MAX)
        return false;
    for (size_t i = 0; i < id.size; i++)
        if (!is_id_byte(id.data[i]))
            return false;
    return true;
}

static void add(struct serve_exchange *e, const char *name, size_t size, struct slice value)
{
    serve_exchange_add(e, slice_make(name, size), value);
}

static void make_id(struct serve_exchange *e)
{
    enum { BYTES = 16 };
    uint8_t id[BYTES];
    char *text = arena_aligned(e->x.arena, 1, 2 * BYTES);

    if (UNLIKELY(text == NULL))
        return;
    if (trace_is_set(&e->x.trace)) /* one name is enough for what has one */
        memcpy(id, e->x.trace.trace_id, BYTES);
    else
        fill_id(e->l, id, BYTES);
    trace_write_hex(text, id, BYTES);
    e->x.request_id = slice_make(text, 2 * BYTES);
}

void observe_begin(struct serve_exchange *e)
{
    const struct observe_rules *rules = &e->l->serve->settings.observe;
    struct exchange *x = &e->x;
    struct head_notes notes = { .parents = 0 };

    for (uint32_t i = 0; i < x->headers_count; i++)
        note_field(&notes, &x->headers[i]);
    e->agent = notes.agent;
    if (notes.parents != 0)
        take_trace(e, &notes);
    if (rules->has_traces)
        begin_span(e, rules);
    if (LIKELY(!rules->ignores_request_ids)) {
        if (is_sane(notes.id))
            x->request_id = notes.id;
        else if (rules->makes_request_ids)
            make_id(e);
        if (x->request_id.size != 0)
            add(e, "x-request-id", 12, x->request_id);
    }
    if (UNLIKELY(rules->answers_traces) && trace_is_set(&x->trace)) {
        char *text = arena_aligned(x->arena, 1, TRACEPARENT_MAX);
        if (text != NULL) {
            trace_write(&x->trace, text);
            add(e, "traceresponse", 13, slice_make(text, TRACEPARENT_MAX - 1));
        }
    }
}

/* -- the end ----------------------------------------------------------------------------------- */

COLD void observe_replace(struct serve_exchange *fresh, struct serve_exchange *before)
{
    struct exchange *x = &fresh->x, *was = &before->x;

    require(fresh->before == NULL && fresh->l == before->l);
    exchange_ref(was); /* the slices below are its */
    fresh->before = before;
    before->is_told = true;
    fresh->agent = before->agent;
    x->begun_ns = was->begun_ns;
    x->method_text = was->method_text;
    x->query = was->query;
    x->authority = was->authority;
    x->headers = was->headers;
    x->headers_count = was->headers_count;
    x->protocol = was->protocol;
    x->caller = was->caller == NULL ? NULL : caller_ref(was->caller);
    x->tls = was->tls;
    x->scheme = was->scheme;
    x->trace = was->trace;
    x->request_id = was->request_id;
    x->note.route = was->note.route;
    x->note.model = was->note.model;
    x->note.version = was->note.version;
    for (uint32_t i = 0; i < before->more_count; i++)
        serve_exchange_add(fresh, before->more[i].name, before->more[i].value);
}

/* Now, or when its answer was written if that was in this turn: one reading of the clock less. */
static uint64_t ended_ns_of(const struct serve_exchange *e)
{
    struct env *env = e->l->serve->env;

    return e->x.note.answered_ns > loop_now_ns(e->l->loop) ? e->x.note.answered_ns
                                                           : env->mono_ns(env);
}

void observe_tell(struct serve_exchange *e, uint64_t body_in)
{
    const struct serve *serve = e->l->serve;
    const struct exchange *x = &e->x;
    struct observed seen = {
        .x = x,
        .loop = loop_index(e->l->loop),
        .end = e->is_aborted                ? OBSERVE_ABORTED
               : x->is_gone || !x->is_ended ? OBSERVE_LEFT
                                            : OBSERVE_ANSWERED,
        .status = x->status != 0 ? x->status : 499,
        .is_call = x->note.is_call,
        .agent = e->agent,
        .ended_ns = ended_ns_of(e),
        .body_in = body_in,
        .body_out = x->body_sent,
    };

    e->is_told = true;
    for (uint32_t i = 0; i < serve->observers_count; i++)
        serve->observers[i].on_exchange(serve->observers[i].context, &seen);
}
