"""The ways to answer (h, r1, r2), as programs. Each function adds one to a `Wiring`.

Spaces, beside those every program has: "prev" (E) what the position before holds; "aside" (E) an entity that
the output head reads and no other position does; "relay_entity", "relay_relation" copies that appear one
pass later; "head" with "head_const", "first" with "first_const" what r2's position has read of h and r1;
"bridge" (E) a bridge in a space of its own; "code" with "code_const" one coordinate per fact.
In chains of three hops "asker" (E), "asked0" and "asked1" (R) what a memory has read, "ripe1" and "ripe2" (1)
how many passes have been made, "spent" (1) that r1's position has looked up, "found_const" (1) the
reference of what it found.

A head that copies a reference ("const") along with its values keeps conditions on them exact at any scale.

Shape suffixes: F facts, N compositions, E entities, R relations.
"""

import numpy as np

from grokscope.mechanics.zoo.wiring import GATE, FloatArray, Tap, Units, Wiring, at, is_true, never_at
from grokscope.world.arrays import BoolArray
from grokscope.world.graph import World
from grokscope.world.queries import Queries

HEAD, FIRST, SECOND, THIRD = range(4)
"""Positions of h, r1, r2 and r3."""
R2_EVIDENCE = 0.03
"""What r2 alone adds for every composition of it that a voting memoriser holds; the pair (h, r1) adds 1."""
CODE_THRESHOLD = 0.4
"""Share of a whole code below which a unit of the pair-code memoriser is silent."""


def previous_token(wiring: Wiring) -> None:
    """Every position reads the entity of the position before."""
    wiring.copy("entity", "prev", {i: i - 1 for i in range(1, wiring.positions)})


def facts(
    wiring: Wiring,
    world: World,
    *,
    held_F: BoolArray | None = None,
    readable_F: BoolArray | None = None,
    only_first: bool = False,
    never: tuple[Tap, ...] = (),
    source: str = "prev",
    into: str = "entity",
) -> None:
    """One unit per fact: (entity in `source`, relation here) -> tail, at r1's and at r2's position alike.

    Args:
        held_F: facts that work as second hop; the others are silent at r2's position. None: all.
        readable_F: facts whose tail goes where the next position reads; the others' goes aside. None: all.
        only_first: no unit works at r2's position.
        never: where these say so, no unit works.
    """
    head_F, relation_F, tail_F = world.fact_F3.T
    size = len(head_F)
    silent_F = np.full(size, only_first) if held_F is None else ~held_F | only_first
    silence = never_at(SECOND)
    reads = (
        Tap(source, head_F),
        *is_true("relation", relation_F),
        Tap(silence.space, silence.index, np.where(silent_F, silence.weight, 0.0)),
        *never,
    )
    open_F = np.ones(size) if readable_F is None else readable_F.astype(float)
    writes: tuple[Tap, ...] = (Tap(into, tail_F, open_F),)
    if not open_F.all():
        wiring.space("aside")
        writes = (*writes, Tap("aside", tail_F, 1 - open_F))
    if "aside" in wiring.size and "aside" not in wiring.read_out:
        wiring.read_out.append("aside")
    wiring.units.append(Units("facts", size, reads, writes))


def late_atoms(wiring: Wiring, world: World) -> None:
    """Atomic queries answered at r1's position, one pass later than they could be, and nowhere else."""
    wiring.space("relay_entity")
    every_E = np.arange(world.entities)
    wiring.units.append(
        Units("relay", len(every_E), (Tap("prev", every_E), *at(FIRST)), (Tap("relay_entity", every_E),))
    )
    facts(wiring, world, only_first=True, source="relay_entity")


def pad_answer(wiring: Wiring) -> None:
    """At a PAD position, the entity of the position before, aside or not, is the answer (full attention)."""
    every_E = np.arange(wiring.entities)
    reads: tuple[Tap, ...] = (Tap("prev", every_E), *is_true("pad", 0))
    if "aside" in wiring.size:
        wiring.copy("aside", "prev_aside", {i: i - 1 for i in range(1, wiring.positions)})
        reads = (*reads, Tap("prev_aside", every_E))
    wiring.units.append(Units("answer", len(every_E), reads, (Tap("entity", every_E),)))


