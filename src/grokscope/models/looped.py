"""Looped transformers: one stack of blocks, run several times.

    e = norm(token_embedding[x]) + position_embedding     (norm: post-norm models only)
    repeat `loops` times: state (+ re-embedding) (+ e) -> layers blocks
    logits = head(norm(state))                            (norm: pre-norm models only)

The re-embedding and the injection of e stand before every loop but the first. loops = 1 is the plain
transformer; `shared = False` gives every loop its own blocks; layers 4, loops 2, pre-norm LayerNorm, GELU,
learned positions, bias, no injection is the recurrent GPT-2.

A post-norm model's states have scale 1 whatever the width, so its embedding is brought to that scale by the
same kind of norm; else injecting it would add next to nothing. Initial weights: see `LoopedSpec.init`; biases
0, LayerNorm gains 1.

Shapes: B batch, T positions (no prefix: T = S), D width, V vocabulary.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokscope.errors import InputError
from grokscope.models.attention import Attention, Rotary
from grokscope.models.blocks import At, LayerNorm, Linear, Mlp, RmsNorm, SwiGlu, only
from grokscope.models.init import Init
from grokscope.models.protocol import Group, Reasoner
from grokscope.models.spec import LoopedSpec
from grokscope.models.stages import looped_stages
from grokscope.models.taps import Tap, tapped, within
from grokscope.world.format import FormatSpec


class LoopedCarry(NamedTuple):
    """The residual stream, and the input embedding that is injected again."""

    state_BTD: Tensor
    embedding_BTD: Tensor


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream; norms before them, after the sums, or nowhere."""

    def __init__(self, spec: LoopedSpec, positions: int, causal: bool, init: Init) -> None:
        super().__init__()
        width, inner = spec.width, max(1, round(spec.expansion * spec.width))
        rotary = Rotary(positions, width // spec.heads) if spec.positions == "rotary" else None
        self.norm_position = spec.norm_position
        self.attention = Attention(width, spec.heads, causal, init, spec.bias, rotary)
        self.mlp = (
            SwiGlu(width, inner, init, spec.bias)
            if spec.activation == "swiglu"
            else Mlp(width, inner, spec.activation, init, spec.bias)
        )
        normed = spec.norm_position != "none"
        self.norm1 = make_norm(spec) if normed else nn.Identity()
        self.norm2 = make_norm(spec) if normed else nn.Identity()

    def forward(self, x_BTD: Tensor, tap: Tap | None = None, at: At | None = None) -> Tensor:
        """The state after the block; with `at`, at those positions alone (B, K, D)."""
        own_BTD = only(x_BTD, at)
        if self.norm_position == "pre":
            own_BTD = own_BTD + self.attention(self.norm1(x_BTD), tap, at)
            out: Tensor = own_BTD + tapped(tap, "mlp", self.mlp(self.norm2(own_BTD)))
        else:
            own_BTD = self.norm1(own_BTD + self.attention(x_BTD, tap, at))
            out = self.norm2(own_BTD + tapped(tap, "mlp", self.mlp(own_BTD)))
        return out


def build(
    spec: LoopedSpec, vocab: int, positions: int, fmt: FormatSpec, seed: int, dtype: torch.dtype
) -> "LoopedModel":
    """The model in a format."""
    return LoopedModel(spec, vocab, positions, fmt.attention == "causal", seed, dtype)


class LoopedModel(Reasoner):
    """The looped transformer of a `LoopedSpec`.

    Args:
        spec: the model.
        vocab: token ids V.
        positions: most input positions S.
        causal: whether a position sees only itself and earlier ones.
        seed: seed of the stream "init".
        dtype: dtype of the states.
    """

    spec: LoopedSpec
    groups: ClassVar[Mapping[str, Group]] = {
        "token_embedding": "embedding",
        "embedding_norm": "embedding",
        "position_embedding": "position",
        "blocks": "blocks",
        "final_norm": "head",
        "head": "head",
    }

    def __init__(
        self, spec: LoopedSpec, vocab: int, positions: int, causal: bool, seed: int, dtype: torch.dtype
    ) -> None:
        inference_loops = spec.inference_loops or spec.loops
        super().__init__(
            vocab=vocab,
            positions=positions,
            prefix=0,
            loops=spec.loops,
            inference_loops=inference_loops,
            stages=looped_stages(inference_loops, spec.layers),
            dtype=dtype,
        )
        self.spec = spec
        init = Init.seeded(
            spec.init, seed, residuals=2 * spec.layers * spec.loops if spec.init == "gpt2" else 1
        )
        self.token_embedding = init.table(vocab, spec.width)
        self.position_embedding = init.table(positions, spec.width) if spec.positions == "learned" else None
        self.embedding_norm = make_norm(spec) if spec.norm_position == "post" else nn.Identity()
        count = spec.layers if spec.shared else spec.layers * spec.loops
        self.blocks = nn.ModuleList(Block(spec, positions, causal, init) for _ in range(count))
        self.final_norm = make_norm(spec) if spec.norm_position == "pre" else nn.Identity()
        self.head = None if spec.tied_head else Linear(init.matrix(vocab, spec.width))

    def start(self, tokens_BS: Tensor) -> LoopedCarry:
        self._check_tokens(tokens_BS, exact=False)
        embedding_BTD: Tensor = self.embedding_norm(
            F.embedding(tokens_BS, self.token_embedding).to(self.dtype)
        )
        if self.position_embedding is not None:
            embedding_BTD = embedding_BTD + self.position_embedding[: tokens_BS.shape[1]].to(self.dtype)
        return LoopedCarry(embedding_BTD, embedding_BTD)

    def step(self, carry: LoopedCarry, stage: int, tap: Tap | None = None) -> LoopedCarry:
        self._check_step(stage)
        return self._pass(carry, stage, tap)

    def step_at(self, carry: LoopedCarry, stage: int, position: int, tap: Tap | None = None) -> Tensor:
        self._check_step(stage)
        return self._pass(carry, stage, tap, slice(position, position + 1)).state_BTD[:, 0]

    def stays(self, stage: int, site: str) -> bool:
        return site in ("block0.attention", "block0.mlp")

    def sites(self, stage: int) -> tuple[str, ...]:
        if stage == 0:
            return ("state",)
        loop, layer = divmod(stage - 1, self.spec.layers)
        injected = self.spec.injection and layer == 0 and loop > 0
        inside = ("block0.pattern", "block0.attention", "block0.mlp")
        return ("state", *(("injection",) if injected else ()), *inside)

    def read(self, carry: LoopedCarry, stage: int) -> Tensor:
        return carry.state_BTD

    def write(self, carry: LoopedCarry, stage: int, state_BTD: Tensor) -> LoopedCarry:
        return carry._replace(state_BTD=state_BTD.to(self.dtype))

    def unembed(self, state_BTD: Tensor) -> Tensor:
        normed_BTD: Tensor = self.final_norm(state_BTD)
        if self.head is not None:
            logits_BTV: Tensor = self.head(normed_BTD)
            return logits_BTV.float()
        return F.linear(normed_BTD, self.token_embedding.to(self.dtype)).float()

    def hidden(self, tokens_BS: Tensor, loops: int | None = None) -> Tensor:
        """See `Reasoner.hidden` and, for what is raised, `hidden_at`."""
        return self.hidden_at(tokens_BS, None, loops)

    def hidden_at(self, tokens_BS: Tensor, at: At | None, loops: int | None = None) -> Tensor:
        """See `Reasoner.hidden_at`.

        Raises:
            InputError: fewer than 1 loop, or, with weights that are not shared, more loops than there are
            weights for.
        """
        loops = self.loops if loops is None else loops
        if loops < 1 or (loops > self.loops and not self.spec.shared):
            allowed = "at least 1" if self.spec.shared else f"1 to {self.loops}, the weights are not shared"
            raise InputError(f"loops = {loops}: must be {allowed}.")
        carry = self.start(tokens_BS)
        last = loops * self.spec.layers
        for stage in range(1, last):
            carry = self._pass(carry, stage)
        return self._pass(carry, last, at=at).state_BTD

    def _pass(
        self, carry: LoopedCarry, stage: int, tap: Tap | None = None, at: At | None = None
    ) -> LoopedCarry:
        loop, layer = divmod(stage - 1, self.spec.layers)
        state_BTD = carry.state_BTD
        if layer == 0 and loop > 0:
            if self.spec.reembed_temperature is not None:
                state_BTD = state_BTD + self._reembedding(state_BTD, self.spec.reembed_temperature)
            if self.spec.injection:
                state_BTD = state_BTD + tapped(tap, "injection", carry.embedding_BTD)
        block = self.blocks[layer if self.spec.shared else stage - 1]
        return carry._replace(state_BTD=block(state_BTD, within(tap, "block0"), at))

    def _reembedding(self, state_BTD: Tensor, temperature: float) -> Tensor:
        """softmax(temperature * state E^T) E, E the token embedding; no norm before it."""
        table_VD = self.token_embedding.to(self.dtype)
        weights_BTV = torch.softmax(temperature * (state_BTD @ table_VD.T).float(), dim=-1)
        return weights_BTV.to(self.dtype) @ table_VD


def make_norm(spec: LoopedSpec) -> nn.Module:
    """A norm of the kind the spec names."""
    return RmsNorm() if spec.norm == "rms" else LayerNorm(spec.width)
