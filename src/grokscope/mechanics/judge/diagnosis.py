"""Diagnosis: what a run's behaviour says, with its numbers. The rule and its reasons: docs/diagnosis.md.

Behaviour only. Whether the model resolves the bridge and looks the second fact up, or does something else, is
the mechanism, and that is "not tested" as long as nothing has been intervened on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import polars as pl
import xarray as xr

from grokscope.mechanics.judge.evidence import SetNumbers, evidence
from grokscope.mechanics.read.phases import Event, Phases, phases
from grokscope.mechanics.spec import DiagnosisSpec
from grokscope.spec import Stored
from grokscope.statistics.clustered import Difference
from grokscope.statistics.estimate import text
from grokscope.world.probes import ProbeSet

Behaviour = Literal[
    "memorised",
    "generalised without delay",
    "generalised after a delay",
    "delayed rise, incomplete",
    "partial",
    "not saturated",
    "undecided",
]

VERDICT_SET = "test_ood"
"""The set that the behaviour is read from: both hops OOD."""


@dataclass(frozen=True)
class Diagnosis(Stored):
    """The behaviour of a run."""

    CALLED: ClassVar[str] = "diagnosis"

    behaviour: Behaviour
    """The rule's answer."""
    mechanism: Literal["not tested"]
    """Nothing here is causal."""
    reason: str
    """The numbers that decided, as a sentence."""
    last_step: int
    """Last checkpoint."""
    delay: float | None
    """Step of OOD generalisation over step of saturation; None unless both were reached."""
    delay_at_least: float | None
    """Last step over step of saturation, where generalisation was not reached."""
    events: dict[str, Event]
    """All events; see `Phases`."""
    sets: dict[str, SetNumbers]
    """Numbers by two-hop probe set."""
    spec: DiagnosisSpec
    """The thresholds."""


def diagnose(
    metrics: pl.DataFrame, traces: xr.Dataset, probes: Mapping[str, ProbeSet], spec: DiagnosisSpec
) -> Diagnosis:
    """Read phases and numbers of a run and apply the rule of docs/diagnosis.md.

    Args:
        metrics: columns `step` and `accuracy.<set>`.
        traces: of the same run.
        probes: its probe sets by name.
        spec: thresholds.

    Raises:
        InputError: as `phases`.
    """
    found = phases(metrics, traces, probes, spec)
    last = int(found.curves["step"].max())  # type: ignore[arg-type]
    saturated = found.events["saturation"].step
    sets = {
        name: evidence(traces, name, probe_set, saturated, spec)
        for name, probe_set in probes.items()
        if probe_set.queries.hops > 1 and len(probe_set)
    }
    behaviour, reason = judge(found, sets, last, spec)
    generalised = found.events.get(f"generalisation.{VERDICT_SET}")
    step = generalised.step if generalised else None
    return Diagnosis(
        behaviour=behaviour,
        mechanism="not tested",
        reason=reason,
        last_step=last,
        delay=step / saturated if saturated and step is not None else None,
        delay_at_least=last / saturated if saturated and step is None else None,
        events=found.events,
        sets=sets,
        spec=spec,
    )


def judge(
    found: Phases, sets: Mapping[str, SetNumbers], last: int, spec: DiagnosisSpec
) -> tuple[Behaviour, str]:
    """The rule: behaviour and the sentence that says why."""
    if VERDICT_SET not in sets:
        return "undecided", f"there are no {VERDICT_SET} probes."
    generalised, saturated = found.events[f"generalisation.{VERDICT_SET}"], found.events["saturation"]
    if generalised.step is not None:
        if saturated.step is None:
            return _without_saturation(generalised.step, found, spec)
        return _by_delay(generalised.step, saturated.step, found, spec)
    if saturated.step is None:
        exact = sets[VERDICT_SET].exact.value
        return "not saturated", f"saturation was not reached by step {last}; OOD accuracy is {exact:.2f}."
    return _not_generalised(sets[VERDICT_SET], saturated.step, last, spec)


def _by_delay(generalised: int, saturated: int, found: Phases, spec: DiagnosisSpec) -> tuple[Behaviour, str]:
    """Generalised and saturated: how much later? A delay of the atoms alone is none."""
    limit = spec.delay * saturated
    said = f"saturation at step {saturated}, OOD accuracy {spec.generalisation:g} at step {generalised}"
    if generalised <= limit:
        return "generalised without delay", f"{said}: not later than {spec.delay:g} times saturation."
    known = found.events[f"generalisation_atoms_known.{VERDICT_SET}"].step
    if known is not None and known <= limit:
        return (
            "generalised without delay",
            f"{said}, but at step {known} among queries whose atoms are known: what was late are the atoms.",
        )
    return "generalised after a delay", f"{said}: {generalised / max(saturated, 1):.1f} times saturation."


def _without_saturation(generalised: int, found: Phases, spec: DiagnosisSpec) -> tuple[Behaviour, str]:
    """Generalised without ever saturating: compare with the training set at the same, lower level."""
    trained = found.events.get("generalisation.train_inferred")
    said = f"OOD accuracy {spec.generalisation:g} at step {generalised}, saturation never"
    if trained is None or trained.step is None:
        return (
            "undecided",
            f"{said}, nor {spec.generalisation:g} on train_inferred: there is nothing to be late against.",
        )
    compared = f"train_inferred was at {spec.generalisation:g} at step {trained.step}"
    if generalised <= spec.delay * trained.step:
        return "generalised without delay", f"{said}; {compared}."
    return "undecided", f"{said}; {compared}, so there is a gap, but not one after saturation."


def _not_generalised(
    numbers: SetNumbers, saturated: int, last: int, spec: DiagnosisSpec
) -> tuple[Behaviour, str]:
    """Saturated, and OOD accuracy below the threshold: nothing, something, or something that came late?"""
    over, rise, late = numbers.over_guess, numbers.rise, numbers.late_rise
    said = (
        f"saturation at step {saturated}, OOD accuracy {numbers.exact.value:.2f} at step {last} "
        f"against {numbers.guess.value:.2f} by guessing (difference {_span(over)})"
    )
    if not _clear(over, spec.margin):
        if over.high > spec.half:
            return "undecided", f"{said}: too few facts to tell."
        return "memorised", f"{said}: not clearly above guessing."
    if rise is None or not _clear(rise, spec.margin):
        return "partial", f"{said}, no clear rise since saturation ({_span(rise)})."
    if late is None or not _clear(late, 0.0):
        return (
            "partial",
            f"{said}, risen since saturation ({_span(rise)}), but not after {spec.delay:g} times it.",
        )
    return (
        "delayed rise, incomplete",
        f"{said}, risen since saturation ({_span(rise)}) and still later ({_span(late)}).",
    )


def _clear(difference: Difference, margin: float) -> bool:
    """Above 0 by its interval, and no smaller than the margin."""
    return difference.low > 0 and difference.value >= margin


def _span(difference: Difference | None) -> str:
    return text(difference, "+.2f", form="{}, {} to {}", missing="not measured")
