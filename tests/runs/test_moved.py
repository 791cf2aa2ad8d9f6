"""What a study is made of is in its directory: it can be moved, renamed, copied and archived, and what the
facts file has become since is another study's concern."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import grokscope
from grokscope import cli
from grokscope.errors import InputError
from grokscope.runs.directory import SPEC, STUDY
from grokscope.runs.files import load_study
from grokscope.runs.plan import plan
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from grokscope.seeds import Seeds
from grokscope.world import CorpusSpec, WorldSpec, build_corpus, build_world, write_corpus
from grokscope.world.source import content
from grokscope.world.spec import REGIMES
from tests.runs.test_transfers import transfer_here
from tests.runs.tiny import begun, plan_runs, tiny_study, trained

KINDS = ("csv", "tsv", "jsonl", "parquet", "reference")
TRANSFER = {
    "bases": ["natural@end"],
    "facts": {"count": 12, "probes": 20, "retention": {"items": 20}},
    "tuning": {
        "steps": 4,
        "batch": 8,
        "first_checkpoint": 4,
        "dense_every": 4,
        "checkpoints_per_doubling": 1,
    },
    "examine": {"probes": 10, "window": 1},
}


def facts(folder: Path, kind: str) -> Path:
    """The same drawn facts, as files of every kind."""
    world = build_world(WorldSpec(entities=24, relations=12, degree=8, ood_fraction=0.1), Seeds())
    path = folder / f"facts.{kind}"
    if kind == "reference":
        write_corpus(build_corpus(world, CorpusSpec(phi=3.0), REGIMES["natural"], Seeds()), path, "reference")
        return path
    rows = [(f"e{h}", f"r{r}", f"e{t}") for h, r, t in world.fact_F3.tolist()]
    if kind == "parquet":
        pl.DataFrame(rows, schema=["head", "relation", "tail"], orient="row").write_parquet(path)
    elif kind == "jsonl":
        keys = ("head", "relation", "tail")
        path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    else:
        path.write_text("".join(("\t" if kind == "tsv" else ",").join(row) + "\n" for row in rows))
    return path


def study_file(folder: Path, kind: str) -> Path:
    """A study of such facts, which lie beside its file."""
    tree = tiny_study().tree()
    tree["world"] = {"facts_file": facts(folder, kind).name, "ood_fraction": 0.1}
    tree |= {"regimes": ["natural"], "causal": {"enabled": False}, "transfer": TRANSFER}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with a transfer, in a folder that then is gone: `made` holds the study alone."""
    home, kept = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("kept") / "out"
    study = load_study(str(study_file(home, "csv")))
    trained(study, home / "out")
    transfer_here(study, home / "out")
    shutil.copytree(home / "out", kept)
    shutil.rmtree(home)
    return kept


