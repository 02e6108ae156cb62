/* socket_test.c - addresses, listening, usable cores. SPDX-License-Identifier: Apache-2.0 */
#include "io/socket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/cpu.h"
#include "test/harness.h"

TEST(addresses)
{
    static const struct {
        const char *text, *back; /* back NULL: refused */
        bool is_loopback;
    } cases[] = {
        { "127.0.0.1:8000", "127.0.0.1:8000", true },
        { "localhost:0", "127.0.0.1:0", true },
        { "[::1]:80", "[::1]:80", true },
        { "0.0.0.0:1", "0.0.0.0:1", false },
        { ":8000", "[::]:8000", false },
        { "*:8000", "[::]:8000", false },
        { "unix:/tmp/x.sock", "unix:/tmp/x.sock", true },
        { "unix:/tmp/x.sock,mode=0660", "unix:/tmp/x.sock", true },
        { "127.0.0.1", NULL, false },
        { "127.0.0.1:", NULL, false },
        { "127.0.0.1:65536", NULL, false },
        { "127.0.0.1:-1", NULL, false },
        { "127.0.0.1:80x", NULL, false },
        { "::1:80", NULL, false },
        { "[fe80::zz]:80", NULL, false },
        { "", NULL, false },
        { "unix:", NULL, false },
        { "unix:/x,mode=0666", NULL, false },
        { "unix:/x,mode=0400", NULL, false },
        { "unix:/x,mode=9", NULL, false },
        { "unix:/x,mod=0600", NULL, false },
        { "unix:/01234567890123456789012345678901234567890123456789012345678901234567890123456789"
          "01234567890123456789012345678901234567890123456789",
          NULL, false },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct address address;
        char text[ADDRESS_TEXT_MAX];
        struct err err = { 0 };
        enum err_code code = address_parse(&address, cases[i].text, &err);
        check((code == OK) == (cases[i].back != NULL), "%s: %s", cases[i].text, err.text);
        check((code == OK) == (err.text[0] == '\0'), "%s: %s", cases[i].text, err.text);
        if (code != OK || cases[i].back == NULL)
            continue;
        check(address_text(&address, text) == strlen(text), "%s", text);
        check(strcmp(text, cases[i].back) == 0, "%s: %s", cases[i].text, text);
        check(address_is_loopback(&address) == cases[i].is_loopback, "%s", cases[i].text);
    }
}

TEST(a_taken_port_names_its_owner)
{
    struct address address;
    struct err err = { 0 };
    int fd = -1, second = -1;
    char text[ADDRESS_TEXT_MAX], pid[32];

    check_or_stop(address_parse(&address, "127.0.0.1:0", &err) == OK, "%s", err.text);
    check_or_stop(socket_listen(&fd, &address, 8, &err) == OK, "%s", err.text);
    address_text(&address, text);
    check(strcmp(text, "127.0.0.1:0") != 0, "the port is resolved: %s", text);
    check(socket_listen(&second, &address, 8, &err) == E_EXISTS && second == -1, "taken");
    snprintf(pid, sizeof pid, "(pid %d)", (int)getpid());
    check(strstr(err.text, text) != NULL && strstr(err.text, pid) != NULL, "%s", err.text);
    socket_unlisten(&fd, &address);
    check(fd == -1, "closed");
    check(socket_listen(&fd, &address, 8, &err) == OK, "free again: %s", err.text);
    socket_unlisten(&fd, &address);
}

TEST(unix_sockets)
{
    char folder[] = "/tmp/penstock-socket-XXXXXX", text[ADDRESS_TEXT_MAX];
    struct address address, peer;
    struct err err = { 0 };
    int fd = -1, second = -1;
    struct stat st;

    check_or_stop(mkdtemp(folder) != NULL, "folder");
    snprintf(text, sizeof text, "unix:%s/s,mode=0660", folder);
    check_or_stop(address_parse(&address, text, &err) == OK, "%s", err.text);
    check_or_stop(socket_listen(&fd, &address, 8, &err) == OK, "%s", err.text);
    check(stat(address.local.sun_path, &st) == 0 && (st.st_mode & 0777) == 0660, "mode %o",
          st.st_mode & 0777);
    check(socket_listen(&second, &address, 8, &err) == E_EXISTS, "it answers: %s", err.text);
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    check(connect(client, &address.any, address.size) == 0, "still there");
    int accepted = socket_accept(fd, &peer);
    check(accepted >= 0, "accepted");
    check(address_text(&peer, text) == 5 && strcmp(text, "unix:") == 0, "peer %s", text);
    close(client);
    socket_close(&accepted);
    close(fd); /* as one that died: the file stays */
    check(stat(address.local.sun_path, &st) == 0, "stale file");
    check(socket_listen(&fd, &address, 8, &err) == OK, "stale files go: %s", err.text);
    socket_unlisten(&fd, &address);
    check(stat(address.local.sun_path, &st) != 0 && errno == ENOENT, "file removed");

    FILE *file = fopen(address.local.sun_path, "w");
    fclose(file);
    check(socket_listen(&fd, &address, 8, &err) == E_EXISTS, "no socket: %s", err.text);
    check(stat(address.local.sun_path, &st) == 0, "what is no socket stays");
    unlink(address.local.sun_path);
    rmdir(folder);
}

