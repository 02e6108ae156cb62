/* echo.c - the backend that runs nothing: a double for tests and benchmarks, and the worked example
 * of a backend.
 *
 * It has no tensors of its own: it declares what config.pbtxt lists. What it does is said there
 * too, as parameters { key: ... value { string_value: ... } }:
 *
 *   mode          what a row gets
 *   identity      (default) its inputs as its outputs
 *   delay         the same after `delay_ms` (and `delay_us`), sooner when cancelled
 *   fail          an error: `code` (gRPC's name or number, INTERNAL) and `text`
 *   fail_load     nothing: the model does not load; `code` and `text` say why
 *   repeat        `count` responses (1); the next is due `delay_ms` and `delay_us` (0) after the
 *                 one before was due: response i at the start plus i times the delay, so that time
 *                 lost is made up. Never more than its reader has credit for
 *   chat          a conversation: first a greeting, when the parameter `greeting` has a text (BYTES
 *                 outputs hold it, others are zeros). Then each input, as it comes, is answered
 *                 with `count` responses as above. An interruption ends the answer under way, the
 *                 end of the input the whole. An INT64 output named `turn` is the number of the
 *                 input that is answered, counted by the stream itself; 0 for the greeting
 *                 In repeat and chat an INT64 output named `due_ns` is the time at which this
 *                 response was due, of CLOCK_MONOTONIC: those who measure compare with it
 *   accumulate    the sums of the inputs of all rows this instance has run since it was opened, or
 *                 since a row with the request parameter sequence_start=true
 *
 * A request (of a conversation: each input too) may set delay_ms, delay_us, count and greeting for
 * itself by request parameters of these names.
 *
 * Which input is which output: output i answers with input i; when there are fewer inputs they are
 * taken round and round. Where the dtypes differ, or there is no input, the output is zeros (empty
 * strings) of its declared shape, in which the batch dimension is the row's and every other free
 * dimension is 1.
 *
 * repeat and chat are CONCURRENT: what a stream knows between two calls is a struct talk. They never
 * wait: without credit, input or time to answer they return, and are called again (resume). After
 * TURN_RESPONSES responses or TURN_NS they let others have their turn.
 *
 * Not here: anything a server should do. No copy is made but the one from input to output.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <yyjson.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/slice.h"
#include "penstock/backend.h"

enum {
    TENSORS_MAX = 64,       /* each way */
    COUNT_MAX = 1000000000, /* responses of `repeat` */
    DELAY_MS_MAX = 3600000, /* an hour */
    DELAY_US_MAX = 1000000000,
    ZERO_BYTES_MAX = 64 << 20, /* an output made of zeros */
    TURN_RESPONSES = 64,
    TURN_NS = 100 * NS_PER_US,
    LOOK_RESPONSES = 16, /* between two looks at the clock */
    TALKS_KEPT = 64
};

enum mode {
    MODE_IDENTITY,
    MODE_DELAY,
    MODE_FAIL,
    MODE_FAIL_LOAD,
    MODE_REPEAT,
    MODE_CHAT,
    MODE_ACCUMULATE
};

static const char *const mode_names[] = { "identity", "delay", "fail",      "fail_load",
                                          "repeat",   "chat",  "accumulate" };

/* Outputs that repeat and chat fill with a number of their own: INT64, by their name. */
enum own { OWN_NONE, OWN_TURN, OWN_DUE };

struct declared {
    char *name; /* owned */
    enum own own;
    enum penstock_dtype dtype;
    bool is_optional;
    uint32_t rank;
    int64_t dims[PENSTOCK_RANK_MAX];
};

struct model {
    const struct penstock_host *host;
    enum mode mode;
    int code;
    uint64_t delay_ms, delay_us, count;
    char *text;     /* owned */
    char *greeting; /* owned; "" when none */
    bool can_batch;
    uint32_t inputs_count, outputs_count;
    struct declared inputs[TENSORS_MAX], outputs[TENSORS_MAX];
    char description[256];
};

struct sum {
    enum penstock_dtype dtype; /* PENSTOCK_INVALID until the first row */
    uint32_t rank;
    int64_t shape[PENSTOCK_RANK_MAX];
    void *data; /* owned */
    size_t size;
};

/* A stream of repeat or chat, between two calls. */
struct talk {
    struct talk *next;           /* in instance.talks */
    uint64_t turn;               /* inputs so far */
    uint64_t made, count;        /* of the present answer */
    uint64_t begun_ns, delay_ns; /* response i is due at begun + i * delay */
    uint32_t row;                /* of repeat: rows are answered one after the other */
    bool is_answering, has_greeted;
};

struct instance {
    struct model *model;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool is_cancelled;  /* guarded by lock */
    struct talk *talks; /* owned: for the next streams; repeat and chat only */
    uint32_t talks_count;
    struct sum sums[TENSORS_MAX]; /* one per output; accumulate only */
};

static const struct penstock_host *the_host;

/* -- the model: what config.pbtxt says -------------------------------------------------------- */

