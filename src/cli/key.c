/* key.c - the verb key: makes a key and the line that lets a server know it. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The key is written once, here, and kept nowhere: the file of --access has its SHA-256.
 */
#include "access/key.h"

#include <stdio.h>
#include <unistd.h>

#include "access/access.h"
#include "base/clock.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/verbs.h"
#include "io/env.h"

enum { OUT_BYTES_MAX = 1 << 16 };

struct made {
    const char *name, *tenant, *expires;
    char key[KEY_TEXT_BYTES + 1];
    char digest[2 * KEY_DIGEST_BYTES + 1];
};

/* In single quotes, which double themselves: right for any text. */
static void put_yaml(struct text *out, const char *text)
{
    text_byte(out, '\'');
    for (; *text != '\0'; text++)
        text_str(out, *text == '\'' ? "''" : (char[]){ *text, '\0' });
    text_byte(out, '\'');
}

static void put_line(struct text *out, const struct made *made)
{
    text_str(out, "- {name: ");
    put_yaml(out, made->name);
    if (made->tenant[0] != '\0') {
        text_str(out, ", tenant: ");
        put_yaml(out, made->tenant);
    }
    if (made->expires[0] != '\0')
        text_printf(out, ", expires: %s", made->expires);
    text_printf(out, ", sha256: %s}", made->digest);
}

static void put_json(struct text *out, const struct made *made)
{
    struct text line;

    text_init(&line, OUT_BYTES_MAX);
    put_line(&line, made);
    text_printf(out, "{\"key\":\"%s\",\"sha256\":\"%s\",\"line\":", made->key, made->digest);
    text_json(out, text_slice(&line));
    text_str(out, "}\n");
    text_deinit(&line);
}

static void put_words(struct text *out, const struct made *made)
{
    text_printf(out,
                "%s\n\nThis is the key. It is shown once and kept nowhere. Callers send it as\n"
                "`Authorization: Bearer KEY` or `x-api-key: KEY`, penstock call by PENSTOCK_KEY.\n\n"
                "The server knows it by this line, below `keys:` in the file of --access:\n\n  ",
                made->key);
    put_line(out, made);
    text_byte(out, '\n');
}

static void make(struct made *made)
{
    struct env *env = env_real();
    uint8_t chance[KEY_CHANCE_BYTES], digest[KEY_DIGEST_BYTES];

    env->random(env, chance, sizeof chance);
    key_make(chance, made->key);
    key_digest(slice_of(made->key), digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(made->digest + 2 * i, 3, "%02x", digest[i]);
    explicit_bzero(chance, sizeof chance);
}

/* "--tenant", "the name": may that be the name of somebody? */
static bool is_good_name(const char *what, const char *name, struct err *err)
{
    bool has_control = false;

    for (const char *at = name; *at != '\0'; at++)
        has_control |= (uint8_t)*at < 0x20 || *at == 0x7f;
    if (name[0] == '\0' || has_control)
        err_set(err, E_INVALID, "%s is empty or holds a control byte; it is a word such as alice", what);
    else if (!access_is_name(name))
        err_set(err, E_INVALID,
                "%s is '%.60s'; 'anonymous', names with '*' and names that begin with 'tenant:' mean "
                "others than one caller in rules",
                what, name);
    return err->code == OK;
}

/* In the words of the command line, as there is no file yet. */
static bool is_good(const struct made *made, struct err *err)
{
    struct env *env = env_real();
    uint64_t expires_s = UINT64_MAX;

    if (!is_good_name("the name", made->name, err) ||
        (made->tenant[0] != '\0' && !is_good_name("--tenant", made->tenant, err)))
        return false;
    if (made->expires[0] != '\0' && !access_read_expiry(made->expires, &expires_s))
        err_set(err, E_INVALID, "--expires is '%.40s'; it takes " ACCESS_EXPIRY_FORMS, made->expires);
    else if (expires_s <= env->wall_ns(env) / NS_PER_S)
        err_set(err, E_INVALID, "--expires is %.40s, which is past: the key would never be good",
                made->expires);
    return err->code == OK;
}

int verb_key(const struct options *options)
{
    struct made made = { .tenant = options_text(options, OPT_TENANT),
                         .expires = options_text(options, OPT_EXPIRES) };
    struct err err = { 0 };
    struct text out;

    if (options->arguments_count != 1)
        return print_failure(EXIT_USAGE, "key takes the name of who will have it: penstock key alice");
    made.name = options->arguments[0];
    if (!is_good(&made, &err))
        return print_failure(EXIT_USAGE, err.text);
    make(&made);
    text_init(&out, OUT_BYTES_MAX);
    text_str(&out, "keys:\n");
    put_line(&out, &made);
    text_str(&out, made.tenant[0] != '\0' ? "\ntenants: {" : "");
    if (made.tenant[0] != '\0')
        put_yaml(&out, made.tenant);
    text_str(&out, made.tenant[0] != '\0' ? ": }\nrules: []\n" : "\nrules: []\n");
    /* The line has to be one that the server takes. */
    if (access_check(text_slice(&out), &err) != OK) {
        text_deinit(&out);
        return print_failure(EXIT_USAGE, err.text);
    }
    out.size = 0;
    if (options_flag(options, OPT_JSON))
        put_json(&out, &made);
    else
        put_words(&out, &made);
    bool was_whole = print_out(STDOUT_FILENO, &out);
    text_deinit(&out);
    explicit_bzero(&made, sizeof made);
    return was_whole ? EXIT_OK : EXIT_FAILED;
}
