/* example.h - lines that work when pasted. */
#ifndef CLI_EXAMPLE_H
#define CLI_EXAMPLE_H

#include "base/slice.h"
#include "base/text.h"

struct model;

/* Where a line is to go. */
struct example_place {
    const char *url;    /* a listener's, or of its certificate's name */
    const char *cacert; /* the file that makes its certificate believed; "": none is needed, or known */
    bool needs_cert;    /* callers show a certificate: the lines have CERT and KEY in its place */
    bool needs_key;     /* of nobody in particular nothing is taken: the lines send $PENSTOCK_KEY */
};

/* Two lines, each indented: curl with the model's example, and the same as `penstock call`. Nothing
 * when no example can be made. `program` is how this program was called. */
void example_lines(struct text *out, struct model *model, const char *program,
                   const struct example_place *place);

/* The same over gRPC: `penstock call --grpc`, and grpcurl where it is installed. */
void example_grpc_lines(struct text *out, struct model *model, const char *program,
                        const struct example_place *place);

/* A listener's address as one can call it: "every address" is reached as this machine. */
void example_url(struct text *out, const char *url);

/* A body as `penstock call` takes it: " --sepal_length 5.1 --sepal_width 3.5", or " -d JSON" where
 * options cannot say it. */
void example_flags(struct text *out, struct slice body);

#endif