static const struct {
    const char *name;
    enum penstock_dtype dtype;
    size_t size;
} dtypes[] = {
    { "TYPE_BOOL", PENSTOCK_BOOL, 1 },     { "TYPE_UINT8", PENSTOCK_UINT8, 1 },
    { "TYPE_UINT16", PENSTOCK_UINT16, 2 }, { "TYPE_UINT32", PENSTOCK_UINT32, 4 },
    { "TYPE_UINT64", PENSTOCK_UINT64, 8 }, { "TYPE_INT8", PENSTOCK_INT8, 1 },
    { "TYPE_INT16", PENSTOCK_INT16, 2 },   { "TYPE_INT32", PENSTOCK_INT32, 4 },
    { "TYPE_INT64", PENSTOCK_INT64, 8 },   { "TYPE_FP16", PENSTOCK_FP16, 2 },
    { "TYPE_FP32", PENSTOCK_FP32, 4 },     { "TYPE_FP64", PENSTOCK_FP64, 8 },
    { "TYPE_STRING", PENSTOCK_BYTES, 0 },  { "TYPE_BF16", PENSTOCK_BF16, 2 },
};

static size_t dtype_bytes(enum penstock_dtype dtype)
{
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        if (dtypes[i].dtype == dtype)
            return dtypes[i].size;
    }
    return 0;
}

static int tensor_read(struct model *model, struct declared *ret, yyjson_val *value,
                       const char *which, struct penstock_err *err)
{
    const struct penstock_host *host = model->host;
    const char *name = yyjson_get_str(yyjson_obj_get(value, "name"));
    const char *type = yyjson_get_str(yyjson_obj_get(value, "data_type"));
    yyjson_val *dims = yyjson_obj_get(value, "dims");
    size_t index, count;
    yyjson_val *dim;

    if (name == NULL || name[0] == '\0')
        return host->fail(err, E_INVALID, "an %s in config.pbtxt has no name", which);
    for (size_t i = 0; type != NULL && i < COUNT(dtypes); i++) {
        if (strcmp(dtypes[i].name, type) == 0)
            ret->dtype = dtypes[i].dtype;
    }
    if (ret->dtype == PENSTOCK_INVALID)
        return host->fail(err, E_INVALID, "%s '%s' needs a data_type such as TYPE_FP32, not '%s'",
                          which, name, type == NULL ? "" : type);
    if (model->can_batch)
        ret->dims[ret->rank++] = -1;
    yyjson_arr_foreach(dims, index, count, dim)
    {
        if (ret->rank == PENSTOCK_RANK_MAX)
            return host->fail(err, E_INVALID, "%s '%s' has more than %u dims", which, name,
                              PENSTOCK_RANK_MAX);
        ret->dims[ret->rank++] = yyjson_get_sint(dim);
    }
    if (ret->dtype == PENSTOCK_INT64 && model->mode == MODE_CHAT && strcmp(name, "turn") == 0)
        ret->own = OWN_TURN;
    if (ret->dtype == PENSTOCK_INT64 && strcmp(name, "due_ns") == 0 &&
        (model->mode == MODE_CHAT || model->mode == MODE_REPEAT))
        ret->own = OWN_DUE;
    ret->is_optional = yyjson_get_bool(yyjson_obj_get(value, "optional"));
    ret->name = mem_strdup(name);
    return ret->name != NULL ? OK : host->fail(err, E_EXHAUSTED, "no memory for '%s'", name);
}

static int tensors_read(struct model *model, yyjson_val *list, bool is_output,
                        struct penstock_err *err)
{
    const struct penstock_host *host = model->host;
    const char *which = is_output ? "output" : "input";
    struct declared *array = is_output ? model->outputs : model->inputs;
    uint32_t *array_count = is_output ? &model->outputs_count : &model->inputs_count;
    size_t index, count;
    yyjson_val *value;

    yyjson_arr_foreach(list, index, count, value)
    {
        if (*array_count == TENSORS_MAX)
            return host->fail(err, E_INVALID, "the echo backend takes at most %d %ss", TENSORS_MAX,
                              which);
        struct declared *tensor = &array[(*array_count)++];
        int code = tensor_read(model, tensor, value, which, err);
        if (code != OK)
            return code;
        if (model->mode == MODE_ACCUMULATE &&
            (tensor->dtype == PENSTOCK_BYTES || tensor->dtype == PENSTOCK_BOOL ||
             tensor->dtype == PENSTOCK_FP16 || tensor->dtype == PENSTOCK_BF16))
            return host->fail(err, E_INVALID,
                              "mode 'accumulate' adds integers, FP32 and FP64; %s '%s' is neither",
                              which, tensor->name);
    }
    return OK;
}

static int signature_read(struct model *model, const char *json, struct penstock_err *err)
{
    const struct penstock_host *host = model->host;
    yyjson_doc *doc = json == NULL ? NULL : yyjson_read(json, strlen(json), 0);
    yyjson_val *root = yyjson_doc_get_root(doc);

    if (root == NULL) {
        yyjson_doc_free(doc);
        return host->fail(err, E_INTERNAL, "the model's configuration is not JSON");
    }
    model->can_batch = yyjson_get_sint(yyjson_obj_get(root, "max_batch_size")) > 0;
    int code = tensors_read(model, yyjson_obj_get(root, "input"), false, err);
    if (code == OK)
        code = tensors_read(model, yyjson_obj_get(root, "output"), true, err);
    yyjson_doc_free(doc);
    if (code == OK && model->outputs_count == 0)
        code = host->fail(err, E_INVALID,
                          "the echo backend has no tensors of its own: list input and output in "
                          "config.pbtxt");
    return code;
}

