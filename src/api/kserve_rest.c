/* kserve_rest.c - the routes of the KServe V2 REST dialect with Triton's extensions.
 * SPDX-License-Identifier: Apache-2.0
 *
 * What is not built yet is here too, and says so: a 404 would tell a client that it has the wrong
 * address.
 */
#include "api/kserve.h"
#include "api/reply.h"

#define GET  (1u << METHOD_GET)
#define POST (1u << METHOD_POST)

static void refuse(struct exchange *x, enum err_code code, const char *text)
{
    struct err err = { 0 };

    err_set(&err, code, "%s", text);
    api_fail(x, DIALECT_KSERVE, 0, &err);
}

static void no_shared_memory(struct exchange *x, const struct route_match *match UNUSED)
{
    refuse(x, E_UNIMPLEMENTED,
           "client shared memory is not built yet; send tensors in the body, in binary "
           "(binary_data_size), which costs one copy");
}

static void no_trace(struct exchange *x, const struct route_match *match UNUSED)
{
    refuse(x, E_UNIMPLEMENTED, "trace settings are not built yet");
}

static void no_control(struct exchange *x, const struct route_match *match UNUSED)
{
    refuse(x, E_UNAVAILABLE,
           "explicit model load / unload is not allowed: this server loads its models when it "
           "starts; change the folder and start it again");
}

static void no_repositories(struct exchange *x, const struct route_match *match UNUSED)
{
    refuse(x, E_UNIMPLEMENTED, "'repository_name' specification is not supported");
}

static const struct route routes[] = {
    { GET, "/v2", kserve_server, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { GET, "/v2/health/live", kserve_live, DIALECT_KSERVE, ACCESS_OPEN, "v2" },
    { GET, "/v2/health/ready", kserve_ready, DIALECT_KSERVE, ACCESS_OPEN, "v2" },

    { GET, "/v2/models", kserve_models, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { GET, "/v2/models/stats", kserve_all_stats, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { GET, "/v2/models/{model}", kserve_model, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { GET, "/v2/models/{model}/versions/{version}", kserve_model, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { GET, "/v2/models/{model}/ready", kserve_model_ready, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { GET, "/v2/models/{model}/versions/{version}/ready", kserve_model_ready, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { GET, "/v2/models/{model}/config", kserve_model_config, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { GET, "/v2/models/{model}/versions/{version}/config", kserve_model_config, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { GET, "/v2/models/{model}/stats", kserve_model_stats, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { GET, "/v2/models/{model}/versions/{version}/stats", kserve_model_stats, DIALECT_KSERVE, ACCESS_READ, "v2" },

    { POST, "/v2/models/{model}/infer", kserve_infer, DIALECT_KSERVE, ACCESS_INFER, "v2" },
    { POST, "/v2/models/{model}/versions/{version}/infer", kserve_infer, DIALECT_KSERVE, ACCESS_INFER, "v2" },
    { POST, "/v2/models/{model}/infer_stream", kserve_infer_stream, DIALECT_KSERVE, ACCESS_INFER, "v2" },
    { POST, "/v2/models/{model}/versions/{version}/infer_stream", kserve_infer_stream,
      DIALECT_KSERVE, ACCESS_INFER, "v2" },
    { POST, "/v2/models/{model}/generate", kserve_generate, DIALECT_KSERVE, ACCESS_INFER, "v2" },
    { POST, "/v2/models/{model}/versions/{version}/generate", kserve_generate, DIALECT_KSERVE, ACCESS_INFER, "v2" },
    { POST, "/v2/models/{model}/generate_stream", kserve_generate_stream, DIALECT_KSERVE, ACCESS_INFER, "v2" },
    { POST, "/v2/models/{model}/versions/{version}/generate_stream", kserve_generate_stream,
      DIALECT_KSERVE, ACCESS_INFER, "v2" },

    { POST, "/v2/repository/index", kserve_index, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { POST, "/v2/repository/{repository}/index", kserve_index, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { POST | ROUTE_REFUSES, "/v2/repository/models/{model}/load", no_control, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { POST | ROUTE_REFUSES, "/v2/repository/models/{model}/unload", no_control, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { POST | ROUTE_REFUSES, "/v2/repository/{repository}/models/{model}/load", no_repositories, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { POST | ROUTE_REFUSES, "/v2/repository/{repository}/models/{model}/unload", no_repositories, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },

    { GET | POST | ROUTE_REFUSES, "/v2/trace/setting", no_trace, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { GET | POST | ROUTE_REFUSES, "/v2/models/{model}/trace/setting", no_trace, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { GET, "/v2/logging", kserve_logging, DIALECT_KSERVE, ACCESS_READ, "v2" },
    { POST, "/v2/logging", kserve_set_logging, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },

    { GET | ROUTE_REFUSES, "/v2/systemsharedmemory/status", no_shared_memory, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { GET | ROUTE_REFUSES, "/v2/systemsharedmemory/region/{region}/status", no_shared_memory, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { POST | ROUTE_REFUSES, "/v2/systemsharedmemory/region/{region}/register", no_shared_memory, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { POST | ROUTE_REFUSES, "/v2/systemsharedmemory/unregister", no_shared_memory, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { POST | ROUTE_REFUSES, "/v2/systemsharedmemory/region/{region}/unregister", no_shared_memory, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { GET | ROUTE_REFUSES, "/v2/cudasharedmemory/status", no_shared_memory, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { GET | ROUTE_REFUSES, "/v2/cudasharedmemory/region/{region}/status", no_shared_memory, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { POST | ROUTE_REFUSES, "/v2/cudasharedmemory/region/{region}/register", no_shared_memory, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { POST | ROUTE_REFUSES, "/v2/cudasharedmemory/unregister", no_shared_memory, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
    { POST | ROUTE_REFUSES, "/v2/cudasharedmemory/region/{region}/unregister", no_shared_memory, DIALECT_KSERVE, ACCESS_ADMIN, "v2" },
};

const struct route_table kserve_rest_routes = { routes, COUNT(routes) };
