/* weather.c - how bad the world of a seed is. SPDX-License-Identifier: Apache-2.0
 *
 * Half of the seeds are kind: nothing fails by itself, and every request must get its right answer. In the
 * others each trouble is there or not by itself, so that some seeds have one of them alone: what fails there
 * is easier to understand than in a storm.
 */
#include <stdio.h>

#include "test/sim/sim.h"

struct weather weather;

static uint64_t pick_one(const uint64_t *values, size_t count)
{
    return values[draw_below(CHANCE_WEATHER, count)];
}
#define PICK(...)                                                                                    \
    pick_one((const uint64_t[]){ __VA_ARGS__ }, sizeof((const uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))

static bool one_in(uint64_t count)
{
    return draw_below(CHANCE_WEATHER, count) == 0;
}

void weather_calm(void)
{
    weather = (struct weather){ .step_ns = 300,
                                .latency_ns = 50 * SIM_US,
                                .window_bytes = 64 << 10,
                                .piece_bytes = 64 << 10,
                                .stall_ns = SIM_MS };
}

void weather_draw(void)
{
    weather_calm();
    weather.step_ns = (uint32_t)PICK(100, 300, 300, 1000, 5000);
    weather.preempt_ppm = (uint32_t)PICK(0, 1000, 20000, 20000, 200000, 500000);
    weather.spurious_ppm = (uint32_t)PICK(0, 0, 100, 10000);
    weather.stall_ppm = (uint32_t)PICK(0, 0, 50, 500);
    weather.stall_ns = PICK(SIM_MS, 20 * SIM_MS);
    weather.jump_ppm = (uint32_t)PICK(0, 0, 0, 5000);
    weather.latency_ns = PICK(2 * SIM_US, 50 * SIM_US, SIM_MS, 20 * SIM_MS);
    weather.piece_bytes = (uint32_t)PICK(1, 7, 100, 1460, 1460, 16384, 65536);
    weather.window_bytes = (uint32_t)PICK(300, 4096, 65536, 65536, 262144);
    weather.short_ppm = (uint32_t)PICK(0, 0, 20000, 300000);
    /* Slow, and still faster than the server's limits on slowness. */
    uint64_t pieces = MIN(weather.piece_bytes, weather.window_bytes);
    weather.latency_ns = MIN(weather.latency_ns, pieces * 30 * SIM_US);
    if (one_in(2))
        return;
    if (one_in(2))
        weather.memory_ppm = (uint32_t)PICK(200, 2000, 20000);
    if (one_in(3))
        weather.socket_ppm = (uint32_t)PICK(200, 5000);
    if (one_in(3))
        weather.reset_ppm = (uint32_t)PICK(500, 10000);
    if (one_in(6))
        weather.file_ppm = (uint32_t)PICK(2000, 50000);
    if (one_in(6))
        weather.thread_ppm = 50000;
}

bool weather_is_kind(void)
{
    return weather.memory_ppm == 0 && weather.socket_ppm == 0 && weather.reset_ppm == 0 &&
           weather.file_ppm == 0 && weather.thread_ppm == 0 && fault_plan.nth == 0;
}

void weather_text(char *out, size_t room)
{
    snprintf(out, room,
             "step %u ns, preempted %u ppm, spurious %u, stalls %u of %llu us, jumps %u, latency %llu us, "
             "pieces %u, window %u, short sends %u; failing: memory %u ppm, sockets %u, files %u, threads %u, "
             "resets %u",
             weather.step_ns, weather.preempt_ppm, weather.spurious_ppm, weather.stall_ppm,
             (unsigned long long)(weather.stall_ns / SIM_US), weather.jump_ppm,
             (unsigned long long)(weather.latency_ns / SIM_US), weather.piece_bytes, weather.window_bytes,
             weather.short_ppm, weather.memory_ppm, weather.socket_ppm, weather.file_ppm,
             weather.thread_ppm, weather.reset_ppm);
}
