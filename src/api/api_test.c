/* api_test.c - the dialects over a transport of memory, with the real engine, repository and echo.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each case serves a folder of models that it writes, makes exchanges on one loop, and looks at the
 * answers (fake_stage.h).
 */
#include <stdio.h>
#include <yyjson.h>
#include <zlib.h>

#include "api/fake_stage.h"
#include "base/buf.h"
#include "base/mem.h"
#include "codec/compress.h"
#include "engine/engine.h"
#include "repository/repository.h"
#include "telemetry/metrics.h"
#include "test/harness.h"

static struct fake *make(enum exchange_method method, const char *path, const char *body)
{
    return stage_make(method, path, slice_of(body));
}

static const char *answer_of(struct fake *fake)
{
    return text_cstr(&fake->answer);
}

/* One call; the one before is dropped. */
static struct fake *call(enum exchange_method method, const char *path, const char *body)
{
    stage_drop_calls();
    struct fake *fake = make(method, path, body);
    stage_run();
    return fake;
}

static struct fake *call_typed(const char *path, const char *type, struct slice body)
{
    stage_drop_calls();
    struct fake *fake = stage_make(METHOD_POST, path, body);
    if (type != NULL)
        fake_header(fake, "content-type", type);
    stage_run();
    return fake;
}

#define check_answer(made, status_wanted, words)                                             \
    do {                                                                                     \
        struct fake *fake_ = (made);                                                         \
        check(fake_->status == (status_wanted), "%u: %s", fake_->status, answer_of(fake_));  \
        check(strstr(answer_of(fake_), (words)) != NULL, "%s\n  lacks %s", answer_of(fake_), \
              (words));                                                                      \
    } while (0)

#define IRIS_DATA "[0.5,0.25,0.125,0.0625]"
#define IRIS                                                                                     \
    "{\"inputs\":[{\"name\":\"input\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":" IRIS_DATA \
    "}]}"
#define IRIS_ANSWER                                                                                \
    "\"model_name\":\"iris\",\"model_version\":\"1\",\"outputs\":[{\"name\":\"label\","            \
    "\"datatype\":\"INT64\",\"shape\":[1],\"data\":[0]},{\"name\":\"probabilities\",\"datatype\":" \
    "\"FP32\",\"shape\":[1,4],\"data\":" IRIS_DATA "}]}"

/* -- KServe ------------------------------------------------------------------------------------------ */

TEST(kserve_infers_over_json)
{
    if (!stage_up() || !stage_open())
        return;
    struct fake *fake = call(METHOD_POST, "/v2/models/iris/infer", IRIS);
    check(fake->status == 200 && strcmp(answer_of(fake), "{" IRIS_ANSWER) == 0, "%u: %s",
          fake->status, answer_of(fake));
    check(slice_is(fake_answer_header(fake, "content-type"), "application/json"), "type");
    check(fake_answer_header(fake, "server-timing").size == 0, "timing was not asked for");
    check(fake->answer_size == (int64_t)fake->answer.size, "length");
    /* The same a byte at a time, and by version. */
    stage_drop_calls();
    fake = make(METHOD_POST, "/v2/models/iris/versions/1/infer", IRIS);
    fake->piece = 1;
    stage.api.server_timing = true;
    stage_run();
    check(strcmp(answer_of(fake), "{" IRIS_ANSWER) == 0, "%s", answer_of(fake));
    struct slice timing = fake_answer_header(fake, "server-timing");
    check(slice_starts(timing, "decode;dur=0.") &&
              memmem(timing.data, timing.size, "encode;dur=", strlen("encode;dur=")) != NULL,
          "%.*s", SLICE_ARG(timing));
    stage_down();
}

