/* accept.c - SPDX-License-Identifier: Apache-2.0 */
#include "codec/accept.h"

/* Takes what stands before the next `byte` from *rest, and that byte. */
static struct slice cut(struct slice *rest, uint8_t byte)
{
    size_t at = slice_find(*rest, byte);
    struct slice part = slice_first(*rest, at);

    *rest = slice_skip(*rest, MIN(at + 1, rest->size));
    return slice_trim(part);
}

/* "0" or "1" and up to three decimals. */
static int weight_of(struct slice text)
{
    int value = 0;

    if (text.size == 0 || text.size > 5 || (text.data[0] != '0' && text.data[0] != '1') ||
        (text.size > 1 && text.data[1] != '.'))
        return -1;
    for (size_t i = 0, unit = ACCEPT_WEIGHT_ONE; i < text.size; i++) {
        if (i == 1)
            continue;
        if (text.data[i] < '0' || text.data[i] > '9')
            return -1;
        value += (text.data[i] - '0') * (int)unit;
        unit /= 10;
    }
    return value > ACCEPT_WEIGHT_ONE ? -1 : value;
}

struct slice accept_parameter(struct slice parameters, const char *name)
{
    struct slice found = { 0 };

    while (parameters.size > 0) {
        struct slice value = cut(&parameters, ';'), key = cut(&value, '=');
        value = slice_trim(value);
        if (value.size >= 2 && value.data[0] == '"' && value.data[value.size - 1] == '"')
            value = slice_first(slice_skip(value, 1), value.size - 2);
        if (slice_is_nocase(key, name))
            found = value.data == NULL ? slice_of("") : value;
    }
    return found;
}

bool accept_next(struct slice *list, struct accept_range *ret)
{
    if (list->size == 0)
        return false;
    ret->parameters = cut(list, ',');
    ret->name = cut(&ret->parameters, ';');
    struct slice weight = accept_parameter(ret->parameters, "q");
    ret->weight = weight.data == NULL ? ACCEPT_WEIGHT_ONE : weight_of(weight);
    return true;
}
