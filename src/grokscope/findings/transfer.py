"""Finding 3: a mature circuit transfers poorly. After fine-tuning on new facts new-then-old queries work,
old-then-new and new-then-new do not although the bridge is recovered; fake-grokked models fail on all three.
"""

from collections.abc import Sequence
from typing import Literal

from grokscope.findings.drafts import rate_number
from grokscope.findings.published import paper_tuned
from grokscope.findings.rules import Draft, finding
from grokscope.findings.transfers import Transferred
from grokscope.findings.values import Finding, Number, plain
from grokscope.statistics.clustered import Rate
from grokscope.statistics.estimate import text
from grokscope.statistics.exact import difference, location
from grokscope.world.probes import MIXES

MATURE, FAKE = "natural", "second_hop_full"
"""The bases that are contrasted, fixed beforehand."""
WORKS = 0.5
"""A mix works, and a bridge is recovered, where it is so for most queries."""
TITLE = "A mature circuit transfers poorly"
HYPOTHESIS = (
    "After fine-tuning a grokked model on new facts, new-then-old queries are answered, old-then-new and "
    "new-then-new are not, although their bridge is recovered; a fake-grokked model answers none."
)
CLAIMS = {
    "3.1 new, old": "Mature models answer most new-then-old queries.",
    "3.2 old, new": "Mature models do not answer most old-then-new queries.",
    "3.3 new, new": "Mature models do not answer most new-then-new queries.",
    "3.4 bridge": "On old-then-new queries mature models still resolve most bridges.",
    "3.5 fake": f"{FAKE} models answer fewer new-then-old queries than mature ones.",
}
NOT_RUN = "the study has no finished transfer."
IMMATURE = "no mature base (none of the {n} {regime} bases answers OOD queries stably at 0.9)."


def transfer(found: Sequence[Transferred]) -> Finding:
    """Judge finding 3 on the finished transfers of a study; bases are those at their last checkpoint."""
    ends = [one for one in found if one.moment == "end"]
    natural = [one for one in ends if one.regime == MATURE]
    mature = [one for one in natural if one.mature]
    fake = [one for one in ends if one.regime == FAKE]
    notes = (
        [f"{len(mature)} of {len(natural)} {MATURE} bases are mature; only they count."] if natural else []
    )
    notes += [said for mix in MIXES[1:] if (said := _gap(mature, mix, MIXES[0]))]
    return finding(3, TITLE, HYPOTHESIS, _drafts(natural, mature, fake), notes)


def _drafts(
    natural: Sequence[Transferred], mature: Sequence[Transferred], fake: Sequence[Transferred]
) -> list[Draft]:
    new_old, old_new, new_new = MIXES
    works, less_old, less_new, bridge, fails = CLAIMS
    if not mature:
        said = NOT_RUN if not natural else IMMATURE.format(n=len(natural), regime=MATURE)
        missing: Literal["not run", "cannot tell"] = "cannot tell" if natural else "not run"
        return [Draft(key, CLAIMS[key], "less", None, "", "rate", said, missing) for key in CLAIMS]
    drafts = [
        _against(works, mature, new_old, "accuracy", "more"),
        _against(less_old, mature, old_new, "accuracy", "less"),
        _against(less_new, mature, new_new, "accuracy", "less"),
        _against(bridge, mature, old_new, "bridge", "more"),
    ]
    if not fake:
        said = f"the study has no finished transfer of {FAKE}."
        return [*drafts, Draft(fails, CLAIMS[fails], "less", None, "", "rate", said, "not run")]
    return [*drafts, _between(fails, fake, mature, new_old)]


def _against(
    key: str,
    bases: Sequence[Transferred],
    mix: str,
    what: Literal["accuracy", "bridge"],
    wanted: Literal["more", "less"],
) -> Draft:
    """A rate of one mix above a half, or below."""
    rates, said = _rates(bases, mix, what)
    column = "exact_match" if what == "accuracy" else "bridge_found_rate"
    paper = paper_tuned(MATURE, mix, column, f"{_name(mix)} {what}")
    groups = (_number(bases, mix, what),)
    outcome = None if said else location([rate.value for rate in rates], WORKS)
    return Draft(key, CLAIMS[key], wanted, outcome, _name(mix), "rate", said or f"Tested against {WORKS:g}.",
                 scale=lambda value: value + WORKS, groups=groups, paper=paper)  # fmt: skip


def _gap(bases: Sequence[Transferred], mix: str, other: str) -> str:
    """One mix less another within every base, as a sentence; empty: there is nothing to compare.

    How far a mix lags is shown and not tested: with enough runs any gap is significant, and a mix that is
    answered a little less often is answered.
    """
    one, two = (_rates(bases, name, "accuracy") for name in (mix, other))
    if not bases or one[1] or two[1]:
        return ""
    gap = difference([r.value for r in one[0]], [r.value for r in two[0]], paired=True)
    label = f"{_name(mix)} less {_name(other)}, mature bases"
    said = text(gap, lambda one: plain(one, "difference"))
    return f"{label}: {said} (mean over {gap.n[0]} bases, {gap.confidence:.0%} interval; not tested)."


def _between(key: str, fake: Sequence[Transferred], mature: Sequence[Transferred], mix: str) -> Draft:
    """A mix in bases of one regime below that in those of another; paired where seeds share their world."""
    one, two = ({base.seed: base for base in group} for group in (fake, mature))
    seeds = sorted(set(one) & set(two))
    paired = bool(seeds) and all(one[seed].world == two[seed].world for seed in seeds)
    if paired:
        fake, mature = [one[seed] for seed in seeds], [two[seed] for seed in seeds]
    first, second = (_rates(group, mix, "accuracy") for group in (fake, mature))
    said = first[1] or second[1]
    outcome = (
        None if said else difference([r.value for r in first[0]], [r.value for r in second[0]], paired=paired)
    )
    groups = tuple(_number(group, mix, "accuracy") for group in (fake, mature))
    paper = paper_tuned(FAKE, mix, "exact_match", f"{_name(mix)} accuracy")
    return Draft(key, CLAIMS[key], "less", outcome, f"{FAKE} less {MATURE}", "difference", said,
                 groups=groups, paper=paper)  # fmt: skip


def _rates(
    bases: Sequence[Transferred], mix: str, what: Literal["accuracy", "bridge"]
) -> tuple[list[Rate], str]:
    """The rates of all bases, or the sentence that says which have none."""
    known = [getattr(base, what).get(mix) for base in bases]
    lacking = [
        f"{base.regime} seed {base.seed}" for base, rate in zip(bases, known, strict=True) if rate is None
    ]
    word = "probes with known atoms" if what == "accuracy" else "resolved bridges"
    said = f"{_name(mix)} has no or too few {word} in {', '.join(lacking)}." if lacking else ""
    return [rate for rate in known if rate is not None], said


def _number(bases: Sequence[Transferred], mix: str, what: Literal["accuracy", "bridge"]) -> Number:
    rates = [getattr(base, what).get(mix) for base in bases]
    return rate_number(f"{_name(mix)} {what}, {bases[0].regime}", rates, [base.world for base in bases])


def _name(mix: str) -> str:
    return mix.replace("_", "-")
