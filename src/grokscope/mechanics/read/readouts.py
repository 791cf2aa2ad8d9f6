"""Logit lens, tuned lens and probe side by side, on the same probes, and where they disagree.

What each can see: the logit lens, what the output head would say now; the tuned lens, what it will say at
this position in the end; the probe, whatever a linear map can read. None of them shows use.

Shape legend: P probes, L stages, S token positions.
"""

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.mechanics.read.lens import CONTROL, lens
from grokscope.mechanics.read.probe import probe
from grokscope.mechanics.read.tuned import tuned_lens
from grokscope.models.protocol import Reasoner
from grokscope.statistics.clustered import FEWEST_PROBES, paired_difference, rate_map
from grokscope.world.format import Encoded
from grokscope.world.probes import ProbeSet
from grokscope.world.vocabulary import Vocabulary

NAMES = ("logit lens", "tuned lens", "probe")
MARGIN = 0.1
"""Rates nearer than this do not disagree, however sure the difference is: as much as the smallest mixture of
the zoo changes."""


@dataclass(frozen=True, eq=False)
class Readouts:
    """What three readouts say of one latent, cell by cell."""

    cells: xr.Dataset
    """Over (readout, stage, position): `rate`, `low`, `high`, and `control` (lenses: the matched control
    entity; probe: its control task). Scalar `n`. NaN: cannot tell, or the position is given the answer."""
    disagreements: tuple[str, ...]
    """One sentence per cell and pair of readouts that differ by more than the margin."""


def readouts(
    model: Reasoner,
    probe_set: ProbeSet,
    encoded: Encoded,
    vocabulary: Vocabulary,
    latent: str = "bridge",
    margin: float = MARGIN,
    confidence: float = 0.95,
) -> Readouts:
    """Compare the readouts on the probes that the probe is scored on.

    Two readouts disagree in a cell if their rates differ by more than `margin` and the interval of the paired
    difference, clustered by fact, leaves 0 out.

    Args:
        model: any reasoner.
        probe_set, encoded: the probes and their tokens, row by row.
        vocabulary: maps entity numbers to token ids.
        latent: which entity of the path is read.
        margin: smallest difference that counts.
        confidence: level of the intervals.

    Raises:
        InputError: as `lens` and `probe`, or the margin is not between 0 and 1.
    """
    if not 0 <= margin < 1:
        raise InputError(f"margin = {margin}: a difference of two rates, at least 0 and below 1.")
    probed = probe(model, probe_set, encoded, latent, confidence=confidence)
    ids = probed["probe"].values
    counted_S = np.zeros(probed.sizes["position"], dtype=bool)
    hits, controls = [], []
    for trace in (
        lens(model, probe_set, encoded, vocabulary),
        tuned_lens(model, probe_set, encoded, vocabulary),
    ):
        found = trace["rank"].sel(probe=ids).transpose("variable", "probe", "stage", "position") == 0
        hits.append(found.sel(variable=latent).values)
        controls.append(found.sel(variable=CONTROL + latent).values)
        counted_S = trace["counted"].values[0]
    hit_NPLS = np.stack([*hits, probed["hit"].values])
    control_NPLS = np.stack([*controls, probed["control_hit"].values])
    return _side_by_side(hit_NPLS, control_NPLS, counted_S, probed, margin, confidence)


def _side_by_side(
    hit_NPLS: NDArray[np.bool_],
    control_NPLS: NDArray[np.bool_],
    counted_S: NDArray[np.bool_],
    probed: xr.Dataset,
    margin: float,
    confidence: float,
) -> Readouts:
    fact_PK = probed["fact"].values
    hit_NLSP = np.moveaxis(hit_NPLS, 1, -1)
    told_S = counted_S & (len(fact_PK) >= FEWEST_PROBES)
    every = (*rate_map(hit_NLSP, fact_PK, confidence), control_NPLS.mean(axis=1))
    numbers = zip(("rate", "low", "high", "control"), every, strict=True)
    arrays = {name: np.where(told_S, one_NLS, np.nan) for name, one_NLS in numbers}
    sentences = []
    stages = [str(name) for name in probed["stage"].values]
    for stage, position in product(range(len(stages)), np.flatnonzero(told_S)):
        hit_NP = hit_NLSP[:, stage, position]
        for one, two in combinations(range(len(NAMES)), 2):
            gap = paired_difference(hit_NP[one], hit_NP[two], fact_PK, confidence)
            if abs(gap.value) > margin and not gap.holds(0):
                where = f"{stages[stage]}, {probed['role'].values[position]} (position {position})"
                sentences.append(
                    f"{where}: {NAMES[one]} {hit_NP[one].mean():.2f}, {NAMES[two]} {hit_NP[two].mean():.2f}."
                )
    cells = ("readout", "stage", "position")
    return Readouts(
        xr.Dataset(
            {**{name: (cells, array) for name, array in arrays.items()}, "n": int(probed["n"])},
            coords={"readout": list(NAMES), **{name: probed[name] for name in ("stage", "position", "role")}},
        ),
        tuple(sentences),
    )
