"""The verdict on a run as a value that can be kept: what `causal.examine` and `causal.combine` said, with
every number, at the checkpoints that were examined.

`look` examines one probe set at one checkpoint and also returns the tidy rows of causal.csv: one row per arm
and cell with its rate and interval, and as arms `decoded.<latent>` and `decoded.input` what the lens reads.

Shapes: P probes, L stages, S positions, C columns of a map.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from grokscope.mechanics.judge.causal import STATE_ARMS, Examined, Interchanged, Mechanism, Verdict, examine
from grokscope.mechanics.judge.paths import InferencePath, inference_path
from grokscope.mechanics.judge.routing import Route, routing
from grokscope.mechanics.patch.drawing import Asked, Setting, draw
from grokscope.mechanics.patch.interchange import accuracy, interchange
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.read.lens import lens
from grokscope.mechanics.spec import CausalSpec
from grokscope.models.protocol import Reasoner
from grokscope.spec import Stored
from grokscope.statistics.clustered import Rate, clustered_rate
from grokscope.statistics.estimate import Estimate, Spread, from_numbers, numbers
from grokscope.world.format import Encoded
from grokscope.world.probes import ProbeSet

MAP_ARMS = ("bridge", "centroid", "transport")
"""Arms whose maps are kept."""
DECODED = "decoded."
"""Prefix of the rows that the lens gives."""
INPUT = "input"
"""The token that stands at the position itself."""


@dataclass(frozen=True)
class RouteCells(Spread):
    """An edge that carries the bridge: one pass, from one position to another or to itself."""

    stage: str
    """The pass, by the stage it leads to."""
    sender: int
    receiver: int
    """Input positions."""
    rate: Estimate
    n: int
    """How often this edge alone makes the model say the other answer."""
    head: str | None
    attention: float | None
    """Head that attends most from receiver to sender, with its mean weight in the clean run."""


@dataclass(frozen=True)
class PathCells:
    """An inference path, named."""

    position: int
    role: str
    """Where the bridge is held: input position and its role."""
    resolved: str
    """First stage that holds it."""
    read: str
    """Last stage that does; the next pass reads it."""
    stages_left: int
    """Passes that the second hop has, the reading one included."""
    disagrees: str
    """Where lens and interchange contradict each other; empty: nowhere."""
    routes: tuple[RouteCells, ...] = ()
    """Edges that carry the bridge (`mechanics/judge/routing.py`), by stage; empty if none was asked."""


@dataclass(frozen=True)
class SetVerdict:
    """What one probe set said at one checkpoint; docs/verdict.md defines every number."""

    step: int
    probe_set: str
    mechanism: Mechanism
    reason: str
    accuracy: Rate
    guess: Rate
    atoms_known: Rate | None
    share: Rate | None
    share_by_argmax: Rate | None
    through_circuit: float | None
    sufficient: Rate | None
    necessary: Rate | None
    redundant: float | None
    incomplete: float | None
    cells: tuple[str, ...]
    """`site stage position` of the cells that the share was scored in."""
    arms: dict[str, Interchanged]
    path: PathCells | None
    possible: tuple[Mechanism, ...] = ()
    """Mechanisms that the share's interval leaves open; empty in a verdict from before it was kept."""


@dataclass(frozen=True)
class CausalVerdict(Stored):
    """The causal verdict on a run."""

    CALLED: ClassVar[str] = "verdict"

    verdict: Verdict
    reason: str
    behaviour: str
    step: int
    """Last checkpoint, which the verdict is about."""
    sets: tuple[SetVerdict, ...]
    """In the order of steps, then of `spec.sets`."""
    spec: CausalSpec
    rule: int = 1
    """The `mechanics.spec.RULE` it was made by; 1: from before it was kept."""

    def of(self, probe_set: str, step: int | None = None) -> SetVerdict | None:
        """What a set said at a checkpoint (None: the last); None: not examined."""
        wanted = self.step if step is None else step
        return next((one for one in self.sets if (one.probe_set, one.step) == (probe_set, wanted)), None)


@dataclass(frozen=True, eq=False)
class Look:
    """One probe set at one checkpoint: the numbers, and what they were read from."""

    found: SetVerdict
    examined: Examined
    rows: list[dict[str, Any]]
    """Of causal.csv."""


