"""A hand-written program for a residual stream: what stands where, what is copied, what is computed.

The residual stream is divided into named spaces, each a set of coordinates of its own; a token is a few ones
in them. Two instructions act on it, and `weights.py` turns them into the weights of a model:

- `Copy`: an attention head. A position reads spaces of ONE other position and adds them to spaces of its own.
- `Units`: hidden units of the MLP, relu(weighted sum of coordinates), each adding to some coordinates.

Every unit here has the form relu(value - GATE * (reference - key) - ...), where `reference` and `key` are
coordinates of the same origin, equal whenever the condition holds. The difference is then exactly zero at
any scale, so that a norm, which only scales a state, changes how strongly a unit fires but never whether it
does.

Shape suffixes: M hidden units, D width, T positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Index = int | tuple[int, ...] | NDArray[np.integer[Any]]

GATE = 20.0
"""Weight of a failed condition; more than any value in units of its reference (values reach about 6)."""

FLOOR = 0.01
"""What every unit asks for beyond 0, in units of "const": else all units whose conditions hold would pass on
rounding errors together, and a query without an answer would be answered by the popular tails of r2."""


@dataclass(frozen=True)
class Copy:
    """Position i adds `reads` of position `source[i]` to its own `writes`, for every i.

    `reads` and `writes` are space names of the same total size. A position without a source attends to
    itself, where its own `reads` are meant to be empty or harmless."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    source: Mapping[int, int]
    basis: FloatArray | None = None
    """A map (written, read) applied on the way; None: coordinate by coordinate. Must fit one head."""


@dataclass(frozen=True)
class Tap:
    """A weight on coordinate `index` of a space: one for all units, a tuple of several for all, or an array
    of one per unit."""

    space: str
    index: Index
    weight: float | FloatArray = 1.0


@dataclass(frozen=True)
class Units:
    """M hidden units of one role: relu(sum of reads), added to the writes.

    `writes` may also be a dense map: `basis` (M, size of `space`) is added to `basis_space`."""

    role: str
    count: int
    reads: tuple[Tap, ...]
    writes: tuple[Tap, ...] = ()
    basis_space: str | None = None
    basis: FloatArray | None = None


@dataclass
class Wiring:
    """A program under construction.

    Attributes:
        entities: E. relations: R. positions: T.
        size: coordinates of every space, in order. Spaces that every program has: "const" (1), "position"
        (T),
            "entity" (E), "relation" (R), "pad" (1).
        copies: attention heads. units: hidden units, in order.
        read_out: spaces of size E that the output head reads.
        prefix: positions before the input, which T counts. floor: what every unit asks for, see `FLOOR`.
    """

    entities: int
    relations: int
    positions: int
    size: dict[str, int] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)
    units: list[Units] = field(default_factory=list)
    read_out: list[str] = field(default_factory=lambda: ["entity"])
    prefix: int = 0
    floor: float = FLOOR

    def __post_init__(self) -> None:
        for name, size in (
            ("const", 1),
            ("position", self.positions),
            ("entity", self.entities),
            ("relation", self.relations),
            ("pad", 1),
        ):
            self.size[name] = size

    def space(self, name: str, size: int | None = None) -> None:
        """Make sure that a space exists; E coordinates unless `size` is given."""
        self.size.setdefault(name, self.entities if size is None else size)

    def copy(
        self,
        reads: str | tuple[str, ...],
        writes: str | tuple[str, ...],
        source: Mapping[int, int],
        basis: FloatArray | None = None,
    ) -> None:
        """Add a head; spaces to write to are made as large as those read."""
        reads, writes = ((x,) if isinstance(x, str) else x for x in (reads, writes))
        for one, other in zip(reads, writes, strict=True):
            self.space(other, self.size[one])
        self.copies.append(Copy(reads, writes, source, basis))

    def where(self, name: str) -> int:
        """First coordinate of a space."""
        first = 0
        for other, size in self.size.items():
            if other == name:
                return first
            first += size
        raise KeyError(name)

    @property
    def coordinates(self) -> int:
        """Coordinates used by all spaces together."""
        return sum(self.size.values())

    def parts(self) -> dict[str, slice]:
        """Hidden units by role; roles must have been added one after the other."""
        out: dict[str, slice] = {}
        first = 0
        for units in self.units:
            begin = out[units.role].start if units.role in out else first
            first += units.count
            out[units.role] = slice(begin, first)
        return out

    def matrices(self, rotation_DD: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(M, D) reads and (M, D) writes of all hidden units; coordinate i is row i of `rotation_DD`."""
        shape = (sum(units.count for units in self.units), len(rotation_DD))
        reads_MD, writes_MD = np.zeros(shape), np.zeros(shape)
        reads_MD -= self.floor * rotation_DD[self.where("const")]
        first = 0
        for units in self.units:
            rows = slice(first, first + units.count)
            for taps, into_MD in ((units.reads, reads_MD), (units.writes, writes_MD)):
                for tap in taps:
                    weight_M = np.broadcast_to(np.asarray(tap.weight, dtype=np.float64), units.count)
                    turned = rotation_DD[self.where(tap.space) + np.asarray(tap.index)]
                    if isinstance(tap.index, tuple):
                        turned = turned.sum(axis=0)
                    into_MD[rows] += weight_M[:, None] * turned
            if units.basis is not None and units.basis_space is not None:
                start = self.where(units.basis_space)
                writes_MD[rows] += units.basis @ rotation_DD[start : start + units.basis.shape[1]]
            first += units.count
        return reads_MD, writes_MD


def is_true(
    space: str, index: Index, reference: str = "const", reference_index: Index = 0
) -> tuple[Tap, Tap]:
    """The condition "this coordinate equals its reference", as reads; it fails by -GATE * reference."""
    return Tap(space, index, GATE), Tap(reference, reference_index, -GATE)


def at(position: int) -> tuple[Tap, Tap]:
    """The condition "at this position"."""
    return is_true("position", position)


def never_at(position: int) -> Tap:
    """The condition "not at this position"."""
    return Tap("position", position, -GATE)
