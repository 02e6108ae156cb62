/* config.c - SPDX-License-Identifier: Apache-2.0
 *
 * The document is the truth; the members of struct model_config are read from it once, after
 * parsing, and both are changed together by config_complete. The rules of completion are Triton's
 * (core/src/model_config_utils.cc, onnxruntime_backend), named where they are not obvious.
 */
#include "model/config.h"

#include <inttypes.h>
#include <stdio.h>

#include <yyjson.h>

#include "base/arena.h"
#include "base/mem.h"
#include "base/text.h"
#include "model/config_schema.h"
#include "model/dtype.h"
#include "model/nearest.h"
#include "model/pbtxt.h"

enum {
    ARENA_BYTES_FIRST = 4096,
    ARENA_BYTES_MAX = 64 << 20,
    TENSORS_MAX = 4096,   /* inputs, outputs: each is compared with each */
    INSTANCES_MAX = 1024, /* of one group: each is a thread */
    GROUPS_MAX = 64,
    STATES_MAX = 256,
    VERSIONS_MAX = 4096
};

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the configuration; retry later");
}

/* -- life -------------------------------------------------------------------------------------- */

void config_free(struct model_config **slot)
{
    struct model_config *config = TAKE(*slot);

    if (config == NULL)
        return;
    yyjson_mut_doc_free(config->doc);
    arena_free(&config->arena);
    mem_free(config);
}

enum err_code config_new(struct model_config **ret, struct err *err)
{
    CLEANUP(config_free) struct model_config *config = mem_zalloc(sizeof *config);

    if (config == NULL)
        return no_memory(err);
    config->name = config->platform = config->backend = config->default_model_filename = "";
    config->versions_latest = 1;
    config->arena = arena_new(ARENA_BYTES_FIRST, ARENA_BYTES_MAX);
    config->doc = yyjson_mut_doc_new(&schema_heap);
    if (config->arena == NULL || config->doc == NULL)
        return no_memory(err);
    yyjson_mut_val *root = yyjson_mut_obj(config->doc);
    if (root == NULL)
        return no_memory(err);
    yyjson_mut_doc_set_root(config->doc, root);
    *ret = TAKE(config);
    return OK;
}

/* -- from the document to the struct ----------------------------------------------------------- */

static bool get_text(struct model_config *config, yyjson_mut_val *object, const char *name,
                     const char **ret)
{
    yyjson_mut_val *value = yyjson_mut_obj_get(object, name);

    if (value == NULL)
        return true;
    *ret = arena_strndup(config->arena, yyjson_mut_get_str(value), yyjson_mut_get_len(value));
    return *ret != NULL;
}

static bool get_bool(yyjson_mut_val *object, const char *name)
{
    return yyjson_mut_is_true(yyjson_mut_obj_get(object, name));
}

static int64_t get_int(yyjson_mut_val *object, const char *name)
{
    return yyjson_mut_get_sint(yyjson_mut_obj_get(object, name));
}

static bool has_enum(yyjson_mut_val *object, const char *name, const char *value)
{
    return yyjson_mut_equals_str(yyjson_mut_obj_get(object, name), value);
}

/* A list of dims as written; NULL is none. `what` names it: "dims", "reshape". */
static enum err_code read_dims(yyjson_mut_val *list, const char *place, const char *what,
                               uint32_t rank_max, uint32_t *ret_rank, int64_t *ret_dims,
                               struct err *err)
{
    size_t index, count;
    yyjson_mut_val *each;

    if (yyjson_mut_arr_size(list) > rank_max)
        return err_set(err, E_INVALID, "%s: %s has %zu dimensions, the most is %u", place, what,
                       yyjson_mut_arr_size(list), rank_max);
    yyjson_mut_arr_foreach(list, index, count, each)
    {
        int64_t dim = yyjson_mut_get_sint(each);
        if (dim < 1 && dim != -1)
            return err_set(err, E_INVALID,
                           "%s: %s[%zu] is %" PRId64 ": write a size of 1 or more, or -1 for any",
                           place, what, index, dim);
        ret_dims[index] = dim;
    }
    *ret_rank = (uint32_t)yyjson_mut_arr_size(list);
    return OK;
}

/* The products of the sizes between the -1; how many products, or 0 when one overflows. */
static uint32_t products_between(uint32_t rank, const int64_t *dims, int64_t *out)
{
    uint32_t count = 1;

    out[0] = 1;
    for (uint32_t i = 0; i < rank; i++) {
        if (dims[i] == -1)
            out[count++] = 1;
        else if (__builtin_mul_overflow(out[count - 1], dims[i], &out[count - 1]))
            return 0;
    }
    return count;
}

/* Triton's rule: as many -1 on both sides, and the sizes between them have the same product, as in
 * [2,4,-1,6] and [8,-1,1,6]. */
static enum err_code check_reshape(const struct config_tensor *t, const char *place,
                                   struct err *err)
{
    int64_t from[PENSTOCK_RANK_MAX + 1], to[PENSTOCK_RANK_MAX + 1];
    uint32_t count = products_between(t->rank, t->dims, from);
    char dims[160], reshape[160];

    if (count != 0 && products_between(t->reshape_rank, t->reshape, to) == count &&
        memcmp(from, to, count * sizeof *from) == 0)
        return OK;
    return err_set(err, E_INVALID,
                   "%s: dims %s cannot be reshaped to %s: both need the same number of elements "
                   "before, between and after each -1",
                   place, shape_text(dims, sizeof dims, t->rank, t->dims),
                   shape_text(reshape, sizeof reshape, t->reshape_rank, t->reshape));
}

