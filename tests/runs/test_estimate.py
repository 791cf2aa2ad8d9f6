"""What a study is said to take: the arithmetic as properties, and one real measurement of a tiny run."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from grokscope import cli
from grokscope.cli.plan import against_sentence, recorded_seconds
from grokscope.errors import InputError
from grokscope.files import write_json, write_text
from grokscope.models.flops import Operations
from grokscope.runs.cost import bytes_text, step_operations, study_sentences
from grokscope.runs.devices import DEVICES, device_of
from grokscope.runs.directory import DONE, SPEC, place_of
from grokscope.runs.estimate import (
    JobWork,
    count_work,
    estimate_device,
    estimate_here,
    examinations,
    job_seconds,
    makespan,
    saves,
)
from grokscope.runs.files import load_study
from grokscope.runs.job import RunSpec
from grokscope.runs.measured import Speed, measure, together
from grokscope.runs.setup import RunSetup
from grokscope.runs.spec import StudySpec
from grokscope.training.schedule import checkpoint_steps

TINY: dict[str, Any] = {
    "regimes": ["natural", "both_hops_full"],
    "seeds": [0, 1],
    "steps_for": {"natural": 400},
    "world": {"entities": 30, "relations": 8, "degree": 5, "ood_fraction": 0.3},
    "corpus": {"phi": 1.5, "iid_fraction": 0.1, "probe_cap": 40},
    "format": {"attention": "causal", "output": "answer"},
    "model": {"kind": "looped", "width": 16, "heads": 2, "layers": 1, "loops": 2},
    "training": {
        "steps": 200, "batch": 16, "warmup": 5, "loss": "softmax", "dtype": "float32", "compile": "off",
        "first_checkpoint": 50, "dense_every": 25, "resume_every": 30, "optimizer": {"kind": "muon"},
    },
}  # fmt: skip
STUDY = StudySpec.parse(TINY)
PROBES = {"train_inferred": 500, "test_iid": 100, "test_ood": 200, "id_atomic": 7}


def job(spec: RunSpec) -> JobWork:
    """What a run with `PROBES` does."""
    training, examined = spec.training, tuple(examinations(spec, PROBES))
    marks = len(checkpoint_steps(training))
    counts = (examined, 0, "")
    step = Operations(1, ((1, 0),), 0)
    return JobWork(spec.name, training.steps, marks, saves(training), (step,), step, *counts)


def speed(**changes: Any) -> Speed:
    parts: dict[str, Any] = {
        "start": 3.0, "compile": 5.0, "step": 0.02, "checkpoint": 0.5, "save": 0.1, "diagnosis": (1.0, 0.05),
        "examination": (2.0, 0.1), "peak": 10**9, "workers": 2, "threads": 1, "steps": 100, "busy": 1.0,
    }  # fmt: skip
    return Speed(**{**parts, **changes})


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=20), st.integers(1, 8))
def test_the_last_run_ends_between_the_bounds_of_any_schedule(seconds: list[float], workers: int) -> None:
    """Graham's bounds: no schedule beats the longest run or the mean load; this one stays near them."""
    end = makespan(seconds, workers)
    least = max(max(seconds), sum(seconds) / workers)
    assert least * (1 - 1e-9) <= end <= (sum(seconds) / workers + max(seconds)) * (1 + 1e-9)
    assert makespan(seconds, 1) == pytest.approx(sum(seconds))
    assert makespan(seconds, len(seconds)) == pytest.approx(max(seconds))


@given(
    steps=st.integers(1, 5000),
    first=st.integers(1, 300),
    every=st.integers(1, 300),
    resume=st.integers(1, 200),
)
def test_every_save_and_checkpoint_of_the_loop_is_counted_once(
    steps: int, first: int, every: int, resume: int
) -> None:
    """As the loop goes: a step that ends at a checkpoint is not saved a second time."""
    changed = {"steps": steps, "first_checkpoint": first, "dense_every": every, "resume_every": resume}
    (spec,) = (
        STUDY.replace(
            training={**STUDY.training.tree(), **changed}, steps_for={}, regimes=["natural"], seeds=[0]
        )
        .expand()
        .values()
    )
    marks = set(checkpoint_steps(spec.training))
    between = sum(step % resume == 0 and step not in marks for step in range(1, steps + 1))
    parts = job_seconds(job(spec), job(spec), speed())
    assert parts["saves"] == pytest.approx(between * 0.1)
    assert parts["checkpoints"] == pytest.approx(len(marks) * 0.5)
    assert parts["steps"] == pytest.approx(steps * 0.02)
    assert parts["diagnosis"] == pytest.approx(1.0 + 0.05 * len(marks))


