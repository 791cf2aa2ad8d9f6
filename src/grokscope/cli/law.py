"""The command `law`: which cells of a sweep compose, and what comes of cells that were never run."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from grokscope.errors import InputError

if TYPE_CHECKING:
    import polars as pl


@dataclasses.dataclass(frozen=True)
class Law:
    """Fit a law of what the runs of a sweep come to, beside simpler ones; predict cells that were not run."""

    directory: tyro.conf.Positional[Path]
    """A study's directory."""
    csv: Path | None = None
    """Also write a line per run here."""
    next: int = 0
    """Predict the cells of so many more points of the study's sequence ..."""
    out: Path | None = None
    """... into this file (JSON)."""
    score: Path | None = None
    """A file of predictions: score them on the finished runs of this study, which has their cells."""


def law(command: Law) -> int:
    """Run the command; returns the exit code."""
    from grokscope.files import read_json, write_json, write_text
    from grokscope.findings import cells
    from grokscope.runs.study import open_study

    if bool(command.next) != (command.out is not None) or command.next < 0:
        raise InputError(
            "next and out go together: how many more points (at least 1), and the file for them."
        )
    study = open_study(command.directory)
    runs = cells.ran(study)
    if command.csv is not None:
        write_text(command.csv, cells.table(runs).write_csv(float_precision=4))
    if command.score is not None:
        tree = read_json(command.score, "file of predictions")
        predictions = cells.Predictions.parse(tree, str(command.score))
        _print("Predictions, scored", cells.score(predictions, runs))
        return 0
    ends = cells.table(runs).group_by("regime", "fate", "verdict").len("runs")
    _print("What became of the runs", ends.sort("regime", "fate", "verdict"))
    _print("Factor of time when it doubles (skew: + 1)", cells.resampled(runs).coefficients())
    _print("The cells of every point predicted by the other points", cells.left_out(runs))
    if command.out is not None:
        write_json(command.out, cells.foretell(runs, study, command.next).tree())
        print(f"predictions: {command.out}")
    return 0


def _print(title: str, rows: "pl.DataFrame") -> None:
    from grokscope.report.printed import print_table

    shown = [
        [f"{one:.3g}" if isinstance(one, float) else str(one) for one in row] for row in rows.iter_rows()
    ]
    print_table(title, rows.columns, shown)
