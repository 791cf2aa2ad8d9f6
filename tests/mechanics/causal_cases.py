"""Small worlds and models for the causal tests."""

from functools import cache

from grokscope.mechanics.patch.interchange import Setting
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.zoo import Wired, wire
from grokscope.models.build import build_model
from grokscope.models.protocol import Reasoner
from grokscope.models.spec import LoopedSpec, RecursiveSpec
from grokscope.seeds import Seeds
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.format import FormatSpec, positions
from grokscope.world.graph import build_world
from grokscope.world.probes import ProbeSet
from grokscope.world.spec import REGIMES, CorpusSpec, WorldSpec

CAUSAL = FormatSpec(attention="causal", output="answer")
FULL = FormatSpec()
MODELS = {
    "looped": (LoopedSpec(width=16, heads=2, layers=2, loops=2), CAUSAL),
    "mixer": (RecursiveSpec(width=16, l_cycles=2, h_cycles=2, prefix=2), FULL),
    "attention": (
        RecursiveSpec(width=16, heads=2, mixer=False, positions="rotary", l_cycles=1, h_cycles=2, prefix=1),
        FULL,
    ),
}


@cache
def corpus() -> Corpus:
    world = build_world(WorldSpec(entities=20, relations=8, degree=5, ood_fraction=0.1), Seeds())
    return build_corpus(world, CorpusSpec(phi=2.0, iid_fraction=0.1), REGIMES["natural"], Seeds())


def model_of(kind: str, dtype: str = "float32", seed: int = 0) -> Reasoner:
    spec, fmt = MODELS[kind]
    return build_model(spec, corpus().world.vocabulary.size, positions(fmt), fmt, seed, dtype).eval()


def setting_of(kind: str) -> Setting:
    return Setting(corpus().world, corpus().composition, MODELS[kind][1])


def probes(most: int) -> ProbeSet:
    some = corpus().probes["train_inferred"]
    return some_probes(some, setting_of("looped").encode(some.queries), most)[0]


@cache
def wired(name: str) -> Wired:
    return wire(name, 0)


def wired_case(name: str, most: int = 160) -> tuple[Wired, ProbeSet, Setting]:
    one = wired(name)
    setting = Setting(one.corpus.world, one.corpus.composition, one.format)
    some = one.corpus.probes["train_inferred"]
    return one, some_probes(some, setting.encode(some.queries), most)[0], setting
