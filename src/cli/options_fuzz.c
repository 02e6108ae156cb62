/* options_fuzz.c - any bytes as the configuration file, and as words of a command line.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_words(const uint8_t *data, size_t size)
{
    CLEANUP(options_free) struct options *o = NULL;
    const char *argv[12] = { "penstock" };
    char words[512];
    int argc = 1;
    struct err err = { 0 };

    size = MIN(size, sizeof words - 1);
    if (size != 0)
        memcpy(words, data, size);
    words[size] = '\0';
    for (size_t at = 0; at < size && argc < 12; at += strlen(words + at) + 1)
        argv[argc++] = words + at;
    /* No --config: what lies on the disk is no part of the input. */
    for (int i = 1; i < argc; i++) {
        if (strstr(argv[i], "config") != NULL || strncmp(argv[i], "-c", 2) == 0)
            return;
    }
    if (options_read(&o, argc, argv, NULL, &err) != OK)
        require(err.text[0] != '\0' && o == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(options_free) struct options *o = NULL;
    struct err err = { 0 };

    if (options_new(&o, &err) == OK &&
        options_read_yaml(o, slice_make(data, size), "p.yaml", "/etc", &err) != OK)
        require(err.text[0] != '\0');
    read_words(data, size);
    return 0;
}
