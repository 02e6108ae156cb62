/* config_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "model/config.h"

#include <stdio.h>

#include <yyjson.h>

#include "base/mem.h"
#include "model/config_schema.h"

#include "test/harness.h"

/* A file as people write them: every kind of thing once. */
static const char everyday[] =
    "# Which of three irises is it?\n"
    "name: \"iris\"\n"
    "backend: 'onnxruntime'  platform: \"onnx\" \"runtime_onnx\"\n"
    "default_model_filename: \"iris.onnx\"\n"
    "max_batch_size: 32\n"
    "input [\n"
    "  { name: \"X\", data_type: TYPE_FP32, dims: [ 4 ], format: FORMAT_NONE },\n"
    "  { name: \"mask\" data_type: TYPE_BOOL dims: [2, -1, 3] reshape { shape: [-1, 6] dims: 1 } }\n"
    "]\n";

static const char whole[] =
    "name: 'iris' backend: 'onnxruntime' platform: 'onnxruntime_onnx'\n"
    "default_model_filename: 'iris.onnx' max_batch_size: 0x20\n"
    "input [{ name: 'X' data_type: TYPE_FP32 dims: [2, 2] reshape { shape: 4 } },\n"
    "       { name: 'o' data_type: TYPE_STRING dims: -1 optional: true }]\n"
    "output < name: 'label' data_type: TYPE_INT64 dims: 1 reshape: { } label_filename: 'l.txt' >\n"
    "output { name: 'scores' }\n"
    "version_policy: { specific { versions: [1, 3] versions: 7 } }\n"
    "instance_group [{ count: 2 kind: KIND_CPU }, { name: 'n' kind: KIND_MODEL },\n"
    "                { gpus: [0, 1] }]\n"
    "parameters { key: 'execution' value: { string_value: 'queued' } }\n"
    "parameters { key: 'empty' }\n"
    "model_transaction_policy { decoupled: true }\n"
    "dynamic_batching { default_queue_policy { max_queue_size: 7 default_timeout_microseconds: 5\n"
    "                                          allow_timeout_override: true } }\n"
    "optimization { input_pinned_memory { enable: false } }\n";

TEST(config_members)
{
    CLEANUP(config_free) struct model_config *c = NULL;
    struct err err = { 0 };

    check_or_stop(config_parse(&c, slice_of(whole), &err) == OK, "%s", err.text);
    check(strcmp(c->name, "iris") == 0 && strcmp(c->backend, "onnxruntime") == 0 &&
              strcmp(c->platform, "onnxruntime_onnx") == 0 &&
              strcmp(c->default_model_filename, "iris.onnx") == 0,
          "texts");
    check(c->has_batch_max && c->batch_max == 32, "batch");
    check_or_stop(c->inputs_count == 2 && c->outputs_count == 2, "tensors");
    const struct config_tensor *x = &c->inputs[0], *o = &c->inputs[1];
    check(strcmp(x->name, "X") == 0 && x->dtype == PENSTOCK_FP32 && x->has_dims && x->rank == 2 &&
              x->dims[1] == 2 && x->has_reshape && x->reshape_rank == 1 && x->reshape[0] == 4 &&
              !x->is_optional && x->label_filename == NULL,
          "X");
    check(o->dtype == PENSTOCK_BYTES && o->dims[0] == -1 && o->is_optional && !o->has_reshape, "o");
    const struct config_tensor *label = &c->outputs[0], *scores = &c->outputs[1];
    check(label->has_reshape && label->reshape_rank == 0 &&
              strcmp(label->label_filename, "l.txt") == 0,
          "label");
    check(scores->dtype == PENSTOCK_INVALID && !scores->has_dims, "scores");
    check(!c->versions_all && c->versions_count == 3 && c->versions[2] == 7, "versions");
    check_or_stop(c->groups_count == 3, "groups");
    check(c->groups[0].kind == INSTANCE_CPU && c->groups[0].count == 2, "group 0");
    check(c->groups[1].kind == INSTANCE_MODEL && c->groups[1].count == 1, "group 1");
    check(c->groups[2].kind == INSTANCE_AUTO && c->groups[2].gpus_count == 2 &&
              c->groups[2].gpus[1] == 1,
          "group 2");
    check(c->parameters_count == 2 && strcmp(c->parameters[0].key, "execution") == 0 &&
              strcmp(c->parameters[0].value, "queued") == 0 &&
              strcmp(c->parameters[1].value, "") == 0,
          "parameters");
    check(c->is_decoupled && c->scheduling == SCHEDULING_DYNAMIC, "policies");
    check(c->queue_size_max == 7 && c->queue_timeout_us == 5 && c->allow_timeout_override, "queue");
    check(c->notices_count == 2 && !c->notices[0].is_refusal &&
              strcmp(c->notices[0].text, "instance_group[2].gpus has no effect: the model runs on "
                                         "the processor") == 0,
          "%u", c->notices_count);
}

TEST(config_defaults)
{
    CLEANUP(config_free) struct model_config *c = NULL;
    struct err err = { 0 };

    check_or_stop(config_parse(&c, slice_of(""), &err) == OK, "%s", err.text);
    check(strcmp(c->name, "") == 0 && strcmp(c->default_model_filename, "") == 0, "texts");
    check(!c->has_batch_max && c->batch_max == 0 && c->versions_latest == 1 && !c->versions_all &&
              c->versions_count == 0 && c->groups_count == 0 && c->inputs_count == 0 &&
              c->scheduling == SCHEDULING_NONE && c->notices_count == 0,
          "defaults");
    char *json = config_json(c, false);
    check(json != NULL && strcmp(json, "{}") == 0, "%s", json);
    mem_free(json);
}

