"""Interchange: what the model says when the state at one (stage, position) comes from another query.

Exact pairs (`donors.py`), every stage and position at once (`patching.py`), all arms and controls in one
dataset, probe by probe, so that every rate can be conditioned, split, and given an interval that clusters by
fact.

A rate is conditioned on what must hold for a patch to be able to succeed: the base, the natural query and
the second atom of the natural query are answered right without any patch. The unconditioned rate and both n
stand beside it, and below `FEWEST` usable pairs the rate is NaN: cannot tell.

Shapes: P probes, A arms, L stages, C columns (input positions, and the prefix if asked), K hops.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.mechanics.donors import ABSENT, DONOR_ARMS, Donors, DonorTable
from grokscope.mechanics.intervals import clustered_rate
from grokscope.mechanics.patching import DEFAULT_BUDGET, Source, columns_of, patch_map
from grokscope.mechanics.unrolled import STATE, answers
from grokscope.models.protocol import Reasoner
from grokscope.seeds import generator
from grokscope.world.format import Encoded, FormatSpec, encode
from grokscope.world.graph import World
from grokscope.world.probes import ProbeSet
from grokscope.world.queries import Queries, queries_of

RANDOM = "random"
"""The control arm that patches noise with the norm of the bridge arm's source."""
ARMS: tuple[str, ...] = (*DONOR_ARMS, RANDOM)
SAME_BRIDGE = "same_bridge"
CANDIDATES = 6
"""Same-bridge donors tried, until one is itself answered right: a donor whose own bridge the model cannot
resolve says nothing about the base."""
CENTROID = 8
"""Donors averaged into a centroid: their private parts shrink to 1 / sqrt(8), about a third."""
FEWEST = 30
"""Fewest usable pairs: with 0 successes of fewer, a rate of 0.1 is still inside the 95 % interval (3 / n)."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What an interchange needs to know beside the model."""

    world: World
    trained: Queries
    """The two-hop queries that were trained."""
    format: FormatSpec
    seed: int = 0
    """Draws the donors and the noise."""
    budget: int = DEFAULT_BUDGET
    """Bytes for states and activations."""

    def encode(self, queries: Queries) -> Encoded:
        """Tokens of queries, padded as two-hop queries are."""
        return encode(queries, self.world.vocabulary, self.format, hops=2)

    def tokens_of(self, entity: NDArray[Any]) -> NDArray[np.int64]:
        """Token ids of entity numbers; `ABSENT` stays."""
        ids = np.asarray(self.world.vocabulary.entity_ids, dtype=np.int64)
        return np.where(np.asarray(entity) == ABSENT, ABSENT, ids[np.maximum(entity, 0)])


@dataclass(frozen=True, eq=False)
class Drawn:
    """Donors of a probe set per arm, and what the unpatched model knows of them: the same for every site and
    stage, so that one examination draws once.
    """

    donors: Mapping[str, Donors]
    source_right: Mapping[str, NDArray[np.bool_]]
    """(P,) the donor's own query is answered right."""
    natural_right: Mapping[str, NDArray[np.bool_]]
    """(P,) so is the query that a successful patch makes the base into."""
    atom_right: Mapping[str, NDArray[np.bool_]]
    """(P,) and its second fact."""


def draw(model: Reasoner, probe_set: ProbeSet, setting: Setting, arms: Sequence[str] = ARMS) -> Drawn:
    """Draw the donors of some arms, and ask the model about them; arguments as for `interchange`."""
    donors = draw_donors(model, setting, probe_set, arms)

    def right(pick: Callable[[Donors], NDArray[np.int64]]) -> dict[str, NDArray[np.bool_]]:
        return {arm: _right(model, setting, pick(donors[arm])) for arm in arms}

    return Drawn(
        donors,
        right(lambda one: one.source_PM2[:, 0]),
        right(lambda one: one.natural_PM2[:, 0]),
        right(lambda one: one.natural_PM2[:, 0, 1:]),
    )


