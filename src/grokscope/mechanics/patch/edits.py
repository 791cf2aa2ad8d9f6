"""What is changed in a run that is kept: the edits that travel through the engine.

Each is a small class with `joining(stage)`: which rows, changed how, join at that stage.

- `Cells`: the value at one (site, stage, group of positions) comes from another run.
- `Edges`: what one pass makes, at one group of positions, of another's value at one group: path patching.
- `Kept`: everything but a group of positions comes from another run.

Shapes: B probes of the run, L stages, C columns (groups of positions), T positions with the prefix first,
X what lives on of a position, R rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from grokscope.mechanics.patch.engine import Joining, Recorded
from grokscope.mechanics.unrolled import STATE, step_rows, step_rows_at, take_rows
from grokscope.models.protocol import Carry, Reasoner
from grokscope.models.taps import Tap

Column = tuple[int, ...]
"""Positions on the T axis that are changed together."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Values at sites, patched in cell by cell. Address: (number of the site, stage, column, probe).

    Rows whose patch changes no bit (the same token at the embedding, a constant initial state) are left out.
    A change inside a pass after which nothing mixes positions any more (`Reasoner.stays`) recomputes its own
    position; the others' states are the base's.
    """

    model: Reasoner
    base: Recorded
    values: Mapping[tuple[int, str], Tensor]
    """By stage and site, as `engine.lent` gives them."""
    wanted: Mapping[str, NDArray[np.bool_]]
    """(L, C) by site: which cells."""
    columns: Sequence[Column]
    answer: int
    """Position on the T axis where the last stage is read."""

    def joining(self, stage: int) -> Iterator[Joining]:
        for which, (site, wanted_LC) in enumerate(self.wanted.items()):
            if (stage, site) not in self.values:
                continue
            for column in np.flatnonzero(wanted_LC[stage]).tolist():
                own, value = self.base.value[stage, site], self.values[stage, site]
                index = self._index(own, stage, self.columns[column])
                changed_B = (own[:, index] != value[:, index]).flatten(1).any(1)
                probe_R = changed_B.nonzero()[:, 0]
                if not len(probe_R):
                    continue
                new = own[probe_R].clone()
                new[:, index] = value[probe_R][:, index]
                address = np.stack(np.broadcast_arrays(which, stage, column, probe_R.cpu().numpy()), axis=1)
                yield self._sent(address, probe_R, new, stage, site, self.columns[column])

    def _index(self, own_BTX: Tensor, stage: int, where: Column) -> list[int]:
        """Where a column lies in a recorded value; nowhere if the last stage does not show it at the
        answer."""
        if stage == len(self.model.stages) - 1 and own_BTX.shape[1] == 1:
            return [0] if self.answer in where else []
        return list(where)

    def _sent(
        self,
        address: NDArray[np.int64],
        probe_R: Tensor,
        new: Tensor,
        stage: int,
        site: str,
        where: Column,
    ) -> Joining:
        """The rows with a new value at one site."""
        model, last = self.model, len(self.model.stages) - 1
        of_state = site in (STATE, model.stages[stage].site)
        if stage == last and of_state:
            return Joining(address, None, new[:, 0])
        if of_state:
            carry = take_rows(self.base.carries[stage], probe_R)
            change = model.with_live if site == STATE else model.write
            return Joining(address, change(carry, stage, new))
        before = take_rows(self.base.carries[stage - 1], probe_R)
        if stage == last:
            return Joining(
                address,
                None,
                step_rows_at(model, before, last, self.answer, _replacing(site, new, self.answer)),
            )
        tap_of = _replacing(site, new, where[0])
        if len(where) > 1 or not model.stays(stage, site):
            return Joining(address, step_rows(model, before, stage, tap_of))
        carry = take_rows(self.base.carries[stage], probe_R)
        state = model.read(carry, stage).clone()
        state[:, where[0]] = step_rows_at(model, before, stage, where[0], tap_of)
        return Joining(address, model.write(carry, stage, state))


def _replacing(site: str, value: Tensor, position: int) -> Callable[[slice], Tap]:
    """Taps that put in a slice of `value`, or of its one position where a pass computes only that."""

    def tap_of(part: slice) -> Tap:
        own = value[part]

        def tap(name: str, seen: Tensor) -> Tensor:
            if name != site:
                return seen
            return own if seen.shape[1] == own.shape[1] else own[:, position : position + 1]

        return tap

    return tap_of


@dataclass(frozen=True, eq=False)
class Edges:
    """One pass from a sender's patched value to one receiver. Address: (stage, receiver, sender, probe).

    The sender gets another run's value, one pass is run, and of its result the receiver's alone is kept;
    everything else, the sender's own state included, is the clean one.
    """

    model: Reasoner
    base: Recorded
    other: Recorded
    """The run whose values are put in, row by row."""
    asked: NDArray[np.bool_]
    """(L, C) which (stage, sender) cells: their edges lead to the next stage."""
    columns: Sequence[Column]
    answer: int

    def joining(self, stage: int) -> Iterator[Joining]:
        if stage == 0:
            return
        model, last = self.model, len(self.model.stages) - 1
        before = self.base.carries[stage - 1]
        own = self.base.value[stage, STATE]
        for sender in np.flatnonzero(self.asked[stage - 1]).tolist():
            where = list(self.columns[sender])
            new = model.live(before, stage - 1).clone()
            new[:, where] = self.other.value[stage - 1, STATE][:, where]
            changed = model.with_live(before, stage - 1, new)
            if stage == last:
                after = step_rows_at(model, changed, last, self.answer)[:, None]
                receivers = [c for c, column in enumerate(self.columns) if self.answer in column]
            else:
                after = model.live(step_rows(model, changed, stage), stage)
                receivers = list(range(len(self.columns)))
            for receiver in receivers:
                to = [0] if stage == last else list(self.columns[receiver])
                probe_R = (after[:, to] != own[:, to]).flatten(1).any(1).nonzero()[:, 0]
                if not len(probe_R):
                    continue
                address = np.stack(
                    np.broadcast_arrays(stage, receiver, sender, probe_R.cpu().numpy()), axis=1
                )
                if stage == last:
                    yield Joining(address, None, after[probe_R, 0])
                    continue
                kept = own[probe_R].clone()
                kept[:, to] = after[probe_R][:, to]
                carry = take_rows(self.base.carries[stage], probe_R)
                yield Joining(address, model.with_live(carry, stage, kept))


@dataclass(frozen=True, eq=False)
class Kept:
    """Everything but one group of positions is another run's, the carried input embedding included. Address:
    (probe,)."""

    model: Reasoner
    base: Carry
    """At `stage`, as `other`."""
    other: Carry
    stage: int
    where: Column
    answer: int

    def joining(self, stage: int) -> Iterator[Joining]:
        if stage != self.stage:
            return
        fields = []
        for own, theirs in zip(self.base, self.other, strict=True):
            mixed = theirs.clone()
            mixed[:, list(self.where)] = own[:, list(self.where)]
            fields.append(mixed)
        carry, address = type(self.base)(*fields), np.arange(len(fields[0]))[:, None]
        last = stage == len(self.model.stages) - 1
        end = self.model.read(carry, stage)[:, self.answer] if last else None
        yield Joining(address, None if last else carry, end)
