/* fault.h - makes the nth fallible step fail, so that tests can walk every failure path.
 *
 * Fallible steps (mem.c, file.c, socket calls) ask fault_hit() first. In production nothing is
 * armed and the question is one load of a thread-local. A sweep arms the calling thread only.
 */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include <stdbool.h>

#include "base/def.h"

void fault_arm(uint32_t nth); /* the nth step from now fails, once; 0 disarms */
bool fault_fired(void);       /* did the armed fault happen? */
bool fault_hit_armed(void);

extern _Thread_local uint32_t fault_countdown;

/* True when this step must fail. */
static inline bool fault_hit(void)
{
    return UNLIKELY(fault_countdown != 0) && fault_hit_armed();
}

#endif
