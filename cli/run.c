/* run.c: `vmoer run`, text from a model. */
#include "verbs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct run_options {
    common_options common;
    const char *model, *file, *chat, *system;
    vmoer_model_params load;
    vmoer_generate_params p;
    int conversation, uncertainty;
} run_options;

static const option options[] = {
    MODEL_OPTION(run_options, model, MODEL_TEXT),
    ADAPTER_OPTION(run_options, load.adapter),
    ROUTER_OPTION(run_options, load.router),
    {"inference", 0, OPTION_ENUM, NULL, "how the router answers, as in eval", offsetof(run_options, load.inference),
     inference_words, 0},
    {"samples", 0, OPTION_INT, "S", "as in eval", offsetof(run_options, load.samples), NULL, 0},
    COMPUTE_OPTION(run_options, load.compute),
    THREADS_OPTION(run_options, load.threads),
    {.name = "Prompt", .kind = OPTION_HEADING},
    {"prompt", 'p', OPTION_TEXT, "TEXT",
     "text to go on with; without it, --file and --chat every line of standard input is one",
     offsetof(run_options, p.prompt), NULL, 0},
    {"file", 'f', OPTION_TEXT, "FILE", "the same from a file, all of it", offsetof(run_options, file), NULL, 0},
    {"chat", 0, OPTION_TEXT, "FILE",
     "a JSON list of messages ({role, content}) to answer, laid out by the model's chat template",
     offsetof(run_options, chat), NULL, 0},
    {"conversation", 0, OPTION_FLAG, NULL,
     "the text is a user's message, laid out by the model's chat template; lines of standard input are the messages of "
     "one conversation",
     offsetof(run_options, conversation), NULL, 0},
    {"system", 0, OPTION_TEXT, "TEXT", "with --conversation: a message of the role system before all others",
     offsetof(run_options, system), NULL, 0},
    {"parse_special", 0, OPTION_FLAG, NULL, "text like <|im_start|> in it becomes its token",
     offsetof(run_options, p.parse_special), NULL, 0},
    {.name = "Text", .kind = OPTION_HEADING},
    {"n_predict", 'n', OPTION_INT, "N", "most tokens; -1: until the context is full",
     offsetof(run_options, p.max_tokens), NULL, 0},
    {"ctx_size", 'c', OPTION_INT, "N", "most tokens of prompt and text; 0: as many as the model takes",
     offsetof(run_options, p.context), NULL, 0},
    {"batch_size", 'b', OPTION_INT, "N", "tokens of the prompt that are computed at once; does not change any result",
     offsetof(run_options, p.batch_size), NULL, 0},
    {"memory_gib", 0, OPTION_REAL, "X",
     "bound for the keys and values of the sequence; 0: half of the machine's memory",
     offsetof(run_options, p.memory_gib), NULL, 0},
    {.name = "Choice of the next token", .kind = OPTION_HEADING},
    {"repeat_penalty", 0, OPTION_REAL, "X",
     "first, the logits of the last tokens are divided by X, negative ones multiplied; 1: none",
     offsetof(run_options, p.repeat_penalty), NULL, 0},
    {"repeat_last_n", 0, OPTION_INT, "N", "those last tokens; -1: all", offsetof(run_options, p.repeat_last_n), NULL,
     0},
    {"top_k", 0, OPTION_INT, "K", "then the K most likely tokens stay; 0: all", offsetof(run_options, p.top_k), NULL,
     0},
    {"top_p", 0, OPTION_REAL, "P", "of these the fewest whose probabilities sum to P; 1: all",
     offsetof(run_options, p.top_p), NULL, 0},
    {"min_p", 0, OPTION_REAL, "P", "of these the ones with P times the first one's probability; 0: all",
     offsetof(run_options, p.min_p), NULL, 0},
    {"temp", 0, OPTION_REAL, "T", "temperature of the draw among them; 0: always the most likely token",
     offsetof(run_options, p.temperature), NULL, 0},
    {"seed", 0, OPTION_SEED, "N", "of every draw, the router's too", offsetof(run_options, p.seed), NULL, 0},
    {.name = "Output", .kind = OPTION_HEADING},
    {"uncertainty", 0, OPTION_FLAG, NULL,
     "a line of the signals' means after the text; on a terminal the text in colours by entropy: green below ln 2 nats "
     "(fewer than 2 likely tokens), red from ln 8 on",
     offsetof(run_options, uncertainty), NULL, 0},
    COMMON_OPTIONS,
    {.name = NULL},
};

static void defaults(void *target) {
    *(run_options *)target = (run_options){.load = vmoer_model_params_default(), .p = vmoer_generate_params_default()};
}

/* ---- what is printed of a token ---- */

typedef struct signal_name {
    const char *name;
    size_t offset; /* of a double in vmoer_token */
} signal_name;

