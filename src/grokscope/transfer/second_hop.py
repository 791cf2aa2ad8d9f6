"""Where the second hop of a new query fails: is b resolved in time, is it read, is (b, r2) looked up?

Three measurements of the same probes (h, r1, r2), bridge b, answer t:

- *resolved*: the lens reads b in one cell no later than the stage up to which this model's old queries hold
  their bridge (`deadline`; where they show no path, before the last stage). Cell chosen on half of the facts,
  scored on the other half; the chance level is the matched control entity in the same cell.
- *read*: the interchange arm "bridge": the state of an old query with another bridge b' is put into one cell,
  and the model says what (b', r2) is. The base need NOT be answered right (a failing query could not be asked
  otherwise), but the natural query and the atom (b', r2) must be, so that what is asked is whether the second
  hop of THIS query follows the bridge it is given. What is expected is never r2's most frequent tail.
- *given*: the upper bound: into one cell goes the mean state of up to `CENTROID` old queries with the SAME
  bridge b, all of whose first facts the model knows, none ever composed with r2; the model says t. If this
  fails while bridges are read, (b, r2) is not looked up from there, however well b is resolved.

The cells of the last two are the best ones on half of the facts, scored on the other half, stage 0 left out.

Shapes: P probes, M donors, L stages, C columns, F facts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.mechanics.judge.paths import inference_path
from grokscope.mechanics.patch.donors import ABSENT, DonorTable
from grokscope.mechanics.patch.drawing import CENTROID, Setting
from grokscope.mechanics.patch.engine import Source
from grokscope.mechanics.patch.groups import tokens_alone
from grokscope.mechanics.patch.interchange import interchange, success
from grokscope.mechanics.patch.maps import PatchMap
from grokscope.mechanics.read.layout import select
from grokscope.mechanics.read.lens import lens
from grokscope.mechanics.read.rates import halves, in_cell
from grokscope.mechanics.unrolled import STATE, answers
from grokscope.models.protocol import Reasoner
from grokscope.seeds import generator
from grokscope.statistics.clustered import FEWEST_PROBES, Rate, clustered_rate, rate_among
from grokscope.statistics.estimate import numbers
from grokscope.world.arrays import BoolArray
from grokscope.world.probes import ProbeSet
from grokscope.world.queries import queries_of

CellHits = NDArray[np.bool_]


@dataclass(frozen=True)
class Stations:
    """The three rates over one group of probes. A rate of fewer than 30 usable probes is None: cannot
    tell."""

    n: int
    """Probes in the group."""
    resolved: Rate | None
    resolved_chance: float | None
    """The same for the matched control entity."""
    read: Rate | None
    given: Rate | None


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured, probe by probe, so that any group can be asked for."""

    fact_PK: NDArray[np.int64]
    right_P: BoolArray
    """Answered right."""
    known_P: BoolArray
    """Both atoms answered right."""
    resolved_P: BoolArray
    control_P: BoolArray
    read_LCP: CellHits
    can_read_P: BoolArray
    """Probes of which `read` can be asked."""
    given_LCP: CellHits
    can_give_P: BoolArray
    """Probes with a centroid of their bridge."""
    stages: tuple[str, ...]
    positions: tuple[str, ...]
    roles: tuple[str, ...]


