"""New facts for a trained model: what it is fine-tuned on, and what it is asked.

Old and new facts stand in one world with the base's vocabulary, so that everything that reads a model (lens,
interchange, intervals) works on new queries as on old ones. Every new fact is trained as an atom. Of the
queries that use a new fact (the mixes: new_then_old, old_then_new, new_then_new) a sample is kept back as
probes before anything else is drawn; only then are k compositions per new fact taken from the rest.

A query is a probe only if both its facts are atoms of the fine-tuning data: else a failure would say nothing
of the composition.

Shape suffixes: F facts, N compositions, P probes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from grokscope.errors import InputError
from grokscope.seeds import Seeds, generator
from grokscope.statistics.rates import trials
from grokscope.world.arrays import BoolArray, IntArray, fingerprint, rank_within
from grokscope.world.corpus import Corpus
from grokscope.world.graph import World, make_world
from grokscope.world.newfacts_check import check_new_facts
from grokscope.world.newfacts_draw import draw_facts
from grokscope.world.newfacts_retained import retained
from grokscope.world.newfacts_spec import NewFactsSpec
from grokscope.world.pool import Pool, compositions, sample
from grokscope.world.probes import MIXES, NEW_PATTERNS, ProbeSet, make_probe_sets
from grokscope.world.queries import Queries, queries_of


@dataclass(frozen=True)
class Shortage:
    """A mix with fewer probes than were asked for."""

    mix: str
    asked: int
    n: int
    """Probes there are."""
    width: float
    """Width of the 95 % interval (Wilson) of a rate of 0.5 on that many independent probes; probes that
    share facts give a wider one. 1 without probes."""

    def sentence(self) -> str:
        """What to warn of."""
        if self.n == 0:
            return f"{self.mix} has no probe in this data: nothing can be said of it."
        return (
            f"{self.mix} has {self.n} of {self.asked} probes: its rates have 95 % intervals up to "
            f"{self.width:.2f} wide."
        )


@dataclass(frozen=True, eq=False)
class NewFacts:
    """The fine-tuning data of a transfer and its probes."""

    spec: NewFactsSpec
    world: World
    """Old and new facts together, in the base's vocabulary; a new fact counts as OOD."""
    new_F: BoolArray
    """(F,) which facts are new."""
    retained_F: BoolArray
    """(F,) which old facts are atoms of the fine-tuning data."""
    retained: Queries
    """Old compositions in the fine-tuning data."""
    taught: Queries
    """Trained compositions that use a new fact: the k of the spec."""
    composed: Queries
    """Every two-hop query trained before or now, sorted: what a memory can hold."""
    probes: dict[str, ProbeSet]
    """The base's probe sets (id_atomic with every old fact that a mix uses), then `NEW_PATTERNS`; in the
    numbering of `world`, with the exposure of the fine-tuning data. A set without questions is absent."""
    shortages: tuple[Shortage, ...]
    """Mixes with fewer probes than asked for."""
    fingerprint: str
    """Hash of facts, fine-tuning data and probes."""

    @property
    def new_atoms(self) -> Queries:
        """The new facts as one-hop queries."""
        return queries_of(self.world, np.flatnonzero(self.new_F)[:, None])

    @property
    def retained_atoms(self) -> Queries:
        """The retained old facts as one-hop queries."""
        return queries_of(self.world, np.flatnonzero(self.retained_F)[:, None])

    def summary(self) -> dict[str, Any]:
        """Counts, as plain JSON values."""
        return {
            "new_facts": int(self.new_F.sum()),
            "retained_atoms": int(self.retained_F.sum()),
            "retained_compositions": len(self.retained),
            "taught_compositions": len(self.taught),
            "probes": {name: len(probe_set) for name, probe_set in self.probes.items()},
            "fingerprint": self.fingerprint,
        }


