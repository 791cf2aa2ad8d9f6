"""Who may read what is written, and what is said of a file that cannot be read."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import grokscope
from grokscope.errors import InputError, quoted, shortened
from grokscope.files import read_json, read_text, whole, write_json
from grokscope.mechanics.read.traces import shards
from grokscope.models.tensor_file import read_safetensors, write_tensors
from grokscope.spec import read_yaml
from grokscope.training.checkpoint import kept_steps


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_the_umask_decides_whatever_a_library_does(tmp_path: Path, umask: int) -> None:
    """safetensors makes its files readable for their owner alone."""
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
        with whole(tmp_path / "folder") as draft:
            draft.mkdir(mode=0o700)
            save_file({"x": torch.zeros(2)}, draft / "b.safetensors")
    finally:
        os.umask(before)
    for path in (tmp_path / "a.safetensors", tmp_path / "folder" / "b.safetensors"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize("named", ["folder/x.json", "x.json"])
def test_what_may_not_be_written_is_named_and_not_its_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    def mkdir(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)  # root may write anywhere
    with pytest.raises(PermissionError) as error:
        write_json(tmp_path / named, {})
    assert error.value.filename == str(tmp_path / named)


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert kept_steps(tmp_path) == []
    assert shards(tmp_path / "traces") == {}

    def forbidden(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", forbidden)
    with pytest.raises(InputError, match=r"folder of checkpoints at .* cannot be read: permission denied"):
        kept_steps(tmp_path)
    monkeypatch.setattr(Path, "exists", forbidden)
    with pytest.raises(InputError, match=r"cannot be read: permission denied"):
        grokscope.open(tmp_path)


def tensors(path: Path) -> object:
    return read_safetensors(path, "thing")


def text(path: Path) -> object:
    return read_text(path, "thing")


def parsed(path: Path) -> object:
    return read_json(path, "thing")


def mapping(path: Path) -> object:
    return read_yaml(path, "thing")


@pytest.fixture
def files(tmp_path: Path) -> dict[Callable[[Path], object], Path]:
    save_file({"x": torch.zeros(64)}, tmp_path / "t.safetensors")
    write_json(tmp_path / "t.json", {"x": [1, 2, 3]})
    (tmp_path / "t.yaml").write_text("x: [1, 2, 3]\n")
    (tmp_path / "t.txt").write_text("x\n")
    names = {tensors: "t.safetensors", parsed: "t.json", mapping: "t.yaml", text: "t.txt"}
    return {read: tmp_path / name for read, name in names.items()}


READERS = [tensors, parsed, mapping, text]


@pytest.mark.parametrize("read", READERS)
def test_missing_forbidden_empty_cut_off_and_damaged_are_five_sentences(
    files: dict[Callable[[Path], object], Path],
    read: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = files[read]
    whole_file = path.read_bytes()
    said = {}

    def now(word: str, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            read(path)
        said[word] = str(error.value)

    now("empty", b"")
    if read in (tensors, parsed):
        now("cut off", whole_file[:-3])
        now("damaged", whole_file[:9] + b"\xff" * 9 + whole_file[18:] if read is tensors else b"{1}")
    now("Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    now("HTML", b"\n<!DOCTYPE html>\n<html lang='en'>")
    path.unlink()
    with pytest.raises(InputError) as error:
        read(path)
    said["there is no"] = str(error.value)
    path.mkdir()
    with pytest.raises(InputError) as error:
        read(path)
    said["directory"] = str(error.value)
    path.rmdir()

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    path.write_bytes(whole_file)
    path.chmod(0o600)
    monkeypatch.setattr(Path, "read_bytes", forbidden)  # root may read everything
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(InputError) as error:
        read(path)
    said["permission denied, its mode is 0600"] = str(error.value)
    for word, sentence in said.items():
        assert word in sentence
        assert str(path) in sentence
        assert "\n" not in sentence
        cause = sentence.replace(str(path), "")
        assert not any(other in cause for other in said if other != word)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("read", READERS[1:])
def test_marked_texts_are_read_alike_everywhere(
    files: dict[Callable[[Path], object], Path], read: Callable[[Path], object], encoding: str
) -> None:
    path = files[read]
    plain = read(path)
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    found = read(path)
    assert (found.replace("\r\n", "\n") if isinstance(found, str) else found) == plain
    for content, words in [
        ("x: é".encode("latin-1"), "UTF-8 text"),
        ("{}".encode("utf-16-le"), "UTF-16 without"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            read(path)


def test_a_sentence_is_no_copy_of_a_file(tmp_path: Path) -> None:
    long = "x" * 10_000
    assert len(quoted(long)) <= 60
    assert len(quoted([long])) <= 60
    assert len(shortened(long)) <= 80
    assert quoted("short") == "'short'"
    assert shortened("two\nlines") == "two lines"
    for tree in ({long: long}, {"training": {long: 1}}, {"name": [long]}):
        (tmp_path / "s.json").write_text(json.dumps(tree))
        from grokscope.runs.files import load_study

        with pytest.raises(InputError) as error:
            load_study(str(tmp_path / "s.json"))
        assert len(str(error.value).replace(str(tmp_path), "")) < 300
