"""Invariants of every corpus, checked whenever one is built or read. A breach is a bug, not bad input.

Shape suffixes: N trained compositions, P probes, K hops, F facts.
"""

from collections.abc import Mapping

import numpy as np

from grokscope.world.arrays import BoolArray, IntArray, contains
from grokscope.world.graph import World
from grokscope.world.injection import partners_per_fact
from grokscope.world.probes import ProbeSet, patterns
from grokscope.world.queries import Queries
from grokscope.world.spec import CorpusSpec, Regime


def check_corpus(
    world: World, spec: CorpusSpec, regime: Regime, composition: Queries, probes: Mapping[str, ProbeSet]
) -> None:
    """Check facts, trained compositions, injections and probes.

    Raises:
        RuntimeError: an invariant is broken; the message says which.
    """
    _check_facts(world)
    id_N = _check_queries(composition, world, "a trained composition")
    fact_NK = composition.fact_NK(world) if len(id_N) else np.zeros((0, spec.hops), dtype=np.int32)
    _require(
        bool((world.ood_F[fact_NK].sum(axis=1) <= 1).all()), "a composition with two OOD hops is trained"
    )
    seen: list[IntArray] = []
    for name, probe_set in probes.items():
        _check_probes(name, probe_set, world, id_N, spec.hops)
        if not spec.as_in_file:
            _require(not probe_set.queries.degenerate().any(), f"{name} has a degenerate probe")
        seen.append(probe_set.id_P)
    all_P = np.concatenate(seen) if seen else np.empty(0, dtype=np.int64)
    _require(len(np.unique(all_P)) == len(all_P), "a probe stands in two sets")
    if not spec.as_in_file:
        _check_regime(spec, regime, fact_NK, world.ood_F, probes)


def _check_facts(world: World) -> None:
    head_F, relation_F, tail_F = world.fact_F3.T
    cell_F = head_F.astype(np.int64) * world.relations + relation_F
    _require(bool((np.diff(cell_F) > 0).all()), "the facts are not sorted and unique by (head, relation)")
    _require(bool((world.tail_of_ER[head_F, relation_F] == tail_F).all()), "tail_of_ER contradicts the facts")
    _require(int((world.fact_of_ER >= 0).sum()) == len(head_F), "fact_of_ER misses a fact")


def _check_queries(queries: Queries, world: World, what: str) -> IntArray:
    """Ids, after checking that they ascend and that every hop is a fact with the tail on the path."""
    id_N = queries.stable_id(world.entities, world.relations)
    _require(bool((np.diff(id_N) > 0).all()), f"{what} is repeated or out of order")
    _require(bool(queries.holds(world).all()), f"{what} is not true")
    return id_N


def _check_probes(name: str, probe_set: ProbeSet, world: World, trained_N: IntArray, hops: int) -> None:
    queries = probe_set.queries
    id_P = _check_queries(queries, world, f"a probe of {name}")
    _require(bool((id_P == probe_set.id_P).all()), f"an id of {name} is wrong")
    pattern_K = np.array([letter == "O" for letter in patterns(hops)[name]])
    _require(
        bool((world.ood_F[queries.fact_NK(world)] == pattern_K).all()),
        f"{name} has a probe of another pattern",
    )
    if queries.hops > 1:
        trained_P = contains(trained_N, id_P)
        if name == "train_inferred":
            _require(bool(trained_P.all()), "a probe of train_inferred is not trained")
        else:
            _require(not trained_P.any(), f"a probe of {name} is trained")
    for control_P in probe_set.control_PL.values():
        _require(bool((control_P[:, None] != queries.entity_NX).all()), f"a control of {name} is on the path")


def _check_regime(
    spec: CorpusSpec, regime: Regime, fact_NK: IntArray, ood_F: BoolArray, probes: Mapping[str, ProbeSet]
) -> None:
    """No fact is injected more often than the regime says, none that test_ood does not use in this role."""
    for hop, (ratio, _) in enumerate(regime.injection[: spec.hops]):
        fact_N = fact_NK[:, hop]
        injected, times = np.unique(fact_N[ood_F[fact_N]], return_counts=True)
        if len(injected) == 0:
            continue
        _require(int(times.max()) <= partners_per_fact(regime, hop, spec.phi), "a fact is injected too often")
        target = np.unique(probes["test_ood"].fact_PK[:, hop])
        _require(
            bool(np.isin(injected, target).all()),
            "a fact is injected that test_ood does not use in this role",
        )
        _require(
            len(injected) <= round(ratio * len(target)), "more facts are injected than the regime's share"
        )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(f"internal error in the corpus: {otherwise}.")
