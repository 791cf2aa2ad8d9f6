"""What a directory that was trained in can be asked, whoever trained: a run, or a transfer of one."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from grokscope.errors import InputError
from grokscope.runs.directory import TRACES, standing
from grokscope.runs.spec import RunSpec
from grokscope.runs.transfer_spec import TransferRunSpec

if TYPE_CHECKING:
    import polars as pl
    import xarray as xr

S = TypeVar("S", RunSpec, TransferRunSpec)


class Trained(Generic[S]):
    """Nothing is read before it is asked for, and nothing is ever written.

    Attributes:
        directory: where it is kept.
        spec: everything it depends on.
    """

    def __init__(self, directory: Path, spec: S) -> None:
        self.directory = directory
        self.spec: S = spec

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.directory})"

    @property
    def name(self) -> str:
        """The directory's, without the identity: `<regime>-s<seed>` of a run; of a transfer
        `<base run>-<moment>`, or `untrained-s<seed>`."""
        return self.directory.name.removesuffix(f"-{self.spec.identity}")

    @property
    def finished(self) -> bool:
        """Whether it has reached the number of steps its spec asks for."""
        now = standing(self.directory)
        return now.state == "done" and now.step >= self.spec.training.steps

    @cached_property
    def metrics(self) -> "pl.DataFrame":
        """One row per evaluated step: step, seconds, loss, lr, and `accuracy.<probe set>` columns."""
        from grokscope.training.metrics import read_metrics

        return read_metrics(self.directory)

    @cached_property
    def traces(self) -> "xr.Dataset":
        """The lens at every checkpoint, lazy: dims (step, probe, variable, stage, position)."""
        from grokscope.mechanics.read.traces import open_traces

        return open_traces(self.directory / TRACES)

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints that are kept with weights; a transfer's 0 is its base."""
        from grokscope.training.checkpoint import kept_steps

        return kept_steps(self.directory)

    def weights(self, step: int | None = None) -> Path:
        """The file of a checkpoint's averaged (EMA) weights.

        Args:
            step: one of `steps`; None: the last.

        Raises:
            InputError: there is no checkpoint of that step.
        """
        from grokscope.training.checkpoint import weights_path

        kept, kind = self.steps, type(self).__name__.lower()
        if not kept:
            raise InputError(f"{kind} {self.name} in {self.directory} has no checkpoint yet.")
        wanted = kept[-1] if step is None else step
        if wanted not in kept:
            available = ", ".join(map(str, kept))
            raise InputError(f"step = {wanted}: {kind} {self.name} keeps the checkpoints {available}.")
        return weights_path(self.directory, wanted)
