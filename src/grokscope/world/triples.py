"""A user's own facts, from a table of triples (`triple_rows`: which files, which columns).

Shape suffixes: F facts, N rows.
"""

import re
import unicodedata
from array import array
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from grokscope.errors import InputError, quoted, shortened
from grokscope.world.arrays import BoolArray, IntArray
from grokscope.world.triple_rows import ROLES, Cells, open_rows
from grokscope.world.vocabulary import Vocabulary, by_length, standard_vocabulary

Several = Literal["refuse", "drop", "first", "all"]
"""What becomes of a head and a relation with several tails."""
DONE = {"drop": "left out", "first": "the first of each is kept", "all": "any of them answers"}
ADDRESS = re.compile(r"<([^<>\s]*:[^<>\s]*)>( *\.)?")
"""An address as RDF writes it; the last of a line of N-Triples has a full stop."""


@dataclass(frozen=True, eq=False)
class RawFacts:
    """Facts as read from a file, before a world is made of them."""

    vocabulary: Vocabulary
    fact_F3: IntArray
    """int32 (head, relation, tail) numbers, sorted by (head, relation), no (head, relation) twice."""
    ood_F: BoolArray | None
    """The file's own ID/OOD split, if it has one."""
    notes: tuple[str, ...] = ()
    """What of the file is not in the facts, as sentences."""
    further_G3: IntArray | None = None
    """Further tails of heads and relations among the facts, sorted; None: there are none."""


@dataclass(frozen=True, eq=False)
class Triples:
    """A file of triples, every one once, in the order of (head, relation, tail)."""

    path: Path
    unit: str
    """What `at_N` counts."""
    entities: list[str]
    relations: list[str]
    triple_N3: IntArray
    """Numbers of head, relation and tail in the two lists."""
    at_N: IntArray
    """Where each stands first in the file."""
    ignored: tuple[str, ...]
    """Columns that were left alone."""

    @cached_property
    def several_N(self) -> BoolArray:
        """(N,) which triples are of a head and a relation with several tails."""
        same_N = (np.diff(self.triple_N3[:, :2], axis=0) == 0).all(axis=1)
        out_N: BoolArray = np.concatenate([same_N, [False]]) | np.concatenate([[False], same_N])
        return out_N

    @cached_property
    def first_N(self) -> BoolArray:
        """(N,) which triples stand in the file before all others of their head and relation."""
        order_N = np.lexsort((self.at_N, *self.triple_N3[:, :2].T))
        new_N = (np.diff(self.triple_N3[order_N][:, :2], axis=0) != 0).any(axis=1)
        out_N = np.zeros(len(order_N), dtype=bool)
        out_N[order_N[np.concatenate([[True], new_N])]] = True
        return out_N

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the file cannot be in a world as it stands, as sentences."""
        shown = ", ".join(quoted(name, 30) for name in self.ignored[:8])
        notes = (f"columns left alone: {shown}",) if self.ignored else ()
        if not self.several_N.any():
            return notes
        pairs, facts = int(self.first_N.sum()), int(self.several_N.sum())
        several = pairs - (len(self.triple_N3) - facts)
        of = f"{several:,} of {pairs:,} pairs of head and relation"
        return (*notes, f"{of} have several tails ({facts:,} facts)")


class _Names:
    """Numbers of names, by how they stand in the file."""

    def __init__(self, path: Path, unit: str) -> None:
        self.path, self.unit = path, unit
        self.number: dict[str, int] = {}
        self.name: list[str] = []
        self._seen: dict[str, tuple[int, str, int]] = {}
        self.alike: list[str] = []

    def add(self, cell: str, at: int) -> int:
        """The number of a cell that has not been met."""
        spelled = self._checked(cell, at)
        look = spelled if spelled.isascii() else _look(spelled)
        number, before, where = self._seen.setdefault(look, (len(self.name), spelled, at))
        if number == len(self.name):
            self.name.append(unicodedata.normalize("NFC", spelled))
        elif before != spelled:
            self.alike.append(
                f"{self.path}, {self.unit} {at}: the name {shortened(ascii(spelled), 36)} looks like "
                f"{shortened(ascii(before), 36)} in {self.unit} {where}"
            )
        self.number[cell] = number
        return number

    def _checked(self, cell: str, at: int) -> str:
        place = f"{self.path}, {self.unit} {at}"
        name = cell.strip()
        if address := ADDRESS.fullmatch(name):
            name = address[1]
        if not name:
            raise InputError(f"{place}: a name is empty; every fact needs {', '.join(ROLES)}.")
        if set(name) & {"<", ">"}:
            raise InputError(f"{place}: names must not hold '<' or '>', got {quoted(name)}.")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise InputError(f"{place}: names must not hold control characters, got {quoted(name)}.")
        return name


def _look(name: str) -> str:
    """What a name looks like: composed, without characters that nobody sees, blanks all alike."""
    seen = (c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    return "".join(" " if unicodedata.category(c) == "Zs" else c for c in seen)


def read_triples(path: Path) -> Triples:
    """Read a table of triples; a row repeated exactly counts once.

    Names lose the blanks around them and are composed (Unicode NFC), so that a file means the same however it
    was encoded.

    Raises:
        InputError: it cannot be read, its columns cannot be told, a row has not three names, a name holds
            '<', '>' or a control character, or two names look alike; the sentence names the line.
    """
    rows = open_rows(path)
    entities, relations = _Names(path, rows.unit), _Names(path, rows.unit)
    entity, relation = entities.number, relations.number
    cells_3N, places = array("i"), array("q")
    first: Cells | None = None
    for at, cells in rows.numbered:
        head, kind, tail = cells
        cells_3N.append(entity[head] if head in entity else entities.add(head, at))
        cells_3N.append(relation[kind] if kind in relation else relations.add(kind, at))
        cells_3N.append(entity[tail] if tail in entity else entities.add(tail, at))
        places.append(at)
        first = first or cells
    if not places:
        raise InputError(f"{path} holds no facts: one a line, {','.join(ROLES)}.")
    if alike := [*entities.alike, *relations.alike]:
        more = f"; {len(alike)} names do so" if len(alike) > 1 else ""
        raise InputError(f"{alike[0]}{more}: write every name in one way.")
    row_N3 = np.array(cells_3N, dtype=np.int32).reshape(-1, 3)
    if rows.unit == "line" and not rows.header and _alone(row_N3):
        raise InputError(
            f"{path}, line {places[0]}: {quoted(','.join(first or ()))} is neither a known header nor a fact "
            f"whose names occur again; a header would be {','.join(ROLES)}."
        )
    order_N = np.lexsort(row_N3.T[::-1])
    triple_N3 = row_N3[order_N]
    new_N = np.concatenate([[True], (np.diff(triple_N3, axis=0) != 0).any(axis=1)])
    at_N = np.array(places, dtype=np.int64)[order_N][new_N]
    return Triples(path, rows.unit, entities.name, relations.name, triple_N3[new_N], at_N, rows.ignored)


def _alone(row_N3: IntArray) -> bool:
    """Whether none of the first fact's names occurs in another."""
    (head, relation, tail), others_N3 = row_N3[0], row_N3[1:]
    return not ((others_N3[:, 1] == relation).any() or np.isin(others_N3[:, [0, 2]], [head, tail]).any())


