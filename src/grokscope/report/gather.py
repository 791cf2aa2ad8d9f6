"""Measuring a study: every run is read once, with the functions of `mechanics`, into tidy tables.

Shape legend: N steps, P probes, K hops.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.findings.cells import Ran, Resampled, ran, resampled
from grokscope.findings.evaluate import evaluate
from grokscope.findings.measured import evidence
from grokscope.mechanics.judge.diagnosis import VERDICT_SET, Diagnosis, diagnose
from grokscope.mechanics.read.layout import ranks, select
from grokscope.mechanics.read.lens import CONTROL
from grokscope.mechanics.read.rates import anywhere, emergence_map, in_cell, latents_of, registers
from grokscope.report.tables import (
    ACCURACY,
    ANYWHERE,
    CAUSAL,
    CELL,
    CELL_EARLY,
    CHANCE,
    CURVES,
    EMERGENCE,
    EVENTS,
    GUESS,
    TOKENS,
    Row,
    RunView,
    StudyView,
    table,
)
from grokscope.report.tuning_figures import tuning_curves
from grokscope.runs.causal import LATENT, answer_position
from grokscope.runs.files import load_study, shipped_studies
from grokscope.runs.open import Run
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from grokscope.statistics.clustered import clustered_rate
from grokscope.statistics.estimate import numbers
from grokscope.world.source import kept

STUDY_FILE = "study.yaml"
"""The study's settings are written beside the report under this name, so that they can be run again."""


def gather(study: Study) -> StudyView:
    """Measure all runs of a study that have been started, in the order of its regimes, then seeds, and judge
    its findings."""
    spec, level = study.spec, study.spec.diagnosis.confidence
    started = study.runs
    order = spec.regime_names
    runs = sorted(started.values(), key=lambda run: (order.index(run.spec.regime.name), run.spec.seed))
    parts, measured = [_run(run, level) for run in runs], evidence(study, started)
    causal = [row for part in parts for row in part[4]]
    finished, law, why = _law(study)
    return StudyView(
        name=spec.name,
        family=spec.family,
        command=command_of(spec),
        saturation=spec.diagnosis.saturation,
        generalisation=spec.diagnosis.generalisation,
        confidence=level,
        runs=tuple(view for view, *_ in parts),
        missing=tuple(name for name in spec.expand() if name not in started),
        curves=table((row for part in parts for row in part[1]), CURVES),
        emergence=table((row for part in parts for row in part[2]), EMERGENCE),
        events=table((row for part in parts for row in part[3]), EVENTS),
        causal=table(causal, CAUSAL | (LATENT if any("latent" in row for row in causal) else {})),
        spec=spec.with_world(kept(spec.world)).tree(),
        evidence=measured,
        found=evaluate(study, measured) if measured.runs else None,
        ran=finished,
        law=law,
        notes=(why,) if why else (),
        tuned=tuning_curves(study),
    )


def _law(study: Study) -> tuple[list[Ran], Resampled | None, str]:
    """The finished runs of a sweep, the law of what becomes of them, and else why there is none."""
    if study.spec.sweep is None:
        return [], None, ""
    try:
        finished = ran(study)
        return finished, resampled(finished), ""
    except InputError as error:
        return [], None, f"There is no map: {error}"


def command_of(spec: StudySpec) -> str:
    """The command that makes this study: of the shipped study, if these are its settings, or of the file."""
    if spec.name in shipped_studies():
        try:
            if load_study(spec.name, spec.family) == spec:
                family = "" if spec.family == "default" else f" --family {spec.family}"
                return f"grokscope run {spec.name}{family}"
        except InputError:  # the shipped study has no such family: these are other settings
            pass
        if load_study(spec.name) == spec:
            return f"grokscope run {spec.name}"
    return f"grokscope run {STUDY_FILE}"


