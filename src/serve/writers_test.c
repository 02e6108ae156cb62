/* writers_test.c - the access log and the exporter of spans, when what they need cannot be had.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <unistd.h>

#include "io/env.h"
#include "serve/access_log.h"
#include "serve/otlp.h"
#include "test/harness.h"

TEST(an_access_log_survives_every_fault_of_its_opening)
{
    char path[] = "/tmp/penstock-observe-XXXXXX";
    struct access_log_settings settings = { .path = path, .sample = 1, .loops_count = 2,
                                            .ring_bytes = 65536 };
    struct err err = { 0 };

    close(mkstemp(path));
    for_each_fault(nth_fault) {
        struct access_log *log = NULL;
        enum err_code code = access_log_open(&log, env_real(), &settings, &err);
        access_log_close(&log);
        if (!fault_fired())
            break;
        check(code != OK && err.text[0] != '\0', "fault %u", nth_fault);
    }
    unlink(path);
    fault_arm(0);
    settings.path = "/nonexistent/x";
    struct access_log *log = NULL;
    check(access_log_open(&log, env_real(), &settings, &err) == E_PRECONDITION && log == NULL &&
              strstr(err.text, "/nonexistent/x") != NULL,
          "%s", err.text);
}

TEST(an_exporter_survives_every_fault_of_its_opening)
{
    static const struct otlp_attribute resource = { SLICE_LIT("service.name"), SLICE_LIT("x") };
    struct otlp_settings settings = { .url = "http://127.0.0.1:9", .target = "/v1/traces",
                                      .resource = &resource, .resource_count = 1, .version = "1",
                                      .timeout_ns = 1000000000, .ring_bytes = 65536,
                                      .loops_count = 2 };
    struct err err = { 0 };

    for_each_fault(nth_fault) {
        struct otlp *otlp = NULL;
        enum err_code code = otlp_open(&otlp, env_real(), &settings, &err);
        otlp_close(&otlp);
        if (!fault_fired())
            break;
        check(code != OK && err.text[0] != '\0', "fault %u", nth_fault);
    }
    fault_arm(0);
    struct otlp *otlp = NULL;
    settings.url = "nonsense://x";
    check(otlp_open(&otlp, env_real(), &settings, &err) == E_INVALID && otlp == NULL, "%s", err.text);
}
