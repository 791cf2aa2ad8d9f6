"""The command line: parse, call one public function, print.

Every error a user can cause is one sentence and exit code 2; a study with failed runs ends with 1, an
interrupted one with 130.
"""

import dataclasses
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Union

import tyro
import yaml

from grokscope import __version__
from grokscope.cli import findings as cli_findings
from grokscope.cli import law as cli_law
from grokscope.cli import mechanics as cli_mechanics
from grokscope.cli import parser as cli_parser
from grokscope.cli import plan as cli_plan
from grokscope.cli import status as cli_status
from grokscope.cli import transfer as cli_transfer
from grokscope.cli import worthwhile as cli_worthwhile
from grokscope.cli.plan import OfStudy
from grokscope.errors import InputError
from grokscope.files import check_folder, safe_name
from grokscope.models.published.options import ShapeOptions
from grokscope.runs.execution import Name
from grokscope.runs.files import load_study
from grokscope.runs.options import apply, option_fields
from grokscope.runs.spec import StudySpec


@dataclasses.dataclass(frozen=True)
class WorldBuild:
    """Build the world and one regime's corpus of a study, and write them as files."""

    study: tyro.conf.Positional[str]
    """A shipped study's name, or the path of a study file."""
    out: Path
    """Directory to write; it must not exist yet or be empty."""
    regime: str = "natural"
    """Which of the study's (or the reference's) regimes."""
    format: Literal["grokscope", "reference", "parquet"] = "grokscope"
    """grokscope: arrays; reference: the published JSON files; parquet: tables with names beside numbers."""
    family: str | None = None
    """Which of the study's model families; None: the file's own choice."""
    seed: int = 0
    """The study seed."""


@dataclasses.dataclass(frozen=True)
class WorldInspect:
    """Say what a world on disk holds, in any of the formats that are read."""

    directory: tyro.conf.Positional[Path]
    """A directory in one of the formats, or a table of triples."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class World:
    """Build and inspect worlds."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[WorldBuild, tyro.conf.subcommand("build")]
        | Annotated[WorldInspect, tyro.conf.subcommand("inspect")]
    ]


@dataclasses.dataclass(frozen=True)
class Report:
    """Write the HTML report and the figures of a study again."""

    directory: tyro.conf.Positional[Path]
    """A study's directory."""
    out: Path | None = None
    """Folder for the report; None: the study's directory."""


