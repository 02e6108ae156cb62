/* map.h - names to pointers. Keys are copied. One thread at a time (many may read). */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include "base/err.h"
#include "base/slice.h"

struct map;

MUST_USE struct map *map_new(void); /* NULL: no memory */
void map_free(struct map **map);    /* values are the caller's */
void *map_get(const struct map *map, struct slice key); /* NULL: none */
/* Sets or replaces; value is not NULL. E_EXHAUSTED leaves the map as it was. */
MUST_USE enum err_code map_put(struct map *map, struct slice key, void *value, struct err *err);
void *map_remove(struct map *map, struct slice key); /* what was there, or NULL */
size_t map_count(const struct map *map);
/* Walks in no order: start with *at = 0; false at the end. The map must not change meanwhile. */
bool map_each(const struct map *map, size_t *at, struct slice *key, void **value);

uint64_t map_hash(struct slice key);

#endif
