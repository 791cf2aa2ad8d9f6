"""Do intervals cover and tests keep their error rates? python -m benchmarks.simulations [--studies 1000]

Every row is a share of simulated studies (`simulated.py`): of intervals that hold the truth, or of tests that
reject. Written to docs/data/simulations.csv, and into the table of docs/statistics.md.
"""

import argparse
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from benchmarks import machine
from benchmarks.simulated import PROBES, Accuracy, Course, grid_of
from grokscope.files import whole, write_text
from grokscope.seeds import generator
from grokscope.statistics.exact import difference, equivalence, holm
from grokscope.statistics.rates import over_runs
from grokscope.statistics.times import Time, compare_times, kaplan_meier, log_rank

TABLE, DOCUMENT = Path("docs/data/simulations.csv"), Path("docs/statistics.md")
ALPHA = 0.05
SCHEMA = {"what": pl.String, "case": pl.String, "runs": pl.Int64, "wanted": pl.String, "found": pl.Float64,
          "studies": pl.Int64}  # fmt: skip
Hit = tuple[str, str, int, str, bool]
"""What, case, runs per group, what is wanted of the share, and whether this study counts."""
COVER, LEVEL, POWER = f"{1 - ALPHA:.2f}", f"at most {ALPHA:g}", "high"
ACCURACIES = {
    "0.5 right": Accuracy(0.0, 0.5),
    "0.9 right": Accuracy(3.0, 0.5),
    "0.99 right": Accuracy(6.0, 0.5),
    "runs differ widely": Accuracy(0.0, 2.5),
    "1 run in 10 fails": Accuracy(6.0, 0.5, failing=0.1),
}

COURSES = {"no difference": Course(0.0), "1.6 times as late": Course(0.7), "twice as late": Course(1.0)}


def rates(rng: np.random.Generator) -> Iterator[Hit]:
    """Intervals of a mean over runs."""
    for case, accuracy in ACCURACIES.items():
        every = accuracy.draw(rng, 8)
        for runs in (3, 6, 8):
            found = over_runs(every[:runs], [str(u) for u in range(runs)])
            yield "rate over runs", case, runs, COVER, found.holds(accuracy.truth)
    accuracy = ACCURACIES["0.9 right"]
    found = over_runs(accuracy.draw(rng, 8, shared=True), ["one"] * 8)
    yield "rate over runs", "0.9 right, one world", 8, COVER, found.holds(accuracy.truth)
    right = round(sum(accuracy.means(rng, 8)) * PROBES)
    low, high = stats.binomtest(right, 8 * PROBES).proportion_ci(method="wilson")
    yield "for comparison: probes taken as independent", "0.9 right", 8, COVER, low <= accuracy.truth <= high


def differences(rng: np.random.Generator) -> Iterator[Hit]:
    """Tests and intervals of a difference of accuracies between two groups of runs."""
    for runs in (6, 8):
        for case, second in (("no difference", 3.0), ("0.90 against 0.80", 2.0)):
            groups = [Accuracy(3.0, 0.5), Accuracy(second, 0.5)]
            truth = groups[0].truth - groups[1].truth
            one, two = (group.means(rng, runs) for group in groups)
            for name, paired in (("exchange of runs", False), ("sign flips of pairs", True)):
                found = difference(one, two, paired=paired)
                yield f"{name}: interval", case, runs, COVER, found.holds(truth)
                wanted = POWER if truth else LEVEL
                yield f"{name}: test", case, runs, wanted, found.p_value <= ALPHA
        level = [rng.normal(0, 1, runs) for _ in range(6)]
        family = {str(k): difference(level[2 * k], level[2 * k + 1]).p_value for k in range(3)}
        wrong = min(holm(family).values()) <= ALPHA
        yield "Holm: any of three tests", "no difference", runs, LEVEL, wrong
        for case, at, wanted in (("difference at the margin", 2.0, LEVEL), ("no difference", 0.0, POWER)):
            answer = equivalence(rng.normal(at, 1, runs), rng.normal(0, 1, runs), 2.0).answer
            yield "equivalence, margin of 2 SD", case, runs, wanted, answer == "equivalent"


def times(rng: np.random.Generator) -> Iterator[Hit]:
    """Curves and comparisons of times, 30 % of them censored."""
    for runs in (6, 8):
        for case, course in COURSES.items():
            late, early = course.draw(rng, runs)
            if not course.shift:
                yield from _curves(early, course, runs)
            wanted = POWER if course.shift else LEVEL
            for name, paired in (("exchange of runs", False), ("sign flips of pairs", True)):
                found = compare_times(late, early, paired=paired)
                yield f"restricted time, {name}: interval", case, runs, COVER, found.holds(course.restricted)
                yield f"restricted time, {name}: test", case, runs, wanted, found.p_value <= ALPHA
            yield "log-rank, exact", case, runs, wanted, log_rank(late, early).p_value <= ALPHA
            theirs = stats.logrank(*(_censored(group) for group in (late, early))).pvalue
            yield "for comparison: log-rank, chi-squared", case, runs, wanted, bool(theirs <= ALPHA)


