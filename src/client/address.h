/* address.h - where a server is: "http://127.0.0.1:8000", "localhost:8000", "http://[::1]:8000/base",
 * "unix:/run/penstock.sock". */
#ifndef CLIENT_ADDRESS_H
#define CLIENT_ADDRESS_H

#include "base/err.h"
#include "base/slice.h"

enum { ADDRESS_HOST_MAX = 256, ADDRESS_BASE_MAX = 512 };

struct address {
    bool is_unix;
    char host[ADDRESS_HOST_MAX];    /* without brackets; of a unix socket its path */
    uint16_t port;
    char base[ADDRESS_BASE_MAX];    /* "" or "/base", without a slash at the end */
    char shown[ADDRESS_HOST_MAX + 16];  /* "127.0.0.1:8000", "[::1]:80", "unix:/run/x.sock" */
    char authority[ADDRESS_HOST_MAX + 16]; /* for Host: */
};

/* E_INVALID says what is wrong and shows a right one; E_UNIMPLEMENTED for https. */
MUST_USE enum err_code address_parse(struct address *ret, struct slice url, struct err *err);

#endif