def measure(
    model: Reasoner,
    probe_set: ProbeSet,
    setting: Setting,
    old_F: BoolArray,
    knows_F: BoolArray,
    deadline: int,
) -> Measured:
    """Measure one probe set.

    Args:
        model: the fine-tuned checkpoint.
        probe_set: two-hop probes.
        setting: the world of old and new facts, with everything that was ever composed.
        old_F: (F,) facts whose queries may lend their states.
        knows_F: (F,) facts that the model answers (`known_atoms`).
        deadline: last stage (index) at which a resolved bridge is in time.

    Raises:
        InputError: the probes do not have two hops.
    """
    encoded = setting.encode(probe_set.queries)
    part = select(lens(model, probe_set, encoded, setting.world.vocabulary), probe_set.name)
    cells = in_cell(part.isel(stage=slice(0, deadline + 1)), "bridge")
    nowhere_P = np.zeros(len(probe_set), dtype=bool)
    maps = interchange(model, probe_set, setting, ("bridge",))
    one = maps.sel(arm="bridge")
    given_LCP, can_give_P = _given(model, probe_set, setting, old_F & knows_F)
    return Measured(
        fact_PK=probe_set.fact_PK.astype(np.int64),
        right_P=(maps["clean_said"] == maps["answer"]).values,
        known_P=np.all(knows_F[probe_set.fact_PK], axis=1),
        resolved_P=cells.hit_NP[0] if cells else nowhere_P,
        control_P=cells.control_NP[0] if cells else nowhere_P,
        read_LCP=success(maps, "bridge"),
        can_read_P=(one["present"] & one["natural_right"] & one["atom_right"]).values,
        given_LCP=given_LCP,
        can_give_P=can_give_P,
        stages=tuple(maps["stage"].values.tolist()),
        positions=tuple(maps["position"].values.tolist()),
        roles=tuple(maps["role"].values.tolist()),
    )


def stations(found: Measured, group_P: BoolArray, confidence: float) -> Stations:
    """The three rates over some of the probes."""
    resolved = rate_among(found.resolved_P, found.fact_PK, group_P, confidence)
    return Stations(
        n=int(group_P.sum()),
        resolved=resolved,
        resolved_chance=float(found.control_P[group_P].mean()) if resolved else None,
        read=_in_best_cell(found.read_LCP, group_P & found.can_read_P, found.fact_PK, confidence),
        given=_in_best_cell(found.given_LCP, group_P & found.can_give_P, found.fact_PK, confidence),
    )


def deadline_of(model: Reasoner, probe_set: ProbeSet, setting: Setting) -> tuple[int, str]:
    """The last stage at which old queries hold their bridge, and where that was read from.

    Args:
        model: the checkpoint. probe_set: old two-hop queries that were never trained. setting: as above.

    Returns:
        A stage index, at most the last but one, and a sentence.
    """
    last = len(model.stages) - 2
    maps = interchange(model, probe_set, setting, ("bridge",))
    trace = lens(model, probe_set, setting.encode(probe_set.queries), setting.world.vocabulary)
    path = inference_path(trace, maps)
    if path.read is None:
        return last, f"{probe_set.name} shows no path: any stage before the last is in time."
    stage = model.stages[min(path.read, last)].name
    return min(path.read, last), f"{probe_set.name} holds its bridge up to {stage}."


def known_atoms(model: Reasoner, setting: Setting) -> BoolArray:
    """(F,) facts of the world that the model answers right as atomic queries."""
    queries = queries_of(setting.world, np.arange(len(setting.world.fact_F3))[:, None])
    encoded, token_F = setting.encode(queries), setting.tokens_of(queries.path_NK[:, 0])
    said_F, _ = answers(model, encoded.tokens_NS, encoded.answer_position, token_F)
    out_F: BoolArray = said_F == token_F
    return out_F


def _given(
    model: Reasoner, probe_set: ProbeSet, setting: Setting, lends_F: BoolArray
) -> tuple[CellHits, BoolArray]:
    """(L, C, P) whether the model says t when a cell holds the centroid of b, and which probes have one."""
    encoded = setting.encode(probe_set.queries)
    answer_P = setting.tokens_of(probe_set.queries.path_NK[:, 1])
    donor_PM2 = _donors(probe_set, setting, lends_F)
    present_PM = donor_PM2[:, :, 0] != ABSENT
    donors = queries_of(setting.world, np.maximum(donor_PM2.reshape(-1, 2), 0))
    tokens_XS = setting.encode(donors).tokens_NS.astype(np.int64)
    source = Source(tokens_XS.reshape(*present_PM.shape, -1), present_PM)
    patched = PatchMap(
        model,
        encoded.tokens_NS,
        encoded.answer_position,
        answer_P,
        {"centroid": source},
        tokens_alone(model, encoded.tokens_NS.shape[1]),
        budget=setting.budget,
    ).fill()
    return patched.said[STATE][0] == answer_P, present_PM.any(axis=1)


