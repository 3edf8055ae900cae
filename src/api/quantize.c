/* quantize.c: a GGUF in another type. Tensors go one after the other, a few rows at a time, from the map of one file
 * into the other; what was lost is measured on what was written. */
#include "api/internal.h"

#include "base/progress.h"
#include "base/threads.h"
#include "base/utf8.h"
#include "io/gguf.h"
#include "io/tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

vmoer_quantize_params vmoer_quantize_params_default(void) {
    return (vmoer_quantize_params){.type = VMOER_WEIGHTS_Q8_0};
}

/* By vmoer_weights, then F32. file_type: general.file_type, llama.cpp's LLAMA_FTYPE_MOSTLY_*. finer: what some matrices
 * become in its place. */
static const struct kind {
    uint32_t type, file_type, finer;
} kinds[] = {{VM_Q8_0, 7, VM_Q8_0},  {VM_Q6_K, 18, VM_Q6_K}, {VM_Q4_K, 14, VM_Q4_K}, {VM_Q4_0, 2, VM_Q4_0},
             {VM_BF16, 32, VM_BF16}, {VM_F16, 1, VM_F16},    {VM_Q4_K, 15, VM_Q6_K}, {VM_F32, 0, VM_F32}};
enum { KINDS = sizeof kinds / sizeof *kinds };

enum { QUANTIZATION_VERSION = 2, TYPES = 64 };

typedef struct totals {
    size_t tensors, weights;
    double error, energy; /* sums of squares: of what was lost, of the weights */
} totals;

typedef struct run {
    const vmoer_hooks *hooks;
    vm_pool *pool;
    uint64_t done, total; /* elements */
    totals of[TYPES];     /* by type */
} run;

typedef struct job {
    run *r;
    const vm_gguf_tensor *tensor;
    uint32_t type;
    /* Of the rows at hand: */
    size_t first;
    uint8_t *out;
    float *values;     /* [threads][2][cols]: as stored before, as stored now */
    double (*sums)[2]; /* [rows] error, energy */
    size_t *bad;       /* [rows] the first element that cannot be stored, cols: none */
} job;

static size_t row_bytes(uint32_t type, size_t cols) {
    size_t elements, bytes;
    vm_dtype_block(type, &elements, &bytes);
    return cols / elements * bytes;
}

static void one_row(void *context, int task, int worker) {
    job *j = context;
    size_t cols = (size_t)j->tensor->ne[0], row = (size_t)task;
    float *before = j->values + (size_t)worker * 2 * cols, *after = before + cols;
    uint8_t *out = j->out + row * row_bytes(j->type, cols);
    vm_gguf_read_rows(j->tensor, j->first + row, 1, before);
    vm_quantize(j->type, before, cols, out);
    vm_dequantize(j->type, out, cols, after);
    double error = 0, energy = 0;
    j->bad[row] = cols;
    for (size_t i = 0; i < cols; i++) {
        double e = (double)after[i] - (double)before[i];
        error += e * e;
        energy += (double)before[i] * (double)before[i];
        if ((!isfinite(before[i]) || !isfinite(after[i])) && j->bad[row] == cols) j->bad[row] = i;
    }
    j->sums[row][0] = error;
    j->sums[row][1] = energy;
}

static vmoer_status fill(void *context, size_t first, size_t rows, void *out) {
    job *j = context;
    run *r = j->r;
    const vm_gguf_tensor *t = j->tensor;
    size_t cols = (size_t)t->ne[0];
    j->first = first;
    j->out = out;
    j->values = vm_malloc((size_t)vm_pool_threads(r->pool) * 2 * cols, sizeof *j->values);
    j->sums = vm_malloc(rows, sizeof *j->sums);
    j->bad = vm_malloc(rows, sizeof *j->bad);
    vmoer_status status =
        j->values && j->sums && j->bad ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "%s: no memory", t->name);
    if (status == VMOER_OK) vm_pool_run(r->pool, (int)rows, one_row, j);
    for (size_t i = 0; i < rows && status == VMOER_OK; i++) {
        r->of[j->type].error += j->sums[i][0];
        r->of[j->type].energy += j->sums[i][1];
        if (j->bad[i] < cols)
            status = vm_error(VMOER_ERROR_NUMERIC, "%s: element %zu is not a finite number, or too large for %s",
                              t->name, (first + i) * cols + j->bad[i], vm_dtype_name(j->type));
    }
    vm_free(j->values);
    vm_free(j->sums);
    vm_free(j->bad);
    r->done += rows * cols;
    return status == VMOER_OK ? vm_progress(r->hooks, "quantize", r->done, r->total, t->name) : status;
}

