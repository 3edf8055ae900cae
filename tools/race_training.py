#!/usr/bin/env python3
"""How fast does PyTorch + transformers (+ peft) train on cloze questions? The figure that ours is compared with.

    python tools/race_training.py [--mode lora|full] [--steps 20] [--threads 2] [--model FILE.gguf] [--data DIR]

The usual way: a batch of 16 OpenBookQA questions = 64 rows (prefix + choice), padded to the longest, logits only where a choice's
tokens are predicted, CE of the right choice over the mean log-probabilities, AdamW, bf16 autocast, f32 master weights. LoRA: r 8,
alpha 16 on q, k, v, o, gate, up, down. Batches are shuffled, as in training; the first step is not timed.
"""
import argparse
import time

import torch

from oracle import gguf_to_hf, questions


def batches(data, tokenizer, size, steps):
    items = questions.cloze(tokenizer, questions.read(data / "openbookqa" / "train.jsonl"))
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
    for s in range(steps):
        yield [items[i] for i in order[s * size:(s + 1) * size]]


def pad(batch):
    """ids and mask [rows, longest]; weight [rows, longest - 1] = 1 / tokens of the choice where it is predicted; right [questions]."""
    rows = [(prefix, choice) for prefix, choices, _ in batch for choice in choices]
    longest = max(len(p) + len(c) for p, c in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    weight = torch.zeros(len(rows), longest - 1)
    for i, (p, c) in enumerate(rows):
        n = len(p) + len(c)
        ids[i, :n] = torch.tensor(p + c)
        mask[i, :n] = 1
        weight[i, len(p) - 1:n - 1] = 1 / len(c)
    return ids, mask, weight, torch.tensor([right for _, _, right in batch])


def loss_of(model, batch):
    ids, mask, weight, right = pad(batch)
    body = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = body.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
    asked = weight > 0
    logp = torch.log_softmax(body.lm_head(hidden[asked]).float(), -1)
    token = logp.gather(1, ids[:, 1:][asked][:, None])[:, 0] * weight[asked]
    row = torch.arange(len(ids))[:, None].expand_as(asked)[asked]
    scores = torch.zeros(len(ids)).index_add(0, row, token).view(len(batch), -1)
    return torch.nn.functional.cross_entropy(scores, right)


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--mode", choices=("lora", "full"), default="lora")
    a.add_argument("--steps", type=int, default=20)
    a.add_argument("--batch", type=int, default=16)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    a.add_argument("--no-autocast", action="store_true", help="f32 matrix products")
    a.add_argument("--model")
    a.add_argument("--data")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    path = questions.model_file(a.model)
    model = gguf_to_hf.load(path)
    model.set_attn_implementation(a.attention)
    if a.mode == "lora":
        from peft import LoraConfig, get_peft_model
        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=names, task_type="CAUSAL_LM"))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4 if a.mode == "lora" else 4e-5)
    print(f"{a.mode}: {sum(p.numel() for p in trained)} trainable parameters, {a.threads} threads, batch {a.batch}, {a.attention}, "
          f"{'f32' if a.no_autocast else 'bf16 autocast'}, torch {torch.__version__}")
    took, asked = 0.0, 0
    for step, batch in enumerate(batches(questions.data_folder(a.data), questions.from_gguf(path), a.batch, a.steps)):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not a.no_autocast):
            loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
        if step:
            took, asked = took + seconds, asked + len(batch)
        print(f"step {step} loss {float(loss.detach()):.4f} {seconds:.2f} s")
    if asked:
        print(f"{asked / took:.2f} questions/s ({asked} questions in {took:.1f} s)")


if __name__ == "__main__":
    main()
