"""Models without a circuit: how often is one found? python -m benchmarks.nulls --models 1000

Three kinds, all with a world, a seed and probes of their own:

- wired: members of the zoo that remember their compositions, those whose bridge can be read among them;
- untrained: looped models and TRMs with their first weights;
- shuffled: the same, trained until they know compositions whose answers are a permutation of the right ones.
  Every atom is right, and nothing can be composed: what is answered as trained is remembered.

A verdict "circuit" is false for each of them. One line per model (nulls.csv); existing lines are kept. The
bound is Wilson's upper one of 95 %, one-sided.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import torch

from grokscope.files import write_text
from grokscope.mechanics.judge.causal import examine
from grokscope.mechanics.patch.drawing import Setting
from grokscope.mechanics.read.layout import chosen_probes
from grokscope.mechanics.zoo import members, wire
from grokscope.mechanics.zoo.members import CORPUS, PROBES, WORLD
from grokscope.models.build import build_model
from grokscope.models.protocol import Reasoner
from grokscope.models.spec import LoopedSpec, ModelSpec, RecursiveSpec
from grokscope.seeds import Seeds, generator
from grokscope.statistics.estimate import wilson
from grokscope.training.data import training_data
from grokscope.training.loop import train
from grokscope.training.member import Member
from grokscope.training.spec import TrainingSpec
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.format import FormatSpec, positions
from grokscope.world.graph import build_world
from grokscope.world.spec import REGIMES

OUT = Path("docs/data/nulls.csv")
ONE_SIDED = 1.6448536
PROBED = 160
"""Probes a model: a share of 0 is then known to 0.03."""
PER_THOUSAND = {"shuffled looped": 20, "shuffled trm": 4, "untrained looped": 140, "untrained trm": 140}
"""Of a thousand models; the others are wired."""
SHAPES: dict[str, tuple[ModelSpec, FormatSpec]] = {
    "looped": (
        LoopedSpec(width=48, heads=4, layers=2, loops=2, tied_head=True),
        FormatSpec(attention="causal", output="answer"),
    ),
    "trm": (
        RecursiveSpec(width=32, layers=2, h_cycles=2, l_cycles=3, prefix=2, mixer=True),
        FormatSpec(attention="full", output="sequence"),
    ),
}
STEPS = {"looped": 800, "trm": 1600}
TRAINING = {
    "batch": 64, "warmup": 50, "dtype": "float32", "atom_repetition": 4, "ema": 0.99, "compile": "off",
    "optimizer": {"kind": "muon", "lr": 3e-3, "weight_decay": 0.0},
}  # fmt: skip


def main() -> None:
    """Judge model by model, keep every line, print the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    rows = pl.read_csv(arguments.out).to_dicts() if arguments.out.is_file() else []
    known = {(row["kind"], row["seed"]) for row in rows}
    tasks = [task for task in planned(arguments.models) if task not in known]
    start = saved = time.perf_counter()
    for row in judged(tasks, arguments.jobs):
        rows.append(row)
        if (now := time.perf_counter()) - saved > 10:
            save(rows, arguments.out)
            saved = now
            print(f"{len(rows)} models, {now - start:.0f} s", flush=True)
    save(rows, arguments.out)
    print(said(pl.DataFrame(rows)))