@pytest.mark.parametrize(
    ("causal", "expected"),
    [
        ({"enabled": False}, []),
        ({"steps": "end", "probes": 240}, [240, 100, 200]),
        ({"steps": "end", "probes": 50, "sets": ["test_ood", "absent"]}, [50]),
        ({"steps": "moments", "probes": 240, "dense_probes": 120}, [240, 100, 200, 120, 120, 120]),
    ],
)
def test_examinations_of_the_verdict(causal: dict[str, Any], expected: list[int]) -> None:
    spec = STUDY.replace(causal=causal).expand()["natural-s0"]
    assert examinations(spec, PROBES) == expected
    fixed_and_each = sum(2.0 + 0.1 * count for count in expected)
    assert job_seconds(job(spec), job(spec), speed())["verdict"] == pytest.approx(fixed_and_each)


def test_a_study_is_the_sum_of_its_runs() -> None:
    work = count_work(STUDY)
    here = estimate_here(STUDY, work, speed(step=1.0))
    assert [run.steps for run in here.runs] == [400, 200, 400, 200]
    assert here.flop == pytest.approx(
        1200 * work.runs[0].step_flop + sum(r.checkpoints for r in here.runs) * work.runs[0].checkpoint.flop
    )
    tree = here.tree()
    assert tree["total"]["run_seconds"] == pytest.approx(sum(run["seconds"] for run in tree["runs"]))
    assert tree["total"]["disk_bytes"] == sum(run["disk_bytes"] for run in tree["runs"])
    assert here.runs[0].disk > here.runs[1].disk
    assert max(r.total_seconds for r in here.runs) < here.seconds < here.device_seconds


def test_every_point_of_a_sweep_is_counted_as_what_it_is() -> None:
    sweep = {"by": "list", "vary": {"model.width": [16, 64], "world.entities": [30, 60]}}
    work = count_work(STUDY.replace(sweep=sweep, steps_for={}, seeds=(0,)))
    small, *_, large = work.runs
    alone = count_work(STUDY.replace(
        model={**STUDY.model.tree(), "width": 64}, world={**STUDY.world.tree(), "entities": 60}, steps_for={}
    ))  # fmt: skip
    assert large.step == alone.runs[0].step
    assert large.checkpoint == alone.runs[0].checkpoint
    assert large.disk == alone.runs[0].disk > small.disk
    assert work.state == pytest.approx(alone.state, rel=1e-3), "regimes have other numbers of facts"
    seconds = [job_seconds(one, small, speed())["steps"] for one in work.runs]
    assert seconds[0] == seconds[1] == pytest.approx(200 * 0.02)
    assert seconds[2] == seconds[3] == pytest.approx(200 * 0.02 * large.step_flop / small.step_flop)


