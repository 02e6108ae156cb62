/* websocket_internal.h - what websocket.c and websocket_deflate.c share; nobody else includes it. */
#ifndef WIRE_WEBSOCKET_INTERNAL_H
#define WIRE_WEBSOCKET_INTERNAL_H

#include "base/fault.h"
#include "wire/websocket.h"

struct wslay_frame_context;
struct z_stream_s;

enum { WEBSOCKET_BITS_MIN = 9, WEBSOCKET_BITS_MAX = 15 }; /* of a window, that zlib knows */

struct websocket_heap {
    struct wslay_frame_context *frames; /* owned; NULL: none is made */
    struct slice in;                    /* what wslay is given */
    uint64_t skip;                      /* bytes of payload that it is told of and not shown */
    uint8_t out[WEBSOCKET_HEAD_MAX];    /* what it gave */
    size_t out_size;
    uint8_t mask[4];
    /* Owned; made when first needed. */
    struct z_stream_s *inflate, *deflate[WEBSOCKET_BITS_MAX - WEBSOCKET_BITS_MIN + 1];
};

void websocket_deflate_drop(struct websocket_heap *heap);

#endif
