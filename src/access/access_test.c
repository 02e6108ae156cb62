/* access_test.c - the file, who is found by what it shows, and what that one may do.
 *
 * Keys of tokens are made here by OpenSSL, and tokens signed with them: nothing of jwt.c is used to make
 * what it has to judge.
 */
#include "access/access.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nettle/sha2.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>

#include "access/internal.h"
#include "access/key.h"
#include "access/jwt.h"
#include "base/budget.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "telemetry/metrics.h"
#include "test/harness.h"

#define NOW_S UINT64_C(1800000000)
#define NOW (NOW_S * NS_PER_S)

static char folder[] = "/tmp/penstock-access-XXXXXX";
static char path[128];

static void put_file(const char *name, const char *text)
{
    char where[160];

    if (folder[strlen(folder) - 1] == 'X' && mkdtemp(folder) == NULL)
        abort();
    snprintf(where, sizeof where, "%s/%s", folder, name);
    snprintf(path, sizeof path, "%s/access.yaml", folder);
    int fd = open(where, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        abort();
    close(fd);
}

static const char *digest_text(const char *key)
{
    static char out[4][2 * DIGEST_BYTES + 1];
    static unsigned at;
    uint8_t digest[DIGEST_BYTES];
    struct sha256_ctx sha;
    char *to = out[at++ % 4];

    sha256_init(&sha);
    sha256_update(&sha, strlen(key), (const uint8_t *)key);
    sha256_digest(&sha, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(to + 2 * i, 3, "%02x", digest[i]);
    return to;
}

/* The file of most cases: KEY-A is alice's, KEY-B bob's (expires), KEY-C carol's of tenant research. */
static const char *usual(void)
{
    static char text[4096];

    snprintf(text, sizeof text,
             "keys:\n"
             "  - {name: alice, sha256: %s}\n"
             "  - {name: bob, sha256: %s, expires: 2027-01-15T08:00:01Z}\n"
             "  - {name: carol, sha256: %s, tenant: research}\n"
             "tenants:\n"
             "  research: {rate: 10, burst: 3, concurrency: 2, bytes: 1MiB, weight: 5}\n"
             "rules:\n"
             "  - {who: alice, may: [read, infer], models: [iris, 'spam-*']}\n"
             "  - {who: alice, may: admin, groups: v2}\n"
             "  - {who: 'tenant:research', may: [read, infer], groups: [models], models: 'r-*'}\n"
             "  - {who: '*', may: read, groups: server}\n"
             "  - {who: anonymous, may: read, groups: metrics}\n",
             digest_text("KEY-A"), digest_text("KEY-B"), digest_text("KEY-C"));
    return text;
}

static struct access *open_access(const char *text)
{
    struct access *access = NULL;
    struct err err = { 0 };

    put_file("access.yaml", text);
    enum err_code code = access_new(&access, path, NOW, &err);
    check(code == OK, "%s", err.text);
    return access;
}

static enum err_code find(struct access *access, const char *authorization, const char *api_key,
                          uint64_t now, struct caller **ret, struct err *err)
{
    struct access_credentials c = { 0 };

    if (authorization != NULL) {
        c.authorization = slice_of(authorization);
        c.authorizations = 1;
    }
    if (api_key != NULL) {
        c.api_key = slice_of(api_key);
        c.api_keys = 1;
    }
    return access_identify(access, &c, now, ret, err);
}

static enum err_code may(struct caller *caller, enum access_right right, const char *group,
                         const char *model)
{
    struct err err = { 0 };
    enum err_code code =
        caller_may(caller, right, slice_of(group), slice_of(model), NOW, &err);

    check((code == OK) == (err.text[0] == '\0'), "'%s'", err.text);
    check(code == OK || err.code == code, "%d %d", code, err.code);
    return code;
}

/* -- without a file ------------------------------------------------------------------------------- */

TEST(without_a_file_everybody_reads_and_infers)
{
    struct access *access = NULL;
    struct caller *caller = NULL;
    struct err err = { 0 };

    check_or_stop(access_new(&access, "", NOW, &err) == OK, "%s", err.text);
    for (int i = 0; i < 3; i++) {
        struct access *asked = i == 0 ? NULL : access;
        if (i == 2)
            access_allow_admin(access);
        check_or_stop(find(asked, "Bearer whatever", "twice", NOW, &caller, &err) == OK, "%s",
                      err.text);
        check(caller_is_anonymous(caller) && caller_name(caller)[0] == '\0', "nobody");
        check(caller_tenant(caller) == NULL && !caller_has_rules(caller), "no rules");
        check(may(caller, ACCESS_READ, "v2", "iris") == OK, "read");
        check(may(caller, ACCESS_INFER, "v2", "") == OK, "infer");
        check(may(caller, ACCESS_ADMIN, "v2", "") == (i == 2 ? OK : E_PERMISSION), "admin %d", i);
        caller_unref(&caller);
    }
    check(may(NULL, ACCESS_ADMIN, "v2", "iris") == OK, "the inside of the server");
    check(access_reload(access, NOW, &err) == OK, "nothing to read");
    access_free(&access);
}

/* -- keys ------------------------------------------------------------------------------------------ */

TEST(keys_are_found_in_either_header)
{
    static const struct {
        const char *authorization, *api_key, *name; /* NULL: E_UNAUTHENTICATED */
        const char *why;
    } cases[] = {
        { "Bearer KEY-A", NULL, "alice", NULL },
        { "bearer KEY-A", NULL, "alice", NULL },
        { "BEARER   KEY-A  ", NULL, "alice", NULL },
        { NULL, "KEY-A", "alice", NULL },
        { NULL, " KEY-A ", "alice", NULL },
        { "Bearer KEY-C", NULL, "carol", NULL },
        { NULL, NULL, "", NULL },
        { "KEY-A", NULL, NULL, "names no scheme" },
        { "Basic KEY-A", NULL, NULL, "no other scheme" },
        { "BearerKEY-A", NULL, NULL, "names no scheme" },
        { "Bearer", NULL, NULL, "nothing stands behind" },
        { "Bearer ", NULL, NULL, "nothing stands behind" },
        { "", NULL, NULL, "is empty" },
        { "Bearer KEY-A KEY-A", NULL, NULL, "more than one word" },
        { "Bearer KEY-A,Bearer KEY-C", NULL, NULL, "more than one word" },
        { NULL, "Bearer KEY-A", NULL, "the key alone" },
        { NULL, "", NULL, "is empty" },
        { NULL, "KEY-A,KEY-A", NULL, "the key alone" },
        { "Bearer KEY-A", "KEY-A", NULL, "more than one credential" },
        { "Bearer key-a", NULL, NULL, "not one this server knows" },
        { "Bearer KEY-A.", NULL, NULL, "not one this server knows" },
        { "Bearer a.b.c", NULL, NULL, "not one this server knows" },
        { "Bearer KEY-B", NULL, NULL, "key has expired" },
    };
    struct access *access = open_access(usual());

    if (access == NULL)
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct caller *caller = NULL;
        struct err err = { 0 };
        enum err_code code =
            find(access, cases[i].authorization, cases[i].api_key, NOW + NS_PER_S, &caller, &err);
        check((code == OK) == (cases[i].name != NULL), "case %zu: %s", i, err.text);
        if (code == OK)
            check(strcmp(caller_name(caller), cases[i].name) == 0, "case %zu: %s", i,
                  caller_name(caller));
        else
            check(code == E_UNAUTHENTICATED && strstr(err.text, cases[i].why) != NULL &&
                      strstr(err.text, "KEY-") == NULL,
                  "case %zu: %s", i, err.text);
        caller_unref(&caller);
    }
    struct access_credentials two = { .authorization = slice_of("Bearer KEY-A"),
                                      .authorizations = 2 };
    struct caller *caller = NULL;
    struct err err = { 0 };
    check(access_identify(access, &two, NOW, &caller, &err) == E_UNAUTHENTICATED, "%s", err.text);
    struct access_credentials page = { .bearer = slice_of("KEY-A"), .bearers = 1 };
    check(access_identify(access, &page, NOW, &caller, &err) == OK, "%s", err.text);
    caller_unref(&caller);
    access_free(&access);
}

TEST(a_key_expires_while_it_is_kept_and_while_it_is_used)
{
    struct access *access = open_access(usual());
    struct caller *caller = NULL;
    struct err err = { 0 };

    check_or_stop(access != NULL && find(access, NULL, "KEY-B", NOW, &caller, &err) == OK, "%s",
                  err.text);
    check(caller_may(caller, ACCESS_READ, slice_of("server"), slice_of(""), NOW, &err) == OK, "%s",
          err.text);
    check(caller_may(caller, ACCESS_READ, slice_of("server"), slice_of(""), NOW + NS_PER_S, &err) ==
              E_UNAUTHENTICATED,
          "a second later");
    caller_unref(&caller);
    check(find(access, NULL, "KEY-B", NOW + NS_PER_S, &caller, &err) == E_UNAUTHENTICATED,
          "it was kept");
    access_free(&access);
}

/* -- rules ----------------------------------------------------------------------------------------- */

TEST(rules_add_up)
{
    static const struct {
        const char *key;
        enum access_right right;
        const char *group, *model;
        enum err_code code;
    } cases[] = {
        { "KEY-A", ACCESS_INFER, "v2", "iris", OK },
        { "KEY-A", ACCESS_INFER, "models", "iris", OK },
        { "KEY-A", ACCESS_INFER, "models", "spam-", OK },
        { "KEY-A", ACCESS_INFER, "models", "spam-1/2", OK },
        { "KEY-A", ACCESS_INFER, "models", "spam", E_PERMISSION },
        { "KEY-A", ACCESS_INFER, "models", "Iris", E_PERMISSION },
        { "KEY-A", ACCESS_INFER, "models", "iris2", E_PERMISSION },
        { "KEY-A", ACCESS_INFER, "models", "iri", E_PERMISSION },
        { "KEY-A", ACCESS_INFER, "models", "", OK },
        { "KEY-A", ACCESS_ADMIN, "v2", "anything", OK },
        { "KEY-A", ACCESS_ADMIN, "models", "", E_PERMISSION },
        { "KEY-A", ACCESS_READ, "server", "", OK },
        { "KEY-A", ACCESS_READ, "metrics", "", E_PERMISSION }, /* its rule is for some models */
        { "KEY-A", ACCESS_READ, "no such group", "", E_PERMISSION },
        { "KEY-A", ACCESS_OPEN, "no such group", "", OK },
        { "KEY-C", ACCESS_READ, "models", "r-1", OK },
        { "KEY-C", ACCESS_READ, "v2", "r-1", E_PERMISSION },
        { "KEY-C", ACCESS_READ, "models", "iris", E_PERMISSION },
        { "KEY-C", ACCESS_READ, "server", "", OK },
        { "KEY-C", ACCESS_READ, "metrics", "", E_PERMISSION },
        { NULL, ACCESS_READ, "metrics", "", OK },
        { NULL, ACCESS_READ, "server", "", E_UNAUTHENTICATED },
        { NULL, ACCESS_INFER, "models", "iris", E_UNAUTHENTICATED },
        { NULL, ACCESS_OPEN, "server", "", OK },
    };
    struct access *access = open_access(usual());

    for (size_t i = 0; access != NULL && i < COUNT(cases); i++) {
        struct caller *caller = NULL;
        struct err err = { 0 };
        check_or_stop(find(access, NULL, cases[i].key, NOW, &caller, &err) == OK, "%s", err.text);
        enum err_code code = may(caller, cases[i].right, cases[i].group, cases[i].model);
        check(code == cases[i].code, "case %zu: %d", i, code);
        caller_unref(&caller);
    }
    access_free(&access);
}

TEST(patterns)
{
    static const struct {
        const char *pattern, *text;
        bool fits;
    } cases[] = {
        { "", "", true },          { "*", "", true },         { "*", "anything", true },
        { "a*", "a", true },       { "a*", "b", false },      { "*a", "ba", true },
        { "*a", "ab", false },     { "a*b*c", "aXbYc", true }, { "a*b*c", "abcbc", true },
        { "a*b*c", "abcb", false }, { "**", "x", true },       { "a**b", "ab", true },
        { "ab", "abc", false },    { "abc", "ab", false },    { "*ab*", "xaabx", true },
        { "a.c", "abc", false },   { "[a]", "a", false },     { "?", "a", false },
        { "*.*", "a.b", true },    { "\xc3\xa4*", "\xc3\xa4x", true },
    };

    for (size_t i = 0; i < COUNT(cases); i++)
        check(pattern_fits(cases[i].pattern, slice_of(cases[i].text)) == cases[i].fits, "'%s' '%s'",
              cases[i].pattern, cases[i].text);
    /* Against the obvious recursive one, on few letters. */
    for (unsigned i = 0; i < 20000; i++) {
        char pattern[7] = { 0 }, text[9] = { 0 };
        for (unsigned j = 0; j < test_random_below(7); j++)
            pattern[j] = "ab*"[test_random_below(3)];
        for (unsigned j = 0; j < test_random_below(9); j++)
            text[j] = "ab"[test_random_below(2)];
        bool table[8][10] = { 0 };
        size_t p = strlen(pattern), t = strlen(text);
        for (size_t x = p + 1; x-- > 0;)
            for (size_t y = t + 1; y-- > 0;)
                table[x][y] = x == p           ? y == t
                              : pattern[x] == '*' ? table[x + 1][y] || (y < t && table[x][y + 1])
                                                  : y < t && pattern[x] == text[y] && table[x + 1][y + 1];
        check_or_stop(pattern_fits(pattern, slice_of(text)) == table[0][0], "'%s' '%s'", pattern,
                      text);
    }
}

/* -- what is wrong with a file ------------------------------------------------------------------------- */

#define D64 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define R "rules: []\n"

TEST(what_is_wrong_is_said_with_its_line)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        { "", "the file is empty" },
        { "# nothing\n", "the file is empty" },
        { "keys: []\n", "there are no rules" },
        { "- a\n", "line 1: the file is expected to be a mapping" },
        { R "kees: []\n", "line 2: the file has no 'kees'; did you mean 'keys'?" },
        { R "colour: 1\n", "line 2: the file has no 'colour'; it has keys, issuers" },
        { R "keys:\n  - name: a\n    sha265: b\n", "line 4: keys[0] has no 'sha265'; did you mean 'sha256'" },
        { R "keys: {a: b}\n", "line 2: keys is expected to be a list" },
        { R "keys:\n  - name: a\n", "line 3: keys[0]: 'sha256' is missing" },
        { R "keys:\n  - {name: a, sha256: abc}\n", "line 3: keys[0].sha256 is expected to be 64" },
        { R "keys:\n  - {name: a, sha256: penstock_1JNJ0SwBMRA2wRW6cLicKGUVqhFZBaysJ1qhbr3}\n", "is a key itself" },
        { R "keys:\n  - {name: anonymous, sha256: " D64 "}\n", "line 3: keys[0].name is 'anonymous'" },
        { R "keys:\n  - {name: 'tenant:x', sha256: " D64 "}\n", "mean others than one caller" },
        { R "keys:\n  - {name: 'a*', sha256: " D64 "}\n", "mean others than one caller" },
        { R "keys:\n  - {name: '', sha256: " D64 "}\n", "keys[0].name is empty" },
        { R "keys:\n  - {name: \"a\\x01\", sha256: " D64 "}\n", "control byte" },
        { R "keys:\n  - {name: a, sha256: " D64 ", expires: tomorrow}\n", "expires is 'tomorrow'; it is expected to be a day (2027-01-31" },
        { R "keys:\n  - {name: a, sha256: " D64 ", expires: 2027-02-29}\n", "expires is '2027-02-29'" },
        { R "keys:\n  - {name: a, sha256: " D64 ", expires: 2027-02-28T24:00:00}\n", "expires is '2027" },
        { R "keys:\n  - {name: a, sha256: " D64 ", tenant: x}\n", "there is no tenant 'x' in tenants" },
        { R "tenants: {research: {}}\nkeys:\n  - {name: a, sha256: " D64 ", tenant: reserch}\n",
          "line 4: keys[0].tenant: there is no tenant 'reserch' in tenants; did you mean 'research'?" },
        { R "keys:\n  - {name: a, sha256: " D64 "}\n  - {name: b, sha256: " D64 "}\n",
          "lines 3 and 4 have the same sha256 (of '" },
        { R "keys: []\nkeys: []\n", "line 3: 'keys' stands twice, here and in line 2" },
        { R "tenants:\n  a: {}\n  b: {}\n  a: {}\n", "line 5: 'a' stands twice, here and in line 3" },
        { "rules: &x []\n", "anchors" },
        { "rules: *x\n", "aliases" },
        { "rules: !!seq []\n", "tags" },
        { "--- {rules: []}\n--- {rules: []}\n", "a second document" },
        { "rules: [\n", "not YAML" },
        { "rules: \x80\n", "not YAML" },
        { "rules:\n  - {who: '*', may: reed}\n", "line 2: rules[0].may: there is no right 'reed', did you mean 'read'?" },
        { "rules:\n  - {who: '*', may: [[read]]}\n", "no right 'a list'; there are read, infer and admin" },
        { "rules:\n  - {who: anonymus, may: read}\n", "nobody is called 'anonymus'; did you mean 'anonymous'?" },
        { "rules:\n  - {who: all, may: read}\n", "it takes names of keys, tenant:NAME" },
        { "rules:\n  - {who: *, may: read}\n", "stands in quotes: \"*\"" },
        { "rules:\n\t- {who: a}\n", "by blanks, not by tabs" },
        { "rules:\n  - {who: '*', may: []}\n", "rules[0].may is empty" },
        { "rules:\n  - {who: '*'}\n", "line 2: rules[0]: 'may' is missing" },
        { "rules:\n  - {may: read}\n", "line 2: rules[0]: 'who' is missing" },
        { "rules:\n  - {who: '*', may: read, groups: modells}\n", "no group 'modells', did you mean 'models'?" },
        { "rules:\n  - {who: '*', may: read, models: []}\n", "rules[0].models is empty" },
        { "rules:\n  - {who: '*', may: read, model: x}\n", "did you mean 'models'?" },
        { "rules:\n  - {who: 'al*', may: read}\n", "names have no patterns here" },
        { "rules:\n  - {who: alice, may: read}\n", "nobody is called 'alice'" },
        { "keys: [{name: alice, sha256: " D64 "}]\nrules:\n  - {who: alise, may: read}\n",
          "line 3: rules[0].who: nobody is called 'alise'; did you mean 'alice'?" },
        { "rules:\n  - {who: 'tenant:none', may: read}\n", "there is no tenant 'none'" },
        { R "tenants: [a]\n", "tenants is expected to be a mapping" },
        { R "tenants: {a: {rate: -1}}\n", "tenants.a.rate is '-1'; it is expected to be a number" },
        { R "tenants: {a: {rate: x}}\n", "tenants.a.rate is 'x'; it is expected" },
        { R "tenants: {a: {rate: [1]}}\n", "tenants.a.rate is 'a list'; it is expected" },
        { R "tenants: {a: {burst: 3}}\n", "a burst needs a rate" },
        { R "tenants: {a: {concurrency: 1.5}}\n", "whole number" },
        { R "tenants: {a: {bytes: 1MB}}\n", "bytes is '1MB'; it is expected to be a number and KiB" },
        { R "tenants: {a: {bytes: 1}}\n", "the least is 4KiB" },
        { R "tenants: {a: {bytes: 99999999999999999999}}\n", "at most 16TiB" },
        { R "tenants: {a: {weight: 0}}\n", "from 1 to 1000" },
        { R "tenants: {a: {wieght: 0}}\n", "did you mean 'weight'" },
        { R "certificates:\n  - {match: client.example}\n", "begins with dns:" },
        { "certificates:\n  - {match: 'uri:spiffe://a/*'}\nrules: [{who: 'spiffe://a/b', may: read}]\n",
          "nobody is called 'spiffe://a/b'; it takes" },
        { "certificates:\n  - {match: 'uri:spiffe://a/*'}\nrules: [{who: 'spiffe://a/b', may: read}]\n",
          "has its kind before it, as in uri:spiffe://" },
        { R "issuers:\n  - {issuer: a, keys: b}\n", "'audience' is missing" },
        { R "issuers:\n  - {issuer: a, audience: [], keys: b}\n", "takes 1 to 16" },
        { R "issuers:\n  - {issuer: a, audience: x, keys: 'http://example.org/k'}\n", "keys come by https://" },
        { R "issuers:\n  - {issuer: a, audience: x, keys: 'http://127.0.0.1.example.org/k'}\n", "keys come by https://" },
        { R "issuers:\n  - {issuer: a, audience: x, keys: 'http://localhost:80@example.org/k'}\n", "keys come by https://" },
        { R "issuers:\n  - {issuer: a, audience: x, keys: f, algorithms: HS256}\n", "RS256, ES256 and EdDSA" },
        { R "issuers:\n  - {issuer: a, audience: x, keys: f, algorithms: none}\n", "RS256, ES256 and EdDSA" },
        { R "issuers:\n  - {issuer: a, audience: x, keys: f, skew: 2h}\n", "skew is '2h'; it is expected to be a number and s or m" },
        { R "issuers:\n  - {issuer: a, audience: x, keys: f, scopes: {reed: x}}\n", "did you mean 'read'" },
        { R "issuers:\n  - {issuer: a, audience: x, keys: nosuch.json}\n", "nosuch.json" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct access *access = NULL;
        struct err err = { 0 };
        put_file("access.yaml", cases[i].text);
        enum err_code code = access_new(&access, path, NOW, &err);
        check(code != OK && access == NULL, "case %zu was taken:\n%s", i, cases[i].text);
        check(strstr(err.text, cases[i].words) != NULL && strstr(err.text, "access.yaml") != NULL,
              "case %zu: %s", i, err.text);
    }
    struct access *access = NULL;
    struct err err = { 0 };
    check(access_new(&access, "/no/such/file", NOW, &err) == E_NOT_FOUND, "%s", err.text);
}

