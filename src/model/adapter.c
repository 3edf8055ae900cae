/* adapter.c: an adapter that is open is merged into weights:  W += s B A.  Which of its tensors are a projection's A
 * and B, and what s is, the two layouts say (adapter_peft.c, adapter_gguf.c). */
#include "model/adapter_internal.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/utf8.h"
#include "io/halves.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *x, const void *y) {
    return strcmp(((const vm_adapter_pair *)x)->a.name, ((const vm_adapter_pair *)y)->a.name);
}

void vm_adapter_sort_pairs(vm_adapter *a) { qsort(a->pairs, a->n_pairs, sizeof *a->pairs, by_name); }

vm_adapter_pair *vm_adapter_find_pair(const vm_adapter *a, const char *name) {
    vm_adapter_pair wanted = {.a = {.name = name}};
    return bsearch(&wanted, a->pairs, a->n_pairs, sizeof *a->pairs, by_name);
}

/* ---- opening ---- */

/* The last part of the path. */
static vmoer_status take_name(vm_adapter *a, const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    a->name = vm_strndup(path + begin, end - begin);
    return a->name ? VMOER_OK : vm_error(VMOER_ERROR_MEMORY, "out of memory");
}

static vmoer_status open_by(vmoer_status (*fill)(vm_adapter *a, const char *path), const char *path, vm_adapter **out) {
    *out = NULL;
    vm_adapter *a = vm_calloc(1, sizeof *a);
    if (!a) return vm_error(VMOER_ERROR_MEMORY, "%s: out of memory", path);
    vmoer_status status = take_name(a, path);
    if (status == VMOER_OK) status = fill(a, path);
    if (status == VMOER_OK && (a->config || a->gguf))
        *out = a;
    else
        vm_adapter_free(a);
    return status;
}

vmoer_status vm_adapter_open(const char *path, vm_adapter **out) {
    return open_by(vm_ends_with(path, ".gguf") ? vm_adapter_read_gguf : vm_adapter_read_peft, path, out);
}

vmoer_status vm_adapter_open_within(const char *path, vm_adapter **out) {
    return open_by(vm_adapter_read_within, path, out);
}

void vm_adapter_free(vm_adapter *a) {
    if (!a) return;
    vm_free(a->name);
    vm_free(a->pairs);
    vm_safetensors_free(a->file);
    json_decref(a->config);
    vm_gguf_free(a->gguf);
    vm_free(a);
}

const char *vm_adapter_name(const vm_adapter *a) { return a->name; }

const char *vm_adapter_fingerprint(const vm_adapter *a) { return a->fingerprint; }

const char *vm_adapter_base(const vm_adapter *a) {
    const char *base = a->file ? vm_safetensors_metadata(a->file, vm_peft_base_key) : NULL;
    return base ? base : "";
}

const char *vm_adapter_architecture(const vm_adapter *a, size_t *length) {
    const char *text = "";
    *length = 0;
    if (a->gguf && vm_gguf_has_key(a->gguf, "general.architecture"))
        vm_gguf_get_string(a->gguf, "general.architecture", &text, length);
    return text;
}

/* ---- merging ---- */

static vmoer_status check_shape(const vm_adapter_matrix *m, int64_t rows, int64_t cols) {
    if (m->rows == rows && m->cols == cols) return VMOER_OK;
    return vm_error(VMOER_ERROR_MISMATCH,
                    "adapter tensor \"%.200s\" is [%lld, %lld], the model and its rank need [%lld, %lld]", m->name,
                    (long long)m->rows, (long long)m->cols, (long long)rows, (long long)cols);
}

/* n elements from element `at` on; all must be finite. */
static vmoer_status read_elements(const vm_adapter_matrix *m, size_t at, size_t n, float *out) {
    size_t elements, bytes;
    vm_dtype_block(m->type, &elements, &bytes);
    vm_dequantize(m->type, m->data + at * bytes, n, out);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(out[i]))
            return vm_error(VMOER_ERROR_NUMERIC, "adapter tensor \"%.200s\": element %zu is not finite", m->name,
                            at + i);
    return VMOER_OK;
}

