"""Safetensors files, read with one kind of error: what is wrong with a file is said for what it is."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from grokscope.errors import InputError, shortened
from grokscope.files import kind_of, reading

HEAD = 8
"""Bytes that hold the length of the header."""


def read_safetensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The named tensors of a file, on the CPU, and its metadata.

    Args:
        path: the file.
        what: what it is, for the sentence of an error.

    Raises:
        InputError: it is missing, may not be read, is empty, cut off, damaged, or something else altogether.
    """
    with reading(path, what):
        size = path.stat().st_size
        with path.open("rb") as handle:
            head = handle.read(512)
            handle.seek(HEAD)
            length = int.from_bytes(head[:HEAD], "little")
            header = handle.read(min(length, size))
    if not size:
        raise InputError(f"the {what} at {path} is empty.")
    if kind := kind_of(head):
        raise InputError(f"the {what} at {path} is {kind}.")
    if head[HEAD : HEAD + 1] in (b"{", b"") and size < (whole := _size(length, header)):
        raise InputError(f"the {what} at {path} is cut off: {size:,} of {whole:,} bytes are there.")
    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            return tensors, handle.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"the {what} at {path} is damaged: {shortened(str(error))}.") from None


def _size(length: int, header: bytes) -> int:
    """Bytes that a file should have by its header; as many as the header, if that is not whole or not one."""
    try:
        ends = [
            entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"
        ]
        return HEAD + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return HEAD + length
