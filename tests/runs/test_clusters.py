"""A study on a real SLURM and a real Ray, whose workers and nodes are killed: the bytes are those of this
machine, undisturbed."""

import io
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from grokscope import cli
from grokscope.runs import slurm
from grokscope.runs.directory import read_progress, standing
from grokscope.runs.execute import run_study
from grokscope.runs.files import load_study
from grokscope.runs.spec import StudySpec
from tests.runs.slurm_nodes import lacking, two_nodes
from tests.runs.test_execution import TINY, contents, run_here

pytestmark = pytest.mark.cluster
STEPS = 400
"""A run must outlast a few of Ray's reports, or it is over before it can be killed."""
SECONDS = 300.0
HEADS = ("batches", "study.json")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = yaml.safe_load(TINY)
    tree["training"] |= {"steps": STEPS, "resume_every": 10, "first_checkpoint": 200, "dense_every": 200}
    tree |= {"causal": {"enabled": False}, "execution": {"threads": 1}}
    path = tmp_path_factory.mktemp("file") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def study(file: Path) -> StudySpec:
    return load_study(str(file))


@pytest.fixture(scope="module")
def here(study: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The runs of this process, undisturbed."""
    out = tmp_path_factory.mktemp("here") / "tiny"
    run_here(study, out)
    return runs_of(out)


def runs_of(out: Path) -> dict[str, object]:
    """What is in the directories of runs."""
    return {name: what for name, what in contents(out).items() if not name.startswith(HEADS)}


def until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def run(out: Path, regime: str) -> Path:
    return next(out.glob(f"{regime}-s0-*"))


def kill(out: Path, regime: str) -> None:
    """Kill the worker of a run as soon as it has saved."""
    until(lambda: standing(run(out, regime)).step, f"{regime} is not at work")
    assert standing(run(out, regime)).state != "done", f"{regime} was over before it could be killed"
    with suppress(ProcessLookupError):
        os.kill(read_progress(run(out, regime))["pid"], signal.SIGKILL)


@pytest.mark.skipif(bool(lacking()), reason=lacking() or "SLURM")
def test_on_slurm_with_workers_nodes_and_the_scheduler_lost(
    study: StudySpec,
    file: Path,
    here: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The arrays are cut at the site's limit; a controller leaves, another one collects."""
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 1.0)
    monkeypatch.setattr(slurm, "RETRY_SECONDS", 5.0)
    out = tmp_path / "out"
    with two_nodes(tmp_path / "slurm") as nodes:
        assert cli.main(["run", str(file), "--out", str(out), "--on", "slurm", "--leave"]) == 0
        assert "the queue has the runs" in capsys.readouterr().out
        kill(out, "natural")
        nodes.ask("scontrol", "update", "nodename=n2", "state=down", "reason=test")
        until(lambda: "n2" not in nodes.ask("squeue", "--noheader", "--format=%N"), "n2 has a job")
        nodes.end("ctl")
        said = io.StringIO()

        def restore() -> None:
            until(
                lambda: "the scheduler does not answer" in said.getvalue(), "nothing is said of the scheduler"
            )
            nodes.begin("ctl")  # With it the node comes back: it is there, and says so.

        restoring = threading.Thread(target=restore)
        restoring.start()
        run_study(study, out, on="slurm", console=Console(file=said))
        restoring.join()
    assert re.search("^[12] runs are queued or at work from before$", said.getvalue(), re.MULTILINE)
    assert "the scheduler answers again" in said.getvalue()
    assert runs_of(out) == here


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'grokscope[ray]'")
def test_on_ray_with_a_worker_and_a_node_lost(
    study: StudySpec, here: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said = tmp_path / "out", io.StringIO()
    # Processes of Ray are nice by themselves; on a busy machine that means waiting.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    import ray
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        own = ray.get_runtime_context().get_node_id()

        def lose() -> None:
            until(lambda: list(out.glob("natural-s0-*")), "the study has not begun")
            kill(out, "natural")
            cluster.remove_node(next(node for node in nodes if node.node_id != own))

        losing = threading.Thread(target=lose)
        losing.start()
        run_study(study, out, on="ray", console=Console(file=said, width=200))
        losing.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
        signal.signal(signal.SIGTERM, handler)  # A node of Ray in this process sets its own.
    assert "its node was lost; goes on from step" in said.getvalue()
    assert runs_of(out) == here
