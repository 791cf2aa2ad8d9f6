"""The file a world is read from. Its content is part of what is made of it, and is kept with it; where it
once lay is not, and nothing later needs that place.
"""

import hashlib
import os
import shutil
from pathlib import Path

from grokscope.errors import InputError
from grokscope.files import check_kind, reading, whole
from grokscope.world.spec import WorldSpec

FOLDER = "facts"
"""Where a directory keeps its facts file."""
WHAT = "facts file"
REFERENCE = ("train.json", "test.json", "valid.json", "vocab.json", "id_facts.json", "ood_facts.json")
"""What is read of a directory."""


def pinned(spec: WorldSpec) -> WorldSpec:
    """The spec with the SHA-256 of its facts file, by which a run is told from one of other facts.

    Raises:
        InputError: the file cannot be read, or is not the one that the spec has pinned.
    """
    if spec.facts_file is None:
        return spec
    found = content(Path(spec.facts_file))
    if spec.facts_sha256 not in (None, found):
        check_kind(Path(spec.facts_file), WHAT)
        raise InputError(
            f"the {WHAT} at {spec.facts_file} is not the one that was meant: its SHA-256 is {found[:12]}.., "
            f"facts_sha256 is {str(spec.facts_sha256)[:12]}..."
        )
    return spec.model_copy(update={"facts_sha256": found})


def content(path: Path) -> str:
    """SHA-256 of a file; of a directory, of the files that are read and their names.

    Raises:
        InputError: it cannot be read.
    """
    if not path.is_dir():
        return _sha256(path)
    parts = [f"{name} {_sha256(path / name)}\n" for name in REFERENCE if (path / name).exists()]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def kept(spec: WorldSpec) -> WorldSpec:
    """The spec as it stands in a directory that keeps the facts: their place is relative to it."""
    if spec.facts_file is None or spec.facts_sha256 is None:
        return spec
    return spec.model_copy(update={"facts_file": f"{FOLDER}/{Path(spec.facts_file).name}"})


def keep(spec: WorldSpec, directory: Path) -> WorldSpec:
    """Copy the facts file into a directory; returns `kept(spec)`.

    Raises:
        InputError: the file is not the one that the spec has pinned any more.
    """
    told = kept(spec)
    if told is spec or told.facts_file is None or spec.facts_file is None:
        return spec
    here, there = Path(spec.facts_file), directory / told.facts_file
    if not there.exists() or content(there) != spec.facts_sha256:
        pinned(spec)
        with whole(there) as draft:
            if here.is_dir():
                draft.mkdir()
                for name in REFERENCE:
                    if (here / name).exists():
                        shutil.copyfile(here / name, draft / name)
            else:
                shutil.copyfile(here, draft)
    return told


def found(spec: WorldSpec, directory: Path) -> WorldSpec:
    """The spec that stands in `directory`, its facts being there."""
    if spec.facts_file is None or spec.facts_sha256 is None or os.path.isabs(spec.facts_file):
        return spec
    return spec.model_copy(update={"facts_file": str(directory.absolute() / spec.facts_file)})


def _sha256(path: Path) -> str:
    with reading(path, WHAT), path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
