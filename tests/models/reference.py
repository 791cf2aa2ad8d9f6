"""The original definitions, written anew and plainly: the TRM, and a GPT-2 stack run several times.

Plain functions over dictionaries of weights, loops spelled out, float32, torch's own attention; nothing is
imported from `grokscope.models`. B batch, H heads, T positions with prefix, K head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def trm(
    w: Weights,
    tokens: Tensor,
    *,
    heads: int,
    mixer: bool,
    positions: str,
    h_cycles: int,
    l_cycles: int,
    layers: int,
) -> dict[str, Tensor]:
    """Every stage's state by name, and "logits" (prefix cut) and "halt"."""
    width = w["token_embedding"].shape[1]
    embedding = w["token_embedding"][tokens.long()]
    prefix = 0
    if "prefix_embedding" in w:
        prefix = w["prefix_embedding"].shape[0]
        embedding = torch.cat([w["prefix_embedding"].unsqueeze(0).repeat(len(tokens), 1, 1), embedding], 1)
    if positions == "learned":
        embedding = 0.707106781 * (embedding + w["position_embedding"])
    e = math.sqrt(width) * embedding

    def rms(x: Tensor) -> Tensor:
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)

    def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        both = x @ gate_up.T
        half = both.shape[-1] // 2
        return (F.silu(both[..., :half]) * both[..., half:]) @ down.T

    def level(z: Tensor, injection: Tensor) -> Tensor:
        x = z + injection
        for i in range(layers):
            b = f"level.blocks.{i}."
            if mixer:
                xt = x.transpose(1, 2)
                xt = rms(xt + swiglu(xt, w[b + "mixer.gate_up.weight"], w[b + "mixer.down.weight"]))
                x = xt.transpose(1, 2)
            else:
                qkv, out = w[b + "attention.qkv.weight"], w[b + "attention.out.weight"]
                x = rms(
                    x + attention(x, qkv, None, out, None, heads, causal=False, rotary=positions == "rotary")
                )
            x = rms(x + swiglu(x, w[b + "mlp.gate_up.weight"], w[b + "mlp.down.weight"]))
        return x

    z_h = w["h_init"].expand(e.shape)
    z_l = w["l_init"].expand(e.shape)
    found = {"init": z_h}
    for cycle in range(h_cycles):
        for think in range(l_cycles):
            z_l = level(z_l, z_h + e)
            found[f"cycle{cycle}.think{think}"] = z_l
        z_h = level(z_h, z_l)
        found[f"cycle{cycle}.commit"] = z_h
    found["logits"] = (z_h @ w["head.weight"].T)[:, prefix:]
    found["halt"] = z_h[:, 0] @ w["halting.weight"].T + w["halting.bias"]
    return found


def gpt2(
    w: Weights, tokens: Tensor, *, heads: int, layers: int, loops: int, temperature: float | None
) -> dict[str, Tensor]:
    """Recurrent GPT-2: embeddings, `loops` times the same layers, final LayerNorm, tied head."""
    table = w["token_embedding"]
    x = table[tokens.long()] + w["position_embedding"][: tokens.shape[1]]
    found = {"embed": x}

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        std = torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
        return centred / std * w[name + ".gain"] + w[name + ".bias"]

    for loop in range(loops):
        if loop and temperature is not None:
            x = x + torch.softmax(temperature * (x @ table.T), -1) @ table
        for i in range(layers):
            b = f"blocks.{i}."
            a = b + "attention."
            maps = (w[a + "qkv.weight"], w[a + "qkv.bias"], w[a + "out.weight"], w[a + "out.bias"])
            x = x + attention(norm(x, b + "norm1"), *maps, heads, causal=True, rotary=False)
            inner = norm(x, b + "norm2") @ w[b + "mlp.up.weight"].T + w[b + "mlp.up.bias"]
            inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
            x = x + inner @ w[b + "mlp.down.weight"].T + w[b + "mlp.down.bias"]
            found[f"loop{loop}.layer{i}"] = x
    found["logits"] = norm(x, "final_norm") @ table.T
    return found


def attention(
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor | None,
    out: Tensor,
    out_bias: Tensor | None,
    heads: int,
    causal: bool,
    rotary: bool,
) -> Tensor:
    """Multi-head attention by torch's kernel; rotary turns the pairs (i, i + half) as complex numbers."""
    q, k, v = F.linear(x, qkv, qkv_bias).chunk(3, -1)
    q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))
    if rotary:
        q, k = rotate(q), rotate(k)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return F.linear(mixed.transpose(1, 2).flatten(-2), out, out_bias)


def rotate(x: Tensor) -> Tensor:
    """x (B, H, T, K): the pair (i, i + K / 2) at position t turned by t / 10000^(2 i / K)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] / 10000 ** (torch.arange(half) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)
