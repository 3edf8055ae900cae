"""DeepSeek-MoE (v1), which transformers does not have: a Llama whose feed-forward blocks above the first ones are this.

    y = shared(u) + scale * sum over the K experts of the largest p_e:  p_e expert_e(u),      p = softmax(W u)

The p_e are not renormalised; scale is 1 in v1, but files may say another. The shared experts are one SwiGLU block of their widths' sum. Parameters are named and stacked as
transformers names those of its later DeepSeek models.
"""
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM


class DeepseekConfig(LlamaConfig):
    model_type = "deepseek"
    first_k_dense_replace: int = 1
    num_experts: int = 8
    n_shared_experts: int = 2
    num_experts_per_tok: int = 3
    moe_intermediate_size: int = 16
    routed_scaling_factor: float = 1.0


class Mlp(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.gate_proj = nn.Linear(dim, width, bias=False)
        self.up_proj = nn.Linear(dim, width, bias=False)
        self.down_proj = nn.Linear(width, dim, bias=False)

    def forward(self, u):
        return self.down_proj(F.silu(self.gate_proj(u)) * self.up_proj(u))


class Router(nn.Module):
    def __init__(self, dim, experts, k, scale):
        super().__init__()
        self.k, self.scale = k, scale
        self.weight = nn.Parameter(torch.empty(experts, dim))

    def forward(self, u):
        logits = F.linear(u, self.weight)
        gates, chosen = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        return logits, self.scale * gates, chosen


class Experts(nn.Module):
    def __init__(self, dim, experts, width):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, dim))
        self.down_proj = nn.Parameter(torch.empty(experts, dim, width))

    def forward(self, u, gates, chosen):
        out = []
        for token in range(u.shape[0]):
            y = torch.zeros_like(u[token])
            for g, e in zip(gates[token], chosen[token]):
                gate, up = F.linear(u[token], self.gate_up_proj[e]).chunk(2)
                y = y + g * F.linear(F.silu(gate) * up, self.down_proj[e])
            out.append(y)
        return torch.stack(out)


class Moe(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate = Router(c.hidden_size, c.num_experts, c.num_experts_per_tok, c.routed_scaling_factor)
        self.experts = Experts(c.hidden_size, c.num_experts, c.moe_intermediate_size)
        self.shared_experts = Mlp(c.hidden_size, c.n_shared_experts * c.moe_intermediate_size)

    def forward(self, u):
        flat = u.reshape(-1, u.shape[-1])
        _, gates, chosen = self.gate(flat)
        return (self.experts(flat, gates, chosen) + self.shared_experts(flat)).reshape(u.shape)


class DeepseekForCausalLM(LlamaForCausalLM):
    config_class = DeepseekConfig

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers[config.first_k_dense_replace:]:
            layer.mlp = Moe(config)
