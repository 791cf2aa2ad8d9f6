"""Shards: same input, same bytes; whole or not at all; lazily one dataset."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from grokscope.errors import InputError
from grokscope.mechanics.read import traces
from grokscope.mechanics.read.layout import join, select
from grokscope.mechanics.read.lens import lens
from grokscope.mechanics.read.traces import TraceWriter, open_traces, shards, write_shard
from grokscope.mechanics.spec import LensSpec
from grokscope.training.evaluate import correct

from .tiny import FORMATS, corpus, encoded, model, read


def writer(directory, kind="recursive", **spec):
    probes = corpus().probes
    tokens = {name: encoded(kind, name) for name in probes}
    return TraceWriter(directory, probes, tokens, corpus().world.vocabulary, LensSpec(**spec))


def content(directory):
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()
    }


def test_same_input_same_bytes(tmp_path):
    for name in ("a", "b"):
        one = writer(tmp_path / name)
        one.at_checkpoint(0, model("recursive"))
        one.at_checkpoint(100, model("recursive", seed=1))
    first = content(tmp_path / "a")
    assert first == content(tmp_path / "b")
    assert len(first) > 20
    writer(tmp_path / "a").at_checkpoint(100, model("recursive", seed=1))
    assert content(tmp_path / "a") == first
    writer(tmp_path / "a").at_checkpoint(100, model("recursive", seed=2))
    assert content(tmp_path / "a") != first


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", FORMATS)
def test_what_it_says_of_whole_sets_is_the_accuracy(kind, dtype, tmp_path):
    """Training takes it for its own evaluation. Some labels are what the model says, and so are right."""
    reasoner, probes = model(kind, dtype=dtype), corpus().probes
    tokens = {name: encoded(kind, name) for name in probes}
    rng = np.random.default_rng(0)
    for name, one in tokens.items():
        said_NS = reasoner(torch.from_numpy(one.tokens_NS)).argmax(-1).numpy()
        told_NS = (one.labels_NS != 0) & (rng.random((len(said_NS), 1)) < 0.5)
        tokens[name] = replace(one, labels_NS=np.where(told_NS, said_NS, one.labels_NS))
    direct = {name: float(correct(reasoner, one).mean()) for name, one in tokens.items()}
    assert 0.2 < min(direct.values()) < max(direct.values()) < 0.8
    vocabulary = corpus().world.vocabulary
    assert TraceWriter(tmp_path / "all", probes, tokens, vocabulary).at_checkpoint(0, reasoner) == direct
    few = TraceWriter(tmp_path / "few", probes, tokens, vocabulary, LensSpec(probes_per_set=50))
    small = [name for name in probes if len(probes[name]) <= 50]
    assert small != list(probes)
    assert list(few.at_checkpoint(0, reasoner)) == small


def test_what_is_read_is_what_the_lens_says(tmp_path):
    one = writer(tmp_path)
    for step, seed in ((0, 0), (100, 1), (25, 2)):
        one.at_checkpoint(step, model("recursive", seed=seed))
    trace = open_traces(tmp_path)
    assert trace["step"].values.tolist() == [0, 25, 100]
    for name in ("ood_atomic", "test_ood"):
        part = select(trace, name)
        for step, seed in ((0, 0), (100, 1), (25, 2)):
            reasoner, query = model("recursive", seed=seed), encoded("recursive", name)
            direct = lens(reasoner, corpus().probes[name], query, corpus().world.vocabulary)
            here = part.sel(step=step)
            for key in ("rank", "argmax", "exact"):
                assert (here[key].values == direct[key].values).all()
            np.testing.assert_allclose(here["logp"].values, direct["logp"].values, rtol=2e-3)
            assert here["variable"].values.tolist() == direct["variable"].values.tolist()
            assert here["role"].values.tolist() == direct["role"].values[0].tolist()
            assert (here["fact"].values == direct["fact"].values).all()
    atomic = trace.isel(probe=trace["probe_set"].values == "id_atomic").sel(variable="bridge")
    assert (atomic["rank"].values == -1).all()
    assert np.isnan(atomic["logp"].values).all()


def test_indexing_a_lazy_trace_is_indexing_its_values(tmp_path):
    one = writer(tmp_path)
    for step in (0, 10, 20):
        one.at_checkpoint(step, model("recursive", seed=step))
    rank = open_traces(tmp_path)["rank"]
    whole = open_traces(tmp_path)["rank"].values
    assert (rank.isel(step=1).values == whole[1]).all()
    assert (
        rank.isel(step=[2, 0], probe=[5, 1], stage=-1).values == whole[[2, 0]][:, [5, 1]][..., -1, :]
    ).all()
    assert (rank.isel(step=slice(None, None, -1), variable=0).values == whole[::-1, :, 0]).all()
    assert rank.isel(step=[]).shape == (0, *whole.shape[1:])
    assert rank.isel(step=[]).values.shape == (0, *whole.shape[1:])
    points = {"step": xr.DataArray([0, 2], dims="x"), "probe": xr.DataArray([3, 4], dims="x")}
    assert (rank.isel(points).values == whole[[0, 2], [3, 4]]).all()


def test_opening_reads_nothing_measured(tmp_path):
    one = writer(tmp_path)
    for step in (0, 10):
        one.at_checkpoint(step, model("recursive", seed=step))
    chunks = tmp_path / "step_00000010.zarr" / "rank" / "c"
    shutil.rmtree(chunks)
    trace = open_traces(tmp_path)
    expected = read("recursive", "test_ood")["rank"].values
    assert (select(trace, "test_ood").sel(step=0)["rank"].values == expected).all()


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    one = writer(tmp_path)
    one.at_checkpoint(0, model("recursive"))
    before = content(tmp_path)

    written = []

    def full(path, content):
        written.append(path)
        if len(written) % 4 == 0:
            raise OSError(28, "No space left on device")
        with path.open("wb") as file:
            return file.write(content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        for step in (0, 50):
            with pytest.raises(OSError, match="No space"):
                one.at_checkpoint(step, model("recursive", seed=3))
    assert len(written) == 8
    assert content(tmp_path) == before


def test_forgetting_removes_later_steps_and_drafts(tmp_path):
    one = writer(tmp_path, probes_per_set=5)
    for step in (0, 10, 20):
        one.at_checkpoint(step, model("recursive"))
    (tmp_path / ".step_00000030.zarr.77.part").mkdir()
    one.forget_after(10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000000.zarr", "step_00000010.zarr"]
    assert list(shards(tmp_path)) == [0, 10]


def test_fewer_probes_are_spread_over_heads(tmp_path):
    one = writer(tmp_path, probes_per_set=6)
    one.at_checkpoint(0, model("recursive"))
    trace = open_traces(tmp_path)
    rows = select(trace, "id_atomic")["probe"].values
    everything = corpus().probes["id_atomic"].id_P
    assert len(rows) == 6
    assert set(rows) <= set(everything.tolist())
    assert rows[-1] > np.quantile(everything, 0.7)
    direct = select(join([read("recursive", "id_atomic")]), "id_atomic")
    keep = np.isin(direct["probe"].values, rows)
    assert (select(trace, "id_atomic")["rank"].values[0] == direct["rank"].values[keep]).all()


def test_tiny_probabilities_stay_finite(tmp_path):
    dataset = join([read("recursive", "test_ood")])
    dataset["logp"].values[0] = -1e6
    write_shard(tmp_path / "step_00000000.zarr", dataset)
    assert np.isfinite(open_traces(tmp_path)["logp"].values).all()


def test_bad_directories_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no traces"):
        open_traces(tmp_path)
    writer(tmp_path).at_checkpoint(0, model("recursive"))
    writer(tmp_path, probes_per_set=4).at_checkpoint(1, model("recursive"))
    with pytest.raises(InputError, match="other probes"):
        open_traces(tmp_path)
    traces.remove(tmp_path / "step_00000001.zarr")
    (tmp_path / "step_00000001.zarr").mkdir()
    with pytest.raises(InputError, match="step_00000001"):
        open_traces(tmp_path)
    with pytest.raises(InputError, match="'nonsense' is not in this trace"):
        select(read("recursive", "test_ood"), "nonsense")
