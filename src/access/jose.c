/* jose.c - SPDX-License-Identifier: Apache-2.0 */
#include "access/jose.h"

#include <stdlib.h>

#include "base/base64.h"
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

bool jose_decode(struct slice text, uint8_t *out, size_t *ret_size)
{
    *ret_size = base64_decoded(text.size);
    return text.size % 4 != 1 &&
           base64_decode(out, text, BASE64_URL | BASE64_EXACT) == text.size;
}

/* What an object's names are sorted in; one object is done with before the next begins. */
struct look {
    yyjson_val *names[JOSE_NAMES_MAX];
    size_t left; /* names that there may still be */
};

static int by_name(const void *left, const void *right)
{
    yyjson_val *a = *(yyjson_val *const *)left, *b = *(yyjson_val *const *)right;
    size_t a_size = yyjson_get_len(a), b_size = yyjson_get_len(b);

    if (a_size != b_size)
        return a_size < b_size ? -1 : 1;
    return memcmp(yyjson_get_str(a), yyjson_get_str(b), a_size);
}

/* Sorted by insertion while they are few, as in all that is not made to cost us: qsort may ask for memory. */
static void sort(yyjson_val **names, size_t count)
{
    enum { FEW = 12 };

    if (count > FEW) {
        qsort(names, count, sizeof *names, by_name);
        return;
    }
    for (size_t i = 1; i < count; i++)
        for (size_t j = i; j > 0 && by_name(&names[j - 1], &names[j]) > 0; j--) {
            yyjson_val *name = names[j];
            names[j] = names[j - 1];
            names[j - 1] = name;
        }
}

static const char *look_at_names(struct look *look, yyjson_val *object)
{
    size_t index, max, count = 0;
    yyjson_val *name, *member;

    if (yyjson_obj_size(object) > MIN(look->left, (size_t)JOSE_NAMES_MAX))
        return "there are too many names";
    look->left -= yyjson_obj_size(object);
    yyjson_obj_foreach(object, index, max, name, member) look->names[count++] = name;
    sort(look->names, count);
    for (size_t i = 1; i < count; i++)
        if (by_name(&look->names[i - 1], &look->names[i]) == 0)
            return "an object has the same name twice";
    return NULL;
}

static const char *look_at(struct look *look, yyjson_val *value, unsigned depth)
{
    size_t index, max;
    yyjson_val *name, *member;
    const char *why = NULL;

    if (depth > JOSE_DEPTH_MAX)
        return "values lie too deep within values";
    if (yyjson_is_arr(value)) {
        yyjson_arr_foreach(value, index, max, member)
        {
            if (yyjson_is_ctn(member) && (why = look_at(look, member, depth + 1)) != NULL)
                return why;
        }
        return NULL;
    }
    if (!yyjson_is_obj(value))
        return NULL;
    why = look_at_names(look, value);
    if (why != NULL)
        return why;
    yyjson_obj_foreach(value, index, max, name, member)
    {
        if (yyjson_is_ctn(member) && (why = look_at(look, member, depth + 1)) != NULL)
            return why;
    }
    return NULL;
}

const char *jose_flaw(yyjson_doc *doc, size_t names_max)
{
    struct look look;

    look.left = names_max;
    return look_at(&look, yyjson_doc_get_root(doc), 0);
}

yyjson_doc *jose_read(struct slice json, const char *what, struct err *err)
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
    if (yyjson_is_obj(yyjson_doc_get_root(doc)))
        return doc;
    err_set(err, E_INVALID, "%s: it is not an object", what);
    yyjson_doc_free(doc);
    return NULL;
}

yyjson_doc *jose_object(struct slice json, size_t names_max, const char *what, struct err *err)
{
    yyjson_doc *doc = jose_read(json, what, err);
    const char *why = doc == NULL ? NULL : jose_flaw(doc, names_max);

    if (why == NULL)
        return doc;
    err_set(err, E_INVALID, "%s: %s", what, why);
    yyjson_doc_free(doc);
    return NULL;
}

bool jose_has_once(yyjson_val *object, const char *name)
{
    size_t index, max, size = strlen(name), count = 0;
    yyjson_val *key, *member;

    yyjson_obj_foreach(object, index, max, key, member) count += yyjson_equals_strn(key, name, size);
    return count == 1;
}

struct slice jose_text(yyjson_val *object, const char *name)
{
    yyjson_val *value = yyjson_obj_get(object, name);
    const char *text = yyjson_get_str(value);

    if (text == NULL || memchr(text, 0, yyjson_get_len(value)) != NULL)
        return slice_make(NULL, 0);
    return slice_make(text, yyjson_get_len(value));
}
