"""Commands that look inside a run: trace, patch, compare, diagnose. Each prints a table, saves a picture."""

import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from grokscope.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from grokscope.mechanics.judge.profile import Profile
    from grokscope.mechanics.patch.interchange import Setting
    from grokscope.runs.open import Run
    from grokscope.world.probes import ProbeSet


@dataclasses.dataclass(frozen=True)
class Trace:
    """Show the inference path of a checkpoint: what is decoded where, and what of it is used."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """A run's directory; several are done one after the other."""
    step: int | None = None
    """The checkpoint; None: the last."""
    probe_set: str = "test_ood"
    """A two-hop probe set."""
    query: str | None = None
    """One query instead of the set: its tokens ("e_1 r_2 r_3"), or its number in the set."""
    hop: int = 1
    """Of queries with several bridges, the one after this hop."""
    probes: int = 240
    """Most probes."""
    out: Path | None = None
    """The picture, .png or .pdf (both are written); None: RUN/figures/."""


@dataclasses.dataclass(frozen=True)
class Patch:
    """Patch every stage and position of a probe set from other queries: the interchange map."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """A run's directory; several are done one after the other."""
    arm: Literal[
        "bridge", "centroid", "other_bridge", "same_bridge", "transport", "head", "relation2", "random"
    ] = "bridge"
    """What is changed (docs/interventions.md)."""
    step: int | None = None
    """The checkpoint; None: the last."""
    probe_set: str = "test_ood"
    """A two-hop probe set."""
    site: str = "state"
    """The state after a pass, or a site inside every pass, such as block0.mlp."""
    probes: int = 240
    """Most probes."""
    seed: int = 0
    """Draws the donors."""
    hop: int = 1
    """Of queries with several bridges, the one after this hop."""
    out: Path | None = None
    """The picture, .png or .pdf (both are written); None: RUN/figures/."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Ask whether two runs, or two groups of runs, take the same path: equivalent, different, or cannot tell.

    A group is RUN, STUDY:REGIME (all seeds of the regime), or several of these joined by commas. From three
    runs on either side on, the answer is about the regimes and no longer about these runs alone.
    """

    first: tyro.conf.Positional[str]
    """A run's directory, or a group, such as runs/pocket:natural."""
    second: tyro.conf.Positional[str]
    """Another's, such as runs/pocket:both_hops_full; the same again compares checkpoints or probe sets."""
    step: int | None = None
    """The first side's checkpoint; None: the last of every run."""
    second_step: int | None = None
    """The second side's; None: the last of every run."""
    probe_set: str = "test_ood"
    """A two-hop probe set."""
    second_probe_set: str | None = None
    """The second side's; None: the same. ID against OOD queries: --probe-set test_iid --second-probe-set
    test_ood."""
    align: Literal["stage", "depth", "profile"] = "stage"
    """Which stages belong together: of equal index, of equal depth, or that do the same."""
    probes: int = 240
    """Most probes."""
    out: Path | None = None
    """The picture, .png or .pdf (both are written); None: figures/ in the first run named."""


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Give a run its causal verdict, print it with all numbers, and keep it as verdict.json in the run."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """A run's directory; several are done one after the other."""
    probes: int | None = None
    """Most probes per set at the last checkpoint; None: as the run's spec says."""
    steps: Literal["end", "moments", "all"] | None = None
    """Which checkpoints; None: as the run's spec says."""


@dataclasses.dataclass(frozen=True)
class Realign:
    """Why grokking waits: ask every checkpoint with its bridge in the form of trained queries.

    RUNS is a run's directory, STUDY:REGIME (all seeds of the regime), or several of these joined by commas.
    Writes the courses beside the picture, as CSV.
    """

    runs: tyro.conf.Positional[str]
    """Such as runs/findings:natural."""
    out: Path
    """The picture, .png or .pdf (both are written); the table is beside it."""
    probes: int = 240
    """Most probes per set."""
    every: int = 1
    """Every so manieth checkpoint, and the last."""


COMMANDS: dict[str, type] = {
    "trace": Trace, "patch": Patch, "compare": Compare, "diagnose": Diagnose, "realign": Realign,
}  # fmt: skip