TEST(listening_survives_every_fault)
{
    for_each_fault(nth) {
        struct address address;
        struct err err = { 0 };
        int fd = -1;
        enum err_code code = address_parse(&address, "127.0.0.1:0", &err);
        if (code == OK)
            code = socket_listen(&fd, &address, 8, &err);
        bool fired = fault_fired();
        check((code == OK) == (fd >= 0) && fired == (code != OK), "fault %u", nth);
        check(code == OK || err.text[0] != '\0', "fault %u is silent", nth);
        socket_unlisten(&fd, &address);
        if (!fired)
            break;
    }
}

TEST(bytes_go_both_ways_and_can_be_dropped)
{
    struct address address, peer;
    struct err err = { 0 };
    char bytes[100];
    int fd = -1;

    check_or_stop(address_parse(&address, "127.0.0.1:0", &err) == OK &&
                      socket_listen(&fd, &address, 8, &err) == OK,
                  "%s", err.text);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    check_or_stop(connect(client, &address.any, address.size) == 0, "connect");
    int server = socket_accept(fd, &peer);
    check_or_stop(server >= 0, "accept");
    check(socket_accept(fd, &peer) == -EAGAIN, "nobody else");
    check(socket_recv(server, bytes, sizeof bytes) == -EAGAIN, "nothing yet");
    check(send(client, "0123456789", 10, 0) == 10, "send");
    usleep(10000);
    check(socket_discard(server, 4) == 4, "four are dropped");
    check(socket_recv(server, bytes, sizeof bytes) == 6 && memcmp(bytes, "456789", 6) == 0, "six");
    check(socket_send(server, "abc", 3) == 3, "back");
    check(recv(client, bytes, sizeof bytes, 0) == 3, "there");
    socket_finish(server);
    check(recv(client, bytes, sizeof bytes, 0) == 0, "the end");
    close(client);
    socket_close(&server);
    socket_unlisten(&fd, &address);
}

/* -- cores ------------------------------------------------------------------------------------- */

static void put_file(const char *root, const char *path, const char *text)
{
    char name[512];

    snprintf(name, sizeof name, "%s%s", root, path);
    for (char *at = name + strlen(root) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        mkdir(name, 0700);
        *at = '/';
    }
    FILE *file = fopen(name, "w");
    require(file != NULL);
    fputs(text, file);
    fclose(file);
}

TEST(usable_cores)
{
    char root[] = "/tmp/penstock-cpu-XXXXXX", command[64];

    check(cpu_usable() >= 1, "here");
    check(cpu_quota_parse(slice_of("max 100000\n")) == UINT32_MAX, "no quota");
    check(cpu_quota_parse(slice_of("250000 100000\n")) == 3, "rounded up");
    check(cpu_quota_parse(slice_of("50000 100000\n")) == 1, "half a core");
    check(cpu_quota_parse(slice_of("")) == UINT32_MAX, "empty");
    check(cpu_quota_parse(slice_of("1 0")) == UINT32_MAX, "no period");

    check_or_stop(mkdtemp(root) != NULL, "folder");
    check(cpu_usable_at(root, 7) == 7 && cpu_usable_at(root, 0) == 1, "no cgroup");
    put_file(root, "/proc/self/cgroup", "0::/a/b\n");
    put_file(root, "/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    check(cpu_usable_at(root, 7) == 7, "no quota anywhere");
    put_file(root, "/sys/fs/cgroup/a/cpu.max", "400000 100000\n");
    check(cpu_usable_at(root, 7) == 4, "above us");
    put_file(root, "/sys/fs/cgroup/a/b/cpu.max", "150000 100000\n");
    check(cpu_usable_at(root, 7) == 2 && cpu_usable_at(root, 1) == 1, "our own");
    put_file(root, "/proc/self/cgroup", "4:cpu,cpuacct:/x\n1:name=systemd:/\n");
    put_file(root, "/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "-1\n");
    put_file(root, "/sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n");
    check(cpu_usable_at(root, 7) == 7, "version 1, no quota");
    put_file(root, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n");
    put_file(root, "/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    check(cpu_usable_at(root, 7) == 3, "version 1, at the top");
    snprintf(command, sizeof command, "rm -r %s", root);
    check(system(command) == 0, "removed");
}
