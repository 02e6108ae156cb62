/* test_plugin_none.c - a shared object that is no plugin. SPDX-License-Identifier: Apache-2.0 */
int test_plugin_none(void);

int test_plugin_none(void)
{
    return 0;
}
