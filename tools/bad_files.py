#!/usr/bin/env python3
"""Files that nobody should trust, one for each class of fault: tests/bad, with tests/bad/expected.txt saying what is answered to each. Whole
files of a few hundred bytes, made here byte by byte: no library would write them.

    python tools/bad_files.py [tests/bad]
"""
import json
import pathlib
import struct
import sys

U8, I32, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 5, 4, 6, 7, 8, 9, 10
HUGE = 2**64 - 1


def u32(n):
    return struct.pack("<I", n)


def u64(n):
    return struct.pack("<Q", n)


def string(text, length=None):
    data = text.encode() if isinstance(text, str) else text
    return u64(len(data) if length is None else length) + data


# ---- GGUF ----

def value(v):
    """The value with its type. A tuple is (type, bytes) as they are."""
    if isinstance(v, tuple):
        return u32(v[0]) + v[1]
    if isinstance(v, bool):
        return u32(BOOL) + bytes([v])
    if isinstance(v, int):
        return u32(U32) + u32(v)
    if isinstance(v, float):
        return u32(F32) + struct.pack("<f", v)
    if isinstance(v, (str, bytes)):
        return u32(STRING) + string(v)
    if isinstance(v[0], (str, bytes)):
        return array(STRING, [string(x) for x in v])
    if isinstance(v[0], float):
        return array(F32, [struct.pack("<f", x) for x in v])
    return array(I32, [struct.pack("<i", x) for x in v])


def array(element, items, count=None):
    return u32(ARRAY) + u32(element) + u64(len(items) if count is None else count) + b"".join(items)


def key(name, v):
    return string(name) + value(v)


def pad(data, alignment):
    return data + bytes(-len(data) % alignment)


class Tensor:
    def __init__(self, name, ne, type=0, offset=None, size=None):
        self.name, self.ne, self.type, self.offset, self.size = name, ne, type, offset, size

    def bytes(self):
        n = 4
        for d in self.ne:
            n *= d
        return n if self.size is None else self.size


def gguf(keys=(), tensors=(), version=3, n_tensors=None, n_keys=None, alignment=32, tail=b""):
    """keys: a list of (name, value) or of bytes; tensors: f32 unless they say otherwise, one after the other."""
    head = b"GGUF" + u32(version) + u64(len(tensors) if n_tensors is None else n_tensors) + u64(len(keys) if n_keys is None else n_keys)
    for k in keys:
        head += k if isinstance(k, bytes) else key(*k)
    data = b""
    for t in tensors:
        head += string(t.name) + u32(len(t.ne)) + b"".join(u64(d) for d in t.ne) + u32(t.type)
        head += u64(len(data) if t.offset is None else t.offset)
        content = bytes(t.bytes()) if t.bytes() < 4096 else b""
        data = pad(data + content, alignment)
    return (pad(head, alignment) if tensors else head) + data + tail


