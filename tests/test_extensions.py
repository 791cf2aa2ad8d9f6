"""A further intervention, claim and figure: each one class or function here, and one line where its kind is
listed. A further kind of model is in `test_a_new_kind.py`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from grokscope.findings.claims import FAKE_GROKKING, GENERALISATION
from grokscope.findings.measured import Evidence
from grokscope.findings.rules import Claim, Outcome, judge
from grokscope.mechanics.patch.engine import Joining, Recorded, record, travel
from grokscope.mechanics.patch.interventions import forward
from grokscope.mechanics.unrolled import STATE, reading
from grokscope.models.protocol import Reasoner
from grokscope.report import style
from grokscope.report.drawn import REGIME_FIGURES, Drawn
from grokscope.report.html import render
from grokscope.report.tables import ACCURACY, StudyView, select
from grokscope.statistics.exact import location
from tests.findings.drawn import group
from tests.mechanics import tiny
from tests.report.factory import study


@dataclass(frozen=True)
class HalfWay:
    """At one stage and position, the mean of a query's own state and another's. Address: (probe,)."""

    model: Reasoner
    base: Recorded
    other: Recorded
    stage: int
    position: int

    def joining(self, stage: int) -> Iterator[Joining]:
        if stage == self.stage:
            own, theirs = (run.value[stage, STATE] for run in (self.base, self.other))
            mixed = own.clone()
            mixed[:, self.position] = (own[:, self.position] + theirs[:, self.position]) / 2
            carry = self.model.with_live(self.base.carries[stage], stage, mixed)
            yield Joining(np.arange(len(own))[:, None], carry)


@pytest.mark.parametrize("kind", ["looped", "recursive"])
def test_a_new_intervention_travels_through_the_engine(kind: str) -> None:
    encoded = tiny.encoded(kind, "test_iid")
    tokens_BS = torch.from_numpy(encoded.tokens_NS.astype(np.int64))
    with reading(tiny.model(kind)) as model:
        answer, stage, position = model.prefix + encoded.answer_position, 2, model.prefix + 1
        base, other = (record(model, one, (STATE,), answer) for one in (tokens_BS, tokens_BS.flip(0)))
        address, end_RD = travel(model, [HalfWay(model, base, other, stage, position)], answer)
        theirs = other.value[stage, STATE]

        def tap(at: int, site: str, value: torch.Tensor) -> torch.Tensor:
            if (at, site) == (stage, STATE):
                value = value.clone()
                value[:, position] = (value[:, position] + theirs[:, position]) / 2
            return value

        plainly = forward(model, tokens_BS, tap)[:, answer]
    assert address[:, 0].tolist() == list(range(len(tokens_BS)))
    torch.testing.assert_close(end_RD, plainly, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(end_RD, base.end_BD, atol=1e-3)


def within_six_thousand(evidence: Evidence) -> Outcome:
    steps = [run.time(GENERALISATION).by or np.inf for run in evidence["second_hop_full"]]
    return Outcome(location(steps, 6000.0), "step", "step", scale=lambda value: value + 6000)


def test_a_new_claim_is_judged_with_the_others_of_its_finding() -> None:
    runs = [*group("second_hop_full", 8, bridge=0.3, share=0.1), *group("both_hops_full", 8)]
    before = judge(FAKE_GROKKING, Evidence(runs))
    claim = Claim("2.5 soon", "It is there before step 6,000.", "less", within_six_thousand)
    FAKE_GROKKING.claims.append(claim)
    try:
        after = judge(FAKE_GROKKING, Evidence(runs))
        nobody = judge(FAKE_GROKKING, Evidence(group("natural", 8)))
    finally:
        FAKE_GROKKING.claims.remove(claim)
    new = after.claims[-1]
    assert (new.key, new.result, new.runs) == ("2.5 soon", "contradicted", (8, 8))
    assert new.p_holm is not None
    assert new.p_value is not None
    assert new.p_holm > new.p_value  # corrected for the finding's other tests
    assert [one.effect for one in after.claims[:-1]] == [one.effect for one in before.claims]
    assert nobody.claims[-1].reason == "no finished run of second_hop_full or both_hops_full."


def last_accuracies(view: StudyView, regime: str) -> Iterator[Drawn]:
    rows = select(view.curves, ACCURACY, probes="test_ood", regime=regime)
    figure = style.new_figure(3.0, 2.0)
    figure.add_subplot().bar(range(len(rows)), rows["value"].to_list())
    yield Drawn(f"{regime}_bars", "Bars", f"{len(rows)} looks at {regime}.", figure)


def test_a_new_figure_stands_in_the_report_and_among_its_files(tmp_path: Path) -> None:
    REGIME_FIGURES.append(last_accuracies)
    try:
        page = render(study(("natural",), (0,)), tmp_path).read_text()
    finally:
        REGIME_FIGURES.remove(last_accuracies)
    assert 'alt="Bars"' in page
    assert "looks at natural." in page
    assert {path.suffix for path in (tmp_path / "figures").glob("natural_bars.*")} == {".pdf", ".png"}
