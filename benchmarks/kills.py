"""Lose workers, nodes and controllers at random moments and compare what a study ends with:

python -m benchmarks.kills [--on local | slurm | ray]

The study is the shipped demo, shortened, compiled and traced as shipped. One copy runs here, undisturbed; of
another, run by the executor, something is killed `--times` times, and the study is started again whenever its
controller is gone. Every file of a run that holds no clock time must have the same bytes, and every metrics
line must be the same but for `seconds`.

local: the controller and its workers. slurm, a real one of two nodes here: the controller, a worker, or a
node that is taken down and comes back. ray, two nodes here: the same, another node taking the place of the
lost one.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from tests.runs.slurm_nodes import two_nodes
from tests.runs.test_clusters import runs_of

from grokscope.runs.directory import PROGRESS, read_progress

COMMAND = [sys.executable, "-m", "grokscope", "run", "demo", "--workers", "2", "--execution.threads", "1"]
SHORTER = [
    "--regimes",
    "natural",
    "both_hops_full",
    "--training.first-checkpoint",
    "100",
    "--training.resume-every",
    "50",
    "--causal.no-enabled",
]
Process: TypeAlias = subprocess.Popen[bytes]
Loss: TypeAlias = Callable[[Process, Path], None]
"""What is lost: told the controller and the study's directory."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do it; 0 when nothing differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--on", choices=list(SITES), default="local", help="executor")
    parser.add_argument("--times", type=int, default=10, help="losses")
    parser.add_argument("--steps", type=int, default=1500, help="steps of every run")
    parser.add_argument("--longest", type=float, default=30.0, help="most seconds before a loss")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(argv)
    command = [*COMMAND, *SHORTER, "--training.steps", str(options.steps), "--out"]
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole" / "demo", Path(folder) / "killed" / "demo"
        subprocess.run([*command, str(whole)], check=True, stdout=subprocess.DEVNULL)
        disturbed = [*command, str(killed), "--on", options.on]
        with SITES[options.on](Path(folder)) as losses:
            process = started(disturbed)
            for number in range(options.times):
                after, what = moments.uniform(1.0, options.longest), moments.choice(list(losses))
                time.sleep(after)
                over = process.poll() is not None
                losses[what](process, killed)
                steps = {path.parent.name: last_step(path) for path in sorted(killed.glob("*/metrics.jsonl"))}
                said = " (no controller)" if over else ""
                print(f"{number + 1}: {what}, after {after:.1f} s{said}, at {steps}", flush=True)
                if process.poll() is not None:
                    process = started(disturbed)
            while process.wait():
                print(f"the controller ended with {process.returncode} and is started again", flush=True)
                process = started(disturbed)
        one, other = runs_of(whole), runs_of(killed)
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    print(f"{len(one)} files, {len(differ)} differ" + "".join(f"\n  {name}" for name in differ))
    return 1 if differ else 0


def started(command: list[str]) -> Process:
    """The controller."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


@contextmanager
def here(folder: Path) -> Iterator[dict[str, Loss]]:
    """This machine."""
    yield {"controller and workers": kill_tree}


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, Loss]]:
    """SLURM, on two nodes of one core."""
    with two_nodes(folder / "slurm") as nodes:

        def node(process: Process, study: Path) -> None:
            for state in ("down", "resume"):
                nodes.ask("scontrol", "update", "nodename=n2", f"state={state}", "reason=lost")

        yield {"controller": kill_controller, "worker": kill_worker, "node": node}


@contextmanager
def on_ray(folder: Path) -> Iterator[dict[str, Loss]]:
    """Ray, on two nodes of one core."""
    with two_ray_nodes() as (cluster, nodes):

        def node(process: Process, study: Path) -> None:
            cluster.remove_node(nodes.pop(0))
            nodes.append(cluster.add_node(num_cpus=1))

        yield {"controller": kill_controller, "worker": kill_worker, "node": node}


@contextmanager
def two_ray_nodes() -> Iterator[tuple[Any, list[Any]]]:
    """A cluster of Ray and its two nodes; commands find it by the variable RAY_ADDRESS."""
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    os.environ |= {"RAY_ADDRESS": cluster.address, "RAY_worker_niceness": "0"}
    try:
        yield cluster, [cluster.add_node(num_cpus=1) for _ in range(2)]
    finally:
        del os.environ["RAY_ADDRESS"]
        cluster.shutdown()


SITES = {"local": here, "slurm": slurm, "ray": on_ray}


def kill_controller(process: Process, study: Path) -> None:
    """SIGKILL to the one that watches; what works goes on as the executor lets it."""
    process.kill()
    process.wait()


def kill_worker(process: Process, study: Path) -> None:
    """SIGKILL to one that is at work, if there is one."""
    for progress in sorted(study.glob(f"*/{PROGRESS}")):
        pid = read_progress(progress.parent).get("pid", 0)
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"grokscope" in command or b"ray::" in command:
                os.kill(pid, signal.SIGKILL)
                return


def kill_tree(process: Process, study: Path) -> None:
    """SIGKILL to the workers and to the one that started them."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    for pid in [process.pid, *workers]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def last_step(metrics: Path) -> str:
    """Step of the last metrics line, as text."""
    lines = metrics.read_text().splitlines()
    return lines[-1].split(",")[0] if lines else "nothing yet"


if __name__ == "__main__":
    sys.exit(main())
