"""Every instrument over the calibration zoo: python -m benchmarks.calibrate --worlds 200 --jobs 16

Writes one line per member and world (zoo_worlds.csv), the means over worlds (zoo_calibration.csv), and what
the lines say of verdicts and shares (zoo_summary.csv): how many verdicts are right, how far the share is from
the planted p, how often its interval covers p, and how wide it is. Instruments that verdict and share do not
rest on are measured in the first worlds only. Existing lines are kept, so that a run can be ended at any time
and go on.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import polars as pl
import torch

from benchmarks.instruments import CORPUS, WORLD, Row, measure
from benchmarks.zoo_summary import instruments, markdown, summary, wrong
from grokscope.errors import InputError
from grokscope.files import write_text
from grokscope.mechanics.zoo import members, wire
from grokscope.world.spec import CorpusSpec, WorldSpec

OUT = Path("docs/data")
BEGIN, END = "<!-- {} -->", "<!-- end -->"
ALL_INSTRUMENTS = 20
"""Worlds in which the instruments beside verdict and share are measured: with 20 a rate is known to about its
spread over worlds / 4, and they cost several times what the share does."""
KEPT_EVERY = 5.0
"""Seconds between two writings of the lines: all of them are written, and that should cost little."""
SHOWN = (
    "worlds",
    "verdict_right",
    "undecided",
    "share_planted",
    "share_real",
    "worlds_all",
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
"""Columns of the printed table, in order; `worlds_all`: worlds that lens, tracing, interchange, sufficiency
and necessity were measured in."""


def main() -> None:
    """Measure world by world, keep every line, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=5, help="random worlds per member")
    parser.add_argument(
        "--all-instruments", type=int, default=ALL_INSTRUMENTS, help="of these, worlds with all instruments"
    )
    parser.add_argument("--members", nargs="*", default=list(members()), help="some members only")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the CSV files")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--page", type=Path, help="a document: the tables go between its marks")
    arguments = parser.parse_args()
    path = arguments.out / "zoo_worlds.csv"
    known = pl.read_csv(path, infer_schema_length=None).to_dicts() if path.is_file() else []
    rows = {(str(row["member"]), int(row["seed"])): row for row in known}
    tasks = [
        (name, seed, seed < arguments.all_instruments)
        for seed in range(arguments.worlds)
        for name in arguments.members
    ]
    tasks = [task for task in tasks if not is_measured(rows.get(task[:2]), task[2])]
    saved = start = time.perf_counter()
    for row in measured(tasks, arguments.jobs):
        rows[str(row["member"]), int(row["seed"])] = row
        now = time.perf_counter()
        if now - saved > KEPT_EVERY:
            save(list(rows.values()), arguments.out)
            saved = now
        print(f"world {row['seed']} {row['member']}: {now - start:.0f} s", flush=True)
    save(list(rows.values()), arguments.out)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=240, float_precision=2):
        print(table(list(rows.values())))
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=240, float_precision=3):
        print(summary(list(rows.values())))
    print("\n".join(wrong(list(rows.values()))))
    if arguments.page is not None:
        fill(arguments.page, list(rows.values()))


def is_measured(row: Row | None, every: bool) -> bool:
    """Whether a line holds what is asked of its member and world."""
    return row is not None and (not every or row["lens_anywhere"] is not None)


def measured(tasks: list[tuple[str, int, bool]], jobs: int) -> Iterator[Row]:
    """The line of every (member, world, all instruments?), in this order, by processes of one thread."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(_one, tasks)


def _one(task: tuple[str, int, bool]) -> Row:
    name, seed, every = task
    return one(name, seed, every=every)


def one(
    name: str, seed: int, world: WorldSpec = WORLD, corpus: CorpusSpec = CORPUS, every: bool = True
) -> Row:
    """The row of one member in one world, of all instruments or of those that verdict and share rest on."""
    return measure(wire(name, seed, world_spec=world, corpus_spec=corpus), seed, every)


def table(rows: list[Row]) -> pl.DataFrame:
    """One line per member: means over worlds; a figure that no world could tell is null."""
    frame = pl.DataFrame(in_order(rows), infer_schema_length=None)
    every = frame.group_by("member", maintain_order=True).agg(
        pl.col("lens_anywhere").is_not_null().sum().alias("worlds_all")
    )
    frame = frame.fill_nan(None)
    numbers = [name for name in frame.columns if name not in ("member", "mechanism", "verdict", "seed")]
    means = frame.group_by("member", "mechanism", maintain_order=True).agg(
        pl.len().alias("worlds"),
        *(pl.col(name).mean() for name in numbers),
        pl.col("share").std().alias("share_sd"),
        (pl.col("share").is_null().mean()).alias("cannot_tell"),
    )
    means = means.join(every, on="member", maintain_order="left")
    return means.select("member", "mechanism", *SHOWN, "share_sd", "cannot_tell", "used")


def in_order(rows: list[Row]) -> list[Row]:
    """Rows by member, in the order of the zoo, then by world."""
    return sorted(rows, key=lambda row: (members().index(str(row["member"])), int(row["seed"])))


def save(rows: list[Row], out: Path) -> None:
    """All files, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(in_order(rows), infer_schema_length=None)
    write_text(out / "zoo_worlds.csv", frame.write_csv(float_precision=4))
    write_text(out / "zoo_calibration.csv", table(rows).write_csv(float_precision=3))
    write_text(out / "zoo_summary.csv", summary(in_order(rows)).write_csv(float_precision=4))


def fill(page: Path, rows: list[Row]) -> None:
    """Replace what stands between `<!-- zoo -->` or `<!-- instruments -->` and `<!-- end -->`, nothing else.

    Raises:
        InputError: the page has no such place.
    """
    text, rows = page.read_text(), in_order(rows)
    for mark, body in (("zoo", markdown(summary(rows))), ("instruments", instruments(rows))):
        begin = BEGIN.format(mark)
        before, found, rest = text.partition(begin)
        _, end, after = rest.partition(END)
        if not found or not end:
            raise InputError(f"page = {str(page)!r}: it has no {begin} and {END}.")
        text = f"{before}{begin}\n{body}\n{END}{after}"
    write_text(page, text)


if __name__ == "__main__":
    main()