def look(
    model: Reasoner,
    probe_set: ProbeSet,
    setting: Setting,
    step: int,
    most: int | None,
    confidence: float = 0.95,
) -> Look:
    """Examine one probe set of one checkpoint.

    Args:
        model: the checkpoint's model.
        probe_set: two-hop probes. setting: as for `interchange`.
        step: the checkpoint's step, which is only written down.
        most: most probes; None: all.
        confidence: level of the intervals.

    Raises:
        InputError: the probes do not have two hops, or the budget is too small.
    """
    probes, encoded = some_probes(probe_set, setting.encode(probe_set.queries), most)
    drawn = draw(model, probes, setting, STATE_ARMS)
    maps = interchange(model, probes, setting, STATE_ARMS, drawn=drawn)
    examined = examine(model, probes, setting, atoms_known(model, probes, setting), confidence, maps, drawn)
    trace = lens(model, probes, encoded, setting.world.vocabulary)
    routed = routing(model, probes, setting, maps, drawn=drawn, confidence=confidence)
    path = inference_path(trace, maps, examined.share, routed)
    rows = [
        {"step": step, "probe_set": probe_set.name, **row}
        for row in [*map_rows(maps, MAP_ARMS, confidence), *decoded_rows(trace, encoded, confidence)]
    ]
    return Look(_named(step, examined, path, maps), examined, rows)


def atoms_known(model: Reasoner, probe_set: ProbeSet, setting: Setting) -> np.ndarray:
    """(P,) which probes have all their facts answered right as atomic queries by this model."""
    asked = Asked(model, setting)
    known_P: np.ndarray = np.logical_and.reduce(
        [asked.right(fact_P[:, None]) for fact_P in probe_set.fact_PK.T]
    )
    return known_P


def map_rows(maps: xr.Dataset, arms: tuple[str, ...], confidence: float = 0.95) -> list[dict[str, Any]]:
    """Interchange accuracy per arm and cell, conditioned; null where there are too few pairs."""
    rows = []
    for arm in arms:
        found = accuracy(maps, arm, confidence=confidence)
        for (i, j), rate in np.ndenumerate(found["rate"].values):
            low, high = (float(found[name].values[i, j]) for name in ("low", "high"))
            rows.append(_row(maps, arm, i, j, from_numbers(float(rate), low, high), int(found["n"])))
    return rows


def decoded_rows(trace: xr.Dataset, encoded: Encoded, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Share of probes with a latent, or the position's own token, as argmax; counted cells only."""
    squeezed = trace.isel(set=0) if "set" in trace.dims else trace
    counted_S = squeezed["counted"].values
    argmax_PLS = trace["argmax"].transpose("probe", "stage", "position").values
    rank = trace["rank"].transpose("variable", "probe", "stage", "position")
    hits = {f"{DECODED}{name}": rank.sel(variable=name).values == 0 for name in ("bridge", "answer")}
    hits[f"{DECODED}{INPUT}"] = argmax_PLS == encoded.tokens_NS[:, None, : argmax_PLS.shape[2]]
    rows = []
    for arm, hit_PLS in hits.items():
        for i, j in np.ndindex(*hit_PLS.shape[1:]):
            if counted_S[j]:
                rate = clustered_rate(hit_PLS[:, i, j], trace["fact"].values, confidence)
                rows.append(_row(squeezed, arm, i, j, rate, rate.n))
    return rows


def _row(
    data: xr.Dataset, arm: str, stage: int, position: int, rate: Estimate | None, n: int
) -> dict[str, Any]:
    """A row of causal.csv without step and set."""
    return {
        "arm": arm,
        "stage": str(data["stage"].values[stage]),
        "position": str(data["position"].values[position]),
        "role": str(data["role"].values[position]),
        **numbers(rate, "rate"),
        "n": n,
    }


def _named(step: int, found: Examined, path: InferencePath, maps: xr.Dataset) -> SetVerdict:
    stages = maps["stage"].values.tolist()
    roles = dict(zip(maps["position"].values.tolist(), maps["role"].values.tolist(), strict=True))
    columns = list(roles.values())
    ablation = found.ablation
    cells = None
    if path.position is not None and path.resolved is not None and path.read is not None:
        cells = PathCells(
            int(path.position), roles[path.position], stages[path.resolved], stages[path.read],
            path.stages_left or 0, path.disagrees, tuple(_route(one, stages) for one in path.routes),
        )  # fmt: skip
    return SetVerdict(
        step=step,
        probe_set=found.probe_set,
        mechanism=found.mechanism,
        reason=found.reason,
        accuracy=found.accuracy,
        guess=found.guess,
        atoms_known=found.atoms_known,
        share=found.share.rate,
        share_by_argmax=found.share.by_argmax,
        through_circuit=found.through_circuit,
        sufficient=ablation.sufficient if ablation else None,
        necessary=ablation.necessary if ablation else None,
        redundant=ablation.redundant if ablation else None,
        incomplete=ablation.incomplete if ablation else None,
        cells=tuple(f"{cell.site} {stages[cell.stage]} {columns[cell.column]}" for cell in found.share.cells),
        arms=found.arms,
        path=cells,
        possible=found.possible,
    )


def _route(one: Route, stages: list[str]) -> RouteCells:
    return RouteCells(
        stages[one.stage], int(one.sender), int(one.receiver), one.rate, one.n, one.head, one.attention
    )