TEST(kserve_statuses)
{
    if (!stage_up() || !stage_open())
        return;
    check_answer(call(METHOD_POST, "/v2/models/irs/infer", IRIS), 404,
                 "Request for unknown model: 'irs' is not found");
    check_answer(call(METHOD_POST, "/v2/models/iris/versions/7/infer", IRIS), 404, "version 7");
    check_answer(call(METHOD_POST, "/v2/models/iris/infer", "{"), 400, "{\"error\":\"");
    check_answer(call(METHOD_POST, "/v2/models/iris/infer", ""), 400,
                 "failed to parse the request JSON buffer: The document is empty. at 0");
    check_answer(call(METHOD_POST, "/v2/models/iris/infer", "{\"inputs\":[]}"), 400,
                 "input 'input' is missing");
    check_answer(call(METHOD_POST, "/v2/models/iris/infer",
                      "{\"inputs\":[{\"name\":\"input\",\"shape\":[1,3],\"datatype\":\"FP32\","
                      "\"data\":[1,2,3]}]}"),
                 400, "unexpected shape for input 'input'");
    check_answer(call(METHOD_POST, "/v2/models/iris/infer",
                      "{\"inputs\":[{\"name\":\"input\",\"shape\":[1,4],\"datatype\":\"FP64\","
                      "\"data\":[1,2,3,4]}]}"),
                 400, "input 'input' has datatype FP64; the model takes FP32");
    check_answer(call(METHOD_POST, "/v2/models/iris/generate", "{}"), 400,
                 "expected 1 inputs but got 0 inputs for model 'iris': there is no 'input'");
    check_answer(call(METHOD_POST, "/v2/models/iris/generate_stream", "{}"), 400,
                 "expected 1 inputs but got 0 inputs");
    check_answer(call(METHOD_GET, "/v2/systemsharedmemory/status", ""), 501, "shared memory");
    check_answer(call(METHOD_POST, "/v2/cudasharedmemory/region/r/register", "{}"), 501,
                 "shared memory");
    check_answer(call(METHOD_GET, "/v2/trace/setting", ""), 501, "trace");
    check_answer(call(METHOD_GET, "/v2/logging", ""), 200, "\"log_format\":\"ISO8601\"");
    check_answer(call(METHOD_POST, "/v2/logging", "{\"log_inf\":true}"), 400,
                 "there is no log setting 'log_inf'");
    check_answer(call(METHOD_POST, "/v2/repository/models/iris/load", "{}"), 503,
                 "explicit model load / unload is not allowed");
    check_answer(call(METHOD_POST, "/v2/repository/r/models/iris/unload", "{}"), 501,
                 "'repository_name' specification is not supported");
    stage_down();
}

TEST(kserve_headers_are_checked_before_the_body)
{
    if (!stage_up() || !stage_open())
        return;
    static const struct {
        const char *name, *value, *words;
        uint16_t status;
    } cases[] = {
        { "x-request-timeout-ms", "0", "x-request-timeout-ms is '0'", 400 },
        { "x-request-timeout-ms", "-1", "x-request-timeout-ms is '-1'", 400 },
        { "x-request-timeout-ms", "1.5", "it takes a whole number of milliseconds", 400 },
        { "x-request-timeout-ms", "60000", "setosa", 200 },
        { "x-request-timeout-ms", "18446744073709551615", "setosa", 200 },
        { "inference-header-content-length", "x", "Unable to parse Inference-Header-Content-Length",
          400 },
        { "inference-header-content-length", "999", "inference header size should be in range (0, ",
          400 },
        { "content-encoding", "br", "Unsupported compression type", 501 },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        stage_drop_calls();
        struct fake *fake =
            make(METHOD_POST, "/v2/models/iris/infer",
                 "{\"inputs\":[{\"name\":\"input\",\"shape\":[1,4],\"datatype\":"
                 "\"FP32\",\"data\":" IRIS_DATA "}],\"outputs\":[{\"name\":\"label\","
                 "\"parameters\":{\"classification\":1}}]}");
        fake_header(fake, cases[i].name, cases[i].value);
        stage_run();
        check_answer(fake, cases[i].status, cases[i].words);
        if (strcmp(cases[i].name, "content-encoding") == 0)
            check(slice_is(fake_answer_header(fake, "accept-encoding"), "gzip, deflate"),
                  "says what it takes");
    }
    stage_down();
}

static size_t parsed_length(const struct fake *fake)
{
    uint64_t length = 0;

    check(slice_to_u64(fake_answer_header(fake, "inference-header-content-length"), &length),
          "no header length");
    return (size_t)length;
}