def planned(models: int) -> list[tuple[str, int]]:
    """(kind, seed) of every model: the trained and untrained ones' share of a thousand, and wired ones."""
    trained = [(kind, seed) for kind, of in PER_THOUSAND.items() for seed in range(of * models // 1000)]
    # Those with full attention take ten times as long: one of them for every twelve others.
    kinds = [name for name in members() if wire(name, seed=0).mechanism == "memorised"]
    slow = [name for name in kinds if wire(name, seed=0).format.attention == "full"]
    turns = [name for name in kinds if name not in slow] * 2 * len(slow) + slow
    asked: Counter[str] = Counter()
    wired = []
    for number in range(models - len(trained)):
        kind = turns[number % len(turns)]
        wired.append((kind, asked[kind]))
        asked[kind] += 1
    return wired + trained


def judged(tasks: list[tuple[str, int]], jobs: int) -> Iterator[dict[str, object]]:
    """The line of every model, in this order."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(judge, tasks)


def judge(task: tuple[str, int]) -> dict[str, object]:
    """The verdict on one model."""
    kind, seed = task
    how, _, shape = kind.partition(" ")
    if not shape:
        wired = wire(kind, seed=seed)
        model, corpus, fmt, probe_set = wired.model, wired.corpus, wired.format, wired.corpus.probes[PROBES]
    else:
        spec, fmt = SHAPES[shape]
        world = build_world(WORLD, seeds(seed))
        corpus = build_corpus(world, CORPUS, REGIMES["natural"], seeds(seed))
        model = build_model(spec, world.vocabulary.size, positions(fmt, 2), fmt, seed, "float32")
        probe_set = corpus.probes[PROBES]
        if how == "shuffled":
            corpus, answer_N = shuffled(corpus, seed)
            train_on(model, corpus, fmt, seed, STEPS[shape])
            rows_P = np.searchsorted(ids(corpus), probe_set.id_P)
            path_PK = np.stack([probe_set.queries.path_NK[:, 0], answer_N[rows_P]], axis=1)
            probe_set = replace(probe_set, queries=replace(probe_set.queries, path_NK=path_PK))
    setting = Setting(corpus.world, corpus.composition, fmt, seed=seed)
    probe_set = chosen_probes(probe_set, np.linspace(0, len(probe_set) - 1, PROBED).astype(np.int64))
    known_P = np.ones(len(probe_set), dtype=bool)
    found = examine(model, probe_set, setting, known_P, shown=False)
    share = found.share.rate
    return {
        "kind": kind, "seed": seed, "verdict": found.mechanism, "accuracy": found.accuracy.value,
        "share": share.value if share else None, "probes": share.n if share else 0,
    }  # fmt: skip


def seeds(seed: int) -> Seeds:
    """One seed for every stream."""
    return Seeds(world=seed, split=seed, corpus=seed, init=seed, order=seed)


def ids(corpus: Corpus) -> np.ndarray:
    """Of the trained compositions, in order."""
    return corpus.composition.stable_id(corpus.world.entities, corpus.world.relations)


def shuffled(corpus: Corpus, seed: int) -> tuple[Corpus, np.ndarray]:
    """The corpus with its compositions' answers permuted, and (N,) these answers."""
    queries = corpus.composition
    answer_N = generator("corpus", seed, 99).permutation(queries.path_NK[:, 1])
    path_NK = np.stack([queries.path_NK[:, 0], answer_N], axis=1)
    return replace(corpus, composition=replace(queries, path_NK=path_NK)), answer_N


def train_on(model: Reasoner, corpus: Corpus, fmt: FormatSpec, seed: int, steps: int) -> None:
    """Train until the corpus is known, as far as that takes no more steps."""
    loss = "softmax" if fmt.output == "answer" else "stablemax"
    spec = TrainingSpec.parse(TRAINING | {"steps": steps, "first_checkpoint": steps, "loss": loss})
    data = training_data(corpus, fmt, spec.atom_repetition)
    with tempfile.TemporaryDirectory() as folder:
        train(Member(model, data, {}, spec, seeds(seed), Path(folder)), say=lambda _: None)


def save(rows: list[dict[str, object]], out: Path) -> None:
    """The table, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, pl.DataFrame(rows, infer_schema_length=None).write_csv(float_precision=3))


def said(rows: pl.DataFrame) -> str:
    """False circuits by kind, and of all with the bound."""
    kind = pl.col("kind").str.replace(r" .*", "").replace_strict(
        {"untrained": "untrained", "shuffled": "shuffled"}, default="wired"
    )  # fmt: skip
    false = (pl.col("verdict") == "circuit").sum().alias("circuit")
    table = rows.group_by(kind.alias("null"), maintain_order=True).agg(
        pl.len().alias("models"),
        false,
        *[(pl.col("verdict") == name).sum().alias(name) for name in ("memorised", "partial", "undecided")],
        pl.col("accuracy").mean().round(3),
        (pl.col("probes") >= 30).sum().alias("judged"),
    )
    count, wrong = len(rows), int(rows.select(false).item())
    bound = float(wilson(wrong / count, count, ONE_SIDED)[1])
    return f"{table}\n{wrong} of {count} called a circuit; upper bound {100 * bound:.2f} %"


if __name__ == "__main__":
    main()
