"""The command `findings`: what a study says of the reference's three findings."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from grokscope.errors import InputError

if TYPE_CHECKING:
    from grokscope.findings.values import Findings as Found


@dataclasses.dataclass(frozen=True)
class Findings:
    """Judge the paper's three findings on a study: supported, contradicted, descriptive, or cannot tell."""

    directory: tyro.conf.Positional[Path]
    """A study's directory."""
    json: bool = False
    """Print JSON."""
    page: Path | None = None
    """Also write this page (.md), its figures into `figures` and its tables into `data` beside it. Of a page
    that is there only the generated part is replaced."""


def do(command: Findings) -> int:
    """Run the command; returns the exit code."""
    from grokscope.findings import evaluate
    from grokscope.runs.study import open_study

    if command.page is not None and command.page.suffix != ".md":
        raise InputError(f"page = {command.page}: allowed are names that end in .md.")
    study = open_study(command.directory)
    if command.page is None:
        found = evaluate(study)
    else:
        from grokscope.report.finding_page import write_page
        from grokscope.report.gather import gather

        view = gather(study)
        found = view.found or evaluate(study)
        write_page(study, view, found, command.page)
    if command.json:
        print(json.dumps(found.tree(), indent=1, allow_nan=False))
    else:
        _print(found)
        if command.page is not None:
            print(f"page: {command.page}")
    return 0


def _print(found: "Found") -> None:
    from grokscope.findings.page import summary_rows
    from grokscope.report.printed import print_table

    heads = ["claim", "hypothesis", "result", "effect [interval]", "p (Holm)", "runs", "remarks"]
    print_table(f"{found.study}, family {found.family}", heads, summary_rows(found))
    for one in found.findings:
        print(f"{one.number}. {one.title}: {one.result}; {one.reason}")
    for note in found.notes:
        print(note)