TEST(kserve_binary_both_ways)
{
    enum { COUNT_OF = 50000 };
    static const char head[] =
        "{\"inputs\":[{\"name\":\"x\",\"shape\":[50000],\"datatype\":\"FP32\",\"parameters\":{"
        "\"binary_data_size\":200000}}],\"parameters\":{\"binary_data_output\":true}}";
    char length[16];
    float *values = mem_alloc(COUNT_OF * sizeof *values);
    uint8_t *body = mem_alloc(sizeof head - 1 + COUNT_OF * 4);

    require(values != NULL && body != NULL);
    for (size_t i = 0; i < COUNT_OF; i++)
        values[i] = (float)i / 3;
    memcpy(body, head, sizeof head - 1);
    memcpy(body + sizeof head - 1, values, COUNT_OF * 4);
    snprintf(length, sizeof length, "%zu", sizeof head - 1);
    if (!stage_up() || !stage_open())
        return;
    for (int compressed = 0; compressed < 2; compressed++) {
        stage_drop_calls();
        struct fake *fake = stage_make(METHOD_POST, "/v2/models/identity/infer",
                                       slice_make(body, sizeof head - 1 + COUNT_OF * 4));
        fake->piece = 7777;
        fake_header(fake, "inference-header-content-length", length);
        if (compressed != 0)
            fake_header(fake, "accept-encoding", "deflate;q=0.5, gzip");
        stage_run();
        check(fake->status == 200, "%u: %s", fake->status, answer_of(fake));
        check(slice_is(fake_answer_header(fake, "content-type"), "application/octet-stream"),
              "type");
        size_t json = parsed_length(fake), offset = 0;
        struct slice answer = text_slice(&fake->answer);
        CLEANUP(buf_unref) struct buf *plain = NULL;
        if (compressed != 0) {
            struct err err = { 0 };
            check(slice_is(fake_answer_header(fake, "content-encoding"), "gzip"), "gzip wins");
            check(compress_inflate(&plain, &offset, NULL, ENCODING_GZIP, answer, 1 << 20, 0,
                                   &err) == OK,
                  "%s", err.text);
            answer = plain == NULL ? slice_make("", 0) : slice_skip(buf_bytes(plain), offset);
        } else {
            check(fake->sends == 2, "%u pieces: the tensor goes out where it lies", fake->sends);
        }
        check(answer.size == json + COUNT_OF * 4, "%zu bytes", answer.size);
        if (answer.size == json + COUNT_OF * 4)
            check(memcmp(answer.data + json, values, COUNT_OF * 4) == 0, "values");
    }
    /* The whole body as the one input. */
    stage_drop_calls();
    struct fake *fake =
        stage_make(METHOD_POST, "/v2/models/identity/infer", slice_make(values, 4000));
    fake_header(fake, "inference-header-content-length", "0");
    stage_run();
    check(fake->status == 200, "%s", answer_of(fake));
    if (fake->status == 200) {
        size_t json = parsed_length(fake);
        check(fake->answer.size == json + 4000 &&
                  memcmp(fake->answer.data + json, values, 4000) == 0,
              "raw");
    }
    mem_free(values);
    mem_free(body);
    stage_down();
}

TEST(kserve_small_binary_answers_are_one_piece)
{
    if (!stage_up() || !stage_open())
        return;
    struct fake *fake =
        call(METHOD_POST, "/v2/models/iris/infer",
             "{\"parameters\":{\"binary_data_output\":true},\"inputs\":[{\"name\":"
             "\"input\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":" IRIS_DATA "}]}");
    static const float expected[] = { 0.5f, 0.25f, 0.125f, 0.0625f };
    check(fake->status == 200 && fake->sends == 1, "%u: %u pieces", fake->status, fake->sends);
    size_t json = parsed_length(fake);
    check(fake->answer.size == json + 8 + 16, "size");
    check(memcmp(fake->answer.data + json + 8, expected, 16) == 0, "values");
    /* Nothing but empty tensors: no header, plain JSON. */
    fake = call(METHOD_POST, "/v2/models/identity/infer",
                "{\"parameters\":{\"binary_data_output\":true},\"inputs\":[{\"name\":\"x\","
                "\"shape\":[0],\"datatype\":\"FP32\",\"data\":[]}]}");
    check(fake->status == 200 &&
              fake_answer_header(fake, "inference-header-content-length").size == 0 &&
              slice_is(fake_answer_header(fake, "content-type"), "application/json") &&
              strstr(answer_of(fake), "\"parameters\":{\"binary_data_size\":0}") != NULL,
          "%u: %s", fake->status, answer_of(fake));
    stage_down();
}

TEST(kserve_compresses_for_who_asks)
{
    static const struct {
        const char *accept, *encoding;
    } cases[] = {
        { "gzip", "gzip" },          { "deflate", "deflate" },
        { "gzip, deflate, br", "" }, /* a small answer, and a library's usual list */
        { "identity", "" },          { "br", "" },
    };

    if (!stage_up() || !stage_open())
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        stage_drop_calls();
        struct fake *fake = make(METHOD_POST, "/v2/models/iris/infer", IRIS);
        fake_header(fake, "accept-encoding", cases[i].accept);
        stage_run();
        check(fake->status == 200 &&
                  slice_is(fake_answer_header(fake, "content-encoding"), cases[i].encoding),
              "%s: %u %.*s", cases[i].accept, fake->status,
              SLICE_ARG(fake_answer_header(fake, "content-encoding")));
    }
    stage_down();
}

