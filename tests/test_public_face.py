"""`import grokscope as gs` is enough: the README's example runs as it stands, and every name is there."""

import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

import grokscope as gs

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def example() -> str:
    (text,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    return text


@pytest.fixture(scope="module")
def names(example: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the example leaves."""
    found: dict[str, Any] = {}
    with chdir(tmp_path_factory.mktemp("notebook")):
        exec(example, found)
        return {**found, "run": gs.open(found["run"].directory.absolute())}


def test_it_is_short_and_needs_nothing_deeper(example: str) -> None:
    assert len(example.strip().splitlines()) - 1 <= 15  # beside the empty line
    assert re.findall(r"^.*import.*$", example, re.MULTILINE) == ["import grokscope as gs"]


def test_the_example_finds_and_exchanges_the_bridge(names: dict[str, Any]) -> None:
    run, found, moved = names["run"], names["found"], names["moved"]
    assert run.finished
    assert run.spec.training.steps == 200
    assert run.model().dtype == names["gs"].open(run.directory).model().dtype
    assert found.dims == moved.dims == ("stage", "position")
    assert list(found["stage"].values) == [stage.name for stage in run.model().stages]
    assert float(found.max()) > 5 / run.world.entities  # where it stands it is found, and not by chance
    assert float(found.sel(position=0).max()) < float(found.max()) / 2  # before r1 nobody can know it
    assert float(moved.max()) > 2 * float(moved.isel(stage=0).sel(position="2").max())
    assert run.verdict is not None


def test_a_finished_run_is_left_alone_and_other_settings_are_another_run(names: dict[str, Any]) -> None:
    run = names["run"]
    before = {path: path.stat().st_mtime_ns for path in run.directory.rglob("*") if path.is_file()}
    gs.train(run)
    assert {path: path.stat().st_mtime_ns for path in run.directory.rglob("*") if path.is_file()} == before
    other = gs.new(run.directory.parent, model={"kind": "looped", "width": 32})
    assert not other.begun
    assert other.directory != run.directory


def test_what_cannot_be_honoured_is_one_sentence() -> None:
    with pytest.raises(gs.InputError, match=r"unknown field 'world\.size'"):
        gs.new("runs", world={"size": 3})
    with pytest.raises(gs.InputError, match="regime 'none' is unknown"):
        gs.new("runs", "none")
    with pytest.raises(gs.InputError, match="unknown field 'modle'"):
        gs.new("runs", modle={"width": 32})
    with pytest.raises(gs.InputError, match=r"seeds = \[0, 1\]: is of a study"):
        gs.new("runs", seeds=[0, 1])


def test_every_name_is_there() -> None:
    assert {name for name in gs.__all__ if getattr(gs, name, None) is None} == set()
    with pytest.raises(AttributeError, match="'lense'"):
        _ = gs.lense