def _curves(group: Sequence[Time], course: Course, runs: int) -> Iterator[Hit]:
    """Pointwise intervals of the curve where truly about 3/4 and 2/5 wait, and of the median."""
    found = kaplan_meier(group)
    log_log = stats.ecdf(_censored(group)).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no value before the first event and after the last
        theirs = log_log.confidence_interval(method="log-log")
    steps = grid_of(course.until)
    for share in (0.75, 0.4):
        step = min(steps, key=lambda one: abs(course.waiting(one, 0.0) - share))
        truth = course.waiting(step, 0.0)
        at = int(np.searchsorted(found.step_T, step, side="right")) - 1
        case = f"{truth:.2f} without the event"
        yield "Kaplan-Meier", case, runs, COVER, bool(found.low_T[at] <= truth <= found.high_T[at])
        place = int(np.searchsorted(log_log.quantiles, step, side="right")) - 1
        ends = (
            (1.0, 1.0) if place < 0 else (theirs.low.probabilities[place], theirs.high.probabilities[place])
        )
        inside = bool(ends[0] <= truth <= ends[1])
        yield "for comparison: Kaplan-Meier, log-log", case, runs, COVER, inside
    middle, median = 2**course.middle, found.median
    yield "median time", "no difference", runs, COVER, median.holds(middle)


def _censored(group: Sequence[Time]) -> stats.CensoredData:
    events = [time.by for time in group if time.by is not None]
    return stats.CensoredData(uncensored=events, right=[t.until for t in group if t.by is None])


SECTIONS: tuple[Callable[[np.random.Generator], Iterator[Hit]], ...] = (rates, differences, times)


def simulate(studies: int, seed: int = 0) -> pl.DataFrame:
    """All rows; the same seed gives the same table."""
    counts: dict[tuple[str, str, int, str], list[bool]] = {}
    for number in range(studies):
        for place, section in enumerate(SECTIONS):
            for what, case, runs, wanted, hit in section(generator("simulations", seed, number, place)):
                counts.setdefault((what, case, runs, wanted), []).append(hit)
    rows = [(*key, float(np.mean(hits)), len(hits)) for key, hits in counts.items()]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def table(found: pl.DataFrame) -> str:
    """As a Markdown table, runs side by side; bold where it is off by more than chance explains."""
    wide = found.pivot("runs", index=["what", "case", "wanted"], values="found")
    numbers = sorted(int(name) for name in wide.columns[3:])
    studies = int(found["studies"][0])
    lines = [["", "case", "wanted", *(f"{n} runs" for n in numbers)], ["---"] * (3 + len(numbers))]
    before = ""
    for row in wide.iter_rows(named=True):
        cells = [_cell(row[str(n)], row["wanted"], studies) for n in numbers]
        lines.append(["" if row["what"] == before else row["what"], row["case"], row["wanted"], *cells])
        before = row["what"]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(share: float | None, wanted: str, studies: int) -> str:
    if share is None:
        return ""
    bound = {COVER: (1 - ALPHA, 1), LEVEL: (ALPHA, -1)}.get(wanted)
    slack = 3 * np.sqrt(ALPHA * (1 - ALPHA) / studies)
    off = bound is not None and bound[1] * (bound[0] - share) > slack
    return f"**{share:.3f}**" if off else f"{share:.3f}"


def fill(document: Path, text: str) -> None:
    """Replace what stands between `<!-- simulations -->` and `<!-- end -->`."""
    pattern, page = r"<!-- simulations -->\n.*?<!-- end -->", document.read_text(encoding="utf-8")
    body = f"<!-- simulations -->\n{text}\n<!-- end -->"
    write_text(document, re.sub(pattern, lambda _: body, page, flags=re.DOTALL))


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, print, and where all studies were asked for, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--print-only", action="store_true", help="do not write the table and the CSV")
    options = parser.parse_args(argv)
    began = time.monotonic()
    found = simulate(options.studies, options.seed)
    text = table(found)
    where = machine.facts("cpu")
    text += (
        f"\n\n{options.studies:,} studies, seed {options.seed}; {where['date']}, {where['cpu']}, "
        f"{time.monotonic() - began:.0f} s. Bold: off by more than three standard errors."
    )
    print(text)
    if not options.print_only:
        with whole(TABLE) as draft:
            found.write_csv(draft, float_precision=4)
        fill(DOCUMENT, text)


if __name__ == "__main__":
    main()
