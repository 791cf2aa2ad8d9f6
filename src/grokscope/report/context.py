"""The measured study as the plain values the HTML template prints.

No markup is made here, and no number is computed that a table does not hold.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from grokscope.findings.paper import CITATION, PaperCurve
from grokscope.report.causal_context import causal_groups, causal_reasons, causal_sentences, span
from grokscope.report.summary import (
    behaviours,
    event_over_seeds,
    event_text,
    over_seeds,
    sentences,
    steps_text,
    value_at,
    value_text,
)
from grokscope.report.tables import (
    ACCURACY,
    ANYWHERE,
    CELL,
    CELL_EARLY,
    CHANCE,
    GUESS,
    MOMENTS,
    RunView,
    StudyView,
    latents,
    select,
)
from grokscope.statistics.estimate import WITH_N, rate_text, text

EVENT_NAMES = {
    "saturation.train_inferred": "trained compositions learned",
    "saturation.id_atomic": "ID facts learned",
    "saturation.ood_atomic": "OOD facts learned",
    "saturation": "all three: saturation",
    "{latent}.test_ood": "{latent} in one cell",
    "{latent}_before_last.test_ood": "{latent} in one early cell",
    "half.test_ood": "OOD accuracy half-way",
    "generalisation.test_ood": "OOD generalisation",
    "generalisation_atoms_known.test_ood": "OOD generalisation, both facts known",
    "target_found.test_ood": "target found anywhere",
}
"""The events of the table, in its order, and how they are headed; events.csv holds all there are."""


@dataclass(frozen=True)
class Picture:
    """One figure in the page: its data URI, what it shows, and the files it is also in."""

    name: str
    uri: str
    alt: str
    caption: str
    width: int
    """Pixels at which its text has the size of the page's."""


def counts(curves: pl.DataFrame, probes: str) -> str:
    """`n = 412 queries on 98 facts, 3 seeds`; ranges where seeds differ."""
    rows = curves.filter((pl.col("probes") == probes) & pl.col("n").is_not_null())
    if not len(rows):
        return "n: not measured"
    queries = span(rows["n"])
    facts = rows["facts"].drop_nulls()
    on = f" resting on {span(facts)} facts" if len(facts) else ""
    seeds = rows["seed"].n_unique()
    return (
        f"n = {queries} queries{on}{' per run' if seeds > 1 else ''}, {seeds} seed{'s' if seeds > 1 else ''}"
    )


def own_saturation(view: StudyView, regime: str) -> dict[str, int]:
    """By run: when its trained compositions alone were learned, which is what the paper's saturation is."""
    rows = view.events.filter((pl.col("regime") == regime) & (pl.col("event") == "saturation.train_inferred"))
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
            f"{steps_text(paper.saturation)}. Its “final answer accuracy” is the target-found rate, so it "
            "stands beside ours, not beside exact accuracy."
        )
    if not ours:
        said += (
            " No run of ours kept its trained compositions at the threshold, so none can be scaled or drawn."
        )
    elif len(ours) < len(runs):
        said += f" {len(ours)} of our {len(runs)} runs saturated; the others are not drawn."
    return said + (f" {paper.doubt}" if paper and paper.doubt else "")


def map_note(rows: pl.DataFrame, variable: str) -> str:
    """What the emergence maps of a variable show, on how many queries, and which moment is missing."""
    said = f"Share of test_ood queries with the {variable} as top token, by stage (input at the bottom)."
    if not len(rows):
        return said
    runs = rows["run"].n_unique()
    said += f" n = {span(rows['n'])} queries" + (f" per run, mean over {runs} runs." if runs > 1 else ".")
    missing = [moment for moment in MOMENTS if moment not in set(rows["moment"].to_list())]
    return said + (f" Not reached: {', '.join(missing)}." if missing else "")


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
                "verdicts": Counter(run.mechanism for run in view.of(regime)).most_common(),
            }
        )
    return rows


