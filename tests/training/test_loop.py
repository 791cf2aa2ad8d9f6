"""What a training records, shows and computes."""

import ctypes
import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from grokscope.errors import InputError
from grokscope.training import keeper, trainer
from grokscope.training.data import Batches, loops_at
from grokscope.training.evaluate import correct
from grokscope.training.loop import train
from grokscope.training.loss import Objective
from grokscope.training.member import Member
from grokscope.training.optim import Optimizer, Tensors
from grokscope.training.progress import Lines
from grokscope.training.sinks import make_sinks, scalars_of
from grokscope.training.spec import OptimizerSpec
from grokscope.training.step import (
    CACHED,
    compiled_step,
    compiler,
    copied,
    eager_step,
    is_small,
    recorded_gradient,
    transformed_gradient,
)
from tests.training import tiny


def steps_of(kind, make, count, **changes):
    """The state and losses after some steps."""
    wanted = tiny.spec(**changes)
    model = tiny.model(kind, wanted.dtype)
    batches = Batches(tiny.data(kind), wanted.batch, 0)
    optimizer = Optimizer(wanted, model)
    run = make(Objective(model, batches.layout, wanted.loss, wanted.halt_weight), optimizer)
    state = optimizer.start(model)
    losses = []
    with torch.no_grad():
        for step in range(count):
            loops = loops_at(step, wanted.loop_choices, 0)
            losses.append(float(run(state, batches(step), optimizer.scalars(step), loops)))
    return state, losses


def difference(a: Tensors, b: Tensors) -> float:
    """Largest relative difference of any tensor."""
    return max(float((a[name] - b[name]).norm() / (a[name].norm() + 1e-12)) for name in a)


@pytest.mark.parametrize("kind", ["looped", "gpt2", "recursive", "mixer"])
def test_both_gradients_are_the_same(kind):
    changes = {"loss": "stablemax64", "optimizer": OptimizerSpec(kind="adamw", lr=1e-3)}
    states = [
        steps_of(kind, lambda o, p, g=gradient: eager_step(o, p, g), 3, **changes)[0]
        for gradient in (recorded_gradient, transformed_gradient)
    ]
    assert difference(states[0].params, states[1].params) < 1e-5


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_compiled_is_eager():
    changes = {"optimizer": OptimizerSpec(kind="muon", lr=1e-3), "loop_choices": (1, 2)}
    compiled, compiled_losses = steps_of("looped", partial(compiled_step, small=True), 20, **changes)
    eager, eager_losses = steps_of("looped", eager_step, 20, **changes)
    assert compiled_losses == pytest.approx(eager_losses, rel=1e-3)
    for part, other in zip(compiled, eager, strict=True):
        assert part.keys() == other.keys()
        # Newton-Schulz runs in bfloat16, so its rounding depends on what is fused.
        assert not part or difference(other, part) < 0.02


