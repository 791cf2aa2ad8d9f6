"""What a study decides to do with a directory: nothing is lost, nothing is silently redone."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from grokscope.errors import InputError
from grokscope.files import write_json
from grokscope.mechanics.spec import RULES
from grokscope.runs.directory import DONE, SPEC, VERDICT, check_unlocked, locked, place_of
from grokscope.runs.open import Run
from grokscope.runs.plan import differences, start_order
from grokscope.runs.spec import StudySpec
from grokscope.runs.status import status_of
from grokscope.runs.study import Study
from tests.runs.tiny import begun, plan_runs, tiny_study, trained

STUDY = StudySpec.parse(
    {"regimes": ["natural", "both_hops_full"], "seeds": [0, 1], "training": {"steps": 100, "warmup": 1}}
)


def end(out: Path, study: StudySpec, step: int) -> None:
    """Mark all runs of a study as finished at a step."""
    for spec in study.expand().values():
        directory = place_of(out, spec)
        write_json(directory / DONE, {"step": step, "diagnosis": spec.diagnosis.tree()})
        write_json(
            directory / VERDICT,
            {"rule": RULES[spec.format.attention], "step": step, "spec": spec.causal.tree()},
        )


def interrupt(out: Path, study: StudySpec, step: int) -> None:
    """Leave all runs of a study with a resumable state at a step."""
    for spec in study.expand().values():
        write_json(place_of(out, spec) / "resume" / "state.json", {"step": step})


def actions(out: Path, study: StudySpec) -> set[str]:
    return {run.action for run in plan_runs(study, out)}


def test_a_missing_or_other_verdict_is_made_again(tmp_path: Path) -> None:
    begun(STUDY, tmp_path)
    end(tmp_path, STUDY, 100)
    other = STUDY.replace(causal={"probes": 7})
    assert actions(tmp_path, other) == {"diagnose"}
    assert actions(tmp_path, STUDY.replace(causal={"enabled": False})) == {"skip"}
    for verdict in tmp_path.glob(f"*/{VERDICT}"):
        verdict.unlink()
    assert actions(tmp_path, STUDY) == {"diagnose"}


def test_planning_writes_nothing(tmp_path: Path) -> None:
    assert actions(tmp_path / "s", STUDY) == {"start"}
    assert not (tmp_path / "s").exists()


def test_finished_runs_are_skipped_and_interrupted_ones_resumed(tmp_path: Path) -> None:
    begun(STUDY, tmp_path)
    interrupt(tmp_path, STUDY, 40)
    assert {(run.action, run.step) for run in plan_runs(STUDY, tmp_path)} == {("resume", 40)}
    end(tmp_path, STUDY, 100)
    assert actions(tmp_path, STUDY) == {"skip"}
    assert start_order(plan_runs(STUDY, tmp_path)) == []


def test_more_steps_extend_a_finished_run_in_its_directory(tmp_path: Path) -> None:
    begun(STUDY, tmp_path)
    end(tmp_path, STUDY, 100)
    longer = STUDY.replace(training={**STUDY.training.tree(), "steps": 150})
    assert actions(tmp_path, longer) == {"extend"}
    begun(longer, tmp_path)
    specs = [json.loads(path.read_text()) for path in tmp_path.glob(f"*/{SPEC}")]
    assert [spec["training"]["steps"] for spec in specs] == [150] * 4


@pytest.mark.parametrize("mark", [end, interrupt])
def test_fewer_steps_than_a_run_has_are_refused(tmp_path: Path, mark: object) -> None:
    begun(STUDY, tmp_path)
    assert callable(mark)
    mark(tmp_path, STUDY, 100)
    shorter = STUDY.replace(training={**STUDY.training.tree(), "steps": 99})
    with pytest.raises(InputError, match=r"training.steps = 99: run .* already has 100 steps"):
        plan_runs(shorter, tmp_path)


def test_other_thresholds_only_diagnose_again(tmp_path: Path) -> None:
    begun(STUDY, tmp_path)
    end(tmp_path, STUDY, 100)
    assert actions(tmp_path, STUDY.replace(diagnosis={"window": 5})) == {"diagnose"}


def test_a_changed_setting_is_a_new_run_and_says_what_changed(tmp_path: Path) -> None:
    begun(STUDY, tmp_path)
    end(tmp_path, STUDY, 100)
    other = STUDY.replace(training={**STUDY.training.tree(), "batch": 64, "steps": 7})
    planned = plan_runs(other, tmp_path)
    assert {run.action for run in planned} == {"start"}
    for run in planned:
        assert run.note is not None
        assert "(training.batch: 512 -> 64): this is a new run" in run.note
        assert run.name in run.note
    begun(other, tmp_path)
    assert len(list(tmp_path.glob(f"*/{SPEC}"))) == 8


def test_every_single_setting_but_steps_and_thresholds_is_part_of_the_identity() -> None:
    spec = STUDY.expand()["natural-s0"]
    same = [
        spec.replace(training={**spec.training.tree(), "steps": 5}),
        spec.replace(diagnosis={"window": 9}),
        spec.replace(sinks=["tensorboard"]),
    ]
    changed = [
        spec.replace(world={"entities": 7}),
        spec.replace(corpus={"phi": 3}),
        spec.replace(format={"output": "answer"}),
        spec.replace(model={"kind": "looped", "width": 4}),
        spec.replace(training={**spec.training.tree(), "ema": 0.5}),
        spec.replace(seeds={"order": 3}),
    ]
    assert {other.identity for other in same} == {spec.identity}
    assert len({other.identity for other in [spec, *changed]}) == len(changed) + 1


def test_a_spec_changed_by_hand_is_not_believed(tmp_path: Path) -> None:
    begun(STUDY, tmp_path)
    end(tmp_path, STUDY, 100)
    path = next(tmp_path.glob(f"natural-s0-*/{SPEC}"))
    tree = json.loads(path.read_text())
    tree["training"]["batch"] = 3
    write_json(path, tree)
    with pytest.raises(InputError, match="changed by hand"):
        plan_runs(STUDY, tmp_path)


def test_a_corrupt_end_mark_is_a_sentence(tmp_path: Path) -> None:
    begun(STUDY, tmp_path)
    end(tmp_path, STUDY, 100)
    next(tmp_path.glob(f"*/{DONE}")).write_text("{")
    with pytest.raises(InputError, match="end mark"):
        plan_runs(STUDY, tmp_path)


def test_the_longest_run_starts_first(tmp_path: Path) -> None:
    study = STUDY.replace(steps_for={"both_hops_full": 500})
    order = [run.name for run in start_order(plan_runs(study, tmp_path))]
    assert order == ["both_hops_full-s0", "both_hops_full-s1", "natural-s0", "natural-s1"]


def test_regimes_of_one_seed_share_their_world_and_seeds_do_not() -> None:
    runs = STUDY.expand()
    assert runs["natural-s0"].seeds == runs["both_hops_full-s0"].seeds != runs["natural-s1"].seeds


def _hold(directory: str, ready: object, leave: object) -> None:
    with locked(Path(directory)):
        ready.set()  # type: ignore[attr-defined]
        leave.wait(20)  # type: ignore[attr-defined]


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready, leave))
    other.start()
    try:
        assert ready.wait(20)
        with pytest.raises(InputError, match=f"another process .pid {other.pid}"):
            check_unlocked(tmp_path)
    finally:
        assert other.pid is not None
        os.kill(other.pid, 9)
        other.join()
    check_unlocked(tmp_path)


def test_differences_names_leaves() -> None:
    old, new = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 3, "c": [1]}, "e": None}
    assert differences(old, new) == {"a.b": (1, 3), "d": (2, None)}


def test_a_run_that_ended_early_is_done_until_it_is_asked_for_more(tmp_path):
    rule = {"until": {"id_atomic": 1e-9}, "until_checkpoints": 2}
    study = tiny_study(regimes=["natural"], training={"steps": 40, "optimizer": {"lr": 0.03}} | rule)
    (run,) = trained(study, tmp_path)
    end = Run.open(run).steps[-1]
    assert 0 < end < 40
    assert Run.open(run).finished
    assert [(one.state, one.step) for one in status_of(Study(tmp_path, study))] == [("done", end)]
    assert [(one.action, one.step) for one in plan_runs(study, tmp_path)] == [("skip", end)]
    longer = study.replace(training={**study.training.tree(), "until": {}})
    assert [(one.action, one.directory) for one in plan_runs(longer, tmp_path)] == [("extend", run)]


def test_runs_can_be_kept_by_what_they_are() -> None:
    """A run that may end early is a key as any other."""
    one, two = (
        tiny_study(training={"until": {"test_ood": level}}).expand()["natural-s0"] for level in (0.5, 0.9)
    )
    assert len({one, two, one.replace()}) == 2
