#!/usr/bin/env python3
"""Folders that `vmoer convert` writes, in transformers: AutoModelForCausalLM's logits beside those of the golden files, AutoTokenizer's ids beside the
folder's own from save_pretrained. Format and results: docs/ORACLES.md.

    python tools/check_folder.py build/vmoer [--only gpt-oss] [--golden tests/golden]
"""
import argparse
import pathlib
import subprocess
import tempfile

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

import golden_tokens

TEXTS = ["Question: the ring\n", "<|im_start|>user\nWhat on 12 Quays?<|im_end|>", "na\u00efve \U0001f600\t  x", "", " the  there"]
CHAT = [{"role": "user", "content": "the weather"}]
REMOTE = {"tiny-deepseek"}  # transformers has no class for it


def logits_error(folder, golden):
    """Largest difference of a logit over the largest logit, on all golden sequences."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids, offsets, want = golden["ids"], golden["offsets"].tolist(), golden["logits"]
    with torch.no_grad():
        got = torch.cat([model(ids[None, a:b].long()).logits[0] for a, b in zip(offsets, offsets[1:])])
    return float((got - want.reshape(got.shape)).abs().max() / want.abs().max())


def differing_ids(folder, other):
    ours, theirs = AutoTokenizer.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(other)
    wrong = sum(ours(text)["input_ids"] != theirs(text)["input_ids"] for text in TEXTS)
    wrong += any(getattr(ours, n) != getattr(theirs, n) for n in ("bos_token_id", "eos_token_id", "pad_token_id"))
    return wrong + (ours.apply_chat_template(CHAT, tokenize=False) != theirs.apply_chat_template(CHAT, tokenize=False))


def sentencepiece(vmoer, golden, scratch):
    """A random Mixtral with SentencePiece's BPE: folder -> GGUF -> folder. Texts that llama.cpp and transformers have other ids for than the first folder's."""
    tok = Tokenizer.from_file(str(golden / "tokenizer_mixtral.json"))
    folder, gguf, back = f"{scratch}/spm", f"{scratch}/spm.gguf", f"{scratch}/back"
    model = MixtralForCausalLM(MixtralConfig(
        vocab_size=tok.get_vocab_size(), hidden_size=32, num_hidden_layers=1, intermediate_size=16, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=4, max_position_embeddings=512)).float().eval()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    for a, b in ((folder, gguf), (gguf, back)):
        subprocess.run([vmoer, "convert", "-q", "-m", a, "--output_path", b], check=True, stdout=subprocess.DEVNULL)
    texts = list(golden_tokens.spm_texts())
    want, ours = golden_tokens.encode(tok, texts, 1), AutoTokenizer.from_pretrained(back)
    theirs = golden_tokens.encode(golden_tokens.LlamaCpp(gguf), texts, 1)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        error = float((AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32)(ids).logits - model(ids).logits).abs().max())
    return len(texts), sum(list(x) != list(y) for x, y in zip(want, theirs)), sum(ours(t)["input_ids"] != tok.encode(t).ids for t in texts), error


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("vmoer", type=pathlib.Path)
    a.add_argument("--only", help="a part of the models' names")
    a.add_argument("--golden", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
    a = a.parse_args()
    torch.set_num_threads(1)
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        n, llama, ours, error = sentencepiece(a.vmoer, a.golden, scratch)
        print(f"SentencePiece's BPE: {n} texts, other ids: llama.cpp {llama}, transformers {ours}; logits {error:.1e}", flush=True)
        wrong += llama or ours or error > 1e-5
    for gguf in sorted(a.golden.glob("tiny-*.gguf")):
        name = gguf.stem
        if name.endswith("-lora") or name in REMOTE or (a.only or "") not in name:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            if name == "tiny-gpt-oss-mxfp4":  # the file has Q8_0, too: its folder's weights
                source = f"{scratch}/plain.gguf"
                subprocess.run([a.vmoer, "convert", "-q", "-m", a.golden / f"{name}-folder", "--output_path", source], check=True, stdout=subprocess.DEVNULL)
                gguf = source
            for size in ([], ["--shard_size", "60KB"]):
                folder = f"{scratch}/{name}{len(size)}"
                subprocess.run([a.vmoer, "convert", "-q", "-m", gguf, "--output_path", folder, *size], check=True, stdout=subprocess.DEVNULL)
                error = logits_error(folder, load_file(a.golden / f"{name}.safetensors"))
                ids = differing_ids(folder, a.golden / "tiny-llama-folder")
                files = len(list(pathlib.Path(folder).glob("*.safetensors")))
                print(f"{name}: {files} file(s), logits {error:.1e}, texts with other ids, ends or chat {ids}", flush=True)
                wrong += error > 1e-5 or ids
    raise SystemExit(wrong != 0)


if __name__ == "__main__":
    main()
