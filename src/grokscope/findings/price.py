"""The price of a new fact: the fewest compositions it must be shown in before its compositions are answered.

A price study fine-tunes bases with k compositions per new fact, for k on a ladder (0, 1, 2, 4, ..), as it is
and with cures (variants named `<cure>_k<k>`). A mix of new and old facts is *reached* at a k if its accuracy
among queries with known atoms came to the transfer's `examine.works` (0.9), to stay. The price is the
smallest k from which on every larger one tested reaches it: known to lie between two rungs, above the last
one where that was not enough, and with a hole where a transfer is unfinished.

Over seeds the prices are interval-censored times on the ladder, in k + 1 so that 0 has a place
(`statistics.times`). A cure is compared with the plain transfers of the same base, pair by pair of seeds and
on the rungs that both have: on a finer ladder a price looks smaller than on a coarse one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log2
from statistics import mean

import polars as pl

from grokscope.errors import InputError
from grokscope.runs.job import UNTRAINED
from grokscope.runs.study import Study
from grokscope.statistics.estimate import Estimate, text
from grokscope.statistics.exact import FEWEST_RUNS, Effect, difference
from grokscope.statistics.times import Time, kaplan_meier
from grokscope.world.probes import MIXES

PLAIN = "plain"
VARIANT = re.compile(r"(?P<cure>\w+)_k(?P<k>\d+)", re.ASCII)


@dataclass(frozen=True)
class Rung:
    """One transfer, seen by one mix."""

    base: str
    """`REGIME@MOMENT`."""
    mature: bool
    cure: str
    seed: int
    mix: str
    k: int
    reached: bool | None
    """None: the transfer is unfinished, or had too few queries with known atoms to tell."""
    accuracy: float | None = None
    """At the end, of all probes; None: the transfer is unfinished."""
    accuracy_known: float | None = None
    """The same among probes whose atoms are both answered; None: unfinished, or too few."""
    probes: int | None = None


@dataclass(frozen=True)
class Price:
    """The price of one mix for one base and cure at one seed."""

    base: str
    mature: bool
    cure: str
    seed: int
    mix: str
    after: int | None
    """The largest k below that was not enough; None: no k below was tested."""
    by: int | None
    """Enough; None: the largest k tested was not."""
    most: int
    """Largest k that could be told."""

    @property
    def time(self) -> Time:
        """On the ladder of k + 1."""
        after = 0.0 if self.after is None else self.after + 1.0
        return Time(after, None if self.by is None else self.by + 1.0, self.most + 1.0)

    @property
    def text(self) -> str:
        """`(2, 4]`, `0`, `> 16`."""
        if self.by is None:
            return f"> {self.most}"
        if self.after is None:
            return "0" if self.by == 0 else f"<= {self.by}"
        return f"({self.after}, {self.by}]"


@dataclass(frozen=True)
class Row:
    """One base, cure and mix over all seeds."""

    base: str
    cure: str
    mix: str
    prices: tuple[Price, ...]
    """One per seed for which anything could be told."""
    median: Estimate
    """In k + 1; infinite: half of the seeds' prices lie beyond the ladder."""
    against: Effect | None
    """log2 (k + 1) less that of the plain transfers on common rungs, censored prices at the last of them;
    None: this is the plain one, or there is none to compare with."""
    bound: bool
    """A censored price is in the comparison: its value is then a bound, or says nothing."""

    @property
    def mature(self) -> int:
        """Of the bases."""
        return sum(price.mature for price in self.prices)

    @property
    def descriptive(self) -> bool:
        """Too few seeds for a claim."""
        return len(self.prices) < FEWEST_RUNS


def rungs(study: Study) -> tuple[list[Rung], list[str]]:
    """What every transfer of a price study says, and sentences on what is missing.

    Raises:
        InputError: the study has no transfers with variants of this kind.
    """
    section = study.spec.transfer
    variants = section.transfers() if section is not None else {}
    ladder = {name: match for name in variants if (match := VARIANT.fullmatch(name))}
    if section is None or not ladder:
        raise InputError(
            f"{study.directory} is no price study: its transfer section has no variants named CURE_kNUMBER."
        )
    for name, match in ladder.items():
        if variants[name].facts.k != int(match["k"]):
            raise InputError(
                f"transfer.variants = {name!r}: its facts.k is {variants[name].facts.k}, not {match['k']}."
            )
    found = []
    for transfer in study.transfers.values():
        spec, result, mature = transfer.spec, transfer.result, transfer.base.mature
        if spec.variant not in ladder:
            continue
        cure, k, seed = ladder[spec.variant]["cure"], spec.transfer.facts.k, spec.base.seed
        base = spec.moment if spec.moment == UNTRAINED else f"{spec.base.regime.name}@{spec.moment}"
        for mix in MIXES:
            event = result.reached.get(mix) if result is not None else None
            known = result.of(mix) if result is not None else None
            told = event is not None and known is not None and known.accuracy_known is not None
            reached = event.step is not None if told and event is not None else None
            rates = (known.accuracy, known.accuracy_known) if known is not None else (None, None)
            every, among = (None if rate is None else rate.value for rate in rates)
            probes = None if rates[0] is None else rates[0].n
            found.append(Rung(base, mature, cure, seed, mix, k, reached, every, among, probes))
    notes = [f"Transfer {name} cannot be made: {why}" for name, why in study.transfers_missing.items()]
    unfinished = sum(transfer.result is None for transfer in study.transfers.values())
    if unfinished:
        notes.append(f"{unfinished} transfers are unfinished; intervals span their rungs.")
    return found, notes


