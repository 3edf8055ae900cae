/* models_table.c: what of the library works on which architecture, with the measured errors: the table of
 * docs/MODELS.md. For every tiny model of tests/golden a row a format; a cell that misses its bound ends the program
 * with 1. And what is not read, and why.
 *
 *     models_table TASK_DIR WORK_DIR     (tests/models.sh; TASK_DIR as made by tests/cli/make_task.sh)
 *
 * The models have random weights, f32, and transformers (DeepSeek: tools/oracle/deepseek.py) says what they compute. */
#include "model_fixture.h"

#include "base/json.h"
#include "infer/generate.h"
#include "vmoer/vmoer.h"

enum { VOCAB = 272, ANSWER = 16, NEW_TOKENS = 12 };

static const char *task_dir, *work_dir;
static int missed;

/* One cell: an error and what it may be. */
static void cell(double error, double bound) {
    bool good = error <= bound;
    missed += !good;
    if (error == 0)
        printf(" 0 |");
    else
        printf(good ? " %.0e |" : " **%.0e** |", error);
}

static const char *work_path(const char *name) {
    static char paths[4][4096];
    static int turn;
    char *path = paths[turn++ & 3];
    snprintf(path, sizeof paths[0], "%s/%s", work_dir, name);
    return path;
}

/* ---- what the model computes ---- */

static vm_model *open_model(const char *path) {
    vm_model *m;
    OK(vm_model_load(path, &(vm_model_options){.backward_from = -1}, NULL, &m));
    return m;
}

/* Relative error of all logits of the golden sequences. */
static double logits_error(const char *path, const vm_safetensors *st) {
    static float logits[MAX_TOKENS * VOCAB];
    vm_model *m = open_model(path);
    vm_pass *pass;
    sequences s;
    vm_pass_options options = {.sign = 1};
    int n = (int)(vm_safetensors_find(st, "offsets")->size / 4) - 1;
    OK(vm_pass_create(m, NULL, &pass));
    golden_sequences(st, 0, n, &s);
    OK(vm_pass_forward(pass, &s.batch, &options, NULL, NULL, logits));
    double error = relative_difference(logits, golden_f32(st, "logits", 0), (size_t)s.batch.n_tokens * VOCAB);
    vm_pass_free(pass);
    vm_model_free(m);
    return error;
}

/* Share of the chosen experts, over all tokens and layers, that are others than the golden ones. */
static double choice_error(const char *path, const vm_safetensors *st) {
    vm_model *m = open_model(path);
    vm_pass *pass;
    sequences s;
    vm_pass_options options = {.sign = 1, .facts = true};
    int n = (int)(vm_safetensors_find(st, "offsets")->size / 4) - 1, other = 0, all = 0;
    OK(vm_pass_create(m, NULL, &pass));
    golden_sequences(st, 0, n, &s);
    OK(vm_pass_forward(pass, &s.batch, &options, NULL, NULL, NULL));
    vm_facts facts = vm_pass_facts(pass);
    size_t count = (size_t)s.batch.n_tokens * (size_t)m->config.top_k;
    for (int layer = 0; layer < m->config.n_layers; layer++) {
        char key[64];
        snprintf(key, sizeof key, "selected.%d", layer);
        if (!vm_safetensors_find(st, key)) continue; /* a dense layer */
        const int32_t *selected = golden_i32(st, key, count);
        for (size_t i = 0; i < count; i++, all++) other += facts.chosen[(size_t)layer * count + i] != selected[i];
    }
    vm_pass_free(pass);
    vm_model_free(m);
    return all ? (double)other / all : 1;
}

/* Of the longest golden sequence, token by token over a cache: the logits that have other bits than in one pass. */
static double steps_error(const char *path, const vm_safetensors *st) {
    static float whole[MAX_TOKENS * VOCAB], step[VOCAB];
    const int32_t *offsets = golden_i32(st, "offsets", 0);
    int n = (int)(vm_safetensors_find(st, "offsets")->size / 4) - 1, longest = 0;
    for (int i = 1; i < n; i++)
        if (offsets[i + 1] - offsets[i] > offsets[longest + 1] - offsets[longest]) longest = i;
    vm_model *m = open_model(path);
    const vm_config *c = &m->config;
    vm_arena *arena = vm_arena_create();
    vm_kv_cache *cache;
    vm_pass *pass;
    sequences s;
    size_t different = 0;
    vm_pass_options options = {.sign = 1};
    OK(vm_pass_create(m, NULL, &pass));
    golden_sequences(st, longest, 1, &s);
    OK(vm_pass_forward(pass, &s.batch, &options, NULL, NULL, whole));
    OK(vm_kv_cache_create(c->n_layers, c->n_kv_heads, c->head_dim, c->context, 0, &cache));
    for (int t = 0; t < s.batch.n_tokens; t++) {
        vm_batch b;
        OK(vm_sequence_build(arena, s.ids + t, 1, t, &b));
        b.cache = cache;
        OK(vm_pass_forward(pass, &b, &options, NULL, NULL, step));
        for (int v = 0; v < VOCAB; v++) different += memcmp(&step[v], &whole[t * VOCAB + v], sizeof *step) != 0;
    }
    double error = (double)different / (s.batch.n_tokens * VOCAB);
    vm_kv_cache_free(cache);
    vm_arena_free(arena);
    vm_pass_free(pass);
    vm_model_free(m);
    return error;
}

