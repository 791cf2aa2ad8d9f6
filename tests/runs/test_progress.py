"""What is shown while a study runs comes from the run directories, and fits the terminal."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from grokscope.runs.directory import PROGRESS, write_progress
from grokscope.runs.plan import Planned
from grokscope.runs.progress import LiveTable, display, time_left
from grokscope.runs.spec import StudySpec
from tests.runs.tiny import plan_runs

STUDY = StudySpec.parse({"regimes": ["natural", "both_hops_full"], "training": {"steps": 100, "warmup": 1}})
SEEN = {"step": 40, "rate": 2.0, "doing": "training", "accuracy": {"test_ood": 0.123, "id_atomic": 0.987}}


@pytest.fixture
def runs(tmp_path: Path) -> list[Planned]:
    planned = plan_runs(STUDY, tmp_path)
    for run in planned:
        run.directory.mkdir()
    write_progress(planned[0].directory, SEEN)
    return planned


def shown(runs: list[Planned], width: int, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None)
    with display(runs, console) as table:
        table.state(runs[0], "starting")
        table.update()
        table.state(runs[1], "it went wrong")
        if isinstance(table, LiveTable):
            table.update(force=True)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_the_live_table_fits_and_shows_both_runs(runs: list[Planned], width: int) -> None:
    lines = shown(runs, width, terminal=True).splitlines()
    row = next(line for line in reversed(lines) if "natural-s0" in line)
    assert "training" in row
    assert "0.123" in row
    assert "0:00:30" in row
    assert "…" not in row
    assert ("0.987" in row) == (width == 160)
    assert any("both_hops_full-s0 failed: it went wrong" in line for line in lines)


def test_of_more_runs_than_lines_those_at_work_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, height=20, force_terminal=True, color_system=None)
    many = plan_runs(STUDY.replace(seeds=list(range(50))), tmp_path)
    with display(many, console) as table:
        table.state(many[7], "starting")
        table.state(many[8], "done")
    last = out.getvalue().rstrip().splitlines()[-5:]
    assert ["-s" in line for line in last].count(True) == 1
    assert any(many[7].name in line for line in last)
    assert any("1 done, 1 starting, 98 waiting" in line for line in last)


def test_without_a_terminal_there_are_plain_lines(
    runs: list[Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grokscope.runs.progress.LINE_SECONDS", 0.0)
    text = shown(runs, 40, terminal=False)
    assert "natural-s0: step 40/100, 2.0 steps/s, ID atoms 0.987, OOD queries 0.123, 0:00:30 left\n" in text
    assert "both_hops_full-s0: it went wrong\n" in text
    assert "\x1b" not in text


def test_a_damaged_progress_file_is_no_progress(runs: list[Planned]) -> None:
    (runs[0].directory / PROGRESS).write_text("{")
    assert "natural-s0" in shown(runs, 120, terminal=True)


def test_time_left_is_unknown_without_a_rate() -> None:
    assert time_left(json.loads('{"step": 5, "rate": null}'), 100) == ""
    assert time_left({"step": 0, "rate": 0.01}, 100) == "2:46:40"
