/* sockets_test.c - what is handed over, how it is named, and which socket an option gets.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/sockets.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/options.h"
#include "test/harness.h"

TEST(what_was_handed_over)
{
    static const struct {
        const char *pid, *fds, *names;
        enum err_code code;
        uint32_t count;
        const char *first, *second;
        const char *why;
    } cases[] = {
        { NULL, NULL, NULL, OK, 0, "", "", "nothing" },
        { "7", "2", "a:b", OK, 2, "a", "b", "two" },
        { "8", "2", "a:b", OK, 0, "", "", "for another process" },
        { "x", "2", "a:b", OK, 0, "", "", "for nobody" },
        { "7", NULL, "a:b", OK, 0, "", "", "no number" },
        { "7", "2", NULL, OK, 2, "", "", "without names" },
        { "7", "2", "a", OK, 2, "a", "", "fewer names" },
        { "7", "1", "a:b:c", OK, 1, "a", "", "more names" },
        { "7", "2", "=127.0.0.1%3A0:=unix%3a/x%25", OK, 2, "=127.0.0.1:0", "=unix:/x%", "ours" },
        { "7", "1", "%", OK, 1, "%", "", "no escape" },
        { "7", "1", "%4", OK, 1, "%4", "", "half an escape" },
        { "7", "1", "%zz", OK, 1, "%zz", "", "no escape either" },
        { "7", "1", "a%0Ab", E_PRECONDITION, 0, "", "", "a line break" },
        { "7", "17", "a", E_PRECONDITION, 0, "", "", "too many" },
        { "7", "-1", "a", E_PRECONDITION, 0, "", "", "negative" },
        { "7", "two", "a", E_PRECONDITION, 0, "", "", "a word" },
    };
    static struct handed handed;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err err = { 0 };
        memset(&handed, 0, sizeof handed);
        enum err_code code =
            handed_parse(&handed, cases[i].pid, cases[i].fds, cases[i].names, 7, &err);
        check(code == cases[i].code && handed.count == cases[i].count, "%s: %s", cases[i].why,
              err.text);
        if (code != OK)
            continue;
        check(strcmp(handed.names[0], cases[i].first) == 0, "%s: %s", cases[i].why,
              handed.names[0]);
        check(strcmp(handed.names[1], cases[i].second) == 0, "%s: %s", cases[i].why,
              handed.names[1]);
    }
}

/* Listening sockets at 3 and 4, as a program is started with; what was there is put back. */
static struct {
    int kept[2];
    uint16_t port[2];
} start;

static void begin_handed(void)
{
    for (int i = 0; i < 2; i++) {
        struct address address;
        struct err err;
        int fd = -1;
        start.kept[i] = fcntl(SOCKETS_FIRST_FD + i, F_DUPFD_CLOEXEC, 100);
        check_or_stop(address_parse(&address, "127.0.0.1:0", &err) == OK &&
                          socket_listen(&fd, &address, 5, &err) == OK,
                      "%s", err.text);
        start.port[i] =
            ntohs(((const struct sockaddr_in *)(const void *)&address.storage)->sin_port);
        if (fd != SOCKETS_FIRST_FD + i) {
            check(dup2(fd, SOCKETS_FIRST_FD + i) >= 0, "dup2");
            close(fd);
        }
    }
}

static void end_handed(void)
{
    for (int i = 0; i < 2; i++) {
        if (start.kept[i] >= 0)
            check(dup2(start.kept[i], SOCKETS_FIRST_FD + i) >= 0, "dup2");
        close(start.kept[i]);
    }
}

static struct options *listen_at(const char *first, const char *second)
{
    const char *argv[] = { "penstock", "serve", "m", "--listen", first, "--listen", second };
    struct options *o = NULL;
    struct err err = { 0 };
    int argc = first == NULL ? 3 : second == NULL ? 5 : 7;

    check(options_read(&o, argc, argv, NULL, &err) == OK, "%s", err.text);
    return o;
}

static struct handed *handed_of(const char *first, const char *second)
{
    static struct handed handed;

    handed.count = 2;
    snprintf(handed.names[0], sizeof handed.names[0], "%s", first);
    snprintf(handed.names[1], sizeof handed.names[1], "%s", second);
    return &handed;
}

static struct sockets sockets;