@dataclasses.dataclass(frozen=True)
class Import:
    """Read a checkpoint of a reference codebase (TRM, recurrent GPT-2) and write it as a model of ours; or,
    with --study, a directory of checkpoints whose names end in their step, as a run that is traced and
    diagnosed."""

    checkpoint: tyro.conf.Positional[Path]
    """safetensors, a PyTorch file that holds tensors alone, the index of several, or their directory."""
    out: Path
    """Directory to write; it must not exist yet or be empty."""
    config: Path | None = None
    """JSON or YAML file with the original's config keys; None: all_config.yaml or config.json beside the
    checkpoint, the metadata of a safetensors file, and options."""
    study: str | None = None
    """The study (shipped, or a file) whose facts the checkpoints were trained on, as `grokscope world build`
    wrote them; None: one checkpoint, as a model."""
    regime: str = "natural"
    """Of the study: the regime. Likewise below."""
    seed: int = 0
    """The study seed."""
    family: str | None = None
    """The model family, for its format."""
    shape: tyro.conf.OmitArgPrefixes[ShapeOptions] = dataclasses.field(default_factory=ShapeOptions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(OfStudy):
    """Run a study, or go on with it: finished runs are skipped, interrupted ones resumed."""

    out: Path | None = None
    """The study's directory; None: runs/<study>, or runs/<study>-<family>."""
    workers: int | None = None
    """Runs at a time; None: one per usable core."""
    threads: int | None = None
    """Threads of each worker, part of what a run's bits depend on; None: usable cores // workers."""
    on: Name | None = None
    """local: processes on this machine; slurm: job arrays; ray: tasks of a Ray cluster; None: as the study
    says."""
    leave: bool = False
    """Leave as soon as the queue has the runs (slurm); the same command later collects them and goes on."""
    population: int | Literal["auto", "off"] = "auto"
    """How many new runs are trained together in one process: auto (many on a GPU, one on a CPU), off, or a
    number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show(OfStudy):
    """Print a study with every setting, what it will take on disk, and its cost."""


def _commands() -> dict[str, tuple[type, Callable[..., int]]]:
    """By name, what a command is given and the function that does it. One `OfStudy` has the study's options
    too, and its function is given the study first."""
    return {
        "run": (Run, _run),
        "world": (World, _world),
        "report": (Report, lambda command: _report(command.directory, command.out)),
        "import": (Import, _import),
        **{name: (kind, cli_mechanics.do) for name, kind in cli_mechanics.COMMANDS.items()},
        "transfer": (cli_transfer.Transfer, cli_transfer.transfer),
        "findings": (cli_findings.Findings, cli_findings.do),
        "law": (cli_law.Law, cli_law.law),
        "status": (cli_status.Status, cli_status.status),
        "show": (Show, _show),
        "plan": (cli_plan.Plan, cli_plan.plan),
        "worthwhile": (cli_worthwhile.Worthwhile, cli_worthwhile.worthwhile),
        "price": (cli_worthwhile.Price, cli_worthwhile.price),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program name; None: those of the process.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt as interrupt:
        said = str(interrupt) or "stopped."
        again = " ".join(["grokscope", *arguments])
        resume = f" Go on with: {again}" if arguments[:1] in (["run"], ["transfer"]) else ""
        return _fail(said + resume, 130)
    except BrokenPipeError:  # the reader of our output has seen enough, as in `grokscope show paper | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f" ({error.filename})" if error.filename else ""
            return _fail(f"the disk is full{place}; nothing is half written: make room and run it again.", 2)
        return _fail(f"{error.filename or 'a file'} cannot be written or read: {error.strerror or error}.", 2)


def _fail(sentence: str, code: int) -> int:
    print(f"error: {sentence}" if code != 130 else sentence, file=sys.stderr)
    return code


def _dispatch(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(f"grokscope {__version__}")
        return 0
    study = _named_study(arguments)
    options, kinds = option_fields(study or StudySpec()), []
    functions: dict[type, Callable[..., int]] = {}
    for name, (kind, function) in _commands().items():
        if issubclass(kind, OfStudy):
            doc = kind.__doc__
            kind = dataclasses.make_dataclass(
                kind.__name__, options, bases=(kind,), frozen=True, kw_only=True
            )
            kind.__doc__ = doc
        functions[kind] = function
        kinds.append(Annotated[kind, tyro.conf.subcommand(name)])
    try:
        command = cli_parser.parse(
            Union[tuple(kinds)],  # noqa: UP007
            arguments or ["--help"],
            prog="grokscope",
            description="Train transformers on worlds of facts, trace and diagnose how they answer.",
        )
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    do = functions[type(command)]
    if not isinstance(command, OfStudy):
        return do(command)
    assert study is not None  # without one, these commands do not get past the parser
    return do(apply(study, command), command)


def _named_study(arguments: list[str]) -> StudySpec | None:
    """The study that `run`, `show` or `plan` is about: its own values are the defaults of the options.

    Raises:
        InputError: an option stands before the study: which defaults hold is not known yet.
    """
    if len(arguments) < 2 or arguments[0] not in ("run", "show", "plan"):
        return None
    if arguments[1].startswith("-"):
        if {"-h", "--help"} & set(arguments):
            return None
        raise InputError(f"{arguments[1]}: the study comes first, grokscope {arguments[0]} STUDY [options].")
    family = None
    for place, argument in enumerate(arguments):
        if argument == "--family" and place + 1 < len(arguments):
            family = arguments[place + 1]
        elif argument.startswith("--family="):
            family = argument.removeprefix("--family=")
    return load_study(arguments[1], family)


def default_out(study: StudySpec) -> Path:
    """`runs/<study>`, with the family where the study has one that is not its only one."""
    name = study.name if study.family == "default" else f"{study.name}-{study.family}"
    return Path("runs") / safe_name(name, "study name")


def _run(study: StudySpec, command: Run) -> int:
    from grokscope.report.printed import print_summary, print_transfers
    from grokscope.runs.execute import RunsFailed, run_study

    out = command.out or default_out(study)
    failed: RunsFailed | None = None
    try:
        done = run_study(
            study,
            out,
            command.workers,
            command.threads,
            command.population,
            on=command.on,
            leave=command.leave,
        )
    except RunsFailed as error:
        failed, done = error, error.study
    if command.leave and failed is None and not all(run.finished for run in done.run_jobs):
        print(f"the queue has the runs: `grokscope status {out}` shows them, the same command collects them.")
        return 0
    if any(run.diagnosis is not None for run in done.runs.values()):
        _report(out)
    print_summary(done)
    if study.transfer is not None:
        print_transfers(done.transfers, done.transfers_missing)
    if failed is not None:
        return _fail(f"{failed}", 1)
    return 0


def _report(directory: Path, out: Path | None = None) -> int:
    from grokscope.report.html import write_report
    from grokscope.runs.causal import keep_verdict
    from grokscope.runs.study import Study

    if out is not None:
        check_folder(out)
    study = Study.open(directory)
    for run in study.runs.values():
        diagnosis = run.diagnosis
        if diagnosis is not None and run.spec.judged:
            keep_verdict(run, diagnosis)
    path = write_report(study, directory if out is None else out)
    print(f"report: {path}")
    if not any(run.steps for run in study.runs.values()):
        print(f"no run of {study.name} has a checkpoint yet: the report has nothing to show.")
    return 0


def _import(command: Import) -> int:
    from grokscope.models.directory import save_model
    from grokscope.models.published.importing import import_checkpoint

    if command.study is not None:
        return _import_course(command, load_study(command.study, command.family))
    imported = import_checkpoint(command.checkpoint, command.config, command.shape)
    save_model(command.out, imported.model, imported.format)
    print(f"{command.out}: {imported.sentence}")
    return 0


def _import_course(command: Import, study: StudySpec) -> int:
    from grokscope.runs.course import import_course

    run = import_course(
        command.checkpoint, study, command.regime, command.seed, command.out, command.config, command.shape
    )
    steps, last = run.steps, run.metrics.tail(1).to_dicts()[0]
    right = [f"{name[9:]} {value:.2f}" for name, value in last.items() if name.startswith("accuracy.")]
    print(f"{run.directory}: {len(steps)} checkpoints, steps {steps[0]:,} to {steps[-1]:,} by their names")
    print(f"right at the end: {', '.join(right)}")
    return 0


def _show(study: StudySpec, command: Show) -> int:
    from grokscope.runs.cost import study_sentences

    print(yaml.safe_dump(study.tree(), sort_keys=False, allow_unicode=True, width=110), end="")
    for line in study_sentences(study):
        print(f"# {line}")
    return 0


def _world(command: World) -> int:
    action = command.action
    return _world_build(action) if isinstance(action, WorldBuild) else _world_inspect(action)


def _world_build(command: WorldBuild) -> int:
    from grokscope.runs.setup import RunSetup
    from grokscope.world.storage import write_corpus

    study = load_study(command.study, command.family)
    (spec,) = study.alone(command.regime, command.seed).expand().values()
    corpus = RunSetup(spec).corpus
    write_corpus(corpus, command.out, command.format)
    print(f"{command.out}: {len(corpus.composition):,} compositions of {len(corpus.world.fact_F3):,} facts")
    for note in corpus.world.notes:
        print(note)
    return 0


def _world_inspect(command: WorldInspect) -> int:
    from grokscope.world.storage import inspect

    summary = inspect(command.directory)
    if command.json:
        print(json.dumps(summary, indent=1))
    else:
        print(yaml.safe_dump(summary, sort_keys=False), end="")
    return 0
