"""Synthetic studies for the report: courses with the shapes the reference published, as tidy tables."""

from typing import Any

import numpy as np

from grokscope.report.tables import CURVES, EMERGENCE, EVENTS, RunView, StudyView, table
from grokscope.statistics.clustered import Rate
from grokscope.statistics.estimate import Estimate
from grokscope.world.spec import REGIMES, Regime

STEPS = [0, *range(100, 1000, 100), *(int(1000 * 2 ** (k / 4)) for k in range(13))]
STAGES = ["embed", *(f"loop{i}.layer{j}" for i in range(3) for j in range(2))]
POSITIONS = ["head", "relation1", "relation2"]

# regime: (saturation, OOD rise step or None, OOD end, bridge rise, bridge end)
SHAPES: dict[str, tuple[float, float | None, float, float, float]] = {
    "natural": (1800, 5000, 0.92, 3500, 0.99),
    "both_hops_full": (1500, 900, 0.95, 800, 1.0),
    "both_hops_half": (1600, 3000, 0.5, 1500, 0.9),
    "first_hop_full": (1700, None, 0.2, 900, 1.0),
    "second_hop_full": (1700, 2500, 0.8, 4000, 0.25),
}


def rise(steps: np.ndarray, middle: float, end: float, start: float = 0.0, width: float = 0.25) -> np.ndarray:
    """A logistic rise in log step."""
    return start + (end - start) / (1 + np.exp(-(np.log(steps + 1) - np.log(middle)) / width))


def first_at(step: float) -> int | None:
    """The first checkpoint from a step on."""
    return next((checkpoint for checkpoint in STEPS if checkpoint >= step), None)