/* What has Content-Encoding is undone before its header length counts. */
TEST(kserve_reads_compressed_bodies)
{
    struct slice piece = slice_of(IRIS);
    struct buf *packed = NULL;
    struct err err = { 0 };

    if (!stage_up() || !stage_open())
        return;
    check_or_stop(compress_deflate(&packed, NULL, ENCODING_GZIP, &piece, 1, &err) == OK, "%s",
                  err.text);
    struct fake *fake = stage_make(METHOD_POST, "/v2/models/iris/infer", buf_bytes(packed));
    fake_header(fake, "content-encoding", "gzip");
    stage_run();
    check_answer(fake, 200, IRIS_ANSWER);
    stage_drop_calls();
    fake = stage_make(METHOD_POST, "/v2/models/iris/infer",
                      slice_first(buf_bytes(packed), buf_bytes(packed).size - 9));
    fake_header(fake, "content-encoding", "gzip");
    stage_run();
    check(fake->status == 400, "%u: %s", fake->status, answer_of(fake));
    buf_unref(&packed);
    stage_down();
}

TEST(kserve_body_past_the_limit)
{
    if (!stage_up() || !stage_open())
        return;
    stage.api.body_bytes_max = 50;
    check_answer(call(METHOD_POST, "/v2/models/iris/infer", IRIS), 413, "--max-body");
    check_answer(call(METHOD_POST, "/models/iris:predict", IRIS), 413, "--max-body");
    stage_down();
}

/* -- time, room, leaving ------------------------------------------------------------------------------ */

static bool stage_with_slow(const char *config)
{
    if (!stage_up())
        return false;
    stage_put_file("slow", "config.pbtxt", config);
    return stage_open();
}

#define SLOW_TENSORS                                      \
    "backend: \"echo\"\ninput [" TENSOR("x", "TYPE_FP32", \
                                        "-1") "]\noutput [" TENSOR("y", "TYPE_FP32", "-1") "]\n"
#define SLOW "{\"inputs\":[{\"name\":\"x\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[7]}]}"

TEST(deadline_passes)
{
    if (!stage_with_slow(SLOW_TENSORS DELAY("20000")))
        return;
    struct fake *v2 = make(METHOD_POST, "/v2/models/slow/infer", SLOW);
    struct fake *typed = make(METHOD_POST, "/models/slow:predict", "{\"x\":[7]}");
    fake_header(v2, "x-request-timeout-ms", "30");
    fake_header(typed, "x-request-timeout-ms", "40");
    stage_run();
    check_answer(v2, 504, "stage reached: ");
    check_answer(typed, 504, "{\"error\":{\"code\":\"DEADLINE_EXCEEDED\",\"message\":\"");
    stage_down();
}

TEST(queue_is_full)
{
    if (!stage_with_slow(SLOW_TENSORS DELAY("300")))
        return;
    struct fake *all[5];
    for (size_t i = 0; i < 5; i++)
        all[i] = make(METHOD_POST, i == 4 ? "/models/slow:predict" : "/v2/models/slow/infer",
                      i == 4 ? "{\"x\":[7]}" : SLOW);
    stage_run();
    unsigned served = 0, refused = 0;
    for (size_t i = 0; i < 4; i++) {
        served += all[i]->status == 200;
        if (all[i]->status == 503) {
            refused++;
            check(strstr(answer_of(all[i]), "Exceeds maximum queue size") != NULL, "%s",
                  answer_of(all[i]));
            check(slice_is(fake_answer_header(all[i], "retry-after"), "1"), "when to retry");
        }
    }
    check(served >= 1 && refused >= 1 && served + refused == 4, "%u served, %u refused", served,
          refused);
    check_answer(all[4], 429, "RESOURCE_EXHAUSTED");
    check(slice_is(fake_answer_header(all[4], "retry-after"), "1"), "when to retry");
    stage_down();
}

TEST(who_leaves_frees_the_compute)
{
    if (!stage_with_slow(SLOW_TENSORS DELAY("20000")))
        return;
    struct fake *running = make(METHOD_POST, "/v2/models/slow/infer", SLOW);
    struct fake *queued = make(METHOD_POST, "/models/slow:predict", "{\"x\":[7]}");
    struct fake *reading = make(METHOD_POST, "/v2/models/iris/infer", IRIS);
    running->gone_ms = 50;
    queued->gone_ms = 30;
    reading->piece = 5;
    reading->gone_at = 20;
    stage_run();
    check(running->status == 0 && queued->status == 0 && reading->status == 0, "no answers");
    check(engine_in_flight(stage_engine) == 0, "nothing runs on");
    stage_down();
}

TEST(decoupled_models_are_refused)
{
    if (!stage_with_slow(
            SLOW_TENSORS MODE("repeat") "model_transaction_policy { decoupled: true }\n"))
        return;
    check_answer(call(METHOD_POST, "/v2/models/slow/infer", SLOW), 501,
                 "HTTP end point doesn't support models with decoupled transaction policy");
    check_answer(call(METHOD_POST, "/models/slow:predict", "{\"x\":[7]}"), 501, "UNIMPLEMENTED");
    stage_down();
}

