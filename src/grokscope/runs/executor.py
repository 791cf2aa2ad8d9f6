"""Where a study's jobs are done: the protocol of executors, the settings they share, and which there are.

An executor is given groups of jobs, each for one worker process, and says what becomes of them. What a job
needs stands in its directory; what comes of it is there too, whichever executor did it, with the same bytes.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol

from grokscope.runs.execution import ExecutionSpec
from grokscope.runs.plan import Planned

STARTING, FINISHED, STOPPED = "starting", "done", "interrupted"
"""States of a job; any other text is a sentence on how it failed."""
_HOMES = {"local": "local:Local", "slurm": "slurm:Slurm", "ray": "on_ray:OnRay"}


class Executor(Protocol):
    """Does jobs."""

    @property
    def busy(self) -> bool:
        """Whether it still has something to do or to say."""

    @property
    def left_to_others(self) -> bool:
        """Whether all that it was given goes on when this process ends."""

    def submit(self, groups: list[list[Planned]]) -> None:
        """Take jobs, in the order they should be started; those of a group are done by one process together.

        Raises:
            InputError: they are refused; none is begun.
        """

    def watch(self) -> Iterator[tuple[Planned, str]]:
        """What has become of jobs since the last call: each once STARTING, then an end. It does not wait.

        Raises:
            InputError: nothing more can be done.
        """

    def stop(self, at_once: bool) -> None:
        """Let every job save and end, and begin none; `at_once`: without saving."""

    def close(self) -> None:
        """Let go of everything. What it still does by processes of its own ends."""


Say = Callable[[str], None]


def executor(
    spec: ExecutionSpec, study: Path, planned: list[Planned], together: list[list[Planned]], say: Say
) -> Executor:
    """The executor that a study asks for.

    Args:
        spec: which, and with what.
        study: the study's directory.
        planned: all jobs, also those with which nothing is to be done.
        together: the groups of jobs that it will be given.
        say: gets plain sentences, while it works.

    Raises:
        InputError: it is not installed here.
    """
    module, _, name = _HOMES[spec.executor].partition(":")
    made: Executor = getattr(import_module(f"grokscope.runs.{module}"), name)(
        spec, study, planned, together, say
    )
    return made
