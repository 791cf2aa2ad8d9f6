"""Which runs of a study are trained together in one process, as a population.

How a run was begun is part of what its bits depend on, so only runs that are new are free to choose: one that
was begun alone goes on alone, and one that was begun among eight goes on in a population of eight.
"""

from pathlib import Path
from typing import Literal

from grokscope.errors import InputError
from grokscope.runs.plan import Planned
from grokscope.training.checkpoint import find_state
from grokscope.training.manifest import read_manifest

Population = Literal["auto", "off"] | int
"""Runs at a time in one process: as many as pay on the device, one, or up to so many."""
AUTO = {"cpu": 1, "cuda": 32}
"""What auto means. One small model leaves most of a GPU idle; it keeps a CPU core busy."""


def check_population(population: Population) -> None:
    """Raise InputError if it is none of the allowed values."""
    if population not in ("auto", "off") and (isinstance(population, str) or population < 1):
        raise InputError(f"population = {population!r}: allowed is auto, off, or a number of at least 1.")


def groups(todo: list[Planned], population: Population) -> list[list[Planned]]:
    """The runs of each worker process, in the order they should be started.

    Args:
        todo: the runs, in the order they should be started.
        population: how many of the new ones are trained together.

    Raises:
        InputError: a number is asked for, and the runs cannot be trained together.
    """
    check_population(population)
    by_size: dict[tuple[int, int], list[Planned]] = {}
    for run in todo:
        by_size.setdefault(_kind(run, population), []).append(run)
    found = [
        runs[start : start + size]
        for (size, _), runs in by_size.items()
        for start in range(0, len(runs), size)
    ]
    return sorted(found, key=lambda some: todo.index(some[0]))


def begun_among(directory: Path) -> int | None:
    """How many runs this one was begun with, itself included; None: it has not begun."""
    return None if find_state(directory) is None else read_manifest(directory).members


def _kind(run: Planned, population: Population) -> tuple[int, int]:
    """How many of its like are trained together, and what else must be alike: the threads of those begun."""
    before = begun_among(run.directory)
    if before is not None:
        threads = read_manifest(run.directory).threads
        return (before if run.steps_left else 1), threads
    training = run.spec.training
    return at_once(population, training.device, training.loop_choices is not None), 0


def at_once(population: Population, device: str, draws_loops: bool) -> int:
    """How many new runs are trained in one process.

    Args:
        population: what is asked for. device: "cpu" or "cuda".
        draws_loops: whether every run draws its own number of loops.

    Raises:
        InputError: none of the allowed values, or a number of runs that draw their loops.
    """
    check_population(population)
    if population == "off":
        return 1
    if draws_loops:
        if population == "auto":
            return 1
        raise InputError(
            f"population = {population}: with training.loop_choices every run draws its own number of loops; "
            "allowed is off."
        )
    return AUTO[device] if population == "auto" else population
