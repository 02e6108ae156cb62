/* options_test.c - SPDX-License-Identifier: Apache-2.0 */
#include "cli/options.h"

#include "test/harness.h"
TEST(starts)
{
    CLEANUP(options_free) struct options *o = NULL;
    struct err err = { 0 };
    const char *argv[] = { "penstock", "serve", "x" };
    check(options_read(&o, 3, argv, NULL, &err) == OK, "%s", err.text);
}
