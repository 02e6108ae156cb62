/* service_test.c - names of services and numbers of fields. SPDX-License-Identifier: Apache-2.0 */
#include "model/service.h"

#include "base/arena.h"
#include "model/numbers.h"

#include "test/harness.h"

TEST(services_are_named_after_models)
{
    static const struct {
        const char *model, *service, *stem;
    } rows[] = {
        { "spam", "Spam", "spam" },
        { "my-model_v2", "MyModelV2", "my_model_v2" },
        { "resnet50.v1.5", "Resnet50V15", "resnet50_v15" },
        { "gpt4All", "Gpt4All", "gpt4_all" },
        { "BERT", "BERT", "b_e_r_t" },
        { "3d-net", "Model3dNet", "model3d_net" },
        { "--", "Model", "model" },
        { "模型", "U6a21U578b", "u6a21_u578b" },
        { "na\u00efve bayes", "NaU00efVeBayes", "na_u00ef_ve_bayes" },
        { "a b  c", "ABC", "a_b_c" },
        { "spam-predict-request", "SpamPredictRequestModel", "spam_predict_request_model" },
        { "PredictResponse", "PredictResponseModel", "predict_response_model" },
        { "churn-predict", "ChurnPredict", "churn_predict" },
    };
    CLEANUP(arena_free) struct arena *arena = arena_new(1024, 1 << 20);

    for (unsigned i = 0; i < COUNT(rows); i++) {
        const char *service = service_of_model(arena, rows[i].model);
        check(service != NULL && strcmp(service, rows[i].service) == 0, "%s: %s", rows[i].model,
              service);
        check(service_is_name(slice_of(service)), "%s may be said as well", service);
        check(strcmp(service_file_stem(arena, service), rows[i].stem) == 0, "%s", service);
    }
    const char *bad = service_of_model(arena, "a\xff");
    check(strcmp(bad, "AU00ff") == 0, "not UTF-8: %s", bad);
}

TEST(services_of_one_name_are_told_apart)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(1024, 1 << 20);
    const char *dash = service_of_model_apart(arena, "my-model");
    const char *line = service_of_model_apart(arena, "my_model");

    /* Clients were built with it: it must never change. */
    check(strcmp(dash, "MyModelX6f2c0ab7") == 0, "%s", dash);
    check(strcmp(dash, line) != 0 && strncmp(line, "MyModelX", 8) == 0, "%s", line);
    char name[400];
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    const char *first = service_of_model(arena, name);
    name[sizeof name - 2] = 'b';
    const char *second = service_of_model(arena, name);
    check(strlen(first) == SERVICE_BYTES_MAX && strcmp(first, second) != 0, "%s %s", first, second);
}

TEST(only_names_of_services_may_be_said)
{
    static const char *const bad[] = { "",         "spam",   "2Spam", "My_Model",
                                       "My Model", "Spam\n", "Schön", "SpamPredictRequest" };

    for (unsigned i = 0; i < COUNT(bad); i++)
        check(!service_is_name(slice_of(bad[i])), "%s", bad[i]);
    check(service_is_name(slice_of("S")), "one letter");
}

static struct signature_tensor tensor(const char *name, enum penstock_dtype dtype, int64_t last)
{
    return (struct signature_tensor){
        .name = name, .dtype = dtype, .rank = 2, .dims = { -1, last }, .min = 0, .max = 0
    };
}

TEST(fields_are_numbered_by_their_places)
{
    static const struct feature features[] = { { .name = "x" }, { .name = "y" } };
    struct signature_tensor inputs[] = { tensor("hidden", PENSTOCK_FP32, 1),
                                         tensor("a", PENSTOCK_FP32, 2),
                                         tensor("b", PENSTOCK_FP32, 3) };
    struct signature_tensor outputs[] = { tensor("scores", PENSTOCK_FP32, 3),
                                          tensor("v", PENSTOCK_FP32, 3) };
    struct signature s = { .inputs_count = 3,
                           .outputs_count = 2,
                           .inputs = inputs,
                           .outputs = outputs,
                           .is_batchable = true };
    CLEANUP(arena_free) struct arena *arena = arena_new(1024, 1 << 20);
    uint32_t count;
    struct err err = { 0 };

    inputs[0].is_hidden = true;
    inputs[1].features_count = 2;
    inputs[1].features = features;
    outputs[0].role = ROLE_PROBABILITIES;
    outputs[1].role = ROLE_VALUE;
    struct numbered *n = numbers_of_inputs(&s, arena, &count);
    check_or_stop(count == 4, "x, y, b and all of a: %u", count);
    check(n[0].number == 1 && n[0].feature == 0 && n[0].tensor == 1, "x");
    check(n[1].number == 2 && n[1].feature == 1, "y");
    check(n[2].number == 3 && n[2].tensor == 2 && n[2].feature == NUMBERED_WHOLE, "b");
    check(n[3].number == 4 && n[3].tensor == 1 && n[3].is_extra, "a");
    n = numbers_of_outputs(&s, arena, &count);
    check_or_stop(count == 3, "%u", count);
    check(n[0].is_label && n[0].number == 1 && !n[1].is_label && n[1].number == 2 &&
              n[2].number == 3,
          "label, probability, v");
    check(numbers_check(&s, &err) == OK, "%s", err.text);
    inputs[2].number = 70; /* moves nobody else */
    n = numbers_of_inputs(&s, arena, &count);
    check(n[2].number == 70 && n[3].number == 4, "b by its own");
    inputs[2].number = 4;
    check(numbers_check(&s, &err) == E_INVALID, "taken");
    check(strcmp(err.text, "input 'a' and 'b' would both be field number 4 of the gRPC message: "
                           "give one of them another `number`") == 0 ||
              strcmp(err.text, "input 'b' and 'a' would both be field number 4 of the gRPC "
                               "message: give one of them another `number`") == 0,
          "%s", err.text);
    inputs[2].number = 0;
    outputs[1].number = 1;
    check(numbers_check(&s, &err) == E_INVALID && strstr(err.text, "(its label)") != NULL, "%s",
          err.text);
}

TEST(numbers_of_others_are_left_out)
{
    struct signature_tensor *inputs = NULL;
    CLEANUP(arena_free) struct arena *arena = arena_new(1 << 20, 64 << 20);
    struct signature s = { .inputs_count = 20000 };
    uint32_t count;

    inputs = arena_zalloc(arena, s.inputs_count * sizeof *inputs);
    check_or_stop(inputs != NULL, "memory");
    s.inputs = inputs;
    struct numbered *n = numbers_of_inputs(&s, arena, &count);
    check_or_stop(n != NULL && count == 20000, "all");
    check(n[998].number == 999 && n[999].number == 2000, "%u", n[999].number);
    check(n[17998].number == 18999 && n[17999].number == 20000, "%u %u", n[17998].number,
          n[17999].number);
    check(numbers_is_allowed(1) && numbers_is_allowed(999) && numbers_is_allowed(2000) &&
              numbers_is_allowed(NUMBERS_MAX),
          "allowed");
    static const double bad[] = { 0, -1, 1.5, 1000, 1999, 19000, 19999, 536870912.0 };
    for (unsigned i = 0; i < COUNT(bad); i++)
        check(!numbers_is_allowed(bad[i]), "%g", bad[i]);
}
