"""What this code makes, to the byte, kept so that later code can be shown to make the same:

    python -m benchmarks.goldens make DIR       trains, asks and writes; minutes on one core
    python -m benchmarks.goldens compare A B    prints what differs; exit code 1 if anything does

Small studies of both kinds of model, alone and as populations, with kernels and without: all that they
leave on the disk, and what the command line says of them and of the shipped studies. DIR/goldens.json holds
a digest of every artifact, DIR/texts those that can be read, DIR/runs the studies themselves. Bits depend on
machine and libraries: make both sides with the same.

With `--earlier RUNS`, the DIR/runs that other code made, the studies that are continued are those: equal
goldens then also show that this code goes on where the other stopped.

The code is asked through its command line, its files and `grokscope.open` alone, so that this program
outlives its modules.
"""

import argparse
import difflib
import hashlib
import io
import json
import multiprocessing
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

GOLDENS, TEXTS, RUNS = "goldens.json", "texts", "runs"
SHIPPED = Path(__file__).resolve().parents[1] / "studies"
SHOWN = 8
"""Lines of a difference that are printed of one artifact."""
FIXED = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
FIXED |= {"COLUMNS": "120", "NO_COLOR": "1"}
"""Environment of everything that is run."""
PRELOADED = """
torch torch._dynamo polars xarray zarr scipy.stats matplotlib.figure matplotlib.backends.backend_agg
matplotlib.backends.backend_pdf matplotlib.backends.backend_svg safetensors.torch tyro jinja2 rich.console
"""
"""Libraries that every command would import anew; commands are forked from a process that has them."""
PASSING = ("progress.json", "worker.log", "lock", "state.json")
"""Files about clocks and processes."""
READABLE = (".json", ".jsonl", ".yaml", ".html", ".md")
MASKS = {
    r"^\S+: step \d+/\d+.*\n": "",
    r"[\d.]+ [kMGT]?B free": "... free",
    r'"seconds": [^,}\n]+': '"seconds": ...',
}
"""What is said of clocks and disks, and what stands there instead."""

# In these few steps they learn enough for events, verdicts and paths to have something to say.
LOOPED = """
regimes: [natural, both_hops_full]
steps_for: {both_hops_full: 450}
world: {entities: 40, relations: 12, degree: 10, ood_fraction: 0.12}
corpus: {phi: 6, iid_fraction: 0.05, probe_cap: 200}
format: {attention: causal, output: answer}
model: {kind: looped, width: 48, heads: 4, layers: 2, loops: 3, norm_position: post, positions: none}
training:
  {steps: 260, batch: 128, warmup: 20, loss: softmax, ema: 0.95, atom_repetition: 4, first_checkpoint: 80,
   dense_every: 40, checkpoints_per_doubling: 3, resume_every: 50,
   optimizer: {kind: muon, lr: 0.01, weight_decay: 0.3, beta2: 0.98}}
diagnosis: {saturation: 0.85, generalisation: 0.5, window: 2}
causal: {probes: 200, dense_probes: 60}
transfer:
  bases: [natural@end, both_hops_full@saturation]
  variants: {plain_k0: {}, plain_k1: {facts: {k: 1}}}
  facts: {count: 24, probes: 40, retention: {items: 100, ood: true}}
  tuning: {steps: 40, first_checkpoint: 20, dense_every: 10, checkpoints_per_doubling: 2}
  examine: {probes: 40, window: 2}
"""
RECURSIVE = """
regimes: [both_hops_full]
world: {entities: 24, relations: 8, degree: 6, ood_fraction: 0.12}
corpus: {phi: 3, iid_fraction: 0.05, probe_cap: 100}
format: {attention: full, output: sequence}
model: {kind: recursive, width: 48, layers: 2, h_cycles: 2, l_cycles: 2, mixer: true, prefix: 2}
training:
  {steps: 150, batch: 96, warmup: 10, loss: stablemax64, ema: 0.95, atom_repetition: 2, first_checkpoint: 60,
   dense_every: 30, checkpoints_per_doubling: 2, resume_every: 50,
   optimizer: {kind: muon, lr: 0.01, weight_decay: 0.1, beta2: 0.98, prefix_lr: 0.001}}
diagnosis: {saturation: 0.7, generalisation: 0.5, window: 1}
causal: {steps: end, probes: 100}
transfer:
  bases: [both_hops_full@end, untrained]
  facts: {count: 12, probes: 20, retention: {items: all}}
  tuning: {steps: 20, first_checkpoint: 10, dense_every: 5, checkpoints_per_doubling: 1}
  examine: {probes: 20, window: 1}
"""
TWO = {"regimes": ["both_hops_full"], "steps_for": {}, "seeds": [0, 1], "transfer": None}
ONE = TWO | {"seeds": [0]}


