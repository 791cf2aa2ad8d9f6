"""Where metrics go beside `metrics.jsonl`: TensorBoard and W&B, each an optional extra."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from grokscope.errors import InputError


class Sink(Protocol):
    """Gets every metrics line."""

    def append(self, row: dict[str, Any]) -> None:
        """Take a metrics line (see `grokscope.training.metrics`)."""

    def forget_after(self, step: int) -> None:
        """The training goes on from `step`: lines of later steps will come again."""

    def close(self) -> None:
        """The training has ended, one way or another."""


class TensorBoardSink:
    """Scalars for TensorBoard in `RUN/tensorboard`.

    Raises:
        InputError: the extra is not installed.
    """

    def __init__(self, directory: Path) -> None:
        self._module = _extra("torch.utils.tensorboard", "tensorboard")
        self._folder = str(directory / "tensorboard")
        self._writer: Any = None

    def append(self, row: dict[str, Any]) -> None:
        """Write the line's scalars."""
        if self._writer is None:
            self._writer = self._module.SummaryWriter(self._folder)
        for name, value in scalars_of(row):
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def forget_after(self, step: int) -> None:
        """Tell TensorBoard to drop later scalars of earlier event files."""
        self._writer = self._module.SummaryWriter(self._folder, purge_step=step + 1)

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


class WandbSink:
    """Scalars for Weights & Biases; a run directory is one W&B run, which a resumed training goes on with.

    W&B keeps what it was sent: lines that come again after a resume are the same and are left out.

    Args:
        directory: the run directory; its last two names make the run's id.
        project: the W&B project.

    Raises:
        InputError: the extra is not installed.
    """

    def __init__(self, directory: Path, project: str = "grokscope") -> None:
        wandb = _extra("wandb", "wandb")
        place = directory.resolve()
        name = f"{place.parent.name}-{place.name}"
        self._run = wandb.init(project=project, id=name, name=name, dir=str(directory), resume="allow")

    def append(self, row: dict[str, Any]) -> None:
        """Send the line's scalars, unless they were sent before."""
        if row["step"] >= self._run.step:
            self._run.log(dict(scalars_of(row)), step=row["step"])

    def forget_after(self, step: int) -> None:
        """Nothing to do: see `append`."""

    def close(self) -> None:
        """End the W&B run."""
        self._run.finish()


SINKS = {"tensorboard": TensorBoardSink, "wandb": WandbSink}


def make_sinks(names: tuple[str, ...], directory: Path) -> list[Sink]:
    """Sinks by name.

    Raises:
        InputError: a name is unknown, or its extra is not installed.
    """
    for name in names:
        if name not in SINKS:
            raise InputError(f"sinks = {name!r}: must be one of {', '.join(SINKS)}.")
    return [SINKS[name](directory) for name in names]


def scalars_of(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a metrics line by name, but for the step; accuracies as `accuracy/<probe set>`."""
    yield from ((name, value) for name, value in row.items() if name not in ("step", "accuracy"))
    yield from ((f"accuracy/{name}", value) for name, value in row["accuracy"].items())


def _extra(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"sinks = {extra!r}: it is not installed here; install it with pip install 'grokscope[{extra}]'."
        ) from None
