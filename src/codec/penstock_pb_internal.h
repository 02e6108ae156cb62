/* penstock_pb_internal.h - what the files of penstock_pb share; nobody else includes it. */
#ifndef CODEC_PENSTOCK_PB_INTERNAL_H
#define CODEC_PENSTOCK_PB_INTERNAL_H

#include "codec/penstock_pb.h"

extern const char *const penstock_pb_list_names[PENSTOCK_PB_DATA + 1];

/* Tensor.data, a google.protobuf.ListValue, as JSON text in the arena: one form of lists to read. */
MUST_USE enum err_code penstock_pb_list_text(struct slice list, struct arena *arena,
                                             struct slice *ret, struct err *err);

/* base64 (RFC 4648, 4 and 5), padded or not; `out` has 3 bytes for each 4 and 2 more. False: it is
 * none. */
MUST_USE bool penstock_pb_base64(struct slice text, uint8_t *out, size_t *ret_size);

#endif
