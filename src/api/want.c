/* want.c - SPDX-License-Identifier: Apache-2.0 */
#include "api/note.h"
#include "api/route.h"
#include "base/arena.h"
#include "engine/engine.h"
#include "engine/model.h"
#include "engine/session.h"
#include "io/loop.h"

const char api_not_built[] = "this server has no such call";

COLD void api_note_refused(struct exchange *x, const char *why)
{
    x->note.audit = NOTE_REFUSED;
    if (x->note.why.size != 0)
        return;
    size_t size = strlen(why);
    char *copy = x->arena == NULL ? NULL : arena_strndup(x->arena, why, size);
    if (copy != NULL) /* else the line lacks it */
        x->note.why = slice_make(copy, size);
}

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
        api_note_refused(x, err->text);
    else if (UNLIKELY(right == ACCESS_ADMIN))
        x->note.audit = NOTE_ADMIN;
    return code;
}

HOT enum err_code api_want_model(struct exchange *x, const struct api *api,
                                 enum access_right right, struct slice group, struct model **ret,
                                 struct slice name, struct slice version, struct err *err)
{
    TRY(api_may(x, right, group, name, err));
    enum err_code code = engine_want_model(api->engine, ret, name, version, err);
    if (LIKELY(code == OK)) {
        note_model(x, *ret);
        return OK;
    }
    /* Its words name what there is instead, to a caller who may not know of it. */
    if (UNLIKELY(code == E_NOT_FOUND && caller_has_rules(x->caller)))
        err_set(err, code, "Request for unknown model: '%.*s' is not found",
                SLICE_ARG(slice_first(name, 200)));
    return code;
}

enum err_code api_may_still(struct exchange *x, const struct session *session, struct err *err)
{
    struct caller *caller = session_caller(session);
    struct loop *loop = loop_current();

    if (LIKELY(!caller_has_rules(caller)))
        return OK;
    struct env *env = loop != NULL ? loop_env(loop) : env_real();
    enum err_code code =
        caller_may(caller, ACCESS_INFER, slice_of("models"),
                   slice_of(model_name(session_model(session))), env->wall_ns(env), err);
    if (UNLIKELY(code != OK))
        api_note_refused(x, err->text);
    return code;
}

bool api_shows_model(const struct exchange *x, struct slice group, struct slice name)
{
    if (LIKELY(!caller_has_rules(x->caller)))
        return true;
    struct env *env = x->loop != NULL ? loop_env(x->loop) : env_real();
    return caller_may(x->caller, ACCESS_READ, group, name, env->wall_ns(env), NULL) == OK;
}
