/* service.h - which gRPC service a model is: penstock.models.<service>.
 *
 * Pure functions of a model's name; any thread. Which of two models of one name has it is the
 * repository's to say. README.md of contract/ has the rules.
 */
#ifndef MODEL_SERVICE_H
#define MODEL_SERVICE_H

#include <stdbool.h>

#include "base/slice.h"

struct arena;

enum { SERVICE_BYTES_MAX = 200 };

/* "MyModelV2" of "my-model_v2": its words with capitals in front. A character that is not ASCII is
 * a word of its own ("U6a21"), and "Model" stands before a digit. NULL: no memory. */
MUST_USE const char *service_of_model(struct arena *arena, const char *model);
/* The same with a hash of the model's whole name behind it ("MyModelX0f3a91c2"): for the second of
 * two models that would have one name. */
MUST_USE const char *service_of_model_apart(struct arena *arena, const char *model);
/* Whether model.yaml may give it: a capital letter, then letters and digits, and no end that is the
 * name of another service's message. */
bool service_is_name(struct slice name);
/* "my_model_v2" of "MyModelV2": no two services have one. NULL: no memory. */
MUST_USE const char *service_file_stem(struct arena *arena, const char *service);

#endif
