/* export.c: see export.h. Goes through the tensors of the file the model came from and finds each one's values in the
 * model; the reverse of what model/weights.c reads. */
#include "train/export.h"

#include "base/status.h"

#include <stdio.h>
#include <string.h>

enum { MOSTLY_BF16 = 32 }; /* general.file_type */

/* A tensor "blk.N.<tensor>.weight" is rows [row, row + its own) of a site's projection. */
typedef struct place {
    const char *tensor;
    vm_site site;
    int row;
    int heads; /* > 0: the file has the rows of so many heads interleaved */
} place;

/* What is written for one tensor: `experts` matrices of ne[1] x ne[0] values. */
typedef struct source {
    const vm_gguf_tensor *tensor;
    const float *const *values; /* [experts] */
    vm_dtype type;              /* VM_F32 or VM_BF16 */
    int heads;                  /* as place.heads */
} source;

/* The file's row i is row to_halves(i) here: a head's rows (0, half, 1, half + 1, ...) there, (0, 1, ...) here. */
static size_t to_halves(size_t i, size_t rows, int heads) {
    if (!heads) return i;
    size_t head = rows / (size_t)heads, in_head = i % head;
    return i - in_head + in_head / 2 + in_head % 2 * (head / 2);
}

/* Training changed none of its values: the tensor is copied as it was stored. */
static bool unchanged(const source *s, vm_arena *arena) {
    const vm_gguf_tensor *t = s->tensor;
    size_t cols = (size_t)t->ne[0], rows = (size_t)t->ne[1], experts = (size_t)t->ne[2], elements, bytes;
    float *row = vm_arena_alloc(arena, cols, sizeof *row);
    vm_dtype_block(t->type, &elements, &bytes);
    for (size_t i = 0; row && i < experts * rows; i++) {
        const float *value = s->values[i / rows] + to_halves(i % rows, rows, s->heads) * cols;
        if (!vm_dequantize(t->type, t->data + i * (cols / elements) * bytes, cols, row) ||
            memcmp(row, value, cols * sizeof *row) != 0)
            return false;
    }
    return row != NULL;
}

static vmoer_status put(vm_gguf_writer *w, vm_arena *arena, const source *s) {
    const vm_gguf_tensor *t = s->tensor;
    size_t cols = (size_t)t->ne[0], rows = (size_t)t->ne[1], experts = (size_t)t->ne[2];
    size_t row_bytes = cols * (s->type == VM_F32 ? sizeof(float) : sizeof(uint16_t));
    if (unchanged(s, arena)) return vm_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, t->data);
    char *data = vm_arena_alloc(arena, experts * rows, row_bytes), *out = data;
    if (!data) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory to write it", t->name);
    for (size_t e = 0; e < experts; e++)
        for (size_t i = 0; i < rows; i++, out += row_bytes)
            vm_quantize(s->type, s->values[e] + to_halves(i, rows, s->heads) * cols, cols, out);
    return vm_gguf_writer_tensor(w, t->name, s->type, t->n_dims, t->ne, data);
}

static vmoer_status put_param(vm_gguf_writer *w, vm_arena *arena, const vm_gguf_tensor *t, const vm_param *p,
                              vm_dtype type) {
    const float *values[] = {p->value};
    source s = {.tensor = t, .values = values, .type = type};
    return put(w, arena, &s);
}

static vmoer_status put_site(vm_gguf_writer *w, vm_arena *arena, const vm_model *m, const vm_gguf_tensor *t, int layer,
                             const place *p) {
    size_t experts = (size_t)t->ne[2];
    const float **values = vm_arena_alloc(arena, experts, sizeof *values);
    if (!values) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory to write it", t->name);
    for (size_t e = 0; e < experts; e++) {
        /* The model is only read: vm_model_linear has no const twin. */
        const vm_linear *l = vm_model_linear((vm_model *)(uintptr_t)m, layer, p->site, (int)e);
        values[e] = l->weight->value + (size_t)p->row * (size_t)l->in;
    }
    source s = {.tensor = t, .values = values, .type = p->site == VM_SITE_ROUTER ? VM_F32 : VM_BF16, .heads = p->heads};
    return put(w, arena, &s);
}

