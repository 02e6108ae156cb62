/* typed_proto_test.c - the typed gRPC contract: its files, and that it is the twin of the JSON one.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The other side is protobuf's own: upb reads the descriptor, makes messages of JSON and JSON of
 * messages; protoc reads the .proto.
 */
#include "contract/typed_proto.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/budget.h"
#include "base/buf.h"
#include "base/pb.h"
#include "codec/number.h"
#include "codec/proto.h"
#include "contract/choose.h"
#include "contract/test_models.h"
#include "contract/typed_message.h"
#include "model/dtype.h"

#include "test/harness.h"

/* -- signatures -------------------------------------------------------------------------------- */

static const enum penstock_dtype dtypes[] = { PENSTOCK_BOOL,   PENSTOCK_UINT8,  PENSTOCK_UINT16,
                                              PENSTOCK_UINT32, PENSTOCK_UINT64, PENSTOCK_INT8,
                                              PENSTOCK_INT16,  PENSTOCK_INT32,  PENSTOCK_INT64,
                                              PENSTOCK_FP16,   PENSTOCK_FP32,   PENSTOCK_FP64,
                                              PENSTOCK_BYTES,  PENSTOCK_BF16 };

/* Of each dtype one value, a list of three, and a matrix with two free dimensions. */
static const struct signature *test_all(void)
{
    static struct signature_tensor inputs[3 * COUNT(dtypes)], outputs[3 * COUNT(dtypes)];
    static char names[3 * COUNT(dtypes)][16];
    static const struct signature signature = { .inputs_count = COUNT(inputs),
                                                .outputs_count = COUNT(outputs),
                                                .inputs = inputs,
                                                .outputs = outputs,
                                                .is_batchable = true };

    for (unsigned i = 0; i < COUNT(inputs); i++) {
        static const char *const kinds[] = { "one", "list", "matrix" };
        static const uint32_t ranks[] = { 1, 2, 3 };
        snprintf(names[i], sizeof names[i], "%s_%s", kinds[i % 3], dtype_name(dtypes[i / 3]));
        inputs[i] = (struct signature_tensor){ .name = names[i],
                                               .dtype = dtypes[i / 3],
                                               .rank = ranks[i % 3],
                                               .dims = { -1, i % 3 == 1 ? 3 : -1, -1 },
                                               .is_optional = true,
                                               NO_LIMITS };
        outputs[i] = inputs[i];
        outputs[i].role = ROLE_VALUE;
    }
    return &signature;
}

/* Names that are none in protobuf, and some that are near to one another. */
static const struct signature *test_names(void)
{
    static const struct feature features[] = {
        { .name = "sepal length (cm)", .min = 0, .max = 30, .unit = "cm", .description = "Of it." },
        { .name = "1st", .min = (double)NAN, .max = 5, .example = 1 },
        { .name = "l\u00e4nge", .min = 1, .max = (double)NAN },
        { .name = "\u6a21\u578b", .min = (double)NAN, .max = (double)NAN },
        { .name = "rows", .min = (double)NAN, .max = (double)NAN, .unit = "%" },
        { .name = "options", .min = (double)NAN, .max = (double)NAN },
        { .name = "Row", .min = (double)NAN, .max = (double)NAN },
        { .name = "Options", .min = (double)NAN, .max = (double)NAN },
        { .name = "a_1", .min = (double)NAN, .max = (double)NAN },
        { .name = "a1", .min = (double)NAN, .max = (double)NAN },
        { .name = "A1", .min = (double)NAN, .max = (double)NAN },
        { .name = "[x]", .min = (double)NAN, .max = (double)NAN },
        { .name = "say \"hi\\\"", .min = (double)NAN, .max = (double)NAN },
        { .name = "optional", .min = (double)NAN, .max = (double)NAN },
        { .name = "new\nline", .min = (double)NAN, .max = (double)NAN, .number = 5000 },
        { .name = "_", .min = (double)NAN, .max = (double)NAN },
        { .name = "a.b", .min = (double)NAN, .max = (double)NAN },
        { .name = "a_b", .min = (double)NAN, .max = (double)NAN },
        { .name = "_ns", .min = (double)NAN, .max = (double)NAN },
    };
    static struct signature_tensor inputs[] = {
        { .name = "x",
          .title = "all of them",
          .description = "A description\nin two lines // with */ things",
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .dims = { -1, COUNT(features) },
          .features_count = COUNT(features),
          .features = features,
          NO_LIMITS },
        { .name = "image",
          .content_type = "image/png",
          .dtype = PENSTOCK_BYTES,
          .rank = 2,
          .dims = { -1, 1 },
          .is_optional = true,
          NO_LIMITS },
        { .name = "page",
          .content_type = "text/html",
          .dtype = PENSTOCK_BYTES,
          .rank = 2,
          .dims = { -1, 1 },
          .is_optional = true,
          NO_LIMITS },
    };
    static struct signature_tensor outputs[] = {
        { .name = "top", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 1 }, NO_LIMITS },
        { .name = "Class",
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .dims = { -1, 3 },
          NO_LIMITS,
          .role = ROLE_PROBABILITIES },
        { .name = "p q",
          .dtype = PENSTOCK_FP64,
          .rank = 2,
          .dims = { -1, 3 },
          NO_LIMITS,
          .labels_count = 3,
          .labels = test_iris_labels,
          .role = ROLE_PROBABILITIES },
    };
    static const struct signature signature = { .inputs_count = COUNT(inputs),
                                                .outputs_count = COUNT(outputs),
                                                .inputs = inputs,
                                                .outputs = outputs,
                                                .title = "Names \u2014 that are none",
                                                .batch_max = 4 };
    return &signature;
}

static const struct signature *test_string_features(void)
{
    static const struct feature features[] = {
        { .name = "city", .min = (double)NAN, .max = (double)NAN },
        { .name = "country", .min = (double)NAN, .max = (double)NAN },
    };
    static struct signature_tensor input = { .name = "where",
                                             .dtype = PENSTOCK_BYTES,
                                             .rank = 2,
                                             .dims = { -1, 2 },
                                             .features_count = 2,
                                             .features = features,
                                             NO_LIMITS };
    static const struct signature signature = { .inputs_count = 1,
                                                .inputs = &input,
                                                .is_batchable = true };
    return &signature;
}

static const struct {
    const char *name;
    const struct signature *(*make)(void);
} models[] = {
    { "iris", test_iris },
    { "spam", test_spam },
    { "mixed", test_mixed },
    { "free-strings", test_free_strings },
    { "free matrix", test_free_matrix },
    { "all.dtypes", test_all },
    { "1st names", test_names },
    { "string_features", test_string_features },
    { "readings", test_readings },
    { "samples", test_samples },
};

/* -- both sides -------------------------------------------------------------------------------- */

struct side {
    struct arena *arena;
    struct typed_plan *plan;
    struct proto_schema *schema;
    struct proto_arena *messages;
    const struct proto_type *request, *response;
    struct err err;
};

static bool side_open(struct side *s, const char *name, const struct signature *signature)
{
    char type[300];

    *s = (struct side){ .arena = arena_new(8192, 64 << 20), .messages = proto_arena_new() };
    require(s->arena != NULL && s->messages != NULL);
    require(typed_plan_new(&s->plan, name, signature, &s->err) == OK);
    require(proto_schema_new(&s->schema, &s->err) == OK);
    check(typed_proto_why(s->plan)[0] == '\0', "%s: %s", name, typed_proto_why(s->plan));
    enum err_code code = proto_schema_add(s->schema, typed_proto_file(s->plan), &s->err);
    check(code == OK, "%s: %s", name, s->err.text);
    if (code != OK)
        return false;
    snprintf(type, sizeof type, "%sPredictRequest", typed_proto_service(s->plan));
    s->request = proto_type_find(s->schema, type);
    snprintf(type, sizeof type, "%sPredictResponse", typed_proto_service(s->plan));
    s->response = proto_type_find(s->schema, type);
    check(s->request != NULL && s->response != NULL, "%s: messages", type);
    return s->request != NULL && s->response != NULL;
}

static void side_close(struct side *s)
{
    proto_schema_free(&s->schema);
    proto_arena_free(&s->messages);
    typed_plan_free(s->plan);
    arena_free(&s->arena);
}

/* A copy of exactly that size: a sanitizer sees any step past the end. */
static struct slice exact(struct side *s, struct slice bytes)
{
    uint8_t *copy = mem_alloc(MAX(bytes.size, (size_t)1));
    struct buf *buf = NULL;

    require(copy != NULL);
    if (bytes.size != 0)
        memcpy(copy, bytes.data, bytes.size);
    require(buf_adopt(&buf, copy, bytes.size, test_release, NULL, NULL) == OK);
    require(arena_adopt(s->arena, &buf));
    return slice_make(copy, bytes.size);
}

/* What a client makes of this JSON. */
static struct slice message_of(struct side *s, const char *json)
{
    struct proto_message *message = NULL;
    struct slice bytes = { NULL, 0 };
    enum err_code code =
        proto_from_json(&message, s->messages, s->request, s->schema, slice_of(json), &s->err);

    check(code == OK, "%s: %s", json, s->err.text);
    if (code == OK)
        require(proto_encode(message, &bytes, &s->err) == OK);
    return exact(s, bytes);
}

struct got {
    struct typed_reader reader;
    struct typed_query query;
    struct penstock_tensor inputs[3 * COUNT(dtypes)];
    bool has[3 * COUNT(dtypes)];
    enum err_code code;
    struct err err;
};

static void read_message(struct side *s, struct slice message, struct got *got)
{
    memset(got, 0, sizeof *got);
    require(typed_read_begin(&got->reader, s->plan, s->arena, NULL, &got->err) == OK);
    got->code = typed_read_proto(&got->reader, message, &got->query, &got->err);
    if (got->code == OK)
        got->code = typed_read_end(&got->reader, got->inputs, got->has, &got->err);
}

static void read_json(struct side *s, const char *json, struct got *got)
{
    memset(got, 0, sizeof *got);
    require(typed_read_begin(&got->reader, s->plan, s->arena, NULL, &got->err) == OK);
    got->code = typed_read_json(&got->reader, slice_of(json), &got->err);
    if (got->code == OK)
        got->code = typed_read_end(&got->reader, got->inputs, got->has, &got->err);
}

static void check_same(struct side *s, const struct got *a, const struct got *b, const char *what)
{
    check_or_stop(a->code == OK && b->code == OK, "%s: %s%s", what, a->err.text, b->err.text);
    check(a->reader.rows == b->reader.rows && a->reader.is_list == b->reader.is_list, "%s: rows",
          what);
    for (uint32_t i = 0; i < s->plan->inputs_count; i++) {
        const struct penstock_tensor *x = &a->inputs[i], *y = &b->inputs[i];
        check(a->has[i] == b->has[i], "%s: input %u", what, i);
        if (!a->has[i] || !b->has[i])
            continue;
        check(x->dtype == y->dtype && x->rank == y->rank && x->size == y->size &&
                  memcmp(x->shape, y->shape, x->rank * sizeof x->shape[0]) == 0 &&
                  (x->size == 0 || memcmp(x->data, y->data, x->size) == 0),
              "%s: input %s", what, x->name);
    }
}

/* -- files ------------------------------------------------------------------------------------- */

TEST(typed_proto_files_are_what_protobuf_takes)
{
    for (size_t i = 0; i < COUNT(models); i++) {
        struct side s;
        if (side_open(&s, models[i].name, models[i].make())) {
            const struct proto_service *service =
                proto_service_find(s.schema, typed_proto_service(s.plan));
            static const char *const names[] = { "Predict", "PredictStream", "PredictCollect",
                                                 "PredictSession" };
            check_or_stop(service != NULL && proto_service_methods(service) == COUNT(names), "%s",
                          models[i].name);
            for (uint32_t k = 0; k < COUNT(names); k++) {
                struct proto_method method = proto_service_method(service, k);
                check(strcmp(method.name, names[k]) == 0 && method.input == s.request &&
                          method.output == s.response && method.client_streams == (k >= 2) &&
                          method.server_streams == (k % 2 == 1),
                      "%s: %s", models[i].name, names[k]);
            }
            check(proto_file_by_name(s.schema, slice_of(typed_proto_file_name(s.plan))).size != 0,
                  "%s", typed_proto_file_name(s.plan));
        }
        side_close(&s);
    }
}

