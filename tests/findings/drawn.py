"""Runs with a known course, as findings see them."""

from collections.abc import Sequence

import numpy as np

from grokscope.findings.measured import Measured
from grokscope.mechanics.judge.diagnosis import Diagnosis
from grokscope.mechanics.judge.evidence import SetNumbers
from grokscope.mechanics.judge.profile import Profile
from grokscope.mechanics.judge.verdict import CausalVerdict, SetVerdict
from grokscope.mechanics.read.phases import Event
from grokscope.mechanics.spec import CausalSpec, DiagnosisSpec
from grokscope.statistics.clustered import Difference, Rate, clustered_rate

GRID = (0, *(round(200 * 2 ** (k / 5)) for k in range(33)))
"""Checkpoints up to step 16,890."""
TIMES = ("saturation", "generalisation", "early_bridge")
NONE = Difference(0.0, 0.0, 0.0, 1.0, 250, (130, 130))


def rate(value: float, n: int = 250) -> Rate:
    return clustered_rate(np.arange(n) < round(value * n), np.arange(n)[:, None] // 2)


def at(step: float | None, grid: Sequence[int] = GRID) -> Event:
    """An event at the first checkpoint from a step on."""
    found = None if step is None else next((one for one in grid if one >= step), None)
    return Event(found, None if found is not None else grid[-1], 0.9)


def drawn(
    regime: str,
    seed: int,
    *,
    saturation: float | None = 3000,
    generalisation: float | None = 9000,
    early_bridge: float | None = 900,
    bridge: float = 1.0,
    share: float | None = 1.0,
    path: Profile | None = None,
    probes: bool = True,
    grid: Sequence[int] = GRID,
) -> Measured:
    """A run; `probes`: whether its world had OOD queries at all."""
    events = {"saturation": at(saturation, grid)}
    sets = {}
    if probes:
        events |= {
            "generalisation.test_ood": at(generalisation, grid),
            "bridge_before_last.test_iid": at(early_bridge, grid),
        }
        decoded = {"bridge": {"anywhere": rate(bridge)}}
        sets["test_ood"] = SetNumbers(
            rate(0.95), None, None, None, rate(0.05), NONE, rate(0.0), 1.0, 1.0, None, {}, decoded
        )
    diagnosis = Diagnosis(
        "generalised after a delay", "not tested", "", grid[-1], None, None, events, sets, DiagnosisSpec()
    )
    verdict = None
    if share is not None and probes:
        looked = SetVerdict(
            grid[-1], "test_ood", "circuit", "", rate(0.95), rate(0.05), None, rate(share), None, None, None,
            None, None, None, (), {}, None,
        )  # fmt: skip
        verdict = CausalVerdict("grokked circuit", "", "", grid[-1], (looked,), CausalSpec())
    return Measured(f"{regime}-s{seed}", regime, seed, f"world{seed}", tuple(grid), diagnosis, verdict,
                    lambda _: path)  # fmt: skip


def group(regime: str, seeds: int, **changes: object) -> list[Measured]:
    """Runs of one regime; numbers that are given vary a little with the seed, the rest are the defaults."""
    out = []
    for seed in range(seeds):
        jitter = 2 ** (0.1 * np.sin(3 * seed + len(regime)))
        own = {name: value * jitter if name in TIMES and value else value for name, value in changes.items()}
        out.append(drawn(regime, seed, **own))  # type: ignore[arg-type]
    return out


def profile_of(rates: Sequence[float], seed: int = 0) -> Profile:
    """A path whose one position shows the bridge at these rates, stage by stage; one world's facts."""
    facts = np.random.default_rng(99).integers(0, 60, (200, 2))
    said_PL = np.where(np.random.default_rng(seed).random((200, len(rates))) < rates, 0, 2).astype(np.int8)
    return Profile(
        id_P=np.arange(200), fact_PK=facts, said={"emergence": said_PL[:, :, None, None]},
        categories={"emergence": 3, "causal": 3}, labels={"emergence": ("",)},
        stages=tuple(f"stage{k}" for k in range(len(rates))), places=("relation1",),
    )  # fmt: skip
