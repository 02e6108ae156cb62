/* confine.c - SPDX-License-Identifier: Apache-2.0
 *
 * Landlock by its three system calls: glibc has no functions for them, and headers are often older than the
 * kernel, so what later versions added is named here.
 */
#include "cli/confine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "access/access.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/slice.h"
#include "base/text.h"
#include "cli/options.h"
#include "cli/seccomp.h"
#include "cli/seeing.h"
#include "cli/sockets.h"
#include "cli/stack.h"
#include "serve/access_log.h"

enum confine_how { CONFINE_AUTO, CONFINE_OFF, CONFINE_REQUIRE };
enum core_dumps { CORES_AUTO, CORES_ON, CORES_OFF };
enum { GROUPS_MAX = 1024, LINKS_MAX = 10000, WHY_MAX = 128, RULES_BYTES_MAX = 16 << 20 };

static struct {
    int landlock;           /* the version that holds; 0: none */
    uint32_t reads, writes; /* paths */
    uint32_t calls;         /* refused; 0: no filter holds */
    char why_not[WHY_MAX];  /* Landlock or seccomp do not hold */
    bool has_no_cores;
} held;

/* -- root ----------------------------------------------------------------------------------------- */

struct identity {
    char name[256];
    uid_t user;
    gid_t group;
    bool has_group; /* it was named: it is the only one */
};

static bool to_id(const char *text, uint32_t *ret)
{
    uint64_t number;

    if (!slice_to_u64(slice_of(text), &number) || number >= UINT32_MAX)
        return false;
    *ret = (uint32_t)number;
    return true;
}

static enum err_code find_identity(struct identity *ret, const char *text, struct err *err)
{
    const char *colon = strchr(text, ':');
    size_t size = colon == NULL ? strlen(text) : (size_t)(colon - text);

    *ret = (struct identity){ .has_group = colon != NULL };
    if (size == 0 || size >= sizeof ret->name)
        return err_set(err, E_INVALID, "'%.100s' is no NAME or NAME:GROUP", text);
    memcpy(ret->name, text, size);
    const struct passwd *user = getpwnam(ret->name);
    if (user != NULL) {
        ret->user = user->pw_uid;
        ret->group = user->pw_gid;
    } else if (!to_id(ret->name, &ret->user)) {
        return err_set(err, E_NOT_FOUND, "there is no user '%s'", ret->name);
    } else if (colon == NULL) {
        return err_set(err, E_INVALID, "user %s has no name, so no group: say %s:GROUP", ret->name,
                       ret->name);
    }
    if (colon == NULL)
        return OK;
    const struct group *group = getgrnam(colon + 1);
    if (group != NULL)
        ret->group = group->gr_gid;
    else if (!to_id(colon + 1, &ret->group))
        return err_set(err, E_NOT_FOUND, "there is no group '%.100s'", colon + 1);
    return OK;
}

static bool become(const struct identity *who)
{
    gid_t groups[GROUPS_MAX];
    int count = GROUPS_MAX;

    if (who->has_group)
        groups[0] = who->group, count = 1;
    else if (getgrouplist(who->name, who->group, groups, &count) < 0)
        return false;
    return setgroups((size_t)count, groups) == 0 &&
           setresgid(who->group, who->group, who->group) == 0 &&
           setresuid(who->user, who->user, who->user) == 0;
}

/* Found as root, it would be missing for the user without a word why. */
static void warn_of_runtime(const char *user, const char *path)
{
    if (path != NULL && access(path, R_OK) != 0)
        log_warn("--user: %s may not read %s (%s): no model that needs it can be loaded; put it where "
                 "that user may read it, and name its folder with --runtime-dir",
                 user, path, strerror(errno));
}

enum err_code confine_user(const struct options *o, struct err *err)
{
    const char *text = options_text(o, OPT_USER), *runtime;
    struct identity who;
    char where[ERR_TEXT_MAX];
    uid_t real, effective, saved;

