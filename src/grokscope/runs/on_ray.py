"""The executor of Ray: a task for each group of jobs, on nodes that need not see the study's disk.

A task works in a folder of its node, and carries back progress every second, and files as soon as the run has
saved. This process alone writes the study's directories, under the lease of each run that it has given away;
what a lost node had saved goes on elsewhere.
"""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from grokscope.errors import InputError, InUse, shortened
from grokscope.runs.carried import Files, Sender, receive
from grokscope.runs.directory import INTERRUPTED, PROGRESS, locked, read_progress, standing, write_progress
from grokscope.runs.execution import ExecutionSpec
from grokscope.runs.executor import FINISHED, STARTING, STOPPED, Say
from grokscope.runs.local import Pool
from grokscope.runs.open import open_job
from grokscope.runs.plan import Planned, plan

TELL_SECONDS = 1.0
"""Between two reports of a task."""
SAVE_SECONDS = 10.0
"""Between two looks for files to carry back, at least."""
LOOK_SECONDS = 5.0
"""Between two looks at how many nodes there are."""
TRIES = 3
"""So often a job is given to another node without getting any further."""
Told = dict[str, tuple[dict[str, Any], Files | None, list[str]]]
"""Per run directory its progress, new files (None: not looked for), and the names of all files."""


class Board:
    """Where tasks report, and read whether to go on. An actor."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Told]] = []
        self.order = "go on"

    def tell(self, task: int, told: Told) -> str:
        """Take a report; answer what to do."""
        self.told.append((task, told))
        return self.order

    def take(self) -> list[tuple[int, Told]]:
        """All reports since the last call."""
        told, self.told = self.told, []
        return told

    def stop(self) -> None:
        """Let every task save and end."""
        self.order = "stop"


@dataclass
class Given:
    """A group of jobs that a task has."""

    runs: list[Planned]
    held: ExitStack
    """The leases of their directories."""
    task: int = -1
    result: Any = None
    tries: int = 0
    far: int = -1
    begun: set[str] = field(default_factory=set)


class OnRay:
    """Tasks; the arguments are those of `executor.executor`."""

    left_to_others = False

    def __init__(
        self,
        spec: ExecutionSpec,
        study: Path,
        planned: list[Planned],
        together: list[list[Planned]],
        say: Say,
    ) -> None:
        self.spec, self.say = spec, say
        self.ray, self._own = _connected(spec.address)
        self.threads = spec.threads or spec.cpus
        self.waiting: list[list[Planned]] = []
        self.given: list[Given] = []
        self.stopping = False
        self._count, self._room, self._next_look = 0, 1, 0.0
        self.board = self._new_board()
        self._task = self.ray.remote(_work).options(
            num_cpus=spec.cpus, num_gpus=spec.gpus, memory=_bytes(spec.memory), max_retries=0
        )

    @property
    def busy(self) -> bool:
        return bool(self.given or (self.waiting and not self.stopping))

    def submit(self, groups: list[list[Planned]]) -> None:
        self.waiting.extend(groups)

    def watch(self) -> Iterator[tuple[Planned, str]]:
        while self.waiting and len(self.given) < self._roomy() and not self.stopping:
            yield from self._give(self.waiting.pop(0))
        results = [one.result for one in self.given]
        # What has ended is asked first: its reports are then all on the board.
        ended, _ = self.ray.wait(results, num_returns=len(results), timeout=0) if results else ([], [])
        by_task = {one.task: one for one in self.given}
        for task, told in self._reports():
            if task in by_task:
                yield from self._told(by_task[task], told)
        for one in list(self.given):
            if one.result in ended:
                yield from self._ended(one)

    def stop(self, at_once: bool) -> None:
        self.stopping = True
        self.board.stop.remote()
        for one in self.given:
            if at_once or not one.begun:
                self.ray.cancel(one.result, force=at_once)

    def close(self) -> None:
        for one in self.given:
            with suppress(Exception):
                self.ray.cancel(one.result, force=True)
            one.held.close()
        if self._own:
            self.ray.shutdown()

    def _new_board(self) -> Any:
        """A board on this process's node: it is there as long as its reader."""
        here = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self.ray.get_runtime_context().get_node_id(), soft=True
        )
        return self.ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()

    def _reports(self) -> list[tuple[int, Told]]:
        """What tasks have told. If the board is lost, those that know no other end, and are given anew."""
        try:
            told: list[tuple[int, Told]] = self.ray.get(self.board.take.remote())
            return told
        except self.ray.exceptions.RayActorError:
            self.board = self._new_board()
            return []

    def _roomy(self) -> int:
        """How many tasks are given away at a time; nodes come and go."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            there = self.ray.cluster_resources()
            room = int(there.get("CPU", 0)) // self.spec.cpus
            if self.spec.gpus:
                room = min(room, int(there.get("GPU", 0)) // self.spec.gpus)
            if room < 1:
                wanted = f"{self.spec.cpus} cpus and {self.spec.gpus} gpus"
                self.say(f"the cluster has no room for {wanted}; waiting")
            self._room = max(1, min(room, self.spec.workers or room))
        return self._room

    def _give(self, runs: list[Planned]) -> Iterator[tuple[Planned, str]]:
        """A task for jobs that no task has yet."""
        with ExitStack() as held:
            try:
                for run in runs:
                    held.enter_context(locked(run.directory))
                    (run.directory / PROGRESS).unlink(missing_ok=True)
            except InUse as error:
                for run in runs:
                    yield run, str(error)
                return
            self.given.append(Given(runs, held.pop_all()))
        self._start(self.given[-1])

    def _start(self, one: Given) -> None:
        self._count += 1
        one.task = self._count
        files = {run.directory.name: Sender(run.directory).changes()[0] for run in one.runs}
        one.result = self._task.remote(self.board, one.task, files, self.threads)

    def _told(self, one: Given, told: Told) -> Iterator[tuple[Planned, str]]:
        for run in one.runs:
            progress, files, names = told.get(run.directory.name, ({}, None, []))
            if run.name not in one.begun:
                one.begun.add(run.name)
                yield run, STARTING
            if files is not None:
                receive(run.directory, files, names)
            if progress:
                write_progress(run.directory, progress)

    def _ended(self, one: Given) -> Iterator[tuple[Planned, str]]:
        """A task has ended, with its node, or as it should."""
        try:
            results: dict[str, str] = self.ray.get(one.result)
        except self.ray.exceptions.RayError as error:
            # A task fails by itself only where grokscope is not installed, or with the board.
            own = isinstance(error, self.ray.exceptions.RayTaskError)
            boardless = isinstance(getattr(error, "cause", None), self.ray.exceptions.RayActorError)
            if (boardless or not own) and not self.stopping and self._again(one):
                return
            said = STOPPED if self.stopping else shortened(str(error).strip().splitlines()[-1], 160)
            results = dict.fromkeys((run.directory.name for run in one.runs), said)
        if STOPPED in results.values() and not self.stopping:
            if self._again(one):
                return
            lost = f"its worker was killed {TRIES} times and got no further"
            results = {name: lost if said == STOPPED else said for name, said in results.items()}
        self.given.remove(one)
        one.held.close()
        for run in one.runs:
            yield run, results[run.directory.name]

    def _again(self, one: Given) -> bool:
        """Give a lost job to another node, unless that was done too often."""
        far = sum(standing(run.directory).step for run in one.runs)
        one.tries = 1 if far > one.far else one.tries + 1
        one.far = far
        if one.tries > TRIES:
            return False
        first = one.runs[0].name + (f" and {len(one.runs) - 1} more" if len(one.runs) > 1 else "")
        self.say(f"{first}: its node was lost; goes on from step {standing(one.runs[0].directory).step}")
        self._start(one)
        return True


def _connected(address: str | None) -> tuple[Any, bool]:
    """Ray, connected to a cluster, and whether that was done here.

    Raises:
        InputError: it is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = import_module("ray")
        import_module("ray.util.scheduling_strategies")
    except ImportError:
        raise InputError("executor = 'ray': Ray is not installed: pip install 'grokscope[ray]'.") from None
    if ray.is_initialized():
        return ray, False
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"execution.address = {address!r}: no Ray cluster answers there: {shortened(str(error), 120)}"
        ) from None
    finally:
        with suppress(ValueError):  # Ray sets its own; outside the main thread there are none.
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return ray, True


