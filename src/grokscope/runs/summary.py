"""What a study found, as one table: a row per run, from the diagnoses the runs recorded."""

from rich.console import Console
from rich.table import Table

from grokscope.mechanics.judge.diagnosis import VERDICT_SET, Diagnosis
from grokscope.runs.open import Run
from grokscope.runs.study import Study
from grokscope.statistics.estimate import text

COLUMNS = ("run", "saturation", "OOD there", "OOD at the end", "guess", "behaviour", "causal verdict")

UNTESTED = "not tested"


def summary_rows(study: Study) -> list[tuple[str, ...]]:
    """One row of `COLUMNS` per run, in the study's order."""
    return [_row(name, run) for name, run in study.runs.items()]


def print_summary(study: Study, console: Console | None = None) -> None:
    """Print the table, and say which runs it does not have."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, 120))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, no_wrap=name in ("run", "saturation"), overflow="fold")
    for row in summary_rows(study):
        table.add_row(*row)
    console.print(table)
    for name, run in study.runs.items():
        outer = run.verdict.of(VERDICT_SET) if run.verdict and run.verdict.verdict == "undecided" else None
        if outer is not None:
            console.print(f"{name}, undecided: {VERDICT_SET}: {outer.reason}", highlight=False, markup=False)
    if any(run.verdict is None for run in study.runs.values()):
        console.print(
            f"{UNTESTED}: nothing has been intervened on; grokscope diagnose RUN does it.", highlight=False
        )


def _row(name: str, run: Run) -> tuple[str, ...]:
    found = run.diagnosis
    if found is None:
        return name, "", "", "", "", "unfinished", ""
    numbers = found.sets.get(VERDICT_SET)
    return (
        name,
        _saturation(found),
        text(numbers.exact_at_saturation) if numbers else "",
        text(numbers.exact) if numbers else "",
        f"{numbers.guess.value:.2f}" if numbers else "",
        found.behaviour,
        verdict.verdict if (verdict := run.verdict) else UNTESTED,
    )


def _saturation(found: Diagnosis) -> str:
    event = found.events["saturation"]
    return f"{event.step:,}" if event.step is not None else f"> {event.censored_at:,}"
