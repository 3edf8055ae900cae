/* weights.c: the tensors of a GGUF become packed projections. Every tensor is checked for shape and type before it is
 * read. Where a GGUF stores the Q and K rows interleaved, they are put back in Hugging Face order (rotate halves),
 * which adapters speak too. */
#include "base/file.h"
#include "base/status.h"
#include "model/model.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading tensors ---- */

typedef struct loader {
    const vm_model_options *options;
    vm_model *m;
    vm_pool *pool;
    float *buffer;   /* one projection, f32, [out, in] */
    size_t capacity; /* floats in it */
    int layer;
} loader;

/* The tensor, which must be [experts,] rows x cols of a type that can be read; n_experts 0: two dimensions. */
static vmoer_status find(vm_model *m, const char *name, int n_experts, int rows, int cols, const vm_gguf_tensor **out) {
    const vm_gguf_tensor *t = vm_gguf_find_tensor(m->file, name);
    if (!t) return vm_error(VMOER_ERROR_FORMAT, "%s: missing tensor", name);
    int64_t experts = n_experts ? n_experts : 1;
    if (t->ne[0] != cols || t->ne[1] != rows || t->ne[2] != experts || t->ne[3] != 1)
        return vm_error(VMOER_ERROR_FORMAT, "%s: shape [%lld, %lld, %lld, %lld], expected [%d, %d, %d, 1]", name,
                        (long long)t->ne[0], (long long)t->ne[1], (long long)t->ne[2], (long long)t->ne[3], cols, rows,
                        (int)experts);
    if (!vm_dequantize(t->type, NULL, 0, NULL))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: type %s is not supported (" VM_DTYPES " are)", name,
                        vm_dtype_name(t->type));
    m->used[t - vm_gguf_tensor_at(m->file, 0)] = true;
    *out = t;
    return VMOER_OK;
}

static vmoer_status not_finite(const vm_gguf_tensor *t, size_t element) {
    size_t elements, bytes;
    if (!t->offset) return vm_error(VMOER_ERROR_NUMERIC, "%s: element %zu is not a finite number", t->name, element);
    vm_dtype_block(t->type, &elements, &bytes);
    return vm_error(VMOER_ERROR_NUMERIC, "%s: element %zu is not a finite number (its block is at offset %llu)",
                    t->name, element, (unsigned long long)(t->offset + element / elements * bytes));
}

/* Matrix `expert` of the tensor to out[rows, cols]. */
static vmoer_status read_matrix(const vm_gguf_tensor *t, int expert, int rows, int cols, float *out) {
    size_t n = (size_t)rows * (size_t)cols;
    vm_gguf_read_rows(t, (size_t)expert * (size_t)rows, (size_t)rows, out);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(out[i])) return not_finite(t, (size_t)expert * n + i);
    return VMOER_OK;
}

/* GGUF's order of a head's rows is (0, half, 1, half + 1, ...). */
static vmoer_status to_halves(float *w, int rows, int cols, int heads) {
    size_t head = (size_t)(rows / heads), half = head / 2, n = (size_t)cols;
    float *copy = vm_malloc(head * n, sizeof *copy);
    if (!copy) return vm_error(VMOER_ERROR_MEMORY, "no memory to reorder %d rows", rows);
    for (int h = 0; h < heads; h++) {
        float *block = w + (size_t)h * head * n;
        memcpy(copy, block, head * n * sizeof *copy);
        for (size_t i = 0; i < half; i++) {
            memcpy(block + i * n, copy + 2 * i * n, n * sizeof *copy);
            memcpy(block + (half + i) * n, copy + (2 * i + 1) * n, n * sizeof *copy);
        }
    }
    vm_free(copy);
    return VMOER_OK;
}