static enum err_code read_tensor(struct model_config *config, yyjson_mut_val *object,
                                 const char *kind, size_t index, struct config_tensor *t,
                                 struct err *err)
{
    uint32_t rank_max = PENSTOCK_RANK_MAX - (config->batch_max > 0);
    char place[160];

    t->name = "";
    if (!get_text(config, object, "name", &t->name) ||
        !get_text(config, object, "label_filename", &t->label_filename))
        return no_memory(err);
    if (t->name[0] == '\0')
        return err_set(err, E_INVALID, "%s[%zu]: the name is missing", kind, index);
    if (t->label_filename != NULL && t->label_filename[0] == '\0')
        t->label_filename = NULL;
    snprintf(place, sizeof place, "%s '%s'", kind, t->name);
    yyjson_mut_val *dtype = yyjson_mut_obj_get(object, "data_type");
    if (dtype != NULL)
        t->dtype = dtype_from_config(slice_of(yyjson_mut_get_str(dtype)));
    TRY(read_dims(yyjson_mut_obj_get(object, "dims"), place, "dims", rank_max, &t->rank, t->dims,
                  err));
    t->has_dims = yyjson_mut_obj_get(object, "dims") != NULL;
    t->is_optional = get_bool(object, "optional");
    yyjson_mut_val *reshape = yyjson_mut_obj_get(object, "reshape");
    if (reshape != NULL) {
        t->has_reshape = true;
        TRY(read_dims(yyjson_mut_obj_get(reshape, "shape"), place, "reshape", rank_max,
                      &t->reshape_rank, t->reshape, err));
        if (!t->has_dims)
            return err_set(err, E_INVALID, "%s: reshape needs dims beside it", place);
        TRY(check_reshape(t, place, err));
    }
    yyjson_mut_val *format = yyjson_mut_obj_get(object, "format");
    if (format != NULL && !yyjson_mut_equals_str(format, "FORMAT_NONE") && t->has_dims &&
        t->rank != 3)
        return err_set(err, E_INVALID, "%s: %s needs 3 dims, not %u", place,
                       yyjson_mut_get_str(format), t->rank);
    return OK;
}

static enum err_code read_tensors(struct model_config *config, yyjson_mut_val *list,
                                  const char *kind, struct config_tensor **ret, uint32_t *ret_count,
                                  struct err *err)
{
    size_t total = yyjson_mut_arr_size(list), index, count;
    yyjson_mut_val *each;

    if (total > TENSORS_MAX)
        return err_set(err, E_INVALID, "there are %zu of %s, the most is %d", total, kind,
                       TENSORS_MAX);
    struct config_tensor *tensors = arena_zalloc(config->arena, total * sizeof *tensors);
    if (tensors == NULL)
        return no_memory(err);
    yyjson_mut_arr_foreach(list, index, count, each)
    {
        TRY(read_tensor(config, each, kind, index, &tensors[index], err));
        for (size_t i = 0; i < index; i++)
            if (strcmp(tensors[i].name, tensors[index].name) == 0)
                return err_set(err, E_INVALID, "%s '%s' is listed twice", kind, tensors[i].name);
    }
    *ret = tensors;
    *ret_count = (uint32_t)total;
    return OK;
}

static enum err_code read_parameters(struct model_config *config, yyjson_mut_val *map,
                                     struct err *err)
{
    size_t index, count;
    yyjson_mut_val *key, *each;

    config->parameters =
        arena_zalloc(config->arena, yyjson_mut_obj_size(map) * sizeof *config->parameters);
    if (config->parameters == NULL)
        return no_memory(err);
    yyjson_mut_obj_foreach(map, index, count, key, each)
    {
        struct config_parameter *p = &config->parameters[index];
        p->value = "";
        p->key = arena_strndup(config->arena, yyjson_mut_get_str(key), yyjson_mut_get_len(key));
        if (p->key == NULL || !get_text(config, each, "string_value", &p->value))
            return no_memory(err);
        config->parameters_count++;
    }
    return OK;
}

static enum err_code add_notice(struct model_config *config, bool is_refusal, const char *text,
                                struct err *err)
{
    size_t size = config->notices_count * sizeof *config->notices;
    struct config_notice *grown =
        arena_resize(config->arena, config->notices, size, size + sizeof *grown);

    if (text == NULL || grown == NULL)
        return no_memory(err);
    config->notices = grown;
    config->notices[config->notices_count++] =
        (struct config_notice){ .is_refusal = is_refusal, .text = text };
    return OK;
}

/* "instance_group[1] 'fast' <words>": by its name as well, where it has one that may be printed. */
static const char *group_says(struct model_config *config, yyjson_mut_val *object, size_t number,
                              const char *words)
{
    const char *name = yyjson_mut_get_str(yyjson_mut_obj_get(object, "name"));
    bool is_shown = name != NULL && name[0] != '\0' && strlen(name) <= 64;

    for (size_t i = 0; is_shown && name[i] != '\0'; i++)
        is_shown = name[i] >= ' ' && name[i] <= '~';
    if (!is_shown)
        return arena_printf(config->arena, "instance_group[%zu] %s", number, words);
    return arena_printf(config->arena, "instance_group[%zu] '%s' %s", number, name, words);
}

