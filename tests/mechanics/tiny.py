"""A tiny world, its probes as tokens, and untrained models of both families."""

from functools import cache

import numpy as np
import polars as pl
import xarray as xr

from grokscope.mechanics.read.layout import join
from grokscope.mechanics.read.lens import lens
from grokscope.models.build import build_model
from grokscope.models.protocol import Reasoner
from grokscope.models.spec import LoopedSpec, RecursiveSpec
from grokscope.seeds import Seeds
from grokscope.world import (
    REGIMES,
    Corpus,
    CorpusSpec,
    Encoded,
    FormatSpec,
    WorldSpec,
    build_corpus,
    build_world,
    encode,
    positions,
)

FORMATS = {
    "looped": FormatSpec(attention="causal", output="answer"),
    "given": FormatSpec(attention="causal", output="sequence"),
    "recursive": FormatSpec(),
    "mixer": FormatSpec(attention="full", output="answer"),
}
MODELS = {
    "looped": LoopedSpec(width=16, heads=2, layers=2, loops=2, tied_head=False),
    "given": LoopedSpec(width=16, heads=2, layers=1, loops=2),
    "recursive": RecursiveSpec(
        width=16, heads=2, layers=1, h_cycles=2, l_cycles=2, prefix=3, mixer=False, positions="rotary"
    ),
    "mixer": RecursiveSpec(width=16, heads=2, layers=1, h_cycles=1, l_cycles=2, prefix=2),
}


@cache
def corpus(regime: str = "both_hops_half") -> Corpus:
    world = build_world(WorldSpec(entities=40, relations=8, degree=5, ood_fraction=0.3), Seeds())
    spec = CorpusSpec(phi=1.5, iid_fraction=0.1, probe_cap=80)
    return build_corpus(world, spec, REGIMES[regime], Seeds())


def encoded(kind: str, name: str) -> Encoded:
    return encode(corpus().probes[name].queries, corpus().world.vocabulary, FORMATS[kind])


def model(kind: str, seed: int = 0, dtype: str = "float32") -> Reasoner:
    fmt = FORMATS[kind]
    return build_model(MODELS[kind], corpus().world.vocabulary.size, positions(fmt), fmt, seed, dtype)


def read(kind: str, name: str, batch: int = 1024) -> xr.Dataset:
    return lens(model(kind), corpus().probes[name], encoded(kind, name), corpus().world.vocabulary, batch)


@cache
def _blank(kind: str) -> xr.Dataset:
    return join([read(kind, name) for name in corpus().probes])


def planted(steps: list[int], kind: str = "recursive") -> xr.Dataset:
    """A trace in which nothing is decoded and nothing is right, to plant findings in."""
    base = _blank(kind).copy(deep=True)
    base["rank"].values[base["rank"].values >= 0] = 7
    base["exact"].values[:] = False
    return (
        xr.concat([base] * len(steps), dim="step", data_vars="all").assign_coords(step=steps).copy(deep=True)
    )


def rows_of(trace: xr.Dataset, name: str) -> np.ndarray:
    return np.flatnonzero(trace["probe_set"].values == name)


def metrics_of(trace: xr.Dataset) -> pl.DataFrame:
    """The accuracies that belong to the trace's `exact`."""
    columns = {
        f"accuracy.{name}": trace["exact"].values[:, rows_of(trace, name)].mean(axis=1)
        for name in trace["set"].values.tolist()
    }
    return pl.DataFrame({"step": trace["step"].values, **columns})