/* A tensor of a layer; `what` is its name between "blk.N." and ".weight". *known: it was one. */
static vmoer_status put_layer_tensor(vm_gguf_writer *w, vm_arena *arena, const vm_model *m, const vm_gguf_tensor *t,
                                     int layer, const char *what, bool *known) {
    const vm_config *c = &m->config;
    int q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const place places[] = {
        {"attn_q", VM_SITE_QKV, 0, c->n_heads},
        {"attn_k", VM_SITE_QKV, q, c->n_kv_heads},
        {"attn_v", VM_SITE_QKV, q + kv, 0},
        {"attn_output", VM_SITE_ATTENTION_OUT, 0, 0},
        {"ffn_gate_inp", VM_SITE_ROUTER, 0, 0},
        {c->n_experts ? "ffn_gate_shexp" : "ffn_gate", VM_SITE_SHARED_IN, 0, 0},
        {c->n_experts ? "ffn_up_shexp" : "ffn_up", VM_SITE_SHARED_IN, c->shared_width, 0},
        {c->n_experts ? "ffn_down_shexp" : "ffn_down", VM_SITE_SHARED_OUT, 0, 0},
        {"ffn_gate_exps", VM_SITE_EXPERT_IN, 0, 0},
        {"ffn_up_exps", VM_SITE_EXPERT_IN, c->expert_width, 0},
        {"ffn_down_exps", VM_SITE_EXPERT_OUT, 0, 0},
    };
    *known = true;
    if (strcmp(what, "attn_norm") == 0) return put_param(w, arena, t, &m->layers[layer].attention_norm, VM_F32);
    if (strcmp(what, "ffn_norm") == 0) return put_param(w, arena, t, &m->layers[layer].ffn_norm, VM_F32);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        vm_slot slots[VM_MAX_LORA];
        if (strcmp(what, places[i].tensor) == 0 && vm_model_slots(c, layer, places[i].site, slots) > 0)
            return put_site(w, arena, m, t, layer, &places[i]);
    }
    *known = false;
    return VMOER_OK;
}

static vmoer_status put_tensor(vm_gguf_writer *w, vm_arena *arena, const vm_model *m, const vm_gguf_tensor *t) {
    char what[64], name[128];
    int layer;
    bool known = false;
    if (strcmp(t->name, "token_embd.weight") == 0) return put_param(w, arena, t, m->embedding_param, VM_BF16);
    if (strcmp(t->name, "output.weight") == 0) return put_param(w, arena, t, m->head.weight, VM_BF16);
    if (strcmp(t->name, "output_norm.weight") == 0) return put_param(w, arena, t, &m->final_norm, VM_F32);
    if (sscanf(t->name, "blk.%3d.%63[^.]", &layer, what) == 2 && layer >= 0 && layer < m->config.n_layers) {
        /* Only this very name was read, and its shape checked: "blk.00.attn_q.weight" is nobody's. */
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, what);
        if (strcmp(t->name, name) == 0) VM_TRY(put_layer_tensor(w, arena, m, t, layer, what, &known));
    }
    return known ? VMOER_OK : vm_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, t->data);
}

static vmoer_status write(const vm_model *m, vm_gguf_writer *w, vm_arena *arena, const char *path) {
    VM_TRY(vm_gguf_writer_copy_keys(w, m->file, ""));
    VM_TRY(vm_gguf_writer_u32(w, "general.file_type", MOSTLY_BF16));
    for (size_t i = 0; i < vm_gguf_tensor_count(m->file); i++)
        VM_TRY(put_tensor(w, arena, m, vm_gguf_tensor_at(m->file, i)));
    return vm_gguf_writer_save(w, path);
}

vmoer_status vm_model_export(const vm_model *m, const char *path) {
    if (!m->embedding_param)
        return vm_error(VMOER_ERROR_ARGUMENT, "%s: only a model whose weights are trained can be exported", path);
    vm_gguf_writer *w = vm_gguf_writer_create();
    vm_arena *arena = vm_arena_create();
    vmoer_status status = w && arena ? write(m, w, arena, path) : vm_error(VMOER_ERROR_MEMORY, "%s: no memory", path);
    vm_gguf_writer_free(w);
    vm_arena_free(arena);
    return status;
}
