"""Realignment: would the answers be right if the bridge stood as it does in trained queries?

A fact that was never composed may be known, and its bridge resolved, in a form that the second lookup does
not read. Then nothing is missing but the form. So at one cell (a stage, a group of positions) the state of a
query is replaced by the mean state of trained queries that share a bridge, without training anything:

- `true`: those of the query's own bridge, the most that realignment can give;
- `decoded`: those of the entity that an affine map (ridge regression, fitted on the same trained queries)
  reads at that very cell. Nothing goes in that the model did not hold there.

What `decoded` cures was a matter of alignment; what `true` does not cure lies in the second lookup; what lies
between was not resolved. The cell is chosen on trained queries alone: it is where the mean state of ANOTHER
bridge is followed most often, to what that bridge's own r2 leads to.

Means are over compositions of ID facts, of any second relation, none of which is among the queries asked.

Shapes: P probes, N trained queries, E entities, L stages, C columns (groups of positions), T positions with
the prefix first, X what lives on of a position (`Reasoner.live`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.errors import InputError
from grokscope.mechanics.patch.drawing import Setting
from grokscope.mechanics.patch.edits import Cells, Column
from grokscope.mechanics.patch.engine import record, travel
from grokscope.mechanics.patch.groups import columns_of
from grokscope.mechanics.read.probe import ridge
from grokscope.mechanics.unrolled import STATE, chunks, device_of, judge, reading
from grokscope.models.protocol import Reasoner
from grokscope.seeds import generator
from grokscope.statistics.clustered import Rate, clustered_rate
from grokscope.world.probes import ProbeSet
from grokscope.world.queries import Queries

MEANS_OF = 4000
"""Trained queries that the means are taken over, at most."""
FEWEST = 2
"""Fewest of them per bridge: a mean of one is a donor."""


@dataclass(frozen=True)
class Cell:
    """Where the state is replaced."""

    stage: int
    group: str
    followed: float
    """How often trained queries follow the mean state of another bridge there."""


@dataclass(frozen=True)
class Realigned:
    """One probe set, asked with and without; every rate is of the same probes."""

    probe_set: str
    clean: Rate
    decoded: Rate
    """With the mean state of the bridge that is read at the cell."""
    true: Rate
    """With the mean state of the query's own bridge."""
    read: Rate
    """How often the bridge is read right at the cell."""


def realign(
    model: Reasoner,
    trained: ProbeSet,
    asked: Sequence[ProbeSet],
    setting: Setting,
    cell: Cell | None = None,
    confidence: float = 0.95,
) -> tuple[Cell, list[Realigned]]:
    """Ask probe sets with their bridge in the form that trained queries give it.

    Args:
        model: any reasoner. trained: trained two-hop probes, on which the cell is chosen.
        asked: two-hop probe sets. setting: as for `interchange`.
        cell: where; None: it is chosen. confidence: level of the intervals.

    Returns:
        The cell, and a value per set.

    Raises:
        InputError: probes do not have two hops, or there are too few trained compositions of ID facts.
    """
    for one in (trained, *asked):
        if one.queries.hops != 2:
            raise InputError(f"probe set {one.name!r} has {one.queries.hops}-hop queries: 2 are needed.")
    columns = columns_of(model, setting.encode(trained.queries), setting.format)
    with reading(model) as model:
        means = _Means(model, setting, [trained, *asked])
        if cell is None:
            cell = _chosen(means, trained, columns)
        where = columns[cell.group]
        return cell, [_asked(means, one, cell.stage, where, confidence) for one in asked]


