"""Naming a group of runs in one word: a run, several, or a regime of a study with all its seeds."""

from pathlib import Path

from grokscope.errors import InputError
from grokscope.runs.directory import STUDY
from grokscope.runs.run import Run, Study


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
        names = list(dict.fromkeys(spec.regime.name for spec in study.spec.expand().values()))
        runs = [run for run in study.runs.values() if run.spec.regime.name == regime and run.steps]
        if regime not in names:
            raise InputError(f"regime {regime!r}: study {study.name} in {place} has {', '.join(names)}.")
        if not runs:
            raise InputError(f"regime {regime!r} of {place}: none of its runs has a checkpoint yet.")
        return runs
    if (Path(part) / STUDY).exists():
        raise InputError(f"{part} is a study: name one of its regimes, as in {part}:natural.")
    return [Run.open(part)]
