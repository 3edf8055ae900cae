/* recipe.c: see recipe.h. */
#include "train/recipe.h"

#include "base/status.h"
#include "base/utf8.h"
#include "io/safetensors.h"
#include "io/tokenizer.h"
#include "train/export.h"
#include "train/lora.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void vm_recipe_free(vm_recipe *r) {
    if (!r) return;
    for (int l = 0; r->layers && l < r->n_layers; l++) {
        vm_free(r->layers[l].order);
        vm_free(r->layers[l].router);
    }
    vm_adapter_free(r->recovery);
    vm_free(r->layers);
    vm_free(r);
}

static vmoer_status allocate(vm_recipe *r) {
    bool ok = (r->layers = vm_calloc((size_t)r->n_layers, sizeof *r->layers)) != NULL;
    for (int l = 0; ok && l < r->n_layers; l++) {
        vm_recipe_layer *layer = &r->layers[l];
        layer->order = vm_calloc((size_t)r->width, sizeof *layer->order);
        layer->router = vm_calloc((size_t)r->experts * (size_t)r->dim, sizeof *layer->router);
        ok = layer->order && layer->router;
    }
    return ok ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for a recipe of %d layers", r->n_layers);
}

static vmoer_status check_shape(const vm_recipe *r) {
    if (r->n_layers < 1 || r->n_layers > 512 || r->dim < 1 || r->dim > 65536 || r->width < 1 || r->width > (1 << 20))
        return vm_error(VMOER_ERROR_FORMAT, "recipe: %d layers, dimension %d, width %d", r->n_layers, r->dim, r->width);
    if (r->experts < 2 || r->experts > 1024 || r->expert_width < 1 || r->top_k < 1 || r->top_k > r->experts ||
        r->expert_width > r->width / r->experts)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "%d routed experts of %d neurons, top %d, do not fit a feed-forward width of %d", r->experts,
                        r->expert_width, r->top_k, r->width);
    return VMOER_OK;
}

/* The split model is a granitemoe file, which says nothing of what a Llama does not have. */
static vmoer_status check_dense(const vm_config *c) {
    if (c->n_experts) return vm_error(VMOER_ERROR_ARGUMENT, "%s is a Mixture-of-Experts already", c->name);
    if (strcmp(c->arch->name, "llama") != 0)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s has the architecture %s; only a llama can be split", c->name,
                        c->arch->name);
    if (c->window)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s has a sliding window, which the split model cannot say", c->name);
    if ((c->rope.scaling != VM_ROPE_NONE && c->rope.factor != 1) || c->rope.attention != 1)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s has scaled RoPE, which the split model cannot say", c->name);
    return VMOER_OK;
}

vmoer_status vm_recipe_create(const vm_model *dense, int experts, int expert_width, int top_k, vm_recipe **out) {
    const vm_config *c = &dense->config;
    VM_TRY(check_dense(c));
    vm_recipe *r = vm_calloc(1, sizeof *r);
    if (!r) return vm_error(VMOER_ERROR_MEMORY, "no memory for a recipe");
    r->n_layers = c->n_layers, r->dim = c->dim, r->width = c->shared_width;
    r->experts = experts, r->expert_width = expert_width, r->shared_width = r->width - experts * expert_width;
    r->top_k = top_k;
    memcpy(r->base, dense->fingerprint, sizeof r->base);
    vm_copy_text(r->base_name, sizeof r->base_name, c->name);
    vmoer_status status = check_shape(r);
    if (status == VMOER_OK) status = allocate(r);
    if (status != VMOER_OK)
        vm_recipe_free(r);
    else
        *out = r;
    return status;
}

/* ---- file ---- */

static vmoer_status check_finite(const char *name, const float *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return vm_error(VMOER_ERROR_NUMERIC, "%s: element %zu is not a finite number", name, i);
    return VMOER_OK;
}