/* The adapter's part of one expert's matrix in the buffer. */
static vmoer_status merge_adapter(loader *ld, vm_site site, const vm_slot *parts, int n_parts, int expert, int in) {
    vm_adapter *a = ld->options->adapter;
    vm_slot modules[VM_MAX_LORA];
    int n = vm_model_slots(&ld->m->config, ld->layer, site, modules), n_experts = ld->m->config.n_experts;
    for (int i = 0; i < n && a; i++)
        VM_TRY(vm_adapter_merge_module(a, modules[i].name, expert, modules[i].per_expert ? n_experts : 1,
                                       modules[i].rows, in, modules[i].heads,
                                       ld->buffer + (size_t)modules[i].row * (size_t)in));
    for (int i = 0; i < n_parts && a; i++)
        VM_TRY(vm_adapter_merge_tensor(a, parts[i].name, expert, parts[i].per_expert ? n_experts : 1, parts[i].rows, in,
                                       parts[i].heads, ld->buffer + (size_t)parts[i].row * (size_t)in));
    return VMOER_OK;
}

/* The bias of a site's projection, where it has one; `name`: the projection's. */
static vmoer_status load_bias(loader *ld, vm_site site, const vm_slot *parts, int n_parts, int expert,
                              const char *name) {
    vm_linear *l = vm_model_linear(ld->m, ld->layer, site, expert);
    const vm_gguf_tensor *tensors[VM_MAX_LORA];
    char tensor[128];
    bool has = ld->m->config.arch->sites[site].bias;
    for (int i = 0; i < n_parts; i++) {
        snprintf(tensor, sizeof tensor, "%s.bias", parts[i].name);
        has |= vm_gguf_find_tensor(ld->m->file, tensor) != NULL;
    }
    if (!has) return VMOER_OK;
    for (int i = 0; i < n_parts; i++) {
        snprintf(tensor, sizeof tensor, "%s.bias", parts[i].name);
        VM_TRY(find(ld->m, tensor, 0, parts[i].per_expert ? ld->m->config.n_experts : 1, parts[i].rows, &tensors[i]));
    }
    float *bias = vm_malloc((size_t)l->out, sizeof *bias);
    vmoer_status status = bias ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "%s: no memory", tensor);
    for (int i = 0; i < n_parts && status == VMOER_OK; i++) {
        status = read_matrix(tensors[i], expert, 1, parts[i].rows, bias + parts[i].row);
        if (status == VMOER_OK && parts[i].heads)
            status = to_halves(bias + parts[i].row, parts[i].rows, 1, parts[i].heads);
    }
    if (status == VMOER_OK) status = vm_linear_set_bias(l, name, bias, ld->options->train_all);
    vm_free(bias);
    return status;
}

/* A site's projection, or one expert's. */
static vmoer_status load_linear(loader *ld, vm_site site, const vm_slot *parts, int n_parts, int expert) {
    const vm_config *c = &ld->m->config;
    vm_linear *out = vm_model_linear(ld->m, ld->layer, site, expert);
    const vm_gguf_tensor *tensors[VM_MAX_LORA];
    char name[128];
    int rows, in;
    vm_model_shape(c, ld->layer, site, &rows, &in);
    for (int i = 0; i < n_parts; i++) {
        snprintf(name, sizeof name, "%s.weight", parts[i].name);
        VM_TRY(find(ld->m, name, parts[i].per_expert ? c->n_experts : 0, parts[i].rows, in, &tensors[i]));
    }
    /* Only now: sizes that the file merely claims take no memory. */
    if (!vm_grow((void **)&ld->buffer, &ld->capacity, (size_t)rows * (size_t)in, sizeof *ld->buffer))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for a %d x %d weight", rows, in);
    for (int i = 0; i < n_parts; i++) {
        float *w = ld->buffer + (size_t)parts[i].row * (size_t)in;
        VM_TRY(read_matrix(tensors[i], expert, parts[i].rows, in, w));
        vm_gguf_release(tensors[i], (size_t)expert);
        if (parts[i].heads) VM_TRY(to_halves(w, parts[i].rows, in, parts[i].heads));
    }
    VM_TRY(merge_adapter(ld, site, parts, n_parts, expert, in));
    vm_compute compute = vm_model_decides(site) ? VM_COMPUTE_F32 : ld->options->compute;
    if (ld->options->check_only)
        *out = (vm_linear){.in = in, .out = rows, .compute = compute};
    else
        VM_TRY(vm_linear_init(out, ld->pool, compute, rows, in, ld->buffer, ld->layer >= ld->m->backward_from));
    if (parts[0].per_expert)
        snprintf(name, sizeof name, "%s.%d", parts[0].name, expert);
    else
        snprintf(name, sizeof name, "%s%s", parts[0].name, n_parts > 1 ? "+" : "");
    VM_TRY(load_bias(ld, site, parts, n_parts, expert, name));
    return ld->options->train_all ? vm_linear_train(out, name, ld->buffer) : VMOER_OK;
}