/* Parse errors: place and words (the text format's own are in pbtxt_test.c). */
static const struct {
    const char *text, *error;
} wrong[] = {
    { everyday, "line 8, column 81: unknown field 'dims' of ModelTensorReshape" },
    { "name: \"x\"\ninput {\n  dimms: 4\n}",
      "line 3, column 3: unknown field 'dimms' of ModelInput; the nearest is 'dims'" },
    { "input [{ name: 'a' data_type: TYPE_FLOAT32 }]",
      "line 1, column 31: 'TYPE_FLOAT32' is no value of DataType: TYPE_INVALID, TYPE_BOOL, "
      "TYPE_UINT8, TYPE_UINT16, TYPE_UINT32, TYPE_UINT64, TYPE_INT8, TYPE_INT16, TYPE_INT32, "
      "TYPE_INT64, TYPE_FP16, TYPE_FP32, TYPE_FP64, TYPE_STRING, TYPE_BF16" },
    { "max_batch_size: -1", "max_batch_size is -1: write 0 for no batching, or the largest batch" },
    { "input { dims: 4 }", "input[0]: the name is missing" },
    { "input { name: 'a' } input { name: 'a' }", "input 'a' is listed twice" },
    { "output { name: 'a' } output { name: 'b' } output { name: 'a' }",
      "output 'a' is listed twice" },
    { "input { name: 'a' dims: [1, 0] }",
      "input 'a': dims[1] is 0: write a size of 1 or more, or -1 for any" },
    { "input { name: 'a' dims: [-2] }",
      "input 'a': dims[0] is -2: write a size of 1 or more, or -1 for any" },
    { "output { name: 'a' dims: 1 reshape { shape: 0 } }",
      "output 'a': reshape[0] is 0: write a size of 1 or more, or -1 for any" },
    { "input { name: 'a' dims: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1] }",
      "input 'a': dims has 17 dimensions, the most is 16" },
    { "max_batch_size: 1 input { name: 'a' dims: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1] }",
      "input 'a': dims has 16 dimensions, the most is 15" },
    { "input { name: 'a' dims: [2, 4, -1, 6] reshape { shape: [8, -1, 2, 6] } }",
      "input 'a': dims [2,4,-1,6] cannot be reshaped to [8,-1,2,6]: both need the same number of "
      "elements before, between and after each -1" },
    { "input { name: 'a' dims: [-1, -1] reshape { shape: -1 } }",
      "input 'a': dims [-1,-1] cannot be reshaped to [-1]: both need the same number of elements "
      "before, between and after each -1" },
    { "input { name: 'a' dims: 2 reshape { shape: [] } }",
      "input 'a': dims [2] cannot be reshaped to []: both need the same number of elements before, "
      "between and after each -1" },
    { "input { name: 'a' dims: [9223372036854775807, 2] reshape { shape: 5 } }",
      "input 'a': dims [9223372036854775807,2] cannot be reshaped to [5]: both need the same number "
      "of elements before, between and after each -1" },
    { "input { name: 'a' reshape { shape: 1 } }", "input 'a': reshape needs dims beside it" },
    { "input { name: 'a' dims: [3, 4] format: FORMAT_NHWC }",
      "input 'a': FORMAT_NHWC needs 3 dims, not 2" },
    { "instance_group { count: -1 }", "instance_group[0]: count is -1, expected 1 to 1024" },
    { "instance_group [{}, { count: 1025 }]",
      "instance_group[1]: count is 1025, expected 1 to 1024" },
    { "instance_group { kind: KIND_CPU gpus: 0 }",
      "instance_group[0]: gpus are listed, but the kind is KIND_CPU: remove gpus, or write "
      "KIND_GPU" },
    { "instance_group { gpus: [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16] }",
      "instance_group[0]: 17 gpus are listed, the most is 16" },
    { "version_policy { latest { num_versions: 0 } }",
      "version_policy.latest.num_versions is 0: no version would be served; write 1 or more" },
    { "version_policy { specific {} }",
      "version_policy.specific lists 0 versions, expected 1 to 4096" },
    { "version_policy { specific { versions: 0 } }",
      "version_policy.specific.versions[0] is 0: versions are numbers from 1 on" },
    { "version_policy { all {} latest {} }",
      "line 1, column 25: 'latest' cannot be given beside 'all': only one of policy_choice may be" },
    { "dynamic_batching {} ensemble_scheduling {}",
      "line 1, column 21: 'ensemble_scheduling' cannot be given beside 'dynamic_batching': only one "
      "of scheduling_choice may be" },
};

TEST(config_errors)
{
    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct model_config *c = NULL;
        struct err err = { 0 };
        check(config_parse(&c, slice_of(wrong[i].text), &err) == E_INVALID && c == NULL &&
                  strcmp(err.text, wrong[i].error) == 0,
              "%s\n  gave %s", wrong[i].text, c != NULL ? "a configuration" : err.text);
        config_free(&c);
    }
}

TEST(config_reshapes_that_fit)
{
    static const char *const fine[] = {
        "input { name: 'a' dims: [2, 4, -1, 6] reshape { shape: [8, -1, 1, 6] } }",
        "input { name: 'a' dims: [1, 1] reshape { shape: [] } }",
        "input { name: 'a' dims: [] reshape { shape: [1] } }",
        "input { name: 'a' dims: [-1, 1] reshape { shape: -1 } }",
    };

    for (size_t i = 0; i < COUNT(fine); i++) {
        struct model_config *c = NULL;
        struct err err = { 0 };
        check(config_parse(&c, slice_of(fine[i]), &err) == OK, "%s: %s", fine[i], err.text);
        config_free(&c);
    }
}

