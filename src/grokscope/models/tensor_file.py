"""Safetensors files, read with one kind of error: what is wrong with a file is said for what it is."""

import errno
import json
import os
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from grokscope.errors import InputError, shortened
from grokscope.files import kind_of, reading, whole

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
    if head[HEAD : HEAD + 1] not in (b"{", b""):
        raise InputError(f"the {what} at {path} is no safetensors file: it does not begin as one.")
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


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write named tensors whole or not at all; the same tensors give the same bytes.

    Raises:
        OSError: the disk is full, or another error of the file system.
    """
    here = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    with whole(path) as draft:
        try:
            save_file(here, draft, metadata={"crc32": checksum(here)})
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            number = int(code.group(1)) if code else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error


def read_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """Read named tensors onto the CPU.

    Args:
        path: the file.
        what: what it is, for the sentence of an error.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    tensors, metadata = read_safetensors(path, what)
    expected = metadata.get("crc32")
    if expected is not None and checksum(tensors) != expected:
        raise InputError(f"the {what} at {path} is damaged: its checksum is wrong.")
    return tensors


def copy_into(targets: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    """Copy tensors of a file into existing ones of the same names and shapes.

    Raises:
        InputError: names or shapes differ; nothing was copied.
    """
    for name in sorted({*targets, *found}):
        if name not in targets or name not in found:
            which = "does not know" if name in found else "needs"
            raise InputError(
                f"{path} does not fit: it was written for another model ({which} tensor {name})."
            )
        if targets[name].shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)} in the file, {tuple(targets[name].shape)} here"
            raise InputError(f"{path} does not fit: it was written for another model ({name} is {shapes}).")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(found[name])


def checksum(tensors: dict[str, Tensor]) -> str:
    """CRC-32 over names and bytes, in the order of the names."""
    crc = 0
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name].numpy())
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"