static void put_file(const char *path, struct slice bytes)
{
    FILE *file = fopen(path, "w");

    require(file != NULL && fwrite(bytes.data, 1, bytes.size, file) == bytes.size);
    require(fclose(file) == 0);
}

static struct slice get_file(struct side *s, const char *path)
{
    static uint8_t room[1 << 20];
    FILE *file = fopen(path, "r");

    if (file == NULL)
        return slice_make(NULL, 0);
    size_t size = fread(room, 1, sizeof room, file);
    fclose(file);
    return exact(s, slice_make(room, size));
}

/* protoc, which is needed to build us, makes of the text what we serve. */
TEST(typed_proto_text_is_the_file)
{
    char folder[] = "/tmp/penstock-proto-XXXXXX", path[600], out[600], command[2000];

    require(mkdtemp(folder) != NULL);
    for (size_t i = 0; i < COUNT(models); i++) {
        struct side s;
        struct text text;
        struct slice set;
        struct pb_reader reader;
        struct pb_field file = { 0 };
        if (!side_open(&s, models[i].name, models[i].make())) {
            side_close(&s);
            continue;
        }
        text_init(&text, 1 << 20);
        typed_proto_text(&text, s.plan);
        check(!text_failed(&text), "%s", models[i].name);
        snprintf(path, sizeof path, "%s/%s", folder, typed_proto_file_name(s.plan));
        snprintf(out, sizeof out, "%s/out", folder);
        snprintf(command, sizeof command,
                 "mkdir -p %s/penstock/models && cat > %s && cd %s && "
                 "protoc -o %s %s",
                 folder, path, folder, out, typed_proto_file_name(s.plan));
        FILE *pipe = popen(command, "w");
        require(pipe != NULL);
        fwrite(text.data, 1, text.size, pipe);
        check(pclose(pipe) == 0, "%s\n%.*s", models[i].name, SLICE_ARG(text_slice(&text)));
        set = get_file(&s, out);
        pb_begin(&reader, set);
        check(pb_next(&reader, &file) && file.number == 1, "%s: a set of one", models[i].name);
        struct slice ours = typed_proto_file(s.plan);
        if (!slice_eq(file.bytes, ours)) {
            put_file("/tmp/penstock-proto-ours", ours);
            check(false, "%s: protoc gave %zu bytes, we %zu (/tmp/penstock-proto-ours)\n%.*s",
                  models[i].name, file.bytes.size, ours.size, SLICE_ARG(text_slice(&text)));
        }
        text_deinit(&text);
        side_close(&s);
    }
    snprintf(command, sizeof command, "rm -rf %s", folder);
    check(system(command) == 0, "clean");
}

static void check_field(struct side *s, const char *title, const char *name, const char *json)
{
    const struct typed_proto *proto = typed_proto_of(s->plan);

    for (uint32_t i = 0; i < proto->request.count; i++) {
        const struct message_field *f = &proto->request.fields[i];
        if (strcmp(f->title, title) != 0)
            continue;
        check(strcmp(f->name, name) == 0 && strcmp(f->json, json) == 0, "%s: %s, %s", title,
              f->name, f->json);
        return;
    }
    check(false, "no %s", title);
}

TEST(typed_proto_names)
{
    struct side s;

    side_open(&s, "1st names", test_names());
    check(strcmp(typed_proto_service(s.plan), "penstock.models.Model1stNames") == 0, "%s",
          typed_proto_service(s.plan));
    check(strcmp(typed_proto_file_name(s.plan), "penstock/models/model1st_names.proto") == 0, "%s",
          typed_proto_file_name(s.plan));
    check_field(&s, "sepal length (cm)", "sepal_length_cm", "sepal length (cm)");
    check_field(&s, "1st", "field_1st", "1st");
    check_field(&s, "l\u00e4nge", "l_nge", "l\u00e4nge");
    check_field(&s, "\u6a21\u578b", "field_4", "\u6a21\u578b");
    check_field(&s, "rows", "rows", "rows");
    check_field(&s, "options", "options", "options");
    check_field(&s, "Row", "Row_2", "Row");
    check_field(&s, "Options", "Options_2", "Options");
    check_field(&s, "a_1", "a_1", "a_1");
    check_field(&s, "a1", "a1_2", "a1");
    check_field(&s, "A1", "A1_3", "A1");
    check_field(&s, "[x]", "x", "x");
    check_field(&s, "a_b", "a_b", "a_b");
    check_field(&s, "a.b", "a_b_2", "a.b");
    check_field(&s, "new\nline", "new_line", "newLine");
    check_field(&s, "_", "field_16", "_");
    check_field(&s, "_ns", "ns", "ns");
    check(strcmp(typed_proto_of(s.plan)->rows_name, "rows_2") == 0, "ours make way: %s",
          typed_proto_of(s.plan)->rows_name);
    check(strcmp(typed_proto_of(s.plan)->options_name, "options_3") == 0, "%s",
          typed_proto_of(s.plan)->options_name);
    check(typed_proto_input_number(s.plan, 0, 14) == 5000, "by model.yaml");
    check(typed_proto_input_number(s.plan, 0, 15) == 16, "others stay");
    check(typed_proto_input_number(s.plan, 0, TYPED_WHOLE) == 22, "behind all");
    side_close(&s);
}

/* What clients were built with must stay: a change here breaks them. */
TEST(typed_proto_contract_of_spam)
{
    struct side s;
    struct text text;
    static const char expected[] =
        "// spam\n"
        "syntax = \"proto3\";\n\n"
        "package penstock.models;\n\n"
        "option java_multiple_files = true;\n"
        "option go_package = \"penstock/models;models\";\n\n"
        "service Spam {\n"
        "  // One question, one answer.\n"
        "  rpc Predict(SpamPredictRequest) returns (SpamPredictResponse);\n"
        "  // One question, the answers as the model makes them; rows are answered one by one.\n"
        "  rpc PredictStream(SpamPredictRequest) returns (stream SpamPredictResponse);\n"
        "  // A question in pieces, one answer to the whole of it.\n"
        "  rpc PredictCollect(stream SpamPredictRequest) returns (SpamPredictResponse);\n"
        "  // A conversation: each message is answered, and what the model has to remember lives as "
        "long\n"
        "  // as the call.\n"
        "  rpc PredictSession(stream SpamPredictRequest) returns (stream SpamPredictResponse);\n"
        "}\n\n"
        "message SpamPredictRequest {\n"
        "  // BYTES.\n"
        "  optional string text = 1;\n"
        "  Options options = 1000;\n"
        "  // Many rows in one call, in place of the fields above: the answer has as many.\n"
        "  repeated Row rows = 1001;\n"
        "  // Of the methods that take more than one message.\n"
        "  Stream stream = 1600;\n\n"
        "  message Options {\n"
        "    // How many of the most likely classes to show.\n"
        "    uint32 top = 1;\n"
        "    // Which outputs to give; none: all.\n"
        "    repeated string outputs = 2;\n"
        "    // Floats with so many significant digits, 1 to 17; probabilities have two behind "
        "the\n"
        "    // point otherwise.\n"
        "    uint32 precision = 3;\n"
        "    // Floats as the model gave them, probabilities too.\n"
        "    bool full_precision = 4 [json_name = \"full_precision\"];\n"
        "  }\n\n"
        "  message Row {\n"
        "    optional string text = 1;\n"
        "  }\n\n"
        "  message Stream {\n"
        "    // 0, or which message of the stream this is, 1 for the first: a gap is an error.\n"
        "    uint64 sequence = 1;\n"
        "    // PredictSession: what is being answered stops, what waits is dropped; then the rest "
        "of\n"
        "    // this message, where it has any.\n"
        "    bool interrupt = 2;\n"
        "  }\n"
        "}\n\n"
        "message SpamPredictResponse {\n"
        "  // One of ham, spam.\n"
        "  optional string label = 1;\n"
        "  // Of that label, with two digits unless options say otherwise.\n"
        "  optional float probability = 2;\n"
        "  // One for each row of the request, where it had rows.\n"
        "  repeated Row rows = 1001;\n"
        "  // The most likely classes, the most likely first, where options.top asks for them.\n"
        "  repeated Class top = 1002;\n"
        "  // Of the methods that stream; not in an answer of Predict.\n"
        "  Stream stream = 1600;\n\n"
        "  message Class {\n"
        "    optional string label = 1;\n"
        "    optional float probability = 2;\n"
        "    // Of a class that has no name: its column.\n"
        "    optional uint32 class_index = 3 [json_name = \"class_index\"];\n"
        "  }\n\n"
        "  message Row {\n"
        "    optional string label = 1;\n"
        "    optional float probability = 2;\n"
        "    repeated Class top = 1002;\n"
        "  }\n\n"
        "  message Stream {\n"
        "    // 1 for the first answer.\n"
        "    uint64 sequence = 1;\n"
        "    // PredictSession: number of the input it answers (of a window: that completed it), 1 "
        "for\n"
        "    // the first; 0: none, the model speaks first.\n"
        "    uint64 input = 2;\n"
        "    // Answers before it that it took the place of (metadata penstock-when-slow).\n"
        "    uint64 merged = 3;\n"
        "    // PredictSession: that input has no further answer. Of a model that answers any number "
        "of\n"
        "    // times it is a message of its own, without outputs.\n"
        "    bool is_last = 4 [json_name = \"is_last\"];\n"
        "    // PredictSession: sequence of the message that interrupted; nothing that was sent before "
        "it\n"
        "    // is answered behind this, which has no outputs.\n"
        "    uint64 interrupted = 5;\n"
        "  }\n"
        "}\n";

    side_open(&s, "spam", test_spam());
    text_init(&text, 1 << 16);
    typed_proto_text(&text, s.plan);
    check(slice_is(text_slice(&text), expected), "got:\n%.*s", SLICE_ARG(text_slice(&text)));
    text_deinit(&text);
    side_close(&s);
}

TEST(typed_proto_says_why_there_is_none)
{
    static struct signature_tensor inputs[MESSAGE_FIELDS_MAX + 1];
    struct signature none = *test_spam(), wide = { .inputs = inputs };
    struct typed_plan *plan = NULL;
    struct typed_reader reader;
    struct typed_query query;
    struct err err = { 0 };
    CLEANUP(arena_free) struct arena *arena = arena_new(8192, 64 << 20);

    none.service = "";
    require(typed_plan_new(&plan, "spam", &none, &err) == OK);
    check(typed_proto_service(plan)[0] == '\0' && typed_proto_file(plan).size == 0 &&
              typed_proto_file_name(plan)[0] == '\0' && !typed_proto_takes_example(plan) &&
              typed_proto_input_number(plan, 0, TYPED_WHOLE) == 0 &&
              typed_proto_item_number(plan, 0) == 0,
          "nothing");
    check(strstr(typed_proto_why(plan), "service: MyName") != NULL, "%s", typed_proto_why(plan));
    require(typed_read_begin(&reader, plan, arena, NULL, &err) == OK);
    check(typed_read_proto(&reader, slice_make("", 0), &query, &err) == E_UNIMPLEMENTED, "%s",
          err.text);
    typed_plan_free(plan);
    none.service = "Other";
    require(typed_plan_new(&plan, "spam", &none, &err) == OK);
    check(strcmp(typed_proto_service(plan), "penstock.models.Other") == 0, "said");
    typed_plan_free(plan);

    wide.inputs_count = COUNT(inputs);
    static char names[COUNT(inputs)][8];
    for (uint32_t i = 0; i < COUNT(inputs); i++) {
        snprintf(names[i], sizeof names[i], "i%u", i);
        inputs[i] =
            (struct signature_tensor){ .name = names[i], .dtype = PENSTOCK_FP32, NO_LIMITS };
    }
    require(typed_plan_new(&plan, "wide", &wide, &err) == OK);
    check(typed_proto_service(plan)[0] == '\0' &&
              strstr(typed_proto_why(plan), "4097 inputs") != NULL,
          "%s", typed_proto_why(plan));
    typed_plan_free(plan);
    wide.inputs_count--;
    require(typed_plan_new(&plan, "wide", &wide, &err) == OK);
    struct proto_schema *schema = NULL;
    require(proto_schema_new(&schema, &err) == OK);
    check(proto_schema_add(schema, typed_proto_file(plan), &err) == OK, "%s", err.text);
    check(typed_proto_input_number(plan, 999, TYPED_WHOLE) == 2000, "ours are left out");
    proto_schema_free(&schema);
    typed_plan_free(plan);
}

