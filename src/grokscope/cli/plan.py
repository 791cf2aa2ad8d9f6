"""`grokscope plan`: what a study will take, printed before anything runs."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from grokscope.errors import InputError
from grokscope.runs.devices import DEVICES, REACHED, device_of
from grokscope.runs.files import shipped_studies
from grokscope.runs.spec import StudySpec

if TYPE_CHECKING:
    from grokscope.runs.estimate import StudyEstimate

QUIET = 0.9
"""Below this share of a core, the machine is said to be doing other work."""
TIED = 0.4
"""From this correlation on, two fields of a sweep are said to rise together."""
TRAINING = ("steps", "checkpoints", "saves")
"""Parts of a run that its recorded clock covers."""


WHICH = f"A shipped study ({', '.join(shipped_studies())}), or the path of a study file."


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfStudy:
    """A command about a study, whose own fields are options too (`runs.options`)."""

    study: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=WHICH, metavar="STUDY")]
    family: str | None = None
    """Which of the file's model families; None: the file's own choice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(OfStudy):
    """Say what a study will take before it runs: FLOP, hours, memory, disk, per run and in all."""

    device: Annotated[
        str | None, tyro.conf.arg(help=f"Plan for one of {', '.join(DEVICES)}; None: measure this machine.")
    ] = None
    utilisation: Annotated[
        float | None,
        tyro.conf.arg(help=f"Share of the device's peak that products reach; None: {REACHED}."),
    ] = None
    workers: int | None = None
    """Runs at a time on this machine; None: one per usable core."""
    threads: int | None = None
    """Threads of each worker; None: usable cores // workers."""
    population: int | Literal["auto", "off"] = "auto"
    """As for run: how many new runs the device trains together in one process."""
    seconds: float = 30.0
    """How long to measure this machine, once everything is compiled."""
    against: Path | None = None
    """Finished runs (a directory): what they took beside it."""
    json: bool = False
    """Print JSON: seconds, bytes, FLOP."""


def plan(study: StudySpec, command: Plan) -> int:
    """Count, measure if asked of this machine, and print."""
    recorded = {} if command.against is None else recorded_seconds(study, command.against)
    found, alone = _estimates(study, command)
    if command.json:
        tree = found.tree() | {"alone_seconds": None if alone is None else alone.seconds}
        print(json.dumps(tree | {"recorded_training_seconds": recorded}, indent=1))
        return 0
    _print(found, alone, study)
    for what, one in (("as measured", found), ("by CPU time", alone)):
        if recorded and one is not None:
            print(against_sentence(what, one, recorded))
    return 0


def recorded_seconds(study: StudySpec, directory: Path) -> dict[str, float]:
    """Clock of the training of the finished runs in a directory, by run: what `TRAINING` parts predict.

    Raises:
        InputError: no run of the study is finished there.
    """
    from grokscope.runs.study import Study

    out: dict[str, float] = {}
    for name, run in Study(directory, study).runs.items():
        if run.finished:
            at = run.metrics.filter(step=study.expand()[name].training.steps)["seconds"].drop_nulls()
            out |= {name: float(at[0])} if len(at) else {}
    if not out:
        raise InputError(f"against = {directory}: no run of this study with as many steps is finished there.")
    return out


def against_sentence(what: str, found: "StudyEstimate", recorded: dict[str, float]) -> str:
    """Predicted over recorded seconds of training."""
    predicted = {run.name: sum(run.seconds.get(part, 0.0) for part in TRAINING) for run in found.runs}
    ratios = [predicted[name] / seconds for name, seconds in recorded.items()]
    total = sum(predicted[name] for name in recorded) / sum(recorded.values())
    return (
        f"{what}: predicted training takes {_ratio(total)} times what {len(recorded)} finished runs "
        f"recorded ({_ratio(min(ratios))} to {_ratio(max(ratios))} by run)"
    )


