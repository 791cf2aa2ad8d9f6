"""What a study will take, before anything runs: FLOP, hours, memory and disk, per run and in all.

Hours of this machine come from measured seconds (`measured.py`); hours of a named device from what a step is
made of (`devices.py`). FLOP are those of training (forward, backward, the optimiser's products), of
evaluation and of the lens; the causal verdict's are left out of the count, its seconds are not.
"""

from dataclasses import dataclass, replace
from typing import Any

from grokscope.errors import InputError
from grokscope.mechanics.judge.diagnosis import VERDICT_SET
from grokscope.mechanics.spec import CausalSpec
from grokscope.models.flops import Operations
from grokscope.runs.causal import MOMENTS
from grokscope.runs.cost import Cost, checkpoint_operations, costs, job_cost, kind_of, kinds, mean_flop
from grokscope.runs.devices import REACHED, Device
from grokscope.runs.job import RunSpec
from grokscope.runs.measured import Speed
from grokscope.runs.population import Population, at_once
from grokscope.runs.setup import RunSetup, TransferSetup
from grokscope.runs.spec import StudySpec
from grokscope.spec import digest
from grokscope.training.cost import training_memory
from grokscope.training.schedule import checkpoint_steps, thin
from grokscope.training.spec import TrainingSpec
from grokscope.transfer.outcome import OLD_PATH
from grokscope.world.probes import MIXES


@dataclass(frozen=True)
class JobWork:
    """What a run, or a transfer, does."""

    name: str
    steps: int
    checkpoints: int
    saves: int
    """Of the resumable state, between checkpoints."""
    step: tuple[Operations, ...]
    """One training step, the update included, for every number of loops that it may draw."""
    checkpoint: Operations
    """Evaluation and lens of all probes."""
    examinations: tuple[int, ...]
    """Probes of each causal examination; of a transfer every mix, and the old queries that show the path."""
    disk: int
    """Bytes at most."""
    step_kind: str
    """Jobs of one kind share a compiled step within a process."""

    @property
    def step_flop(self) -> float:
        """Of the mean training step."""
        return mean_flop(self.step)


@dataclass(frozen=True)
class Work:
    """What the jobs of a study do."""

    runs: tuple[JobWork, ...]
    transfers: tuple[JobWork, ...]
    state: int
    """Bytes of the largest run's weights, moments, average, gradients, activations and data, uncompiled."""


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
    """Count what the jobs of a study do, without training: its runs once per kind, its transfers once per
    variant, which stands for all bases and seeds. A base that a run may turn out not to have is counted.

    Raises:
        InputError: the world, the corpus or the model is impossible, a variant cannot be honoured, or the
            world has no room for the new facts.
    """
    specs = study.expand()
    setups = kinds(specs)
    cost_of = costs(specs, setups)
    counted: dict[str, JobWork] = {}
    runs = []
    for name, spec in specs.items():
        kind = kind_of(spec)
        setup = setups[kind]
        if kind not in counted:
            counted[kind] = _counted(setup, cost_of[name], ())
        probes = {name: len(one) for name, one in setup.corpus.probes.items()}
        runs.append(
            replace(
                counted[kind],
                name=name,
                steps=spec.training.steps,
                checkpoints=len(checkpoint_steps(spec.training)),
                saves=saves(spec.training),
                examinations=tuple(examinations(spec, probes)),
                disk=cost_of[name].disk,
            )
        )
    base, transfers = RunSetup(next(iter(specs.values()))), study.expand_transfers()
    variants: dict[str, JobWork] = {}
    for one in transfers:
        if one.variant not in variants:
            new = TransferSetup(one.model_copy(update={"base": base.spec}), base)
            asked = [name for name in (*MIXES, OLD_PATH) if name in new.corpus.probes]
            most = one.transfer.examine.probes
            examined = tuple(min(most, len(new.corpus.probes[name])) for name in asked)
            variants[one.variant] = _counted(new, job_cost(new), examined)
    return Work(
        runs=tuple(runs),
        transfers=tuple(replace(variants[one.variant], name=one.name) for one in transfers),
        state=max(training_memory(one.model(), one.data, one.spec.training).total for one in setups.values()),
    )


def _counted(setup: RunSetup | TransferSetup, cost: Cost, examined: tuple[int, ...]) -> JobWork:
    spec, training, probes = setup.spec, setup.spec.training, setup.corpus.probes
    return JobWork(
        name=spec.name,
        steps=training.steps,
        checkpoints=len(checkpoint_steps(training)),
        saves=0,
        step=cost.step,
        checkpoint=checkpoint_operations(setup.model(), spec, probes),
        examinations=examined,
        disk=cost.disk,
        step_kind=digest([training.tree(), spec.model.tree()]),
    )


