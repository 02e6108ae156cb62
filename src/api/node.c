/* node.c - SPDX-License-Identifier: Apache-2.0 */
#include "api/node.h"

#include <stdio.h>
#include <unistd.h>

static bool is_good(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
}

bool node_name_is_good(struct slice name)
{
    for (size_t i = 0; i < name.size; i++)
        if (!is_good(name.data[i]))
            return false;
    return name.size > 0 && name.size <= NODE_NAME_MAX;
}

void node_name_default(char ret[NODE_NAME_MAX + 1])
{
    char host[256] = "";

    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0')
        snprintf(host, sizeof host, "penstock");
    size_t size = MIN(strlen(host), (size_t)NODE_NAME_MAX);
    for (size_t i = 0; i < size; i++)
        ret[i] = is_good((uint8_t)host[i]) ? host[i] : '-';
    ret[size] = '\0';
}
