/* stack.h - the rooms below serve, joined: engine, backends, repository, from the options.
 *
 * Used by serve and by explain of a path. The starting thread's; one at a time in a process, since
 * backends ask for options without saying who asks.
 */
#ifndef CLI_STACK_H
#define CLI_STACK_H

#include "base/budget.h"
#include "base/err.h"

struct engine;
struct env;
struct options;
struct penstock_backend;
struct repository;

enum { STACK_PLUGINS_MAX = 64 };

struct stack {
    const struct options *options; /* borrowed */
    struct env *env;
    struct budget budget;
    struct engine *engine;
    const struct penstock_backend *plugins[STACK_PLUGINS_MAX];
    uint32_t plugins_count;
    struct repository *repository;
};

/* Opens engine, plugins and the repository of these paths; loads nothing yet. On failure it is to
 * be closed all the same. `stack` stays where it is until stack_close. */
MUST_USE enum err_code stack_open(struct stack *stack, const struct options *options,
                                  uint32_t loops_count, const char *const *paths,
                                  uint32_t paths_count, struct err *err);
/* Closes the models, whose threads end with them. Loops have stopped and are still there: a model's
 * thread may just be waking one. */
void stack_close_models(struct stack *stack);
void stack_close(struct stack *stack);

/* The library of a runtime: in --runtime-dir; or without that option ../lib/penstock beside the
 * program, then where systems keep libraries. NULL: none. A path of --runtime-dir that lacks it is
 * given as it is, and is no library. Absolute; lives as long as the process. */
const char *runtime_find(const struct options *options, const char *name);

#endif
