"""The optimiser study's table, from runs that are finished."""

import pytest
from benchmarks.optimisers import _against, main

from grokscope.findings.ways import Reached
from grokscope.findings.worthwhile import compared
from grokscope.runs.files import load_study
from grokscope.statistics.times import Time
from tests.runs.tiny import tiny_study, trained


def test_families_are_the_pocket_studys_recipe_but_for_what_their_names_say():
    pocket, base = load_study("pocket").expand(), load_study("optimisers").expand()
    assert {name: base[name].identity for name in base} == {name: pocket[name].identity for name in base}
    assert load_study("optimisers", "muon_grokfast").training.optimizer.grokfast == 2.0
    assert load_study("optimisers", "adamw_grokfast").training.optimizer.kind == "adamw"
    assert load_study("optimisers", "muon_cosine").training.schedule == "cosine"


def test_the_table_is_printed_from_finished_runs(tmp_path, capsys):
    """Nothing reaches a level in four steps: all is censored, nothing missing."""
    for family, kind in (("muon", "muon"), ("adamw", "adamw")):
        study = tiny_study(
            name="optimisers",
            family=family,
            regimes=["natural"],
            causal={"enabled": False},
            training={"steps": 4, "optimizer": {"kind": kind, "lr": 1e-4}},
        )
        trained(study, tmp_path / family)
    main([str(tmp_path / "muon"), str(tmp_path / "adamw"), "--rounds", "1"])
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()
    ]
    head, muon, adamw = (dict(zip(lines[0], line, strict=True)) for line in (lines[0], lines[2], lines[3]))
    against = "steps to 0.9, times those of muon"
    assert against in head
    assert (muon["recipe"], muon["runs"], muon[against], muon["verdicts"]) == ("muon", "1", "", "none made")
    assert (adamw["recipe"], adamw[against]) == ("adamw", "cannot tell")
    for line in (muon, adamw):
        assert line["steps to 0.9"] == "> 1 (0 of 1)"  # with a window of three, step 1 is the last look
        step, seconds = float(line["step"].removesuffix(" ms")), line["seconds to 0.9"]
        assert seconds.startswith("> ")
        assert step > 0


def test_a_probe_set_that_is_none_is_one_sentence(tmp_path, capsys):
    trained(tiny_study(regimes=["natural"], causal={"enabled": False}), tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--rounds", "0", "--probe-set", "nowhere"])
    assert "probe_set = 'nowhere'" in capsys.readouterr().err


def test_a_recipe_that_takes_twice_the_steps_is_two_of_the_others():
    def run(seed: int, by: float | None) -> Reached:
        seconds = None if by is None else 1.0
        return Reached("", "natural", seed, 0.9, Time(0.0, by, 4000.0), 1.0, seconds, 1, 0, 1, 1.0, 1)

    def runs(*steps: float | None) -> list[Reached]:
        return [run(seed, step) for seed, step in enumerate(steps)]

    muon = runs(100, 210, 290)
    assert _against(compared(runs(200, 420, 580), muon, True)).startswith("2.00 (")
    assert _against(compared(runs(200, 420, None), muon, True)).startswith("at least ")
    assert _against(compared(runs(200, 420, None), runs(100, None, 290), True)) == "cannot tell"