class Small(NamedTuple):
    """A study that is trained."""

    text: str
    changes: Mapping[str, Any] = {}
    """Fields in place of the text's, leaf by leaf."""
    population: str = "off"
    kernels: bool = True
    drawn: bool = False
    """Whether its pictures are drawn, which takes longer than its training."""
    after: str | None = None
    """The study that it continues, in a copy of its directory."""


STUDIES = {
    "looped": Small(LOOPED, drawn=True),
    "looped-plain": Small(LOOPED, ONE, kernels=False),
    "looped-together": Small(LOOPED, TWO | {"training": {"steps": 100}}, "2"),
    "looped-longer": Small(LOOPED, TWO | {"training": {"steps": 110}}, after="looped-together"),
    "recursive": Small(RECURSIVE),
    "recursive-plain": Small(RECURSIVE, {"training": {"steps": 60, "compile": "off"}}, kernels=False),
    "recursive-together": Small(RECURSIVE, TWO | {"training": {"steps": 60, "compile": "off"}}, "2"),
    "recursive-longer": Small(RECURSIVE, ONE | {"training": {"steps": 160}}, after="recursive"),
}
# `asked` is a copy of the looped study, {natural} and {both} are its runs, {trm} and {plain} recursive ones.
COMMANDS = """
--version; --help; plan paper --device H100; plan pocket --device A100 --json

world build pocket --out worlds/natural; world build pocket --regime both_hops_full --out worlds/both
world build pocket --regime both_hops_half --out worlds/half; world inspect worlds/half
world build pocket --regime first_hop_full --out worlds/first; world inspect worlds/natural --json
world build pocket --regime second_hop_full --out worlds/second
world build demo --seed 3 --format parquet --out worlds/parquet; world inspect worlds/parquet
world build demo --seed 3 --format reference --out worlds/reference; world inspect worlds/reference
world build price --family identity --out worlds/identity

diagnose {natural}; diagnose {both} --steps all --probes 60; diagnose {trm} --steps moments --probes 40
trace {both}; trace {both} --query 0; trace {both} --query 5; trace {trm}; trace {trm} --query 3
trace {natural} --step 80 --probe-set test_iid --probes 60 --out made/trace.png
patch {both} --probe-set test_iid; patch {both} --arm random --probes 60; patch {trm} --site block0.mixer
patch {both} --arm centroid --site block0.mlp --step 80 --seed 1
compare {natural} {both}; compare {both} {both} --second-step 160 --align depth --out made/compare.png
compare asked:natural asked:both_hops_full --align profile --probe-set test_iid --second-probe-set test_ood
transfer {plain} --step 60 --k 1 --steps 12 --threads 1 --out made/transfers
findings asked; findings asked --json; findings asked --page made/findings.md
worthwhile asked --levels 0.2 0.5 --device H100 --out made/worthwhile; worthwhile asked --json
price asked; price asked --json --out made/price

rnu pocket; world; run pockett; run no/such.yaml; run pocket --family none; run --seeds 1 pocket
run pocket --training.steps -3; run pocket --training.steps many; run pocket --training.stepss 3
run pocket --regimes naturl; run pocket --seeds 0 0; run pocket --model.kind recursive
run demo --workers 0 --out none; run demo --population foo; run looped.yaml --out looped.yaml
run looped.yaml --out looped --training.steps 20; show pocket --steps-for natural 0; show asked
show pocket --model.width 7; plan demo --against none; plan demo --device abacus
world build demo --regime naturl --out none; world inspect none; world inspect looped.yaml
import none --out made/none; report none; trace none; trace asked; trace {natural} --step 3
trace {natural} --query 100000; trace {natural} --out a.txt; patch {natural} --probe-set none
patch {natural} --arm none; patch {natural} --site none; compare {natural} none
compare asked:none asked:natural; diagnose {natural} --probes 0; transfer {natural} --step 7
transfer {natural} --count 7 --out made; findings {natural}; findings asked --page a.txt
worthwhile {natural}; worthwhile asked --utilisation 0.5; price {natural}

run --help; world --help; world build --help; world inspect --help; report --help; import --help; trace --help
patch --help; compare --help; diagnose --help; transfer --help; findings --help; show --help; plan --help
worthwhile --help; price --help; run demo --help; run pocket --family trm --help; show price --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do it; the exit code."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    actions = parser.add_subparsers(dest="action", required=True)
    making = actions.add_parser("make", help="write goldens into a new directory")
    making.add_argument("directory", type=Path)
    making.add_argument("--earlier", type=Path, help="the runs of other goldens, to go on from")
    comparing = actions.add_parser("compare", help="say what differs between two directories of goldens")
    comparing.add_argument("first", type=Path)
    comparing.add_argument("second", type=Path)
    options = parser.parse_args(argv)
    if options.action == "compare":
        return compare(options.first, options.second)
    make(options.directory, options.earlier)
    return 0


def compare(first: Path, second: Path) -> int:
    """Print what differs; 1 if anything does."""
    one, other = (json.loads((place / GOLDENS).read_text()) for place in (first, second))
    every = sorted(one.keys() | other.keys())
    differing = [name for name in every if one.get(name) != other.get(name)]
    for name in differing:
        lacking = [place for place, known in ((first, one), (second, other)) if name not in known]
        print(f"{name}: not in {lacking[0]}" if lacking else f"{name}: differs")
        files = [place / TEXTS / name for place in (first, second)]
        if all(file.is_file() for file in files):
            lines = difflib.unified_diff(*(file.read_text().splitlines() for file in files), lineterm="", n=0)
            changes = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
            print("".join(f"    {line[:200]}\n" for line in changes[:SHOWN]), end="")
            if len(changes) > SHOWN:
                print(f"    and {len(changes) - SHOWN} lines more")
    print(f"{len(differing)} of {len(every)} artifacts differ")
    return 1 if differing else 0


def make(directory: Path, earlier: Path | None = None) -> None:
    """Make the goldens in a new directory."""
    os.environ |= FIXED
    goldens = Goldens(directory)
    runs = goldens.runs
    for name, study in STUDIES.items():
        (runs / f"{name}.yaml").write_text(yaml.dump(_merged(yaml.safe_load(study.text), study.changes)))
        if study.after:
            shutil.copytree((earlier or runs) / study.after, runs / name)
        line = f"run {name}.yaml --out {name} --workers 1 --threads 1 --population {study.population}"
        goldens.ask(line, study.kernels, study.drawn)
        goldens.ask_python(_answers, name)
        goldens.keep_files(name)
    shutil.copytree(runs / "looped", runs / "asked")
    shutil.copytree(runs / "recursive", runs / "asked-trm")
    places = {
        "natural": "asked/natural-s0-*",
        "both": "asked/both_hops_full-s0-*",
        "trm": "asked-trm/both_hops_full-s0-*",
        "plain": "recursive-plain/both_hops_full-s0-*",
    }
    found = {word: str(next(runs.glob(place)).relative_to(runs)) for word, place in places.items()}
    for line in re.split("[;\n]+", COMMANDS.strip().format(**found)):
        goldens.ask(line.strip())
    goldens.ask(f"trace {found['trm']} --out made/plain.png", kernels=False)
    for name in ("asked", "asked-trm", "made", "worlds"):
        goldens.keep_files(name)
    for file in sorted(SHIPPED.glob("*.yaml")):
        for family in yaml.safe_load(file.read_text()).get("families", [""]):
            shown = goldens.ask(f"show {file.stem}" + (f" --family {family}" if family else ""))
            study = Path("shown", file.stem, family)
            (runs / study).mkdir(parents=True)
            (runs / study / "study.json").write_text(json.dumps(yaml.safe_load(shown)))
            goldens.ask_python(_identities, str(study))
    goldens.write()


class Goldens:
    """A directory of goldens that is being made."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.runs = directory, (directory / RUNS).resolve()
        self.runs.mkdir(parents=True)
        self.digests: dict[str, str] = {}
        self.forks = multiprocessing.get_context("forkserver")
        self.forks.set_forkserver_preload(PRELOADED.split())

    def keep(self, name: str, made: str | bytes) -> None:
        """Keep an artifact: a text as it is, bytes as their digest."""
        assert name not in self.digests, name
        self.digests[name] = _digest(made)
        if isinstance(made, str):
            file = self.directory / TEXTS / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(made)

    def keep_files(self, place: str) -> None:
        """Keep all that lies in a directory of `runs`."""
        for path in sorted((self.runs / place).rglob("*")):
            inside = any(above.suffix == ".zarr" for above in path.parents)
            if path.suffix == ".zarr" or (path.is_file() and not inside and path.name not in PASSING):
                self.keep(str(path.relative_to(self.runs)), _content(path))

    def ask(self, line: str, kernels: bool = True, drawn: bool = True) -> str:
        """Keep what a command says, and return what it prints."""
        title = f"{'' if kernels else 'GROKSCOPE_KERNELS=off '}grokscope {line}"
        name = re.sub(r"[^\w.=-]+", "_", title.removeprefix("grokscope "))[:120]
        return self._said(f"commands/{name}.txt", title, _command, line.split(), kernels, drawn)

    def ask_python(self, function: Callable[[str], None], place: str) -> None:
        """Keep what a function prints of a directory of `runs`."""
        name = f"python/{function.__name__.strip('_')}/{place}.txt"
        self._said(name, f"{function.__name__.strip('_')} of {place}", function, place)

    def _said(self, name: str, title: str, function: Callable[..., None], *arguments: Any) -> str:
        process = self.forks.Process(target=_apart, args=(self.runs, function, *arguments))
        process.start()
        process.join()
        out, errors = (_masked((self.runs / stream).read_text(), self.runs) for stream in ("out", "errors"))
        self.keep(name, f"$ {title}\n{out}--- errors\n{errors}--- exit code {process.exitcode}\n")
        print(f"{process.exitcode}  {title}", flush=True)
        return out

    def write(self) -> None:
        """Write the digests of all that was kept."""
        (self.directory / GOLDENS).write_text(json.dumps(self.digests, indent=1, sort_keys=True) + "\n")


