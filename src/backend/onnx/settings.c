/* settings.c - SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <yyjson.h>

#include "backend/onnx/opening.h"

enum { THREADS_MAX = 256 };

static enum err_code read_count(const struct opening *opening, const char *key, const char *text,
                                uint32_t *ret)
{
    uint64_t value;

    if (text == NULL)
        return OK;
    if (!slice_to_u64(slice_of(text), &value) || value > THREADS_MAX)
        return err_set(opening->err, E_INVALID,
                       "'%s' must be a number of threads from 0 (one per core) to %d, not '%s'",
                       key, THREADS_MAX, text);
    *ret = (uint32_t)value;
    return OK;
}

static const struct {
    const char *name, *provider;
} provider_names[] = {
    { "cpu", "CPUExecutionProvider" },           { "cuda", "CUDAExecutionProvider" },
    { "tensorrt", "TensorrtExecutionProvider" }, { "openvino", "OpenVINOExecutionProvider" },
    { "rocm", "ROCMExecutionProvider" },         { "migraphx", "MIGraphXExecutionProvider" },
    { "dnnl", "DnnlExecutionProvider" },         { "xnnpack", "XnnpackExecutionProvider" },
    { "coreml", "CoreMLExecutionProvider" },     { "qnn", "QNNExecutionProvider" },
};

static enum err_code add_provider(struct opening *opening, struct slice name)
{
    const struct onnx_runtime *runtime = opening->model->runtime;
    char have[512] = "";
    size_t at = 0;

    for (size_t i = 0; i < COUNT(provider_names); i++) {
        if (slice_is_nocase(name, provider_names[i].name))
            name = slice_of(provider_names[i].provider);
    }
    for (uint32_t i = 0; i < runtime->providers_count; i++) {
        if (slice_is(name, runtime->providers[i])) {
            if (opening->settings.providers_count < PROVIDERS_MAX)
                opening->settings.providers[opening->settings.providers_count++] =
                    runtime->providers[i];
            return OK;
        }
        int wrote = snprintf(have + at, sizeof have - at, "%s%s", at == 0 ? "" : ", ",
                             runtime->providers[i]);
        at = MIN(at + (size_t)MAX(wrote, 0), sizeof have - 1);
    }
    return err_set(opening->err, E_UNAVAILABLE,
                   "this ONNX Runtime (%s) has no execution provider '%.*s'; it has %s: install a "
                   "build that has it (such as pip package onnxruntime-gpu) and name its folder "
                   "with --runtime-dir, or take it out of the model's configuration",
                   runtime->version, SLICE_ARG(name), have);
}

static enum err_code read_providers(struct opening *opening, yyjson_val *optimization)
{
    const char *text =
        opening->model->host->config_parameter(opening->host_model, "execution_providers");
    struct slice rest = slice_of(text != NULL ? text : "");
    yyjson_val *accelerators = yyjson_obj_get(optimization, "execution_accelerators");
    yyjson_val *value;
    size_t index, count;

    while (rest.size > 0) {
        size_t end = slice_find(rest, ',');
        struct slice name = slice_trim(slice_first(rest, end));
        if (name.size > 0)
            TRY(add_provider(opening, name));
        rest = slice_skip(rest, MIN(end + 1, rest.size));
    }
    yyjson_arr_foreach(yyjson_obj_get(accelerators, "cpu_execution_accelerator"), index, count,
                       value)
    {
        const char *name = yyjson_get_str(yyjson_obj_get(value, "name"));
        if (name != NULL)
            TRY(add_provider(opening, slice_of(name)));
    }
    if (yyjson_arr_size(yyjson_obj_get(accelerators, "gpu_execution_accelerator")) > 0)
        opening->model->host->log(PENSTOCK_LOG_WARN,
                                  "gpu_execution_accelerator has no effect: the model runs on the "
                                  "CPU");
    return OK;
}

enum err_code onnx_settings_read(struct opening *opening)
{
    const struct penstock_host *host = opening->model->host;
    struct settings *settings = &opening->settings;
    const char *json = host->config_json(opening->host_model);
    const char *text;

    *settings = (struct settings){
        .intra_threads = 1, .inter_threads = 1, .optimization = ORT_OPTIMIZE_ALL, .has_arena = true
    };
    opening->config = json != NULL ? yyjson_read(json, strlen(json), 0) : NULL;
    yyjson_val *root = yyjson_doc_get_root(opening->config);
    const char *filename = yyjson_get_str(yyjson_obj_get(root, "default_model_filename"));
    if (filename == NULL || filename[0] == '\0')
        filename = "model.onnx";
    if (strchr(filename, '/') != NULL || strlen(filename) >= sizeof settings->filename)
        return err_set(opening->err, E_INVALID,
                       "default_model_filename must be the name of a file in the version's "
                       "folder, not '%s'",
                       filename);
    snprintf(settings->filename, sizeof settings->filename, "%s", filename);

    TRY(read_count(opening, "onnx-threads", host->option("onnx-threads"),
                   &settings->intra_threads));
    TRY(read_count(opening, "intra_op_thread_count",
                   host->config_parameter(opening->host_model, "intra_op_thread_count"),
                   &settings->intra_threads));
    TRY(read_count(opening, "inter_op_thread_count",
                   host->config_parameter(opening->host_model, "inter_op_thread_count"),
                   &settings->inter_threads));
    text = host->config_parameter(opening->host_model, "execution_mode");
    settings->is_parallel = text != NULL && strcmp(text, "1") == 0;
    text = host->config_parameter(opening->host_model, "enable_mem_arena");
    settings->is_arena_said = text != NULL;
    if (text != NULL)
        settings->has_arena = strcmp(text, "0") != 0;

    yyjson_val *optimization = yyjson_obj_get(root, "optimization");
    yyjson_val *level = yyjson_obj_get(yyjson_obj_get(optimization, "graph"), "level");
    switch (yyjson_get_sint(level)) {
    case 0: break;
    case -1: settings->optimization = ORT_OPTIMIZE_BASIC; break;
    case 1: settings->optimization = ORT_OPTIMIZE_EXTENDED; break;
    case 2: settings->optimization = ORT_OPTIMIZE_NONE; break;
    default:
        return err_set(opening->err, E_INVALID,
                       "optimization.graph.level must be -1 (basic), 0 (all), 1 (extended) or 2 "
                       "(none)");
    }
    return read_providers(opening, optimization);
}

struct yyjson_val *onnx_settings_tensor(const struct opening *opening, const char *which,
                                        const char *name)
{
    yyjson_val *list = yyjson_obj_get(yyjson_doc_get_root(opening->config), which);
    yyjson_val *value;
    size_t index, count;

    yyjson_arr_foreach(list, index, count, value)
    {
        const char *other = yyjson_get_str(yyjson_obj_get(value, "name"));
        if (other != NULL && strcmp(other, name) == 0)
            return value;
    }
    return NULL;
}
