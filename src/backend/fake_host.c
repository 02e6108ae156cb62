/* fake_host.c - SPDX-License-Identifier: Apache-2.0 */
#include "backend/fake_host.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { GUARD_BYTES = 64, GUARD = 0xa5, ALIGN = 64 };

const char *fake_threads;
const char *fake_runtime_path;
atomic_uint fake_violations;
char fake_last_log[1024];

static void violation(const char *text)
{
    atomic_fetch_add(&fake_violations, 1);
    fprintf(stderr, "  fake host: %s\n", text);
}

static void *must(void *memory)
{
    if (memory == NULL)
        abort();
    return memory;
}

static struct fake_model *model_of(const struct penstock_model *model)
{
    union {
        const struct penstock_model *in;
        struct fake_model *out;
    } cast = { .in = model };

    return cast.out;
}

static struct fake_batch *batch_of(const struct penstock_batch *batch)
{
    union {
        const struct penstock_batch *in;
        struct fake_batch *out;
    } cast = { .in = batch };

    return cast.out;
}

struct penstock_model *fake_model_host(struct fake_model *model)
{
    return (struct penstock_model *)(void *)model;
}

struct penstock_batch *fake_batch_host(struct fake_batch *batch)
{
    return (struct penstock_batch *)(void *)batch;
}

/* -- errors and words ------------------------------------------------------------------------- */