/* ---- tokens and text ---- */

/* What Hugging Face's tokenizers make of the sentence with the tiny models' vocabulary and merges
 * (tools/oracle/hf_to_gguf.py). */
static const char sentence[] = "Question: the ring\n";
static const int32_t sentence_ids[] = {51, 87, 269, 86, 75, 265, 28, 261, 223, 84, 270, 201};

static double tokens_error(const char *path) {
    char *text;
    size_t n = sizeof sentence_ids / sizeof *sentence_ids, i;
    json_t *root, *id;
    OK(vmoer_tokenize(path, sentence, sizeof sentence - 1, 0, &text));
    OK(vm_json_parse(text, strlen(text), "tokens", &root));
    const json_t *ids = json_object_get(root, "ids");
    size_t same = 0, most = json_array_size(ids) > n ? json_array_size(ids) : n;
    json_array_foreach(ids, i, id) same += i < n && json_integer_value(id) == sentence_ids[i];
    json_decref(root);
    vmoer_free(text);
    return 1 - (double)same / (double)most;
}

typedef struct text_ids {
    int32_t ids[NEW_TOKENS];
    int n;
} text_ids;

static int take_token(void *user, const vmoer_token *token) {
    text_ids *t = user;
    t->ids[t->n++] = token->id;
    return 0;
}

/* Share of the tokens of a greedy text that are not the most likely ones of the whole sequence in one pass. */
static double generate_error(const char *path) {
    static float logits[VOCAB];
    vmoer_model_params load = vmoer_model_params_default();
    vmoer_generate_params p = vmoer_generate_params_default();
    vmoer_model *model;
    text_ids text = {.n = 0};
    int32_t ids[64];
    size_t n = sizeof sentence_ids / sizeof *sentence_ids;
    load.compute = VMOER_COMPUTE_F32;
    p.prompt = sentence;
    p.max_tokens = NEW_TOKENS;
    p.temperature = 0;
    p.repeat_penalty = 1;
    p.on_token = take_token;
    p.user = &text;
    OK(vmoer_model_load(path, &load, &model));
    OK(vmoer_generate(model, &p, NULL, NULL));
    vmoer_model_free(model);
    vm_model *m = open_model(path);
    vm_arena *arena = vm_arena_create();
    vm_pass *pass;
    vm_pass_options options = {.sign = 1};
    int other = 0;
    OK(vm_pass_create(m, NULL, &pass));
    memcpy(ids, sentence_ids, sizeof sentence_ids);
    for (int i = 0; i < text.n; i++) {
        vm_batch b;
        int best = 0;
        OK(vm_sequence_build(arena, ids, (int)n, 0, &b));
        OK(vm_pass_forward(pass, &b, &options, NULL, NULL, logits));
        for (int v = 1; v < VOCAB; v++)
            if (logits[v] > logits[best]) best = v;
        other += best != text.ids[i];
        ids[n++] = text.ids[i];
    }
    vm_arena_free(arena);
    vm_pass_free(pass);
    vm_model_free(m);
    return text.n ? (double)other / text.n : 1;
}

/* ---- training: what a look at the held-out part saw at the end, and what the file that was written answers there ----
 */

static double nll_of(const char *json, bool training) {
    json_t *root, *look = NULL, *row;
    size_t i;
    OK(vm_json_parse(json, strlen(json), "results", &root));
    json_array_foreach(json_object_get(root, "history"), i, row) {
        if (json_object_get(row, "heldout")) look = json_object_get(row, "heldout");
    }
    if (!training) look = json_object_get(json_object_get(root, "results"), "openbookqa");
    double nll = json_number_value(json_object_get(look, "nll"));
    json_decref(root);
    return nll;
}

static double heldout_nll(const char *path, const char *adapter, const char *router) {
    vmoer_eval_params p = vmoer_eval_params_default();
    char *json;
    p.model = path;
    p.load.adapter = adapter;
    p.load.router = router;
    p.load.compute = VMOER_COMPUTE_F32;
    p.load.threads = 1;
    p.questions = (vmoer_questions){.data_dir = task_dir, .tasks = "openbookqa", .split = VMOER_SPLIT_HELDOUT};
    p.output_path = work_path("answers");
    p.bootstrap = 1;
    OK(vmoer_eval(&p, NULL, &json));
    double nll = nll_of(json, false);
    vmoer_free(json);
    return nll;
}

static void set_training(vmoer_train_params *p, const char *path, const char *output) {
    p->model = path;
    p->questions = (vmoer_questions){.data_dir = task_dir, .tasks = "openbookqa"};
    p->output_path = output;
    p->steps = 3;
    p->batch_size = 4;
    p->compute = VMOER_COMPUTE_F32;
    p->threads = 1;
}

static void clear(const char *folder) {
    char command[4200];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0) fail_msg("%s", command);
}