TEST(failures_of_models_are_told)
{
    if (!stage_with_slow(SLOW_TENSORS MODE(
            "fail") "parameters { key: \"text\" value { string_value: \"it \\\"hurts\\\"\" "
                    "} }\n"))
        return;
    check_answer(call(METHOD_POST, "/v2/models/slow/infer", SLOW), 500, "it \\\"hurts\\\"");
    check_answer(call(METHOD_POST, "/models/slow:predict", "{\"x\":[7]}"), 500, "INTERNAL");
    stage_down();
}

/* -- typed ------------------------------------------------------------------------------------------- */

TEST(typed_predicts)
{
    if (!stage_up() || !stage_open())
        return;
    static const struct {
        const char *path, *body, *answer;
    } cases[] = {
        { "/models/iris:predict",
          "{\"sepal_length\":0.5,\"sepal_width\":0.25,\"petal_length\":0.125,"
          "\"petal_width\":0.0625}",
          "{\"label\":\"setosa\",\"probability\":0.5}" },
        { "/models/iris/versions/1:predict", "{\"input\":" IRIS_DATA "}",
          "{\"label\":\"setosa\",\"probability\":0.5}" },
        { "/models/iris:predict?top=2", IRIS_DATA,
          "[{\"label\":\"setosa\",\"probability\":0.5},{\"label\":\"versicolor\",\"probability\":"
          "0.25}]" },
        { "/models/iris:predict?raw=1", "{\"input\":[" IRIS_DATA "]}",
          "{\"label\":[0],\"probabilities\":[[0.5,0.25,0.125,0.0625]]}" },
        { "/models/words:predict", "{\"text\":[\"a\",\"\\u00fc\"]}",
          "[{\"said\":\"a\"},{\"said\":\"\xc3\xbc\"}]" },
        { "/models/identity:predict", "{\"x\":3}", "{\"y\":3.0}" },
        { "/models/identity:predict", "[{\"x\":3},{\"x\":0.25}]", "[{\"y\":3.0},{\"y\":0.25}]" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct fake *fake = call(METHOD_POST, cases[i].path, cases[i].body);
        size_t size = strlen(cases[i].answer);
        check(fake->status == 200 && strncmp(answer_of(fake), cases[i].answer, size) == 0 &&
                  strcmp(answer_of(fake) + size, "\n") == 0,
              "%s %s\n  %u %s", cases[i].path, cases[i].body, fake->status, answer_of(fake));
    }
    stage_down();
}

TEST(typed_errors_name_the_field)
{
    if (!stage_up() || !stage_open())
        return;
    check_answer(call(METHOD_POST, "/models/iris:predict", "{\"sepal_lenght\":1}"), 400,
                 "{\"error\":{\"code\":\"INVALID_ARGUMENT\",\"message\":\"unknown field "
                 "'sepal_lenght'; did you mean 'sepal_length'?\",\"field\":\"sepal_lenght\","
                 "\"example\":{\"sepal_length\":0.5,\"sepal_width\":0.25,");
    check_answer(call(METHOD_POST, "/models/iris:predict", "{\"sepal_length\":31}"), 400,
                 "\"message\":\"sepal_length is 31; it must be between 0 and 30 cm\",\"field\":"
                 "\"sepal_length\"}}");
    check_answer(call(METHOD_POST, "/models/iris:predict?topp=1", "{}"), 400,
                 "did you mean 'top'?");
    check_answer(call(METHOD_POST, "/models/nope:predict", "{}"), 404,
                 "{\"error\":{\"code\":\"NOT_FOUND\"");
    stage_down();
}

TEST(typed_bodies_by_content_type)
{
    static const float row[] = { 0.5f, 0.25f, 0.125f, 0.0625f };
    static const char form[] = "application/x-www-form-urlencoded";
    static const char setosa[] = "{\"label\":\"setosa\",\"probability\":0.5}";

    if (!stage_up() || !stage_open())
        return;
    check_answer(call_typed("/models/iris:predict", form, slice_of(" {\"input\":" IRIS_DATA "}")),
                 200, setosa);
    check_answer(call_typed("/models/iris:predict", form,
                            slice_of("sepal_length=0.5&sepal_width=0.25&petal%5Flength=0.125&"
                                     "petal_width=+0.0625")),
                 200, setosa);
    check_answer(call_typed("/models/iris:predict", "application/octet-stream",
                            slice_make(row, sizeof row)),
                 200, setosa);
    check_answer(call_typed("/models/words:predict", "text/plain; charset=utf-8",
                            slice_of("say {this}")),
                 200, "{\"said\":\"say {this}\"}");
    check_answer(call_typed("/models/words:predict", "application/json", slice_of("\"x\"")), 200,
                 "{\"said\":\"x\"}");
    check_answer(call_typed("/models/words:predict", "application/vnd.x+json",
                            slice_of("{\"text\":\"x\"}")),
                 200, "{\"said\":\"x\"}");
    check_answer(call_typed("/models/iris:predict", "text/plain", slice_of("x")), 415,
                 "content type 'text/plain' is not taken by model 'iris'; it takes "
                 "application/json");
    check_answer(call_typed("/models/iris:predict", "image/png", slice_of("x")), 415,
                 "application/x-npy");
    static const char multipart[] = "multipart/form-data; boundary=b";
    check_answer(call_typed("/models/words:predict", multipart,
                            slice_of("--b\r\nContent-Disposition: form-data; name=\"text\"; "
                                     "filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nhi\r\n"
                                     "--b--\r\n")),
                 200, "{\"said\":\"hi\"}");
    check_answer(call_typed("/models/words:predict", multipart,
                            slice_of(
                                "--b\r\nContent-Disposition: form-data; name=\"text\"\r\n"
                                "Content-Type: application/json\r\n\r\n\"h\\u0069\"\r\n--b--\r\n")),
                 200, "{\"said\":\"hi\"}");
    check_answer(
        call_typed("/models/iris:predict", multipart,
                   slice_of(
                       "--b\r\nContent-Disposition: form-data; name=\"input\"\r\n\r\n" IRIS_DATA
                       "\r\n--b--\r\n")),
        200, setosa);
    check_answer(
        call_typed("/models/iris:predict", multipart,
                   slice_of(
                       "--b\r\nContent-Disposition: form-data; name=\"inputs\"\r\n\r\n" IRIS_DATA
                       "\r\n--b--\r\n")),
        400, "unknown field 'inputs'; did you mean 'input'?");
    check_answer(call_typed("/models/iris:predict", multipart, slice_of("--c--\r\n")), 400,
                 "INVALID_ARGUMENT");
    check_answer(call_typed("/models/iris:predict", "multipart/form-data", slice_of("--c--\r\n")),
                 400, "INVALID_ARGUMENT");
    check_answer(call_typed("/models/iris:predict", form, slice_of("sepal_length=%zz")), 400,
                 "two hexadecimal digits");
    stage_down();
}

/* -- pages ------------------------------------------------------------------------------------------- */

static yyjson_doc *parse(struct fake *fake)
{
    yyjson_doc *doc = yyjson_read((const char *)fake->answer.data, fake->answer.size, 0);

    check(doc != NULL, "no JSON: %s", answer_of(fake));
    return doc;
}

TEST(pages_are_json)
{
    static const struct {
        enum exchange_method method;
        const char *path, *body, *words;
    } cases[] = {
        { METHOD_GET, "/v2", "", "\"extensions\":[" },
        { METHOD_GET, "/v2/health/live", "", "{\"live\":true}" },
        { METHOD_GET, "/v2/health/ready", "", "{\"ready\":true}" },
        { METHOD_GET, "/v2/models", "", "{\"models\":[\"identity\",\"iris\",\"words\"]}" },
        { METHOD_GET, "/v2/models/iris", "",
          "\"inputs\":[{\"name\":\"input\",\"datatype\":\"FP32\",\"shape\":[-1,4]}]" },
        { METHOD_GET, "/v2/models/iris/versions/1", "", "\"versions\":[\"1\"]" },
        { METHOD_GET, "/v2/models/iris/ready", "", "{\"name\":\"iris\",\"ready\":true}" },
        { METHOD_GET, "/v2/models/iris/config", "", "\"backend\":\"echo\"" },
        { METHOD_GET, "/v2/models/iris/stats", "", "\"inference_stats\":{\"success\":" },
        { METHOD_GET, "/v2/models/stats", "", "\"name\":\"words\"" },
        { METHOD_POST, "/v2/repository/index", "", "{\"name\":\"iris\",\"version\":\"1\"," },
        { METHOD_POST, "/v2/repository/index", "{\"ready\":true}", "\"state\":\"READY\"" },
        { METHOD_GET, "/models", "", "\"title\":\"Iris species\"" },
        { METHOD_GET, "/models/iris", "", "\"predict\":\"/models/iris:predict\"" },
        { METHOD_GET, "/models/iris", "",
          "curl http://localhost:8000/models/iris:predict -d '{\\\"sepal_length\\\":0.5," },
        { METHOD_GET, "/readyz", "", "{\"ready\":true,\"not_ready\":[]}" },
    };

    if (!stage_up() || !stage_open())
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct fake *fake = call(cases[i].method, cases[i].path, cases[i].body);
        check_answer(fake, 200, cases[i].words);
        check(slice_is(fake_answer_header(fake, "content-type"), "application/json"), "%s",
              cases[i].path);
        yyjson_doc_free(parse(fake));
    }
    check_answer(call(METHOD_GET, "/v2/models/nope", ""), 404, "unknown model");
    check_answer(call(METHOD_GET, "/v2/models/nope/ready", ""), 400,
                 "{\"error\":\"Model version not ready\"}");
    check_answer(call(METHOD_GET, "/v2/models/iris/versions/9/ready", ""), 400,
                 "{\"error\":\"Model version not ready\"}");
    check_answer(call(METHOD_GET, "/v2/models/nope/stats", ""), 404, "unknown model");
    check_answer(call(METHOD_GET, "/v2/models/iris/versions/9/stats", ""), 400,
                 "requested model version is not available for model 'iris'");
    check_answer(call(METHOD_POST, "/v2/repository/index", "{\"ready\":1}"), 400,
                 "Invalid value for 'ready': expected a boolean");
    check_answer(call(METHOD_GET, "/models/nope", ""), 404, "NOT_FOUND");
    check_answer(call(METHOD_GET, "/healthz", ""), 200, "ok\n");
    atomic_store(&stage.is_draining, true);
    check_answer(call(METHOD_GET, "/v2/health/ready", ""), 400, "{\"ready\":false}");
    check_answer(call(METHOD_GET, "/readyz", ""), 503, "\"draining\":true");
    check_answer(call(METHOD_GET, "/healthz", ""), 200, "ok\n");
    stage_down();
}

