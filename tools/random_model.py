#!/usr/bin/env python3
"""A GGUF of a real model's shape with random weights, for time and memory: what it answers means nothing.

    python tools/random_model.py --vocabulary SmolLM2.gguf [--layers 32] OUT.gguf

The shape is that of Granite-3.0-3B-A800M (3.3 B parameters, bf16, 6.6 GB): 40 experts of which 8 run, no shared part. The vocabulary and its
tokenizer come from any GGUF with a byte-level BPE of at most 49,155 tokens, so that questions have lengths as they should. Weights are normal,
of variance 1 / inputs; the same seed gives the same file.
"""
import argparse

import gguf
import numpy as np

DIM, HEADS, KV_HEADS, EXPERTS, TOP_K, WIDTH, VOCAB = 1536, 24, 8, 40, 8, 512, 49155
HEAD = DIM // HEADS
KEPT = ("tokenizer.",)


def bf16(rng, *shape):
    """Normal values of variance 1 / shape[-1], rounded to bf16: raw bytes."""
    x = rng.standard_normal(shape, dtype=np.float32) * np.float32(shape[-1] ** -0.5)
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def copy_tokenizer(w, reader):
    for field in reader.fields.values():
        if not field.name.startswith(KEPT):
            continue
        kind = field.types[0]
        value = field.contents()
        if field.name == "tokenizer.ggml.tokens":
            value = value + [f"<|pad_{i}|>" for i in range(VOCAB - len(value))]
        if field.name == "tokenizer.ggml.token_type":
            value = value + [int(gguf.TokenType.UNUSED)] * (VOCAB - len(value))
        if kind == gguf.GGUFValueType.ARRAY:
            w.add_array(field.name, value)
        else:
            w.add_key_value(field.name, value, kind)


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("out")
    a.add_argument("--vocabulary", required=True)
    a.add_argument("--layers", type=int, default=32)
    a.add_argument("--seed", type=int, default=0)
    a = a.parse_args()
    w = gguf.GGUFWriter(a.out, "granitemoe")
    w.add_name("random-granite-3b-a800m")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    w.add_block_count(a.layers)
    w.add_context_length(4096)
    w.add_embedding_length(DIM)
    w.add_feed_forward_length(WIDTH)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(HEAD)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_vocab_size(VOCAB)
    w.add_expert_count(EXPERTS)
    w.add_expert_used_count(TOP_K)
    w.add_embedding_scale(12.0)
    w.add_residual_scale(0.22)
    w.add_attention_scale(0.015625)
    w.add_logit_scale(6.0)
    copy_tokenizer(w, gguf.GGUFReader(a.vocabulary))

    shapes = {"token_embd.weight": (VOCAB, DIM)}
    norms = ["output_norm.weight"]
    routers = {}
    for i in range(a.layers):
        shapes.update({f"blk.{i}.attn_q.weight": (DIM, DIM), f"blk.{i}.attn_k.weight": (KV_HEADS * HEAD, DIM),
                       f"blk.{i}.attn_v.weight": (KV_HEADS * HEAD, DIM), f"blk.{i}.attn_output.weight": (DIM, DIM),
                       f"blk.{i}.ffn_gate_exps.weight": (EXPERTS, WIDTH, DIM), f"blk.{i}.ffn_up_exps.weight": (EXPERTS, WIDTH, DIM),
                       f"blk.{i}.ffn_down_exps.weight": (EXPERTS, DIM, WIDTH)})
        norms += [f"blk.{i}.attn_norm.weight", f"blk.{i}.ffn_norm.weight"]
        routers[f"blk.{i}.ffn_gate_inp.weight"] = (EXPERTS, DIM)
    for name in norms:
        w.add_tensor_info(name, (DIM,), np.dtype(np.float32), 4 * DIM)
    for name, shape in routers.items():
        w.add_tensor_info(name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
    for name, shape in shapes.items():
        w.add_tensor_info(name, shape, np.dtype(np.uint16), 2 * int(np.prod(shape)), raw_dtype=gguf.GGMLQuantizationType.BF16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    rng = np.random.Generator(np.random.SFC64(a.seed))
    for _ in norms:
        w.write_tensor_data(np.ones(DIM, np.float32))
    for shape in routers.values():
        w.write_tensor_data(rng.standard_normal(shape, dtype=np.float32) * np.float32(DIM ** -0.5))
    for shape in shapes.values():
        w.write_tensor_data(bf16(rng, *shape))
    w.close()


if __name__ == "__main__":
    main()
