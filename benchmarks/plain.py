"""The baseline: the same training step in plain PyTorch, written the way one would.

Modules and float32 weights that are cast at use, `scaled_dot_product_attention`, logits at every position,
`torch.optim`, a loop over the parameters for the average, `loss.item()` every step. Parameters have the names
of grokscope's, so that both start from the same weights; in float32 both give the same losses.

Shapes: B batch, S input positions, T positions with the prefix first, D width, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.shapes import Setup
from grokscope.models.recursive import swiglu_inner
from grokscope.models.spec import LoopedSpec, RecursiveSpec
from grokscope.seeds import generator
from grokscope.training.schedule import rate
from grokscope.training.spec import TrainingSpec


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


def rms_norm(x: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


class SwiGlu(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * inner, bias=False)
        self.down = Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class MixerBlock(nn.Module):
    def __init__(self, spec: RecursiveSpec, positions: int) -> None:
        super().__init__()
        self.mixer = SwiGlu(positions, swiglu_inner(spec.expansion, positions))
        self.mlp = SwiGlu(spec.width, swiglu_inner(spec.expansion, spec.width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BDT = x_BTD.transpose(1, 2)
        x_BTD = rms_norm(x_BDT + self.mixer(x_BDT)).transpose(1, 2)
        return rms_norm(x_BTD + self.mlp(x_BTD))


class Level(nn.Module):
    def __init__(self, spec: RecursiveSpec, positions: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MixerBlock(spec, positions) for _ in range(spec.layers))

    def forward(self, z: Tensor, injection: Tensor) -> Tensor:
        x = z + injection
        for block in self.blocks:
            x = block(x)
        return x


class PlainRecursive(nn.Module):
    """The TRM with the mixer."""

    def __init__(self, spec: RecursiveSpec, vocab: int, positions: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec, self.dtype = spec, dtype
        self.token_embedding = nn.Parameter(torch.empty(vocab, spec.width))
        self.prefix_embedding = nn.Parameter(torch.empty(spec.prefix, spec.width))
        self.level = Level(spec, spec.prefix + positions)
        self.head = Linear(spec.width, vocab, bias=False)
        self.halting = Linear(spec.width, 2)
        self.register_buffer("h_init", torch.empty(spec.width))
        self.register_buffer("l_init", torch.empty(spec.width))

    def forward(self, tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        prefix = self.prefix_embedding.to(self.dtype).expand(len(tokens_BS), -1, -1)
        tokens = F.embedding(tokens_BS, self.token_embedding).to(self.dtype)
        e = self.spec.width**0.5 * torch.cat([prefix, tokens], dim=1)
        z_H, z_L = self.h_init.to(self.dtype).expand_as(e), self.l_init.to(self.dtype).expand_as(e)
        with torch.no_grad():
            for _ in range(self.spec.h_cycles - 1):
                z_H, z_L = self.cycle(z_H, z_L, e)
        z_H, _ = self.cycle(z_H, z_L, e)
        return self.head(z_H)[:, self.spec.prefix :], self.halting(z_H[:, 0])

    def cycle(self, z_H: Tensor, z_L: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self.spec.l_cycles):
            z_L = self.level(z_L, z_H + e)
        return self.level(z_H, z_L), z_L


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, positions, width = x.shape
        q, k, v = self.qkv(x).view(batch, positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, positions, width))


class Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = Linear(width, inner, bias=False)
        self.down = Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, spec: LoopedSpec) -> None:
        super().__init__()
        self.attention = Attention(spec.width, spec.heads)
        self.mlp = Mlp(spec.width, round(spec.expansion * spec.width))

    def forward(self, x: Tensor) -> Tensor:
        x = rms_norm(x + self.attention(x))
        return rms_norm(x + self.mlp(x))


class PlainLooped(nn.Module):
    """The causal, post-norm looped transformer with injection and a tied head."""

    def __init__(self, spec: LoopedSpec, vocab: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec, self.dtype = spec, dtype
        self.token_embedding = nn.Parameter(torch.empty(vocab, spec.width))
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))

    def forward(self, tokens_BS: Tensor) -> tuple[Tensor, None]:
        e = rms_norm(F.embedding(tokens_BS, self.token_embedding).to(self.dtype))
        x = e
        for loop in range(self.spec.loops):
            if loop:
                x = x + e
            for block in self.blocks:
                x = block(x)
        return F.linear(x, self.token_embedding.to(self.dtype)), None


def stablemax_loss(logits: Tensor, target: Tensor) -> Tensor:
    """-log of s(x) / sum s, in float64."""
    wide = logits.double()
    s = torch.where(wide < 0, 1 / (1 - wide + 1e-30), wide + 1)
    p = s / s.sum(-1, keepdim=True)
    return -p.gather(-1, target[..., None]).squeeze(-1).log()


class PlainTrainer:
    """The step, and everything it needs."""

    def __init__(self, setup: Setup) -> None:
        spec = setup.spec
        self.spec: TrainingSpec = spec.training
        ours, model = setup.model, spec.model
        self.model: nn.Module = (
            PlainLooped(model, ours.vocab, ours.dtype)
            if isinstance(model, LoopedSpec)
            else PlainRecursive(model, ours.vocab, ours.positions, ours.dtype)
        )
        self.model.to(spec.training.device)
        self.model.load_state_dict(ours.state_dict())
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.tokens_NS = setup.data.tokens_NS.to(spec.training.device)
        self.labels_NS = setup.data.labels_NS.to(spec.training.device)
        self.order_N = torch.from_numpy(generator("order", spec.seeds.order, 0).permutation(len(setup.data)))
        self._make_optimizers()

    def index(self, step: int) -> Tensor:
        """The examples of a step; the first epoch's, over and over."""
        start = step % (len(self.order_N) // self.spec.batch) * self.spec.batch
        return self.order_N[start : start + self.spec.batch].to(self.tokens_NS.device)

    def _make_optimizers(self) -> None:
        settings = self.spec.optimizer
        prefix = "prefix_embedding"
        named = dict(self.model.named_parameters())
        muon = settings.kind == "muon"
        matrices = [p for name, p in named.items() if muon and "blocks." in name and p.ndim == 2]
        rest = [p for name, p in named.items() if name != prefix and not any(p is m for m in matrices)]
        self.prefix = named.get(prefix)
        betas = (settings.beta1, settings.beta2)
        adamw = torch.optim.AdamW(rest, lr=1.0, betas=betas, weight_decay=settings.weight_decay)
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [(adamw, settings.lr)]
        if muon:
            decay = settings.muon_weight_decay
            muons = torch.optim.Muon(
                matrices,
                lr=1.0,
                weight_decay=settings.weight_decay if decay is None else decay,
                momentum=settings.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
            self.optimizers.append((muons, settings.lr if settings.muon_lr is None else settings.muon_lr))

    def loss(self, index: Tensor) -> Tensor:
        """Mean over an example's labels, then over the batch."""
        labels = self.labels_NS[index].long()
        logits, halt = self.model(self.tokens_NS[index].long())
        if self.spec.loss == "softmax":
            flat = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
            nll = flat.view_as(labels)
        else:
            nll = stablemax_loss(logits.float(), labels)
        mask = labels != 0
        loss = ((nll * mask).sum(1) / mask.sum(1)).mean()
        if halt is not None:
            right = ((logits.argmax(-1) == labels) | ~mask).all(1)
            halting = F.binary_cross_entropy_with_logits(halt[:, 0].float(), right.float())
            loss = loss + self.spec.halt_weight * halting
        return loss

    def step(self, step: int) -> float:
        """One update; the loss before it."""
        loss = self.loss(self.index(step))
        loss.backward()
        self.update(step)
        self.average_weights(step)
        return loss.item()

    def update(self, step: int) -> None:
        """Every parameter by its rule."""
        share = rate(self.spec, step)
        for optimizer, lr in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * lr
            optimizer.step()
            optimizer.zero_grad()
        if self.prefix is not None:
            lr = share * self.spec.optimizer.prefix_lr
            with torch.no_grad():
                self.prefix.mul_(1 - lr * self.spec.optimizer.prefix_weight_decay)
                self.prefix.sub_(lr * self.prefix.grad.sign())
            self.prefix.grad = None

    @torch.no_grad()
    def average_weights(self, step: int) -> None:
        """The EMA."""
        keep = min(self.spec.ema, (1 + step) / (10 + step))
        for name, p in self.model.named_parameters():
            self.average[name].mul_(keep).add_(p, alpha=1 - keep)


def phases(trainer: PlainTrainer, step: int) -> dict[str, Callable[[], object]]:
    """The parts of a step, each to be timed alone."""
    index = trainer.index(step)

    def forward() -> None:
        with torch.no_grad():
            trainer.loss(index)

    def gradient() -> None:
        trainer.loss(index).backward()

    def update() -> None:
        for p in trainer.model.parameters():
            p.grad = torch.ones_like(p)
        trainer.update(step)

    return {
        "data": lambda: trainer.tokens_NS[trainer.index(step)],
        "forward": forward,
        "gradient": gradient,
        "optimiser": update,
        "ema": lambda: trainer.average_weights(step),
    }