def test_a_step_is_small_while_its_states_fit_a_cache():
    model = tiny.model("looped")
    position = model.prefix + model.positions
    bytes_of_one = position * model.spec.width * 4
    assert is_small(model, CACHED // bytes_of_one - 1)
    assert not is_small(model, CACHED // bytes_of_one + 1)


@pytest.mark.parametrize("kind", ["looped", "recursive"])
def test_it_learns(tmp_path, kind):
    """Both families fit a few examples; with labels or positions out of place they could not."""
    few = tiny.TrainingData(tiny.data(kind).tokens_NS[-16:], tiny.data(kind).labels_NS[-16:])
    wanted = tiny.spec(
        batch=16,
        steps=120,
        loss="stablemax" if kind == "recursive" else "softmax",
        optimizer=OptimizerSpec(kind="adamw", lr=1e-2, weight_decay=0.0),
        first_checkpoint=120,
        dense_every=120,
    )
    shown = {"train": tiny.Encoded(few.tokens_NS.numpy(), few.labels_NS.numpy(), 0, ())}
    end = train(
        Member(tiny.model(kind), few, shown, wanted, tiny.SEEDS, tmp_path), threads=1, say=lambda _: None
    )
    assert end.metrics["accuracy.train"][0] < 0.3
    assert end.metrics["accuracy.train"][-1] > 0.6


def test_correct_is_the_exact_match_of_all_labels():
    for kind in ("looped", "gpt2", "recursive", "mixer"):
        model = tiny.model(kind)
        probe = tiny.probes(kind)["train_inferred"]
        right = model(torch.from_numpy(probe.tokens_NS).long()).argmax(-1).numpy()
        labels = np.where(probe.labels_NS != 0, right, 0).astype(np.int32)
        kept = labels.astype(bool).any(1)  # a model may say PAD everywhere, which is no label
        own = tiny.Encoded(probe.tokens_NS[kept], labels[kept], probe.answer_position, probe.roles)
        assert correct(model, own, batch=7).all()
        # One wrong label is enough, whichever it is.
        for column in np.flatnonzero(own.labels_NS.all(0)):
            wrong = own.labels_NS.copy()
            wrong[::2, column] = wrong[::2, column] % (model.vocab - 1) + 1
            spoiled = tiny.Encoded(own.tokens_NS, wrong, own.answer_position, own.roles)
            assert (correct(model, spoiled, batch=7) == (np.arange(len(wrong)) % 2 == 1)).all()


def test_metrics_say_what_happened(tmp_path):
    end = tiny.run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert list(lines[0]) == ["step", "seconds", "loss", "lr", "accuracy"]
    assert set(lines[0]["accuracy"]) == set(tiny.probes())
    assert end.metrics.columns[:4] == ["step", "seconds", "loss", "lr"]
    assert end.metrics.columns[4:] == [f"accuracy.{name}" for name in tiny.probes()]
    assert pl.read_parquet(tmp_path / "metrics.parquet").equals(end.metrics)
    assert end.metrics["seconds"].is_sorted()
    # The loss is the mean since the line before, and the rate that of the last update.
    _, losses = steps_of("looped", eager_step, 11, warmup=5)
    batches = Batches(tiny.data(), 32, tiny.SEEDS.order)
    first = Objective(tiny.model(), batches.layout, "softmax", 0.5)(batches(0))
    assert lines[0]["loss"] == pytest.approx(float(first.detach()))
    assert lines[1]["lr"] == pytest.approx(3e-3 * 4 / 5)
    assert lines[-1]["lr"] == pytest.approx(3e-3)
    assert len(losses) == 11


def test_the_loss_line_is_the_mean_of_its_steps(tmp_path, monkeypatch):
    seen: list[float] = []

    def listening(*args):
        step, backend = original(*args)

        def run(*args):
            loss = step(*args)
            seen.append(float(loss))
            return loss

        return run, backend

    original = trainer.choose_step
    monkeypatch.setattr(trainer, "choose_step", listening)
    tiny.run(tmp_path, steps=30)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    ends = [row["step"] for row in rows]
    for before, row in zip(ends, rows[1:], strict=False):
        assert row["loss"] == pytest.approx(np.mean(seen[before : row["step"]]), rel=1e-6)


def test_what_an_observer_has_read_is_not_evaluated_again(tmp_path, monkeypatch):
    evaluated: list[int] = []
    original = keeper.correct
    monkeypatch.setattr(keeper, "correct", lambda *args: evaluated.append(1) or original(*args))

    class Reader:
        def at_checkpoint(self, step, model):
            return {"test_ood": 0.25, "elsewhere": 1.0} if step else None

        def forget_after(self, step):
            pass

    wanted = tiny.spec(steps=4)
    train(
        Member(
            tiny.model(),
            tiny.data(),
            tiny.probes(),
            wanted,
            tiny.SEEDS,
            tmp_path,
            [Reader()],
            report=lambda _: None,
        )
    )
    rows = [json.loads(line)["accuracy"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [list(row) for row in rows] == [list(tiny.probes())] * 2
    assert rows[1]["test_ood"] == 0.25 != rows[0]["test_ood"]
    assert len(evaluated) == 2 * len(tiny.probes()) - 1


def test_report_replaces_the_display(tmp_path):
    news: list[dict] = []
    wanted = tiny.spec(steps=8)
    train(Member(tiny.model(), tiny.data(), tiny.probes(), wanted, tiny.SEEDS, tmp_path, report=news.append))
    assert news[-1]["step"] == news[-1]["steps"] == 8
    assert set(news[-1]) == {"step", "steps", "seconds", "rate", "eta", "loss", "accuracy"}
    assert set(news[-1]["accuracy"]) == set(tiny.probes())
    assert news[0]["rate"] is None


def test_lines_are_few():
    said: list[str] = []
    lines = Lines(said.append)
    news = {"steps": 100, "rate": 5.0, "eta": 3661.0, "accuracy": {"test_ood": 0.25}}
    for step in (0, 10, 20, 100):
        lines.show({**news, "step": step}, checkpoint=True)
    lines.show({**news, "step": 100}, checkpoint=False)
    assert said == [
        "step 0/100, 5.0 steps/s, 1:01:01 left: test_ood 0.250",
        "step 100/100, 5.0 steps/s: test_ood 0.250",
    ]


def test_sinks_get_every_line_and_extras_are_named(tmp_path):
    class Keep:
        def __init__(self):
            self.rows, self.calls = [], []

        def append(self, row):
            self.rows.append(row)

        def forget_after(self, step):
            self.calls.append(step)

        def close(self):
            self.calls.append("closed")

    keep = Keep()
    for steps in (8, 11):
        train(
            Member(
                tiny.model(),
                tiny.data(),
                {},
                tiny.spec(steps=steps),
                tiny.SEEDS,
                tmp_path,
                (),
                [keep],
                report=lambda _: None,
            )
        )
    assert [row["step"] for row in keep.rows] == [0, 4, 8, 11]
    assert keep.calls == [-1, "closed", 8, "closed"]
    assert dict(scalars_of({"step": 1, "loss": 0.5, "accuracy": {"a": 0.1}})) == {
        "loss": 0.5,
        "accuracy/a": 0.1,
    }
    with pytest.raises(InputError, match="tensorboard, wandb, mlflow, trackio"):
        make_sinks(("paper",), tmp_path)


@pytest.mark.parametrize(
    ("name", "module"),
    [("tensorboard", "torch.utils.tensorboard"), *((name, name) for name in ("wandb", "mlflow", "trackio"))],
)
def test_a_sink_that_is_not_installed_is_named(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(InputError, match=rf"grokscope\[{name}\]"):
        make_sinks((name,), tmp_path)


class Elsewhere:
    """MLflow's client and trackio, as far as a sink knows them: everything that is sent is kept."""

    def __init__(self):
        self.sent, self.runs, self.ended = [], [], 0
        self.MlflowClient = lambda: self

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="7") if self.runs else None

    def create_experiment(self, name):
        return "7"

    def create_run(self, experiment_id, *, run_name):
        assert experiment_id == "7"
        self.runs.append(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def log_metric(self, run_id, name, value, *, step):
        assert run_id == "r1"
        self.sent.append((step, name))

    def set_terminated(self, run_id):
        self.ended += 1

    def init(self, *, project, name, resume):
        assert resume == "allow"
        self.runs.append(name)
        return self

    def log(self, metrics, *, step):
        self.sent += [(step, name) for name in metrics]

    def finish(self):
        self.ended += 1


@pytest.mark.parametrize("name", ["mlflow", "trackio"])
def test_what_keeps_everything_is_sent_every_line_once(tmp_path, monkeypatch, name):
    """Interrupted at step 8 and gone on with from 4: the lines of 8 come again and are not sent again."""
    there, directory = Elsewhere(), tmp_path / "study" / "run"
    directory.mkdir(parents=True)
    monkeypatch.setitem(sys.modules, name, there)
    for steps in ([0, 4, 8], [8, 12]):
        (sink,) = make_sinks((name,), directory)
        sink.forget_after(4)
        for step in steps:
            sink.append({"step": step, "loss": 0.5, "accuracy": {"test_ood": 0.1}})
        sink.close()
    assert there.sent == [(step, one) for step in (0, 4, 8, 12) for one in ("loss", "accuracy/test_ood")]
    assert set(there.runs) == {"study-run"}
    assert there.ended == 2
    (directory / f"{name}.json").write_text("[]")
    with pytest.raises(InputError, match="is damaged"):
        make_sinks((name,), directory)


def test_the_trial_of_a_step_leaves_the_state_alone():
    model = tiny.model()
    state = Optimizer(tiny.spec(), model).start(model)
    other = copied(state)
    for part, old in zip(other, state, strict=True):
        assert all(part[n].data_ptr() != old[n].data_ptr() and torch.equal(part[n], old[n]) for n in old)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_a_large_block_is_not_mapped_anew_every_time():
    """In a process of its own: what other tests left on the heap decides where a block comes from."""
    code = """
import resource
import torch
from grokscope.training.start import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.empty(1 << 26, dtype=torch.uint8).fill_(1) for _ in range(4)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print(min(faults() for _ in range(6)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 * 16_384 / 4, "64 MB are 16,384 pages"
