"""The price of a new fact: on drawn ladders with a known answer, and read from real tiny transfers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from grokscope import cli
from grokscope.errors import InputError
from grokscope.findings.price import PLAIN, Rung, cells, ends, prices, rows, rung_table, rungs, table
from grokscope.findings.transfers import transferred
from grokscope.runs.files import load_study, parse_study
from grokscope.runs.study import Study
from tests.runs.test_execution import TINY, run_here
from tests.runs.test_transfers import TRANSFER, transfer_here

LADDER = (0, 1, 2, 4, 8, 16)


def ladder(
    price: float | None, cure: str = PLAIN, seed: int = 0, ks: tuple[int, ...] = LADDER, mature: bool = True
) -> list[Rung]:
    """All rungs of one seed whose true price this is (None: none is enough)."""
    return [
        Rung("natural@end", mature, cure, seed, "old_then_new", k, price is not None and k >= price)
        for k in ks
    ]


@given(
    st.one_of(st.none(), st.integers(0, 20)),
    st.sets(st.sampled_from(LADDER), min_size=1).map(lambda ks: tuple(sorted(ks))),
)
def test_the_true_price_lies_in_its_interval(true: int | None, ks: tuple[int, ...]) -> None:
    (found,) = prices(ladder(true, ks=ks))
    if found.by is None:
        assert true is None or true > found.most == ks[-1]
    else:
        assert true is not None
        assert true <= found.by
    assert found.after is None or true is None or found.after < true
    between = [
        k for k in ks if (found.after is None or k > found.after) and found.by is not None and k < found.by
    ]
    assert between == []
    time = found.time
    assert 0 <= time.after <= time.until
    assert time.by is None or time.after < time.by <= time.until


def test_a_rung_that_fails_above_one_that_worked_is_not_overlooked() -> None:
    found = ladder(1)
    found[3] = Rung("natural@end", True, PLAIN, 0, "old_then_new", 4, False)
    assert prices(found)[0].text == "(4, 8]"


def test_what_a_rung_came_to_is_a_mean_of_the_finished_and_says_how_far_they_lie_apart() -> None:
    found = [
        replace(rung, accuracy=accuracy, accuracy_known=known, probes=100)
        for rung, accuracy, known in zip(
            ladder(2, ks=(0,)) * 3, (0.5, 0.7, None), (None, 0.9, None), strict=True
        )
    ]
    assert ends(found) == [("old_then_new", PLAIN, "0", "2", "0.60 [0.50, 0.70]", "0.90 [0.90, 0.90]")]
    assert rung_table(found)["accuracy"].to_list() == [0.5, 0.7, None]


def test_what_could_not_be_told_widens_the_interval() -> None:
    found = [
        Rung(rung.base, True, PLAIN, 0, rung.mix, rung.k, None if rung.k in (2, 16) else rung.reached)
        for rung in ladder(2)
    ]
    assert prices(found)[0].text == "(1, 4]"
    untold = [Rung(rung.base, True, PLAIN, 0, rung.mix, rung.k, None) for rung in ladder(2)]
    assert prices(untold) == []
    assert rows(untold) == []


def test_words_of_a_price() -> None:
    said = [prices(ladder(true))[0].text for true in (None, 0, 1, 3, 16)]
    assert said == ["> 16", "0", "(0, 1]", "(2, 4]", "(8, 16]"]
    assert prices(ladder(0, ks=(4, 8)))[0].text == "<= 4"


def test_cures_are_compared_on_common_rungs_pair_by_pair() -> None:
    """A coarse ladder reads (1, 4] where a fine one reads (1, 2]: no cure made that difference."""
    found = [rung for seed in range(8) for rung in ladder(2, seed=seed)]
    found += [rung for seed in range(8) for rung in ladder(2, "none", seed, (0, 1, 4, 16))]
    found += [rung for seed in range(8) for rung in ladder(0, "cure", seed)]
    plain, none, cure = rows(found)
    assert plain.against is None
    assert none.against is not None
    assert (none.against.value, none.against.p_value) == (0, 1)
    assert cure.against is not None
    assert cure.against.value == pytest.approx(-1.585, abs=0.001)
    assert cure.against.p_value == pytest.approx(2 / 2**8)
    assert not cure.descriptive
    assert cells([cure])[0][-1].startswith("k + 1 is 3 times smaller")


def test_a_price_beyond_the_ladder_is_a_bound_and_few_seeds_are_descriptive() -> None:
    found = [rung for seed in range(3) for rung in ladder(None, seed=seed, mature=seed == 0)]
    found += [rung for seed in range(3) for rung in ladder(4, "cure", seed)]
    plain, cure = rows(found)
    assert plain.median.value == math.inf
    assert cells([plain])[0][1:] == ("1 of 3", "old_then_new", PLAIN, "3", "> 16, > 16, > 16", "> 16", "")
    assert "cannot tell" in cells([cure])[0][-1]
    assert cells([cure])[0][-2] == "4"
    (small,) = rows(ladder(4, "cure") + ladder(8, PLAIN))[:1]
    assert "descriptive" in cells([small])[0][-1]
    assert table(prices(found))["by"].null_count() == 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A price study of tiny transfers: nothing learned in 14 steps, so nothing can be told."""
    tree = yaml.safe_load(TINY + TRANSFER) | {"regimes": ["natural"]}
    tree["transfer"]["examine"] = {"probes": 4}
    tree["transfer"] |= {
        "bases": ["natural@end", "natural@saturation"],
        "variants": {
            "plain_k0": {},
            "plain_k2": {"facts": {"k": 2}},
            "fixed_k0": {"tuning": {"freeze": ["blocks"]}},
        },
    }
    study = parse_study({**tree, "causal": {"enabled": False}}, Path("tiny.yaml"), None)
    out = tmp_path_factory.mktemp("price") / "tiny"
    run_here(study, out)
    transfer_here(study, out)
    return out


