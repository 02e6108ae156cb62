/* penstock/backend.h - the whole contract between Penstock and a backend.
 *
 * A backend is a runtime that turns input tensors into output tensors. It is one function,
 * `penstock_backend_entry`: exported by a shared object, or a row of the built-in table. It links
 * against nothing of Penstock; what it may call arrives as `struct penstock_host`. Both tables only
 * ever grow at the end, and `size` tells each side how much of the other it can see.
 *
 * Words   A model version is opened once (model_open) and has one or more instances
 *         (instance_open), each of which runs one batch at a time (execute). A batch holds one or
 *         more rows; a row is one caller's request. The input of a batch is the rows' inputs
 *         concatenated along the first dimension; without batching there is one row.
 * Answers A row may be answered many times: fill outputs with output() or output_adopt(), then
 *         emit() sends them as one response. done() ends every row that is still open. A row that
 *         emits once and is done is the ordinary case; outputs filled but not emitted when done()
 *         arrives with code 0 are emitted then.
 * Threads model_* and instance_* are called on a repository thread and may block. execute is called
 *         on the instance's own thread and may block - or, when the backend declares
 *         PENSTOCK_BACKEND_RUNS_INLINE for the model, possibly on a network loop, where it must
 *         not block. Calls for one instance never overlap.
 * Errors  int codes are gRPC's (0 OK, 3 INVALID_ARGUMENT, 12 UNIMPLEMENTED, 13 INTERNAL,
 *         14 UNAVAILABLE ...). The text is for the caller: what was wrong, what was expected.
 */
#ifndef PENSTOCK_BACKEND_H
#define PENSTOCK_BACKEND_H

#include <stdbool.h>

#include "penstock/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PENSTOCK_BACKEND_ABI 1u /* raised only when an existing member changes meaning */

struct penstock_err;   /* the caller's room for an error text */
struct penstock_model; /* the host's side of a model version */
struct penstock_batch; /* the host's side of one execution */

enum penstock_log_level { PENSTOCK_LOG_ERROR, PENSTOCK_LOG_WARN, PENSTOCK_LOG_INFO, PENSTOCK_LOG_DEBUG };

/* Memory of a device, for backends whose tensors do not lie in host memory. CPU backends leave
 * penstock_backend.memory NULL. Members may block; any thread. */
struct penstock_memory {
    uint32_t size; /* of this table */
    int (*allocate)(void *backend_context, struct penstock_place place, size_t bytes, void **ret,
                    struct penstock_err *err);
    void (*release)(void *backend_context, struct penstock_place place, void *memory);
    /* Starts a copy; *ret_event is NULL when it is already complete. */
    int (*copy)(void *backend_context, struct penstock_place to, void *to_memory,
                struct penstock_place from, const void *from_memory, size_t bytes, void **ret_event,
                struct penstock_err *err);
    /* 1: complete, and the event is gone. 0: not yet. */
    int (*ready)(void *backend_context, void *event);
};

/* What next_input found. */
enum penstock_next_input {
    PENSTOCK_INPUT_NONE,  /* no piece yet: return, resume() is called when there is one */
    PENSTOCK_INPUT_PIECE, /* input() now gives this piece */
    PENSTOCK_INPUT_END    /* the caller sends no more */
};

struct penstock_host {
    uint32_t abi, size;

    /* -- errors and words: any thread ---------------------------------------------------- */
    /* Writes the text (printf form) and returns code. */
    int (*fail)(struct penstock_err *err, int code, const char *format, ...)
#ifdef __GNUC__
        __attribute__((format(printf, 3, 4)))
#endif
        ;
    void (*log)(enum penstock_log_level level, const char *text);
    /* The value of a server option meant for backends ("onnx-threads"), or NULL. Borrowed for the
     * life of the process. */
    const char *(*option)(const char *name);
    /* Folder or file of a runtime library, found by option, environment or prefix and never in the
     * working directory: `name` is "onnxruntime", the answer an absolute path, or NULL when it is
     * not installed. Borrowed for the life of the process. */
    const char *(*runtime_path)(const char *name);

    /* -- the model: model_open until model_close, any thread; strings are borrowed ---------- */
    const char *(*model_name)(const struct penstock_model *model);
    int64_t (*model_version)(const struct penstock_model *model);
    /* Absolute folder of the model (where config.pbtxt lies) and absolute path of the version's
     * file or folder. A backend opens nothing outside the first. For a bare file the folder is the
     * one that contains it. */
    const char *(*model_folder)(const struct penstock_model *model);
    const char *(*model_path)(const struct penstock_model *model);
    /* The configuration as JSON (fields of inference.ModelConfig, snake_case), completed so far. */
    const char *(*config_json)(const struct penstock_model *model);
    /* parameters { key value { string_value } } of the configuration, or NULL. */
    const char *(*config_parameter)(const struct penstock_model *model, const char *key);
    /* Called from model_open only: declares one input or output as the runtime knows it. Dims are
     * the runtime's full shape, the batch dimension included; -1 is any. Order is kept. The host
     * compares with the configuration, or completes it. */
    int (*declare)(struct penstock_model *model, bool is_output, const char *name,
                   enum penstock_dtype dtype, uint32_t rank, const int64_t *dims,
                   bool is_optional, struct penstock_err *err);

