"""The calibration run itself: one world of two members, end to end, into files."""

from pathlib import Path

import polars as pl
import pytest
from benchmarks.calibrate import SHOWN, one, save

from grokscope.mechanics.zoo.members import CORPUS, WORLD


def test_a_circuit_and_a_memory_are_told_apart_and_saved_in_the_zoos_order(tmp_path: Path) -> None:
    memory, circuit = (one(name, 0, WORLD, CORPUS) for name in ("unread", "circuit"))
    save([memory, circuit], tmp_path)
    table = pl.read_csv(tmp_path / "zoo_calibration.csv")
    assert table["member"].to_list() == ["circuit", "unread"]
    assert set(SHOWN) <= set(table.columns)
    assert table["share"].to_list() == pytest.approx([1.0, 0.0], abs=0.05)
    assert table["iia_centroid_unconditioned"].to_list() == pytest.approx([1.0, 0.0], abs=0.05)
    assert table["path_found"].to_list() == [1.0, None]
    # The lens cannot tell them apart: that is what the zoo is for.
    assert table["lens_before_last"].to_list() == [1.0, 1.0]
    assert table["verdict_right"].to_list() == [1.0, 1.0]
    worlds = pl.read_csv(tmp_path / "zoo_worlds.csv")
    assert worlds["covers"].to_list() == [1.0, 1.0]


def test_without_the_other_instruments_verdict_and_share_are_the_same() -> None:
    for name in ("deleted_50", "memoriser"):
        every, quick = (one(name, 0, WORLD, CORPUS, every=measured) for measured in (True, False))
        assert quick["lens_anywhere"] is None
        said = {key: value for key, value in quick.items() if value is not None}
        assert {"verdict", "share", "low", "high", "drop", "path_found", "used"} <= set(said)
        assert said == pytest.approx({key: every[key] for key in said}, abs=1e-5, nan_ok=True)
