"""Findings on a real study, from training to the page: one seed, so nothing is more than descriptive."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

import grokscope
from grokscope import cli
from grokscope.errors import InputError
from grokscope.findings import evaluate
from grokscope.findings.transfers import transferred
from grokscope.findings.values import Findings
from grokscope.report.tuning_figures import tuning_curves
from grokscope.runs.directory import RESULT
from grokscope.runs.study import Study
from grokscope.world.probes import MIXES
from tests.runs.test_transfers import transfer_here
from tests.runs.tiny import begun, tiny_study, trained

STUDY = tiny_study(
    regimes=["natural", "both_hops_full"],
    causal={"enabled": False},
    transfer={
        "bases": ["natural@end", "untrained"],
        "facts": {"count": 12, "probes": 20, "retention": {"items": 20}},
        "tuning": {"steps": 8, "first_checkpoint": 4, "dense_every": 4},
        "examine": {"probes": 20, "window": 1},
    },
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    out = tmp_path_factory.mktemp("findings") / "tiny"
    trained(STUDY, out)
    transfer_here(STUDY, out)
    return Study.open(out)


def test_one_seed_of_an_unfinished_grokking_says_so_everywhere(study: Study) -> None:
    found = evaluate(study)
    assert found.seeds == {"natural": (0,), "both_hops_full": (0,)}
    assert [one.result for one in found.findings] == ["descriptive", "not run", "cannot tell"]
    claims = {claim.key[:3]: claim for claim in found.findings[0].claims}
    assert claims["1.1"].result == "cannot tell"  # it never saturated, and the bridge never came
    assert claims["1.2"].reason.startswith("neither was seen within the")
    assert claims["1.3"].result == claims["1.4"].result == "descriptive"
    assert claims["1.5"].reason == "no share through the bridge for natural-s0, both_hops_full-s0."
    assert "no mature base (none of the 1 natural bases" in found.findings[2].claims[0].reason
    assert "Without a causal verdict: natural-s0, both_hops_full-s0" in found.notes[0]
    assert Findings.parse(json.loads(json.dumps(found.tree(), allow_nan=False))) == found


def test_the_command_prints_json_and_a_page_with_figures(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["findings", str(study.directory), "--json"]) == 0
    assert Findings.parse(json.loads(capsys.readouterr().out)) == evaluate(study)
    page = tmp_path / "docs" / "findings.md"
    assert cli.main(["findings", str(study.directory), "--page", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "1.4 across" in printed
    assert "descriptive" in printed
    text = page.read_text()
    assert f"`grokscope findings runs/{study.directory.name} --page findings.md`" in text
    assert "| 1. Grokked and supervised models take one path | **descriptive** |" in text
    linked = [line.partition("](")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(linked) == 4
    assert all((page.parent / path).stat().st_size > 5_000 for path in linked)
    data = {path.stem.rpartition("_")[2]: pl.read_csv(path) for path in (page.parent / "data").iterdir()}
    assert sorted(data) == ["claims", "courses", "events", "numbers", "tuning"]
    judged = [(claim.key, claim.result) for one in evaluate(study).findings for claim in one.claims]
    assert list(zip(data["claims"]["claim"], data["claims"]["result"], strict=True)) == judged
    natural = study.runs["natural-s0"].metrics
    drawn = data["courses"].filter(pl.col("run") == "natural-s0")["accuracy.train_inferred"]
    assert drawn.to_list() == pytest.approx(natural["accuracy.train_inferred"].to_list(), abs=1e-4)

    page.write_text(f"What we make of it.\n\n{text}\nAnd of that.\n")
    assert cli.main(["findings", str(study.directory), "--page", str(page)]) == 0
    assert page.read_text() == f"What we make of it.\n\n{text}\nAnd of that.\n"
    page.write_text("A page of somebody else.\n")
    assert cli.main(["findings", str(study.directory), "--page", str(page)]) == 2
    assert "has no place between" in capsys.readouterr().err
    assert page.read_text() == "A page of somebody else.\n"


def test_transfers_are_read_with_their_base_mixes_and_world(study: Study) -> None:
    found, notes = transferred(study)
    assert [(one.moment, one.seed, one.mature) for one in found] == [
        ("end", 0, False),
        ("untrained", 0, False),
    ]
    assert notes == []
    assert found[0].regime == "natural"
    assert found[0].world == study.runs["natural-s0"].world.fingerprint
    curves = tuning_curves(study)
    assert set(curves["base"]) == {"natural, end", "untrained"}
    end = curves.filter((curves["base"] == "natural, end") & (curves["measure"] == "exact"))
    result = study.transfers["natural-s0-end"].result
    assert result is not None
    for mix in MIXES:
        measured = result.of(mix)
        assert measured is not None
        assert end.filter(end["mix"] == mix)["value"].to_list()[-1] == measured.accuracy.value


def test_a_mix_without_probes_is_said_to_have_none(study: Study, tmp_path: Path) -> None:
    out = Path(shutil.copytree(study.directory, tmp_path / "tiny"))
    path = Study.open(out).transfers["untrained-s0"].directory / RESULT
    tree = json.loads(path.read_text())
    tree["mixes"] = [one for one in tree["mixes"] if one["mix"] == MIXES[0]]
    path.write_text(json.dumps(tree))
    found = evaluate(Study.open(out))
    assert f"Transfer untrained-s0 has no probe of {MIXES[1]} and {MIXES[2]}." in found.notes


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--page", "x.html"], "end in .md"), ([], "holds one run, not a study")]
)
def test_what_cannot_be_done_is_one_sentence(
    study: Study, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = study.directory if arguments else study.runs["natural-s0"].directory
    assert cli.main(["findings", str(place), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_study_without_a_finished_run_has_no_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(STUDY, tmp_path / "new")
    opened = grokscope.open(tmp_path / "new")
    assert isinstance(opened, Study)
    with pytest.raises(InputError, match="no finished run"):
        evaluate(opened)
    assert cli.main(["report", str(tmp_path / "new")]) == 0
    assert "has nothing to show" in capsys.readouterr().out
    assert "there is nothing to show" in (tmp_path / "new" / "report.html").read_text()
