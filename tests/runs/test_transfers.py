"""Transfers of a study: which are made, from what, and that nothing depends on what happened on the way."""

import json
import shutil
import signal
from dataclasses import make_dataclass
from pathlib import Path

import pytest
import yaml

import grokscope
from grokscope import cli
from grokscope.errors import InputError
from grokscope.runs.bases import standing_of, step_of
from grokscope.runs.directory import CORPUS, DONE, SPEC, place_of
from grokscope.runs.execute import run_study
from grokscope.runs.files import load_study, parse_study
from grokscope.runs.open import Transfer
from grokscope.runs.options import apply, option_fields
from grokscope.runs.plan import Planned, plan, prepare, start_order
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from tests.runs.test_execution import TINY, contents, run_here, wait_for, worker
from tests.runs.tiny import do_here

TRANSFER = """
transfer:
  bases: [natural@end, natural@saturation, both_hops_full@12, untrained]
  facts: {count: 12, probes: 20, retention: {items: 20}}
  tuning: {steps: 14, first_checkpoint: 4, dense_every: 4, checkpoints_per_doubling: 1}
  examine: {probes: 20, window: 1}
"""


def study_of(text: str = TINY + TRANSFER, **changes: object) -> StudySpec:
    return parse_study(
        {**yaml.safe_load(text), "causal": {"enabled": False}, **changes}, Path("tiny.yaml"), None
    )


@pytest.fixture(scope="module")
def study() -> StudySpec:
    return study_of()


