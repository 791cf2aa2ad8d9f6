"""What happened, in plain sentences computed from the tables. What was not measured is said."""

from collections import Counter
from collections.abc import Sequence
from math import isfinite
from statistics import median

import polars as pl

from grokscope.report.tables import (
    ACCURACY,
    ANYWHERE,
    CELL_EARLY,
    CHANCE,
    GUESS,
    StudyView,
    latents,
    select,
)
from grokscope.statistics.estimate import Estimate, from_numbers, rate_text, text
from grokscope.world.probes import ONE_OOD


def value_text(value: Estimate | None) -> str:
    """`0.36 [0.30, 0.43]`."""
    return text(value, rate_text, missing="not measured")


def steps_text(step: float) -> str:
    """`12,300`."""
    return f"{step:,.0f}"


def event_text(step: int | None, last_step: int) -> str:
    """The step of an event, or `> N`: it had not happened when observation ended (censored)."""
    return f"> {steps_text(last_step)}" if step is None else steps_text(step)


def value_at(
    curves: pl.DataFrame,
    run: str,
    measure: str,
    variable: str = "",
    probes: str = "test_ood",
    step: int | None = None,
) -> Estimate | None:
    """A run's rate at a step (None: the last one that has it)."""
    rows = select(curves.filter(pl.col("run") == run), measure, variable, probes)
    rows = rows.filter(
        pl.col("value").is_not_null() & (pl.lit(True) if step is None else pl.col("step") == step)
    )
    return from_numbers(*rows.select("value", "low", "high").row(-1)) if len(rows) else None


