"""The store of a study: a second place, by URL, where its jobs are kept as they save and end.

Whatever fsspec can write to will do (`s3://`, `gs://`, a folder's path). A machine that has nothing but the
study file and the URL goes on with the study: jobs that are not there are fetched first.

A job's folder in the store is laid out as here, beside an index of its files. Whenever the one that writes
there is cut off, what the index names is a job that can go on: files that never change are put there first,
then the index that names them, then those that change, the resume state and the end mark last; only then old
ones go.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from grokscope.errors import InputError, shortened
from grokscope.files import whole
from grokscope.runs.carried import names_of
from grokscope.runs.directory import DONE, RESUME_STATE, SPEC, STUDY, Standing, standing

INDEX = "files.json"
LAST = (RESUME_STATE, DONE)
"""What says how far a job is, in this order."""
LOOK_SECONDS = 30.0
"""Between two looks at what has saved."""
STATE = "resume/step_"
FIXED = ("checkpoints/", "traces/", STATE, "base.")
"""How the names of files begin that are written once."""


class Store:
    """Where the jobs of a study are kept beside its directory.

    Args:
        url: of the study's folder there. study: its directory here. say: prints a sentence.

    Raises:
        InputError: nothing can be kept under such a URL.
    """

    def __init__(self, url: str, study: Path, say: Callable[[str], None]) -> None:
        self.url, self.study, self.say = url, study, say
        self._there: dict[Path, dict[str, Any]] = {}
        self._marks: dict[tuple[Path, str], tuple[tuple[int, int], str]] = {}
        self._silent = False
        with self._asked():
            core: Any = import_module("fsspec.core")
            self.fs, self.root = core.url_to_fs(url)

    def fetch(self, directories: Iterable[Path]) -> list[str]:
        """Bring the jobs that are not here; their names.

        Raises:
            InputError: the store does not answer, or a file's name leads out of a directory.
        """
        with self._asked():
            return [one.name for one in directories if not (one / SPEC).exists() and self._fetch(one)]

    def keep(self, directory: Path) -> bool:
        """Put a job there as it stands; False if the store does not take it, which is said once."""
        try:
            if (directory / SPEC).exists():
                self._keep(directory)
            if (self.study / STUDY).exists():
                self._write(f"{self.root}/{STUDY}", (self.study / STUDY).read_bytes())
        except Exception as error:  # Every kind of store has its own.
            gone = isinstance(error, FileNotFoundError) and str(error.filename or "")
            if gone and gone.startswith(str(directory)):  # A worker has replaced a file meanwhile: next time.
                return False
            if not self._silent:
                self.say(f"the store {self.url} takes no files ({_reason(error)}); trying again")
            self._silent = True
            return False
        if self._silent:
            self.say("the store takes files again")
        self._silent = False
        return True

    def _keep(self, directory: Path) -> None:
        # Read first: what these speak of is there already.
        last = {name: (directory / name).read_bytes() for name in LAST if (directory / name).exists()}
        here = {name: self._mark(directory, name) for name in names_of(directory) if name not in LAST}
        at, there = self._at(directory), self._known(directory)
        new = [name for name in here if there.get(name) != here[name]]
        if DONE in there and there[DONE] != last.get(DONE):
            self._remove(at, DONE, there)
        for name in (name for name in new if name.startswith(FIXED)):
            self._put(directory, name, here[name])
        # What is still to be put there has no mark yet, or the next to look would think it is there.
        done = {name: mark for name, mark in here.items() if name.startswith(FIXED) or name not in new}
        self._name(at, dict.fromkeys(there.keys() | last.keys() | here.keys()) | done)
        for name in (name for name in new if not name.startswith(FIXED)):
            self._put(directory, name, here[name])
        for name, content in last.items():
            if there.get(name) != content:
                self._write(f"{at}/{name}", content)
                there[name] = content
        self._name(at, dict.fromkeys(last) | here)
        for name in sorted(there.keys() - here.keys() - last.keys()):
            self._remove(at, name, there)

    def _fetch(self, directory: Path) -> bool:
        at = self._at(directory)
        if not self.fs.exists(f"{at}/{INDEX}"):
            return False
        names = self._index(at)
        there = {path.removeprefix(f"{at}/") for path in self.fs.find(at)}
        if RESUME_STATE in there:  # An older state may stand beside the one that it names.
            step = json.loads(self.fs.cat_file(f"{at}/{RESUME_STATE}"))["step"]
            there = {
                name
                for name in there
                if not name.startswith(STATE) or name == f"{STATE}{step:08d}.safetensors"
            }
        if not there.intersection(LAST):  # Of what was never put there wholly nothing can go on.
            return False
        with whole(directory) as draft:
            for name in names:
                if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                    called = shortened(repr(name), 80)
                    raise InputError(f"{self.url}: a file is called {called}; it must lie in {directory}.")
                if name in there:  # If not, it was about to be put there, or taken away.
                    (draft / name).parent.mkdir(parents=True, exist_ok=True)
                    self.fs.get_file(f"{at}/{name}", str(draft / name))
        return True

    def _index(self, at: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.fs.cat_file(f"{at}/{INDEX}"))["files"]
        return dict(found)

    def _known(self, directory: Path) -> dict[str, Any]:
        """What is in the store of a job: marks of its files, contents of `LAST`; None of those that might be
        other ones."""
        if directory not in self._there:
            at, found = self._at(directory), {}
            marks = self._index(at) if self.fs.exists(f"{at}/{INDEX}") else {}
            for path in self.fs.find(at):
                name = path.removeprefix(f"{at}/")
                if name != INDEX:
                    found[name] = self.fs.cat_file(path) if name in LAST else marks.get(name)
            self._there[directory] = found
        return self._there[directory]

    def _mark(self, directory: Path, name: str) -> str:
        """What tells that a file is another one: a digest of its content, read once for each change."""
        about = (directory / name).stat()
        key = (about.st_mtime_ns, about.st_size)
        before, mark = self._marks.get((directory, name), (None, ""))
        if before != key:
            mark = hashlib.blake2b((directory / name).read_bytes(), digest_size=16).hexdigest()
            self._marks[directory, name] = key, mark
        return mark

    def _put(self, directory: Path, name: str, mark: str) -> None:
        to = f"{self._at(directory)}/{name}"
        self.fs.makedirs(to.rpartition("/")[0], exist_ok=True)
        self.fs.put_file(str(directory / name), to)
        self._there[directory][name] = mark

    def _write(self, to: str, content: bytes) -> None:
        self.fs.makedirs(to.rpartition("/")[0], exist_ok=True)
        self.fs.pipe_file(to, content)

    def _remove(self, at: str, name: str, there: dict[str, Any]) -> None:
        self.fs.rm_file(f"{at}/{name}")
        del there[name]

    def _name(self, at: str, marks: Mapping[str, str | None]) -> None:
        self._write(f"{at}/{INDEX}", json.dumps({"files": marks}, sort_keys=True).encode())

    def _at(self, directory: Path) -> str:
        return f"{self.root}/{directory.relative_to(self.study).as_posix()}"

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Say what is wrong with the store, whatever its library calls it."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"execution.store = {self.url!r}: {_reason(error)}.") from None


class Keeper:
    """Keeps jobs in a store while they are worked on: all as they stand now, and each when it has saved."""

    def __init__(self, store: Store, directories: list[Path]) -> None:
        self.store, self.directories = store, directories
        self._stood: dict[Path, Standing] = {}
        self._next = 0.0

    def look(self, last: bool = False) -> None:
        """Put there what has saved or ended since the last look; at most every so often, or `last`."""
        if not last and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_SECONDS
        for one in self.directories:
            with suppress(InputError):  # A damaged file is its own run's failure.
                stands = standing(one)
                if self._stood.get(one) != stands and self.store.keep(one):
                    self._stood[one] = stands


def _reason(error: Exception) -> str:
    return shortened(f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip("."), 160)
