/* builtin.h - the backends that are compiled in, and the way to others.
 *
 * In-tree backends are rows of a table (builtin.c) with entries of their own names; a plugin is a
 * shared object that exports penstock_backend_entry. Both are asked for their table of functions
 * once, at the first need, and stay for the life of the process.
 *
 * `struct penstock_err` is `struct err` (base/err.h) under the name that plugins know; in-tree code
 * may cast one to the other.
 *
 * Threads   any; the calls take a lock and may block while a library is loaded.
 */
#ifndef BACKEND_BUILTIN_H
#define BACKEND_BUILTIN_H

#include "penstock/backend.h"

struct err;

static inline struct penstock_err *backend_err(struct err *err)
{
    return (struct penstock_err *)(void *)err;
}

/* The backend of that name, alias or platform ("onnx", "onnxruntime", "onnxruntime_onnx"). NULL
 * when there is none (err lists those there are) or when it refused to start. The `host` of the
 * first call for a backend is the one it keeps. */
const struct penstock_backend *backend_builtin(const char *name_or_platform,
                                               const struct penstock_host *host,
                                               struct penstock_err *err);

/* The backend in the shared object at an absolute path, which is loaded once and never unloaded.
 * NULL with a sentence when it cannot be loaded, was built for another ABI, or lacks a required
 * function. The working directory and the library search path are never looked at. */
const struct penstock_backend *backend_load(const char *path, const struct penstock_host *host,
                                            struct penstock_err *err);

/* Begins, on a thread of its own, what the first model of that backend would wait for (the onnx
 * backend loads its library: some 20 ms). A failure is kept silent here: opening a model says it.
 * Does nothing when one has been begun already. */
void backend_preload(const char *name_or_platform, const struct penstock_host *host);
/* Waits for what backend_preload began; at once when nothing was. A program that preloads calls it
 * before it exits, so that no library is taken down while it is still being set up. */
void backend_preload_wait(void);

/* Names of the rows, in order: NULL past the end. */
const char *backend_builtin_name(uint32_t index);

#endif
