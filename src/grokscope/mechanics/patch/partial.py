"""Interchange maps that are filled piece by piece: some arms, some probes, some cells at a time.

What is not filled holds the clean answer. The runs of the probes and of their donors are kept between pieces
as long as all probes fit into the budget together; else they are run again for every piece.

Shapes: P probes, A arms, L stages, C columns, R rows asked for, S input positions, T positions with the
prefix first, D width.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.mechanics.patch.drawing import Drawn, Setting, source_of
from grokscope.mechanics.patch.patching import columns_of, probes_per_chunk, travel
from grokscope.mechanics.patch.recorded import Recorded, Source, lent, record
from grokscope.mechanics.unrolled import chunks, device_of, has, judge, reading
from grokscope.models.protocol import Reasoner
from grokscope.world.probes import ProbeSet

Cells: TypeAlias = Mapping[str, NDArray[np.bool_]]
"""(L, C) by site."""
Values: TypeAlias = dict[tuple[int, str], Tensor]
"""By stage and site."""


class Partial:
    """Maps of some sites and arms.

    Args:
        model, probe_set, setting: as for `interchange`.
        drawn: the donors of these arms.
        sites: STATE, and sites inside the passes.
        arms: of one donor each.

    Raises:
        InputError: the budget is too small.
    """

    said: dict[str, NDArray[np.int32]]
    """(A, L, C, P) by site, as `interchange` has it."""
    margin: dict[str, NDArray[np.float32]]

    def __init__(
        self,
        model: Reasoner,
        probe_set: ProbeSet,
        setting: Setting,
        drawn: Drawn,
        sites: Sequence[str],
        arms: Sequence[str],
    ) -> None:
        self.model, self.sites, self.arms = model, tuple(sites), tuple(arms)
        base = setting.encode(probe_set.queries)
        self.tokens_PS = base.tokens_NS.astype(np.int64)
        self.answer_P = setting.tokens_of(probe_set.queries.path_NK[:, 1])
        self.columns = columns_of(model, self.tokens_PS.shape[1])
        self.sources = {arm: source_of(setting, drawn.donors[arm]) for arm in arms}
        self._answer = model.prefix + base.answer_position
        probes, patches = len(probe_set), sum(int(one.sum()) for one in self.cells().values())
        self._most = probes_per_chunk(
            model, self.tokens_PS.shape[1], patches, 1, setting.budget, len(self.sites)
        )
        self._base: Recorded | None = None
        self._lent: dict[str, Values] = {}
        self._is_lent_AP = np.zeros((len(self.arms), probes), dtype=bool)
        self.clean_said_P, self.clean_margin_P = np.zeros(probes, np.int64), np.zeros(probes, np.float32)
        with reading(model) as self.model:
            for rows in chunks(probes, self._most):
                run = self._run(np.arange(rows.start, rows.stop))
                said = judge(model, run.end_BD, self.answer_P[rows])
                self.clean_said_P[rows], self.clean_margin_P[rows] = said
                if probes <= self._most:
                    self._base = run
        shape = (len(self.arms), len(model.stages), len(self.columns), probes)
        said_P = self.clean_said_P.astype(np.int32)
        self.said = {site: np.broadcast_to(said_P, shape).copy() for site in self.sites}
        self.margin = {site: np.broadcast_to(self.clean_margin_P, shape).copy() for site in self.sites}
        self._filled = {site: np.zeros(shape, dtype=bool) for site in self.sites}

    def cells(self) -> dict[str, NDArray[np.bool_]]:
        """(L, C) by site: where a stage has it."""
        out = {}
        for site in self.sites:
            there_L = np.array([has(self.model, stage.index, site) for stage in self.model.stages])
            out[site] = np.tile(there_L[:, None], (1, len(self.columns)))
        return out

    def fill(self, arms: Sequence[str], rows_P: NDArray[np.bool_], cells: Cells) -> None:
        """Run some arms for some probes in some cells, as far as that has not been done."""
        cells = {site: cells_LC for site, cells_LC in cells.items() if cells_LC.any()}
        with reading(self.model):
            for number, arm in enumerate(self.arms):
                open_P = np.zeros_like(rows_P)
                for site, cells_LC in cells.items():
                    open_P |= ~self._filled[site][number][cells_LC].all(axis=0)
                open_R = np.flatnonzero(rows_P & open_P) if arm in arms else np.zeros(0, dtype=np.int64)
                for part in chunks(len(open_R), self._most):
                    self._fill(number, open_R[part], cells)

    def _fill(self, number: int, rows_R: NDArray[np.int64], cells: Cells) -> None:
        base = self._run(rows_R)
        values, columns = self._values(number, rows_R, base), tuple(self.columns.values())
        address_X4, state_XD = travel(self.model, base, values, cells, columns, self._answer)
        for site, cells_LC in cells.items():
            for stage, column in np.argwhere(cells_LC):
                self._filled[site][number, stage, column, rows_R] = True
        if not len(address_X4):
            return
        probe_X = rows_R[address_X4[:, 3]]
        said_X, margin_X = judge(self.model, state_XD, self.answer_P[probe_X])
        for which, site in enumerate(cells):
            here_X = address_X4[:, 0] == which
            stage_X, column_X = address_X4[here_X, 1:3].T
            here = (number, stage_X, column_X, probe_X[here_X])
            self.said[site][here], self.margin[site][here] = said_X[here_X], margin_X[here_X]

    def _run(self, rows_R: NDArray[np.int64]) -> Recorded:
        """The run of some probes."""
        if self._base is not None:
            return self._base.take(self._index(rows_R))
        tokens_RS = torch.from_numpy(self.tokens_PS[rows_R]).to(device_of(self.model))
        return record(self.model, tokens_RS, self.sites, self._answer)

    def _values(self, number: int, rows_R: NDArray[np.int64], base: Recorded) -> Values:
        """What an arm puts in their place."""
        source = self.sources[self.arms[number]]
        new = rows_R[~self._is_lent_AP[number, rows_R]]
        among_N = np.flatnonzero(~self._is_lent_AP[number, rows_R])
        values: Values = {}
        if len(new):
            some = Source(source.tokens_PMS[new], source.present_PM[new])
            run = base if len(new) == len(rows_R) else base.take(self._index(among_N))
            values = lent(self.model, run, some, slice(0, len(new)), self.sites, self._answer)
        if self._base is None:
            return values
        kept = self._lent.setdefault(self.arms[number], {})
        for place, value_NTD in values.items():
            if place not in kept:
                kept[place] = value_NTD.new_zeros((len(self.tokens_PS), *value_NTD.shape[1:]))
            kept[place][self._index(new)] = value_NTD
        self._is_lent_AP[number, new] = True
        index_R = self._index(rows_R)
        return {place: value_PTD[index_R] for place, value_PTD in kept.items()}

    def _index(self, rows_R: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(rows_R).to(device_of(self.model))
