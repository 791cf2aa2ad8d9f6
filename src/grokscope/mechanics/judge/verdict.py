"""The verdict on a run as a value that can be kept: what `causal.examine` and `causal.combine` said, with
every number, at the checkpoints that were examined.

`look` examines one probe set at one checkpoint and also returns the tidy rows of causal.csv: one row per arm
and cell with its rate and interval, and as arms `decoded.<latent>` and `decoded.input` what the lens reads.

Shapes: P probes, L stages, S positions, C columns of a map.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from grokscope.mechanics.judge.causal import STATE_ARMS, Examined, Interchanged, Mechanism, Verdict, examine
from grokscope.mechanics.judge.needed import SEARCHED, shown_map
from grokscope.mechanics.judge.paths import InferencePath, inference_path
from grokscope.mechanics.judge.readings import Kind, Readings, readings
from grokscope.mechanics.judge.routing import Route, routing
from grokscope.mechanics.patch.drawing import Asked, Setting, draw
from grokscope.mechanics.patch.groups import where_of
from grokscope.mechanics.patch.interchange import accuracy, usable
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.read.lens import lens, names
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
    sender: int | str
    receiver: int | str
    """Input positions, or a group by name."""
    rate: Estimate
    n: int
    """How often this edge alone makes the model say the other answer."""
    head: str | None
    attention: float | None
    """Head that attends most from receiver to sender, with its mean weight in the clean run."""


@dataclass(frozen=True)
class CutCells(Spread):
    """The positions that hold the bridge after a stage (`paths.Cut`)."""

    stage: str
    group: str
    positions: tuple[int, ...]
    """By number; the prefix below 0."""
    rate: Estimate
    n: int
    """How often another bridge put there is followed."""
    own: float
    """How often the donor's own answer comes along."""


