/* session_call.h - penstock.v1.Inference/Session over any call: gRPC and gRPC-Web as protobuf, a
 * WebSocket as the messages' JSON with tensors also as binary messages.
 */
#ifndef API_SESSION_CALL_H
#define API_SESSION_CALL_H

#include "api/grpc.h"

extern const struct grpc_service penstock_grpc_service; /* penstock.v1.Inference */
/* /models/{model}/stream and /models/{model}/versions/{version}/stream, for WebSockets; what comes
 * without asking for one is told how (426). */
extern const struct route_table session_routes;

#endif
