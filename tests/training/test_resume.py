"""A run that was killed, stopped or continued is the run that was not."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import polars as pl
import pytest
import torch

from grokscope.errors import InputError
from grokscope.kernels.library import plainly
from grokscope.training import checkpoint, keeper, writer
from grokscope.training.checkpoint import find_state, kept_steps, load_weights, weights_path
from grokscope.training.loop import train
from grokscope.training.member import Member
from grokscope.training.metrics import read_metrics
from grokscope.training.optim import TrainState
from grokscope.training.schedule import checkpoint_steps, ends, scheduled_steps, thin
from tests.training import tiny

ROOT = Path(__file__).parents[2]
STEPS = 200
LOOPS = {"loop_choices": (1, 2, 3)}


def contents(directory: Path) -> dict[str, object]:
    """Everything a run left, by file; metrics without the clock."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    folders = ("checkpoints/*", "seen/*", "resume/*.safetensors")
    files = [path for folder in folders for path in directory.glob(folder)]
    state = json.loads((directory / "resume/state.json").read_text())
    table = pl.read_parquet(directory / "metrics.parquet").drop("seconds")
    return {
        **{str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "metrics": [{name: value for name, value in line.items() if name != "seconds"} for line in lines],
        "table": table.rows(),
        "state": {name: value for name, value in state.items() if name != "seconds"},
    }


def start(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.training.tiny", str(directory), str(STEPS)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(directory: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a resume state of at least `step` is there, or the process has ended."""
    while process.poll() is None:
        path = directory / "resume/state.json"
        if path.exists() and json.loads(path.read_text())["step"] >= step:
            return
        time.sleep(0.002)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing happened to."""
    directory = tmp_path_factory.mktemp("straight")
    tiny.run(directory, steps=STEPS, **LOOPS)
    return contents(directory)


def test_kill_minus_nine_leaves_no_trace(tmp_path, straight):
    draw = random.Random(os.getpid())
    for moment in (0, draw.randrange(1, 80), draw.randrange(80, 150)):
        process = start(tmp_path)
        wait_for_step(tmp_path, moment, process)
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    tiny.run(tmp_path, steps=STEPS, **LOOPS)
    assert contents(tmp_path) == straight


def test_a_signal_saves_the_step_and_says_how_to_go_on(tmp_path, straight):
    process = start(tmp_path)
    wait_for_step(tmp_path, 60, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 75
    progress = find_state(tmp_path)
    assert progress is not None
    assert f"SIGTERM: stopped and saved at step {progress.step} of {STEPS}" in said
    assert "run the same command again" in said
    tiny.run(tmp_path, steps=STEPS, **LOOPS)
    assert contents(tmp_path) == straight


def dying(original, before):
    """A function whose process dies when it is called, or when it has done its work."""

    def call(*args, **settings):
        if not before:
            original(*args, **settings)
        raise KeyboardInterrupt

    return call


def test_a_process_that_dies_anywhere_in_a_save_does_it_again(tmp_path, straight, monkeypatch):
    places = [
        (keeper, "save_weights", True),
        (keeper, "save_weights", False),
        (keeper, "save_state", True),
        (checkpoint, "write_tensors", False),
        (checkpoint, "write_json", True),
        (checkpoint, "_remove_others", True),
        (keeper, "forget_weights", True),
    ]
    tiny.run(tmp_path, steps=32, **LOOPS)
    for module, name, before in places:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, dying(getattr(module, name), before))
            with pytest.raises(KeyboardInterrupt):
                tiny.run(tmp_path, steps=STEPS, **LOOPS)
    tiny.run(tmp_path, steps=STEPS, **LOOPS)
    assert contents(tmp_path) == straight
    assert not list(tmp_path.rglob("*.part"))


def test_more_steps_continue_a_finished_run(tmp_path, straight):
    tiny.run(tmp_path, steps=77, **LOOPS)
    assert 77 not in checkpoint_steps(tiny.spec(steps=STEPS))
    tiny.run(tmp_path, steps=STEPS, **LOOPS)
    left = contents(tmp_path)
    assert set(left) - set(straight) == {"checkpoints/step_00000077.safetensors", "seen/00000077.txt"}
    without = [line for line in left["metrics"] if line["step"] != 77]
    assert without == straight["metrics"]
    assert all(left[name] == straight[name] for name in straight if name not in ("metrics", "table"))


def test_a_finished_run_is_left_alone_and_fewer_steps_are_refused(tmp_path):
    first = tiny.run(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "metrics.parquet").unlink()
    again = tiny.run(tmp_path)
    assert contents(tmp_path) == before
    assert again.metrics.equals(first.metrics)
    with pytest.raises(InputError, match=r"training\.steps = 39: .*already has 40"):
        tiny.run(tmp_path, steps=39)


def test_a_run_can_end_where_it_was_interrupted(tmp_path, monkeypatch):
    """Its last state is then off the schedule, and the last step still gets its checkpoint."""
    with monkeypatch.context() as patch:
        patch.setattr(keeper.Keeper, "check", dying(None, True))
        with pytest.raises(KeyboardInterrupt):
            tiny.run(tmp_path, steps=100, resume_every=7)
    progress = find_state(tmp_path)
    assert progress is not None
    assert progress.step == 49
    end = tiny.run(tmp_path, steps=49, resume_every=7)
    assert end.metrics["step"].to_list()[-2:] == [45, 49]


def test_same_seeds_same_bytes_other_seeds_other_bytes(tmp_path, monkeypatch):
    tiny.run(tmp_path / "a")
    tiny.run(tmp_path / "b")
    monkeypatch.setattr(tiny, "SEEDS", tiny.SEEDS.replace(order=4))
    tiny.run(tmp_path / "c")
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    last = "checkpoints/step_00000040.safetensors"
    assert a[last] != c[last]


def test_the_model_holds_the_average_that_is_kept(tmp_path):
    wanted = tiny.spec()
    model = tiny.model()
    train(
        Member(model, tiny.data(), tiny.probes(), wanted, tiny.SEEDS, tmp_path), threads=1, say=lambda _: None
    )
    other = tiny.model()
    load_weights(weights_path(tmp_path, 40), other)
    tokens = tiny.data().tokens_NS[:50].long()
    assert torch.equal(model(tokens), other(tokens))
    assert not torch.equal(model(tokens), tiny.model()(tokens))


def test_keep_thins_weights_and_nothing_else(tmp_path):
    most = {"keep": 4, "steps": 100}
    tiny.run(tmp_path, **most)
    marks = checkpoint_steps(tiny.spec(**most))
    assert read_metrics(tmp_path)["step"].to_list() == marks
    assert [int(path.stem) for path in sorted((tmp_path / "seen").iterdir())] == marks
    assert kept_steps(tmp_path) == sorted({*thin([s for s in marks if s != 100], 4), 100})
    # Continuing keeps what the longer run made at once keeps, and the old end.
    tiny.run(tmp_path, keep=4, steps=300)
    tiny.run(tmp_path / "once", keep=4, steps=300)
    assert set(kept_steps(tmp_path)) - {100} == set(kept_steps(tmp_path / "once"))


def test_what_is_written_is_the_state_when_it_was_saved(tmp_path, straight, monkeypatch):
    """Files are written while the next steps change the state, so a save without a copy writes those."""
    steps_meanwhile = []
    runs: list[keeper.Keeper] = []

    def slow(original):
        def call(*args):
            before = runs[-1].step
            time.sleep(0.01)
            original(*args)
            steps_meanwhile.append(runs[-1].step - before)

        return call

    begin = keeper.Keeper.begin
    monkeypatch.setattr(
        keeper.Keeper, "begin", lambda self, progress: (runs.append(self), begin(self, progress))
    )
    monkeypatch.setattr(keeper, "save_weights", slow(keeper.save_weights))
    monkeypatch.setattr(keeper, "save_state", slow(keeper.save_state))
    tiny.run(tmp_path, steps=STEPS, **LOOPS)
    assert contents(tmp_path) == straight
    assert max(steps_meanwhile) > 0, "the loop stood still"


def test_what_a_library_left_of_a_killed_process_goes(tmp_path):
    """safetensors writes beside the file that it was asked for: both lie in a folder of the draft."""
    tiny.run(tmp_path, steps=4)
    for place in ("resume/.step_00000004.safetensors", "checkpoints/.step_00000004.safetensors"):
        left = tmp_path / f"{place}.77.part"
        left.mkdir()
        (left / ".tmpA1b2C3").write_bytes(b"half a state")
    tiny.run(tmp_path, steps=6)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("large", [0, 1 << 24])
@pytest.mark.parametrize("way", [nullcontext, plainly])
def test_a_state_is_copied_whole(monkeypatch, checked, large, way):
    """In one thread or in shares of several, with the averages copied before or not, twice."""
    monkeypatch.setattr(writer, "LARGE", large)
    part = {f"t{i}": torch.full((i + 1, 3), float(i)) for i in range(11)}
    state = TrainState(part, {}, {"v": torch.ones(5)}, {name: t + 0.5 for name, t in part.items()}, {})
    sums = torch.zeros(2, dtype=torch.float64)
    with way():
        snapshot = writer.Snapshot(state, sums)
    for _ in range(2):
        for tensors in state:
            for tensor in tensors.values():
                tensor += 7
        sums += 1
        assert not checked or snapshot.copy_average() is None
        snapshot.begin()
        snapshot.end()
        for wanted, got in zip(state, snapshot.on_host()[0], strict=True):
            assert wanted.keys() == got.keys()
            assert all(torch.equal(wanted[name], got[name]) for name in wanted)
        assert torch.equal(snapshot.sums, sums)
    state.ema["t7"][3, 1] = torch.nan
    assert snapshot.copy_average() == "t7"
    state.ema["t7"][3, 1] = 1.0
    snapshot.begin()
    snapshot.end()
    assert torch.equal(snapshot.state.ema["t7"], state.ema["t7"])
    snapshot.close()


def test_an_error_of_the_writer_stops_the_run_and_no_later_job_begins():
    thread, done = writer.Writer(), []

    def failing():
        raise OSError("disk")

    thread.submit(failing)
    with pytest.raises(OSError, match="disk"):
        thread.submit(lambda: done.append(1))
    thread.wait()
    assert not done
    thread.submit(lambda: done.append(2))
    thread.wait()
    assert done == [2]
    thread.close()


def test_a_run_that_has_reached_what_it_is_to_reach_ends_and_goes_on_when_asked(tmp_path, straight):
    rows = straight["metrics"]
    level = rows[-4]["accuracy"]["id_atomic"]
    reached = [row["accuracy"]["id_atomic"] >= level for row in rows]
    end = next(row["step"] for i, row in enumerate(rows) if i and reached[i - 1] and reached[i])
    assert 0 < end < STEPS
    rule = {"until": {"id_atomic": level}, "until_checkpoints": 2}
    assert tiny.run(tmp_path, steps=STEPS, **rule, **LOOPS).step == end
    assert contents(tmp_path)["metrics"] == [row for row in rows if row["step"] <= end]
    again = tiny.run(tmp_path, steps=STEPS, **rule, **LOOPS)
    assert (again.step, again.checkpoints[-1]) == (end, end)
    tiny.run(tmp_path, steps=STEPS, **LOOPS)
    assert contents(tmp_path) == straight


def test_lines_off_the_schedule_do_not_end_a_run(tmp_path):
    """A run that is continued from an odd step ends where one does that was made at once."""
    spec = tiny.spec(steps=40, until={"id_atomic": 0.5}, until_checkpoints=2)
    first, second, third = scheduled_steps(spec, 40)[-3:]
    row = [{"step": first, "accuracy": {"id_atomic": 0.1}}, {"step": second, "accuracy": {"id_atomic": 0.9}}]
    off = [{"step": second + 1, "accuracy": {"id_atomic": 0.9}}]
    assert not ends(spec, [*row, *off])
    assert ends(spec, [*row, *off, {"step": third, "accuracy": {"id_atomic": 0.5}}])


def test_probes_that_nobody_evaluates_end_nothing_and_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"training\.until = 'tests_ood': .* id_atomic"):
        tiny.run(tmp_path, steps=4, until={"tests_ood": 0.9})
