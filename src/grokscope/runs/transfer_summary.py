"""What transfers found, as one table: a row per base, and under it where its second hops fail."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from grokscope.runs.open import Transfer
from grokscope.statistics.clustered import Rate
from grokscope.statistics.estimate import PROSE, text
from grokscope.world.probes import MIXES

COLUMNS = ("transfer", "base OOD", "new atoms", *(name.replace("_", " ") for name in MIXES), "old ID two-hop")


def transfer_rows(transfers: Mapping[str, Transfer]) -> list[tuple[str, ...]]:
    """One row of `COLUMNS` per transfer: exact answers with their intervals, all probes."""
    return [_row(name, one) for name, one in transfers.items()]


def print_transfers(
    transfers: Mapping[str, Transfer], missing: Mapping[str, str], console: Console | None = None
) -> None:
    """Print the table, where each mix stands, and which transfers there are not."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, 140))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, no_wrap=name == "transfer", overflow="fold")
    for row in transfer_rows(transfers):
        table.add_row(*row)
    console.print(table)
    for name, one in transfers.items():
        result = one.result
        if result is None:
            continue
        for mix in MIXES:
            found = result.of(mix)
            said = f"{found.place}: {found.reason}" if found is not None else "cannot tell: no probes."
            console.print(f"{name}, {mix}: {said}", highlight=False, markup=False, soft_wrap=True)
        for sentence in result.shortages:
            console.print(f"{name}: {sentence}", highlight=False, markup=False, soft_wrap=True)
    for name, reason in missing.items():
        console.print(f"{name}: not made: {reason}", highlight=False, markup=False, soft_wrap=True)


def _row(name: str, transfer: Transfer) -> tuple[str, ...]:
    result = transfer.result
    if result is None:
        return name, *[""] * (len(COLUMNS) - 2), "unfinished"
    mixes = [result.of(mix) for mix in MIXES]
    old = result.old.get("test_iid")
    mature = "" if result.base.mature else " not mature"
    return (
        name,
        _text(result.base.ood) + mature,
        _text(result.new_atomic),
        *(_text(one.accuracy if one is not None else None) for one in mixes),
        f"{old.before.value:.2f} -> {_text(old.after)}" if old is not None else "",
    )


def _text(rate: Rate | None) -> str:
    return text(rate, form=PROSE, missing="no probes")
