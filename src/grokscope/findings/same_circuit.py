"""Finding 1: one inference path. It forms early on ID queries, later training brings the OOD facts into it,
and full compositional supervision reaches the same path without the wait.
"""

from collections.abc import Sequence

from grokscope.findings.drafts import later, no_runs, rates_differ
from grokscope.findings.measured import Measured, of
from grokscope.findings.paths import same_path
from grokscope.findings.published import paper_rate, paper_time
from grokscope.findings.rules import Draft, Wanted, finding
from grokscope.findings.values import Finding
from grokscope.mechanics.judge.diagnosis import VERDICT_SET
from grokscope.mechanics.judge.yardstick import SHARE

WAITED, SUPERVISED = "natural", "both_hops_full"
"""The contrast, fixed beforehand."""
ID_SET = "test_iid"
TITLE = "Grokked and supervised models take one path"
HYPOTHESIS = (
    "The path of ID queries forms before training saturates; grokking brings OOD facts into it; full "
    "compositional supervision (both_hops_full) reaches the same path earlier."
)
CLAIMS = {
    "1.1 early": f"In {WAITED} runs the bridge is decoded on held-out ID queries before training saturates.",
    "1.2 late": f"OOD queries are answered later in {WAITED} than in {SUPERVISED}.",
    "1.3 inside": f"At the end of {WAITED} runs, OOD queries take the path of ID queries.",
    "1.4 across": f"At the end, OOD queries take the same path in {WAITED} and {SUPERVISED}.",
    "1.5 used": f"The same share of OOD answers goes through the bridge in {WAITED} and {SUPERVISED}.",
}


def same_circuit(runs: Sequence[Measured]) -> Finding:
    """Judge finding 1 on the finished runs of a study."""
    natural, full = of(runs, WAITED), of(runs, SUPERVISED)
    drafts, notes = _drafts(natural, full), []
    if natural:
        event = f"generalisation.{VERDICT_SET}"
        waiting = [run.name for run in natural if run.has(event) and run.time(event).by is None]
        if waiting:
            notes.append(
                f"Not grokked: {', '.join(waiting)}. Where a path is compared all runs count, so this "
                "is then no comparison of mature models."
            )
        notes += [f"{run.name}: {said}" for run in [*natural, *full] if (said := _where(run))]
    return finding(1, TITLE, HYPOTHESIS, drafts, notes)


def _drafts(natural: list[Measured], full: list[Measured]) -> list[Draft]:
    keys = list(CLAIMS)
    wanted: tuple[Wanted, ...] = ("more", "more", "same", "same", "same")
    drafts = [
        no_runs(key, CLAIMS[key], want, WAITED, SUPERVISED) for key, want in zip(keys, wanted, strict=True)
    ]
    if natural:
        drafts[0] = later(
            keys[0], CLAIMS[keys[0]], natural, "saturation", natural, f"bridge_before_last.{ID_SET}"
        )
    if natural:
        drafts[2] = same_path(keys[2], CLAIMS[keys[2]], natural, natural, (ID_SET, VERDICT_SET))
    if natural and full:
        event = f"generalisation.{VERDICT_SET}"
        paper = tuple(
            number
            for regime in (WAITED, SUPERVISED)
            for number in paper_time(regime, "target_found_rate", 0.9, "target found 0.9")
        )
        drafts[1] = later(keys[1], CLAIMS[keys[1]], natural, event, full, event, paper)
        drafts[3] = same_path(keys[3], CLAIMS[keys[3]], natural, full, (VERDICT_SET, VERDICT_SET))
        found = tuple(
            number
            for regime in (WAITED, SUPERVISED)
            for number in paper_rate(regime, "bridge_found_rate", "bridge found (not its use)")
        )
        drafts[4] = rates_differ(
            keys[4], CLAIMS[keys[4]], "same", natural, full, lambda run: run.share(VERDICT_SET),
            "share through the bridge", SHARE, found,
        )  # fmt: skip
    return drafts


def _where(run: Measured) -> str:
    """Where a tested run holds the bridge of OOD queries."""
    found = run.verdict.of(VERDICT_SET) if run.verdict else None
    if found is None or found.path is None:
        return ""
    path = found.path
    return f"bridge of OOD queries held at {path.role}, {path.resolved} to {path.read}."
