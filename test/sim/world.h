/* world.h - one seed's whole life: a server, people, and what must hold when they are gone. */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void sim_world_make_models(void); /* in a folder of their own, once */
void sim_world_remove_models(void);
/* Ends the process with words when an invariant does not hold. Once in a process. */
void sim_world_run(uint64_t seed, bool is_verbose);
/* One scenario in calm weather with the nth fallible call failing, 0: none; how many there were. */
uint64_t sim_world_sweep(uint32_t scenario, uint64_t nth, bool is_verbose);
const char *sim_world_scenario(uint32_t index); /* its name; NULL: there are no more */
bool sim_world_is_stopping(void);               /* SIGTERM was sent */
void sim_world_text(char *out, size_t room);    /* what was answered */
void sim_world_report(uint64_t *ret_right, uint64_t *ret_refused, uint64_t *ret_lost);

#endif
