"""Checkpoints as the reference codebases write them, and what their definitions make of them.

Written from the definitions alone: names by hand, GPT-2 in Hugging Face's layout computed plainly; nothing is
imported from `grokscope`. B batch, T positions, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
VOCAB = 13


class Draw:
    """Random weights from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return mean + std * torch.randn(shape, generator=self.generator)


def tokens(batch: int, positions: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (batch, positions), generator=torch.Generator().manual_seed(seed))


def trm_config(**changes: object) -> dict[str, object]:
    """A small TRM in its own config keys, 5 input positions behind 3 slots of which 2.5 are filled."""
    base: dict[str, object] = {
        "batch_size": 512,
        "seq_len": 5,
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "num_heads": 3,
        "expansion": 4,
        "H_cycles": 2,
        "L_cycles": 3,
        "H_layers": 0,
        "L_layers": 2,
        "mlp_t": True,
        "pos_encodings": "none",
        "puzzle_emb_ndim": 60,
        "puzzle_emb_len": 3,
        "num_puzzle_identifiers": 1,
        "forward_dtype": "bfloat16",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "halt_max_steps": 1,
        "halt_exploration_prob": 0.1,
    }
    return {**base, **changes}


def trm_weights(config: dict[str, object], lead: str = "", seed: int = 0) -> Weights:
    """A `state_dict` of the published TRM."""
    c, draw = config, Draw(seed)
    width, total = c["hidden_size"], c["seq_len"] + c["puzzle_emb_len"]

    def linear(outputs: int, inputs: int) -> Tensor:
        return draw(outputs, inputs, std=1 / math.sqrt(inputs))

    def inner(n: int) -> int:
        return math.ceil(round(c["expansion"] * n * 2 / 3) / 256) * 256

    w = {
        "H_init": draw(width),
        "L_init": draw(width),
        "embed_tokens.embedding_weight": draw(c["vocab_size"], width, std=1 / math.sqrt(width)),
        "lm_head.weight": linear(c["vocab_size"], width),
        "q_head.weight": linear(2, width),
        "q_head.bias": draw(2),
    }
    if c["puzzle_emb_ndim"]:
        w["puzzle_emb.weights"] = draw(1, c["puzzle_emb_ndim"], std=1 / math.sqrt(width))
    if c["pos_encodings"] == "learned":
        w["embed_pos.embedding_weight"] = draw(total, width, std=1 / math.sqrt(width))
    for i in range(c["L_layers"]):
        layer = f"L_level.layers.{i}."
        if c["mlp_t"]:
            w[layer + "mlp_t.gate_up_proj.weight"] = linear(2 * inner(total), total)
            w[layer + "mlp_t.down_proj.weight"] = linear(total, inner(total))
        else:
            w[layer + "self_attn.qkv_proj.weight"] = linear(3 * width, width)
            w[layer + "self_attn.o_proj.weight"] = linear(width, width)
        w[layer + "mlp.gate_up_proj.weight"] = linear(2 * inner(width), width)
        w[layer + "mlp.down_proj.weight"] = linear(width, inner(width))
    return {f"{lead}inner.{name}": t for name, t in w.items()}


def trm_truth(weights: Weights, config: dict[str, object], tokens_BS: Tensor, lead: str = "") -> Weights:
    """Every stage's state by name, "logits" and "halt", in the original's operations and their order.

    The order matters: a mixer amplifies rounding by thousands from its first pass to its last."""
    c = config
    w = {name.removeprefix(lead + "inner."): t.float() for name, t in weights.items()}
    width, heads, total = c["hidden_size"], c["num_heads"], c["seq_len"] + c["puzzle_emb_len"]
    e = F.embedding(tokens_BS, w["embed_tokens.embedding_weight"])
    if c["puzzle_emb_ndim"]:
        row = w["puzzle_emb.weights"].expand(len(tokens_BS), -1)
        row = F.pad(row, (0, c["puzzle_emb_len"] * width - c["puzzle_emb_ndim"]))
        e = torch.cat([row.reshape(len(tokens_BS), c["puzzle_emb_len"], width), e], -2)
    if c["pos_encodings"] == "learned":
        e = 0.707106781 * (e + w["embed_pos.embedding_weight"])
    e = math.sqrt(width) * e
    size = width // heads
    turns = 1.0 / (10000 ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    angle = torch.outer(torch.arange(total, dtype=torch.float32), turns)
    angle = torch.cat([angle, angle], -1)[:, None]

    def rms(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)

    def swiglu(x: Tensor, name: str) -> Tensor:
        gate, up = F.linear(x, w[name + ".gate_up_proj.weight"]).chunk(2, -1)
        return F.linear(F.silu(gate) * up, w[name + ".down_proj.weight"])

    def turned(x: Tensor) -> Tensor:
        half = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1)
        return x * angle.cos() + half * angle.sin()

    def attention(x: Tensor, name: str) -> Tensor:
        qkv = F.linear(x, w[name + ".qkv_proj.weight"]).view(len(x), total, 3 * heads, size)
        q, k, v = qkv[:, :, :heads], qkv[:, :, heads : 2 * heads], qkv[:, :, 2 * heads :]
        if c["pos_encodings"] == "rope":
            q, k = turned(q), turned(k)
        mixed = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v))).transpose(1, 2)
        return F.linear(mixed.reshape(len(x), total, width), w[name + ".o_proj.weight"])

    def level(z: Tensor, injection: Tensor) -> Tensor:
        x = z + injection
        for i in range(c["L_layers"]):
            name = f"L_level.layers.{i}"
            if c["mlp_t"]:
                x = x.transpose(1, 2)
                x = rms(x + swiglu(x, name + ".mlp_t")).transpose(1, 2)
            else:
                x = rms(x + attention(x, name + ".self_attn"))
            x = rms(x + swiglu(x, name + ".mlp"))
        return x

    z_h, z_l = w["H_init"].expand(e.shape), w["L_init"].expand(e.shape)
    found = {"init": z_h}
    for cycle in range(c["H_cycles"]):
        for think in range(c["L_cycles"]):
            z_l = level(z_l, z_h + e)
            found[f"cycle{cycle}.think{think}"] = z_l
        z_h = level(z_h, z_l)
        found[f"cycle{cycle}.commit"] = z_h
    found["logits"] = F.linear(z_h, w["lm_head.weight"])[:, c["puzzle_emb_len"] :]
    found["halt"] = F.linear(z_h[:, 0], w["q_head.weight"], w["q_head.bias"])
    return found


