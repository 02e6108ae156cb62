/* help.c - what --help says and docs/options.md holds, made from the tables.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>

#include "cli/options.h"

enum { HELP_INDENT = 26, HELP_COLUMNS_MIN = 60 };

const char *const option_group_titles[GROUPS] = {
    [GROUP_MODELS] = "Models",   [GROUP_LISTENING] = "Listening", [GROUP_EXECUTION] = "Running",
    [GROUP_LIMITS] = "Limits",   [GROUP_ACCESS] = "Who may call", [GROUP_RUNTIMES] = "Runtimes",
    [GROUP_SEEING] = "Logs and traces",
    [GROUP_CALLING] = "Calling", [GROUP_OUTPUT] = "Output",       [GROUP_GENERAL] = "General",
};

const struct verb_row verb_rows[] = {
    { VERB_SERVE, "serve", "[PATH...]", "Serve models",
      "Serves every model found at the PATHs. A PATH is a folder of models in Triton's layout\n"
      "(iris/1/model.onnx), a folder that is one model, a folder of model files, or one file.\n"
      "No configuration is needed; config.pbtxt and model.yaml are read where they lie beside a\n"
      "model. Prints where it listens, what it found, and lines to try it with. Ends on SIGTERM or\n"
      "Ctrl-C once the requests under way are answered; a second one ends it at once.\n"
      "\n"
      "  penstock serve iris.onnx\n"
      "  penstock serve models/ --listen 127.0.0.1:9000\n"
      "  penstock serve models/ --listen :8000 --allow-host models.example\n"
      "  penstock serve --config /etc/penstock.yaml\n" },
    { VERB_CALL, "call", "MODEL", "Ask a model",
      "Sends one request to a model and prints its answer. Each input of the model is an option:\n"
      "--NAME VALUE. A VALUE is a number, a word, a list (5.1,3.5,1.4 or JSON), @FILE for what a\n"
      "file holds, or - for standard input. `penstock explain MODEL` says which inputs there are.\n"
      "\n"
      "  penstock call spam --text \"You have won a prize\"\n"
      "  penstock call iris --input 5.1,3.5,1.4,0.2\n"
      "  penstock call iris -d '{\"input\": [[5.1, 3.5, 1.4, 0.2]]}' --json\n"
      "  penstock call spam --text @mail.txt --timing\n"
      "  penstock call --grpc spam --text \"You have won a prize\" --wire\n"
      "  penstock call --grpc inference.GRPCInferenceService/ServerLive -d '{}'\n"
      "  penstock call repeat --stream --text \"Once upon a time\"\n"
      "  penstock call anomaly --stream < readings.jsonl\n"
      "  penstock call bytes --upload disk.img\n"
      "\n"
      "With --grpc the same arguments go to penstock.models.*/Predict; MODEL may also be a method\n"
      "(package.Service/Method) of any gRPC server that has reflection. --wire shows each frame.\n"
      "\n"
      "--stream prints each answer as it comes, one JSON value a line; without inputs it sends one\n"
      "message for each line of standard input, over one gRPC stream (PredictSession, or a METHOD\n"
      "that streams). --chat does so with what is typed. --upload sends a file of any size in\n"
      "parts, and goes on where a broken connection stopped it.\n" },
    { VERB_MODELS, "models", "[MODEL...]", "List the models of a server",
      "Lists the models of a running server: state, inputs, outputs, and why one is not ready.\n"
      "With --ready it answers only whether they are (0: yes, 3: no).\n"
      "\n"
      "  penstock models\n"
      "  penstock models --json\n"
      "  penstock models --ready iris && echo go\n" },
    { VERB_EXPLAIN, "explain", "MODEL|PATH", "Say what was inferred, and why",
      "Shows the configuration of a model, where each fact in it came from, what it takes and\n"
      "gives, how it runs and why. With the name of a model it asks the server; with a PATH it\n"
      "loads the model itself, and no server is needed.\n"
      "\n"
      "  penstock explain iris\n"
      "  penstock explain ./models/iris\n"
      "  penstock explain iris.onnx --json\n" },
    { VERB_TOP, "top", "", "Watch a server at work",
      "Shows what a running server does, once a second: requests, errors and times by route and by\n"
      "model, what waits and runs, streams, memory, how busy its loops are. It only reads /metrics.\n"
      "On a terminal: q ends, s sorts, p pauses, ? says the other keys and what the columns mean.\n"
      "Into a pipe each look is printed below the one before.\n"
      "\n"
      "  penstock top\n"
      "  penstock top --server http://10.0.0.7:8000 --interval 5s\n"
      "  penstock top --once --sort time\n"
      "  penstock top --once --json | jq '.models[] | {model, p99_seconds}'\n" },
    { VERB_KEY, "key", "NAME", "Make a key for a caller",
      "Makes a new random key for the caller NAME, and prints it once with the line that the file\n"
      "of --access takes. The server keeps its SHA-256 only: who loses a key gets a new one.\n"
      "\n"
      "  penstock key alice\n"
      "  penstock key ci --tenant batch --expires 2027-12-31\n"
      "  penstock key alice --json\n" },
    { VERB_VERSION, "version", "", "Say which version this is",
      "Prints the version, what it was built with, and the runtimes that were found.\n"
      "\n"
      "  penstock version\n"
      "  penstock version --json\n" },
    { VERB_NONE, NULL, NULL, NULL, NULL },
};