static enum err_code read_group(struct model_config *config, yyjson_mut_val *object, size_t number,
                                struct config_instance_group *group, struct err *err)
{
    yyjson_mut_val *gpus = yyjson_mut_obj_get(object, "gpus"), *each;
    int64_t instances = get_int(object, "count");
    size_t index, count;

    group->kind = has_enum(object, "kind", "KIND_GPU")     ? INSTANCE_GPU
                  : has_enum(object, "kind", "KIND_CPU")   ? INSTANCE_CPU
                  : has_enum(object, "kind", "KIND_MODEL") ? INSTANCE_MODEL
                                                           : INSTANCE_AUTO;
    if (instances < 0 || instances > INSTANCES_MAX)
        return err_set(err, E_INVALID,
                       "instance_group[%zu]: count is %" PRId64 ", expected 1 to %d", number,
                       instances, INSTANCES_MAX);
    group->count = instances == 0 ? 1 : (uint32_t)instances;
    if (yyjson_mut_arr_size(gpus) > COUNT(group->gpus))
        return err_set(err, E_INVALID, "instance_group[%zu]: %zu gpus are listed, the most is %zu",
                       number, yyjson_mut_arr_size(gpus), COUNT(group->gpus));
    yyjson_mut_arr_foreach(gpus, index, count, each)
    {
        group->gpus[group->gpus_count++] = (int32_t)yyjson_mut_get_sint(each);
    }
    if (group->gpus_count != 0 && (group->kind == INSTANCE_CPU || group->kind == INSTANCE_MODEL))
        return err_set(err, E_INVALID,
                       "instance_group[%zu]: gpus are listed, but the kind is %s: remove gpus, or "
                       "write KIND_GPU",
                       number, group->kind == INSTANCE_CPU ? "KIND_CPU" : "KIND_MODEL");
    if (group->kind != INSTANCE_GPU && group->gpus_count == 0)
        return OK;
    if (group->kind != INSTANCE_GPU)
        return add_notice(config, false,
                          arena_printf(config->arena,
                                       "instance_group[%zu].gpus has no effect: the model runs on "
                                       "the processor",
                                       number),
                          err);
    group->refusal = config->notices_count;
    return add_notice(config, true,
                      group_says(config, object, number,
                                 "asks for KIND_GPU, and this server has no GPU: its backends run "
                                 "models on the processor. Write KIND_CPU or KIND_AUTO, or give "
                                 "--gpu-to-cpu to run the group on the processor"),
                      err);
}

static enum err_code read_groups(struct model_config *config, yyjson_mut_val *list, struct err *err)
{
    size_t total = yyjson_mut_arr_size(list), index, count;
    yyjson_mut_val *each;

    if (total > GROUPS_MAX)
        return err_set(err, E_INVALID, "there are %zu of instance_group, the most is %d", total,
                       GROUPS_MAX);
    config->groups = arena_zalloc(config->arena, total * sizeof *config->groups);
    if (config->groups == NULL)
        return no_memory(err);
    yyjson_mut_arr_foreach(list, index, count, each)
    {
        TRY(read_group(config, each, index, &config->groups[index], err));
    }
    config->groups_count = (uint32_t)total;
    return OK;
}

static enum err_code read_versions(struct model_config *config, yyjson_mut_val *policy,
                                   struct err *err)
{
    yyjson_mut_val *latest = yyjson_mut_obj_get(policy, "latest"), *each;
    yyjson_mut_val *specific = yyjson_mut_obj_get(policy, "specific");
    yyjson_mut_val *list = yyjson_mut_obj_get(specific, "versions");
    size_t total = yyjson_mut_arr_size(list), index, count;

    config->versions_all = yyjson_mut_obj_get(policy, "all") != NULL;
    if (yyjson_mut_obj_get(latest, "num_versions") != NULL) {
        config->versions_latest = (uint32_t)get_int(latest, "num_versions");
        if (config->versions_latest == 0)
            return err_set(err, E_INVALID,
                           "version_policy.latest.num_versions is 0: no version "
                           "would be served; write 1 or more");
    }
    if (specific == NULL)
        return OK;
    if (total == 0 || total > VERSIONS_MAX)
        return err_set(err, E_INVALID,
                       "version_policy.specific lists %zu versions, expected 1 to %d", total,
                       VERSIONS_MAX);
    config->versions = arena_alloc(config->arena, total * sizeof *config->versions);
    if (config->versions == NULL)
        return no_memory(err);
    yyjson_mut_arr_foreach(list, index, count, each)
    {
        config->versions[index] = yyjson_mut_get_sint(each);
        if (config->versions[index] < 1)
            return err_set(err, E_INVALID,
                           "version_policy.specific.versions[%zu] is %" PRId64
                           ": versions are numbers from 1 on",
                           index, config->versions[index]);
    }
    config->versions_count = (uint32_t)total;
    return OK;
}

static enum err_code read_state(struct model_config *config, yyjson_mut_val *object, size_t index,
                                struct config_state *state, struct err *err)
{
    uint32_t rank_max = PENSTOCK_RANK_MAX - (config->batch_max > 0);
    yyjson_mut_val *initial = yyjson_mut_arr_get_first(yyjson_mut_obj_get(object, "initial_state"));
    yyjson_mut_val *dtype = yyjson_mut_obj_get(object, "data_type");
    char place[160];

