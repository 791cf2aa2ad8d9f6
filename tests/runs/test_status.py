"""How a study stands is read from its directories, on whichever machine its workers are."""

import json
import os
from pathlib import Path

import pytest

from grokscope import cli
from grokscope.runs.directory import LOG, write_progress
from grokscope.runs.lease import HOLDER, LAPSE_SECONDS, Lease, Taker
from grokscope.runs.status import status_of
from grokscope.runs.study import Study
from tests.runs.tiny import begun, tiny_study

SEEN = {"doing": "training", "step": 6, "rate": 2.0, "host": "node7", "pid": 1}


def at_work(directory: Path) -> Lease:
    """A worker on another machine."""
    lease = Taker(directory).attempt()
    assert lease is not None
    about = json.loads((lease.folder / HOLDER).read_text())
    (lease.folder / HOLDER).write_text(json.dumps({**about, "machine": "another", "host": "node7"}))
    write_progress(directory, SEEN)
    return lease


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """One run at work, one whose worker was lost, one that failed, one that waits."""
    study = tiny_study(regimes=["natural", "both_hops_full"], seeds=[0, 1])
    work, lost, failed, _ = (one.directory for one in begun(study, tmp_path))
    at_work(work)
    silent = at_work(lost).folder / HOLDER
    beat = silent.stat().st_mtime - LAPSE_SECONDS - 10
    os.utime(silent, (beat, beat))
    (failed / LOG).write_text("compiling\nerror: it went wrong.\n")
    return tmp_path


def test_every_run_is_told_and_nothing_is_written(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert cli.main(["status", str(out)]) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines()[1:5]]
    assert rows == [
        ["natural-s0", "training", "node7", "6/8", "2.0", "0:00:01"],
        ["both_hops_full-s0", "lost", "node7", "0/8"],
        ["natural-s1", "failed", "0/8"],
        ["both_hops_full-s1", "waiting", "0/8"],
    ]
    assert "natural-s1 failed: it went wrong.\n" in said
    assert said.endswith(
        "0 of 4 done, 1 at work, 1 failed, 1 lost, 1 waiting; about 0:00:09 left at this rate.\n"
    )
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert cli.main(["status", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["seconds_left"] == 1.0


def test_a_watch_ends_when_nothing_is_at_work_or_waits(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        for one in Study.open(out).run_jobs:
            (one.directory / LOG).write_text("error: no.\n")
        for holder in out.glob(f"*/lease.1/*/{HOLDER}"):
            os.utime(holder, (0, 0))

    monkeypatch.setattr("grokscope.cli.status.time.sleep", look)
    assert cli.main(["status", str(out), "--watch"]) == 0
    assert len(looks) == 1
    assert [one.state for one in status_of(Study.open(out))] == ["lost", "lost", "failed", "failed"]


def test_what_is_no_study_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"error: there is no directory {tmp_path / 'none'}.\n"
