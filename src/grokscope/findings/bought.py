"""What a way to OOD accuracy buys when new facts come: transfer per kind of base, over runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from grokscope.findings.transfers import Transferred
from grokscope.statistics.clustered import Rate
from grokscope.statistics.estimate import numbers, text
from grokscope.statistics.rates import over_runs
from grokscope.world.probes import MIXES


@dataclass(frozen=True)
class Bought:
    """One mix of new and old facts, for all seeds of a base."""

    regime: str
    moment: str
    mix: str
    rate: Rate | None
    """Accuracy among queries with known atoms; None: in no run there were enough."""
    rated: int
    """Runs that it is the mean of."""
    runs: int
    """Transfers of this base that are finished."""
    mature: int
    """Of their bases."""


def bought(transfers: Sequence[Transferred], confidence: float = 0.95) -> list[Bought]:
    """One row per base and mix, in the order of the transfers."""
    groups: dict[tuple[str, str], list[Transferred]] = {}
    for one in transfers:
        groups.setdefault((one.regime, one.moment), []).append(one)
    out = []
    for (regime, moment), group in groups.items():
        mature = sum(one.mature for one in group)
        for mix in MIXES:
            having = [one for one in group if mix in one.accuracy]
            rates, worlds = [one.accuracy[mix] for one in having], [one.world for one in having]
            rate = over_runs(rates, worlds, confidence) if having else None
            out.append(Bought(regime, moment, mix, rate, len(having), len(group), mature))
    return out


def table(rows: Sequence[Bought]) -> pl.DataFrame:
    """The same as a table; null where it cannot be told."""
    names = dict.fromkeys(("regime", "moment", "mix"), pl.String)
    rates = dict.fromkeys(("accuracy", "low", "high"), pl.Float64)
    counts = dict.fromkeys(("runs", "runs_with_rate", "probes", "mature"), pl.Int64)
    found = [
        {
            "regime": one.regime, "moment": one.moment, "mix": one.mix, **numbers(one.rate, "accuracy"),
            "runs": one.runs, "runs_with_rate": one.rated, "probes": one.rate.n if one.rate else 0,
            "mature": one.mature,
        }
        for one in rows
    ]  # fmt: skip
    return pl.DataFrame(found, schema={**names, **rates, **counts})


def cells(rows: Sequence[Bought]) -> list[tuple[str, ...]]:
    """Rows for people: base, mature bases, one column per mix."""
    bases: dict[tuple[str, str], dict[str, Bought]] = {}
    for one in rows:
        bases.setdefault((one.regime, one.moment), {})[one.mix] = one
    out = []
    for (regime, moment), mixes in bases.items():
        any_mix = next(iter(mixes.values()))
        said = [
            text(one.rate, form=f"{{}} [{{}}, {{}}], {one.rated} runs, {{n}} probes", missing="cannot tell")
            for one in mixes.values()
        ]
        out.append((f"{regime}@{moment}", f"{any_mix.mature} of {any_mix.runs}", *said))
    return out


HEADS = ("base", "mature", *MIXES)
