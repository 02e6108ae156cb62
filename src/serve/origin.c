/* origin.c - SPDX-License-Identifier: Apache-2.0 */
#include "serve/origin.h"

void origin_rules_init(struct origin_rules *rules, const char *const *hosts, uint32_t hosts_count,
                       const char *const *origins, uint32_t origins_count)
{
    *rules = (struct origin_rules){ hosts, hosts_count, origins, origins_count, false };
    for (uint32_t i = 0; i < origins_count; i++)
        rules->is_any_origin |= strcmp(origins[i], "*") == 0;
}

/* Without the port. */
static struct slice host_of(struct slice authority)
{
    if (authority.size > 0 && authority.data[0] == '[')
        return slice_first(authority, slice_find(authority, ']') + 1);
    return slice_first(authority, slice_find(authority, ':'));
}

/* Digits and dots, or in brackets: no resolver is ever asked for it. "1.2.3" may be one as well
 * for some resolvers, and is none that an attacker can own. */
static bool is_address(struct slice host)
{
    uint32_t dots = 0;

    if (host.size > 0 && host.data[0] == '[')
        return true;
    for (size_t i = 0; i < host.size; i++) {
        dots += host.data[i] == '.';
        if (host.data[i] != '.' && (host.data[i] < '0' || host.data[i] > '9'))
            return false;
    }
    return dots == 3;
}

static bool host_is_allowed(const struct origin_rules *rules, struct slice host)
{
    if (LIKELY(is_address(host)) || slice_is_nocase(host, "localhost"))
        return true;
    /* RFC 6761 6.3: these stay on this machine. */
    if (host.size > 10 && slice_is_nocase(slice_skip(host, host.size - 10), ".localhost"))
        return true;
    for (uint32_t i = 0; i < rules->hosts_count; i++)
        if (strcmp(rules->hosts[i], "*") == 0 || slice_is_nocase(host, rules->hosts[i]))
            return true;
    return false;
}

/* "http://host:80" is "http://host" (RFC 6454 4). */
static struct slice without_usual_port(struct slice authority, bool is_https)
{
    const char *port = is_https ? ":443" : ":80";
    size_t size = strlen(port);

    return slice_ends(authority, port) ? slice_first(authority, authority.size - size) : authority;
}

static bool eq_nocase(struct slice a, struct slice b)
{
    if (a.size != b.size)
        return false;
    for (size_t i = 0; i < a.size; i++) {
        uint8_t x = a.data[i], y = b.data[i];
        x = x >= 'A' && x <= 'Z' ? x | 0x20 : x;
        y = y >= 'A' && y <= 'Z' ? y | 0x20 : y;
        if (x != y)
            return false;
    }
    return true;
}

static bool is_same_origin(const struct origin_request *request)
{
    struct slice origin = request->origin;
    size_t scheme = strlen(request->scheme);
    bool is_https = scheme == 5;

    if (request->authority.size == 0 || origin.size < scheme + 3 ||
        !slice_is_nocase(slice_first(origin, scheme), request->scheme) ||
        memcmp(origin.data + scheme, "://", 3) != 0)
        return false;
    return eq_nocase(without_usual_port(slice_skip(origin, scheme + 3), is_https),
                     without_usual_port(request->authority, is_https));
}

enum origin_verdict origin_judge(const struct origin_rules *rules,
                                 const struct origin_request *request, struct err *err)
{
    bool is_guarded = !request->is_unix && (request->is_local || rules->hosts_count > 0);
    struct slice host = host_of(request->authority);

    if (is_guarded && request->authority.size > 0 && !host_is_allowed(rules, host)) {
        err_set(err, E_PERMISSION,
                "the host '%.*s' is not one this server answers to: use an IP address or "
                "localhost, or start it with --allow-host %.*s",
                (int)MIN(host.size, (size_t)128), (const char *)host.data,
                (int)MIN(host.size, (size_t)128), (const char *)host.data);
        return ORIGIN_REFUSED;
    }
    if (LIKELY(request->origin.data == NULL) || is_same_origin(request))
        return ORIGIN_PLAIN;
    if (rules->is_any_origin)
        return ORIGIN_ALLOWED;
    for (uint32_t i = 0; i < rules->origins_count; i++)
        if (slice_is_nocase(request->origin, rules->origins[i]))
            return ORIGIN_ALLOWED;
    err_set(err, E_PERMISSION,
            "pages of the origin '%.*s' may not call this server; --cors-origin allows them",
            (int)MIN(request->origin.size, (size_t)128), (const char *)request->origin.data);
    return ORIGIN_REFUSED;
}

/* Letters and signs that print; no path, no user, no blank. */
static bool is_bare(struct slice text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.data[i] <= ' ' || text.data[i] >= 0x7f || strchr("/?#@,\\", text.data[i]) != NULL)
            return false;
    return text.size > 0;
}

bool origin_can_match(const char *origin)
{
    const char *host = strstr(origin, "://");

    if (strcmp(origin, "*") == 0 || strcmp(origin, "null") == 0) /* null: of a page in a sandbox */
        return true;
    if (host == NULL || host == origin)
        return false;
    struct slice scheme = slice_make(origin, (size_t)(host - origin));
    struct slice rest = slice_of(host + 3);
    if (!is_bare(scheme) || !is_bare(rest) || rest.data[0] == ':')
        return false;
    bool is_https = slice_is_nocase(scheme, "https");
    return (!is_https && !slice_is_nocase(scheme, "http")) ||
           without_usual_port(rest, is_https).size == rest.size;
}

bool origin_host_can_match(const char *host)
{
    struct slice text = slice_of(host);

    if (!is_bare(text))
        return false;
    return host[0] == '[' ? text.data[text.size - 1] == ']' : slice_find(text, ':') == text.size;
}
