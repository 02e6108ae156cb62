/* sockets.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/options.h"
#include "serve/serve.h"

/* -- what was handed over ------------------------------------------------------------------------ */

static bool decode(char out[SOCKET_NAME_MAX], struct slice text)
{
    size_t size = 0;

    for (size_t i = 0; i < text.size; i++) {
        int byte = text.data[i];
        if (byte == '%' && i + 2 < text.size && slice_hex(text.data[i + 1]) >= 0 &&
            slice_hex(text.data[i + 2]) >= 0) {
            byte = slice_hex(text.data[i + 1]) * 16 + slice_hex(text.data[i + 2]);
            i += 2;
        }
        if (byte < ' ' || byte == 127 || size + 1 >= SOCKET_NAME_MAX)
            return false;
        out[size++] = (char)byte;
    }
    out[size] = '\0';
    return true;
}

enum err_code handed_parse(struct handed *ret, const char *pid, const char *fds, const char *names,
                           pid_t mine, struct err *err)
{
    struct slice rest = slice_of(names == NULL ? "" : names);
    uint64_t whose, count;

    ret->count = 0;
    if (fds == NULL || pid == NULL || !slice_to_u64(slice_of(pid), &whose) ||
        whose != (uint64_t)mine)
        return OK;
    if (!slice_to_u64(slice_of(fds), &count) || count > SOCKETS_MAX)
        return err_set(
            err, E_PRECONDITION,
            "LISTEN_FDS is '%.40s'; it is the number of sockets that are handed over, 0 to %d", fds,
            SOCKETS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        size_t end = slice_find(rest, ':');
        if (!decode(ret->names[i], slice_first(rest, end)))
            return err_set(err, E_PRECONDITION,
                           "LISTEN_FDNAMES: name %u has a control character, or more than %d bytes",
                           i + 1, SOCKET_NAME_MAX - 1);
        rest = slice_skip(rest, MIN(end + 1, rest.size));
    }
    ret->count = (uint32_t)count;
    return OK;
}

/* -- taking and binding -------------------------------------------------------------------------- */

static enum err_code look_at(struct socket_entry *entry, struct err *err)
{
    int type = 0, is_listening = 0;
    const int on = 1;
    socklen_t size = sizeof type;