static int host_fail(struct penstock_err *err, int code, const char *format, ...)
{
    char text[ERR_TEXT_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return (int)err_set((struct err *)(void *)err, (enum err_code)code, "%s", text);
}

static void host_log(enum penstock_log_level level, const char *text)
{
    if (level <= PENSTOCK_LOG_WARN)
        snprintf(fake_last_log, sizeof fake_last_log, "%s", text);
    if (getenv("FAKE_HOST_LOG") != NULL)
        fprintf(stderr, "  log %d: %s\n", (int)level, text);
}

static const char *host_option(const char *name)
{
    return strcmp(name, "onnx-threads") == 0 ? fake_threads : NULL;
}

static const char *host_runtime_path(const char *name)
{
    return strcmp(name, "onnxruntime") == 0 ? fake_runtime_path : NULL;
}

/* -- the model -------------------------------------------------------------------------------- */

static const char *host_model_name(const struct penstock_model *model)
{
    return model_of(model)->name;
}

static int64_t host_model_version(const struct penstock_model *model)
{
    (void)model;
    return 1;
}

static const char *host_model_folder(const struct penstock_model *model)
{
    return model_of(model)->folder;
}

static const char *host_model_path(const struct penstock_model *model)
{
    return model_of(model)->path;
}

static const char *host_config_json(const struct penstock_model *model)
{
    const char *json = model_of(model)->config_json;

    return json != NULL ? json : "{}";
}

static const char *find_parameter(const struct fake_parameter *list, const char *key)
{
    for (size_t i = 0; i < FAKE_PARAMETERS_MAX && list[i].key != NULL; i++) {
        if (strcmp(list[i].key, key) == 0)
            return list[i].value;
    }
    return NULL;
}

static const char *host_config_parameter(const struct penstock_model *model, const char *key)
{
    return find_parameter(model_of(model)->parameters, key);
}

static int host_declare(struct penstock_model *host_model, bool is_output, const char *name,
                        enum penstock_dtype dtype, uint32_t rank, const int64_t *dims,
                        bool is_optional, struct penstock_err *err)
{
    struct fake_model *model = model_of(host_model);

    if (model->declare_code != OK)
        return host_fail(err, model->declare_code, "the host refuses '%s'", name);
    if (model->declared_count == COUNT(model->declared) || rank > PENSTOCK_RANK_MAX) {
        violation("declared too much");
        return host_fail(err, E_INTERNAL, "too much");
    }
    struct fake_declared *declared = &model->declared[model->declared_count++];
    *declared = (struct fake_declared){
        must(strdup(name)), is_output, is_optional, dtype, rank, { 0 }, ""
    };
    if (rank > 0)
        memcpy(declared->dims, dims, rank * sizeof *dims);
    return OK;
}

static int host_classes(struct penstock_model *host_model, const char *output, uint32_t count,
                        const char *const *names, const int64_t *numbers, struct penstock_err *err)
{
    struct fake_model *model = model_of(host_model);
    struct fake_declared *of = NULL;

    for (size_t i = 0; i < model->declared_count; i++)
        if (model->declared[i].is_output && strcmp(model->declared[i].name, output) == 0)
            of = &model->declared[i];
    if (of == NULL || count == 0 || (names == NULL) == (numbers == NULL)) {
        violation("classes of no output, or none, or of two kinds");
        return host_fail(err, E_INTERNAL, "classes");
    }
    of->classes[0] = '\0';
    for (uint32_t i = 0; i < count; i++) {
        size_t at = strlen(of->classes);
        if (names != NULL)
            snprintf(of->classes + at, sizeof of->classes - at, "%s%s", i == 0 ? "" : ",",
                     names[i]);
        else
            snprintf(of->classes + at, sizeof of->classes - at, "%s%lld", i == 0 ? "" : ",",
                     (long long)numbers[i]);
    }
    return OK;
}

void fake_model_deinit(struct fake_model *model)
{
    for (uint32_t i = 0; i < model->declared_count; i++)
        free(model->declared[i].name);
    model->declared_count = 0;
}

const struct fake_declared *fake_model_find(const struct fake_model *model, bool is_output,
                                            const char *name)
{
    for (uint32_t i = 0; i < model->declared_count; i++) {
        const struct fake_declared *declared = &model->declared[i];
        if (declared->is_output == is_output && strcmp(declared->name, name) == 0)
            return declared;
    }
    return NULL;
}

/* -- the batch: what a backend asks ----------------------------------------------------------- */

static uint32_t host_rows(const struct penstock_batch *batch)
{
    return batch_of(batch)->rows_count;
}

static const struct penstock_tensor *host_input(const struct penstock_batch *batch, uint32_t index)
{
    struct fake_batch *fake = batch_of(batch);

    if (index >= FAKE_TENSORS_MAX) {
        violation("asked for an input that cannot be");
        return NULL;
    }
    return fake->has_input[index] ? &fake->inputs[index] : NULL;
}

static struct fake_row *row_of(const struct penstock_batch *batch, uint32_t row)
{
    struct fake_batch *fake = batch_of(batch);

    if (row >= fake->rows_count) {
        violation("asked for a row that is not there");
        abort();
    }
    if (fake->done_count > 0)
        violation("used a batch after done()");
    return &fake->rows[row];
}

static int64_t host_row_size(const struct penstock_batch *batch, uint32_t row)
{
    return row_of(batch, row)->size;
}

static bool host_wants(const struct penstock_batch *batch, uint32_t row, uint32_t output)
{
    return (row_of(batch, row)->skips >> output & 1u) == 0;
}

static const char *host_parameter(const struct penstock_batch *batch, uint32_t row, const char *key)
{
    return find_parameter(row_of(batch, row)->parameters, key);
}

static bool host_cancelled(const struct penstock_batch *batch, uint32_t row)
{
    return atomic_load(&row_of(batch, row)->is_cancelled);
}

static uint32_t host_credit(const struct penstock_batch *batch, uint32_t row)
{
    return atomic_load(&row_of(batch, row)->credit);
}

static void host_wait_credit(const struct penstock_batch *batch, uint32_t row)
{
    struct fake_batch *fake = batch_of(batch);
    struct fake_row *fake_row = row_of(batch, row);

    pthread_mutex_lock(&fake->lock);
    while (atomic_load(&fake_row->credit) == 0 && !atomic_load(&fake_row->is_cancelled))
        pthread_cond_wait(&fake->changed, &fake->lock);
    pthread_mutex_unlock(&fake->lock);
}

/* -- the batch: what a backend answers -------------------------------------------------------- */

/* An output's memory, followed by a guard so that one byte too many is seen without a sanitizer. */
static void *guarded(size_t size)
{
    size_t whole = (size + GUARD_BYTES + ALIGN - 1) / ALIGN * ALIGN;
    uint8_t *memory = must(aligned_alloc(ALIGN, whole));

    memset(memory, 0xcd, size); /* no backend may count on zeros */
    memset(memory + size, GUARD, GUARD_BYTES);
    return memory;
}

static void drop_output(struct fake_output *output)
{
    if (!output->is_filled)
        return;
    if (output->is_adopted) {
        output->release(output->release_context, output->memory);
    } else {
        const uint8_t *guard = (const uint8_t *)output->memory + output->tensor.size;
        for (size_t i = 0; i < GUARD_BYTES; i++) {
            if (guard[i] != GUARD) {
                violation("wrote past the end of an output");
                break;
            }
        }
        free(output->memory);
    }
    *output = (struct fake_output){ 0 };
}

static void drop_response(struct fake_response **response)
{
    if (*response == NULL)
        return;
    for (size_t i = 0; i < FAKE_TENSORS_MAX; i++)
        drop_output(&(*response)->outputs[i]);
    free(*response);
    *response = NULL;
}

/* The place of an output in the response being filled; NULL when the row is over. */
static struct fake_output *place_of(struct penstock_batch *batch, uint32_t row, uint32_t output,
                                    uint32_t rank, const int64_t *shape, size_t bytes,
                                    struct penstock_err *err)
{
    struct fake_row *fake_row = row_of(batch, row);
    const struct fake_model *model = batch_of(batch)->model;
    uint32_t at = 0;

    if (fake_row->is_failed)
        violation("filled an output of a row that had failed");
    if (output >= FAKE_TENSORS_MAX || rank > PENSTOCK_RANK_MAX) {
        violation("filled an output that cannot be");
        abort();
    }
    if (batch_of(batch)->is_output_refused) {
        host_fail(err, E_EXHAUSTED, "no memory for an output");
        return NULL;
    }
    if (!host_wants(batch, row, output))
        violation("filled an output that is not wanted");
    if (fake_row->filling == NULL)
        fake_row->filling = must(calloc(1, sizeof *fake_row->filling));
    struct fake_output *place = &fake_row->filling->outputs[output];
    drop_output(place); /* a second fill replaces the first */
    *place = (struct fake_output){ .is_filled = true };
    for (uint32_t i = 0; i < model->declared_count; i++) {
        if (model->declared[i].is_output && at++ == output) {
            place->tensor.name = model->declared[i].name;
            place->tensor.dtype = model->declared[i].dtype;
        }
    }
    place->tensor.rank = rank;
    if (rank > 0)
        memcpy(place->tensor.shape, shape, rank * sizeof *shape);
    place->tensor.size = bytes;
    return place;
}

static void *host_output(struct penstock_batch *batch, uint32_t row, uint32_t output, uint32_t rank,
                         const int64_t *shape, size_t bytes, struct penstock_err *err)
{
    struct fake_output *place = place_of(batch, row, output, rank, shape, bytes, err);

    if (place == NULL)
        return NULL;
    place->memory = guarded(bytes);
    place->tensor.data = place->memory;
    return place->memory;
}

static int host_output_adopt(struct penstock_batch *batch, uint32_t row, uint32_t output,
                             uint32_t rank, const int64_t *shape, void *data, size_t bytes,
                             void (*release)(void *context, void *data), void *context,
                             struct penstock_err *err)
{
    struct fake_output *place = place_of(batch, row, output, rank, shape, bytes, err);

    if (place == NULL)
        return E_EXHAUSTED;
    place->is_adopted = true;
    place->memory = data;
    place->tensor.data = data;
    place->release = release;
    place->release_context = context;
    return OK;
}

static void host_emit(struct penstock_batch *batch, uint32_t row)
{
    struct fake_row *fake_row = row_of(batch, row);

    if (fake_row->is_failed)
        violation("emitted for a row that had failed");
    if (atomic_load(&fake_row->credit) == 0)
        violation("emitted without credit");
    if (fake_row->filling == NULL)
        fake_row->filling = must(calloc(1, sizeof *fake_row->filling));
    if (fake_row->responses_count < FAKE_RESPONSES_MAX)
        fake_row->responses[fake_row->responses_count] = TAKE(fake_row->filling);
    else
        drop_response(&fake_row->filling);
    fake_row->responses_count++;
    if (atomic_load(&fake_row->credit) != UINT32_MAX)
        atomic_fetch_sub(&fake_row->credit, 1);
}

static void host_fail_row(struct penstock_batch *batch, uint32_t row, int code, const char *text)
{
    struct fake_row *fake_row = row_of(batch, row);

    if (fake_row->is_failed)
        violation("failed a row twice");
    if (code == OK || text == NULL)
        violation("failed a row without a code or a text");
    fake_row->is_failed = true;
    fake_row->code = code;
    snprintf(fake_row->text, sizeof fake_row->text, "%s", text != NULL ? text : "");
    drop_response(&fake_row->filling);
}

static void host_done(struct penstock_batch *batch, int code, const char *text)
{
    struct fake_batch *fake = batch_of(batch);

    if (fake->done_count++ > 0) {
        violation("called done() twice");
        return;
    }
    if (code != OK && (text == NULL || text[0] == '\0'))
        violation("ended a batch with a code and no text");
    fake->code = code;
    snprintf(fake->text, sizeof fake->text, "%s", text != NULL ? text : "");
    for (uint32_t i = 0; i < fake->rows_count; i++) {
        struct fake_row *row = &fake->rows[i];
        if (row->filling == NULL)
            continue;
        if (code == OK && !row->is_failed && row->responses_count < FAKE_RESPONSES_MAX)
            row->responses[row->responses_count++] = TAKE(row->filling);
        drop_response(&row->filling);
    }
}

static void host_mark_compute(struct penstock_batch *batch, bool is_end)
{
    struct fake_batch *fake = batch_of(batch);

    if (fake->marks++ % 2 != (is_end ? 1u : 0u))
        violation("marked the end of compute before its begin");
}

/* -- for CONCURRENT backends -------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static void **host_context(struct penstock_batch *batch)
{
    return &batch_of(batch)->context;
}

static void host_resume_after(struct penstock_batch *batch, uint64_t ns)
{
    struct fake_batch *fake = batch_of(batch);

    if (fake->done_count > 0)
        violation("used a batch after done()");
    fake->resume_ns = ns == UINT64_MAX ? ns : now_ns() + ns;
}

static enum penstock_next_input host_next_input(struct penstock_batch *batch)
{
    struct fake_batch *fake = batch_of(batch);
    enum penstock_next_input next = PENSTOCK_INPUT_NONE;

    pthread_mutex_lock(&fake->lock);
    fake->is_piece_taken = fake->pieces > 0;
    if (fake->pieces > 0) {
        fake->pieces--;
        fake->pieces_taken++;
        next = PENSTOCK_INPUT_PIECE;
    } else if (!fake->has_no_end) {
        next = PENSTOCK_INPUT_END;
    }
    pthread_mutex_unlock(&fake->lock);
    return next;
}

static uint64_t host_input_sequence(const struct penstock_batch *batch)
{
    const struct fake_batch *fake = batch_of(batch);

    return fake->is_piece_taken ? fake->pieces_taken : 0;
}

static bool host_interrupted(struct penstock_batch *batch)
{
    struct fake_batch *fake = batch_of(batch);

    pthread_mutex_lock(&fake->lock);
    bool is_interrupted = fake->interruptions > 0;
    fake->interruptions -= is_interrupted;
    pthread_mutex_unlock(&fake->lock);
    return is_interrupted;
}

const struct penstock_host fake_host = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof fake_host,
    .fail = host_fail,
    .log = host_log,
    .option = host_option,
    .runtime_path = host_runtime_path,
    .model_name = host_model_name,
    .model_version = host_model_version,
    .model_folder = host_model_folder,
    .model_path = host_model_path,
    .config_json = host_config_json,
    .config_parameter = host_config_parameter,
    .declare = host_declare,
    .classes = host_classes,
    .rows = host_rows,
    .input = host_input,
    .row_size = host_row_size,
    .wants = host_wants,
    .parameter = host_parameter,
    .cancelled = host_cancelled,
    .credit = host_credit,
    .wait_credit = host_wait_credit,
    .output = host_output,
    .output_adopt = host_output_adopt,
    .emit = host_emit,
    .fail_row = host_fail_row,
    .done = host_done,
    .mark_compute = host_mark_compute,
    .context = host_context,
    .resume_after = host_resume_after,
    .next_input = host_next_input,
    .input_sequence = host_input_sequence,
    .interrupted = host_interrupted,
};

/* -- the batch: what a test does -------------------------------------------------------------- */

void fake_batch_init(struct fake_batch *batch, struct fake_model *model, uint32_t rows)
{
    memset(batch, 0, sizeof *batch);
    batch->model = model;
    batch->rows_count = rows;
    batch->resume_ns = UINT64_MAX;
    batch->pieces = 1;
    for (uint32_t i = 0; i < rows; i++) {
        batch->rows[i].size = 1;
        atomic_init(&batch->rows[i].credit, UINT32_MAX);
        atomic_init(&batch->rows[i].is_cancelled, false);
    }
    pthread_mutex_init(&batch->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&batch->changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

static void drop_answers(struct fake_batch *batch)
{
    for (uint32_t i = 0; i < batch->rows_count; i++) {
        struct fake_row *row = &batch->rows[i];
        for (size_t r = 0; r < FAKE_RESPONSES_MAX; r++)
            drop_response(&row->responses[r]);
        drop_response(&row->filling);
        row->responses_count = 0;
        row->is_failed = false;
        row->code = OK;
        row->text[0] = '\0';
    }
    batch->done_count = 0;
    batch->marks = 0;
    batch->code = OK;
    batch->text[0] = '\0';
    batch->context = NULL;
    batch->resume_ns = UINT64_MAX;
    batch->resumes = 0;
    batch->pieces = 1;
    batch->pieces_taken = 0;
    batch->is_piece_taken = batch->is_woken = false;
}

void fake_batch_reset(struct fake_batch *batch)
{
    drop_answers(batch);
}

static void free_input(struct penstock_tensor *tensor)
{
    union {
        const void *in;
        void *out;
    } data = { .in = tensor->data };

    free(data.out);
    *tensor = (struct penstock_tensor){ 0 };
}

void fake_batch_deinit(struct fake_batch *batch)
{
    drop_answers(batch);
    for (size_t i = 0; i < FAKE_TENSORS_MAX; i++)
        free_input(&batch->inputs[i]);
    pthread_cond_destroy(&batch->changed);
    pthread_mutex_destroy(&batch->lock);
}

void fake_batch_input(struct fake_batch *batch, uint32_t index, enum penstock_dtype dtype,
                      uint32_t rank, const int64_t *shape, const void *data, size_t size)
{
    struct penstock_tensor *tensor = &batch->inputs[index];
    void *copy = NULL;

    free_input(tensor);
    if (size > 0) {
        if (posix_memalign(&copy, ALIGN, size) != 0)
            abort();
        memcpy(copy, data, size);
    }
    *tensor = (struct penstock_tensor){
        .name = "input", .dtype = dtype, .rank = rank, .data = copy, .size = size
    };
    if (rank > 0)
        memcpy(tensor->shape, shape, rank * sizeof *shape);
    batch->has_input[index] = true;
}

/* Until something that it may wait for is there, or its time has come. */
static void wait_resume(struct fake_batch *batch)
{
    uint64_t due = batch->resume_ns;
    struct timespec at = { .tv_sec = (time_t)(due / 1000000000u),
                           .tv_nsec = (long)(due % 1000000000u) };

    pthread_mutex_lock(&batch->lock);
    while (!batch->is_woken && (due == UINT64_MAX || now_ns() < due)) {
        if (due == UINT64_MAX)
            pthread_cond_wait(&batch->changed, &batch->lock);
        else
            pthread_cond_timedwait(&batch->changed, &batch->lock, &at);
    }
    if (!batch->is_woken)
        batch->resume_ns = UINT64_MAX;
    batch->is_woken = false;
    pthread_mutex_unlock(&batch->lock);
}

int fake_batch_run(struct fake_batch *batch, const struct penstock_backend *backend, void *instance)
{
    backend->execute(instance, fake_batch_host(batch));
    while (batch->done_count == 0 && backend->resume != NULL) {
        wait_resume(batch);
        batch->resumes++;
        backend->resume(instance, fake_batch_host(batch));
    }
    if (batch->done_count != 1)
        violation("did not end a batch exactly once");
    return batch->code != OK ? batch->code : batch->rows[0].code;
}

void fake_batch_cancel(struct fake_batch *batch, const struct penstock_backend *backend,
                       void *instance)
{
    pthread_mutex_lock(&batch->lock);
    for (uint32_t i = 0; i < batch->rows_count; i++)
        atomic_store(&batch->rows[i].is_cancelled, true);
    batch->is_woken = true;
    pthread_cond_broadcast(&batch->changed);
    pthread_mutex_unlock(&batch->lock);
    if (backend->cancel != NULL)
        backend->cancel(instance);
}

void fake_batch_give_credit(struct fake_batch *batch, uint32_t row, uint32_t count)
{
    pthread_mutex_lock(&batch->lock);
    atomic_fetch_add(&batch->rows[row].credit, count);
    batch->is_woken = true;
    pthread_cond_broadcast(&batch->changed);
    pthread_mutex_unlock(&batch->lock);
}

void fake_batch_give_pieces(struct fake_batch *batch, uint32_t count, bool is_end)
{
    pthread_mutex_lock(&batch->lock);
    batch->pieces += count;
    batch->has_no_end = !is_end;
    batch->is_woken = true;
    pthread_cond_broadcast(&batch->changed);
    pthread_mutex_unlock(&batch->lock);
}

void fake_batch_interrupt(struct fake_batch *batch)
{
    pthread_mutex_lock(&batch->lock);
    batch->interruptions++;
    batch->is_woken = true;
    pthread_cond_broadcast(&batch->changed);
    pthread_mutex_unlock(&batch->lock);
}

const char *fake_batch_text(const struct fake_batch *batch)
{
    return batch->code != OK ? batch->text : batch->rows[0].text;
}

const struct penstock_tensor *fake_batch_output(const struct fake_batch *batch, uint32_t row,
                                                uint32_t response, uint32_t output)
{
    const struct fake_row *fake_row = &batch->rows[row];

    if (response >= MIN(fake_row->responses_count, (uint32_t)FAKE_RESPONSES_MAX))
        return NULL;
    const struct fake_output *found = &fake_row->responses[response]->outputs[output];
    return found->is_filled ? &found->tensor : NULL;
}

bool fake_batch_is_adopted(const struct fake_batch *batch, uint32_t row, uint32_t response,
                           uint32_t output)
{
    return fake_batch_output(batch, row, response, output) != NULL &&
           batch->rows[row].responses[response]->outputs[output].is_adopted;
}
