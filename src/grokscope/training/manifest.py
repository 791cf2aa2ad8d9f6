"""What the bits of a run depend on beside its spec. A run is resumed under the same, or not at all."""

import platform
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from grokscope._version import __version__
from grokscope.errors import InputError, quoted
from grokscope.files import read_json
from grokscope.kernels.library import VARIABLE, available
from grokscope.native import compiler_version
from grokscope.spec import Spec

MANIFEST = "manifest.json"
Backend = Literal["compiled", "eager", "population", "population-eager"]
RECORDED_ONLY = {"python", "platform", "grokscope"}
"""Good to know, but the numbers do not depend on it: that a version of ours trains as the ones before did, to
the byte, is tested (tests/goldens), and one that does not says so in the changelog."""


class Manifest(Spec):
    """Everything beside the spec that a run's numbers depend on, and a little that is good to know."""

    threads: int = Field(ge=1)
    """Threads of PyTorch within an operation; sums are split over them."""
    backend: Backend
    """compiled (torch.compile) or eager; population: compiled, together with other runs."""
    device: str
    """"cpu", or the name of the GPU."""
    dtype: str
    """Of the activations."""
    cpu: str
    """Instruction sets that PyTorch chooses its kernels by."""
    kernels: str = ""
    """`c++` where passes and observers go through `grokscope.kernels`; empty: PyTorch's operations alone (as
    in runs from before there were any)."""
    compiler: str
    """Version line of the C++ compiler; empty where nothing is compiled with it."""
    torch: str
    numpy: str
    grokscope: str
    python: str
    platform: str
    members: int = Field(1, ge=1)
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
        grokscope=__version__,
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
    return Manifest.parse(read_json(path, "manifest"), f"the manifest at {path} is damaged")


def check_same(before: Manifest, now: Manifest, directory: Path) -> None:
    """Refuse to go on where the bits would differ.

    Raises:
        InputError: names the first field that differs, and both values.
    """
    for (name, old), (_, new) in zip(before, now, strict=True):
        if old != new and name not in RECORDED_ONLY:
            off = f"set {VARIABLE}=off" if name == "kernels" and not old else "restore it"
            raise InputError(
                f"{directory} cannot be resumed bit for bit: {name} was {quoted(old)} and is now "
                f"{quoted(new)}; "
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
