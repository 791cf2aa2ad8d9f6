"""What happened, in plain sentences computed from the tables. What was not measured is said, never guessed."""

from collections import Counter
from dataclasses import dataclass

import polars as pl

from grokscope.report.tables import ACCURACY, ANYWHERE, CELL, CHANCE, GUESS, StudyView, latents, select


@dataclass(frozen=True)
class Value:
    """A rate of one run at one step, with its interval where it has one."""

    value: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """`0.36 [0.30, 0.43]`."""
        return rate_text(self.value) + ("" if self.low is None else f" [{rate_text(self.low)}, {rate_text(self.high)}]")


def rate_text(rate: float | None) -> str:
    """Two decimals, three near 1 so that 0.996 does not read as certainty."""
    if rate is None:
        return "not measured"
    return f"{rate:.3f}" if 0.985 <= rate < 1.0 else f"{rate:.2f}"


def steps_text(step: float) -> str:
    """`12,300`."""
    return f"{step:,.0f}"


def event_text(step: int | None, last_step: int) -> str:
    """The step of an event, or `> N`: it had not happened when observation ended (censored)."""
    return f"> {steps_text(last_step)}" if step is None else steps_text(step)


def value_at(
    curves: pl.DataFrame, run: str, measure: str, variable: str = "", probes: str = "test_ood", step: int | None = None
) -> Value | None:
    """A run's rate at a step (None: the last one that has it)."""
    rows = select(curves.filter(pl.col("run") == run), measure, variable, probes)
    rows = rows.filter(pl.col("value").is_not_null() & (pl.lit(True) if step is None else pl.col("step") == step))
    if not len(rows):
        return None
    last = rows.row(-1, named=True)
    return Value(last["value"], last["low"], last["high"])