def _apart(place: Path, function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in the process forked for it; what it prints goes into files of a directory."""
    os.chdir(place)
    for number, name in ((1, "out"), (2, "errors")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    function(*arguments)


def _command(arguments: Sequence[str], kernels: bool, drawn: bool) -> None:
    """The command line, with a study's pictures left empty where they are not to be drawn."""
    if not kernels:
        os.environ["GROKSCOPE_KERNELS"] = "off"
    if not drawn:
        from matplotlib.figure import Figure

        Figure.draw_without_rendering = lambda self: None
        Figure.savefig = lambda self, to, **_: Path(to).touch() if not isinstance(to, io.BytesIO) else None
    sys.argv = ["grokscope", *arguments]
    runpy.run_module("grokscope", run_name="__main__", alter_sys=True)


def _answers(place: str) -> None:
    """Print what a study's runs answer in Python."""
    import torch

    import grokscope

    for name, run in grokscope.open(place).runs.items():
        print(name, run.finished, run.diagnosis.behaviour, run.verdict.verdict if run.verdict else None)
        print(run.metrics.drop("seconds").write_csv(), _dataset(run.traces), sep="")
        for probes in run.corpus.probes.values():
            print(probes.name, probes.pattern, _digest(probes.frame().write_csv()))
        for step in run.steps:
            model = run.model(step)
            tokens_BS = torch.arange(4 * run.traces.sizes["position"]).view(4, -1)
            with torch.no_grad():
                print(step, _digest(model(tokens_BS % model.vocab).float().numpy().tobytes()))


def _identities(place: str) -> None:
    """Print the names and identities of a study's runs."""
    import grokscope

    for name, spec in grokscope.open(place).spec.expand().items():
        print(name, spec.identity)


def _content(path: Path) -> str | bytes:
    """What is kept of a file or of a trace: all but clock times."""
    if path.suffix == ".zarr":
        import xarray

        return _dataset(xarray.open_zarr(path, consolidated=False))
    if path.suffix in (".parquet", ".csv"):
        import polars

        parquet = path.suffix == ".parquet"
        frame = polars.read_parquet(path) if parquet else polars.read_csv(path, infer_schema=False)
        return frame.drop("seconds", strict=False).write_csv()
    if path.suffix == ".safetensors" and path.parent.name == "resume":
        from safetensors.torch import load_file

        tensors = sorted(load_file(path).items())
        found = [
            f"{name} {one.dtype} {list(one.shape)} {_digest(one.numpy().tobytes())}" for name, one in tensors
        ]
        return "\n".join([*found, ""])
    if path.suffix not in READABLE:
        return path.read_bytes()
    text = re.sub(r'"seconds": [^,}\n]+', '"seconds": ...', path.read_text())
    return re.sub(r"data:[\w/+]+;base64,([\w+/=]+)", lambda found: _digest(found[1]), text)


def _dataset(dataset: Any) -> str:
    """What a trace is made of, every array with a digest of its values; of text, of its spelling."""
    lines = []
    for name, array in sorted(dataset.variables.items()):
        values = array.values
        data = values.tobytes() if values.dtype.kind in "biuf" else repr(values.tolist())
        lines.append(f"{name} {array.dims} {array.shape} {array.dtype} {_digest(data)}\n")
    return "".join([*lines, *(f"{name}: {value}\n" for name, value in sorted(dataset.attrs.items()))])


def _masked(text: str, runs: Path) -> str:
    """What was said, without clocks, disks, and where it was said."""
    text = text.replace(str(runs), "RUNS").replace(str(SHIPPED.parent), "REPOSITORY")
    for pattern, word in MASKS.items():
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return text


def _merged(tree: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree with some leaves changed."""
    inner = {key: _merged(tree[key], new) for key, new in changes.items() if isinstance(new, dict) and new}
    return {**tree, **changes, **inner}


def _digest(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
