/* scan.c - SPDX-License-Identifier: Apache-2.0
 *
 * A folder is read once into a listing; what it is follows from the names in it:
 *   config.pbtxt, model.yaml or a backend's own file ("model.onnx")       a model
 *   folders named 1, 2, ... that hold a file some backend opens          a model
 *   anything else                                                        looked into
 * A folder right below a path that was named, with version folders and no model file in them, or one
 * that may not be read, is a model too: one with a problem, which is better said than passed over.
 */
#include "repository/scan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <yyjson.h>

#include "base/arena.h"
#include "base/fault.h"
#include "base/map.h"
#include "base/text.h"
#include "base/utf8.h"
#include "model/config.h"
#include "penstock/backend.h"
#include "repository/beneath.h"

struct entry {
    const char *name;
    bool is_folder;
    uint64_t bytes;
    uint64_t version; /* folders: 0 when it is none */
};

struct listing {
    const char *folder; /* absolute, without links */
    const char *where;  /* printable */
    uint32_t count;
    struct entry *entries; /* by name */
    uint32_t versions_count;
    bool has_config;
    const char *card; /* model.yaml or model.yml */
};

static enum err_code no_memory(struct err *err)
{
    return err_set(err, E_EXHAUSTED, "no memory for the list of models");
}

/* `text` with what does not print escaped: names come from files, and terminals obey bytes. */
static const char *printable(struct arena *arena, struct slice text)
{
    struct text out;

    text_init_arena(&out, arena, text.size + 16);
    while (text.size > 0) {
        size_t step = utf8_step(text);
        bool is_control = step == 1 && (text.data[0] < 0x20 || text.data[0] == 0x7f);
        /* U+0080 to U+009F are controls too; U+2028 to U+202E break and turn lines. */
        is_control |= step == 2 && text.data[0] == 0xc2 && text.data[1] < 0xa0;
        is_control |= step == 3 && text.data[0] == 0xe2 && text.data[1] == 0x80 &&
                      text.data[2] >= 0xa8 && text.data[2] <= 0xae;
        if (step == 0 || is_control) {
            step = step == 0 ? 1 : step;
            for (size_t i = 0; i < step; i++)
                text_printf(&out, "\\x%02x", text.data[i]);
        } else {
            text_put(&out, text.data, step);
        }
        text = slice_skip(text, step);
    }
    text_cstr(&out);
    return text_failed(&out) ? NULL : (const char *)out.data;
}

static void add_note(struct scan *scan, const char *note)
{
    if (note != NULL && scan->notes_count < SCAN_NOTES_MAX)
        scan->notes[scan->notes_count++] = note;
}

/* -- backends ---------------------------------------------------------------------------------- */

static bool has_word(const char *list, struct slice word)
{
    struct slice rest = slice_of(list == NULL ? "" : list);

    while (rest.size > 0) {
        size_t end = slice_find(rest, ' ');
        if (slice_eq(slice_first(rest, end), word))
            return true;
        rest = slice_skip(rest, MIN(end + 1, rest.size));
    }
    return false;
}

const struct penstock_backend *scan_backend(const struct scan *scan, struct slice name)
{
    for (uint32_t i = 0; i < scan->backends_count && name.size > 0; i++) {
        const struct penstock_backend *b = scan->backends[i];
        bool has_platform =
            b->size >= offsetof(struct penstock_backend, platform) + sizeof b->platform &&
            b->platform != NULL;
        if (slice_is(name, b->name) || has_word(b->aliases, name) ||
            (has_platform && slice_is(name, b->platform)))
            return b;
    }
    return NULL;
}

/* ".onnx" of "model.onnx"; "" when the backend needs no file. */
static const char *ending_of(const struct penstock_backend *backend)
{
    const char *dot = backend->file == NULL ? NULL : strrchr(backend->file, '.');

    return dot == NULL ? "" : dot;
}

static bool has_ending(const char *name, const struct penstock_backend *backend)
{
    const char *ending = ending_of(backend);
    size_t size = strlen(name), tail = strlen(ending);

    return tail > 0 && size > tail && strcmp(name + size - tail, ending) == 0;
}

static const struct penstock_backend *backend_of_file(const struct scan *scan, const char *name)
{
    for (uint32_t i = 0; i < scan->backends_count; i++) {
        if (has_ending(name, scan->backends[i]))
            return scan->backends[i];
    }
    return NULL;
}