static bool whole_blocks(uint32_t type, const vm_gguf_tensor *t) {
    size_t elements, bytes;
    return vm_dtype_block(type, &elements, &bytes) && (size_t)t->ne[0] % elements == 0;
}

static int layer_of(const vm_gguf_tensor *t) { /* -1: none */
    int layer;
    return sscanf(t->name, "blk.%9d.", &layer) == 1 ? layer : -1;
}

/* What llama.cpp's mixed types find to matter most: the head, and in half of the layers (the first and last eighth, and
 * every third between) attention's values and what a feed-forward block ends with. */
static bool matters(const vm_gguf *g, int layers, const vm_gguf_tensor *t) {
    if (strcmp(t->name, "output.weight") == 0) return true;
    if (strcmp(t->name, "token_embd.weight") == 0) return !vm_gguf_find_tensor(g, "output.weight");
    if (!strstr(t->name, ".attn_v.") && !strstr(t->name, ".ffn_down")) return false;
    int layer = layer_of(t);
    return layer >= 0 && (layer < layers / 8 || layer >= 7 * (int64_t)layers / 8 || (layer - layers / 8) % 3 == 2);
}

/* What the tensor becomes: norms, biases and all that is no matrix stay, and so do routers, whose decisions are f32; of
 * a folder they become what they are in a GGUF. */
static uint32_t target(const struct kind *kind, const vm_gguf *g, int layers, const vm_gguf_tensor *t) {
    if (t->n_dims < 2 || !vm_ends_with(t->name, ".weight") || strstr(t->name, "norm") ||
        strstr(t->name, "ffn_gate_inp"))
        return vm_api_gguf_type(t);
    uint32_t wanted = kind->finer != kind->type && matters(g, layers, t) ? kind->finer : kind->type;
    return whole_blocks(wanted, t) ? wanted : whole_blocks(VM_Q8_0, t) ? VM_Q8_0 : VM_F16;
}

static vmoer_status add_tensors(run *r, const vm_gguf *g, const struct kind *kind, vm_arena *arena, vm_gguf_writer *w) {
    int layers = 0;
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++)
        if (layer_of(vm_gguf_tensor_at(g, i)) >= layers) layers = layer_of(vm_gguf_tensor_at(g, i)) + 1;
    for (size_t i = 0; i < vm_gguf_tensor_count(g); i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(g, i);
        uint32_t type = target(kind, g, layers, t);
        size_t weights = (size_t)t->ne[0] * (size_t)t->ne[1] * (size_t)t->ne[2] * (size_t)t->ne[3];
        r->of[type].tensors++;
        r->of[type].weights += weights;
        if (type == t->type) {
            VM_TRY(vm_gguf_writer_copy(w, t));
            continue;
        }
        if (!vm_dequantize(t->type, NULL, 0, NULL))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "%s: type %s is not supported (" VM_DTYPES " are)", t->name,
                            vm_dtype_name(t->type));
        job *j = vm_arena_alloc(arena, 1, sizeof *j);
        if (!j) return vm_error(VMOER_ERROR_MEMORY, "%s: no memory", t->name);
        *j = (job){.r = r, .tensor = t, .type = type};
        r->total += weights;
        VM_TRY(vm_gguf_writer_rows(w, t->name, type, t->n_dims, t->ne, fill, j));
    }
    return VMOER_OK;
}

