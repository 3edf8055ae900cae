/* recipe.c: see recipe.h. */
#include "train/recipe.h"

#include "base/status.h"
#include "base/utf8.h"
#include "io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tensors of a layer: one list serves allocation, reading and writing. */
typedef struct field {
    const char *name;
    size_t offset;
    int rows, cols;
} field;

enum { FIELDS = 7 };

static void fields_of(const vm_recipe *r, field f[FIELDS]) {
    f[0] = (field){"router", offsetof(vm_recipe_layer, router), r->experts, r->dim};
    f[1] = (field){"gate.a", offsetof(vm_recipe_layer, gate_a), r->rank, r->dim};
    f[2] = (field){"gate.b", offsetof(vm_recipe_layer, gate_b), r->width, r->rank};
    f[3] = (field){"up.a", offsetof(vm_recipe_layer, up_a), r->rank, r->dim};
    f[4] = (field){"up.b", offsetof(vm_recipe_layer, up_b), r->width, r->rank};
    f[5] = (field){"down.a", offsetof(vm_recipe_layer, down_a), r->rank, r->width};
    f[6] = (field){"down.b", offsetof(vm_recipe_layer, down_b), r->dim, r->rank};
}

static float **at(vm_recipe_layer *l, const field *f) { return (float **)((char *)l + f->offset); }

void vm_recipe_free(vm_recipe *r) {
    if (!r) return;
    field f[FIELDS];
    fields_of(r, f);
    for (int l = 0; r->layers && l < r->n_layers; l++) {
        vm_free(r->layers[l].order);
        for (int i = 0; i < FIELDS; i++) vm_free(*at(&r->layers[l], &f[i]));
    }
    vm_free(r->layers);
    vm_free(r);
}

static vmoer_status allocate(vm_recipe *r) {
    field f[FIELDS];
    fields_of(r, f);
    r->layers = vm_calloc((size_t)r->n_layers, sizeof *r->layers);
    for (int l = 0; r->layers && l < r->n_layers; l++) {
        r->layers[l].order = vm_calloc((size_t)r->width, sizeof(int32_t));
        bool ok = r->layers[l].order != NULL;
        for (int i = 0; i < FIELDS && ok; i++)
            ok = (*at(&r->layers[l], &f[i]) = vm_calloc((size_t)f[i].rows * (size_t)f[i].cols + 1, sizeof(float))) !=
                 NULL;
        if (!ok) return vm_error(VMOER_ERROR_MEMORY, "no memory for a recipe of %d layers", r->n_layers);
    }
    return r->layers ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for a recipe of %d layers", r->n_layers);
}

static vmoer_status check_shape(const vm_recipe *r) {
    if (r->n_layers < 1 || r->n_layers > 512 || r->dim < 1 || r->dim > 65536 || r->width < 1 || r->width > (1 << 20) ||
        r->rank < 0 || r->rank > 4096)
        return vm_error(VMOER_ERROR_FORMAT, "recipe: %d layers, dimension %d, width %d, rank %d", r->n_layers, r->dim,
                        r->width, r->rank);
    if (r->experts < 2 || r->experts > 1024 || r->expert_width < 1 || r->top_k < 1 || r->top_k > r->experts ||
        r->expert_width > r->width / r->experts)
        return vm_error(VMOER_ERROR_ARGUMENT,
                        "%d routed experts of %d neurons, top %d, do not fit a feed-forward width of %d", r->experts,
                        r->expert_width, r->top_k, r->width);
    return VMOER_OK;
}