def over_seeds(values: list[Value | None]) -> str:
    """One run: its value and interval. Several: the median and the range over seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "not measured"
    if len(known) == 1:
        return known[0].text
    rates = sorted(value.value for value in known)
    return f"{rate_text(pl.Series(rates).median())} ({rate_text(rates[0])}–{rate_text(rates[-1])})"  # type: ignore[arg-type]


def event_over_seeds(view: StudyView, regime: str, event: str) -> str:
    """When an event happened over the seeds of a regime; runs where it did not are counted, never averaged in."""
    rows = view.events.filter((pl.col("regime") == regime) & (pl.col("event") == event))
    if not len(rows):
        return "not measured"
    happened = sorted(rows["step"].drop_nulls().to_list())
    if not happened:
        lasts = sorted(set(rows["last_step"].to_list()))
        return event_text(None, lasts[0])
    text = steps_text(happened[0])
    if len(happened) > 1 and happened[0] != happened[-1]:
        text = f"{steps_text(float(pl.Series(happened).median()))} ({text}–{steps_text(happened[-1])})"  # type: ignore[arg-type]
    return text if len(happened) == len(rows) else f"{text}; {len(happened)} of {len(rows)} runs"


def behaviours(view: StudyView, regime: str) -> list[tuple[str, int]]:
    """The behaviours diagnosed in a regime, with the number of runs of each, most frequent first."""
    return Counter(run.behaviour for run in view.of(regime)).most_common()


def sentences(view: StudyView, regime: str) -> list[str]:
    """What happened in one regime."""
    runs = view.of(regime)
    curves = view.curves.filter(pl.col("regime") == regime)
    if not len(curves):
        return ["No checkpoint of this regime was evaluated."]
    out = [_saturation(view, regime, curves), *_generalisation(view, regime, curves)]
    for latent in latents(curves):
        out += _latent(curves, [run.name for run in runs], latent)
    out += _bottleneck(curves, [run.name for run in runs])
    kinds = behaviours(view, regime)
    verdict = kinds[0][0] if len(kinds) == 1 else ", ".join(f"{kind} ({count} of {len(runs)})" for kind, count in kinds)
    mechanisms = sorted({run.mechanism for run in runs})
    return [*out, f"Diagnosis: {verdict}; mechanism: {', '.join(mechanisms)}."]


def _saturation(view: StudyView, regime: str, curves: pl.DataFrame) -> str:
    rows = view.events.filter((pl.col("regime") == regime) & (pl.col("event") == "saturation"))
    last = steps_text(int(curves["step"].max()))  # type: ignore[arg-type]
    if not len(rows):
        return "Whether the training set was learned was not measured."
    if rows["step"].null_count() == len(rows):
        sets = (("train_inferred", "trained compositions"), ("id_atomic", "ID facts"), ("ood_atomic", "OOD facts"))
        names = curves["run"].unique(maintain_order=True).to_list()
        ends = [(text, [value_at(curves, run, ACCURACY, probes=probes) for run in names]) for probes, text in sets]
        said = ", ".join(f"{text} {over_seeds(values)}" for text, values in ends)
        return f"It did not saturate within {last} steps: the training set ended at {said}."
    reached = event_over_seeds(view, regime, "saturation")
    return f"Trained compositions and both kinds of facts were all at {view.saturation:g} from step {reached}."


def _generalisation(view: StudyView, regime: str, curves: pl.DataFrame) -> list[str]:
    at = {
        row["run"]: row["step"]
        for row in view.events.filter((pl.col("regime") == regime) & (pl.col("event") == "saturation")).to_dicts()
    }
    names = curves["run"].unique(maintain_order=True).to_list()
    ends = {run: value_at(curves, run, ACCURACY) for run in names}
    if not any(ends.values()):
        return ["OOD accuracy was not measured."]
    starts = {run: value_at(curves, run, ACCURACY, step=at[run]) for run in names if at.get(run) is not None}
    guesses = {run: value_at(curves, run, GUESS) for run in names}
    known = any(starts.values())
    text = f"Exact OOD accuracy was {over_seeds(list(starts.values()))} there and " if known else "Exact OOD accuracy was "
    text += f"{over_seeds(list(ends.values()))} at the end; guessing gives {over_seeds(list(guesses.values()))}"
    out = [f"{text}."]
    clear = [_clear(ends[run], guesses[run]) for run in names]
    risen = [_clear(ends[run], starts.get(run)) for run in names if starts.get(run) is not None]
    above = sum(clear)
    several = len(names) > 1
    of = f" in {above} of {len(names)} runs" if several else ""
    if above:
        rise = sum(risen)
        late = f", and of its value at saturation{f' in {rise} of {len(risen)}' if several else ''}" if rise else ""
        out.append(f"Its final interval is clear of the guess baseline{of}{late}.")
    else:
        out.append("Its final interval is not clear of the guess baseline" + (" in any run." if several else "."))
    return out


def _clear(end: Value | None, other: Value | None) -> bool:
    """Whether the interval of `end` lies above `other` (above its interval, where it has one)."""
    if end is None or other is None:
        return False
    low = end.value if end.low is None else end.low
    return low > (other.value if other.high is None else other.high)


def _latent(curves: pl.DataFrame, runs: list[str], latent: str) -> list[str]:
    found, chance, cell = (
        [value_at(curves, run, measure, latent) for run in runs] for measure in (ANYWHERE, CHANCE, CELL)
    )
    out = [
        f"At the end the {latent} is the top token at some stage and position for {over_seeds(found)} of the OOD queries "
        f"(a control entity: {over_seeds(chance)}), in the one chosen cell for {over_seeds(cell)}."
    ]
    pairs = [(value_at(curves, run, ACCURACY), value) for run, value in zip(runs, found, strict=True)]
    apart = [answer.value - value.value > 0.2 for answer, value in pairs if answer and value]
    if apart and all(apart):
        out.append(
            f"Answers are right more often than the {latent} is found, the pattern the paper calls fake grokking; "
            "only a causal test can say what it is."
        )
    return out


def _bottleneck(curves: pl.DataFrame, runs: list[str]) -> list[str]:
    first = [value_at(curves, run, ACCURACY, probes="first_hop_ood") for run in runs]
    second = [value_at(curves, run, ACCURACY, probes="second_hop_ood") for run in runs]
    if not any(first) or not any(second):
        return ["Queries with one OOD hop were not measured, so which hop is the bottleneck is not known."]
    text = f"With one OOD hop: first hop {over_seeds(first)}, second hop {over_seeds(second)}"
    if all(_clear(a, b) for a, b in zip(first, second, strict=True)):
        return [f"{text}: the second hop is the bottleneck."]
    if all(_clear(b, a) for a, b in zip(first, second, strict=True)):
        return [f"{text}: the first hop is the bottleneck."]
    return [f"{text}: neither is the clear bottleneck" + (" in every run." if len(runs) > 1 else ".")]
