/* top.c - the verb top: a server's numbers, again and again. SPDX-License-Identifier: Apache-2.0
 *
 * One loop waits for everything: the answer, the next look, keys, signals. On a terminal the screen is the
 * alternate one and is given back however this ends; elsewhere each look is printed below the one before.
 * The first look has no rates, so only a terminal shows it, while the second is waited for.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "cli/ask.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/top_show.h"
#include "cli/verbs.h"
#include "client/pool.h"
#include "io/loop.h"

enum { METRICS_BYTES_MAX = 256 << 20, SCREEN_BYTES_MAX = 16 << 20, ONCE_LOOKS_MAX = 5 };

struct top {
    const struct options *o;
    struct loop *loop;        /* owned */
    struct client_pool *pool; /* owned */
    struct client_exchange *x;
    struct top_count *count; /* owned; NULL: nothing was seen yet */
    uint64_t looked_ns;      /* when it was */
    uint32_t looks;
    uint64_t interval_ns;
    struct timer next;
    struct loop_fd keys, signals;
    struct termios before;
    struct text out;
    enum top_sort sort;
    bool is_open; /* what the command line says has done */
    bool is_live, has_screen, is_paused, shows_help, is_over;
    char note[ERR_TEXT_MAX]; /* why nothing is new; empty: it is */
    struct err err;
};

static void end(struct top *top, const struct err *err)
{
    top->is_over = true;
    if (err != NULL)
        top->err = *err;
    loop_stop(top->loop);
}

/* -- the screen -------------------------------------------------------------------------------- */

static void write_words(const char *words)
{
    ssize_t wrote = write(STDOUT_FILENO, words, strlen(words));
    (void)wrote; /* a terminal that is gone is found by the next frame */
}

static void screen_take(struct top *top)
{
    struct termios raw = top->before;

    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO); /* ISIG stays: Ctrl-C is a signal */
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    write_words("\033[?1049h\033[?25l\033[2J");
    top->has_screen = true;
}

static void screen_give(struct top *top)
{
    if (!top->has_screen)
        return;
    top->has_screen = false;
    write_words("\033[?25h\033[?1049l");
    (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &top->before);
}

static struct top_shown how_of(const struct top *top)
{
    struct winsize size = { 0 };
    struct env *env = loop_env(top->loop);
    struct top_shown how = { .url = client_pool_url(top->pool)->shown,
                             .sort = top->sort,
                             .is_live = top->is_live,
                             .has_colour = print_has_colour(STDOUT_FILENO),
                             .interval = (double)top->interval_ns / 1e9,
                             .now = (double)env->wall_ns(env) / 1e9 };

    if (top->note[0] != '\0')
        how.note = top->note;
    else if (top->is_paused)
        how.note = "paused: p goes on";
    if (top->is_live && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) {
        how.columns = size.ws_col;
        how.lines = size.ws_row;
    }
    return how;
}

static void show(struct top *top)
{
    struct top_shown how = how_of(top);
    struct text *out = &top->out;
    struct err err = { 0 };

    if (top->is_live)
        text_str(out, "\033[H");
    if (top->shows_help)
        top_show_help(out, &how);
    else if (top->count == NULL)
        text_str(out, "looking ...\033[K\r\n");
    else if (options_flag(top->o, OPT_JSON))
        top_show_json(out, top->count, &how);
    else
        top_show(out, top->count, &how);
    if (top->is_live)
        text_str(out, "\033[J");
    else if (!options_flag(top->o, OPT_JSON) && !options_flag(top->o, OPT_ONCE))
        text_byte(out, '\n');
    if (print_out(STDOUT_FILENO, out))
        return;
    err_set(&err, E_UNKNOWN, "cannot write what was found");
    end(top, &err);
}

/* -- looking ----------------------------------------------------------------------------------- */

static void schedule(struct top *top, uint64_t from_ns)
{
    uint64_t due = from_ns + top->interval_ns, now = loop_refresh_ns(top->loop);
    struct err err = { 0 };

    if (timer_start(top->loop, &top->next, MAX(due, now + NS_PER_MS), &err) != OK)
        end(top, &err);
}

static enum err_code take_answer(struct top *top, const struct answer *answer, struct err *err)
{
    struct top_count *fresh = NULL;
    uint64_t now = loop_refresh_ns(top->loop);