vmoer_status vm_recipe_create(const vm_model *dense, int experts, int expert_width, int top_k, int rank,
                              vm_recipe **out) {
    const vm_config *c = &dense->config;
    if (c->n_experts) return vm_error(VMOER_ERROR_ARGUMENT, "%s is a Mixture-of-Experts already", c->name);
    vm_recipe *r = vm_calloc(1, sizeof *r);
    if (!r) return vm_error(VMOER_ERROR_MEMORY, "no memory for a recipe");
    r->n_layers = c->n_layers, r->dim = c->dim, r->width = c->shared_width;
    r->experts = experts, r->expert_width = expert_width, r->shared_width = r->width - experts * expert_width;
    r->top_k = top_k, r->rank = rank;
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

static vmoer_status put_meta_int(vm_st_writer *w, const char *key, int value) {
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    return vm_st_writer_metadata(w, key, text);
}

static vmoer_status check_finite(const char *name, const float *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return vm_error(VMOER_ERROR_NUMERIC, "%s: element %zu is not a finite number", name, i);
    return VMOER_OK;
}

static vmoer_status write(vm_recipe *r, vm_st_writer *w, const char *path) {
    field f[FIELDS];
    fields_of(r, f);
    VM_TRY(vm_st_writer_metadata(w, "format", "vmoer-recipe"));
    VM_TRY(vm_st_writer_metadata(w, "version", "1"));
    VM_TRY(vm_st_writer_metadata(w, "base", r->base));
    VM_TRY(vm_st_writer_metadata(w, "base_name", r->base_name));
    VM_TRY(vm_st_writer_metadata(w, "training", r->training));
    VM_TRY(put_meta_int(w, "layers", r->n_layers));
    VM_TRY(put_meta_int(w, "dim", r->dim));
    VM_TRY(put_meta_int(w, "width", r->width));
    VM_TRY(put_meta_int(w, "experts", r->experts));
    VM_TRY(put_meta_int(w, "expert_width", r->expert_width));
    VM_TRY(put_meta_int(w, "top_k", r->top_k));
    VM_TRY(put_meta_int(w, "rank", r->rank));
    for (int l = 0; l < r->n_layers; l++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.order", l);
        VM_TRY(vm_st_writer_raw(w, name, "I32", sizeof(int32_t), 1, (int64_t[]){r->width}, r->layers[l].order));
        for (int i = 0; i < FIELDS; i++) {
            float *values = *at(&r->layers[l], &f[i]);
            size_t n = (size_t)f[i].rows * (size_t)f[i].cols;
            for (size_t j = 0; j < n; j++) values[j] = vm_f16_to_f32(vm_f32_to_f16(values[j]));
            snprintf(name, sizeof name, "blk.%d.%s", l, f[i].name);
            VM_TRY(check_finite(name, values, n)); /* half precision ends at 65504 */
            VM_TRY(vm_st_writer_f32(w, name, "F16", 2, (int64_t[]){f[i].rows, f[i].cols}, values));
        }
    }
    return vm_st_writer_save(w, path);
}

vmoer_status vm_recipe_save(vm_recipe *r, const char *path) {
    vm_st_writer *w = vm_st_writer_create();
    if (!w) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", path);
    vmoer_status status = write(r, w, path);
    vm_st_writer_free(w);
    return status;
}

static vmoer_status get_meta(const vm_safetensors *st, const char *key, const char **out) {
    *out = vm_safetensors_metadata(st, key);
    return *out ? VMOER_OK : vm_error(VMOER_ERROR_FORMAT, "__metadata__.%s: missing", key);
}

static vmoer_status get_meta_int(const vm_safetensors *st, const char *key, int *out) {
    const char *text;
    char *end;
    VM_TRY(get_meta(st, key, &text));
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < 0 || value > (1 << 24))
        return vm_error(VMOER_ERROR_FORMAT, "__metadata__.%s: '%.32s' is not a count", key, text);
    *out = (int)value;
    return VMOER_OK;
}

static vmoer_status read_order(const vm_safetensors *st, int layer, const vm_recipe *r) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.order", layer);
    const vm_st_tensor *t = vm_safetensors_find(st, name);
    if (!t || strcmp(t->dtype, "I32") != 0 || t->n_dims != 1 || t->shape[0] != r->width)
        return vm_error(VMOER_ERROR_FORMAT, "%s: missing, or not I32 [%d]", name, r->width);
    memcpy(r->layers[layer].order, t->data, (size_t)r->width * sizeof(int32_t));
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