def states(study: Study) -> list[str]:
    return [one.action for jobs in (study.run_jobs, study.transfer_jobs) for one in plan(jobs)]


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(["a b", "ü", "x.y", "deep/er"]), min_size=1, max_size=3, unique=True))
def test_a_moved_study_opens_traces_and_goes_on(
    made: Path, names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    there = tmp_path_factory.mktemp("there")
    shutil.copytree(made, there / "first")
    place = there / "first"
    for name in names:
        (there / name).parent.mkdir(exist_ok=True)
        place = place.rename(there / name)
    study = grokscope.open(place)
    assert isinstance(study, Study)
    (run,), (transfer,) = study.runs.values(), study.transfers.values()
    assert run.corpus.probes
    assert run.setting().world.fingerprint == run.world_fingerprint
    assert transfer.new.composed
    assert states(study) == ["skip", "skip"]
    tree = study.spec.tree()
    tree["training"]["steps"] = 12
    longer = StudySpec.parse(tree)
    assert [one.action for one in plan_runs(longer, place)] == ["extend"]
    assert [path.name for path in trained(longer, place)] == [run.directory.name]
    again = grokscope.open(run.directory)
    assert again.steps[-1] == 12


def test_no_absolute_path_is_written(made: Path) -> None:
    for path in [made / STUDY, *made.rglob(SPEC)]:
        tree = json.loads(path.read_text())
        world = tree["base"]["world"] if "base" in tree else tree["world"]
        assert not Path(world["facts_file"]).is_absolute()
        assert content(path.parent / world["facts_file"]) == world["facts_sha256"]
    load_study(str(made / STUDY))  # the file from which anybody goes on


def test_the_same_run_alone_is_enough(made: Path, tmp_path: Path) -> None:
    (name,) = (path.parent.name for path in made.glob(f"*/{SPEC}"))
    shutil.copytree(made / name, tmp_path / "one")
    run = grokscope.open(tmp_path / "one")
    assert run.corpus.probes
    assert run.model() is not None


def test_a_read_only_study_is_traced_and_diagnosed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Path(shutil.copytree(made, tmp_path / "archive"))
    (run,) = Study.open(place).runs.values()
    assert cli.main(["diagnose", str(run.directory), "--probes", "10"]) == 0  # and then it is archived
    shutil.rmtree(run.directory / "figures", ignore_errors=True)
    plain = Path.mkdir

    def mkdir(self: Path, *args: object, **kwargs: object) -> None:
        """Root may write anywhere: what it would be told otherwise."""
        if place in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        plain(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", mkdir)
    capsys.readouterr()
    for command in ("trace", "diagnose"):
        assert cli.main([command, str(run.directory), "--probes", "10"]) == 0
    said = capsys.readouterr().out
    assert "picture: none, " in said
    assert "cannot be written (Permission denied): say where, --out." in said


@pytest.mark.parametrize("kind", KINDS)
def test_other_facts_are_another_run(tmp_path: Path, kind: str) -> None:
    """The same command after an edit must not answer with the old numbers."""
    path = study_file(tmp_path, kind)
    before = load_study(str(path))
    begun(before, tmp_path / "out")
    file = tmp_path / f"facts.{kind}"
    if kind == "reference":
        target = file / "test.json"
        items = json.loads(target.read_text())
        target.write_text(json.dumps(items[:-1]))
    elif kind == "parquet":
        frame = pl.read_parquet(file)
        frame.reverse().write_parquet(file)
    else:
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[1:]))
    with pytest.raises(InputError, match="is not the one that was meant"):
        build_world(before.world, Seeds())
    (planned,) = plan_runs(load_study(str(path)), tmp_path / "out")
    assert planned.action == "start"
    assert f"(facts of facts.{kind})" in str(planned.note)
    (old,) = Study.open(tmp_path / "out").runs.values()
    assert len(old.world.fact_F3) == 24 * 8


def test_the_same_facts_elsewhere_are_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = load_study(str(study_file(tmp_path / "a", "csv")))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "facts.csv").rename(tmp_path / "b" / "other.txt")
    file = tmp_path / "b" / "mine.yaml"
    file.write_text(file.read_text().replace("facts.csv", "other.txt"))
    second = load_study(str(file))
    for one, two in zip(first.expand().values(), second.expand().values(), strict=True):
        assert one.identity == two.identity


def test_a_file_may_pin_its_facts(tmp_path: Path) -> None:
    path = study_file(tmp_path, "csv")
    sha = content(tmp_path / "facts.csv")
    path.write_text(
        path.read_text().replace("facts_file: facts.csv", f"facts_file: facts.csv\n  facts_sha256: {sha}")
    )
    assert load_study(str(path)).world.facts_sha256 == sha
    (tmp_path / "facts.csv").write_text("a,b,c\n")
    with pytest.raises(InputError, match=f"facts_sha256 is {sha[:12]}"):
        load_study(str(path))
    (tmp_path / "facts.csv").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="is a Git LFS pointer: the file itself has not been fetched"):
        load_study(str(path))
    with pytest.raises(InputError, match="facts_sha256 needs a facts_file"):
        WorldSpec.parse({"facts_sha256": sha})
