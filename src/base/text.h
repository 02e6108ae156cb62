/* text.h - writes bytes one after the other into memory that grows; asked once at the end whether
 * it all fitted.
 *
 * Life     text_init (on the heap, capped), or text_init_arena, or text_init_fixed; write freely;
 *          text_failed says at the end whether memory or the cap ran out (then the bytes are
 *          useless). text_deinit frees what is on the heap.
 * Threads  one at a time.
 */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include "base/err.h"
#include "base/slice.h"

struct arena;
struct buf;

struct text {
    uint8_t *data;
    size_t size, room;
    size_t cap;
    struct arena *arena; /* borrowed; NULL: heap or fixed */
    bool is_fixed, has_failed;
};

void text_init(struct text *text, size_t cap_bytes); /* nothing is allocated yet */
void text_init_arena(struct text *text, struct arena *arena, size_t first_bytes);
void text_init_fixed(struct text *text, void *memory, size_t size);
void text_deinit(struct text *text);

static inline bool text_failed(const struct text *text)
{
    return text->has_failed;
}
static inline struct slice text_slice(const struct text *text)
{
    return (struct slice){ text->data, text->size };
}
/* Moves the bytes of a heap text into a buf without copying them; the text is empty after. */
MUST_USE enum err_code text_to_buf(struct text *text, struct buf **ret, struct err *err);

/* Room for `size` more bytes at text->data + text->size; NULL when there is none (sticky). The
 * writer adds what it wrote to text->size. */
MUST_USE uint8_t *text_room(struct text *text, size_t size);
void text_put(struct text *text, const void *data, size_t size);
void text_byte(struct text *text, uint8_t byte);
void text_str(struct text *text, const char *str);
void text_slice_put(struct text *text, struct slice slice);
void text_u64(struct text *text, uint64_t value);
void text_i64(struct text *text, int64_t value);
void text_printf(struct text *text, const char *format, ...) PRINTF_LIKE(2, 3);
/* Puts `str` as a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD. */
void text_json(struct text *text, struct slice str);
/* Puts `str` with & < > " ' escaped for HTML. */
void text_html(struct text *text, struct slice str);
/* NUL-terminates without counting it; returns the C string, "" when failed. */
const char *text_cstr(struct text *text);

#endif