/* A parameter that must be a whole number up to `most`; absent leaves *ret as it was. */
static int number_read(struct model *model, const struct penstock_model *host_model,
                       const char *key, uint64_t most, uint64_t *ret, struct penstock_err *err)
{
    const char *text = model->host->config_parameter(host_model, key);
    uint64_t value;

    if (text == NULL)
        return OK;
    if (!slice_to_u64(slice_of(text), &value) || value > most)
        return model->host->fail(err, E_INVALID,
                                 "parameter '%s' must be a whole number from 0 to %" PRIu64
                                 ", not '%s'",
                                 key, most, text);
    *ret = value;
    return OK;
}

static int code_read(struct model *model, const char *text, struct penstock_err *err)
{
    uint64_t number;

    if (text == NULL)
        return OK;
    for (int code = 1; code < ERR_CODE_END; code++) {
        if (strcmp(text, err_name((enum err_code)code)) == 0) {
            model->code = code;
            return OK;
        }
    }
    if (!slice_to_u64(slice_of(text), &number) || number < 1 || number >= ERR_CODE_END)
        return model->host->fail(err, E_INVALID,
                                 "parameter 'code' must be a gRPC status by name (UNAVAILABLE) or "
                                 "number (1 to 16), not '%s'",
                                 text);
    model->code = (int)number;
    return OK;
}

static int parameters_read(struct model *model, const struct penstock_model *host_model,
                           struct penstock_err *err)
{
    const struct penstock_host *host = model->host;
    const char *mode = host->config_parameter(host_model, "mode");
    const char *text = host->config_parameter(host_model, "text");
    const char *greeting = host->config_parameter(host_model, "greeting");
    size_t at = 0;

    while (mode != NULL && at < COUNT(mode_names) && strcmp(mode_names[at], mode) != 0)
        at++;
    if (at == COUNT(mode_names))
        return host->fail(err, E_INVALID,
                          "parameter 'mode' is '%s'; it may be identity, delay, fail, fail_load, "
                          "repeat, chat or accumulate",
                          mode);
    model->mode = (enum mode)at;
    model->code = E_INTERNAL;
    model->count = 1;
    model->text = mem_strdup(text != NULL ? text : "this model fails on purpose");
    model->greeting = mem_strdup(greeting != NULL ? greeting : "");
    if (model->text == NULL || model->greeting == NULL)
        return host->fail(err, E_EXHAUSTED, "no memory for the model's parameters");
    int code = number_read(model, host_model, "delay_ms", DELAY_MS_MAX, &model->delay_ms, err);
    if (code == OK)
        code = number_read(model, host_model, "delay_us", DELAY_US_MAX, &model->delay_us, err);
    if (code == OK)
        code = number_read(model, host_model, "count", COUNT_MAX, &model->count, err);
    return code == OK ? code_read(model, host->config_parameter(host_model, "code"), err) : code;
}

static void echo_model_close(void **slot)
{
    struct model *model = TAKE(*slot);

    if (model == NULL)
        return;
    for (uint32_t i = 0; i < model->inputs_count; i++)
        mem_free(model->inputs[i].name);
    for (uint32_t i = 0; i < model->outputs_count; i++)
        mem_free(model->outputs[i].name);
    mem_free(model->text);
    mem_free(model->greeting);
    mem_free(model);
}

static int declare_all(struct model *model, struct penstock_model *host_model,
                       struct penstock_err *err)
{
    for (uint32_t i = 0; i < model->inputs_count + model->outputs_count; i++) {
        bool is_output = i >= model->inputs_count;
        const struct declared *tensor =
            is_output ? &model->outputs[i - model->inputs_count] : &model->inputs[i];
        int code = model->host->declare(host_model, is_output, tensor->name, tensor->dtype,
                                        tensor->rank, tensor->dims, tensor->is_optional, err);
        if (code != OK)
            return code;
    }
    return OK;
}

static void close_model(struct model **model)
{
    void *slot = TAKE(*model);

    echo_model_close(&slot);
}

static int echo_model_open(void **ret_model, struct penstock_model *host_model,
                           uint32_t *ret_traits, struct penstock_err *err)
{
    const struct penstock_host *host = the_host;
    CLEANUP(close_model) struct model *model = mem_zalloc(sizeof *model);

    if (model == NULL)
        return host->fail(err, E_EXHAUSTED, "no memory to open the model");
    model->host = host;
    int code = parameters_read(model, host_model, err);
    if (code == OK && model->mode == MODE_FAIL_LOAD)
        code = host->fail(err, model->code, "%s", model->text);
    if (code == OK)
        code = signature_read(model, host->config_json(host_model), err);
    if (code == OK)
        code = declare_all(model, host_model, err);
    if (code != OK)
        return code;
    snprintf(model->description, sizeof model->description,
             "{\"mode\":\"%s\",\"delay_ms\":%" PRIu64 ",\"delay_us\":%" PRIu64 ",\"count\":%" PRIu64
             "}",
             mode_names[model->mode], model->delay_ms, model->delay_us, model->count);
    uint32_t traits = model->can_batch && model->mode <= MODE_FAIL ? PENSTOCK_BACKEND_CAN_BATCH : 0;
    if (model->mode == MODE_REPEAT || model->mode == MODE_CHAT)
        traits |= PENSTOCK_BACKEND_DECOUPLED | PENSTOCK_BACKEND_CONCURRENT;
    if (model->mode == MODE_CHAT)
        traits |= PENSTOCK_BACKEND_TAKES_STREAM;
    if (model->mode != MODE_DELAY)
        traits |= PENSTOCK_BACKEND_RUNS_INLINE;
    *ret_traits = traits;
    *ret_model = TAKE(model);
    return OK;
}

