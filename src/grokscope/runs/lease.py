"""One writer per directory, also where file locks lie, as on NFS and Lustre.

    RUN/lease.7/3f9a0c/holder    lease number 7, its holder's folder, and who that is; the file's time is the
                                 last heartbeat

The lease with the highest number counts. It is taken by making the folder of the next number, which one
process alone can, and the one before is then moved away; with it goes the gate through which its holder
changes files (`files.gated`). So a worker that was thought lost and wakes cannot write any more.

All times are those of the file system that the directory lies on, as it stamps files; no machine's clock is
asked. A lease has lapsed when its holder is seen to be dead (it was on this machine), or when its heartbeat
is old and then, watched for some beats, stays what it is: a clock that jumps makes a heartbeat look old, and
the next beat mends it.
"""

import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEAT_SECONDS = 5.0
LAPSE_SECONDS = 60.0
"""Without a heartbeat for so long, a holder is suspected to be lost."""
WATCH_SECONDS = 2.5 * BEAT_SECONDS
"""A suspected heartbeat that does not change while watched for so long belongs to nobody."""
HOLDER = "holder"
_NAME = re.compile(r"lease\.(\d+)")


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    number: int
    folder: Path
    beat: float
    """Time of the last heartbeat, seconds, by the clock of the file system."""
    about: dict[str, Any]
    """host, pid, and what tells whether that process is one of this machine; empty: it has not said yet."""

    @property
    def name(self) -> str:
        return f"pid {self.about.get('pid', 'unknown')} on {self.about.get('host', 'an unknown machine')}"

    @property
    def dead(self) -> bool:
        """Whether it was a process of this machine, and is none any more."""
        here = _about(os.getpid())
        pid = self.about.get("pid")
        if self.about.get("machine") != here["machine"] or not isinstance(pid, int):
            return False
        return _about(pid)["began"] != self.about.get("began") or not _running(pid)


def holder_of(directory: Path) -> Holder | None:
    """Who holds the lease of a directory, or held it last without giving it back; nothing is written."""
    for number in reversed(_numbers(directory)):
        folder = directory / f"lease.{number}"
        with suppress(OSError):
            inner = next((path for path in folder.iterdir() if path.is_dir()), None)
            if inner is None:
                return Holder(number, folder, folder.stat().st_mtime, {})
            try:
                # Opened, because network file systems ask the server anew only then.
                with (inner / HOLDER).open() as handle:
                    beat, text = os.fstat(handle.fileno()).st_mtime, handle.read()
                about = json.loads(text)
            except (FileNotFoundError, ValueError):
                beat, about = inner.stat().st_mtime, {}
            return Holder(number, inner, beat, about if isinstance(about, dict) else {})
    return None


def directory_time(directory: Path) -> float:
    """The present time by the clock that stamps the files of a directory; without the right to write there,
    this machine's."""
    try:
        with tempfile.TemporaryFile(dir=directory) as handle:
            return os.fstat(handle.fileno()).st_mtime
    except OSError:
        return time.time()


def silent(holder: Holder, now: float) -> bool:
    """Whether a holder is suspected to be lost: its heartbeat is long ago, or ahead of the clock."""
    return abs(now - holder.beat) > LAPSE_SECONDS


def late(directory: Path) -> bool:
    """Whether the holder of a directory's lease was not heard of for some beats."""
    holder = holder_of(directory)
    return holder is not None and abs(directory_time(directory) - holder.beat) > 3 * BEAT_SECONDS


class Lease:
    """A lease that is held."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.folder = number, folder

    def beat(self) -> bool:
        """Say that its holder lives; False: it has been taken over."""
        try:
            os.utime(self.folder / HOLDER)
        except FileNotFoundError:
            return False
        except OSError:  # The file system is away for a moment.
            return True
        return True

    def release(self) -> None:
        """Give it back, if it has not been taken over."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Beat in a thread of its own until the block ends, then give it back."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS) and self.beat():
                pass

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.release()


class Taker:
    """Tries to take the lease of a directory.

    Args:
        directory: it must exist.
        least: the lease is numbered higher than this.
        clock: seconds, of this machine, by which a silent holder is watched.

    Attributes:
        other: who held it at the last attempt; None: nobody.
        watching: whether `other` is silent, so that another attempt may take the lease from it.
    """

    def __init__(self, directory: Path, least: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.directory, self.least, self.clock = directory, least, clock
        self.other: Holder | None = None
        self.watching = False
        self._since = 0.0

    def attempt(self) -> Lease | None:
        """The lease, if it is free or has lapsed.

        Raises:
            OSError: the directory cannot be written.
        """
        before, self.other = self.other, holder_of(self.directory)
        return self._take() if self.other is None or self._lapsed(self.other, before) else None

    def _lapsed(self, other: Holder, before: Holder | None) -> bool:
        if other.dead:
            return True
        watched, self.watching = self.watching, silent(other, directory_time(self.directory))
        if not (watched and self.watching and other == before):
            self._since = self.clock()
        return self.watching and self.clock() - self._since >= WATCH_SECONDS

    def _take(self) -> Lease | None:
        number = max([self.least, *_numbers(self.directory)]) + 1
        place = self.directory / f"lease.{number}"
        try:
            place.mkdir()
        except FileExistsError:
            return None
        lease = Lease(number, place / uuid.uuid4().hex[:12])
        try:
            lease.folder.mkdir()
            (lease.folder / HOLDER).write_text(json.dumps(_about(os.getpid())))
        except OSError:  # The disk is full, or it was taken while this process slept.
            lease.release()
            raise
        if _numbers(self.directory)[-1] > number:  # It was taken, and more, since the number was chosen.
            lease.release()
            return None
        for old in _numbers(self.directory)[:-1]:
            away = lease.folder / f".{old}"
            with suppress(FileNotFoundError):
                os.rename(self.directory / f"lease.{old}", away)
            shutil.rmtree(away, ignore_errors=True)
        return lease


def _numbers(directory: Path) -> list[int]:
    """Numbers of the leases that there are, ascending."""
    with suppress(FileNotFoundError):
        found = (_NAME.fullmatch(name) for name in os.listdir(directory))
        return sorted(int(match[1]) for match in found if match)
    return []


def _about(pid: int) -> dict[str, Any]:
    """What tells a process of this machine from all others: of one that has ended, the same without its
    start."""
    machine, began = socket.gethostname(), ""
    with suppress(OSError):
        # Containers share names and kernels; process ids mean something in one namespace only.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{machine} {boot} {os.readlink('/proc/self/ns/pid')}"
    with suppress(OSError):
        began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return {"host": socket.gethostname(), "pid": pid, "machine": machine, "began": began}


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with suppress(OSError):  # A zombie has ended.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
