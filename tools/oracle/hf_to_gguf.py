"""Writes a (tiny) transformers model of one of KINDS into a complete GGUF: f32 weights and a byte-level vocabulary.

The inverse of gguf_to_hf. The vocabulary is GPT-2 style byte BPE with the `smollm` pre-tokenizer: 3 control tokens, the 256
bytes, then one token a merge, so that any text encodes and the smallest test needs no other file.
"""
import gguf
import numpy as np

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# each pair is made of bytes or of earlier results; the text is in GPT-2's printable alphabet (Ġ = space, Ċ = newline)
MERGES = ["Ġ t", "h e", "Ġt he", "Ġ a", "i n", "r e", "o n", "Ġ w", "e r", "a t", "e s", "in g", "Ġ Q"]
CHAT_TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
                 " + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def byte_alphabet():
    """GPT-2's 256 printable stand-ins for bytes, in the order of GPT-2's vocabulary."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    other = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + i) for i in range(len(other))]


def vocabulary():
    return CONTROL + byte_alphabet() + [m.replace(" ", "") for m in MERGES]


def permute(w, heads):
    """[heads * h, in]: transformers' rotated halves -> GGUF's interleaved rows."""
    h = w.shape[0] // heads
    return w.reshape(heads, 2, h // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


# model_type: architecture in GGUF, module with router and experts (None: dense), the router's name in it
KINDS = {"llama": ("llama", None, None), "mistral": ("llama", None, None), "granitemoeshared": ("granitemoe", "block_sparse_moe", "router"), "mixtral": ("llama", "mlp", "gate"),
         "qwen2": ("qwen2", None, None), "granite": ("granite", None, None),
         "qwen3_moe": ("qwen3moe", "mlp", "gate"), "olmoe": ("olmoe", "mlp", "gate"), "deepseek": ("deepseek", "mlp", "gate"),
         "qwen2_moe": ("qwen2moe", "mlp", "gate"),
         "gpt_oss": ("gpt-oss", "mlp", "router")}
INTERLEAVED = ("llama", "granite", "granitemoe", "deepseek")  # architectures whose Q and K rows are permuted in GGUF


def gpt_oss_experts(of):
    """GGUF's experts from transformers', which are [in, out] and have gate and up in turn; of(name): one of the latter."""
    gate_up, bias = of("gate_up_proj").swapaxes(1, 2), of("gate_up_proj_bias")
    return {"ffn_gate_exps.weight": gate_up[:, ::2], "ffn_up_exps.weight": gate_up[:, 1::2],
            "ffn_down_exps.weight": of("down_proj").swapaxes(1, 2), "ffn_gate_exps.bias": bias[:, ::2],
            "ffn_up_exps.bias": bias[:, 1::2], "ffn_down_exps.bias": of("down_proj_bias")}


def stored_as(name, dimensions):
    """The type of a tensor in the files of GPT-OSS that people run."""
    if name.endswith("_exps.weight"):
        return gguf.GGMLQuantizationType.MXFP4
    return gguf.GGMLQuantizationType.Q8_0 if dimensions == 2 and "ffn_gate_inp" not in name and not name.endswith(".bias") else None


def write(model, path, name, quantised=False):
    """quantised: as stored_as says; else f32."""
    config = model.config
    arch, moe, router = KINDS[config.model_type]
    vocab = vocabulary()
    if config.vocab_size != len(vocab):
        raise ValueError(f"the tiny vocabulary has {len(vocab)} tokens, the model {config.vocab_size}")
    w = gguf.GGUFWriter(path, arch)
    w.add_name(name)
    w.add_type("model")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_MXFP4_MOE if quantised else gguf.LlamaFileType.ALL_F32)
    w.add_block_count(config.num_hidden_layers)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    w.add_rope_dimension_count(head)
    if head * config.num_attention_heads != config.hidden_size:
        w.add_key_length(head)
        w.add_value_length(head)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.model_type in ("mistral", "gpt_oss") and config.sliding_window:
        w.add_sliding_window(config.sliding_window)
    rope = config.rope_parameters
    if rope["rope_type"] == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        w.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast", 32.0))
        w.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow", 1.0))
    w.add_vocab_size(config.vocab_size)
    if moe:
        w.add_expert_count(getattr(config, "num_local_experts", None) or config.num_experts)
        w.add_expert_used_count(config.num_experts_per_tok)
    if arch in ("qwen2moe", "qwen3moe"):
        w.add_expert_feed_forward_length(config.moe_intermediate_size)
    if arch == "gpt-oss":
        w.add_expert_feed_forward_length(config.intermediate_size)
    if arch == "qwen2moe":
        w.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    if arch == "granitemoe":
        w.add_expert_feed_forward_length(config.intermediate_size)
        if config.shared_intermediate_size:
            w.add_expert_shared_feed_forward_length(config.shared_intermediate_size)
    if arch in ("granite", "granitemoe"):
        w.add_embedding_scale(config.embedding_multiplier)
        w.add_residual_scale(config.residual_multiplier)
        w.add_logit_scale(config.logits_scaling)
        w.add_attention_scale(config.attention_multiplier)
    if arch == "deepseek":
        w.add_leading_dense_block_count(config.first_k_dense_replace)
        w.add_expert_feed_forward_length(config.moe_intermediate_size)
        w.add_expert_shared_count(config.n_shared_experts)
        w.add_expert_weights_scale(config.routed_scaling_factor)

    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(vocab)
    w.add_token_types([gguf.TokenType.CONTROL] * len(CONTROL) + [gguf.TokenType.NORMAL] * (len(vocab) - len(CONTROL)))
    w.add_token_merges(MERGES)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_pad_token_id(2)
    w.add_add_bos_token(False)
    w.add_add_space_prefix(False)
    w.add_chat_template(CHAT_TEMPLATE)

    state = {k: v.detach().float().numpy() for k, v in model.state_dict().items()}

    def put(name, array):
        array = np.ascontiguousarray(array, dtype=np.float32)
        kind = stored_as(name, array.ndim) if quantised else None
        w.add_tensor(name, gguf.quants.quantize(array, kind) if kind else array, raw_dtype=kind)

    if rope["rope_type"] == "llama3":  # what the frequencies are divided by
        plain = rope["rope_theta"] ** (-np.arange(0, head, 2, dtype=np.float32) / head)
        put("rope_freqs.weight", plain / model.model.rotary_emb.inv_freq.numpy())
    put("token_embd.weight", state["model.embed_tokens.weight"])
    put("output_norm.weight", state["model.norm.weight"])
    if not config.tie_word_embeddings:
        put("output.weight", state["lm_head.weight"])
    for i in range(config.num_hidden_layers):
        blk, p = f"blk.{i}.", f"model.layers.{i}."
        put(blk + "attn_norm.weight", state[p + "input_layernorm.weight"])
        for ours, theirs, heads in (("attn_q", "q_proj", config.num_attention_heads), ("attn_k", "k_proj", config.num_key_value_heads),
                                    ("attn_v", "v_proj", 0), ("attn_output", "o_proj", 0)):
            for kind in ("weight", "bias"):
                if p + f"self_attn.{theirs}.{kind}" in state:
                    value = state[p + f"self_attn.{theirs}.{kind}"]
                    put(blk + f"{ours}.{kind}", permute(value, heads) if heads and arch in INTERLEAVED else value)
        for which in "qk":
            if p + f"self_attn.{which}_norm.weight" in state:
                put(blk + f"attn_{which}_norm.weight", state[p + f"self_attn.{which}_norm.weight"])
        put(blk + ("post_attention_norm" if arch == "gpt-oss" else "ffn_norm") + ".weight", state[p + "post_attention_layernorm.weight"])
        if arch == "gpt-oss":
            put(blk + "attn_sinks.weight", state[p + "self_attn.sinks"])
            put(blk + "ffn_gate_inp.weight", state[p + "mlp.router.weight"])
            put(blk + "ffn_gate_inp.bias", state[p + "mlp.router.bias"])
            for name, value in gpt_oss_experts(lambda n: state[p + "mlp.experts." + n]).items():
                put(blk + name, value)
            continue
        if p + "mlp.gate_proj.weight" in state:
            for part in ("gate", "up", "down"):
                put(blk + f"ffn_{part}.weight", state[p + f"mlp.{part}_proj.weight"])
            continue
        put(blk + "ffn_gate_inp.weight", state[p + f"{moe}.{router}.weight"])
        gate, up = np.split(state[p + f"{moe}.experts.gate_up_proj"], 2, axis=1)
        put(blk + "ffn_gate_exps.weight", gate)
        put(blk + "ffn_up_exps.weight", up)
        put(blk + "ffn_down_exps.weight", state[p + f"{moe}.experts.down_proj"])
        if getattr(config, "shared_intermediate_size", 0):
            gate, up = np.split(state[p + "shared_mlp.input_linear.weight"], 2, axis=0)
            put(blk + "ffn_gate_shexp.weight", gate)
            put(blk + "ffn_up_shexp.weight", up)
            put(blk + "ffn_down_shexp.weight", state[p + "shared_mlp.output_linear.weight"])
        for shared in ("shared_expert", "shared_experts"):
            for part in ("gate", "up", "down"):
                if p + f"mlp.{shared}.{part}_proj.weight" in state:
                    put(blk + f"ffn_{part}_shexp.weight", state[p + f"mlp.{shared}.{part}_proj.weight"])
        if arch == "qwen2moe":
            put(blk + "ffn_gate_inp_shexp.weight", state[p + "mlp.shared_expert_gate.weight"][0])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
