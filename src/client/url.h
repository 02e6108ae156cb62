/* url.h - where a server is: "http://127.0.0.1:8000", "localhost:8000", "http://[::1]:8000/base",
 * "https://models.example", "unix:/run/penstock.sock". */
#ifndef CLIENT_URL_H
#define CLIENT_URL_H

#include "base/err.h"
#include "base/slice.h"

enum { URL_HOST_MAX = 256, URL_BASE_MAX = 512 };

struct url {
    bool is_unix, is_tls;
    char host[URL_HOST_MAX]; /* without brackets; of a unix socket its path */
    uint16_t port;
    char base[URL_BASE_MAX];           /* "" or "/base", without a slash at the end */
    char shown[URL_HOST_MAX + 16];     /* "127.0.0.1:8000", "[::1]:80", "unix:/run/x.sock" */
    char authority[URL_HOST_MAX + 16]; /* for Host: */
};

/* E_INVALID says what is wrong and shows a right one. Without a port: 80, and 443 of https. */
MUST_USE enum err_code url_parse(struct url *ret, struct slice url, struct err *err);

#endif
