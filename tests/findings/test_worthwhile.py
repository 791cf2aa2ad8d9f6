"""What ways to an OOD accuracy cost: on drawn courses with a known answer, and on censored ones."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope import cli
from grokscope.errors import InputError
from grokscope.files import write_json, write_text
from grokscope.findings.transfers import Transferred, mix_rates, rate_cells, rate_table
from grokscope.findings.ways import Reached, Worth
from grokscope.findings.worthwhile import ways_of, worthwhile
from grokscope.findings.worthwhile_text import rows, sentences
from grokscope.report.worthwhile_figure import iso_accuracy
from grokscope.runs.directory import CORPUS, DONE, SPEC, STUDY, place_of
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from grokscope.statistics.clustered import Rate
from grokscope.statistics.times import Time

STEPS = [0, 100, 200, 400, 800, 1600, 3200, 6400]
TREE: dict[str, Any] = {
    "name": "drawn",
    "regimes": ["natural", "both_hops_full", "second_hop_full"],
    "seeds": [0, 1, 2],
    "world": {"entities": 30, "relations": 8, "degree": 5, "ood_fraction": 0.3},
    "corpus": {"phi": 1.5, "iid_fraction": 0.1, "probe_cap": 40},
    "format": {"attention": "causal", "output": "answer"},
    "model": {"kind": "looped", "width": 16, "heads": 2, "layers": 1, "loops": 2},
    "training": {"steps": 6400, "batch": 16, "warmup": 5},
}
ADDED = {"natural": 0, "both_hops_full": 40, "second_hop_full": 15}


def drawn(out: Path, reached: dict[str, list[int | None]], study: StudySpec | None = None) -> Study:
    """A finished study whose runs' OOD accuracy jumps from 0 to 1 at these steps (None: never)."""
    study = StudySpec.parse(TREE) if study is None else study
    write_json(out / STUDY, study.tree())
    for spec in study.expand().values():
        at = reached[spec.regime.name][spec.seeds.world]
        directory = place_of(out, spec)
        write_json(directory / SPEC, spec.tree())
        write_json(directory / DONE, {"step": spec.training.steps})
        added = ADDED[spec.regime.name]
        counts = {
            "fingerprint": "drawn",
            "train_compositions": 500 + added,
            "ood_facts": 10,
            "injected_hop1": 0,
            "injected_hop2": added,
        }
        write_json(directory / CORPUS, counts)
        lines = [
            {
                "step": s,
                "seconds": s / 10,
                "loss": 1.0,
                "lr": 1.0,
                "accuracy": {"test_ood": float(at is not None and s >= at)},
            }
            for s in STEPS
        ]
        write_text(directory / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return Study.open(out)


def found(out: Path, **reached: list[int | None]) -> Worth:
    return worthwhile(drawn(out, reached), levels=(0.9,))


def way(worth: Worth, regime: str) -> Any:
    return next(one for one in worth.ways if one.regime == regime)


def test_a_known_ratio_is_found_with_its_checkpoints(tmp_path: Path) -> None:
    worth = found(tmp_path, natural=[1600] * 3, both_hops_full=[200] * 3, second_hop_full=[800] * 3)
    assert [one.regime for one in worth.ways] == ["natural", "second_hop_full", "both_hops_full"]
    fast, waiting = way(worth, "both_hops_full"), way(worth, "natural")
    assert (fast.after, fast.step.value) == (100, 200)
    assert fast.flop(200) == pytest.approx(200 * fast.step_flop)
    assert fast.against.kind == "ratio"
    assert fast.against.factor.value == pytest.approx(8)
    assert fast.against.descriptive
    assert (waiting.against, waiting.efficient, fast.efficient) == (None, True, True)
    assert fast.seconds == 20
    said = sentences(worth)
    assert "8 times less, 3 + 3 runs, descriptive" in said[0]
    saved = (1600 - 200) * fast.step_flop / 40
    assert f"{saved:.2e} FLOP saved per composition" in said[0]


def test_what_needs_more_data_and_more_compute_is_not_efficient(tmp_path: Path) -> None:
    worth = found(tmp_path, natural=[1600] * 3, both_hops_full=[800] * 3, second_hop_full=[400] * 3)
    assert [one.efficient for one in worth.ways] == [True, True, False]
    assert "both_hops_full" not in sentences(worth)[0]


def test_censored_runs_bound_and_never_vanish(tmp_path: Path) -> None:
    """The last look of a run of 8 checkpoints and a window of 3 is the sixth, 1600."""
    worth = found(tmp_path, natural=[None, None, 1600], both_hops_full=[200] * 3, second_hop_full=[None] * 3)
    waiting, fast, never = (way(worth, name) for name in ("natural", "both_hops_full", "second_hop_full"))
    assert (waiting.reached, waiting.step.value, waiting.efficient) == (1, math.inf, None)
    assert fast.against.kind == "at least"
    assert fast.against.factor.value == pytest.approx(8)
    assert fast.against.factor.high == math.inf
    assert never.against.kind == "cannot tell"
    assert never.against.factor is None
    table = worth.table()
    assert table.filter(table["regime"] == "second_hop_full")["flop"].to_list() == [None]
    runs = worth.run_table()
    assert runs.height == 9
    assert runs["by"].null_count() == 5
    assert (runs["flop_at_least"] > 0).all()
    said = sentences(worth)[0]
    assert "got there in 1 of 3 runs" in said
    assert "at least 8 times less" in said
    assert any("cannot tell" in cell for row in rows(worth) for cell in row)


def test_where_nobody_got_there_nothing_is_said_of_what_it_takes(tmp_path: Path) -> None:
    """That no way takes less is known only of ways whose cost is."""
    said = sentences(
        found(tmp_path, natural=[None] * 3, both_hops_full=[None] * 3, second_hop_full=[None] * 3)
    )[0]
    assert "of second_hop_full and both_hops_full too few runs got there to say what that takes" in said
    assert "takes less" not in said


def test_without_a_regime_that_waits_nothing_is_said_of_waiting(tmp_path: Path) -> None:
    study = StudySpec.parse({**TREE, "regimes": ["both_hops_full", "second_hop_full"]})
    reached: dict[str, list[int | None]] = {"both_hops_full": [200] * 3, "second_hop_full": [400] * 3}
    worth = worthwhile(drawn(tmp_path, reached, study), levels=(0.5,))
    assert all(one.against is None for one in worth.ways)
    assert "cannot be told" in sentences(worth)[0]


def test_unfinished_runs_are_named(tmp_path: Path) -> None:
    study = drawn(tmp_path, {"natural": [400] * 3, "both_hops_full": [200] * 3, "second_hop_full": [400] * 3})
    for mark in tmp_path.glob(f"natural-s1-*/{DONE}"):
        mark.unlink()
    worth = worthwhile(study, levels=(0.9,))
    assert way(worth, "natural").runs == 2
    assert worth.notes == ("Not finished, so not counted: natural-s1.",)
    assert way(worth, "both_hops_full").against.runs == (2, 2)
    for mark in tmp_path.glob(f"*/{DONE}"):
        mark.unlink()
    with pytest.raises(InputError, match="no finished run"):
        worthwhile(study)


times = st.one_of(
    st.sampled_from(list(itertools.pairwise(STEPS))).map(lambda pair: Time(*pair, until=6400)),
    st.sampled_from(STEPS[1:]).map(lambda step: Time(step, None, step)),
)


@given(st.lists(st.tuples(st.sampled_from([0, 5, 9]), times), min_size=1, max_size=12))
def test_efficient_ways_are_those_that_no_other_beats(drawn_runs: list[tuple[int, Time]]) -> None:
    """And every way that half of its runs reached is beaten or efficient, whatever is censored."""
    runs = [
        Reached(
            f"r{i}",
            f"add{added}",
            i,
            0.9,
            time,
            1.0,
            None if time.by is None else 1.0,
            50 + added,
            added,
            5,
            1e6,
            8,
        )
        for i, (added, time) in enumerate(drawn_runs)
    ]
    ways = ways_of(runs, pairs=False)
    assert sum(one.runs for one in ways) == len(runs)
    for one in ways:
        assert (one.efficient is None) == (one.step.value == math.inf)
        if one.efficient:
            assert not any(other.step.value < one.step.value and other.added < one.added for other in ways)
        if one.against is not None and one.against.kind == "ratio":
            assert one.reached == one.runs
    there = [one for one in ways if one.step.value < math.inf]
    assert not there or any(one.efficient for one in there)


def test_the_command_writes_tables_and_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn(tmp_path / "s", {"natural": [None] * 3, "both_hops_full": [200] * 3, "second_hop_full": [400] * 3})
    out = tmp_path / "out"
    assert cli.main(["worthwhile", str(tmp_path / "s"), "--device", "H100", "--out", str(out)]) == 0
    assert "at least" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        "worthwhile.csv", "worthwhile.pdf", "worthwhile.png", "worthwhile_runs.csv",
    ]  # fmt: skip
    assert cli.main(["worthwhile", str(tmp_path / "s"), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert {one["level"] for one in tree["ways"]} == {0.5, 0.9}
    for line, named in (
        (f"worthwhile {tmp_path / 's'} --levels 1.5", "levels"),
        (f"worthwhile {tmp_path / 's'} --levels 0.9 0.9", "levels repeats an item"),
        (f"worthwhile {tmp_path / 's'} --probe-set none", "none"),
        (f"worthwhile {tmp_path / 's'} --device abacus", "abacus"),
        (f"worthwhile {next((tmp_path / 's').glob('natural-s0-*'))}", "one run"),
    ):
        assert cli.main(line.split()) == 2
        error = capsys.readouterr().err
        assert named in error
        assert error.count("\n") == 1


def rate(value: float, n: int = 100) -> Rate:
    return Rate(value, value - 0.05, value + 0.05, n, (n, n), float(n))


def test_what_a_way_buys_is_counted_over_runs() -> None:
    """A mix that no run can tell is said to be so; a base's maturity stands beside its numbers."""
    given = [
        Transferred("natural", "end", seed, f"w{seed}", seed < 2, None, {"new_then_old": rate(value)}, {})
        for seed, value in enumerate((0.8, 0.9, 1.0))
    ]
    rows = mix_rates([*given, Transferred("untrained", "untrained", 0, "w0", False, None, {}, {})])
    assert len(rows) == 6
    first = rows[0]
    assert first.rate is not None
    assert (first.rate.value, first.rated, first.rate.n) == (pytest.approx(0.9), 3, 300)
    assert (first.runs, first.mature) == (3, 2)
    assert [one.rate for one in rows[1:]] == [None] * 5
    assert rate_table(rows)["accuracy"].null_count() == 5
    assert rate_cells(rows)[0][:2] == ("natural@end", "2 of 3")
    assert rate_cells(rows)[1][2:] == ("cannot tell",) * 3


def test_a_figure_of_runs_that_never_got_there_is_drawn(tmp_path: Path) -> None:
    worth = found(tmp_path, natural=[None] * 3, both_hops_full=[None] * 3, second_hop_full=[None] * 3)
    (ax,) = iso_accuracy(worth).axes
    assert sum(line.get_marker() == "^" for line in ax.lines) == 9