def do(command: Any) -> int:
    """Run one of `COMMANDS`; returns the exit code."""
    from grokscope.runs.open import Run

    for count in ("probes", "every", "step", "second_step", "seed"):
        value = getattr(command, count, None)
        least = 1 if count in ("probes", "every") else 0
        if value is not None and value < least:
            raise InputError(f"{count} = {value}: allowed is at least {least}.")
    out = getattr(command, "out", None)
    if out is not None and out.suffix not in (".png", ".pdf"):
        raise InputError(f"out = {out}: allowed are names that end in .png or .pdf.")
    of_groups: dict[type, Callable[[Any], None]] = {Compare: _compare, Realign: _realign}
    if type(command) in of_groups:
        of_groups[type(command)](command)
        return 0
    of_runs: dict[type, Callable[[Any, Run], None]] = {Trace: _trace, Patch: _patch, Diagnose: _diagnose}
    if not command.runs:
        raise InputError("runs: the directory of a run is needed, such as runs/demo/natural-s0-*.")
    if out is not None and len(command.runs) > 1:
        raise InputError(f"out = {out}: is the picture of one run, {len(command.runs)} were given.")
    runs = [Run.open(directory) for directory in command.runs]
    for run in runs:
        if len(runs) > 1 and not run.steps:
            print(f"{run.directory}: no checkpoint yet, left out")
            continue
        if len(runs) > 1:
            print(f"{run.directory}:")
        of_runs[type(command)](command, run)
    return 0


def _trace(command: Trace, run: "Run") -> None:
    from grokscope.mechanics.judge.sketch import sketch_of_query, sketch_of_rows
    from grokscope.mechanics.judge.verdict import look
    from grokscope.report.grid import path_grid
    from grokscope.report.printed import print_table
    from grokscope.runs.causal import answer_position, one_query

    setting, model = run.setting(hop=command.hop), run.model(command.step)
    step = _step(run, command.step)
    title, which = f"{run.name}, step {step:,}", _which(run, setting)
    if command.query is not None:
        one = one_query(run, command.query, _probe_set(run, command.probe_set))
        sketch = sketch_of_query(model, one, setting, title)
        words = ["".join(c for c in word if c.isalnum()) for word in sketch.inputs[: run.spec.hops + 1]]
        name = f"trace_{'_'.join([*words, *which])}_step{step}"
    else:
        found = look(model, _probe_set(run, command.probe_set), setting, step, command.probes)
        place, title = answer_position(run), ", ".join([title, command.probe_set, *which])
        sketch = sketch_of_rows(found.rows, found.found.path, place, title)
        name = "_".join(["trace", command.probe_set, *which, f"step{step}"])
    rows = []
    for i in reversed(range(len(sketch.stages))):
        cells = []
        for j in range(len(sketch.roles)):
            if sketch.single:
                text = sketch.tokens[i][j]
            else:
                text = " ".join(
                    f"{layer} {sketch.decoded[layer][i, j]:.2f}"
                    for layer in ("bridge", "answer")
                    if sketch.decoded[layer][i, j] >= 0.005
                )
            used = [f"[{layer} used]" for layer in ("bridge", "answer") if sketch.held[layer][i, j]]
            cells.append(" ".join([text, *used]))
        rows.append((sketch.stages[i], *cells))
    inputs = sketch.inputs or ("",) * len(sketch.roles)
    heads = [f"{role} {token}".strip() for role, token in zip(sketch.roles, inputs, strict=False)]
    print_table(f"{sketch.title}: {sketch.subtitle}", ["stage (last on top)", *heads], rows)
    print(sketch.note)
    _save(lambda: path_grid([sketch]), command.out, run.directory / "figures" / f"{name}.png")


