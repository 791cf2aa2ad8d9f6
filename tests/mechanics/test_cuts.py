"""The verdict on wired TRMs with registers: what is used, and where it can be read, are told apart."""

import pytest

from grokscope.mechanics.judge.verdict import look
from grokscope.mechanics.patch.interchange import Setting
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