    if (text[0] == '\0')
        return OK;
    options_origin(o, OPT_USER, where, sizeof where);
    if (find_identity(&who, text, err) != OK)
        return err_wrap(err, "%s", where);
    if (who.user == 0)
        return err_set(err, E_INVALID, "%s: '%s' is root, which is to be given up", where, text);
    if (geteuid() == who.user && getuid() == who.user)
        return OK;
    runtime = runtime_find(o, "onnxruntime");
    if (!become(&who))
        return err_set(err, E_PERMISSION, "%s: cannot become '%s': %s", where, text,
                       geteuid() != 0 ? "only root can" : strerror(errno));
    /* A way back would be a hole that nobody sees: looked for, not believed. */
    if (getresuid(&real, &effective, &saved) != 0 || real != who.user || effective != who.user ||
        saved != who.user || setuid(0) == 0 || setresuid((uid_t)-1, 0, (uid_t)-1) == 0)
        return err_set(err, E_INTERNAL,
                       "%s: root was not given up for good; the server does not start", where);
    warn_of_runtime(text, runtime);
    return OK;
}

/* Of one who serves as root all that is not for opening files: no raw sockets, no other's processes. */
static void drop_capabilities(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct kept[2] = { 0 };
    const uint32_t files = 1U << CAP_DAC_OVERRIDE | 1U << CAP_DAC_READ_SEARCH;

    for (unsigned long one = 0; prctl(PR_CAPBSET_READ, one, 0, 0, 0) >= 0; one++)
        if (one != CAP_DAC_OVERRIDE && one != CAP_DAC_READ_SEARCH)
            (void)prctl(PR_CAPBSET_DROP, one, 0, 0, 0);
    if (syscall(SYS_capget, &header, kept) != 0)
        return;
    for (int i = 0; i < 2; i++) {
        uint32_t mask = i == 0 ? files : 0;
        kept[i] = (struct __user_cap_data_struct){ .effective = kept[i].effective & mask,
                                                   .permitted = kept[i].permitted & mask };
    }
    (void)syscall(SYS_capset, &header, kept);
}

/* -- files ---------------------------------------------------------------------------------------- */

#define ACCESS_TRUNCATE (UINT64_C(1) << 14) /* version 3 */
enum { SCOPE_ABSTRACT = 1, SCOPE_SIGNAL = 2 }; /* version 6: sockets without a file; signals */

#define ACCESS_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define ACCESS_CHANGE                                                 \
    (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE | \
     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REFER | ACCESS_TRUNCATE)
/* Of a folder's rights those that a file has too. */
#define ACCESS_OF_FILES                                                                          \
    (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_EXECUTE | \
     ACCESS_TRUNCATE)

struct ruleset_words { /* landlock_ruleset_attr as of version 6 */
    uint64_t files, ports, scopes;
};

struct files {
    int fd;           /* the ruleset */
    uint64_t handled; /* of the file system, what this kernel knows */
};

static void allow(struct files *f, const char *path, uint64_t access)
{
    struct landlock_path_beneath_attr rule = { .parent_fd = -1 };
    struct stat st;

    rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
    if (rule.parent_fd < 0 || fstat(rule.parent_fd, &st) != 0) {
        if (rule.parent_fd >= 0)
            close(rule.parent_fd);
        return; /* what is not there cannot be opened either */
    }
    rule.allowed_access =
        access & f->handled & (S_ISDIR(st.st_mode) ? ~UINT64_C(0) : ACCESS_OF_FILES);
    if (syscall(SYS_landlock_add_rule, f->fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0) {
        held.writes += S_ISDIR(st.st_mode) && (access & ACCESS_CHANGE) != 0;
        held.reads += (access & ACCESS_CHANGE) == 0;
        log_debug("may %s %s", (access & ACCESS_CHANGE) != 0 ? "write" : "read", path);
    }
    close(rule.parent_fd);
}

/* -- folders of files -- */

/* Folders that hold what belongs to many: none of them is opened as a whole for a file that lies there. */
static bool is_broad(const char *real)
{
    static const char *const many[] = {
        "/",        "/bin",     "/boot",     "/dev",           "/etc",       "/home",
        "/lib",     "/lib64",   "/media",    "/mnt",           "/opt",       "/proc",
        "/root",    "/run",     "/run/lock", "/run/user",      "/sbin",      "/srv",
        "/sys",     "/tmp",     "/usr",      "/usr/bin",       "/usr/local", "/usr/share",
        "/var",     "/var/lib", "/var/log",  "/var/run",       "/var/tmp",   "/var/cache",
        "/etc/ssl", "/usr/lib", "/dev/shm",  "/usr/local/etc",
    };
    const char *home = getenv("HOME");

    for (size_t i = 0; i < COUNT(many); i++)
        if (strcmp(real, many[i]) == 0)
            return true;
    /* Of a person; what a service calls its home, /var/lib/x, is a folder of its own. */
    return (strncmp(real, "/home/", 6) == 0 && strchr(real + 6, '/') == NULL) ||
           (home != NULL && strcmp(real, home) == 0 && strncmp(real, "/var/", 5) != 0);
}

static bool folder_of(const char *path, char out[PATH_MAX])
{
    if ((size_t)snprintf(out, PATH_MAX, "%s", path) >= PATH_MAX)
        return false;
    char *slash = strrchr(out, '/');
    if (slash == NULL)
        snprintf(out, PATH_MAX, ".");
    else
        slash[slash == out] = '\0';
    return true;
}

/* Where the folder holds what belongs to many only the file that is there now: a rule of Landlock is of an
 * inode, so one that is put in its place later is another. That is said, once for each. */
static void allow_alone(struct files *f, const char *path, const char *folder, uint64_t access)
{
    bool is_written = (access & LANDLOCK_ACCESS_FS_WRITE_FILE) != 0;

    if (is_written) { /* as the log itself makes it: there has to be one */
        int fd =
            open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0640);
        if (fd >= 0)
            close(fd);
    }
    allow(f, path, access);
    if (access == LANDLOCK_ACCESS_FS_REMOVE_FILE)
        log_warn("%s stays there when the server ends: %s holds what belongs to others, and is not "
                 "opened by --confine; keep it in a folder of its own",
                 path, folder);
    else
        log_warn(
            "%s: %s holds what belongs to others, and is not opened by --confine as a whole; a "
            "file that %s, until the next start: keep it in a folder of its own",
            path, folder,
            is_written ? "takes its place cannot be written" : "takes its place is not read");
}

