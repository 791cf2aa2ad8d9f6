"""What a study will take: disk, and arithmetic. Said before the start, not learned from a full disk."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grokscope.mechanics.read.lens import targets
from grokscope.models.build import count_parameters
from grokscope.models.flops import Operations, evaluation, reading
from grokscope.models.protocol import Reasoner
from grokscope.runs.job import RunSpec, TransferRunSpec
from grokscope.runs.setup import RunSetup, TransferSetup
from grokscope.runs.spec import StudySpec
from grokscope.spec import digest
from grokscope.training.cost import disk_estimate, examples, update
from grokscope.training.data import RowLayout
from grokscope.training.schedule import checkpoint_steps
from grokscope.training.spec import TrainingSpec
from grokscope.world.format import positions
from grokscope.world.probes import ProbeSet


@dataclass(frozen=True)
class Cost:
    """What one run takes."""

    parameters: int
    """Trained numbers, shared ones counted once."""
    weights: int
    """Bytes of checkpoints and resume state, at most."""
    traces: int
    """Bytes of traces before compression."""
    step: tuple[Operations, ...]
    """One step, forward, backward and update, for every number of loops that it may draw."""

    @property
    def flop(self) -> float:
        """Of the mean step."""
        return mean_flop(self.step)

    @property
    def disk(self) -> int:
        """Bytes of a run, at most."""
        return self.weights + self.traces


def step_flop(setup: RunSetup | TransferSetup, model: Reasoner | None = None) -> float:
    """FLOP of one training step: forward, backward, and the optimiser's matrix products; with random numbers
    of loops, of the mean step.

    Raises:
        InputError: the world or the model is impossible.
    """
    return mean_flop(step_operations(setup, model))


def mean_flop(steps: tuple[Operations, ...]) -> float:
    """FLOP of the mean of these."""
    return sum(one.flop for one in steps) / len(steps)


def step_operations(setup: RunSetup | TransferSetup, model: Reasoner | None = None) -> tuple[Operations, ...]:
    """One training step, for every number of loops that it may draw.

    Raises:
        InputError: the world or the model is impossible.
    """
    training, model = setup.spec.training, model or setup.model()
    layout = RowLayout.of(setup.spec.format, setup.spec.hops)
    always = update(model, training)
    return tuple(one + always for one in examples(model, training, layout))


def job_cost(setup: RunSetup | TransferSetup, training: TrainingSpec | None = None) -> Cost:
    """Count what a job takes, without training it.

    Args:
        setup: of the job, or of one that differs in regime, seed and steps alone.
        training: if its steps differ.

    Raises:
        InputError: the world, the corpus or the model is impossible.
    """
    model, training = setup.model(), training or setup.spec.training
    return Cost(
        parameters=count_parameters(model),
        weights=disk_estimate(model, training),
        traces=_trace_bytes(setup, len(model.stages)) * len(checkpoint_steps(training)),
        step=step_operations(setup, model),
    )


def kind_of(spec: RunSpec) -> str:
    """Runs of one kind take as much for a step, for a checkpoint and on disk: they differ in regime, seed and
    length alone."""
    tree = spec.tree()
    for name in ("regime", "seed", "seeds", "sinks"):
        del tree[name]
    del tree["training"]["steps"]
    return digest(tree)


def kinds(specs: Mapping[str, RunSpec], *known: RunSetup) -> dict[str, RunSetup]:
    """A setup for every kind of run: one of those that are known, or the last run's."""
    last = {kind_of(spec): spec for spec in specs.values()}
    there = {kind_of(one.spec): one for one in known}
    return {kind: there.get(kind) or RunSetup(spec) for kind, spec in last.items()}


def costs(specs: Mapping[str, RunSpec], setups: Mapping[str, RunSetup]) -> dict[str, Cost]:
    """What runs of one study take, by name; `setups` is of `kinds`."""
    counted: dict[tuple[str, int], Cost] = {}
    out: dict[str, Cost] = {}
    for name, spec in specs.items():
        key = kind_of(spec), spec.training.steps
        if key not in counted:
            counted[key] = job_cost(setups[key[0]], spec.training)
        out[name] = counted[key]
    return out


def _trace_bytes(setup: RunSetup | TransferSetup, stages: int) -> int:
    """Bytes of a checkpoint's traces before compression: rank and log-probability (2 bytes each) of every
    variable, and an argmax, per probe, stage and position."""
    most, size = setup.spec.lens.probes_per_set, positions(setup.spec.format, setup.spec.hops)
    total = 0
    for probe_set in setup.corpus.probes.values():
        count = len(probe_set) if most is None else min(most, len(probe_set))
        variables = len(targets(probe_set, setup.world.vocabulary)[0])
        total += count * stages * size * (variables * 4 + 2)
    return total


def checkpoint_operations(
    model: Reasoner, spec: RunSpec | TransferRunSpec, probes: Mapping[str, ProbeSet]
) -> Operations:
    """One checkpoint: the accuracy of every probe set, and the lens (with its own exact match) of those of
    its probes that are traced."""
    labelled, most = RowLayout.of(spec.format, spec.hops).labelled, spec.lens.probes_per_set
    found = Operations(0, (), 0)
    for one in probes.values():
        traced = len(one) if most is None else min(most, len(one))
        found += evaluation(model, labelled, len(one)) + evaluation(model, labelled, traced)
        found += reading(model, traced)
    return found


def disk_sentences(specs: Mapping[str, RunSpec], out: Path, setup: RunSetup) -> list[str]:
    """What these runs of a study will take on disk (`setup` is of one), and a warning if there is less."""
    if not specs:
        return []
    total = sum(cost.disk for cost in costs(specs, kinds(specs, setup)).values())
    there = next(path for path in [out, *out.absolute().parents] if path.exists())
    free = shutil.disk_usage(there).free
    said = [f"disk: at most {bytes_text(total)} for {len(specs)} runs, {bytes_text(free)} free"]
    if total > free:
        said.append("warning: that may not fit; training.keep and lens.probes_per_set make runs smaller")
    return said + order_warning(next(iter(specs.values())))


def order_warning(spec: RunSpec) -> list[str]:
    """A warning if nothing tells the model which token stands where, so that r1 and r2 can be swapped."""
    if spec.model.sees_order(spec.format):
        return []
    return [
        "warning: with full attention and model.positions = 'none' the model cannot see the order of the "
        "tokens; set model.positions, or format.attention to causal"
    ]


def study_sentences(study: StudySpec) -> list[str]:
    """Runs, parameters, disk and arithmetic of a study, and a warning if it cannot work.

    Raises:
        InputError: the world, the corpus or the model is impossible.
    """
    named = study.expand()
    specs, every = list(named.values()), list(costs(named, kinds(named)).values())
    cost = max(every, key=lambda one: one.disk)
    steps = sum(spec.training.steps for spec in specs)
    flop = sum(one.flop * spec.training.steps for one, spec in zip(every, specs, strict=True))
    total = f"{bytes_text(sum(one.disk for one in every))} in all"
    if study.transfer is not None:
        total += ", transfers not counted (grokscope plan counts them)"
    return [
        f"{len(specs)} runs, {steps:,} steps in all; {cost.parameters:,} parameters",
        f"disk: at most {bytes_text(cost.disk)} a run (weights {bytes_text(cost.weights)}, traces "
        f"{bytes_text(cost.traces)} before compression), {total}",
        f"arithmetic: {cost.flop:.2g} FLOP a step, {flop:.2g} in all",
        *order_warning(specs[0]),
    ]


def bytes_text(count: int) -> str:
    """`1.3 GB`."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
