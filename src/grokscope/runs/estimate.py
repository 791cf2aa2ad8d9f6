"""What a study will take, before anything runs: FLOP, hours, memory and disk, per run and in all.

Hours of this machine come from measured seconds (`measured.py`); hours of a named device are
FLOP / (utilisation * peak). FLOP are those of training (forward, backward, the optimiser's products), of
evaluation and of the lens; the causal verdict's are left out of the count, its seconds are not.
"""

from dataclasses import dataclass
from typing import Any

from grokscope.errors import InputError
from grokscope.mechanics.judge.diagnosis import VERDICT_SET
from grokscope.mechanics.spec import CausalSpec
from grokscope.runs.causal import MOMENTS
from grokscope.runs.cost import checkpoint_flop, costs
from grokscope.runs.devices import Device
from grokscope.runs.estimate_transfers import TransferWork, transfer_work
from grokscope.runs.job import RunSpec
from grokscope.runs.measured import Speed
from grokscope.runs.setup import RunSetup
from grokscope.runs.spec import StudySpec
from grokscope.training.cost import training_memory
from grokscope.training.schedule import checkpoint_steps, thin


@dataclass(frozen=True)
class Work:
    """What the runs of a study share, counted on its longest one."""

    step_flop: float
    """One training step, the optimiser's products included."""
    checkpoint_flop: int
    """One checkpoint: evaluation and lens of all probes."""
    probes: dict[str, int]
    """Probes per set."""
    state: int
    """Bytes of weights, moments, average, gradients, activations and data, uncompiled."""
    disk_of: dict[str, int]
    """Bytes at most, by run."""
    batch: int
    transfers: tuple[TransferWork, ...]


@dataclass(frozen=True)
class RunEstimate:
    """What one run, or one transfer, will take."""

    name: str
    steps: int
    checkpoints: int
    training_flop: float
    looking_flop: float
    seconds: dict[str, float]
    """By part; their sum is the run's."""
    disk: int

    @property
    def flop(self) -> float:
        return self.training_flop + self.looking_flop

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def tree(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "steps": self.steps,
            "checkpoints": self.checkpoints,
            "flop": self.flop,
            "training_flop": self.training_flop,
            "looking_flop": self.looking_flop,
            "seconds": self.total_seconds,
            "parts": self.seconds,
            "disk_bytes": self.disk,
        }


@dataclass(frozen=True)
class StudyEstimate:
    """What a study will take."""

    study: str
    where: str
    runs: tuple[RunEstimate, ...]
    transfers: tuple[RunEstimate, ...]
    """They begin when the last run has ended."""
    workers: int
    memory: int
    """Bytes of one run."""
    basis: dict[str, Any]
    """What the seconds rest on: the measured parts, or the device."""

    @property
    def all(self) -> tuple[RunEstimate, ...]:
        """Runs and transfers."""
        return (*self.runs, *self.transfers)

    @property
    def flop(self) -> float:
        return sum(run.flop for run in self.all)

    @property
    def device_seconds(self) -> float:
        """Of all of them one after the other."""
        return sum(run.total_seconds for run in self.all)

    @property
    def seconds(self) -> float:
        """From start to end with `workers` at a time, longest first."""
        return sum(
            makespan([run.total_seconds for run in part], self.workers)
            for part in (self.runs, self.transfers)
            if part
        )

    def tree(self) -> dict[str, Any]:
        """Plain JSON values; seconds, bytes and FLOP."""
        return {
            "study": self.study,
            "where": self.where,
            "workers": self.workers,
            "runs": [run.tree() | {"memory_bytes": self.memory} for run in self.runs],
            "transfers": [run.tree() | {"memory_bytes": self.memory} for run in self.transfers],
            "total": {
                "flop": self.flop,
                "seconds": self.seconds,
                "run_seconds": self.device_seconds,
                "memory_bytes": self.memory * min(self.workers, len(self.runs)),
                "disk_bytes": sum(run.disk for run in self.all),
            },
            "basis": self.basis,
        }


def count_work(study: StudySpec) -> Work:
    """Count what the runs of a study do, without training.

    Raises:
        InputError: the world, the corpus or the model is impossible.
    """
    specs = study.expand()
    longest = max(specs, key=lambda name: specs[name].training.steps)
    spec = specs[longest]
    setup = RunSetup(spec)
    model, probes = setup.model(), setup.corpus.probes
    cost_of = costs(specs)
    return Work(
        step_flop=cost_of[longest].flop,
        checkpoint_flop=checkpoint_flop(model, spec, probes),
        probes={name: len(probe_set) for name, probe_set in probes.items()},
        state=training_memory(model, setup.data, spec.training).total,
        disk_of={name: cost.disk for name, cost in cost_of.items()},
        batch=spec.training.batch,
        transfers=tuple(transfer_work(study)),
    )


def estimate_here(study: StudySpec, work: Work, speed: Speed) -> StudyEstimate:
    """Hours on this machine, from its measured speed."""
    runs = [
        _run(name, spec, work, run_seconds(spec, speed, work.probes)) for name, spec in study.expand().items()
    ]
    transfers = [_transfer(one, transfer_seconds(one, work, speed)) for one in work.transfers]
    return StudyEstimate(
        study.name, "this machine", tuple(runs), tuple(transfers), speed.workers, speed.peak, speed.parts()
    )