/* The folder of a file, as it is named and where its links lead: files are often replaced, and the new
 * one must be seen too. */
static void allow_folder_of(struct files *f, const char *path, uint64_t access)
{
    char folder[PATH_MAX], real_folder[PATH_MAX], last[PATH_MAX] = "";
    char *real = realpath(path, NULL);
    struct stat st;

    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) { /* who reads it says that it is no file */
        allow(f, path, LANDLOCK_ACCESS_FS_READ_DIR);
        free(real);
        return;
    }

    for (int i = 0; i < 2; i++) {
        const char *from = i == 0 ? path : real;
        if (from == NULL || !folder_of(from, folder) || realpath(folder, real_folder) == NULL ||
            strcmp(real_folder, last) == 0)
            continue;
        memcpy(last, real_folder, sizeof last);
        bool is_open = geteuid() != 0 && strcmp(real_folder, "/etc") == 0 &&
                       access == LANDLOCK_ACCESS_FS_READ_FILE; /* allow_system */
        if (is_broad(real_folder) && !is_open)
            allow_alone(f, from, real_folder, access);
        else
            allow(f, folder, access);
    }
    free(real);
}

/* Folders that links in a folder of models lead to, two levels deep: models and their versions. */
static void allow_links(struct files *f, const char *folder, int depth, uint32_t *left)
{
    char path[PATH_MAX];
    struct dirent *entry;
    DIR *dir = opendir(folder);

    while (dir != NULL && *left > 0 && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.' ||
            (size_t)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= sizeof path)
            continue;
        --*left;
        if (entry->d_type == DT_LNK)
            allow(f, path, ACCESS_READ); /* O_PATH follows it */
        if ((entry->d_type == DT_DIR || entry->d_type == DT_LNK) && depth > 0)
            allow_links(f, path, depth - 1, left);
    }
    if (dir != NULL)
        closedir(dir);
}

/* A model that is one file: that, and the files that lie beside it (configuration, labels, data of its
 * tensors), but not what is below them. */
static void allow_files_beside(struct files *f, const char *path)
{
    char folder[PATH_MAX], real_folder[PATH_MAX], name[PATH_MAX];
    uint32_t left = LINKS_MAX;
    struct dirent *entry;

    if (!folder_of(path, folder) || realpath(folder, real_folder) == NULL)
        return;
    if (is_broad(real_folder)) {
        allow_alone(f, path, real_folder, LANDLOCK_ACCESS_FS_READ_FILE);
        return;
    }
    allow(f, path, LANDLOCK_ACCESS_FS_READ_FILE);
    allow(f, folder, LANDLOCK_ACCESS_FS_READ_DIR);
    DIR *dir = opendir(folder);
    while (dir != NULL && left-- > 0 && (entry = readdir(dir)) != NULL)
        if (entry->d_type == DT_REG && (size_t)snprintf(name, sizeof name, "%s/%s", folder,
                                                        entry->d_name) < sizeof name)
            allow(f, name, LANDLOCK_ACCESS_FS_READ_FILE);
    if (dir != NULL)
        closedir(dir);
}