def interchange(
    model: Reasoner,
    probe_set: ProbeSet,
    setting: Setting,
    arms: Sequence[str] = ARMS,
    stages: Sequence[int] | None = None,
    with_prefix: bool = False,
    site: str = STATE,
    drawn: Drawn | None = None,
) -> xr.Dataset:
    """The full interchange map of a set of two-hop probes.

    Args:
        model: any reasoner.
        probe_set: the base queries.
        setting: the world, what was trained, the format, seed and memory.
        arms: some of `ARMS`; RANDOM takes its norms from the bridge arm's sources.
        stages: indices of the stages to patch; None: all. Others hold the clean answer.
        with_prefix: one more column, the whole prefix.
        site: STATE, or a site inside every pass ("block0.mlp"): needed where bridge and r2 share a position.
        drawn: from `draw` of the same model, probes and setting, with these arms at least; None: drawn here.

    Returns:
        `said` (arm, stage, position, probe) token with the highest logit; `margin`, logit of the right
        answer minus the highest other one; `present`, `source_right`, `natural_right`, `atom_right`,
        `expected` (token), `natural_fact` (its second fact) over (arm, probe); `clean_said`, `clean_margin`,
        `answer`, `guess` (tokens) over (probe); `fact` (probe, hop).

    Raises:
        InputError: the probes do not have two hops, an arm does not exist, or the budget is too small.
    """
    if probe_set.queries.hops != 2:
        raise InputError(
            f"probe set {probe_set.name!r} has {probe_set.queries.hops}-hop queries: 2 are needed."
        )
    for arm in arms:
        if arm not in ARMS:
            raise InputError(f"arm = {arm!r}: allowed are {', '.join(ARMS)}.")
    base = setting.encode(probe_set.queries)
    answer_P = setting.tokens_of(probe_set.queries.path_NK[:, 1])
    columns = columns_of(model, base.tokens_NS.shape[1], with_prefix)
    drawn = draw(model, probe_set, setting, arms) if drawn is None else drawn
    donors = drawn.donors
    said_P, margin_P = answers(model, base.tokens_NS, base.answer_position, answer_P)
    patched = patch_map(
        model,
        base.tokens_NS,
        [source_of(setting, donors[arm], seed=setting.seed if arm == RANDOM else None) for arm in arms],
        tuple(columns.values()),
        base.answer_position,
        answer_P,
        stages,
        setting.budget,
        site,
    )

    cells, pairs, probes = ("arm", "stage", "position", "probe"), ("arm", "probe"), ("probe",)
    roles = [base.roles[int(name)] if name.isdigit() else name for name in columns]
    return xr.Dataset(
        {
            "said": (cells, np.stack([one.said_LCP for one in patched]).astype(np.int32)),
            "margin": (cells, np.stack([one.margin_LCP for one in patched])),
            "present": (pairs, np.stack([donors[arm].present_PM[:, 0] for arm in arms])),
            "source_right": (pairs, np.stack([drawn.source_right[arm] for arm in arms])),
            "natural_right": (pairs, np.stack([drawn.natural_right[arm] for arm in arms])),
            "atom_right": (pairs, np.stack([drawn.atom_right[arm] for arm in arms])),
            "expected": (pairs, np.stack([setting.tokens_of(donors[arm].expected_P) for arm in arms])),
            "natural_fact": (pairs, np.stack([donors[arm].natural_PM2[:, 0, 1] for arm in arms])),
            "clean_said": (probes, said_P),
            "clean_margin": (probes, margin_P),
            "answer": (probes, answer_P),
            "guess": (probes, setting.tokens_of(probe_set.guess_P)),
        },
        coords={
            "arm": list(arms),
            "stage": [stage.name for stage in model.stages],
            "position": list(columns),
            "role": (("position",), roles),
            "probe": np.asarray(probe_set.id_P, dtype=np.int64),
            "fact": (("probe", "hop"), np.asarray(probe_set.fact_PK, dtype=np.int64)),
        },
        attrs={"probe_set": probe_set.name, "pattern": probe_set.pattern, "site": site},
    )


def draw_donors(
    model: Reasoner, setting: Setting, probe_set: ProbeSet, arms: Sequence[str]
) -> dict[str, Donors]:
    """Donors per arm. Each arm has its own stream of draws, so that leaving one out changes no other;
    transport and noise reuse the bridge arm's.
    """
    table = DonorTable(setting.world, setting.trained)
    out: dict[str, Donors] = {}
    for number, arm in enumerate(DONOR_ARMS):
        wanted: tuple[str, ...] = (arm, "transport", RANDOM) if arm == "bridge" else (arm,)
        if arm != "transport" and any(name in arms for name in wanted):
            rng = generator("interchange", setting.seed, number)
            most = CENTROID if arm == "centroid" else CANDIDATES
            out[arm] = table.draw(arm, probe_set.fact_PK, rng, most)
            if arm == SAME_BRIDGE:
                out[arm] = _best_known(model, setting, out[arm])
    if "bridge" in out:
        bridge = out["bridge"]
        out["transport"] = Donors(bridge.natural_PM2, bridge.natural_PM2, bridge.expected_P)
        out[RANDOM] = bridge
    return out