def run_tables(
    regime: str, seed: int, saturates: bool = True
) -> tuple[RunView, list[Any], list[Any], list[Any]]:
    rng = np.random.default_rng([seed, len(regime)])
    steps = np.array(STEPS, dtype=float)
    saturation, grok, ood_end, bridge_at, bridge_end = SHAPES.get(regime, SHAPES["natural"])
    jitter = float(np.exp(rng.normal(0, 0.12)))
    name = f"{regime}-s{seed}"
    key = {"run": name, "regime": regime, "seed": seed}
    train = rise(steps, saturation * jitter * 0.4, 1.0 if saturates else 0.93)
    ood = rise(steps, (grok or 900) * jitter, ood_end, 0.0)
    bridge = rise(steps, bridge_at * jitter, bridge_end, 0.06)
    lines: list[tuple[str, str, str, np.ndarray, bool]] = [
        ("train_inferred", "accuracy", "", train, False),
        ("id_atomic", "accuracy", "", rise(steps, 300, 1.0), False),
        ("ood_atomic", "accuracy", "", rise(steps, 600, 1.0), False),
        ("test_iid", "accuracy", "", rise(steps, saturation * 0.5, 0.97), True),
        ("test_ood", "accuracy", "", np.maximum(0.09 * rise(steps, 200, 1), ood), True),
        ("first_hop_ood", "accuracy", "", rise(steps, 2000, 0.95), True),
        ("second_hop_ood", "accuracy", "", rise(steps, 4000, min(1.0, ood_end + 0.05)), True),
        ("test_ood", "guess", "", np.full(len(steps), 0.1), False),
        ("test_ood", "anywhere", "bridge", bridge, True),
        ("test_ood", "chance", "bridge", np.full(len(steps), 0.07), True),
        ("test_ood", "cell", "bridge", bridge * 0.9, True),
        ("test_ood", "cell_before_last", "bridge", bridge * 0.85, True),
        ("test_ood", "anywhere", "answer", np.minimum(1, ood + 0.05), True),
        ("test_ood", "chance", "answer", np.full(len(steps), 0.07), True),
    ]
    curves = []
    for probes, measure, variable, values, band in lines:
        noisy = np.clip(values + (0 if measure == "guess" else rng.normal(0, 0.008, len(steps))), 0, 1)
        half = 0.05 * np.sqrt(4 * noisy * (1 - noisy)) + 0.01
        for step, value, spread in zip(STEPS, noisy, half, strict=True):
            low, high = (max(0.0, value - spread), min(1.0, value + spread)) if band else (None, None)
            row = {"step": step, "probes": probes, "measure": measure, "variable": variable}
            rates = {"value": float(value), "low": low, "high": high, "n": 412, "facts": 98}
            curves.append({**key, **row, **rates})
    emergence = []
    moments = {"early": 200, "saturation": 1800, "end": 8000}
    if not saturates:
        moments.pop("saturation")
    for moment, step in moments.items():
        for variable, peak in (("bridge", (3, 1)), ("answer", (6, 2))):
            for i, stage in enumerate(STAGES):
                for j, position in enumerate(POSITIONS):
                    near = np.exp(-((i - peak[0]) ** 2) / 4 - 2 * (j - peak[1]) ** 2)
                    rate = float(near * np.interp(step, STEPS, bridge if variable == "bridge" else ood))
                    when = {"moment": moment, "step": step, "probes": "test_ood", "variable": variable}
                    where = {"stage_index": i, "stage": stage, "position_index": j, "position": position}
                    emergence.append({**key, **when, **where, "rate": rate, "n": 412})
    reached = first_at(saturation * jitter) if saturates else None
    happened = {
        "saturation": reached,
        "saturation.train_inferred": reached,
        "saturation.id_atomic": 700,
        "saturation.ood_atomic": first_at(saturation * 0.9),
        "bridge.test_ood": first_at(bridge_at * 1.5) if bridge_end > 0.9 else None,
        "generalisation.test_ood": first_at(grok * jitter * 1.6) if grok and ood_end > 0.9 else None,
    }
    events = [
        {**key, "event": event, "threshold": 0.99, "step": step, "last_step": STEPS[-1]}
        for event, step in happened.items()
    ]
    behaviour = "memorised" if ood_end < 0.9 else "generalised after a delay"
    view = RunView(
        name=name,
        regime=regime,
        seed=seed,
        behaviour=behaviour,
        mechanism="not tested",
        reason=f"saturation at step {reached}, as the test says.",
        over_guess=Estimate(ood_end - 0.1, ood_end - 0.2, ood_end),
        rise=Estimate(ood_end - 0.1, ood_end - 0.2, ood_end) if saturates else None,
        by_injection={"none": Rate(0.1, 0.05, 0.2, 200, (90, 90), 150.0)}
        if regime == "both_hops_half"
        else {},
        spec={"regime": REGIMES.get(regime, Regime(name=regime)).tree(), "training": {"steps": 8000}},
        manifest={"torch": "2.13.0", "threads": 1},
        notes=() if saturates else ("It did not saturate, so there is no map at saturation.",),
    )
    return view, curves, emergence, events


def study(
    regimes: tuple[str, ...] = tuple(SHAPES), seeds: tuple[int, ...] = (0, 1, 2), **changes: Any
) -> StudyView:
    """A measured study; `changes` replace its fields, `unsaturated` names regimes that never saturate."""
    unsaturated = changes.pop("unsaturated", ())
    parts = [run_tables(regime, seed, regime not in unsaturated) for seed in seeds for regime in regimes]
    fields: dict[str, Any] = {
        "name": "pocket",
        "family": "causal",
        "command": "grokscope run pocket",
        "saturation": 0.99,
        "generalisation": 0.9,
        "confidence": 0.95,
        "runs": tuple(part[0] for part in parts),
        "curves": table((row for part in parts for row in part[1]), CURVES),
        "emergence": table((row for part in parts for row in part[2]), EMERGENCE),
        "events": table((row for part in parts for row in part[3]), EVENTS),
        "spec": {"name": "pocket", "seeds": list(seeds)},
    }
    return StudyView(**(fields | changes))
