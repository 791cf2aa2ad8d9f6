"""What is said of a finding, as plain values: numbers with intervals, claims with tests, findings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from grokscope.spec import Stored
from grokscope.statistics.estimate import Estimate, Spread, rate_text, text

Result: TypeAlias = Literal["supported", "contradicted", "cannot tell", "descriptive", "not run"]
Unit: TypeAlias = Literal["rate", "difference", "step", "factor", "margins"]
"""A rate from 0 to 1; a difference of rates; a training step; times as late; margins of a path comparison."""


@dataclass(frozen=True)
class Number(Spread):
    """A number with its interval, and what it rests on."""

    label: str
    unit: Unit
    value: Estimate | None
    """None: it does not exist (an event that no run reached)."""
    n: str
    """In words: "3 runs, 742 probes"."""
    note: str = ""


@dataclass(frozen=True)
class ClaimResult:
    """One claim with its test."""

    key: str
    hypothesis: str
    test: str
    result: Result
    reason: str
    """A sentence."""
    effect: Number | None
    p_value: float | None
    p_holm: float | None
    """Corrected over all tests of the finding."""
    runs: tuple[int, ...]
    """Per group."""
    groups: tuple[Number, ...]
    """What is compared."""
    paper: tuple[Number, ...]
    """The same in the reference, with the interval that its n implies."""


@dataclass(frozen=True)
class FindingResult:
    """One of the reference's findings, judged by its claims."""

    number: int
    title: str
    hypothesis: str
    result: Result
    """Supported: all claims are. Contradicted: any is."""
    reason: str
    claims: tuple[ClaimResult, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings(Stored):
    """All findings on a study."""

    CALLED: ClassVar[str] = "findings"

    study: str
    family: str
    confidence: float
    varies: tuple[str, ...]
    """The random streams that differ between seeds."""
    seeds: Mapping[str, tuple[int, ...]]
    """Finished runs by regime."""
    findings: tuple[FindingResult, ...]
    notes: tuple[str, ...]


def number_text(number: Number | None) -> str:
    """`0.36 [0.30, 0.43]`, in the number's unit and with its note."""
    if number is None:
        return ""
    if number.value is None:
        return number.note or "not reached"
    return f"{number.note} {text(number.value, lambda one: plain(one, number.unit))}".lstrip()


def plain(value: float, unit: Unit) -> str:
    """A number alone, as its unit is written."""
    if unit == "step":
        return f"{value:,.0f}"
    if unit == "difference":
        return f"{value:+.3f}" if abs(value) < 0.01 else f"{value:+.2f}"
    if unit == "factor":
        return f"{value:.1f} ×"
    if unit == "margins":
        return f"{value:.2f} margins"
    return rate_text(value)
