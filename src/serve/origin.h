/* origin.h - who may talk to this server through a browser. Pure; any thread.
 *
 * Host   A page of evil.example can point its own name at 127.0.0.1 (DNS rebinding) and would then
 *        be of the same origin as this server. So where only this machine listens, Host must be an
 *        address, localhost, or a name the operator allowed. Where everybody may connect, the
 *        operator's names are checked once there are any: without them nobody knows what the
 *        machine is called.
 * Origin Absent (no browser, or no cross-origin request), the server's own, or allowed.
 */
#ifndef SERVE_ORIGIN_H
#define SERVE_ORIGIN_H

#include "base/err.h"
#include "base/slice.h"

struct origin_rules {
    const char *const *hosts; /* borrowed */
    uint32_t hosts_count;
    const char *const *origins;
    uint32_t origins_count;
    bool is_any_origin; /* "*" is among them */
};

struct origin_request {
    const char *scheme;
    struct slice authority; /* empty: HTTP/1.0 without Host */
    struct slice origin;    /* data NULL: no such header */
    bool is_local;          /* the listener is reached from this machine only */
    bool is_unix;           /* no browser comes this way: Host says nothing */
};

enum origin_verdict {
    ORIGIN_PLAIN,   /* nothing to add */
    ORIGIN_ALLOWED, /* cross-origin and allowed: the answer says so */
    ORIGIN_REFUSED  /* E_PERMISSION: err says which header and which option */
};

void origin_rules_init(struct origin_rules *rules, const char *const *hosts, uint32_t hosts_count,
                       const char *const *origins, uint32_t origins_count);
enum origin_verdict origin_judge(const struct origin_rules *rules,
                                 const struct origin_request *request, struct err *err);

/* Could a request ever come with an Origin, or a Host, that this word of the operator allows? An origin is
 * written as browsers send it: a scheme, a name and a port that is not the usual one. A host is a name alone. */
bool origin_can_match(const char *origin);
bool origin_host_can_match(const char *host);

#endif
