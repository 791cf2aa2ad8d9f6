"""The delay is split where realigned answers reach the level; the command writes what it was read from."""

from pathlib import Path

import polars as pl
import pytest

from grokscope import cli
from grokscope.findings.waiting import SCHEMA, reached, split
from grokscope.statistics.times import Time
from tests.runs.tiny import tiny_study, trained

GRID = [100, 200, 400, 800, 1600, 3200]


def rows(run: str, clean: list[float], true: list[float]) -> pl.DataFrame:
    """A course of OOD queries on `GRID`."""
    found = [
        {
            **dict.fromkeys(SCHEMA),
            "run": run,
            "step": step,
            "probe_set": "test_ood",
            "asked": way,
            "rate": rate,
        }
        for way, rates in (("clean", clean), ("true", true))
        for step, rate in zip(GRID, rates, strict=True)
    ]
    return pl.DataFrame(found, schema=SCHEMA)


def test_a_delay_is_split_into_its_parts() -> None:
    # Saturated at 200, realigned answers right at 400, answers at 1,600: one doubling, then two.
    some = [rows(f"s{n}", [0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]) for n in range(6)]
    full = {f"s{n}": Time(100, 200, 3200) for n in range(6)}
    found = split(pl.concat(some), full, window=1)
    parts = (found.delay.value, found.lookup.value, found.form.value)
    assert parts == pytest.approx((3, 1, 2))


def test_a_level_that_is_lost_again_was_not_reached() -> None:
    one = rows("s0", [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0])
    assert reached(one, "s0", "clean", window=2) == Time(1600, None, 1600)
    assert reached(one, "s0", "clean", window=1).by == 200


def test_without_a_saturated_run_there_is_nothing_to_split() -> None:
    found = split(rows("s0", [0] * 6, [1] * 6), {"s0": Time(3200, None, 3200)}, window=1)
    assert (found.delay, found.lookup, found.form) == (None, None, None)


def test_the_command_asks_every_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tiny_study(
        world={"ood_fraction": 0.2},
        training={"steps": 4, "warmup": 1, "first_checkpoint": 2, "dense_every": 2},
        regimes=["natural"], seeds=[0, 1], causal={"enabled": False},
    )  # fmt: skip
    trained(study, tmp_path / "study")
    out = tmp_path / "waiting.png"
    assert cli.main(["realign", f"{tmp_path / 'study'}:natural", "--out", str(out), "--probes", "20"]) == 0
    said = capsys.readouterr().out
    assert "natural-s1: 4 checkpoints" in said
    assert "Delay, saturation to OOD accuracy 0.9: cannot tell (2 runs)" in said
    table = pl.read_csv(out.with_suffix(".csv"))
    assert table["step"].n_unique() == 4
    assert set(table["run"]) == {"natural-s0", "natural-s1"}
    assert out.is_file()