def _run(run: Run, level: float) -> tuple[RunView, list[Row], list[Row], list[Row], list[Row]]:
    """One run: its view, and its rows of curves, emergence, events and causal maps."""
    key: Row = {"run": run.name, "regime": run.spec.regime.name, "seed": run.spec.seed}
    notes: list[str] = []
    traces, diagnosis = _traces(run, notes), None
    try:
        accuracies = _accuracies(run)
    except InputError as error:
        accuracies = []
        notes.append(f"There are no metrics: {error}")
    if accuracies:
        diagnosis = _diagnosis(run, traces, notes)
        looks, window = len({row["step"] for row in accuracies}), run.spec.diagnosis.window
        if looks < window:
            notes.append(
                f"The run is too short to have an event: it has {looks} of the {window} checkpoints in a row "
                "at which a level must be held."
            )
    verdict = run.verdict if diagnosis else None
    curves = [{**key, **row} for row in _curves(accuracies, traces, diagnosis, level)]
    emergence = [{**key, **row} for row in _emergence(traces, diagnosis)] if traces is not None else []
    view = RunView(
        name=run.name,
        regime=run.spec.regime.name,
        seed=run.spec.seed,
        behaviour=diagnosis.behaviour if diagnosis else "not diagnosed",
        mechanism=verdict.verdict if verdict else "not tested",
        verdict=verdict,
        answer_position=answer_position(run) if verdict else 0,
        reason=diagnosis.reason if diagnosis else "",
        spec=run.spec.model_dump(mode="json", exclude={"seed"}),  # it is told with the run
        manifest=_manifest(run, notes),
        notes=tuple(notes),
        **_numbers(diagnosis),
    )
    events = [{**key, **row} for row in _events(diagnosis)] if diagnosis else []
    causal = [{**key, **row} for row in run.causal.to_dicts()] if verdict else []
    return view, curves, emergence, events, causal


def _traces(run: Run, notes: list[str]) -> xr.Dataset | None:
    try:
        return run.traces
    except InputError as error:
        notes.append(f"Nothing that needs a trace is shown: {error}")
        return None


def _manifest(run: Run, notes: list[str]) -> dict[str, Any]:
    try:
        return dict(run.manifest)
    except InputError as error:
        notes.append(f"The manifest is missing: {error}")
        return {}


def _diagnosis(run: Run, traces: xr.Dataset | None, notes: list[str]) -> Diagnosis | None:
    """The recorded diagnosis; of an unfinished run, the diagnosis of what there is."""
    recorded = run.diagnosis
    if recorded is not None:
        return recorded
    notes.append("The run is unfinished; what is said of it holds for the steps it has made.")
    if traces is None:
        return None
    try:
        return diagnose(run.metrics, traces, run.corpus.probes, run.spec.diagnosis)
    except InputError as error:
        notes.append(f"It could not be diagnosed: {error}")
        return None


def _accuracies(run: Run) -> list[Row]:
    """Exact accuracies as recorded in training, without interval."""
    metrics, probes = run.metrics.sort("step"), run.corpus.probes
    rows: list[Row] = []
    for name, probe_set in probes.items():
        if not len(probe_set) or f"accuracy.{name}" not in metrics.columns:
            continue
        facts = min(len(np.unique(column_P)) for column_P in probe_set.fact_PK.T)
        for step, value in metrics.select("step", f"accuracy.{name}").iter_rows():
            rows.append(_row(step, name, ACCURACY, "", value, len(probe_set), facts))
    return rows


def _row(step: int, probes: str, measure: str, variable: str, value: float | None, n: int, facts: int) -> Row:
    """A curve row without interval."""
    return {
        "step": step, "probes": probes, "measure": measure, "variable": variable, "value": value,
        "low": None, "high": None, "n": n, "facts": facts,
    }  # fmt: skip


def _curves(
    accuracies: list[Row], traces: xr.Dataset | None, diagnosis: Diagnosis | None, level: float
) -> Iterable[Row]:
    """All curves of a run; a traced two-hop set has the accuracy of its traced probes, with interval."""
    traced: list[Row] = []
    if traces is not None:
        for name in traces["set"].values.tolist():
            part = select(traces, name)
            if part.sizes["hop"] > 1 and name != "train_inferred":
                traced += _rates(part, name, ACCURACY, "", part["exact"].values, level)
        if VERDICT_SET in traces["set"].values.tolist():
            traced += _decoding(select(ranks(traces), VERDICT_SET).load(), level)
    measured = {(row["step"], row["probes"]) for row in traced if row["measure"] == ACCURACY}
    yield from (row for row in accuracies if (row["step"], row["probes"]) not in measured)
    yield from traced
    found = diagnosis.sets.get(VERDICT_SET) if diagnosis else None
    if found is not None:
        for step in sorted({row["step"] for row in accuracies}):
            guess = found.guess
            yield _row(step, VERDICT_SET, GUESS, "", guess.value, guess.n, min(guess.clusters))