static double finetune_error(const char *path) {
    vmoer_finetune_params p = vmoer_finetune_params_default();
    const char *output = work_path("adapter");
    char *json;
    set_training(&p.train, path, output);
    OK(vmoer_finetune(&p, NULL, &json));
    double trained = nll_of(json, true), error = fabs(heldout_nll(path, output, NULL) / trained - 1);
    vmoer_free(json);
    clear(output);
    clear(work_path("answers"));
    return error;
}

static double calibrate_error(const char *path) {
    vmoer_calibrate_params p = vmoer_calibrate_params_default();
    const char *output = work_path("router");
    char *json, router[4200];
    set_training(&p.train, path, output);
    p.router = "vglr-fc";
    p.layers = "all";
    p.initial_scale = .5;
    OK(vmoer_calibrate(&p, NULL, &json));
    snprintf(router, sizeof router, "%s/router.safetensors", output);
    double trained = nll_of(json, true), error = fabs(heldout_nll(path, NULL, router) / trained - 1);
    vmoer_free(json);
    clear(output);
    clear(work_path("answers"));
    return error;
}

/* ---- rows ---- */

static const char *quantized(const char *path) {
    vmoer_quantize_params p = vmoer_quantize_params_default();
    p.model = path;
    p.output_path = work_path("q8_0.gguf");
    p.threads = 1;
    OK(vmoer_quantize(&p, NULL, NULL));
    return p.output_path;
}

static void row(const char *name, const char *format, const char *path, const vm_safetensors *st) {
    vm_model *m = open_model(path);
    bool moe = m->config.n_experts > 0;
    printf("| %s | %s | %s |", name, m->config.arch->name, format);
    vm_model_free(m);
    cell(logits_error(path, st), 1e-4);
    if (moe)
        cell(choice_error(path, st), 0);
    else
        printf(" |");
    cell(steps_error(path, st), 0);
    cell(tokens_error(path), 0);
    cell(generate_error(path), 0);
    cell(finetune_error(path), 1e-3); /* the adapter's file is f16 or f32, as finetune writes it */
    if (moe)
        cell(calibrate_error(path), 1e-6);
    else
        printf(" |");
    const char *q8 = quantized(path);
    cell(logits_error(q8, st), .1); /* weights are off by .005; an expert that is chosen instead moves a logit more */
    if (moe)
        cell(calibrate_error(q8), 1e-6);
    else
        printf(" |");
    putchar('\n');
    fflush(stdout);
}

/* ---- what is not read ---- */

/* As vmoer_info says it of a file of the architecture. */
static void unread_row(const char *name) {
    const char *path = work_path("unread.gguf");
    vm_gguf *g;
    vm_gguf_writer *w = vm_gguf_writer_create();
    char *text;
    json_t *root;
    OK(vm_gguf_open(golden_path("tiny-llama.gguf"), &g));
    OK(vm_gguf_writer_copy_keys(w, g, ""));
    OK(vm_gguf_writer_string(w, "general.architecture", name));
    OK(vm_gguf_writer_save(w, path));
    OK(vmoer_info(path, &text));
    OK(vm_json_parse(text, strlen(text), "info", &root));
    const char *why = json_string_value(json_array_get(json_object_get(root, "missing"), 0)), *has;
    if (!why || !(has = strstr(why, "it has "))) fail_msg("%s: \"%s\"", name, why ? why : "");
    has += strlen("it has ");
    printf("| %s | %.*s |\n", name, (int)strcspn(has, ";"), has);
    json_decref(root);
    vmoer_free(text);
    vm_gguf_writer_free(w);
    vm_gguf_free(g);
}

static void unread(void **state) {
    (void)state;
    static const char *const names[] = {"phimoe",      "phi3",          "deepseek2",  "llama4",         "grok",
                                        "gemma2",      "dbrx",          "arctic",     "glm4moe",        "dots1",
                                        "bailingmoe2", "ernie4_5-moe",  "minimax-m2", "hunyuan-moe",    "smallthinker",
                                        "qwen3next",   "granitehybrid", "jamba",      "nemotron_h_moe", "lfm2moe"};
    printf("| not read | what it has |\n|---|---|\n");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unread_row(names[i]);
}

static void measure(void **state) {
    (void)state;
    printf("| model | architecture | format | logits | experts | token by token | tokens | generate | finetune | "
           "calibrate | q8_0: logits | q8_0: calibrate |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < TINY_MODELS; i++) {
        char file[64];
        vm_safetensors *st = golden_open(tiny_models[i]);
        snprintf(file, sizeof file, "%s.gguf", tiny_models[i]);
        row(tiny_models[i], "GGUF", golden_path(file), st);
        snprintf(file, sizeof file, "%s-folder", tiny_models[i]);
        if (access(golden_path(file), F_OK) == 0) row(tiny_models[i], "folder", golden_path(file), st);
        vm_safetensors_free(st);
    }
    assert_int_equal(missed, 0);
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: models_table TASK_DIR WORK_DIR\n"), 2;
    task_dir = argv[1];
    work_dir = argv[2];
    const struct CMUnitTest tests[] = {cmocka_unit_test(measure), cmocka_unit_test(unread)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
