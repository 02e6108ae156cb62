/* card.h - model.yaml: what people need to know of a model beside its tensors.
 *
 *     title: Iris species
 *     service: Iris                     # gRPC: penstock.models.Iris; default: by the model's name
 *     description: Which of three irises is it?
 *     license: Apache-2.0
 *     inputs:
 *       input:                          # the tensor's name
 *         title: measurements           # the name in the typed route; default: the tensor's
 *         description: Four lengths
 *         unit: cm
 *         min: 0
 *         max: 100
 *         example: [5.1, 3.5, 1.4, 0.2]
 *         content_type: image/png       # raw bodies of this type are this input's bytes
 *         features:                     # names of the last dimension's elements
 *           - {name: sepal_length, unit: cm, min: 0, max: 30, example: 5.1,
 *              number: 1}               # of the protobuf field; inputs and outputs have it too
 *     outputs:
 *       label: {role: label, labels: [setosa, versicolor, virginica]}
 *       probabilities: {role: probabilities, labels_file: labels.txt}
 *     example: {sepal_length: 5.1, ...}
 *     stream:                           # how it takes input in pieces; all of it is optional
 *       reduce: window                  # each, stack, last or window: without a caller's word
 *       window: 576                     # rows of a run
 *       step: 512                       # the next run begins so many rows later; default: window
 *       pad: 64                         # rows of zeros before the first
 *       axis: 1                         # the dimension along which rows are counted
 *       state: {state: stateN}          # input: the output that feeds the next run's
 *       constants: {sr: 16000}          # inputs that nobody needs to send
 *       marks:                          # told when a score begins and ceases to hold
 *         - {name: speech, output: output, on: 0.5, off: 0.35, hold: 8}
 *
 * A feature or label may be a plain name; plain scalars are taken as the text that they are
 * (labels: [no, 1]). Unknown keys, wrong types, repeated keys, aliases (*name) and tags other than !!str are
 * errors with line and column. An empty file is an empty card.
 */
#ifndef MODEL_CARD_H
#define MODEL_CARD_H

#include "model/signature.h"

struct arena;

enum {
    CARD_BYTES_MAX = 1 << 20,
    CARD_DEPTH_MAX = 16,
    CARD_LABELS_MAX = 100000,
    CARD_PAIRS_MAX = 256 /* states, constants, marks: of each */
};

struct card_tensor {
    const char *name;
    struct signature_tensor human; /* only the human members are set */
    const char *labels_file;       /* relative to the model's folder, or NULL */
    int line;
};

/* A line of `stream: state`, `constants` or `marks`. */
struct card_pair {
    const char *input;  /* of a mark: its name */
    const char *output; /* of a constant: its value as JSON */
    double on, off;     /* of a mark; NaN: not said */
    uint64_t hold;
    int line;
};

struct card_stream {
    bool is_there, has_reduce;
    enum session_reduce reduce;
    uint64_t window, step, pad; /* 0: not said */
    int32_t axis;               /* -1: not said */
    uint32_t states_count, constants_count, marks_count;
    struct card_pair *states, *constants, *marks;
    int line;
};

struct card {
    const char *title, *description, *license, *example_json, *service;
    uint32_t inputs_count, outputs_count;
    struct card_tensor *inputs, *outputs;
    struct card_stream stream;
};

/* Parses; everything is in `arena`. */
MUST_USE enum err_code card_parse(struct card **ret, struct arena *arena, struct slice yaml,
                                  struct err *err);
/* Puts what the card says into the signature (which lives as long as the arena). E_INVALID when it
 * names a tensor that the model lacks, counts do not match the dims, or two inputs or two outputs
 * would have one name. Labels files are the caller's to read: see signature_set_labels. */
MUST_USE enum err_code card_apply(const struct card *card, struct signature *signature,
                                  struct arena *arena, struct err *err);
struct model_config;

/* signature->stream, from what model.yaml (card may be NULL) and config.pbtxt's sequence_batching
 * { state } say; marks the tensors that are state or constant. Call it behind card_apply. E_INVALID
 * when they name what the model lacks, or a value does not fit. */
MUST_USE enum err_code stream_apply(const struct card *card, const struct model_config *config,
                                    struct signature *signature, struct arena *arena,
                                    struct err *err);
/* One label a line (LF or CRLF); what follows the last line's end does not count, an empty line
 * elsewhere is an empty label. How many there are is compared by signature_check_labels. */
MUST_USE enum err_code signature_set_labels(struct signature_tensor *tensor, struct slice text,
                                            struct arena *arena, struct err *err);
/* Decides ROLE_AUTO: an integer or BYTES output with labels, of known classes, or named like
 * label/class beside probabilities/scores is a label (BYTES by name only where no integer is); a
 * float output whose last dim equals the labels' count, or named like probabilities, is
 * probabilities; else a value. When one output only has labels, they are also those of the other
 * label and probabilities outputs that they fit; so are classes of the one label or the one
 * probabilities output. Call it when labels are set. */
void signature_decide_roles(struct signature *signature);
/* E_INVALID when a classifier has another number of labels than of classes, as far as that is known
 * before a run. Labels of config.pbtxt's label_filename may be more or fewer, as in Triton: names
 * are then shown where each class has one. Call it last. */
MUST_USE enum err_code signature_check_labels(const struct signature *signature, struct err *err);

#endif
