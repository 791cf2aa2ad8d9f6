"""What finding 3 needs of a transfer, and where it is read from a study."""

from collections.abc import Mapping
from dataclasses import dataclass

from grokscope.errors import InputError
from grokscope.runs.open import Transfer
from grokscope.runs.study import Study
from grokscope.statistics.clustered import Rate
from grokscope.transfer.result import TransferResult
from grokscope.world.probes import MIXES


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
