"""Finding 2: behaviour and circuit come apart. With the second hop alone supervised a model shows the
grokking curve while the bridge is mostly not recovered ("fake grokking").
"""

from collections.abc import Sequence

from grokscope.findings.drafts import delayed, later, no_runs, rate_against, rates_differ
from grokscope.findings.measured import Measured, of
from grokscope.findings.published import paper_rate, paper_time
from grokscope.findings.rules import Draft, Wanted, finding
from grokscope.findings.values import Finding, Number
from grokscope.mechanics.judge.diagnosis import VERDICT_SET

FAKE, SUPERVISED = "second_hop_full", "both_hops_full"
"""The contrast, fixed beforehand."""
TITLE = "Behaviour and circuit come apart (fake grokking)"
HYPOTHESIS = (
    "second_hop_full reaches OOD accuracy late, as if it grokked, while the bridge is recovered less than in "
    "both_hops_full and most OOD answers do not go through it."
)
CLAIMS = {
    "2.1 late": f"OOD queries are answered later in {FAKE} than in {SUPERVISED}.",
    "2.2 curve": f"In {FAKE} OOD accuracy comes after a delay: later than twice saturation.",
    "2.3 bridge": f"At the end the bridge is found on fewer OOD queries in {FAKE} than in {SUPERVISED}.",
    "2.4 used": f"In {FAKE} less than half of the right OOD answers go through the bridge.",
}


def fake_grokking(runs: Sequence[Measured]) -> Finding:
    """Judge finding 2 on the finished runs of a study."""
    fake, full = of(runs, FAKE), of(runs, SUPERVISED)
    return finding(2, TITLE, HYPOTHESIS, _drafts(fake, full))


def _drafts(fake: list[Measured], full: list[Measured]) -> list[Draft]:
    one, two, three, four = CLAIMS
    wanted: dict[str, Wanted] = {one: "more", two: "more", three: "less", four: "less"}
    late, curve, bridge, used = (no_runs(key, CLAIMS[key], wanted[key], FAKE, SUPERVISED) for key in CLAIMS)
    if fake:
        times = _papers("train_accuracy", 0.99, "saturation") + _papers(
            "target_found_rate", 0.9, "target found 0.9"
        )
        curve = delayed(two, CLAIMS[two], fake, times)
        used = rate_against(
            four,
            CLAIMS[four],
            "less",
            fake,
            lambda run: run.share(VERDICT_SET),
            "share through the bridge",
            0.5,
        )
    if fake and full:
        event = f"generalisation.{VERDICT_SET}"
        late = later(one, CLAIMS[one], fake, event, full, event)
        published = tuple(
            number
            for regime in (FAKE, SUPERVISED)
            for number in paper_rate(regime, "bridge_found_rate", "bridge found anywhere")
        )
        bridge = rates_differ(
            three, CLAIMS[three], "less", fake, full,
            lambda run: run.rate(VERDICT_SET, "bridge", "anywhere"), "bridge found anywhere", paper=published,
        )  # fmt: skip
    return [late, curve, bridge, used]


def _papers(column: str, threshold: float, label: str) -> tuple[Number, ...]:
    return paper_time(FAKE, column, threshold, label)
