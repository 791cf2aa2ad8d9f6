"""A model under the names and calls of TransformerLens, for who has them in the fingers.

    view = Hooked(run.model())
    logits, cache = view.run_with_cache(tokens)
    cache["loops.1.blocks.0.hook_resid_post"], cache["loop1.layer0"]          # the same tensor
    view.run_with_hooks(tokens, [("loops.1.blocks.0.hook_mlp_out", lambda value, hook: 0 * value)])

A shared block has one name for every pass. Of a model with a single loop the names are TransformerLens's own,
`blocks.0.hook_resid_post`; of one with several, `loops.L.` stands before. Every name has ours beside it: that
of the stage, or `stage/site` inside a pass.

Shapes: B batch, S input positions, T positions with the prefix first, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from grokscope.errors import InputError, quoted
from grokscope.models.protocol import Reasoner
from grokscope.models.stages import Stage

WORDS = {"attention": "hook_attn_out", "mixer": "hook_attn_out", "mlp": "hook_mlp_out",
         "pattern": "attn.hook_pattern", "injection": "hook_injection"}  # fmt: skip
"""Sites inside a pass, in TransformerLens's words."""


@dataclass
class HookPoint:
    """What a hook is told: where it is."""

    name: str
    """In TransformerLens's words."""
    stage: Stage
    site: str
    """`state`, or a site inside the pass."""
    ctx: dict[str, Tensor] = field(default_factory=dict)
    """For the hook's own use within one run."""


Hook: TypeAlias = Callable[[Tensor, HookPoint], Tensor | None]
Names: TypeAlias = str | Sequence[str] | Callable[[str], bool] | None


class Hooked:
    """A model, run with a cache or with hooks.

    Attributes:
        model: left as it is.
        points: every place, by TransformerLens's name, in the order of computation.
    """

    def __init__(self, model: Reasoner) -> None:
        self.model = model
        self.points: dict[str, HookPoint] = {}
        self._ours: dict[str, str] = {}
        for stage in model.stages:
            for site in (*model.sites(stage.index)[1:], "state"):
                name = self._name(stage, site)
                self.points[name] = HookPoint(name, stage, site)
                self._ours[stage.name if site == "state" else f"{stage.name}/{site}"] = name

    def run_with_cache(
        self, tokens_BS: Tensor, names_filter: Names = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, S, V), and what was there by name: states and outputs (B, T, D), patterns (B, H, T, T);
        each under both its names.

        Args:
            tokens_BS: token ids. names_filter: a name of either kind, several, or a condition on
                TransformerLens's; None: all.

        Raises:
            InputError: there is no such name.
        """
        kept: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: HookPoint) -> None:
            kept[hook.name] = value

        logits_BSV = self.run_with_hooks(tokens_BS, [(name, keep) for name in self._chosen(names_filter)])
        return logits_BSV, kept | {ours: kept[name] for ours, name in self._ours.items() if name in kept}

    @torch.inference_mode()
    def run_with_hooks(self, tokens_BS: Tensor, fwd_hooks: Sequence[tuple[Names, Hook]]) -> Tensor:
        """Logits (B, S, V) of a run in which hooks see, and may replace, values: `hook(value, point)` gives
        the value to go on with, or None.

        Raises:
            InputError: there is no such name.
        """
        hooks: dict[str, list[Hook]] = {}
        for names, hook in fwd_hooks:
            for name in self._chosen(names):
                hooks.setdefault(name, []).append(hook)
        for point in self.points.values():
            point.ctx.clear()
        model = self.model
        carry = model.start(tokens_BS)
        for stage in model.stages:
            if stage.index:
                inside = any(self._name(stage, site) in hooks for site in model.sites(stage.index)[1:])
                tap = self._tap(stage, hooks) if inside else None
                carry = model.step(carry, stage.index, tap)
            name = self._name(stage, "state")
            if name in hooks:
                state_BTD = model.read(carry, stage.index)
                new_BTD = self._hooked(name, state_BTD, hooks)
                carry = carry if new_BTD is state_BTD else model.write(carry, stage.index, new_BTD)
        return model.unembed(model.read(carry, stage.index)[:, model.prefix :])

    def _tap(self, stage: Stage, hooks: dict[str, list[Hook]]) -> Callable[[str, Tensor], Tensor]:
        return lambda site, value: self._hooked(self._name(stage, site), value, hooks)

    def _hooked(self, name: str, value: Tensor, hooks: dict[str, list[Hook]]) -> Tensor:
        for hook in hooks.get(name, ()):
            new = hook(value, self.points[name])
            value = value if new is None else new
        return value

    def _name(self, stage: Stage, site: str) -> str:
        """TransformerLens's words for a site of a stage; `loops` before them where there are several."""
        if stage.loop < 0:
            return "hook_embed"
        several = self.model.inference_loops > 1 or self.model.loops > 1
        loop = f"loops.{stage.loop}." if several else ""
        if stage.layer < 0:
            return "hook_final"
        layer = stage.name.partition(".")[2].removeprefix("layer")
        place = f"{loop}blocks.{layer}." if layer.isdecimal() else f"{loop}{layer}."
        if site == "state":
            return f"{place}hook_resid_post"
        block, _, inner = site.rpartition(".")
        inside = "" if layer.isdecimal() or not block else f"blocks.{block.removeprefix('block')}."
        return f"{place}{inside}{WORDS.get(inner, f'hook_{inner}')}"

    def _chosen(self, names: Names) -> list[str]:
        if names is None or callable(names):
            return [name for name in self.points if names is None or names(name)]
        asked = [names] if isinstance(names, str) else list(names)
        found = [self._ours.get(name, name) for name in asked]
        for name in found:
            if name not in self.points:
                raise InputError(
                    f"name = {quoted(name)}: there is no such hook; one is {list(self.points)[-1]!r}."
                )
        return found
