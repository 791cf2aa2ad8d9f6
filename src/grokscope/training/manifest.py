"""What the bits of a run depend on beside its spec. A run is resumed under the same, or not at all."""

import platform
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from grokscope.errors import InputError
from grokscope.files import read_json, write_json
from grokscope.kernels.library import VARIABLE, available
from grokscope.native import compiler_version

MANIFEST = "manifest.json"
Backend = Literal["compiled", "eager", "population", "population-eager"]
RECORDED_ONLY = {"python", "platform"}
"""Good to know, but the numbers do not depend on it."""


@dataclass(frozen=True)
class Manifest:
    """Everything beside the spec that a run's numbers depend on, and a little that is good to know."""

    threads: int
    """Threads of PyTorch within an operation; sums are split over them."""
    backend: Backend
    """compiled (torch.compile) or eager; population: compiled, together with other runs."""
    device: str
    """"cpu", or the name of the GPU."""
    dtype: str
    """Of the activations."""
    cpu: str
    """Instruction sets that PyTorch chooses its kernels by."""
    kernels: str
    """"c++" where passes and observers go through `models.kernels`; empty: PyTorch's operations alone."""
    compiler: str
    """Version line of the C++ compiler; empty where nothing is compiled with it."""
    torch: str
    numpy: str
    grokscope: str
    python: str
    platform: str
    members: int = 1
    """Runs that one step trained together. Sums within a run do not mix with others', but how they are
    ordered may depend on how many there are."""


def manifest_here(
    threads: int, backend: Backend, device: torch.device, dtype: torch.dtype, members: int = 1
) -> Manifest:
    """The manifest of a training in this process."""
    on_gpu = device.type == "cuda"
    kernels = not on_gpu and available()
    return Manifest(
        threads=threads,
        backend=backend,
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
        dtype=str(dtype).removeprefix("torch."),
        cpu=cpu_capability(),
        compiler="" if on_gpu or (backend.endswith("eager") and not kernels) else compiler_version(),
        kernels="c++" if kernels else "",
        torch=torch.__version__,
        numpy=np.__version__,
        grokscope=version("grokscope"),
        python=platform.python_version(),
        platform=platform.platform(),
        members=members,
    )


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a run directory.

    Raises:
        InputError: it is missing or damaged.
    """
    path = directory / MANIFEST
    tree = read_json(path, "manifest")
    names = {field.name for field in fields(Manifest)}
    # Runs were alone before they could be many, and had no kernels before there were any.
    if not isinstance(tree, dict) or not {"members", "kernels"} >= names - set(tree) or set(tree) - names:
        raise InputError(f"the manifest at {path} is damaged: its fields must be {', '.join(sorted(names))}.")
    for name in ("threads", "members"):
        if name in tree and (type(tree[name]) is not int or tree[name] < 1):
            raise InputError(f"the manifest at {path} is damaged: {name} = {tree[name]!r}.")
    return Manifest(**{"kernels": "", **tree})


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write it, whole or not at all."""
    write_json(directory / MANIFEST, asdict(manifest))


def check_same(before: Manifest, now: Manifest, directory: Path) -> None:
    """Refuse to go on where the bits would differ.

    Raises:
        InputError: names the first field that differs, and both values.
    """
    for field in fields(Manifest):
        old: Any = getattr(before, field.name)
        new: Any = getattr(now, field.name)
        if old != new and field.name not in RECORDED_ONLY:
            off = f"set {VARIABLE}=off" if field.name == "kernels" and not old else "restore it"
            raise InputError(
                f"{directory} cannot be resumed bit for bit: {field.name} was {old!r} and is now {new!r}; "
                f"{off}, or start again in another directory."
            )


def cpu_capability() -> str:
    """Instruction sets, e.g. "AVX512+avx512_bf16+amx": kernels, and so rounding, are chosen by them."""
    extra = {
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
    }
    return "+".join(
        [torch.backends.cpu.get_cpu_capability(), *(name for name, there in extra.items() if there)]
    )