static vmoer_status load_norm(loader *ld, const char *name, int n, vm_param *out) {
    const vm_gguf_tensor *t;
    VM_TRY(find(ld->m, name, 0, 1, n, &t));
    snprintf(out->name, sizeof out->name, "%s", name);
    out->rows = 1;
    out->cols = n;
    out->value = vm_malloc((size_t)n, sizeof(float));
    if (ld->options->train_all) out->grad = vm_calloc((size_t)n, sizeof(float));
    if (!out->value || (ld->options->train_all && !out->grad))
        return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", name);
    return read_matrix(t, 0, 1, n, out->value);
}

static vmoer_status make_ffn(const vm_config *c, int layer, vm_ffn *f) {
    *f = (vm_ffn){.dim = c->dim,
                  .shared_width = vm_model_shared_width(c, layer),
                  .n_experts = vm_model_routes(c, layer) ? c->n_experts : 0,
                  .width = c->expert_width,
                  .top_k = c->top_k,
                  .renormalise = c->renormalise,
                  .scale = c->expert_scale,
                  .activation = c->activation};
    if (!f->n_experts) return VMOER_OK;
    f->expert_in = vm_calloc((size_t)f->n_experts, sizeof *f->expert_in);
    f->expert_out = vm_calloc((size_t)f->n_experts, sizeof *f->expert_out);
    return f->expert_in && f->expert_out ? VMOER_OK
                                         : vm_error(VMOER_ERROR_MEMORY, "no memory for %d experts", f->n_experts);
}

static vmoer_status load_layer(loader *ld, vm_layer *l) {
    const vm_config *c = &ld->m->config;
    char name[96];
    vm_vector vectors[VM_MAX_VECTORS];
    int n_vectors = vm_model_vectors(ld->m, ld->layer, vectors);
    for (int i = 0; i < n_vectors; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", ld->layer, vectors[i].tensor);
        VM_TRY(load_norm(ld, name, vectors[i].n, vectors[i].param));
    }
    VM_TRY(make_ffn(c, ld->layer, &l->ffn));
    for (int site = 0; site < VM_SITE_COUNT; site++) {
        vm_slot parts[VM_MAX_LORA];
        int n = vm_model_tensors(c, ld->layer, (vm_site)site, parts);
        int experts = n && parts[0].per_expert ? c->n_experts : n > 0;
        for (int e = 0; e < experts; e++) VM_TRY(load_linear(ld, (vm_site)site, parts, n, e));
    }
    return VMOER_OK;
}

static vmoer_status load_head(loader *ld) {
    vm_model *m = ld->m;
    const vm_config *c = &m->config;
    const vm_gguf_tensor *output = vm_gguf_find_tensor(m->file, "output.weight");
    VM_TRY(find(m, "token_embd.weight", 0, c->n_vocab, c->dim, &m->embedding));
    m->tied = !output;
    const vm_gguf_tensor *t = m->embedding;
    if (output) VM_TRY(find(m, "output.weight", 0, c->n_vocab, c->dim, &t));
    size_t n = (size_t)c->n_vocab * (size_t)c->dim;
    float *w = vm_malloc(n, sizeof *w);
    if (!w) return vm_error(VMOER_ERROR_MEMORY, "no memory for a vocabulary of %d", c->n_vocab);
    vmoer_status status = VMOER_OK;
    if (ld->options->check_only && output) VM_GOTO(read_matrix(m->embedding, 0, c->n_vocab, c->dim, w));
    VM_GOTO(read_matrix(t, 0, c->n_vocab, c->dim, w));
    vm_gguf_release(t, 0);
    if (!ld->options->check_only)
        VM_GOTO(vm_linear_init(&m->head, ld->pool, ld->options->compute, c->n_vocab, c->dim, w,
                               m->backward_from < c->n_layers));
    if (ld->options->train_all) {
        VM_GOTO(vm_linear_train(&m->head, m->tied ? "token_embd" : "output", w));
        if (m->tied) {
            m->embedding_param = m->head.weight;
        } else {
            m->embedding_param = vm_calloc(1, sizeof *m->embedding_param);
            if (m->embedding_param) {
                *m->embedding_param =
                    (vm_param){.name = "token_embd.weight", .rows = c->n_vocab, .cols = c->dim, .decay = true};
                m->embedding_param->value = vm_malloc(n, sizeof(float));
                m->embedding_param->grad = vm_calloc(n, sizeof(float));
            }
            if (!m->embedding_param || !m->embedding_param->value || !m->embedding_param->grad) {
                status = vm_error(VMOER_ERROR_MEMORY, "no memory to train a vocabulary of %d", c->n_vocab);
                goto done;
            }
            VM_GOTO(read_matrix(m->embedding, 0, c->n_vocab, c->dim, m->embedding_param->value));
        }
    }
done:
    vm_free(w);
    return status;
}

