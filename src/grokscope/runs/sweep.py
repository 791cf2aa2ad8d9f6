"""Fields of a study that vary from run to run: over lists, their product, or points of a Sobol sequence."""

import itertools
import re
import warnings
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from grokscope.errors import InputError, quoted
from grokscope.spec import Spec, merge

Value = bool | int | float | str
Point = dict[str, Value]
"""Values by dotted field."""
REGIME = "regime"
"""The first part of fields of every regime of a study."""
DIGITS = 4
"""Of a value that is drawn from a range, so that its name tells all of it."""


class Range(Spec):
    """Numbers from `low` to `high`."""

    low: float
    """The least."""
    high: float
    """The largest."""
    log: bool = False
    """Whether it is their logarithm that is spread evenly."""
    integer: bool = False
    """Whether only whole numbers are meant."""

    @model_validator(mode="after")
    def _possible(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be less than high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} has no logarithm; with log allowed is more than 0")
        return self

    def at(self, share: float) -> float | int:
        """The number that a share in [0, 1) of the range lies below."""
        if self.log:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + share * (self.high - self.low)
        return round(value) if self.integer else float(f"{value:.{DIGITS}g}")


class SweepSpec(Spec):
    """What varies. Every point is run in every regime and with every seed of the study."""

    vary: dict[str, Annotated[tuple[Value, ...], Field(min_length=1)] | Range] = Field(min_length=1)
    """By field, as in `corpus.phi` or `regime.hop2_k`, its values, or (sobol) a range of them."""
    by: Literal["grid", "list", "sobol"] = "grid"
    """grid: every combination; list: the first values of all fields, then the second, ...; sobol: points that
    fill ranges and lists evenly, however many there are."""
    points: Annotated[int, Field(ge=1)] | None = None
    """How many (sobol)."""

    @model_validator(mode="after")
    def _possible(self) -> "SweepSpec":
        ranges = [name for name, values in self.vary.items() if isinstance(values, Range)]
        if self.by != "sobol" and ranges:
            raise ValueError(
                f"vary.{ranges[0]} is a range, which by {self.by!r} has no values; allowed is sobol"
            )
        if (self.by == "sobol") != (self.points is not None):
            raise ValueError("points is how many there are with by sobol, and only then")
        counts = {len(values) for values in self.vary.values() if not isinstance(values, Range)}
        if self.by == "list" and len(counts) > 1:
            raise ValueError(f"vary by list needs as many values of every field; there are {sorted(counts)}")
        return self

    def chosen(self) -> list[Point]:
        """The points, in their order, each once."""
        found = self._chosen()
        return [point for place, point in enumerate(found) if point not in found[:place]]

    def _chosen(self) -> list[Point]:
        names = list(self.vary)
        values = [one if isinstance(one, tuple) else () for one in self.vary.values()]
        if self.by == "grid":
            return [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
        if self.by == "list":
            return [dict(zip(names, point, strict=True)) for point in zip(*values, strict=True)]
        from scipy.stats import qmc

        with warnings.catch_warnings():  # Of numbers of points that are no power of 2.
            warnings.simplefilter("ignore")
            shares_PF = qmc.Sobol(len(names), scramble=False).random(self.points)
        return [
            {
                name: one.at(float(share)) if isinstance(one, Range) else one[int(share * len(one))]
                for (name, one), share in zip(self.vary.items(), shares_F, strict=True)
            }
            for shares_F in shares_PF
        ]

    def tied(self) -> list[tuple[str, str, float]]:
        """Pairs of fields and how much they rise together in the points (Spearman's correlation), strongest
        first. Few points of a sequence that fills every field evenly may run along a diagonal of two."""
        from scipy.stats import rankdata

        points = self.chosen()
        varied = [name for name in self.vary if len({point[name] for point in points}) > 1]
        place_FP = np.array([[self._number(name, point[name]) for point in points] for name in varied])
        pairs = list(itertools.combinations(range(len(varied)), 2))
        if not pairs:
            return []
        between_FF = np.corrcoef(rankdata(place_FP, axis=1))
        found = [(varied[i], varied[j], float(between_FF[i, j])) for i, j in pairs]
        return sorted(found, key=lambda pair: -abs(pair[2]))

    def _number(self, name: str, value: Value) -> float:
        values = self.vary[name]  # A text has its place there.
        return float(values.index(value) if isinstance(value, str) and isinstance(values, tuple) else value)

    def label(self, point: Point) -> str:
        """What a point is called: `phi9-width64`.

        Raises:
            InputError: a value has no name.
        """
        leaves = [name.rpartition(".")[2] for name in point]
        parts = []
        for (name, value), leaf in zip(point.items(), leaves, strict=True):
            shown = name.replace(".", "_") if leaves.count(leaf) > 1 else leaf
            text = ("on" if value else "off") if isinstance(value, bool) else str(value).replace("+", "")
            if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
                raise InputError(
                    f"sweep.vary.{name} = {quoted(value)}: runs are named after it; allowed are letters, "
                    "digits, '.', '_', '-'."
                )
            parts.append(f"{shown}{text}")
        return "-".join(parts)


def laid(tree: dict[str, Any], point: Point, regime: bool) -> dict[str, Any]:
    """A tree with the values of a point laid on it: those of regimes, or all others."""
    for name, value in point.items():
        first, *rest = name.split(".")
        if (first == REGIME) == regime:
            over: Any = value
            for part in reversed(rest if regime else [first, *rest]):
                over = {part: over}
            tree = merge(tree, over)
    return tree
