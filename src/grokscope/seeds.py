"""Named random streams, each with a seed of its own: one can be changed while the others stand still."""

import zlib
from typing import Annotated

import numpy as np
from pydantic import Field

from grokscope.spec import Spec

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Every one of these draws other numbers; beyond them two seeds could mean the same."""


class Seeds(Spec):
    """One seed per stream. World, split and probes never depend on `init` or `order`: runs pair."""

    world: Seed = 0
    """Draws the facts."""
    split: Seed = 0
    """Draws which facts are OOD and which compositions are held out."""
    corpus: Seed = 0
    """Draws the supervised compositions: the phi sample and the injections."""
    init: Seed = 0
    """Draws the initial weights."""
    order: Seed = 0
    """Draws the order of the training examples (and random loop counts)."""


def generator(stream: str, seed: int, *path: int) -> np.random.Generator:
    """The generator of one named stream: same (stream, seed, path), same numbers, on every machine.

    Args:
        stream: name of the stream, e.g. "order".
        seed: the stream's seed.
        path: further integers that address a sub-stream, e.g. the epoch, so that no state has to be stored.
    """
    key = zlib.crc32(stream.encode())
    sequence = np.random.SeedSequence([key, seed & 0xFFFFFFFFFFFFFFFF, *path])
    return np.random.Generator(np.random.PCG64(sequence))