/* -- reload -------------------------------------------------------------------------------------------- */

TEST(a_reload_is_taken_whole_or_not_at_all)
{
    struct access *access = open_access(usual());
    struct caller *alice = NULL, *carol = NULL, *nobody = NULL, *again = NULL;
    struct err err = { 0 };
    char text[4096];

    check_or_stop(access != NULL && find(access, NULL, "KEY-A", NOW, &alice, &err) == OK &&
                      find(access, NULL, "KEY-C", NOW, &carol, &err) == OK &&
                      find(access, NULL, NULL, NOW, &nobody, &err) == OK,
                  "%s", err.text);
    struct tenant *research = caller_tenant(carol);
    check(tenant_budget(research) != NULL && tenant_weight(research) == 5, "its limits");
    put_file("access.yaml", "rules: [{who: alise, may: read}]\n");
    check(access_reload(access, NOW, &err) == E_INVALID && strstr(err.text, "alise") != NULL, "%s",
          err.text);
    check(may(alice, ACCESS_INFER, "v2", "iris") == OK, "the former rules stay");
    check(tenant_weight(research) == 5, "the former limits stay");

    /* Alice may something else, carol's key is gone, nobody may less. */
    snprintf(text, sizeof text,
             "keys: [{name: alice, sha256: %s}]\n"
             "tenants: {research: {weight: 7}, other: {}}\n"
             "rules:\n  - {who: alice, may: read, models: other}\n",
             digest_text("KEY-A"));
    put_file("access.yaml", text);
    err = (struct err){ 0 };
    check_or_stop(access_reload(access, NOW, &err) == OK, "%s", err.text);
    check(may(alice, ACCESS_INFER, "v2", "iris") == E_PERMISSION, "an open stream's next message");
    check(may(alice, ACCESS_READ, "v2", "other") == OK, "likewise");
    check(may(carol, ACCESS_READ, "models", "r-1") == E_UNAUTHENTICATED, "withdrawn");
    check(may(nobody, ACCESS_READ, "metrics", "") == E_UNAUTHENTICATED, "no longer open");
    check(find(access, NULL, "KEY-C", NOW, &again, &err) == E_UNAUTHENTICATED, "it was kept");
    check(find(access, NULL, "KEY-A", NOW, &again, &err) == OK && again != alice, "found anew");
    check(may(again, ACCESS_READ, "v2", "other") == OK, "by the new rules");
    check(tenant_weight(research) == 7 && tenant_budget(research) == NULL, "its new limits");
    uint8_t before[32], after[32];
    caller_digest(alice, before);
    caller_digest(again, after);
    check(memcmp(before, after, 32) == 0, "the same one");
    caller_digest(carol, after);
    check(memcmp(before, after, 32) != 0, "another one");
    caller_unref(&again);
    caller_unref(&alice);
    caller_unref(&carol);
    caller_unref(&nobody);
    access_free(&access);
}