static const struct {
    const char *text;
    char act;          /* 'w'arning, 'r'efusal, or 0: no notice */
    const char *words; /* what the notice begins with */
    unsigned count;
} notices[] = {
    { "dynamic_batching {}", 'w', "dynamic_batching is not built yet: requests are not joined", 1 },
    { "dynamic_batching { priority_levels: 2 default_priority_level: 1 preserve_ordering: true "
      "priority_queue_policy { key: 1 value {} } max_queue_delay_microseconds: 5 }",
      'w', "dynamic_batching is not", 4 },
    { "dynamic_batching { default_queue_policy { timeout_action: DELAY } }", 'w',
      "dynamic_batching is not", 2 },
    { "sequence_batching {}", 'r', "sequence_batching is not built yet", 1 },
    { "sequence_batching { oldest { max_candidate_sequences: 4 } state { input_name: 'a' "
      "output_name: 'b' } }",
      'w', "sequence_batching is built for streams only", 1 },
    { "sequence_batching { control_input { name: 'START' } }", 'r',
      "sequence_batching is not built yet", 2 },
    { "ensemble_scheduling { step [{ model_name: 'a' }] }", 'r', "ensemble_scheduling is not", 1 },
    { "batch_input {}", 'r', "batch_input is not", 1 },
    { "batch_input []", 0, "", 0 },
    { "batch_output {}", 'r', "batch_output is not", 1 },
    { "input { name: 'a' allow_ragged_batch: true }", 'r', "input[0].allow_ragged_batch is not",
      1 },
    { "input { name: 'a' allow_ragged_batch: false }", 0, "", 0 },
    { "input { name: 'a' } input { name: 'b' is_shape_tensor: true } input { name: 'c' "
      "is_shape_tensor: true }",
      'r', "input[1].is_shape_tensor belongs to TensorRT", 1 },
    { "output { name: 'a' is_shape_tensor: true }", 'r', "output[0].is_shape_tensor belongs", 1 },
    { "input { name: 'a' is_non_linear_format_io: true }", 'r', "input[0].is_non_linear", 1 },
    { "output { name: 'a' is_non_linear_format_io: true }", 'r', "output[0].is_non_linear", 1 },
    { "input { name: 'a' dims: [1, 2, 3] format: FORMAT_NCHW }", 0, "", 0 },
    { "optimization {}", 0, "", 0 },
    { "optimization { graph { level: 1 } }", 'w', "optimization.graph is not built yet", 1 },
    { "optimization { priority: PRIORITY_MAX }", 'w', "optimization.priority is not", 1 },
    { "optimization { priority: PRIORITY_DEFAULT }", 0, "", 0 },
    { "optimization { cuda { graphs: true } }", 'w', "optimization.cuda has no effect", 1 },
    { "optimization { execution_accelerators { gpu_execution_accelerator: [{ name: 'tensorrt' }] "
      "cpu_execution_accelerator { name: 'openvino' } } }",
      'w', "optimization.execution_accelerators.gpu_execution_accelerator has no effect", 2 },
    { "optimization { input_pinned_memory { enable: true } output_pinned_memory { enable: true } "
      "gather_kernel_buffer_threshold: 5 eager_batching: true }",
      0, "", 0 },
    { "instance_group { kind: KIND_GPU gpus: 0 }", 'r',
      "instance_group[0] asks for KIND_GPU, and this server has no GPU: its backends run models on "
      "the processor. Write KIND_CPU or KIND_AUTO, or give --gpu-to-cpu to run the group on the "
      "processor",
      1 },
    { "instance_group { kind: KIND_GPU name: 'fast' }", 'r',
      "instance_group[0] 'fast' asks for KIND_GPU", 1 },
    { "instance_group [{ kind: KIND_CPU }, { name: 'red \\033[31m' kind: KIND_GPU }]", 'r',
      "instance_group[1] asks for KIND_GPU", 1 }, /* a name that would colour a terminal */
    { "instance_group [{ kind: KIND_GPU }, { kind: KIND_GPU gpus: [0, 1] }]", 'r',
      "instance_group[0] asks for KIND_GPU", 2 },
    { "instance_group { gpus: 0 }", 'w', "instance_group[0].gpus has no effect", 1 },
    { "instance_group { kind: KIND_CPU count: 4 name: 'x' }", 0, "", 0 },
    { "instance_group [{}, { rate_limiter { priority: 2 } }]", 'w',
      "instance_group[1].rate_limiter is not", 1 },
    { "instance_group { secondary_devices {} }", 'r', "instance_group[0].secondary_devices", 1 },
    { "instance_group { profile: '0' host_policy: 'n' }", 'w', "instance_group[0].profile", 2 },
    { "instance_group { passive: true }", 'r', "instance_group[0].passive is not", 1 },
    { "cc_model_filenames { key: '7.5' value: 'a' }", 'w', "cc_model_filenames has no effect", 1 },
    { "metric_tags { key: 'a' value: 'b' }", 'w', "metric_tags is not", 1 },
    { "model_warmup { name: 'w' inputs { key: 'a' value { zero_data: true } } }", 'w',
      "model_warmup is not", 1 },
    { "model_operations { op_library_filename: 'a.so' }", 'r',
      "model_operations.op_library_filename is not", 1 },
    { "model_operations {}", 0, "", 0 },
    { "model_transaction_policy { decoupled: true }", 0, "", 0 },
    { "model_repository_agents { agents { name: 'checksum' } }", 'r',
      "model_repository_agents.agents is not", 1 },
    { "response_cache { enable: true }", 'w', "response_cache.enable is not", 1 },
    { "response_cache { enable: false }", 0, "", 0 },
    { "model_metrics { metric_control { metric_identifier { family: 'f' } histogram_options { "
      "buckets: [1, 2.5] } } }",
      'w', "model_metrics.metric_control is not", 1 },
    { "runtime: 'other'", 'w', "runtime has no effect", 1 },
    { "parameters { key: 'a' value { string_value: 'b' } }", 0, "", 0 },
    { "version_policy { all {} }", 0, "", 0 },
};

TEST(config_notices)
{
    for (size_t i = 0; i < COUNT(notices); i++) {
        CLEANUP(config_free) struct model_config *c = NULL;
        struct err err = { 0 };
        check_or_stop(config_parse(&c, slice_of(notices[i].text), &err) == OK, "%s: %s",
                      notices[i].text, err.text);
        check(c->notices_count == notices[i].count, "%s: %u notices", notices[i].text,
              c->notices_count);
        if (notices[i].act == 0 || c->notices_count == 0)
            continue;
        check(c->notices[0].is_refusal == (notices[i].act == 'r'), "%s: %s", notices[i].text,
              c->notices[0].text);
        check(strncmp(c->notices[0].text, notices[i].words, strlen(notices[i].words)) == 0,
              "%s: %s", notices[i].text, c->notices[0].text);
    }
}

