"""C++ of our own: compiled when it is first asked for, kept for the next time, and never required.

A library is looked for under the digest of all that it is made of (source, compiler and its version, options)
in `$XDG_CACHE_HOME/grokscope`, by default `~/.cache/grokscope`.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from grokscope.files import whole


def compiler() -> str | None:
    """The C++ compiler that would be used: $CXX, or the first of g++ and clang++ that is there; None: none
    is."""
    command = _command()
    return command[0] if command else None


def compiler_version() -> str:
    """First line of the C++ compiler's version; empty where there is none."""
    found = shutil.which(compiler() or "")
    if not found:
        return ""
    run = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    return run.stdout.splitlines()[0] if run.stdout else found


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
    digest = hashlib.sha256("\0".join([compiler_version(), *command, *texts]).encode()).hexdigest()
    library = _kept() / f"{name}-{digest[:20]}.so"
    try:
        if not library.exists():
            with whole(library) as draft:
                made = [*command, *map(str, sources), "-o", str(draft)]
                subprocess.run(made, check=True, capture_output=True)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.CalledProcessError):
        return None


def _command() -> list[str] | None:
    """The compiler as words of a command line."""
    named = shlex.split(os.environ.get("CXX", ""))
    commands = [named] if named else [["g++"], ["clang++"]]
    return next((command for command in commands if shutil.which(command[0])), None)


def _kept() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grokscope"