static const char exits_text[] =
    "0  it worked, or the answer is yes\n"
    "1  it failed: the server could not start, was not there, or refused; a file\n"
    "   or a variable is wrong or missing\n"
    "2  the command line is wrong: it takes other words\n"
    "3  the answer is no (penstock models --ready)\n";

/* Words of `words`, wrapped, continued at column `indent`; the cursor is at `at`. */
static void put_wrapped(struct text *out, const char *words, uint32_t indent, uint32_t at,
                        uint32_t columns)
{
    bool is_first = true;

    while (*words != '\0') {
        size_t size = strcspn(words, " ");
        if (!is_first && at + 1 + size > columns) {
            text_printf(out, "\n%*s", (int)indent, "");
            at = indent;
        } else if (!is_first) {
            text_byte(out, ' ');
            at++;
        }
        text_put(out, words, size);
        at += (uint32_t)size;
        is_first = false;
        words += size + strspn(words + size, " ");
    }
    text_byte(out, '\n');
}

static void put_title(struct text *out, const char *title, bool has_colour)
{
    text_printf(out, has_colour ? "\n\033[1m%s\033[0m\n" : "\n%s\n", title);
}

/* Lines as they are, two columns in. */
static void put_block(struct text *out, const char *lines)
{
    while (*lines != '\0') {
        size_t size = strcspn(lines, "\n");
        if (size > 0)
            text_printf(out, "  %.*s", (int)size, lines);
        text_byte(out, '\n');
        lines += size + (lines[size] == '\n');
    }
}

/* "from 1 to 16", "auto|inline|queued", "default 30s": behind the help of an option. */
static void put_facts(struct text *out, const struct option *row)
{
    if (row->kind == KIND_CHOICE)
        text_printf(out, " (%s; default %s)", row->values, row->fallback);
    else if (row->kind == KIND_FLAG && strcmp(row->fallback, "true") == 0)
        text_printf(out, " (default; --no-%s turns it off)", row->name);
    else if (row->fallback[0] != '\0' && row->kind != KIND_FLAG)
        text_printf(out, " (default %s)", row->fallback);
    if (row->kind == KIND_LIST || row->kind == KIND_PATHS || row->kind == KIND_FIXED_PATHS ||
        row->kind == KIND_PATH_SETS)
        text_str(out, "; may be repeated");
}

static void put_option(struct text *out, const struct option *row, uint32_t columns)
{
    char words[1024];
    struct text help;

    size_t before = out->size;
    if (row->short_name != 0)
        text_printf(out, "  -%c, --%s", row->short_name, row->name);
    else
        text_printf(out, "  --%s", row->name);
    if (row->metavar != NULL)
        text_printf(out, " %s", row->metavar);
    uint32_t at = (uint32_t)(out->size - before);
    if (at + 2 > HELP_INDENT)
        text_printf(out, "\n%*s", HELP_INDENT, "");
    else
        text_printf(out, "%*s", (int)(HELP_INDENT - at), "");
    text_init_fixed(&help, words, sizeof words - 1);
    text_str(&help, row->help);
    put_facts(&help, row);
    words[help.size] = '\0';
    put_wrapped(out, words, HELP_INDENT, HELP_INDENT, columns);
}

static void put_options(struct text *out, enum verb verb, uint32_t columns, bool has_colour)
{
    for (uint32_t group = 0; group < GROUPS; group++) {
        bool has_title = false;
        for (uint32_t i = 0; i < OPT_IDS; i++) {
            const struct option *row = &option_rows[i];
            if (row->group != group || !(row->verbs & (uint32_t)verb))
                continue;
            if (!has_title)
                put_title(out, option_group_titles[group], has_colour);
            has_title = true;
            put_option(out, row, columns);
        }
    }
}

static void help_all(struct text *out, bool has_colour)
{
    text_str(out,
             "penstock " PENSTOCK_VERSION " - serves machine-learning models over REST and gRPC, "
             "from one port\n");
    put_title(out, "Verbs", has_colour);
    for (const struct verb_row *row = verb_rows; row->verb != VERB_NONE; row++)
        text_printf(out, "  penstock %-8s %-12s %s\n", row->name, row->arguments, row->summary);
    put_title(out, "Begin", has_colour);
    put_block(out,
              "penstock serve iris.onnx\n"
              "curl localhost:8000/models/iris:predict -d '{\"input\": [[5.1, 3.5, 1.4, 0.2]]}'\n"
              "penstock call iris --input 5.1,3.5,1.4,0.2\n");
    put_title(out, "More", has_colour);
    put_block(
        out,
        "penstock serve --help    every option of a verb\n"
        "Each option is also a variable (--max-body: PENSTOCK_MAX_BODY) and a key of a YAML\n"
        "file (penstock serve --config FILE). The command line wins over the environment, and\n"
        "that over the file.\n");
    put_title(out, "Exit status", has_colour);
    put_block(out, exits_text);
}

