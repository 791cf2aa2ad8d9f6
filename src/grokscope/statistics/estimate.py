"""An estimate with its interval: the value, its text, its numbers in tables and in JSON.

Whatever is estimated is an `Estimate`; what cannot be told is None. Subclasses name what theirs rests on: a
`clustered.Rate` its facts, a `clustered.Difference` and an `exact.Effect` their test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import inf, isfinite, isnan
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

Write = str | Callable[[float], str]
"""How a number is written: a format such as ".2f", or a function."""

BRACKETS, WITH_N, PROSE = "{} [{}, {}]", "{} [{}, {}], n = {n}", "{} ({} to {})"
"""Forms of `text`: for a table, the same with what it was counted on, and for a sentence."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. A bound that cannot be told, at this n or at all, is infinite."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the interval has the value in it."""
        return self.low <= value <= self.high

    def scaled(self, scale: Callable[[float], float]) -> "Estimate":
        """The same on another, rising scale."""
        low, high = (scale(end) if isfinite(end) else end for end in (self.low, self.high))
        return Estimate(scale(self.value), low, high)

    def __neg__(self) -> "Estimate":
        return Estimate(-self.value, -self.high, -self.low)


def text(
    found: Estimate | None,
    write: Write = ".2f",
    ends: Write | None = None,
    form: str = BRACKETS,
    missing: str = "",
) -> str:
    """`0.36 [0.30, 0.43]`; an infinite bound is an ellipsis, and where both are the value stands alone.

    Args:
        found: None: `missing` is what is said.
        write, ends: how the value and the bounds are written; the bounds like the value, if not otherwise.
        form: places of value, low, high; `{n}` for what it was counted on.
        missing: said where there is nothing.
    """
    if found is None:
        return missing
    value = _written(found.value, write)
    if not isfinite(found.low) and not isfinite(found.high):
        return value
    bounds = (
        _written(end, write if ends is None else ends) if isfinite(end) else "…"
        for end in (found.low, found.high)
    )
    return form.format(value, *bounds, n=getattr(found, "n", ""))


def rate_text(rate: float) -> str:
    """Two decimals, three near 1 so that 0.996 does not read as certainty."""
    return f"{rate:.3f}" if 0.985 <= rate < 1 else f"{rate:.2f}"


def numbers(found: Estimate | None, name: str, prefix: str = "") -> dict[str, float | None]:
    """Value, low and high for a table or JSON, under `name` and the prefix with `low` and `high`; None where
    there is none."""
    three = (inf,) * 3 if found is None else (found.value, found.low, found.high)
    return dict(zip((name, f"{prefix}low", f"{prefix}high"), map(finite, three), strict=True))


def from_numbers(value: float | None, low: float | None, high: float | None) -> Estimate | None:
    """An estimate of three numbers of a table, where None or NaN is what cannot be told."""
    if value is None or isnan(value):
        return None
    ends = (no if end is None or isnan(end) else end for end, no in ((low, -inf), (high, inf)))
    return Estimate(value, *ends)


def finite(number: float) -> float | None:
    """A number for a table or JSON; None: infinite, or not a number."""
    return float(number) if isfinite(number) else None


def wilson(rate: ArrayLike, n: ArrayLike, critical: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Wilson's (1927) interval for rates of `n` independent trials; all of 0 to 1 if `critical` is infinite.

    Args:
        rate, n: numbers or arrays.
        critical: value of the normal distribution, or of Student's t.
    """
    p, trials, z = np.asarray(rate), np.asarray(n), critical
    if not isfinite(z):
        return np.zeros_like(p, dtype=float), np.ones_like(p, dtype=float)
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * np.sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2) / (1 + z * z / trials)
    return np.minimum(p, np.maximum(0.0, centre - half)), np.maximum(p, np.minimum(1.0, centre + half))


class Spread:
    """Base of frozen dataclasses with one field that is an `Estimate`, or None. The other fields say what it
    rests on, so that it is held as an `Estimate` and nothing more. As JSON its numbers stand beside them: the
    value under the field's own name, then `low` and `high`."""

    def __post_init__(self) -> None:
        name = _estimate_of(type(self))
        found = getattr(self, name)
        if found is not None:
            object.__setattr__(self, name, Estimate(found.value, found.low, found.high))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        name, unbounded = _estimate_of(source), {"low": -inf, "high": inf}

        def gathered(tree: Any) -> Any:
            if not isinstance(tree, Mapping) or name not in tree:
                return tree
            ends = {
                end: no if tree[end] is None else tree[end] for end, no in unbounded.items() if end in tree
            }
            return {**tree, name: None if tree[name] is None else {"value": tree[name], **ends}}

        def spread(one: Any, inner: core_schema.SerializerFunctionWrapHandler) -> dict[str, Any]:
            out: dict[str, Any] = {}
            for key, value in inner(one).items():
                out |= numbers(getattr(one, name), name) if key == name else {key: value}
            return out

        # The name under which other schemas refer to the class goes to what is wrapped around it.
        inside: Any = dict(handler(source))
        ref = inside.pop("ref")
        written = core_schema.wrap_serializer_function_ser_schema(spread, schema=inside)
        return core_schema.no_info_before_validator_function(gathered, inside, ref=ref, serialization=written)


def _estimate_of(kind: Any) -> str:
    """The field that is an `Estimate`."""
    return next(one.name for one in fields(kind) if Estimate in (one.type, *get_args(one.type)))


def _written(number: float, write: Write) -> str:
    return format(number, write) if isinstance(write, str) else write(number)