/* -- reading ----------------------------------------------------------------------------------- */

#define IRIS_ROW \
    "{\"sepal_length\":5.1,\"sepal_width\":3.5,\"petal_length\":1.4,\"petal_width\":0.2}"

TEST(typed_proto_reads_what_json_reads)
{
    static const struct {
        const struct signature *(*model)(void);
        const char *message, *body; /* body NULL: the same */
    } cases[] = {
        { test_iris, IRIS_ROW, NULL },
        { test_iris, "{\"input\":[5.1,3.5,1.4,0.2]}", NULL },
        { test_iris, "{\"rows\":[" IRIS_ROW "]}", "[" IRIS_ROW "]" },
        { test_iris, "{\"rows\":[" IRIS_ROW ",{\"input\":[1,2,3,4]}," IRIS_ROW "]}",
          "[" IRIS_ROW ",{\"input\":[1,2,3,4]}," IRIS_ROW "]" },
        { test_iris, "{\"petal_width\":0,\"sepal_width\":0,\"petal_length\":0,\"sepal_length\":0}",
          NULL },
        { test_spam, "{\"text\":\"hi\"}", NULL },
        { test_spam, "{\"text\":\"\"}", NULL },
        { test_spam, "{\"rows\":[{\"text\":\"a\"},{\"text\":\"\\u00e9\"},{\"text\":\"\"}]}",
          "[{\"text\":\"a\"},{\"text\":\"\\u00e9\"},{\"text\":\"\"}]" },
        { test_mixed, "{\"b\":[-1,127,-128],\"j\":\"x\",\"f\":[1,2],\"s\":[\"a\",\"\"]}", NULL },
        { test_mixed, "{\"b\":[-1,0,1],\"j\":\"x\",\"f\":[1,2],\"s\":[\"a\",\"b\"],\"e\":[1,-2]}",
          NULL },
        { test_free_strings, "{\"INPUT0\":[\"a\",\"b\"]}", NULL },
        { test_free_strings, "{\"rows\":[{\"INPUT0\":[\"a\",\"b\"]},{\"INPUT0\":[\"c\",\"\"]}]}",
          "[{\"INPUT0\":[\"a\",\"b\"]},{\"INPUT0\":[\"c\",\"\"]}]" },
        { test_free_matrix, "{\"INPUT0\":{\"shape\":[2,3],\"values\":[1,2,3,4,5,6.5]}}",
          "{\"INPUT0\":[[1,2,3],[4,5,6.5]]}" },
        { test_string_features, "{\"city\":\"Bern\",\"country\":\"CH\"}", NULL },
        { test_string_features, "{\"where\":[\"Bern\",\"CH\"]}", NULL },
        { test_string_features,
          "{\"rows\":[{\"country\":\"CH\",\"city\":\"Bern\"},{\"where\":[\"a\",\"b\"]}]}",
          "[{\"country\":\"CH\",\"city\":\"Bern\"},{\"where\":[\"a\",\"b\"]}]" },
        { test_names,
          "{\"sepal length (cm)\":1,\"1st\":2,\"l\u00e4nge\":3,\"\u6a21\u578b\":4,\"rows\":5,"
          "\"options\":6,\"Row\":7,\"Options\":8,\"a_1\":9,\"a1\":10,\"A1\":11,\"x\":12,"
          "\"say \\\"hi\\\\\\\"\":13,\"optional\":14,\"newLine\":15,\"_\":16,\"a.b\":17,"
          "\"a_b\":18,\"ns\":19,\"image\":\"/w==\",\"page\":\"<p>\"}",
          NULL },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct side s;
        struct got proto, json;
        if (side_open(&s, "m", cases[i].model())) {
            read_message(&s, message_of(&s, cases[i].message), &proto);
            if (cases[i].model == test_names) { /* bytes are base64 there, and keys not quite */
                check(proto.code == OK, "%s", proto.err.text);
                const float *data = proto.inputs[0].data;
                for (int k = 0; proto.code == OK && k < 19; k++)
                    check(data[k] == (float)(k + 1), "feature %d is %g", k, (double)data[k]);
                check(proto.inputs[1].size == 5 &&
                          memcmp(proto.inputs[1].data, "\1\0\0\0\xff", 5) == 0,
                      "an image need not be UTF-8");
            } else {
                read_json(&s, cases[i].body != NULL ? cases[i].body : cases[i].message, &json);
                check_same(&s, &proto, &json, cases[i].message);
            }
        }
        side_close(&s);
    }
}

/* A random value of a dtype as JSON, which both sides take. */
static void put_random(struct text *out, enum penstock_dtype dtype)
{
    static const int bits[] = {
        [PENSTOCK_UINT8] = 8,   [PENSTOCK_UINT16] = 16, [PENSTOCK_UINT32] = 32,
        [PENSTOCK_UINT64] = 64, [PENSTOCK_INT8] = 8,    [PENSTOCK_INT16] = 16,
        [PENSTOCK_INT32] = 32,  [PENSTOCK_INT64] = 64
    };
    uint64_t word = test_random() >> test_random_below(64);

    switch (dtype) {
    case PENSTOCK_BOOL: text_str(out, (word & 1) != 0 ? "true" : "false"); break;
    case PENSTOCK_BYTES: text_printf(out, "\"%llx\\u00e4\"", (unsigned long long)word); break;
    case PENSTOCK_UINT8:
    case PENSTOCK_UINT16:
    case PENSTOCK_UINT32:
    case PENSTOCK_UINT64: text_u64(out, word >> (64 - bits[dtype])); break;
    case PENSTOCK_INT8:
    case PENSTOCK_INT16:
    case PENSTOCK_INT32:
    case PENSTOCK_INT64:
        text_i64(out, (int64_t)(test_random() << test_random_below(3)) >> (64 - bits[dtype]));
        break;
    case PENSTOCK_FP64: text_printf(out, "%.17g", (double)(int64_t)word / 3e5); break;
    case PENSTOCK_FP32:
        text_printf(out, "%.9g", (double)(float)((double)(int32_t)(uint32_t)word / 65537.0));
        break;
    default:
        /* Exact in decimals and as a float: JSON rounds once to 16 bits, a float field was rounded
         * before. */
        text_printf(out, "%.9g", (double)((int64_t)(word % 60000) - 30000) / 8);
    }
}

TEST(typed_proto_reads_every_dtype)
{
    for (int round = 0; round < 300; round++) {
        struct side s;
        struct got proto, json;
        struct text message, body;
        uint64_t rows = 1 + test_random_below(3);
        bool is_list = rows != 1 || test_random_below(2) == 0;
        uint64_t high = 1 + test_random_below(3), wide = 1 + test_random_below(4);

        text_init(&message, 1 << 20);
        text_init(&body, 1 << 20);
        require(side_open(&s, "m", test_all()));
        text_str(&message, is_list ? "{\"rows\":[" : "");
        text_str(&body, is_list ? "[" : "");
        for (uint64_t row = 0; row < rows; row++) {
            text_str(&message, row == 0 ? "{" : ",{");
            text_str(&body, row == 0 ? "{" : ",{");
            for (uint32_t i = 0; i < s.plan->inputs_count; i++) {
                const struct signature_tensor *t = s.plan->inputs[i].tensor;
                struct text value;
                text_init(&value, 1 << 16);
                text_printf(&message, "%s\"%s\":", i == 0 ? "" : ",", t->name);
                text_printf(&body, "%s\"%s\":", i == 0 ? "" : ",", t->name);
                uint64_t count = i % 3 == 0 ? 1 : i % 3 == 1 ? 3 : high * wide;
                if (i % 3 == 1)
                    text_byte(&value, '[');
                if (i % 3 == 2) {
                    text_printf(&message, "{\"shape\":[%llu,%llu],\"values\":[",
                                (unsigned long long)high, (unsigned long long)wide);
                    text_byte(&body, '[');
                }
                for (uint64_t k = 0; k < count; k++) {
                    value.size = i % 3 == 1 && k == 0 ? 1 : i % 3 == 2 ? 0 : value.size;
                    if (i % 3 != 2) {
                        text_str(&value, k == 0 ? "" : ",");
                        put_random(&value, t->dtype);
                        continue;
                    }
                    put_random(&value, t->dtype);
                    text_str(&message, k == 0 ? "" : ",");
                    text_slice_put(&message, text_slice(&value));
                    text_str(&body, k % wide != 0 ? "," : k == 0 ? "[" : "],[");
                    text_slice_put(&body, text_slice(&value));
                }
                if (i % 3 == 1)
                    text_byte(&value, ']');
                if (i % 3 == 2) {
                    text_str(&message, "]}");
                    text_str(&body, "]]");
                } else {
                    text_slice_put(&message, text_slice(&value));
                    text_slice_put(&body, text_slice(&value));
                }
                text_deinit(&value);
            }
            text_byte(&message, '}');
            text_byte(&body, '}');
        }
        text_str(&message, is_list ? "]}" : "");
        text_str(&body, is_list ? "]" : "");
        read_message(&s, message_of(&s, text_cstr(&message)), &proto);
        read_json(&s, text_cstr(&body), &json);
        check_same(&s, &proto, &json, text_cstr(&message));
        side_close(&s);
        text_deinit(&message);
        text_deinit(&body);
        if (test_has_failed())
            return;
    }
}

/* Messages made by hand, field by field. */
struct maker {
    uint8_t bytes[65536];
    uint8_t *at;
};

static void make(struct maker *m)
{
    m->at = m->bytes;
}

static uint32_t float_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static struct slice made(struct side *s, const struct maker *m)
{
    return exact(s, slice_make(m->bytes, (size_t)(m->at - m->bytes)));
}

static void put_iris(struct maker *m, float first)
{
    static const float row[] = { 0, 3.5f, 1.4f, 0.2f };

    for (uint32_t i = 0; i < 4; i++)
        m->at = pb_put_i32(m->at, i + 1, float_bits(i == 0 ? first : row[i]));
}

