"""Runs that one process trains together are runs like any other, in a study and on the disk."""

from pathlib import Path

import pytest

from grokscope.errors import InputError
from grokscope.runs.directory import DONE
from grokscope.runs.execute import RunsFailed, run_study
from grokscope.runs.files import load_study
from grokscope.runs.plan import start_order
from grokscope.runs.population import groups
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from tests.runs.test_execution import TINY, contents, run_here
from tests.runs.tiny import begun, do_here, plan_runs


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    path = tmp_path_factory.mktemp("file") / "tiny.yaml"
    path.write_text(TINY)
    return load_study(str(path))


def longer(study: StudySpec, steps: int) -> StudySpec:
    return study.replace(training=study.training.replace(steps=steps))


def test_a_study_in_one_process_leaves_what_one_in_many_leaves(study: StudySpec, tmp_path: Path) -> None:
    """Trained together, then longer, which can only go on together; and one of them diagnosed alone."""
    done = run_study(study, tmp_path / "many", threads=1, population=2)
    alone = run_here(study, tmp_path / "alone")
    assert [run.manifest["members"] for run in done.runs.values()] == [2, 2]
    assert contents(tmp_path / "many").keys() == contents(tmp_path / "alone").keys()
    for name, run in done.runs.items():
        assert run.finished
        assert run.diagnosis is not None
        assert run.steps == alone.runs[name].steps
        assert run.traces.sizes == alone.runs[name].traces.sizes
        assert run.model(30).stages == alone.runs[name].model(30).stages
    more = longer(study, 34)
    assert [len(some) for some in groups(start_order(plan_runs(more, tmp_path / "many")), "off")] == [2]
    assert {run.steps[-1] for run in run_study(more, tmp_path / "many", threads=1).runs.values()} == {34}

    (tmp_path / "many" / next(iter(done.runs.values())).directory.name / DONE).unlink()
    again = start_order(plan_runs(more, tmp_path / "many"))
    assert [run.action for run in again] == ["resume"]
    do_here(again[0].directory, None)
    assert all(run.finished for run in Study.open(tmp_path / "many").runs.values())


def test_one_that_fails_does_not_stop_the_others(study: StudySpec, tmp_path: Path) -> None:
    planned = begun(study, tmp_path)
    (planned[0].directory / "metrics.jsonl").mkdir()
    with pytest.raises(RunsFailed, match=r"natural-s0 failed: .*metrics\.jsonl is a directory") as caught:
        run_study(study, tmp_path, threads=1, population=2)
    assert set(caught.value.sentences) == {"natural-s0"}
    assert Study.open(tmp_path).runs["both_hops_full-s0"].finished


def test_only_new_runs_are_free_to_choose(study: StudySpec, tmp_path: Path) -> None:
    many = study.replace(seeds=(0, 1, 2))
    todo = start_order(plan_runs(many, tmp_path))
    assert [len(some) for some in groups(todo, "auto")] == [1] * 6
    assert [len(some) for some in groups(todo, "off")] == [1] * 6
    assert [len(some) for some in groups(todo, 4)] == [4, 2]
    on_gpu = many.replace(training=many.training.replace(device="cuda"))
    assert [len(some) for some in groups(start_order(plan_runs(on_gpu, tmp_path)), "auto")] == [6]
    drawn = many.replace(training=many.training.replace(loop_choices=(1, 2)))
    todo = start_order(plan_runs(drawn, tmp_path))
    assert [len(some) for some in groups(todo, "auto")] == [1] * 6
    with pytest.raises(InputError, match=r"population = 2: with training\.loop_choices"):
        groups(todo, 2)
    with pytest.raises(InputError, match=r"population = 0: allowed is auto, off"):
        groups(todo, 0)
    first = begun(study, tmp_path)
    do_here(first[0].directory)
    todo = start_order(plan_runs(longer(many, 34), tmp_path))
    assert sorted(len(some) for some in groups(todo, 6)) == [1, 5]
