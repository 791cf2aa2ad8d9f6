"""`grokscope worthwhile`, `grokscope price`: what OOD accuracy cost, and what a new fact costs."""

import dataclasses
import json
from pathlib import Path

import tyro

from grokscope.errors import InputError
from grokscope.runs.devices import UTILISATION, device_of


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
    utilisation: float | None = None
    """Share of its peak that is reached; None: 0.4."""
    out: Path | None = None
    """Also write worthwhile.csv, worthwhile_runs.csv and the figure (PNG, PDF) into this directory."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class Price:
    """Say how many compositions a new fact must be shown in before its compositions are answered."""

    directory: tyro.conf.Positional[Path]
    """A price study's directory (studies/price.yaml)."""
    out: Path | None = None
    """Also write price.csv and price_rungs.csv into this directory."""
    json: bool = False
    """Print JSON."""


def price(command: Price) -> int:
    """Run the command; returns the exit code."""
    from grokscope.files import whole
    from grokscope.findings.price import ENDS, HEADS, cells, ends, prices, rows, rung_table, rungs, table
    from grokscope.report.printed import print_table
    from grokscope.runs.study import open_study
    from grokscope.statistics.exact import FEWEST_RUNS

    study = open_study(command.directory)
    found, notes = rungs(study)
    every = prices(found)
    if command.out is not None:
        with whole(command.out / "price.csv") as draft:
            table(every).write_csv(draft)
        with whole(command.out / "price_rungs.csv") as draft:
            rung_table(found).write_csv(draft, float_precision=4)
    over = rows(found)
    if over and max(len(row.prices) for row in over) < FEWEST_RUNS:
        notes.append(f"Fewer than {FEWEST_RUNS} seeds: descriptive, nothing is claimed.")
    if command.json:
        print(json.dumps({"prices": table(every).to_dicts(), "notes": notes}, indent=1, allow_nan=False))
        return 0
    title = f"{study.name}: fewest compositions per new fact (above the first, at most the second number)"
    print_table(title, HEADS, cells(over))
    print_table(f"{study.name}: what each rung came to, over bases and seeds", ENDS, ends(found))
    for note in notes:
        print(note)
    return 0


def worthwhile(command: Worthwhile) -> int:
    """Run the command; returns the exit code."""
    from grokscope.files import whole
    from grokscope.findings.transfers import RATE_HEADS, mix_rates, rate_cells, rate_table, transferred
    from grokscope.findings.worthwhile import worthwhile
    from grokscope.findings.worthwhile_text import HEADS, rows, sentences
    from grokscope.report.printed import print_table
    from grokscope.runs.study import open_study

    share = UTILISATION if command.utilisation is None else command.utilisation
    if not 0 < share <= 1:
        raise InputError(f"utilisation = {share}: allowed is above 0, up to 1.")
    if command.utilisation is not None and command.device is None:
        raise InputError(f"utilisation = {share}: needs --device; the runs' own clocks need none.")
    if not command.levels:
        raise InputError("levels = (): name at least one accuracy.")
    device = None if command.device is None else device_of(command.device)
    study = open_study(command.directory)
    found = worthwhile(study, command.levels, command.probe_set)
    transfers, remarks = transferred(study)
    buys = mix_rates(transfers)
    if command.out is not None:
        from grokscope.report import style
        from grokscope.report.worthwhile_figure import iso_accuracy

        tables = {"worthwhile": found.table(), "worthwhile_runs": found.run_table()}
        if buys:
            tables["worthwhile_transfer"] = rate_table(buys)
        for name, table in tables.items():
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
            "transfer": rate_table(buys).to_dicts(),
            "sentences": sentences(found),
        }
        print(json.dumps(tree, indent=1, allow_nan=False))
        return 0
    title = (
        f"{found.study}: what reaching an OOD accuracy cost (*: no other way takes less data and less FLOP)"
    )
    print_table(title, HEADS, rows(found, device, share))
    for sentence in sentences(found):
        print(sentence)
    if buys:
        title = "what each buys in transfer: accuracy on new facts' compositions, atoms known"
        print_table(title, RATE_HEADS, rate_cells(buys))
    for remark in remarks:
        print(remark)
    return 0
