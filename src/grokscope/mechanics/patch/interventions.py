"""Interventions as data: what is changed, at which stage, site and position, from which source.

`lower` turns interventions into masks and source tensors, which the forward pass applies with `where` and `+`
alone: no Python that depends on data, so a compiled or captured graph can run them. For eager use there is
the plain way, a `Touch`: a callable that is shown every value by (stage, site) and gives back the value to go
on with. Both run through `forward` and give the same numbers.

Sites are "state", all of the carry that lives on after the pass (`Reasoner.live`); those of
`Reasoner.sites(stage)`: the part that the pass has made alone (TRM: "z_L" or "z_H"), which another part may
restore; and inside the pass "injection", "block{i}.pattern", "block{i}.attention" (mixer:
"block{i}.mixer") and "block{i}.mlp". A state that is cut off does not stay cut off where the input
embedding is added again: ablate "injection" as well.

Shapes: B batch, T positions with the prefix first, X the positions of an intervention, D width, H heads,
N samples of a mean.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from grokscope.errors import InputError
from grokscope.mechanics.unrolled import STATE
from grokscope.models.protocol import Carry, Reasoner
from grokscope.models.taps import Tap

Touch: TypeAlias = Callable[[int, str, Tensor], Tensor]
"""touch(stage, site, value) -> the value to go on with."""


@dataclass(frozen=True, eq=False)
class Intervention:
    """One change, at one site of one stage. Those that meet in one place apply in their order."""

    kind: Literal["replace", "add", "zero", "mean"]
    """replace: by the source; add: the source; zero; mean: replace by the mean of the source over its
    samples.
    """
    site: str
    """"state", or one of `model.sites(stage)`."""
    stage: int
    """Index of the stage whose state, or whose pass, is changed."""
    positions: tuple[int, ...]
    """Positions X on the T axis (prefix first); of a pattern, the query positions."""
    source: Tensor | None = None
    """(B or 1, X, D), of "state" the width of `model.live`, of a pattern (B or 1, H, X, T); mean: (N, ..)
    in place of (B, ..); zero: None."""


@dataclass(frozen=True, eq=False)
class Edit:
    """A lowered intervention: value -> where(mask, source, value), or value + source where `adds`."""

    mask_T1: Tensor
    source_BTD: Tensor
    adds: bool

    def __call__(self, value_BTD: Tensor) -> Tensor:
        if self.adds:
            return value_BTD + self.source_BTD.to(value_BTD.dtype)
        return torch.where(self.mask_T1, self.source_BTD.to(value_BTD.dtype), value_BTD)


@dataclass(frozen=True, eq=False)
class Lowered:
    """Interventions as tensors; a `Touch`."""

    edits: Mapping[tuple[int, str], tuple[Edit, ...]]
    model: Reasoner

    def inside(self, stage: int) -> bool:
        """Whether anything inside the pass that leads to `stage` is changed."""
        states = (STATE, self.model.stages[stage].site)
        return any(place == stage and site not in states for place, site in self.edits)

    def __call__(self, stage: int, site: str, value: Tensor) -> Tensor:
        for edit in self.edits.get((stage, site), ()):
            value = edit(value)
        return value


def lower(interventions: Iterable[Intervention], model: Reasoner, positions: int) -> Lowered:
    """Interventions as masks and source tensors for `positions` = T positions, prefix included.

    Raises:
        InputError: a stage, site, position or source that the model does not have or that does not fit.
    """
    edits: dict[tuple[int, str], tuple[Edit, ...]] = {}
    for one in interventions:
        _check(one, model, positions)
        place = (one.stage, one.site)
        edits[place] = (*edits.get(place, ()), _lowered(one, positions))
    return Lowered(edits, model)


def forward(model: Reasoner, tokens_BS: Tensor, touch: Touch | Lowered | None = None) -> Tensor:
    """Final state_BTD with every value shown to `touch`; without it, what `read` shows at the last stage."""
    carry = model.start(tokens_BS)
    if touch is not None:
        carry = _touch_state(model, carry, 0, touch)
    return resume(model, carry, 0, touch)


def resume(model: Reasoner, carry: Carry, stage: int, touch: Touch | Lowered | None = None) -> Tensor:
    """Final state_BTD from the carry at `stage` on; `touch` sees what comes after `stage`."""
    for later in range(stage + 1, len(model.stages)):
        if touch is None:
            carry = model.step(carry, later)
        else:
            carry = _touch_state(model, model.step(carry, later, _at(touch, later)), later, touch)
    return model.read(carry, len(model.stages) - 1)


def intervene(model: Reasoner, tokens_BS: Tensor, interventions: Iterable[Intervention]) -> Tensor:
    """float32 logits_BSV (prefix cut) under interventions.

    Raises:
        InputError: one of them does not fit the model.
    """
    lowered = lower(interventions, model, model.prefix + tokens_BS.shape[1])
    return model.unembed(forward(model, tokens_BS, lowered)[:, model.prefix :])


def _at(touch: Touch | Lowered, stage: int) -> Tap | None:
    """The tap of one pass; a lowered plan that changes nothing inside it needs none, which keeps it exact."""
    if isinstance(touch, Lowered) and not touch.inside(stage):
        return None
    return lambda site, value: touch(stage, site, value)


def _touch_state(model: Reasoner, carry: Carry, stage: int, touch: Touch | Lowered) -> Carry:
    """The carry with its state as `touch` leaves it: the part that the pass made, then all that lives on."""
    part = model.stages[stage].site
    asked = (part,) if part == STATE else (part, STATE)
    for site in asked:
        if isinstance(touch, Lowered) and (stage, site) not in touch.edits:
            continue
        if site == STATE:
            carry = model.with_live(carry, stage, touch(stage, site, model.live(carry, stage)))
        else:
            carry = model.write(carry, stage, touch(stage, site, model.read(carry, stage)))
    return carry


def _lowered(one: Intervention, positions: int) -> Edit:
    where_X = list(one.positions)
    mask_T1 = torch.zeros(positions, 1, dtype=torch.bool)
    mask_T1[where_X] = True
    if one.source is None:
        return Edit(mask_T1, torch.zeros(1, 1, 1), adds=False)
    source = one.source.mean(0, keepdim=True) if one.kind == "mean" else one.source
    full = source.new_zeros(*source.shape[:-2], positions, source.shape[-1])
    full[..., where_X, :] = source
    return Edit(mask_T1.to(source.device), full, adds=one.kind == "add")


def _check(one: Intervention, model: Reasoner, positions: int) -> None:
    if not 0 <= one.stage < len(model.stages):
        raise InputError(f"stage = {one.stage}: this model has stages 0 to {len(model.stages) - 1}.")
    sites = tuple(dict.fromkeys((STATE, *model.sites(one.stage))))
    if one.site not in sites:
        raise InputError(f"site = {one.site!r}: stage {one.stage} of this model has {', '.join(sites)}.")
    if not one.positions or not all(0 <= t < positions for t in one.positions):
        raise InputError(f"positions = {one.positions}: must be some of 0 to {positions - 1}, prefix first.")
    if (one.source is None) != (one.kind == "zero"):
        needs = "takes no source" if one.kind == "zero" else "needs a source"
        raise InputError(f"kind = {one.kind!r}: {needs}.")
    if one.source is not None:
        axes = 4 if one.site.endswith("pattern") else 3
        if one.source.ndim != axes or one.source.shape[-2] != len(one.positions):
            raise InputError(
                f"source of shape {tuple(one.source.shape)}: {one.site} needs {axes} axes, "
                f"the last but one of length {len(one.positions)} (the positions)."
            )
