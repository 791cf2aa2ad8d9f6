"""The page of the findings: FILE.md, its figures in figures/ and their numbers in data/ beside it."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure

from grokscope.errors import InputError
from grokscope.files import whole, write_text
from grokscope.findings.fake import FAKE
from grokscope.findings.measured import Measured, measured, of
from grokscope.findings.page import Drawing, page
from grokscope.findings.same_circuit import SUPERVISED, WAITED
from grokscope.findings.values import Findings, Number
from grokscope.mechanics.judge.diagnosis import VERDICT_SET
from grokscope.report import style
from grokscope.report.finding_figures import LINES, courses, plane, waiting
from grokscope.report.gather import gather
from grokscope.report.tables import select
from grokscope.report.tuning_figures import tuning_curves, tunings
from grokscope.runs.study import Study
from grokscope.statistics.estimate import numbers

EVENT = f"generalisation.{VERDICT_SET}"
CONTRASTED = (WAITED, SUPERVISED, FAKE)
BEGIN, END = "<!-- findings -->", "<!-- end of findings -->"
NOTHING = Number("", "rate", None, "")
"""The effect of a claim that was not tested."""
Drawn = tuple[int, str, str, str, Figure]
"""Number of the finding, name, alternative text, caption, figure."""


def write_page(study: Study, found: Findings, path: Path) -> None:
    """Write the page of a study's findings; beside it its figures (`figures/`, PNG and PDF) and tables
    (`data/`, CSV).

    Of a page that is there already only what stands between `BEGIN` and `END` is replaced, so that what
    people wrote around it stays.

    Raises:
        InputError: a run cannot be read, or the page that is there has no such place.
    """
    around = kept_text(path)
    prefix = found.study if found.study == "findings" else f"findings_{found.study}"
    view, (runs, _) = gather(study), measured(study)
    tuned = tuning_curves(study)
    drawings: dict[int, list[Drawing]] = {}
    with style.styled():
        for number, name, alt, caption, figure in finding_figures(view.curves, runs, tuned):
            stem = f"{prefix}_{name}"
            style.save(figure, path.parent / "figures" / stem)
            drawings.setdefault(number, []).append(Drawing(f"figures/{stem}.png", alt, caption))
    for name, one in finding_tables(found, view.curves, view.events, tuned).items():
        with whole(path.parent / "data" / f"{prefix}_{name}.csv") as draft:
            one.write_csv(draft, float_precision=4)
    command = f"grokscope findings runs/{study.directory.name} --page {path.name}"
    body = page(found, command, drawings, f"data/{prefix}_*.csv")
    write_text(path, f"{around[0]}{BEGIN}\n{body}{END}{around[1]}")


def kept_text(path: Path) -> tuple[str, str]:
    """What stands before and behind the generated part of a page; of a new page nothing, and a line end.

    Raises:
        InputError: the page has no generated part.
    """
    if not path.exists():
        return "", "\n"
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, behind = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"page = {path}: it has no place between {BEGIN!r} and {END!r}; allowed are a page that has one, "
            "or a new page."
        )
    return before, behind


def finding_tables(
    found: Findings, curves: pl.DataFrame, events: pl.DataFrame, tuned: pl.DataFrame | None
) -> dict[str, pl.DataFrame]:
    """What the page rests on, by name: `claims`, `numbers`, `events`, the `courses` that are drawn (one row
    per run and checkpoint), and, where there are transfers, `tuning`."""
    tested = [claim for one in found.findings for claim in one.claims]
    numbers = [
        {"claim": claim.key, "of": whose, **_flat(number)}
        for claim in tested
        for whose, group in (("this study", claim.groups), ("the paper", claim.paper))
        for number in group
    ]
    claims = [
        {
            "claim": claim.key, "hypothesis": claim.hypothesis, "result": claim.result, "test": claim.test,
            **_flat(claim.effect or NOTHING), "p": claim.p_value, "p_holm": claim.p_holm,
            "runs": " / ".join(map(str, claim.runs)), "reason": claim.reason,
        }
        for claim in tested
    ]  # fmt: skip
    tables = {"claims": claims, "numbers": numbers}
    wide = {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items()}
    wide["events"] = events
    drawn = pl.concat(
        [
            select(curves, measure, variable, probes).with_columns(
                line=pl.lit(".".join(part for part in (measure, variable, probes) if part))
            )
            for _, measure, variable, probes, _ in LINES
        ]
    )
    wide["courses"] = drawn.pivot(on="line", index=["run", "step"], values="value", maintain_order=True)
    if tuned is not None and len(tuned):
        keys = ["run", "base", "seed", "mix", "step"]
        wide["tuning"] = tuned.pivot(on="measure", index=keys, values="value", maintain_order=True)
    return wide


def _flat(number: Number) -> dict[str, str | float | None]:
    return {
        "label": number.label, "unit": number.unit, **numbers(number.value, "value"), "n": number.n,
        "note": number.note,
    }  # fmt: skip


def finding_figures(
    curves: pl.DataFrame, runs: Sequence[Measured], tuned: pl.DataFrame | None
) -> list[Drawn]:
    """The figures of the findings; call it inside `style.styled()`.

    Args:
        curves: of the study (`gather`).
        runs: its finished runs.
        tuned: of its transfers (`tuning_curves`); empty: no figure of them.
    """
    if not len(curves):
        return []
    figures = [
        (3, "tuning", "Fine-tuning on new facts",
         "Median over seeds, bands from the lowest to the highest; dashed: the published run. Both on the "
         "share of their own steps.", tunings(tuned)),
    ] if tuned is not None and len(tuned) else []  # fmt: skip
    known = {regime: [run for run in of(runs, regime) if run.has(EVENT)] for regime in CONTRASTED}
    times = {regime: [run.time(EVENT) for run in group] for regime, group in known.items()}
    return [
        (1, "courses", "Course of every regime",
         "Median over seeds; bands reach from the lowest to the highest seed. Below: the published runs.",
         courses(curves)),
        (1, "waiting", "Share of runs that do not answer OOD queries yet",
         "Kaplan-Meier curves with pointwise 95 % intervals; ticks: runs that ended before it.",
         waiting(times, "Waiting for OOD accuracy 0.9")),
        (2, "plane", "OOD accuracy against bridge found",
         "Every line is a run, from left below; dots are the last checkpoints.",
         plane(curves, (SUPERVISED, FAKE, WAITED))),
        *figures,
    ]  # fmt: skip
