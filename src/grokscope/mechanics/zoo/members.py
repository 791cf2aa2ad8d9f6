"""The members of the zoo by name: which program, in which body, and the truth about it.

Shape suffixes: N queries, K hops, F facts, E entities, R relations.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from grokscope.errors import InputError
from grokscope.mechanics.zoo import mechanisms as m
from grokscope.mechanics.zoo.weights import BODIES, Body, write_model
from grokscope.mechanics.zoo.wiring import Wiring
from grokscope.models.protocol import Reasoner
from grokscope.seeds import Seeds, generator
from grokscope.world.arrays import BoolArray
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.format import FormatSpec, encode, positions
from grokscope.world.graph import World, build_world
from grokscope.world.queries import Queries
from grokscope.world.spec import REGIMES, CorpusSpec, WorldSpec

WORLD = WorldSpec(entities=30, relations=12, degree=8, ood_fraction=0.1)
"""240 facts, about 1,900 compositions."""
CORPUS = CorpusSpec(phi=4.0, iid_fraction=0.1)
"""Half of the ID compositions are trained, so that every (b, r2) has trained and never trained sources."""
PROBES = "train_inferred"
"""The probe set on which shares are planted: what a memory can know is what was trained."""
OVERRIDE = 8.0
"""Strength of a memory that must win against a circuit, in units of what the circuit adds."""
CHECKED = 64
"""Queries of a kind asked of every model when it is built, spread over the set (the tests ask all)."""

Mechanism = Literal["circuit", "memorised", "partial", "redundant"]


@dataclass(frozen=True, eq=False)
class Wired:
    """A model whose mechanism is known."""

    name: str
    """One of `members()`."""
    model: Reasoner
    """Answers exactly what `answers` says (checked when built)."""
    corpus: Corpus
    """The world, the trained compositions (all that a memory holds is among them), and the probes."""
    format: FormatSpec
    """Causal, or full attention, with the answer token only."""
    through_circuit: Callable[[Queries], BoolArray]
    """(N,) per two-hop query: is its right answer produced by resolving b and looking up (b, r2), so that it
    is lost without that? False where a memory answers, be it beside a working circuit."""
    share: float
    """The planted p: the probability with which a probe of `PROBES` goes through the circuit (1 or 0 where
    all or none do). Redundant members: the circuit's part of the answer's logit, the same for every trained
    query."""
    mechanism: Mechanism
    """The verdict that is right: circuit, memorised, partial (each query by one of both), redundant (each by
    both)."""
    reading: tuple[int, int] | None
    """(stage index, position): the state from which the second hop takes the bridge; None: no circuit."""
    answers: Callable[[Queries], BoolArray] = field(repr=False)
    """(N,) per query of one or two hops: does the model answer it right?"""
    parts: dict[str, slice] = field(repr=False)
    """Hidden units of the block by role ("facts": those of both hops; "memory"), for independent
    ablations."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What a program knows: which facts its circuit can use, and which compositions it holds."""

    circuit: bool
    held_F: BoolArray
    readable_F: BoolArray
    memorised_ERR: BoolArray

    def resolves(self, world: World, queries: Queries) -> BoolArray:
        """(N,) whether the circuit can answer."""
        fact_N2 = queries.fact_NK(world)
        if not self.circuit:
            return np.zeros(len(queries), dtype=bool)
        out_N: BoolArray = self.readable_F[fact_N2[:, 0]] & self.held_F[fact_N2[:, 1]]
        return out_N

    def remembers(self, queries: Queries) -> BoolArray:
        """(N,) whether the memory can answer."""
        out_N: BoolArray = self.memorised_ERR[
            queries.head_N, queries.relation_NK[:, 0], queries.relation_NK[:, 1]
        ]
        return out_N


@dataclass(frozen=True)
class Member:
    """A recipe. `wire` draws the rest from the seed."""

    kind: str
    mechanism: Mechanism
    share: float
    body: Body = "free"
    reading: tuple[int, int] | None = (1, m.FIRST)
    loops: int = 2
    full: bool = False