#define SIGNAL(name) \
    { #name, offsetof(vmoer_token, name) }
static const signal_name signals[] = {
    SIGNAL(probability),  SIGNAL(entropy),        SIGNAL(expected_entropy),         SIGNAL(mutual_information),
    SIGNAL(gate_entropy), SIGNAL(logit_variance), SIGNAL(logit_variance_projected), SIGNAL(routing_temperature),
};
enum { SIGNALS = sizeof signals / sizeof *signals };

static double signal_of(const vmoer_token *t, int i) {
    double value;
    memcpy(&value, (const char *)t + signals[i].offset, sizeof value);
    return value;
}

typedef struct printer {
    output_format output;
    int uncertainty, terminal;
    FILE *reply;         /* gets the text too; NULL: nobody asks */
    double sum[SIGNALS]; /* NAN: the model has no such signal */
    int failed;
} printer;

static void print_json(json_t *line) {
    char *text = json_dumps(line, JSON_COMPACT | JSON_SORT_KEYS);
    if (text) puts(text);
    free(text);
    json_decref(line);
}

static void print_row(const printer *out, const vmoer_token *t) {
    json_t *text = json_stringn(t->text, t->text_length);
    if (out->output == OUTPUT_JSON) {
        json_t *line = json_pack("{s:i, s:i, s:o}", "id", t->id, "position", t->position, "text", text);
        for (int i = 0; i < SIGNALS; i++) {
            double value = signal_of(t, i);
            json_object_set_new(line, signals[i].name, isnan(value) ? json_null() : json_real(value));
        }
        print_json(line);
        return;
    }
    char *quoted = json_dumps(text, JSON_ENCODE_ANY);
    printf("%d,%d,\"", t->id, t->position);
    for (const char *c = quoted ? quoted : ""; *c; c++) fputs(*c == '"' ? "\"\"" : (char[]){*c, 0}, stdout);
    putchar('"');
    for (int i = 0; i < SIGNALS; i++) {
        double value = signal_of(t, i);
        printf(isnan(value) ? "," : ",%.17g", value);
    }
    putchar('\n');
    free(quoted);
    json_decref(text);
}

static void print_text(const printer *out, const vmoer_token *t) {
    int colours = out->terminal && out->uncertainty && t->text_length;
    if (colours) printf("\033[%sm", t->entropy < log(2) ? "32" : t->entropy < log(8) ? "33" : "31");
    for (size_t i = 0; i < t->text_length; i++) {
        unsigned char c = (unsigned char)t->text[i];
        int control = c < ' ' && c != '\n' && c != '\t';
        fputc(out->terminal && control ? '?' : c, stdout); /* a model's text must not steer a terminal */
    }
    if (colours) printf("\033[0m");
}

static int on_token(void *user, const vmoer_token *t) {
    printer *out = user;
    for (int i = 0; i < SIGNALS; i++) out->sum[i] += signal_of(t, i);
    if (out->reply) fwrite(t->text, 1, t->text_length, out->reply);
    if (out->output == OUTPUT_MD)
        print_text(out, t);
    else
        print_row(out, t);
    if (fflush(stdout)) out->failed = 1;
    return out->failed || session_stopped();
}

static void print_end(const printer *out, const vmoer_generated *g) {
    static const char *const stops[] = {"end", "length", "context", "asked"};
    if (out->output == OUTPUT_JSON)
        print_json(json_pack("{s:i, s:i, s:s}", "prompt_tokens", g->prompt_tokens, "tokens", g->tokens, "stop",
                             stops[g->stop]));
    if (out->output != OUTPUT_MD) return;
    putchar('\n');
    if (!out->uncertainty || g->tokens == 0) return;
    printf("mean of %d tokens:", g->tokens);
    for (int i = 0; i < SIGNALS; i++)
        if (!isnan(out->sum[i])) printf(" %s %.3g", signals[i].name, out->sum[i] / g->tokens);
    putchar('\n');
}

/* ---- */

static int on_progress(void *user, const char *stage, uint64_t done, uint64_t total, const char *note) {
    (void)user, (void)stage, (void)done, (void)total, (void)note;
    return session_stopped();
}

/* prompt or messages; reply: where the text goes, NULL: nobody asks. */
static int generate(vmoer_model *model, const run_options *o, const char *prompt, const char *messages, FILE *reply) {
    vmoer_generate_params p = o->p;
    vmoer_hooks hooks = session_hooks();
    vmoer_generated g;
    printer out = {
        .output = o->common.output, .uncertainty = o->uncertainty, .terminal = isatty(STDOUT_FILENO), .reply = reply};
    p.prompt = prompt;
    p.messages = messages;
    p.on_token = on_token;
    p.user = &out;
    hooks.progress = on_progress; /* a bar would stand in the text */
    int code = session_end(vmoer_generate(model, &p, &hooks, &g));
    if (code) return code;
    print_end(&out, &g);
    if (fflush(stdout) || out.failed) return session_fail(1, "standard output cannot be written");
    if (session_stopped()) return session_fail(1, "interrupted");
    if (!o->common.quiet)
        fprintf(stderr, "%d prompt tokens (%d kept) in %.2f s; %d tokens in %.2f s, %.3g a second\n", g.prompt_tokens,
                g.kept_tokens, g.prompt_seconds, g.tokens, g.seconds,
                g.tokens > 1 && g.seconds > 0 ? (g.tokens - 1) / g.seconds : 0);
    return 0;
}

/* One more message; 0, or the exit code. */
static int say(json_t *messages, const char *role, const char *text, size_t length) {
    json_t *content = json_stringn(text, length);
    if (!content) return session_fail(1, "the message is not UTF-8");
    return json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content", content))
               ? session_fail(1, "out of memory")
               : 0;
}

/* Says text to the model and answers it; the answer is a message too. */
static int converse(vmoer_model *model, const run_options *o, json_t *messages, const char *text) {
    char *reply = NULL;
    size_t length = 0;
    int code = say(messages, "user", text, strlen(text));
    if (code) return code;
    FILE *memory = open_memstream(&reply, &length);
    char *all = json_dumps(messages, 0);
    code = memory && all ? generate(model, o, NULL, all, memory) : session_fail(1, "out of memory");
    if (memory) fclose(memory);
    if (code == 0) code = say(messages, "assistant", reply, length);
    free(reply);
    free(all);
    return code;
}

static char *read_text(const char *path) {
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    size_t capacity = 0;
    ssize_t n = f ? getdelim(&text, &capacity, 0, f) : -1;
    int whole = f && n >= 0 && feof(f);
    if (f) fclose(f);
    if (whole) return text;
    free(text);
    session_fail(1, f && n >= 0 ? "%s: the text has a NUL" : "%s: cannot be read, or is empty", path);
    return NULL;
}

/* A text of its own, or with messages the next one of the conversation. */
static int answer(vmoer_model *model, const run_options *o, json_t *messages, const char *text) {
    return messages ? converse(model, o, messages, text) : generate(model, o, text, NULL, NULL);
}

static int answer_lines(vmoer_model *model, const run_options *o, json_t *messages) {
    int code = 0, terminal = isatty(STDIN_FILENO);
    char *line = NULL;
    size_t capacity = 0;
    for (;;) {
        if (terminal) fputs("> ", stderr);
        ssize_t n = getline(&line, &capacity, stdin);
        if (n < 0) break;
        if (n && line[n - 1] == '\n') line[n - 1] = 0;
        if (*line && (code = answer(model, o, messages, line))) break;
    }
    free(line);
    return code;
}

static int run_model(vmoer_model *model, const run_options *o, const char *text) {
    if (o->common.output == OUTPUT_CSV) {
        printf("id,position,text");
        for (int i = 0; i < SIGNALS; i++) printf(",%s", signals[i].name);
        putchar('\n');
    }
    if (o->chat) return generate(model, o, NULL, text, NULL);
    json_t *messages = o->conversation ? json_array() : NULL;
    int code = o->system ? say(messages, "system", o->system, strlen(o->system)) : 0;
    if (code == 0) code = text ? answer(model, o, messages, text) : answer_lines(model, o, messages);
    json_decref(messages);
    return code;
}

static int run(const void *given, char **operands, int n_operands) {
    const run_options *o = given;
    (void)operands, (void)n_operands;
    vmoer_model_params load = o->load;
    vmoer_model *model;
    char *text = NULL;
    session_begin("run", o->common.quiet);
    if (!!o->p.prompt + !!o->file + !!o->chat > 1) return session_fail(2, "one of --prompt, --file and --chat");
    if (o->chat && o->conversation) return session_fail(2, "--chat is a conversation; it goes without --conversation");
    if (o->system && !o->conversation) return session_fail(2, "--system goes with --conversation");
    if (o->p.parse_special && (o->chat || o->conversation))
        return session_fail(2, "--parse_special is for plain text: in a message nothing is a special token");
    if ((o->file || o->chat) && !(text = read_text(o->file ? o->file : o->chat))) return 1;
    load.seed = o->p.seed;
    int code = session_end(vmoer_model_load(o->model, &load, &model));
    if (code == 0) {
        code = run_model(model, o, text ? text : o->p.prompt);
        vmoer_model_free(model);
    }
    free(text);
    return code;
}

const verb verb_run = {
    .name = "run",
    .summary = "text from a model, token by token, and what it and its router say of each",
    .description =
        "Goes on with a text, or answers a conversation. Standard output is the new text; with -o json (or csv) a line "
        "a "
        "token, with its id, position, text, probability, entropy and the router's signals (docs/FORMATS.md), and a "
        "last "
        "line that says why it stopped. One seed gives one text, whatever --threads and --batch_size are. In a "
        "conversation special tokens come from the model's template alone: what looks like one in a message is plain "
        "text.",
    .options = options,
    .size = sizeof(run_options),
    .defaults = defaults,
    .run = run,
};
