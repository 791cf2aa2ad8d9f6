"""Probe sets: the questions asked of every checkpoint, with all that is known of them.

Shape suffixes: P probes, K hops, F facts, E entities, R relations.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from grokscope.seeds import Seeds, generator
from grokscope.world.arrays import BoolArray, IntArray
from grokscope.world.comparisons import Comparisons, queries_about
from grokscope.world.controls import draw_controls, guess_of_relation
from grokscope.world.graph import World
from grokscope.world.queries import Queries
from grokscope.world.spec import Task

ONE_OOD = ("first_hop_ood", "second_hop_ood", "third_hop_ood", "fourth_hop_ood")
"""By hop, the probe set in which it alone rests on an OOD fact: where that set fails, that hop is missing."""


def patterns(hops: int) -> dict[str, str]:
    """Probe sets and the ID/OOD pattern of their hops. Atomic facts and train_inferred are trained, no
    other."""
    every = {"id_atomic": "I", "ood_atomic": "O"}
    every |= {"train_inferred": "I" * hops, "test_iid": "I" * hops, "test_ood": "O" * hops}
    one = {name: "".join("IO"[k == hop] for k in range(hops)) for hop, name in enumerate(ONE_OOD[:hops])}
    return every | one


PATTERNS = patterns(2)
"""Those of two hops."""

NEW_PATTERNS = {
    "new_atomic": "N",
    "new_then_old": "NI",
    "old_then_new": "IN",
    "new_then_new": "NN",
}
"""Probe sets about new facts (N) in a trained model. A new fact counts as OOD: it is shown as an atom, and in
compositions only if they are asked for. The new atoms are trained, the mixes are not."""
MIXES = tuple(name for name, pattern in NEW_PATTERNS.items() if len(pattern) == 2)


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Questions of one kind, ordered by stable id."""

    name: str
    """One of `patterns` or `NEW_PATTERNS`."""
    queries: Queries
    """The questions."""
    id_P: IntArray
    """(P,) int64, stable: a function of (head, relations) in this world; unique in a corpus."""
    fact_PK: IntArray
    """(P, K) int32 index of the fact each hop uses."""
    ood_PK: BoolArray
    """(P, K) whether that fact is OOD."""
    injected_PK: BoolArray
    """(P, K) whether it is an OOD fact that a trained composition uses in this very role (atomic: in any)."""
    exposure_PK3: IntArray
    """(P, K, 3) int32 how many unique training examples use that fact as atom, as hop 1, as hop 2; (P, K, 1 +
    hops) in a corpus of more hops."""
    guess_P: IntArray
    """(P,) int32 most frequent tail of the last relation over all facts (entity number); of comparisons the
    first entity."""
    control_PL: dict[str, IntArray]
    """Per latent (P,) int32: an entity of the same in-degree (nearest if none), not on the query's path."""
    pattern: str
    """Per hop ID (I), OOD (O) or new (N), such as "OI"."""

    def __len__(self) -> int:
        return len(self.id_P)

    def frame(self) -> pl.DataFrame:
        """One row per probe; entities, relations and facts as numbers."""
        hops = range(self.queries.hops)
        columns: dict[str, IntArray | BoolArray] = {"id": self.id_P, **self.queries.columns()}
        columns |= self.queries.latents()
        for k in hops:
            columns |= {
                f"fact{k + 1}": self.fact_PK[:, k],
                f"ood{k + 1}": self.ood_PK[:, k],
                f"injected{k + 1}": self.injected_PK[:, k],
                f"trained{k + 1}_atom": self.exposure_PK3[:, k, 0],
            }
            columns |= {
                f"trained{k + 1}_hop{role}": self.exposure_PK3[:, k, role]
                for role in range(1, self.exposure_PK3.shape[2])
            }
        columns["guess"] = self.guess_P
        columns |= {f"control_{name}": control_P for name, control_P in self.control_PL.items()}
        columns["degenerate"] = self.queries.degenerate()
        head = [pl.lit(self.name).alias("set"), pl.lit(self.pattern).alias("pattern")]
        return pl.DataFrame({key: np.ascontiguousarray(value) for key, value in columns.items()}).select(
            *head, pl.all()
        )


def exposure(world: World, fact_NK: IntArray) -> IntArray:
    """(F, 1 + K) int32 unique training examples per fact: as atom (1: all facts are trained), as each hop."""
    facts = len(world.fact_F3)
    hops = [np.bincount(fact_N, minlength=facts) for fact_N in fact_NK.T]
    return np.stack([np.ones(facts, dtype=np.int64), *hops], axis=1).astype(np.int32)


def make_probe_sets(
    world: World, fact_by_set: dict[str, IntArray], trained_F3: IntArray, seeds: Seeds, task: Task = "chain"
) -> dict[str, ProbeSet]:
    """Probe sets from the facts they chain; an empty set is left out.

    Args:
        world: the facts.
        fact_by_set: (P, K) fact indices per name of `patterns` or `NEW_PATTERNS`, sorted by row, no row
            twice.
        trained_F3: what `exposure` counted.
        seeds: `seeds.split` draws the control entities.
        task: what is asked of two facts and more.
    """
    guess_R = guess_of_relation(world)
    indegree_E = np.bincount(world.fact_F3[:, 2], minlength=world.entities)
    out = {}
    for number, (name, pattern) in enumerate((patterns(trained_F3.shape[1] - 1) | NEW_PATTERNS).items()):
        fact_PK = fact_by_set.get(name, np.empty((0, 1), dtype=np.int32)).astype(np.int32)
        if len(fact_PK) == 0:
            continue
        queries = queries_about(world, fact_PK, task)
        compares = isinstance(queries, Comparisons)
        rng = generator("split", seeds.split, 10, number)
        trained_PK3 = trained_F3[fact_PK]
        in_role_PK = np.stack([trained_PK3[:, k, 1 + k] for k in range(queries.hops)], axis=1)
        if queries.hops == 1:
            in_role_PK = trained_PK3[:, :, 1:].sum(axis=2)
        ood_PK = world.ood_F[fact_PK]
        out[name] = ProbeSet(
            name=name,
            queries=queries,
            id_P=queries.stable_id(world.entities, world.relations),
            fact_PK=fact_PK,
            ood_PK=ood_PK,
            injected_PK=ood_PK & (in_role_PK > 0),
            exposure_PK3=trained_PK3,
            guess_P=queries.head_N if compares else guess_R[queries.relation_NK[:, -1]],
            control_PL={
                latent: draw_controls(true_P, queries.entity_NX, indegree_E, rng)
                for latent, true_P in queries.latents().items()
            },
            pattern=pattern,
        )
    return out
