/* file.h - whole files in. Blocks: never from a loop. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/err.h"

struct buf;
struct budget;

/* Reads a regular file of at most `bytes_max`. E_NOT_FOUND, E_INVALID (not a file, too large),
 * E_PERMISSION, E_EXHAUSTED; the text names the path. */
MUST_USE enum err_code file_read(struct buf **ret, struct budget *budget, const char *path,
                                 size_t bytes_max, struct err *err);

#endif