def _decoding(part: xr.Dataset, level: float) -> list[Row]:
    """Where every latent is found, and how often its control is."""
    rows: list[Row] = []
    for variable in latents_of(part):
        rows += _rates(part, VERDICT_SET, ANYWHERE, variable, anywhere(part, variable), level)
        if registers(part):
            seen = anywhere(part, variable, tokens_only=True)
            rows += _rates(part, VERDICT_SET, TOKENS, variable, seen, level)
        rows += _rates(part, VERDICT_SET, CHANCE, variable, anywhere(part, CONTROL + variable), level)
        for measure, before_last in ((CELL, False), (CELL_EARLY, True)):
            if before_last and part.sizes["stage"] < 2:
                continue
            cells = in_cell(part, variable, before_last)
            if cells is not None:
                rows += _rates(part, VERDICT_SET, measure, variable, cells.hit_NP, level)
    return rows


def _rates(
    part: xr.Dataset, name: str, measure: str, variable: str, hit_NP: NDArray[np.bool_], level: float
) -> list[Row]:
    """One row per step: the share of probes, with its interval clustered by fact."""
    facts_PK = part["fact"].values
    rows = []
    for step, hit_P in zip(part["step"].values.tolist(), hit_NP, strict=True):
        rate = clustered_rate(hit_P, facts_PK, level)
        row = _row(step, name, measure, variable, rate.value, rate.n, min(rate.clusters))
        rows.append(row | numbers(rate, "value"))
    return rows


def moments(steps: Sequence[int], saturation: int | None) -> dict[str, int]:
    """The traced steps of the three moments.

    Early is the traced step nearest, in log step, to a tenth of the saturation step (of the last step, if it
    was never reached); saturation the first traced step from there on; end the last.
    """
    positive = [step for step in steps if step > 0]
    if not positive:
        return {"end": steps[-1]} if len(steps) else {}
    goal = np.log(max(saturation or steps[-1], 1) / 10)
    found = {"early": min(positive, key=lambda step: abs(np.log(step) - goal))}
    later = [step for step in steps if saturation is not None and step >= saturation]
    return found | ({"saturation": later[0]} if later else {}) | {"end": steps[-1]}


def _emergence(traces: xr.Dataset, diagnosis: Diagnosis | None) -> Iterable[Row]:
    """The emergence maps of the verdict set at the three moments: one row per counted cell."""
    if VERDICT_SET not in traces["set"].values.tolist():
        return
    saturation = diagnosis.events["saturation"].step if diagnosis else None
    part = select(ranks(traces), VERDICT_SET)
    for moment, step in moments(traces["step"].values.tolist(), saturation).items():
        for variable in latents_of(part):
            grid = emergence_map(traces, variable, VERDICT_SET, step)
            stages, roles = grid["stage"].values.tolist(), grid["role"].values.tolist()
            for (i, j), rate in np.ndenumerate(grid.values):
                if np.isnan(rate):  # a position that holds the answer as input is not counted
                    continue
                yield {"moment": moment, "step": step, "probes": VERDICT_SET, "variable": variable,
                       "stage_index": i, "stage": stages[i], "position_index": j, "position": roles[j],
                       "rate": float(rate), "n": part.sizes["probe"]}  # fmt: skip


def _events(diagnosis: Diagnosis) -> Iterable[Row]:
    for name, event in diagnosis.events.items():
        yield {
            "event": name,
            "threshold": event.threshold,
            "step": event.step,
            "last_step": diagnosis.last_step,
        }


def _numbers(diagnosis: Diagnosis | None) -> dict[str, Any]:
    """The diagnosed differences and splits of the verdict set, as the report's values."""
    found = diagnosis.sets.get(VERDICT_SET) if diagnosis else None
    if found is None:
        return {}
    return {
        "over_guess": found.over_guess,
        "rise": found.rise,
        "atoms_known": found.exact_atoms_known,
        "by_injection": found.by_injection,
    }