@pytest.fixture(scope="module")
def trained(study: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's runs, without transfers."""
    out = tmp_path_factory.mktemp("trained") / "tiny"
    run_here(study, out)
    return out


@pytest.fixture(scope="module")
def whole(study: StudySpec, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study with its transfers, made in this process."""
    out = Path(shutil.copytree(trained, tmp_path_factory.mktemp("whole") / "tiny"))
    transfer_here(study, out)
    return out


def plan_transfers(study: StudySpec, out: Path) -> list[Planned]:
    return plan(Study(out, study).transfer_jobs)


def prepared(study: StudySpec, out: Path) -> list[Path]:
    planned = plan_transfers(study, out)
    prepare(Study(out, study), planned)
    return [one.directory for one in start_order(planned)]


def transfer_here(study: StudySpec, out: Path) -> None:
    for directory in prepared(study, out):
        do_here(directory)


def test_every_base_that_there_is_gets_its_transfer(study: StudySpec, whole: Path) -> None:
    done = Study.open(whole)
    assert list(done.transfers) == ["natural-s0-end", "both_hops_full-s0-12", "untrained-s0"]
    assert list(done.transfers_missing) == ["natural-s0-saturation"]
    assert "has not reached saturation by step 30" in done.transfers_missing["natural-s0-saturation"]
    for name, transfer in done.transfers.items():
        assert transfer.name == name
        assert transfer.finished
        result = transfer.result
        assert result is not None
        run = done.runs[f"{transfer.base.regime}-s0"]
        assert result.base == transfer.base
        assert transfer.steps[0] == 0
        assert (transfer.directory / "checkpoints/step_00000000.safetensors").read_bytes() == (
            run.directory / f"checkpoints/step_{transfer.spec.step:08d}.safetensors"
        ).read_bytes()
        assert result.base.ood is not None
        at = run.metrics.filter(step=transfer.spec.step)
        assert result.base.ood.value == pytest.approx(at["accuracy.test_ood"][0])
        assert not result.base.mature
        assert result.step == 14
        assert transfer.cells["step"].unique().to_list() == [14]
        assert transfer.curves["step"].to_list() == transfer.metrics["step"].to_list()
        assert isinstance(grokscope.open(transfer.directory), Transfer)
    assert len({one.result.fingerprint for one in done.transfers.values() if one.result}) == 1
    assert [one.spec.step for one in done.transfers.values()] == [30, 12, 0]
    assert done.transfers["untrained-s0"].base.behaviour is None


def test_killed_transfers_end_with_the_same_bytes(
    study: StudySpec, trained: Path, whole: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(trained, tmp_path / "killed"))
    first = prepared(study, out)[0]
    process = worker(first)
    wait_for(first / "checkpoints" / "step_00000008.safetensors", process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    said: list[str] = []
    run_study(study, out, workers=2, threads=1, say=said.append)
    assert any("natural-s0-saturation: no transfer: run natural-s0 has not reached" in line for line in said)
    assert contents(out) == contents(whole)
    run_study(study, out, workers=2, threads=1, say=said.append)
    assert said[-1] == "untrained-s0: done"


def test_jobs_from_before_their_names_were_recorded_are_the_same(
    study: StudySpec, whole: Path, tmp_path: Path
) -> None:
    """Seed, moment and variant stood in names of directories alone, and no world's fingerprint was kept."""
    out = Path(shutil.copytree(whole, tmp_path / "old"))
    for spec in out.rglob(SPEC):
        tree = json.loads(spec.read_text())
        for place in (tree, tree.get("base", {})):
            for name in ("seed", "moment", "variant"):
                place.pop(name, None)
        spec.write_text(json.dumps(tree))
    for path in out.rglob(CORPUS):
        path.write_text(json.dumps({**json.loads(path.read_text()), "world": None}))
    now, old = Study.open(whole), Study.open(out)
    for one, other in ((now.runs, old.runs), (now.transfers, old.transfers)):
        assert list(other) == list(one)
        for name, job in other.items():
            assert (job.name, job.spec, job.world_fingerprint) == (
                name,
                one[name].spec,
                one[name].world_fingerprint,
            )
    assert {one.action for one in [*plan(old.run_jobs), *plan(old.transfer_jobs)]} == {"skip"}
    variant = old.transfers["untrained-s0"].spec.model_copy(update={"variant": "deep_k2"})
    moved = place_of(tmp_path, variant)
    shutil.copytree(old.transfers["untrained-s0"].directory, moved)
    assert Transfer.open(moved).name == "untrained-s0-deep_k2"


def test_a_base_may_go_away(study: StudySpec, trained: Path, tmp_path: Path) -> None:
    """All that a worker needs is in the transfer's directory."""
    out = Path(shutil.copytree(trained, tmp_path / "alone"))
    directory = prepared(study, out)[-1]
    moved = Path(shutil.move(directory, tmp_path / "moved" / directory.name))
    shutil.rmtree(out)
    do_here(moved)
    assert Transfer.open(moved).result is not None


def test_other_examinations_train_nothing(study: StudySpec, whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "copy"))
    weights = {path: path.stat().st_mtime_ns for path in out.rglob("checkpoints/*")}
    tree = study.tree()
    tree["transfer"]["examine"]["learned"] = 0.01
    other = StudySpec.parse(tree)
    assert {one.action for one in plan_transfers(other, out)} == {"diagnose"}
    transfer_here(other, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("checkpoints/*")} == weights
    tree["transfer"]["tuning"]["steps"] = 10
    with pytest.raises(InputError, match=r"transfer.tuning.steps = 10: .* already has 14 steps"):
        plan_transfers(StudySpec.parse(tree), out)


def test_a_transfer_that_cannot_be_continued_stays_finished(
    study: StudySpec, whole: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "copy"))
    tree = study.tree()
    tree["transfer"]["tuning"]["steps"] = 20
    directory = prepared(StudySpec.parse(tree), out)[0]
    for path in directory.glob("resume/step_*.safetensors"):
        path.write_bytes(b"")
    before = (directory / DONE).read_bytes()
    with pytest.raises(InputError, match="resume state"):
        do_here(directory)
    assert (directory / DONE).read_bytes() == before


def test_a_moment_is_a_kept_checkpoint_or_a_sentence(trained: Path) -> None:
    run = Study.open(trained).runs["natural-s0"]
    assert step_of(run, "end") == 30
    assert step_of(run, "untrained") == 0
    assert step_of(run, "17") == 17
    for moment, message in (
        ("18", "step = 18: run natural-s0 keeps the checkpoints 0, 5"),
        ("generalisation", "has not reached generalisation.test_ood by step 30"),
        ("late", "step = 'late': allowed are end"),
    ):
        with pytest.raises(InputError, match=message):
            step_of(run, moment)
    standing = standing_of(run, "end", 30)
    assert "has not reached 0.9 to stay by step 30" in standing.reason