static vmoer_status write_recipe(vm_recipe *r, const vm_model *distilled, vm_st_writer *w, const char *path) {
    VM_TRY(vm_st_writer_metadata(w, "format", "vmoer-recipe"));
    VM_TRY(vm_st_writer_metadata(w, "version", "1"));
    VM_TRY(vm_st_writer_metadata(w, "base", r->base));
    VM_TRY(vm_st_writer_metadata(w, "base_name", r->base_name));
    VM_TRY(vm_st_writer_metadata(w, "training", r->training));
    VM_TRY(vm_st_writer_integer(w, "layers", (uint64_t)r->n_layers));
    VM_TRY(vm_st_writer_integer(w, "dim", (uint64_t)r->dim));
    VM_TRY(vm_st_writer_integer(w, "width", (uint64_t)r->width));
    VM_TRY(vm_st_writer_integer(w, "experts", (uint64_t)r->experts));
    VM_TRY(vm_st_writer_integer(w, "expert_width", (uint64_t)r->expert_width));
    VM_TRY(vm_st_writer_integer(w, "top_k", (uint64_t)r->top_k));
    for (int l = 0; l < r->n_layers; l++) {
        char name[64];
        float *router = r->layers[l].router;
        size_t n = (size_t)r->experts * (size_t)r->dim;
        snprintf(name, sizeof name, "blk.%d.order", l);
        VM_TRY(vm_st_writer_raw(w, name, "I32", sizeof(int32_t), 1, (int64_t[]){r->width}, r->layers[l].order));
        for (size_t i = 0; i < n; i++) router[i] = vm_f16_to_f32(vm_f32_to_f16(router[i]));
        snprintf(name, sizeof name, "blk.%d.router", l);
        VM_TRY(check_finite(name, router, n)); /* half precision ends at 65504 */
        VM_TRY(vm_st_writer_f32(w, name, "F16", 2, (int64_t[]){r->experts, r->dim}, router));
    }
    if (distilled) VM_TRY(vm_lora_put(distilled, w, "F16"));
    return vm_st_writer_save(w, path);
}

vmoer_status vm_recipe_save(vm_recipe *r, const vm_model *distilled, const char *path) {
    vm_st_writer *w = vm_st_writer_create();
    if (!w) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", path);
    vmoer_status status = write_recipe(r, distilled, w, path);
    vm_st_writer_free(w);
    return status;
}

static vmoer_status check_layer(const vm_safetensors *st, int layer, const vm_recipe *r) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.order", layer);
    const vm_st_tensor *t = vm_safetensors_find(st, name);
    if (!t || strcmp(t->dtype, "I32") != 0 || t->n_dims != 1 || t->shape[0] != r->width)
        return vm_error(VMOER_ERROR_FORMAT, "%s: missing, or not I32 [%d]", name, r->width);
    snprintf(name, sizeof name, "blk.%d.router", layer);
    t = vm_safetensors_find(st, name);
    if (!t || t->n_dims != 2 || t->shape[0] != r->experts || t->shape[1] != r->dim)
        return vm_error(VMOER_ERROR_FORMAT, "%s: missing, or not [%d, %d]", name, r->experts, r->dim);
    return VMOER_OK;
}

/* Of a checked layer. */
static vmoer_status read_order(const vm_safetensors *st, int layer, const vm_recipe *r) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.order", layer);
    memcpy(r->layers[layer].order, vm_safetensors_find(st, name)->data, (size_t)r->width * sizeof(int32_t));
    bool *seen = vm_calloc((size_t)r->width, sizeof *seen);
    if (!seen) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", name);
    vmoer_status status = VMOER_OK;
    for (int i = 0; i < r->width && status == VMOER_OK; i++) {
        int32_t neuron = r->layers[layer].order[i];
        if (neuron < 0 || neuron >= r->width || seen[neuron])
            status = vm_error(VMOER_ERROR_FORMAT, "%s: element %d, %d, is not a permutation's", name, i, neuron);
        else
            seen[neuron] = true;
    }
    vm_free(seen);
    return status;
}

