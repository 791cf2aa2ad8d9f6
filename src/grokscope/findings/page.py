"""The findings as a page for people, in Markdown; everything on it comes from a `Findings` value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grokscope.findings.paper import CITATION
from grokscope.findings.values import ClaimResult, FindingResult, Findings, number_text
from grokscope.statistics.exact import FEWEST_RUNS


@dataclass(frozen=True)
class Drawing:
    """A figure that stands on the page."""

    path: str
    """Relative to the page."""
    alt: str
    caption: str


def page(
    found: Findings,
    command: str,
    drawings: Mapping[int, Sequence[Drawing]] | None = None,
    tables: str | None = None,
) -> str:
    """The page.

    Args:
        found: the findings.
        command: what printed them.
        drawings: figures by number of the finding.
        tables: where its numbers lie as CSV.
    """
    drawings = drawings or {}
    seeds = ", ".join(f"{regime} {len(runs)}" for regime, runs in found.seeds.items())
    parts = [
        f"# Findings on the study {found.study}",
        f"`{command}`, family {found.family}. Finished runs: {seeds}. "
        f"A seed varies {', '.join(found.varies)}. "
        f"Intervals are {found.confidence:.0%}; below {FEWEST_RUNS} runs a group a result is descriptive. "
        "Methods: [statistics](statistics.md). In the tables, the paper is "
        f"{CITATION}: one run per regime, so its intervals hold the spread of its probes alone."
        + (f" Every number of the page and of its figures: `{tables}`." if tables else ""),
        *found.notes,
        table(["finding", "result", "because"], [
            [f"{one.number}. {one.title}", f"**{one.result}**", one.reason] for one in found.findings
        ]),
    ]  # fmt: skip
    for one in found.findings:
        parts += _finding(one, drawings.get(one.number, ()))
    return "\n\n".join(parts) + "\n"


def summary_rows(found: Findings) -> list[tuple[str, ...]]:
    """Every claim in one row: its key, hypothesis, result, effect, p value, runs and reason."""
    rows: list[tuple[str, ...]] = []
    for claim in (claim for one in found.findings for claim in one.claims):
        tested = (number_text(claim.effect), p_text(claim), runs_text(claim))
        rows.append((claim.key, claim.hypothesis, claim.result, *tested, claim.reason))
    return rows


def p_text(claim: ClaimResult) -> str:
    """The corrected p value."""
    return "" if claim.p_holm is None else f"{claim.p_holm:.3g}"


def runs_text(claim: ClaimResult) -> str:
    """Runs per group."""
    return " / ".join(map(str, claim.runs))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a pipe in a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _finding(one: FindingResult, drawings: Sequence[Drawing]) -> list[str]:
    claims = [
        [f"{claim.key}: {claim.hypothesis}", f"**{claim.result}**", _effect(claim), claim.test, p_text(claim),
         runs_text(claim), claim.reason]
        for claim in one.claims
    ]  # fmt: skip
    numbers = [
        [claim.key, number.label, number_text(number), number.n, whose]
        for claim in one.claims
        for whose, group in (("this study", claim.groups), ("the paper", claim.paper))
        for number in group
    ]
    out = [
        f"## {one.number}. {one.title}",
        one.hypothesis,
        f"**{one.result}**: {one.reason}",
        table(["claim", "result", "effect", "test", "p (Holm)", "runs", "remarks"], claims),
    ]
    if numbers:
        out.append(table(["claim", "number", "value", "n", "of"], numbers))
    out += [f"![{drawing.alt}]({drawing.path})\n\n{drawing.caption}" for drawing in drawings]
    if one.notes:
        out.append("\n".join(f"- {note}" for note in one.notes))
    return out


def _effect(claim: ClaimResult) -> str:
    return f"{claim.effect.label}: {number_text(claim.effect)}" if claim.effect else ""
