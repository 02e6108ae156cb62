/* typed_message.h - the messages of a typed gRPC contract, as reading and writing need them. Only
 * for contract/. Made by typed_proto.c; read-only, any thread.
 */
#ifndef CONTRACT_TYPED_MESSAGE_H
#define CONTRACT_TYPED_MESSAGE_H

#include "contract/typed.h"

/* descriptor.proto, FieldDescriptorProto.Type */
enum message_kind {
    KIND_DOUBLE = 1,
    KIND_FLOAT = 2,
    KIND_INT64 = 3,
    KIND_UINT64 = 4,
    KIND_INT32 = 5,
    KIND_BOOL = 8,
    KIND_STRING = 9,
    KIND_MESSAGE = 11,
    KIND_BYTES = 12,
    KIND_UINT32 = 13,
    KINDS = 19
};

enum message_form {
    FORM_ONE,   /* optional T */
    FORM_MANY,  /* repeated T: a row's elements one after the other */
    FORM_TENSOR /* { repeated int64 shape = 1; repeated T values = 2; } */
};

enum {
    /* PredictRequest and PredictResponse */
    NUMBER_OPTIONS = 1000,
    NUMBER_ROWS = 1001,
    NUMBER_TOP = 1002, /* and on: one a classifier */
    NUMBER_STREAM = 1600,
    /* Options */
    OPTION_TOP = 1,
    OPTION_OUTPUTS = 2,
    OPTION_PRECISION = 3,
    OPTION_FULL = 4,
    /* Tensor */
    TENSOR_SHAPE = 1,
    TENSOR_VALUES = 2,
    /* Class */
    CLASS_LABEL = 1,
    CLASS_PROBABILITY = 2,
    CLASS_INDEX = 3,
    /* Stream: of a request, of a response */
    ASK_SEQUENCE = 1,
    ASK_INTERRUPT = 2,
    SAY_SEQUENCE = 1,
    SAY_INPUT = 2,
    SAY_MERGED = 3,
    SAY_LAST = 4,
    SAY_INTERRUPTED = 5,

    MESSAGE_FIELDS_MAX = 4096,
    MESSAGE_TOPS_MAX = 500
};

struct message_field {
    uint32_t number;
    enum message_kind kind;
    enum message_form form;
    const char *name;  /* in the .proto */
    const char *json;  /* in JSON: what REST calls it, wherever protobuf allows */
    const char *title; /* what REST calls it */
    uint32_t input;    /* of a request: index of the plan's inputs */
    int64_t feature;   /* likewise: which, or TYPED_WHOLE */
    uint32_t item;     /* of a response: index of the plan's items */
};

/* The fields of a row, by number. */
struct message {
    uint32_t count;
    struct message_field *fields;
};

/* The k most likely classes of one list of scores. */
struct message_top {
    uint32_t number;
    uint32_t item; /* the first that shows this classifier */
    int64_t probabilities;
    const char *name;
};

struct typed_proto {
    const char *service; /* "Iris"; NULL: there is none, and why says why */
    const char *full_name, *file_name;
    char why[ERR_TEXT_MAX];
    struct message request, response;
    enum message_form *input_forms; /* of whole inputs, by index of the plan's */
    /* Numbers to look up: of an input at its first, its whole and then its features; of items. */
    uint32_t *input_first, *input_numbers, *item_numbers;
    const char *options_name, *rows_name,
        *answers_name;                  /* of our own fields; rows: NULL: no batch */
    const char *asked_name, *said_name; /* of `stream` in the request, in the response */
    enum message_kind class_kind;       /* of the probabilities in a Class */
    uint32_t tops_count;
    struct message_top *tops;
    struct slice file;
    struct arena *arena; /* owned: all of the above */
};

/* NULL: no memory. */
const struct typed_proto *typed_proto_of(const struct typed_plan *plan);
void typed_proto_free(struct typed_proto *proto);

/* "int64", as a .proto has it, and "Int64Tensor". */
const char *message_kind_name(enum message_kind kind);
const char *message_tensor_name(enum message_kind kind);
/* Which tensor messages the fields of a message need, by kind. */
void message_tensors(const struct message *message, bool needs[KINDS]);
/* What protobuf itself would call the field in JSON; in the arena, or NULL. */
const char *message_camel(struct arena *arena, const char *name);

/* Field of a number, tried first at *expected, which then is the next one. NULL: there is none. */
static inline const struct message_field *message_find(const struct message *message,
                                                       uint32_t number, uint32_t *expected)
{
    uint32_t low = 0, high = message->count;

    if (LIKELY(*expected < message->count && message->fields[*expected].number == number))
        return &message->fields[(*expected)++];
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (message->fields[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == message->count || message->fields[low].number != number)
        return NULL;
    *expected = low + 1;
    return &message->fields[low];
}

#endif
