/* beneath.h - files of a model, read and named without ever leaving the model's folder.
 *
 * Symbolic links within the folder are followed; one that leaves it is refused, whoever made it: a
 * model that was downloaded must not be able to show /etc/passwd as its labels. Blocks.
 */
#ifndef REPOSITORY_BENEATH_H
#define REPOSITORY_BENEATH_H

#include "base/err.h"
#include "base/slice.h"

struct arena;

/* Reads the regular file `name` (relative, no matter how many folders deep) beneath `folder`
 * (absolute, without links) into the arena. E_NOT_FOUND; E_PERMISSION when it leads outside;
 * E_INVALID when it is no file or has more than bytes_max. */
MUST_USE enum err_code beneath_read(struct slice *ret, struct arena *arena, const char *folder,
                                    const char *name, size_t bytes_max, struct err *err);

/* The absolute path without links of `name` beneath `folder`, in the arena. The same refusals. */
MUST_USE enum err_code beneath_path(const char **ret, struct arena *arena, const char *folder,
                                    const char *name, struct err *err);

#endif
