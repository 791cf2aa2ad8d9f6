"""Jobs for worker processes: one process does several, one after another.

What a process pays once (importing, tracing and compiling a step) it then pays for all of them. A job is one
line of JSON on the process's standard input, the directories to work on; the answer is one line on its
standard output, the exit code that a process for that job alone would have had. What the job prints goes into
the log of its first directory. A process that is asked to save and leave, or dies, leaves without an answer:
its own exit code is the job's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from grokscope.runs.directory import INTERRUPTED, LOG


class JobProcess:
    """The parent's end: a process `python -m grokscope.runs.worker` that waits for jobs.

    Args:
        log: gets what the process says before its first job, such as that it cannot import something.
        threads: of PyTorch, for what is new.
    """

    def __init__(self, log: Path, threads: int) -> None:
        command = [sys.executable, "-m", "grokscope.runs.worker", "--threads", str(threads)]
        with log.open("ab") as handle:
            # A session of its own: Ctrl-C in a terminal reaches the parent alone, which asks each once.
            self._process = subprocess.Popen(
                [*command, "--parent", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=handle,
                start_new_session=True,
                bufsize=0,
            )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def give(self, directories: Sequence[Path]) -> None:
        """The next job. The process has none, or none that has not been answered."""
        assert self._process.stdin is not None
        line = json.dumps([str(directory) for directory in directories])
        # Of one that has died `answer` says so.
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())

    def answer(self) -> int | None:
        """The exit code of the job; None: it goes on."""
        assert self._process.stdout is not None
        # Asked first: what a process that has ended wrote before is there to be read.
        ended = self._process.poll()
        line = self._process.stdout.read()
        return int(line) if line else ended

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, signal: int) -> None:
        """A signal, unless it has ended."""
        self._process.send_signal(signal)

    def leave(self) -> None:
        """No more jobs: wait until the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve(work: Callable[[list[Path]], int]) -> int:
    """The process's end: do jobs until there are no more, or one is interrupted.

    Args:
        work: does a job and returns its exit code.

    Returns:
        The exit code of the process.
    """
    with os.fdopen(os.dup(0)) as jobs, os.fdopen(os.dup(1), "w") as answers:
        # Compilers inherit the standard streams, and must not read jobs or write answers.
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        for line in jobs:
            directories = [Path(name) for name in json.loads(line)]
            with (directories[0] / LOG).open("ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            code = work(directories)
            sys.stdout.flush()
            sys.stderr.flush()
            if code == INTERRUPTED:
                return code
            print(code, file=answers, flush=True)
    return 0
