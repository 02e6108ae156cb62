/* tenant.c - SPDX-License-Identifier: Apache-2.0
 *
 * The rate is kept by one number per tenant, the time at which all that was let in would be done at
 * that rate (GCRA): nothing has to be refilled, and who comes after a pause finds the whole burst.
 */
#include "access/internal.h"
#include "base/clock.h"
#include "base/mem.h"

#include <stdio.h>

struct tenant *tenant_new(const char *name, uint32_t index, struct budget *parent)
{
    struct tenant *tenant = mem_zalloc(sizeof *tenant);

    if (tenant == NULL)
        return NULL;
    tenant->index = index;
    snprintf(tenant->name, sizeof tenant->name, "%s", name);
    atomic_init(&tenant->weight, 1);
    budget_init(&tenant->budget, INT64_MAX);
    tenant->budget.parent = parent;
    return tenant;
}

void tenant_set(struct tenant *tenant, const struct tenant_limits *limits)
{
    uint64_t interval = 0, burst = limits->burst;

    if (limits->rate > 0) {
        interval = MAX((uint64_t)((double)NS_PER_S / limits->rate), UINT64_C(1));
        if (burst == 0)
            burst = limits->rate < 1 ? 1 : (uint64_t)limits->rate;
    }
    if (interval != atomic_load(&tenant->interval_ns))
        atomic_store(&tenant->due_ns, 0); /* what was used up of another rate says nothing of this one */
    atomic_store(&tenant->burst_ns, interval * (burst == 0 ? 0 : burst - 1));
    atomic_store(&tenant->interval_ns, interval);
    atomic_store(&tenant->concurrency_max, limits->concurrency);
    atomic_store(&tenant->weight, limits->weight);
    budget_resize(&tenant->budget, limits->bytes == 0 ? INT64_MAX : limits->bytes);
    atomic_store(&tenant->has_budget, limits->bytes != 0);
}

uint32_t tenant_index(const struct tenant *tenant)
{
    return tenant == NULL ? 0 : tenant->index;
}

const char *tenant_name(const struct tenant *tenant)
{
    return tenant == NULL ? "default" : tenant->name;
}

uint32_t tenant_weight(const struct tenant *tenant)
{
    return tenant == NULL ? 1 : atomic_load_explicit(&tenant->weight, memory_order_relaxed);
}

struct budget *tenant_budget(struct tenant *tenant)
{
    return tenant != NULL && atomic_load_explicit(&tenant->has_budget, memory_order_relaxed)
               ? &tenant->budget
               : NULL;
}

COLD static enum err_code refuse_rate(struct tenant *tenant, uint64_t wait_ns, struct err *err)
{
    uint64_t interval = atomic_load(&tenant->interval_ns);

    atomic_fetch_add_explicit(&tenant->refused_rate, 1, memory_order_relaxed);
    if (interval == 0)
        interval = 1;
    err_set(err, E_EXHAUSTED, "tenant '%s' may begin %.4g inferences a second, and this is one more",
            tenant->name, (double)NS_PER_S / (double)interval);
    err->retry_after_ms = (uint32_t)MIN(wait_ns / NS_PER_MS + 1, (uint64_t)UINT32_MAX);
    return E_EXHAUSTED;
}

static enum err_code enter_rate(struct tenant *tenant, uint64_t now_ns, struct err *err)
{
    uint64_t interval = atomic_load_explicit(&tenant->interval_ns, memory_order_relaxed);

    if (interval == 0)
        return OK;
    uint64_t burst = atomic_load_explicit(&tenant->burst_ns, memory_order_relaxed);
    uint64_t due = atomic_load_explicit(&tenant->due_ns, memory_order_relaxed);
    for (;;) {
        uint64_t from = MAX(due, now_ns);
        if (from - now_ns > burst)
            return refuse_rate(tenant, from - now_ns - burst, err);
        if (atomic_compare_exchange_weak_explicit(&tenant->due_ns, &due, from + interval,
                                                  memory_order_relaxed, memory_order_relaxed))
            return OK;
    }
}

/* A place first: who finds none has used nothing of the rate. */
enum err_code tenant_enter(struct tenant *tenant, uint64_t mono_ns, struct err *err)
{
    if (tenant == NULL)
        return OK;
    uint64_t most = atomic_load_explicit(&tenant->concurrency_max, memory_order_relaxed);
    uint64_t before = atomic_fetch_add_explicit(&tenant->running, 1, memory_order_relaxed);
    if (UNLIKELY(most != 0 && before >= most)) {
        tenant_leave(tenant);
        atomic_fetch_add_explicit(&tenant->refused_concurrency, 1, memory_order_relaxed);
        err_set(err, E_EXHAUSTED, "tenant '%s' has %llu inferences under way, which is all it may",
                tenant->name, (unsigned long long)most);
        err->retry_after_ms = 1000;
        return E_EXHAUSTED;
    }
    enum err_code code = enter_rate(tenant, mono_ns, err);
    if (UNLIKELY(code != OK))
        tenant_leave(tenant);
    return code;
}

void tenant_leave(struct tenant *tenant)
{
    if (tenant != NULL)
        atomic_fetch_sub_explicit(&tenant->running, 1, memory_order_relaxed);
}
