/* adapter_gguf.c: LoRA adapters as llama.cpp stores them: a GGUF whose general.type is "adapter" and adapter.type
 * "lora".
 *
 *   <tensor>.weight.lora_a [r, in], .lora_b [rows, r], of experts [N, r, in] and [N, rows, r]      W += s B A
 *   s = adapter.lora.alpha / r; where alpha is 0, 1
 *
 * Tensors have the base model's names and its order of rows, Q's and K's too. */
#include "model/adapter_internal.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/utf8.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

static const char suffix_a[] = ".weight.lora_a", suffix_b[] = ".weight.lora_b";

static vmoer_status expect_text(const vm_gguf *g, const char *key, const char *wanted) {
    const char *text;
    size_t length;
    VM_TRY(vm_gguf_get_string(g, key, &text, &length));
    if (length == strlen(wanted) && memcmp(text, wanted, length) == 0) return VMOER_OK;
    return vm_error(VMOER_ERROR_FORMAT, "%s is \"%.*s\", not \"%s\"", key, (int)(length < 32 ? length : 32), text,
                    wanted);
}

static vmoer_status take_tensor(const vm_gguf_tensor *t, vm_adapter_matrix *out) {
    if (t->type != VM_F32 && t->type != VM_F16 && t->type != VM_BF16)
        return vm_error(VMOER_ERROR_UNSUPPORTED, "tensor \"%s\" is %s; F32, F16 and BF16 are supported", t->name,
                        vm_dtype_name(t->type));
    if (t->ne[3] != 1) return vm_error(VMOER_ERROR_FORMAT, "tensor \"%s\" has four dimensions", t->name);
    *out = (vm_adapter_matrix){
        .name = t->name, .type = (vm_dtype)t->type, .data = t->data, .rows = t->ne[1] * t->ne[2], .cols = t->ne[0]};
    return VMOER_OK;
}

static vmoer_status take_pairs(vm_adapter *a) {
    size_t n = vm_gguf_tensor_count(a->gguf);
    char name[128];
    a->pairs = vm_calloc(n + 1, sizeof *a->pairs);
    if (!a->pairs) return vm_error(VMOER_ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const vm_gguf_tensor *t = vm_gguf_tensor_at(a->gguf, i);
        bool is_a = vm_ends_with(t->name, suffix_a);
        if (!is_a && !vm_ends_with(t->name, suffix_b))
            return vm_error(VMOER_ERROR_UNSUPPORTED, "tensor \"%s\" is neither lora_a nor lora_b of a weight", t->name);
        int stem = (int)(strlen(t->name) - strlen(suffix_a)); /* both are as long */
        snprintf(name, sizeof name, "%.*s%s", stem, t->name, is_a ? suffix_b : suffix_a);
        const vm_gguf_tensor *other = vm_gguf_find_tensor(a->gguf, name);
        if (!other)
            return vm_error(VMOER_ERROR_FORMAT, "tensor \"%s\" has no %s beside it", t->name,
                            is_a ? "lora_b" : "lora_a");
        if (!is_a) continue;
        vm_adapter_pair *p = &a->pairs[a->n_pairs++];
        VM_TRY(take_tensor(t, &p->a));
        VM_TRY(take_tensor(other, &p->b));
        if (t->ne[1] != other->ne[0] || t->ne[2] != other->ne[2])
            return vm_error(VMOER_ERROR_FORMAT,
                            "tensor \"%s\" has rank %lld and %lld experts, lora_b beside it %lld and %lld", t->name,
                            (long long)t->ne[1], (long long)t->ne[2], (long long)other->ne[0], (long long)other->ne[2]);
        if (t->ne[1] > VM_ADAPTER_MAX_RANK)
            return vm_error(VMOER_ERROR_LIMIT, "tensor \"%s\": rank %lld is outside 1..%d", t->name,
                            (long long)t->ne[1], VM_ADAPTER_MAX_RANK);
    }
    if (!a->n_pairs) return vm_error(VMOER_ERROR_FORMAT, "no tensors");
    vm_adapter_sort_pairs(a);
    return VMOER_OK;
}

static vmoer_status take(vm_adapter *a) {
    VM_TRY(expect_text(a->gguf, "general.type", "adapter"));
    VM_TRY(expect_text(a->gguf, "adapter.type", "lora"));
    if (vm_gguf_has_key(a->gguf, "adapter.alora.invocation_tokens"))
        return vm_error(VMOER_ERROR_UNSUPPORTED, "adapter.alora.invocation_tokens: only plain LoRA is supported");
    float alpha;
    VM_TRY(vm_gguf_get_f32(a->gguf, "adapter.lora.alpha", &alpha));
    if (!(alpha >= -1e9f && alpha <= 1e9f))
        return vm_error(VMOER_ERROR_FORMAT, "adapter.lora.alpha is no sensible scale");
    a->alpha = (double)alpha;
    return take_pairs(a);
}

vmoer_status vm_adapter_take_gguf(vm_adapter *a, const char *where) {
    VM_TRY_IN(take(a), "%s", where);
    return VMOER_OK;
}

vmoer_status vm_adapter_read_gguf(vm_adapter *a, const char *path) {
    VM_TRY(vm_gguf_open(path, &a->gguf));
    VM_TRY(vm_adapter_take_gguf(a, path));
    return vm_sha256_file(path, a->fingerprint);
}

vmoer_status vm_adapter_gguf_pair(const vm_adapter *a, const char *tensor, vm_adapter_pair **out, int *rank,
                                  float *scale) {
    char name[128];
    snprintf(name, sizeof name, "%s%s", tensor, suffix_a);
    *out = vm_adapter_find_pair(a, name);
    if (!*out) return VMOER_OK;
    *rank = (int)(*out)->b.cols;
    *scale = a->alpha != 0 ? (float)(a->alpha / *rank) : 1.0f;
    return VMOER_OK;
}
