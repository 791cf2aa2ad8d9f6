"""What a fine-tuning is shown and how it is set; that it starts from the base and is a training like any."""

from collections import Counter

import numpy as np
import pytest

from grokscope.errors import InputError
from grokscope.mechanics.read.traces import TraceWriter, open_traces
from grokscope.mechanics.spec import LensSpec
from grokscope.models.build import build_model
from grokscope.models.spec import LoopedSpec
from grokscope.seeds import Seeds
from grokscope.training.checkpoint import load_weights, model_tensors, save_weights, weights_path
from grokscope.training.evaluate import correct
from grokscope.training.loop import train
from grokscope.training.member import Member
from grokscope.training.spec import OptimizerSpec, TrainingSpec
from grokscope.transfer.outcome import curves_of, outcome_of
from grokscope.transfer.result import BaseStanding, TransferResult
from grokscope.transfer.spec import ExamineSpec, TransferSpec, TuningSpec
from grokscope.transfer.tune import tuning_data
from grokscope.world import encode, positions
from tests.transfer import wired

TRACES = "traces"
BASE = TrainingSpec(
    steps=100,
    batch=64,
    warmup=7,
    loss="softmax",
    dtype="float32",
    compile="off",
    atom_repetition=3,
    schedule="cosine",
    schedule_steps=100,
    optimizer=OptimizerSpec(kind="muon", lr=4e-3, muon_lr=8e-3, weight_decay=0.1),
)
SPEC = TransferSpec(tuning=TuningSpec(steps=12, first_checkpoint=4, dense_every=4, keep=2))


def model():
    vocab = wired.new_facts().world.vocabulary.size
    spec = LoopedSpec(width=16, heads=2, layers=1, loops=2)
    return build_model(spec, vocab, positions(wired.FORMAT), wired.FORMAT, 5, "float32")


def tuned(directory, base=None, spec=SPEC):
    new, training = wired.new_facts(), spec.tuning.of(BASE)
    vocabulary = new.world.vocabulary
    encoded = {name: encode(one.queries, vocabulary, wired.FORMAT) for name, one in new.probes.items()}
    traces = TraceWriter(directory / TRACES, new.probes, encoded, vocabulary, LensSpec())
    data = tuning_data(new, wired.FORMAT, spec, training, Seeds())
    start = model() if base is None else base
    return train(
        Member(start, data, encoded, training, Seeds(), directory, [traces]), threads=1, say=lambda _: None
    )


def rows(data):
    return Counter(tuple(row) for row in data.tokens_NS.tolist())


def test_only_what_is_said_differs_from_the_base():
    own = TuningSpec(steps=12, lr_factor=0.25, batch=32).of(BASE)
    changed = {name for name, value in own.tree().items() if value != BASE.tree()[name]}
    assert changed == {
        "optimizer", "steps", "batch", "schedule", "schedule_steps", "first_checkpoint", "dense_every",
        "checkpoints_per_doubling", "keep",
    }  # fmt: skip
    assert (own.optimizer.lr, own.optimizer.muon_lr, own.schedule, own.warmup) == (1e-3, 2e-3, "constant", 7)
    assert own.optimizer.replace(lr=4e-3, muon_lr=8e-3) == BASE.optimizer
    assert TuningSpec().of(BASE).optimizer.lr == BASE.optimizer.lr / 2, "the reference's 2e-5 after 4e-5"


def test_an_epoch_holds_the_data_as_often_as_it_says():
    new = wired.new_facts()
    vocabulary = new.world.vocabulary
    spec = SPEC.replace(tuning=SPEC.tuning.replace(repetition=5).tree())
    counts = rows(tuning_data(new, wired.FORMAT, spec, spec.tuning.of(BASE), Seeds()))
    expected = Counter()
    for queries, times in ((new.new_atoms, 5), (new.retained_atoms, 3), (new.retained, 1)):
        for row in encode(queries, vocabulary, wired.FORMAT).tokens_NS.tolist():
            expected[tuple(row)] += times
    assert counts == expected
    for name in ("new_then_old", "old_then_new", "new_then_new", "test_iid", "test_ood"):
        asked = encode(new.probes[name].queries, vocabulary, wired.FORMAT).tokens_NS.tolist()
        assert not {tuple(row) for row in asked} & set(counts), f"{name} is trained"