def _estimates(study: StudySpec, command: Plan) -> tuple["StudyEstimate", "StudyEstimate | None"]:
    """The estimate, and what it would be with nobody else on the machine, where that can be said."""
    from grokscope.runs.estimate import count_work, estimate_device, estimate_here
    from grokscope.runs.local import usable_cores
    from grokscope.runs.measured import measure_here

    if command.device is not None:
        for name in ("workers", "threads"):
            if getattr(command, name) is not None:
                raise InputError(
                    f"{name} = {getattr(command, name)}: is for this machine; leave out --device."
                )
        device = device_of(command.device)
        share = REACHED if command.utilisation is None else command.utilisation
        return estimate_device(study, count_work(study), device, share, command.population), None
    if command.utilisation is not None:
        raise InputError(f"utilisation = {command.utilisation}: needs --device; this machine is measured.")
    if command.seconds <= 0:
        raise InputError(f"seconds = {command.seconds}: allowed is above 0.")
    cores, specs = usable_cores(), list(study.expand().values())
    for name, count in (("workers", command.workers), ("threads", command.threads)):
        if count is not None and count < 1:
            raise InputError(f"{name} = {count}: allowed is at least 1.")
    workers = min(command.workers or cores, len(specs))
    threads = command.threads or max(1, cores // workers)
    work = count_work(study)
    longest = max(specs, key=lambda spec: spec.training.steps)
    speed = measure_here(longest, workers, threads, command.seconds)
    alone = None if speed.alone is None else estimate_here(study, work, speed.alone)
    return estimate_here(study, work, speed), alone


def _time(seconds: float) -> str:
    """`1.30 hours`, `6.60 min`, `0.16 s`."""
    for unit, size in (("hours", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds:.2g} s"


def _ratio(number: float) -> str:
    return f"{number:.2f}" if number >= 0.1 else f"{number:.2g}"


def _print(found: "StudyEstimate", alone: "StudyEstimate | None", study: StudySpec) -> None:
    from grokscope.report.printed import print_rows
    from grokscope.runs.cost import bytes_text

    heads = ("run", "steps", "FLOP", "time", "memory", "disk")
    rows = [
        (run.name, f"{run.steps:,}", f"{run.flop:.2e}", _time(run.total_seconds), bytes_text(found.memory),
         bytes_text(run.disk))
        for run in found.all
    ]  # fmt: skip
    console = print_rows(heads, rows, width=110, whole=heads, right=heads[1:])
    for sentence in [*sentences(found, alone, study), *of_sweep(study)]:
        console.print(sentence, highlight=False, soft_wrap=True)


def of_sweep(study: StudySpec) -> list[str]:
    """Which fields a sweep of random points cannot tell apart."""
    if study.sweep is None or study.sweep.by != "sobol":
        return []
    return [
        f"warning: in the {study.sweep.points} points of the sweep {one} and {other} "
        f"{'rise together' if r > 0 else 'run against each other'} (rank correlation {r:.2f}), so that a law "
        "cannot tell what either does; more points may"
        for one, other, r in study.sweep.tied()
        if abs(r) >= TIED
    ]


def sentences(found: "StudyEstimate", alone: "StudyEstimate | None", study: StudySpec) -> list[str]:
    """The totals, and what they rest on."""
    from grokscope.runs.cost import bytes_text

    tree, basis = found.tree()["total"], found.basis
    looking = sum(run.looking_flop for run in found.all) / found.flop
    what = f"{len(found.runs)} runs"
    if found.transfers:
        what += f" and {len(found.transfers)} transfers, as if every base existed"
    at_once = "one after the other" if found.workers == 1 else f"{found.workers} at a time"
    disk, memory = (bytes_text(tree[name]) for name in ("disk_bytes", "memory_bytes"))
    said = [
        f"in all: {what}, {found.flop:.2e} FLOP ({looking:.0%} of it looking), "
        f"{_time(found.seconds)} on {found.where}, {at_once} "
        f"({_time(found.device_seconds)} of runs); disk at most {disk}, memory {memory}"
    ]
    if "utilisation" in basis:
        said.append(
            f"assumed: a compiled step of {basis['members']} run(s) together takes "
            f"{basis['step'] * 1000:.3g} ms, bound by {basis['bound']} ({basis['operations']:,} operations); "
            f"products at {basis['utilisation']:.0%} of {basis['peak_flop_per_second']:.3g} FLOP/s in "
            f"bfloat16, memory at {basis['bytes_per_second']:.3g} bytes/s ({basis['source']}); start, "
            "compiling, diagnosis and the causal verdict are not counted"
        )
        said.append(
            "how sure: within 30 % of the steps measured on an H200 (docs/planning.md); other devices are "
            "calculated alike and were not measured"
        )
        if found.memory > basis["memory_bytes"]:
            said.append(
                f"warning: an uncompiled step keeps {bytes_text(found.memory)}, the device has "
                f"{bytes_text(int(basis['memory_bytes']))}; training.batch makes it smaller"
            )
        return said
    per_run = {part: sum(run.seconds[part] for run in found.all) for part in found.runs[0].seconds}
    shares = ", ".join(f"{part} {spent / found.device_seconds:.0%}" for part, spent in per_run.items())
    said.append(f"where the time goes: {shares}")
    said.append(
        f"measured: {basis['steps_timed']} steps of {basis['step'] * 1000:.3g} ms, checkpoints of "
        f"{basis['checkpoint']:.3g} s, compiling {basis['compile']:.3g} s (from the cache), "
        f"{basis['workers']} processes with {basis['threads']} threads each"
    )
    if basis["busy"] is not None and basis["busy"] < QUIET:
        said.append(f"this machine is doing other work: the processes got {basis['busy']:.0%} of a core each")
        if alone is not None:
            said[-1] += f"; by CPU time, alone on it they would take {_time(alone.seconds)}"
    if study.causal.steps == "moments" and study.causal.enabled and study.corpus.task == "chain":
        said.append("the causal verdict is counted with all its moments, as if every run reached them")
    return said
