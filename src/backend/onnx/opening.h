/* opening.h - a model while it is being opened: what the files that open one share.
 *
 * settings.c reads what the configuration asks for, confine.c says which files may be read,
 * signature.c asks the session for its tensors, model.c puts them in order. All of it runs on the
 * thread that opens, and errors go to opening->err.
 */
#ifndef BACKEND_ONNX_OPENING_H
#define BACKEND_ONNX_OPENING_H

#include <limits.h>

#include "backend/onnx/classes.h"
#include "backend/onnx/model.h"

struct yyjson_doc;
struct yyjson_val;

struct settings {
    uint32_t intra_threads, inter_threads;
    bool is_parallel;
    int optimization;
    bool has_arena, is_arena_said;
    char filename[256];                   /* default_model_filename */
    const char *providers[PROVIDERS_MAX]; /* of the runtime's list */
    uint32_t providers_count;
};

struct opening {
    struct onnx_model *model;
    struct penstock_model *host_model;
    struct yyjson_doc *config; /* owned */
    struct settings settings;
    struct onnx_facts facts;
    char folder[PATH_MAX]; /* real path of the model's folder */
    char base[PATH_MAX];   /* real path of the folder that holds the file */
    struct slice last_location;
    const char *classes; /* JSON: class labels by output; NULL without ZipMap */
    uint32_t classes_count;
    struct onnx_classes classes_of[CLASS_OUTPUTS_MAX]; /* in the model's arena */
    struct err *err;
};

/* settings.c: from config.pbtxt (opening->config, which it parses) and the server's options. */
MUST_USE enum err_code onnx_settings_read(struct opening *opening);
/* The tensor of that name in the configuration's list `which` ("input"), or NULL. */
struct yyjson_val *onnx_settings_tensor(const struct opening *opening, const char *which,
                                        const char *name);

/* confine.c: finds the model's file (a real path) and the folders that bound it. */
MUST_USE enum err_code onnx_find_file(struct opening *opening, char *ret, size_t ret_size);
/* May the runtime open the file that holds weights? An onnx_external_fn; context: the opening. */
MUST_USE enum err_code onnx_allow_external(void *context, struct slice location, struct err *err);

/* signature.c: fills model->inputs and outputs from the session. */
MUST_USE enum err_code onnx_signature_read(struct opening *opening);
/* Does each row of a batch get what it would get alone, as far as shapes tell? */
bool onnx_signature_is_batchable(const struct onnx_model *model);
/* Tells the host every tensor. */
MUST_USE enum err_code onnx_signature_declare(const struct opening *opening);

#endif