void help_write(struct text *out, enum verb verb, uint32_t columns, bool has_colour)
{
    columns = columns == 0 ? 100 : MIN(MAX(columns, (uint32_t)HELP_COLUMNS_MIN), 100u);
    if (verb == VERB_NONE) {
        help_all(out, has_colour);
        return;
    }
    for (const struct verb_row *row = verb_rows; row->verb != VERB_NONE; row++) {
        if (row->verb != verb)
            continue;
        text_printf(out, "penstock %s %s%s[OPTIONS]\n\n", row->name, row->arguments,
                    row->arguments[0] == '\0' ? "" : " ");
        text_str(out, row->text);
    }
    put_options(out, verb, columns, has_colour);
    put_title(out, "Exit status", has_colour);
    put_block(out, exits_text);
}

/* -- docs/options.md --------------------------------------------------------------------------- */

/* A table's cell: | would end it. */
static void put_cell(struct text *out, const char *words)
{
    for (; *words != '\0'; words++)
        text_printf(out, *words == '|' ? "\\%c" : "%c", *words);
}

static void put_verbs(struct text *out, uint32_t verbs)
{
    bool is_first = true;

    for (const struct verb_row *row = verb_rows; row->verb != VERB_NONE; row++) {
        if (!(verbs & (uint32_t)row->verb))
            continue;
        text_printf(out, "%s%s", is_first ? "" : ", ", row->name);
        is_first = false;
    }
}

static void put_row(struct text *out, const struct option *row)
{
    char variable[96];

    text_printf(out, "| `--%s%s%s`", row->name, row->metavar != NULL ? " " : "",
                row->metavar != NULL ? row->metavar : "");
    if (row->short_name != 0)
        text_printf(out, ", `-%c`", row->short_name);
    for (const struct option_alias *a = option_aliases; a->alias != NULL; a++) {
        if (strcmp(a->name, row->name) == 0)
            text_printf(out, ", `--%s`", a->alias);
    }
    text_str(out, " | ");
    if (row->kind != KIND_HELP)
        text_printf(out, "`%s`", option_variable(variable, sizeof variable, row->name));
    text_str(out, " | ");
    if (row->fallback[0] != '\0')
        text_printf(out, "`%s`", row->fallback);
    text_str(out, " | ");
    if (row->values != NULL && row->kind == KIND_CHOICE) {
        put_cell(out, row->values);
    } else if (row->values != NULL) {
        size_t dots = strcspn(row->values, ".");
        text_printf(out, "%.*s to %s", (int)dots, row->values, row->values + dots + 2);
    }
    text_str(out, " | ");
    put_verbs(out, row->verbs);
    text_str(out, " | ");
    put_cell(out, row->help);
    if (row->kind == KIND_LIST || row->kind == KIND_PATHS || row->kind == KIND_FIXED_PATHS ||
        row->kind == KIND_PATH_SETS)
        text_str(out, "; may be repeated");
    text_str(out, " |\n");
}

void help_markdown(struct text *out)
{
    text_str(
        out,
        "# Options\n"
        "\n"
        "Made by `penstock --help=markdown` from src/tables/options.def; a test compares them.\n"
        "\n"
        "Each option can be given on the command line (`--max-body 8MiB`), as a variable of the\n"
        "environment (`PENSTOCK_MAX_BODY=8MiB`), or as a key of the YAML file that `--config` or\n"
        "`PENSTOCK_CONFIG` names (`max-body: 8MiB`). The command line wins over the environment,\n"
        "that over the file, and the file over the default.\n"
        "\n"
        "- Sizes: `64MiB` (1024), `64MB` (1000), `64M` as `64MiB`, or bytes.\n"
        "- Parts of all: `0.01`, `1/100`.\n"
        "- Times: `5s`, `250ms`, `1.5m`, `2h`.\n"
        "- Flags: `--name`, `--no-name`, `--name=true|false`.\n"
        "- Lists are repeated on the command line (`--listen A --listen B`), written as a YAML\n"
        "  list in the file, and separated by commas in a variable (paths: by colons). A list\n"
        "  replaces the one of a weaker source.\n"
        "- Relative paths in a file are relative to the file's folder.\n"
        "\n"
        "## Exit status\n"
        "\n```\n");
    text_str(out, exits_text);
    text_str(out, "```\n\n## Verbs\n");
    for (const struct verb_row *row = verb_rows; row->verb != VERB_NONE; row++) {
        text_printf(out, "\n### penstock %s%s%s\n\n```\n%s```\n", row->name,
                    row->arguments[0] == '\0' ? "" : " ", row->arguments, row->text);
    }
    for (uint32_t group = 0; group < GROUPS; group++) {
        text_printf(out, "\n## %s\n\n", option_group_titles[group]);
        text_str(out, "| option | variable | default | values | verbs | what it does |\n"
                      "|---|---|---|---|---|---|\n");
        for (uint32_t i = 0; i < OPT_IDS; i++) {
            if (option_rows[i].group == group)
                put_row(out, &option_rows[i]);
        }
    }
}