TEST(a_model_that_failed_is_named)
{
    if (!stage_with_slow(SLOW_TENSORS MODE("fail_load")))
        return;
    check_answer(call(METHOD_GET, "/readyz", ""), 503,
                 "{\"ready\":false,\"not_ready\":[{\"name\":\"slow\"");
    check_answer(call(METHOD_GET, "/v2/health/ready", ""), 400, "{\"ready\":false}");
    check_answer(call(METHOD_POST, "/v2/repository/index", ""), 200, "\"state\":\"UNAVAILABLE\"");
    check_answer(call(METHOD_GET, "/", ""), 200, "UNAVAILABLE");
    stage.api.is_strict_ready = false;
    check_answer(call(METHOD_GET, "/readyz", ""), 200, "{\"ready\":true,\"not_ready\":[{");
    check_answer(call(METHOD_GET, "/v2/health/ready", ""), 200, "{\"ready\":true}");
    stage_down();
}

TEST(the_page_escapes_what_models_say)
{
    if (!stage_up())
        return;
    stage_put_file("x<script>alert(1)<b>\"'&", "config.pbtxt", stage_identity_config);
    stage_put_file("x<script>alert(1)<b>\"'&", "model.yaml",
                   "title: \"</style><script>t\"\ndescription: \"<img src=x onerror=1>\"\n");
    if (!stage_open())
        return;
    struct fake *fake = call(METHOD_GET, "/", "");
    check(fake->status == 200 &&
              slice_is(fake_answer_header(fake, "content-type"), "text/html; charset=utf-8"),
          "%u", fake->status);
    check(slice_starts(fake_answer_header(fake, "content-security-policy"),
                       "default-src 'none'; style-src 'unsafe-inline'"),
          "policy");
    const char *page = answer_of(fake);
    check_or_stop(page != NULL, "no page");
    check(strstr(page, "<script") == NULL && strstr(page, "<img") == NULL &&
              strstr(page, "<b>\"") == NULL,
          "%s", page);
    check(strstr(page, "Which of &lt;four&gt;?") != NULL, "%s", page);
    check(strstr(page, "href=\"/models/iris\"") != NULL, "links");
    check(strstr(page, "http://localhost:8000/models/iris:predict") != NULL, "curl line");
    stage_drop_calls();
    fake = make(METHOD_GET, "/", "");
    fake_header(fake, "accept", "application/json");
    stage_run();
    check_answer(fake, 200, "\"links\":{\"models\":\"/models\"");
    yyjson_doc_free(parse(fake));
    stage_down();
}

