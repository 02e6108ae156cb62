/* options_test.c - every option by every way it can be given, and every way to get it wrong.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/options.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "test/harness.h"

enum { WORDS_MAX = 16 };

/* Reads "penstock" and the words of `line` (blanks between); `environment` likewise, or NULL. */
static enum err_code read_line(struct options **ret, const char *line, const char *environment,
                               struct err *err)
{
    /* Options borrow argv: the copies live until the next call but seven. */
    static char copies[8][2][4096];
    static unsigned next;
    char *words = copies[next % 8][0], *variables = copies[next % 8][1];
    const char *argv[WORDS_MAX] = { "penstock" }, *environ_[WORDS_MAX] = { NULL };
    int argc = 1, count = 0;

    next++;
    snprintf(words, sizeof copies[0][0], "%s", line);
    snprintf(variables, sizeof copies[0][1], "%s", environment == NULL ? "" : environment);
    for (char *at, *word = strtok_r(words, " ", &at); word != NULL; word = strtok_r(NULL, " ", &at))
        argv[argc++] = word;
    for (char *at, *word = strtok_r(variables, " ", &at); word != NULL;
         word = strtok_r(NULL, " ", &at))
        environ_[count++] = word;
    err->text[0] = '\0';
    return options_read(ret, argc, argv, environ_, err);
}

/* -- values ------------------------------------------------------------------------------------ */

static const struct {
    const char *text;
    bool is_right;
    uint64_t value;
} sizes[] = {
    { "0", true, 0 },
    { "1000", true, 1000 },
    { "64MiB", true, 64 << 20 },
    { "64M", true, 64 << 20 },
    { "64MB", true, 64000000 },
    { "1.5KiB", true, 1536 },
    { "1K", true, 1024 },
    { "1kB", true, 1000 },
    { "2GiB", true, UINT64_C(2) << 30 },
    { "16TiB", true, UINT64_C(16) << 40 },
    { "5B", true, 5 },
    { "18446744073709551615", true, UINT64_MAX },
    { "18446744073709551616", false, 0 },
    { "99999999999TiB", false, 0 },
    { "", false, 0 },
    { "MiB", false, 0 },
    { "-1", false, 0 },
    { "1 MiB", false, 0 },
    { "1mib", false, 0 },
    { "1.MiB", false, 0 },
    { ".5MiB", false, 0 },
    { "1.1234567MiB", false, 0 },
    { "0x10", false, 0 },
    { "1e3", false, 0 },
};

TEST(size_cases)
{
    for (size_t i = 0; i < COUNT(sizes); i++) {
        uint64_t value = 42;
        bool is_right = size_parse(slice_of(sizes[i].text), &value);
        check(is_right == sizes[i].is_right, "'%s'", sizes[i].text);
        check(!is_right || value == sizes[i].value, "'%s': %llu", sizes[i].text,
              (unsigned long long)value);
    }
}

static const struct {
    const char *text;
    bool is_right;
    uint64_t ns;
} durations[] = {
    { "0", true, 0 },
    { "0s", true, 0 },
    { "5s", true, UINT64_C(5000000000) },
    { "250ms", true, 250000000 },
    { "1.5m", true, UINT64_C(90000000000) },
    { "24h", true, UINT64_C(86400000000000) },
    { "50us", true, 50000 },
    { "7ns", true, 7 },
    { "0.000001h", true, 3600000 },
    { "5", false, 0 },
    { "5 s", false, 0 },
    { "s", false, 0 },
    { "5sec", false, 0 },
    { "-5s", false, 0 },
    { "99999999999999h", false, 0 },
};

TEST(duration_cases)
{
    for (size_t i = 0; i < COUNT(durations); i++) {
        uint64_t ns = 42;
        bool is_right = duration_parse(slice_of(durations[i].text), &ns);
        check(is_right == durations[i].is_right, "'%s'", durations[i].text);
        check(!is_right || ns == durations[i].ns, "'%s': %llu", durations[i].text,
              (unsigned long long)ns);
    }
}

/* -- every option, every way ------------------------------------------------------------------- */

static const char *verb_of(uint32_t verbs)
{
    for (const struct verb_row *row = verb_rows; row->verb != VERB_NONE; row++) {
        if (verbs & (uint32_t)row->verb)
            return row->name;
    }
    return "";
}

