"""Jobs that wait in a study's directory for whoever comes.

    STUDY/batches/NAME/batch.json         groups of jobs, by their directories in the study
    STUDY/batches/NAME/ended/RUN.json     how a job ended: {"said": "done"}, or a sentence

A worker of a batch, `python -m grokscope.runs.batch BATCH WORKER WORKERS`, does one group after another until
none is left: first its own share, then what others left, such as those of a node that was lost. Who works on
a run is told by the run's lease, so workers need not know of each other, and may come, go, and be started
twice.

SIGUSR1, which a queue sends before a job's time is up, lets it save and queue again; SIGTERM, save and end.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import ClassVar

from grokscope.errors import InputError, InUse
from grokscope.files import read_json, write_json
from grokscope.runs.directory import IN_USE, INTERRUPTED, in_use
from grokscope.runs.executor import FINISHED, STARTING, STOPPED
from grokscope.runs.lease import late
from grokscope.runs.local import Pool
from grokscope.runs.open import open_job
from grokscope.runs.plan import Planned, plan
from grokscope.runs.scheduler import queue_again
from grokscope.spec import Stored

BATCHES, BATCH, ENDED = "batches", "batch.json", "ended"
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Batch(Stored):
    """What a batch is made of."""

    CALLED: ClassVar[str] = "batch"

    groups: tuple[tuple[str, ...], ...]
    """Directories of jobs, as seen from the study's; those of a group are trained together."""
    threads: int

    def write(self, place: Path) -> None:
        """Make the batch; its workers find it there."""
        (place / ENDED).mkdir(parents=True)
        write_json(place / BATCH, asdict(self))

    @classmethod
    def read(cls, place: Path) -> "Batch":
        """The batch of a directory.

        Raises:
            InputError: there is none, or it is damaged.
        """
        return cls.parse(read_json(place / BATCH, cls.CALLED), str(place / BATCH))


def write_end(place: Path, run: Path, said: str) -> None:
    """Note in a batch how a job ended."""
    write_json(place / ENDED / f"{run.name}.json", {"said": said})


def ends(place: Path) -> set[str]:
    """Names of the directories whose jobs have ended in a batch."""
    return {name.removesuffix(".json") for name in os.listdir(place / ENDED) if name.endswith(".json")}


def read_end(place: Path, run: Path) -> str | None:
    """How a job of a batch ended; None: it has not."""
    path = place / ENDED / f"{run.name}.json"
    if not path.exists():
        return None
    tree = read_json(path, "end of a job")
    return str(tree.get("said")) if isinstance(tree, dict) else None


class BatchWorker:
    """Does jobs of a batch.

    Args:
        place: the batch's directory.
        worker, workers: which of how many this one is.
    """

    def __init__(self, place: Path, worker: int, workers: int) -> None:
        self.place, self.batch = place, Batch.read(place)
        self.study = place.parents[1]
        own = range(worker % workers, len(self.batch.groups), workers)
        others = (index for index in range(len(self.batch.groups)) if index not in own)
        self.order = [*own, *others]
        self.pool = Pool(1, self.batch.threads)
        self.caught: Sequence[int] = ()

    def work(self, caught: Sequence[int]) -> bool:
        """Do what there is, until a signal is caught.

        Returns:
            Whether a job of its own was begun and is not finished.
        """
        self.caught = caught
        self.pool.take(self._groups())
        forwarded = 0
        left = False
        while self.pool.busy:
            if len(caught) > forwarded:
                self.pool.stop(at_once=forwarded > 0)
                forwarded = len(caught)
            for run, state, code in self.pool.watch():
                if state == STARTING or code is None:
                    continue
                left |= state == STOPPED
                # Of a run that another has, or that was stopped or killed, it is not known how it ends.
                if state != STOPPED and code >= 0 and code not in (IN_USE, INTERRUPTED):
                    write_end(self.place, run.directory, state)
            time.sleep(POLL_SECONDS)
        return left

    def _groups(self) -> Iterator[list[Planned]]:
        """What is not done, and not being done when it is asked for. What another worker has, or was killed
        at, is looked at again when all else is done; where that worker was not heard of for some beats, once
        it is known whether it lives."""
        for index, again in [
            *((index, False) for index in self.order),
            *((index, True) for index in self.order),
        ]:
            directories = [self.study / name for name in self.batch.groups[index]]
            left = [one for one in directories if read_end(self.place, one) is None]
            while again and any(in_use(one) and late(one) for one in left) and not self.caught:
                time.sleep(POLL_SECONDS)
            if not left or any(in_use(one) for one in left):
                continue
            try:
                planned = plan([open_job(one) for one in left])
            except InUse:
                continue
            except InputError as error:
                for one in left:
                    write_end(self.place, one, str(error))
                continue
            for one in planned:
                if one.action == "skip":
                    write_end(self.place, one.directory, FINISHED)
            if todo := [one for one in planned if one.action != "skip"]:
                yield todo


def main(argv: Sequence[str] | None = None) -> int:
    """Do jobs of a batch, and queue again if the time was too short; the exit code."""
    place, worker, workers = sys.argv[1:] if argv is None else argv
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    try:
        left = BatchWorker(Path(place), int(worker), int(workers)).work(caught)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if left and caught[0] == signal.SIGUSR1:
        with suppress(InputError):  # Whoever watches the batch then queues it.
            queue_again(os.environ)
    return INTERRUPTED if left else 0


if __name__ == "__main__":
    sys.exit(main())