TEST(an_option_gets_the_socket_that_was_bound_for_it)
{
    char text[64], names[SOCKETS_NAMES_MAX];
    struct err err = { 0 };
    bool is_misused;

    begin_handed();
    /* By the words, where the port is chosen by the kernel; by the address, where the words changed. */
    snprintf(text, sizeof text, "127.0.0.1:%u", start.port[1]);
    CLEANUP(options_free) struct options *o = listen_at("127.0.0.1:0", text);
    check(sockets_open(&sockets, o, handed_of("=127.0.0.1:0", "=localhost:0"), &is_misused, &err) ==
              OK,
          "%s", err.text);
    check(sockets.count == 2 && sockets.unused_count == 0, "both");
    check(sockets.entries[0].fd == 3 && sockets.entries[1].fd == 4, "%d %d", sockets.entries[0].fd,
          sockets.entries[1].fd);
    check((fcntl(3, F_GETFL) & O_NONBLOCK) != 0 && (fcntl(3, F_GETFD) & FD_CLOEXEC) != 0, "flags");
    sockets_names(&sockets, names);
    snprintf(text, sizeof text, "=127.0.0.1%%3A0:=127.0.0.1%%3A%u", start.port[1]);
    check(strcmp(names, text) == 0, "%s", names);
    sockets_close(&sockets);
    end_handed();
}

TEST(what_no_option_names_any_more_is_closed)
{
    struct err err = { 0 };
    bool is_misused;

    begin_handed();
    CLEANUP(options_free) struct options *o = listen_at("127.0.0.1:0", NULL);
    check(sockets_open(&sockets, o, handed_of("=127.0.0.1:1", "=127.0.0.1:2"), &is_misused, &err) ==
              OK,
          "%s", err.text);
    check(sockets.count == 1 && sockets.unused_count == 2, "a fresh one");
    sockets_close_unused(&sockets);
    check(sockets.unused_count == 0 && fcntl(3, F_GETFD) < 0 && fcntl(4, F_GETFD) < 0, "closed");
    sockets_close(&sockets);
    end_handed();
}

TEST(activated_sockets_are_all_served)
{
    char names[SOCKETS_NAMES_MAX];
    struct err err = { 0 };
    bool is_misused;

    begin_handed();
    CLEANUP(options_free) struct options *o = listen_at(NULL, NULL);
    check(sockets_open(&sockets, o, handed_of("penstock.socket", ""), &is_misused, &err) == OK,
          "%s", err.text);
    check(sockets.count == 2, "in place of the default: %u", sockets.count);
    check(sockets.entries[0].is_activated, "its file is not ours");
    sockets_names(&sockets, names);
    check(strcmp(names, "@penstock.socket:@") == 0 || strcmp(names, "@:@penstock.socket") == 0,
          "%s", names);
    sockets_close(&sockets);
    end_handed();
}

TEST(what_is_no_listening_socket_is_refused)
{
    struct err err = { 0 };
    bool is_misused;
    int pair[2];

    begin_handed();
    check_or_stop(pipe(pair) == 0 && dup2(pair[0], 4) == 4, "pipe");
    close(pair[0]), close(pair[1]);
    CLEANUP(options_free) struct options *o = listen_at(NULL, NULL);
    check(sockets_open(&sockets, o, handed_of("a", "b"), &is_misused, &err) == E_PRECONDITION,
          "taken");
    check(strstr(err.text, "descriptor 4, which was handed over as '@b', is no listening socket") !=
              NULL,
          "%s", err.text);
    check(fcntl(3, F_GETFD) < 0, "all are closed");
    end_handed();
}

TEST(a_port_that_is_taken_is_said_once)
{
    struct err err = { 0 };
    bool is_misused = true;
    char text[64];

    begin_handed();
    snprintf(text, sizeof text, "127.0.0.1:%u", start.port[0]);
    CLEANUP(options_free) struct options *o = listen_at("127.0.0.1:0", text);
    static struct handed none;
    check(sockets_open(&sockets, o, &none, &is_misused, &err) == E_EXISTS && !is_misused, "%s",
          err.text);
    check(strncmp(err.text, "--listen: ", 10) == 0, "%s", err.text);
    check(sockets.count == 0, "and nothing stays open");
    close(3), close(4);
    end_handed();
}
