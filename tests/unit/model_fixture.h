/* model_fixture.h: what the tests of models share: the tiny models of tests/golden (docs/ORACLES.md), their golden tensors, and batches of
 * their sequences and of their question. Failures end the test. */
#ifndef VM_TESTS_MODEL_FIXTURE_H
#define VM_TESTS_MODEL_FIXTURE_H

#include "base/rng.h"
#include "base/status.h"
#include "io/safetensors.h"
#include "model/questions.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define OK(expr)                                                        \
    do {                                                                \
        if ((expr) != VMOER_OK) fail_msg("%s: %s", #expr, vm_error_text()); \
    } while (0)

/* That two models have the same hyper-parameters, whatever they are called. */
static inline void same_config(const vm_gguf *a, const vm_gguf *b) {
    vm_config x, y;
    OK(vm_config_read(a, &x));
    OK(vm_config_read(b, &y));
    memset(x.name, 0, sizeof x.name);
    memset(y.name, 0, sizeof y.name);
    assert_memory_equal(&x, &y, sizeof x);
}

/* tests/golden/<name>; the text lives until the next but three calls. */
static inline const char *golden_path(const char *name) {
    static char paths[4][4096];
    static int turn;
    const char *root = getenv("VMOER_TESTS");
    char *path = paths[turn++ & 3];
    snprintf(path, sizeof paths[0], "%s/golden/%s", root ? root : VMOER_TESTS_DIR, name);
    return path;
}

/* A name for a file of this test's own; the text lives until the next but three calls. */
static inline const char *scratch_path(const char *name) {
    static char paths[4][4096];
    static int turn;
    const char *base = getenv("TMPDIR");
    char *path = paths[turn++ & 3];
    snprintf(path, sizeof paths[0], "%s/vmoer-%d-%s", base ? base : "/tmp", (int)getpid(), name);
    return path;
}

static inline vm_model *load_model(const char *name, vm_model_options options) {
    char file[256];
    vm_model *m;
    snprintf(file, sizeof file, "%s.gguf", name);
    OK(vm_model_load(golden_path(file), &options, NULL, &m));
    return m;
}

/* Moves every parameter by so much noise: a router that says something. */
static inline void stir_router(vm_router *r, float noise, vm_rng *rng) {
    vm_param_list list = vm_router_params(r);
    for (size_t i = 0; i < list.count; i++)
        for (size_t k = 0; k < vm_param_size(list.items[i]); k++) list.items[i]->value[k] += noise * vm_rng_normal(rng);
}

static const char *const tiny_models[] = {"tiny-llama",       "tiny-qwen2",        "tiny-granite", "tiny-qwen3moe", "tiny-olmoe", "tiny-moe",
                                          "tiny-moe-neutral", "tiny-moe-noshared", "tiny-mistral", "tiny-mixtral", "tiny-deepseek", "tiny-qwen2moe",
                                          "tiny-gpt-oss", "tiny-gpt-oss-mxfp4"};
enum { TINY_MODELS = sizeof tiny_models / sizeof *tiny_models };

/* ---- golden tensors ---- */

static inline vm_safetensors *golden_open(const char *name) {
    char file[256];
    vm_safetensors *st;
    snprintf(file, sizeof file, "%s.safetensors", name);
    OK(vm_safetensors_open(golden_path(file), &st));
    return st;
}

static inline const void *golden_data(const vm_safetensors *st, const char *name, const char *dtype, size_t count) {
    const vm_st_tensor *t = vm_safetensors_find(st, name);
    if (!t || strcmp(t->dtype, dtype) != 0 || (count && t->size != 4 * count)) fail_msg("golden %s: missing, or not %zu of %s", name, count, dtype);
    return t->data;
}

/* count 0: any */
static inline const float *golden_f32(const vm_safetensors *st, const char *name, size_t count) { return golden_data(st, name, "F32", count); }
static inline const int32_t *golden_i32(const vm_safetensors *st, const char *name, size_t count) { return golden_data(st, name, "I32", count); }

static inline double largest_difference(const float *a, const float *b, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= largest)) largest = d; /* NaN stays */
    }
    return largest;
}

/* |a - b| / |b|, Euclidean. */
static inline double relative_difference(const float *a, const float *b, size_t n) {
    double d = 0, s = 0;
    for (size_t i = 0; i < n; i++) d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]), s += (double)b[i] * (double)b[i];
    return s > 0 ? sqrt(d / s) : sqrt(d);
}

/* ---- batches ---- */

enum { MAX_TOKENS = 160, MAX_SEQUENCES = 8 };

/* Sequences one after the other, every position asked. */
typedef struct sequences {
    int32_t ids[MAX_TOKENS], positions[MAX_TOKENS], rows[MAX_TOKENS];
    vm_token_key keys[MAX_TOKENS];
    vm_segment segments[MAX_SEQUENCES];
    vm_batch batch;
} sequences;