static const char *echo_describe(void *context)
{
    struct model *model = context;

    return model->description;
}

/* -- instances -------------------------------------------------------------------------------- */

static int echo_instance_open(void **ret, void *context, uint32_t index,
                              struct penstock_place place, struct penstock_err *err)
{
    struct model *model = context;
    struct instance *instance = mem_zalloc(sizeof *instance);
    pthread_condattr_t attributes;

    (void)index;
    if (place.kind != PENSTOCK_CPU) {
        mem_free(instance);
        return model->host->fail(err, E_INVALID,
                                 "the echo backend runs on the CPU: set KIND_CPU or KIND_AUTO in "
                                 "instance_group");
    }
    if (instance == NULL)
        return model->host->fail(err, E_EXHAUSTED, "no memory for an instance");
    instance->model = model;
    pthread_mutex_init(&instance->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&instance->woken, &attributes);
    pthread_condattr_destroy(&attributes);
    *ret = instance;
    return OK;
}

static void echo_instance_close(void **slot)
{
    struct instance *instance = TAKE(*slot);

    if (instance == NULL)
        return;
    for (size_t i = 0; i < COUNT(instance->sums); i++)
        mem_free(instance->sums[i].data);
    while (instance->talks != NULL) {
        struct talk *next = instance->talks->next;
        mem_free(instance->talks);
        instance->talks = next;
    }
    pthread_cond_destroy(&instance->woken);
    pthread_mutex_destroy(&instance->lock);
    mem_free(instance);
}

static void echo_cancel(void *context)
{
    struct instance *instance = context;

    pthread_mutex_lock(&instance->lock);
    instance->is_cancelled = true;
    pthread_cond_signal(&instance->woken);
    pthread_mutex_unlock(&instance->lock);
}

static bool is_all_cancelled(const struct penstock_host *host, const struct penstock_batch *batch)
{
    for (uint32_t row = 0; row < host->rows(batch); row++) {
        if (!host->cancelled(batch, row))
            return false;
    }
    return true;
}

/* Waits; false when every row has been cancelled meanwhile. The hint wakes it, for the caller's
 * leaving as for its deadline; who takes the host's lock says it after cancelled() is true. */
static bool sleep_ns(struct instance *instance, const struct penstock_batch *batch, uint64_t ns)
{
    const struct penstock_host *host = instance->model->host;
    uint64_t end = clock_mono_ns() + ns;
    struct timespec at = { .tv_sec = (time_t)(end / NS_PER_S), .tv_nsec = (long)(end % NS_PER_S) };
    bool is_over = is_all_cancelled(host, batch);

    while (!is_over && clock_mono_ns() < end) {
        pthread_mutex_lock(&instance->lock);
        while (!instance->is_cancelled) {
            if (pthread_cond_timedwait(&instance->woken, &instance->lock, &at) == ETIMEDOUT)
                break;
        }
        /* The hint is about one batch: it is used up here, the host's answer is what counts. */
        instance->is_cancelled = false;
        pthread_mutex_unlock(&instance->lock);
        is_over = is_all_cancelled(host, batch);
    }
    return !is_over;
}

/* -- rows ------------------------------------------------------------------------------------- */

/* The part of a batched tensor that belongs to one row. */
struct share {
    const uint8_t *data;
    size_t size;
    int64_t first_dim; /* of the row's own shape; rank 0 has none */
};

/* Bytes of `count` length-prefixed strings at `data`; false when they do not lie within size. */
static bool strings_size(const uint8_t *data, size_t size, uint64_t count, size_t *ret)
{
    size_t at = 0;

    for (uint64_t i = 0; i < count; i++) {
        uint32_t length;
        if (size - at < sizeof length)
            return false;
        memcpy(&length, data + at, sizeof length);
        at += sizeof length;
        if (size - at < length)
            return false;
        at += length;
    }
    *ret = at;
    return true;
}

static bool share_of(struct share *ret, const struct penstock_host *host,
                     const struct penstock_batch *batch, const struct penstock_tensor *tensor,
                     uint32_t row)
{
    *ret = (struct share){ tensor->data, tensor->size, tensor->rank > 0 ? tensor->shape[0] : 0 };
    if (host->rows(batch) == 1)
        return true;
    if (tensor->rank == 0 || tensor->shape[0] <= 0)
        return false;
    int64_t before = 0;
    for (uint32_t i = 0; i < row; i++)
        before += host->row_size(batch, i);
    ret->first_dim = host->row_size(batch, row);
    if (before + ret->first_dim > tensor->shape[0])
        return false;
    if (tensor->dtype != PENSTOCK_BYTES) {
        size_t each = tensor->size / (size_t)tensor->shape[0];
        ret->data += each * (size_t)before;
        ret->size = each * (size_t)ret->first_dim;
        return true;
    }
    uint64_t each = 1;
    for (uint32_t d = 1; d < tensor->rank; d++)
        each *= (uint64_t)tensor->shape[d]; /* no overflow: each element has 4 bytes in `size` */
    size_t skip;
    if (!strings_size(ret->data, ret->size, each * (uint64_t)before, &skip))
        return false;
    ret->data += skip;
    ret->size -= skip;
    return strings_size(ret->data, ret->size, each * (uint64_t)ret->first_dim, &ret->size);
}

