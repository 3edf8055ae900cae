/* sites.c: where the projections of a layer are, and who calls which of their rows what: the one table that reading
 * (weights.c), writing (train/export.c), adapters and LoRA share. Names and row order are the architecture's. */
#include "model/arch/arch.h"

#include <stdio.h>
#include <string.h>

/* Of layers that are dense in a MoE. */
static const vm_names dense[VM_SITE_COUNT] = {VM_ARCH_DENSE};

bool vm_model_routes(const vm_config *c, int layer) { return c->n_experts > 0 && layer >= c->dense_layers; }

int vm_model_shared_width(const vm_config *c, int layer) {
    return layer < c->dense_layers ? c->dense_width : c->shared_width;
}

bool vm_model_decides(vm_site site) { return site == VM_SITE_ROUTER || site == VM_SITE_SHARED_GATE; }

void vm_model_shape(const vm_config *c, int layer, vm_site site, int *rows, int *in) {
    int q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim, shared = vm_model_shared_width(c, layer);
    bool experts = vm_model_routes(c, layer);
    *rows = 0, *in = c->dim;
    switch (site) {
    case VM_SITE_QKV:
        *rows = q + 2 * kv;
        break;
    case VM_SITE_ATTENTION_OUT:
        *rows = c->dim, *in = q;
        break;
    case VM_SITE_ROUTER:
        *rows = experts ? c->n_experts : 0;
        break;
    case VM_SITE_SHARED_IN:
        *rows = 2 * shared;
        break;
    case VM_SITE_SHARED_OUT:
        *rows = shared ? c->dim : 0, *in = shared;
        break;
    case VM_SITE_EXPERT_IN:
        *rows = experts ? 2 * c->expert_width : 0;
        break;
    case VM_SITE_EXPERT_OUT:
        *rows = experts ? c->dim : 0, *in = c->expert_width;
        break;
    case VM_SITE_SHARED_GATE:
        *rows = experts && shared && c->arch->sites[site].tensors[0] ? 1 : 0;
        break;
    case VM_SITE_COUNT:
        break;
    }
}

/* The site's rows under the names of a list: Q, K and V where they are apart, equal parts elsewhere. */
static int cut(const vm_config *c, int layer, vm_site site, const char *const *names, vm_slot *s) {
    int rows, in, n = 0, row = 0;
    vm_model_shape(c, layer, site, &rows, &in);
    while (rows && n < VM_MAX_LORA && names[n]) n++;
    for (int i = 0; i < n; row += s[i++].rows) {
        int heads = i == 0 ? c->n_heads : c->n_kv_heads;
        s[i] = (vm_slot){.row = row,
                         .rows = site == VM_SITE_QKV && n == 3 ? heads * c->head_dim : rows / n,
                         .per_expert = site == VM_SITE_EXPERT_IN || site == VM_SITE_EXPERT_OUT};
    }
    return n;
}

/* Who has the site's rows in this layer. */
static const vm_names *names_of(const vm_config *c, int layer, vm_site site) {
    bool shared = site == VM_SITE_SHARED_IN || site == VM_SITE_SHARED_OUT;
    return shared && layer < c->dense_layers ? &dense[site] : &c->arch->sites[site];
}

int vm_model_slots(const vm_config *c, int layer, vm_site site, vm_slot *s) {
    const vm_names *names = names_of(c, layer, site);
    int n = cut(c, layer, site, names->modules, s);
    for (int i = 0; i < n; i++) {
        snprintf(s[i].name, sizeof s[i].name, "model.layers.%d.%s", layer, names->modules[i]);
        s[i].heads = names->in_turn;
    }
    return n;
}

int vm_model_tensors(const vm_config *c, int layer, vm_site site, vm_slot *s) {
    const char *const *names = names_of(c, layer, site)->tensors;
    int n = cut(c, layer, site, names, s);
    for (int i = 0; i < n; i++) {
        snprintf(s[i].name, sizeof s[i].name, "blk.%d.%s", layer, names[i]);
        if (site == VM_SITE_QKV && c->arch->interleaved && i < 2) s[i].heads = i == 0 ? c->n_heads : c->n_kv_heads;
    }
    return n;
}

vm_linear *vm_model_linear(vm_model *m, int layer, vm_site site, int expert) {
    vm_layer *l = &m->layers[layer];
    switch (site) {
    case VM_SITE_QKV:
        return &l->qkv;
    case VM_SITE_ATTENTION_OUT:
        return &l->attention_out;
    case VM_SITE_ROUTER:
        return &l->ffn.router;
    case VM_SITE_SHARED_IN:
        return &l->ffn.shared_in;
    case VM_SITE_SHARED_OUT:
        return &l->ffn.shared_out;
    case VM_SITE_EXPERT_IN:
        return &l->ffn.expert_in[expert];
    case VM_SITE_EXPERT_OUT:
        return &l->ffn.expert_out[expert];
    case VM_SITE_SHARED_GATE:
        return &l->ffn.shared_gate;
    case VM_SITE_COUNT:
        break;
    }
    return NULL;
}

int vm_model_window(const vm_config *c, int layer) {
    int period = c->window_period;
    return period == 0 || layer % period < period - 1 ? c->window : 0;
}

int vm_model_vectors(vm_model *m, int layer, vm_vector *v) {
    const vm_config *c = &m->config;
    vm_layer *l = &m->layers[layer];
    bool whole = c->arch->qk_norm == VM_QK_NORM_WHOLE;
    char sinks[64];
    int n = 0, heads = whole ? c->n_heads : 1, kv_heads = whole ? c->n_kv_heads : 1;
    v[n++] = (vm_vector){&l->attention_norm, c->dim, "attn_norm", "input_layernorm.weight"};
    v[n++] = (vm_vector){&l->ffn_norm, c->dim, c->arch->ffn_norm ? c->arch->ffn_norm : "ffn_norm",
                         "post_attention_layernorm.weight"};
    if (c->arch->qk_norm != VM_QK_NORM_NONE) {
        v[n++] = (vm_vector){&l->q_norm, heads * c->head_dim, "attn_q_norm", "self_attn.q_norm.weight"};
        v[n++] = (vm_vector){&l->k_norm, kv_heads * c->head_dim, "attn_k_norm", "self_attn.k_norm.weight"};
    }
    snprintf(sinks, sizeof sinks, "blk.%d.attn_sinks.weight", layer);
    if (c->arch->sinks || vm_gguf_find_tensor(m->file, sinks))
        v[n++] = (vm_vector){&l->sinks, c->n_heads, "attn_sinks", "self_attn.sinks"};
    return n;
}
