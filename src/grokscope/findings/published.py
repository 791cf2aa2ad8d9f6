"""The reference's own numbers beside ours, with the interval that their n implies.

Every published regime is one run, so nothing is known of the spread between runs; the interval of a rate is
that of independent probes, the least it can be. A published time is known to one evaluation.
"""

from grokscope.findings.paper import finetuning_curves, pretraining_curve
from grokscope.findings.values import Number
from grokscope.statistics.estimate import Estimate
from grokscope.statistics.rates import trials

LAST = 10
"""Evaluations that a published rate at the end of pretraining is the mean of."""
LAST_TUNED = 5
"""The same of fine-tuning."""


def paper_rate(regime: str, column: str, label: str) -> tuple[Number, ...]:
    """The mean of the last evaluations of a published pretraining curve; empty where there is none."""
    curve = pretraining_curve(regime)
    if curve is None:
        return ()
    value = float(curve.table[column].tail(LAST).to_numpy().mean())
    n = probes_of(curve.table[column].to_list())
    return (Number(f"{label}, {regime}", "rate", trials(value, n), f"1 run, {n:,} probes"),)


def paper_time(regime: str, column: str, threshold: float, label: str) -> tuple[Number, ...]:
    """The first evaluation of a published curve at or above a threshold, and the one before."""
    curve = pretraining_curve(regime)
    if curve is None:
        return ()
    step, steps = curve.first_step(column, threshold), curve.table["step"].to_list()
    name = f"{label}, {regime}"
    if step is None:
        return (Number(name, "step", None, "1 run", f"> {steps[-1]:,}"),)
    before = max((one for one in steps if one < step), default=0)
    return (Number(name, "step", Estimate(step, before, step), "1 run, between two evaluations"),)


def paper_tuned(regime: str, mix: str, column: str, label: str) -> tuple[Number, ...]:
    """The mean of the last evaluations of a published fine-tuning curve; empty where there is none."""
    curves = finetuning_curves()
    rows = curves.filter((curves["regime"] == regime) & (curves["mix"] == mix)).sort("step")
    if not len(rows):
        return ()
    value, n = float(rows[column].tail(LAST_TUNED).to_numpy().mean()), int(rows["n_probes"][0])
    return (Number(f"{label}, {regime}", "rate", trials(value, n), f"1 run, {n:,} probes"),)


def probes_of(rates: list[float], most: int = 3000) -> int:
    """The number of probes behind published rates of six decimals: the smallest that all are parts of.

    The publication says "at most 3,000", and gives the rates alone.
    """
    known = [rate for rate in rates if rate is not None]
    for n in range(1, most + 1):
        if all(abs(rate * n - round(rate * n)) <= 6e-7 * n for rate in known):
            return n
    return most
