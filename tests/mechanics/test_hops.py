"""Three hops: donors of either bridge by their rules, and planted chains judged bridge by bridge."""

from functools import cache
from itertools import product

import numpy as np
import pytest

from grokscope.errors import InputError
from grokscope.mechanics.judge.causal import Verdict, examine, together
from grokscope.mechanics.judge.verdict import atoms_known, look
from grokscope.mechanics.patch.donors import ABSENT, DonorTable
from grokscope.mechanics.patch.interchange import Setting, interchange
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.zoo import Wired, members, wire
from grokscope.mechanics.zoo.members import PROBES, right
from grokscope.seeds import Seeds
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.graph import build_world
from grokscope.world.spec import REGIMES, CorpusSpec, WorldSpec

WORLD = WorldSpec(entities=30, relations=12, degree=8, ood_fraction=0.1)
"""15,360 chains of three facts."""
CORPUS = CorpusSpec(phi=8.0, iid_fraction=0.02, hops=3)
"""A sixth of those of ID facts are trained."""
ASKED = 140
"""Queries, with which a share of 1 or of 0 is told from a part."""


@cache
def wired(name: str) -> Wired:
    return wire(name, 0, world_spec=WORLD, corpus_spec=CORPUS)


@cache
def corpus() -> Corpus:
    return build_corpus(build_world(WORLD, Seeds()), CORPUS, REGIMES["natural"], Seeds())


def setting_of(one: Wired, hop: int) -> Setting:
    return Setting(one.corpus.world, one.corpus.composition, one.format, hop=hop)


def led(tail_of, entity, relations):
    for relation in relations:
        entity = int(tail_of[entity, relation]) if entity >= 0 else -1
    return entity


@pytest.mark.parametrize("hop", [1, 2])
def test_donors_of_either_bridge_obey_their_rules(hop: int) -> None:
    """Rule by rule, from facts alone: broken, each would let a state that holds something else count."""
    world, trained = corpus().world, corpus().composition
    known = set(map(tuple, np.column_stack([trained.head_N, trained.relation_NK]).tolist()))
    table = DonorTable(world, trained, hop)
    facts = world.fact_F3.tolist()
    bases, found = (
        corpus().probes[PROBES].fact_PK[::40],
        dict.fromkeys(("bridge", "other_bridge", "same_bridge"), 0),
    )
    for arm in found:
        donors = table.draw(arm, bases, np.random.default_rng(0))
        for p, base in enumerate(bases.tolist()):
            x, r = [facts[base[0]][0], *(facts[f][2] for f in base)], [facts[f][1] for f in base]
            for source, natural in zip(donors.source_PMK[p], donors.natural_PMK[p], strict=True):
                if source[0] == ABSENT:
                    continue
                found[arm] += 1
                (z, s), (y, n) = (
                    ([facts[one[0]][0], *(facts[f][2] for f in one)], [facts[f][1] for f in one])
                    for one in (source.tolist(), natural.tolist())
                )
                for path, relations in ((z, s), (y, n)):
                    assert [led(world.tail_of_ER, path[0], relations[:k]) for k in range(4)] == path
                assert (z[: hop + 1], s[:hop]) == (y[: hop + 1], n[:hop])
                assert n[hop:] == r[hop:]
                assert (y[0], *n) not in known
                assert len(set(y)) == 4
                assert y[-1] == donors.expected_P[p]
                assert (y[hop] == x[hop]) == (arm == "same_bridge")
                assert all(a != b for a, b in zip(s[hop:], r[hop:], strict=True))
                assert not any(z[k] in (x[k], y[k]) for k in range(hop + 1, 4))
                if arm == "same_bridge":
                    assert all(
                        a != b for a, b in zip([*z[:hop], *s[:hop]], [*x[:hop], *r[:hop]], strict=True)
                    )
                    assert y[-1] == x[-1]
                    assert (z[0], *s) not in known
                else:
                    assert y[-1] not in (x[-1], table.guess_R[r[-1]])
                if arm == "other_bridge":
                    assert s[:hop] == r[:hop]
                    read = range(hop + 1, 3)
                else:
                    read = (k for k in range(1, 3) if k != hop)
                    ends = (x[-1], y[-1])
                    mixed = product(
                        *([one, other] for one, other in zip([x[0], *r[:hop]], [y[0], *n[:hop]], strict=True))
                    )
                    for head, *relations in mixed:
                        if [head, *relations] != [x[0], *r[:hop]]:
                            assert (head, *relations, *r[hop:]) not in known
                            if [head, *relations] != [y[0], *n[:hop]]:
                                assert led(world.tail_of_ER, head, [*relations, *r[hop:]]) not in ends
                for k in read:
                    assert led(world.tail_of_ER, z[k], r[k:]) not in (x[-1], y[-1])
                for k in range(hop + 1, 3):
                    for met in (x[k], y[k]):
                        assert led(world.tail_of_ER, met, s[k:]) not in (x[-1], y[-1])
    assert min(found.values()) > 20


