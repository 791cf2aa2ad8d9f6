"""Runs trained together are the runs trained alone, each in its own directory and with its own fate."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from grokscope.errors import InputError
from grokscope.models.build import build_model
from grokscope.models.tensor_file import read_tensors
from grokscope.seeds import Seeds
from grokscope.training import keeper
from grokscope.training.checkpoint import find_state, kept_steps, weights_path
from grokscope.training.data import training_data
from grokscope.training.loop import train
from grokscope.training.manifest import read_manifest
from grokscope.training.member import Member
from grokscope.training.metrics import read_metrics
from grokscope.training.population import train_together
from grokscope.training.spec import OptimizerSpec
from grokscope.training.stops import Diverged, Interrupted
from grokscope.training.trainer import TrainingResult
from grokscope.world import positions
from tests.training import tiny
from tests.training.test_resume import contents

ROOT = Path(__file__).parents[2]
ADAMW = OptimizerSpec(kind="adamw", lr=3e-3, weight_decay=0.1, prefix_lr=1e-3)


def one(directory, seed, kind="looped", **changes):
    """The run of a seed, which has its own weights, order and number of examples."""
    fmt, spec = tiny.FORMATS[kind], tiny.spec(**changes)
    vocab = tiny.corpus().world.vocabulary.size
    place = directory / f"s{seed}"
    return Member(
        build_model(tiny.MODELS[kind], vocab, positions(fmt), fmt, seed, spec.dtype),
        training_data(tiny.corpus(), fmt, 1 + seed),
        tiny.probes(kind),
        spec,
        Seeds(order=seed),
        place,
        [tiny.Recorder(place / "seen")],
    )


def together(members, lanes=None):
    return train_together(members, lanes, threads=1, say=lambda _: None)


def three(directory, steps=40, seeds=(0, 1, 2), **changes):
    return [one(directory, seed, steps=steps, **changes) for seed in seeds]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Three runs that nothing happened to."""
    directory = tmp_path_factory.mktemp("straight")
    together(three(directory))
    return directory


def same(directory, straight, seeds=(0, 1, 2)):
    return all(contents(directory / f"s{seed}") == contents(straight / f"s{seed}") for seed in seeds)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("looped", {}),
        ("gpt2", {"optimizer": ADAMW}),
        ("recursive", {"optimizer": ADAMW, "loss": "stablemax"}),
        ("mixer", {"optimizer": ADAMW, "loss": "stablemax64"}),
    ],
)
def test_fifty_steps_are_those_of_a_run_alone(tmp_path, kind, changes):
    """Weights, average, moments and all that is recorded; a shared buffer, rate or batch would show."""
    wanted = {"kind": kind, "steps": 50, "first_checkpoint": 50, "dense_every": 25, **changes}
    members = [one(tmp_path / "many", seed, **wanted) for seed in (0, 1, 2)]
    for member, result in zip(members, together(members), strict=True):
        alone = one(tmp_path / "alone", member.seeds.order, **wanted)
        said = train(alone, threads=1, say=print)
        assert isinstance(result, TrainingResult)
        assert (result.manifest.members, said.manifest.members) == (3, 1)
        assert (result.manifest.backend, said.manifest.backend) == ("population-eager", "eager")
        name = "resume/step_00000050.safetensors"
        ours, plain = (read_tensors(place.directory / name, "state") for place in (member, alone))
        assert ours.keys() == plain.keys()
        for tensor, values in plain.items():
            # The gradient of a key's bias is 0: AdamW makes a step of what rounding leaves of it.
            if not tensor.endswith("qkv.bias"):
                distance = (ours[tensor] - values).norm() / (values.norm() + 1e-9)
                assert distance < 2e-3, (tensor, float(distance))
        mine, theirs = (read_metrics(place.directory).drop("seconds") for place in (member, alone))
        assert mine.columns == theirs.columns
        assert (mine["loss"] - theirs["loss"]).abs().max() < 1e-3
        tokens = alone.data.tokens_NS[:20].long()
        torch.testing.assert_close(member.model(tokens), alone.model(tokens), atol=2e-2, rtol=0)


