"""The page of the findings: FILE.md, its figures in figures/ and their numbers in data/ beside it."""

from pathlib import Path

import polars as pl

from grokscope.errors import InputError
from grokscope.files import whole, write_text
from grokscope.findings.page import Drawing, page
from grokscope.findings.values import Findings, Number
from grokscope.report import style
from grokscope.report.drawn import of_findings
from grokscope.report.finding_figures import LINES
from grokscope.report.tables import StudyView, select
from grokscope.runs.study import Study
from grokscope.statistics.estimate import numbers

BEGIN, END = "<!-- findings -->", "<!-- end of findings -->"
NOTHING = Number("", "rate", None, "")
"""The effect of a claim that was not tested."""


def write_page(study: Study, view: StudyView, found: Findings, path: Path) -> None:
    """Write the page of a study's findings; beside it its figures (`figures/`, PNG and PDF) and tables
    (`data/`, CSV).

    Of a page that is there already only what stands between `BEGIN` and `END` is replaced, so that what
    people wrote around it stays.

    Args:
        study: it. view: measured. found: its findings. path: of the page.

    Raises:
        InputError: the page that is there has no such place.
    """
    around = kept_text(path)
    prefix = found.study if found.study == "findings" else f"findings_{found.study}"
    drawings: dict[int, list[Drawing]] = {}
    with style.styled():
        for number, one in of_findings(view):
            stem = f"{prefix}_{one.name}"
            style.save(one.figure, path.parent / "figures" / stem)
            drawings.setdefault(number, []).append(Drawing(f"figures/{stem}.png", one.alt, one.caption))
    for name, table in finding_tables(found, view).items():
        with whole(path.parent / "data" / f"{prefix}_{name}.csv") as draft:
            table.write_csv(draft, float_precision=4)
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


def finding_tables(found: Findings, view: StudyView) -> dict[str, pl.DataFrame]:
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
    wide["events"] = view.events
    drawn = pl.concat(
        [
            select(view.curves, measure, variable, probes).with_columns(
                line=pl.lit(".".join(part for part in (measure, variable, probes) if part))
            )
            for _, measure, variable, probes, _ in LINES
        ]
    )
    wide["courses"] = drawn.pivot(on="line", index=["run", "step"], values="value", maintain_order=True)
    if (tuned := view.tuned) is not None and len(tuned):
        keys = ["run", "base", "seed", "mix", "step"]
        wide["tuning"] = tuned.pivot(on="measure", index=keys, values="value", maintain_order=True)
    return wide


def _flat(number: Number) -> dict[str, str | float | None]:
    return {
        "label": number.label, "unit": number.unit, **numbers(number.value, "value"), "n": number.n,
        "note": number.note,
    }  # fmt: skip
