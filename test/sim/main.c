/* main.c - penstock-sim: runs seeds. SPDX-License-Identifier: Apache-2.0
 *
 *   penstock-sim --seed N [--verbose]   one seed, in this process; prints the digest of all
 *   penstock-sim --seeds A..B           each in a process of its own, on all cores
 *   penstock-sim --sweep all|NAME       a scenario again and again, while the first fallible call
 *                                       fails, then the second ... (memory, files, sockets, threads)
 *   penstock-sim --sweep NAME --nth N [--verbose]   one of these
 *   penstock-sim --same A..B            each seed twice: is it the same run?
 *
 * A seed is the same run each time, on the same build: addresses are not randomised (the program
 * starts itself anew without), and every seed has a fresh process.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test/sim/people.h"
#include "test/sim/sim.h"
#include "test/sim/world.h"

enum { JOBS_MAX = 64, SECONDS_A_SEED = 60, FAILURES_MOST = 5 };

static const char *program;

static void on_alarm(int number)
{
    (void)number;
    sim_fail("the machine itself hangs, or the server computes without end");
}

static void on_crash(int number)
{
    signal(number, SIG_DFL);
    sim_memory_say_live();
    sim_fail("the server died of signal %d (%s)", number, strsignal(number));
}

static uint32_t sweep_of = UINT32_MAX; /* the scenario; else seeds are run */

static uint64_t run_here(uint64_t seed, bool is_verbose)
{
    signal(SIGALRM, on_alarm);
    signal(SIGABRT, on_crash);
    alarm(SECONDS_A_SEED);
    if (sweep_of == UINT32_MAX)
        sim_world_run(seed, is_verbose);
    else
        sim_world_sweep(sweep_of, seed, is_verbose);
    alarm(0);
    return sim_digest_value();
}

struct report {
    uint64_t digest, right, refused, lost, calls, simulated_ns, faults;
};

struct job {
    pid_t pid;
    uint64_t seed;
    int pipe;
};

static struct {
    struct job jobs[JOBS_MAX];
    unsigned running, most;
    uint64_t failed, passed, first_failed;
    struct report sum;
} all;

static void start(uint64_t seed)
{
    struct job *job = all.jobs;
    int ends[2];

    while (job->pid != 0)
        job++;
    fflush(stdout);
    if (pipe(ends) != 0) {
        perror("pipe");
        exit(1);
    }
    job->seed = seed;
    job->pipe = ends[0];
    job->pid = fork();
    if (job->pid < 0) {
        perror("fork");
        exit(1);
    }
    if (job->pid == 0) {
        struct report report = { 0 };
        close(ends[0]);
        report.digest = run_here(seed, false);
        sim_world_report(&report.right, &report.refused, &report.lost);
        report.faults = sim_fault_plan.count;
        report.calls = sim_calls();
        report.simulated_ns = sim_now() - 1000 * SIM_S;
        ssize_t wrote = write(ends[1], &report, sizeof report);
        _exit(wrote == sizeof report ? 0 : 1);
    }
    close(ends[1]);
    all.running++;
}

static void finish_one(void)
{
    struct report report;
    int status;
    pid_t pid = wait(&status);
    struct job *job = all.jobs;

    while (job->pid != pid)
        job++;
    ssize_t got = read(job->pipe, &report, sizeof report);
    close(job->pipe);
    job->pid = 0;
    all.running--;
    if (status == 0 && got == sizeof report) {
        all.passed++;
        all.sum.digest ^= report.digest * (2 * job->seed + 1);
        all.sum.right += report.right;
        all.sum.refused += report.refused;
        all.sum.lost += report.lost;
        all.sum.calls += report.calls;
        all.sum.faults += report.faults;
        all.sum.simulated_ns += report.simulated_ns;
        return;
    }
    if (WIFSIGNALED(status))
        printf("seed %llu died of %s\n", (unsigned long long)job->seed,
               strsignal(WTERMSIG(status)));
    if (sweep_of == UINT32_MAX)
        printf("not ok seed_%llu: repeat with: %s --seed %llu --verbose\n",
               (unsigned long long)job->seed, program, (unsigned long long)job->seed);
    else
        printf("not ok sweep_%s_%llu: repeat with: %s --sweep %s --nth %llu --verbose\n",
               sim_world_scenario(sweep_of), (unsigned long long)job->seed, program,
               sim_world_scenario(sweep_of), (unsigned long long)job->seed);
    all.failed++;
}

static void run_all(uint64_t first, uint64_t last)
{
    cpu_set_t cores;

    CPU_ZERO(&cores);
    sched_getaffinity(0, sizeof cores, &cores);
    all.most = (unsigned)MIN(MAX(CPU_COUNT(&cores), 1), JOBS_MAX);
    for (uint64_t seed = first; seed <= last && all.failed < FAILURES_MOST; seed++) {
        while (all.running >= all.most)
            finish_one();
        start(seed);
    }
    while (all.running > 0)
        finish_one();
}

