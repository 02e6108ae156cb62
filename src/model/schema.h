/* schema.h - protobuf messages described as tables, and their JSON form.
 *
 * A document here is a yyjson_mut_doc in the form in which Triton's /config writes a message: proto
 * field names, enums by name, 64-bit integers as numbers, maps as objects; a float that JSON has no
 * number for is the string "NaN", "Infinity" or "-Infinity". A field that was not given is absent
 * until schema_complete.
 *
 * Tables are constant; documents belong to one thread at a time.
 */
#ifndef MODEL_SCHEMA_H
#define MODEL_SCHEMA_H

#include "base/err.h"
#include "base/slice.h"

struct arena;
struct yyjson_alc;
struct yyjson_mut_doc;
struct yyjson_mut_val;

enum schema_type {
    SCHEMA_BOOL,
    SCHEMA_INT32,
    SCHEMA_INT64,
    SCHEMA_UINT32,
    SCHEMA_UINT64,
    SCHEMA_FLOAT,
    SCHEMA_DOUBLE,
    SCHEMA_STRING,
    SCHEMA_ENUM,
    SCHEMA_MESSAGE
};

/* Oneofs are labels of their own: two fields of a message that share one exclude each other. */
enum schema_label { SCHEMA_ONE, SCHEMA_MANY, SCHEMA_MAP, SCHEMA_ONEOF };

/* What the server does with a field that is set to something else than its default. */
enum schema_act {
    ACT_BUILT,   /* it is acted on; of a message: see its fields */
    ACT_KEPT,    /* it is kept in the document and rightly has no further effect here */
    ACT_IGNORED, /* not built, answers do not change: a warning */
    ACT_PARTLY,  /* a warning, and see its fields as well */
    ACT_REFUSED, /* not built, answers would change: the model must not load */
    ACT_UNDER    /* decided with the message that holds it */
};

struct schema_enum {
    const char *name;
    uint32_t count;
    const struct schema_value {
        const char *name;
        int32_t number;
    } * values;
};

struct schema_field {
    const char *name;
    enum schema_label label;
    enum schema_type type;
    enum schema_type key_type;            /* of a map: SCHEMA_STRING or SCHEMA_UINT64 */
    const char *oneof;                    /* its name, for SCHEMA_ONEOF */
    const struct schema_message *message; /* for SCHEMA_MESSAGE */
    const struct schema_enum *values;     /* for SCHEMA_ENUM */
    enum schema_act act;
    const char *why; /* words for the person whose field is not acted on */
};

struct schema_message {
    const char *name;
    uint32_t count;
    const struct schema_field *fields;
};

/* Documents cost memory in proportion to what the text holds and to what completion adds; both are
 * charged against this many values. */
enum { SCHEMA_VALUES_MAX = 1 << 18, SCHEMA_MAP_MAX = 1024 };

/* The heap as yyjson asks for it (mem.h: faults and counts apply). */
extern const struct yyjson_alc schema_heap;

const struct schema_field *schema_find(const struct schema_message *message, struct slice name);
const char *schema_type_name(const struct schema_field *field); /* "int64", "DataType" */
/* "'GREN' is no value of Color; the nearest is 'GREEN'", or all the names when none is near. Returns
 * E_INVALID. */
enum err_code schema_refuse_enum(const struct schema_enum *values, struct slice got,
                                 struct err *err);
/* NULL: no such value. */
const char *schema_enum_name(const struct schema_enum *values, int64_t number);

/* What one field costs of SCHEMA_VALUES_MAX. */
uint32_t schema_cost(const struct schema_field *field);

/* Numbers, for readers: does it fit the integer type, the range in words, the values of a document
 * (NULL: no memory). */
bool schema_int_fits(enum schema_type type, bool is_negative, uint64_t magnitude);
const char *schema_int_range(enum schema_type type);
struct yyjson_mut_val *schema_int_value(struct yyjson_mut_doc *doc, bool is_negative,
                                        uint64_t magnitude);
struct yyjson_mut_val *schema_float_value(struct yyjson_mut_doc *doc, enum schema_type type,
                                          double value);

/* Reads the JSON form, strictly: proto or lowerCamelCase names, enums by name or number, integers
 * also as strings, null as absent. Errors name the path: "instance_group[0].count: ...". `ret` is a
 * value of `doc`. */
MUST_USE enum err_code schema_from_json(struct yyjson_mut_val **ret, struct yyjson_mut_doc *doc,
                                        const struct schema_message *message, struct slice json,
                                        struct err *err);

/* A copy of `value` with its fields in the table's order and, as always_print_primitive_fields
 * does, every field without presence that is absent: 0, "", false, [], {}, an enum's first name.
 * NULL: no memory. */
struct yyjson_mut_val *schema_complete(struct yyjson_mut_doc *doc,
                                       const struct schema_message *message,
                                       struct yyjson_mut_val *value);

/* Calls `on_act` for every field of `value` whose act is IGNORED, PARTLY or REFUSED and whose value
 * is not its default: once per row of the table, with the path of the first. False: on_act said
 * so. */
typedef bool schema_act_fn(void *context, const struct schema_field *field, const char *path);
MUST_USE bool schema_walk_acts(const struct schema_message *message, struct yyjson_mut_val *value,
                               schema_act_fn *on_act, void *context);

#endif
