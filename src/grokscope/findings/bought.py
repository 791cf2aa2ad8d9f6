"""What a way to OOD accuracy buys when new facts come: transfer per kind of base, over runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from grokscope.findings.transfers import Transferred
from grokscope.statistics.rates import RunsRate, over_runs
from grokscope.world.probes import MIXES


@dataclass(frozen=True)
class Bought:
    """One mix of new and old facts, for all seeds of a base."""

    regime: str
    moment: str
    mix: str
    rate: RunsRate | None
    """Accuracy among queries with known atoms; None: in no run there were enough."""
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
            out.append(Bought(regime, moment, mix, rate, len(group), mature))
    return out


def table(rows: Sequence[Bought]) -> pl.DataFrame:
    """The same as a table; null where it cannot be told."""
    text = dict.fromkeys(("regime", "moment", "mix"), pl.String)
    rates = dict.fromkeys(("accuracy", "low", "high"), pl.Float64)
    counts = dict.fromkeys(("runs", "runs_with_rate", "probes", "mature"), pl.Int64)
    schema = {**text, **rates, **counts}
    found = []
    for one in rows:
        rate = one.rate
        numbers = (None, None, None, 0, 0) if rate is None else (
            rate.value, rate.low, rate.high, rate.runs, rate.n,
        )  # fmt: skip
        value, low, high, having, probes = numbers
        found.append(
            (one.regime, one.moment, one.mix, value, low, high, one.runs, having, probes, one.mature)
        )
    return pl.DataFrame(found, schema=schema, orient="row")


def cells(rows: Sequence[Bought]) -> list[tuple[str, ...]]:
    """Rows for people: base, mature bases, one column per mix."""
    bases: dict[tuple[str, str], dict[str, Bought]] = {}
    for one in rows:
        bases.setdefault((one.regime, one.moment), {})[one.mix] = one
    out = []
    for (regime, moment), mixes in bases.items():
        any_mix = next(iter(mixes.values()))
        said = ["cannot tell" if (rate := one.rate) is None else _text(rate) for one in mixes.values()]
        out.append((f"{regime}@{moment}", f"{any_mix.mature} of {any_mix.runs}", *said))
    return out


HEADS = ("base", "mature", *MIXES)


def _text(rate: RunsRate) -> str:
    return f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}], {rate.runs} runs, {rate.n} probes"
