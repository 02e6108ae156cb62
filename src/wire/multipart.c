/* multipart.c - SPDX-License-Identifier: Apache-2.0
 *
 * A part ends where CR LF "--" boundary begins; memmem finds it in linear time, whatever the
 * boundary is made of. The reader stands behind a boundary line, so each step reads one part's
 * headers and then looks for the next boundary.
 */
#include "wire/multipart.h"

#include "base/arena.h"

enum { BOUNDARY_MAX = 70, DELIMITER_MAX = BOUNDARY_MAX + 4 };

static bool is_token(uint8_t c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

/* One "; name=value" from *rest; value without its quotes, escapes untouched. False: malformed. */
static bool take_parameter(struct slice *rest, struct slice *name, struct slice *value)
{
    struct slice at = slice_trim(*rest);
    size_t size = 0;

    if (at.size == 0 || at.data[0] != ';')
        return false;
    at = slice_trim(slice_skip(at, 1));
    while (size < at.size && is_token(at.data[size]))
        size++;
    *name = slice_first(at, size);
    at = slice_skip(at, size);
    if (size == 0 || at.size < 2 || at.data[0] != '=')
        return false;
    at = slice_skip(at, 1);
    if (at.data[0] == '"') {
        for (size = 1; size < at.size && at.data[size] != '"'; size++)
            if (at.data[size] == '\\' && size + 1 < at.size &&
                (at.data[size + 1] == '"' || at.data[size + 1] == '\\'))
                size++;
        if (size >= at.size)
            return false;
        *value = slice_make(at.data + 1, size - 1);
        *rest = slice_skip(at, size + 1);
        return true;
    }
    for (size = 0; size < at.size && is_token(at.data[size]);)
        size++;
    *value = slice_first(at, size);
    *rest = slice_skip(at, size);
    return size > 0;
}

/* RFC 2046 5.1.1: 1 to 70 of these, no blank at the end. */
static bool boundary_is_valid(struct slice boundary)
{
    if (boundary.size == 0 || boundary.size > BOUNDARY_MAX ||
        boundary.data[boundary.size - 1] == ' ')
        return false;
    for (size_t i = 0; i < boundary.size; i++) {
        uint8_t c = boundary.data[i];
        if (!(c >= '0' && c <= '9') && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z') &&
            (c == '\0' || strchr("'()+_,-./:=? ", c) == NULL))
            return false;
    }
    return true;
}

enum err_code multipart_boundary(struct slice *ret, struct slice content_type, struct err *err)
{
    struct slice type = slice_trim(slice_first(content_type, slice_find(content_type, ';')));
    struct slice rest = slice_skip(content_type, slice_find(content_type, ';'));
    struct slice name, value, boundary = slice_make(NULL, 0);

    if (!slice_is_nocase(type, "multipart/form-data"))
        return err_set(err, E_INVALID, "Content-Type is '%.*s'; expected multipart/form-data",
                       (int)MIN(type.size, (size_t)64), (const char *)type.data);
    while (slice_trim(rest).size > 0) {
        if (!take_parameter(&rest, &name, &value))
            return err_set(err, E_INVALID, "the parameters of Content-Type are malformed");
        if (!slice_is_nocase(name, "boundary"))
            continue;
        if (boundary.data != NULL)
            return err_set(err, E_INVALID, "Content-Type has two boundaries");
        boundary = value;
    }
    if (boundary.data == NULL)
        return err_set(err, E_INVALID,
                       "Content-Type has no boundary: multipart/form-data needs "
                       "'; boundary=...'");
    if (!boundary_is_valid(boundary))
        return err_set(
            err, E_INVALID,
            "the boundary in Content-Type is not 1 to %d letters, digits and '()+_,-./:=?",
            BOUNDARY_MAX);
    *ret = boundary;
    return OK;
}

/* Reads what stands behind a delimiter: nothing, or "--" at the very end. */
static enum err_code end_of_line(struct multipart *m, struct slice rest, struct err *err)
{
    if (rest.size >= 2 && memcmp(rest.data, "--", 2) == 0) {
        m->is_over = true; /* what follows is an epilogue, which nobody reads */
        return OK;
    }
    while (rest.size > 0 && (rest.data[0] == ' ' || rest.data[0] == '\t'))
        rest = slice_skip(rest, 1);
    if (rest.size < 2 || memcmp(rest.data, "\r\n", 2) != 0)
        return err_set(err, E_INVALID,
                       "the boundary before part %u is not alone on its line, ended by CR LF",
                       m->parts + 1);
    m->rest = slice_skip(rest, 2);
    return OK;
}

static size_t delimiter(const struct multipart *m, uint8_t out[DELIMITER_MAX])
{
    memcpy(out, "\r\n--", 4);
    memcpy(out + 4, m->boundary.data, m->boundary.size);
    return 4 + m->boundary.size;
}

enum err_code multipart_init(struct multipart *m, struct slice body, struct slice boundary,
                             const struct multipart_limits *limits, struct arena *arena,
                             struct err *err)
{
    uint8_t mark[DELIMITER_MAX];

    require(boundary_is_valid(boundary));
    *m = (struct multipart){ .boundary = boundary, .limits = *limits, .arena = arena };
    size_t size = delimiter(m, mark);
    if (body.size >= size - 2 && memcmp(body.data, mark + 2, size - 2) == 0)
        return end_of_line(m, slice_skip(body, size - 2), err);
    /* RFC 2046 5.1.1: a preamble may stand before the first. */
    const uint8_t *found = body.size == 0 ? NULL : memmem(body.data, body.size, mark, size);
    if (found == NULL)
        return err_set(err, E_INVALID, "the body does not contain the boundary '--%.*s'",
                       SLICE_ARG(boundary));
    return end_of_line(m, slice_skip(body, (size_t)(found - body.data) + size), err);
}

/* Undoes \" and \\ and, as browsers write it, %22. */
static enum err_code unescape(struct multipart *m, struct slice *text, struct err *err)
{
    struct slice in = *text;
    size_t size = 0;

    if (in.size == 0 ||
        (memchr(in.data, '\\', in.size) == NULL && memmem(in.data, in.size, "%22", 3) == NULL))
        return OK;
    uint8_t *out = arena_aligned(m->arena, 1, in.size);
    if (out == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for the names of the form's parts");
    for (size_t i = 0; i < in.size; i++) {
        uint8_t c = in.data[i];
        if (c == '\\' && i + 1 < in.size && (in.data[i + 1] == '"' || in.data[i + 1] == '\\'))
            c = in.data[++i];
        else if (c == '%' && i + 2 < in.size && memcmp(in.data + i, "%22", 3) == 0) {
            c = '"';
            i += 2;
        }
        out[size++] = c;
    }
    *text = slice_make(out, size);
    return OK;
}

static enum err_code disposition(struct multipart *m, struct multipart_part *part,
                                 struct slice value, struct err *err)
{
    struct slice type = slice_trim(slice_first(value, slice_find(value, ';')));
    struct slice rest = slice_skip(value, slice_find(value, ';'));
    struct slice name, parameter;

    if (part->name.data != NULL)
        return err_set(err, E_INVALID, "part %u has two Content-Disposition headers", m->parts);
    if (!slice_is_nocase(type, "form-data"))
        return err_set(err, E_INVALID, "part %u: Content-Disposition is not form-data", m->parts);
    while (slice_trim(rest).size > 0) {
        if (!take_parameter(&rest, &name, &parameter))
            return err_set(err, E_INVALID,
                           "part %u: the parameters of Content-Disposition are malformed; expected "
                           "form-data; name=\"...\"",
                           m->parts);
        struct slice *into = slice_is_nocase(name, "name")       ? &part->name
                             : slice_is_nocase(name, "filename") ? &part->filename
                                                                 : NULL;
        if (into == NULL) /* RFC 7578 4.2: filename* is not used here */
            continue;
        if (into->data != NULL)
            return err_set(err, E_INVALID, "part %u: Content-Disposition says %.*s twice", m->parts,
                           SLICE_ARG(name));
        *into = parameter;
    }
    if (part->name.data == NULL)
        return err_set(err, E_INVALID, "part %u: Content-Disposition has no name", m->parts);
    TRY(unescape(m, &part->name, err));
    return part->filename.data == NULL ? OK : unescape(m, &part->filename, err);
}

static enum err_code part_header(struct multipart *m, struct multipart_part *part,
                                 struct slice line, struct err *err)
{
    size_t colon = 0;

    while (colon < line.size && is_token(line.data[colon]))
        colon++;
    if (colon == 0 || colon == line.size || line.data[colon] != ':')
        return err_set(err, E_INVALID, "part %u has a header line that is not 'name: value'",
                       m->parts);
    struct slice name = slice_first(line, colon);
    struct slice value = slice_trim(slice_skip(line, colon + 1));
    for (size_t i = 0; i < value.size; i++)
        if ((value.data[i] < 0x20 && value.data[i] != '\t') || value.data[i] == 0x7f)
            return err_set(err, E_INVALID, "part %u: the header %.*s holds the byte 0x%02x",
                           m->parts, (int)MIN(name.size, (size_t)64), (const char *)name.data,
                           value.data[i]);
    if (slice_is_nocase(name, "content-disposition"))
        return disposition(m, part, value, err);
    if (slice_is_nocase(name, "content-type")) {
        if (part->content_type.data != NULL)
            return err_set(err, E_INVALID, "part %u has two Content-Type headers", m->parts);
        part->content_type = value;
    } else if (slice_is_nocase(name, "content-transfer-encoding") &&
               !slice_is_nocase(value, "binary") && !slice_is_nocase(value, "8bit") &&
               !slice_is_nocase(value, "7bit")) {
        return err_set(
            err, E_UNIMPLEMENTED,
            "part %u: Content-Transfer-Encoding '%.*s' is not understood; send the bytes "
            "as they are",
            m->parts, (int)MIN(value.size, (size_t)64), (const char *)value.data);
    }
    return OK;
}

static enum err_code part_headers(struct multipart *m, struct multipart_part *part, struct err *err)
{
    struct slice head = slice_first(m->rest, m->limits.header_bytes_max);
    size_t at = 0;

    for (;;) {
        const uint8_t *lf = at == head.size ? NULL : memchr(head.data + at, '\n', head.size - at);
        if (lf == NULL && head.size < m->rest.size)
            return err_set(err, E_EXHAUSTED, "part %u: its headers have more than %u bytes",
                           m->parts, m->limits.header_bytes_max);
        if (lf == NULL)
            return err_set(err, E_INVALID, "part %u: the body ends within its headers", m->parts);
        size_t end = (size_t)(lf - head.data);
        if (end == at || head.data[end - 1] != '\r')
            return err_set(err, E_INVALID, "part %u: a header line ends in LF without CR",
                           m->parts);
        struct slice line = slice_make(head.data + at, end - 1 - at);
        at = end + 1;
        if (line.size == 0)
            break;
        TRY(part_header(m, part, line, err));
    }
    if (part->name.data == NULL)
        return err_set(err, E_INVALID,
                       "part %u has no 'Content-Disposition: form-data; name=\"...\"'", m->parts);
    m->rest = slice_skip(m->rest, at);
    return OK;
}

enum err_code multipart_next(struct multipart *m, struct multipart_part *ret, bool *ret_has,
                             struct err *err)
{
    struct multipart_part part = { 0 };
    uint8_t mark[DELIMITER_MAX];

    if (m->is_over) {
        *ret_has = false;
        return OK;
    }
    if (m->parts == m->limits.parts_max)
        return err_set(err, E_EXHAUSTED, "the form has more than %u parts", m->limits.parts_max);
    m->parts++;
    TRY(part_headers(m, &part, err));
    size_t size = delimiter(m, mark);
    /* An empty part: the line that ended its headers also begins its boundary. */
    bool is_empty = m->rest.size >= size - 2 && memcmp(m->rest.data, mark + 2, size - 2) == 0;
    const uint8_t *found = is_empty            ? m->rest.data - 2
                           : m->rest.size == 0 ? NULL
                                               : memmem(m->rest.data, m->rest.size, mark, size);
    if (found == NULL)
        return err_set(err, E_INVALID,
                       "part %u is not ended by the boundary: the body is cut off, or was written "
                       "with another boundary",
                       m->parts);
    part.body =
        is_empty ? slice_first(m->rest, 0) : slice_first(m->rest, (size_t)(found - m->rest.data));
    struct slice rest =
        slice_make(found + size, (size_t)(m->rest.data + m->rest.size - (found + size)));
    TRY(end_of_line(m, rest, err));
    *ret = part;
    *ret_has = true;
    return OK;
}
