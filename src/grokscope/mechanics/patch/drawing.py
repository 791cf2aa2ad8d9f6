"""What an interchange is made with: the setting, its arms, their donors, and what the model knows of them.

The donors of an arm follow from the world, what was trained, the probes and the seed (`candidates`); only in
same_bridge does the model have a say: of six donors the first counts whose own query it answers.

Shapes: P probes, M donors, K hops.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.mechanics.patch.donors import ABSENT, DONOR_ARMS, Donors, DonorTable
from grokscope.mechanics.patch.engine import Source
from grokscope.mechanics.patch.maps import DEFAULT_BUDGET
from grokscope.mechanics.unrolled import answers
from grokscope.models.protocol import Reasoner
from grokscope.seeds import generator
from grokscope.world.format import Encoded, FormatSpec, encode
from grokscope.world.graph import World
from grokscope.world.probes import ProbeSet
from grokscope.world.queries import Queries, bridges, queries_of

RANDOM = "random"
"""The control arm that patches noise with the norm of the bridge arm's source."""
ARMS: tuple[str, ...] = (*DONOR_ARMS, RANDOM)
SAME_BRIDGE = "same_bridge"
CANDIDATES = 6
"""Same-bridge donors tried, until one is itself answered right: a donor whose own bridge the model cannot
resolve says nothing about the base."""
CENTROID = 8
"""Donors averaged into a centroid: their private parts shrink to 1 / sqrt(8), about a third."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What an interchange needs to know beside the model."""

    world: World
    trained: Queries
    """The queries of two hops or more that were trained."""
    format: FormatSpec
    seed: int = 0
    """Draws the donors and the noise."""
    budget: int = DEFAULT_BUDGET
    """Bytes for states and activations."""
    hop: int = 1
    """The bridge that is exchanged and judged is the entity after this hop; a two-hop query has only one."""

    @property
    def latent(self) -> str:
        """Name of that bridge."""
        return bridges(self.trained.hops)[self.hop - 1]

    def check(self, probe_set: ProbeSet) -> None:
        """Raises InputError: the probes do not have as many hops as what was trained."""
        if probe_set.queries.hops != self.trained.hops:
            raise InputError(
                f"probe set {probe_set.name!r} has {probe_set.queries.hops}-hop queries: "
                f"{self.trained.hops} are needed."
            )

    def encode(self, queries: Queries) -> Encoded:
        """Tokens of queries, padded as the trained ones are."""
        return encode(queries, self.world.vocabulary, self.format, self.trained.hops)

    def tokens_of(self, entity: NDArray[Any]) -> NDArray[np.int64]:
        """Token ids of entity numbers; `ABSENT` stays."""
        ids = np.asarray(self.world.vocabulary.entity_ids, dtype=np.int64)
        return np.where(np.asarray(entity) == ABSENT, ABSENT, ids[np.maximum(entity, 0)])


