/* pb_build.h - V2 infer messages for tests, field after field into heap texts. Test only. */
#ifndef API_PB_BUILD_H
#define API_PB_BUILD_H

#include "base/pb_text.h"

static inline void build_str(struct text *out, uint32_t number, const char *value)
{
    pb_text_bytes(out, number, slice_of(value));
}

/* A message as a field; it is emptied. */
static inline void build_message(struct text *out, uint32_t number, struct text *message)
{
    pb_text_bytes(out, number, text_slice(message));
    text_deinit(message);
    text_init(message, 1 << 24);
}

/* An entry of parameters (field `number`): InferParameter's field `kind` holds it. */
static inline void build_parameter(struct text *out, uint32_t number, const char *key,
                                   uint32_t kind, uint64_t value, const char *str)
{
    struct text entry, parameter;

    text_init(&entry, 1 << 16);
    text_init(&parameter, 1 << 16);
    if (kind == 3) {
        build_str(&parameter, kind, str);
    } else if (kind == 4) {
        uint8_t bytes[16];
        text_put(&parameter, bytes, (size_t)(pb_put_i64(bytes, kind, value) - bytes));
    } else if (kind != 0) {
        pb_text_uint(&parameter, kind, value);
    }
    build_str(&entry, 1, key);
    build_message(&entry, 2, &parameter);
    build_message(out, number, &entry);
    text_deinit(&entry);
    text_deinit(&parameter);
}

/* name, datatype and shape of an InferInputTensor; what else it has is put behind. */
static inline void build_input(struct text *out, const char *name, const char *datatype,
                               uint32_t rank, const int64_t *shape)
{
    build_str(out, 1, name);
    build_str(out, 2, datatype);
    for (uint32_t i = 0; i < rank; i++)
        pb_text_uint(out, 3, (uint64_t)shape[i]);
}

#endif