def _table() -> dict[str, Member]:
    circuit = Member("circuit", "circuit", 1.0)
    memoriser = Member("memoriser", "memorised", 0.0, reading=None)
    out = {
        "circuit": circuit,
        "circuit_pre": replace(circuit, body="pre"),
        "circuit_post": replace(circuit, body="post"),
        "circuit_trm": replace(circuit, body="trm"),
        "rotated": replace(circuit, kind="rotated"),
        "other_position": replace(circuit, kind="other_position", reading=(1, m.HEAD), loops=3, full=True),
        "own_position": replace(circuit, kind="own_position", reading=(1, m.SECOND)),
        "id_only": replace(circuit, kind="id_only"),
        "memoriser": memoriser,
        "memoriser_pre": replace(memoriser, body="pre"),
        "memoriser_post": replace(memoriser, body="post"),
        "memoriser_trm": replace(memoriser, body="trm"),
        "unread": replace(memoriser, kind="unread"),
        "pair_code": replace(memoriser, kind="pair_code"),
        "voting": replace(memoriser, kind="voting"),
    }
    mixture = replace(circuit, mechanism="partial")
    for kind in ("overridden", "deleted", "unreadable"):
        for percent in (10, 50, 90):
            out[f"{kind}_{percent}"] = replace(mixture, kind=kind, share=percent / 100)
        out[f"{kind}_50_pre"] = replace(mixture, kind=kind, share=0.5, body="pre")
    for percent in (25, 50, 75):
        out[f"redundant_{percent}"] = replace(
            circuit, kind="redundant", mechanism="redundant", share=percent / 100
        )
    return out


MEMBERS = _table()


def members() -> tuple[str, ...]:
    """Names of all members."""
    return tuple(MEMBERS)


def wire(
    name: str,
    seed: int,
    *,
    world: int | None = None,
    body: Body | None = None,
    share: float | None = None,
    world_spec: WorldSpec = WORLD,
    corpus_spec: CorpusSpec = CORPUS,
) -> Wired:
    """Build one member.

    Args:
        name: one of `members()`.
        seed: draws what is trained (and so remembered), what of it is mixed, and the rotation of the spaces.
        world: draws the facts and the split; None: `seed`. Two members of one world and two seeds compare.
        body: another architecture than the member's own; "trm" for members that work at r1's position only.
        share: another planted p for a mixture or a redundant member.
        world_spec, corpus_spec: another size.

    Raises:
        InputError: an unknown name or body, a share outside (0, 1) or for a member that has none.
    """
    member = _chosen(name, body, share)
    world_seed = seed if world is None else world
    seeds = Seeds(world=world_seed, split=world_seed, corpus=seed, init=seed)
    facts = build_world(world_spec, seeds)
    corpus = build_corpus(facts, corpus_spec, REGIMES["natural"], seeds)
    full = member.full or member.body == "trm"
    fmt = FormatSpec(attention="full" if full else "causal", output="answer")
    wiring = Wiring(facts.entities, facts.relations, positions(fmt))
    truth = _program(
        wiring, member, corpus, np.random.default_rng(generator("init", seed).integers(2**63)), full
    )
    model = write_model(wiring, facts.vocabulary, fmt, member.body, member.loops, seed)

    def through_circuit(queries: Queries) -> BoolArray:
        out_N: BoolArray = truth.resolves(facts, queries) & ~truth.remembers(queries)
        return out_N

    def answers(queries: Queries) -> BoolArray:
        if queries.hops == 1:
            return np.ones(len(queries), dtype=bool)
        out_N: BoolArray = truth.resolves(facts, queries) | truth.remembers(queries)
        return out_N

    wired = Wired(
        name=name,
        model=model,
        corpus=corpus,
        format=fmt,
        through_circuit=through_circuit,
        share=member.share,
        mechanism=member.mechanism,
        reading=member.reading,
        answers=answers,
        parts=wiring.parts(),
    )
    _check(wired)
    return wired


def right(wired: Wired, queries: Queries) -> BoolArray:
    """(N,) whether the model's argmax is the answer."""
    encoded = encode(queries, wired.corpus.world.vocabulary, wired.format)
    with torch.inference_mode():
        logits_NSV = wired.model(torch.from_numpy(encoded.tokens_NS))
    said_N = logits_NSV[:, encoded.answer_position].argmax(-1).numpy()
    out_N: BoolArray = said_N == encoded.labels_NS[:, encoded.answer_position]
    return out_N