    state->input = state->output = "";
    if (!get_text(config, object, "input_name", &state->input) ||
        !get_text(config, object, "output_name", &state->output))
        return no_memory(err);
    if (state->input[0] == '\0' || state->output[0] == '\0')
        return err_set(err, E_INVALID,
                       "sequence_batching.state[%zu] needs input_name and output_name", index);
    snprintf(place, sizeof place, "sequence_batching.state[%zu] '%.60s'", index, state->input);
    if (dtype != NULL)
        state->dtype = dtype_from_config(slice_of(yyjson_mut_get_str(dtype)));
    yyjson_mut_val *dims = yyjson_mut_obj_get(initial, "dims");
    if (dims == NULL)
        dims = yyjson_mut_obj_get(object, "dims");
    state->has_dims = dims != NULL;
    return read_dims(dims, place, "dims", rank_max, &state->rank, state->dims, err);
}

static enum err_code read_states(struct model_config *config, yyjson_mut_val *list, struct err *err)
{
    size_t total = yyjson_mut_arr_size(list), index, count;
    yyjson_mut_val *each;

    if (total > STATES_MAX)
        return err_set(err, E_INVALID, "there are %zu of sequence_batching.state, the most is %d",
                       total, STATES_MAX);
    config->states = arena_zalloc(config->arena, total * sizeof *config->states);
    if (config->states == NULL)
        return no_memory(err);
    yyjson_mut_arr_foreach(list, index, count, each)
    {
        TRY(read_state(config, each, index, &config->states[index], err));
        for (size_t i = 0; i < index; i++)
            if (strcmp(config->states[i].input, config->states[index].input) == 0)
                return err_set(err, E_INVALID, "sequence_batching.state has the input '%s' twice",
                               config->states[i].input);
    }
    config->states_count = (uint32_t)total;
    return OK;
}

static void read_queue(struct model_config *config, yyjson_mut_val *dynamic)
{
    yyjson_mut_val *policy = yyjson_mut_obj_get(dynamic, "default_queue_policy");

    config->queue_size_max =
        (uint32_t)yyjson_mut_get_uint(yyjson_mut_obj_get(policy, "max_queue_size"));
    config->allow_timeout_override = get_bool(policy, "allow_timeout_override");
    /* DELAY never refuses for the time: its requests wait on, so there is no limit to keep. */
    if (!has_enum(policy, "timeout_action", "DELAY"))
        config->queue_timeout_us =
            yyjson_mut_get_uint(yyjson_mut_obj_get(policy, "default_timeout_microseconds"));
}

struct notices {
    struct model_config *config;
    enum err_code code;
    struct err *err;
};

static bool on_act(void *context, const struct schema_field *field, const char *path)
{
    struct notices *n = context;
    bool is_refusal = field->act == ACT_REFUSED;
    const char *why = field->why;

    if (strcmp(path, "sequence_batching") == 0 && n->config->states_count == 0) {
        is_refusal = true;
        why =
            "is not built yet: the model would miss its control inputs and the state of a sequence";
    }
    n->code = add_notice(n->config, is_refusal, arena_printf(n->config->arena, "%s %s", path, why),
                         n->err);
    return n->code == OK;
}

/* Reads every member from the document, whose shape the parsers have checked. */
static enum err_code read_members(struct model_config *config, struct err *err)
{
    yyjson_mut_val *root = yyjson_mut_doc_get_root(config->doc);
    struct notices notices = { .config = config, .code = OK, .err = err };

    if (!get_text(config, root, "name", &config->name) ||
        !get_text(config, root, "platform", &config->platform) ||
        !get_text(config, root, "backend", &config->backend) ||
        !get_text(config, root, "default_model_filename", &config->default_model_filename))
        return no_memory(err);
    int64_t batch_max = get_int(root, "max_batch_size");
    if (batch_max < 0)
        return err_set(err, E_INVALID,
                       "max_batch_size is %" PRId64 ": write 0 for no batching, or the largest "
                       "batch",
                       batch_max);
    config->has_batch_max = yyjson_mut_obj_get(root, "max_batch_size") != NULL;
    config->batch_max = (uint32_t)batch_max;
    TRY(read_tensors(config, yyjson_mut_obj_get(root, "input"), "input", &config->inputs,
                     &config->inputs_count, err));
    TRY(read_tensors(config, yyjson_mut_obj_get(root, "output"), "output", &config->outputs,
                     &config->outputs_count, err));
    TRY(read_parameters(config, yyjson_mut_obj_get(root, "parameters"), err));
    TRY(read_groups(config, yyjson_mut_obj_get(root, "instance_group"), err));
    TRY(read_versions(config, yyjson_mut_obj_get(root, "version_policy"), err));
    config->scheduling =
        yyjson_mut_obj_get(root, "dynamic_batching") != NULL      ? SCHEDULING_DYNAMIC
        : yyjson_mut_obj_get(root, "sequence_batching") != NULL   ? SCHEDULING_SEQUENCE
        : yyjson_mut_obj_get(root, "ensemble_scheduling") != NULL ? SCHEDULING_ENSEMBLE
                                                                  : SCHEDULING_NONE;
    TRY(read_states(
        config, yyjson_mut_obj_get(yyjson_mut_obj_get(root, "sequence_batching"), "state"), err));
    read_queue(config, yyjson_mut_obj_get(root, "dynamic_batching"));
    config->is_decoupled =
        get_bool(yyjson_mut_obj_get(root, "model_transaction_policy"), "decoupled");
    if (!schema_walk_acts(config_schema, root, on_act, &notices))
        return notices.code;
    return OK;
}

