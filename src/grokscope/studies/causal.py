"""The causal verdict of a finished run, in its directory: verdict.json, and causal.csv with every cell."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from grokscope.errors import InputError
from grokscope.files import whole, write_json
from grokscope.mechanics.causal import combine
from grokscope.mechanics.diagnosis import VERDICT_SET, Diagnosis
from grokscope.mechanics.interchange import Setting
from grokscope.mechanics.spec import CausalSpec
from grokscope.mechanics.verdict import CausalVerdict, Look, look
from grokscope.studies.directory import CAUSAL, VERDICT
from grokscope.studies.run import Run

TRAINED_SET = "train_inferred"
"""What a memory can hold is what was trained: the ID column of the verdict's rule."""
MOMENTS = ("saturation", f"half.{VERDICT_SET}", f"generalisation.{VERDICT_SET}")
"""Events at whose checkpoints "moments" also looks."""
SCHEMA: dict[str, Any] = {
    "step": pl.Int64, "probe_set": pl.String, "arm": pl.String, "stage": pl.String, "position": pl.String,
    "role": pl.String, "rate": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64,
}  # fmt: skip
"""Columns of causal.csv; rows are in the order of the stages."""


def setting_of(run: Run, seed: int = 0) -> Setting:
    """What an intervention on this run's models needs to know."""
    return Setting(run.corpus.world, run.corpus.composition, run.spec.format, seed)


def examined_steps(kept: list[int], diagnosis: Diagnosis, spec: CausalSpec) -> list[int]:
    """Kept steps that are examined, in order; the last is always among them."""
    if spec.steps == "all":
        return kept
    chosen = {kept[-1]}
    if spec.steps == "moments":
        events = [diagnosis.events[name].step for name in MOMENTS if name in diagnosis.events]
        for event in events:
            chosen |= set([step for step in kept if event is not None and step >= event][:1])
    return sorted(chosen)


def causal_verdict(run: Run, diagnosis: Diagnosis, spec: CausalSpec) -> tuple[CausalVerdict, pl.DataFrame]:
    """Intervene on the checkpoints of a run. The same run and spec give the same numbers.

    Returns:
        The verdict, and the table of `SCHEMA`.

    Raises:
        InputError: the run has no checkpoint, or a set of the spec has not two hops.
    """
    kept = run.steps
    if not kept:
        raise InputError(f"run {run.name} in {run.directory} has no checkpoint yet.")
    setting, level = setting_of(run, spec.seed), run.spec.diagnosis.confidence
    looks: list[Look] = []
    for step in examined_steps(kept, diagnosis, spec):
        model = run.model(step)
        most = spec.probes if step == kept[-1] else min(spec.probes, spec.dense_probes)
        for name in spec.sets:
            if name in run.corpus.probes:
                looks.append(look(model, run.corpus.probes[name], setting, step, most, level))
    last: Mapping[str, Look] = {one.found.probe_set: one for one in looks if one.found.step == kept[-1]}
    trained, ood = last.get(TRAINED_SET), last.get(VERDICT_SET)
    verdict, reason = combine(
        diagnosis.behaviour, trained.examined if trained else None, ood.examined if ood else None
    )
    found = CausalVerdict(
        verdict, reason, diagnosis.behaviour, kept[-1], tuple(one.found for one in looks), spec
    )
    return found, pl.DataFrame([row for one in looks for row in one.rows], schema=SCHEMA, orient="row")


def up_to_date(run: Run, diagnosis: Diagnosis | None, spec: CausalSpec) -> bool:
    """Whether the verdict on disk is of this spec, the last checkpoint and this diagnosis."""
    kept = run.verdict
    return (
        kept is not None
        and diagnosis is not None
        and (run.directory / CAUSAL).exists()
        and (kept.spec, kept.step, kept.behaviour) == (spec, run.steps[-1], diagnosis.behaviour)
    )


def keep_verdict(run: Run, diagnosis: Diagnosis, spec: CausalSpec | None = None) -> CausalVerdict:
    """The verdict, computed and written unless the one on disk is up to date.

    The table is written before the verdict: where there is a verdict, there is its table.
    """
    spec = run.spec.causal if spec is None else spec
    if up_to_date(run, diagnosis, spec):
        kept = run.verdict
        assert kept is not None
        return kept
    verdict, table = causal_verdict(run, diagnosis, spec)
    with whole(run.directory / CAUSAL) as draft:
        table.write_csv(draft)
    write_json(run.directory / VERDICT, verdict.tree())
    return verdict
