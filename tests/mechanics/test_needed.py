"""The share read from what is needed of the maps, against the share of whole maps."""

from types import SimpleNamespace

import numpy as np
import pytest

from grokscope.mechanics.judge import needed
from grokscope.mechanics.judge.needed import MOVES, OTHER, SAME, needed_maps
from grokscope.mechanics.judge.share import NEEDED, share
from grokscope.mechanics.patch.drawing import Asked, draw
from grokscope.mechanics.patch.groups import tokens_alone
from grokscope.mechanics.patch.interchange import Setting, as_map, interchange, patch_map
from grokscope.mechanics.patch.maps import PatchMap
from grokscope.mechanics.unrolled import STATE, answers, has, inside_sites
from tests.mechanics.causal_cases import MODELS, model_of, probes, setting_of, wired_case

ARMS = (MOVES, *NEEDED)


def assert_same(found, whole):
    assert found.cells == whole.cells
    assert (found.probe_U == whole.probe_U).all()
    assert (found.half_U == whole.half_U).all()
    np.testing.assert_array_equal(found.through_U, whole.through_U)
    np.testing.assert_allclose(found.drop_U, whole.drop_U, atol=1e-4)
    np.testing.assert_allclose(found.rest_U, whole.rest_U, atol=1e-4)
    assert (found.rate, found.by_argmax) == (whole.rate, whole.by_argmax)


@pytest.mark.parametrize(
    "name",
    ["circuit_trm", "deleted_50", "unreadable_10", "own_position", "redundant_25", "voting", "memoriser"],
)
def test_the_share_of_a_wired_model_is_that_of_whole_maps(name):
    wired, some, setting = wired_case(name, most=90)
    drawn = draw(wired.model, some, setting, ARMS)
    whole = [
        interchange(wired.model, some, setting, ARMS, site=site, drawn=drawn)
        for site in (STATE, *inside_sites(wired.model))
    ]
    expected = share(*whole)
    assert expected.rate is not None
    assert_same(share(*needed_maps(wired.model, some, setting, drawn)), expected)
    assert_same(share(*needed_maps(wired.model, some, setting, drawn, whole[0])), expected)


class Known(PatchMap):
    """Pieces of maps that are there already, in place of runs."""

    def __init__(self, truth, model, probe_set, sites, arms):
        self.model, self.sites, self.arms, self.truth = model, tuple(sites), tuple(arms), truth
        self.columns = tokens_alone(model, 3)
        self.clean_said_P, self.clean_margin_P = truth.clean_said, truth.clean_margin
        shape = (len(arms), len(model.stages), 3, len(probe_set))
        self.said = {site: np.broadcast_to(truth.clean_said, shape).copy() for site in sites}
        self.margin = {site: np.broadcast_to(truth.clean_margin, shape).copy() for site in sites}

    def run(self, site):
        return np.ones(self.said[site].shape[:3], dtype=bool)

    def fill(self, wanted=None, arms=None, rows_P=None):
        for arm in arms or self.arms:
            for site, cells_LC in (self.cells() if wanted is None else wanted).items():
                here = cells_LC[:, :, None] & np.broadcast_to(
                    True if rows_P is None else rows_P, self.clean_said_P.shape
                )
                mine, theirs = self.arms.index(arm), ARMS.index(arm)
                for own, true in ((self.said, self.truth.said), (self.margin, self.truth.margin)):
                    own[site][mine][here] = true[site][theirs][here]
        return self


