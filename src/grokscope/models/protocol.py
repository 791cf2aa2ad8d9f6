"""The one interface to a model that reasons in passes: start, step, read.

A model is an unrolled computation with an address (`Stage`) after every pass. `start` gives the carry at
stage 0, `step` takes it to the next stage, `read` looks at the state there and `write` replaces it. The lens,
interventions and traces are written against this alone; training uses `hidden`, the same numbers in one call.

Shapes: B batch, S input positions, T positions with prefix (prefix first), D width, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from grokscope.errors import InputError
from grokscope.models.blocks import At, only
from grokscope.models.spec import ModelSpec
from grokscope.models.stages import Stage
from grokscope.models.taps import Tap

Carry: TypeAlias = Any
"""Everything a model needs to go on from a stage: each model's own NamedTuple of tensors."""
Group: TypeAlias = Literal["embedding", "prefix", "position", "blocks", "head"]
"""What a parameter is to training. `embedding`: of tokens (a tied head with it); `prefix`: of prefix
positions, with a learning rate of its own; `position`: a learned position code; `blocks`: what is run over
and over, whose matrices Muon may take; `head`: whatever stands behind the last pass."""


class Reasoner(nn.Module, ABC):
    """Base class of our models, and what an adapter for another model must offer.

    Attributes:
        vocab: number of token ids V. positions: input positions S the model was built for. prefix: learned
        positions P that stand before the input on the T axis. loops: times the shared part runs in training
        (TRM: outer cycles). inference_loops: the same as evaluated. stages: addresses of the computation as
        evaluated. dtype: dtype of the states. Weights stay float32 and are cast at use; norms, softmax and
        logits are float32. spec: what it was built from; None: an adapter. groups: the group of every
        parameter, by its name or that of a module it is in.
    """

    groups: ClassVar[Mapping[str, Group]] = {}
    spec: ModelSpec | None = None

    def __init__(
        self,
        *,
        vocab: int,
        positions: int,
        prefix: int,
        loops: int,
        inference_loops: int,
        stages: tuple[Stage, ...],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.vocab = vocab
        self.positions = positions
        self.prefix = prefix
        self.loops = loops
        self.inference_loops = inference_loops
        self.stages = stages
        self.dtype = dtype

    @abstractmethod
    def start(self, tokens_BS: Tensor) -> Carry:
        """The carry at stage 0, from token ids (int32 or int64)."""

    @abstractmethod
    def step(self, carry: Carry, stage: int, tap: Tap | None = None) -> Carry:
        """The carry at `stage` from the carry at `stage - 1`; `carry` is left as it is.

        `tap` sees, and may replace, the values inside the pass; see `taps`.

        Raises:
            InputError: `stage` is not one of 1 .. len(stages) - 1.
        """

    def step_at(self, carry: Carry, stage: int, position: int, tap: Tap | None = None) -> Tensor:
        """What `read` shows after `step` at one position of the T axis alone: state_BD.

        A model overrides this where it can leave out what only other positions need: the last pass is read at
        the answer alone. A tap may then be shown values of that position alone, (B, 1, D).
        """
        return self.read(self.step(carry, stage, tap), stage)[:, position]

    def stays(self, stage: int, site: str) -> bool:
        """Whether a change inside the pass to `stage`, at one position of `site`, changes the state there at
        no other position: nothing mixes positions any more after it. Where a model does not know: False."""
        return False

    def sites(self, stage: int) -> tuple[str, ...]:
        """Where one can intervene at `stage`: the state, then the sites inside the pass that leads to it."""
        return (self.stages[stage].site,)

    @abstractmethod
    def read(self, carry: Carry, stage: int) -> Tensor:
        """state_BTD at `stage`, given the carry there."""

    @abstractmethod
    def write(self, carry: Carry, stage: int, state_BTD: Tensor) -> Carry:
        """The carry at `stage` with the state that `read` shows replaced."""

    def live(self, carry: Carry, stage: int) -> Tensor:
        """Everything that a pass after `stage` reads of the carry, the input aside: (B, T, X), the parts
        side by side on the last axis. A model whose carry has several parts that restore each other
        overrides this; where only one lives on it is what `read` shows."""
        return self.read(carry, stage)

    def with_live(self, carry: Carry, stage: int, live_BTX: Tensor) -> Carry:
        """The carry at `stage` with all that `live` shows replaced."""
        return self.write(carry, stage, live_BTX)

    @abstractmethod
    def unembed(self, state_BTD: Tensor) -> Tensor:
        """float32 logits of any state, by exactly what makes the output (final norm included)."""

    @abstractmethod
    def hidden(self, tokens_BS: Tensor, loops: int | None = None) -> Tensor:
        """The final state_BTD; the training path: pure, no data-dependent Python, whole-graph compilable.

        Args:
            tokens_BS: token ids. loops: times the shared part runs; None: `self.loops`, as in training. With
            `self.inference_loops` the
                result is what `read` shows at the last stage.
        """

    def hidden_at(self, tokens_BS: Tensor, at: At | None, loops: int | None = None) -> Tensor:
        """The final state at some positions of the T axis alone: state_BKD; None: at all of them.

        A model overrides this where it can leave out what only other positions need: its last pass.
        """
        return only(self.hidden(tokens_BS, loops), at)

    def group_of(self, name: str) -> Group:
        """The group of a parameter, by its name in `named_parameters`.

        Raises:
            InputError: it has none.
        """
        for part, group in self.groups.items():
            if name == part or name.startswith(f"{part}."):
                return group
        raise InputError(
            f"parameter {name}: {type(self).__name__}.groups does not say whether it is embedding, prefix, "
            "position, blocks or head."
        )

    def halt(self, state_BTD: Tensor) -> Tensor | None:
        """float32 halting logits (B, 2) from the first position of the final state; None: no halting head."""
        return None

    @property
    def halts(self) -> bool:
        """Whether there is a halting head."""
        return type(self).halt is not Reasoner.halt

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """float32 logits_BSV as evaluated: `inference_loops` loops, prefix cut."""
        return self.unembed(self.hidden(tokens_BS, self.inference_loops)[:, self.prefix :])

    def _check_step(self, stage: int) -> None:
        if not 1 <= stage < len(self.stages):
            raise InputError(f"stage = {stage}: a step goes to one of 1 to {len(self.stages) - 1}.")

    def _check_tokens(self, tokens_BS: Tensor, exact: bool) -> None:
        found = tokens_BS.shape[-1] if tokens_BS.ndim == 2 else -1
        if found < 1 or found > self.positions or (exact and found != self.positions):
            allowed = f"{self.positions}" if exact else f"1 to {self.positions}"
            raise InputError(
                f"tokens of shape {tuple(tokens_BS.shape)}: must be (batch, positions), positions {allowed}."
            )
