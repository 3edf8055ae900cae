#!/usr/bin/env python3
"""Races vmoer against PyTorch + transformers + peft on the same model, questions, batch, precision and loss; both in turn, best of N.

    bench/compare.py --moe MOE.gguf --dense DENSE.gguf [--shape SHAPE.gguf] [--repeats 3] [--only MEASURE,...] [--output FILE.csv]

Needs pip packages, for the peer alone: tools/requirements.txt. --shape: a model of tools/random_model, for the router's share of prefill.

What the peer does is the usual way, made as fast as it goes without leaving it: products in bf16 (autocast), trained tensors f32, fused attention; whether
frozen weights are f32 or bf16 and which of transformers' ways runs the experts is tried first, and the fastest races; a question is four rows (prefix and
choice) padded to the longest of the batch; logits only where a choice's tokens are predicted; AdamW. The router's training is tools/oracle/vglr.py in
the model's own layers: what lies below the lowest of them asks for no gradient, so autograd neither keeps nor computes anything there.
Steps are steady ones: of neither side the first is timed. A ratio is ours over the peer's, above 1 where ours is faster.
"""
import argparse
import csv
import datetime
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
try:
    import torch
    from oracle import gguf_to_hf, questions, vglr
    from peft import LoraConfig, get_peft_model
except ImportError as e:
    raise SystemExit(f"compare: {e}; the peer needs: pip install -r tools/requirements.txt")