def random_maps(rng, model, some, answer_P):
    """Answers that are lost or stay as cells have it: never, seldom, at a threshold, mostly, always."""
    sites, probes_n = (STATE, *inside_sites(model)), len(some)
    shape, levels = (len(ARMS), len(model.stages), 3), [0.0, 0.02, 0.05, 0.3, 0.5, 0.93, 0.97, 1.0]
    levels = levels[: rng.integers(2, len(levels) + 1)]
    said, margin = {}, {}
    for site in sites:
        keeps = rng.choice(levels, size=shape)[..., None] > rng.random((*shape, probes_n))
        there_L = np.array([has(model, stage.index, site) for stage in model.stages])
        keeps |= ~there_L[:, None, None]
        margin[site] = np.where(keeps, 1.0, rng.choice([-1.0, 0.3], size=keeps.shape)).astype(np.float32)
        said[site] = np.where(margin[site] > 0, answer_P, answer_P + 1).astype(np.int32)
    right_P = rng.random(probes_n) < rng.choice([0.5, 1.0])
    clean = np.where(right_P, answer_P, answer_P + 1), np.where(right_P, 1.0, -1.0).astype(np.float32)
    return SimpleNamespace(said=said, margin=margin, clean_said=clean[0], clean_margin=clean[1])


@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_maps_show_the_share_is_the_same(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    model, setting, some = model_of("looped"), setting_of("looped"), probes(60)
    drawn = draw(model, some, setting, ARMS)
    truth = random_maps(rng, model, some, setting.tokens_of(some.queries.path_NK[:, 1]))
    knows = {arm: rng.random(len(some)) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0]) for arm in ARMS}
    lent = SimpleNamespace(donors=drawn.donors, **dict.fromkeys(
        ("source_right", "natural_right", "atom_right"), knows.__getitem__
    ))  # fmt: skip
    every = Known(truth, model, some, tuple(truth.said), ARMS).fill()
    whole = [as_map(every, some, setting, lent, site) for site in truth.said]
    monkeypatch.setattr(
        needed,
        "patch_map",
        lambda m, p, s, d, arms, columns=None, sites=(STATE,): Known(truth, m, p, sites, arms),
    )
    expected = share(*whole)
    assert_same(share(*needed_maps(model, some, setting, lent)), expected)
    assert_same(share(*needed_maps(model, some, setting, lent, whole[0])), expected)


@pytest.mark.parametrize("megabytes", [9, 1024])
@pytest.mark.parametrize("kind", MODELS)
def test_pieces_come_to_the_whole_map(kind, megabytes):
    """In whatever order and however many fit: a part of the probes first, an arm and a cell at a time."""
    model, some = model_of(kind), probes(24)
    world = setting_of(kind)
    setting = Setting(world.world, world.trained, world.format, budget=megabytes * 2**20)
    drawn, sites = draw(model, some, setting, NEEDED), (STATE, *inside_sites(model))
    run = patch_map(model, some, setting, drawn, NEEDED, sites=sites)
    first_P = np.arange(24) < 10
    run.fill(run.cells(), (SAME,), first_P)
    one = {site: cells_LC & (np.arange(cells_LC.shape[1]) == 1) for site, cells_LC in run.cells().items()}
    run.fill(one, (OTHER,), ~first_P)
    run.fill()
    for site in sites:
        maps = interchange(model, some, setting, NEEDED, site=site, drawn=drawn)
        np.testing.assert_allclose(run.margin[site], maps["margin"].values, atol=1e-4)
        np.testing.assert_array_equal(run.said[site], maps["said"].values)


def test_a_query_is_asked_once_and_answered_as_the_model_does(monkeypatch):
    model, setting = model_of("looped"), setting_of("looped")
    facts = np.concatenate([probes(12).fact_PK, probes(12).fact_PK[::-1], [[-1, -1]]])
    encoded = setting.encode(probes(12).queries)
    token_P = setting.tokens_of(probes(12).queries.path_NK[:, 1])
    right_P = answers(model, encoded.tokens_NS, encoded.answer_position, token_P)[0] == token_P
    asked = Asked(model, setting)
    np.testing.assert_array_equal(asked.right(facts), [*right_P, *right_P[::-1], False])
    monkeypatch.setattr("grokscope.mechanics.patch.drawing.answers", None)
    np.testing.assert_array_equal(asked.right(facts[5:9]), right_P[5:9])
