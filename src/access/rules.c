/* rules.c - from the text of --access to rules. SPDX-License-Identifier: Apache-2.0
 *
 * The whole file is read into a tree first, and only what is wholly good is handed over: nothing is
 * applied while reading but the names of tenants, which are only ever added to.
 *
 * Rules add up: a caller may do what any rule lets it. So their order means nothing, nothing can take back
 * what another line gave, and who looks for the reason of a right finds it in one line.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <nettle/sha2.h>

#include "access/internal.h"
#include "access/yaml_tree.h"
#include "base/arena.h"
#include "base/mem.h"
#include "model/nearest.h"

const char *const access_rights[ACCESS_ADMIN + 1] = { "open", "read", "infer", "admin" };

/* docs/access.md has a line of each. A route of a group that is not here is found by a test. */
const char *const access_groups[] = {
    "server", "models", "v2", "events", "metrics", "test", NULL,
};

enum { PATH_MAX_BYTES = 120, SKEW_S_MAX = 3600, SKEW_S = 60, TOKEN_BYTES = 8192, WEIGHT_MAX = 1000 };

struct reader {
    struct arena *arena;
    struct tenants *tenants;
    struct rules *rules;
    struct rules_read *out;
    const struct yaml_node *root;
    uint32_t words; /* of all lists of rules */
    struct err *err;
};

static enum err_code no_memory(struct reader *r)
{
    return err_set(r->err, E_EXHAUSTED, "no memory for the rules");
}

uint32_t group_bit(struct slice group)
{
    for (uint32_t i = 0; access_groups[i] != NULL; i++)
        if (slice_is(group, access_groups[i]))
            return UINT32_C(1) << i;
    return 0;
}

