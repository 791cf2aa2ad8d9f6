"""The corpus: what the model is shown, and what it is asked.

Every fact is trained as an atom. Of the compositions of ID facts a sample of phi per fact is trained; a
regime may inject compositions with one OOD hop; a composition with more is never trained.

Shape suffixes: N trained compositions, P probes, K hops, F facts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grokscope.errors import InputError
from grokscope.seeds import Seeds, generator
from grokscope.world.arrays import BoolArray, IntArray, contains, fingerprint
from grokscope.world.check import check_corpus
from grokscope.world.comparisons import queries_about
from grokscope.world.graph import World, make_world
from grokscope.world.identity import identity_token
from grokscope.world.injection import injected_rows
from grokscope.world.pool import RESERVING, HeldOut, Pool, compositions, hold_out, reserve, sample, weighted
from grokscope.world.probes import ONE_OOD, ProbeSet, exposure, make_probe_sets
from grokscope.world.queries import Queries, atoms, queries_of
from grokscope.world.reference_read import ReferenceData, read_reference
from grokscope.world.spec import CorpusSpec, Regime

SKEW = 7
"""Number of the stream that ranks facts, among those of "corpus"."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A world, what of it is trained, and the probe sets."""

    world: World
    regime: Regime
    spec: CorpusSpec
    composition: Queries
    """The trained queries of `spec.hops` hops, sampled and injected, no duplicates, by (head, relations)."""
    injected: tuple[int, ...]
    """Per hop, the trained compositions in which it is OOD."""
    probes: dict[str, ProbeSet]
    """Probe sets by name, in the order of `patterns`; a set without questions is absent."""
    fingerprint: str
    """Hash of the world, the trained compositions and the probes."""

    @property
    def atomic(self) -> Queries:
        """The trained one-hop queries: every fact, ID and OOD."""
        return atoms(self.world)

    def summary(self) -> dict[str, Any]:
        """The counts that `grokscope world inspect --json` prints."""
        facts, ood = len(self.world.fact_F3), int(self.world.ood_F.sum())
        further = {"further_tails": len(self.world.further_G3)} if len(self.world.further_G3) else {}
        identity = {"train_identity": self.world.entities} if self.spec.identity_relation else {}
        return {
            "entities": self.world.entities,
            "relations": self.world.relations,
            "facts": facts,
            **further,
            "id_facts": facts - ood,
            "ood_facts": ood,
            "train_atomic": facts,
            "train_compositions": len(self.composition),
            **identity,
            **{f"injected_hop{hop}": count for hop, count in enumerate(self.injected, start=1)},
            "probes": {name: len(probe_set) for name, probe_set in self.probes.items()},
            "fingerprint": self.fingerprint,
        }


def build_corpus(world: World, spec: CorpusSpec, regime: Regime, seeds: Seeds) -> Corpus:
    """Draw a corpus. `seeds.split` draws the held-out probes, `seeds.corpus` the sample and the injections.

    All probe sets are identical in all regimes (but for `injected_PK` and `exposure_PK3`). With
    `spec.as_in_file` the corpus is exactly what the reference directory of the world holds.

    Raises:
        InputError: phi is larger than the world allows, there is nothing to test or to inject, or
            `as_in_file` is asked of a world that is not from a reference directory.
    """
    if spec.as_in_file:
        return _as_in_file(world, spec, regime, seeds)
    if regime.injects and not world.ood_F.any():
        raise InputError(
            f"regime {regime.name!r} injects OOD facts, and with ood_fraction = 0 there are none."
        )
    pool = compositions(world, spec.hops, spec.task)
    held = hold_out(pool, world, spec, seeds)
    held_N = held.mask(len(pool.fact_NK))
    sampled = _phi_sample(pool, held_N, world, spec, seeds)
    trained_N = np.zeros(len(pool.fact_NK), dtype=bool)
    trained_N[sampled] = True
    trained_N[injected_rows(pool, held.test_ood, held_N, regime, spec.phi, seeds)] = True
    probes = _probe_facts(pool, held, sampled, world, spec, seeds)
    return assemble(world, spec, regime, pool.fact_NK[trained_N], probes, seeds)


def assemble(
    world: World,
    spec: CorpusSpec,
    regime: Regime,
    fact_NK: IntArray,
    probes: dict[str, IntArray],
    seeds: Seeds,
) -> Corpus:
    """A checked corpus from the facts that its trained compositions (N, K) and its probes (P, K) chain.

    Rows must be sorted and unique.

    Raises:
        InputError: the vocabulary has no token for the identity relation that is asked for.
        RuntimeError: the corpus breaks an invariant (see `check_corpus`).
    """
    sets = make_probe_sets(world, probes, exposure(world, fact_NK), seeds, spec.task)
    identity = [f"identity {identity_token(world.vocabulary)}"] if spec.identity_relation else []
    marks = [part for name, probe_set in sets.items() for part in (name, probe_set.id_P)]
    corpus = Corpus(
        world=world,
        regime=regime,
        spec=spec,
        composition=queries_about(world, fact_NK, spec.task),
        injected=tuple(world.ood_F[fact_NK].sum(axis=0).tolist()),
        probes=sets,
        fingerprint=fingerprint([world.fingerprint, fact_NK.astype(np.int32), *marks, *identity]),
    )
    check_corpus(world, spec, regime, corpus.composition, sets)
    return corpus