def _donors(probe_set: ProbeSet, setting: Setting, lends_F: BoolArray) -> NDArray[np.int64]:
    """(P, M, 2) old queries (h', r1', r2'') of each probe's bridge, h' != h, r1' != r1, r2'' != r2, with
    (h', r1', r2) never composed and r2'' an old fact of b with another tail; fewer than 2 are none."""
    world = setting.world
    table = DonorTable(world, setting.trained)
    rng = generator("transfer", setting.seed, 0)
    out_PM2 = np.full((len(probe_set), CENTROID, 2), ABSENT, dtype=np.int64)
    for p, (first, second) in enumerate(probe_set.fact_PK.tolist()):
        (head, relation1, bridge), (_, relation2, answer) = world.fact_F3[[first, second]].tolist()
        fresh_N2 = table.fresh_of_relation[relation2]
        first_N3 = world.fact_F3[fresh_N2[:, 0]]
        fine_N = (first_N3[:, 2] == bridge) & (first_N3[:, 0] != head) & (first_N3[:, 1] != relation1)
        firsts_N = np.unique(fresh_N2[fine_N & lends_F[fresh_N2[:, 0]], 0])
        nexts_F = table.of_head[bridge]
        other_F = (world.fact_F3[nexts_F, 1] != relation2) & (world.fact_F3[nexts_F, 2] != answer)
        nexts_F = nexts_F[other_F & lends_F[nexts_F]]
        if len(firsts_N) < 2 or not len(nexts_F):
            continue
        chosen_M = rng.permutation(firsts_N)[:CENTROID]
        out_PM2[p, : len(chosen_M), 0] = chosen_M
        out_PM2[p, : len(chosen_M), 1] = rng.choice(nexts_F, len(chosen_M))
    return out_PM2


def _in_best_cell(
    hit_LCP: CellHits, group_P: BoolArray, fact_PK: NDArray[np.int64], confidence: float
) -> Rate | None:
    """The rate in the best cell after the embedding, chosen on half of the facts, scored on the other."""
    if group_P.sum() < FEWEST_PROBES:
        return None
    hit_LCG, fact_GK = hit_LCP[1:, :, group_P], fact_PK[group_P]
    half_G = halves(fact_GK[:, 1])
    if not half_G.any():
        return None
    flat_XG = hit_LCG.reshape(-1, len(half_G))
    best_2 = np.array([int(flat_XG[:, half_G != half].mean(axis=1).argmax()) for half in (0, 1)])
    return clustered_rate(flat_XG[best_2[half_G], np.arange(len(half_G))], fact_GK, confidence)


def cell_rates(found: Measured, group_P: BoolArray, confidence: float) -> list[dict[str, Any]]:
    """`read` and `given` of every cell over some of the probes: a row of `outcome.CELLS` each, without step,
    mix and group."""
    rows = []
    for kind, hit_LCP, can_P in (
        ("read", found.read_LCP, found.can_read_P),
        ("given", found.given_LCP, found.can_give_P),
    ):
        rows_P = group_P & can_P
        for i, j in np.ndindex(*hit_LCP.shape[:2]):
            rate = rate_among(hit_LCP[i, j], found.fact_PK, rows_P, confidence)
            place = {"stage": found.stages[i], "position": found.positions[j], "role": found.roles[j]}
            rows.append({"kind": kind, **place, **numbers(rate, "rate"), "n": int(rows_P.sum())})
    return rows
