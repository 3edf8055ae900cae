/* fuzz_router.c: any bytes as a router file. What loads must also compute: one token through its first layer, all ways.
 */
#include "router/router_internal.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void infer_one(const vm_router *r) {
    const vm_router_config *c = vm_router_get_config(r);
    float *u = vm_calloc((size_t)c->dim, sizeof *u), *logits = vm_calloc((size_t)c->n_experts, sizeof *logits);
    float *p = vm_calloc((size_t)c->n_experts, sizeof *p), *scores = vm_calloc((size_t)c->n_experts, sizeof *scores);
    float trace, projected, temperature;
    vm_token_key key = {0};
    vm_route route = {.layer = c->layers[0], .n_tokens = 1, .u = u, .logits = logits, .tokens = &key, .sign = 1};
    const vm_routing out = {
        .p = p, .scores = scores, .trace = &trace, .trace_projected = &projected, .temperature = &temperature};
    for (vm_inference way = VM_INFERENCE_MEAN; u && logits && p && scores && way <= VM_INFERENCE_PASSES; way++) {
        vmoer_status status = vm_router_infer(r, NULL, &route, way, 3, &out);
        if (status != VMOER_OK && status != VMOER_ERROR_NUMERIC && status != VMOER_ERROR_MEMORY) abort();
        for (int i = 0; status == VMOER_OK && i < c->n_experts; i++) {
            if (!(p[i] >= 0 && p[i] <= 1.0001f)) abort();
        }
    }
    vm_free(u);
    vm_free(logits);
    vm_free(p);
    vm_free(scores);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    vm_router_file info;
    vm_router *r;
    if (vm_router_load_memory(data, size, "fuzz", &info, &r) != VMOER_OK) return 0;
    if (vm_router_get_config(r)->n_layers > 0) infer_one(r);
    vm_router_free(r);
    return 0;
}
