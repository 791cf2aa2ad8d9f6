"""Results as Markdown, and into a document: every number of docs/speed.md is written by this file."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grokscope.files import write_text

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]
BUSY = 0.2
"""Cores at work before a section from which on its figures are marked."""


def field(name: str, form: str = "") -> Callable[[Row], str]:
    """A field of a row, formatted; nothing where it is absent."""
    return lambda row: "" if row.get(name) is None else format(row[name], form)


def seconds(name: str) -> Callable[[Row], str]:
    """A time with a unit that suits it."""
    return lambda row: "" if row.get(name) is None else clock(row[name])


def clock(value: float) -> str:
    """`1.23 s`, `12.3 ms`, `45 us`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def _ratios(row: Row) -> tuple[float, float]:
    """The loop's time per query over the instrument's: on one thread, on as many as the instrument has."""
    each = row["seconds"] / row["probes"]
    return row["loop_seconds_one"] / each, row["loop_seconds_all"] / each


def _phase(name: str) -> Column:
    return name, lambda row: clock(row["seconds"][name]) if name in row["seconds"] else ""


COLUMNS: dict[str, list[Column]] = {
    "matmul": [("dtype", field("dtype")), ("threads", field("threads")), ("GFLOP/s", field("gflops", ".0f"))],
    "steps": [
        ("shape", field("shape")),
        ("threads", field("threads")),
        ("step", field("variant")),
        ("time", seconds("seconds")),
        ("quartiles", lambda row: f"{clock(row['low'])} to {clock(row['high'])}"),
        ("CPU time", seconds("cpu")),
        ("against plain", field("speedup", ".2f")),
        ("of the ceiling", field("share", ".0%")),
        ("of its own shapes' ceiling", field("share_own", ".0%")),
    ],
    "gpu_steps": [
        ("shape", field("shape")),
        ("step", field("variant")),
        ("time", seconds("seconds")),
        ("quartiles", lambda row: f"{clock(row['low'])} to {clock(row['high'])}" if "low" in row else ""),
        ("steps per second", lambda row: f"{1 / row['seconds']:.1f}" if "seconds" in row else "failed"),
        ("against plain", field("speedup", ".2f")),
        ("of the ceiling", field("share", ".0%")),
    ],
    "gpu_equal": [
        ("shape", field("shape")),
        ("step", field("variant")),
        ("steps", field("steps")),
        ("largest difference of a loss", field("loss", ".1e")),
        ("relative difference of the weights", field("weights", ".1e")),
    ],
    "gpu_looking": [
        ("instrument", field("instrument")),
        ("shape", field("shape")),
        ("queries", field("queries", ",")),
        ("in all", seconds("seconds")),
        ("per query", lambda row: clock(row["seconds"] / row["queries"])),
    ],
    "phases": [
        ("shape", field("shape")),
        ("step", field("variant")),
        *map(_phase, ("data", "forward", "backward", "optimiser", "ema", "metrics")),
    ],
    "memory": [
        ("shape", field("shape")),
        ("step", field("variant")),
        ("before the first step", field("before_mb", ".0f")),
        ("peak", field("peak_mb", ".0f")),
        ("peak once warm", field("steps_peak_mb", ".0f")),
        ("CPU time of a step", seconds("cpu")),
        ("first step", seconds("first_step_seconds")),
    ],
    "two_runs": [
        ("shape", field("shape")),
        ("runs", field("runs")),
        ("threads each", field("threads")),
        ("steps per second in all", field("steps_per_second", ".2f")),
    ],
    "population": [
        ("shape", field("shape")),
        ("runs together", field("members")),
        ("one step of all", seconds("seconds")),
        ("one run alone", seconds("alone")),
        ("steps per second in all", field("steps_per_second", ".1f")),
        ("against one alone", field("gain", ".2f")),
        ("of the ceiling", field("share", ".0%")),
    ],
    "scaling": [
        ("shape", field("shape")),
        ("changed", lambda row: f"{row['by']} {row['value']}"),
        ("time", seconds("seconds")),
        ("GFLOP/s", lambda row: f"{row['flops'] / row['seconds'] / 1e9:.0f}"),
        ("peak MB", field("peak_mb", ".0f")),
    ],
    "looking": [
        ("instrument", field("instrument")),
        ("shape", field("shape")),
        ("dtype", field("dtype")),
        ("per query", seconds("seconds")),
        ("one at a time", seconds("loop_seconds")),
        ("ratio", field("speedup", ".0f")),
        ("of the ceiling", field("share", ".0%")),
    ],
    "paper_size": [
        ("instrument", field("instrument")),
        ("dtype", field("dtype")),
        ("probes", field("probes", ",")),
        ("threads", field("threads")),
        ("in all", lambda row: f"{row['seconds']:.0f} s"),
        ("CPU time", lambda row: f"{row['cpu']:.0f} s"),
        ("peak MB", field("peak_mb", ".0f")),
        ("of the ceiling", field("share", ".0%")),
        ("per query", lambda row: clock(row["seconds"] / row["probes"])),
        ("loop, 1 thread", seconds("loop_seconds_one")),
        ("loop, all threads", seconds("loop_seconds_all")),
        ("ratio", lambda row: " and ".join(f"{ratio:.1f}" for ratio in _ratios(row))),
    ],
    "paper_same": [
        ("instrument", field("instrument")),
        ("dtype", field("dtype")),
        ("tokens compared", field("compared", ",")),
        ("largest difference from the loop", field("difference", ".1e")),
        ("same token as the loop", field("agrees", ".2%")),
        ("same token in both dtypes", field("agrees_across", ".2%")),
    ],
    "corpus": [
        ("regime", field("regime")),
        ("facts", field("facts", ",")),
        ("compositions", field("compositions", ",")),
        ("time", seconds("seconds")),
        ("peak MB", field("peak_mb", ".0f")),
        ("of it before", field("before_mb", ".0f")),
    ],
    "saving": [
        ("what", field("what")),
        ("parameters", field("parameters", ",")),
        ("MB", field("megabytes", ".0f")),
        ("time", seconds("seconds")),
        ("quartiles", lambda row: f"{clock(row['low'])} to {clock(row['high'])}"),
    ],
}
"""Columns of every table: heading, and how a row fills it."""
SECOND = {"paper_same": "paper_size"}
"""Tables that show more columns of another's section."""


