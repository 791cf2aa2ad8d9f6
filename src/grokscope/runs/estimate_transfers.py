"""What the transfers of a study do, counted without making them, for `estimate.py`."""

from dataclasses import dataclass, replace

from grokscope.runs.cost import checkpoint_flop, job_cost
from grokscope.runs.setup import RunSetup, TransferSetup
from grokscope.runs.spec import StudySpec
from grokscope.spec import digest
from grokscope.training.schedule import checkpoint_steps
from grokscope.transfer.outcome import OLD_PATH
from grokscope.world.probes import MIXES


@dataclass(frozen=True)
class TransferWork:
    """One transfer."""

    name: str
    steps: int
    checkpoints: int
    step_flop: float
    checkpoint_flop: int
    """One checkpoint."""
    batch: int
    probes: int
    """At every checkpoint, all sets together."""
    examinations: tuple[int, ...]
    """Probes of each examination: every mix, and the old queries that show the path."""
    disk: int
    """Bytes at most."""
    step_kind: str
    """Transfers of one kind share a compiled step within a process."""


def transfer_work(study: StudySpec) -> list[TransferWork]:
    """All transfers of a study, in the order of seeds, bases and variants; a base that a run may turn out not
    to have is counted too. Variants are counted once and stand for all bases and seeds.

    Raises:
        InputError: a variant cannot be honoured, or the world has no room for the new facts.
    """
    specs = study.expand_transfers()
    base = RunSetup(next(iter(study.expand().values())))
    counted: dict[str, TransferWork] = {}
    for spec in specs:
        if spec.variant not in counted:
            spec = spec.model_copy(update={"base": base.spec})
            counted[spec.variant] = _counted(TransferSetup(spec, base))
    return [replace(counted[spec.variant], name=spec.name) for spec in specs]


def _counted(setup: TransferSetup) -> TransferWork:
    spec, training, probes = setup.spec, setup.spec.training, setup.corpus.probes
    cost = job_cost(setup)
    most, examined = spec.transfer.examine.probes, [name for name in (*MIXES, OLD_PATH) if name in probes]
    return TransferWork(
        name=spec.name,
        steps=training.steps,
        checkpoints=len(checkpoint_steps(training)),
        step_flop=cost.flop,
        checkpoint_flop=checkpoint_flop(setup.model(), spec, probes),
        batch=training.batch,
        probes=sum(len(probe_set) for probe_set in probes.values()),
        examinations=tuple(min(most, len(probes[name])) for name in examined),
        disk=cost.disk,
        step_kind=digest([training.tree(), spec.model.tree()]),
    )