@pytest.mark.parametrize("replay", [0.5, 2.0, 40.0])
def test_replay_is_met_by_repeating_never_by_leaving_out(replay):
    new = wired.new_facts()
    spec = SPEC.replace(tuning=SPEC.tuning.replace(replay=replay).tree())
    plain = rows(tuning_data(new, wired.FORMAT, SPEC, SPEC.tuning.of(BASE), Seeds()))
    counts = rows(tuning_data(new, wired.FORMAT, spec, spec.tuning.of(BASE), Seeds()))
    fresh = {
        tuple(row) for row in encode(new.new_atoms, new.world.vocabulary, wired.FORMAT).tokens_NS.tolist()
    }
    of_new = sum(times for row, times in counts.items() if row in fresh)
    assert (counts.total() - of_new) / of_new == pytest.approx(replay, rel=0.01)
    assert set(counts) == set(plain)
    assert all(counts[row] >= times for row, times in plain.items())


def test_it_starts_from_the_base_and_a_continued_one_is_the_same(tmp_path):
    new = wired.new_facts()
    base = model()
    save_weights(tmp_path / "base.safetensors", model_tensors(base))
    before = {
        name: correct(base, encode(one.queries, new.world.vocabulary, wired.FORMAT)).mean()
        for name, one in new.probes.items()
    }
    tuned(tmp_path / "at once", base)
    short = SPEC.replace(tuning=SPEC.tuning.replace(steps=6).tree())
    tuned(tmp_path / "in two", spec=short)
    tuned(tmp_path / "in two")
    first = open_traces(tmp_path / "at once" / TRACES).sel(step=0)
    for name, value in before.items():
        assert first["exact"].values[first["probe_set"].values == name].mean() == pytest.approx(value)
    one, two = (weights_path(tmp_path / name, 12).read_bytes() for name in ("at once", "in two"))
    assert one == two
    assert weights_path(tmp_path / "at once", 0).read_bytes() == (tmp_path / "base.safetensors").read_bytes()


def test_the_outcome_is_a_value_that_can_be_kept(tmp_path):
    new = wired.new_facts()
    done = tuned(tmp_path)

    def at(step):
        one = model()
        load_weights(weights_path(tmp_path, step), one)
        return one

    base = BaseStanding("b-s0", "x", "natural", "end", 9, None, None, None, False, 0.9, "never.")
    traces = open_traces(tmp_path / TRACES)
    spec = ExamineSpec(probes=60, window=1, steps="all")
    outcome = outcome_of(base, new, wired.FORMAT, spec, traces, at, done.checkpoints)
    result = outcome.result
    assert TransferResult.parse(result.tree()) == result
    assert {one.step for one in result.mixes} == set(done.checkpoints)
    last = done.metrics.row(-1, named=True)
    for name, numbers in result.old.items():
        assert numbers.after.value == pytest.approx(last[f"accuracy.{name}"])
        assert numbers.before.value == pytest.approx(done.metrics[f"accuracy.{name}"][0])
        assert numbers.change.value == pytest.approx(numbers.after.value - numbers.before.value)
    for mix in ("new_then_old", "old_then_new", "new_then_new"):
        found = result.of(mix)
        assert found.accuracy.value == pytest.approx(last[f"accuracy.{mix}"])
        assert found.accuracy.n == len(new.probes[mix])
        assert (found.accuracy_known is None) == (curves_of(traces)[f"exact_atoms_known.{mix}"][-1] is None)
        assert outcome.cells.filter(mix=mix, step=12).height == 2 * 2 * len(at(12).stages) * 3
    assert result.learned.step is None
    assert result.learned.censored_at == 12
    assert result.data["new_facts"] == 60
    with pytest.raises(InputError, match="transfer result"):
        TransferResult.parse({"base": 1})


def test_known_atoms_are_looked_up_per_probe():
    """A trace in which exactly one atom is wrong: the queries that use it do not count."""
    new = wired.new_facts()
    model_ = wired.model("none")
    from grokscope.mechanics.read.layout import join
    from grokscope.mechanics.read.lens import lens

    parts = [
        lens(model_, one, encode(one.queries, new.world.vocabulary, wired.FORMAT), new.world.vocabulary)
        for one in new.probes.values()
    ]
    trace = join(parts).expand_dims(step=[0]).copy(deep=True)
    mix = new.probes["old_then_new"]
    hidden = int(mix.fact_PK[0, 0])
    at = (trace["fact"].values[:, 0] == hidden) & (trace["fact"].values[:, 1] < 0)
    assert at.sum() == 1, "every old fact that a mix uses is asked as an atom"
    trace["exact"].values[0, at] = False
    share = curves_of(trace)["atoms_known.old_then_new"][0]
    assert share == pytest.approx(1 - (mix.fact_PK == hidden).any(axis=1).mean())
    assert share < 1
    assert np.isclose(curves_of(trace)["atoms_known.new_then_new"][0], 1)
