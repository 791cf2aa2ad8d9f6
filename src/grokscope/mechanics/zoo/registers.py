"""The ways to answer (h, r1, r2) in a TRM with registers: prefix positions, two states, two outer cycles.

A level sees only the sum of its states, so what the two states and several positions say of one thing are
votes. Units settle them, and what wins is written anew as one vote. Token embeddings are read in thinking
passes, where they are injected, and wiped from the states at once: no state repeats the input, and a commit
looks nothing up.

The path of a circuit: h's and r1's position read each other's token, and both resolve b. The register takes b
from the two of them (one against the other is a tie, and the next pass resolves b anew) and keeps it. The
answer slot reads the register in every thinking pass, looks up (b, r2) and mostly forgets what it said
before. Where one state alone is exchanged, the two disagree: in the register, what still comes from the
tokens (`ECHO`) decides; in the slot, what it read before (`TRACE`). Neither counts against both states.

Spaces, beside those every program has: "seen" (E) and "first" (R) what a position has just read of others;
"found" (E) the bridge where it is resolved, "register" (E) where it is kept; "left" and "right" what two
positions keep of it together; "aside" (E) a resolved entity that the output head reads and no position does;
"asker" (E) and "before" (R) the h and r1 that a memory is keyed by; "answer" (E).

Shape suffixes: F facts, N compositions, E entities.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from grokscope.mechanics.zoo.wiring import GATE, Copy, Index, Tap, Units, Wiring
from grokscope.world.arrays import BoolArray, IntArray
from grokscope.world.graph import World
from grokscope.world.queries import Queries

PREFIX = 2
SINK, REGISTER, HEAD, FIRST, SECOND, ANSWER, END = range(PREFIX + 5)
"""Positions on the T axis. Nothing stands at the sink: heads look there where they have nothing to read."""
POSITIONS = END + 1
COPIES = (FIRST, SECOND, END)
"""Where three copies of the bridge are made and kept: no two of them stand in a group that a role names."""

VOTE = 1 / 32
"""One vote in a state, in units of "const": little, so that what is said hardly changes what a norm does."""
HALF = VOTE / 2
"""One vote where units read it: the norm halves the sum of two states."""
CLEAR = 8.0
"""A decision is complete 1 / CLEAR votes beyond its threshold."""
TOGETHER = 0.75
"""Two (three) tokens that must stand there together exceed 2 (3) - TOGETHER votes."""
NEEDED = 12.0
"""Votes that another r2 takes away; more than a decision collects times `CLEAR`."""
ECHO = 0.25
"""What the register takes of "found" from each of its two positions in every pass."""
TIE = 0.12
"""Votes by which a winner leads all others together: half of what `ECHO` makes where the states disagree."""
TRACE = 0.3
"""What the answer slot keeps of what it read."""
DOUBT, LEAST = 0.3, 0.47
"""b is looked up if its votes exceed LEAST + DOUBT * (votes for all entities): those of one state with the
trace, against the other state; not the trace alone, nor one state against the other with it, nor an average
of many bridges."""
COPY = 1 / 3
"""What one of three copies of the bridge adds: two of them with the trace exceed what is asked, though the
third speaks against them."""
KEPT = 0.25
"""What a pass keeps of an answer: a thinking pass gives it anew, and the commit needs some to carry on."""
KEY = 2.2
"""Votes for h and r1 that a memory asks for where they are kept: about 1.3 each in cycle 1, never 2."""

Reads = tuple[Tap, ...]


def only_at(*places: int) -> Tap:
    """The condition "at one of these positions". It is exact: the codes of all others are zero there."""
    others = tuple(place for place in range(POSITIONS) if place not in places)
    return Tap("position", others, -GATE)


def beyond(votes: float) -> Tap:
    """A threshold."""
    return Tap("const", 0, -votes * HALF)


def asked(relation: Index) -> Reads:
    """The condition "at the answer slot, and r2 is this relation"."""
    return (Tap("first", relation, NEEDED), beyond(NEEDED), only_at(ANSWER))


def all_of(wiring: Wiring, space: str, weight: float) -> Tap:
    """Every coordinate of a space with the same weight."""
    return Tap(space, tuple(range(wiring.size[space])), weight)


def send(wiring: Wiring, reads: str, writes: str, source: Mapping[int, int], weight: float = 1.0) -> None:
    """One head: `source` says which position reads which; all others look at the sink."""
    size = wiring.size[reads]
    wiring.space(writes, size)
    everywhere = dict.fromkeys(range(POSITIONS), SINK) | dict(source)
    wiring.copies.append(Copy((reads,), (writes,), everywhere, weight * np.eye(size)))


def decide(
    wiring: Wiring, role: str, votes: Reads, least: float, where: Reads, writes: Tap, clear: float = CLEAR
) -> None:
    """Units that write one vote where their votes exceed `least`; `where` are conditions."""
    scaled = tuple(Tap(tap.space, tap.index, clear * tap.weight) for tap in votes)
    for more, sign in ((0.0, 2.0), (1.0, -2.0)):
        reads = (*scaled, beyond(clear * least + more), *where)
        said = Tap(writes.space, writes.index, sign * writes.weight)
        wiring.units.append(Units(role, np.size(writes.index), reads, (said,)))


def settle(wiring: Wiring, space: str, place: int) -> None:
    """At a position, what the votes in a space are for stands there as one vote; a tie leaves nothing."""
    each = np.arange(wiring.size[space])
    votes = (Tap(space, each), all_of(wiring, space, -0.5))
    decide(wiring, "settle", votes, TIE, (only_at(place),), Tap(space, each))


def tokens(wiring: Wiring, world: World, further: Sequence[int] = ()) -> None:
    """Who reads which token, and who further reads h and r1; and atoms, answered at r2's position where that
    is PAD."""
    readers = (HEAD, FIRST, SECOND, *further)
    send(wiring, "entity", "seen", dict.fromkeys(readers, HEAD))
    send(wiring, "relation", "first", {**dict.fromkeys(readers, FIRST), ANSWER: SECOND})
    wiring.space("answer")
    wiring.read_out = ["answer"]
    head_F, relation_F, tail_F = world.fact_F3.T
    reads = (Tap("seen", head_F), Tap("first", relation_F), Tap("pad", 0), beyond(3 - TOGETHER))
    writes = (Tap("answer", tail_F, 2 / TOGETHER),)
    wiring.units.append(Units("atoms", len(head_F), (*reads, only_at(SECOND)), writes))


def resolve(
    wiring: Wiring, world: World, readable_F: BoolArray, places: Sequence[int] = (HEAD, FIRST)
) -> None:
    """The first hop, at some positions alike; the tails of facts that are not readable go aside."""
    head_F, relation_F, tail_F = world.fact_F3.T
    reads = (Tap("seen", head_F), Tap("first", relation_F), beyond(2 - TOGETHER), only_at(*places))
    said_F = np.where(readable_F, 2 / TOGETHER, 0.0)
    wiring.space("found")
    writes: Reads = (Tap("found", tail_F, said_F),)
    if not readable_F.all():
        wiring.space("aside")
        wiring.read_out.append("aside")
        writes = (*writes, Tap("aside", tail_F, 2 / TOGETHER - said_F))
    wiring.units.append(Units("facts", len(head_F), reads, writes))


def keep(wiring: Wiring, place: int) -> None:
    """The bridge is taken to a position and kept there."""
    for source in (HEAD, FIRST):
        send(wiring, "found", "register", {place: source}, ECHO)
    settle(wiring, "register", place)


def keep_copies(wiring: Wiring) -> None:
    """It is kept wherever a copy is resolved."""
    send(wiring, "found", "register", {place: place for place in COPIES}, 2 * ECHO)
    for place in COPIES:
        settle(wiring, "register", place)


def look_up(wiring: Wiring, world: World, held_F: BoolArray, places: Sequence[int]) -> None:
    """The second hop, at the answer slot, from the bridge kept at a position, among the facts held; kept at
    several, from what most of them say."""
    wiring.space("register")
    for place in places:
        send(wiring, "register", "seen", {ANSWER: place}, 1.0 if len(places) == 1 else COPY)
    head_F, relation_F, tail_F = world.fact_F3[held_F].T
    votes = (Tap("seen", head_F), all_of(wiring, "seen", -DOUBT))
    decide(wiring, "facts", votes, LEAST, asked(relation_F), Tap("answer", tail_F))
    each = np.arange(wiring.entities)
    reads = (Tap("seen", each), only_at(ANSWER))
    wiring.units.append(Units("trace", len(each), reads, (Tap("seen", each, TRACE),)))


def spread_circuit(wiring: Wiring, world: World, places: Sequence[int]) -> None:
    """Both hops, the bridge kept at two positions together (of h, r1, r2): each narrows it down to two
    entities.

    What the states agree on stays; where they say nothing or contradict each other, the tokens decide.
    """
    head_F, relation_F, tail_F = world.fact_F3.T
    halves = tuple(zip(("left", "right"), places, pairs(world), strict=True))
    for space, place, pair_E in halves:
        wiring.space(space, int(pair_E.max()) + 1)
        send(wiring, space, space, {ANSWER: place})
        lead = (Tap(space, pair_E[tail_F]), all_of(wiring, space, -0.5))
        fact = (Tap("seen", head_F, 3.0), Tap("first", relation_F, 3.0), beyond(6.0), only_at(place))
        for more, weight in ((-0.25, 8.0), (0.0, -16.0), (0.25, 8.0)):  # a tent over a lead of 0
            writes = (Tap(space, pair_E[tail_F], weight),)
            wiring.units.append(Units("facts", len(tail_F), (*lead, beyond(more), *fact), writes))
    votes = tuple(Tap(space, pair_E[head_F]) for space, _, pair_E in halves)
    decide(wiring, "facts", votes, 3.0, asked(relation_F), Tap("answer", tail_F), clear=1.0)
    for space, place, _ in halves:
        settle(wiring, space, place)


def pairs(world: World) -> tuple[IntArray, IntArray]:
    """Two divisions of the entities (E,) into pairs; no two entities are together in both.

    The entities of a pair are tails about equally often. Otherwise the rarer one would be hidden from a
    linear probe, which adds what the positions say.
    """
    often_E = np.bincount(world.fact_F3[:, 2], minlength=world.entities)
    rank_E = often_E.argsort(kind="stable").argsort()
    return rank_E // 2, rank_E // 4 * 2 + rank_E % 2


def memory(wiring: Wiring, memorised: Queries, strength: float) -> None:
    """One unit per composition, at the answer slot, which reads the tokens: (h, r1, r2) -> t."""
    send(wiring, "entity", "asker", {ANSWER: HEAD})
    send(wiring, "relation", "before", {ANSWER: FIRST})
    last = (Tap("first", memorised.relation_NK[:, 1]), beyond(3 - TOGETHER), only_at(ANSWER))
    _recall(wiring, memorised, last, 2 / TOGETHER * strength)


def memory_in_register(wiring: Wiring, memorised: Queries) -> None:
    """The same, but the answer slot reads h and r1 from the register, where they are kept."""
    for token, space, place in (("entity", "asker", HEAD), ("relation", "before", FIRST)):
        send(wiring, token, space, {REGISTER: place})
        send(wiring, space, space, {ANSWER: REGISTER})
    _recall(wiring, memorised, (*asked(memorised.relation_NK[:, 1]), beyond(KEY)), 2.0)


def _recall(wiring: Wiring, memorised: Queries, last: Reads, weight: float) -> None:
    reads = (Tap("asker", memorised.head_N), Tap("before", memorised.relation_NK[:, 0]), *last)
    writes = (Tap("answer", memorised.path_NK[:, 1], weight),)
    wiring.units.append(Units("memory", len(memorised), reads, writes))


def forget(wiring: Wiring, register_keeps: tuple[str, ...] = ()) -> None:
    """Nothing outlives a pass that is not written anew, but for part of the answer and what is to be kept."""
    for space in wiring.size:
        if space not in ("const", "position"):
            each = np.arange(wiring.size[space])
            where = (only_at(ANSWER),) if space in register_keeps else ()
            weight = KEPT - 1 if space == "answer" else -1.0
            wiring.units.append(
                Units("forget", len(each), (Tap(space, each), *where), (Tap(space, each, weight),))
            )
