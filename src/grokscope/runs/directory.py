"""The part of a job's directory that studies own: place, lock, progress, end mark. Training owns the rest."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from grokscope.errors import InputError
from grokscope.files import exists, read_json, safe_name
from grokscope.runs.job import RunSpec, TransferRunSpec

STUDY, SPEC, CORPUS, DONE, DIAGNOSIS = "study.json", "spec.json", "corpus.json", "done.json", "diagnosis.json"
VERDICT, CAUSAL = "verdict.json", "causal.csv"
TRANSFERS = "transfers"
"""Where a study keeps its transfers, and where those of a single run go, beside it."""
BASE_WEIGHTS, BASE, RESULT, CELLS = "base.safetensors", "base.json", "transfer.json", "transfer_cells.csv"
PROGRESS, LOCK, LOG, TRACES = "progress.json", "lock", "worker.log", "traces"

INTERRUPTED = 75
"""Exit code of a worker that saved its state because it was asked to stop (EX_TEMPFAIL)."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands."""

    state: Literal["new", "interrupted", "done"]
    step: int
    """Last step that a resume would start from; 0 if there is none."""


def place_of(folder: Path, spec: RunSpec | TransferRunSpec) -> Path:
    """Where a job is kept in a folder: `<name>-<identity>`, so that other settings are another directory."""
    return folder / f"{safe_name(spec.name, f'{spec.KIND} name')}-{spec.identity}"


def standing(directory: Path) -> Standing:
    """Where the job in a directory stands; a directory without a spec counts as new."""
    if not exists(directory / SPEC, "spec"):
        return Standing("new", 0)
    if exists(directory / DONE, "end mark"):
        return Standing("done", _step(directory / DONE, "end mark"))
    state = directory / "resume" / "state.json"
    begun = exists(state, "resume state")
    return Standing("interrupted", _step(state, "resume state")) if begun else Standing("new", 0)


def _step(path: Path, what: str) -> int:
    tree = read_json(path, what)
    step = tree.get("step") if isinstance(tree, dict) else None
    if not isinstance(step, int):
        raise InputError(f"the {what} at {path} has no step.")
    return step


def write_progress(directory: Path, tree: dict[str, Any]) -> None:
    """Replace the progress file, which only the display reads. Not synced: it is stale in a second."""
    draft = directory / f".{PROGRESS}.{os.getpid()}.part"
    draft.write_text(json.dumps(tree), encoding="utf-8")
    os.replace(draft, directory / PROGRESS)


def read_progress(directory: Path) -> dict[str, Any]:
    """The progress file, or nothing if there is none (yet)."""
    try:
        tree = read_json(directory / PROGRESS)
    except InputError:
        return {}
    return tree if isinstance(tree, dict) else {}


@contextmanager
def locked(directory: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the run's lock; it goes with the process, however that ends.

    Args:
        directory: the run directory; it must exist.
        patience: seconds to wait for another process that is just saving and leaving.

    Raises:
        InputError: another process is training this run.
    """
    with (directory / LOCK).open("a+") as handle:
        _acquire(handle, directory, patience)
        handle.truncate(0)
        handle.write(f"pid {os.getpid()}")
        handle.flush()
        yield


def check_unlocked(directory: Path, patience: float = 0.0) -> None:
    """Raise InputError if another process is training this run; nothing is written."""
    if (directory / LOCK).exists():
        with (directory / LOCK).open("r") as handle:
            _acquire(handle, directory, patience)


def _acquire(handle: TextIO, directory: Path, patience: float) -> None:
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                handle.seek(0)
                owner = handle.read().strip() or "unknown"
                message = f"{directory} is in use by another process ({owner}); wait for it or stop it."
                raise InputError(message) from None
            time.sleep(0.1)
