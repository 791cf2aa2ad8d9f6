"""How a test becomes a result. The rules are fixed here, before any study is looked at.

- fewer than `FEWEST_RUNS` runs in a group: descriptive. The numbers stand, nothing is concluded.
- "more" or "less": supported if the difference is significant after Holm's correction over all tests of the
  finding and points the claimed way; contradicted if it is and points the other way.
- "same": supported if equivalent within the margin (same correction); contradicted if beyond the margin
  (Bonferroni over the tests of the finding).
- everything else: cannot tell.
- a finding is supported if all its claims are, contradicted if any is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from grokscope.findings.measured import Evidence, Missing
from grokscope.findings.values import ClaimResult, FindingResult, Number, Result, Unit, plain
from grokscope.statistics.exact import FEWEST_RUNS, Effect, Equivalence, holm

ALPHA = 0.05


Wanted: TypeAlias = Literal["more", "less", "same"]


@dataclass(frozen=True)
class Outcome:
    """What a test of a claim found, before the finding's other tests are known."""

    effect: Effect | None = None
    """None: there was nothing to test, for `reason`."""
    label: str = ""
    """Of it."""
    unit: Unit = "rate"
    reason: str = ""
    missing: Result = "cannot tell"
    """The result where there is no effect."""
    scale: Callable[[float], float] = float
    """From the numbers that were tested to those that are shown."""
    note: str = ""
    """Before the effect: "at least", where runs are censored."""
    each: tuple[float, ...] = ()
    """The effect in every pair of runs, as it was tested."""
    groups: tuple[Number, ...] = ()
    paper: tuple[Number, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A claim: a sentence and its test."""

    key: str
    hypothesis: str
    wanted: Wanted
    """The direction that supports it."""
    test: Callable[[Evidence], Outcome]
    """May raise `Missing`."""


@dataclass(frozen=True)
class Finding:
    """Claims that stand and fall together, and are corrected for each other."""

    number: int
    title: str
    hypothesis: str
    claims: list[Claim]
    regimes: tuple[str, ...]
    """Whose finished runs the claims are about."""
    notes: Callable[[Evidence], Sequence[str]] = lambda evidence: ()
    """What else is to be said of the evidence."""


def judge(finding: Finding, evidence: Evidence) -> FindingResult:
    """Test all claims of a finding. Descriptive ones are no tests and cost no correction."""
    found = [_tested(claim, finding, evidence) for claim in finding.claims]
    asked = [(claim.key, one.effect) for claim, one in zip(finding.claims, found, strict=True)]
    p_values = {key: effect.p_value for key, effect in asked if effect and _enough(effect)}
    adjusted = holm(p_values)
    claims = tuple(
        _settled(claim, one, adjusted.get(claim.key), len(p_values))
        for claim, one in zip(finding.claims, found, strict=True)
    )
    results = [claim.result for claim in claims]

    def named(*kinds: Result) -> str:
        return ", ".join(claim.key for claim in claims if claim.result in kinds)

    def judged(result: Result, reason: str) -> FindingResult:
        said, notes = (finding.number, finding.title, finding.hypothesis), tuple(finding.notes(evidence))
        return FindingResult(*said, result, reason, claims, notes)

    if "contradicted" in results:
        return judged("contradicted", f"contradicted by: {named('contradicted')}.")
    if set(results) == {"not run"}:
        return judged("not run", claims[0].reason)
    if set(results) == {"supported"}:
        return judged("supported", "all claims are supported.")
    open_claims = named("cannot tell", "not run")
    if "descriptive" in results:
        more = f" No number for: {open_claims}." if open_claims else ""
        return judged(
            "descriptive", f"fewer than {FEWEST_RUNS} runs in a group, so nothing is concluded.{more}"
        )
    return judged("cannot tell", f"open: {open_claims}.")


def _tested(claim: Claim, finding: Finding, evidence: Evidence) -> Outcome:
    try:
        return claim.test(evidence)
    except Missing as missing:
        reason = str(missing) or f"no finished run of {' or '.join(finding.regimes)}."
        return Outcome(reason=reason, missing=missing.result)


def _enough(effect: Effect) -> bool:
    return min(effect.n) >= FEWEST_RUNS


def _settled(claim: Claim, tested: Outcome, p_holm: float | None, tests: int) -> ClaimResult:
    result, reason = _judged(tested, claim.wanted, p_holm, tests)
    effect, p_value = tested.effect, None
    shown, runs = None, tuple[int, ...]()
    if effect is not None:
        said = f"{effect.n[0]} pairs of runs" if effect.paired else f"{effect.n[0]} and {effect.n[1]} runs"
        level = f"{effect.confidence:.0%} interval"
        shown = Number(
            tested.label, tested.unit, effect.scaled(tested.scale), f"{said}, {level}", tested.note
        )
        runs, p_value = effect.n, effect.p_value if _enough(effect) else None
    return ClaimResult(
        claim.key, claim.hypothesis, _named(tested), result, reason, shown, p_value, p_holm, runs,
        tested.groups, tested.paper,
    )  # fmt: skip


def _judged(tested: Outcome, wanted: Wanted, p_holm: float | None, tests: int) -> tuple[Result, str]:
    effect = tested.effect
    if effect is None:
        return tested.missing, tested.reason
    more = f" {tested.reason}" if tested.reason else ""
    if p_holm is None:
        few = min(effect.n)
        runs = f"{few} run{'s' if few != 1 else ''} a group, {FEWEST_RUNS} are needed for a test."
        return "descriptive", f"{runs}{_range(tested)}{more}"
    if isinstance(effect, Equivalence):
        if p_holm <= ALPHA:
            return "supported", f"within the margin, p = {p_holm:.3g} (Holm).{more}"
        if (beyond := effect.p_beyond * tests) <= ALPHA:
            return "contradicted", f"beyond the margin, p = {beyond:.3g} (Bonferroni).{more}"
        return "cannot tell", f"neither within the margin (p = {p_holm:.3g}, Holm) nor beyond it.{more}"
    if p_holm <= ALPHA:
        as_claimed = (effect.value > 0) == (wanted == "more")
        return ("supported" if as_claimed else "contradicted"), f"p = {p_holm:.3g} (Holm).{more}"
    least = min(1.0, effect.smallest_p * tests)
    limit = f" {tests} tests at this n cannot go below {least:.3g}." if least > ALPHA else ""
    return "cannot tell", f"p = {p_holm:.3g} (Holm).{limit}{more}"


def _range(tested: Outcome) -> str:
    """Lowest and highest of the pairs, where there is no interval to show."""
    if len(tested.each) < 2:
        return ""
    low, high = (plain(tested.scale(end), tested.unit) for end in (min(tested.each), max(tested.each)))
    return f" Every pair: {low}." if low == high else f" Pairs from {low} to {high}."


def _named(tested: Outcome) -> str:
    effect = tested.effect
    if effect is None:
        return "none"
    how = "sign flips of pairs" if effect.paired else "exchange of runs"
    exact = "exact" if effect.exact else "drawn"
    if isinstance(effect, Equivalence):
        return f"equivalence (TOST) by {exact} {how}, margin {effect.margin:g}"
    return f"{exact} {how}"
