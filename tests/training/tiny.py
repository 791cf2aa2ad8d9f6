"""A tiny world and tiny models to train, and a program that trains one of them in a process of its own."""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from grokscope.models.build import build_model
from grokscope.models.protocol import Reasoner
from grokscope.models.spec import LoopedSpec, ModelSpec, RecursiveSpec
from grokscope.seeds import Seeds
from grokscope.training.data import TrainingData, training_data
from grokscope.training.loop import train
from grokscope.training.member import Member
from grokscope.training.spec import OptimizerSpec, TrainingSpec
from grokscope.training.stops import Interrupted
from grokscope.training.trainer import TrainingResult
from grokscope.world import (
    REGIMES,
    Corpus,
    CorpusSpec,
    Encoded,
    FormatSpec,
    WorldSpec,
    build_corpus,
    build_world,
    encode,
    positions,
)

FORMATS = {
    "looped": FormatSpec(attention="causal", output="answer"),
    "gpt2": FormatSpec(attention="causal", output="sequence"),
    "recursive": FormatSpec(),
    "mixer": FormatSpec(attention="full", output="answer"),
}
MODELS: dict[str, ModelSpec] = {
    "looped": LoopedSpec(width=16, heads=2, layers=1, loops=2),
    "gpt2": LoopedSpec(
        width=16,
        heads=2,
        layers=2,
        loops=1,
        norm="layernorm",
        norm_position="pre",
        positions="learned",
        bias=True,
    ),
    "recursive": RecursiveSpec(
        width=16, heads=2, layers=1, h_cycles=2, l_cycles=2, prefix=2, mixer=False, positions="learned"
    ),
    "mixer": RecursiveSpec(width=16, heads=2, layers=1, h_cycles=1, l_cycles=1, prefix=2),
}
SEEDS = Seeds(order=3)


@cache
def corpus() -> Corpus:
    world = build_world(WorldSpec(entities=30, relations=8, degree=5, ood_fraction=0.3), Seeds())
    return build_corpus(
        world, CorpusSpec(phi=1.5, iid_fraction=0.1, probe_cap=40), REGIMES["natural"], Seeds()
    )


def model(kind: str = "looped", dtype: str = "float32") -> Reasoner:
    fmt = FORMATS[kind]
    return build_model(MODELS[kind], corpus().world.vocabulary.size, positions(fmt), fmt, 0, dtype)


def data(kind: str = "looped") -> TrainingData:
    return training_data(corpus(), FORMATS[kind], 2)


def probes(kind: str = "looped") -> dict[str, Encoded]:
    vocabulary = corpus().world.vocabulary
    return {name: encode(p.queries, vocabulary, FORMATS[kind]) for name, p in corpus().probes.items()}


def spec(**changes: Any) -> TrainingSpec:
    settings: dict[str, Any] = {
        "steps": 40,
        "batch": 32,
        "optimizer": OptimizerSpec(kind="muon", lr=3e-3, weight_decay=0.1),
        "warmup": 5,
        "loss": "softmax",
        "ema": 0.9,
        "dtype": "float32",
        "first_checkpoint": 8,
        "dense_every": 4,
        "checkpoints_per_doubling": 2,
        "resume_every": 5,
        "compile": "off",
    }
    return TrainingSpec(**{**settings, **changes})


class Recorder:
    """An observer that writes what it sees, and nothing else, as `TraceWriter` does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def at_checkpoint(self, step: int, model: Reasoner) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        total = sum(float(p.detach().double().abs().sum()) for p in model.parameters())
        (self.directory / f"{step:08d}.txt").write_text(f"{total!r}\n")

    def forget_after(self, step: int) -> None:
        for path in self.directory.glob("*.txt"):
            if int(path.stem) > step:
                path.unlink()


def run(directory: Path, kind: str = "looped", quiet: bool = True, **changes: Any) -> TrainingResult:
    wanted = spec(**changes)
    return train(
        Member(
            model(kind, wanted.dtype),
            data(kind),
            probes(kind),
            wanted,
            SEEDS,
            directory,
            observers=[Recorder(directory / "seen")],
        ),
        threads=1,
        say=lambda sentence: None if quiet else print(sentence),
    )


def main() -> None:
    """`python -m tests.training.tiny DIRECTORY STEPS`: train until the end or a signal."""
    torch.set_num_threads(1)
    try:
        run(Path(sys.argv[1]), steps=int(sys.argv[2]), loop_choices=(1, 2, 3))
    except Interrupted as stop:
        print(stop)
        sys.exit(75)


if __name__ == "__main__":
    main()