TEST(more_credentials_than_are_kept)
{
    CLEANUP(text_deinit) struct text text;
    struct err err = { 0 };
    enum { MANY = 5000 };
    char key[32];

    text_init(&text, 1 << 20);
    text_str(&text, "rules: [{who: '*', may: read}]\nkeys:\n");
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(key, sizeof key, "key-%u", i);
        text_printf(&text, "- {name: n%u, sha256: %s}\n", i, digest_text(key));
    }
    struct access *access = open_access(text_cstr(&text));
    for (unsigned round = 0; access != NULL && round < 2; round++)
        for (unsigned i = 0; i < MANY; i++) {
            struct caller *caller = NULL;
            char name[16];
            snprintf(key, sizeof key, "key-%u", i);
            snprintf(name, sizeof name, "n%u", i);
            check_or_stop(find(access, NULL, key, NOW, &caller, &err) == OK &&
                              strcmp(caller_name(caller), name) == 0,
                          "%s: %s", key, err.text);
            caller_unref(&caller);
        }
    access_free(&access);
}

/* -- certificates -------------------------------------------------------------------------------------- */

TEST(certificates_are_names)
{
    static const char file[] = "certificates:\n"
                               "  - {match: 'uri:spiffe://example/ns/*', name: services}\n"
                               "  - {match: 'dns:*.example', tenant: t}\n"
                               "tenants: {t: {}}\n"
                               "rules: [{who: '*', may: read}]\n";
    struct access *access = open_access(file);
    struct certificate c = { .expires_s = NOW_S + 10, .digest = { 1 } };
    struct access_credentials shown = { .certificate = &c };
    struct caller *caller = NULL;
    struct err err = { 0 };

    if (access == NULL)
        return;
    check(access_identify(access, &shown, NOW, &caller, &err) == E_UNAUTHENTICATED, "no name");
    c.names[c.names_count++] = slice_of("dns:other.test");
    check(access_identify(access, &shown, NOW, &caller, &err) == E_UNAUTHENTICATED, "no known name");
    c.names[c.names_count++] = slice_of("dns:a.example");
    check_or_stop(access_identify(access, &shown, NOW, &caller, &err) == OK, "%s", err.text);
    check(strcmp(caller_name(caller), "dns:a.example") == 0 &&
              strcmp(tenant_name(caller_tenant(caller)), "t") == 0,
          "%s", caller_name(caller));
    check(may(caller, ACCESS_READ, "v2", "x") == OK, "by rule");
    check(caller_may(caller, ACCESS_READ, slice_of("v2"), slice_of(""), NOW + 11 * NS_PER_S, &err) ==
              E_UNAUTHENTICATED,
          "it expires while its connection is open");
    put_file("access.yaml", "certificates: []\nrules: [{who: '*', may: read}]\n");
    check(access_reload(access, NOW, &err) == OK, "%s", err.text);
    check(may(caller, ACCESS_READ, "v2", "x") == E_UNAUTHENTICATED, "withdrawn");
    caller_unref(&caller);
    put_file("access.yaml", file);
    check(access_reload(access, NOW, &err) == OK, "%s", err.text);
    c.digest[0]++;
    c.names[0] = slice_of("uri:spiffe://example/ns/x");
    check_or_stop(access_identify(access, &shown, NOW, &caller, &err) == OK, "%s", err.text);
    check(strcmp(caller_name(caller), "services") == 0, "%s", caller_name(caller));
    caller_unref(&caller);
    check(access_identify(access, &shown, NOW + 10 * NS_PER_S, &caller, &err) == E_UNAUTHENTICATED,
          "expired");
    /* A key that is shown as well is who it is. */
    shown.api_key = slice_of("nobody's");
    shown.api_keys = 1;
    check(access_identify(access, &shown, NOW, &caller, &err) == E_UNAUTHENTICATED, "by the key");
    access_free(&access);

    access = open_access("rules: [{who: anonymous, may: read}]\n");
    shown.api_keys = 0;
    check(access_identify(access, &shown, NOW, &caller, &err) == OK && caller_is_anonymous(caller),
          "where no section speaks of certificates they are for TLS alone");
    caller_unref(&caller);
    access_free(&access);
}

