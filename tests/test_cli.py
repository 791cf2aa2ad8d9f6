"""The command line: exit codes, sentences without tracebacks, every field an option."""

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grokscope import __version__, cli
from grokscope.cli import app
from grokscope.runs.files import load_study, shipped_studies
from grokscope.runs.spec import StudySpec


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[StudySpec, Any]]:
    """What `grokscope run` would have run: the study, and the options that are not its own."""
    calls: list[tuple[StudySpec, Any]] = []

    def run(study: StudySpec, command: Any) -> int:
        calls.append((study, command))
        return 0

    monkeypatch.setattr(app, "_run", run)
    return calls


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"grokscope {__version__}\n"


def test_without_options_a_study_runs_as_it_stands_in_its_file(
    ran: list[tuple[StudySpec, Any]],
) -> None:
    for name in ("demo", "pocket", "paper", "mid"):
        assert cli.main(["run", name]) == 0
        study, command = ran[-1]
        assert study == load_study(name)
        assert (command.out, command.workers, command.threads) == (None, None, None)


def test_every_kind_of_field_is_an_option(ran: list[tuple[StudySpec, Any]]) -> None:
    options = (
        "--training.steps 2000 --regimes natural both_hops_full --seeds 0 1 --model.no-injection "
        "--training.optimizer.lr 1e-3 --training.loop-choices 2 3 --steps-for natural 30 "
        "--world.ood_fraction 0.1 --training.keep 5 --vary init order --out there --workers 3 --threads 2"
    )
    assert cli.main(["run", "pocket", *options.split()]) == 0
    study, command = ran[0]
    tree = load_study("pocket").tree()
    tree["training"] |= {"steps": 2000, "loop_choices": [2, 3], "keep": 5}
    tree["training"]["optimizer"]["lr"] = 1e-3
    tree["model"]["injection"] = False
    tree["world"]["ood_fraction"] = 0.1
    tree |= {"regimes": ["natural", "both_hops_full"], "seeds": [0, 1], "steps_for": {"natural": 30}}
    tree["vary"] = ["init", "order"]
    # A base that is no regime of the study any more is not transferred.
    kept = [one for one in tree["transfer"]["bases"] if not one.startswith("second_hop_full")]
    assert len(kept) < len(tree["transfer"]["bases"])
    tree["transfer"]["bases"] = kept
    assert study == StudySpec.parse(tree)
    assert (command.out, command.workers, command.threads) == (Path("there"), 3, 2)


def test_a_family_brings_its_own_options(ran: list[tuple[StudySpec, Any]]) -> None:
    assert cli.main(["run", "pocket", "--family", "trm", "--model.l-cycles", "5"]) == 0
    study = ran[0][0]
    assert (study.family, study.model.kind) == ("trm", "recursive")
    assert study.model == load_study("pocket", "trm").model.replace(l_cycles=5)
    assert cli.main(["run", "pocket", "--family=trm"]) == 0
    assert ran[1][0] == load_study("pocket", "trm")


