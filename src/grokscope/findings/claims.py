"""The reference's three findings, each a list of claims: what is said, and how it is tested.

All of it is fixed here and in `rules.py` before any study is looked at. A further claim is one `Claim` in the
list of a finding, a further finding one `Finding` in `FINDINGS`.
"""

from collections.abc import Sequence
from typing import Literal

from grokscope.findings.comparisons import (
    delayed,
    later,
    rate_against,
    rate_number,
    rates_differ,
    same_path,
)
from grokscope.findings.measured import Evidence, Measured, Missing, of
from grokscope.findings.paper import paper_rate, paper_time, paper_tuned
from grokscope.findings.rules import Claim, Finding, Outcome
from grokscope.findings.transfers import Transferred
from grokscope.findings.values import Number, plain
from grokscope.mechanics.judge.diagnosis import VERDICT_SET
from grokscope.mechanics.judge.yardstick import SHARE
from grokscope.statistics.clustered import Rate
from grokscope.statistics.estimate import text
from grokscope.statistics.exact import difference, location
from grokscope.world.probes import MIXES

WAITED, SUPERVISED, FAKE = "natural", "both_hops_full", "second_hop_full"
"""The regimes that are contrasted, fixed beforehand."""
ID_SET = "test_iid"
GENERALISATION = f"generalisation.{VERDICT_SET}"
WORKS = 0.5
"""A mix works, and a bridge is recovered, where it is so for most queries."""


def _share(run: Measured) -> Rate | None:
    return run.share(VERDICT_SET)


def _found(run: Measured) -> Rate | None:
    return run.rate(VERDICT_SET, "bridge", "anywhere")


def _paper_rates(regimes: Sequence[str], label: str) -> tuple[Number, ...]:
    return tuple(one for regime in regimes for one in paper_rate(regime, "bridge_found_rate", label))


def _paper_found(*regimes: str) -> tuple[Number, ...]:
    column = "target_found_rate"
    return tuple(one for regime in regimes for one in paper_time(regime, column, 0.9, "target found 0.9"))


def _not_grokked(evidence: Evidence) -> list[str]:
    """Which runs are not mature, and where a tested run holds the bridge of OOD queries."""
    natural, full = (of(evidence.runs, regime) for regime in (WAITED, SUPERVISED))
    if not natural:
        return []
    notes = []
    waiting = [run.name for run in natural if run.has(GENERALISATION) and run.time(GENERALISATION).by is None]
    if waiting:
        notes.append(
            f"Not grokked: {', '.join(waiting)}. Where a path is compared all runs count, so this "
            "is then no comparison of mature models."
        )
    for run in [*natural, *full]:
        found = run.verdict.of(VERDICT_SET) if run.verdict else None
        if found is not None and found.path is not None:
            path = found.path
            where = f"{path.role}, {path.resolved} to {path.read}"
            notes.append(f"{run.name}: bridge of OOD queries held at {where}.")
    return notes


def _read_and_used(evidence: Evidence) -> list[str]:
    """Run by run: where the bridge of OOD queries can be read at the end, beside what goes through it."""
    notes = []
    for run in (run for regime in (FAKE, SUPERVISED, WAITED) for run in of(evidence.runs, regime)):
        found = run.verdict.of(VERDICT_SET) if run.verdict else None
        if found is None or found.lens_tokens is None:
            continue
        said = [
            f"{name} {text(rate, form='{} [{}, {}]', missing='-')}"
            for name, rate in (
                ("OOD accuracy", found.accuracy),
                ("bridge read at tokens (the paper's measure)", found.lens_tokens),
                ("registers too", found.lens_all),
                ("by a linear map", found.linear),
                ("share through it", found.share),
            )
        ]
        notes.append(f"{run.name}: {', '.join(said)}: {found.bridge}.")
    return notes