static int run_range(uint64_t first, uint64_t last)
{
    struct timespec begun, over;

    clock_gettime(CLOCK_MONOTONIC, &begun);
    run_all(first, last);
    clock_gettime(CLOCK_MONOTONIC, &over);
    double seconds =
        (double)(over.tv_sec - begun.tv_sec) + (double)(over.tv_nsec - begun.tv_nsec) / 1e9;
    printf("%llu seeds in %.1f s (%.1f ms each), %.0f s of simulated time, %llu calls; "
           "answers: %llu right, "
           "%llu refused, %llu lost; digest %016llx\n",
           (unsigned long long)(all.passed + all.failed), seconds,
           seconds * 1e3 * all.most / (double)MAX(all.passed + all.failed, (uint64_t)1),
           (double)all.sum.simulated_ns / 1e9, (unsigned long long)all.sum.calls,
           (unsigned long long)all.sum.right, (unsigned long long)all.sum.refused,
           (unsigned long long)all.sum.lost, (unsigned long long)all.sum.digest);
    if (all.failed == 0)
        printf("ok seeds_%llu_to_%llu\n", (unsigned long long)first, (unsigned long long)last);
    return all.failed == 0 ? 0 : 1;
}

static int run_sweeps(const char *name)
{
    bool is_known = false, is_whole = true;

    for (uint32_t i = 0; sim_world_scenario(i) != NULL; i++) {
        if (strcmp(name, "all") != 0 && strcmp(name, sim_world_scenario(i)) != 0)
            continue;
        is_known = true;
        sweep_of = i;
        memset(&all, 0, sizeof all);
        run_all(0, 0); /* without a fault: how many calls could fail? */
        uint64_t faults = all.sum.faults;
        if (all.failed == 0)
            run_all(1, faults);
        printf("sweep of %s: %llu fallible calls, each failed once\n", sim_world_scenario(i),
               (unsigned long long)faults);
        if (all.failed == 0 && faults > 0)
            printf("ok sweep_%s\n", sim_world_scenario(i));
        is_whole &= all.failed == 0 && faults > 0;
    }
    if (!is_known)
        fprintf(stderr, "there is no scenario '%s'\n", name);
    return is_known && is_whole ? 0 : 1;
}

/* The sum of digests tells whether any seed was another run than before. */
static int run_same(uint64_t first, uint64_t last)
{
    uint64_t digests[2];

    for (int i = 0; i < 2; i++) {
        memset(&all, 0, sizeof all);
        run_all(first, last);
        digests[i] = all.sum.digest;
        if (all.failed > 0)
            return 1;
    }
    printf("%s same_%llu_to_%llu: digests %016llx and %016llx\n",
           digests[0] == digests[1] ? "ok" : "not ok", (unsigned long long)first,
           (unsigned long long)last, (unsigned long long)digests[0],
           (unsigned long long)digests[1]);
    return digests[0] == digests[1] ? 0 : 1;
}

static int run_one(uint64_t seed, bool is_verbose)
{
    char text[1024];
    uint64_t digest = run_here(seed, is_verbose);

    sim_world_text(text, sizeof text);
    printf("seed %llu: %s; %.3f s simulated, %llu calls; digest %016llx\n",
           (unsigned long long)seed, text, (double)(sim_now() - 1000 * SIM_S) / 1e9,
           (unsigned long long)sim_calls(), (unsigned long long)digest);
    return 0;
}

static int usage(void)
{
    fprintf(
        stderr,
        "usage: penstock-sim [--seed N [--verbose] | --seeds A..B | --same A..B | --sweep all | "
        "--sweep NAME [--nth N] [--verbose]]\n");
    return 2;
}

int main(int argc, char **argv)
{
    uint64_t first = 1, last = 200;
    bool is_one = false, is_same = false, is_verbose = false;
    const char *sweep = NULL;
    char *end;

    program = argv[0];
    int now = personality(0xffffffff);
    if (now != -1 && (now & ADDR_NO_RANDOMIZE) == 0 &&
        personality((unsigned long)now | ADDR_NO_RANDOMIZE) != -1)
        execv("/proc/self/exe", argv);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--verbose") == 0) {
            is_verbose = true;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            first = strtoull(argv[++i], &end, 10);
            is_one = true;
            if (*end != '\0')
                return usage();
        } else if (strcmp(argv[i], "--nth") == 0 && i + 1 < argc) {
            first = strtoull(argv[++i], &end, 10);
            is_one = true;
        } else if (strcmp(argv[i], "--sweep") == 0 && i + 1 < argc) {
            sweep = argv[++i];
        } else if ((strcmp(argv[i], "--seeds") == 0 || strcmp(argv[i], "--same") == 0) &&
                   i + 1 < argc) {
            is_same = strcmp(argv[i], "--same") == 0;
            first = strtoull(argv[++i], &end, 10);
            if (strncmp(end, "..", 2) != 0)
                return usage();
            last = strtoull(end + 2, &end, 10);
            if (*end != '\0' || last < first)
                return usage();
        } else {
            return usage();
        }
    }
    sim_tls_setup();
    sim_world_make_models();
    for (uint32_t i = 0; is_one && sweep != NULL && sim_world_scenario(i) != NULL; i++)
        if (strcmp(sim_world_scenario(i), sweep) == 0)
            sweep_of = i;
    int result = is_one          ? run_one(first, is_verbose)
                 : sweep != NULL ? run_sweeps(sweep)
                 : is_same       ? run_same(first, last)
                                 : run_range(first, last);
    sim_world_remove_models();
    return result;
}