    /* -- the batch: from execute() until done(); any thread, but one at a time ---------------- */
    uint32_t (*rows)(const struct penstock_batch *batch); /* callers in it, >= 1 */
    /* Input by the order of declaration; NULL when it is optional and absent. Borrowed until
     * done(); the bytes are read-only and aligned for their dtype. */
    const struct penstock_tensor *(*input)(const struct penstock_batch *batch, uint32_t index);
    /* First dimension that row contributes to the batched inputs (its share of shape[0]). */
    int64_t (*row_size)(const struct penstock_batch *batch, uint32_t row);
    /* Does the row want this output (order of declaration)? Outputs not wanted may be skipped. */
    bool (*wants)(const struct penstock_batch *batch, uint32_t row, uint32_t output);
    /* Request parameter as text, or NULL. */
    const char *(*parameter)(const struct penstock_batch *batch, uint32_t row, const char *key);
    /* Has the row's caller left, or its deadline passed? Long work asks often. */
    bool (*cancelled)(const struct penstock_batch *batch, uint32_t row);
    /* How many more responses the row's reader will take now; 0: wait or do other rows. */
    uint32_t (*credit)(const struct penstock_batch *batch, uint32_t row);
    /* Blocks until credit(row) > 0 or cancelled(row). Only on the thread that execute() was called
     * on, and never from an inline run: a backend's own threads ask credit() again later. */
    void (*wait_credit)(const struct penstock_batch *batch, uint32_t row);
    /* In these two `err` may be NULL: execute has none of its own; the code alone then says why. */
    /* Memory of `bytes` that the response owns, to write this output into; 64-byte aligned.
     * For BYTES, bytes includes the length prefixes. NULL: no memory, or the row is over;
     * err says which (never fatal: call done). Asked again for the same output before emit(), the
     * newer memory takes the place of the older, which is then gone. */
    void *(*output)(struct penstock_batch *batch, uint32_t row, uint32_t output, uint32_t rank,
                    const int64_t *shape, size_t bytes, struct penstock_err *err);
    /* The same with memory of the runtime's, given back by release(context, data) from any thread
     * once it is sent. On failure the memory stays the backend's. */
    int (*output_adopt)(struct penstock_batch *batch, uint32_t row, uint32_t output, uint32_t rank,
                        const int64_t *shape, void *data, size_t bytes,
                        void (*release)(void *context, void *data), void *context,
                        struct penstock_err *err);
    /* Sends the outputs filled since the last emit as one response of the row. Without credit a
     * backend that may block is made to wait here; of others a few responses are kept, and one that
     * goes on is cancelled. */
    void (*emit)(struct penstock_batch *batch, uint32_t row);
    /* Ends one row with an error; the others go on. Nothing may be filled for it afterwards. */
    void (*fail_row)(struct penstock_batch *batch, uint32_t row, int code, const char *text);
    /* Exactly once per execute(); the batch is gone afterwards. Code 0 ends the rows that are open
     * with success, any other with that error. */
    void (*done)(struct penstock_batch *batch, int code, const char *text);
    /* Tells the host that inputs are read and compute begins, and that compute has ended and
     * outputs are being written: for the statistics. Optional to call. */
    void (*mark_compute)(struct penstock_batch *batch, bool is_end);

    /* -- grown at the end: look at `size` before calling what follows -------------------------- */
    /* Called from model_open only, behind declare() of that output; optional. The classes that an
     * output tells apart, in the order of the columns of its scores: what a label output answers
     * with ("versicolor", or 20), and what the columns of a scores output stand for. Exactly one of
     * names (UTF-8) and numbers is not NULL. Both are copied. */
    int (*classes)(struct penstock_model *model, const char *output, uint32_t count,
                   const char *const *names, const int64_t *numbers, struct penstock_err *err);

    /* -- for CONCURRENT backends; from within execute and resume of the instance ------------------ */
    /* The backend's own word for the batch, at first NULL: borrowed from nobody, freed by nobody. */
    void **(*context)(struct penstock_batch *batch);
    /* Asks for one resume() when so many nanoseconds have passed; the latest asking counts;
     * UINT64_MAX: none. */
    void (*resume_after)(struct penstock_batch *batch, uint64_t nanoseconds);
    /* TAKES_STREAM only. Gives back the piece before (its input()s end) and takes the next one.
     * Giving back is what lets the caller send more. At execute() nothing is taken yet. While there
     * is an interruption that interrupted() has not told, it says NONE once, and resume() comes. */
    enum penstock_next_input (*next_input)(struct penstock_batch *batch);
    /* The caller's number of the piece that is taken, 1 for the first; 0: none is. */
    uint64_t (*input_sequence)(const struct penstock_batch *batch);
    /* TAKES_STREAM only. Has the caller interrupted what it is being told (and not left)? True once
     * for each interruption. Pieces that came before it and were not taken are gone. */
    bool (*interrupted)(struct penstock_batch *batch);
    /* From execute() until done(); any thread. The row's place in its caller's distributed trace, as
     * the value of a `traceparent` header (W3C Trace Context): whoever asks others for the row sends
     * it on, and their spans stand below the request's. Writes 55 characters and a NUL. False: there
     * is no trace, or no room, and nothing is written. */
    bool (*traceparent)(const struct penstock_batch *batch, uint32_t row, char *out, size_t size);
};

