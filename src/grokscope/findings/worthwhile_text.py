"""What `worthwhile` found, in sentences and as rows of a table."""

from math import inf, isfinite

from grokscope.findings.ways import Against, Way, Worth
from grokscope.runs.devices import Device
from grokscope.statistics.estimate import text
from grokscope.statistics.exact import FEWEST_RUNS

HEADS = (
    "OOD level", "way", "runs there", "added (per OOD fact)", "step", "training FLOP", "over runs", "hours",
    "against waiting",
)  # fmt: skip


def rows(worth: Worth, device: Device | None = None, utilisation: float = 1.0) -> list[tuple[str, ...]]:
    """One row of `HEADS` per level and way; steps, FLOP and hours of the median run. Hours of a device at a
    utilisation, or by the runs' own clocks."""
    return [_row(way, device, utilisation) for way in worth.ways]


def sentences(worth: Worth) -> list[str]:
    """The answer per level, then what it rests on."""
    levels = list(dict.fromkeys(way.level for way in worth.ways))
    said = [_answer([way for way in worth.ways if way.level == level]) for level in levels]
    said.append(
        f"A level is reached at the first of {worth.window} checkpoints in a row at or above it on "
        f"{worth.probe_set}; steps are known up to their checkpoints. Runs that did not get there count as "
        "censored, not as missing."
    )
    fewest = min((min(way.against.runs) for way in worth.ways if way.against), default=None)
    if fewest is not None and fewest < FEWEST_RUNS:
        said.append(
            f"{fewest} runs in a group are fewer than {FEWEST_RUNS}: ratios are descriptive, nothing is "
            "claimed."
        )
    return [*said, *worth.notes]


def _answer(ways: list[Way]) -> str:
    """What waiting costs at one level, and what the data-efficient ways cost instead."""
    level = f"OOD accuracy {ways[0].level:g}"
    waiting = next((way for way in ways if not way.added), None)
    if waiting is None:
        return f"{level}: no regime adds nothing, so what waiting costs cannot be told."
    if waiting.step.value == inf:
        head = (
            f"{level}: waiting ({waiting.regime}) got there in {waiting.reached} of {waiting.runs} runs; the "
            f"median run needs more than {_flop(waiting.flop(waiting.after))} FLOP"
        )
    else:
        head = (
            f"{level}: waiting ({waiting.regime}) takes {_flop(waiting.flop(waiting.step.value))} FLOP "
            f"(step {waiting.step.value:,.0f}, {waiting.reached} of {waiting.runs} runs)"
        )
    others = [way for way in ways if way.efficient and way.added]
    if not others:
        unknown = [way.regime for way in ways if way.added and way.efficient is None]
        if unknown:
            return f"{head}; of {' and '.join(unknown)} too few runs got there to say what that takes."
        return f"{head}; no way that adds compositions takes less."
    return f"{head}; " + "; ".join(_instead(way, waiting) for way in others) + "."


def _instead(way: Way, waiting: Way) -> str:
    said = (
        f"{way.regime} adds {way.added:,.0f} compositions ({way.added_per_fact:.1f} per OOD fact) and takes "
        f"{_flop(way.flop(way.step.value))}"
    )
    if way.against is not None:
        said += f", {_factor(way.against)}"
    saved = way.flop(waiting.step.value - way.step.value) / way.added
    if isfinite(saved):
        said += f" ({_flop(saved)} FLOP saved per composition)"
    return said


def _row(way: Way, device: Device | None, utilisation: float) -> tuple[str, ...]:
    step, more = (way.after, "> ") if way.step.value == inf else (way.step.value, "")
    if device is not None:
        hours = f"{more}{step * way.step_flop / (device.peak * utilisation) / 3600:.3g}"
    else:
        hours = "" if way.seconds is None else f"{way.seconds / 3600:.3g}"
    return (
        f"{way.level:g}",
        way.regime + (" *" if way.efficient else ""),
        f"{way.reached} of {way.runs}",
        f"{way.added:,.0f} ({way.added_per_fact:.1f})",
        f"{more}{step:,.0f}",
        f"{more}{_flop(step * way.step_flop)}",
        f"{_flop(way.flop(way.span[0]))} to {_flop(way.flop(way.span[1]))}",
        hours,
        "" if way.against is None else _factor(way.against),
    )


def _factor(one: Against) -> str:
    """`4.3 times less [3.9, …], 8 + 8 runs, p = 0.0078`."""
    runs = f"{one.runs[0]} + {one.runs[1]} runs"
    if one.factor is None:
        return f"cannot tell: runs of both ended before ({runs})"
    bound = "" if one.kind == "ratio" else f"{one.kind} "
    test = "descriptive" if one.descriptive else f"p = {one.p_value:.2g}"
    return f"{bound}{text(one.factor, '{:.2g} times less'.format, '.2g')}, {runs}, {test}"


def _flop(value: float) -> str:
    return f"{value:.2e}" if isfinite(value) else "…"