def source_of(setting: Setting, donors: Donors, seed: int | None = None) -> Source:
    """The tokens of donors; with a seed, noise with their states' norms."""
    tokens_XS = setting.encode(donors.sources(setting.world)).tokens_NS.astype(np.int64)
    present_PM = donors.present_PM
    return Source(tokens_XS.reshape(*present_PM.shape, -1), present_PM, seed)


def _best_known(model: Reasoner, setting: Setting, donors: Donors) -> Donors:
    """The first donor whose own query the model answers right; where there is none, the first."""
    each = [donors.choose(np.full(len(donors.expected_P), m)) for m in range(CANDIDATES)]
    right_MP = [_right(model, setting, one.source_PM2[:, 0]) for one in each]
    return donors.choose(np.argmax(right_MP, axis=0))


def _right(model: Reasoner, setting: Setting, fact_PK: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(P,) whether the model answers the queries that chain these facts; False where there is none."""
    there_P = fact_PK[:, 0] != ABSENT
    right_P = np.zeros(len(fact_PK), dtype=bool)
    if there_P.any():
        queries = queries_of(setting.world, fact_PK[there_P])
        encoded, token_P = setting.encode(queries), setting.tokens_of(queries.path_NK[:, -1])
        said_P, _ = answers(model, encoded.tokens_NS, encoded.answer_position, token_P)
        right_P[there_P] = said_P == token_P
    return right_P


def usable(maps: xr.Dataset, arm: str, conditioned: bool = True) -> NDArray[np.bool_]:
    """(P,) the pairs that a rate of this arm is taken over."""
    one = maps.sel(arm=arm)
    there_P: NDArray[np.bool_] = one["present"].values
    if not conditioned:
        return there_P
    right_P = maps["clean_said"].values == maps["answer"].values
    out_P: NDArray[np.bool_] = there_P & right_P & one["natural_right"].values & one["atom_right"].values
    return out_P


def success(maps: xr.Dataset, arm: str) -> NDArray[np.bool_]:
    """(L, C, P) whether the patched base says what the arm expects (noise: whether it keeps its answer)."""
    one = maps.sel(arm=arm)
    expected_P = maps["answer"] if arm == RANDOM else one["expected"]
    out_LCP: NDArray[np.bool_] = (one["said"] == expected_P).transpose("stage", "position", "probe").values
    return out_LCP


def accuracy(maps: xr.Dataset, arm: str, conditioned: bool = True, confidence: float = 0.95) -> xr.Dataset:
    """Interchange accuracy of an arm per (stage, position), with intervals that cluster by fact.

    Returns:
        `rate`, `low`, `high` (stage, position), NaN where there are fewer than `FEWEST` pairs; `guess`, how
        often the patched base says the most frequent tail of r2 where that is not its own answer nor what is
        expected; `n` and `enough` as scalars.
    """
    rows_P = usable(maps, arm, conditioned)
    hit_LCP = success(maps, arm)[:, :, rows_P]
    n = int(rows_P.sum())
    shape = hit_LCP.shape[:2]
    rate_LC, low_LC, high_LC, guess_LC = (np.full(shape, np.nan) for _ in range(4))
    if n >= FEWEST:
        clusters_PK = cluster_facts(maps, arm)[rows_P]
        for cell in np.ndindex(*shape):
            rate = clustered_rate(hit_LCP[cell], clusters_PK, confidence)
            rate_LC[cell], low_LC[cell], high_LC[cell] = rate.value, rate.low, rate.high
        guess_LC = _guessed(maps, arm, rows_P)
    cells = ("stage", "position")
    return xr.Dataset(
        {
            "rate": (cells, rate_LC),
            "low": (cells, low_LC),
            "high": (cells, high_LC),
            "guess": (cells, guess_LC),
            "n": n,
            "enough": n >= FEWEST,
        },
        coords={name: maps[name] for name in ("stage", "position", "role")},
    )


def cluster_facts(maps: xr.Dataset, arm: str) -> NDArray[np.int64]:
    """(P, 3) the facts that a pair rests on: both of the base, and the natural query's second."""
    extra_P1 = maps["natural_fact"].sel(arm=arm).values[:, None]
    return np.concatenate([maps["fact"].values, extra_P1], axis=1)


def _guessed(maps: xr.Dataset, arm: str, rows_P: NDArray[np.bool_]) -> NDArray[np.float64]:
    one = maps.sel(arm=arm).isel(probe=rows_P)
    guess_P = one["guess"]
    open_P = ((guess_P != one["answer"]) & (guess_P != one["expected"])).values
    said_LCP = (one["said"] == guess_P).transpose("stage", "position", "probe").values
    empty_LC = np.full(said_LCP.shape[:2], np.nan)
    return said_LCP[:, :, open_P].mean(axis=2) if open_P.any() else empty_LC