enum err_code config_parse(struct model_config **ret, struct slice pbtxt, struct err *err)
{
    CLEANUP(config_free) struct model_config *config = NULL;
    yyjson_mut_val *root = NULL;

    if (pbtxt.size > CONFIG_BYTES_MAX)
        return err_set(err, E_INVALID, "the file has %zu bytes, the most is %d", pbtxt.size,
                       CONFIG_BYTES_MAX);
    TRY(config_new(&config, err));
    TRY(pbtxt_parse(&root, config->doc, config_schema, pbtxt, CONFIG_DEPTH_MAX, err));
    yyjson_mut_doc_set_root(config->doc, root);
    TRY(read_members(config, err));
    *ret = TAKE(config);
    return OK;
}

enum err_code config_parse_json(struct model_config **ret, struct slice json, struct err *err)
{
    CLEANUP(config_free) struct model_config *config = NULL;
    yyjson_mut_val *root = NULL;

    if (json.size > CONFIG_BYTES_MAX)
        return err_set(err, E_INVALID, "the configuration has %zu bytes, the most is %d", json.size,
                       CONFIG_BYTES_MAX);
    TRY(config_new(&config, err));
    TRY(schema_from_json(&root, config->doc, config_schema, json, err));
    yyjson_mut_doc_set_root(config->doc, root);
    TRY(read_members(config, err));
    *ret = TAKE(config);
    return OK;
}

/* -- completion -------------------------------------------------------------------------------- */

/* Puts a value that may be NULL for want of memory, in place of what is there. */
static bool put(struct model_config *config, yyjson_mut_val *object, const char *name,
                yyjson_mut_val *value)
{
    yyjson_mut_val *key = yyjson_mut_str(config->doc, name);

    return key != NULL && value != NULL && yyjson_mut_obj_put(object, key, value);
}

static yyjson_mut_val *copy_text(struct model_config *config, const char *text)
{
    return yyjson_mut_strcpy(config->doc, text);
}

static const struct declared_tensor *find_declared(const struct declared_tensor *list,
                                                   uint32_t count, const char *name)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    return NULL;
}

static const struct config_tensor *find_tensor(const struct config_tensor *list, uint32_t count,
                                               const char *name)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    return NULL;
}

/* "; it has 'a', 'b'" */
static void list_names(struct text *out, const struct declared_tensor *list, uint32_t count)
{
    text_str(out, count == 0 ? "; it has none" : "; it has ");
    for (uint32_t i = 0; i < count && i < 8; i++)
        text_printf(out, "%s'%.60s'", i == 0 ? "" : ", ", list[i].name);
    if (count > 8)
        text_printf(out, " and %u more", count - 8);
}

static enum err_code fail_unknown(const char *kind, const struct config_tensor *t,
                                  const struct declared_tensor *list, uint32_t count,
                                  struct err *err)
{
    struct nearest nearest = nearest_to(slice_of(t->name));
    uint8_t room[700];
    struct text names;

    for (uint32_t i = 0; i < count; i++)
        nearest_offer(&nearest, list[i].name);
    text_init_fixed(&names, room, sizeof room);
    if (nearest_best(&nearest) != NULL)
        text_printf(&names, "; the nearest is '%.60s'", nearest_best(&nearest));
    list_names(&names, list, count);
    return err_set(err, E_INVALID, "%s '%s': the model has no %s of that name%s", kind, t->name,
                   kind, text_cstr(&names));
}

/* The full shape that the backend sees, by the configuration. */
static uint32_t full_shape(const struct model_config *config, const struct config_tensor *t,
                           int64_t *out)
{
    uint32_t rank = t->has_reshape ? t->reshape_rank : t->rank, at = 0;
    const int64_t *dims = t->has_reshape ? t->reshape : t->dims;

    if (config->batch_max > 0)
        out[at++] = -1;
    for (uint32_t i = 0; i < rank; i++)
        out[at++] = dims[i];
    return at;
}

/* A model's scalar is listed as [1] (or [1,1] ...), since Triton's clients have no rank 0; what
 * the backend sees is then a reshape to []. An output of rank 0 may also be one whose rank the
 * runtime does not know, so that any dims fit it. */
static bool is_listed_scalar(const struct config_tensor *t)
{
    for (uint32_t i = 0; i < t->rank; i++)
        if (t->dims[i] != 1)
            return false;
    return !t->has_reshape || t->reshape_rank == 0;
}

static enum err_code check_batch_dim(const struct model_config *config, const char *kind,
                                     const struct declared_tensor *d, struct err *err)
{
    char has[200];

    if (config->batch_max == 0 || (d->rank != 0 && d->dims[0] == -1))
        return OK;
    return err_set(err, E_INVALID,
                   "%s '%s': max_batch_size is %u, but the model says %s, whose first dimension is "
                   "not free for a batch: write max_batch_size: 0 and the dims in full",
                   kind, d->name, config->batch_max, shape_text(has, sizeof has, d->rank, d->dims));
}

static enum err_code compare_dims(const struct model_config *config, bool is_output,
                                  const struct config_tensor *t, const struct declared_tensor *d,
                                  struct err *err)
{
    const char *kind = is_output ? "output" : "input";
    int64_t full[PENSTOCK_RANK_MAX + 1];
    uint32_t rank = full_shape(config, t, full);
    char said[200], has[200];
    bool fits = rank == d->rank;

