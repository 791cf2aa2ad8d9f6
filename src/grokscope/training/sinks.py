"""Where metrics go beside `metrics.jsonl`: TensorBoard, W&B, MLflow and trackio, each an optional extra."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from grokscope.errors import InputError
from grokscope.files import read_json, write_json


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
        name = _run_name(directory)
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


class MlflowSink:
    """Scalars for MLflow, in the experiment "grokscope", wherever MLflow is told to keep it.

    Which of its runs a directory is, and what it was sent, stands in `RUN/mlflow.json`.

    Raises:
        InputError: the extra is not installed.
    """

    def __init__(self, directory: Path, experiment: str = "grokscope") -> None:
        self._client = _extra("mlflow", "mlflow").MlflowClient()
        self._sent = _Sent(directory / "mlflow.json")
        if self._sent.run is None:
            found = self._client.get_experiment_by_name(experiment)
            number = self._client.create_experiment(experiment) if found is None else found.experiment_id
            made = self._client.create_run(number, run_name=_run_name(directory))
            self._sent.note(-1, made.info.run_id)

    def append(self, row: dict[str, Any]) -> None:
        """Send the line's scalars, unless they were sent before."""
        if row["step"] > self._sent.step:
            for name, value in scalars_of(row):
                self._client.log_metric(self._sent.run, name, value, step=row["step"])
            self._sent.note(row["step"], self._sent.run)

    def forget_after(self, step: int) -> None:
        """Nothing to do: lines that come again are the same, and are left out."""

    def close(self) -> None:
        """End the MLflow run."""
        self._client.set_terminated(self._sent.run)


class TrackioSink:
    """Scalars for trackio, which keeps them on this machine; what it was sent stands in `RUN/trackio.json`.

    Raises:
        InputError: the extra is not installed.
    """

    def __init__(self, directory: Path, project: str = "grokscope") -> None:
        trackio = _extra("trackio", "trackio")
        self._sent = _Sent(directory / "trackio.json")
        name = self._sent.run or _run_name(directory)
        self._run = trackio.init(project=project, name=name, resume="allow")
        self._sent.note(self._sent.step, name)

    def append(self, row: dict[str, Any]) -> None:
        """Send the line's scalars, unless they were sent before."""
        if row["step"] > self._sent.step:
            self._run.log(dict(scalars_of(row)), step=row["step"])
            self._sent.note(row["step"], self._sent.run)

    def forget_after(self, step: int) -> None:
        """Nothing to do: lines that come again are the same, and are left out."""

    def close(self) -> None:
        """End the trackio run."""
        self._run.finish()


class _Sent:
    """What a run directory has sent to a place that keeps everything: its run there, and the last step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        tree = read_json(path, "record of a sink") if path.exists() else {}
        if not isinstance(tree, dict) or not isinstance(tree.get("step", -1), int):
            raise InputError(f"the record of a sink at {path} is damaged: remove it to send all again.")
        self.run: str | None = None if tree.get("run") is None else str(tree["run"])
        self.step: int = tree.get("step", -1)

    def note(self, step: int, run: str | None) -> None:
        self.step, self.run = step, run
        write_json(self._path, {"run": run, "step": step})


def _run_name(directory: Path) -> str:
    place = directory.resolve()
    return f"{place.parent.name}-{place.name}"


SINKS = {"tensorboard": TensorBoardSink, "wandb": WandbSink, "mlflow": MlflowSink, "trackio": TrackioSink}


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
