"""How long a real table of triples takes to be a world: a made-up one in the shape of FB15k-237.

    python -m benchmarks.worlds

FB15k-237's training file has 272,115 lines without a header, tabs between 14,505 entities and 237 relations,
and many pairs of head and relation with several tails. The names here are as long as its own; heads,
relations and tails are drawn by a power law.
"""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from grokscope.seeds import Seeds
from grokscope.world import WorldSpec, build_world
from grokscope.world.triples import read_triples

LINES, ENTITIES, RELATIONS = 272_115, 14_505, 237


def write_table(path: Path, lines: int = LINES, seed: int = 0) -> None:
    """A headless TSV of that many different triples."""
    rng = np.random.default_rng(seed)

    def drawn(count: int, size: int) -> np.ndarray:
        weight = 1 / np.arange(1, count + 1) ** 0.7
        return rng.choice(count, size, p=weight / weight.sum())

    sizes = (ENTITIES, RELATIONS, ENTITIES)
    rows = np.stack([drawn(count, 2 * lines) for count in sizes], axis=1)
    _, first = np.unique(rows, axis=0, return_index=True)
    rows = rows[np.sort(first)[:lines]]
    entity = [f"/m/{number:07x}" for number in range(ENTITIES)]
    relation = [f"/domain{r % 30}/type{r % 70}/property_number_{r}" for r in range(RELATIONS)]
    text = "\n".join(f"{entity[h]}\t{relation[r]}\t{entity[t]}" for h, r, t in rows.tolist())
    path.write_text(text + "\n")


def main() -> None:
    """Read it, count, make a world, and say what that took."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.txt"
        write_table(path)
        start, cpu = time.perf_counter(), time.process_time()
        triples = read_triples(path)
        read, read_cpu = time.perf_counter() - start, time.process_time() - cpu
        start, cpu = time.perf_counter(), time.process_time()
        world = build_world(WorldSpec(facts_file=str(path), several_tails="first"), Seeds())
        made, made_cpu = time.perf_counter() - start, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{len(triples.triple_N3):,} triples; {triples.notes[-1]}")
        print(f"read and counted in {read_cpu:.1f} s of CPU ({read:.1f} s on the clock)")
        print(f"read into a world of {len(world.fact_F3):,} facts in {made_cpu:.1f} s of CPU ({made:.1f} s)")
        print(f"peak memory of the process {peak:.2f} GiB")


if __name__ == "__main__":
    main()
