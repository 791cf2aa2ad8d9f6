"""How often each measure misleads about planted models: python -m benchmarks.misled --worlds 3

Every member of the zoo that answers by a circuit alone, or by a memory alone, is asked whether its answers
rest on the bridge, by four measures: what the output head reads at tokens (the published one), what it reads
anywhere, what a linear map reads, and what interventions say is used. A measure says yes from one half of the
trained queries on. It misses where the bridge is used and it says no, and finds where it says yes and the
bridge is not used.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.nulls import save
from grokscope.mechanics.judge.causal import examine
from grokscope.mechanics.judge.readings import readings
from grokscope.mechanics.patch.drawing import Setting
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.read.lens import lens
from grokscope.mechanics.zoo import members, wire
from grokscope.mechanics.zoo.members import PROBES

OUT = Path("docs/data/zoo_misled.csv")
PROBED = 120
SURE = ("circuit", "memorised")
MEASURES = {
    "lens_tokens": "head, tokens (the paper's)",
    "lens_all": "head, registers too",
    "linear": "linear map",
    "share": "interventions",
}


def main() -> None:
    """Ask every member in some worlds, keep the lines, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    rows, sure = [], [name for name in members() if wire(name, seed=0).mechanism in SURE]
    for row in asked([(name, seed) for seed in range(arguments.worlds) for name in sure], arguments.jobs):
        rows.append(row)
        print(row, flush=True)
    save(rows, arguments.out)
    print(table(pl.DataFrame(rows, infer_schema_length=None)))


def asked(tasks: list[tuple[str, int]], jobs: int) -> Iterator[dict[str, object]]:
    """The line of every (member, world), in this order."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(ask, tasks)


def ask(task: tuple[str, int]) -> dict[str, object]:
    """What every measure says of one member in one world, and the truth."""
    name, seed = task
    wired = wire(name, seed=seed)
    setting = Setting(wired.corpus.world, wired.corpus.composition, wired.format, seed=seed)
    every = wired.corpus.probes[PROBES]
    probes, encoded = some_probes(every, setting.encode(every.queries), PROBED)
    trace = lens(wired.model, probes, encoded, setting.world.vocabulary)
    read = readings(wired.model, probes, setting, trace)
    found = examine(wired.model, probes, setting, np.ones(len(probes), dtype=bool), shown=False).share.rate
    return {
        "member": name, "world": seed, "mechanism": wired.mechanism, "truth": float(wired.through_circuit(
            probes.queries).mean()),
        "lens_tokens": read.lens_tokens.value, "lens_all": read.lens_all.value,
        "linear": read.linear.rate.value if read.linear else None, "share": found.value if found else None,
    }  # fmt: skip


def table(rows: pl.DataFrame) -> str:
    """Markdown: per measure how often it misses a bridge that is used, and finds one that is not."""
    rows = rows.filter(pl.col("mechanism").is_in(SURE))
    lines = ["| measure | misses a bridge that is used | finds one that is not used |", "|---|---|---|"]
    for measure, said in MEASURES.items():
        cells = []
        for used in (True, False):
            here = rows.filter((pl.col("mechanism") == "circuit") == used).drop_nulls(measure)
            wrong = int(((here[measure] >= 0.5) != used).sum())
            cells.append(f"{wrong} of {len(here)} ({wrong / len(here):.2f})")
        lines.append(f"| {said} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
