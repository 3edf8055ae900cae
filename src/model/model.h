/* model.h: a Llama-type transformer, dense or Mixture-of-Experts, as configuration and weights. Read-only while it runs; pass.h runs it. */
#ifndef VM_MODEL_MODEL_H
#define VM_MODEL_MODEL_H

#include "base/rope.h"
#include "io/gguf.h"
#include "model/adapter.h"
#include "model/ffn.h"
#include "model/linear.h"

typedef struct vm_arch vm_arch;
enum { VM_MAX_HEAD = 1024 }; /* head_dim */

typedef struct vm_config {
    const vm_arch *arch;
    char name[128];
    int n_layers, dim, n_vocab, context;
    int n_heads, n_kv_heads, head_dim; /* attention width is n_heads * head_dim */
    int shared_width;                  /* neurons of a dense model's FFN, or of the shared experts; 0: none */
    int n_experts, top_k, expert_width; /* n_experts 0: dense */
    int dense_layers, dense_width;     /* of a MoE: so many layers at the bottom are dense, of so many neurons */
    bool renormalise;
    float expert_scale;
    vm_activation activation; /* of the routed experts */
    vm_rope rope;
    float rms_eps;
    int window, window_period;         /* layers l with l % window_period < window_period - 1 see `window` tokens only; window 0: none, period 0: all */
    float embedding_scale, residual_scale, attention_scale; /* multipliers */
    float logit_scale;                                      /* logits are divided by it */
} vm_config;

typedef struct vm_layer {
    vm_param attention_norm, ffn_norm; /* [1, D]; grad NULL while frozen */
    vm_param q_norm, k_norm;           /* as vm_qk_norm has them; value NULL: none */
    vm_param sinks;                    /* [1, n_heads] as vm_attention has them; value NULL: none */
    vm_linear qkv;                     /* [(n_heads + 2 n_kv_heads) head_dim, D]; q and k rows in Hugging Face order (rotate halves) */
    vm_linear attention_out;           /* [D, n_heads head_dim] */
    vm_ffn ffn;
} vm_layer;

typedef struct vm_model {
    vm_config config;
    vm_gguf *file;            /* stays mapped: embedding rows are read from it */
    char fingerprint[65];
    bool *used;               /* [tensors of the file] what the architecture has a place for */
    vm_layer *layers;         /* [n_layers] */
    vm_param final_norm;      /* [1, D] */
    vm_linear head;           /* [V, D] */
    const vm_gguf_tensor *embedding; /* [V, D] as stored */
    vm_param *embedding_param; /* [V, D] when trained, else NULL */
    bool tied;
    float *rope_cos, *rope_sin; /* [context, head_dim / 2] */
    int first_trained;        /* lowest layer with something trained in it or below it; n_layers: nothing */
    int backward_from;        /* layers from here on have backward panels; n_layers: none */
} vm_model;

typedef struct vm_model_options {
    vm_compute compute;
    vm_adapter *adapter;       /* merged into the weights; NULL: none */
    int backward_from;         /* -1: no backward pass; l >= 0: gradients can flow down to layer l */
    bool train_all;            /* full fine-tuning: every weight becomes a parameter */
    bool check_only;           /* everything is read and checked as always, and no projection kept: the model cannot run */
} vm_model_options;

/* Hyper-parameters alone, checked (limits, divisibility); reads no weights. */
vmoer_status vm_config_read(const vm_gguf *g, vm_config *out);
/* Takes the tensors of the GGUF at `path`; each is checked for name, shape and type. */
vmoer_status vm_model_load(const char *path, const vm_model_options *options, vm_pool *pool, vm_model **out);
void vm_model_free(vm_model *m); /* takes NULL */
/* SHA-256 over the header and 64 blocks of 4 KiB spread over the tensor data: start-up stays instant. */
void vm_model_fingerprint(const vm_gguf *g, char hex[65]);

/* Whether the layer has routed experts. */
bool vm_model_routes(const vm_config *c, int layer);
/* Neurons of the layer's dense FFN, or of its shared experts. */
int vm_model_shared_width(const vm_config *c, int layer);

