"""The causal verdict of a run: made at its end, made up for where it is missing, no part of its identity."""

import json
import shutil
from pathlib import Path

import pytest

from grokscope import cli
from grokscope.errors import InputError
from grokscope.mechanics.spec import RULES, CausalSpec
from grokscope.report.causal_context import causal_reasons, causal_sentences
from grokscope.report.gather import gather
from grokscope.report.printed import UNTESTED, print_summary, summary_rows
from grokscope.runs.causal import SCHEMA, examined_steps
from grokscope.runs.directory import CAUSAL, SPEC, VERDICT
from grokscope.runs.job import RunSpec
from grokscope.runs.open import Run
from grokscope.runs.study import Study
from tests.runs.tiny import do_here, plan_runs, tiny_study, trained

STUDY = tiny_study(regimes=["natural"], causal={"probes": 12, "steps": "all", "dense_probes": 6})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    out = tmp_path_factory.mktemp("tiny")
    return out, Run.open(trained(STUDY, out)[0])


def test_interventions_are_no_part_of_a_runs_identity(done: tuple[Path, Run]) -> None:
    """A run from before there was a causal verdict must stay the run it was."""
    spec = done[1].spec
    assert spec.replace(causal=CausalSpec(enabled=False).tree()).identity == spec.identity
    old = spec.tree()
    del old["causal"]
    assert RunSpec.parse(old).identity == spec.identity


def test_a_finished_run_has_its_verdict_and_every_cell(done: tuple[Path, Run]) -> None:
    out, run = done
    verdict = run.verdict
    assert verdict is not None
    assert verdict.step == 8
    assert verdict.spec == STUDY.causal
    assert verdict.rule == RULES[STUDY.format.attention]
    assert {one.step for one in verdict.sets} == set(run.steps)
    cells = run.causal
    assert cells.columns == list(SCHEMA)
    two_hop = [name for name in STUDY.causal.sets if name in run.corpus.probes]
    last = cells.filter(cells["step"] == 8)
    assert set(last["probe_set"]) == set(two_hop)
    assert [row.action for row in plan_runs(STUDY, out)] == ["skip"]


def test_a_missing_verdict_is_made_up_for_with_the_same_bytes(done: tuple[Path, Run]) -> None:
    out, run = done
    before = {name: (run.directory / name).read_bytes() for name in (VERDICT, CAUSAL)}
    (run.directory / VERDICT).unlink()
    assert Run.open(run.directory).verdict is None
    assert [row.action for row in plan_runs(STUDY, out)] == ["diagnose"]
    do_here(run.directory, None)
    assert {name: (run.directory / name).read_bytes() for name in before} == before


def test_a_verdict_of_an_older_rule_is_made_again(done: tuple[Path, Run]) -> None:
    out, run = done
    before = (run.directory / VERDICT).read_bytes()
    tree = json.loads(before)
    del tree["rule"]  # As it was written before the rule had a version.
    (run.directory / VERDICT).write_text(json.dumps(tree))
    assert [row.action for row in plan_runs(STUDY, out)] == ["diagnose"]
    do_here(run.directory, None)
    assert (run.directory / VERDICT).read_bytes() == before


def test_a_damaged_verdict_is_made_again(done: tuple[Path, Run]) -> None:
    out, run = done
    before = (run.directory / VERDICT).read_bytes()
    (run.directory / VERDICT).write_bytes(before[:100])
    assert [row.action for row in plan_runs(STUDY, out)] == ["diagnose"]
    do_here(run.directory, None)
    assert (run.directory / VERDICT).read_bytes() == before


@pytest.mark.parametrize("lines", [0, 1, 4, -1])
def test_a_table_that_lost_cells_is_not_taken_for_whole(done: tuple[Path, Run], lines: int) -> None:
    """Figures and tables would show some cells as if there were no others."""
    run = done[1]
    before = (run.directory / CAUSAL).read_text()
    (run.directory / CAUSAL).write_text("\n".join(before.splitlines()[:lines]))
    with pytest.raises(InputError, match=r"causal.csv is (damaged|empty)"):
        assert run.causal is None
    (run.directory / CAUSAL).write_text(before)


