/* grpc_web.h - what gRPC-Web puts in place of HTTP/2 (grpc/grpc doc/PROTOCOL-WEB.md): its content
 * types, the text form (base64, which may be padded between any two groups), and the frame that
 * stands for trailers.
 *
 * Pure functions; any thread.
 */
#ifndef CALL_GRPC_WEB_H
#define CALL_GRPC_WEB_H

#include "base/err.h"
#include "base/slice.h"

struct header;

/* -- content types ------------------------------------------------------------------------------- */

struct grpc_type {
    bool is_grpc; /* else nothing below is set */
    bool is_web;
    bool is_text;    /* the body is base64 */
    bool is_proto;   /* it says +proto */
    bool is_unknown; /* messages of a kind that is not spoken (+json) */
};

struct grpc_type grpc_type_of(struct slice content_type);
/* "application/grpc-web-text+proto" ... */
struct slice grpc_type_name(struct grpc_type type);
/* Of the answer to a gRPC-Web request: as the request was, unless Accept names the other form. */
struct grpc_type grpc_web_type_of_answer(struct grpc_type of_request, struct slice accept);

/* -- base64, in pieces --------------------------------------------------------------------------- */

struct grpc_web_decoder {
    uint32_t bits;      /* of the group under way */
    uint8_t digits;     /* of it, 0 to 3 */
    uint8_t pads;       /* '=' that must come now */
    uint64_t offset;    /* of the next character, from the begin of the body */
    uint8_t unexpected; /* the character that was refused */
};

/* Decodes `size` characters where they lie; returns how many bytes they are, never more than size,
 * whatever came before. SIZE_MAX: not base64; decoder->offset says where. */
MUST_USE size_t grpc_web_decode(struct grpc_web_decoder *decoder, uint8_t *bytes, size_t size);
/* May the text end here? Padding at the very end may be left out. */
bool grpc_web_decode_is_whole(const struct grpc_web_decoder *decoder);

struct grpc_web_encoder {
    uint8_t rest[2];
    uint32_t rest_count;
};

static inline size_t grpc_web_encoded_size(size_t bytes)
{
    return (bytes + 2) / 3 * 4;
}
/* Both return the end of what was written at `at`; the second pads. */
uint8_t *grpc_web_encode(struct grpc_web_encoder *encoder, uint8_t *at, struct slice bytes);
uint8_t *grpc_web_encode_end(struct grpc_web_encoder *encoder, uint8_t *at);

/* -- trailers -------------------------------------------------------------------------------------- */

enum { GRPC_WEB_TRAILERS = 0x80 }; /* flag of the frame's prefix */

/* The frame, prefix included: "name: value\r\n" of each field. */
size_t grpc_web_trailers_size(const struct header *fields, uint32_t count);
void grpc_web_trailers_put(uint8_t *at, const struct header *fields, uint32_t count);

#endif
