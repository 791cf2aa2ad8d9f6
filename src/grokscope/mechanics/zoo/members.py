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
from grokscope.mechanics.zoo import registers as r
from grokscope.mechanics.zoo.weights import BODIES, Body, write_model
from grokscope.mechanics.zoo.wiring import Wiring
from grokscope.models.protocol import Reasoner
from grokscope.seeds import Seeds, generator
from grokscope.world.arrays import BoolArray, IntArray
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.format import FormatSpec, encode, positions
from grokscope.world.graph import World, build_world
from grokscope.world.queries import Queries, bridges
from grokscope.world.spec import REGIMES, CorpusSpec, WorldSpec

WORLD = WorldSpec(entities=30, relations=12, degree=8, ood_fraction=0.1)
"""240 facts, about 1,900 compositions."""
CORPUS = CorpusSpec(phi=4.0, iid_fraction=0.1)
"""Half of the ID compositions are trained, so that every (b, r2) has trained and never trained sources."""
CORPORA = {2: CORPUS, 3: CorpusSpec(phi=20.0, iid_fraction=0.02, hops=3)}
"""By hops; of three, two fifths of the ID compositions are trained."""
PROBES = "train_inferred"
"""The probe set on which shares are planted: what a memory can know is what was trained."""
OVERRIDE = 8.0
"""Strength of a memory that must win against a circuit, in units of what the circuit adds."""
CHECKED = 64
"""Queries of a kind asked of every model when it is built, spread over the set (the tests ask all)."""

OWN_ATTENTION = ("other_position", "own_position", "rotated", "unread", "pair_code", "voting")
"""Kinds whose heads leave no answer where the TRM is asked for it."""
MIXTURES = ("overridden", "deleted", "unreadable")
"""Kinds of which some queries are answered by a circuit and the others by a memory."""

Mechanism = Literal["circuit", "memorised", "partial", "redundant"]
Reading = Literal["visible", "in registers", "dark", "idle"]
Path = tuple[tuple[str, tuple[int, ...]], ...]


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
    """(stage index, position): the state from which the second hop takes the bridge; None: no circuit, or no
    single state (`holds`)."""
    holds: Path
    """Per stage (its name) that has any, the smallest group of positions (T axis) whose states, of all parts,
    carry the bridge to the answer: exchanged for those of a query with another bridge b', the model answers
    r2(b'). Empty: no circuit."""
    reading_kind: Reading | None
    """What the output head reads of the bridge where it is held: it, at a token (visible) or at a prefix
    position alone (in registers), or nothing (dark). Memorised: a bridge that can be read somewhere
    though nothing uses it (idle). None: no bridge is read or used."""
    answers: Callable[[Queries], BoolArray] = field(repr=False)
    """(N,) per query of one or two hops: does the model answer it right?"""
    of_bridge: dict[str, Mechanism]
    """The same verdict for every bridge by name: whether a right answer is lost without it."""
    parts: dict[str, slice] = field(repr=False)
    """Hidden units of the block by role ("facts": those of both hops; "memory"), for independent
    ablations."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What a program knows: which facts its circuit can use, and which compositions it holds."""

    world: World
    circuit: bool
    held_F: BoolArray
    readable_F: BoolArray
    recalls: tuple[int, int]
    """The hops that are remembered."""
    recalled_N: IntArray
    """Stable ids of what is."""

    def resolves(self, queries: Queries) -> BoolArray:
        """(N,) whether the circuit can answer."""
        fact_NK = queries.fact_NK(self.world)
        if not self.circuit:
            return np.zeros(len(queries), dtype=bool)
        out_N: BoolArray = self.readable_F[fact_NK[:, 0]] & self.held_F[fact_NK[:, 1]]
        return out_N

    def remembers(self, queries: Queries) -> BoolArray:
        """(N,) whether the memory can answer, or the part that it has of an answer."""
        part = _between(queries, *self.recalls)
        out_N: BoolArray = np.isin(part.stable_id(self.world.entities, self.world.relations), self.recalled_N)
        return out_N