@pytest.mark.parametrize("name", members(3))
def test_a_chain_is_judged_bridge_by_bridge(name: str) -> None:
    """A bridge that is looked up carries the answer, one that is jumped over by a memory does not."""
    one = wired(name)
    for hop, (latent, mechanism) in enumerate(one.of_bridge.items(), start=1):
        setting, every = setting_of(one, hop), one.corpus.probes[PROBES]
        assert setting.latent == latent
        probes = some_probes(every, setting.encode(every.queries), ASKED)[0]
        found = examine(one.model, probes, setting, atoms_known(one.model, probes, setting), shown=False)
        assert found.mechanism == mechanism, (latent, found.reason)


@pytest.mark.parametrize("name", members(3))
def test_a_chain_answers_what_it_should(name: str) -> None:
    one = wired(name)
    assert right(one, one.corpus.atomic).all()
    for queries in (
        one.corpus.composition,
        *(one.corpus.probes[key].queries for key in ("test_iid", "test_ood")),
    ):
        must_N = one.answers(queries)
        right_N = right(one, queries)
        assert right_N[must_N].all()
        assert right_N[~must_N].mean() < 0.25 if (~must_N).any() else True


def test_a_path_is_seen_where_it_is_wired() -> None:
    """Bridge 1 stands at r1 after the first pass, bridge 2 at r2 after the second; each is decoded there, and
    the lens, the map and the table of cells speak of the same one."""
    one, probes = wired("three_hops"), corpus().probes[PROBES]
    places = {}
    for hop in (1, 2):
        found = look(one.model, one.corpus.probes[PROBES], setting_of(one, hop), 0, 60)
        assert found.found.latent == f"bridge{hop}"
        assert found.found.path is not None
        places[hop] = (found.found.path.position, found.found.path.read)
        shown = [row for row in found.rows if row["arm"] == "decoded.bridge" and row["rate"] == 1.0]
        assert {row["latent"] for row in found.rows} == {f"bridge{hop}"}
        assert places[hop] in [(int(row["position"]), row["stage"]) for row in shown]
    stages = [stage.name for stage in one.model.stages]
    assert places == {1: (1, stages[1]), 2: (2, stages[2])}
    atoms = one.corpus.probes["id_atomic"]
    with pytest.raises(InputError, match="1-hop queries: 3 are needed"):
        interchange(one.model, atoms, setting_of(one, 1))
    assert probes.queries.hops == 3


@pytest.mark.parametrize(
    ("verdicts", "joint"),
    [
        (("grokked circuit", "grokked circuit"), "grokked circuit"),
        (("grokked circuit", "fake grokking"), "partial"),
        (("grokked circuit", "undecided"), "undecided"),
        (("memorised",), "memorised"),
    ],
)
def test_a_run_has_the_verdict_that_all_its_bridges_have(
    verdicts: tuple[Verdict, ...], joint: Verdict
) -> None:
    named = {f"bridge{k + 1}" if len(verdicts) > 1 else None: (one, "why.") for k, one in enumerate(verdicts)}
    verdict, reason = together(named)
    assert verdict == joint
    assert reason == (
        "why." if len(verdicts) == 1 else f"bridge1: {verdicts[0]}: why. bridge2: {verdicts[1]}: why."
    )


def test_a_member_takes_only_a_corpus_of_its_hops() -> None:
    with pytest.raises(InputError, match=r"corpus\.hops = 2: zoo member 'three_hops' has 3"):
        wire("three_hops", 0, corpus_spec=CORPUS.replace(hops=2))
