"""Files of a run that go to another machine and come back."""

import os
from pathlib import Path

import pytest

from grokscope.errors import InputError, InUse
from grokscope.files import gated, write_json
from grokscope.runs.carried import Sender, receive
from grokscope.runs.directory import RESUME_STATE
from grokscope.runs.lease import Taker


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has saved step 5, and is at work."""
    place = tmp_path / "there"
    (place / "resume").mkdir(parents=True)
    (place / "traces" / "step_00000005.zarr").mkdir(parents=True)
    write_json(place / RESUME_STATE, {"step": 5})
    shard = "traces/step_00000005.zarr"
    saved = ("resume/step_00000005.safetensors", f"{shard}/a", f"{shard}/b", "metrics.jsonl")
    for name in (*saved, "lock", "progress.json"):
        (place / name).write_text(name)
    Taker(place).attempt()
    (next(place.glob("lease.1/*")) / ".draft.part").write_text("half")
    return place


def contents(place: Path) -> dict[str, bytes]:
    return {
        path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()
    }


def test_what_is_carried_is_the_run_without_who_works_on_it(run: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    sender = Sender(run)
    receive(here, *sender.changes())
    kept = {name for name in contents(run) if not name.startswith(("lease", "lock", "progress"))}
    assert contents(here) == {name: what for name, what in contents(run).items() if name in kept}
    assert set(sender.changes()[0]) == {RESUME_STATE}


def test_only_what_has_changed_comes_back_and_what_is_gone_goes(run: Path, tmp_path: Path) -> None:
    here, sender = tmp_path / "here", Sender(run)
    receive(here, *sender.changes())
    (run / "resume" / "step_00000009.safetensors").write_text("9")
    write_json(run / RESUME_STATE, {"step": 9})
    (run / "resume" / "step_00000005.safetensors").unlink()
    files, names = sender.changes()
    assert set(files) == {RESUME_STATE, "resume/step_00000009.safetensors"}
    receive(here, files, names)
    assert sorted(path.name for path in (here / "resume").iterdir()) == [
        "state.json",
        "step_00000009.safetensors",
    ]


def test_a_state_never_comes_without_its_tensors(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker saves once more between the look at the state and that at its tensors."""

    def saved(seconds: float) -> None:
        write_json(run / RESUME_STATE, {"step": 9})

    (run / "resume" / "step_00000005.safetensors").rename(run / "resume" / "step_00000009.safetensors")
    monkeypatch.setattr("grokscope.runs.carried.time.sleep", saved)
    files, _ = Sender(run).changes()
    assert b"9" in files[RESUME_STATE]
    assert "resume/step_00000009.safetensors" in files


def test_if_the_disk_is_full_the_state_before_stays(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, sender = tmp_path / "here", Sender(run)
    receive(here, *sender.changes())
    (run / "resume" / "step_00000009.safetensors").write_text("9")
    write_json(run / RESUME_STATE, {"step": 9})
    before, replace = contents(here), os.replace

    def full(source: Path, target: Path) -> None:
        if "step_00000009" in str(target):
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        receive(here, *sender.changes())
    assert contents(here) == before


def test_a_controller_that_was_taken_over_receives_nothing(run: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    lease = Taker(here).attempt()
    assert lease is not None
    lease.folder.parent.rename(tmp_path / "moved")
    with gated(here, lease.folder), pytest.raises(InUse, match="another worker has taken over"):
        receive(here, *Sender(run).changes())
    assert not contents(here)


@pytest.mark.parametrize("name", ["../a", "/a", "b/../../a"])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="must lie in"):
        receive(tmp_path / "here", {name: b""}, [])
