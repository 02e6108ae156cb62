/* weather.c - how bad the world of a seed is. SPDX-License-Identifier: Apache-2.0
 *
 * Half of the seeds are kind: nothing fails by itself, and every request must get its right
 * answer. In the others each trouble is there or not by itself, so that some seeds have one of
 * them alone: what fails there is easier to understand than in a storm.
 */
#include <stdio.h>

#include "test/sim/sim.h"

struct weather sim_weather;

static uint64_t pick_one(const uint64_t *values, size_t count)
{
    return values[sim_draw_below(CHANCE_WEATHER, count)];
}
#define PICK(...)                               \
    pick_one((const uint64_t[]){ __VA_ARGS__ }, \
             sizeof((const uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))

static bool one_in(uint64_t count)
{
    return sim_draw_below(CHANCE_WEATHER, count) == 0;
}

void sim_weather_calm(void)
{
    sim_weather = (struct weather){ .step_ns = 300,
                                    .latency_ns = 50 * SIM_US,
                                    .window_bytes = 64 << 10,
                                    .piece_bytes = 64 << 10,
                                    .stall_ns = SIM_MS };
}

void sim_weather_draw(void)
{
    sim_weather_calm();
    sim_weather.step_ns = (uint32_t)PICK(100, 300, 300, 1000, 5000);
    sim_weather.preempt_ppm = (uint32_t)PICK(0, 1000, 20000, 20000, 200000, 500000);
    sim_weather.spurious_ppm = (uint32_t)PICK(0, 0, 100, 10000);
    sim_weather.stall_ppm = (uint32_t)PICK(0, 0, 50, 500);
    sim_weather.stall_ns = PICK(SIM_MS, 20 * SIM_MS);
    sim_weather.jump_ppm = (uint32_t)PICK(0, 0, 0, 5000);
    sim_weather.latency_ns = PICK(2 * SIM_US, 50 * SIM_US, SIM_MS, 20 * SIM_MS);
    sim_weather.piece_bytes = (uint32_t)PICK(1, 7, 100, 1460, 1460, 16384, 65536);
    sim_weather.window_bytes = (uint32_t)PICK(300, 4096, 65536, 65536, 262144);
    sim_weather.short_ppm = (uint32_t)PICK(0, 0, 20000, 300000);
    /* Slow, and still faster than the server's limits on slowness. */
    uint64_t pieces = MIN(sim_weather.piece_bytes, sim_weather.window_bytes);
    sim_weather.latency_ns = MIN(sim_weather.latency_ns, pieces * 30 * SIM_US);
    if (one_in(2))
        return;
    if (one_in(2))
        sim_weather.memory_ppm = (uint32_t)PICK(200, 2000, 20000);
    if (one_in(3))
        sim_weather.socket_ppm = (uint32_t)PICK(200, 5000);
    if (one_in(3))
        sim_weather.reset_ppm = (uint32_t)PICK(500, 10000);
    if (one_in(6))
        sim_weather.file_ppm = (uint32_t)PICK(2000, 50000);
    if (one_in(6))
        sim_weather.thread_ppm = 50000;
}

bool sim_weather_is_kind(void)
{
    return sim_weather.memory_ppm == 0 && sim_weather.socket_ppm == 0 &&
           sim_weather.reset_ppm == 0 && sim_weather.file_ppm == 0 && sim_weather.thread_ppm == 0 &&
           sim_fault_plan.nth == 0;
}

void sim_weather_text(char *out, size_t room)
{
    snprintf(out, room,
             "step %u ns, preempted %u ppm, spurious %u, stalls %u of %llu us, jumps %u, "
             "latency %llu us, "
             "pieces %u, window %u, short sends %u; failing: memory %u ppm, sockets %u, files %u, "
             "threads %u, "
             "resets %u",
             sim_weather.step_ns, sim_weather.preempt_ppm, sim_weather.spurious_ppm,
             sim_weather.stall_ppm, (unsigned long long)(sim_weather.stall_ns / SIM_US),
             sim_weather.jump_ppm, (unsigned long long)(sim_weather.latency_ns / SIM_US),
             sim_weather.piece_bytes, sim_weather.window_bytes, sim_weather.short_ppm,
             sim_weather.memory_ppm, sim_weather.socket_ppm, sim_weather.file_ppm,
             sim_weather.thread_ppm, sim_weather.reset_ppm);
}