def _bytes(memory: str | None) -> int | None:
    return None if memory is None else int(memory[:-1]) * {"M": 2**20, "G": 2**30}[memory[-1]]


def _work(board: Any, task: int, files: dict[str, Files], threads: int) -> dict[str, str]:
    """The task: do jobs in a folder of this machine.

    Args:
        board: gets the reports.
        task: what they are known by.
        files: of every run, by the name of its directory.
        threads: of PyTorch, for runs that are new.

    Returns:
        Per directory name how the run ended: FINISHED, STOPPED or a sentence.
    """
    folder = Path(tempfile.mkdtemp(prefix="grokscope-"))
    try:
        for name, content in files.items():
            receive(folder / name, content, list(content))
        results = _Task(board, task, [folder / name for name in files], threads).work()
        # The folder is soon gone; what is said of a run is said of where it lies.
        return {name: said.replace(f"{folder}/", "") for name, said in results.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Task:
    """Jobs in a folder of this machine, and what is told of them."""

    def __init__(self, board: Any, task: int, directories: list[Path], threads: int) -> None:
        self.board, self.task, self.directories = board, task, directories
        self.senders = {one: Sender(one) for one in directories}
        self.pool = Pool(1, threads)
        self.saved: dict[Path, int] = {}
        self.next_files = 0.0

    def work(self) -> dict[str, str]:
        results = {one.name: FINISHED for one in self.directories}
        for sender in self.senders.values():
            sender.changes()  # Known over there.
        self._tell()
        planned = plan([open_job(one) for one in self.directories])
        todo = [one for one in planned if one.action != "skip"]
        self.pool.take([todo] if todo else [])
        next_tell = 0.0
        try:
            while self.pool.busy:
                for run, state, code in self.pool.watch():
                    if code is not None:
                        stopped = code < 0 or code == INTERRUPTED
                        results[run.directory.name] = STOPPED if stopped else state
                if time.monotonic() >= next_tell:
                    self._tell()
                    next_tell = time.monotonic() + TELL_SECONDS
                time.sleep(0.1)
        finally:
            self.pool.close()
        self._tell(last=True)
        return results

    def _tell(self, last: bool = False) -> None:
        """Report; files too if there is a newer save, at most every so often."""
        told: Told = {}
        carry = last or time.monotonic() >= self.next_files
        for one in self.directories:
            step = standing(one).step
            new = carry and (last or step != self.saved.get(one, 0))
            files, names = self.senders[one].changes() if new else (None, [])
            if new:
                self.saved[one] = step
                self.next_files = time.monotonic() + SAVE_SECONDS
            told[one.name] = (read_progress(one), files, names)
        order = import_module("ray").get(self.board.tell.remote(self.task, told))
        if order == "stop" and not self.pool.stopping:
            self.pool.stop(at_once=False)