@dataclass(frozen=True)
class PathCells:
    """An inference path, named."""

    position: int | None
    role: str
    """Where the bridge is held: input position and its role; None: at a group of positions, or in the
    prefix."""
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
    cuts: tuple[CutCells, ...] = ()
    """Where every position reads every other: which of them hold the bridge after each stage, by stage."""


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
    lens_tokens: Rate | None = None
    """By the paper's measure: the bridge is the argmax at any stage and any position that holds a token."""
    lens_tokens_control: float | None = None
    """The same for the matched control entity, also below."""
    lens_all: Rate | None = None
    """The same, prefix included."""
    lens_all_control: float | None = None
    linear: Rate | None = None
    """Read by an affine map fitted on compositions of other, ID, facts (`readings.py`); None: cannot tell."""
    linear_control: float | None = None
    linear_where: str | None = None
    bridge: Kind | None = None
    """What these say together, given what is used. All None in a verdict from before they were kept."""
    latent: str | None = None
    """Which of several bridges all of this is about; None: of the only one."""


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
    """The `mechanics.spec.RULES` it was made by; 1: from before it was kept."""

    def tree(self) -> dict[str, Any]:
        """Plain JSON values; a set names its bridge only if there are several."""
        tree = super().tree()
        for one in tree["sets"]:
            if one["latent"] is None:
                del one["latent"]
        return tree

    @property
    def latents(self) -> tuple[str | None, ...]:
        """The bridges that were examined; the only one has no name."""
        return tuple(dict.fromkeys(one.latent for one in self.sets)) or (None,)

    def of(self, probe_set: str, step: int | None = None, latent: str | None = None) -> SetVerdict | None:
        """What a set said at a checkpoint (None: the last) of a bridge (None: of the one fewest answers go
        through, as all must); None: not examined."""
        wanted = (probe_set, self.step if step is None else step)
        found = [one for one in self.sets if (one.probe_set, one.step) == wanted]
        found = [one for one in found if latent in (None, one.latent)]
        return min(found, key=lambda one: one.share.value if one.share else -1.0, default=None)


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
        probe_set: its probes. setting: as for `interchange`; says which bridge.
        step: the checkpoint's step, which is only written down.
        most: most probes; None: all.
        confidence: level of the intervals.

    Raises:
        InputError: the probes have other hops than what was trained, or the budget is too small.
    """
    probes, encoded = some_probes(probe_set, setting.encode(probe_set.queries), most)
    drawn = draw(model, probes, setting, STATE_ARMS)
    maps = shown_map(model, probes, setting, drawn, STATE_ARMS)
    examined = examine(model, probes, setting, atoms_known(model, probes, setting), confidence, maps, drawn)
    trace = lens(model, probes, encoded, setting.world.vocabulary)
    routed = routing(model, probes, setting, maps, drawn=drawn, confidence=confidence)
    path = inference_path(trace, maps, examined.share, routed)
    latent = setting.latent if setting.trained.hops > 2 else None
    which = {"latent": latent} if latent else {}
    rows = [
        {"step": step, "probe_set": probe_set.name, **which, **row}
        for row in [
            # The groups of a set alone stand with its path: every set has the same cells here.
            *map_rows(maps.drop_sel(position=list(maps.attrs.get(SEARCHED) or ())), MAP_ARMS, confidence),
            *decoded_rows(trace, encoded, confidence, setting.latent),
        ]
    ]
    read = readings(model, probes, setting, trace, confidence=confidence)
    positions = {name: tuple(one - model.prefix for one in where) for name, where in where_of(maps).items()}
    found = replace(_named(step, examined, path, maps, read, positions), latent=latent)
    return Look(found, examined, rows)


def atoms_known(model: Reasoner, probe_set: ProbeSet, setting: Setting) -> np.ndarray:
    """(P,) which probes have all their facts answered right as atomic queries by this model."""
    asked = Asked(model, setting)
    known_P: np.ndarray = np.logical_and.reduce(
        [asked.right(fact_P[:, None]) for fact_P in probe_set.fact_PK.T]
    )
    return known_P


def map_rows(maps: xr.Dataset, arms: tuple[str, ...], confidence: float = 0.95) -> list[dict[str, Any]]:
    """Interchange accuracy per arm and cell, conditioned; null where there are too few pairs, or nothing was
    run."""
    rows = []
    for arm in arms:
        found = accuracy(maps, arm, confidence=confidence).where(maps["run"].sel(arm=arm, drop=True))
        for (i, j), rate in np.ndenumerate(found["rate"].values):
            low, high = (float(found[name].values[i, j]) for name in ("low", "high"))
            n = int(usable(maps, arm).sum())
            rows.append(_row(maps, arm, i, j, from_numbers(float(rate), low, high), n))
    return rows


def decoded_rows(
    trace: xr.Dataset, encoded: Encoded, confidence: float = 0.95, latent: str = "bridge"
) -> list[dict[str, Any]]:
    """Share of probes with a latent, the answer or the position's own token as argmax; counted cells only."""
    squeezed = trace.isel(set=0) if "set" in trace.dims else trace
    counted_S = squeezed["counted"].values
    argmax_PLS = trace["argmax"].transpose("probe", "stage", "position").values
    rank = trace["rank"].transpose("variable", "probe", "stage", "position")
    own_PS = encoded.tokens_NS[:, : argmax_PLS.shape[2]]
    # Where no token stands none can be its own.
    unread_PP = np.full((len(own_PS), int((trace["position"].values < 0).sum())), -1)
    own_PT = np.concatenate([unread_PP, own_PS], axis=1)[:, : argmax_PLS.shape[2]]
    shown = {"bridge": latent, "answer": "answer"}
    hits = {f"{DECODED}{name}": rank.sel(variable=one).values == 0 for name, one in shown.items()}
    hits[f"{DECODED}{INPUT}"] = argmax_PLS == own_PT[:, None]
    squeezed = squeezed.assign_coords(position=names(trace))
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


def _named(
    step: int,
    found: Examined,
    path: InferencePath,
    maps: xr.Dataset,
    read: Readings,
    positions: dict[str, tuple[int, ...]],
) -> SetVerdict:
    stages = maps["stage"].values.tolist()
    roles = dict(zip(maps["position"].values.tolist(), maps["role"].values.tolist(), strict=True))
    columns = list(roles.values())
    ablation = found.ablation
    cells = None
    if path.position is not None and path.resolved is not None and path.read is not None:
        cells = PathCells(
            int(path.position) if path.position.isdigit() else None, roles[path.position],
            stages[path.resolved], stages[path.read], path.stages_left or 0, path.disagrees,
            tuple(_route(one, stages) for one in path.routes),
            tuple(
                CutCells(stages[cut.stage], cut.column, positions[cut.column], cut.rate, cut.rate.n, cut.own)
                for cut in path.cuts
            ),
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
        lens_tokens=read.lens_tokens,
        lens_tokens_control=read.lens_tokens_control,
        lens_all=read.lens_all,
        lens_all_control=read.lens_all_control,
        linear=read.linear.rate if read.linear else None,
        linear_control=read.linear.control if read.linear else None,
        linear_where=read.linear.where if read.linear else None,
        bridge=read.kind(found.share.rate),
    )


def _route(one: Route, stages: list[str]) -> RouteCells:
    return RouteCells(
        stages[one.stage], _position(one.sender), _position(one.receiver), one.rate, one.n, one.head,
        one.attention,
    )  # fmt: skip


def _position(name: str) -> int | str:
    return int(name) if name.isdigit() else name
