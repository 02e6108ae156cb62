/* sockets_fuzz.c - the environment by which sockets are handed over, from whoever starts the program.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The input is LISTEN_FDS, a newline, LISTEN_FDNAMES. */
#include <stdlib.h>
#include <string.h>

#include "base/def.h"
#include "cli/sockets.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct handed handed;
    struct err err = { 0 };
    char *text = malloc(size + 1);

    memcpy(text, data, size);
    text[size] = '\0';
    char *names = strchr(text, '\n');
    if (names != NULL)
        *names++ = '\0';
    enum err_code code = handed_parse(&handed, "1", text, names, 1, &err);
    require(code == OK || err.text[0] != '\0');
    require(handed.count <= SOCKETS_MAX);
    for (uint32_t i = 0; code == OK && i < handed.count; i++) {
        require(memchr(handed.names[i], '\0', SOCKET_NAME_MAX) != NULL);
        for (const char *c = handed.names[i]; *c != '\0'; c++)
            require((uint8_t)*c >= ' ' && *c != 127);
    }
    free(text);
    return 0;
}
