"""What a study has to do: which runs are finished, go on or are new, and what is refused before any work."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grokscope.errors import InputError
from grokscope.files import read_json, write_json
from grokscope.mechanics.spec import RULE
from grokscope.runs.directory import (
    DONE,
    SPEC,
    STUDY,
    VERDICT,
    check_unlocked,
    read_spec,
    run_directory,
    standing,
)
from grokscope.runs.spec import RunSpec, StudySpec
from grokscope.runs.transfer_spec import TransferRunSpec


@dataclass(frozen=True)
class PlannedRun:
    """One run or transfer of a study and what is to be done about it."""

    name: str
    """`<regime>-s<seed>`; a transfer's ends in its moment."""
    directory: Path
    spec: RunSpec | TransferRunSpec
    action: Literal["start", "resume", "extend", "diagnose", "skip"]
    """extend: finished with fewer steps; diagnose: trained, but its diagnosis or causal verdict is missing or
    of other settings; skip: finished.
    """
    step: int
    """The step it starts from."""
    note: str | None
    """What differs from an earlier run of the same regime and seed, if that is why this one is new."""

    @property
    def steps_left(self) -> int:
        return self.spec.training.steps - self.step


def plan(study: StudySpec, out: Path) -> list[PlannedRun]:
    """Compare a study with what its directory holds. Nothing is written.

    Raises:
        InputError: a run has more steps than asked for, is in use by another process, or cannot be read.
    """
    return [_plan_run(name, spec, out) for name, spec in study.expand().items()]


def prepare(study: StudySpec, out: Path, runs: list[PlannedRun]) -> None:
    """Write the study and the spec of every run that is to be worked on."""
    write_json(out / STUDY, study.tree())
    for run in runs:
        if run.action != "skip":
            write_json(run.directory / SPEC, run.spec.tree())


def start_order(runs: list[PlannedRun]) -> list[PlannedRun]:
    """The runs that need work, longest first: the last to finish then ends as early as N workers allow."""
    return sorted((run for run in runs if run.action != "skip"), key=lambda run: -run.steps_left)


def _plan_run(name: str, spec: RunSpec, out: Path) -> PlannedRun:
    directory = run_directory(out, name, spec)
    now = standing(directory)
    wanted = spec.training.steps
    check_unlocked(directory, patience=3.0)
    if now.state != "new":
        kept = read_spec(directory)
        if kept.identity != spec.identity:
            raise InputError(f"{directory / SPEC} does not belong to its directory; it was changed by hand.")
        if now.step > wanted:
            raise InputError(
                f"training.steps = {wanted}: run {directory.name} already has {now.step} steps; allowed is "
                f"at least {now.step}, or another --out for a shorter run."
            )
    if now.state == "new":
        return PlannedRun(name, directory, spec, "start", 0, _differences(name, spec, out, directory))
    if now.state == "interrupted":
        return PlannedRun(name, directory, spec, "resume", now.step, None)
    if now.step < wanted:
        return PlannedRun(name, directory, spec, "extend", now.step, None)
    diagnosed = read_json(directory / DONE, "end mark").get("diagnosis") == spec.diagnosis.tree()
    if spec.causal.enabled:
        try:
            verdict = read_json(directory / VERDICT, "verdict")
        except InputError:
            verdict = None  # There is none, or a damaged one: it is made anew.
        wanted_verdict = {"rule": RULE, "step": now.step, "spec": spec.causal.tree()}
        diagnosed &= isinstance(verdict, dict) and wanted_verdict.items() <= verdict.items()
    return PlannedRun(name, directory, spec, "skip" if diagnosed else "diagnose", now.step, None)


def _differences(name: str, spec: RunSpec, out: Path, directory: Path) -> str | None:
    """What the most recent other run of this regime and seed had set otherwise, as one sentence."""
    others = [path for path in out.glob(f"{name}-*/{SPEC}") if path.parent != directory]
    if directory.exists() and (directory / SPEC).exists():
        return None
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            before = read_spec(path.parent).tree()
        except InputError:
            continue
        changes = [
            f"{field}: {old!r} -> {new!r}"
            for field, (old, new) in differences(before, spec.tree()).items()
            if field != "training.steps" and not field.startswith(("diagnosis.", "causal"))
        ]
        shown = ", ".join(changes[:4]) + (f" and {len(changes) - 4} more" if len(changes) > 4 else "")
        return f"settings differ from an earlier run {path.parent.name} ({shown}): this is a new run."
    return None


def differences(old: Any, new: Any, field: str = "") -> dict[str, tuple[Any, Any]]:
    """Leaves of two plain trees that differ, by dotted field."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = {}
        for key in [*old, *(key for key in new if key not in old)]:
            out.update(differences(old.get(key), new.get(key), f"{field}.{key}" if field else key))
        return out
    return {} if old == new else {field: (old, new)}