class Asked:
    """Which queries the unpatched model answers right. Each is asked once, however many arms name it."""

    def __init__(self, model: Reasoner, setting: Setting) -> None:
        self.model, self.setting = model, setting
        self._right: dict[tuple[int, ...], bool] = {}

    def right(self, fact_PK: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """(P,) whether the model answers the queries that chain these facts; False where there is none."""
        asked = [tuple(facts) for facts in fact_PK.tolist()]
        new = list(dict.fromkeys(one for one in asked if one[0] != ABSENT and one not in self._right))
        if new:
            queries = queries_of(self.setting.world, np.array(new, dtype=np.int64))
            encoded, token_N = self.setting.encode(queries), self.setting.tokens_of(queries.path_NK[:, -1])
            said_N, _ = answers(self.model, encoded.tokens_NS, encoded.answer_position, token_N)
            self._right |= zip(new, (said_N == token_N).tolist(), strict=True)
        return np.array([self._right.get(one, False) for one in asked], dtype=bool)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Donors of a probe set per arm, and what the unpatched model knows of them: the same for every site and
    stage, so that one examination draws once. The model is asked when it is first wanted to be known.
    """

    donors: Mapping[str, Donors]
    asked: Asked

    def source_right(self, arm: str) -> NDArray[np.bool_]:
        """(P,) whether the donor's own query is answered right."""
        return self.asked.right(self.donors[arm].source_PMK[:, 0])

    def natural_right(self, arm: str) -> NDArray[np.bool_]:
        """(P,) whether so is the query that a successful patch makes the base into."""
        return self.asked.right(self.donors[arm].natural_PMK[:, 0])

    def atom_right(self, arm: str) -> NDArray[np.bool_]:
        """(P,) and so is each of its facts after the bridge."""
        after_PJ = self.donors[arm].natural_PMK[:, 0, self.asked.setting.hop :]
        asked = [self.asked.right(fact_P[:, None]) for fact_P in after_PJ.T]
        return np.asarray(np.logical_and.reduce(asked))


def draw(
    model: Reasoner,
    probe_set: ProbeSet,
    setting: Setting,
    arms: Sequence[str] = ARMS,
    lenders: Mapping[str, Donors] | None = None,
) -> Drawn:
    """Draw the donors of some arms.

    Args:
        model, probe_set, setting, arms: as for `interchange`.
        lenders: from `candidates`, with these arms at least; None: drawn here.
    """
    asked = Asked(model, setting)
    lenders = candidates(setting, probe_set, arms) if lenders is None else lenders
    return Drawn(_settled(lenders, asked), asked)


def draw_donors(
    model: Reasoner, setting: Setting, probe_set: ProbeSet, arms: Sequence[str]
) -> dict[str, Donors]:
    """Donors per arm, of same_bridge the one that counts."""
    return _settled(candidates(setting, probe_set, arms), Asked(model, setting))


def candidates(setting: Setting, probe_set: ProbeSet, arms: Sequence[str]) -> dict[str, Donors]:
    """Donors per arm, whatever the model: of same_bridge all that may count, in order. Each arm has its own
    stream of draws, so that leaving one out changes no other; transport and noise reuse the bridge arm's.
    """
    table = DonorTable(setting.world, setting.trained, setting.hop)
    out: dict[str, Donors] = {}
    for number, arm in enumerate(DONOR_ARMS):
        wanted: tuple[str, ...] = (arm, "transport", RANDOM) if arm == "bridge" else (arm,)
        if arm != "transport" and any(name in arms for name in wanted):
            rng = generator("interchange", setting.seed, number)
            most = CENTROID if arm == "centroid" else CANDIDATES
            out[arm] = table.draw(arm, probe_set.fact_PK, rng, most)
    if "bridge" in out:
        bridge = out["bridge"]
        out["transport"] = Donors(bridge.natural_PMK, bridge.natural_PMK, bridge.expected_P)
        out[RANDOM] = bridge
    return out


def _settled(lenders: Mapping[str, Donors], asked: Asked) -> dict[str, Donors]:
    """Of same_bridge the first donor whose own query the model answers right; where there is none, the
    first."""
    out = dict(lenders)
    if SAME_BRIDGE in out:
        six = out[SAME_BRIDGE]
        first_P = np.zeros(len(six.expected_P), dtype=np.int64)
        open_P = np.arange(len(first_P))
        for number in range(six.source_PMK.shape[1]):
            right_P = asked.right(six.source_PMK[open_P, number])
            first_P[open_P[right_P]] = number
            open_P = open_P[~right_P]
        out[SAME_BRIDGE] = six.choose(first_P)
    return out


def source_of(setting: Setting, donors: Donors, seed: int | None = None) -> Source:
    """The tokens of donors; with a seed, noise with their states' norms."""
    tokens_XS = setting.encode(donors.sources(setting.world)).tokens_NS.astype(np.int64)
    present_PM = donors.present_PM
    return Source(tokens_XS.reshape(*present_PM.shape, -1), present_PM, seed)