/* ---- where the projections are: for adapters and LoRA ---- */
typedef enum vm_site {
    VM_SITE_QKV, VM_SITE_ATTENTION_OUT, VM_SITE_ROUTER, VM_SITE_SHARED_IN, VM_SITE_SHARED_OUT, VM_SITE_EXPERT_IN, VM_SITE_EXPERT_OUT,
    VM_SITE_SHARED_GATE, VM_SITE_COUNT
} vm_site;
/* Rows [row, row + rows) of a projection here, under the name that somebody else has for them. */
typedef struct vm_slot {
    char name[96];   /* a module of Hugging Face, "model.layers.3.self_attn.q_proj", or a tensor of GGUF, "blk.3.attn_q" (+ ".weight") */
    int row, rows;
    int heads;       /* > 0: they have the rows of each of so many heads as (0, half, 1, half + 1, ...) */
    bool per_expert; /* all experts in one: [n_experts, rows, in] */
} vm_slot;
/* Both fill slots[VM_MAX_LORA], which cover the site's rows in order, and return the count; 0 if the layer has no such site. */
int vm_model_slots(const vm_config *c, int layer, vm_site site, vm_slot *slots);   /* Hugging Face's modules */
int vm_model_tensors(const vm_config *c, int layer, vm_site site, vm_slot *slots); /* GGUF's tensors */
/* A site that decides, in f32 whatever the rest is computed and stored in: the router, the shared experts' gate. */
bool vm_model_decides(vm_site site);
/* Tokens that a layer's attention sees, itself among them; 0: all. */
int vm_model_window(const vm_config *c, int layer);
/* Shape [rows, in] of a site's projection; rows 0 if the layer has no such site. */
void vm_model_shape(const vm_config *c, int layer, vm_site site, int *rows, int *in);
/* The projection of a site; expert is used by the per-expert sites only. */
vm_linear *vm_model_linear(vm_model *m, int layer, vm_site site, int expert);
/* A norm's weights in a layer, or its sinks. */
typedef struct vm_vector {
    vm_param *param;
    int n;
    const char *tensor, *parameter; /* "attn_norm" for blk.N.attn_norm.weight; "input_layernorm.weight" for model.layers.N.input_layernorm.weight */
} vm_vector;
enum { VM_MAX_VECTORS = 5 };
int vm_model_vectors(vm_model *m, int layer, vm_vector *vectors); /* fills vectors[VM_MAX_VECTORS], returns the count */
/* Every trained tensor of the model (weights, norms, LoRA), in a fixed order; the array is the caller's (vm_free). */
vmoer_status vm_model_params(vm_model *m, vm_param_list *out);
/* Packs anew what an optimiser step changed. */
vmoer_status vm_model_refresh(vm_model *m, vm_pool *pool);

/* Row `id` of the embedding, f32, unscaled: out[D]. */
vmoer_status vm_model_embed(const vm_model *m, int32_t id, float *out);

/* ---- architectures: one file each under arch/ ---- */
/* Who has a site's rows, one below the other: Q, K and V, or equal parts; NULL ends either list. */
typedef struct vm_names {
    const char *tensors[VM_MAX_LORA]; /* GGUF: "attn_q" for blk.N.attn_q.weight */
    const char *modules[VM_MAX_LORA]; /* Hugging Face: "self_attn.q_proj" for model.layers.N.self_attn.q_proj */
    bool bias;                        /* with a bias (blk.N.attn_q.bias), which elsewhere is taken where the file has one */
    bool in_turn;                     /* the module has gate and up in turn: rows (0, half, 1, half + 1, ...) */
} vm_names;
struct vm_arch {
    const char *name;                                            /* general.architecture */
    vmoer_status (*read_config)(const vm_gguf *g, vm_config *out); /* what config.c does not read for all */
    bool interleaved;                                            /* Q and K are stored as vm_slot.heads says */
    enum { VM_QK_NORM_NONE, VM_QK_NORM_HEADS, VM_QK_NORM_WHOLE } qk_norm; /* of q and k before RoPE: of each head, or of all together (qk_norm.h) */
    bool sinks;                                                  /* with attention sinks, which elsewhere are taken where the file has some */
    const char *ffn_norm;                                        /* the tensor before the feed-forward half; NULL: "ffn_norm" */
    vm_names sites[VM_SITE_COUNT];
};
extern const vm_arch vm_arch_llama, vm_arch_qwen2, vm_arch_granite, vm_arch_granitemoe, vm_arch_qwen3moe, vm_arch_olmoe, vm_arch_deepseek,
    vm_arch_qwen2moe, vm_arch_gpt_oss;

#endif
