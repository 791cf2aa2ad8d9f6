"""`grokscope worthwhile`: what every way to an OOD accuracy cost in a study."""

import dataclasses
import json
from pathlib import Path

import tyro

from grokscope.errors import InputError
from grokscope.studies.devices import device_of


@dataclasses.dataclass(frozen=True)
class Worthwhile:
    """Say what reaching an OOD accuracy cost: by waiting, and by adding compositions."""

    directory: tyro.conf.Positional[Path]
    """A study's directory."""
    levels: tuple[float, ...] = (0.5, 0.9)
    """Accuracies to be reached."""
    probe_set: str = "test_ood"
    """On which probes."""
    device: str | None = None
    """Hours of this accelerator; None: by the runs' own clocks."""
    utilisation: float = 0.4
    """Share of its peak that is reached."""
    out: Path | None = None
    """Also write worthwhile.csv, worthwhile_runs.csv and the figure (PNG, PDF) into this directory."""
    json: bool = False
    """Print JSON."""


def do(command: Worthwhile) -> int:
    """Run the command; returns the exit code."""
    from grokscope.files import whole
    from grokscope.findings.worthwhile import worthwhile
    from grokscope.findings.worthwhile_text import HEADS, rows, sentences
    from grokscope.report.printed import print_table
    from grokscope.studies.run import Run, open_directory

    if not 0 < command.utilisation <= 1:
        raise InputError(f"utilisation = {command.utilisation}: allowed is above 0, up to 1.")
    if not command.levels:
        raise InputError("levels = (): name at least one accuracy.")
    device = None if command.device is None else device_of(command.device)
    study = open_directory(command.directory)
    if isinstance(study, Run):
        raise InputError(f"{command.directory} is one run; a study's directory is needed.")
    found = worthwhile(study, command.levels, command.probe_set)
    if command.out is not None:
        from grokscope.report import style
        from grokscope.report.worthwhile_figure import iso_accuracy

        for name, table in (("worthwhile", found.table()), ("worthwhile_runs", found.run_table())):
            with whole(command.out / f"{name}.csv") as draft:
                table.write_csv(draft)
        with style.styled():
            style.save(iso_accuracy(found), command.out / "worthwhile")
    if command.json:
        tree = {
            "study": found.study,
            "probe_set": found.probe_set,
            "ways": found.table().to_dicts(),
            "runs": found.run_table().to_dicts(),
            "sentences": sentences(found),
        }
        print(json.dumps(tree, indent=1, allow_nan=False))
        return 0
    title = (
        f"{found.study}: what reaching an OOD accuracy cost (*: no other way takes less data and less FLOP)"
    )
    print_table(title, HEADS, rows(found, device, command.utilisation))
    for sentence in sentences(found):
        print(sentence)
    return 0
