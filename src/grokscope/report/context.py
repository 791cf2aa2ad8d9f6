"""The measured study as the plain values the HTML template prints. No markup is made here, and no number is computed
that a table does not hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from grokscope.report.paper import CITATION, PaperCurve
from grokscope.report.summary import (
    behaviours,
    event_over_seeds,
    event_text,
    over_seeds,
    sentences,
    steps_text,
    value_at,
)
from grokscope.report.tables import ACCURACY, ANYWHERE, CELL, GUESS, RunView, StudyView, latents, select

EVENT_NAMES = {
    "train_inferred": "trained compositions",
    "id_atomic": "ID facts",
    "ood_atomic": "OOD facts",
    "saturation": "all three: saturation",
}
"""How events are headed in the table; others keep their name."""


@dataclass(frozen=True)
class Picture:
    """One figure in the page: its data URI, what it shows, and the files it is also in."""

    name: str
    uri: str
    alt: str
    caption: str


def counts(curves: pl.DataFrame, probes: str) -> str:
    """`n = 412 queries on 98 facts, 3 seeds`; ranges where seeds differ."""
    rows = curves.filter((pl.col("probes") == probes) & pl.col("n").is_not_null())
    if not len(rows):
        return "n: not measured"
    queries = _span(rows["n"])
    facts = rows["facts"].drop_nulls()
    on = f" resting on {_span(facts)} facts" if len(facts) else ""
    seeds = rows["run"].n_unique()
    return f"n = {queries} queries{on}{' per seed' if seeds > 1 else ''}, {seeds} seed{'s' if seeds > 1 else ''}"


def _span(values: pl.Series) -> str:
    low, high = int(values.min()), int(values.max())  # type: ignore[arg-type]
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def own_saturation(view: StudyView, regime: str) -> dict[str, int]:
    """By run: when its trained compositions alone were learned, which is what the paper's saturation is."""
    rows = view.events.filter((pl.col("regime") == regime) & (pl.col("event") == "train_inferred"))
    return {row["run"]: row["step"] for row in rows.to_dicts() if row["step"]}


def paper_note(view: StudyView, regime: str, paper: PaperCurve | None) -> str:
    """What stands beside what, and why something does not."""
    ours, runs = own_saturation(view, regime), view.of(regime)
    if paper is None:
        said = f"The paper published no pretraining curve for {regime}."
    elif paper.saturation is None:
        said = "The published run never reaches a training accuracy of 0.99, so its time has no scale."
    else:
        said = (
            f"Dashed: the paper’s run ({CITATION}; one seed, 2,000 entities), which saturates at step "
            f"{steps_text(paper.saturation)}. Its “final answer accuracy” is the target-found rate, so it stands "
            "beside ours, not beside exact accuracy."
        )
    if not ours:
        said += " No run of ours kept its trained compositions at the threshold, so ours cannot be scaled and is not drawn."
    elif len(ours) < len(runs):
        said += f" {len(ours)} of our {len(runs)} runs saturated; the others are not drawn."
    return said + (f" {paper.doubt}" if paper and paper.doubt else "")


def overview_rows(view: StudyView) -> list[dict[str, Any]]:
    """One row per regime for the table at the top."""
    rows = []
    for regime in view.regimes:
        names = [run.name for run in view.of(regime)]
        curves = view.curves.filter(pl.col("regime") == regime)
        names_of_latents = latents(view.curves)
        rows.append(
            {
                "regime": regime,
                "seeds": len(names),
                "saturation": event_over_seeds(view, regime, "saturation"),
                "ood": over_seeds([value_at(curves, name, ACCURACY) for name in names]),
                "guess": over_seeds([value_at(curves, name, GUESS) for name in names]),
                "latents": [
                    over_seeds([value_at(curves, name, ANYWHERE, latent) for name in names])
                    for latent in names_of_latents
                ],
                "behaviours": behaviours(view, regime),
            }
        )
    return rows


