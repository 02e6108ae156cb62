/* certificate.h - what a peer's certificate says, once TLS has verified it against --tls-client-ca.
 *
 * Made by io/tls.h when the handshake ends; lives as long as the connection and is read-only. The names are
 * those of subjectAltName (RFC 5280, 4.2.1.6), checked to be printable: "dns:client.example",
 * "uri:spiffe://example/ns/x", "email:a@example", "ip:10.0.0.1"; the subject's common name stands only in
 * `subject` and is no identity.
 */
#ifndef ACCESS_CERTIFICATE_H
#define ACCESS_CERTIFICATE_H

#include "base/slice.h"

enum { CERTIFICATE_NAMES_MAX = 16, CERTIFICATE_DIGEST_BYTES = 32 };

struct certificate {
    struct slice names[CERTIFICATE_NAMES_MAX]; /* with their kind in front */
    uint32_t names_count;                      /* 0: a certificate without names identifies nobody */
    struct slice subject;                      /* RFC 2253, for people */
    uint8_t digest[CERTIFICATE_DIGEST_BYTES];  /* SHA-256 of its DER */
    uint64_t expires_s;                        /* Unix time: notAfter */
};

#endif