/* Fails the row with what a host call said. */
static void fail_from(const struct penstock_host *host, struct penstock_batch *batch, uint32_t row,
                      const struct err *err)
{
    host->fail_row(batch, row, err->code == OK ? E_INTERNAL : (int)err->code, err->text);
}

static struct penstock_err *as_host_err(struct err *err)
{
    return (struct penstock_err *)(void *)err;
}

/* An output with no input to answer with. */
static bool zero_fill(struct instance *instance, struct penstock_batch *batch, uint32_t row,
                      uint32_t index)
{
    const struct penstock_host *host = instance->model->host;
    const struct declared *output = &instance->model->outputs[index];
    size_t bytes = output->dtype == PENSTOCK_BYTES ? sizeof(uint32_t) : dtype_bytes(output->dtype);
    int64_t shape[PENSTOCK_RANK_MAX] = { 0 };
    struct err err = { .code = OK };

    for (uint32_t d = 0; d < output->rank; d++) {
        shape[d] = output->dims[d];
        if (shape[d] < 0)
            shape[d] = d == 0 && instance->model->can_batch ? host->row_size(batch, row) : 1;
        if (__builtin_mul_overflow(bytes, (size_t)shape[d], &bytes) || bytes > ZERO_BYTES_MAX) {
            host->fail_row(batch, row, E_INVALID, "an output of zeros would be too large");
            return false;
        }
    }
    void *memory = host->output(batch, row, index, output->rank, shape, bytes, as_host_err(&err));
    if (memory == NULL && bytes > 0) {
        fail_from(host, batch, row, &err);
        return false;
    }
    if (bytes > 0)
        memset(memory, 0, bytes);
    return true;
}

static bool own_fill(struct instance *instance, struct penstock_batch *batch, uint32_t row,
                     uint32_t index, const struct talk *talk);

/* Fills every output that the row wants with its input. False when the row has failed. `talk` is
 * NULL but for repeat and chat. */
static bool identity_fill(struct instance *instance, struct penstock_batch *batch, uint32_t row,
                          const struct talk *talk)
{
    const struct model *model = instance->model;
    const struct penstock_host *host = model->host;

    for (uint32_t i = 0; i < model->outputs_count; i++) {
        const struct penstock_tensor *input = NULL;
        struct share share;
        struct err err = { .code = OK };

        if (!host->wants(batch, row, i))
            continue;
        if (model->outputs[i].own != OWN_NONE) {
            if (!own_fill(instance, batch, row, i, talk))
                return false;
            continue;
        }
        if (model->inputs_count > 0)
            input = host->input(batch, i % model->inputs_count);
        if (input == NULL || input->dtype != model->outputs[i].dtype) {
            if (!zero_fill(instance, batch, row, i))
                return false;
            continue;
        }
        if (!share_of(&share, host, batch, input, row)) {
            host->fail_row(batch, row, E_INTERNAL, "the batch does not divide into its rows");
            return false;
        }
        int64_t shape[PENSTOCK_RANK_MAX];
        memcpy(shape, input->shape, sizeof shape);
        if (input->rank > 0)
            shape[0] = share.first_dim;
        void *memory =
            host->output(batch, row, i, input->rank, shape, share.size, as_host_err(&err));
        if (memory == NULL && share.size > 0) {
            fail_from(host, batch, row, &err);
            return false;
        }
        if (share.size > 0)
            memcpy(memory, share.data, share.size);
    }
    return true;
}

/* A number the request set for itself, else the model's. */
static uint64_t number_of(const struct penstock_host *host, const struct penstock_batch *batch,
                          uint32_t row, const char *key, uint64_t most, uint64_t otherwise)
{
    const char *text = host->parameter(batch, row, key);
    uint64_t value;

    if (text == NULL || !slice_to_u64(slice_of(text), &value))
        return otherwise;
    return MIN(value, most);
}

static uint64_t delay_of(const struct model *model, const struct penstock_batch *batch,
                         uint32_t row)
{
    const struct penstock_host *host = model->host;

    return number_of(host, batch, row, "delay_ms", DELAY_MS_MAX, model->delay_ms) * NS_PER_MS +
           number_of(host, batch, row, "delay_us", DELAY_US_MAX, model->delay_us) * NS_PER_US;
}

static void run_delay(struct instance *instance, struct penstock_batch *batch)
{
    const struct penstock_host *host = instance->model->host;
    uint64_t longest = 0;

    for (uint32_t row = 0; row < host->rows(batch); row++)
        longest = MAX(longest, delay_of(instance->model, batch, row));
    if (!sleep_ns(instance, batch, longest)) {
        host->done(batch, E_CANCELLED, "cancelled while waiting");
        return;
    }
    for (uint32_t row = 0; row < host->rows(batch); row++)
        identity_fill(instance, batch, row, NULL);
    host->done(batch, OK, NULL);
}

