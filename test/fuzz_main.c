/* fuzz_main.c - runs a fuzzer's body over files, where there is no libFuzzer: a corpus as a test.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL) {
            perror(argv[i]);
            return 1;
        }
        size_t room = 1 << 20;
        uint8_t *data = malloc(room);
        size_t size = data == NULL ? 0 : fread(data, 1, room, file);
        fclose(file);
        LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
    return 0;
}