class _Means:
    """The mean states of trained queries by bridge, at every stage before the last."""

    def __init__(self, model: Reasoner, setting: Setting, others: Sequence[ProbeSet]) -> None:
        self.model, self.setting = model, setting
        queries, world = setting.trained, setting.world
        fact_NK = queries.fact_NK(world)
        ids = np.concatenate([one.id_P for one in others])
        own_N = np.isin(queries.stable_id(world.entities, world.relations), ids)
        rows_N = np.flatnonzero(~world.ood_F[fact_NK].any(axis=1) & ~own_N)
        rows_N = np.sort(generator("interchange", setting.seed, 300).permutation(rows_N)[:MEANS_OF])
        self.queries = queries.take(rows_N)
        self.bridge_N = np.asarray(self.queries.path_NK[:, 0], dtype=np.int64)
        count_E = np.bincount(self.bridge_N, minlength=world.entities)
        self.has_E = count_E >= FEWEST
        if self.has_E.sum() < 2:
            raise InputError(
                f"{len(rows_N)} trained compositions of ID facts outside the probes: too few for mean states "
                "of bridges."
            )
        self.encoded = setting.encode(self.queries)
        self.answer = model.prefix + self.encoded.answer_position
        index_N = torch.from_numpy(self.bridge_N).to(device_of(model))
        sums: dict[int, Tensor] = {}
        for rows in chunks(len(rows_N), 1024):
            for stage, value_NTX in self._states(rows).items():
                if stage not in sums:
                    sums[stage] = value_NTX.new_zeros(
                        world.entities, *value_NTX.shape[1:], dtype=torch.float32
                    )
                sums[stage].index_add_(0, index_N[rows], value_NTX.float())
        counts = torch.from_numpy(np.maximum(count_E, 1)).to(device_of(model))[:, None, None]
        self.mean_ETX = {stage: (total / counts).to(model.dtype) for stage, total in sums.items()}

    def _states(self, rows: slice) -> dict[int, Tensor]:
        tokens_NS = torch.from_numpy(self.encoded.tokens_NS[rows].astype(np.int64)).to(device_of(self.model))
        run = record(self.model, tokens_NS, (STATE,), self.answer)
        last = len(self.model.stages) - 1
        return {stage: value for (stage, _), value in run.value.items() if 0 < stage < last}

    def said(
        self,
        queries: Queries,
        bridge_P: NDArray[np.int64],
        wanted_LC: NDArray[np.bool_],
        columns: Sequence[Column],
    ) -> NDArray[np.int64]:
        """(L, C, P) the token that is said when each query gets the mean state of an entity as bridge; the
        clean answer where nothing is asked or there is no mean."""
        encoded = self.setting.encode(queries)
        tokens_PS = torch.from_numpy(encoded.tokens_NS.astype(np.int64)).to(device_of(self.model))
        watch_P = self.setting.tokens_of(queries.path_NK[:, -1])
        out = np.zeros((*wanted_LC.shape, len(queries)), dtype=np.int64)
        known_P = torch.from_numpy(self.has_E[bridge_P]).to(tokens_PS.device)[:, None, None]
        index_P = torch.from_numpy(bridge_P).to(tokens_PS.device)
        for rows in chunks(len(queries), 512):
            base = record(self.model, tokens_PS[rows], (STATE,), self.answer)
            out[:, :, rows] = judge(self.model, base.end_BD, watch_P[rows])[0]
            values = {
                (stage, STATE): torch.where(known_P[rows], mean_ETX[index_P[rows]], base.value[stage, STATE])
                for stage, mean_ETX in self.mean_ETX.items()
            }
            edit = Cells(self.model, base, values, {STATE: wanted_LC}, columns, self.answer)
            address_N4, state_ND = travel(self.model, [edit], self.answer)
            if len(address_N4):
                _, stage_N, column_N, probe_N = address_N4.T
                said_N, _ = judge(self.model, state_ND, watch_P[rows][probe_N])
                out[stage_N, column_N, rows.start + probe_N] = said_N
        return out

    def read(self, queries: Queries, stage: int, where: Column) -> NDArray[np.int64]:
        """(P,) the entity that an affine map reads at a cell."""
        classes, index_N = np.unique(self.bridge_N, return_inverse=True)
        hot_NE = torch.nn.functional.one_hot(torch.from_numpy(index_N), len(classes)).float()
        parts = (self.encoded.tokens_NS, self.setting.encode(queries).tokens_NS)
        known_NY, asked_PY = (self._state(tokens, stage, where) for tokens in parts)
        said_PE = next(ridge(known_NY, hot_NE, asked_PY, [torch.arange(known_NY.shape[1])]))
        found_P: NDArray[np.int64] = classes[said_PE.argmax(1).numpy()].astype(np.int64)
        return found_P

    def _state(self, tokens_PS: NDArray[np.integer], stage: int, where: Column) -> Tensor:
        states = []
        for rows in chunks(len(tokens_PS), 1024):
            tokens = torch.from_numpy(tokens_PS[rows].astype(np.int64)).to(device_of(self.model))
            run = record(self.model, tokens, (STATE,), self.answer, until=stage)
            states.append(run.value[stage, STATE][:, list(where)].flatten(1).float().cpu())
        return torch.cat(states)


def _chosen(means: _Means, trained: ProbeSet, columns: Mapping[str, Column]) -> Cell:
    """Where another bridge's mean is followed most often; of equals the smallest group, the last stage."""
    queries, world = trained.queries, means.setting.world
    rng = generator("interchange", means.setting.seed, 301)
    # Another bridge, which has r2 as an ID fact that leads elsewhere.
    fact_PE = world.fact_of_ER[:, queries.relation_NK[:, 1]].T
    tail_PE = np.where(fact_PE >= 0, world.fact_F3[fact_PE, 2], -1)
    fine_PE = (fact_PE >= 0) & ~world.ood_F[fact_PE] & means.has_E & (tail_PE != queries.path_NK[:, 1:])
    fine_PE[np.arange(len(queries)), queries.path_NK[:, 0]] = False
    rows_P = np.flatnonzero(fine_PE.any(axis=1))
    if not len(rows_P):
        raise InputError(f"probe set {trained.name!r}: no probe has another bridge to be given.")
    other_P = np.array([rng.choice(np.flatnonzero(fine_PE[row])) for row in rows_P], dtype=np.int64)
    wanted_LC = np.zeros((len(means.model.stages), len(columns)), dtype=bool)
    wanted_LC[sorted(means.mean_ETX)] = True
    said_LCP = means.said(queries.take(rows_P), other_P, wanted_LC, list(columns.values()))
    follow_LC = (said_LCP == means.setting.tokens_of(tail_PE[rows_P, other_P])).mean(axis=2)
    best = np.argwhere(follow_LC >= follow_LC.max() - 1e-9)
    names = list(columns)
    stage, column = min(best.tolist(), key=lambda one: (len(columns[names[one[1]]]), -one[0]))
    return Cell(stage, names[column], float(follow_LC[stage, column]))


def _asked(means: _Means, probes: ProbeSet, stage: int, where: Column, confidence: float) -> Realigned:
    wanted_11 = np.zeros((len(means.model.stages), 1), dtype=bool)
    clean_P = means.said(probes.queries, np.zeros(len(probes), dtype=np.int64), wanted_11, [where])[0, 0]
    wanted_11[stage] = True
    true_P = np.asarray(probes.queries.path_NK[:, 0], dtype=np.int64)
    read_P = means.read(probes.queries, stage, where)
    answer_P = means.setting.tokens_of(probes.queries.path_NK[:, 1])
    right = [clean_P == answer_P]
    for bridge_P in (read_P, true_P):
        right.append(means.said(probes.queries, bridge_P, wanted_11, [where])[stage, 0] == answer_P)
    rates = [
        clustered_rate(one, np.asarray(probes.fact_PK), confidence) for one in (*right, read_P == true_P)
    ]
    return Realigned(probes.name, *rates)
