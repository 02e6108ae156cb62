/* tls.c - TLS on a client's connection, by OpenSSL between two buffers of memory.
 * SPDX-License-Identifier: Apache-2.0
 *
 * OpenSSL's chance is the seed's, in the server too. What it takes from the clock by itself (the
 * time in a ticket) is the machine's: so bytes under TLS count for the digest by their number
 * only. */
#define OPENSSL_API_COMPAT 0x10101000L
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <string.h>

#include "test/sim/people.h"

static SSL_CTX *context;

static int chance_bytes(unsigned char *out, int size)
{
    for (int i = 0; i < size; i++)
        out[i] = (unsigned char)sim_draw(CHANCE_SERVER);
    return 1;
}

static int chance_status(void)
{
    return 1;
}

void sim_tls_setup(void)
{
    static const RAND_METHOD chance = { .bytes = chance_bytes,
                                        .pseudorand = chance_bytes,
                                        .status = chance_status };

    RAND_set_rand_method(&chance);
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL)
        sim_fail("no TLS");
}

void sim_tls_begin(struct line *line)
{
    static const unsigned char http1[] = "\x08http/1.1", http2[] = "\x02h2";
    SSL *ssl = SSL_new(context);

    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(ssl);
    if (sim_draw_below(CHANCE_PEOPLE, 3) == 0)
        SSL_set_max_proto_version(ssl, TLS1_2_VERSION);
    if (line->is_http2)
        SSL_set_alpn_protos(ssl, http2, sizeof http2 - 1);
    else
        SSL_set_alpn_protos(ssl, http1, sizeof http1 - 1);
    SSL_set_tlsext_host_name(ssl, "localhost");
    line->tls = ssl;
}

static void judge(struct line *line, int result)
{
    int error = SSL_get_error(line->tls, result);

    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ||
        error == SSL_ERROR_ZERO_RETURN)
        return;
    if (!sim_world_may_refuse() && !line->is_closing)
        sim_fail("connection %u: TLS: %s", sim_line_id(line),
                 ERR_reason_error_string(ERR_peek_last_error()));
    ERR_clear_error();
    line->is_broken = true;
}

void sim_tls_pump(struct line *line)
{
    uint8_t piece[8192];
    size_t size;
    int got;

    const uint8_t *data = sim_link_bytes(line->link, &size);
    if (size > 0)
        BIO_write(SSL_get_rbio(line->tls), data, (int)size);
    sim_link_take(line->link, size);
    ERR_clear_error();
    if (!line->is_broken && !SSL_is_init_finished(line->tls)) {
        got = SSL_do_handshake(line->tls);
        if (got != 1)
            judge(line, got);
        else
            sim_note("connection %u: %s %s", sim_line_id(line), SSL_get_version(line->tls),
                     SSL_get_cipher(line->tls));
    }
    if (!line->is_broken && SSL_is_init_finished(line->tls)) {
        while ((got = SSL_read(line->tls, piece, sizeof piece)) > 0)
            sim_bytes_put(&line->opened, piece, (size_t)got);
        judge(line, got);
        while (!line->is_broken && line->out.size > 0 && line->sealed.size < 20000) {
            got = SSL_write(line->tls, line->out.data, (int)MIN(line->out.size, (size_t)5000));
            if (got <= 0) {
                judge(line, got);
                break;
            }
            sim_bytes_drop(&line->out, (size_t)got);
        }
    }
    while ((got = BIO_read(SSL_get_wbio(line->tls), piece, sizeof piece)) > 0)
        sim_bytes_put(&line->sealed, piece, (size_t)got);
}
