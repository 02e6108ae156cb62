/* main.c - finds the verb and runs it. SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/stop.h"
#include "cli/upgrade.h"
#include "cli/verbs.h"

static int say_help(const struct options *options)
{
    int fd = options->is_misused ? STDERR_FILENO : STDOUT_FILENO;
    struct text out;

    text_init(&out, 1 << 20);
    if (options->help_form[0] != '\0')
        help_markdown(&out);
    else
        help_write(&out, options->verb, print_columns(fd), print_has_colour(fd));
    bool was_whole = print_out(fd, &out);
    text_deinit(&out);
    if (options->is_misused)
        return EXIT_USAGE;
    return was_whole ? EXIT_OK : EXIT_FAILED;
}

static int run(const struct options *options)
{
    if (options->wants_help || options->verb != VERB_SERVE)
        stop_unblock();
    if (options->wants_help)
        return say_help(options);
    switch (options->verb) {
    case VERB_SERVE: return verb_serve(options);
    case VERB_CALL: return verb_call(options);
    case VERB_MODELS: return verb_models(options);
    case VERB_EXPLAIN: return verb_explain(options);
    case VERB_TOP: return verb_top(options);
    case VERB_KEY: return verb_key(options);
    case VERB_VERSION: return verb_version(options);
    case VERB_NONE: break;
    }
    return print_failure(EXIT_USAGE, "no verb");
}

int main(int argc, char **argv)
{
    CLEANUP(options_free) struct options *options = NULL;
    struct err err = { 0 };

    stop_block();
    upgrade_init(argv);
    mem_tune();
    enum err_code code =
        options_read(&options, argc, (const char *const *)argv, (const char *const *)environ, &err);
    if (code != OK)
        return print_failure(code == E_INVALID ? EXIT_USAGE : EXIT_FAILED, err.text);
    return run(options);
}
