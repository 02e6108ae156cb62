/* grpc_wire.h - what gRPC puts around messages and into headers (grpc/grpc doc/PROTOCOL-HTTP2.md,
 * compression.md, http-grpc-status-mapping.md): prefix, timeout, status, binary metadata, details.
 * For both ends: the server's calls (grpc.h) and the client.
 *
 * Pure functions; any thread. What grows is written to a struct text, so it may lie in an arena, on
 * the heap or in fixed memory; text_failed says at the end whether it did.
 */
#ifndef CALL_GRPC_WIRE_H
#define CALL_GRPC_WIRE_H

#include "base/err.h"
#include "base/slice.h"
#include "codec/compress.h"

struct buf;
struct budget;
struct text;

/* -- the prefix of a message: a flag (1: compressed), the size of what follows ------------------ */

enum { GRPC_PREFIX_BYTES = 5 };

struct grpc_prefix {
    uint8_t flag; /* 0 or 1; others are an error */
    uint32_t size;
};

static inline void grpc_prefix_put(uint8_t at[GRPC_PREFIX_BYTES], bool is_compressed, uint32_t size)
{
    uint32_t big = __builtin_bswap32(size); /* built for little-endian machines */

    at[0] = is_compressed;
    memcpy(at + 1, &big, sizeof big);
}

static inline struct grpc_prefix grpc_prefix_get(const uint8_t at[GRPC_PREFIX_BYTES])
{
    uint32_t big;

    memcpy(&big, at + 1, sizeof big);
    return (struct grpc_prefix){ at[0], __builtin_bswap32(big) };
}

/* -- grpc-timeout: at most 8 digits and one of H M S m u n -------------------------------------- */

enum { GRPC_TIMEOUT_ROOM = 10 };

/* More nanoseconds than UINT64_MAX are UINT64_MAX: never. "0n" is 0. E_INVALID: malformed, quoted in
 * the text. */
MUST_USE enum err_code grpc_timeout_parse(uint64_t *ret_ns, struct slice text, struct err *err);
/* The finest unit that fits 8 digits, rounded up, NUL-terminated; returns the length. */
size_t grpc_timeout_format(char out[GRPC_TIMEOUT_ROOM], uint64_t ns);

/* -- grpc-status and what stands for it --------------------------------------------------------- */

/* Decimal; what is no code, or one that is not known, is E_UNKNOWN. */
enum err_code grpc_status_parse(struct slice text);
struct slice grpc_status_digits(enum err_code code); /* constant: "0" ... "16" */
/* Of an answer without grpc-status: its HTTP status (200 too: UNKNOWN). */
enum err_code grpc_status_of_http(uint16_t status);
/* Of a stream that was reset with an HTTP/2 error code (RFC 9113 7); as a client sees it. */
enum err_code grpc_status_of_reset(uint32_t h2_error);

/* -- grpc-message: UTF-8, percent-encoded ------------------------------------------------------- */

/* True when it travels as it is: printable ASCII without '%'. */
bool grpc_message_is_plain(struct slice text);
void grpc_message_encode(struct text *out, struct slice text);
/* Never fails: a '%' that no two hex digits follow stays, what is no UTF-8 after decoding becomes
 * U+FFFD. */
void grpc_message_decode(struct text *out, struct slice value);

/* -- -bin metadata: base64, with padding or without (emitted without) ----------------------------- */

/* Takes the next of values joined by commas off *rest, trimmed. */
struct slice grpc_bin_cut(struct slice *rest);
void grpc_bin_encode(struct text *out, struct slice bytes);
/* One value. False: not base64 (then nothing was written). The URL-safe alphabet is not taken. */
MUST_USE bool grpc_bin_decode(struct text *out, struct slice value);

/* May it be custom metadata? Lower case, 0-9 a-z _ - . and not one of ours (grpc-*), nor of HTTP's
 * own (content-type, te, ...). */
bool grpc_metadata_key_is_custom(struct slice key);
/* Space and printable ASCII: what a value without -bin may hold. */
bool grpc_metadata_value_is_ascii(struct slice value);

/* -- grpc-status-details-bin: google.rpc.Status ------------------------------------------------- */

struct grpc_details {
    enum err_code code; /* decoded: of an unknown number E_UNKNOWN */
    struct slice message;
    struct slice field,
        description;           /* google.rpc.BadRequest, its first violation; data NULL: none */
    uint32_t violations_count; /* decoded: how many there were */
    uint32_t others_count;     /* decoded: details of other types */
    bool has_retry;            /* google.rpc.RetryInfo */
    uint64_t retry_after_ms;   /* rounded up */
};

/* The protobuf message; grpc_bin_encode makes a header of it. */
void grpc_details_encode(struct text *out, const struct grpc_details *details);
/* Views of `bytes`. E_INVALID: not such a message, and what is wrong where. */
MUST_USE enum err_code grpc_details_decode(struct grpc_details *ret, struct slice bytes,
                                           struct err *err);

/* -- encodings of messages ---------------------------------------------------------------------- */

#define GRPC_ENCODINGS "identity,deflate,gzip" /* for grpc-accept-encoding */

/* Of grpc-encoding: exact names; empty or absent is identity. */
enum encoding grpc_encoding_of(struct slice value);
/* Does a grpc-accept-encoding name it? Identity always; absent names nothing else. */
bool grpc_encoding_is_accepted(struct slice accept, enum encoding encoding);
/* "the message has N bytes, more than the most, M (--max-message)": returns E_EXHAUSTED, which is
 * what gRPC says of it. */
enum err_code grpc_message_too_large(struct err *err, uint64_t bytes, size_t bytes_max,
                                     const char *option);
/* Inflates one message to at most bytes_max. More comes out: E_EXHAUSTED, with sizes and `option`,
 * and *ret_is_too_large (optional) is set; it stops there, so that a bomb costs at most
 * 1.5 * bytes_max for a moment. E_INTERNAL: damaged. E_EXHAUSTED: no memory. Nothing at all is an
 * empty message (*ret NULL). The content begins at *ret_offset of the buf; the end of a gzip message
 * lies on a 64-byte line when its trailer tells the truth. */
MUST_USE enum err_code grpc_message_inflate(struct buf **ret, size_t *ret_offset,
                                            bool *ret_is_too_large, struct budget *budget,
                                            enum encoding encoding, struct slice in,
                                            size_t bytes_max, const char *option, struct err *err);
/* To deflate one: compress_deflate (codec/compress.h). */

#endif