    if (d->rank == 0 && (is_output || is_listed_scalar(t)))
        return OK;
    for (uint32_t i = 0; fits && i < rank; i++)
        fits = d->dims[i] == -1 || d->dims[i] == full[i];
    if (fits)
        return OK;
    return err_set(err, E_INVALID, "%s '%s': the configuration says %s%s%s, the model %s", kind,
                   t->name, shape_text(said, sizeof said, rank, full),
                   config->batch_max > 0 ? " (first the batch, since max_batch_size is not 0)" : "",
                   t->has_reshape ? " (reshaped)" : "",
                   shape_text(has, sizeof has, d->rank, d->dims));
}

/* Fills dims from the model's full shape. As Triton does, what has no dims of its own is shown as
 * [1] and reshaped to [] - but not an output of rank 0, which comes in the shape that it has. */
static void take_dims(const struct model_config *config, bool is_output, struct config_tensor *t,
                      const struct declared_tensor *d)
{
    uint32_t skip = config->batch_max > 0;

    t->rank = d->rank - skip;
    for (uint32_t i = 0; i < t->rank; i++)
        t->dims[i] = d->dims[i + skip];
    if (t->rank == 0 && !(is_output && d->rank == 0)) {
        t->rank = 1;
        t->dims[0] = 1;
        t->has_reshape = true;
        t->reshape_rank = 0;
    }
    t->has_dims = true;
}

static bool put_tensor(struct model_config *config, yyjson_mut_val *object,
                       const struct config_tensor *t, bool is_output)
{
    yyjson_mut_val *dims = yyjson_mut_arr_with_sint64(config->doc, t->dims, t->rank);

    if (!put(config, object, "name", copy_text(config, t->name)) ||
        !put(config, object, "data_type",
             yyjson_mut_str(config->doc, dtype_config_name(t->dtype))) ||
        !put(config, object, "dims", dims) ||
        (!is_output &&
         !put(config, object, "optional", yyjson_mut_bool(config->doc, t->is_optional))))
        return false;
    /* A scalar of a model that does not batch is dims [1] alone in Triton's own completion. */
    if (!t->has_reshape || (t->reshape_rank == 0 && config->batch_max == 0))
        return true;
    yyjson_mut_val *reshape = yyjson_mut_obj(config->doc);
    return put(config, reshape, "shape",
               yyjson_mut_arr_with_sint64(config->doc, t->reshape, t->reshape_rank)) &&
           put(config, object, "reshape", reshape);
}

/* The listed tensors of one kind against the declared ones; what a row left out is filled in. */
static enum err_code complete_listed(struct model_config *config, bool is_output,
                                     struct config_tensor *tensors, uint32_t tensors_count,
                                     yyjson_mut_val *list, const struct declared_tensor *declared,
                                     uint32_t declared_count, struct err *err)
{
    const char *kind = is_output ? "output" : "input";
    size_t index, count;
    yyjson_mut_val *each;

    yyjson_mut_arr_foreach(list, index, count, each)
    {
        struct config_tensor *t = &tensors[index];
        const struct declared_tensor *d = find_declared(declared, declared_count, t->name);
        if (d == NULL)
            return fail_unknown(kind, t, declared, declared_count, err);
        if (t->dtype == PENSTOCK_INVALID)
            t->dtype = d->dtype;
        else if (t->dtype != d->dtype)
            return err_set(err, E_INVALID, "%s '%s': the configuration says %s, the model %s", kind,
                           t->name, dtype_config_name(t->dtype), dtype_config_name(d->dtype));
        if (t->is_optional && !d->is_optional)
            return err_set(err, E_INVALID,
                           "%s '%s': the configuration says optional, but the model needs it", kind,
                           t->name);
        TRY(check_batch_dim(config, kind, d, err));
        if (t->has_dims)
            TRY(compare_dims(config, is_output, t, d, err));
        else
            take_dims(config, is_output, t, d);
        if (d->rank == 0 && !t->has_reshape && t->rank != 0 && is_listed_scalar(t)) {
            t->has_reshape = true;
            t->reshape_rank = 0;
        }
        if (!put_tensor(config, each, t, is_output))
            return no_memory(err);
    }
    for (uint32_t i = 0; i < declared_count && !is_output; i++)
        if (!declared[i].is_optional &&
            find_tensor(tensors, tensors_count, declared[i].name) == NULL)
            return err_set(err, E_INVALID,
                           "input '%s' of the model is missing in the configuration, which lists "
                           "others: add it, or list none",
                           declared[i].name);
    return OK;
}

static enum err_code fill_tensors(struct model_config *config, bool is_output,
                                  struct config_tensor **ret_tensors, uint32_t *ret_count,
                                  yyjson_mut_val *list, const struct declared_tensor *declared,
                                  uint32_t declared_count, struct err *err)
{
    struct config_tensor *tensors = arena_zalloc(config->arena, declared_count * sizeof *tensors);

    if (tensors == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < declared_count; i++) {
        struct config_tensor *t = &tensors[i];
        yyjson_mut_val *object = yyjson_mut_obj(config->doc);
        t->name = arena_strndup(config->arena, declared[i].name, strlen(declared[i].name));
        if (t->name == NULL || object == NULL)
            return no_memory(err);
        t->dtype = declared[i].dtype;
        t->is_optional = !is_output && declared[i].is_optional;
        TRY(check_batch_dim(config, is_output ? "output" : "input", &declared[i], err));
        take_dims(config, is_output, t, &declared[i]);
        if (!put_tensor(config, object, t, is_output) || !yyjson_mut_arr_append(list, object))
            return no_memory(err);
    }
    *ret_tensors = tensors;
    *ret_count = declared_count;
    return OK;
}

