"""The world: what is true, and which facts are out-of-distribution (OOD).

Shape suffixes: F facts, E entities, R relations, D outgoing relations per entity.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from grokscope.errors import InputError
from grokscope.seeds import Seeds, generator
from grokscope.world.arrays import BoolArray, IntArray, fingerprint
from grokscope.world.reference_read import read_reference
from grokscope.world.source import pinned
from grokscope.world.spec import WorldSpec
from grokscope.world.triples import RawFacts, facts_of, read_triples
from grokscope.world.vocabulary import Vocabulary, standard_vocabulary

MOST_CELLS = 2**27
"""Most entities x relations: two dense int32 lookups of this size take 1 GiB."""


@dataclass(frozen=True, eq=False)
class World:
    """Facts as integer arrays, with dense lookups."""

    fact_F3: IntArray
    """(F, 3) int32 (head, relation, tail), sorted by (head, relation)."""
    ood_F: BoolArray
    """(F,) which facts are OOD; the others are ID."""
    entities: int
    """Number of entities E."""
    relations: int
    """Number of relations R."""
    vocabulary: Vocabulary
    """Tokens of the entities and relations."""
    tail_of_ER: IntArray
    """(E, R) int32 tail of (head, relation); -1: there is no such fact."""
    fact_of_ER: IntArray
    """(E, R) int32 index of the fact of (head, relation); -1: there is none."""
    fingerprint: str
    """Hash of facts, split and tokens."""
    source: str | None = None
    """The file or directory the facts came from; None: generated."""
    notes: tuple[str, ...] = ()
    """What of the file is not in the facts, as sentences."""
    further_G3: IntArray = field(default_factory=lambda: np.empty((0, 3), dtype=np.int32))
    """(G, 3) int32 further tails of heads and relations among the facts, sorted: `answers`."""


def build_world(spec: WorldSpec, seeds: Seeds) -> World:
    """Generate the facts, or read them from `spec.facts_file`; then split them into ID and OOD.

    Depends on `seeds.world` (facts) and `seeds.split` (OOD mask) alone. A reference directory brings its own
    split.

    Raises:
        InputError: the size is impossible, the file cannot be read as facts, or is not the one that
            `spec.facts_sha256` says.
    """
    if spec.facts_sha256 is not None:
        pinned(spec)
    raw = _generate(spec, seeds) if spec.facts_file is None else _read(Path(spec.facts_file), spec)
    facts = len(raw.fact_F3)
    ood_F = raw.ood_F
    if ood_F is None:
        ood_F = np.zeros(facts, dtype=bool)
        count = round(spec.ood_fraction * facts)
        if spec.ood_fraction > 0 and count == 0:
            raise InputError(
                f"ood_fraction = {spec.ood_fraction} of {facts} facts is not a single OOD fact; "
                f"use at least {1 / facts:.2g}, or 0 for none."
            )
        ood_F[generator("split", seeds.split, 0).choice(facts, count, replace=False)] = True
    made = make_world(raw.vocabulary, raw.fact_F3, ood_F, spec.facts_file, raw.further_G3)
    return replace(made, notes=raw.notes)


def make_world(
    vocabulary: Vocabulary,
    fact_F3: IntArray,
    ood_F: BoolArray,
    source: str | None = None,
    further_G3: IntArray | None = None,
) -> World:
    """A world of given facts, which must be sorted by (head, relation) and name no (head, relation) twice.

    Raises:
        InputError: entities x relations is too large for dense lookups.
    """
    entities, relations = len(vocabulary.entity_ids), len(vocabulary.relation_ids)
    _check_cells(entities, relations)
    tail_of_ER = np.full((entities, relations), -1, dtype=np.int32)
    fact_of_ER = np.full((entities, relations), -1, dtype=np.int32)
    tail_of_ER[fact_F3[:, 0], fact_F3[:, 1]] = fact_F3[:, 2]
    fact_of_ER[fact_F3[:, 0], fact_F3[:, 1]] = np.arange(len(fact_F3), dtype=np.int32)
    if further_G3 is None:
        further_G3 = np.empty((0, 3), dtype=np.int32)
    further = [further_G3.astype(np.int32)] if len(further_G3) else []
    mark = fingerprint([fact_F3.astype(np.int32), ood_F, *vocabulary.tokens, *further])
    return World(
        fact_F3,
        ood_F,
        entities,
        relations,
        vocabulary,
        tail_of_ER,
        fact_of_ER,
        fingerprint=mark,
        source=source,
        further_G3=further_G3,
    )


def _generate(spec: WorldSpec, seeds: Seeds) -> RawFacts:
    """`degree` distinct relations per entity (the smallest of R random keys), each to a uniform tail."""
    entities, relations, degree = spec.entities, spec.relations, spec.degree
    _check_cells(entities, relations)
    rng = generator("world", seeds.world)
    key_ER = rng.random((entities, relations), dtype=np.float32)
    relation_ED = np.sort(np.argpartition(key_ER, degree - 1, axis=1)[:, :degree], axis=1)
    fact_F3 = np.empty((entities * degree, 3), dtype=np.int32)
    fact_F3[:, 0] = np.repeat(np.arange(entities), degree)
    fact_F3[:, 1] = relation_ED.ravel()
    fact_F3[:, 2] = rng.integers(0, spec.values or entities, size=entities * degree)
    vocabulary = standard_vocabulary(
        [f"<e_{number}>" for number in range(entities)], [f"<r_{number}>" for number in range(relations)]
    )
    return RawFacts(vocabulary, fact_F3, None)


def _read(path: Path, spec: WorldSpec) -> RawFacts:
    if not path.is_dir():
        return facts_of(read_triples(path), spec.several_tails)
    if spec.several_tails != "refuse":
        raise InputError(
            f"several_tails = {spec.several_tails!r}: only a table of triples can have several; {path} is a "
            "directory."
        )
    data = read_reference(path)
    return RawFacts(data.vocabulary, data.fact_F3, data.ood_F)


def _check_cells(entities: int, relations: int) -> None:
    if entities * relations > MOST_CELLS:
        raise InputError(
            f"entities = {entities} and relations = {relations} are too many: "
            f"entities x relations must be at most {MOST_CELLS}."
        )
