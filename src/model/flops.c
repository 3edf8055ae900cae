/* flops.c: see flops.h. */
#include "model/flops.h"

/* Of all tokens of the batch in one layer, by what backward does with them. */
typedef struct layer_flops {
    double into_attention; /* q, k, v: the one projection whose input the lowest trained layer asks no gradient of */
    double out_of_attention;
    double ffn;
    double scores;
    double lora_input; /* of the LoRA there, the half that its input goes through */
    double lora;       /* of all LoRA */
    double router;
} layer_flops;

static double seen(const vm_batch *b) { /* sum over tokens of the tokens they see, themselves too */
    double sum = 0;
    for (int i = 0; i < b->n_segments; i++) {
        const vm_segment *s = &b->segments[i];
        double before = s->parent >= 0 ? b->segments[s->parent].length : b->cache ? b->cache->length : 0, n = s->length;
        sum += n * before + n * (n + 1) / 2;
    }
    return sum;
}

static double lora_flops(const vm_linear *l) { /* a token */
    double sum = 0;
    for (int i = 0; i < l->n_lora; i++) sum += 2.0 * l->lora[i]->rank * (l->in + l->lora[i]->rows);
    return sum;
}

static layer_flops count_layer(const vm_model *m, int layer, const vm_batch *b, const vm_pass_options *o) {
    const vm_config *c = &m->config;
    const vm_layer *l = &m->layers[layer];
    const vm_ffn *f = &l->ffn;
    double T = b->n_tokens, D = c->dim, width = (double)c->n_heads * c->head_dim;
    layer_flops n = {.into_attention = T * 2 * D * l->qkv.out,
                     .out_of_attention = T * 2 * width * D,
                     .ffn = T * 6 * D * f->shared_width,
                     .scores = 4 * width * seen(b),
                     .lora_input = T * 2 * D * vm_linear_rank(&l->qkv),
                     .lora = T * (lora_flops(&l->qkv) + lora_flops(&l->attention_out) + lora_flops(&f->shared_in) +
                                  lora_flops(&f->shared_out))};
    n.ffn += T * 2 * D * f->shared_gate.out;
    if (f->n_experts) {
        n.ffn += T * (2 * D * f->n_experts + 6 * D * f->width * f->top_k);
        n.lora +=
            T * (lora_flops(&f->router) + f->top_k * (lora_flops(&f->expert_in[0]) + lora_flops(&f->expert_out[0])));
    }
    if (o->router && vm_router_has_layer(o->router, layer))
        n.router = T * (o->training ? vm_router_flops(o->router, VM_INFERENCE_SAMPLE, 1)
                                    : vm_router_flops(o->router, o->inference, o->samples));
    return n;
}

static double head(const vm_model *m, const vm_batch *b) { return 2.0 * b->n_rows * m->config.dim * m->config.n_vocab; }

/* From layer `first` on, or from its feed-forward half. */
static double forward_from(const vm_model *m, const vm_batch *b, const vm_pass_options *o, int first, bool half) {
    double sum = head(m, b);
    for (int l = first; l < m->config.n_layers; l++) {
        layer_flops n = count_layer(m, l, b, o);
        sum += n.into_attention + n.scores + n.out_of_attention + n.ffn + n.lora + n.router;
        if (half && l == first) sum -= n.into_attention + n.scores + n.out_of_attention;
    }
    return sum;
}

double vm_flops_forward(const vm_model *m, const vm_batch *b, const vm_pass_options *o) {
    return forward_from(m, b, o, o->states ? vm_states_layer(o->states) : 0, o->states != NULL);
}

double vm_flops_again(const vm_model *m, const vm_batch *b, const vm_pass_options *o) {
    return forward_from(m, b, o, vm_pass_lowest_trained(m, o->router), true);
}

double vm_flops_backward(const vm_model *m, const vm_batch *b, const vm_pass_options *o) {
    int lowest = vm_pass_lowest_trained(m, o->router);
    bool by_router = lowest < m->first_trained; /* nothing else in that layer is trained */
    double sum = head(m, b);
    for (int l = lowest; l < m->config.n_layers; l++) {
        layer_flops n = count_layer(m, l, b, o);
        sum += 2 * n.router;
        if (l > lowest || !by_router) sum += n.into_attention + 2 * n.scores + n.out_of_attention + n.ffn + 2 * n.lora;
        if (l == lowest) /* nobody asks for the input's gradient */
            sum -= by_router ? 2.0 * b->n_tokens * m->config.dim * vm_router_get_config(o->router)->width
                             : n.into_attention + n.lora_input;
    }
    return sum;
}
