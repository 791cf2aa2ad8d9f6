"""A real, tiny training with the trace writer as observer, read back into a diagnosis."""

import json

import numpy as np
import pytest

from grokscope.mechanics.judge.diagnosis import Diagnosis, diagnose
from grokscope.mechanics.read.layout import select
from grokscope.mechanics.read.lens import lens
from grokscope.mechanics.read.rates import found_anywhere
from grokscope.mechanics.read.traces import TraceWriter, open_traces
from grokscope.mechanics.spec import DiagnosisSpec
from grokscope.seeds import Seeds
from grokscope.training.data import training_data
from grokscope.training.evaluate import correct
from grokscope.training.loop import train
from grokscope.training.member import Member
from grokscope.training.spec import OptimizerSpec, TrainingSpec

from .tiny import FORMATS, corpus, encoded, model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    probes, tokens = corpus().probes, {name: encoded("looped", name) for name in corpus().probes}
    spec = TrainingSpec(
        steps=120,
        batch=128,
        warmup=10,
        optimizer=OptimizerSpec(lr=1e-2, weight_decay=0.01),
        loss="softmax",
        ema=0.9,
        dtype="float32",
        first_checkpoint=40,
        dense_every=40,
        compile="off",
    )
    reasoner, data = model("looped"), training_data(corpus(), FORMATS["looped"])
    writer = TraceWriter(directory / "traces", probes, tokens, corpus().world.vocabulary)
    result = train(Member(reasoner, data, tokens, spec, Seeds(), directory, [writer], report=lambda *_: None))
    return reasoner, result.metrics, open_traces(directory / "traces")


def test_traces_and_metrics_agree_at_every_checkpoint(run):
    _, metrics, trace = run
    assert trace["step"].values.tolist() == metrics["step"].to_list()
    for name in corpus().probes:
        traced = select(trace, name)["exact"].values.mean(axis=1)
        np.testing.assert_allclose(traced, metrics[f"accuracy.{name}"].to_numpy(), atol=1e-12)
        assert metrics[f"accuracy.{name}"][-1] == correct(run[0], encoded("looped", name)).mean()
    assert metrics["accuracy.id_atomic"][-1] > metrics["accuracy.id_atomic"][0] + 0.1


def test_the_last_shard_is_the_lens_of_the_final_weights(run):
    reasoner, _, trace = run
    probes, query = corpus().probes["test_iid"], encoded("looped", "test_iid")
    direct = lens(reasoner, probes, query, corpus().world.vocabulary)
    assert (select(trace, "test_iid").isel(step=-1)["rank"].values == direct["rank"].values).all()


def test_the_run_can_be_diagnosed(run):
    _, metrics, trace = run
    found = diagnose(metrics, trace, corpus().probes, DiagnosisSpec())
    assert found.behaviour == "not saturated"
    assert Diagnosis.parse(json.loads(json.dumps(found.tree(), allow_nan=False))) == found
    assert found.sets["test_ood"].exact.value == metrics["accuracy.test_ood"][-1]
    anywhere = found_anywhere(trace, "bridge").sel(set="test_ood")
    decoded = found.sets["test_ood"].decoded["bridge"]
    assert decoded["anywhere"].value == anywhere["rate"].values[-1]
    assert decoded["chance_anywhere"].value == anywhere["chance"].values[-1]