TEST(typed_proto_takes_what_protobuf_allows)
{
    static const float whole[] = { 9, 3.5f, 1.4f, 0.2f };
    struct maker m;
    struct side s;
    struct got got;

    require(side_open(&s, "iris", test_iris()));
    /* The last of several counts; fields in any order; unknown fields of any kind. */
    make(&m);
    m.at = pb_put_i32(m.at, 4, float_bits(7));
    m.at = pb_put_uint(m.at, 77, 5);
    m.at = pb_put_bytes(m.at, 78, slice_of("what"));
    m.at = pb_put_i64(m.at, 79, 1);
    m.at = pb_put_tag(m.at, 80, PB_SGROUP);
    m.at = pb_put_uint(m.at, 1, 5);
    m.at = pb_put_tag(m.at, 80, PB_EGROUP);
    put_iris(&m, 1);
    m.at = pb_put_i32(m.at, 1, float_bits(9));
    read_message(&s, made(&s, &m), &got);
    check(got.code == OK && memcmp(got.inputs[0].data, whole, 16) == 0, "%s", got.err.text);
    check(!got.reader.is_list && got.reader.rows == 1, "one");
    /* Packed, in pieces, and one by one. */
    make(&m);
    m.at = pb_put_bytes(m.at, 5, slice_make(whole, 8));
    m.at = pb_put_i32(m.at, 5, float_bits(1.4f));
    m.at = pb_put_bytes(m.at, 5, slice_make("", 0));
    m.at = pb_put_bytes(m.at, 5, slice_make(whole + 3, 4));
    read_message(&s, made(&s, &m), &got);
    check(got.code == OK && memcmp(got.inputs[0].data, whole, 16) == 0, "%s", got.err.text);
    /* Options in two pieces are one. */
    m.at = pb_put_head(m.at, NUMBER_OPTIONS, 2);
    m.at = pb_put_uint(m.at, OPTION_TOP, 3);
    m.at = pb_put_head(m.at, NUMBER_OPTIONS, 2);
    m.at = pb_put_uint(m.at, OPTION_PRECISION, 4);
    read_message(&s, made(&s, &m), &got);
    check(got.code == OK && got.query.has_top && got.query.top == 3 && got.query.precision == 4,
          "%s", got.err.text);
    side_close(&s);

    require(side_open(&s, "mixed", test_mixed()));
    make(&m);
    m.at = pb_put_bytes(m.at, 1, slice_make("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10));
    m.at = pb_put_uint(m.at, 1, 5);
    m.at = pb_put_bytes(m.at, 1, slice_make("\x80\x00", 2)); /* 0, in more bytes than it needs */
    m.at = pb_put_bytes(m.at, 2, slice_of("not this"));
    m.at = pb_put_bytes(m.at, 2, slice_of("x"));
    m.at = pb_put_bytes(m.at, 3, slice_make(whole, 8));
    m.at = pb_put_bytes(m.at, 4, slice_of("a"));
    m.at = pb_put_bytes(m.at, 4, slice_of(""));
    m.at = pb_put_bytes(m.at, 5, slice_of("")); /* an empty list is there */
    read_message(&s, made(&s, &m), &got);
    check(got.code == OK && memcmp(got.inputs[0].data, "\xff\5\0", 3) == 0, "%s", got.err.text);
    check(got.code == OK && got.inputs[1].size == 5 && got.has[4] && got.inputs[4].shape[0] == 0,
          "x, and an empty list");
    side_close(&s);
}

TEST(typed_proto_reads_many_rows)
{
    enum { ROWS = 2000 };
    static struct maker m;
    struct side s;
    struct got got;

    require(side_open(&s, "iris", test_iris()));
    make(&m);
    for (int i = 0; i < ROWS; i++) {
        m.at = pb_put_head(m.at, NUMBER_ROWS, 20);
        put_iris(&m, (float)(i % 30));
    }
    read_message(&s, made(&s, &m), &got);
    check(got.code == OK && got.reader.rows == ROWS && got.reader.is_list, "%s", got.err.text);
    for (int i = 0; got.code == OK && i < ROWS; i++)
        check_or_stop(((const float *)got.inputs[0].data)[4 * i] == (float)(i % 30), "row %d", i);
    side_close(&s);
    require(side_open(&s, "spam", test_spam()));
    make(&m);
    for (int i = 0; i < ROWS; i++) {
        char text[32];
        int size = snprintf(text, sizeof text, "%0*d", 1 + i % 20, i);
        m.at = pb_put_head(m.at, NUMBER_ROWS, pb_size_len(1, (size_t)size));
        m.at = pb_put_bytes(m.at, 1, slice_make(text, (size_t)size));
    }
    read_message(&s, made(&s, &m), &got);
    check(got.code == OK && got.reader.rows == ROWS, "%s", got.err.text);
    const uint8_t *at = got.inputs[0].data;
    for (int i = 0; got.code == OK && i < ROWS; i++) {
        char text[32];
        int size = snprintf(text, sizeof text, "%0*d", 1 + i % 20, i);
        check_or_stop(*at == size && memcmp(at + 4, text, (size_t)size) == 0, "row %d", i);
        at += 4 + size;
    }
    side_close(&s);
}

/* -- refusals ---------------------------------------------------------------------------------- */

static const struct {
    const struct signature *(*model)(void);
    const char *message; /* JSON */
    const char *words, *field;
} refusals[] = {
    { test_iris, "{}", "field 'sepal_length' is missing", "sepal_length" },
    { test_iris, "{\"sepal_length\":1,\"sepal_width\":1,\"petal_width\":1}",
      "field 'petal_length' is missing", "petal_length" },
    { test_iris, "{\"sepal_length\":510,\"sepal_width\":1,\"petal_length\":1,\"petal_width\":1}",
      "sepal_length is 510; it must be between 0 and 30 cm", "sepal_length" },
    { test_iris, "{\"sepal_length\":\"NaN\",\"sepal_width\":1,\"petal_length\":1}",
      "sepal_length is nan; it must be between 0 and 30 cm", "sepal_length" },
    { test_iris, "{\"input\":[1,2,3]}", "input: 3 values; one row takes shape [4]", "input" },
    { test_iris, "{\"input\":[1,2,3,4,5]}", "input: one row takes 4 values, and there are more",
      "input" },
    { test_iris, "{\"input\":[1,2,99,4]}", "petal_length is 99", "petal_length" },
    { test_iris, "{\"input\":[1,2,3,4],\"sepal_length\":1}",
      "input is given, and features of it as well", "input" },
    { test_iris, "{\"rows\":[" IRIS_ROW ",{\"sepal_length\":1}]}",
      "row 1: field 'sepal_width' is missing", "rows[1].sepal_width" },
    { test_iris, "{\"rows\":[{\"input\":[1,2,3,400]}]}", "row 0: petal_width is 400",
      "rows[0].petal_width" },
    { test_iris, "{\"sepal_length\":1,\"rows\":[" IRIS_ROW "]}",
      "fields of one row and 'rows' exclude one another", NULL },
    { test_iris, "{\"input\":[1,2,3,4],\"options\":{\"precision\":18}}",
      "options.precision is 18; it takes 1 to 17", "options.precision" },
    { test_iris, "{\"input\":[1,2,3,4],\"options\":{\"outputs\":[\"lable\"]}}",
      "gives no 'lable'; did you mean 'label'?", "options.outputs" },
    { test_mixed,
      "{\"b\":[1,2,3],\"j\":\"x\",\"f\":[1,2],\"s\":[\"a\",\"b\"],"
      "\"options\":{\"top\":1}}",
      "top needs an output that scores classes", NULL },
    { test_mixed, "{\"b\":[1,2,128],\"j\":\"x\",\"f\":[1,2],\"s\":[\"a\",\"b\"]}",
      "b[2]: 128 is out of range for INT8 (-128 to 127)", "b[2]" },
    { test_mixed, "{\"b\":[1,2,-129],\"j\":\"x\",\"f\":[1,2],\"s\":[\"a\",\"b\"]}",
      "b[2]: -129 is out of range for INT8", "b[2]" },
    { test_mixed, "{\"b\":[1,2],\"j\":\"x\",\"f\":[1,2],\"s\":[\"a\",\"b\"]}",
      "b: 2 values; one row takes shape [3]", "b" },
    { test_mixed, "{\"b\":[1,2,3],\"j\":\"x\",\"f\":[1,2],\"s\":[\"a\"]}",
      "s: 1 values; one row takes shape [2]", "s" },
    { test_mixed, "{\"b\":[1,2,3],\"f\":[1,2],\"s\":[\"a\",\"b\"]}", "field 'j' is missing", "j" },
    { test_free_matrix, "{\"INPUT0\":{\"shape\":[2,2],\"values\":[1,2,3]}}",
      "INPUT0: shape [2,2] takes 4 values; there are 3", "INPUT0" },
    { test_free_matrix, "{\"INPUT0\":{\"shape\":[4],\"values\":[1,2,3,4]}}",
      "INPUT0: got shape [4]; one row takes [-1,-1] (-1: any)", "INPUT0" },
    { test_free_matrix, "{\"INPUT0\":{\"values\":[1]}}", "INPUT0: got shape []", "INPUT0" },
    { test_free_matrix, "{\"INPUT0\":{\"shape\":[-1,-1],\"values\":[1]}}", "got shape [-1,-1]",
      "INPUT0" },
    { test_free_matrix, "{\"INPUT0\":{\"shape\":[\"4611686018427387904\",8],\"values\":[]}}",
      "takes 0 values; there are 0", "INPUT0" },
    { test_free_matrix, "{\"INPUT0\":{\"shape\":[1,1],\"values\":[70000]}}",
      "INPUT0[0]: 70000 is out of range for FP16", "INPUT0.values[0]" },
    { test_free_matrix, "{\"rows\":[{\"INPUT0\":{\"shape\":[1,2],\"values\":[1,-70000]}}]}",
      "row 0: INPUT0[1]: -70000 is out of range for FP16", "rows[0].INPUT0.values[1]" },
    { test_mixed, "{\"b\":[],\"j\":\"x\",\"f\":[1,2],\"s\":[\"a\",\"b\"]}",
      "field 'b' is missing; an empty list is not on the wire of protobuf: tensors without "
      "elements go to inference.GRPCInferenceService/ModelInfer",
      "b" },
    { test_spam, "{\"rows\":[]}",
      "field 'text' is missing; the message has no fields at all (nor has it with 'rows' empty",
      "text" },
    { test_free_matrix,
      "{\"rows\":[{\"INPUT0\":{\"shape\":[1,1],\"values\":[1]}},{\"INPUT0\":{\"shape\":[1,2],"
      "\"values\":[1,2]}}]}",
      "a row of shape [1,2] behind rows of shape [1,1]", "rows[1].INPUT0" },
    { test_string_features, "{\"city\":\"x\"}", "field 'country' is missing", "country" },
};

TEST(typed_proto_refusals)
{
    for (size_t i = 0; i < COUNT(refusals); i++) {
        struct side s;
        struct got got;
        if (side_open(&s, "m", refusals[i].model())) {
            read_message(&s, message_of(&s, refusals[i].message), &got);
            check(got.code == E_INVALID, "%s", refusals[i].message);
            check(strstr(got.err.text, refusals[i].words) != NULL, "%s\n  said: %s\n  not:  %s",
                  refusals[i].message, got.err.text, refusals[i].words);
            const char *field = got.reader.field;
            check(field == NULL
                      ? refusals[i].field == NULL
                      : refusals[i].field != NULL && strcmp(field, refusals[i].field) == 0,
                  "%s: field %s", refusals[i].message, field);
        }
        side_close(&s);
    }
}

static void refuse(struct side *s, const struct maker *m, const char *words)
{
    struct got got;

    read_message(s, made(s, m), &got);
    check(got.code == E_INVALID, "%s", words);
    check(strstr(got.err.text, words) != NULL, "said: %s\n  not:  %s", got.err.text, words);
}

TEST(typed_proto_refuses_wrong_wires)
{
    struct maker m;
    struct side s;

    require(side_open(&s, "iris", test_iris()));
    make(&m);
    m.at = pb_put_uint(m.at, 1, 5);
    refuse(&s, &m,
           "sepal_length: field 1 has wire type VARINT, which is no float; is the caller's "
           ".proto that of this version? It is at /models/iris/contract.proto");
    make(&m);
    m.at = pb_put_bytes(m.at, 1, slice_of("5.1"));
    refuse(&s, &m, "sepal_length: field 1 has wire type LEN, which is no float");
    make(&m);
    m.at = pb_put_i64(m.at, 5, 5);
    refuse(&s, &m, "input: field 5 has wire type I64, which is no float");
    make(&m);
    m.at = pb_put_bytes(m.at, 5, slice_of("123"));
    refuse(&s, &m, "input: 3 bytes are no whole number of float values");
    make(&m);
    m.at = pb_put_uint(m.at, NUMBER_ROWS, 5);
    refuse(&s, &m, "rows: field 1001 has wire type VARINT, which is no Row");
    make(&m);
    m.at = pb_put_uint(m.at, NUMBER_OPTIONS, 5);
    refuse(&s, &m, "options: field 1000 has wire type VARINT, which is no Options");
    make(&m);
    m.at = pb_put_bytes(m.at, NUMBER_OPTIONS, slice_make("\x0d\0\0\0\0", 5));
    refuse(&s, &m, "options.top: field 1 has wire type I32, which is no uint32");
    make(&m);
    m.at = pb_put_bytes(m.at, NUMBER_ROWS, slice_make("\x0d\0\0", 3));
    refuse(&s, &m,
           "row 0: the row is no protobuf message: byte 1: a number that ends in the middle");
    make(&m);
    put_iris(&m, 1);
    m.at[-1] = 0;
    m.at -= 2;
    refuse(&s, &m, "the request is no protobuf message: byte 16: a number that ends in the middle");
    /* What an old .proto may look like. */
    make(&m);
    m.at = pb_put_i32(m.at, 9, float_bits(1));
    refuse(&s, &m,
           "field 'sepal_length' is missing; field 9, which is given, is none of this "
           "version's: its .proto is at /models/iris/contract.proto");
    make(&m);
    put_iris(&m, 1);
    m.at = pb_put_head(m.at, NUMBER_ROWS, 20);
    put_iris(&m, 1);
    refuse(&s, &m, "exclude one another");
    make(&m);
    m.at = pb_put_head(m.at, NUMBER_ROWS, 20);
    put_iris(&m, 1);
    put_iris(&m, 1);
    refuse(&s, &m, "exclude one another");
    side_close(&s);

    require(side_open(&s, "spam", test_spam()));
    make(&m);
    m.at = pb_put_bytes(m.at, 1, slice_of("caf\xe9"));
    refuse(&s, &m, "text: byte 3 of the string is not UTF-8");
    side_close(&s);
    require(side_open(&s, "mixed", test_mixed()));
    make(&m);
    m.at = pb_put_bytes(m.at, NUMBER_ROWS, slice_of(""));
    refuse(&s, &m, "model 'mixed' takes one row at a time: it has no batch dimension");
    make(&m);
    m.at = pb_put_bytes(m.at, 4, slice_of("a\xff"));
    refuse(&s, &m, "s[0]: byte 1 of the string is not UTF-8");
    make(&m);
    m.at = pb_put_bytes(m.at, 5, slice_make("\x80", 1));
    refuse(&s, &m, "e is no protobuf message: byte 0: a number that ends in the middle");
    make(&m);
    m.at = pb_put_i32(m.at, 5, 1);
    refuse(&s, &m, "e: field 5 has wire type I32, which is no int64");
    side_close(&s);
    require(side_open(&s, "matrix", test_free_matrix()));
    uint8_t ones[PENSTOCK_RANK_MAX + 1];
    memset(ones, 1, sizeof ones);
    make(&m);
    m.at = pb_put_head(m.at, 1, pb_size_len(TENSOR_SHAPE, sizeof ones));
    m.at = pb_put_bytes(m.at, TENSOR_SHAPE, slice_make(ones, sizeof ones));
    refuse(&s, &m, "INPUT0: a shape of more than 16 dimensions");
    side_close(&s);
}

/* Every beginning of a right message is refused or taken; nothing past its end is read. */
TEST(typed_proto_truncated_everywhere)
{
    static const struct {
        const struct signature *(*model)(void);
        const char *message;
    } cases[] = {
        { test_iris, "{\"rows\":[" IRIS_ROW ",{\"input\":[1,2,3,4]}]}" },
        { test_spam, "{\"rows\":[{\"text\":\"some words\"}],\"options\":{\"top\":2}}" },
        { test_mixed, "{\"b\":[-1,2,3],\"j\":\"x\",\"f\":[1,2],\"s\":[\"a\",\"b\"],\"e\":[9]}" },
        { test_free_matrix, "{\"INPUT0\":{\"shape\":[2,2],\"values\":[1,2,3,4]}}" },
        { test_string_features, "{\"city\":\"Bern\",\"country\":\"CH\"}" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct side s;
        struct got got;
        require(side_open(&s, "m", cases[i].model()));
        struct slice whole = message_of(&s, cases[i].message);
        read_message(&s, whole, &got);
        check(got.code == OK, "%s", got.err.text);
        for (size_t size = 0; size < whole.size; size++) {
            struct slice message = exact(&s, slice_first(whole, size));
            read_message(&s, message, &got);
            check(got.code == OK || (got.code == E_INVALID && got.err.text[0] != '\0'), "%zu",
                  size);
            for (int k = 0; k < 20; k++) { /* and with a byte changed */
                uint8_t *bytes = (uint8_t *)(uintptr_t)message.data;
                if (size == 0)
                    break;
                size_t at = (size_t)test_random_below(size);
                uint8_t was = bytes[at];
                bytes[at] = (uint8_t)test_random();
                read_message(&s, message, &got);
                check(got.code == OK || got.code == E_INVALID, "%zu: %d %s", size, got.code,
                      got.err.text);
                bytes[at] = was;
            }
        }
        side_close(&s);
    }
}

/* -- answers ----------------------------------------------------------------------------------- */

/* The answer as a client's JSON has it. */
static void check_answer(const struct signature *signature, const char *query_text, uint64_t rows,
                         bool is_list, const struct response_output *outputs, const char *rest,
                         const char *expected)
{
    struct side s;
    struct typed_query query;
    struct slice message;
    CLEANUP(buf_unref) struct buf *holder = NULL;
    struct proto_message *decoded = NULL;
    struct text out;

    require(side_open(&s, "m", signature));
    text_init(&out, 1 << 24);
    enum err_code code = typed_query_read(&query, s.plan, slice_of(query_text), s.arena, &s.err);
    check(code == OK, "%s: %s", query_text, s.err.text);
    if (code == OK)
        code = typed_write(&out, s.plan, &query, rows, is_list, outputs, s.arena, &s.err);
    check(code == OK && (rest == NULL || slice_is(text_slice(&out), rest)), "%s: %s\n  %.*s",
          query_text, s.err.text, SLICE_ARG(text_slice(&out)));
    code = typed_write_proto(&message, &holder, s.plan, &query, rows, is_list, outputs, s.arena,
                             NULL, &s.err);
    check(code == OK, "%s: %s", query_text, s.err.text);
    if (code == OK)
        code = proto_decode(&decoded, s.messages, s.response, message, &s.err);
    check(code == OK, "%s: %s", query_text, s.err.text);
    out.size = 0;
    if (code == OK)
        code = proto_to_json(decoded, s.schema, &out, &s.err);
    check(code == OK && slice_is(text_slice(&out), expected), "%s\n  got  %.*s\n  want %s",
          query_text, SLICE_ARG(text_slice(&out)), expected);
    text_deinit(&out);
    side_close(&s);
}

static const int64_t one_label[] = { 1 }, labels[] = { 1, 0, 7 };
static const float one_score[] = { 0.0184654f, 0.9815346f },
                   scores[] = { 0.0184654f, 0.9815346f, 0.99991f, 0.00009f, 0.5f, 0.5f };

static void fill_spam(struct response_output outputs[2], int64_t rows)
{
    outputs[0] = (struct response_output){ true,
                                           { .name = "label",
                                             .dtype = PENSTOCK_INT64,
                                             .rank = 1,
                                             .shape = { rows },
                                             .data = rows == 1 ? one_label : labels,
                                             .size = (size_t)rows * 8 } };
    outputs[1] = (struct response_output){ true,
                                           { .name = "probabilities",
                                             .dtype = PENSTOCK_FP32,
                                             .rank = 2,
                                             .shape = { rows, 2 },
                                             .data = rows == 1 ? one_score : scores,
                                             .size = (size_t)rows * 8 } };
}

TEST(typed_proto_answers_classifiers)
{
    struct response_output one[2], many[2];

    fill_spam(one, 1);
    fill_spam(many, 3);
    check_answer(test_spam(), "", 1, false, one, "{\"label\":\"spam\",\"probability\":0.98}",
                 "{\"label\":\"spam\",\"probability\":0.98}");
    check_answer(test_spam(), "", 1, true, one, "[{\"label\":\"spam\",\"probability\":0.98}]",
                 "{\"rows\":[{\"label\":\"spam\",\"probability\":0.98}]}");
    check_answer(test_spam(), "precision=full", 1, false, one,
                 "{\"label\":\"spam\",\"probability\":0.9815346}",
                 "{\"label\":\"spam\",\"probability\":0.9815346}");
    check_answer(test_spam(), "precision=3", 1, false, one,
                 "{\"label\":\"spam\",\"probability\":0.982}",
                 "{\"label\":\"spam\",\"probability\":0.982}");
    check_answer(test_spam(), "top=2", 1, false, one,
                 "[{\"label\":\"spam\",\"probability\":0.98},{\"label\":\"ham\",\"probability\":"
                 "0.02}]",
                 "{\"top\":[{\"label\":\"spam\",\"probability\":0.98},{\"label\":\"ham\","
                 "\"probability\":0.02}]}");
    check_answer(test_spam(), "outputs=label", 1, false, one, "{\"label\":\"spam\"}",
                 "{\"label\":\"spam\"}");
    check_answer(test_spam(), "outputs=probability", 1, false, one, "{\"probability\":0.98}",
                 "{\"probability\":0.98}");
    check_answer(test_spam(), "", 3, true, many, NULL,
                 "{\"rows\":[{\"label\":\"spam\",\"probability\":0.98},{\"label\":\"ham\","
                 "\"probability\":0.99991},{\"label\":\"7\",\"probability\":0.5}]}");
    check_answer(test_spam(), "top=1", 3, true, many, NULL,
                 "{\"rows\":[{\"top\":[{\"label\":\"spam\",\"probability\":0.98}]},{\"top\":[{"
                 "\"label\":\"ham\",\"probability\":0.99991}]},{\"top\":[{\"label\":\"ham\","
                 "\"probability\":0.5}]}]}");
    one[1].is_set = false;
    check_answer(test_spam(), "", 1, false, one, "{\"label\":\"spam\"}", "{\"label\":\"spam\"}");
}

/* -- streams ----------------------------------------------------------------------------------- */

static const struct {
    const struct signature *(*model)(void);
    const char *message; /* JSON */
    struct typed_asked asked;
} pieces[] = {
    { test_iris, IRIS_ROW, { .has_input = true } },
    { test_iris,
      "{\"input\":[5.1,3.5,1.4,0.2],\"stream\":{\"sequence\":\"3\"}}",
      { .sequence = 3, .has_input = true } },
    { test_iris,
      "{\"rows\":[" IRIS_ROW "],\"stream\":{\"interrupt\":true}}",
      { .interrupts = true, .has_input = true } },
    { test_iris,
      "{\"stream\":{\"sequence\":\"18446744073709551615\",\"interrupt\":true}}",
      { .sequence = UINT64_MAX, .interrupts = true } },
    { test_iris,
      "{\"stream\":{\"interrupt\":true},\"options\":{\"top\":1}}",
      { .interrupts = true, .has_options = true } },
    { test_iris,
      "{\"sepal_length\":1,\"stream\":{\"interrupt\":true}}",
      { .interrupts = true, .has_input = true } },
    { test_iris, "{\"stream\":{\"sequence\":\"1\"}}", { .sequence = 1, .has_input = true } },
    { test_iris, "{}", { .has_input = true } },
    { test_all, "{}", { .has_input = true } },
    { test_all, "{\"stream\":{\"interrupt\":true}}", { .interrupts = true } },
};

TEST(typed_proto_looks_at_messages_of_streams)
{
    for (size_t i = 0; i < COUNT(pieces); i++) {
        struct side s;
        struct typed_asked asked = { 0 };
        struct err err = { 0 };
        require(side_open(&s, "m", pieces[i].model()));
        enum err_code code =
            typed_look_proto(s.plan, message_of(&s, pieces[i].message), &asked, &err);
        check(code == OK && asked.sequence == pieces[i].asked.sequence &&
                  asked.interrupts == pieces[i].asked.interrupts &&
                  asked.has_input == pieces[i].asked.has_input &&
                  asked.has_options == pieces[i].asked.has_options,
              "%s: %llu %d %d %d %s", pieces[i].message, (unsigned long long)asked.sequence,
              asked.interrupts, asked.has_input, asked.has_options, err.text);
        check(strcmp(typed_proto_asked_name(s.plan), "stream") == 0, "its name");
        side_close(&s);
    }
}

static void refuse_look(const struct maker *m, const char *words)
{
    struct typed_asked asked = { .sequence = 42 };
    struct err err = { 0 };
    struct side s;

    require(side_open(&s, "iris", test_iris()));
    check(typed_look_proto(s.plan, made(&s, m), &asked, &err) == E_INVALID, "%s", words);
    check(strstr(err.text, words) != NULL && asked.sequence == 42, "said: %s\n  not:  %s", err.text,
          words);
    side_close(&s);
}

TEST(typed_proto_looks_refuse)
{
    struct maker m;

    make(&m);
    m.at = pb_put_uint(m.at, NUMBER_STREAM, 5);
    refuse_look(&m, "stream: field 1600 has wire type VARINT, which is no Stream");
    make(&m);
    m.at = pb_put_bytes(m.at, NUMBER_STREAM, slice_make("\x0d\0\0\0\0", 5));
    refuse_look(&m, "stream: field 1 has wire type I32, which is no uint64");
    make(&m);
    m.at = pb_put_bytes(m.at, NUMBER_STREAM, slice_make("\x12\0", 2));
    refuse_look(&m, "stream: field 2 has wire type LEN, which is no bool");
    make(&m);
    m.at = pb_put_bytes(m.at, NUMBER_STREAM, slice_make("\x08\x80", 2));
    refuse_look(&m, "stream is no protobuf message: byte 1");
    make(&m);
    m.at = pb_put_bytes(m.at, 1, slice_of("x"));
    m.at -= 1;
    refuse_look(&m, "the request is no protobuf message: byte 1");
}

/* Ours makes way where the model has a field of that name. */
TEST(typed_proto_stream_of_models_that_have_one)
{
    static struct signature_tensor tensors[] = {
        { .name = "stream", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 1 }, NO_LIMITS },
        { .name = "Stream", .dtype = PENSTOCK_FP32, .rank = 2, .dims = { -1, 1 }, NO_LIMITS },
    };
    static const struct signature signature = {
        .inputs_count = 2, .inputs = tensors, .outputs_count = 2, .outputs = tensors, .batch_max = 1
    };
    struct side s;
    struct proto_field field;

    require(side_open(&s, "m", &signature));
    check(strcmp(typed_proto_asked_name(s.plan), "stream_3") == 0, "%s",
          typed_proto_asked_name(s.plan));
    check(proto_type_field_by_number(s.request, 1, &field) && strcmp(field.name, "stream") == 0,
          "%s", field.name);
    check(proto_type_field_by_number(s.response, NUMBER_STREAM, &field) &&
              strcmp(field.name, "stream_3") == 0,
          "%s", field.name);
    side_close(&s);
}

/* Rows that are one question: by features, as a whole, or many; a state is no row. */
TEST(typed_proto_rows_of_one_question)
{
    static const float two[] = { 1, 2, 3, 4, 5, 6 };
    static const struct {
        const char *message;
        int64_t rows;
        const char *words;
    } cases[] = {
        { "{\"temperature\":1,\"vibration\":2,\"current\":3}", 1, NULL },
        { "{\"readings\":[1,2,3]}", 1, NULL },
        { "{\"rows\":[{\"temperature\":1,\"vibration\":2,\"current\":3},{\"readings\":[4,5,6]}]}",
          2, NULL },
        { "{\"readings\":[1,2,3,4,5,6]}", 2, NULL },
        { "{\"readings\":[1,2,3,4]}", 0, "readings: 4 values; one row takes shape [3]" },
        { "{\"readings\":[1,2,3],\"before\":[7,8]}", 1, NULL },
        { "{\"temperature\":1,\"vibration\":2}", 0, "field 'current' is missing" },
        { "{\"temperature\":1,\"vibration\":31,\"current\":3}", 0, "vibration is 31" },
    };
    struct side s;

    require(side_open(&s, "readings", test_readings()));
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct got got;
        read_message(&s, message_of(&s, cases[i].message), &got);
        check((got.code == OK) == (cases[i].words == NULL), "%s: %s", cases[i].message,
              got.err.text);
        if (got.code != OK) {
            check(strstr(got.err.text, cases[i].words) != NULL, "%s", got.err.text);
            continue;
        }
        const struct penstock_tensor *t = &got.inputs[0];
        check(t->rank == 2 && t->shape[0] == cases[i].rows && t->shape[1] == 3 &&
                  memcmp(t->data, two, t->size) == 0,
              "%s: %lld rows", cases[i].message, (long long)t->shape[0]);
        check(got.reader.rows == 1 && !got.reader.is_list, "%s: one answer", cases[i].message);
        check(got.has[1] == (i == 5) &&
                  (i != 5 || (got.inputs[1].rank == 1 && got.inputs[1].size == 8)),
              "%s: the state", cases[i].message);
    }
    struct got got;
    read_json(&s, "[{\"temperature\":1,\"vibration\":2,\"current\":3},{\"readings\":[4,5,6]}]",
              &got);
    check(got.code == OK && got.inputs[0].shape[0] == 2 && got.reader.rows == 1 &&
              !got.reader.is_list,
          "%s", got.err.text);
    read_json(&s, "{\"readings\":[[1,2,3],[4,5,6]],\"before\":[7,8]}", &got);
    check(got.code == OK && got.inputs[0].shape[0] == 2 && got.inputs[1].shape[0] == 2, "%s",
          got.err.text);
    side_close(&s);
}

/* Samples come as they come, whatever stands before them in the model's shape. */
TEST(typed_proto_rows_along_another_dimension)
{
    struct side s;
    struct got got;
    struct maker m;
    static uint8_t samples[4 * 700];

    require(side_open(&s, "samples", test_samples()));
    for (size_t count = 1; count <= 700; count += 233) {
        make(&m);
        m.at = pb_put_bytes(m.at, 1, slice_make(samples, 4 * count));
        read_message(&s, made(&s, &m), &got);
        check(got.code == OK && got.inputs[0].rank == 2 && got.inputs[0].shape[0] == 1 &&
                  got.inputs[0].shape[1] == (int64_t)count && !got.has[1],
              "%zu: %s", count, got.err.text);
    }
    side_close(&s);
}

static void check_streamed(const struct signature *signature, const char *query_text, uint64_t rows,
                           const struct response_output *outputs, const struct typed_said *said,
                           const char *expected)
{
    struct side s;
    struct typed_query query;
    struct proto_message *decoded = NULL;
    struct text out;
    size_t size = 0;

    require(side_open(&s, "m", signature));
    require(typed_query_read(&query, s.plan, slice_of(query_text), s.arena, &s.err) == OK);
    text_init(&out, 1 << 20);
    size_t bound = typed_proto_bound(s.plan, &query, rows, outputs);
    uint8_t *room = mem_alloc(bound); /* exactly: a sanitizer sees a step past it */
    require(room != NULL);
    enum err_code code = typed_write_proto_to(room, bound, &size, s.plan, &query, rows, rows != 1,
                                              outputs, said, s.arena, &s.err);
    if (code == OK)
        code = proto_decode(&decoded, s.messages, s.response, slice_make(room, size), &s.err);
    if (code == OK)
        code = proto_to_json(decoded, s.schema, &out, &s.err);
    check(code == OK && slice_is(text_slice(&out), expected), "%s\n  got  %.*s\n  want %s",
          s.err.text, SLICE_ARG(text_slice(&out)), expected);
    mem_free(room);
    text_deinit(&out);
    side_close(&s);
}

TEST(typed_proto_answers_in_streams)
{
    static const struct typed_said first = { .sequence = 1 },
                                   most = { UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, true };
    struct response_output one[2], many[2];

    fill_spam(one, 1);
    fill_spam(many, 3);
    check_streamed(test_spam(), "", 1, one, &first,
                   "{\"label\":\"spam\",\"probability\":0.98,\"stream\":{\"sequence\":\"1\"}}");
    check_streamed(test_spam(), "top=1&outputs=label", 1, one,
                   &(struct typed_said){ .sequence = 300, .input = 7, .merged = 2 },
                   "{\"top\":[{\"label\":\"spam\",\"probability\":0.98}],\"stream\":{"
                   "\"sequence\":\"300\",\"input\":\"7\",\"merged\":\"2\"}}");
    check_streamed(test_spam(), "outputs=label", 3, many, &most,
                   "{\"rows\":[{\"label\":\"spam\"},{\"label\":\"ham\"},{\"label\":\"7\"}],"
                   "\"stream\":{\"sequence\":\"18446744073709551615\",\"input\":"
                   "\"18446744073709551615\",\"merged\":\"18446744073709551615\",\"is_last\":true,"
                   "\"interrupted\":\"18446744073709551615\"}}");
    uint8_t room[TYPED_SAID_BYTES_MAX];
    check(typed_said_put(room, &most) <= room + sizeof room, "room for the most");
    check(slice_is(slice_make(room, (size_t)(typed_said_put(room, &first) - room)),
                   "\x82\x64\x02\x08\x01"),
          "the bytes of an answer without outputs");
}

/* Predict has no such field: its answers are what they were before there were streams. */
TEST(typed_proto_predict_says_nothing_of_streams)
{
    struct response_output one[2];
    struct typed_query query = { .precision = TYPED_PRECISION_DEFAULT };
    struct buf *holder = NULL;
    struct slice bytes;
    struct side s;

    fill_spam(one, 1);
    require(side_open(&s, "spam", test_spam()));
    require(typed_write_proto(&bytes, &holder, s.plan, &query, 1, false, one, s.arena, NULL,
                              &s.err) == OK);
    check(slice_is(bytes, "\x0a\x04spam\x15\x48\xe1\x7a\x3f"), "%zu bytes", bytes.size);
    buf_unref(&holder);
    side_close(&s);
}

TEST(typed_proto_answers_in_streams_fast)
{
    enum { TIMES = 20000 };
    struct response_output one[2];
    struct typed_query query = { .precision = TYPED_PRECISION_DEFAULT };
    struct side s;
    uint8_t room[2048];
    size_t size = 0;
    double best = 1e9;

    fill_spam(one, 1);
    require(side_open(&s, "spam", test_spam()));
    for (unsigned round = 0; round < 20; round++) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        for (uint64_t i = 0; i < TIMES; i++) {
            struct typed_said said = { .sequence = i + 1 };
            size_t bound = typed_proto_bound(s.plan, &query, 1, one);
            require(bound <= sizeof room);
            require(typed_write_proto_to(room, bound, &size, s.plan, &query, 1, false, one, &said,
                                         s.arena, &s.err) == OK);
        }
        clock_gettime(CLOCK_MONOTONIC, &to);
        best = fmin(best,
                    (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec));
    }
    printf("# an answer of spam in a stream: %.0f ns, %zu bytes\n", best / TIMES, size);
    check(best / TIMES < 20000, "%.0f ns", best / TIMES); /* sanitizers too */
    side_close(&s);
}

