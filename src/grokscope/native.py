"""C++ of our own: compiled when it is first asked for, kept for the next time, and never required.

A library is kept in `$XDG_CACHE_HOME/grokscope`, by default `~/.cache/grokscope`, under two digests: of all
that it is made of (source, compiler and its version, options), and of its own bytes, without which a damaged
file could end the process that loads it.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def compiler() -> str | None:
    """The C++ compiler that would be used: $CXX, or the first of g++ and clang++ that is there; None: none
    is."""
    command = _command()
    return command[0] if command else None


def compiler_version() -> str:
    """First line of what the C++ compiler says of its version, and what $CXX adds to its command; empty where
    there is none."""
    command = _command()
    if command is None:
        return ""
    try:
        run = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return command[0]
    said = run.stdout.splitlines()[0] if run.stdout else command[0]
    return " ".join([said, *command[1:]])


def load(
    name: str, sources: Sequence[Path], headers: Sequence[Path], options: Sequence[str]
) -> ctypes.CDLL | None:
    """The library made of C++ files; None where it cannot be made, kept or loaded.

    Args:
        name: the first part of its file's name.
        sources: what is compiled.
        headers: what these include of our own.
        options: of the compiler, beside those that every library gets.
    """
    command = _command()
    if command is None:
        return None
    command = [*command, "-std=c++17", "-shared", "-fPIC", *options]
    texts = [file.read_text() for file in (*sources, *headers)]
    made_of = _digest("\0".join([compiler_version(), *command, *texts]).encode())
    try:
        folder = _folder()
        library = _whole(folder, f"{name}-{made_of}") or _make(folder, f"{name}-{made_of}", command, sources)
        return ctypes.CDLL(str(library))
    except (OSError, RuntimeError, subprocess.CalledProcessError):
        return None


def _whole(folder: Path, stem: str) -> Path | None:
    """A library with this beginning of its name whose bytes are those that it was kept with; others go."""
    for library in folder.glob(f"{stem}-*.so"):
        if library.stem == f"{stem}-{_digest(library.read_bytes())}":
            return library
        library.unlink(missing_ok=True)
    return None


def _make(folder: Path, stem: str, command: Sequence[str], sources: Sequence[Path]) -> Path:
    # A folder of its own: another thread or machine may be making the same.
    with tempfile.TemporaryDirectory(dir=folder) as own:
        draft = Path(own) / "library.so"
        subprocess.run([*command, *map(str, sources), "-o", str(draft)], check=True, capture_output=True)
        library = folder / f"{stem}-{_digest(draft.read_bytes())}.so"
        os.replace(draft, library)
    return library


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]


def _command() -> list[str] | None:
    """The compiler as words of a command line."""
    named = os.environ.get("CXX", "").split()
    commands = [named] if named else [["g++"], ["clang++"]]
    return next((command for command in commands if shutil.which(command[0])), None)


def _folder() -> Path:
    """Where libraries are kept; nobody else may write there.

    Raises:
        OSError: it cannot be made, or is another user's.
        RuntimeError: there is no home directory.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grokscope"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is another user's")
    return folder