def run_table(view: StudyView, regime: str) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Phases, diagnosis and numbers of a regime: (group, rows), a row being (heading, one cell per run)."""
    runs = view.of(regime)
    events = view.events.filter(pl.col("regime") == regime)
    found = [
        (name.format(latent=latent), head.format(latent=latent))
        for name, head in EVENT_NAMES.items()
        for latent in (latents(view.curves) if "{latent}" in name else [""])
    ]
    phases = []
    for name, head in found:
        steps = {row["run"]: row for row in events.filter(pl.col("event") == name).to_dicts()}
        if steps:
            level = next(iter(steps.values()))["threshold"]
            phases.append((f"{head}, at {level:g}", [_when(steps.get(run.name)) for run in runs]))
    groups = [("Diagnosis", [("behaviour", [run.behaviour for run in runs]),
                             ("causal verdict", [run.mechanism for run in runs])])]  # fmt: skip
    groups += causal_groups(runs)
    if phases:
        groups.append(("Phases: step at which a level is reached to stay", phases))
    return [*groups, ("OOD queries (test_ood)", _numbers(view, regime, runs))]


def _when(event: dict[str, Any] | None) -> str:
    return event_text(event["step"], event["last_step"]) if event else "not measured"


def _numbers(view: StudyView, regime: str, runs: list[RunView]) -> list[tuple[str, list[str]]]:
    """The numbers of every run, each with its interval."""
    saturation = view.events.filter((pl.col("regime") == regime) & (pl.col("event") == "saturation"))
    at = dict(saturation.select("run", "step").iter_rows())

    def row(head: str, measure: str, variable: str = "") -> tuple[str, list[str]]:
        return head, [value_text(value_at(view.curves, run.name, measure, variable)) for run in runs]

    reached = [(run.name, at.get(run.name)) for run in runs]
    first = [
        None if step is None else value_at(view.curves, run, ACCURACY, step=step) for run, step in reached
    ]
    rows = [
        ("accuracy at saturation", [text(value, rate_text, missing="no saturation") for value in first]),
        row("accuracy at the end", ACCURACY),
        row("guess baseline", GUESS),
        row("target found at the end", ANYWHERE, "answer"),
    ]
    for latent in latents(view.curves):
        rows += [
            row(f"{latent} found at the end", ANYWHERE, latent),
            row("the same for a control entity: chance", CHANCE, latent),
            row(f"{latent} in one cell", CELL, latent),
            row(f"{latent} in one early cell", CELL_EARLY, latent),
        ]
    rows.append(
        (
            "accuracy, both facts known",
            [text(run.atoms_known, rate_text, missing="too few such queries") for run in runs],
        )
    )
    for kind in dict.fromkeys(kind for run in runs for kind in run.by_injection):
        cells = [run.by_injection.get(kind) for run in runs]
        texts = [text(rate, rate_text, form=WITH_N, missing="no such query") for rate in cells]
        rows.append((f"accuracy, injected: {kind}", texts))
    return rows


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
    curves = view.curves.filter(pl.col("regime") == regime)
    last = select(curves, ACCURACY, probes="test_ood")["step"].max() if len(curves) else None
    return {
        "name": regime,
        "supervision": supervision(runs[0]),
        "seeds": ", ".join(str(run.seed) for run in runs),
        "several": len(runs) > 1,
        "last_step": steps_text(int(last)) if last is not None else "none",  # type: ignore[arg-type]
        "sentences": [*sentences(view, regime), *causal_sentences(runs)],
        "pictures": pictures,
        "runs": [run.name for run in runs],
        "table": run_table(view, regime),
        "reasons": [f"{run.name}: {run.reason}" for run in runs if run.reason] + causal_reasons(runs),
        "notes": [f"{run.name}: {note}" for run in runs for note in run.notes],
        "config": [(run.name, config_rows(run.spec)) for run in runs],
        "manifests": [(run.name, config_rows(run.manifest)) for run in runs],
    }


def page_context(view: StudyView, above: list[Picture], regimes: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything the template prints."""
    return {
        "view": view,
        "above": above,
        "overview_rows": overview_rows(view),
        "latents": latents(view.curves),
        "regimes": regimes,
        "config": config_rows(view.spec),
        "citation": CITATION,
        "confidence": f"{view.confidence:.0%}",
    }