def over_seeds(values: Sequence[Estimate | None]) -> str:
    """One run: its value and interval. Several: the median and the range over seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "not measured"
    if len(known) == 1:
        return value_text(known[0])
    texts = [rate_text(rate) for rate in sorted(value.value for value in known)]
    middle = rate_text(median(value.value for value in known))
    return middle if texts[0] == texts[-1] else f"{middle} ({texts[0]}–{texts[-1]})"


def event_over_seeds(view: StudyView, regime: str, event: str) -> str:
    """When an event happened over the seeds of a regime; runs where it did not are only counted."""
    rows = view.events.filter((pl.col("regime") == regime) & (pl.col("event") == event))
    if not len(rows):
        return "not measured"
    happened = sorted(rows["step"].drop_nulls().to_list())
    if not happened:
        lasts = sorted(set(rows["last_step"].to_list()))
        return event_text(None, lasts[0])
    said = steps_text(happened[0])
    if len(happened) > 1 and happened[0] != happened[-1]:
        said = f"{steps_text(median(happened))} ({said}–{steps_text(happened[-1])})"
    return said if len(happened) == len(rows) else f"{said}; {len(happened)} of {len(rows)} runs"


def behaviours(view: StudyView, regime: str) -> list[tuple[str, int]]:
    """The behaviours diagnosed in a regime, with the number of runs of each, most frequent first."""
    return Counter(run.behaviour for run in view.of(regime)).most_common()


def sentences(view: StudyView, regime: str) -> list[str]:
    """What happened in one regime, one finding a sentence."""
    curves = view.curves.filter(pl.col("regime") == regime)
    if not len(curves):
        return ["No checkpoint of this regime was evaluated."]
    names = curves["run"].unique(maintain_order=True).to_list()
    out = [_saturation(view, regime, curves, names), *_generalisation(view, regime, curves, names)]
    for latent in latents(curves):
        out += _latent(curves, names, latent)
    return [*out, *_bottleneck(curves, names)]


def _saturation(view: StudyView, regime: str, curves: pl.DataFrame, runs: list[str]) -> str:
    rows = view.events.filter((pl.col("regime") == regime) & (pl.col("event") == "saturation"))
    if not len(rows):
        return "Whether the training set was learned was not measured."
    if rows["step"].null_count() == len(rows):
        sets = (
            ("train_inferred", "trained compositions"),
            ("id_atomic", "ID facts"),
            ("ood_atomic", "OOD facts"),
        )
        said = ", ".join(
            f"{name} {over_seeds([value_at(curves, run, ACCURACY, probes=probes) for run in runs])}"
            for probes, name in sets
        )
        last = steps_text(rows["last_step"].to_list()[0])
        return f"Not saturated within {last} steps; accuracy at the end: {said}."
    reached = event_over_seeds(view, regime, "saturation")
    return f"Trained compositions, ID facts and OOD facts are all at {view.saturation:g} from step {reached}."


def _generalisation(view: StudyView, regime: str, curves: pl.DataFrame, runs: list[str]) -> list[str]:
    saturation = (
        (pl.col("regime") == regime) & (pl.col("event") == "saturation") & pl.col("step").is_not_null()
    )
    at = {row["run"]: row["step"] for row in view.events.filter(saturation).to_dicts()}
    ends = {run: value_at(curves, run, ACCURACY) for run in runs}
    if not any(ends.values()):
        return ["OOD accuracy was not measured."]
    starts = [value_at(curves, run, ACCURACY, step=at[run]) for run in runs if run in at]
    guesses = [value_at(curves, run, GUESS) for run in runs]
    before = f"{over_seeds(starts)} at saturation and " if any(starts) else ""
    said = f"Exact OOD accuracy is {before}{over_seeds(list(ends.values()))} at the end"
    out = [f"{said}; guessing gives {over_seeds(guesses)}."]
    over = [run.over_guess for run in view.of(regime) if run.over_guess]
    rise = [run.rise for run in view.of(regime) if run.rise]
    claims = [*_above(over, "guessing"), *_above(rise, "its value at saturation")]
    return [*out, f"It is {' and '.join(claims)}."] if claims else out


def _above(differences: Sequence[Estimate], what: str) -> list[str]:
    """How surely accuracy is above `what`, by the intervals of the paired differences."""
    if not differences:
        return []
    sure = sum(difference.low > 0 for difference in differences)
    if len(differences) > 1:
        return [f"clearly above {what}{_of(sure, len(differences))}"]
    return [f"{'clearly' if sure else 'not clearly'} above {what} ({text(differences[0], '+.2f')})"]


def _of(count: int, total: int) -> str:
    """` in 2 of 3 runs`, nothing for a single run."""
    if total == 1:
        return ""
    return (
        f" in all {total} runs"
        if count == total
        else f" in {count} of {total} runs"
        if count
        else " in no run"
    )


def _clear(end: Estimate | None, other: Estimate | None) -> bool:
    """Whether the interval of `end` lies above that of `other`; the value counts where there is none."""
    if end is None or other is None:
        return False
    low = end.low if isfinite(end.low) else end.value
    return low > (other.high if isfinite(other.high) else other.value)


def _latent(curves: pl.DataFrame, runs: list[str], latent: str) -> list[str]:
    found, chance, cell = (
        [value_at(curves, run, measure, latent) for run in runs] for measure in (ANYWHERE, CHANCE, CELL_EARLY)
    )
    out = [
        f"At the end the {latent} is the top token somewhere for {over_seeds(found)} of the OOD queries "
        f"(a control entity: {over_seeds(chance)}), and in one cell before the last stage for "
        f"{over_seeds(cell)}."
    ]
    answers = [value_at(curves, run, ACCURACY) for run in runs]
    if all(_clear(answer, value) for answer, value in zip(answers, found, strict=True)):
        out.append(
            f"Answers are right more often than the {latent} is found, as in what the paper calls "
            "fake grokking; only a causal test can say what it is."
        )
    return out


def _bottleneck(curves: pl.DataFrame, runs: list[str]) -> list[str]:
    """Which hop is missing: the one with whose OOD facts accuracy is clearly lower than with any other's."""
    of_hop = {}
    for name in ONE_OOD:
        values = [value_at(curves, run, ACCURACY, probes=name) for run in runs]
        if any(values):
            of_hop[name.removesuffix("_hop_ood")] = values
    if len(of_hop) < 2:
        return ["Queries with one OOD hop were not measured, so which hop is the bottleneck is not known."]
    said = "With the OOD fact as " + ", as ".join(
        f"{hop} hop {'accuracy is ' if number == 0 else ''}{over_seeds(values)}"
        for number, (hop, values) in enumerate(of_hop.items())
    )
    for hop, values in of_hop.items():
        others = [one for name, one in of_hop.items() if name != hop]
        if all(_clear(a, b) for one in others for a, b in zip(one, values, strict=True)):
            return [f"{said}: the {hop} hop is the bottleneck."]
    return [f"{said}: which hop is the bottleneck is not clear{' in every run' if len(runs) > 1 else ''}."]