static vmoer_status read_recipe(const vm_safetensors *st, vm_recipe *r) {
    enum { LARGEST = 1 << 24 };
    char text[32];
    VM_TRY(vm_safetensors_text(st, "format", text, sizeof text));
    if (strcmp(text, "vmoer-recipe") != 0)
        return vm_error(VMOER_ERROR_FORMAT, "format: \"%s\" is not vmoer-recipe", text);
    VM_TRY(vm_safetensors_text(st, "version", text, sizeof text));
    if (strcmp(text, "1") != 0) return vm_error(VMOER_ERROR_UNSUPPORTED, "version: \"%s\", 1 is supported", text);
    VM_TRY(vm_safetensors_text(st, "base", r->base, sizeof r->base));
    if (strlen(r->base) != sizeof r->base - 1) return vm_error(VMOER_ERROR_FORMAT, "base: not a fingerprint");
    VM_TRY(vm_safetensors_text(st, "base_name", r->base_name, sizeof r->base_name));
    VM_TRY(vm_safetensors_text(st, "training", r->training, sizeof r->training));
    VM_TRY(vm_safetensors_int(st, "layers", LARGEST, &r->n_layers));
    VM_TRY(vm_safetensors_int(st, "dim", LARGEST, &r->dim));
    VM_TRY(vm_safetensors_int(st, "width", LARGEST, &r->width));
    VM_TRY(vm_safetensors_int(st, "experts", LARGEST, &r->experts));
    VM_TRY(vm_safetensors_int(st, "expert_width", LARGEST, &r->expert_width));
    VM_TRY(vm_safetensors_int(st, "top_k", LARGEST, &r->top_k));
    VM_TRY(check_shape(r));
    r->shared_width = r->width - r->experts * r->expert_width;
    /* Before anything is allocated by these numbers: the file must be as large as they say. */
    for (int l = 0; l < r->n_layers; l++) VM_TRY(check_layer(st, l, r));
    VM_TRY(allocate(r));
    for (int l = 0; l < r->n_layers; l++) {
        char name[64];
        VM_TRY(read_order(st, l, r));
        snprintf(name, sizeof name, "blk.%d.router", l);
        VM_TRY(vm_safetensors_read_f32(st, name, 2, (int64_t[]){r->experts, r->dim}, r->layers[l].router));
        VM_TRY(check_finite(name, r->layers[l].router, (size_t)r->experts * (size_t)r->dim));
    }
    return VMOER_OK;
}

/* Two tensors a layer and those of the adapter, if there is one: what nobody reads is refused. */
static vmoer_status check_count(const vm_safetensors *st, const vm_recipe *r) {
    static const char prefix[] = "base_model.model."; /* of every tensor of an adapter */
    size_t own = 0;
    for (size_t i = 0; i < vm_safetensors_count(st); i++)
        own += !r->recovery || strncmp(vm_safetensors_at(st, i)->name, prefix, strlen(prefix)) != 0;
    if (own != 2 * (size_t)r->n_layers)
        return vm_error(VMOER_ERROR_FORMAT, "%zu tensors%s, %d layers have %d", own,
                        r->recovery ? " beside the adapter's" : "", r->n_layers, 2 * r->n_layers);
    return VMOER_OK;
}

static vmoer_status load(const char *path, const vm_safetensors *st, vm_recipe *r) {
    VM_TRY_IN(read_recipe(st, r), "%s", path);
    VM_TRY(vm_adapter_open_within(path, &r->recovery));
    VM_TRY_IN(check_count(st, r), "%s", path);
    return VMOER_OK;
}

vmoer_status vm_recipe_load(const char *path, vm_recipe **out) {
    vm_safetensors *st;
    VM_TRY(vm_safetensors_open(path, &st));
    vm_recipe *r = vm_calloc(1, sizeof *r);
    vmoer_status status = r ? load(path, st, r) : vm_error(VMOER_ERROR_MEMORY, "%s: no memory", path);
    vm_safetensors_free(st);
    if (status != VMOER_OK) {
        vm_recipe_free(r);
        return status;
    }
    *out = r;
    return VMOER_OK;
}

/* ---- the GGUF ---- */

static vmoer_status dense_matrix(const vm_gguf *g, int layer, const char *what, int rows, int cols, float *out) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, what);
    const vm_gguf_tensor *t = vm_gguf_find_tensor(g, name);
    if (!t || t->ne[0] != cols || t->ne[1] != rows || t->ne[2] != 1)
        return vm_error(VMOER_ERROR_FORMAT, "%s: missing, or not %d x %d", name, rows, cols);
    if (!vm_gguf_read_rows(t, 0, (size_t)rows, out))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: type %s is not supported", name, vm_dtype_name(t->type));
    return VMOER_OK;
}

/* Gate and up of the new order are rows of the dense ones, down is columns. */
static void reorder(const vm_recipe *r, int layer, const float *dense, bool columns, float *out) {
    const int32_t *order = r->layers[layer].order;
    size_t D = (size_t)r->dim, F = (size_t)r->width;
    for (size_t i = 0; !columns && i < F; i++) memcpy(out + i * D, dense + (size_t)order[i] * D, D * sizeof *out);
    for (size_t d = 0; columns && d < D; d++)
        for (size_t i = 0; i < F; i++) out[d * F + i] = dense[d * F + (size_t)order[i]];
}

