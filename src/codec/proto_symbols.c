/* proto_symbols.c - what a serialised FileDescriptorProto defines, by walking its bytes.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A full name is the package, then the names of the messages around, then its own, with dots
 * between: so the walk takes a name off the front of the symbol at each step down, and goes only
 * where that is possible. Values of an enum are beside it, not in it (as in C++).
 */
#include "base/pb.h"
#include "codec/proto.h"

/* Fields of google.protobuf.FileDescriptorProto and of what it holds. */
enum {
    FILE_PACKAGE = 2,
    FILE_MESSAGE = 4,
    FILE_ENUM = 5,
    FILE_SERVICE = 6,
    FILE_EXTENSION = 7,
    MESSAGE_FIELD = 2,
    MESSAGE_NESTED = 3,
    MESSAGE_ENUM = 4,
    MESSAGE_EXTENSION = 6,
    MESSAGE_ONEOF = 8,
    ENUM_VALUE = 2,
    SERVICE_METHOD = 2,
    NAME = 1, /* of all but files */
};

/* The last field of that number; empty when there is none. */
static struct slice field_of(struct slice message, uint32_t number)
{
    struct slice found = slice_make("", 0);
    struct pb_reader reader;
    struct pb_field field;

    pb_begin(&reader, message);
    while (pb_next(&reader, &field))
        if (field.number == number && field.wire == PB_LEN)
            found = field.bytes;
    return found;
}

/* Takes `name` and the dot behind it off the symbol; false: it does not begin so. An empty *symbol
 * says that it was the name itself. */
static bool take_name(struct slice *symbol, struct slice name)
{
    if (name.size == 0 || symbol->size < name.size ||
        memcmp(symbol->data, name.data, name.size) != 0)
        return false;
    if (symbol->size == name.size) {
        *symbol = slice_make("", 0);
        return true;
    }
    if (symbol->data[name.size] != '.' || symbol->size == name.size + 1)
        return false;
    *symbol = slice_skip(*symbol, name.size + 1);
    return true;
}

static bool is_name_of(struct slice declared, struct slice symbol)
{
    return slice_eq(field_of(declared, NAME), symbol);
}

/* Does a field of that number in `holder` have the name? */
static bool has_named(struct slice holder, uint32_t number, struct slice symbol)
{
    struct pb_reader reader;
    struct pb_field field;

    pb_begin(&reader, holder);
    while (pb_next(&reader, &field))
        if (field.number == number && field.wire == PB_LEN && is_name_of(field.bytes, symbol))
            return true;
    return false;
}

static bool enum_defines(struct slice declared, struct slice symbol)
{
    return is_name_of(declared, symbol) || has_named(declared, ENUM_VALUE, symbol);
}

static bool service_defines(struct slice declared, struct slice symbol)
{
    return take_name(&symbol, field_of(declared, NAME)) &&
           (symbol.size == 0 || has_named(declared, SERVICE_METHOD, symbol));
}

static bool message_defines(struct slice declared, struct slice symbol, unsigned depth)
{
    struct pb_reader reader;
    struct pb_field field;

    if (depth == 0 || !take_name(&symbol, field_of(declared, NAME)))
        return false;
    if (symbol.size == 0)
        return true;
    pb_begin(&reader, declared);
    while (pb_next(&reader, &field)) {
        if (field.wire != PB_LEN)
            continue;
        bool is_found = false;
        switch (field.number) {
        case MESSAGE_FIELD:
        case MESSAGE_EXTENSION:
        case MESSAGE_ONEOF: is_found = is_name_of(field.bytes, symbol); break;
        case MESSAGE_NESTED: is_found = message_defines(field.bytes, symbol, depth - 1); break;
        case MESSAGE_ENUM: is_found = enum_defines(field.bytes, symbol); break;
        default: break;
        }
        if (is_found)
            return true;
    }
    return false;
}

bool proto_file_defines(struct slice file, struct slice symbol)
{
    struct slice package = field_of(file, FILE_PACKAGE);
    struct pb_reader reader;
    struct pb_field field;

    if ((package.size != 0 && !take_name(&symbol, package)) || symbol.size == 0)
        return false;
    pb_begin(&reader, file);
    while (pb_next(&reader, &field)) {
        if (field.wire != PB_LEN)
            continue;
        bool is_found = false;
        switch (field.number) {
        case FILE_MESSAGE: is_found = message_defines(field.bytes, symbol, PROTO_DEPTH_MAX); break;
        case FILE_ENUM: is_found = enum_defines(field.bytes, symbol); break;
        case FILE_SERVICE: is_found = service_defines(field.bytes, symbol); break;
        case FILE_EXTENSION: is_found = is_name_of(field.bytes, symbol); break;
        default: break;
        }
        if (is_found)
            return true;
    }
    return false;
}
