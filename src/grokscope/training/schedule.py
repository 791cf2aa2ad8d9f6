"""What depends on the step number alone: the learning rate, and when checkpoints are taken and kept."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from grokscope.training.spec import TrainingSpec


def rate(spec: TrainingSpec, step: int) -> float:
    """Share of the peak learning rate in the update that takes `step` to `step + 1`. Does not depend on
    `spec.steps`.

    Linear warm-up: (step + 1) / warmup. Then constant, or a cosine or a line from 1 at the end of the warm-up
    to `final_lr` at `schedule_steps`, and `final_lr` from there on.
    """
    if step < spec.warmup:
        return (step + 1) / spec.warmup
    if spec.schedule == "constant" or spec.schedule_steps is None:
        return 1.0
    done = min(1.0, (step - spec.warmup) / (spec.schedule_steps - spec.warmup))
    shape = 1 - done if spec.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return spec.final_lr + (1 - spec.final_lr) * shape


def scheduled_steps(spec: TrainingSpec, last: int) -> list[int]:
    """The steps up to `last` at which the schedule takes a checkpoint, whatever the length of the run.

    0, every multiple of `dense_every` up to `first_checkpoint`, and first_checkpoint * 2^(i / per_doubling)
    for i = 0, 1, .., rounded.
    """
    steps = set(range(0, min(spec.first_checkpoint, last) + 1, spec.dense_every))
    index = 0
    while (step := round(spec.first_checkpoint * 2 ** (index / spec.checkpoints_per_doubling))) <= last:
        steps.add(step)
        index += 1
    return sorted(steps)


def checkpoint_steps(spec: TrainingSpec) -> list[int]:
    """All checkpoints of a run, ascending: those of the schedule, and the last step.

    A longer run has the same ones and more, but for the last step of the shorter run, which is off the
    schedule. It stays behind as an extra checkpoint when a finished run is continued, and nothing else
    depends on it.
    """
    return sorted({*scheduled_steps(spec, spec.steps), spec.steps})


def ends(spec: TrainingSpec, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run with these metrics lines has reached what `spec.until` asks for.

    Lines off the schedule do not count: they are there only because a shorter run was continued.
    """
    if not spec.until or not rows:
        return False
    marks = scheduled_steps(spec, rows[-1]["step"])[-spec.until_checkpoints :]
    last = [row["accuracy"] for row in rows if row["step"] in marks]
    return len(last) == spec.until_checkpoints and all(
        accuracy.get(name, 0.0) >= level for accuracy in last for name, level in spec.until.items()
    )


def thin(steps: list[int], most: int | None) -> list[int]:
    """Which of these checkpoints keep their weights, if at most `most` may: evenly spaced in log step.

    The steps are taken one after another as they come in training; when there is one too many, that inner one
    goes whose neighbours are nearest in log step. So what is kept at any moment depends on the past alone,
    and a continued run keeps what a run made at once would. The first and the newest always stay.
    """
    kept: list[int] = []
    for step in sorted(steps):
        kept.append(step)
        if most is not None and len(kept) > most:
            gaps = [math.log(max(kept[i + 1], 1) / max(kept[i - 1], 1)) for i in range(1, len(kept) - 1)]
            del kept[1 + gaps.index(min(gaps))]
    return kept
