"""Measure the speed of grokscope: python -m benchmarks.run [--quick] [--only NAME ...] [--out JSON]

Every figure is taken in this one run beside what it is compared with. Results go to a JSON file, section by
section (sections that are not asked for stay as they are), and from there into the tables of docs/speed.md.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import looking, machine, population, saving, scaling, steps, tables
from grokscope.files import write_json

RESULTS, DOCUMENT = Path("docs/data/speed.json"), Path("docs/speed.md")
NAMES = ("pocket", "reference")
Section = Callable[[bool, str], list[dict[str, Any]]]


def _steps(quick: bool, device: str) -> list[dict[str, Any]]:
    counts = [1] if quick or device == "cuda" else sorted({1, scaling.cores()})
    return [
        row for name in NAMES for threads in counts for row in steps.compare(name, threads, quick, device)
    ]


SECTIONS: dict[str, Section] = {
    "matmul": machine.matmul,
    "steps": _steps,
    "phases": lambda quick, device: [
        row for name in NAMES for row in steps.step_phases(name, 1, quick, device)
    ],
    "memory": lambda quick, device: [row for name in NAMES for row in scaling.memory(name, quick)],
    "two_runs": lambda quick, device: [row for name in NAMES for row in scaling.two_runs(name, quick)],
    "population": lambda quick, device: population.population("pocket", quick, device),
    "scaling": lambda quick, device: [row for name in NAMES for row in scaling.scaling(name, quick)],
    "looking": lambda quick, device: [row for name in NAMES for row in looking.looking(name, 1, quick)],
    "corpus": lambda quick, device: scaling.corpus(quick),
    "saving": lambda quick, device: saving.saving(quick),
}
"""What is measured, in this order."""
ON_GPU = ("matmul", "steps", "phases", "population")
"""Sections that know a GPU; the others measure the CPU alone."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the JSON, fill in the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, not how fast")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), help="some sections")
    parser.add_argument("--out", type=Path, default=None, help=f"JSON file (default {RESULTS}; quick: none)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here")
    path = options.out or (None if options.quick else RESULTS)
    results: dict[str, Any] = json.loads(path.read_text()) if path and path.is_file() else {}
    allowed = SECTIONS if options.device == "cpu" else ON_GPU
    for name in [name for name in allowed if options.only is None or name in options.only]:
        results.setdefault(options.device, {})[name] = section(name, options.quick, options.device)
        if path:
            write_json(path, results)
        print(tables.table(name, results[options.device][name]), flush=True)
    if path == RESULTS:
        tables.fill(DOCUMENT, results)


def section(name: str, quick: bool, device: str) -> dict[str, Any]:
    """One section's rows, with the machine, and how busy others kept it."""
    return machine.measured(partial(SECTIONS[name], quick, device), device)


if __name__ == "__main__":
    main()
