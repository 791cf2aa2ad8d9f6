"""The zoo: every member answers what it should, and for the reason it is said to."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from grokscope.errors import InputError
from grokscope.mechanics.zoo import BODIES, Body, Wired, members, wire
from grokscope.mechanics.zoo.members import MEMBERS, PROBES, right
from grokscope.models.recursive import RecursiveModel
from grokscope.world.format import encode
from grokscope.world.pool import compositions
from grokscope.world.queries import Queries, queries_of

CODED = ("pair_code", "voting")
"""Members whose r1 position carries a code that a memory reads."""


def everything(wired: Wired) -> Queries:
    """All compositions of the world; of a recursive member, which is slow, every sixth, or every twelfth."""
    every = (12 if wired.model.prefix else 6) if isinstance(wired.model, RecursiveModel) else 1
    return queries_of(wired.corpus.world, compositions(wired.corpus.world).fact_NK[::every])


@contextmanager
def without(wired: Wired, role: str) -> Iterator[None]:
    """Silence the hidden units of a role."""
    block = "level.blocks.0" if isinstance(wired.model, RecursiveModel) else "blocks.0"
    name = f"{block}.mlp.down.weight"
    weight = wired.model.get_parameter(name)
    kept = weight.clone()
    with torch.no_grad():
        weight[:, wired.parts[role]] = 0
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def with_bridge_cut(wired: Wired, queries: Queries) -> np.ndarray:
    """(N,) right answers after the state the second hop reads from is set to that of a token that means
    nothing.
    """
    assert wired.reading is not None
    stage, position = wired.reading
    encoded = encode(queries, wired.corpus.world.vocabulary, wired.format)
    blank = encoded.tokens_NS.copy()
    blank[:, 0] = wired.corpus.world.vocabulary.end_id  # no entity: the first hop finds nothing
    model = wired.model
    with torch.inference_mode():
        carries = []
        for tokens_NS in (encoded.tokens_NS, blank):
            carry = model.start(torch.from_numpy(tokens_NS))
            for index in range(1, stage + 1):
                carry = model.step(carry, index)
            carries.append(carry)
        state_BTD = model.read(carries[0], stage).clone()
        state_BTD[:, position] = model.read(carries[1], stage)[:, position]
        carry = model.write(carries[0], stage, state_BTD)
        for index in range(stage + 1, len(model.stages)):
            carry = model.step(carry, index)
        logits_NSV = model.unembed(model.read(carry, len(model.stages) - 1))
    said_N = logits_NSV[:, encoded.answer_position].argmax(-1).numpy()
    return said_N == encoded.labels_NS[:, encoded.answer_position]


@pytest.mark.parametrize("name", members())
def test_answers_exactly_what_it_should_for_the_reason_it_is_said_to(name: str) -> None:
    wired = wire(name, seed=11)
    queries = everything(wired)
    clean_N = right(wired, queries)
    must_N, through_N = wired.answers(queries), wired.through_circuit(queries)
    assert right(wired, wired.corpus.atomic).all()
    assert clean_N[must_N].all()
    # What it cannot know it hits at the rate of a good guess among the tails of r2, not more.
    if (~must_N).any():
        assert clean_N[~must_N].mean() < 0.25
    assert not (through_N & ~must_N).any()
    if not wired.holds:
        assert not through_N.any()
    elif wired.reading is not None and wired.mechanism != "redundant":
        lost_N = ~with_bridge_cut(wired, queries)
        np.testing.assert_array_equal(lost_N[must_N], through_N[must_N])
    probes = wired.corpus.probes[PROBES].queries
    if wired.mechanism in ("circuit", "memorised"):
        assert (wired.through_circuit(probes) == (wired.share == 1)).all()


@pytest.mark.parametrize(
    "name",
    [
        *("overridden_50", "deleted_50", "unreadable_50", "memoriser", "unread", *CODED),
        *("overridden_50_registers", "deleted_50_registers", "unreadable_50_registers"),
    ],
)
def test_each_route_alone_answers_its_own(name: str) -> None:
    wired = wire(name, seed=12)
    queries = everything(wired)
    must_N, through_N = wired.answers(queries), wired.through_circuit(queries)
    with without(wired, "facts"):
        alone_N = right(wired, queries)
    np.testing.assert_array_equal(alone_N[must_N], ~through_N[must_N])
    with without(wired, "memory"):
        alone_N = right(wired, queries)
    if name.startswith("overridden"):
        assert alone_N.all()
    else:
        assert alone_N[through_N].all()
        assert alone_N[must_N & ~through_N].mean() < 0.25


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_redundant_routes_add_up_in_the_planted_proportion(share: float) -> None:
    wired = wire("redundant_50", seed=13, share=share)
    probes = wired.corpus.probes[PROBES].queries
    encoded = encode(probes, wired.corpus.world.vocabulary, wired.format)
    tokens_NS, rows = torch.from_numpy(encoded.tokens_NS), torch.arange(len(probes))
    answer_N = torch.from_numpy(encoded.labels_NS[:, encoded.answer_position]).long()

    def logit_N() -> torch.Tensor:
        with torch.inference_mode():
            return wired.model(tokens_NS)[rows, encoded.answer_position, answer_N]

    whole_N = logit_N()
    with without(wired, "memory"):
        circuit_N = logit_N()
    torch.testing.assert_close(circuit_N / whole_N, torch.full_like(whole_N, share), atol=1e-3, rtol=0)
    assert not wired.through_circuit(probes).any()
    assert with_bridge_cut(wired, probes).all()


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    "name", ["circuit", "memoriser", "overridden_50", "deleted_50", "unreadable_50", "id_only"]
)
def test_every_body(name: str, body: Body) -> None:
    wired = wire(name, seed=2, body=body)
    probes = wired.corpus.probes
    every = 6 if body == "trm" else 2
    for queries in (probes[PROBES].queries, probes["test_iid"].queries, probes["test_ood"].queries):
        some = queries.take(np.arange(0, len(queries), every))
        must_N, through_N = wired.answers(some), wired.through_circuit(some)
        assert right(wired, some)[must_N].all()
        if wired.reading is not None:
            np.testing.assert_array_equal(~with_bridge_cut(wired, some)[must_N], through_N[must_N])


def test_id_only_fails_every_query_with_an_ood_hop() -> None:
    wired = wire("id_only", seed=3)
    world, queries = wired.corpus.world, everything(wired)
    ood_N = world.ood_F[queries.fact_NK(world)].any(axis=1)
    np.testing.assert_array_equal(wired.answers(queries), ~ood_N)
    assert right(wired, queries)[ood_N].mean() < 0.35


@pytest.mark.parametrize("kind", ["overridden", "deleted", "unreadable"])
def test_mixtures_realise_their_share_on_average(kind: str) -> None:
    for percent in (10, 50, 90):
        realised = []
        for seed in range(6):
            wired = wire(f"{kind}_{percent}", seed)
            realised.append(wired.through_circuit(wired.corpus.probes[PROBES].queries).mean())
        assert abs(float(np.mean(realised)) - percent / 100) < 0.05


def test_voting_memory_follows_averaged_trained_sources_and_a_circuit_needs_no_training() -> None:
    """The mean state of trained sources of one bridge makes the voting memoriser say t'; the pair code does
    not.
    """
    rates = {
        name: averaged_bridge_rate(wire(name, seed=5))
        for name in ("voting", "pair_code", "circuit", "unread")
    }
    assert rates["voting"] > 0.9
    assert rates["circuit"] == 1.0
    assert rates["pair_code"] < 0.2
    assert rates["unread"] < 0.2


def averaged_bridge_rate(wired: Wired) -> float:
    """How often the centroid of all TRAINED sources (h', r1', r2) of another bridge b' makes the base say
    t'.
    """
    world, composition = wired.corpus.world, wired.corpus.composition
    trained_N2 = composition.fact_NK(world)
    bases = wired.corpus.probes[PROBES].queries.take(np.arange(0, 400, 8))
    head_N, answer_N = bases.head_N, bases.path_NK[:, 1]
    hits = []
    model, vocabulary = wired.model, world.vocabulary

    def state(queries: Queries) -> torch.Tensor:
        tokens_NS = torch.from_numpy(encode(queries, vocabulary, wired.format).tokens_NS)
        carry = model.start(tokens_NS)
        return model.step(carry, 1)

    with torch.inference_mode():
        for row in range(len(head_N)):
            same_r2 = world.fact_F3[trained_N2[:, 1], 1] == bases.relation_NK[row, 1]
            other = composition.path_NK[:, 1] != answer_N[row]
            facts, count = np.unique(trained_N2[same_r2 & other, 1], return_counts=True)
            if not len(facts) or count.max() < 3:
                continue
            fact = facts[count.argmax()]
            sources = composition.take(np.flatnonzero(trained_N2[:, 1] == fact))
            carry = state(bases.take(np.array([row])))
            mean_D = model.read(state(sources), 1)[:, 1].mean(0)
            patched = model.read(carry, 1).clone()
            patched[:, 1] = mean_D
            carry = model.step(model.write(carry, 1, patched), 2)
            best = model.unembed(model.read(carry, 2))[0, 2].topk(2)
            # Two memories of one strength tie exactly, and rounding then says which of them is heard.
            clear = float(best.values[0] - best.values[1]) > 1e-3
            hits.append(clear and int(best.indices[0]) == vocabulary.entity_ids[world.fact_F3[fact, 2]])
    assert len(hits) > 20
    return float(np.mean(hits))


def test_same_seed_same_model_and_seeds_and_worlds_are_apart() -> None:
    one, again, other, elsewhere = (
        wire("memoriser", *seeds[:1], world=seeds[1]) for seeds in ((1, 7), (1, 7), (2, 7), (1, 8))
    )
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert one.corpus.fingerprint == again.corpus.fingerprint
    assert one.corpus.world.fingerprint == other.corpus.world.fingerprint
    assert one.corpus.fingerprint != other.corpus.fingerprint
    assert one.corpus.world.fingerprint != elsewhere.corpus.world.fingerprint
    shapes_differ = one.model.token_embedding.shape != other.model.token_embedding.shape
    assert shapes_differ or not torch.equal(one.model.token_embedding, other.model.token_embedding)


def test_a_memory_holds_only_what_was_trained() -> None:
    for name in members():
        if MEMBERS[name].mechanism == "memorised":
            wired = wire(name, seed=4)
            queries = everything(wired)
            trained = wired.corpus.composition.stable_id(30, 12)
            np.testing.assert_array_equal(wired.answers(queries), np.isin(queries.stable_id(30, 12), trained))


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("circut", {}, "circut"),
        ("circuit", {"share": 0.5}, "share"),
        ("deleted_50", {"share": 1.0}, "share"),
        ("rotated", {"body": "trm"}, "body"),
        ("registers", {"body": "pre"}, "can be registers"),
        ("circuit", {"body": "rnn"}, "body"),
    ],
)
def test_bad_wishes_are_one_sentence(name: str, options: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        wire(name, 0, **options)
