"""What the transfers of a study do, counted without making them, for `estimate.py`."""

from dataclasses import dataclass

from grokscope.models.build import build_model
from grokscope.runs.cost import checkpoint_flop, step_flop, trace_bytes
from grokscope.runs.spec import StudySpec
from grokscope.runs.transfer import build
from grokscope.runs.transfer_section import UNTRAINED
from grokscope.runs.transfer_spec import TransferRunSpec
from grokscope.spec import digest
from grokscope.training.cost import disk_estimate
from grokscope.training.schedule import checkpoint_steps
from grokscope.transfer.outcome import OLD_PATH
from grokscope.world.format import positions
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
    if study.transfer is None or not study.transfer.bases:
        return []
    base = next(iter(study.expand().values()))
    counted = {
        variant: _counted(TransferRunSpec(base=base, step=0, transfer=one))
        for variant, one in study.transfer.transfers().items()
    }
    out = []
    for seed in study.seeds:
        for choice in study.transfer.choices():
            name = (
                f"{UNTRAINED}-s{seed}"
                if choice.regime is None
                else f"{choice.regime}-s{seed}-{choice.moment}"
            )
            for variant, work in counted.items():
                out.append(TransferWork(**{**vars(work), "name": f"{name}-{variant}" if variant else name}))
    return out


def _counted(spec: TransferRunSpec) -> TransferWork:
    new, training, fmt = build(spec), spec.training, spec.base.format
    vocab, size = new.world.vocabulary.size, positions(fmt)
    model = build_model(spec.model, vocab, size, fmt, spec.base.seeds.init, training.dtype)
    lens = spec.base.lens.replace(probes_per_set=None)
    as_run = spec.base.replace(training=training.tree(), lens=lens.tree(), model=spec.model.tree())
    most, examined = spec.transfer.examine.probes, [name for name in (*MIXES, OLD_PATH) if name in new.probes]
    return TransferWork(
        name="",
        steps=training.steps,
        checkpoints=len(checkpoint_steps(training)),
        step_flop=step_flop(model, as_run),
        checkpoint_flop=checkpoint_flop(model, as_run, new.probes),
        batch=training.batch,
        probes=sum(len(probe_set) for probe_set in new.probes.values()),
        examinations=tuple(min(most, len(new.probes[name])) for name in examined),
        disk=disk_estimate(model, training)
        + trace_bytes(as_run, new.probes, new.world.vocabulary, len(model.stages)),
        step_kind=digest([training.tree(), spec.model.tree()]),
    )