/* Divides the frequencies by what the file has for it, as Llama 3's do. */
static vmoer_status divide_frequencies(vm_model *m, float *frequencies) {
    int half = m->config.head_dim / 2;
    float factors[VM_MAX_HEAD / 2];
    const vm_gguf_tensor *t;
    if (!vm_gguf_find_tensor(m->file, "rope_freqs.weight")) return VMOER_OK;
    VM_TRY(find(m, "rope_freqs.weight", 0, 1, half, &t));
    VM_TRY(read_matrix(t, 0, 1, half, factors));
    for (int i = 0; i < half; i++) {
        if (!(factors[i] > 0)) return vm_error(VMOER_ERROR_FORMAT, "rope_freqs.weight: element %d is not positive", i);
        frequencies[i] /= factors[i];
    }
    return VMOER_OK;
}

/* cos and sin of position * frequency, the angle in f32 as the reference implementations have it. */
static vmoer_status make_rope(vm_model *m) {
    float frequencies[VM_MAX_HEAD / 2], scale;
    vm_rope_frequencies(&m->config.rope, m->config.head_dim, m->config.context, frequencies, &scale);
    VM_TRY(divide_frequencies(m, frequencies));
    size_t half = (size_t)m->config.head_dim / 2, n = (size_t)m->config.context * half;
    m->rope_cos = vm_malloc(n, sizeof(float));
    m->rope_sin = vm_malloc(n, sizeof(float));
    if (!m->rope_cos || !m->rope_sin)
        return vm_error(VMOER_ERROR_MEMORY, "no memory for %d positions", m->config.context);
    for (size_t i = 0; i < half; i++) {
        for (size_t p = 0; p < (size_t)m->config.context; p++) {
            float angle = (float)p * frequencies[i];
            m->rope_cos[p * half + i] = cosf(angle) * scale;
            m->rope_sin[p * half + i] = sinf(angle) * scale;
        }
    }
    return VMOER_OK;
}

static vmoer_status check_architecture(const vm_adapter *a, const vm_config *c) {
    size_t length;
    const char *name = vm_adapter_architecture(a, &length);
    if (length == 0 || (length == strlen(c->arch->name) && memcmp(name, c->arch->name, length) == 0)) return VMOER_OK;
    return vm_error(VMOER_ERROR_MISMATCH, "adapter '%s' is for the architecture '%.*s', the model's is '%s'",
                    vm_adapter_name(a), (int)(length < 32 ? length : 32), name, c->arch->name);
}

/* After all was merged. */
static vmoer_status check_base(const vm_adapter *a, const vm_model *m) {
    const char *base = vm_adapter_base(a);
    if (!base[0] || strcmp(base, m->fingerprint) == 0) return vm_adapter_check_used(a);
    return vm_error(VMOER_ERROR_MISMATCH, "adapter '%s' was made for the base model %.12s..., this is '%s', %.12s...",
                    vm_adapter_name(a), base, m->config.name, m->fingerprint);
}

