"""Lens and interchange at paper size, whole: python -m benchmarks.paper_size [--threads N] [--run RUN]

The lens of 10,000 probes and the interchange map (arm bridge, every stage and position) of 1,000 of them, on
one checkpoint of the paper's world: 2,000 entities, TRM with token mixer, 16 prefix positions, width 256,
2 x 6 cycles. Float32, then bfloat16, each in a process of its own, beside a loop of one query and one patch
at a time over a few of the probes, whose numbers must be the same. Without `--run` the checkpoint has random
weights: the work does not depend on them, but how near to each other the two best logits are does.

Results go where those of `benchmarks.run` go, as the section "paper_size".
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from benchmarks import machine, tables
from benchmarks.alone import MEGABYTE, forget_peak, peak
from benchmarks.looking import ARM, interchange_loop, lens_loop
from benchmarks.run import DOCUMENT, RESULTS
from benchmarks.shapes import build, built, shape
from grokscope.files import write_json
from grokscope.mechanics.patch.interchange import Setting, draw_donors, interchange, source_of
from grokscope.mechanics.read.layout import chosen_probes, some_probes
from grokscope.mechanics.read.lens import lens, targets
from grokscope.models.protocol import Reasoner
from grokscope.runs.causal import TRAINED_SET
from grokscope.runs.directory import CORPUS, SPEC
from grokscope.runs.open import Run
from grokscope.training.checkpoint import model_tensors, save_weights, weights_path
from grokscope.world.probes import ProbeSet

SECTION = "paper_size"
PAPER_SIZE = {"model": {"width": 256}, "corpus": {"probe_cap": 10_000}}
"""What is changed in the reference's shape."""
INSTRUMENTS = ("lens", "interchange")
PROBES = {"lens": 10_000, "interchange": 1_000}
LOOPED = 14
"""Queries of the loops: 1,050 answers of each, of which one may differ at 99.9 %."""
TIMED = 3
"""Of these so many again on all threads, for their time alone."""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the checkpoint, look at it in both dtypes, write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, not how fast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", type=Path, help="a run to look at, in place of random weights")
    parser.add_argument("--out", type=Path, help=f"JSON file (default {RESULTS}; quick: none)")
    parser.add_argument(
        "--dtype", choices=tuple(machine.DTYPES), help="this one alone, one JSON line, no table"
    )
    parser.add_argument("--said", type=Path, help="with --dtype: a file for what the model says (.npz)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or make_run(Path(folder) / "run", options.quick)
        if options.dtype:
            print(json.dumps(look(run, options.dtype, options.threads, options.quick, options.said)))
            return
        measure = partial(whole, run, options.threads, options.quick, Path(folder))
        found = machine.measured(measure, "cpu")
    print(tables.table(SECTION, found), tables.table("paper_same", found), sep="\n\n")
    path = options.out or (None if options.quick else RESULTS)
    if path:
        results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        results.setdefault("cpu", {})[SECTION] = found
        write_json(path, results)
        if path == RESULTS:
            tables.fill(DOCUMENT, results)


def whole(run: Path, threads: int, quick: bool, folder: Path) -> list[dict[str, Any]]:
    """Both dtypes, one after the other, and how often they say the same."""
    rows: list[dict[str, Any]] = []
    said = {dtype: folder / f"{dtype}.npz" for dtype in ("float32", "bfloat16")}
    for dtype, file in said.items():
        command = [sys.executable, "-m", "benchmarks.paper_size", "--run", run, "--dtype", dtype]
        command += ["--threads", str(threads), "--said", file, *(["--quick"] if quick else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows += json.loads(done.stdout.splitlines()[-1])
    one, two = (np.load(file) for file in said.values())
    for row in rows:
        row["agrees_across"] = float((one[row["instrument"]] == two[row["instrument"]]).mean())
    return rows


def make_run(directory: Path, quick: bool) -> Path:
    """A run directory as `grokscope trace` and `patch` read it, with one checkpoint of random weights."""
    spec = shape("reference", quick, None if quick else PAPER_SIZE)
    write_json(directory / SPEC, spec.tree())
    write_json(directory / CORPUS, built(spec).corpus.summary())
    save_weights(weights_path(directory, 0), model_tensors(build(spec, "float32")))
    return directory


def look(directory: Path, dtype: str, threads: int, quick: bool, said: Path | None) -> list[dict[str, Any]]:
    """Both instruments over all their probes, and their loops over a few of them."""
    torch.set_num_threads(threads)
    run = Run.open(directory)
    model, setting = run.setup.model(run.weights(), dtype), run.setting()
    every = run.corpus.probes[TRAINED_SET]
    ceiling = machine.ceiling(dtype, quick, "cpu")
    found, rows = {}, []
    for name in INSTRUMENTS:
        probes, _ = some_probes(every, setting.encode(every.queries), 12 if quick else PROBES[name])
        few, _ = some_probes(probes, setting.encode(probes.queries), 2 if quick else 16)
        call = _lens if name == "lens" else _interchange
        operations = machine.flops(partial(call, model, few, setting)) / len(few)
        forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        found[name] = call(model, probes, setting)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        row = {
            "instrument": name,
            "dtype": dtype,
            "threads": threads,
            "probes": len(probes),
            "seconds": wall,
            "cpu": cpu,
            "peak_mb": peak() / MEGABYTE,
            "share": operations * len(probes) / wall / ceiling,
        }
        rows.append(row | _beside_loops(model, probes, setting, found[name], threads, quick))
    if said:
        np.savez(said, lens=found["lens"]["argmax"].values, interchange=found["interchange"]["said"].values)
    return rows


def _beside_loops(
    model: Reasoner, probes: ProbeSet, setting: Setting, fast: xr.Dataset, threads: int, quick: bool
) -> dict[str, Any]:
    """Time and numbers of the loop on one thread, and its time on all."""
    maps = "said" in fast
    there_P = fast["present"].values[0] if maps else np.ones(len(probes), dtype=bool)
    many = min(int(there_P.sum()), 2 if quick else LOOPED)
    chosen = np.flatnonzero(there_P)[np.arange(many) * int(there_P.sum()) // many]
    source_PS = np.zeros(0)
    if maps:
        source_PS = source_of(setting, draw_donors(model, setting, probes, [ARM])[ARM]).tokens_PMS[:, 0]

    def loop(rows: NDArray[np.int64]) -> Loop:
        some, ours = chosen_probes(probes, rows), fast.isel(probe=rows)
        if maps:
            return compare_maps(model, some, setting, ours, source_PS[rows])
        return compare_lens(model, some, setting, ours)

    torch.set_num_threads(1)
    alone = loop(chosen)
    torch.set_num_threads(threads)
    together = loop(chosen[:TIMED])
    return {
        "compared": alone.compared,
        "difference": alone.difference,
        "agrees": alone.agrees,
        "loop_seconds_one": alone.seconds,
        "loop_seconds_all": together.seconds,
    }


class Loop(NamedTuple):
    """A loop of one at a time, beside the instrument on the same queries."""

    seconds: float
    """Per query."""
    compared: int
    """Tokens said."""
    difference: float
    """Largest of a log-probability, or of a margin."""
    agrees: float
    """Share of the tokens said that are the same."""


def compare_lens(model: Reasoner, probes: ProbeSet, setting: Setting, fast: xr.Dataset) -> Loop:
    """`looking.lens_loop`, and how far `lens` is from it."""
    names, target_PC = targets(probes, setting.world.vocabulary)
    tokens_PS = setting.encode(probes.queries).tokens_NS
    began = time.perf_counter()
    found = lens_loop(model, tokens_PS, target_PC)
    seconds = (time.perf_counter() - began) / len(probes)
    each = len(names) + 1
    stages = [found[start : start + each] for start in range(0, len(found), each)]
    logp_XCS = np.array([[logp_S.numpy() for _, logp_S in stage[:-1]] for stage in stages])
    argmax_XS = np.array([stage[-1].numpy() for stage in stages])
    ours_XCS = fast["logp"].transpose("probe", "stage", "variable", "position").values.reshape(logp_XCS.shape)
    same = fast["argmax"].values.reshape(argmax_XS.shape) == argmax_XS
    return Loop(seconds, same.size, float(np.abs(ours_XCS - logp_XCS).max()), float(same.mean()))


def compare_maps(
    model: Reasoner, probes: ProbeSet, setting: Setting, fast: xr.Dataset, source_PS: NDArray[np.int64]
) -> Loop:
    """`looking.interchange_loop`, and how far `interchange` is from it."""
    base, answer_P = setting.encode(probes.queries), setting.tokens_of(probes.queries.path_NK[:, 1])
    began = time.perf_counter()
    answered = interchange_loop(model, base.tokens_NS, source_PS, base.answer_position)
    seconds = (time.perf_counter() - began) / len(probes)
    logits_PXV = torch.stack(answered).view(len(probes), -1, model.vocab)
    watch_PX1 = torch.from_numpy(answer_P)[:, None, None].expand(-1, logits_PXV.shape[1], 1)
    own_PX = logits_PXV.gather(2, watch_PX1)[..., 0]
    margin_PX = own_PX - logits_PXV.scatter(2, watch_PX1, -torch.inf).amax(2)
    said, margin = (
        fast[name].isel(arm=0).transpose("probe", "stage", "position").values.reshape(margin_PX.shape)
        for name in ("said", "margin")
    )
    same = said == logits_PXV.argmax(2).numpy()
    return Loop(seconds, same.size, float(np.abs(margin - margin_PX.numpy()).max()), float(same.mean()))


def _lens(model: Reasoner, probes: ProbeSet, setting: Setting) -> xr.Dataset:
    return lens(model, probes, setting.encode(probes.queries), setting.world.vocabulary)


def _interchange(model: Reasoner, probes: ProbeSet, setting: Setting) -> xr.Dataset:
    return interchange(model, probes, setting, [ARM])


if __name__ == "__main__":
    main()
