"""What can be said of a world, a regime and a corpus. Defaults are the reference study's values."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from grokscope.spec import Spec, later


class WorldSpec(Spec):
    """A directed knowledge graph: `degree` distinct outgoing relations per entity, with uniform tails."""

    entities: int = Field(2000, ge=2)
    """Number of entities (reference: 2,000)."""
    relations: int = Field(200, ge=1)
    """Number of relations (reference: 200)."""
    degree: int = Field(20, ge=1)
    """Distinct outgoing relations per entity (reference: 20)."""
    ood_fraction: float = Field(0.05, ge=0.0, lt=1.0)
    """Share of the facts that is out-of-distribution (reference: 0.05); 0: none, and no OOD probes."""
    values: int | None = later(None, ge=2)
    """Tails are drawn from the first so many entities, which comparisons compare; None: from all."""
    facts_file: str | None = None
    """Table of triples (CSV, TSV, JSON lines, Parquet) or directory in the reference's JSON format; replaces
    generation."""
    facts_sha256: str | None = later(None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of the facts file, which it must have; None: as it is found. By it, and not by the file's name,
    a run is told from one of other facts."""
    several_tails: Literal["refuse", "drop", "first", "all"] = later("refuse")
    """Of a table in which a head and a relation have several tails: refuse it, drop all facts of such a pair,
    keep the first in the file, or keep all: each is trained, and any of them answers."""

    @model_validator(mode="after")
    def _possible(self) -> "WorldSpec":
        if self.values is not None and (self.facts_file is not None or self.values > self.entities):
            raise ValueError(
                f"values {self.values} needs drawn facts and at most as many as there are entities, "
                f"{self.entities}"
            )
        if self.facts_file is None and self.several_tails != "refuse":
            raise ValueError(
                f"several_tails {self.several_tails} needs a facts_file: drawn facts have one tail"
            )
        if self.facts_file is None and self.facts_sha256 is not None:
            raise ValueError("facts_sha256 needs a facts_file: drawn facts have no file")
        if self.facts_file is None and self.degree > self.relations:
            raise ValueError(
                f"degree {self.degree} needs at least as many relations, there are {self.relations}; "
                "allowed is degree <= relations"
            )
        return self


Task = Literal["chain", "comparison"]
"""What is asked of several facts: to follow one after the other, or which of two has the larger tail."""
Partners = Annotated[int, Field(ge=0)] | Literal["full"]


class Regime(Spec):
    """Which compositions the OOD facts are supervised in. A value, not a code path.

    Of the OOD facts used by `test_ood` as hop 1 (2, 3, 4), the share `hop1_ratio` gets up to `hop1_k`
    training compositions whose other hops are all ID. "full" means k = phi.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=120)
    """What the regime is called in files and figures."""
    hop1_ratio: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the OOD facts used as hop 1 that is injected."""
    hop1_k: Partners = 0
    """Compositions per injected hop-1 fact; "full" is phi."""
    hop2_ratio: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the OOD facts used as hop 2 that is injected."""
    hop2_k: Partners = 0
    """Compositions per injected hop-2 fact; "full" is phi."""
    hop3_ratio: float = later(0.0, ge=0.0, le=1.0)
    """Share of the OOD facts used as hop 3 that is injected; of a corpus of 3 hops and more."""
    hop3_k: Partners = later(0)
    """Compositions per injected hop-3 fact; "full" is phi."""
    hop4_ratio: float = later(0.0, ge=0.0, le=1.0)
    """Share of the OOD facts used as hop 4 that is injected; of a corpus of 4 hops."""
    hop4_k: Partners = later(0)
    """Compositions per injected hop-4 fact; "full" is phi."""

    @model_validator(mode="after")
    def _honoured(self) -> "Regime":
        for hop, (ratio, k) in enumerate(self.injection, start=1):
            if (ratio > 0) != (k != 0):
                raise ValueError(
                    f"hop{hop}_ratio {ratio} and hop{hop}_k {k} must both be 0 or both be above 0"
                )
        return self

    @property
    def injection(self) -> tuple[tuple[float, int | Literal["full"]], ...]:
        """Ratio and k of every hop."""
        return (
            (self.hop1_ratio, self.hop1_k), (self.hop2_ratio, self.hop2_k),
            (self.hop3_ratio, self.hop3_k), (self.hop4_ratio, self.hop4_k),
        )  # fmt: skip

    @property
    def injects(self) -> bool:
        """Whether any OOD fact is supervised in compositions."""
        return any(ratio > 0 for ratio, _ in self.injection)


REGIMES: dict[str, Regime] = {
    regime.name: regime
    for regime in (
        Regime(name="natural"),
        Regime(name="both_hops_full", hop1_ratio=1.0, hop1_k="full", hop2_ratio=1.0, hop2_k="full"),
        Regime(name="both_hops_half", hop1_ratio=0.5, hop1_k=9, hop2_ratio=0.5, hop2_k=9),
        Regime(name="first_hop_full", hop1_ratio=1.0, hop1_k="full"),
        Regime(name="second_hop_full", hop2_ratio=1.0, hop2_k="full"),
    )
}
"""The reference's regimes by name."""


class CorpusSpec(Spec):
    """How many compositions are shown and how many questions are kept back."""

    phi: float = Field(18.0, ge=0.0)
    """Training compositions per ID atomic fact (reference: 18)."""
    skew: float = later(0.0, ge=0.0)
    """How unevenly ID facts take part in training compositions: a fact's chance goes with the power -skew of
    its place in a random order. 0: all alike."""
    iid_fraction: float = Field(0.005, gt=0.0, lt=1.0)
    """Share of the ID composition pool held out as test_iid (reference: 0.005)."""
    probe_cap: int = Field(3000, ge=1)
    """Most probes per set (reference: 3,000)."""
    partners: int = Field(1, ge=1)
    """Probes of first_hop_ood (second_hop_ood, ..) reserved per OOD fact, where it has as many partners."""
    as_in_file: bool = False
    """Train and test exactly what the reference directory world.facts_file holds; the rest does not apply."""
    identity_relation: bool = later(False)
    """Also train (e, identity) -> e for every entity, as often as an atom: the identity bridge of arXiv
    2509.24653. Facts, probes and vocabulary stay as they are; a token that is otherwise unused is the
    relation."""
    hops: int = later(2, ge=2, le=4)
    """Facts that every composition chains (reference: 2)."""
    task: Task = later("chain")
    """What compositions ask: chain (h, r1, r2) -> t, or comparison (r, e1, e2) -> the one with the larger
    tail (arXiv 2405.15071)."""

    @model_validator(mode="after")
    def _possible(self) -> "CorpusSpec":
        if self.as_in_file and self.identity_relation:
            raise ValueError("as_in_file trains what the file holds, so identity_relation must be false")
        if self.task == "comparison" and (self.as_in_file or self.hops != 2):
            raise ValueError(
                f"task 'comparison' compares two facts of a world, so hops must be 2 (it is {self.hops}) and "
                f"as_in_file false (it is {str(self.as_in_file).lower()})"
            )
        if self.as_in_file and self.hops != 2:
            raise ValueError(
                f"as_in_file trains the two-hop queries of the file, so hops {self.hops} must be 2"
            )
        return self