def table(name: str, section: Mapping[str, Any]) -> str:
    """A section as a Markdown table, with one line on where and when it was measured."""
    columns = COLUMNS[name]
    lines = [[heading for heading, _ in columns], ["---"] * len(columns)]
    lines += [[fill(row) for _, fill in columns] for row in section["rows"]]
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", _where(section)])


def _where(section: Mapping[str, Any]) -> str:
    m = section["machine"]
    device = m["gpu"] or f"{m['cpu']}, {m['cores']} cores, {m['instructions']}"
    note = f"{m['date']}, {device}, PyTorch {m['torch']}, {section['took_seconds']:.0f} s."
    busy = section.get("busy_before")
    if busy is None:
        return f"{note} How busy the machine was is not known."
    return f"{note} Not to be relied on: others used {busy} cores." if busy > BUSY else note


def fill(path: Path, results: Mapping[str, Any]) -> None:
    """Replace what stands between `<!-- table DEVICE NAME -->` and `<!-- end -->`, nothing else."""

    def replaced(match: re.Match[str]) -> str:
        device, name = match.group(1), match.group(2)
        found = results.get(device, {}).get(SECOND.get(name, name))
        body = table(name, found) if found else "Not measured: no such machine was at hand."
        return f"<!-- table {device} {name} -->\n{body}\n<!-- end -->"

    pattern = r"<!-- table (\w+) (\w+) -->\n.*?<!-- end -->"
    write_text(path, re.sub(pattern, replaced, path.read_text(), flags=re.DOTALL))
