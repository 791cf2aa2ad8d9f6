"""A study's directory: which jobs it is made of, and those of them that have begun."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grokscope.errors import InputError
from grokscope.files import exists, read_json
from grokscope.runs.directory import SPEC, STUDY, TRANSFERS, place_of, standing
from grokscope.runs.open import Run, Transfer, open_job
from grokscope.runs.spec import StudySpec
from grokscope.world.source import found

if TYPE_CHECKING:
    import polars as pl


class Study:
    """The spec a study was last run with, and what its directory holds whenever it is asked."""

    def __init__(self, directory: Path, spec: StudySpec) -> None:
        self.directory, self.spec = directory, spec

    @classmethod
    def open(cls, directory: str | Path) -> "Study":
        """Open a study directory.

        Raises:
            InputError: it holds no study, or one that cannot be read.
        """
        path = Path(directory) / STUDY
        spec = StudySpec.parse(read_json(path, "study"), str(path))
        return cls(Path(directory), spec.with_world(found(spec.world, Path(directory))))

    def __repr__(self) -> str:
        runs = f"{len(self.runs)} of {len(self.spec.expand())} runs"
        return f"Study({self.spec.name}, {runs}, {self.directory})"

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def run_jobs(self) -> list[Run]:
        """All runs, as the study asks for them now."""
        return [Run(place_of(self.directory, spec), spec) for spec in self.spec.expand().values()]

    @property
    def runs(self) -> dict[str, Run]:
        """The runs that have been started, by name, as they were asked for when they were."""
        return {job.name: Run.open(job.directory) for job in self.run_jobs if job.begun}

    def table(self) -> "pl.DataFrame":
        """A row for every run that the study asks for, in its order.

        Returns:
            Columns run, regime, seed; each field that a sweep varies; state and step (of
            `runs.directory.standing`), and steps, as asked for; of a finished run its behaviour, its causal
            verdict, and `event.<name>`, the step of each event of `Diagnosis.events` (null: it did not happen
            until `step`).

        Raises:
            InputError: a file is damaged.
        """
        import polars as pl

        swept = self.spec.swept()
        rows = []
        for run in self.run_jobs:
            stands, regime = standing(run.directory), run.spec.regime.name
            row: dict[str, Any] = {
                "run": run.name,
                "regime": regime,
                "seed": run.spec.seed,
                **swept[regime][1],
            }
            row |= {"state": stands.state, "step": stands.step, "steps": run.spec.training.steps}
            if (found := run.diagnosis) is not None:
                verdict = run.verdict
                row |= {"behaviour": found.behaviour, "verdict": None if verdict is None else verdict.verdict}
                row |= {f"event.{name}": event.step for name, event in found.events.items()}
            rows.append(row)
        return pl.from_dicts(rows, infer_schema_length=None)

    @property
    def transfer_jobs(self) -> list[Transfer]:
        """The transfers that there is a base for, as the study asks for them now."""
        return self._transfer_jobs[0]

    @property
    def transfers_missing(self) -> dict[str, str]:
        """Transfers that cannot be made (yet), by name, each with the reason as a sentence."""
        return self._transfer_jobs[1]

    @property
    def transfers(self) -> dict[str, Transfer]:
        """The transfers that have been started, by name: `<regime>-s<seed>-<moment>`, or `untrained-s<seed>`,
        then the variant."""
        return {job.name: Transfer.open(job.directory) for job in self.transfer_jobs if job.begun}

    @property
    def _transfer_jobs(self) -> tuple[list[Transfer], dict[str, str]]:
        from grokscope.runs.bases import step_of  # imported here: opening a study stays light

        runs, jobs, missing = self.runs, [], {}
        for name, variants in groupby(self.spec.expand_transfers(), key=lambda spec: spec.base_name):
            specs = list(variants)
            base, moment = specs[0].base.name, specs[0].moment
            try:
                if base not in runs:
                    raise InputError(f"run {base} has not been started.")
                step = step_of(runs[base], moment)
            except InputError as error:
                missing[name] = str(error)
                continue
            for spec in specs:
                spec = spec.model_copy(update={"base": runs[base].spec, "step": step})
                jobs.append(Transfer(place_of(self.directory / TRANSFERS, spec), spec))
        return jobs, missing


def open_directory(directory: str | Path) -> Run | Study | Transfer:
    """A `Run`, a `Study` or a `Transfer`, by what the directory is.

    Raises:
        InputError: it is neither, or cannot be read.
    """
    directory = Path(directory)
    if not exists(directory, "directory") or not directory.is_dir():
        raise InputError(f"there is no directory {directory}.")
    if exists(directory / STUDY, "study"):
        return Study.open(directory)
    if exists(directory / SPEC, "run spec"):
        return open_job(directory)
    raise InputError(f"{directory} is neither a run ({SPEC}) nor a study ({STUDY}).")


def open_study(directory: str | Path) -> Study:
    """The study of a directory.

    Raises:
        InputError: it is none, or cannot be read.
    """
    found = open_directory(directory)
    if not isinstance(found, Study):
        raise InputError(f"{directory} holds one {type(found).__name__.lower()}, not a study.")
    return found


def runs_of(group: str) -> list[Run]:
    """The runs that `group` names, in that order.

    Args:
        group: RUN (a directory), STUDY:REGIME (all seeds of the regime that have a checkpoint), or several of
        these joined by commas.

    Raises:
        InputError: an item is empty, there is no such directory or regime, a run is named twice, or it has no
        checkpoint.
    """
    parts = [part.strip() for part in group.split(",")]
    if not all(parts):
        raise InputError(f"group {group!r}: an item of the list is empty.")
    runs = [run for part in parts for run in _part(part)]
    for run in runs:
        if not run.steps:
            raise InputError(f"run {run.name} in {run.directory} has no checkpoint yet.")
    places = [run.directory.resolve() for run in runs]
    for place in places:
        if places.count(place) > 1:
            raise InputError(f"group {group!r}: {place} is named more than once.")
    return runs


def _part(part: str) -> list[Run]:
    place, colon, regime = part.rpartition(":")
    if colon and not Path(part).is_dir():
        study = Study.open(place)
        if regime not in study.spec.regime_names:
            names = ", ".join(study.spec.regime_names)
            raise InputError(f"regime {regime!r}: study {study.name} in {place} has {names}.")
        runs = [run for run in study.runs.values() if run.spec.regime.name == regime and run.steps]
        if not runs:
            raise InputError(f"regime {regime!r} of {place}: none of its runs has a checkpoint yet.")
        return runs
    if exists(Path(part) / STUDY, "study"):
        raise InputError(f"{part} is a study: name one of its regimes, as in {part}:natural.")
    return [Run.open(part)]