def _patch(command: Patch, run: "Run") -> None:
    import numpy as np

    from grokscope.mechanics.patch.interchange import accuracy, interchange
    from grokscope.mechanics.read.layout import some_probes
    from grokscope.report.causal_figures import interchange_map
    from grokscope.report.printed import print_table
    from grokscope.statistics.estimate import from_numbers, text

    setting, step = run.setting(command.seed, command.hop), _step(run, command.step)
    which = _which(run, setting)
    every = _probe_set(run, command.probe_set)
    probes, _ = some_probes(every, setting.encode(every.queries), command.probes)
    arms = [command.arm] if command.arm != "random" else ["bridge", "random"]
    maps = interchange(run.model(command.step), probes, setting, arms, site=command.site)
    given, free = (accuracy(maps, command.arm, conditioned) for conditioned in (True, False))
    n = f"{int(given['n'])} of {len(probes)} probes that can be tested; unconditioned n = {int(free['n'])}"
    title = ", ".join([run.name, f"step {step:,}", command.probe_set, *which])
    title += f": arm {command.arm} at {command.site}"
    roles = [str(role) for role in maps["role"].values]
    rows = []
    for i in reversed(range(maps.sizes["stage"])):
        cells = []
        for j in range(maps.sizes["position"]):
            rate, low, high = (float(given[name].values[i, j]) for name in ("rate", "low", "high"))
            other = float(free["rate"].values[i, j])
            known = text(from_numbers(rate, low, high), missing="cannot tell")
            cells.append(known + ("" if np.isnan(other) else f" ({other:.2f})"))
        rows.append((str(maps["stage"].values[i]), *cells))
    print_table(f"{title}\n{n} (unconditioned rate in brackets)", ["stage (last on top)", *roles], rows)
    site = [] if command.site == "state" else [command.site]
    name = _file_name("patch", command.arm, *site, command.probe_set, *which, f"step{step}")
    _save(lambda: interchange_map(given, title, n), command.out, run.directory / "figures" / name)


def _compare(command: Compare) -> None:
    from grokscope.mechanics.judge.compare import compare
    from grokscope.report.causal_figures import distances
    from grokscope.report.printed import print_table
    from grokscope.runs.study import runs_of
    from grokscope.statistics.estimate import text

    sides = (runs_of(command.first), runs_of(command.second))
    sets = (command.probe_set, command.second_probe_set or command.probe_set)
    steps = (command.step, command.second_step)
    first, second = (
        [_profile(run, step, name, command.probes) for run in side]
        for side, step, name in zip(sides, steps, sets, strict=True)
    )
    found = compare(first, second, command.align)
    said = [
        _group_name(side) + ("" if step is None else f" at step {step:,}")
        for side, step in zip(sides, steps, strict=True)
    ]
    names = f"{said[0]} and {said[1]}, {' and '.join(dict.fromkeys(sets))}"
    print_table(
        f"{names}: {found.n} probes a run; about {found.scope}",
        ["channel", "measure", "distance", "margin", "answer"],
        [
            (
                one.kind,
                one.measure,
                text(one.known, ".3f", missing="cannot tell"),
                f"{one.margin:.3f}",
                one.answer,
            )
            for one in found.distances
        ],
    )
    print(f"{found.answer}: {found.reason}")
    at = [
        f"{which}{step}"
        for which, step in zip(("step", "second_step"), steps, strict=True)
        if step is not None
    ]
    if command.align != "stage":
        at.append(command.align)
    name = _file_name("compare", _group_name(sides[1]), *dict.fromkeys(sets), *at)
    _save(lambda: distances(found, names), command.out, sides[0][0].directory / "figures" / name)


def _diagnose(command: Diagnose, run: "Run") -> None:
    from grokscope.mechanics.judge.diagnosis import diagnose
    from grokscope.report.causal_figures import run_sketches
    from grokscope.report.grid import path_grid
    from grokscope.report.printed import print_verdict
    from grokscope.runs.causal import answer_position, complete, keep_verdict
    from grokscope.runs.directory import check_unlocked

    check_unlocked(run.directory, patience=1.0)
    wanted = {"probes": command.probes, "steps": command.steps}
    spec = run.spec.causal.replace(**{name: value for name, value in wanted.items() if value is not None})
    complete(run)
    diagnosis = run.diagnosis or diagnose(run.metrics, run.traces, run.corpus.probes, run.spec.diagnosis)
    verdict = keep_verdict(run, diagnosis, spec)
    print_verdict(run.name, verdict)
    sketches = run_sketches(run.name, run.causal.to_dicts(), verdict, answer_position(run))
    if sketches:
        _save(lambda: path_grid(sketches), None, run.directory / "figures" / f"paths_step{verdict.step}.png")


