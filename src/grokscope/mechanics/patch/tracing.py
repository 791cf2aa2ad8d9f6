"""Causal tracing, as Wang et al. (NeurIPS 2024, "Grokked Transformers are Implicit Reasoners") define it.

For each of h, r1 and r2 a corrupted input is drawn: the query with that one token exchanged, such that it is
still a question with an answer, and the answer differs. The state at that token's position at one stage is
replaced by the corrupted run's, the rest is recomputed, and the effect is the share of queries whose answer
(rank 0) changes. 300 training queries per checkpoint.

It says where a token still matters, not what is represented there: that is what `interchange` is for.

Shapes: P probes, X tokens that are corrupted, L stages.
"""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.mechanics.patch.engine import Source
from grokscope.mechanics.patch.interchange import Setting
from grokscope.mechanics.patch.maps import PatchMap
from grokscope.mechanics.unrolled import STATE, answers
from grokscope.models.protocol import Reasoner
from grokscope.seeds import generator
from grokscope.statistics.clustered import clustered_rate
from grokscope.world.graph import World
from grokscope.world.probes import ProbeSet
from grokscope.world.queries import Queries

PROBES = 300
"""Queries traced (the predecessor's number)."""
TOKENS = ("head", "relation1", "relation2")
"""What is corrupted, by role."""


def causal_trace(
    model: Reasoner, probe_set: ProbeSet, setting: Setting, probes: int = PROBES, confidence: float = 0.95
) -> xr.Dataset:
    """Effect of every token at every stage.

    Args:
        model: any reasoner. probe_set: two-hop probes, train_inferred in the predecessor's protocol; the
        first `probes` of a random order
            are traced.
        setting: the world, the format, the seed, the memory.
        probes: how many.
        confidence: level of the intervals.

    Returns:
        `effect`, `low`, `high` (token, stage), NaN for a token without any corrupted input; `n` (token);
        `changed` (token, stage, probe) with `corrupted` (token, probe), whether a corrupted input exists.

    Raises:
        InputError: the probes do not have two hops.
    """
    if probe_set.queries.hops != 2:
        raise InputError(
            f"probe set {probe_set.name!r} has {probe_set.queries.hops}-hop queries: 2 are needed."
        )
    rng = generator("interchange", setting.seed, 300)
    rows = np.sort(rng.permutation(len(probe_set.id_P))[:probes])
    queries, fact_PK = probe_set.queries.take(rows), probe_set.fact_PK[rows]
    base = setting.encode(queries)
    answer_P = setting.tokens_of(queries.path_NK[:, 1])
    clean_P, _ = answers(model, base.tokens_NS, base.answer_position, answer_P)
    shape = (len(TOKENS), len(model.stages))
    changed_XLP = np.zeros((*shape, len(rows)), dtype=bool)
    there_XP = np.zeros((len(TOKENS), len(rows)), dtype=bool)
    effect_XL, low_XL, high_XL = (np.full(shape, np.nan) for _ in range(3))
    for x, token in enumerate(TOKENS):
        corrupted, there_P = corrupt(setting.world, queries, token, rng)
        there_XP[x] = there_P
        if not there_P.any():
            continue
        tokens_PS = setting.encode(corrupted).tokens_NS.astype(np.int64)
        place = (model.prefix + base.roles.index(token),)
        source = Source(tokens_PS[:, None], there_P[:, None])
        patched = PatchMap(
            model,
            base.tokens_NS,
            base.answer_position,
            answer_P,
            {token: source},
            {token: place},
            budget=setting.budget,
        ).fill()
        changed_XLP[x] = patched.said[STATE][0, :, 0] != clean_P
        for stage in range(shape[1]):
            rate = clustered_rate(changed_XLP[x, stage, there_P], fact_PK[there_P], confidence)
            effect_XL[x, stage], low_XL[x, stage], high_XL[x, stage] = rate.value, rate.low, rate.high
    cells = ("token", "stage")
    return xr.Dataset(
        {
            "effect": (cells, effect_XL),
            "low": (cells, low_XL),
            "high": (cells, high_XL),
            "n": (("token",), there_XP.sum(axis=1)),
            "changed": ((*cells, "probe"), changed_XLP),
            "corrupted": (("token", "probe"), there_XP),
        },
        coords={
            "token": list(TOKENS),
            "stage": [stage.name for stage in model.stages],
            "probe": np.asarray(probe_set.id_P[rows], dtype=np.int64),
            "fact": (("probe", "hop"), np.asarray(fact_PK, dtype=np.int64)),
        },
    )


def corrupt(
    world: World, queries: Queries, token: str, rng: np.random.Generator
) -> tuple[Queries, NDArray[np.bool_]]:
    """The queries with one token exchanged, uniformly among those that have another answer.

    Returns:
        The corrupted queries, and whether there is one; where there is none the query stands as it was.
    """
    head_N, relation_NK, path_NK = (x.copy() for x in (queries.head_N, queries.relation_NK, queries.path_NK))
    there_N = np.zeros(len(queries), dtype=bool)
    tail_of = world.tail_of_ER
    for n in range(len(queries)):
        head, (one, two) = int(head_N[n]), relation_NK[n].tolist()
        choices: NDArray[Any] = np.arange(world.entities if token == "head" else world.relations)
        if token == "head":
            bridge_X, second_X = tail_of[choices, one], np.full(len(choices), two)
        elif token == "relation1":
            bridge_X, second_X = tail_of[head, choices], np.full(len(choices), two)
        else:
            bridge_X, second_X = np.full(len(choices), tail_of[head, one]), choices
        end_X = np.where(bridge_X >= 0, tail_of[np.maximum(bridge_X, 0), second_X], -1)
        fine_X = np.flatnonzero((end_X >= 0) & (end_X != path_NK[n, 1]))
        if not len(fine_X):
            continue
        pick = int(fine_X[rng.integers(len(fine_X))])
        there_N[n] = True
        if token == "head":
            head_N[n] = pick
        else:
            relation_NK[n, TOKENS.index(token) - 1] = pick
        path_NK[n] = bridge_X[pick], end_X[pick]
    return Queries(head_N, relation_NK, path_NK), there_N
