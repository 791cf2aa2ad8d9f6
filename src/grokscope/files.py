"""Files are written whole or not at all, and what cannot be read is said for what it is.

A directory can have a gate: its files are put in place and taken away through one folder only, and whoever
moves that folder away stops its owner for good, however late that one wakes (`gated`).

A file that is missing, may not be read, is empty, is cut off or is damaged: five sentences.
"""

import codecs
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grokscope.errors import InputError, InUse

if TYPE_CHECKING:
    import polars as pl


SYNCED = 16
"""Files that the disk is asked to keep at a time."""
_gates: dict[str, Path] = {}
"""By absolute directory, the folder that all changes of its files pass through."""


@contextmanager
def gated(directory: Path, folder: Path) -> Iterator[None]:
    """Let this process change the files of `directory` only through `folder`, which lies in it.

    A draft is renamed from there to its place, what is removed is renamed into it: each fails as soon as the
    folder is gone, so that nothing can be written between a look at who may write and the writing.
    """
    key = os.path.abspath(directory)
    _gates[key] = folder
    try:
        yield
    finally:
        del _gates[key]


def _gate_of(path: Path) -> Path | None:
    if not _gates:
        return None
    place = Path(os.path.abspath(path))
    return next((_gates[str(above)] for above in place.parents if str(above) in _gates), None)


@contextmanager
def _passing(gate: Path | None) -> Iterator[None]:
    """Say what an error means where the gate is gone."""
    try:
        yield
    except Exception:
        if gate is None or gate.is_dir():
            raise
        raise InUse(
            f"another worker has taken over {gate.parents[1]} because this one was not heard of for too "
            "long; this one writes nothing more."
        ) from None


def check_gate(path: Path) -> None:
    """Raise `InUse` if the directory of a file that is open for appending was taken over."""
    if (gate := _gate_of(path)) is not None:
        with _passing(gate):
            gate.stat()


