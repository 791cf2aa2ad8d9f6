"""One writer per directory, whatever clocks, locks, disks and sleeping workers do."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grokscope.errors import InUse
from grokscope.files import gated, remove, whole, write_text
from grokscope.runs import lease
from grokscope.runs.directory import check_unlocked, locked
from grokscope.runs.lease import HOLDER, LAPSE_SECONDS, WATCH_SECONDS, Lease, Taker, holder_of
from grokscope.training.metrics import MetricsFile

HOUR = 3600.0
ROW = {"step": 0, "seconds": 0.0, "loss": 1.0, "lr": 0.1, "accuracy": {}}


class Clock:
    """Of the machine that watches."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(directory: Path) -> Lease:
    found = Taker(directory).attempt()
    assert found is not None
    return found


def elsewhere(held: Lease, ago: float = 0.0) -> Lease:
    """As if its holder were another machine, heard of last so many seconds ago."""
    path = held.folder / HOLDER
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "another", "host": "node7"}))
    beat = path.stat().st_mtime - ago
    os.utime(path, (beat, beat))
    return held


def test_a_stalled_worker_that_wakes_after_its_lease_was_taken_changes_nothing(tmp_path: Path) -> None:
    """It stalls before a file, in the middle of one, before one is removed, and with one open."""
    write_text(tmp_path / "state.json", "old")
    metrics = MetricsFile(tmp_path)
    metrics.append(ROW)
    stalled, clock = elsewhere(taken(tmp_path), ago=HOUR), Clock()
    with gated(tmp_path, stalled.folder):
        writing = whole(tmp_path / "state.json")
        writing.__enter__().write_text("stale")
        taker = Taker(tmp_path, clock=clock)
        assert taker.attempt() is None
        clock.now += WATCH_SECONDS
        fresh = taker.attempt()
        assert fresh is not None
        assert fresh.number == 2
        before = sorted(tmp_path.rglob("*"))
        for change in (
            lambda: writing.__exit__(None, None, None),
            lambda: write_text(tmp_path / "state.json", "stale"),
            lambda: remove(tmp_path / "state.json"),
            lambda: metrics.append({**ROW, "step": 1}),
        ):
            with pytest.raises(
                InUse, match=r"^another worker has taken over [^\n]*; this one writes nothing more\.$"
            ):
                change()
    assert not stalled.beat()
    stalled.release()
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "state.json").read_text() == "old"
    assert len(metrics.rows()) == 1
    with gated(tmp_path, fresh.folder):
        write_text(tmp_path / "state.json", "new")
        remove(tmp_path / "metrics.jsonl")
    fresh.release()
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps_takes_no_lease_from_a_living_worker(tmp_path: Path, jump: float) -> None:
    """The first look after the jump finds an old (or a future) heartbeat; the next beat mends it."""
    held, clock = elsewhere(taken(tmp_path), ago=jump), Clock()
    taker = Taker(tmp_path, clock=clock)
    assert taker.attempt() is None
    assert taker.watching
    clock.now += WATCH_SECONDS - 1
    assert held.beat()
    clock.now += 1
    assert taker.attempt() is None
    assert not taker.watching


def test_a_heartbeat_that_moves_is_watched_anew_however_old_it_is(tmp_path: Path) -> None:
    """The disk's clock is set back again and again; or its stamps come late."""
    held, clock = elsewhere(taken(tmp_path), ago=HOUR), Clock()
    taker = Taker(tmp_path, clock=clock)
    for late in (9, 8, 7):
        elsewhere(held, late * LAPSE_SECONDS)
        assert taker.attempt() is None
        clock.now += WATCH_SECONDS


def test_of_a_process_that_died_here_nothing_is_waited_for(tmp_path: Path) -> None:
    code = "import sys, pathlib, grokscope.runs.lease as one; one.Taker(pathlib.Path(sys.argv[1])).attempt()"
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    check_unlocked(tmp_path)
    assert taken(tmp_path).number == 2
    elsewhere(Lease(2, next(tmp_path.glob("lease.2/*"))))
    with pytest.raises(InUse, match=r"in use by another process \(pid \d+ on node7\)"):
        check_unlocked(tmp_path)


def test_a_number_that_was_passed_while_its_taker_slept_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It chose number 1, and slept while 1 came and went and 2 was taken."""
    (tmp_path / "lease.2" / "other").mkdir(parents=True)
    (tmp_path / "lease.2" / "other" / HOLDER).write_text("{}")
    found, looks = lease._numbers, iter([[], []])
    monkeypatch.setattr(lease, "_numbers", lambda directory: next(looks, found(directory)))
    assert Taker(tmp_path).attempt() is None
    assert [path.name for path in tmp_path.iterdir()] == ["lease.2"]


def test_where_file_locks_lie_there_is_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda handle, how: None)
    with locked(tmp_path):
        for _ in range(2):
            with pytest.raises(InUse, match=f"pid {os.getpid()} on "), locked(tmp_path):
                pass
        write_text(tmp_path / "a", "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "lock"]
    with locked(tmp_path):
        assert (held := holder_of(tmp_path)) is not None
        assert held.number == 2


@pytest.mark.parametrize("full", [1, 2])
def test_on_a_full_disk_no_lease_is_half_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int
) -> None:
    made, calls = os.mkdir, iter(range(9))

    def mkdir(path: Path, mode: int = 0o777) -> None:
        if next(calls) + 1 == full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        made(path, mode)

    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", mkdir)
        with pytest.raises(OSError, match="No space left"):
            Taker(tmp_path).attempt()
    assert not list(tmp_path.iterdir())
    held = taken(tmp_path)
    monkeypatch.setattr(os, "utime", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    assert held.beat()
