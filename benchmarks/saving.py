"""Checkpoints of a large model: how long saving and loading take, and for how long the loop stands still."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import take_time
from grokscope.models.build import build_model, count_parameters
from grokscope.models.spec import LoopedSpec
from grokscope.training.checkpoint import Progress, load_state, load_weights, save_state, save_weights
from grokscope.training.optim import Optimizer
from grokscope.training.spec import TrainingSpec
from grokscope.world.format import FormatSpec

LARGE = LoopedSpec(width=768, heads=12, layers=7)
"""About 50 million parameters."""
SMALL = LoopedSpec(width=32, heads=2, layers=1)


def saving(quick: bool) -> list[dict[str, Any]]:
    """Seconds of each way to a file and back. What saves stands in the loop: its time is time not trained."""
    model = build_model(SMALL if quick else LARGE, 50 if quick else 2207, 5, FormatSpec(), 0)
    state, sums = Optimizer(TrainingSpec(), model).start(model), torch.zeros(2, dtype=torch.float64)
    rounds = 2 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        directory, file = Path(folder), Path(folder) / "weights.safetensors"
        calls = {
            "save weights": lambda: save_weights(file, model),
            "load weights": lambda: load_weights(file, model),
            "save state": lambda: save_state(directory, Progress(1, 0.0), state, sums),
            "load state": lambda: load_state(directory, Progress(1, 0.0), state, sums),
        }
        timings = {name: take_time(call, rounds) for name, call in calls.items()}
        sizes = {"weights": file.stat().st_size}
        sizes["state"] = sum(path.stat().st_size for path in (directory / "resume").glob("*.safetensors"))
    return [
        {
            "what": name,
            "parameters": count_parameters(model),
            "megabytes": sizes[name.split()[1]] / 1e6,
            **timing.tree(),
        }
        for name, timing in timings.items()
    ]
