"""The metrics of a run: one JSON line per checkpoint while it runs, a Parquet table when it has ended.

    {"step": 1000, "seconds": 12.3, "loss": 0.1, "lr": 0.003, "accuracy": {"test_ood": 0.2}}

`seconds` is clock time; everything else is the same however often the run was interrupted.
"""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl

from grokscope.errors import InputError
from grokscope.files import check_gate, exists, reading, whole, write_parquet, write_text

LINES, TABLE = "metrics.jsonl", "metrics.parquet"


class MetricsFile:
    """`metrics.jsonl` of a run directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / LINES

    def rows(self) -> list[dict[str, Any]]:
        """All whole lines. A last line without its end, as a killed process leaves one, does not count.

        Raises:
            InputError: another line is not a metrics line.
        """
        if not exists(self.path, "metrics"):
            return []
        with reading(self.path, "metrics"):
            *lines, _ = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        return [self._parse(line, number) for number, line in enumerate(lines, 1)]

    def append(self, row: dict[str, Any]) -> None:
        """Add a line and sync it; if that fails, the file is what it was.

        Raises:
            OSError: the disk is full, or another error of the file system.
            InUse: another worker has taken over the directory.
        """
        text = json.dumps(row, allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as handle:
            # Once it is open: whoever takes over replaces the file before adding to it.
            check_gate(self.path)
            before = os.fstat(handle.fileno()).st_size
            try:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            except OSError:
                os.ftruncate(handle.fileno(), before)
                raise

    def forget_after(self, step: int) -> None:
        """Keep the lines up to `step` only."""
        kept = [row for row in self.rows() if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept))

    def _parse(self, line: str, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
            row["step"], row["seconds"], row["loss"], row["lr"], row["accuracy"].items()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"line {number} of {self.path} is damaged: {line[:60]!r}.") from None
        return dict(row)


def read_metrics(directory: Path) -> pl.DataFrame:
    """One row per checkpoint: step, seconds, loss, lr, and one column `accuracy.<probe set>` per probe set.

    Raises:
        InputError: there are no metrics in the run directory, or they are damaged.
    """
    rows = MetricsFile(directory).rows()
    if not rows:
        raise InputError(f"there are no metrics in {directory}.")
    return table(rows)


def table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Metrics lines as a table."""
    flat = [
        {
            **{name: value for name, value in row.items() if name != "accuracy"},
            **{f"accuracy.{name}": value for name, value in row["accuracy"].items()},
        }
        for row in rows
    ]
    names = list(dict.fromkeys(name for row in flat for name in row))
    schema = {name: pl.Int64() if name == "step" else pl.Float64() for name in names}
    return pl.DataFrame(flat, schema=schema)


def write_table(directory: Path) -> pl.DataFrame:
    """Write `metrics.parquet`, whole or not at all, and return it."""
    frame = read_metrics(directory)
    with whole(directory / TABLE) as draft:
        write_parquet(draft, frame)
    return frame
