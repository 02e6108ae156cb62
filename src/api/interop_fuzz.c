/* interop_fuzz.c - any bytes as the messages of each method of grpc.testing.TestService.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Input: the method, the size of deliveries, the body of the call. */
#include "api/grpc.h"
#include "call/fake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct api api = { .grpc = { .message_bytes_max = 5000, .option = "x" },
                                    .server_name = "penstock",
                                    .has_test_services = true };
    static struct fake fake;

    if (size < 2 || size > 1 << 16)
        return 0;
    const struct grpc_method *method = &interop_service.methods[data[0] % interop_service.methods_count];
    if (method->handle == NULL)
        return 0;
    fake_init(&fake, NULL, slice_make(data + 2, size - 2));
    fake_header(&fake, "grpc-encoding", "gzip");
    fake_header(&fake, "grpc-accept-encoding", data[1] & 1 ? "gzip" : "identity");
    fake_header(&fake, "x-grpc-test-echo-initial", "a");
    struct call *call = grpc_accept(&fake.x, &api.grpc);
    require(call != NULL);
    method->handle(call, &api);
    fake_deliver_all(&fake, (size_t)data[1] + 1);
    require(fake.x.is_ended && fake.x.refs == 1);
    fake_deinit(&fake);
    return 0;
}
