"""Where a second hop fails, told of models whose flaw is known because it was written into their weights."""

import numpy as np
import pytest

from grokscope.mechanics.patch.interchange import Setting
from grokscope.statistics.clustered import Rate
from grokscope.transfer.place import place_of
from grokscope.transfer.second_hop import Stations, deadline_of, known_atoms, measure, stations
from tests.transfer import wired


def setting():
    new = wired.new_facts()
    return Setting(new.world, new.composed, wired.FORMAT)


def examined(flaw, mix):
    """Accuracy among known atoms, the stations of the failing, and those of old queries."""
    new, model = wired.new_facts(), wired.model(flaw)
    knows_F = known_atoms(model, setting())
    deadline, _ = deadline_of(model, new.probes["test_iid"], setting())
    assert model.stages[deadline].name == "loop0.layer0", "r2 reads in the second pass"
    found = measure(model, new.probes[mix], setting(), ~new.new_F, knows_F, deadline)
    assert found.known_P.all(), "every atom is answered, whatever the flaw"
    old = measure(model, new.probes["test_iid"], setting(), ~new.new_F, knows_F, deadline)
    fails_P = found.known_P & ~found.right_P
    return found, stations(found, fails_P, 0.95), stations(old, old.right_P, 0.95)


@pytest.mark.parametrize(
    ("flaw", "mix", "place"),
    [
        ("none", "new_then_new", "works"),
        ("late", "new_then_old", "bridge not resolved"),
        ("unreadable", "new_then_old", "resolved, not read"),
        ("unheld", "old_then_new", "read, not looked up"),
        ("unheld", "new_then_new", "read, not looked up"),
        ("unheld", "new_then_old", "works"),
        ("late", "old_then_new", "read, not looked up"),
    ],
)
def test_the_flaw_that_was_written_is_the_one_that_is_named(flaw, mix, place):
    found, failing, old = examined(flaw, mix)
    right = found.right_P.mean()
    known = Rate(right, right, right, len(found.right_P), (1,), 1.0)
    named, reason = place_of(known, failing, old, works=0.9)
    assert named == place, reason


def test_the_upper_bound_says_whether_the_lookup_would_work():
    """An unreadable bridge is no obstacle once it is given from elsewhere; a missing second fact is."""
    _, unreadable, _ = examined("unreadable", "new_then_old")
    _, unheld, _ = examined("unheld", "old_then_new")
    assert unreadable.given.value > 0.9
    assert unreadable.resolved.value > 0.9
    assert unheld.given.value < 0.1
    assert unheld.read.value > 0.9


def test_what_is_known_is_asked_of_the_model():
    new = wired.new_facts()
    assert known_atoms(wired.model("none"), setting()).all()
    worse = wired.model("late")
    assert known_atoms(worse, setting())[new.new_F].all()


def rate(value, low, high, n=100):
    return Rate(value, low, high, n, (10,), 50.0)


# Stations of old queries on which the instruments work.
GOOD = Stations(100, rate(0.9, 0.8, 0.95), 0.0, rate(0.9, 0.8, 0.95), None)
HIGH, LOW, OPEN = rate(0.9, 0.8, 0.95), rate(0.1, 0.05, 0.2), rate(0.5, 0.3, 0.7)


@pytest.mark.parametrize(
    ("resolved", "read", "given", "place"),
    [
        (LOW, HIGH, LOW, "bridge not resolved"),
        (HIGH, LOW, LOW, "resolved, not read"),
        (HIGH, HIGH, HIGH, "resolved, not read"),
        (HIGH, HIGH, LOW, "read, not looked up"),
        (OPEN, HIGH, LOW, "cannot tell"),
        (HIGH, OPEN, LOW, "cannot tell"),
        (HIGH, HIGH, OPEN, "cannot tell"),
        (None, None, None, "cannot tell"),
    ],
)
def test_a_place_is_named_only_where_intervals_leave_no_doubt(resolved, read, given, place):
    failing = Stations(100, resolved, 0.0, read, given)
    assert place_of(LOW, failing, GOOD, 0.9)[0] == place


def test_too_little_is_said_to_be_too_little():
    failing = Stations(12, None, None, None, None)
    assert place_of(None, failing, None, 0.9)[0] == "cannot tell"
    named, reason = place_of(rate(0.85, 0.8, 0.9), failing, None, 0.9)
    assert named == "cannot tell"
    assert "only 12 fail" in reason
    blind = Stations(100, LOW, 0.0, HIGH, HIGH)
    assert place_of(LOW, Stations(100, LOW, 0.0, HIGH, LOW), blind, 0.9)[0] == "cannot tell"
    # Where exchanging states moves no old answer, that it moves no new one says nothing.
    unmoved = Stations(100, HIGH, 0.0, LOW, None)
    for old in (unmoved, None):
        assert place_of(LOW, Stations(100, HIGH, 0.0, LOW, LOW), old, 0.9)[0] == "cannot tell"


def test_group_rates_need_enough_probes():
    found, _, _ = examined("none", "new_then_new")
    few_P = np.zeros_like(found.known_P)
    few_P[:29] = True
    assert stations(found, few_P, 0.95) == Stations(29, None, None, None, None)
