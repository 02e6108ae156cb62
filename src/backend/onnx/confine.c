/* confine.c - which files a model may have read for it.
 *
 * External weights are checked by name before the runtime opens them: it would read any file of the
 * machine, and even an address of this process, that a model cares to name.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "backend/onnx/opening.h"

/* Both are real paths. */
static bool is_within(const char *folder, const char *path)
{
    size_t size = strlen(folder);

    return strncmp(folder, path, size) == 0 &&
           (path[size] == '/' || (size > 0 && folder[size - 1] == '/'));
}

static bool has_dotdot(struct slice path)
{
    while (path.size > 0) {
        size_t end = slice_find(path, '/');
        if (slice_is(slice_first(path, end), ".."))
            return true;
        path = slice_skip(path, MIN(end + 1, path.size));
    }
    return false;
}

enum err_code onnx_allow_external(void *context, struct slice location, struct err *err)
{
    struct opening *opening = context;
    char path[PATH_MAX], real[PATH_MAX];
    struct stat st;

    if (location.size > 0 && slice_eq(location, opening->last_location))
        return OK;
    if (location.size == 0 || location.size >= 1024 || slice_find(location, 0) < location.size ||
        location.data[0] == '/' || location.data[0] == '*' || has_dotdot(location))
        return err_set(err, E_PERMISSION,
                       "the model keeps weights in '%.*s'; only a file in or below the model's own "
                       "folder is allowed, by a relative path without '..'",
                       (int)MIN(location.size, (size_t)200), (const char *)location.data);
    int wrote = snprintf(path, sizeof path, "%s/%.*s", opening->base, SLICE_ARG(location));
    if (wrote < 0 || (size_t)wrote >= sizeof path || realpath(path, real) == NULL ||
        stat(real, &st) != 0)
        return err_set(err, E_NOT_FOUND,
                       "the model keeps weights in '%.*s', which is not beside it: copy that file "
                       "too",
                       SLICE_ARG(location));
    if (!is_within(opening->folder, real))
        return err_set(err, E_PERMISSION,
                       "the model keeps weights in '%.*s', which is a link out of the model's "
                       "folder: put the file itself there",
                       SLICE_ARG(location));
    if (!S_ISREG(st.st_mode))
        return err_set(err, E_INVALID, "the model's weights '%.*s' are not a regular file",
                       SLICE_ARG(location));
    opening->last_location = location;
    return OK;
}

/* Finds the model's file and the folders that bound it. */
enum err_code onnx_find_file(struct opening *opening, char *ret, size_t ret_size)
{
    const struct penstock_host *host = opening->model->host;
    const char *path = host->model_path(opening->host_model);
    const char *folder = host->model_folder(opening->host_model);
    char wanted[PATH_MAX];
    struct stat st;

    if (path == NULL || stat(path, &st) != 0)
        return err_set(opening->err, E_NOT_FOUND, "there is no model at %s",
                       path != NULL ? path : "(no path)");
    int wrote = snprintf(wanted, sizeof wanted, S_ISDIR(st.st_mode) ? "%s/%s" : "%s", path,
                         opening->settings.filename);
    if (wrote < 0 || (size_t)wrote >= sizeof wanted)
        return err_set(opening->err, E_INVALID, "the path of the model is too long");
    if (stat(wanted, &st) != 0)
        return err_set(opening->err, E_NOT_FOUND,
                       "there is no file %s; another name is given by default_model_filename in "
                       "config.pbtxt",
                       wanted);
    if (!S_ISREG(st.st_mode))
        return err_set(opening->err, E_INVALID, "%s is not a regular file", wanted);
    char real[PATH_MAX];
    if (realpath(wanted, real) == NULL || folder == NULL ||
        realpath(folder, opening->folder) == NULL)
        return err_set(opening->err, E_NOT_FOUND, "cannot resolve the path %s", wanted);
    if (!is_within(opening->folder, real))
        return err_set(opening->err, E_PERMISSION,
                       "%s is a link out of the model's folder, to %s: put the file itself there",
                       wanted, real);
    snprintf(ret, ret_size, "%s", real);
    snprintf(opening->base, sizeof opening->base, "%s", real);
    char *slash = strrchr(opening->base, '/');
    if (slash != NULL)
        *(slash == opening->base ? slash + 1 : slash) = '\0';
    return OK;
}
