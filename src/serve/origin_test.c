/* origin_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "serve/origin.h"

#include "test/harness.h"

enum where { LOCAL, OPEN, UNIX };

static const struct {
    enum where where;
    const char *host, *origin; /* NULL: no such header */
    enum origin_verdict verdict;
    const char *why;
} cases[] = {
    { LOCAL, "127.0.0.1:8000", NULL, ORIGIN_PLAIN, "address" },
    { LOCAL, "[::1]:8000", NULL, ORIGIN_PLAIN, "IPv6 address" },
    { LOCAL, "localhost:8000", NULL, ORIGIN_PLAIN, "localhost" },
    { LOCAL, "LocalHost", NULL, ORIGIN_PLAIN, "without case or port" },
    { LOCAL, "app.localhost:1", NULL, ORIGIN_PLAIN, "below localhost" },
    { LOCAL, "allowed.example:8000", NULL, ORIGIN_PLAIN, "--allow-host" },
    { LOCAL, "", NULL, ORIGIN_PLAIN, "HTTP/1.0 without Host: no browser" },
    { LOCAL, "evil.example:8000", NULL, ORIGIN_REFUSED, "DNS rebinding" },
    { LOCAL, "127.0.0.1.evil.example", NULL, ORIGIN_REFUSED, "a name that begins like one" },
    { LOCAL, "1.2.3", NULL, ORIGIN_REFUSED, "three numbers" },
    { LOCAL, "localhost.evil.example", NULL, ORIGIN_REFUSED, "localhost in front" },
    { LOCAL, "evillocalhost", NULL, ORIGIN_REFUSED, "localhost at the end, without a dot" },
    { LOCAL, "evil.example", "http://evil.example", ORIGIN_REFUSED, "rebinding with Origin" },
    { OPEN, "10.0.0.7:8000", NULL, ORIGIN_PLAIN, "open: address" },
    { OPEN, "evil.example", NULL, ORIGIN_REFUSED, "open: names are checked once there are any" },
    { UNIX, "whatever.example", NULL, ORIGIN_PLAIN, "unix: no browser" },

    { LOCAL, "127.0.0.1:8000", "http://127.0.0.1:8000", ORIGIN_PLAIN, "same origin" },
    { LOCAL, "localhost", "http://localhost:80", ORIGIN_PLAIN, "the usual port" },
    { LOCAL, "LOCALHOST:80", "HTTP://localhost", ORIGIN_PLAIN, "without case" },
    { LOCAL, "127.0.0.1:8000", "https://127.0.0.1:8000", ORIGIN_REFUSED, "another scheme" },
    { LOCAL, "127.0.0.1:8000", "http://127.0.0.1:8001", ORIGIN_REFUSED, "another port" },
    { LOCAL, "127.0.0.1:8000", "http://127.0.0.1", ORIGIN_REFUSED, "another port, the usual" },
    { LOCAL, "127.0.0.1:8000", "null", ORIGIN_REFUSED, "a sandboxed page" },
    { LOCAL, "127.0.0.1:8000", "", ORIGIN_REFUSED, "empty" },
    { LOCAL, "127.0.0.1:8000", "http://evil.example", ORIGIN_REFUSED, "another site" },
    { LOCAL, "127.0.0.1:8000", "https://app.example", ORIGIN_ALLOWED, "--cors-origin" },
    { LOCAL, "127.0.0.1:8000", "https://app.example.evil.example", ORIGIN_REFUSED, "begins alike" },
    { LOCAL, "evil.example", "https://app.example", ORIGIN_REFUSED, "Host goes first" },
    { UNIX, "x", "http://evil.example", ORIGIN_REFUSED, "unix: Origin still counts" },
};

TEST(origin_cases)
{
    static const char *const hosts[] = { "allowed.example" }, *const origins[] = {
        "https://app.example", "https://other.example"
    };
    struct origin_rules rules;

    origin_rules_init(&rules, hosts, 1, origins, 2);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err err = { 0 };
        struct origin_request request = {
            .scheme = "http",
            .authority = slice_of(cases[i].host),
            .origin = cases[i].origin == NULL ? slice_make(NULL, 0) : slice_of(cases[i].origin),
            .is_local = cases[i].where != OPEN,
            .is_unix = cases[i].where == UNIX,
        };
        enum origin_verdict verdict = origin_judge(&rules, &request, &err);
        check(verdict == cases[i].verdict, "%s: %d %s", cases[i].why, (int)verdict, err.text);
        check((verdict == ORIGIN_REFUSED) == (err.code == E_PERMISSION), "%s", cases[i].why);
    }
}

TEST(origin_without_rules)
{
    static const char *const any[] = { "*" };
    struct origin_rules rules;
    struct err err;
    struct origin_request request = { .scheme = "http",
                                      .authority = slice_of("models.example"),
                                      .origin = slice_make(NULL, 0) };

    origin_rules_init(&rules, NULL, 0, NULL, 0);
    check(origin_judge(&rules, &request, &err) == ORIGIN_PLAIN, "open, no names given: any name");
    request.origin = slice_of("http://app.example");
    check(origin_judge(&rules, &request, &err) == ORIGIN_REFUSED, "CORS is off until asked for");
    origin_rules_init(&rules, any, 1, any, 1);
    check(origin_judge(&rules, &request, &err) == ORIGIN_ALLOWED, "any origin");
    request.origin = slice_of("null");
    check(origin_judge(&rules, &request, &err) == ORIGIN_ALLOWED, "any means any");
    request.is_local = true;
    check(origin_judge(&rules, &request, &err) == ORIGIN_ALLOWED, "--allow-host '*'");
}

TEST(words_that_could_never_match)
{
    static const char *const good[] = { "*", "null", "https://app.example", "http://localhost:3000",
                                        "HTTPS://App.Example:8443", "http://[::1]:8080",
                                        "http://a.example:443", "chrome-extension://abc" };
    static const char *const bad[] = { "", "app.example", "https://", "://a", "https://a/", "https://a b",
                                       "https://a/x", "https://u@a", "https://a:443", "http://a:80",
                                       "https://a,https://b", "https:/a", "https://:8443", "https://*/" };
    static const char *const hosts[] = { "*", "models.example", "MODELS", "10.0.0.1", "[::1]" };
    static const char *const no_hosts[] = { "", "https://x", "x:8000", "x/", "a b", "[::1]:80", "a,b" };

    for (size_t i = 0; i < COUNT(good); i++)
        check(origin_can_match(good[i]), "%s", good[i]);
    for (size_t i = 0; i < COUNT(bad); i++)
        check(!origin_can_match(bad[i]), "%s", bad[i]);
    for (size_t i = 0; i < COUNT(hosts); i++)
        check(origin_host_can_match(hosts[i]), "%s", hosts[i]);
    for (size_t i = 0; i < COUNT(no_hosts); i++)
        check(!origin_host_can_match(no_hosts[i]), "%s", no_hosts[i]);
}
