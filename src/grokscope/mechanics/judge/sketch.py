"""What a picture of an inference path shows, as values: decoded shares per cell, and what is causally used.

Made from the rows of causal.csv (a probe set), or of one query's own lens and interchange. The drawing is
`report/grid.py`.

Shapes: L stages, C positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.mechanics.judge.paths import USED
from grokscope.mechanics.judge.verdict import DECODED, INPUT, MAP_ARMS, PathCells
from grokscope.mechanics.patch.interchange import Setting, interchange, success
from grokscope.mechanics.read.lens import lens
from grokscope.models.protocol import Reasoner
from grokscope.statistics.clustered import FEWEST_PROBES
from grokscope.world.probes import ProbeSet

LAYERS = ("bridge", "answer", INPUT)
"""What a cell is coloured by, strongest claim first: a token that is several counts as the first."""


@dataclass(frozen=True, eq=False)
class Sketch:
    """Everything the picture of one path needs."""

    title: str
    subtitle: str
    """Whose path, and on how many probes."""
    stages: tuple[str, ...]
    roles: tuple[str, ...]
    """Of the columns."""
    answer_column: int
    """Where the answer is read."""
    decoded: Mapping[str, NDArray[np.float64]]
    """By `LAYERS` (L, C): share of probes with it as top token; NaN where the lens does not look."""
    held: Mapping[str, NDArray[np.bool_]]
    """By "bridge" and "answer" (L, C): another one put there changes the answer accordingly."""
    note: str
    """A sentence on what is used, or why nothing can be said."""
    inputs: tuple[str, ...]
    """Token at every position; empty for a probe set."""
    tokens: tuple[tuple[str, ...], ...]
    """Top token of every cell; empty for a probe set."""
    answer: str
    """What the model says; empty for a probe set."""
    routes: tuple[tuple[int, int, int], ...] = ()
    """Edges (stage led to, sender's column, receiver's) that carry the bridge; empty: not asked."""

    @property
    def single(self) -> bool:
        """Whether it is of one query."""
        return bool(self.tokens)


def sketch_of_rows(
    rows: Sequence[Mapping[str, Any]], path: PathCells | None, answer_position: int, title: str
) -> Sketch:
    """The sketch of a probe set.

    Args:
        rows: of one step and probe set, as in causal.csv. path: what `verdict.look` found.
        answer_position: input position where the answer is read.
        title: heads the picture.

    Raises:
        InputError: the rows hold no bridge arm or no lens.
    """
    arms = {row["arm"] for row in rows}
    for arm in ("bridge", *(DECODED + name for name in LAYERS)):
        if arm not in arms:
            raise InputError(f"the causal table has no rows of the arm {arm!r}.")
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    roles = {row["position"]: row["role"] for row in rows if row["arm"] == "bridge"}
    decoded = {row["position"] for row in rows if row["arm"] == DECODED + "bridge"}
    names = [name for name in (*roles, *sorted(decoded - set(roles))) if name in decoded or name.isdigit()]
    names.sort(key=lambda name: (name.isdigit(), int(name) if name.isdigit() else 0))
    grids = {arm: np.full((len(stages), len(names)), np.nan) for arm in arms}
    pairs = {row["arm"]: row["n"] for row in rows}
    for row in rows:
        if row["position"] in names and row["rate"] is not None:
            grids[row["arm"]][stages.index(row["stage"]), names.index(row["position"])] = row["rate"]
    held = {
        "bridge": np.zeros((len(stages), len(names)), dtype=bool),
        "answer": np.zeros((len(stages), len(names)), dtype=bool),
    }
    column = names.index(str(answer_position))
    if path is None:
        few = pairs["bridge"] < FEWEST_PROBES
        note = (
            f"{pairs['bridge']} queries can be tested, {FEWEST_PROBES} are needed: what is used cannot "
            "be told."
            if few
            else "No cell carries the bridge to the answer: changing it anywhere does not change the answer."
        )
    else:
        first, last = stages.index(path.resolved), stages.index(path.read)
        held_by = path.role if path.position is None else str(path.position)
        of_path = {
            row["stage"]: row["rate"] for row in rows if (row["arm"], row["position"]) == ("bridge", held_by)
        }
        # A group that was searched for stands with the path alone.
        of_path = of_path or {cut.stage: cut.rate.value for cut in path.cuts if cut.group == held_by}
        rate_L = np.array([of_path.get(stage, np.nan) for stage in stages], dtype=np.float64)
        if path.cuts:
            numbers = [int(name) if name.isdigit() else None for name in names]
            registers = [number for number, name in enumerate(numbers) if name is None]
            for cut in path.cuts:
                for number in cut.positions:
                    place = numbers.index(number) if number >= 0 else registers[len(registers) + number]
                    held["bridge"][stages.index(cut.stage), place] = True
        else:
            place = names.index(held_by)
            held["bridge"][first : last + 1, place] = rate_L[first : last + 1] >= USED * np.nanmax(rate_L)
        moved_L = grids.get("transport", np.full_like(grids["bridge"], np.nan))[:, column]
        held["answer"][:, column] = (np.arange(len(stages)) > last) & (np.nan_to_num(moved_L) >= USED)
        note = _sentence(path, float(np.nanmax(rate_L)), roles)
    n = pairs[DECODED + "bridge"]
    return Sketch(
        title=title,
        subtitle=f"{n} queries; interchange on the {pairs['bridge']} of them that can be tested",
        stages=tuple(stages),
        roles=tuple(roles.get(name, name) for name in names),
        answer_column=column,
        decoded={name: grids[DECODED + name] for name in LAYERS},
        held=held,
        note=note,
        inputs=(),
        tokens=(),
        answer="",
        routes=_routes(path, stages, names),
    )


def sketch_of_query(model: Reasoner, one: ProbeSet, setting: Setting, title: str) -> Sketch:
    """The sketch of a probe set of a single query: its top tokens, and its own interchanges.

    A cell holds the bridge if the exact interchange and the centroid of another bridge both make the model
    say the other answer there; the answer if one transported there is said.

    Raises:
        InputError: the set has not exactly one query, or one of other hops than what was trained.
    """
    if len(one) != 1:
        raise InputError(f"{len(one)} queries: the picture of one query needs exactly one.")
    encoded = setting.encode(one.queries)
    vocabulary = setting.world.vocabulary
    trace = lens(model, one, encoded, vocabulary)
    maps = interchange(model, one, setting, MAP_ARMS)
    trace = trace.sel(position=trace["position"] >= 0)
    argmax_LC = trace["argmax"].transpose("probe", "stage", "position").values[0]
    counted_C = trace.isel(set=0)["counted"].values
    own = {name: (trace["rank"].sel(variable=name).transpose("probe", "stage", "position").values[0] == 0)
           for name in (setting.latent, "answer")}  # fmt: skip
    own["bridge"] = own[setting.latent]
    own[INPUT] = argmax_LC == encoded.tokens_NS[0][None, : argmax_LC.shape[1]]
    decoded = {name: np.where(counted_C[None], own[name], np.nan) for name in LAYERS}
    stages = trace["stage"].values.tolist()
    there = {arm: bool(maps["present"].sel(arm=arm).values[0]) for arm in MAP_ARMS}
    hit = {arm: success(maps, arm)[:, : argmax_LC.shape[1], 0] & there[arm] for arm in MAP_ARMS}
    bridge_LC = hit["bridge"] & hit["centroid"]
    held = {"bridge": bridge_LC, "answer": np.zeros_like(bridge_LC)}
    column = encoded.answer_position
    right = bool(maps["clean_said"].values[0] == maps["answer"].values[0])
    if not (there["bridge"] and there["centroid"]):
        note = "No other query can lend a bridge to this one: what is used cannot be told."
    elif not right:
        note = "The model answers this query wrongly."
        held["bridge"] = np.zeros_like(bridge_LC)
    elif not bridge_LC.any():
        note = "No cell carries the bridge of this query to its answer."
    else:
        last = int(np.flatnonzero(bridge_LC.any(axis=1))[-1])
        held["answer"][:, column] = (np.arange(len(stages)) > last) & hit["transport"][:, column]
        first = int(np.flatnonzero(bridge_LC.any(axis=1))[0])
        place = int(bridge_LC.sum(axis=0).argmax())
        roles = encoded.roles
        note = _sentence(
            PathCells(place, roles[place], stages[first], stages[last], len(stages) - 1 - last, ""), None, {}
        )
    entity = [vocabulary.entity(int(number)) for number in (one.queries.head_N[0], *one.queries.path_NK[0])]
    said = vocabulary.tokens[int(maps["clean_said"].values[0])]
    return Sketch(
        title=title,
        subtitle=f"{setting.latent} {entity[setting.hop]}, answer {entity[-1]}; the model says {said}",
        stages=tuple(stages),
        roles=tuple(encoded.roles[: argmax_LC.shape[1]]),
        answer_column=column,
        decoded=decoded,
        held=held,
        note=note,
        inputs=tuple(vocabulary.tokens[int(token)] for token in encoded.tokens_NS[0]),
        tokens=tuple(tuple(vocabulary.tokens[int(token)] for token in row_C) for row_C in argmax_LC),
        answer=said,
    )


def _routes(path: PathCells | None, stages: list[str], names: list[str]) -> tuple[tuple[int, int, int], ...]:
    return tuple(
        (stages.index(one.stage), names.index(str(one.sender)), names.index(str(one.receiver)))
        for one in (path.routes if path else ())
        if {str(one.sender), str(one.receiver)} <= set(names)
    )


def _sentence(path: PathCells, rate: float | None, roles: Mapping[str, str]) -> str:
    """`roles`: of the positions, by name."""
    held = f"at {path.resolved}" if path.resolved == path.read else f"from {path.resolved} to {path.read}"
    moved = "" if rate is None else f" (putting in another one gives its answer for {rate:.0%})"
    stages = f"{path.stages_left} stage{'s' if path.stages_left != 1 else ''}"
    reads = [one for one in path.routes if one.sender != one.receiver]
    edges = ", ".join(
        f"{roles[str(one.sender)]} to {roles[str(one.receiver)]} in {one.stage} {one.rate.value:.0%}"
        for one in reads
    )
    read = f" Read alone along {edges}." if reads else ""
    return f"{path.role} holds the bridge {held}{moved}; the second hop has {stages} left.{read}"
