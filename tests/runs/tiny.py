"""A study that trains in a second, and has everything that a study has."""

from pathlib import Path
from typing import Any

from grokscope.runs.plan import plan, prepare
from grokscope.runs.spec import StudySpec
from grokscope.runs.worker import do_run


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
    planned = [one for one in plan(study, out) if not names or one.name in names]
    prepare(study, out, planned)
    for one in planned:
        do_run(one.directory)
    return [one.directory for one in planned]
