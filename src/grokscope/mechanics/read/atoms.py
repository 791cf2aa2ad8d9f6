"""Which queries rest on atoms that are known: a delay in memorising the atoms must not pass for grokking.

Shape legend: N steps, P probes, F facts, K hops.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.mechanics.read.layout import select


@dataclass(frozen=True)
class AtomsKnown:
    """For every query of a set, whether all its facts are answered right as atomic queries at that
    checkpoint.
    """

    known_NP: NDArray[np.bool_]
    """False where a fact is wrong or not covered."""
    covered_P: NDArray[np.bool_]
    """Every fact of the query is among the atomic probes of the trace (they may be capped)."""


def atoms_known(trace: xr.Dataset, name: str) -> AtomsKnown:
    """Match the facts of the queries of set `name` with the atomic probes of the same trace, by fact number.

    Raises:
        InputError: the trace has no such set.
    """
    facts_PK = select(trace, name)["fact"].values
    right_NF = _atoms_right(trace, int(max(facts_PK.max(), trace["fact"].values.max())) + 1)
    hops_NPK = right_NF[:, facts_PK]
    return AtomsKnown(known_NP=(hops_NPK == 1).all(axis=2), covered_P=(hops_NPK[0] >= 0).all(axis=1))


def _atoms_right(trace: xr.Dataset, facts: int) -> NDArray[np.int8]:
    """(N, F): 1 answered right, 0 wrong, -1 no atomic probe."""
    exact_NP = trace["exact"].values.reshape(-1, trace.sizes["probe"])
    facts_PK = trace["fact"].values
    atomic = np.flatnonzero((facts_PK >= 0).sum(axis=1) == 1)
    right_NF = np.full((len(exact_NP), facts), -1, dtype=np.int8)
    right_NF[:, facts_PK[atomic, 0]] = exact_NP[:, atomic]
    return right_NF
