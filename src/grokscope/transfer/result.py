"""The outcome of a transfer as a value that can be kept: what was learned, what transferred, what was
forgotten, and where the second hop of each mix fails."""

from dataclasses import dataclass
from typing import ClassVar

from grokscope.mechanics.read.phases import Event
from grokscope.spec import Stored
from grokscope.statistics.clustered import Difference, Rate
from grokscope.transfer.place import Place
from grokscope.transfer.second_hop import Stations
from grokscope.transfer.spec import ExamineSpec


@dataclass(frozen=True)
class BaseStanding(Stored):
    """What is known of the model that was fine-tuned, at the step it was taken from."""

    CALLED: ClassVar[str] = "description of a base"

    run: str
    """Name of its run."""
    identity: str
    """Identity of its run."""
    regime: str
    moment: str
    """end, saturation, generalisation, untrained, or the step that was asked for."""
    step: int
    """Its step; 0: untrained."""
    behaviour: str | None
    """The run's diagnosis; None: not diagnosed, or untrained."""
    verdict: str | None
    """The run's causal verdict, which is about its last checkpoint; None: none, or another step."""
    ood: Rate | None
    """Exact answers on test_ood at that step; None: the run has no such probes."""
    mature: bool
    """Whether OOD accuracy had reached `threshold`, to stay for a window, by that step: only then does the
    base count as grokked, or as generalised at once (`behaviour` says which)."""
    threshold: float
    """The level, from the run's diagnosis settings."""
    reason: str
    """Why it counts as mature or not, as a sentence."""


@dataclass(frozen=True)
class MixResult:
    """One mix at one checkpoint."""

    step: int
    mix: str
    """new_then_old, old_then_new or new_then_new."""
    accuracy: Rate
    """Exact answers, all probes; every one has both facts in the fine-tuning data."""
    accuracy_known: Rate | None
    """Among probes whose two atoms are answered right; None: fewer than 30."""
    guess: Rate
    """Probes that the most frequent tail of r2 answers."""
    known: Stations
    """Resolved, read and given among the examined probes with known atoms."""
    failing: Stations
    """The same among those of them that are answered wrong."""
    place: Place
    """Where the second hop stands or falls."""
    reason: str


@dataclass(frozen=True)
class Forgotten:
    """An old probe set before and after."""

    before: Rate
    """With the base's weights."""
    after: Rate
    """At the last checkpoint."""
    change: Difference
    """After minus before, over the same probes."""
    after_retained: Rate | None
    """After, among probes all of whose facts are atoms of the fine-tuning data; None: there are none."""


@dataclass(frozen=True)
class TransferResult(Stored):
    """The outcome of one transfer."""

    CALLED: ClassVar[str] = "transfer result"

    base: BaseStanding
    fingerprint: str
    """Of the new facts and the fine-tuning data: equal for all bases of one world and one spec."""
    step: int
    """Last checkpoint, which the result is about."""
    data: dict[str, int]
    """Counts: new_facts, retained_atoms, retained_compositions, taught_compositions."""
    new_atomic: Rate
    """Exact answers on the new atoms."""
    learned: Event
    """When the new atoms reached `examine.learned`, to stay."""
    reached: dict[str, Event]
    """Per mix: when its accuracy among probes with known atoms reached `examine.works`, to stay."""
    mixes: tuple[MixResult, ...]
    """Per examined checkpoint and mix that has probes."""
    deadline: str
    """Up to which stage a bridge counts as resolved in time, and why, at the last checkpoint."""
    old: dict[str, Forgotten]
    """Per old probe set."""
    shortages: tuple[str, ...]
    """Mixes with fewer probes than asked for, as sentences."""
    examine: ExamineSpec
    """What the examination was asked for."""

    def of(self, mix: str, step: int | None = None) -> MixResult | None:
        """A mix at a checkpoint (None: the last); None: it has no probes, or was not examined there."""
        wanted = self.step if step is None else step
        return next((one for one in self.mixes if (one.mix, one.step) == (mix, wanted)), None)
