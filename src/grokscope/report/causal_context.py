"""What interventions said, as the plain values the HTML template prints."""

from collections import Counter

import polars as pl

from grokscope.mechanics.judge.diagnosis import VERDICT_SET
from grokscope.report.summary import over_seeds, steps_text
from grokscope.report.tables import RunView
from grokscope.statistics.estimate import WITH_N, rate_text, text


def causal_groups(runs: list[RunView]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """What interventions said of every examined probe set, at the last checkpoint and on the way there."""
    sets = dict.fromkeys(
        (one.probe_set, one.latent) for run in runs if run.verdict for one in run.verdict.sets
    )
    groups = []
    for name, latent in sets:
        found = [run.verdict.of(name, latent=latent) if run.verdict else None for run in runs]
        rows = [("mechanism", [one.mechanism if one else "not tested" for one in found])]
        for head, rates in (
            ("share through the bridge", [one.share if one else None for one in found]),
            ("path sufficient", [one.sufficient if one else None for one in found]),
            ("path necessary", [one.necessary if one else None for one in found]),
        ):
            rows.append((head, [text(rate, rate_text, form=WITH_N, missing="cannot tell") for rate in rates]))
        paths = [one.path if one else None for one in found]
        rows.append(("bridge held at", [f"{p.role}, {p.resolved} to {p.read}" if p else "-" for p in paths]))
        rows.append(("the share on the way", [_share_course(run, name, latent) for run in runs]))
        groups.append((f"Causal test, {name}{f', {latent}' if latent else ''}", rows))
    return groups


def causal_sentences(runs: list[RunView]) -> list[str]:
    """The causal verdict of a regime as a finding; nothing where nothing was intervened on."""
    verdicts = [run.verdict for run in runs if run.verdict]
    if not verdicts:
        return []
    found = Counter(one.verdict for one in verdicts).most_common()
    several = len(verdicts) > 1
    counts = ", ".join(f"{name}{f' in {n} of {len(verdicts)} runs' if several else ''}" for name, n in found)
    outer = [one.of(VERDICT_SET) for one in verdicts]
    shares = [one.share if one else None for one in outer]
    share = f"the share of right OOD answers that go through the bridge is {over_seeds(shares)}"
    return [f"By interventions: {counts}; {share if any(shares) else 'too few OOD queries can be tested'}."]


def causal_reasons(runs: list[RunView]) -> list[str]:
    """Why every run has its causal verdict: what the OOD queries said."""
    found = [(run.name, run.verdict, run.verdict.of(VERDICT_SET)) for run in runs if run.verdict]
    return [
        f"{name}, by interventions: {verdict.verdict}. On {VERDICT_SET} {outer.mechanism}: {outer.reason}"
        for name, verdict, outer in found
        if outer
    ]


def _share_course(run: RunView, probe_set: str, latent: str | None) -> str:
    """`0.10 (step 3,200), 0.97 (step 16,000)`."""
    sets = run.verdict.sets if run.verdict else ()
    shares = [(one.step, one.share) for one in sets if (one.probe_set, one.latent) == (probe_set, latent)]
    texts = [
        f"{'-' if share is None else rate_text(share.value)} (step {steps_text(step)})"
        for step, share in shares
    ]
    return ", ".join(texts) or "-"


def causal_note(causal: pl.DataFrame) -> str:
    """How to read the causal panel, and on how many queries it rests."""
    said = (
        "Left: share of queries with the bridge as top token. Middle and right: how often the answer becomes "
        "that of another bridge put in there; ?: too few queries can be tested."
    )
    if not len(causal):
        return said
    tested = causal.filter(pl.col("arm") == "bridge")
    counts = [
        f"{name}: {span(tested.filter(pl.col('probe_set') == name)['n'])}"
        for name in tested["probe_set"].unique(maintain_order=True)
    ]
    runs = causal["run"].n_unique()
    return f"{said} Tested queries: {', '.join(counts)}{f'; mean over {runs} runs' if runs > 1 else ''}."


def span(values: pl.Series) -> str:
    """Smallest to largest, or the one value."""
    low, high = int(values.min()), int(values.max())  # type: ignore[arg-type]
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
