"""The Tiny Recursive Model (TRM): one small level, applied over and over to two states.

    e = sqrt(D) * concat(prefix, token_embedding[x])    learned positions: sqrt(D / 2) * (concat + positions)
    repeat h_cycles times:
        repeat l_cycles times:  z_L = level(z_L, z_H + e)     think
        z_H = level(z_H, z_L)                                 commit
    logits = head(z_H)

`level(z, injection)` runs z + injection through its blocks; that it serves both updates is the parameter
sharing. Both states start as fixed random vectors. In `hidden` only the last outer cycle carries gradient
(`step` cuts nothing).

Initial weights: normal cut at 2 std, std 1/sqrt(inputs) for linear maps and 1/sqrt(D) for embeddings; prefix
0; halting head weights 0, bias -5.

Shapes: B batch, S input positions, P prefix positions, T = P + S, D width, V vocabulary.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokscope.errors import InputError
from grokscope.models.attention import Attention, Rotary
from grokscope.models.blocks import At, Linear, RmsNorm, SwiGlu, only
from grokscope.models.init import Init
from grokscope.models.protocol import Group, Reasoner
from grokscope.models.spec import RecursiveSpec
from grokscope.models.stages import recursive_stages
from grokscope.models.taps import Tap, tapped, within
from grokscope.world.format import FormatSpec

HALT_BIAS = -5.0
POSITION_SCALE = 0.707106781


class RecursiveCarry(NamedTuple):
    """Both states, and the input embedding that every thinking pass adds."""

    z_H_BTD: Tensor
    z_L_BTD: Tensor
    embedding_BTD: Tensor


def swiglu_inner(expansion: float, width: int) -> int:
    """Inner width of a TRM SwiGLU: round(expansion * width * 2 / 3), rounded up to a multiple of 256."""
    return -(-round(expansion * width * 2 / 3) // 256) * 256


class AttentionBlock(nn.Module):
    """x = rms(x + attention(x)); x = rms(x + swiglu(x)). All positions see all."""

    def __init__(self, spec: RecursiveSpec, positions: int, init: Init) -> None:
        super().__init__()
        rotary = Rotary(positions, spec.width // spec.heads) if spec.positions == "rotary" else None
        self.attention = Attention(spec.width, spec.heads, False, init, rotary=rotary, exact=True)
        self.norm1 = RmsNorm()
        self.mlp = SwiGlu(spec.width, swiglu_inner(spec.expansion, spec.width), init)
        self.norm2 = RmsNorm()

    def forward(self, x_BTD: Tensor, tap: Tap | None = None, at: At | None = None) -> Tensor:
        """The state after the block; with `at`, at those positions alone (B, K, D)."""
        own_BTD = self.norm1(only(x_BTD, at) + self.attention(x_BTD, tap, at))
        out: Tensor = self.norm2(own_BTD + tapped(tap, "mlp", self.mlp(own_BTD)))
        return out


class MixerBlock(nn.Module):
    """x^T = rms(x^T + swiglu(x^T)), map and norm over the T positions; then x = rms(x + swiglu(x)).

    The norm over positions runs on x itself: its sums then go over rows of D numbers side by side.
    """

    def __init__(self, spec: RecursiveSpec, positions: int, init: Init) -> None:
        super().__init__()
        self.mixer = SwiGlu(positions, swiglu_inner(spec.expansion, positions), init, narrow=True)
        self.norm1 = RmsNorm(axis=-2)
        self.mlp = SwiGlu(spec.width, swiglu_inner(spec.expansion, spec.width), init)
        self.norm2 = RmsNorm()

    def forward(self, x_BTD: Tensor, tap: Tap | None = None, at: At | None = None) -> Tensor:
        """The state after the block; with `at`, at those positions alone (B, K, D)."""
        mixed_BTD = tapped(tap, "mixer", self.mix(x_BTD))
        own_BTD = only(self.norm1(x_BTD + mixed_BTD), at)
        out: Tensor = self.norm2(own_BTD + tapped(tap, "mlp", self.mlp(own_BTD)))
        return out

    def mix(self, x_BTD: Tensor) -> Tensor:
        """The map over the positions, (B, T, D)."""
        out: Tensor = self.mixer(x_BTD.transpose(1, 2)).transpose(1, 2)
        return out


class Level(nn.Module):
    """The shared level: z + injection through every block."""

    def __init__(self, spec: RecursiveSpec, positions: int, init: Init) -> None:
        super().__init__()
        kind = MixerBlock if spec.mixer else AttentionBlock
        self.blocks = nn.ModuleList(kind(spec, positions, init) for _ in range(spec.layers))

    def forward(
        self, z_BTD: Tensor, injection_BTD: Tensor, tap: Tap | None = None, at: At | None = None
    ) -> Tensor:
        """The state after the last block; with `at`, at those positions alone (B, K, D)."""
        x_BTD = z_BTD + tapped(tap, "injection", injection_BTD)
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, within(tap, f"block{index}"), at if index == last else None)
        return x_BTD


def build(
    spec: RecursiveSpec, vocab: int, positions: int, fmt: FormatSpec, seed: int, dtype: torch.dtype
) -> "RecursiveModel":
    """The model in a format, which must let all positions see all."""
    if fmt.attention == "causal":
        raise InputError(
            "format.attention = 'causal': a recursive model sees all positions, so it must be 'full'."
        )
    return RecursiveModel(spec, vocab, positions, seed, dtype)


class RecursiveModel(Reasoner):
    """The TRM of a `RecursiveSpec`.

    Args:
        spec: the model.
        vocab: token ids V.
        positions: input positions S (exactly, with the mixer; at most, with attention).
        seed: seed of the stream "init".
        dtype: dtype of the states.
    """

    spec: RecursiveSpec
    groups: ClassVar[Mapping[str, Group]] = {
        "token_embedding": "embedding",
        "prefix_embedding": "prefix",
        "position_embedding": "position",
        "level": "blocks",
        "head": "head",
        "halting": "head",
    }
    h_init: Tensor
    l_init: Tensor

    def __init__(
        self, spec: RecursiveSpec, vocab: int, positions: int, seed: int, dtype: torch.dtype
    ) -> None:
        inference_cycles = spec.inference_h_cycles or spec.h_cycles
        super().__init__(
            vocab=vocab,
            positions=positions,
            prefix=spec.prefix,
            loops=spec.h_cycles,
            inference_loops=inference_cycles,
            stages=recursive_stages(inference_cycles, spec.l_cycles),
            dtype=dtype,
        )
        self.spec = spec
        total = spec.prefix + positions
        init = Init.seeded("truncated", seed)
        self.token_embedding = init.table(vocab, spec.width)
        self.prefix_embedding = nn.Parameter(torch.zeros(spec.prefix, spec.width)) if spec.prefix else None
        self.position_embedding = init.table(total, spec.width) if spec.positions == "learned" else None
        self.level = Level(spec, total, init)
        own_head = init.matrix(vocab, spec.width)  # drawn in any case: all else is then the same
        self.head = None if spec.tied_head else Linear(own_head)
        self.halting = Linear(nn.Parameter(torch.zeros(2, spec.width)), bias=True)
        nn.init.constant_(self.halting.get_parameter("bias"), HALT_BIAS)
        self.register_buffer("h_init", init.state(spec.width))
        self.register_buffer("l_init", init.state(spec.width))

    def start(self, tokens_BS: Tensor) -> RecursiveCarry:
        self._check_tokens(tokens_BS, exact=self.spec.mixer)
        embedding_BTD = self._embedding(tokens_BS)
        z_H_BTD, z_L_BTD = (z.to(self.dtype).expand_as(embedding_BTD) for z in (self.h_init, self.l_init))
        return RecursiveCarry(z_H_BTD, z_L_BTD, embedding_BTD)

    def step(self, carry: RecursiveCarry, stage: int, tap: Tap | None = None) -> RecursiveCarry:
        self._check_step(stage)
        return self._pass(carry, stage, tap)

    def step_at(self, carry: RecursiveCarry, stage: int, position: int, tap: Tap | None = None) -> Tensor:
        self._check_step(stage)
        return self.read(self._pass(carry, stage, tap, slice(position, position + 1)), stage)[:, 0]

    def stays(self, stage: int, site: str) -> bool:
        # Not "mixer": the norm after it runs over positions.
        return site in (f"block{self.spec.layers - 1}.{part}" for part in ("attention", "mlp"))

    def sites(self, stage: int) -> tuple[str, ...]:
        state = self.stages[stage].site
        if stage == 0:
            return (state,)
        parts = ("mixer", "mlp") if self.spec.mixer else ("pattern", "attention", "mlp")
        inside = (f"block{index}.{part}" for index in range(self.spec.layers) for part in parts)
        return (state, "injection", *inside)

    def read(self, carry: RecursiveCarry, stage: int) -> Tensor:
        return carry.z_H_BTD if self.stages[stage].site == "z_H" else carry.z_L_BTD

    def write(self, carry: RecursiveCarry, stage: int, state_BTD: Tensor) -> RecursiveCarry:
        state_BTD = state_BTD.to(self.dtype)
        if self.stages[stage].site == "z_H":
            return carry._replace(z_H_BTD=state_BTD)
        return carry._replace(z_L_BTD=state_BTD)

    def live(self, carry: RecursiveCarry, stage: int) -> Tensor:
        """z_H and z_L, each of which the next passes restore from the other; after the last commit z_H
        alone."""
        if stage == len(self.stages) - 1:
            return carry.z_H_BTD
        return torch.cat([carry.z_H_BTD, carry.z_L_BTD], dim=-1)

    def with_live(self, carry: RecursiveCarry, stage: int, live_BTX: Tensor) -> RecursiveCarry:
        if stage == len(self.stages) - 1:
            return self.write(carry, stage, live_BTX)
        z_H_BTD, z_L_BTD = live_BTX.to(self.dtype).chunk(2, dim=-1)
        return carry._replace(z_H_BTD=z_H_BTD, z_L_BTD=z_L_BTD)

    def unembed(self, state_BTD: Tensor) -> Tensor:
        # Of a slice of positions, PyTorch would make one product per row, each with a copy of the weight.
        state_BTD = state_BTD.contiguous()
        if self.head is None:
            return F.linear(state_BTD, self.token_embedding.to(self.dtype)).float()
        logits_BTV: Tensor = self.head(state_BTD)
        return logits_BTV.float()

    def hidden(self, tokens_BS: Tensor, loops: int | None = None) -> Tensor:
        """See `Reasoner.hidden` and, for what is raised, `hidden_at`."""
        return self.hidden_at(tokens_BS, None, loops)

    def hidden_at(self, tokens_BS: Tensor, at: At | None, loops: int | None = None) -> Tensor:
        """See `Reasoner.hidden_at`. Only the last of the outer cycles carries gradient.

        Raises:
            InputError: fewer than 1 outer cycle.
        """
        cycles = self.loops if loops is None else loops
        if cycles < 1:
            raise InputError(f"loops = {cycles}: must be at least 1.")
        carry = self.start(tokens_BS)
        with torch.no_grad():
            for _ in range(cycles - 1):
                carry = self._cycle(carry)
        return self._cycle(carry, at).z_H_BTD

    def halt(self, state_BTD: Tensor) -> Tensor:
        """float32 halting logits (B, 2), read from the first position of the final state."""
        logits_B2: Tensor = self.halting(state_BTD[:, 0])
        return logits_B2.float()

    def _embedding(self, tokens_BS: Tensor) -> Tensor:
        embedding_BTD = F.embedding(tokens_BS, self.token_embedding).to(self.dtype)
        if self.prefix_embedding is not None:
            prefix_BPD = self.prefix_embedding.to(self.dtype).expand(tokens_BS.shape[0], -1, -1)
            embedding_BTD = torch.cat([prefix_BPD, embedding_BTD], dim=1)
        if self.position_embedding is not None:
            positions_TD = self.position_embedding[: embedding_BTD.shape[1]].to(self.dtype)
            embedding_BTD = POSITION_SCALE * (embedding_BTD + positions_TD)
        return math.sqrt(self.spec.width) * embedding_BTD

    def _pass(
        self, carry: RecursiveCarry, stage: int, tap: Tap | None = None, at: At | None = None
    ) -> RecursiveCarry:
        """The carry after the pass to `stage`; with `at`, the new state at those positions alone."""
        commits = self.stages[stage].site == "z_H"
        return self._commit(carry, tap, at) if commits else self._think(carry, tap, at)

    def _think(self, carry: RecursiveCarry, tap: Tap | None = None, at: At | None = None) -> RecursiveCarry:
        injection_BTD = carry.z_H_BTD + carry.embedding_BTD
        return carry._replace(z_L_BTD=self.level(carry.z_L_BTD, injection_BTD, tap, at))

    def _commit(self, carry: RecursiveCarry, tap: Tap | None = None, at: At | None = None) -> RecursiveCarry:
        return carry._replace(z_H_BTD=self.level(carry.z_H_BTD, carry.z_L_BTD, tap, at))

    def _cycle(self, carry: RecursiveCarry, at: At | None = None) -> RecursiveCarry:
        for _ in range(self.spec.l_cycles):
            carry = self._think(carry)
        return self._commit(carry, at=at)