def estimate_here(study: StudySpec, work: Work, speed: Speed) -> StudyEstimate:
    """Hours on this machine, from its measured speed. Every run has a process of its own; transfers share
    one a worker, which starts once and compiles every kind of step once."""
    base, count = max(work.runs, key=lambda one: one.steps), max(1, len(work.transfers))
    compiled = len({one.step_kind for one in work.transfers})
    shares = min(1.0, speed.workers / count), min(1.0, speed.workers * compiled / count)
    return StudyEstimate(
        study.name,
        "this machine",
        tuple(_estimate(one, job_seconds(one, base, speed)) for one in work.runs),
        tuple(_estimate(one, job_seconds(one, base, speed, *shares)) for one in work.transfers),
        speed.workers,
        speed.peak,
        speed.parts(),
    )


def estimate_device(
    study: StudySpec,
    work: Work,
    device: Device,
    utilisation: float = REACHED,
    population: Population = "auto",
) -> StudyEstimate:
    """Hours on one accelerator, one process after the other.

    Args:
        study: the study. work: counted from it.
        device: which.
        utilisation: share of its peak that matrix products reach, 0 to 1.
        population: how many runs are trained together in a process, as for `run_study`.

    Raises:
        InputError: the utilisation is not a share, or the population none of the allowed values.
    """
    if not 0 < utilisation <= 1:
        raise InputError(f"utilisation = {utilisation}: allowed is above 0, up to 1.")
    most = at_once(population, "cuda", study.training.loop_choices is not None)

    def estimate(one: JobWork, members: int) -> RunEstimate:
        each = [device.seconds(step, utilisation, members) for step in one.step]
        step, looking = sum(each) / len(each), device.seconds(one.checkpoint, utilisation)
        return _estimate(one, {"steps": one.steps * step / members, "checkpoints": one.checkpoints * looking})

    members = [min(most, len(work.runs) - start) for start in range(0, len(work.runs), most)]
    step = work.runs[0].step[0]
    basis = {
        "peak_flop_per_second": device.peak,
        "utilisation": utilisation,
        "bytes_per_second": device.bandwidth,
        "memory_bytes": device.memory,
        "source": device.source,
        "members": members[0],
        "step": device.seconds(step, utilisation, members[0]),
        "bound": device.bound(step, utilisation, members[0]),
        "operations": step.calls,
    }
    runs = tuple(estimate(one, members[number // most]) for number, one in enumerate(work.runs))
    transfers = tuple(estimate(one, 1) for one in work.transfers)
    return StudyEstimate(study.name, device.name, runs, transfers, 1, work.state, basis)


def job_seconds(
    job: JobWork, measured: JobWork, speed: Speed, starts: float = 1.0, compiles: float = 1.0
) -> dict[str, float]:
    """Seconds of a job by part: start, compile, steps, checkpoints, saves, diagnosis, verdict.

    Args:
        job: a run, or a transfer: a step and a checkpoint are taken to grow with their FLOP, and an
            examination to be one of the causal verdict.
        measured: the run whose speed was measured. speed: that.
        starts, compiles: the job's share of starting its process, and of compiling its step.
    """
    fixed, each = speed.examination
    return {
        "start": speed.start * starts,
        "compile": speed.compile * compiles,
        "steps": job.steps * speed.step * (job.step_flop / measured.step_flop),
        "checkpoints": job.checkpoints * speed.checkpoint * (job.checkpoint.flop / measured.checkpoint.flop),
        "saves": job.saves * speed.save,
        "diagnosis": speed.diagnosis[0] + job.checkpoints * speed.diagnosis[1],
        "verdict": sum(fixed + each * count for count in job.examinations),
    }


def saves(training: TrainingSpec) -> int:
    """How often the resumable state of a run is saved between checkpoints."""
    every, marks = training.resume_every, checkpoint_steps(training)
    return max(0, training.steps // every - sum(mark % every == 0 for mark in marks[1:]))


def examinations(spec: RunSpec, probes: dict[str, int]) -> list[int]:
    """Probes of every examination of the causal verdict. "moments" counts all of them, reached or not."""
    causal: CausalSpec = spec.causal
    if not spec.judged:
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


def _estimate(job: JobWork, seconds: dict[str, float]) -> RunEstimate:
    return RunEstimate(
        name=job.name,
        steps=job.steps,
        checkpoints=job.checkpoints,
        training_flop=job.steps * job.step_flop,
        looking_flop=float(job.checkpoints * job.checkpoint.flop),
        seconds=seconds,
        disk=job.disk,
    )
