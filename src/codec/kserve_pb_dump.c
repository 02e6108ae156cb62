/* kserve_pb_dump.c - what the codec makes of messages, for test/client/kserve_pb_reference.py.
 * SPDX-License-Identifier: Apache-2.0
 *
 * On stdin: messages, each behind its length (4 bytes, little-endian). On stdout: a line of JSON for
 * each. Strings and bytes are in hexadecimal, numbers of parameters by their 64 bits. `tensors` are
 * the inputs' contents by their datatype and shape. `answer` is a ModelInferResponse that says the
 * request's names, parameters and shapes again, with each input's raw contents or tensor.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/buf.h"
#include "codec/kserve_pb.h"
#include "model/dtype.h"

enum { MESSAGE_BYTES_MAX = 1 << 26, COPY_MAX = 24 };

static void hex(const char *key, struct slice bytes)
{
    printf("\"%s\":\"", key);
    for (size_t i = 0; i < bytes.size; i++)
        printf("%02x", bytes.data[i]);
    printf("\"");
}

static void parameters(struct kserve_pb_parameters p)
{
    static const char *const kinds[] = { "none", "bool", "int64", "string", "double", "uint64" };

    printf(",\"parameters\":[");
    for (uint32_t i = 0; i < p.count; i++) {
        const struct kserve_pb_parameter *item = &p.items[i];
        uint64_t bits = item->kind == KSERVE_PB_BOOL ? item->value.b : item->value.u;
        printf("%s{", i == 0 ? "" : ",");
        hex("key", item->key);
        printf(",\"kind\":\"%s\",\"bits\":\"%llu\",", kinds[item->kind], (unsigned long long)bits);
        hex("text", item->kind == KSERVE_PB_STRING ? item->text : slice_make(NULL, 0));
        printf("}");
    }
    printf("]");
}

/* The words of a failure, none of which come from the message. */
static void failure(enum err_code code, const char *field, const struct err *err)
{
    printf("{\"code\":\"%s\",\"field\":\"%s\",\"text\":\"%s\"}", err_name(code),
           field == NULL ? "" : field, err->text);
}

static struct slice tensor(const struct kserve_pb_input *input, struct arena *arena)
{
    enum penstock_dtype dtype = dtype_from_name(input->datatype);
    struct slice data = { NULL, 0 };
    struct buf *holder = NULL;
    struct err err = { 0 };
    uint64_t count;

    if (!shape_count(input->rank, input->shape, &count)) {
        printf("null");
        return data;
    }
    enum err_code code =
        kserve_pb_contents(input->contents, dtype, count, "x", arena, NULL, &data, &holder, &err);
    if (code != OK) {
        failure(code, NULL, &err);
        return slice_make(NULL, 0);
    }
    printf("{");
    hex("data", data);
    printf("}");
    require(holder == NULL || arena_adopt(arena, &holder));
    return data;
}

static void answer(const struct kserve_pb_request *request, const struct slice *tensors,
                   struct arena *arena)
{
    struct kserve_pb_result *results =
        calloc(request->inputs_count + (size_t)1, sizeof(struct kserve_pb_result));
    struct kserve_pb_response response = {
        .model_name = request->model_name,
        .model_version = request->model_version,
        .id = request->id,
        .results_count = request->inputs_count,
        .results = results,
        .parameters = request->parameters,
    };
    struct kserve_pb_piece *pieces;
    uint32_t count;

    require(results != NULL);
    for (uint32_t i = 0; i < request->inputs_count; i++)
        results[i] = (struct kserve_pb_result){
            .name = request->inputs[i].name,
            .dtype = dtype_from_name(request->inputs[i].datatype),
            .rank = request->inputs[i].rank,
            .shape = request->inputs[i].shape,
            .bytes = i < request->raw_count ? request->raw[i] : tensors[i],
        };
    require(kserve_pb_encode(&response, COPY_MAX, arena, &pieces, &count, NULL) == OK);
    printf(",\"answer\":\"");
    for (uint32_t i = 0; i < count; i++)
        for (size_t k = 0; k < pieces[i].bytes.size; k++)
            printf("%02x", pieces[i].bytes.data[k]);
    printf("\"");
    free(results);
}

static void dump(struct slice message, struct arena *arena)
{
    struct kserve_pb_request request;
    const char *field;
    struct err err = { 0 };
    enum err_code code = kserve_pb_decode(&request, message, arena, &field, &err);

    if (code != OK) {
        failure(code, field, &err);
        return;
    }
    struct slice *tensors = calloc(request.inputs_count + (size_t)1, sizeof *tensors);
    require(tensors != NULL);
    printf("{\"code\":\"OK\",");
    hex("model_name", request.model_name);
    printf(",");
    hex("model_version", request.model_version);
    printf(",");
    hex("id", request.id);
    parameters(request.parameters);
    printf(",\"inputs\":[");
    for (uint32_t i = 0; i < request.inputs_count; i++) {
        const struct kserve_pb_input *input = &request.inputs[i];
        printf("%s{", i == 0 ? "" : ",");
        hex("name", input->name);
        printf(",");
        hex("datatype", input->datatype);
        printf(",\"shape\":[");
        for (uint32_t k = 0; k < input->rank; k++)
            printf("%s%lld", k == 0 ? "" : ",", (long long)input->shape[k]);
        printf("]");
        parameters(input->parameters);
        printf(",\"has_contents\":%s,\"tensor\":", input->has_contents ? "true" : "false");
        tensors[i] = tensor(input, arena);
        printf("}");
    }
    printf("],\"outputs\":[");
    for (uint32_t i = 0; i < request.outputs_count; i++) {
        printf("%s{", i == 0 ? "" : ",");
        hex("name", request.outputs[i].name);
        parameters(request.outputs[i].parameters);
        printf("}");
    }
    printf("],\"raw\":[");
    for (uint32_t i = 0; i < request.raw_count; i++) {
        printf("%s{", i == 0 ? "" : ",");
        hex("data", request.raw[i]);
        printf("}");
    }
    printf("]");
    answer(&request, tensors, arena);
    printf("}");
    free(tensors);
}

int main(void)
{
    struct arena *arena = arena_new(1 << 16, 1 << 28);
    uint32_t size;

    require(arena != NULL);
    while (fread(&size, 4, 1, stdin) == 1) {
        uint8_t *message = size > MESSAGE_BYTES_MAX ? NULL : malloc(size == 0 ? 1 : size);
        if (message == NULL || fread(message, 1, size, stdin) != size) {
            fprintf(stderr, "a message ends in the middle, or is larger than %d bytes\n",
                    MESSAGE_BYTES_MAX);
            return 1;
        }
        dump(slice_make(message, size), arena);
        printf("\n");
        arena_reset(arena);
        free(message);
    }
    arena_free(&arena);
    return 0;
}
