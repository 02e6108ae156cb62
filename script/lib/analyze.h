/* analyze.h - what the analyzers of script/analyze cannot see from one file: included before everything, by them only.
 *
 * Every way to fail ends in err_set or err_wrap, which lie in another file and never return OK. An analyzer that does not know
 * follows paths on which a function failed and said OK, and finds a NULL there for each of our output arguments.
 */
#include <stdlib.h>

#include "base/def.h"
#include "base/err.h"

static inline enum err_code analyze_failed(enum err_code code)
{
    if (code == OK)
        abort();
    return code;
}
#define err_set(...) analyze_failed(err_set(__VA_ARGS__))
#define err_wrap(...) analyze_failed(err_wrap(__VA_ARGS__))
