"""Stages: the addresses of the unrolled computation. A shared block has one stage for every pass."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One place where a state can be read or written.

    `loop` and `layer` count from 0; the stage before any block has -1 for both. `site` is the part of the
    carry that is read there: "state" in a looped model, "z_L" or "z_H" in a recursive one."""

    index: int
    name: str
    loop: int
    layer: int
    site: str


def looped_stages(loops: int, layers: int) -> tuple[Stage, ...]:
    """embed, loop0.layer0, loop0.layer1, ..: the residual stream after the embedding and every block."""
    stages = [Stage(0, "embed", -1, -1, "state")]
    for loop in range(loops):
        for layer in range(layers):
            stages.append(Stage(len(stages), f"loop{loop}.layer{layer}", loop, layer, "state"))
    return tuple(stages)


def recursive_stages(h_cycles: int, l_cycles: int) -> tuple[Stage, ...]:
    """init, then per outer cycle think0, think1, .. (reads z_L), commit (reads z_H); `layer`: the pass."""
    stages = [Stage(0, "init", -1, -1, "z_H")]
    for cycle in range(h_cycles):
        for think in range(l_cycles):
            stages.append(Stage(len(stages), f"cycle{cycle}.think{think}", cycle, think, "z_L"))
        stages.append(Stage(len(stages), f"cycle{cycle}.commit", cycle, l_cycles, "z_H"))
    return tuple(stages)