def _between(queries: Queries, after: int, until: int) -> Queries:
    """What queries ask from one hop on, up to another."""
    head_N = queries.path_NK[:, after - 1] if after else queries.head_N
    return Queries(head_N, queries.relation_NK[:, after:until], queries.path_NK[:, after:until])


@dataclass(frozen=True)
class Member:
    """A recipe. `wire` draws the rest from the seed."""

    kind: str
    mechanism: Mechanism
    share: float
    body: Body = "free"
    held: tuple[tuple[int, ...], ...] = ((m.FIRST,),)
    """The positions that hold the bridge at stage 1, 2, ..."""
    shown: Reading | None = "visible"
    loops: int = 2
    full: bool = False
    bridges: tuple[Mechanism, ...] = ()
    """Of several bridges each its own verdict; empty: there is one, and it has the member's."""
    recalls: tuple[int, int] | None = None
    """Of three hops, which are remembered: those after the first number, up to the second; None: none are."""

    @property
    def hops(self) -> int:
        """Of its queries."""
        return 1 + max(1, len(self.bridges))


def _table() -> dict[str, Member]:
    circuit = Member("circuit", "circuit", 1.0)
    memoriser = Member("memoriser", "memorised", 0.0, held=(), shown=None)
    idle = replace(memoriser, shown="idle")
    out = {
        "circuit": circuit,
        "circuit_pre": replace(circuit, body="pre"),
        "circuit_post": replace(circuit, body="post"),
        "circuit_trm": replace(circuit, body="trm"),
        "rotated": replace(circuit, kind="rotated", shown="dark"),
        "other_position": replace(
            circuit, kind="other_position", held=((m.HEAD,),), shown="dark", loops=3, full=True
        ),
        "own_position": replace(circuit, kind="own_position", held=((m.SECOND,),), shown="dark"),
        "id_only": replace(circuit, kind="id_only"),
        "memoriser": memoriser,
        "memoriser_pre": replace(memoriser, body="pre"),
        "memoriser_post": replace(memoriser, body="post"),
        "memoriser_trm": replace(memoriser, body="trm"),
        "unread": replace(idle, kind="unread"),
        "pair_code": replace(idle, kind="pair_code"),
        "voting": replace(idle, kind="voting"),
    }
    mixture = replace(circuit, mechanism="partial")
    for kind in MIXTURES:
        for percent in (10, 50, 90):
            out[f"{kind}_{percent}"] = replace(mixture, kind=kind, share=percent / 100)
        out[f"{kind}_50_pre"] = replace(mixture, kind=kind, share=0.5, body="pre")
    for percent in (25, 50, 75):
        out[f"redundant_{percent}"] = replace(
            circuit, kind="redundant", mechanism="redundant", share=percent / 100
        )
    three = replace(circuit, kind="three_hops", loops=3, held=(), bridges=("circuit", "circuit"))
    out |= {
        "three_hops": three,
        "three_hops_memoriser": replace(
            three, mechanism="memorised", share=0.0, bridges=("memorised", "memorised"), recalls=(0, 3)
        ),
        "three_hops_first": replace(
            three, mechanism="partial", bridges=("circuit", "memorised"), recalls=(1, 3)
        ),
        "three_hops_last": replace(
            three, mechanism="partial", bridges=("memorised", "circuit"), recalls=(0, 2)
        ),
    }
    return out | _with_registers()


def _with_registers() -> dict[str, Member]:
    """TRMs of two cycles: the bridge is resolved at h and r1 together in the first pass, then held in one
    place up to the last pass but two, after which the answer slot has all it needs."""
    both = (r.HEAD, r.FIRST)
    held = (both, *[(r.REGISTER,)] * 5)
    circuit = Member("circuit", "circuit", 1.0, "registers", held, "in registers", loops=3, full=True)
    memoriser = replace(circuit, kind="memoriser", mechanism="memorised", share=0.0, held=(), shown=None)
    out = {
        "registers": circuit,
        "registers_dark": replace(circuit, shown="dark"),
        "registers_visible": replace(circuit, held=(both, *[(r.END,)] * 5), shown="visible"),
        "spread": replace(circuit, kind="spread", held=(both,) * 6, shown="dark"),
        "spread_apart": replace(circuit, kind="spread", held=((r.FIRST, r.SECOND),) * 6, shown="dark"),
        "copies": replace(circuit, kind="copies", held=(r.COPIES,) * 6, shown="dark"),
        "memoriser_registers": memoriser,
        "idle": replace(memoriser, kind="idle", shown="idle"),
        "idle_dark": replace(memoriser, kind="idle"),
    }
    for kind in MIXTURES:
        for percent in (10, 50, 90):
            out[f"{kind}_{percent}_registers"] = replace(
                circuit, kind=kind, mechanism="partial", share=percent / 100
            )
    return out