static void check_rows(const struct schema_message *message, unsigned depth)
{
    check_or_stop(depth < CONFIG_DEPTH_MAX, "%s: the schema is deeper than the parser goes",
                  message->name);
    for (uint32_t i = 0; i < message->count; i++) {
        const struct schema_field *field = &message->fields[i];
        bool is_said = field->act == ACT_IGNORED || field->act == ACT_PARTLY ||
                       field->act == ACT_REFUSED || field->act == ACT_KEPT;
        check(is_said == (field->why[0] != '\0'), "%s.%s: words for it", message->name,
              field->name);
        check(field->type != SCHEMA_ENUM || field->values->values[0].number == 0,
              "%s.%s: the first value is the default", message->name, field->name);
        if (field->type == SCHEMA_MESSAGE)
            check_rows(field->message, depth + 1);
    }
}

TEST(config_rows_are_decided)
{
    check_rows(config_schema, 0);
}

TEST(config_delay_never_times_out)
{
    CLEANUP(config_free) struct model_config *c = NULL;

    check_or_stop(config_parse(&c,
                               slice_of("dynamic_batching { default_queue_policy { "
                                        "timeout_action: DELAY default_timeout_microseconds: 9 "
                                        "} }"),
                               NULL) == OK,
                  "parsed");
    check(c->queue_timeout_us == 0, "%llu", (unsigned long long)c->queue_timeout_us);
}

/* -- completion -------------------------------------------------------------------------------- */

static const struct declared_tensor free_in[] = {
    { "X", PENSTOCK_FP32, 2, { -1, 4 }, false, 0, NULL, NULL },
    { "bias", PENSTOCK_FP32, 2, { -1, 1 }, true, 0, NULL, NULL }
};
static const struct declared_tensor free_out[] = {
    { "label", PENSTOCK_INT64, 1, { -1 }, false, 0, NULL, NULL },
    { "scores", PENSTOCK_FP32, 2, { -1, 3 }, false, 0, NULL, NULL },
};
static const struct declared free_model = { 2, 2, free_in, free_out };
static const struct declared_tensor fixed_in[] = {
    { "img", PENSTOCK_UINT8, 3, { 1, -1, 3 }, false, 0, NULL, NULL },
    { "rate", PENSTOCK_INT64, 0, { 0 }, false, 0, NULL, NULL }
};
static const struct declared_tensor fixed_out[] = {
    { "y", PENSTOCK_FP32, 2, { 1, 5 }, false, 0, NULL, NULL },
    { "n", PENSTOCK_INT64, 0, { 0 }, false, 0, NULL, NULL }
};
static const struct declared fixed_model = { 2, 2, fixed_in, fixed_out };
static const struct declared_tensor wide_out[] = {
    { "o0", PENSTOCK_FP32, 0, { 0 }, false, 0, NULL, NULL },
    { "o1", PENSTOCK_FP32, 0, { 0 }, false, 0, NULL, NULL },
    { "o2", PENSTOCK_FP32, 0, { 0 }, false, 0, NULL, NULL },
    { "o3", PENSTOCK_FP32, 0, { 0 }, false, 0, NULL, NULL },
    { "o4", PENSTOCK_FP32, 0, { 0 }, false, 0, NULL, NULL },
    { "o5", PENSTOCK_FP32, 0, { 0 }, false, 0, NULL, NULL },
    { "o6", PENSTOCK_FP32, 0, { 0 }, false, 0, NULL, NULL },
    { "o7", PENSTOCK_FP32, 0, { 0 }, false, 0, NULL, NULL },
    { "o8", PENSTOCK_FP32, 0, { 0 }, false, 0, NULL, NULL },
};
static const struct declared wide_model = { 2, 9, free_in, wide_out };
static const struct declared silent_model = { 0, 0, NULL, NULL };

#define INPUT(name, type, dims, more, optional)                                     \
    "{\"name\":\"" name "\",\"data_type\":\"TYPE_" type                             \
    "\",\"format\":\"FORMAT_NONE\",\"dims\":[" dims "]," more                       \
    "\"is_shape_tensor\":false,\"allow_ragged_batch\":false,\"optional\":" optional \
    ",\"is_non_linear_format_io\":false}"
#define OUTPUT(name, type, dims, more, file)                                           \
    "{\"name\":\"" name "\",\"data_type\":\"TYPE_" type "\",\"dims\":[" dims "]," more \
    "\"label_filename\":\"" file "\",\"is_shape_tensor\":false,\"is_non_linear_format_io\":false}"
#define GROUP(name, kind, count)                                    \
    "{\"name\":\"" name "\",\"kind\":\"" kind "\",\"count\":" count \
    ",\"gpus\":[],\"secondary_devices\":[],\"profile\":[],\"passive\":false,\"host_policy\":\"\"}"
#define OPTIMIZATION(enable)                                                                          \
    "\"optimization\":{\"priority\":\"PRIORITY_DEFAULT\",\"input_pinned_memory\":{\"enable\":" enable \
    "},\"output_pinned_memory\":{\"enable\":true},\"gather_kernel_buffer_threshold\":0,"              \
    "\"eager_batching\":false}"

/* What comes out is, word for word, the JSON that Triton writes for the same model (fields without
 * presence always, in the order of the proto), as far as the server acts the same. */
