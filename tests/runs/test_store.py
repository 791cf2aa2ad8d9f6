"""A study that is kept at a URL too: what is lost here goes on from there, whatever cut the writer off."""

import json
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from grokscope.errors import InputError
from grokscope.runs.execute import run_study
from grokscope.runs.spec import StudySpec
from grokscope.runs.store import FIXED, INDEX, LAST, Store
from grokscope.runs.study import Study
from tests.runs.test_execution import contents
from tests.runs.tiny import begun, do_here, tiny_study


def study(steps: int = 16, **execution: Any) -> StudySpec:
    return tiny_study(
        regimes=["natural"], causal={"enabled": False}, execution=execution,
        training={"steps": steps, "first_checkpoint": 4, "dense_every": 4, "resume_every": 3},
    )  # fmt: skip


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended after 8 steps."""
    out = tmp_path_factory.mktemp("half") / "tiny"
    do_here(begun(study(8), out)[0].directory)
    return out


@pytest.fixture(scope="module")
def whole(half: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, continued to 16."""
    out = Path(shutil.copytree(half, tmp_path_factory.mktemp("whole") / "tiny"))
    do_here(begun(study(), out)[0].directory)
    return out


def the_run(out: Path) -> Path:
    return next(out.glob("natural-s0-*"))


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_what_is_lost_here_comes_back(tmp_path: Path, whole: Path, kind: str) -> None:
    url = {"folder": str(tmp_path / "there"), "memory": "memory://lab/mine"}[kind]
    said: list[str] = []
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    run_study(study(store=url), out, say=said.append)
    shutil.rmtree(out)
    done = run_study(study(store=url), out, say=said.append)
    assert said[-2:] == ["from the store: 1 of 1 jobs", "natural-s0: done"]
    assert done.runs["natural-s0"].finished
    assert contents(the_run(out)) == contents(the_run(whole))
    if kind == "folder":
        assert Study.open(tmp_path / "there").runs["natural-s0"].finished, "it can be read where it lies"


def test_whenever_the_writer_is_cut_off_what_is_there_goes_on_to_the_same_bytes(
    tmp_path: Path, half: Path, whole: Path
) -> None:
    """Before every change of the store in turn: from nothing to 8 steps, and from there to 16."""
    for before, after in ((None, half), (half, whole)):
        kept: list[str] = []
        put(before, after, kept, None)
        for number in middles(kept)[: None if before else 2]:  # the beginning of a run is as good as none
            put(before, after, [], number)
            out = tmp_path / f"{after.parent.name}-{number}"
            directory = out / the_run(after).name
            Store("memory://m", out, print).fetch([directory])
            do_here(begun(study(), out)[0].directory)
            assert contents(directory) == contents(the_run(whole)), f"cut off before {kept[number]}"
            assert Store("memory://m", after, print).keep(the_run(after)), (
                "the next one sends what is missing"
            )
            again = tmp_path / f"{out.name}-again" / directory.name
            Store("memory://m", again.parent, print).fetch([again])
            assert contents(again) == contents(the_run(after)), f"cut off before {kept[number]}"


def middles(kept: list[str]) -> list[int]:
    """Of changes that are alike and follow one another, the one in the middle."""
    alike = [
        [place for place, _ in some] for _, some in groupby(enumerate(kept), lambda one: kind_of(one[1]))
    ]
    return [some[len(some) // 2] for some in alike]


def kind_of(path: str) -> str:
    name = path.split("/", 3)[-1]
    return "fixed" if name.startswith(FIXED) else name if name in (INDEX, *LAST) else "changing"


def put(before: Path | None, after: Path, kept: list[str], cut: int | None) -> None:
    """Put a run into an empty store, or into one that has it as it was before; cut off after some changes."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    if before is not None:
        assert Store("memory://m", before, print).keep(the_run(before))
    with pytest.MonkeyPatch.context() as patched:
        for name, place in (("put_file", 2), ("pipe_file", 1), ("rm_file", 1)):
            patched.setattr(MemoryFileSystem, name, ends(getattr(MemoryFileSystem, name), place, kept, cut))
        assert Store("memory://m", after, lambda _: None).keep(the_run(after)) == (cut is None)


def ends(real: Any, place: int, kept: list[str], cut: int | None) -> Any:
    """An operation that notes what it changes, and does so as long as some changes are left."""

    def operation(*given: Any, **named: Any) -> Any:
        if cut is not None and len(kept) >= cut:
            raise OSError("the line is dead")
        kept.append(given[place])
        return real(*given, **named)

    return operation


def test_a_store_that_is_away_for_a_while_is_said_once(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    one = Store("memory://away", whole, said.append)
    with monkeypatch.context() as patched:
        patched.setattr(MemoryFileSystem, "put_file", ends(None, 2, [], 0))
        assert not one.keep(the_run(whole))
        assert not one.keep(the_run(whole))
    assert one.keep(the_run(whole))
    assert said == [
        "the store memory://away takes no files (OSError: the line is dead); trying again",
        "the store takes files again",
    ]


def test_a_bucket_that_does_not_exist_is_not_taken_for_a_file_that_has_gone_here(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_file(*_: Any) -> None:
        raise FileNotFoundError("The specified bucket does not exist")

    said: list[str] = []
    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    assert not Store("memory://bucket", whole, said.append).keep(the_run(whole))
    assert "The specified bucket does not exist" in said[0]


@pytest.mark.parametrize("url", ["nowhere://x", "http://[x/y"])
def test_a_url_that_cannot_be_used_is_one_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"^execution\.store = .*[^\n]*$"):
        run_study(study(store=url), tmp_path / "out", say=lambda _: None)


@pytest.mark.parametrize(
    "index", [b"no", b"[]", b'{"files": ["../../x"]}', b'{"files": ["/x"]}', b'{"files": 3}']
)
def test_a_foreign_index_writes_nothing(tmp_path: Path, whole: Path, index: bytes) -> None:
    one = Store("memory://bad", whole, print)
    one.keep(the_run(whole))
    at = f"/bad/{the_run(whole).name}"
    MemoryFileSystem().pipe_file(f"{at}/{INDEX}", index)
    out = tmp_path / "out"
    with pytest.raises(InputError):
        Store("memory://bad", out, print).fetch([out / the_run(whole).name])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_files_that_have_gone_here_go_there(tmp_path: Path, half: Path, whole: Path) -> None:
    one = Store(str(tmp_path / "there"), half, print)
    assert one.keep(the_run(half))
    old = {path.name for path in (tmp_path / "there").rglob("resume/step_*")}
    assert Store(str(tmp_path / "there"), whole, print).keep(the_run(whole))
    new = {path.name for path in (tmp_path / "there").rglob("resume/step_*")}
    assert old.isdisjoint(new)
    assert new == {path.name for path in whole.rglob("resume/step_*")}
    named = json.loads((tmp_path / "there" / the_run(whole).name / INDEX).read_text())["files"]
    assert all((tmp_path / "there" / the_run(whole).name / name).exists() for name in named)
