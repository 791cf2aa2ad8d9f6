"""What is true, and what the model is shown: facts, ID/OOD split, regimes, corpus, probes, file formats."""

from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.format import Encoded, FormatSpec, encode, positions
from grokscope.world.graph import World, build_world
from grokscope.world.probes import PATTERNS, ProbeSet
from grokscope.world.queries import Queries, atoms
from grokscope.world.spec import REGIMES, CorpusSpec, Regime, WorldSpec
from grokscope.world.storage import inspect, read_corpus, write_corpus
from grokscope.world.vocabulary import Vocabulary

__all__ = [
    "PATTERNS",
    "REGIMES",
    "Corpus",
    "CorpusSpec",
    "Encoded",
    "FormatSpec",
    "ProbeSet",
    "Queries",
    "Regime",
    "Vocabulary",
    "World",
    "WorldSpec",
    "atoms",
    "build_corpus",
    "build_world",
    "encode",
    "inspect",
    "positions",
    "read_corpus",
    "write_corpus",
]
