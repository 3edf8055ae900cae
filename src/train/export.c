/* export.c: see export.h. Goes through the tensors of the file the model came from and finds each one's values in the
 * model, by the table that model/weights.c reads by. */
#include "train/export.h"

#include "base/status.h"
#include "io/tokenizer.h"
#include "io/halves.h"

#include <stdio.h>
#include <string.h>

enum { MOSTLY_BF16 = 32 }; /* general.file_type */

/* What is written for one tensor: `experts` matrices of ne[1] x ne[0] values. */
typedef struct source {
    const vm_gguf_tensor *tensor;
    const float *const *values; /* [experts] */
    vm_dtype type;              /* VM_F32 or VM_BF16 */
    int heads;                  /* as vm_slot.heads */
} source;

/* Training changed none of its values: the tensor is copied as it was stored. */
static bool unchanged(const source *s, vm_arena *arena) {
    const vm_gguf_tensor *t = s->tensor;
    size_t cols = (size_t)t->ne[0], rows = (size_t)t->ne[1], experts = (size_t)t->ne[2];
    float *row = vm_arena_alloc(arena, cols, sizeof *row);
    for (size_t i = 0; row && i < experts * rows; i++) {
        const float *value = s->values[i / rows] + vm_to_halves(i % rows, rows, s->heads) * cols;
        if (!vm_gguf_read_rows(t, i, 1, row) || memcmp(row, value, cols * sizeof *row) != 0) return false;
    }
    return row != NULL;
}

static vmoer_status put(vm_gguf_writer *w, vm_arena *arena, const source *s) {
    const vm_gguf_tensor *t = s->tensor;
    size_t cols = (size_t)t->ne[0], rows = (size_t)t->ne[1], experts = (size_t)t->ne[2];
    size_t row_bytes = cols * (s->type == VM_F32 ? sizeof(float) : sizeof(uint16_t));
    if (unchanged(s, arena)) return vm_gguf_writer_copy(w, t);
    char *data = vm_arena_alloc(arena, experts * rows, row_bytes), *out = data;
    if (!data) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory to write it", t->name);
    for (size_t e = 0; e < experts; e++)
        for (size_t i = 0; i < rows; i++, out += row_bytes)
            vm_quantize(s->type, s->values[e] + vm_to_halves(i, rows, s->heads) * cols, cols, out);
    return vm_gguf_writer_tensor(w, t->name, s->type, t->n_dims, t->ne, data);
}

static vmoer_status put_param(vm_gguf_writer *w, vm_arena *arena, const vm_gguf_tensor *t, const vm_param *p,
                              vm_dtype type) {
    const float *values[] = {p->value};
    source s = {.tensor = t, .values = values, .type = type};
    return put(w, arena, &s);
}

/* The model is only read: vm_model_linear and vm_model_vectors have no const twin. */
static const vm_linear *linear_of(const vm_model *m, int layer, vm_site site, int expert) {
    return vm_model_linear((vm_model *)(uintptr_t)m, layer, site, expert);
}

static vmoer_status put_site(vm_gguf_writer *w, vm_arena *arena, const vm_model *m, const vm_gguf_tensor *t, int layer,
                             vm_site site, const vm_slot *slot) {
    size_t experts = (size_t)t->ne[2];
    const float **values = vm_arena_alloc(arena, experts, sizeof *values);
    if (!values) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory to write it", t->name);
    for (size_t e = 0; e < experts; e++) {
        const vm_linear *l = linear_of(m, layer, site, (int)e);
        values[e] = l->weight->value + (size_t)slot->row * (size_t)l->in;
    }
    source s = {.tensor = t, .values = values, .type = vm_model_decides(site) ? VM_F32 : VM_BF16, .heads = slot->heads};
    return put(w, arena, &s);
}

/* The slot's part of the projections' biases, one row an expert, in the file's order. */
static vmoer_status put_bias(vm_gguf_writer *w, vm_arena *arena, const vm_model *m, const vm_gguf_tensor *t, int layer,
                             vm_site site, const vm_slot *slot) {
    size_t rows = (size_t)slot->rows, experts = slot->per_expert ? (size_t)m->config.n_experts : 1;
    float *values = vm_arena_alloc(arena, experts * rows, sizeof *values);
    if (!values) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory to write it", t->name);
    for (size_t e = 0; e < experts; e++) {
        const float *bias = linear_of(m, layer, site, (int)e)->bias->value + slot->row;
        for (size_t i = 0; i < rows; i++) values[e * rows + i] = bias[vm_to_halves(i, rows, slot->heads)];
    }
    return put_param(w, arena, t, &(vm_param){.value = values}, VM_F32);
}

/* Is t's name `name` + `end`? */
static bool is_called(const vm_gguf_tensor *t, const char *name, const char *end) {
    size_t n = strlen(name);
    return strncmp(t->name, name, n) == 0 && strcmp(t->name + n, end) == 0;
}

/* A tensor of a layer. *known: it was one. */
static vmoer_status put_layer_tensor(vm_gguf_writer *w, vm_arena *arena, const vm_model *m, const vm_gguf_tensor *t,
                                     int layer, bool *known) {
    vm_vector vectors[VM_MAX_VECTORS];
    int n_vectors = vm_model_vectors((vm_model *)(uintptr_t)m, layer, vectors);
    *known = true;
    for (int i = 0; i < n_vectors; i++)
        if (strcmp(t->name, vectors[i].param->name) == 0) return put_param(w, arena, t, vectors[i].param, VM_F32);
    for (int site = 0; site < VM_SITE_COUNT; site++) {
        vm_slot slots[VM_MAX_LORA];
        int n = vm_model_tensors(&m->config, layer, (vm_site)site, slots);
        for (int i = 0; i < n; i++) {
            if (is_called(t, slots[i].name, ".weight"))
                return put_site(w, arena, m, t, layer, (vm_site)site, &slots[i]);
            if (linear_of(m, layer, (vm_site)site, 0)->bias && is_called(t, slots[i].name, ".bias"))
                return put_bias(w, arena, m, t, layer, (vm_site)site, &slots[i]);
        }
    }
    *known = false;
    return VMOER_OK;
}

static vmoer_status put_tensor(vm_gguf_writer *w, vm_arena *arena, const vm_model *m, const vm_gguf_tensor *t) {
    int layer;
    bool known = false;
    if (strcmp(t->name, "token_embd.weight") == 0) return put_param(w, arena, t, m->embedding_param, VM_BF16);
    if (strcmp(t->name, "output.weight") == 0) return put_param(w, arena, t, m->head.weight, VM_BF16);
    if (strcmp(t->name, "output_norm.weight") == 0) return put_param(w, arena, t, &m->final_norm, VM_F32);
    if (sscanf(t->name, "blk.%3d.", &layer) == 1 && layer >= 0 && layer < m->config.n_layers)
        VM_TRY(put_layer_tensor(w, arena, m, t, layer, &known));
    return known ? VMOER_OK : vm_gguf_writer_copy(w, t);
}

static vmoer_status write(const vm_model *m, vm_gguf_writer *w, vm_arena *arena, const char *path) {
    VM_TRY(vm_gguf_writer_copy_keys(w, m->file, ""));
    VM_TRY(vm_tokenizer_copy_keys(w, m->file));
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
