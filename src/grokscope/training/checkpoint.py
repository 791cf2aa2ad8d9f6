"""What a run keeps on disk: EMA weights at checkpoints, and the one state it can be resumed from.

    RUN/checkpoints/step_00001000.safetensors    EMA weights and buffers of the model, float32
    RUN/resume/state.json                        the step, and so which file holds its tensors
    RUN/resume/step_00001000.safetensors         parameters, moments, EMA, running sums of the loss

The state changes hands when `state.json` is replaced, which is atomic: the tensors are written before it, and
those of the state before are deleted after it. Whenever the process dies, `state.json` names a complete file.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from grokscope.errors import InputError, quoted
from grokscope.files import exists, names_in, read_json, remove, write_json
from grokscope.models.protocol import Reasoner
from grokscope.models.tensor_file import copy_into, read_tensors, write_tensors
from grokscope.training.optim import TrainState

CHECKPOINTS, RESUME, STATE = "checkpoints", "resume", "state.json"
STEP_FILE = re.compile(r"step_(\d{8,})\.safetensors")


def weights_path(directory: Path, step: int) -> Path:
    """The file of a checkpoint's weights in a run directory."""
    return directory / CHECKPOINTS / f"step_{step:08d}.safetensors"


def kept_steps(directory: Path) -> list[int]:
    """Steps of the checkpoints in a run directory that have weights, ascending."""
    return sorted(_steps_in(directory / CHECKPOINTS))


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a model's parameters and buffers (see `model_tensors`), whole or not at all.

    Raises:
        OSError: the disk is full, or another error of the file system.
    """
    write_tensors(path, weights)


def load_weights(path: Path, model: Reasoner) -> None:
    """Read a checkpoint into a model of the same architecture.

    Raises:
        InputError: the file is missing, damaged, or of another architecture; the model is unchanged.
    """
    copy_into(model_tensors(model), read_tensors(path, "checkpoint"), path)


def model_tensors(model: Reasoner) -> dict[str, Tensor]:
    """Parameters (shared ones once) and the buffers that belong to the weights, as views."""
    kept = model.state_dict()
    buffers = {name: b for name, b in model.named_buffers() if name in kept}
    return {**{name: p.detach() for name, p in model.named_parameters()}, **buffers}


@dataclass(frozen=True)
class Progress:
    """What a run has to know of its past beside the tensors."""

    step: int
    """Updates made."""
    seconds: float
    """Clock time spent so far; the one thing here that differs between two runs of the same spec."""


def save_state(directory: Path, progress: Progress, state: TrainState, sums: Tensor) -> None:
    """Make this the state a run resumes from. If it fails, the one before is intact.

    Raises:
        OSError: the disk is full, or another error of the file system.
    """
    folder = directory / RESUME
    file = folder / f"step_{progress.step:08d}.safetensors"
    write_tensors(file, _flat(state, sums))
    write_json(folder / STATE, asdict(progress))
    _remove_others(folder, file.name)


def find_state(directory: Path) -> Progress | None:
    """The state a run directory can be resumed from; None: it has none.

    Raises:
        InputError: there is one that cannot be read.
    """
    path = directory / RESUME / STATE
    if not exists(path, "resume state"):
        return None
    tree = read_json(path, "resume state")
    try:
        return Progress(int(tree["step"]), float(tree["seconds"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f"the resume state at {path} is damaged: {quoted(tree)}.") from None


def load_state(directory: Path, progress: Progress, state: TrainState, sums: Tensor) -> None:
    """Read the tensors of a state into existing ones, and remove what a killed process left of others.

    Raises:
        InputError: the file is missing, damaged, or of another model.
    """
    folder = directory / RESUME
    file = folder / f"step_{progress.step:08d}.safetensors"
    copy_into(_flat(state, sums), read_tensors(file, "resume state"), file)
    _remove_others(folder, file.name)


def forget_weights(directory: Path, steps: Iterable[int]) -> None:
    """Delete the weights of these checkpoints, and drafts that a killed process left behind."""
    for step in steps:
        remove(weights_path(directory, step))
    for draft in (directory / CHECKPOINTS).glob(".step_*.part"):
        remove(draft)


def _flat(state: TrainState, sums: Tensor) -> dict[str, Tensor]:
    parts = state._asdict().items()
    return {"sums": sums, **{f"{part}/{name}": t for part, tensors in parts for name, t in tensors.items()}}


def _steps_in(folder: Path) -> list[int]:
    found = [STEP_FILE.fullmatch(name) for name in names_in(folder, "folder of checkpoints")]
    return [int(match.group(1)) for match in found if match]


def _remove_others(folder: Path, keep: str) -> None:
    for path in [*folder.glob("step_*.safetensors"), *folder.glob(".*.part")]:
        if path.name != keep:
            remove(path)
