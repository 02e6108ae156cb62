/* sim.h - the whole server in one process, one seed: what decides instead of the system.
 *
 * The rooms are linked as they are. What they ask the system for (threads, locks, time, chance,
 * sockets, memory, files) reaches libc through names that the linker replaces (--wrap: calls.c,
 * memory.c), and is answered by a machine of its own in which nothing happens but by the seed:
 *
 *   sched.c    threads that run one at a time, the next drawn; time, which passes a little with each
 *              call and jumps when all wait; events
 *   net.c      sockets, epoll: bytes that arrive in pieces, late, or never
 *   memory.c   the heap: what is lent and not given back; allocations that fail
 *   calls.c    libc's names
 *
 * Above it: weather.c draws how bad a seed's world is, world.c starts the server, people.c and
 * the files beside it are clients, main.c runs seeds.
 *
 * Threads  whoever holds the baton may call everything here; nothing is locked. What clients and
 * the
 *          network do runs in events, on the stack of whatever thread was about to wait.
 */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/def.h"

#define SIM_US    UINT64_C(1000)
#define SIM_MS    UINT64_C(1000000)
#define SIM_S     UINT64_C(1000000000)
#define SIM_NEVER UINT64_MAX

/* -- chance: one sequence for each purpose, so that a draw more in one does not move the others  */
enum chance {
    CHANCE_WEATHER,
    CHANCE_SCHEDULE,
    CHANCE_NET,
    CHANCE_PEOPLE,
    CHANCE_FAULT,
    CHANCE_SERVER,
    CHANCES
};
uint64_t sim_draw(enum chance chance);
uint64_t sim_draw_below(enum chance chance, uint64_t bound); /* 0 for a bound of 0 */
uint64_t sim_draw_between(enum chance chance, uint64_t least, uint64_t most);
bool sim_draw_ppm(enum chance chance, uint32_t ppm);

/* -- the weather ------------------------------------------------------------------------------- */
struct weather {
    uint32_t step_ns;      /* about so long takes a call into the system */
    uint32_t preempt_ppm;  /* another thread goes on at a call */
    uint32_t spurious_ppm; /* waits that end for nothing */
    uint32_t stall_ppm;    /* a call that takes long */
    uint64_t stall_ns;
    uint32_t jump_ppm; /* of the wall's clock, at each reading */
    uint32_t memory_ppm, file_ppm, socket_ppm, thread_ppm; /* calls that fail */
    uint32_t reset_ppm;    /* of arrivals: the connection is reset instead */
    uint64_t latency_ns;   /* at most so long travels what is sent */
    uint32_t window_bytes; /* of each direction of a connection */
    uint32_t piece_bytes;  /* arrives at once, at most */
    uint32_t short_ppm;    /* sends that take less than there is room for */
};
extern struct weather sim_weather;
void sim_weather_draw(void);    /* from the seed */
void sim_weather_calm(void);    /* nothing goes wrong and nothing is slow */
bool sim_weather_is_kind(void); /* no call fails and no connection breaks by itself */
void sim_weather_text(char *out, size_t room);

/* Fallible calls are counted; a sweep makes one of them fail. */
struct fault_plan {
    uint64_t nth;   /* 0: none */
    uint64_t count; /* so far, while is_open */
    bool is_open;
    bool has_fired;
    char what[64]; /* failed */
};
extern struct fault_plan sim_fault_plan;
bool sim_fault_here(const char *what, uint32_t ppm); /* must this call fail? */

/* -- threads and time -------------------------------------------------------------------------- */
struct thread;

void sim_begin(uint64_t seed, bool is_verbose);
/* Runs main in the first thread until every thread has ended. */
void sim_run(void *(*main)(void *), void *arg);
/* The process ends here and now, with all that its threads have: _exit. */
_Noreturn void sim_exit(void);
bool sim_has_exited(void);
uint64_t sim_now(void);
uint64_t sim_wall(void);
uint64_t sim_seed(void);
uint64_t sim_calls(void);
/* Simulated: the calling thread is one of the machine's, and not within the machine itself. */
bool sim_is_in(void);
void sim_enter(void); /* into the machine: calls of libc are real until sim_leave */
void sim_leave(void);
/* An event; they are never taken back. */
void sim_after(uint64_t ns, void (*fn)(void *arg), void *arg);
/* A call into the system: time passes, events happen, another thread may go on. */
void sim_call(void);
/* Waits for wake(what) or the time; false: it was the time. */
bool sim_wait(const void *what, uint64_t due_ns, const char *why);
uint32_t sim_wake(const void *what, uint32_t most); /* how many */
void sim_yield(void);
uint32_t sim_self_id(void);
uint64_t sim_self_cpu(void);
int sim_thread_start(uint64_t *ret_id, void *(*main)(void *), void *arg, bool is_detached);
void *sim_thread_join(uint64_t id);
void sim_thread_name(uint64_t id, const char *name);
uint32_t sim_threads_left(void);

/* -- locks (calls.c) --------------------------------------------------------------------------- */
void sim_lock(int *word);
void sim_unlock(int *word);
bool sim_condition_wait(const void *condition, int *word, uint64_t due_ns);
void sim_signal_process(int number); /* to whoever sigwaits */

/* -- memory ------------------------------------------------------------------------------------ */
uint64_t sim_memory_live(uint64_t *ret_bytes);
void sim_memory_say_live(void);    /* on stderr */
void sim_memory_trace(bool is_on); /* remembers who allocated */

/* -- the network ------------------------------------------------------------------------------- */
struct link; /* a connection of a client to the server, as the client sees it */
struct link_user {
    void (*on_bytes)(void *user);              /* there is something to take */
    void (*on_room)(void *user);               /* after sim_link_send took less than all */
    void (*on_end)(void *user, bool is_reset); /* nothing more comes */
};
/* Knocks at the listener of the port; the server accepts it sometime. NULL: nobody listens. */
struct link *sim_link_open(uint16_t port, const struct link_user *user, void *arg);
size_t sim_link_send(struct link *link, const void *data, size_t size); /* taken */
/* What has arrived and was not taken: borrowed until the next call. */
const uint8_t *sim_link_bytes(const struct link *link, size_t *ret_size);
void sim_link_take(struct link *link, size_t size);
void sim_link_finish(struct link *link); /* half-close */
void sim_link_close(struct link *link);
void sim_link_reset(struct link *link);
bool sim_link_is_closed(const struct link *link); /* by us */
uint32_t sim_link_id(const struct link *link);

bool sim_net_is_listening(uint16_t port);
uint32_t sim_net_descriptors(char *out, size_t room); /* that the server has not closed; which */

/* -- telling ----------------------------------------------------------------------------------- */
void sim_note(const char *format, ...) PRINTF_LIKE(1, 2); /* a line of the log, when verbose */
void sim_digest(const void *data, size_t size);
void sim_digest_number(uint64_t number);
uint64_t sim_digest_value(void);
/* An invariant does not hold: says it with the seed and how to repeat it, and ends the process. */
_Noreturn void sim_fail(const char *format, ...) PRINTF_LIKE(1, 2);
void sim_output(int fd, const void *data, size_t size); /* what the server prints */

/* -- libc itself ------------------------------------------------------------------------------- */
void *sim_real_alloc(size_t size); /* zeroed; never NULL */
void *sim_real_resize(void *old, size_t size);
long sim_real_syscall(long number, ...);

#endif
