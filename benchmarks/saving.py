"""Checkpoints of a large model: how long saving and loading take, and for how long the loop stands still."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import take_part, take_time
from grokscope.models.build import build_model, count_parameters
from grokscope.models.spec import LoopedSpec
from grokscope.seeds import Seeds
from grokscope.training.checkpoint import (
    Progress,
    load_state,
    load_weights,
    model_tensors,
    save_state,
    save_weights,
)
from grokscope.training.data import TrainingData
from grokscope.training.keeper import Keeper
from grokscope.training.member import Member
from grokscope.training.optim import Optimizer
from grokscope.training.spec import TrainingSpec
from grokscope.world.format import FormatSpec

LARGE = LoopedSpec(width=768, heads=12, layers=7)
"""About 50 million parameters."""
SMALL = LoopedSpec(width=32, heads=2, layers=1)


def saving(quick: bool) -> list[dict[str, Any]]:
    """Seconds of each way to a file and back, and of what of it the loop waits for.

    The loop waits for the copy that is written beside the next steps; at a checkpoint (nothing evaluated, no
    observer) also for a look at the weights and for the line of metrics.
    """
    model = build_model(SMALL if quick else LARGE, 50 if quick else 2207, 5, FormatSpec(), 0, "float32")
    spec = TrainingSpec()
    state, rounds = Optimizer(spec, model).start(model), 2 if quick else 9
    with tempfile.TemporaryDirectory() as folder:
        directory, file = Path(folder), Path(folder) / "weights.safetensors"
        none = torch.zeros(0, 5, dtype=torch.int32)
        member = Member(model, TrainingData(none, none), {}, spec, Seeds(), directory)
        keeper = Keeper(member, state, torch.zeros(2, dtype=torch.float64), 1.0)

        def onwards(save: str) -> None:
            keeper.step += 1
            getattr(keeper, save)()

        stops = {
            "the loop stops for a state": take_part(lambda: onwards("save"), keeper.finish, rounds),
            "the loop stops for a checkpoint": take_part(
                lambda: onwards("checkpoint"), keeper.finish, rounds
            ),
        }
        keeper.close()
        calls = {
            "save weights": lambda: save_weights(file, model_tensors(model)),
            "load weights": lambda: load_weights(file, model),
            "save state": lambda: save_state(directory, Progress(1, 0.0), state, keeper.sums),
            "load state": lambda: load_state(directory, Progress(1, 0.0), state, keeper.sums),
        }
        timings = {**stops, **{name: take_time(call, max(2, rounds // 2)) for name, call in calls.items()}}
        weights = file.stat().st_size
        states = sum(path.stat().st_size for path in (directory / "resume").glob("*.safetensors"))
    sizes = {"weights": weights, "state": states, "checkpoint": weights + states}
    return [
        {
            "what": name,
            "parameters": count_parameters(model),
            "megabytes": sizes[name.split()[-1]] / 1e6,
            **timing.tree(),
        }
        for name, timing in timings.items()
    ]