SAME_CIRCUIT = Finding(
    1,
    "Grokked and supervised models take one path",
    "The path of ID queries forms before training saturates; grokking brings OOD facts into it; full "
    "compositional supervision (both_hops_full) reaches the same path earlier.",
    [
        Claim("1.1 early",
              f"In {WAITED} runs the bridge is decoded on held-out ID queries before training saturates.",
              "more",
              lambda e: later(e[WAITED], "saturation", e[WAITED], f"bridge_before_last.{ID_SET}")),
        Claim("1.2 late", f"OOD queries are answered later in {WAITED} than in {SUPERVISED}.", "more",
              lambda e: later(e[WAITED], GENERALISATION, e[SUPERVISED], GENERALISATION,
                              _paper_found(WAITED, SUPERVISED))),
        Claim("1.3 inside", f"At the end of {WAITED} runs, OOD queries take the path of ID queries.", "same",
              lambda e: same_path(e[WAITED], e[WAITED], (ID_SET, VERDICT_SET))),
        Claim("1.4 across",
              f"At the end, OOD queries take the same path in {WAITED} and {SUPERVISED}.", "same",
              lambda e: same_path(e[WAITED], e[SUPERVISED], (VERDICT_SET, VERDICT_SET))),
        Claim("1.5 used",
              f"The same share of OOD answers goes through the bridge in {WAITED} and {SUPERVISED}.", "same",
              lambda e: rates_differ(e[WAITED], e[SUPERVISED], _share, "share through the bridge", SHARE,
                                     _paper_rates((WAITED, SUPERVISED), "bridge found (not its use)"))),
    ],
    (WAITED, SUPERVISED),
    _not_grokked,
)  # fmt: skip
"""One inference path. It forms early on ID queries, later training brings the OOD facts into it, and full
compositional supervision reaches the same path without the wait."""

FAKE_GROKKING = Finding(
    2,
    "Behaviour and circuit come apart (fake grokking)",
    "second_hop_full reaches OOD accuracy late, as if it grokked, while the bridge is recovered less than in "
    "both_hops_full and most OOD answers do not go through it.",
    [
        Claim("2.1 late", f"OOD queries are answered later in {FAKE} than in {SUPERVISED}.", "more",
              lambda e: later(e[FAKE], GENERALISATION, e[SUPERVISED], GENERALISATION)),
        Claim("2.2 curve",
              f"In {FAKE} OOD accuracy comes after a delay: later than twice saturation.", "more",
              lambda e: delayed(e[FAKE], (*paper_time(FAKE, "train_accuracy", 0.99, "saturation"),
                                          *_paper_found(FAKE)))),
        Claim("2.3 bridge",
              f"At the end the bridge is found on fewer OOD queries in {FAKE} than in {SUPERVISED}.", "less",
              lambda e: rates_differ(e[FAKE], e[SUPERVISED], _found, "bridge found anywhere",
                                     paper=_paper_rates((FAKE, SUPERVISED), "bridge found anywhere"))),
        Claim("2.4 used", f"In {FAKE} less than half of the right OOD answers go through the bridge.", "less",
              lambda e: rate_against(e[FAKE], _share, "share through the bridge", 0.5)),
    ],
    (FAKE, SUPERVISED),
    _read_and_used,
)  # fmt: skip
"""With the second hop alone supervised a model shows the grokking curve while the bridge is mostly not
recovered."""

What = Literal["accuracy", "bridge"]


def bases(evidence: Evidence, regime: str) -> list[Transferred]:
    """The bases of a regime, taken at their last checkpoint."""
    return [one for one in evidence.tuned if one.moment == "end" and one.regime == regime]


def _mature(evidence: Evidence) -> list[Transferred]:
    """The mature bases among those that waited; `Missing` if there is none."""
    waited = bases(evidence, WAITED)
    if not waited:
        raise Missing("the study has no finished transfer.")
    found = [one for one in waited if one.mature]
    if not found:
        said = f"no mature base (none of the {len(waited)} {WAITED} bases answers OOD queries stably at 0.9)."
        raise Missing(said, "cannot tell")
    return found


def _most(mature: Sequence[Transferred], mix: str, what: What) -> Outcome:
    """A rate of one mix against a half."""
    rates, said = _tuned_rates(mature, mix, what)
    column = "exact_match" if what == "accuracy" else "bridge_found_rate"
    paper = paper_tuned(WAITED, mix, column, f"{_name(mix)} {what}")
    outcome = None if said else location([rate.value for rate in rates], WORKS)
    return Outcome(outcome, _name(mix), "rate", said or f"Tested against {WORKS:g}.",
                  scale=lambda value: value + WORKS, groups=(_tuned_number(mature, mix, what),),
                  paper=paper)  # fmt: skip


