"""The part of a job's directory that studies own: place, lock, progress, end mark. Training owns the rest."""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from grokscope.errors import InputError, InUse
from grokscope.files import exists, gated, read_json, safe_name, whole
from grokscope.runs.job import RunSpec, TransferRunSpec
from grokscope.runs.lease import Lease, Taker, directory_time, holder_of, silent

STUDY, SPEC, CORPUS, DONE, DIAGNOSIS = "study.json", "spec.json", "corpus.json", "done.json", "diagnosis.json"
VERDICT, CAUSAL = "verdict.json", "causal.csv"
TRANSFERS = "transfers"
"""Where a study keeps its transfers, and where those of a single run go, beside it."""
BASE_WEIGHTS, BASE, RESULT, CELLS = "base.safetensors", "base.json", "transfer.json", "transfer_cells.csv"
RESUME_STATE = "resume/state.json"
"""What training resumes from: `training.checkpoint`."""
PROGRESS, LOCK, LOG, TRACES = "progress.json", "lock", "worker.log", "traces"

INTERRUPTED = 75
"""Exit code of a worker that saved its state because it was asked to stop (EX_TEMPFAIL)."""
IN_USE = 69
"""Exit code of a worker that found another one at the run, or was taken over (EX_UNAVAILABLE)."""


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
    state = directory / RESUME_STATE
    begun = exists(state, "resume state")
    return Standing("interrupted", _step(state, "resume state")) if begun else Standing("new", 0)


def _step(path: Path, what: str) -> int:
    tree = read_json(path, what)
    step = tree.get("step") if isinstance(tree, dict) else None
    if not isinstance(step, int):
        raise InputError(f"the {what} at {path} has no step.")
    return step


def write_progress(directory: Path, tree: dict[str, Any]) -> None:
    """Replace the progress file, which only who watches reads. Not synced: it is stale in a second."""
    with whole(directory / PROGRESS, sync=False) as draft:
        draft.write_text(json.dumps(tree), encoding="utf-8")


def read_progress(directory: Path) -> dict[str, Any]:
    """The progress file, or nothing if there is none (yet)."""
    try:
        tree = read_json(directory / PROGRESS)
    except InputError:
        return {}
    return tree if isinstance(tree, dict) else {}


@contextmanager
def locked(directory: Path, patience: float = 0.0) -> Iterator[None]:
    """Be the one process that changes the run's files: hold its lease (`runs.lease`), and its lock, which
    goes with the process however that ends.

    Args:
        directory: the run directory; it must exist.
        patience: seconds to wait for another process that is just saving and leaving.

    Raises:
        InUse: another process is training this run.
    """
    with (directory / LOCK).open("a+") as handle:
        lease = _acquire(handle, directory, patience)
        with lease.kept(), gated(directory, lease.folder):
            handle.truncate(0)
            handle.write(f"pid {os.getpid()}, lease {lease.number}")
            handle.flush()
            yield


def check_unlocked(directory: Path, patience: float = 0.0) -> None:
    """Raise InUse if another process is training this run; nothing is written."""
    until = time.monotonic() + patience
    while owner := in_use(directory):
        if time.monotonic() >= until:
            raise _in_use(directory, owner)
        time.sleep(0.1)


def in_use(directory: Path) -> str:
    """Which process is training this run, as words; empty: none."""
    if (other := holder_of(directory)) is not None:
        return "" if other.dead or silent(other, directory_time(directory)) else other.name
    try:
        with (directory / LOCK).open("r") as handle:
            return "" if _lock(handle) else _owner(handle)
    except FileNotFoundError:
        return ""


def _acquire(handle: TextIO, directory: Path, patience: float) -> Lease:
    until = time.monotonic() + patience
    handle.seek(0)
    number = re.search(r"lease (\d{1,9})", handle.read())
    taker = Taker(directory, int(number[1]) if number else 0)
    while True:
        # The lock tells of a process that has no lease yet; what it says of other machines is not relied on.
        free = _lock(handle) or holder_of(directory) is not None
        if free and (lease := taker.attempt()) is not None:
            return lease
        if time.monotonic() >= until and not (free and taker.watching):
            raise _in_use(directory, taker.other.name if free and taker.other else _owner(handle))
        time.sleep(0.1)


def _lock(handle: TextIO) -> bool:
    """Take the lock of an open file, if it is free; it is then held until the file is closed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # A file system without locks.
        return True
    return True


def _owner(handle: TextIO) -> str:
    handle.seek(0)
    return handle.read().strip() or "unknown"


def _in_use(directory: Path, owner: str) -> InUse:
    return InUse(f"{directory} is in use by another process ({owner}); wait for it or stop it.")
