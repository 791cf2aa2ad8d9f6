"""Bases: which checkpoint of a run a transfer starts from, and what is known of it."""

from grokscope.errors import InputError
from grokscope.mechanics.judge.diagnosis import VERDICT_SET, Diagnosis
from grokscope.mechanics.read.layout import select
from grokscope.runs.job import UNTRAINED
from grokscope.runs.open import Run
from grokscope.runs.spec import MOMENTS
from grokscope.statistics.clustered import Rate, clustered_rate
from grokscope.statistics.estimate import text
from grokscope.transfer.result import BaseStanding

EVENTS = {"saturation": "saturation", "generalisation": f"generalisation.{VERDICT_SET}"}
"""Moments that are events of the diagnosis."""


def step_of(run: Run, moment: str) -> int:
    """The kept checkpoint that a moment means: that of an event, or the first one kept after it.

    Args:
        run: a finished run.
        moment: end, saturation, generalisation, untrained, or a step as digits.

    Raises:
        InputError: the run never reached it, keeps no such checkpoint, or is not finished.
    """
    if run.diagnosis is None:
        raise InputError(f"run {run.name} is not finished, so it gives no base yet.")
    kept = run.steps
    if moment == "end":
        return kept[-1]
    if moment in EVENTS:
        event = run.diagnosis.events.get(EVENTS[moment])
        if event is None or event.step is None:
            where = "" if event is None else f" by step {event.censored_at}"
            raise InputError(f"run {run.name} has not reached {EVENTS[moment]}{where}: no such base.")
        return next(step for step in kept if step >= event.step)
    wanted = 0 if moment == UNTRAINED else int(moment) if moment.isdecimal() else None
    if wanted is None:
        raise InputError(f"step = {moment!r}: allowed are {', '.join(MOMENTS)}, {UNTRAINED}, or a number.")
    if wanted not in kept:
        raise InputError(
            f"step = {wanted}: run {run.name} keeps the checkpoints {', '.join(map(str, kept))}."
        )
    return wanted


def standing_of(run: Run, moment: str, step: int) -> BaseStanding:
    """What is known of a run's checkpoint. It is mature if OOD accuracy had, by then, reached the level of
    the run's diagnosis to stay for a window.

    Raises:
        InputError: the run is not finished.
    """
    diagnosis = run.diagnosis
    if diagnosis is None:
        raise InputError(f"run {run.name} is not finished, so it gives no base yet.")
    verdict, level = run.verdict, run.spec.diagnosis.generalisation
    ood = _ood(run, step)
    mature, reason = _mature(diagnosis, step, ood, level)
    return BaseStanding(
        run=run.name,
        identity=run.spec.identity,
        regime=run.spec.regime.name,
        moment=moment,
        step=step,
        behaviour=diagnosis.behaviour if step else None,
        verdict=verdict.verdict if verdict is not None and verdict.step == step else None,
        ood=ood,
        mature=mature,
        threshold=level,
        reason=reason,
    )


def _ood(run: Run, step: int) -> Rate | None:
    if VERDICT_SET not in run.corpus.probes:
        return None
    part = select(run.traces, VERDICT_SET)
    return clustered_rate(
        part["exact"].sel(step=step).values, part["fact"].values, run.spec.diagnosis.confidence
    )


def _mature(diagnosis: Diagnosis, step: int, ood: Rate | None, level: float) -> tuple[bool, str]:
    event = diagnosis.events.get(EVENTS["generalisation"])
    if ood is None or event is None:
        return False, f"cannot tell: the run has no {VERDICT_SET} probes."
    said = f"{VERDICT_SET} is {text(ood, form='{} ({} to {}, n {n})')} at step {step}"
    if event.step is None:
        return False, f"{said}, and has not reached {level:g} to stay by step {event.censored_at}."
    if step < event.step:
        return False, f"{said}; it reaches {level:g} to stay at step {event.step} only."
    return True, f"{said}, at {level:g} or above since step {event.step}."
