/* def.h - the few macros every room uses.
 *
 * CLEANUP(fn)  runs fn(&variable) when the variable leaves its scope.
 * TAKE(p)      reads a pointer and nulls it: ownership moves, visibly.
 * TRY(call)    returns the callee's err_code when it is not OK: the only macro that hides a return.
 * require(c)   a broken invariant of ours stops the program, in release builds too.
 */
#ifndef BASE_DEF_H
#define BASE_DEF_H

#include <stddef.h>
#include <stdint.h>

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt_at, args_at) __attribute__((format(printf, fmt_at, args_at)))
#define CLEANUP(fn) __attribute__((cleanup(fn)))
#define HOT __attribute__((hot))
#define COLD __attribute__((cold, noinline))
#define UNUSED __attribute__((unused))
#define NORETURN __attribute__((noreturn))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#define TAKE(p)                                                                                    \
    __extension__({                                                                                \
        __typeof__(p) take_value_ = (p);                                                           \
        (p) = NULL;                                                                                \
        take_value_;                                                                               \
    })

#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum err_code try_code_ = (call);                                                          \
        if (UNLIKELY(try_code_ != OK))                                                             \
            return try_code_;                                                                      \
    } while (0)

#define require(cond)                                                                              \
    do {                                                                                           \
        if (UNLIKELY(!(cond)))                                                                     \
            require_failed(#cond, __FILE__, __LINE__, __func__);                                   \
    } while (0)

/* Says what was broken, where, and the context set by require_context; then aborts. */
NORETURN COLD void require_failed(const char *cond, const char *file, int line, const char *func);

/* Any thread: what this thread works on ("request 12, model spam"), printed by require_failed.
 * `text` is borrowed until the next call; NULL clears. */
void require_context(const char *text);

#endif
