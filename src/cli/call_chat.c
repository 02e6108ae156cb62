/* call_chat.c - penstock call --chat: a conversation with a model that takes text and gives text, over one
 * penstock.v1.Inference/Session. SPDX-License-Identifier: Apache-2.0
 *
 * Which input is the text is asked of the model's description. What the model says is printed as it
 * comes, without a line end of ours until its answer is whole: a model that speaks in words is read in
 * words.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

#include "cli/ask.h"
#include "cli/call_grpc.h"
#include "cli/live.h"
#include "cli/options.h"
#include "cli/print.h"

enum { TARGET_BYTES_MAX = 1024, MODEL_VERSION_TEXT = 24 };

struct chat {
    struct call *call;
    const struct proto_type *request, *response; /* of the program's own schema */
    const char *input; /* the tensor that takes text; borrowed from call->about */
    uint64_t sent, answered;
    uint64_t input_told; /* of which input the present line is the answer */
    bool is_terminal; /* somebody types: prompts help */
    bool is_in_line;  /* something was printed and no line end behind it */
    bool is_leaving;
};

/* -- the model ----------------------------------------------------------------------------------- */

static enum err_code check_answer(const struct chat *chat, struct err *err)
{
    yyjson_val *outputs = yyjson_obj_get(yyjson_doc_get_root(chat->call->about), "outputs"), *output;
    size_t at, count;

    yyjson_arr_foreach(outputs, at, count, output)
    {
        const char *type = yyjson_get_str(yyjson_obj_get(output, "type"));
        if (type != NULL && strcmp(type, "string") == 0)
            return OK;
    }
    return err_set(err, E_INVALID,
                   "model '%s' does not answer in text, so there is nothing to talk about; --stream "
                   "takes one JSON object a line and prints any answer",
                   chat->call->model);
}

static enum err_code find_input(struct chat *chat, struct err *err)
{
    yyjson_val *inputs = yyjson_obj_get(yyjson_doc_get_root(chat->call->about), "inputs"), *input;
    uint32_t texts = 0;
    size_t at, count;

    yyjson_arr_foreach(inputs, at, count, input)
    {
        const char *type = yyjson_get_str(yyjson_obj_get(input, "type"));
        const char *tensor = yyjson_get_str(yyjson_obj_get(input, "tensor"));
        if (type == NULL || strcmp(type, "string") != 0)
            continue;
        chat->input =
            tensor != NULL ? tensor : yyjson_get_str(yyjson_obj_get(input, "name"));
        texts++;
    }
    if (texts == 1 && chat->input != NULL)
        return check_answer(chat, err);
    return err_set(err, E_INVALID,
                   "model '%s' takes %s text input%s, and --chat talks to models that take one; "
                   "--stream sends any inputs, one JSON object a line",
                   chat->call->model, texts == 0 ? "no" : "more than one", texts == 0 ? "" : "s");
}

static enum err_code describe(struct chat *chat, struct err *err)
{
    CLEANUP(client_free) struct client *client = NULL;
    char bytes[TARGET_BYTES_MAX];
    struct text target;

    text_init_fixed(&target, bytes, sizeof bytes - 1);
    text_str(&target, "/models/");
    print_percent(&target, slice_of(chat->call->model));
    bytes[target.size] = '\0';
    if (text_failed(&target))
        return err_set(err, E_INVALID, "the name of the model is too long");
    TRY(ask_open(&client, chat->call->options, err));
    TRY(ask_json(client, "GET", bytes, slice_of(""), &chat->call->about, err));
    return find_input(chat, err);
}

/* -- out ----------------------------------------------------------------------------------------- */

static enum err_code send(struct live *live, struct proto_message *message, struct err *err)
{
    struct slice bytes;

    TRY(proto_encode(message, &bytes, err));
    return live_send(live, bytes, err);
}

static enum err_code send_begin(struct live *live, struct err *err)
{
    struct chat *chat = live->context;
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
    uint64_t version = options_number(live->o, OPT_MODEL_VERSION);
    char text[MODEL_VERSION_TEXT];

    if (arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a message");
    struct proto_message *message = proto_new(arena, chat->request);
    struct proto_message *begin = proto_set_message(message, "begin");
    proto_set_str(begin, "model", slice_of(chat->call->model));
    if (version > 0) {
        snprintf(text, sizeof text, "%llu", (unsigned long long)version);
        proto_set_str(begin, "version", slice_of(text));
    }
    return send(live, message, err);
}

static enum err_code on_line(struct live *live, struct slice line, uint64_t number UNUSED,
                             struct err *err)
{
    struct chat *chat = live->context;
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();