def build_new_facts(corpus: Corpus, spec: NewFactsSpec, seeds: Seeds) -> NewFacts:
    """Draw new facts for a model that was trained on `corpus`.

    Args:
        corpus: what the base was trained on.
        spec: how many, and what stays of the old data.
        seeds: the base's; `seeds.split` is used, with `spec.seed`.

    Raises:
        InputError: the world has no room for so many new facts, or not so much old data.
        RuntimeError: an invariant is broken (see `newfacts_check`).
    """
    if corpus.spec.task != "chain":
        raise InputError(
            f"corpus.task = {corpus.spec.task!r}: new facts are asked in chains of two; it must be chain."
        )
    if corpus.spec.hops != 2:
        raise InputError(
            f"corpus.hops = {corpus.spec.hops}: new facts are asked in two-hop queries; it must be 2."
        )
    facts, keep, draw, teach_first, teach_second = (
        generator("newfacts", seeds.split, spec.seed, number) for number in range(5)
    )
    old = corpus.world
    new_F3 = draw_facts(old, spec, facts)
    kept_F, kept_N2 = retained(corpus, spec.retention, keep)
    world, place_F = _union(old, new_F3)
    new_F = np.zeros(len(world.fact_F3), dtype=bool)
    new_F[place_F[len(old.fact_F3) :]] = True
    retained_F = np.zeros(len(world.fact_F3), dtype=bool)
    retained_F[place_F[np.flatnonzero(kept_F)]] = True
    # An old hop is an ID fact: whether the base composes its OOD facts at all is another question.
    old_F = retained_F & ~world.ood_F
    pool = compositions(world)
    rows = {name: sample(_mix(pool, name, new_F, old_F), spec.probes, draw) for name in MIXES}
    asked_N = np.zeros(len(pool.fact_NK), dtype=bool)
    for chosen in rows.values():
        asked_N[chosen] = True
    taught = np.sort(
        np.concatenate(
            [
                _taught(pool, 0, spec, ~asked_N, new_F, world, teach_first),
                _taught(pool, 1, spec, ~asked_N, new_F, world, teach_second),
            ]
        )
    )
    kept_N2, before_N2 = place_F[kept_N2], place_F[corpus.composition.fact_NK(old)]
    taught_N2 = pool.fact_NK[taught]
    by_set = {name: place_F[probe_set.fact_PK] for name, probe_set in corpus.probes.items()}
    by_set |= {name: pool.fact_NK[chosen] for name, chosen in rows.items()}
    by_set["new_atomic"] = np.flatnonzero(new_F)[:, None]
    by_set["id_atomic"] = _with_used(by_set, new_F)
    probes = make_probe_sets(world, by_set, _exposure(new_F | retained_F, kept_N2, taught_N2), seeds)
    out = NewFacts(
        spec=spec,
        world=world,
        new_F=new_F,
        retained_F=retained_F,
        retained=queries_of(world, kept_N2),
        taught=queries_of(world, taught_N2),
        composed=queries_of(world, _sorted(np.concatenate([before_N2, taught_N2]))),
        probes=probes,
        shortages=tuple(_shortages(probes, spec.probes)),
        fingerprint=fingerprint(
            [world.fingerprint, new_F, retained_F, kept_N2.astype(np.int32), taught_N2.astype(np.int32)]
            + [part for name, one in probes.items() for part in (name, one.id_P)]
        ),
    )
    check_new_facts(world, new_F, retained_F, out.retained, out.taught, probes)
    return out


def _union(old: World, new_F3: IntArray) -> tuple[World, IntArray]:
    """The world of old and new facts, and where each of them (old first) stands in it."""
    every_F3 = np.concatenate([old.fact_F3, new_F3])
    ood_F = np.concatenate([old.ood_F, np.ones(len(new_F3), dtype=bool)])
    order_F = np.lexsort((every_F3[:, 1], every_F3[:, 0]))
    place_F = np.empty(len(order_F), dtype=np.int32)
    place_F[order_F] = np.arange(len(order_F), dtype=np.int32)
    return (
        make_world(old.vocabulary, every_F3[order_F], ood_F[order_F], old.source, old.further_G3),
        place_F,
    )


def _mix(pool: Pool, name: str, new_F: BoolArray, old_F: BoolArray) -> IntArray:
    """Rows of the pool that can be probes of a mix."""
    first_F, second_F = ({"N": new_F, "I": old_F}[letter] for letter in NEW_PATTERNS[name])
    fine_N = first_F[pool.fact_NK[:, 0]] & second_F[pool.fact_NK[:, 1]] & ~pool.degenerate_N
    return np.flatnonzero(fine_N)


def _taught(
    pool: Pool,
    hop: int,
    spec: NewFactsSpec,
    free_N: BoolArray,
    new_F: BoolArray,
    world: World,
    rng: np.random.Generator,
) -> IntArray:
    """Rows of up to k compositions per new fact as `hop` (0 or 1) whose other hop is any old ID fact.

    Drawn over all candidates and cut at k, so that a larger k holds those of a smaller one.
    """
    rows = np.flatnonzero(
        free_N & new_F[pool.fact_NK[:, hop]] & ~world.ood_F[pool.fact_NK[:, 1 - hop]] & ~pool.degenerate_N
    )
    rank = rank_within(pool.fact_NK[rows, hop], rng.random(len(rows)))
    wanted = spec.k if spec.roles in ("both", ("first", "second")[hop]) else 0
    out: IntArray = rows[rank < wanted]
    return out


def _with_used(by_set: dict[str, IntArray], new_F: BoolArray) -> IntArray:
    """id_atomic with every old fact that a mix uses, so that it can be said whose atoms are known."""
    used = np.unique(np.concatenate([by_set[name].ravel() for name in MIXES]))
    listed = by_set.get("id_atomic", np.empty((0, 1), dtype=np.int32))[:, 0]
    return np.union1d(listed, used[~new_F[used]])[:, None]


def _exposure(atom_F: BoolArray, *fact_N2: IntArray) -> IntArray:
    """(F, 3) unique fine-tuning examples per fact: as atom, hop 1, hop 2."""
    every_N2 = np.concatenate(fact_N2)
    hops = [np.bincount(every_N2[:, k], minlength=len(atom_F)) for k in (0, 1)]
    return np.stack([atom_F.astype(np.int64), *hops], axis=1).astype(np.int32)


def _sorted(fact_N2: IntArray) -> IntArray:
    return fact_N2[np.lexsort((fact_N2[:, 1], fact_N2[:, 0]))]


def _shortages(probes: dict[str, ProbeSet], asked: int) -> list[Shortage]:
    counts = {name: len(probes[name]) if name in probes else 0 for name in MIXES}
    return [Shortage(name, asked, n, _width(n)) for name, n in counts.items() if n < asked]


def _width(n: int) -> float:
    """Width of Wilson's 95 % interval around 0.5, as nearly as n allows; 1 for n = 0."""
    if n == 0:
        return 1.0
    interval = trials(n // 2 / n, n)
    return interval.high - interval.low
