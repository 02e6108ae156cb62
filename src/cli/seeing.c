/* seeing.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/seeing.h"

#include "base/log.h"
#include "cli/stop.h"
#include "serve/access_log.h"
#include "serve/serve.h"

enum { WHEN_AUTO, WHEN_ALWAYS, WHEN_NEVER };

static enum err_code open_access_log(struct seeing *seeing, const struct options *o,
                                     struct env *env, uint32_t loops_count, struct err *err)
{
    const struct option_value *query = &o->values[OPT_ACCESS_LOG_QUERY];
    char where[ERR_TEXT_MAX];
    struct access_log_settings settings = {
        .path = options_text(o, OPT_ACCESS_LOG),
        .form = (enum access_form)options_number(o, OPT_ACCESS_LOG_FORMAT),
        .sample = options_ratio(o, OPT_ACCESS_LOG_SAMPLE),
        .slow_ns = options_number(o, OPT_ACCESS_LOG_SLOW),
        .ring_bytes = options_number(o, OPT_ACCESS_LOG_BUFFER),
        .query = { query->items, query->items_count },
        .loops_count = loops_count,
    };

    if (settings.path[0] == '\0')
        return OK;
    if (access_log_open(&seeing->access_log, env, &settings, err) != OK)
        return err_wrap(err, "%s", options_origin(o, OPT_ACCESS_LOG, where, sizeof where));
    return OK;
}

enum err_code seeing_open(struct seeing *seeing, const struct options *o, struct env *env,
                          struct metrics *metrics, uint32_t loops_count,
                          struct observe_rules *ret_rules, struct err *err)
{
    uint64_t ids = options_number(o, OPT_REQUEST_ID);

    TRY(open_access_log(seeing, o, env, loops_count, err));
    if (seeing->access_log != NULL)
        TRY(access_log_register(seeing->access_log, metrics, err));
    *ret_rules = (struct observe_rules){
        .makes_request_ids = ids == WHEN_ALWAYS || (ids == WHEN_AUTO && seeing->access_log != NULL),
        .ignores_request_ids = ids == WHEN_NEVER,
        .answers_traces = options_flag(o, OPT_TRACE_RESPONSE),
    };
    return OK;
}

static enum err_code reopen(void *context, struct err *err UNUSED)
{
    access_log_reopen(context);
    return OK;
}

enum err_code seeing_watch(struct seeing *seeing, struct serve *serve, struct err *err)
{
    if (seeing->access_log != NULL) {
        struct observer observer = access_log_observer(seeing->access_log);
        TRY(observer_add(serve, &observer, err));
        stop_on_reload(reopen, seeing->access_log);
    }
    return OK;
}

void seeing_close(struct seeing *seeing)
{
    access_log_close(&seeing->access_log);
}