TEST(rules_name_who_a_certificate_may_be)
{
    struct access *access =
        open_access("certificates:\n  - {match: 'uri:spiffe://a/*'}\n"
                    "rules: [{who: 'uri:spiffe://a/b', may: read}]\n");

    check(access_wants_certificates(access), "it has a line");
    access_free(&access);
    access = open_access("rules: [{who: anonymous, may: read}]\n");
    check(!access_wants_certificates(access), "it has none");
    access_free(&access);
}

/* Logs say whose key ran out; nothing else may take it for a name. */
TEST(an_expired_key_is_known_by_name)
{
    struct access *access = open_access(usual());
    struct access_credentials expired = { .api_key = slice_of("KEY-B"), .api_keys = 1 };
    struct access_credentials strange = { .api_key = slice_of("KEY-D"), .api_keys = 1 };
    struct caller *caller = NULL;
    struct err err = { 0 };

    check_or_stop(access != NULL, "no access");
    check(access_identify(access, &expired, NOW + NS_PER_S, &caller, &err) == E_UNAUTHENTICATED,
          "expired");
    caller = access_refused(access, &expired, &err);
    check_or_stop(caller != NULL, "no memory");
    check(strcmp(caller_known_as(caller), "bob") == 0 && strcmp(caller_name(caller), "") == 0 &&
              caller_is_anonymous(caller),
          "'%s' '%s'", caller_known_as(caller), caller_name(caller));
    check(may(caller, ACCESS_READ, "server", "") == E_UNAUTHENTICATED &&
              may(caller, ACCESS_READ, "metrics", "") == E_UNAUTHENTICATED,
          "it is let in");
    caller_unref(&caller);
    caller = access_refused(access, &strange, &err);
    check(caller != NULL && strcmp(caller_known_as(caller), "") == 0, "a stranger has a name");
    caller_unref(&caller);
    check(find(access, NULL, "KEY-A", NOW, &caller, &err) == OK &&
              strcmp(caller_known_as(caller), "alice") == 0,
          "%s", err.text);
    caller_unref(&caller);
    access_free(&access);
}