/* -- repeat and chat -------------------------------------------------------------------------- */

static struct talk *talk_take(struct instance *instance)
{
    struct talk *talk = instance->talks;

    if (talk == NULL)
        return mem_zalloc(sizeof *talk);
    instance->talks = talk->next;
    instance->talks_count--;
    *talk = (struct talk){ 0 };
    return talk;
}

static void talk_end(struct instance *instance, struct penstock_batch *batch, int code,
                     const char *text)
{
    const struct penstock_host *host = instance->model->host;
    struct talk *talk = *host->context(batch);

    if (instance->talks_count < TALKS_KEPT) {
        talk->next = instance->talks;
        instance->talks = talk;
        instance->talks_count++;
    } else {
        mem_free(talk);
    }
    host->done(batch, code, text);
}

static void answer_begin(struct instance *instance, struct penstock_batch *batch, struct talk *talk)
{
    const struct model *model = instance->model;

    talk->is_answering = true;
    talk->made = 0;
    talk->count = number_of(model->host, batch, talk->row, "count", COUNT_MAX, model->count);
    talk->delay_ns = delay_of(model, batch, talk->row);
    talk->begun_ns = talk->delay_ns > 0 ? clock_mono_ns() : 0;
}

/* One text in the row's BYTES output `index`, whose free dimensions are 1. */
static bool text_fill(struct instance *instance, struct penstock_batch *batch, uint32_t index,
                      const char *text)
{
    const struct penstock_host *host = instance->model->host;
    const struct declared *output = &instance->model->outputs[index];
    uint32_t length = (uint32_t)strlen(text);
    int64_t shape[PENSTOCK_RANK_MAX] = { 0 };
    struct err err = { .code = OK };

    for (uint32_t d = 0; d < output->rank; d++) {
        if (output->dims[d] > 1)
            return zero_fill(instance, batch, 0, index); /* it takes more than one text */
        shape[d] = 1;
    }
    uint8_t *memory = host->output(batch, 0, index, output->rank, shape, sizeof length + length,
                                   as_host_err(&err));
    if (memory == NULL) {
        fail_from(host, batch, 0, &err);
        return false;
    }
    memcpy(memory, &length, sizeof length);
    memcpy(memory + sizeof length, text, length);
    return true;
}

static uint64_t due_of(const struct talk *talk)
{
    return talk->delay_ns > 0 ? talk->begun_ns + talk->made * talk->delay_ns : clock_mono_ns();
}

static bool own_fill(struct instance *instance, struct penstock_batch *batch, uint32_t row,
                     uint32_t index, const struct talk *talk)
{
    const struct penstock_host *host = instance->model->host;
    const struct declared *output = &instance->model->outputs[index];
    int64_t shape[PENSTOCK_RANK_MAX] = { 0 };
    int64_t value = (int64_t)(output->own == OWN_TURN ? talk->turn : due_of(talk));
    struct err err = { .code = OK };
    size_t count = 1;

    for (uint32_t d = 0; d < output->rank; d++) {
        shape[d] = output->dims[d] < 0 ? 1 : output->dims[d];
        if (__builtin_mul_overflow(count, (size_t)shape[d], &count) || count > ZERO_BYTES_MAX / 8)
            return zero_fill(instance, batch, row, index); /* which says that it is too large */
    }
    int64_t *memory = host->output(batch, row, index, output->rank, shape, count * sizeof *memory,
                                   as_host_err(&err));
    if (memory == NULL && count > 0) {
        fail_from(host, batch, row, &err);
        return false;
    }
    for (size_t i = 0; i < count; i++)
        memory[i] = value;
    return true;
}

/* The greeting, in every output that takes one text. */
static bool greeting_fill(struct instance *instance, struct penstock_batch *batch,
                          const struct talk *talk, const char *greeting)
{
    const struct model *model = instance->model;
    const struct penstock_host *host = model->host;

    for (uint32_t i = 0; i < model->outputs_count; i++) {
        const struct declared *output = &model->outputs[i];
        bool is_filled;
        if (!host->wants(batch, 0, i))
            continue;
        if (output->own != OWN_NONE)
            is_filled = own_fill(instance, batch, 0, i, talk);
        else if (output->dtype == PENSTOCK_BYTES)
            is_filled = text_fill(instance, batch, i, greeting);
        else
            is_filled = zero_fill(instance, batch, 0, i);
        if (!is_filled)
            return false;
    }
    return true;
}

enum go { GO_ON, GO_WAIT, GO_OVER };

/* Gives what is due of the present answer. GO_ON: all of it was given. GO_OVER: the row failed. */
static enum go answer_more(struct instance *instance, struct penstock_batch *batch,
                           struct talk *talk, uint32_t *made_now, uint64_t *begun_ns)
{
    const struct model *model = instance->model;
    const struct penstock_host *host = model->host;

