"""The tuned lens: what the map may and may not change."""

import numpy as np
import torch
import xarray as xr

from grokscope.mechanics.read.folds import MIXED, folds
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.read.lens import lens
from grokscope.mechanics.read.rates import emergence_map
from grokscope.mechanics.read.tuned import fit, tuned_lens
from grokscope.mechanics.zoo import wire
from grokscope.world.format import encode
from tests.mechanics.tiny import corpus, encoded, model


def both(name: str) -> tuple[xr.Dataset, xr.Dataset]:
    wired = wire(name, 0)
    every, vocabulary = wired.corpus.probes["train_inferred"], wired.corpus.world.vocabulary
    probes, tokens = some_probes(every, encode(every.queries, vocabulary, wired.format), 400)
    return lens(wired.model, probes, tokens, vocabulary), tuned_lens(wired.model, probes, tokens, vocabulary)


def test_a_basis_that_only_later_passes_read_is_translated_on_facts_the_map_never_saw() -> None:
    plain, tuned = both("rotated")
    cell = {"stage": "loop0.layer0", "position": 1}
    assert float(emergence_map(plain, "bridge", "train_inferred").sel(cell)) == 0
    assert float(emergence_map(tuned, "bridge", "train_inferred").sel(cell)) > 0.75
    # Before anything is resolved there is nothing to translate.
    assert float(emergence_map(tuned, "bridge", "train_inferred").isel(stage=0).max()) < 0.2


def test_held_out_facts_of_a_memoriser_stay_invisible() -> None:
    _, tuned = both("memoriser")
    assert float(emergence_map(tuned, "bridge", "train_inferred").isel(stage=slice(0, 2)).max()) < 0.2


def test_the_last_stage_and_the_form_are_the_logit_lens_for_probes_of_either_fold() -> None:
    probes, tokens = corpus().probes["train_inferred"], encoded("recursive", "train_inferred")
    one, vocabulary = model("recursive"), corpus().world.vocabulary
    plain, tuned = lens(one, probes, tokens, vocabulary), tuned_lens(one, probes, tokens, vocabulary)
    kept = plain.isel(probe=np.flatnonzero(folds(probes.fact_PK) != MIXED))
    xr.testing.assert_identical(kept.isel(stage=-1), tuned.isel(stage=-1))
    assert tuned["rank"].dtype == kept["rank"].dtype
    assert (tuned["logp"] != kept["logp"]).isel(stage=0).all()
    xr.testing.assert_identical(tuned, tuned_lens(one, probes, tokens, vocabulary))


def test_an_affine_change_of_basis_is_undone() -> None:
    one = model("looped")
    random = torch.Generator().manual_seed(0)
    final_XD = torch.randn(200, 16, generator=random)
    turn_DD, shift_D = torch.randn(16, 16, generator=random), torch.randn(16, generator=random)
    map_DD, back_D = fit(one, final_XD @ turn_DD + shift_D, final_XD)
    new_XD = torch.randn(50, 16, generator=random)
    with torch.no_grad():
        said = one.unembed(((new_XD @ turn_DD + shift_D) @ map_DD + back_D)[:, None]).log_softmax(-1)
        goal = one.unembed(new_XD[:, None]).log_softmax(-1)
    divergence = (goal.exp() * (goal - said)).sum(-1).mean()
    assert float(divergence) < 0.05