/* bf16 of rows x cols of w (row stride ld), scaled, in the arena, as one GGUF tensor of [experts,] rows, cols. */
static vmoer_status put(vm_gguf_writer *g, vm_arena *arena, int layer, const char *what, int experts, int rows,
                        int cols, const float *w, size_t ld, size_t expert_stride, float scale) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, what);
    uint16_t *data = vm_arena_alloc(arena, (size_t)experts * (size_t)rows * (size_t)cols, sizeof *data), *out = data;
    if (!data) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", name);
    for (int e = 0; e < experts; e++)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++)
                *out++ = vm_f32_to_bf16(scale * w[(size_t)e * expert_stride + (size_t)i * ld + (size_t)j]);
    int64_t ne[3] = {cols, rows, experts};
    return vm_gguf_writer_tensor(g, name, VM_BF16, experts > 1 ? 3 : 2, ne, data);
}

static vmoer_status build_layer(const vm_recipe *r, int layer, const vm_gguf *dense, vm_gguf_writer *g, vm_arena *arena,
                                float *work) {
    size_t n = (size_t)r->width * (size_t)r->dim, D = (size_t)r->dim, F = (size_t)r->width, S = (size_t)r->shared_width,
           w = (size_t)r->expert_width;
    float *dense_w = work, *gate = work + n, *up = work + 2 * n, *down = work + 3 * n;
    VM_TRY(dense_matrix(dense, layer, "ffn_gate", r->width, r->dim, dense_w));
    reorder(r, layer, dense_w, false, gate);
    VM_TRY(dense_matrix(dense, layer, "ffn_up", r->width, r->dim, dense_w));
    reorder(r, layer, dense_w, false, up);
    VM_TRY(dense_matrix(dense, layer, "ffn_down", r->dim, r->width, dense_w));
    reorder(r, layer, dense_w, true, down);
    if (S) {
        VM_TRY(put(g, arena, layer, "ffn_gate_shexp", 1, (int)S, r->dim, gate, D, 0, 1.0f));
        VM_TRY(put(g, arena, layer, "ffn_up_shexp", 1, (int)S, r->dim, up, D, 0, 1.0f));
        VM_TRY(put(g, arena, layer, "ffn_down_shexp", 1, r->dim, (int)S, down, F, 0, 1.0f));
    }
    VM_TRY(put(g, arena, layer, "ffn_gate_exps", r->experts, r->expert_width, r->dim, gate + S * D, D, w * D, 1.0f));
    VM_TRY(put(g, arena, layer, "ffn_up_exps", r->experts, r->expert_width, r->dim, up + S * D, D, w * D, 1.0f));
    VM_TRY(put(g, arena, layer, "ffn_down_exps", r->experts, r->dim, r->expert_width, down + S, F, w, (float)r->top_k));
    char name[64];
    snprintf(name, sizeof name, "blk.%d.ffn_gate_inp.weight", layer);
    return vm_gguf_writer_tensor(g, name, VM_F32, 2, (int64_t[]){r->dim, r->experts}, r->layers[layer].router);
}

/* Everything but the feed-forward matrices is copied byte for byte. */
static vmoer_status copy_rest(const vm_gguf *dense, vm_gguf_writer *g) {
    for (size_t i = 0; i < vm_gguf_tensor_count(dense); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(dense, i);
        if (strstr(t->name, ".ffn_gate.") || strstr(t->name, ".ffn_up.") || strstr(t->name, ".ffn_down.")) continue;
        VM_TRY(vm_gguf_writer_copy(g, t));
    }
    return VMOER_OK;
}

static vmoer_status put_keys(const vm_recipe *r, const vm_config *c, const vm_gguf *dense, vm_gguf_writer *g) {
    char name[192];
    snprintf(name, sizeof name, "%s MoE %dx%d top %d", r->base_name, r->experts, r->expert_width, r->top_k);
    VM_TRY(vm_gguf_writer_copy_keys(g, dense, "general."));
    VM_TRY(vm_gguf_writer_string(g, "general.architecture", "granitemoe"));
    VM_TRY(vm_gguf_writer_string(g, "general.name", name));
    VM_TRY(vm_gguf_writer_u32(g, "general.file_type", 32)); /* mostly BF16 */
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.block_count", (uint32_t)r->n_layers));
    uint32_t context;
    VM_TRY(vm_gguf_get_u32(dense, "llama.context_length", &context));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.context_length", context));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.embedding_length", (uint32_t)r->dim));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.feed_forward_length", (uint32_t)r->expert_width));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.expert_feed_forward_length", (uint32_t)r->expert_width));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.expert_shared_feed_forward_length", (uint32_t)r->shared_width));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.expert_count", (uint32_t)r->experts));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.expert_used_count", (uint32_t)r->top_k));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.attention.head_count", (uint32_t)c->n_heads));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.attention.head_count_kv", (uint32_t)c->n_kv_heads));
    VM_TRY(vm_gguf_writer_f32(g, "granitemoe.attention.layer_norm_rms_epsilon", c->rms_eps));
    VM_TRY(vm_gguf_writer_f32(g, "granitemoe.attention.scale", c->attention_scale));
    /* embedding_scale and residual_scale are 1, which is what leaving them out means. llama.cpp makes a graph node of
     * each that is there, and with many experts a token its graph has none to spare (0.3.36: 16 of 32 without shared
     * ones). */
    VM_TRY(vm_gguf_writer_f32(g, "granitemoe.logit_scale", 1.0f));
    VM_TRY(vm_gguf_writer_f32(g, "granitemoe.rope.freq_base", c->rope.base));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.rope.dimension_count", (uint32_t)c->head_dim));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.vocab_size", (uint32_t)c->n_vocab));
    VM_TRY(vm_gguf_writer_copy_keys(g, dense, "tokenizer."));
    return vm_tokenizer_copy_keys(g, dense);
}

