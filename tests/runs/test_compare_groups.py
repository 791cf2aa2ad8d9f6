"""`grokscope compare` on groups: runs, regimes of a study, ID against OOD queries; what it refuses."""

from pathlib import Path

import pytest

from grokscope import cli
from grokscope.errors import InputError
from grokscope.runs.study import runs_of
from tests.runs.tiny import tiny_study, trained

STUDY = tiny_study(
    world={"ood_fraction": 0.2},
    training={"steps": 2, "warmup": 1, "first_checkpoint": 2, "dense_every": 2},
    regimes=["natural", "both_hops_full"],
    seeds=[0, 1],
    causal={"enabled": False},
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    trained(STUDY, out)
    return out


def test_a_group_is_runs_or_a_regime_with_its_seeds(study: Path) -> None:
    natural = runs_of(f"{study}:natural")
    assert [run.name for run in natural] == ["natural-s0", "natural-s1"]
    one, two = (str(run.directory) for run in natural)
    assert [run.name for run in runs_of(f"{two},{one}")] == ["natural-s1", "natural-s0"]
    assert len(runs_of(f"{study}:both_hops_full,{one}")) == 3


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("{study}:nothing", "regime 'nothing': study tiny in .* has natural, both_hops_full"),
        ("{study}", "name one of its regimes"),
        ("{study}:natural,{study}:natural", "named more than once"),
        ("{study}/nowhere", "nowhere"),
        ("", "an item of the list is empty"),
        ("{study}:natural,", "an item of the list is empty"),
    ],
)
def test_a_group_that_is_none_is_one_sentence(study: Path, group: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        runs_of(group.format(study=study))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{study}:natural", "{study}:both_hops_full"], "natural (2 runs) and both_hops_full (2 runs)"),
        (["{study}:natural", "{study}:natural", "--second-probe-set", "test_iid"], "test_ood and test_iid"),
    ],
)
def test_groups_are_compared_and_drawn(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    out = tmp_path / "found.png"
    spelled = [word.format(study=study) for word in words]
    assert cli.main(["compare", *spelled, "--probes", "12", "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    assert "about these runs" in shown
    # Untrained runs of two worlds, a few probes: nothing may be claimed of them.
    assert "cannot tell:" in shown
    assert out.stat().st_size > 5000


def test_the_same_runs_probes_are_paired_and_strangers_are_not(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (str(run.directory) for run in runs_of(f"{study}:natural"))
    for other, paired in ((one, True), (two, False)):
        out = str(tmp_path / "found.png")
        assert cli.main(["compare", one, other, "--probes", "12", "--out", out]) == 0
        assert ("queries" in capsys.readouterr().out) == paired


def test_too_few_probes_are_said_and_a_picture_is_named_after_its_step(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs_of(f"{study}:natural")[0].directory
    assert cli.main(["compare", str(run), str(run), "--second-step", "0", "--probes", "1"]) == 0
    shown = capsys.readouterr().out
    assert "nan" not in shown
    assert "natural-s0 at step 0" in shown
    assert (run / "figures" / "compare_natural-s0_test_ood_second_step0.png").exists()
