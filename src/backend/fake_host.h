/* fake_host.h - a host for the tests of backends.
 *
 * It keeps what a backend declares and answers, and watches that the backend keeps to
 * penstock/backend.h: exactly one done(), nothing filled for a row that is over, no byte written
 * past an output, adopted memory released once. What it sees wrong is counted and printed.
 *
 * Threads   a batch may be run on one thread while another cancels it or gives it credit.
 */
#ifndef BACKEND_FAKE_HOST_H
#define BACKEND_FAKE_HOST_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"
#include "penstock/backend.h"

enum {
    FAKE_TENSORS_MAX = 64,
    FAKE_ROWS_MAX = 16,
    FAKE_RESPONSES_MAX = 64, /* kept of each row; later ones are counted and dropped */
    FAKE_PARAMETERS_MAX = 16,
};

struct fake_declared {
    char *name;
    bool is_output, is_optional;
    enum penstock_dtype dtype;
    uint32_t rank;
    int64_t dims[PENSTOCK_RANK_MAX];
    char classes[128]; /* "yes,no", or "" */
};

struct fake_parameter {
    const char *key, *value;
};

/* Set the first members, then open. */
struct fake_model {
    const char *name, *folder, *path, *config_json;
    struct fake_parameter parameters[FAKE_PARAMETERS_MAX]; /* of the configuration; NULL ends */
    uint32_t declared_count;
    struct fake_declared declared[2 * FAKE_TENSORS_MAX];
    int declare_code; /* what declare answers; OK unless a test sets it */
};

struct fake_output {
    bool is_filled, is_adopted;
    struct penstock_tensor tensor;
    void *memory; /* owned unless adopted */
    void (*release)(void *context, void *data);
    void *release_context;
};

struct fake_response {
    struct fake_output outputs[FAKE_TENSORS_MAX];
};

struct fake_row {
    int64_t size;
    uint64_t skips; /* bit i: output i is not wanted */
    struct fake_parameter parameters[FAKE_PARAMETERS_MAX];
    atomic_bool is_cancelled;
    atomic_uint credit;
    /* the answer */
    uint32_t responses_count; /* emitted, kept or not */
    struct fake_response *responses[FAKE_RESPONSES_MAX];
    struct fake_response *filling; /* NULL: nothing filled yet */
    bool is_failed;
    int code;
    char text[ERR_TEXT_MAX];
};

struct fake_batch {
    struct fake_model *model;
    uint32_t rows_count;
    struct fake_row rows[FAKE_ROWS_MAX];
    bool has_input[FAKE_TENSORS_MAX];
    struct penstock_tensor inputs[FAKE_TENSORS_MAX]; /* data owned */
    uint32_t done_count, marks;
    int code;
    char text[ERR_TEXT_MAX];
    bool is_output_refused; /* output() answers NULL: no memory */
    /* for CONCURRENT backends */
    void *context;
    uint64_t resume_ns;      /* asked for by resume_after; UINT64_MAX: not */
    uint32_t resumes;        /* times that it was resumed */
    uint32_t pieces;         /* that next_input still has: each is the batch's inputs */
    uint64_t pieces_taken;
    bool is_piece_taken, has_no_end; /* has_no_end: more pieces may come */
    uint32_t interruptions;  /* not yet told; guarded by lock, as are pieces and is_woken */
    bool is_woken;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

extern const struct penstock_host fake_host;
/* Value of the server option "onnx-threads"; NULL unless a test sets it. */
extern const char *fake_threads;
/* Folder of the runtimes; NULL: as if none were installed. Set from PENSTOCK_RUNTIME_DIR. */
extern const char *fake_runtime_path;
extern atomic_uint fake_violations; /* of the contract, by backends */
extern char fake_last_log[1024];    /* the last warning or error */

struct penstock_model *fake_model_host(struct fake_model *model);
struct penstock_batch *fake_batch_host(struct fake_batch *batch);
void fake_model_deinit(struct fake_model *model); /* what declare kept */
const struct fake_declared *fake_model_find(const struct fake_model *model, bool is_output,
                                            const char *name);

/* One row unless said otherwise; every output wanted; credit without end. */
void fake_batch_init(struct fake_batch *batch, struct fake_model *model, uint32_t rows);
void fake_batch_deinit(struct fake_batch *batch);
/* Copies the bytes to 64-byte aligned memory of exactly that size. */
void fake_batch_input(struct fake_batch *batch, uint32_t index, enum penstock_dtype dtype,
                      uint32_t rank, const int64_t *shape, const void *data, size_t size);
/* Drops what was answered, so that the batch can be run again. */
void fake_batch_reset(struct fake_batch *batch);
/* Runs it, resuming it as long as it is open, and looks that it was ended exactly once. The code of
 * done(), or of row 0 if it failed by itself. */
int fake_batch_run(struct fake_batch *batch, const struct penstock_backend *backend,
                   void *instance);
/* From another thread: the caller of every row has left. */
void fake_batch_cancel(struct fake_batch *batch, const struct penstock_backend *backend,
                       void *instance);
void fake_batch_give_credit(struct fake_batch *batch, uint32_t row, uint32_t count);
/* From another thread: so many more pieces, and whether those are all; an interruption. */
void fake_batch_give_pieces(struct fake_batch *batch, uint32_t count, bool is_end);
void fake_batch_interrupt(struct fake_batch *batch);
/* The text that belongs to what fake_batch_run returned. */
const char *fake_batch_text(const struct fake_batch *batch);
/* Output of a response, or NULL when there is none. */
const struct penstock_tensor *fake_batch_output(const struct fake_batch *batch, uint32_t row,
                                                uint32_t response, uint32_t output);
bool fake_batch_is_adopted(const struct fake_batch *batch, uint32_t row, uint32_t response,
                           uint32_t output);

#endif
