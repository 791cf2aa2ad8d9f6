"""Every instrument over the calibration zoo: python -m benchmarks.calibrate --worlds 200 --jobs 16

Writes one line per member and world, and the table of docs/zoo.md: means over worlds, how often the share's
interval covers the planted p, and how wide it is. Existing lines are kept, so that a run can go on.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import polars as pl
import torch

from benchmarks.instruments import CORPUS, WORLD, Row, measure
from grokscope.files import write_text
from grokscope.mechanics.zoo import members, wire
from grokscope.world.spec import CorpusSpec, WorldSpec

OUT = Path("docs/data")
SHOWN = (
    "worlds",
    "verdict_right",
    "undecided",
    "share_planted",
    "share_real",
    "lens_before_last",
    "trace_relation1",
    "iia_bridge_unconditioned",
    "iia_bridge",
    "iia_centroid_unconditioned",
    "iia_centroid",
    "share",
    "share_argmax",
    "drop",
    "share_agrees",
    "covers",
    "width",
    "path_found",
    "sufficient",
    "necessary",
    "redundant",
    "part",
)
"""Columns of the printed table, in order."""


def main() -> None:
    """Measure world by world, save after every member, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=5, help="random worlds per member")
    parser.add_argument("--members", nargs="*", default=list(members()), help="some members only")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the two CSV files")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    arguments = parser.parse_args()
    path = arguments.out / "zoo_worlds.csv"
    rows = pl.read_csv(path).to_dicts() if path.is_file() else []
    done = {(row["member"], row["seed"]) for row in rows}
    start = time.perf_counter()
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for seed in range(arguments.worlds):
            names = [name for name in arguments.members if (name, seed) not in done]
            for row in pool.map(one, names, [seed] * len(names)):
                rows.append(row)
                save(rows, arguments.out)
            print(f"world {seed}: {len(names)} members, {time.perf_counter() - start:.0f} s", flush=True)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=240, float_precision=2):
        print(table(rows))


def one(name: str, seed: int, world: WorldSpec = WORLD, corpus: CorpusSpec = CORPUS) -> Row:
    """The row of one member in one world."""
    return measure(wire(name, seed, world_spec=world, corpus_spec=corpus), seed)


def table(rows: list[Row]) -> pl.DataFrame:
    """One line per member: means over worlds; a figure that no world could tell is null."""
    frame = pl.DataFrame(in_order(rows), infer_schema_length=None).fill_nan(None)
    numbers = [name for name in frame.columns if name not in ("member", "mechanism", "verdict", "seed")]
    means = frame.group_by("member", "mechanism", maintain_order=True).agg(
        pl.len().alias("worlds"),
        *(pl.col(name).mean() for name in numbers),
        pl.col("share").std().alias("share_sd"),
        (pl.col("share").is_null().mean()).alias("cannot_tell"),
    )
    return means.select("member", "mechanism", *SHOWN, "share_sd", "cannot_tell", "used")


def in_order(rows: list[Row]) -> list[Row]:
    """Rows by member, in the order of the zoo, then by world."""
    return sorted(rows, key=lambda row: (members().index(str(row["member"])), float(row["seed"])))


def save(rows: list[Row], out: Path) -> None:
    """Both files, whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(in_order(rows), infer_schema_length=None)
    write_text(out / "zoo_worlds.csv", frame.write_csv(float_precision=4))
    write_text(out / "zoo_calibration.csv", table(rows).write_csv(float_precision=3))


if __name__ == "__main__":
    main()