static vmoer_status load(const char *path, const vm_model_options *options, vm_pool *pool, vm_model *m) {
    loader ld = {.options = options, .m = m, .pool = pool};
    VM_TRY(vm_gguf_open(path, &m->file));
    VM_TRY(vm_config_read(m->file, &m->config));
    if (options->adapter) VM_TRY(check_architecture(options->adapter, &m->config));
    vm_model_fingerprint(m->file, m->fingerprint);
    const vm_config *c = &m->config;
    m->first_trained = options->train_all ? 0 : c->n_layers;
    m->backward_from = options->backward_from < 0 ? c->n_layers : options->backward_from;
    m->layers = vm_calloc((size_t)c->n_layers, sizeof *m->layers);
    m->used = vm_calloc(vm_gguf_tensor_count(m->file), sizeof *m->used);
    vmoer_status status =
        m->layers && m->used ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "no memory for %d layers", c->n_layers);
    for (ld.layer = 0; ld.layer < c->n_layers && status == VMOER_OK; ld.layer++)
        status = load_layer(&ld, &m->layers[ld.layer]);
    if (status == VMOER_OK) status = load_norm(&ld, "output_norm.weight", c->dim, &m->final_norm);
    if (status == VMOER_OK) status = load_head(&ld);
    if (status == VMOER_OK) status = make_rope(m);
    if (status == VMOER_OK && options->adapter) status = check_base(options->adapter, m);
    vm_free(ld.buffer);
    return status;
}

vmoer_status vm_model_load(const char *path, const vm_model_options *options, vm_pool *pool, vm_model **out) {
    VM_TRY(vm_kernels_status());
    vm_model *m = vm_calloc(1, sizeof *m);
    if (!m) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", path);
    vmoer_status status = load(path, options, pool, m);
    if (status != VMOER_OK) {
        vm_model_free(m);
        return vm_error_in(status, "%s", path);
    }
    *out = m;
    return VMOER_OK;
}

static void norm_clear(vm_param *p) {
    vm_free(p->value);
    vm_free(p->grad);
}

void vm_model_free(vm_model *m) {
    if (!m) return;
    for (int l = 0; m->layers && l < m->config.n_layers; l++) {
        vm_vector vectors[VM_MAX_VECTORS];
        int n = vm_model_vectors(m, l, vectors);
        for (int i = 0; i < n; i++) norm_clear(vectors[i].param);
        vm_linear_clear(&m->layers[l].qkv);
        vm_linear_clear(&m->layers[l].attention_out);
        vm_ffn_clear(&m->layers[l].ffn);
    }
    if (m->embedding_param && m->embedding_param != m->head.weight) {
        norm_clear(m->embedding_param);
        vm_free(m->embedding_param);
    }
    norm_clear(&m->final_norm);
    vm_linear_clear(&m->head);
    vm_free(m->layers);
    vm_free(m->used);
    vm_free(m->rope_cos);
    vm_free(m->rope_sin);
    vm_gguf_free(m->file);
    vm_free(m);
}

void vm_model_fingerprint(const vm_gguf *g, char hex[65]) {
    enum { BLOCKS = 64, BLOCK = 4096 };
    size_t header = vm_gguf_header_size(g), size = vm_gguf_file_size(g), left;
    char digests[BLOCKS + 2][64];
    memset(digests, 0, sizeof digests);
    char part_hex[65];
    vm_sha256(vm_gguf_bytes(g, 0, &left), header, part_hex);
    memcpy(digests[0], part_hex, 64);
    snprintf(digests[1], sizeof digests[1], "%zu", size);
    for (size_t i = 0; i < BLOCKS; i++) {
        const uint8_t *block = vm_gguf_bytes(g, header + (size - header) / BLOCKS * i, &left);
        vm_sha256(block, !block ? 0 : left < BLOCK ? left : BLOCK, part_hex);
        memcpy(digests[i + 2], part_hex, 64);
    }
    vm_sha256(digests, sizeof digests, hex);
}

vmoer_status vm_model_embed(const vm_model *m, int32_t id, float *out) {
    size_t D = (size_t)m->config.dim;
    if (id < 0 || id >= m->config.n_vocab)
        return vm_error(VMOER_ERROR_ARGUMENT, "token %d is outside the vocabulary of %d", id, m->config.n_vocab);
    if (m->embedding_param) {
        memcpy(out, m->embedding_param->value + (size_t)id * D, D * sizeof *out);
        return VMOER_OK;
    }
    vm_gguf_read_rows(m->embedding, (size_t)id, 1, out);
    for (size_t i = 0; i < D; i++)
        if (!isfinite(out[i]))
            return vm_error(VMOER_ERROR_NUMERIC, "token_embd.weight: row %d holds a value that is not a finite number",
                            id);
    return VMOER_OK;
}