def test_transfers_are_counted_after_the_runs() -> None:
    """Per seed, base and variant; what differs from the base's training (batch, probes, steps) is counted."""
    transfer = {
        "bases": ["natural@end", "untrained"],
        "facts": {"count": 10, "probes": 20, "retention": {"items": 20}},
        "tuning": {"steps": 30, "first_checkpoint": 10, "dense_every": 10},
        "variants": {"plain": {}, "wide": {"tuning": {"batch": 32}, "facts": {"k": 1}}},
    }
    study = StudySpec.parse({**TINY, "transfer": transfer})
    work = count_work(study)
    here, without = (estimate_here(one, count_work(one), speed()) for one in (study, STUDY))
    assert [one.name for one in here.transfers[:4]] == [
        "natural-s0-end-plain", "natural-s0-end-wide", "untrained-s0-plain", "untrained-s0-wide",
    ]  # fmt: skip
    assert len(here.transfers) == 8
    assert here.runs == without.runs
    assert here.seconds == pytest.approx(
        without.seconds + makespan([one.total_seconds for one in here.transfers], 2)
    )
    plain, wide = here.transfers[:2]
    # Two workers start once each, and compile two kinds of step each, for eight transfers.
    assert (plain.seconds["start"], plain.seconds["compile"]) == (3.0 * 2 / 8, 5.0 * 4 / 8)
    measured, (one, two) = max(work.runs, key=lambda run: run.steps), work.transfers[:2]
    for took, job in ((plain, one), (wide, two)):
        assert took.seconds["steps"] == pytest.approx(30 * 0.02 * job.step_flop / measured.step_flop)
    # Twice the batch, but the optimiser's products are as many.
    assert plain.seconds["steps"] < wide.seconds["steps"] < 2 * plain.seconds["steps"]
    assert plain.training_flop < wide.training_flop < 2 * plain.training_flop
    looked = len(work.transfers[0].examinations)
    assert 2 <= looked <= 4
    assert plain.seconds["verdict"] == pytest.approx(looked * 2.0 + 0.1 * sum(work.transfers[0].examinations))
    on_device = estimate_device(study, work, DEVICES["H100"], 0.5)
    assert on_device.seconds == pytest.approx(sum(one.total_seconds for one in on_device.all))
    assert on_device.transfers[1].seconds["steps"] >= on_device.transfers[0].seconds["steps"] > 0


SMALL_TRM = {
    "world": {"entities": 120, "relations": 40, "degree": 30, "ood_fraction": 0.05},
    "model": {
        "kind": "recursive",
        "width": 128,
        "layers": 2,
        "h_cycles": 2,
        "l_cycles": 3,
        "mixer": True,
        "prefix": 4,
    },
    "format": {"attention": "full", "output": "sequence"},
    "training": {
        "steps": 10,
        "batch": 512,
        "warmup": 1,
        "loss": "stablemax",
        "optimizer": {"kind": "muon", "lr": 3e-3},
    },
}


@pytest.mark.parametrize(
    ("study", "members", "milliseconds"),
    [("paper", 1, 83.0), ("demo", 1, 4.98), ("demo", 8, 4.47), ("trm", 6, 21.0)],
)
def test_steps_measured_on_an_h200_are_predicted_within_30_percent(
    study: str, members: int, milliseconds: float
) -> None:
    """Compiled, not captured; torch 2.11. Each is bound by something else."""
    known = {"trm": StudySpec.parse({"name": "trm", **SMALL_TRM})}
    spec = next(iter((known.get(study) or load_study(study)).expand().values()))
    (step,) = step_operations(RunSetup(spec))
    assert 0.7 < DEVICES["H200"].seconds(step, members=members) * 1000 / milliseconds < 1.3


def test_a_device_is_bound_by_launches_products_or_memory() -> None:
    a100, h100 = DEVICES["A100"], device_of("h100")
    many, large, wide = (
        Operations(1000, ((10, 10),), 10), Operations(1, ((10**15, 10),), 10), Operations(1, (), 10**12)
    )  # fmt: skip
    assert [h100.bound(step) for step in (many, large, wide)] == ["launches", "products", "memory"]
    assert h100.seconds(many, members=100) == h100.seconds(many) == a100.seconds(many)
    assert a100.seconds(large) / h100.seconds(large) == pytest.approx(989 / 312)
    assert h100.seconds(large, 0.25) == pytest.approx(2 * h100.seconds(large, 0.5))
    assert h100.seconds(wide, members=3) == pytest.approx(3 * 10**12 / 3.35e12)


def test_runs_of_a_population_share_its_launches() -> None:
    """Else a study of small runs would be said to take as many times longer as it has runs."""
    work = count_work(STUDY)
    alone, all_together = (
        estimate_device(STUDY, work, DEVICES["H100"], population=of) for of in ("off", "auto")
    )
    assert all_together.basis["members"] == len(work.runs) > alone.basis["members"] == 1
    pairs = [
        (one.seconds["steps"], two.seconds["steps"])
        for one, two in zip(alone.runs, all_together.runs, strict=True)
    ]
    assert all(two == pytest.approx(one / len(work.runs)) for one, two in pairs)
    with pytest.raises(InputError, match="utilisation"):
        estimate_device(STUDY, work, DEVICES["H100"], 1.5)
    with pytest.raises(InputError, match="population"):
        estimate_device(STUDY, work, DEVICES["H100"], population=0)


