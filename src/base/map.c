/* map.c - open addressing, linear probing, backward-shift removal. SPDX-License-Identifier: Apache-2.0
 *
 * The hash is seeded once per process from the kernel, so that a peer who chooses names (metrics
 * labels, model names) cannot choose collisions.
 */
#include "base/map.h"

#include <pthread.h>
#include <sys/random.h>

#include "base/mem.h"

struct entry {
    uint64_t hash;
    char *key; /* owned; NULL: free slot */
    size_t key_size;
    void *value;
};

struct map {
    struct entry *entries;
    size_t room, count; /* room is a power of two */
};

static uint64_t seed;
static pthread_once_t seed_once = PTHREAD_ONCE_INIT;

static void seed_init(void)
{
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed)
        seed = (uint64_t)(uintptr_t)&seed * 0x9e3779b97f4a7c15u;
}

uint64_t map_hash(struct slice key)
{
    pthread_once(&seed_once, seed_init);
    uint64_t h = seed ^ (key.size * 0x9e3779b97f4a7c15u);
    while (key.size >= 8) {
        uint64_t word;
        memcpy(&word, key.data, 8);
        h = (h ^ word) * 0x9fb21c651e98df25u;
        h ^= h >> 32;
        key = slice_skip(key, 8);
    }
    uint64_t tail = 0;
    if (key.size != 0)
        memcpy(&tail, key.data, key.size);
    h = (h ^ tail) * 0x9fb21c651e98df25u;
    h ^= h >> 29;
    h *= 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

struct map *map_new(void)
{
    struct map *map = mem_zalloc(sizeof *map);

    if (map == NULL)
        return NULL;
    map->room = 16;
    map->entries = mem_zalloc(map->room * sizeof *map->entries);
    if (map->entries == NULL)
        mem_free_slot(&map);
    return map;
}

void map_free(struct map **slot)
{
    struct map *map = TAKE(*slot);

    if (map == NULL)
        return;
    for (size_t i = 0; i < map->room; i++)
        mem_free(map->entries[i].key);
    mem_free(map->entries);
    mem_free(map);
}

static size_t find(const struct map *map, uint64_t hash, struct slice key)
{
    size_t at = hash & (map->room - 1);

    for (;; at = (at + 1) & (map->room - 1)) {
        const struct entry *e = &map->entries[at];
        if (e->key == NULL)
            return at;
        if (e->hash == hash && e->key_size == key.size &&
            memcmp(e->key, key.data == NULL ? (const uint8_t *)"" : key.data, key.size) == 0)
            return at;
    }
}

void *map_get(const struct map *map, struct slice key)
{
    const struct entry *e = &map->entries[find(map, map_hash(key), key)];

    return e->key == NULL ? NULL : e->value;
}

static bool grow(struct map *map)
{
    struct map bigger = { .room = map->room * 2, .count = map->count };

    bigger.entries = mem_zalloc(bigger.room * sizeof *bigger.entries);
    if (bigger.entries == NULL)
        return false;
    for (size_t i = 0; i < map->room; i++) {
        struct entry *e = &map->entries[i];
        if (e->key != NULL)
            bigger.entries[find(&bigger, e->hash, slice_make(e->key, e->key_size))] = *e;
    }
    mem_free(map->entries);
    *map = bigger;
    return true;
}

enum err_code map_put(struct map *map, struct slice key, void *value, struct err *err)
{
    uint64_t hash = map_hash(key);

    require(value != NULL);
    if ((map->count + 1) * 4 > map->room * 3 && !grow(map))
        return err_set(err, E_EXHAUSTED, "no memory for a table of %zu names", map->count);
    struct entry *e = &map->entries[find(map, hash, key)];
    if (e->key == NULL) {
        char *copy = mem_strndup(key.data, key.size);
        if (copy == NULL)
            return err_set(err, E_EXHAUSTED, "no memory for a name of %zu bytes", key.size);
        *e = (struct entry){ .hash = hash, .key = copy, .key_size = key.size };
        map->count++;
    }
    e->value = value;
    return OK;
}

void *map_remove(struct map *map, struct slice key)
{
    size_t mask = map->room - 1;
    size_t hole = find(map, map_hash(key), key);
    void *value = map->entries[hole].value;

    if (map->entries[hole].key == NULL)
        return NULL;
    mem_free(map->entries[hole].key);
    for (size_t at = (hole + 1) & mask; map->entries[at].key != NULL; at = (at + 1) & mask) {
        size_t home = map->entries[at].hash & mask;
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            map->entries[hole] = map->entries[at];
            hole = at;
        }
    }
    map->entries[hole] = (struct entry){ .key = NULL };
    map->count--;
    return value;
}

size_t map_count(const struct map *map)
{
    return map->count;
}

bool map_each(const struct map *map, size_t *at, struct slice *key, void **value)
{
    for (; *at < map->room; (*at)++) {
        const struct entry *e = &map->entries[*at];
        if (e->key == NULL)
            continue;
        *key = slice_make(e->key, e->key_size);
        *value = e->value;
        (*at)++;
        return true;
    }
    return false;
}