    if (arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a message");
    struct proto_message *message = proto_new(arena, chat->request);
    struct proto_message *tensor =
        proto_add_message(proto_set_message(message, "input"), "inputs");
    proto_set_str(tensor, "name", slice_of(chat->input));
    proto_add_str(proto_set_message(tensor, "strings"), "values", line);
    chat->sent++;
    return send(live, message, err);
}

/* -- in ------------------------------------------------------------------------------------------ */

static void end_line(struct live *live)
{
    struct chat *chat = live->context;

    if (chat->is_in_line)
        text_byte(&live->out, '\n');
    chat->is_in_line = false;
}

static void prompt(struct live *live)
{
    const struct chat *chat = live->context;

    if (chat->is_terminal && chat->answered >= chat->sent && !chat->is_leaving)
        text_str(&live->out, "> ");
}

/* BYTES: each element behind its length. What a terminal would take for a command is escaped. */
static void say_tensor(struct live *live, const struct proto_message *tensor)
{
    struct chat *chat = live->context;
    struct slice raw = proto_get_str(tensor, "raw");

    while (slice_is(proto_get_str(tensor, "datatype"), "BYTES") && raw.size >= 4) {
        uint32_t size = (uint32_t)raw.data[0] | (uint32_t)raw.data[1] << 8 |
                        (uint32_t)raw.data[2] << 16 | (uint32_t)raw.data[3] << 24;
        struct slice element = slice_first(slice_skip(raw, 4), MIN(size, raw.size - 4));
        if (isatty(STDOUT_FILENO))
            print_escaped(&live->out, element, true);
        else
            text_slice_put(&live->out, element);
        chat->is_in_line = element.size > 0 || chat->is_in_line;
        raw = slice_skip(raw, 4 + element.size);
    }
}

static void on_output(struct live *live, const struct proto_message *output)
{
    struct chat *chat = live->context;
    uint64_t input = proto_get_u64(output, "input");
    bool is_unasked = input == 0;

    if (input != chat->input_told)
        end_line(live);
    chat->input_told = input;
    for (size_t i = 0; i < proto_count(output, "outputs"); i++)
        say_tensor(live, proto_message_at(output, "outputs", i));
    if (is_unasked || proto_get_bool(output, "is_last")) {
        chat->answered += !is_unasked;
        end_line(live);
        prompt(live);
    }
}

static void on_answered(struct live *live, const struct proto_message *answered)
{
    struct chat *chat = live->context;
    int64_t code = proto_get_i64(answered, "code");
    struct slice text = proto_get_str(answered, "message");

    chat->answered++;
    end_line(live);
    if (code != OK && code != E_CANCELLED)
        fprintf(stderr, "penstock: the model could not answer: %.*s\n",
                SLICE_ARG(slice_first(text, 500)));
    prompt(live);
}

static enum err_code on_message(struct live *live, struct slice bytes, struct err *err)
{
    struct chat *chat = live->context;
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
    struct proto_message *message;

    if (arena == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a message");
    if (proto_decode(&message, arena, chat->response, bytes, err) != OK) {
        err->code = E_DATA_LOSS;
        return err_wrap(err, "what the server says cannot be read");
    }
    if (options_flag(live->o, OPT_JSON)) {
        TRY(proto_to_json(message, proto_builtin(), &live->out, err));
        text_byte(&live->out, '\n');
        return OK;
    }
    const char *which = proto_which(message, "message");
    if (which != NULL && strcmp(which, "begun") == 0)
        prompt(live);
    else if (which != NULL && strcmp(which, "output") == 0)
        on_output(live, proto_get_message(message, "output"));
    else if (which != NULL && strcmp(which, "answered") == 0)
        on_answered(live, proto_get_message(message, "answered"));
    return OK;
}

/* Once while it answers: stop answering. Else: good-bye. */
static void on_interrupt(struct live *live)
{
    struct chat *chat = live->context;
    CLEANUP(proto_arena_free) struct proto_arena *arena = proto_arena_new();
    struct err ignored = { 0 };

    if (chat->is_leaving || arena == NULL)
        _exit(EXIT_FAILED);
    if (chat->answered < chat->sent) {
        struct proto_message *message = proto_new(arena, chat->request);
        (void)proto_set_message(message, "interrupt");
        (void)send(live, message, &ignored); /* what fails here ends the call, which tells */
        return;
    }
    chat->is_leaving = true;
    live_finish(live);
}

static void on_refused(struct live *live, const struct grpc_client_status *status, struct err *err)
{
    end_line(live);
    err->code = grpc_call_refusal(status, err);
}

enum err_code call_chat(struct call *call, struct err *err)
{
    static const struct live_user user = { .on_line = on_line,
                                           .on_message = on_message,
                                           .on_interrupt = on_interrupt,
                                           .on_refused = on_refused };
    const struct proto_schema *schema = proto_builtin();
    struct chat chat = { .call = call,
                         .is_terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) &&
                                        !options_flag(call->options, OPT_JSON) };
    struct live live = { .o = call->options,
                         .user = &user,
                         .context = &chat,
                         .path = "/penstock.v1.Inference/Session",
                         .reads_input = true };

    if (schema == NULL)
        return err_set(err, E_EXHAUSTED, "no memory for a call");
    chat.request = proto_type_find(schema, "penstock.v1.SessionRequest");
    chat.response = proto_type_find(schema, "penstock.v1.SessionResponse");
    require(chat.request != NULL && chat.response != NULL);
    TRY(describe(&chat, err));
    enum err_code code = live_open(&live, err);
    if (code == OK)
        code = send_begin(&live, err);
    if (code == OK)
        code = live_run(&live, err);
    live_close(&live);
    if (chat.is_terminal) {
        ssize_t ignored = write(STDOUT_FILENO, "\n", 1);
        (void)ignored;
    }
    return code == OK ? OK : ask_advise(code, err);
}
