/* options.h - what was asked for: argv over environment over configuration file over defaults.
 *
 * One table, src/tables/options.def, says every option; nothing else here knows one by name. A
 * value remembers where it came from, so that an error can name the option, the variable or the line.
 *
 * Life     options_read at the start; read-only afterwards, any thread; options_free at the end.
 */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include "base/err.h"
#include "base/slice.h"
#include "base/text.h"

struct arena;

enum verb {
    VERB_NONE,
    VERB_SERVE = 1,
    VERB_CALL = 2,
    VERB_MODELS = 4,
    VERB_EXPLAIN = 8,
    VERB_VERSION = 16,
    VERB_TOP = 64,
    VERB_KEY = 128
};

enum option_kind {
    KIND_FLAG,     /* --x, --no-x, --x=true|false */
    KIND_COUNT,    /* 12 */
    KIND_SIZE,     /* 64MiB, in bytes */
    KIND_DURATION, /* 250ms, in nanoseconds */
    KIND_RATIO,    /* 0.01, 1/100; in parts of 10^9 */
    KIND_CHOICE,   /* one of the table's words; the number is its index */
    KIND_TEXT,
    KIND_LIST,  /* repeatable; the variable separates by commas */
    KIND_PATHS, /* repeatable; the variable separates by colons; a file's are relative to it */
    KIND_FIXED_PATHS, /* as KIND_PATHS, but absolute except in a file: never from the directory one
                         happens to stand in, since code is loaded from there */
    KIND_PATH_SETS, /* repeatable; each some KIND_PATHS with commas between, or a word; the variable
                       separates by colons */
    KIND_HELP
};

enum option_group {
    GROUP_MODELS,
    GROUP_LISTENING,
    GROUP_EXECUTION,
    GROUP_LIMITS,
    GROUP_ACCESS,
    GROUP_RUNTIMES,
    GROUP_SEEING,
    GROUP_CALLING,
    GROUP_OUTPUT,
    GROUP_GENERAL,
    GROUPS
};

enum option_id {
#define OPTION(id, verbs, name, short_name, kind, fallback, values, metavar, group, help) OPT_##id,
#define ALIAS(alias, name)
#include "tables/options.def"
#undef OPTION
#undef ALIAS
    OPT_IDS
};

struct option {
    const char *name;
    const char *fallback; /* the default, as it would be written */
    const char *values;   /* range or choices, or NULL */
    const char *metavar;  /* or NULL */
    const char *help;
    enum option_kind kind;
    enum option_group group;
    uint32_t verbs; /* bits of enum verb */
    char short_name;
};
extern const struct option option_rows[OPT_IDS];
struct option_alias {
    const char *alias, *name;
};
extern const struct option_alias option_aliases[]; /* ends with NULL */
extern const char *const option_group_titles[GROUPS];

struct verb_row {
    enum verb verb;
    const char *name;
    const char *arguments; /* "[PATH...]" */
    const char *summary;   /* a line */
    const char *text;      /* what --help of the verb teaches */
};
extern const struct verb_row verb_rows[]; /* ends with VERB_NONE */

enum option_source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_ARGV };

struct option_value {
    enum option_source source;
    uint32_t line; /* SOURCE_FILE */
    uint64_t number;
    const char *text;
    uint32_t items_count;
    const char **items;
};

struct option_field {
    const char *name, *value;
};

struct options {
    struct arena *arena; /* owned: everything below */
    const char *program; /* how it was called, for lines to paste: "penstock", "build/penstock" */
    enum verb verb;      /* VERB_NONE: --help or --version without one */
    bool wants_help;
    bool is_misused;       /* there was no word at all: help is the answer, and it is no success */
    const char *help_form; /* "", "markdown" */
    struct option_value values[OPT_IDS];
    const char *config_path;  /* NULL: none */
    uint32_t arguments_count; /* what is no option, behind the verb */
    const char **arguments;
    uint32_t fields_count; /* call: --NAME VALUE that is no option of ours, and --field */
    struct option_field *fields;
    uint32_t notes_count; /* variables that look misspelt: worth a warning */
    const char **notes;
};

/* E_INVALID: the command line is wrong (exit 2). E_PRECONDITION: environment or file are (exit 1).
 * argv[0] is the program; `environment` as environ, or NULL for none. */
MUST_USE enum err_code options_read(struct options **ret, int argc, const char *const *argv,
                                    const char *const *environment, struct err *err);
void options_free(struct options **options);

/* The configuration file alone, into `options` (values that stand higher stay): for options_read
 * and the fuzzer. `folder` is what its relative paths are relative to. */
MUST_USE enum err_code options_read_yaml(struct options *options, struct slice yaml,
                                         const char *path, const char *folder, struct err *err);
/* An empty one, all defaults, for tests. */
MUST_USE enum err_code options_new(struct options **ret, struct err *err);

static inline bool options_flag(const struct options *o, enum option_id id)
{
    return o->values[id].number != 0;
}
static inline uint64_t options_number(const struct options *o, enum option_id id)
{
    return o->values[id].number;
}
static inline uint32_t options_u32(const struct options *o, enum option_id id)
{
    return (uint32_t)MIN(o->values[id].number, (uint64_t)UINT32_MAX);
}
static inline uint64_t options_ms(const struct options *o, enum option_id id)
{
    return (o->values[id].number + 999999) / 1000000;
}
static inline double options_ratio(const struct options *o, enum option_id id)
{
    return (double)o->values[id].number / 1e9;
}
static inline const char *options_text(const struct options *o, enum option_id id)
{
    return o->values[id].text;
}
static inline bool options_is_set(const struct options *o, enum option_id id)
{
    return o->values[id].source != SOURCE_DEFAULT;
}
/* How to name an option in an error: "--listen", "PENSTOCK_LISTEN", "penstock.yaml, line 3". */
const char *options_origin(const struct options *o, enum option_id id, char *out, size_t size);

/* PENSTOCK_MAX_BODY for "max-body". Returns out. */
const char *option_variable(char *out, size_t size, const char *name);
/* OPT_IDS when there is none of that name or alias. */
enum option_id option_find(struct slice name);

/* "64MiB", "250ms"; false when it is none. */
bool size_parse(struct slice text, uint64_t *ret_bytes);
bool duration_parse(struct slice text, uint64_t *ret_ns);
bool ratio_parse(struct slice text, uint64_t *ret); /* "0.25", "1/4": parts of RATIO_ONE; 0..1 */
#define RATIO_ONE UINT64_C(1000000000)

/* Help: of everything (VERB_NONE) or of one verb; columns: where to wrap. */
void help_write(struct text *out, enum verb verb, uint32_t columns, bool has_colour);
/* docs/options.md */
void help_markdown(struct text *out);

#endif
