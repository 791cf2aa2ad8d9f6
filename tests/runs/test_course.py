"""Checkpoints of another program, in order, are a run: traced, diagnosed, reported."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from grokscope import cli
from grokscope.errors import InputError
from grokscope.models.published.importing import import_checkpoint
from grokscope.report.gather import _run
from grokscope.runs.course import checkpoints_in, import_course
from grokscope.runs.plan import plan
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from grokscope.seeds import Seeds
from grokscope.world import build_world
from tests.models.published import gpt2_config, gpt2_weights
from tests.runs.tiny import tiny_study

STEPS = (5, 20, 100)


def asked() -> StudySpec:
    return tiny_study(
        format={"attention": "causal", "output": "sequence"}, causal={"enabled": False}, regimes=["natural"]
    )


def their_output(folder: Path, **changes: object) -> Path:
    """Three checkpoints as files, a PyTorch file and a directory, and other files beside them."""
    vocab = build_world(asked().world, Seeds()).vocabulary.size
    config = {**gpt2_config(), "vocab_size": vocab, **changes}
    for step, name in zip(STEPS, ("step_5.safetensors", "step_20.pt", "step_100"), strict=True):
        weights = {n: t for n, t in gpt2_weights(config, seed=step).items() if n != "lm_head.weight"}
        if name.endswith(".pt"):
            torch.save({"model": weights, "epoch": 3}, folder / name)
        elif name.endswith(".safetensors"):
            save_file(weights, folder / name)
        else:
            (folder / name).mkdir()
            save_file(weights, folder / name / "model.safetensors")
            (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "optimizer.pt").write_text("of no concern")
    return folder


def test_a_course_is_traced_diagnosed_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = their_output(tmp_path / "theirs")
    run = import_course(theirs, asked(), "natural", 0, tmp_path / "out")
    assert run.steps == list(STEPS)
    assert run.metrics["step"].to_list() == list(STEPS)
    assert run.metrics["loss"].null_count() == len(STEPS)
    assert run.traces["step"].values.tolist() == list(STEPS)
    # Their numbers: the logits of each checkpoint are those of the file of its name, on the study's queries.
    original = import_checkpoint(theirs / "step_20.pt").model
    tokens_BS = torch.from_numpy(run.setup.encoded["id_atomic"].tokens_NS)[:9].long()
    torch.testing.assert_close(run.model(20)(tokens_BS), original(tokens_BS), atol=1e-5, rtol=1e-5)
    assert run.diagnosis is not None
    assert run.finished
    assert cli.main(["trace", str(run.directory), "--step", "20", "--probe-set", "test_iid"]) == 0
    assert "natural-s0, step 20, test_iid" in capsys.readouterr().out
    study = Study.open(tmp_path / "out")
    assert [one.action for one in plan(study.run_jobs)] == ["skip"]
    assert _run(run, 0.95)[0].behaviour == run.diagnosis.behaviour  # as the report reads it


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 40}, "has 40 token ids, the study's vocabulary"),
        ({"n_positions": 3, "n_ctx": 3}, "has 3 input positions, the study's queries take 4"),
    ],
)
def test_a_model_of_other_facts_is_refused_and_nothing_written(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = their_output(tmp_path / "theirs", **changes)
    with pytest.raises(InputError, match=said):
        import_course(theirs, asked(), "natural", 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_course_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    with pytest.raises(InputError, match=r"theirs is not there\."):
        import_course(theirs, asked(), "natural", 0, out)
    theirs.mkdir()
    with pytest.raises(InputError, match="has no checkpoints whose names end in a step"):
        import_course(theirs, asked(), "natural", 0, out)
    their_output(theirs)
    assert cli.main(["import", str(theirs), "--out", str(out)]) == 2
    assert "with --study a directory of step_1000, step_2000, ..." in capsys.readouterr().err
    with pytest.raises(InputError, match="regime = 'none': allowed are"):
        import_course(theirs, asked(), "none", 0, out)
    full = tiny_study(regimes=["natural"], format={"attention": "full"}, model={"positions": "learned"})
    with pytest.raises(InputError, match=r"format.attention = 'full': the model at .* has causal attention"):
        import_course(theirs, full, "natural", 0, out)
    (theirs / "step_20.pt").write_bytes((theirs / "step_20.pt").read_bytes()[:500])
    with pytest.raises(InputError, match=r"step_20\.pt is cut off"):
        import_course(theirs, asked(), "natural", 0, out)
    (theirs / "step_20.bin").touch()
    with pytest.raises(InputError, match=r"two checkpoints of step 20, step_20\.bin and step_20\.pt"):
        import_course(theirs, asked(), "natural", 0, out)
    assert not out.exists()


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.integers(0, 10**9), unique=True, max_size=6), pad=st.integers(0, 8))
def test_steps_are_what_the_names_say_in_the_order_of_numbers(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], pad: int
) -> None:
    folder = tmp_path_factory.mktemp("c")
    forms = ("step_{}", "checkpoint-{}", "epoch=3-step={}.ckpt", "model{}.safetensors")
    names = {step: forms[at % 4].format(str(step).zfill(pad)) for at, step in enumerate(steps)}
    for name in (*names.values(), "config.json", "optimizer.pt", ".step_7", "step_7.part", "notes"):
        (folder / name).touch()
    assert {step: path.name for step, path in checkpoints_in(folder).items()} == names
    assert list(checkpoints_in(folder)) == sorted(steps)
