"""What every instrument says of one wired model, as one row of numbers.

Probes are chosen so that no two share a fact at the same hop. In the mixtures it is facts that go one way or
the other, and probes of one fact agree: with each fact asked once, the probes are as many independent draws.

Shapes: P probes, U probes a share was read from.
"""

from typing import TypeAlias

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from grokscope.mechanics.judge.causal import STATE_ARMS, Examined, examine
from grokscope.mechanics.judge.share import HALF, NEEDED
from grokscope.mechanics.patch.donors import Donors
from grokscope.mechanics.patch.drawing import Setting, candidates, draw
from grokscope.mechanics.patch.tracing import causal_trace
from grokscope.mechanics.read.layout import chosen_probes
from grokscope.mechanics.read.lens import lens
from grokscope.mechanics.read.rates import found_anywhere
from grokscope.mechanics.unrolled import STATE
from grokscope.mechanics.zoo import Wired
from grokscope.mechanics.zoo.members import PROBES
from grokscope.statistics.estimate import numbers
from grokscope.world.corpus import Corpus
from grokscope.world.format import encode
from grokscope.world.probes import ProbeSet
from grokscope.world.spec import CorpusSpec, WorldSpec

Row: TypeAlias = dict[str, float | str | None]
SHARE_KEYS = (
    "share", "low", "high", "width", "covers", "share_argmax", "share_agrees", "path_found", "drop", "part"
)  # fmt: skip
ABLATION_KEYS = ("sufficient", "necessary", "redundant")
SHOWN_KEYS = (
    "lens_anywhere", "lens_before_last", "lens_chance", "trace_head", "trace_relation1", "trace_relation2",
    "iia_bridge", "iia_bridge_unconditioned", "iia_centroid", "iia_centroid_unconditioned",
)  # fmt: skip
"""What verdict and share do not rest on."""
WORLD = WorldSpec(entities=64, relations=16, degree=10, ood_fraction=0.1)
"""640 facts, of which about 470 can be asked once at each hop with donors: a share of 0.5 that is drawn fact
by fact is then known to 1.96 * 0.5 / sqrt(470) = 0.045, less than 0.1 wide with some room, as a design effect
is estimated and never taken below 1. The zoo's own world of 240 facts
gives 0.13 to 0.16."""
CORPUS = CorpusSpec(phi=4.0, iid_fraction=0.1)


QUICK = ("bridge", *NEEDED)
"""Arms that verdict and share are read from."""


def measure(wired: Wired, seed: int, every: bool = True) -> Row:
    """The instruments on probes on which the member's share is planted (`spread`). NaN: cannot tell.

    Args:
        wired: the member. seed: draws donors and noise.
        every: all instruments; else those that verdict and share are read from, None for the others.

    Beside each instrument's own figures: `verdict_right`; `share_planted` (p), `share_real` (what came of it
    in this world), `share_agrees` (part of the probes used on which the share's verdict is the truth),
    `covers` (p is in the share's interval) and `path_found` (both halves chose the cell that is wired; of a
    value inside a pass, its position). Of a redundant member p is the bridge's part of every answer's margin,
    no share of the answers: `part` estimates it, and `covers` and `share_agrees` are NaN.
    """
    probe_set = spread(wired.corpus.probes[PROBES])
    truth_P = wired.through_circuit(probe_set.queries)
    setting = Setting(wired.corpus.world, wired.corpus.composition, wired.format, seed=seed)
    arms = STATE_ARMS if every else QUICK
    drawn = draw(wired.model, probe_set, setting, arms, lenders(wired.corpus, probe_set, setting, arms))
    known_P = np.ones(len(probe_set), dtype=bool)
    found = examine(wired.model, probe_set, setting, known_P, drawn=drawn, shown=every)
    row: Row = {"member": wired.name, "seed": seed, "mechanism": wired.mechanism, "verdict": found.mechanism}
    row |= {"verdict_right": float(found.mechanism == wired.mechanism)}
    row |= {"undecided": float(found.mechanism == "undecided"), "probes": len(probe_set)}
    row |= {"share_planted": wired.share, "share_real": float(truth_P.mean())}
    row |= dict.fromkeys(SHOWN_KEYS)
    if every:
        row |= _decoded(wired, probe_set)
        row |= _traced(wired, probe_set, setting)
        for arm in ("bridge", "centroid"):
            rates = found.arms.get(arm)
            row[f"iia_{arm}"] = rates.rate.value if rates and rates.rate else np.nan
            free = rates.unconditioned if rates else None
            row[f"iia_{arm}_unconditioned"] = np.nan if free is None else free
    return row | _shared(wired, found, truth_P, every)


