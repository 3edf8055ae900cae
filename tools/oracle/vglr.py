"""VGLR, variational Gaussian logit routing, in PyTorch: the reference for the router's forward, loss, inference and gradients.

    h = silu(u W1^T + b1);  dmu = h Wm^T + bm;  raw = h Wl^T + bl
    L_ii = exp(raw_ii), L_ij = raw_ij for j < min(i, rank), else 0; raw has L's entries row by row. mf: rank 0; fc: rank n - 1
    l = l_det + dmu + L eps;  p = softmax(l)
    KL = KL( N(l_det + dmu, L L^T) || N(l_det, s0^2 I) )
"""
import math

import torch

NAMES = ["trunk.weight", "trunk.bias", "mean.weight", "mean.bias", "scale.weight", "scale.bias"]


def entries(n, rank):
    """Rows and columns of L's entries, in raw's order."""
    return torch.tensor([(i, j) for i in range(n) for j in [*range(min(i, rank)), i]]).T


def parameters(n, dim, width, rank, generator, scale=0.3):
    """Random values (f32) at which every term of the loss has a gradient of ordinary size."""
    rows, cols = entries(n, rank)
    m = len(rows)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    bias = 0.1 * normal(m)
    bias[rows == cols] += math.log(scale)
    return {"trunk.weight": normal(width, dim) / dim ** 0.5, "trunk.bias": 0.1 * normal(width),
            "mean.weight": 0.5 * normal(n, width) / width ** 0.5, "mean.bias": 0.1 * normal(n),
            "scale.weight": 0.5 * normal(m, width) / width ** 0.5, "scale.bias": bias}


def heads(w, u):
    """u [T, D] -> dmu [T, N], raw [T, M]."""
    h = torch.nn.functional.silu(u @ w["trunk.weight"].T + w["trunk.bias"])
    return h @ w["mean.weight"].T + w["mean.bias"], h @ w["scale.weight"].T + w["scale.bias"]


def cholesky(raw, n):
    """raw [T, M] -> L [T, N, N]; M tells the rank."""
    rows, cols = entries(n, next(r for r in range(n) if len(entries(n, r)[0]) == raw.shape[-1]))
    L = raw.new_zeros(*raw.shape[:-1], n, n)
    L[..., rows, cols] = torch.where(rows == cols, raw.exp(), raw)
    return L


def kl(dmu, L, s0):
    """[T], nats."""
    n = dmu.shape[-1]
    diagonal = torch.diagonal(L, dim1=-2, dim2=-1)
    return 0.5 * (((dmu ** 2).sum(-1) + (L ** 2).sum((-2, -1))) / s0 ** 2 - n - 2 * diagonal.log().sum(-1) + 2 * n * math.log(s0))


def draw(w, u, l_det, eps):
    """One draw: l [T, N], and what the KL needs."""
    dmu, raw = heads(w, u)
    L = cholesky(raw, l_det.shape[-1])
    return l_det + dmu + (L @ eps[..., None])[..., 0], dmu, L


def closed(m, L):
    """Expected softmax without sampling: p_k ~ 1 / sum_i exp(-(m_k - m_i) / sqrt(1 + pi/8 v_ki)), v_ki = S_kk + S_ii - 2 S_ki."""
    S = L @ L.transpose(-2, -1)
    d = torch.diagonal(S, dim1=-2, dim2=-1)
    v = d[..., :, None] + d[..., None, :] - 2 * S
    z = (m[..., :, None] - m[..., None, :]) / torch.sqrt(1 + math.pi / 8 * v)
    p = 1 / torch.exp(-z).sum(-1)
    return p / p.sum(-1, keepdim=True)


def antithetic(m, L, eps):
    """Mean softmax over the draws eps [S/2, N] and their negatives."""
    d = torch.einsum("tij,sj->tsi", L, eps)
    return 0.5 * (torch.softmax(m[:, None] + d, -1) + torch.softmax(m[:, None] - d, -1)).mean(1)


def traces(L):
    """tr Sigma and tr P Sigma P with P = I - 11'/N, each [T]."""
    n = L.shape[-1]
    total = (L ** 2).sum((-2, -1))
    return total, total - (L.sum(-2) ** 2).sum(-1) / n
