"""How probes of many sets lie in one dataset: joining the lens of each set, and taking one set out again.

Shape legend: P probes, K hops.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.world.format import Encoded
from grokscope.world.probes import ProbeSet


def some_probes(probe_set: ProbeSet, encoded: Encoded, most: int | None) -> tuple[ProbeSet, Encoded]:
    """At most `most` probes, evenly spaced in the order of their stable ids (None: all).

    Ids are ordered by head, so the first ones would all ask about the same few facts.
    """
    if most is None or most >= len(probe_set):
        return probe_set, encoded
    keep = np.arange(most) * len(probe_set) // most
    fewer = chosen_probes(probe_set, keep)
    return fewer, replace(encoded, tokens_NS=encoded.tokens_NS[keep], labels_NS=encoded.labels_NS[keep])


def chosen_probes(probe_set: ProbeSet, keep: NDArray[np.integer[Any]]) -> ProbeSet:
    """The probes of these row numbers, in this order."""
    arrays = {
        name: getattr(probe_set, name)[keep]
        for name in ("id_P", "fact_PK", "ood_PK", "injected_PK", "exposure_PK3", "guess_P")
    }
    controls = {name: entity_P[keep] for name, entity_P in probe_set.control_PL.items()}
    return replace(probe_set, queries=probe_set.queries.take(keep), control_PL=controls, **arrays)


def join(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """The lens of several probe sets of one model as one dataset, concatenated on `probe`.

    A variable that a set does not have (an atomic query has no bridge) gets rank -1 and log-probability NaN
    there, a hop that it does not have fact -1.
    """
    richest = max(parts, key=lambda part: part.sizes["variable"])
    names = list(
        dict.fromkeys(
            [
                *richest["variable"].values.tolist(),
                *(str(v) for part in parts for v in part["variable"].values),
            ]
        )
    )
    hops = max(part.sizes["hop"] for part in parts)

    def spread(part: xr.Dataset, name: str, absent: float) -> NDArray[Any]:
        out = np.full((part.sizes["probe"], len(names), *part[name].shape[2:]), absent, part[name].dtype)
        out[:, [names.index(variable) for variable in part["variable"].values]] = part[name].values
        return out

    def padded(part: xr.Dataset, name: str, absent: int) -> NDArray[Any]:
        missing = hops - part.sizes["hop"]
        return np.pad(part[name].values, ((0, 0), (0, missing)), constant_values=absent)

    def stacked(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(list(arrays))

    cells = ("probe", "variable", "stage", "position")
    return xr.Dataset(
        {
            "rank": (cells, stacked(spread(part, "rank", -1) for part in parts)),
            "logp": (cells, stacked(spread(part, "logp", np.nan) for part in parts)),
            "argmax": (("probe", "stage", "position"), stacked(part["argmax"].values for part in parts)),
            "exact": (("probe",), stacked(part["exact"].values for part in parts)),
        },
        coords={
            "fact": (("probe", "hop"), stacked(padded(part, "fact", -1) for part in parts)),
            "injected": (("probe", "hop"), stacked(padded(part, "injected", 0) for part in parts)),
            "variable": np.array(names, dtype=str),
            "stage": parts[0]["stage"].values,
            "position": parts[0]["position"].values,
            "defined": (
                ("set", "variable"),
                np.array([[n in p["variable"].values for n in names] for p in parts]),
            ),
            **{
                name: (parts[0][name].dims, stacked(part[name].values for part in parts))
                for name in ("probe", "probe_set", "set", "pattern", "answer_position", "role", "counted")
            },
        },
    )


def select(trace: xr.Dataset, name: str) -> xr.Dataset:
    """The probes of one set, with the hops and variables that it has and `role` on `position`.

    Raises:
        InputError: the trace has no such set.
    """
    known = trace["set"].values.tolist()
    if name not in known:
        raise InputError(f"probe set {name!r} is not in this trace; it holds {', '.join(known)}.")
    row = known.index(name)
    probes_P = np.flatnonzero(trace["probe_set"].values == name)
    hops_K = np.flatnonzero((trace["fact"].values[probes_P] >= 0).any(axis=0))
    return trace.isel(
        probe=probes_P, hop=hops_K, variable=np.flatnonzero(trace["defined"].values[row]), set=row
    )


def ranks(trace: xr.Dataset) -> xr.Dataset:
    """The trace with all coordinates and nothing measured but ranks: what decoding rates read."""
    return trace.drop_vars([name for name in trace.data_vars if name != "rank"])


def layout(dataset: xr.Dataset) -> str:
    """Hash of the coordinates: shards that share it can be laid side by side."""
    digest = hashlib.sha256()
    for name in sorted(str(name) for name in dataset.coords):
        values = dataset[name].values
        content = (
            "\0".join(values.ravel().tolist()).encode() if values.dtype.kind in "UT" else values.tobytes()
        )
        digest.update(f"{name} {dataset[name].dims} {values.shape} ".encode() + content)
    return digest.hexdigest()[:16]
