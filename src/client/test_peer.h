/* test_peer.h - an HTTP/2 server for the client's tests: wire/http2 in the server's role on a real
 * socket, on a thread of its own. What it does with a request is told by the path:
 *
 *   /hi           200 "hi"                       /echo       200, the body
 *   /never        nothing                        /reset/N    RST_STREAM with code N
 *   /refuse       RST_STREAM(REFUSED_STREAM), once a peer; then as /hi
 *   /goaway       GOAWAY, then as /hi            /die        closes the socket
 *   /garbage      bytes that are no HTTP/2       /half       head, two bytes, closes the socket
 *   /big/N        200, N bytes                   /trailers   200 "x", trailer x-sum: 7
 *   /late/N       as /hi, after N ms             /headers/N  200 with N bytes of headers
 *   /grpc/...     gRPC, see test_peer.c
 */
#ifndef CLIENT_TEST_PEER_H
#define CLIENT_TEST_PEER_H

#include <stdint.h>

struct peer;

struct peer_settings {
    uint32_t streams_max;  /* 0: 100 */
    uint32_t goaway_after; /* requests on a connection, then GOAWAY; 0: never */
    uint8_t is_mute;       /* accepts, and never reads */
    uint8_t closes_at_once;
    uint8_t ignores_pings; /* reads and answers nothing from the first request on */
};

struct peer *peer_start(const struct peer_settings *settings);
const char *peer_url(const struct peer *peer);
uint32_t peer_connections(const struct peer *peer);  /* accepted so far */
uint32_t peer_requests(const struct peer *peer);     /* heads seen so far */
uint32_t peer_resets(const struct peer *peer);       /* streams closed by the client with a code */
uint32_t peer_streams_most(const struct peer *peer); /* open on one connection at one time */
void peer_stop(struct peer **peer);

#endif