    memset(&entry->address, 0, sizeof entry->address);
    entry->address.size = sizeof entry->address.storage;
    if (getsockopt(entry->fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM ||
        (size = sizeof is_listening,
         getsockopt(entry->fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &size) != 0) ||
        !is_listening || getsockname(entry->fd, &entry->address.any, &entry->address.size) != 0 ||
        (entry->address.any.sa_family != AF_INET && entry->address.any.sa_family != AF_INET6 &&
         entry->address.any.sa_family != AF_UNIX))
        return err_set(err, E_PRECONDITION,
                       "descriptor %d, which was handed over as '%.100s', is no listening socket: "
                       "expected what ListenStream= of systemd makes",
                       entry->fd, entry->name);
    entry->address.mode = 0600;
    int flags = fcntl(entry->fd, F_GETFL);
    if (flags < 0 || fcntl(entry->fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
        fcntl(entry->fd, F_SETFD, FD_CLOEXEC) != 0)
        return err_set(err, E_INTERNAL, "descriptor %d: %s", entry->fd, strerror(errno));
    if (entry->address.any.sa_family != AF_UNIX)
        setsockopt(entry->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return OK;
}

static bool is_same(const struct address *a, const struct address *b)
{
    const struct sockaddr_in *a4 = (const void *)&a->storage, *b4 = (const void *)&b->storage;
    const struct sockaddr_in6 *a6 = (const void *)&a->storage, *b6 = (const void *)&b->storage;

    if (a->any.sa_family != b->any.sa_family)
        return false;
    switch (a->any.sa_family) {
    case AF_INET: return a4->sin_port == b4->sin_port && a4->sin_addr.s_addr == b4->sin_addr.s_addr;
    case AF_INET6:
        return a6->sin6_port == b6->sin6_port && a6->sin6_scope_id == b6->sin6_scope_id &&
               memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof a6->sin6_addr) == 0;
    default: return strncmp(a->local.sun_path, b->local.sun_path, sizeof a->local.sun_path) == 0;
    }
}

static enum err_code take_handed(struct sockets *s, const struct handed *handed, struct err *err)
{
    /* All are counted before any is looked at, so that a failure closes every one. */
    for (uint32_t i = 0; i < handed->count; i++) {
        struct socket_entry *entry = &s->unused[s->unused_count++];
        bool is_ours = handed->names[i][0] == '=';
        bool has_sign = is_ours || handed->names[i][0] == '@';
        *entry = (struct socket_entry){ .fd = SOCKETS_FIRST_FD + (int)i,
                                        .text = "",
                                        .is_activated = !is_ours,
                                        .was_handed = true };
        snprintf(entry->name, sizeof entry->name, "%s%.*s", has_sign ? "" : "@",
                 SOCKET_NAME_MAX - 2, handed->names[i]);
    }
    for (uint32_t i = 0; i < s->unused_count; i++)
        TRY(look_at(&s->unused[i], err));
    return OK;
}

static void use(struct sockets *s, uint32_t unused, const char *text)
{
    s->unused[unused].text = text;
    s->entries[s->count++] = s->unused[unused];
    s->unused[unused] = s->unused[--s->unused_count];
}

static enum err_code open_one(struct sockets *s, const char *text, bool *ret_is_bad,
                              struct err *err)
{
    struct socket_entry *entry = &s->entries[s->count];
    struct address address;

    *ret_is_bad = true;
    TRY(address_parse(&address, serve_address_of(text), err));
    *ret_is_bad = false;
    for (uint32_t i = 0; i < s->unused_count; i++)
        if (s->unused[i].name[0] == '=' && strcmp(s->unused[i].name + 1, text) == 0)
            return use(s, i, text), OK;
    for (uint32_t i = 0; i < s->unused_count; i++)
        if (is_same(&s->unused[i].address, &address)) {
            if (!s->unused[i].is_activated)
                snprintf(s->unused[i].name, sizeof s->unused[i].name, "=%s", text);
            return use(s, i, text), OK;
        }
    if (s->count + s->unused_count >= SOCKETS_MAX)
        return err_set(err, E_INVALID, "at most %d addresses to listen on", SOCKETS_MAX);
    *entry = (struct socket_entry){ .fd = -1, .text = text };
    TRY(socket_listen(&entry->fd, &address, SERVE_BACKLOG, err));
    entry->address = address;
    snprintf(entry->name, sizeof entry->name, "=%s", text);
    s->count++;
    return OK;
}

static enum err_code open_all(struct sockets *s, const struct options *o,
                              const struct handed *handed, bool *ret_is_misused, struct err *err)
{
    const struct option_value *listen = &o->values[OPT_LISTEN];
    char where[ERR_TEXT_MAX];
    bool has_activated = false, is_bad = false;

    TRY(take_handed(s, handed, err));
    for (uint32_t i = 0; i < s->unused_count; i++)
        has_activated |= s->unused[i].is_activated;
    for (uint32_t i = 0; i < listen->items_count; i++) {
        if (has_activated && listen->source == SOURCE_DEFAULT)
            break;
        if (s->count == SOCKETS_MAX)
            return err_set(err, E_INVALID, "more than %d listeners", SOCKETS_MAX);
        if (open_one(s, listen->items[i], &is_bad, err) != OK) {
            *ret_is_misused = is_bad && listen->source == SOURCE_ARGV;
            return err_wrap(err, "%s", options_origin(o, OPT_LISTEN, where, sizeof where));
        }
    }
    for (uint32_t i = 0; i < s->unused_count;)
        if (s->unused[i].is_activated && s->count < SOCKETS_MAX)
            use(s, i, "");
        else
            i++;
    return OK;
}

enum err_code sockets_open(struct sockets *ret, const struct options *options,
                           const struct handed *handed, bool *ret_is_misused, struct err *err)
{
    ret->count = ret->unused_count = 0;
    ret->is_given = false;
    *ret_is_misused = false;
    enum err_code code = open_all(ret, options, handed, ret_is_misused, err);
    if (code != OK)
        sockets_close(ret);
    return code;
}

void sockets_close_unused(struct sockets *s)
{
    while (s->unused_count > 0) {
        struct socket_entry *entry = &s->unused[--s->unused_count];
        if (entry->address.any.sa_family == AF_UNIX && entry->fd >= 0)
            (void)unlink(entry->address.local.sun_path);
        socket_close(&entry->fd);
    }
}

void sockets_close(struct sockets *s)
{
    while (s->unused_count > 0) /* whoever handed them over goes on with them */
        socket_close(&s->unused[--s->unused_count].fd);
    while (s->count > 0) {
        struct socket_entry *entry = &s->entries[--s->count];
        if (s->is_given)
            continue;
        if (entry->was_handed)
            socket_close(&entry->fd);
        else
            socket_unlisten(&entry->fd, &entry->address);
    }
}

void sockets_names(const struct sockets *s, char out[SOCKETS_NAMES_MAX])
{
    size_t at = 0;

    for (uint32_t i = 0; i < s->count; i++) {
        if (i > 0)
            out[at++] = ':';
        for (const char *c = s->entries[i].name; *c != '\0'; c++) {
            if (*c == ':' || *c == '%')
                at += (size_t)snprintf(out + at, 4, "%%%02X", (unsigned)(uint8_t)*c);
            else
                out[at++] = *c;
        }
    }
    out[at] = '\0';
}