/* Sequences [first, first + n) of the golden ones. The batch points into s. */
static inline void golden_sequences(const vm_safetensors *st, int first, int n, sequences *s) {
    const int32_t *ids = golden_i32(st, "ids", 0), *offsets = golden_i32(st, "offsets", 0);
    memset(s, 0, sizeof *s);
    s->batch = (vm_batch){.ids = s->ids, .positions = s->positions, .keys = s->keys, .segments = s->segments, .rows = s->rows};
    for (int i = first; i < first + n; i++) {
        s->segments[s->batch.n_segments++] = (vm_segment){s->batch.n_tokens, offsets[i + 1] - offsets[i], -1};
        for (int t = offsets[i]; t < offsets[i + 1]; t++) {
            int at = s->batch.n_tokens++;
            assert_true(at < MAX_TOKENS);
            s->ids[at] = ids[t];
            s->positions[at] = t - offsets[i];
            s->keys[at] = (vm_token_key){(uint32_t)i, 0, (uint16_t)(t - offsets[i])};
            s->rows[at] = at;
        }
    }
    s->batch.n_rows = s->batch.n_tokens;
}

/* The golden question: a prefix with three continuations. Free with vm_free(prompt.ids). */
static inline vm_prompt golden_prompt(const vm_safetensors *st) {
    enum { CHOICES = 3 };
    size_t n_prefix = vm_safetensors_find(st, "prefix")->size / 4, n_choices = vm_safetensors_find(st, "choices")->size / 4;
    const int32_t *offsets = golden_i32(st, "choice_offsets", CHOICES + 1);
    vm_prompt p = {.n_context = (int)n_prefix, .n_choices = CHOICES};
    p.ids = vm_malloc(n_prefix + n_choices, sizeof *p.ids);
    memcpy(p.ids, golden_i32(st, "prefix", 0), n_prefix * sizeof *p.ids);
    memcpy(p.ids + n_prefix, golden_i32(st, "choices", 0), n_choices * sizeof *p.ids);
    for (int c = 0; c <= CHOICES; c++) p.start[c] = (int)n_prefix + offsets[c];
    return p;
}

/* Random tokens: a context of 3 + 9 q and choices of 1, 2 + q and 5 + `growth` q. Free with vm_free(prompt.ids). */
static inline vm_prompt random_prompt(vm_rng *rng, int vocab, int q, int growth) {
    int lengths[4] = {3 + 9 * q, 1, 2 + q, 5 + growth * q}, n = 0;
    vm_prompt p = {.n_context = lengths[0], .n_choices = 3, .ids = vm_malloc(128, sizeof *p.ids)};
    for (int i = 0; i < 4; i++) {
        if (i) p.start[i - 1] = n;
        for (int k = 0; k < lengths[i]; k++) p.ids[n++] = (int32_t)vm_rng_below(rng, (uint32_t)vocab);
    }
    p.start[3] = n;
    return p;
}

/* A pass over questions: scores and cross-entropy of the right choice, and d_log_probability for the way back. */
typedef struct question_run {
    vm_questions q;
    float *log_probability, *d_log_probability;
    double score[MAX_SEQUENCES * VM_MAX_CHOICES], loss;
} question_run;

/* The mean cross-entropy over the questions of q after a forward pass. right[n]. */
static inline void question_loss(question_run *r, const int *right) {
    double d_score[MAX_SEQUENCES * VM_MAX_CHOICES], p[VM_MAX_CHOICES];
    vm_questions_score(&r->q, r->log_probability, r->score);
    r->loss = 0;
    for (int i = 0; i < r->q.n; i++) {
        int first = r->q.first_choice[i], k = r->q.first_choice[i + 1] - first;
        vm_choice_softmax(r->score + first, k, 1.0, p);
        r->loss -= log(p[right[i]]) / r->q.n;
        for (int c = 0; c < k; c++) d_score[first + c] = (p[c] - (c == right[i])) / r->q.n;
    }
    vm_questions_score_backward(&r->q, d_score, r->d_log_probability);
}

/* The golden question alone, as `item`, in the arena. */
static inline question_run golden_question(vm_arena *arena, const vm_prompt *prompt, uint32_t item) {
    question_run r = {.loss = 0};
    vm_question question = {prompt, item};
    OK(vm_questions_build(arena, &question, 1, VM_FORMAT_CLOZE, &r.q));
    r.log_probability = vm_arena_alloc(arena, (size_t)r.q.batch.n_targets, sizeof(float));
    r.d_log_probability = vm_arena_alloc(arena, (size_t)r.q.batch.n_targets, sizeof(float));
    return r;
}

#endif
