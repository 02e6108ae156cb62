/* tls_fuzz.c - bytes of a stranger where a TLS handshake is expected, on both sides.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The first byte says which side we are and how the bytes come: all that was sniffed before, all from the
 * socket, or one half each; then what follows is received as after a handshake, which never is over. Or they
 * are a file, where a certificate, a key, authorities and lists of what they revoked are expected. */
#include <fcntl.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/def.h"
#include "base/log.h"
#include "io/channel.h"
#include "io/env.h"
#include "io/tls_auto.h"
#include "io/tls_internal.h"

enum { WALL_S = 1700000000 }; /* within the times of what the corpus has */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tls_server *server;
static struct tls_client *client;

static void set_up(void)
{
    char folder[] = "/tmp/penstock-tls-fuzz-XXXXXX", command[128];
    const char *pairs[] = { "auto" };
    struct err err;

    log_set_level(LOG_ERROR);
    require(mkdtemp(folder) != NULL);
    struct tls_server_settings settings = {
        .pairs = pairs,
        .pairs_count = 1,
        .directory = folder,
        .client_ca = "",
        .ticket_keys = "",
        .ticket_ns = UINT64_C(3600000000000),
    };
    struct tls_client_settings trusting = { .ca = NULL };
    require(tls_server_new(&server, env_real(), &settings, &err) == OK);
    require(tls_client_new(&client, &trusting, &err) == OK);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    require(system(command) == 0);
}

static void run(struct channel *channel)
{
    uint8_t bytes[512];
    struct err err = { .text = "" };

    enum tls_step step = tls_handshake(channel->tls, &err);
    require(step != TLS_FAILED || err.text[0] != '\0');
    if (step == TLS_FAILED)
        require(tls_session_failure(channel->tls) < TLS_FAILURES_COUNT);
    if (step == TLS_DONE)
        (void)channel_recv(channel, bytes, sizeof bytes);
    channel_expect_end(channel);
    if (step == TLS_WANTS_READ)
        require(tls_handshake(channel->tls, &err) != TLS_DONE);
}

/* Whatever is in it: used, or refused in words. */
static void read_file(struct slice bytes)
{
    char path[64];
    struct err err = { .text = "" };
    struct tls_callers callers = { .store = NULL };
    int fd = memfd_create("penstock-tls-fuzz", MFD_CLOEXEC);

    require(fd >= 0 && write(fd, bytes.data, bytes.size) == (ssize_t)bytes.size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct tls_identity identity = { .context = tls_context_new(TLS_server_method(), &err) };
    require(identity.context != NULL);
    if (tls_identity_load(&identity, path, path, &err) != OK)
        require(err.text[0] != '\0');
    tls_identity_deinit(&identity);
    const struct tls_server_settings settings = { .client_ca = path, .client_crl = path };
    err.text[0] = '\0';
    if (tls_callers_load(&callers, &settings, WALL_S, &err) != OK)
        require(strncmp(err.text, "--tls-client-c", 14) == 0);
    tls_callers_deinit(&callers);
    enum err_code code = tls_form_refuse("FILE", bytes, TLS_FORM_LIST, "no reason", &err);
    require(code == E_PRECONDITION && slice_starts(slice_of(err.text), "FILE "));
    require(ERR_peek_error() == 0);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct channel channel;
    struct err err;
    int fds[2];

    if (server == NULL)
        set_up();
    if (size < 2 || size > 32 * 1024)
        return 0;
    uint8_t how = data[0];
    struct slice bytes = slice_make(data + 1, size - 1);
    if ((how & 32) != 0) {
        read_file(bytes);
        return 0;
    }
    struct slice ahead = slice_first(bytes, (how & 3) == 0 ? 0 : bytes.size / ((how & 3u) == 1 ? 1 : 2));
    struct slice rest = slice_skip(bytes, (how & 4) != 0 ? 0 : ahead.size);
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    channel = channel_plain(fds[0]);
    enum err_code code = (how & 4) == 0
                             ? tls_accept(&channel.tls, server, fds[0], ahead, false, &err)
                             : tls_connect(&channel.tls, client, fds[0], slice_of("localhost"),
                                           TLS_OFFER_HTTP1 | TLS_OFFER_HTTP2, &err);
    require(code == OK);
    if (rest.size > 0 && write(fds[1], rest.data, rest.size) < 0)
        perror("write");
    if ((how & 8) != 0)
        socket_finish(fds[1]);
    run(&channel);
    channel_close(&channel, (how & 16) != 0);
    close(fds[1]);
    return 0;
}