/* {"path", "bytes_before", "bytes", "types": {"Q4_K": {"tensors", "weights", "error"}}} */
static json_t *record(const run *r, const char *path, size_t before, size_t after) {
    json_t *types = json_object();
    for (uint32_t type = 0; type < TYPES; type++) {
        const totals *t = &r->of[type];
        if (!t->tensors) continue;
        json_t *of = json_pack("{s:I, s:I}", "tensors", (json_int_t)t->tensors, "weights", (json_int_t)t->weights);
        if (t->energy > 0 && of) json_object_set_new(of, "error", json_real(sqrt(t->error / t->energy)));
        json_object_set_new(types, vm_dtype_name(type), of);
    }
    return json_pack("{s:s, s:I, s:I, s:o}", "path", path, "bytes_before", (json_int_t)before, "bytes",
                     (json_int_t)after, "types", types);
}

/* What most weights are in, as llama.cpp has it; where that is none of the types written here, what the file said
 * stays. */
static vmoer_status put_types(const run *r, const struct kind *kind, vm_gguf_writer *w) {
    uint32_t most = 0;
    bool quantized = false;
    for (uint32_t type = 0; type < TYPES; type++) {
        size_t elements, bytes;
        if (r->of[type].weights > r->of[most].weights) most = type;
        quantized |= r->of[type].tensors && vm_dtype_block(type, &elements, &bytes) && elements > 1;
    }
    const struct kind *written = kind->type == most ? kind : kinds;
    while (written < kinds + KINDS && written->type != most) written++;
    if (written < kinds + KINDS) VM_TRY(vm_gguf_writer_u32(w, "general.file_type", written->file_type));
    return quantized ? vm_gguf_writer_u32(w, "general.quantization_version", QUANTIZATION_VERSION) : VMOER_OK;
}

static vmoer_status convert(run *r, const vm_gguf *g, const vmoer_quantize_params *p, vm_gguf_writer *w,
                            vm_arena *arena) {
    VM_TRY(vm_gguf_writer_copy_keys(w, g, ""));
    VM_TRY(vm_tokenizer_copy_keys(w, g));
    VM_TRY_IN(add_tensors(r, g, &kinds[p->type], arena, w), "%s", p->model);
    VM_TRY(put_types(r, &kinds[p->type], w));
    return vm_gguf_writer_save(w, p->output_path);
}

vmoer_status vmoer_quantize(const vmoer_quantize_params *p, const vmoer_hooks *hooks, char **out_json) {
    if (!p->model || !p->output_path)
        return vm_error(VMOER_ERROR_ARGUMENT, "quantizing takes a model (-m) and the file to write (--output_path)");
    if ((unsigned)p->type > VMOER_WEIGHTS_Q4_K_M)
        return vm_error(VMOER_ERROR_ARGUMENT, "type %d of weights does not exist", (int)p->type);
    run r = {.hooks = hooks};
    vm_gguf *g = NULL, *written = NULL;
    vm_arena *arena = vm_arena_create();
    vm_gguf_writer *w = vm_gguf_writer_create();
    vmoer_status status = arena && w ? vm_gguf_open(p->model, &g) : vm_error(VMOER_ERROR_MEMORY, "no memory");
    if (status == VMOER_OK) status = vm_pool_create(p->threads, &r.pool);
    if (status == VMOER_OK) status = convert(&r, g, p, w, arena);
    if (status == VMOER_OK) status = vm_gguf_open(p->output_path, &written);
    if (status == VMOER_OK)
        status =
            vm_api_return_json(record(&r, p->output_path, vm_gguf_file_size(g), vm_gguf_file_size(written)), out_json);
    vm_gguf_free(written);
    vm_gguf_free(g);
    vm_gguf_writer_free(w);
    vm_arena_free(arena);
    vm_pool_free(r.pool);
    return status;
}
