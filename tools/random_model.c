/* random_model.c: a GGUF of Granite-3.0-3B-A800M's shape with random bf16 weights, for speed where the real one is not
 * at hand: time does not depend on what the numbers are, as long as the experts get their shares. A developers'
 * program, not installed. random_model TOKENIZER.gguf OUT.gguf [LAYERS [SEED]]: 32 layers are 6.6 GB, seed 0; the
 * tokenizer is any GGUF's of byte-level BPE. Tensors are windows into one block of numbers, so that memory stays small.
 */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "io/gguf.h"

#include <stdio.h>
#include <stdlib.h>

enum { DIM = 1536, HEADS = 24, KV_HEADS = 8, HEAD = 64, EXPERTS = 40, TOP_K = 8, WIDTH = 512, VOCABULARY = 49155 };
enum { BLOCK = VOCABULARY * DIM, SLACK = 1 << 20 }; /* the largest tensor, and by how much windows differ */

typedef struct maker {
    vm_gguf_writer *w;
    uint16_t *block; /* [BLOCK + SLACK] bf16, N(0, .02^2) */
    float *router;   /* [EXPERTS * DIM + SLACK] f32, the same */
    float ones[DIM];
    vm_rng rng;
} maker;

static vmoer_status fill(maker *m, uint64_t seed) {
    m->block = vm_malloc(BLOCK + SLACK, sizeof *m->block);
    m->router = vm_malloc(EXPERTS * DIM + SLACK, sizeof *m->router);
    if (!m->block || !m->router) return vm_error(VMOER_ERROR_MEMORY, "no memory");
    for (uint32_t i = 0; i < BLOCK + SLACK; i += 4) {
        const uint32_t counter[4] = {i, 0, 0, 0};
        float normal[4];
        vm_rng_normal4(seed, VM_RNG_INIT, counter, normal);
        for (uint32_t k = 0; k < 4 && i + k < BLOCK + SLACK; k++) {
            float value = 0.02f * normal[k];
            m->block[i + k] = vm_f32_to_bf16(value);
            if (i + k < EXPERTS * DIM + SLACK) m->router[i + k] = value;
        }
    }
    for (int i = 0; i < DIM; i++) m->ones[i] = 1;
    m->rng = vm_rng_start(seed, VM_RNG_SHUFFLE, 0);
    return VMOER_OK;
}

static vmoer_status tensor(maker *m, int layer, const char *name, int n_dims, int64_t in, int64_t out,
                           int64_t experts) {
    char full[64];
    if (layer >= 0)
        snprintf(full, sizeof full, "blk.%d.%s.weight", layer, name);
    else
        snprintf(full, sizeof full, "%s.weight", name);
    const int64_t ne[3] = {in, out, experts};
    const void *data = m->block + vm_rng_below(&m->rng, SLACK);
    if (n_dims == 1) data = m->ones;
    bool router = out == EXPERTS && n_dims == 2;
    if (router) data = m->router + vm_rng_below(&m->rng, SLACK);
    return vm_gguf_writer_tensor(m->w, full, n_dims == 1 || router ? VM_F32 : VM_BF16, n_dims, ne, data);
}

static vmoer_status add_layer(maker *m, int l) {
    VM_TRY(tensor(m, l, "attn_norm", 1, DIM, 1, 1));
    VM_TRY(tensor(m, l, "attn_q", 2, DIM, HEADS * HEAD, 1));
    VM_TRY(tensor(m, l, "attn_k", 2, DIM, KV_HEADS * HEAD, 1));
    VM_TRY(tensor(m, l, "attn_v", 2, DIM, KV_HEADS * HEAD, 1));
    VM_TRY(tensor(m, l, "attn_output", 2, HEADS * HEAD, DIM, 1));
    VM_TRY(tensor(m, l, "ffn_norm", 1, DIM, 1, 1));
    VM_TRY(tensor(m, l, "ffn_gate_inp", 2, DIM, EXPERTS, 1));
    VM_TRY(tensor(m, l, "ffn_gate_exps", 3, DIM, WIDTH, EXPERTS));
    VM_TRY(tensor(m, l, "ffn_up_exps", 3, DIM, WIDTH, EXPERTS));
    return tensor(m, l, "ffn_down_exps", 3, WIDTH, DIM, EXPERTS);
}

static vmoer_status add_keys(maker *m, const vm_gguf *tokenizer, uint32_t layers) {
    const struct {
        const char *key;
        uint32_t value;
    } sizes[] = {{"block_count", layers},        {"context_length", 4096},        {"embedding_length", DIM},
                 {"feed_forward_length", WIDTH}, {"attention.head_count", HEADS}, {"attention.head_count_kv", KV_HEADS},
                 {"expert_count", EXPERTS},      {"expert_used_count", TOP_K},    {"rope.dimension_count", HEAD},
                 {"vocab_size", VOCABULARY}};
    const struct {
        const char *key;
        float value;
    } scales[] = {{"attention.layer_norm_rms_epsilon", 1e-6f},
                  {"rope.freq_base", 10000.0f},
                  {"embedding_scale", 12.0f},
                  {"residual_scale", 0.22f},
                  {"attention.scale", 0.015625f},
                  {"logit_scale", 6.0f}};
    char key[64];
    VM_TRY(vm_gguf_writer_string(m->w, "general.architecture", "granitemoe"));
    VM_TRY(vm_gguf_writer_string(m->w, "general.name", "random 3B-A800M"));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(key, sizeof key, "granitemoe.%s", sizes[i].key);
        VM_TRY(vm_gguf_writer_u32(m->w, key, sizes[i].value));
    }
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        snprintf(key, sizeof key, "granitemoe.%s", scales[i].key);
        VM_TRY(vm_gguf_writer_f32(m->w, key, scales[i].value));
    }
    return vm_gguf_writer_copy_keys(m->w, tokenizer, "tokenizer.");
}

static vmoer_status make(maker *m, const vm_gguf *tokenizer, const char *path, int layers, uint64_t seed) {
    m->w = vm_gguf_writer_create();
    if (!m->w) return vm_error(VMOER_ERROR_MEMORY, "no memory");
    VM_TRY(fill(m, seed));
    VM_TRY(add_keys(m, tokenizer, (uint32_t)layers));
    VM_TRY(tensor(m, -1, "token_embd", 2, DIM, VOCABULARY, 1));
    for (int l = 0; l < layers; l++) VM_TRY(add_layer(m, l));
    VM_TRY(tensor(m, -1, "output_norm", 1, DIM, 1, 1));
    return vm_gguf_writer_save(m->w, path);
}

int main(int argc, char **argv) {
    static maker m;
    vm_gguf *tokenizer = NULL;
    int layers = argc > 3 ? atoi(argv[3]) : 32;
    if (argc < 3 || argc > 5 || layers < 1 || layers > 512)
        return fprintf(stderr, "usage: random_model TOKENIZER.gguf OUT.gguf [LAYERS [SEED]]\n"), 2;
    vmoer_status status = vm_gguf_open(argv[1], &tokenizer);
    if (status == VMOER_OK) status = make(&m, tokenizer, argv[2], layers, argc > 4 ? strtoull(argv[4], NULL, 10) : 0);
    if (status != VMOER_OK) fprintf(stderr, "random_model: %s\n", vm_error_text());
    vm_gguf_writer_free(m.w);
    vm_gguf_free(tokenizer);
    vm_free(m.block);
    vm_free(m.router);
    return status != VMOER_OK;
}
