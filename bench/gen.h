/* gen.h - what the load generators share: clocks, histograms, files, ends.
 *
 * Each is one source file that includes this one; GENERATOR is its name, which errors begin with.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BENCH_GEN_H
#define BENCH_GEN_H

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    STEP_BITS = 7, /* 128 steps an octave: a percentile is less than 0.8 % too large */
    BUCKETS = (64 - STEP_BITS) << STEP_BITS
};

struct histogram {
    uint64_t counts[BUCKETS];
    uint64_t count, sum_ns, max_ns;
};

struct bytes {
    char *data;
    size_t size;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, GENERATOR ": %s\n", what);
    exit(1);
}

static _Noreturn void die_errno(const char *what)
{
    fprintf(stderr, GENERATOR ": %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- histogram -------------------------------------------------------------------------------- */

static unsigned bucket_of(uint64_t ns)
{
    if (ns < 1u << STEP_BITS)
        return (unsigned)ns;
    unsigned octave = 63u - (unsigned)__builtin_clzll(ns); /* >= STEP_BITS */
    unsigned step = (unsigned)(ns >> (octave - STEP_BITS)) & ((1u << STEP_BITS) - 1);
    return ((octave - STEP_BITS + 1) << STEP_BITS) + step;
}

/* The largest value of a bucket: a percentile is never told smaller than it was. */
static uint64_t bucket_top(unsigned bucket)
{
    unsigned octave = bucket >> STEP_BITS;
    uint64_t step = bucket & ((1u << STEP_BITS) - 1);
    if (octave == 0)
        return step;
    return (((1ull << STEP_BITS) + step + 1) << (octave - 1)) - 1;
}

static void histogram_add(struct histogram *h, uint64_t ns)
{
    unsigned bucket = bucket_of(ns);
    h->counts[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    h->count++;
    h->sum_ns += ns;
    if (ns > h->max_ns)
        h->max_ns = ns;
}

static double histogram_us(const struct histogram *h, double quantile)
{
    uint64_t rank = (uint64_t)((double)h->count * quantile);
    uint64_t seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += h->counts[i];
        if (seen > rank) {
            uint64_t top = bucket_top(i);
            return (double)(top < h->max_ns ? top : h->max_ns) / 1e3;
        }
    }
    return (double)h->max_ns / 1e3;
}

static void histogram_print(const struct histogram *h)
{
    printf("{\"count\":%" PRIu64 ",\"mean_us\":%.3f,\"p50_us\":%.3f,\"p90_us\":%.3f,"
           "\"p99_us\":%.3f,\"p999_us\":%.3f,\"max_us\":%.3f}",
           h->count, h->count ? (double)h->sum_ns / 1e3 / (double)h->count : 0.0,
           histogram_us(h, 0.5), histogram_us(h, 0.9), histogram_us(h, 0.99),
           histogram_us(h, 0.999), (double)h->max_ns / 1e3);
}

/* Percentiles of numbers whose percentiles are known: 1 us to 1 s, evenly. */
static void histogram_check(void)
{
    static struct histogram h;
    for (uint64_t us = 1; us <= 1000000; us++)
        histogram_add(&h, us * 1000);
    static const double quantiles[] = { 0.5, 0.9, 0.99, 0.999 };
    for (unsigned i = 0; i < 4; i++) {
        double found = histogram_us(&h, quantiles[i]), expected = quantiles[i] * 1e6;
        if (found < expected || found > expected * 1.008 + 1)
            die("the histogram is wrong");
    }
    for (unsigned i = 1; i < BUCKETS; i++)
        if (bucket_of(bucket_top(i)) != i || bucket_of(bucket_top(i - 1) + 1) != i)
            die("a bucket is wrong");
}

/* --- argv ------------------------------------------------------------------------------------- */

static struct bytes file_read(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct bytes bytes = { NULL, 0 };
    if (file == NULL)
        die_errno(path);
    fseek(file, 0, SEEK_END);
    bytes.size = (size_t)ftell(file);
    rewind(file);
    bytes.data = malloc(bytes.size + 1);
    if (bytes.data == NULL || fread(bytes.data, 1, bytes.size, file) != bytes.size)
        die_errno(path);
    fclose(file);
    return bytes;
}

static void cpu_pin(const char *number)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)strtoul(number, NULL, 10), &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        die_errno("--cpu");
}

#endif
