/* verbs.h - what main calls: one function a verb, each returns the exit status. The starting
 * thread's; they block. */
#ifndef CLI_VERBS_H
#define CLI_VERBS_H

struct options;

int verb_serve(const struct options *options);
int verb_call(const struct options *options);
int verb_models(const struct options *options);
int verb_explain(const struct options *options);
int verb_top(const struct options *options);
int verb_key(const struct options *options);
int verb_version(const struct options *options);
extern const char version_compiler[]; /* "gcc 12.2.0" */

/* Applies --log-level and --log-format, and warns of what options_read noted. */
void verbs_start_log(const struct options *options);

#endif