def test_all_parts_of_a_real_run_are_timed(tmp_path: Path) -> None:
    """And time with more probes or checkpoints is never less: no part may come out negative."""
    spec = STUDY.expand()["natural-s0"]
    told: list[str] = []
    found = measure(spec, tmp_path, 0.5, time.time(), lambda: told.append("ready"))
    assert told == ["ready"]
    assert found["start"] > 0 <= found["compile"]
    assert all(found[part]["wall"] > 0 and found[part]["n"] >= 1 for part in ("step", "checkpoint", "save"))
    assert found["checkpoint"]["wall"] > found["step"]["wall"]
    lines = [found[part][clock] for part in ("examination", "diagnosis") for clock in ("wall", "cpu")]
    assert all(sum(line) > 0 and min(line) >= 0 for line in lines)
    assert found["peak"] > 10**7
    combined = together([found] * 2, 1, comparable=True)
    assert combined.step == pytest.approx(found["step"]["wall"])
    assert combined.steps == 2 * found["step"]["n"]
    assert combined.busy is not None
    assert 0 < combined.busy < 1.5
    assert combined.alone is not None
    assert combined.alone.step == pytest.approx(found["step"]["cpu"])
    assert together([found], 2, comparable=False).alone is None


def test_the_command_plans_for_a_device_without_running_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--regimes", "natural", "--training.steps", "10"]
    assert cli.main(["plan", "pocket", "--device", "A100", "--utilisation", "0.2", "--json", *options]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert [run["steps"] for run in tree["runs"]] == [10, 10, 10]
    assert tree["basis"]["bound"] == "launches"
    assert tree["basis"]["step"] == pytest.approx(883 * 5.6e-6)
    assert cli.main(["plan", "pocket", "--device", "A100", *options]) == 0
    said = capsys.readouterr().out
    assert "natural-s0" in said
    assert "0.00 " not in said
    assert "68% of 3.12e+14 FLOP/s" in " ".join(said.split())
    assert list(tmp_path.iterdir()) == []


def test_show_and_plan_say_the_same_of_the_disk() -> None:
    planned = estimate_device(STUDY, count_work(STUDY), DEVICES["H100"], 0.4)
    in_all = planned.tree()["total"]["disk_bytes"]
    assert len({run.disk for run in planned.runs}) == 2
    assert f"{bytes_text(in_all)} in all" in " ".join(study_sentences(STUDY))


def test_a_prediction_is_held_against_recorded_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same runs with as many steps only; the clock of a run covers training and looking."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**TINY, "transfer": None}))
    study, out = load_study(str(path)), tmp_path / "runs"
    with pytest.raises(InputError, match="against"):
        recorded_seconds(study, out)
    for name, spec in study.expand().items():
        place = place_of(out, spec)
        steps = spec.training.steps if name != "natural-s1" else 1
        write_json(place / SPEC, spec.tree())
        write_json(place / DONE, {"step": steps})
        line = {"step": steps, "seconds": 2 * 0.02 * steps, "loss": 1.0, "lr": 1.0, "accuracy": {}}
        write_text(place / "metrics.jsonl", json.dumps(line) + "\n")
    found = estimate_here(study, count_work(study), speed(checkpoint=0.0, save=0.0))
    recorded = recorded_seconds(study, out)
    assert set(recorded) == {"natural-s0", "both_hops_full-s0", "both_hops_full-s1"}
    assert "0.50 times what 3 finished runs recorded (0.50 to 0.50" in against_sentence("x", found, recorded)
    options = ["plan", str(path), "--device", "H100", "--against", str(out)]
    assert cli.main(options) == 0
    assert "3 finished runs" in capsys.readouterr().out
    assert cli.main([*options[:-1], str(tmp_path / "none")]) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--device abacus", "abacus"),
        ("--device H100 --utilisation 2", "utilisation"),
        ("--utilisation 0.3", "--device"),
        ("--device H100 --workers 2", "workers"),
        ("--workers 0", "workers"),
        ("--seconds 0", "seconds"),
        ("--training.device cuda --seconds 0.1 --workers 1 --training.compile off", "PyTorch sees no GPU"),
    ],
)
def test_wrong_input_is_one_sentence(options: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "demo", *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1
