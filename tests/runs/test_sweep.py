"""A sweep: every point a run with a name that says it, and a row in the study's table."""

from pathlib import Path
from typing import Any

import pytest

from grokscope.errors import InputError
from grokscope.files import read_json
from grokscope.runs.files import load_study
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from grokscope.runs.sweep import SweepSpec
from tests.runs.tiny import begun, tiny_study, trained

GRID = {"vary": {"corpus.phi": [2.0, 3], "model.width": [16, 32]}}


def test_a_grid_is_run_in_every_regime_with_every_seed() -> None:
    study = tiny_study(regimes=["natural", "both_hops_full"], seeds=[0, 1], sweep=GRID)
    runs = study.expand()
    assert len(runs) == 16
    assert list(runs)[:3] == [
        "natural-phi2.0-width16-s0",
        "both_hops_full-phi2.0-width16-s0",
        "natural-phi2.0-width32-s0",
    ]
    one = runs["both_hops_full-phi3-width32-s1"]
    assert (one.corpus.phi, one.model.tree()["width"], one.seed) == (3.0, 32, 1)
    assert (
        one.regime.injection
        == tiny_study(regimes=["both_hops_full"]).expand()["both_hops_full-s0"].regime.injection
    )
    assert len({run.identity for run in runs.values()}) == 16


def test_fields_of_regimes_vary_too() -> None:
    few = {"name": "few", "hop2_ratio": 1.0, "hop2_k": 1}
    study = tiny_study(regimes=[few], steps_for={"few": 6}, sweep={"vary": {"regime.hop2_k": [1, 2]}})
    assert [(name, run.regime.hop2_k, run.training.steps) for name, run in study.expand().items()] == [
        ("few-hop2_k1-s0", 1, 6), ("few-hop2_k2-s0", 2, 6),
    ]  # fmt: skip


def test_a_list_goes_through_its_fields_together() -> None:
    swept = SweepSpec.parse({"by": "list", "vary": {"corpus.phi": [1, 2], "model.width": [8, 16]}})
    assert swept.chosen() == [{"corpus.phi": 1, "model.width": 8}, {"corpus.phi": 2, "model.width": 16}]


def test_fields_that_a_few_points_cannot_tell_apart_are_named() -> None:
    """The shipped map began with twelve points, in which phi and width rise together."""
    vary = load_study("map").sweep.vary
    few, many = (SweepSpec.parse({"by": "sobol", "points": count, "vary": vary}) for count in (12, 28))
    assert few.tied()[0][:2] == ("corpus.phi", "model.width")
    assert few.tied()[0][2] > 0.6
    assert max(abs(pair[2]) for pair in many.tied()) < 0.3
    vary = {
        "corpus.phi": [1, 2, 3],
        "model.kind": ["c", "b", "a"],
        "world.degree": [9, 5, 1],
        "lens.batch": [8] * 3,
    }
    tied = SweepSpec.parse({"by": "list", "vary": vary}).tied()
    assert [(one, other, round(r, 6)) for one, other, r in tied] == [
        ("corpus.phi", "model.kind", 1.0),
        ("corpus.phi", "world.degree", -1.0),
        ("model.kind", "world.degree", -1.0),
    ]
    assert SweepSpec.parse({"vary": {"corpus.phi": [1, 2]}}).tied() == []


def test_sobol_points_fill_a_range_evenly_and_begin_alike_however_many() -> None:
    vary = {"world.entities": {"low": 16, "high": 256, "log": True, "integer": True}, "regime.hop2_k": [0, 1]}
    many, few = (SweepSpec.parse({"by": "sobol", "vary": vary, "points": points}) for points in (16, 5))
    assert many.chosen()[:5] == few.chosen()
    entities = sorted(int(point["world.entities"]) for point in many.chosen())
    # One in each sixteenth of the logarithm.
    assert entities == [round(16 * 16 ** (k / 16)) for k in range(16)]
    assert {point["regime.hop2_k"] for point in many.chosen()} == {0, 1}


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"vary": {"corpus.fi": [1]}}, "sweep: unknown field 'corpus.fi'"),
        ({"vary": {"corpus.phi": [-1]}}, "sweep: corpus.phi = -1"),
        ({"vary": {"regime.hop2_k": [1]}}, "sweep: .*hop2"),
        ({"vary": {"seed": [1]}}, "sweep.vary names 'seed'; allowed are fields of world, corpus"),
        ({"vary": {"training": [1]}}, "sweep.vary names 'training'"),
        ({"vary": {"model.act": ["a b"]}}, "sweep.vary.model.act = 'a b': runs are named after it"),
        ({"vary": {"corpus.phi": {"low": 1, "high": 2}}}, "is a range, .*allowed is sobol"),
        ({"by": "sobol", "vary": {"corpus.phi": [1]}}, "points is how many"),
        (
            {"by": "list", "vary": {"corpus.phi": [1], "model.width": [8, 16]}},
            "as many values of every field",
        ),
        ({"vary": {"corpus.phi": []}}, "at least one item"),
    ],
)
def test_what_cannot_be_varied_is_a_sentence(sweep: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"^[^\n]*{said}[^\n]*$"):
        tiny_study(regimes=["natural"], sweep=sweep).expand()


def test_without_a_sweep_runs_are_what_they_were() -> None:
    """Where and with what a study is run is part of no run either."""
    plain, elsewhere = tiny_study(), tiny_study(execution={"executor": "slurm", "threads": 7})
    assert plain.expand() == elsewhere.expand()
    assert plain.regime_names == ("natural", *plain.regime_names[1:])


def test_the_table_has_a_row_per_run(tmp_path: Path) -> None:
    study = tiny_study(regimes=["natural"], causal={"enabled": False}, sweep={"vary": {"corpus.phi": [2, 3]}})
    begun(study, tmp_path)
    trained(study, tmp_path, "natural-phi3-s0")
    found = Study.open(tmp_path)
    table = found.table()
    columns = ["run", "regime", "seed", "corpus.phi", "state", "step", "steps", "behaviour", "verdict"]
    assert table.columns[: len(columns)] == columns
    assert table["corpus.phi"].to_list() == [2, 3]
    assert table["state"].to_list() == ["new", "done"]
    run = found.runs["natural-phi3-s0"]
    assert run.diagnosis is not None
    assert table["behaviour"].to_list() == [None, run.diagnosis.behaviour]
    assert table["event.saturation"].to_list() == [None, run.diagnosis.events["saturation"].step]
    assert StudySpec.parse(read_json(tmp_path / "study.json")).expand() == study.expand()


def test_a_study_file_can_vary_fields(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("regimes: [natural]\nsweep: {vary: {corpus.phi: [3, 6]}}\n")
    assert list(load_study(str(tmp_path / "mine.yaml")).expand()) == ["natural-phi3-s0", "natural-phi6-s0"]
