"""What a study has to do: which jobs are finished, go on or are new, and what is refused before any work."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from grokscope.errors import InputError
from grokscope.files import read_json, whole, write_json
from grokscope.mechanics.spec import RULES
from grokscope.runs.directory import (
    BASE,
    BASE_WEIGHTS,
    DONE,
    RESULT,
    SPEC,
    STUDY,
    VERDICT,
    Standing,
    check_unlocked,
    standing,
)
from grokscope.runs.job import RunSpec, TransferRunSpec
from grokscope.runs.open import Run, Transfer
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from grokscope.world.source import keep

SILENT = ("training.steps", "training.until_checkpoints", "seed", "world.facts_file")
"""Fields in which two runs of one identity may differ: of a facts file, what it holds tells all."""
SILENT_SECTIONS = ("training.until.", "diagnosis.", "causal")
"""Of such fields, the first parts."""


@dataclass(frozen=True)
class Planned:
    """A job and what is to be done about it."""

    job: Run | Transfer
    action: Literal["start", "resume", "extend", "diagnose", "skip"]
    """extend: finished with fewer steps; diagnose: trained, but what is said of it (a run's diagnosis and
    causal verdict, a transfer's result) is missing or of other settings; skip: finished.
    """
    step: int
    """The step it starts from."""
    note: str | None = None
    """What differs from an earlier run of the same regime and seed, if that is why this one is new."""

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def directory(self) -> Path:
        return self.job.directory

    @property
    def spec(self) -> RunSpec | TransferRunSpec:
        return self.job.spec

    @property
    def steps_left(self) -> int:
        """At most; of one that ended early by its rule there are none."""
        return 0 if self.action in ("diagnose", "skip") else self.spec.training.steps - self.step


def plan(jobs: Sequence[Run | Transfer], queued: bool = False) -> list[Planned]:
    """Compare jobs with what their directories hold. Nothing is written.

    Args:
        jobs: what is asked for.
        queued: whether they are done by a queue, which may have them from before: in use is no error.

    Raises:
        InputError: one has more steps than asked for, is in use by another process, or cannot be read.
    """
    return [_plan(job, queued) for job in jobs]


def _plan(job: Run | Transfer, queued: bool) -> Planned:
    spec, now = job.spec, standing(job.directory)
    if not queued:
        check_unlocked(job.directory, patience=3.0)
    if now.state == "new":
        return Planned(job, "start", 0, _differences(job) if isinstance(job, Run) else None)
    if job.open(job.directory).spec.identity != spec.identity:
        raise InputError(f"{job.directory / SPEC} does not belong to its directory; it was changed by hand.")
    if now.step > spec.training.steps:
        raise InputError(
            f"{spec.STEPS} = {spec.training.steps}: {spec.KIND} {job.directory.name} already has {now.step} "
            f"steps; allowed is at least {now.step}, or another --out for a shorter {spec.KIND}."
        )
    if now.state == "interrupted":
        return Planned(job, "resume", now.step)
    if not job.ends_at(now.step):
        return Planned(job, "extend", now.step)
    return Planned(job, "skip" if _is_concluded(job, now) else "diagnose", now.step)


def _is_concluded(job: Run | Transfer, now: Standing) -> bool:
    """Whether what is said of a trained job is there, and of the settings asked for."""
    end: dict[str, Any] = read_json(job.directory / DONE, "end mark")
    if isinstance(job, Transfer):
        return end.get("examine") == job.spec.transfer.examine.tree() and (job.directory / RESULT).exists()
    diagnosed, causal = end.get("diagnosis") == job.spec.diagnosis.tree(), job.spec.causal
    if not diagnosed or not job.spec.judged:
        return diagnosed
    try:
        verdict = read_json(job.directory / VERDICT, "verdict")
    except InputError:
        return False  # There is none, or a damaged one: it is made anew.
    wanted = {"rule": RULES[job.spec.format.attention], "step": now.step, "spec": causal.tree()}
    return isinstance(verdict, dict) and wanted.items() <= verdict.items()


def prepare(study: Study, planned: Sequence[Planned]) -> None:
    """Write the study, and for every job that is to be worked on all that a worker needs."""
    spec = study.spec.with_world(keep(study.spec.world, study.directory))
    if not _stands(study.directory / STUDY, spec):
        write_json(study.directory / STUDY, spec.tree())
    bases = study.runs if any(isinstance(one.job, Transfer) for one in planned) else {}
    for one in planned:
        prepare_job(one, bases[one.job.spec.base.name] if isinstance(one.job, Transfer) else None)


def _stands(path: Path, spec: StudySpec) -> bool:
    """Whether a study is kept already: it may be somebody else's, or in an archive."""
    try:
        return bool(read_json(path, "study") == spec.tree())
    except InputError:
        return False


def prepare_job(planned: Planned, run: Run | None = None) -> None:
    """The spec in a job's directory; before it, for a transfer of `run`, the base's weights and what is known
    of it."""
    from grokscope.runs.bases import standing_of  # imported here: planning stays light

    job = planned.job
    if planned.action == "skip":
        return
    if isinstance(job, Transfer) and run is not None:
        if not (job.directory / BASE_WEIGHTS).exists():
            with whole(job.directory / BASE_WEIGHTS) as draft:
                shutil.copyfile(run.weights(job.spec.step), draft)
        write_json(job.directory / BASE, asdict(standing_of(run, job.spec.moment, job.spec.step)))
    spec = job.spec.with_world(keep(job.spec.world, job.directory))
    write_json(job.directory / SPEC, spec.tree())


def start_order(planned: Sequence[Planned]) -> list[Planned]:
    """The jobs that need work, longest first: the last to finish then ends as early as N workers allow."""
    return sorted((one for one in planned if one.action != "skip"), key=lambda one: -one.steps_left)


def _differences(job: Run) -> str | None:
    """What the most recent other run of this regime and seed had set otherwise, as one sentence."""
    if job.begun:
        return None
    others = list(job.directory.parent.glob(f"{job.name}-*/{SPEC}"))
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            before = Run.open(path.parent).spec
        except InputError:
            continue
        changes = [
            _said(field, job.spec) or f"{field}: {old!r} -> {new!r}"
            for field, (old, new) in differences(before.tree(), job.spec.tree()).items()
            if field not in SILENT and not field.startswith(SILENT_SECTIONS)
        ]
        shown = ", ".join(changes[:4]) + (f" and {len(changes) - 4} more" if len(changes) > 4 else "")
        return f"settings differ from an earlier run {path.parent.name} ({shown}): this is a new run."
    return None


def _said(field: str, spec: RunSpec) -> str | None:
    """Another content of a facts file is told without the hash that tells it."""
    facts = field == "world.facts_sha256" and spec.world.facts_file
    return f"facts of {Path(facts).name}" if facts else None


def differences(old: Any, new: Any, field: str = "") -> dict[str, tuple[Any, Any]]:
    """Leaves of two plain trees that differ, by dotted field."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = {}
        for key in [*old, *(key for key in new if key not in old)]:
            out.update(differences(old.get(key), new.get(key), f"{field}.{key}" if field else key))
        return out
    return {} if old == new else {field: (old, new)}
