/* want.c - SPDX-License-Identifier: Apache-2.0 */
#include "api/note.h"
#include "api/route.h"
#include "engine/engine.h"
#include "io/loop.h"

HOT enum err_code api_may(struct exchange *x, enum access_right right, struct slice group,
                          struct slice model, struct err *err)
{
    uint64_t wall_ns = 0;

    if (UNLIKELY(caller_has_rules(x->caller))) {
        struct env *env = x->loop != NULL ? loop_env(x->loop) : env_real();
        wall_ns = env->wall_ns(env);
    }
    enum err_code code = caller_may(x->caller, right, group, model, wall_ns, err);
    if (UNLIKELY(code != OK))
        x->note.audit = NOTE_REFUSED;
    else if (UNLIKELY(right == ACCESS_ADMIN))
        x->note.audit = NOTE_ADMIN;
    return code;
}

HOT enum err_code api_want_model(struct exchange *x, const struct api *api,
                                 enum access_right right, struct slice group, struct model **ret,
                                 struct slice name, struct slice version, struct err *err)
{
    TRY(api_may(x, right, group, name, err));
    TRY(engine_want_model(api->engine, ret, name, version, err));
    note_model(x, *ret);
    return OK;
}

bool api_shows_model(const struct exchange *x, struct slice group, const char *name)
{
    if (LIKELY(!caller_has_rules(x->caller)))
        return true;
    struct env *env = x->loop != NULL ? loop_env(x->loop) : env_real();
    return caller_may(x->caller, ACCESS_READ, group, slice_of(name), env->wall_ns(env), NULL) == OK;
}