/* A Host that is no host must not reach a line that people paste. */
TEST(curl_lines_hold_no_forged_host)
{
    if (!stage_up() || !stage_open())
        return;
    struct fake *fake = make(METHOD_GET, "/models/iris", "");
    fake->x.authority = slice_of("a;rm -rf ~");
    stage_run();
    check(fake->status == 200 && strstr(answer_of(fake), "rm -rf") == NULL &&
              strstr(answer_of(fake), "curl http://127.0.0.1:8000/") != NULL,
          "%s", answer_of(fake));
    stage_down();
}

/* Every family once, its samples together, and nothing but the exposition format. */
TEST(metrics_follow_the_format)
{
    char families[64][80];
    size_t count = 0;

    if (!stage_up() || !stage_open())
        return;
    call(METHOD_POST, "/v2/models/iris/infer", IRIS);
    call(METHOD_POST, "/v2/models/iris/infer", "{\"inputs\":[]}");
    struct fake *fake = call(METHOD_GET, "/metrics", "");
    check(fake->status == 200, "%u", fake->status);
    check_answer(fake, 200, "nv_inference_request_success{model=\"iris\",version=\"1\"} 1\n");
    check_answer(fake, 200,
                 "nv_inference_request_failure{model=\"iris\",version=\"1\",reason=\"OTHER\"} 1\n");
    check_answer(fake, 200,
                 "penstock_request_seconds_bucket{model=\"iris\",version=\"1\",le="
                 "\"+Inf\"} 1\n");
    check_answer(fake, 200,
                 "penstock_stage_seconds_count{model=\"iris\",version=\"1\",stage="
                 "\"decode\"} 1\n");
    char *save = NULL, *page = mem_strdup(answer_of(fake));
    for (char *line = strtok_r(page, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        char name[80];
        if (sscanf(line, "# TYPE %79s", name) == 1) {
            for (size_t i = 0; i < count; i++)
                check(strcmp(families[i], name) != 0, "%s is there twice", name);
            check_or_stop(count < COUNT(families), "too many");
            memcpy(families[count++], name, sizeof name);
        } else if (line[0] != '#') {
            check(count != 0 &&
                      strncmp(line, families[count - 1], strlen(families[count - 1])) == 0,
                  "a sample outside of its family: %s", line);
        }
    }
    mem_free(page);
    check(count >= 18, "%zu families", count);
    stage_down();
}

/* -- memory ------------------------------------------------------------------------------------------ */

TEST(small_calls_do_not_touch_the_heap)
{
    static const struct {
        const char *path, *body;
    } cases[] = {
        { "/v2/models/iris/infer", IRIS },
        { "/models/iris:predict", "{\"input\":" IRIS_DATA "}" },
    };

    if (!stage_up() || !stage_open())
        return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        call(METHOD_POST, cases[i].path, cases[i].body); /* makes the plan */
        stage_drop_calls();
        struct fake *fake = make(METHOD_POST, cases[i].path, cases[i].body);
        require(text_room(&fake->answer, 4096) != NULL && text_room(&fake->headers, 4096) != NULL);
        uint64_t before = mem_count();
        stage_run();
        check(fake->status == 200 && mem_count() == before, "%s: %llu allocations", cases[i].path,
              (unsigned long long)(mem_count() - before));
    }
    stage_down();
}

