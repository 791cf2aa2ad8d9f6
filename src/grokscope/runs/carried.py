"""The files of a run, carried to and from a machine that does not see its directory.

What is carried is a whole: a resume state comes with its tensors, and is put in place after all else, so a
directory can be gone on with whenever the carrying ends.
"""

import json
import time
from pathlib import Path, PurePosixPath

from grokscope.errors import InputError
from grokscope.files import remove, whole
from grokscope.runs.directory import LOCK, PROGRESS, RESUME_STATE

Files = dict[str, bytes]
"""Contents by path in the run's directory, with `/`."""
TRIES = 50


class Sender:
    """Finds what has changed in a run's directory while a worker writes there.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._known: dict[str, tuple[int, int]] = {}

    def changes(self) -> tuple[Files, list[str]]:
        """What is new since the last call, and the names of all there is.

        Raises:
            OSError: files go on changing while they are read.
        """
        for _ in range(TRIES):
            try:
                return self._look()
            except FileNotFoundError:  # It was replaced by a newer one meanwhile.
                time.sleep(0.02)
        return self._look()

    def _look(self) -> tuple[Files, list[str]]:
        found: Files = {}
        known: dict[str, tuple[int, int]] = {}
        # Read first: what it speaks of is there already, and is the least that is carried.
        state = self.directory / RESUME_STATE
        if state.exists():
            found[RESUME_STATE] = state.read_bytes()
            step = json.loads(found[RESUME_STATE])["step"]
            (state.parent / f"step_{step:08d}.safetensors").stat()
        names = names_of(self.directory)
        for name in names:
            about = (self.directory / name).stat()
            known[name] = (about.st_mtime_ns, about.st_size)
            if name != RESUME_STATE and known[name] != self._known.get(name):
                found[name] = (self.directory / name).read_bytes()
        self._known = known
        return found, names


def receive(directory: Path, files: Files, names: list[str]) -> None:
    """Put carried files in their places, and take away what is not among `names`.

    Raises:
        InputError: a name leads out of the directory.
        OSError: the disk is full, or another error of the file system.
    """
    units: dict[str, Files] = {}
    for name, content in files.items():
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise InputError(f"a file from another machine is called {name!r}; it must lie in {directory}.")
        unit, _, inner = name.partition(".zarr/")
        units.setdefault(f"{unit}.zarr" if inner else name, {})[inner] = content
    for name in sorted(units, key=lambda name: name == RESUME_STATE):
        with whole(directory / name) as draft:
            for inner, content in units[name].items():
                place = draft / inner if inner else draft
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
    for name in set(names_of(directory)) - set(names):
        remove(directory / name)


def names_of(directory: Path) -> list[str]:
    """Files of a run, without those that belong to who works on it there."""
    paths = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return sorted(
        path.as_posix()
        for path in paths
        if path.name not in (LOCK, PROGRESS)
        and not any(part.startswith("lease.") or part.endswith((".part", ".gone")) for part in path.parts)
    )