def gpt2_config(**changes: object) -> dict[str, object]:
    """A small recurrent GPT-2 in Hugging Face's config keys."""
    base: dict[str, object] = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": 4,
        "n_head": 2,
        "n_embd": 16,
        "n_positions": 8,
        "n_ctx": 8,
        "n_inner": None,
        "vocab_size": VOCAB,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": 0.1,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "transformers_version": "4.46.0",
    }
    return {**base, **changes}


def gpt2_weights(
    config: dict[str, object], lead: str = "transformer.", masks: bool = False, seed: int = 0
) -> Weights:
    """A `state_dict` of Hugging Face's GPT2LMHeadModel: Conv1D weights are (inputs, outputs)."""
    c, draw = config, Draw(seed)
    width, inner = c["n_embd"], c["n_inner"] or 4 * c["n_embd"]
    w = {"wte.weight": draw(c["vocab_size"], width, std=0.3)}
    w["wpe.weight"] = draw(c["n_positions"], width, std=0.3)
    for i in range(c["n_layer"]):
        for name, (inputs, outputs) in {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, inner),
            "mlp.c_proj": (inner, width),
        }.items():
            w[f"h.{i}.{name}.weight"] = draw(inputs, outputs, std=1 / math.sqrt(inputs))
            w[f"h.{i}.{name}.bias"] = draw(outputs, std=0.1)
        for name in ("ln_1", "ln_2"):
            w[f"h.{i}.{name}.weight"] = draw(width, std=0.1, mean=1.0)
            w[f"h.{i}.{name}.bias"] = draw(width, std=0.1)
        if masks:
            size = c["n_positions"]
            w[f"h.{i}.attn.bias"] = torch.ones(size, size, dtype=torch.bool).tril()[None, None]
            w[f"h.{i}.attn.masked_bias"] = torch.tensor(-10000.0)
    w["ln_f.weight"], w["ln_f.bias"] = draw(width, std=0.1, mean=1.0), draw(width, std=0.1)
    w = {lead + name: t for name, t in w.items()}
    if c["tie_word_embeddings"] is False:
        return {**w, "lm_head.weight": draw(c["vocab_size"], width, std=0.3)}
    return {**w, "lm_head.weight": w[lead + "wte.weight"]}


def gpt2_truth(
    weights: Weights,
    config: dict[str, object],
    tokens_BT: Tensor,
    *,
    lead: str = "transformer.",
    loops: int = 2,
    temperature: float | None = None,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The state after the embedding and every block; the published hidden states; the logits."""
    w = {name.removeprefix(lead): t.float() for name, t in weights.items()}
    heads, width, size = config["n_head"], config["n_embd"], tokens_BT.shape[1]
    table, mask = w["wte.weight"], torch.ones(size, size, dtype=torch.bool).tril()

    def conv1d(x: Tensor, name: str) -> Tensor:
        return x @ w[name + ".weight"] + w[name + ".bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        variance = x.var(-1, unbiased=False, keepdim=True)
        unit = (x - x.mean(-1, keepdim=True)) / torch.sqrt(variance + 1e-5)
        return unit * w[name + ".weight"] + w[name + ".bias"]

    def attention(x: Tensor, block: str) -> Tensor:
        q, k, v = conv1d(x, block + "attn.c_attn").split(width, dim=2)
        q, k, v = (y.view(len(x), size, heads, width // heads).permute(0, 2, 1, 3) for y in (q, k, v))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(width // heads)
        mixed = torch.matmul(torch.softmax(torch.where(mask, scores, -1e30), -1), v)
        return conv1d(mixed.permute(0, 2, 1, 3).reshape(len(x), size, width), block + "attn.c_proj")

    def act(x: Tensor) -> Tensor:
        if config["activation_function"] == "relu":
            return F.relu(x)
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = table[tokens_BT] + w["wpe.weight"][:size]
    states, entering = [x], []
    for loop in range(loops):
        if loop and temperature is not None:
            x = x + torch.softmax(temperature * (x @ table.T), -1) @ table
        for i in range(config["n_layer"]):
            entering.append(x)
            block = f"h.{i}."
            x = x + attention(norm(x, block + "ln_1"), block)
            x = x + conv1d(act(conv1d(norm(x, block + "ln_2"), block + "mlp.c_fc")), block + "mlp.c_proj")
            states.append(x)
    final = norm(x, "ln_f")
    return states, [*entering, final], final @ w["lm_head.weight"].T