static void check_classes(struct signature_tensor outputs[2], const void *label, size_t label_size,
                          const char *query, const char *rest, const char *expected)
{
    static const float three[] = { 0.03f, 0.96f, 0.01f };
    struct signature signature = { .outputs_count = 2, .outputs = outputs, .is_batchable = true };
    struct response_output given[2] = {
        { label != NULL,
          { .name = "label",
            .dtype = outputs[0].dtype,
            .rank = 1,
            .shape = { 1 },
            .data = label,
            .size = label_size } },
        { true,
          { .name = "probabilities",
            .dtype = PENSTOCK_FP32,
            .rank = 2,
            .shape = { 1, 3 },
            .data = three,
            .size = sizeof three } },
    };

    check_answer(&signature, query, 1, false, given, rest, expected);
}

TEST(typed_proto_answers_classes)
{
    static const int64_t numbers[] = { 10, 20, 30 }, wide[] = { 10, 1LL << 40, 30 },
                         twenty[] = { 20 };
    static const char *const names[] = { "a", "b", "c" }, *const words[] = { "x", "y", "z" };
    static const char b[] = "\1\0\0\0b";
    struct signature_tensor o[2] = {
        { .name = "label",
          .dtype = PENSTOCK_INT64,
          .rank = 1,
          .dims = { -1 },
          NO_LIMITS,
          .role = ROLE_LABEL,
          .classes_count = 3,
          .class_numbers = numbers },
        { .name = "probabilities",
          .dtype = PENSTOCK_FP32,
          .rank = 2,
          .dims = { -1, 3 },
          NO_LIMITS,
          .role = ROLE_PROBABILITIES,
          .classes_count = 3,
          .class_numbers = numbers },
    };

    check_classes(o, twenty, 8, "", "{\"label\":20,\"probability\":0.96}",
                  "{\"label\":20,\"probability\":0.96}");
    check_classes(o, twenty, 8, "top=2", NULL,
                  "{\"top\":[{\"label\":\"20\",\"probability\":0.96},{\"label\":\"10\","
                  "\"probability\":0.03}]}");
    o[0].labels = o[1].labels = words;
    o[0].labels_count = o[1].labels_count = 3;
    check_classes(o, twenty, 8, "", "{\"label\":\"y\",\"probability\":0.96}",
                  "{\"label\":\"y\",\"probability\":0.96}");
    o[0].labels_count = o[1].labels_count = 0;
    o[0].class_numbers = o[1].class_numbers = wide; /* then quotes are protobuf's */
    check_classes(o, twenty, 8, "", "{\"label\":20,\"probability\":0.96}",
                  "{\"label\":\"20\",\"probability\":0.96}");
    /* Words of the model's own, and people's for them. */
    o[0].dtype = PENSTOCK_BYTES;
    o[0].class_numbers = o[1].class_numbers = NULL;
    o[0].class_names = o[1].class_names = names;
    check_classes(o, b, 5, "", "{\"label\":\"b\",\"probability\":0.96}",
                  "{\"label\":\"b\",\"probability\":0.96}");
    o[0].labels = o[1].labels = words;
    o[0].labels_count = o[1].labels_count = 3;
    check_classes(o, b, 5, "top=1", "[{\"label\":\"y\",\"probability\":0.96}]",
                  "{\"top\":[{\"label\":\"y\",\"probability\":0.96}]}");
    check_classes(o, b, 5, "", "{\"label\":\"y\",\"probability\":0.96}",
                  "{\"label\":\"y\",\"probability\":0.96}");
}