def _realign(command: Realign) -> None:
    import polars as pl

    from grokscope.files import write_text
    from grokscope.findings.measured import measure
    from grokscope.findings.waiting import ASKED, SETS, course, sentences, split
    from grokscope.mechanics.judge.diagnosis import diagnose
    from grokscope.report.finding_figures import realigned
    from grokscope.report.printed import print_table
    from grokscope.runs.causal import complete
    from grokscope.runs.study import runs_of

    runs, parts, saturated = runs_of(command.runs), [], {}
    for run in runs:
        if (diagnosis := run.diagnosis) is None:
            complete(run)
            diagnosis = diagnose(run.metrics, run.traces, run.corpus.probes, run.spec.diagnosis)
        saturated[run.name] = measure(run.name, run, diagnosis).time("saturation")
        steps = [*run.steps[:: command.every], *run.steps[-1:]]
        parts.append(course(run, command.probes, list(dict.fromkeys(steps))))
        print(f"{run.name}: {len(parts[-1]['step'].unique())} checkpoints", flush=True)
    rows = pl.concat(parts)
    mean = rows.group_by("step", "probe_set", "asked", maintain_order=True).agg(pl.col("rate").mean())
    shown = {(step, name, way): rate for step, name, way, rate in mean.iter_rows()}
    sets = [name for name in SETS if name in rows["probe_set"].unique()]
    print_table(
        f"{_group_name(runs)}: mean accuracy, plain / realigned to the bridge it reads / to the true one",
        ["step", *(SETS[name] for name in sets)],
        [
            (
                f"{step:,}",
                *(" / ".join(f"{shown[step, name, way]:.2f}" for way in ASKED[:3]) for name in sets),
            )
            for step in sorted(rows["step"].unique())
        ],
    )
    window = runs[0].spec.diagnosis.window
    print("\n".join(sentences(split(rows, saturated, window), len(runs))))
    write_text(command.out.with_suffix(".csv"), rows.write_csv(float_precision=4))
    _save(lambda: realigned(rows), command.out, command.out)


def _group_name(runs: "list[Run]") -> str:
    """What a group is called in a table: the run, or the regime and how many of it."""
    if len(runs) == 1:
        return runs[0].name
    regimes = dict.fromkeys(run.spec.regime.name for run in runs)
    return f"{' and '.join(regimes)} ({len(runs)} runs)"


def _profile(run: "Run", step: int | None, probe_set: str, most: int) -> "Profile":
    """Lens and interchange of one checkpoint as a profile."""
    from grokscope.mechanics.judge.profile import profile
    from grokscope.mechanics.judge.verdict import MAP_ARMS
    from grokscope.mechanics.patch.interchange import interchange
    from grokscope.mechanics.read.layout import some_probes
    from grokscope.mechanics.read.lens import lens

    setting, every, model = run.setting(), _probe_set(run, probe_set), run.model(step)
    probes, encoded = some_probes(every, setting.encode(every.queries), most)
    trace = lens(model, probes, encoded, setting.world.vocabulary)
    maps = interchange(model, probes, setting, MAP_ARMS)
    return profile(trace, maps, setting.world.fingerprint)


def _probe_set(run: "Run", name: str) -> "ProbeSet":
    composed = [key for key, one in run.corpus.probes.items() if one.queries.hops > 1]
    if name not in composed:
        raise InputError(f"probe_set = {name!r}: run {run.name} has {', '.join(composed)}.")
    return run.corpus.probes[name]


def _which(run: "Run", setting: "Setting") -> list[str]:
    """Name of the bridge, where there are several."""
    return [setting.latent] if run.spec.hops > 2 else []


def _step(run: "Run", step: int | None) -> int:
    return run.steps[-1] if step is None and run.steps else step or 0


def _file_name(*parts: str) -> str:
    """Everything that tells one picture from another, as the name of a file."""
    return "_".join("".join(c if c.isalnum() or c in "-_" else "_" for c in part) for part in parts) + ".png"


def _save(draw: Any, out: Path | None, usual: Path) -> None:
    """Draw in the report's style, and write PNG and PDF; the usual place may be in a run that is somebody
    else's, or in an archive, which is no reason to fail."""
    from grokscope.report import style

    path = out or usual
    with style.styled():
        figure: Figure = draw()
        try:
            style.save(figure, path.with_suffix(""))
        except OSError as error:
            if out is not None or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            print(f"picture: none, {path.parent} cannot be written ({error.strerror}): say where, --out.")
            return
    print(f"picture: {path}")