def test_a_base_is_mature_from_the_stable_step_on(trained: Path, tmp_path: Path) -> None:
    """Taken before its OOD accuracy is stable, a run that ends grokked is no mature base."""
    out = Path(shutil.copytree(trained, tmp_path / "copy"))
    run = Study.open(out).runs["natural-s0"]
    path = run.directory / "diagnosis.json"
    tree = json.loads(path.read_text())
    tree["events"]["generalisation.test_ood"] = {"step": 17, "censored_at": None, "threshold": 0.9}
    path.write_text(json.dumps(tree))
    assert [standing_of(run, "x", step).mature for step in (0, 14, 17, 30)] == [False, False, True, True]
    assert "reaches 0.9 to stay at step 17 only" in standing_of(run, "x", 14).reason


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        (["natural"], "'natural' must be REGIME@MOMENT"),
        (["natural@sometime"], "'natural@sometime' must be REGIME@MOMENT"),
        (["first_hop_full@end"], "transfer.bases names 'first_hop_full'; the regimes are"),
        (["untrained", "untrained"], "transfer.bases repeats an item"),
    ],
)
def test_a_wrong_base_is_refused_when_the_study_is_read(bases: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        study_of(transfer={"bases": bases})


def test_impossible_new_facts_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="count = 2000: the base's world has 36 unused"):
        run_study(study_of(transfer={"bases": ["natural@end"]}), tmp_path / "out", say=lambda _: None)
    assert not (tmp_path / "out").exists()


def test_a_transfer_section_leaves_runs_what_they_are(study: StudySpec) -> None:
    """Finished runs of the same settings are reused."""
    plain = study_of(TINY)
    assert {name: one.identity for name, one in plain.expand().items()} == {
        name: one.identity for name, one in study.expand().items()
    }
    assert "transfer" not in [name for name, _, _ in option_fields(plain)]


def test_fewer_regimes_on_the_command_line_have_fewer_bases(study: StudySpec) -> None:
    import tyro

    fields = option_fields(study)
    import dataclasses

    made = dataclasses.make_dataclass("Options", fields, frozen=True)
    chosen = apply(study, tyro.cli(made, args=["--regimes", "natural", "--transfer.tuning.steps", "20"]))
    assert chosen.transfer is not None
    assert chosen.transfer.bases == ("natural@end", "natural@saturation", "untrained")
    assert chosen.transfer.tuning.steps == 20
    assert chosen.transfer.facts == study.transfer.facts  # type: ignore[union-attr]


def test_a_missing_result_is_a_sentence(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "copy"))
    transfer = Study.open(out).transfers["natural-s0-end"]
    (transfer.directory / DONE).unlink()
    (transfer.directory / "transfer_cells.csv").unlink()
    assert transfer.result is None
    with pytest.raises(InputError, match="is not finished"):
        _ = transfer.cells
    with pytest.raises(InputError, match="keeps the checkpoints 0, 4"):
        transfer.model(5)
    (transfer.directory / SPEC).write_text("{}")
    with pytest.raises(InputError, match="base: field required"):
        Transfer.open(transfer.directory)