/* A projection's part of the adapter. */
typedef struct part {
    vm_adapter_pair *pair;
    int rank;
    float scale;
    int expert;
    size_t b_first, b_row, b_rank; /* elements of B: its first, from row to row, from rank to rank */
    int heads;                     /* of which B has the rows interleaved; 0: as they are here */
} part;

/* w += scale * B A. Plain loops in one order: a merged model is the same on every machine. */
static vmoer_status merge(const part *p, int rows, int in, float *w) {
    size_t width = (size_t)in, rank = (size_t)p->rank;
    float *a = vm_malloc(rank * width, sizeof *a), *delta = vm_malloc(width, sizeof *delta);
    vmoer_status status = VMOER_OK;
    if (!a || !delta) {
        status = vm_error(VMOER_ERROR_MEMORY, "adapter tensor \"%.200s\": out of memory", p->pair->a.name);
        goto done;
    }
    VM_GOTO(read_elements(&p->pair->a, (size_t)p->expert * rank * width, rank * width, a));
    for (size_t o = 0; o < (size_t)rows; o++) {
        memset(delta, 0, width * sizeof *delta);
        for (size_t j = 0; j < rank; j++) {
            float b;
            VM_GOTO(read_elements(&p->pair->b, p->b_first + o * p->b_row + j * p->b_rank, 1, &b));
            for (size_t i = 0; i < width; i++) delta[i] += b * a[j * width + i];
        }
        float *row = w + vm_to_halves(o, (size_t)rows, p->heads) * width;
        for (size_t i = 0; i < width; i++) row[i] += p->scale * delta[i];
    }
done:
    vm_free(a);
    vm_free(delta);
    return status;
}

vmoer_status vm_adapter_merge_module(vm_adapter *a, const char *module, int expert, int n_experts, int rows, int in,
                                     int heads, float *w) {
    part p = {.expert = expert, .heads = heads};
    if (!a->config) return VMOER_OK;
    VM_TRY(vm_adapter_peft_pair(a, module, &p.pair, &p.rank, &p.scale));
    if (!p.pair) return VMOER_OK;
    VM_TRY(check_shape(&p.pair->a, (int64_t)p.rank * n_experts, in));
    VM_TRY(check_shape(&p.pair->b, rows, (int64_t)p.rank * n_experts));
    atomic_store_explicit(&p.pair->used, true, memory_order_relaxed);
    p.b_first = (size_t)expert, p.b_row = (size_t)p.rank * (size_t)n_experts, p.b_rank = (size_t)n_experts;
    return merge(&p, rows, in, w);
}

vmoer_status vm_adapter_merge_tensor(vm_adapter *a, const char *tensor, int expert, int n_experts, int rows, int in,
                                     int heads, float *w) {
    part p = {.expert = expert, .heads = heads};
    if (!a->gguf) return VMOER_OK;
    VM_TRY(vm_adapter_gguf_pair(a, tensor, &p.pair, &p.rank, &p.scale));
    if (!p.pair) return VMOER_OK;
    VM_TRY(check_shape(&p.pair->a, (int64_t)p.rank * n_experts, in));
    VM_TRY(check_shape(&p.pair->b, (int64_t)rows * n_experts, p.rank));
    atomic_store_explicit(&p.pair->used, true, memory_order_relaxed);
    p.b_first = (size_t)expert * (size_t)rows * (size_t)p.rank, p.b_row = (size_t)p.rank, p.b_rank = 1;
    return merge(&p, rows, in, w);
}

vmoer_status vm_adapter_check_used(const vm_adapter *a) {
    for (size_t i = 0; i < a->n_pairs; i++)
        if (!atomic_load_explicit(&a->pairs[i].used, memory_order_relaxed))
            return vm_error(VMOER_ERROR_MISMATCH, "adapter %s: the model has no place for tensor \"%.200s\"", a->name,
                            a->pairs[i].a.name);
    return VMOER_OK;
}