/* Fails the first allocation of a call, the second ...: it is answered all the same, nothing is
 * left behind, and the next call works. */
TEST(calls_survive_every_fault)
{
    static const struct {
        enum exchange_method method;
        const char *path, *body;
    } cases[] = {
        { METHOD_POST, "/v2/models/iris/infer",
          "{\"parameters\":{\"k\":\"v\"},\"id\":\"a\",\"inputs\":[{\"name\":\"input\",\"shape\":[1,"
          "4],\"datatype\":\"FP32\",\"data\":" IRIS_DATA "}],\"outputs\":[{\"name\":\"label\","
          "\"parameters\":{\"classification\":1,\"binary_data\":true}}]}" },
        { METHOD_POST, "/models/iris:predict?top=3", IRIS_DATA },
        { METHOD_POST, "/models/words:predict", "[{\"text\":\"a\"},{\"text\":\"b\"}]" },
        { METHOD_GET, "/models/iris", "" },
        { METHOD_GET, "/v2/models/stats", "" },
        { METHOD_GET, "/metrics", "" },
        { METHOD_GET, "/", "" },
    };

    if (!stage_up() || !stage_open())
        return;
    stage.block_bytes = 1024; /* so that an arena asks the heap on the way */
    for (size_t i = 0; i < COUNT(cases); i++) {
        for_each_fault(nth) {
            fault_arm(0);
            stage_drop_calls();
            struct fake *fake = make(cases[i].method, cases[i].path, cases[i].body);
            require(text_room(&fake->answer, 1 << 20) != NULL &&
                    text_room(&fake->headers, 4096) != NULL);
            fault_arm(nth);
            stage_run();
            bool fired = fault_fired();
            fault_arm(0);
            check(fake->status == 200 || (fired && fake->status >= 400) || fake->is_aborted,
                  "%s, fault %u: %u %s", cases[i].path, nth, fake->status, answer_of(fake));
            check(engine_in_flight(stage_engine) == 0, "%s, fault %u", cases[i].path, nth);
            if (!fired)
                break;
        }
    }
    fault_arm(0);
    check_answer(call(METHOD_POST, "/v2/models/iris/infer", IRIS), 200, IRIS_ANSWER);
    stage_down();
}