def _fewer(mature: Sequence[Transferred], fake: Sequence[Transferred], mix: str) -> Outcome:
    """A mix in fake-grokked bases less that in mature ones; paired where seeds share their world."""
    if not fake:
        raise Missing(f"the study has no finished transfer of {FAKE}.")
    one, two = ({base.seed: base for base in group} for group in (fake, mature))
    seeds = sorted(set(one) & set(two))
    paired = bool(seeds) and all(one[seed].world == two[seed].world for seed in seeds)
    if paired:
        fake, mature = [one[seed] for seed in seeds], [two[seed] for seed in seeds]
    first, second = (_tuned_rates(group, mix, "accuracy") for group in (fake, mature))
    said = first[1] or second[1]
    outcome = (
        None if said else difference([r.value for r in first[0]], [r.value for r in second[0]], paired=paired)
    )
    groups = tuple(_tuned_number(group, mix, "accuracy") for group in (fake, mature))
    paper = paper_tuned(FAKE, mix, "exact_match", f"{_name(mix)} accuracy")
    return Outcome(outcome, f"{FAKE} less {WAITED}", "difference", said, groups=groups, paper=paper)


def _tuned_rates(bases: Sequence[Transferred], mix: str, what: What) -> tuple[list[Rate], str]:
    """The rates of all bases, or the sentence that says which have none."""
    known = [getattr(base, what).get(mix) for base in bases]
    lacking = [
        f"{base.regime} seed {base.seed}" for base, rate in zip(bases, known, strict=True) if rate is None
    ]
    word = "probes with known atoms" if what == "accuracy" else "resolved bridges"
    said = f"{_name(mix)} has no or too few {word} in {', '.join(lacking)}." if lacking else ""
    return [rate for rate in known if rate is not None], said


def _tuned_number(bases: Sequence[Transferred], mix: str, what: What) -> Number:
    rates = [getattr(base, what).get(mix) for base in bases]
    return rate_number(f"{_name(mix)} {what}, {bases[0].regime}", rates, [base.world for base in bases])


def _gap(bases: Sequence[Transferred], mix: str, other: str) -> str:
    """One mix less another within every base, as a sentence; empty: there is nothing to compare.

    How far a mix lags is shown and not tested: with enough runs any gap is significant, and a mix that is
    answered a little less often is answered.
    """
    one, two = (_tuned_rates(bases, name, "accuracy") for name in (mix, other))
    if not bases or one[1] or two[1]:
        return ""
    gap = difference([r.value for r in one[0]], [r.value for r in two[0]], paired=True)
    label = f"{_name(mix)} less {_name(other)}, mature bases"
    said = text(gap, lambda one: plain(one, "difference"))
    return f"{label}: {said} (mean over {gap.n[0]} bases, {gap.confidence:.0%} interval; not tested)."


def _name(mix: str) -> str:
    return mix.replace("_", "-")


def _maturity(evidence: Evidence) -> list[str]:
    waited = bases(evidence, WAITED)
    mature = [one for one in waited if one.mature]
    notes = [f"{len(mature)} of {len(waited)} {WAITED} bases are mature; only they count."] if waited else []
    return [*notes, *(said for mix in MIXES[1:] if (said := _gap(mature, mix, MIXES[0])))]


NEW_OLD, OLD_NEW, NEW_NEW = MIXES
TRANSFER = Finding(
    3,
    "A mature circuit transfers poorly",
    "After fine-tuning a grokked model on new facts, new-then-old queries are answered, old-then-new and "
    "new-then-new are not, although their bridge is recovered; a fake-grokked model answers none.",
    [
        Claim("3.1 new, old", "Mature models answer most new-then-old queries.", "more",
              lambda e: _most(_mature(e), NEW_OLD, "accuracy")),
        Claim("3.2 old, new", "Mature models do not answer most old-then-new queries.", "less",
              lambda e: _most(_mature(e), OLD_NEW, "accuracy")),
        Claim("3.3 new, new", "Mature models do not answer most new-then-new queries.", "less",
              lambda e: _most(_mature(e), NEW_NEW, "accuracy")),
        Claim("3.4 bridge", "On old-then-new queries mature models still resolve most bridges.", "more",
              lambda e: _most(_mature(e), OLD_NEW, "bridge")),
        Claim("3.5 fake", f"{FAKE} models answer fewer new-then-old queries than mature ones.", "less",
              lambda e: _fewer(_mature(e), bases(e, FAKE), NEW_OLD)),
    ],
    (WAITED, FAKE),
    _maturity,
)  # fmt: skip
"""After fine-tuning on new facts new-then-old queries work, old-then-new and new-then-new do not although the
bridge is recovered; fake-grokked models fail on all three."""

FINDINGS = [SAME_CIRCUIT, FAKE_GROKKING, TRANSFER]
"""What is judged of a study, in this order."""