/* Calls visit on every projection of the model but the head, in a fixed order. */
static vmoer_status each_linear(vm_model *m, vmoer_status (*visit)(void *context, vm_linear *l), void *context) {
    for (int layer = 0; layer < m->config.n_layers; layer++)
        for (int site = 0; site < VM_SITE_COUNT; site++) {
            vm_slot slots[VM_MAX_LORA];
            int n = vm_model_tensors(&m->config, layer, (vm_site)site, slots);
            int experts = n && slots[0].per_expert ? m->config.n_experts : n ? 1 : 0;
            for (int e = 0; e < experts; e++) VM_TRY(visit(context, vm_model_linear(m, layer, (vm_site)site, e)));
        }
    return VMOER_OK;
}

typedef struct collector {
    vm_param_list list;
    size_t capacity;
} collector;

static vmoer_status add_param(collector *c, vm_param *p) {
    if (!vm_grow((void **)&c->list.items, &c->capacity, c->list.count + 1, sizeof *c->list.items))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for the list of parameters");
    c->list.items[c->list.count++] = p;
    return VMOER_OK;
}

static vmoer_status collect(void *context, vm_linear *l) {
    if (l->weight) VM_TRY(add_param(context, l->weight));
    if (l->bias && l->bias->grad) VM_TRY(add_param(context, l->bias));
    for (int i = 0; i < l->n_lora; i++) {
        VM_TRY(add_param(context, &l->lora[i]->a));
        VM_TRY(add_param(context, &l->lora[i]->b));
    }
    return VMOER_OK;
}

vmoer_status vm_model_params(vm_model *m, vm_param_list *out) {
    collector c = {{NULL, 0}, 0};
    vmoer_status status = each_linear(m, collect, &c);
    for (int l = 0; l < m->config.n_layers && status == VMOER_OK && m->layers[l].ffn_norm.grad; l++) {
        vm_vector vectors[VM_MAX_VECTORS];
        int n = vm_model_vectors(m, l, vectors);
        for (int i = 0; i < n && status == VMOER_OK; i++) status = add_param(&c, vectors[i].param);
    }
    if (status == VMOER_OK && m->final_norm.grad) status = add_param(&c, &m->final_norm);
    if (status == VMOER_OK && m->head.weight) status = add_param(&c, m->head.weight);
    if (status == VMOER_OK && m->embedding_param && m->embedding_param != m->head.weight)
        status = add_param(&c, m->embedding_param);
    if (status != VMOER_OK)
        vm_free(c.list.items);
    else
        *out = c.list;
    return status;
}

typedef struct refresher {
    vm_pool *pool;
    vm_linear **lora; /* projections with LoRA: small work each, so they share the threads */
    size_t count, capacity;
    atomic_bool failed;
} refresher;

static vmoer_status refresh(void *context, vm_linear *l) {
    refresher *r = context;
    if (!l->n_lora) return vm_linear_refresh(l, r->pool);
    if (!vm_grow((void **)&r->lora, &r->capacity, r->count + 1, sizeof(vm_linear *)))
        return vm_error(VMOER_ERROR_MEMORY, "no memory for the list of projections");
    r->lora[r->count++] = l;
    return VMOER_OK;
}

static void refresh_lora(void *context, int task, int worker) {
    (void)worker;
    refresher *r = context;
    if (vm_linear_refresh(r->lora[task], NULL) != VMOER_OK) atomic_store(&r->failed, true);
}

vmoer_status vm_model_refresh(vm_model *m, vm_pool *pool) {
    refresher r = {.pool = pool};
    atomic_init(&r.failed, false);
    vmoer_status status = each_linear(m, refresh, &r);
    if (status == VMOER_OK) status = refresh(&r, &m->head);
    if (status == VMOER_OK) vm_pool_run(pool, (int)r.count, refresh_lora, &r);
    vm_free(r.lora);
    if (atomic_load(&r.failed)) return vm_error(VMOER_ERROR_MEMORY, "no memory to pack LoRA matrices");
    return status;
}
