"""JSON files of the reference format, read with one kind of error."""

from pathlib import Path
from typing import Any

from grokscope.errors import InputError
from grokscope.files import read_json


def read_list(path: Path) -> list[Any]:
    """A JSON list.

    Raises:
        InputError: the file is missing, not JSON, or not a list.
    """
    tree = read_tree(path)
    if not isinstance(tree, list):
        raise InputError(f"{path} must hold a JSON list, not {type(tree).__name__}.")
    return tree


def read_tree(path: Path) -> Any:
    """Any JSON; what cannot be read or parsed is an `InputError`, however it fails."""
    if not path.exists():
        raise InputError(f"there is no file {path}; a reference data set needs train.json and test.json.")
    return read_json(path)
