/* world.h - one seed's whole life: a server, people, and what must hold when they are gone. */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void world_make_models(void); /* in a folder of their own, once */
void world_remove_models(void);
/* Ends the process with words when an invariant does not hold. Once in a process. */
void world_run(uint64_t seed, bool is_verbose);
void world_text(char *out, size_t room); /* what was answered */
void world_report(uint64_t *ret_right, uint64_t *ret_refused, uint64_t *ret_lost);

#endif