static void allow_models(struct files *f, const char *path)
{
    uint32_t left = LINKS_MAX;
    struct stat st;

    if (stat(path, &st) != 0)
        return;
    if (S_ISDIR(st.st_mode)) {
        char real[PATH_MAX];
        if (realpath(path, real) != NULL && is_broad(real))
            log_warn("all of %s can be read, as it is served: keep models in a folder of their own",
                     real);
        allow(f, path, ACCESS_READ);
        allow_links(f, path, 2, &left);
    } else {
        allow_files_beside(f, path);
    }
}

/* "/a/cert.pem,key.pem": each of a set of paths; not `auto`. */
static void allow_set(struct files *f, const char *set)
{
    char path[PATH_MAX];

    for (struct slice rest = slice_of(set); rest.size > 0;) {
        struct slice one = slice_first(rest, slice_find(rest, ','));
        rest = slice_skip(rest, MIN(one.size + 1, rest.size));
        if (one.size > 0 && one.size < sizeof path && !slice_is(one, "auto")) {
            memcpy(path, one.data, one.size);
            path[one.size] = '\0';
            allow_folder_of(f, path, LANDLOCK_ACCESS_FS_READ_FILE);
        }
    }
}

static void make_folders(const char *path)
{
    char part[PATH_MAX];

    if ((size_t)snprintf(part, sizeof part, "%s", path) >= sizeof part)
        return;
    for (char *at = strchr(part + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
        *at = '\0';
        (void)mkdir(part, 0700);
        *at = '/';
    }
    (void)mkdir(part, 0700); /* who writes there says what is wrong */
}

/* Where --tls auto keeps what it made (io/tls_auto.c). */
static void allow_tls_state(struct files *f, const struct options *o)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    const struct option_value *pairs = &o->values[OPT_TLS];
    char path[PATH_MAX] = "";
    bool is_auto = false;

    for (uint32_t i = 0; i < pairs->items_count; i++)
        is_auto |= strcmp(pairs->items[i], "auto") == 0;
    if (!is_auto)
        return;
    if (options_text(o, OPT_TLS_DIR)[0] != '\0')
        snprintf(path, sizeof path, "%s", options_text(o, OPT_TLS_DIR));
    else if (state != NULL && state[0] == '/')
        snprintf(path, sizeof path, "%s/penstock/tls", state);
    else if (home != NULL && home[0] == '/')
        snprintf(path, sizeof path, "%s/.local/state/penstock/tls", home);
    make_folders(path);
    allow(f, path, ACCESS_READ | ACCESS_CHANGE);
}

/* What any program reads: libraries, names of hosts, the kernel's own figures, devices without a device. */
static void allow_system(struct files *f)
{
    static const char *const read[] = { "/usr/lib",
                                        "/usr/lib32",
                                        "/usr/lib64",
                                        "/lib",
                                        "/lib64",
                                        "/usr/local/lib",
                                        "/usr/share/zoneinfo",
                                        "/usr/share/ca-certificates",
                                        "/usr/local/share/ca-certificates",
                                        "/proc",
                                        "/sys",
                                        "/run/systemd/resolve" };
    static const char *const etc[] = {
        "/etc/resolv.conf",   "/etc/hosts",     "/etc/nsswitch.conf",   "/etc/host.conf",
        "/etc/gai.conf",      "/etc/services",  "/etc/protocols",       "/etc/passwd",
        "/etc/group",         "/etc/localtime", "/etc/timezone",        "/etc/ld.so.cache",
        "/etc/ld.so.preload", "/etc/ssl",       "/etc/ca-certificates", "/etc/pki"
    };
    static const char *const devices[] = { "/dev/null",    "/dev/zero", "/dev/full", "/dev/random",
                                           "/dev/urandom", "/dev/dri",  "/dev/kfd" };
    struct dirent *entry;
    char path[300];

    for (size_t i = 0; i < COUNT(read); i++)
        allow(f, read[i], ACCESS_READ);
    /* Files of it can be replaced while we run (resolv.conf). What others than root can read there is no
     * secret; but nobody needs to look around. */
    if (geteuid() != 0)
        allow(f, "/etc", LANDLOCK_ACCESS_FS_READ_FILE);
    for (size_t i = 0; geteuid() == 0 && i < COUNT(etc); i++)
        allow(f, etc[i], ACCESS_READ);
    for (size_t i = 0; i < COUNT(devices); i++)
        allow(f, devices[i], ACCESS_READ | LANDLOCK_ACCESS_FS_WRITE_FILE);
    allow(f, "/dev/shm", ACCESS_READ | ACCESS_CHANGE);
    DIR *dir = opendir("/dev");
    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (strncmp(entry->d_name, "nvidia", 6) == 0) {
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            allow(f, path, ACCESS_READ | LANDLOCK_ACCESS_FS_WRITE_FILE);
        }
    if (dir != NULL)
        closedir(dir);
}