/* "echo, onnxruntime" or ".onnx": in texts. */
static const char *list_backends(const struct scan *scan, bool wants_endings)
{
    struct text out;

    text_init_arena(&out, scan->arena, 64);
    for (uint32_t i = 0; i < scan->backends_count; i++) {
        const char *word = wants_endings ? ending_of(scan->backends[i]) : scan->backends[i]->name;
        if (word[0] != '\0')
            text_printf(&out, "%s%s", out.size == 0 ? "" : ", ", word);
    }
    return text_cstr(&out);
}

/* -- listings ---------------------------------------------------------------------------------- */

/* 0 when the name is no version: those are whole numbers from 1, without leading zeros. */
static uint64_t version_of(const char *name)
{
    uint64_t number;

    if (name[0] == '0' || !slice_to_u64(slice_of(name), &number) || number > INT64_MAX)
        return 0;
    return number;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static void close_dir(DIR **dir)
{
    if (*dir != NULL)
        closedir(*dir);
}

/* What cannot be looked at may have been a model; a link to nothing is none. */
static void note_unseen(struct scan *scan, const char *where, const char *name, int error)
{
    if (error == ENOENT || error == ELOOP)
        return;
    const char *note = arena_printf(scan->arena, "cannot look at %s/%s, which is passed over: %s",
                                    where, name, strerror(error));
    add_note(scan, note == NULL ? NULL : printable(scan->arena, slice_of(note)));
}

static enum err_code add_entry(struct scan *scan, struct listing *list, uint32_t *room, int top,
                               const char *name, struct err *err)
{
    struct stat st;

    if (fstatat(top, name, &st, 0) != 0) {
        note_unseen(scan, list->where, name, errno);
        return OK;
    }
    /* A link to nothing and a pipe are no models: passed over like a README. */
    if (!(S_ISDIR(st.st_mode) || S_ISREG(st.st_mode)))
        return OK;
    if (list->count == *room) {
        uint32_t more = *room == 0 ? 16 : *room * 2;
        struct entry *entries = arena_resize(scan->arena, list->entries,
                                             list->count * sizeof *entries, more * sizeof *entries);
        if (entries == NULL)
            return no_memory(err);
        list->entries = entries;
        *room = more;
    }
    struct entry *entry = &list->entries[list->count];
    *entry = (struct entry){ .name = arena_strndup(scan->arena, name, strlen(name)),
                             .is_folder = S_ISDIR(st.st_mode),
                             .bytes = (uint64_t)st.st_size };
    if (entry->name == NULL)
        return no_memory(err);
    if (entry->is_folder)
        entry->version = version_of(name);
    list->count++;
    list->versions_count += entry->version != 0;
    list->has_config |= !entry->is_folder && strcmp(name, "config.pbtxt") == 0;
    if (!entry->is_folder && (strcmp(name, "model.yaml") == 0 || strcmp(name, "model.yml") == 0))
        list->card = entry->name;
    return OK;
}

static enum err_code list_folder(struct scan *scan, struct listing *list, const char *folder,
                                 const char *where, struct err *err)
{
    CLEANUP(close_dir) DIR *dir = fault_hit() ? (errno = EIO, NULL) : opendir(folder);
    uint32_t room = 0;

    *list = (struct listing){ .folder = folder, .where = where };
    if (dir == NULL)
        return err_set(err, errno == EACCES ? E_PERMISSION : E_NOT_FOUND, "cannot read %s: %s",
                       where, strerror(errno));
    for (struct dirent *at; (at = readdir(dir)) != NULL;) {
        if (at->d_name[0] == '.')
            continue;
        if (++scan->entries > SCAN_ENTRIES_MAX)
            return err_set(err, E_EXHAUSTED,
                           "%s: more than %d files and folders; name the folders that hold models",
                           where, SCAN_ENTRIES_MAX);
        TRY(add_entry(scan, list, &room, dirfd(dir), at->d_name, err));
    }
    if (list->count > 1)
        qsort(list->entries, list->count, sizeof *list->entries, by_name);
    return OK;
}

static const struct entry *entry_of(const struct listing *list, const char *name)
{
    for (uint32_t i = 0; name != NULL && i < list->count; i++) {
        if (strcmp(list->entries[i].name, name) == 0)
            return &list->entries[i];
    }
    return NULL;
}

/* The one file that the backend opens going by its ending; NULL when there is none or several. */
static const struct entry *only_file_of(const struct listing *list,
                                        const struct penstock_backend *backend)
{
    const struct entry *only = NULL;

    for (uint32_t i = 0; i < list->count; i++) {
        if (list->entries[i].is_folder || !has_ending(list->entries[i].name, backend))
            continue;
        if (only != NULL)
            return NULL;
        only = &list->entries[i];
    }
    return only;
}

/* -- one model --------------------------------------------------------------------------------- */

enum err_code scan_config(struct model_config **ret, const struct scan *scan,
                          const struct found *found, struct arena *arena, struct err *err)
{
    CLEANUP(config_free) struct model_config *config = NULL;
    struct slice text;

    if (found->config_file == NULL)
        return config_new(ret, err);
    TRY(beneath_read(&text, arena, found->folder, found->config_file, CONFIG_BYTES_MAX, err));
    if (config_parse(&config, text, err) != OK)
        return err_wrap(err, "%s", found->config_file);
    if (scan->gpu_to_cpu)
        TRY(config_gpu_to_cpu(config, err));
    *ret = TAKE(config);
    return OK;
}

static const char *keep_text(struct scan *scan, const struct err *err)
{
    const char *text = printable(scan->arena, slice_of(err->text));

    return text != NULL ? text : "no memory for the reason";
}

/* One version without a number, for a model of which no version could be found. */
static enum err_code set_problem(struct scan *scan, struct found *found, const char *problem,
                                 struct err *err)
{
    found->problem = problem;
    if (problem == NULL)
        return no_memory(err);
    if (found->versions_count == 0) {
        found->versions = arena_zalloc(scan->arena, sizeof *found->versions);
        if (found->versions == NULL)
            return no_memory(err);
        *found->versions = (struct found_version){ .text = "", .is_served = true };
        found->versions_count = 1;
    }
    for (uint32_t i = 0; i < found->versions_count; i++)
        found->versions[i].problem = problem;
    return OK;
}

static enum err_code set_backend(struct scan *scan, struct found *found,
                                 const struct model_config *config, struct err *err)
{
    const char *key = config->backend[0] != '\0' ? "backend" : "platform";
    const char *name = config->backend[0] != '\0' ? config->backend : config->platform;

    if (name[0] == '\0')
        return OK;
    found->backend = scan_backend(scan, slice_of(name));
    found->backend_why = arena_printf(scan->arena, "%s: %s", found->config_file, key);
    if (found->backend_why == NULL)
        return no_memory(err);
    if (found->backend != NULL)
        return OK;
    return set_problem(scan, found,
                       arena_printf(scan->arena,
                                    "%s asks for %s '%s', which is not here; there are: %s%s%s",
                                    found->config_file, key, name, list_backends(scan, false),
                                    scan->backends_err != NULL ? "; " : "",
                                    scan->backends_err != NULL ? scan->backends_err : ""),
                       err);
}

/* Names of a few entries, for "... holds no model.onnx; there: a, b". */
static const char *list_entries(struct scan *scan, const struct listing *list)
{
    struct text out;
    uint32_t shown = MIN(list->count, 5u);

    text_init_arena(&out, scan->arena, 64);
    for (uint32_t i = 0; i < shown; i++) {
        const char *name = printable(scan->arena, slice_of(list->entries[i].name));
        text_printf(&out, "%s%s", i == 0 ? "; there: " : ", ", name == NULL ? "" : name);
    }
    if (list->count > shown)
        text_printf(&out, " and %u more", list->count - shown);
    if (list->count == 0)
        text_str(&out, "; it is empty");
    return text_cstr(&out);
}

/* Which entry of `list` (a version's folder, or the model's own) is the model, and its path. */
static enum err_code pick_file(struct scan *scan, struct found *found,
                               struct found_version *version, const struct listing *list,
                               const char *below, const char *wanted, struct err *err)
{
    const struct entry *entry = entry_of(list, wanted != NULL ? wanted : found->backend->file);

    if (entry == NULL && wanted == NULL) {
        entry = only_file_of(list, found->backend);
        if (entry != NULL)
            add_note(scan, arena_printf(scan->arena, "%s: no %s, so %s is taken for the model",
                                        list->where, found->backend->file, entry->name));
    }
    if (entry == NULL) {
        version->problem =
            arena_printf(scan->arena, "%s holds no %s%s", list->where,
                         wanted != NULL ? wanted : found->backend->file, list_entries(scan, list));
        return version->problem == NULL ? no_memory(err) : OK;
    }
    struct err own = { 0 };
    const char *name =
        arena_printf(scan->arena, "%s%s%s", below, entry->name, entry->is_folder ? "/" : "");
    /* Triton lets model.onnx be a folder that holds model.onnx and its weights. */
    if (name != NULL && entry->is_folder)
        name = arena_printf(scan->arena, "%s%s", name, entry->name);
    if (name == NULL)
        return no_memory(err);
    version->bytes = entry->bytes;
    if (beneath_path(&version->path, scan->arena, found->folder, name, &own) == OK)
        return OK;
    version->problem = keep_text(scan, &own);
    return own.code == E_EXHAUSTED ? no_memory(err) : OK;
}

static enum err_code set_version_path(struct scan *scan, struct found *found,
                                      struct found_version *version, const char *wanted,
                                      struct err *err)
{
    struct listing list;
    struct err own = { 0 };
    const char *below = arena_printf(scan->arena, "%s/", version->text);
    const char *where = arena_printf(scan->arena, "%s/%s", found->where, version->text);
    const char *folder = NULL;

    if (below == NULL || where == NULL)
        return no_memory(err);
    enum err_code code = beneath_path(&folder, scan->arena, found->folder, version->text, &own);
    if (code == OK)
        code = list_folder(scan, &list, folder, where, &own);
    if (code != OK) {
        version->problem = keep_text(scan, &own);
        return code == E_EXHAUSTED ? err_set(err, code, "%s", own.text) : OK;
    }
    if (found->backend->file == NULL && wanted == NULL) {
        version->path = folder;
        return OK;
    }
    return pick_file(scan, found, version, &list, below, wanted, err);
}

/* Which backend opens what lies in a folder: by its exact file, then by an ending. */
static const struct penstock_backend *guess_backend(struct scan *scan, const struct listing *list)
{
    for (uint32_t i = 0; i < scan->backends_count; i++) {
        if (entry_of(list, scan->backends[i]->file) != NULL)
            return scan->backends[i];
    }
    for (uint32_t i = 0; i < list->count; i++) {
        const struct penstock_backend *b =
            list->entries[i].is_folder ? NULL : backend_of_file(scan, list->entries[i].name);
        if (b != NULL)
            return b;
    }
    return NULL;
}

/* The same over the versions' folders, the highest first. `unread` says which could not be read; NULL: nobody
 * asks. */
static const struct penstock_backend *guess_of_versions(struct scan *scan,
                                                        const struct listing *list,
                                                        struct err *unread)
{
    for (uint32_t i = list->count; i-- > 0;) {
        struct listing below;
        if (list->entries[i].version == 0)
            continue;
        const char *folder =
            arena_printf(scan->arena, "%s/%s", list->folder, list->entries[i].name);
        const char *where =
            arena_printf(scan->arena, "%s/%s", list->where, list->entries[i].name);
        if (folder == NULL || where == NULL ||
            list_folder(scan, &below, folder, where, unread) != OK)
            continue;
        const struct penstock_backend *backend = guess_backend(scan, &below);
        if (backend != NULL)
            return backend;
    }
    return NULL;
}

static bool is_served(const struct model_config *config, const struct found *found, uint32_t index)
{
    const struct found_version *version = &found->versions[index];
    uint32_t latest = MAX(config->versions_latest, 1u);

    if (config->versions_all)
        return true;
    for (uint32_t i = 0; i < config->versions_count; i++) {
        if ((uint64_t)config->versions[i] == version->number)
            return true;
    }
    return config->versions_count == 0 && found->versions_count - index <= latest;
}

static int by_number(const void *a, const void *b)
{
    uint64_t left = ((const struct found_version *)a)->number;
    uint64_t right = ((const struct found_version *)b)->number;

    return (left > right) - (left < right);
}

static bool has_version(const struct found *found, int64_t number)
{
    for (uint32_t i = 0; i < found->versions_count; i++) {
        if (found->versions[i].number == (uint64_t)number)
            return true;
    }
    return false;
}

/* A version that the policy names and that is not there is one that cannot be loaded. */
static enum err_code add_missing(struct scan *scan, struct found *found,
                                 const struct model_config *config, struct err *err)
{
    for (uint32_t i = 0; i < config->versions_count; i++) {
        struct found_version *version = &found->versions[found->versions_count];
        if (config->versions[i] <= 0 || has_version(found, config->versions[i]) ||
            found->versions_count == SCAN_VERSIONS_MAX)
            continue;
        *version = (struct found_version){ .number = (uint64_t)config->versions[i] };
        version->text = arena_printf(scan->arena, "%lld", (long long)config->versions[i]);
        version->problem = arena_printf(scan->arena,
                                        "%s: version_policy names version %s, and %s holds no such "
                                        "folder",
                                        found->config_file, version->text, found->where);
        if (version->text == NULL || version->problem == NULL)
            return no_memory(err);
        found->versions_count++;
    }
    return OK;
}

static enum err_code list_versions(struct scan *scan, struct found *found,
                                   const struct listing *list, const struct model_config *config,
                                   struct err *err)
{
    uint32_t asked = config == NULL ? 0 : config->versions_count;
    size_t room = (size_t)MIN(list->versions_count, (uint32_t)SCAN_VERSIONS_MAX) + asked + 1;

    found->versions = arena_zalloc(scan->arena, room * sizeof *found->versions);
    if (found->versions == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < list->count; i++) {
        const struct entry *entry = &list->entries[i];
        if (entry->is_folder && entry->version == 0)
            add_note(scan, arena_printf(scan->arena,
                                        "%s: folder '%s' is no version (those are whole numbers "
                                        "from 1, without leading zeros)",
                                        found->where, entry->name));
        if (entry->version == 0 || found->versions_count == SCAN_VERSIONS_MAX)
            continue;
        found->versions[found->versions_count++] =
            (struct found_version){ .number = entry->version, .text = entry->name };
    }
    if (list->versions_count > SCAN_VERSIONS_MAX)
        add_note(scan, arena_printf(scan->arena, "%s: only %d of %u versions are looked at",
                                    found->where, SCAN_VERSIONS_MAX, list->versions_count));
    qsort(found->versions, found->versions_count, sizeof *found->versions, by_number);
    if (config == NULL)
        return OK;
    /* Latest counts what is there; what only the policy names comes afterwards. */
    uint32_t there = found->versions_count;
    for (uint32_t i = 0; i < there; i++)
        found->versions[i].is_served = is_served(config, found, i);
    TRY(add_missing(scan, found, config, err));
    for (uint32_t i = there; i < found->versions_count; i++)
        found->versions[i].is_served = true;
    qsort(found->versions, found->versions_count, sizeof *found->versions, by_number);
    return OK;
}

/* A model without version folders: its file lies in its own folder, or it needs none. It is
 * version 1. */
static enum err_code set_only_version(struct scan *scan, struct found *found,
                                      const struct listing *list, const char *wanted,
                                      struct err *err)
{
    const struct penstock_backend *backend = found->backend;
    bool needs_file = backend->file != NULL || wanted != NULL;

    if (needs_file && entry_of(list, wanted != NULL ? wanted : backend->file) == NULL &&
        (wanted != NULL || only_file_of(list, backend) == NULL))
        return set_problem(
            scan, found,
            arena_printf(scan->arena, "%s has no version folder; expected is %s/1/%s%s%s%s",
                         found->where, found->where, wanted != NULL ? wanted : backend->file,
                         list_entries(scan, list),
                         found->card_file != NULL ? "; the folder is taken for one model by its " : "",
                         found->card_file != NULL ? found->card_file : ""),
            err);
    found->versions[0] = (struct found_version){ .number = 1, .text = "1", .is_served = true };
    found->versions_count = 1;
    if (needs_file)
        return pick_file(scan, found, &found->versions[0], list, "", wanted, err);
    found->versions[0].path = found->folder;
    return OK;
}

/* Which facts come from the file, before the model adds its own. */
static enum err_code keep_keys(struct scan *scan, struct found *found,
                               const struct model_config *config, struct err *err)
{
    yyjson_mut_obj_iter at = yyjson_mut_obj_iter_with(yyjson_mut_doc_get_root(config->doc));
    yyjson_mut_val *key;
    struct text out;

    if (found->config_file == NULL)
        return OK;
    text_init_arena(&out, scan->arena, 64);
    while ((key = yyjson_mut_obj_iter_next(&at)) != NULL)
        text_printf(&out, "%s%s", out.size == 0 ? "" : " ", yyjson_mut_get_str(key));
    found->config_keys = text_cstr(&out);
    return text_failed(&out) ? no_memory(err) : OK;
}

static const char *refusal_of(const struct model_config *config)
{
    for (uint32_t i = 0; i < config->notices_count; i++) {
        if (config->notices[i].is_refusal)
            return config->notices[i].text;
    }
    return NULL;
}

/* Fills backend, versions and their paths from the configuration and the listing. */
static enum err_code fill_model(struct scan *scan, struct found *found, const struct listing *list,
                                struct err *err)
{
    CLEANUP(config_free) struct model_config *config = NULL;
    struct err own = { 0 }, unread = { 0 };

    enum err_code code = scan_config(&config, scan, found, scan->arena, &own);
    if (code == E_EXHAUSTED)
        return err_set(err, code, "%s", own.text);
    TRY(list_versions(scan, found, list, config, err));
    if (code != OK) {
        /* Which versions would be served is not known: the newest stands for all. */
        if (found->versions_count > 0)
            found->versions[found->versions_count - 1].is_served = true;
        return set_problem(scan, found, keep_text(scan, &own), err);
    }
    TRY(keep_keys(scan, found, config, err));
    const char *refusal = refusal_of(config);
    if (refusal != NULL)
        return set_problem(scan, found,
                           arena_printf(scan->arena, "%s: %s", found->config_file, refusal), err);
    TRY(set_backend(scan, found, config, err));
    if (found->problem != NULL)
        return OK;
    if (found->backend == NULL) {
        found->backend = guess_of_versions(scan, list, &unread);
        if (found->backend == NULL)
            found->backend = guess_backend(scan, list);
        found->backend_why = "by the file that it opens";
    }
    if (found->backend == NULL && unread.code == E_PERMISSION)
        return set_problem(scan, found, keep_text(scan, &unread), err);
    if (found->backend == NULL)
        return set_problem(
            scan, found,
            arena_printf(scan->arena,
                         "%s: no backend is named in config.pbtxt and none opens what "
                         "lies here; files that are opened end in %s",
                         found->where, list_backends(scan, true)),
            err);
    const char *wanted = NULL;
    if (config->default_model_filename[0] != '\0') {
        wanted = arena_strndup(scan->arena, config->default_model_filename,
                               strlen(config->default_model_filename));
        if (wanted == NULL)
            return no_memory(err);
    }
    if (list->versions_count == 0 && found->versions_count == 0)
        return set_only_version(scan, found, list, wanted, err);
    for (uint32_t i = 0; i < found->versions_count; i++) {
        if (found->versions[i].is_served && found->versions[i].problem == NULL)
            TRY(set_version_path(scan, found, &found->versions[i], wanted, err));
    }
    return OK;
}

/* -- the table of names ------------------------------------------------------------------------ */

/* Adds the model, or makes of two with one name one that says so: which of them was meant cannot be
 * known, and the order of two arguments should not decide it silently. */
static enum err_code add_found(struct scan *scan, struct found *found, struct err *err)
{
    struct found *other = map_get(scan->by_name, slice_of(found->name));

    if (other == NULL) {
        TRY(map_put(scan->by_name, slice_of(found->name), found, err));
        scan->found_count++;
        return OK;
    }
    if (strcmp(other->where, found->where) == 0 ||
        (strcmp(other->folder, found->folder) == 0 && other->versions_count > 0 &&
         found->versions_count > 0 && other->versions[0].path != NULL &&
         found->versions[0].path != NULL &&
         strcmp(other->versions[0].path, found->versions[0].path) == 0))
        return OK;
    other->versions_count = 0;
    return set_problem(scan, other,
                       arena_printf(scan->arena,
                                    "two models are named '%s': %s and %s; rename one of them",
                                    found->name, other->where, found->where),
                       err);
}

static enum err_code name_found(struct scan *scan, struct found *found, struct slice name,
                                struct err *err)
{
    found->name = printable(scan->arena, name);
    if (found->name == NULL)
        return no_memory(err);
    if (!slice_is(name, found->name))
        return set_problem(scan, found,
                           "the name has bytes that are control characters or not UTF-8: rename it",
                           err);
    return OK;
}

static enum err_code add_model(struct scan *scan, const struct listing *list, struct slice name,
                               struct err *err)
{
    struct found *found = arena_zalloc(scan->arena, sizeof *found);

    if (found == NULL)
        return no_memory(err);
    found->folder = list->folder;
    found->where = list->where;
    found->config_file = list->has_config ? "config.pbtxt" : NULL;
    found->card_file = list->card;
    TRY(name_found(scan, found, name, err));
    if (found->problem == NULL)
        TRY(fill_model(scan, found, list, err));
    return add_found(scan, found, err);
}

/* A folder that may not be read is likely a model whose mode is wrong: it would be missed in silence. */
static enum err_code add_unreadable(struct scan *scan, const char *folder, const char *where,
                                    struct slice name, const struct err *why, struct err *err)
{
    struct found *found = arena_zalloc(scan->arena, sizeof *found);

    if (found == NULL)
        return no_memory(err);
    found->folder = folder;
    found->where = where;
    TRY(name_found(scan, found, name, err));
    if (found->problem == NULL)
        TRY(set_problem(scan, found, keep_text(scan, why), err));
    return add_found(scan, found, err);
}

/* The name with another ending, when such a file lies in the folder; NULL when not. */
static const char *sibling(struct scan *scan, const char *folder, struct slice stem,
                           const char *ending)
{
    struct stat st;
    const char *path = arena_printf(scan->arena, "%s/%.*s%s", folder, SLICE_ARG(stem), ending);

    if (path == NULL || stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return NULL;
    return path + strlen(folder) + 1;
}

/* A file that is a model: iris.onnx, with iris.pbtxt and iris.yaml if they lie beside it. */
static enum err_code add_file(struct scan *scan, const char *folder, const char *where,
                              const char *file, struct slice name, struct err *err)
{
    const struct penstock_backend *backend = backend_of_file(scan, file);
    struct found *found = arena_zalloc(scan->arena, sizeof *found);
    struct slice stem = slice_of(file);
    CLEANUP(config_free) struct model_config *config = NULL;
    struct err own = { 0 };
    struct stat st;

    if (found == NULL)
        return no_memory(err);
    stem.size -= strlen(ending_of(backend));
    found->folder = folder;
    found->where = where;
    found->backend = backend;
    found->backend_why = "by the file that it opens";
    found->config_file = sibling(scan, folder, stem, ".pbtxt");
    found->card_file = sibling(scan, folder, stem, ".yaml");
    if (found->card_file == NULL)
        found->card_file = sibling(scan, folder, stem, ".yml");
    found->versions = arena_zalloc(scan->arena, sizeof *found->versions);
    if (found->versions == NULL)
        return no_memory(err);
    found->versions_count = 1;
    struct found_version *version = &found->versions[0];
    *version = (struct found_version){ .number = 1, .text = "1", .is_served = true };
    TRY(name_found(scan, found, name, err));
    if (beneath_path(&version->path, scan->arena, folder, file, &own) != OK)
        version->problem = keep_text(scan, &own);
    else if (stat(version->path, &st) == 0)
        version->bytes = (uint64_t)st.st_size;
    if (found->problem == NULL && found->config_file != NULL) {
        if (scan_config(&config, scan, found, scan->arena, &own) != OK)
            TRY(set_problem(scan, found, keep_text(scan, &own), err));
        else
            TRY(keep_keys(scan, found, config, err));
        if (config != NULL)
            TRY(set_backend(scan, found, config, err));
    }
    return add_found(scan, found, err);
}

/* -- folders ----------------------------------------------------------------------------------- */

static bool is_model(struct scan *scan, const struct listing *list, uint32_t depth)
{
    if (list->has_config || list->card != NULL)
        return true;
    for (uint32_t i = 0; i < scan->backends_count; i++) {
        if (entry_of(list, scan->backends[i]->file) != NULL)
            return true;
    }
    if (list->versions_count == 0)
        return false;
    return depth == 1 || guess_of_versions(scan, list, NULL) != NULL;
}

static enum err_code scan_folder(struct scan *scan, const char *folder, const char *where,
                                 struct slice name, uint32_t depth, struct err *err);

static enum err_code scan_below(struct scan *scan, const struct listing *list,
                                const struct entry *entry, uint32_t depth, struct err *err)
{
    char real[PATH_MAX];
    const char *raw = arena_printf(scan->arena, "%s/%s", list->where, entry->name);
    const char *path = arena_printf(scan->arena, "%s/%s", list->folder, entry->name);

    if (raw == NULL || path == NULL)
        return no_memory(err);
    const char *where = printable(scan->arena, slice_of(raw));
    if (where == NULL)
        return no_memory(err);
    if (!entry->is_folder) {
        const struct penstock_backend *backend = backend_of_file(scan, entry->name);
        if (backend == NULL)
            return OK;
        struct slice stem = slice_of(entry->name);
        stem.size -= strlen(ending_of(backend));
        return add_file(scan, list->folder, where, entry->name, stem, err);
    }
    if (depth == SCAN_DEPTH_MAX)
        return OK;
    if (realpath(path, real) == NULL) {
        note_unseen(scan, list->where, entry->name, errno);
        return OK;
    }
    const char *folder = arena_strndup(scan->arena, real, strlen(real));
    if (folder == NULL)
        return no_memory(err);
    return scan_folder(scan, folder, where, slice_of(entry->name), depth + 1, err);
}

static enum err_code scan_folder(struct scan *scan, const char *folder, const char *where,
                                 struct slice name, uint32_t depth, struct err *err)
{
    struct listing list;
    struct err own = { 0 };
    uint32_t before = scan->found_count;

    enum err_code code = list_folder(scan, &list, folder, where, depth == 0 ? err : &own);
    if (code != OK && (depth == 0 || code == E_EXHAUSTED))
        return depth == 0 ? code : err_set(err, code, "%s", own.text);
    /* Every file system of its own has a lost+found, which is root's. */
    if (code == E_PERMISSION && depth == 1 && !slice_is(name, "lost+found"))
        return add_unreadable(scan, folder, where, name, &own, err);
    if (code != OK) {
        add_note(scan, keep_text(scan, &own));
        return OK;
    }
    if (is_model(scan, &list, depth))
        return add_model(scan, &list, name, err);
    for (uint32_t i = 0; i < list.count; i++)
        TRY(scan_below(scan, &list, &list.entries[i], depth, err));
    if (depth == 1 && scan->found_count == before)
        add_note(scan, arena_printf(scan->arena, "%s holds no model", where));
    return OK;
}

/* The last part of a path as it was written; empty when it is ".", ".." or "/". */
static struct slice last_part(const char *path)
{
    struct slice text = slice_of(path);

    while (text.size > 0 && text.data[text.size - 1] == '/')
        text.size--;
    size_t begin = text.size;
    while (begin > 0 && text.data[begin - 1] != '/')
        begin--;
    text = slice_skip(text, begin);
    return slice_is(text, ".") || slice_is(text, "..") ? slice_of("") : text;
}

enum err_code scan_path(struct scan *scan, const char *path, struct err *err)
{
    char real[PATH_MAX];
    struct stat st;

    if (fault_hit() ? (errno = EIO, true) : realpath(path, real) == NULL || stat(real, &st) != 0)
        return err_set(err,
                       errno == ENOENT || errno == ENOTDIR ? E_NOT_FOUND
                       : errno == EACCES                   ? E_PERMISSION
                                                           : E_INTERNAL,
                       "cannot open %s: %s", path, strerror(errno));
    struct slice given = slice_of(path);
    while (given.size > 1 && given.data[given.size - 1] == '/')
        given.size--;
    const char *where = printable(scan->arena, given);
    char *folder = arena_strndup(scan->arena, real, strlen(real));
    if (where == NULL || folder == NULL)
        return no_memory(err);
    struct slice name = last_part(path);
    if (name.size == 0)
        name = last_part(folder);
    if (S_ISDIR(st.st_mode))
        return scan_folder(scan, folder, where, name, 0, err);
    char *slash = strrchr(folder, '/');
    const char *file = slash + 1;
    const struct penstock_backend *backend = backend_of_file(scan, file);
    if (!S_ISREG(st.st_mode) || backend == NULL)
        return err_set(err, E_INVALID,
                       "%s is no model that can be opened here; files that are opened end in %s",
                       where, list_backends(scan, true));
    *slash = '\0';
    if (slash == folder)
        folder = arena_strndup(scan->arena, "/", 1);
    if (folder == NULL)
        return no_memory(err);
    /* Named as it was asked for, even when that was a link to a file of another name. */
    size_t tail = strlen(ending_of(backend));
    if (name.size > tail && slice_ends(name, ending_of(backend)))
        name.size -= tail;
    return add_file(scan, folder, where, file, name, err);
}
