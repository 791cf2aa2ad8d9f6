"""Finding 3 on drawn transfers."""

import pytest

from grokscope.findings.claims import TRANSFER
from grokscope.findings.measured import Evidence
from grokscope.findings.rules import judge
from grokscope.findings.transfers import Transferred
from grokscope.findings.values import ClaimResult, FindingResult
from grokscope.world.probes import MIXES
from tests.findings.drawn import rate


def base(
    regime: str, seed: int, rates: tuple[float, ...], bridge: float = 0.9, **changes: object
) -> Transferred:
    fields: dict[str, object] = {
        "regime": regime, "moment": "end", "seed": seed, "world": f"world{seed}", "mature": True,
        "base_ood": rate(0.95),
        "accuracy": {mix: rate(value) for mix, value in zip(MIXES, rates, strict=False)},
        "bridge": {mix: rate(bridge) for mix in MIXES},
    }  # fmt: skip
    return Transferred(**(fields | changes))  # type: ignore[arg-type]


def as_published(seeds: int) -> list[Transferred]:
    natural = [base("natural", s, (0.96 - s / 100, 0.05 + s / 100, 0.01)) for s in range(seeds)]
    return natural + [base("second_hop_full", s, (0.3 + s / 100, 0.0, 0.0), 0.2) for s in range(seeds)]


def transfer(tuned: list[Transferred]) -> FindingResult:
    return judge(TRANSFER, Evidence((), tuned))


def claim(found: FindingResult, key: str) -> ClaimResult:
    return next(one for one in found.claims if one.key.startswith(key))


def test_what_the_paper_found_is_supported_where_it_is_true() -> None:
    found = transfer(as_published(8))
    assert {one.result for one in found.claims} == {"supported"}
    first = claim(found, "3.1")
    assert first.effect is not None
    assert first.effect.value is not None
    assert first.effect.value.value == pytest.approx(
        0.925, abs=0.01
    )  # the accuracy, not its distance to a half
    (paper,) = first.paper
    assert paper.n == "1 run, 16 probes"
    assert paper.value is not None
    assert (paper.value.value, paper.value.low) == (pytest.approx(1.0), pytest.approx(0.806, abs=0.002))


def test_a_circuit_that_transfers_contradicts_it() -> None:
    all_work = [base("natural", s, (0.9, 0.9 + s / 100, 0.95)) for s in range(8)]
    found = transfer([*all_work, *[base("second_hop_full", s, (0.9 + s / 100, 0.9, 0.9)) for s in range(8)]])
    assert found.result == "contradicted"
    assert claim(found, "3.1").result == "supported"


def test_a_mix_that_lags_a_little_is_no_failure_to_transfer() -> None:
    lagging = [base("natural", s, (0.99 - s / 500, 0.96 - s / 500, 0.95 - s / 500)) for s in range(8)]
    found = transfer(lagging)
    assert [claim(found, key).result for key in ("3.2", "3.3")] == ["contradicted"] * 2
    gap = next(note for note in found.notes if note.startswith("old-then-new less new-then-old"))
    assert "-0.03 [" in gap
    assert "8 bases" in gap
    assert "not tested" in gap


def test_without_a_mature_base_nothing_can_be_told() -> None:
    weak = [base("natural", s, (0.9, 0.0, 0.0), mature=False) for s in range(8)]
    found = transfer(weak)
    assert found.result == "cannot tell"
    assert {one.result for one in found.claims} == {"cannot tell"}
    assert "no mature base (none of the 8 natural bases" in claim(found, "3.1").reason
    some = transfer([*weak[:2], *as_published(8)[2:]])
    assert some.notes[0] == "6 of 8 natural bases are mature; only they count."


def test_only_bases_at_their_end_are_contrasted() -> None:
    early = [base("natural", s, (0.9, 0.0, 0.0), moment="saturation") for s in range(8)]
    assert transfer(early).result == "not run"
    assert transfer([]).reason == "the study has no finished transfer."


def test_a_mix_without_probes_is_a_sentence() -> None:
    short = as_published(8)
    short[3] = base("natural", 3, (0.96, 0.05))
    found = transfer(short)
    lacking = claim(found, "3.3")
    assert (lacking.result, lacking.effect) == ("cannot tell", None)
    assert lacking.reason == "new-then-new has no or too few probes with known atoms in natural seed 3."


def test_three_seeds_are_descriptive_and_a_missing_contrast_is_not_run() -> None:
    assert transfer(as_published(3)).result == "descriptive"
    alone = transfer([one for one in as_published(8) if one.regime == "natural"])
    assert claim(alone, "3.5").result == "not run"
    assert alone.result == "cannot tell"
