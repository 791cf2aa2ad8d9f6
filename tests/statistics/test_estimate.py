"""An estimate: its text, its numbers in tables and JSON, and what cannot be told."""

import json
from dataclasses import dataclass
from math import inf, nan
from typing import ClassVar

import numpy as np
import pytest
from scipy import stats

from grokscope.errors import InputError
from grokscope.spec import Stored
from grokscope.statistics.clustered import Rate
from grokscope.statistics.estimate import (
    PROSE,
    WITH_N,
    Estimate,
    Spread,
    from_numbers,
    numbers,
    rate_text,
    text,
    wilson,
)

RATE = Rate(0.99, 0.8, 1.0, 40, (20, 20), 30.0)


@dataclass(frozen=True)
class Edge(Spread):
    name: str
    rate: Estimate | None
    n: int


@dataclass(frozen=True)
class Edges(Stored):
    CALLED: ClassVar[str] = "edges"
    best: Edge
    every: tuple[Edge, ...]


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (text(RATE), "0.99 [0.80, 1.00]"),
        (text(RATE, rate_text, form=WITH_N), "0.990 [0.80, 1.00], n = 40"),
        (text(RATE, "+.1f", ".2f", PROSE), "+1.0 (0.80 to 1.00)"),
        (text(Estimate(0.5, -inf, 0.75)), "0.50 […, 0.75]"),
        (text(Estimate(0.5, -inf, inf), ".1%"), "50.0%"),
        (text(None, missing="cannot tell"), "cannot tell"),
    ],
)
def test_text_says_what_is_known(said: str, wanted: str) -> None:
    assert said == wanted


def test_what_cannot_be_told_is_null_in_tables_and_comes_back() -> None:
    for one in (Estimate(0.5, 0.25, 0.75), Estimate(0.5, -inf, 0.75), Estimate(0.5, -inf, inf), None):
        row = numbers(one, "rate", "rate_")
        assert from_numbers(row["rate"], row["rate_low"], row["rate_high"]) == one
    assert numbers(None, "rate") == {"rate": None, "low": None, "high": None}
    assert from_numbers(nan, nan, nan) is None


def test_another_scale_keeps_the_order_and_what_is_unbounded() -> None:
    slower = Estimate(1.0, -inf, 3.0)
    assert slower.scaled(lambda log: 2**log) == Estimate(2.0, -inf, 8.0)
    assert -slower == Estimate(-1.0, -3.0, inf)


def test_what_holds_an_estimate_has_its_numbers_beside_the_rest_in_json() -> None:
    edges = Edges(Edge("a", RATE, 40), (Edge("b", Estimate(0.5, -inf, 0.75), 3), Edge("c", None, 0)))
    tree = edges.tree()
    assert list(tree["best"].items()) == [
        ("name", "a"),
        ("rate", 0.99),
        ("low", 0.8),
        ("high", 1.0),
        ("n", 40),
    ]
    assert [(one["rate"], one["low"], one["high"]) for one in tree["every"]] == [
        (0.5, None, 0.75),
        (None, None, None),
    ]
    assert Edges.parse(json.loads(json.dumps(tree, allow_nan=False))) == edges
    for broken, said in (({"low": "x"}, "best.rate"), ({"rate": "much"}, "best.rate = 'much'")):
        with pytest.raises(InputError, match=said):
            Edges.parse({**tree, "best": {**tree["best"], **broken}})


def test_wilson_is_scipys_for_numbers_and_arrays_and_infinite_is_everything() -> None:
    hits, n = np.array([0, 3, 20]), np.array([20, 20, 20])
    low_X, high_X = wilson(hits / n, n, stats.norm.ppf(0.975))
    for k in range(3):
        exact = stats.binomtest(int(hits[k]), int(n[k])).proportion_ci(0.95, "wilson")
        assert (low_X[k], high_X[k]) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert wilson(0.3, 5, inf) == (0.0, 1.0)