/* The list of that name in the document, made when it is absent. */
static yyjson_mut_val *list_of(struct model_config *config, yyjson_mut_val *root, const char *name)
{
    yyjson_mut_val *list = yyjson_mut_obj_get(root, name);

    if (list != NULL)
        return list;
    list = yyjson_mut_arr(config->doc);
    return put(config, root, name, list) ? list : NULL;
}

/* A model that does not say what it takes must be told whole. */
static enum err_code check_whole(const char *kind, const struct config_tensor *tensors,
                                 uint32_t count, struct err *err)
{
    if (count == 0)
        return err_set(err, E_INVALID,
                       "no %s is listed, and the model itself does not say: list %s { name, "
                       "data_type, dims } in config.pbtxt",
                       kind, kind);
    for (uint32_t i = 0; i < count; i++)
        if (tensors[i].dtype == PENSTOCK_INVALID || !tensors[i].has_dims)
            return err_set(err, E_INVALID,
                           "%s '%s': %s is missing, and the model itself does not "
                           "say",
                           kind, tensors[i].name,
                           tensors[i].dtype == PENSTOCK_INVALID ? "data_type" : "dims");
    return OK;
}

/* Triton does not list the state among the inputs, but a caller without a session sends it: it is
 * listed as the model has it. */
static enum err_code list_states(struct model_config *config, yyjson_mut_val *list,
                                 const struct declared *declared, struct err *err)
{
    for (uint32_t i = 0; i < config->states_count; i++) {
        const char *name = config->states[i].input;
        const struct declared_tensor *d =
            find_declared(declared->inputs, declared->inputs_count, name);
        size_t size = config->inputs_count * sizeof *config->inputs;
        if (d == NULL || find_tensor(config->inputs, config->inputs_count, name) != NULL)
            continue;
        struct config_tensor *more =
            arena_resize(config->arena, config->inputs, size, size + sizeof *more);
        yyjson_mut_val *object = yyjson_mut_obj(config->doc);
        if (more == NULL || object == NULL)
            return no_memory(err);
        config->inputs = more;
        struct config_tensor *t = &more[config->inputs_count];
        *t = (struct config_tensor){ .name = name, .dtype = d->dtype };
        TRY(check_batch_dim(config, "input", d, err));
        take_dims(config, false, t, d);
        if (!put_tensor(config, object, t, false) || !yyjson_mut_arr_append(list, object))
            return no_memory(err);
        config->inputs_count++;
    }
    return OK;
}

static enum err_code complete_tensors(struct model_config *config, yyjson_mut_val *root,
                                      const struct declared *declared, struct err *err)
{
    yyjson_mut_val *inputs = list_of(config, root, "input");
    yyjson_mut_val *outputs = list_of(config, root, "output");

    if (inputs == NULL || outputs == NULL)
        return no_memory(err);
    if (declared == NULL || (declared->inputs_count == 0 && declared->outputs_count == 0)) {
        TRY(check_whole("input", config->inputs, config->inputs_count, err));
        return check_whole("output", config->outputs, config->outputs_count, err);
    }
    if (config->inputs_count != 0)
        TRY(list_states(config, inputs, declared, err));
    if (config->inputs_count == 0)
        TRY(fill_tensors(config, false, &config->inputs, &config->inputs_count, inputs,
                         declared->inputs, declared->inputs_count, err));
    else
        TRY(complete_listed(config, false, config->inputs, config->inputs_count, inputs,
                            declared->inputs, declared->inputs_count, err));
    if (config->outputs_count == 0)
        return fill_tensors(config, true, &config->outputs, &config->outputs_count, outputs,
                            declared->outputs, declared->outputs_count, err);
    return complete_listed(config, true, config->outputs, config->outputs_count, outputs,
                           declared->outputs, declared->outputs_count, err);
}

enum err_code config_gpu_to_cpu(struct model_config *config, struct err *err)
{
    yyjson_mut_val *list =
                       yyjson_mut_obj_get(yyjson_mut_doc_get_root(config->doc), "instance_group"),
                   *each;
    size_t index, count;

    yyjson_mut_arr_foreach(list, index, count, each)
    {
        struct config_instance_group *group = &config->groups[index];
        if (group->kind != INSTANCE_GPU)
            continue;
        const char *text =
            group_says(config, each, index,
                       "asks for KIND_GPU and runs on the processor, as --gpu-to-cpu "
                       "says");
        if (text == NULL || !put(config, each, "kind", yyjson_mut_str(config->doc, "KIND_CPU")))
            return no_memory(err);
        yyjson_mut_obj_remove_key(each, "gpus");
        group->kind = INSTANCE_CPU;
        group->gpus_count = 0;
        config->notices[group->refusal] = (struct config_notice){ .text = text };
    }
    return OK;
}

/* Triton's names: the model's for the group that it makes itself, <model>_<index> for listed groups
 * without one. */
static enum err_code complete_groups(struct model_config *config, yyjson_mut_val *root,
                                     struct err *err)
{
    yyjson_mut_val *list = list_of(config, root, "instance_group"), *each;
    size_t index, count;