def test_own_regimes_can_be_chosen_by_name(
    tmp_path: Path, ran: list[tuple[StudySpec, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "regimes: [natural, {name: few, hop2_ratio: 1.0, hop2_k: 2}]\nsteps_for: {natural: 9, few: 7}"
    )
    assert cli.main(["run", str(path), "--regimes", "few"]) == 0
    (regime,) = ran[0][0].regimes
    assert not isinstance(regime, str)
    assert (regime.name, regime.hop2_k) == ("few", 2)
    assert ran[0][0].steps_for == {"few": 7}


def test_changed_steps_hold_for_all_regimes_unless_some_are_named(ran: list[tuple[StudySpec, Any]]) -> None:
    assert load_study("demo").steps_for
    for options, steps in {
        "": load_study("demo").steps_for,
        "--training.steps 50": {},
        "--training.steps 50 --steps-for natural 60": {"natural": 60},
        "--regimes natural": {},
    }.items():
        assert cli.main(["run", "demo", *options.split()]) == 0
        assert ran[-1][0].steps_for == steps


def test_what_ends_a_run_early_is_an_option(ran: list[tuple[StudySpec, Any]]) -> None:
    assert cli.main(["run", "demo", "--training.until", "test_ood", "0.9", "train_inferred", "0.99"]) == 0
    assert ran[0][0].training.until == {"test_ood": 0.9, "train_inferred": 0.99}
    assert cli.main(["run", "demo", "--training.until", "test_ood", "90"]) == 2
    assert cli.main(["run", "demo", "--training.until", "test_oood", "0.9"]) == 2


def test_a_facts_file_given_as_an_option_is_relative_to_here(
    tmp_path: Path, ran: list[tuple[StudySpec, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facts.csv").write_text("a,b,c\n")
    assert cli.main(["run", "demo", "--world.facts-file", "facts.csv"]) == 0
    assert ran[0][0].world.facts_file == str(tmp_path / "facts.csv")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("run pockett", "there is no study 'pockett'; the shipped ones are"),
        ("run no/such.yaml", "there is no study file no/such.yaml"),
        ("run pocket --family none", "this study has causal, sequence, trm"),
        ("run pocket --training.steps -3", "training.steps = -3"),
        ("transfer one two", "two: one argument more than there is a place for"),
        ("run pocket --training.ema 1", "training.ema = 1"),
        ("run pocket --model.width 7", "heads 4 must divide width 7"),
        ("run pocket --regimes naturl", "naturl"),
        ("run pocket --regimes --seeds 0", "at least one regime"),
        ("run pocket --seeds", "seeds = (): name at least one seed."),
        ("run pocket --seeds 0 0", "error: command line: seeds repeats an item: [0, 0]."),
        ("run pocket --vary world world", "vary repeats an item"),
        (f"run demo --out {__file__}", f"out = {__file__!r}: test_cli.py is a file"),
        ("plan demo --against nosuch", "against = nosuch"),
        ("transfer nosuch --threads 0", "threads = 0: allowed is at least 1."),
        ("patch nosuch --seed -1", "seed = -1: allowed is at least 0."),
        ("trace nosuch --out foo.txt", "out = foo.txt"),
        ("worthwhile nosuch --utilisation 0.4", "utilisation = 0.4: needs --device"),
        ("run pocket --world.degree 70", "degree 70"),
        ("run demo --workers 0 --out {}", "workers = 0"),
        ("run demo --threads 0 --out {}", "threads = 0"),
        ("show nothing", "there is no study"),
        ("run --seeds 1 pocket", "the study comes first, grokscope run STUDY"),
        ("show --family=causal pocket", "the study comes first"),
        ("show pocket --seeds 0 -1", "seeds.1 = -1"),
        ("show pocket --steps-for natural 0", "steps_for.natural = 0"),
        ("show pocket --model.width 1000000000000", "model.width = 1000000000000"),
        ("report {}/none", "none"),
        ("world build demo --regime naturl --out {}/w", "naturl"),
        ("world inspect {}/none", "none"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    line: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.format(tmp_path).split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("run pocket --training.stepss 3", "--training.stepss, 3; perhaps you meant --training.steps or "),
        ("run demo --trainin.steps 5", "you meant --training.schedule-steps or --training.steps; see"),
        ("run pocket --training.steps many", "many"),
        ("run pocket --model.kind recursive", "recursive"),
        ("run --family causal", "STUDY"),
        ("rnu pocket", "rnu"),
        ("world", "build"),
        ("run demo --workers 2.5", "error: --workers 2.5: allowed is None or a whole number."),
        ("run demo --population foo", "--population foo: allowed is a whole number or auto or off."),
        ("transfer nosuch --items foo", "--items foo: allowed is None or a whole number or all."),
        ("patch nosuch --arm foo", "--arm foo: allowed is bridge or centroid or"),
        (f"transfer nosuch {'long/' * 30}path", f"{'long/' * 30}path"),
    ],
)
def test_a_typo_is_one_sentence_and_exit_code_2(
    line: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.split()) == 2
    seen = capsys.readouterr()
    assert named in seen.err
    assert seen.err.count("\n") == 1
    assert seen.err.startswith("error: ")


def test_a_studys_directory_given_as_its_file_is_told_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.yaml").write_text("")
    assert cli.main(["show", str(tmp_path)]) == 2
    assert f"its file is {tmp_path / 'study.yaml'}" in capsys.readouterr().err


def test_help_has_the_docstring_of_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "pocket", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for option, words in {
        "--training.steps INT": "Optimiser steps.",
        "--model.loops INT": "Times the stack runs in training.",
        "--diagnosis.window INT": "Consecutive checkpoints",
        "--workers {None}|INT": "Runs at a time",
    }.items():
        assert option in text
        assert words in text
    assert "(default: 8000)" in text or str(load_study("pocket").training.steps) in text


def test_help_of_a_command_alone_lists_the_shipped_studies(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--help"]) == 0
    assert ", ".join(shipped_studies()) in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.safetensors"), 2, "error: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/there"), 2, "error: /there cannot be"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/long"), 2, "error: /long cannot be"),
        (KeyboardInterrupt("stopped; 1 of 3 runs unfinished: a."), 130, "Go on with: grokscope run demo"),
    ],
)
def test_what_the_machine_does_is_a_sentence_too(
    problem: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*_: object) -> int:
        raise problem

    monkeypatch.setattr(app, "_run", run)
    assert cli.main(["run", "demo"]) == code
    assert said in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "grokscope", "show", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
