"""Files are written whole or not at all."""

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grokscope.errors import InputError

if TYPE_CHECKING:
    import polars as pl


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary path near `path`; when the block ends well it is synced and renamed to `path`.

    Works for files and directories (an existing directory is replaced). If the block fails, for example on a
    full disk, nothing is left behind and `path` is what it was. A process that is killed leaves a folder
    `.NAME.PID.part` beside it, and nothing else: libraries put files of their own beside what they write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.{os.getpid()}.part")
    remove(folder)
    draft = folder / path.name
    try:
        folder.mkdir()
        yield draft
        for file in [draft] if draft.is_file() else sorted(f for f in draft.rglob("*") if f.is_file()):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if path.is_dir():
            remove(path)
        os.replace(draft, path)
    finally:
        remove(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_parquet(path: Path, frame: "pl.DataFrame") -> None:
    """Write a table as Parquet; a full disk is the `OSError` it is, not an error of the format."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    path.write_bytes(buffer.getbuffer())


def write_json(path: Path, tree: Any) -> None:
    """Write JSON (indented, NaN forbidden) whole or not at all."""
    write_text(path, json.dumps(tree, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, what: str = "file") -> Any:
    """Read JSON.

    Raises:
        InputError: the file is missing or not JSON; the sentence says `what` it should have been.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no {what} at {path}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the {what} at {path} cannot be read: {error}.") from None


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
    """Delete a file or a directory, if it is there."""
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