/* Scores alone: their label is made of them. */
TEST(typed_proto_answers_scores)
{
    static const int64_t numbers[] = { 10, 20, 30 };
    static const float three[] = { 0.03f, 0.96f, 0.01f };
    struct signature_tensor o = { .name = "scores",
                                  .dtype = PENSTOCK_FP32,
                                  .rank = 2,
                                  .dims = { -1, 3 },
                                  NO_LIMITS,
                                  .role = ROLE_PROBABILITIES };
    struct signature signature = { .outputs_count = 1, .outputs = &o, .is_batchable = true };
    struct response_output given = { true,
                                     { .name = "scores",
                                       .dtype = PENSTOCK_FP32,
                                       .rank = 2,
                                       .shape = { 1, 3 },
                                       .data = three,
                                       .size = sizeof three } };

    check_answer(&signature, "", 1, false, &given, "{\"class_index\":1,\"probability\":0.96}",
                 "{\"class_index\":1,\"probability\":0.96}");
    check_answer(&signature, "top=2", 1, false, &given, NULL,
                 "{\"top\":[{\"probability\":0.96,\"class_index\":1},{\"probability\":0.03,"
                 "\"class_index\":0}]}");
    o.classes_count = 3;
    o.class_numbers = numbers;
    check_answer(&signature, "", 1, false, &given, "{\"label\":20,\"probability\":0.96}",
                 "{\"label\":20,\"probability\":0.96}");
    o.labels = test_iris_labels;
    o.labels_count = 3;
    check_answer(&signature, "", 1, false, &given,
                 "{\"label\":\"versicolor\",\"probability\":0.96}",
                 "{\"label\":\"versicolor\",\"probability\":0.96}");
    /* Fewer names than columns name none; the field stays a string. */
    o.labels_count = 2;
    o.classes_count = 0;
    check_answer(&signature, "", 1, false, &given, NULL, "{\"label\":\"1\",\"probability\":0.96}");
    given.tensor.shape[1] = 0;
    given.tensor.size = 0;
    check_answer(&signature, "", 1, false, &given, NULL, "{}");
}

