"""Patch maps: what the model says under every (source, site, stage, column, probe), filled as far as it is
asked.

What is not filled holds the clean answer. The runs of the probes and of their donors are kept between pieces
as long as all probes fit into the budget together; else they are run again for every piece.

Shapes: P probes, A sources, L stages, C columns, R rows asked for, S input positions, T positions with the
prefix first, X what lives on of a position.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.errors import InputError
from grokscope.mechanics.patch.edits import Cells, Column
from grokscope.mechanics.patch.engine import Recorded, Source, lent, record, travel
from grokscope.mechanics.unrolled import (
    LARGEST_PASS,
    STATE,
    chunks,
    device_of,
    has,
    judge,
    patchable,
    reading,
    width_of,
)
from grokscope.models.protocol import Reasoner

DEFAULT_BUDGET = 2**30
"""Bytes of states and activations at a time."""
Wanted: TypeAlias = Mapping[str, NDArray[np.bool_]]
"""(L, C) by site."""
Values: TypeAlias = dict[tuple[int, str], Tensor]
"""By stage and site."""


class PatchMap:
    """Patches of every probe from some sources, in some columns.

    Args:
        model: any reasoner.
        tokens_PS: the base queries.
        answer_position: input position where the answer is read.
        watch_P: token whose margin is reported.
        sources: what is patched in, by name.
        columns: positions on the T axis that are patched together, by name.
        sites: STATE (all of the carry that lives on), a part of it ("z_L"), or sites inside the passes.
        budget: bytes that states and activations may take at a time.

    Raises:
        InputError: the budget does not hold a single probe, tokens do not fit, or no stage has a site.
    """

    said: dict[str, NDArray[np.int32]]
    """(A, L, C, P) by site: token with the highest logit at the answer position."""
    margin: dict[str, NDArray[np.float32]]
    """Likewise: logit of the probe's watched token minus the highest other logit."""

    def __init__(
        self,
        model: Reasoner,
        tokens_PS: NDArray[np.integer[Any]],
        answer_position: int,
        watch_P: NDArray[np.int64],
        sources: Mapping[str, Source],
        columns: Mapping[str, Column],
        sites: Sequence[str] = (STATE,),
        budget: int = DEFAULT_BUDGET,
    ) -> None:
        allowed = patchable(model)
        for site in sites:
            if site not in allowed:
                raise InputError(f"site = {site!r}: allowed are {', '.join(allowed)}.")
        self.model, self.sites, self.arms = model, tuple(sites), tuple(sources)
        self.tokens_PS, self.watch_P = np.asarray(tokens_PS).astype(np.int64), watch_P
        self.sources, self.columns = dict(sources), dict(columns)
        self._answer = model.prefix + answer_position
        self._last = len(model.stages) - 1
        probes = len(self.tokens_PS)
        patches = sum(int(one.sum()) for one in self.cells().values())
        donors = max((one.present_PM.shape[1] for one in sources.values()), default=1)
        positions = self.tokens_PS.shape[1]
        self._most = probes_per_chunk(model, positions, patches, donors, budget, len(sites))
        self._base: Recorded | None = None
        self._lent: dict[str, Values] = {}
        self._lent_until_AP = np.full((len(self.arms), probes), -1)
        self.clean_said_P, self.clean_margin_P = np.zeros(probes, np.int64), np.zeros(probes, np.float32)
        with reading(model) as self.model:
            for rows in chunks(probes, self._most):
                run = self._run(np.arange(rows.start, rows.stop))
                said = judge(self.model, run.end_BD, self.watch_P[rows])
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

    def add(self, name: str, where: Column) -> None:
        """One more column, of another name than all others, of which nothing has been run."""
        self.columns[name] = where
        for site in self.sites:
            for kept in (self.said, self.margin, self._filled):
                kept[site] = np.concatenate([kept[site], kept[site][:, :, :1]], axis=2)
            self.said[site][:, :, -1] = self.clean_said_P
            self.margin[site][:, :, -1] = self.clean_margin_P
            self._filled[site][:, :, -1] = False

    def run(self, site: str) -> NDArray[np.bool_]:
        """(A, L, C) which cells have been run for every probe."""
        return np.asarray(self._filled[site].all(axis=-1))

    def fill(
        self,
        wanted: Wanted | None = None,
        arms: Sequence[str] | None = None,
        rows_P: NDArray[np.bool_] | None = None,
    ) -> "PatchMap":
        """Run some sources for some probes in some cells, as far as that has not been done; None: all."""
        wanted = self.cells() if wanted is None else wanted
        wanted = {site: cells_LC for site, cells_LC in wanted.items() if cells_LC.any()}
        rows_P = np.ones(len(self.tokens_PS), dtype=bool) if rows_P is None else rows_P
        with reading(self.model):
            for number, arm in enumerate(self.arms):
                if arms is not None and arm not in arms:
                    continue
                open_P = np.zeros_like(rows_P)
                for site, cells_LC in wanted.items():
                    open_P |= ~self._filled[site][number][cells_LC].all(axis=0)
                open_R = np.flatnonzero(rows_P & open_P)
                for part in chunks(len(open_R), self._most):
                    self._fill(number, open_R[part], wanted)
        return self

    def _fill(self, number: int, rows_R: NDArray[np.int64], wanted: Wanted) -> None:
        base = self._run(rows_R)
        until = max(int(np.flatnonzero(cells_LC.any(axis=1)).max()) for cells_LC in wanted.values())
        values = self._values(number, rows_R, base, until)
        edit = Cells(self.model, base, values, wanted, tuple(self.columns.values()), self._answer)
        address_N4, state_ND = travel(self.model, [edit], self._answer)
        for site, cells_LC in wanted.items():
            for stage, column in np.argwhere(cells_LC):
                self._filled[site][number, stage, column, rows_R] = True
        if not len(address_N4):
            return
        probe_N = rows_R[address_N4[:, 3]]
        said_N, margin_N = judge(self.model, state_ND, self.watch_P[probe_N])
        for which, site in enumerate(wanted):
            here_N = address_N4[:, 0] == which
            stage_N, column_N = address_N4[here_N, 1:3].T
            here = (number, stage_N, column_N, probe_N[here_N])
            self.said[site][here], self.margin[site][here] = said_N[here_N], margin_N[here_N]

    def _run(self, rows_R: NDArray[np.int64]) -> Recorded:
        """The run of some probes."""
        if self._base is not None:
            return self._base.take(self._index(rows_R))
        tokens_RS = torch.from_numpy(self.tokens_PS[rows_R]).to(device_of(self.model))
        return record(self.model, tokens_RS, self.sites, self._answer)

    def _values(self, number: int, rows_R: NDArray[np.int64], base: Recorded, until: int) -> Values:
        """What a source puts in their place, up to a stage."""
        source = self.sources[self.arms[number]]
        if self._base is None:
            return lent(self.model, base, source, rows_R, self.sites, self._answer, until)
        among_N = np.flatnonzero(self._lent_until_AP[number, rows_R] < until)
        kept = self._lent.setdefault(self.arms[number], {})
        if len(among_N):
            new_N = rows_R[among_N]
            run = base if len(new_N) == len(rows_R) else base.take(self._index(among_N))
            new = lent(self.model, run, source, new_N, self.sites, self._answer, until)
            for place, value in new.items():
                if place not in kept:
                    kept[place] = value.new_zeros((len(self.tokens_PS), *value.shape[1:]))
                kept[place][self._index(new_N)] = value
            self._lent_until_AP[number, new_N] = until
        index_R = self._index(rows_R)
        return {place: value[index_R] for place, value in kept.items() if place[0] <= until}

    def _index(self, rows_R: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(rows_R).to(device_of(self.model))


def probes_per_chunk(
    model: Reasoner, positions: int, patches: int, donors: int, budget: int, sites: int = 1
) -> int:
    """Probes whose patches are run together within `budget` bytes.

    Raises:
        InputError: not even one probe fits.
    """
    width = width_of(model)
    state = (positions + model.prefix) * width * (2 if model.dtype == torch.bfloat16 else 4)
    # A row keeps up to three states, twice while rows are joined, and one final state; bases and
    # donors keep their carries, and a value per site.
    kept = ((2 + sites) * donors + 3 + sites) * len(model.stages)
    per_probe = state * (8 * patches + kept) + 8 * patches * model.vocab
    most = (budget - 64 * LARGEST_PASS * 2**14) // per_probe
    if most < 1:
        need = (per_probe + 64 * LARGEST_PASS * 2**14) / 2**20
        raise InputError(f"budget = {budget / 2**20:.0f} MiB: the map of one probe needs {need:.0f} MiB.")
    return int(min(most, 4096))