/* The file decides which name counts, never the certificate: its names come in every order here. */
TEST(certificates_with_several_names)
{
#define LINES(a, b) "certificates:\n" a b "tenants: {t: {}, u: {}}\nrules: [{who: '*', may: read}]\n"
#define SERVICES "  - {match: 'uri:spiffe://*', name: services, tenant: t}\n"
#define HOSTS "  - {match: 'dns:*.example', tenant: u}\n"
    static const struct {
        const char *file;
        const char *names[3];
        const char *name, *tenant; /* name NULL: refused, with the words in tenant */
    } cases[] = {
        { LINES(SERVICES, HOSTS), { "dns:a.example", "uri:spiffe://x/y" }, "services", "t" },
        { LINES(HOSTS, SERVICES), { "dns:a.example", "uri:spiffe://x/y" }, "dns:a.example", "u" },
        { LINES(HOSTS, SERVICES), { "email:a@b", "uri:spiffe://x/y", "dns:c" }, "services", "t" },
        { LINES(SERVICES, HOSTS), { "uri:spiffe://x/y", "uri:spiffe://z" }, "services", "t" },
        { LINES(HOSTS, SERVICES), { "dns:a.example", "dns:b.example", "uri:spiffe://x" }, NULL, "two names" },
        { LINES(SERVICES, HOSTS), { "dns:a.example", "dns:b.example", "uri:spiffe://x" }, "services", "t" },
        { LINES(HOSTS, ""), { "dns:a.example", "dns:a.example", "dns:b" }, "dns:a.example", "u" },
        { LINES("  - {match: 'dns:a.example', tenant: t}\n", HOSTS), { "dns:b.example", "dns:a.example" },
          "dns:a.example", "t" },
        { LINES(HOSTS, ""), { "dns:b", "uri:spiffe://x" }, NULL, "no name of your certificate" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct access *access = open_access(cases[i].file);
        for (uint8_t turn = 0; access != NULL && turn < 6; turn++) {
            static const uint8_t orders[6][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
                                                  { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };
            struct certificate c = { .expires_s = NOW_S + 10, .digest = { turn } };
            struct access_credentials shown = { .certificate = &c };
            struct caller *caller = NULL;
            struct err err = { 0 };
            for (int n = 0; n < 3; n++)
                if (cases[i].names[orders[turn][n]] != NULL)
                    c.names[c.names_count++] = slice_of(cases[i].names[orders[turn][n]]);
            enum err_code code = access_identify(access, &shown, NOW, &caller, &err);
            if (cases[i].name == NULL)
                check(code == E_UNAUTHENTICATED && strstr(err.text, cases[i].tenant) != NULL, "%zu.%u: %s", i,
                      turn, err.text);
            else
                check(code == OK && strcmp(caller_name(caller), cases[i].name) == 0 &&
                          strcmp(tenant_name(caller_tenant(caller)), cases[i].tenant) == 0,
                      "%zu.%u: %s%s", i, turn, err.text, caller_name(caller));
            caller_unref(&caller);
        }
        access_free(&access);
    }

    /* A stream that is open is judged by all of its names as well, when the lines change. */
    struct access *access = open_access(LINES("", HOSTS));
    struct certificate c = { .expires_s = NOW_S + 10, .digest = { 9 }, .names_count = 2,
                             .names = { SLICE_LIT("dns:a.example"), SLICE_LIT("uri:spiffe://x") } };
    struct access_credentials shown = { .certificate = &c };
    struct caller *caller = NULL;
    struct err err = { 0 };
    check_or_stop(access != NULL && access_identify(access, &shown, NOW, &caller, &err) == OK, "%s", err.text);
    check(may(caller, ACCESS_READ, "v2", "x") == OK, "by the second line");
    put_file("access.yaml", "certificates:\n" SERVICES HOSTS
                            "tenants: {t: {}, u: {}}\nrules: [{who: 'tenant:u', may: read}]\n");
    check(access_reload(access, NOW, &err) == OK, "%s", err.text);
    check(may(caller, ACCESS_READ, "v2", "x") == E_PERMISSION, "it is services by now");
    caller_unref(&caller);
    access_free(&access);
}

/* -- tenants ------------------------------------------------------------------------------------------- */

TEST(a_tenant_has_a_rate_a_burst_and_a_concurrency)
{
    struct access *access = open_access(usual());
    struct budget server;
    struct caller *carol = NULL;
    struct err err = { 0 };

    budget_init(&server, 1 << 30);
    access_set_budget(access, &server);
    check_or_stop(find(access, NULL, "KEY-C", NOW, &carol, &err) == OK, "%s", err.text);
    struct tenant *t = caller_tenant(carol);
    check(tenant_index(t) == 1 && tenant_index(NULL) == 0, "%u", tenant_index(t));
    uint64_t now = 5000 * NS_PER_S;
    for (int i = 0; i < 3; i++) {
        check(tenant_enter(t, now, &err) == OK, "%d: %s", i, err.text);
        tenant_leave(t);
    }
    check(tenant_enter(t, now, &err) == E_EXHAUSTED && err.retry_after_ms == 101 &&
              strstr(err.text, "10 inferences a second") != NULL,
          "%s, %u", err.text, err.retry_after_ms);
    check(tenant_enter(t, now + 100 * NS_PER_MS, &err) == OK, "%s", err.text);
    check(tenant_enter(t, now + 100 * NS_PER_MS, &err) == E_EXHAUSTED, "only one came back");
    now += 10 * NS_PER_S;
    check(tenant_enter(t, now, &err) == OK, "the whole burst is back: %s", err.text);
    check(tenant_enter(t, now, &err) == E_EXHAUSTED && strstr(err.text, "2 inferences under way"),
          "%s", err.text);
    tenant_leave(t);
    check(tenant_enter(t, now, &err) == OK, "%s", err.text);
    tenant_leave(t);
    tenant_leave(t);
    struct budget *budget = tenant_budget(t);
    check(budget != NULL && budget_take(budget, 1 << 20) && !budget_take(budget, 1) &&
              budget_used(&server) == 1 << 20,
          "its bytes are the server's");
    budget_give(budget, 1 << 20);
    check(tenant_enter(NULL, now, &err) == OK && tenant_budget(NULL) == NULL &&
              tenant_weight(NULL) == 1,
          "no tenant has no limits");
    caller_unref(&carol);
    access_free(&access);
}

/* -- faults -------------------------------------------------------------------------------------------- */

TEST(every_fault_of_reading_and_finding_leaves_nothing_behind)
{
    put_file("access.yaml", usual());
    log_set_level(LOG_ERROR);
    for_each_fault(nth)
    {
        struct access *access = NULL;
        struct caller *caller = NULL;
        struct err err = { 0 };
        enum err_code code = access_new(&access, path, NOW, &err);
        if (code == OK)
            code = find(access, NULL, "KEY-A", NOW, &caller, &err);
        if (code == OK) {
            put_file("access.yaml", usual());
            code = access_reload(access, NOW, &err);
        }
        if (code == OK)
            code = caller_may(caller, ACCESS_READ, slice_of("v2"), slice_of("iris"), NOW, &err);
        bool is_hit = fault_fired();
        fault_arm(0);
        caller_unref(&caller);
        access_free(&access);
        if (!is_hit) {
            check(code == OK, "%s", err.text);
            break;
        }
        check(code != OK && err.text[0] != '\0', "fault %u was silent", nth);
    }
    log_set_level(LOG_INFO);
}

/* -- secrets and counts ---------------------------------------------------------------------------------- */

TEST(metrics_count_verdicts_and_hold_no_secret)
{
    struct access *access = open_access(usual());
    struct metrics *metrics = metrics_new();
    struct caller *caller = NULL;
    struct err err = { 0 };
    struct text out;

    check_or_stop(access != NULL && metrics != NULL &&
                      access_register(access, metrics, &err) == OK,
                  "%s", err.text);
    check(find(access, NULL, "KEY-A", NOW, &caller, &err) == OK, "%s", err.text);
    check(may(caller, ACCESS_ADMIN, "models", "") == E_PERMISSION, "denied");
    check(caller_may(caller, ACCESS_ADMIN, slice_of("models"), slice_of(""), NOW, NULL) ==
              E_PERMISSION,
          "a question that is not counted");
    caller_unref(&caller);
    check(find(access, NULL, "KEY-X", NOW, &caller, &err) != OK, "unknown");
    text_init(&out, 1 << 20);
    metrics_render(metrics, &out);
    const char *text = text_cstr(&out);
    check(strstr(text, "penstock_access_total{verdict=\"identified\",by=\"key\"} 1\n") != NULL, "%s", text);
    check(strstr(text, "penstock_access_total{verdict=\"refused\",by=\"unknown\"} 1\n") != NULL, "%s", text);
    check(strstr(text, "penstock_access_total{verdict=\"refused\",by=\"rules\"} 1\n") != NULL, "%s", text);
    check(strstr(text, "penstock_tenant_bytes{tenant=\"research\"} 0\n") != NULL, "%s", text);
    check(strstr(text, "KEY-") == NULL && strstr(text, digest_text("KEY-A")) == NULL, "%s", text);
    text_deinit(&out);
    metrics_free(&metrics);
    access_free(&access);
}

/* -- the form of keys ------------------------------------------------------------------------------------ */

TEST(keys_are_whole_or_seen_to_be_damaged)
{
    uint8_t chance[KEY_CHANCE_BYTES] = { 0 };
    char key[KEY_TEXT_BYTES + 1];

    key_make(chance, key);
    check(strcmp(key, "penstock_00000000000000000000000000000000002X6W6") == 0, "%s", key);
    memset(chance, 0xff, sizeof chance);
    key_make(chance, key);
    /* 2^192 - 1 to the base of 62 */
    check(strcmp(key, "penstock_2lFA6LboL2xx0ldQH2K1TdSrwuqMMiME30hrEWB") == 0, "%s", key);
    for (int round = 0; round < 200; round++) {
        for (size_t i = 0; i < sizeof chance; i++)
            chance[i] = (uint8_t)test_random();
        key_make(chance, key);
        check(!key_is_damaged(slice_of(key)), "%s", key);
        check(key_is_damaged(slice_first(slice_of(key), test_random_below(39) + 9)), "cut off: %s", key);
        size_t at = 9 + test_random_below(KEY_TEXT_BYTES - 9);
        char was = key[at];
        key[at] = was == 'x' ? 'y' : 'x';
        check(key_is_damaged(slice_of(key)), "changed at %zu: %s", at, key);
        key[at] = was;
        if (key[10] != key[11]) {
            char swap = key[10];
            key[10] = key[11];
            key[11] = swap;
            check(key_is_damaged(slice_of(key)), "two letters changed places: %s", key);
        }
    }
    check(!key_is_damaged(slice_of("another-secret")), "others have no form");
}

static bool mkfifo_in_place(void)
{
    return unlink(path) == 0 && mkfifo(path, 0600) == 0;
}

/* A withdrawn key may not stay good because a descriptor was missing when the file changed. */
TEST(a_file_that_cannot_be_read_now_is_tried_again)
{
    struct access *access = open_access(usual());
    struct caller *alice = NULL;
    struct err err = { 0 };
    struct rlimit was, none;

    check_or_stop(access != NULL && find(access, NULL, "KEY-A", NOW, &alice, &err) == OK, "%s", err.text);
    put_file("access.yaml", "rules: []\n");
    check(!access_has_changed(access) && access_has_changed(access), "it has changed");
    getrlimit(RLIMIT_NOFILE, &was);
    none = was;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &none);
    enum err_code code = access_reload(access, NOW, &err);
    setrlimit(RLIMIT_NOFILE, &was);
    check(code != OK && code != E_INVALID, "%s", err.text);
    check(may(alice, ACCESS_READ, "v2", "iris") == OK, "the former rules stay meanwhile");
    check(access_has_changed(access), "it is to be read still");
    check(access_reload(access, NOW, &err) == OK, "%s", err.text);
    check(may(alice, ACCESS_READ, "v2", "iris") == E_UNAUTHENTICATED, "withdrawn");
    check(!access_has_changed(access), "it was read");
    caller_unref(&alice);
    access_free(&access);
}

/* The newest file says until when, also to a stream that is open. */
TEST(an_expiry_that_is_moved_counts_at_once)
{
    static const char file[] = "keys: [{name: a, sha256: %s, expires: %s}]\nrules: [{who: a, may: read}]\n";
    char text[400];
    struct caller *caller = NULL, *again = NULL;
    struct err err = { 0 };

    uint64_t day = 86400 * NS_PER_S, second = 1893456000 * NS_PER_S; /* 2030-01-01 */
    snprintf(text, sizeof text, file, digest_text("KEY-E"), "2030-01-02");
    struct access *access = open_access(text);
    check_or_stop(access != NULL && find(access, NULL, "KEY-E", second, &caller, &err) == OK, "%s", err.text);
    const struct {
        const char *expires;
        uint64_t now;
        enum err_code code;
    } cases[] = { { "2030-01-02", second + day - 1, OK },
                  { "2030-01-02", second + day, E_UNAUTHENTICATED },
                  { "2030-01-03", second + day, OK },         /* extended: its stream lives on */
                  { "2030-01-01", second, E_UNAUTHENTICATED } }; /* shortened: and ends */
    for (size_t i = 0; i < COUNT(cases); i++) {
        snprintf(text, sizeof text, file, digest_text("KEY-E"), cases[i].expires);
        put_file("access.yaml", text);
        check(access_reload(access, second, &err) == OK, "%s", err.text);
        /* Another connection finds it first, so that it is kept. */
        if (find(access, NULL, "KEY-E", second - day, &again, &err) == OK)
            caller_unref(&again);
        for (int round = 0; round < 2; round++)
            check(caller_may(caller, ACCESS_READ, slice_of("v2"), slice_of("x"), cases[i].now, &err) ==
                      cases[i].code,
                  "case %zu: %s", i, err.text);
    }
    caller_unref(&caller);
    access_free(&access);
}

TEST(a_change_is_seen_once_it_stands_still)
{
    struct access *access = open_access(usual());
    struct err err = { 0 };

    if (access == NULL)
        return;
    check(!access_has_changed(access) && !access_has_changed(access), "nothing has changed");
    put_file("access.yaml", "rules: []\n# changed\n");
    check(!access_has_changed(access), "perhaps it is still being written");
    check(access_has_changed(access), "it stands still");
    check(access_reload(access, NOW, &err) == OK, "%s", err.text);
    check(!access_has_changed(access), "it was read");
    put_file("access.yaml", "rules: [\n");
    check(!access_has_changed(access) && access_has_changed(access), "changed");
    check(access_reload(access, NOW, &err) != OK, "a bad one");
    check(!access_has_changed(access) && !access_has_changed(access), "is read once");
    unlink(path);
    check(!access_has_changed(access) && access_has_changed(access), "gone");
    check(access_reload(access, NOW, &err) == E_NOT_FOUND, "%s", err.text);
    check(access_has_changed(access), "it may come back as it was: it is tried again");
    put_file("access.yaml", "rules: [{who: anonymous, may: read}]\n");
    check(!access_has_changed(access) && access_has_changed(access) &&
              access_reload(access, NOW, &err) == OK && !access_has_changed(access),
          "there again");
    check(mkfifo_in_place() && !access_has_changed(access) && access_has_changed(access) &&
              access_reload(access, NOW, &err) == E_INVALID && strstr(err.text, "regular file") != NULL,
          "a FIFO is not waited for: %s", err.text);
    unlink(path);
    access_free(&access);
}

/* -- cost -------------------------------------------------------------------------------------------------- */

/* Not a limit of this machine but of what is done: a digest, a look-up, a rule; far below a request's cost. */
TEST(a_kept_key_and_its_rule_cost_little)
{
    struct access *access = open_access(usual());
    char key[] = "KEY-A";
    enum { ROUNDS = 200000 };
    uint64_t best = UINT64_MAX;

    for (int round = 0; access != NULL && round < 5; round++) {
        uint64_t begun = clock_mono_ns();
        for (int i = 0; i < ROUNDS; i++) {
            struct caller *caller = NULL;
            struct err err;
            struct access_credentials c = { .api_key = { (const uint8_t *)key, 5 }, .api_keys = 1 };
            if (access_identify(access, &c, NOW, &caller, &err) != OK ||
                caller_may(caller, ACCESS_INFER, (struct slice)SLICE_LIT("v2"),
                           (struct slice)SLICE_LIT(""), NOW, &err) != OK ||
                caller_may(caller, ACCESS_INFER, (struct slice)SLICE_LIT("v2"),
                           (struct slice)SLICE_LIT("iris"), NOW, &err) != OK)
                abort();
            caller_unref(&caller);
        }
        best = MIN(best, (clock_mono_ns() - begun) / ROUNDS);
    }
    printf("# %llu ns a request\n", (unsigned long long)best);
    check(best < 20000, "%llu ns a request", (unsigned long long)best);
    access_free(&access);
}

/* -- threads ----------------------------------------------------------------------------------------------- */

struct asker {
    pthread_t thread;
    struct access *access;
    _Atomic bool *must_stop;
    uint64_t asked, found, let;
};

static void *ask_on(void *arg)
{
    struct asker *asker = arg;
    struct caller *long_lived = NULL;
    struct err err = { 0 };

    (void)find(asker->access, NULL, "KEY-A", NOW, &long_lived, &err);
    while (!atomic_load(asker->must_stop)) {
        struct caller *caller = NULL;
        err.text[0] = '\0';
        asker->asked++;
        if (find(asker->access, NULL, asker->asked % 3 == 0 ? "KEY-B" : "KEY-A", NOW, &caller, &err) == OK) {
            asker->found++;
            asker->let += may(caller, ACCESS_READ, "v2", "iris") == OK;
        }
        asker->let += may(long_lived, ACCESS_READ, "v2", "iris") == OK;
        if (tenant_enter(caller_tenant(caller), NOW, &err) == OK)
            tenant_leave(caller_tenant(caller));
        caller_unref(&caller);
    }
    caller_unref(&long_lived);
    return NULL;
}

TEST(rules_change_while_others_ask)
{
    static const char less[] = "tenants: {research: {rate: 5}}\nrules: [{who: anonymous, may: read}]\n";
    struct access *access = open_access(usual());
    struct asker askers[3] = { 0 };
    _Atomic bool must_stop = false;
    struct err err = { 0 };

    if (access == NULL)
        return;
    for (size_t i = 0; i < COUNT(askers); i++) {
        askers[i].access = access;
        askers[i].must_stop = &must_stop;
        if (pthread_create(&askers[i].thread, NULL, ask_on, &askers[i]) != 0)
            abort();
    }
    for (int i = 0; i < 60; i++) {
        put_file("access.yaml", i % 2 == 0 ? less : usual());
        check(access_reload(access, NOW, &err) == OK, "%s", err.text);
    }
    atomic_store(&must_stop, true);
    for (size_t i = 0; i < COUNT(askers); i++) {
        pthread_join(askers[i].thread, NULL);
        check(askers[i].asked > 0 && askers[i].found > 0, "%llu asked",
              (unsigned long long)askers[i].asked);
    }
    access_free(&access);
}