/* Two right values of an option, neither the default. */
static void samples(const struct option *row, char *first, char *second, size_t size)
{
    const char *bar = row->values == NULL ? NULL : strchr(row->values, '|');
    const char *least = row->values == NULL ? "" : row->values;
    size_t dots = strcspn(least, ".");

    switch (row->kind) {
    case KIND_FLAG:
        snprintf(first, size, "%s", strcmp(row->fallback, "true") == 0 ? "false" : "true");
        snprintf(second, size, "%s", row->fallback);
        break;
    case KIND_COUNT:
    case KIND_SIZE:
    case KIND_DURATION:
    case KIND_RATIO:
        snprintf(first, size, "%.*s", (int)dots, least);
        snprintf(second, size, "%s", least + dots + 2);
        break;
    case KIND_CHOICE:
        snprintf(first, size, "%s", strrchr(row->values, '|') + 1);
        snprintf(second, size, "%.*s", (int)(bar - row->values), row->values);
        break;
    case KIND_PATH_SETS:
        snprintf(first, size, "/a,/b");
        snprintf(second, size, "auto");
        break;
    case KIND_FIXED_PATHS:
    case KIND_PATHS:
        snprintf(first, size, "/a/b");
        snprintf(second, size, "/c/d");
        break;
    default:
        snprintf(first, size, "word");
        snprintf(second, size, "other");
        break;
    }
}

static bool has_value(const struct options *o, uint32_t id, const char *text)
{
    const struct option_value *value = &o->values[id];

    if (value->items_count > 0)
        return value->items_count == 1 && strcmp(value->items[0], text) == 0;
    return strcmp(value->text, text) == 0;
}

static bool is_given_elsewhere(uint32_t id)
{
    return id == OPT_CONFIG || id == OPT_HELP || id == OPT_FIELD;
}

TEST(parts_of_all)
{
    static const struct {
        const char *text;
        uint64_t parts;
        bool is_right;
    } ratios[] = {
        { "1", RATIO_ONE, true },       { "0", 0, true },           { "0.25", 250000000, true },
        { "1/4", 250000000, true },     { "1/1", RATIO_ONE, true }, { "0.000001", 1000, true },
        { "1/1000000000", 1, true },    { "1/0", 0, false },        { "1.5", 0, false },
        { "2/3", 0, false },            { "-1", 0, false },         { "", 0, false },
        { "1/", 0, false },             { "half", 0, false },       { "1.", 0, false },
    };

    for (size_t i = 0; i < COUNT(ratios); i++) {
        uint64_t parts = 42;
        check(ratio_parse(slice_of(ratios[i].text), &parts) == ratios[i].is_right, "'%s'",
              ratios[i].text);
        check(!ratios[i].is_right || parts == ratios[i].parts, "'%s'", ratios[i].text);
    }
}

