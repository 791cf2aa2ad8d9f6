"""The numbers a diagnosis rests on: accuracy, baselines, differences and decoding rates, with intervals.

Shape legend: N steps, P probes, K hops.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.mechanics.read.atoms import atoms_known
from grokscope.mechanics.read.layout import ranks, select
from grokscope.mechanics.read.lens import ANSWER, CONTROL
from grokscope.mechanics.read.rates import anywhere, in_cell, latents_of, registers
from grokscope.mechanics.spec import DiagnosisSpec
from grokscope.statistics.clustered import Difference, Rate, clustered_rate, paired_difference, rate_among
from grokscope.world.probes import ProbeSet


@dataclass(frozen=True)
class SetNumbers:
    """What is known of one two-hop probe set at the end of the run; None where it cannot be said."""

    exact: Rate
    """Exact accuracy at the last checkpoint."""
    exact_at_saturation: Rate | None
    """The same at the first traced checkpoint from saturation on."""
    rise: Difference | None
    """End minus saturation, probe by probe."""
    late_rise: Difference | None
    """End minus the first checkpoint from `delay` times saturation on."""
    guess: Rate
    """Accuracy of always answering the last relation's most frequent tail."""
    over_guess: Difference
    """End minus guess, probe by probe."""
    control: Rate
    """How often the output is the matched control entity instead of the answer."""
    atoms_covered: float
    """Share of queries whose facts are all among the traced atomic probes."""
    atoms_known: float
    """Share of queries whose facts are all answered right as atoms."""
    exact_atoms_known: Rate | None
    """Exact accuracy among those; None below `known_minimum` of them."""
    by_injection: dict[str, Rate]
    """Exact accuracy by which hops were injected ("none", "hop 1", "hop 1 + hop 2"); empty if nothing was."""
    decoded: dict[str, dict[str, Rate]]
    """Per variable: rates `cell`, `cell_before_last`, `anywhere`, and each `chance_..`; where there are
    registers also `tokens`, anywhere but there."""


def evidence(
    traces: xr.Dataset, name: str, probe_set: ProbeSet, saturated: int | None, spec: DiagnosisSpec
) -> SetNumbers:
    """Measure one two-hop set at the last traced checkpoint, and against its own value at saturation.

    Args:
        traces: of one run, with `step`.
        name: the set.
        probe_set: its probes (the trace may hold a part of them).
        saturated: step of saturation, or None.
        spec: confidence, delay and the fewest queries.

    Raises:
        InputError: the trace has no such set.
    """
    part = select(traces, name)
    exact_NP, facts_PK, level = part["exact"].values, part["fact"].values, spec.confidence
    now_P = exact_NP[-1]
    known = atoms_known(traces.isel(step=[-1]), name)
    known_P = known.known_NP[0]
    guess_P = _guess_right(probe_set, part["probe"].values)
    steps = part["step"].values

    def rate(correct_P: NDArray[np.bool_]) -> Rate:
        return clustered_rate(correct_P, facts_PK, level)

    def since(step: float | None) -> Difference | None:
        then = _first_from(steps, step)
        return None if then is None else paired_difference(now_P, exact_NP[then], facts_PK, level)

    at_saturation = _first_from(steps, saturated)
    return SetNumbers(
        exact=rate(now_P),
        exact_at_saturation=None if at_saturation is None else rate(exact_NP[at_saturation]),
        rise=since(saturated),
        late_rise=since(None if saturated is None else saturated * spec.delay),
        guess=rate(guess_P),
        over_guess=paired_difference(now_P, guess_P, facts_PK, level),
        control=rate(_output_is(part, CONTROL + ANSWER)),
        atoms_covered=float(known.covered_P.mean()),
        atoms_known=float(known_P.mean()),
        exact_atoms_known=rate_among(now_P, facts_PK, known_P, level, spec.known_minimum),
        by_injection=_by_injection(now_P, facts_PK, part["injected"].values, level),
        decoded=_decoded(part.isel(step=[-1]), level),
    )


def _first_from(steps_N: NDArray[np.int64], step: float | None) -> int | None:
    """Index of the first traced checkpoint at or after `step`."""
    if step is None or steps_N[-1] < step:
        return None
    return int(np.searchsorted(steps_N, step))


def _guess_right(probe_set: ProbeSet, id_P: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the most frequent tail of the last relation is the answer, for the probes of the trace."""
    row_of = {int(identity): row for row, identity in enumerate(probe_set.id_P)}
    rows_P = [row_of[int(identity)] for identity in id_P]
    right_P: NDArray[np.bool_] = (probe_set.guess_P == probe_set.queries.latents()[ANSWER])[rows_P]
    return right_P


def _output_is(part: xr.Dataset, variable: str) -> NDArray[np.bool_]:
    """Whether the output (last stage, where the answer is read) is this variable at the last checkpoint."""
    column = part["variable"].values.tolist().index(variable)
    read = part["position"].values.tolist().index(int(part["answer_position"]))
    place = {"variable": column, "stage": -1, "position": read, "step": -1}
    hit_P: NDArray[np.bool_] = part["rank"].isel(place).values == 0
    return hit_P


def _by_injection(
    now_P: NDArray[np.bool_], facts_PK: NDArray[np.int32], injected_PK: NDArray[np.bool_], level: float
) -> dict[str, Rate]:
    """Accuracy of every group of queries that had the same hops injected."""
    if not injected_PK.any():
        return {}
    out = {}
    for pattern_K in np.unique(injected_PK, axis=0):
        rows_P = (injected_PK == pattern_K).all(axis=1)
        label = " + ".join(f"hop {hop + 1}" for hop in np.flatnonzero(pattern_K)) or "none"
        out[label] = clustered_rate(now_P[rows_P], facts_PK[rows_P], level)
    return out


def _decoded(part: xr.Dataset, level: float) -> dict[str, dict[str, Rate]]:
    """Decoding rates at one checkpoint, each with its chance level."""
    facts_PK, out = part["fact"].values, {}
    part = ranks(part).load()
    for variable in latents_of(part):
        hits = {
            "anywhere": anywhere(part, variable)[0],
            "chance_anywhere": anywhere(part, CONTROL + variable)[0],
        }
        if registers(part):
            hits |= {
                "tokens": anywhere(part, variable, tokens_only=True)[0],
                "chance_tokens": anywhere(part, CONTROL + variable, tokens_only=True)[0],
            }
        for kind, before_last in (("cell", False), ("cell_before_last", True)):
            cells = in_cell(part, variable, before_last)
            if cells is not None:
                hits |= {kind: cells.hit_NP[0], f"chance_{kind}": cells.control_NP[0]}
        out[variable] = {kind: clustered_rate(hit_P, facts_PK, level) for kind, hit_P in hits.items()}
    return out
