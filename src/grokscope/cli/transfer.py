"""`grokscope transfer`: fine-tune one run on new facts, and say what transferred."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import tyro

from grokscope.errors import InputError
from grokscope.files import check_folder


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Fine-tune a run's model on new facts and say which new compositions it can make, or why not. Run it
    again to go on with an interrupted one."""

    run: tyro.conf.Positional[Path]
    """A finished run's directory."""
    step: str = "end"
    """The checkpoint: end, saturation, generalisation (of test_ood), untrained, or a step."""
    settings: str | None = None
    """A study (shipped, or a file) whose `transfer:` section gives the settings; None: the study that the run
    belongs to, or else the reference's numbers."""
    out: Path | None = None
    """Folder for the transfer's directory; None: `transfers` beside the run."""
    threads: int | None = None
    """Threads of PyTorch, for a new transfer; None: as PyTorch has them."""
    count: int | None = None
    """New facts; None: as the settings say. Likewise below."""
    probes: int | None = None
    """Most probes per mix."""
    k: int | None = None
    """Trained compositions per new fact and role."""
    roles: Literal["both", "first", "second"] | None = None
    """Hops in which they use the new fact."""
    retention: Literal["paper", "code"] | None = None
    """How old data are retained."""
    items: int | Literal["all"] | None = None
    """How many."""
    steps: int | None = None
    """Optimiser steps."""
    lr_factor: float | None = None
    """Learning rate, as a multiple of the base's peak."""
    replay: float | None = None
    """Old examples per new one."""


PLACES = {
    "count": ("facts",), "probes": ("facts",), "k": ("facts",), "roles": ("facts",),
    "items": ("facts", "retention"), "retention": ("facts", "retention"),
    "steps": ("tuning",), "lr_factor": ("tuning",), "replay": ("tuning",),
}  # fmt: skip
"""Where an option of the command stands in a transfer's settings."""


def transfer(command: Transfer) -> int:
    """Do it, or go on with it, and print the outcome.

    Raises:
        InputError: there is no such run or base, or a setting cannot be honoured.
    """
    from grokscope.report.printed import print_transfers
    from grokscope.runs.bases import step_of
    from grokscope.runs.directory import TRANSFERS, place_of
    from grokscope.runs.job import TransferRunSpec
    from grokscope.runs.open import Run
    from grokscope.runs.open import Transfer as Made
    from grokscope.runs.plan import plan, prepare_job
    from grokscope.runs.worker import do_job
    from grokscope.training.stops import Interrupted
    from grokscope.transfer.spec import TransferSpec

    if command.threads is not None and command.threads < 1:
        raise InputError(f"threads = {command.threads}: allowed is at least 1.")
    run = Run.open(command.run)
    step = step_of(run, command.step)
    transfer = TransferSpec.parse(_laid_over(_settings(command), command), "transfer")
    spec = TransferRunSpec(base=run.spec, step=step, transfer=transfer, moment=command.step)
    folder = command.out or run.directory.parent / TRANSFERS
    check_folder(folder)
    made = Made(place_of(folder, spec), spec)
    (planned,) = plan([made])
    if planned.action != "skip":
        _ = made.setup.corpus  # What is impossible is refused before anything is written.
        prepare_job(planned, run)
        try:
            do_job(made, command.threads)
        except Interrupted as stop:
            raise KeyboardInterrupt(str(stop)) from None
    print_transfers({made.name: Made.open(made.directory)}, {})
    print(made.directory)
    return 0


def _settings(command: Transfer) -> dict[str, Any]:
    """The settings before the command's own options."""
    from grokscope.runs.directory import STUDY
    from grokscope.runs.files import load_study
    from grokscope.runs.study import Study
    from grokscope.transfer.spec import TransferSpec

    if command.settings is not None:
        section = load_study(command.settings).transfer
        if section is None:
            raise InputError(f"settings = {command.settings!r}: this study has no `transfer:` section.")
        return section.transfer.tree()
    home = Path(command.run).absolute().parent
    section = Study.open(home).spec.transfer if (home / STUDY).exists() else None
    return (section.transfer if section is not None else TransferSpec()).tree()


def _laid_over(tree: dict[str, Any], command: Transfer) -> dict[str, Any]:
    for name, path in PLACES.items():
        value = getattr(command, name)
        if value is not None:
            place = tree
            for key in path:
                place = place[key]
            place["kind" if name == "retention" else name] = value
    return tree