static vmoer_status build(const vm_recipe *r, const vm_gguf *dense, vm_gguf_writer *g, vm_arena *arena) {
    vm_config c;
    char fingerprint[65];
    VM_TRY(vm_config_read(dense, &c));
    vm_model_fingerprint(dense, fingerprint);
    if (strcmp(fingerprint, r->base) != 0)
        return vm_error(VMOER_ERROR_MISMATCH, "the recipe was made for '%s' (%.12s...), this is '%s' (%.12s...)",
                        r->base_name, r->base, c.name, fingerprint);
    if (c.n_layers != r->n_layers || c.dim != r->dim || c.shared_width != r->width)
        return vm_error(VMOER_ERROR_MISMATCH, "the recipe has %d layers, dimension %d, width %d; the model %d, %d, %d",
                        r->n_layers, r->dim, r->width, c.n_layers, c.dim, c.shared_width);
    VM_TRY(check_dense(&c));
    VM_TRY(put_keys(r, &c, dense, g));
    VM_TRY(copy_rest(dense, g));
    float *work = vm_malloc(4 * (size_t)r->width * (size_t)r->dim, sizeof *work);
    if (!work) return vm_error(VMOER_ERROR_MEMORY, "no memory for a layer's weights");
    vmoer_status status = VMOER_OK;
    for (int l = 0; l < r->n_layers && status == VMOER_OK; l++) status = build_layer(r, l, dense, g, arena, work);
    vm_free(work);
    return status;
}

static vmoer_status build_split(const vm_recipe *r, const char *dense_path, const char *out_path) {
    vm_gguf *dense;
    VM_TRY(vm_gguf_open(dense_path, &dense));
    vm_gguf_writer *g = vm_gguf_writer_create();
    vm_arena *arena = vm_arena_create();
    vmoer_status status = g && arena ? build(r, dense, g, arena) : vm_error(VMOER_ERROR_MEMORY, "no memory");
    if (status != VMOER_OK)
        vm_error_in(status, "%s", dense_path);
    else
        status = vm_gguf_writer_save(g, out_path);
    vm_gguf_writer_free(g);
    vm_arena_free(arena);
    vm_gguf_free(dense);
    return status;
}

/* Loading merges the adapter in one fixed order, exporting rounds once and copies what it did not change. */
static vmoer_status merge_recovery(const vm_recipe *r, vm_pool *pool, const char *split, const char *out_path) {
    vm_model *m;
    vm_model_options options = {
        .compute = VM_COMPUTE_BF16, .adapter = r->recovery, .backward_from = -1, .train_all = true};
    VM_TRY(vm_model_load(split, &options, pool, &m));
    vmoer_status status = vm_model_export(m, out_path);
    vm_model_free(m);
    return status;
}

vmoer_status vm_recipe_build(const vm_recipe *r, vm_pool *pool, const char *dense_path, const char *out_path) {
    char split[4096];
    if (!r->recovery) return build_split(r, dense_path, out_path);
    if ((size_t)snprintf(split, sizeof split, "%s.split", out_path) >= sizeof split)
        return vm_error(VMOER_ERROR_LIMIT, "%s: the path is too long", out_path);
    vmoer_status status = build_split(r, dense_path, split);
    if (status == VMOER_OK) status = merge_recovery(r, pool, split, out_path);
    unlink(split);
    return status;
}
