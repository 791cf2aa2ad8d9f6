"""What a study will take: disk, and arithmetic. Said before the start, not learned from a full disk."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grokscope.mechanics.read.lens import targets
from grokscope.models.build import build_model, count_parameters
from grokscope.models.flops import evaluation_flops, lens_flops
from grokscope.models.protocol import Reasoner
from grokscope.runs.spec import RunSpec, StudySpec
from grokscope.training.cost import disk_estimate, examples_flops, update_flops
from grokscope.training.data import RowLayout
from grokscope.training.schedule import checkpoint_steps
from grokscope.world.corpus import build_corpus
from grokscope.world.format import positions
from grokscope.world.graph import build_world
from grokscope.world.probes import ProbeSet
from grokscope.world.vocabulary import Vocabulary


@dataclass(frozen=True)
class Cost:
    """What one run takes."""

    parameters: int
    """Trained numbers, shared ones counted once."""
    weights: int
    """Bytes of checkpoints and resume state, at most."""
    traces: int
    """Bytes of traces before compression."""
    flop: float
    """Floating-point operations of one step: forward, backward, and the optimiser's matrix products."""

    @property
    def disk(self) -> int:
        """Bytes of a run, at most."""
        return self.weights + self.traces


def run_cost(spec: RunSpec) -> Cost:
    """Count what a run takes, without training it.

    Raises:
        InputError: the world, the corpus or the model is impossible.
    """
    corpus = build_corpus(build_world(spec.world, spec.seeds), spec.corpus, spec.regime, spec.seeds)
    size = positions(spec.format)
    vocab = corpus.world.vocabulary.size
    model = build_model(spec.model, vocab, size, spec.format, spec.seeds.init, spec.training.dtype)
    return Cost(
        parameters=count_parameters(model),
        weights=disk_estimate(model, spec.training),
        traces=trace_bytes(spec, corpus.probes, corpus.world.vocabulary, len(model.stages)),
        flop=step_flop(model, spec),
    )


def costs(specs: Mapping[str, RunSpec]) -> dict[str, Cost]:
    """What runs of one study take, by name: they differ in regime, seed and steps alone, so that one of each
    number of steps is counted and stands for all."""
    known = {spec.training.steps: spec for spec in specs.values()}
    counted = {steps: run_cost(spec) for steps, spec in known.items()}
    return {name: counted[spec.training.steps] for name, spec in specs.items()}


def trace_bytes(spec: RunSpec, probes: Mapping[str, ProbeSet], vocabulary: Vocabulary, stages: int) -> int:
    """Bytes of all traces before compression: rank and log-probability (2 bytes each) of every variable, and
    an argmax, per probe, stage and position."""
    most, size = spec.lens.probes_per_set, positions(spec.format)
    per_checkpoint = 0
    for probe_set in probes.values():
        count = len(probe_set) if most is None else min(most, len(probe_set))
        variables = len(targets(probe_set, vocabulary)[0])
        per_checkpoint += count * stages * size * (variables * 4 + 2)
    return per_checkpoint * len(checkpoint_steps(spec.training))


def step_flop(model: Reasoner, spec: RunSpec) -> float:
    """FLOP of one training step: forward, backward, and the optimiser's matrix products."""
    examples = examples_flops(model, spec.training, RowLayout.of(spec.format))
    return examples + update_flops(model, spec.training)


def checkpoint_flop(model: Reasoner, spec: RunSpec, probes: Mapping[str, ProbeSet]) -> int:
    """FLOP of one checkpoint: the accuracy of all probes, and the lens (with its own exact match) of those
    that are traced."""
    most = spec.lens.probes_per_set
    evaluated = sum(len(one) for one in probes.values())
    traced = sum(len(one) if most is None else min(most, len(one)) for one in probes.values())
    exact = evaluation_flops(model, RowLayout.of(spec.format).labelled)
    return evaluated * exact + traced * (exact + lens_flops(model))


def disk_sentences(specs: Mapping[str, RunSpec], out: Path) -> list[str]:
    """What these runs of a study will take on disk, and a warning if that is more than there is."""
    if not specs:
        return []
    total = sum(cost.disk for cost in costs(specs).values())
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
    specs, every = list(named.values()), list(costs(named).values())
    cost = max(every, key=lambda one: one.disk)
    steps = sum(spec.training.steps for spec in specs)
    total = f"{bytes_text(sum(one.disk for one in every))} in all"
    if study.transfer is not None:
        total += ", transfers not counted (grokscope plan counts them)"
    return [
        f"{len(specs)} runs, {steps:,} steps in all; {cost.parameters:,} parameters",
        f"disk: at most {bytes_text(cost.disk)} a run (weights {bytes_text(cost.weights)}, traces "
        f"{bytes_text(cost.traces)} before compression), {total}",
        f"arithmetic: {cost.flop:.2g} FLOP a step, {cost.flop * steps:.2g} in all",
        *order_warning(specs[0]),
    ]


def bytes_text(count: int) -> str:
    """`1.3 GB`."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