def test_without_a_verdict_the_mechanism_is_not_tested(done: tuple[Path, Run], tmp_path: Path) -> None:
    out, run = done
    assert summary_rows(Study.open(out))[0][-1] == run.verdict.verdict  # type: ignore[union-attr]
    kept = (run.directory / VERDICT).read_bytes()
    (run.directory / VERDICT).unlink()
    assert summary_rows(Study.open(out))[0][-1] == UNTESTED
    (run.directory / VERDICT).write_bytes(kept)


def test_the_steps_that_are_examined(done: tuple[Path, Run]) -> None:
    diagnosis = done[1].diagnosis
    assert diagnosis is not None
    assert examined_steps([0, 4, 8], diagnosis, CausalSpec(steps="end")) == [8]
    assert examined_steps([0, 4, 8], diagnosis, CausalSpec(steps="all")) == [0, 4, 8]


def test_the_commands_print_a_table_and_save_a_picture(
    done: tuple[Path, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(done[1].directory)
    for command in (["trace", run], ["trace", run, "--query", "0"], ["patch", run, "--arm", "centroid"]):
        out = tmp_path / f"{len(command)}{command[0]}.pdf"
        assert cli.main([*command, "--out", str(out), *["--probes", "10"]]) == 0
        assert out.stat().st_size > 5000
        assert out.with_suffix(".png").exists()
        shown = capsys.readouterr().out
        assert "relation1" in shown
        assert f"picture: {out}\n" in shown
    assert Run.open(done[1].directory).spec.causal == STUDY.causal
    assert (done[1].directory / SPEC).exists()


def test_maps_of_two_sites_are_two_pictures(done: tuple[Path, Run]) -> None:
    run = done[1].directory
    for site in ("state", "block0.mlp"):
        assert cli.main(["patch", str(run), "--site", site, "--probes", "5"]) == 0
    drawn = {path.name for path in (run / "figures").glob("patch_*.png")}
    assert drawn == {"patch_bridge_test_ood_step8.png", "patch_bridge_block0_mlp_test_ood_step8.png"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--query", "9999"], "has the queries 0 to"),
        (["--query", "nobody r r"], "is not an entity"),
        (["--probe-set", "id_atomic"], "probe_set = 'id_atomic'"),
        (["--out", "picture.jpg"], "end in .png or .pdf"),
        (["--probes", "0"], "allowed is at least 1"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    done: tuple[Path, Run], capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    few = [] if "--probes" in words else ["--probes", "5"]
    assert cli.main(["trace", str(done[1].directory), *words, *few]) == 2
    assert said in capsys.readouterr().err


def test_a_study_given_as_a_run_is_told_its_runs(
    done: tuple[Path, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = done
    assert cli.main(["trace", str(out)]) == 2
    error = capsys.readouterr().err
    assert "is the directory of a study" in error
    assert run.directory.name in error


def test_the_report_and_the_printed_table_say_why_nothing_is_decided(
    done: tuple[Path, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = done
    assert run.verdict is not None
    assert run.verdict.verdict == "undecided"
    views = list(gather(Study.open(out)).runs)
    why = run.verdict.of("test_ood").reason  # type: ignore[union-attr]
    assert causal_reasons(views)[0].endswith(why)
    assert causal_sentences(views)[0].startswith("By interventions: undecided;")
    two = causal_sentences(views * 2)[0]
    assert "undecided in 2 of 2 runs" in two
    print_summary(Study.open(out))
    assert why[:30] in capsys.readouterr().out


def test_a_directory_of_spec_manifest_metrics_and_checkpoints_is_enough(
    done: tuple[Path, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run comes from another machine: what is missing is made, and the numbers are the run's own."""
    _, run = done
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in (SPEC, "manifest.json", "metrics.jsonl"):
        shutil.copy(run.directory / name, bare)
    shutil.copytree(run.directory / "checkpoints", bare / "checkpoints")
    assert cli.main(["diagnose", str(bare)]) == 0
    assert "bridge read at tokens (paper's measure)" in capsys.readouterr().out
    made, own = Run.open(bare).verdict, run.verdict
    assert made is not None
    assert own is not None
    assert (made.sets, made.verdict) == (own.sets, own.verdict)
    one = json.loads((bare / VERDICT).read_text())["sets"][0]
    assert one["lens_tokens"]["value"] == one["lens_all"]["value"]  # No registers, nothing more to see.
