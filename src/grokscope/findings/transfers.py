"""What findings need of a study's transfers, and what a way to OOD accuracy buys when new facts come:
transfer per kind of base, over runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from grokscope.errors import InputError
from grokscope.runs.open import Transfer
from grokscope.runs.study import Study
from grokscope.statistics.clustered import Rate
from grokscope.statistics.estimate import numbers, text
from grokscope.statistics.rates import over_runs
from grokscope.transfer.result import TransferResult
from grokscope.world.probes import MIXES

RATE_HEADS = ("base", "mature", *MIXES)
"""Of the columns of `rate_cells`."""


@dataclass(frozen=True)
class Transferred:
    """One fine-tuning: a base, and what its new facts compose to at the end."""

    regime: str
    """Of the base."""
    moment: str
    """Which checkpoint of the base: "end", another moment or step, or "untrained"."""
    seed: int
    world: str
    mature: bool
    """The base answers OOD queries stably at 0.9 or above."""
    base_ood: Rate | None
    """OOD accuracy of the base."""
    accuracy: Mapping[str, Rate]
    """Per mix, among the probes whose two atoms are answered right; a mix without probes is absent."""
    bridge: Mapping[str, Rate]
    """Per mix, how often the bridge is resolved in time."""


def transferred(study: Study) -> tuple[list[Transferred], list[str]]:
    """The finished transfers of a study, and sentences on those that are not.

    Of a study with variants only those are counted that were made as its section says, with nothing laid over
    it.
    """
    found, notes = [], []
    own = study.spec.transfer.transfer if study.spec.transfer else None
    for name, one in study.transfers.items():
        spec = one.spec
        if own is not None and spec.identity != spec.replace(transfer=own.tree()).identity:
            continue
        try:
            result = one.result
            if result is None:
                notes.append(f"Transfer {name} is unfinished, so not counted.")
            else:
                found.append(read(one, result))
                if none := [mix for mix in MIXES if result.of(mix) is None]:
                    notes.append(f"Transfer {name} has no probe of {' and '.join(none)}.")
        except InputError as error:
            notes.append(f"Transfer {name} is not counted: {error}")
    notes += [f"Transfer {name} cannot be made: {said}" for name, said in study.transfers_missing.items()]
    return found, notes


def read(transfer: Transfer, result: TransferResult) -> Transferred:
    """The numbers of one transfer: accuracy among probes with known atoms, bridges resolved in time."""
    ends = [one for mix in MIXES if (one := result.of(mix)) is not None]
    return Transferred(
        regime=result.base.regime,
        moment=result.base.moment,
        seed=transfer.spec.base.seed,
        world=transfer.world_fingerprint,
        mature=result.base.mature,
        base_ood=result.base.ood,
        accuracy={one.mix: one.accuracy_known for one in ends if one.accuracy_known is not None},
        bridge={one.mix: one.known.resolved for one in ends if one.known.resolved is not None},
    )


@dataclass(frozen=True)
class MixRate:
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


def mix_rates(transfers: Sequence[Transferred], confidence: float = 0.95) -> list[MixRate]:
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
            out.append(MixRate(regime, moment, mix, rate, len(having), len(group), mature))
    return out


def rate_table(rows: Sequence[MixRate]) -> pl.DataFrame:
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


def rate_cells(rows: Sequence[MixRate]) -> list[tuple[str, ...]]:
    """Rows for people: base, mature bases, one column per mix."""
    bases: dict[tuple[str, str], dict[str, MixRate]] = {}
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