def prices(found: Sequence[Rung]) -> list[Price]:
    """The price of every base, cure, seed and mix of which at least one rung could be told."""
    groups: dict[tuple[str, str, int, str], list[Rung]] = {}
    for rung in found:
        if rung.reached is not None:
            groups.setdefault((rung.base, rung.cure, rung.seed, rung.mix), []).append(rung)
    return [_price(told) for told in groups.values()]


def _price(told: Sequence[Rung]) -> Price:
    """The price of one ladder, of which every rung could be told."""
    first, ks = told[0], sorted(rung.k for rung in told)
    failed = max((rung.k for rung in told if not rung.reached), default=None)
    by = next((k for k in ks if failed is None or k > failed), None)
    return Price(first.base, first.mature, first.cure, first.seed, first.mix, failed, by, ks[-1])


def rows(found: Sequence[Rung]) -> list[Row]:
    """Over seeds, each cure against the plain transfers of the same base and mix."""
    told = [rung for rung in found if rung.reached is not None]
    groups: dict[tuple[str, str, str], list[Price]] = {}
    for price in prices(found):
        groups.setdefault((price.base, price.mix, price.cure), []).append(price)
    out = []
    for (base, mix, cure), group in groups.items():
        pairs = []
        for price in group if cure != PLAIN else ():
            here = [rung for rung in told if (rung.base, rung.mix, rung.seed) == (base, mix, price.seed)]
            pairs += _common(
                [rung for rung in here if rung.cure == cure], [rung for rung in here if rung.cure == PLAIN]
            )
        against = None
        if pairs:
            own, other = ([_log(price) for price in side] for side in zip(*pairs, strict=True))
            against = difference(own, other, paired=True)
        median = kaplan_meier([price.time for price in group]).median
        bound = any(price.by is None for pair in pairs for price in pair)
        out.append(Row(base, cure, mix, tuple(group), median, against, bound))
    return out


def _common(own: Sequence[Rung], plain: Sequence[Rung]) -> list[tuple[Price, Price]]:
    """Both prices on the rungs that both ladders have; nothing if they have none in common."""
    shared = {rung.k for rung in own} & {rung.k for rung in plain}
    if not shared:
        return []
    first, second = (_price([rung for rung in side if rung.k in shared]) for side in (own, plain))
    return [(first, second)]


def table(found: Sequence[Price]) -> pl.DataFrame:
    """One row per base, cure, mix and seed: the price lies above `after` and at most at `by`; null: no
    bound."""
    schema = {
        "base": pl.String, "mature": pl.Boolean, "cure": pl.String, "mix": pl.String, "seed": pl.Int64,
        "after": pl.Int64, "by": pl.Int64, "most": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame([{name: getattr(one, name) for name in schema} for one in found], schema=schema)


def rung_table(found: Sequence[Rung]) -> pl.DataFrame:
    """One row per transfer and mix: whether 0.9 was reached to stay, and where it ended; null: cannot tell,
    or unfinished."""
    schema = {
        "base": pl.String, "mature": pl.Boolean, "cure": pl.String, "k": pl.Int64, "mix": pl.String,
        "seed": pl.Int64, "reached": pl.Boolean, "accuracy": pl.Float64, "accuracy_known": pl.Float64,
        "probes": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame([{name: getattr(one, name) for name in schema} for one in found], schema=schema)


ENDS = ("mix", "cure", "k", "transfers", "accuracy at the end", "with known atoms")


def ends(found: Sequence[Rung]) -> list[tuple[str, ...]]:
    """Rows for people, of `ENDS`: means over bases and seeds, lowest and highest in brackets."""
    groups: dict[tuple[str, str, int], list[Rung]] = {}
    for one in found:
        if one.accuracy is not None:
            groups.setdefault((one.mix, one.cure, one.k), []).append(one)
    return [
        (
            mix,
            cure,
            str(k),
            str(len(group)),
            _spread([one.accuracy for one in group]),
            _spread([one.accuracy_known for one in group]),
        )
        for (mix, cure, k), group in groups.items()
    ]


def _spread(values: Sequence[float | None]) -> str:
    told = [value for value in values if value is not None]
    return f"{mean(told):.2f} [{min(told):.2f}, {max(told):.2f}]" if told else "-"


HEADS = ("base", "mature", "mix", "cure", "seeds", "k per seed", "median", "against plain")


def cells(found: Sequence[Row]) -> list[tuple[str, ...]]:
    """Rows for people, of `HEADS`."""
    return [
        (
            row.base,
            f"{row.mature} of {len(row.prices)}",
            row.mix,
            row.cure,
            str(len(row.prices)),
            ", ".join(price.text for price in row.prices),
            _median(row),
            _against(row),
        )
        for row in found
    ]


def _median(row: Row) -> str:
    middle = row.median.value
    return f"{middle - 1:.0f}" if isfinite(middle) else f"> {max(price.most for price in row.prices)}"


def _against(row: Row) -> str:
    """`k + 1 is 2.8 times smaller, 3 seeds, descriptive`."""
    effect = row.against
    if effect is None:
        return ""
    seeds = f"{effect.n[0]} seeds"
    if row.bound:
        return f"cannot tell: a price lies beyond the ladder ({seeds})"
    smaller = text((-effect).scaled(lambda log: 2**log), "k + 1 is {:.2g} times smaller".format, ".2g")
    test = "descriptive" if row.descriptive else f"p = {effect.p_value:.2g}"
    return f"{smaller}, {seeds}, {test}"


def _log(price: Price) -> float:
    return log2(price.most + 1 if price.by is None else price.by + 1)