    if (answer->status != 200) {
        ask_refusal(answer, err);
        return err_wrap(err, "/metrics");
    }
    if (top_count_new(&fresh, answer->body, top->count, (double)(now - top->looked_ns) / 1e9,
                      err) != OK)
        return err_wrap(err, "is %s a penstock?", client_pool_url(top->pool)->shown);
    top_count_free(&top->count);
    top->count = fresh;
    top->looked_ns = now;
    return OK;
}

static void on_end(struct client_exchange *x, const struct err *why)
{
    struct top *top = client_exchange_data(x);
    struct err err = *why;
    uint64_t failed_ns = 0;

    top->x = NULL;
    if (why->code == OK)
        (void)take_answer(top, client_exchange_answer(x), &err);
    else
        ask_advise(why->code, &err);
    if (err.code != OK && (!top->is_live || top->count == NULL)) {
        end(top, &err);
        return;
    }
    /* Who watches a terminal waits for the server to come back. */
    snprintf(top->note, sizeof top->note, "%s", err.code == OK ? "" : err.text);
    if (err.code != OK)
        failed_ns = loop_refresh_ns(top->loop);
    if (top->is_live || top->count->has_rates)
        show(top);
    top->looks++;
    if (options_flag(top->o, OPT_ONCE) && top->count->has_rates) {
        end(top, NULL);
    } else if (options_flag(top->o, OPT_ONCE) && top->looks == ONCE_LOOKS_MAX) {
        err_set(&err, E_UNAVAILABLE,
                "the server was another one at each of %d looks: does it start again and again?",
                ONCE_LOOKS_MAX);
        end(top, &err);
    }
    if (!top->is_over && !top->is_paused)
        schedule(top, MAX(top->looked_ns, failed_ns));
}

static void look(struct top *top)
{
    static const struct client_exchange_user user = { .on_end = on_end };
    static const struct client_header headers[] = { { "accept", "text/plain" } };
    struct client_ask asked = { .request = { .method = "GET",
                                             .target = "/metrics",
                                             .headers = headers,
                                             .headers_count = COUNT(headers) },
                                .user = &user,
                                .user_data = top };
    struct err err = { 0 };

    if (top->x != NULL)
        return;
    asked.due_ns = loop_refresh_ns(top->loop) + options_number(top->o, OPT_TIMEOUT);
    if (client_pool_ask(top->pool, &asked, &top->x, &err) != OK)
        end(top, &err);
}

static void on_next(struct timer *timer)
{
    look(CONTAINER_OF(timer, struct top, next));
}

/* -- keys and signals -------------------------------------------------------------------------- */

static void change_interval(struct top *top, bool is_longer)
{
    static const uint64_t steps_ms[] = { 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000 };
    uint64_t wanted = top->interval_ns;

    for (size_t i = 0; i < COUNT(steps_ms); i++) {
        uint64_t step = steps_ms[is_longer ? i : COUNT(steps_ms) - 1 - i] * NS_PER_MS;
        if (is_longer ? step > top->interval_ns : step < top->interval_ns) {
            wanted = step;
            break;
        }
    }
    top->interval_ns = wanted;
    if (!top->is_paused && top->x == NULL)
        schedule(top, top->looked_ns);
}

static void on_key(struct top *top, uint8_t key)
{
    if (key == 'q' || key == 'Q') {
        end(top, NULL);
        return;
    }
    if (top->shows_help) {
        top->shows_help = false;
        return;
    }
    switch (key) {
    case 's': top->sort = (enum top_sort)((top->sort + 1) % TOP_SORTS); break;
    case '?':
    case 'h': top->shows_help = true; break;
    case '+': change_interval(top, false); break;
    case '-': change_interval(top, true); break;
    case 'p':
    case ' ':
        top->is_paused = !top->is_paused;
        if (top->is_paused)
            timer_stop(top->loop, &top->next);
        else if (top->x == NULL)
            look(top);
        break;
    default: break;
    }
}

static void on_keys(struct loop_fd *watch, uint32_t events UNUSED)
{
    struct top *top = CONTAINER_OF(watch, struct top, keys);
    uint8_t bytes[64];
    ssize_t got = read(watch->fd, bytes, sizeof bytes);

    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (got <= 0) { /* the terminal is gone */
        end(top, NULL);
        return;
    }
    /* What begins with ESC is one key that means nothing here. */
    for (ssize_t i = 0; i < got && bytes[i] != '\033' && !top->is_over; i++)
        on_key(top, bytes[i]);
    if (!top->is_over)
        show(top);
}