    if (list == NULL)
        return no_memory(err);
    if (config->groups_count == 0) {
        yyjson_mut_val *group = yyjson_mut_arr_add_obj(config->doc, list);
        config->groups = arena_zalloc(config->arena, sizeof *config->groups);
        if (group == NULL || config->groups == NULL ||
            !put(config, group, "name", copy_text(config, config->name)))
            return no_memory(err);
        config->groups[0] = (struct config_instance_group){ .kind = INSTANCE_CPU, .count = 1 };
        config->groups_count = 1;
    }
    yyjson_mut_arr_foreach(list, index, count, each)
    {
        struct config_instance_group *group = &config->groups[index];
        if (group->kind == INSTANCE_AUTO) {
            group->kind = INSTANCE_CPU;
            group->gpus_count = 0;
            yyjson_mut_obj_remove_key(each, "gpus");
        }
        if (group->kind == INSTANCE_CPU &&
            !put(config, each, "kind", yyjson_mut_str(config->doc, "KIND_CPU")))
            return no_memory(err);
        if (!put(config, each, "count", yyjson_mut_uint(config->doc, group->count)))
            return no_memory(err);
        if (yyjson_mut_get_len(yyjson_mut_obj_get(each, "name")) == 0) {
            const char *name = arena_printf(config->arena, "%s_%zu", config->name, index);
            if (name == NULL || !put(config, each, "name", copy_text(config, name)))
                return no_memory(err);
        }
    }
    return OK;
}

/* The object of that name, made when it is absent; NULL: no memory. */
static yyjson_mut_val *object_of(struct model_config *config, yyjson_mut_val *holder,
                                 const char *name)
{
    yyjson_mut_val *object = yyjson_mut_obj_get(holder, name);

    if (object != NULL)
        return object;
    object = yyjson_mut_obj(config->doc);
    return put(config, holder, name, object) ? object : NULL;
}

/* What Triton's NormalizeModelConfig puts into every document. */
static bool complete_policies(struct model_config *config, yyjson_mut_val *root)
{
    static const char *const pinned[] = { "input_pinned_memory", "output_pinned_memory" };
    yyjson_mut_val *policy = object_of(config, root, "version_policy");
    yyjson_mut_val *optimization = object_of(config, root, "optimization");
    yyjson_mut_val *dynamic = yyjson_mut_obj_get(root, "dynamic_batching");

    if (policy == NULL || optimization == NULL)
        return false;
    if (!config->versions_all && config->versions_count == 0) {
        yyjson_mut_val *latest = object_of(config, policy, "latest");
        if (latest == NULL || !put(config, latest, "num_versions",
                                   yyjson_mut_uint(config->doc, config->versions_latest)))
            return false;
    }
    for (unsigned i = 0; i < COUNT(pinned); i++) {
        if (yyjson_mut_obj_get(optimization, pinned[i]) != NULL)
            continue;
        yyjson_mut_val *buffer = object_of(config, optimization, pinned[i]);
        if (buffer == NULL || !put(config, buffer, "enable", yyjson_mut_bool(config->doc, true)))
            return false;
    }
    if (dynamic != NULL && config->batch_max > 0) {
        yyjson_mut_val *sizes = list_of(config, dynamic, "preferred_batch_size");
        if (sizes == NULL)
            return false;
        if (yyjson_mut_arr_size(sizes) == 0 &&
            !yyjson_mut_arr_add_uint(config->doc, sizes, config->batch_max))
            return false;
    }
    return true;
}

enum err_code config_complete(struct model_config *config, const char *name, const char *backend,
                              const char *platform, const struct declared *declared, bool can_batch,
                              uint32_t batch_max_default, struct err *err)
{
    yyjson_mut_val *root = yyjson_mut_doc_get_root(config->doc);
    struct {
        const char **member, *key, *value;
    } texts[] = {
        { &config->name, "name", name },
        { &config->backend, "backend", backend },
        { &config->platform, "platform", platform },
    };

    if (config->name[0] != '\0' && strcmp(config->name, name) != 0)
        return err_set(err, E_INVALID,
                       "the configuration names the model '%s', but its folder is '%s': remove "
                       "`name`, or rename one of them",
                       config->name, name);
    for (unsigned i = 0; i < COUNT(texts); i++) {
        if (texts[i].value == NULL || (*texts[i].member)[0] != '\0')
            continue;
        const char *copy = arena_strndup(config->arena, texts[i].value, strlen(texts[i].value));
        if (copy == NULL || !put(config, root, texts[i].key, copy_text(config, copy)))
            return no_memory(err);
        *texts[i].member = copy;
    }
    /* Listed dims without max_batch_size are full shapes, so only a file without any may batch. */
    if (!config->has_batch_max) {
        if (can_batch && config->inputs_count == 0 && config->outputs_count == 0)
            config->batch_max = MIN(batch_max_default, (uint32_t)INT32_MAX);
        if (!put(config, root, "max_batch_size", yyjson_mut_uint(config->doc, config->batch_max)))
            return no_memory(err);
        config->has_batch_max = true;
    }
    TRY(complete_tensors(config, root, declared, err));
    TRY(complete_groups(config, root, err));
    if (!complete_policies(config, root))
        return no_memory(err);
    root = schema_complete(config->doc, config_schema, root);
    if (root == NULL)
        return no_memory(err);
    yyjson_mut_doc_set_root(config->doc, root);
    return OK;
}

char *config_json(const struct model_config *config, bool pretty)
{
    return yyjson_mut_write_opts(config->doc, pretty ? YYJSON_WRITE_PRETTY_TWO_SPACES : 0,
                                 &schema_heap, NULL, NULL);
}
