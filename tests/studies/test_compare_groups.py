"""`grokscope compare` on groups: runs, regimes of a study, ID against OOD queries; what it refuses."""

from pathlib import Path

import pytest

from grokscope import cli
from grokscope.errors import InputError
from grokscope.studies.groups import runs_of
from grokscope.studies.plan import plan, prepare
from grokscope.studies.spec import StudySpec
from grokscope.studies.worker import do_run

STUDY = StudySpec.parse(
    {
        "name": "tiny",
        "world": {"entities": 24, "relations": 12, "degree": 8, "ood_fraction": 0.2},
        "corpus": {"phi": 3.0, "iid_fraction": 0.05, "probe_cap": 40},
        "format": {"attention": "causal", "output": "answer"},
        "model": {"kind": "looped", "width": 16, "heads": 2, "layers": 1, "loops": 2},
        "training": {
            "steps": 2, "batch": 32, "warmup": 1, "loss": "softmax", "dtype": "float32", "compile": "off",
            "first_checkpoint": 2, "dense_every": 2, "optimizer": {"lr": 0.01},
        },
        "regimes": ["natural", "both_hops_full"],
        "seeds": [0, 1],
        "causal": {"enabled": False},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    planned = plan(STUDY, out)
    prepare(STUDY, out, planned)
    for row in planned:
        do_run(row.directory)
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
        ("", "."),
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