static const struct {
    const char *pbtxt;
    const struct declared *declared;
    uint32_t batch_max_default;
    const char *json;
} documents
    [] = {
        { "", &free_model, 0,
          "{\"name\":\"m\",\"platform\":\"onnxruntime_onnx\",\"backend\":\"onnxruntime\",\"runtime\":"
          "\"\",\"version_policy\":{\"latest\":{\"num_versions\":1}},\"max_batch_size\":0,\"input\":[" INPUT(
              "X", "FP32", "-1,4", "",
              "false") "," INPUT("bias", "FP32", "-1,1", "",
                                 "true") "],\"output\":[" OUTPUT("label", "INT64", "-1", "",
                                                                 "") "," OUTPUT("scores", "FP32",
                                                                                "-1,3", "",
                                                                                "") "],\"batch_input\":[],\"batch_output\":[]," OPTIMIZATION("true") ",\"instance_group\":[" GROUP("m",
                                                                                                                                                                                   "KIND_CPU",
                                                                                                                                                                                   "1") "],\"default_model_filename\":\"\",\"cc_model_filenames\":{},\"metric_tags\":{},"
                                                                                                                                                                                        "\"parameters\":{},\"model_warmup\":[]}" },
        { "", &free_model, 4,
          "{\"name\":\"m\",\"platform\":\"onnxruntime_onnx\",\"backend\":\"onnxruntime\",\"runtime\":"
          "\"\",\"version_policy\":{\"latest\":{\"num_versions\":1}},\"max_batch_size\":4,\"input\":[" INPUT(
              "X", "FP32", "4", "",
              "false") "," INPUT("bias", "FP32", "1", "",
                                 "true") "],\"output\":[" OUTPUT("label", "INT64", "1",
                                                                 "\"reshape\":{\"shape\":[]},",
                                                                 "") "," OUTPUT("scores", "FP32",
                                                                                "3", "",
                                                                                "") "],\"batch_input\":[],\"batch_output\":[]," OPTIMIZATION("true") ",\"instance_group\":[" GROUP("m",
                                                                                                                                                                                   "KIND_CPU",
                                                                                                                                                                                   "1") "],\"default_model_filename\":\"\",\"cc_model_filenames\":{},\"metric_tags\":{},"
                                                                                                                                                                                        "\"parameters\":{},\"model_warmup\":[]}" },
        { "name: 'm' max_batch_size: 8 platform: 'p' output { name: 'scores' label_filename: 'l' } "
          "input { name: 'X' dims: [2, 2] reshape { shape: 4 } } instance_group [{ count: 3 }, { name: "
          "'g' kind: KIND_MODEL }] dynamic_batching {} optimization { input_pinned_memory {} } "
          "parameters { key: 'k' value {} } version_policy { latest {} } response_cache { enable: true "
          "}",
          &free_model, 4,
          "{\"name\":\"m\",\"platform\":\"p\",\"backend\":\"onnxruntime\",\"runtime\":\"\","
          "\"version_policy\":{\"latest\":{\"num_versions\":1}},\"max_batch_size\":8,\"input\":[" INPUT(
              "X", "FP32",
              "2,2", "\"reshape\":{\"shape\":[4]},", "false") "],\"output\":[" OUTPUT("scores",
                                                                                      "FP32", "3", "", "l") "],\"batch_input\":[],\"batch_output\":[]," OPTIMIZATION("false") ",\"dynamic_batching\":{\"preferred_batch_size\":[8],"
                                                                                                                                                                              "\"max_queue_delay_microseconds\":0,\"preserve_ordering\":false,\"priority_levels\":0,"
                                                                                                                                                                              "\"default_priority_level\":0,\"priority_queue_policy\":{}},\"instance_group\":[" GROUP("m_0", "KIND_CPU", "3") "," GROUP(
                                                                                                                                                                                  "g",
                                                                                                                                                                                  "KIND_MODEL",
                                                                                                                                                                                  "1") "],\"default_model_filename\":\"\",\"cc_model_filenames\":{},\"metric_tags\":{},"
                                                                                                                                                                                       "\"parameters\":{\"k\":{\"string_value\":\"\"}},\"model_warmup\":[],\"response_cache\":{"
                                                                                                                                                                                       "\"enable\":true}}" },
        { "version_policy { all {} } instance_group { kind: KIND_AUTO gpus: 0 } input { name: 'img' } "
          "input { name: 'rate' data_type: TYPE_INT64 dims: [1] }",
          &fixed_model, 4,
          "{\"name\":\"m\",\"platform\":\"onnxruntime_onnx\",\"backend\":\"onnxruntime\",\"runtime\":"
          "\"\",\"version_policy\":{\"all\":{}},\"max_batch_size\":0,\"input\":[" INPUT("img", "UINT8", "1,-1,3", "", "false") "," INPUT(
              "rate", "INT64", "1", "",
              "false") "],\"output\":[" OUTPUT("y", "FP32", "1,5", "",
                                               "") "," OUTPUT("n", "INT64", "", "",
                                                              "") "],\"batch_input\":[],\"batch_output\":[]," OPTIMIZATION("true") ",\"instance_group\":[" GROUP("m_0",
                                                                                                                                                                 "KIND_CPU",
                                                                                                                                                                 "1") "],\"default_model_filename\":\"\",\"cc_model_filenames\":{},"
                                                                                                                                                                      "\"metric_tags\":{},\"parameters\":{},\"model_warmup\":[]}" },
    };

static enum err_code complete(struct model_config *c, const struct declared *declared,
                              uint32_t batch_max_default, struct err *err)
{
    return config_complete(c, "m", "onnxruntime", "onnxruntime_onnx", declared,
                           declared == &free_model, batch_max_default, err);
}

TEST(config_documents)
{
    for (size_t i = 0; i < COUNT(documents); i++) {
        CLEANUP(config_free) struct model_config *c = NULL, *again = NULL;
        struct err err = { 0 };
        check_or_stop(config_parse(&c, slice_of(documents[i].pbtxt), &err) == OK, "%zu: %s", i,
                      err.text);
        /* Twice: a model of several versions is completed for each. */
        for (unsigned round = 0; round < 2; round++) {
            check_or_stop(complete(c, documents[i].declared, documents[i].batch_max_default,
                                   &err) == OK,
                          "%zu: %s", i, err.text);
            CLEANUP(mem_free_slot) char *json = config_json(c, false);
            check(strcmp(json, documents[i].json) == 0, "%zu, round %u:\n%s\n%s", i, round, json,
                  documents[i].json);
        }
        /* What /config says may be given back as an override. */
        check_or_stop(config_parse_json(&again, slice_of(documents[i].json), &err) == OK, "%zu: %s",
                      i, err.text);
        check(complete(again, documents[i].declared, 0, &err) == OK, "%zu: %s", i, err.text);
        CLEANUP(mem_free_slot) char *json = config_json(again, false);
        check(strcmp(json, documents[i].json) == 0, "%zu, by JSON:\n%s\n%s", i, json,
              documents[i].json);
    }
}

