"""The verdict on wired TRMs with registers: what is used, and where it can be read, are told apart."""

import pytest

from grokscope.mechanics.judge import needed
from grokscope.mechanics.judge.share import NEEDED, share
from grokscope.mechanics.judge.verdict import look
from grokscope.mechanics.patch.interchange import Setting, draw
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.zoo import wire
from grokscope.mechanics.zoo.members import PROBES
from grokscope.world.spec import WorldSpec

SMALL = WorldSpec(entities=20, relations=9, degree=6, ood_fraction=0.1)
"""Half of the zoo's own facts: the models are narrower by as much."""


@pytest.mark.parametrize(
    ("name", "share", "bridge"),
    [
        ("registers", 1.0, "in registers"),
        ("registers_dark", 1.0, "dark"),
        ("idle", 0.0, "idle"),
    ],
)
def test_what_is_used_and_what_is_read_are_told_apart(name: str, share: float, bridge: str) -> None:
    """By the paper's measure all three look alike: no token ever says the bridge."""
    wired = wire(name, 0, world_spec=SMALL)
    setting = Setting(wired.corpus.world, wired.corpus.composition, wired.format)
    found = look(wired.model, wired.corpus.probes[PROBES], setting, 0, 60).found
    assert found.lens_tokens is not None
    assert found.lens_tokens.value < 0.1
    assert found.share is not None
    assert found.share.value == pytest.approx(share, abs=0.05)
    assert found.bridge == bridge
    held = [cut.group for cut in found.path.cuts] if found.path else []
    assert bool(held) == (share == 1)
    for cut in found.path.cuts if found.path else ():
        assert cut.own < 0.1, "a cut that carries the answer is none that holds the bridge"


def test_a_group_that_no_role_names_is_found_and_scored_on_facts_it_was_not_chosen_on() -> None:
    """Half of the bridge at r1's position, half at r2's: the named groups that hold both hold r2 as well, or
    the answer."""
    wired = wire("spread_apart", 0, world_spec=SMALL)
    setting = Setting(wired.corpus.world, wired.corpus.composition, wired.format)
    found = look(wired.model, wired.corpus.probes[PROBES], setting, 0, 120).found
    assert found.path is not None
    (group,) = {cut.group for cut in found.path.cuts}
    assert group == "relation1+relation2"
    for cut in found.path.cuts:
        assert cut.positions == (1, 2)
        assert cut.rate.value > 0.9
        assert cut.n < found.accuracy.n * 0.7, "scored on the half it was not chosen on"
        assert cut.own < 0.1


def test_copies_that_outvote_one_another_hide_the_bridge_from_no_verdict() -> None:
    """Of three copies two decide, and no two stand in a group that a role names. What takes one of them and
    the answer slot with it loses all answers and half of their evidence, and would look like two routes."""
    wired = wire("copies", 0, world_spec=SMALL)
    setting = Setting(wired.corpus.world, wired.corpus.composition, wired.format)
    found = look(wired.model, wired.corpus.probes[PROBES], setting, 0, 120).found
    assert found.share is not None
    assert found.share.value > 0.95
    assert found.mechanism in ("circuit", "undecided"), "41 answers do not tell it from a share of 0.95"
    assert "circuit" in found.reason
    assert "redundant" not in found.reason
    assert found.path is not None
    assert {len(cut.positions) for cut in found.path.cuts} == {2}


def test_the_share_finds_the_group_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wired = wire("copies", 0, world_spec=SMALL)
    setting = Setting(wired.corpus.world, wired.corpus.composition, wired.format)
    probes = wired.corpus.probes[PROBES]
    probes, _ = some_probes(probes, setting.encode(probes.queries), 120)
    named = needed.columns_of
    few = {"head+relation1", "prefix"}
    monkeypatch.setattr(
        needed,
        "columns_of",
        lambda *given: {
            name: where for name, where in named(*given).items() if len(where) == 1 or name in few
        },
    )
    drawn = draw(wired.model, probes, setting, ("bridge", *NEEDED))
    maps, *_ = needed.needed_maps(wired.model, probes, setting, drawn)
    found = share(maps)
    assert found.rate is not None
    assert found.rate.value > 0.95
    assert {maps["position"].values[cell.column] for cell in found.cells} <= set(maps.attrs["searched"])
    monkeypatch.setattr(needed, "_search", lambda *given: ())
    blind = share(needed.needed_maps(wired.model, probes, setting, drawn)[0])
    assert blind.rate is not None
    assert blind.rate.value < 0.2, "without the search it would be called remembered"
