/* jose.c - SPDX-License-Identifier: Apache-2.0 */
#include "access/jose.h"

#include "base/mem.h"

static void *json_alloc(void *context UNUSED, size_t size)
{
    return mem_alloc(size);
}

static void *json_resize(void *context UNUSED, void *old, size_t old_size UNUSED, size_t size)
{
    return mem_resize(old, size);
}

static void json_free(void *context UNUSED, void *memory)
{
    mem_free(memory);
}

static const yyjson_alc json_heap = { json_alloc, json_resize, json_free, NULL };

static int letter(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

bool jose_decode(struct slice text, uint8_t *out, size_t *ret_size)
{
    uint32_t bits = 0, held = 0;
    size_t size = 0;

    if (text.size % 4 == 1)
        return false;
    for (size_t i = 0; i < text.size; i++) {
        int value = letter(text.data[i]);
        if (value < 0)
            return false;
        bits = bits << 6 | (uint32_t)value;
        held += 6;
        if (held >= 8) {
            held -= 8;
            out[size++] = (uint8_t)(bits >> held);
            bits &= (1u << held) - 1;
        }
    }
    *ret_size = size;
    return bits == 0;
}

/* Each object's names are compared pair by pair; those of tokens have ten, of key sets a handful. */
enum { NAMES_MAX = 200 };

static const char *find_double(yyjson_val *value, unsigned depth)
{
    size_t index, max;
    yyjson_val *name, *member;

    if (depth > JOSE_DEPTH_MAX)
        return "values lie too deep within values";
    if (yyjson_is_arr(value)) {
        yyjson_arr_foreach(value, index, max, member)
        {
            const char *why = find_double(member, depth + 1);
            if (why != NULL)
                return why;
        }
        return NULL;
    }
    if (!yyjson_is_obj(value))
        return NULL;
    if (yyjson_obj_size(value) > NAMES_MAX)
        return "an object has more than 200 names";
    yyjson_obj_foreach(value, index, max, name, member)
    {
        size_t other_index, other_max;
        yyjson_val *other, *other_member;
        yyjson_obj_foreach(value, other_index, other_max, other, other_member)
        {
            if (other_index >= index)
                break;
            if (yyjson_equals_strn(other, yyjson_get_str(name), yyjson_get_len(name)))
                return "an object has the same name twice";
        }
        const char *why = find_double(member, depth + 1);
        if (why != NULL)
            return why;
    }
    return NULL;
}

yyjson_doc *jose_object(struct slice json, const char *what, struct err *err)
{
    yyjson_read_err failed = { 0 };
    /* It is not changed without YYJSON_READ_INSITU. */
    yyjson_doc *doc =
        yyjson_read_opts((char *)(uintptr_t)json.data, json.size, 0, &json_heap, &failed);

    if (doc == NULL && failed.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION) {
        err_set(err, E_EXHAUSTED, "no memory for %s", what);
        return NULL;
    }
    if (doc == NULL) {
        err_set(err, E_INVALID, "%s is not JSON: %s at byte %zu", what, failed.msg, failed.pos + 1);
        return NULL;
    }
    const char *why = yyjson_is_obj(yyjson_doc_get_root(doc))
                          ? find_double(yyjson_doc_get_root(doc), 0)
                          : "it is not an object";
    if (why == NULL)
        return doc;
    err_set(err, E_INVALID, "%s: %s", what, why);
    yyjson_doc_free(doc);
    return NULL;
}

struct slice jose_text(yyjson_val *object, const char *name)
{
    yyjson_val *value = yyjson_obj_get(object, name);
    const char *text = yyjson_get_str(value);

    if (text == NULL || memchr(text, 0, yyjson_get_len(value)) != NULL)
        return slice_make(NULL, 0);
    return slice_make(text, yyjson_get_len(value));
}
