/* rules_fuzz.c - any bytes as the file of --access. SPDX-License-Identifier: Apache-2.0
 *
 * What is refused says why; what is taken can be asked.
 */
#include <stdlib.h>

#include "access/internal.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tenants tenants = { 0 };
    struct rules_read read;
    struct err err = { 0 };

    tenants.all[0] = tenant_new("default", 0, NULL);
    if (tenants.all[0] == NULL)
        return 0;
    tenants.count = 1;
    enum err_code code = rules_read_yaml(&read, &tenants, slice_make(data, size), "fuzz", &err);
    if ((code == OK) != (read.rules != NULL) || (code == OK) != (err.text[0] == '\0'))
        abort();
    for (uint32_t i = 0; code == OK && i < read.wishes_count; i++) {
        tenant_set(read.wishes[i].tenant, &read.wishes[i].limits);
        if (tenant_enter(read.wishes[i].tenant, 1000000000, &err) == OK)
            tenant_leave(read.wishes[i].tenant);
    }
    for (uint32_t i = 0; code == OK && i < read.rules->rules_count; i++)
        for (uint32_t j = 0; j < read.rules->rules[i].patterns_count; j++)
            (void)pattern_fits(read.rules->rules[i].patterns[j], slice_of("abcabcabcabcabcabcabd"));
    rules_unref(&read.rules);
    for (uint32_t i = 0; i < tenants.count; i++)
        mem_free(tenants.all[i]);
    return 0;
}
