"""Small array tools of the world station. Nothing here knows what a fact is."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


def fingerprint(parts: Iterable[npt.NDArray[Any] | str]) -> str:
    """First 16 hex digits of the SHA-256 over texts and arrays (type, shape and little-endian bytes)."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            data = part.encode("utf-8", "surrogatepass")
            sha.update(f"text{len(data)}:".encode() + data)
        else:
            flat = np.ascontiguousarray(part)
            flat = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
            sha.update(f"{flat.dtype.str}{flat.shape}:".encode() + flat.tobytes())
    return sha.hexdigest()[:16]


def ragged_ranges(start_N: IntArray, count_N: IntArray) -> IntArray:
    """Concatenate `arange(start, start + count)` over all pairs, without a loop."""
    ends_N = np.cumsum(count_N)
    total = int(ends_N[-1]) if len(ends_N) else 0
    return np.repeat(start_N - (ends_N - count_N), count_N) + np.arange(total)


def rank_within(group_N: IntArray, key_N: npt.NDArray[np.float64]) -> IntArray:
    """Rank (0 first) of every row among the rows of its group, ordered by `key`."""
    order_N = np.lexsort((key_N, group_N))
    sorted_N = group_N[order_N]
    new_N = np.ones(len(sorted_N), dtype=bool)
    new_N[1:] = sorted_N[1:] != sorted_N[:-1]
    start_N = np.maximum.accumulate(np.where(new_N, np.arange(len(sorted_N)), 0))
    rank_N = np.empty(len(sorted_N), dtype=np.int64)
    rank_N[order_N] = np.arange(len(sorted_N)) - start_N
    return rank_N


def contains(sorted_N: IntArray, value_P: IntArray) -> BoolArray:
    """(P,) which values stand in an ascending array. Many times faster than np.isin, which hashes."""
    if len(sorted_N) == 0:
        return np.zeros(len(value_P), dtype=bool)
    at_P = np.minimum(np.searchsorted(sorted_N, value_P), len(sorted_N) - 1)
    found_P: BoolArray = sorted_N[at_P] == value_P
    return found_P