def reference_corpus(data: ReferenceData, source: str | None = None, seeds: Seeds | None = None) -> Corpus:
    """The corpus a reference data set holds, as it is: its facts, its split, its compositions, its test sets.

    first_hop_ood and second_hop_ood are derived from what is not trained if the test file has no such items.
    The regime is called "as_in_file"; `spec.phi` is what the file comes to.

    Raises:
        InputError: the file trains what it tests, or a composition of two OOD hops.
    """
    world = make_world(data.vocabulary, data.fact_F3, data.ood_F, source)
    return _of_reference(
        data, world, CorpusSpec(as_in_file=True), Regime(name="as_in_file"), seeds or Seeds()
    )


def _as_in_file(world: World, spec: CorpusSpec, regime: Regime, seeds: Seeds) -> Corpus:
    if regime.injects:
        raise InputError(
            f"regime {regime.name!r} injects, but as_in_file = true leaves the compositions to the file."
        )
    if world.source is None or not Path(world.source).is_dir():
        raise InputError(
            f"as_in_file = true needs facts_file to be a reference directory, got {world.source!r}."
        )
    return _of_reference(read_reference(Path(world.source)), world, spec, regime, seeds)


def _of_reference(
    data: ReferenceData, world: World, spec: CorpusSpec, regime: Regime, seeds: Seeds
) -> Corpus:
    fact_N2 = data.fact_N2
    sampled = int((~data.ood_F[fact_N2]).all(axis=1).sum())
    spec = spec.replace(phi=sampled / max(1, int((~data.ood_F).sum())))
    probes = dict(data.probes)
    pool = compositions(world)
    id_N = queries_of(world, pool.fact_NK).stable_id(world.entities, world.relations)
    taken_N = contains(queries_of(world, fact_N2).stable_id(world.entities, world.relations), id_N)
    for hop, name in enumerate(ONE_OOD[: pool.hops]):
        if name not in probes:
            free_N = pool.rows(hop) & ~pool.degenerate_N & ~taken_N
            rows = reserve(pool, hop, free_N, spec, generator("split", seeds.split, RESERVING[hop]))
            probes[name] = pool.fact_NK[rows]
    return assemble(world, spec, regime, fact_N2, probes, seeds)


def _phi_sample(pool: Pool, held_N: BoolArray, world: World, spec: CorpusSpec, seeds: Seeds) -> IntArray:
    """Rows of the compositions of ID facts that every regime trains, ascending."""
    rows = np.flatnonzero(pool.rows() & ~held_N)
    id_facts = int((~world.ood_F).sum())
    wanted = round(spec.phi * id_facts)
    if wanted > len(rows):
        largest = len(rows) * 1000 // id_facts / 1000
        raise InputError(
            f"phi = {spec.phi} asks for {wanted} compositions of {id_facts} ID facts, but {len(rows)} are "
            f"left beside test_iid; phi can be at most {largest:g} here."
        )
    if spec.skew == 0:
        return sample(rows, wanted, generator("corpus", seeds.corpus, 1))
    weight_F = -spec.skew * np.log1p(generator("corpus", seeds.corpus, SKEW).permutation(len(world.fact_F3)))
    return weighted(
        rows, weight_F[pool.fact_NK[rows]].sum(axis=1), wanted, generator("corpus", seeds.corpus, 1)
    )


def _probe_facts(
    pool: Pool, held: HeldOut, sampled: IntArray, world: World, spec: CorpusSpec, seeds: Seeds
) -> dict[str, IntArray]:
    """(P, K) facts of every probe set. If the cap binds, ood_atomic takes the facts of test_ood first."""
    clean_F = world.fact_F3[:, 0] != world.fact_F3[:, 2]
    id_facts = np.flatnonzero(clean_F & ~world.ood_F)
    used = np.unique(pool.fact_NK[held.test_ood])
    others = np.setdiff1d(np.flatnonzero(clean_F & world.ood_F), used)
    used = sample(used, spec.probe_cap, generator("split", seeds.split, 6))
    others = sample(others, spec.probe_cap - len(used), generator("split", seeds.split, 7))
    trained = sampled[~pool.degenerate_N[sampled]]
    return {
        "id_atomic": sample(id_facts, spec.probe_cap, generator("split", seeds.split, 5))[:, None],
        "ood_atomic": np.sort(np.concatenate([used, others]))[:, None],
        "train_inferred": pool.fact_NK[sample(trained, spec.probe_cap, generator("corpus", seeds.corpus, 4))],
        "test_iid": pool.fact_NK[held.test_iid],
        "test_ood": pool.fact_NK[held.test_ood],
        **{name: pool.fact_NK[rows] for name, rows in zip(ONE_OOD, held.one_ood, strict=False)},
    }