static vmoer_status read(const vm_safetensors *st, vm_recipe *r) {
    const char *text;
    VM_TRY(get_meta(st, "format", &text));
    if (strcmp(text, "vmoer-recipe") != 0)
        return vm_error(VMOER_ERROR_FORMAT, "__metadata__.format: '%.32s' is not vmoer-recipe", text);
    VM_TRY(get_meta(st, "version", &text));
    if (strcmp(text, "1") != 0)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "__metadata__.version: '%.32s', 1 is supported", text);
    VM_TRY(get_meta(st, "base", &text));
    if (strlen(text) != 64) return vm_error(VMOER_ERROR_FORMAT, "__metadata__.base: not a fingerprint");
    memcpy(r->base, text, 64);
    VM_TRY(get_meta(st, "base_name", &text));
    vm_copy_text(r->base_name, sizeof r->base_name, text);
    VM_TRY(get_meta(st, "training", &text));
    vm_copy_text(r->training, sizeof r->training, text);
    VM_TRY(get_meta_int(st, "layers", &r->n_layers));
    VM_TRY(get_meta_int(st, "dim", &r->dim));
    VM_TRY(get_meta_int(st, "width", &r->width));
    VM_TRY(get_meta_int(st, "experts", &r->experts));
    VM_TRY(get_meta_int(st, "expert_width", &r->expert_width));
    VM_TRY(get_meta_int(st, "top_k", &r->top_k));
    VM_TRY(get_meta_int(st, "rank", &r->rank));
    VM_TRY(check_shape(r));
    r->shared_width = r->width - r->experts * r->expert_width;
    /* Before anything is allocated by these numbers: the file must be as large as they say. */
    if (vm_safetensors_count(st) != (size_t)r->n_layers * (FIELDS + 1))
        return vm_error(VMOER_ERROR_FORMAT, "%zu tensors, %d layers have %d", vm_safetensors_count(st), r->n_layers,
                        r->n_layers * (FIELDS + 1));
    field f[FIELDS];
    fields_of(r, f);
    for (int i = 0; i < FIELDS * r->n_layers; i++) {
        char name[64];
        const field *want = &f[i % FIELDS];
        snprintf(name, sizeof name, "blk.%d.%s", i / FIELDS, want->name);
        const vm_st_tensor *t = vm_safetensors_find(st, name);
        if (!t || t->n_dims != 2 || t->shape[0] != want->rows || t->shape[1] != want->cols)
            return vm_error(VMOER_ERROR_FORMAT, "%s: missing, or not [%d, %d]", name, want->rows, want->cols);
    }
    VM_TRY(allocate(r));
    for (int l = 0; l < r->n_layers; l++) {
        VM_TRY(read_order(st, l, r));
        for (int i = 0; i < FIELDS; i++) {
            char name[64];
            float *values = *at(&r->layers[l], &f[i]);
            snprintf(name, sizeof name, "blk.%d.%s", l, f[i].name);
            VM_TRY(vm_safetensors_read_f32(st, name, 2, (int64_t[]){f[i].rows, f[i].cols}, values));
            VM_TRY(check_finite(name, values, (size_t)f[i].rows * (size_t)f[i].cols));
        }
    }
    return VMOER_OK;
}

vmoer_status vm_recipe_load(const char *path, vm_recipe **out) {
    vm_safetensors *st;
    VM_TRY(vm_safetensors_open(path, &st));
    vm_recipe *r = vm_calloc(1, sizeof *r);
    vmoer_status status = r ? read(st, r) : vm_error(VMOER_ERROR_MEMORY, "no memory");
    vm_safetensors_free(st);
    if (status != VMOER_OK) {
        vm_recipe_free(r);
        return vm_error_in(status, "%s", path);
    }
    *out = r;
    return VMOER_OK;
}

/* ---- weights and the GGUF ---- */

/* out = w + sum_j b_j a_j[0..n), j rising: no reassociation, the same bits everywhere. */
static void add_row(const float *w, const float *b, const float *a, int rank, int n, float *out) {
    memcpy(out, w, (size_t)n * sizeof *out);
    for (int j = 0; j < rank; j++)
        for (int i = 0; i < n; i++) out[i] = out[i] + b[j] * a[(size_t)j * (size_t)n + (size_t)i];
}