    while (talk->made < talk->count) {
        if (talk->delay_ns > 0) {
            uint64_t due = talk->begun_ns + talk->made * talk->delay_ns, now = clock_mono_ns();
            if (now < due) {
                host->resume_after(batch, due - now);
                return GO_WAIT;
            }
        }
        if (*made_now == 0 && talk->delay_ns == 0)
            *begun_ns = clock_mono_ns();
        if (*made_now >= TURN_RESPONSES ||
            (*made_now > 0 && *made_now % LOOK_RESPONSES == 0 && talk->delay_ns == 0 &&
             clock_mono_ns() - *begun_ns > TURN_NS)) {
            host->resume_after(batch, 0);
            return GO_WAIT;
        }
        if (host->credit(batch, talk->row) == 0)
            return GO_WAIT;
        if (!identity_fill(instance, batch, talk->row, talk))
            return GO_OVER;
        host->emit(batch, talk->row);
        talk->made++;
        ++*made_now;
        if (host->cancelled(batch, talk->row))
            return GO_WAIT; /* who called looks at it first */
        if (model->mode == MODE_CHAT && host->interrupted(batch)) {
            talk->is_answering = false;
            return GO_ON;
        }
    }
    talk->is_answering = false;
    return GO_ON;
}

static void go_on_repeat(struct instance *instance, struct penstock_batch *batch, struct talk *talk)
{
    const struct penstock_host *host = instance->model->host;
    uint32_t made_now = 0;
    uint64_t begun_ns = 0;

    while (talk->row < host->rows(batch)) {
        if (!talk->is_answering)
            answer_begin(instance, batch, talk);
        if (host->cancelled(batch, talk->row))
            host->fail_row(batch, talk->row, E_CANCELLED, "cancelled between responses");
        else if (answer_more(instance, batch, talk, &made_now, &begun_ns) == GO_WAIT) {
            if (!host->cancelled(batch, talk->row))
                return;
            continue;
        }
        talk->is_answering = false;
        talk->row++;
    }
    talk_end(instance, batch, OK, NULL);
}

/* The greeting, where there is one. */
static enum go greet(struct instance *instance, struct penstock_batch *batch, struct talk *talk)
{
    const struct penstock_host *host = instance->model->host;
    const char *greeting = host->parameter(batch, 0, "greeting");

    if (greeting == NULL)
        greeting = instance->model->greeting;
    if (greeting[0] != '\0') {
        if (host->credit(batch, 0) == 0)
            return GO_WAIT;
        if (!greeting_fill(instance, batch, talk, greeting))
            return GO_OVER;
        host->emit(batch, 0);
    }
    talk->has_greeted = true;
    return GO_ON;
}

static void go_on_chat(struct instance *instance, struct penstock_batch *batch, struct talk *talk)
{
    const struct penstock_host *host = instance->model->host;
    uint32_t made_now = 0;
    uint64_t begun_ns = 0;

    for (;;) {
        if (host->cancelled(batch, 0)) {
            talk_end(instance, batch, E_CANCELLED, "cancelled between responses");
            return;
        }
        if (host->interrupted(batch)) {
            talk->is_answering = false;
            talk->has_greeted = true;
            continue; /* there may have been several */
        }
        enum go go = talk->has_greeted ? GO_ON : greet(instance, batch, talk);
        if (go == GO_ON && !talk->is_answering) {
            enum penstock_next_input next = host->next_input(batch);
            if (next == PENSTOCK_INPUT_NONE)
                return;
            if (next == PENSTOCK_INPUT_END) {
                talk_end(instance, batch, OK, NULL);
                return;
            }
            talk->turn++;
            answer_begin(instance, batch, talk);
        }
        if (go == GO_ON)
            go = answer_more(instance, batch, talk, &made_now, &begun_ns);
        if (go == GO_OVER) { /* the row has its reason */
            talk_end(instance, batch, OK, NULL);
            return;
        }
        if (go == GO_WAIT && !host->cancelled(batch, 0))
            return;
    }
}

static void echo_resume(void *context, struct penstock_batch *batch)
{
    struct instance *instance = context;
    const struct penstock_host *host = instance->model->host;

    if (instance->model->mode == MODE_CHAT)
        go_on_chat(instance, batch, *host->context(batch));
    else
        go_on_repeat(instance, batch, *host->context(batch));
}

static void talk_begin(struct instance *instance, struct penstock_batch *batch)
{
    const struct penstock_host *host = instance->model->host;
    struct talk *talk = talk_take(instance);

    if (talk == NULL) {
        host->done(batch, E_EXHAUSTED, "no memory for one more stream; retry later");
        return;
    }
    *host->context(batch) = talk;
    echo_resume(instance, batch);
}

/* -- accumulate ------------------------------------------------------------------------------- */

/* Unsigned, so that integers wrap and nothing is undefined; signed ones wrap to the same bits. */
#define ADD(type)                                                    \
    do {                                                             \
        for (size_t i = 0; i < bytes / sizeof(type); i++) {          \
            type a, b;                                               \
            memcpy(&a, (char *)sum + i * sizeof a, sizeof a);        \
            memcpy(&b, (const char *)more + i * sizeof b, sizeof b); \
            a = (type)(a + b);                                       \
            memcpy((char *)sum + i * sizeof a, &a, sizeof a);        \
        }                                                            \
    } while (0)

