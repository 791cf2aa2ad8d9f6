"""Realignment against what was planted: it cures what is known in another form, and nothing else."""

import pytest

from grokscope.errors import InputError
from grokscope.mechanics.patch.drawing import Setting
from grokscope.mechanics.patch.realign import Realigned, realign
from grokscope.mechanics.zoo import Wired, wire


def asked(wired: Wired, *names: str) -> tuple[float, dict[str, Realigned]]:
    setting = Setting(wired.corpus.world, wired.corpus.composition, wired.format)
    probes = wired.corpus.probes
    cell, found = realign(wired.model, probes["train_inferred"], [probes[name] for name in names], setting)
    assert (
        wired.reading is None
        or wired.mechanism == "memorised"
        or (cell.stage, cell.group)
        == (
            wired.reading[0],
            str(wired.reading[1]),
        )
    )
    return cell.followed, {one.probe_set: one for one in found}


def test_a_circuit_follows_a_mean_state_and_loses_nothing_by_its_own() -> None:
    followed, found = asked(wire("circuit", seed=0), "test_iid", "test_ood")
    assert followed == 1
    assert {one.true.value for one in found.values()} == {1.0}


def test_a_bridge_in_a_form_that_is_not_read_is_cured_by_the_true_one() -> None:
    # A tenth of the facts are resolved where only the output head reads them: 0.87 of the untrained
    # compositions are right. With the bridge where the second hop looks for it nothing else is missing, but
    # where the last fact itself is one that is not read.
    wired = wire("unreadable_90", seed=0)
    found = asked(wired, "test_iid")[1]["test_iid"]
    assert found.clean.value == pytest.approx(wired.answers(wired.corpus.probes["test_iid"].queries).mean())
    assert found.true.value > found.clean.value


def test_a_lookup_that_is_missing_is_not_cured() -> None:
    found = asked(wire("deleted_50", seed=0), "test_iid")[1]["test_iid"]
    assert found.true.value <= found.clean.value


def test_a_memory_follows_nothing() -> None:
    followed, found = asked(wire("memoriser", seed=0), "test_iid")
    assert followed < 0.15
    assert found["test_iid"].true.value < 0.15


def test_atoms_are_refused() -> None:
    wired = wire("circuit", seed=0)
    setting = Setting(wired.corpus.world, wired.corpus.composition, wired.format)
    atoms = wired.corpus.probes["id_atomic"]
    with pytest.raises(InputError, match="'id_atomic' has 1-hop queries"):
        realign(wired.model, wired.corpus.probes["train_inferred"], [atoms], setting)