def test_a_real_study_is_read_and_says_what_it_cannot_tell(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study.open(tiny)
    found, notes = rungs(study)
    assert {(rung.cure, rung.k) for rung in found} == {("plain", 0), ("plain", 2), ("fixed", 0)}
    assert {(rung.base, rung.seed, rung.mature) for rung in found} == {("natural@end", 0, False)}
    assert all(rung.reached is None for rung in found)
    assert any("has not reached saturation" in note for note in notes)
    assert cli.main(["price", str(tiny), "--out", str(tmp_path)]) == 0
    assert "has not reached saturation" in capsys.readouterr().out
    assert (tmp_path / "price.csv").read_text().startswith("base,mature,cure,mix,seed,after,by,most")
    assert cli.main(["price", str(tiny), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prices"] == []
    # Finding 3 is about the section's own settings, not about what a cure or k makes of them.
    assert len(transferred(study)[0]) == 1


def test_what_is_no_price_study_is_refused(tiny: Path, tmp_path: Path) -> None:
    study = Study.open(tiny)
    other = study.spec.tree()
    other["transfer"]["variants"] = {"plain_k3": {"facts": {"k": 2}}}
    with pytest.raises(InputError, match=r"its facts\.k is 2, not 3"):
        rungs(Study(tiny, type(study.spec).parse(other)))
    other["transfer"]["variants"] = {}
    with pytest.raises(InputError, match="no price study"):
        rungs(Study(tiny, type(study.spec).parse(other)))
    assert cli.main(["price", str(next(tiny.glob("natural-s0-*")))]) == 2


def test_the_shipped_study_asks_what_it_says() -> None:
    """Every ladder of the shipped study has k 0 and 16, the plain one all of 0 .. 16, and its bases are
    pocket's runs."""
    study, pocket = load_study("price"), load_study("pocket")
    assert study.transfer is not None
    ks: dict[str, set[int]] = {}
    for name, spec in study.transfer.transfers().items():
        cure, _, k = name.rpartition("_k")
        assert spec.facts.k == int(k)
        ks.setdefault(cure, set()).add(int(k))
    assert ks.pop("plain") == set(LADDER)
    assert all({0, 16} <= rungs <= set(LADDER) for rungs in ks.values())
    assert {name: run.identity for name, run in study.expand().items()}.items() <= {
        name: run.identity for name, run in pocket.expand().items()
    }.items()
    for family in ("identity", "random_loops", "reembedding", "untied"):
        assert (
            load_study("price", family).expand()["natural-s0"].identity
            != study.expand()["natural-s0"].identity
        )
