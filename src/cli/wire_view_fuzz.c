/* wire_view_fuzz.c - any bytes both ways, whole and in pieces: the same is shown, nothing of it
 * reaches a terminal unescaped; and any file of a server's reflection.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/wire_view.h"

#include "base/mem.h"
#include "cli/reflect.h"
#include "codec/proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void show(struct text *out, struct slice bytes, uint8_t how, size_t step)
{
    const struct proto_schema *schema = proto_builtin();
    struct wire_view_settings settings = {
        .http2 = how & 1,
        .is_grpc = (how & 2) != 0,
        .columns = how & 4 ? 72 : 120,
        .title = "title",
        .server = "server",
        .schema = schema,
        .request = proto_type_find(schema, "inference.ModelInferRequest"),
        .response = proto_type_find(schema, "inference.ModelConfigResponse")
    };
    CLEANUP(wire_view_free) struct wire_view *view = NULL;
    struct err err;
    bool is_sent = how & 8;

    require(wire_view_new(&view, &settings, &err) == OK);
    if (is_sent && settings.http2)
        wire_view_feed(view, true, slice_of("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 0);
    while (bytes.size > 0) {
        struct slice piece = slice_first(bytes, step);
        wire_view_feed(view, is_sent, piece, 1000);
        bytes = slice_skip(bytes, piece.size);
    }
    text_init(out, 64 << 20);
    wire_view_write(view, out, slice_of("{}"), slice_of("{}"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text whole, pieces;
    struct reflect_file *file = mem_alloc(sizeof *file);

    if (size == 0 || file == NULL) {
        mem_free(file);
        return 0;
    }
    struct slice bytes = slice_make(data + 1, size - 1);
    show(&whole, bytes, data[0], bytes.size);
    show(&pieces, bytes, data[0], 1);
    require(!text_failed(&whole));
    /* Of HTTP/1.1 a piece of a body is a row. */
    if (data[0] & 1)
        require(slice_eq(text_slice(&whole), text_slice(&pieces)));
    for (size_t i = 0; i < whole.size; i++)
        require(whole.data[i] == '\n' || (whole.data[i] >= ' ' && whole.data[i] != 0x7f));
    text_deinit(&whole);
    text_deinit(&pieces);
    if (reflect_file_read(file, bytes))
        require(file->name.size > 0 && file->name.data >= bytes.data);
    mem_free(file);
    return 0;
}