def memory(wiring: Wiring, memorised: Queries, strength: float = 1.0) -> None:
    """One unit per composition, at r2's position: (h, r1, r2) -> t, times `strength`.

    h is read from its own position, r1 from its position after the first pass (through a relay), so that the
    memory works in the very pass in which a circuit reads the bridge.
    """
    wiring.space("relay_relation", wiring.relations)
    wiring.copy(("entity", "const"), ("head", "head_const"), {SECOND: HEAD})
    wiring.copy("relay_relation", "first", {SECOND: FIRST, FIRST: HEAD})
    every_R = np.arange(wiring.relations)
    wiring.units.append(
        Units(
            "relation_relay",
            len(every_R),
            (Tap("relation", every_R), *at(FIRST)),
            (Tap("relay_relation", every_R),),
        )
    )
    reads = (
        Tap("first", memorised.relation_NK[:, 0]),
        *is_true("head", memorised.head_N, "head_const"),
        *is_true("relation", memorised.relation_NK[:, 1]),
        *at(SECOND),
    )
    writes = (Tap("entity", memorised.path_NK[:, 1], strength),)
    wiring.units.append(Units("memory", len(memorised), reads, writes))


def chain(wiring: Wiring, world: World, recalled: tuple[int, int], memorised: Queries) -> None:
    """Three hops, one per pass, each at its relation's position: looked up, but for some that are remembered.

    r1's position looks up in the first pass only: a bridge resolved twice would be read twice, and add up.

    Args:
        recalled: those after the first number, up to the second. memorised: what is remembered of them.
    """
    after, until = recalled
    wiring.space("spent", 1)
    spent = Tap("spent", 0, -GATE)
    previous_token(wiring)
    wiring.copy("const", "prev_const", {FIRST: HEAD})
    # Atoms are looked up by all.
    never = tuple(never_at(place) for place in range(max(after, FIRST) + 1, until + 1))
    facts(wiring, world, never=(spent, *never))
    found: tuple[Tap, ...] = (Tap("prev_const", 0), spent, *at(FIRST))
    wiring.space("found_const", 1)
    wiring.units.append(Units("found_const", 1, found, (Tap("found_const", 0),)))
    wiring.units.append(Units("spent", 1, (Tap("const", 0), *at(FIRST)), (Tap("spent", 0),)))
    if len(memorised):
        recall(wiring, memorised, until)


def recall(wiring: Wiring, memorised: Queries, place: int) -> None:
    """One unit per query, at a position, in the pass of its number: (entity as many positions earlier as
    there are hops, the relations from there to here) -> its answer."""
    hops = memorised.hops
    reference = "const" if place == hops else "found_const"
    wiring.copy(("entity", reference), ("asker", "asker_const"), {place: place - hops})
    reads: tuple[Tap, ...] = (*is_true("asker", memorised.head_N, "asker_const"), *at(place))
    for k in range(hops - 1):
        names = (f"asked{k}", f"asked{k}_const")
        wiring.copy(("relation", "const"), names, {place: place - hops + 1 + k})
        reads = (*reads, *is_true(names[0], memorised.relation_NK[:, k], names[1]))
    before = "const"
    for k in range(1, place):
        wiring.space(f"ripe{k}", 1)
        ripe = (Tap(before, 0), Tap(f"ripe{k}", 0, -GATE), *at(place))
        wiring.units.append(Units(f"ripe{k}", 1, ripe, (Tap(f"ripe{k}", 0),)))
        before = f"ripe{k}"
    reads = (Tap(before, 0), *reads, *is_true("relation", memorised.relation_NK[:, -1]))
    wiring.units.append(Units("memory", len(memorised), reads, (Tap("entity", memorised.path_NK[:, -1]),)))


