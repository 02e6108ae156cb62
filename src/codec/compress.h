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

/* Inflates `in` to a buf of at most out_max bytes whose byte at `align_at` lies on a 64-byte line
 * (*ret_offset is where the content begins in the buf). E_INVALID: damaged, truncated or trailing bytes; more than
 * out_max: E_EXHAUSTED, the limit named. Memory follows what has really come out, so a bomb costs
 * no more than out_max. */
MUST_USE enum err_code compress_inflate(struct buf **ret, size_t *ret_offset, struct budget *budget,
                                        enum encoding encoding, struct slice in, size_t out_max,
                                        size_t align_at, struct err *err);
/* Deflates the pieces into one buf. */
MUST_USE enum err_code compress_deflate(struct buf **ret, struct budget *budget,
                                        enum encoding encoding, const struct slice *pieces,
                                        size_t pieces_count, struct err *err);

#endif