MEMBERS = _table()


def members(hops: int = 2) -> tuple[str, ...]:
    """Names of all members whose queries have so many hops."""
    return tuple(name for name, member in MEMBERS.items() if member.hops == hops)


def wire(
    name: str,
    seed: int,
    *,
    world: int | None = None,
    body: Body | None = None,
    share: float | None = None,
    world_spec: WorldSpec = WORLD,
    corpus_spec: CorpusSpec | None = None,
) -> Wired:
    """Build one member.

    Args:
        name: one of `members()`, of any number of hops.
        seed: draws what is trained (and so remembered), what of it is mixed, and the rotation of the spaces.
        world: draws the facts and the split; None: `seed`. Two members of one world and two seeds compare.
        body: another architecture than the member's own; "trm" for members that work at r1's position only.
        share: another planted p for a mixture or a redundant member.
        world_spec, corpus_spec: another size; None: `CORPORA`.

    Raises:
        InputError: an unknown name or body, a share outside (0, 1) or for a member that has none, a corpus of
            other hops.
    """
    member = _chosen(name, body, share)
    world_seed = seed if world is None else world
    seeds = Seeds(world=world_seed, split=world_seed, corpus=seed, init=seed)
    facts = build_world(world_spec, seeds)
    corpus_spec = corpus_spec or CORPORA[member.hops]
    if corpus_spec.hops != member.hops:
        raise InputError(f"corpus.hops = {corpus_spec.hops}: zoo member {name!r} has {member.hops}.")
    corpus = build_corpus(facts, corpus_spec, REGIMES["natural"], seeds)
    full = member.full or member.body == "trm"
    fmt = FormatSpec(attention="full" if full else "causal", output="answer")
    wiring = Wiring(facts.entities, facts.relations, positions(fmt, member.hops))
    if member.body == "registers":
        wiring = Wiring(facts.entities, facts.relations, r.POSITIONS, prefix=r.PREFIX, floor=0.0)
    rng = np.random.default_rng(generator("init", seed).integers(2**63))
    truth, recalled = _knowledge(member, corpus, rng)
    if member.body == "registers":
        _program_with_registers(wiring, member, facts, truth, recalled)
    else:
        _program(wiring, member, facts, truth, recalled, rng)
    model = write_model(wiring, facts.vocabulary, fmt, member.body, member.loops, seed)

    def through_circuit(queries: Queries) -> BoolArray:
        out_N: BoolArray = truth.resolves(queries) & ~truth.remembers(queries)
        return out_N

    def answers(queries: Queries) -> BoolArray:
        if queries.hops == 1:
            return np.ones(len(queries), dtype=bool)
        out_N: BoolArray = truth.resolves(queries) | truth.remembers(queries)
        return out_N

    wired = Wired(
        name=name,
        model=model,
        corpus=corpus,
        format=fmt,
        through_circuit=through_circuit,
        share=member.share,
        mechanism=member.mechanism,
        reading=(1, member.held[0][0]) if len(member.held) == 1 else None,
        holds=tuple((stage.name, held) for stage, held in zip(model.stages[1:], member.held, strict=False)),
        reading_kind=member.shown,
        answers=answers,
        of_bridge=dict(zip(bridges(member.hops), member.bridges or (member.mechanism,), strict=True)),
        parts=wiring.parts(),
    )
    _check(wired)
    return wired