TEST(typed_proto_answers_values)
{
    static const float matrix[] = { 1.5f, -2, 3, 4, 0.1f, 6 };
    static const float mean[] = { 0 };
    struct response_output outputs[2] = {
        { true,
          { .name = "out",
            .dtype = PENSTOCK_FP32,
            .rank = 2,
            .shape = { 3, 2 },
            .data = matrix,
            .size = sizeof matrix } },
        { true,
          { .name = "mean",
            .dtype = PENSTOCK_FP32,
            .rank = 0,
            .data = mean,
            .size = sizeof mean } },
    };

    check_answer(test_mixed(), "", 1, false, outputs,
                 "{\"out\":[[1.5,-2.0],[3.0,4.0],[0.1,6.0]],\"mean\":0.0}",
                 "{\"out\":[1.5,-2.0,3.0,4.0,0.1,6.0],\"mean\":0.0}");
    check_answer(test_mixed(), "precision=1&outputs=out", 1, false, outputs, NULL,
                 "{\"out\":[2.0,-2.0,3.0,4.0,0.1,6.0]}");
    outputs[0].tensor.shape[0] = 0;
    outputs[0].tensor.size = 0;
    check_answer(test_mixed(), "", 1, false, outputs, NULL, "{\"mean\":0.0}");
}

/* Rows of each dtype in each form, bit by bit against what went in. */
TEST(typed_proto_answers_every_dtype)
{
    enum { ROWS = 3, HIGH = 2, WIDE = 5 };
    static uint8_t data[3 * COUNT(dtypes)][4096];

    for (int round = 0; round < 40; round++) {
        const struct signature *signature = test_all();
        struct response_output outputs[3 * COUNT(dtypes)];
        struct side s;
        struct typed_query query = { .precision = TYPED_PRECISION_FULL };
        struct slice message;
        struct buf *holder = NULL;
        struct proto_message *decoded = NULL;
        struct text rest, proto;

        require(side_open(&s, "m", signature));
        for (uint32_t i = 0; i < signature->outputs_count; i++) {
            const struct signature_tensor *t = &signature->outputs[i];
            int64_t row = i % 3 == 0 ? 1 : i % 3 == 1 ? 3 : HIGH * WIDE;
            uint8_t *at = data[i];
            outputs[i] = (struct response_output){ true,
                                                   { .name = t->name,
                                                     .dtype = t->dtype,
                                                     .rank = t->rank,
                                                     .shape = { ROWS, i % 3 == 1 ? 3 : HIGH, WIDE },
                                                     .data = data[i] } };
            for (int64_t k = 0; k < ROWS * row; k++) {
                uint64_t word = test_random();
                double value = (double)(int32_t)(uint32_t)word / 65536;
                uint32_t size = (uint32_t)(word % 6);
                uint16_t half =
                    t->dtype == PENSTOCK_FP16 ? number_f16_of(value) : number_bf16_of(value);
                float single = (float)value;
                switch (t->dtype) {
                case PENSTOCK_BYTES:
                    memcpy(at, &size, 4);
                    memset(at + 4, 'x', size);
                    at += 4 + size;
                    break;
                case PENSTOCK_BOOL: *at++ = word & 1; break;
                case PENSTOCK_FP16:
                case PENSTOCK_BF16:
                    memcpy(at, &half, 2);
                    at += 2;
                    break;
                case PENSTOCK_FP32:
                    memcpy(at, &single, 4);
                    at += 4;
                    break;
                case PENSTOCK_FP64:
                    memcpy(at, &value, 8);
                    at += 8;
                    break;
                default: memcpy(at, &word, 8); at += dtype_size(t->dtype);
                }
            }
            outputs[i].tensor.size = (size_t)(at - data[i]);
        }
        enum err_code code = typed_write_proto(&message, &holder, s.plan, &query, ROWS, true,
                                               outputs, s.arena, NULL, &s.err);
        check_or_stop(code == OK, "%s", s.err.text);
        code = proto_decode(&decoded, s.messages, s.response, message, &s.err);
        check_or_stop(code == OK, "%s", s.err.text);
        text_init(&rest, 1 << 24);
        text_init(&proto, 1 << 24);
        require(proto_to_json(decoded, s.schema, &proto, &s.err) == OK);
        /* Each row's answer is also a right request: what is read again must be what was given. */
        struct got got;
        read_message(&s, message, &got);
        check_or_stop(got.code == OK, "%s\n%s", got.err.text, text_cstr(&proto));
        for (uint32_t i = 0; i < signature->outputs_count; i++)
            check(got.inputs[i].size == outputs[i].tensor.size &&
                      memcmp(got.inputs[i].data, data[i], got.inputs[i].size) == 0 &&
                      memcmp(got.inputs[i].shape, outputs[i].tensor.shape,
                             got.inputs[i].rank * sizeof(int64_t)) == 0,
                  "%s: %s", signature->outputs[i].name, text_cstr(&proto));
        buf_unref(&holder);
        text_deinit(&rest);
        text_deinit(&proto);
        side_close(&s);
        if (test_has_failed())
            return;
    }
}

static enum err_code write_once(struct side *s, const struct response_output *outputs,
                                uint64_t rows, bool is_list)
{
    struct typed_query query = { 0 };
    CLEANUP(buf_unref) struct buf *holder = NULL;
    struct slice message;

    return typed_write_proto(&message, &holder, s->plan, &query, rows, is_list, outputs, s->arena,
                             NULL, &s->err);
}