def test_one_run_of_ones_own(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The settings are those of the run's study, with the command's options laid over them."""
    run = Study.open(trained).runs["natural-s0"].directory
    command = [
        "transfer",
        str(run),
        "--step",
        "17",
        "--out",
        str(tmp_path),
        "--count",
        "16",
        "--threads",
        "1",
    ]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    made = Transfer.open(said.splitlines()[-1])
    assert made.name == "natural-s0-17"
    assert made.spec.transfer.facts.count == 16
    assert made.spec.transfer.tuning == study_of().transfer.tuning  # type: ignore[union-attr]
    assert "not mature" in said
    assert "new_then_new: cannot tell" in said
    before = {path: path.stat().st_mtime_ns for path in made.directory.rglob("*")}
    assert cli.main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in made.directory.rglob("*")} == before
    for wrong, message in (
        (["--step", "18"], "step = 18: run natural-s0 keeps"),
        (["--count", "7"], "facts: count 7 must be even"),
        (["--settings", "paper"], "settings = 'paper': this study has no"),
    ):
        assert cli.main([*command[:2], "--out", str(tmp_path), *wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_world_of_a_study_with_transfers_can_be_built(tmp_path: Path) -> None:
    """One regime alone must not stumble over the bases of the others."""
    assert (
        cli.main(["world", "build", "pocket", "--regime", "first_hop_full", "--out", str(tmp_path / "w")])
        == 0
    )


def test_findings_reuses_the_runs_of_pocket() -> None:
    """The two files repeat the same settings: one that is changed alone would train everything anew."""
    pocket, findings = load_study("pocket", "causal"), load_study("findings")
    shared = {name: spec.identity for name, spec in findings.expand().items() if name in pocket.expand()}
    assert len(shared) == 9
    assert shared == {name: pocket.expand()[name].identity for name in shared}
    assert pocket.transfer == findings.transfer
    assert {name: spec.training.steps for name, spec in findings.expand().items() if name in shared} == {
        name: pocket.expand()[name].training.steps for name in shared
    }


def test_every_base_is_transferred_once_per_variant(trained: Path, tmp_path: Path) -> None:
    """Under the variant's own settings, in a directory of its own; the section says the rest."""
    tree = yaml.safe_load(TINY + TRANSFER)
    tree["transfer"] |= {
        "bases": ["natural@end"],
        "variants": {
            "plain": {},
            "k2": {"facts": {"k": 2}},
            "fixed": {"tuning": {"freeze": ["embedding"], "identity_relation": True}},
            "deeper": {"tuning": {"inference_loops": 4}},
        },
    }
    study = parse_study({**tree, "causal": {"enabled": False}}, Path("tiny.yaml"), None)
    out = Path(shutil.copytree(trained, tmp_path / "tiny"))
    transfer_here(study, out)
    found = {one.spec.variant: one for one in Study.open(out).transfers.values()}
    assert list(found) == ["plain", "k2", "fixed", "deeper"]
    assert len({one.spec.identity for one in found.values()}) == 4
    assert [one.name for one in found.values()] == [f"natural-s0-end-{name}" for name in found]
    data = {name: one.result.data for name, one in found.items() if one.result}
    assert data["k2"]["taught_compositions"] > data["plain"]["taught_compositions"] == 0
    start, end = (found["fixed"].model(step) for step in (0, 14))
    for name, tensor in end.named_parameters():
        assert tensor.equal(start.get_parameter(name)) == ("embedding" in name), name
    assert found["deeper"].model().inference_loops == 4
    assert found["plain"].traces.sizes["stage"] < found["deeper"].traces.sizes["stage"]
    for base in found.values():
        assert base.base.step == 30


@pytest.mark.parametrize(
    ("variants", "named"),
    [
        ({"a-b": {}}, "a-b"),
        ({"x": {"facts": {"kk": 1}}}, "kk"),
        ({"x": {"tuning": {"freeze": ["head"]}}}, "tied head"),
        ({"x": {"facts": {"count": 10**6}}}, "count"),
    ],
)
def test_a_variant_that_cannot_be_honoured_is_refused_before_any_work(
    variants: dict[str, object], named: str, tmp_path: Path
) -> None:
    tree = yaml.safe_load(TINY + TRANSFER)
    tree["transfer"]["variants"] = variants
    with pytest.raises(InputError, match=named):
        run_study(parse_study(tree, Path("tiny.yaml"), None), tmp_path / "none", say=lambda line: None)
    assert not (tmp_path / "none").exists()


def test_a_files_variants_survive_the_command_line(study: StudySpec) -> None:
    tree = yaml.safe_load(TINY + TRANSFER)
    tree["transfer"]["variants"] = {"k1": {"facts": {"k": 1}}}
    mine = parse_study(tree, Path("tiny.yaml"), None)
    values = make_dataclass("Values", option_fields(mine))()
    assert apply(mine, values) == mine