static void add(enum penstock_dtype dtype, void *sum, const void *more, size_t bytes)
{
    if (dtype == PENSTOCK_FP32)
        ADD(float);
    else if (dtype == PENSTOCK_FP64)
        ADD(double);
    else if (dtype_bytes(dtype) == 1)
        ADD(uint8_t);
    else if (dtype_bytes(dtype) == 2)
        ADD(uint16_t);
    else if (dtype_bytes(dtype) == 4)
        ADD(uint32_t);
    else
        ADD(uint64_t);
}

static bool is_same_shape(const struct sum *sum, uint32_t rank, const int64_t *shape)
{
    return sum->rank == rank && (rank == 0 || memcmp(sum->shape, shape, rank * sizeof *shape) == 0);
}

/* Adds one row's input to one output's sum and answers with the sum. */
static bool sum_fill(struct instance *instance, struct penstock_batch *batch, uint32_t row,
                     uint32_t index, const struct penstock_tensor *input, bool is_start)
{
    const struct penstock_host *host = instance->model->host;
    struct sum *sum = &instance->sums[index];
    struct share share;
    struct err err = { .code = OK };
    int64_t shape[PENSTOCK_RANK_MAX];

    if (!share_of(&share, host, batch, input, row)) {
        host->fail_row(batch, row, E_INTERNAL, "the batch does not divide into its rows");
        return false;
    }
    memcpy(shape, input->shape, sizeof shape);
    if (input->rank > 0)
        shape[0] = share.first_dim;
    if (is_start || sum->dtype == PENSTOCK_INVALID) {
        void *zeros = mem_zalloc(MAX(share.size, (size_t)1));
        if (zeros == NULL) {
            host->fail_row(batch, row, E_EXHAUSTED, "no memory for the sum");
            return false;
        }
        mem_free(sum->data);
        *sum = (struct sum){ input->dtype, input->rank, { 0 }, zeros, share.size };
        memcpy(sum->shape, shape, sizeof shape);
    }
    if (sum->dtype != input->dtype || !is_same_shape(sum, input->rank, shape)) {
        host->fail_row(batch, row, E_INVALID,
                       "the sum so far has another shape or type than this input: send inputs of "
                       "one shape, or the parameter sequence_start=true to begin again");
        return false;
    }
    if (share.size > 0)
        add(sum->dtype, sum->data, share.data, share.size);
    if (!host->wants(batch, row, index)) /* the sum goes on where nobody looks */
        return true;
    void *memory =
        host->output(batch, row, index, input->rank, shape, share.size, as_host_err(&err));
    if (memory == NULL && share.size > 0) {
        fail_from(host, batch, row, &err);
        return false;
    }
    if (share.size > 0)
        memcpy(memory, sum->data, share.size);
    return true;
}

static void run_accumulate(struct instance *instance, struct penstock_batch *batch)
{
    const struct model *model = instance->model;
    const struct penstock_host *host = model->host;

    for (uint32_t row = 0; row < host->rows(batch); row++) {
        const char *start = host->parameter(batch, row, "sequence_start");
        bool is_start = start != NULL && (strcmp(start, "true") == 0 || strcmp(start, "1") == 0);
        bool is_open = true;
        for (uint32_t i = 0; is_open && i < model->outputs_count; i++) {
            const struct penstock_tensor *input =
                model->inputs_count == 0 ? NULL : host->input(batch, i % model->inputs_count);
            if (input == NULL || input->dtype != model->outputs[i].dtype)
                is_open = !host->wants(batch, row, i) || zero_fill(instance, batch, row, i);
            else
                is_open = sum_fill(instance, batch, row, i, input, is_start);
        }
    }
    host->done(batch, OK, NULL);
}

static void echo_execute(void *context, struct penstock_batch *batch)
{
    struct instance *instance = context;
    const struct model *model = instance->model;
    const struct penstock_host *host = model->host;

    switch (model->mode) {
    case MODE_DELAY: run_delay(instance, batch); return;
    case MODE_REPEAT:
    case MODE_CHAT: talk_begin(instance, batch); return;
    case MODE_ACCUMULATE: run_accumulate(instance, batch); return;
    case MODE_FAIL:
        for (uint32_t row = 0; row < host->rows(batch); row++)
            host->fail_row(batch, row, model->code, model->text);
        break;
    case MODE_FAIL_LOAD:
    case MODE_IDENTITY:
        for (uint32_t row = 0; row < host->rows(batch); row++)
            identity_fill(instance, batch, row, NULL);
        break;
    }
    host->done(batch, OK, NULL);
}

static const struct penstock_backend backend = {
    .abi = PENSTOCK_BACKEND_ABI,
    .size = sizeof backend,
    .name = "echo",
    .model_open = echo_model_open,
    .model_close = echo_model_close,
    .instance_open = echo_instance_open,
    .instance_close = echo_instance_close,
    .execute = echo_execute,
    .cancel = echo_cancel,
    .describe = echo_describe,
    .resume = echo_resume,
};

penstock_backend_entry_fn backend_echo_entry;

const struct penstock_backend *backend_echo_entry(const struct penstock_host *host,
                                                  struct penstock_err *err)
{
    if (host->abi != PENSTOCK_BACKEND_ABI) {
        host->fail(err, E_UNIMPLEMENTED, "the host speaks backend ABI %u, echo speaks %u",
                   host->abi, PENSTOCK_BACKEND_ABI);
        return NULL;
    }
    the_host = host;
    return &backend;
}