TEST(typed_proto_answers_that_cannot_be_told)
{
    static const float six[6];
    static const char latin[] = "\1\0\0\0\xe9";
    static struct signature_tensor out = {
        .name = "out", .dtype = PENSTOCK_BYTES, .rank = 2, .dims = { -1, 1 }, NO_LIMITS
    };
    struct signature signature = { .outputs_count = 1, .outputs = &out, .is_batchable = true };
    struct response_output given = { true,
                                     { .name = "out",
                                       .dtype = PENSTOCK_BYTES,
                                       .rank = 2,
                                       .shape = { 1, 1 },
                                       .data = latin,
                                       .size = 5 } };
    struct side s;

    out.role = ROLE_VALUE;
    require(side_open(&s, "m", &signature));
    check(write_once(&s, &given, 1, false) == E_INVALID &&
              strstr(s.err.text, "output 'out' of model 'm' is not UTF-8") != NULL,
          "%s", s.err.text);
    side_close(&s);
    out.dtype = given.tensor.dtype = PENSTOCK_FP32;
    given.tensor.data = six;
    given.tensor.size = sizeof six;
    given.tensor.shape[1] = 6;
    require(side_open(&s, "m", &signature));
    check(write_once(&s, &given, 1, false) == E_INTERNAL &&
              strstr(s.err.text, "has 6 values, where its signature says one") != NULL,
          "%s", s.err.text);
    given.tensor.shape[0] = 3;
    given.tensor.shape[1] = 2;
    check(write_once(&s, &given, 2, true) == E_INTERNAL &&
              strstr(s.err.text, "not one row for each of the 2") != NULL,
          "%s", s.err.text);
    given.tensor.shape[0] = 1;
    given.tensor.shape[1] = 1;
    given.tensor.size = 3;
    check(write_once(&s, &given, 1, false) == E_INTERNAL &&
              strstr(s.err.text, "less data than its shape") != NULL,
          "%s", s.err.text);
    side_close(&s);
    static const int64_t label[] = { 1LL << 40 }, numbers[] = { 1, 2 };
    out.dtype = given.tensor.dtype = PENSTOCK_INT64;
    out.role = ROLE_LABEL;
    out.classes_count = 2;
    out.class_numbers = numbers;
    given.tensor.data = label;
    given.tensor.size = 8;
    require(side_open(&s, "m", &signature));
    check(write_once(&s, &given, 1, false) == E_INTERNAL &&
              strstr(s.err.text, "which is none of its classes") != NULL,
          "%s", s.err.text);
    side_close(&s);
}

/* The probability of a REST answer, read again, is the field's value: every float that is one. */
TEST(typed_proto_probabilities_are_those_of_rest)
{
    struct signature_tensor o = { .name = "p",
                                  .dtype = PENSTOCK_FP32,
                                  .rank = 2,
                                  .dims = { -1, 1 },
                                  NO_LIMITS,
                                  .role = ROLE_PROBABILITIES };
    struct signature signature = { .outputs_count = 1, .outputs = &o, .is_batchable = true };
    struct side s;
    enum { ROWS = 1000 };
    static float p[ROWS];

    require(side_open(&s, "m", &signature));
    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < ROWS; i++) {
            uint32_t bits = (uint32_t)test_random_below(0x3f800001); /* 0 to 1 */
            memcpy(&p[i], &bits, 4);
            if (i % 3 == 0)
                p[i] = (float)test_random_below(1u << 24) / (float)(1 << 24);
            if (i % 3 == 1)
                p[i] = (float)(i % 100) / 100 + (float)test_random_below(3) / 200 - 0.005f;
            p[i] = fminf(fmaxf(p[i], 0), 1);
        }
        struct response_output given = { true,
                                         { .name = "p",
                                           .dtype = PENSTOCK_FP32,
                                           .rank = 2,
                                           .shape = { ROWS, 1 },
                                           .data = p,
                                           .size = sizeof p } };
        struct typed_query query = { 0 };
        CLEANUP(buf_unref) struct buf *holder = NULL;
        struct slice message;
        struct pb_reader reader, row;
        struct pb_field field;
        require(typed_write_proto(&message, &holder, s.plan, &query, ROWS, true, &given, s.arena,
                                  NULL, &s.err) == OK);
        pb_begin(&reader, message);
        for (int i = 0; i < ROWS; i++) {
            char text[NUMBER_TEXT_MAX];
            float expected, got = -1;
            number_read_f32(slice_make(text, typed_put_probability(text, (double)p[i])), &expected);
            check_or_stop(pb_next(&reader, &field), "row %d", i);
            pb_begin(&row, field.bytes);
            while (pb_next(&row, &field))
                if (field.number == 2 && field.wire == PB_I32) {
                    uint32_t bits = (uint32_t)field.value;
                    memcpy(&got, &bits, 4);
                }
            check_or_stop(got == expected, "%.9g: %.9g, not %.9g", (double)p[i], (double)got,
                          (double)expected);
        }
        check(!pb_next(&reader, &field), "no more");
    }
    side_close(&s);
}

/* -- the example ------------------------------------------------------------------------------- */

TEST(typed_proto_examples)
{
    static const struct {
        const struct signature *(*model)(void);
        const char *example; /* NULL: made up */
        bool is_fine;
    } cases[] = {
        { test_iris, NULL, true },
        { test_spam, NULL, true },
        { test_spam, "{\"text\": [\"a\", \"b\"]}", false },
        { test_spam, "{\"txt\": \"a\"}", false },
        { test_iris, "{\"input\": [1, 2, 3, 4]}", true },
        { test_iris, "{\"input\": [[1, 2, 3, 4]]}", false },
        { test_mixed, NULL, true },
        { test_free_matrix, NULL, false },
        { test_string_features, NULL, true },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct signature signature = *cases[i].model();
        struct side s;
        struct got got;
        if (cases[i].example != NULL)
            signature.example_json = cases[i].example;
        require(side_open(&s, "m", &signature));
        check(typed_proto_takes_example(s.plan) == cases[i].is_fine, "%s", s.plan->example);
        if (cases[i].is_fine) {
            read_message(&s, message_of(&s, s.plan->example), &got);
            check(got.code == OK, "%s: %s", s.plan->example, got.err.text);
        }
        side_close(&s);
    }
}

/* -- failures ---------------------------------------------------------------------------------- */

TEST(typed_proto_survives_every_fault)
{
    struct response_output outputs[2];
    struct side whole;
    struct budget budget;

    require(side_open(&whole, "spam", test_spam()));
    struct slice message = message_of(&whole, "{\"rows\":[{\"text\":\"a\"},{\"text\":\"b\"},"
                                              "{\"text\":\"c\"}],\"options\":{\"top\":1,"
                                              "\"outputs\":[\"label\"]}}");
    fill_spam(outputs, 3);
    budget_init(&budget, 1 << 26);
    for_each_fault(nth) {
        struct arena *arena = arena_new(512, 1 << 20);
        struct typed_plan *plan = NULL;
        struct got *got = arena == NULL ? NULL : arena_zalloc(arena, sizeof *got);
        enum err_code code = E_EXHAUSTED;
        struct buf *holder = NULL;
        struct slice out;
        struct text text;
        text_init(&text, 1 << 20);
        if (got != NULL)
            code = typed_plan_new(&plan, "spam", test_spam(), &got->err);
        if (code == OK && typed_proto_file(plan).size == 0) {
            check(typed_proto_why(plan)[0] != '\0' || !fault_fired() ||
                      typed_proto_file(plan).size != 0,
                  "fault %u: and it says why", nth);
            code = E_EXHAUSTED;
        }
        if (code == OK) {
            typed_proto_text(&text, plan);
            code = text_failed(&text) ? E_EXHAUSTED : OK;
        }
        if (code == OK)
            code = typed_read_begin(&got->reader, plan, arena, &budget, &got->err);
        if (code == OK)
            code = typed_read_proto(&got->reader, message, &got->query, &got->err);
        if (code == OK)
            code = typed_read_end(&got->reader, got->inputs, got->has, &got->err);
        if (code == OK)
            code = typed_write_proto(&out, &holder, plan, &got->query, 3, true, outputs, arena,
                                     &budget, &got->err);
        check(code == OK || code == E_EXHAUSTED, "fault %u: %d", nth, code);
        buf_unref(&holder);
        text_deinit(&text);
        typed_plan_free(plan);
        arena_free(&arena);
        check(budget_used(&budget) == 0, "fault %u leaked", nth);
        if (!fault_fired())
            break;
        check(code != OK, "fault %u was silent", nth);
    }
    fault_arm(0);
    side_close(&whole);
}

/* -- threads ----------------------------------------------------------------------------------- */

static void *ask_for_file(void *plan)
{
    return (void *)(uintptr_t)typed_proto_file(plan).data; /* all must be given the same one */
}

TEST(typed_proto_is_made_once_for_all_threads)
{
    for (int round = 0; round < 50; round++) {
        struct typed_plan *plan = NULL;
        struct err err = { 0 };
        pthread_t threads[4];
        void *files[4];
        require(typed_plan_new(&plan, "m", test_all(), &err) == OK);
        for (size_t i = 0; i < COUNT(threads); i++)
            require(pthread_create(&threads[i], NULL, ask_for_file, plan) == 0);
        for (size_t i = 0; i < COUNT(threads); i++)
            require(pthread_join(threads[i], &files[i]) == 0);
        for (size_t i = 0; i < COUNT(threads); i++)
            check(files[i] != NULL && files[i] == files[0], "thread %zu", i);
        typed_plan_free(plan);
    }
}

/* A start of the server asks for one of each model that it prints lines for. */
TEST(typed_proto_is_made_fast)
{
    struct typed_plan *plans[200];
    struct err err = { 0 };
    struct timespec from, to;

    for (size_t i = 0; i < COUNT(plans); i++)
        require(typed_plan_new(&plans[i], "iris", test_iris(), &err) == OK);
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (size_t i = 0; i < COUNT(plans); i++)
        check(typed_proto_file(plans[i]).size != 0, "%s", typed_proto_why(plans[i]));
    clock_gettime(CLOCK_MONOTONIC, &to);
    double us =
        ((double)(to.tv_sec - from.tv_sec) * 1e6 + (double)(to.tv_nsec - from.tv_nsec) / 1e3) /
        COUNT(plans);
    printf("# a contract of iris is made in %.1f us, %zu bytes\n", us,
           typed_proto_file(plans[0]).size);
    check(us < 5000, "%.0f us", us);
    for (size_t i = 0; i < COUNT(plans); i++)
        typed_plan_free(plans[i]);
}

/* What a few bytes announce is not taken from memory. */
TEST(typed_proto_is_bounded)
{
    struct side s;
    struct got got;
    struct budget budget;
    static uint8_t ones[1 << 20];

    require(side_open(&s, "mixed", test_mixed()));
    budget_init(&budget, 64 << 20);
    /* A million numbers of one byte are 8 MB of INT64, and no more. */
    memset(ones, 1, sizeof ones);
    uint8_t *message = mem_alloc(sizeof ones + 16);
    uint8_t *end = pb_put_bytes(message, 5, slice_make(ones, sizeof ones));
    memset(&got, 0, sizeof got);
    require(typed_read_begin(&got.reader, s.plan, s.arena, &budget, &got.err) == OK);
    got.code = typed_read_proto(&got.reader, slice_make(message, (size_t)(end - message)),
                                &got.query, &got.err);
    check(got.code == E_INVALID && strstr(got.err.text, "field 'b' is missing") != NULL, "%s",
          got.err.text);
    check(budget_used(&budget) <= 9 << 20, "%zu bytes", budget_used(&budget));
    /* One by one, it grows by doubling. */
    end = message;
    for (int i = 0; i < 200000; i++)
        end = pb_put_uint(end, 5, 1);
    memset(&got, 0, sizeof got);
    require(typed_read_begin(&got.reader, s.plan, s.arena, &budget, &got.err) == OK);
    size_t before = budget_used(&budget);
    got.code = typed_read_proto(&got.reader, slice_make(message, (size_t)(end - message)),
                                &got.query, &got.err);
    check(got.code == E_INVALID && budget_used(&budget) - before <= 8 << 20, "%zu bytes",
          budget_used(&budget) - before);
    /* No budget: an answer. */
    struct budget small;
    budget_init(&small, 1 << 16);
    end = pb_put_bytes(message, 5, slice_make(ones, sizeof ones));
    memset(&got, 0, sizeof got);
    require(typed_read_begin(&got.reader, s.plan, s.arena, &small, &got.err) == OK);
    got.code = typed_read_proto(&got.reader, slice_make(message, (size_t)(end - message)),
                                &got.query, &got.err);
    check(got.code == E_EXHAUSTED, "%d %s", got.code, got.err.text);
    mem_free(message);
    side_close(&s);
}