bool pattern_fits(const char *pattern, struct slice text)
{
    const char *star = NULL;
    size_t at = 0, from = 0;

    /* The last star takes one byte more each time that what follows does not fit. */
    while (at < text.size) {
        if (*pattern == '*') {
            star = ++pattern;
            from = at;
        } else if ((uint8_t)*pattern == text.data[at] && *pattern != '\0') {
            pattern++;
            at++;
        } else if (star != NULL) {
            pattern = star;
            at = ++from;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

/* -- what values are --------------------------------------------------------------------------- */

static const char *path_of(char out[PATH_MAX_BYTES], const char *format, ...) PRINTF_LIKE(2, 3);

static const char *path_of(char out[PATH_MAX_BYTES], const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(out, PATH_MAX_BYTES, format, args);
    va_end(args);
    return out;
}

/* Every key is one of `names` (ends with NULL). */
static enum err_code check_keys(struct reader *r, const struct yaml_node *node, const char *path,
                                const char *const *names)
{
    char all[400] = "";
    size_t size = 0;

    if (node->kind != YAML_MAP)
        return yaml_fail(node, r->err, "%s is expected to be a mapping (key: value)", path);
    for (const struct yaml_node *child = node->child; child != NULL; child = child->next) {
        struct nearest nearest = nearest_to(child->key);
        bool is_known = false;
        for (uint32_t i = 0; names[i] != NULL && !is_known; i++) {
            is_known = slice_is(child->key, names[i]);
            nearest_offer(&nearest, names[i]);
        }
        if (is_known)
            continue;
        const char *best = nearest_best(&nearest);
        for (uint32_t i = 0; names[i] != NULL && size < sizeof all; i++)
            size += (size_t)snprintf(all + size, sizeof all - size, "%s%s", i == 0 ? "" : ", ",
                                     names[i]);
        if (best != NULL)
            return yaml_fail(child, r->err, "%s has no '%.*s'; did you mean '%s'?", path,
                             SLICE_ARG(slice_first(child->key, 60)), best);
        return yaml_fail(child, r->err, "%s has no '%.*s'; it has %s", path,
                         SLICE_ARG(slice_first(child->key, 60)), all);
    }
    return OK;
}

/* A text without control bytes, of 1..max bytes. */
static enum err_code read_text(struct reader *r, const struct yaml_node *node, const char *path,
                               size_t max, const char **ret)
{
    if (node->kind != YAML_TEXT || yaml_is_null(node))
        return yaml_fail(node, r->err, "%s is expected to be a text", path);
    if (node->text.size > max)
        return yaml_fail(node, r->err, "%s has %zu bytes; the most is %zu", path, node->text.size,
                         max);
    for (size_t i = 0; i < node->text.size; i++)
        if (node->text.data[i] < 0x20 || node->text.data[i] == 0x7f)
            return yaml_fail(node, r->err, "%s holds a control byte", path);
    if (node->text.size == 0)
        return yaml_fail(node, r->err, "%s is empty", path);
    *ret = (const char *)node->text.data;
    return OK;
}

static enum err_code need(struct reader *r, const struct yaml_node *map, const char *path,
                          const char *key, const struct yaml_node **ret)
{
    *ret = yaml_member(map, key);
    return *ret != NULL ? OK : yaml_fail(map, r->err, "%s: '%s' is missing", path, key);
}

bool access_is_name(const char *name)
{
    return strcmp(name, "anonymous") != 0 && strchr(name, '*') == NULL &&
           strncmp(name, "tenant:", 7) != 0;
}

/* A name that somebody may bear: none that rules have a meaning for. */
static enum err_code check_name(struct reader *r, const struct yaml_node *node, const char *path,
                                const char *name)
{
    if (!access_is_name(name))
        return yaml_fail(node, r->err,
                         "%s is '%.60s'; 'anonymous', names with '*' and names that begin with "
                         "'tenant:' mean others than one caller",
                         path, name);
    return OK;
}

/* What stands there, for an error. */
static const char *shown(const struct yaml_node *node)
{
    return node->kind == YAML_TEXT  ? (const char *)node->text.data
           : node->kind == YAML_LIST ? "a list"
                                     : "a mapping";
}

static enum err_code read_number(struct reader *r, const struct yaml_node *node, const char *path,
                                 double least, double most, bool is_whole, double *ret)
{
    char *end = NULL;
    double value = 0;

    if (node->kind == YAML_TEXT && node->is_plain && node->text.size > 0 && node->text.size < 24 &&
        strspn((const char *)node->text.data, "0123456789.") == node->text.size)
        value = strtod((const char *)node->text.data, &end);
    if (end == NULL || *end != '\0' || !(value >= least && value <= most) ||
        (is_whole && value != floor(value)))
        return yaml_fail(node, r->err, "%s is '%.40s'; it is expected to be a %snumber from %.15g to %.15g",
                         path, shown(node), is_whole ? "whole " : "", least, most);
    *ret = value;
    return OK;
}

struct unit {
    const char *name;
    uint64_t factor;
};

/* "64MiB", "90s": a whole number and a unit; without a unit of factor 1 one must stand there. `wanted`: in
 * words. */
static enum err_code read_quantity(struct reader *r, const struct yaml_node *node, const char *path,
                                   const struct unit *units, uint64_t most, const char *wanted,
                                   uint64_t *ret)
{
    struct slice text = node->text;
    uint64_t number = 0, factor = 0;
    size_t digits = 0;

    while (node->kind == YAML_TEXT && digits < text.size && text.data[digits] >= '0' &&
           text.data[digits] <= '9')
        digits++;
    for (const struct unit *unit = units; unit->name != NULL; unit++)
        if (slice_is(slice_skip(text, digits), unit->name))
            factor = unit->factor;
    if (node->kind != YAML_TEXT || factor == 0 || !slice_to_u64(slice_first(text, digits), &number) ||
        number > most / factor)
        return yaml_fail(node, r->err, "%s is '%.40s'; it is expected to be %s", path, shown(node),
                         wanted);
    *ret = number * factor;
    return OK;
}

static const struct unit bytes_units[] = { { "", 1 },
                                           { "KiB", UINT64_C(1) << 10 },
                                           { "MiB", UINT64_C(1) << 20 },
                                           { "GiB", UINT64_C(1) << 30 },
                                           { "TiB", UINT64_C(1) << 40 },
                                           { NULL, 0 } };
static const struct unit seconds_units[] = { { "s", 1 }, { "m", 60 }, { "h", 3600 }, { NULL, 0 } };

static bool read_digits(const char **at, unsigned count, int *ret)
{
    *ret = 0;
    for (unsigned i = 0; i < count; i++, (*at)++) {
        if (**at < '0' || **at > '9')
            return false;
        *ret = *ret * 10 + (**at - '0');
    }
    return true;
}

/* "2027-01-31" (until that day begins, UTC) or RFC 3339 with Z: "2027-01-31T12:00:00Z". */
static bool parse_time(const char *text, uint64_t *ret_s)
{
    struct tm tm = { 0 }, same;
    const char *at = text;

    if (!read_digits(&at, 4, &tm.tm_year) || *at++ != '-' || !read_digits(&at, 2, &tm.tm_mon) ||
        *at++ != '-' || !read_digits(&at, 2, &tm.tm_mday))
        return false;
    if (*at == 'T' || *at == ' ') {
        at++;
        if (!read_digits(&at, 2, &tm.tm_hour) || *at++ != ':' || !read_digits(&at, 2, &tm.tm_min) ||
            *at++ != ':' || !read_digits(&at, 2, &tm.tm_sec) || *at++ != 'Z')
            return false;
    }
    if (*at != '\0' || tm.tm_year < 1970)
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    same = tm;
    time_t s = timegm(&tm);
    /* timegm makes the 31st of April the first of May. */
    if (s < 0 || tm.tm_mon != same.tm_mon || tm.tm_mday != same.tm_mday ||
        tm.tm_hour != same.tm_hour || tm.tm_min != same.tm_min || tm.tm_sec != same.tm_sec)
        return false;
    *ret_s = (uint64_t)s;
    return true;
}

bool access_read_expiry(const char *text, uint64_t *ret_s)
{
    if (strcmp(text, "never") != 0)
        return parse_time(text, ret_s);
    *ret_s = UINT64_MAX;
    return true;
}

static enum err_code read_time(struct reader *r, const struct yaml_node *node, const char *path,
                               uint64_t *ret_s)
{
    if (node->kind != YAML_TEXT || !access_read_expiry((const char *)node->text.data, ret_s))
        return yaml_fail(node, r->err, "%s is '%.40s'; it is expected to be " ACCESS_EXPIRY_FORMS, path,
                         shown(node));
    return OK;
}

/* The i-th of a list, or the value itself where it stands alone. */
static uint32_t items_of(const struct yaml_node *node)
{
    return node->kind == YAML_LIST ? node->count : 1;
}

static const struct yaml_node *first_item(const struct yaml_node *node)
{
    return node->kind == YAML_LIST ? node->child : node;
}

static const struct yaml_node *next_item(const struct yaml_node *list, const struct yaml_node *item)
{
    return list->kind == YAML_LIST ? item->next : NULL;
}

/* -- tenants ----------------------------------------------------------------------------------- */

static struct tenant *find_tenant(const struct reader *r, struct slice name)
{
    for (uint32_t i = 0; i < r->out->wishes_count; i++)
        if (slice_is(name, r->out->wishes[i].tenant->name))
            return r->out->wishes[i].tenant;
    return NULL;
}

static enum err_code make_tenant(struct reader *r, const struct yaml_node *node, const char *name,
                                 struct tenant **ret)
{
    struct tenants *tenants = r->tenants;

    for (uint32_t i = 0; i < tenants->count; i++)
        if (strcmp(tenants->all[i]->name, name) == 0) {
            *ret = tenants->all[i];
            return OK;
        }
    if (tenants->count == TENANTS_MAX)
        return yaml_fail(node, r->err,
                         "more than %d tenants have had a name since the server started; start it "
                         "again to forget those that are gone",
                         TENANTS_MAX);
    struct tenant *tenant = tenant_new(name, tenants->count, tenants->parent);
    if (tenant == NULL)
        return no_memory(r);
    *ret = tenants->all[tenants->count] = tenant;
    atomic_fetch_add_explicit(&tenants->count, 1, memory_order_release); /* for whoever reads all of them */
    return OK;
}

static enum err_code read_limits(struct reader *r, const struct yaml_node *node, const char *path,
                                 struct tenant_limits *ret)
{
    static const char *const names[] = { "rate", "burst", "concurrency", "bytes", "weight", NULL };
    char where[PATH_MAX_BYTES];
    const struct yaml_node *value;
    double number = 0;

    *ret = (struct tenant_limits){ .weight = 1 };
    if (yaml_is_null(node))
        return OK;
    TRY(check_keys(r, node, path, names));
    if ((value = yaml_member(node, "rate")) != NULL)
        TRY(read_number(r, value, path_of(where, "%s.rate", path), 0.001, 1e7, false, &ret->rate));
    if ((value = yaml_member(node, "burst")) != NULL) {
        path_of(where, "%s.burst", path);
        if (ret->rate <= 0)
            return yaml_fail(value, r->err, "%s: a burst needs a rate", where);
        TRY(read_number(r, value, where, 1, 1e6, true, &number));
        ret->burst = (uint64_t)number;
    }
    if ((value = yaml_member(node, "concurrency")) != NULL) {
        TRY(read_number(r, value, path_of(where, "%s.concurrency", path), 1, 1e6, true, &number));
        ret->concurrency = (uint64_t)number;
    }
    if ((value = yaml_member(node, "bytes")) != NULL) {
        path_of(where, "%s.bytes", path);
        TRY(read_quantity(r, value, where, bytes_units, UINT64_C(1) << 44,
                          "a number and KiB, MiB, GiB or TiB, as 64MiB, and at most 16TiB", &ret->bytes));
        if (ret->bytes < 4096)
            return yaml_fail(value, r->err, "%s is %llu; the least is 4KiB", where,
                             (unsigned long long)ret->bytes);
    }
    if ((value = yaml_member(node, "weight")) != NULL) {
        TRY(read_number(r, value, path_of(where, "%s.weight", path), 1, WEIGHT_MAX, true, &number));
        ret->weight = (uint32_t)number;
    }
    return OK;
}

static enum err_code read_tenants(struct reader *r, const struct yaml_node *node)
{
    static const struct tenant_limits no_limits = { .weight = 1 };
    uint32_t count = node == NULL || yaml_is_null(node) ? 0 : node->count, made = 1;
    char where[PATH_MAX_BYTES];

    r->out->wishes = arena_zalloc(r->arena, (count + 1) * sizeof *r->out->wishes);
    if (r->out->wishes == NULL)
        return no_memory(r);
    r->out->wishes[0] = (struct tenant_wish){ r->tenants->all[0], no_limits };
    if (count > 0 && node->kind != YAML_MAP)
        return yaml_fail(node, r->err, "tenants is expected to be a mapping of names to limits");
    const struct yaml_node *child = count == 0 ? NULL : node->child;
    for (; child != NULL; child = child->next) {
        struct tenant_wish wish = { 0 };
        const char *name = NULL;
        struct yaml_node named = { .kind = YAML_TEXT, .line = child->line, .text = child->key };
        TRY(read_text(r, &named, "the name of a tenant", NAME_BYTES_MAX, &name));
        TRY(check_name(r, child, "the name of a tenant", name));
        TRY(make_tenant(r, child, name, &wish.tenant));
        TRY(read_limits(r, child, path_of(where, "tenants.%.60s", name), &wish.limits));
        if (wish.tenant->index == 0) {
            r->out->wishes[0] = wish;
        } else {
            r->out->wishes[made++] = wish;
        }
        r->out->wishes_count = made;
    }
    r->out->wishes_count = made;
    struct tenant **all = arena_zalloc(r->arena, made * sizeof(struct tenant *));
    if (all == NULL)
        return no_memory(r);
    for (uint32_t i = 0; i < made; i++)
        all[i] = r->out->wishes[i].tenant;
    r->rules->tenants = all;
    r->rules->tenants_count = made;
    return OK;
}

/* The tenant that a `tenant:` names; the default one where there is none. */
static enum err_code read_tenant(struct reader *r, const struct yaml_node *node, const char *path,
                                 struct tenant **ret)
{
    const char *name = NULL;

    *ret = r->tenants->all[0];
    if (node == NULL)
        return OK;
    TRY(read_text(r, node, path, NAME_BYTES_MAX, &name));
    struct tenant *found = find_tenant(r, node->text);
    if (found != NULL) {
        *ret = found;
        return OK;
    }
    struct nearest nearest = nearest_to(node->text);
    for (uint32_t i = 0; i < r->out->wishes_count; i++)
        nearest_offer(&nearest, r->out->wishes[i].tenant->name);
    const char *best = nearest_best(&nearest);
    return yaml_fail(node, r->err, "%s: there is no tenant '%.60s' in tenants%s%s%s", path, name,
                     best != NULL ? "; did you mean '" : "", best != NULL ? best : "",
                     best != NULL ? "'?" : "");
}

/* -- keys -------------------------------------------------------------------------------------- */

static bool parse_digest(struct slice text, uint8_t ret[DIGEST_BYTES])
{
    if (text.size != 2 * (size_t)DIGEST_BYTES)
        return false;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        uint8_t digit = c >= '0' && c <= '9'   ? (uint8_t)(c - '0')
                        : c >= 'a' && c <= 'f' ? (uint8_t)(c - 'a' + 10)
                        : c >= 'A' && c <= 'F' ? (uint8_t)(c - 'A' + 10)
                                               : 16;
        if (digit == 16)
            return false;
        ret[i / 2] = (uint8_t)(ret[i / 2] << 4 | digit);
    }
    return true;
}

static int by_digest(const void *a, const void *b)
{
    return memcmp(((const struct key *)a)->digest, ((const struct key *)b)->digest, DIGEST_BYTES);
}

static enum err_code read_key(struct reader *r, const struct yaml_node *node, const char *path,
                              struct key *ret)
{
    static const char *const names[] = { "name", "sha256", "tenant", "expires", NULL };
    char where[PATH_MAX_BYTES];
    const struct yaml_node *value = NULL;

    TRY(check_keys(r, node, path, names));
    ret->line = node->line;
    TRY(need(r, node, path, "name", &value));
    path_of(where, "%s.name", path);
    TRY(read_text(r, value, where, NAME_BYTES_MAX, &ret->name));
    TRY(check_name(r, value, where, ret->name));
    TRY(need(r, node, path, "sha256", &value));
    /* What stands there may be the key itself, by mistake: it is not repeated. */
    if (value->kind == YAML_TEXT && slice_starts(value->text, "penstock_"))
        return yaml_fail(value, r->err,
                         "%s.sha256 is a key itself, and this file takes its SHA-256, so that who reads "
                         "it has no key: `printf %%s KEY | sha256sum`, or the line that `penstock key "
                         "NAME` printed",
                         path);
    if (value->kind != YAML_TEXT || !parse_digest(value->text, ret->digest))
        return yaml_fail(value, r->err,
                         "%s.sha256 is expected to be 64 hexadecimal digits, the SHA-256 of the key; "
                         "`penstock key NAME` makes a key and this line",
                         path);
    TRY(read_tenant(r, yaml_member(node, "tenant"), path_of(where, "%s.tenant", path),
                    &ret->tenant));
    ret->expires_s = UINT64_MAX;
    value = yaml_member(node, "expires");
    return value == NULL ? OK
                         : read_time(r, value, path_of(where, "%s.expires", path), &ret->expires_s);
}

/* A list, or nothing; bounded. */
static enum err_code list_of(struct reader *r, const char *name, uint32_t max,
                             const struct yaml_node **ret, uint32_t *ret_count)
{
    const struct yaml_node *node = yaml_member(r->root, name);

    *ret = NULL;
    *ret_count = 0;
    if (yaml_is_null(node))
        return OK;
    if (node->kind != YAML_LIST)
        return yaml_fail(node, r->err, "%s is expected to be a list (lines that begin with '-')",
                         name);
    if (node->count > max)
        return yaml_fail(node, r->err, "%s has %u entries; the most is %u", name, node->count, max);
    *ret = node->child;
    *ret_count = node->count;
    return OK;
}

static enum err_code read_keys(struct reader *r)
{
    const struct yaml_node *item;
    struct rules *rules = r->rules;
    char path[PATH_MAX_BYTES];
    uint32_t count;

    TRY(list_of(r, "keys", KEYS_MAX, &item, &count));
    rules->keys = arena_zalloc(r->arena, (count + 1) * sizeof *rules->keys);
    if (rules->keys == NULL)
        return no_memory(r);
    for (uint32_t i = 0; i < count; i++, item = item->next)
        TRY(read_key(r, item, path_of(path, "keys[%u]", i), &rules->keys[i]));
    rules->keys_count = count;
    qsort(rules->keys, count, sizeof *rules->keys, by_digest);
    for (uint32_t i = 1; i < count; i++)
        if (by_digest(&rules->keys[i - 1], &rules->keys[i]) == 0)
            return err_set(r->err, E_INVALID,
                           "lines %u and %u have the same sha256 (of '%.60s' and '%.60s'): a key is one "
                           "caller's",
                           MIN(rules->keys[i - 1].line, rules->keys[i].line),
                           MAX(rules->keys[i - 1].line, rules->keys[i].line),
                           rules->keys[i - 1].name, rules->keys[i].name);
    return OK;
}

/* -- issuers of tokens --------------------------------------------------------------------------- */

static enum err_code read_algorithms(struct reader *r, const struct yaml_node *node,
                                     const char *path, uint32_t *ret)
{
    static const struct {
        const char *name;
        enum jwt_algorithm bit;
    } known[] = { { "RS256", JWT_RS256 }, { "ES256", JWT_ES256 }, { "EdDSA", JWT_EDDSA } };

    *ret = JWT_RS256 | JWT_ES256 | JWT_EDDSA;
    if (node == NULL)
        return OK;
    *ret = 0;
    for (const struct yaml_node *item = first_item(node); item != NULL;
         item = next_item(node, item)) {
        uint32_t bit = 0;
        for (size_t i = 0; i < COUNT(known); i++)
            if (item->kind == YAML_TEXT && slice_is(item->text, known[i].name))
                bit = known[i].bit;
        if (bit == 0)
            return yaml_fail(item, r->err, "%s: '%.40s' is not taken; there are RS256, ES256 and EdDSA",
                             path, shown(item));
        *ret |= bit;
    }
    return *ret != 0 ? OK : yaml_fail(node, r->err, "%s is empty", path);
}

static enum err_code read_scopes(struct reader *r, const struct yaml_node *node, const char *path,
                                 struct issuer *ret)
{
    static const char *const names[] = { "claim", "read", "infer", "admin", NULL };
    char where[PATH_MAX_BYTES];
    const struct yaml_node *value;

    if (node == NULL)
        return OK;
    TRY(check_keys(r, node, path, names));
    ret->scope_claim = "scope";
    if ((value = yaml_member(node, "claim")) != NULL)
        TRY(read_text(r, value, path_of(where, "%s.claim", path), NAME_BYTES_MAX,
                      &ret->scope_claim));
    for (int right = ACCESS_READ; right <= ACCESS_ADMIN; right++)
        if ((value = yaml_member(node, access_rights[right])) != NULL)
            TRY(read_text(r, value, path_of(where, "%s.%s", path, access_rights[right]),
                          NAME_BYTES_MAX, &ret->scopes[right]));
    return OK;
}

/* "http://" and a name of this machine, and nothing that only begins so. */
static bool is_this_machine(const char *url)
{
    static const char *const names[] = { "http://127.0.0.1", "http://localhost", "http://[::1]" };

    for (size_t i = 0; i < COUNT(names); i++) {
        size_t size = strlen(names[i]);
        if (strncmp(url, names[i], size) == 0 && (url[size] == ':' || url[size] == '/'))
            return strchr(url, '@') == NULL;
    }
    return false;
}

static enum err_code read_source(struct reader *r, const struct yaml_node *node, const char *path,
                                 struct issuer *ret)
{
    TRY(read_text(r, node, path, 2048, &ret->source));
    if (strstr(ret->source, "://") == NULL)
        return OK;
    ret->is_url = true;
    if (strncmp(ret->source, "https://", 8) != 0 && !is_this_machine(ret->source))
        return yaml_fail(node, r->err,
                         "%s: keys come by https://, from a file, or by http:// from this machine: "
                         "by http:// anybody on the way could put in his own",
                         path);
    return OK;
}

static enum err_code read_audiences(struct reader *r, const struct yaml_node *node,
                                    const char *path, struct issuer *ret)
{
    if (items_of(node) == 0 || items_of(node) > AUDIENCES_MAX)
        return yaml_fail(node, r->err, "%s has %u entries; it takes 1 to %d", path, items_of(node),
                         AUDIENCES_MAX);
    for (const struct yaml_node *item = first_item(node); item != NULL;
         item = next_item(node, item))
        TRY(read_text(r, item, path, PATTERN_BYTES_MAX, &ret->audiences[ret->audiences_count++]));
    return OK;
}

static void add_text(struct sha256_ctx *sha, const char *text)
{
    const char *bytes = text == NULL ? "" : text;

    /* With its end, so that where one text ends and the next begins is part of it. */
    sha256_update(sha, strlen(bytes) + 1, (const uint8_t *)bytes);
}

static void digest_issuer(struct issuer *issuer)
{
    uint64_t numbers[] = { issuer->algorithms, issuer->skew_s, issuer->token_bytes_max,
                           issuer->audiences_count, issuer->tenant->index };
    struct sha256_ctx sha;

    sha256_init(&sha);
    sha256_update(&sha, sizeof numbers, (const uint8_t *)numbers);
    add_text(&sha, issuer->iss);
    add_text(&sha, issuer->source);
    add_text(&sha, issuer->name_claim);
    add_text(&sha, issuer->prefix);
    add_text(&sha, issuer->tenant_claim);
    add_text(&sha, issuer->scope_claim);
    for (uint32_t i = 0; i < issuer->audiences_count; i++)
        add_text(&sha, issuer->audiences[i]);
    for (int right = ACCESS_READ; right <= ACCESS_ADMIN; right++)
        add_text(&sha, issuer->scopes[right]);
    sha256_digest(&sha, DIGEST_BYTES, issuer->digest);
}

static enum err_code read_issuer(struct reader *r, const struct yaml_node *node, const char *path,
                                 struct issuer *ret)
{
    static const char *const names[] = { "issuer", "audience", "keys",   "algorithms",
                                         "name",   "prefix",   "tenant", "tenant_claim",
                                         "skew",   "token_bytes_max", "scopes", NULL };
    char where[PATH_MAX_BYTES];
    const struct yaml_node *value = NULL;

    TRY(check_keys(r, node, path, names));
    TRY(need(r, node, path, "issuer", &value));
    TRY(read_text(r, value, path_of(where, "%s.issuer", path), 1024, &ret->iss));
    TRY(need(r, node, path, "audience", &value));
    TRY(read_audiences(r, value, path_of(where, "%s.audience", path), ret));
    TRY(need(r, node, path, "keys", &value));
    TRY(read_source(r, value, path_of(where, "%s.keys", path), ret));
    TRY(read_algorithms(r, yaml_member(node, "algorithms"), path_of(where, "%s.algorithms", path),
                        &ret->algorithms));
    ret->name_claim = "sub";
    ret->prefix = "";
    if ((value = yaml_member(node, "name")) != NULL)
        TRY(read_text(r, value, path_of(where, "%s.name", path), NAME_BYTES_MAX, &ret->name_claim));
    if ((value = yaml_member(node, "prefix")) != NULL)
        TRY(read_text(r, value, path_of(where, "%s.prefix", path), NAME_BYTES_MAX / 2, &ret->prefix));
    if ((value = yaml_member(node, "tenant_claim")) != NULL)
        TRY(read_text(r, value, path_of(where, "%s.tenant_claim", path), NAME_BYTES_MAX,
                      &ret->tenant_claim));
    TRY(read_tenant(r, yaml_member(node, "tenant"), path_of(where, "%s.tenant", path),
                    &ret->tenant));
    ret->skew_s = SKEW_S;
    if ((value = yaml_member(node, "skew")) != NULL)
        TRY(read_quantity(r, value, path_of(where, "%s.skew", path), seconds_units, SKEW_S_MAX,
                          "a number and s or m, as 60s, and at most 60m", &ret->skew_s));
    ret->token_bytes_max = TOKEN_BYTES;
    if ((value = yaml_member(node, "token_bytes_max")) != NULL)
        TRY(read_quantity(r, value, path_of(where, "%s.token_bytes_max", path), bytes_units, 65536,
                          "bytes, as 8KiB, and at most 64KiB", &ret->token_bytes_max));
    TRY(read_scopes(r, yaml_member(node, "scopes"), path_of(where, "%s.scopes", path), ret));
    digest_issuer(ret);
    return OK;
}

static enum err_code read_issuers(struct reader *r)
{
    const struct yaml_node *item;
    struct rules *rules = r->rules;
    char path[PATH_MAX_BYTES];
    uint32_t count;

    TRY(list_of(r, "issuers", ISSUERS_MAX, &item, &count));
    rules->issuers = arena_zalloc(r->arena, (count + 1) * sizeof *rules->issuers);
    if (rules->issuers == NULL)
        return no_memory(r);
    for (uint32_t i = 0; i < count; i++, item = item->next) {
        TRY(read_issuer(r, item, path_of(path, "issuers[%u]", i), &rules->issuers[i]));
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(rules->issuers[i].iss, rules->issuers[j].iss) == 0)
                return yaml_fail(item, r->err, "%s: the same issuer stands twice", path);
    }
    rules->issuers_count = count;
    return OK;
}

/* -- certificates ------------------------------------------------------------------------------ */

static enum err_code read_certificates(struct reader *r)
{
    static const char *const names[] = { "match", "name", "tenant", NULL };
    const struct yaml_node *item, *value = NULL;
    struct rules *rules = r->rules;
    char path[PATH_MAX_BYTES], where[PATH_MAX_BYTES];
    uint32_t count;

    rules->has_certificates = yaml_member(r->root, "certificates") != NULL;
    TRY(list_of(r, "certificates", CERTIFICATES_MAX, &item, &count));
    rules->certificates = arena_zalloc(r->arena, (count + 1) * sizeof *rules->certificates);
    if (rules->certificates == NULL)
        return no_memory(r);
    for (uint32_t i = 0; i < count; i++, item = item->next) {
        struct certificate_name *c = &rules->certificates[i];
        path_of(path, "certificates[%u]", i);
        TRY(check_keys(r, item, path, names));
        TRY(need(r, item, path, "match", &value));
        TRY(read_text(r, value, path_of(where, "%s.match", path), PATTERN_BYTES_MAX, &c->pattern));
        if (strncmp(c->pattern, "dns:", 4) != 0 && strncmp(c->pattern, "uri:", 4) != 0 &&
            strncmp(c->pattern, "email:", 6) != 0 && strncmp(c->pattern, "ip:", 3) != 0)
            return yaml_fail(value, r->err,
                             "%s is '%.60s'; a name in subjectAltName begins with dns:, uri:, email: or "
                             "ip: here, as dns:client.example",
                             where, c->pattern);
        if ((value = yaml_member(item, "name")) != NULL) {
            path_of(where, "%s.name", path);
            TRY(read_text(r, value, where, NAME_BYTES_MAX, &c->name));
            TRY(check_name(r, value, where, c->name));
        }
        TRY(read_tenant(r, yaml_member(item, "tenant"), path_of(where, "%s.tenant", path),
                        &c->tenant));
    }
    rules->certificates_count = count;
    return OK;
}

/* -- rules --------------------------------------------------------------------------------------- */

static enum err_code count_words(struct reader *r, const struct yaml_node *node, const char *path,
                                 uint32_t *ret)
{
    *ret = items_of(node);
    if (*ret == 0)
        return yaml_fail(node, r->err, "%s is empty", path);
    r->words += *ret;
    if (r->words > WORDS_MAX)
        return yaml_fail(node, r->err, "more than %d words in the lists of all rules", WORDS_MAX);
    return OK;
}

/* A name that nobody has is a misspelling where only keys have names; tokens may bring any. */
static enum err_code check_known(struct reader *r, const struct yaml_node *item, const char *path)
{
    struct nearest nearest = nearest_to(item->text);
    const struct rules *rules = r->rules;

    if (rules->issuers_count > 0)
        return OK;
    for (uint32_t i = 0; i < rules->certificates_count; i++)
        if (rules->certificates[i].name == NULL
                ? pattern_fits(rules->certificates[i].pattern, item->text)
                : slice_is(item->text, rules->certificates[i].name))
            return OK;
    for (uint32_t i = 0; i < rules->keys_count; i++) {
        if (slice_is(item->text, rules->keys[i].name))
            return OK;
        nearest_offer(&nearest, rules->keys[i].name);
    }
    nearest_offer(&nearest, "anonymous");
    const char *best = nearest_best(&nearest);
    if (best != NULL)
        return yaml_fail(item, r->err, "%s: nobody is called '%.60s'; did you mean '%s'?", path,
                         (const char *)item->text.data, best);
    return yaml_fail(item, r->err,
                     "%s: nobody is called '%.60s'; it takes names of keys, tenant:NAME, \"*\" (everybody "
                     "who has a name) and anonymous (who shows nothing)%s",
                     path, (const char *)item->text.data,
                     rules->certificates_count == 0
                         ? ""
                         : "; a certificate's name has its kind before it, as in "
                           "uri:spiffe://example/x");
}

static enum err_code read_one_who(struct reader *r, const struct yaml_node *item, const char *path,
                                  struct who *ret)
{
    const char *text = NULL;

    TRY(read_text(r, item, path, NAME_BYTES_MAX + 7, &text));
    if (strcmp(text, "anonymous") == 0) {
        ret->kind = WHO_ANONYMOUS;
    } else if (strcmp(text, "*") == 0) {
        ret->kind = WHO_NAMED;
    } else if (strncmp(text, "tenant:", 7) == 0) {
        struct slice name = slice_skip(item->text, 7);
        struct yaml_node named = { .kind = YAML_TEXT, .line = item->line, .text = name };
        struct tenant *tenant = NULL;
        TRY(read_tenant(r, &named, path, &tenant));
        *ret = (struct who){ WHO_TENANT, tenant->name };
    } else {
        if (strchr(text, '*') != NULL)
            return yaml_fail(item, r->err, "%s: names have no patterns here; '*' alone is everybody "
                             "with a name", path);
        TRY(check_known(r, item, path));
        *ret = (struct who){ WHO_NAME, text };
    }
    return OK;
}

static enum err_code read_who(struct reader *r, const struct yaml_node *node, const char *path,
                              struct rule *ret)
{
    uint32_t count = 0;

    TRY(count_words(r, node, path, &count));
    struct who *who = arena_zalloc(r->arena, count * sizeof *who);
    if (who == NULL)
        return no_memory(r);
    for (const struct yaml_node *item = first_item(node); item != NULL;
         item = next_item(node, item))
        TRY(read_one_who(r, item, path, &who[ret->who_count++]));
    ret->who = who;
    return OK;
}

static enum err_code read_may(struct reader *r, const struct yaml_node *node, const char *path,
                              uint32_t *ret)
{
    uint32_t count = 0;

    TRY(count_words(r, node, path, &count));
    for (const struct yaml_node *item = first_item(node); item != NULL;
         item = next_item(node, item)) {
        uint32_t bit = 0;
        for (int right = ACCESS_READ; right <= ACCESS_ADMIN; right++)
            if (item->kind == YAML_TEXT && slice_is(item->text, access_rights[right]))
                bit = UINT32_C(1) << right;
        if (bit == 0) {
            struct nearest nearest = nearest_to(slice_of(shown(item)));
            for (int right = ACCESS_READ; right <= ACCESS_ADMIN; right++)
                nearest_offer(&nearest, access_rights[right]);
            const char *best = nearest_best(&nearest);
            return yaml_fail(item, r->err,
                             "%s: there is no right '%.40s'%s%s%s; there are read, infer and admin, and none "
                             "has another in it: [read, infer]",
                             path, shown(item), best != NULL ? ", did you mean '" : "",
                             best != NULL ? best : "", best != NULL ? "'?" : "");
        }
        *ret |= bit;
    }
    return OK;
}

static enum err_code read_groups(struct reader *r, const struct yaml_node *node, const char *path,
                                 uint32_t *ret)
{
    uint32_t count = 0;

    *ret = UINT32_MAX;
    if (node == NULL)
        return OK;
    *ret = 0;
    TRY(count_words(r, node, path, &count));
    for (const struct yaml_node *item = first_item(node); item != NULL;
         item = next_item(node, item)) {
        const char *text = NULL;
        TRY(read_text(r, item, path, NAME_BYTES_MAX, &text));
        uint32_t bit = strcmp(text, "*") == 0 ? UINT32_MAX : group_bit(item->text);
        if (bit == 0) {
            struct nearest nearest = nearest_to(item->text);
            for (uint32_t i = 0; access_groups[i] != NULL; i++)
                nearest_offer(&nearest, access_groups[i]);
            const char *best = nearest_best(&nearest);
            return yaml_fail(item, r->err,
                             "%s: there is no group '%.60s'%s%s%s; docs/access.md lists them", path,
                             text, best != NULL ? ", did you mean '" : "", best != NULL ? best : "",
                             best != NULL ? "'?" : "");
        }
        *ret |= bit;
    }
    return OK;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static enum err_code read_models(struct reader *r, const struct yaml_node *node, const char *path,
                                 struct rule *ret)
{
    uint32_t count = 0;

    ret->is_any_model = node == NULL;
    if (node == NULL)
        return OK;
    TRY(count_words(r, node, path, &count));
    const char **literals = arena_zalloc(r->arena, count * sizeof *literals);
    const char **patterns = arena_zalloc(r->arena, count * sizeof *patterns);
    if (literals == NULL || patterns == NULL)
        return no_memory(r);
    for (const struct yaml_node *item = first_item(node); item != NULL;
         item = next_item(node, item)) {
        const char *text = NULL;
        TRY(read_text(r, item, path, PATTERN_BYTES_MAX, &text));
        if (strcmp(text, "*") == 0)
            ret->is_any_model = true;
        else if (strchr(text, '*') != NULL)
            patterns[ret->patterns_count++] = text;
        else
            literals[ret->literals_count++] = text;
    }
    qsort(literals, ret->literals_count, sizeof *literals, by_text);
    ret->literals = literals;
    ret->patterns = patterns;
    return OK;
}

static enum err_code read_rule(struct reader *r, const struct yaml_node *node, const char *path,
                               struct rule *ret)
{
    static const char *const names[] = { "who", "may", "groups", "models", NULL };
    char where[PATH_MAX_BYTES];
    const struct yaml_node *value = NULL;

    TRY(check_keys(r, node, path, names));
    ret->line = node->line;
    TRY(need(r, node, path, "who", &value));
    TRY(read_who(r, value, path_of(where, "%s.who", path), ret));
    TRY(need(r, node, path, "may", &value));
    TRY(read_may(r, value, path_of(where, "%s.may", path), &ret->rights));
    TRY(read_groups(r, yaml_member(node, "groups"), path_of(where, "%s.groups", path),
                    &ret->groups));
    TRY(read_models(r, yaml_member(node, "models"), path_of(where, "%s.models", path), ret));
    /* /metrics tells of all models: a rule for some opens it only where it says so. */
    if (!ret->is_any_model && yaml_member(node, "groups") == NULL)
        ret->groups &= ~group_bit(slice_of("metrics"));
    return OK;
}

static enum err_code read_rules(struct reader *r)
{
    const struct yaml_node *item;
    struct rules *rules = r->rules;
    char path[PATH_MAX_BYTES];
    uint32_t count;

    if (yaml_member(r->root, "rules") == NULL)
        return err_set(r->err, E_INVALID,
                       "there are no rules, so that nobody may do anything; `rules: [{who: \"*\", "
                       "may: [read, infer]}]` lets everybody with a name read and infer");
    TRY(list_of(r, "rules", RULES_MAX, &item, &count));
    rules->rules = arena_zalloc(r->arena, (count + 1) * sizeof *rules->rules);
    if (rules->rules == NULL)
        return no_memory(r);
    for (uint32_t i = 0; i < count; i++, item = item->next)
        TRY(read_rule(r, item, path_of(path, "rules[%u]", i), &rules->rules[i]));
    rules->rules_count = count;
    return OK;
}

/* -- the whole ----------------------------------------------------------------------------------- */

static enum err_code read_all(struct reader *r, struct slice yaml)
{
    static const char *const names[] = { "keys",    "issuers", "certificates",
                                         "tenants", "rules",   NULL };
    struct yaml_node *root = NULL;
    struct rules *rules = r->rules;

    TRY(yaml_tree(&root, r->arena, yaml, r->err));
    if (yaml_is_null(root))
        return err_set(r->err, E_INVALID,
                       "the file is empty, so that nobody may do anything; docs/access.md begins "
                       "with one that works");
    TRY(check_keys(r, root, "the file", names));
    r->root = root;
    TRY(read_tenants(r, yaml_member(root, "tenants")));
    TRY(read_keys(r));
    TRY(read_issuers(r));
    TRY(read_certificates(r));
    TRY(read_rules(r));
    rules->can_name =
        rules->keys_count > 0 || rules->issuers_count > 0 || rules->certificates_count > 0;
    return OK;
}

enum err_code rules_read_yaml(struct rules_read *ret, struct tenants *tenants, struct slice yaml,
                              const char *what, struct err *err)
{
    CLEANUP(rules_unref) struct rules *rules = mem_zalloc(sizeof *rules);

    *ret = (struct rules_read){ 0 };
    if (rules == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the rules");
    atomic_init(&rules->refs, 1);
    rules->arena = arena_new(16 << 10, 256u << 20);
    if (rules->arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the rules");
    if (yaml.size > FILE_BYTES_MAX)
        return err_set(err, E_INVALID, "%s has %zu bytes; the most is %d", what, yaml.size,
                       FILE_BYTES_MAX);
    struct reader r = { .arena = rules->arena,
                        .tenants = tenants,
                        .rules = rules,
                        .out = ret,
                        .err = err };
    if (read_all(&r, yaml) != OK)
        return err_wrap(err, "%s", what);
    ret->rules = TAKE(rules);
    return OK;
}

void rules_unref(struct rules **slot)
{
    struct rules *rules = TAKE(*slot);

    if (rules == NULL || atomic_fetch_sub_explicit(&rules->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < rules->issuers_count; i++)
        jwks_unref(&rules->issuers[i].jwks);
    arena_free(&rules->arena);
    mem_free(rules);
}
