/* fuzz_adapter.c: any bytes as a LoRA adapter: a GGUF of llama.cpp, or a safetensors file with PEFT's configuration in
 * its metadata. Every projection that it has a name for is asked for, by its own shape and by others. Nothing may
 * crash, leak or hang. */
#include "base/memory.h"
#include "model/adapter_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST = 64 };

static void merge(vm_adapter *a, const char *name, int experts, int64_t rows, int64_t in) {
    static float w[MOST * MOST];
    if (rows < 1 || rows > MOST || in < 1 || in > MOST) return;
    vmoer_status status = VMOER_OK;
    int heads = rows % 4 == 0 ? 2 : 0;
    for (int e = 0; e < experts && status == VMOER_OK; e++)
        status = a->gguf ? vm_adapter_merge_tensor(a, name, e, experts, (int)rows, (int)in, heads, w)
                         : vm_adapter_merge_module(a, name, e, experts, (int)rows, (int)in, heads, w);
}

/* The projection whose A it is: "blk.0.attn_q" or "model.layers.0.mlp.down_proj". */
static void name_of(const vm_adapter *a, const vm_adapter_pair *p, char *out, size_t size) {
    static const char peft[] = "base_model.model.";
    const char *begin = p->a.name, *end = strstr(begin, a->gguf ? ".weight.lora_a" : vm_peft_suffix_a);
    if (!a->gguf && strncmp(begin, peft, sizeof peft - 1) == 0) begin += sizeof peft - 1;
    snprintf(out, size, "%.*s", end && end > begin ? (int)(end - begin) : 0, begin);
}

static void merge_all(vm_adapter *a) {
    static const char *const bare[] = {"model.layers.0.block_sparse_moe.router",
                                       "model.layers.0.mlp.experts.gate_up_proj",
                                       "model.layers.0.mlp.experts.down_proj"};
    char name[512];
    for (size_t i = 0; i < a->n_pairs; i++) {
        const vm_adapter_pair *p = &a->pairs[i];
        name_of(a, p, name, sizeof name);
        for (int experts = 1; experts <= 2; experts++) {
            merge(a, name, experts, a->gguf ? p->b.rows / experts : p->b.rows, p->a.cols);
            for (size_t k = 0; k < sizeof bare / sizeof *bare; k++) merge(a, bare[k], experts, p->b.rows, p->a.cols);
        }
        merge(a, name, 1, p->b.rows + 1, p->a.cols);
    }
    vm_adapter_check_used(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    vm_adapter *a = vm_calloc(1, sizeof *a);
    if (!a || !(a->name = vm_strdup("fuzz"))) abort();
    vmoer_status status;
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        status = vm_gguf_open_memory(data, size, "fuzz", &a->gguf);
        if (status == VMOER_OK) status = vm_adapter_take_gguf(a, "fuzz");
    } else {
        status = vm_safetensors_open_memory(data, size, "fuzz", &a->file);
        if (status == VMOER_OK) status = vm_adapter_take_within(a, "fuzz");
    }
    if (status == VMOER_OK) merge_all(a);
    vm_adapter_free(a);
    return 0;
}