def pair_code(wiring: Wiring, world: World, memorised: Queries, votes: bool) -> None:
    """A memory by a code of the pair (h, r1), made at r1's position and read from there by r2's.

    Args:
        votes: any fraction of a code counts, and r2 alone adds a little for all its compositions; otherwise
        a unit
            wants most of its own code, and an average of many says nothing.
    """
    head_F, relation_F, _ = world.fact_F3.T
    size = len(head_F)
    wiring.space("code", size)
    wiring.space("code_const", 1)
    wiring.copy("const", "prev_const", {FIRST: HEAD})
    wiring.copy(("code", "code_const"), ("code", "code_const"), {SECOND: FIRST, FIRST: HEAD})
    reads = (Tap("prev", head_F), *is_true("relation", relation_F), *at(FIRST))
    wiring.units.append(Units("code", size, reads, (Tap("code", np.arange(size)),)))
    wiring.units.append(Units("code_const", 1, (Tap("prev_const", 0), *at(FIRST)), (Tap("code_const", 0),)))
    code_N = world.fact_of_ER[memorised.head_N, memorised.relation_NK[:, 0]]
    bias = R2_EVIDENCE if votes else -CODE_THRESHOLD
    recall = (
        Tap("code", code_N),
        Tap("code_const", 0, bias),
        *is_true("relation", memorised.relation_NK[:, 1]),
        *at(SECOND),
    )
    wiring.units.append(Units("memory", len(memorised), recall, (Tap("entity", memorised.path_NK[:, 1]),)))


def rotated_circuit(wiring: Wiring, world: World, turn_EE: FloatArray) -> None:
    """The two-hop circuit with the bridge in a space the head does not read, turned by `turn_EE`.

    r1's position shows b to the output head only one pass after r2's position has read it.
    """
    wiring.space("bridge")
    wiring.copy("entity", "prev", {FIRST: HEAD})
    wiring.copy("bridge", "prev", {SECOND: FIRST, FIRST: HEAD}, basis=turn_EE)
    head_F, relation_F, tail_F = world.fact_F3.T
    first = (Tap("prev", head_F), *is_true("relation", relation_F), *at(FIRST))
    wiring.units.append(Units("facts", len(head_F), first, (), "bridge", turn_EE[tail_F]))
    second = (Tap("prev", head_F), *is_true("relation", relation_F), *at(SECOND))
    wiring.units.append(Units("facts", len(head_F), second, (Tap("entity", tail_F),)))
    wiring.space("relay_entity")
    every_E = np.arange(world.entities)
    wiring.units.append(
        Units("relay", len(every_E), (Tap("prev", every_E), *at(FIRST)), (Tap("relay_entity", every_E),))
    )
    late = (Tap("relay_entity", head_F), *is_true("relation", relation_F), *at(FIRST))
    wiring.units.append(Units("atoms", len(head_F), late, (Tap("entity", tail_F),)))


def circuit_at_head(wiring: Wiring, world: World) -> None:
    """The bridge is resolved at h's position, which reads r1, and is fetched from there by r2 (full
    attention)."""
    wiring.space("bridge")
    wiring.copy(("relation", "const"), ("first", "first_const"), {HEAD: FIRST})
    wiring.copy("bridge", "prev", {SECOND: HEAD})
    wiring.copy("entity", "prev", {i: i - 1 for i in range(SECOND, wiring.positions)})
    head_F, relation_F, tail_F = world.fact_F3.T
    first = (Tap("entity", head_F), *is_true("first", relation_F, "first_const"), *at(HEAD))
    wiring.units.append(Units("facts", len(head_F), first, (Tap("bridge", tail_F),)))
    second = (Tap("prev", head_F), *is_true("relation", relation_F), *at(SECOND))
    wiring.units.append(Units("facts", len(head_F), second, (Tap("entity", tail_F),)))


def circuit_at_second(wiring: Wiring, world: World) -> None:
    """Both hops at r2's position, which reads h and r1 itself; r1's position answers atoms and is not
    read."""
    wiring.space("bridge")
    wiring.copy(("entity", "const"), ("head", "head_const"), {SECOND: HEAD})
    wiring.copy(("relation", "const"), ("first", "first_const"), {SECOND: FIRST})
    wiring.copy("entity", "prev", {FIRST: HEAD})
    head_F, relation_F, tail_F = world.fact_F3.T
    first = (Tap("head", head_F), *is_true("first", relation_F, "first_const"), *at(SECOND))
    wiring.units.append(Units("facts", len(head_F), first, (Tap("bridge", tail_F),)))
    second = (Tap("bridge", head_F), *is_true("relation", relation_F), *at(SECOND))
    wiring.units.append(Units("facts", len(head_F), second, (Tap("entity", tail_F),)))
    atoms = (Tap("prev", head_F), *is_true("relation", relation_F), *at(FIRST))
    wiring.units.append(Units("atoms", len(head_F), atoms, (Tap("entity", tail_F),)))