def _chosen(name: str, body: Body | None, share: float | None) -> Member:
    if name not in MEMBERS:
        raise InputError(f"zoo member {name!r} does not exist; allowed are {', '.join(MEMBERS)}.")
    member = MEMBERS[name]
    if body is not None:
        own_attention = member.kind in (
            "other_position",
            "own_position",
            "rotated",
            "unread",
            "pair_code",
            "voting",
        )
        if body not in BODIES or (body == "trm" and own_attention):
            allowed = [one for one in BODIES if one != "trm" or not own_attention]
            raise InputError(f"body = {body!r}: zoo member {name!r} can be {', '.join(allowed)}.")
        member = replace(member, body=body)
    if share is not None:
        if member.mechanism not in ("partial", "redundant") or not 0 < share < 1:
            raise InputError(
                f"share = {share} for {name!r}: mixtures and redundant members take one between 0 and 1."
            )
        member = replace(member, share=share)
    return member


def _program(wiring: Wiring, member: Member, corpus: Corpus, rng: np.random.Generator, full: bool) -> Truth:
    """Write the program of a member into `wiring`; what it knows."""
    world, trained, kind = corpus.world, corpus.composition, member.kind
    every_F = np.ones(len(world.fact_F3), dtype=bool)
    drawn_F = rng.random(len(every_F)) < member.share
    held_F = {"deleted": drawn_F, "id_only": ~world.ood_F}.get(kind, every_F)
    readable_F = {"unreadable": drawn_F, "id_only": ~world.ood_F}.get(kind, every_F)
    fact_N2 = trained.fact_NK(world)
    nobody_N = np.zeros(len(trained), dtype=bool)
    recalled_N = {
        "overridden": rng.random(len(trained)) >= member.share,
        "deleted": ~held_F[fact_N2[:, 1]],
        "unreadable": ~readable_F[fact_N2[:, 0]],
        **dict.fromkeys(("memoriser", "unread", "pair_code", "voting", "redundant"), ~nobody_N),
    }.get(kind, nobody_N)
    recalled = trained.take(np.flatnonzero(recalled_N))
    if kind == "rotated":
        turn_EE = np.linalg.qr(rng.standard_normal((world.entities, world.entities)))[0]
        m.rotated_circuit(wiring, world, turn_EE)
    elif kind == "other_position":
        m.circuit_at_head(wiring, world)
    elif kind == "own_position":
        m.circuit_at_second(wiring, world)
    elif kind in ("unread", "pair_code", "voting"):
        wiring.copy("entity", "prev", {m.FIRST: m.HEAD})
        m.facts(wiring, world, only_first=True)
    else:
        m.previous_token(wiring)
        if kind == "memoriser":
            m.late_atoms(wiring, world)
        else:
            m.facts(wiring, world, held_F=held_F, readable_F=readable_F)
    if kind in ("pair_code", "voting"):
        m.pair_code(wiring, world, recalled, votes=kind == "voting")
    elif len(recalled):
        strength = (1 - member.share) / member.share if kind == "redundant" else OVERRIDE
        m.memory(wiring, recalled, strength)
    if full:
        m.pad_answer(wiring)
    memorised_ERR = np.zeros((world.entities, world.relations, world.relations), dtype=bool)
    memorised_ERR[recalled.head_N, recalled.relation_NK[:, 0], recalled.relation_NK[:, 1]] = True
    return Truth(member.reading is not None, held_F, readable_F, memorised_ERR)


def _check(wired: Wired) -> None:
    """A member that does not answer what it should is a bug here, not a finding."""
    probes = wired.corpus.probes
    for queries in (
        wired.corpus.atomic,
        *(probes[name].queries for name in (PROBES, "test_iid") if name in probes),
    ):
        some = queries.take(np.unique(np.linspace(0, len(queries) - 1, CHECKED).astype(int)))
        if not right(wired, some)[wired.answers(some)].all():
            raise RuntimeError(
                f"internal error in the zoo: {wired.name} misses an answer that it should give."
            )