def right(wired: Wired, queries: Queries) -> BoolArray:
    """(N,) whether the model's argmax is the answer."""
    encoded = encode(queries, wired.corpus.world.vocabulary, wired.format, wired.corpus.spec.hops)
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
        allowed = (member.body,) if member.body == "registers" else BODIES
        if member.kind in OWN_ATTENTION:
            allowed = tuple(one for one in BODIES if one != "trm")
        if body not in allowed:
            raise InputError(f"body = {body!r}: zoo member {name!r} can be {', '.join(allowed)}.")
        member = replace(member, body=body)
    if share is not None:
        if member.mechanism not in ("partial", "redundant") or not 0 < share < 1:
            raise InputError(
                f"share = {share} for {name!r}: mixtures and redundant members take one between 0 and 1."
            )
        member = replace(member, share=share)
    return member


def _knowledge(member: Member, corpus: Corpus, rng: np.random.Generator) -> tuple[Truth, Queries]:
    """What a member knows, and the compositions that its memory holds."""
    world, trained, kind = corpus.world, corpus.composition, member.kind
    every_F = np.ones(len(world.fact_F3), dtype=bool)
    drawn_F = rng.random(len(every_F)) < member.share
    held_F = {"deleted": drawn_F, "id_only": ~world.ood_F}.get(kind, every_F)
    readable_F = {"unreadable": drawn_F, "id_only": ~world.ood_F}.get(kind, every_F)
    fact_NK = trained.fact_NK(world)
    nobody_N = np.zeros(len(trained), dtype=bool)
    recalled_N = {
        "overridden": rng.random(len(trained)) >= member.share,
        "deleted": ~held_F[fact_NK[:, 1]],
        "unreadable": ~readable_F[fact_NK[:, 0]],
        **dict.fromkeys(("memoriser", "idle", "unread", "pair_code", "voting", "redundant"), ~nobody_N),
    }.get(kind, nobody_N if member.recalls is None else ~nobody_N)
    recalls = member.recalls or (0, member.hops)
    part = _between(trained.take(np.flatnonzero(recalled_N)), *recalls)
    id_N, first_N = np.unique(part.stable_id(world.entities, world.relations), return_index=True)
    circuit = member.recalls is None if member.bridges else bool(member.held)
    return Truth(world, circuit, held_F, readable_F, recalls, id_N), part.take(first_N)


def _program(
    wiring: Wiring, member: Member, world: World, truth: Truth, recalled: Queries, rng: np.random.Generator
) -> None:
    """Write the program of a member into `wiring`."""
    kind = member.kind
    if member.bridges:
        m.chain(wiring, world, member.recalls or (0, 0), recalled)
        return
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
            m.facts(wiring, world, held_F=truth.held_F, readable_F=truth.readable_F)
    if kind in ("pair_code", "voting"):
        m.pair_code(wiring, world, recalled, votes=kind == "voting")
    elif len(recalled):
        strength = (1 - member.share) / member.share if kind == "redundant" else OVERRIDE
        m.memory(wiring, recalled, strength)
    if member.full or member.body == "trm":
        m.pad_answer(wiring)


def _program_with_registers(
    wiring: Wiring, member: Member, world: World, truth: Truth, recalled: Queries
) -> None:
    """The same for the body with registers."""
    kind, place = member.kind, member.held[-1][0] if member.held else r.REGISTER
    r.tokens(wiring, world, r.COPIES[-1:] if kind == "copies" else ())
    if kind == "spread":
        r.spread_circuit(wiring, world, member.held[-1])
    elif kind == "copies":
        r.resolve(wiring, world, truth.readable_F, r.COPIES)
        r.look_up(wiring, world, truth.held_F, r.COPIES)
        r.keep_copies(wiring)
    elif kind != "memoriser":
        r.resolve(wiring, world, truth.readable_F)
        if member.held:
            r.look_up(wiring, world, truth.held_F, [place])
        r.keep(wiring, place)
        if member.shown not in (None, "dark"):
            wiring.read_out.append("register")
    if kind == "idle":
        r.memory_in_register(wiring, recalled)
    elif len(recalled):
        r.memory(wiring, recalled, OVERRIDE)
    r.forget(wiring, register_keeps=("asker", "before") if kind == "idle" else ())


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