static void allow_key_file(void *context, const char *file)
{
    allow_folder_of(context, file, LANDLOCK_ACCESS_FS_READ_FILE);
}

/* Files that the rules of --access name. */
static void allow_access(struct files *f, const char *path)
{
    CLEANUP(buf_unref) struct buf *text = NULL;
    struct err ignored;

    if (path[0] != '\0' && file_read(&text, NULL, path, RULES_BYTES_MAX, &ignored) == OK)
        access_key_files(buf_bytes(text), path, allow_key_file, f);
}

static void allow_options(struct files *f, const struct options *o, const struct sockets *sockets)
{
    /* The configuration is not among them: it has been read, and the next program reads its own. */
    static const enum option_id files_read[] = { OPT_TLS_CLIENT_CA, OPT_TLS_CLIENT_CRL,
                                                 OPT_TLS_TICKET_KEYS, OPT_ACCESS, OPT_CACERT };
    static const enum option_id files_written[] = { OPT_ACCESS_LOG, OPT_AUDIT_LOG };
    static const enum option_id code[] = { OPT_RUNTIME_DIR, OPT_BACKEND_PLUGIN };
    const struct option_value *models = &o->values[OPT_MODELS], *tls = &o->values[OPT_TLS];
    const struct option_value *more = &o->values[OPT_CONFINE_READ];
    const char *runtime = runtime_find(o, "onnxruntime");

    for (uint32_t i = 0; i < models->items_count; i++)
        allow_models(f, models->items[i]);
    for (size_t i = 0; i < COUNT(code); i++)
        for (uint32_t k = 0; k < o->values[code[i]].items_count; k++) {
            const char *path = o->values[code[i]].items[k];
            struct stat st;
            if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
                allow(f, path, ACCESS_READ);
            else if (stat(path, &st) == 0)
                allow_folder_of(f, path, ACCESS_READ); /* libraries beside it */
        }
    if (runtime != NULL && access(runtime, F_OK) == 0)
        allow_folder_of(f, runtime, ACCESS_READ);
    for (uint32_t i = 0; i < tls->items_count; i++)
        allow_set(f, tls->items[i]);
    allow_tls_state(f, o);
    for (size_t i = 0; i < COUNT(files_read); i++)
        if (options_text(o, files_read[i])[0] != '\0')
            allow_folder_of(f, options_text(o, files_read[i]), LANDLOCK_ACCESS_FS_READ_FILE);
    if (seeing_certificate() != NULL)
        allow_folder_of(f, seeing_certificate(), LANDLOCK_ACCESS_FS_READ_FILE);
    allow_access(f, options_text(o, OPT_ACCESS));
    for (size_t i = 0; i < COUNT(files_written); i++) {
        const char *path = options_text(o, files_written[i]);
        if (access_log_is_file(path)) /* written anew after it was moved away, and never read */
            allow_folder_of(f, path, LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG);
    }
    for (uint32_t i = 0; i < sockets->count; i++)
        if (sockets->entries[i].address.any.sa_family == AF_UNIX &&
            !sockets->entries[i].is_activated)
            allow_folder_of(f, sockets->entries[i].address.local.sun_path,
                            LANDLOCK_ACCESS_FS_REMOVE_FILE);
    for (uint32_t i = 0; i < sockets->unused_count; i++)
        if (sockets->unused[i].address.any.sa_family == AF_UNIX)
            allow_folder_of(f, sockets->unused[i].address.local.sun_path,
                            LANDLOCK_ACCESS_FS_REMOVE_FILE);
    for (uint32_t i = 0; i < more->items_count; i++)
        allow(f, more->items[i], ACCESS_READ);
    more = &o->values[OPT_CONFINE_WRITE];
    for (uint32_t i = 0; i < more->items_count; i++)
        allow(f, more->items[i], ACCESS_READ | ACCESS_CHANGE | LANDLOCK_ACCESS_FS_MAKE_DIR);
}