VOCABULARY = [("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "gpt-2"), ("tokenizer.ggml.tokens", ["a", "b", "ab", "<s>"]),
              ("tokenizer.ggml.token_type", [1, 1, 1, 3]), ("tokenizer.ggml.merges", ["a b"])]
CHARACTERS = [("tokenizer.ggml.model", "llama"), ("tokenizer.ggml.tokens", ["<unk>", "<s>", "</s>", "<0x41>", "a"]),
              ("tokenizer.ggml.token_type", [2, 3, 3, 6, 1]), ("tokenizer.ggml.scores", [0.0, 0.0, 0.0, 0.0, 0.0])]


def changed(pairs, *changes):
    """The keys with some changed, added, or (value None) left out."""
    out = dict(pairs)
    for name, v in changes:
        out[name] = v
    return [(k, v) for k, v in out.items() if v is not None]


MODEL = [("general.architecture", "granitemoe"), ("general.alignment", 8), ("granitemoe.block_count", 1), ("granitemoe.embedding_length", 2),
         ("granitemoe.context_length", 8), ("granitemoe.attention.head_count", 1),
         ("granitemoe.attention.layer_norm_rms_epsilon", 1e-5), ("granitemoe.feed_forward_length", 1), ("granitemoe.expert_count", 2),
         ("granitemoe.expert_used_count", 1), ("granitemoe.logit_scale", 1.0)]
SHARED = [("granitemoe.expert_shared_feed_forward_length", 1)]
EMBEDDING = Tensor("token_embd.weight", [2, 4])
BLOCK = [Tensor("blk.0.attn_norm.weight", [2]), Tensor("blk.0.ffn_norm.weight", [2]), Tensor("blk.0.attn_q.weight", [2, 2]),
         Tensor("blk.0.attn_k.weight", [2, 2]), Tensor("blk.0.attn_v.weight", [2, 2]), Tensor("blk.0.attn_output.weight", [2, 2]),
         Tensor("blk.0.ffn_gate_inp.weight", [2, 2]), Tensor("blk.0.ffn_gate_exps.weight", [2, 1, 2]),
         Tensor("blk.0.ffn_up_exps.weight", [2, 1, 2]), Tensor("blk.0.ffn_down_exps.weight", [1, 2, 2])]
WHOLE = [EMBEDDING, Tensor("output_norm.weight", [2])] + BLOCK


def with_tensor(name, ne):
    return [Tensor(name, ne) if t.name == name else t for t in WHOLE]


def model(*changes, tensors=WHOLE, **more):
    return gguf(changed(MODEL + VOCABULARY, *changes), tensors, alignment=8, **more)


def head(*changes):
    """Enough of a model for its hyper-parameters to be looked at."""
    return gguf(changed(MODEL, *changes), [EMBEDDING], alignment=8)


def one(ne, type=0, offset=0, size=32):
    return gguf([], [Tensor("t", ne, type, offset, size)])


def ggufs():
    half = 2**32
    G = "granitemoe."
    T = "tokenizer.ggml."
    good = model()
    yield "good.gguf", good
    # counts
    yield "tensor_count.gguf", gguf(n_tensors=2**61)
    yield "key_count.gguf", gguf(n_keys=HUGE)
    yield "key_count_31.gguf", gguf([("k", 1)], n_keys=2**31)
    # lengths
    yield "key_length.gguf", gguf([string("key", HUGE - 7) + value(1)])
    yield "string_length.gguf", gguf([string("k") + u32(STRING) + string("text", 2**63)])
    yield "array_length.gguf", gguf([string("k") + array(U64, [u64(1)], 2**61 + 1)])
    yield "strings_length.gguf", gguf([string("k") + array(STRING, [string("text", 2**31)])])
    yield "name_length.gguf", gguf(n_tensors=1, tail=string("t", HUGE) + bytes(64))
    # dimensions
    yield "product_wraps.gguf", one([half, half])
    yield "product_wraps_4.gguf", one([half, 2, half // 2, 2])
    yield "bytes_wrap.gguf", one([2**62])
    yield "padding_wraps.gguf", one([2**61 - 1])
    yield "sum_wraps.gguf", gguf([], [Tensor("a", [2**61 - 8], size=0), Tensor("b", [2**61 - 8], offset=2**63 - 32, size=64)])
    yield "dimensions_5.gguf", one([1, 1, 1, 1, 1])
    yield "dimensions_0.gguf", one([])
    yield "dimension_zero.gguf", one([8, 0])
    yield "dimension_negative.gguf", one([HUGE])
    # places
    yield "past_end.gguf", one([9])
    yield "offset_wraps.gguf", one([8], offset=HUGE - 31)
    yield "overlap.gguf", gguf([], [Tensor("a", [16], size=64), Tensor("b", [8], offset=32)])
    yield "hole.gguf", gguf([], [Tensor("a", [8]), Tensor("b", [8], offset=64, size=64)])
    yield "junk.gguf", gguf([], [Tensor("t", [8])], tail=b"x")
    yield "truncated.gguf", good[:-8]
    # an error after things were allocated
    yield "late_error.gguf", gguf([("k", ["one", "two"]), string("l") + u32(STRING) + string("", 1000)])
    # types
    yield "value_type.gguf", gguf([string("k") + u32(13) + u64(0)])
    yield "element_type.gguf", gguf([string("k") + array(255, [u64(0)])])
    yield "nested_array.gguf", gguf([string("k") + array(ARRAY, [value([1])[4:]])])
    yield "bool.gguf", gguf([("k", (BOOL, b"\2"))])
    yield "bools.gguf", gguf([string("k") + array(BOOL, [b"\0\1\xff"], 3)])
    yield "tensor_type_removed.gguf", one([32], type=4)
    yield "tensor_type_unknown.gguf", one([32], type=2**32 - 1)
    yield "tensor_blocks.gguf", one([33], type=8)
    yield "key_wrong_type.gguf", head((G + "block_count", "1"))
    yield "array_wrong_type.gguf", gguf(changed(VOCABULARY, (T + "tokens", [1, 2, 3, 4])))
    yield "element_wrong_type.gguf", gguf(changed(VOCABULARY, (T + "token_type", ["a", "b", "c", "d"])))
    for name, v in [("zero", 0), ("three", 3), ("huge", 2**30), ("text", "32"), ("array", [32])]:
        yield f"alignment_{name}.gguf", gguf([("general.alignment", v)], [Tensor("t", [8])])
    # names
    yield "key_twice.gguf", gguf([("k", 1), ("k", 2)])
    yield "key_empty.gguf", gguf([("", 1)])
    yield "key_control.gguf", gguf([("a\tb", 1)])
    yield "key_utf8.gguf", gguf([(b"a\xff", 1)])
    yield "value_utf8.gguf", head(("general.name", b"a \xff name"))
    yield "tensor_twice.gguf", gguf([], [Tensor("t", [8]), Tensor("t", [8])])
    yield "tensor_name_empty.gguf", gguf([], [Tensor("", [8])])
    yield "tensor_name_65.gguf", gguf([], [Tensor("n" * 65, [8])])
    # versions
    for v in (0, 1, 4):
        yield f"version_{v}.gguf", gguf(version=v)
    yield "big_endian.gguf", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    yield "magic.gguf", b"gguf" + good[4:64]
    yield "empty.gguf", b""
    # hyper-parameters
    yield "architecture.gguf", head(("general.architecture", "mamba"))
    yield "layers_huge.gguf", head((G + "block_count", 2**32 - 1))
    yield "layers_513.gguf", head((G + "block_count", 513))
    yield "layers_more.gguf", model((G + "block_count", 2))
    yield "heads_zero.gguf", head((G + "attention.head_count", 0))
    yield "kv_heads_zero.gguf", head((G + "attention.head_count_kv", 0))
    yield "head_dim_zero.gguf", head((G + "attention.key_length", 0))
    yield "head_dim_odd.gguf", head((G + "attention.key_length", 3))
    yield "rope_dim_odd.gguf", head((G + "rope.dimension_count", 1))
    yield "eps_nan.gguf", head((G + "attention.layer_norm_rms_epsilon", float("nan")))
    yield "context_huge.gguf", head((G + "context_length", (U64, u64(2**40))))
    yield "logit_scale_zero.gguf", head((G + "logit_scale", 0.0))
    # experts
    yield "experts_zero.gguf", head((G + "expert_count", 0))
    yield "experts_huge.gguf", head((G + "expert_count", 2**31))
    yield "used_zero.gguf", head((G + "expert_used_count", 0))
    yield "used_more.gguf", head((G + "expert_used_count", 3))
    yield "router_rows.gguf", model(tensors=with_tensor("blk.0.ffn_gate_inp.weight", [2, 3]))
    yield "expert_width.gguf", model(tensors=with_tensor("blk.0.ffn_up_exps.weight", [2, 2, 2]))
    yield "expert_number.gguf", model(tensors=with_tensor("blk.0.ffn_down_exps.weight", [1, 2, 3]))
    yield "expert_dims_swapped.gguf", model((G + "feed_forward_length", 2))
    yield "no_shared_expert.gguf", model(*SHARED)
    yield "no_tensor.gguf", model(tensors=[t for t in WHOLE if t.name != "blk.0.attn_v.weight"])
    yield "expert_in_name.gguf", model(tensors=WHOLE + [Tensor("blk.99999999999.ffn_gate.4294967296.weight", [2])])
    old = [(k.replace("granitemoe", "llama"), v) for k, v in MODEL]
    yield "tensor_an_expert.gguf", gguf(changed(old, ("general.architecture", "llama")),
                                        [EMBEDDING, Tensor("blk.0.ffn_gate.0.weight", [2])], alignment=8)
    yield "infinite.gguf", good[:-8] + struct.pack("<ff", 0, float("inf"))
    # vocabularies
    yield "byte_negative.gguf", gguf(changed(CHARACTERS, (T + "tokens", ["<unk>", "<s>", "</s>", "<0x-1>", "a"])))
    yield "byte_letters.gguf", gguf(changed(CHARACTERS, (T + "tokens", ["<unk>", "<s>", "</s>", "<0xZZ>", "a"])))
    yield "token_length.gguf", gguf([key("tokenizer.ggml.model", "gpt2"), string(T + "tokens") + array(STRING, [string("a", 2**31)])])
    yield "eos_outside.gguf", gguf(changed(VOCABULARY, (T + "eos_token_id", 4)))
    yield "bos_negative.gguf", gguf(changed(VOCABULARY, (T + "bos_token_id", (I32, struct.pack("<i", -1)))))
    yield "bos_absent.gguf", gguf(changed(VOCABULARY, (T + "add_bos_token", True)))
    yield "scores_short.gguf", gguf(changed(CHARACTERS, (T + "scores", [0.0])))
    yield "score_nan.gguf", gguf(changed(CHARACTERS, (T + "scores", [0.0, 0.0, 0.0, float("nan"), 0.0])))
    yield "types_short.gguf", gguf(changed(VOCABULARY, (T + "token_type", [1, 1, 1])))
    yield "type_unknown.gguf", gguf(changed(VOCABULARY, (T + "token_type", [1, 1, 1, 7])))
    yield "merge_space.gguf", gguf(changed(VOCABULARY, (T + "merges", ["ab"])))
    yield "merge_unknown.gguf", gguf(changed(VOCABULARY, (T + "merges", ["a c"])))
    yield "merge_cycle.gguf", gguf(changed(VOCABULARY, (T + "merges", ["a b", "b a"])))
    yield "token_twice.gguf", gguf(changed(VOCABULARY, (T + "tokens", ["a", "b", "a", "<s>"])))
    yield "token_empty.gguf", gguf(changed(VOCABULARY, (T + "tokens", ["a", "b", "", "<s>"])))
    yield "token_nul.gguf", gguf(changed(VOCABULARY, (T + "tokens", ["a", "b", "a\0b", "<s>"])))
    yield "token_utf8.gguf", gguf(changed(VOCABULARY, (T + "tokens", ["a", "b", b"\xed\xa0\x80", "<s>"])))
    yield "token_special_long.gguf", gguf(changed(VOCABULARY, (T + "tokens", ["a", "b", "ab", "x" * 257])))
    yield "pre_unknown.gguf", gguf(changed(VOCABULARY, (T + "pre", "no-such")))
    yield "vocabulary_larger.gguf", model((T + "tokens", ["a", "b", "ab", "<s>", "c"]), (T + "token_type", [1, 1, 1, 3, 1]))


def splits():
    def shard(no, count, tensors, total=2, more=()):
        return gguf([("split.no", no), ("split.count", count), ("split.tensors.count", total)] + list(more), tensors)
    a, b = [Tensor("a", [8])], [Tensor("b", [8])]
    yield "missing-00001-of-00002.gguf", shard(0, 2, a)
    yield "number-00001-of-00002.gguf", shard(0, 2, a)
    yield "number-00002-of-00002.gguf", shard(1, 3, b)
    yield "tensors-00001-of-00002.gguf", shard(0, 2, a, 3)
    yield "tensors-00002-of-00002.gguf", shard(1, 2, b, 3)
    yield "other-00001-of-00002.gguf", shard(0, 2, a, more=[("general.name", "one")])
    yield "other-00002-of-00002.gguf", shard(1, 2, b, more=[("general.name", "other")])
    yield "twice-00001-of-00002.gguf", shard(0, 2, a)
    yield "twice-00002-of-00002.gguf", shard(1, 2, a)
    yield "name.gguf", shard(0, 2, a)
    yield "count-00001-of-00002.gguf", shard(0, 2**32 - 1, a)
    yield "second-00002-of-00002.gguf", shard(1, 2, b)


# ---- safetensors ----

def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, (bytes, str)) else json.dumps(header, separators=(",", ":"))
    text = text.encode() if isinstance(text, str) else text
    return u64(len(text) if length is None else length) + text + data


def st(dtype="F32", shape="[1]", offsets="[0,4]", data=4):
    return safetensors('{"t":{"dtype":"%s","shape":%s,"data_offsets":%s}}' % (dtype, shape, offsets), bytes(data))


def pair(begin, end):
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


def tensors_files():
    yield "header_length.safetensors", safetensors("{}", length=HUGE)
    yield "header_length_wraps.safetensors", safetensors("{}", length=HUGE - 7)
    yield "header_past_end.safetensors", safetensors("{}", length=3)
    yield "too_short.safetensors", b"\2\0\0\0"
    yield "utf8.safetensors", safetensors(b'{"\xff":1}')
    yield "bracket.safetensors", safetensors(" {}")
    yield "spaces.safetensors", safetensors("{}      ")
    yield "metadata_number.safetensors", safetensors({"__metadata__": {"a": 1}})
    yield "metadata_list.safetensors", safetensors({"__metadata__": []})
    yield "twice.safetensors", safetensors('{"t":%s,"t":%s}' % ((json.dumps(pair(0, 0)),) * 2))
    yield "hole.safetensors", safetensors({"a": pair(0, 4), "b": pair(6, 10)}, bytes(10))
    yield "hole_at_start.safetensors", st(offsets="[4,8]", data=8)
    yield "overlap.safetensors", safetensors({"a": pair(0, 4), "b": pair(2, 6)}, bytes(6))
    yield "product_wraps.safetensors", st(shape="[4294967296,4294967296]", offsets="[0,0]", data=0)
    yield "bits_wrap.safetensors", st(dtype="U8", shape="[2305843009213693952]", offsets="[0,0]", data=0)
    yield "bits.safetensors", st(dtype="F4", shape="[3]", offsets="[0,1]", data=1)
    yield "size.safetensors", st(shape="[2]")
    yield "past_end.safetensors", st(data=3)
    yield "extra.safetensors", st(data=8)
    yield "dtype.safetensors", st(dtype="Q9", shape="[1000000]")
    yield "offset_real.safetensors", st(offsets="[0,4.0]")
    yield "offset_exponent.safetensors", st(offsets="[0,4e0]")
    yield "offset_rounds.safetensors", st(dtype="U8", shape="[9007199254740993]", offsets="[0,9007199254740993]", data=0)
    yield "offset_negative.safetensors", st(offsets="[-4,0]")
    yield "offset_wraps.safetensors", st(offsets="[0,18446744073709551620]")
    yield "shape_negative.safetensors", st(shape="[-1]")
    yield "dimensions.safetensors", st(shape="[1,1,1,1,1,1,1,1,1]")
    yield "deep.safetensors", safetensors('{"t":' + "[" * 3000)


CONFIG = json.dumps({"model_type": "llama", "hidden_size": 2, "intermediate_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1,
                     "num_key_value_heads": 1, "max_position_embeddings": 8, "rms_norm_eps": 1e-5, "vocab_size": 1,
                     "tie_word_embeddings": True})
EMBED, NORM = "model.embed_tokens.weight", "model.norm.weight"
SHARD_A = safetensors({EMBED: {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}}, bytes(8))
SHARD_B = safetensors({NORM: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))


def folder(**files):
    return {"config.json": CONFIG, **{k.replace("__", "."): v for k, v in files.items()}}


def indexed(weight_map, **more):
    return folder(model__safetensors__index__json=json.dumps({"weight_map": weight_map}), a__safetensors=SHARD_A, b__safetensors=SHARD_B, **more)


def folders():
    yield "no_config", {"model.safetensors": SHARD_A}
    yield "config_list", {"config.json": "[]"}
    yield "config_twice", {"config.json": '{"model_type":"llama","model_type":"llama"}'}
    yield "model_type", {"config.json": '{"model_type":"mamba"}', "model.safetensors": SHARD_A}
    yield "hidden_size", {"config.json": CONFIG.replace('"hidden_size": 2', '"hidden_size": 4294967296'), "model.safetensors": SHARD_A}
    yield "pickle", folder(pytorch_model__bin="")
    yield "truncated", folder(model__safetensors=SHARD_A[:-1])
    yield "tensor_missing", folder(model__safetensors=SHARD_A)
    yield "map_up", indexed({EMBED: "../map_up/a.safetensors", NORM: "b.safetensors"})
    yield "map_absolute", indexed({EMBED: "/dev/zero", NORM: "b.safetensors"})
    yield "map_other", indexed({EMBED: "config.json", NORM: "b.safetensors"})
    yield "map_no_file", indexed({EMBED: "a.safetensors", NORM: "c.safetensors"})
    yield "map_wrong_file", indexed({EMBED: "b.safetensors", NORM: "b.safetensors"})
    yield "map_missing", indexed({EMBED: "a.safetensors", "model.norm.bias": "b.safetensors"})
    yield "map_short", folder(model__safetensors__index__json=json.dumps({"weight_map": {EMBED: "ab.safetensors"}}),
                              ab__safetensors=safetensors({EMBED: {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
                                                           NORM: {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, bytes(16)))
    yield "claimed_twice", folder(model__safetensors__index__json=json.dumps({"weight_map": {EMBED: "a.safetensors", NORM: "b.safetensors"}}),
                                  a__safetensors=SHARD_A, b__safetensors=SHARD_A)
    yield "link_device", folder(model__safetensors=pathlib.Path("/dev/zero"))
    yield "link_loop", folder(model__safetensors=pathlib.Path("model.safetensors"))
    yield "link_other", folder(model__safetensors=pathlib.Path("../../gguf/good.gguf"))


# ---- tokenizer.json, messages, templates, text ----

TOKENIZER = {"added_tokens": [{"id": 3, "content": "<s>", "special": True}], "normalizer": None,
             "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
             "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}


def tokenizer(old="", new=""):
    text = json.dumps(TOKENIZER, separators=(",", ":"))
    assert old in text
    return text.replace(old, new, 1)


def tokenizers():
    yield "good.json", tokenizer()
    yield "gap.json", tokenizer('"id":3', '"id":7')
    yield "gap_huge.json", tokenizer('"id":3', '"id":2000000000')
    yield "id_negative.json", tokenizer('"id":3', '"id":-1')
    yield "id_wraps.json", tokenizer('"id":3', '"id":4294967296')
    yield "id_taken.json", tokenizer('"id":3', '"id":1')
    yield "surrogate.json", tokenizer('"ab":2', '"\\ud800":2')
    yield "nul.json", tokenizer('"ab":2', '"a\\u0000b":2')
    yield "utf8.json", tokenizer('"ab":2', '"?":2').encode().replace(b"?", b"\xff")
    yield "merge_cycle.json", tokenizer('[["a","b"]]', '[["a","b"],["b","a"]]')
    yield "merge_one.json", tokenizer('["a","b"]', '"ab"')
    yield "merge_unknown.json", tokenizer('["a","b"]', '["a","c"]')
    yield "normalizer.json", tokenizer('"normalizer":null', '"normalizer":{"type":"NFKC"}')
    yield "regex.json", tokenizer('{"type":"ByteLevel"', '{"type":"Split","pattern":{"Regex":"(a+)+$"},"behavior":"Isolated"')
    yield "unigram.json", tokenizer('"BPE"', '"Unigram"')
    yield "truncated.json", tokenizer()[:-9]
    yield "deep.json", '{"model":' + "[" * 3000


def templates():
    plain = "{% for m in messages %}<s>{{ m.content }}{% endfor %}"
    for name, text in [
            ("good", plain), ("ssti", "{{ ''.__class__.__mro__[1].__subclasses__() }}"), ("ssti_attr", "{{ ''|attr('__class__') }}"),
            ("import", "\n{% import 'os' as os %}"), ("include", "{% include '/etc/passwd' %}"),
            ("call", "{{ messages.__init__('x') }}"), ("recursion", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
            ("deep", "{{ " + "(" * 200 + "1" + ")" * 200 + " }}"),
            ("steps", "{% set x = 'x' * 10000000 %}{% for a in range(1000) %}{% if 'y' in x %}{% endif %}{% endfor %}"),
            ("range", "{% for a in range(9223372036854775807) %}{% endfor %}"),
            ("output", "{% set x = 'x' * 1000000 %}{% for a in range(1000) %}{{ x }}{% endfor %}"),
            ("memory", "{% set n = namespace(x='0123456789abcdef') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"),
            ("overflow", "{{ 9223372036854775807 + 1 }}"), ("unclosed", "{% if messages %}\n"), ("surrogate", "{{ '\\ud800' }}"),
            ("refuses", "{{ raise_exception('no\nway') }}")]:
        yield f"{name}.gguf", gguf(changed(VOCABULARY, ("tokenizer.chat_template", text)))
    yield "utf8.gguf", gguf(changed(VOCABULARY, ("tokenizer.chat_template", b"a\xff")))
    yield "none.gguf", gguf(VOCABULARY)
    yield "number.gguf", gguf(changed(VOCABULARY, ("tokenizer.chat_template", 1)))


def texts():
    yield "good.json", '[{"role": "user", "content": "ab"}]'
    yield "injection.json", '[{"role": "user", "content": "<s>ab<s>"}]'
    yield "surrogate.json", '[{"role": "user", "content": "\\ud800"}]'
    yield "nul.json", '[{"role": "user", "content": "a\\u0000b"}]'
    yield "utf8.json", b'[{"role": "user", "content": "\xff"}]'
    yield "role.json", '[{"content": "a"}]'
    yield "object.json", '{"role": "user", "content": "a"}'
    yield "utf8.txt", b"ab\xff"
    yield "overlong.txt", b"a\xc0\x80"
    yield "surrogate.txt", b"a\xed\xa0\x80"
    yield "cut.txt", b"ab\xe2\x82"
    yield "nul.txt", b"a\0b"
    yield "special.txt", b"<s>ab"


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/bad")
    for name, files in [("gguf", ggufs()), ("split", splits()), ("safetensors", tensors_files()), ("tokenizer", tokenizers()),
                        ("template", templates()), ("text", texts())]:
        (out / name).mkdir(parents=True, exist_ok=True)
        for file, data in files:
            (out / name / file).write_bytes(data.encode() if isinstance(data, str) else data)
    for name, files in folders():
        (out / "folder" / name).mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            path = out / "folder" / name / file
            if isinstance(data, pathlib.Path):
                path.unlink(missing_ok=True)
                path.symlink_to(data)
            else:
                path.write_bytes(data.encode() if isinstance(data, str) else data)


if __name__ == "__main__":
    main()