enum penstock_backend_traits {
    /* execute() never blocks, never waits for other threads, and its run time does not depend on
     * the values of the inputs: the host may run small models on a network loop. */
    PENSTOCK_BACKEND_RUNS_INLINE = 1u << 0,
    /* A row may be answered by other than exactly one response. */
    PENSTOCK_BACKEND_DECOUPLED = 1u << 1,
    /* Batching along the first dimension gives each row what it would get alone. */
    PENSTOCK_BACKEND_CAN_BATCH = 1u << 2,
    /* execute() may return before done(): the backend has threads of its own. */
    PENSTOCK_BACKEND_ASYNCHRONOUS = 1u << 3,
    /* input() may give memory in `place`s other than cpu. */
    PENSTOCK_BACKEND_DEVICE_INPUT = 1u << 4,
    /* An instance takes many batches at once: execute() may be called again before done() of those
     * before it, up to penstock_backend.batches_max. Implies ASYNCHRONOUS. execute() and
     * resume() of one instance never overlap and are called on the same thread (with
     * RUNS_INLINE: the network loop of the callers), so that such a backend needs no lock. It may
     * answer and end any of the instance's batches from within them, and calls the host for its
     * batches on no other thread. wait_credit() is not for it, and cancel() is not called. */
    PENSTOCK_BACKEND_CONCURRENT = 1u << 5,
    /* Of a CONCURRENT backend: it takes a caller's input in pieces itself (next_input), answers
     * between them, and may answer before the first. One batch is one stream, with one row. Callers
     * who bring one piece are streams of one. */
    PENSTOCK_BACKEND_TAKES_STREAM = 1u << 6,
    /* Elements of BYTES inputs are text: the host refuses those that are not UTF-8, with the place of
     * the first byte that is wrong, before the backend sees them. */
    PENSTOCK_BACKEND_TAKES_TEXT = 1u << 7
};

struct penstock_backend {
    uint32_t abi, size;
    const char *name;       /* as written in a configuration's `backend`: "onnxruntime" */
    const char *aliases;    /* further names and `platform`s, space between, or NULL */
    const char *file;       /* what a version folder holds: "model.onnx"; NULL: nothing is needed */

    /* required; repository thread, may block. Reads the model, calls host->declare for every
     * tensor, sets *ret_traits (enum penstock_backend_traits). On failure *ret_model stays as it
     * was and err says why and what to do. */
    int (*model_open)(void **ret_model, struct penstock_model *host_model, uint32_t *ret_traits,
                      struct penstock_err *err);
    /* required; no instance is open any more. Nulls *model. */
    void (*model_close)(void **model);
    /* required; repository thread, may block. `index` counts from 0; place is where it was asked
     * to run. */
    int (*instance_open)(void **ret_instance, void *model, uint32_t index,
                         struct penstock_place place, struct penstock_err *err);
    /* required; nothing runs on it. Nulls *instance. */
    void (*instance_close)(void **instance);
    /* required; see Threads above. Ends with exactly one host->done(batch). */
    void (*execute)(void *instance, struct penstock_batch *batch);
    /* optional; any thread: a hint that every row of what `instance` runs is cancelled, which
     * cancelled() says from before the hint on. done() still follows, sooner. It may come just
     * before the execute() that it is about, and more than once; never after done(). */
    void (*cancel)(void *instance);
    /* optional; words for `penstock explain` (threads, execution providers, versions): JSON object
     * text, borrowed while the model is open. */
    const char *(*describe)(void *model);
    /* optional; device memory. */
    const struct penstock_memory *memory;
    /* optional; the `platform` that Triton's configurations use for it ("onnxruntime_onnx"). */
    const char *platform;

    /* -- grown at the end ---------------------------------------------------------------------- */
    /* CONCURRENT: required. Something that the batch may have waited for is there: credit where
     * there was none, a piece of input or its end, an interruption, the time of resume_after, or
     * every row is cancelled. May be called for nothing. Never from within a host function. */
    void (*resume)(void *instance, struct penstock_batch *batch);
    /* CONCURRENT: how many batches an instance takes at once; 0: 1,000,000. */
    uint32_t batches_max;
};

/* `host` outlives the backend. Returns NULL to refuse to load (err says why). */
typedef const struct penstock_backend *penstock_backend_entry_fn(const struct penstock_host *host,
                                                                 struct penstock_err *err);

/* What a shared object exports. */
const struct penstock_backend *penstock_backend_entry(const struct penstock_host *host,
                                                      struct penstock_err *err);

#ifdef __cplusplus
}
#endif

#endif
