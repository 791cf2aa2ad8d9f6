"""Models of known truth: the zoo's circuit, written for a world with new facts that fail in one known way."""

from functools import cache
from typing import Literal

import numpy as np

from grokscope.mechanics.zoo.mechanisms import facts, late_atoms, previous_token
from grokscope.mechanics.zoo.weights import write_model
from grokscope.mechanics.zoo.wiring import Wiring
from grokscope.models.protocol import Reasoner
from grokscope.seeds import Seeds
from grokscope.world import REGIMES, CorpusSpec, FormatSpec, WorldSpec, build_corpus, build_world, positions
from grokscope.world.graph import make_world
from grokscope.world.newfacts import NewFacts, build_new_facts
from grokscope.world.newfacts_spec import NewFactsSpec, RetentionSpec

FORMAT = FormatSpec(attention="causal", output="answer")
Flaw = Literal["none", "late", "unreadable", "unheld"]
"""none: new facts work like old ones; late: they are resolved in the last pass only; unreadable: their tail
is resolved in time where the output head reads it and no other position; unheld: they fail as second
hop."""


@cache
def new_facts() -> NewFacts:
    seeds = Seeds()
    world = build_world(WorldSpec(entities=30, relations=12, degree=7, ood_fraction=0.1), seeds)
    corpus = build_corpus(world, CorpusSpec(phi=3.0, iid_fraction=0.1), REGIMES["natural"], seeds)
    spec = NewFactsSpec(count=60, probes=200, retention=RetentionSpec(items="all"))
    return build_new_facts(corpus, spec, seeds)


@cache
def model(flaw: Flaw) -> Reasoner:
    """A model that answers every atom, old and new, and every old composition."""
    new = new_facts()
    world = new.world
    wiring = Wiring(world.entities, world.relations, positions(FORMAT))
    previous_token(wiring)
    held_F, readable_F = np.ones((2, len(world.fact_F3)), dtype=bool)
    if flaw == "unheld":
        held_F = ~new.new_F
    if flaw == "unreadable":
        readable_F = ~new.new_F
    if flaw == "late":
        old_F, new_F = np.flatnonzero(~new.new_F), np.flatnonzero(new.new_F)
        facts(wiring, make_world(world.vocabulary, world.fact_F3[old_F], world.ood_F[old_F]))
        late_atoms(wiring, make_world(world.vocabulary, world.fact_F3[new_F], world.ood_F[new_F]))
    else:
        facts(wiring, world, held_F=held_F, readable_F=readable_F)
    return write_model(wiring, world.vocabulary, FORMAT, "free", 2, 0)