TEST(every_option_by_argv_environment_and_file)
{
    char folder[] = "/tmp/penstock-options-XXXXXX", path[64], line[512], environment[512];
    char first[64], second[64], variable[96];

    require(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/p.yaml", folder);
    for (uint32_t i = 0; i < OPT_IDS; i++) {
        const struct option *row = &option_rows[i];
        struct err err = { 0 };
        if (is_given_elsewhere(i))
            continue;
        samples(row, first, second, sizeof first);
        option_variable(variable, sizeof variable, row->name);
        FILE *file = fopen(path, "w");
        fprintf(file, "# a comment\n%s: %s\n", row->name, first);
        fclose(file);
        CLEANUP(options_free) struct options *by_file = NULL, *by_variable = NULL, *by_argv = NULL;

        snprintf(line, sizeof line, "%s --config %s", verb_of(row->verbs), path);
        check(read_line(&by_file, line, NULL, &err) == OK, "%s: %s", row->name, err.text);
        check(by_file != NULL && has_value(by_file, i, first), "%s by file", row->name);
        check(by_file != NULL && by_file->values[i].source == SOURCE_FILE, "%s", row->name);
        check(by_file != NULL && by_file->values[i].line == 2, "%s", row->name);

        snprintf(environment, sizeof environment, "%s=%s PENSTOCK_CONFIG=%s", variable, second,
                 path);
        check(read_line(&by_variable, verb_of(row->verbs), environment, &err) == OK, "%s: %s",
              row->name, err.text);
        check(by_variable != NULL && has_value(by_variable, i, second), "%s by variable over file",
              row->name);

        snprintf(line, sizeof line, "%s --%s=%s", verb_of(row->verbs), row->name, first);
        check(read_line(&by_argv, line, environment, &err) == OK, "%s: %s", row->name, err.text);
        check(by_argv != NULL && has_value(by_argv, i, first), "%s by argv over variable",
              row->name);
        if (row->kind == KIND_FLAG)
            continue;
        options_free(&by_argv);
        snprintf(line, sizeof line, "%s --%s %s", verb_of(row->verbs), row->name, first);
        check(read_line(&by_argv, line, NULL, &err) == OK, "%s: %s", row->name, err.text);
        check(by_argv != NULL && has_value(by_argv, i, first), "%s by two words", row->name);
    }
    unlink(path);
    rmdir(folder);
}

TEST(every_alias_is_its_option)
{
    for (const struct option_alias *a = option_aliases; a->alias != NULL; a++) {
        CLEANUP(options_free) struct options *argv = NULL, *variable = NULL;
        enum option_id id = option_find(slice_of(a->name));
        char line[256], environment[256], name[96], first[64], second[64];
        struct err err = { 0 };
        check_or_stop(id != OPT_IDS, "%s names no option", a->name);
        samples(&option_rows[id], first, second, sizeof first);
        snprintf(line, sizeof line, "serve --%s %s", a->alias, first);
        check(read_line(&argv, line, NULL, &err) == OK && has_value(argv, id, first), "%s: %s",
              a->alias, err.text);
        snprintf(environment, sizeof environment, "%s=%s",
                 option_variable(name, sizeof name, a->alias), first);
        check(read_line(&variable, "serve", environment, &err) == OK &&
                  has_value(variable, id, first),
              "%s: %s", name, err.text);
    }
}

TEST(the_table_is_sound)
{
    for (uint32_t i = 0; i < OPT_IDS; i++) {
        const struct option *row = &option_rows[i];
        size_t size = strlen(row->help);
        check(row->verbs != 0, "%s belongs to no verb", row->name);
        check(size > 10 && row->help[size - 1] != '.', "%s: '%s'", row->name, row->help);
        check((row->metavar == NULL) == (row->kind == KIND_FLAG || row->kind == KIND_HELP), "%s",
              row->name);
        for (uint32_t j = 0; j < i; j++) {
            check(strcmp(row->name, option_rows[j].name) != 0, "%s is there twice", row->name);
            check(row->short_name == 0 || row->short_name != option_rows[j].short_name ||
                      (row->verbs & option_rows[j].verbs) == 0,
                  "-%c is there twice", row->short_name);
        }
    }
}

/* -- what is wrong with a command line --------------------------------------------------------- */

static const struct {
    const char *line, *environment;
    enum err_code code;
    const char *part;
} wrong[] = {
    { "serv x", NULL, E_INVALID,
      "no verb 'serv'; did you mean 'serve'? the verbs are serve, call" },
    { "frobnicate", NULL, E_INVALID, "no verb 'frobnicate'; the verbs are serve, call" },
    { "--listen x serve", NULL, E_INVALID, "the verb comes first: penstock serve --listen" },
    { "serve --lisen x", NULL, E_INVALID, "no option --lisen; did you mean --listen?" },
    { "serve --qqqq", NULL, E_INVALID, "no option --qqqq (penstock serve --help lists them)" },
    { "serve --grpc-port 8001", NULL, E_INVALID,
      "no option --grpc-port: HTTP and gRPC share one port, and --listen 127.0.0.1:8000 gives it" },
    { "serve --http-port=8000", NULL, E_INVALID, "no option --http-port: HTTP and gRPC share" },
    { "serve --port 9000", NULL, E_INVALID, "no option --port: HTTP and gRPC share" },
    { "models --port 9000", NULL, E_INVALID, "no option --port (penstock models --help" },
    { "serve -z", NULL, E_INVALID, "no option -z" },
    { "serve --server x", NULL, E_INVALID,
      "--server is not an option of `penstock serve`, but of: call, models, explain" },
    { "serve --listen", NULL, E_INVALID, "--listen needs a value: --listen ADDRESS" },
    { "serve --listen --loops 2", NULL, E_INVALID, "--listen needs a value" },
    { "serve -l", NULL, E_INVALID, "-l needs a value" },
    { "serve --loops 1.5", NULL, E_INVALID, "--loops: '1.5' is not a whole number" },
    { "serve --loops 257", NULL, E_INVALID, "--loops: '257' is out of range: from 0 to 256" },
    { "serve --max-body 1XB", NULL, E_INVALID, "--max-body: '1XB' is not a size, such as 64MiB" },
    { "serve --http-max-input-size x", NULL, E_INVALID, "--http-max-input-size: 'x'" },
    { "serve --drain-timeout 5", NULL, E_INVALID,
      "--drain-timeout: '5' is not a time with its unit, such as 5s" },
    { "serve --execution inlin", NULL, E_INVALID,
      "--execution: 'inlin' is none of auto|inline|queued; did you mean 'inline'?" },
    { "serve --strict-readiness=maybe", NULL, E_INVALID, "'maybe' is neither true nor false" },
    { "serve --no-listen", NULL, E_INVALID, "no option --no-listen" },
    { "serve --runtime-dir lib", NULL, E_INVALID, "--runtime-dir: 'lib' is not an absolute path" },
    { "serve --runtime-dir=", NULL, E_INVALID, "--runtime-dir: an empty path" },
    { "serve", "PENSTOCK_LOOPS=many", E_PRECONDITION,
      "PENSTOCK_LOOPS: 'many' is not a whole number" },
    { "serve", "PENSTOCK_RUNTIME_DIR=/a:b", E_PRECONDITION,
      "PENSTOCK_RUNTIME_DIR: 'b' is not an absolute path" },
    { "serve --config /nowhere/p.yaml", NULL, E_PRECONDITION,
      "--config: cannot open /nowhere/p.yaml: No such file" },
    { "serve", "PENSTOCK_CONFIG=/nowhere/p.yaml", E_PRECONDITION,
      "PENSTOCK_CONFIG: cannot open /nowhere/p.yaml" },
    { "call iris --field x", NULL, E_INVALID, "--field: 'x' is not NAME=VALUE" },
    { "call iris --sepal", NULL, E_INVALID, "--sepal needs a value" },
    { "call iris --=5", NULL, E_INVALID, "'--=' names no input" },
    { "--help=html", NULL, E_INVALID, "--help has the forms" },
    { "help serv", NULL, E_INVALID, "did you mean 'serve'?" },
};

TEST(wrong_command_lines)
{
    for (size_t i = 0; i < COUNT(wrong); i++) {
        CLEANUP(options_free) struct options *o = NULL;
        struct err err = { 0 };
        enum err_code code = read_line(&o, wrong[i].line, wrong[i].environment, &err);
        check(code == wrong[i].code, "%s: %d", wrong[i].line, code);
        check(strstr(err.text, wrong[i].part) != NULL, "%s: %s", wrong[i].line, err.text);
        check(o == NULL, "%s", wrong[i].line);
    }
}

TEST(what_a_command_line_may_look_like)
{
    CLEANUP(options_free) struct options *o = NULL, *p = NULL, *q = NULL, *r = NULL, *s = NULL;
    struct err err = { 0 };

    check_or_stop(read_line(&o, "serve a --listen :1 -l :2 b --no-strict-readiness -- --c",
                            "PENSTOCK_LISTEN=:3 PENSTOCK_LOOPS= PENSTOCKX=1", &err) == OK,
                  "%s", err.text);
    check(o->values[OPT_MODELS].items_count == 3, "%u", o->values[OPT_MODELS].items_count);
    check(strcmp(o->values[OPT_MODELS].items[2], "--c") == 0, "behind -- all are arguments");
    check(o->values[OPT_LISTEN].items_count == 2, "a list replaces the weaker one: %u",
          o->values[OPT_LISTEN].items_count);
    check(!options_flag(o, OPT_STRICT_READINESS), "--no-");
    check(!options_is_set(o, OPT_LOOPS), "an empty variable is none");

    check_or_stop(read_line(&p, "call iris --sepal_length 5.1 --x=-1 --y -2 --field listen=3 -t",
                            NULL, &err) == OK,
                  "%s", err.text);
    check(p->fields_count == 4, "%u", p->fields_count);
    check(strcmp(p->fields[1].value, "-1") == 0 && strcmp(p->fields[2].value, "-2") == 0, "signs");
    check(strcmp(p->fields[3].name, "listen") == 0, "%s", p->fields[3].name);
    check(options_flag(p, OPT_TIMING), "-t");
    check(p->arguments_count == 1 && strcmp(p->arguments[0], "iris") == 0, "the model");

    check_or_stop(read_line(&q, "serve", "PENSTOCK_LISTEN=:1,:2 PENSTOCK_MODELS=/a:/b", &err) == OK,
                  "%s", err.text);
    check(q->values[OPT_LISTEN].items_count == 2 && q->values[OPT_MODELS].items_count == 2,
          "lists in variables");

    check_or_stop(read_line(&r, "serve", "PENSTOCK_LISTN=:1 PENSTOCK_SOMETHING_ELSE=2", &err) == OK,
                  "%s", err.text);
    check(r->notes_count == 1 && strstr(r->notes[0], "did you mean PENSTOCK_LISTEN?") != NULL, "%u",
          r->notes_count);

    check_or_stop(read_line(&s, "serve --help --nothing", NULL, &err) == E_INVALID, "%s", err.text);
    check_or_stop(read_line(&s, "serve --help", NULL, &err) == OK, "%s", err.text);
    check(s->wants_help && s->verb == VERB_SERVE, "help of a verb");
}

/* -- the file ---------------------------------------------------------------------------------- */

static const struct {
    const char *yaml;
    enum err_code code;
    const char *part;
} files[] = {
    { "", OK, "" },
    { "# nothing\n", OK, "" },
    { "---\nloops: 2\n...\n", OK, "" },
    { "listen: [':1', ':2']\n", OK, "" },
    { "listen:\n  - :1\n", OK, "" },
    { "model-store: models\n", OK, "" },
    { "lisen: :1\n", E_PRECONDITION,
      "p.yaml, line 1: unknown key 'lisen'; did you mean 'listen'?" },
    { "loops: 2\n\nqqqqq: 1\n", E_PRECONDITION, "p.yaml, line 3: unknown key 'qqqqq' (penstock" },
    { "loops: 2\nloops: 3\n", E_PRECONDITION, "p.yaml, line 2: 'loops' stands there twice" },
    { "max-body: 1\nbody-bytes-max: 2\n", E_PRECONDITION, "line 2: 'max-body' stands there twice" },
    { "loops: many\n", E_PRECONDITION, "p.yaml, line 1: loops: 'many' is not a whole number" },
    { "loops:\n", E_PRECONDITION, "p.yaml, line 1: loops has no value" },
    { "loops: ~\n", E_PRECONDITION, "has no value" },
    { "loops: [1]\n", E_PRECONDITION, "line 1: 'loops' takes one value, not a list" },
    { "loops: {a: 1}\n", E_PRECONDITION, "line 1: expected a value or a list" },
    { "listen: [[a]]\n", E_PRECONDITION, "line 1: a list is not expected here" },
    { "listen: [{a: 1}]\n", E_PRECONDITION, "line 1: expected a value or a list" },
    { "[loops]\n", E_PRECONDITION, "line 1: a list is not expected here" },
    { "loops\n", E_PRECONDITION, "line 1: expected `name: value` lines" },
    { "? [a]\n: 1\n", E_PRECONDITION, "line 1: a list is not expected here" },
    { "loops: &a 1\nqueue-max: *a\n", E_PRECONDITION, "line 2: anchors and aliases are not used" },
    { "loops: 1\n---\nloops: 2\n", E_PRECONDITION, "a second document begins" },
    { "loops: 1\nlisten: \"x\n", E_PRECONDITION, "p.yaml, line 3, column 1: " },
    { "\t\tloops: 1\n", E_PRECONDITION, "p.yaml, line 1, column " },
    { "loops: \"a\\x01b\"\n", E_PRECONDITION, "control characters in the value" },
    { "config: other.yaml\n", E_PRECONDITION, "'config' has no place in a file" },
    { "field: [a=1]\n", E_PRECONDITION, "'field' has no place in a file" },
    { "runtime-dir: \"\"\n", E_PRECONDITION, "an empty path" },
};

TEST(file_cases)
{
    for (size_t i = 0; i < COUNT(files); i++) {
        CLEANUP(options_free) struct options *o = NULL;
        struct err err = { 0 };
        check_or_stop(options_new(&o, &err) == OK, "%s", err.text);
        enum err_code code = options_read_yaml(o, slice_of(files[i].yaml), "p.yaml", "/etc", &err);
        check(code == files[i].code, "'%s': %d %s", files[i].yaml, code, err.text);
        check(strstr(err.text, files[i].part) != NULL, "'%s': %s", files[i].yaml, err.text);
    }
}

TEST(paths_of_a_file_are_relative_to_it)
{
    CLEANUP(options_free) struct options *o = NULL;
    struct err err = { 0 };

    check_or_stop(options_new(&o, &err) == OK, "%s", err.text);
    check_or_stop(options_read_yaml(o, slice_of("models: [m, /n]\nruntime-dir: lib\nlisten: m\n"),
                                    "p.yaml", "/etc/penstock", &err) == OK,
                  "%s", err.text);
    check(strcmp(o->values[OPT_MODELS].items[0], "/etc/penstock/m") == 0, "%s",
          o->values[OPT_MODELS].items[0]);
    check(strcmp(o->values[OPT_MODELS].items[1], "/n") == 0, "%s", o->values[OPT_MODELS].items[1]);
    check(strcmp(o->values[OPT_RUNTIME_DIR].items[0], "/etc/penstock/lib") == 0, "%s",
          o->values[OPT_RUNTIME_DIR].items[0]);
    check(strcmp(o->values[OPT_LISTEN].items[0], "m") == 0, "%s", o->values[OPT_LISTEN].items[0]);
}

TEST(origins_are_named)
{
    CLEANUP(options_free) struct options *o = NULL;
    char name[256], path[] = "/tmp/penstock-origin-XXXXXX", line[128];
    struct err err = { 0 };

    int fd = mkstemp(path);
    require(fd >= 0 && write(fd, "\n\nloops: 3\n", 11) == 11);
    close(fd);
    snprintf(line, sizeof line, "serve --listen x --config %s", path);
    check_or_stop(read_line(&o, line, "PENSTOCK_MAX_BODY=1MiB", &err) == OK, "%s", err.text);
    check(strcmp(options_origin(o, OPT_LISTEN, name, sizeof name), "--listen") == 0, "%s", name);
    check(strcmp(options_origin(o, OPT_MAX_BODY, name, sizeof name), "PENSTOCK_MAX_BODY") == 0,
          "%s", name);
    options_origin(o, OPT_LOOPS, name, sizeof name);
    check(strncmp(name, path, strlen(path)) == 0 && strstr(name, ", line 3: loops") != NULL, "%s",
          name);
    unlink(path);
}

/* -- help -------------------------------------------------------------------------------------- */

TEST(help_names_every_option_within_its_columns)
{
    for (const struct verb_row *row = verb_rows; row->verb != VERB_NONE; row++) {
        CLEANUP(text_deinit) struct text out;
        text_init(&out, 1 << 20);
        help_write(&out, row->verb, 80, false);
        const char *text = text_cstr(&out);
        for (uint32_t i = 0; i < OPT_IDS; i++) {
            char wanted[64];
            snprintf(wanted, sizeof wanted, "--%s", option_rows[i].name);
            bool is_of_verb = (option_rows[i].verbs & (uint32_t)row->verb) != 0;
            check(!is_of_verb || strstr(text, wanted) != NULL, "%s lacks %s", row->name, wanted);
        }
        bool is_option = false;
        for (const char *line = text; *line != '\0';) {
            size_t size = strcspn(line, "\n");
            is_option |= strncmp(line, "  --", 4) == 0 || strncmp(line, "  -h", 4) == 0;
            check(!is_option || size <= 80, "%s: '%.*s'", row->name, (int)size, line);
            line += size + (line[size] == '\n');
        }
        check(strstr(text, "\033[") == NULL, "no colours unless asked");
        check(strstr(text, "penstock ") != NULL, "%s has no example", row->name);
    }
}

TEST(docs_are_what_the_program_says)
{
    CLEANUP(buf_unref) struct buf *file = NULL;
    CLEANUP(text_deinit) struct text out;
    struct err err = { 0 };

    text_init(&out, 1 << 20);
    help_markdown(&out);
    check_or_stop(!text_failed(&out), "no memory");
    check_or_stop(file_read(&file, NULL, "docs/options.md", 1 << 20, &err) == OK, "%s", err.text);
    check(slice_eq(text_slice(&out), buf_bytes(file)),
          "docs/options.md is stale: penstock --help=markdown > docs/options.md");
}

/* -- faults ------------------------------------------------------------------------------------ */

TEST(reading_survives_every_fault)
{
    char path[] = "/tmp/penstock-fault-XXXXXX", line[128];

    int fd = mkstemp(path);
    require(fd >= 0 && write(fd, "listen: [a, b]\nloops: 2\n", 24) == 24);
    close(fd);
    snprintf(line, sizeof line, "serve a b c --config %s", path);
    for_each_fault(nth) {
        CLEANUP(options_free) struct options *o = NULL;
        struct err err = { 0 };
        enum err_code code =
            read_line(&o, line, "PENSTOCK_ALLOW_HOST=a,b,c PENSTOCK_LISTN=x", &err);
        if (!fault_fired()) {
            check(code == OK, "%s", err.text);
            break;
        }
        check(code != OK && err.text[0] != '\0' && o == NULL, "fault %u: %d %s", nth, code,
              err.text);
    }
    unlink(path);
}