void vm_recipe_weights(const vm_recipe *r, int layer, const float *dense_gate, const float *dense_up,
                       const float *dense_down, float *gate, float *up, float *down) {
    const vm_recipe_layer *l = &r->layers[layer];
    size_t D = (size_t)r->dim, F = (size_t)r->width, rank = (size_t)r->rank;
    for (size_t i = 0; i < F; i++) {
        size_t from = (size_t)l->order[i];
        add_row(dense_gate + from * D, l->gate_b + i * rank, l->gate_a, r->rank, r->dim, gate + i * D);
        add_row(dense_up + from * D, l->up_b + i * rank, l->up_a, r->rank, r->dim, up + i * D);
    }
    float row[1 << 12]; /* a row of down in the new order, a piece at a time */
    for (size_t o = 0; o < D; o++)
        for (size_t first = 0; first < F; first += sizeof row / sizeof *row) {
            size_t n = F - first < sizeof row / sizeof *row ? F - first : sizeof row / sizeof *row;
            for (size_t i = 0; i < n; i++) row[i] = dense_down[o * F + (size_t)l->order[first + i]];
            float *out = down + o * F + first;
            memcpy(out, row, n * sizeof *out);
            for (size_t j = 0; j < rank; j++)
                for (size_t i = 0; i < n; i++) out[i] = out[i] + l->down_b[o * rank + j] * l->down_a[j * F + first + i];
        }
}

static vmoer_status dense_matrix(const vm_gguf *g, int layer, const char *what, int rows, int cols, float *out) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, what);
    const vm_gguf_tensor *t = vm_gguf_find_tensor(g, name);
    if (!t || t->ne[0] != cols || t->ne[1] != rows || t->ne[2] != 1)
        return vm_error(VMOER_ERROR_FORMAT, "%s: missing, or not %d x %d", name, rows, cols);
    if (!vm_dequantize(t->type, t->data, (size_t)rows * (size_t)cols, out))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: type %s is not supported", name, vm_dtype_name(t->type));
    return VMOER_OK;
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
    float *dg = work, *du = work + n, *dd = work + 2 * n, *gate = work + 3 * n, *up = work + 4 * n,
          *down = work + 5 * n;
    VM_TRY(dense_matrix(dense, layer, "ffn_gate", r->width, r->dim, dg));
    VM_TRY(dense_matrix(dense, layer, "ffn_up", r->width, r->dim, du));
    VM_TRY(dense_matrix(dense, layer, "ffn_down", r->dim, r->width, dd));
    vm_recipe_weights(r, layer, dg, du, dd, gate, up, down);
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
        VM_TRY(vm_gguf_writer_tensor(g, t->name, t->type, t->n_dims, t->ne, t->data));
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
    VM_TRY(vm_gguf_writer_f32(g, "granitemoe.embedding_scale", 1.0f));
    VM_TRY(vm_gguf_writer_f32(g, "granitemoe.residual_scale", 1.0f));
    VM_TRY(vm_gguf_writer_f32(g, "granitemoe.logit_scale", 1.0f));
    VM_TRY(vm_gguf_writer_f32(g, "granitemoe.rope.freq_base", c->rope_base));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.rope.dimension_count", (uint32_t)c->head_dim));
    VM_TRY(vm_gguf_writer_u32(g, "granitemoe.vocab_size", (uint32_t)c->n_vocab));
    return vm_gguf_writer_copy_keys(g, dense, "tokenizer.");
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
    VM_TRY(put_keys(r, &c, dense, g));
    VM_TRY(copy_rest(dense, g));
    float *work = vm_malloc(6 * (size_t)r->width * (size_t)r->dim, sizeof *work);
    if (!work) return vm_error(VMOER_ERROR_MEMORY, "no memory for a layer's weights");
    vmoer_status status = VMOER_OK;
    for (int l = 0; l < r->n_layers && status == VMOER_OK; l++) status = build_layer(r, l, dense, g, arena, work);
    vm_free(work);
    return status;
}

vmoer_status vm_recipe_build(const vm_recipe *r, const char *dense_path, const char *out_path) {
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
