"""A study that trains in a second, and has everything that a study has."""

from pathlib import Path
from typing import Any

from grokscope.runs.open import open_job
from grokscope.runs.plan import Planned, plan, prepare
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study


def tiny_study(**changes: Any) -> StudySpec:
    """The study with some fields, whole or in part, in place of its own."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "world": {"entities": 24, "relations": 12, "degree": 8, "ood_fraction": 0.1},
        "corpus": {"phi": 3.0, "iid_fraction": 0.05, "probe_cap": 40},
        "format": {"attention": "causal", "output": "answer"},
        "model": {"kind": "looped", "width": 16, "heads": 2, "layers": 1, "loops": 2},
        "training": {
            "steps": 8, "batch": 32, "warmup": 2, "loss": "softmax", "dtype": "float32", "compile": "off",
            "first_checkpoint": 4, "dense_every": 4, "optimizer": {"lr": 0.01},
        },
    }  # fmt: skip
    for field, value in changes.items():
        tree[field] = {**tree[field], **value} if isinstance(value, dict) and field in tree else value
    return StudySpec.parse(tree)


def trained(study: StudySpec, out: Path, *names: str) -> list[Path]:
    """Plan a study in a folder and make its runs, or those of some names; the runs' folders."""
    planned = begun(study, out, *names)
    for one in planned:
        do_here(one.directory, None)
    return [one.directory for one in planned]


def plan_runs(study: StudySpec, out: Path) -> list[Planned]:
    """What there is to do of a study's runs in a folder."""
    return plan(Study(out, study).run_jobs)


def begun(study: StudySpec, out: Path, *names: str) -> list[Planned]:
    """The same, of some names or all, with what a worker needs in their folders."""
    planned = [one for one in plan_runs(study, out) if not names or one.name in names]
    prepare(Study(out, study), planned)
    return planned


def do_here(directory: Path, threads: int | None = 1) -> None:
    """A worker's job in this process."""
    from grokscope.runs.worker import do_job

    do_job(open_job(directory), threads)