def test_a_killed_population_ends_with_the_same_bytes(tmp_path, straight):
    draw = random.Random()
    for moment in (5, draw.randrange(6, 25)):
        command = [sys.executable, "-m", "tests.training.test_population", str(tmp_path)]
        process = subprocess.Popen(command, cwd=ROOT)
        while process.poll() is None:
            state = find_state(tmp_path / "s2") if (tmp_path / "s2/resume/state.json").exists() else None
            if state is not None and state.step >= moment:
                break
            time.sleep(0.002)
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    together(three(tmp_path))
    assert same(tmp_path, straight)


def test_neither_place_nor_company_changes_a_bit(tmp_path, straight):
    """The number of lanes is all that matters: a run goes on in another lane, without the others."""
    with pytest.raises(Interrupted, match="saved 3 runs"):
        together([*three(tmp_path, seeds=(0, 1)), stopping(one(tmp_path, 2), at=16)])
    assert {find_state(tmp_path / f"s{seed}").step for seed in (0, 1, 2)} == {16}
    for seeds in ((2,), (1, 0)):
        together(three(tmp_path, seeds=seeds))
    assert same(tmp_path, straight)
    assert read_manifest(tmp_path / "s2").members == 3


def stopping(member, at):
    """A member whose observer asks the process to stop."""

    class Stopper(tiny.Recorder):
        def at_checkpoint(self, step, model):
            super().at_checkpoint(step, model)
            if step == at:
                signal.raise_signal(signal.SIGTERM)

    member.observers[:] = [Stopper(member.directory / "seen")]
    return member


def test_runs_end_when_they_are_done(tmp_path, straight):
    """A shorter run is the beginning of the longer one, and the others do not notice."""
    short = one(tmp_path, 1, steps=16)
    outcomes = together([one(tmp_path, 0), short, one(tmp_path, 2)])
    assert [outcome.step for outcome in outcomes] == [40, 16, 40]
    assert same(tmp_path, straight, (0, 2))
    path = weights_path(Path("s1"), 16)
    assert (tmp_path / path).read_bytes() == (straight / path).read_bytes()
    kept = read_tensors(tmp_path / path, "weights")
    assert all(torch.equal(p, kept[name]) for name, p in short.model.named_parameters())
    together([one(tmp_path, 1)])
    assert same(tmp_path, straight)


def test_one_that_diverges_stops_alone(tmp_path, straight):
    wild = one(tmp_path, 1)
    with torch.no_grad():
        for parameter in wild.model.parameters():
            parameter *= 1e25
    outcomes = together([one(tmp_path, 0), wild, one(tmp_path, 2)])
    assert isinstance(outcomes[1], Diverged)
    assert kept_steps(wild.directory) == [0]
    assert same(tmp_path, straight, (0, 2))


def test_one_that_cannot_be_written_stops_alone(tmp_path, straight, monkeypatch):
    original = keeper.save_state

    def full(directory, progress, *rest):
        if directory.name == "s1" and progress.step > 12:
            raise OSError(28, "No space left on device")
        original(directory, progress, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(keeper, "save_state", full)
        outcomes = together(three(tmp_path))
    assert isinstance(outcomes[1], InputError)
    assert "s1 at step 15 failed: No space left on device" in str(outcomes[1])
    assert same(tmp_path, straight, (0, 2))
    together([one(tmp_path, 1)])
    assert same(tmp_path, straight)


def test_what_cannot_be_trained_together_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least 1 run"):
        together([])
    with pytest.raises(InputError, match="differ in nothing but `steps`"):
        together([one(tmp_path, 0), one(tmp_path, 1, batch=16)])
    with pytest.raises(InputError, match="different models or formats"):
        together([one(tmp_path, 0), one(tmp_path, 1, "mixer")])
    with pytest.raises(InputError, match="loop_choices"):
        together(three(tmp_path, loop_choices=(1, 2)))
    with pytest.raises(InputError, match="lanes = 2: the 3 runs"):
        together(three(tmp_path), 2)
    assert not [path for path in tmp_path.iterdir() if kept_steps(path)]
    together([one(tmp_path, 0, steps=2)], 2)
    alone = one(tmp_path, 0)
    with pytest.raises(InputError, match="was 'population-eager' and is now 'eager'"):
        train(alone, threads=1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    together(three(Path(sys.argv[1])))
