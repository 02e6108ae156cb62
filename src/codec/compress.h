/* compress.h - gzip and deflate (zlib wrapper, RFC 9110 8.4.1) bodies. Pure; any thread. */
#ifndef CODEC_COMPRESS_H
#define CODEC_COMPRESS_H

#include "base/err.h"
#include "base/slice.h"

struct buf;
struct budget;

enum encoding { ENCODING_IDENTITY, ENCODING_GZIP, ENCODING_DEFLATE, ENCODING_UNKNOWN };

/* Value of Content-Encoding; empty is identity. */
enum encoding encoding_of(struct slice value);
/* The best of an Accept-Encoding value (RFC 9110 12.5.3): q-values, `*`, q=0 refuses; ties go to
 * gzip, then deflate; identity when nothing better is accepted or the header is absent. */
enum encoding encoding_choose(struct slice accept);
const char *encoding_name(enum encoding encoding);

/* Inflates `in` to a buf of at most out_max bytes of content. The content begins at *ret_offset, so
 * that its byte at `align_at` lies on a 64-byte line. E_INVALID: damaged, truncated, or followed by
 * other bytes (a gzip body may be several members, RFC 1952 2.2; a deflate body is one zlib stream,
 * RFC 1950). E_RANGE: more than out_max comes out. E_EXHAUSTED: no memory. Memory doubles as
 * content really comes out, whatever the body says of itself: a bomb costs at most 1.5 * out_max,
 * for a moment. */
MUST_USE enum err_code compress_inflate(struct buf **ret, size_t *ret_offset, struct budget *budget,
                                        enum encoding encoding, struct slice in, size_t out_max,
                                        size_t align_at, struct err *err);
/* Deflates the pieces, one after the other, into one buf: one gzip member or zlib stream. */
MUST_USE enum err_code compress_deflate(struct buf **ret, struct budget *budget,
                                        enum encoding encoding, const struct slice *pieces,
                                        size_t pieces_count, struct err *err);

#endif