/* --gpu-to-cpu: what asked for a GPU runs on the processor, and is said to; all else stays. */
/* The state of sequences is for streams; what else belongs to sequences is refused beside it. */
TEST(config_states)
{
    static const struct {
        const char *text, *refusal, *failure;
    } cases[] = {
        { "state { input_name: 'a' output_name: 'b' dims: [2, -1] }", NULL, NULL },
        { "state { input_name: 'a' output_name: 'b' } control_input { name: 'START' }",
          "sequence_batching.control_input is not built yet", NULL },
        { "state { input_name: 'a' output_name: 'b' } iterative_sequence: true",
          "sequence_batching.iterative_sequence is not built yet", NULL },
        { "state { input_name: 'a' output_name: 'b' initial_state { data_file: 'z' dims: 3 } }",
          "sequence_batching.state[0].initial_state[0].data_file is not built yet", NULL },
        { "state { input_name: 'a' }", NULL, "needs input_name and output_name" },
        { "state { input_name: 'a' output_name: 'b' } state { input_name: 'a' output_name: 'c' }",
          NULL, "has the input 'a' twice" },
        { "state { input_name: 'a' output_name: 'b' dims: -2 }", NULL, "'a': dims" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        CLEANUP(config_free) struct model_config *c = NULL;
        struct err err = { 0 };
        char text[400];
        snprintf(text, sizeof text, "sequence_batching { %s }", cases[i].text);
        enum err_code code = config_parse(&c, slice_of(text), &err);
        check((code == OK) == (cases[i].failure == NULL), "%s: %s", cases[i].text, err.text);
        if (code != OK) {
            check(cases[i].failure != NULL && strstr(err.text, cases[i].failure) != NULL, "%s: %s",
                  cases[i].text, err.text);
            continue;
        }
        const char *refusal = NULL;
        for (uint32_t k = 0; k < c->notices_count; k++)
            if (c->notices[k].is_refusal)
                refusal = c->notices[k].text;
        check((refusal == NULL) == (cases[i].refusal == NULL), "%s", cases[i].text);
        check(refusal == NULL || strncmp(refusal, cases[i].refusal, strlen(cases[i].refusal)) == 0,
              "%s: %s", cases[i].text, refusal);
        check(c->states_count == 1 && strcmp(c->states[0].input, "a") == 0 &&
                  strcmp(c->states[0].output, "b") == 0,
              "%s", cases[i].text);
    }
}

TEST(config_gpu_to_cpu)
{
    CLEANUP(config_free) struct model_config *c = NULL;
    struct err err = { 0 };

    check_or_stop(config_parse(&c,
                               slice_of("instance_group [{ kind: KIND_CPU count: 2 }, { name: 'g' "
                                        "kind: KIND_GPU count: 3 gpus: [0, 1] }, { gpus: 4 }, { "
                                        "kind: KIND_GPU }] sequence_batching {}"),
                               &err) == OK,
                  "%s", err.text);
    uint32_t count = c->notices_count;
    check(config_gpu_to_cpu(c, &err) == OK && config_gpu_to_cpu(c, &err) == OK, "%s", err.text);
    check_or_stop(c->notices_count == count && count == 4, "%u notices", c->notices_count);
    unsigned refusals = 0, gpus = 0;
    for (uint32_t i = 0; i < count; i++) {
        refusals += c->notices[i].is_refusal;
        gpus += strstr(c->notices[i].text, "--gpu-to-cpu") != NULL;
        if (strstr(c->notices[i].text, "[1]") != NULL)
            check(strcmp(c->notices[i].text, "instance_group[1] 'g' asks for KIND_GPU and runs on "
                                             "the processor, as --gpu-to-cpu says") == 0,
                  "%s", c->notices[i].text);
    }
    check(refusals == 1 && gpus == 2, "%u refusals, %u of GPUs", refusals, gpus);
    check(c->groups[0].count == 2 && c->groups[1].count == 3 && c->groups[1].gpus_count == 0, "n");
    check(c->groups[1].kind == INSTANCE_CPU && c->groups[2].kind == INSTANCE_AUTO &&
              c->groups[3].kind == INSTANCE_CPU,
          "kinds");
    check(complete(c, &free_model, 0, &err) == OK, "%s", err.text);
    CLEANUP(mem_free_slot) char *json = config_json(c, false);
    check(json != NULL && strstr(json, "KIND_GPU") == NULL &&
              strstr(json, "\"name\":\"g\",\"kind\":\"KIND_CPU\",\"count\":3") != NULL &&
              strstr(json, "[0,1]") == NULL,
          "%s", json);
}

TEST(config_gpu_to_cpu_survives_every_fault)
{
    for_each_fault(nth) {
        CLEANUP(config_free) struct model_config *c = NULL;
        struct err err = { 0 };
        enum err_code code = config_parse(
            &c, slice_of("instance_group [{ kind: KIND_GPU name: 'g' }, { kind: KIND_GPU }]"),
            &err);
        if (code == OK)
            code = config_gpu_to_cpu(c, &err);
        if (!fault_fired()) {
            check(code == OK, "%s", err.text);
            break;
        }
        check(code == E_EXHAUSTED && err.text[0] != '\0', "fault %u: %s", nth, err_name(code));
    }
}

static const struct {
    const char *text;
    const struct declared *declared;
    const char *error; /* NULL: fits */
} fits[] = {
    { "name: 'other'", &free_model,
      "the configuration names the model 'other', but its folder is 'm': remove `name`, or rename "
      "one of them" },
    { "input { name: 'x' dims: [-1, 4] }", &free_model,
      "input 'x': the model has no input of that name; the nearest is 'X'; it has 'X', 'bias'" },
    { "output { name: 'out' }", &wide_model,
      "output 'out': the model has no output of that name; it has 'o0', 'o1', 'o2', 'o3', 'o4', "
      "'o5', 'o6', 'o7' and 1 more" },
    { "input { name: 'image' }", &free_model,
      "input 'image': the model has no input of that name; it has 'X', 'bias'" },
    { "output { name: 'score' }", &free_model,
      "output 'score': the model has no output of that name; the nearest is 'scores'; it has "
      "'label', 'scores'" },
    { "input { name: 'X' data_type: TYPE_FP64 }", &free_model,
      "input 'X': the configuration says TYPE_FP64, the model TYPE_FP32" },
    { "input { name: 'X' optional: true }", &free_model,
      "input 'X': the configuration says optional, but the model needs it" },
    { "input { name: 'bias' }", &free_model,
      "input 'X' of the model is missing in the configuration, which lists others: add it, or list "
      "none" },
    { "input { name: 'X' dims: 4 }", &free_model,
      "input 'X': the configuration says [4], the model [-1,4]" },
    { "input { name: 'X' dims: [-1, 5] }", &free_model,
      "input 'X': the configuration says [-1,5], the model [-1,4]" },
    { "input { name: 'X' dims: [-1, -1] }", &free_model,
      "input 'X': the configuration says [-1,-1], the model [-1,4]" },
    { "input { name: 'X' dims: [7, 4] }", &free_model, NULL },
    { "max_batch_size: 2 input { name: 'X' dims: [-1, 4] }", &free_model,
      "input 'X': the configuration says [-1,-1,4] (first the batch, since max_batch_size is not "
      "0), the model [-1,4]" },
    { "max_batch_size: 2 input { name: 'X' dims: [3, 2] reshape { shape: 6 } }", &free_model,
      "input 'X': the configuration says [-1,6] (first the batch, since max_batch_size is not 0) "
      "(reshaped), the model [-1,4]" },
    { "max_batch_size: 2 output { name: 'label' dims: 1 }", &free_model,
      "output 'label': the configuration says [-1,1] (first the batch, since max_batch_size is not "
      "0), the model [-1]" },
    { "max_batch_size: 2 output { name: 'label' dims: 1 reshape {} }", &free_model, NULL },
    { "max_batch_size: 2 output { name: 'label' dims: [] }", &free_model, NULL },
    { "max_batch_size: 2 output { name: 'scores' }", &free_model, NULL },
    { "max_batch_size: 0", &free_model, NULL },
    { "max_batch_size: 2", &fixed_model,
      "input 'img': max_batch_size is 2, but the model says [1,-1,3], whose first dimension is not "
      "free for a batch: write max_batch_size: 0 and the dims in full" },
    { "max_batch_size: 2 input { name: 'img' dims: [-1, 3] } input { name: 'rate' }", &fixed_model,
      "input 'img': max_batch_size is 2, but the model says [1,-1,3], whose first dimension is not "
      "free for a batch: write max_batch_size: 0 and the dims in full" },
    { "input [{ name: 'img' }, { name: 'rate' dims: [2] }]", &fixed_model,
      "input 'rate': the configuration says [2], the model []" },
    { "input [{ name: 'img' }, { name: 'rate' dims: [1, 1] }]", &fixed_model, NULL },
    { "input [{ name: 'img' }, { name: 'rate' dims: [1] reshape {} }]", &fixed_model, NULL },
    { "input [{ name: 'img' }, { name: 'rate' dims: [] }]", &fixed_model, NULL },
    { "output { name: 'n' dims: [-1, 2] }", &fixed_model, NULL }, /* its rank may be unknown */
    { "", &silent_model,
      "no input is listed, and the model itself does not say: list input { name, data_type, dims } "
      "in config.pbtxt" },
    { "input { name: 'a' data_type: TYPE_FP32 dims: 1 }", NULL,
      "no output is listed, and the model itself does not say: list output { name, data_type, dims "
      "} in config.pbtxt" },
    { "input { name: 'a' dims: 1 } output { name: 'b' data_type: TYPE_FP32 dims: 1 }",
      &silent_model, "input 'a': data_type is missing, and the model itself does not say" },
    { "input { name: 'a' data_type: TYPE_FP32 dims: 1 } output { name: 'b' data_type: TYPE_BOOL }",
      &silent_model, "output 'b': dims is missing, and the model itself does not say" },
    { "input { name: 'a' data_type: TYPE_FP32 dims: 1 } output { name: 'b' data_type: TYPE_BOOL "
      "dims: [] } max_batch_size: 5",
      &silent_model, NULL },
};

TEST(config_against_the_model)
{
    for (size_t i = 0; i < COUNT(fits); i++) {
        CLEANUP(config_free) struct model_config *c = NULL;
        struct err err = { 0 };
        check_or_stop(config_parse(&c, slice_of(fits[i].text), &err) == OK, "%s: %s", fits[i].text,
                      err.text);
        enum err_code code = complete(c, fits[i].declared, 4, &err);
        check(code == (fits[i].error != NULL ? E_INVALID : OK), "%s: %s", fits[i].text, err.text);
        check(fits[i].error == NULL || strcmp(err.text, fits[i].error) == 0, "%s\n  gave %s",
              fits[i].text, err.text);
    }
}

TEST(config_batch_defaults)
{
    static const struct {
        const char *text;
        bool can_batch;
        uint32_t batch_default, batch_max;
    } rows[] = {
        { "", true, 4, 4 },
        { "", true, 0, 0 },
        { "", false, 4, 0 },
        { "max_batch_size: 0", true, 4, 0 },
        { "max_batch_size: 9", false, 4, 9 },
        { "input { name: 'X' dims: [-1, 4] }", true, 4, 0 },
        { "output { name: 'scores' }", true, 4, 0 },
        { "", true, UINT32_MAX, INT32_MAX },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        CLEANUP(config_free) struct model_config *c = NULL;
        struct err err = { 0 };
        check_or_stop(config_parse(&c, slice_of(rows[i].text), &err) == OK, "%s", err.text);
        check(config_complete(c, "m", "b", NULL, &free_model, rows[i].can_batch,
                              rows[i].batch_default, &err) == OK,
              "%zu: %s", i, err.text);
        check(c->batch_max == rows[i].batch_max && c->has_batch_max, "%zu: %u", i, c->batch_max);
        check(strcmp(c->platform, "") == 0, "%zu: a platform from nowhere", i);
    }
}

/* -- bounds, cuts, faults ---------------------------------------------------------------------- */

TEST(config_is_bounded)
{
    size_t size = CONFIG_BYTES_MAX + 1;
    CLEANUP(mem_free_slot) char *text = mem_alloc(size);
    struct model_config *c = NULL;
    struct err err = { 0 };

    memset(text, ' ', size);
    check(config_parse(&c, slice_make(text, size), &err) == E_INVALID, "too long");
    check(strcmp(err.text, "the file has 4194305 bytes, the most is 4194304") == 0, "%s", err.text);
    check(config_parse_json(&c, slice_make(text, size), &err) == E_INVALID, "too long");
    check(config_parse(&c, slice_make(text, size - 1), &err) == OK, "%s", err.text);
    config_free(&c);
    /* What costs most memory for its bytes: lists of messages with many fields. */
    for (size_t at = 0; at + 7 < size; at += 7)
        memcpy(text + at, "input{}", 7);
    check(config_parse(&c, slice_make(text, size - 6), &err) == E_INVALID, "too much");
    check(strcmp(err.text, "line 1, column 183504: the configuration holds more than 262144 "
                           "values") == 0,
          "%s", err.text);
    size_t at = 0;
    for (unsigned i = 0; i < 4097; i++)
        at += (size_t)snprintf(text + at, size - at, "output{name:'%u'}", i);
    check(config_parse(&c, slice_make(text, at), &err) == E_INVALID, "too many");
    check(strcmp(err.text, "there are 4097 of output, the most is 4096") == 0, "%s", err.text);
    at = 0;
    for (unsigned i = 0; i < 65; i++)
        at += (size_t)snprintf(text + at, size - at, "instance_group{}");
    check(config_parse(&c, slice_make(text, at), &err) == E_INVALID, "too many");
    check(strcmp(err.text, "there are 65 of instance_group, the most is 64") == 0, "%s", err.text);
}

TEST(config_cut_at_every_byte)
{
    const char *texts[] = { everyday, whole, documents[2].pbtxt, documents[2].json };

    for (size_t i = 0; i < COUNT(texts); i++) {
        for (size_t size = 0; size < strlen(texts[i]); size++) {
            struct model_config *c = NULL;
            struct err err = { 0 };
            CLEANUP(mem_free_slot) uint8_t *copy = mem_alloc(size);
            if (size != 0)
                memcpy(copy, texts[i], size);
            enum err_code code = texts[i][0] == '{'
                                     ? config_parse_json(&c, slice_make(copy, size), &err)
                                     : config_parse(&c, slice_make(copy, size), &err);
            check((code == OK) == (c != NULL) && (code == OK || err.code == E_INVALID),
                  "%zu cut at %zu: %s", i, size, err.text);
            if (code == OK && complete(c, &free_model, 4, &err) == OK) {
                char *json = config_json(c, false);
                check(json != NULL, "%zu cut at %zu", i, size);
                mem_free(json);
            }
            config_free(&c);
        }
    }
}

/* Memory is taken in blocks, so that most steps find room. Growing names and lists move the places
 * at which a block ends through all of them. */
TEST(config_survives_faults_wherever_a_block_ends)
{
    char text[20000], name[600];

    for (unsigned pad = 0; pad < 500; pad++) {
        size_t at = 0;
        memset(name, 'n', sizeof name);
        name[pad] = '\0';
        at += (size_t)snprintf(text + at, sizeof text - at,
                               "%s runtime: '%s' default_model_filename: '%s' batch_input { "
                               "target_name: [",
                               documents[2].pbtxt, name, name);
        for (unsigned i = 0; i < pad; i++)
            at += (size_t)snprintf(text + at, sizeof text - at, "%s'%u'", i == 0 ? "" : ",", i);
        at += (size_t)snprintf(text + at, sizeof text - at, "] }");
        for_each_fault(nth) {
            CLEANUP(config_free) struct model_config *c = NULL;
            struct err err = { 0 };
            enum err_code code = config_parse(&c, slice_make(text, at), &err);
            if (code == OK)
                code = complete(c, &free_model, 4, &err);
            bool fired = fault_fired();
            check_or_stop(code == (fired ? E_EXHAUSTED : OK), "%u, fault %u: %d %s", pad, nth, code,
                          err.text);
            if (!fired)
                break;
        }
    }
}

TEST(config_survives_every_fault)
{
    for (size_t i = 0; i < COUNT(documents); i++) {
        for (unsigned by_json = 0; by_json < 2; by_json++) {
            for_each_fault(nth) {
                CLEANUP(config_free) struct model_config *c = NULL;
                struct err err = { 0 };
                char *json = NULL;
                enum err_code code = by_json
                                         ? config_parse_json(&c, slice_of(documents[i].json), &err)
                                         : config_parse(&c, slice_of(documents[i].pbtxt), &err);
                check((code == OK) == (c != NULL), "fault %u", nth);
                if (code == OK)
                    code = complete(c, documents[i].declared, documents[i].batch_max_default, &err);
                if (code == OK && (json = config_json(c, true)) == NULL)
                    code = E_EXHAUSTED;
                mem_free(json);
                bool fired = fault_fired();
                check(code == (fired ? E_EXHAUSTED : OK), "%zu, fault %u: %d %s", i, nth, code,
                      err.text);
                if (!fired)
                    break;
            }
        }
    }
}