def run_rows(view: StudyView, regime: str) -> tuple[list[str], list[dict[str, Any]]]:
    """(event headings, one row per run) for the phases and diagnosis table of a regime."""
    events = view.events.filter(pl.col("regime") == regime)
    names = events["event"].unique(maintain_order=True).to_list()
    rows = []
    for run in view.of(regime):
        steps = {row["event"]: row for row in events.filter(pl.col("run") == run.name).to_dicts()}
        when = [event_text(steps[n]["step"], steps[n]["last_step"]) if n in steps else "not measured" for n in names]
        rows.append({"run": run, "when": when, "numbers": _numbers(view, run, steps.get("saturation"))})
    return [EVENT_NAMES.get(name, name) for name in names], rows


NUMBER_HEADS = ("OOD accuracy at saturation", "OOD accuracy at the end", "guess baseline", "answer found at the end")


def _numbers(view: StudyView, run: RunView, saturation: Mapping[str, Any] | None) -> list[str]:
    reached = saturation["step"] if saturation else None
    values = [
        value_at(view.curves, run.name, ACCURACY, step=reached) if reached is not None else None,
        value_at(view.curves, run.name, ACCURACY),
        value_at(view.curves, run.name, GUESS),
        value_at(view.curves, run.name, ANYWHERE, "answer"),
    ]
    for latent in latents(view.curves):
        values += [value_at(view.curves, run.name, measure, latent) for measure in (ANYWHERE, CELL)]
    texts = [value.text if value else "not measured" for value in values]
    if reached is None:
        texts[0] = "no saturation"
    return texts


def number_heads(view: StudyView) -> list[str]:
    """Headings of the numbers in `run_rows`."""
    found = [head for latent in latents(view.curves) for head in (f"{latent} found", f"{latent}, one cell")]
    return [*NUMBER_HEADS, *found]


def supervision(run: RunView) -> str:
    """A regime in words: which share of OOD facts is composed in training."""
    regime = run.spec.get("regime", {})
    parts = []
    for hop, name in (("hop1", "first"), ("hop2", "second")):
        ratio, k = regime.get(f"{hop}_ratio", 0), regime.get(f"{hop}_k", 0)
        if ratio and k:
            times = "phi" if k == "full" else k
            parts.append(f"{ratio:.0%} of the OOD facts as {name} hop, up to {times} compositions each")
    if not parts:
        return "OOD facts are trained as single facts only, never in a composition."
    return f"Compositions of OOD facts in training: {'; '.join(parts)}."


def config_rows(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Leaves of a spec as (dotted field, value)."""
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            rows += config_rows(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", _plain(value)))
    return rows


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def regime_context(view: StudyView, regime: str, pictures: list[Picture]) -> dict[str, Any]:
    """Everything the template prints about one regime."""
    runs = view.of(regime)
    heads, rows = run_rows(view, regime)
    curves = view.curves.filter(pl.col("regime") == regime)
    last = select(curves, ACCURACY, probes="test_ood")["step"].max() if len(curves) else None
    return {
        "name": regime,
        "supervision": supervision(runs[0]),
        "seeds": ", ".join(str(run.seed) for run in runs),
        "several": len(runs) > 1,
        "last_step": steps_text(int(last)) if last is not None else "none",  # type: ignore[arg-type]
        "sentences": sentences(view, regime),
        "pictures": pictures,
        "event_heads": heads,
        "number_heads": number_heads(view),
        "rows": rows,
        "notes": [f"{run.name}: {note}" for run in runs for note in run.notes],
        "config": [(run.name, config_rows(run.spec)) for run in runs],
        "manifests": [(run.name, config_rows(run.manifest)) for run in runs],
    }


def page_context(view: StudyView, overview: Picture | None, regimes: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything the template prints."""
    return {
        "view": view,
        "overview": overview,
        "overview_rows": overview_rows(view),
        "latents": latents(view.curves),
        "regimes": regimes,
        "config": config_rows(view.spec),
        "citation": CITATION,
        "confidence": f"{view.confidence:.0%}",
    }