_lent: dict[tuple[str, int, tuple[str, ...]], dict[str, Donors]] = {}


def lenders(
    corpus: Corpus, probe_set: ProbeSet, setting: Setting, arms: tuple[str, ...]
) -> dict[str, Donors]:
    """`candidates`, drawn once for all members of a world: the model has no say in them."""
    key = (corpus.fingerprint, setting.seed, arms)
    if key not in _lent:
        _lent.clear()
        _lent[key] = candidates(setting, probe_set, arms)
    return _lent[key]


def spread(probe_set: ProbeSet) -> ProbeSet:
    """The most probes of a two-hop set of which no two share a fact at the same hop: a maximum matching of
    first with second facts (Hopcroft and Karp 1973)."""
    facts = int(probe_set.fact_PK.max()) + 1
    numbers = np.arange(1, len(probe_set) + 1)
    asked_FF = csr_array((numbers, tuple(probe_set.fact_PK.T)), shape=(facts, facts))
    second_F = maximum_bipartite_matching(asked_FF, perm_type="column")
    first_U = np.flatnonzero(second_F >= 0)
    kept = np.sort(asked_FF[first_U, second_F[first_U]] - 1)
    return chosen_probes(probe_set, kept)


def _decoded(wired: Wired, probe_set: ProbeSet) -> Row:
    """The paper's any-stage-any-position rate of the bridge, all stages, and all but the last."""
    encoded = encode(probe_set.queries, wired.corpus.world.vocabulary, wired.format)
    seen = lens(wired.model, probe_set, encoded, wired.corpus.world.vocabulary)
    anywhere, early = (found_anywhere(seen, "bridge", before_last=last) for last in (False, True))
    return {
        "lens_anywhere": float(anywhere["rate"].max()),
        "lens_before_last": float(early["rate"].max()),
        "lens_chance": float(anywhere["chance"].max()),
    }


def _traced(wired: Wired, probe_set: ProbeSet, setting: Setting) -> Row:
    """The largest effect of every token between the embedding and the last stage."""
    effect = causal_trace(wired.model, probe_set, setting)["effect"]
    middle = effect.isel(stage=slice(1, -1)).max("stage")
    return {f"trace_{token}": float(middle.sel(token=token)) for token in effect["token"].values.tolist()}


def _shared(wired: Wired, found: Examined, truth_P: np.ndarray, every: bool) -> Row:
    share, ablation = found.share, found.ablation
    row: Row = {"used": len(share.probe_U)} | dict.fromkeys(SHARE_KEYS, np.nan)
    row |= dict.fromkeys(ABLATION_KEYS, np.nan if every else None)
    if share.rate is not None and share.by_argmax is not None:
        rate = share.rate
        row |= numbers(rate, "share") | {"width": rate.high - rate.low}
        row |= {"share_argmax": share.by_argmax.value, "drop": float(share.drop_U.mean())}
        if wired.mechanism == "redundant":
            row["part"] = 1 - float(share.rest_U.mean())
        else:
            row["covers"] = float(rate.holds(wired.share))
            row["share_agrees"] = float(((share.through_U > HALF) == truth_P[share.probe_U]).mean())
        if wired.reading is not None:
            stage, column = wired.reading
            fits = [
                cell.column == column and (cell.site != STATE or cell.stage == stage) for cell in share.cells
            ]
            row["path_found"] = float(all(fits))
    if ablation is not None:
        row |= {"sufficient": ablation.sufficient.value, "necessary": ablation.necessary.value}
        row["redundant"] = ablation.redundant
    return row
