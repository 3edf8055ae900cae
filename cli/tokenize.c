/* tokenize.c: `vmoer tokenize`, text to ids and back. */
#include "verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct tokenize_options {
    common_options common;
    const char *model, *ids, *chat;
    int parse_special, add_generation_prompt;
} tokenize_options;

static const option options[] = {
    MODEL_OPTION(tokenize_options, model, MODEL_TEXT ", or a tokenizer.json"),
    {"parse_special", 0, OPTION_FLAG, NULL, "text like <|im_start|> becomes its token",
     offsetof(tokenize_options, parse_special), NULL, 0},
    {"ids", 0, OPTION_TEXT, "LIST", "the other way: ids with commas, printed as text", offsetof(tokenize_options, ids),
     NULL, 0},
    {"chat", 0, OPTION_TEXT, "FILE", "a JSON list of messages ({role, content}), laid out by the model's chat template",
     offsetof(tokenize_options, chat), NULL, 0},
    {"add_generation_prompt", 0, OPTION_FLAG, NULL, "with --chat: the opening of an answer at the end",
     offsetof(tokenize_options, add_generation_prompt), NULL, 0},
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) { *(tokenize_options *)target = (tokenize_options){.model = NULL}; }

static char *read_stdin(size_t *length) {
    size_t capacity = 1 << 16, n = 0;
    char *text = malloc(capacity);
    while (text) {
        n += fread(text + n, 1, capacity - n, stdin);
        if (n < capacity) break;
        char *grown = realloc(text, capacity *= 2);
        if (!grown) free(text);
        text = grown;
    }
    *length = n;
    return text;
}

/* "1,2,3" -> ids; NULL with a printed line where it is not that. */
static int32_t *parse_ids(const char *text, size_t *count) {
    int32_t *ids = malloc((strlen(text) / 2 + 1) * sizeof *ids);
    if (!ids) return session_fail(1, "out of memory"), NULL;
    *count = 0;
    for (const char *at = text;; at++) {
        char *end;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at || errno || id < 0 || id > INT32_MAX || (*end && *end != ',')) {
            session_fail(2, "--ids: '%s' is not a list of ids with commas", text);
            free(ids);
            return NULL;
        }
        ids[(*count)++] = (int32_t)id;
        if (!*(at = end)) return ids;
    }
}

static void print_tokens(const json_t *root, output_format output) {
    const json_t *pieces = json_object_get(root, "pieces");
    size_t i;
    json_t *id;
    table *t = table_new(output);
    table_column(t, "id");
    table_column(t, "piece");
    json_array_foreach(json_object_get(root, "ids"), i, id) {
        table_cell(t, "%" JSON_INTEGER_FORMAT, json_integer_value(id));
        char *quoted = json_dumps(json_array_get(pieces, i), JSON_ENCODE_ANY);
        table_cell(t, "%s", quoted ? quoted : "");
        free(quoted);
    }
    table_print(t);
}

static void print_chat(const json_t *root, output_format output) {
    const json_t *text = json_object_get(root, "text");
    if (output == OUTPUT_MD) {
        fwrite(json_string_value(text), 1, json_string_length(text), stdout);
        printf("\n\n");
    }
    print_tokens(root, output);
}

static int tokenize_chat(const tokenize_options *o) {
    char *text = NULL;
    int code = session_end(vmoer_tokenize_chat(o->model, o->chat, o->add_generation_prompt, &text));
    return code ? code : print_result(text, o->common.output, print_chat);
}

static int detokenize(const tokenize_options *o) {
    size_t count;
    int32_t *ids = parse_ids(o->ids, &count);
    if (!ids) return 2;
    char *text = NULL;
    int code = session_end(vmoer_detokenize(o->model, ids, count, &text));
    free(ids);
    if (code) return code;
    if (o->common.output == OUTPUT_JSON) {
        json_t *string = json_string(text);
        if (json_dumpf(string, stdout, JSON_ENCODE_ANY)) code = session_fail(1, "the text is not UTF-8; try -o md");
        json_decref(string);
        printf("\n");
    } else {
        printf("%s\n", text);
    }
    vmoer_free(text);
    return code;
}

static int run(const void *given, char **operands, int n_operands) {
    const tokenize_options *o = given;
    session_begin("tokenize", o->common.quiet);
    if (n_operands > 1) return session_fail(2, "one text at a time; quote it");
    if (o->add_generation_prompt && !o->chat) return session_fail(2, "--add_generation_prompt goes with --chat");
    if (o->chat && (o->ids || o->parse_special || n_operands))
        return session_fail(2, "--chat goes with no text, --ids or --parse_special");
    if (o->chat) return tokenize_chat(o);
    if (o->ids) return n_operands ? session_fail(2, "either a text or --ids") : detokenize(o);
    size_t length = n_operands ? strlen(operands[0]) : 0;
    char *input = n_operands ? NULL : read_stdin(&length), *text = NULL;
    if (!n_operands && !input) return session_fail(1, "out of memory");
    int code = session_end(vmoer_tokenize(o->model, n_operands ? operands[0] : input, length, o->parse_special, &text));
    free(input);
    return code ? code : print_result(text, o->common.output, print_tokens);
}

const verb verb_tokenize = {
    .name = "tokenize",
    .summary = "text to token ids and pieces, and back",
    .description =
        "Prints the ids and pieces of a text (standard input where none is given), or the text of --ids. With --chat "
        "the text is a conversation, printed too; what its messages say is never a special token. "
        "Adds no token of its own.",
    .operands = "[TEXT]",
    .options = options,
    .size = sizeof(tokenize_options),
    .defaults = defaults,
    .run = run,
};