static void on_signal(struct loop_fd *watch, uint32_t events UNUSED)
{
    struct top *top = CONTAINER_OF(watch, struct top, signals);
    struct signalfd_siginfo info;

    while (!top->is_over && read(watch->fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGTSTP) {
            screen_give(top);
            (void)raise(SIGSTOP);
            screen_take(top);
        }
        if (info.ssi_signo == SIGWINCH || info.ssi_signo == SIGTSTP)
            show(top);
        else
            end(top, NULL);
    }
}

static enum err_code watch_terminal(struct top *top, struct err *err)
{
    static const int wanted[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP };
    sigset_t set;

    if (tcgetattr(STDIN_FILENO, &top->before) != 0)
        return err_set(err, E_UNKNOWN, "cannot read the terminal's settings: %s", strerror(errno));
    sigemptyset(&set);
    for (size_t i = 0; i < COUNT(wanted); i++)
        sigaddset(&set, wanted[i]);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    top->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (top->signals.fd < 0)
        return err_set(err, E_UNKNOWN, "cannot watch for signals: %s", strerror(errno));
    TRY(loop_watch(top->loop, &top->signals, EPOLLIN, err));
    return loop_watch(top->loop, &top->keys, EPOLLIN, err);
}

/* -- the verb ---------------------------------------------------------------------------------- */

static enum err_code open_top(struct top *top, struct err *err)
{
    struct client_pool_settings settings = {
        .url = options_text(top->o, OPT_SERVER),
        .protocol = CLIENT_HTTP1,
        .connections_max = 1,
        .connect_timeout_ns = options_number(top->o, OPT_TIMEOUT),
        .backoff_min_ns = 1,
        .backoff_max_ns = 1,
        .limits = { .body_bytes_max = METRICS_BYTES_MAX },
    };

    TRY(ask_server(top->o, err));
    TRY(ask_authorization(&settings.authorization, top->o, err));
    TRY(ask_tls(&settings.tls, top->o, err));
    TRY(loop_new(&top->loop, env_real(), 0, err));
    if (client_pool_new(&top->pool, top->loop, &settings, err) != OK) {
        err->code = E_PRECONDITION; /* certificates: they say which */
        return err->code;
    }
    return top->is_live ? watch_terminal(top, err) : OK;
}

static enum err_code run_top(struct top *top, struct err *err)
{
    TRY(open_top(top, err));
    top->is_open = true;
    if (top->is_live) {
        screen_take(top);
        show(top);
    }
    look(top);
    if (!top->is_over)
        loop_run(top->loop);
    *err = top->err;
    return err->code;
}

static void close_top(struct top *top)
{
    screen_give(top);
    if (top->loop != NULL)
        timer_stop(top->loop, &top->next);
    client_pool_free(&top->pool);
    if (top->signals.fd >= 0)
        (void)close(top->signals.fd);
    loop_free(&top->loop);
    top_count_free(&top->count);
    text_deinit(&top->out);
}

int verb_top(const struct options *options)
{
    const char *term = getenv("TERM");
    struct top top = { .o = options,
                       .interval_ns = options_number(options, OPT_INTERVAL),
                       .sort = (enum top_sort)options_number(options, OPT_SORT),
                       .next.on_due = on_next,
                       .keys = { .fd = STDIN_FILENO, .on_ready = on_keys },
                       .signals = { .fd = -1, .on_ready = on_signal } };
    struct err err = { 0 };

    if (options->arguments_count > 0)
        return print_failure(EXIT_USAGE, "top takes no argument; the server is --server URL");
    top.is_live = isatty(STDOUT_FILENO) && isatty(STDIN_FILENO) &&
                  !options_flag(options, OPT_JSON) && !options_flag(options, OPT_ONCE) &&
                  (term == NULL || strcmp(term, "dumb") != 0);
    text_init(&top.out, SCREEN_BYTES_MAX);
    enum err_code code = run_top(&top, &err);
    close_top(&top);
    if (code == OK)
        return EXIT_OK;
    return print_failure(code == E_INVALID && !top.is_open ? EXIT_USAGE : EXIT_FAILED, err.text);
}