/* systemd's socket is a file; that of others who speak its protocol need not be. */
static bool is_notified_abstractly(void)
{
    const char *name = getenv("NOTIFY_SOCKET");

    return name != NULL && name[0] == '@';
}

static bool confine_files(const struct options *o, const struct sockets *sockets)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    struct ruleset_words words = { 0 };
    struct files f;

    if (version <= 0) {
        snprintf(held.why_not, sizeof held.why_not, "this kernel has no Landlock (%s)",
                 strerror(errno));
        return false;
    }
    /* All there is to a file system, execve too, and none of it allowed but what follows. */
    words.files = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
    if (version >= 2)
        words.files |= LANDLOCK_ACCESS_FS_REFER;
    if (version >= 3)
        words.files |= ACCESS_TRUNCATE;
    if (version >= 6)
        words.scopes = SCOPE_SIGNAL | (is_notified_abstractly() ? 0 : SCOPE_ABSTRACT);
    f.handled = words.files;
    f.fd = (int)syscall(SYS_landlock_create_ruleset, &words,
                        version >= 6 ? sizeof words : sizeof words.files, 0);
    if (f.fd < 0) {
        snprintf(held.why_not, sizeof held.why_not, "Landlock: %s", strerror(errno));
        return false;
    }
    allow_system(&f);
    allow_options(&f, o, sockets);
    bool is_held = syscall(SYS_landlock_restrict_self, f.fd, 0) == 0;
    if (!is_held)
        snprintf(held.why_not, sizeof held.why_not, "Landlock: %s", strerror(errno));
    close(f.fd);
    held.landlock = is_held ? (int)version : 0;
    return is_held;
}

/* -- core dumps, and all of it ---------------------------------------------------------------------- */

static void confine_cores(const struct options *o)
{
    static const enum option_id secrets[] = { OPT_TLS, OPT_TLS_TICKET_KEYS, OPT_ACCESS,
                                              OPT_OTLP_HEADER };
    uint64_t how = options_number(o, OPT_CORE_DUMPS);
    bool has_secrets = getenv("OTEL_EXPORTER_OTLP_HEADERS") != NULL;

    for (size_t i = 0; i < COUNT(secrets); i++)
        has_secrets |= options_is_set(o, secrets[i]);
    held.has_no_cores = how == CORES_OFF || (how == CORES_AUTO && has_secrets);
    if (held.has_no_cores)
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    else if (how == CORES_ON) /* who gave up root has none either, unless told */
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

enum err_code confine(const struct options *o, const struct sockets *sockets, struct err *err)
{
    uint64_t how = options_number(o, OPT_CONFINE);
    char why[WHY_MAX] = "";

    confine_cores(o);
    if (how != CONFINE_OFF || options_text(o, OPT_USER)[0] != '\0') {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 && how == CONFINE_REQUIRE)
            return err_set(err, E_PRECONDITION, "--confine require: no_new_privs: %s",
                           strerror(errno));
    }
    if (how == CONFINE_OFF)
        return OK;
    if (geteuid() == 0)
        drop_capabilities();
    bool is_held = confine_files(o, sockets);
    held.calls = seccomp_confine(why, sizeof why);
    if (held.calls == 0)
        snprintf(held.why_not, sizeof held.why_not, "%s", why);
    if (how == CONFINE_REQUIRE && (!is_held || held.calls == 0))
        return err_set(err, E_PRECONDITION, "--confine require: %s", held.why_not);
    return OK;
}

void confine_tell(const struct options *o)
{
    char bytes[512];
    struct text out;

    text_init_fixed(&out, bytes, sizeof bytes);
    if (held.landlock != 0)
        text_printf(&out, "reads %u paths, writes below %u, starts no program (Landlock %d)",
                    held.reads, held.writes, held.landlock);
    if (held.calls != 0)
        text_printf(&out, "%s%u system calls are refused (seccomp)", out.size > 0 ? "; " : "",
                    held.calls);
    if (held.has_no_cores)
        text_printf(&out, "%sno core dumps", out.size > 0 ? "; " : "");
    if (out.size > 0)
        log_info("confined: %s", text_cstr(&out));
    if (held.why_not[0] != '\0')
        log_warn("not confined as --confine auto would: %s", held.why_not);
    if (geteuid() == 0)
        log_warn("serving as root: --user NAME gives that up once the ports are open");
    (void)o;
}