def facts_of(triples: Triples, several: Several = "refuse") -> RawFacts:
    """The facts of a world: every head and relation has one tail; with "all", and further ones beside it.

    Entities and relations are numbered in a fixed order (shorter names first), so the order of the rows does
    not matter; but of several tails the fact is the one that stands first ("first", "all").

    Raises:
        InputError: a head and a relation have several tails and `several` is "refuse", or nothing is left.
    """
    kept_N, notes = np.ones(len(triples.triple_N3), dtype=bool), triples.notes
    if triples.several_N.any():
        if several == "refuse":
            raise InputError(
                f"{_first_conflict(triples)}; {notes[-1]}: world.several_tails chooses drop, first or all."
            )
        kept_N = ~triples.several_N if several == "drop" else triples.first_N
        notes = (*notes[:-1], f"{notes[-1]}: {DONE[several]}")
    if not kept_N.any():
        raise InputError(f"{triples.path}: several_tails = 'drop' leaves no fact of {len(kept_N):,}.")
    named_N = np.ones_like(kept_N) if several == "all" else kept_N
    head_F, relation_F, tail_F = triples.triple_N3[named_N].T
    entity_F2, entities = _numbered(np.stack([head_F, tail_F], axis=1), triples.entities)
    kind_F, relations = _numbered(relation_F, triples.relations)
    every_F3 = np.stack([entity_F2[:, 0], kind_F, entity_F2[:, 1]], axis=1)
    first_F = kept_N[named_N]
    fact_F3, further_G3 = (part[np.lexsort(part.T[::-1])] for part in (every_F3[first_F], every_F3[~first_F]))
    vocabulary = standard_vocabulary(
        [f"<e_{name}>" for name in entities], [f"<r_{name}>" for name in relations]
    )
    return RawFacts(vocabulary, fact_F3, None, notes, further_G3)


def _numbered(name_F: IntArray, names: list[str]) -> tuple[IntArray, list[str]]:
    """Numbers in the fixed order of those names that are used, and these names."""
    used = np.unique(name_F)
    ordered = by_length({names[number] for number in used})
    rank = {name: number for number, name in enumerate(ordered)}
    new_N = np.full(len(names), -1, dtype=np.int32)
    new_N[used] = [rank[names[number]] for number in used]
    return new_N[name_F], ordered


def _first_conflict(triples: Triples) -> str:
    """The first row of the file that gives a head and a relation a second tail."""
    rows, places = (part[triples.several_N].tolist() for part in (triples.triple_N3, triples.at_N))
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for at, (head, relation, tail) in sorted(zip(places, rows, strict=True)):
        before, where = found.setdefault((head, relation), (tail, at))
        if before != tail:
            break
    entity, kind = (quoted(name, 22)[1:-1] for name in (triples.entities[head], triples.relations[relation]))
    tails = [quoted(triples.entities[number], 22) for number in (tail, before)]
    return (
        f"{triples.path}, {triples.unit} {at}: ({entity}, {kind}) has the tail {tails[0]}, but {tails[1]} in "
        f"{triples.unit} {where}"
    )
