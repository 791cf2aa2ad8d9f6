"""The causal verdict of a finished run, in its directory: verdict.json, and causal.csv with every cell."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from grokscope.errors import InputError
from grokscope.files import whole, write_json
from grokscope.mechanics.judge.causal import Examined, combine, together
from grokscope.mechanics.judge.diagnosis import VERDICT_SET, Diagnosis
from grokscope.mechanics.judge.verdict import CausalVerdict, Look, look
from grokscope.mechanics.read.layout import chosen_probes
from grokscope.mechanics.read.traces import shards
from grokscope.mechanics.spec import RULES, CausalSpec
from grokscope.runs.directory import CAUSAL, TRACES, VERDICT
from grokscope.runs.open import Run
from grokscope.training.start import with_threads
from grokscope.world.pool import COUNTS
from grokscope.world.probes import ProbeSet, exposure, make_probe_sets

TRAINED_SET = "train_inferred"
"""What a memory can hold is what was trained: the ID column of the verdict's rule."""
MOMENTS = ("saturation", f"half.{VERDICT_SET}", f"generalisation.{VERDICT_SET}")
"""Events at whose checkpoints "moments" also looks."""
SCHEMA: dict[str, Any] = {
    "step": pl.Int64, "probe_set": pl.String, "arm": pl.String, "stage": pl.String, "position": pl.String,
    "role": pl.String, "rate": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64,
}  # fmt: skip
"""Columns of causal.csv; rows are in the order of the stages."""
LATENT = {"latent": pl.String}
"""A column more, where queries have several bridges: which one a row is about."""


def answer_position(run: Run) -> int:
    """Input position where the answers of the run's composed queries are read."""
    every = [one for one in run.corpus.probes.values() if one.queries.hops == run.spec.hops]
    return run.setting().encode(every[0].queries.take(np.zeros(1, dtype=np.int64))).answer_position


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
        InputError: the run has no checkpoint, or a set of the spec is one of atomic facts.
    """
    kept = run.steps
    if not kept:
        raise InputError(f"run {run.name} in {run.directory} has no checkpoint yet.")
    settings = [run.setting(spec.seed, hop) for hop in range(1, run.spec.hops)]
    level = run.spec.diagnosis.confidence
    looks: list[Look] = []
    for step in examined_steps(kept, diagnosis, spec):
        model = run.model(step)
        most = spec.probes if step == kept[-1] else min(spec.probes, spec.dense_probes)
        for name in spec.sets if step == kept[-1] else [VERDICT_SET]:
            if name in run.corpus.probes:
                looks += [
                    look(model, run.corpus.probes[name], setting, step, most, level) for setting in settings
                ]
    last: dict[str | None, dict[str, Examined]] = {}
    for one in looks:
        if one.found.step == kept[-1]:
            last.setdefault(one.found.latent, {})[one.found.probe_set] = one.examined
    verdict, reason = together(
        {
            latent: combine(diagnosis.behaviour, sets.get(TRAINED_SET), sets.get(VERDICT_SET))
            for latent, sets in (last or {None: {}}).items()
        }
    )
    rule = RULES[run.spec.format.attention]
    found = CausalVerdict(
        verdict, reason, diagnosis.behaviour, kept[-1], tuple(one.found for one in looks), spec, rule
    )
    schema = SCHEMA | (LATENT if len(settings) > 1 else {})
    return found, pl.DataFrame([row for one in looks for row in one.rows], schema=schema, orient="row")


def up_to_date(run: Run, diagnosis: Diagnosis | None, spec: CausalSpec) -> bool:
    """Whether the verdict on disk is of today's rule, this spec, the last checkpoint and this diagnosis."""
    try:
        kept = run.verdict
    except InputError:
        return False  # Damaged: it is made anew.
    return (
        kept is not None
        and diagnosis is not None
        and (run.directory / CAUSAL).exists()
        and (kept.rule, kept.spec, kept.step, kept.behaviour)
        == (RULES[run.spec.format.attention], spec, run.steps[-1], diagnosis.behaviour)
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
    # With the run's own threads: their number decides the order of sums, and beside other workers, threads
    # that wait for each other wait for whole slices of the scheduler. A run may come from a larger machine.
    with with_threads(min(int(run.manifest["threads"]), len(os.sched_getaffinity(0)))):
        verdict, table = causal_verdict(run, diagnosis, spec)
    with whole(run.directory / CAUSAL) as draft:
        table.write_csv(draft)
    write_json(run.directory / VERDICT, verdict.tree())
    return verdict


def complete(run: Run) -> None:
    """Trace the checkpoints of a run that have no trace: its directory may hold spec, manifest, metrics and
    checkpoints alone, trained elsewhere."""
    traced = shards(run.directory / TRACES)
    missing = [step for step in run.steps if step not in traced]
    if not missing:
        return
    writer = run.checked.tracer(run.directory)
    for step in missing:
        writer.at_checkpoint(step, run.model(step))


def one_query(run: Run, query: str, probe_set: ProbeSet) -> ProbeSet:
    """A probe set of one query.

    Args:
        run: whose world it is of.
        query: its number in the set, or the tokens of head and all relations.
        probe_set: where a number counts.

    Raises:
        InputError: there is no such query, or the world has no such facts.
    """
    if query.isdigit():
        if int(query) >= len(probe_set):
            raise InputError(f"query = {query}: {probe_set.name} has the queries 0 to {len(probe_set) - 1}.")
        return chosen_probes(probe_set, np.array([int(query)]))
    world, words = run.world, query.split()
    names = world.vocabulary.tokens
    numbers: list[int] = []
    hops = run.spec.hops
    kinds = (world.vocabulary.entity_ids, *[world.vocabulary.relation_ids] * hops)
    for word, ids in zip(words, kinds, strict=False):
        found = [number for number, token in enumerate(ids) if names[int(token)] in (word, f"<{word}>")]
        if not found:
            what = "an entity" if ids is kinds[0] else "a relation"
            raise InputError(f"query = {query!r}: {word!r} is not {what}; one is {names[int(ids[0])]!r}.")
        numbers += found
    if len(words) != hops + 1:
        raise InputError(f"query = {query!r}: it takes a head and {COUNTS[hops]} relations, or a number.")
    entity, chain, said = numbers[0], [], words[0]
    for word, relation in zip(words[1:], numbers[1:], strict=True):
        chain.append(int(world.fact_of_ER[entity, relation]))
        if chain[-1] < 0:
            raise InputError(f"query = {query!r}: the world has no fact {said} {word}.")
        entity = int(world.tail_of_ER[entity, relation])
        said = world.vocabulary.entity(entity)
    facts = np.array([chain], dtype=np.int32)
    for one in run.corpus.probes.values():
        if one.queries.hops == hops:
            at = np.flatnonzero((one.fact_PK == facts).all(axis=1))
            if len(at):
                return chosen_probes(one, at[:1])
    trained = run.corpus.composition.fact_NK(world)
    counts = exposure(world, trained)
    sets = make_probe_sets(world, {"train_inferred": facts}, counts, run.spec.seeds)
    pattern = "".join("O" if world.ood_F[fact] else "I" for fact in facts[0])
    return replace(sets["train_inferred"], name="query", pattern=pattern)
