/* line.c - SPDX-License-Identifier: Apache-2.0
 *
 * What a run costs the loop is not asked of the runs: it is the time between two lettings-in over
 * the runs that there were between them, so that reading, writing and refusing are in it
 * (admission's drain). What was let in and does not run, as its body has not come, is no run and
 * takes nothing.
 *
 * Who is refused takes time too, from the head of a request to the refusal's way out; where one
 * caller asks for fifty times its share that is a tenth of all there is. It is charged to whose
 * it is, or the others would pay.
 *
 * The wait of a newcomer has two parts. One is over: the bytes lay in the socket while the loop
 * was at its turn. The other is the line in front of it, by its tenant's share.
 */
#include "engine/line.h"

#include "base/def.h"

enum {
    LET_MOST = 32,            /* by one turn, however short runs seem */
    REFUSAL_PART = 16,        /* of a new measurement in the average */
    REFUSAL_MOST_NS = 100000, /* what took longer was interrupted */
};

void line_init(struct line *line, uint64_t delay_ns, uint32_t room)
{
    *line = (struct line){ .room = room, .refusal_ns = LINE_REFUSAL_NS };
    queue_init(&line->queue);
    admission_init(&line->admission, delay_ns);
}

void line_deinit(struct line *line)
{
    queue_deinit(&line->queue);
}

static struct line_entry *entry_of(struct queue_entry *entry)
{
    return entry == NULL ? NULL : CONTAINER_OF(entry, struct line_entry, entry);
}

/* As many wait as may: may it have another's place? */
static bool displace(struct line *line, const struct line_question *question,
                     const struct admission_question *q, struct line_entry **ret_victim)
{
    struct queue_entry *victim = queue_victim(&line->queue, question->tenant, QUEUE_LEVEL_USUAL);

    admission_was_full(&line->admission, q);
    if (victim == NULL)
        return false;
    *ret_victim = entry_of(victim);
    line_remove(line, *ret_victim);
    return true;
}

static enum line_verdict judge(struct line *line, const struct line_question *question,
                               uint64_t *ret_wait_ns, uint64_t *ret_after_ns,
                               struct line_entry **ret_victim)
{
    const struct queue *queue = &line->queue;
    uint64_t now = question->now_ns, arrived = MIN(question->arrived_ns, now);
    bool is_first = queue->waiting == 0;
    bool has_time = is_first && line->ran_ns < question->turn_ns + LINE_TURN_NS;
    uint64_t ahead =
        is_first ? 0
                 : admission_wait_ns(&line->admission,
                                     queue_ahead(queue, question->tenant, QUEUE_LEVEL_USUAL), 1);
    struct admission_question q = {
        .now_ns = arrived,
        .wait_ns = now - arrived + ahead,
        .deadline_ns = question->deadline_ns,
        .begin_ns = UINT64_MAX,
        .instances = 1,
        .is_modest = queue_is_modest(queue, question->tenant),
    };

    *ret_wait_ns = q.wait_ns;
    *ret_victim = NULL;
    enum admission_verdict verdict = admission_judge(&line->admission, &q, false, ret_after_ns);
    if (UNLIKELY(question->deadline_ns <= now)) {
        if (verdict == ADMISSION_FINE)
            admission_was_full(&line->admission, &q);
        return LINE_LATE;
    }
    if (verdict == ADMISSION_DEADLINE)
        return LINE_DEADLINE;
    /* The first of a turn is always let in: a loop that only refuses would measure nothing. */
    if (verdict != ADMISSION_FINE && !(has_time && line->gone_ns != question->turn_ns))
        return LINE_BEHIND;
    if (has_time) {
        line->gone_ns = question->turn_ns;
        return LINE_GO;
    }
    if (line->room != 0 && queue->waiting >= line->room &&
        !displace(line, question, &q, ret_victim)) {
        *ret_after_ns = MAX(*ret_after_ns, ahead);
        return LINE_FULL;
    }
    return LINE_WAIT;
}

/* Two refusals in one turn with no run between them tell what one takes, its way out too. */
static void charge_refusal(struct line *line, const struct line_question *question)
{
    uint64_t took_ns = question->now_ns - line->told_ns;

    if (line->told_turn_ns == question->turn_ns && line->told_runs == line->runs &&
        took_ns < REFUSAL_MOST_NS)
        line->refusal_ns += took_ns / REFUSAL_PART - line->refusal_ns / REFUSAL_PART;
    line->told_ns = question->now_ns;
    line->told_turn_ns = question->turn_ns;
    line->told_runs = line->runs;
    queue_charge(&line->queue, question->tenant, line->refusal_ns);
}

enum line_verdict line_ask(struct line *line, const struct line_question *question,
                           uint64_t *ret_wait_ns, uint64_t *ret_after_ns,
                           struct line_entry **ret_victim)
{
    enum line_verdict verdict = judge(line, question, ret_wait_ns, ret_after_ns, ret_victim);

    if (verdict != LINE_GO && verdict != LINE_WAIT)
        charge_refusal(line, question);
    return verdict;
}

void line_add(struct line *line, struct line_entry *entry, struct queue_tenant tenant)
{
    queue_push(&line->queue, &entry->entry, tenant, QUEUE_LEVEL_USUAL);
}

void line_remove(struct line *line, struct line_entry *entry)
{
    queue_remove(&line->queue, &entry->entry);
    entry->entry.flow = NULL;
}

uint32_t line_let(struct line *line, uint64_t now_ns)
{
    struct admission *a = &line->admission;

    admission_worked(a, now_ns, line->runs, true);
    line->runs = 0;
    return a->drain_ns == 0
               ? 1
               : (uint32_t)MIN(MAX(LINE_LET_NS / a->drain_ns, UINT64_C(1)), (uint64_t)LET_MOST);
}

struct line_entry *line_next(struct line *line)
{
    struct queue_entry *entry = queue_pop(&line->queue, line->admission.drain_ns);

    if (line->queue.waiting == 0) /* how long the loop takes when nobody waits says nothing */
        admission_worked(&line->admission, 0, 0, false);
    return entry_of(entry);
}

void line_settle(struct line *line, struct line_entry *entry, uint64_t ran_ns)
{
    queue_settle(&line->queue, &entry->entry, ran_ns);
}