COLUMNS = ["measure", "ours", "peer", "unit", "ratio", "goal", "holds", "cpu", "isa", "commit", "threads", "repeats", "date"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
BATCH = 16  # questions
# of bench/bench_kernels: forward, gradient of the input, gradient of the weight
SHAPES = ["qkv", "qkv_dx", "qkv_dw", "attention_out", "attention_out_dw", "gate_up", "gate_up_dx", "gate_up_dw", "down", "down_dx", "down_dw",
          "experts_up", "experts_up_dx", "experts_down", "experts_down_dx", "head", "head_dx"]


# ---- ours ----
class Ours:
    def __init__(self, a):
        self.a = a
        self.about = {}

    def bench(self, model, tests, threads=None, *more):
        """{test: row} of one call; the peaks' rows are of no use here."""
        command = [self.a.vmoer, "bench", "-q", "-o", "json", "-m", model, "--tests", tests, "-t", threads or self.a.threads, "-r", 3,
                   "-b", BATCH, "--limit", self.a.questions, "--data", self.a.data, "--layers", self.a.layers,
                   "--lengths", self.a.length, *more]
        out = json.loads(subprocess.run([str(x) for x in command], check=True, capture_output=True, text=True).stdout)
        self.about = out
        return {row["test"]: row for row in out["results"]}

    def rate(self, model, tests, test, threads=None, *more):
        return self.bench(model, tests, threads, *more)[test]["rate"]

    def chosen(self, tokenizer):
        """The questions that bench takes, for the peer, and the scores our eval gives their choices on the MoE."""
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([str(x) for x in [self.a.vmoer, "eval", "-q", "-m", self.a.moe, "--data", self.a.data, "--tasks", "openbookqa",
                                             "--split", "train", "--limit", self.a.questions, "--bootstrap", 1, "--output_path", folder]],
                           check=True, capture_output=True)
            samples = [json.loads(line) for line in (pathlib.Path(folder) / "samples.jsonl").read_text().splitlines()]
        items = {}
        for part in ("train", "dev"):
            path = pathlib.Path(self.a.data) / "openbookqa" / f"{part}.jsonl"
            names = [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]
            items.update(zip(names, questions.read(path)))
        return questions.cloze(tokenizer, [items[s["id"]] for s in samples]), torch.tensor([s["scores"] for s in samples])


# ---- the peer ----
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


def bf16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def scores(model, ids, mask, weight, n):
    """[n, choices]: mean log-probability of each choice's tokens."""
    body = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = body.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
    asked = weight > 0
    logits = body.lm_head(hidden[asked]).float() / getattr(body.config, "logits_scaling", 1.0)
    token = torch.log_softmax(logits, -1).gather(1, ids[:, 1:][asked][:, None])[:, 0] * weight[asked]
    row = torch.arange(len(ids))[:, None].expand_as(asked)[asked]
    return torch.zeros(len(ids)).index_add(0, row, token).view(n, -1)


def load(path, how):
    """how: (are frozen weights f32 or bf16, which way are experts run)."""
    weights, experts = how
    model = gguf_to_hf.load(path)
    for p in model.parameters():  # not the rotary frequencies, which a model loaded in bf16 keeps in f32 too
        p.data = p.data.to(weights)
    model.set_attn_implementation("sdpa")
    if hasattr(model.config, "num_local_experts"):
        model.set_experts_implementation(experts)
    return model.requires_grad_(False)


class VariationalRouter(torch.nn.Module):
    """A VGLR-FC in the place of a layer's router: one draw a token."""

    def __init__(self, base, generator):
        super().__init__()
        self.base = base
        weights = vglr.parameters(base.num_experts, base.weight.shape[1], 64, True, generator)
        self.names = list(weights)
        self.values = torch.nn.ParameterList(weights.values())

    def forward(self, hidden):
        logits = torch.nn.functional.linear(hidden, self.base.weight).float()
        w = dict(zip(self.names, self.values))
        with torch.autocast("cpu", enabled=False):
            drawn, dmu, L = vglr.draw(w, hidden.float(), logits, torch.randn_like(logits))
            self.kl = vglr.kl(dmu, L, 1.0)
            top, index = drawn.topk(self.base.top_k, dim=-1)
            return drawn, torch.softmax(top, -1).to(hidden.dtype), index


class Peer:
    def __init__(self, path, how):
        self.model = load(path, how)
        self.trained, self.routers, self.first, self.scores = [], [], True, None

    def lora(self, modules):
        self.model = get_peft_model(self.model, LoraConfig(r=8, lora_alpha=16, target_modules=modules, task_type="CAUSAL_LM"))
        return self.train([p for p in self.model.parameters() if p.requires_grad], 1e-4)

    def router(self, layers):
        generator = torch.Generator().manual_seed(0)
        for l in layers:
            block = self.model.model.layers[l].block_sparse_moe
            block.router = VariationalRouter(block.router, generator)
            self.routers.append(block.router)
        return self.train([p for r in self.routers for p in r.parameters() if p.requires_grad], 1e-3)

    def train(self, trained, rate):
        for p in trained:
            p.data = p.data.float()
        self.trained = trained
        self.optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0)
        self.model.train()
        return self

    def step(self, batch):
        ids, mask, weight, right = pad(batch)
        with bf16():
            loss = torch.nn.functional.cross_entropy(scores(self.model, ids, mask, weight, len(batch)), right)
        if self.routers:
            real = mask.reshape(-1).bool()
            loss = loss + 0.01 * torch.stack([r.kl[real].mean() for r in self.routers]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.item()

    def warm(self, run):
        if self.first:
            run()
        self.first = False

    def epoch(self, items):
        """Questions/s of whole steps."""
        batches = [items[i:i + BATCH] for i in range(0, len(items), BATCH)]
        self.warm(lambda: self.step(batches[0]))
        start = time.perf_counter()
        for batch in batches:
            self.step(batch)
        return len(items) / (time.perf_counter() - start)

    @torch.inference_mode()
    def evaluate(self, items):
        def run(batch):
            ids, mask, weight, _ = pad(batch)
            with bf16():
                return scores(self.model, ids, mask, weight, len(batch))
        batches = [items[i:i + BATCH] for i in range(0, len(items), BATCH)]
        self.warm(lambda: run(batches[0]))
        start = time.perf_counter()
        self.scores = torch.cat([run(batch) for batch in batches])
        return len(items) / (time.perf_counter() - start)

    @torch.inference_mode()
    def prefill(self, n):
        ids = torch.randint(0, self.model.config.vocab_size, (1, n), generator=torch.Generator().manual_seed(0))

        def run():
            with bf16():
                return self.model(input_ids=ids, logits_to_keep=1).logits
        self.warm(run)
        start = time.perf_counter()
        run()
        return n / (time.perf_counter() - start)


# ---- the race ----
class Race:
    def __init__(self, a):
        self.a, self.rows = a, []
        self.ours = Ours(a)
        self.items, self.scores = self.ours.chosen(questions.from_gguf(a.dense))
        self.ours.bench(a.moe, "prefill")  # who we are, for the rows
        self.how = {}

    def only(self, name):
        return not self.a.only or name in self.a.only.split(",")

    def row(self, measure, ours, peer, unit, goal="", ratio=None, threads=None):
        about, ratio = self.ours.about, ours / peer if ratio is None else ratio
        self.rows.append({
            "measure": measure, "ours": f"{ours:.4g}", "peer": f"{peer:.4g}", "unit": unit, "ratio": f"{ratio:.3f}", "goal": goal,
            "holds": "" if goal == "" else "yes" if ratio >= goal else "no", "cpu": about["cpu"], "isa": about["isa"],
            "commit": about["build"].split("commit ")[1].split(",")[0], "threads": threads or about["threads"],
            "repeats": self.a.repeats, "date": datetime.date.today().isoformat()})
        with open(self.a.output, "w", newline="") as f:
            w = csv.DictWriter(f, COLUMNS)
            w.writeheader()
            w.writerows(self.rows)
        print(f"{measure:44s} {ours:10.4g} {peer:10.4g} {unit:12s} x {ratio:.3f}  goal {goal or '-'}", flush=True)

    def run(self, *sides):
        """The best of each side's repeats, all in turn."""
        best = [0.0] * len(sides)
        for _ in range(self.a.repeats):
            best = [max(b, side()) for b, side in zip(best, sides)]
        return best

    def fastest(self, path, modules=None):
        """How the peer is fastest, by a step of LoRA on the modules, or an evaluation, with a few questions. (transformers' third way to run
        experts, batched_mm, copies their weights for every token.)"""
        if (path, bool(modules)) not in self.how:
            rates = {}
            for how in itertools.product((torch.bfloat16, torch.float32), ("grouped_mm", "eager") if path == self.a.moe else (None,)):
                peer = Peer(path, how)
                if modules:
                    peer.lora(modules)
                rates[how] = (peer.epoch if modules else peer.evaluate)(self.items[:BATCH // 2])
            self.how[path, bool(modules)] = max(rates, key=rates.get)
            print(f"peer, {'training' if modules else 'inference'}, questions/s: " +
                  ", ".join(f"{experts or 'dense'} of {str(w)[6:]} {r:.2f}" for (w, experts), r in rates.items()), file=sys.stderr)
        return self.how[path, bool(modules)]

    def finetune(self, name, model, targets, modules):
        peer = Peer(model, self.fastest(model, modules)).lora(modules)
        o, p = self.run(lambda: self.ours.rate(model, "finetune", "finetune r 8", None, "--targets", targets),
                        lambda: peer.epoch(self.items))
        self.row(name, o, p, "questions/s", 3)

    def calibrate(self):
        first = self.ours.bench(self.a.moe, "calibrate")
        layers = self.ours.about["router"]["layers"]
        peer = Peer(self.a.moe, self.fastest(self.a.moe, ATTENTION)).router(layers)
        rows = [first]

        def ours():
            rows.append(self.ours.bench(self.a.moe, "calibrate"))
            return rows[-1]["calibrate again"]["rate"]
        again, p = self.run(ours, lambda: peer.epoch(self.items))
        self.row("router ELBO, moe, cached states", again, p, "questions/s", 5)
        self.row("router ELBO, moe, first epoch", max(r["calibrate"]["rate"] for r in rows[1:]), p, "questions/s", 5)

    def evaluate(self):
        peer = Peer(self.a.moe, self.fastest(self.a.moe))
        by_length = sorted(self.items, key=lambda q: len(q[0]) + max(map(len, q[1])))
        four = []

        def ours():
            rows = self.ours.bench(self.a.moe, "eval,four-prompts")
            four.append(rows["four prompts"]["rate"])
            return rows["eval"]["rate"]
        peer.evaluate(self.items)
        apart = (peer.scores - self.scores).abs()
        print(f"peer: scores of the choices {apart.mean():.3f} nats from ours on average, {apart.max():.3f} at most", file=sys.stderr)
        if apart.mean() > 0.15:  # 0.06 is what bf16 does to routing
            raise SystemExit("compare: the peer does not compute what we do")
        o, plain, ordered = self.run(ours, lambda: peer.evaluate(self.items), lambda: peer.evaluate(by_length))
        self.row("cloze evaluation, moe", o, plain, "questions/s", 3)
        self.row("cloze evaluation, moe, peer sorted by length", o, ordered, "questions/s", 3)
        self.row("cloze evaluation, moe, over our four prompts", o, max(four), "questions/s", 2)

    def prefill(self):
        peer = Peer(self.a.moe, self.fastest(self.a.moe))
        o, p = self.run(lambda: self.ours.rate(self.a.moe, "prefill", f"pp{self.a.length}"), lambda: peer.prefill(self.a.length))
        self.row(f"prefill {self.a.length} tokens, moe", o, p, "tokens/s")

    def threads(self):
        for measure, tests, test in ((f"prefill {self.a.length} tokens, moe", "prefill", f"pp{self.a.length}"), ("cloze evaluation, moe", "eval", "eval"),
                                     ("MAP LoRA r 8, moe", "finetune", "finetune r 8"), ("router ELBO, moe", "calibrate", "calibrate again")):
            two, one = self.run(*(lambda n=n: self.ours.rate(self.a.moe, tests, test, n) for n in (2, 1)))
            self.row(f"two threads over one: {measure}", two, one, "questions/s" if tests != "prefill" else "tokens/s", 1.9, threads=2)

    def router(self):
        for name, model in (("moe", self.a.moe), ("3B shape", self.a.shape)):
            if not model:
                continue
            rows, test = self.ours.bench(model, "router", None, "--samples", "32", "-r", max(5, 5 * self.a.repeats)), f"pp{self.a.length}"
            self.row(f"VGLR-FC, S = 32, over deterministic: prefill, {name}", rows[test + " sample 32"]["rate"], rows[test]["rate"],
                     "tokens/s", 0.99)

    def gemm(self):
        isa = self.ours.about["isa"]
        goal = {"amx": 0.45, "avx512": 0.75}.get(isa, "")
        best = {}
        for _ in range(self.a.repeats):
            out = subprocess.run([self.a.bench_kernels, isa, *SHAPES], check=True, capture_output=True, text=True,
                                 env={**os.environ, "BENCH_SECONDS": "0.1"}).stdout
            for r in csv.DictReader(line for line in out.splitlines() if not line.startswith("#")):
                if r["type"] == "bf16" and float(r["of_peak_1"]) > float(best.get(r["shape"], {"of_peak_1": 0})["of_peak_1"]):
                    best[r["shape"]] = r
        for name in SHAPES:
            r = best[name]
            share, rate = float(r["of_peak_1"]), float(r["gflops_1"])
            self.row(f"GEMM bf16 {name}: {r['m']} x {r['k']} x {r['n']}", rate, rate / share, "GFLOP/s", goal, share, threads=1)


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Needs: pip install -r tools/requirements.txt")
    a.add_argument("--moe", required=True, help="Mixture-of-Experts GGUF")
    a.add_argument("--dense", required=True, help="dense GGUF with the same tokenizer")
    a.add_argument("--shape", help="GGUF of tools/random_model: the router's overhead on a larger shape; half its layers keep the noise small")
    a.add_argument("--data", default=os.environ.get("VMOER_DATA", "data"))
    a.add_argument("--questions", type=int, default=32)
    a.add_argument("--layers", default="auto", help="variational layers, as in vmoer bench")
    a.add_argument("--length", type=int, default=512, help="tokens of the prefill")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--repeats", type=int, default=3)
    a.add_argument("--only", help="finetune-dense,finetune-moe,calibrate,eval,prefill,threads,router,gemm")
    a.add_argument("--vmoer", default=str(ROOT / "build" / "vmoer"))
    a.add_argument("--bench-kernels", default=str(ROOT / "build" / "bench_kernels"))
    a.add_argument("--output", default="compare.csv")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    race = Race(a)
    measures = {
        "finetune-dense": lambda: race.finetune("MAP LoRA r 8, dense, attention and FFN", a.dense, "attention,experts",
                                                ATTENTION + ["gate_proj", "up_proj", "down_proj"]),
        "finetune-moe": lambda: race.finetune("MAP LoRA r 8, moe, attention", a.moe, "attention", ATTENTION),
        "calibrate": race.calibrate, "eval": race.evaluate, "prefill": race.prefill, "threads": race.threads, "router": race.router,
        "gemm": race.gemm}
    for name, run in measures.items():
        if race.only(name):
            run()


if __name__ == "__main__":
    main()
