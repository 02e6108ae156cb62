/* scan.h - which models lie at a path: names, versions, files; nothing is loaded.
 *
 * What is no model is looked into, a few folders deep. Everything found is in the scan's arena and
 * lives as long as it. One thread; blocks.
 */
#ifndef REPOSITORY_SCAN_H
#define REPOSITORY_SCAN_H

#include "base/err.h"
#include "base/slice.h"

struct arena;
struct map;
struct model_config;
struct penstock_backend;

enum {
    SCAN_DEPTH_MAX = 3,        /* folders that are no models and are looked into */
    SCAN_ENTRIES_MAX = 100000, /* names read, all paths together */
    SCAN_VERSIONS_MAX = 4096,  /* of one model */
    SCAN_NOTES_MAX = 64,
    SCAN_CARD_BYTES_MAX = 1 << 20
};

struct found_version {
    uint64_t number;     /* 0: there is none, and problem says why */
    const char *text;    /* "1"; "" */
    const char *path;    /* what the backend opens; NULL with a problem */
    uint64_t bytes;      /* of the file: small ones are loaded first */
    const char *problem; /* NULL: none */
    bool is_served;      /* by the version policy */
};

/* One model. */
struct found {
    const char *name;                    /* as shown: printable */
    const char *folder;                  /* absolute, without links */
    const char *where;                   /* what to call it in texts: its folder or its file */
    const char *config_file, *card_file; /* in folder; NULL: none */
    const char *config_keys;             /* its top-level keys, blanks between; NULL: none */
    const struct penstock_backend *backend;
    const char *backend_why; /* "config.pbtxt says so", "it opens model.onnx files" */
    const char *problem;     /* NULL: none; then no version can be loaded */
    uint32_t versions_count;
    struct found_version *versions; /* from low to high, never empty */
    struct found *next;
};

struct scan {
    struct arena *arena; /* borrowed */
    const struct penstock_backend *const *backends;
    uint32_t backends_count;
    const char *backends_err; /* why one of them is missing, or NULL */
    bool gpu_to_cpu;          /* groups of KIND_GPU run on the processor */
    struct map *by_name;      /* -> struct found */
    uint32_t found_count;
    uint32_t entries;
    uint32_t notes_count;
    const char *notes[SCAN_NOTES_MAX];
};

/* E_NOT_FOUND, E_PERMISSION, E_INVALID (a file that no backend opens): the path is named. */
MUST_USE enum err_code scan_path(struct scan *scan, const char *path, struct err *err);

/* The backend whose name, alias or platform this is; NULL: none. */
const struct penstock_backend *scan_backend(const struct scan *scan, struct slice name);

/* Reads and parses the configuration of `found`, or makes an empty one. */
MUST_USE enum err_code scan_config(struct model_config **ret, const struct scan *scan,
                                   const struct found *found, struct arena *arena, struct err *err);

#endif
