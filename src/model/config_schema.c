/* config_schema.c - SPDX-License-Identifier: Apache-2.0
 *
 * Each enum and message of the .def becomes an array of rows and, where it ends, the table that
 * points at them.
 */
#include "model/config_schema.h"

/* clang-format off */
#define VALUE(label, value) { .name = label, .number = value },
#define ENUM(id, label)                                                                            \
    static const char id##_name[] = label;                                                         \
    static const struct schema_value id##_values[] = {
#define END_ENUM(id)                                                                               \
    };                                                                                             \
    static const struct schema_enum id = { .name = id##_name, .count = COUNT(id##_values),         \
                                           .values = id##_values };
#define MESSAGE(id, label)                                                                         \
    static const char id##_name[] = label;                                                         \
    static const struct schema_field id##_fields[] = {
#define END_MESSAGE(id)                                                                            \
    };                                                                                             \
    static const struct schema_message id = { .name = id##_name, .count = COUNT(id##_fields),      \
                                              .fields = id##_fields };
#define MESSAGE_EMPTY(id, label) static const struct schema_message id = { .name = label };
#define FIELD(field, many, kind, does, words)                                                      \
    { .name = #field, .label = SCHEMA_##many, .type = SCHEMA_##kind, .act = ACT_##does,            \
      .why = words },
#define CHOICE(field, many, of, does, words)                                                       \
    { .name = #field, .label = SCHEMA_##many, .type = SCHEMA_ENUM, .values = &of,                  \
      .act = ACT_##does, .why = words },
#define HOLDS(field, many, of, does, words)                                                        \
    { .name = #field, .label = SCHEMA_##many, .type = SCHEMA_MESSAGE, .message = &of,              \
      .act = ACT_##does, .why = words },
#define MAP(field, key, does, words)                                                               \
    { .name = #field, .label = SCHEMA_MAP, .type = SCHEMA_STRING, .key_type = SCHEMA_##key,        \
      .act = ACT_##does, .why = words },
#define MAP_OF(field, key, of, does, words)                                                        \
    { .name = #field, .label = SCHEMA_MAP, .type = SCHEMA_MESSAGE, .key_type = SCHEMA_##key,       \
      .message = &of, .act = ACT_##does, .why = words },
#define ONEOF(group, field, kind, does, words)                                                     \
    { .name = #field, .label = SCHEMA_ONEOF, .type = SCHEMA_##kind, .oneof = group,                \
      .act = ACT_##does, .why = words },
#define ONEOF_OF(group, field, of, does, words)                                                    \
    { .name = #field, .label = SCHEMA_ONEOF, .type = SCHEMA_MESSAGE, .oneof = group,               \
      .message = &of, .act = ACT_##does, .why = words },
/* clang-format on */

#include "model/config_schema.def"

const struct schema_message *const config_schema = &ModelConfig;
