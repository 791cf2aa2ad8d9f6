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

from grokscope.findings.values import Claim, Finding, Number, Result, Unit, plain
from grokscope.statistics.exact import FEWEST_RUNS, Effect, Equivalence
from grokscope.statistics.multiple import holm

ALPHA = 0.05


Wanted: TypeAlias = Literal["more", "less", "same"]


@dataclass(frozen=True)
class Draft:
    """A claim before the finding's other tests are known."""

    key: str
    hypothesis: str
    wanted: Wanted
    effect: Effect | None
    """None: there was nothing to test, for `reason`."""
    label: str
    """Of it."""
    unit: Unit
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


def settle(drafts: Sequence[Draft]) -> tuple[Claim, ...]:
    """The claims of one finding, corrected for each other. Descriptive ones are no tests and cost nothing."""
    tested = {one.key: one.effect.p_value for one in drafts if one.effect and _enough(one.effect)}
    adjusted = holm(tested)
    return tuple(_settled(one, adjusted.get(one.key), len(tested)) for one in drafts)


def finding(
    number: int, title: str, hypothesis: str, drafts: Sequence[Draft], notes: Sequence[str] = ()
) -> Finding:
    """A finding from its claims."""
    claims = settle(drafts)
    results = [claim.result for claim in claims]

    def named(*kinds: Result) -> str:
        return ", ".join(claim.key for claim in claims if claim.result in kinds)

    def judged(result: Result, reason: str) -> Finding:
        return Finding(number, title, hypothesis, result, reason, claims, tuple(notes))

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


def _enough(effect: Effect) -> bool:
    return min(effect.n) >= FEWEST_RUNS


def _settled(draft: Draft, p_holm: float | None, tests: int) -> Claim:
    result, reason = _judged(draft, p_holm, tests)
    effect, p_value = draft.effect, None
    shown, runs = None, tuple[int, ...]()
    if effect is not None:
        said = f"{effect.n[0]} pairs of runs" if effect.paired else f"{effect.n[0]} and {effect.n[1]} runs"
        level = f"{effect.confidence:.0%} interval"
        shown = Number(draft.label, draft.unit, effect.scaled(draft.scale), f"{said}, {level}", draft.note)
        runs, p_value = effect.n, effect.p_value if _enough(effect) else None
    return Claim(
        draft.key, draft.hypothesis, _named(draft), result, reason, shown, p_value, p_holm, runs,
        draft.groups, draft.paper,
    )  # fmt: skip


def _judged(draft: Draft, p_holm: float | None, tests: int) -> tuple[Result, str]:
    effect = draft.effect
    if effect is None:
        return draft.missing, draft.reason
    more = f" {draft.reason}" if draft.reason else ""
    if p_holm is None:
        few = min(effect.n)
        runs = f"{few} run{'s' if few != 1 else ''} a group, {FEWEST_RUNS} are needed for a test."
        return "descriptive", f"{runs}{_range(draft)}{more}"
    if isinstance(effect, Equivalence):
        if p_holm <= ALPHA:
            return "supported", f"within the margin, p = {p_holm:.3g} (Holm).{more}"
        if (beyond := effect.p_beyond * tests) <= ALPHA:
            return "contradicted", f"beyond the margin, p = {beyond:.3g} (Bonferroni).{more}"
        return "cannot tell", f"neither within the margin (p = {p_holm:.3g}, Holm) nor beyond it.{more}"
    if p_holm <= ALPHA:
        as_claimed = (effect.value > 0) == (draft.wanted == "more")
        return ("supported" if as_claimed else "contradicted"), f"p = {p_holm:.3g} (Holm).{more}"
    least = min(1.0, effect.smallest_p * tests)
    limit = f" {tests} tests at this n cannot go below {least:.3g}." if least > ALPHA else ""
    return "cannot tell", f"p = {p_holm:.3g} (Holm).{limit}{more}"


def _range(draft: Draft) -> str:
    """Lowest and highest of the pairs, where there is no interval to show."""
    if len(draft.each) < 2:
        return ""
    low, high = (plain(draft.scale(end), draft.unit) for end in (min(draft.each), max(draft.each)))
    return f" Every pair: {low}." if low == high else f" Pairs from {low} to {high}."


def _named(draft: Draft) -> str:
    effect = draft.effect
    if effect is None:
        return "none"
    how = "sign flips of pairs" if effect.paired else "exchange of runs"
    exact = "exact" if effect.exact else "drawn"
    if isinstance(effect, Equivalence):
        return f"equivalence (TOST) by {exact} {how}, margin {effect.margin:g}"
    return f"{exact} {how}"