@contextmanager
def whole(path: Path, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path near `path`; when the block ends well it is synced and renamed to `path`.

    Works for files and directories (an existing directory is replaced). If the block fails, for example on a
    full disk, nothing is left behind and `path` is what it was. A process that is killed leaves a folder
    `.NAME.PID.part` beside it (or in the gate), and nothing else: libraries put files of their own beside
    what they write.

    Args:
        path: the place.
        sync: whether it must survive a machine that loses power.

    Raises:
        InUse: another worker has taken over the directory.
    """
    gate = _gate_of(path)
    own = f".{path.name}.{os.getpid()}.part"
    folder = path.with_name(own) if gate is None else gate / f"{own}.{threading.get_ident()}"
    draft = folder / path.name
    with _passing(gate):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _delete(folder)
            folder.mkdir()
        except OSError as error:  # of a draft nobody has heard
            raise OSError(error.errno, error.strerror, str(path)) from None
        try:
            yield draft
            parts = [draft, *sorted(draft.rglob("*"))]
            for part in parts:
                part.chmod(part.stat().st_mode | folder.stat().st_mode & (0o777 if part.is_dir() else 0o666))
            if sync:
                _sync([part for part in parts if part.is_file()])
            if path.is_dir():
                remove(path)
            os.replace(draft, path)
        finally:
            _delete(folder)


def _sync(files: Sequence[Path]) -> None:
    """Wait until the disk has files. Asked for at once, the many of a trace share its commits."""

    def one(file: Path) -> None:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())

    if len(files) == 1:
        one(files[0])
        return
    with ThreadPoolExecutor(SYNCED) as threads:
        list(threads.map(one, files))


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_parquet(path: Path, frame: "pl.DataFrame") -> None:
    """Write a table as Parquet; a full disk is the `OSError` it is, not an error of the format."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    path.write_bytes(buffer.getbuffer())


@contextmanager
def parquet(path: Path, what: str) -> Iterator[io.BytesIO]:
    """The bytes of a Parquet file, to be read with polars inside the block.

    Raises:
        InputError: the file cannot be read, or what is done inside fails.
    """
    import polars as pl

    data = read_bytes(path, what)
    if data.startswith(b"PAR1") and not data[4:].endswith(b"PAR1"):
        raise InputError(f"the {what} at {path} is cut off: it lacks the end of a Parquet file.")
    try:
        yield io.BytesIO(data)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the {what} at {path} is damaged: it is not Parquet.") from None


def write_json(path: Path, tree: Any) -> None:
    """Write JSON (indented, NaN forbidden) whole or not at all."""
    write_text(path, json.dumps(tree, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, what: str = "file") -> Any:
    """Read JSON.

    Raises:
        InputError: the file cannot be read, or is not JSON; the sentence says `what` it should have been.
    """
    return parse_json(read_text(path, what), path, what)


def parse_json(text: str, path: Path, what: str) -> Any:
    """The value of a JSON text that was read from `path`.

    Raises:
        InputError: it is not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            raise InputError(f"the {what} at {path} is cut off: its JSON has no end.") from None
        raise InputError(f"the {what} at {path} is damaged, it is not JSON: {error}.") from None
    except RecursionError:
        raise InputError(f"the {what} at {path} is damaged: its JSON is nested too deep.") from None
    except ValueError:  # of numbers with thousands of digits
        raise InputError(f"the {what} at {path} is damaged: a number in its JSON is too long.") from None


def read_text(path: Path, what: str) -> str:
    """Read a text: UTF-8, or what the mark at its start says.

    Raises:
        InputError: the file cannot be read, is empty, or is no text.
    """
    data = read_bytes(path, what)
    encoding = text_encoding(data, path, what)
    with decoding(path, what):
        return data.decode(encoding)


def read_bytes(path: Path, what: str) -> bytes:
    """Read a file that holds something.

    Raises:
        InputError: it is missing, may not be read, is a directory, or is empty.
    """
    with reading(path, what):
        data = path.read_bytes()
    if not data:
        raise InputError(f"the {what} at {path} is empty.")
    return data


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Say what the file system answers while `path` is read.

    Raises:
        InputError: it is missing, may not be read, is a directory, or the disk fails.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no {what} at {path}.") from None
    except IsADirectoryError:
        raise InputError(f"the {what} at {path} is a directory, it must be a file.") from None
    except PermissionError:
        raise InputError(f"the {what} at {path} cannot be read: permission denied{_mode(path)}.") from None
    except OSError as error:
        raise InputError(f"the {what} at {path} cannot be read: {error.strerror or error}.") from None


def exists(path: Path, what: str) -> bool:
    """Whether something is at `path`.

    Raises:
        InputError: not even that may be asked.
    """
    with reading(path, what):
        return path.exists()


def names_in(directory: Path, what: str) -> list[str]:
    """What a directory holds, sorted by name; nothing where there is none.

    Raises:
        InputError: it may not be read.
    """
    with reading(directory, what):
        return sorted(os.listdir(directory)) if directory.is_dir() else []


def _mode(path: Path) -> str:
    """The mode of a file that may not be read, or nothing where not even that may be asked."""
    with suppress(OSError):
        return f", its mode is {path.stat().st_mode & 0o777:04o}"
    return ""


MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Marks at the start of a text, and what they say of it. That of UTF-32 begins with that of UTF-16."""


def text_encoding(head: bytes, path: Path, what: str) -> str:
    """The encoding of a text by its first bytes: what its mark says; without one, UTF-8.

    Raises:
        InputError: these are no first bytes of a text.
    """
    if kind := kind_of(head):
        raise InputError(f"the {what} at {path} is {kind}.")
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    if marked is None and b"\0" in head[:SAMPLE]:
        raise InputError(f"the {what} at {path} is no text, or UTF-16 without the mark that says so.")
    return marked or "utf-8"


SAMPLE = 512
"""Bytes at the start of a file that are looked at for what it is."""


@contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Say which bytes of `path` are no text.

    Raises:
        InputError: there are such bytes.
    """
    try:
        yield
    except UnicodeError as error:
        name = error.encoding.upper() if isinstance(error, UnicodeDecodeError) else "UTF-16 or UTF-32"
        raise InputError(
            f"the {what} at {path} is not {name} text: write it as UTF-8, or with the mark of its encoding."
        ) from None


KINDS = (
    (b"version https://git-lfs.github.com/spec/",
     "a Git LFS pointer: the file itself has not been fetched (git lfs pull)"),
    (b"PAR1", "a Parquet file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "compressed with gzip: unpack it"),
    (b"BZh", "compressed with bzip2: unpack it"),
    (b"\xfd7zXZ\x00", "compressed with xz: unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG\r\n", "a PNG image"),
)  # fmt: skip
"""First bytes of common files, and what they are."""


def kind_of(head: bytes) -> str | None:
    """What a file is that begins so, if it is something that people give by mistake; else None."""
    text = head[:SAMPLE].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page (HTML): what was asked for has not been fetched"
    return next((kind for start, kind in KINDS if head.startswith(start)), None)


def check_kind(path: Path, what: str) -> None:
    """Raise InputError if a file is something that has not been fetched, and no other file of its kind."""
    if path.is_dir():
        return
    with reading(path, what), path.open("rb") as handle:
        head = handle.read(SAMPLE)
    if (kind := kind_of(head)) and "not been fetched" in kind:
        raise InputError(f"the {what} at {path} is {kind}.")


def check_folder(path: Path, field: str = "out") -> None:
    """Raise InputError if a directory cannot be made at `path`, because a file is there or above it."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"{field} = {str(path)!r}: {there.name} is a file; it must be a directory, or new.")


def vacant(path: Path, field: str = "out") -> Path:
    """The place of a new directory, absolute: it must not exist yet, or be empty.

    Raises:
        InputError: something is there, or it is the directory this process works in.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(
            f"{field} = {str(path)!r} already holds something; it must be new or an empty directory."
        )
    if place == Path.cwd():
        raise InputError(f"{field} = {str(path)!r} is the directory you are in; name a new one.")
    return place


def remove(path: Path) -> None:
    """Delete a file or a directory, if it is there.

    Raises:
        InUse: another worker has taken over the directory.
    """
    gate = _gate_of(path)
    if gate is not None and os.path.lexists(path):
        away = gate / f".{path.name}.{threading.get_ident()}.gone"
        with _passing(gate):
            os.replace(path, away)
        path = away
    _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def safe_name(name: str, field: str = "name") -> str:
    """Return `name` if it can be one path component.

    Raises:
        InputError: it is empty, starts with a dot, or has a character other than letters, digits, `._-`.
    """
    fine = all((c.isalnum() and c.isascii()) or c in "._-" for c in name)
    if not name or name.startswith(".") or len(name) > 128 or not fine:
        raise InputError(
            f"{field} = {name!r}: use 1 to 128 of letters, digits, '.', '_', '-', not starting with '.'."
        )
    return name
