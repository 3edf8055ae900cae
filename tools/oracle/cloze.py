"""The cloze objective and a recorder of everything a forward pass shows, on transformers models.

Score of a choice  = mean over its tokens of log p(token | prefix, earlier tokens of the choice)
Loss of a question = cross-entropy of the right choice under softmax over the scores
"""
import torch


def scores(model, prefix, choices):
    """prefix: list of ids; choices: list of lists of ids. Returns [len(choices)], differentiable."""
    out = []
    for choice in choices:
        ids = torch.tensor([prefix + choice])
        logp = torch.log_softmax(model(input_ids=ids).logits[0].float(), dim=-1)
        rows = torch.arange(len(prefix) - 1, len(prefix) + len(choice) - 1)
        out.append(logp[rows, torch.tensor(choice)].mean())
    return torch.stack(out)


def loss(score, right):
    return torch.nn.functional.cross_entropy(score[None], torch.tensor([right]))


@torch.no_grad()
def record(model, sequences):
    """Runs each sequence by itself and concatenates over tokens. Returns a dict of tensors:

    logits [T, V]; hidden.0 = scaled embeddings, hidden.l+1 = output of layer l, hidden.final = after the last norm, all [T, D];
    MoE: router_logits.l [T, N], selected.l i32 [T, K] by falling logit, gates.l [T, K].
    """
    body = model.get_base_model().model if hasattr(model, "get_base_model") else model.model
    log = {}

    def keep(name, value):
        log.setdefault(name, []).append(value.detach().reshape(-1, value.shape[-1]).clone())

    hooks = []
    for i, layer in enumerate(body.layers):
        if i == 0:
            hooks.append(layer.register_forward_pre_hook(lambda m, a: keep("hidden.0", a[0])))
        hooks.append(layer.register_forward_hook(
            lambda m, a, o, i=i: keep(f"hidden.{i + 1}", o[0] if isinstance(o, tuple) else o)))
        moe = getattr(layer, "block_sparse_moe", getattr(layer, "mlp", None))
        router = getattr(moe, "router", getattr(moe, "gate", None))
        if router is not None:
            def routed(m, a, o, i=i):
                keep(f"router_logits.{i}", o[0])
                keep(f"gates.{i}", o[1])
                keep(f"selected.{i}", o[2].int())
            hooks.append(router.register_forward_hook(routed))
    hooks.append(body.norm.register_forward_hook(lambda m, a, o: keep("hidden.final", o)))
    for ids in sequences:
        keep("logits", model(input_ids=torch.tensor([ids])).logits)
    for h in hooks:
        h.remove()
    return {name: torch.cat(rows) for name, rows in log.items()}


def flat(lists):
    """Variable-length id lists as (flat i32 [sum], offsets i32 [n + 1])."""
    offsets = [0]
    for ids in lists:
        offsets.append(offsets[-1] + len(ids))
    return (torch.tensor([t for ids in lists for t in ids], dtype=torch.int32), torch.tensor(offsets, dtype=torch.int32))