def estimate_device(study: StudySpec, work: Work, device: Device, utilisation: float) -> StudyEstimate:
    """Hours on one accelerator, one run after the other.

    Args:
        study: the study. work: counted from it.
        device: which.
        utilisation: share of its peak that is reached, 0 to 1 (model FLOP utilisation).

    Raises:
        InputError: the utilisation is not a share.
    """
    if not 0 < utilisation <= 1:
        raise InputError(f"utilisation = {utilisation}: allowed is above 0, up to 1.")
    rate = device.peak * utilisation

    def parts(steps: int, step_flop: float, checkpoints: int, checkpoint_flop: int) -> dict[str, float]:
        return {"steps": steps * step_flop / rate, "checkpoints": checkpoints * checkpoint_flop / rate}

    runs = []
    for name, spec in study.expand().items():
        checkpoints = len(checkpoint_steps(spec.training))
        seconds = parts(spec.training.steps, work.step_flop, checkpoints, work.checkpoint_flop)
        runs.append(_run(name, spec, work, seconds))
    transfers = [
        _transfer(one, parts(one.steps, one.step_flop, one.checkpoints, one.checkpoint_flop))
        for one in work.transfers
    ]
    basis = {
        "peak_flop_per_second": device.peak,
        "utilisation": utilisation,
        "memory_bytes": device.memory,
        "source": device.source,
    }
    return StudyEstimate(study.name, device.name, tuple(runs), tuple(transfers), 1, work.state, basis)


def run_seconds(spec: RunSpec, speed: Speed, probes: dict[str, int]) -> dict[str, float]:
    """Seconds of a run by part: start, compile, steps, checkpoints, saves, diagnosis, verdict."""
    training = spec.training
    marks = checkpoint_steps(training)
    saves = training.steps // training.resume_every - sum(
        mark % training.resume_every == 0 for mark in marks[1:]
    )
    fixed, each = speed.examination
    return {
        "start": speed.start,
        "compile": speed.compile,
        "steps": training.steps * speed.step,
        "checkpoints": len(marks) * speed.checkpoint,
        "saves": max(0, saves) * speed.save,
        "diagnosis": speed.diagnosis[0] + len(marks) * speed.diagnosis[1],
        "verdict": sum(fixed + each * count for count in examinations(spec, probes)),
    }


def transfer_seconds(transfer: TransferWork, work: Work, speed: Speed) -> dict[str, float]:
    """Seconds of a transfer by part. Measured are a base's step, checkpoint and examination: a step is taken
    to grow with its batch, a checkpoint with its probes, and an examination to be one of the causal verdict.
    Each worker starts once, and compiles every kind of step once, for all transfers together."""
    fixed, each = speed.examination
    kinds, count = len({one.step_kind for one in work.transfers}), len(work.transfers)
    return {
        "start": speed.start * min(1.0, speed.workers / count),
        "compile": speed.compile * min(1.0, speed.workers * kinds / count),
        "steps": transfer.steps * speed.step * transfer.batch / work.batch,
        "checkpoints": transfer.checkpoints * speed.checkpoint * transfer.probes / sum(work.probes.values()),
        "saves": 0.0,
        "diagnosis": speed.diagnosis[0] + transfer.checkpoints * speed.diagnosis[1],
        "verdict": sum(fixed + each * count for count in transfer.examinations),
    }


def examinations(spec: RunSpec, probes: dict[str, int]) -> list[int]:
    """Probes of every examination of the causal verdict. "moments" counts all of them, reached or not."""
    causal: CausalSpec = spec.causal
    if not causal.enabled:
        return []
    last = [min(causal.probes, probes[name]) for name in causal.sets if name in probes]
    kept = len(thin(checkpoint_steps(spec.training), spec.training.keep))
    before = {"end": 0, "moments": min(len(MOMENTS), kept - 1), "all": kept - 1}[causal.steps]
    every = last + before * [min(causal.probes, causal.dense_probes, probes.get(VERDICT_SET, 0))]
    return every * (spec.hops - 1)  # Every bridge is examined.


def makespan(seconds: list[float], workers: int) -> float:
    """When the last run ends, if each of `workers` takes the longest run that is left whenever it is free.

    A worker that is left alone is not assumed to become faster.
    """
    free = [0.0] * max(1, workers)
    for one in sorted(seconds, reverse=True):
        free[free.index(min(free))] += one
    return max(free)


def _transfer(work: TransferWork, seconds: dict[str, float]) -> RunEstimate:
    return RunEstimate(
        name=work.name,
        steps=work.steps,
        checkpoints=work.checkpoints,
        training_flop=work.steps * work.step_flop,
        looking_flop=float(work.checkpoints * work.checkpoint_flop),
        seconds=seconds,
        disk=work.disk,
    )


def _run(name: str, spec: RunSpec, work: Work, seconds: dict[str, float]) -> RunEstimate:
    steps, checkpoints = spec.training.steps, len(checkpoint_steps(spec.training))
    return RunEstimate(
        name=name,
        steps=steps,
        checkpoints=checkpoints,
        training_flop=steps * work.step_flop,
        looking_flop=float(checkpoints * work.checkpoint_flop),
        seconds=seconds,
        disk=work.disk_of[name],
    )
